//! Deadlocks: which calls of this node wait, who holds what they wait for, and what was found. `search` looks for cycles, over all
//! nodes, and ends one call of each.
//!
//! Waits are told by the calls themselves, holders by the values of keys as tries and the watch link see them. Both are only hints of
//! where to look: before anybody is aborted every wait is asked for at its node and every key is read, twice.

mod found;
mod held;
mod search;
mod taken;
mod words;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Coordinator;
use super::settings::DeadlockMode;
use crate::domain::{CallId, Fence, LockKey, Moment, OwnerId, PlainLease};
use crate::events::What;
use crate::locks::survey::Cycle;
use crate::locks::victim::VictimPolicy;
use crate::locks::wait::{HeldBy, Hold, Wait, WaitId};
use crate::locks::wait_graph::WaitGraph;
use crate::locks::{AskedFor, Form};
use crate::store::BRIDGE;
use crate::store::value::Fields;
use found::Found;
use held::HeldLocks;
use taken::Taken;

pub(super) use words::{Suspect, read_holds, write_holds};

/// Calls that are to be searched from; beyond that they wait for the next round through all of them.
const SUSPECTS_MAX: usize = 4096;

/// What one node knows of deadlocks.
#[derive(Debug)]
pub(super) struct Deadlocks {
    mode: DeadlockMode,
    policy: VictimPolicy,
    graph: Mutex<WaitGraph>,
    /// How many waits are in it; read without its lock, so that what is free costs little.
    waits: AtomicUsize,
    taken: Taken,
    held: HeldLocks,
    suspects: Mutex<HashSet<CallId>>,
    /// Rings when a search is due.
    bell: Notify,
    history: Mutex<VecDeque<Found>>,
    count: AtomicU64,
}

/// A call's wait as the graph knows it; dropping it says that it waits no more.
pub(super) struct Waiting {
    coordinator: Arc<Coordinator>,
    call: CallId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let deadlocks = &self.coordinator.deadlocks;
        deadlocks.graph().ends(self.call);
        deadlocks.waits.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The releases that stand behind a connection's blocked call; dropping it says that nothing stands there any more.
pub struct StandsBehind {
    coordinator: Arc<Coordinator>,
    connection: u64,
    releases: Vec<(LockKey, OwnerId)>,
    /// How many of them the graph knows.
    told: usize,
}

impl StandsBehind {
    /// One more release has come, see [`StandsBehind::tell`].
    pub fn add(&mut self, key: LockKey, owner: OwnerId) {
        self.releases.push((key, owner));
    }

    /// Who waits for what, with the releases that have come since.
    pub fn tell(&mut self) {
        if self.told == self.releases.len() {
            return;
        }
        self.told = self.releases.len();
        let deadlocks = &self.coordinator.deadlocks;
        let suspect = {
            let mut graph = deadlocks.graph();
            graph.stands_behind(self.connection, self.releases.clone());
            graph.blocks(self.connection)
        };
        self.coordinator.suspect(suspect);
    }

    /// As many as are kept in mind have come.
    pub fn is_full(&self) -> bool {
        self.releases.len() >= crate::locks::wait_graph::BEHIND_MAX
    }
}

impl Drop for StandsBehind {
    fn drop(&mut self) {
        if self.told > 0 {
            self.coordinator.deadlocks.graph().stands_behind(self.connection, Vec::new());
        }
    }
}

impl Deadlocks {
    pub fn new(mode: DeadlockMode, policy: VictimPolicy) -> Self {
        // What would close a cycle is what began last.
        let policy = if mode == DeadlockMode::Prevent { VictimPolicy::Requester } else { policy };
        Deadlocks {
            mode,
            policy,
            graph: Mutex::default(),
            waits: AtomicUsize::new(0),
            taken: Taken::default(),
            held: HeldLocks::new(policy == VictimPolicy::FewestLocks && mode != DeadlockMode::Off),
            suspects: Mutex::default(),
            bell: Notify::new(),
            history: Mutex::default(),
            count: AtomicU64::new(0),
        }
    }

