//! The books of this node: what was asked, granted, held and handed over. Kept around the commands, not within them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::holds::{Holds, Noted};
use super::slow_log::{Slow, SlowLog};
use super::tally::{Buckets, End, Share, Span, Spread, Sum, Tally};
use super::{Asker, Coordinator, LockReply, SetNxAnswer, integer};
use crate::commands::lock_args::{AcquireArgs, SlowLogArgs};
use crate::domain::{Fence, LockKey, Moment, OwnerId, PlainLease};
use crate::events::{By, Happened, What, Without};
use crate::locks::Handed;
use crate::upstream::call::Caller;

/// All books.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub tally: Tally,
    pub slow_log: SlowLog,
    pub holds: Holds,
    /// Since when the locks of claims of this node are being handed over; told when the claim is confirmed.
    claimed: Mutex<Claimed>,
}

/// What is counted and measured on this node, since it began.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Calls for a lock.
    pub requests: u64,
    /// How they ended.
    pub ends: [(&'static str, u64); 5],
    /// Leases that were found to be over.
    pub expired: u64,
    /// Locks that somebody let go of.
    pub released: u64,
    /// `SET NX` that passed as they were, because their queue could not be kept.
    pub fallbacks: u64,
    /// Deadlocks that were broken.
    pub deadlocks: u64,
    /// Calls that wait now.
    pub queue_depth: u64,
    /// Locks that this node has granted and that stand, as far as it knows.
    pub active_locks: u64,
    /// Locks that are renewed for connections.
    pub bound_locks: u64,
    /// Nodes that are there, with this one.
    pub nodes: u64,
    /// Events that came faster than they could be told.
    pub events_dropped: u64,
    /// How the upstream is, from 0 to 100.
    pub health_score: u64,
    /// From a call's arrival to its grant.
    pub acquisition: Buckets,
    /// Waits of calls that may wait, granted or not.
    pub wait: Buckets,
    /// From a grant to its release.
    pub hold: Buckets,
    /// From a release to the next waiter's grant.
    pub hand_over: Buckets,
}

/// What is known of a hold that ends beside what is noted here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ended {
    /// Nothing: it may have ended before.
    AsNoted,
    /// The upstream says that it was held until now.
    Upstream {
        /// And since when, Unix time in ms, where the value tells.
        since_ms: Option<u64>,
    },
}

/// Claims whose hand-over is measured at a time; the others are left out.
const CLAIMED_MAX: usize = 1024;
/// A claim that is older was never confirmed, in µs.
const CLAIMED_MAX_US: u64 = 10_000_000;

/// Since when the locks of this node's claims are being handed over.
#[derive(Debug, Default)]
struct Claimed(HashMap<LockKey, Moment>);

impl Claimed {
    /// The lock of `key` is being handed over since then.
    fn note(&mut self, key: &LockKey, since: Moment, now: Moment) {
        if self.0.len() >= CLAIMED_MAX {
            // Some are never confirmed: they were declined, or lapsed.
            self.0.retain(|_, since| now.since_us(*since) < CLAIMED_MAX_US);
        }
        if self.0.len() < CLAIMED_MAX {
            self.0.insert(key.clone(), since);
        }
    }

    /// Its claim is confirmed: since when it was handed over, where that is known.
    fn take(&mut self, key: &LockKey, now: Moment) -> Option<Moment> {
        self.0.remove(key).filter(|known| now.since_us(*known) < CLAIMED_MAX_US)
    }
}

/// A call for locks while it is under way; dropping it says that its client has left, or was unblocked.
pub struct Asking<'a> {
    coordinator: &'a Coordinator,
    keys: &'a [LockKey],
    owner: &'a [u8],
    by: &'a By,
    wait_ms: u64,
    since: Moment,
    has_ended: bool,
}

