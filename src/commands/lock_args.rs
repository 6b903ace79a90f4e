//! The arguments of `LOCK.*`, read once at the edge.
//!
//! ```text
//! LOCK.ACQUIRE  key owner [TTL ms] [WAIT ms] [PRIORITY level] [META text] [KEEPALIVE | EPHEMERAL]
//! LOCK.PRIORITY key owner level [TTL ms] [WAIT ms] [META text] [KEEPALIVE | EPHEMERAL]
//! LOCK.RELEASE  key owner [FENCE n]
//! LOCK.EXTEND   key owner ttl [FENCE n]          (also LOCK.REFRESH)
//! LOCK.INFO     key
//! LOCK.POSITION key owner
//! LOCK.CANCEL   key owner
//! ```

use std::sync::Arc;

use crate::domain::{Fence, Level, OwnerId};

/// Times and fences stay below 2^53, so that every client's numbers hold them.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Whether a lock is tied to the connection that took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bond {
    /// It ends with its lease.
    #[default]
    None,
    /// Its lease is renewed for as long as the connection lives.
    KeepAlive,
    /// And it is released as soon as the connection closes.
    Ephemeral,
}

/// What `LOCK.ACQUIRE` and `LOCK.PRIORITY` ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireArgs {
    /// The key, in the connection's database.
    pub key: Arc<[u8]>,
    /// Who wants it.
    pub owner: OwnerId,
    /// The lease, in ms; `None` for the default.
    pub ttl_ms: Option<u64>,
    /// How long to wait, in ms; 0 for an answer at once.
    pub wait_ms: u64,
    /// How urgently; `None` for what the rule for the key says, or normal.
    pub level: Option<Level>,
    /// What the owner notes for all who may read the key.
    pub meta: Arc<[u8]>,
    /// Whether the lock is tied to the connection.
    pub bond: Bond,
}

/// One `LOCK.*` command.
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
}

impl LockCommand {
    /// Reads a whole command, its name first. The error is a whole error line, without `-` and line end.
    pub fn parse(args: &[&[u8]]) -> Result<LockCommand, String> {
        let name = args.first().copied().unwrap_or_default().to_ascii_lowercase();
        let (least, most) = match name.as_slice() {
            b"lock.acquire" => (3, usize::MAX),
            b"lock.priority" => (4, usize::MAX),
            b"lock.release" => (3, usize::MAX),
            b"lock.extend" | b"lock.refresh" => (4, usize::MAX),
            b"lock.info" => (2, 2),
            b"lock.position" | b"lock.cancel" => (3, 3),
            _ => return Err(unknown_command(args)),
        };
        if args.len() < least || args.len() > most {
            return Err(format!("ERR wrong number of arguments for '{}' command", name.escape_ascii()));
        }
        let key: Arc<[u8]> = args[1].into();
        if name == b"lock.info" {
            return Ok(LockCommand::Info { key });
        }
        let owner = OwnerId::new(args[2]).ok_or("ERR an owner may hold any bytes but 0x1F")?;
        match name.as_slice() {
            b"lock.acquire" => acquire(key, owner, None, &args[3..]),
            b"lock.priority" => acquire(key, owner, Some(level(args[3])?), &args[4..]),
            b"lock.release" => Ok(LockCommand::Release { key, owner, fence: fence_option(&args[3..])? }),
            b"lock.extend" | b"lock.refresh" => {
                let fence = fence_option(&args[4..])?;
                Ok(LockCommand::Extend { key, owner, ttl_ms: ttl(args[3])?, fence })
            }
            b"lock.position" => Ok(LockCommand::Position { key, owner }),
            _ => Ok(LockCommand::Cancel { key, owner }),
        }
    }

    /// `true` where the command may stay unanswered for long, as `BLPOP` may.
    pub fn may_wait(&self) -> bool {
        matches!(self, LockCommand::Acquire(args) if args.wait_ms > 0)
    }

