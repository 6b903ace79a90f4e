//! What a holder, or whoever says so, does with a hold: EXTEND, renewals, TRANSFER; who looks, leads and cleans.

use super::{Holder, Refusal, Sender, Spec, Stands, call_name, grant, holder, is_lock, long};
use crate::domain::{Fence, Level};
use crate::store::value::Fields;
use crate::store::{Held, Moved, Outcome, Transfer};

impl Spec {
    fn set_lease(&mut self, key: &[u8], lease_ms: u64) {
        let until = self.now_ms() + lease_ms;
        if let Some(Stands::Text(_, until_ms)) = self.locks.get_mut(key) {
            *until_ms = Some(until);
        }
    }

    /// Whether `owner` holds `key`, under `fence` if one is named. A claim is nobody's hold.
    fn holds(&self, key: &[u8], owner: &[u8], fence: Option<Fence>, is_rule_key: bool) -> Result<Outcome, Refusal> {
        let Some((value, until_ms)) = self.text(key)? else { return Ok(Outcome::HeldByNobody) };
        if !is_lock(value, until_ms, is_rule_key) {
            return Err(Refusal::NotALock);
        }
        Ok(match (holder(value, owner), fence) {
            (Holder::Himself(_), None) => Outcome::Released,
            (Holder::Himself(Some(of)), Some(fence)) if of == fence.0 => Outcome::Released,
            _ => Outcome::HeldByAnother,
        })
    }

    /// EXTEND: up or down.
    pub fn extend(
        &mut self,
        key: &[u8],
        (owner, fence): (&[u8], Option<Fence>),
        lease_ms: u64,
        is_rule_key: bool,
    ) -> Result<Outcome, Refusal> {
        let outcome = self.holds(key, owner, fence, is_rule_key)?;
        if outcome == Outcome::Released {
            self.set_lease(key, lease_ms);
        }
        Ok(outcome)
    }

    /// A renewal: up, and never down.
    pub fn renew(&mut self, key: &[u8], value: &[u8], lease_ms: u64) -> Result<bool, Refusal> {
        let Some((held, until_ms)) = self.text(key)? else { return Ok(false) };
        if held != value {
            return Ok(false);
        }
        if self.left_ms(until_ms).is_some_and(|left| left < lease_ms) {
            self.set_lease(key, lease_ms);
        }
        Ok(true)
    }

    /// TRANSFER: a new fence for a new owner; level and meta stay, the lease where none is named.
    pub fn transfer(
        &mut self,
        key: &[u8],
        sender: &Sender,
        transfer: &Transfer<'_>,
        is_rule_key: bool,
    ) -> Result<Option<Moved>, Refusal> {
        let Transfer { from, fence, to, lease_ms, call, now_ms } = *transfer;
        if self.holds(key, from, fence, is_rule_key)? != Outcome::Released {
            return Ok(None);
        }
        let Some((value, until_ms)) = self.text(key)? else { return Ok(None) };
        let fields = Fields::read(value);
        let (level, meta) = fields.map_or((Level::Normal, Vec::new()), |fields| (fields.level, fields.meta.to_vec()));
        let since_ms = fields.map(|fields| fields.acquired_at_ms).filter(|since| *since > 0);
        let ending = fields.map(|fields| fields.fence.0);
        let until_ms = lease_ms.map_or(until_ms, |ms| Some(self.now_ms() + ms));
        self.ending = ending;
        let fence = self.next_fence(sender.floor, sender.ahead_us);
        let moved = long(to, fence, level, now_ms, &call_name(&sender.node, call), &meta);
        self.write(key, moved.clone(), until_ms);
        Ok(Some(Moved { grant: grant(fence, moved), left_ms: self.left_ms(until_ms), since_ms }))
    }

    /// Who holds `key`.
    pub fn look(&self, key: &[u8], is_rule_key: bool) -> Result<Option<Held>, Refusal> {
        let Some((value, until_ms)) = self.text(key)? else { return Ok(None) };
        if !is_lock(value, until_ms, is_rule_key) {
            return Err(Refusal::NotALock);
        }
        Ok(Some(Held { value: value.into(), left_ms: self.left_ms(until_ms) }))
    }

    /// Registrations go as they were read, and in no other form.
    pub fn clean(&mut self, key: &[u8], read: &[(Vec<u8>, Vec<u8>)]) -> u64 {
        let mut removed = 0;
        for (node, text) in read {
            let node = String::from_utf8_lossy(node).into_owned();
            if self.mine(key, &node).is_some_and(|waiter| waiter.text() == *text) {
                self.unregister(key, &node);
                removed += 1;
            }
        }
        removed
    }

    /// One leads until its lease ends or it lays it down.
    pub fn lead(&mut self, leader: &[u8], me: &str, lease_ms: u64) -> Result<bool, Refusal> {
        if self.text(leader)?.is_some_and(|(leads, _)| leads != me.as_bytes()) {
            return Ok(false);
        }
        self.locks.remove(leader);
        if lease_ms > 0 {
            self.write(leader, me.as_bytes().to_vec(), Some(self.now_ms() + lease_ms));
        }
        Ok(lease_ms > 0)
    }
}
