//! Carries out what the lines decide: one coordinator for all workers of the process. It brings the pure state machine its clock,
//! its scripts and its clients.
//!
//! A held lock that nobody waits for costs nothing here but a note for the statistics. A call is a future that its session awaits; dropping the future means that
//! the client has left, and is safe at any moment. Whoever feeds an event to a line carries out what follows, on his own links; what
//! concerns a call of another worker reaches it by its door.

mod acquire;
mod afloat;
mod books;
mod bound;
mod deadlock;
mod desk;
mod fallback;
mod fit;
mod hand_over;
mod health;
mod holds;
mod house;
mod hurry;
mod info;
mod leases;
mod list;
mod many;
mod nodes;
mod pattern;
mod peers;
mod plain;
mod presence;
mod queue;
mod queues;
mod replicas;
mod reply;
mod rules;
pub mod seal;
mod set_nx;
mod settings;
mod shards;
mod slow_log;
mod tally;
mod tied;
mod transfer;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

pub use books::{Asking, Figures};
pub use bound::{BoundLocks, LostLock};
pub use deadlock::StandsBehind;
pub use hurry::Hurry;
pub use queues::Queues;
pub use reply::LockReply;
pub use rules::{LockKeys, Rule, RuleCounts, Rules, Standing};
pub use set_nx::{SetNx, SetNxAnswer, Terms};
pub use settings::{DeadlockMode, Live, LockLimits, LockSettings};
#[cfg(test)]
pub use shards::failpoint;
pub use tally::Buckets;
pub use watch::Observed;

use self::set_nx::is_about_rights;
use crate::commands::lock_args::{LockCommand, NameLimits};
use crate::domain::{CallId, Db, Fence, LockKey, Moment, OwnerId};
use crate::events::{By, Events, What};
use crate::health::Health;
use crate::locks::{Event, Released, Seen, Turn};
use crate::store::value::Fields;
use crate::store::{Freed, Held, Outcome, Store, StoreError, Times, companion};
use crate::upstream::call::{CallError, Caller};
use afloat::{Afloat, Errands};
use books::{Books, Ended};
use deadlock::Deadlocks;
use desk::Desk;
use fallback::Fallback;
use fit::Fit;
use hand_over::Fault;
use leases::Leases;
use nodes::{Me, Nodes};
use replicas::Untold;
use shards::Shards;
use tied::Tied;

/// Who asks, and how the upstream is reached for him. Cheap to make for each command.
pub struct Asker<C> {
    /// The session's logical database.
    pub db: Db,
    /// Lockgate's id of the client.
    pub session: u64,
    /// Who he is to the upstream, for rules that are only for some.
    pub user: Arc<[u8]>,
    /// The link under the client's own identity, in his database: the upstream's ACL decides what he may.
    pub caller: C,
    /// The link for Lockgate's own work, in the same database.
    pub service: C,
    /// The locks tied to his connection.
    pub bound: BoundLocks,
}

impl<C> Asker<C> {
    /// Who asks, for what is told of it afterwards.
    pub fn by(&self) -> By {
        By { session: self.session, user: self.user.clone() }
    }
}

/// The lock engine of one process. `Send + Sync`; its futures run in the `LocalSet` of a worker.
pub struct Coordinator {
    settings: LockSettings,
    store: Store,
    shards: Shards,
    books: Books,
    events: Arc<Events>,
    leases: Leases,
    tied: Tied,
    deadlocks: Deadlocks,
    errands: Arc<Errands>,
    untold: Untold,
    fallback: Fallback,
    fit: Fit,
    last_call: AtomicU64,
    origin: Instant,
    desk: Desk,
    health: Health,
    nodes: Nodes,
    /// The same, Unix time in µs.
    origin_us: u64,
}

/// What is answered while nothing is to be done that the audit cannot hold.
const UNAUDITED: &str = "UNAVAILABLE the audit cannot be written, and audit.on_failure is refuse; see Lockgate's log";

/// What is said of a key that cannot be a lock.
pub const OWN_KEYS: &str = "ERR keys that begin with 'lockgate:' are Lockgate's own and cannot be locks";

