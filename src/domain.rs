//! The words of the trade: what a key, an owner, a fence and a level are. Bytes become these once, at the edge.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A Redis logical database, as `SELECT` numbers it.
pub type Db = u32;

/// Hashes what clients name, often: several times faster than the standard library's, and seeded anew in each process all the same.
pub type Hashing = foldhash::quality::RandomState;
/// A map that is looked into for every lock command.
pub type FastMap<K, V> = HashMap<K, V, Hashing>;
/// A set of that kind.
pub type FastSet<K> = HashSet<K, Hashing>;

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

/// How many replicas have to have a grant before anybody is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replicas {
    /// None has to.
    #[default]
    NotAsked,
    /// So many, at least one.
    AtLeast(u32),
    /// So many that they and the master are more than half of all servers.
    Majority,
}

impl Replicas {
    /// How many that is, where the master has had `seen` replicas at most: one that has gone makes no majority smaller.
    pub fn needed(self, seen: u64) -> u64 {
        match self {
            Replicas::NotAsked => 0,
            Replicas::AtLeast(count) => u64::from(count),
            Replicas::Majority => seen.div_ceil(2).max(1),
        }
    }
}

/// Grows with every change of holder, so that storage can turn away a holder of the past. Below 2^53.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fence(pub u64);

/// The expiry that a `SET NX` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PlainLease {
    /// So many ms from the grant.
    Ms(u64),
    /// At that Unix time in ms.
    AtMs(u64),
    /// Until somebody deletes the key.
    Forever,
}

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

/// The time of day, Unix time in µs: the system's, unless another is given.
#[derive(Clone, Default)]
pub struct WallClock(Option<Arc<dyn Fn() -> u64 + Send + Sync>>);

impl WallClock {
    /// A clock that tells what `tell` returns.
    pub fn new(tell: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        WallClock(Some(Arc::new(tell)))
    }

    /// What it says now. It may go back, as the system's may.
    pub fn unix_us(&self) -> u64 {
        match &self.0 {
            Some(tell) => tell(),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            }
        }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.0.is_some() { "a clock of its own" } else { "the system's clock" })
    }
}

/// A point on this node's steady clock, in microseconds since the node began. Never goes back, never leaves the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// So many milliseconds later.
    pub fn plus_ms(self, ms: u64) -> Self {
        Moment(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Microseconds from `earlier` until this moment, 0 where it is not earlier.
    pub fn since_us(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One `LOCK.ACQUIRE` of one client on this node. Never given twice, not even after a restart: the numbers begin at the Unix
/// time in microseconds, and no node takes a million calls a second. Written in base 36, to keep a lock's value short.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

impl CallId {
    /// The number as it stands in a lock's value; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_plain = !text.is_empty() && text.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        let number = u64::from_str_radix(std::str::from_utf8(text).ok()?, 36).ok()?;
        is_plain.then_some(CallId(number))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 13];
        let (mut at, mut rest) = (digits.len(), self.0);
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        f.write_str(std::str::from_utf8(&digits[at..]).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_number_reads_back_as_it_was_written() {
        for number in [0, 35, 36, 1_763_740_000_000_000, u64::MAX] {
            assert_eq!(CallId::parse(CallId(number).to_string().as_bytes()), Some(CallId(number)));
        }
        for text in ["", "+1", "A", "1 ", "zzzzzzzzzzzzzzzz"] {
            assert_eq!(CallId::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
