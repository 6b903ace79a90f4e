//! The scripts' semantics on one key, in Rust: what `lua/*.lua` do on a real server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::rank::{Place, Rank};
use super::super::*;
use crate::domain::{CallId, Fence, Moment, PlainLease};

/// What stands in the key. Every hold has a number of its own, which a real key does not have: the checks need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Grows with every change of holder.
    pub hold: u64,
    /// The fence that the holder is told; 0 for what SET NX wrote.
    pub fence: u64,
    pub holder: Holder,
    pub until: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Holder {
    /// Taken around us, or by nobody that the story knows.
    Stranger,
    Lock {
        owner: u64,
        node: usize,
        call: u64,
        is_repeat: bool,
        is_claim: bool,
    },
    /// What a SET NX wrote, and for whom, which nobody can read off the key.
    Plain {
        call: u64,
    },
}

/// Masters' clocks differ by less than an hour.
pub const LAG_MAX_US: u64 = 3_600_000_000;

/// The value that all SET NX of the story write.
pub const PLAIN: &[u8] = b"v";

impl Key {
    pub fn value(&self) -> Arc<[u8]> {
        match &self.holder {
            Holder::Stranger => Arc::from(&b"stranger"[..]),
            Holder::Plain { .. } => Arc::from(PLAIN),
            Holder::Lock { owner, node, call, is_repeat, is_claim } => {
                format!("o{owner} {} {node}:{call} {is_repeat} {is_claim}", self.fence).into_bytes().into()
            }
        }
    }

    pub fn is_claim(&self) -> bool {
        matches!(self.holder, Holder::Lock { is_claim: true, .. })
    }

    pub fn call(&self) -> Option<u64> {
        match &self.holder {
            Holder::Stranger => None,
            Holder::Lock { call, .. } | Holder::Plain { call } => Some(*call),
        }
    }

    fn named(&self, node: usize) -> Option<Named> {
        match &self.holder {
            Holder::Lock { node: of, call, is_repeat, is_claim, .. } if *of == node => Some(Named {
                call: CallId(*call),
                fence: Fence(self.fence),
                is_repeat: *is_repeat,
                is_claim: *is_claim,
            }),
            _ => None,
        }
    }
}

/// A registered waiter.
#[derive(Debug, Clone)]
pub struct Entry {
    pub offer: Offer,
    /// When the try was sent that registered it; `None` where its node did, knowing it.
    pub sent: Option<Moment>,
}

/// What has just been granted, for the checks.
#[derive(Debug, Clone)]
pub struct Given {
    pub call: u64,
    /// When the asker came, for one who never waited.
    pub rank: Rank,
}

#[derive(Debug, Default)]
pub struct Upstream {
    pub key: Option<Key>,
    pub queue: BTreeMap<usize, Entry>,
    pub holds: u64,
    /// What INCR counts.
    pub counter: u64,
    /// The lowest fence that the script under way may give.
    pub floor: u64,
    /// By how much its node lets fences run ahead of the clock.
    pub ahead: u64,
    /// By how much this master's clock is behind that of the world.
    pub lag_us: u64,
    /// The highest fence that was ever given: unlike the rest, no failover takes it back.
    pub fence_max: u64,
    /// Nodes that are told of the next change of the key.
    pub armed: Vec<usize>,
    /// Grants since they were last taken.
    pub given: Vec<Given>,
    /// Holds that ended, and why.
    pub ended: HashMap<u64, &'static str>,
}

/// A script as it travels.
#[derive(Debug, Clone)]
pub enum Script {
    Acquire { asked: AskedFor, standing: Standing, turn: Turn },
    HandOver { task: Task, turn: Turn },
    Release { owner: u64, turn: Turn },
}

/// What it answers.
#[derive(Debug, Clone)]
pub enum Answered {
    Acquire(Tried),
    HandOver(Handing),
    Release(Released),
}

impl Upstream {
    pub fn expire(&mut self, now: Moment) -> Option<Key> {
        let key = self.key.take_if(|key| key.until.is_some_and(|until| until <= now))?;
        self.ended.insert(key.hold, "expired");
        Some(key)
    }

