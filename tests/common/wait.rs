//! Waiting for a state: a test never sleeps a guess, it looks until what it waits for is there.

use std::time::{Duration, Instant};

/// How long a test waits for something that should come at once, on a machine that is busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until `look` gives something, and gives that on; fails the test with `what` when [`PATIENCE`] runs out.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, &mut look) {
        Some(found) => found,
        None => panic!("this never came to be within {PATIENCE:?}: {what}"),
    }
}

/// Looks until `look` gives something or `patience` has passed.
pub fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        // The pause between two looks only keeps the processor free for those who are being waited for.
        std::thread::sleep(Duration::from_millis(2));
    }
}
