//! How the upstream is: what the watch link sees of it anyway, what it tells of itself where somebody asks, and what both come to, a score
//! from 0 to 100 with its reasons. Without I/O; [`webhook`] alone sends something.

mod alerts;
mod details;
mod score;
pub mod webhook;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use alerts::{Alert, Alerts};
pub use details::Details;
pub use score::{Reason, Report, Status, judge};

use crate::domain::Moment;

/// Round trips that are kept.
const TRIPS_MAX: usize = 12;
/// Failures that are kept …
const FAILURES_MAX: usize = 100;
/// … and for so long they count.
pub(crate) const FAILURES_COUNT_MS: u64 = 60_000;
/// What the upstream tells of itself is asked for as long as somebody has asked for it within this.
const ASKED_FOR_MS: u64 = 60_000;
/// How long an answer waits for what the upstream tells of itself.
const FRESH_MAX: Duration = Duration::from_millis(500);
/// A question that the upstream refuses is not put again for so long: each refusal stands in its ACL LOG.
const REFUSED_FOR_MS: u64 = 600_000;

/// From when on something is worth a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often the upstream is asked what it tells of itself, in ms, while somebody asks for that.
    pub check_interval_ms: u64,
    /// A round trip longer than this is a reason, in ms.
    pub timeout_threshold_ms: u64,
    /// So much of `maxmemory` is a reason, in percent.
    pub memory_threshold: u8,
    /// More slow commands than this from one look to the next are a reason.
    pub max_slow_queries: u64,
    /// An alert goes out after so many looks in a row that are worse than before …
    pub error_threshold: u32,
    /// … and after so many that are better, the all-clear.
    pub recovery_threshold: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            check_interval_ms: 5000,
            timeout_threshold_ms: 1000,
            memory_threshold: 80,
            max_slow_queries: 10,
            error_threshold: 5,
            recovery_threshold: 3,
        }
    }
}

/// What was seen of the upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Why it cannot be reached; `None` while the watch link stands.
    pub away: Option<String>,
    /// Whether it was ever reached.
    pub was_met: bool,
    /// The last round trips, in µs, the newest last.
    pub trips_us: VecDeque<u64>,
    /// When a question was put that has no answer yet.
    pub asked_at: Option<Moment>,
    /// When links or attempts to connect failed.
    pub failures: VecDeque<Moment>,
    /// What it told of itself last, and when.
    pub details: Option<(Moment, Details)>,
    /// The most replicas it ever had.
    pub replicas_most: u64,
    /// The newest number of its slow log.
    pub slow_last: Option<i64>,
    /// Slow commands between the last two looks.
    pub slow_commands: Option<u64>,
}

/// How many links serve one client alone, and how many may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Just now.
    pub used: u64,
    /// At most; 0 where that is not known.
    pub most: u64,
}

/// What is known, for all threads.
#[derive(Debug, Default)]
pub struct Health {
    limits: Limits,
    seen: Mutex<Seen>,
    asked: Mutex<Asked>,
    pool: OnceLock<(Arc<AtomicUsize>, usize)>,
    wanted: Notify,
    came: Notify,
}

/// Who wants to know, and when the upstream was last asked.
#[derive(Debug, Default)]
struct Asked {
    /// When somebody last asked for details.
    wanted_at: Option<Moment>,
    /// Somebody always wants to know.
    always: bool,
    /// When the upstream was last asked.
    asked_at: Option<Moment>,
    info_refused_at: Option<Moment>,
    slow_refused_at: Option<Moment>,
}

/// What the upstream is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Questions {
    /// `INFO`
    pub info: bool,
    /// `SLOWLOG GET 1`
    pub slow: bool,
}

impl Health {
    /// Nothing seen yet.
    pub fn new(limits: Limits) -> Self {
        Health { limits, ..Health::default() }
    }

    /// From when on something is worth a reason.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the number of links that serve one client alone stands, and their limit.
    pub fn knows_pool(&self, used: Arc<AtomicUsize>, most: usize) {
        // Set once, where the proxy starts.
        let _ = self.pool.set((used, most));
    }

    /// The watch link stands.
    pub fn is_there(&self) {
        let mut seen = self.seen();
        (seen.away, seen.was_met, seen.asked_at) = (None, true, None);
    }

    /// It was lost, or could not be made.
    pub fn failed(&self, why: &str, now: Moment) {
        let mut seen = self.seen();
        (seen.away, seen.asked_at) = (Some(why.to_owned()), None);
        if seen.failures.len() == FAILURES_MAX {
            seen.failures.pop_front();
        }
        seen.failures.push_back(now);
    }

    /// The upstream was asked something that it answers at once.
    pub fn asks(&self, now: Moment) {
        self.seen().asked_at.get_or_insert(now);
    }

