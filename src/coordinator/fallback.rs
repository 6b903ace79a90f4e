//! `SET NX` calls that passed as the plain command because their queue could not be kept: counted, and said in the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::LockKey;

/// The log tells of it at most so often, however many calls there are.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);

/// How often it happened.
#[derive(Debug, Default)]
pub struct Fallback {
    count: AtomicU64,
    /// When the log told of it last, and the count at that time.
    announced: Mutex<Option<(Instant, u64)>>,
}

impl Fallback {
    /// It happened to a call for `key`.
    pub fn note(&self, key: &LockKey) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(calls) = self.is_news(count, Instant::now()) {
            tracing::warn!(
                %key,
                db = key.db,
                calls,
                "SET NX passes as the plain command, because its queue cannot be kept: nobody waits, and no order holds; \
                 set fallback = false to have such calls refused instead"
            );
        }
    }

    /// How often it happened so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The calls since the log told of it, when it is time to tell again.
    fn is_news(&self, count: u64, now: Instant) -> Option<u64> {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match *announced {
            Some((at, _)) if now.saturating_duration_since(at) < ANNOUNCE_EVERY => return None,
            Some((_, told)) => told,
            None => 0,
        };
        *announced = Some((now, count));
        Some(count.saturating_sub(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_how_many_there_were_and_not_of_each() {
        let (fallback, start) = (Fallback::default(), Instant::now());
        assert_eq!(fallback.is_news(1, start), Some(1));
        assert_eq!(fallback.is_news(2, start + Duration::from_secs(9)), None);
        assert_eq!(fallback.is_news(31, start + ANNOUNCE_EVERY), Some(30));
    }
}
