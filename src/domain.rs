//! The words of the trade: what a key, an owner, a fence and a level are. Bytes become these once, at the edge.

use std::fmt;
use std::sync::Arc;

/// A Redis logical database, as `SELECT` numbers it.
pub type Db = u32;

/// The lock on a resource is the Redis key of that name, in one logical database. Binary-safe, may be empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey {
    /// The logical database of the connection that names the key.
    pub db: Db,
    /// The key itself.
    pub name: Arc<[u8]>,
}

impl LockKey {
    /// The key `name` in database `db`.
    pub fn new(db: Db, name: &[u8]) -> Self {
        LockKey { db, name: name.into() }
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.db, self.name.escape_ascii())
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name.escape_ascii())
    }
}

/// One actor. Any bytes but 0x1F, which separates the fields of a lock's value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(Arc<[u8]>);

/// The byte between the fields of a lock's value.
pub const FIELD_SEPARATOR: u8 = 0x1F;

impl OwnerId {
    /// `None` where `bytes` contain 0x1F.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (!bytes.contains(&FIELD_SEPARATOR)).then(|| OwnerId(bytes.into()))
    }

    /// The owner as the client wrote it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Grows with every change of holder, so that storage can turn away a holder of the past. Below 2^53.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fence(pub u64);

/// How urgent a call is; a higher level is granted first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// 0
    Low,
    /// 1, what a call without `PRIORITY` gets.
    #[default]
    Normal,
    /// 2
    High,
    /// 3
    Critical,
}

impl Level {
    /// `low|normal|high|critical` in any case, or `0..3`.
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word.to_ascii_lowercase().as_slice() {
            b"low" | b"0" => Some(Level::Low),
            b"normal" | b"1" => Some(Level::Normal),
            b"high" | b"2" => Some(Level::High),
            b"critical" | b"3" => Some(Level::Critical),
            _ => None,
        }
    }

    /// The level as it stands in a lock's value.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Level::Low => "low",
            Level::Normal => "normal",
            Level::High => "high",
            Level::Critical => "critical",
        }
    }
}

/// Which frames a session or a link speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Resp {
    /// RESP2, what every connection begins with.
    #[default]
    V2,
    /// RESP3, after `HELLO 3`.
    V3,
}
