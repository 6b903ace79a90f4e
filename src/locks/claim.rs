//! What nodes share about a line: this node's best waiter is registered upstream, and what another node's script gives him is a claim,
//! which he confirms before he is told.

use std::sync::Arc;

use super::call::Stage;
use super::event::{Action, Answer, Grant, Handed, Registered, Seen, Sent, Task};
use super::line::Line;
use crate::domain::{CallId, Moment};
use crate::locks::event::Form;

/// What this node has in the queue upstream, as far as it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// This call, or none.
    Known(Registered),
    /// Scripts have overtaken one another, or one was lost.
    Unsure,
}

/// A claim for a call of this node.
#[derive(Debug, Clone)]
pub struct Claim {
    pub call: CallId,
    pub value: Arc<[u8]>,
}

impl Line {
    /// A script has told who is registered after it. Replies overtake one another on their links: where what was known has changed
    /// since the script was sent, nobody can tell which came later.
    pub(super) fn registered(&mut self, registered: Registered, sent: &Sent) {
        let promoted_at = registered.and_then(|call| self.calls.get(&call)).map_or(0, |call| call.promoted_at);
        if sent.epoch < promoted_at {
            self.entry = Entry::Unsure;
        } else if self.entry != Entry::Known(registered) {
            self.entry = if sent.epoch == self.epoch { Entry::Known(registered) } else { Entry::Unsure };
        }
        self.epoch += 1;
        self.knows_left_over(registered);
        self.entry_awaits_try = !self.tries.is_empty() && self.entry != Entry::Known(self.best());
    }

    /// The refused try of `asker` has told who is registered. It has written nobody else: another stands there as he was written before,
    /// under which rank it does not say.
    pub(super) fn registered_at_refusal(&mut self, registered: Registered, asker: CallId, sent: &Sent) {
        let was_promoted = |call: &CallId| self.calls.get(call).is_some_and(|call| call.promoted_at > 0);
        if registered.is_none_or(|call| call == asker || !was_promoted(&call)) {
            self.registered(registered, sent);
        }
    }

    /// A registration of an earlier life of this node may bear a time that is still to come here, and so look like that of a try under
    /// way. Whose try is under way is known here.
    fn knows_left_over(&mut self, registered: Registered) {
        if let Some(call) = registered.filter(|call| !self.calls.contains_key(call)) {
            self.left_over = Some(call);
        }
    }

    /// What is registered may have changed, and nobody knows how.
    pub(super) fn unsure_of_entry(&mut self) {
        self.entry = Entry::Unsure;
        self.epoch += 1;
    }

    /// The queue upstream does not say who this node's best waiter is.
    pub(super) fn entry_is_off(&self) -> bool {
        !self.entry_awaits_try && self.entry != Entry::Known(self.best())
    }

    /// Somebody was given the key by a script of ours.
    pub(super) fn handed(&mut self, handed: Handed, now: Moment, out: &mut Vec<Action>) {
        match handed {
            Handed::To { call, grant } => self.granted_to(call, grant, true, now, out),
            Handed::Claimed { call, value } => {
                let claim_ms = call.and_then(|id| self.calls.get(&id)).map(|call| call.claim_ms(self.rules.claim_ms));
                self.holder_changed(now, Some(claim_ms.unwrap_or(self.rules.claim_ms)));
                if let Some(call) = call {
                    self.claimed_for(call, value, now);
                }
            }
        }
    }

    /// A claim for a call of this node stands in the key.
    pub(super) fn claimed_for(&mut self, id: CallId, value: Arc<[u8]>, now: Moment) {
        if self.confirming.as_ref().is_some_and(|claim| claim.value == value) {
            return;
        }
        let claim_ms = self.rules.claim_ms;
        let Some(call) = self.calls.get_mut(&id) else {
            // Nobody knows the call any more: this node has begun anew under its old name.
            self.give_back(value, claim_ms, now);
            return;
        };
        let claim_ms = call.claim_ms(claim_ms);
        match (&call.stage, &mut call.ticket) {
            (Stage::Waiting, Some(ticket)) => ticket.reserved = Some(value),
            (Stage::Waiting, None) => self.to_confirm = Some(Claim { call: id, value }),
            // Its own try has registered it and is still on its way back: it looks again as soon as it waits.
            (Stage::Asking, _) => self.frees += 1,
            (Stage::Granted(_) | Stage::Gone { .. }, _) => self.give_back(value, claim_ms, now),
        }
    }

