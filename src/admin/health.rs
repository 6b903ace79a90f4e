//! `/readyz`, `/api/health`, `/api/health/detailed`: how the upstream is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::desk::Shared;
use super::figures::pool_of;
use crate::health::webhook::reason;
use crate::health::{Details, Report, Status};

/// Whether Lockgate can grant locks.
pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    let desk = &shared.0;
    let not_ready = |says: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{says}\n")).into_response();
    if desk.handle.is_draining() {
        return not_ready("shutting down");
    }
    if let Some(misfit) = desk.handle.coordinator().misfit() {
        return not_ready(&misfit);
    }
    if desk.is_ready().await { "ready\n".into_response() } else { not_ready("the upstream does not answer") }
}

/// Score and reasons; 503 where nobody is granted a lock.
pub(super) async fn health(State(shared): State<Shared>) -> Response {
    let report = shared.0.handle.coordinator().fresh_health_report().await;
    answer(&report, told(&shared, &report))
}

/// The same, with all that is known.
pub(super) async fn detailed(State(shared): State<Shared>) -> Response {
    let coordinator = shared.0.handle.coordinator();
    let report = coordinator.fresh_health_report().await;
    let mut told = told(&shared, &report);
    let figures = coordinator.figures();
    told.insert("upstream".to_owned(), upstream(&report));
    told.insert("pool".to_owned(), pool_of(&shared));
    told.insert("locks".to_owned(), json!({ "active": figures.active_locks, "queue_depth": figures.queue_depth }));
    told.insert("nodes".to_owned(), json!(figures.nodes));
    answer(&report, told)
}

fn answer(report: &Report, told: Map<String, Value>) -> Response {
    let status = if report.status == Status::Down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(Value::Object(told))).into_response()
}

fn told(shared: &Shared, report: &Report) -> Map<String, Value> {
    let mut told = Map::new();
    let mut tell = |name: &str, value: Value| told.insert(name.to_owned(), value);
    tell("status", json!(report.status.name()));
    tell("health_score", json!(report.score));
    tell("reasons", report.reasons.iter().map(reason).collect());
    tell("mode", json!("on"));
    tell("node", json!(shared.0.handle.coordinator().node()));
    tell("version", json!(env!("CARGO_PKG_VERSION")));
    told
}

fn upstream(report: &Report) -> Value {
    let details = report.details.as_ref();
    let tell = |read: fn(&Details) -> Value| details.map_or(Value::Null, |(_, details)| read(details));
    json!({
        "round_trip_ms": report.round_trip_ms,
        "told_ago_ms": details.map(|(ago_ms, _)| ago_ms),
        "server": tell(|details| json!(details.server)),
        "memory": tell(|details| json!({
            "used": details.memory_used, "max": details.memory_max, "share": details.memory_share(), "policy": details.policy,
        })),
        "replication": tell(|details| json!({ "role": details.role, "replicas": details.replicas })),
        "persistence": tell(|details| json!({
            "append_only_file": details.append_only_file(), "snapshot": details.snapshot(),
            "unsaved_changes": details.unsaved_changes,
        })),
        "clients": tell(|details| json!({ "connected": details.clients, "max": details.clients_max })),
        "slow_commands": report.slow_commands,
    })
}
