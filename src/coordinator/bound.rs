//! Locks tied to a connection: renewed while it lives (KEEPALIVE), and released as soon as it closes (EPHEMERAL).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use super::afloat::Errand;
use super::books::Ended;
use super::{Coordinator, holder};
use crate::commands::lock_args::Bond;
use crate::domain::{LockKey, Moment, OwnerId};
use crate::events::What;
use crate::locks::Event;
use crate::observe::fault::kept_up;
use crate::store::StoreError;
use crate::store::value::Fields;
use crate::upstream::call::Caller;

/// Losses that a connection is still to be told of; beyond that the oldest are left out.
const NEWS_MAX: usize = 1024;

/// The locks tied to one connection. The session makes one, and gives a clone to each command; when it drops the last of them,
/// renewals stop and ephemeral locks are released.
#[derive(Clone, Default)]
pub struct BoundLocks {
    ties: Rc<RefCell<Ties>>,
    news: Rc<News>,
}

type Ties = HashMap<(LockKey, OwnerId), Tie>;

/// A renewed lock that its holder lost all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLock {
    /// The key.
    pub key: Arc<[u8]>,
    /// Who held it.
    pub owner: OwnerId,
    /// `expired`: its lease ran out before it could be renewed; `taken`: another holds it; `freed`: somebody freed it.
    pub reason: &'static str,
}

/// What the session is to tell its client.
#[derive(Default)]
struct News {
    lost: RefCell<VecDeque<LostLock>>,
    are_there: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl News {
    fn add(&self, lost: LostLock) {
        let mut all = self.lost.borrow_mut();
        if all.len() == NEWS_MAX {
            all.pop_front();
        }
        all.push_back(lost);
        self.are_there.set(true);
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }
}

/// What stands in the key instead of a grant that was to be renewed.
enum Found {
    /// The same hold, which another call of its owner has repeated since: its value now.
    Repeated(Arc<[u8]>),
    /// Its owner has let go of it, or holds the key anew by another call.
    Let,
    /// It was lost, and how.
    Lost(&'static str),
}

/// How a tie ends.
enum Ending {
    /// The connection has closed. The release counts as under way from that moment.
    Closed(Errand),
    /// The owner has released the lock, or asked for it anew.
    Untied,
}

/// The session's end of one renewed lock; its task has the other.
struct Tie {
    key: LockKey,
    owner: OwnerId,
    value: Rc<RefCell<Arc<[u8]>>>,
    ending: Option<oneshot::Sender<Ending>>,
    coordinator: Arc<Coordinator>,
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.coordinator.tied.ends(&self.key, &self.owner);
        if let Some(ending) = self.ending.take() {
            let _ = ending.send(Ending::Closed(self.coordinator.errands.begin()));
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
        self.ties.borrow().len()
    }

    /// No lock is tied to the connection.
    pub fn is_empty(&self) -> bool {
        self.ties.borrow().is_empty()
    }

    /// The session's task, to be woken when a lock was lost.
    pub fn set_task(&self, task: &Waker) {
        *self.news.task.borrow_mut() = Some(task.clone());
    }

    /// A lock was lost, and [`BoundLocks::take_lost`] has not told of it yet.
    pub fn has_lost(&self) -> bool {
        self.news.are_there.get()
    }

    /// The next lock that was lost.
    pub fn take_lost(&self) -> Option<LostLock> {
        let mut all = self.news.lost.borrow_mut();
        let next = all.pop_front();
        self.news.are_there.set(!all.is_empty());
        next
    }

    /// The owner's lock on this key is tied no more. What renews by the value of an older grant would stop by itself.
    /// `false` where it was not.
    pub(super) fn untie(&self, key: &LockKey, owner: &OwnerId) -> bool {
        let mut ties = self.ties.borrow_mut();
        if ties.is_empty() {
            return false;
        }
        let Some(mut tie) = ties.remove(&(key.clone(), owner.clone())) else { return false };
        if let Some(ending) = tie.ending.take() {
            let _ = ending.send(Ending::Untied);
        }
        true
    }

