//! The locks that this node has granted and has no reason to believe over: since when they are held, for the statistics. A few
//! words a lock, and never the truth: that is upstream.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{FastMap, Fence, Hashing, LockKey, Moment};

/// Enough that workers seldom meet at one.
const SHARDS: usize = 32;
/// Most locks that are noted in one shard; 35 MB in all. What is granted beyond them is not measured.
const HOLDS_MAX: usize = 28_672;
/// A full shard is swept so often at most, in ms.
const SWEEP_EVERY_MS: u64 = 1000;
/// From here on a shard is swept when it has grown to twice what the last sweep left.
const SWEEP_FROM: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Hold {
    fence: Fence,
    since: Moment,
    until: Moment,
}

#[derive(Debug)]
struct Shard {
    /// By the key's hash: two keys of one hash would only spoil a figure.
    held: FastMap<u64, Hold>,
    sweep_at: usize,
    /// A full shard is not swept before then.
    rests_until: Moment,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { held: FastMap::default(), sweep_at: SWEEP_FROM, rests_until: Moment::default() }
    }
}

impl Shard {
    /// Forgets what has expired.
    fn sweep(&mut self, now: Moment) {
        self.held.retain(|_, hold| hold.until > now);
        self.sweep_at = (self.held.len() * 2).clamp(SWEEP_FROM, HOLDS_MAX);
        self.rests_until = now.plus_ms(SWEEP_EVERY_MS);
        self.held.shrink_to(self.sweep_at);
    }
}

/// What is known here of a hold that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// For how long it was held, in µs.
    Held {
        /// So long.
        us: u64,
    },
    /// One that should have been over by now.
    Over,
    /// It did not begin here, or was forgotten.
    Nothing,
}

/// All of them.
#[derive(Debug)]
pub struct Holds {
    shards: Vec<Mutex<Shard>>,
    hasher: Hashing,
}

impl Default for Holds {
    fn default() -> Self {
        Holds { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: Hashing::default() }
    }
}

impl Holds {
    /// Somebody got the lock, or asked for it again under the fence he has it by; `true` where a hold begins.
    pub fn granted(&self, key: &LockKey, fence: Fence, lease_ms: u64, now: Moment) -> bool {
        let (hash, mut shard) = self.shard(key);
        let until = now.plus_ms(lease_ms);
        if let Some(hold) = shard.held.get_mut(&hash) {
            let is_new = hold.fence != fence;
            let since = if is_new { now } else { hold.since };
            *hold = Hold { fence, since, until };
            return is_new;
        }
        let is_full = shard.held.len() >= HOLDS_MAX;
        if shard.held.len() >= shard.sweep_at && (!is_full || now >= shard.rests_until) {
            shard.sweep(now);
        }
        if shard.held.len() < HOLDS_MAX {
            shard.held.insert(hash, Hold { fence, since: now, until });
        }
        true
    }

    /// Its lease was set anew.
    pub fn extended(&self, key: &LockKey, lease_ms: u64, now: Moment) {
        let (hash, mut shard) = self.shard(key);
        if let Some(hold) = shard.held.get_mut(&hash) {
            hold.until = now.plus_ms(lease_ms);
        }
    }

    /// It is held no more; what was noted of it.
    pub fn ended(&self, key: &LockKey, now: Moment) -> Noted {
        let (hash, mut shard) = self.shard(key);
        match shard.held.remove(&hash) {
            Some(hold) if hold.until > now => Noted::Held { us: now.since_us(hold.since) },
            Some(_) => Noted::Over,
            None => Noted::Nothing,
        }
    }

    /// How many are held, as far as is known here.
    pub fn count(&self, now: Moment) -> usize {
        let count = |shard: &Mutex<Shard>| {
            let mut shard = open(shard);
            shard.sweep(now);
            shard.held.len()
        };
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, key: &LockKey) -> (u64, MutexGuard<'_, Shard>) {
        let hash = self.hasher.hash_one(key);
        (hash, open(&self.shards[hash as usize % SHARDS]))
    }
}

fn open(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_lasts_from_its_grant_to_its_end_or_its_leases() {
        let holds = Holds::default();
        let (key, other) = (LockKey::new(0, b"k"), LockKey::new(1, b"k"));
        let at = |ms: u64| Moment::default().plus_ms(ms);
        holds.granted(&key, Fence(1), 100, at(0));
        holds.granted(&key, Fence(1), 100, at(50));
        holds.granted(&other, Fence(2), 10, at(50));
        assert_eq!(holds.count(at(55)), 2);
        assert_eq!(holds.count(at(60)), 1, "the other has expired");
        assert_eq!(holds.ended(&key, at(140)), Noted::Held { us: 140_000 }, "a repeat does not begin a new hold");
        assert_eq!(holds.ended(&key, at(141)), Noted::Nothing);
        holds.granted(&key, Fence(3), 100, at(200));
        holds.extended(&key, 500, at(250));
        assert_eq!(holds.ended(&key, at(700)), Noted::Held { us: 500_000 });
        holds.granted(&key, Fence(4), 100, at(800));
        assert_eq!(holds.ended(&key, at(901)), Noted::Over, "its lease was over");
    }

    #[test]
    fn what_has_expired_makes_room() {
        let holds = Holds::default();
        for number in 0..200_000u64 {
            let key = LockKey::new(0, &number.to_le_bytes());
            holds.granted(&key, Fence(number), 1, Moment::default().plus_ms(number));
        }
        let kept: usize = holds.shards.iter().map(|shard| open(shard).held.len()).sum();
        assert!(kept <= SHARDS * (SWEEP_FROM + 1), "{kept}");
    }

    #[test]
    fn what_is_noted_has_a_bound_and_room_again_when_leases_end() {
        let holds = Holds::default();
        let most = SHARDS * HOLDS_MAX;
        let grant = |number: usize, now: Moment| {
            holds.granted(&LockKey::new(0, &number.to_le_bytes()), Fence(1), 10_000, now);
        };
        (0..most + most / 10).for_each(|number| grant(number, Moment::default()));
        let full = holds.count(Moment::default());
        assert!(full <= most && full > most * 9 / 10, "{full}");
        let later = Moment::default().plus_ms(20_000);
        (0..1000).for_each(|number| grant(most * 2 + number, later));
        assert_eq!(holds.count(later), 1000);
    }
}
