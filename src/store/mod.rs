//! The shared truth: every transition of a lock is one script on the upstream. This layer knows how to ask for a transition and
//! what the answer says; who is asked for, and when, the layers above decide.

pub mod companion;
mod nodes;
mod reply;
mod script;
pub mod value;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::domain::{FIELD_SEPARATOR, Fence, LockKey, OwnerId};
use crate::locks::{Grant, Named, Offer};
use crate::upstream::call::{CallError, Caller};
use reply::Reply;
use script::Script;
use value::{FENCE_MAX, Fields};

/// Why a transition has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The upstream refused: its own error line, without the `-`.
    #[error("{0}")]
    Refused(String),
    /// A string without expiry, of another form and outside the rules: data, not a lock.
    #[error("ERR '{0}' is not a lock")]
    NotALock(LockKey),
    /// No reply.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A waiter or asker as a script takes him: three arguments, from which the script makes the lock's value.
#[derive(Debug, Clone)]
pub struct Claim {
    owner: OwnerId,
    lease: String,
    /// What follows the fence in the value.
    tail: Vec<u8>,
}

impl Claim {
    fn push_args<'a>(&'a self, args: &mut Vec<&'a [u8]>) {
        args.extend([self.owner.as_bytes(), self.lease.as_bytes(), &self.tail]);
    }

    /// The value that the script wrote under `fence`.
    fn value(&self, fence: Fence) -> Arc<[u8]> {
        let fence = fence.0.to_string();
        [self.owner.as_bytes(), &[FIELD_SEPARATOR], fence.as_bytes(), &self.tail].concat().into()
    }
}

/// A lock that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The whole value.
    pub value: Arc<[u8]>,
    /// The rest of its lease in ms; `None` where it has no expiry.
    pub left_ms: Option<u64>,
}

/// What an ACQUIRE brought.
#[derive(Debug, Clone)]
pub enum Acquired {
    /// The lock was free and is the asker's.
    Granted(Grant),
    /// The asker held it already, by the call that `before` names: same fence, fresh lease.
    Repeated(Grant, Arc<[u8]>),
    /// The lock was free and went to the waiter who ranks before the asker.
    HandedOver(Grant, Arrival),
    /// Another holds it.
    Refused(Held, Arrival),
}

/// When a refused call arrived: the upstream's clock, Unix time in µs.
pub type Arrival = u64;

/// What a RELEASE brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The owner held the lock and does no more.
    Released,
    /// Another holds it, or the owner does under another fence.
    HeldByAnother,
    /// Nobody held it.
    HeldByNobody,
}

/// What a hand-over or a probe found.
#[derive(Debug, Clone)]
pub enum HandedOver {
    /// The best waiter has the lock.
    To(Grant),
    /// The lock is free and nobody waited.
    Free,
    /// Another holds it.
    Held(Held),
}

/// The scripts of one node on one upstream.
pub struct Store {
    node: Arc<str>,
    /// The lowest fence that may be given now.
    floor: AtomicU64,
    /// The highest fence that this node has seen.
    fence_max: AtomicU64,
    /// Rings when the upstream has called itself a replica: its master is to be met anew.
    pub master_doubted: Notify,
}

/// How far fences jump when a master with another history takes over: an hour of clock difference in µs.
const OTHER_HISTORY_GAP: u64 = 1 << 32;

impl Store {
    /// The store of `node`, which begins at `now_us` (Unix time in µs): no fence below that is given out, so a counter that was
    /// flushed while no node ran does not begin anew.
    pub fn new(node: Arc<str>, now_us: u64) -> Self {
        Store {
            node,
            floor: AtomicU64::new(now_us.min(FENCE_MAX / 2)),
            fence_max: AtomicU64::new(0),
            master_doubted: Notify::new(),
        }
    }

    /// This node's name as it stands in values.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A master was met anew: it may have lost increments, so fences go on above all that this node has seen, and with
    /// `other_history` (its replication id changed) above what other nodes may have seen too.
    pub fn met_master(&self, time_us: u64, other_history: bool) {
        let gap = if other_history { OTHER_HISTORY_GAP } else { 1 };
        let floor = time_us.max(self.fence_max.load(Ordering::Relaxed)).saturating_add(gap).min(FENCE_MAX / 2);
        self.floor.fetch_max(floor, Ordering::Relaxed);
    }

