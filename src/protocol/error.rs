//! What can be wrong with a stream of requests or replies.

use std::borrow::Cow;

use thiserror::Error;

/// A client's bytes are no request. Redis answers with the reason and closes the connection, so do we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// More than 64 KB without a line feed.
    #[error("too big inline request")]
    TooBigInline,
    /// A quote that does not end, or that something other than a blank follows.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// More than 64 KB without the end of the `*` line.
    #[error("too big mbulk count string")]
    TooBigCount,
    /// More than 64 KB without the end of a `$` line.
    #[error("too big bulk count string")]
    TooBigLength,
    /// The number of arguments is no integer, or too large.
    #[error("invalid multibulk length")]
    InvalidCount,
    /// More arguments than a client may send before `AUTH`.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedCount,
    /// An argument that does not begin with `$` but with this byte.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// The length of an argument is no integer, negative, or too large.
    #[error("invalid bulk length")]
    InvalidLength,
    /// A longer argument than a client may send before `AUTH`.
    #[error("unauthenticated bulk length")]
    UnauthenticatedLength,
}

impl ProtocolError {
    /// What Redis writes after `-ERR Protocol error: `, byte for byte. No UTF-8 where the client's byte is none.
    pub fn message(&self) -> Cow<'static, [u8]> {
        let text: &'static str = match *self {
            // A line break would end the reply early.
            ProtocolError::ExpectedBulk(b'\r' | b'\n') => "expected '$', got ' '",
            ProtocolError::ExpectedBulk(got) => {
                let mut text = b"expected '$', got '".to_vec();
                text.extend([got, b'\'']);
                return text.into();
            }
            ProtocolError::TooBigInline => "too big inline request",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
            ProtocolError::TooBigCount => "too big mbulk count string",
            ProtocolError::TooBigLength => "too big bulk count string",
            ProtocolError::InvalidCount => "invalid multibulk length",
            ProtocolError::UnauthenticatedCount => "unauthenticated multibulk length",
            ProtocolError::InvalidLength => "invalid bulk length",
            ProtocolError::UnauthenticatedLength => "unauthenticated bulk length",
        };
        text.as_bytes().into()
    }

    /// Appends the whole error reply to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR Protocol error: ");
        out.extend_from_slice(&self.message());
        out.extend_from_slice(b"\r\n");
    }
}

/// An upstream's bytes are no reply. Nothing on that link can be trusted any more: it has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// A frame began with this byte.
    #[error("a reply begins with the byte '{}', which no kind of frame has", .0.escape_ascii())]
    UnknownKind(u8),
    /// Lengths that are told later (`$?`, `*?`); no released server sends them.
    #[error("a streamed frame of kind '{}', which is not supported", .0.escape_ascii())]
    Streamed(u8),
    /// A length or an integer is none, or not within its bounds.
    #[error("a bad number in a reply's '{}' line", .0.escape_ascii())]
    BadNumber(u8),
    /// A line or a payload does not end with CR LF.
    #[error("a reply's '{}' frame does not end with CR LF", .0.escape_ascii())]
    BadEnd(u8),
    /// More elements announced than can be counted.
    #[error("a reply announces more elements than can be counted")]
    TooMany,
    /// Decoding only: deeper than Lockgate's own replies ever are.
    #[error("a reply is nested deeper than {max} levels")]
    TooDeep {
        /// The deepest that is decoded.
        max: usize,
    },
    /// Decoding only: the bytes end before the frame does.
    #[error("a reply ends early")]
    Incomplete,
    /// Decoding only: bytes follow the frame.
    #[error("{0} bytes follow a reply")]
    Trailing(usize),
}
