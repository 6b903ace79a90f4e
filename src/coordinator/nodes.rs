//! The nodes that share an upstream: `LOCK.NODES` and `LOCK.CLEANUP`.

use super::{Asker, Coordinator, LockReply};
use crate::upstream::call::Caller;

impl Coordinator {
    /// `LOCK.NODES`
    pub(super) async fn nodes<C: Caller>(&self, _asker: &Asker<C>) -> LockReply {
        LockReply::Error("ERR LOCK.NODES is answered from the next build on".into())
    }

    /// `LOCK.CLEANUP`
    pub(super) async fn cleanup<C: Caller>(&self, _asker: &Asker<C>) -> LockReply {
        LockReply::Error("ERR LOCK.CLEANUP is answered from the next build on".into())
    }
}
