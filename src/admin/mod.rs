//! The admin HTTP server: health for probes, metrics for Prometheus, locks and queues as JSON, events as they happen, and Terraform's
//! locking. On a thread of its own, with links of its own, so that nothing here holds up a client.

mod acts;
mod desk;
mod door;
mod events;
mod figures;
mod health;
mod json;
mod locks;
mod metrics;
mod page;
mod query;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router as Routes};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use self::desk::{Desk, Job, Shared};
use self::door::Door;
use self::query::Query;
use crate::coordinator::LockReply;
use crate::domain::Db;
use crate::proxy::Handle;
use crate::upstream::url::Address;

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
#[error("the admin server cannot listen on {address}: {error}; set 'admin' to a free address, or to \"off\"")]
pub struct AdminError {
    address: String,
    error: io::Error,
}

/// The running admin server; it ends when this is dropped.
pub struct Admin {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Admin {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens on `address`, and serves what `handle` shows.
pub fn start(
    address: &Address,
    token: Option<String>,
    may_benchmark: bool,
    handle: Handle,
) -> Result<Admin, AdminError> {
    let failed = |error: io::Error| AdminError { address: address.to_string(), error };
    let Address::Tcp { host, port } = address else {
        return Err(failed(io::Error::other("it takes host:port only")));
    };
    let place = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.next();
    let place = place.ok_or_else(|| failed(io::Error::other("the name has no address")))?;
    let listener = std::net::TcpListener::bind(place).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let door = Door { is_loopback: address.ip().is_loopback(), token };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        if let Err(error) = run(listener, door, may_benchmark, handle, stopped) {
            tracing::error!(%error, "the admin server ended");
        }
    });
    Ok(Admin { address, _stop: stop, _thread: thread.map_err(failed)? })
}

fn run(
    listener: std::net::TcpListener,
    door: Door,
    may_benchmark: bool,
    handle: Handle,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
    let router_of = handle.clone();
    let routes = routes(Arc::new((Desk { handle, jobs, may_benchmark }, door)));
    LocalSet::new().block_on(&runtime, async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let router = router_of.router();
        tokio::task::spawn_local(async move {
            while let Some(job) = todo.recv().await {
                tokio::task::spawn_local(job(router.clone()));
            }
        });
        tokio::select! {
            served = axum::serve(listener, routes) => served,
            _ = stopped => Ok(()),
        }
    })
}

fn routes(shared: Shared) -> Routes {
    Routes::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(figures::scrape))
        .route("/api/health", get(health::health))
        .route("/api/health/detailed", get(health::detailed))
        .route("/api/latency", get(figures::latency))
        .route("/api/stats", get(async |shared: State<Shared>| ask(&shared, 0, &[b"LOCK.STATS"]).await))
        .route("/api/graph", get(async |shared: State<Shared>| ask(&shared, 0, &[b"LOCK.GRAPH"]).await))
        .route("/api/deadlocks", get(async |shared: State<Shared>| ask(&shared, 0, &[b"LOCK.DEADLOCKS"]).await))
        .route("/api/cluster/nodes", get(async |shared: State<Shared>| ask(&shared, 0, &[b"LOCK.NODES"]).await))
        .route("/api/cluster/status", get(acts::cluster))
        .route("/api/cluster/leader/election", post(acts::election))
        .route("/api/connections/warmup", post(acts::warmup))
        .route("/api/benchmark", post(acts::benchmark))
        .route("/api/cleanup", post(async |shared: State<Shared>| ask(&shared, 0, &[b"LOCK.CLEANUP"]).await))
        .route("/api/locks", get(list))
        .route("/api/locks/{*key}", get(locks::one).delete(locks::one).post(locks::one))
        .route("/api/queue-status", get(figures::queues))
        .route("/api/pool-stats", get(figures::pool))
        .route("/api/events", get(events::stream))
        .route("/api/terraform/{*key}", any(locks::terraform))
        .merge(page::routes())
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path; docs/http-api.md lists them"))
        .method_not_allowed_fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method"))
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let Some((status, says)) = shared.1.refuses(request.method(), path, request.headers()) else {
        return next.run(request).await;
    };
    let mut refusal = problem(status, says);
    // A browser asks for the token then, as the password of any user, and brings it with all that the page asks for.
    if status == StatusCode::UNAUTHORIZED && page::is_of(path) {
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Lockgate\""));
    }
    refusal
}

/// An error, as every path tells it.
fn problem(status: StatusCode, says: &str) -> Response {
    (status, Json(json!({ "error": says }))).into_response()
}

/// An answer of the lock engine; its errors with the status that fits.
fn reply(reply: &LockReply) -> Response {
    let LockReply::Error(line) = reply else { return Json(json::of(reply)).into_response() };
    let status = match line.split(' ').next().unwrap_or_default() {
        "ERR" | "WRONGTYPE" => StatusCode::BAD_REQUEST,
        "QUEUEFULL" | "LIMIT" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, line)
}

async fn ask(shared: &Shared, db: Db, words: &[&[u8]]) -> Response {
    reply(&shared.0.ask(db, words.iter().map(|word| word.to_vec()).collect()).await)
}

/// What `/api/locks` may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    db: Db,
    cursor: Option<String>,
    #[serde(rename = "match")]
    glob: Option<String>,
    owner: Option<String>,
    count: Option<u64>,
}

async fn list(State(shared): State<Shared>, Query(asked): Query<Listed>) -> Response {
    let Listed { db, cursor, glob, owner, count } = asked;
    let mut words = vec![b"LOCK.LIST".to_vec(), cursor.unwrap_or_else(|| "0".to_owned()).into_bytes()];
    let count = count.map(|count| count.to_string());
    for (option, value) in [("MATCH", glob), ("OWNER", owner), ("COUNT", count)] {
        words.extend(value.into_iter().flat_map(|value| [option.into(), value.into_bytes()]));
    }
    match shared.0.ask(db, words).await {
        LockReply::Array(parts) => match parts.as_slice() {
            [cursor, locks] => Json(json!({ "cursor": json::of(cursor), "locks": json::of(locks) })).into_response(),
            _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "the list makes no sense"),
        },
        other => reply(&other),
    }
}