impl Asking<'_> {
    /// It was answered.
    pub fn ends(mut self, reply: &LockReply, lease_ms: u64) {
        let now = self.coordinator.now();
        let is_granted = matches!(reply, LockReply::Integer(_) | LockReply::Array(_));
        self.coordinator.books.tally.by_role(&self.by.user, is_granted);
        match reply {
            LockReply::Integer(fence) => self.is_granted(&[*fence], lease_ms, now),
            LockReply::Array(fences) => {
                let fences: Vec<i64> = fences.iter().filter_map(LockReply::as_integer).collect();
                self.is_granted(&fences, lease_ms, now);
            }
            LockReply::Nil => self.end_without(now),
            LockReply::Error(line) => self.end_in_error(line, now),
            _ => self.end(End::Failed, now),
        }
    }

    /// It was a `SET NX`, and is answered.
    pub fn ends_plainly(mut self, answer: &SetNxAnswer, lease: PlainLease) {
        let now = self.coordinator.now();
        let is_granted = *answer == SetNxAnswer::Set;
        self.coordinator.books.tally.by_role(&self.by.user, is_granted);
        match answer {
            SetNxAnswer::Set => {
                let lease_ms = match lease {
                    PlainLease::Ms(ms) => Some(ms),
                    PlainLease::AtMs(at_ms) => Some(at_ms.saturating_sub(self.coordinator.unix_us_at(now) / 1000)),
                    // Its end is seldom seen here, and would never be forgotten.
                    PlainLease::Forever => None,
                };
                let waited_us = self.waited_us(now);
                if let [key] = self.keys {
                    // It has no fence; each of them begins a hold.
                    self.coordinator.hold_begins(key, Fence(now.0), lease_ms, now);
                    let what = What::Acquired { waited_us, lease_ms };
                    self.coordinator.happens_by(Some(self.by), what, key, self.owner, None, now);
                }
                self.end(End::Granted, now);
            }
            SetNxAnswer::NotSet | SetNxAnswer::PassOn => self.end_without(now),
            SetNxAnswer::Error(line) | SetNxAnswer::Unreached(line) | SetNxAnswer::Unknown(line) => {
                self.end_in_error(line, now)
            }
        }
    }

    fn end_without(&mut self, now: Moment) {
        let end = match self.wait_ms {
            0 => End::Refused,
            wait_ms if now.since_us(self.since) >= wait_ms.saturating_mul(1000) => End::TimedOut,
            _ => End::Cancelled,
        };
        self.end(end, now);
    }

    fn end_in_error(&mut self, line: &str, now: Moment) {
        self.end(if line.starts_with("QUEUEFULL") { End::Refused } else { End::Failed }, now);
    }

    fn is_granted(&mut self, fences: &[i64], lease_ms: u64, now: Moment) {
        for (key, fence) in self.keys.iter().zip(fences) {
            let fence = Fence(u64::try_from(*fence).unwrap_or_default());
            self.coordinator.hold_begins(key, fence, Some(lease_ms), now);
            let what = What::Acquired { waited_us: self.waited_us(now), lease_ms: Some(lease_ms) };
            self.coordinator.happens_by(Some(self.by), what, key, self.owner, Some(fence), now);
        }
        self.end(End::Granted, now);
    }

    fn waited_us(&self, now: Moment) -> Option<u64> {
        (self.wait_ms > 0).then(|| now.since_us(self.since))
    }

    fn end(&mut self, end: End, now: Moment) {
        self.has_ended = true;
        let books = &self.coordinator.books;
        let Some(key) = self.keys.first() else { return };
        let why = match end {
            End::Granted => None,
            End::Refused => Some(Without::Refused),
            End::TimedOut => Some(Without::TimedOut),
            End::Cancelled => Some(Without::Cancelled),
            End::Failed => Some(Without::Failed),
        };
        if end == End::Granted {
            books.tally.took(Span::Acquisition, now.since_us(self.since));
        }
        if let Some(why) = why {
            let what = What::Ended { why, waited_us: self.waited_us(now) };
            self.coordinator.happens(what, key, self.owner, None, now);
        }
        books.tally.ended(self.coordinator.settings.lock_keys.rule_for(&key.name, &self.by.user).as_deref(), end);
        if self.wait_ms > 0 {
            let us = now.since_us(self.since);
            books.tally.took(Span::Wait, us);
            books.slow_log.note(Slow::Wait, us / 1000, key, self.owner, self.coordinator.unix_us_at(now) / 1000);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(End::Cancelled, self.coordinator.now());
        }
    }
}

