//! A grant is told only when replicas have it, where the configuration asks for that (`wait_replicas`). What they do not have in time is
//! taken back by its whole value.

use std::sync::{Arc, Mutex, PoisonError};

use super::Coordinator;
use crate::domain::{FastMap, Fence, LockKey, Moment, PlainLease, Replicas};
use crate::locks::{Event, Form, Grant};
use crate::protocol::frame::{Value, decode};
use crate::store::value::Fields;
use crate::upstream::call::Caller;

/// A grant that its line knows nothing of any more is given back while the upstream is away for so long, in ms.
const GIVE_BACK_FOR_MS: u64 = 60_000;

/// Fences of which nobody has been told yet, and how many calls are about to be.
#[derive(Debug, Default)]
pub(super) struct Untold(Mutex<FastMap<LockKey, (Fence, usize)>>);

impl Untold {
    /// A call was granted `fence`; `true` where nobody has been told of it, be it that another call is about to be.
    fn begins(&self, key: &LockKey, fence: Fence, is_new: bool) -> bool {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match untold.get_mut(key) {
            Some((known, calls)) if *known == fence => *calls += 1,
            _ if is_new => drop(untold.insert(key.clone(), (fence, 1))),
            _ => return false,
        }
        true
    }

    /// Such a call is over; `true` where nobody has been told still.
    fn ends(&self, key: &LockKey, fence: Fence, is_told: bool) -> bool {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((known, calls)) = untold.get_mut(key).filter(|(known, _)| *known == fence) else { return false };
        let _ = known;
        *calls -= 1;
        if is_told || *calls == 0 {
            untold.remove(key);
        }
        !is_told
    }
}

/// A grant that is about to be told. Dropping it takes the grant back, unless somebody was told of its fence.
struct Pending<'a, C: Caller> {
    coordinator: &'a Arc<Coordinator>,
    key: &'a LockKey,
    grant: &'a Grant,
    form: &'a Form,
    service: &'a C,
    since: Moment,
    is_untold: bool,
}

impl<C: Caller> Pending<'_, C> {
    fn tells(mut self) {
        if self.is_untold {
            self.coordinator.untold.ends(self.key, self.grant.fence, true);
        }
        self.is_untold = false;
    }
}

impl<C: Caller> Drop for Pending<'_, C> {
    fn drop(&mut self) {
        if !self.is_untold {
            return;
        }
        let (coordinator, key, grant) = (self.coordinator, self.key, self.grant);
        if let Form::Plain { value, lease } = self.form {
            coordinator.takes_back_plain(key, value.clone(), *lease, self.since, self.service);
        } else if coordinator.untold.ends(key, grant.fence, false) {
            let lease_ms = self.form.lease_ms().unwrap_or(GIVE_BACK_FOR_MS);
            let event = Event::GivesBack { value: grant.value.clone(), lease_ms };
            let fed = coordinator.shards.feed_always(key, event, coordinator.now());
            coordinator.carry_out(fed, key, self.service);
        }
    }
}

impl Coordinator {
    /// Waits until replicas have `grant`, which a call on `key` is to be told of; `is_new` where nobody has been told of its fence. The error
    /// is a whole error line, and the grant has been taken back then, unless its owner had it before.
    pub(super) async fn confirmed_by_replicas<C: Caller>(
        self: &Arc<Self>,
        key: &LockKey,
        (grant, is_new): (&Grant, bool),
        form: &Form,
        service: &C,
    ) -> Result<(), String> {
        if self.settings.replicas == Replicas::NotAsked {
            return Ok(());
        }
        let is_plain = matches!(form, Form::Plain { .. });
        let is_untold = is_plain || self.untold.begins(key, grant.fence, is_new);
        let pending = Pending { coordinator: self, key, grant, form, service, since: self.now(), is_untold };
        match self.replicas_have(key, &grant.value, service).await {
            Ok(()) => {
                pending.tells();
                Ok(())
            }
            Err(why) => {
                let end = if is_untold { "it was taken back" } else { "the hold of before stands as it was" };
                Err(format!(
                    "NOREPLICAS '{key}' is not granted: {why}; {end}, look into INFO replication and wait_replicas"
                ))
            }
        }
    }

