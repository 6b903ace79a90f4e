//! Events as JSON objects.

use base64::Engine;
use serde_json::{Map, Value, json};

use super::{Happened, What};

/// Bytes as text, or what is no UTF-8 as `{"base64": …}`.
pub fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// What happened on `node`, in one line; `None` for what is no event.
pub(super) fn of(happened: &Happened<'_>, node: &str) -> Option<String> {
    Some(Value::Object(object_of(happened, happened.what.name()?, node)).to_string())
}

/// The same for the audit, with who brought it about; `None` for what it does not hold.
pub(super) fn audited(happened: &Happened<'_>, node: &str, address: Option<&str>) -> Option<String> {
    let mut object = object_of(happened, happened.what.audited_name()?, node);
    object.insert("user".into(), happened.by.map_or(Value::Null, |by| shown(&by.user)));
    object.insert("client".into(), json!(happened.by.map(|by| by.session)));
    object.insert("addr".into(), json!(address));
    Some(Value::Object(object).to_string())
}

fn object_of(happened: &Happened<'_>, name: &str, node: &str) -> Map<String, Value> {
    let Happened { what, key, owner, fence, at_ms, .. } = happened;
    let mut object = Map::new();
    object.insert("event".into(), json!(name));
    object.insert("db".into(), json!(key.db));
    object.insert("key".into(), shown(&key.name));
    object.insert("owner".into(), if owner.is_empty() { Value::Null } else { shown(owner) });
    object.insert("fence".into(), json!(fence.map(|fence| fence.0)));
    object.insert("node".into(), json!(node));
    object.insert("at_ms".into(), json!(at_ms));
    let mut more = |name: &str, value: Value| object.insert(name.into(), value);
    let ms = |us: &Option<u64>| json!(us.map(|us| us / 1000));
    match what {
        What::Queued { level } => drop(more("priority", json!(level.name()))),
        What::Acquired { waited_us, lease_ms } => {
            more("waited_ms", ms(waited_us));
            more("ttl_ms", json!(lease_ms));
        }
        What::Ended { waited_us, .. } => drop(more("waited_ms", ms(waited_us))),
        What::Released { held_us } | What::Forced { held_us } => drop(more("held_ms", ms(held_us))),
        What::Transferred { to, held_us } => {
            more("to", shown(to));
            more("held_ms", ms(held_us));
        }
        What::Expired => {}
        What::Denied { why } => drop(more("why", json!(why))),
        What::Lost { reason } => drop(more("reason", json!(reason))),
        What::Deadlock { cycle, policy } => {
            more("cycle", json!(cycle));
            more("policy", json!(policy));
        }
    }
    object
}

/// A node that came or went, as this one sees it.
pub(super) fn of_node(event: &str, peer: &str, node: &str, at_ms: u64) -> String {
    json!({
        "event": event, "db": null, "key": null, "owner": null, "fence": null, "node": node, "at_ms": at_ms, "peer": peer,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fence, LockKey};

    #[test]
    fn an_event_tells_what_when_to_which_lock_and_where() {
        let key = LockKey::new(3, b"orders:1");
        let what = What::Acquired { waited_us: Some(1500), lease_ms: Some(30_000) };
        let happened = Happened { what, key: &key, owner: b"ann", fence: Some(Fence(7)), at_ms: 5, by: None };
        let told: Value = serde_json::from_str(&of(&happened, "n1").expect("an event")).expect("JSON");
        assert_eq!(
            told,
            json!({"event": "acquired", "db": 3, "key": "orders:1", "owner": "ann", "fence": 7, "node": "n1", "at_ms": 5,
                   "waited_ms": 1, "ttl_ms": 30000})
        );
        let odd = LockKey::new(0, b"\xff\n");
        let what = What::Released { held_us: None };
        let happened = Happened { what, key: &odd, owner: b"\"", fence: None, at_ms: 5, by: None };
        let line = of(&happened, "n1").expect("an event");
        assert!(!line.contains('\n'), "one line: {line}");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&told["key"], &told["owner"]), (&json!({"base64": "/wo="}), &json!("\"")));
        assert!(told["fence"].is_null() && told["held_ms"].is_null());
    }

    #[test]
    fn what_is_only_counted_is_no_event() {
        let key = LockKey::new(0, b"k");
        let ended = |why, waited_us| {
            let what = What::Ended { why, waited_us };
            of(&Happened { what, key: &key, owner: b"o", fence: None, at_ms: 0, by: None }, "n").is_some()
        };
        use super::super::Without::{Cancelled, Failed, Refused, TimedOut};
        assert!(ended(TimedOut, Some(1)) && ended(Cancelled, Some(1)));
        assert!(!ended(Refused, None) && !ended(Failed, Some(1)) && !ended(Cancelled, None));
    }
}
