//! Faults of Lockgate itself. A panic ends the piece of work in which it happens and no more: whoever waits for that work is told, and
//! what goes on for as long as the process does begins anew. The panic's own words are on standard error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first fault; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause. What ran for longer begins anew after the shortest one.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The work has panicked. Nothing that it alone had is used after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What `work` comes to, or that it panicked.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(_) => Poll::Ready(Err(Fault)),
    })
    .await
}

/// Carries out what `work` makes until that comes to its end. Where it panics instead, the log says so, and it is made anew.
pub async fn kept_up(what: &'static str, mut work: impl AsyncFnMut()) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        if caught(work()).await.is_ok() {
            return;
        }
        if begun.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tracing::error!(
            what,
            again_in_ms = pause.as_millis() as u64,
            "a fault of Lockgate ended what it does all the time, and it begins anew; please report it with the panic above"
        );
        // On the heap: many wait for something else, and few for this.
        Box::pin(tokio::time::sleep(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A panic, where a test wants one.
#[cfg(test)]
pub mod failpoint {
    use std::cell::Cell;

    thread_local! {
        static ARMED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// The next pass of this thread at `place` panics.
    pub fn arm(place: &'static str) {
        ARMED.set(Some(place));
    }

    /// Whether it has done so.
    pub fn has_happened() -> bool {
        ARMED.get().is_none()
    }

    /// Called at each place.
    pub fn pass(place: &'static str) {
        if ARMED.get() == Some(place) {
            ARMED.set(None);
            panic!("a test wants a fault: {place}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_begins_anew_after_growing_pauses_until_it_ends() {
        let (begun, times) = (Instant::now(), Cell::new(0));
        kept_up("a test", async || {
            times.set(times.get() + 1);
            tokio::task::yield_now().await;
            assert!(times.get() == 4, "a fault");
        })
        .await;
        assert_eq!(times.get(), 4);
        assert_eq!(begun.elapsed().as_millis(), 700, "100, 200 and 400 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn what_ran_well_for_long_begins_anew_soon() {
        let (begun, times) = (Instant::now(), Cell::new(0));
        kept_up("a test", async || {
            times.set(times.get() + 1);
            tokio::time::sleep(PAUSE_MAX * 2).await;
            assert!(times.get() == 3, "a fault");
        })
        .await;
        assert_eq!(begun.elapsed(), PAUSE_MAX * 6 + PAUSE_MIN * 2);
    }

    #[tokio::test]
    async fn work_that_does_not_panic_is_what_it_was() {
        assert_eq!(caught(async { 5 }).await, Ok(5));
        assert_eq!(caught(async { assert!(std::hint::black_box(false), "a fault") }).await, Err(Fault));
    }
}
