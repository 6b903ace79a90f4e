//! The line before one lock: the one place that decides between grant, timeout, cancel and a client that leaves. It lives while
//! somebody waits, is kept in mind, or has a script under way; a lock that is merely held needs none.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::call::{Call, Stage};
use super::event::{Action, Answer, AskedFor, Event, Grant, Named, Offer, Released, Seen, Tried};
use super::hand_on::may_send_after;
use super::rank::{Place, Rank};
use super::ranking::Ranking;
use crate::domain::{CallId, Level, Moment, OwnerId};

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

/// How often a call that may not wait is sent, its first try included, while replies are lost. Each can take the reply timeout.
const LOST_TRIES_MAX: u32 = 2;

/// A lease that ends by itself needs no giving back; so much longer than the lease we try, in ms.
const GIVE_BACK_MARGIN_MS: u64 = 1000;

/// One owner's calls on this key.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// His calls that have no answer yet, oldest first. One of them at most waits in line; the others' tries are under way.
    pub living: Vec<CallId>,
    /// The call whose try is under way.
    pub trying: Option<CallId>,
    /// How many of his calls the line knows, those that are over included.
    pub calls: usize,
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
    /// We are told when the key changes around us: no need to look now and then.
    is_watched: bool,
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
            is_watched: false,
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
    /// After [`Event::Hint`], [`Event::Watched`] and [`Event::ShutsDown`] nothing is sent: whoever tells of those may have no link at hand. The timer,
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
            Event::Promotes { owner, level } => self.promotes(&owner, level),
            Event::Releases { owner } => {
                let offer = self.best_but(&owner).map(|(_, best)| self.offer_to(best));
                out.push(Action::Release { offer });
            }
            Event::Released { owner, ends_calls, offered, outcome } => {
                if ends_calls {
                    self.end_calls_of(&owner, now, &mut out);
                }
                self.released(offered, outcome, now, &mut out);
            }
            Event::GivesBack { value, lease_ms } => self.give_back(value, lease_ms, now),
            Event::Extended { lease_ms } => {
                self.grants += 1;
                self.expires = Some(now.plus_ms(lease_ms));
            }
            Event::HandedOver { offered, outcome } => self.handed_over(offered, outcome, now, &mut out),
            Event::Hint => self.wants_look = true,
            Event::Watched(is_watched) => self.is_watched = is_watched,
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
        let living = self.owners.get(owner).map_or(&[][..], |desk| &desk.living);
        living.iter().any(|id| self.calls[id].asked.may_wait)
    }

    /// The owner's place in line, from 1.
    pub fn position(&self, owner: &OwnerId) -> Option<usize> {
        let call = self.waiting_call(owner)?;
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
            let may_look = self.rules.look_every_ms > 0 && !self.is_watched;
            let look_at = may_look.then(|| self.looked.plus_ms(self.rules.look_every_ms));
            expired_at.into_iter().chain(look_at).min()?
        };
        Some(self.retry_at.map_or(at, |retry_at| retry_at.max(at)))
    }

    /// The owner's calls that have no answer yet, oldest first.
    fn living(&self, owner: &OwnerId) -> Vec<CallId> {
        self.owners.get(owner).map_or_else(Vec::new, |desk| desk.living.clone())
    }

    pub(super) fn waiting_call(&self, owner: &OwnerId) -> Option<&Call> {
        let living = &self.owners.get(owner)?.living;
        living.iter().map(|id| &self.calls[id]).find(|call| call.is_queued)
    }

    // ---- A call arrives, tries, and is answered.

    /// A newer call of an owner takes the place of his older ones only when its own try has returned: until then nobody knows
    /// whether its client may have the key at all.
    fn asks(&mut self, asked: AskedFor, now: Moment, out: &mut Vec<Action>) {
        let (id, owner) = (asked.call, asked.owner.clone());
        let desk = self.owners.entry(owner).or_default();
        let is_deferred = desk.trying.is_some() || desk.living.iter().any(|id| self.calls[id].is_deferred);
        desk.living.push(id);
        desk.calls += 1;
        let mut call = Call::new(asked, now);
        call.is_deferred = is_deferred;
        let had = self.calls.insert(id, call);
        assert!(had.is_none(), "a call's number was given twice");
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    fn tries_again(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get(&id) else { return };
        if !matches!(call.stage, Stage::Asking) || call.is_trying {
            return;
        }
        let is_deferred = self.desk_mut(&call.asked.owner.clone()).trying.is_some();
        self.call_mut(id).is_deferred = is_deferred;
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    fn launch(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let frees = self.frees;
        let call = self.call_mut(id);
        call.is_trying = true;
        call.attempts += 1;
        call.frees_before = frees;
        let owner = call.asked.owner.clone();
        self.desk_mut(&owner).trying = Some(id);
        let offer = self.best_before(id, &owner, now).map(|best| self.offer_to(best));
        out.push(Action::Try { call: id, offer });
    }

    /// Who goes before the call that is about to try: the best waiter, unless the call will rank before him.
    fn best_before(&self, id: CallId, owner: &OwnerId, now: Moment) -> Option<CallId> {
        let (best_rank, best) = self.best_but(owner)?;
        let place = self.waiting_call(owner).and_then(|older| older.place).or_else(|| self.kept_place(owner, now));
        let place = place.unwrap_or_else(|| {
            // The upstream has not stamped this call yet; it will do so at about this time.
            let arrival_us = self.clock.map_or(u64::MAX, |(read, us)| us.saturating_add(now.since_us(read)));
            Place { arrival_us, first_call: id }
        });
        let rank = Rank::new(self.calls[&id].asked.level, place, self.rules.promote_after_us);
        (best_rank < rank).then_some(best)
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
                self.reads_clock(arrival_us, now);
                if let Some(offered) = offered {
                    self.granted_to(offered, grant, now, out);
                }
                self.refused(id, arrival_us, now, out);
            }
            Tried::Refused { seen, arrival_us } => {
                self.reads_clock(arrival_us, now);
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
        if let Some(newer) = self.living(&owner).into_iter().find(|id| self.calls[id].is_deferred) {
            out.push(Action::GoOn(newer));
        }
        self.forget_if_past(id);
    }

    /// A reply tells a time that was right when the script ran: the reply that took the shortest way back tells best. A clock that was
    /// set back by more than a second is believed.
    fn reads_clock(&mut self, upstream_us: u64, now: Moment) {
        let expected_us = self.clock.map_or(0, |(read, us)| us.saturating_add(now.since_us(read)));
        if upstream_us >= expected_us || upstream_us + 1_000_000 < expected_us {
            self.clock = Some((now, upstream_us));
        }
    }

    /// The call's own try found the key free, or the owner's own.
    fn granted_by_own_try(&mut self, id: CallId, grant: Grant, is_new: bool, now: Moment, out: &mut Vec<Action>) {
        let (lease_ms, owner) = (self.calls[&id].asked.lease_ms, self.calls[&id].asked.owner.clone());
        self.holder_changed(now, lease_ms);
        let call = self.call_mut(id);
        call.was_lost = false;
        call.predecessor = None;
        if call.is_living() {
            self.supersede_older(id, now, out);
            self.end(id, Stage::Granted(grant.fence), now);
            out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new } });
            return;
        }
        if !is_new {
            return;
        }
        // Nobody was told of this grant. The owner's newer call, if one is about to ask, makes it its own; else it goes to the next.
        let newer = self.living(&owner).into_iter().find(|id| matches!(self.calls[id].stage, Stage::Asking));
        match newer {
            Some(newer) => {
                let newer = self.call_mut(newer);
                newer.predecessor = Some(grant.value);
                newer.repeats_untold = true;
            }
            None => self.give_back(grant.value, lease_ms, now),
        }
    }

    /// The call's own try was answered, and not with the lock.
    fn refused(&mut self, id: CallId, arrival_us: u64, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        call.was_lost = false;
        call.predecessor = None;
        call.repeats_untold = false;
        let (may_wait, owner) = (call.asked.may_wait, call.asked.owner.clone());
        let own_place = Place { arrival_us, first_call: id };
        if let Stage::Gone { keeps_place } = call.stage {
            if keeps_place && may_wait && self.waiting_call(&owner).is_none() {
                let place = self.take_kept(&owner, now).unwrap_or(own_place);
                self.keep(owner, place, now);
            }
            return;
        }
        if std::mem::take(&mut call.owner_was_granted) {
            // The owner's older call was granted while this refusal was on its way: this one repeats it.
            out.push(Action::TryLater { call: id, after_ms: 0 });
            return;
        }
        let came_free = call.frees_before != self.frees;
        let inherited = self.supersede_older(id, now, out).or_else(|| self.take_kept(&owner, now));
        let waiting = self.queue.len();
        if !may_wait {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
            if let Some(place) = inherited {
                // He looked in without waiting; the place he had is still his.
                self.keep(owner, place, now);
            }
        } else if waiting >= self.rules.waiting_max {
            self.end_living(id, Some(Answer::QueueFull { waiting }), false, now, out);
        } else {
            let call = self.call_mut(id);
            call.stage = Stage::Waiting;
            call.place = Some(inherited.unwrap_or(own_place));
            self.enqueue(id);
            // What was freed while the refusal was on its way was freed for him.
            self.wants_look |= came_free;
        }
    }

    /// A newer call of an owner takes over: his older ones get nil, and their place is its own.
    fn supersede_older(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) -> Option<Place> {
        let owner = self.calls[&id].asked.owner.clone();
        let place = self.waiting_call(&owner).and_then(|older| older.place);
        for older in self.living(&owner).into_iter().take_while(|older| *older != id) {
            self.end_living(older, Some(Answer::NotGranted), false, now, out);
        }
        place
    }

    /// The call's own try brought no answer. A call that may wait tries again within its deadline; another only to learn what came
    /// of a try whose reply was lost.
    fn comes_back(&mut self, id: CallId, was_lost: bool, why: Arc<str>, now: Moment, out: &mut Vec<Action>) {
        let rules = self.rules;
        let call = self.call_mut(id);
        call.was_lost |= was_lost;
        call.trouble = Some(why.clone());
        if !call.is_living() {
            self.settle_later(id, now);
            return;
        }
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
        match call.stage {
            Stage::Waiting => {
                let owner = call.asked.owner.clone();
                self.end(id, Stage::Granted(grant.fence), now);
                for newer in self.living(&owner) {
                    let newer = self.call_mut(newer);
                    newer.owner_was_granted = newer.is_trying;
                }
                out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new: true } });
            }
            Stage::Asking => unreachable!("nobody is offered the lock before his own try has returned"),
            // Told twice.
            Stage::Granted(fence) if fence == grant.fence => return,
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
            Stage::Asking | Stage::Granted(_) => {}
        }
    }

    fn released(&mut self, offered: Option<CallId>, outcome: Released, now: Moment, out: &mut Vec<Action>) {
        match outcome {
            Released::Freed { handed } => match (handed, offered) {
                (Some(grant), Some(offered)) => self.granted_to(offered, grant, now, out),
                _ => self.came_free(),
            },
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
            Stage::Asking if call.is_trying => self.call_mut(id).asked.may_wait = false,
            Stage::Asking if !call.is_deferred => {
                let why = call.trouble.clone().unwrap_or_else(|| "it did not answer while the call waited".into());
                self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
            }
            _ => self.end_living(id, Some(Answer::NotGranted), false, now, out),
        }
    }

    fn end_calls_of(&mut self, owner: &OwnerId, now: Moment, out: &mut Vec<Action>) {
        self.kept.remove(owner);
        for id in self.living(owner) {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
        }
    }

    fn promotes(&mut self, owner: &OwnerId, level: Level) {
        let Some(id) = self.waiting_call(owner).map(|call| call.asked.call) else { return };
        self.dequeue(id);
        self.call_mut(id).asked.level = level;
        self.enqueue(id);
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
        call.stage = stage;
        let (owner, is_trying) = (call.asked.owner.clone(), call.is_trying);
        self.desk_mut(&owner).living.retain(|living| *living != id);
        if !is_trying {
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

    /// The best waiter.
    pub(super) fn best(&self) -> Option<CallId> {
        self.queue.nth(0).map(|(_, id)| id)
    }

    /// The best waiter who is not this owner.
    fn best_but(&self, owner: &OwnerId) -> Option<(Rank, CallId)> {
        let first = self.queue.nth(0)?;
        // No owner stands in line twice.
        if self.calls[&first.1].asked.owner == *owner { self.queue.nth(1) } else { Some(first) }
    }

    pub(super) fn offer_to(&mut self, id: CallId) -> Offer {
        let call = self.call_mut(id);
        call.offers += 1;
        call.offer()
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
        let until = now.plus_ms(self.rules.place_kept_ms);
        self.kept.insert(owner.clone(), (place, until));
        self.kept_order.push_back((until, owner));
        // However many come and go in those seconds, memory stays bounded.
        while self.kept_order.len() > self.rules.waiting_max.max(1) {
            self.forget_oldest_place();
        }
    }

    fn kept_place(&self, owner: &OwnerId, now: Moment) -> Option<Place> {
        self.kept.get(owner).filter(|(_, until)| *until > now).map(|(place, _)| *place)
    }

    fn take_kept(&mut self, owner: &OwnerId, now: Moment) -> Option<Place> {
        let place = self.kept_place(owner, now);
        self.kept.remove(owner);
        place
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
        let desk = self.desk_mut(&owner);
        desk.calls -= 1;
        if desk.calls == 0 {
            self.owners.remove(&owner);
        }
    }

    fn assert_sound(&self) {
        assert!(
            self.queue.is_empty()
                || self.is_handing
                || self.wake_at().is_some()
                || self.rules.look_every_ms == 0
                || self.is_watched,
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
                assert_eq!(call.is_queued, matches!(call.stage, Stage::Waiting), "who waits stands in line");
                let desk = &self.owners[&call.asked.owner];
                assert_eq!(call.is_living(), desk.living.contains(id), "an owner's desk knows his living calls");
                let waiting = desk.living.iter().filter(|id| self.calls[id].is_queued).count();
                assert!(waiting <= 1, "an owner stands in line twice");
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
