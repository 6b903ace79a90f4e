//! What operators do by hand: elect another leader, dial links, measure. And what is told of the nodes as a whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Shared;
use super::query::Query;
use super::{json as as_json, problem, reply};
use crate::config::units::parse_duration;
use crate::coordinator::LockReply;

/// The lock that is taken and let go of by a measurement.
const BENCHMARK_KEY: &str = "lockgate-benchmark";
/// The longest measurement.
const BENCHMARK_MAX: Duration = Duration::from_secs(10);
/// Longest time that is told apart, in µs.
const LONGEST_US: u64 = 60_000_000;

/// The nodes as a whole.
pub(super) async fn cluster(State(shared): State<Shared>) -> Response {
    let desk = &shared.0;
    let nodes = match desk.ask(0, vec![b"LOCK.NODES".to_vec()]).await {
        nodes @ LockReply::Array(_) => as_json::of(&nodes),
        other => return reply(&other),
    };
    let coordinator = desk.handle.coordinator();
    let report = coordinator.health_report();
    let leader = nodes.as_array().into_iter().flatten().find(|node| node["is_leader"] == 1);
    let sum = |field: &str| nodes.as_array().into_iter().flatten().filter_map(|node| node[field].as_u64()).sum::<u64>();
    Json(json!({
        "node": coordinator.node(),
        "nodes": nodes.as_array().map_or(0, Vec::len),
        "leader": leader.map_or(Value::Null, |node| node["id"].clone()),
        "waiters": sum("waiters"),
        "renewed_locks": sum("locks"),
        "mode": "on",
        "status": report.status.name(),
        "health_score": report.score,
    }))
    .into_response()
}

/// Another node is to lead, where there is one.
pub(super) async fn election(State(shared): State<Shared>) -> Response {
    let (before, leader) = shared.0.handle.coordinator().elects().await;
    Json(json!({ "before": before.as_deref(), "leader": leader.as_deref() })).into_response()
}

/// Shared links are dialled now.
pub(super) async fn warmup(State(shared): State<Shared>) -> Response {
    Json(json!({ "dialled": shared.0.handle.warm_up().await })).into_response()
}

/// How long a measurement is to take.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Measured {
    duration: Option<String>,
}

/// One measurement at a time.
struct Running;

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

impl Running {
    fn begins() -> Option<Running> {
        (!IS_RUNNING.swap(true, Ordering::SeqCst)).then_some(Running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        IS_RUNNING.store(false, Ordering::SeqCst);
    }
}

/// Takes one lock and lets go of it, again and again, and tells how long that took.
pub(super) async fn benchmark(State(shared): State<Shared>, Query(asked): Query<Measured>) -> Response {
    let desk = &shared.0;
    if !desk.may_benchmark {
        return problem(StatusCode::FORBIDDEN, "the configuration does not allow it; set admin_benchmark = true");
    }
    let duration = asked.duration.as_deref().map_or(Some(Duration::from_secs(1)), parse_duration);
    let Some(duration) = duration.filter(|duration| !duration.is_zero() && *duration <= BENCHMARK_MAX) else {
        return problem(StatusCode::BAD_REQUEST, "duration is a time to 10s, such as 2s");
    };
    let Some(_running) = Running::begins() else {
        return problem(StatusCode::CONFLICT, "a measurement is under way");
    };
    // Bounds and digits are constants that fit one another.
    let [mut acquire, mut release] =
        [(); 2].map(|()| Histogram::<u64>::new_with_bounds(1, LONGEST_US, 2).expect("bounds that fit"));
    let owner = format!("benchmark of {}", desk.handle.coordinator().node());
    let begun = Instant::now();
    while begun.elapsed() < duration {
        for (words, times) in [
            (&["LOCK.ACQUIRE", BENCHMARK_KEY, &owner, "TTL", "10000"][..], &mut acquire),
            (&["LOCK.RELEASE", BENCHMARK_KEY, &owner], &mut release),
        ] {
            let sent = Instant::now();
            match desk.ask(0, words.iter().map(|word| word.as_bytes().to_vec()).collect()).await {
                LockReply::Integer(number) if number > 0 => {}
                LockReply::Error(line) => return reply(&LockReply::Error(line)),
                _ => return problem(StatusCode::CONFLICT, "another node measures with the same lock"),
            }
            times.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(LONGEST_US).max(1));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Json(json!({
        "seconds": seconds,
        "pairs": acquire.len(),
        "pairs_per_second": acquire.len() as f64 / seconds,
        "acquire_ms": spread(&acquire),
        "release_ms": spread(&release),
    }))
    .into_response()
}

fn spread(times: &Histogram<u64>) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |quantile: f64| ms(times.value_at_quantile(quantile));
    json!({ "average": times.mean() / 1000.0, "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": ms(times.max()) })
}
