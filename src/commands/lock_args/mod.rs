//! The arguments of `LOCK.*`, read once at the edge.
//!
//! ```text
//! LOCK.ACQUIRE    key owner [TTL ms] [WAIT ms] [PRIORITY level] [META text] [KEEPALIVE | EPHEMERAL]
//! LOCK.PRIORITY   key owner level [TTL ms] [WAIT ms] [META text] [KEEPALIVE | EPHEMERAL]
//! LOCK.RELEASE    key owner [FENCE n]
//! LOCK.EXTEND     key owner ttl [FENCE n]          (also LOCK.REFRESH)
//! LOCK.GUARD      key fence command [arg …]
//! LOCK.TRANSFER   key from to [TTL ms] [FENCE n]
//! LOCK.CANCEL     key owner
//! LOCK.PROMOTE    key owner level
//! LOCK.POSITION   key owner
//! LOCK.INFO       key
//! LOCK.QUEUE      key [COUNT n]
//! LOCK.LIST       cursor [MATCH glob] [COUNT n] [OWNER owner]
//! LOCK.FORCE      key
//! LOCK.ACQUIREALL numkeys key… owner [TTL ms] [WAIT ms] [PRIORITY level]
//! LOCK.RELEASEALL numkeys key… owner
//! LOCK.SLOWLOG    GET [count] | RESET | LEN
//! LOCK.CONFIG     GET glob… | SET name value…
//! LOCK.DEADLOCKS  [COUNT n]
//! LOCK.GRAPH, LOCK.STATS, LOCK.HEALTH, LOCK.NODES, LOCK.CLEANUP, LOCK.HELP
//! ```

mod acquire;
mod looks;
mod many;
mod words;

use std::slice;
use std::sync::Arc;

pub use acquire::{AcquireArgs, Bond, TransferArgs};
pub use looks::{ConfigArgs, ListArgs, SlowLogArgs};
pub use many::{AcquireAllArgs, KEYS_MAX};

use super::lock_spec::lock_command;
use crate::domain::{Fence, Level, OwnerId};
use words::{count, fence, level, owner, single_option, ttl, unknown_command, wrong_number};

/// A `LOCK.*` command, by who answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockRequest {
    /// The lock engine does.
    Engine(LockCommand),
    /// `LOCK.GUARD`: the session, on a link of its own.
    Guard(GuardArgs),
    /// `LOCK.CONFIG`: it is about all of Lockgate.
    Config(ConfigArgs),
    /// `LOCK.HELP`
    Help,
}

impl LockRequest {
    /// Reads a whole command, its name first. The error is a whole error line, without `-` and line end.
    pub fn parse(args: &[&[u8]]) -> Result<LockRequest, String> {
        let (name, rest) = name_and_rest(args)?;
        match name {
            "lock.guard" => GuardArgs::parse(rest).map(LockRequest::Guard),
            "lock.config" => ConfigArgs::parse(rest).map(LockRequest::Config),
            "lock.help" => Ok(LockRequest::Help),
            _ => LockCommand::parse(args).map(LockRequest::Engine),
        }
    }

    /// The keys it names; those of a guarded command are not among them.
    pub fn keys(&self) -> &[Arc<[u8]>] {
        match self {
            LockRequest::Engine(command) => command.keys(),
            LockRequest::Guard(guard) => slice::from_ref(&guard.key),
            LockRequest::Config(_) | LockRequest::Help => &[],
        }
    }
}

/// What `LOCK.GUARD` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardArgs {
    /// The lock.
    pub key: Arc<[u8]>,
    /// The fence it has to be held under.
    pub fence: Fence,
    /// What is to run then, its name first.
    pub command: Vec<Vec<u8>>,
}

impl GuardArgs {
    fn parse(args: &[&[u8]]) -> Result<Self, String> {
        let command = args[2..].iter().map(|arg| arg.to_vec()).collect();
        Ok(GuardArgs { key: args[0].into(), fence: fence(args[1])?, command })
    }
}

