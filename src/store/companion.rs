//! The keys that are kept beside held locks. All begin with `lockgate:`; this is the only place that names them.

use crate::domain::LockKey;

/// Keys under this prefix are Lockgate's own and cannot be locks.
pub const PREFIX: &[u8] = b"lockgate:";

/// The fence counter of an upstream without slots.
pub const FENCE_COUNTER: &[u8] = b"lockgate:fence";

/// The counter from which the fences of `key` come. On a standalone upstream one per database is enough; an upstream with slots
/// will get one tag per slot here.
pub fn fence_counter(_key: &LockKey) -> &'static [u8] {
    FENCE_COUNTER
}

/// The hash in which the nodes' best waiters for `key` are registered; it exists only while somebody waits.
pub fn queue(key: &LockKey) -> Vec<u8> {
    [b"lockgate:q:", &*key.name].concat()
}

/// `true` where a lock of that name could collide with what is kept beside locks.
pub fn is_own(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// What the keys of queues begin with.
pub const QUEUE_PREFIX: &[u8] = b"lockgate:q:";

/// The name of the lock whose queue this key is.
pub fn queued_name(queue: &[u8]) -> Option<&[u8]> {
    queue.strip_prefix(QUEUE_PREFIX)
}

/// The lock on leading the nodes of an upstream, in the database of its URL.
pub const LEADER: &[u8] = b"lockgate:leader";
