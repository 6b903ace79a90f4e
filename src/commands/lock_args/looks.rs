//! `LOCK.LIST`, `LOCK.SLOWLOG` and `LOCK.CONFIG`: what operators ask.

use std::sync::Arc;

use super::words::{count, once, syntax_error, unknown_subcommand, unsigned, wrong_number};

/// What `LOCK.LIST` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListArgs {
    /// Where the upstream's scan goes on; 0 to begin.
    pub cursor: u64,
    /// Only keys that match this glob.
    pub pattern: Option<Arc<[u8]>>,
    /// How many keys are looked at, about; `None` for the default.
    pub count: Option<u64>,
    /// Only locks of this owner. Any bytes: a lock of `SET NX` may hold any.
    pub owner: Option<Arc<[u8]>>,
}

impl ListArgs {
    /// Reads `cursor …`.
    pub(super) fn parse(args: &[&[u8]]) -> Result<Self, String> {
        let cursor = unsigned(args[0]).ok_or("ERR invalid cursor")?;
        let (mut pattern, mut count_option, mut owner) = (None, None, None);
        let mut words = args[1..].iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(syntax_error);
            match word.to_ascii_lowercase().as_slice() {
                b"match" => once(&mut pattern, Ok(value()?.into()))?,
                b"count" => once(&mut count_option, count(value()?))?,
                b"owner" => once(&mut owner, Ok(value()?.into()))?,
                _ => return Err(syntax_error()),
            }
        }
        Ok(ListArgs { cursor, pattern, count: count_option, owner })
    }
}

/// What `LOCK.SLOWLOG` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlowLogArgs {
    /// `GET [count]`: the longest ones; `None` for all of them.
    Get(Option<u64>),
    /// `RESET`
    Reset,
    /// `LEN`
    Len,
}

/// How many entries `LOCK.SLOWLOG GET` shows, as `SLOWLOG GET` does.
const SLOWLOG_SHOWN: u64 = 10;

impl SlowLogArgs {
    /// Reads the subcommand and what follows it.
    pub(super) fn parse(args: &[&[u8]]) -> Result<Self, String> {
        match (args[0].to_ascii_lowercase().as_slice(), &args[1..]) {
            (b"get", []) => Ok(SlowLogArgs::Get(Some(SLOWLOG_SHOWN))),
            (b"get", [all]) if *all == b"-1" => Ok(SlowLogArgs::Get(None)),
            (b"get", [most]) => {
                let most = unsigned(most).ok_or("ERR count should be greater than or equal to -1")?;
                Ok(SlowLogArgs::Get(Some(most)))
            }
            (b"reset", []) => Ok(SlowLogArgs::Reset),
            (b"len", []) => Ok(SlowLogArgs::Len),
            (word @ (b"get" | b"reset" | b"len"), _) => Err(wrong_number(&[b"lock.slowlog|", word].concat())),
            _ => Err(unknown_subcommand(args[0])),
        }
    }
}

/// What `LOCK.CONFIG` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigArgs {
    /// `GET glob [glob …]`
    Get(Vec<Vec<u8>>),
    /// `SET name value [name value …]`
    Set(Vec<(String, String)>),
}

impl ConfigArgs {
    /// Reads the subcommand and what follows it.
    pub(super) fn parse(args: &[&[u8]]) -> Result<Self, String> {
        match (args[0].to_ascii_lowercase().as_slice(), &args[1..]) {
            (b"get", globs) if !globs.is_empty() => {
                Ok(ConfigArgs::Get(globs.iter().map(|glob| glob.to_ascii_lowercase()).collect()))
            }
            (b"set", pairs) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "ERR that is no UTF-8 text");
                let pair = |pair: &[&[u8]]| Ok((text(pair[0])?.to_ascii_lowercase(), text(pair[1])?));
                pairs.chunks_exact(2).map(pair).collect::<Result<_, String>>().map(ConfigArgs::Set)
            }
            (word @ (b"get" | b"set"), _) => Err(wrong_number(&[b"lock.config|", word].concat())),
            _ => Err(unknown_subcommand(args[0])),
        }
    }
}
