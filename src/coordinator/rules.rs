//! Which keys are lock keys by their name, and what holds for them (`[[lock_keys]]`, SPEC 3).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::pattern::Pattern;
use crate::config::{self, Mode};
use crate::domain::Level;
use crate::store::companion;

/// The rules in their order; the first that matches counts. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

/// One `[[lock_keys]]`. Times are in milliseconds; 0 is none.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its `match`, as it was written.
    pub name: Arc<str>,
    pattern: Pattern,
    /// Whose calls it is for; empty is everybody's.
    users: Vec<Box<[u8]>>,
    mode: Mode,
    percent: u64,
    /// How long a refused `SET NX` queues.
    pub wait_ms: u64,
    /// The level of calls that name none.
    pub level: Option<Level>,
    /// How long a refused poller's place is kept.
    pub ticket_ms: u64,
    /// A connection that holds a lock may wait for another.
    pub wait_while_holding: bool,
    /// `SET NX` is the plain command.
    pub barge: bool,
    /// A waiting `SET NX` ends when anything arrives behind it.
    pub yields: bool,
    /// Longer leases are cut to this.
    pub max_ttl_ms: Option<u64>,
    /// The lease where none is given.
    pub default_ttl_ms: Option<u64>,
    /// Most waiters of one key on this node.
    pub queue_max: Option<u64>,
    /// What happened under it.
    pub counts: Arc<RuleCounts>,
}

/// What a rule does about a key that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds.
    Acts,
    /// It only counts.
    Shadow,
    /// It is off, or the key is outside of its share.
    Rests,
}

/// `SET NX` calls that met a rule, since it was read.
#[derive(Debug, Default)]
pub struct RuleCounts {
    /// Intercepted.
    pub taken: AtomicU64,
    /// Would have been intercepted, but for `mode = "shadow"`.
    pub shadowed: AtomicU64,
}

impl Rules {
    /// These rules, in this order.
    pub fn of(rules: &[config::Rule]) -> Self {
        Rules(rules.iter().map(Rule::of).collect())
    }

    /// The rule for the key `name`, for a client who is `user` to the upstream. Lockgate's own keys have none.
    pub fn find(&self, name: &[u8], user: &[u8]) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.pattern.matches(name) && rule.is_for(user)).filter(|_| !companion::is_own(name))
    }

    /// As [`Rules::find`], where the rule acts on that key.
    pub fn acting(&self, name: &[u8], user: &[u8]) -> Option<&Rule> {
        self.find(name, user).filter(|rule| rule.standing(name) == Standing::Acts)
    }

    /// `true` where a rule names the key, whatever it does about it and for whom.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|rule| rule.pattern.matches(name)) && !companion::is_own(name)
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Rule] {
        &self.0
    }

    /// `true` where a `SET NX` may have to wait.
    pub fn have_waits(&self) -> bool {
        self.0.iter().any(|rule| rule.wait_ms > 0)
    }
}

impl Rule {
    fn of(rule: &config::Rule) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Rule {
            name: rule.pattern.as_str().into(),
            pattern: Pattern::new(rule.pattern.as_bytes()),
            users: rule.users.iter().map(|user| user.as_bytes().into()).collect(),
            mode: rule.mode,
            percent: rule.percent as u64,
            wait_ms: rule.wait.map_or(0, ms),
            level: rule.priority,
            ticket_ms: rule.poll_ticket.map_or(0, ms),
            wait_while_holding: rule.wait_while_holding,
            barge: rule.barge,
            yields: rule.yields,
            max_ttl_ms: rule.max_ttl.map(ms),
            default_ttl_ms: rule.default_ttl.map(ms),
            queue_max: (rule.max_queue > 0).then_some(rule.max_queue as u64),
            counts: Arc::default(),
        }
    }

    /// What it does about the key `name`, which it matches.
    pub fn standing(&self, name: &[u8]) -> Standing {
        match self.mode {
            Mode::Off => Standing::Rests,
            _ if self.percent < 100 && share_of(name) >= self.percent => Standing::Rests,
            Mode::Shadow => Standing::Shadow,
            Mode::On => Standing::Acts,
        }
    }

    fn is_for(&self, user: &[u8]) -> bool {
        self.users.is_empty() || self.users.iter().any(|one| &**one == user)
    }
}