    /// The owner's lock on this key has another value now, by a call that lets its tie be. A tie of an older hold, whose end nobody has
    /// noticed yet, is none of this one.
    pub(super) fn renamed(&self, key: &LockKey, owner: &OwnerId, value: &Arc<[u8]>) {
        let fence = |value: &[u8]| Fields::read(value).map(|fields| fields.fence);
        if let Some(tie) = self.ties.borrow().get(&(key.clone(), owner.clone()))
            && fence(&tie.value.borrow()) == fence(value)
        {
            tie.value.replace(value.clone());
        }
    }

    /// Ties a lock that was granted just now.
    pub(super) fn tie<C: Caller>(&self, coordinator: &Arc<Coordinator>, granted: Granted<C>) {
        self.untie(&granted.key, &granted.owner);
        let (ending, ends) = oneshot::channel();
        let Granted { key, owner, value, .. } = &granted;
        coordinator.tied.begins(key, owner);
        let (key, owner, value) = (key.clone(), owner.clone(), Rc::new(RefCell::new(value.clone())));
        let tie = Tie {
            key: key.clone(),
            owner: owner.clone(),
            value: value.clone(),
            ending: Some(ending),
            coordinator: coordinator.clone(),
        };
        self.ties.borrow_mut().insert((key, owner), tie);
        let mut renewal = Renewal {
            coordinator: coordinator.clone(),
            present: value,
            ends,
            ties: Rc::downgrade(&self.ties),
            news: Rc::downgrade(&self.news),
            pause_ms: (granted.lease_ms / 2).max(1),
            until: coordinator.now().plus_ms(granted.lease_ms),
            closed: None,
            granted,
        };
        tokio::task::spawn_local(kept_up("the renewal of a lock", async move || renewal.run().await));
    }
}

/// What one lock's renewals need, from one to the next.
struct Renewal<C> {
    coordinator: Arc<Coordinator>,
    granted: Granted<C>,
    present: Rc<RefCell<Arc<[u8]>>>,
    ends: oneshot::Receiver<Ending>,
    ties: Weak<RefCell<Ties>>,
    news: Weak<News>,
    pause_ms: u64,
    until: Moment,
    /// Its connection has closed, and an ephemeral lock is being released.
    closed: Option<Errand>,
}

impl<C: Caller> Renewal<C> {
    /// Renews the lock at half of its lease until the tie ends or the lock is another's.
    async fn run(&mut self) {
        while self.closed.is_none() {
            let at = self.coordinator.now().plus_ms(self.pause_ms);
            let ending = tokio::select! {
                biased;
                ending = &mut self.ends => ending,
                () = self.coordinator.sleep_until(at) => {
                    // On the heap while it lasts: a hundred thousand of these tasks wait, and few renew at a time.
                    if Box::pin(self.renew()).await.is_break() {
                        return;
                    }
                    continue;
                }
            };
            match ending {
                Ok(Ending::Closed(errand)) if self.granted.bond == Bond::Ephemeral => self.closed = Some(errand),
                _ => return,
            }
        }
        self.release();
        self.closed = None;
    }

    fn release(&self) {
        let Granted { key, owner, lease_ms, service, .. } = &self.granted;
        let coordinator = &self.coordinator;
        let held_us = coordinator.hold_ends(key, owner.as_bytes(), Ended::AsNoted);
        let fence = Fields::read(&self.present.borrow()).map(|fields| fields.fence);
        coordinator.happens(What::Released { held_us }, key, owner.as_bytes(), fence, coordinator.now());
        let event = Event::GivesBack { value: self.present.borrow().clone(), lease_ms: *lease_ms };
        let fed = coordinator.shards.feed_always(key, event, coordinator.now());
        coordinator.carry_out(fed, key, service);
    }