    /// The error says what is missing.
    pub(super) async fn replicas_have<C: Caller>(
        &self,
        key: &LockKey,
        value: &[u8],
        service: &C,
    ) -> Result<(), String> {
        let replicated = match service.replicated(&key.name, self.settings.replicas).await {
            Ok(Some(replicated)) => replicated,
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        if replicated.have_it < replicated.needed {
            let (have_it, needed) = (replicated.have_it, replicated.needed);
            return Err(format!("{have_it} of {needed} replicas had it within a second"));
        }
        match decode(&replicated.value) {
            Ok(Value::Bulk(now)) if is_same_hold(now, value) => Ok(()),
            // Freed meanwhile, or lost by a master that has begun anew or given way to another one.
            Ok(_) => Err("it is not in the key any more".into()),
            Err(_) => Err("the upstream's reply makes no sense".into()),
        }
    }

    /// What a `SET NX` wrote does not tell whose it is; that what stands there has no longer lease than that one can have left does, but
    /// for what was written within the same round trip.
    pub(super) fn takes_back_plain<C: Caller>(
        self: &Arc<Self>,
        key: &LockKey,
        value: Arc<[u8]>,
        lease: PlainLease,
        since: Moment,
        service: &C,
    ) {
        let (coordinator, key, service) = (self.clone(), key.clone(), service.clone());
        let errand = self.errands.begin();
        tokio::task::spawn_local(async move {
            let _errand = errand;
            let until = coordinator.now().plus_ms(GIVE_BACK_FOR_MS);
            let mut failures = 0;
            while coordinator.now() < until {
                let passed_ms = coordinator.now().since_us(since) / 1000;
                let left_max = match lease {
                    PlainLease::Forever => None,
                    PlainLease::Ms(ms) => Some(ms.saturating_sub(passed_ms)),
                    PlainLease::AtMs(_) => Some(u64::MAX >> 12),
                };
                if coordinator.store.undo(&service, &key, &value, left_max).await.is_ok() {
                    coordinator.hint(&key);
                    return;
                }
                failures += 1;
                coordinator.pause(failures, Some(until)).await;
            }
        });
    }
}

/// The same hold by the same owner: a call of his that came later writes its own name into the value.
fn is_same_hold(now: &[u8], granted: &[u8]) -> bool {
    now == granted
        || match (Fields::read(now), Fields::read(granted)) {
            (Some(now), Some(granted)) => holder_and_fence(&now) == holder_and_fence(&granted) && !now.is_claim,
            _ => false,
        }
}

fn holder_and_fence<'a>(fields: &Fields<'a>) -> (&'a [u8], Fence) {
    (fields.owner, fields.fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_untold_until_one_of_its_calls_is_told() {
        let (untold, key) = (Untold::default(), LockKey::new(0, b"k"));
        assert!(!untold.begins(&key, Fence(1), false), "its owner has had it before");
        assert!(untold.begins(&key, Fence(2), true));
        assert!(untold.begins(&key, Fence(2), false), "a repeat of what nobody was told of");
        assert!(untold.ends(&key, Fence(2), false), "the first comes to nothing: it is taken back");
        assert!(!untold.ends(&key, Fence(2), true), "the second is told");
        assert!(untold.begins(&key, Fence(3), true));
        assert!(untold.begins(&key, Fence(3), false));
        untold.ends(&key, Fence(3), true);
        assert!(!untold.ends(&key, Fence(3), false), "somebody was told: it stands");
        assert!(untold.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_hold_is_the_same_under_the_name_of_a_later_call() {
        let value =
            |owner: &str, fence: u64, call: &str| format!("{owner}\x1f{fence}\x1f1\x1f5\x1fn:{call}\x1f").into_bytes();
        let granted = value("ann", 7, "a");
        assert!(is_same_hold(&granted, &granted));
        assert!(is_same_hold(&value("ann", 7, "b+"), &granted));
        for other in [value("ann", 8, "a"), value("bob", 7, "a"), value("ann", 7, "a?"), b"x".to_vec()] {
            assert!(!is_same_hold(&other, &granted));
        }
        assert!(is_same_hold(b"x", b"x"), "what a SET NX wrote");
    }
}
