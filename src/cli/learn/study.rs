//! Which keys are locks, by what clients do with them: they are set with NX and let go of again, and nobody reads them as data.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::line::Line;

/// Keys that are kept in mind; those beyond it are not looked at.
const KEYS_MAX: usize = 200_000;
/// A value of a lock is the name of its holder.
const VALUE_MAX: usize = 256;
/// Words in a name that say what it is for.
const TELLING: [&str; 6] = ["lock", "mutex", "semaphore", "leader", "lease", "exclusive"];

/// What happened to one key.
#[derive(Debug, Default)]
struct Key {
    /// Tries with NX.
    tries: u64,
    taken: u64,
    /// Times it was deleted after it was taken.
    freed: u64,
    /// Times it was deleted by somebody who had compared its value.
    compared: u64,
    /// Times it was read or written as data is.
    used: u64,
    reads: u64,
    values: HashSet<Vec<u8>>,
    has_long_values: bool,
    /// Until when it is taken, as far as can be told, in µs.
    held: Option<Held>,
    held_us: Vec<u64>,
    /// A script, or a transaction that watches it, has read it, and nothing else has happened since.
    was_read: bool,
    is_watched: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since_us: u64,
    until_us: u64,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Study {
    keys: HashMap<Vec<u8>, Key>,
    /// Keys that Lockgate's own scripts were about.
    queued: HashSet<Vec<u8>>,
    /// The script that runs is Lockgate's.
    is_ours: bool,
    pub lines: u64,
    first_us: Option<u64>,
    last_us: u64,
}

/// Keys whose names are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Family {
    /// What all their names match.
    pub pattern: String,
    /// One of them.
    pub example: Vec<u8>,
    pub keys: usize,
    pub taken: u64,
    /// Tries that found it taken: what polling costs.
    pub refused: u64,
    /// In µs.
    pub median_hold_us: Option<u64>,
    /// Lockgate queues for them already.
    pub is_queued: bool,
}

impl Study {
    /// Takes in a line.
    pub(super) fn saw(&mut self, line: &Line) {
        self.lines += 1;
        self.first_us.get_or_insert(line.at_us);
        self.last_us = self.last_us.max(line.at_us);
        if !line.by_script {
            let names_ours = |word: &Vec<u8>| word.starts_with(b"lockgate:fence") || word.starts_with(b"lockgate:q:");
            self.is_ours = line.words.iter().any(names_ours);
            if self.is_ours && line.words[0].starts_with(b"EVAL") {
                self.queued.extend(line.words.get(3).cloned());
            }
        }
        if self.is_ours {
            return;
        }
        let words: Vec<&[u8]> = line.words.iter().map(Vec::as_slice).collect();
        match words.as_slice() {
            [b"SET", key, value, options @ ..] => self.set(line, key, value, options),
            [b"SETNX", key, value] => self.tries(line, key, value, u64::MAX),
            [b"DEL" | b"UNLINK", keys @ ..] => keys.iter().for_each(|key| self.freed(line, key, false)),
            [b"DELEX", key, _, ..] | [b"DELIFEQ", key, _] => self.freed(line, key, true),
            [b"GETDEL", key] => self.freed(line, key, false),
            [b"GET", key] => self.read(line, key),
            [b"WATCH", keys @ ..] => keys.iter().for_each(|key| self.watched(key)),
            [b"PEXPIRE" | b"EXPIRE" | b"PEXPIREAT" | b"EXPIREAT" | b"PTTL" | b"TTL" | b"EXISTS", ..] => {}
            [b"EVAL" | b"EVALSHA" | b"PUBLISH" | b"SUBSCRIBE" | b"PING" | b"CLIENT" | b"HELLO" | b"INFO", ..] => {}
            [b"MGET", keys @ ..] => keys.iter().for_each(|key| self.used(key)),
            [b"MSET", pairs @ ..] => pairs.iter().step_by(2).for_each(|key| self.used(key)),
            [_, key, ..] => self.used(key),
            _ => {}
        }
    }

    fn key(&mut self, name: &[u8]) -> Option<&mut Key> {
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(name) {
            return None;
        }
        Some(self.keys.entry(name.to_vec()).or_default())
    }

    fn set(&mut self, line: &Line, name: &[u8], value: &[u8], options: &[&[u8]]) {
        let has = |word: &[u8]| options.iter().any(|option| option.eq_ignore_ascii_case(word));
        let after = |word: &[u8]| {
            let at = options.iter().position(|option| option.eq_ignore_ascii_case(word))?;
            std::str::from_utf8(options.get(at + 1)?).ok()?.parse::<u64>().ok()
        };
        if has(b"NX") {
            let lease_us = after(b"PX").map(|ms| ms.saturating_mul(1000));
            let lease_us = lease_us.or_else(|| after(b"EX").map(|s| s.saturating_mul(1_000_000)));
            self.tries(line, name, value, lease_us.unwrap_or(u64::MAX));
        } else if !has(b"XX") && !has(b"IFEQ") {
            self.used(name);
        }
    }

