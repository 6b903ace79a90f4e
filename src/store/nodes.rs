//! What nodes keep upstream for one another's sake: who leads, and the queues that a node may leave behind.

use super::{Store, StoreError, companion, odd_reply, reply::Reply, script};
use crate::domain::{CallId, Db, FIELD_SEPARATOR};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::upstream::call::Caller;

/// Keys that one step of a scan looks at.
const SCAN_COUNT: &[u8] = b"500";

/// The call that a registration names; `None` where it is of no form that this version writes.
pub fn registered_call(registration: &[u8]) -> Option<CallId> {
    // Rank, when it was sent, ms of a claim, lease, level, call: see lua/turn.lua.
    CallId::parse(registration.split(|byte| *byte == FIELD_SEPARATOR).nth(5)?)
}

/// One step of a scan for queues.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Where the next step goes on; `None` at the end.
    pub cursor: Option<Vec<u8>>,
    /// The keys of the queues that were found.
    pub queues: Vec<Vec<u8>>,
}

impl Store {
    /// Takes or keeps the lead for `me` for so long, or lays it down with a lease of 0 ms; whether `me` leads now.
    pub async fn lead<C: Caller>(&self, caller: &C, me: &str, lease_ms: u64) -> Result<bool, StoreError> {
        let lease = lease_ms.to_string();
        match self.run(&script::LEAD, caller, &[companion::LEADER], &[me.as_bytes(), lease.as_bytes()]).await? {
            Reply::Integer(leads) => Ok(leads == 1),
            _ => Err(odd_reply()),
        }
    }

    /// The databases that hold anything.
    pub async fn databases<C: Caller>(&self, caller: &C) -> Result<Vec<Db>, StoreError> {
        let raw = ask(caller, &[b"INFO", b"keyspace"]).await?;
        let text = read(&raw)?.as_str().ok_or_else(odd_reply)?;
        let names = text.lines().filter_map(|line| line.split(':').next()?.strip_prefix("db")?.parse().ok());
        Ok(names.collect())
    }

    /// One step of a scan for queues in the caller's database.
    pub async fn scan_queues<C: Caller>(&self, caller: &C, cursor: &[u8]) -> Result<Scanned, StoreError> {
        let pattern = [companion::QUEUE_PREFIX, b"*"].concat();
        let raw = ask(caller, &[b"SCAN", cursor, b"MATCH", &pattern, b"COUNT", SCAN_COUNT, b"TYPE", b"hash"]).await?;
        let reply = read(&raw)?;
        let Some([cursor, names]) = reply.as_array() else { return Err(odd_reply()) };
        let cursor = cursor.as_bytes().ok_or_else(odd_reply)?;
        let names = names.as_array().ok_or_else(odd_reply)?;
        let queues = names.iter().filter_map(Value::as_bytes).map(<[u8]>::to_vec).collect();
        Ok(Scanned { cursor: (cursor != b"0").then(|| cursor.to_vec()), queues })
    }

    /// Who is registered in a queue: nodes, and what each has registered.
    pub async fn registrations<C: Caller>(
        &self,
        caller: &C,
        queue: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let raw = ask(caller, &[b"HGETALL", queue]).await?;
        let reply = read(&raw)?;
        let pairs = reply.pairs().filter_map(|(node, said)| Some((node.as_bytes()?, said.as_bytes()?)));
        Ok(pairs.map(|(node, said)| (node.to_vec(), said.to_vec())).collect())
    }

    /// Removes registrations as they were read; how many there still were.
    pub async fn clean<C: Caller>(
        &self,
        caller: &C,
        queue: &[u8],
        registrations: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<u64, StoreError> {
        let args: Vec<&[u8]> = registrations.iter().flat_map(|(node, said)| [&node[..], said]).collect();
        match self.run(&script::CLEAN, caller, &[queue], &args).await? {
            Reply::Integer(removed) => Ok(u64::try_from(removed).unwrap_or(0)),
            _ => Err(odd_reply()),
        }
    }
}

async fn ask<C: Caller>(caller: &C, command: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
    let mut request = Vec::new();
    encode_command(command, &mut request);
    Ok(caller.call(request).await?)
}

fn read(raw: &[u8]) -> Result<Value<'_>, StoreError> {
    match decode(raw) {
        Ok(Value::Error(line)) => Err(StoreError::Refused(String::from_utf8_lossy(line).into_owned())),
        Ok(reply) => Ok(reply),
        Err(_) => Err(odd_reply()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Level, OwnerId};
    use crate::locks::rank::{Place, Rank};
    use crate::locks::{Form, Offer};

    #[test]
    fn a_registration_names_the_call_that_it_was_written_for() {
        let call = CallId(1_763_740_000_000_123);
        let rank = Rank::new(Level::High, Place { arrival_us: 17, first_call: call }, 0);
        let owner = OwnerId::new(b"ann").expect("a plain name");
        let form = Form::Lock { owner, lease_ms: 1000, meta: b"x"[..].into() };
        let offer = Offer { call, rank, level: Level::High, form, claim_ms: 1000 };
        let written = super::super::offers_text(&[offer]);
        assert_eq!(registered_call(&written[0]), Some(call));
        assert_eq!(registered_call(b"of another form"), None);
    }
}
