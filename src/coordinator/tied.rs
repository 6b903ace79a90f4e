//! Which owners have locks tied to connections of this node, so that a release over one connection is not taken for a loss on
//! another. Costs nothing while no lock is tied.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::domain::{LockKey, OwnerId};

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
}

impl Tied {
    /// A lock was granted, and is tied to a connection.
    pub fn begins(&self, key: &LockKey, owner: &OwnerId) {
        self.count.fetch_add(1, Ordering::SeqCst);
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
}
