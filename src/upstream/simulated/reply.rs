//! What a command answers, before it is known in which protocol.

use crate::domain::Resp;
use crate::protocol::frame;

/// The answer to one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A word.
    Simple(String),
    /// A line that begins with a code.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Text for people, which RESP3 marks as such.
    Text(String),
    /// Nothing there.
    Nil,
    /// Several.
    Array(Vec<Reply>),
    /// Names and values in turn.
    Map(Vec<Reply>),
}

impl Reply {
    /// Done.
    pub fn ok() -> Reply {
        Reply::Simple("OK".into())
    }

    /// The bytes or their absence.
    pub fn bulk_or_nil(bytes: Option<&[u8]>) -> Reply {
        bytes.map_or(Reply::Nil, |bytes| Reply::Bulk(bytes.to_vec()))
    }

    /// Appends it as `resp` writes it.
    pub fn encode(&self, resp: Resp, out: &mut Vec<u8>) {
        match self {
            Reply::Simple(text) => frame::simple(text, out),
            Reply::Error(line) => frame::error(line, out),
            Reply::Integer(number) => frame::integer(*number, out),
            Reply::Bulk(bytes) => frame::bulk(bytes, out),
            Reply::Text(text) if resp == Resp::V3 => {
                out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
            }
            Reply::Text(text) => frame::bulk(text, out),
            Reply::Nil => frame::null(resp, out),
            Reply::Array(items) => {
                frame::array(items.len(), out);
                items.iter().for_each(|item| item.encode(resp, out));
            }
            Reply::Map(items) => {
                frame::map(resp, items.len() / 2, out);
                items.iter().for_each(|item| item.encode(resp, out));
            }
        }
    }
}