/// A `LOCK.*` command that the lock engine answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockCommand {
    /// `LOCK.ACQUIRE` and `LOCK.PRIORITY`
    Acquire(AcquireArgs),
    /// `LOCK.RELEASE`
    Release {
        /// The key.
        key: Arc<[u8]>,
        /// Who lets go.
        owner: OwnerId,
        /// Only if he holds it under this fence.
        fence: Option<Fence>,
    },
    /// `LOCK.EXTEND` and `LOCK.REFRESH`
    Extend {
        /// The key.
        key: Arc<[u8]>,
        /// Who holds it.
        owner: OwnerId,
        /// The lease from now, in ms.
        ttl_ms: u64,
        /// Only if he holds it under this fence.
        fence: Option<Fence>,
    },
    /// `LOCK.TRANSFER`
    Transfer(TransferArgs),
    /// `LOCK.INFO`
    Info {
        /// The key.
        key: Arc<[u8]>,
    },
    /// `LOCK.POSITION`
    Position {
        /// The key.
        key: Arc<[u8]>,
        /// Whose place.
        owner: OwnerId,
    },
    /// `LOCK.CANCEL`
    Cancel {
        /// The key.
        key: Arc<[u8]>,
        /// Whose call.
        owner: OwnerId,
    },
    /// `LOCK.PROMOTE`
    Promote {
        /// The key.
        key: Arc<[u8]>,
        /// Whose call.
        owner: OwnerId,
        /// Its level from now on.
        level: Level,
    },
    /// `LOCK.QUEUE`
    Queue {
        /// The key.
        key: Arc<[u8]>,
        /// At most so many of the first; `None` for all.
        count: Option<u64>,
    },
    /// `LOCK.LIST`
    List(ListArgs),
    /// `LOCK.FORCE`
    Force {
        /// The key.
        key: Arc<[u8]>,
    },
    /// `LOCK.ACQUIREALL`
    AcquireAll(AcquireAllArgs),
    /// `LOCK.RELEASEALL`
    ReleaseAll {
        /// The keys, none of them twice.
        keys: Vec<Arc<[u8]>>,
        /// Who lets go.
        owner: OwnerId,
    },
    /// `LOCK.SLOWLOG`
    SlowLog(SlowLogArgs),
    /// `LOCK.STATS`
    Stats,
    /// `LOCK.NODES`
    Nodes,
    /// `LOCK.HEALTH`
    Health,
    /// `LOCK.CLEANUP`
    Cleanup,
    /// `LOCK.GRAPH`
    Graph,
    /// `LOCK.DEADLOCKS`
    Deadlocks {
        /// At most so many of the newest; `None` for all that are kept in mind.
        count: Option<u64>,
    },
}

