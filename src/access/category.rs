//! Categories of commands: a bit each.

/// A set of categories.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Categories(u64);

impl Categories {
    /// None of them.
    pub const NONE: Categories = Categories(0);
    /// `@keyspace`
    pub const KEYSPACE: Categories = Categories(1);
    /// `@read`
    pub const READ: Categories = Categories(1 << 1);
    /// `@write`
    pub const WRITE: Categories = Categories(1 << 2);

    /// `true` if one of `others` is among these.
    pub const fn has_any(self, others: Categories) -> bool {
        self.0 & others.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, others: Categories) -> Categories {
        Categories(self.0 | others.0)
    }
}

/// In the order in which `ACL CAT` tells them.
const KNOWN: [&str; 22] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
    // Ours.
    "lock",
];

/// As many as a set has bits.
const MAX: usize = 64;

/// The names: those of every server, `lock`, and those that an upstream's modules brought.
#[derive(Clone, Debug)]
pub struct CategoryNames(Vec<Box<str>>);

impl Default for CategoryNames {
    fn default() -> Self {
        CategoryNames(KNOWN.iter().map(|&name| name.into()).collect())
    }
}

impl CategoryNames {
    /// The category of that name, without its `@` and in any case.
    pub fn find(&self, name: &[u8]) -> Option<Categories> {
        let place = self.0.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Some(Categories(1 << place))
    }

    /// The same; a name not heard of before is one more category, as long as there is room.
    pub fn find_or_add(&mut self, name: &[u8]) -> Categories {
        if let Some(found) = self.find(name) {
            return found;
        }
        match std::str::from_utf8(name) {
            Ok(name) if self.0.len() < MAX && !name.is_empty() => {
                self.0.push(name.to_ascii_lowercase().into());
                Categories(1 << (self.0.len() - 1))
            }
            _ => Categories::NONE,
        }
    }

    /// Each with its name, in the order of `ACL CAT`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Categories)> {
        self.0.iter().enumerate().map(|(place, name)| (&**name, Categories(1 << place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_modules_may_add_theirs() {
        let mut names = CategoryNames::default();
        assert_eq!(names.find(b"ReAd"), Some(Categories::READ));
        assert_eq!(names.find(b"write"), Some(Categories::WRITE));
        assert_eq!(names.find(b"keyspace"), Some(Categories::KEYSPACE));
        assert_eq!(names.find(b"json"), None);
        let json = names.find_or_add(b"json");
        assert_eq!(names.find(b"json"), Some(json));
        for number in 0..100 {
            names.find_or_add(format!("more{number}").as_bytes());
        }
        assert_eq!(names.iter().count(), MAX);
        assert_eq!(names.find_or_add(b"toomany"), Categories::NONE);
    }
}
