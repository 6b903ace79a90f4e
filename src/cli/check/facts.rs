//! Asks an upstream about itself.

use std::io;
use std::time::{Duration, Instant};

use super::verdict::Facts;
use crate::cli::table::text;
use crate::cli::upstream::Direct;
use crate::coordinator::Rules;
use crate::domain::WallClock;
use crate::protocol::frame::{Value, decode};
use crate::store::companion;
use crate::store::value::Fields;
use crate::upstream::misfit::{is_cluster, trial};

/// Round trips that are measured.
const PINGS: usize = 100;
/// They take no longer than this, however far the server is.
const PINGS_MAX: Duration = Duration::from_millis(800);
/// So long locks without an expiry are looked for.
const SCAN_MAX: Duration = Duration::from_millis(1200);
/// So many of them are named.
const NAMED: usize = 3;

/// All that it tells. Fails where it does not answer at all.
pub(super) fn gather(direct: &Direct, rules: &Rules) -> io::Result<Facts> {
    let mut facts = Facts::default();
    let info = direct.ask(&["INFO", "everything"])?;
    if let Ok(Value::Bulk(info)) = decode(&info) {
        of_info(&mut facts, info);
    }
    of_config(&mut facts, direct)?;
    let asked = WallClock::default().unix_us();
    if let Ok(Value::Array(parts)) = decode(&direct.ask(&["TIME"])?)
        && let [Some(secs), Some(micros)] = [0, 1].map(|at| number(parts.get(at).and_then(Value::as_bytes)))
    {
        let here = asked.midpoint(WallClock::default().unix_us());
        let there = secs.saturating_mul(1_000_000).saturating_add(micros);
        facts.clock_ahead_ms = i64::try_from((i128::from(there) - i128::from(here)) / 1000).ok();
    }
    facts.scripts_refused = refusal(&direct.ask(&trial())?).filter(|line| !line.starts_with("NOSCRIPT"));
    facts.tracking_refused = refusal(&direct.ask(&["CLIENT", "TRACKING", "ON"])?);
    direct.ask(&["CLIENT", "TRACKING", "OFF"])?;
    facts.subscribe_refused = refusal(&direct.subscribes("lockgate:nodes")?);
    for _ in 0..PINGS {
        let began = Instant::now();
        direct.ask(&["PING"])?;
        facts.round_trips.push(began.elapsed());
        if facts.round_trips.iter().sum::<Duration>() > PINGS_MAX {
            break;
        }
    }
    facts.round_trips.sort();
    endless(&mut facts, direct, rules)?;
    Ok(facts)
}

fn of_info(facts: &mut Facts, info: &[u8]) {
    let field = |name: &str| {
        let mut lines = info.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))
    };
    facts.is_valkey = field("valkey_version").is_some();
    facts.version = field("valkey_version").or_else(|| field("redis_version")).and_then(|version| {
        let mut parts = version.split(|byte| *byte == b'.').map(|part| number(Some(part)));
        Some((u32::try_from(parts.next()??).ok()?, u32::try_from(parts.next()??).ok()?))
    });
    facts.is_replica = field("role") == Some(b"slave");
    facts.is_cluster = is_cluster(info);
    let small = |name: &str| number(field(name)).and_then(|number| u32::try_from(number).ok());
    facts.used_memory = number(field("used_memory"));
    facts.maxmemory = number(field("maxmemory"));
    facts.maxmemory_policy = field("maxmemory_policy").map(|policy| String::from_utf8_lossy(policy).into_owned());
    facts.has_aof = number(field("aof_enabled")).map(|enabled| enabled != 0);
    facts.replicas = small("connected_slaves");
    facts.clients = number(field("connected_clients"));
    facts.max_clients = number(field("maxclients"));
}

fn of_config(facts: &mut Facts, direct: &Direct) -> io::Result<()> {
    let names = ["appendfsync", "save", "min-replicas-to-write", "timeout"];
    let asked: Vec<Vec<&str>> = names.iter().map(|name| vec!["CONFIG", "GET", *name]).collect();
    let mut told = Vec::new();
    for reply in direct.ask_all(&asked)? {
        facts.config_refused |= refusal(&reply).is_some();
        told.push(match decode(&reply) {
            Ok(Value::Map(pairs)) => {
                let value = pairs.first().and_then(|(_, value)| value.as_bytes());
                value.map(|value| String::from_utf8_lossy(value).into_owned())
            }
            _ => None,
        });
    }
    let number = |at: usize| told[at].as_ref().and_then(|text| text.parse::<u64>().ok());
    facts.min_replicas = number(2).and_then(|count| u32::try_from(count).ok());
    facts.idle_timeout_s = number(3);
    facts.has_rdb = told[1].as_ref().map(|save| !save.is_empty());
    facts.fsync = told[0].clone();
    Ok(())
}

/// Looks for locks without an expiry, as long as there is time.
fn endless(facts: &mut Facts, direct: &Direct, rules: &Rules) -> io::Result<()> {
    let began = Instant::now();
    let mut cursor = b"0".to_vec();
    loop {
        let words: [&[u8]; 6] = [b"SCAN", &cursor, b"COUNT", b"500", b"TYPE", b"string"];
        let reply = direct.ask(&words)?;
        let Ok(Value::Array(parts)) = decode(&reply) else { return Ok(()) };
        let (Some(next), Some(Value::Array(keys))) = (parts.first().and_then(Value::as_bytes), parts.get(1)) else {
            return Ok(());
        };
        let keys: Vec<&[u8]> = keys.iter().filter_map(Value::as_bytes).filter(|key| !companion::is_own(key)).collect();
        let asked: Vec<Vec<&[u8]>> =
            keys.iter().flat_map(|key| [vec![&b"PTTL"[..], key], vec![&b"GETRANGE"[..], key, b"0", b"8191"]]).collect();
        let told = direct.ask_all(&asked)?;
        for (key, told) in keys.iter().zip(told.chunks_exact(2)) {
            let (Ok(Value::Integer(-1)), Ok(Value::Bulk(value))) = (decode(&told[0]), decode(&told[1])) else {
                continue;
            };
            if Fields::read(value).is_some() || rules.find(key, b"").is_some() {
                facts.endless.1 += 1;
                if facts.endless.0.len() < NAMED {
                    facts.endless.0.push(text(key, 60));
                }
            }
        }
        if next == b"0" {
            return Ok(());
        }
        if began.elapsed() > SCAN_MAX {
            facts.is_scan_cut = true;
            return Ok(());
        }
        cursor = next.to_vec();
    }
}

fn number(text: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(text?).ok()?.parse().ok()
}

/// The error line of a reply, if it is one.
fn refusal(reply: &[u8]) -> Option<String> {
    match decode(reply) {
        Ok(Value::Error(line)) => Some(String::from_utf8_lossy(line).into_owned()),
        _ => None,
    }
}
