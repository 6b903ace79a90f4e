//! A person's connection to a node: RESP in, RESP out.

use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::protocol::reply::ReplyScanner;
use crate::upstream::pipe::End;

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A word.
    Word(Vec<u8>),
    /// A number.
    Number(i64),
    /// Nothing.
    Nil,
    /// Several.
    List(Vec<Said>),
    /// An error line.
    Error(String),
}

impl Said {
    fn of(value: &Value<'_>) -> Said {
        match value {
            Value::Integer(number) => Said::Number(*number),
            Value::Null => Said::Nil,
            Value::Error(line) => Said::Error(String::from_utf8_lossy(line).into_owned()),
            Value::Array(items) => Said::List(items.iter().map(Said::of).collect()),
            other => Said::Word(other.as_bytes().unwrap_or_default().to_vec()),
        }
    }
}

/// A connection, from the client's side.
pub struct Wire {
    end: End,
    input: Vec<u8>,
    scanner: ReplyScanner,
}

impl Wire {
    /// Over that end of a pipe.
    pub fn new(end: End) -> Self {
        Wire { end, input: Vec::new(), scanner: ReplyScanner::new() }
    }

    /// Sends a command; `false` where the connection is gone.
    pub fn send<W: AsRef<[u8]>>(&self, words: &[W]) -> bool {
        let mut bytes = Vec::new();
        encode_command(words, &mut bytes);
        self.end.outgoing.try_write(&bytes).is_ok_and(|written| written == bytes.len())
    }

    /// The next reply; `None` at the end of the connection. May be dropped half-way.
    pub async fn hear(&mut self) -> Option<Said> {
        loop {
            let bytes = self.end.incoming.take().await?;
            self.input.extend_from_slice(&bytes);
            if self.scanner.scan(&bytes, 1).ok()?.frames == 1 {
                let said = decode(&self.input).ok().map(|value| Said::of(&value));
                self.input.clear();
                return said;
            }
        }
    }

    /// Asks, and waits for the reply.
    pub async fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Option<Said> {
        if !self.send(words) {
            return None;
        }
        self.hear().await
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.close();
    }
}
