//! Which owners have locks tied to connections of this node, so that a release over one connection is not taken for a loss on
//! another. Costs nothing while no lock is tied.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::domain::{LockKey, OwnerId};

/// What a renewed lock costs beside its names, in bytes, about: the task that renews it, and two entries in tables.
const COST: u64 = 1 << 10;

/// What a lock of this key and owner costs while it is renewed, in bytes.
fn cost(key: &LockKey, owner: &OwnerId) -> u64 {
    // Both tables and the task have the names by reference but for the owner's; the value repeats the owner, and has the meta.
    COST + key.name.len() as u64 + 4 * owner.as_bytes().len() as u64
}

#[derive(Debug, Default)]
struct Tie {
    /// Connections that renew this owner's lock.
    connections: usize,
    /// The owner has let go of it since the last of them was tied.
    has_let_go: bool,
}

/// All ties of the process.
#[derive(Debug, Default)]
pub struct Tied {
    ties: DashMap<(LockKey, OwnerId), Tie>,
    count: AtomicUsize,
    bytes: AtomicU64,
    /// Beyond it no lock is tied that is not tied already.
    bytes_max: AtomicU64,
}

impl Tied {
    /// No ties; they are to keep `bytes_max` at most.
    pub fn new(bytes_max: u64) -> Tied {
        Tied { bytes_max: AtomicU64::new(bytes_max), ..Tied::default() }
    }

    /// They are to keep that much at most from now on. Those that are there stay.
    pub fn keeps_at_most(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Whether one more lock may be renewed. A repeated call for one that is needs no more room.
    pub fn has_room(&self, key: &LockKey, owner: &OwnerId) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed).saturating_add(cost(key, owner));
        bytes <= self.bytes_max.load(Ordering::Relaxed) || self.is_tied(key, owner)
    }

    /// A lock was granted, and is tied to a connection.
    pub fn begins(&self, key: &LockKey, owner: &OwnerId) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(cost(key, owner), Ordering::Relaxed);
        let mut tie = self.ties.entry((key.clone(), owner.clone())).or_default();
        tie.connections += 1;
        tie.has_let_go = false;
    }

    /// It is tied to that connection no more.
    pub fn ends(&self, key: &LockKey, owner: &OwnerId) {
        self.ties.remove_if_mut(&(key.clone(), owner.clone()), |_, tie| {
            tie.connections -= 1;
            tie.connections == 0
        });
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.bytes.fetch_sub(cost(key, owner), Ordering::Relaxed);
    }

    /// The owner has released the lock, or given it away.
    pub fn lets_go(&self, key: &LockKey, owner: &OwnerId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(mut tie) = self.ties.get_mut(&(key.clone(), owner.clone())) {
            tie.has_let_go = true;
        }
    }

    /// Whether a connection renews this owner's lock.
    pub fn is_tied(&self, key: &LockKey, owner: &OwnerId) -> bool {
        self.count() > 0 && self.ties.contains_key(&(key.clone(), owner.clone()))
    }

    /// Whether the owner let go of the lock himself.
    pub fn has_let_go(&self, key: &LockKey, owner: &OwnerId) -> bool {
        self.ties.get(&(key.clone(), owner.clone())).is_none_or(|tie| tie.has_let_go)
    }

    /// Locks tied to connections, over all workers.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_over_one_connection_is_known_to_the_other() {
        let (tied, key) = (Tied::default(), LockKey::new(0, b"k"));
        let (ann, bob) = (OwnerId::new(b"ann").unwrap(), OwnerId::new(b"bob").unwrap());
        tied.begins(&key, &ann);
        tied.begins(&key, &ann);
        tied.lets_go(&key, &bob);
        assert!(!tied.has_let_go(&key, &ann));
        tied.lets_go(&key, &ann);
        tied.ends(&key, &ann);
        assert!(tied.has_let_go(&key, &ann));
        tied.begins(&key, &ann);
        assert!(!tied.has_let_go(&key, &ann), "a new grant is a new tie");
        tied.ends(&key, &ann);
        tied.ends(&key, &ann);
        assert_eq!((tied.count(), tied.ties.len()), (0, 0));
    }

    #[test]
    fn one_more_has_room_while_all_together_keep_less_than_they_may() {
        let key = |name: &str| LockKey::new(0, name.as_bytes());
        let ann = OwnerId::new(b"ann").unwrap();
        let one = cost(&key("a"), &ann);
        let tied = Tied::new(2 * one);
        for name in ["a", "b"] {
            assert!(tied.has_room(&key(name), &ann));
            tied.begins(&key(name), &ann);
        }
        assert!(!tied.has_room(&key("c"), &ann));
        assert!(tied.has_room(&key("a"), &ann), "it is renewed already");
        tied.ends(&key("b"), &ann);
        assert!(tied.has_room(&key("c"), &ann));
        assert!(!tied.has_room(&key("long"), &ann));
        tied.ends(&key("a"), &ann);
        assert_eq!(tied.bytes.load(Ordering::Relaxed), 0);
    }
}
