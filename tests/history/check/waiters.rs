//! Who certainly stood in line, from when until when.

use super::{Grant, Tale, fence_of};
use crate::history::record::{Call, Op, Outcome};

/// A call that waited.
pub struct Waiter<'a> {
    pub call: &'a Call,
    pub level: u8,
    /// From then on it certainly stood in line, because LOCK.POSITION said so.
    pub seen_us: Option<u64>,
    /// Until then it certainly had neither been granted nor left.
    pub until_us: u64,
    /// Its grant, if it was the first to be told of it.
    pub grant: Option<&'a Grant<'a>>,
}

/// The level of a `SET NX` whose rule names none.
const NORMAL: u8 = 1;

/// Everybody who waited for the key. Owners who asked more than once at a time, or who may have kept an older place, are left out
/// where that could matter: `place_kept_us` is for how long a place outlives its client.
pub fn all<'a>(tale: &Tale<'a>, key: &str, grants: &'a [Grant<'a>]) -> Vec<Waiter<'a>> {
    let calls: &[&'a Call] = tale.calls.get(key).map_or(&[], Vec::as_slice);
    calls.iter().filter_map(|call| one(tale, calls, call, grants)).collect()
}

fn one<'a>(tale: &Tale<'a>, calls: &[&'a Call], call: &'a Call, grants: &'a [Grant<'a>]) -> Option<Waiter<'a>> {
    let (level, wait_us) = match call.op {
        Op::Acquire { level, wait_ms, .. } if wait_ms > 0 => (level, wait_ms * 1000),
        Op::SetNx { wait_ms, .. } if wait_ms > 0 => (NORMAL, wait_ms * 1000),
        _ => return None,
    };
    let of_owner = |other: &&&&Call| other.id != call.id && other.owner == call.owner;
    let kept_us = tale.setup.place_kept_ms * 1000 + 2_000_000;
    let asks = |other: &&&&Call| matches!(other.op, Op::Acquire { .. } | Op::SetNx { .. });
    let is_near = |other: &&&&Call| other.from_us <= call.until_us && other.until_us + kept_us >= call.from_us;
    // He may stand where an older call of his stood, hold what that one was granted, or have been passed by his own newer one.
    let is_alone =
        !calls.iter().filter(|other| of_owner(&other)).filter(|other| asks(&other)).any(|other| is_near(&&other));
    if !is_alone {
        return None;
    }
    let grant = grants.iter().find(|grant| grant.calls.first().is_some_and(|first| first.id == call.id));
    let seen = calls.iter().filter(|other| {
        other.op == Op::Position
            && other.owner == call.owner
            && matches!(other.outcome, Outcome::Int(1..))
            && other.from_us > call.from_us
            && other.until_us < call.until_us
    });
    let seen_us = seen.map(|position| position.until_us).min();
    let given_up = calls.iter().filter(|other| other.owner == call.owner && other.from_us >= call.from_us);
    let given_up =
        given_up.filter(|other| matches!(other.op, Op::Cancel | Op::Release { .. }) && other.from_us <= call.until_us);
    // An earlier one may still have been on its way.
    let lingers = calls.iter().any(|other| {
        other.owner == call.owner
            && matches!(other.op, Op::Cancel | Op::Release { .. })
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
    Some(Waiter { call, level, seen_us, until_us, grant })
}
