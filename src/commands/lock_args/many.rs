//! `LOCK.ACQUIREALL` and `LOCK.RELEASEALL`: several keys, all or nothing.

use std::collections::HashSet;
use std::sync::Arc;

use super::words::{level, number, once, owner, syntax_error, ttl, wait};
use crate::domain::{Level, OwnerId};

/// Most keys of one command: they are taken in one step, during which the upstream serves nobody else.
pub const KEYS_MAX: usize = 1024;

/// What `LOCK.ACQUIREALL` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireAllArgs {
    /// The keys, none of them twice.
    pub keys: Vec<Arc<[u8]>>,
    /// Who wants them.
    pub owner: OwnerId,
    /// Their lease, in ms; `None` for the default.
    pub ttl_ms: Option<u64>,
    /// How long to wait, in ms; 0 for an answer at once.
    pub wait_ms: u64,
    /// How urgently; `None` where nothing is said.
    pub level: Option<Level>,
}

impl AcquireAllArgs {
    /// Reads `numkeys key… owner …`.
    pub(super) fn parse(args: &[&[u8]]) -> Result<Self, String> {
        let (keys, owner, options) = keys_and_owner(args)?;
        let (mut ttl_ms, mut wait_ms, mut level_option) = (None, None, None);
        let mut words = options.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(syntax_error);
            match word.to_ascii_lowercase().as_slice() {
                b"ttl" => once(&mut ttl_ms, ttl(value()?))?,
                b"wait" => once(&mut wait_ms, wait(value()?))?,
                b"priority" => once(&mut level_option, level(value()?))?,
                _ => return Err(syntax_error()),
            }
        }
        Ok(AcquireAllArgs { keys, owner, ttl_ms, wait_ms: wait_ms.unwrap_or(0), level: level_option })
    }
}

/// Reads `numkeys key… owner`, with nothing behind it.
pub(super) fn release_all(args: &[&[u8]]) -> Result<(Keys, OwnerId), String> {
    match keys_and_owner(args)? {
        (keys, owner, []) => Ok((keys, owner)),
        _ => Err(syntax_error()),
    }
}

type Keys = Vec<Arc<[u8]>>;

/// With what follows them.
type KeysAndOwner<'a, 'b> = (Keys, OwnerId, &'b [&'a [u8]]);

fn keys_and_owner<'a, 'b>(args: &'b [&'a [u8]]) -> Result<KeysAndOwner<'a, 'b>, String> {
    let (count, rest) = args.split_first().ok_or_else(syntax_error)?;
    let count = number(count, 1).ok_or("ERR numkeys should be greater than 0")?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    // The owner stands behind the keys.
    if count >= rest.len() {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    if count > KEYS_MAX {
        return Err(format!("ERR numkeys can be {KEYS_MAX} at most; lock fewer keys at a time"));
    }
    let (keys, rest) = rest.split_at(count);
    let mut seen = HashSet::with_capacity(keys.len());
    if let Some(twice) = keys.iter().find(|key| !seen.insert(**key)) {
        return Err(format!("ERR '{}' is named twice; name each key once", twice.escape_ascii()));
    }
    let owner = owner(rest[0])?;
    Ok((keys.iter().map(|key| Arc::from(*key)).collect(), owner, &rest[1..]))
}
