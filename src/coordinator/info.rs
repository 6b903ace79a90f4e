//! What is told of one lock, by `LOCK.INFO` and in `LOCK.LIST`.

use super::{Asker, Coordinator, LockReply, integer};
use crate::domain::LockKey;
use crate::store::Held;
use crate::store::value::Fields;
use crate::upstream::call::Caller;

impl Coordinator {
    pub(super) async fn info<C: Caller>(&self, asker: &Asker<C>, key: LockKey) -> LockReply {
        match self.look(asker, &key).await {
            Ok(held) => {
                let waiters = self.waiters(&key).await;
                told(&key, held.as_ref(), waiters)
            }
            Err(error) => LockReply::Error(error.into_line()),
        }
    }
}

/// The map of one key; nil fields where something is unknown. A claim is nobody's hold yet.
pub(super) fn told(key: &LockKey, held: Option<&Held>, waiters: u64) -> LockReply {
    let held = held.filter(|held| !held.is_claim());
    let value = held.map(|held| &*held.value);
    let fields = value.and_then(Fields::read);
    let bulk = |bytes: &[u8]| LockReply::Bulk(bytes.to_vec());
    let field = |read: fn(&Fields<'_>) -> LockReply| fields.as_ref().map_or(LockReply::Nil, read);
    let owner = fields.as_ref().map(|fields| fields.owner).or(value);
    LockReply::Map(vec![
        ("key", bulk(&key.name)),
        ("held", LockReply::Integer(i64::from(held.is_some()))),
        ("owner", owner.map_or(LockReply::Nil, bulk)),
        ("fence", field(|fields| integer(fields.fence.0))),
        ("ttl", held.map_or(LockReply::Nil, |held| held.left_ms.map_or(LockReply::Integer(-1), integer))),
        ("priority", field(|fields| LockReply::Bulk(fields.level.name().into()))),
        ("acquired_at", field(|fields| integer(fields.acquired_at_ms))),
        ("meta", field(|fields| LockReply::Bulk(fields.meta.to_vec()))),
        ("waiters", integer(waiters)),
        ("node", field(|fields| LockReply::Bulk(fields.node.to_vec()))),
    ])
}
