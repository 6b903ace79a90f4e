//! Answers as JSON.

use serde_json::{Map, Value, json};

use crate::coordinator::LockReply;
use crate::events::shown;

/// An answer of the lock engine.
pub(super) fn of(reply: &LockReply) -> Value {
    match reply {
        LockReply::Simple(text) => json!(text),
        LockReply::Nil => Value::Null,
        LockReply::Integer(number) => json!(number),
        LockReply::Double(number) => json!(number),
        LockReply::Bulk(bytes) => shown(bytes),
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
