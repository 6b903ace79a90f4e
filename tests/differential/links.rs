//! In the end nobody is connected, and every link that was lent says that it belongs to nobody.

use std::time::Duration;

use super::common::within;
use super::connection::field;
use super::side::Side;

/// What a link at rest looks like in the upstream's `CLIENT LIST`.
const AT_REST: [(&str, &str); 8] = [
    ("name", ""),
    ("flags", "N"),
    ("sub", "0"),
    ("psub", "0"),
    ("ssub", "0"),
    ("watch", "0"),
    ("redir", "-1"),
    ("lib-name", ""),
];

/// The link that carries something of a client who has gone, if it stays so.
pub fn stained(side: &mut Side, patience: Duration) -> Option<String> {
    if side.is_direct() {
        return None;
    }
    let mut found = None;
    // A link is washed while nobody waits for it.
    within(patience, || {
        found = side.control.clients().ok()?.iter().find_map(|line| stain(line));
        found.is_none().then_some(())
    });
    found
}

fn stain(line: &str) -> Option<String> {
    // Lockgate's own are its own business, and so is the one who looks on, who asks just now.
    if matches!(field(line, "user"), Some("gate"))
        || field(line, "cmd").is_some_and(|cmd| cmd.starts_with("client|list"))
    {
        return None;
    }
    let wrong = AT_REST.iter().find(|(name, value)| field(line, name).is_some_and(|is| is != *value));
    wrong.map(|(name, _)| format!("a link at rest has a '{name}' of somebody who has gone:\n  {line}"))
}
