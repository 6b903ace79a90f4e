//! The seeded differential fuzz: several sessions say anything in any order, straight to a server and through Lockgate,
//! and each must see the same. docs/testing.md tells how a run is repeated and made longer.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "differential/mod.rs"]
mod differential;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::{ServerKind, tools};
use differential::conversation::Conversation;
use differential::generator;
use differential::judge::{Finding, Judge};
use differential::vocabulary::Topic;

/// How many conversations the short form plays on each kind of server.
const SHORT: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// The kinds of servers to play on: all, or the one that `DIFF_SERVER` names.
fn kinds() -> Vec<ServerKind> {
    let wanted = std::env::var("DIFF_SERVER").ok();
    ServerKind::ALL.into_iter().filter(|kind| wanted.as_ref().is_none_or(|name| name == kind.name())).collect()
}

/// The topics that `DIFF_WITHOUT` names are left out; where it is not set, what is known to differ still.
fn left_out() -> Option<Vec<Topic>> {
    let names = std::env::var("DIFF_WITHOUT").ok()?;
    let all = Topic::ALL.into_iter().map(|(topic, _)| topic);
    Some(all.filter(|topic| names.split_whitespace().any(|name| name == format!("{topic:?}"))).collect())
}

/// Writes the finding down, and says where.
fn told(finding: &Finding, kind: ServerKind, seed: u64) -> String {
    let folder = tools::target_dir().join("differential");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}-{seed}.txt", kind.name()));
    let text = finding.tell(kind.name());
    std::fs::write(&path, &text).unwrap();
    std::fs::write(path.with_extension("log"), &finding.lockgate_wrote).unwrap();
    format!(
        "seed {seed} differs on {}; play it again with\n  DIFF_SEED={seed} DIFF_SERVER={} cargo test --test differential random\nor DIFF_CASE={}:\n{text}",
        kind.name(),
        kind.name(),
        path.display()
    )
}

/// Plays seeds until there are no more, several servers at a time; what differs.
fn play(judge: fn(ServerKind) -> Judge, seeds: std::ops::Range<u64>) -> Vec<String> {
    let workers = number("DIFF_WORKERS").unwrap_or(1);
    let goes_on = std::env::var_os("DIFF_GO_ON").is_some();
    let began = Instant::now();
    let mut findings = Vec::new();
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for kind in kinds() {
            let next = std::sync::Arc::new(AtomicU64::new(seeds.start));
            for _ in 0..workers {
                let (next, end) = (next.clone(), seeds.end);
                running.push(scope.spawn(move || {
                    let mut judge = judge(kind);
                    let mut findings = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end || (!findings.is_empty() && !goes_on) {
                            return findings;
                        }
                        if seed % 500 == 499 {
                            eprintln!("{}: {seed} after {:.0} s", kind.name(), began.elapsed().as_secs_f64());
                        }
                        if let Some(finding) = judge.judge(&generator::conversation(seed, kind, left_out().as_deref()))
                        {
                            let told = told(&finding, kind, seed);
                            eprintln!("{told}");
                            findings.push(told);
                        }
                    }
                }));
            }
        }
        for worker in running {
            findings.extend(worker.join().unwrap_or_else(|_| vec!["a worker panicked".to_owned()]));
        }
    });
    let conversations = (seeds.end - seeds.start) * kinds().len() as u64;
    eprintln!("{conversations} conversations in {:.1} s", began.elapsed().as_secs_f64());
    findings
}

fn seeds(short: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("DIFF_SEED") {
        return seed..seed + 1;
    }
    let first = number("DIFF_FIRST_SEED").unwrap_or(0);
    let count = number("DIFF_CONVERSATIONS").map_or(short, |all| all.div_ceil(kinds().len() as u64));
    first..first + count
}

#[test]
fn random_conversations_are_the_same_through_lockgate() {
    let findings = play(Judge::of_lockgate, seeds(SHORT));
    assert!(findings.is_empty(), "{} differ; the first:\n{}", findings.len(), findings[0]);
}

/// Without Lockgate: what differs here is the player's fault.
#[test]
fn random_conversations_are_the_same_twice_without_lockgate() {
    let findings = play(Judge::of_itself, seeds(SHORT / 10));
    assert!(findings.is_empty(), "{} differ; the first:\n{}", findings.len(), findings[0]);
}

/// What was found once, and the conversation in the file that `DIFF_CASE` names.
#[test]
fn conversations_that_differed_once_are_the_same() {
    let folder = tools::source_dir().join("tests/differential/cases");
    let mut files: Vec<_> = match std::env::var_os("DIFF_CASE") {
        Some(file) => vec![file.into()],
        None => std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect(),
    };
    files.sort();
    let mut wrong = Vec::new();
    for kind in kinds() {
        let mut judge = Judge::of_lockgate(kind);
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let case = Conversation::parse(&text);
            if !case.is_for(kind.name()) {
                continue;
            }
            if let Some(found) = judge.play_fresh(&case, common::PATIENCE) {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                wrong.push(format!("{name} on {}, step {}: {}\n{case}", kind.name(), found.step + 1, found.says));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
