//! `lockgate locks`: the locks that stand upstream, listed, written out, read in, taken away. Works without a running Lockgate.

mod record;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use super::FAILURE;
use super::table::{table, text, time};
use super::upstream::{Direct, run};
use crate::commands::glob;
use crate::config::Sources;
use crate::coordinator::Rules;
use crate::domain::{LockKey, OwnerId, WallClock};
use crate::protocol::frame::{Value, decode};
use crate::store::import::{Import, Imported};
use crate::store::{Outcome, Store, Times, companion};
use record::{Kind, Record};

/// Keys that are looked at in one round trip.
const PAGE: &str = "1000";
/// Cells of the table are cut to this.
const CELL: usize = 60;

/// Which locks are meant.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Keys that match this glob, as in `KEYS`.
    pub pattern: Option<String>,
    /// Locks of this owner.
    pub owner: Option<String>,
}

/// `locks list`: a table, or with `as_json` the lines of `export`.
pub(super) fn list(sources: &Sources, wanted: &Wanted, as_json: bool) -> ExitCode {
    if as_json {
        return export(sources, wanted);
    }
    let mut rows = Vec::new();
    let told = each(sources, wanted, |record, now_ms| {
        let (fence, level, held, meta) = match &record.kind {
            Kind::Plain => Default::default(),
            Kind::Long { fence, level, acquired_at_ms, meta } => {
                let held = acquired_at_ms.map(|at| time(now_ms.saturating_sub(at)));
                let fence = fence.map(|fence| fence.0.to_string());
                (fence.unwrap_or_default(), level.name(), held.unwrap_or_default(), text(meta, CELL))
            }
        };
        let left = record.ttl_ms.map_or("never".to_owned(), time);
        rows.push(vec![text(&record.key, CELL), text(&record.owner, CELL), fence, level.into(), held, left, meta]);
        Ok(())
    });
    rows.sort();
    if told == ExitCode::SUCCESS {
        print!("{}", table(&["KEY", "OWNER", "FENCE", "PRIORITY", "HELD", "EXPIRES", "META"], &[2], &rows));
    }
    told
}

/// `locks export`: a line of JSON for each.
pub(super) fn export(sources: &Sources, wanted: &Wanted) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let told = each(sources, wanted, |record, _| writeln!(out, "{}", record.to_json()));
    match out.flush() {
        Ok(()) => told,
        Err(error) => failed(&error),
    }
}

/// `locks import`: reads what `export` writes. Keys in which something stands are left as they are.
pub(super) fn import(sources: &Sources) -> ExitCode {
    let (_, direct) = match Direct::open(sources) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let store = store();
    let (mut written, mut skipped, mut wrong) = (0, 0, 0);
    for (at, line) in io::stdin().lock().lines().enumerate() {
        let line = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(error) => return failed(&error),
        };
        let outcome = Record::of_json(&line).and_then(|record| {
            let done = written_by(&store, &direct, &record)?;
            Ok((record, done))
        });
        match outcome {
            Ok((_, Imported::Written(_))) => written += 1,
            Ok((record, Imported::Taken)) => {
                skipped += 1;
                eprintln!(
                    "lockgate: line {}: something stands in '{}' already; left as it is",
                    at + 1,
                    text(&record.key, CELL)
                );
            }
            Err(why) => {
                wrong += 1;
                eprintln!("lockgate: line {}: {why}", at + 1);
            }
        }
    }
    eprintln!("{written} written, {skipped} left as they are, {wrong} wrong");
    if skipped + wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}