impl Coordinator {
    /// Somebody asks for locks. With several keys, the first stands for all of them.
    pub fn asks<'a>(&'a self, keys: &'a [LockKey], owner: &'a [u8], by: &'a By, wait_ms: u64) -> Asking<'a> {
        let rule = keys.first().and_then(|key| self.settings.lock_keys.rule_for(&key.name, &by.user));
        self.books.tally.asked(rule.as_deref());
        let wait_ms = wait_ms.min(self.settings.max_wait_ms.get());
        Asking { coordinator: self, keys, owner, by, wait_ms, since: self.now(), has_ended: false }
    }

    /// `LOCK.ACQUIRE`, written down.
    pub(super) async fn acquire_booked<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        args: AcquireArgs,
        is_there: impl Fn() -> bool,
    ) -> LockReply {
        let (keys, owner) = ([key.clone()], args.owner.clone());
        let by = asker.by();
        let asking = self.asks(&keys, owner.as_bytes(), &by, args.wait_ms);
        let lease_ms = self.settings.lease_ms_at(&key, &asker.user, args.ttl_ms);
        let reply = self.acquire(asker, key, args, is_there).await;
        asking.ends(&reply, lease_ms);
        reply
    }

    /// `LOCK.RELEASE`, written down.
    pub(super) async fn release_booked<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        owner: OwnerId,
        fence: Option<Fence>,
    ) -> LockReply {
        let reply = self.release(asker, key, owner, fence).await;
        if reply == LockReply::Integer(-1) {
            self.books.tally.expired();
        }
        reply
    }

    /// Something has happened to a lock: those who listen are told.
    pub(super) fn happens(&self, what: What<'_>, key: &LockKey, owner: &[u8], fence: Option<Fence>, now: Moment) {
        self.happens_by(None, what, key, owner, fence, now);
    }

    /// The same where it is known who brought it about.
    pub(super) fn happens_by(
        &self,
        by: Option<&By>,
        what: What<'_>,
        key: &LockKey,
        owner: &[u8],
        fence: Option<Fence>,
        now: Moment,
    ) {
        if !self.events.is_wanted() {
            return;
        }
        match what {
            What::Acquired { lease_ms, .. } => {
                let before = match lease_ms {
                    Some(lease_ms) => self.leases.begins(key, owner, fence, now.plus_ms(lease_ms)),
                    None => self.leases.ends(key),
                };
                // Nobody has let go of it: the lease of the one before was over.
                if let Some(before) = before.filter(|before| before.until <= now && before.fence != fence) {
                    self.tell(None, What::Expired, key, &before.owner, before.fence, now);
                }
            }
            What::Released { .. }
            | What::Forced { .. }
            | What::Transferred { .. }
            | What::Expired
            | What::Lost { .. } => {
                self.leases.ends(key);
            }
            What::Queued { .. } | What::Ended { .. } | What::Denied { .. } | What::Deadlock { .. } => {}
        }
        self.tell(by, what, key, owner, fence, now);
    }

    fn tell(&self, by: Option<&By>, what: What<'_>, key: &LockKey, owner: &[u8], fence: Option<Fence>, now: Moment) {
        let at_ms = self.unix_us_at(now) / 1000;
        self.events.happens(&Happened { what, key, owner, fence, at_ms, by });
    }

    /// Nobody holds the lock any more, and nobody has told of its end.
    pub(super) fn is_found_free(&self, key: &LockKey) {
        self.books.holds.ended(key, self.now());
        if let Some(lease) = self.leases.ends(key).filter(|lease| lease.until <= self.now()) {
            self.tell(None, What::Expired, key, &lease.owner, lease.fence, self.now());
        }
    }

    /// A lock was granted, or asked for again by its holder; one without a lease is not noted.
    pub(super) fn hold_begins(&self, key: &LockKey, fence: Fence, lease_ms: Option<u64>, now: Moment) {
        if lease_ms.is_none_or(|lease_ms| self.books.holds.granted(key, fence, lease_ms, now)) {
            self.books.tally.held();
        }
    }

    /// A lock was let go of; returns for how long it was held, in µs, where that is known. Every end that is counted belongs to a hold that is: one that began elsewhere, or before this node did,
    /// is counted now.
    pub(super) fn hold_ends(&self, key: &LockKey, owner: &[u8], ended: Ended) -> Option<u64> {
        let (now, tally) = (self.now(), &self.books.tally);
        let at_ms = self.unix_us_at(now) / 1000;
        let us = match (self.books.holds.ended(key, now), ended) {
            (Noted::Held { us }, _) => Some(us),
            (_, Ended::AsNoted) => return None,
            (noted, Ended::Upstream { since_ms }) => {
                if noted == Noted::Nothing {
                    tally.held();
                }
                since_ms.map(|since_ms| at_ms.saturating_sub(since_ms).saturating_mul(1000))
            }
        };
        tally.released();
        if let Some(us) = us {
            tally.took(Span::Hold, us);
            self.books.slow_log.note(Slow::Hold, us / 1000, key, owner, at_ms);
        }
        us
    }

    /// What was let go of, or found free, at `since` has gone to `handed`.
    pub(super) fn handed_over(&self, key: &LockKey, handed: &Handed, since: Moment) {
        match handed {
            Handed::To { .. } => self.books.tally.took(Span::HandOver, self.now().since_us(since)),
            Handed::Claimed { call: Some(_), .. } => {
                let mut claimed = self.books.claimed.lock().unwrap_or_else(PoisonError::into_inner);
                claimed.note(key, since, self.now());
            }
            // The other node measures it.
            Handed::Claimed { call: None, .. } => {}
        }
    }

    /// A claim of this node was confirmed; `since` is when it was first seen, where this node did not make it itself.
    pub(super) fn confirmed(&self, key: &LockKey, since: Moment) {
        let now = self.now();
        let known = self.books.claimed.lock().unwrap_or_else(PoisonError::into_inner).take(key, now);
        let since = known.unwrap_or(since);
        self.books.tally.took(Span::HandOver, now.since_us(since));
    }

    /// `LOCK.SLOWLOG`
    pub(super) fn slow_log(&self, args: SlowLogArgs) -> LockReply {
        let log = &self.books.slow_log;
        match args {
            SlowLogArgs::Len => integer(log.len() as u64),
            SlowLogArgs::Reset => {
                log.reset();
                LockReply::ok()
            }
            SlowLogArgs::Get(most) => {
                let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
                let told = log.entries().into_iter().take(most).map(|entry| {
                    LockReply::Map(vec![
                        ("id", integer(entry.id)),
                        ("when", integer(entry.at_ms)),
                        ("kind", LockReply::Bulk(entry.kind.name().into())),
                        ("ms", integer(entry.ms)),
                        ("key", LockReply::Bulk(entry.key)),
                        ("owner", LockReply::Bulk(entry.owner)),
                    ])
                });
                LockReply::Array(told.collect())
            }
        }
    }

    /// What is counted and measured, for metrics.
    pub fn figures(&self) -> Figures {
        let Sum { counts, .. } = self.books.tally.sum();
        let ends = |end: End| counts.ends[end as usize];
        let buckets = |span: Span| self.books.tally.buckets(span);
        Figures {
            requests: counts.requests,
            ends: [
                ("granted", ends(End::Granted)),
                ("refused", ends(End::Refused)),
                ("timeout", ends(End::TimedOut)),
                ("cancelled", ends(End::Cancelled)),
                ("failed", ends(End::Failed)),
            ],
            expired: counts.expired,
            released: counts.released,
            fallbacks: self.fallback.count(),
            deadlocks: self.deadlocks.count(),
            queue_depth: self.shards.waiting(),
            active_locks: self.books.holds.count(self.now()) as u64,
            bound_locks: self.tied.count() as u64,
            nodes: self.nodes.names().len() as u64 + 1,
            events_dropped: self.events.dropped(),
            health_score: u64::from(self.health_report().score),
            acquisition: buckets(Span::Acquisition),
            wait: buckets(Span::Wait),
            hold: buckets(Span::Hold),
            hand_over: buckets(Span::HandOver),
        }
    }

    /// Why the upstream is of no use to the locks, if it is of none.
    pub fn misfit(&self) -> Option<String> {
        self.fit.misfit().map(|misfit| misfit.to_string())
    }

    /// `LOCK.STATS`
    pub(super) fn stats(&self) -> LockReply {
        let Sum { counts, spans, rules, roles } = self.books.tally.sum();
        let [wait, hold, hand_over, _] = spans.map(told_in_ms);
        let ends = |end: End| integer(counts.ends[end as usize]);
        LockReply::Map(vec![
            ("node", LockReply::Bulk(self.store.node().into())),
            ("version", LockReply::Bulk(env!("CARGO_PKG_VERSION").into())),
            ("uptime", integer(self.now().0 / 1_000_000)),
            ("memory", resident_bytes().map_or(LockReply::Nil, integer)),
            ("active_locks", integer(self.books.holds.count(self.now()) as u64)),
            ("total_requests", integer(counts.requests)),
            ("successful_acquires", ends(End::Granted)),
            ("refused", ends(End::Refused)),
            ("timeouts", ends(End::TimedOut)),
            ("cancelled", ends(End::Cancelled)),
            ("failed", ends(End::Failed)),
            ("expired", integer(counts.expired)),
            ("holds", integer(counts.holds)),
            ("released", integer(counts.released)),
            ("fallbacks", integer(self.fallback.count())),
            ("deadlocks", integer(self.deadlocks.count())),
            ("health_score", integer(u64::from(self.health_report().score))),
            ("queue_depth", integer(self.shards.waiting())),
            ("bound_locks", integer(self.tied.count() as u64)),
            ("wait_ms", wait),
            ("hold_ms", hold),
            ("hand_over_ms", hand_over),
            ("rules", told_shares("match", &rules)),
            ("roles", told_shares("role", &roles)),
        ])
    }
}

