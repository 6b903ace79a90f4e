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
    /// The call itself took it; else the owner held it already.
    pub is_new: bool,
    /// The whole value until then, where the owner held it.
    pub before: Option<Arc<[u8]>>,
}

/// What the step brought.
#[derive(Debug, Clone)]
pub enum AllAcquired {
    /// All of them, in the order of the keys.
    Granted(Vec<Taken>),
    /// None: a key is another's, or somebody waits for it.
    InTheWay {
        /// The first such key.
        place: usize,
        /// Another such call holds it, for a moment.
        is_bridge: bool,
    },
}

/// The meta of a lock that a call for several holds for the moment until it tries for all of them.
pub const BRIDGE: &[u8] = b"lockgate:bridge";

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
        self.reach(caller).await?;
        let (floor, ahead, lease) = (self.floor(), self.ahead_us().to_string(), lease_ms.to_string());
        let (level, node) = (level.number(), &self.node);
        let tail = format!("{SEPARATOR}{level}{SEPARATOR}{now_ms}{SEPARATOR}{node}:{call}{SEPARATOR}");
        let queues: Vec<Vec<u8>> = keys.iter().map(companion::queue).collect();
        let Some(first) = keys.first() else { return Ok(AllAcquired::Granted(Vec::new())) };
        let mut names: Vec<&[u8]> = keys.iter().map(|key| &*key.name).collect();
        names.extend(queues.iter().map(Vec::as_slice));
        names.push(companion::fence_counter(first));
        let mut args = vec![floor.as_bytes(), owner, lease.as_bytes(), tail.as_bytes(), BRIDGE, ahead.as_bytes()];
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
            [Reply::Text(word), Reply::Integer(number), Reply::Integer(is_bridge)] if word == b"in the way" => {
                Ok(AllAcquired::InTheWay { place: place(*number)?, is_bridge: *is_bridge == 1 })
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
                Ok(Taken { grant: Grant { fence: Fence(fence), value }, is_new: true, before: None })
            }
            Reply::Array(values) => {
                let [Reply::Text(before), Reply::Text(now)] = values.as_slice() else { return Err(odd_reply()) };
                let fence = Fields::read(now).ok_or_else(odd_reply)?.fence;
                // The reply to an earlier try of this call was lost.
                let is_new = self.names_call(before).is_some_and(|named| named.call == call && !named.is_repeat);
                let grant = Grant { fence, value: now.as_slice().into() };
                Ok(Taken { grant, is_new, before: Some(before.as_slice().into()) })
            }
            _ => Err(odd_reply()),
        }
    }
}
