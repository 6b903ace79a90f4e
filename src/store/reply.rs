//! Reads the replies of our own scripts: integers, strings, errors, and arrays of those.

/// A reply of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `:1`
    Integer(i64),
    /// A bulk or a simple string.
    Text(Vec<u8>),
    /// The error line, without its `-`.
    Error(String),
    /// An array.
    Array(Vec<Reply>),
    /// `$-1`, `*-1` or `_`.
    Nil,
}

/// Our scripts answer with at most one array of plain elements.
const DEPTH_MAX: usize = 2;

impl Reply {
    /// Reads one whole reply; `None` where it is of a kind that no script of ours gives.
    pub fn read(bytes: &[u8]) -> Option<Reply> {
        let mut rest = bytes;
        let reply = read(&mut rest, DEPTH_MAX)?;
        rest.is_empty().then_some(reply)
    }
}

fn read(rest: &mut &[u8], depth: usize) -> Option<Reply> {
    let line = take_line(rest)?;
    let (&kind, text) = line.split_first()?;
    match kind {
        b':' => Some(Reply::Integer(number(text)?)),
        b'+' => Some(Reply::Text(text.to_vec())),
        b'-' => Some(Reply::Error(String::from_utf8_lossy(text).into_owned())),
        b'_' => Some(Reply::Nil),
        b'$' | b'*' if text == b"-1" => Some(Reply::Nil),
        b'$' => {
            let len = usize::try_from(number(text)?).ok()?;
            let body = rest.get(..len)?;
            *rest = rest.get(len.checked_add(2)?..)?;
            Some(Reply::Text(body.to_vec()))
        }
        b'*' if depth > 0 => {
            let len = usize::try_from(number(text)?).ok().filter(|len| *len <= rest.len())?;
            (0..len).map(|_| read(rest, depth - 1)).collect::<Option<_>>().map(Reply::Array)
        }
        _ => None,
    }
}

fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\r', rest)?;
    let line = &rest[..end];
    *rest = rest.get(end + 2..)?;
    Some(line)
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_scripts_answer_and_nothing_else() {
        assert_eq!(Reply::read(b":-1\r\n"), Some(Reply::Integer(-1)));
        assert_eq!(
            Reply::read(b"*3\r\n$4\r\nhe\r\nl\r\n:7\r\n$0\r\n\r\n"),
            None,
            "the length counts the bytes, not the lines"
        );
        assert_eq!(
            Reply::read(b"*3\r\n$4\r\nh\r\nl\r\n:7\r\n$0\r\n\r\n"),
            Some(Reply::Array(vec![Reply::Text(b"h\r\nl".to_vec()), Reply::Integer(7), Reply::Text(vec![])]))
        );
        assert_eq!(Reply::read(b"-ERR no\r\n"), Some(Reply::Error("ERR no".into())));
        for odd in [
            "",
            ":",
            ":1",
            ":x\r\n",
            "$5\r\nab\r\n",
            "*9999999999\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            ":1\r\n:2\r\n",
        ] {
            assert_eq!(Reply::read(odd.as_bytes()), None, "{odd:?}");
        }
    }
}
