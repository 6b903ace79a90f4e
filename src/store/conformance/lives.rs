//! The model of the scripts that the simulation of one lock plays before, against a real server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::server::{Link, now};
use crate::domain::{CallId, Level, LockKey, Moment, PlainLease, WallClock};
use crate::locks::rank::{Place, Rank};
use crate::locks::simulation::owner_id;
use crate::locks::simulation::upstream::{Answered, Holder, PLAIN, Script, Upstream};
use crate::locks::{Actor, AskedFor, Form, Grant, Handed, Handing, Offer, Released, Standing, Task, Tried, Turn};
use crate::store::reply::Reply;
use crate::store::value::Fields;
use crate::store::{Acquired, Ask, HandedOver, Outcome, Store, Times, companion};

const NODES: usize = 3;
const KEY: &str = "k";
/// Nothing expires by itself in these lives: the clocks of the model and of the server need not agree.
const LEASE_MS: u64 = 1_000_000;

/// The model and a server.
pub struct Pair {
    dice: fastrand::Rng,
    link: Link,
    stores: Vec<Store>,
    model: Upstream,
    key: LockKey,
    last_call: u64,
    now: Moment,
    /// Waiters that scripts may carry, by node.
    waiters: Vec<Vec<Offer>>,
    /// The real fence of each hold of the model.
    fences: BTreeMap<u64, u64>,
}

impl Pair {
    /// Both are empty.
    pub fn new(seed: u64, link: &Link) -> Self {
        link.run(&[b"FLUSHALL"]);
        let store = |node: usize| {
            let store = Store::new(node.to_string().into(), WallClock::default(), 600_000);
            // Fences count from far above the clock: the server's and the model's are the same.
            store.floor.store(5_000_000_000_000_000, Ordering::Relaxed);
            store
        };
        let stores = (0..NODES).map(store).collect();
        Pair {
            dice: fastrand::Rng::with_seed(seed),
            link: link.clone(),
            stores,
            model: Upstream::default(),
            key: LockKey::new(0, KEY.as_bytes()),
            last_call: 1_763_740_000_000_000,
            now: Moment(1_000_000),
            waiters: vec![Vec::new(); NODES],
            fences: BTreeMap::new(),
        }
    }

    fn times(&self, turn: &Turn) -> Times {
        Times { sent_us: turn.at.0, knows_us: turn.knows_until.0, left_over: turn.left_over }
    }

    fn turn(&mut self, node: usize) -> Turn {
        self.waiters[node].sort_by_key(|offer| offer.rank);
        let offers = self.waiters[node].iter().take(self.dice.usize(..3)).cloned().collect();
        let knows_until = if self.dice.u8(..3) == 0 { Moment(self.now.0 - self.dice.u64(1..5000)) } else { self.now };
        // A call that was registered, and is said to be of an earlier life.
        let mine = self.model.queue.get(&node).map(|entry| entry.offer.call);
        let left_over = mine.filter(|_| self.dice.u8(..4) == 0);
        Turn { offers, at: self.now, knows_until, epoch: 0, left_over, line: 0 }
    }

    fn form(&mut self) -> Form {
        if self.dice.u8(..4) == 0 {
            let lease = if self.dice.bool() { PlainLease::Ms(LEASE_MS) } else { PlainLease::Forever };
            Form::Plain { value: PLAIN.into(), lease }
        } else {
            let meta: &[u8] = if self.dice.bool() { b"" } else { b"note\x1f\x00?" };
            Form::Lock { owner: owner_id(self.dice.u64(1..4)), lease_ms: LEASE_MS, meta: meta.into() }
        }
    }

    /// One call of both.
    pub fn step(&mut self) {
        self.now = Moment(self.now.0 + self.dice.u64(1..2000));
        let node = self.dice.usize(..NODES);
        match self.dice.u8(..12) {
            0..=5 => self.acquire(node),
            6..=8 => self.hand_over(node),
            9..=10 => self.release(node),
            _ => {
                self.link.run(&[b"DEL", KEY.as_bytes()]);
                self.model.key = None;
            }
        }
        self.model.given.clear();
        self.compare_state();
    }

