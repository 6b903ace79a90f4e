//! Keys that specifications cannot tell: the servers look for them command by command, and so do we.

use super::arguments::leading_number;
use super::keys::{KeyRefs, Touch};

/// How the keys of a command are found without its specifications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByHand {
    /// An argument tells how many keys follow.
    Counted {
        store: Option<usize>,
        count: usize,
        first: usize,
    },
    Sort,
    SortRo,
    Migrate,
    GeoRadius,
    StreamRead,
    Set,
    BitField,
}

const fn counted(count: usize) -> ByHand {
    ByHand::Counted { store: None, count, first: count + 1 }
}

impl ByHand {
    /// That of the command of this name, in lower case.
    pub fn of(name: &str) -> Option<ByHand> {
        Some(match name {
            "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" | "blmpop" | "bzmpop" => counted(2),
            "sintercard" | "zunion" | "zinter" | "zdiff" | "zintercard" | "lmpop" | "zmpop" => counted(1),
            "zunionstore" | "zinterstore" | "zdiffstore" => ByHand::Counted { store: Some(1), count: 2, first: 3 },
            "sort" => ByHand::Sort,
            "sort_ro" => ByHand::SortRo,
            "migrate" => ByHand::Migrate,
            "georadius" | "georadiusbymember" => ByHand::GeoRadius,
            "xread" | "xreadgroup" => ByHand::StreamRead,
            "set" => ByHand::Set,
            "bitfield" => ByHand::BitField,
            _ => return None,
        })
    }

    pub fn find(self, args: &[&[u8]], keys: &mut KeyRefs) {
        match self {
            ByHand::Counted { store, count, first } => count_keys(args, store, count, first, keys),
            ByHand::Sort => sort(args, keys),
            ByHand::SortRo => keys.push(1, Touch::READ),
            ByHand::Migrate => migrate(args, keys),
            ByHand::GeoRadius => geo_radius(args, keys),
            ByHand::StreamRead => stream_read(args, keys),
            ByHand::Set => keys.push(1, if has_get(args) { Touch::BOTH } else { Touch::WRITE }),
            ByHand::BitField => keys.push(1, if only_gets(args) { Touch::READ } else { Touch::BOTH }),
        }
    }
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

fn count_keys(args: &[&[u8]], store: Option<usize>, count: usize, first: usize, keys: &mut KeyRefs) {
    let number = args.get(count).map_or(0, |arg| leading_number(arg));
    let room = args.len().saturating_sub(first);
    let Some(number) = usize::try_from(number).ok().filter(|number| (1..=room).contains(number)) else { return };
    for at in (first..first + number).chain(store) {
        keys.push(at, Touch::NONE);
    }
}

/// The key, and the one behind the last `STORE` that is an option and no argument of another one.
fn sort(args: &[&[u8]], keys: &mut KeyRefs) {
    keys.push(1, Touch::READ);
    let (mut at, mut store) = (2, None);
    while let Some(arg) = args.get(at) {
        if is(arg, "limit") {
            at += 2;
        } else if is(arg, "store") && at + 1 < args.len() {
            store = Some(at + 1);
        } else if is(arg, "get") || is(arg, "by") {
            at += 1;
        }
        at += 1;
    }
    if let Some(at) = store {
        keys.push(at, Touch::WRITE);
    }
}

fn migrate(args: &[&[u8]], keys: &mut KeyRefs) {
    let mut range = 3..4;
    let mut at = 6;
    while let Some(arg) = args.get(at) {
        if is(arg, "keys") {
            range = if args[3].is_empty() { at + 1..args.len() } else { 0..0 };
            break;
        }
        at += if is(arg, "auth") {
            2
        } else if is(arg, "auth2") {
            3
        } else {
            1
        };
    }
    for at in range {
        keys.push(at, Touch::BOTH);
    }
}

fn geo_radius(args: &[&[u8]], keys: &mut KeyRefs) {
    keys.push(1, Touch::READ);
    let (mut at, mut store) = (5, None);
    while at + 1 < args.len() {
        if is(args[at], "store") || is(args[at], "storedist") {
            at += 1;
            store = Some(at);
        }
        at += 1;
    }
    if let Some(at) = store {
        keys.push(at, Touch::WRITE);
    }
}

fn stream_read(args: &[&[u8]], keys: &mut KeyRefs) {
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        at += match arg.to_ascii_lowercase().as_slice() {
            b"block" | b"count" => 2,
            b"group" => 3,
            b"noack" => 1,
            b"streams" => break,
            _ => return,
        };
    }
    let rest = args.len().saturating_sub(at + 1);
    if rest.is_multiple_of(2) {
        for at in at + 1..at + 1 + rest / 2 {
            keys.push(at, Touch::NONE);
        }
    }
}

/// `SET … GET` gives out what was there.
fn has_get(args: &[&[u8]]) -> bool {
    args.iter().skip(3).any(|arg| is(arg, "get"))
}

/// A `BITFIELD` of `GET`s alone. With anything that is not understood it is taken to write.
fn only_gets(args: &[&[u8]]) -> bool {
    let mut at = 2;
    while let Some(arg) = args.get(at) {
        let left = args.len() - at - 1;
        if is(arg, "get") && left >= 2 {
            at += 3;
        } else if is(arg, "overflow") && left >= 1 {
            at += 2;
        } else {
            return false;
        }
    }
    true
}
