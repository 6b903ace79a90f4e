//! `LOCK.LIST`: all locks of a database, a page at a time, as `SCAN` goes through keys. Everything is asked under the client's own
//! identity, so that nobody sees a key that he may not read.

use super::info::told;
use super::{Asker, Coordinator, LockReply, holder};
use crate::commands::lock_args::ListArgs;
use crate::domain::LockKey;
use crate::protocol::args::encode_command;
use crate::protocol::frame::{self, Value};
use crate::store::value::Fields;
use crate::store::{Held, companion};
use crate::upstream::call::{CallError, Caller};

/// Keys looked at in one call, about, where the client does not say.
const COUNT: u64 = 100;
/// And at most, so that one call holds up nobody.
const COUNT_MAX: u64 = 1000;
/// So much of a value is read, in bytes: any string in the database may turn out to be data, and large. Owner and meta of a lock
/// whose value is longer are told as far as that goes.
const VALUE_SHOWN: usize = 4096;

/// Why a page cannot be told.
enum Trouble {
    /// The upstream's own error line, without its `-`.
    Refused(String),
    Call(CallError),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Trouble::Call(error)
    }
}

impl Coordinator {
    /// `LOCK.LIST`
    pub(super) async fn list<C: Caller>(&self, asker: &Asker<C>, args: ListArgs) -> LockReply {
        match self.page(asker, &args).await {
            Ok((cursor, locks)) => LockReply::Array(vec![LockReply::Bulk(cursor), LockReply::Array(locks)]),
            Err(Trouble::Refused(line)) => LockReply::Error(line),
            Err(Trouble::Call(error)) => LockReply::Error(format!("UNAVAILABLE {error}; try again")),
        }
    }

    async fn page<C: Caller>(&self, asker: &Asker<C>, args: &ListArgs) -> Result<(Vec<u8>, Vec<LockReply>), Trouble> {
        let (cursor, names) = scan(&asker.caller, args).await?;
        // All of them are sent before the first reply is awaited.
        let asked: Vec<_> = names
            .into_iter()
            .map(|name| {
                let end = (VALUE_SHOWN - 1).to_string();
                let value = send(&asker.caller, &[b"GETRANGE", &name, b"0", end.as_bytes()]);
                let left = send(&asker.caller, &[b"PTTL", &name]);
                (name, value, left)
            })
            .collect();
        let mut locks = Vec::new();
        for (name, value, left) in asked {
            let (value, left) = (value.await?, left.await?);
            let key = LockKey { db: asker.db, name: name.into() };
            let Some(held) = self.held(&key, &value, &left)? else { continue };
            if args.owner.as_ref().is_none_or(|owner| holder(&held.value) == &**owner) {
                locks.push(told(&key, Some(&held), self.waiting_here(&key)));
            }
        }
        Ok((cursor, locks))
    }

    /// The lock that `value` and `left` tell of; `None` for what is no lock, no more, not held yet, or none of the client's business.
    fn held(&self, key: &LockKey, value: &[u8], left: &[u8]) -> Result<Option<Held>, Trouble> {
        let (value, left) = match (frame::decode(value), frame::decode(left)) {
            (Ok(Value::Bulk(value)), Ok(Value::Integer(left))) => (value, left),
            (Ok(Value::Error(line)), _) | (_, Ok(Value::Error(line))) => return refused(line).map(|()| None),
            _ => return Ok(None),
        };
        // Gone since the scan.
        if left == -2 {
            return Ok(None);
        }
        let is_lock = Fields::read(value).is_some() || self.settings.lock_keys.matches(&key.name);
        let held = is_lock.then(|| Held { value: value.into(), left_ms: u64::try_from(left).ok() });
        Ok(held.filter(|held| !held.is_claim()))
    }
}

/// A key that the client may not read, or that has become something else since the scan, is left out; any other error is the answer.
fn refused(line: &[u8]) -> Result<(), Trouble> {
    let is_about_the_key = line.starts_with(b"WRONGTYPE")
        || (line.starts_with(b"NOPERM") && memchr::memmem::find(line, b" key").is_some());
    if is_about_the_key { Ok(()) } else { Err(Trouble::Refused(String::from_utf8_lossy(line).into_owned())) }
}

/// The next cursor, and names of strings; Lockgate's own keys are left out.
async fn scan<C: Caller>(caller: &C, args: &ListArgs) -> Result<(Vec<u8>, Vec<Vec<u8>>), Trouble> {
    let cursor = args.cursor.to_string();
    let count = args.count.unwrap_or(COUNT).min(COUNT_MAX).to_string();
    let mut words: Vec<&[u8]> = vec![b"SCAN", cursor.as_bytes()];
    if let Some(pattern) = &args.pattern {
        words.extend([&b"MATCH"[..], pattern]);
    }
    words.extend([&b"COUNT"[..], count.as_bytes(), b"TYPE", b"string"]);
    let reply = send(caller, &words).await?;
    let page = match frame::decode(&reply) {
        Ok(Value::Error(line)) => return Err(Trouble::Refused(String::from_utf8_lossy(line).into_owned())),
        Ok(Value::Array(page)) => page,
        _ => Vec::new(),
    };
    let [next, names] = page.as_slice() else {
        return Err(Trouble::Refused("ERR the upstream's answer to SCAN makes no sense".into()));
    };
    let names = names.as_array().unwrap_or_default().iter().filter_map(Value::as_bytes);
    let names = names.filter(|name| !companion::is_own(name)).map(<[u8]>::to_vec).collect();
    Ok((next.as_bytes().unwrap_or(b"0").to_vec(), names))
}

fn send<'a, C: Caller>(
    caller: &'a C,
    words: &[&[u8]],
) -> impl Future<Output = Result<Vec<u8>, CallError>> + use<'a, C> {
    let mut request = Vec::new();
    encode_command(words, &mut request);
    caller.call(request)
}
