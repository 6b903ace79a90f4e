//! Fences grow with every change of holder, and are never told to two.

use super::{Tale, Violation, fence_of, told};
use crate::history::record::{Call, Op, Outcome};
use std::collections::HashMap;

/// The key and the holder that a call was told a fence for.
fn whose(call: &Call) -> (&str, &str) {
    match &call.op {
        Op::Transfer { to, .. } => (&call.key, to),
        _ => (&call.key, &call.owner),
    }
}

pub fn check(tale: &Tale, found: &mut Vec<Violation>) {
    let mut grants: Vec<(&Call, i64)> = tale
        .calls
        .values()
        .flatten()
        .chain(&tale.ticks)
        .filter_map(|call| fence_of(call).map(|fence| (*call, fence)))
        .collect();
    let mut owners: HashMap<i64, &Call> = HashMap::new();
    for (call, fence) in &grants {
        if *fence <= 0 {
            found.push(Violation { rule: "a fence is positive", story: told(call) });
        }
        let first = owners.entry(*fence).or_insert(call);
        if whose(first) != whose(call) {
            let story = format!("{}\n    and {}", told(first), told(call));
            found.push(Violation { rule: "one fence for two", story });
        }
    }
    // In the order in which they were asked for; beside it, what had been told by then.
    grants.sort_by_key(|(call, _)| call.from_us);
    let mut by_end = grants.clone();
    by_end.sort_by_key(|(call, _)| call.until_us);
    let (mut told_before, mut highest) = (by_end.into_iter().peekable(), None::<(&Call, i64)>);
    for (call, fence) in &grants {
        while let Some(before) = told_before.next_if(|(before, _)| before.until_us < call.from_us) {
            highest = highest.filter(|(_, fence)| *fence >= before.1).or(Some(before));
        }
        // All locks of a database share one counter; a repeat of the highest is the holder's own.
        if let Some((before, higher)) = highest
            && higher > *fence
            && !is_repeat(tale, call, *fence)
        {
            let story = format!("{}\n    came before {}", told(before), told(call));
            found.push(Violation { rule: "a fence did not grow", story });
        }
    }
    used_again(tale, found);
}

/// The owner had it already, or may have had: an earlier call of his was told the same, or left without an answer.
fn is_repeat(tale: &Tale, call: &Call, fence: i64) -> bool {
    let calls = tale.calls.get(call.key.as_str()).map_or(&[][..], Vec::as_slice);
    calls.iter().take_while(|earlier| earlier.from_us < call.until_us).any(|earlier| {
        let is_his = earlier.id != call.id && whose(earlier) == whose(call);
        let asks = matches!(earlier.op, Op::Acquire { .. } | Op::AcquireAll { .. });
        is_his && fence_of(earlier).map_or(asks, |told| told == fence)
    })
}

/// A fence that was released is told to its owner once more.
fn used_again(tale: &Tale, found: &mut Vec<Violation>) {
    for calls in tale.calls.values() {
        for release in calls {
            let Op::Release { fence: Some(fence) } = release.op else { continue };
            if release.outcome != Outcome::Int(1) || tale.losses.may_undo(release.from_us, release.until_us) {
                continue;
            }
            let again = calls.iter().find(|call| fence_of(call) == Some(fence) && call.from_us > release.until_us);
            if let Some(again) = again {
                let story = format!("{}\n    and then {}", told(release), told(again));
                found.push(Violation { rule: "a released fence is told again", story });
            }
        }
    }
}
