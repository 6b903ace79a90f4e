//! Answers as JSON.

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::coordinator::LockReply;

/// Bytes as text, or what is no UTF-8 as `{"base64": …}`.
pub(super) fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// An answer of the lock engine.
pub(super) fn of(reply: &LockReply) -> Value {
    match reply {
        LockReply::Simple(text) => json!(text),
        LockReply::Nil => Value::Null,
        LockReply::Integer(number) => json!(number),
        LockReply::Double(number) => json!(number),
        LockReply::Bulk(bytes) => text(bytes),
        LockReply::Array(items) => Value::Array(items.iter().map(of).collect()),
        LockReply::Map(fields) => {
            Value::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), of(value))).collect::<Map<_, _>>())
        }
        LockReply::Error(line) => json!({ "error": line }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_answer_has_a_json_form() {
        let reply = LockReply::Map(vec![
            ("key", LockReply::Bulk(b"a\xff".to_vec())),
            ("held", LockReply::Integer(1)),
            ("more", LockReply::Array(vec![LockReply::Nil, LockReply::Double(1.5), LockReply::ok()])),
        ]);
        assert_eq!(of(&reply), json!({"key": {"base64": "Yf8="}, "held": 1, "more": [null, 1.5, "OK"]}));
    }
}
