//! What the facts about an upstream mean for locks: pure, so that every rule has its test.

use std::time::Duration;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// As it should be.
    Fine,
    /// Worth knowing.
    Note,
    /// Locks work, and something is worse than it could be.
    Warning,
    /// Locks do not work, or two may hold one.
    Blocker,
}

impl Weight {
    pub(super) fn name(self) -> &'static str {
        match self {
            Weight::Fine => "ok",
            Weight::Note => "note",
            Weight::Warning => "WARNING",
            Weight::Blocker => "BLOCKER",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub weight: Weight,
    pub about: &'static str,
    /// What was found.
    pub says: String,
    /// What to change, and why; empty where nothing is to be.
    pub advice: &'static str,
}

/// What was found out about one server. `None` where it does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    pub is_valkey: bool,
    /// Major, minor.
    pub version: Option<(u32, u32)>,
    pub is_replica: bool,
    pub is_cluster: bool,
    /// In bytes; 0 is no limit.
    pub maxmemory: Option<u64>,
    pub maxmemory_policy: Option<String>,
    /// In bytes.
    pub used_memory: Option<u64>,
    pub has_aof: Option<bool>,
    pub fsync: Option<String>,
    /// `save` has a line.
    pub has_rdb: Option<bool>,
    pub replicas: Option<u32>,
    pub min_replicas: Option<u32>,
    /// After so many seconds the server closes idle connections; 0 is never.
    pub idle_timeout_s: Option<u64>,
    pub clients: Option<u64>,
    pub max_clients: Option<u64>,
    /// How far its clock is ahead of this machine's, in ms.
    pub clock_ahead_ms: Option<i64>,
    /// The errors, where these are refused.
    pub scripts_refused: Option<String>,
    pub tracking_refused: Option<String>,
    pub subscribe_refused: Option<String>,
    pub config_refused: bool,
    /// Round trips, sorted.
    pub round_trips: Vec<Duration>,
    /// Lock keys without an expiry, a few of them, and how many in all.
    pub endless: (Vec<String>, usize),
    /// The look for these has not come to its end.
    pub is_scan_cut: bool,
}

/// Links of a Lockgate with two workers: shared ones in three lanes, and some own ones.
const LINKS: u64 = 50;

/// Everything that is to be said.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![version(facts)];
    all.extend(role(facts));
    all.extend([memory(facts), persistence(facts), replicas(facts), scripts(facts)]);
    all.extend(hints(facts));
    all.extend(connections(facts));
    all.push(clock(facts));
    all.extend(latency(facts));
    all.extend(endless(facts));
    if facts.config_refused {
        all.push(finding(
            Weight::Note,
            "settings",
            "CONFIG GET is refused".into(),
            "what it would have told was not looked at",
        ));
    }
    all
}

fn finding(weight: Weight, about: &'static str, says: String, advice: &'static str) -> Finding {
    Finding { weight, about, says, advice }
}

fn version(facts: &Facts) -> Finding {
    let name = if facts.is_valkey { "Valkey" } else { "Redis" };
    let least = if facts.is_valkey { (7, 2) } else { (6, 2) };
    match facts.version {
        None => finding(
            Weight::Note,
            "version",
            "the server tells none".into(),
            "Redis 6.2 and Valkey 7.2, and later, are supported",
        ),
        Some(version) if version < least => finding(
            Weight::Blocker,
            "version",
            format!("{name} {}.{}", version.0, version.1),
            "use Redis 6.2 or Valkey 7.2, or later: the scripts need commands that this server has not",
        ),
        Some((major, minor)) => finding(Weight::Fine, "version", format!("{name} {major}.{minor}"), ""),
    }
}

fn role(facts: &Facts) -> Option<Finding> {
    if facts.is_replica {
        let advice = "name its master, or Sentinels (redis-sentinel://): a replica takes no locks";
        return Some(finding(Weight::Blocker, "role", "a replica".into(), advice));
    }
    let advice = "a redis:// URL names one server; keys of other nodes would be out of reach";
    facts.is_cluster.then(|| finding(Weight::Blocker, "role", "a node of a cluster".into(), advice))
}

fn memory(facts: &Facts) -> Finding {
    const ABOUT: &str = "memory";
    let (Some(most), Some(policy)) = (facts.maxmemory, &facts.maxmemory_policy) else {
        return finding(
            Weight::Note,
            ABOUT,
            "the server does not tell its maxmemory-policy".into(),
            "see to it that it is noeviction: an evicted lock has two holders",
        );
    };
    let evicts = policy != "noeviction";
    if evicts && most > 0 {
        let says = format!("maxmemory {most} with maxmemory-policy {policy}");
        return finding(
            Weight::Blocker,
            ABOUT,
            says,
            "set maxmemory-policy noeviction, or give locks a server of their own: an evicted lock has two holders",
        );
    }
    if evicts {
        let says = format!("maxmemory-policy {policy}, without a maxmemory");
        return finding(
            Weight::Note,
            ABOUT,
            says,
            "should a maxmemory be set, set noeviction first: an evicted lock has two holders",
        );
    }
    match facts.used_memory {
        Some(used) if most > 0 && used > most / 5 * 4 => finding(
            Weight::Warning,
            ABOUT,
            format!("{} % of maxmemory is used", used.saturating_mul(100) / most),
            "raise maxmemory, or delete data: a full server refuses locks",
        ),
        _ => finding(Weight::Fine, ABOUT, "nothing is evicted".into(), ""),
    }
}

