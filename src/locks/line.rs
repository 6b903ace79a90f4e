//! The line before one lock: the one place that decides between grant, timeout, cancel and a client that leaves. It lives while
//! somebody waits, is kept in mind, or has a script under way; a lock that is merely held needs none.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::call::{Call, Stage, Ticket};
use super::claim::{Claim, Entry};
use super::event::{
    Action, Actor, Answer, AskedFor, Event, Form, Grant, Named, Released, Seen, Sent, Standing, Tried, Turn,
};
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
    /// How long a claim stands unconfirmed, in ms.
    pub claim_ms: u64,
    /// How long the queue upstream outlives its last change, in ms.
    pub queue_kept_ms: u64,
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
    pub(super) desks: HashMap<Actor, Desk>,
    pub(super) queue: Ranking,
    /// Places of clients that left, and until when.
    kept: HashMap<Actor, (Place, Moment)>,
    kept_order: VecDeque<(Moment, Actor)>,
    /// Pollers' calls whose places are kept, and until when.
    pub(super) tickets: BTreeSet<(Moment, CallId)>,
    pub(super) give_backs: VecDeque<GiveBack>,
    /// Calls that a lost reply may have granted to, and until when that matters.
    pub(super) unsettled: Vec<(CallId, Moment)>,
    /// Those of them that the look under way will settle.
    pub(super) settling: Vec<(CallId, Moment)>,
    /// What the hand-over under way takes back.
    pub(super) giving_back: Option<GiveBack>,
    /// A hand-over is under way.
    pub(super) is_handing: bool,
    /// The claim that is to be confirmed next.
    pub(super) to_confirm: Option<Claim>,
    /// The claim that the hand-over under way confirms.
    pub(super) confirming: Option<Claim>,
    /// What this node has in the queue upstream.
    pub(super) entry: Entry,
    /// How often what is known of that has changed.
    pub(super) epoch: u64,
    /// Since when nobody waits while something is still registered upstream.
    pub(super) empty_since: Option<Moment>,
    /// Tries under way that register their calls, by when they were sent.
    pub(super) tries: BTreeSet<(Moment, CallId)>,
    /// A registration that looks wrong may be that of a try under way: its return will tell.
    pub(super) entry_awaits_try: bool,
    /// The replies to their confirmations were lost: a plain value in the key may be their own.
    pub(super) unconfirmed: BTreeSet<CallId>,
    /// The watch link tells of changes around us.
    pub(super) is_watched: bool,
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
}

impl Line {
    /// A line nobody stands in.
    pub fn new(rules: LineRules, now: Moment) -> Self {
        Line {
            rules,
            calls: HashMap::new(),
            desks: HashMap::new(),
            queue: Ranking::default(),
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
            tickets: BTreeSet::new(),
            give_backs: VecDeque::new(),
            unsettled: Vec::new(),
            settling: Vec::new(),
            giving_back: None,
            is_handing: false,
            to_confirm: None,
            confirming: None,
            entry: Entry::Known(None),
            epoch: 0,
            empty_since: None,
            tries: BTreeSet::new(),
            entry_awaits_try: false,
            unconfirmed: BTreeSet::new(),
            is_watched: false,
            wants_look: false,
            expires: None,
            looked: now,
            retry_at: None,
            failures: 0,
            frees: 0,
            grants: 0,
            grants_before_look: 0,
        }
    }

