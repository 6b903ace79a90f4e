//! One command to the upstream, one whole raw reply back. What the lock engine sees of the links.

use std::future::Future;

use crate::domain::Replicas;

/// Why a command brought no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Never reached the upstream: asking again is safe.
    #[error("the upstream cannot be reached: {0}")]
    Unavailable(String),
    /// Sent, but the link was lost before the reply: it may or may not have run.
    #[error("the link to the upstream was lost before the reply: {0}")]
    Lost(String),
}

/// What came of waiting for replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicated {
    /// So many have all that was written before.
    pub have_it: u64,
    /// So many were to.
    pub needed: u64,
    /// The raw reply to `GET` on the key that was asked about, behind all of it.
    pub value: Vec<u8>,
}

/// A way to the upstream under one identity and in one database. Cheap to clone, bound to its worker thread.
///
/// Commands sent through one caller run in the order of the calls to [`call`](Caller::call): a command is sent when `call` is
/// called, not when its future is first polled. Dropping the future does not unsend the command.
pub trait Caller: Clone + 'static {
    /// Sends `request`, one whole RESP command, and resolves to its whole reply.
    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static;

    /// Whether the server is known to have the script of this digest, where the next command has its place among others: what is asked
    /// for once more in full runs later than what was sent behind it.
    fn has_script(&self, _digest: &'static str) -> bool {
        true
    }

    /// The server has that script now, or (`false`) has lost what it had.
    fn notes_script(&self, _digest: &'static str, _is_there: bool) {}

    /// Resolves once a link stands over which the next command goes at once; at once itself where one does. What is decided by
    /// what was last known of the upstream is decided behind this: a link that has to be dialled first may find another master.
    /// Then it brings the reply to `INFO replication`, or the error in its place.
    fn reach(&self) -> impl Future<Output = Result<Option<Vec<u8>>, CallError>> + 'static {
        std::future::ready(Ok(None))
    }

    /// Waits until replicas have all that was written before, and then looks at `key` on the same connection: what is found there was
    /// written in the life of the server whose replicas have it. One `WAIT` serves all who ask meanwhile. `None` where this way cannot.
    fn replicated(
        &self,
        _key: &[u8],
        _replicas: Replicas,
    ) -> impl Future<Output = Result<Option<Replicated>, CallError>> + 'static {
        std::future::ready(Ok(None))
    }
}
