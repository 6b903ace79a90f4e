//! The line before one lock: the one place that decides between grant, timeout, cancel and a client that leaves. It lives while
//! somebody waits, is kept in mind, or has a script under way; a lock that is merely held needs none.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::call::{Call, Stage};
use super::event::{Action, Answer, AskedFor, Event, Grant, Named, Offer, Released, Seen, Tried};
use super::hand_on::may_send_after;
use super::rank::{Place, Rank};
use super::ranking::Ranking;
use crate::domain::{CallId, Moment, OwnerId};

/// What the configuration says about waiting.
#[derive(Debug, Clone, Copy)]
pub struct LineRules {
    /// By how much waiting outweighs one level, in µs; 0 for strict levels.
    pub promote_after_us: u64,
    /// Most waiters of one key.
    pub waiting_max: usize,
    /// How long the place of a client that left is kept in mind, in ms.
    pub place_kept_ms: u64,
    /// How often a waited-for key is looked at where nobody tells of changes around us, in ms; 0 for never.
    pub look_every_ms: u64,
    /// The first pause before something is tried again, in ms; it doubles each time.
    pub retry_base_ms: u64,
    /// The longest such pause, in ms.
    pub retry_max_ms: u64,
}

/// How often a call that may not wait is sent again when its reply was lost.
const LOST_TRIES_MAX: u32 = 3;

/// A lease that ends by itself needs no giving back; so much longer than the lease we try, in ms.
const GIVE_BACK_MARGIN_MS: u64 = 1000;

/// One owner's calls on this key.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// The call that has yet to be answered. There is one at most: a newer one takes over.
    pub living: Option<CallId>,
    /// The call whose try is under way.
    pub trying: Option<CallId>,
}

/// A value that is to be taken back.
#[derive(Debug, Clone)]
pub(super) struct GiveBack {
    pub value: Arc<[u8]>,
    pub until: Moment,
}

/// The line before one lock.
#[derive(Debug)]
pub struct Line {
    pub(super) rules: LineRules,
    pub(super) calls: HashMap<CallId, Call>,
    pub(super) owners: HashMap<OwnerId, Desk>,
    pub(super) queue: Ranking,
    /// Places of clients that left, and until when.
    kept: HashMap<OwnerId, (Place, Moment)>,
    kept_order: VecDeque<(Moment, OwnerId)>,
    pub(super) give_backs: VecDeque<GiveBack>,
    /// Calls that a lost reply may have granted to, and until when that matters.
    pub(super) unsettled: Vec<(CallId, Moment)>,
    /// Those of them that the look under way will settle.
    pub(super) settling: Vec<(CallId, Moment)>,
    /// What the hand-over under way takes back.
    pub(super) giving_back: Option<GiveBack>,
    /// A hand-over is under way.
    pub(super) is_handing: bool,
    /// The key may have come free.
    pub(super) wants_look: bool,
    /// When the present lease ends, as far as we know.
    pub(super) expires: Option<Moment>,
    /// When we last knew who held the key.
    pub(super) looked: Moment,
    /// After a failure: not before then.
    pub(super) retry_at: Option<Moment>,
    pub(super) failures: u32,
    /// How often the key has come free, or may have.
    pub(super) frees: u64,
    /// How often the key has changed hands, or its lease was set.
    pub(super) grants: u64,
    pub(super) grants_before_look: u64,
    /// The upstream's clock, Unix time in µs, and when it was read.
    clock: Option<(Moment, u64)>,
}

impl Line {
    /// A line nobody stands in.
    pub fn new(rules: LineRules, now: Moment) -> Self {
        Line {
            rules,
            calls: HashMap::new(),
            owners: HashMap::new(),
            queue: Ranking::default(),
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
            give_backs: VecDeque::new(),
            unsettled: Vec::new(),
            settling: Vec::new(),
            giving_back: None,
            is_handing: false,
            wants_look: false,
            expires: None,
            looked: now,
            retry_at: None,
            failures: 0,
            frees: 0,
            grants: 0,
            grants_before_look: 0,
            clock: None,
        }
    }

