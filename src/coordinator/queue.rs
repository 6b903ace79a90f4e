//! Those who wait for one lock: `LOCK.QUEUE` and `LOCK.PROMOTE`.

use super::{Asker, Coordinator, LockReply};
use crate::domain::{Level, LockKey, OwnerId};
use crate::upstream::call::Caller;

impl Coordinator {
    /// `LOCK.QUEUE`
    pub(super) async fn queue<C: Caller>(&self, _asker: &Asker<C>, _key: LockKey, _count: Option<u64>) -> LockReply {
        LockReply::Error("ERR LOCK.QUEUE is answered from the next build on".into())
    }

    /// `LOCK.PROMOTE`
    pub(super) async fn promote<C: Caller>(
        &self,
        _asker: &Asker<C>,
        _key: LockKey,
        _owner: OwnerId,
        _level: Level,
    ) -> LockReply {
        LockReply::Error("ERR LOCK.PROMOTE is answered from the next build on".into())
    }
}
