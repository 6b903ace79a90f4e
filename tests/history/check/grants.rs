//! Who held what, for how long at the least.

use super::{TICK, Tale, fence_of};
use crate::history::record::{Bond, Call, Op, Outcome};
use std::collections::BTreeMap;

/// A lease is told in ms by a server that rounds them, and by clocks that differ a little.
fn margin_us(ttl_ms: u64) -> u64 {
    5_000 + ttl_ms
}

/// One change of holder that somebody was told of.
pub struct Grant<'a> {
    pub owner: &'a str,
    /// `None` for a `SET NX`, whose value is the owner.
    pub fence: Option<i64>,
    /// The calls that were told, the first to be sent first.
    pub calls: Vec<&'a Call>,
    /// It was granted after the first and before the second of these.
    pub since_us: (u64, u64),
    /// The end of his lease, or the moment at which the server can have lost it.
    pub lease_us: u64,
    /// Until then he certainly held it.
    pub ends_us: u64,
}

impl Grant<'_> {
    /// Until when he certainly held it, or would have but for this call.
    pub fn ends_but_for(&self, tale: &Tale, calls: &[&Call], call: &Call) -> u64 {
        self.lease_us.min(first_end(tale, calls, self, Some(call.id)))
    }
}

/// The lease of a key that was in the way of a set, until the set has it all.
const IN_THE_WAY_MS: u64 = 2000;

/// All grants, by key, in the order in which they were told.
pub fn all<'a>(tale: &Tale<'a>) -> BTreeMap<&'a str, Vec<Grant<'a>>> {
    let clock = Clock::of(tale);
    tale.calls.iter().map(|(key, calls)| (*key, of_key(tale, &clock, key, calls))).collect()
}

/// What the clock's fences say about time.
struct Clock {
    /// Fence, before it was asked for, after it was told; by fence.
    ticks: Vec<(i64, u64, u64)>,
}

impl Clock {
    fn of(tale: &Tale) -> Self {
        let tick = |call: &&Call| fence_of(call).map(|fence| (fence, call.from_us, call.until_us));
        let mut ticks: Vec<_> = tale.ticks.iter().filter_map(tick).collect();
        ticks.sort_unstable();
        Clock { ticks }
    }

    /// A fence was given out after and before these times.
    fn bounds(&self, fence: i64) -> (u64, u64) {
        let at = self.ticks.partition_point(|(tick, ..)| *tick < fence);
        // The neighbours are nearly always the best; a few more cost nothing.
        let after = self.ticks[..at].iter().rev().take(16).map(|(_, from, _)| *from).max().unwrap_or(0);
        let before = self.ticks[at..].iter().take(16).map(|(_, _, until)| *until).min().unwrap_or(u64::MAX);
        (after, before)
    }
}

fn of_key<'a>(tale: &Tale<'a>, clock: &Clock, key: &'a str, calls: &[&'a Call]) -> Vec<Grant<'a>> {
    assert!(!key.starts_with(TICK));
    let mut fenced: BTreeMap<i64, Vec<&'a Call>> = BTreeMap::new();
    let mut grants = Vec::new();
    for &call in calls {
        match (&call.op, &call.outcome) {
            (Op::SetNx { .. }, Outcome::Ok) => grants.push(plain(tale, calls, call)),
            _ => {
                if let Some(fence) = fence_of(call) {
                    fenced.entry(fence).or_default().push(call);
                }
            }
        }
    }
    grants.extend(fenced.into_iter().map(|(fence, told)| with_fence(tale, clock, calls, fence, told)));
    grants.sort_by_key(|grant| grant.since_us.1);
    grants
}

/// Who has the lock after this call, if it grants.
fn taker(call: &Call) -> &str {
    match &call.op {
        Op::Transfer { to, .. } => to,
        _ => &call.owner,
    }
}

fn plain<'a>(tale: &Tale<'a>, calls: &[&'a Call], call: &'a Call) -> Grant<'a> {
    let Op::SetNx { ttl_ms, .. } = call.op else { unreachable!("a SET NX") };
    let since_us = (call.from_us, call.until_us);
    let lease_us = since_us.0 + ttl_ms * 1000 - margin_us(ttl_ms).min(ttl_ms * 1000);
    let lease_us = lease_us.min(tale.losses.stands_until(since_us));
    let mut grant = Grant { owner: &call.owner, fence: None, calls: vec![call], since_us, lease_us, ends_us: 0 };
    grant.ends_us = first_end(tale, calls, &grant, None).min(lease_us);
    grant
}

fn with_fence<'a>(tale: &Tale<'a>, clock: &Clock, calls: &[&'a Call], fence: i64, told: Vec<&'a Call>) -> Grant<'a> {
    let owner = taker(told[0]);
    let (after, before) = clock.bounds(fence);
    let first_told = told.iter().map(|call| call.until_us).min().unwrap_or(0);
    // An earlier call of his that was not told may have been the one that was granted.
    let is_his = |call: &&&Call| {
        matches!(call.op, Op::Acquire { .. } | Op::AcquireAll { .. })
            && call.owner == owner
            && fence_of(call).is_none_or(|other| other == fence)
    };
    let asked = calls.iter().filter(is_his).chain(&told).map(|call| call.from_us).min().unwrap_or(0);
    let since_us = (asked.max(after), first_told.min(before));
    let mut grant = Grant { owner, fence: Some(fence), calls: told, since_us, lease_us: 0, ends_us: 0 };
    // Until he was told, it may have been a claim, or the bridge of a set.
    let lost_us = tale.losses.stands_until((since_us.0, first_told));
    grant.lease_us = lease_ends(tale, calls, &grant).min(lost_us);
    grant.ends_us = first_end(tale, calls, &grant, None).min(grant.lease_us);
    grant
}