    /// What is to be done about `event`, now.
    ///
    /// After [`Event::Hint`] and [`Event::ShutsDown`] nothing is sent: whoever tells of those may have no link at hand. The timer,
    /// which [`Line::wake_at`] then asks for at once, does it.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        let may_send = may_send_after(&event);
        match event {
            Event::Asks(asked) => self.asks(asked, now, &mut out),
            Event::TriesAgain(call) => self.tries_again(call, now, &mut out),
            Event::Tried { call, offered, outcome } => self.tried(call, offered, outcome, now, &mut out),
            Event::Leaves(call) => self.end_living(call, None, true, now, &mut out),
            Event::TimesOut(call) => self.times_out(call, now, &mut out),
            Event::Cancels(owner) => self.end_calls_of(&owner, now, &mut out),
            Event::Releases { owner, ends_calls } => {
                if ends_calls {
                    self.end_calls_of(&owner, now, &mut out);
                }
                let offer = self.offer_first();
                out.push(Action::Release { offer });
            }
            Event::Released { owner, offered, outcome } => self.released(&owner, offered, outcome, now, &mut out),
            Event::GivesBack { value, lease_ms } => self.give_back(value, lease_ms, now),
            Event::Extended { lease_ms } => {
                self.grants += 1;
                self.expires = Some(now.plus_ms(lease_ms));
            }
            Event::HandedOver { offered, outcome } => self.handed_over(offered, outcome, now, &mut out),
            Event::Hint => self.wants_look = true,
            Event::Tick => self.forget_places(now),
            Event::ShutsDown => self.shuts_down(now, &mut out),
        }
        if may_send {
            self.hand_on(now, &mut out);
        }
        self.assert_sound();
        out
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// `true` while the owner has a call here that may wait and has no answer yet.
    pub fn waits(&self, owner: &OwnerId) -> bool {
        self.living_call(owner).is_some_and(|call| call.asked.may_wait)
    }

    /// The owner's place in line, from 1.
    pub fn position(&self, owner: &OwnerId) -> Option<usize> {
        let call = self.living_call(owner).filter(|call| call.is_queued)?;
        Some(self.queue.count_before(call.rank(self.rules.promote_after_us)?) + 1)
    }

