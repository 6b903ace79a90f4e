//! A wait and what it waits for, in words that all nodes understand: what a search for deadlocks is made of.

use std::sync::Arc;

use crate::domain::{CallId, Fence, Level, LockKey, OwnerId};

/// Names one waiting call among all nodes. It is never given twice, so that whoever reads it twice has read of one and the same wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaitId {
    /// The node where the call waits.
    pub node: Arc<str>,
    /// The call.
    pub call: CallId,
}

/// A call that waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Its name.
    pub id: WaitId,
    /// The connection that it blocks, by the number its node gave it.
    pub connection: u64,
    /// Who waits; `None` for a `SET NX`, which is an actor of its own.
    pub owner: Option<OwnerId>,
    /// The owner that others see.
    pub shown: Arc<[u8]>,
    /// What it waits for.
    pub key: LockKey,
    /// How urgently.
    pub level: Level,
    /// Since when, Unix time in µs by the upstream's clock.
    pub since_us: u64,
}

/// Who holds a lock, as its value says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeldBy {
    /// An owner, under a fence that tells this hold from all others.
    Owner {
        /// Who.
        owner: OwnerId,
        /// Under which fence.
        fence: Fence,
        /// Since when, Unix time in ms.
        since_ms: u64,
    },
    /// Whoever wrote this value by a `SET NX`.
    Plain {
        /// The value, or its beginning.
        shown: Arc<[u8]>,
        /// A print of all of it.
        print: u64,
    },
}

/// Longer values of `SET NX` are shown by their beginning, in bytes.
const SHOWN_MAX: usize = 256;

impl HeldBy {
    /// The holder by a value that is none of `LOCK.*`'s.
    pub fn plain(value: &[u8]) -> Self {
        HeldBy::Plain { shown: value[..value.len().min(SHOWN_MAX)].into(), print: print(value) }
    }

    /// What tells this hold from others on its key, in a word.
    pub fn print(&self) -> u64 {
        match self {
            HeldBy::Owner { owner, fence, .. } => print(owner.as_bytes()) ^ fence.0.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            HeldBy::Plain { print, .. } => *print,
        }
    }

    /// The owner that others see.
    pub fn shown(&self) -> &[u8] {
        match self {
            HeldBy::Owner { owner, .. } => owner.as_bytes(),
            HeldBy::Plain { shown, .. } => shown,
        }
    }
}

/// The same on all nodes and in all versions (FNV-1a).
pub fn print(value: &[u8]) -> u64 {
    value.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// One hold on one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The key.
    pub key: LockKey,
    /// Who holds it.
    pub by: HeldBy,
}

/// Why a hold does not end before a wait does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// The holder himself waits: an owner is one actor, wherever he acts.
    Owner,
    /// The connection that took the lock is blocked by the waiting call.
    Took,
    /// A `SET NX` blocks the connection over which the owner got the lock: behind it he cannot release it there.
    Over,
    /// The holder's release has been sent, and stands behind the waiting call on its connection.
    Behind,
}

/// A wait, and who holds what it waits for as far as its node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The wait.
    pub wait: Wait,
    /// `None` where nobody does, or nobody knows.
    pub by: Option<HeldBy>,
}

impl Told {
    /// What it waits for to end.
    pub fn hold(&self) -> Option<Hold> {
        Some(Hold { key: self.wait.key.clone(), by: self.by.clone()? })
    }
}

/// An edge: `hold` does not end before `to` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What somebody waits for.
    pub hold: Hold,
    /// Why it does not end.
    pub via: Via,
    /// The wait that has to end first.
    pub to: Told,
}
