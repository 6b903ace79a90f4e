//! The shared truth: every transition of a lock is one script on the upstream. This layer knows how to ask for a transition and
//! what the answer says; who is asked for, and when, the layers above decide.

mod acquire_all;
pub mod companion;
#[cfg(test)]
mod conformance;
pub mod import;
pub mod nodes;
mod reply;
mod script;
mod transfer;
pub mod value;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::{CallId, FIELD_SEPARATOR, Fence, Level, LockKey, PlainLease, WallClock};
use crate::locks::{Form, Grant, Handed, Named, Offer, Registered, Standing, Task};
use crate::upstream::call::{CallError, Caller};
pub use acquire_all::{AllAcquired, AllAsked, BRIDGE, Taken};
use reply::Reply;
use script::Script;
#[cfg(test)]
pub use script::{is_renewal, is_transfer, released_by};
pub use transfer::{Moved, Transfer};
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

/// When a script was sent, and what its node knew then. Unix time in µs that never goes back.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it was sent.
    pub sent_us: u64,
    /// Until when the node knew what its own tries had come to.
    pub knows_us: u64,
    /// A call that is registered under the node's name and is none of this process's.
    pub left_over: Option<CallId>,
}

/// Who asks for a lock, and for what.
#[derive(Debug, Clone)]
pub struct Ask {
    /// His call.
    pub call: CallId,
    /// What is to stand in the key.
    pub form: Form,
    /// His level.
    pub level: Level,
    /// How he stands among the waiters, should he have to wait.
    pub standing: Standing,
}

/// A lock that somebody holds, or that is kept for a waiter by a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The whole value.
    pub value: Arc<[u8]>,
    /// The rest of its lease in ms; `None` where it has no expiry.
    pub left_ms: Option<u64>,
}

impl Held {
    /// It is only kept for a waiter, whose node has not confirmed it yet: nobody holds the lock.
    pub fn is_claim(&self) -> bool {
        Fields::read(&self.value).is_some_and(|fields| fields.is_claim)
    }
}

