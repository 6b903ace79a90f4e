//! What kind of day it is: how many nodes and people, which keys, rules, users and faults.

use std::time::Duration;

use super::faults::Faults;
use super::judge::Person;
use crate::config::{Config, DeadlockMode, Rule, VictimPolicy};
use crate::domain::Level;

/// How long a rule lets a `SET NX` wait, in ms.
const SET_NX_WAIT_MS: u64 = 2500;
/// How long a poller's place is kept, in ms.
const TICKET_MS: u64 = 400;

/// The lease where none is asked for, and the longest.
const DEFAULT_TTL_MS: u64 = 1700;
const MAX_TTL_MS: u64 = 8000;
/// With `promote_after` a waiter beats one of the next level that came so much later.
const PROMOTES_AFTER_MS: u64 = 500;

/// What people lock, on days with so many keys.
const KEYS: [&str; 4] = ["lock:a", "lock:b", "c", "lock:d"];
/// Whoever keeps data does so under the third.
const DATA_KEYS: usize = 3;

/// What a rule says about one key.
struct KeyRule {
    key: &'static str,
    /// For whom; empty is everybody.
    users: &'static [&'static str],
    max_ttl_ms: Option<u64>,
    default_ttl_ms: Option<u64>,
    queue_max: usize,
    level: Option<Level>,
    wait_ms: u64,
}

const NO_RULE: KeyRule = KeyRule {
    key: "lock:*",
    users: &[],
    max_ttl_ms: None,
    default_ttl_ms: None,
    queue_max: 0,
    level: None,
    wait_ms: SET_NX_WAIT_MS,
};

/// The rules of days that have some.
const RULES: [KeyRule; 2] = [
    KeyRule { key: "lock:b", max_ttl_ms: Some(900), default_ttl_ms: Some(600), level: Some(Level::High), ..NO_RULE },
    KeyRule { key: "lock:d", default_ttl_ms: Some(3000), queue_max: 2, ..NO_RULE },
];

/// And those of days whose people are of several users. They come first.
const USERS_RULES: [KeyRule; 3] = [
    KeyRule {
        key: "lock:a",
        users: &["u0"],
        max_ttl_ms: Some(1500),
        default_ttl_ms: Some(400),
        level: Some(Level::Low),
        wait_ms: 900,
        ..NO_RULE
    },
    KeyRule { key: "lock:b", users: &["u1", "nobody"], queue_max: 1, ..NO_RULE },
    // To everybody else it is no lock.
    KeyRule { key: "c", users: &["u1"], level: Some(Level::Critical), default_ttl_ms: Some(700), ..NO_RULE },
];

/// The users of such days; the last is who does not authenticate.
const USERS: [&str; 3] = ["u0", "u1", "default"];

/// What kind of day it is.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: usize,
    pub people: usize,
    pub keys: Vec<Vec<u8>>,
    /// How many names they share; 0 where each has one of his own.
    pub owners: u64,
    /// TRANSFER, ACQUIREALL, RELEASEALL, CANCEL and PROMOTE are used, too.
    pub has_family: bool,
    /// FORCE, and DEL by people who hold nothing.
    pub is_rough: bool,
    /// A refused poller's place is kept, in place of waiting.
    pub tickets: bool,
    /// Rules cut leases, give defaults and levels, and make queues narrow.
    has_rules: bool,
    /// People are of several users, and some rules are for some of them.
    has_users: bool,
    /// Some go around Lockgate.
    pub bypasses: bool,
    /// Somebody keeps data under the name that others lock, now and then.
    pub has_data: bool,
    pub day_ms: u64,
    pub longest_way_ms: u64,
    deadlocks: DeadlockMode,
    victim: VictimPolicy,
    pub promote_after_ms: u64,
    pub faults: Faults,
}

impl Plan {
    /// Draws one.
    pub fn draw(dice: &mut fastrand::Rng) -> Plan {
        let policies =
            [VictimPolicy::LowestPriority, VictimPolicy::Youngest, VictimPolicy::FewestLocks, VictimPolicy::Requester];
        let plan = Plan {
            nodes: dice.usize(1..4),
            people: dice.usize(2..7),
            keys: KEYS[..dice.usize(1..=KEYS.len())].iter().map(|key| key.as_bytes().to_vec()).collect(),
            owners: if dice.u8(..4) == 0 { 2 } else { 0 },
            has_family: dice.u8(..3) > 0,
            is_rough: dice.u8(..4) == 0,
            tickets: dice.u8(..6) == 0,
            bypasses: dice.u8(..3) == 0,
            has_rules: dice.bool(),
            has_users: dice.u8(..3) == 0,
            has_data: dice.bool(),
            day_ms: dice.u64(6000..20_000),
            longest_way_ms: [0, 3, 20, 120][dice.usize(..4)],
            deadlocks: if dice.u8(..4) == 0 { DeadlockMode::Prevent } else { DeadlockMode::Detect },
            victim: policies[dice.usize(..4)],
            promote_after_ms: if dice.u8(..3) == 0 { PROMOTES_AFTER_MS } else { 0 },
            faults: Faults::draw(dice),
        };
        // Where a rule takes a key for a lock, a string is none the less.
        let has_data = plan.has_data && !plan.has_users;
        let least = if has_data { DATA_KEYS } else { 1 };
        let keys: Vec<Vec<u8>> = KEYS[..plan.keys.len().max(least)].iter().map(|key| key.as_bytes().to_vec()).collect();
        // Two keys at a time need two keys.
        let has_family = plan.has_family && keys.len() > 1;
        Plan { has_family, has_data, keys, ..plan }
    }