fn written_by(store: &Store, direct: &Direct, record: &Record) -> Result<Imported, String> {
    if companion::is_own(&record.key) {
        return Err("has a key under lockgate:, where locks cannot be".into());
    }
    let owner = &record.owner;
    let import = match &record.kind {
        Kind::Plain => Import::Plain { value: owner, lease_ms: record.ttl_ms },
        Kind::Long { fence, level, acquired_at_ms, meta } => {
            OwnerId::new(owner)
                .ok_or("has an owner that LOCK.ACQUIRE does not take: it is too long, or has a byte 0x1F in it")?;
            let acquired_at_ms = acquired_at_ms.unwrap_or_else(|| WallClock::default().unix_us() / 1000);
            let lease_ms = record.ttl_ms.unwrap_or_default();
            Import::Long { owner, fence: *fence, level: *level, acquired_at_ms, meta, lease_ms }
        }
    };
    let key = LockKey::new(direct.db, &record.key);
    run(store.import(direct, &key, &import)).map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// `locks force`: ends each of these locks, whoever holds it; the next waiter has it at once.
pub(super) fn force(sources: &Sources, keys: &[String]) -> ExitCode {
    let (config, direct) = match Direct::open(sources) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let (rules, store) = (Rules::of(&config.lock_keys), store());
    let mut is_fine = true;
    for name in keys {
        let key = LockKey::new(direct.db, name.as_bytes());
        let sent_us = WallClock::default().unix_us();
        let times = Times { sent_us, knows_us: sent_us, left_over: None };
        let is_rule_key = rules.find(name.as_bytes(), b"").is_some();
        let freed = match run(store.release(&direct, &key, None, None, &[], times, is_rule_key)) {
            Ok(freed) => freed.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match freed {
            Ok(freed) if freed.outcome == Outcome::Released => {
                let owner = freed.taken.and_then(|value| Some(Record::of_value(name.as_bytes(), &value, None)?.owner));
                let owner = owner.map_or_else(|| "nobody yet".to_owned(), |owner| text(&owner, CELL));
                let next = if freed.handed.is_some() { "; the next waiter has it" } else { "" };
                println!("{name}: freed; {owner} held it{next}");
            }
            Ok(_) => println!("{name}: nobody holds it"),
            Err(why) => {
                is_fine = false;
                eprintln!("lockgate: {name}: {why}");
            }
        }
    }
    if is_fine { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}

/// What these commands write bears a name that no node has.
fn store() -> Store {
    Store::new(Arc::from("lockgate-locks"), WallClock::default(), 60_000)
}

/// Goes through all locks of the database: strings of the long form, and those whose key matches a rule.
fn each(sources: &Sources, wanted: &Wanted, mut tell: impl FnMut(&Record, u64) -> io::Result<()>) -> ExitCode {
    let (config, direct) = match Direct::open(sources) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let rules = Rules::of(&config.lock_keys);
    let is_wanted = |record: &Record| {
        let is_lock = matches!(record.kind, Kind::Long { .. }) || rules.find(&record.key, b"").is_some();
        let is_theirs = wanted.owner.as_ref().is_none_or(|owner| owner.as_bytes() == record.owner);
        is_lock && is_theirs && wanted.pattern.as_ref().is_none_or(|glob| glob::matches(glob.as_bytes(), &record.key))
    };
    let mut cursor = b"0".to_vec();
    let mut seen = std::collections::HashSet::new();
    loop {
        let page = match page_from(&direct, &cursor) {
            Ok(page) => page,
            Err(error) => return failed(&error),
        };
        let now_ms = WallClock::default().unix_us() / 1000;
        for record in page.records.iter().filter(|record| is_wanted(record)) {
            // SCAN may tell of a key twice.
            if seen.insert(record.key.clone())
                && let Err(error) = tell(record, now_ms)
            {
                return failed(&error);
            }
        }
        if page.next == b"0" {
            return ExitCode::SUCCESS;
        }
        cursor = page.next;
    }
}

struct Page {
    next: Vec<u8>,
    records: Vec<Record>,
}

fn page_from(direct: &Direct, cursor: &[u8]) -> io::Result<Page> {
    let words: [&[u8]; 6] = [b"SCAN", cursor, b"COUNT", PAGE.as_bytes(), b"TYPE", b"string"];
    let reply = direct.ask(&words)?;
    let (next, keys) = match decode(&reply).map_err(io::Error::other)? {
        Value::Array(parts) => match parts.as_slice() {
            [next, Value::Array(keys)] => {
                let keys = keys.iter().filter_map(Value::as_bytes).filter(|key| !companion::is_own(key));
                (next.as_bytes().unwrap_or(b"0").to_vec(), keys.map(<[u8]>::to_vec).collect::<Vec<_>>())
            }
            _ => return Err(io::Error::other("SCAN is answered by something that it does not answer")),
        },
        Value::Error(line) => return Err(io::Error::other(String::from_utf8_lossy(line).into_owned())),
        _ => return Err(io::Error::other("SCAN is answered by something that it does not answer")),
    };
    let asked: Vec<Vec<&[u8]>> =
        keys.iter().flat_map(|key| [vec![&b"GET"[..], key], vec![&b"PTTL"[..], key]]).collect();
    let told = direct.ask_all(&asked)?;
    let mut records = Vec::new();
    for (key, told) in keys.iter().zip(told.chunks_exact(2)) {
        // It may be gone by now, or another type.
        if let (Ok(Value::Bulk(value)), Ok(Value::Integer(left))) = (decode(&told[0]), decode(&told[1]))
            && left != -2
        {
            records.extend(Record::of_value(key, value, u64::try_from(left).ok()));
        }
    }
    Ok(Page { next, records })
}

fn failed(error: &io::Error) -> ExitCode {
    // A reader that has seen enough is no failure.
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    eprintln!("lockgate: {error}");
    ExitCode::from(FAILURE)
}
