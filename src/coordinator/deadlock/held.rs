//! Which locks were granted to whom through this node, for the policy that counts them. Kept only where that is asked for. How most
//! locks end is not seen here: what is listed counts only after its key was read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{FastMap, LockKey, Moment, OwnerId};

/// Most locks that are listed; what is granted beyond them does not count.
const LOCKS_MAX: usize = 200_000;
/// A full list is swept so often at most, in ms.
const SWEEP_EVERY_MS: u64 = 1000;
/// Most locks of one owner that are told.
const TOLD_MAX: usize = 128;

#[derive(Debug, Default)]
struct Lists {
    by_owner: FastMap<OwnerId, FastMap<LockKey, Moment>>,
    locks: usize,
    /// A full list is not swept before then.
    rests_until: Moment,
}

/// All of them; `None` where nobody asks.
#[derive(Debug)]
pub struct HeldLocks(Option<Mutex<Lists>>);

impl HeldLocks {
    pub fn new(are_asked_for: bool) -> Self {
        HeldLocks(are_asked_for.then(Mutex::default))
    }

    /// `owner` has the lock, until then if nothing else is heard.
    pub fn granted(&self, key: &LockKey, owner: &OwnerId, until: Moment, now: Moment) {
        let Some(mut lists) = self.lists() else { return };
        if lists.locks >= LOCKS_MAX && now >= lists.rests_until {
            lists.rests_until = now.plus_ms(SWEEP_EVERY_MS);
            lists.by_owner.retain(|_, locks| {
                locks.retain(|_, until| *until > now);
                !locks.is_empty()
            });
            lists.locks = lists.by_owner.values().map(FastMap::len).sum();
        }
        if lists.locks >= LOCKS_MAX {
            return;
        }
        if lists.by_owner.entry(owner.clone()).or_default().insert(key.clone(), until).is_none() {
            lists.locks += 1;
        }
    }

    /// He has it no more.
    pub fn ended(&self, key: &LockKey, owner: &OwnerId) {
        let Some(mut lists) = self.lists() else { return };
        let Some(locks) = lists.by_owner.get_mut(owner) else { return };
        let was_there = locks.remove(key).is_some();
        if locks.is_empty() {
            lists.by_owner.remove(owner);
        }
        lists.locks -= usize::from(was_there);
    }

    /// What he may hold.
    pub fn of(&self, owner: &OwnerId) -> Vec<LockKey> {
        let Some(lists) = self.lists() else { return Vec::new() };
        lists.by_owner.get(owner).map(|locks| locks.keys().take(TOLD_MAX).cloned().collect()).unwrap_or_default()
    }

    fn lists(&self) -> Option<MutexGuard<'_, Lists>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_listed_by_owner_until_he_lets_go() {
        let (ann, key) = (OwnerId::new(b"ann").unwrap(), |name: &str| LockKey::new(0, name.as_bytes()));
        let held = HeldLocks::new(true);
        let now = Moment::default();
        for name in ["a", "b", "b"] {
            held.granted(&key(name), &ann, now.plus_ms(5), now);
        }
        assert_eq!(held.of(&ann).len(), 2);
        held.ended(&key("a"), &ann);
        held.ended(&key("a"), &ann);
        assert_eq!(held.of(&ann), [key("b")]);
        held.ended(&key("b"), &ann);
        assert!(held.of(&ann).is_empty() && held.lists().unwrap().by_owner.is_empty());
        let unasked = HeldLocks::new(false);
        unasked.granted(&key("a"), &ann, now, now);
        assert!(unasked.of(&ann).is_empty());
    }

    #[test]
    fn the_list_has_a_bound_and_room_again_when_leases_end() {
        let ann = OwnerId::new(b"ann").unwrap();
        let held = HeldLocks::new(true);
        let grant = |number: usize, now: Moment| {
            held.granted(&LockKey::new(0, &number.to_le_bytes()), &ann, now.plus_ms(1), now);
        };
        (0..LOCKS_MAX + 10).for_each(|number| grant(number, Moment::default()));
        assert_eq!(held.lists().unwrap().locks, LOCKS_MAX);
        assert_eq!(held.of(&ann).len(), TOLD_MAX);
        grant(1, Moment::default().plus_ms(2000));
        assert_eq!(held.lists().unwrap().locks, 1);
    }
}
