//! Arguments as the servers read them: numbers, words up to a zero byte, lists with quotes.

/// An integer in exactly the form in which the servers write one.
pub(super) fn whole_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// The number at the front of a text, behind blanks and a sign; 0 where there is none.
pub(super) fn leading_number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut number: i64 = 0;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        number = number.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    }
    if is_negative { -number } else { number }
}

/// Up to the first zero byte: what a server that takes it for a C string sees.
pub(super) fn up_to_zero(text: &[u8]) -> &[u8] {
    memchr::memchr(0, text).map_or(text, |end| &text[..end])
}

/// A blank as C sees it, or a zero byte: neither may stand in names and patterns.
pub(super) fn has_blank(text: &[u8]) -> bool {
    text.iter().any(|byte| is_blank(*byte) || *byte == 0)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Splits at blanks; quotes hold words together, as on the servers' own command lines. `None`: quotes do not match.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let line = up_to_zero(line);
    let (mut words, mut at) = (Vec::new(), 0);
    loop {
        while line.get(at).is_some_and(|byte| is_blank(*byte)) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(&byte) = line.get(at).filter(|byte| !is_blank(**byte)) {
            at += 1;
            match byte {
                b'"' | b'\'' => at = quoted(line, at, byte, &mut word)?,
                _ => word.push(byte),
            }
        }
        words.push(word);
    }
}

/// Reads on from just behind an opening quote; gives the place behind the closing one, which must end the word.
fn quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match (*line.get(at)?, line.get(at + 1)) {
            (b'\\', Some(b'\'')) if quote == b'\'' => {
                word.push(b'\'');
                at += 2;
            }
            (b'\\', Some(&escape)) if quote == b'"' => at = escaped(line, at, escape, word),
            (byte, after) if byte == quote => {
                return after.is_none_or(|after| is_blank(*after)).then_some(at + 1);
            }
            (byte, _) => {
                word.push(byte);
                at += 1;
            }
        }
    }
}

fn escaped(line: &[u8], at: usize, escape: u8, word: &mut Vec<u8>) -> usize {
    let digit = |at: usize| line.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    if let (b'x', Some(high), Some(low)) = (escape, digit(at + 2), digit(at + 3)) {
        word.extend(u8::try_from(high * 16 + low));
        return at + 4;
    }
    word.push(match escape {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    });
    at + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_as_servers_write_them_are_whole() {
        for (text, number) in [("0", 0), ("12", 12), ("-7", -7), ("9223372036854775807", i64::MAX)] {
            assert_eq!(whole_number(text.as_bytes()), Some(number));
        }
        for text in ["", "-", "-0", "01", "+1", " 1", "1 ", "1x", "9223372036854775808"] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_number_at_the_front_may_be_followed_by_anything() {
        for (text, number) in [("12x", 12), (" +3", 3), ("-4 5", -4), ("x", 0), ("", 0)] {
            assert_eq!(leading_number(text.as_bytes()), number, "{text}");
        }
        assert_eq!(leading_number(b"99999999999999999999999"), i64::MAX);
    }

    #[test]
    fn quotes_hold_words_together() {
        let words = |line: &str| {
            let lossy = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
            split(line.as_bytes()).map(|words| words.iter().map(lossy).collect::<Vec<_>>())
        };
        assert_eq!(words(" a  b\t"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(words(r#""a b" 'c\'d' "\x41\n""#), Some(vec!["a b".into(), "c'd".into(), "A\n".into()]));
        assert_eq!(words(""), Some(vec![]));
        assert_eq!(words("\"a"), None);
        assert_eq!(words("'a'b"), None);
    }
}
