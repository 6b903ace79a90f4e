//! A call ends, and what it leaves unclear is cleared up.

use std::sync::Arc;

use super::call::Stage;
use super::event::{Action, Actor, Answer, Form, Named};
use super::line::{GIVE_BACK_MARGIN_MS, GiveBack, Line};
use crate::domain::{CallId, Level, Moment, OwnerId};

impl Line {
    /// A try that is under way decides: its answer is as good as a look, and only it knows whether the client may have the key. So
    /// a WAIT shorter than a round trip means the same as none.
    pub(super) fn times_out(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let is_being_confirmed = self.is_being_confirmed(id) || self.unconfirmed.contains(&id);
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_living()) else { return };
        match call.stage {
            Stage::Waiting if is_being_confirmed || call.is_trying => call.is_overdue = true,
            Stage::Asking if call.is_trying => self.call_mut(id).asked.may_wait = false,
            Stage::Asking if !call.is_deferred => {
                let why = call.trouble.clone().unwrap_or_else(|| "it did not answer while the call waited".into());
                let answer = call.no_answer(why);
                self.end_living(id, Some(answer), false, now, out);
            }
            _ => self.end_living(id, Some(Answer::NotGranted), false, now, out),
        }
    }

    /// As a timeout, but that a poller's place is kept for the next try.
    pub(super) fn yields(&mut self, id: CallId, now: Moment, out: &mut Vec<Action>) {
        let is_being_confirmed = self.is_being_confirmed(id) || self.unconfirmed.contains(&id);
        let call = self.calls.get_mut(&id).filter(|call| call.asked.ticket_ms > 0 && !is_being_confirmed);
        match call.filter(|call| matches!(call.stage, Stage::Waiting) && call.ticket.is_none()) {
            Some(call) => {
                call.asked.may_wait = false;
                self.becomes_ticket(id, now, out);
            }
            None => self.times_out(id, now, out),
        }
    }

    pub(super) fn is_being_confirmed(&self, id: CallId) -> bool {
        self.confirming.iter().chain(&self.to_confirm).any(|claim| claim.call == id)
    }

    /// Only a call that still waits: what is being confirmed is as good as granted.
    pub(super) fn aborts(&mut self, id: CallId, line: Arc<str>, now: Moment, out: &mut Vec<Action>) {
        if self.is_waiting(id) {
            let answer = match self.calls[&id].asked.form {
                Form::Lock { .. } => Answer::Failed(line),
                Form::Plain { .. } => Answer::NotGranted,
            };
            self.end_living(id, Some(answer), false, now, out);
        }
    }

    pub(super) fn cancels(&mut self, owner: &[u8], now: Moment, out: &mut Vec<Action>) {
        let actor = OwnerId::new(owner).map(Actor::Owner).filter(|actor| self.desks.contains_key(actor));
        match (actor, self.waiting_as(owner)) {
            (Some(actor), _) => self.end_calls_of(&actor, now, out),
            // What is being confirmed cannot be taken back.
            (None, Some(id)) if self.is_being_confirmed(id) => {}
            (None, Some(id)) => self.end_living(id, Some(Answer::NotGranted), false, now, out),
            (None, None) => {}
        }
    }

    pub(super) fn promotes(&mut self, owner: &[u8], level: Level) {
        if let Some(id) = self.waiting_as(owner) {
            self.dequeue(id);
            self.call_mut(id).asked.level = level;
            self.enqueue(id);
            // Who is registered under his old rank must not look like him.
            self.unsure_of_entry();
            self.call_mut(id).promoted_at = self.epoch;
        }
    }

    pub(super) fn end_calls_of(&mut self, actor: &Actor, now: Moment, out: &mut Vec<Action>) {
        self.forget_place(actor);
        for id in self.living(actor) {
            self.end_living(id, Some(Answer::NotGranted), false, now, out);
        }
    }

    /// The upstream's clock tells which calls were there when their owner let go of the key through another node.
    pub(super) fn released_elsewhere(&mut self, owner: OwnerId, at_us: u64, now: Moment, out: &mut Vec<Action>) {
        let actor = Actor::Owner(owner);
        if self.kept.get(&actor).is_some_and(|(place, _)| place.arrival_us <= at_us) {
            self.forget_place(&actor);
        }
        for id in self.living(&actor) {
            let call = self.call_mut(id);
            match call.arrived_us {
                Some(arrived_us) if arrived_us <= at_us => {
                    self.end_living(id, Some(Answer::NotGranted), false, now, out);
                }
                Some(_) => {}
                None => call.released_us = call.released_us.max(Some(at_us)),
            }
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

    pub(super) fn end(&mut self, id: CallId, stage: Stage, now: Moment) {
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
    pub(super) fn settle_later(&mut self, id: CallId, now: Moment) {
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
    pub(super) fn is_untold(&self, named: Named) -> bool {
        self.calls.get(&named.call).is_some_and(|call| {
            let is_told_of = matches!(call.stage, Stage::Granted(_));
            !is_told_of && (!named.is_repeat || call.untold_fence == Some(named.fence))
        })
    }
}
