//! A lock goes from its holder to another owner.

use std::sync::atomic::Ordering;

use super::reply::Reply;
use super::value::Fields;
use super::{Store, StoreError, companion, data_or_odd, fence_arg, flag, odd_reply, script};
use crate::domain::{CallId, Fence, LockKey};
use crate::locks::Grant;
use crate::upstream::call::Caller;

/// A lock that is to change hands.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    /// Who holds it.
    pub from: &'a [u8],
    /// Under which fence; `None` for any.
    pub fence: Option<Fence>,
    /// Who is to hold it.
    pub to: &'a [u8],
    /// His lease, in ms; `None` for what is left of the present one.
    pub lease_ms: Option<u64>,
    /// What the value names from then on, so that nothing takes it for the old grant.
    pub call: CallId,
    /// Unix time.
    pub now_ms: u64,
}

/// A lock that has changed hands.
#[derive(Debug, Clone)]
pub struct Moved {
    /// What its new holder has.
    pub grant: Grant,
    /// What is left of the lease in ms; `None` for a lock without expiry.
    pub left_ms: Option<u64>,
    /// Since when its giver held it, Unix time in ms; `None` where that is not known.
    pub since_ms: Option<u64>,
}

impl Store {
    /// Carries out `transfer`; `None` when its giver does not hold the lock.
    pub async fn transfer<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        transfer: &Transfer<'_>,
        is_rule_key: bool,
    ) -> Result<Option<Moved>, StoreError> {
        let Transfer { from, fence, to, lease_ms, call, now_ms } = *transfer;
        self.reach(caller).await?;
        let (floor, ahead) = (self.floor(), self.ahead_us().to_string());
        let (fence, now) = (fence_arg(fence), now_ms.to_string());
        let call = format!("{}:{call}", self.node);
        let lease = lease_ms.map(|ms| ms.to_string()).unwrap_or_default();
        let args = [
            floor.as_bytes(),
            from,
            fence.as_bytes(),
            flag(is_rule_key),
            to,
            now.as_bytes(),
            call.as_bytes(),
            lease.as_bytes(),
            ahead.as_bytes(),
        ];
        let reply = self.run(&script::TRANSFER, caller, &[&key.name, companion::fence_counter(key)], &args).await?;
        match reply {
            Reply::Integer(0) => Ok(None),
            Reply::Array(parts) => match parts.as_slice() {
                [Reply::Text(word), Reply::Text(value), Reply::Integer(left), Reply::Integer(since)]
                    if word == b"moved" =>
                {
                    let fence = Fields::read(value).ok_or_else(odd_reply)?.fence;
                    self.fence_max.fetch_max(fence.0, Ordering::Relaxed);
                    let grant = Grant { fence, value: value.as_slice().into() };
                    let since_ms = u64::try_from(*since).ok().filter(|since_ms| *since_ms > 0);
                    Ok(Some(Moved { grant, left_ms: u64::try_from(*left).ok(), since_ms }))
                }
                _ => Err(data_or_odd(key, &parts)),
            },
            _ => Err(odd_reply()),
        }
    }
}
