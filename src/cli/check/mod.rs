//! `lockgate check`: whether this upstream, set up as it is, is good for locks; what to change, and why.

mod facts;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::client::Place;
use super::upstream::{Direct, master_of};
use super::{FAILURE, refuse};
use crate::config::{self, Sources};
use crate::coordinator::Rules;
use crate::protocol::frame::{Value, decode};
use crate::tls::ClientTls;
use crate::upstream::url::{Endpoint, Sentinels, Upstream};
use verdict::{Finding, Weight, findings};

/// A Sentinel, and the server itself, may take so long to connect.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Asks, and prints a report, or with `as_json` an array of findings. Exits with 1 where there is a blocker.
pub(super) fn check(sources: &Sources, as_json: bool) -> ExitCode {
    let config = match config::load(sources) {
        Ok(loaded) => loaded.config,
        Err(problems) => return refuse(&problems),
    };
    let mut all = Vec::new();
    if let Upstream::Sentinel(sentinels) = &config.upstream {
        all.push(sentinels_found(sentinels, &ClientTls::for_upstream(&config).ok().flatten()));
    }
    let asked = master_of(&config).and_then(|place| {
        let told = |error: std::io::Error| format!("{place}: {error}");
        let direct = Direct::connect(&place, CONNECT_MAX).map_err(told)?;
        facts::gather(&direct, &Rules::of(&config.lock_keys)).map_err(told)
    });
    match asked {
        Ok(facts) => all.extend(findings(&facts)),
        Err(why) => all.push(Finding {
            weight: Weight::Blocker,
            about: "upstream",
            says: format!("cannot be asked: {why}"),
            advice: "see that it runs, and that 'upstream' names it and its password",
        }),
    }
    if as_json {
        let told = all.iter().map(|finding| {
            json!({"level": finding.weight.name().to_lowercase(), "about": finding.about, "says": finding.says, "advice": finding.advice})
        });
        println!("{}", serde_json::Value::Array(told.collect()));
    } else {
        println!("upstream: {}", config.upstream);
        all.iter().for_each(|finding| print!("{}", line(finding)));
    }
    let is_blocked = all.iter().any(|finding| finding.weight == Weight::Blocker);
    if is_blocked { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
}

fn line(finding: &Finding) -> String {
    let Finding { weight, about, says, advice } = finding;
    let advice = if advice.is_empty() { String::new() } else { format!("\n          {advice}") };
    format!("{:<8}  {about}: {says}{advice}\n", weight.name())
}

/// Whether enough of them answer and know the master.
fn sentinels_found(sentinels: &Sentinels, tls: &Option<Arc<ClientTls>>) -> Finding {
    let knows = |address| {
        let endpoint = Endpoint {
            user: sentinels.user.clone(),
            password: sentinels.password.as_ref().map(|secret| secret.0.clone()),
            is_tls: sentinels.is_tls,
            ..Endpoint::at(address)
        };
        let mut client = Place { endpoint, tls: tls.clone() }.connect(CONNECT_MAX).ok()?;
        client.send(&[b"SENTINEL", b"MASTER", sentinels.name.as_bytes()]).ok()?;
        let reply = client.reply(std::time::Instant::now() + CONNECT_MAX).ok()?;
        matches!(decode(&reply), Ok(Value::Map(_) | Value::Array(_))).then_some(())
    };
    let count = sentinels.addresses.len();
    let answering = sentinels.addresses.iter().filter(|address| knows((*address).clone()).is_some()).count();
    let says = format!("{answering} of {count} know the master '{}'", sentinels.name);
    let (weight, advice) = match (answering, count) {
        (0, _) => (Weight::Blocker, "see that they run, and that 'upstream' names them and the master as they do"),
        (answering, count) if answering < count => {
            (Weight::Warning, "start the others: a failover needs a majority of them")
        }
        (_, ..3) => {
            (Weight::Note, "name at least three, on different machines: fewer cannot outvote one that is wrong")
        }
        _ => (Weight::Fine, ""),
    };
    Finding { weight, about: "sentinels", says, advice }
}
