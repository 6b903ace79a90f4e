//! The answers to `LOCK.*`, and how they look on the wire.

use crate::domain::Resp;
use crate::protocol::frame;

/// An answer to a `LOCK.*` command.
#[derive(Debug, Clone, PartialEq)]
pub enum LockReply {
    /// A word or a line of Lockgate's own.
    Simple(String),
    /// Not granted, not there, not known.
    Nil,
    /// A fence, a count, a place, a yes or no.
    Integer(i64),
    /// A number with a fraction: a double in RESP3, a text in RESP2.
    Double(f64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// A list.
    Array(Vec<LockReply>),
    /// Fields in order: a map in RESP3, a flat array in RESP2.
    Map(Vec<(&'static str, LockReply)>),
    /// A whole error line, its code word first.
    Error(String),
}

impl LockReply {
    /// Done, and no more to say.
    pub fn ok() -> LockReply {
        LockReply::Simple("OK".into())
    }

    /// The number of [`LockReply::Integer`].
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            LockReply::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Appends the reply as `resp` writes it.
    pub fn encode(&self, resp: Resp, out: &mut Vec<u8>) {
        match self {
            LockReply::Simple(text) => line(out, b'+', text),
            LockReply::Nil => out.extend_from_slice(if resp == Resp::V3 { b"_\r\n" } else { b"$-1\r\n" }),
            LockReply::Integer(number) => line(out, b':', *number),
            LockReply::Double(number) if resp == Resp::V3 => line(out, b',', number),
            LockReply::Double(number) => bulk(out, number.to_string().as_bytes()),
            LockReply::Bulk(bytes) => bulk(out, bytes),
            LockReply::Array(items) => {
                line(out, b'*', items.len());
                for item in items {
                    item.encode(resp, out);
                }
            }
            LockReply::Map(fields) => {
                match resp {
                    Resp::V3 => line(out, b'%', fields.len()),
                    Resp::V2 => line(out, b'*', fields.len() * 2),
                }
                for (name, value) in fields {
                    bulk(out, name.as_bytes());
                    value.encode(resp, out);
                }
            }
            LockReply::Error(text) => frame::error(text, out),
        }
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: impl std::fmt::Display) {
    out.push(kind);
    out.extend_from_slice(text.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    line(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_a_map_in_resp3_and_a_flat_array_in_resp2() {
        let reply = LockReply::Map(vec![("key", LockReply::Bulk(b"k".to_vec())), ("fence", LockReply::Nil)]);
        let (mut two, mut three) = (Vec::new(), Vec::new());
        reply.encode(Resp::V2, &mut two);
        reply.encode(Resp::V3, &mut three);
        assert_eq!(two, b"*4\r\n$3\r\nkey\r\n$1\r\nk\r\n$5\r\nfence\r\n$-1\r\n");
        assert_eq!(three, b"%2\r\n$3\r\nkey\r\n$1\r\nk\r\n$5\r\nfence\r\n_\r\n");
    }

    #[test]
    fn a_fraction_is_a_double_in_resp3_and_a_text_in_resp2() {
        let (mut two, mut three) = (Vec::new(), Vec::new());
        LockReply::Double(0.25).encode(Resp::V2, &mut two);
        LockReply::Double(0.25).encode(Resp::V3, &mut three);
        assert_eq!((two.as_slice(), three.as_slice()), (&b"$4\r\n0.25\r\n"[..], &b",0.25\r\n"[..]));
    }

    #[test]
    fn an_error_is_one_line_whatever_it_names() {
        let mut out = Vec::new();
        LockReply::Error("ERR 'a\r\n+OK' is not a lock".into()).encode(Resp::V2, &mut out);
        assert_eq!(out, b"-ERR 'a  +OK' is not a lock\r\n");
    }
}
