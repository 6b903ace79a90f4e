//! `LOCK.ACQUIRE`, `LOCK.PRIORITY` and `LOCK.TRANSFER`: who is to have a lock, and on what terms.

use std::sync::Arc;

use super::words::{fence, level, once, owner, syntax_error, ttl, wait};
use crate::domain::{Fence, Level, OwnerId};

/// Whether a lock is tied to the connection that took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bond {
    /// It ends with its lease.
    #[default]
    None,
    /// Its lease is renewed for as long as the connection lives.
    KeepAlive,
    /// And it is released as soon as the connection closes.
    Ephemeral,
}

/// What `LOCK.ACQUIRE` and `LOCK.PRIORITY` ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireArgs {
    /// The key, in the connection's database.
    pub key: Arc<[u8]>,
    /// Who wants it.
    pub owner: OwnerId,
    /// The lease, in ms; `None` for the default.
    pub ttl_ms: Option<u64>,
    /// How long to wait, in ms; 0 for an answer at once.
    pub wait_ms: u64,
    /// How urgently; `None` where nothing is said.
    pub level: Option<Level>,
    /// What the owner notes for all who may read the key.
    pub meta: Arc<[u8]>,
    /// Whether the lock is tied to the connection.
    pub bond: Bond,
}

impl AcquireArgs {
    /// Reads what follows the name, and the level where the command names one.
    pub(super) fn parse(
        key: &[u8],
        owner_text: &[u8],
        named_level: Option<Level>,
        options: &[&[u8]],
    ) -> Result<Self, String> {
        let owner = owner(owner_text)?;
        let (mut ttl_ms, mut wait_ms, mut level_option, mut meta, mut bond) = (None, None, None, None, None);
        let mut words = options.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(syntax_error);
            match word.to_ascii_lowercase().as_slice() {
                b"ttl" => once(&mut ttl_ms, ttl(value()?))?,
                b"wait" => once(&mut wait_ms, wait(value()?))?,
                b"priority" if named_level.is_none() => once(&mut level_option, level(value()?))?,
                b"meta" => once(&mut meta, Ok(value()?))?,
                b"keepalive" => once(&mut bond, Ok(Bond::KeepAlive))?,
                b"ephemeral" => once(&mut bond, Ok(Bond::Ephemeral))?,
                _ => return Err(syntax_error()),
            }
        }
        Ok(AcquireArgs {
            key: key.into(),
            owner,
            ttl_ms,
            wait_ms: wait_ms.unwrap_or(0),
            level: named_level.or(level_option),
            meta: meta.unwrap_or_default().into(),
            bond: bond.unwrap_or_default(),
        })
    }
}

/// What `LOCK.TRANSFER` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferArgs {
    /// The key.
    pub key: Arc<[u8]>,
    /// Who holds it.
    pub from: OwnerId,
    /// Who is to hold it.
    pub to: OwnerId,
    /// His lease, in ms; `None` for the rest of the present one.
    pub ttl_ms: Option<u64>,
    /// Only if `from` holds it under this fence.
    pub fence: Option<Fence>,
}

impl TransferArgs {
    /// Reads `key from to …`.
    pub(super) fn parse(args: &[&[u8]]) -> Result<Self, String> {
        let (mut ttl_ms, mut fence_option) = (None, None);
        let mut words = args[3..].iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(syntax_error);
            match word.to_ascii_lowercase().as_slice() {
                b"ttl" => once(&mut ttl_ms, ttl(value()?))?,
                b"fence" => once(&mut fence_option, fence(value()?))?,
                _ => return Err(syntax_error()),
            }
        }
        Ok(TransferArgs {
            key: args[0].into(),
            from: owner(args[1])?,
            to: owner(args[2])?,
            ttl_ms,
            fence: fence_option,
        })
    }
}
