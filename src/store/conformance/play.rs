//! Random calls of every script, in every state of a key: what a real server answers and then holds, is what the spec says.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::Ordering;

use super::coverage::{Coverage, State};
use super::draw::{self, KEPT_MS, KEYS, LEASES_MS, NODES};
use super::server::{Link, now};
use super::spec::{Refusal, Sender, Spec, Stands};
use crate::domain::{CallId, Fence, LockKey, WallClock};
use crate::locks::rank::{Place, Rank};
use crate::locks::{Form, Offer, Task};
use crate::store::reply::Reply;
use crate::store::value::Fields;
use crate::store::{
    Acquired, AllAcquired, AllAsked, Ask, Freed, HandedOver, Outcome, Store, StoreError, Times, Transfer, companion,
};

/// Whatever a busy machine adds to a lease; leases differ by more, in ms.
const STALL_MS: u64 = LEASES_MS[0] / 3;

/// A server, what the spec says of it, and nodes that know of some waiters.
pub struct Play<'a> {
    dice: fastrand::Rng,
    link: Link,
    stores: Vec<Store>,
    spec: Spec,
    coverage: &'a mut Coverage,
    last_call: u64,
    sent_us: u64,
    /// Waiters that scripts may carry, by key and node.
    waiters: BTreeMap<(usize, usize), Vec<Offer>>,
    /// Values that stood there once.
    past: Vec<Vec<u8>>,
    told: Vec<String>,
}

/// What a call does, on which key, through which node.
struct Turn {
    at: usize,
    node: usize,
    sender: Sender,
    times: Times,
    offers: Vec<Offer>,
    is_rule_key: bool,
}

impl<'a> Play<'a> {
    /// Nothing stands upstream.
    pub fn new(seed: u64, link: &Link, coverage: &'a mut Coverage) -> Self {
        link.run(&[b"FLUSHALL"]);
        let mut dice = fastrand::Rng::with_seed(seed);
        let stores = NODES.map(|node| {
            let store = Store::new(node.into(), WallClock::default(), draw::one_of(&mut dice, &KEPT_MS));
            match dice.u8(..3) {
                0 => store.floor.store(1, Ordering::Relaxed),
                1 => store.met_master(link.now_us(), true),
                _ => {}
            }
            store
        });
        Play {
            dice,
            link: link.clone(),
            stores: stores.into(),
            spec: Spec::default(),
            coverage,
            last_call: 1_763_740_000_000_000,
            sent_us: 1_763_740_000_000_000,
            waiters: BTreeMap::new(),
            past: vec![b"another".to_vec()],
            told: Vec::new(),
        }
    }

    /// One call, and what stands afterwards.
    pub fn step(&mut self) {
        let turn = self.turn();
        match self.dice.u8(..40) {
            0..=9 => self.acquire(&turn),
            10..=16 => self.hand_over(&turn),
            17..=20 => self.release(&turn),
            21..=24 => self.extend(&turn),
            25..=26 => self.renew(&turn),
            27..=28 => self.transfer(&turn),
            29..=31 => self.acquire_all(&turn),
            32 => self.clean(&turn),
            33 => self.look(&turn),
            34 => self.lead(&turn),
            _ => self.around(&turn),
        }
        self.compare(turn.at);
        if self.dice.u8(..20) == 0 {
            (0..KEYS.len()).for_each(|at| self.compare(at));
        }
    }

    fn turn(&mut self) -> Turn {
        self.sent_us += self.dice.u64(1..2000);
        let (node, at) =
            (self.dice.usize(..NODES.len()), if self.dice.bool() { 0 } else { self.dice.usize(..KEYS.len()) });
        let knows_us = if self.dice.u8(..3) == 0 { self.sent_us - self.dice.u64(1..5000) } else { self.sent_us };
        let offers = draw::offers(&mut self.dice, self.waiters.entry((at, node)).or_default());
        // A call that is registered, and is said to be of an earlier life.
        let mine = self.spec.queues.get(KEYS[at]).and_then(|queue| queue.waiters.get(NODES[node]));
        let left_over = mine.map(|mine| mine.offer.call).filter(|_| self.dice.u8(..4) == 0);
        let store = &self.stores[node];
        let sender = Sender {
            node: NODES[node].into(),
            sent_us: self.sent_us,
            knows_us,
            left_over,
            floor: store.floor.load(Ordering::Relaxed).max(store.fence_max.load(Ordering::Relaxed) + 1),
            ahead_us: store.ahead_us(),
            kept_ms: store.queue_kept_ms.load(Ordering::Relaxed),
        };
        let times = Times { sent_us: self.sent_us, knows_us, left_over };
        Turn { at, node, sender, times, offers, is_rule_key: self.dice.bool() }
    }

