//! The line before one lock: the one place that decides between grant, timeout, cancel and a client that leaves. It lives while
//! somebody waits, is kept in mind, or has a script under way; a lock that is merely held needs none.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::call::{Call, Stage};
use super::claim::{Claim, Entry};
use super::event::{Action, Actor, Event};
use super::hand_on::{is_news, may_send_after};
use super::rank::{Place, Rank};
use super::ranking::Ranking;
use crate::domain::{CallId, FastMap, Moment, OwnerId};

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
pub(super) const LOST_TRIES_MAX: u32 = 2;

/// A lease that ends by itself needs no giving back; so much longer than the lease we try, in ms.
pub(super) const GIVE_BACK_MARGIN_MS: u64 = 1000;

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
    /// Which one it is of all that stood before this key or another; 0 where there is but one.
    pub(super) number: u64,
    pub(super) calls: FastMap<CallId, Call>,
    pub(super) desks: FastMap<Actor, Desk>,
    pub(super) queue: Ranking,
    /// Places of clients that left, and until when.
    pub(super) kept: FastMap<Actor, (Place, Moment)>,
    pub(super) kept_order: VecDeque<(Moment, Actor)>,
    /// Pollers' calls whose places are kept, and until when.
    pub(super) tickets: BTreeSet<(Moment, CallId)>,
    /// What is kept for calls and places, in bytes.
    pub(super) bytes: usize,
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
    /// How many looks in a row have brought nothing new.
    pub(super) vain_looks: u32,
    /// The next look that nothing but the line's own doubt asks for is not made before then.
    pub(super) look_again_at: Option<Moment>,
    /// A call that was registered under this node's name and that nobody here knows.
    pub(super) left_over: Option<CallId>,
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
            number: 0,
            calls: FastMap::default(),
            desks: FastMap::default(),
            queue: Ranking::default(),
            kept: FastMap::default(),
            kept_order: VecDeque::new(),
            tickets: BTreeSet::new(),
            bytes: 0,
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
            vain_looks: 0,
            look_again_at: None,
            left_over: None,
            frees: 0,
            grants: 0,
            grants_before_look: 0,
        }
    }

    /// The same, which is told by `number` from those that stood here before and failed.
    pub fn numbered(rules: LineRules, number: u64, now: Moment) -> Self {
        Line { number, ..Line::new(rules, now) }
    }

    /// See [`Line::numbered`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is to be done about `event`, now.
    ///
    /// After [`Event::Hint`], [`Event::Observed`], [`Event::Unwatched`] and [`Event::ShutsDown`] nothing is sent: whoever tells of those may have no link at hand. The timer,
    /// which [`Line::wake_at`] then asks for at once, does it.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        let may_send = may_send_after(&event);
        if is_news(&event) {
            (self.vain_looks, self.look_again_at) = (0, None);
        }
        match event {
            Event::Asks(asked) => self.asks(asked, now, &mut out),
            Event::TriesAgain(call) => self.tries_again(call, now, &mut out),
            Event::Tried { call, sent, outcome } => self.tried(call, sent, outcome, now, &mut out),
            Event::Leaves(call) => self.end_living(call, None, true, now, &mut out),
            Event::TimesOut(call) => self.times_out(call, now, &mut out),
            Event::Yields(call) => self.yields(call, now, &mut out),
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
            Event::ReleasedElsewhere { owner, at_us } => self.released_elsewhere(owner, at_us, now, &mut out),
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

    /// How many calls and places are kept, and what is kept for them but for the key, in bytes.
    pub fn kept(&self) -> (usize, usize) {
        (self.calls.len() + self.kept.len(), self.bytes)
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

    /// `true` while a call that shows this owner and may wait has no answer yet, and can still be taken out of the queue.
    pub fn waits(&self, owner: &[u8]) -> bool {
        let of_owner = OwnerId::new(owner).and_then(|owner| self.desks.get(&Actor::Owner(owner)));
        let living = of_owner.map_or(&[][..], |desk| &desk.living);
        let can_leave =
            |id: CallId| matches!(self.calls[&id].asked.actor, Actor::Owner(_)) || !self.is_being_confirmed(id);
        living.iter().any(|id| self.calls[id].asked.may_wait) || self.waiting_as(owner).is_some_and(can_leave)
    }

    /// Calls of this owner, or his place, are known here.
    pub fn knows(&self, owner: &OwnerId) -> bool {
        let actor = Actor::Owner(owner.clone());
        self.desks.contains_key(&actor) || self.kept.contains_key(&actor)
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
        let has_work = !self.give_backs.is_empty() || self.to_confirm.is_some();
        let is_in_doubt =
            !self.unsettled.is_empty() || self.entry_is_off() || (self.wants_look && !self.queue.is_empty());
        let work_at = has_work.then(Moment::default);
        let doubt_at = is_in_doubt.then(|| self.look_again_at.unwrap_or_default());
        let look_at = if self.queue.is_empty() { None } else { self.next_look_at() };
        let at = work_at.into_iter().chain(doubt_at).chain(look_at).min()?;
        Some(self.retry_at.map_or(at, |retry_at| retry_at.max(at)))
    }

    /// When a waited-for key is looked at by the clock.
    fn next_look_at(&self) -> Option<Moment> {
        // A lease is over once its last millisecond is.
        let expired_at = self.expires.map(|expires| expires.plus_ms(1));
        let is_polled = self.rules.look_every_ms > 0 && !self.is_watched;
        let look_at = is_polled.then(|| self.looked.plus_ms(self.rules.look_every_ms));
        expired_at.into_iter().chain(look_at).min()
    }

    /// The actor's calls that have no answer yet, oldest first.
    pub(super) fn living(&self, actor: &Actor) -> Vec<CallId> {
        self.desks.get(actor).map_or_else(Vec::new, |desk| desk.living.clone())
    }

    pub(super) fn waiting_call(&self, actor: &Actor) -> Option<&Call> {
        let living = &self.desks.get(actor)?.living;
        living.iter().map(|id| &self.calls[id]).find(|call| call.is_queued)
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

    // ---- Bookkeeping.

    pub(super) fn call_mut(&mut self, id: CallId) -> &mut Call {
        self.calls.get_mut(&id).expect("a call is kept while anything under way may concern it")
    }

    pub(super) fn desk_mut(&mut self, actor: &Actor) -> &mut Desk {
        self.desks.get_mut(actor).expect("an actor with a call has a desk")
    }

    pub(super) fn forget_if_past(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id).filter(|call| call.is_past()) else { return };
        let (actor, bytes) = (call.asked.actor.clone(), call.asked.bytes());
        self.calls.remove(&id);
        self.bytes -= bytes;
        let desk = self.desk_mut(&actor);
        desk.calls -= 1;
        if desk.calls == 0 {
            self.desks.remove(&actor);
        }
    }

    pub(super) fn assert_sound(&self) {
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
            let of_calls: usize = self.calls.values().map(|call| call.asked.bytes()).sum();
            let of_places: usize = self.kept.keys().map(Actor::bytes).sum();
            assert_eq!(self.bytes, of_calls + of_places, "what is kept is counted");
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
