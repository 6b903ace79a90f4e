//! Which connection of this node took a lock: the value in the key does not tell. A few words a lock; how it ends is seldom seen here,
//! so that an entry counts only as long as the key is held as it was then.

use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use crate::domain::{FastMap, Hashing, LockKey, Moment};

/// Enough that workers seldom meet at one.
const SHARDS: usize = 16;
/// Most locks that are noted in one shard; about 7 MB in all. Of what is taken beyond them nobody knows who took it.
const TAKEN_MAX: usize = 8192;
/// A full shard is swept so often at most, in ms.
const SWEEP_EVERY_MS: u64 = 1000;

#[derive(Debug, Clone, Copy)]
struct Take {
    connection: u64,
    print: u64,
    until: Option<Moment>,
}

#[derive(Debug, Default)]
struct Shard {
    /// By the key's hash: of two keys of one hash the newer counts, and the print of its value tells.
    takes: FastMap<u64, Take>,
    rests_until: Moment,
}

/// All of them.
#[derive(Debug)]
pub struct Taken {
    shards: Vec<Mutex<Shard>>,
    hasher: Hashing,
}

impl Default for Taken {
    fn default() -> Self {
        Taken { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: Hashing::default() }
    }
}

impl Taken {
    /// `connection` took `key`, by a hold of that print, until then.
    pub fn took(&self, key: &LockKey, connection: u64, print: u64, until: Option<Moment>, now: Moment) {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.takes.len() >= TAKEN_MAX && !shard.takes.contains_key(&hash) {
            if now >= shard.rests_until {
                shard.rests_until = now.plus_ms(SWEEP_EVERY_MS);
                shard.takes.retain(|_, take| take.until.is_some_and(|until| until > now));
            }
            if shard.takes.len() >= TAKEN_MAX {
                return;
            }
        }
        shard.takes.insert(hash, Take { connection, print, until });
    }

    /// Who took it, if the hold has this print.
    pub fn taker(&self, key: &LockKey, print: u64) -> Option<u64> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        shard.takes.get(&hash).filter(|take| take.print == print).map(|take| take.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::wait::print;

    #[test]
    fn who_took_a_lock_is_known_as_long_as_it_holds_what_he_wrote() {
        let (taken, key) = (Taken::default(), LockKey::new(0, b"k"));
        let now = Moment::default();
        taken.took(&key, 7, print(b"v"), Some(now.plus_ms(10)), now);
        assert_eq!(taken.taker(&key, print(b"v")), Some(7));
        assert_eq!(taken.taker(&key, print(b"w")), None);
        assert_eq!(taken.taker(&LockKey::new(1, b"k"), print(b"v")), None);
        taken.took(&key, 8, print(b"w"), None, now);
        assert_eq!((taken.taker(&key, print(b"v")), taken.taker(&key, print(b"w"))), (None, Some(8)));
    }

    #[test]
    fn what_is_noted_has_a_bound_and_room_again_when_leases_end() {
        let taken = Taken::default();
        let most = SHARDS * TAKEN_MAX;
        let take = |number: usize, now: Moment| {
            let key = LockKey::new(0, &number.to_le_bytes());
            taken.took(&key, 1, print(b"v"), Some(now.plus_ms(10)), now);
            taken.taker(&key, print(b"v")).is_some()
        };
        let noted = (0..most + most / 5).filter(|number| take(*number, Moment::default())).count();
        assert!(noted <= most && noted > most * 9 / 10, "{noted}");
        assert!((2 * most..2 * most + 100).all(|number| take(number, Moment::default().plus_ms(2000))));
    }
}
