//! Which keys are lock keys by their name.

use crate::commands::glob;

/// Globs over key names, as Redis' `KEYS` understands them.
#[derive(Debug, Clone)]
pub struct LockKeys(Vec<Vec<u8>>);

impl Default for LockKeys {
    fn default() -> Self {
        LockKeys::new(["lock:*", "locks:*", "redlock:*", "*:lock"])
    }
}

impl LockKeys {
    /// The keys that match one of `globs`.
    pub fn new<T: AsRef<[u8]>>(globs: impl IntoIterator<Item = T>) -> Self {
        LockKeys(globs.into_iter().map(|glob| glob.as_ref().to_vec()).collect())
    }

    /// `true` where a rule takes the key of that name for a lock.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|glob| glob::matches(glob, name))
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
