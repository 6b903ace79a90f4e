//! From what was seen to a score with its reasons. Pure.

use super::{Details, FAILURES_COUNT_MS, Limits, Pool, Seen};
use crate::domain::Moment;

/// In a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Nothing, or little, to complain of.
    Ok,
    /// It works, and somebody should look.
    Degraded,
    /// Nobody is granted a lock.
    Down,
}

impl Status {
    /// As answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Down => "down",
        }
    }
}

/// Something to complain of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// In a word, for machines.
    pub code: &'static str,
    /// How many points it takes.
    pub costs: u8,
    /// What is wrong, and where to look.
    pub says: String,
}

/// What all of it comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// In a word.
    pub status: Status,
    /// From 0 to 100.
    pub score: u8,
    /// The heaviest first.
    pub reasons: Vec<Reason>,
    /// The last round trip, in ms.
    pub round_trip_ms: Option<f64>,
    /// What the upstream told of itself last, and how long ago, in ms.
    pub details: Option<(u64, Details)>,
    /// Slow commands between the last two looks.
    pub slow_commands: Option<u64>,
}

/// Below this somebody should look.
const FINE: u8 = 80;

/// The score of what was seen; `misfit` is why the upstream is of no use to locks, if it is of none.
pub fn judge(seen: &Seen, misfit: Option<&str>, pool: Pool, limits: &Limits, now: Moment) -> Report {
    let mut reasons = Vec::new();
    let mut because = |code, costs, says: String| reasons.push(Reason { code, costs, says });
    match (&seen.away, misfit) {
        (_, Some(misfit)) => because("misfit", 100, misfit.to_owned()),
        (Some(why), None) => because("away", 100, format!("the upstream cannot be reached: {why}")),
        (None, None) if !seen.was_met => because("away", 100, "the upstream was not reached yet".to_owned()),
        (None, None) => {}
    }
    if let Some((costs, says)) = of_round_trips(seen, limits, now) {
        because("slow_answers", costs, says);
    }
    let failures = seen.failures.iter().filter(|at| now.since_us(**at) < FAILURES_COUNT_MS * 1000).count();
    if failures > 0 {
        let costs = u8::try_from(failures * 5).unwrap_or(u8::MAX).min(30);
        because("failures", costs, format!("the link to the upstream failed {failures} times within a minute"));
    }
    if let Some((_, details)) = &seen.details {
        of_details(details, seen.replicas_most, limits, &mut because);
    }
    if let Some(slow) = seen.slow_commands.filter(|slow| *slow > limits.max_slow_queries) {
        because("slow_commands", 10, format!("{slow} slow commands since the look before (SLOWLOG GET tells which)"));
    }
    if pool.most > 0 && pool.used * 10 >= pool.most * 9 {
        because(
            "pool",
            15,
            format!("{} of {} links of their own are taken; raise links.own_max", pool.used, pool.most),
        );
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.costs));
    let lost: u32 = reasons.iter().map(|reason| u32::from(reason.costs)).sum();
    let score = 100 - u8::try_from(lost.min(100)).unwrap_or(100);
    let is_down = reasons.iter().any(|reason| reason.costs == 100);
    let status = if is_down {
        Status::Down
    } else if score < FINE {
        Status::Degraded
    } else {
        Status::Ok
    };
    Report {
        status,
        score,
        reasons,
        round_trip_ms: seen.trips_us.back().map(|us| *us as f64 / 1000.0),
        details: seen.details.clone().map(|(at, details)| (now.since_us(at) / 1000, details)),
        slow_commands: seen.slow_commands,
    }
}

/// The middle one of the last three round trips: one hiccup is none. A question that waits for its answer counts as long as it has waited.
fn of_round_trips(seen: &Seen, limits: &Limits, now: Moment) -> Option<(u8, String)> {
    let waits_us = seen.asked_at.map(|at| now.since_us(at));
    let limit_us = limits.timeout_threshold_ms.saturating_mul(1000);
    if let Some(us) = waits_us.filter(|us| *us > limit_us) {
        return Some((40, format!("the upstream owes an answer for {} ms", us / 1000)));
    }
    let mut last: Vec<u64> = seen.trips_us.iter().rev().take(3).copied().collect();
    last.sort_unstable();
    let middle = *last.get(last.len() / 2)?;
    let (ms, threshold) = (middle as f64 / 1000.0, limits.timeout_threshold_ms);
    match middle {
        us if us > limit_us => {
            Some((40, format!("round trips take {ms:.0} ms, more than health.timeout_threshold = {threshold} ms")))
        }
        us if us > limit_us / 2 => {
            Some((15, format!("round trips take {ms:.0} ms; health.timeout_threshold is {threshold} ms")))
        }
        _ => None,
    }
}