/// Locks that are renewed may keep so many times what calls that wait may.
const RENEWED_PER_WAITING: u64 = 16;

fn renewed_bytes_max(waiting_bytes: u64) -> u64 {
    waiting_bytes.saturating_mul(RENEWED_PER_WAITING)
}

/// EXTEND compares before it sets, so that a lost reply may be asked for again, so often. Each try can take the reply timeout.
const EXTEND_TRIES_MAX: u32 = 2;

impl Coordinator {
    /// An engine nobody has asked anything yet.
    pub fn new(settings: LockSettings) -> Arc<Self> {
        let now_us = settings.clock.unix_us();
        // Nothing in a name may end the field of the value that it stands in.
        let node: String = settings.node.chars().filter(|letter| !letter.is_control()).collect();
        Arc::new(Coordinator {
            store: Store::new(node.as_str().into(), settings.clock.clone(), settings.queue_kept_ms()),
            shards: Shards::new(settings.line_rules(), settings.waiting_bytes),
            books: Books::default(),
            events: Events::new(node.as_str().into(), settings.events_buffer),
            leases: Leases::default(),
            tied: Tied::new(renewed_bytes_max(settings.waiting_bytes)),
            deadlocks: Deadlocks::new(settings.deadlock_mode, settings.victim),
            errands: Arc::default(),
            untold: Untold::default(),
            fallback: Fallback::default(),
            fit: Fit::new(),
            last_call: AtomicU64::new(now_us),
            origin: Instant::now(),
            desk: Desk::new(),
            health: Health::new(settings.health.clone()),
            nodes: Nodes::new(
                Me {
                    id: node.as_str().into(),
                    instance: now_us,
                    started_at_ms: now_us / 1000,
                    address: settings.address.as_str().into(),
                    heartbeat_ms: settings.heartbeat_ms.max(1),
                    timeout_ms: settings.node_timeout_ms.max(1),
                },
                settings.seal.clone(),
            ),
            origin_us: now_us,
            settings,
        })
    }

    /// Runs one `LOCK.*` command of a session. Dropping the future means that the client has left, or was unblocked: safe at any
    /// moment, nothing leaks. To be awaited inside a `LocalSet`.
    pub async fn run<C: Caller>(self: &Arc<Self>, asker: &Asker<C>, command: LockCommand) -> LockReply {
        self.run_while(asker, command, || true).await
    }