impl RuleCounts {
    pub(crate) fn note(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A number from 0 to 99 that a key keeps on every node and through every restart, so that a canary is the same share of
/// the keys everywhere. FNV-1a; its low bits alone would favour some names, so they are mixed with the high ones.
fn share_of(name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    (mixed >> 32) % 100
}

/// The rules in force, which SIGHUP may replace. Clones are handles on the same rules.
#[derive(Debug, Clone)]
pub struct LockKeys(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    rules: RwLock<Rules>,
    version: AtomicU64,
}

impl Default for LockKeys {
    fn default() -> Self {
        LockKeys::of(Rules::of(&config::Config::default().lock_keys))
    }
}

impl LockKeys {
    /// The keys that match one of `globs`.
    pub fn new<T: AsRef<str>>(globs: impl IntoIterator<Item = T>) -> Self {
        let rules: Vec<_> = globs.into_iter().map(|glob| config::Rule::matching(glob.as_ref())).collect();
        LockKeys::of(Rules::of(&rules))
    }

    /// These rules, until others take their place.
    pub fn of(rules: Rules) -> Self {
        LockKeys(Arc::new(Desk { rules: RwLock::new(rules), version: AtomicU64::new(0) }))
    }

    /// `true` where a rule takes the key of that name for a lock.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.read(|rules| rules.matches(name))
    }

    /// The rule for the key of that name, as it was written, for a client who is `user` to the upstream.
    pub fn rule_for(&self, name: &[u8], user: &[u8]) -> Option<Arc<str>> {
        self.read(|rules| rules.find(name, user).map(|rule| rule.name.clone()))
    }

    /// Reads something off the rules in force.
    pub fn read<T>(&self, read: impl FnOnce(&Rules) -> T) -> T {
        read(&self.0.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Others count from here on, for calls that begin now.
    pub fn replace(&self, rules: Rules) {
        *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// Grows whenever the rules are replaced: a copy of the rules is good for as long as this stays.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(globs: &[&str]) -> Vec<config::Rule> {
        globs.iter().map(|glob| config::Rule::matching(glob)).collect()
    }

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

    #[test]
    fn the_first_rule_that_matches_counts() {
        let mut both = rules(&["lock:fast:*", "lock:*"]);
        both[0].mode = Mode::Off;
        both[1].wait = Some(Duration::from_secs(5));
        let rules = Rules::of(&both);
        assert_eq!(rules.find(b"lock:a", b"default").map(|rule| rule.wait_ms), Some(5000));
        assert_eq!(rules.find(b"lock:fast:a", b"default").map(|rule| &*rule.name), Some("lock:fast:*"));
        assert!(rules.acting(b"lock:fast:a", b"default").is_none());
        assert!(rules.matches(b"lock:fast:a"), "it is a lock all the same");
        assert!(rules.find(b"data", b"default").is_none());
        assert!(rules.have_waits());
    }

    #[test]
    fn a_rule_with_users_is_none_for_the_others() {
        let mut both = rules(&["lock:*", "*"]);
        both[0].users = vec!["ann".into(), "bob".into()];
        let rules = Rules::of(&both);
        assert_eq!(rules.find(b"lock:a", b"bob").map(|rule| &*rule.name), Some("lock:*"));
        assert_eq!(rules.find(b"lock:a", b"default").map(|rule| &*rule.name), Some("*"));
    }

    #[test]
    fn lockgates_own_keys_are_nobodys_locks() {
        let rules = Rules::of(&rules(&["*"]));
        assert!(rules.find(b"lockgate:fence", b"default").is_none() && !rules.matches(b"lockgate:fence"));
        assert!(rules.find(b"lockgate", b"default").is_some());
    }

    #[test]
    fn a_share_of_the_keys_is_the_same_share_everywhere() {
        let mut one = rules(&["*"]);
        for percent in [0, 1, 25, 50, 99, 100] {
            one[0].percent = percent;
            let rules = Rules::of(&one);
            let acts = |name: &str| rules.acting(name.as_bytes(), b"").is_some();
            let count = (0..10_000).filter(|i| acts(&format!("lock:{i}"))).count();
            assert!(count.abs_diff(percent * 100) < 150, "{percent} % of 10,000 keys are {count}");
        }
        // Other nodes and later versions have to agree on these.
        assert_eq!([b"lock:1", b"lock:2", b"lock:3"].map(|name| share_of(name)), [94, 5, 50]);
    }

    #[test]
    fn a_rule_in_the_shadow_only_counts() {
        let mut one = rules(&["*"]);
        one[0].mode = Mode::Shadow;
        assert_eq!(Rules::of(&one).find(b"a", b"").map(|rule| rule.standing(b"a")), Some(Standing::Shadow));
        assert!(Rules::of(&one).acting(b"a", b"").is_none());
    }

    #[test]
    fn every_handle_sees_new_rules_at_once() {
        let (keys, other) = (LockKeys::new(["a"]), LockKeys::new(["b"]));
        let handle = keys.clone();
        let before = handle.version();
        keys.replace(other.read(Rules::clone));
        assert!(handle.version() > before && handle.matches(b"b") && !handle.matches(b"a"));
    }
}
