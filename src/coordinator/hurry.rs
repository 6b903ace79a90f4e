//! A word to a waiting call that it is not to wait any longer.

use std::cell::Cell;

use tokio::sync::Notify;

/// Given once; it stays.
#[derive(Debug, Default)]
pub struct Hurry {
    was_given: Cell<bool>,
    bell: Notify,
}

impl Hurry {
    /// From here on it counts.
    pub fn give(&self) {
        self.was_given.set(true);
        self.bell.notify_waiters();
    }

    /// Whether it was given.
    pub fn was_given(&self) -> bool {
        self.was_given.get()
    }

    /// Resolves once it is given.
    pub(super) async fn comes(&self) {
        let bell = self.bell.notified();
        if !self.was_given.get() {
            bell.await;
        }
    }
}
