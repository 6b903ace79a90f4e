//! A call arrives, tries, waits, and is granted or refused.

use std::sync::Arc;

use super::call::{Call, Stage, Ticket};
use super::claim::{Claim, Entry};
use super::event::{Action, Actor, Answer, AskedFor, Form, Grant, Named, Released, Seen, Sent, Standing, Tried};
use super::line::{LOST_TRIES_MAX, Line, pause_ms};
use super::rank::Place;
use crate::domain::{CallId, Moment, OwnerId};

impl Line {
    /// A newer call of an owner takes the place of his older ones only when its own try has returned: until then nobody knows
    /// whether its client may have the key at all.
    pub(super) fn asks(&mut self, asked: AskedFor, now: Moment, out: &mut Vec<Action>) {
        let (id, actor) = (asked.call, asked.actor.clone());
        let desk = self.desks.entry(actor).or_default();
        let is_deferred = desk.trying.is_some() || desk.living.iter().any(|id| self.calls[id].is_deferred);
        desk.living.push(id);
        desk.calls += 1;
        self.bytes += asked.bytes();
        let mut call = Call::new(asked, now);
        call.is_deferred = is_deferred;
        let had = self.calls.insert(id, call);
        assert!(had.is_none(), "a call's number was given twice");
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    pub(super) fn tries_again(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get(&id) else { return };
        let is_to_try = matches!(call.stage, Stage::Asking) || (matches!(call.stage, Stage::Waiting) && call.joins);
        if !is_to_try || call.is_trying {
            return;
        }
        let is_deferred = self.desk_mut(&call.asked.actor.clone()).trying.is_some();
        self.call_mut(id).is_deferred = is_deferred;
        if !is_deferred {
            self.launch(id, now, out);
        }
    }

    pub(super) fn launch(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let (frees, claim_ms) = (self.frees, self.rules.claim_ms);
        let call = self.call_mut(id);
        call.is_trying = true;
        call.joins = false;
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

    pub(super) fn tried(&mut self, id: CallId, sent: Sent, outcome: Tried, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        assert!(call.is_trying, "a try returned that never went out");
        call.is_trying = false;
        let (actor, launched) = (call.asked.actor.clone(), call.sent);
        let would_register = self.tries.remove(&(launched, id));
        self.entry_awaits_try = false;
        self.desk_mut(&actor).trying = None;
        match outcome {
            Tried::Granted { grant, registered } => {
                if let Some(registered) = registered {
                    self.registered(registered, &sent);
                }
                self.granted_by_own_try(id, grant, true, now, out);
            }
            // The owner's older call, which still waits, was given the lock by a reply that is on its way, be it that of its
            // confirmation: what this one has repeated, its client being gone, is that one's.
            Tried::Repeated { grant, ours: Some(ours), .. }
                if !self.calls[&id].is_living() && ours.call != id && self.stands_in_line(ours.call) =>
            {
                // Whoever sees the value from here on sees a hold that somebody was told of.
                self.call_mut(id).stage = Stage::Granted(grant.fence);
                self.granted_to(ours.call, grant, !ours.is_repeat, now, out);
            }
            Tried::Repeated { grant, before, was_claim, ours } => {
                let call = &self.calls[&id];
                let is_new = was_claim
                    // Unless the owner has meanwhile been told of it through another node.
                    || (call.untold_fence == Some(grant.fence) && (ours.is_some() || call.predecessor.as_ref() == Some(&before)))
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
                    self.registered_at_refusal(registered, id, &sent);
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
            Tried::Lost(why) => {
                // Its time may be up since: what counts is how the try was sent.
                if would_register {
                    self.unsure_of_entry();
                }
                self.lost(&sent, now);
                self.comes_back(id, true, why, now, out);
            }
        }
        self.withdraw(&sent);
        // The owner's newer call has waited for this one to return.
        if let Some(newer) = self.living(&actor).into_iter().find(|id| self.calls[id].is_deferred) {
            out.push(Action::GoOn(newer));
        }
        self.forget_if_past(id);
    }

    /// The call's own try found the key free, or the owner's own.
    pub(super) fn granted_by_own_try(
        &mut self,
        id: CallId,
        grant: Grant,
        is_new: bool,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
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
        // A call that waited while its try was under way may have been told by a look at the key.
        let is_told = matches!(self.calls[&id].stage, Stage::Granted(fence) if fence == grant.fence);
        if !is_new || is_told || matches!(self.calls[&id].asked.form, Form::Plain { .. }) {
            return;
        }
        // Nobody was told of this grant. The owner's newer call, if one is about to ask, makes it its own; else it goes to the next.
        let newer = self.living(&actor).into_iter().find(|id| matches!(self.calls[id].stage, Stage::Asking));
        match newer {
            Some(newer) => {
                let newer = self.call_mut(newer);
                newer.predecessor = Some(grant.value);
                newer.untold_fence = Some(grant.fence);
            }
            None => self.give_back(grant.value, lease_ms.unwrap_or(self.rules.claim_ms), now),
        }
    }

    /// The call's own try was answered, and not with the lock.
    pub(super) fn refused(&mut self, id: CallId, arrival_us: u64, now: Moment, out: &mut Vec<Action>) {
        // It waited while it asked again, and what the same reply has seen was its grant: it is over, and nothing concerns it any more.
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.was_lost = false;
        call.predecessor = None;
        call.untold_fence = None;
        let arrived_us = *call.arrived_us.get_or_insert(arrival_us);
        let was_released = call.released_us.is_some_and(|released_us| arrived_us <= released_us);
        let (may_wait, actor) = (call.asked.may_wait, call.asked.actor.clone());
        let queue_max = call.asked.queue_max.and_then(|most| usize::try_from(most).ok());
        let own_place = call.asked.place.unwrap_or(Place { arrival_us, first_call: id });
        if let Stage::Gone { keeps_place } = call.stage {
            if keeps_place && may_wait && !was_released && self.waiting_call(&actor).is_none() {
                let place = self.take_kept(&actor, now).unwrap_or(own_place);
                self.keep(actor, place, now);
            }
            return;
        }
        match call.stage {
            Stage::Waiting => return self.waits_on(id, now, out),
            // Likewise, or another script's reply has come in before.
            Stage::Granted(_) => return,
            _ if was_released => return self.end_living(id, Some(Answer::NotGranted), false, now, out),
            _ => {}
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

    /// The owner of a waiting call had come to hold the key, and holds it no more: the call stands where it stood.
    fn waits_on(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let call = self.call_mut(id);
        let (is_overdue, frees_before) = (call.is_overdue, call.frees_before);
        self.wants_look |= frees_before != self.frees;
        if is_overdue && !self.is_being_confirmed(id) {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
        }
    }

    /// An owner is one actor on all nodes: his call that waits here is answered with the fence that he was told elsewhere.
    fn owner_holds(&mut self, owner: Option<&OwnerId>, out: &mut Vec<Action>) {
        let Some(owner) = owner else { return };
        let Some(call) = self.waiting_call(&Actor::Owner(owner.clone())) else { return };
        let id = call.asked.call;
        if matches!(call.stage, Stage::Waiting) && !call.is_trying && !call.joins && !self.is_being_confirmed(id) {
            self.call_mut(id).joins = true;
            out.push(Action::GoOn(id));
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
    pub(super) fn take_reserved(&mut self, actor: &Actor, newer: CallId) -> Option<Arc<[u8]>> {
        let older = self.waiting_call(actor)?.asked.call;
        if older == newer { None } else { self.call_mut(older).ticket.as_mut()?.reserved.take() }
    }

    /// A newer call of an owner takes over: his older ones get nil, and their place is its own.
    pub(super) fn supersede_older(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) -> Option<Place> {
        let actor = self.calls[&id].asked.actor.clone();
        let place = self.waiting_call(&actor).and_then(|older| older.place);
        for older in self.living(&actor).into_iter().take_while(|older| *older != id) {
            self.end_living(older, Some(Answer::NotGranted), false, now, out);
        }
        place
    }

    /// The call's own try brought no answer. A call that may wait tries again within its deadline; another only to learn what came
    /// of a try whose reply was lost.
    pub(super) fn comes_back(&mut self, id: CallId, was_lost: bool, why: Arc<str>, now: Moment, out: &mut Vec<Action>) {
        let rules = self.rules;
        let call = self.call_mut(id);
        call.was_lost |= was_lost;
        call.trouble = Some(why.clone());
        if !call.is_living() {
            self.settle_later(id, now);
            return;
        }
        if matches!(call.stage, Stage::Waiting) {
            // It stands in line all the same. Whether it has repeated its owner's hold, a look will tell.
            self.wants_look = true;
            self.waits_on(id, now, out);
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
            let answer = self.calls[&id].no_answer(why);
            self.end_living(id, Some(answer), false, now, out);
        }
    }

    /// A script of somebody else has granted the lock to a waiter.
    pub(super) fn granted_to(&mut self, id: CallId, grant: Grant, is_new: bool, now: Moment, out: &mut Vec<Action>) {
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
                out.push(Action::Answer { call: id, answer: Answer::Granted { grant, is_new } });
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
        let Some(Named { call: id, fence, is_repeat, is_claim }) = seen.ours else {
            self.owner_holds(seen.by.as_ref(), out);
            return;
        };
        if is_claim {
            self.claimed_for(id, seen.value.clone(), now);
            return;
        }
        let Some(call) = self.calls.get(&id) else {
            // By LOCK.TRANSFER, say.
            self.owner_holds(seen.by.as_ref(), out);
            return;
        };
        let grant = Grant { fence, value: seen.value.clone() };
        match call.stage {
            // It repeats what its owner has by another call, and its own try, which knows of whom that is, is on its way back.
            Stage::Waiting if is_repeat && call.is_trying => {}
            Stage::Waiting => {
                let is_new = !is_repeat || call.untold_fence == Some(fence);
                self.granted_to(id, grant, is_new, now, out);
                self.expires = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
            }
            // Its own try is on its way back and decides.
            Stage::Gone { .. } if call.is_trying => {}
            Stage::Gone { .. } if !is_repeat || call.untold_fence == Some(fence) => {
                let lease_ms = call.asked.form.lease_ms().unwrap_or(self.rules.claim_ms);
                self.give_back(grant.value, lease_ms, now);
            }
            // He holds it by an older call.
            Stage::Gone { .. } => {}
            // Its own try will tell.
            Stage::Asking | Stage::Granted(_) => {}
        }
    }

    pub(super) fn released(&mut self, sent: Sent, outcome: Released, now: Moment, out: &mut Vec<Action>) {
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

    /// A script's reply is lost: it may have granted to anyone whom it was sent with, registered anyone of them, and removed the
    /// registration of one whom it was sent without.
    pub(super) fn lost(&mut self, sent: &Sent, now: Moment) {
        for offered in &sent.offered {
            self.unsettle(*offered, now);
        }
        if !sent.offered.is_empty() || !self.tries.is_empty() || self.entry != Entry::Known(None) {
            self.unsure_of_entry();
        }
    }

    pub(super) fn shuts_down(&mut self, now: Moment, out: &mut Vec<Action>) {
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
        while !self.kept_order.is_empty() {
            self.forget_oldest_place();
        }
    }
}