/// What an ACQUIRE or SET NX brought.
#[derive(Debug, Clone)]
pub enum Acquired {
    /// The lock was free and is the asker's.
    Granted(Grant, Option<Registered>),
    /// The asker held it already, as the value before says: same fence, fresh lease.
    Repeated(Grant, Arc<[u8]>),
    /// The lock was free and went to a waiter who ranks before the asker.
    HandedOver(Handed, Registered, Arrival),
    /// Another holds it. Who is registered is told to an asker who waits.
    Refused(Held, Option<Registered>, Arrival),
    /// Another holds it, and nothing more is known.
    NotSet,
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

/// What came of an ended hold.
#[derive(Debug, Clone)]
pub struct Freed {
    /// Whether it was the owner's.
    pub outcome: Outcome,
    /// Who has the lock next.
    pub handed: Option<Handed>,
    /// Which call of this node is registered; `None` where nobody waits anywhere.
    pub registered: Option<Registered>,
    /// Since when it was held, as the value says: Unix time in ms.
    pub since_ms: Option<u64>,
    /// The whole value of a lock that was taken from its holder.
    pub taken: Option<Arc<[u8]>>,
    /// When that was, Unix time of the upstream in µs; told where other nodes have waiters.
    pub at_us: Option<u64>,
}

impl Freed {
    /// Somebody released it, and nobody has it next; `number` is how that ended, as the script tells it.
    fn alone(number: i64, at_us: Option<u64>) -> Result<Freed, StoreError> {
        let (outcome, since_ms) = ended(number)?;
        Ok(Freed { outcome, handed: None, registered: None, since_ms, taken: None, at_us })
    }
}

/// What a hand-over found.
#[derive(Debug, Clone)]
pub enum HandedOver {
    /// The lock was free, and somebody has it now.
    To(Handed, Registered),
    /// The claim is its waiter's lock now.
    Confirmed(Grant, Registered),
    /// The lock is free and nobody waited.
    Free(Registered),
    /// The moment until which the confirmed call wanted the lock has passed by the upstream's clock; the claim still stands.
    Over(Registered),
    /// Another holds it.
    Held(Held, Registered),
}

/// The scripts of one node on one upstream.
pub struct Store {
    node: Arc<str>,
    clock: WallClock,
    /// By how many µs the upstream's clock is ahead of this node's, as far as it has told. Fences that go by one clock alone grow also
    /// where the counter is flushed just after this node has raised it.
    clock_ahead_us: AtomicI64,
    /// The lowest fence that may be given now.
    floor: AtomicU64,
    /// The highest fence that this node has seen.
    fence_max: AtomicU64,
    /// The replication id of the master that was met last.
    history: Mutex<Option<Vec<u8>>>,
    /// By how many µs fences run ahead of the upstream's clock, since failovers.
    ahead_us: AtomicU64,
    /// Rings when the upstream has called itself a replica: its master is to be met anew.
    pub master_doubted: Notify,
    /// Rings when fences run further ahead of the clock than before: the other nodes should know before the next heartbeat, in case the
    /// counter is lost.
    pub ahead_grew: Notify,
    /// How long a queue upstream outlives its last change, in ms.
    queue_kept_ms: AtomicU64,
}

/// Clocks differ; fences that are this much ahead of one's own are so for another reason, in µs.
const AHEAD_MIN_US: u64 = 60_000_000;

/// No fence is lower (September 2001 as Unix time in µs): whoever finds the counter below has found it flushed.
const FENCE_MIN: u64 = 1_000_000_000_000_000;

/// A fence that is further ahead of the clock has never been given out, see `lua/fence.lua`.
const FENCE_AHEAD_MAX: u64 = 1 << 52;

/// How far fences jump when a master with another history takes over: an hour of clock difference in µs.
const OTHER_HISTORY_GAP: u64 = 1 << 32;

impl Store {
    /// The store of `node`. A counter that was flushed while no node ran does not begin anew, but at the upstream's time.
    pub fn new(node: Arc<str>, clock: WallClock, queue_kept_ms: u64) -> Self {
        Store {
            node,
            floor: AtomicU64::new(FENCE_MIN),
            clock,
            clock_ahead_us: AtomicI64::new(0),
            fence_max: AtomicU64::new(0),
            history: Mutex::default(),
            ahead_us: AtomicU64::new(0),
            queue_kept_ms: AtomicU64::new(queue_kept_ms),
            master_doubted: Notify::new(),
            ahead_grew: Notify::new(),
        }
    }

    /// This node's name as it stands in values.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A master was met anew: it may have lost increments, so fences go on above all that this node has seen, and with
    /// `other_history` (its replication id changed) above what other nodes may have seen too.
    pub fn met_master(&self, time_us: u64, other_history: bool) {
        let gap = if other_history { OTHER_HISTORY_GAP } else { 0 };
        let ahead_us = self.ahead_us.fetch_add(gap, Ordering::Relaxed) + gap;
        if gap > 0 {
            self.ahead_grew.notify_one();
        }
        let above_seen = self.fence_max() + 1;
        let floor = time_us.saturating_add(ahead_us).max(above_seen).min(FENCE_MAX / 2);
        self.floor.fetch_max(floor, Ordering::Relaxed);
    }

    /// The upstream has told its time, Unix time in µs.
    pub fn met_time(&self, time_us: u64) {
        let ahead_us = i64::try_from(i128::from(time_us) - i128::from(self.clock.unix_us())).unwrap_or(0);
        self.clock_ahead_us.store(ahead_us, Ordering::Relaxed);
    }

    /// What the upstream's clock says now, as far as this node can tell: Unix time in µs.
    pub fn upstream_us(&self) -> u64 {
        self.clock.unix_us().saturating_add_signed(self.clock_ahead_us.load(Ordering::Relaxed))
    }