impl LockCommand {
    /// Reads a whole command, its name first. The error is a whole error line, without `-` and line end.
    pub fn parse(args: &[&[u8]]) -> Result<LockCommand, String> {
        let (name, args_of) = name_and_rest(args)?;
        let key = || Arc::<[u8]>::from(args_of[0]);
        Ok(match name {
            "lock.acquire" => LockCommand::Acquire(AcquireArgs::parse(args_of[0], args_of[1], None, &args_of[2..])?),
            "lock.priority" => {
                let named_level = level(args_of[2])?;
                LockCommand::Acquire(AcquireArgs::parse(args_of[0], args_of[1], Some(named_level), &args_of[3..])?)
            }
            "lock.release" => {
                let fence = single_option("fence", &args_of[2..])?.map(fence).transpose()?;
                LockCommand::Release { key: key(), owner: owner(args_of[1])?, fence }
            }
            "lock.extend" | "lock.refresh" => {
                let fence = single_option("fence", &args_of[3..])?.map(fence).transpose()?;
                LockCommand::Extend { key: key(), owner: owner(args_of[1])?, ttl_ms: ttl(args_of[2])?, fence }
            }
            "lock.transfer" => LockCommand::Transfer(TransferArgs::parse(args_of)?),
            "lock.info" => LockCommand::Info { key: key() },
            "lock.position" => LockCommand::Position { key: key(), owner: owner(args_of[1])? },
            "lock.cancel" => LockCommand::Cancel { key: key(), owner: owner(args_of[1])? },
            "lock.promote" => LockCommand::Promote { key: key(), owner: owner(args_of[1])?, level: level(args_of[2])? },
            "lock.queue" => {
                let count = single_option("count", &args_of[1..])?.map(count).transpose()?;
                LockCommand::Queue { key: key(), count }
            }
            "lock.list" => LockCommand::List(ListArgs::parse(args_of)?),
            "lock.force" => LockCommand::Force { key: key() },
            "lock.acquireall" => LockCommand::AcquireAll(AcquireAllArgs::parse(args_of)?),
            "lock.releaseall" => {
                let (keys, owner) = many::release_all(args_of)?;
                LockCommand::ReleaseAll { keys, owner }
            }
            "lock.slowlog" => LockCommand::SlowLog(SlowLogArgs::parse(args_of)?),
            "lock.stats" => LockCommand::Stats,
            "lock.nodes" => LockCommand::Nodes,
            "lock.health" => LockCommand::Health,
            "lock.cleanup" => LockCommand::Cleanup,
            "lock.graph" => LockCommand::Graph,
            "lock.deadlocks" => {
                LockCommand::Deadlocks { count: single_option("count", args_of)?.map(count).transpose()? }
            }
            _ => return Err(unknown_command(args)),
        })
    }

    /// `true` where the command may stay unanswered for long, as `BLPOP` may.
    pub fn may_wait(&self) -> bool {
        match self {
            LockCommand::Acquire(args) => args.wait_ms > 0,
            LockCommand::AcquireAll(args) => args.wait_ms > 0,
            _ => false,
        }
    }

    /// `true` where somebody may hold a lock, or hold it for longer, that did not before, or loses it to another.
    pub fn gives_or_takes(&self) -> bool {
        matches!(
            self,
            LockCommand::Acquire(_)
                | LockCommand::AcquireAll(_)
                | LockCommand::Extend { .. }
                | LockCommand::Transfer(_)
                | LockCommand::Force { .. }
        )
    }

    /// `true` where Lockgate's own links to the upstream carry out a part of it later: it waits, or its lease is renewed.
    pub fn needs_service(&self) -> bool {
        self.may_wait() || matches!(self, LockCommand::Acquire(args) if args.bond != Bond::None)
    }

    /// The keys it names, none for a command about all of them.
    pub fn keys(&self) -> &[Arc<[u8]>] {
        match self {
            LockCommand::Acquire(args) => slice::from_ref(&args.key),
            LockCommand::Transfer(args) => slice::from_ref(&args.key),
            LockCommand::Release { key, .. }
            | LockCommand::Extend { key, .. }
            | LockCommand::Info { key }
            | LockCommand::Position { key, .. }
            | LockCommand::Cancel { key, .. }
            | LockCommand::Promote { key, .. }
            | LockCommand::Queue { key, .. }
            | LockCommand::Force { key } => slice::from_ref(key),
            LockCommand::AcquireAll(args) => &args.keys,
            LockCommand::ReleaseAll { keys, .. } => keys,
            LockCommand::List(_)
            | LockCommand::SlowLog(_)
            | LockCommand::Stats
            | LockCommand::Nodes
            | LockCommand::Health
            | LockCommand::Cleanup
            | LockCommand::Graph
            | LockCommand::Deadlocks { .. } => &[],
        }
    }
}

/// Longest names that a `LOCK.*` command may bring, in bytes; `[limits]` of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct NameLimits {
    /// Of an owner.
    pub owner: u64,
    /// Of META.
    pub meta: u64,
}