    /// How many were found, their victims being of this node.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many waits are known.
    #[cfg(test)]
    pub fn waits(&self) -> usize {
        self.waits.load(Ordering::SeqCst)
    }

    fn is_off(&self) -> bool {
        self.mode == DeadlockMode::Off
    }

    fn graph(&self) -> MutexGuard<'_, WaitGraph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspects(&self) -> MutexGuard<'_, HashSet<CallId>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Found>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An owner was granted a lock.
    pub fn granted(&self, key: &LockKey, owner: &OwnerId, lease_ms: u64, now: Moment) {
        self.held.granted(key, owner, now.plus_ms(lease_ms), now);
    }

    /// He let go of it.
    pub fn let_go(&self, key: &LockKey, owner: &OwnerId) {
        self.held.ended(key, owner);
    }

    /// A connection took a lock by `SET NX`.
    pub fn took(&self, key: &LockKey, connection: u64, value: &[u8], lease: PlainLease, now: Moment, now_ms: u64) {
        let until = match lease {
            PlainLease::Ms(ms) => Some(now.plus_ms(ms)),
            PlainLease::AtMs(at_ms) => Some(now.plus_ms(at_ms.saturating_sub(now_ms))),
            PlainLease::Forever => None,
        };
        if !self.is_off() {
            self.note_taker(key, connection, &HeldBy::plain(value), until, now);
        }
    }

    fn note_taker(&self, key: &LockKey, connection: u64, by: &HeldBy, until: Option<Moment>, now: Moment) {
        self.taken.took(key, connection, by.print(), until, now);
        // Whoever begins to wait later looks into what is noted by now.
        if self.waits.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Somebody may have seen the value before this node knew who took the lock.
        let mut graph = self.graph();
        if let Some(known) = graph.holder(key).filter(|known| known.print() == by.print()).cloned() {
            graph.held(key, Some(known), Some(connection));
        }
    }

    /// The connection of this node that took what is held so.
    fn taker(&self, hold: &Hold) -> Option<u64> {
        self.taken.taker(&hold.key, hold.by.print())
    }
}

impl Coordinator {
    /// For a call of `connection` that may wait: notes what its client has sent behind it. `None` where nobody looks for deadlocks.
    pub fn notes_releases(self: &Arc<Self>, connection: u64) -> Option<StandsBehind> {
        let coordinator = self.clone();
        (!self.deadlocks.is_off()).then(|| StandsBehind { coordinator, connection, releases: Vec::new(), told: 0 })
    }

    /// A call of `connection` was refused by what `value` says, at `arrival_us` by the upstream's clock, and waits.
    pub(super) fn begins_to_wait(
        self: &Arc<Self>,
        asked: &AskedFor,
        key: &LockKey,
        connection: u64,
        value: Option<&[u8]>,
        arrival_us: u64,
    ) -> Option<Waiting> {
        if self.deadlocks.is_off() {
            return None;
        }
        let owner = match &asked.form {
            Form::Lock { owner, .. } => Some(owner.clone()),
            Form::Plain { .. } => None,
        };
        let wait = Wait {
            id: WaitId { node: self.nodes.me.id.clone(), call: asked.call },
            connection,
            owner,
            shown: asked.form.shown_owner().into(),
            key: key.clone(),
            level: asked.level,
            since_us: arrival_us,
        };
        self.deadlocks.waits.fetch_add(1, Ordering::SeqCst);
        {
            let mut graph = self.deadlocks.graph();
            graph.begins(wait);
            if value.is_some() {
                let by = value.and_then(held_by);
                let taken_by = self.taken_by(key, by.as_ref());
                graph.held(key, by, taken_by);
            }
        }
        self.suspect([asked.call]);
        // The round through all of them begins to turn.
        self.deadlocks.bell.notify_one();
        Some(Waiting { coordinator: self.clone(), call: asked.call })
    }

