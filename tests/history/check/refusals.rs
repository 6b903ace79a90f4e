//! Who holds a lock is not told that he does not, and who does not hold it is not let through; a set is granted as a whole; no victim
//! without a cycle; and who stands in line is found there.

use super::grants::Grant;
use super::waiters;
use super::{Calm, Tale, Violation, told};
use crate::history::people::is_fenced;
use crate::history::record::{Call, Op, Outcome};
use std::collections::BTreeMap;

/// After a fault, nodes may take one another for dead for so long.
const FELT_US: u64 = 5_000_000;
/// A machine that stands still for longer than this is no place to ask who waits where.
const STALL_US: u64 = 150_000;

pub fn check<'a>(tale: &Tale<'a>, grants: &'a BTreeMap<&'a str, Vec<Grant<'a>>>, found: &mut Vec<Violation>) {
    let calm = Calm::of(tale, FELT_US, STALL_US);
    for (key, grants) in grants {
        let calls = tale.calls.get(key).map_or(&[][..], Vec::as_slice);
        for call in calls {
            if let Some(grant) = grants.iter().find(|grant| is_turned_away(tale, calls, grant, call)) {
                let story = format!("{}\n    held it until {} µs: {}", told(call), grant.ends_us, told(grant.calls[0]));
                found.push(Violation { rule: "a holder was turned away", story });
            }
            if let Some(why) = was_let_through(tale, calls, grants, call) {
                let story = format!("{}\n    but {why}", told(call));
                found.push(Violation { rule: "a guard let one of the past through", story });
            }
        }
        not_found(tale, &calm, key, grants, found);
    }
    sets(tale, grants, found);
    victims(tale, found);
}

/// The grant stood from before this call until after it, as far as others had a hand in it.
fn stands(tale: &Tale, calls: &[&Call], grant: &Grant, call: &Call) -> bool {
    grant.since_us.1 < call.from_us && call.until_us < grant.ends_but_for(tale, calls, call)
}

/// The call was told that this grant of its owner's was none.
fn is_turned_away(tale: &Tale, calls: &[&Call], grant: &Grant, call: &Call) -> bool {
    let is_under = |fence: &Option<i64>| grant.fence.is_some() && (fence.is_none() || *fence == grant.fence);
    let is_none = match (&call.op, &call.outcome) {
        (Op::Release { fence } | Op::Extend { fence, .. }, Outcome::Int(..=0))
        | (Op::Transfer { fence, .. }, Outcome::Nil) => is_under(fence),
        (Op::CompareAndDelete, Outcome::Int(0)) => grant.fence.is_none(),
        (Op::Guard { fence, .. }, outcome) => is_fenced(outcome) && Some(*fence) == grant.fence,
        _ => false,
    };
    is_none && (call.owner == grant.owner || matches!(call.op, Op::Guard { .. })) && stands(tale, calls, grant, call)
}

/// Why a command that ran under `LOCK.GUARD` should not have.
fn was_let_through(tale: &Tale, calls: &[&Call], grants: &[Grant], call: &Call) -> Option<String> {
    let Op::Guard { fence, .. } = call.op else { return None };
    if !matches!(call.outcome, Outcome::Int(_) | Outcome::Ok | Outcome::Nil) {
        return None;
    }
    let was_past = |grant: &&Grant| {
        let is_anothers = grant.fence != Some(fence) && grant.since_us.1 < call.from_us;
        // What the server has lost since may be under the older fence once more.
        let is_older =
            grant.fence.is_some_and(|other| other > fence) && !tale.losses.may_undo(grant.since_us.0, grant.since_us.1);
        is_anothers && (is_older || call.until_us < grant.ends_us)
    };
    if let Some(grant) = grants.iter().find(was_past) {
        return Some(format!("it was another's: {}", told(grant.calls[0])));
    }
    let was_released = |release: &&&Call| {
        release.op == Op::Release { fence: Some(fence) }
            && release.outcome == Outcome::Int(1)
            && release.until_us < call.from_us
            && !tale.losses.may_undo(release.from_us, release.until_us)
    };
    calls.iter().find(was_released).map(|release| format!("it had been released: {}", told(release)))
}