impl LockCommand {
    /// The error line for a command with an owner or META that is too long: the lock's value carries both, as do a waiter's place and
    /// every script that may grant to him.
    pub fn too_long(&self, limits: &NameLimits) -> Option<String> {
        let long = |what: &str, len: usize, limit: u64, key: &str| {
            (len as u64 > limit).then(|| {
                format!("ERR {what} has {len} bytes, and at most {limit} are allowed; shorten it, or raise {key}")
            })
        };
        let meta = match self {
            LockCommand::Acquire(args) => args.meta.len(),
            _ => 0,
        };
        let owners = self.owners().into_iter().flatten();
        let owner = owners.map(|owner| owner.as_bytes().len()).max().unwrap_or(0);
        long("the owner", owner, limits.owner, "limits.owner")
            .or_else(|| long("META", meta, limits.meta, "limits.meta"))
    }

    /// The owners it names.
    fn owners(&self) -> [Option<&OwnerId>; 2] {
        match self {
            LockCommand::Acquire(args) => [Some(&args.owner), None],
            LockCommand::AcquireAll(args) => [Some(&args.owner), None],
            LockCommand::Transfer(args) => [Some(&args.from), Some(&args.to)],
            LockCommand::Release { owner, .. }
            | LockCommand::ReleaseAll { owner, .. }
            | LockCommand::Extend { owner, .. }
            | LockCommand::Position { owner, .. }
            | LockCommand::Cancel { owner, .. }
            | LockCommand::Promote { owner, .. } => [Some(owner), None],
            LockCommand::Info { .. }
            | LockCommand::Queue { .. }
            | LockCommand::Force { .. }
            | LockCommand::List(_)
            | LockCommand::SlowLog(_)
            | LockCommand::Stats
            | LockCommand::Nodes
            | LockCommand::Health
            | LockCommand::Cleanup
            | LockCommand::Graph
            | LockCommand::Deadlocks { .. } => [None, None],
        }
    }
}

