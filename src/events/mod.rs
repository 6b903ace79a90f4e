//! What has happened to locks and among nodes, and who is told of it. `Happened` is made in one place, where the outcome is known; all that
//! keeps or passes on anything about it (statistics, slow log, events) takes it from there.

mod hub;
mod text;

pub use hub::{Ears, Events, Feed, Outgoing};
pub use text::shown;

use std::sync::Arc;

use crate::domain::{Fence, Level, LockKey};

/// Without a lock: why a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// At once: another holds it, or the queue is full.
    Refused,
    /// Its wait was over.
    TimedOut,
    /// Cancelled, released, unblocked, taken over by the owner's newer call, or its client left.
    Cancelled,
    /// With an error.
    Failed,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What<'a> {
    /// A call does not get the lock at once, and waits.
    Queued {
        /// Its level.
        level: Level,
    },
    /// A call got the lock, or its holder asked for it again.
    Acquired {
        /// How long the call had waited, in µs; `None` where it could not wait.
        waited_us: Option<u64>,
        /// The lease, in ms; `None` where it has no end.
        lease_ms: Option<u64>,
    },
    /// A call ended without the lock.
    Ended {
        /// Why.
        why: Without,
        /// How long the call had waited, in µs; `None` where it could not wait.
        waited_us: Option<u64>,
    },
    /// The holder let go of it.
    Released {
        /// For how long it was held, in µs, where that is known.
        held_us: Option<u64>,
    },
    /// It was taken from its holder (`LOCK.FORCE`).
    Forced {
        /// For how long it was held, in µs, where that is known.
        held_us: Option<u64>,
    },
    /// Its holder gave it to another.
    Transferred {
        /// Who holds it now.
        to: &'a [u8],
        /// For how long the one before held it, in µs, where that is known.
        held_us: Option<u64>,
    },
    /// Its lease ended without a release.
    Expired,
    /// A lock that was renewed (`KEEPALIVE`, `EPHEMERAL`) was lost all the same.
    Lost {
        /// `expired`, `taken` or `freed`.
        reason: &'a str,
    },
    /// A call was refused because its user may not make it.
    Denied {
        /// What the client was told.
        why: &'a str,
    },
    /// A cycle of waits was broken by ending the call of this owner.
    Deadlock {
        /// Owners and keys in turn.
        cycle: &'a str,
        /// How the victim was chosen.
        policy: &'a str,
    },
}

impl What<'_> {
    /// As the audit names it; `None` for what it does not hold: who waits has changed nothing.
    fn audited_name(&self) -> Option<&'static str> {
        match self {
            What::Denied { .. } => Some("denied"),
            What::Queued { .. } | What::Ended { .. } => None,
            what => what.name(),
        }
    }

    /// As events name it; `None` for what is counted only.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            What::Queued { .. } => "queued",
            What::Acquired { .. } => "acquired",
            What::Ended { why: Without::TimedOut, .. } => "timeout",
            What::Ended { why: Without::Cancelled, waited_us: Some(_) } => "cancelled",
            What::Ended { .. } | What::Denied { .. } => return None,
            What::Released { .. } => "released",
            What::Forced { .. } => "forced",
            What::Transferred { .. } => "transferred",
            What::Expired => "expired",
            What::Lost { .. } => "lost",
            What::Deadlock { .. } => "deadlock",
        })
    }
}

/// Who brought it about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// Lockgate's number of the client.
    pub session: u64,
    /// The user that it is.
    pub user: Arc<[u8]>,
}

/// Something that has happened to a lock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Happened<'a> {
    /// What.
    pub what: What<'a>,
    /// To which lock.
    pub key: &'a LockKey,
    /// Who held it, holds it or asked for it; empty where that is not known.
    pub owner: &'a [u8],
    /// The fence of the hold, where there is one and it is known.
    pub fence: Option<Fence>,
    /// When, Unix time in ms.
    pub at_ms: u64,
    /// Who brought it about, where a client did and that is known.
    pub by: Option<&'a By>,
}
