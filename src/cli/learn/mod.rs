//! `lockgate learn`: watches `MONITOR` for a while and says which keys are locks, what polling for them costs, and which rules would
//! queue them.

mod line;
mod study;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::FAILURE;
use super::client::Place;
use super::table::{table, text, time};
use crate::coordinator::Rules;
use crate::events::shown;
use line::Line;
use study::{Family, Study};

/// Connecting may take so long.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a queued `SET NX` waits in the rules that are proposed.
const WAIT: &str = "5s";

/// Watches for `length`. `rules` are those in force, so that what they match already is said to be.
pub(super) fn learn(place: &Place, length: Duration, rules: &Rules, as_json: bool) -> ExitCode {
    match watched(place, length) {
        Ok(study) if as_json => {
            println!("{}", as_array(&study, rules));
            ExitCode::SUCCESS
        }
        Ok(study) => {
            print!("{}", report(&study, rules));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lockgate: {place}: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

fn watched(place: &Place, length: Duration) -> io::Result<Study> {
    let mut client = place.connect(CONNECT_MAX)?;
    client.send(&[b"MONITOR"])?;
    let reply = client.reply(Instant::now() + CONNECT_MAX)?;
    if reply.first() == Some(&b'-') {
        return Err(io::Error::other(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned()));
    }
    if io::stderr().is_terminal() {
        eprintln!("watching {place} for {}", time(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)));
    }
    let (until, mut study) = (Instant::now() + length, Study::default());
    loop {
        match client.frame(until) {
            Ok(frame) => {
                let text = frame.strip_prefix(b"+").and_then(|text| text.strip_suffix(b"\r\n"));
                if let Some(line) = text.and_then(Line::parse) {
                    study.saw(&line);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(study),
            Err(error) => return Err(error),
        }
    }
}

/// The rule that matches it already.
fn matched<'a>(family: &Family, rules: &'a Rules) -> Option<&'a str> {
    rules.find(&family.example, b"").map(|rule| &*rule.name)
}

fn report(study: &Study, rules: &Rules) -> String {
    let seconds = study.length_us() as f64 / 1e6;
    let locks = study.locks();
    let mut out = format!("{} commands in {seconds:.1} s\n", study.lines);
    if locks.is_empty() {
        out.push_str("no locks were seen: keys that are set with NX and let go of again\n");
        return out;
    }
    let rows: Vec<Vec<String>> = locks
        .iter()
        .map(|family| {
            let per_second = if seconds > 0.0 { family.refused as f64 / seconds } else { 0.0 };
            vec![
                text(family.pattern.as_bytes(), 60),
                family.keys.to_string(),
                if family.is_queued { "-".into() } else { family.taken.to_string() },
                if family.is_queued { "-".into() } else { format!("{} ({per_second:.1}/s)", family.refused) },
                family.median_hold_us.map_or(String::new(), |us| time(us / 1000)),
                match (family.is_queued, matched(family, rules)) {
                    (true, _) => "queued by Lockgate".into(),
                    (_, Some(rule)) => format!("rule '{rule}' matches"),
                    _ => "no rule".into(),
                },
            ]
        })
        .collect();
    out.push_str(&table(&["LOCKS", "KEYS", "TAKEN", "REFUSED", "HELD", ""], &[1, 2, 3, 4], &rows));
    let refused: u64 = locks.iter().map(|family| family.refused).sum();
    out.push_str(&format!(
        "\n{refused} tries found their lock taken ({:.1} % of all commands): a queue would spare them\n",
        refused as f64 * 100.0 / study.lines.max(1) as f64
    ));
    let proposed: String = locks
        .iter()
        .filter(|family| !family.is_queued && matched(family, rules).is_none())
        .map(|family| format!("\n[[lock_keys]]\nmatch = {}\nwait = \"{WAIT}\"\n", json!(family.pattern)))
        .collect();
    if !proposed.is_empty() {
        out.push_str("\nThese rules would queue them (mode = \"shadow\" only counts, to begin with):\n");
        out.push_str(&proposed);
    }
    out
}

fn as_array(study: &Study, rules: &Rules) -> serde_json::Value {
    let told = study.locks().into_iter().map(|family| {
        json!({
            "match": family.pattern,
            "example": shown(&family.example),
            "keys": family.keys,
            "taken": family.taken,
            "refused": family.refused,
            "median_hold_ms": family.median_hold_us.map(|us| us / 1000),
            "queued": family.is_queued,
            "rule": matched(&family, rules),
        })
    });
    serde_json::Value::Array(told.collect())
}
