//! The line's own work on the upstream: giving back what nobody was told of, and looking whether a waited-for key has come free.
//! Either hands the key to the best waiter in the same step. One at a time for each line.

use super::claim::{Claim, Entry};
use super::event::{Action, Answer, Event, Handing, Sent, Task};
use super::line::{Line, pause_ms};
use crate::domain::{CallId, Moment};

impl Line {
    /// Sends what is due, unless something is under way or a failure asks for a pause.
    pub(super) fn hand_on(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.is_handing {
            return;
        }
        // What expires by itself needs nobody.
        self.give_backs.retain(|give_back| give_back.until > now);
        let expired: Vec<CallId> =
            self.unsettled.extract_if(.., |(_, until)| *until <= now).map(|(id, _)| id).collect();
        for id in expired {
            self.settle(id);
        }
        self.forget_entry(now);
        if self.work_at().is_none_or(|at| at > now) {
            return;
        }
        self.is_handing = true;
        self.retry_at = None;
        self.wants_look = false;
        self.look_again_at = None;
        self.grants_before_look = self.grants;
        self.settling = std::mem::take(&mut self.unsettled);
        let task = self.next_confirmation(now);
        let task = task.or_else(|| {
            self.giving_back = self.give_backs.pop_front();
            self.giving_back.as_ref().map(|give_back| Task::TakeBack(give_back.value.clone()))
        });
        let turn = self.turn_but(None, now);
        out.push(Action::HandOver { task: task.unwrap_or(Task::Look), turn });
    }

    /// What is registered upstream goes by itself some time after its last change: nobody needs to try for ever.
    fn forget_entry(&mut self, now: Moment) {
        if !self.queue.is_empty() || !self.entry_is_off() {
            self.empty_since = None;
        } else {
            let since = *self.empty_since.get_or_insert(now);
            if now >= since.plus_ms(self.rules.queue_kept_ms) {
                self.entry = Entry::Known(None);
            }
        }
    }

    /// A hand-over has returned.
    pub(super) fn handed_over(&mut self, sent: Sent, outcome: Handing, now: Moment, out: &mut Vec<Action>) {
        assert!(self.is_handing, "a hand-over returned that never went out");
        self.is_handing = false;
        let giving_back = self.giving_back.take();
        let confirming = self.confirming.take();
        let brought_nothing = giving_back.is_none()
            && confirming.is_none()
            && matches!(outcome, Handing::Held { .. } | Handing::Free { .. });
        let mut was_lost = false;
        match outcome {
            Handing::To { handed, registered } => {
                self.registered(registered, &sent);
                self.answered(now);
                self.settle_plain(None, now, out);
                self.handed(handed, now, out);
            }
            Handing::Confirmed { grant, registered } => {
                self.registered(registered, &sent);
                self.answered(now);
                if let Some(claim) = &confirming {
                    self.confirmed(claim, grant, now, out);
                }
            }
            Handing::Free { registered } => {
                self.registered(registered, &sent);
                self.answered(now);
                self.settle_plain(None, now, out);
                self.came_free();
            }
            Handing::Over { registered } => {
                self.registered(registered, &sent);
                self.answered(now);
                if let Some(claim) = &confirming {
                    self.end_living(claim.call, Some(Answer::NotGranted), false, now, out);
                    self.give_back(claim.value.clone(), self.rules.claim_ms, now);
                }
            }
            Handing::Held { seen, registered } => {
                self.registered(registered, &sent);
                let left = seen.left_ms.map(|left_ms| now.plus_ms(left_ms));
                self.expires = match self.expires.filter(|_| self.grants != self.grants_before_look) {
                    // The lease was set anew while the look was on its way back.
                    Some(known) => Some(left.map_or(known, |left| left.min(known))),
                    None => left,
                };
                // What was to be taken back may have become the owner's newer call's, whose reply is on its way: if its client
                // leaves as well, that call has to give it back.
                let newer = seen.ours.and_then(|ours| self.calls.get_mut(&ours.call));
                if let (Some(newer), Some(giving_back)) = (newer, &giving_back) {
                    newer.took_over = Some(giving_back.value.clone());
                }
                // Those whose lost replies this look settles are still known to `saw`.
                self.saw(&seen, now, out);
                self.answered(now);
            }
            Handing::Failed { line, is_final } => {
                if is_final {
                    for id in self.queue.in_order() {
                        self.end_living(id, Some(Answer::Failed(line.clone())), false, now, out);
                    }
                    // The script has left the best of whom it was sent with registered.
                    self.entry = if sent.offered.is_empty() { Entry::Known(None) } else { Entry::Unsure };
                } else {
                    self.give_backs.extend(giving_back);
                    self.confirm_again(&confirming);
                }
                self.failed(now);
            }
            Handing::NotReached => {
                self.give_backs.extend(giving_back);
                self.confirm_again(&confirming);
                self.failed(now);
            }
            Handing::Lost => {
                was_lost = true;
                // Taking back compares the whole value: it is safe to ask again.
                self.give_backs.extend(giving_back);
                self.failed(now);
                self.lost(&sent, now);
            }
        }
        if let Some(claim) = confirming {
            self.confirmation_ended(&claim, was_lost, now, out);
            // It was counted once more for its confirmation.
            self.withdraw_offer(claim.call);
        }
        self.withdraw(&sent);
        self.looked_in_vain(brought_nothing, now);
    }

    /// A look that brought nothing may have left the doubt that it was made for: whatever keeps that alive (somebody else under this
    /// node's name, say), looks do not follow one another without a pause.
    fn looked_in_vain(&mut self, brought_nothing: bool, now: Moment) {
        self.vain_looks = if brought_nothing { self.vain_looks.saturating_add(1) } else { 0 };
        if let Some(further) = self.vain_looks.checked_sub(VAIN_LOOKS_MAX).filter(|further| *further > 0) {
            self.look_again_at = Some(now.plus_ms(pause_ms(&self.rules, further, now.0)));
        }
    }

    /// The confirmation did not go out, or changed nothing: the claim may still stand.
    fn confirm_again(&mut self, confirming: &Option<Claim>) {
        if self.to_confirm.is_none() {
            self.to_confirm.clone_from(confirming);
        }
    }

    /// The upstream has answered: what was lost before is settled now.
    fn answered(&mut self, now: Moment) {
        self.failures = 0;
        self.looked = now;
        for (id, _) in std::mem::take(&mut self.settling) {
            self.settle(id);
        }
    }

    fn settle(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.is_unsettled = false;
            self.forget_if_past(id);
        }
    }

    fn failed(&mut self, now: Moment) {
        self.failures += 1;
        let spread = self.looked.0;
        self.retry_at = Some(now.plus_ms(pause_ms(&self.rules, self.failures, spread)));
        self.wants_look = true;
        self.unsettled.append(&mut self.settling);
    }
}

/// So many looks in a row may bring nothing before there is a pause between them.
const VAIN_LOOKS_MAX: u32 = 3;

/// Events that a client or the upstream is behind, not the line's own work: they ask for a look for a new reason.
pub(super) fn is_news(event: &Event) -> bool {
    match event {
        Event::HandedOver { .. } | Event::Hint | Event::Watched | Event::Unwatched | Event::Tick => false,
        Event::Observed { seen, .. } => seen.is_none(),
        _ => true,
    }
}

/// Events after which [`Line::step`] sends nothing.
pub(super) fn may_send_after(event: &Event) -> bool {
    !matches!(event, Event::Hint | Event::Observed { .. } | Event::Watched | Event::Unwatched | Event::ShutsDown)
}