    fn call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(self.last_call)
    }

    fn name(turn: &Turn) -> LockKey {
        LockKey::new(0, KEYS[turn.at])
    }

    fn state(&self, turn: &Turn, owner: Option<&[u8]>) -> State {
        State::of(&self.spec, KEYS[turn.at], owner, turn.is_rule_key)
    }

    fn tell(&mut self, turn: &Turn, call: &dyn Debug) {
        let key = KEYS[turn.at].escape_ascii();
        self.told.push(format!("{key} by {} with {:?}: {call:?}", turn.sender.node, turn.offers));
    }

    /// The call has run upstream: the spec goes on from the same moment.
    fn has_run(&mut self) {
        self.spec.now_us = self.link.now_us();
        self.spec.ending = None;
        self.spec.counted = match self.link.run(&[b"GET", companion::FENCE_COUNTER]) {
            Reply::Text(text) => {
                std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).into_iter().collect()
            }
            _ => VecDeque::new(),
        };
    }

    fn is_same<T: Debug>(&self, real: &Result<T, StoreError>, expected: &Result<T, Refusal>) {
        let real = match real {
            Ok(real) => format!("{real:?}"),
            Err(StoreError::NotALock(_)) => format!("{:?}", Refusal::NotALock),
            Err(StoreError::Refused(line)) if line.starts_with("WRONGTYPE") => format!("{:?}", Refusal::WrongType),
            Err(error) => format!("{error:?}"),
        };
        let expected =
            expected.as_ref().map_or_else(|refusal| format!("{refusal:?}"), |expected| format!("{expected:?}"));
        assert_eq!(real, expected, "what a server says, and what was expected\n{}", self.story());
    }

    fn story(&self) -> String {
        self.told[self.told.len().saturating_sub(6)..].join("\n")
    }

    fn acquire(&mut self, turn: &Turn) {
        let (key, call) = (Self::name(turn), self.call());
        let now_us = self.link.now_us();
        let form = draw::form(&mut self.dice, now_us / 1000);
        let (level, standing) = draw::level_and_standing(&mut self.dice, call, now_us);
        let ask = Ask { call, form: form.clone(), level, standing };
        self.tell(turn, &ask);
        let (command, owner) = match &form {
            Form::Lock { owner, .. } => ("acquire", Some(owner.clone())),
            Form::Plain { .. } => ("set_nx", None),
        };
        let state = self.state(turn, owner.as_ref().map(|owner| owner.as_bytes()));
        let store = &self.stores[turn.node];
        let mut real = now(store.acquire(&self.link, &key, &ask, &turn.offers, turn.times, turn.is_rule_key));
        self.has_run();
        let arrival = match &real {
            Ok(Acquired::Refused(_, _, at) | Acquired::HandedOver(_, _, at)) => *at,
            _ => self.spec.now_us,
        };
        let expected = self.spec.acquire(KEYS[turn.at], &turn.sender, &ask, &turn.offers, (arrival, turn.is_rule_key));
        if let (Ok(Acquired::Refused(real, ..)), Ok(Acquired::Refused(expected, ..))) = (&mut real, &expected) {
            settle(&mut real.left_ms, expected.left_ms);
        }
        // The quickest way of a script says less where nobody waits.
        if let (Ok(Acquired::Granted(_, real)), Ok(Acquired::Granted(_, None))) = (&mut real, &expected) {
            *real = real.filter(Option::is_some);
        }
        self.is_same(&real, &expected);
        let outcome = match &expected {
            Ok(Acquired::Granted(..)) => "granted",
            Ok(Acquired::Repeated(..)) => "repeated",
            Ok(Acquired::HandedOver(..)) => "handed over",
            Ok(Acquired::Refused(..)) => "refused",
            Ok(Acquired::NotSet) => "not set",
            Err(refusal) => refusal.word(),
        };
        self.coverage.saw(command, state, outcome);
        let is_refused = matches!(expected, Ok(Acquired::HandedOver(..) | Acquired::Refused(..)));
        if is_refused && standing.waits {
            let place = Place { arrival_us: standing.arrival_us.unwrap_or(arrival), first_call: standing.first_call };
            let rank = Rank::new(level, place, standing.promote_after_us);
            let waiters = self.waiters.entry((turn.at, turn.node)).or_default();
            waiters.push(Offer { call, rank, level, form, claim_ms: standing.claim_ms });
            if waiters.len() > 4 {
                waiters.remove(self.dice.usize(..5));
            }
        }
    }

    /// The value that a node would name: the present one, mostly.
    fn a_value(&mut self, at: usize) -> Vec<u8> {
        match self.spec.text(KEYS[at]) {
            Ok(Some((value, _))) if self.dice.u8(..4) > 0 => value.to_vec(),
            _ => draw_one(&mut self.dice, &self.past),
        }
    }

    fn hand_over(&mut self, turn: &Turn) {
        let value = self.a_value(turn.at);
        let claim = Fields::read(&value).filter(|fields| fields.is_claim).and_then(|claim| CallId::parse(claim.call));
        let (what, task) = match (self.dice.u8(..4), claim) {
            (0..=1, Some(call)) => {
                let known = self.waiters.values().flatten().find(|offer| offer.call == call).cloned();
                let now_ms = self.link.now_us() / 1000;
                let place = Place { arrival_us: 1, first_call: call };
                let offer = known.unwrap_or_else(|| Offer {
                    call,
                    rank: Rank::new(draw::level(&mut self.dice), place, 0),
                    level: draw::level(&mut self.dice),
                    form: draw::form(&mut self.dice, now_ms),
                    claim_ms: draw::lease_ms(&mut self.dice),
                });
                ("confirm", Task::Confirm { claim: value.into(), offer })
            }
            (0..=2, _) => ("take back", Task::TakeBack(value.into())),
            _ => ("look around", Task::Look),
        };
        self.tell(turn, &task);
        let (key, state) = (Self::name(turn), self.state(turn, None));
        let store = &self.stores[turn.node];
        let mut real = now(store.hand_over(&self.link, &key, &task, &turn.offers, turn.times, turn.is_rule_key));
        self.has_run();
        let expected = self.spec.hand_over(KEYS[turn.at], &turn.sender, &task, &turn.offers, turn.is_rule_key);
        if let (Ok(HandedOver::Held(real, _)), Ok(HandedOver::Held(expected, _))) = (&mut real, &expected) {
            settle(&mut real.left_ms, expected.left_ms);
        }
        self.is_same(&real, &expected);
        let outcome = match &expected {
            Ok(HandedOver::To(..)) => "handed over",
            Ok(HandedOver::Confirmed(..)) => "confirmed",
            Ok(HandedOver::Free(_)) => "free",
            Ok(HandedOver::Over(_)) => "over",
            Ok(HandedOver::Held(..)) => "held",
            Err(refusal) => refusal.word(),
        };
        self.coverage.saw(what, state, outcome);
    }

    /// An owner, and a fence that is his, another's or none.
    fn owner_and_fence(&mut self, at: usize) -> (Vec<u8>, Option<Fence>) {
        let owner = draw::owner(&mut self.dice).as_bytes().to_vec();
        let held =
            self.spec.text(KEYS[at]).ok().flatten().and_then(|(value, _)| Fields::read(value).map(|f| f.fence.0));
        let fence = match (self.dice.u8(..4), held) {
            (0, Some(fence)) => Some(fence),
            (1, Some(fence)) => Some(fence.saturating_sub(1)),
            (1, None) => Some(5),
            _ => None,
        };
        (owner, fence.map(Fence))
    }

    fn release(&mut self, turn: &Turn) {
        let (owner, fence) = self.owner_and_fence(turn.at);
        let is_forced = self.dice.u8(..5) == 0;
        let (by, fence) = if is_forced { (None, None) } else { (Some(&owner[..]), fence) };
        self.tell(turn, &("release", by.map(|by| by.escape_ascii().to_string()), fence));
        let (key, state) = (Self::name(turn), self.state(turn, by));
        let store = &self.stores[turn.node];
        let mut real = now(store.release(&self.link, &key, by, fence, &turn.offers, turn.times, turn.is_rule_key));
        self.has_run();
        let at_us = real.as_ref().ok().and_then(|freed| freed.at_us);
        let terms = (turn.is_rule_key, at_us);
        let expected = self.spec.release(KEYS[turn.at], &turn.sender, (by, fence), &turn.offers, terms);
        if let (Ok(Freed { registered: real, .. }), Ok(Freed { registered: None, .. })) = (&mut real, &expected) {
            *real = real.filter(Option::is_some);
        }
        self.is_same(&real, &expected);
        let outcome = match &expected {
            Ok(Freed { outcome: Outcome::Released, handed: Some(_), .. }) => "1, handed over",
            Ok(Freed { outcome: Outcome::HeldByNobody, handed: Some(_), .. }) => "-1, handed over",
            Ok(freed) => word(freed.outcome),
            Err(refusal) => refusal.word(),
        };
        self.coverage.saw(if is_forced { "force" } else { "release" }, state, outcome);
    }

    fn extend(&mut self, turn: &Turn) {
        let ((owner, fence), lease_ms) = (self.owner_and_fence(turn.at), draw::lease_ms(&mut self.dice));
        self.tell(turn, &("extend", owner.escape_ascii().to_string(), fence, lease_ms));
        let (key, state) = (Self::name(turn), self.state(turn, Some(&owner)));
        let store = &self.stores[turn.node];
        let real = now(store.extend(&self.link, &key, &owner, fence, lease_ms, turn.is_rule_key));
        self.has_run();
        let expected = self.spec.extend(KEYS[turn.at], (&owner, fence), lease_ms, turn.is_rule_key);
        self.is_same(&real, &expected);
        self.coverage.saw("extend", state, expected.map_or_else(|refusal| refusal.word(), word));
    }

    fn renew(&mut self, turn: &Turn) {
        let (value, lease_ms) = (self.a_value(turn.at), draw::lease_ms(&mut self.dice));
        self.tell(turn, &("renew", value.escape_ascii().to_string(), lease_ms));
        let (key, state) = (Self::name(turn), self.state(turn, Fields::read(&value).map(|fields| fields.owner)));
        let real = now(self.stores[turn.node].renew(&self.link, &key, &value, lease_ms));
        self.has_run();
        let expected = self.spec.renew(KEYS[turn.at], &value, lease_ms);
        self.is_same(&real, &expected);
        let outcome = expected.map_or_else(|refusal| refusal.word(), |renewed| if renewed { "1" } else { "0" });
        self.coverage.saw("renew", state, outcome);
    }

    fn transfer(&mut self, turn: &Turn) {
        let ((from, fence), to) = (self.owner_and_fence(turn.at), draw::owner(&mut self.dice));
        let (call, lease_ms) = (self.call(), self.dice.bool().then(|| draw::lease_ms(&mut self.dice)));
        let transfer =
            Transfer { from: &from, fence, to: to.as_bytes(), lease_ms, call, now_ms: turn.times.sent_us / 1000 };
        self.tell(turn, &transfer);
        let (key, state) = (Self::name(turn), self.state(turn, Some(&from)));
        let mut real = now(self.stores[turn.node].transfer(&self.link, &key, &transfer, turn.is_rule_key));
        self.has_run();
        let expected = self.spec.transfer(KEYS[turn.at], &turn.sender, &transfer, turn.is_rule_key);
        if let (Ok(Some(real)), Ok(Some(expected))) = (&mut real, &expected) {
            settle(&mut real.left_ms, expected.left_ms);
        }
        self.is_same(&real, &expected);
        let outcome = match &expected {
            Ok(Some(_)) => "moved",
            Ok(None) => "nil",
            Err(refusal) => refusal.word(),
        };
        self.coverage.saw("transfer", state, outcome);
    }

    fn acquire_all(&mut self, turn: &Turn) {
        let mut all: Vec<usize> = (0..KEYS.len()).collect();
        self.dice.shuffle(&mut all);
        // The key of this turn is among them.
        all.retain(|at| *at != turn.at);
        all.truncate(self.dice.usize(..KEYS.len()));
        all.insert(self.dice.usize(..=all.len()), turn.at);
        let (owner, level, lease_ms) =
            (draw::owner(&mut self.dice), draw::level(&mut self.dice), draw::lease_ms(&mut self.dice));
        // Now and then the reply to an earlier try of the same call was lost.
        let call = if self.dice.bool() { self.call() } else { CallId(self.last_call) };
        let asked = AllAsked { owner: owner.as_bytes(), call, level, lease_ms, now_ms: turn.times.sent_us / 1000 };
        self.tell(turn, &("acquire all", &all, owner.as_bytes().escape_ascii().to_string(), call, lease_ms));
        let names: Vec<Vec<u8>> = all.iter().map(|at| KEYS[*at].to_vec()).collect();
        let is_rule_key = turn.is_rule_key;
        let states: Vec<State> =
            names.iter().map(|key| State::of(&self.spec, key, Some(owner.as_bytes()), is_rule_key)).collect();
        let locks: Vec<LockKey> = all.iter().map(|at| LockKey::new(0, KEYS[*at])).collect();
        let real = now(self.stores[turn.node].acquire_all(&self.link, &locks, &asked, |_| is_rule_key));
        self.has_run();
        if let Ok(AllAcquired::Granted(taken)) = &real {
            let new = taken.iter().filter(|taken| taken.before.is_none());
            self.spec.counted = new.map(|taken| taken.grant.fence.0).collect();
        }
        let expected = self.spec.acquire_all(&names, &turn.sender, &asked, is_rule_key);
        self.is_same(&real, &expected);
        self.covers_all(&states, &expected);
        all.into_iter().for_each(|at| self.compare(at));
    }

    /// What is refused is so for its first key that is neither free nor the owner's.
    fn covers_all(&mut self, states: &[State], outcome: &Result<AllAcquired, Refusal>) {
        let first = states.iter().find(|state| !matches!(state, State::Free | State::Own)).copied();
        let first = first.unwrap_or(State::Free);
        match outcome {
            Ok(AllAcquired::Granted(taken)) => {
                for (state, taken) in states.iter().zip(taken) {
                    let what = match (taken.is_new, &taken.before) {
                        (true, None) => "new",
                        (true, Some(_)) => "taken before",
                        (false, _) => "repeated",
                    };
                    self.coverage.saw("acquire_all", *state, what);
                }
            }
            Ok(AllAcquired::InTheWay { is_bridge: true, .. }) => self.coverage.saw("acquire_all", first, "bridge"),
            Ok(AllAcquired::InTheWay { .. }) => self.coverage.saw("acquire_all", first, "in the way"),
            Err(refusal) => self.coverage.saw("acquire_all", first, refusal.word()),
        }
    }

    fn look(&mut self, turn: &Turn) {
        let is_to_change = self.dice.bool();
        self.tell(turn, &if is_to_change { "look to change" } else { "look" });
        let (key, state, store) = (Self::name(turn), self.state(turn, None), &self.stores[turn.node]);
        let mut real = match is_to_change {
            true => now(store.look_to_change(&self.link, &key, turn.is_rule_key)),
            false => now(store.look(&self.link, &key, turn.is_rule_key)),
        };
        self.has_run();
        let expected = self.spec.look(KEYS[turn.at], turn.is_rule_key);
        if let (Ok(Some(real)), Ok(Some(expected))) = (&mut real, &expected) {
            settle(&mut real.left_ms, expected.left_ms);
        }
        self.is_same(&real, &expected);
        let outcome = match &expected {
            Ok(Some(_)) => "held",
            Ok(None) => "free",
            Err(refusal) => refusal.word(),
        };
        self.coverage.saw("look", state, outcome);
    }

    fn clean(&mut self, turn: &Turn) {
        let mut read = Vec::new();
        for node in NODES {
            if self.dice.bool() {
                continue;
            }
            let known = self.spec.queues.get(KEYS[turn.at]).and_then(|queue| queue.waiters.get(node));
            let text = match known {
                // What was registered anew since it was read stays.
                Some(waiter) if self.dice.bool() => waiter.text(),
                Some(waiter) => [&waiter.text(), &b"x"[..]].concat(),
                None => b"nobody".to_vec(),
            };
            read.push((node.as_bytes().to_vec(), text));
        }
        self.tell(turn, &("clean", read.len()));
        let (queue, state) = (companion::queue(&Self::name(turn)), self.state(turn, None));
        let real = now(self.stores[turn.node].clean(&self.link, &queue, &read)).expect("it is a queue or none");
        self.has_run();
        let expected = self.spec.clean(KEYS[turn.at], &read);
        assert_eq!(real, expected, "{}", self.story());
        self.coverage.saw("clean", state, if expected > 0 { "some" } else { "none" });
    }

    fn lead(&mut self, turn: &Turn) {
        let lease_ms = if self.dice.bool() { draw::lease_ms(&mut self.dice) } else { 0 };
        let me = draw::one_of(&mut self.dice, &["n", "n:1"]);
        self.tell(turn, &("lead", me, lease_ms));
        let state = State::of(&self.spec, companion::LEADER, Some(me.as_bytes()), true);
        let real = now(self.stores[turn.node].lead(&self.link, me, lease_ms));
        self.has_run();
        let expected = self.spec.lead(companion::LEADER, me, lease_ms);
        self.is_same(&real, &expected);
        self.coverage.saw("lead", state, if expected == Ok(true) { "1" } else { "0" });
        self.compare_lock(companion::LEADER);
    }

    /// Somebody goes around Lockgate, or time does.
    fn around(&mut self, turn: &Turn) {
        let key = KEYS[turn.at];
        let lease_ms = draw::lease_ms(&mut self.dice).to_string();
        self.told.push(format!("{} is changed around us", key.escape_ascii()));
        let kind = match self.dice.u8(..15) {
            // No string stays one for long.
            _ if self.spec.locks.get(key) == Some(&Stands::NoString) => 0,
            kind => kind,
        };
        self.spec.now_us = self.link.now_us();
        let until_ms = self.spec.now_us / 1000 + lease_ms.parse::<u64>().expect("a number");
        match kind {
            0..=1 => {
                self.link.run(&[b"DEL", key]);
                self.spec.locks.remove(key);
            }
            2..=3 => self.expires(key),
            4..=6 | 12.. => {
                let value = draw::around(&mut self.dice);
                let is_forever = self.dice.bool();
                match is_forever {
                    true => self.link.run(&[b"SET", key, &value]),
                    false => self.link.run(&[b"SET", key, &value, b"PX", lease_ms.as_bytes()]),
                };
                self.spec.locks.insert(key.to_vec(), Stands::Text(value, (!is_forever).then_some(until_ms)));
            }
            7 => {
                self.link.run(&[b"DEL", key]);
                self.link.run(&[b"HSET", key, b"f", b"v"]);
                self.spec.locks.insert(key.to_vec(), Stands::NoString);
            }
            8 => {
                self.link.run(&[b"PERSIST", key]);
                if let Some(Stands::Text(_, until_ms)) = self.spec.locks.get_mut(key) {
                    *until_ms = None;
                }
            }
            9 => {
                // The queue is older than what it was kept for.
                let queue = companion::queue(&LockKey::new(0, key));
                self.link.run(&[b"PEXPIRE", &queue, lease_ms.as_bytes()]);
                if let Some(queue) = self.spec.queues.get_mut(key) {
                    queue.until_ms = until_ms;
                }
            }
            10 => {
                self.link.run(&[b"DEL", companion::FENCE_COUNTER]);
                self.spec.counter = None;
            }
            11 => {
                // Behind, far ahead, or no number at all.
                let rubbish =
                    draw::one_of(&mut self.dice, &["17", "9007199254740991", "x", "", "123456789012345678901"]);
                self.link.run(&[b"SET", companion::FENCE_COUNTER, rubbish.as_bytes()]);
                self.spec.counter = Some(rubbish.into());
            }
        }
    }

    fn expires(&mut self, key: &[u8]) {
        if self.spec.locks.remove(key).is_some() {
            self.link.lets_expire(key);
        }
    }

    fn compare(&mut self, at: usize) {
        let key = KEYS[at];
        self.compare_lock(key);
        let queue = companion::queue(&LockKey::new(0, key));
        let Reply::Array(entries) = self.link.run(&[b"HGETALL", &queue]) else { panic!("the queue is a hash") };
        let real: BTreeMap<Vec<u8>, Vec<u8>> =
            entries.chunks(2).map(|pair| (text_of(&pair[0]), text_of(&pair[1]))).collect();
        let known = self.spec.queues.get(key);
        let expected = known.map(|queue| queue.waiters.iter().map(|(node, w)| (node.clone().into_bytes(), w.text())));
        let expected: BTreeMap<_, _> = expected.into_iter().flatten().collect();
        let shown = |all: &BTreeMap<Vec<u8>, Vec<u8>>| {
            format!(
                "{:?}",
                all.iter()
                    .map(|(node, waiter)| (node.escape_ascii().to_string(), waiter.escape_ascii().to_string()))
                    .collect::<Vec<_>>()
            )
        };
        assert_eq!(shown(&real), shown(&expected), "the queue\n{}", self.story());
        if let Some(queue) = known {
            self.same_lease(&companion::queue(&LockKey::new(0, key)), Some(queue.until_ms));
        }
        let counter = match self.link.run(&[b"GET", companion::FENCE_COUNTER]) {
            Reply::Text(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            _ => None,
        };
        assert_eq!(counter, self.spec.counter, "the counter\n{}", self.story());
    }

    fn compare_lock(&mut self, key: &[u8]) {
        let real = self.link.run(&[b"GET", key]);
        let known = self.spec.locks.get(key).cloned();
        match (real, known) {
            (Reply::Nil, None) | (Reply::Error(_), Some(Stands::NoString)) => {}
            (Reply::Text(value), Some(Stands::Text(expected, until_ms))) => {
                let (shown, wanted) = (value.escape_ascii().to_string(), expected.escape_ascii().to_string());
                assert_eq!(shown, wanted, "what stands, and what was expected\n{}", self.story());
                self.same_lease(key, until_ms);
                if self.past.last() != Some(&value) {
                    self.past.push(value);
                }
            }
            (real, known) => panic!("{real:?} stands, expected was {known:?}\n{}", self.story()),
        }
    }

    fn same_lease(&self, key: &[u8], until_ms: Option<u64>) {
        let Reply::Integer(left) = self.link.run(&[b"PTTL", key]) else { panic!("PTTL is a number") };
        let expected = until_ms.map_or(-1, |until| until as i64 - (self.link.now_us() / 1000) as i64);
        let is_same = if expected < 0 { left == expected } else { left.abs_diff(expected) < STALL_MS };
        assert!(is_same, "{} has {left} ms left, expected were {expected}\n{}", key.escape_ascii(), self.story());
    }
}

/// What a busy machine adds is no difference.
fn settle(real: &mut Option<u64>, expected: Option<u64>) {
    if let (Some(left), Some(expected)) = (&mut *real, expected)
        && left.abs_diff(expected) < STALL_MS
    {
        *left = expected;
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Released => "1",
        Outcome::HeldByAnother => "0",
        Outcome::HeldByNobody => "-1",
    }
}

fn text_of(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Text(text) => text.clone(),
        other => panic!("a text was expected, not {other:?}"),
    }
}

fn draw_one(dice: &mut fastrand::Rng, all: &[Vec<u8>]) -> Vec<u8> {
    all[dice.usize(..all.len())].clone()
}
