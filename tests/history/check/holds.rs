//! One live lease per key, and the key says whose.

use super::{Calm, Grant, Tale, Violation, told};
use crate::history::record::{Call, Held, Op, Outcome};
use std::collections::{BTreeMap, HashSet};

/// Nobody waits or holds for longer, so that grants further apart have nothing to do with one another.
const APART_US: u64 = 30_000_000;
/// After a fault a grant may take so long to find its way.
const FELT_US: u64 = 5_000_000;
/// A machine that stands still for longer than this is no place to judge that on.
const STALL_US: u64 = 600_000;
/// A lock that was given to nobody is given back at once; on a busy machine within this.
const GHOST_US: u64 = 3_000_000;
/// Between a client's end and the moment its node knows of it.
const NOTICED_US: u64 = 500_000;

pub fn check(tale: &Tale, grants: &BTreeMap<&str, Vec<Grant>>, found: &mut Vec<Violation>) {
    for (key, grants) in grants {
        two_holders(grants, found);
        let held = tale.held.get(key).map_or(&[][..], Vec::as_slice);
        not_in_the_key(grants, held, found);
    }
    ghosts(tale, grants, found);
}

/// `after` cannot have been granted before `before`.
fn is_after(after: &Grant, before: &Grant) -> bool {
    let by_fence = matches!((after.fence, before.fence), (Some(after), Some(before)) if after > before);
    by_fence || before.since_us.1 < after.since_us.0
}

/// `next` was granted while `holder` certainly held it, if `next` came after `holder` at all.
fn overlaps(holder: &Grant, next: &Grant) -> bool {
    next.since_us.1 < holder.ends_us
}

fn two_holders(grants: &[Grant], found: &mut Vec<Violation>) {
    for (at, one) in grants.iter().enumerate() {
        // They are sorted by the later end of the time of their grant.
        let near = grants[at + 1..].iter().take_while(|other| other.since_us.1 < one.since_us.1 + APART_US);
        for other in near {
            let one_first_is_wrong = is_after(one, other) || overlaps(one, other);
            let other_first_is_wrong = is_after(other, one) || overlaps(other, one);
            // Where fence and time contradict one another that is wrong enough, and said elsewhere.
            let contradict = is_after(one, other) && is_after(other, one);
            if one_first_is_wrong && other_first_is_wrong && !contradict {
                let story = format!("{}\n    and {}", tells(one), tells(other));
                found.push(Violation { rule: "two holders", story });
            }
        }
    }
}

fn tells(grant: &Grant) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "'{}' granted between {:.1} and {:.1} ms, held until {:.1} at least: {}",
        grant.owner,
        ms(grant.since_us.0),
        ms(grant.since_us.1),
        ms(grant.ends_us),
        told(grant.calls[0])
    )
}

/// What the value of a key says.
#[derive(Debug, PartialEq)]
pub enum Says<'a> {
    Lock { owner: &'a str, fence: i64, is_claim: bool },
    Plain(&'a str),
}

pub fn read(value: &str) -> Says<'_> {
    let fields: Vec<&str> = value.splitn(6, '\x1f').collect();
    match fields.as_slice() {
        [owner, fence, _, _, call, _] => {
            Says::Lock { owner, fence: fence.parse().unwrap_or(0), is_claim: call.ends_with('?') }
        }
        _ => Says::Plain(value),
    }
}

fn not_in_the_key(grants: &[Grant], held: &[&Held], found: &mut Vec<Violation>) {
    for grant in grants {
        let (from, until) = (grant.since_us.1, grant.ends_us);
        if from >= until {
            continue;
        }
        let told_us = grant.calls.iter().map(|call| call.until_us).min().unwrap_or(0);
        let is_his = |held: &Held| match held.value.as_deref().map(read) {
            // Until he is told it may be a claim for him.
            Some(Says::Lock { fence, is_claim, .. }) => {
                Some(fence) == grant.fence && (!is_claim || held.last_us.0 < told_us)
            }
            Some(Says::Plain(value)) => grant.fence.is_none() && value == grant.owner,
            None => false,
        };
        let seen_then = |held: &&&Held| {
            let within = |(before, after): (u64, u64)| from < before && after < until;
            let spans = held.first_us.0 <= from && until <= held.last_us.1 && until - from > 2 * held.gap_us;
            within(held.first_us) || within(held.last_us) || spans
        };
        if let Some(other) = held.iter().filter(seen_then).find(|held| !is_his(held)) {
            let story = format!(
                "{}\n    but from {} to {} µs the key held {:?}",
                tells(grant),
                other.first_us.0,
                other.last_us.1,
                other.value
            );
            found.push(Violation { rule: "the key is not the holder's", story });
        }
    }
}

/// A lock that nobody was told of, long after everybody who had asked for it under that name had gone.
fn ghosts(tale: &Tale, grants: &BTreeMap<&str, Vec<Grant>>, found: &mut Vec<Violation>) {
    let calm = Calm::of(tale, FELT_US, STALL_US);
    for (key, held) in &tale.held {
        let fences: HashSet<i64> = grants.get(key).into_iter().flatten().filter_map(|grant| grant.fence).collect();
        let calls = tale.calls.get(key).map_or(&[][..], Vec::as_slice);
        for held in held {
            let Some(Says::Lock { owner, fence, is_claim: false }) = held.value.as_deref().map(read) else { continue };
            let given_after = held.first_us.0.saturating_sub(held.gap_us);
            let asked = |call: &&&Call| match &call.op {
                Op::Acquire { .. } | Op::AcquireAll { .. } => call.owner == owner,
                Op::Transfer { to, .. } => to == owner,
                _ => false,
            };
            let asked: Vec<&Call> = calls.iter().filter(asked).copied().collect();
            // Who was told that he has not got it cannot have it any more; who hung up can have been told in time, but for what was
            // granted long after.
            let refused_us = asked.iter().map(|call| call.until_us).max().unwrap_or(0);
            let lasts_us = held.last_us.0.saturating_sub(held.first_us.1.max(refused_us));
            if fences.contains(&fence) || lasts_us < GHOST_US || !calm.holds(given_after, held.last_us.1) {
                continue;
            }
            let had_gone = |call: &&Call| match call.outcome {
                Outcome::Nil | Outcome::Int(_) => true,
                Outcome::Unknown if matches!(call.op, Op::Acquire { .. } | Op::AcquireAll { .. }) => {
                    tale.closed_us(call.conn).is_some_and(|closed| closed + NOTICED_US < given_after)
                }
                // Nobody knows.
                _ => false,
            };
            if asked.iter().all(had_gone) {
                let story = format!(
                    "'{key}' was held by '{owner}' under {fence} from {} to {} µs, and nobody had been told",
                    held.first_us.0, held.last_us.1
                );
                found.push(Violation { rule: "given to the gone", story });
            }
        }
    }
}
