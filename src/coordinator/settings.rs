//! What the configuration says about locks, and what of it can change while locks are given out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rules::{LockKeys, Rule};
use super::seal::Seal;
use crate::domain::{LockKey, Replicas, WallClock};
use crate::health::{self, webhook::Webhook};
use crate::locks::LineRules;
use crate::locks::victim::VictimPolicy;

/// A queue upstream outlives the longest wait by so much, in ms.
const QUEUE_KEPT_MARGIN_MS: u64 = 60_000;

/// What is done about deadlocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadlockMode {
    /// One call of each is ended.
    #[default]
    Detect,
    /// The call that would close one is refused.
    Prevent,
    /// Nothing: their waits time out.
    Off,
}

/// Settings of the lock engine. Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// The lease where no TTL is given.
    pub default_ttl_ms: Live,
    /// Longer leases are cut to this.
    pub max_ttl_ms: Live,
    /// Longer waits are cut to this.
    pub max_wait_ms: Live,
    /// Most waiters of one key on this node.
    pub max_queue: u64,
    /// Most bytes of keys, owners and meta that all calls of this node keep while they wait.
    pub waiting_bytes: u64,
    /// Longest owner, in bytes.
    pub owner_max: Live,
    /// Longest META, in bytes.
    pub meta_max: Live,
    /// A waiter beats one of the next level who came more than this much later; 0 keeps levels strict.
    pub promote_after_ms: u64,
    /// How long the place of a client that left is kept in mind.
    pub place_kept_ms: u64,
    /// How often a waited-for key is looked at while nobody tells of changes around us; 0 for never.
    pub look_every_ms: u64,
    /// The first pause before something is tried again; it doubles each time.
    pub retry_base_ms: u64,
    /// The longest such pause.
    pub retry_max_ms: u64,
    /// How long another node has to confirm what it was handed; a node that has died costs its waiters so much.
    pub claim_ms: u64,
    /// Which keys are lock keys by their name, and what holds for them.
    pub lock_keys: LockKeys,
    /// How often this node tells the others that it lives, and asks the upstream whether it does.
    pub heartbeat_ms: u64,
    /// After which silence a node counts as dead.
    pub node_timeout_ms: u64,
    /// Where clients connect to this node, for the others to know.
    pub address: String,
    /// What shows the others that a message comes from a node.
    pub seal: Seal,
    /// Most events that wait to be sent; the oldest make room.
    pub events_buffer: usize,
    /// How many replicas have to have a grant before its client is told.
    pub replicas: Replicas,
    /// From when on something about the upstream is worth a reason.
    pub health: health::Limits,
    /// Who is told of its health, if anybody.
    pub webhook: Option<Webhook>,
    /// A `SET NX` whose queue cannot be kept passes as the plain command.
    pub fallback: bool,
    /// What is done about deadlocks.
    pub deadlock_mode: DeadlockMode,
    /// Whose call is ended.
    pub victim: VictimPolicy,
    /// This node's name as it stands in the values of locks, without control characters. Short ones save memory upstream.
    pub node: String,
    /// The time of day.
    pub clock: WallClock,
}

impl Default for LockSettings {
    fn default() -> Self {
        LockSettings {
            default_ttl_ms: Live::from(30_000),
            max_ttl_ms: Live::from(2 * 60 * 60 * 1000),
            max_wait_ms: Live::from(10 * 60 * 1000),
            max_queue: 1000,
            waiting_bytes: 64 << 20,
            owner_max: Live::from(1 << 10),
            meta_max: Live::from(4 << 10),
            promote_after_ms: 0,
            place_kept_ms: 5000,
            look_every_ms: 500,
            retry_base_ms: 50,
            retry_max_ms: 2000,
            claim_ms: 1000,
            lock_keys: LockKeys::default(),
            heartbeat_ms: 1000,
            node_timeout_ms: 3000,
            address: String::new(),
            seal: Seal::default(),
            events_buffer: 1000,
            health: health::Limits::default(),
            webhook: None,
            replicas: Replicas::NotAsked,
            fallback: true,
            deadlock_mode: DeadlockMode::Detect,
            victim: VictimPolicy::default(),
            node: "lockgate".into(),
            clock: WallClock::default(),
        }
    }
}

/// A setting that can change while calls read it. A clone is a copy of its own.
#[derive(Debug)]
pub struct Live(AtomicU64);

impl Live {
    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it is from here on.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl From<u64> for Live {
    fn from(value: u64) -> Self {
        Live(AtomicU64::new(value))
    }
}

impl Clone for Live {
    fn clone(&self) -> Self {
        Live::from(self.get())
    }
}

impl LockSettings {
    /// The lease that a client gets who asks for `ttl_ms`, where no rule says otherwise.
    pub fn lease_ms(&self, ttl_ms: Option<u64>) -> u64 {
        self.lease_ms_under(None, ttl_ms)
    }

    /// The lease that `user` gets at `key` who asks for `ttl_ms`, under the rule for that key.
    pub fn lease_ms_at(&self, key: &LockKey, user: &[u8], ttl_ms: Option<u64>) -> u64 {
        self.lock_keys.read(|rules| self.lease_ms_under(rules.acting(&key.name, user), ttl_ms))
    }

    /// As [`LockSettings::lease_ms`]; what the rule says goes before the general settings.
    pub fn lease_ms_under(&self, rule: Option<&Rule>, ttl_ms: Option<u64>) -> u64 {
        let default_ms = rule.and_then(|rule| rule.default_ttl_ms).unwrap_or_else(|| self.default_ttl_ms.get());
        let max_ms = rule.and_then(|rule| rule.max_ttl_ms).unwrap_or_else(|| self.max_ttl_ms.get());
        ttl_ms.unwrap_or(default_ms).clamp(1, max_ms.max(1))
    }

    /// How long a queue upstream outlives its last change: longer than anybody waits.
    pub(super) fn queue_kept_ms(&self) -> u64 {
        self.max_wait_ms.get().saturating_add(QUEUE_KEPT_MARGIN_MS)
    }

    /// The part that lines need.
    pub(super) fn line_rules(&self) -> LineRules {
        LineRules {
            promote_after_us: self.promote_after_ms.saturating_mul(1000),
            waiting_max: usize::try_from(self.max_queue).unwrap_or(usize::MAX),
            place_kept_ms: self.place_kept_ms,
            look_every_ms: self.look_every_ms,
            retry_base_ms: self.retry_base_ms,
            retry_max_ms: self.retry_max_ms,
            claim_ms: self.claim_ms.max(1),
            queue_kept_ms: self.queue_kept_ms(),
        }
    }
}

/// What can change while Lockgate runs. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockLimits {
    /// See [`LockSettings::default_ttl_ms`].
    pub default_ttl_ms: u64,
    /// See [`LockSettings::max_ttl_ms`].
    pub max_ttl_ms: u64,
    /// See [`LockSettings::max_wait_ms`].
    pub max_wait_ms: u64,
    /// See [`LockSettings::max_queue`].
    pub max_queue: u64,
    /// See [`LockSettings::waiting_bytes`].
    pub waiting_bytes: u64,
    /// See [`LockSettings::owner_max`].
    pub owner_max: u64,
    /// See [`LockSettings::meta_max`].
    pub meta_max: u64,
    /// See [`LockSettings::promote_after_ms`]. Lines that stand keep theirs: their order was made by it.
    pub promote_after_ms: u64,
}
