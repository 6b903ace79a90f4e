//! The longest waits and holds of this node, for `LOCK.SLOWLOG`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::LockKey;

/// Entries of each kind. Holds last longer than waits; counted together they would crowd them out.
const ENTRIES_MAX: usize = 64;
/// Longer keys and owners are cut to this many bytes.
const NAME_MAX: usize = 1024;

/// What took long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// A call waited for a lock, and got it or not.
    Wait,
    /// A lock was held, and released through this node.
    Hold,
}

impl Slow {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Slow::Wait => "wait",
            Slow::Hold => "hold",
        }
    }
}

/// One wait or hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Grows with every entry of this node.
    pub id: u64,
    /// When it ended, Unix time in ms.
    pub at_ms: u64,
    /// What it was.
    pub kind: Slow,
    /// How long it took, in ms.
    pub ms: u64,
    /// The lock.
    pub key: Vec<u8>,
    /// Who waited for it or held it.
    pub owner: Vec<u8>,
}

/// The longest of one kind.
#[derive(Debug, Default)]
struct Longest {
    /// Longest first.
    entries: Mutex<Vec<Entry>>,
    /// What takes no longer has no place; read without the lock, so that the many short ones cost nothing.
    bar_ms: AtomicU64,
}

/// The log.
#[derive(Debug, Default)]
pub struct SlowLog {
    longest: [Longest; 2],
    last_id: AtomicU64,
}

impl SlowLog {
    /// Something took so long; kept if it is among the longest.
    pub fn note(&self, kind: Slow, ms: u64, key: &LockKey, owner: &[u8], at_ms: u64) {
        let longest = &self.longest[kind as usize];
        if ms <= longest.bar_ms.load(Ordering::Relaxed) {
            return;
        }
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(NAME_MAX)].to_vec();
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Entry { id, at_ms, kind, ms, key: cut(&key.name), owner: cut(owner) };
        let mut entries = longest.open();
        let place = entries.partition_point(|known| known.ms >= ms);
        entries.insert(place, entry);
        entries.truncate(ENTRIES_MAX);
        if entries.len() == ENTRIES_MAX {
            longest.bar_ms.store(entries[ENTRIES_MAX - 1].ms, Ordering::Relaxed);
        }
    }

    /// The longest ones of either kind, longest first.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.longest.iter().flat_map(|longest| longest.open().clone()).collect();
        entries.sort_by_key(|entry| (std::cmp::Reverse(entry.ms), entry.id));
        entries
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.longest.iter().map(|longest| longest.open().len()).sum()
    }

    /// Forgets them.
    pub fn reset(&self) {
        for longest in &self.longest {
            let mut entries = longest.open();
            entries.clear();
            longest.bar_ms.store(0, Ordering::Relaxed);
        }
    }
}

impl Longest {
    fn open(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stay_and_the_shortest_make_room() {
        let log = SlowLog::default();
        let key = LockKey::new(0, b"k");
        for ms in (1..=200).chain([500, 3]) {
            log.note(Slow::Wait, ms, &key, b"ann", 7);
        }
        log.note(Slow::Hold, 2, &key, b"bob", 7);
        log.note(Slow::Hold, 0, &key, b"bob", 7);
        let entries = log.entries();
        assert_eq!((log.len(), entries.len()), (ENTRIES_MAX + 1, ENTRIES_MAX + 1));
        assert_eq!((entries[0].ms, entries[1].ms), (500, 200));
        assert_eq!(entries[ENTRIES_MAX - 1].ms, 200 - ENTRIES_MAX as u64 + 2);
        assert_eq!(entries[ENTRIES_MAX].kind, Slow::Hold, "holds have places of their own");
        log.reset();
        assert_eq!(log.len(), 0);
        log.note(Slow::Wait, 1, &key, b"ann", 7);
        assert_eq!(log.len(), 1);
    }
}