/// `LOCK.PROMOTE` of somebody who certainly stood in line.
fn not_found<'a>(tale: &Tale<'a>, calm: &Calm, key: &str, grants: &'a [Grant<'a>], found: &mut Vec<Violation>) {
    let calls = tale.calls.get(key).map_or(&[][..], Vec::as_slice);
    let is_nil = |call: &&&Call| matches!((&call.op, &call.outcome), (Op::Promote { .. }, Outcome::Nil));
    let mut nil = calls.iter().filter(is_nil).peekable();
    if nil.peek().is_none() {
        return;
    }
    let waiters = waiters::all(tale, key, grants);
    for call in nil.filter(|call| calm.holds(call.from_us, call.until_us)) {
        let waits = |waiter: &&waiters::Waiter| {
            waiter.call.owner == call.owner
                && waiter.seen_us.is_some_and(|seen_us| seen_us < call.from_us)
                && call.until_us < waiter.until_us
        };
        if let Some(waiter) = waiters.iter().find(waits) {
            let story = format!("{}\n    of {}", told(call), told(waiter.call));
            found.push(Violation { rule: "a waiter was not found", story });
        }
    }
}

/// Sets are granted as a whole; and whoever lets go of one lets go of all that he certainly holds.
fn sets(tale: &Tale, grants: &BTreeMap<&str, Vec<Grant>>, found: &mut Vec<Violation>) {
    let mut by_id: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
    let of_several = |call: &&Call| matches!(call.op, Op::AcquireAll { .. } | Op::ReleaseAll { .. });
    for call in tale.calls.values().flatten().copied().filter(of_several) {
        by_id.entry(call.id).or_default().push(call);
    }
    for parts in by_id.values() {
        let story = || parts.iter().map(|part| told(part)).collect::<Vec<_>>().join("\n    and ");
        if matches!(parts[0].op, Op::AcquireAll { .. }) {
            let granted = parts.iter().filter(|part| matches!(part.outcome, Outcome::Int(_))).count();
            if granted != 0 && granted != parts.len() {
                found.push(Violation { rule: "half a set was granted", story: story() });
            }
            continue;
        }
        let holds = |part: &&&Call| {
            let calls = tale.calls.get(part.key.as_str()).map_or(&[][..], Vec::as_slice);
            let grants = grants.get(part.key.as_str()).map_or(&[][..], Vec::as_slice);
            let is_his = |grant: &&Grant| grant.owner == part.owner && grant.fence.is_some();
            grants.iter().filter(is_his).any(|grant| stands(tale, calls, grant, part))
        };
        let least = parts.iter().filter(holds).count() as i64;
        if matches!(parts[0].outcome, Outcome::Int(released) if released < least || released > parts.len() as i64) {
            let story = format!("{}\n    {least} were certainly held", story());
            found.push(Violation { rule: "a holder was turned away", story });
        }
    }
}

/// Whoever held nothing, on a connection that held nothing, cannot have closed a cycle.
fn victims(tale: &Tale, found: &mut Vec<Violation>) {
    let all = || tale.calls.values().flatten().copied();
    let is_victim = |call: &&Call| matches!(&call.outcome, Outcome::Error(error) if error.contains("DEADLOCK"));
    for victim in all().filter(is_victim) {
        let may_hold = |call: &&Call| {
            let taker = match &call.op {
                Op::Acquire { .. } | Op::AcquireAll { .. } | Op::SetNx { .. } => &call.owner,
                Op::Transfer { to, .. } => to,
                _ => return false,
            };
            let is_his = *taker == victim.owner || call.conn == victim.conn;
            is_his
                && call.id != victim.id
                && call.from_us < victim.until_us
                && call.outcome != Outcome::Nil
                && !had_ended(tale, call, taker, victim.from_us)
        };
        if !all().any(|call| may_hold(&call)) {
            found.push(Violation { rule: "a victim without a cycle", story: told(victim) });
        }
    }
}

/// What this call may have taken had been let go by then.
fn had_ended(tale: &Tale, taken: &Call, taker: &str, by_us: u64) -> bool {
    tale.calls.get(taken.key.as_str()).into_iter().flatten().any(|call| {
        let ends = matches!(call.op, Op::Release { .. } | Op::CompareAndDelete);
        ends && call.owner == taker
            && call.outcome == Outcome::Int(1)
            && call.from_us > taken.until_us
            && call.until_us < by_us
            && !tale.losses.may_undo(call.from_us, call.until_us)
    })
}
