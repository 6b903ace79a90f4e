//! `/api/locks/…` and `/api/terraform/…`: one lock, whose key stands percent-encoded in the path.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Shared;
use super::query::Query;
use super::{json as as_json, problem, reply};
use crate::config::units::parse_duration;
use crate::coordinator::LockReply;
use crate::domain::Db;

const LOCKS: &str = "/api/locks/";
const TERRAFORM: &str = "/api/terraform/";
/// A lock that Terraform takes and nobody renews ends after so long.
const TERRAFORM_TTL: Duration = Duration::from_secs(2 * 60 * 60);

/// What may stand behind the `?`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    db: Db,
    owner: Option<String>,
    level: Option<String>,
    wait: Option<String>,
    ttl: Option<String>,
}

fn key_in(path: &str, before: &str, behind: &str) -> Option<Vec<u8>> {
    let key = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!key.is_empty()).then(|| percent_decode_str(key).collect())
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// `GET`, `DELETE` and `POST …/promote`.
pub(super) async fn one(
    State(shared): State<Shared>,
    uri: Uri,
    Query(asked): Query<Asked>,
    method: Method,
) -> Response {
    let desk = &shared.0;
    if method == Method::POST {
        let Some(key) = key_in(uri.path(), LOCKS, "/promote") else {
            return problem(StatusCode::NOT_FOUND, "no such path");
        };
        let (Some(owner), Some(level)) = (&asked.owner, &asked.level) else {
            return problem(StatusCode::BAD_REQUEST, "say who and where to: ?owner=…&level=low|normal|high|critical");
        };
        let promoted = desk.ask(asked.db, words(&[b"LOCK.PROMOTE", &key, owner.as_bytes(), level.as_bytes()])).await;
        return match promoted {
            LockReply::Integer(place) => Json(json!({ "place": place })).into_response(),
            LockReply::Nil => problem(StatusCode::NOT_FOUND, "that owner does not wait for this lock"),
            other => reply(&other),
        };
    }
    let Some(key) = key_in(uri.path(), LOCKS, "") else { return problem(StatusCode::NOT_FOUND, "no such path") };
    if method == Method::DELETE {
        return match desk.ask(asked.db, words(&[b"LOCK.FORCE", &key])).await {
            LockReply::Integer(1) => Json(json!({ "forced": true })).into_response(),
            LockReply::Integer(_) => problem(StatusCode::NOT_FOUND, "nobody holds this lock"),
            other => reply(&other),
        };
    }
    let info = desk.ask(asked.db, words(&[b"LOCK.INFO", &key])).await;
    let queue = desk.ask(asked.db, words(&[b"LOCK.QUEUE", &key])).await;
    match (&info, &queue) {
        (LockReply::Map(_), LockReply::Array(_)) => {
            let mut told = as_json::of(&info);
            if let Value::Object(fields) = &mut told {
                fields.insert("queue".to_owned(), as_json::of(&queue));
            }
            Json(told).into_response()
        }
        (LockReply::Map(_), error) | (error, _) => reply(error),
    }
}

/// Terraform's and OpenTofu's HTTP backend: `LOCK` and `UNLOCK`, or `POST` and `DELETE`, with their lock info in the body. Its `ID` is the
/// owner, the whole of it the meta.
pub(super) async fn terraform(
    State(shared): State<Shared>,
    uri: Uri,
    Query(asked): Query<Asked>,
    method: Method,
    body: Bytes,
) -> Response {
    let Some(key) = key_in(uri.path(), TERRAFORM, "") else { return problem(StatusCode::NOT_FOUND, "no such path") };
    let is_lock = match method.as_str() {
        "LOCK" | "POST" => true,
        "UNLOCK" | "DELETE" => false,
        _ => return problem(StatusCode::METHOD_NOT_ALLOWED, "LOCK (or POST) and UNLOCK (or DELETE) are known here"),
    };
    let info: Option<Value> = serde_json::from_slice(&body).ok();
    let id = info.as_ref().and_then(|info| info.get("ID")?.as_str());
    if is_lock { lock(&shared, &key, &asked, id, &body).await } else { unlock(&shared, &key, &asked, id).await }
}

async fn lock(shared: &Shared, key: &[u8], asked: &Asked, id: Option<&str>, body: &[u8]) -> Response {
    let Some(id) = id else { return problem(StatusCode::BAD_REQUEST, "the body is no lock info with an ID") };
    let times = (in_ms(asked.ttl.as_deref(), TERRAFORM_TTL), in_ms(asked.wait.as_deref(), Duration::ZERO));
    let (Some(ttl), Some(wait)) = times else {
        return problem(StatusCode::BAD_REQUEST, "wait and ttl are times such as 60s");
    };
    let desk = &shared.0;
    let acquire =
        words(&[b"LOCK.ACQUIRE", key, id.as_bytes(), b"TTL", ttl.as_bytes(), b"WAIT", wait.as_bytes(), b"META", body]);
    match desk.ask(asked.db, acquire).await {
        LockReply::Integer(_) => StatusCode::OK.into_response(),
        LockReply::Nil => match desk.ask(asked.db, words(&[b"LOCK.INFO", key])).await {
            LockReply::Map(fields) => (StatusCode::LOCKED, holder(&fields)).into_response(),
            other => reply(&other),
        },
        other => reply(&other),
    }
}

/// The lock info of whoever holds the lock, as Terraform wrote it; another holder is put into its form.
fn holder(fields: &[(&'static str, LockReply)]) -> String {
    let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
    if let Some(LockReply::Bulk(meta)) = field("meta")
        && let Ok(info) = serde_json::from_slice::<Value>(meta)
        && info.get("ID").is_some()
    {
        return info.to_string();
    }
    let owner = field("owner").map_or(Value::Null, as_json::of);
    json!({ "ID": owner, "Info": "held by another client of Lockgate", "Who": owner }).to_string()
}

async fn unlock(shared: &Shared, key: &[u8], asked: &Asked, id: Option<&str>) -> Response {
    let desk = &shared.0;
    // `terraform force-unlock` sends no body.
    let Some(id) = id else {
        return match desk.ask(asked.db, words(&[b"LOCK.FORCE", key])).await {
            LockReply::Integer(_) => StatusCode::OK.into_response(),
            other => reply(&other),
        };
    };
    match desk.ask(asked.db, words(&[b"LOCK.RELEASE", key, id.as_bytes()])).await {
        // Nobody holds it, so that it is free, as was wished.
        LockReply::Integer(1 | -1) => StatusCode::OK.into_response(),
        LockReply::Integer(_) => match desk.ask(asked.db, words(&[b"LOCK.INFO", key])).await {
            LockReply::Map(fields) => (StatusCode::CONFLICT, holder(&fields)).into_response(),
            other => reply(&other),
        },
        other => reply(&other),
    }
}

fn in_ms(text: Option<&str>, default: Duration) -> Option<String> {
    let duration = match text {
        Some(text) => parse_duration(text)?,
        None => default,
    };
    Some(duration.as_millis().to_string())
}