    /// A master was met whose INFO names this replication id (`None` where it tells none): another one than before has another
    /// history.
    pub fn met_history(&self, id: Option<&[u8]>, time_us: u64) {
        let mut known = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let other_history = id.is_some() && known.as_deref().is_some_and(|known| Some(known) != id);
        if let Some(id) = id {
            *known = Some(id.to_vec());
        }
        // Held meanwhile, so that two links that come back at once count one failover.
        self.met_master(time_us, other_history);
    }

    /// `true` where a master with this replication id is the one that was met last, or tells none.
    pub fn knows_history(&self, id: Option<&[u8]>) -> bool {
        let known = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        id.is_none() || known.as_deref() == id
    }

    /// Before anything is granted over a link that was just dialled, its master is met.
    async fn reach<C: Caller>(&self, caller: &C) -> Result<(), StoreError> {
        if let Some(info) = caller.reach().await? {
            self.met_history(replication_id(&info), self.upstream_us());
        }
        Ok(())
    }

    /// By how many µs this node's fences run ahead of the upstream's clock.
    pub fn ahead_us(&self) -> u64 {
        self.ahead_us.load(Ordering::Relaxed)
    }

    /// The highest fence that this node has seen; 0 for none.
    pub fn fence_max(&self) -> u64 {
        self.fence_max.load(Ordering::Relaxed)
    }

    /// Another node lets its fences run so far ahead.
    pub fn met_ahead(&self, ahead_us: u64, now_us: u64) {
        if ahead_us > self.ahead_us() && ahead_us < FENCE_MAX / 4 {
            self.ahead_us.fetch_max(ahead_us, Ordering::Relaxed);
            self.met_master(now_us, false);
        }
    }

    /// A fence that was given by whichever node: where they run ahead of the clock, this node's do so as well. Anybody can write into
    /// the counter: what cannot have been given out counts for nothing.
    pub fn met_fence(&self, fence: u64, now_us: u64) {
        if fence >= now_us.saturating_add(FENCE_AHEAD_MAX) {
            return;
        }
        self.fence_max.fetch_max(fence, Ordering::Relaxed);
        let ahead_us = fence.saturating_sub(now_us);
        if (AHEAD_MIN_US..FENCE_MAX / 4).contains(&ahead_us)
            && self.ahead_us.fetch_max(ahead_us, Ordering::Relaxed) < ahead_us
        {
            self.ahead_grew.notify_one();
        }
    }

    /// The call of this node that holds a lock of that `value`.
    pub fn names_call(&self, value: &[u8]) -> Option<Named> {
        let fields = Fields::read(value)?;
        // Other nodes may have seen more failovers than this one. Anybody can write a value, so that only what two more of them
        // explain is believed.
        let believable = self.ahead_us.load(Ordering::Relaxed) + 2 * OTHER_HISTORY_GAP + AHEAD_MIN_US;
        let now_us = self.upstream_us();
        if fields.fence.0 > now_us + AHEAD_MIN_US && fields.fence.0 < now_us.saturating_add(believable) {
            self.met_fence(fields.fence.0, now_us);
        }
        Some(Named {
            call: fields.call_of(&self.node)?,
            fence: fields.fence,
            is_repeat: fields.is_repeat,
            is_claim: fields.is_claim,
        })
    }