fn persistence(facts: &Facts) -> Finding {
    const ABOUT: &str = "persistence";
    match (facts.has_aof, facts.has_rdb, facts.fsync.as_deref()) {
        (Some(true), _, Some("no")) => finding(
            Weight::Warning,
            ABOUT,
            "appendonly yes, appendfsync no".into(),
            "set appendfsync everysec: a power failure may take half a minute of locks back",
        ),
        (Some(true), _, _) => finding(Weight::Fine, ABOUT, "appendonly yes".into(), ""),
        (Some(false), Some(true), _) => finding(
            Weight::Warning,
            ABOUT,
            "snapshots only".into(),
            "set appendonly yes: a restart takes all locks since the last snapshot back, so that two may hold one",
        ),
        (Some(false), Some(false), _) => finding(
            Weight::Warning,
            ABOUT,
            "none".into(),
            "set appendonly yes: a restart frees every lock while its holders go on",
        ),
        _ => finding(Weight::Note, ABOUT, "the server does not tell".into(), "see to it that appendonly is yes"),
    }
}

fn replicas(facts: &Facts) -> Finding {
    const ABOUT: &str = "replicas";
    match (facts.replicas, facts.min_replicas) {
        (Some(0), _) => finding(Weight::Note, ABOUT, "none".into(), "no other server can take over should this one go"),
        (Some(count), Some(0)) => finding(
            Weight::Warning,
            ABOUT,
            format!("{count}, with min-replicas-to-write 0"),
            "set min-replicas-to-write 1 and min-replicas-max-lag 10: a master that is cut off goes on granting locks that its successor does not know",
        ),
        (Some(count), _) => finding(Weight::Fine, ABOUT, count.to_string(), ""),
        (None, _) => finding(Weight::Note, ABOUT, "the server does not tell".into(), ""),
    }
}

fn scripts(facts: &Facts) -> Finding {
    match &facts.scripts_refused {
        Some(line) => finding(
            Weight::Blocker,
            "scripts",
            line.clone(),
            "give the URL's user what docs/operations.md, 'What nodes share', lists: every lock is a script",
        ),
        None => finding(Weight::Fine, "scripts", "allowed".into(), ""),
    }
}

fn hints(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(line) = &facts.tracking_refused {
        all.push(finding(
            Weight::Warning,
            "tracking",
            line.clone(),
            "allow CLIENT TRACKING: without it a lock that is freed around Lockgate is seen up to 500 ms later",
        ));
    }
    if let Some(line) = &facts.subscribe_refused {
        all.push(finding(
            Weight::Warning,
            "pub/sub",
            line.clone(),
            "allow SUBSCRIBE and PUBLISH on lockgate:*: without them nodes do not hear of one another",
        ));
    }
    if all.is_empty() {
        all.push(finding(Weight::Fine, "hints", "tracking and pub/sub are allowed".into(), ""));
    }
    all
}

fn connections(facts: &Facts) -> Option<Finding> {
    if let Some(seconds) = facts.idle_timeout_s.filter(|seconds| *seconds > 0) {
        let says = format!("timeout {seconds}");
        return Some(finding(
            Weight::Warning,
            "connections",
            says,
            "set timeout 0: the server closes idle links of Lockgate, which have to be dialled anew",
        ));
    }
    let (most, now) = (facts.max_clients?, facts.clients?);
    let says = format!("{now} of maxclients {most}");
    Some(if most.saturating_sub(now) < LINKS {
        finding(Weight::Warning, "connections", says, "raise maxclients: Lockgate needs some dozen links")
    } else {
        finding(Weight::Fine, "connections", says, "")
    })
}

fn clock(facts: &Facts) -> Finding {
    match facts.clock_ahead_ms {
        None => finding(Weight::Note, "clock", "the server does not tell the time".into(), ""),
        Some(ahead) if ahead.abs() > 1000 => finding(
            Weight::Warning,
            "clock",
            format!("{} s {} this machine's", ahead.abs() / 1000, if ahead > 0 { "ahead of" } else { "behind" }),
            "run a time service on both: PXAT, EXAT and the times in logs go by different clocks (leases in TTL do not mind)",
        ),
        Some(ahead) => {
            finding(Weight::Fine, "clock", format!("within {} ms of this machine's", ahead.abs().max(1)), "")
        }
    }
}