/// The command's name as the table has it, and what follows it, in a number that the command takes.
fn name_and_rest<'a, 'b>(args: &'b [&'a [u8]]) -> Result<(&'static str, &'b [&'a [u8]]), String> {
    let spec = args.first().and_then(|name| lock_command(name)).ok_or_else(|| unknown_command(args))?;
    if !spec.takes(args.len()) {
        return Err(wrong_number(spec.name.as_bytes()));
    }
    Ok((spec.name, &args[1..]))
}

#[cfg(test)]
mod tests {
    use super::words::NUMBER_MAX;
    use super::*;

    fn parse(line: &str) -> Result<LockCommand, String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        LockCommand::parse(&words)
    }

    fn acquire_args(line: &str) -> AcquireArgs {
        match parse(line) {
            Ok(LockCommand::Acquire(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_come_in_any_order_and_any_case() {
        let all = acquire_args("lock.Acquire k ann meta m wait 0 Priority HIGH ttl 9007199254740991 ephemeral");
        assert_eq!(
            (all.ttl_ms, all.wait_ms, all.level, all.bond),
            (Some(NUMBER_MAX), 0, Some(Level::High), Bond::Ephemeral)
        );
        assert_eq!(&*all.meta, b"m");
        assert_eq!(acquire_args("LOCK.PRIORITY k ann 3 WAIT 5").level, Some(Level::Critical));
        assert_eq!(acquire_args("LOCK.ACQUIRE k ann").level, None);
        assert_eq!(acquire_args("LOCK.ACQUIRE k ann").bond, Bond::None);
        assert!(parse("LOCK.ACQUIRE k ann WAIT 5").unwrap().may_wait());
        assert!(!parse("LOCK.ACQUIRE k ann WAIT 0").unwrap().may_wait());
    }

    #[test]
    fn a_repeated_or_unknown_option_is_a_syntax_error() {
        for line in [
            "LOCK.ACQUIRE k ann TTL 5 TTL 5",
            "LOCK.ACQUIRE k ann KEEPALIVE EPHEMERAL",
            "LOCK.ACQUIRE k ann KEEPALIVE KEEPALIVE",
            "LOCK.ACQUIRE k ann WAIT",
            "LOCK.ACQUIRE k ann NOW",
            "LOCK.PRIORITY k ann high PRIORITY high",
            "LOCK.RELEASE k ann FENCE",
            "LOCK.RELEASE k ann FENCE 1 FENCE 1",
            "LOCK.EXTEND k ann 5 TTL 5",
        ] {
            assert_eq!(parse(line), Err("ERR syntax error".into()), "{line}");
        }
    }

    #[test]
    fn a_number_is_plain_decimal_within_its_bounds() {
        for number in ["0", "-1", "+1", "01", "1.0", "1e3", "", "x", "9007199254740992", "18446744073709551617"] {
            let error = parse(&format!("LOCK.ACQUIRE k ann TTL {number}")).unwrap_err();
            assert_eq!(error, "ERR TTL must be an integer from 1 to 9007199254740991, in milliseconds", "{number}");
            assert!(parse(&format!("LOCK.EXTEND k ann {number}")).unwrap_err().starts_with("ERR TTL"), "{number}");
            assert!(
                parse(&format!("LOCK.RELEASE k ann FENCE {number}")).unwrap_err().starts_with("ERR FENCE"),
                "{number}"
            );
            if number != "0" {
                let error = parse(&format!("LOCK.ACQUIRE k ann WAIT {number}")).unwrap_err();
                assert_eq!(
                    error, "ERR WAIT must be an integer from 0 to 9007199254740991, in milliseconds",
                    "{number}"
                );
            }
        }
        assert!(parse("LOCK.PRIORITY k ann urgent").unwrap_err().starts_with("ERR PRIORITY"));
    }

    #[test]
    fn keys_and_owners_are_binary_but_for_the_separator() {
        let command = LockCommand::parse(&[b"LOCK.POSITION", b"\x00{\xff", b"\r\n"]).unwrap();
        assert_eq!(&*command.keys()[0], b"\x00{\xff");
        assert_eq!(
            LockCommand::parse(&[b"LOCK.RELEASE", b"", b"a\x1fb"]),
            Err("ERR an owner may hold any bytes but 0x1F".into())
        );
    }

    #[test]
    fn arity_and_unknown_commands_are_worded_as_redis_words_them() {
        for (line, name) in [
            ("LOCK.Acquire k", "lock.acquire"),
            ("LOCK.INFO", "lock.info"),
            ("LOCK.INFO a b", "lock.info"),
            ("LOCK.CANCEL a b c", "lock.cancel"),
            ("LOCK.REFRESH a b", "lock.refresh"),
        ] {
            assert_eq!(parse(line), Err(format!("ERR wrong number of arguments for '{name}' command")));
        }
        assert_eq!(
            parse("LOCK.nope a b"),
            Err("ERR unknown command 'LOCK.nope', with args beginning with: 'a' 'b' ".into())
        );
        let long = parse(&format!("LOCK.nope {} b", "x".repeat(500))).unwrap_err();
        assert_eq!(long.len(), "ERR unknown command 'LOCK.nope', with args beginning with: '' ".len() + 128);
    }

    #[test]
    fn the_other_commands_read_their_words() {
        let command = |line: &str| parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let LockCommand::Transfer(transfer) = command("lock.transfer k ann bob fence 7 ttl 5") else {
            panic!("a transfer")
        };
        assert_eq!((transfer.fence, transfer.ttl_ms), (Some(Fence(7)), Some(5)));
        let LockCommand::List(list) = command("LOCK.LIST 18446744073709551615 owner o match m* count 9") else {
            panic!("a list")
        };
        assert_eq!((list.cursor, list.count, list.owner.as_deref()), (u64::MAX, Some(9), Some(&b"o"[..])));
        let LockCommand::AcquireAll(all) = command("LOCK.ACQUIREALL 2 a b ann wait 5 priority 2") else {
            panic!("all")
        };
        assert_eq!((all.keys.len(), all.wait_ms, all.level), (2, 5, Some(Level::High)));
        assert!(command("LOCK.ACQUIREALL 1 a ann WAIT 5").may_wait());
        assert!(!command("LOCK.ACQUIREALL 1 a ann").may_wait());
        assert_eq!(command("LOCK.RELEASEALL 2 a b ann").keys().len(), 2);
        assert_eq!(command("LOCK.QUEUE k count 3"), LockCommand::Queue { key: b"k"[..].into(), count: Some(3) });
        assert_eq!(command("LOCK.SLOWLOG GET"), LockCommand::SlowLog(SlowLogArgs::Get(Some(10))));
        assert_eq!(command("lock.slowlog get -1"), LockCommand::SlowLog(SlowLogArgs::Get(None)));
        assert!(command("LOCK.STATS").keys().is_empty());
        for wrong in [
            "LOCK.TRANSFER k a b WAIT 5",
            "LOCK.QUEUE k COUNT",
            "LOCK.LIST 0 MATCH",
            "LOCK.ACQUIREALL 1 a ann META x",
            "LOCK.RELEASEALL 1 a ann b",
        ] {
            assert_eq!(parse(wrong), Err("ERR syntax error".into()), "{wrong}");
        }
    }

    #[test]
    fn an_empty_owner_is_refused_by_every_command_that_takes_one() {
        for line in [
            "LOCK.ACQUIRE k ",
            "LOCK.PRIORITY k  high",
            "LOCK.RELEASE k ",
            "LOCK.EXTEND k  5",
            "LOCK.REFRESH k  5",
            "LOCK.TRANSFER k  bob",
            "LOCK.TRANSFER k ann ",
            "LOCK.CANCEL k ",
            "LOCK.PROMOTE k  high",
            "LOCK.POSITION k ",
            "LOCK.ACQUIREALL 1 k ",
            "LOCK.RELEASEALL 1 k ",
        ] {
            assert!(parse(line).is_err_and(|error| error.starts_with("ERR the owner is empty")), "{line}");
        }
        // A lock of SET NX may hold nothing.
        assert!(parse("LOCK.LIST 0 OWNER ").is_ok());
    }

    #[test]
    fn long_names_are_refused_with_the_setting_to_raise() {
        let limits = NameLimits { owner: 3, meta: 4 };
        let says = |line: &str| parse(line).unwrap().too_long(&limits);
        for line in ["LOCK.ACQUIRE k ann META four", "LOCK.TRANSFER k ann bob", "LOCK.INFO longkey", "LOCK.STATS"] {
            assert_eq!(says(line), None, "{line}");
        }
        assert_eq!(
            says("LOCK.ACQUIRE k ann META fives"),
            Some("ERR META has 5 bytes, and at most 4 are allowed; shorten it, or raise limits.meta".into())
        );
        for line in [
            "LOCK.ACQUIRE k anna",
            "LOCK.PRIORITY k anna high",
            "LOCK.RELEASE k anna",
            "LOCK.EXTEND k anna 5",
            "LOCK.TRANSFER k anna bob",
            "LOCK.TRANSFER k ann bobs",
            "LOCK.CANCEL k anna",
            "LOCK.PROMOTE k anna high",
            "LOCK.POSITION k anna",
            "LOCK.ACQUIREALL 1 k anna",
            "LOCK.RELEASEALL 1 k anna",
        ] {
            assert!(says(line).is_some_and(|error| error.contains("limits.owner")), "{line}");
        }
    }

    #[test]
    fn what_the_engine_does_not_answer_is_told_apart() {
        let request = |line: &str| LockRequest::parse(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let Ok(LockRequest::Guard(guard)) = request("LOCK.GUARD k 7 SET a b") else { panic!("a guard") };
        assert_eq!((guard.fence, guard.command.len()), (Fence(7), 3));
        assert_eq!(request("lock.help"), Ok(LockRequest::Help));
        assert_eq!(
            request("LOCK.CONFIG SET Max_Wait 5s"),
            Ok(LockRequest::Config(ConfigArgs::Set(vec![("max_wait".into(), "5s".into())])))
        );
        assert!(matches!(request("LOCK.INFO k"), Ok(LockRequest::Engine(_))));
        for line in ["LOCK.GUARD k 7", "LOCK.CONFIG", "LOCK.HELP x"] {
            assert!(request(line).is_err_and(|error| error.starts_with("ERR wrong number of arguments")), "{line}");
        }
    }
}
