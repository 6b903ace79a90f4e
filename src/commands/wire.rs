//! Reads the replies of `COMMAND` where they stand: they are large, and most of what is in them is only passed on, so
//! that building a [`Value`](crate::protocol::frame::Value) for all of it would be work for nothing.

/// A reply could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed reply at byte {at}")]
pub struct Malformed {
    /// Where, in bytes from the reply's start.
    pub at: usize,
}

/// The next piece of a reply: a whole scalar, or the head of an aggregate whose elements follow.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Token<'a> {
    /// A bulk, simple or verbatim string.
    Text(&'a [u8]),
    /// An error, its sign left out.
    Error(&'a [u8]),
    Int(i64),
    /// Nil in any of its forms.
    Null,
    /// Booleans, doubles, big numbers.
    Other,
    /// An array, set or push of so many elements.
    Array(usize),
    /// A map of so many pairs.
    Map(usize),
}

/// Reads a reply piece by piece.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Cursor { input, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    fn line(&mut self) -> Result<&'a [u8], Malformed> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).ok_or(self.malformed())?;
        if end == 0 || rest[end - 1] != b'\r' {
            return Err(self.malformed());
        }
        self.at += end + 1;
        Ok(&rest[..end - 1])
    }

    fn number(&self, text: &[u8]) -> Result<i64, Malformed> {
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(self.malformed())
    }

    /// A length, or `None` for the -1 of a RESP2 nil. Never more than there are bytes left, so that no one allocates by
    /// what a reply merely claims.
    fn length(&self, text: &[u8]) -> Result<Option<usize>, Malformed> {
        let number = self.number(text)?;
        if number == -1 {
            return Ok(None);
        }
        match usize::try_from(number) {
            Ok(length) if length <= self.input.len() => Ok(Some(length)),
            _ => Err(self.malformed()),
        }
    }

    /// The next piece.
    pub fn next(&mut self) -> Result<Token<'a>, Malformed> {
        let line = self.line()?;
        let (&sign, rest) = line.split_first().ok_or(self.malformed())?;
        Ok(match sign {
            b'+' => Token::Text(rest),
            b'-' => Token::Error(rest),
            b':' => Token::Int(self.number(rest)?),
            b'_' => Token::Null,
            b'#' | b',' | b'(' => Token::Other,
            b'$' | b'=' | b'!' => match self.length(rest)? {
                None => Token::Null,
                Some(length) => {
                    let text = self.input.get(self.at..self.at + length).ok_or(self.malformed())?;
                    self.at += length + 2;
                    if self.at > self.input.len() {
                        return Err(self.malformed());
                    }
                    match sign {
                        b'=' => Token::Text(text.get(4..).ok_or(self.malformed())?),
                        b'!' => Token::Error(text),
                        _ => Token::Text(text),
                    }
                }
            },
            b'*' | b'~' | b'>' => self.length(rest)?.map_or(Token::Null, Token::Array),
            b'%' => self.length(rest)?.map_or(Token::Null, Token::Map),
            _ => return Err(self.malformed()),
        })
    }

    /// Passes over one whole value, however deep.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        let mut owed: usize = 1;
        while owed > 0 {
            owed -= 1;
            let inside = match self.next()? {
                Token::Array(count) => count,
                Token::Map(pairs) => pairs * 2,
                _ => 0,
            };
            owed = owed.checked_add(inside).ok_or(self.malformed())?;
        }
        Ok(())
    }

    /// One whole value as it stands.
    pub fn slice(&mut self) -> Result<&'a [u8], Malformed> {
        let from = self.at;
        self.skip()?;
        Ok(&self.input[from..self.at])
    }

    /// The head of an array, set or map, as its number of values (two for a pair).
    pub fn values(&mut self) -> Result<usize, Malformed> {
        match self.next()? {
            Token::Array(count) => Ok(count),
            Token::Map(pairs) => Ok(pairs * 2),
            _ => Err(self.malformed()),
        }
    }

    /// A string.
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Token::Text(text) => Ok(text),
            _ => Err(self.malformed()),
        }
    }

    /// An integer.
    pub fn int(&mut self) -> Result<i64, Malformed> {
        match self.next()? {
            Token::Int(number) => Ok(number),
            _ => Err(self.malformed()),
        }
    }
}
