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
    /// What happens to the key, which is the first argument: the flags of its key specification.
    pub key_use: &'static [&'static str],
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
    /// One of these.
    OneOf(&'static [Argument]),
}

/// The group under which `HELP @lock` lists them.
pub const GROUP: &str = "lock";

const fn plain(name: &'static str, kind: Kind) -> Argument {
    Argument { name, display: name, kind, token: None, is_optional: false }
}

const fn option(token: &'static str, name: &'static str, display: &'static str, kind: Kind) -> Argument {
    Argument { name, display, kind, token: Some(token), is_optional: true }
}

const fn word(name: &'static str, token: &'static str) -> Argument {
    Argument { name, display: name, kind: Kind::Word, token: Some(token), is_optional: false }
}

const KEY: Argument = plain("key", Kind::Key);
const OWNER: Argument = plain("owner", Kind::Text);
const LEVELS: Kind =
    Kind::OneOf(&[word("low", "LOW"), word("normal", "NORMAL"), word("high", "HIGH"), word("critical", "CRITICAL")]);
const TTL: Argument = option("TTL", "ttl-ms", "ms", Kind::Integer);
const WAIT: Argument = option("WAIT", "wait-ms", "ms", Kind::Integer);
const META: Argument = option("META", "text", "text", Kind::Text);
const BINDING: Argument = Argument {
    name: "binding",
    display: "binding",
    kind: Kind::OneOf(&[word("keepalive", "KEEPALIVE"), word("ephemeral", "EPHEMERAL")]),
    token: None,
    is_optional: true,
};
const FENCE: Argument = option("FENCE", "fence", "fence", Kind::Integer);

// A script cannot call what Lockgate answers, and a transaction cannot wait for it.
const WAITING: &[&str] = &["write", "denyoom", "noscript", "blocking", "no_multi"];
const CHANGING: &[&str] = &["write", "noscript", "fast", "no_multi"];
const LOOKING: &[&str] = &["readonly", "noscript", "fast", "no_multi"];

const WAITS: &[&str] = &["@write", "@slow", "@blocking", "@lock"];
const CHANGES: &[&str] = &["@write", "@fast", "@lock"];
const LOOKS: &[&str] = &["@read", "@fast", "@lock"];

const UPDATE: &[&str] = &["RW", "access", "update"];
const DELETE: &[&str] = &["RW", "access", "delete"];
const ACCESS: &[&str] = &["RO", "access"];

const BY_WAITERS: &str = "O(log(N)) with N being the number of waiters for the key";

/// All of them, in the order of the documentation.
pub const LOCK_COMMANDS: &[LockSpec] = &[
    LockSpec {
        name: "lock.acquire",
        arity: -3,
        flags: WAITING,
        categories: WAITS,
        key_use: UPDATE,
        summary: "Takes the lock on a key, or waits in line for it. Safe to repeat.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER, TTL, WAIT, option("PRIORITY", "level", "level", LEVELS), META, BINDING],
        returns: "The fencing token, or nil if the lock was not granted in time.",
    },
    LockSpec {
        name: "lock.priority",
        arity: -4,
        flags: WAITING,
        categories: WAITS,
        key_use: UPDATE,
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
        key_use: DELETE,
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
        key_use: UPDATE,
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
        key_use: UPDATE,
        summary: "Another name for LOCK.EXTEND.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: EXTEND,
        returns: "1, or 0 if the owner does not hold the lock.",
    },
    LockSpec {
        name: "lock.info",
        arity: 2,
        flags: LOOKING,
        categories: LOOKS,
        key_use: ACCESS,
        summary: "Tells who holds a lock, for how long, and how many wait for it.",
        since: "0.1.0",
        complexity: "O(1)",
        arguments: &[KEY],
        returns: "A map: key, held, owner, fence, ttl, priority, acquired_at, meta, waiters, node; nil where unknown.",
    },
    LockSpec {
        name: "lock.position",
        arity: 3,
        flags: LOOKING,
        categories: LOOKS,
        key_use: ACCESS,
        summary: "Tells an owner's place in the line for a key.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER],
        returns: "0 for the holder, the place from 1 for a waiter, nil for neither.",
    },
    LockSpec {
        name: "lock.cancel",
        arity: 3,
        flags: CHANGING,
        categories: CHANGES,
        key_use: &["RW", "update"],
        summary: "Ends an owner's wait for a key; the waiting call gets nil.",
        since: "0.1.0",
        complexity: BY_WAITERS,
        arguments: &[KEY, OWNER],
        returns: "1 if that waiter left the line, else 0.",
    },
];

const EXTEND: &[Argument] = &[KEY, OWNER, plain("ttl", Kind::Integer), FENCE];

/// The command of that name, in any case.
pub fn lock_command(name: &[u8]) -> Option<&'static LockSpec> {
    LOCK_COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
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

    #[test]
    fn every_lock_command_is_fully_described() {
        for spec in LOCK_COMMANDS {
            assert!(spec.name.starts_with("lock.") && spec.name == spec.name.to_ascii_lowercase(), "{}", spec.name);
            assert!(spec.summary.ends_with('.') && spec.returns.ends_with('.'), "{}", spec.name);
            let required = spec.arguments.iter().filter(|argument| !argument.is_optional).count() + 1;
            let takes_options = spec.arguments.len() >= required;
            let arity = i32::try_from(required).expect("few arguments");
            assert_eq!(spec.arity, if takes_options { -arity } else { arity }, "{}", spec.name);
            assert!(matches!(spec.arguments[0].kind, Kind::Key), "{}", spec.name);
        }
    }

    #[test]
    fn what_changes_something_is_a_write_and_what_looks_is_a_read() {
        for spec in LOCK_COMMANDS {
            let writes = spec.flags.contains(&"write");
            assert_eq!(writes, !spec.flags.contains(&"readonly"), "{}", spec.name);
            assert_eq!(writes, spec.categories.contains(&"@write"), "{}", spec.name);
            assert_eq!(!writes, spec.categories.contains(&"@read"), "{}", spec.name);
            assert!(spec.categories.contains(&"@lock"), "{}", spec.name);
        }
    }

    #[test]
    fn a_lock_command_is_found_in_any_case() {
        assert_eq!(lock_command(b"Lock.Acquire").map(|spec| spec.name), Some("lock.acquire"));
        assert!(lock_command(b"lock.acquir").is_none());
    }
}