    /// Asks for `key`, a free lock goes to whoever ranks first of the asker, `others` of this node
    /// and the other nodes' best.
    pub async fn acquire<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        ask: &Ask,
        others: &[Offer],
        times: Times,
        is_rule_key: bool,
    ) -> Result<Acquired, StoreError> {
        const SEPARATOR: char = FIELD_SEPARATOR as char;
        self.reach(caller).await?;
        let (level, node, call, now_ms) = (ask.level.number(), &self.node, ask.call, times.sent_us / 1000);
        let (script, first, second, tail) = match &ask.form {
            Form::Lock { owner, lease_ms, meta } => {
                let tail = format!("{SEPARATOR}{level}{SEPARATOR}{now_ms}{SEPARATOR}{node}:{call}{SEPARATOR}");
                (&script::ACQUIRE, owner.as_bytes(), lease_ms.to_string(), [tail.as_bytes(), meta].concat())
            }
            Form::Plain { value, lease } => (&script::SET_NX, &**value, plain_lease(*lease), Vec::new()),
        };
        let standing = &ask.standing;
        let waiting_part = match standing.waits {
            true => after_rank(ask.call, ask.level, &ask.form, standing.claim_ms),
            false => Vec::new(),
        };
        let (tier, ahead, rest) = crate::locks::rank::parts(ask.level, standing.first_call, standing.promote_after_us);
        let arrival = standing.arrival_us.map(|us| us.to_string()).unwrap_or_default();
        let is_plain = matches!(ask.form, Form::Plain { .. });
        let is_lock = u8::from(is_rule_key || is_plain);
        let asker = format!("{arrival}\x1f{is_lock}\x1f{tier}\x1f{ahead}\x1f{rest}").into_bytes();
        let (asker, head, offers) = ([asker, waiting_part].concat(), self.head(times), offers_text(others));
        let mut args: Vec<&[u8]> = head.iter().map(Vec::as_slice).collect();
        args.extend([first, second.as_bytes(), &tail, &asker]);
        args.extend(offers.iter().map(Vec::as_slice));
        let reply = self.run_on(script, caller, key, &args).await?;
        let granted = |fence: i64| -> Result<Grant, StoreError> {
            Ok(match &ask.form {
                Form::Lock { .. } => {
                    let fence = self.fence(fence)?;
                    let value = [first, &[FIELD_SEPARATOR], fence.0.to_string().as_bytes(), &tail].concat().into();
                    Grant { fence, value }
                }
                Form::Plain { value, .. } => Grant { fence: Fence(0), value: value.clone() },
            })
        };
        let parts = match &reply {
            Reply::Integer(0) if is_plain => return Ok(Acquired::NotSet),
            Reply::Integer(fence) => return Ok(Acquired::Granted(granted(*fence)?, None)),
            Reply::Array(parts) => parts.as_slice(),
            _ => return Err(odd_reply()),
        };
        match parts {
            [Reply::Text(word), Reply::Integer(fence), Reply::Text(registered)] if word == b"granted" => {
                Ok(Acquired::Granted(granted(*fence)?, Some(registered_call(registered))))
            }
            [Reply::Text(word), Reply::Text(before), Reply::Text(now)] if word == b"repeat" => {
                let Some(fields) = Fields::read(now) else { return Err(odd_reply()) };
                let grant = Grant { fence: fields.fence, value: now.as_slice().into() };
                Ok(Acquired::Repeated(grant, before.as_slice().into()))
            }
            [
                Reply::Text(word),
                Reply::Text(value),
                Reply::Integer(left),
                Reply::Text(registered),
                Reply::Text(secs),
                Reply::Text(micros),
            ] if word == b"held" => {
                let registered = standing.waits.then(|| registered_call(registered));
                let held = held(key, value, *left, is_rule_key || is_plain)?;
                Ok(Acquired::Refused(held, registered, time(secs, micros)?))
            }
            [_, _, _, _, Reply::Text(secs), Reply::Text(micros)] => {
                let (handed, registered) = self.handed(&parts[..4], others, times.sent_us).ok_or_else(odd_reply)?;
                Ok(Acquired::HandedOver(handed, registered, time(secs, micros)?))
            }
            _ => Err(odd_reply()),
        }
    }

