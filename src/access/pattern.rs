//! A pattern for keys or channels, looked at once: most are a prefix and a star, and cost a comparison.

use crate::commands::glob;

/// A glob, taken apart as far as it helps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    text: Box<[u8]>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Everything,
    /// The text itself.
    Exactly,
    /// The text but for the star at its end.
    Prefix,
    Glob,
}

impl Pattern {
    pub fn new(text: &[u8]) -> Self {
        let is_plain = |text: &[u8]| !text.iter().any(|byte| b"*?[\\".contains(byte));
        let kind = match text.split_last() {
            Some((b'*', [])) => Kind::Everything,
            Some((b'*', prefix)) if is_plain(prefix) => Kind::Prefix,
            _ if is_plain(text) => Kind::Exactly,
            _ => Kind::Glob,
        };
        Pattern { text: text.into(), kind }
    }

    pub fn text(&self) -> &[u8] {
        &self.text
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        // As the servers have it: not even a star matches what is empty.
        if text.is_empty() {
            return self.text.is_empty();
        }
        match self.kind {
            Kind::Everything => true,
            Kind::Exactly => *self.text == *text,
            Kind::Prefix => text.starts_with(&self.text[..self.text.len() - 1]),
            Kind::Glob => glob::matches(&self.text, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_short_cut_changes_no_answer(pattern in "[ab*?\\[\\]\\\\]{0,6}", text in "[ab*?]{0,6}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            let expected = if text.is_empty() { pattern.is_empty() } else { glob::matches(pattern, text) };
            prop_assert_eq!(Pattern::new(pattern).matches(text), expected);
        }
    }
}
