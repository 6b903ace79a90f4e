//! A line's own work: its timer, and the hand-overs that it decides on.

use std::sync::Arc;

use tokio::sync::Notify;

use super::shards::{Fed, HandOver};
use super::{Coordinator, seen};
use crate::domain::LockKey;
use crate::locks::{Event, Handing};
use crate::observe::fault::kept_up;
use crate::observe::seldom::Seldom;
use crate::store::{HandedOver, StoreError};
use crate::upstream::call::{CallError, Caller};

impl Coordinator {
    /// Feeds an event to the line of `key`, if there is one, and does what follows from it.
    pub(super) fn fed<C: Caller>(self: &Arc<Self>, key: &LockKey, event: Event, service: &C) {
        if let Some(fed) = self.shards.feed(key, event, None, self.now()) {
            self.carry_out(fed, key, service);
        }
    }

    /// Sends what a step decided on, and starts a timer where one is needed. The work goes on by itself.
    pub(super) fn carry_out<C: Caller>(self: &Arc<Self>, fed: Fed, key: &LockKey, service: &C) {
        if fed.is_awaited {
            self.want(key);
        }
        if let Some(bell) = fed.start_timer {
            let (coordinator, key, service) = (self.clone(), key.clone(), service.clone());
            tokio::task::spawn_local(kept_up("the timer of a queue", async move || {
                watch(&coordinator, &key, &bell, &service).await;
            }));
        }
        if let Some(hand_over) = fed.hand_over {
            let errand = self.errands.begin();
            let work = hand_on(self.clone(), key.clone(), hand_over, service.clone());
            tokio::task::spawn_local(async move {
                let _errand = errand;
                work.await;
            });
        }
    }
}

/// Something is carried out for a line, which waits for what comes of it. Should that panic, the line is given up.
pub(super) struct Fault {
    coordinator: Arc<Coordinator>,
    key: LockKey,
    line: u64,
}

impl Fault {
    /// To be kept for as long as the line waits.
    pub(super) fn watch(coordinator: &Arc<Coordinator>, key: &LockKey, line: u64) -> Fault {
        Fault { coordinator: coordinator.clone(), key: key.clone(), line }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.coordinator.shards.give_up_line(&self.key, self.line);
        }
    }
}

/// The timer of one line, for as long as it needs one.
async fn watch<C: Caller>(coordinator: &Arc<Coordinator>, key: &LockKey, bell: &Arc<Notify>, service: &C) {
    while let Some(at) = coordinator.shards.timer_at(key, bell) {
        #[cfg(test)]
        crate::observe::fault::failpoint::pass("the timer of a queue");
        match at {
            Some(at) => tokio::select! {
                biased;
                () = bell.notified() => continue,
                () = coordinator.sleep_until(at) => coordinator.fed(key, Event::Tick, service),
            },
            None => bell.notified().await,
        }
    }
}

/// One hand-over, and those that follow from it.
async fn hand_on<C: Caller>(coordinator: Arc<Coordinator>, key: LockKey, first: HandOver, service: C) {
    let mut next = Some(first);
    while let Some(HandOver { task, turn }) = next {
        let store = &coordinator.store;
        let _fault = Fault::watch(&coordinator, &key, turn.line);
        let (sent, times, offers) = (turn.sent(), coordinator.times(&turn), turn.offers);
        let is_rule_key = coordinator.settings.lock_keys.matches(&key.name);
        let since = coordinator.now();
        let handed = store.hand_over(&service, &key, &task, &offers, times, is_rule_key).await;
        match &handed {
            Ok(HandedOver::To(handed, _)) => coordinator.handed_over(&key, handed, since),
            Ok(HandedOver::Confirmed(..)) => coordinator.confirmed(&key, since),
            // The watch link tells of that, too, where there is one.
            Ok(HandedOver::Held(held, _)) => coordinator.saw_holder(&key, Some(&held.value)),
            _ => {}
        }
        let outcome = match handed {
            Ok(HandedOver::To(handed, registered)) => Handing::To { handed, registered },
            Ok(HandedOver::Confirmed(grant, registered)) => Handing::Confirmed { grant, registered },
            Ok(HandedOver::Free(registered)) => Handing::Free { registered },
            Ok(HandedOver::Over(registered)) => Handing::Over { registered },
            Ok(HandedOver::Held(held, registered)) => Handing::Held { seen: seen(store, held), registered },
            Err(StoreError::Call(CallError::Unavailable(_))) => Handing::NotReached,
            Err(StoreError::Call(CallError::Lost(_))) => Handing::Lost,
            Err(error) => {
                let is_final = matches!(&error, StoreError::NotALock(_)) || error.is_wrong_type();
                static TOLD: Seldom = Seldom::new();
                if coordinator.fit.is_good()
                    && let Some(times) = TOLD.happened()
                {
                    tracing::warn!(%key, %error, is_final, times, "the upstream refused to hand a lock over");
                }
                Handing::Failed { line: error.to_string().into(), is_final }
            }
        };
        let event = Event::HandedOver { sent, outcome };
        let Some(mut fed) = coordinator.shards.feed(&key, event, None, coordinator.now()) else {
            // A fault has ended the line meanwhile.
            return;
        };
        next = fed.hand_over.take();
        coordinator.carry_out(fed, &key, &service);
    }
}