    /// Renews once; `Break` where there is nothing left to renew.
    async fn renew(&mut self) -> ControlFlow<()> {
        // Where it ends in a fault the next one is due soon.
        self.pause_ms = retry_pause_ms(self.granted.lease_ms);
        #[cfg(test)]
        crate::observe::fault::failpoint::pass("the renewal of a lock");
        let Granted { key, lease_ms, service, .. } = &self.granted;
        let (coordinator, lease_ms) = (&self.coordinator, *lease_ms);
        let value = self.present.borrow().clone();
        match coordinator.store.renew(service, key, &value, lease_ms).await {
            Ok(true) => {
                self.until = coordinator.now().plus_ms(lease_ms);
                coordinator.books.holds.extended(key, lease_ms, coordinator.now());
                coordinator.fed(key, Event::Extended { lease_ms }, service);
                self.pause_ms = (lease_ms / 2).max(1);
            }
            // It was renamed while the renewal was on its way.
            Ok(false) if *self.present.borrow() != value => self.pause_ms = 1,
            // Whichever way, this grant is over.
            Ok(false) => return self.look_what_became(&value).await,
            // The key is none that a lock can be.
            Err(error) if error.is_wrong_type() => return self.look_what_became(&value).await,
            Err(error) => {
                tracing::debug!(%key, %error, "a lease could not be renewed; trying again");
            }
        }
        ControlFlow::Continue(())
    }

    /// The upstream has renewed nothing: `value` is not there any more.
    async fn look_what_became(&mut self, value: &Arc<[u8]>) -> ControlFlow<()> {
        let Granted { key, owner, service, .. } = &self.granted;
        let coordinator = &self.coordinator;
        let has_let_go = coordinator.tied.has_let_go(key, owner);
        let found = match has_let_go {
            true => Ok(Found::Let),
            false => coordinator.found_instead(service, key, owner, value, self.until).await,
        };
        let Ok(found) = found else { return ControlFlow::Continue(()) };
        if let Found::Repeated(now) = found {
            // Another call of the owner's has repeated this hold: it is renewed on, but the end of this connection does not
            // touch it any more.
            self.present.replace(now);
            self.granted.bond = Bond::KeepAlive;
            self.pause_ms = 1;
            return ControlFlow::Continue(());
        }
        // Untied, closed, or let go of over another connection, while that was found out.
        if self.ends.try_recv().is_err()
            && !coordinator.tied.has_let_go(key, owner)
            && let Found::Lost(reason) = found
        {
            coordinator.note_loss(key, owner, value, reason);
            if let Some(news) = self.news.upgrade() {
                news.add(LostLock { key: key.name.clone(), owner: owner.clone(), reason });
            }
        }
        if let Some(ties) = self.ties.upgrade() {
            let key = (key.clone(), owner.clone());
            let is_this = ties.borrow().get(&key).is_some_and(|tie| Rc::ptr_eq(&tie.value, &self.present));
            let tie = if is_this { ties.borrow_mut().remove(&key) } else { None };
            drop(tie);
        }
        ControlFlow::Break(())
    }
}

/// The pause after a renewal of which nothing was heard.
fn retry_pause_ms(lease_ms: u64) -> u64 {
    (lease_ms / 8).clamp(1, 1000)
}

impl Coordinator {
    /// What has become of the grant `value` that was renewed until `until`.
    async fn found_instead<C: Caller>(
        &self,
        service: &C,
        key: &LockKey,
        owner: &OwnerId,
        value: &[u8],
        until: Moment,
    ) -> Result<Found, StoreError> {
        let now = self.now();
        let held = match self.store.look(service, key, true).await {
            Ok(held) => held,
            Err(error) if error.is_wrong_type() => return Ok(Found::Lost("taken")),
            Err(error) => return Err(error),
        };
        let fence = |value: &[u8]| Fields::read(value).filter(|fields| !fields.is_claim).map(|fields| fields.fence);
        Ok(match held {
            Some(held) if holder(&held.value) == owner.as_bytes() => match fence(&held.value) == fence(value) {
                true => Found::Repeated(held.value),
                false => Found::Let,
            },
            _ if now >= until => Found::Lost("expired"),
            Some(_) => Found::Lost("taken"),
            None => Found::Lost("freed"),
        })
    }

    fn note_loss(&self, key: &LockKey, owner: &OwnerId, value: &[u8], reason: &str) {
        self.books.holds.ended(key, self.now());
        if reason == "expired" {
            self.books.tally.expired();
        }
        let fence = Fields::read(value).map(|fields| fields.fence);
        self.happens(What::Lost { reason }, key, owner.as_bytes(), fence, self.now());
        let fence = fence.map_or(0, |fence| fence.0);
        tracing::warn!(%key, owner = %owner.as_bytes().escape_ascii(), fence, reason, "a renewed lock was lost");
    }
}