    /// Carries out `task` on `key`; a free lock goes to whoever ranks first of `offers` and the other nodes' best.
    pub async fn hand_over<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        task: &Task,
        offers: &[Offer],
        times: Times,
        is_rule_key: bool,
    ) -> Result<HandedOver, StoreError> {
        self.reach(caller).await?;
        let (head, texts) = (self.head(times), offers_text(offers));
        let (what, expected, confirmed, lease, call) = match task {
            Task::Look => ("", &[][..], Arc::default(), String::new(), String::new()),
            Task::TakeBack(value) => ("back", &**value, Arc::default(), String::new(), String::new()),
            Task::Confirm { claim, offer } => {
                let value = confirmed_value(claim, &offer.form).ok_or_else(odd_reply)?;
                ("confirm", &**claim, value, lease_text(&offer.form), offer.call.to_string())
            }
        };
        let mut args: Vec<&[u8]> = head.iter().map(Vec::as_slice).collect();
        args.extend([what.as_bytes(), expected, &confirmed, lease.as_bytes(), call.as_bytes()]);
        args.extend(texts.iter().map(Vec::as_slice));
        let Reply::Array(parts) = self.run_on(&script::HAND_OVER, caller, key, &args).await? else {
            return Err(odd_reply());
        };
        match parts.as_slice() {
            [Reply::Text(word), Reply::Text(registered)] if word == b"over" => {
                Ok(HandedOver::Over(registered_call(registered)))
            }
            [Reply::Text(word), Reply::Text(registered)] if word == b"free" => {
                Ok(HandedOver::Free(registered_call(registered)))
            }
            [Reply::Text(word), Reply::Text(registered)] if word == b"confirmed" => {
                let fence = Fields::read(&confirmed).map_or(Fence(0), |fields| fields.fence);
                Ok(HandedOver::Confirmed(Grant { fence, value: confirmed.clone() }, registered_call(registered)))
            }
            [Reply::Text(word), Reply::Text(value), Reply::Integer(left), Reply::Text(registered)]
                if word == b"held" =>
            {
                let has_plain = offers.iter().any(|offer| matches!(offer.form, Form::Plain { .. }));
                let held = held(key, value, *left, is_rule_key || has_plain)?;
                Ok(HandedOver::Held(held, registered_call(registered)))
            }
            parts => {
                let (handed, registered) = self.handed(parts, offers, times.sent_us).ok_or_else(odd_reply)?;
                Ok(HandedOver::To(handed, registered))
            }
        }
    }

    /// Ends the hold of `owner` on `key` (under `fence`, if given; of whoever holds it for `None`), and hands over in the same step.
    #[expect(clippy::too_many_arguments, reason = "they are the script's")]
    pub async fn release<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        owner: Option<&[u8]>,
        fence: Option<Fence>,
        offers: &[Offer],
        times: Times,
        is_rule_key: bool,
    ) -> Result<Freed, StoreError> {
        self.reach(caller).await?;
        let (head, fence) = (self.head(times), fence_arg(fence));
        let texts = offers_text(offers);
        let mut args: Vec<&[u8]> = head.iter().map(Vec::as_slice).collect();
        let terms = [fence.as_bytes(), flag(is_rule_key), flag(owner.is_none())].join(&FIELD_SEPARATOR);
        args.extend([owner.unwrap_or_default(), &terms]);
        args.extend(texts.iter().map(Vec::as_slice));
        let parts = match self.run_on(&script::RELEASE, caller, key, &args).await? {
            Reply::Integer(number) => return Freed::alone(number, None),
            Reply::Array(parts) => parts,
            _ => return Err(odd_reply()),
        };
        let [Reply::Integer(number), Reply::Text(secs), Reply::Text(micros), parts @ ..] = parts.as_slice() else {
            return Err(data_or_odd(key, &parts));
        };
        let at_us = if secs.is_empty() { None } else { Some(time(secs, micros)?) };
        let freed = Freed::alone(*number, at_us)?;
        let (parts, taken) = match (owner, parts.split_last(), freed.outcome) {
            (_, _, Outcome::HeldByAnother) => return Ok(freed),
            (None, Some((Reply::Text(value), parts)), Outcome::Released) => (parts, Some(value.as_slice().into())),
            _ => (parts, None),
        };
        let (handed, registered) = match parts {
            [Reply::Text(word), Reply::Text(registered)] if word == b"free" => (None, registered_call(registered)),
            parts => {
                let (handed, registered) = self.handed(parts, offers, times.sent_us).ok_or_else(odd_reply)?;
                (Some(handed), registered)
            }
        };
        Ok(Freed { handed, registered: Some(registered), taken, ..freed })
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

    /// Takes back the `value` that a `SET NX` has just written, unless what stands there has more than `left_max_ms` of its lease left
    /// (`None` for a value without expiry): then it is another's.
    pub async fn undo<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        value: &[u8],
        left_max_ms: Option<u64>,
    ) -> Result<bool, StoreError> {
        let left_max = left_max_ms.map(|ms| ms.to_string()).unwrap_or_default();
        match self.run(&script::UNDO, caller, &[&key.name], &[value, left_max.as_bytes()]).await? {
            Reply::Integer(undone) => Ok(undone == 1),
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
        looked(self.run(&script::LOOK, caller, &[&key.name], &[]).await?, key, is_rule_key)
    }

    /// The same, refused where the caller may not change who waits for `key`.
    pub async fn look_to_change<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        is_rule_key: bool,
    ) -> Result<Option<Held>, StoreError> {
        let reply = self.run(&script::MAY_CHANGE, caller, &[&key.name, &companion::queue(key)], &[]).await?;
        looked(reply, key, is_rule_key)
    }

    async fn run<C: Caller>(
        &self,
        script: &'static Script,
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

    /// The lowest fence that may be given: in whichever database, so that none goes back where somebody swaps them.
    fn floor(&self) -> String {
        let above_seen = self.fence_max() + 1;
        self.floor.load(Ordering::Relaxed).max(above_seen).to_string()
    }

    async fn run_on<C: Caller>(
        &self,
        script: &'static Script,
        caller: &C,
        key: &LockKey,
        args: &[&[u8]],
    ) -> Result<Reply, StoreError> {
        let queue = companion::queue(key);
        self.run(script, caller, &[&key.name, companion::fence_counter(key), &queue], args).await
    }

    /// What every script that decides whose turn it is begins its arguments with: the floor of fences, and what `lua/turn.lua` calls
    /// the context.
    fn head(&self, times: Times) -> [Vec<u8>; 2] {
        let (node, kept_ms, ahead_us) = (&self.node, self.queue_kept_ms.load(Ordering::Relaxed), self.ahead_us());
        let Times { sent_us, knows_us, left_over } = times;
        let left_over = left_over.map(|call| call.to_string()).unwrap_or_default();
        let context = format!("{ahead_us}\x1f{node}\x1f{sent_us}\x1f{kept_ms}\x1f{knows_us}\x1f{left_over}");
        [self.floor().into_bytes(), context.into_bytes()]
    }

    /// From here on a queue is kept so long after its last change, if it was not kept longer already: somebody may wait that long.
    pub fn keep_queues(&self, queue_kept_ms: u64) {
        self.queue_kept_ms.fetch_max(queue_kept_ms, Ordering::Relaxed);
    }

    /// `handed | claimed`, fence or value, call, registered call.
    fn handed(&self, parts: &[Reply], offers: &[Offer], sent_us: u64) -> Option<(Handed, Registered)> {
        match parts {
            [Reply::Text(word), Reply::Integer(fence), Reply::Text(call), Reply::Text(registered)]
                if word == b"handed" =>
            {
                let call = CallId::parse(call)?;
                let offer = offers.iter().find(|offer| offer.call == call)?;
                let Form::Lock { owner, meta, .. } = &offer.form else { return None };
                let fence = self.fence(*fence).ok()?;
                let (level, node) = (offer.level.number(), &self.node);
                let (fence_text, rest) = (fence.0.to_string(), format!("{}\x1f{node}:{call}", sent_us / 1000));
                let level = level.to_string();
                let fields = [owner.as_bytes(), fence_text.as_bytes(), level.as_bytes(), rest.as_bytes(), meta];
                let value = fields.join(&FIELD_SEPARATOR).into();
                Some((Handed::To { call, grant: Grant { fence, value } }, registered_call(registered)))
            }
            [Reply::Text(word), Reply::Text(value), Reply::Text(call), Reply::Text(registered)]
                if word == b"claimed" =>
            {
                let handed = Handed::Claimed { call: CallId::parse(call), value: value.as_slice().into() };
                Some((handed, registered_call(registered)))
            }
            _ => None,
        }
    }

    fn fence(&self, fence: i64) -> Result<Fence, StoreError> {
        let fence = u64::try_from(fence).ok().filter(|fence| (1..=FENCE_MAX).contains(fence)).ok_or_else(odd_reply)?;
        self.met_fence(fence, self.upstream_us());
        Ok(Fence(fence))
    }
}