fn latency(facts: &Facts) -> Option<Finding> {
    let (median, longest) = (facts.round_trips.get(facts.round_trips.len() / 2)?, facts.round_trips.last()?);
    let says = format!("median {:.2} ms, longest of {} {:.2} ms", ms(*median), facts.round_trips.len(), ms(*longest));
    Some(if *median > Duration::from_millis(10) {
        finding(
            Weight::Warning,
            "latency",
            says,
            "bring Lockgate nearer to its upstream: each lock takes a round trip at least",
        )
    } else {
        finding(Weight::Fine, "latency", says, "")
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn endless(facts: &Facts) -> Option<Finding> {
    let (names, count) = &facts.endless;
    let cut = if facts.is_scan_cut { ", in the part of the keys that there was time for" } else { "" };
    if *count == 0 {
        return (!cut.is_empty())
            .then(|| finding(Weight::Note, "expiry", format!("no lock without an expiry{cut}"), ""));
    }
    let says = format!("{count} locks have none{cut}: {}", names.join(", "));
    Some(finding(
        Weight::Warning,
        "expiry",
        says,
        "a crashed holder keeps such a lock for ever: set default_ttl in their rule, and free them with 'lockgate locks force'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: Some((7, 0)),
            maxmemory: Some(0),
            maxmemory_policy: Some("noeviction".into()),
            used_memory: Some(1_000_000),
            has_aof: Some(true),
            fsync: Some("everysec".into()),
            has_rdb: Some(true),
            replicas: Some(2),
            min_replicas: Some(1),
            idle_timeout_s: Some(0),
            clients: Some(3),
            max_clients: Some(10_000),
            clock_ahead_ms: Some(-3),
            round_trips: vec![Duration::from_micros(200); 9],
            ..Facts::default()
        }
    }

    #[track_caller]
    fn is(weight: Weight, about: &str, facts: &Facts) {
        let all = findings(facts);
        let found = all.iter().find(|finding| finding.about == about);
        let found = found.unwrap_or_else(|| panic!("nothing is said about {about}: {all:?}"));
        assert_eq!(found.weight, weight, "{found:?}");
        assert_eq!(found.advice.is_empty(), weight == Weight::Fine, "{found:?}");
    }

    #[test]
    fn a_good_server_is_found_good() {
        for found in findings(&good()) {
            assert_eq!(found.weight, Weight::Fine, "{found:?}");
        }
    }

    #[test]
    fn what_makes_two_hold_one_lock_is_a_blocker() {
        is(Weight::Blocker, "version", &Facts { version: Some((6, 0)), ..good() });
        is(Weight::Blocker, "version", &Facts { is_valkey: true, ..good() });
        is(Weight::Blocker, "role", &Facts { is_replica: true, ..good() });
        is(Weight::Blocker, "role", &Facts { is_cluster: true, ..good() });
        is(
            Weight::Blocker,
            "memory",
            &Facts { maxmemory: Some(1), maxmemory_policy: Some("volatile-lru".into()), ..good() },
        );
        is(Weight::Blocker, "scripts", &Facts { scripts_refused: Some("NOPERM".into()), ..good() });
    }

    #[test]
    fn what_could_be_better_is_a_warning() {
        is(Weight::Note, "memory", &Facts { maxmemory_policy: Some("allkeys-lru".into()), ..good() });
        is(Weight::Warning, "memory", &Facts { maxmemory: Some(1_100_000), ..good() });
        is(Weight::Warning, "persistence", &Facts { has_aof: Some(false), ..good() });
        is(Weight::Warning, "persistence", &Facts { has_aof: Some(false), has_rdb: Some(false), ..good() });
        is(Weight::Warning, "persistence", &Facts { fsync: Some("no".into()), ..good() });
        is(Weight::Warning, "replicas", &Facts { min_replicas: Some(0), ..good() });
        is(Weight::Note, "replicas", &Facts { replicas: Some(0), ..good() });
        is(Weight::Warning, "tracking", &Facts { tracking_refused: Some("ERR".into()), ..good() });
        is(Weight::Warning, "pub/sub", &Facts { subscribe_refused: Some("NOPERM".into()), ..good() });
        is(Weight::Warning, "connections", &Facts { idle_timeout_s: Some(30), ..good() });
        is(Weight::Warning, "connections", &Facts { max_clients: Some(20), ..good() });
        is(Weight::Warning, "clock", &Facts { clock_ahead_ms: Some(-2000), ..good() });
        is(Weight::Warning, "latency", &Facts { round_trips: vec![Duration::from_millis(20)], ..good() });
        is(Weight::Warning, "expiry", &Facts { endless: (vec!["k".into()], 1), ..good() });
    }
}
