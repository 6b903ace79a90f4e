//! `LOCK.ACQUIREALL` and `LOCK.RELEASEALL`. All keys are taken in one step or none is, and while a call waits it holds nothing but,
//! for the moment until the step is tried again, the key that was in the way: the bridge. A bridge may still be on its way back to the
//! next in line when the step finds it held by the owner; the step writes its own name over it, and so keeps it.
//!
//! Two calls could hold up one another with their bridges for ever. So keys have an order, by name: who finds another's bridge at a
//! lower key than his own gives way and stands in that line; who finds one at a higher key keeps his and tries again.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::afloat::Afloat;
use super::{Asker, Coordinator, LockReply, integer};
use crate::commands::lock_args::{AcquireAllArgs, AcquireArgs, Bond};
use crate::domain::{CallId, Level, LockKey, Moment, OwnerId, Replicas};
use crate::locks::{Answer, Event};
use crate::store::{AllAcquired, AllAsked, BRIDGE, StoreError, Taken};
use crate::upstream::call::{CallError, Caller};

/// The lease of the key that was in the way, until all are taken or it is given back, in ms.
const IN_THE_WAY_MS: u64 = 2000;
/// How long a call keeps its bridge while others give way, in ms.
const GIVE_WAY_MS: u64 = 1000;
/// The longest pause between tries meanwhile, in ms.
const GIVE_WAY_PAUSE_MAX_MS: u64 = 16;
/// How often the step of a call that does not wait is sent, its first try included, while replies are lost.
const LOST_TRIES_MAX: u32 = 2;

/// What all tries of one call have in common.
#[derive(Clone)]
struct Wanted {
    keys: Arc<[LockKey]>,
    owner: OwnerId,
    call: CallId,
    level: Level,
    lease_ms: u64,
}

/// What a call and its tries know of one another.
#[derive(Default)]
struct Shared {
    /// Nobody waits for the try any more.
    has_left: Cell<bool>,
    /// The last bridge at each key: what the owner holds by it he did not hold before this call.
    bridges: RefCell<Vec<(LockKey, Arc<[u8]>)>>,
}

impl Shared {
    fn note_bridge(&self, key: LockKey, value: Arc<[u8]>) {
        let mut bridges = self.bridges.borrow_mut();
        bridges.retain(|(bridged, _)| *bridged != key);
        bridges.push((key, value));
    }

    fn was_bridge(&self, value: &[u8]) -> bool {
        self.bridges.borrow().iter().any(|(_, bridge)| **bridge == *value)
    }

    fn had_bridge_at(&self, key: &LockKey) -> bool {
        self.bridges.borrow().iter().any(|(bridged, _)| bridged == key)
    }
}

/// A call under way. Dropping it says that its client has left: what it may have taken without anybody knowing is given back.
struct Call<C: Caller> {
    coordinator: Arc<Coordinator>,
    service: C,
    wanted: Wanted,
    shared: Rc<Shared>,
    /// The reply to a try was lost, so that it may hold everything.
    may_hold: bool,
}

impl<C: Caller> Drop for Call<C> {
    fn drop(&mut self) {
        self.shared.has_left.set(true);
        if self.may_hold {
            let (coordinator, service, wanted) = (self.coordinator.clone(), self.service.clone(), self.wanted.clone());
            let (errand, shared) = (coordinator.errands.begin(), self.shared.clone());
            tokio::task::spawn_local(async move {
                let _errand = errand;
                coordinator.clear_up(&service, &wanted, &shared).await;
            });
        }
    }
}

/// The key that was in the way, granted by its line for a moment. Dropping it gives it to the next.
struct Bridge<C: Caller> {
    coordinator: Arc<Coordinator>,
    service: C,
    key: LockKey,
    value: Arc<[u8]>,
    since: Moment,
    is_kept: bool,
}

impl<C: Caller> Drop for Bridge<C> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.coordinator.give_back(&self.key, self.value.clone(), IN_THE_WAY_MS, &self.service);
        }
    }
}

/// What one try came to.
enum Step {
    All(Vec<Taken>),
    InTheWay { place: usize, is_bridge: bool },
    Failed(StoreError),
}