    /// It has answered what it was asked at `asked`.
    pub fn answered(&self, asked: Moment, now: Moment) {
        let mut seen = self.seen();
        seen.asked_at = None;
        if seen.trips_us.len() == TRIPS_MAX {
            seen.trips_us.pop_front();
        }
        seen.trips_us.push_back(now.since_us(asked));
    }

    /// What the upstream is to be asked now, if anything; it counts as asked then.
    pub fn questions(&self, now: Moment) -> Option<Questions> {
        let mut asked = self.asked();
        let within = |at: Option<Moment>, ms: u64| at.is_some_and(|at| now.since_us(at) < ms.saturating_mul(1000));
        let is_wanted = asked.always || within(asked.wanted_at, ASKED_FOR_MS);
        if !is_wanted || within(asked.asked_at, self.limits.check_interval_ms) {
            return None;
        }
        asked.asked_at = Some(now);
        let questions = Questions {
            info: !within(asked.info_refused_at, REFUSED_FOR_MS),
            slow: !within(asked.slow_refused_at, REFUSED_FOR_MS),
        };
        (questions.info || questions.slow).then_some(questions)
    }

    /// The reply to `INFO`; `None` where it was refused.
    pub fn told(&self, info: Option<&str>, now: Moment) {
        let Some(info) = info else { return self.asked().info_refused_at = Some(now) };
        let details = Details::read(info);
        let mut seen = self.seen();
        seen.replicas_most = seen.replicas_most.max(details.replicas);
        seen.details = Some((now, details));
        drop(seen);
        self.came.notify_waiters();
    }

    /// The number of the newest entry of the slow log, from -1; `None` where that was refused.
    pub fn told_slow(&self, newest: Option<i64>, now: Moment) {
        let Some(newest) = newest else { return self.asked().slow_refused_at = Some(now) };
        let mut seen = self.seen();
        // A server that began anew counts from the start.
        seen.slow_commands = seen.slow_last.map(|last| u64::try_from(newest - last).unwrap_or(0));
        seen.slow_last = Some(newest);
    }

    /// Somebody always wants to know what the upstream tells of itself.
    pub fn is_always_wanted(&self) {
        self.asked().always = true;
    }

    /// Somebody wants to know it now, and later answers are to be as good.
    pub fn is_asked_for(&self, now: Moment) {
        self.asked().wanted_at = Some(now);
        self.wanted.notify_one();
    }

    /// The same; resolves when it has come, or after half a second.
    pub async fn is_fresh(&self, now: Moment) {
        let came = self.came.notified();
        self.is_asked_for(now);
        let is_known = self
            .seen()
            .details
            .as_ref()
            .is_some_and(|(at, _)| now.since_us(*at) < self.limits.check_interval_ms.saturating_mul(1000));
        if !is_known && self.seen().away.is_none() && self.asked().info_refused_at.is_none() {
            // Late is as good as not at all: the answer says what is known.
            let _ = tokio::time::timeout(FRESH_MAX, came).await;
        }
    }

    /// Resolves when the upstream may have to be asked.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// What was seen comes to.
    pub fn report(&self, misfit: Option<String>, now: Moment) -> Report {
        let pool = self.pool.get().map_or(Pool::default(), |(used, most)| Pool {
            used: used.load(Ordering::Relaxed) as u64,
            most: *most as u64,
        });
        judge(&self.seen(), misfit.as_deref(), pool, &self.limits, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    const BOTH: Option<Questions> = Some(Questions { info: true, slow: true });

    #[test]
    fn the_upstream_is_asked_only_while_somebody_wants_to_know_and_not_too_often() {
        let health = Health::default();
        assert_eq!(health.questions(at(0)), None, "nobody asks");
        health.is_asked_for(at(10));
        assert_eq!(health.questions(at(10)), BOTH);
        assert_eq!(health.questions(at(4000)), None, "it was asked just now");
        assert_eq!(health.questions(at(5100)), BOTH);
        assert_eq!(health.questions(at(61_000)), None, "nobody has asked for a minute");
        health.is_always_wanted();
        assert_eq!(health.questions(at(61_000)), BOTH);
    }

    #[test]
    fn what_is_refused_is_not_asked_again_for_a_while() {
        let health = Health::default();
        health.is_always_wanted();
        health.told_slow(None, at(0));
        assert_eq!(health.questions(at(1)), Some(Questions { info: true, slow: false }));
        health.told(None, at(5000));
        assert_eq!(health.questions(at(6000)), None);
        assert_eq!(health.questions(at(600_001)), Some(Questions { info: false, slow: true }));
    }

    #[test]
    fn slow_commands_are_counted_from_look_to_look() {
        let health = Health::default();
        let counts: Vec<_> = [7, 7, 12, 1]
            .map(|newest| {
                health.told_slow(Some(newest), at(0));
                health.seen().slow_commands
            })
            .into();
        assert_eq!(counts, [None, Some(0), Some(5), Some(0)]);
    }
}