    /// Nobody waits, is kept in mind, or has anything under way: the line can go.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.kept.is_empty() && self.give_backs.is_empty() && !self.is_handing
    }

    /// Somebody has to watch the time, see [`Line::wake_at`].
    pub fn needs_timer(&self) -> bool {
        !self.queue.is_empty() || !self.kept.is_empty() || !self.give_backs.is_empty() || !self.unsettled.is_empty()
    }

    /// When a [`Event::Tick`] is due, if nothing else happens before.
    pub fn wake_at(&self) -> Option<Moment> {
        let forget_at = self.kept_order.front().map(|(until, _)| *until);
        let work_at = if self.is_handing { None } else { self.work_at() };
        forget_at.into_iter().chain(work_at).min()
    }

    /// When there is something to ask the upstream.
    pub(super) fn work_at(&self) -> Option<Moment> {
        let is_due =
            !self.give_backs.is_empty() || !self.unsettled.is_empty() || (self.wants_look && !self.queue.is_empty());
        let at = if is_due {
            Moment::default()
        } else if self.queue.is_empty() {
            return None;
        } else {
            // A lease is over once its last millisecond is.
            let expired_at = self.expires.map(|expires| expires.plus_ms(1));
            let look_at = (self.rules.look_every_ms > 0).then(|| self.looked.plus_ms(self.rules.look_every_ms));
            expired_at.into_iter().chain(look_at).min()?
        };
        Some(self.retry_at.map_or(at, |retry_at| retry_at.max(at)))
    }

    fn living_call(&self, owner: &OwnerId) -> Option<&Call> {
        self.calls.get(&self.owners.get(owner)?.living?)
    }

    // ---- A call arrives, tries, and is answered.

    fn asks(&mut self, asked: AskedFor, now: Moment, out: &mut Vec<Action>) {
        let (id, owner, may_wait) = (asked.call, asked.owner.clone(), asked.may_wait);
        let older = self.owners.entry(owner.clone()).or_default().living.replace(id);
        let mut call = Call::new(asked);
        if let Some(older) = older {
            // The newer call takes over: the place, and a grant that nobody was told of yet.
            let before = self.calls.get_mut(&older);
            call.place = before.as_ref().and_then(|before| before.place);
            if let Some(before) = before.filter(|before| !before.is_trying) {
                call.predecessor = before.predecessor.take();
                call.repeats_untold = call.predecessor.is_some();
            }
            self.end(older, Stage::Gone { keeps_place: true }, now);
            out.push(Action::Answer { call: older, answer: Answer::NotGranted });
        }
        call.place = call.place.or_else(|| self.take_kept(&owner, now));
        let inherited = call.place;
        let is_deferred = self.owners.get(&owner).is_some_and(|desk| desk.trying.is_some());
        call.is_deferred = is_deferred;
        let had = self.calls.insert(id, call);
        assert!(had.is_none(), "a call's number was given twice");
        if inherited.is_some() && may_wait {
            // He never stopped waiting: whoever frees the key now finds him in line.
            self.enqueue(id);
        }
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    fn tries_again(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if !matches!(call.stage, Stage::Asking { .. }) || call.is_trying {
            return;
        }
        call.is_deferred = false;
        self.launch(id, now, out);
    }

    fn launch(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let frees = self.frees;
        let call = self.call_mut(id);
        call.is_trying = true;
        call.attempts += 1;
        call.frees_before = frees;
        let owner = call.asked.owner.clone();
        self.owners.entry(owner).or_default().trying = Some(id);
        let offer = if self.first_ranks_before(id, now) { self.offer_first() } else { None };
        out.push(Action::Try { call: id, offer });
    }

    /// `true` when somebody waits who goes before the call that is about to try.
    fn first_ranks_before(&self, id: CallId, now: Moment) -> bool {
        let Some((first, first_call)) = self.queue.first() else { return false };
        let call = &self.calls[&id];
        let promote_after_us = self.rules.promote_after_us;
        let rank = call.rank(promote_after_us).unwrap_or_else(|| {
            // The upstream has not stamped this call yet; it will do so at about this time.
            let arrival_us = self.clock.map_or(u64::MAX, |(read, us)| us.saturating_add(now.since_us(read)));
            Rank::new(call.asked.level, Place { arrival_us, first_call: id }, promote_after_us)
        });
        first_call != id && first < rank
    }

    fn tried(&mut self, id: CallId, offered: Option<CallId>, outcome: Tried, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        assert!(call.is_trying, "a try returned that never went out");
        call.is_trying = false;
        let owner = call.asked.owner.clone();
        self.desk_mut(&owner).trying = None;
        match outcome {
            Tried::Granted(grant) => self.granted_by_own_try(id, grant, true, now, out),
            Tried::Repeated { grant, before, ours } => {
                let call = &self.calls[&id];
                let is_new = call.repeats_untold
                    || call.took_over.as_ref() == Some(&before)
                    || ours.is_some_and(|ours| self.is_untold(ours))
                    || self.is_giving_back(&before);
                self.granted_by_own_try(id, grant, is_new, now, out);
            }
            Tried::HandedOver { grant, arrival_us } => {
                self.clock = Some((now, arrival_us));
                if let Some(offered) = offered {
                    self.granted_to(offered, grant, now, out);
                }
                self.refused(id, arrival_us, now, out);
            }
            Tried::Refused { seen, arrival_us } => {
                self.clock = Some((now, arrival_us));
                let expires = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
                // Replies of different links overtake one another: the earlier end is the safe one, a look will tell.
                self.expires = match self.expires.filter(|known| *known > now) {
                    Some(known) => Some(expires.map_or(known, |expires| expires.min(known))),
                    None => expires,
                };
                self.looked = now;
                self.saw(&seen, now, out);
                self.refused(id, arrival_us, now, out);
            }
            Tried::Failed { line, passes } if passes && self.calls[&id].asked.may_wait => {
                self.comes_back(id, false, line, now, out);
            }
            Tried::Failed { line, .. } => self.end_living(id, Some(Answer::Failed(line)), false, now, out),
            Tried::NotReached(why) => self.comes_back(id, false, why, now, out),
            Tried::Lost(why) => self.comes_back(id, true, why, now, out),
        }
        self.withdraw_offer(offered);
        // The owner's newer call has waited for this one to return.
        let newer = self.owners.get(&owner).and_then(|desk| desk.living).filter(|newer| *newer != id);
        if let Some(newer) = newer.filter(|newer| self.calls[newer].is_deferred) {
            out.push(Action::GoOn(newer));
        }
        self.forget_if_past(id);
    }

    /// The call's own try found the key free, or the owner's own.
    fn granted_by_own_try(&mut self, id: CallId, grant: Grant, is_new: bool, now: Moment, out: &mut Vec<Action>) {
        let (lease_ms, owner) = (self.calls[&id].asked.lease_ms, self.calls[&id].asked.owner.clone());
        self.holder_changed(now, lease_ms);
        let call = self.call_mut(id);
        call.was_lost = false;
        call.predecessor = None;
        if call.is_living() {
            let grant = match &mut call.stage {
                // Lost to somebody around us and granted anew before this reply came: the newer fence is the one that holds.
                Stage::Asking { ahead } => ahead.take().filter(|ahead| ahead.fence > grant.fence).unwrap_or(grant),
                _ => grant,
            };
            self.end(id, Stage::Granted(grant.fence), now);
            out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new } });
            return;
        }
        if !is_new {
            return;
        }
        // Nobody was told of this grant. The owner's newer call, if there is one, makes it its own; else it goes to the next.
        let newer = self.owners.get(&owner).and_then(|desk| desk.living);
        match newer.and_then(|newer| self.calls.get_mut(&newer)) {
            Some(newer) => {
                newer.predecessor = Some(grant.value);
                newer.repeats_untold = true;
            }
            None => self.give_back(grant.value, lease_ms, now),
        }
    }

    /// The call's own try was answered, and not with the lock.
    fn refused(&mut self, id: CallId, arrival_us: u64, now: Moment, out: &mut Vec<Action>) {
        let (waiting, waiting_max, frees) = (self.queue.len(), self.rules.waiting_max, self.frees);
        let call = self.call_mut(id);
        call.was_lost = false;
        call.predecessor = None;
        call.repeats_untold = false;
        let place = *call.place.get_or_insert(Place { arrival_us, first_call: id });
        let (may_wait, owner) = (call.asked.may_wait, call.asked.owner.clone());
        match &mut call.stage {
            Stage::Gone { keeps_place: true } if may_wait => self.pass_place_on(owner, place, now),
            Stage::Gone { .. } | Stage::Granted(_) => {}
            Stage::Asking { .. } | Stage::Waiting if !may_wait => {
                self.end_living(id, Some(Answer::NotGranted), false, now, out);
                if place.first_call != id {
                    // He looked in without waiting; the place he had is still his.
                    self.keep(owner, place, now);
                }
            }
            Stage::Asking { ahead: None } if !call.is_queued && waiting >= waiting_max => {
                call.place = None;
                self.end_living(id, Some(Answer::QueueFull { waiting }), false, now, out);
            }
            Stage::Asking { .. } | Stage::Waiting => {
                let was_ahead = matches!(call.stage, Stage::Asking { ahead: Some(_) });
                let came_free = call.frees_before != frees;
                call.stage = Stage::Waiting;
                self.enqueue(id);
                // Granted by another script, and refused by the own try: which of the two came first, only the key can tell. And
                // what was freed while the refusal was on its way was freed for him.
                self.wants_look |= was_ahead || came_free;
            }
        }
    }

    /// The call's own try brought no answer. A call that may wait tries again within its deadline; another only to learn what came
    /// of a try whose reply was lost.
    fn comes_back(&mut self, id: CallId, was_lost: bool, why: Arc<str>, now: Moment, out: &mut Vec<Action>) {
        // Not offered to anybody before the client's own link has worked once more.
        self.dequeue(id);
        let rules = self.rules;
        let call = self.call_mut(id);
        call.was_lost |= was_lost;
        if !call.is_living() {
            self.settle_later(id, now);
            return;
        }
        // A grant ahead of this try stays: to take it back now would race with the next try, which makes it the call's own.
        let tries_again = call.asked.may_wait || (call.was_lost && call.attempts < LOST_TRIES_MAX);
        let after_ms = pause_ms(&rules, call.attempts, id.0);
        if tries_again {
            out.push(Action::TryLater { call: id, after_ms });
        } else {
            self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
        }
    }

    /// A script of somebody else has granted the lock to a waiter.
    pub(super) fn granted_to(&mut self, id: CallId, grant: Grant, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get_mut(&id) else {
            unreachable!("a call is kept while a script under way may grant to it");
        };
        let lease_ms = call.asked.lease_ms;
        match &mut call.stage {
            Stage::Waiting => {
                self.end(id, Stage::Granted(grant.fence), now);
                out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new: true } });
            }
            Stage::Asking { ahead } => {
                *ahead = Some(grant);
                self.dequeue(id);
            }
            // Told twice.
            Stage::Granted(fence) if *fence == grant.fence => return,
            // He has gone, or had it and let go of it again: it goes on to the next.
            Stage::Granted(_) | Stage::Gone { .. } => self.give_back(grant.value, lease_ms, now),
        }
        self.holder_changed(now, lease_ms);
    }

    /// A script found the lock held. If by one of our calls, then the reply that would have told was lost or is still on its way.
    pub(super) fn saw(&mut self, seen: &Seen, now: Moment, out: &mut Vec<Action>) {
        let Some(Named { call: id, fence, is_repeat }) = seen.ours else { return };
        let Some(call) = self.calls.get(&id) else { return };
        let grant = Grant { fence, value: seen.value.clone() };
        match call.stage {
            Stage::Waiting => {
                self.granted_to(id, grant, now, out);
                self.expires = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
            }
            Stage::Gone { .. } if !is_repeat || call.repeats_untold => {
                let lease_ms = call.asked.lease_ms;
                self.give_back(grant.value, lease_ms, now);
            }
            // He holds it by an older call.
            Stage::Gone { .. } => {}
            // Its own try will tell.
            Stage::Asking { .. } | Stage::Granted(_) => {}
        }
    }

    fn released(
        &mut self,
        owner: &OwnerId,
        offered: Option<CallId>,
        outcome: Released,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        match outcome {
            Released::Freed { handed, was_held } => {
                if was_held {
                    self.end_calls_of(owner, now, out);
                }
                match (handed, offered) {
                    (Some(grant), Some(offered)) => self.granted_to(offered, grant, now, out),
                    _ => self.came_free(),
                }
            }
            Released::Kept => {}
            Released::Lost => {
                self.came_free();
                self.unsettle(offered, now);
            }
        }
        self.withdraw_offer(offered);
    }

    fn shuts_down(&mut self, now: Moment, out: &mut Vec<Action>) {
        let mut waiting: Vec<CallId> = self
            .calls
            .values()
            .filter(|call| call.is_living() && call.asked.may_wait)
            .map(|call| call.asked.call)
            .collect();
        waiting.sort_unstable();
        for id in waiting {
            self.end_living(id, Some(Answer::ShuttingDown), false, now, out);
        }
        self.kept.clear();
        self.kept_order.clear();
    }

    // ---- A call ends.

    /// A try that is under way decides: its answer is as good as a look, and only it knows whether the client may have the key. So
    /// a WAIT shorter than a round trip means the same as none.
    fn times_out(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_living()) else { return };
        match call.stage {
            Stage::Asking { .. } if call.is_trying => {
                self.dequeue(id);
                self.call_mut(id).asked.may_wait = false;
            }
            Stage::Asking { .. } if !call.is_deferred => {
                let why = "it did not answer while the call waited".into();
                self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
            }
            _ => self.end_living(id, Some(Answer::NotGranted), false, now, out),
        }
    }

    fn end_calls_of(&mut self, owner: &OwnerId, now: Moment, out: &mut Vec<Action>) {
        self.kept.remove(owner);
        if let Some(id) = self.owners.get(owner).and_then(|desk| desk.living) {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
        }
    }

    /// Ends a call that has no answer yet; one that has needs nothing more.
    pub(super) fn end_living(
        &mut self,
        id: CallId,
        answer: Option<Answer>,
        keeps_place: bool,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_living()) else { return };
        let owner = call.asked.owner.clone();
        let place = call.place.filter(|_| keeps_place && call.asked.may_wait);
        self.end(id, Stage::Gone { keeps_place }, now);
        if let Some(place) = place {
            self.keep(owner, place, now);
        }
        if let Some(answer) = answer {
            out.push(Action::Answer { call: id, answer });
        }
    }

    fn end(&mut self, id: CallId, stage: Stage, now: Moment) {
        self.dequeue(id);
        let call = self.call_mut(id);
        let (owner, lease_ms) = (call.asked.owner.clone(), call.asked.lease_ms);
        let is_told = matches!(stage, Stage::Granted(_));
        let untold = match std::mem::replace(&mut call.stage, stage) {
            Stage::Asking { ahead: Some(grant) } if !is_told => Some(grant.value),
            _ => None,
        };
        if let Some(desk) = self.owners.get_mut(&owner)
            && desk.living == Some(id)
        {
            desk.living = None;
        }
        if let Some(value) = untold {
            self.give_back(value, lease_ms, now);
        }
        if !self.calls[&id].is_trying {
            self.settle_later(id, now);
        }
        self.forget_if_past(id);
    }

    /// What a call that is over leaves unclear is cleared up: a grant to its predecessor, and one whose reply was lost.
    fn settle_later(&mut self, id: CallId, now: Moment) {
        let call = self.call_mut(id);
        let (predecessor, lease_ms) = (call.predecessor.take(), call.asked.lease_ms);
        let was_lost = std::mem::take(&mut call.was_lost);
        if let Some(value) = predecessor {
            self.give_back(value, lease_ms, now);
        }
        if was_lost {
            self.unsettle(Some(id), now);
        }
    }

    pub(super) fn unsettle(&mut self, id: Option<CallId>, now: Moment) {
        let Some((id, call)) = id.and_then(|id| Some((id, self.calls.get_mut(&id)?))) else { return };
        if !std::mem::replace(&mut call.is_unsettled, true) {
            self.unsettled.push((id, now.plus_ms(call.asked.lease_ms + GIVE_BACK_MARGIN_MS)));
        } else if self.settling.iter().any(|(settling, _)| *settling == id) {
            // The look under way may have run before what was lost now.
            self.unsettled.push((id, now.plus_ms(call.asked.lease_ms + GIVE_BACK_MARGIN_MS)));
            self.settling.retain(|(settling, _)| *settling != id);
        }
    }

    pub(super) fn give_back(&mut self, value: Arc<[u8]>, lease_ms: u64, now: Moment) {
        let until = now.plus_ms(lease_ms.saturating_add(GIVE_BACK_MARGIN_MS));
        if !self.give_backs.iter().any(|known| known.value == value) {
            self.give_backs.push_back(GiveBack { value, until });
        }
    }

    fn is_giving_back(&self, value: &[u8]) -> bool {
        self.give_backs.iter().chain(&self.giving_back).any(|give_back| *give_back.value == *value)
    }

    /// `true` where nobody was told of the fence that this call holds: it is this very grant that is asked for again, or the call
    /// was over before its grant was known.
    fn is_untold(&self, named: Named) -> bool {
        self.calls.get(&named.call).is_some_and(|call| {
            let is_told_of = matches!(call.stage, Stage::Granted(_));
            !is_told_of && (!named.is_repeat || call.repeats_untold)
        })
    }

    // ---- What is known of the key.

    pub(super) fn holder_changed(&mut self, now: Moment, lease_ms: u64) {
        self.grants += 1;
        self.looked = now;
        self.expires = Some(now.plus_ms(lease_ms));
    }

    pub(super) fn came_free(&mut self) {
        self.frees += 1;
        self.grants += 1;
        self.expires = None;
        self.wants_look |= !self.queue.is_empty();
    }

    // ---- The queue and the places.

    pub(super) fn offer_first(&mut self) -> Option<Offer> {
        let (_, id) = self.queue.first()?;
        let call = self.call_mut(id);
        call.offers += 1;
        Some(call.offer())
    }

    pub(super) fn withdraw_offer(&mut self, offered: Option<CallId>) {
        let Some(id) = offered else { return };
        let call = self.call_mut(id);
        assert!(call.offers > 0, "an offer was withdrawn twice");
        call.offers -= 1;
        self.forget_if_past(id);
    }

    fn enqueue(&mut self, id: CallId) {
        let promote_after_us = self.rules.promote_after_us;
        let call = self.call_mut(id);
        if let Some(rank) = call.rank(promote_after_us).filter(|_| !call.is_queued) {
            call.is_queued = true;
            self.queue.insert(rank, id);
        }
    }

    fn dequeue(&mut self, id: CallId) {
        let promote_after_us = self.rules.promote_after_us;
        let call = self.call_mut(id);
        if let Some(rank) = call.rank(promote_after_us).filter(|_| call.is_queued) {
            call.is_queued = false;
            let was_there = self.queue.remove(rank);
            assert!(was_there, "a queued call has no place in the queue");
        }
    }

    fn keep(&mut self, owner: OwnerId, place: Place, now: Moment) {
        if self.rules.place_kept_ms == 0 || self.owners.get(&owner).is_some_and(|desk| desk.living.is_some()) {
            return;
        }
        let until = now.plus_ms(self.rules.place_kept_ms);
        self.kept.insert(owner.clone(), (place, until));
        self.kept_order.push_back((until, owner));
        // However many come and go in those seconds, memory stays bounded.
        while self.kept_order.len() > self.rules.waiting_max.max(1) {
            self.forget_oldest_place();
        }
    }

    /// A call that is over learns when it had come: that is the place of the owner's newer call, or kept for it.
    fn pass_place_on(&mut self, owner: OwnerId, place: Place, now: Moment) {
        let newer = self.owners.get(&owner).and_then(|desk| desk.living);
        match newer.and_then(|id| Some((id, self.calls.get_mut(&id)?))) {
            Some((id, newer)) if newer.asked.may_wait && newer.place.is_none() => {
                newer.place = Some(place);
                self.enqueue(id);
            }
            Some(_) => {}
            None => self.keep(owner, place, now),
        }
    }

    fn take_kept(&mut self, owner: &OwnerId, now: Moment) -> Option<Place> {
        self.kept.remove(owner).filter(|(_, until)| *until > now).map(|(place, _)| place)
    }

    fn forget_places(&mut self, now: Moment) {
        while self.kept_order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest_place();
        }
    }

    fn forget_oldest_place(&mut self) {
        let Some((until, owner)) = self.kept_order.pop_front() else { return };
        if self.kept.get(&owner).is_some_and(|(_, kept_until)| *kept_until == until) {
            self.kept.remove(&owner);
        }
    }

    // ---- Bookkeeping.

    pub(super) fn call_mut(&mut self, id: CallId) -> &mut Call {
        self.calls.get_mut(&id).expect("a call is kept while anything under way may concern it")
    }

    fn desk_mut(&mut self, owner: &OwnerId) -> &mut Desk {
        self.owners.get_mut(owner).expect("an owner with a call has a desk")
    }

    pub(super) fn forget_if_past(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_past()) else { return };
        let owner = call.asked.owner.clone();
        self.calls.remove(&id);
        if self.owners.get(&owner).is_some_and(|desk| desk.living.is_none() && desk.trying.is_none()) {
            self.owners.remove(&owner);
        }
    }

    fn assert_sound(&self) {
        assert!(
            self.queue.is_empty() || self.is_handing || self.wake_at().is_some() || self.rules.look_every_ms == 0,
            "somebody waits and nobody will ever look"
        );
        // The thorough part costs a walk through the line.
        if cfg!(debug_assertions) && self.calls.len() <= 64 {
            let queued = self.calls.values().filter(|call| call.is_queued);
            assert_eq!(queued.clone().count(), self.queue.len(), "the queue and the calls disagree");
            for call in queued {
                assert!(call.is_living() && call.asked.may_wait, "somebody is queued who does not wait");
            }
            for (id, call) in &self.calls {
                assert!(!call.is_past(), "a call is kept that nothing concerns any more");
                let is_queued_or_asks = call.is_queued || !matches!(call.stage, Stage::Waiting);
                assert!(is_queued_or_asks, "a waiter stands in no queue");
                let desk = self.owners.get(&call.asked.owner);
                let is_the_one = desk.is_some_and(|desk| desk.living == Some(*id));
                assert_eq!(call.is_living(), is_the_one, "an owner has one living call at most, and his desk knows it");
            }
        }
    }
}

/// How long to pause before the next attempt: doubling, and spread by up to a quarter so that a crowd does not come back as one.
pub(super) fn pause_ms(rules: &LineRules, attempts: u32, spread: u64) -> u64 {
    let pause =
        rules.retry_base_ms.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(rules.retry_max_ms).max(1);
    pause + spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (pause / 4 + 1)
}