/// Something that sets the lease: at some time from the first to the second of these, to so many ms.
struct Sets {
    from_us: u64,
    until_us: u64,
    ttl_ms: u64,
    is_certain: bool,
}

/// The end of the lease if nobody ends it before: at least what the last of those who may have set it last has set.
fn lease_ends(tale: &Tale, calls: &[&Call], grant: &Grant) -> u64 {
    let (granted_from, fence) = (grant.since_us.0, grant.fence);
    let mut sets = Vec::new();
    for call in calls {
        let is_told = fence_of(call) == fence;
        let (ttl_ms, is_certain) = match &call.op {
            Op::Acquire { ttl_ms, .. } if call.owner == grant.owner => match call.outcome {
                Outcome::Int(_) if !is_told => continue,
                Outcome::Int(_) => (*ttl_ms, true),
                _ => (*ttl_ms, false),
            },
            Op::AcquireAll { ttl_ms, .. } if call.owner == grant.owner => match call.outcome {
                Outcome::Int(_) if !is_told => continue,
                Outcome::Int(_) => (*ttl_ms, true),
                _ => ((*ttl_ms).min(IN_THE_WAY_MS), false),
            },
            Op::Transfer { ttl_ms, .. } if is_told => (*ttl_ms, true),
            Op::Extend { ttl_ms, fence: named } if call.owner == grant.owner => match call.outcome {
                Outcome::Int(0) => continue,
                _ if named.is_some() && *named != fence => continue,
                Outcome::Int(_) => (*ttl_ms, named.is_some()),
                _ => (*ttl_ms, false),
            },
            _ => continue,
        };
        let until_us = last_effect(calls, call);
        if until_us < granted_from {
            continue;
        }
        let is_certain = is_certain && !tale.losses.may_undo(call.from_us, until_us);
        sets.push(Sets { from_us: call.from_us.max(granted_from), until_us, ttl_ms, is_certain });
    }
    let is_past = |one: &Sets| sets.iter().any(|other| other.is_certain && other.from_us > one.until_us);
    let ends = sets
        .iter()
        .filter(|one| !is_past(one))
        .map(|one| (one.from_us + one.ttl_ms * 1000).saturating_sub(margin_us(one.ttl_ms)));
    ends.min().unwrap_or(granted_from)
}

/// When a call can have had its last effect upstream: its answer ends it, unless it was cut short by another of the same owner.
fn last_effect(calls: &[&Call], call: &Call) -> u64 {
    match call.outcome {
        Outcome::Int(_) | Outcome::Ok => call.until_us,
        Outcome::Nil => {
            let is_other = |other: &&&Call| {
                other.id != call.id
                    && other.owner == call.owner
                    && matches!(
                        other.op,
                        Op::Acquire { .. }
                            | Op::AcquireAll { .. }
                            | Op::Cancel
                            | Op::Release { .. }
                            | Op::ReleaseAll { .. }
                    )
                    && other.from_us <= call.until_us
                    && other.until_us >= call.from_us
            };
            if calls.iter().any(|other| is_other(&other)) { u64::MAX } else { call.until_us }
        }
        _ => u64::MAX,
    }
}

/// The first moment at which anything, but for that call, may have ended this hold before its lease did.
fn first_end(tale: &Tale, calls: &[&Call], grant: &Grant, but_for: Option<u64>) -> u64 {
    let ends = calls.iter().filter(|call| Some(call.id) != but_for).filter_map(|call| {
        let is_of_owner = call.owner == grant.owner;
        let is_under = |fence: &Option<i64>| fence.is_none() || *fence == grant.fence;
        let may_end = match &call.op {
            Op::Release { fence } => is_of_owner && is_under(fence) && !matches!(call.outcome, Outcome::Int(..=0)),
            Op::ReleaseAll { .. } => is_of_owner && !matches!(call.outcome, Outcome::Int(..=0)),
            Op::Transfer { fence, .. } => is_of_owner && is_under(fence) && call.outcome != Outcome::Nil,
            Op::CompareAndDelete => is_of_owner && grant.fence.is_none() && !matches!(call.outcome, Outcome::Int(..=0)),
            Op::Force | Op::Del => !matches!(call.outcome, Outcome::Int(..=0)),
            Op::Acquire { bond: Bond::Ephemeral, .. } if is_of_owner && grant.fence.is_some() => {
                return untied(tale, call, grant);
            }
            _ => false,
        };
        (may_end && last_effect(calls, call) >= grant.since_us.0).then_some(call.from_us)
    });
    ends.min().unwrap_or(u64::MAX)
}

/// When a lock that this call has tied to its connection may have been released with it.
fn untied(tale: &Tale, call: &Call, grant: &Grant) -> Option<u64> {
    match &call.outcome {
        Outcome::Int(_) if fence_of(call) != grant.fence => None,
        Outcome::Int(_) => {
            let broken = tale.faults.iter().filter(|fault| fault.until_us >= call.from_us).map(|fault| fault.from_us);
            broken.chain(tale.closed_us(call.conn)).min()
        }
        Outcome::Nil => None,
        _ => Some(call.from_us),
    }
}