    fn acquire(&mut self, node: usize) {
        self.last_call += 1;
        let (call, form) = (CallId(self.last_call), self.form());
        let level = [Level::Low, Level::Normal, Level::High, Level::Critical][self.dice.usize(..4)];
        let promote_after_us = 0;
        let kept = self.dice.bool().then(|| self.dice.u64(1..1_000_000));
        let standing = Standing {
            first_call: call,
            arrival_us: kept,
            promote_after_us,
            waits: self.dice.bool(),
            claim_ms: LEASE_MS,
        };
        let turn = self.turn(node);
        let ask = Ask { call, form: form.clone(), level, standing };
        let times = self.times(&turn);
        let real = now(self.stores[node].acquire(&self.link, &self.key, &ask, &turn.offers, times, true)).unwrap();
        // The server's clock stamps the arrival: the model is told.
        let arrival = match &real {
            Acquired::Refused(_, _, at) | Acquired::HandedOver(_, _, at) => *at,
            _ => {
                let Reply::Array(time) = self.link.run(&[b"TIME"]) else { unreachable!("TIME is an array") };
                let [Reply::Text(secs), Reply::Text(micros)] = time.as_slice() else { unreachable!("of two") };
                crate::store::time(secs, micros).unwrap()
            }
        };
        let asked = AskedFor {
            call,
            actor: Actor::Call(call),
            form: form.clone(),
            level,
            may_wait: standing.waits,
            ticket_ms: 0,
            queue_max: None,
            place: None,
            deadline: None,
        };
        let script = Script::Acquire { asked, standing, turn };
        let Answered::Acquire(modelled) = self.model.run(node, &script, Moment(arrival)) else {
            unreachable!("an acquire is answered as one")
        };
        let story = format!("{script:?}\n real {real:?}\n model {modelled:?}");
        match (&real, &modelled) {
            (Acquired::Granted(grant, registered), Tried::Granted { grant: expected, registered: known }) => {
                // With a queue somewhere the real script tells more than the model, where nobody is registered here.
                assert_eq!(registered.flatten(), known.flatten(), "{story}");
                self.same_grant(grant, expected, &story);
            }
            (Acquired::Repeated(grant, before), Tried::Repeated { grant: expected, was_claim, .. }) => {
                assert_eq!(Fields::read(before).unwrap().is_claim, *was_claim, "{story}");
                self.same_grant(grant, expected, &story);
            }
            (
                Acquired::HandedOver(handed, registered, _),
                Tried::HandedOver { handed: expected, registered: known, .. },
            ) => {
                assert_eq!(registered, known, "{story}");
                self.same_handed(handed, expected, &story);
            }
            (Acquired::Refused(_, registered, _), Tried::Refused { registered: known, .. }) => {
                assert_eq!(registered, known, "{story}");
            }
            (Acquired::NotSet, Tried::NotSet) => {}
            _ => panic!("{story}"),
        }
        let is_refused = matches!(modelled, Tried::Refused { .. } | Tried::HandedOver { .. });
        if is_refused && standing.waits {
            let place = Place { arrival_us: kept.unwrap_or(arrival), first_call: call };
            let rank = Rank::new(level, place, promote_after_us);
            self.waiters[node].push(Offer { call, rank, level, form, claim_ms: LEASE_MS });
        }
        // Now and then one of them leaves without a word to the upstream.
        if self.waiters[node].len() > 4 {
            let gone = self.dice.usize(..self.waiters[node].len());
            self.waiters[node].remove(gone);
        }
    }

    fn hand_over(&mut self, node: usize) {
        let turn = self.turn(node);
        let value: Option<Arc<[u8]>> = match self.link.run(&[b"GET", KEY.as_bytes()]) {
            Reply::Text(value) => Some(value.into()),
            _ => None,
        };
        let model_value = self.model.key.as_ref().map(|key| key.value());
        let is_claim = value.as_ref().is_some_and(|value| Fields::read(value).is_some_and(|fields| fields.is_claim));
        let claimed = self.model.key.as_ref().and_then(|key| key.call());
        let offer = self.waiters[node].iter().find(|offer| Some(offer.call.0) == claimed).cloned();
        let (real_task, task) = match (self.dice.u8(..3), value, model_value, offer) {
            (0, Some(value), Some(modelled), _) => (Task::TakeBack(value), Task::TakeBack(modelled)),
            (1, Some(claim), Some(modelled), Some(offer)) if is_claim => {
                (Task::Confirm { claim, offer: offer.clone() }, Task::Confirm { claim: modelled, offer })
            }
            (2, Some(_), _, _) => (Task::TakeBack((*b"another").into()), Task::TakeBack((*b"another").into())),
            _ => (Task::Look, Task::Look),
        };
        let times = self.times(&turn);
        let store = &self.stores[node];
        let real = now(store.hand_over(&self.link, &self.key, &real_task, &turn.offers, times, true)).unwrap();
        let script = Script::HandOver { task, turn };
        let Answered::HandOver(modelled) = self.model.run(node, &script, self.now) else {
            unreachable!("a hand-over is answered as one")
        };
        let story = format!("{script:?}\n real {real:?}\n model {modelled:?}");
        match (&real, &modelled) {
            (HandedOver::To(handed, registered), Handing::To { handed: expected, registered: known }) => {
                assert_eq!(registered, known, "{story}");
                self.same_handed(handed, expected, &story);
            }
            (HandedOver::Confirmed(grant, registered), Handing::Confirmed { grant: expected, registered: known }) => {
                assert_eq!(registered, known, "{story}");
                self.same_grant(grant, expected, &story);
            }
            (HandedOver::Free(registered), Handing::Free { registered: known })
            | (HandedOver::Over(registered), Handing::Over { registered: known })
            | (HandedOver::Held(_, registered), Handing::Held { registered: known, .. }) => {
                assert_eq!(registered, known, "{story}");
            }
            _ => panic!("{story}"),
        }
    }

