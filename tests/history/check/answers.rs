//! Each call has one answer, in time; nobody sleeps before a free key; nothing stays behind.

use super::waiters::{self, Waiter};
use super::{Calm, Grant, Tale, Violation, told, wait_us};
use crate::history::record::{Call, Op, Outcome};
use std::collections::BTreeMap;

/// After a fault answers may be late for so long.
const FELT_US: u64 = 5_000_000;
/// Whoever waits is awake again so long after the end of a fault.
const WOKEN_US: u64 = 3_000_000;
/// A machine that stands still for longer than this is no place to judge that on.
const STALL_US: u64 = 600_000;
/// A look that took so long means that the machine did nothing at all.
const STANDS_STILL_US: u64 = 5_000_000;
/// An answer may be so late on a busy machine.
const LATE_US: u64 = 2_000_000;
/// What a hand-over may take beyond the time after which a silent node is dead.
const SLACK_US: u64 = 1_500_000;
/// Whoever was not seen waiting does so after this time, where nothing is broken.
const ARRIVES_US: u64 = 1_000_000;

pub fn check<'a>(tale: &Tale<'a>, grants: &'a BTreeMap<&'a str, Vec<Grant<'a>>>, found: &mut Vec<Violation>) {
    for stray in &tale.strays {
        let story = format!("on connection {} at {} µs: {}", stray.conn, stray.at_us, stray.frame);
        found.push(Violation { rule: "an answer too many", story });
    }
    let calm = Calm::of(tale, FELT_US, STALL_US);
    for call in tale.calls.values().flatten().chain(&tale.ticks) {
        if call.outcome == Outcome::Missing && stood_still(tale, call) {
            continue;
        }
        if call.outcome == Outcome::Missing {
            found.push(Violation { rule: "no answer", story: told(call) });
        } else if is_late(call, &calm) {
            found.push(Violation { rule: "a late answer", story: told(call) });
        }
        if is_out_of_nowhere(call, &calm) {
            found.push(Violation { rule: "an error out of nowhere", story: told(call) });
        }
    }
    for key in grants.keys() {
        sleepers(tale, key, grants, found);
    }
    if let Some(end) = tale.end {
        for (what, names) in [("keys", &end.left), ("waiters", &end.waited_for)] {
            if !names.is_empty() {
                found.push(Violation { rule: "something is left", story: format!("{what}: {names:?}") });
            }
        }
    }
}

/// Nobody got anything done while this call waited for its answer: looks at the server itself took as long.
fn stood_still(tale: &Tale, call: &Call) -> bool {
    tale.held
        .values()
        .flatten()
        .any(|held| held.gap_us > STANDS_STILL_US && held.first_us.0 < call.until_us && call.from_us < held.last_us.1)
}

fn is_late(call: &Call, calm: &Calm) -> bool {
    let lasts_us = call.until_us - call.from_us;
    lasts_us > wait_us(&call.op) + LATE_US && calm.holds_for(call.node, call.from_us, call.until_us)
}

/// An error where nothing was broken. These are none: a guard's refusal, a deadlock, and a node that was too busy to be asked.
fn is_out_of_nowhere(call: &Call, calm: &Calm) -> bool {
    const NO_FAULTS: [&str; 3] = ["FENCED", "DEADLOCK", "did not answer in time"];
    let Outcome::Error(error) = &call.outcome else { return false };
    !NO_FAULTS.iter().any(|no_fault| error.contains(no_fault)) && calm.holds(call.from_us, call.until_us)
}

/// When a key was certainly free, as looks at it saw.
fn free(tale: &Tale, key: &str) -> Vec<(u64, u64)> {
    let free = tale.held.get(key).into_iter().flatten().filter(|held| held.value.is_none());
    free.map(|held| (held.first_us.1, held.last_us.0)).filter(|(from, until)| from < until).collect()
}

/// Other nodes may have been killed meanwhile: that is what the node timeout is for.
fn sleepers<'a>(tale: &Tale<'a>, key: &str, grants: &'a BTreeMap<&'a str, Vec<Grant<'a>>>, found: &mut Vec<Violation>) {
    let limit_us = tale.setup.node_timeout_ms * 1000 + SLACK_US;
    let is_long = |(from, until): &(u64, u64)| until.saturating_sub(*from) > limit_us;
    let mut free_of_key = free(tale, key);
    free_of_key.retain(is_long);
    if free_of_key.is_empty() {
        return;
    }
    let calm = Calm::of(tale, WOKEN_US, STALL_US);
    // A hold too short to be seen was one all the same.
    let was_held = |key: &str, from: u64, until: u64| {
        grants.get(key).into_iter().flatten().any(|grant| grant.since_us.0 < until && from < grant.since_us.1)
    };
    let waiters = waiters::all(tale, key, &grants[key]);
    for waiter in waiters.iter().filter(|waiter| wait_us(&waiter.call.op) > 0) {
        let waits_from = waiter.seen_us.unwrap_or(u64::MAX).min(waiter.call.from_us + ARRIVES_US);
        let (others, mut free_of_all) = (others_of(waiter, key), free_of_key.clone());
        // A set waits for all of its keys.
        for other in &others {
            let free_too = free(tale, other);
            let both =
                |span: &(u64, u64)| free_too.iter().map(|other| (span.0.max(other.0), span.1.min(other.1))).collect();
            free_of_all =
                free_of_all.iter().flat_map(|span| -> Vec<(u64, u64)> { both(span) }).filter(is_long).collect();
        }
        let sleeps = |(free_from, free_until): &&(u64, u64)| {
            let (from, until) = (waits_from.max(*free_from), waiter.until_us.min(*free_until));
            let (from, until) = calm.longest_for(waiter.call.node, from, until);
            let keys = || others.iter().copied().chain([key]);
            is_long(&(from, until)) && !keys().any(|key| was_held(key, from, until))
        };
        if let Some((free_from, free_until)) = free_of_all.iter().find(sleeps) {
            let story = format!("'{key}' was free from {free_from} to {free_until} µs before {}", told(waiter.call));
            found.push(Violation { rule: "a sleeper before a free key", story });
            return;
        }
    }
}

/// The other keys of a set.
fn others_of<'a>(waiter: &Waiter<'a>, key: &str) -> Vec<&'a str> {
    match &waiter.call.op {
        Op::AcquireAll { keys, .. } => keys.iter().map(String::as_str).filter(|other| *other != key).collect(),
        _ => Vec::new(),
    }
}
