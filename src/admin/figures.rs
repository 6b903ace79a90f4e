//! What is counted and measured: `/metrics`, `/api/latency`, `/api/queue-status`, `/api/pool-stats`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::desk::Shared;
use super::query::Query;
use super::{json as as_json, metrics, problem};
use crate::coordinator::{Buckets, LockReply};
use crate::events::shown;

/// Queues that are listed at most.
const QUEUES_MAX: usize = 10_000;
/// Queues whose next waiters are told with them at most, and how many of each.
const SHOWN_MAX: usize = 20;
const NEXT_MAX: &[u8] = b"6";

/// Everything for Prometheus.
pub(super) async fn scrape(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
    let handle = &shared.0.handle;
    let scrape = metrics::Scrape {
        figures: handle.coordinator().figures(),
        clients: handle.clients() as u64,
        own_links: handle.own_links() as u64,
        own_links_taken: handle.own_links_taken(),
        commands: handle.commands(),
        is_ready: shared.0.is_ready().await,
    };
    match scrape.text() {
        Ok(text) if wants_open(&headers) => ([(header::CONTENT_TYPE, OPEN)], text).into_response(),
        Ok(text) => ([(header::CONTENT_TYPE, PLAIN)], metrics::plain(&text)).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
    }
}

/// As Prometheus does.
fn wants_open(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::ACCEPT).and_then(|wanted| wanted.to_str().ok());
    wanted.is_some_and(|wanted| wanted.contains("application/openmetrics-text"))
}

/// The measured times of this node in buckets.
pub(super) async fn latency(State(shared): State<Shared>) -> Response {
    let figures = shared.0.handle.coordinator().figures();
    Json(json!({
        "acquisition": told(&figures.acquisition),
        "wait": told(&figures.wait),
        "hold": told(&figures.hold),
        "hand_over": told(&figures.hand_over),
    }))
    .into_response()
}

fn told(Buckets { sum_seconds, count, buckets }: &Buckets) -> Value {
    let bounded = |up_to: f64| if up_to == f64::MAX { Value::Null } else { json!(up_to) };
    let buckets: Vec<Value> =
        buckets.iter().map(|(up_to, count)| json!({ "up_to": bounded(*up_to), "count": count })).collect();
    json!({ "count": count, "sum_seconds": sum_seconds, "buckets": buckets })
}

/// What `/api/queue-status` may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shown {
    /// For so many of the longest queues, who is next.
    show: usize,
}

/// The queues of all nodes.
pub(super) async fn queues(State(shared): State<Shared>, Query(asked): Query<Shown>) -> Response {
    let desk = &shared.0;
    let found = desk.handle.coordinator().queues(QUEUES_MAX).await;
    let mut told = Vec::with_capacity(found.queues.len());
    for (number, (key, waiting)) in found.queues.iter().enumerate() {
        let mut queue = Map::new();
        queue.insert("db".to_owned(), json!(key.db));
        queue.insert("key".to_owned(), shown(&key.name));
        queue.insert("waiters".to_owned(), json!(waiting));
        if number < asked.show.min(SHOWN_MAX) {
            let words = [b"LOCK.QUEUE", &*key.name, b"COUNT", NEXT_MAX].map(<[u8]>::to_vec).to_vec();
            // One that cannot be looked at now is shown without.
            if let waiters @ LockReply::Array(_) = desk.ask(key.db, words).await {
                queue.insert("next".to_owned(), as_json::of(&waiters));
            }
        }
        told.push(Value::Object(queue));
    }
    let silent: Vec<&str> = found.silent.iter().map(|node| &**node).collect();
    Json(json!({ "queue_depth": found.depth, "queues": told, "silent_nodes": silent })).into_response()
}

/// Clients, and the links that serve one of them alone.
pub(super) async fn pool(State(shared): State<Shared>) -> Response {
    Json(pool_of(&shared)).into_response()
}

pub(super) fn pool_of(shared: &Shared) -> Value {
    let handle = &shared.0.handle;
    let taken: Map<_, _> =
        handle.own_links_taken().into_iter().map(|(why, count)| (why.to_owned(), json!(count))).collect();
    json!({ "clients": handle.clients(), "own_links": handle.own_links(), "own_links_taken": taken })
}
