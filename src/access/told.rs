//! A command as somebody told of it: an upstream, the built-in list, or Lockgate itself.

use super::keys::{Begin, Find, KeySpec, Touch};
use crate::commands::{Keys, LOCK_COMMANDS, LockSpec};

/// A command with its subcommands.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub name: Box<str>,
    pub arity: i32,
    /// Without their `@`.
    pub categories: Vec<String>,
    pub is_free: bool,
    pub is_module: bool,
    /// Where its keys stand a module knows, and nobody else.
    pub is_opaque: bool,
    pub specs: Vec<KeySpec>,
    pub subcommands: Vec<Told>,
    pub inner_at: Option<usize>,
}

/// Who goes with whom: the command of the upstream, and ours that needs what it needs.
pub(super) const FOLLOWERS: [(&str, &str); 9] = [
    ("info", "lock.stats"),
    ("info", "lock.health"),
    ("info", "lock.nodes"),
    ("slowlog", "lock.slowlog"),
    ("slowlog|get", "lock.slowlog|get"),
    ("slowlog|len", "lock.slowlog|len"),
    ("slowlog|reset", "lock.slowlog|reset"),
    ("slowlog|get", "lock.graph"),
    ("slowlog|get", "lock.deadlocks"),
];

/// Of ours those with words that rules can name like subcommands.
const WITH_WORDS: [(&str, &[&str]); 2] = [("lock.slowlog", &["get", "len", "reset"]), ("lock.config", &["get", "set"])];

/// The commands that Lockgate adds.
pub(super) fn of_lockgate() -> impl Iterator<Item = Told> {
    LOCK_COMMANDS.iter().map(|spec| {
        let words = WITH_WORDS.iter().find(|(name, _)| *name == spec.name).map_or(&[][..], |(_, words)| words);
        let one = |name: String| Told {
            name: name.into(),
            arity: spec.arity,
            categories: spec.categories.iter().map(|name| name.trim_start_matches('@').to_owned()).collect(),
            is_free: false,
            is_module: false,
            is_opaque: false,
            specs: specs(spec),
            subcommands: Vec::new(),
            inner_at: matches!(spec.keys, Keys::FirstAndInner(_)).then_some(3),
        };
        let subcommands = words.iter().map(|word| one(format!("{}|{word}", spec.name))).collect();
        Told { subcommands, ..one(spec.name.to_owned()) }
    })
}

fn specs(spec: &LockSpec) -> Vec<KeySpec> {
    let (flags, find) = match spec.keys {
        Keys::None => return Vec::new(),
        // The inner command's keys are found when that one is judged.
        Keys::First(flags) | Keys::FirstAndInner(flags) => (flags, Find::Range { last: 0, step: 1, limit: 0 }),
        Keys::Counted(flags) => (flags, Find::Count { index: 0, first: 1, step: 1 }),
    };
    let mut key = KeySpec {
        touch: Touch::NONE,
        is_not_key: false,
        is_incomplete: false,
        is_variable: false,
        begin: Begin::Index(1),
        find,
    };
    flags.iter().for_each(|flag| key.flag(flag.as_bytes()));
    vec![key]
}

impl KeySpec {
    /// Takes note of one of the flags that `COMMAND` tells of a specification.
    pub fn flag(&mut self, flag: &[u8]) {
        match flag {
            b"access" => self.touch = self.touch.and(Touch::READ),
            b"insert" | b"update" | b"delete" => self.touch = self.touch.and(Touch::WRITE),
            b"not_key" => self.is_not_key = true,
            b"incomplete" => self.is_incomplete = true,
            b"variable_flags" => self.is_variable = true,
            _ => {}
        }
    }
}