    /// The value of an awaited key was seen; `None` where it has none.
    pub(super) fn saw_holder(&self, key: &LockKey, value: Option<&[u8]>) {
        if self.deadlocks.is_off() {
            return;
        }
        let by = value.and_then(held_by);
        let taken_by = self.taken_by(key, by.as_ref());
        let waits = {
            let mut graph = self.deadlocks.graph();
            if !graph.held(key, by, taken_by) {
                return;
            }
            graph.calls_of_holder(key)
        };
        self.suspect(waits);
    }

    fn taken_by(&self, key: &LockKey, by: Option<&HeldBy>) -> Option<u64> {
        self.deadlocks.taken.taker(key, by?.print())
    }

    /// An owner was granted a lock over `connection`. Where no `SET NX` ever waits, nothing can stand between him and his release.
    pub(super) fn got_over(&self, key: &LockKey, owner: &OwnerId, fence: Fence, connection: u64, lease_ms: u64) {
        let (deadlocks, now) = (&self.deadlocks, self.now());
        deadlocks.granted(key, owner, lease_ms, now);
        if !deadlocks.is_off() && self.settings.lock_keys.read(|rules| rules.have_waits()) {
            let by = HeldBy::Owner { owner: owner.clone(), fence, since_ms: 0 };
            deadlocks.note_taker(key, connection, &by, Some(now.plus_ms(lease_ms)), now);
        }
    }

    /// These waits may have closed a cycle. Whom nobody waits for has closed none on this node, and the rest is found by the nodes that
    /// wait for him.
    fn suspect(&self, calls: impl IntoIterator<Item = CallId>) {
        let mut graph = self.deadlocks.graph();
        let is_alone = self.nodes.is_alone();
        let mut are_new = false;
        for call in calls {
            if !graph.is_awaited(call) || (is_alone && graph.cycle(call).is_none()) {
                continue;
            }
            let mut suspects = self.deadlocks.suspects();
            if suspects.len() < SUSPECTS_MAX {
                are_new |= suspects.insert(call);
            }
        }
        drop(graph);
        if are_new {
            self.deadlocks.bell.notify_one();
        }
    }

    /// Another node has found a cycle whose victim waits here: this node looks for itself.
    pub(super) fn is_suspected(&self, call: CallId) -> bool {
        let waits = self.deadlocks.graph().told(call).is_some();
        if waits && self.deadlocks.suspects().insert(call) {
            self.deadlocks.bell.notify_one();
        }
        waits
    }

    /// A cycle was found and a call of this node ended for it.
    fn note_deadlock(&self, cycle: &Cycle, victim: &Wait, line: &str) {
        let Deadlocks { policy, mode, count, .. } = &self.deadlocks;
        count.fetch_add(1, Ordering::Relaxed);
        let policy = if *mode == DeadlockMode::Prevent { "prevent" } else { policy.name() };
        let at_ms = self.unix_us_at(self.now()) / 1000;
        tracing::warn!(
            cycle = line, victim = %victim.shown.escape_ascii(), policy, parties = cycle.steps().len(),
            "a deadlock was broken: one of its calls was ended"
        );
        let what = What::Deadlock { cycle: line, policy };
        self.happens(what, &victim.key, &victim.shown, None, self.now());
        self.deadlocks.remember(Found { at_ms, cycle: line.to_owned(), victim: victim.shown.to_vec(), policy });
    }
}

/// Who holds a lock, by its value; `None` for a claim, which nobody holds before it is confirmed, and for a bridge of ACQUIREALL, which
/// is given back before its owner waits for anything.
fn held_by(value: &[u8]) -> Option<HeldBy> {
    match Fields::read(value) {
        Some(fields) if fields.is_claim || fields.meta == BRIDGE => None,
        Some(fields) => Some(HeldBy::Owner {
            owner: OwnerId::new(fields.owner)?,
            fence: fields.fence,
            since_ms: fields.acquired_at_ms,
        }),
        None => Some(HeldBy::plain(value)),
    }
}
