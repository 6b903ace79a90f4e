//! What SIGHUP changes: some keys at once, the others with the next start.

use super::Config;
use super::keys::KEYS;

/// The keys in which two configurations differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that can change while Lockgate runs.
    pub at_run_time: Vec<&'static str>,
    /// Those that need a restart.
    pub after_restart: Vec<&'static str>,
}

/// Compares what runs with what was read anew.
pub fn changes(running: &Config, wanted: &Config) -> Changes {
    let mut changes = Changes::default();
    for key in KEYS.iter().filter(|key| !(key.same)(running, wanted)) {
        let list = if key.at_run_time { &mut changes.at_run_time } else { &mut changes.after_restart };
        list.push(key.name);
    }
    if running.lock_keys != wanted.lock_keys {
        changes.after_restart.push("lock_keys");
    }
    changes
}
