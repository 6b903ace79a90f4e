//! Reads a recording and says what was wrong. Pure, and made of lower bounds only: what is called certain here follows from what the
//! clients saw and from the clock of whoever recorded it, so that a right product is never accused, whatever the machine did.
//!
//! - `holds`: two leases of one key at once; a key that does not say who holds it; a lock given to somebody who had gone.
//! - `fences`: a fence that did not grow, or was told to two.
//! - `order`: a waiter who was passed by one who came later, at no higher level.
//! - `answers`: calls without an answer, late ones, frames nobody asked for, sleepers before a free key, leftovers.
//! - `refusals`: a holder who was told that he is none; somebody who was none and was let through; half a set; a victim that closes no
//!   cycle.
//! - `data`: updates lost under the lock.
//!
//! What a server has lost is excused by `losses` alone.

mod answers;
mod calm;
mod data;
mod fences;
mod grants;
mod holds;
mod losses;
mod order;
mod refusals;
#[cfg(test)]
mod tests;
mod waiters;

use super::record::{Call, Closed, End, Fault, Held, Op, Outcome, Record, Setup, Stray, Write};
use calm::Calm;
use grants::Grant;
use losses::Losses;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Locks that a clock takes again and again, under a name that nobody uses twice: all locks draw their fences from one counter, so
/// that each of these tells when a fence was given out.
pub const TICK: &str = "tick:";

/// One thing that must not have happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub rule: &'static str,
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.story)
    }
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub calls: usize,
    pub grants: usize,
    /// Grants to calls that had waited.
    pub waited: usize,
    pub faults: usize,
    pub writes: usize,
    /// Pairs of waiters whose order could be judged.
    pub judged: usize,
    /// Of the faults, those with which the server lost something.
    pub losses: usize,
    /// `LOCK.GUARD`s that were answered: run, or refused.
    pub guards: usize,
    /// Sets of several keys that were granted.
    pub sets: usize,
    /// Waiters who were given another level.
    pub promoted: usize,
    /// Refused `SET NX` whose place was kept.
    pub tickets: usize,
    /// Operations that the foreign judge has put into an order, see `history::foreign`.
    pub linearized: usize,
    /// Keys on which it gave up.
    pub undecided: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.grants += other.grants;
        self.waited += other.waited;
        self.faults += other.faults;
        self.writes += other.writes;
        self.judged += other.judged;
        self.losses += other.losses;
        self.guards += other.guards;
        self.sets += other.sets;
        self.promoted += other.promoted;
        self.tickets += other.tickets;
        self.linearized += other.linearized;
        self.undecided += other.undecided;
    }
}

/// A recording, sorted for looking things up.
struct Tale<'a> {
    setup: Setup,
    /// By key, in the order in which they were sent.
    calls: BTreeMap<&'a str, Vec<&'a Call>>,
    ticks: Vec<&'a Call>,
    closed: HashMap<u64, &'a Closed>,
    faults: Vec<&'a Fault>,
    losses: Losses,
    held: BTreeMap<&'a str, Vec<&'a Held>>,
    writes: Vec<&'a Write>,
    strays: Vec<&'a Stray>,
    end: Option<&'a End>,
}

impl<'a> Tale<'a> {
    fn of(history: &'a [Record]) -> Self {
        let mut tale = Tale {
            setup: Setup::default(),
            calls: BTreeMap::new(),
            ticks: Vec::new(),
            closed: HashMap::new(),
            faults: Vec::new(),
            losses: Losses::of(history),
            held: BTreeMap::new(),
            writes: Vec::new(),
            strays: Vec::new(),
            end: None,
        };
        for record in history {
            match record {
                Record::Run(setup) => tale.setup = setup.clone(),
                Record::Call(call) if call.key.starts_with(TICK) => tale.ticks.push(call),
                Record::Call(call) => tale.calls.entry(&call.key).or_default().push(call),
                Record::Closed(closed) => drop(tale.closed.insert(closed.conn, closed)),
                Record::Fault(fault) => tale.faults.push(fault),
                Record::Held(held) => tale.held.entry(&held.key).or_default().push(held),
                Record::Write(write) => tale.writes.push(write),
                Record::Stray(stray) => tale.strays.push(stray),
                Record::End(end) => tale.end = Some(end),
            }
        }
        for calls in tale.calls.values_mut().chain([&mut tale.ticks]) {
            calls.sort_by_key(|call| call.from_us);
        }
        for held in tale.held.values_mut() {
            held.sort_by_key(|held| held.first_us);
        }
        tale
    }

