//! Replies as a test reads them: where a frame ends, and what it says.

use std::fmt;

/// A reply, RESP2 or RESP3, with the difference between the two kept.
#[derive(Clone, PartialEq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`.
    Nil,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    Double(String),
    Bool(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
}

impl Reply {
    /// Understands one whole frame.
    #[track_caller]
    pub fn parse(frame: &[u8]) -> Self {
        let mut at = 0;
        let reply = parse_at(frame, &mut at);
        assert_eq!(at, frame.len(), "a whole frame");
        reply
    }

    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("an integer was expected, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) | Self::Verbatim(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("text was expected, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) | Self::Push(items) | Self::Set(items) => items,
            other => panic!("an array was expected, not {other:?}"),
        }
    }

    /// The value under `name` in a map, or in the flat array that RESP2 has for it.
    #[track_caller]
    pub fn field(&self, name: &str) -> Reply {
        let pairs: Vec<(Reply, Reply)> = match self {
            Self::Map(pairs) => pairs.clone(),
            Self::Array(items) => items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
            other => panic!("a map was expected, not {other:?}"),
        };
        let found = pairs.into_iter().find(|(key, _)| key.text() == name);
        found.unwrap_or_else(|| panic!("no field {name} in {self:?}")).1
    }

    /// The same, `None` where there is no such field.
    pub fn maybe_field(&self, name: &str) -> Option<Reply> {
        let has = match self {
            Self::Map(pairs) => pairs.iter().any(|(key, _)| key.text() == name),
            Self::Array(items) => items.chunks(2).any(|pair| pair[0].text() == name),
            _ => false,
        };
        has.then(|| self.field(name))
    }

    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Self::Error(text) if text.starts_with(prefix))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Int(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) if bytes.len() > 200 => write!(f, "<{} bytes>", bytes.len()),
            Self::Bulk(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Nil => write!(f, "nil"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(k, v)| (k, v))).finish(),
            Self::Set(items) => f.debug_set().entries(items).finish(),
            Self::Push(items) => f.debug_list().entry(&"push").entries(items).finish(),
            Self::Double(text) => write!(f, ",{text}"),
            Self::Bool(yes) => write!(f, "#{yes}"),
            Self::BigNumber(text) => write!(f, "({text}"),
            Self::Verbatim(bytes) => write!(f, "={:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// Where the first whole frame in `input` ends; `None` when more bytes are needed.
pub fn frame_len(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Frames still owed; a list only adds its members to this count, so depth costs no stack.
    let mut owed: u64 = 1;
    while owed > 0 {
        let line_end = at + find_crlf(input.get(at..)?)?;
        let (kind, rest) = input[at..line_end].split_first()?;
        at = line_end + 2;
        owed -= 1;
        match kind {
            b'$' | b'=' | b'!' => {
                let len = number(rest);
                if len >= 0 {
                    at += usize::try_from(len).ok()? + 2;
                }
            }
            b'*' | b'~' | b'>' => owed += u64::try_from(number(rest)).unwrap_or(0),
            b'%' => owed += 2 * u64::try_from(number(rest)).unwrap_or(0),
            // An attribute stands before the frame it belongs to.
            b'|' => owed += 2 * u64::try_from(number(rest)).unwrap_or(0) + 1,
            _ => {}
        }
    }
    (at <= input.len()).then_some(at)
}

fn find_crlf(input: &[u8]) -> Option<usize> {
    input.windows(2).position(|pair| pair == b"\r\n")
}

#[track_caller]
fn number(digits: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(digits);
    text.parse().unwrap_or_else(|_| panic!("no number in a frame's head: {text:?}"))
}

fn parse_at(input: &[u8], at: &mut usize) -> Reply {
    let line_end = *at + find_crlf(&input[*at..]).expect("a whole line");
    let kind = input[*at];
    let line = &input[*at + 1..line_end];
    let text = || String::from_utf8_lossy(line).into_owned();
    *at = line_end + 2;
    let mut body = |len: i64| {
        let start = *at;
        *at += usize::try_from(len).unwrap() + 2;
        input[start..*at - 2].to_vec()
    };
    match kind {
        b'+' => Reply::Simple(text()),
        b'-' => Reply::Error(text()),
        b':' => Reply::Int(number(line)),
        b'_' => Reply::Nil,
        b',' => Reply::Double(text()),
        b'(' => Reply::BigNumber(text()),
        b'#' => Reply::Bool(line == b"t"),
        b'$' | b'*' if line == b"-1" => Reply::Nil,
        b'$' => Reply::Bulk(body(number(line))),
        b'=' => Reply::Verbatim(body(number(line))),
        b'!' => Reply::Error(String::from_utf8_lossy(&body(number(line))).into_owned()),
        b'*' => Reply::Array(many(input, at, number(line))),
        b'~' => Reply::Set(many(input, at, number(line))),
        b'>' => Reply::Push(many(input, at, number(line))),
        b'%' => Reply::Map((0..number(line)).map(|_| (parse_at(input, at), parse_at(input, at))).collect()),
        b'|' => {
            many(input, at, 2 * number(line));
            parse_at(input, at)
        }
        other => panic!("an unknown kind of frame: {:?}", other as char),
    }
}

fn many(input: &[u8], at: &mut usize, count: i64) -> Vec<Reply> {
    (0..count).map(|_| parse_at(input, at)).collect()
}
