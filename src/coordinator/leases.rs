//! When the leases of locks end that this node has granted, while somebody listens to events: nothing else would notice the end of a
//! lock that nobody releases, renews or waits for.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Coordinator, holder};
use crate::domain::{FastMap, Fence, LockKey, Moment};
use crate::events::What;
use crate::store::Held;
use crate::store::value::Fields;
use crate::upstream::router::Router;

/// Most leases that are looked after; the ends of others are not told.
const LEASES_MAX: usize = 65_536;
/// The upstream removes a key this much after its time, at most, in ms.
const LATE_MS: u64 = 5;

/// A lock as it was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    key: LockKey,
    pub owner: Arc<[u8]>,
    pub fence: Option<Fence>,
    pub until: Moment,
}

/// In the order in which they end, one a lock.
#[derive(Debug, Default)]
struct Ends {
    by_end: BTreeMap<(Moment, LockKey), Lease>,
    by_key: FastMap<LockKey, Moment>,
}

impl Ends {
    fn remove(&mut self, key: &LockKey) -> Option<Lease> {
        let until = self.by_key.remove(key)?;
        self.by_end.remove(&(until, key.clone()))
    }
}

/// Those that are looked after.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ends: Mutex<Ends>,
    /// Rings when one comes before all others.
    is_sooner: Notify,
}

impl Leases {
    /// A lock was granted until then, if nothing else happens; returns what was known of the hold before.
    pub fn begins(&self, key: &LockKey, owner: &[u8], fence: Option<Fence>, until: Moment) -> Option<Lease> {
        self.add(Lease { key: key.clone(), owner: owner.into(), fence, until })
    }

    /// It was let go of, or given on; returns what was known of it.
    pub fn ends(&self, key: &LockKey) -> Option<Lease> {
        self.open().remove(key)
    }

    fn add(&self, lease: Lease) -> Option<Lease> {
        let mut ends = self.open();
        let before = ends.remove(&lease.key);
        if ends.by_end.len() < LEASES_MAX {
            let until = lease.until;
            ends.by_key.insert(lease.key.clone(), until);
            ends.by_end.insert((until, lease.key.clone()), lease);
            if ends.by_end.first_key_value().is_some_and(|((first, _), _)| *first == until) {
                self.is_sooner.notify_one();
            }
        }
        before
    }

    fn next_end(&self) -> Option<Moment> {
        self.open().by_end.first_key_value().map(|((until, _), _)| *until)
    }

    fn take_over(&self, now: Moment) -> Option<Lease> {
        let mut ends = self.open();
        let key =
            ends.by_end.first_key_value().filter(|((until, _), _)| *until <= now).map(|((_, key), _)| key.clone())?;
        ends.remove(&key)
    }

    fn clear(&self) {
        *self.open() = Ends::default();
    }

    fn open(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coordinator {
    /// Tells of leases that end, for as long as it is awaited.
    pub(super) async fn tell_of_expiry(self: Arc<Self>, router: Rc<Router>) {
        loop {
            match self.leases.next_end() {
                None => self.leases.is_sooner.notified().await,
                Some(until) => tokio::select! {
                    () = self.leases.is_sooner.notified() => {}
                    () = self.sleep_until(until.plus_ms(LATE_MS)) => {}
                },
            }
            if !self.events.is_heard() {
                self.leases.clear();
            }
            while let Some(lease) = self.leases.take_over(self.now()) {
                self.has_run_out(&router, lease).await;
            }
        }
    }

    /// The lease was to end by now, unless it was extended; the upstream knows.
    async fn has_run_out(&self, router: &Rc<Router>, lease: Lease) {
        let Lease { key, owner, fence, .. } = &lease;
        // Where it is not known, the upstream has other sorrows.
        let Ok(held) = self.store.look(&router.service(key.db), key, true).await else { return };
        let is_it = held.as_ref().is_some_and(|held| {
            let fields = Fields::read(&held.value);
            holder(&held.value) == &**owner && fields.map(|fields| fields.fence) == *fence
        });
        match held {
            Some(Held { left_ms, .. }) if is_it => {
                if let Some(left_ms) = left_ms {
                    let until = self.now().plus_ms(left_ms.max(1));
                    self.leases.add(Lease { until, ..lease });
                }
            }
            _ => self.happens(What::Expired, key, owner, *fence, self.now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_in_the_order_of_their_ends() {
        let leases = Leases::default();
        let at = |ms| Moment::default().plus_ms(ms);
        for (name, ms) in [(b"b", 20), (b"a", 10), (b"c", 20), (b"d", 15)] {
            assert_eq!(leases.begins(&LockKey::new(0, name), b"ann", None, at(ms)), None);
        }
        let before = leases.begins(&LockKey::new(0, b"b"), b"bob", None, at(30)).expect("it was known");
        assert_eq!((&*before.owner, before.until), (&b"ann"[..], at(20)));
        assert!(leases.ends(&LockKey::new(0, b"d")).is_some());
        assert!(leases.ends(&LockKey::new(0, b"d")).is_none());
        assert_eq!(leases.next_end(), Some(at(10)));
        assert!(leases.take_over(at(9)).is_none());
        let order: Vec<u8> = std::iter::from_fn(|| leases.take_over(at(30))).map(|lease| lease.key.name[0]).collect();
        assert_eq!(order, b"acb");
        assert_eq!(leases.next_end(), None);
    }
}