fn told_shares(name: &'static str, shares: &[(Box<[u8]>, Share)]) -> LockReply {
    let told = shares.iter().map(|(what, share)| {
        LockReply::Map(vec![
            (name, LockReply::Bulk(what.to_vec())),
            ("requests", integer(share.requests)),
            ("granted", integer(share.granted)),
        ])
    });
    LockReply::Array(told.collect())
}

fn told_in_ms(spread: Spread) -> LockReply {
    // µs are as exact as it was measured.
    let ms = |us: f64| LockReply::Double(us.round() / 1000.0);
    LockReply::Map(vec![
        ("count", integer(spread.count)),
        ("average", ms(spread.average_us)),
        ("p50", ms(spread.p50_us as f64)),
        ("p95", ms(spread.p95_us as f64)),
        ("p99", ms(spread.p99_us as f64)),
        ("max", ms(spread.max_us as f64)),
    ])
}

/// What this process takes of the machine's memory, in bytes, where the kernel tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> LockKey {
        LockKey::new(0, number.to_string().as_bytes())
    }

    fn at(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    #[test]
    fn claims_that_are_never_confirmed_make_room_for_others_when_they_are_old() {
        let mut claimed = Claimed::default();
        (0..CLAIMED_MAX).for_each(|number| claimed.note(&key(number), at(number as u64), at(number as u64)));
        assert_eq!(claimed.take(&key(0), at(9999)), Some(at(0)));
        assert_eq!(claimed.take(&key(0), at(9999)), None, "it is confirmed once");
        assert_eq!(claimed.take(&key(1), at(10_001)), None, "that was another claim");
        claimed.note(&key(5000), at(9999), at(9999));
        claimed.note(&key(5001), at(9999), at(9999));
        assert_eq!(claimed.0.len(), CLAIMED_MAX);
        claimed.note(&key(5002), at(9999), at(9999));
        assert_eq!(claimed.take(&key(5002), at(9999)), None, "there is no room: none is old");
        claimed.note(&key(5003), at(10_500), at(10_500));
        assert_eq!(claimed.take(&key(5003), at(10_500)), Some(at(10_500)));
        assert_eq!((claimed.take(&key(500), at(10_499)), claimed.0.contains_key(&key(501))), (None, true));
    }
}
