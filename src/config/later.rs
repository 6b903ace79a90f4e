//! Keys of the contract that this version does not serve. What would change how Lockgate behaves is refused: an `[acl]`
//! that is silently ignored would make its operator believe in a protection that is not there.

use super::tree::Value;

/// A key or a whole table that a later version brings.
pub(super) struct Later {
    /// The key, or the table with all that is in it.
    pub name: &'static str,
    /// Values that say no more than what this version does anyway.
    pub fits: fn(&Value) -> bool,
    /// What comes later, and what to do until then.
    pub says: &'static str,
}

pub(super) const LATER: &[Later] = &[
    Later {
        name: "mode",
        fits: |value| is_word(value, "on"),
        says: "shadow and off come in a later version; write \"on\" or leave it out",
    },
    Later {
        name: "acl",
        fits: |_| false,
        says: "Lockgate's own ACL comes in a later version, and this one would enforce none of it; take the table out \
               and use the upstream's ACL, which clients authenticate against through Lockgate",
    },
];

/// The entry for a key, by its own name or by that of the table it is in.
pub(super) fn find(name: &str) -> Option<&'static Later> {
    let exact = LATER.iter().find(|later| later.name == name);
    exact.or_else(|| LATER.iter().find(|later| name.strip_prefix(later.name).is_some_and(|rest| rest.starts_with('.'))))
}

fn is_word(value: &Value, word: &str) -> bool {
    matches!(value, Value::Text(text) if text.eq_ignore_ascii_case(word))
}
