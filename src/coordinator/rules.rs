//! Which keys are lock keys by their name.

use std::sync::Arc;

use crate::commands::glob;

/// Globs over key names, as Redis' `KEYS` understands them.
#[derive(Debug, Clone)]
pub struct LockKeys(Vec<Arc<str>>);

impl Default for LockKeys {
    fn default() -> Self {
        LockKeys::new(["lock:*", "locks:*", "redlock:*", "*:lock"])
    }
}

impl LockKeys {
    /// The keys that match one of `globs`.
    pub fn new<T: AsRef<str>>(globs: impl IntoIterator<Item = T>) -> Self {
        LockKeys(globs.into_iter().map(|glob| glob.as_ref().into()).collect())
    }

    /// `true` where a rule takes the key of that name for a lock.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|glob| glob::matches(glob.as_bytes(), name))
    }

    /// The first rule that takes the key of that name for a lock, as it was written.
    pub fn rule_for(&self, name: &[u8]) -> Option<Arc<str>> {
        self.0.iter().find(|glob| glob::matches(glob.as_bytes(), name)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::LockKeys;

    #[test]
    fn the_default_rules_know_the_names_that_lock_libraries_use() {
        let keys = LockKeys::default();
        for name in ["lock:", "locks:a", "redlock:x", "orders:1:lock", ":lock"] {
            assert!(keys.matches(name.as_bytes()), "{name}");
        }
        for name in ["", "lock", "my:lock:", "LOCK:a"] {
            assert!(!keys.matches(name.as_bytes()), "{name}");
        }
    }
}