fn of_details(
    details: &Details,
    replicas_most: u64,
    limits: &Limits,
    because: &mut impl FnMut(&'static str, u8, String),
) {
    if details.loading {
        because("loading", 50, "the upstream is still reading its data".to_owned());
    }
    if let Some(share) = details.memory_share() {
        let percent = share * 100.0;
        match percent {
            full if full >= 95.0 => {
                because("memory", 40, format!("{percent:.0} % of maxmemory is in use: writes are about to fail"))
            }
            high if high >= f64::from(limits.memory_threshold) => {
                because("memory", 20, format!("{percent:.0} % of maxmemory is in use"));
            }
            _ => {}
        }
        if !details.policy.is_empty() && details.policy != "noeviction" {
            because(
                "evicts",
                10,
                format!("maxmemory-policy is {}: held locks may be evicted; set noeviction", details.policy),
            );
        }
    }
    if details.replicas < replicas_most {
        because("replicas", 15, format!("{} of {replicas_most} replicas are connected", details.replicas));
    }
    if !details.append_ok {
        because("append_only_file", 25, "the upstream cannot write its append-only file: is its disk full?".to_owned());
    }
    if !details.snapshot_ok {
        because("snapshot", 15, "the upstream's last snapshot failed (rdb_last_bgsave_status)".to_owned());
    }
    if details.clients_max > 0 && details.clients * 10 >= details.clients_max * 9 {
        because(
            "clients",
            15,
            format!("{} of {} clients are connected upstream (maxclients)", details.clients, details.clients_max),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    fn met() -> Seen {
        Seen { was_met: true, trips_us: [300, 400, 350].into(), ..Seen::default() }
    }

    fn fine() -> Details {
        Details {
            snapshot_ok: true,
            append_ok: true,
            policy: "noeviction".into(),
            memory_max: 1000,
            ..Details::default()
        }
    }

    fn told(seen: &Seen) -> (u8, &'static str, Vec<&'static str>) {
        let report = judge(seen, None, Pool::default(), &Limits::default(), at(100_000));
        (report.score, report.status.name(), report.reasons.iter().map(|reason| reason.code).collect())
    }

    #[test]
    fn an_upstream_that_answers_is_fine_and_one_that_is_away_is_worth_nothing() {
        assert_eq!(told(&met()), (100, "ok", vec![]));
        assert_eq!(told(&Seen::default()), (0, "down", vec!["away"]));
        assert_eq!(told(&Seen { away: Some("connection refused".into()), ..met() }), (0, "down", vec!["away"]));
        let misfit = judge(&met(), Some("it is a replica"), Pool::default(), &Limits::default(), at(0));
        assert_eq!((misfit.score, misfit.status, &*misfit.reasons[0].says), (0, Status::Down, "it is a replica"));
    }

    #[test]
    fn slow_answers_count_unless_it_was_a_single_one() {
        assert_eq!(told(&Seen { trips_us: [300, 5_000_000, 300].into(), ..met() }).0, 100);
        assert_eq!(told(&Seen { trips_us: [300, 600_000, 600_000].into(), ..met() }), (85, "ok", vec!["slow_answers"]));
        assert_eq!(
            told(&Seen { trips_us: [2_000_000, 2_000_000].into(), ..met() }),
            (60, "degraded", vec!["slow_answers"])
        );
        assert_eq!(told(&Seen { asked_at: Some(at(98_500)), ..met() }), (60, "degraded", vec!["slow_answers"]));
        assert_eq!(told(&Seen { asked_at: Some(at(99_500)), ..met() }).0, 100, "it may still come in time");
    }

    #[test]
    fn failures_count_for_a_minute() {
        let failed = |times: &[u64]| told(&Seen { failures: times.iter().map(|ms| at(*ms)).collect(), ..met() }).0;
        assert_eq!(failed(&[30_000]), 100);
        assert_eq!(failed(&[30_000, 50_000]), 95);
        assert_eq!(failed(&[99_000; 20]), 70);
    }

    #[test]
    fn each_trouble_that_the_upstream_tells_of_has_its_reason() {
        let with = |details: Details| told(&Seen { details: Some((at(0), details)), replicas_most: 2, ..met() });
        let fine = || Details { replicas: 2, ..fine() };
        assert_eq!(with(fine()), (100, "ok", vec![]));
        for (details, score, code) in [
            (Details { memory_used: 790, ..fine() }, 100, None),
            (Details { memory_used: 800, ..fine() }, 80, Some("memory")),
            (Details { memory_used: 990, ..fine() }, 60, Some("memory")),
            (Details { memory_used: 990, memory_max: 0, ..fine() }, 100, None),
            (Details { policy: "allkeys-lru".into(), ..fine() }, 90, Some("evicts")),
            (Details { policy: "allkeys-lru".into(), memory_max: 0, ..fine() }, 100, None),
            (Details { replicas: 1, ..fine() }, 85, Some("replicas")),
            (Details { append_ok: false, ..fine() }, 75, Some("append_only_file")),
            (Details { snapshot_ok: false, ..fine() }, 85, Some("snapshot")),
            (Details { loading: true, ..fine() }, 50, Some("loading")),
            (Details { clients: 90, clients_max: 100, ..fine() }, 85, Some("clients")),
        ] {
            let (is, _, codes) = with(details.clone());
            assert_eq!((is, codes), (score, code.into_iter().collect()), "{details:?}");
        }
    }

    #[test]
    fn the_heaviest_reason_comes_first_and_the_score_ends_at_nothing() {
        let details = Details { memory_used: 990, snapshot_ok: false, loading: true, append_ok: false, ..fine() };
        let seen = Seen { details: Some((at(0), details)), slow_commands: Some(11), ..met() };
        let report = judge(&seen, None, Pool { used: 9, most: 10 }, &Limits::default(), at(1));
        let costs: Vec<u8> = report.reasons.iter().map(|reason| reason.costs).collect();
        assert_eq!((costs, report.score, report.status), (vec![50, 40, 25, 15, 15, 10], 0, Status::Degraded));
    }
}
