//! Log lines that would repeat as often as what they tell of: told at most every ten seconds, with how often it happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The log tells of one thing at most so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How often something happened, and when the log told of it.
#[derive(Debug, Default)]
pub struct Seldom {
    count: AtomicU64,
    /// When the log told of it last, and the count at that time.
    told: Mutex<Option<(Instant, u64)>>,
}

impl Seldom {
    /// It has not happened yet.
    pub const fn new() -> Seldom {
        Seldom { count: AtomicU64::new(0), told: Mutex::new(None) }
    }

    /// It happened once more: how often since the log told of it, when it is time to tell again.
    pub fn happened(&self) -> Option<u64> {
        self.happened_at(Instant::now())
    }

    /// How often it happened so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn happened_at(&self, now: Instant) -> Option<u64> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match *told {
            Some((at, _)) if now.saturating_duration_since(at) < TELL_EVERY => return None,
            Some((_, before)) => before,
            None => 0,
        };
        *told = Some((now, count));
        Some(count.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_how_many_there_were_and_not_of_each() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.happened_at(start), Some(1));
        for _ in 0..29 {
            assert_eq!(seldom.happened_at(start + Duration::from_secs(9)), None);
        }
        assert_eq!(seldom.happened_at(start + TELL_EVERY), Some(30));
        assert_eq!(seldom.count(), 31);
    }
}