    /// As [`Coordinator::run`]; `is_there` is asked at the moment a grant becomes the answer. If the client has left by then the
    /// answer is nil, and the grant, known by its whole value, goes on to the next: never to be undone by owner and fence, which
    /// the owner's call on his new connection may share.
    pub async fn run_while<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        command: LockCommand,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        if command.keys().iter().any(|key| companion::is_own(key)) {
            return LockReply::Error(OWN_KEYS.into());
        }
        let limits = NameLimits { owner: self.settings.owner_max.get(), meta: self.settings.meta_max.get() };
        if let Some(line) = command.too_long(&limits) {
            return LockReply::Error(line);
        }
        self.nodes.is_used();
        if command.gives_or_takes() && self.cannot_be_audited() {
            return LockReply::Error(UNAUDITED.into());
        }
        let audited = self.events.audit().and_then(|_| command.keys().first().cloned());
        let reply = self.serve_while_fit(asker, command, is_there).await;
        if let (LockReply::Error(line), Some(key)) = (&reply, audited)
            && is_about_rights(line)
        {
            let (key, what) = (LockKey { db: asker.db, name: key }, What::Denied { why: line });
            self.happens_by(Some(&asker.by()), what, &key, b"", None, self.now());
        }
        reply
    }

    /// The audit is full, or broken, and nothing is to be done without it.
    fn cannot_be_audited(&self) -> bool {
        self.events.audit().is_some_and(|audit| audit.refuses())
    }

    async fn serve_while_fit<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        command: LockCommand,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        if !command.needs_service() {
            return self.serve(asker, command, is_there).await;
        }
        if let Some(misfit) = self.fit.misfit() {
            return LockReply::Error(format!("UNAVAILABLE {misfit}"));
        }
        if !command.may_wait() {
            return self.serve(asker, command, is_there).await;
        }
        tokio::select! {
            biased;
            reply = self.serve(asker, command, is_there) => reply,
            // The call is dropped, as if its client had left.
            misfit = self.fit.turns_bad() => LockReply::Error(format!("UNAVAILABLE {misfit}")),
        }
    }

    async fn serve<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        command: LockCommand,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        let at = |name| LockKey { db: asker.db, name };
        match command {
            LockCommand::Acquire(args) => self.acquire_booked(asker, at(args.key.clone()), args, is_there).await,
            LockCommand::Release { key, owner, fence } => self.release_booked(asker, at(key), owner, fence).await,
            LockCommand::Extend { key, owner, ttl_ms, fence } => {
                self.extend(asker, at(key), owner, ttl_ms, fence).await
            }
            // On the heap: those above are called often, and are small without these.
            LockCommand::Transfer(args) => Box::pin(self.transfer(asker, at(args.key.clone()), args)).await,
            LockCommand::Info { key } => Box::pin(self.info(asker, at(key))).await,
            LockCommand::Position { key, owner } => Box::pin(self.position(asker, at(key), owner)).await,
            LockCommand::Cancel { key, owner } => Box::pin(self.cancel(asker, at(key), owner)).await,
            LockCommand::Promote { key, owner, level } => Box::pin(self.promote(asker, at(key), owner, level)).await,
            LockCommand::Queue { key, count } => Box::pin(self.queue(asker, at(key), count)).await,
            LockCommand::List(args) => Box::pin(self.list(asker, args)).await,
            LockCommand::Force { key } => Box::pin(self.force(asker, at(key))).await,
            LockCommand::AcquireAll(args) => {
                let keys = args.keys.iter().cloned().map(at).collect();
                Box::pin(self.acquire_all(asker, keys, args, is_there)).await
            }
            LockCommand::ReleaseAll { keys, owner } => {
                Box::pin(self.release_all(asker, keys.into_iter().map(at).collect(), owner)).await
            }
            LockCommand::SlowLog(args) => self.slow_log(args),
            LockCommand::Stats => self.stats(),
            LockCommand::Nodes => self.nodes(),
            LockCommand::Health => Box::pin(self.tell_health()).await,
            LockCommand::Cleanup => Box::pin(self.cleanup(asker)).await,
            LockCommand::Graph => Box::pin(self.graph()).await,
            LockCommand::Deadlocks { count } => Box::pin(self.deadlocks(count)).await,
        }
    }

    /// Calls that come from now on are served by these limits. Lines that stand take the new `max_queue` too.
    pub fn change_limits(&self, limits: &LockLimits) {
        self.settings.default_ttl_ms.set(limits.default_ttl_ms);
        self.settings.max_ttl_ms.set(limits.max_ttl_ms);
        self.settings.max_wait_ms.set(limits.max_wait_ms);
        self.settings.owner_max.set(limits.owner_max);
        self.settings.meta_max.set(limits.meta_max);
        // Queues outlive the longest wait that may have begun.
        self.store.keep_queues(self.settings.queue_kept_ms());
        let waiting_max = usize::try_from(limits.max_queue).unwrap_or(usize::MAX);
        self.tied.keeps_at_most(renewed_bytes_max(limits.waiting_bytes));
        self.shards.change_rules(waiting_max, limits.waiting_bytes, limits.promote_after_ms.saturating_mul(1000));
    }

    /// What happens to locks, and who listens.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        self.store.node()
    }

    /// Which keys are lock keys, and what holds for them.
    pub fn lock_keys(&self) -> &LockKeys {
        &self.settings.lock_keys
    }

    /// `true` where a rule takes the key for a lock by its name.
    pub fn is_lock_key(&self, key: &LockKey) -> bool {
        self.settings.lock_keys.matches(&key.name)
    }

    /// The key may have changed around us: looked at once if anybody waits for it.
    pub fn hint(&self, key: &LockKey) {
        self.shards.tell(key, Event::Hint, self.now());
    }

    /// A link to the master was dialled, whose clock said `time_us` (Unix time in µs) if it tells: it may have begun anew, so fences go
    /// on above all that this node has seen, and above that time.
    pub fn met_master_again(&self, time_us: Option<u64>) {
        if let Some(time_us) = time_us {
            self.store.met_time(time_us);
        }
        self.store.met_master(self.store.upstream_us(), false);
    }

    /// A master was met anew (connected, failed over): fences go on above all that were seen, see [`Store::met_master`].
    pub fn met_master(&self, time_us: u64, other_history: bool) {
        self.store.met_master(time_us, other_history);
    }

    /// No new waits; every waiting call is answered `-UNAVAILABLE shutting down`.
    pub fn shut_down(&self) {
        self.shards.close(self.now());
    }

    /// Resolves when nothing is under way that no session waits for: ephemeral locks are released, grants that met nobody are given
    /// back. The workers' `LocalSet`s have to go on running meanwhile.
    pub async fn settled(&self) {
        loop {
            self.errands.all_done().await;
            if !self.shards.have_work() {
                return;
            }
            // A line's timer sends what is due; it has been woken.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many keys have a line just now: somebody waits for them, is kept in mind, or has a script under way.
    pub fn lines(&self) -> usize {
        self.shards.len()
    }

    /// What is kept for calls and connections; nothing where none are left.
    #[cfg(test)]
    pub fn left_over(&self) -> Vec<String> {
        let kept = [
            ("lines", self.shards.len()),
            ("waiters", usize::try_from(self.shards.waiting()).unwrap_or(usize::MAX)),
            ("waits in the graph", self.deadlocks.waits()),
            ("tied locks", self.tied.count()),
            ("errands", self.errands.count()),
            ("bytes of waiting calls", usize::try_from(self.shards.bytes()).unwrap_or(usize::MAX)),
        ];
        kept.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect()
    }

    async fn release<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        owner: OwnerId,
        fence: Option<Fence>,
    ) -> LockReply {
        match self.end_hold(asker, &key, Some(owner.clone()), fence).await {
            Ok((outcome, _)) => {
                if outcome == Outcome::Released {
                    asker.bound.untie(&key, &owner);
                    self.tied.lets_go(&key, &owner);
                    self.deadlocks.let_go(&key, &owner);
                }
                LockReply::Integer(match outcome {
                    Outcome::Released => 1,
                    Outcome::HeldByAnother => 0,
                    Outcome::HeldByNobody => -1,
                })
            }
            Err(line) => LockReply::Error(line),
        }
    }

    /// Takes the lock from whoever holds it, and hands it to the next.
    pub(super) async fn force<C: Caller>(self: &Arc<Self>, asker: &Asker<C>, key: LockKey) -> LockReply {
        match self.end_hold(asker, &key, None, None).await {
            Ok((outcome, taken)) => {
                if let Some(value) = taken {
                    let fence = Fields::read(&value).map_or(0, |fields| fields.fence.0);
                    let (owner, by, user) = (holder(&value).escape_ascii(), asker.session, asker.user.escape_ascii());
                    tracing::warn!(%key, %owner, fence, by, %user, "a lock was taken from its holder (LOCK.FORCE)");
                }
                LockReply::Integer(i64::from(outcome == Outcome::Released))
            }
            Err(line) => LockReply::Error(line),
        }
    }

    /// Ends the hold of `owner` (of whoever holds the lock for `None`, whose value comes back). The error is a whole error line.
    async fn end_hold<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: &LockKey,
        owner: Option<OwnerId>,
        fence: Option<Fence>,
    ) -> Result<(Outcome, Option<Arc<[u8]>>), String> {
        let event = Event::Releases { owner: owner.clone() };
        let turn = self.shards.feed(key, event, None, self.now()).and_then(|mut fed| {
            let turn = fed.release_to.take();
            self.carry_out(fed, key, &asker.service);
            turn
        });
        let (coordinator, caller, service) = (self.clone(), asker.caller.clone(), asker.service.clone());
        let (key, since, by) = (key.clone(), self.now(), asker.by());
        let work = async move {
            let store = &coordinator.store;
            let turn = turn.unwrap_or_else(|| {
                let now = coordinator.now();
                Turn { at: now, knows_until: now, ..Turn::default() }
            });
            let _fault = Fault::watch(&coordinator, &key, turn.line);
            let (sent, times, offers) = (turn.sent(), coordinator.times(&turn), turn.offers);
            let is_rule_key = coordinator.settings.lock_keys.matches(&key.name);
            let name = owner.as_ref().map(OwnerId::as_bytes);
            let freed = store.release(&caller, &key, name, fence, &offers, times, is_rule_key).await;
            if let Ok(Freed { handed: Some(handed), .. }) = &freed {
                coordinator.handed_over(&key, handed, since);
            }
            // Written down before the next one is told: what begins then is his hold.
            coordinator.note_release(&by, &key, owner.as_ref(), fence, &freed);
            let outcome = match &freed {
                Ok(freed) if freed.outcome == Outcome::HeldByAnother => Released::Kept,
                Ok(freed) => Released::Freed { handed: freed.handed.clone(), registered: freed.registered },
                Err(StoreError::Call(CallError::Lost(_))) => Released::Lost,
                Err(_) => Released::Kept,
            };
            // A release under a fence may be one of the past, unless it was heeded.
            let ends_calls = match &freed {
                Ok(freed) => fence.is_none() || freed.outcome == Outcome::Released,
                Err(_) => false,
            };
            let ends_calls_of = owner.filter(|_| ends_calls);
            if let (Some(owner), Ok(Freed { at_us: Some(at_us), .. })) = (&ends_calls_of, &freed) {
                coordinator.tell_released(&key, owner, *at_us);
            }
            coordinator.fed(&key, Event::Released { ends_calls_of, sent, outcome }, &service);
            freed.map(|freed| (freed.outcome, freed.taken))
        };
        Afloat::new(&self.errands, work).await.map_err(|error| match error {
            // Never sent again blindly: between the two somebody else may have become the holder under this name.
            StoreError::Call(CallError::Lost(why)) => format!(
                "UNAVAILABLE the link to the upstream was lost before the reply: {why}; whether the lock was released is unknown, \
                 ask LOCK.INFO"
            ),
            error => error.into_line(),
        })
    }

    /// What a release brought, for the statistics.
    fn note_release(
        &self,
        by: &By,
        key: &LockKey,
        owner: Option<&OwnerId>,
        fence: Option<Fence>,
        freed: &Result<Freed, StoreError>,
    ) {
        let Ok(Freed { outcome, since_ms, taken, .. }) = freed else { return };
        match outcome {
            Outcome::Released => {
                let by_force = owner.is_none();
                let owner = owner.map(OwnerId::as_bytes).or(taken.as_deref().map(holder)).unwrap_or_default();
                let held_us = self.hold_ends(key, owner, Ended::Upstream { since_ms: *since_ms });
                let fence = fence.or(taken.as_deref().and_then(Fields::read).map(|fields| fields.fence));
                let what = if by_force { What::Forced { held_us } } else { What::Released { held_us } };
                self.happens_by(Some(by), what, key, owner, fence, self.now());
            }
            Outcome::HeldByNobody => {
                self.is_found_free(key);
            }
            Outcome::HeldByAnother => {}
        }
    }

    async fn extend<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        owner: OwnerId,
        ttl_ms: u64,
        fence: Option<Fence>,
    ) -> LockReply {
        let lease_ms = self.settings.lease_ms_at(&key, &asker.user, Some(ttl_ms));
        let (coordinator, caller, service) = (self.clone(), asker.caller.clone(), asker.service.clone());
        let work = async move {
            let is_rule_key = coordinator.settings.lock_keys.matches(&key.name);
            let mut tries = 0;
            let extended = loop {
                let owner = owner.as_bytes();
                tries += 1;
                match coordinator.store.extend(&caller, &key, owner, fence, lease_ms, is_rule_key).await {
                    Err(StoreError::Call(CallError::Lost(_))) if tries < EXTEND_TRIES_MAX => {}
                    extended => break extended,
                }
            };
            match extended {
                Ok(Outcome::Released) => {
                    coordinator.books.holds.extended(&key, lease_ms, coordinator.now());
                    coordinator.fed(&key, Event::Extended { lease_ms }, &service);
                }
                Ok(Outcome::HeldByNobody) => coordinator.hint(&key),
                _ => {}
            }
            extended
        };
        match Afloat::new(&self.errands, work).await {
            Ok(Outcome::Released) => LockReply::Integer(1),
            Ok(Outcome::HeldByAnother | Outcome::HeldByNobody) => LockReply::Integer(0),
            Err(error) => LockReply::Error(error.into_line()),
        }
    }

    /// Who holds the key, as the client may see it. A free key that somebody waits for is handed over at once.
    async fn look<C: Caller>(&self, asker: &Asker<C>, key: &LockKey) -> Result<Option<Held>, StoreError> {
        let is_rule_key = self.settings.lock_keys.matches(&key.name);
        let held = self.store.look(&asker.caller, key, is_rule_key).await?;
        if held.is_none() {
            self.hint(key);
        }
        Ok(held)
    }

    /// The same, for a client who is about to change who waits for the key: the upstream's ACL decides whether he may.
    async fn look_to_change<C: Caller>(&self, asker: &Asker<C>, key: &LockKey) -> Result<Option<Held>, StoreError> {
        let is_rule_key = self.settings.lock_keys.matches(&key.name);
        let held = self.store.look_to_change(&asker.caller, key, is_rule_key).await?;
        if held.is_none() {
            self.hint(key);
        }
        Ok(held)
    }

    fn next_call(&self) -> CallId {
        CallId(self.last_call.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The time of day as Unix time in µs.
    /// Unix time in ms, as the lock engine has it.
    pub fn unix_ms(&self) -> u64 {
        self.unix_us() / 1000
    }

    fn unix_us(&self) -> u64 {
        self.settings.clock.unix_us()
    }

    /// That moment as Unix time in µs; grows steadily, whatever becomes of the system's clock.
    fn unix_us_at(&self, at: Moment) -> u64 {
        self.origin_us.saturating_add(at.0)
    }

    fn times(&self, turn: &Turn) -> Times {
        Times {
            sent_us: self.unix_us_at(turn.at),
            knows_us: self.unix_us_at(turn.knows_until),
            left_over: turn.left_over,
        }
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn sleep_until(&self, at: Moment) {
        tokio::time::sleep_until(self.origin + Duration::from_micros(at.0)).await;
    }

    async fn sleep_till(&self, at: Option<Moment>) {
        if let Some(at) = at {
            self.sleep_until(at).await;
        }
    }
}

impl StoreError {
    /// The whole error line for a client.
    fn into_line(self) -> String {
        match self {
            StoreError::Call(error) => format!("UNAVAILABLE {error}; try again"),
            other => other.to_string(),
        }
    }

    /// The upstream will answer otherwise soon: it is loading, failing over, or busy.
    fn passes(&self) -> bool {
        const PASSING: [&str; 6] = ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"];
        matches!(self, StoreError::Refused(line) if line.split(' ').next().is_some_and(|code| PASSING.contains(&code)))
    }

    fn is_wrong_type(&self) -> bool {
        matches!(self, StoreError::Refused(line) if line.starts_with("WRONGTYPE"))
    }
}

/// The owner that a lock's value names: its first field, or, in any other form, the value as it stands.
fn holder(value: &[u8]) -> &[u8] {
    Fields::read(value).map_or(value, |fields| fields.owner)
}

fn seen(store: &Store, held: Held) -> Seen {
    let by = Fields::read(&held.value).filter(|fields| !fields.is_claim).and_then(|fields| OwnerId::new(fields.owner));
    Seen { ours: store.names_call(&held.value), by, value: held.value, left_ms: held.left_ms }
}

fn integer(number: u64) -> LockReply {
    LockReply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}
