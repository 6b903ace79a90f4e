//! The locks that a connection took by `SET NX`, as far as it knows. How they end is seldom seen here (a script, an expiry,
//! another connection), so before anything hangs on one of them the upstream is asked.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::domain::Db;
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::upstream::call::{CallError, Caller};

/// Most locks of one connection that are kept in mind.
const GRANTS_MAX: usize = 256;
/// Most bytes of their keys.
const GRANTS_BYTES_MAX: usize = 64 << 10;
/// So many are asked for in one round trip.
pub(super) const GRANTS_AT_ONCE: usize = 16;

/// A lock that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Its database.
    pub(super) db: Db,
    key: Arc<[u8]>,
    /// Of the value: it can be long, and only has to be known again.
    print: u64,
}

impl Grant {
    pub(super) fn new(db: Db, key: &Arc<[u8]>, value: &[u8]) -> Self {
        Grant { db, key: key.clone(), print: print(value) }
    }

    /// Asks what the key holds now.
    pub(super) fn ask<C: Caller>(&self, caller: &C) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        let mut request = Vec::new();
        encode_command(&[&b"GET"[..], &self.key], &mut request);
        caller.call(request)
    }

    /// Whether the lock stands, by the answer to [`Grant::ask`]. What is not known stands: to wait behind one's own lock is worse
    /// than to be told no.
    pub(super) fn stands(&self, reply: Result<Vec<u8>, CallError>) -> bool {
        match reply.as_deref().map(decode) {
            Ok(Ok(Value::Bulk(value))) => print(value) == self.print,
            Ok(Ok(Value::Null)) => false,
            Ok(Ok(Value::Error(line))) => !line.starts_with(b"WRONGTYPE"),
            _ => true,
        }
    }
}

fn print(value: &[u8]) -> u64 {
    // The same for all: whoever forges two values of one print deceives his own connection only.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a connection holds, oldest first.
#[derive(Debug, Default)]
pub(super) struct Grants {
    taken: Vec<Grant>,
    bytes: usize,
    has_lost_count: bool,
}

impl Grants {
    /// One more; it takes the place of an older one of that key, which must have ended.
    pub(super) fn add(&mut self, grant: Grant) {
        self.drop_where(|older| (older.db, &older.key) == (grant.db, &grant.key));
        if self.are_full() {
            self.has_lost_count = true;
            return;
        }
        self.bytes += grant.key.len();
        self.taken.push(grant);
    }

    /// There is no room for another one, unless some are found to have ended.
    pub(super) fn are_full(&self) -> bool {
        self.taken.len() >= GRANTS_MAX || self.bytes >= GRANTS_BYTES_MAX
    }

    /// It may hold locks that are not kept in mind. That stays: nobody can tell when the last of them has ended.
    pub(super) fn are_too_many(&self) -> bool {
        self.has_lost_count
    }

    /// All of them.
    pub(super) fn newest_first(&self) -> Vec<Grant> {
        self.taken.iter().rev().cloned().collect()
    }

    /// The one of that key.
    pub(super) fn at(&self, db: Db, key: &[u8]) -> Vec<Grant> {
        self.taken.iter().filter(|grant| grant.db == db && *grant.key == *key).cloned().collect()
    }

    /// These have ended.
    pub(super) fn forget(&mut self, gone: &[Grant]) {
        if !gone.is_empty() {
            self.drop_where(|grant| gone.contains(grant));
        }
    }

    fn drop_where(&mut self, is_gone: impl Fn(&Grant) -> bool) {
        self.taken.retain(|grant| !is_gone(grant));
        self.bytes = self.taken.iter().map(|grant| grant.key.len()).sum();
        if self.taken.is_empty() {
            // A connection that holds nothing costs nothing.
            self.taken = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(db: Db, key: &str, value: &str) -> Grant {
        Grant::new(db, &key.as_bytes().into(), value.as_bytes())
    }

    #[test]
    fn a_lock_stands_as_long_as_its_key_holds_its_value() {
        let lock = grant(0, "k", "me");
        assert!(lock.stands(Ok(b"$2\r\nme\r\n".to_vec())));
        assert!(!lock.stands(Ok(b"$3\r\nyou\r\n".to_vec())));
        assert!(!lock.stands(Ok(b"$-1\r\n".to_vec())));
        assert!(!lock.stands(Ok(b"-WRONGTYPE Operation against a key\r\n".to_vec())));
        assert!(lock.stands(Ok(b"-NOPERM no\r\n".to_vec())), "what cannot be known stands");
        assert!(lock.stands(Err(CallError::Lost("gone".into()))));
    }

    #[test]
    fn of_one_key_only_the_last_grant_is_kept() {
        let mut grants = Grants::default();
        for (db, value) in [(0, "a"), (1, "b"), (0, "c")] {
            grants.add(grant(db, "k", value));
        }
        assert_eq!(grants.newest_first(), [grant(0, "k", "c"), grant(1, "k", "b")]);
        assert_eq!(grants.at(1, b"k"), [grant(1, "k", "b")]);
        grants.forget(&[grant(0, "k", "a"), grant(1, "k", "b")]);
        assert_eq!(grants.newest_first(), [grant(0, "k", "c")]);
    }

    #[test]
    fn a_connection_cannot_make_it_grow_without_end() {
        let mut many = Grants::default();
        for number in 0..GRANTS_MAX {
            many.add(grant(0, &format!("k{number}"), ""));
        }
        assert!(many.are_full() && !many.are_too_many());
        many.add(grant(0, "k0", "again"));
        assert!(!many.are_too_many(), "it takes the place of the older one");
        many.add(grant(0, "one more", ""));
        assert!(many.are_too_many() && many.newest_first().len() == GRANTS_MAX);
        let mut long = Grants::default();
        for number in 0..100 {
            long.add(grant(0, &format!("{number}{}", "x".repeat(10_000)), ""));
        }
        assert!(long.are_too_many() && long.bytes < GRANTS_BYTES_MAX + 20_000);
    }
}
