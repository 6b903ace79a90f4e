//! The line: higher level first, then who came first, over all nodes. Judged only where nothing was broken, and only between those
//! who were seen waiting.

use super::waiters::{self, Waiter};
use super::{Calm, Grant, Tale, Violation, told};
use crate::history::record::{Op, Outcome};
use std::collections::BTreeMap;

/// After a fault a line may take so long to be in order again.
const FELT_US: u64 = 5_000_000;
/// A machine that stands still for longer than this is no place to judge that on.
const STALL_US: u64 = 250_000;
/// The longest that a node which is not broken takes to notice that a claim of its own is gone.
const TAKEN_FELT_US: u64 = 1_000_000;
/// The longest that such a node takes to register a waiter upstream under the level that he was given.
const PROMOTED_FELT_US: u64 = 400_000;

/// Returns how many pairs of waiters could be judged.
pub fn check<'a>(tale: &Tale<'a>, grants: &'a BTreeMap<&'a str, Vec<Grant<'a>>>, found: &mut Vec<Violation>) -> usize {
    let calm = Calm::of(tale, FELT_US, STALL_US);
    let mut judged = 0;
    for (key, grants) in grants {
        let waiters = waiters::all(tale, key, grants);
        for first in waiters.iter().filter(|waiter| waiter.seen_us.is_some()) {
            // In order of arrival at the recorder: whoever came much later has nothing to do with this one.
            for second in waiters.iter().filter(|second| second.call.from_us < first.until_us.max(first.told_us)) {
                let Some(passed) = was_passed(first, second) else { continue };
                let (from, until) =
                    (first.call.from_us.min(second.call.from_us), second.told_us.max(first.seen_us.unwrap_or(0)));
                if !calm.holds(from, until) || was_taken_away(tale, key, from, until) {
                    continue;
                }
                judged += 1;
                if passed {
                    let story = format!(
                        "{}\n    was seen waiting at {} µs and until {} µs, and passed by {}",
                        told(first.call),
                        first.seen_us.unwrap_or(0),
                        first.until_us,
                        told(second.call)
                    );
                    found.push(Violation { rule: "passed in line", story });
                }
            }
        }
    }
    judged
}

/// Somebody deleted the key, or took it by force. A waiter of another node to whom it had just been handed, and who had not confirmed
/// that yet, is not registered upstream until his node has noticed: others may pass him in that moment (see `docs/testing.md`).
fn was_taken_away(tale: &Tale, key: &str, from_us: u64, until_us: u64) -> bool {
    tale.calls.get(key).into_iter().flatten().any(|call| {
        let takes = matches!(call.op, Op::Del | Op::Force) && !matches!(call.outcome, Outcome::Int(..=0));
        takes && call.from_us < until_us && from_us < call.until_us.saturating_add(TAKEN_FELT_US)
    })
}

/// `Some(true)` where `second` was granted the key before `first`, who certainly stood before him; `None` where that cannot be told.
fn was_passed(first: &Waiter, second: &Waiter) -> Option<bool> {
    let seen_us = first.seen_us?;
    let granted = second.grant?;
    if first.call.id == second.call.id {
        return None;
    }
    // The others' script may still go by his old level when his own node has told him of the new one.
    let settled = first.settled.filter(|(since_us, _)| since_us + PROMOTED_FELT_US < second.decided_us);
    let settled = settled.map(|(_, level)| level).filter(|_| first.levels.0 != first.levels.1);
    let (level, highest) = (settled.unwrap_or(first.levels.0), second.levels.1);
    // He stood in line before the other was granted anything, and his rank is the better one.
    let came_first = seen_us < second.call.from_us && level >= highest;
    let is_above = level > highest && seen_us < second.decided_us;
    if !came_first && !is_above {
        return None;
    }
    let by_fence = first.grant.and_then(|grant| Some(granted.fence? < grant.fence?));
    // An answer to the other that came while the first one certainly still waited.
    let in_time = granted.since_us.1 < first.until_us;
    match by_fence {
        Some(passed) => Some(passed),
        None if in_time => Some(true),
        // He left, or who came first is not known.
        None => first.grant.and_then(|grant| (grant.since_us.1 < granted.since_us.0).then_some(false)),
    }
}
