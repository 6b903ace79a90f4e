//! Reads a recording and says what was wrong. Pure, and made of lower bounds only: what is called certain here follows from what the
//! clients saw and from the clock of whoever recorded it, so that a right product is never accused, whatever the machine did.
//!
//! - `holds`: two leases of one key at once; a key that does not say who holds it; a lock given to somebody who had gone.
//! - `fences`: a fence that did not grow, or was told to two.
//! - `order`: a waiter who was passed by one who came later, at no higher level.
//! - `answers`: calls without an answer, late ones, frames nobody asked for, sleepers before a free key, leftovers.
//! - `data`: updates lost under the lock.

mod answers;
mod calm;
mod data;
mod fences;
mod grants;
mod holds;
mod order;
#[cfg(test)]
mod tests;
mod waiters;

use super::record::{Call, Closed, End, Fault, Held, Op, Outcome, Record, Setup, Stray, Write};
use calm::Calm;
use grants::Grant;
use std::collections::{BTreeMap, HashMap};
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
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.grants += other.grants;
        self.waited += other.waited;
        self.faults += other.faults;
        self.writes += other.writes;
        self.judged += other.judged;
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
    let mut count = Count { faults: tale.faults.len(), writes: tale.writes.len(), ..Count::default() };
    fences::check(&tale, &mut found);
    let grants = grants::all(&tale);
    holds::check(&tale, &grants, &mut found);
    count.judged = order::check(&tale, &grants, &mut found);
    answers::check(&tale, &grants, &mut found);
    data::check(&tale, &grants, &mut found);
    count.calls = tale.ticks.len() + tale.calls.values().map(Vec::len).sum::<usize>();
    count.grants = grants.values().map(Vec::len).sum();
    let waited = |call: &&Call| match call.op {
        Op::Acquire { wait_ms: 1.., .. } | Op::SetNx { wait_ms: 1.., .. } => {
            matches!(call.outcome, Outcome::Int(_) | Outcome::Ok) && call.until_us > call.from_us + 10_000
        }
        _ => false,
    };
    count.waited = tale.calls.values().flatten().copied().filter(waited).count();
    (found, count)
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
        (Op::Acquire { .. } | Op::Transfer { .. }, Outcome::Int(fence)) => Some(*fence),
        _ => None,
    }
}