/// A waiter as scripts take him, see `lua/turn.lua`.
fn offer_text(offer: &Offer) -> Vec<u8> {
    let mut text = format!("{}\x1f0", offer.rank.text()).into_bytes();
    text.extend(after_rank(offer.call, offer.level, &offer.form, offer.claim_ms));
    text
}

fn offers_text(offers: &[Offer]) -> Vec<Vec<u8>> {
    offers.iter().map(offer_text).collect()
}

/// What follows a waiter's rank and the time.
fn after_rank(call: CallId, level: Level, form: &Form, claim_ms: u64) -> Vec<u8> {
    let (owner, meta) = match form {
        Form::Lock { owner, meta, .. } => (owner.as_bytes(), &**meta),
        Form::Plain { value, .. } => (&**value, &[][..]),
    };
    let (lease, level, length) = (lease_text(form), level.number(), owner.len());
    let head = format!("\x1f{claim_ms}\x1f{lease}\x1f{level}\x1f{call}\x1f{length}\x1f");
    [head.as_bytes(), owner, meta].concat()
}

fn lease_text(form: &Form) -> String {
    match form {
        Form::Lock { lease_ms, .. } => format!("L{lease_ms}"),
        Form::Plain { lease, .. } => plain_lease(*lease),
    }
}

fn plain_lease(lease: PlainLease) -> String {
    match lease {
        PlainLease::Ms(ms) => format!("P{ms}"),
        PlainLease::AtMs(at) => format!("A{at}"),
        PlainLease::Forever => "N".into(),
    }
}