    /// What is to be done about `event`, now.
    ///
    /// After [`Event::Hint`], [`Event::Observed`], [`Event::Unwatched`] and [`Event::ShutsDown`] nothing is sent: whoever tells of those may have no link at hand. The timer,
    /// which [`Line::wake_at`] then asks for at once, does it.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        let may_send = may_send_after(&event);
        match event {
            Event::Asks(asked) => self.asks(asked, now, &mut out),
            Event::TriesAgain(call) => self.tries_again(call, now, &mut out),
            Event::Tried { call, sent, outcome } => self.tried(call, sent, outcome, now, &mut out),
            Event::Leaves(call) => self.end_living(call, None, true, now, &mut out),
            Event::TimesOut(call) => self.times_out(call, now, &mut out),
            Event::Aborts { call, line } => self.aborts(call, line, now, &mut out),
            Event::Cancels(owner) => self.cancels(&owner, now, &mut out),
            Event::Promotes { owner, level } => self.promotes(&owner, level),
            Event::Releases { owner } => {
                let turn = self.turn_but(owner.map(Actor::Owner).as_ref(), now);
                out.push(Action::Release(turn));
            }
            Event::Released { ends_calls_of, sent, outcome } => {
                if let Some(owner) = ends_calls_of {
                    self.end_calls_of(&Actor::Owner(owner), now, &mut out);
                }
                self.released(sent, outcome, now, &mut out);
            }
            Event::GivesBack { value, lease_ms } => self.give_back(value, lease_ms, now),
            Event::Extended { lease_ms } => {
                self.grants += 1;
                self.expires = Some(now.plus_ms(lease_ms));
            }
            Event::HandedOver { sent, outcome } => self.handed_over(sent, outcome, now, &mut out),
            Event::Observed { seen, registered } => self.observed(seen, registered, now, &mut out),
            Event::Watched => self.is_watched = true,
            Event::Unwatched => {
                self.is_watched = false;
                self.wants_look = true;
            }
            Event::Hint => self.wants_look = true,
            Event::Tick => {
                self.forget_places(now);
                self.end_tickets(now, &mut out);
            }
            Event::ShutsDown => self.shuts_down(now, &mut out),
        }
        if may_send {
            self.hand_on(now, &mut out);
        }
        self.assert_sound();
        out
    }

    /// From here on so many may wait; those who do already stay.
    pub fn set_waiting_max(&mut self, waiting_max: usize) {
        self.rules.waiting_max = waiting_max;
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The waiting call that shows this owner; the first in line where several `SET NX` write the same.
    pub fn waiting_as(&self, owner: &[u8]) -> Option<CallId> {
        if let Some(owner) = OwnerId::new(owner)
            && let Some(call) = self.waiting_call(&Actor::Owner(owner))
        {
            return Some(call.asked.call);
        }
        let is_it = |call: &&Call| call.is_queued && call.asked.form.shown_owner() == owner;
        let calls = self.calls.values().filter(|call| !matches!(call.asked.actor, Actor::Owner(_))).filter(is_it);
        calls.min_by_key(|call| call.rank(self.rules.promote_after_us)).map(|call| call.asked.call)
    }

    /// `true` while a call that shows this owner and may wait has no answer yet.
    pub fn waits(&self, owner: &[u8]) -> bool {
        let of_owner = OwnerId::new(owner).and_then(|owner| self.desks.get(&Actor::Owner(owner)));
        let living = of_owner.map_or(&[][..], |desk| &desk.living);
        living.iter().any(|id| self.calls[id].asked.may_wait) || self.waiting_as(owner).is_some()
    }

    /// The rank of the waiting call that shows this owner.
    pub fn rank_of(&self, owner: &[u8]) -> Option<Rank> {
        self.calls[&self.waiting_as(owner)?].rank(self.rules.promote_after_us)
    }

    /// How many of this node's waiters stand before `rank`.
    pub fn count_before(&self, rank: Rank) -> usize {
        self.queue.count_before(rank)
    }

    /// The owner's place among this node's waiters, from 1.
    pub fn position(&self, owner: &[u8]) -> Option<usize> {
        Some(self.queue.count_before(self.rank_of(owner)?) + 1)
    }

    /// Nobody waits, is kept in mind, or has anything under way: the line can go.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
            && self.kept.is_empty()
            && self.give_backs.is_empty()
            && self.to_confirm.is_none()
            && !self.is_handing
            && !self.entry_is_off()
    }

    /// Somebody has to watch the time, see [`Line::wake_at`].
    pub fn needs_timer(&self) -> bool {
        !self.queue.is_empty()
            || !self.kept.is_empty()
            || !self.give_backs.is_empty()
            || !self.unsettled.is_empty()
            || self.to_confirm.is_some()
            || self.entry_is_off()
    }

    /// When a [`Event::Tick`] is due, if nothing else happens before.
    pub fn wake_at(&self) -> Option<Moment> {
        let forget_at = self.kept_order.front().map(|(until, _)| *until);
        let work_at = if self.is_handing { None } else { self.work_at() };
        let ticket_at = self.tickets.first().map(|(until, _)| *until);
        forget_at.into_iter().chain(work_at).chain(ticket_at).min()
    }

    /// Something is to be given back, confirmed or registered, and the upstream was there when it was last asked.
    pub fn has_urgent_work(&self) -> bool {
        let has_work = !self.give_backs.is_empty() || self.to_confirm.is_some() || self.entry_is_off();
        has_work && self.failures == 0
    }

    /// When there is something to ask the upstream.
    pub(super) fn work_at(&self) -> Option<Moment> {
        let is_due = !self.give_backs.is_empty()
            || !self.unsettled.is_empty()
            || self.to_confirm.is_some()
            || self.entry_is_off()
            || (self.wants_look && !self.queue.is_empty());
        let at = if is_due {
            Moment::default()
        } else if self.queue.is_empty() {
            return None;
        } else {
            // A lease is over once its last millisecond is.
            let expired_at = self.expires.map(|expires| expires.plus_ms(1));
            let is_polled = self.rules.look_every_ms > 0 && !self.is_watched;
            let look_at = is_polled.then(|| self.looked.plus_ms(self.rules.look_every_ms));
            expired_at.into_iter().chain(look_at).min()?
        };
        Some(self.retry_at.map_or(at, |retry_at| retry_at.max(at)))
    }

    /// The actor's calls that have no answer yet, oldest first.
    fn living(&self, actor: &Actor) -> Vec<CallId> {
        self.desks.get(actor).map_or_else(Vec::new, |desk| desk.living.clone())
    }

    fn waiting_call(&self, actor: &Actor) -> Option<&Call> {
        let living = &self.desks.get(actor)?.living;
        living.iter().map(|id| &self.calls[id]).find(|call| call.is_queued)
    }

    // ---- A call arrives, tries, and is answered.

    /// A newer call of an owner takes the place of his older ones only when its own try has returned: until then nobody knows
    /// whether its client may have the key at all.
    fn asks(&mut self, asked: AskedFor, now: Moment, out: &mut Vec<Action>) {
        let (id, actor) = (asked.call, asked.actor.clone());
        let desk = self.desks.entry(actor).or_default();
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
        let is_deferred = self.desk_mut(&call.asked.actor.clone()).trying.is_some();
        self.call_mut(id).is_deferred = is_deferred;
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    fn launch(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let (frees, claim_ms) = (self.frees, self.rules.claim_ms);
        let call = self.call_mut(id);
        call.is_trying = true;
        call.attempts += 1;
        call.frees_before = frees;
        let waits = call.asked.may_wait || call.asked.ticket_ms > 0;
        let (asked_place, claim_ms, actor) = (call.asked.place, call.claim_ms(claim_ms), call.asked.actor.clone());
        self.desk_mut(&actor).trying = Some(id);
        // The place that it will take over, if there is one; else the upstream stamps it.
        let place = self.waiting_call(&actor).and_then(|older| older.place).or_else(|| self.kept_place(&actor, now));
        let place = place.or(asked_place);
        let standing = Standing {
            first_call: place.map_or(id, |place| place.first_call),
            arrival_us: place.map(|place| place.arrival_us),
            promote_after_us: self.rules.promote_after_us,
            waits,
            claim_ms,
        };
        let turn = self.turn_but(Some(&actor), now);
        if waits {
            self.tries.insert((now, id));
            self.call_mut(id).sent = now;
        }
        out.push(Action::Try { call: id, standing, turn });
    }

    fn tried(&mut self, id: CallId, sent: Sent, outcome: Tried, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        assert!(call.is_trying, "a try returned that never went out");
        call.is_trying = false;
        let (actor, launched) = (call.asked.actor.clone(), call.sent);
        self.tries.remove(&(launched, id));
        self.entry_awaits_try = false;
        self.desk_mut(&actor).trying = None;
        match outcome {
            Tried::Granted { grant, registered } => {
                if let Some(registered) = registered {
                    self.registered(registered, &sent);
                }
                self.granted_by_own_try(id, grant, true, now, out);
            }
            Tried::Repeated { grant, before, was_claim, ours } => {
                let call = &self.calls[&id];
                let is_new = was_claim
                    // Unless the owner has meanwhile been told of it through another node.
                    || (call.repeats_untold && (ours.is_some() || call.predecessor.as_ref() == Some(&before)))
                    || call.took_over.as_ref() == Some(&before)
                    || ours.is_some_and(|ours| self.is_untold(ours))
                    || self.is_giving_back(&before);
                self.granted_by_own_try(id, grant, is_new, now, out);
            }
            Tried::HandedOver { handed, registered, arrival_us } => {
                self.registered(registered, &sent);
                self.handed(handed, now, out);
                self.refused(id, arrival_us, now, out);
            }
            Tried::Refused { seen, registered, arrival_us } => {
                if let Some(registered) = registered {
                    self.registered(registered, &sent);
                }
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
            Tried::NotSet => self.end_living(id, Some(Answer::NotGranted), false, now, out),
            Tried::Failed { line, passes } if passes && self.calls[&id].asked.may_wait => {
                self.comes_back(id, false, line, now, out);
            }
            Tried::Failed { line, .. } => self.end_living(id, Some(Answer::Failed(line)), false, now, out),
            Tried::NotReached(why) => self.comes_back(id, false, why, now, out),
            Tried::Lost(why) => self.comes_back(id, true, why, now, out),
        }
        self.withdraw(&sent);
        // The owner's newer call has waited for this one to return.
        if let Some(newer) = self.living(&actor).into_iter().find(|id| self.calls[id].is_deferred) {
            out.push(Action::GoOn(newer));
        }
        self.forget_if_past(id);
    }

    /// The call's own try found the key free, or the owner's own.
    fn granted_by_own_try(&mut self, id: CallId, grant: Grant, is_new: bool, now: Moment, out: &mut Vec<Action>) {
        let (lease_ms, actor) = (self.calls[&id].asked.form.lease_ms(), self.calls[&id].asked.actor.clone());
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
        if !is_new || matches!(self.calls[&id].asked.form, Form::Plain { .. }) {
            return;
        }
        // Nobody was told of this grant. The owner's newer call, if one is about to ask, makes it its own; else it goes to the next.
        let newer = self.living(&actor).into_iter().find(|id| matches!(self.calls[id].stage, Stage::Asking));
        match newer {
            Some(newer) => {
                let newer = self.call_mut(newer);
                newer.predecessor = Some(grant.value);
                newer.repeats_untold = true;
            }
            None => self.give_back(grant.value, lease_ms.unwrap_or(self.rules.claim_ms), now),
        }
    }

    /// The call's own try was answered, and not with the lock.
    fn refused(&mut self, id: CallId, arrival_us: u64, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        call.was_lost = false;
        call.predecessor = None;
        call.repeats_untold = false;
        let (may_wait, actor) = (call.asked.may_wait, call.asked.actor.clone());
        let queue_max = call.asked.queue_max.and_then(|most| usize::try_from(most).ok());
        let own_place = call.asked.place.unwrap_or(Place { arrival_us, first_call: id });
        if let Stage::Gone { keeps_place } = call.stage {
            if keeps_place && may_wait && self.waiting_call(&actor).is_none() {
                let place = self.take_kept(&actor, now).unwrap_or(own_place);
                self.keep(actor, place, now);
            }
            return;
        }
        if std::mem::take(&mut call.owner_was_granted) {
            // The owner's older call was granted while this refusal was on its way: this one repeats it.
            out.push(Action::TryLater { call: id, after_ms: 0 });
            return;
        }
        let (frees_before, has_ticket) = (call.frees_before, call.asked.ticket_ms > 0);
        let came_free = frees_before != self.frees;
        let reserved = self.take_reserved(&actor, id);
        let inherited = self.supersede_older(id, now, out).or_else(|| self.take_kept(&actor, now));
        let waiting = self.queue.len();
        if !may_wait && !has_ticket {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
            if let Some(place) = inherited {
                // He looked in without waiting; the place he had is still his.
                self.keep(actor, place, now);
            }
        } else if waiting >= queue_max.unwrap_or(self.rules.waiting_max) {
            let answer = if may_wait { Answer::QueueFull { waiting } } else { Answer::NotGranted };
            self.end_living(id, Some(answer), false, now, out);
        } else {
            let call = self.call_mut(id);
            call.stage = Stage::Waiting;
            call.place = Some(inherited.unwrap_or(own_place));
            self.enqueue(id);
            // What was freed while the refusal was on its way was freed for him.
            self.wants_look |= came_free;
            match reserved {
                Some(value) => self.to_confirm = Some(Claim { call: id, value }),
                None if !may_wait => self.becomes_ticket(id, now, out),
                None => {}
            }
        }
    }

    /// A refused poller is told so, and keeps his place for his next poll.
    pub(super) fn becomes_ticket(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        let until = now.plus_ms(call.asked.ticket_ms);
        call.ticket = Some(Ticket { until, reserved: None });
        self.tickets.insert((until, id));
        out.push(Action::Answer { call: id, answer: Answer::NotGranted });
    }

    /// The claim that is kept for an older poll of the same actor.
    fn take_reserved(&mut self, actor: &Actor, newer: CallId) -> Option<Arc<[u8]>> {
        let older = self.waiting_call(actor)?.asked.call;
        if older == newer { None } else { self.call_mut(older).ticket.as_mut()?.reserved.take() }
    }

    /// A newer call of an owner takes over: his older ones get nil, and their place is its own.
    fn supersede_older(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) -> Option<Place> {
        let actor = self.calls[&id].asked.actor.clone();
        let place = self.waiting_call(&actor).and_then(|older| older.place);
        for older in self.living(&actor).into_iter().take_while(|older| *older != id) {
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
        let may_have_registered = was_lost && (call.asked.may_wait || call.asked.ticket_ms > 0);
        if may_have_registered {
            self.unsure_of_entry();
        }
        let call = self.call_mut(id);
        if !call.is_living() {
            self.settle_later(id, now);
            return;
        }
        // A plain value does not tell whose it is, so that asking again would not tell what came of it.
        let tries_again = if was_lost && matches!(call.asked.form, Form::Plain { .. }) {
            false
        } else {
            call.asked.may_wait || (call.was_lost && call.attempts < LOST_TRIES_MAX)
        };
        let after_ms = pause_ms(&rules, call.attempts, id.0);
        if tries_again {
            out.push(Action::TryLater { call: id, after_ms });
        } else {
            self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
        }
    }

    /// A script of somebody else has granted the lock to a waiter.
    pub(super) fn granted_to(&mut self, id: CallId, grant: Grant, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get(&id) else {
            unreachable!("a call is kept while a script under way may grant to it");
        };
        let lease_ms = call.asked.form.lease_ms();
        match call.stage {
            Stage::Waiting => {
                let actor = call.asked.actor.clone();
                self.end(id, Stage::Granted(grant.fence), now);
                for newer in self.living(&actor) {
                    let newer = self.call_mut(newer);
                    newer.owner_was_granted = newer.is_trying;
                }
                out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new: true } });
            }
            Stage::Asking => unreachable!("nobody is offered the lock before his own try has returned"),
            // Told twice.
            Stage::Granted(fence) if fence == grant.fence => return,
            // He has gone, or had it and let go of it again: it goes on to the next.
            Stage::Granted(_) | Stage::Gone { .. } => {
                self.give_back(grant.value, lease_ms.unwrap_or(self.rules.claim_ms), now);
            }
        }
        self.holder_changed(now, lease_ms);
    }

    /// A script found the lock held. If by one of our calls, then the reply that would have told was lost or is still on its way.
    pub(super) fn saw(&mut self, seen: &Seen, now: Moment, out: &mut Vec<Action>) {
        self.settle_plain(Some(&seen.value), now, out);
        let Some(Named { call: id, fence, is_repeat, is_claim }) = seen.ours else { return };
        if is_claim {
            self.claimed_for(id, seen.value.clone(), now);
            return;
        }
        let Some(call) = self.calls.get(&id) else { return };
        let grant = Grant { fence, value: seen.value.clone() };
        match call.stage {
            Stage::Waiting => {
                self.granted_to(id, grant, now, out);
                self.expires = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
            }
            Stage::Gone { .. } if !is_repeat || call.repeats_untold => {
                let lease_ms = call.asked.form.lease_ms().unwrap_or(self.rules.claim_ms);
                self.give_back(grant.value, lease_ms, now);
            }
            // He holds it by an older call.
            Stage::Gone { .. } => {}
            // Its own try will tell.
            Stage::Asking | Stage::Granted(_) => {}
        }
    }

    fn released(&mut self, sent: Sent, outcome: Released, now: Moment, out: &mut Vec<Action>) {
        match outcome {
            Released::Freed { handed, registered } => {
                if let Some(registered) = registered {
                    self.registered(registered, &sent);
                }
                match handed {
                    Some(handed) => self.handed(handed, now, out),
                    None => self.came_free(),
                }
            }
            Released::Kept => {}
            Released::Lost => {
                self.came_free();
                self.lost(&sent, now);
            }
        }
        self.withdraw(&sent);
    }

    /// A script's reply is lost: it may have granted to anyone whom it was sent with, and registered anyone of them.
    pub(super) fn lost(&mut self, sent: &Sent, now: Moment) {
        for offered in &sent.offered {
            self.unsettle(*offered, now);
        }
        if !sent.offered.is_empty() {
            self.unsure_of_entry();
        }
    }

    fn shuts_down(&mut self, now: Moment, out: &mut Vec<Action>) {
        let mut waiting: Vec<CallId> = self
            .calls
            .values()
            .filter(|call| call.is_living() && (call.asked.may_wait || call.ticket.is_some()))
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
        let is_being_confirmed = self.is_being_confirmed(id) || self.unconfirmed.contains(&id);
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_living()) else { return };
        match call.stage {
            Stage::Waiting if is_being_confirmed => call.is_overdue = true,
            Stage::Asking if call.is_trying => self.call_mut(id).asked.may_wait = false,
            Stage::Asking if !call.is_deferred => {
                let why = call.trouble.clone().unwrap_or_else(|| "it did not answer while the call waited".into());
                self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
            }
            _ => self.end_living(id, Some(Answer::NotGranted), false, now, out),
        }
    }

    pub(super) fn is_being_confirmed(&self, id: CallId) -> bool {
        self.confirming.iter().chain(&self.to_confirm).any(|claim| claim.call == id)
    }

    /// Only a call that still waits: what is being confirmed is as good as granted.
    fn aborts(&mut self, id: CallId, line: Arc<str>, now: Moment, out: &mut Vec<Action>) {
        if self.is_waiting(id) {
            let answer = match self.calls[&id].asked.form {
                Form::Lock { .. } => Answer::Failed(line),
                Form::Plain { .. } => Answer::NotGranted,
            };
            self.end_living(id, Some(answer), false, now, out);
        }
    }

    fn cancels(&mut self, owner: &[u8], now: Moment, out: &mut Vec<Action>) {
        let actor = OwnerId::new(owner).map(Actor::Owner).filter(|actor| self.desks.contains_key(actor));
        match (actor, self.waiting_as(owner)) {
            (Some(actor), _) => self.end_calls_of(&actor, now, out),
            // What is being confirmed cannot be taken back.
            (None, Some(id)) if self.is_being_confirmed(id) => {}
            (None, Some(id)) => self.end_living(id, Some(Answer::NotGranted), false, now, out),
            (None, None) => {}
        }
    }

    fn promotes(&mut self, owner: &[u8], level: Level) {
        if let Some(id) = self.waiting_as(owner) {
            self.dequeue(id);
            self.call_mut(id).asked.level = level;
            self.enqueue(id);
            // Who is registered under his old rank must not look like him.
            self.unsure_of_entry();
        }
    }

    fn end_calls_of(&mut self, actor: &Actor, now: Moment, out: &mut Vec<Action>) {
        self.kept.remove(actor);
        for id in self.living(actor) {
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
        let actor = call.asked.actor.clone();
        let place = call.place.filter(|_| keeps_place && call.asked.may_wait);
        // A poller's call was answered when it got its ticket.
        let answer = answer.filter(|_| call.ticket.is_none());
        self.end(id, Stage::Gone { keeps_place }, now);
        if let Some(place) = place {
            self.keep(actor, place, now);
        }
        if let Some(answer) = answer {
            out.push(Action::Answer { call: id, answer });
        }
    }

    fn end(&mut self, id: CallId, stage: Stage, now: Moment) {
        self.dequeue(id);
        let claim_ms = self.rules.claim_ms;
        self.unconfirmed.remove(&id);
        let call = self.call_mut(id);
        call.stage = stage;
        let (actor, is_trying, claim_ms) = (call.asked.actor.clone(), call.is_trying, call.claim_ms(claim_ms));
        if let Some(ticket) = call.ticket.take() {
            self.tickets.remove(&(ticket.until, id));
            if let Some(reserved) = ticket.reserved {
                self.give_back(reserved, claim_ms, now);
            }
        }
        self.desk_mut(&actor).living.retain(|living| *living != id);
        if !is_trying {
            self.settle_later(id, now);
        }
        self.forget_if_past(id);
    }

    /// What a call that is over leaves unclear is cleared up: a grant to its predecessor, and one whose reply was lost.
    fn settle_later(&mut self, id: CallId, now: Moment) {
        let call = self.call_mut(id);
        let (predecessor, lease_ms) = (call.predecessor.take(), call.asked.form.lease_ms().unwrap_or(0));
        let was_lost = std::mem::take(&mut call.was_lost);
        if let Some(value) = predecessor {
            self.give_back(value, lease_ms, now);
        }
        if was_lost {
            self.unsettle(id, now);
        }
    }

    pub(super) fn unsettle(&mut self, id: CallId, now: Moment) {
        let claim_ms = self.rules.claim_ms;
        let Some(call) = self.calls.get_mut(&id) else { return };
        let until = now.plus_ms(call.asked.form.lease_ms().unwrap_or(claim_ms) + GIVE_BACK_MARGIN_MS);
        if !std::mem::replace(&mut call.is_unsettled, true) {
            self.unsettled.push((id, until));
        } else if self.settling.iter().any(|(settling, _)| *settling == id) {
            // The look under way may have run before what was lost now.
            self.unsettled.push((id, until));
            self.settling.retain(|(settling, _)| *settling != id);
        }
    }

    pub(super) fn give_back(&mut self, value: Arc<[u8]>, lease_ms: u64, now: Moment) {
        let until = now.plus_ms(lease_ms.saturating_add(GIVE_BACK_MARGIN_MS));
        if !self.give_backs.iter().any(|known| known.value == value) {
            self.give_backs.push_back(GiveBack { value, until });
        }
    }

    /// `true` while that value is about to be taken back.
    pub fn is_giving_back(&self, value: &[u8]) -> bool {
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

    pub(super) fn holder_changed(&mut self, now: Moment, lease_ms: Option<u64>) {
        self.grants += 1;
        self.looked = now;
        self.expires = lease_ms.map(|lease_ms| now.plus_ms(lease_ms));
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

    /// This node's two best waiters, but for the calls of `actor`: what a script carries along.
    pub(super) fn turn_but(&mut self, actor: Option<&Actor>, now: Moment) -> Turn {
        let rules = self.rules;
        // No owner stands in line twice.
        let best: Vec<CallId> = (0..3).map_while(|before| self.queue.nth(before)).map(|(_, id)| id).collect();
        let others: Vec<CallId> =
            best.into_iter().filter(|id| Some(&self.calls[id].asked.actor) != actor).take(2).collect();
        let offers = others.into_iter().filter_map(|id| {
            let call = self.call_mut(id);
            call.offers += 1;
            call.offer(rules.promote_after_us, rules.claim_ms)
        });
        let offers = offers.collect();
        let knows_until = self.tries.first().map_or(now, |(sent, _)| Moment(sent.0.saturating_sub(1)).min(now));
        Turn { offers, at: now, knows_until, epoch: self.epoch }
    }

    pub(super) fn withdraw(&mut self, sent: &Sent) {
        for offered in &sent.offered {
            self.withdraw_offer(*offered);
        }
    }

    pub(super) fn withdraw_offer(&mut self, id: CallId) {
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
            self.entry_awaits_try = false;
            self.queue.insert(rank, id);
        }
    }

    fn dequeue(&mut self, id: CallId) {
        let promote_after_us = self.rules.promote_after_us;
        let call = self.call_mut(id);
        if let Some(rank) = call.rank(promote_after_us).filter(|_| call.is_queued) {
            call.is_queued = false;
            self.entry_awaits_try = false;
            let was_there = self.queue.remove(rank);
            assert!(was_there, "a queued call has no place in the queue");
        }
    }

    fn keep(&mut self, actor: Actor, place: Place, now: Moment) {
        if matches!(actor, Actor::Call(_)) {
            return;
        }
        let until = now.plus_ms(self.rules.place_kept_ms);
        self.kept.insert(actor.clone(), (place, until));
        self.kept_order.push_back((until, actor));
        // However many come and go in those seconds, memory stays bounded.
        while self.kept_order.len() > self.rules.waiting_max.max(1) {
            self.forget_oldest_place();
        }
    }

    fn kept_place(&self, actor: &Actor, now: Moment) -> Option<Place> {
        self.kept.get(actor).filter(|(_, until)| *until > now).map(|(place, _)| *place)
    }

    fn take_kept(&mut self, actor: &Actor, now: Moment) -> Option<Place> {
        let place = self.kept_place(actor, now);
        self.kept.remove(actor);
        place
    }

    fn forget_places(&mut self, now: Moment) {
        while self.kept_order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest_place();
        }
    }

    fn forget_oldest_place(&mut self) {
        let Some((until, actor)) = self.kept_order.pop_front() else { return };
        if self.kept.get(&actor).is_some_and(|(_, kept_until)| *kept_until == until) {
            self.kept.remove(&actor);
        }
    }

    // ---- Bookkeeping.

    pub(super) fn call_mut(&mut self, id: CallId) -> &mut Call {
        self.calls.get_mut(&id).expect("a call is kept while anything under way may concern it")
    }

    fn desk_mut(&mut self, actor: &Actor) -> &mut Desk {
        self.desks.get_mut(actor).expect("an actor with a call has a desk")
    }

    pub(super) fn forget_if_past(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_past()) else { return };
        let actor = call.asked.actor.clone();
        self.calls.remove(&id);
        let desk = self.desk_mut(&actor);
        desk.calls -= 1;
        if desk.calls == 0 {
            self.desks.remove(&actor);
        }
    }

    fn assert_sound(&self) {
        assert!(
            self.queue.is_empty()
                || self.is_handing
                || self.wake_at().is_some()
                || self.is_watched
                || self.rules.look_every_ms == 0,
            "somebody waits and nobody will ever look"
        );
        // The thorough part costs a walk through the line.
        if cfg!(debug_assertions) && self.calls.len() <= 64 {
            let queued = self.calls.values().filter(|call| call.is_queued);
            assert_eq!(queued.clone().count(), self.queue.len(), "the queue and the calls disagree");
            for call in queued {
                let waits = call.asked.may_wait || call.asked.ticket_ms > 0;
                assert!(call.is_living() && waits, "somebody is queued who does not wait");
            }
            for (id, call) in &self.calls {
                assert!(!call.is_past(), "a call is kept that nothing concerns any more");
                assert_eq!(call.is_queued, matches!(call.stage, Stage::Waiting), "who waits stands in line");
                let desk = &self.desks[&call.asked.actor];
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