impl Coordinator {
    /// `LOCK.ACQUIREALL`
    pub(super) async fn acquire_all<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        keys: Vec<LockKey>,
        args: AcquireAllArgs,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        // One lease for all of them: what the strictest of their rules allows.
        let leases = keys.iter().map(|key| self.settings.lease_ms_at(key, &asker.user, args.ttl_ms));
        let lease_ms = leases.min().unwrap_or_else(|| self.settings.lease_ms(args.ttl_ms));
        let by = asker.by();
        let asking = self.asks(&keys, args.owner.as_bytes(), &by, args.wait_ms);
        let reply = self.take_all(asker, &keys, &args, lease_ms, is_there).await;
        asking.ends(&reply, lease_ms);
        reply
    }

    async fn take_all<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        keys: &[LockKey],
        args: &AcquireAllArgs,
        lease_ms: u64,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        let wait_ms = args.wait_ms.min(self.settings.max_wait_ms.get());
        let deadline = (wait_ms > 0).then(|| self.now().plus_ms(wait_ms));
        let (owner, call, level) = (args.owner.clone(), self.next_call(), args.level.unwrap_or_default());
        // In the order of their names, whichever way they were given.
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| keys[*a].name.cmp(&keys[*b].name));
        let sorted: Arc<[LockKey]> = order.iter().map(|place| keys[*place].clone()).collect();
        let wanted = Wanted { keys: sorted.clone(), owner, call, level, lease_ms };
        let (coordinator, service) = (self.clone(), asker.service.clone());
        let mut all = Call { coordinator, service, wanted, shared: Rc::default(), may_hold: false };
        let mut bridge: Option<Bridge<C>> = None;
        let (mut failures, mut pauses) = (0, 0);
        loop {
            let work = self.clone().try_all(asker, all.wanted.clone(), all.shared.clone());
            match Afloat::new(&self.errands, work).await {
                Step::All(taken) => {
                    // Its value is another now.
                    if let Some(bridge) = &mut bridge {
                        bridge.is_kept = true;
                    }
                    all.may_hold = true;
                    let confirmed = self.all_replicated(&all.wanted, &taken, &asker.service).await;
                    all.may_hold = false;
                    if let Err(line) = confirmed {
                        self.give_all_back(&all.wanted, &taken, &asker.service);
                        return LockReply::Error(line);
                    }
                    if !is_there() {
                        self.give_all_back(&all.wanted, &taken, &asker.service);
                        return LockReply::Nil;
                    }
                    let mut fences = vec![LockReply::Nil; keys.len()];
                    for ((key, place), taken) in sorted.iter().zip(order).zip(&taken) {
                        self.got_over(key, &args.owner, taken.grant.fence, asker.session, lease_ms);
                        if !taken.is_new {
                            asker.bound.renamed(key, &args.owner, &taken.grant.value);
                        }
                        fences[place] = integer(taken.grant.fence.0);
                    }
                    return LockReply::Array(fences);
                }
                Step::InTheWay { place, is_bridge } => {
                    all.may_hold = false;
                    failures = 0;
                    let key = &sorted[place];
                    if let Some(bridge) = &bridge
                        && is_bridge
                        && bridge.key < *key
                        && self.now() < bridge.since.plus_ms(GIVE_WAY_MS)
                        && deadline.is_some_and(|deadline| self.now() < deadline)
                    {
                        pauses += 1;
                        let pause_ms = (1 << pauses.min(8)).min(GIVE_WAY_PAUSE_MAX_MS);
                        self.sleep_until(self.now().plus_ms(pause_ms)).await;
                        continue;
                    }
                    pauses = 0;
                    // The next in its line need not wait until this call has it all.
                    drop(bridge.take());
                    let Some(left_ms) = deadline.map(|deadline| deadline.since_us(self.now()) / 1000) else {
                        return LockReply::Nil;
                    };
                    match self.cross(asker, key, args, left_ms, &is_there).await {
                        Ok(crossed) => {
                            if let Some(bridge) = &crossed {
                                all.shared.note_bridge(bridge.key.clone(), bridge.value.clone());
                            }
                            bridge = crossed;
                        }
                        Err(reply) => return reply,
                    }
                }
                Step::Failed(error) => {
                    failures += 1;
                    let was_lost = matches!(error, StoreError::Call(CallError::Lost(_)));
                    all.may_hold |= was_lost;
                    let passes = matches!(error, StoreError::Call(_)) || error.passes();
                    let tries_again = match deadline {
                        Some(deadline) => passes && self.now() < deadline && !self.shards.is_closing(),
                        None => was_lost && failures < LOST_TRIES_MAX,
                    };
                    if !tries_again {
                        return LockReply::Error(match error {
                            StoreError::Call(error) => format!("UNAVAILABLE {error}; not granted, try again"),
                            other => other.to_string(),
                        });
                    }
                    self.pause(failures, deadline).await;
                }
            }
        }
    }

    /// Waits in the line before the key that is in the way; `Ok(None)` where the owner has it by another call of his. The error is
    /// the answer.
    async fn cross<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: &LockKey,
        args: &AcquireAllArgs,
        left_ms: u64,
        is_there: &impl Fn() -> bool,
    ) -> Result<Option<Bridge<C>>, LockReply> {
        if left_ms == 0 {
            return Err(LockReply::Nil);
        }
        let for_one = AcquireArgs {
            key: key.name.clone(),
            owner: args.owner.clone(),
            ttl_ms: Some(IN_THE_WAY_MS),
            wait_ms: left_ms,
            level: args.level,
            meta: BRIDGE.into(),
            bond: Bond::None,
        };
        let (asked, deadline) = self.asked_for(&for_one, key, &asker.user);
        match self.wait_for(asker, key, asked, deadline, None, is_there).await {
            None => Err(LockReply::Nil),
            Some((_, Answer::Granted { grant, is_new })) => Ok(is_new.then(|| Bridge {
                coordinator: self.clone(),
                service: asker.service.clone(),
                key: key.clone(),
                value: grant.value,
                since: self.now(),
                is_kept: false,
            })),
            Some((asked, answer)) => Err(self.acquire_reply(asker, key, &for_one, &asked, answer)),
        }
    }

    /// Sends the step once. The future is to be read to its end also when nobody waits for it any more; what it took is given back
    /// then.
    fn try_all<C: Caller>(
        self: Arc<Self>,
        asker: &Asker<C>,
        wanted: Wanted,
        shared: Rc<Shared>,
    ) -> impl Future<Output = Step> + 'static {
        let (caller, service) = (asker.caller.clone(), asker.service.clone());
        async move {
            let Wanted { keys, owner, call, level, lease_ms } = &wanted;
            let (owner, now_ms) = (owner.as_bytes(), self.unix_us_at(self.now()) / 1000);
            let asked = AllAsked { owner, call: *call, level: *level, lease_ms: *lease_ms, now_ms };
            let is_rule_key = |key: &LockKey| self.settings.lock_keys.matches(&key.name);
            match self.store.acquire_all(&caller, keys, &asked, is_rule_key).await {
                Ok(AllAcquired::Granted(mut taken)) => {
                    for (key, taken) in keys.iter().zip(&mut taken) {
                        if let Some(before) = &taken.before {
                            taken.is_new |= shared.was_bridge(before)
                                || self.shards.read(key, |line| line.is_giving_back(before)).unwrap_or(false);
                        }
                    }
                    if shared.has_left.get() {
                        self.give_all_back(&wanted, &taken, &service);
                    }
                    for key in keys.iter() {
                        self.fed(key, Event::Extended { lease_ms: *lease_ms }, &service);
                    }
                    Step::All(taken)
                }
                Ok(AllAcquired::InTheWay { place, is_bridge }) => Step::InTheWay { place, is_bridge },
                Err(error) => {
                    if shared.has_left.get() && matches!(error, StoreError::Call(CallError::Lost(_))) {
                        self.clear_up(&service, &wanted, &shared).await;
                    }
                    Step::Failed(error)
                }
            }
        }
    }

    /// As [`Coordinator::confirmed_by_replicas`], for all that a step took.
    async fn all_replicated<C: Caller>(&self, wanted: &Wanted, taken: &[Taken], service: &C) -> Result<(), String> {
        if self.settings.replicas == Replicas::NotAsked {
            return Ok(());
        }
        let grants = wanted.keys.iter().zip(taken);
        let replicated = grants.map(|(key, taken)| async move {
            let why = self.replicas_have(key, &taken.grant.value, service).await;
            why.map_err(|why| {
                format!("NOREPLICAS '{key}' is not granted: {why}; what was taken is given back, look into INFO replication and wait_replicas")
            })
        });
        join_all(replicated).await.into_iter().collect()
    }

    fn give_all_back<C: Caller>(self: &Arc<Self>, wanted: &Wanted, taken: &[Taken], service: &C) {
        for (key, taken) in wanted.keys.iter().zip(taken).filter(|(_, taken)| taken.is_new) {
            self.give_back(key, taken.grant.value.clone(), wanted.lease_ms, service);
        }
    }

    /// Takes a grant back by its whole value, and hands the key to the next.
    fn give_back<C: Caller>(self: &Arc<Self>, key: &LockKey, value: Arc<[u8]>, lease_ms: u64, service: &C) {
        let fed = self.shards.feed_always(key, Event::GivesBack { value, lease_ms }, self.now());
        self.carry_out(fed, key, service);
    }

    /// Nobody knows what a step did whose reply was lost. Once the upstream answers, what names the call is given back; after its
    /// lease there is nothing left to give.
    async fn clear_up<C: Caller>(self: &Arc<Self>, service: &C, wanted: &Wanted, shared: &Shared) {
        let until = self.now().plus_ms(wanted.lease_ms);
        for key in wanted.keys.iter() {
            let mut failures = 0;
            while self.now() < until {
                match self.store.look(service, key, true).await {
                    Ok(held) => {
                        let named = held.as_ref().and_then(|held| self.store.names_call(&held.value));
                        if let (Some(held), Some(named)) = (held, named)
                            && named.call == wanted.call
                            && (!named.is_repeat || shared.had_bridge_at(key))
                        {
                            self.give_back(key, held.value, wanted.lease_ms, service);
                        }
                        break;
                    }
                    Err(StoreError::Call(_)) => {
                        failures += 1;
                        self.pause(failures, Some(until)).await;
                    }
                    // The key is no lock any more.
                    Err(_) => break,
                }
            }
        }
    }

    /// A pause that doubles with every failure, and does not outlast `deadline`.
    pub(super) async fn pause(&self, failures: u32, deadline: Option<Moment>) {
        let doubled = self.settings.retry_base_ms.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let at = self.now().plus_ms(doubled.clamp(1, self.settings.retry_max_ms.max(1)));
        self.sleep_until(deadline.map_or(at, |deadline| deadline.min(at))).await;
    }

    /// `LOCK.RELEASEALL`: how many were released. The first error is the answer; the other keys are released all the same.
    pub(super) async fn release_all<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        keys: Vec<LockKey>,
        owner: OwnerId,
    ) -> LockReply {
        let releases = keys.into_iter().map(|key| self.release_booked(asker, key, owner.clone(), None));
        let replies = join_all(releases).await;
        let error = replies.iter().find(|reply| matches!(reply, LockReply::Error(_)));
        let released = replies.iter().filter(|reply| **reply == LockReply::Integer(1)).count();
        error.cloned().unwrap_or_else(|| integer(released as u64))
    }
}

/// Runs all of them side by side; what they came to, in their order.
pub(super) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Running<F>> = futures.into_iter().map(|future| Running::On(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        let mut is_done = true;
        for future in &mut running {
            if let Running::On(polled) = future {
                match polled.as_mut().poll(cx) {
                    Poll::Ready(outcome) => *future = Running::Done(outcome),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let outcome = |future| match future {
        Running::On(_) => None,
        Running::Done(outcome) => Some(outcome),
    };
    running.into_iter().filter_map(outcome).collect()
}

/// One of several futures.
enum Running<F: Future> {
    On(Pin<Box<F>>),
    Done(F::Output),
}
