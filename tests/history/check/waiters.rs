//! Who certainly stood in line, from when until when, and at which level.

use super::{Grant, Tale, fence_of, wait_us};
use crate::history::record::{Call, Op, Outcome};
use std::collections::BTreeMap;

/// A call that asked for the lock, or a poller's calls that follow one another.
pub struct Waiter<'a> {
    /// The first of its calls.
    pub call: &'a Call,
    /// The lowest level that it can have had, and the highest.
    pub levels: (u8, u8),
    /// From then on it certainly had this level.
    pub settled: Option<(u64, u8)>,
    /// From then on it certainly stood in line, because LOCK.POSITION said so, or because a poller had been refused.
    pub seen_us: Option<u64>,
    /// Until then it certainly had neither been granted nor left.
    pub until_us: u64,
    /// Not before then it was decided that it gets the lock, if it did.
    pub decided_us: u64,
    /// When it had its last answer.
    pub told_us: u64,
    /// Its grant, if it was the first to be told of it.
    pub grant: Option<&'a Grant<'a>>,
}

/// The level of a `SET NX` whose rule names none.
const NORMAL: u8 = 1;

/// Everybody who asked for the key. Owners who asked more than once at a time, or who may have kept an older place, are left out
/// where that could matter: `place_kept_us` is for how long a place outlives its client.
pub fn all<'a>(tale: &Tale<'a>, key: &str, grants: &'a [Grant<'a>]) -> Vec<Waiter<'a>> {
    let calls: &[&'a Call] = tale.calls.get(key).map_or(&[], Vec::as_slice);
    let mut by_owner: BTreeMap<&str, Vec<&'a Call>> = BTreeMap::new();
    for call in calls {
        by_owner.entry(&call.owner).or_default().push(call);
    }
    let one = |call: &&'a Call| {
        let of_owner = by_owner[call.owner.as_str()].as_slice();
        match call.op {
            Op::SetNx { ticket_ms: 1.., .. } => poller(of_owner, call, grants),
            Op::Acquire { .. } | Op::AcquireAll { .. } | Op::SetNx { .. } => one(tale, of_owner, call, grants),
            _ => None,
        }
    };
    calls.iter().filter_map(one).collect()
}

fn asks(op: &Op) -> bool {
    matches!(op, Op::Acquire { .. } | Op::AcquireAll { .. } | Op::SetNx { .. })
}

fn grant_of<'a>(call: &Call, grants: &'a [Grant<'a>]) -> Option<&'a Grant<'a>> {
    grants.iter().find(|grant| grant.calls.first().is_some_and(|first| first.id == call.id))
}

/// `calls` are those of its owner.
fn one<'a>(tale: &Tale<'a>, calls: &[&'a Call], call: &'a Call, grants: &'a [Grant<'a>]) -> Option<Waiter<'a>> {
    let wait_us = wait_us(&call.op);
    let kept_us = tale.setup.place_kept_ms * 1000 + 2_000_000;
    let is_near = |other: &&&Call| other.from_us <= call.until_us && other.until_us + kept_us >= call.from_us;
    // He may stand where an older call of his stood, hold what that one was granted, or have been passed by his own newer one.
    let is_alone = !calls.iter().filter(|other| other.id != call.id && asks(&other.op)).any(|other| is_near(&other));
    if !is_alone {
        return None;
    }
    let grant = grant_of(call, grants);
    let seen = calls.iter().filter(|other| {
        other.op == Op::Position
            && matches!(other.outcome, Outcome::Int(1..))
            && other.from_us > call.from_us
            && other.until_us < call.until_us
    });
    // A set of several keys leaves a line that it has waited in when another key is in its way.
    let stays = wait_us > 0 && !matches!(&call.op, Op::AcquireAll { keys, .. } if keys.len() > 1);
    let seen_us = seen.map(|position| position.until_us).min().filter(|_| stays);
    let gives_up = |op: &Op| matches!(op, Op::Cancel | Op::Release { .. } | Op::ReleaseAll { .. });
    let given_up = calls.iter().filter(|other| gives_up(&other.op) && other.from_us >= call.from_us);
    let given_up = given_up.filter(|other| other.from_us <= call.until_us);
    // An earlier one may still have been on its way.
    let lingers = calls.iter().any(|other| {
        gives_up(&other.op)
            && other.from_us < call.from_us
            && !(matches!(other.outcome, Outcome::Int(_)) && other.until_us < call.from_us)
    });
    let left = given_up.map(|other| other.from_us).min().unwrap_or(u64::MAX);
    let ends = match &call.outcome {
        Outcome::Int(_) | Outcome::Ok => grant.map_or(call.from_us, |grant| grant.since_us.0.max(call.from_us)),
        Outcome::Nil => call.from_us + wait_us.min(call.until_us - call.from_us),
        Outcome::Unknown => tale.closed_us(call.conn).unwrap_or(call.from_us),
        Outcome::Missing => call.from_us + wait_us,
        Outcome::Error(_) => call.from_us,
    };
    let until_us = if lingers { call.from_us } else { ends.min(left) };
    debug_assert!(fence_of(call).is_none() || grant.is_none_or(|grant| grant.fence == fence_of(call)));
    let (levels, settled) = levels(calls, call);
    let decided_us = grant.map_or(call.from_us, |grant| grant.since_us.0);
    Some(Waiter { call, levels, settled, seen_us, until_us, decided_us, told_us: call.until_us, grant })
}