    /// Whom the upstream takes that person for.
    pub fn user(&self, person: Person) -> &'static str {
        if self.has_users { USERS[person % USERS.len()] } else { "default" }
    }

    fn rules(&self) -> impl Iterator<Item = &'static KeyRule> {
        let of_users = USERS_RULES.iter().filter(|_| self.has_users);
        of_users.chain(RULES.iter().filter(|_| self.has_rules))
    }

    /// The rule for a key and a person; `None` where it is no lock's key to him.
    fn rule(&self, key: &[u8], person: Person) -> Option<&'static KeyRule> {
        let is_for = |rule: &&KeyRule| rule.users.is_empty() || rule.users.contains(&self.user(person));
        let own = self.rules().filter(|rule| rule.key.as_bytes() == key).find(is_for);
        own.or_else(|| key.starts_with(b"lock:").then_some(&NO_RULE))
    }

    /// A `SET NX` of that person on this key is a lock's; else it passes.
    pub fn takes(&self, key: &[u8], person: Person) -> bool {
        self.rule(key, person).is_some()
    }

    /// How long it waits.
    pub fn plain_wait_ms(&self, key: &[u8], person: Person) -> u64 {
        self.rule(key, person).filter(|_| !self.tickets).map_or(0, |rule| rule.wait_ms)
    }

    /// How long its place is kept when it is refused.
    pub fn ticket_ms(&self, key: &[u8], person: Person) -> u64 {
        self.rule(key, person).filter(|_| self.tickets).map_or(0, |_| TICKET_MS)
    }

    /// The lease that LOCK.* gets who asks for so many ms, or for none.
    pub fn lease_ms(&self, key: &[u8], person: Person, ttl_ms: Option<u64>) -> u64 {
        let rule = self.rule(key, person);
        let default_ms = rule.and_then(|rule| rule.default_ttl_ms).unwrap_or(DEFAULT_TTL_MS);
        let max_ms = rule.and_then(|rule| rule.max_ttl_ms).unwrap_or(MAX_TTL_MS);
        ttl_ms.unwrap_or(default_ms).min(max_ms)
    }

    /// The longest lease of a `SET NX`, and what it has that names none; its rule alone cuts it.
    pub fn plain_lease_ms(&self, key: &[u8], person: Person) -> (Option<u64>, Option<u64>) {
        let rule = self.rule(key, person);
        (rule.and_then(|rule| rule.max_ttl_ms), rule.and_then(|rule| rule.default_ttl_ms))
    }

    /// The queue of that key has few places for him.
    pub fn is_narrow(&self, key: &[u8], person: Person) -> bool {
        self.rule(key, person).is_some_and(|rule| rule.queue_max > 0)
    }

    /// The level of a call that names none.
    pub fn level(&self, key: &[u8], person: Person) -> u8 {
        self.rule(key, person).and_then(|rule| rule.level).unwrap_or(Level::Normal).number()
    }

    /// How a node is configured.
    pub fn config(&self, name: String) -> Config {
        let mut config = Config::default();
        config.nodes.id = Some(name);
        config.deadlock.mode = self.deadlocks;
        config.deadlock.victim = self.victim;
        config.promote_after = (self.promote_after_ms > 0).then(|| Duration::from_millis(self.promote_after_ms));
        (config.default_ttl, config.max_ttl) =
            (Duration::from_millis(DEFAULT_TTL_MS), Duration::from_millis(MAX_TTL_MS));
        config.lock_keys = self.rules().chain([&NO_RULE]).map(|rule| self.written(rule)).collect();
        config
    }

    fn written(&self, rule: &KeyRule) -> Rule {
        let ticket = self.tickets.then(|| Duration::from_millis(TICKET_MS));
        Rule {
            users: rule.users.iter().map(|user| (*user).into()).collect(),
            wait: (!self.tickets).then(|| Duration::from_millis(rule.wait_ms)),
            poll_ticket: ticket,
            wait_while_holding: true,
            max_ttl: rule.max_ttl_ms.map(Duration::from_millis),
            default_ttl: rule.default_ttl_ms.map(Duration::from_millis),
            max_queue: rule.queue_max,
            priority: rule.level,
            ..Rule::matching(rule.key)
        }
    }
}
