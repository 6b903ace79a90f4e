//! A lock that is written as it stood elsewhere.

use super::reply::Reply;
use super::{Store, StoreError, companion, odd_reply, script};
use crate::domain::{FIELD_SEPARATOR, Fence, Level, LockKey};
use crate::upstream::call::Caller;

/// What is to stand in the key.
#[derive(Debug, Clone, Copy)]
pub enum Import<'a> {
    /// What a `SET NX` writes.
    Plain {
        /// The whole value.
        value: &'a [u8],
        /// What is left of its lease; `None` for ever.
        lease_ms: Option<u64>,
    },
    /// A lock of LOCK.*.
    Long {
        /// Who holds it.
        owner: &'a [u8],
        /// The fence that its holder knows; `None` gives a new one.
        fence: Option<Fence>,
        /// The level it was asked for at.
        level: Level,
        /// When the hold began, Unix time in ms.
        acquired_at_ms: u64,
        /// What the holder noted.
        meta: &'a [u8],
        /// What is left of its lease.
        lease_ms: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It stands, under this fence (0 for a lock of `SET NX`).
    Written(Fence),
    /// Something stands in the key; nothing was changed.
    Taken,
}

impl Store {
    /// Writes a lock where nothing stands in its key. Fences that are given later come after its own.
    pub async fn import<C: Caller>(
        &self,
        caller: &C,
        key: &LockKey,
        import: &Import<'_>,
    ) -> Result<Imported, StoreError> {
        self.reach(caller).await?;
        let (owner, lease, fence, rest) = match *import {
            Import::Plain { value, lease_ms } => {
                (value, lease_ms.map(|ms| ms.to_string()).unwrap_or_default(), "none".to_owned(), Vec::new())
            }
            Import::Long { owner, fence, level, acquired_at_ms, meta, lease_ms } => {
                let separator = char::from(FIELD_SEPARATOR);
                let (level, node) = (level.number(), self.node());
                let head = format!("{separator}{level}{separator}{acquired_at_ms}{separator}{node}:0{separator}");
                let fence = fence.map(|fence| fence.0.to_string()).unwrap_or_default();
                (owner, lease_ms.to_string(), fence, [head.as_bytes(), meta].concat())
            }
        };
        let args = [self.floor().as_bytes(), lease.as_bytes(), fence.as_bytes(), owner, &rest].map(<[u8]>::to_vec);
        let args = args.each_ref().map(Vec::as_slice);
        match self.run(&script::IMPORT, caller, &[&key.name, companion::fence_counter(key)], &args).await? {
            Reply::Integer(-1) => Ok(Imported::Taken),
            Reply::Integer(fence) => Ok(Imported::Written(Fence(u64::try_from(fence).map_err(|_| odd_reply())?))),
            _ => Err(odd_reply()),
        }
    }
}