    /// `offer` as scripts take it, granted (if it is) at `now_ms`, Unix time.
    pub fn claim(&self, offer: Offer, now_ms: u64) -> Claim {
        const SEPARATOR: char = FIELD_SEPARATOR as char;
        let Offer { call, owner, level, lease_ms, meta } = offer;
        let (level, node) = (level.number(), &self.node);
        let mut tail = format!("{SEPARATOR}{level}{SEPARATOR}{now_ms}{SEPARATOR}{node}:{call}{SEPARATOR}").into_bytes();
        tail.extend_from_slice(&meta);
        Claim { owner, lease: lease_ms.to_string(), tail }
    }

    /// The call of this node that holds a lock of that `value`.
    pub fn names_call(&self, value: &[u8]) -> Option<Named> {
        let fields = Fields::read(value)?;
        Some(Named { call: fields.call_of(&self.node)?, fence: fields.fence, is_repeat: fields.is_repeat })
    }

    /// Asks for `key` for `asker`; a free lock goes to `before`, if one is given.
    pub async fn acquire<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        asker: &Claim,
        before: Option<&Claim>,
        is_rule_key: bool,
    ) -> Result<Acquired, StoreError> {
        let floor = self.floor();
        let mut args = vec![floor.as_bytes()];
        asker.push_args(&mut args);
        if let Some(before) = before {
            before.push_args(&mut args);
        }
        let reply = self.run(&script::ACQUIRE, caller, &[&key.name, companion::fence_counter(key)], &args).await?;
        match reply {
            Reply::Integer(fence) => Ok(Acquired::Granted(self.granted(asker, fence)?)),
            Reply::Array(parts) => match (parts.as_slice(), before) {
                ([Reply::Text(word), Reply::Integer(fence), Reply::Text(secs), Reply::Text(micros)], Some(before))
                    if word == b"handed" =>
                {
                    Ok(Acquired::HandedOver(self.granted(before, *fence)?, time(secs, micros)?))
                }
                ([Reply::Text(word), Reply::Text(before), Reply::Text(now)], _) if word == b"repeat" => {
                    let Some(fields) = Fields::read(now) else { return Err(odd_reply()) };
                    let grant = Grant { fence: fields.fence, value: now.as_slice().into() };
                    Ok(Acquired::Repeated(grant, before.as_slice().into()))
                }
                (
                    [
                        Reply::Text(word),
                        Reply::Text(value),
                        Reply::Integer(left),
                        Reply::Text(secs),
                        Reply::Text(micros),
                    ],
                    _,
                ) if word == b"held" => {
                    Ok(Acquired::Refused(held(key, value, *left, is_rule_key)?, time(secs, micros)?))
                }
                _ => Err(odd_reply()),
            },
            _ => Err(odd_reply()),
        }
    }

    /// Gives `key` to `best` if it is free or still holds the whole value `taken_back`.
    pub async fn hand_over<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        taken_back: Option<&[u8]>,
        best: Option<&Claim>,
        is_rule_key: bool,
    ) -> Result<HandedOver, StoreError> {
        let floor = self.floor();
        let mut args = vec![floor.as_bytes(), taken_back.unwrap_or_default()];
        if let Some(best) = best {
            best.push_args(&mut args);
        }
        let reply = self.run(&script::HAND_OVER, caller, &[&key.name, companion::fence_counter(key)], &args).await?;
        let Reply::Array(parts) = reply else { return Err(odd_reply()) };
        match (parts.as_slice(), best) {
            ([Reply::Text(word), Reply::Integer(fence)], Some(best)) if word == b"handed" => {
                Ok(HandedOver::To(self.granted(best, *fence)?))
            }
            ([Reply::Text(word)], _) if word == b"free" => Ok(HandedOver::Free),
            ([Reply::Text(word), Reply::Text(value), Reply::Integer(left)], _) if word == b"held" => {
                Ok(HandedOver::Held(held(key, value, *left, is_rule_key)?))
            }
            _ => Err(odd_reply()),
        }
    }

    /// Ends the hold of `owner` on `key` (under `fence`, if given) and hands over to `best` in the same step.
    pub async fn release<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        owner: &[u8],
        fence: Option<Fence>,
        best: Option<&Claim>,
        is_rule_key: bool,
    ) -> Result<(Outcome, Option<Grant>), StoreError> {
        let (floor, fence) = (self.floor(), fence_arg(fence));
        let mut args = vec![floor.as_bytes(), owner, fence.as_bytes(), flag(is_rule_key)];
        if let Some(best) = best {
            best.push_args(&mut args);
        }
        let reply = self.run(&script::RELEASE, caller, &[&key.name, companion::fence_counter(key)], &args).await?;
        match reply {
            Reply::Integer(outcome) => Ok((outcome_of(outcome)?, None)),
            Reply::Array(parts) => match (parts.as_slice(), best) {
                ([Reply::Integer(outcome), Reply::Integer(fence)], Some(best)) => {
                    Ok((outcome_of(*outcome)?, Some(self.granted(best, *fence)?)))
                }
                _ => Err(data_or_odd(key, &parts)),
            },
            _ => Err(odd_reply()),
        }
    }

    /// Sets the lease of `owner` on `key` to `lease_ms` from now.
    pub async fn extend<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        owner: &[u8],
        fence: Option<Fence>,
        lease_ms: u64,
        is_rule_key: bool,
    ) -> Result<Outcome, StoreError> {
        let (fence, lease) = (fence_arg(fence), lease_ms.to_string());
        let args = [owner, fence.as_bytes(), lease.as_bytes(), flag(is_rule_key)];
        match self.run(&script::EXTEND, caller, &[&key.name], &args).await? {
            Reply::Integer(outcome) => outcome_of(outcome),
            Reply::Array(parts) => Err(data_or_odd(key, &parts)),
            _ => Err(odd_reply()),
        }
    }

    /// Renews the lease of the grant that wrote `value`; `false` when the key holds anything else by now.
    pub async fn renew<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        value: &[u8],
        lease_ms: u64,
    ) -> Result<bool, StoreError> {
        let lease = lease_ms.to_string();
        match self.run(&script::RENEW, caller, &[&key.name], &[value, lease.as_bytes()]).await? {
            Reply::Integer(renewed) => Ok(renewed == 1),
            _ => Err(odd_reply()),
        }
    }

    /// Who holds `key`; `None` when nobody does.
    pub async fn look<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        is_rule_key: bool,
    ) -> Result<Option<Held>, StoreError> {
        let Reply::Array(parts) = self.run(&script::LOOK, caller, &[&key.name], &[]).await? else {
            return Err(odd_reply());
        };
        match parts.as_slice() {
            [Reply::Text(word)] if word == b"free" => Ok(None),
            [Reply::Text(word), Reply::Text(value), Reply::Integer(left)] if word == b"held" => {
                held(key, value, *left, is_rule_key).map(Some)
            }
            _ => Err(odd_reply()),
        }
    }

    async fn run<C: Caller>(
        &self,
        script: &Script,
        caller: &C,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Reply, StoreError> {
        let raw = script.run(caller, keys, args).await?;
        match Reply::read(&raw) {
            Some(Reply::Error(line)) => {
                if line.starts_with("READONLY") {
                    self.master_doubted.notify_one();
                }
                Err(StoreError::Refused(line))
            }
            Some(reply) => Ok(reply),
            None => Err(odd_reply()),
        }
    }

    fn floor(&self) -> String {
        self.floor.load(Ordering::Relaxed).to_string()
    }

    fn granted(&self, claim: &Claim, fence: i64) -> Result<Grant, StoreError> {
        let fence = u64::try_from(fence).ok().filter(|fence| (1..=FENCE_MAX).contains(fence)).ok_or_else(odd_reply)?;
        self.fence_max.fetch_max(fence, Ordering::Relaxed);
        Ok(Grant { fence: Fence(fence), value: claim.value(Fence(fence)) })
    }
}

