//! Several locks in one step, all or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reply::Reply;
use super::value::{FENCE_MAX, Fields};
use super::{Store, StoreError, companion, flag, odd_reply, script};
use crate::domain::{CallId, FIELD_SEPARATOR, Fence, Level, LockKey};
use crate::locks::Grant;
use crate::upstream::call::Caller;

/// Who wants several locks.
#[derive(Debug, Clone, Copy)]
pub struct AllAsked<'a> {
    /// The owner.
    pub owner: &'a [u8],
    /// The call that new values name.
    pub call: CallId,
    /// How urgently.
    pub level: Level,
    /// The lease of all of them, in ms.
    pub lease_ms: u64,
    /// Unix time.
    pub now_ms: u64,
}

/// One of the locks that an owner has now.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its fence and value.
    pub grant: Grant,
    /// The call itself took it; else the owner held it before.
    pub is_new: bool,
}

/// What the step brought.
#[derive(Debug, Clone)]
pub enum AllAcquired {
    /// All of them, in the order of the keys.
    Granted(Vec<Taken>),
    /// None: the key at this place is another's, or somebody waits for it.
    InTheWay(usize),
}

impl Store {
    /// Takes all `keys`, which share a slot, or none. Safe to repeat with the same call.
    pub async fn acquire_all<C: Caller>(
        &self,
        caller: &C,
        keys: &[LockKey],
        asked: &AllAsked<'_>,
        is_rule_key: impl Fn(&LockKey) -> bool,
    ) -> Result<AllAcquired, StoreError> {
        const SEPARATOR: char = FIELD_SEPARATOR as char;
        let AllAsked { owner, call, level, lease_ms, now_ms } = *asked;
        let (floor, lease) = (self.floor(), lease_ms.to_string());
        let (level, node) = (level.number(), &self.node);
        let tail = format!("{SEPARATOR}{level}{SEPARATOR}{now_ms}{SEPARATOR}{node}:{call}{SEPARATOR}");
        let queues: Vec<Vec<u8>> = keys.iter().map(companion::queue).collect();
        let Some(first) = keys.first() else { return Ok(AllAcquired::Granted(Vec::new())) };
        let mut names: Vec<&[u8]> = keys.iter().map(|key| &*key.name).collect();
        names.extend(queues.iter().map(Vec::as_slice));
        names.push(companion::fence_counter(first));
        let mut args = vec![floor.as_bytes(), owner, lease.as_bytes(), tail.as_bytes()];
        args.extend(keys.iter().map(|key| flag(is_rule_key(key))));
        let Reply::Array(parts) = self.run(&script::ACQUIRE_ALL, caller, &names, &args).await? else {
            return Err(odd_reply());
        };
        let place = |number: i64| {
            let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            place.filter(|place| *place < keys.len()).ok_or_else(odd_reply)
        };
        match parts.as_slice() {
            [Reply::Text(word), taken @ ..] if word == b"granted" && taken.len() == keys.len() => {
                let taken = taken.iter().map(|taken| self.taken(taken, owner, &tail, call));
                Ok(AllAcquired::Granted(taken.collect::<Result<_, _>>()?))
            }
            [Reply::Text(word), Reply::Integer(number)] if word == b"in the way" => {
                Ok(AllAcquired::InTheWay(place(*number)?))
            }
            [Reply::Text(word), Reply::Integer(number)] if word == b"no lock" => {
                Err(StoreError::NotALock(keys[place(*number)?].clone()))
            }
            _ => Err(odd_reply()),
        }
    }

    fn taken(&self, taken: &Reply, owner: &[u8], tail: &str, call: CallId) -> Result<Taken, StoreError> {
        match taken {
            Reply::Integer(fence) => {
                let fence =
                    u64::try_from(*fence).ok().filter(|fence| (1..=FENCE_MAX).contains(fence)).ok_or_else(odd_reply)?;
                self.fence_max.fetch_max(fence, Ordering::Relaxed);
                let digits = fence.to_string();
                let value: Arc<[u8]> = [owner, &[FIELD_SEPARATOR], digits.as_bytes(), tail.as_bytes()].concat().into();
                Ok(Taken { grant: Grant { fence: Fence(fence), value }, is_new: true })
            }
            Reply::Text(value) => {
                let fields = Fields::read(value).ok_or_else(odd_reply)?;
                // The reply to an earlier try of this call was lost.
                let is_new = fields.call_of(&self.node) == Some(call) && !fields.is_repeat;
                Ok(Taken { grant: Grant { fence: fields.fence, value: value.as_slice().into() }, is_new })
            }
            _ => Err(odd_reply()),
        }
    }
}
