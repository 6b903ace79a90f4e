//! The configuration that is in force: what Lockgate was started with, and what was changed since, by SIGHUP or `LOCK.CONFIG SET`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::keys::{Applies, KEYS, Key, RULE_KEYS, SCRIPT_KEYS};
use super::load::{misfit, misfits};
use super::tree::Value;
use super::{Changes, Config, Rule, Script, changes, suggest};

/// Does what a changed configuration asks for.
type Heed = Box<dyn Fn(&Config) + Send + Sync>;

/// Shared by whoever reads or changes the configuration of a running Lockgate.
pub struct LiveConfig {
    config: Mutex<Config>,
    heeds: Mutex<Vec<Heed>>,
}

impl LiveConfig {
    /// What Lockgate starts with.
    pub fn new(config: Config) -> Self {
        LiveConfig { config: Mutex::new(config), heeds: Mutex::default() }
    }

    /// Calls `heed` after every change, with all that is in force then, in the order of the changes; it must not ask back.
    pub fn on_change(&self, heed: impl Fn(&Config) + Send + Sync + 'static) {
        self.heeds.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(heed));
    }

    /// Every key with its value as one would write it, secrets masked.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let config = self.config();
        let mut values: Vec<_> = KEYS.iter().map(|key| (key.name, bare((key.show)(&config)))).collect();
        values.push(("lock_keys", rules(&config.lock_keys)));
        values.push(("lock_scripts", scripts(&config.lock_scripts)));
        values
    }

    /// Sets keys that can change while Lockgate runs, all or none. The error is one sentence, with what to do.
    pub fn set<N: AsRef<str>, V: AsRef<str>>(&self, pairs: &[(N, V)]) -> Result<(), String> {
        let mut config = self.config();
        let mut wanted = config.clone();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            let key = settable(name.as_ref())?;
            if seen.contains(&key.name) {
                return Err(format!("{} is named twice; name it once", key.name));
            }
            seen.push(key.name);
            (key.set)(&mut wanted, &Value::Text(value.as_ref().to_owned()))
                .map_err(|says| format!("{}: {says}", key.name))?;
        }
        if let Some((small, large)) = misfits(&wanted).into_iter().next() {
            return Err(misfit(small, large));
        }
        *config = wanted;
        self.tell(&config);
        Ok(())
    }

    /// Takes over what can change while Lockgate runs from a configuration that was read anew, and tells what differs.
    pub fn reload(&self, wanted: &Config) -> Changes {
        let mut config = self.config();
        let changes = changes(&config, wanted);
        for key in KEYS.iter().filter(|key| key.applies == Applies::AtRunTime) {
            (key.copy)(&mut config, wanted);
        }
        config.lock_keys.clone_from(&wanted.lock_keys);
        self.tell(&config);
        changes
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, config: &Config) {
        self.heeds.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|heed| heed(config));
    }
}

/// The key of that name, if it can change while Lockgate runs.
fn settable(name: &str) -> Result<&'static Key<Config>, String> {
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        if matches!(name, "lock_keys" | "lock_scripts") {
            return Err(at_start(name));
        }
        return Err(match suggest::nearest(name, KEYS.iter().map(|key| key.name)) {
            Some(meant) => format!("'{name}' is no key of Lockgate; did you mean {meant}?"),
            None => format!("'{name}' is no key of Lockgate; LOCK.CONFIG GET * tells them all"),
        });
    };
    match key.applies {
        Applies::AtRunTime => Ok(key),
        Applies::AtStart => Err(at_start(name)),
        Applies::Later => Err(format!("{name} is without effect in this version")),
    }
}

fn at_start(name: &str) -> String {
    format!("{name} cannot change while Lockgate runs; change the configuration file and restart")
}

/// A text without the quotes that TOML writes around it.
fn bare(shown: String) -> String {
    let table: Option<toml::Table> = format!("v = {shown}").parse().ok();
    match table.as_ref().and_then(|table| table.get("v")) {
        Some(toml::Value::String(text)) => text.clone(),
        _ => shown,
    }
}

/// The rules as TOML would have them in one line, with what is set in them.
fn rules(rules: &[Rule]) -> String {
    let unset = Rule::matching("");
    let rule = |rule: &Rule| {
        let set = RULE_KEYS.iter().filter(|key| !(key.same)(rule, &unset));
        let fields: Vec<String> = set.map(|key| format!("{} = {}", key.name, (key.show)(rule))).collect();
        format!("{{ {} }}", fields.join(", "))
    };
    format!("[{}]", rules.iter().map(rule).collect::<Vec<_>>().join(", "))
}

fn scripts(scripts: &[Script]) -> String {
    let script = |script: &Script| {
        let fields: Vec<String> =
            SCRIPT_KEYS.iter().map(|key| format!("{} = {}", key.name, (key.show)(script))).collect();
        format!("{{ {} }}", fields.join(", "))
    };
    format!("[{}]", scripts.iter().map(script).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn value(live: &LiveConfig, name: &str) -> String {
        live.values().into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    fn what_is_told_can_be_set_again() {
        let live = LiveConfig::new(Config::default());
        for key in KEYS.iter().filter(|key| key.applies == Applies::AtRunTime) {
            live.set(&[(key.name, value(&live, key.name))]).unwrap();
        }
        assert_eq!(value(&live, "default_ttl"), "30s");
        assert_eq!(value(&live, "max_queue"), "1000");
        assert_eq!(*live.config(), Config::default());
        assert!(value(&live, "lock_keys").starts_with("[{ match = \"lock:*\" }, "), "{}", value(&live, "lock_keys"));
    }

    #[test]
    fn a_change_is_heeded_at_once_and_all_or_nothing() {
        let live = LiveConfig::new(Config::default());
        let heeded: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let noted = heeded.clone();
        live.on_change(move |config| noted.lock().unwrap().push(config.default_ttl));
        live.set(&[("default_ttl", "10s"), ("max_queue", "7")]).unwrap();
        assert!(live.set(&[("default_ttl", "20s"), ("max_queue", "0")]).is_err());
        assert_eq!((value(&live, "default_ttl"), value(&live, "max_queue")), ("10s".into(), "7".into()));
        assert_eq!(*heeded.lock().unwrap(), [Duration::from_secs(10)]);
    }

    #[test]
    fn what_cannot_be_set_says_what_to_do() {
        let live = LiveConfig::new(Config::default());
        for (name, wanted, says) in [
            (
                "listen",
                "127.0.0.1:1",
                "listen cannot change while Lockgate runs; change the configuration file and restart",
            ),
            (
                "lock_keys",
                "[]",
                "lock_keys cannot change while Lockgate runs; change the configuration file and restart",
            ),
            ("defualt_ttl", "1s", "'defualt_ttl' is no key of Lockgate; did you mean default_ttl?"),
            ("default_ttl", "3h", "default_ttl (3h) is longer than max_ttl (2h); lower default_ttl or raise max_ttl"),
        ] {
            assert_eq!(live.set(&[(name, wanted)]).unwrap_err(), says);
        }
        assert!(
            live.set(&[("max_wait", "soon")])
                .unwrap_err()
                .starts_with("max_wait: 'soon' does not fit; write a duration")
        );
        assert_eq!(
            live.set(&[("max_wait", "1s"), ("max_wait", "2s")]).unwrap_err(),
            "max_wait is named twice; name it once"
        );
    }
}
