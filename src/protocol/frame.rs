//! The frames that Lockgate itself makes and understands: its own answers, and the replies to its scripts, to HELLO,
//! CLIENT and COMMAND. Decoding borrows from the reply, keeps maps in the order they came, takes any bytes for text and
//! stops at a depth that no stack minds; `redis-protocol`, which promises none of these, is the oracle in the tests.

use super::args::push_line;
use super::error::ReplyError;
use super::number;
use crate::domain::Resp;

/// Deepest nesting that [`decode`] follows. COMMAND, the deepest reply there is use for, has 9 levels in Redis 7.
const DEPTH_MAX: usize = 64;

/// Appends a simple string.
pub fn simple(text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    push_text(b'+', text.as_ref(), out);
}

/// Appends an error: its code word and what follows, without the `-`.
pub fn error(text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    push_text(b'-', text.as_ref(), out);
}

/// Appends an integer.
pub fn integer(value: i64, out: &mut Vec<u8>) {
    out.push(b':');
    number::push(value, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a bulk string.
pub fn bulk(bytes: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    let bytes = bytes.as_ref();
    push_line(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends nil where a string or an integer could stand.
pub fn null(resp: Resp, out: &mut Vec<u8>) {
    out.extend_from_slice(match resp {
        Resp::V2 => b"$-1\r\n",
        Resp::V3 => b"_\r\n",
    });
}

/// Appends nil where an array could stand.
pub fn null_array(resp: Resp, out: &mut Vec<u8>) {
    out.extend_from_slice(match resp {
        Resp::V2 => b"*-1\r\n",
        Resp::V3 => b"_\r\n",
    });
}

/// Appends the head of an array; its `len` elements have to follow.
pub fn array(len: usize, out: &mut Vec<u8>) {
    push_line(b'*', len, out);
}

/// Appends the head of a map, a flat array in RESP2; a key and a value each for its `pairs` have to follow.
pub fn map(resp: Resp, pairs: usize, out: &mut Vec<u8>) {
    match resp {
        Resp::V2 => push_line(b'*', pairs.saturating_mul(2), out),
        Resp::V3 => push_line(b'%', pairs, out),
    }
}

/// Appends the head of a set, an array in RESP2; its `len` elements have to follow.
pub fn set(resp: Resp, len: usize, out: &mut Vec<u8>) {
    match resp {
        Resp::V2 => push_line(b'*', len, out),
        Resp::V3 => push_line(b'~', len, out),
    }
}

/// Appends the head of a push, an array in RESP2; its `len` elements have to follow. Whoever speaks RESP2 takes it for a
/// reply, so only subscribers may get one there.
pub fn push(resp: Resp, len: usize, out: &mut Vec<u8>) {
    match resp {
        Resp::V2 => push_line(b'*', len, out),
        Resp::V3 => push_line(b'>', len, out),
    }
}

/// Appends a frame of one line that begins with its kind byte. Line breaks in the text would end the frame early; as in Redis they
/// become blanks.
pub fn line(line: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    if let Some((&kind, text)) = line.as_ref().split_first() {
        push_text(kind, text, out);
    }
}

fn push_text(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// A decoded reply. Its bytes are those of the reply it was decoded from.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `+`
    Simple(&'a [u8]),
    /// `-` or `!`: the code word and what follows.
    Error(&'a [u8]),
    /// `:`
    Integer(i64),
    /// `$`, or `=` without its format.
    Bulk(&'a [u8]),
    /// `*`
    Array(Vec<Value<'a>>),
    /// `%`: keys and values in the order they came. In RESP2 the same comes as an array; see [`Value::pairs`].
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// `~`
    Set(Vec<Value<'a>>),
    /// `>`
    Push(Vec<Value<'a>>),
    /// `_`, `$-1` or `*-1`
    Null,
    /// `#`
    Boolean(bool),
    /// `,`: the number as it was written.
    Double(&'a [u8]),
    /// `(`: the number as it was written.
    BigNumber(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes of a simple or bulk string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            Value::Simple(bytes) | Value::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The bytes of a simple or bulk string that is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// An integer, or a string that spells one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(value) => Some(*value),
            other => number::parse(other.as_bytes()?),
        }
    }

    /// The text of an error.
    pub fn as_error(&self) -> Option<&'a [u8]> {
        match self {
            Value::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array, a set or a push.
    pub fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(elements) | Value::Set(elements) | Value::Push(elements) => Some(elements),
            _ => None,
        }
    }

    /// True for nil of any kind.
    pub fn is_null(&self) -> bool {
        *self == Value::Null
    }

    /// Keys and values of a map, or of the flat array that RESP2 has in its place; none for anything else.
    pub fn pairs(&self) -> impl Iterator<Item = (&Value<'a>, &Value<'a>)> {
        let (map, flat): (&[(Value<'a>, Value<'a>)], &[Value<'a>]) = match self {
            Value::Map(pairs) => (pairs, &[]),
            Value::Array(elements) => (&[], elements),
            _ => (&[], &[]),
        };
        let map = map.iter().map(|(key, value)| (key, value));
        map.chain(flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1])))
    }

    /// The value at this key of a map, or of the flat array that RESP2 has in its place.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Value<'a>> {
        self.pairs().find(|(name, _)| name.as_bytes() == Some(key.as_ref())).map(|(_, value)| value)
    }
}

/// Decodes `reply`, which is one whole frame and nothing else. Attributes are left out.
///
/// # Errors
/// The bytes are no frame, more or less than one, or nested deeper than 64 levels.
pub fn decode(reply: &[u8]) -> Result<Value<'_>, ReplyError> {
    let mut decoder = Decoder { rest: reply };
    let value = decoder.value(DEPTH_MAX)?;
    match decoder.rest.len() {
        0 => Ok(value),
        left => Err(ReplyError::Trailing(left)),
    }
}

struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// The value at the front, itself at most `depth` levels deep.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, ReplyError> {
        let depth = depth.checked_sub(1).ok_or(ReplyError::TooDeep { max: DEPTH_MAX })?;
        loop {
            let (kind, line) = self.line()?;
            return Ok(match kind {
                b'+' => Value::Simple(line),
                b'-' => Value::Error(line),
                b':' => Value::Integer(number::parse(line).ok_or(ReplyError::BadNumber(kind))?),
                b'$' | b'*' if line == b"-1" => Value::Null,
                b'$' => Value::Bulk(self.payload(kind, line)?),
                // Three letters and a colon tell how to show the text.
                b'=' => Value::Bulk(self.payload(kind, line)?.get(4..).ok_or(ReplyError::BadNumber(kind))?),
                b'!' => Value::Error(self.payload(kind, line)?),
                b'*' => Value::Array(self.elements(kind, line, depth)?),
                b'~' => Value::Set(self.elements(kind, line, depth)?),
                b'>' => Value::Push(self.elements(kind, line, depth)?),
                b'%' => Value::Map(self.entries(kind, line, depth)?),
                b'|' => {
                    self.entries(kind, line, depth)?;
                    continue;
                }
                b'_' => Value::Null,
                b'#' => Value::Boolean(line == b"t"),
                b',' => Value::Double(line),
                b'(' => Value::BigNumber(line),
                b'.' | b';' => return Err(ReplyError::Streamed(kind)),
                _ => return Err(ReplyError::UnknownKind(kind)),
            });
        }
    }

    /// Kind and text of the line at the front.
    fn line(&mut self) -> Result<(u8, &'a [u8]), ReplyError> {
        let (&kind, rest) = self.rest.split_first().ok_or(ReplyError::Incomplete)?;
        // The text of a simple string or an error may have a CR of its own.
        let end = memchr::memchr_iter(b'\r', rest).find(|end| rest.get(end + 1) == Some(&b'\n'));
        let end = end.ok_or(ReplyError::Incomplete)?;
        self.rest = &rest[end + 2..];
        Ok((kind, &rest[..end]))
    }

    fn length(kind: u8, line: &[u8]) -> Result<usize, ReplyError> {
        if line == b"?" {
            return Err(ReplyError::Streamed(kind));
        }
        number::parse(line).and_then(|len| usize::try_from(len).ok()).ok_or(ReplyError::BadNumber(kind))
    }

    fn payload(&mut self, kind: u8, line: &[u8]) -> Result<&'a [u8], ReplyError> {
        let (payload, rest) = self.rest.split_at_checked(Self::length(kind, line)?).ok_or(ReplyError::Incomplete)?;
        match rest {
            [b'\r', b'\n', rest @ ..] => {
                self.rest = rest;
                Ok(payload)
            }
            [] | [b'\r'] => Err(ReplyError::Incomplete),
            _ => Err(ReplyError::BadEnd(kind)),
        }
    }

    fn elements(&mut self, kind: u8, line: &[u8], depth: usize) -> Result<Vec<Value<'a>>, ReplyError> {
        let len = Self::length(kind, line)?;
        let mut elements = Vec::with_capacity(self.room_for(len));
        for _ in 0..len {
            elements.push(self.value(depth)?);
        }
        Ok(elements)
    }

    fn entries(&mut self, kind: u8, line: &[u8], depth: usize) -> Result<Vec<(Value<'a>, Value<'a>)>, ReplyError> {
        let len = Self::length(kind, line)?;
        let mut entries = Vec::with_capacity(self.room_for(len));
        for _ in 0..len {
            entries.push((self.value(depth)?, self.value(depth)?));
        }
        Ok(entries)
    }

    /// What to reserve for `len` announced elements: an announcement is cheap, and each element has three bytes at least.
    /// The bound keeps lies on many levels cheap too.
    fn room_for(&self, len: usize) -> usize {
        len.min(self.rest.len() / 3).min(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn frames_are_written_as_redis_writes_them() {
        for (written, frame) in [
            (encoded(|out| simple("OK", out)), &b"+OK\r\n"[..]),
            (encoded(|out| error("ERR a\r\nb", out)), b"-ERR a  b\r\n"),
            (encoded(|out| line("-ERR a\r\n+b", out)), b"-ERR a  +b\r\n"),
            (encoded(|out| integer(-7, out)), b":-7\r\n"),
            (encoded(|out| bulk(b"a\r\nb", out)), b"$4\r\na\r\nb\r\n"),
            (encoded(|out| null(Resp::V2, out)), b"$-1\r\n"),
            (encoded(|out| null(Resp::V3, out)), b"_\r\n"),
            (encoded(|out| null_array(Resp::V2, out)), b"*-1\r\n"),
            (encoded(|out| null_array(Resp::V3, out)), b"_\r\n"),
            (encoded(|out| array(3, out)), b"*3\r\n"),
            (encoded(|out| map(Resp::V2, 2, out)), b"*4\r\n"),
            (encoded(|out| map(Resp::V3, 2, out)), b"%2\r\n"),
            (encoded(|out| set(Resp::V2, 2, out)), b"*2\r\n"),
            (encoded(|out| set(Resp::V3, 2, out)), b"~2\r\n"),
            (encoded(|out| push(Resp::V2, 3, out)), b"*3\r\n"),
            (encoded(|out| push(Resp::V3, 3, out)), b">3\r\n"),
        ] {
            assert_eq!(written, frame, "{}", frame.escape_ascii());
        }
    }

    #[test]
    fn every_kind_decodes() {
        for (reply, value) in [
            (&b"+OK\r\n"[..], Value::Simple(b"OK")),
            (b"-ERR \xff\r\n", Value::Error(b"ERR \xff")),
            (b"!5\r\nERR x\r\n", Value::Error(b"ERR x")),
            (b":-5\r\n", Value::Integer(-5)),
            (b"$2\r\n\r\n\r\n", Value::Bulk(b"\r\n")),
            (b"=6\r\ntxt:ab\r\n", Value::Bulk(b"ab")),
            (b"$-1\r\n", Value::Null),
            (b"*-1\r\n", Value::Null),
            (b"_\r\n", Value::Null),
            (b"#f\r\n", Value::Boolean(false)),
            (b",1.5\r\n", Value::Double(b"1.5")),
            (b"(123\r\n", Value::BigNumber(b"123")),
            (b"*2\r\n:1\r\n*0\r\n", Value::Array(vec![Value::Integer(1), Value::Array(vec![])])),
            (b"~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)])),
            (b">1\r\n:1\r\n", Value::Push(vec![Value::Integer(1)])),
            (b"%1\r\n+a\r\n:1\r\n", Value::Map(vec![(Value::Simple(b"a"), Value::Integer(1))])),
            (b"|1\r\n+ttl\r\n:1\r\n:2\r\n", Value::Integer(2)),
        ] {
            assert_eq!(decode(reply), Ok(value), "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn a_map_reads_the_same_in_both_protocols() {
        for hello in [
            &b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+proto\r\n$1\r\n3\r\n"[..],
            b"*4\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n",
        ] {
            let hello = decode(hello).unwrap();
            assert_eq!(hello.get("server").and_then(Value::as_str), Some("redis"));
            assert_eq!(hello.get("proto").and_then(Value::as_integer), Some(3));
            assert_eq!(hello.get("role"), None);
            assert_eq!(hello.pairs().count(), 2);
        }
    }

    #[test]
    fn what_is_no_whole_frame_is_refused() {
        for (reply, error) in [
            (&b""[..], ReplyError::Incomplete),
            (b"+OK\r", ReplyError::Incomplete),
            (b"$3\r\nab", ReplyError::Incomplete),
            (b"$3\r\nabc\r", ReplyError::Incomplete),
            (b"*1000000000000\r\n", ReplyError::Incomplete),
            (b"%9223372036854775807\r\n+a\r\n", ReplyError::Incomplete),
            (b"$3\r\nabcde", ReplyError::BadEnd(b'$')),
            (b"=3\r\ntxt\r\n", ReplyError::BadNumber(b'=')),
            (b":x\r\n", ReplyError::BadNumber(b':')),
            (b"$-2\r\n", ReplyError::BadNumber(b'$')),
            (b"*?\r\n", ReplyError::Streamed(b'*')),
            (b"@\r\n", ReplyError::UnknownKind(b'@')),
            (b"+OK\r\n+OK\r\n", ReplyError::Trailing(5)),
        ] {
            assert_eq!(decode(reply), Err(error), "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn nesting_ends_at_a_depth_that_no_stack_minds() {
        for kind in ["*1\r\n", "%1\r\n+a\r\n", "|1\r\n+a\r\n"] {
            let nested = |levels| [kind.repeat(levels).as_bytes(), b":1\r\n"].concat();
            assert!(!matches!(decode(&nested(DEPTH_MAX - 1)), Err(ReplyError::TooDeep { .. })));
            assert_eq!(decode(&nested(DEPTH_MAX)), Err(ReplyError::TooDeep { max: DEPTH_MAX }));
            assert_eq!(decode(&nested(100_000)), Err(ReplyError::TooDeep { max: DEPTH_MAX }));
        }
    }
}