    /// The claim that is to be confirmed now, if its waiter still wants it.
    pub(super) fn next_confirmation(&mut self, now: Moment) -> Option<Task> {
        let claim = self.to_confirm.take()?;
        let (rules, call) = (self.rules, self.calls.get_mut(&claim.call));
        let offer = call.filter(|call| matches!(call.stage, Stage::Waiting)).and_then(|call| {
            let offer = call.offer(rules.promote_after_us, rules.claim_ms)?;
            call.offers += 1;
            Some(offer)
        });
        let Some(offer) = offer else {
            self.give_back(claim.value, rules.claim_ms, now);
            return None;
        };
        self.confirming = Some(claim.clone());
        Some(Task::Confirm { claim: claim.value, offer })
    }

    /// The confirmation has run: the waiter is told.
    pub(super) fn confirmed(&mut self, claim: &Claim, grant: Grant, now: Moment, out: &mut Vec<Action>) {
        if let Some(call) = self.calls.get(&claim.call)
            && matches!(call.stage, Stage::Gone { .. })
            && matches!(call.asked.form, Form::Plain { .. })
        {
            // The client left in these moments. Others may write the same value, so that taking it back could hit them: it stays
            // until its expiry, as it does on Redis when a client dies behind its SET NX.
            self.holder_changed(now, call.asked.form.lease_ms());
            return;
        }
        self.granted_to(claim.call, grant, true, now, out);
    }

    /// A confirmation under way has come to its end, and the call whose time was up meanwhile still waits.
    pub(super) fn confirmation_ended(&mut self, claim: &Claim, was_lost: bool, now: Moment, out: &mut Vec<Action>) {
        let Some(call) = self.calls.get_mut(&claim.call) else { return };
        if was_lost {
            match call.asked.form {
                Form::Plain { .. } if call.is_living() => {
                    self.unconfirmed.insert(claim.call);
                    return;
                }
                // Nobody can tell any more whether the value is this call's: it goes by its expiry, as without Lockgate.
                Form::Plain { .. } => return,
                Form::Lock { .. } if call.is_living() => call.was_lost = true,
                Form::Lock { .. } => self.unsettle(claim.call, now),
            }
        }
        let Some(call) = self.calls.get(&claim.call).filter(|call| call.is_living()) else { return };
        if self.is_being_confirmed(claim.call) {
            return;
        }
        if call.is_overdue {
            self.end_living(claim.call, Some(Answer::NotGranted), false, now, out);
        } else if !call.asked.may_wait && call.ticket.is_none() && matches!(call.stage, Stage::Waiting) {
            // A poller whose claim is gone keeps his place.
            self.becomes_ticket(claim.call, now, out);
        }
    }

    /// The key was seen with a plain value in it, or without one, after the reply to a confirmation was lost.
    pub(super) fn settle_plain(&mut self, value: Option<&[u8]>, now: Moment, out: &mut Vec<Action>) {
        for id in std::mem::take(&mut self.unconfirmed) {
            let call = self.call_mut(id);
            let (is_overdue, may_be_its) =
                (call.is_overdue, value.is_some_and(|value| value == call.asked.form.shown_owner()));
            if may_be_its {
                let why =
                    "the reply to its grant was lost, and others may have written the same value since; ask GET".into();
                self.end_living(id, Some(Answer::Unavailable(why)), false, now, out);
            } else if is_overdue {
                self.end_living(id, Some(Answer::NotGranted), false, now, out);
            }
        }
    }

    /// The watch link has looked at the key.
    pub(super) fn observed(&mut self, seen: Option<Seen>, registered: Registered, now: Moment, out: &mut Vec<Action>) {
        self.is_watched = true;
        if self.entry != Entry::Known(registered) {
            self.knows_left_over(registered);
            // It travels on a link of its own: what it saw may be older than what a script has told since.
            self.unsure_of_entry();
        }
        match seen {
            None => {
                self.expires = None;
                self.wants_look = true;
            }
            Some(seen) => {
                self.saw(&seen, now, out);
                self.expires = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
            }
        }
    }

    // ---- Tickets of pollers.

    /// Tickets that have run out are gone, and what was kept for them goes on.
    pub(super) fn end_tickets(&mut self, now: Moment, out: &mut Vec<Action>) {
        while let Some((until, id)) = self.tickets.first().copied().filter(|(until, _)| *until <= now) {
            self.tickets.remove(&(until, id));
            self.end_living(id, None, false, now, out);
        }
    }
}