fn held(key: &LockKey, value: &[u8], left: i64, is_rule_key: bool) -> Result<Held, StoreError> {
    let left_ms = u64::try_from(left).ok();
    if left_ms.is_none() && !is_rule_key && Fields::read(value).is_none() {
        return Err(StoreError::NotALock(key.clone()));
    }
    Ok(Held { value: value.into(), left_ms })
}

fn outcome_of(number: i64) -> Result<Outcome, StoreError> {
    match number {
        1 => Ok(Outcome::Released),
        0 => Ok(Outcome::HeldByAnother),
        -1 => Ok(Outcome::HeldByNobody),
        _ => Err(odd_reply()),
    }
}

fn data_or_odd(key: &LockKey, parts: &[Reply]) -> StoreError {
    match parts {
        [Reply::Text(word)] if word == b"no lock" => StoreError::NotALock(key.clone()),
        _ => odd_reply(),
    }
}

fn odd_reply() -> StoreError {
    StoreError::Refused("ERR the upstream answered a lock script with something else; is it a Redis or Valkey?".into())
}

fn time(secs: &[u8], micros: &[u8]) -> Result<Arrival, StoreError> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let at =
        number(secs).zip(number(micros)).and_then(|(secs, micros)| secs.checked_mul(1_000_000)?.checked_add(micros));
    at.ok_or_else(odd_reply)
}

fn fence_arg(fence: Option<Fence>) -> String {
    fence.map(|fence| fence.0.to_string()).unwrap_or_default()
}

fn flag(is_set: bool) -> &'static [u8] {
    if is_set { b"1" } else { b"0" }
}