    /// The key it names.
    pub fn key(&self) -> &Arc<[u8]> {
        match self {
            LockCommand::Acquire(args) => &args.key,
            LockCommand::Release { key, .. }
            | LockCommand::Extend { key, .. }
            | LockCommand::Info { key }
            | LockCommand::Position { key, .. }
            | LockCommand::Cancel { key, .. } => key,
        }
    }
}

fn acquire(
    key: Arc<[u8]>,
    owner: OwnerId,
    named_level: Option<Level>,
    options: &[&[u8]],
) -> Result<LockCommand, String> {
    let (mut ttl_ms, mut wait_ms, mut level_option, mut meta, mut bond) = (None, None, None, None, None);
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().ok_or_else(syntax_error);
        match word.to_ascii_lowercase().as_slice() {
            b"ttl" => once(&mut ttl_ms, ttl(value()?))?,
            b"wait" => once(&mut wait_ms, wait(value()?))?,
            b"priority" if named_level.is_none() => once(&mut level_option, level(value()?))?,
            b"meta" => once(&mut meta, Ok(value()?))?,
            b"keepalive" => once(&mut bond, Ok(Bond::KeepAlive))?,
            b"ephemeral" => once(&mut bond, Ok(Bond::Ephemeral))?,
            _ => return Err(syntax_error()),
        }
    }
    Ok(LockCommand::Acquire(AcquireArgs {
        key,
        owner,
        ttl_ms,
        wait_ms: wait_ms.unwrap_or(0),
        level: named_level.or(level_option),
        meta: meta.unwrap_or_default().into(),
        bond: bond.unwrap_or_default(),
    }))
}

fn fence_option(options: &[&[u8]]) -> Result<Option<Fence>, String> {
    match options {
        [] => Ok(None),
        [word, value] if word.eq_ignore_ascii_case(b"fence") => number(value, 1)
            .map(|fence| Some(Fence(fence)))
            .ok_or_else(|| format!("ERR FENCE must be an integer from 1 to {NUMBER_MAX}")),
        _ => Err(syntax_error()),
    }
}

/// An option that stands twice is a mistake, whatever its values.
fn once<T>(option: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    if option.is_some() {
        return Err(syntax_error());
    }
    *option = Some(value?);
    Ok(())
}

fn ttl(text: &[u8]) -> Result<u64, String> {
    number(text, 1).ok_or_else(|| format!("ERR TTL must be an integer from 1 to {NUMBER_MAX}, in milliseconds"))
}

fn wait(text: &[u8]) -> Result<u64, String> {
    number(text, 0).ok_or_else(|| format!("ERR WAIT must be an integer from 0 to {NUMBER_MAX}, in milliseconds"))
}

fn level(text: &[u8]) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "ERR PRIORITY must be low, normal, high, critical or 0 to 3".into())
}

/// A decimal integer as Redis takes it: no sign, no spaces, no leading zeros.
fn number(text: &[u8], least: u64) -> Option<u64> {
    let is_plain = text == b"0" || (text.first()? != &b'0' && text.iter().all(u8::is_ascii_digit));
    let number = std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse::<u64>().ok()?;
    (least..=NUMBER_MAX).contains(&number).then_some(number)
}

fn syntax_error() -> String {
    "ERR syntax error".into()
}

/// Redis' own words, its limits on length included.
fn unknown_command(args: &[&[u8]]) -> String {
    const SHOWN_MAX: usize = 128;
    // As C's %s does, a NUL ends what is shown; line ends would break the reply.
    let shown = |bytes: &[u8], len: usize| -> String {
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(len);
        String::from_utf8_lossy(&bytes[..end]).replace(['\r', '\n'], " ")
    };
    let name = shown(args.first().copied().unwrap_or_default(), SHOWN_MAX);
    let mut beginning = String::new();
    for arg in args.iter().skip(1) {
        if beginning.len() >= SHOWN_MAX {
            break;
        }
        beginning += &format!("'{}' ", shown(arg, SHOWN_MAX - beginning.len()));
    }
    format!("ERR unknown command '{name}', with args beginning with: {beginning}")
}

#[cfg(test)]
mod tests {
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
        assert_eq!(&**command.key(), b"\x00{\xff");
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
}
