//! How one line holds the one before.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What stands for the line before the first.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where a chain has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The number of the last line; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Link {
    fn default() -> Self {
        Link { seq: 0, hash: NOTHING.to_owned() }
    }
}

impl Link {
    /// The line that `object` becomes behind this one, with its end, and where the chain is then.
    pub fn next(&self, object: &str) -> (String, Link) {
        let open = object.strip_suffix('}').unwrap_or(object);
        let seq = self.seq + 1;
        let line = format!("{open},\"seq\":{seq},\"prev\":\"{}\"}}", self.hash);
        let hash = hash(line.as_bytes());
        (line + "\n", Link { seq, hash })
    }

    /// What a line (without its end) says of itself: its number, and the hash of the one before.
    pub fn read(line: &[u8]) -> Option<(Link, String)> {
        let object: Value = serde_json::from_slice(line).ok()?;
        let (seq, before) = (object.get("seq")?.as_u64()?, object.get("prev")?.as_str()?.to_owned());
        Some((Link { seq, hash: hash(line) }, before))
    }
}

fn hash(line: &[u8]) -> String {
    Sha256::digest(line).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object that tells of lines that were left out.
pub(super) fn gap(count: u64) -> String {
    json!({ "event": "audit_gap", "left_out": count }).to_string()
}

/// The object that tells of the beginning of a line, which a crash has left and which was taken off.
pub(super) fn torn(bytes: usize) -> String {
    json!({ "event": "audit_torn", "bytes": bytes }).to_string()
}
