//! A key pattern, taken apart once, so that a key which does not fit is turned away by comparing a few bytes.

use crate::commands::glob;

/// A glob over key names, as Redis' `KEYS` understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Shape);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// `orders`: one name.
    Exactly(Box<[u8]>),
    /// `lock:*`, `*:lock` and `a*b`: what stands before and behind the only star.
    Around { front: Box<[u8]>, back: Box<[u8]> },
    /// Anything else, and the literal bytes that it begins with.
    Glob { front: Box<[u8]>, glob: Box<[u8]> },
}

impl Pattern {
    /// Takes `glob` apart.
    pub fn new(glob: &[u8]) -> Self {
        let is_special = |byte: &u8| b"*?[\\".contains(byte);
        let Some(first) = glob.iter().position(is_special) else {
            return Pattern(Shape::Exactly(glob.into()));
        };
        let (front, rest) = glob.split_at(first);
        Pattern(match rest.split_first() {
            Some((b'*', back)) if !back.iter().any(is_special) => {
                Shape::Around { front: front.into(), back: back.into() }
            }
            _ => Shape::Glob { front: front.into(), glob: glob.into() },
        })
    }

    /// `true` if all of `name` fits.
    pub fn matches(&self, name: &[u8]) -> bool {
        match &self.0 {
            Shape::Exactly(literal) => name == &**literal,
            Shape::Around { front, back } => {
                name.len() >= front.len() + back.len() && name.starts_with(front) && name.ends_with(back)
            }
            Shape::Glob { front, glob } => name.starts_with(front) && glob::matches(glob, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pattern_taken_apart_matches_what_its_glob_matches(
            pattern in "[ab*?\\[\\]\\\\^-]{0,8}",
            name in "[ab*\\[\\]\\\\]{0,8}",
        ) {
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern::new(pattern).matches(name), glob::matches(pattern, name));
        }
    }

    #[test]
    fn the_usual_patterns_need_no_glob_matcher() {
        for pattern in ["lock:*", "*:lock", "a*b", "*", "orders"] {
            assert!(!matches!(Pattern::new(pattern.as_bytes()).0, Shape::Glob { .. }), "{pattern}");
        }
    }
}
