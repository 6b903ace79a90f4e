//! The `LOCK.*` commands as data: what `COMMAND` and `COMMAND DOCS` tell of them, and so what redis-cli completes and
//! hints. A new command is one entry in [`LOCK_COMMANDS`].

/// A command that Lockgate adds.
#[derive(Debug)]
pub struct LockSpec {
    /// In lower case, as Redis writes names.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// The flags of `COMMAND`.
    pub flags: &'static [&'static str],
    /// ACL categories, with their `@`.
    pub categories: &'static [&'static str],
    /// Where its keys stand, and what happens to them.
    pub keys: Keys,
    /// One sentence.
    pub summary: &'static str,
    /// The version of Lockgate that brought it.
    pub since: &'static str,
    /// What a call costs.
    pub complexity: &'static str,
    /// In the order in which they are documented.
    pub arguments: &'static [Argument],
    /// What comes back.
    pub returns: &'static str,
}

/// Where the keys of a command stand, each with the flags of its key specification: what happens to them.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// It has none.
    None,
    /// The first argument is the only one.
    First(&'static [&'static str]),
    /// The first argument tells how many follow it.
    Counted(&'static [&'static str]),
    /// The first argument, and those of the command behind the second.
    FirstAndInner(&'static [&'static str]),
}

/// An argument as `COMMAND DOCS` tells it.
#[derive(Debug)]
pub struct Argument {
    /// Unique within the command.
    pub name: &'static str,
    /// What hints show in its place.
    pub display: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// The word before it (or, for [`Kind::Word`], the word itself).
    pub token: Option<&'static str>,
    /// May be left out.
    pub is_optional: bool,
    /// May be given several times, one behind the other.
    pub is_multiple: bool,
}

