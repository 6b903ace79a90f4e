//! What confirms, takes back and ends a hold.

use super::{Holder, Refusal, Sender, Spec, Waiter, grant, holder, is_lock};
use std::sync::Arc;

use crate::domain::{CallId, Fence, PlainLease};
use crate::locks::{Form, Handed, Offer, Registered, Task};
use crate::store::value::Fields;
use crate::store::{Freed, HandedOver, Held, Outcome};

impl Spec {
    /// A node's own turn.
    pub fn hand_over(
        &mut self,
        key: &[u8],
        sender: &Sender,
        task: &Task,
        offers: &[Offer],
        is_rule_key: bool,
    ) -> Result<HandedOver, Refusal> {
        let held = match self.text(key) {
            Err(refusal) => {
                // Nobody waits for what is no lock.
                self.unregister(key, &sender.node);
                return Err(refusal);
            }
            Ok(held) => held.map(|(value, until)| (value.to_vec(), until)),
        };
        let mut own = self.own(key, sender, offers);
        if let Some((value, until_ms)) = held {
            match task {
                Task::Confirm { claim, offer } if **claim == *value => {
                    let is_his = |waiter: &Waiter| waiter.offer.call == offer.call;
                    if own.first().is_some_and(is_his) {
                        own.remove(0);
                    }
                    if self.is_too_late(&offer.form) {
                        return Ok(HandedOver::Over(self.register(key, sender, own.into_iter().next())));
                    }
                    return Ok(self.confirm(key, sender, (&value, offer), own));
                }
                Task::TakeBack(expected) if **expected == *value => {}
                _ => {
                    let registered = self.register(key, sender, own.into_iter().next());
                    let has_plain = offers.iter().any(|offer| matches!(offer.form, Form::Plain { .. }));
                    if !is_lock(&value, until_ms, is_rule_key || has_plain) {
                        return Err(Refusal::NotALock);
                    }
                    let held = Held { value: value.into(), left_ms: self.left_ms(until_ms) };
                    return Ok(HandedOver::Held(held, registered));
                }
            }
            self.ending = Fields::read(&value).map(|fields| fields.fence.0);
            self.locks.remove(key);
        }
        Ok(match self.take_turns(key, sender, own) {
            Some((handed, registered)) => HandedOver::To(handed, registered),
            None => HandedOver::Free(None),
        })
    }

    /// The moment until which he wanted it is over.
    fn is_too_late(&self, form: &Form) -> bool {
        matches!(form, Form::Plain { lease: PlainLease::AtMs(at), .. } if *at <= self.now_ms())
    }

    fn confirm(
        &mut self,
        key: &[u8],
        sender: &Sender,
        (claim, offer): (&[u8], &Offer),
        own: Vec<Waiter>,
    ) -> HandedOver {
        let granted = match &offer.form {
            Form::Plain { value, lease } => {
                self.write(key, value.to_vec(), self.until_of(*lease));
                grant(0, value.to_vec())
            }
            Form::Lock { lease_ms, .. } => {
                let fields = Fields::read(claim).expect("a claim is of the long form");
                let call = super::asking::call_field(claim);
                let call = std::str::from_utf8(&call[..call.len() - 1]).expect("nodes have plain names");
                let value =
                    super::long(fields.owner, fields.fence.0, fields.level, fields.acquired_at_ms, call, fields.meta);
                self.write(key, value.clone(), Some(self.now_ms() + lease_ms));
                grant(fields.fence.0, value)
            }
        };
        let registered = self.register(key, sender, own.into_iter().next());
        HandedOver::Confirmed(granted, registered)
    }

    /// What becomes of another node's claim that ends: a claim for none of its calls, since only it knows who is next there.
    fn turn_of_claimant(&self, key: &[u8], sender: &Sender) -> Option<(Vec<u8>, u64)> {
        let (value, until_ms) = self.text(key).ok()??;
        let claim = Fields::read(value).filter(|fields| fields.is_claim)?;
        let node = std::str::from_utf8(claim.node).expect("nodes have plain names");
        let name = format!("{}?", super::call_name(node, CallId(0)));
        let is_turn = claim.call == b"0" || node == sender.node;
        let turn = super::long(b"", 0, claim.level, claim.acquired_at_ms, &name, b"");
        until_ms.filter(|_| !is_turn).map(|until_ms| (turn, until_ms))
    }

    /// RELEASE, and FORCE where nobody is named; `at_us` is when the upstream heard of it.
    pub fn release(
        &mut self,
        key: &[u8],
        sender: &Sender,
        (owner, fence): (Option<&[u8]>, Option<Fence>),
        offers: &[Offer],
        (is_rule_key, at_us): (bool, Option<u64>),
    ) -> Result<Freed, Refusal> {
        let held = self.text(key)?.map(|(value, until_ms)| (value.to_vec(), until_ms));
        let is_another = |node: &String| *node != sender.node;
        // Their calls of the same owner end with it.
        let others_wait = self.queues.get(key).is_some_and(|queue| queue.waiters.keys().any(is_another));
        let freed = |outcome| Freed { at_us: others_wait.then(|| at_us.unwrap_or_default()), ..freed(outcome) };
        let ended = match held {
            None => freed(Outcome::HeldByNobody),
            Some((value, until_ms)) => {
                let value = &value[..];
                let fields = Fields::read(value);
                // What only looks like a lock because it has an expiry is nobody's to free.
                let is_data = match owner {
                    None => fields.is_none() && !is_rule_key,
                    Some(_) => !is_lock(value, until_ms, is_rule_key),
                };
                if is_data {
                    return Err(Refusal::NotALock);
                }
                let ends = match owner {
                    None => true,
                    // The owner's first release ends every call of his, one that has but a claim, too.
                    Some(owner) => match (holder(value, owner), fence) {
                        (Holder::Another, _) | (Holder::Himself(None), Some(_)) => false,
                        (_, None) => true,
                        (_, Some(fence)) => fields.is_some_and(|fields| fields.fence == fence),
                    },
                };
                if !ends {
                    return Ok(freed(Outcome::HeldByAnother));
                }
                let since_ms = fields.map(|fields| fields.acquired_at_ms).filter(|since| *since > 1);
                let taken = owner.is_none().then(|| Arc::from(value));
                self.ending = fields.map(|fields| fields.fence.0);
                Freed { since_ms, taken, ..freed(Outcome::Released) }
            }
        };
        if let Some((turn, until_ms)) = self.turn_of_claimant(key, sender) {
            let at_us = Some(at_us.unwrap_or_default());
            let own = self.own(key, sender, offers);
            self.write(key, turn.clone(), Some(until_ms));
            let registered = self.register(key, sender, own.into_iter().next());
            let handed = Handed::Claimed { call: None, value: turn.into() };
            return Ok(Freed { handed: Some(handed), registered: Some(registered), at_us, ..ended });
        }
        let is_waited_for = !offers.is_empty() || self.queues.contains_key(key);
        self.locks.remove(key);
        if !is_waited_for {
            return Ok(ended);
        }
        let own = self.own(key, sender, offers);
        let (handed, registered): (_, Registered) = match self.take_turns(key, sender, own) {
            Some((handed, registered)) => (Some(handed), registered),
            None => (None, None::<CallId>),
        };
        Ok(Freed { handed, registered: Some(registered), ..ended })
    }
}

fn freed(outcome: Outcome) -> Freed {
    Freed { outcome, handed: None, registered: None, since_ms: None, taken: None, at_us: None }
}
