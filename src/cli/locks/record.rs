//! One lock as a line of JSON: what `locks export` writes and `locks import` reads.

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::domain::{Fence, Level};
use crate::events::shown;
use crate::store::value::Fields;

/// A lock that stands upstream, or is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub key: Vec<u8>,
    pub owner: Vec<u8>,
    /// What is left of its lease; `None` for a lock without expiry.
    pub ttl_ms: Option<u64>,
    pub kind: Kind,
}

/// How it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// By `SET NX`: the value is the owner.
    Plain,
    /// By LOCK.*. A fence of `None` is given on import.
    Long { fence: Option<Fence>, level: Level, acquired_at_ms: Option<u64>, meta: Vec<u8> },
}

impl Record {
    /// What `value` says. A claim is nobody's lock yet.
    pub(super) fn of_value(key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Option<Record> {
        let Some(fields) = Fields::read(value) else {
            return Some(Record { key: key.into(), owner: value.into(), ttl_ms, kind: Kind::Plain });
        };
        let Fields { owner, fence, level, acquired_at_ms, meta, is_claim, .. } = fields;
        let kind = Kind::Long { fence: Some(fence), level, acquired_at_ms: Some(acquired_at_ms), meta: meta.into() };
        (!is_claim).then(|| Record { key: key.into(), owner: owner.into(), ttl_ms, kind })
    }

    pub(super) fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("key".into(), shown(&self.key));
        object.insert("owner".into(), shown(&self.owner));
        object.insert("ttl_ms".into(), json!(self.ttl_ms));
        let (fence, level, at, meta) = match &self.kind {
            Kind::Plain => (Value::Null, Value::Null, Value::Null, Value::Null),
            Kind::Long { fence, level, acquired_at_ms, meta } => {
                (json!(fence.map(|fence| fence.0)), json!(level.name()), json!(acquired_at_ms), shown(meta))
            }
        };
        object.insert("fence".into(), fence);
        object.insert("priority".into(), level);
        object.insert("meta".into(), meta);
        object.insert("acquired_at".into(), at);
        Value::Object(object)
    }

    /// Reads one line. Without `fence` the lock gets a new one; with `"fence": null` it is one of `SET NX`.
    pub(super) fn of_json(line: &str) -> Result<Record, String> {
        let object = match serde_json::from_str(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err("is no JSON object".into()),
            Err(error) => return Err(format!("is no JSON: {error}")),
        };
        const KNOWN: [&str; 7] = ["key", "owner", "ttl_ms", "fence", "priority", "meta", "acquired_at"];
        if let Some(unknown) = object.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(format!("has an unknown field '{unknown}'; the fields are {}", KNOWN.join(", ")));
        }
        let key = bytes(&object, "key")?.ok_or("has no key")?;
        let owner = bytes(&object, "owner")?.filter(|owner| !owner.is_empty()).ok_or("has no owner")?;
        let ttl_ms = number(&object, "ttl_ms")?;
        if ttl_ms == Some(0) {
            return Err("has a ttl_ms of 0; leave such locks out".into());
        }
        let kind = if object.get("fence").is_some_and(Value::is_null) {
            Kind::Plain
        } else {
            let level = match object.get("priority") {
                None | Some(Value::Null) => Level::default(),
                Some(Value::String(name)) => Level::parse(name.as_bytes())
                    .ok_or_else(|| format!("has an unknown priority '{name}'; use low, normal, high or critical"))?,
                Some(_) => return Err("has a priority that is no text".into()),
            };
            if ttl_ms.is_none() {
                return Err("has no ttl_ms, which only locks of SET NX (\"fence\": null) do without".into());
            }
            let fence = number(&object, "fence")?;
            if fence.is_some_and(|fence| fence > crate::store::value::FENCE_MAX) {
                return Err("has a fence above 2^53 - 1".into());
            }
            let meta = bytes(&object, "meta")?.unwrap_or_default();
            Kind::Long { fence: fence.map(Fence), level, acquired_at_ms: number(&object, "acquired_at")?, meta }
        };
        Ok(Record { key, owner, ttl_ms, kind })
    }
}

fn bytes(object: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone().into_bytes())),
        Some(Value::Object(wrapped)) => match wrapped.get("base64").and_then(Value::as_str) {
            Some(encoded) if wrapped.len() == 1 => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
                decoded.map(Some).map_err(|error| format!("has a {name} that is no base64: {error}"))
            }
            _ => Err(format!("has a {name} that is no text and no {{\"base64\": …}}")),
        },
        Some(_) => Err(format!("has a {name} that is no text")),
    }
}

fn number(object: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_u64().map(Some).ok_or_else(|| format!("has a {name} that is no whole number from 0 up"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let long =
            Kind::Long { fence: Some(Fence(7)), level: Level::High, acquired_at_ms: Some(5), meta: b"\xff".into() };
        for kind in [Kind::Plain, long] {
            let record = Record { key: b"k\xff".into(), owner: "Ä\n".into(), ttl_ms: Some(1500), kind };
            assert_eq!(Record::of_json(&record.to_json().to_string()), Ok(record));
        }
    }

    #[test]
    fn a_table_of_locks_needs_no_fences() {
        let read = Record::of_json(r#"{"key": "k", "owner": "w1", "ttl_ms": 60000}"#);
        let kind = Kind::Long { fence: None, level: Level::Normal, acquired_at_ms: None, meta: Vec::new() };
        assert_eq!(read, Ok(Record { key: b"k".into(), owner: b"w1".into(), ttl_ms: Some(60_000), kind }));
    }

    #[test]
    fn a_wrong_line_says_what_is_wrong() {
        for (line, why) in [
            ("[]", "is no JSON object"),
            (r#"{"owner": "a"}"#, "has no key"),
            (r#"{"key": "a", "owner": ""}"#, "has no owner"),
            (r#"{"key": "a", "owner": "b", "ttl_ms": -1}"#, "has a ttl_ms that is no whole number from 0 up"),
            (r#"{"key": {"base64": "?"}, "owner": "b"}"#, "has a key that is no base64: Invalid symbol 63, offset 0."),
            (
                r#"{"key": "a", "owner": "b", "ttl": 5}"#,
                "has an unknown field 'ttl'; the fields are key, owner, ttl_ms, fence, priority, meta, acquired_at",
            ),
            (r#"{"key": "a", "owner": "b"}"#, "has no ttl_ms, which only locks of SET NX (\"fence\": null) do without"),
        ] {
            assert_eq!(Record::of_json(line), Err(why.to_owned()), "{line}");
        }
    }
}