/// What may stand in an argument's place.
#[derive(Debug)]
pub enum Kind {
    /// The key.
    Key,
    /// Any bytes.
    Text,
    /// A number.
    Integer,
    /// Just its token.
    Word,
    /// A glob.
    Pattern,
    /// One of these.
    OneOf(&'static [Argument]),
    /// All of these, in this order.
    Block(&'static [Argument]),
}

/// The group under which `HELP @lock` lists them.
pub const GROUP: &str = "lock";

const fn plain(name: &'static str, kind: Kind) -> Argument {
    Argument { name, display: name, kind, token: None, is_optional: false, is_multiple: false }
}

const fn several(name: &'static str, kind: Kind) -> Argument {
    Argument { name, display: name, kind, token: None, is_optional: false, is_multiple: true }
}

const fn option(token: &'static str, name: &'static str, display: &'static str, kind: Kind) -> Argument {
    Argument { name, display, kind, token: Some(token), is_optional: true, is_multiple: false }
}

const fn word(name: &'static str, token: &'static str) -> Argument {
    Argument { name, display: name, kind: Kind::Word, token: Some(token), is_optional: false, is_multiple: false }
}

/// A subcommand with what follows it.
const fn block(name: &'static str, token: &'static str, arguments: &'static [Argument]) -> Argument {
    let kind = Kind::Block(arguments);
    Argument { name, display: name, kind, token: Some(token), is_optional: false, is_multiple: false }
}

const KEY: Argument = plain("key", Kind::Key);
const OWNER: Argument = plain("owner", Kind::Text);
const LEVELS: Kind =
    Kind::OneOf(&[word("low", "LOW"), word("normal", "NORMAL"), word("high", "HIGH"), word("critical", "CRITICAL")]);
const TTL: Argument = option("TTL", "ttl-ms", "ms", Kind::Integer);
const WAIT: Argument = option("WAIT", "wait-ms", "ms", Kind::Integer);
const PRIORITY: Argument = option("PRIORITY", "level", "level", LEVELS);
const META: Argument = option("META", "text", "text", Kind::Text);
const BINDING: Argument = Argument {
    name: "binding",
    display: "binding",
    kind: Kind::OneOf(&[word("keepalive", "KEEPALIVE"), word("ephemeral", "EPHEMERAL")]),
    token: None,
    is_optional: true,
    is_multiple: false,
};
const FENCE: Argument = option("FENCE", "fence", "fence", Kind::Integer);
const COUNT: Argument = option("COUNT", "count", "count", Kind::Integer);
const NUMKEYS: Argument = plain("numkeys", Kind::Integer);
const KEYS: Argument = several("key", Kind::Key);

// A script cannot call what Lockgate answers, and a transaction cannot wait for it.
const WAITING: &[&str] = &["write", "denyoom", "noscript", "blocking", "no_multi"];
const WAITING_FOR_MANY: &[&str] = &["write", "denyoom", "noscript", "blocking", "movablekeys", "no_multi"];
const CHANGING: &[&str] = &["write", "noscript", "fast", "no_multi"];
const CHANGING_MANY: &[&str] = &["write", "noscript", "movablekeys", "no_multi"];
const LOOKING: &[&str] = &["readonly", "noscript", "fast", "no_multi"];
const LOOKING_LONG: &[&str] = &["readonly", "noscript", "no_multi"];
const TELLING: &[&str] = &["noscript", "fast", "no_multi"];
const RULING: &[&str] = &["admin", "noscript", "no_multi"];
const RULING_AND_CHANGING: &[&str] = &["write", "admin", "noscript", "no_multi"];

const WAITS: &[&str] = &["@write", "@slow", "@blocking", "@lock"];
const CHANGES: &[&str] = &["@write", "@fast", "@lock"];
const CHANGES_SLOWLY: &[&str] = &["@write", "@slow", "@lock"];
const LOOKS: &[&str] = &["@read", "@fast", "@lock"];
const LOOKS_LONG: &[&str] = &["@read", "@slow", "@lock"];
const TELLS: &[&str] = &["@fast", "@lock"];
// Neither `+@lock` nor `+@write` is to give these away.
const RULES: &[&str] = &["@admin", "@dangerous"];
// What tells of everybody needs what `INFO` or `SLOWLOG` needs, and has their categories.
const LIKE_INFO: &[&str] = &["@slow", "@dangerous"];
const LIKE_SLOW_LOG: &[&str] = &["@admin", "@slow", "@dangerous"];

const UPDATE: &[&str] = &["RW", "access", "update"];
const DELETE: &[&str] = &["RW", "access", "delete"];
const ACCESS: &[&str] = &["RO", "access"];

const BY_WAITERS: &str = "O(log(N)) with N being the number of waiters for the key";
const BY_KEYS: &str = "O(N) with N being the number of keys";

/// All of them, in the order of the documentation.
pub const LOCK_COMMANDS: &[LockSpec] = &[
    LockSpec {
        name: "lock.acquire",
        arity: -3,
        flags: WAITING,
        categories: WAITS,
        keys: Keys::First(UPDATE),
        summary: "Takes the lock on a key, or waits in line for it. Safe to repeat.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER, TTL, WAIT, PRIORITY, META, BINDING],
        returns: "The fencing token, or nil if the lock was not granted in time.",
    },
    LockSpec {
        name: "lock.priority",
        arity: -4,
        flags: WAITING,
        categories: WAITS,
        keys: Keys::First(UPDATE),
        summary: "Takes the lock on a key at a priority level, or waits in line for it.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER, plain("level", LEVELS), TTL, WAIT, META, BINDING],
        returns: "The fencing token, or nil if the lock was not granted in time.",
    },
    LockSpec {
        name: "lock.release",
        arity: -3,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(DELETE),
        summary: "Releases a lock and hands it to the next in line.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER, FENCE],
        returns: "1 if released, 0 if another holds it (or another fence), -1 if nobody does.",
    },
    LockSpec {
        name: "lock.extend",
        arity: -4,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(UPDATE),
        summary: "Sets the remaining lease of a lock that its owner still holds.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: EXTEND,
        returns: "1, or 0 if the owner does not hold the lock.",
    },
    LockSpec {
        name: "lock.refresh",
        arity: -4,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(UPDATE),
        summary: "Another name for LOCK.EXTEND.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: EXTEND,
        returns: "1, or 0 if the owner does not hold the lock.",
    },
    LockSpec {
        name: "lock.guard",
        arity: -4,
        flags: CHANGING_MANY,
        categories: CHANGES_SLOWLY,
        keys: Keys::FirstAndInner(ACCESS),
        summary: "Runs a command only if the lock is still held under that fence, checked and run in one atomic step.",
        since: "0.1.0",
        complexity: "O(1) and that of the command",
        arguments: &[KEY, plain("fence", Kind::Integer), plain("command", Kind::Text), OPTIONAL_ARGS],
        returns: "The command's own reply, or a FENCED error.",
    },
    LockSpec {
        name: "lock.transfer",
        arity: -4,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(UPDATE),
        summary: "Gives a lock from its holder to another owner, past those in line.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: &[KEY, plain("from", Kind::Text), plain("to", Kind::Text), TTL, FENCE],
        returns: "The new fencing token, or nil if the first owner does not hold the lock.",
    },
    LockSpec {
        name: "lock.cancel",
        arity: 3,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(&["RW", "update"]),
        summary: "Ends an owner's wait for a key; the waiting call gets nil.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER],
        returns: "1 if that waiter left the line, else 0.",
    },
    LockSpec {
        name: "lock.promote",
        arity: 4,
        flags: CHANGING,
        categories: CHANGES,
        keys: Keys::First(&["RW", "update"]),
        summary: "Changes the priority level of a waiter.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER, plain("level", LEVELS)],
        returns: "The waiter's new place in the line, or nil if it does not wait.",
    },
    LockSpec {
        name: "lock.position",
        arity: 3,
        flags: LOOKING,
        categories: LOOKS,
        keys: Keys::First(ACCESS),
        summary: "Tells an owner's place in the line for a key.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER],
        returns: "0 for the holder, the place from 1 for a waiter, nil for neither.",
    },
    LockSpec {
        name: "lock.info",
        arity: 2,
        flags: LOOKING,
        categories: LOOKS,
        keys: Keys::First(ACCESS),
        summary: "Tells who holds a lock, for how long, and how many wait for it.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: &[KEY],
        returns: "A map: key, held, owner, fence, ttl, priority, acquired_at, meta, waiters, node; nil where unknown.",
    },
    LockSpec {
        name: "lock.queue",
        arity: -2,
        flags: LOOKING_LONG,
        categories: LOOKS_LONG,
        keys: Keys::First(ACCESS),
        summary: "Lists those who wait for a lock, in the order in which they will get it.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of waiters told",
        arguments: &[KEY, COUNT],
        returns: "An array of maps: owner, priority, waited, deadline, node.",
    },
    LockSpec {
        name: "lock.list",
        arity: -2,
        flags: LOOKING_LONG,
        categories: LOOKS_LONG,
        keys: Keys::None,
        summary: "Goes through all locks of the database, as SCAN does.",
        since: "0.1.0",
        complexity: "O(1) for every call, O(N) for all of them with N being the number of keys in the database",
        arguments: &[
            plain("cursor", Kind::Integer),
            option("MATCH", "pattern", "pattern", Kind::Pattern),
            COUNT,
            option("OWNER", "owner", "owner", Kind::Text),
        ],
        returns: "The next cursor, and an array of maps as LOCK.INFO has them.",
    },
    LockSpec {
        name: "lock.force",
        arity: 2,
        flags: RULING_AND_CHANGING,
        categories: RULES,
        keys: Keys::First(DELETE),
        summary: "Takes a lock from whoever holds it, and hands it to the next in line.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY],
        returns: "1 if a lock was taken from its holder, else 0.",
    },
    LockSpec {
        name: "lock.acquireall",
        arity: -4,
        flags: WAITING_FOR_MANY,
        categories: WAITS,
        keys: Keys::Counted(UPDATE),
        summary: "Takes the locks on several keys, all or none, or waits for them without holding any.",
        since: "0.1.0",
        complexity: BY_KEYS,
        arguments: &[NUMKEYS, KEYS, OWNER, TTL, WAIT, PRIORITY],
        returns: "The fencing tokens in the order of the keys, or nil if the locks were not granted in time.",
    },
    LockSpec {
        name: "lock.releaseall",
        arity: -4,
        flags: CHANGING_MANY,
        categories: CHANGES_SLOWLY,
        keys: Keys::Counted(DELETE),
        summary: "Releases several locks and hands each to the next in its line.",
        since: "0.1.0",
        complexity: BY_KEYS,
        arguments: &[NUMKEYS, KEYS, OWNER],
        returns: "How many of them were released.",
    },
    LockSpec {
        name: "lock.slowlog",
        arity: -2,
        flags: LOOKING,
        categories: LIKE_SLOW_LOG,
        keys: Keys::None,
        summary: "Tells the longest waits and holds of this node, or forgets them.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of entries told",
        arguments: &[plain(
            "subcommand",
            Kind::OneOf(&[block("get", "GET", &[COUNT_OF_ENTRIES]), word("reset", "RESET"), word("len", "LEN")]),
        )],
        returns: "GET: an array of maps: id, when, kind, ms, key, owner; LEN: their number; RESET: OK.",
    },
    LockSpec {
        name: "lock.graph",
        arity: 1,
        flags: LOOKING_LONG,
        categories: LIKE_SLOW_LOG,
        keys: Keys::None,
        summary: "Tells who waits for whom, on all nodes.",
        since: "0.1.0",
        complexity: "O(N log(N)) with N being the number of waiting calls",
        arguments: &[],
        returns: "An array of maps: waiter, resource, holder, waited.",
    },
    LockSpec {
        name: "lock.deadlocks",
        arity: -1,
        flags: LOOKING,
        categories: LIKE_SLOW_LOG,
        keys: Keys::None,
        summary: "Tells the deadlocks that were found, the newest first.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of deadlocks told",
        arguments: &[COUNT],
        returns: "An array of maps: when, cycle, victim, policy.",
    },
    LockSpec {
        name: "lock.stats",
        arity: 1,
        flags: LOOKING_LONG,
        categories: LIKE_INFO,
        keys: Keys::None,
        summary: "Tells what this node has granted and refused, and how long waits and holds took.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of keys that somebody waits for",
        arguments: &[],
        returns: "A map.",
    },
    LockSpec {
        name: "lock.health",
        arity: 1,
        flags: LOOKING,
        categories: LIKE_INFO,
        keys: Keys::None,
        summary: "Tells how the upstream is: a score from 0 to 100, and what it is short of.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: &[],
        returns: "A map.",
    },
    LockSpec {
        name: "lock.nodes",
        arity: 1,
        flags: LOOKING,
        categories: LIKE_INFO,
        keys: Keys::None,
        summary: "Tells which Lockgate nodes share this upstream, and which of them leads.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of nodes",
        arguments: &[],
        returns: "An array of maps, one for each node.",
    },
    LockSpec {
        name: "lock.cleanup",
        arity: 1,
        flags: RULING_AND_CHANGING,
        categories: RULES,
        keys: Keys::None,
        summary: "Removes what nodes that are no more have left behind.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of keys upstream",
        arguments: &[],
        returns: "How many leftovers were removed.",
    },
    LockSpec {
        name: "lock.config",
        arity: -3,
        flags: RULING,
        categories: RULES,
        keys: Keys::None,
        summary: "Tells Lockgate's configuration, or changes it while Lockgate runs.",
        since: "0.1.0",
        complexity: "O(N) with N being the number of settings",
        arguments: &[plain(
            "subcommand",
            Kind::OneOf(&[
                block("get", "GET", &[several("pattern", Kind::Pattern)]),
                block(
                    "set",
                    "SET",
                    &[several("data", Kind::Block(&[plain("name", Kind::Text), plain("value", Kind::Text)]))],
                ),
            ]),
        )],
        returns: "GET: a map of names and values; SET: OK.",
    },
    LockSpec {
        name: "lock.help",
        arity: 1,
        flags: TELLING,
        categories: TELLS,
        keys: Keys::None,
        summary: "Tells the LOCK commands.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: &[],
        returns: "An array of lines.",
    },
];

const EXTEND: &[Argument] = &[KEY, OWNER, plain("ttl", Kind::Integer), FENCE];
const OPTIONAL_ARGS: Argument =
    Argument { name: "arg", display: "arg", kind: Kind::Text, token: None, is_optional: true, is_multiple: true };
const COUNT_OF_ENTRIES: Argument = Argument {
    name: "count",
    display: "count",
    kind: Kind::Integer,
    token: None,
    is_optional: true,
    is_multiple: false,
};

/// The command of that name, in any case.
pub fn lock_command(name: &[u8]) -> Option<&'static LockSpec> {
    LOCK_COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

impl Keys {
    /// The place of the key that stands in the same place always; 0 where none does, as `COMMAND` writes it. It is also that of
    /// the last one, and the step.
    pub(super) fn fixed_place(self) -> i32 {
        match self {
            Keys::First(_) | Keys::FirstAndInner(_) => 1,
            Keys::None | Keys::Counted(_) => 0,
        }
    }
}

impl LockSpec {
    /// `false` if the command refuses that many arguments (the name included).
    pub fn takes(&self, args: usize) -> bool {
        super::table::arity_allows(self.arity, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fewest and the most words that an argument can be.
    fn words(argument: &Argument) -> (usize, usize) {
        let has_token = usize::from(argument.token.is_some());
        let (least, most) = match argument.kind {
            Kind::Word => (1, 1),
            Kind::OneOf(choices) => {
                let choices = choices.iter().map(words);
                let least = choices.clone().map(|(least, _)| least).min().unwrap_or(0) + has_token;
                (least, choices.map(|(_, most)| most).max().unwrap_or(0).saturating_add(has_token))
            }
            Kind::Block(arguments) => arguments
                .iter()
                .map(words)
                .fold((has_token, has_token), |sum, (least, most)| (sum.0 + least, sum.1.saturating_add(most))),
            _ => (1 + has_token, 1 + has_token),
        };
        (if argument.is_optional { 0 } else { least }, if argument.is_multiple { usize::MAX } else { most })
    }

    #[test]
    fn every_lock_command_is_fully_described() {
        for spec in LOCK_COMMANDS {
            assert!(spec.name.starts_with("lock.") && spec.name == spec.name.to_ascii_lowercase(), "{}", spec.name);
            assert!(spec.summary.ends_with('.') && spec.returns.ends_with('.'), "{}", spec.name);
            let all = Argument { is_multiple: false, ..plain("all", Kind::Block(spec.arguments)) };
            let (least, most) = words(&all);
            let arity = i32::try_from(least).expect("few arguments") + 1;
            assert_eq!(spec.arity, if most > least { -arity } else { arity }, "{}", spec.name);
            let key = spec.arguments.iter().position(|argument| matches!(argument.kind, Kind::Key));
            let expected = match spec.keys {
                Keys::None => None,
                Keys::First(_) | Keys::FirstAndInner(_) => Some(0),
                Keys::Counted(_) => Some(1),
            };
            assert_eq!(key, expected, "{}", spec.name);
            let are_movable = matches!(spec.keys, Keys::Counted(_) | Keys::FirstAndInner(_));
            assert_eq!(spec.flags.contains(&"movablekeys"), are_movable, "{}", spec.name);
        }
    }

    #[test]
    fn what_changes_something_is_a_write_what_looks_is_a_read_and_what_rules_is_neither() {
        for spec in LOCK_COMMANDS {
            let has = |flag: &str| spec.flags.contains(&flag);
            if ["lock.force", "lock.config", "lock.cleanup"].contains(&spec.name) {
                assert!(has("admin"), "{}", spec.name);
                assert_eq!(spec.categories, ["@admin", "@dangerous"], "{}", spec.name);
                continue;
            }
            assert!(!has("admin"), "{}", spec.name);
            if ["lock.stats", "lock.health", "lock.nodes"].contains(&spec.name) {
                assert_eq!(spec.categories, ["@slow", "@dangerous"], "{}", spec.name);
                continue;
            }
            if ["lock.slowlog", "lock.graph", "lock.deadlocks"].contains(&spec.name) {
                assert_eq!(spec.categories, ["@admin", "@slow", "@dangerous"], "{}", spec.name);
                continue;
            }
            assert!(!has("write") || !has("readonly"), "{}", spec.name);
            assert_eq!(has("write"), spec.categories.contains(&"@write"), "{}", spec.name);
            assert_eq!(has("readonly"), spec.categories.contains(&"@read"), "{}", spec.name);
            assert!(spec.categories.contains(&"@lock"), "{}", spec.name);
        }
    }

    #[test]
    fn a_lock_command_is_found_in_any_case() {
        assert_eq!(lock_command(b"Lock.Acquire").map(|spec| spec.name), Some("lock.acquire"));
        assert!(lock_command(b"lock.acquir").is_none());
    }
}