/// What a claim becomes when it is confirmed.
fn confirmed_value(claim: &[u8], form: &Form) -> Option<Arc<[u8]>> {
    if let Form::Plain { value, .. } = form {
        return Some(value.clone());
    }
    // The `?` ends the fifth field.
    let mut separators = memchr::memchr_iter(FIELD_SEPARATOR, claim);
    let end = separators.nth(4)?;
    let before = claim.get(..end)?.strip_suffix(b"?")?;
    Some([before, claim.get(end..)?].concat().into())
}

fn registered_call(text: &[u8]) -> Registered {
    CallId::parse(text)
}

fn looked(reply: Reply, key: &LockKey, is_rule_key: bool) -> Result<Option<Held>, StoreError> {
    let Reply::Array(parts) = reply else { return Err(odd_reply()) };
    match parts.as_slice() {
        [Reply::Text(word)] if word == b"free" => Ok(None),
        [Reply::Text(word), Reply::Text(value), Reply::Integer(left)] if word == b"held" => {
            held(key, value, *left, is_rule_key).map(Some)
        }
        _ => Err(odd_reply()),
    }
}

fn held(key: &LockKey, value: &[u8], left: i64, is_rule_key: bool) -> Result<Held, StoreError> {
    let left_ms = u64::try_from(left).ok();
    if left_ms.is_none() && !is_rule_key && Fields::read(value).is_none() {
        return Err(StoreError::NotALock(key.clone()));
    }
    Ok(Held { value: value.into(), left_ms })
}

/// How a RELEASE ended, and since when the lock was held where its value says.
fn ended(number: i64) -> Result<(Outcome, Option<u64>), StoreError> {
    match u64::try_from(number) {
        Ok(since_ms) if since_ms > 1 => Ok((Outcome::Released, Some(since_ms))),
        _ => Ok((outcome_of(number)?, None)),
    }
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

/// The `master_replid` of an `INFO replication`.
pub fn replication_id(info: &[u8]) -> Option<&[u8]> {
    let mut lines = info.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.trim_ascii().strip_prefix(b"master_replid:"))
}
