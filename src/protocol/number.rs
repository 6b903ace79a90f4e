//! Decimal integers as Redis reads them: one spelling for each number, nothing around it.

/// The integer that `text` spells. No plus sign, no leading zero, no `-0`, no blanks.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    let mut value = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Counted downwards, because there is one negative number more than there are positive ones.
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if is_negative { Some(value) } else { value.checked_neg() }
}

/// More digits than any sane length has, and few enough that adding two to it never overflows.
const PLAIN_DIGITS_MAX: usize = 18;

/// The common case of a length line, read in one go: a kind byte (not looked at), digits, CR and one more byte (not
/// looked at) at the front of `input`. The number and the bytes of the line, or `None` for whatever is not so plain.
#[inline]
pub(super) fn plain_line(input: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    let mut at = 1;
    loop {
        let digit = input.get(at)?.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        if at > PLAIN_DIGITS_MAX {
            return None;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
    }
    let is_plain = input[at] == b'\r' && at > 1 && input.len() > at + 1 && (input[1] != b'0' || at == 2);
    is_plain.then_some((value, at + 2))
}

/// Appends `number` in decimal.
pub(super) fn push(number: i64, out: &mut Vec<u8>) {
    // 19 digits and a sign.
    let mut text = [0u8; 20];
    let mut at = text.len();
    let mut left = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_spelling() {
        for number in [0, 1, -1, 9, 10, 512, -512, 1 << 53, i64::MAX, i64::MIN] {
            let text = number.to_string();
            assert_eq!(parse(text.as_bytes()), Some(number));
            let mut pushed = Vec::new();
            push(number, &mut pushed);
            assert_eq!(pushed, text.as_bytes());
        }
        for wrong in ["", "-", "-0", "+1", "01", "-01", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_plain_line_is_read_in_one_go_and_anything_else_is_left_to_others() {
        assert_eq!(plain_line(b"$0\r\nrest"), Some((0, 4)));
        assert_eq!(plain_line(b"$536870912\r\n"), Some((536_870_912, 12)));
        assert_eq!(plain_line(b"$999999999999999999\r\n"), Some((999_999_999_999_999_999, 21)));
        for other in ["", "$", "$1", "$1\r", "$\r\n", "$01\r\n", "$-1\r\n", "$1x\r\n", "$9999999999999999999\r\n"] {
            assert_eq!(plain_line(other.as_bytes()), None, "{other:?}");
        }
    }
}