    pub fn run(&mut self, node: usize, script: &Script, now: Moment) -> Answered {
        match script {
            Script::Acquire { asked, standing, turn } => {
                Answered::Acquire(self.acquire(node, asked, standing, turn, now))
            }
            Script::HandOver { task, turn } => Answered::HandOver(self.hand_over(node, task, turn, now)),
            Script::Release { owner, turn } => Answered::Release(self.release(node, *owner, turn, now)),
        }
    }

    /// What its clock says, in µs.
    pub fn time(&self, now: Moment) -> u64 {
        now.0 + LAG_MAX_US - self.lag_us
    }

    pub fn seen(&self, node: usize, now: Moment) -> Option<Seen> {
        let key = self.key.as_ref()?;
        let left_ms = key.until.map(|until| until.since_us(now) / 1000);
        let by = match &key.holder {
            Holder::Lock { owner, is_claim: false, .. } => Some(super::owner_id(*owner)),
            _ => None,
        };
        Some(Seen { value: key.value(), left_ms, ours: key.named(node), by })
    }

    pub fn registered(&self, node: usize) -> Registered {
        self.queue.get(&node).map(|entry| entry.offer.call)
    }

    fn write(&mut self, holder: Holder, until: Option<Moment>, is_plain: bool, now: Moment) -> u64 {
        self.holds += 1;
        let mut fence = 0;
        if !is_plain {
            self.counter = (self.counter + 1).max(self.time(now) + self.ahead).max(self.floor);
            fence = self.counter;
            assert!(fence > self.fence_max, "the fence {fence} comes after {}", self.fence_max);
            self.fence_max = fence;
        }
        self.key = Some(Key { hold: self.holds, fence, holder, until });
        self.holds
    }

    /// When its clock shows that, in Unix ms.
    fn when(&self, at_ms: u64) -> Moment {
        Moment((at_ms * 1000).saturating_sub(LAG_MAX_US - self.lag_us))
    }

    fn lease(&self, form: &Form, now: Moment) -> Option<Moment> {
        match form {
            Form::Lock { lease_ms, .. } => Some(now.plus_ms(*lease_ms)),
            Form::Plain { lease: PlainLease::Ms(ms), .. } => Some(now.plus_ms(*ms)),
            Form::Plain { lease: PlainLease::AtMs(at_ms), .. } => Some(self.when(*at_ms)),
            Form::Plain { .. } => None,
        }
    }

    fn take(&mut self, node: usize, call: CallId, form: &Form, rank: Rank, now: Moment) -> Grant {
        let until = self.lease(form, now);
        let holder = match form {
            Form::Lock { owner, .. } => {
                let owner = super::owner_number(owner);
                Holder::Lock { owner, node, call: call.0, is_repeat: false, is_claim: false }
            }
            Form::Plain { .. } => Holder::Plain { call: call.0 },
        };
        let is_plain = matches!(form, Form::Plain { .. });
        self.write(holder, until, is_plain, now);
        self.given.push(Given { call: call.0, rank });
        self.grant(is_plain)
    }

    fn grant(&self, is_plain: bool) -> Grant {
        let key = self.key.as_ref().expect("just written");
        Grant { fence: Fence(if is_plain { 0 } else { key.fence }), value: key.value() }
    }

    fn with_newcomer(&self, node: usize, turn: &Turn) -> Vec<Entry> {
        let mut own: Vec<Entry> = turn.offers.iter().map(|offer| Entry { offer: offer.clone(), sent: None }).collect();
        if let Some(mine) = self.queue.get(&node)
            && mine.sent.is_some_and(|sent| sent > turn.knows_until)
            && turn.left_over != Some(mine.offer.call)
            && own.iter().all(|entry| entry.offer.call != mine.offer.call)
        {
            own.push(mine.clone());
            own.sort_by_key(|entry| entry.offer.rank);
        }
        own.truncate(2);
        own
    }

