//! Redis' glob patterns: `*`, `?`, `[a-z]`, `[^…]`, and `\` before a character that stands for itself.

/// `true` if all of `text` matches `pattern`. Time is at most the product of the two lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte)
}

/// As [`matches`], and ASCII letters match in any case.
pub fn matches_in_any_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte.to_ascii_lowercase())
}

fn matches_folded(pattern: &[u8], text: &[u8], fold: fn(u8) -> u8) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when a byte does not fit: just after the last star, which then takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        match (p < pattern.len(), text.get(t)) {
            (false, None) => return true,
            (true, Some(&byte)) => {
                if let Some(next) = one(pattern, p, byte, fold) {
                    (p, t) = (next, t + 1);
                    continue;
                }
            }
            _ => {}
        }
        match star {
            Some((after, taken)) if taken < text.len() => {
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// If the element of `pattern` at `p` takes `byte`: where the next element stands.
fn one(pattern: &[u8], p: usize, byte: u8, fold: fn(u8) -> u8) -> Option<usize> {
    let byte = fold(byte);
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte, fold),
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == byte).then_some(p + 2),
        literal => (fold(literal) == byte).then_some(p + 1),
    }
}

/// `[…]` from just after its bracket. As in Redis, one that is not closed ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8, fold: fn(u8) -> u8) -> Option<usize> {
    let is_negated = pattern.get(p) == Some(&b'^');
    if is_negated {
        p += 1;
    }
    let mut is_in = false;
    loop {
        match (pattern.get(p), pattern.get(p + 1), pattern.get(p + 2)) {
            (None, ..) => break,
            (Some(b']'), ..) => {
                p += 1;
                break;
            }
            (Some(b'\\'), Some(literal), _) => {
                is_in |= fold(*literal) == byte;
                p += 2;
            }
            (Some(from), Some(b'-'), Some(to)) => {
                let (from, to) = (fold(*from), fold(*to));
                is_in |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            (Some(literal), ..) => {
                is_in |= fold(*literal) == byte;
                p += 1;
            }
        }
    }
    (is_in != is_negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::{matches, matches_in_any_case};

    #[test]
    fn patterns_match_as_in_redis() {
        let name = b"lock.acquire";
        for pattern in
            ["*", "LOCK.*", "lock.acquire", "l*e", "*.*", "lock?a[a-c]quire", "lock.[^b]*", "lock\\.acquire", "**e"]
        {
            assert!(matches_in_any_case(pattern.as_bytes(), name), "{pattern}");
        }
        for pattern in ["", "lock", "l*x", "lock.acquire?", "[^l]*", "lock.[b-z]*", "*q", "lock.acquire\\"] {
            assert!(!matches_in_any_case(pattern.as_bytes(), name), "{pattern}");
        }
        assert!(matches_in_any_case(b"*", b"") && matches_in_any_case(b"", b""));
    }
    #[test]
    fn case_counts_where_keys_are_matched() {
        assert!(matches(b"lock:*", b"lock:\x00\xff") && matches(b"a[d-b]e", b"ace"));
        assert!(!matches(b"lock:*", b"LOCK:a") && !matches(b"a[b-d]e", b"aCe"));
    }
}