/// The levels that a waiter can have had, and the last one, with the time from which on he certainly had that.
fn levels(calls: &[&Call], call: &Call) -> ((u8, u8), Option<(u64, u8)>) {
    let own = match call.op {
        Op::Acquire { level, .. } | Op::AcquireAll { level, .. } => level,
        _ => NORMAL,
    };
    let promoted = calls.iter().filter_map(|other| match other.op {
        Op::Promote { level } if other.outcome != Outcome::Nil && other.from_us <= call.until_us => {
            Some((*other, level))
        }
        _ => None,
    });
    // One that nobody answered may strike late.
    let promoted =
        promoted.filter(|(other, _)| !matches!(other.outcome, Outcome::Int(_)) || other.until_us >= call.from_us);
    let (mut levels, mut settled) = ((own, own), Some((call.from_us, own)));
    for (other, level) in promoted {
        levels = (levels.0.min(level), levels.1.max(level));
        // They are in the order in which they were sent.
        let is_after = settled.is_some_and(|(since_us, _)| since_us < other.from_us);
        settled = (is_after && matches!(other.outcome, Outcome::Int(_))).then_some((other.until_us, level));
    }
    (levels, settled)
}

/// A poller whose first call this is, and whose refused calls keep his place, at the node where he asked, for `ticket_ms` each.
fn poller<'a>(calls: &[&'a Call], call: &'a Call, grants: &'a [Grant<'a>]) -> Option<Waiter<'a>> {
    let is_first = calls.iter().find(|other| asks(&other.op)).is_some_and(|first| first.id == call.id);
    // Whoever was told by this name to leave, or to stand elsewhere, is left out.
    if !is_first
        || calls.iter().any(|other| !matches!(other.op, Op::SetNx { ticket_ms: 1.., .. } | Op::CompareAndDelete))
    {
        return None;
    }
    let polls = calls.iter().filter_map(|poll| match poll.op {
        Op::SetNx { ticket_ms, .. } => Some((*poll, ticket_ms * 1000)),
        _ => None,
    });
    let (mut until_us, mut seen_us, mut last, mut keeps) = (call.from_us, None, call, true);
    // The lock may have been kept for him from his last refusal on.
    let mut decided_us = call.from_us;
    for (poll, ticket_us) in polls {
        last = poll;
        if poll.outcome == Outcome::Nil {
            decided_us = poll.from_us;
        }
        let is_in_time = seen_us.is_none() || poll.until_us < until_us;
        keeps &= is_in_time && poll.node == call.node && poll.outcome == Outcome::Nil;
        if keeps {
            seen_us = seen_us.or(Some(poll.until_us));
            until_us = poll.from_us + ticket_us;
        }
    }
    let grant = grant_of(last, grants);
    let until_us = grant.map_or(until_us, |grant| until_us.min(grant.since_us.0));
    let (levels, settled) = ((NORMAL, NORMAL), Some((call.from_us, NORMAL)));
    Some(Waiter { call, levels, settled, seen_us, until_us, decided_us, told_us: last.until_us, grant })
}
