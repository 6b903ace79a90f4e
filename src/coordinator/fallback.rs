//! `SET NX` calls that passed as the plain command because their queue could not be kept: counted, and said in the log.

use crate::domain::LockKey;
use crate::observe::seldom::Seldom;

/// How often it happened.
#[derive(Debug, Default)]
pub struct Fallback(Seldom);

impl Fallback {
    /// It happened to a call for `key`.
    pub fn note(&self, key: &LockKey) {
        if let Some(calls) = self.0.happened() {
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
        self.0.count()
    }
}