    /// When the client closed the connection; `None` if it did not, as far as is known.
    fn closed_us(&self, conn: u64) -> Option<u64> {
        self.closed.get(&conn).map(|closed| closed.from_us)
    }
}

/// Everything that was wrong, and how much was looked at.
pub fn check(history: &[Record]) -> (Vec<Violation>, Count) {
    let tale = Tale::of(history);
    let mut found = Vec::new();
    fences::check(&tale, &mut found);
    let grants = grants::all(&tale);
    holds::check(&tale, &grants, &mut found);
    refusals::check(&tale, &grants, &mut found);
    let judged = order::check(&tale, &grants, &mut found);
    answers::check(&tale, &grants, &mut found);
    data::check(&tale, &grants, &mut found);
    (found, tale.amounts_to(&grants, judged))
}

impl Tale<'_> {
    fn amounts_to(&self, grants: &BTreeMap<&str, Vec<Grant>>, judged: usize) -> Count {
        let calls: Vec<&Call> = self.calls.values().flatten().copied().collect();
        // A call of several keys was written down for each of them.
        let many = |is_it: &dyn Fn(&Call) -> bool| {
            calls.iter().filter(|call| is_it(call)).map(|call| call.id).collect::<HashSet<u64>>().len()
        };
        let has_waited = |call: &Call| {
            let is_granted = matches!(call.outcome, Outcome::Int(_) | Outcome::Ok);
            is_granted && wait_us(&call.op) > 0 && call.until_us > call.from_us + 10_000
        };
        let is_answered = |call: &Call| !matches!(call.outcome, Outcome::Unknown | Outcome::Missing);
        Count {
            calls: self.ticks.len() + many(&|_| true),
            grants: grants.values().map(Vec::len).sum(),
            waited: many(&has_waited),
            faults: self.faults.len(),
            writes: self.writes.len(),
            judged,
            losses: self.faults.iter().filter(|fault| fault.loses.is_some()).count(),
            guards: many(&|call| matches!(call.op, Op::Guard { .. }) && is_answered(call)),
            sets: many(&|call| {
                matches!(&call.op, Op::AcquireAll { keys, .. } if keys.len() > 1) && fence_of(call).is_some()
            }),
            promoted: many(&|call| matches!((&call.op, &call.outcome), (Op::Promote { .. }, Outcome::Int(_)))),
            tickets: many(&|call| {
                matches!((&call.op, &call.outcome), (Op::SetNx { ticket_ms: 1.., .. }, Outcome::Nil))
            }),
            linearized: 0,
            undecided: 0,
        }
    }
}

/// For how long a call of this kind may wait.
fn wait_us(op: &Op) -> u64 {
    match op {
        Op::Acquire { wait_ms, .. } | Op::AcquireAll { wait_ms, .. } | Op::SetNx { wait_ms, .. } => wait_ms * 1000,
        _ => 0,
    }
}

/// A call as a story tells it.
fn told(call: &Call) -> String {
    let node = call.node.map_or("around".into(), |node| format!("node {node}"));
    let (from, until) = (call.from_us as f64 / 1000.0, call.until_us as f64 / 1000.0);
    format!(
        "[{from:.1} … {until:.1} ms, {node}, connection {}, call {}] {:?} {} {:?} → {:?}",
        call.conn, call.id, call.op, call.key, call.owner, call.outcome
    )
}

/// The fence that this call was told, if it was granted one.
fn fence_of(call: &Call) -> Option<i64> {
    match (&call.op, &call.outcome) {
        (Op::Acquire { .. } | Op::AcquireAll { .. } | Op::Transfer { .. }, Outcome::Int(fence)) => Some(*fence),
        _ => None,
    }
}
