//! Several locks in one step.

use super::{Holder, Refusal, Sender, Spec, call_name, grant, holder, is_lock, long};
use crate::store::value::Fields;
use crate::store::{AllAcquired, AllAsked, BRIDGE, Taken};

impl Spec {
    /// All of them or none; the refusal comes with the place of its key where that is data.
    pub fn acquire_all(
        &mut self,
        keys: &[Vec<u8>],
        sender: &Sender,
        asked: &AllAsked<'_>,
        is_rule_key: bool,
    ) -> Result<AllAcquired, Refusal> {
        for (place, key) in keys.iter().enumerate() {
            match self.text(key)? {
                None if self.queues.contains_key(key) => {
                    return Ok(AllAcquired::InTheWay { place, is_bridge: false });
                }
                None => {}
                Some((value, _)) if matches!(holder(value, asked.owner), Holder::Himself(Some(_))) => {}
                Some((value, until_ms)) => {
                    if !is_lock(value, until_ms, is_rule_key) {
                        return Err(Refusal::NotALock);
                    }
                    let is_bridge = Fields::read(value).is_some_and(|fields| fields.meta == BRIDGE);
                    return Ok(AllAcquired::InTheWay { place, is_bridge });
                }
            }
        }
        let taken = keys.iter().map(|key| self.take_one(key, sender, asked)).collect();
        Ok(AllAcquired::Granted(taken))
    }

    fn take_one(&mut self, key: &[u8], sender: &Sender, asked: &AllAsked<'_>) -> Taken {
        let until_ms = Some(self.now_ms() + asked.lease_ms);
        let name = call_name(&sender.node, asked.call);
        let Ok(Some((before, _))) = self.text(key) else {
            let fence = self.next_fence(sender.floor, sender.ahead_us);
            let value = long(asked.owner, fence, asked.level, asked.now_ms, &name, b"");
            self.write(key, value.clone(), until_ms);
            return Taken { grant: grant(fence, value), is_new: true, before: None };
        };
        let before = before.to_vec();
        let fields = Fields::read(&before).expect("the owner holds it by the long form");
        let is_same = fields.node == sender.node.as_bytes() && fields.call == asked.call.to_string().as_bytes();
        let is_new = is_same && !fields.is_repeat;
        let meta: &[u8] = if fields.meta == BRIDGE { b"" } else { fields.meta };
        let name = if is_new { name } else { format!("{name}+") };
        let now = long(asked.owner, fields.fence.0, fields.level, fields.acquired_at_ms, &name, meta);
        let fence = fields.fence.0;
        self.write(key, now.clone(), until_ms);
        Taken { grant: grant(fence, now), is_new, before: Some(before.into()) }
    }
}
