//! ACQUIRE and SET NX.

use super::{Refusal, Sender, Spec, Waiter, call_name, grant, is_lock, long};
use crate::domain::FIELD_SEPARATOR;
use crate::locks::rank::{Place, Rank};
use crate::locks::{Form, Grant, Offer};
use crate::store::value::Fields;
use crate::store::{Acquired, Ask, BRIDGE, Held};

impl Spec {
    /// `arrival_us` is when the upstream heard of it.
    pub fn acquire(
        &mut self,
        key: &[u8],
        sender: &Sender,
        ask: &Ask,
        offers: &[Offer],
        (arrival_us, is_rule_key): (u64, bool),
    ) -> Result<Acquired, Refusal> {
        let standing = &ask.standing;
        let place = Place { arrival_us: standing.arrival_us.unwrap_or(arrival_us), first_call: standing.first_call };
        let rank = Rank::new(ask.level, place, standing.promote_after_us);
        let offer =
            Offer { call: ask.call, rank, level: ask.level, form: ask.form.clone(), claim_ms: standing.claim_ms };
        let asker = Waiter { offer, sent_us: sender.sent_us };
        let held = match (self.text(key), &ask.form) {
            (Err(Refusal::WrongType), Form::Plain { .. }) => return Ok(Acquired::NotSet),
            (held, _) => held?.map(|(value, until)| (value.to_vec(), until)),
        };
        let Some((value, until_ms)) = held else {
            return Ok(self.ask_free(key, sender, ask, (asker, offers), arrival_us));
        };
        match &ask.form {
            Form::Lock { owner, lease_ms, meta } => {
                if let Some(fields) = Fields::read(&value).filter(|fields| fields.owner == owner.as_bytes()) {
                    // A call for several locks only wants to know.
                    if **meta == *BRIDGE && !fields.is_claim {
                        return Ok(Acquired::Repeated(grant(fields.fence.0, value.clone()), value.into()));
                    }
                    let name = call_name(&sender.node, ask.call);
                    let told = call_field(&value);
                    // Only a hold of another call is repeated; a claim nobody was told of.
                    let mark = if told == name.as_bytes() || fields.is_claim { "" } else { "+" };
                    let (fence, at) = (fields.fence.0, fields.acquired_at_ms);
                    let now = long(owner.as_bytes(), fence, ask.level, at, &format!("{name}{mark}"), meta);
                    self.write(key, now.clone(), Some(self.now_ms() + lease_ms));
                    return Ok(Acquired::Repeated(grant(fence, now), value.into()));
                }
            }
            Form::Plain { .. } if !standing.waits => return Ok(Acquired::NotSet),
            Form::Plain { .. } => {}
        }
        // Nobody waits for data.
        if !is_lock(&value, until_ms, is_rule_key || matches!(ask.form, Form::Plain { .. })) {
            return Err(Refusal::NotALock);
        }
        let mut registered = self.mine(key, &sender.node).map(|mine| mine.offer.call);
        if standing.waits && self.mine(key, &sender.node).is_none_or(|mine| rank < mine.offer.rank) {
            registered = self.register(key, sender, Some(asker));
        }
        let held = Held { value: value.into(), left_ms: self.left_ms(until_ms) };
        Ok(Acquired::Refused(held, standing.waits.then_some(registered), arrival_us))
    }

    fn ask_free(
        &mut self,
        key: &[u8],
        sender: &Sender,
        ask: &Ask,
        (asker, offers): (Waiter, &[Offer]),
        arrival_us: u64,
    ) -> Acquired {
        let (rank, has_queue) = (asker.offer.rank, self.queues.contains_key(key));
        let mut own = self.own(key, sender, offers);
        let goes_first = own.first().is_none_or(|first| rank <= first.offer.rank)
            && self.other(key, &sender.node).is_none_or(|(of, other)| (rank, &sender.node) < (other.offer.rank, &of));
        if goes_first {
            let grant = self.take(key, sender, ask);
            let registered = self.register(key, sender, own.into_iter().next());
            // Where nobody waits anywhere it is not told.
            return Acquired::Granted(grant, (has_queue || !offers.is_empty()).then_some(registered));
        }
        if ask.standing.waits {
            own.push(asker);
            own.sort_by_key(|waiter| waiter.offer.rank);
            own.truncate(2);
        }
        let (handed, registered) = self.take_turns(key, sender, own).expect("somebody ranks before the asker");
        Acquired::HandedOver(handed, registered, arrival_us)
    }

    fn take(&mut self, key: &[u8], sender: &Sender, ask: &Ask) -> Grant {
        match &ask.form {
            Form::Lock { owner, lease_ms, meta } => {
                let fence = self.next_fence(sender.floor, sender.ahead_us);
                let name = call_name(&sender.node, ask.call);
                let value = long(owner.as_bytes(), fence, ask.level, sender.sent_us / 1000, &name, meta);
                self.write(key, value.clone(), Some(self.now_ms() + lease_ms));
                grant(fence, value)
            }
            Form::Plain { value, lease } => {
                self.write(key, value.to_vec(), self.until_of(*lease));
                grant(0, value.to_vec())
            }
        }
    }
}

/// `node:call` and what may follow it, as it stands in a value of the long form.
pub fn call_field(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == FIELD_SEPARATOR).nth(4).unwrap_or_default()
}