    /// A try with NX. Whether it was granted does not stand in the line: it was if nobody is known to hold the key.
    fn tries(&mut self, line: &Line, name: &[u8], value: &[u8], lease_us: u64) {
        let Some(key) = self.key(name) else { return };
        key.tries += 1;
        key.was_read = false;
        key.has_long_values |= value.len() > VALUE_MAX;
        if key.held.is_some_and(|held| held.until_us > line.at_us) {
            return;
        }
        key.taken += 1;
        if key.values.len() < 1000 {
            key.values.insert(value.to_vec());
        }
        key.held = Some(Held { since_us: line.at_us, until_us: line.at_us.saturating_add(lease_us) });
    }

    /// Somebody deletes it. A script, or a transaction, that has read it before has compared it.
    fn freed(&mut self, line: &Line, name: &[u8], is_compared: bool) {
        let Some(key) = self.keys.get_mut(name) else { return };
        let was_read = std::mem::take(&mut key.was_read);
        let Some(held) = key.held.take() else { return };
        key.freed += 1;
        if is_compared || was_read {
            key.compared += 1;
            // That look was no use of data.
            key.reads -= u64::from(was_read);
        }
        if held.until_us > line.at_us {
            key.held_us.push(line.at_us.saturating_sub(held.since_us));
        }
    }

    fn read(&mut self, line: &Line, name: &[u8]) {
        if let Some(key) = self.key(name) {
            key.reads += 1;
            key.was_read = line.by_script || std::mem::take(&mut key.is_watched);
        }
    }

    fn watched(&mut self, name: &[u8]) {
        if let Some(key) = self.key(name) {
            key.is_watched = true;
        }
    }

    fn used(&mut self, name: &[u8]) {
        if let Some(key) = self.key(name) {
            key.used += 1;
        }
    }

    /// How long it was looked at, in µs.
    pub(super) fn length_us(&self) -> u64 {
        self.first_us.map_or(0, |first| self.last_us - first)
    }

    /// The families that are locks, those first for which clients poll most.
    pub(super) fn locks(&self) -> Vec<Family> {
        let mut families: BTreeMap<String, Vec<(&Vec<u8>, &Key)>> = BTreeMap::new();
        for (name, key) in &self.keys {
            families.entry(pattern(name)).or_default().push((name, key));
        }
        let mut found: Vec<Family> = families
            .into_iter()
            .filter(|(pattern, keys)| is_lock(pattern, keys.iter().map(|(_, key)| *key)))
            .map(|(pattern, keys)| self.family(pattern, &keys))
            .collect();
        let queued: HashSet<String> = self.queued.iter().map(|name| self::pattern(name)).collect();
        for pattern in queued
            .into_iter()
            .filter(|pattern| !found.iter().any(|family| family.pattern == *pattern))
            .collect::<Vec<_>>()
        {
            let names: Vec<&Vec<u8>> = self.queued.iter().filter(|name| self::pattern(name) == pattern).collect();
            found.push(Family {
                example: names.iter().min().map(|name| (*name).clone()).unwrap_or_default(),
                keys: names.len(),
                pattern,
                taken: 0,
                refused: 0,
                median_hold_us: None,
                is_queued: true,
            });
        }
        found.sort_by(|one, other| {
            (other.refused, other.taken, &one.pattern).cmp(&(one.refused, one.taken, &other.pattern))
        });
        found
    }

    fn family(&self, pattern: String, keys: &[(&Vec<u8>, &Key)]) -> Family {
        let mut held_us: Vec<u64> = keys.iter().flat_map(|(_, key)| key.held_us.iter().copied()).collect();
        held_us.sort_unstable();
        Family {
            pattern,
            example: keys.iter().map(|(name, _)| *name).min().cloned().unwrap_or_default(),
            keys: keys.len(),
            taken: keys.iter().map(|(_, key)| key.taken).sum(),
            refused: keys.iter().map(|(_, key)| key.tries - key.taken).sum(),
            median_hold_us: held_us.get(held_us.len() / 2).copied(),
            is_queued: keys.iter().any(|(name, _)| self.queued.contains(*name)),
        }
    }
}

/// Keys are locks if they are taken with NX and given back, under names of holders, and are not used as data.
fn is_lock<'a>(pattern: &str, keys: impl Iterator<Item = &'a Key>) -> bool {
    let (mut tries, mut taken, mut freed, mut compared, mut used, mut reads, mut values) = (0, 0, 0, 0, 0, 0, 0);
    let mut has_long_values = false;
    for key in keys {
        tries += key.tries;
        taken += key.taken;
        freed += key.freed;
        compared += key.compared;
        used += key.used;
        reads += key.reads;
        values += key.values.len() as u64;
        has_long_values |= key.has_long_values;
    }
    if tries == 0 || used > 0 || has_long_values {
        return false;
    }
    let is_named_so = TELLING.iter().any(|word| pattern.to_ascii_lowercase().contains(word));
    // What is read more often than it is taken is data that is made once.
    if reads > taken && !is_named_so {
        return false;
    }
    // A holder each time; a set that marks something as done has one value for all.
    let has_holders = values * 2 > taken || values > 1;
    compared > 0
        || (freed > 0 && (has_holders || is_named_so))
        || (is_named_so && tries > taken)
        || (is_named_so && values > 0)
}

