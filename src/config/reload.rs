//! What SIGHUP changes: some keys at once, the others with the next start.

use super::Config;
use super::keys::{Applies, KEYS};

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
    if running.lock_keys != wanted.lock_keys {
        changes.at_run_time.push("lock_keys");
    }
    if running.lock_scripts != wanted.lock_scripts {
        changes.after_restart.push("lock_scripts");
    }
    for key in KEYS.iter().filter(|key| !(key.same)(running, wanted)) {
        match key.applies {
            Applies::AtRunTime => changes.at_run_time.push(key.name),
            Applies::AtStart => changes.after_restart.push(key.name),
            Applies::Later => {}
        }
    }
    changes
}