    fn release(&mut self, node: usize) {
        let owner = self.dice.u64(1..4);
        let turn = self.turn(node);
        let (name, times) = (owner_id(owner), self.times(&turn));
        let store = &self.stores[node];
        let real =
            now(store.release(&self.link, &self.key, Some(name.as_bytes()), None, &turn.offers, times, true)).unwrap();
        let script = Script::Release { owner, turn };
        let Answered::Release(modelled) = self.model.run(node, &script, self.now) else {
            unreachable!("a release is answered as one")
        };
        let story = format!("{script:?}\n real {real:?}\n model {modelled:?}");
        match &modelled {
            Released::Kept => assert_eq!(real.outcome, Outcome::HeldByAnother, "{story}"),
            Released::Freed { handed, registered } => {
                assert_eq!(real.registered.flatten(), registered.flatten(), "{story}");
                match (&real.handed, handed) {
                    (Some(handed), Some(expected)) => self.same_handed(handed, expected, &story),
                    (None, None) => {}
                    _ => panic!("{story}"),
                }
            }
            Released::Lost => unreachable!("nothing is lost here"),
        }
    }

    fn same_handed(&mut self, real: &Handed, modelled: &Handed, story: &str) {
        match (real, modelled) {
            (Handed::To { call, grant }, Handed::To { call: expected, grant: known }) => {
                assert_eq!(call, expected, "{story}");
                self.same_grant(grant, known, story);
            }
            (Handed::Claimed { call, .. }, Handed::Claimed { call: expected, .. }) => {
                assert_eq!(call, expected, "{story}");
            }
            _ => panic!("{story}"),
        }
    }

    /// The model numbers its holds, the server its fences: the same hold keeps its fence, and a later hold has a higher one.
    fn same_grant(&mut self, real: &Grant, modelled: &Grant, story: &str) {
        let Reply::Text(value) = self.link.run(&[b"GET", KEY.as_bytes()]) else { panic!("the key is gone: {story}") };
        assert_eq!(*value, *real.value, "what the store says that it wrote: {story}");
        if modelled.fence.0 == 0 {
            assert_eq!(real.fence.0, 0, "{story}");
            return;
        }
        let before = *self.fences.entry(modelled.fence.0).or_insert(real.fence.0);
        assert_eq!(before, real.fence.0, "{story}");
        let fences: Vec<u64> = self.fences.values().copied().collect();
        assert!(fences.is_sorted() && fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}: {story}");
    }

    fn compare_state(&self) {
        let real = match self.link.run(&[b"GET", KEY.as_bytes()]) {
            Reply::Text(value) => Some(value),
            _ => None,
        };
        let modelled = self.model.key.as_ref().map(|key| &key.holder);
        match (&real, modelled) {
            (None, None) => {}
            (Some(value), Some(Holder::Plain { .. })) => assert_eq!(value, PLAIN),
            (Some(value), Some(Holder::Lock { owner, node, call, is_repeat, is_claim })) => {
                let fields = Fields::read(value).unwrap();
                let shown = if *owner == u64::MAX { Vec::new() } else { owner_id(*owner).as_bytes().to_vec() };
                assert_eq!(fields.owner, shown, "{fields:?}");
                assert_eq!(fields.node, node.to_string().as_bytes(), "{fields:?}");
                assert_eq!(CallId::parse(fields.call), Some(CallId(*call)), "{fields:?}");
                assert_eq!((fields.is_repeat, fields.is_claim), (*is_repeat, *is_claim), "{fields:?}");
            }
            other => panic!("{other:?}"),
        }
        let mut registered = BTreeMap::new();
        if let Reply::Array(entries) = self.link.run(&[b"HGETALL", &companion::queue(&self.key)]) {
            for pair in entries.chunks(2) {
                let [Reply::Text(node), Reply::Text(waiter)] = pair else { unreachable!("pairs of texts") };
                let node: usize = std::str::from_utf8(node).unwrap().parse().unwrap();
                let rank = Rank::parse(&waiter[..crate::locks::rank::RANK_DIGITS]).unwrap();
                registered.insert(node, rank);
            }
        }
        let known: BTreeMap<usize, Rank> =
            self.model.queue.iter().map(|(node, entry)| (*node, entry.offer.rank)).collect();
        assert_eq!(registered, known);
    }
}