    fn register(&mut self, node: usize, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.queue.insert(node, entry)),
            None => drop(self.queue.remove(&node)),
        }
    }

    fn best_of_others(&self, node: usize) -> Option<(usize, Entry)> {
        let others = self.queue.iter().filter(|(of, _)| **of != node);
        others.min_by_key(|(of, entry)| (entry.offer.rank, **of)).map(|(of, entry)| (*of, entry.clone()))
    }

    fn give(&mut self, node: usize, of: usize, entry: &Entry, is_newcomer: bool, now: Moment) -> Handed {
        let offer = &entry.offer;
        let is_plain = matches!(offer.form, Form::Plain { .. });
        if node == of && !is_plain && !is_newcomer {
            return Handed::To { call: offer.call, grant: self.take(node, offer.call, &offer.form, offer.rank, now) };
        }
        let owner = match &offer.form {
            Form::Lock { owner, .. } => super::owner_number(owner),
            Form::Plain { .. } => u64::MAX,
        };
        let holder = Holder::Lock { owner, node: of, call: offer.call.0, is_repeat: false, is_claim: true };
        self.write(holder, Some(now.plus_ms(offer.claim_ms)), is_plain, now);
        self.given.push(Given { call: offer.call.0, rank: offer.rank });
        if node != of {
            self.queue.remove(&of);
        }
        let value = self.key.as_ref().expect("just written").value();
        Handed::Claimed { call: (node == of).then_some(offer.call), value }
    }

    fn take_turns(&mut self, node: usize, own: Vec<Entry>, now: Moment) -> Option<(Handed, Registered)> {
        let other = self.best_of_others(node);
        let mut own = own.into_iter();
        let (first, second) = (own.next(), own.next());
        let handed = match (&first, &other) {
            (None, None) => {
                self.register(node, None);
                return None;
            }
            (Some(first), other)
                if other.as_ref().is_none_or(|(of, other)| (first.offer.rank, node) < (other.offer.rank, *of)) =>
            {
                let handed = self.give(node, node, first, first.sent.is_some(), now);
                self.register(node, second);
                handed
            }
            (first, Some((of, other))) => {
                let handed = self.give(node, *of, other, false, now);
                self.register(node, first.clone());
                handed
            }
            (Some(_), None) => unreachable!("covered by the guard"),
        };
        Some((handed, self.registered(node)))
    }

    fn acquire(&mut self, node: usize, asked: &AskedFor, standing: &Standing, turn: &Turn, now: Moment) -> Tried {
        let arrival_us = now.0;
        let place = Place { arrival_us: standing.arrival_us.unwrap_or(now.0), first_call: standing.first_call };
        let rank = Rank::new(asked.level, place, standing.promote_after_us);
        let asker = Entry {
            offer: Offer {
                call: asked.call,
                rank,
                level: asked.level,
                form: asked.form.clone(),
                claim_ms: standing.claim_ms,
            },
            sent: Some(turn.at),
        };
        let Some(key) = self.key.clone() else {
            let mut own = self.with_newcomer(node, turn);
            let other = self.best_of_others(node);
            let is_first = own.first().is_none_or(|first| first.offer.rank >= rank)
                && other.is_none_or(|(of, other)| (rank, node) < (other.offer.rank, of));
            if is_first {
                let registered = if self.queue.is_empty() && turn.offers.is_empty() {
                    None
                } else {
                    self.register(node, own.into_iter().next());
                    Some(self.registered(node))
                };
                let grant = self.take(node, asked.call, &asked.form, rank, now);
                return Tried::Granted { grant, registered };
            }
            if standing.waits {
                own.push(asker);
                own.sort_by_key(|entry| entry.offer.rank);
                own.truncate(2);
            }
            let Some((handed, registered)) = self.take_turns(node, own, now) else {
                unreachable!("somebody ranks before the asker")
            };
            return Tried::HandedOver { handed, registered, arrival_us };
        };
        if let (Form::Lock { owner, lease_ms, .. }, Holder::Lock { owner: by, node: of, call, is_repeat, is_claim }) =
            (&asked.form, &key.holder)
            && super::owner_number(owner) == *by
        {
            let (before, ours) = (key.value(), key.named(node));
            let is_same = *of == node && *call == asked.call.0;
            let holder = Holder::Lock {
                owner: *by,
                node,
                call: asked.call.0,
                is_repeat: *is_repeat || !(is_same || *is_claim),
                is_claim: false,
            };
            self.key = Some(Key { holder, until: Some(now.plus_ms(*lease_ms)), ..key.clone() });
            return Tried::Repeated { grant: self.grant(false), before, was_claim: *is_claim, ours };
        }
        if !standing.waits && matches!(asked.form, Form::Plain { .. }) {
            return Tried::NotSet;
        }
        if standing.waits && self.queue.get(&node).is_none_or(|mine| rank < mine.offer.rank) {
            self.register(node, Some(asker));
        }
        let Some(seen) = self.seen(node, now) else { unreachable!("it is held") };
        Tried::Refused { seen, registered: standing.waits.then(|| self.registered(node)), arrival_us }
    }

    fn hand_over(&mut self, node: usize, task: &Task, turn: &Turn, now: Moment) -> Handing {
        let mut own = self.with_newcomer(node, turn);
        if let Some(key) = self.key.clone() {
            match task {
                Task::Confirm { claim, offer } if **claim == *key.value() => {
                    own.retain(|entry| entry.offer.call != offer.call);
                    if matches!(offer.form, Form::Plain { lease: PlainLease::AtMs(at_ms), .. } if self.when(at_ms) <= now)
                    {
                        self.register(node, own.into_iter().next());
                        return Handing::Over { registered: self.registered(node) };
                    }
                    let until = self.lease(&offer.form, now);
                    let is_plain = matches!(offer.form, Form::Plain { .. });
                    let holder = match key.holder.clone() {
                        _ if is_plain => Holder::Plain { call: offer.call.0 },
                        Holder::Lock { owner, node, call, .. } => {
                            Holder::Lock { owner, node, call, is_repeat: false, is_claim: false }
                        }
                        other => unreachable!("a claim is of the long form: {other:?}"),
                    };
                    self.key = Some(Key { holder, until, ..key });
                    self.register(node, own.into_iter().next());
                    return Handing::Confirmed { grant: self.grant(is_plain), registered: self.registered(node) };
                }
                Task::TakeBack(value) if **value == *key.value() => {
                    self.ended.entry(key.hold).or_insert("taken back");
                    self.key = None;
                }
                _ => {
                    self.register(node, own.into_iter().next());
                    let Some(seen) = self.seen(node, now) else { unreachable!("it is held") };
                    return Handing::Held { seen, registered: self.registered(node) };
                }
            }
        }
        match self.take_turns(node, own, now) {
            Some((handed, registered)) => Handing::To { handed, registered },
            None => Handing::Free { registered: None },
        }
    }

    fn release(&mut self, node: usize, owner: u64, turn: &Turn, now: Moment) -> Released {
        let is_his = |key: &mut Key| matches!(key.holder, Holder::Lock { owner: by, .. } if by == owner);
        if let Some(key) = self.key.clone()
            && let Holder::Lock { owner: by, node: of, call, is_claim: true, .. } = key.holder
            && by == owner
            && of != node
            && call != 0
        {
            // Only its node knows who is next there.
            self.ended.insert(key.hold, "released");
            self.holds += 1;
            let holder = Holder::Lock { owner: u64::MAX, node: of, call: 0, is_repeat: false, is_claim: true };
            self.key = Some(Key { hold: self.holds, fence: 0, holder, until: key.until });
            let value = self.key.as_ref().expect("just written").value();
            let own = self.with_newcomer(node, turn);
            self.register(node, own.into_iter().next());
            let handed = Handed::Claimed { call: None, value };
            return Released::Freed { handed: Some(handed), registered: Some(self.registered(node)) };
        }
        if let Some(key) = self.key.take_if(is_his) {
            self.ended.insert(key.hold, "released");
        }
        if self.key.is_some() {
            return Released::Kept;
        }
        if turn.offers.is_empty() && self.queue.is_empty() {
            return Released::Freed { handed: None, registered: None };
        }
        let own = self.with_newcomer(node, turn);
        match self.take_turns(node, own, now) {
            Some((handed, registered)) => Released::Freed { handed: Some(handed), registered: Some(registered) },
            None => Released::Freed { handed: None, registered: Some(None) },
        }
    }
}
