//! Locks tied to a connection: renewed while it lives (KEEPALIVE), and released as soon as it closes (EPHEMERAL).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::Coordinator;
use super::afloat::{Errand, Errands};
use crate::commands::lock_args::Bond;
use crate::domain::{LockKey, OwnerId};
use crate::locks::Event;
use crate::upstream::call::Caller;

/// The locks tied to one connection. The session makes one, and gives a clone to each command; when it drops the last of them,
/// renewals stop and ephemeral locks are released.
#[derive(Clone, Default)]
pub struct BoundLocks(Rc<RefCell<Ties>>);

type Ties = HashMap<(LockKey, OwnerId), Tie>;

/// How a tie ends.
enum Ending {
    /// The connection has closed. The release counts as under way from that moment.
    Closed(Errand),
    /// The owner has released the lock, or asked for it anew.
    Untied,
}

/// The session's end of one renewed lock; its task has the other.
struct Tie {
    value: Arc<[u8]>,
    ending: Option<oneshot::Sender<Ending>>,
    errands: Arc<Errands>,
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.errands.ties.fetch_sub(1, Ordering::Relaxed);
        if let Some(ending) = self.ending.take() {
            let _ = ending.send(Ending::Closed(self.errands.begin()));
        }
    }
}

/// A granted lock that is to be tied.
pub(super) struct Granted<C> {
    pub key: LockKey,
    pub owner: OwnerId,
    pub value: Arc<[u8]>,
    pub lease_ms: u64,
    pub bond: Bond,
    pub service: C,
}

impl BoundLocks {
    /// How many locks are tied to the connection.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// No lock is tied to the connection.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The owner's lock on this key is tied no more. What renews by the value of an older grant would stop by itself.
    pub(super) fn untie(&self, key: &LockKey, owner: &OwnerId) {
        let mut ties = self.0.borrow_mut();
        if ties.is_empty() {
            return;
        }
        if let Some(mut tie) = ties.remove(&(key.clone(), owner.clone()))
            && let Some(ending) = tie.ending.take()
        {
            let _ = ending.send(Ending::Untied);
        }
    }

    /// Ties a lock that was granted just now.
    pub(super) fn tie<C: Caller>(&self, coordinator: &Arc<Coordinator>, granted: Granted<C>) {
        self.untie(&granted.key, &granted.owner);
        let (ending, ends) = oneshot::channel();
        coordinator.errands.ties.fetch_add(1, Ordering::Relaxed);
        let tie = Tie { value: granted.value.clone(), ending: Some(ending), errands: coordinator.errands.clone() };
        self.0.borrow_mut().insert((granted.key.clone(), granted.owner.clone()), tie);
        tokio::task::spawn_local(renew(coordinator.clone(), granted, ends, Rc::downgrade(&self.0)));
    }
}

/// Renews one lock at half of its lease until the tie ends or the lock is another's.
async fn renew<C: Caller>(
    coordinator: Arc<Coordinator>,
    granted: Granted<C>,
    mut ends: oneshot::Receiver<Ending>,
    ties: Weak<RefCell<Ties>>,
) {
    let Granted { key, owner, value, lease_ms, bond, service } = granted;
    let mut pause_ms = (lease_ms / 2).max(1);
    loop {
        let at = coordinator.now().plus_ms(pause_ms);
        tokio::select! {
            biased;
            ending = &mut ends => {
                if let Ok(Ending::Closed(_errand)) = ending && bond == Bond::Ephemeral {
                    let event = Event::GivesBack { value, lease_ms };
                    let fed = coordinator.shards.feed_always(&key, event, coordinator.now());
                    coordinator.carry_out(fed, &key, &service);
                }
                return;
            }
            () = coordinator.sleep_until(at) => {}
        }
        match coordinator.store.renew(&service, &key, &value, lease_ms).await {
            Ok(true) => {
                coordinator.fed(&key, Event::Extended { lease_ms }, &service);
                pause_ms = (lease_ms / 2).max(1);
            }
            Ok(false) => {
                // Expired, released, forced, or the owner's newer grant: whichever it was, this one is over.
                if let Some(ties) = ties.upgrade() {
                    let key = (key, owner);
                    let is_this = ties.borrow().get(&key).is_some_and(|tie| Arc::ptr_eq(&tie.value, &value));
                    if is_this {
                        ties.borrow_mut().remove(&key);
                    }
                }
                return;
            }
            Err(error) => {
                tracing::debug!(%key, %error, "a lease could not be renewed; trying again");
                pause_ms = (lease_ms / 8).clamp(1, 1000);
            }
        }
    }
}