/// The name with `*` where a part of it is a number or an id.
fn pattern(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut out = String::new();
    let mut part = String::new();
    let flush = |part: &mut String, out: &mut String| {
        if is_id(part) {
            if !out.ends_with('*') {
                out.push('*');
            }
        } else {
            // What is special to a glob stands for itself.
            for letter in part.chars() {
                if "*?[]\\".contains(letter) {
                    out.push('\\');
                }
                out.push(letter);
            }
        }
        part.clear();
    };
    for letter in text.chars() {
        if letter.is_alphanumeric() {
            part.push(letter);
        } else {
            flush(&mut part, &mut out);
            // The parts of a UUID are one.
            if !(out.ends_with('*') && letter == '-') {
                if "*?[]\\".contains(letter) {
                    out.push('\\');
                }
                out.push(letter);
            }
        }
    }
    flush(&mut part, &mut out);
    out
}

/// It has a digit in it, or is a long row of hex digits.
fn is_id(part: &str) -> bool {
    !part.is_empty()
        && (part.bytes().any(|byte| byte.is_ascii_digit())
            || (part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(story: &str) -> Study {
        let mut study = Study::default();
        for (at, line) in story.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            let (from, words) = line.split_once(": ").expect("who: what");
            let words: String = words.split(' ').map(|word| format!(" \"{word}\"")).collect();
            let text = format!("{}.0 [0 {from}]{words}", at + 1);
            study.saw(&Line::parse(text.as_bytes()).expect("a line"));
        }
        study
    }

    fn patterns(story: &str) -> Vec<String> {
        study(story).locks().into_iter().map(|family| family.pattern).collect()
    }

    #[test]
    fn what_libraries_do_is_a_lock() {
        for story in [
            // redis-py, ioredis' redlock: compared in a script.
            "a: SET orders:17 x1 NX PX 5000\n a: EVALSHA f 1 orders:17 x1\n lua: GET orders:17\n lua: DEL orders:17",
            // Redis 8.4 and Valkey 9.
            "a: SET orders:17 x1 NX PX 5000\n a: DELEX orders:17 IFEQ x1",
            "a: SET orders:17 x1 NX PX 5000\n a: DELIFEQ orders:17 x1",
            // By hand.
            "a: SETNX orders:17 host1\n b: SETNX orders:17 host2\n a: DEL orders:17",
            "a: SET orders:17 x1 NX EX 5\n a: WATCH orders:17\n a: GET orders:17\n a: DEL orders:17",
        ] {
            assert_eq!(patterns(story), ["orders:*"], "{story}");
        }
        assert_eq!(
            patterns("a: SET cron:lock h1 NX EX 60\n b: SET cron:lock h2 NX EX 60"),
            ["cron:lock"],
            "it only expires"
        );
    }

    #[test]
    fn caches_and_marks_are_no_locks() {
        for story in [
            "a: SET page:1 html EX 60\n a: GET page:1\n a: DEL page:1",
            "a: SET page:1 html NX EX 60\n a: GET page:1\n b: GET page:1\n a: DEL page:1",
            "a: SET seen:8f3a 1 NX EX 86400\n a: SET seen:8f3b 1 NX EX 86400",
            "a: SETNX counter:1 0\n a: INCR counter:1\n a: DEL counter:1",
            "a: GET k\n a: DEL k",
        ] {
            assert_eq!(patterns(story), [""; 0], "{story}");
        }
    }

    #[test]
    fn polling_is_counted_and_so_is_how_long_it_is_held() {
        let story = "a: SET job:1:lock x NX PX 60000\n b: SET job:1:lock y NX PX 60000\n b: SET job:1:lock y NX PX 60000\n \
                     a: EVALSHA f 1 job:1:lock x\n lua: GET job:1:lock\n lua: DEL job:1:lock\n b: SET job:1:lock y NX PX 60000";
        let [family] = &study(story).locks()[..] else { panic!("one family") };
        assert_eq!((family.taken, family.refused, family.median_hold_us), (2, 2, Some(5_000_000)));
        assert!(!family.is_queued);
    }

    #[test]
    fn what_lockgate_queues_for_is_known_as_such() {
        let story = "a: EVALSHA f 3 job:1:lock lockgate:fence lockgate:q:job:1:lock w\n lua: SET job:1:lock w PX 5000";
        let [family] = &study(story).locks()[..] else { panic!("one family") };
        assert!(family.is_queued && family.pattern == "job:*:lock", "{family:?}");
    }

    #[test]
    fn names_that_differ_in_ids_are_one_family() {
        for (name, wanted) in [
            ("orders:17", "orders:*"),
            ("lock:6f1c0d6e-1111-4222-8333-94f5d0a1b2c3:x", "lock:*:x"),
            ("user_42.cart", "user_*.cart"),
            ("deploy", "deploy"),
            ("a[1]", "a\\[*\\]"),
        ] {
            assert_eq!(pattern(name.as_bytes()), wanted);
        }
    }
}
