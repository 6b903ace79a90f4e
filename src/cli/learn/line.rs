//! One line of `MONITOR`.

/// What a client, or a script, sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// In µs of Unix time.
    pub at_us: u64,
    pub db: u32,
    /// A script did.
    pub by_script: bool,
    /// The command's name in capitals, then its arguments.
    pub words: Vec<Vec<u8>>,
}

impl Line {
    /// Reads `1700000000.123456 [0 127.0.0.1:5000] "SET" "k" "v"`; `None` for anything else.
    pub(super) fn parse(text: &[u8]) -> Option<Line> {
        let space = memchr::memchr(b' ', text)?;
        let at_us = time(&text[..space])?;
        let rest = text.get(space + 1..)?.strip_prefix(b"[")?;
        let end = memchr::memchr(b']', rest)?;
        let mut head = std::str::from_utf8(&rest[..end]).ok()?.splitn(2, ' ');
        let (db, from) = (head.next()?.parse().ok()?, head.next()?);
        let mut words = quoted(&rest[end + 1..])?;
        words.first_mut()?.make_ascii_uppercase();
        Some(Line { at_us, db, by_script: from == "lua", words })
    }
}

fn time(text: &[u8]) -> Option<u64> {
    let (secs, micros) = std::str::from_utf8(text).ok()?.split_once('.')?;
    let micros = format!("{micros:0<6}");
    secs.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.get(..6)?.parse().ok()?)
}

/// Words in double quotes, with the escapes that `MONITOR` writes.
fn quoted(mut text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    loop {
        text = text.trim_ascii_start();
        if text.is_empty() {
            return Some(words);
        }
        let mut rest = text.strip_prefix(b"\"")?;
        let mut word = Vec::new();
        loop {
            rest = match rest {
                [b'"', rest @ ..] => {
                    text = rest;
                    break;
                }
                [b'\\', b'x', high, low, rest @ ..] => {
                    let digits = [*high, *low];
                    word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                    rest
                }
                [b'\\', escaped, rest @ ..] => {
                    word.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'a' => 7,
                        b'b' => 8,
                        other => *other,
                    });
                    rest
                }
                [byte, rest @ ..] => {
                    word.push(*byte);
                    rest
                }
                [] => return None,
            };
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let line = Line::parse(br#"1700000000.12 [3 127.0.0.1:5000] "set" "k \"q\"" "\x00\xff\n" "NX""#);
        let words = [&b"SET"[..], b"k \"q\"", b"\0\xff\n", b"NX"].map(<[u8]>::to_vec).to_vec();
        assert_eq!(line, Some(Line { at_us: 1_700_000_000_120_000, db: 3, by_script: false, words }));
        let script = Line::parse(br#"1.000001 [0 lua] "GET" "k""#).expect("a line");
        assert!(script.by_script && script.at_us == 1_000_001);
        for odd in ["OK", "1.5 [0 lua]", "1.5 [x y] \"GET\"", "1.5 [0 a] \"GET", "1.5 [0 a] GET"] {
            assert_eq!(Line::parse(odd.as_bytes()), None, "{odd}");
        }
    }
}
