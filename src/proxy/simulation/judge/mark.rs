//! What tells one hold of a lock from another, and what is known of each.

use super::Lease;
use crate::store::value::Fields;

/// What tells one hold from another: the owner and the fence, or the whole value of a `SET NX`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Of LOCK.*.
    Fenced(Vec<u8>, u64),
    /// Of SET NX.
    Plain(Vec<u8>),
    /// A claim of a SET NX, by node and call.
    Claimed(Vec<u8>),
}

impl Mark {
    pub fn of(value: &[u8]) -> (Mark, bool) {
        match Fields::read(value) {
            Some(fields) if fields.is_claim && fields.fence.0 == 0 => {
                (Mark::Claimed([fields.node, b":", fields.call].concat()), true)
            }
            Some(fields) => (Mark::Fenced(fields.owner.to_vec(), fields.fence.0), fields.is_claim),
            None => (Mark::Plain(value.to_vec()), false),
        }
    }

    pub fn owner(&self) -> &[u8] {
        match self {
            Mark::Fenced(owner, _) => owner,
            // `value` is `person.connection.number`.
            Mark::Plain(value) => value.split(|byte| *byte == b'.').next().unwrap_or_default(),
            Mark::Claimed(_) => b"",
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mark::Fenced(owner, fence) => write!(f, "{}#{fence}", owner.escape_ascii()),
            Mark::Plain(value) => write!(f, "'{}'", value.escape_ascii()),
            Mark::Claimed(call) => write!(f, "a claim of {}", call.escape_ascii()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub mark: Mark,
    pub is_claim: bool,
    pub is_bridge: bool,
    pub begun_us: u64,
    pub is_told: bool,
    /// The connection on which its person was told last.
    pub told_on: Option<u64>,
    /// Ended by a node, and nobody had asked for that.
    pub taken_back_us: Option<u64>,
}

/// What a key held from a moment on.
#[derive(Debug, Clone)]
pub struct Held {
    pub since_us: u64,
    /// `None` where nobody held it.
    pub value: Option<Vec<u8>>,
    /// Until when, Unix ms; `None` for ever.
    pub until_ms: Option<u64>,
}

impl Held {
    /// The lease that was written then, in ms.
    pub fn lease_ms(&self) -> Option<u64> {
        self.until_ms.map(|until| until.saturating_sub(self.since_us / 1000))
    }

    /// It was written with that lease.
    pub fn has(&self, lease: Lease) -> bool {
        match lease {
            Lease::Ms(ms) => self.lease_ms() == Some(ms),
            Lease::UntilMs(until_ms) => self.until_ms == Some(until_ms),
        }
    }

    /// It is no lock at all.
    pub fn is_data(&self) -> bool {
        self.value.is_some() && self.until_ms.is_none()
    }

    pub fn fields(&self) -> Option<Fields<'_>> {
        self.value.as_deref().and_then(Fields::read)
    }

    /// It is only kept for a waiter: nobody holds it yet.
    pub fn is_claim(&self) -> bool {
        self.fields().is_some_and(|fields| fields.is_claim)
    }

    /// `owner` holds it, under that fence if one is named; a claim is nobody's hold.
    pub fn is_held_by(&self, owner: &[u8], fence: Option<u64>) -> bool {
        self.fields().is_some_and(|fields| {
            fields.owner == owner && !fields.is_claim && fence.is_none_or(|fence| fence == fields.fence.0)
        })
    }

    /// It names `owner`, as its holder or by a claim.
    pub fn names(&self, owner: &[u8]) -> bool {
        match self.fields() {
            Some(fields) => fields.owner == owner,
            None => self.value.as_deref() == Some(owner),
        }
    }
}

#[derive(Debug, Default)]
pub struct Lock {
    pub hold: Option<Hold>,
    /// All that it held, as far as a day goes.
    pub story: Vec<Held>,
    pub past: Vec<Hold>,
    pub free_since_us: u64,
    /// When somebody took it from whoever held it, or tried to.
    pub rough_us: Option<u64>,
}

impl Lock {
    /// Nobody has held it yet.
    pub const NEVER: Lock = Lock { hold: None, story: Vec::new(), past: Vec::new(), free_since_us: 0, rough_us: None };
}
