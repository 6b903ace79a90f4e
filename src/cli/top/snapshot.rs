//! What a running Lockgate tells of its locks in one look.

use std::io;
use std::time::{Duration, Instant};

use crate::cli::client::Client;
use crate::protocol::frame::{Value, decode};

/// An answer may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// So many locks are shown.
pub(super) const LOCKS_MAX: usize = 1000;

/// One lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lock {
    pub key: Vec<u8>,
    pub owner: Vec<u8>,
    pub fence: u64,
    pub priority: String,
    pub waiters: u64,
    /// What is left of its lease; `None` for ever.
    pub ttl_ms: Option<u64>,
    pub held_ms: Option<u64>,
    pub meta: Vec<u8>,
}

/// One waiter of a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waiter {
    pub owner: Vec<u8>,
    pub priority: String,
    pub waited_ms: u64,
    /// Until it gives up.
    pub left_ms: u64,
    pub node: Vec<u8>,
}

/// Somebody waits for somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edge {
    pub waiter: Vec<u8>,
    pub resource: Vec<u8>,
    pub holder: Vec<u8>,
    pub waited_ms: u64,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub locks: Vec<Lock>,
    /// There are more locks than are shown.
    pub is_cut: bool,
    pub edges: Vec<Edge>,
    /// The queue of the lock that was asked for.
    pub queue: Vec<Waiter>,
    pub version: String,
    pub uptime_s: u64,
    pub granted: u64,
    pub timeouts: u64,
    pub deadlocks: u64,
    pub waiting: u64,
    /// In ms, as it is written.
    pub hand_over_p50: String,
    pub hand_over_p99: String,
}

/// Looks; the queue is that of `selected`. `now_ms` is Unix time.
pub(super) fn look(client: &mut Client, selected: Option<&[u8]>, now_ms: u64) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    stats(&mut snapshot, &ask(client, &[b"LOCK.STATS"])?)?;
    let mut cursor = b"0".to_vec();
    loop {
        let reply = ask(client, &[b"LOCK.LIST", &cursor, b"COUNT", b"1000"])?;
        let Value::Array(parts) = decode(&reply).map_err(io::Error::other)? else { return Err(refused(&reply)) };
        let (Some(next), Some(Value::Array(locks))) = (parts.first().and_then(Value::as_bytes), parts.get(1)) else {
            return Err(refused(&reply));
        };
        snapshot.locks.extend(locks.iter().filter_map(|lock| lock_of(lock, now_ms)));
        if next == b"0" {
            break;
        }
        if snapshot.locks.len() >= LOCKS_MAX {
            snapshot.is_cut = true;
            snapshot.locks.truncate(LOCKS_MAX);
            break;
        }
        cursor = next.to_vec();
    }
    // Who may not see these sees the rest.
    if let Ok(Value::Array(edges)) = decode(&ask(client, &[b"LOCK.GRAPH"])?) {
        snapshot.edges = edges.iter().map(edge_of).collect();
    }
    if let Some(key) = selected
        && let Ok(Value::Array(waiters)) = decode(&ask(client, &[b"LOCK.QUEUE", key, b"COUNT", b"100"])?)
    {
        snapshot.queue = waiters.iter().filter_map(waiter_of).collect();
    }
    Ok(snapshot)
}

fn ask(client: &mut Client, words: &[&[u8]]) -> io::Result<Vec<u8>> {
    client.send(words)?;
    client.reply(Instant::now() + ANSWER_MAX)
}

fn refused(reply: &[u8]) -> io::Error {
    match decode(reply) {
        Ok(Value::Error(line)) => io::Error::other(String::from_utf8_lossy(line).into_owned()),
        _ => io::Error::other("the answer makes no sense; is this a Lockgate?"),
    }
}

fn stats(snapshot: &mut Snapshot, reply: &[u8]) -> io::Result<()> {
    let Ok(stats @ Value::Map(_)) = decode(reply) else { return Err(refused(reply)) };
    let count = |name: &str| number(&stats, name).unwrap_or(0);
    snapshot.version = text(&stats, "version");
    snapshot.uptime_s = count("uptime");
    snapshot.granted = count("successful_acquires");
    snapshot.timeouts = count("timeouts");
    snapshot.deadlocks = count("deadlocks");
    snapshot.waiting = count("queue_depth");
    if let Some(times) = field(&stats, "hand_over_ms") {
        snapshot.hand_over_p50 = text(times, "p50");
        snapshot.hand_over_p99 = text(times, "p99");
    }
    Ok(())
}

fn lock_of(value: &Value<'_>, now_ms: u64) -> Option<Lock> {
    Some(Lock {
        key: bytes(value, "key")?,
        owner: bytes(value, "owner").unwrap_or_default(),
        fence: number(value, "fence").unwrap_or(0),
        priority: text(value, "priority"),
        waiters: number(value, "waiters").unwrap_or(0),
        ttl_ms: number(value, "ttl"),
        held_ms: number(value, "acquired_at").filter(|at| *at > 0).map(|at| now_ms.saturating_sub(at)),
        meta: bytes(value, "meta").unwrap_or_default(),
    })
}

fn waiter_of(value: &Value<'_>) -> Option<Waiter> {
    Some(Waiter {
        owner: bytes(value, "owner")?,
        priority: text(value, "priority"),
        waited_ms: number(value, "waited").unwrap_or(0),
        left_ms: number(value, "deadline").unwrap_or(0),
        node: bytes(value, "node").unwrap_or_default(),
    })
}

fn edge_of(value: &Value<'_>) -> Edge {
    let of = |name| bytes(value, name).unwrap_or_default();
    Edge {
        waiter: of("waiter"),
        resource: of("resource"),
        holder: of("holder"),
        waited_ms: number(value, "waited").unwrap_or(0),
    }
}

fn field<'a, 'b>(map: &'a Value<'b>, name: &str) -> Option<&'a Value<'b>> {
    let Value::Map(pairs) = map else { return None };
    pairs.iter().find(|(key, _)| key.as_bytes() == Some(name.as_bytes())).map(|(_, value)| value)
}

fn bytes(map: &Value<'_>, name: &str) -> Option<Vec<u8>> {
    field(map, name)?.as_bytes().map(<[u8]>::to_vec)
}

fn text(map: &Value<'_>, name: &str) -> String {
    match field(map, name) {
        Some(Value::Double(digits)) => String::from_utf8_lossy(digits).into_owned(),
        Some(Value::Integer(number)) => number.to_string(),
        Some(value) => value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default(),
        None => String::new(),
    }
}

fn number(map: &Value<'_>, name: &str) -> Option<u64> {
    match field(map, name)? {
        Value::Integer(number) => u64::try_from(*number).ok(),
        value => std::str::from_utf8(value.as_bytes()?).ok()?.parse().ok(),
    }
}
