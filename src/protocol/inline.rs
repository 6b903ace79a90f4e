//! Inline commands: a line of words, as people type it.

use super::error::ProtocolError;

/// What separates words, and what a closing quote must be followed by.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

/// What ends a word outside quotes. Vertical tab and form feed separate words but do not end one: that is how Redis
/// reads them.
pub(super) fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0)
}

/// The arguments of an inline command, with or without its line end. `"…"` knows `\n \r \t \b \a \xHH` and takes any
/// other escaped byte as it is, `'…'` knows only `\'`; a quote may begin within a word but must end it. As in Redis, the
/// line ends at a zero byte.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`].
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let line = &line[..memchr::memchr(0, line).unwrap_or(line.len())];
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.iter().position(|&byte| !is_blank(byte)) {
        let (word, len) = word(&rest[start..])?;
        words.push(word);
        rest = &rest[start + len..];
    }
    Ok(words)
}

/// The word at the front of `input`, and how many bytes it took.
fn word(input: &[u8]) -> Result<(Vec<u8>, usize), ProtocolError> {
    let plain = input.iter().position(|&byte| ends_word(byte) || matches!(byte, b'"' | b'\'')).unwrap_or(input.len());
    let mut word = input[..plain].to_vec();
    let quoted = match input.get(plain) {
        Some(b'"') => double_quoted(&input[plain + 1..], &mut word)?,
        Some(b'\'') => single_quoted(&input[plain + 1..], &mut word)?,
        _ => return Ok((word, plain)),
    };
    let len = plain + 1 + quoted;
    if input.get(len).is_some_and(|&byte| !is_blank(byte)) {
        return Err(ProtocolError::UnbalancedQuotes);
    }
    Ok((word, len))
}

/// Appends what stands before the closing quote to `word`; the bytes up to and with that quote.
fn double_quoted(input: &[u8], word: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let mut at = 0;
    loop {
        let (byte, len) = match input[at..] {
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(high) << 4 | hex_digit(low), 4)
            }
            [b'\\', escaped, ..] => (unescape(escaped), 2),
            [b'"', ..] => return Ok(at + 1),
            [byte, ..] => (byte, 1),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        at += len;
    }
}

/// As [`double_quoted`], for `'`.
fn single_quoted(input: &[u8], word: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let mut at = 0;
    loop {
        let (byte, len) = match input[at..] {
            [b'\\', b'\'', ..] => (b'\'', 2),
            [b'\'', ..] => return Ok(at + 1),
            [byte, ..] => (byte, 1),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        at += len;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// Only for bytes that are hex digits.
fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        split(line.as_bytes()).unwrap()
    }

    #[test]
    fn blanks_separate_words_and_empty_lines_have_none() {
        assert_eq!(words("SET  key\tvalue \r\n"), [&b"SET"[..], b"key", b"value"]);
        assert!(words("").is_empty());
        assert!(words(" \t\x0b\x0c\r\n").is_empty());
        assert_eq!(words("\x0bPING"), [b"PING"]);
        assert_eq!(words("a\x0bb"), [b"a\x0bb"], "a vertical tab ends no word");
        assert_eq!(words("\"a\"\x0bb"), [b"a", b"b"], "but may follow a quote");
    }

    #[test]
    fn double_quotes_know_escapes() {
        assert_eq!(words(r#""\n\r\t\b\a\q\"\\" x"#), [&b"\n\r\t\x08\x07q\"\\"[..], b"x"]);
        assert_eq!(words(r#""\x00\xfF\x1z""#), [b"\x00\xffx1z"]);
        assert_eq!(words(r#"GET """#), [&b"GET"[..], b""]);
        assert_eq!(words(r#"pre"fix""#), [b"prefix"], "a quote may begin within a word");
    }

    #[test]
    fn single_quotes_know_only_their_own_escape() {
        assert_eq!(words(r"'it\'s' '\n' '\\x'"), [&b"it's"[..], br"\n", br"\\x"]);
        assert_eq!(words(r"ab'c'"), [b"abc"]);
    }

    #[test]
    fn quotes_that_do_not_end_a_word_are_an_error() {
        for line in [r#"""#, "'", r#"a "b"#, r#""a"b"#, "'a'b", r#""a\"#, r#""a\""#, r"'a\'", r#"'a'"b""#, "\"a\r\n"] {
            assert_eq!(split(line.as_bytes()), Err(ProtocolError::UnbalancedQuotes), "{line:?}");
        }
    }

    #[test]
    fn a_zero_byte_ends_the_line() {
        assert_eq!(split(b"PING\0 \"").unwrap(), [b"PING"]);
    }
}
