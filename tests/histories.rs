//! Real servers, two nodes, many clients, and everything that can break, drawn from a seed; each call is written down, and the
//! history is checked for two holders, fences that do not grow, waiters that were passed, sleepers, and leftovers.
//!
//! `LOCKGATE_HISTORY_SEED=n` runs one seed, `LOCKGATE_HISTORY_MINUTES=n` runs seeds for that long, `LOCKGATE_HISTORY_FILE=path` checks
//! a recording once more.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod history;

use history::check::{Count, check};
use history::record;
use history::run::{Variant, judge};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long people go on in one run; the checks of what is left come on top.
const LASTS: Duration = Duration::from_secs(9);
/// Runs at a time: each has two nodes, a server, and clients that mostly wait.
const AT_A_TIME: usize = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Takes seeds from `next` until `is_over` says so; returns what all of them amounted to, and what was found.
fn run_seeds(next: &AtomicU64, is_over: impl Fn(u64) -> bool + Sync) -> (u64, Count, Vec<String>) {
    let all = Mutex::new((0, Count::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if is_over(seed) {
                        return;
                    }
                    let judged = judge(seed, Variant::of_seed(seed), LASTS);
                    let mut all = all.lock().unwrap();
                    all.0 += 1;
                    match judged {
                        Ok(count) => all.1 += count,
                        Err(story) => {
                            eprintln!("{story}");
                            all.2.push(story);
                        }
                    }
                }
            });
        }
    });
    all.into_inner().unwrap()
}

#[test]
fn seeds_draw_histories_in_which_a_lock_is_a_lock() {
    let (first, is_over): (u64, Box<dyn Fn(u64) -> bool + Sync>) =
        match (number("LOCKGATE_HISTORY_SEED"), number("LOCKGATE_HISTORY_MINUTES")) {
            (Some(seed), _) => (seed, Box::new(move |next| next > seed)),
            (None, Some(minutes)) => {
                let end = Instant::now() + Duration::from_secs(60 * minutes);
                (1000, Box::new(move |_| Instant::now() >= end))
            }
            (None, None) => (1, Box::new(|next| next > Variant::ALL.len() as u64)),
        };
    let (runs, count, found) = run_seeds(&AtomicU64::new(first), is_over);
    println!("{runs} histories: {count:?}");
    assert!(found.is_empty(), "{} of {runs} histories went wrong:\n{}", found.len(), found.join("\n"));
    assert!(count.grants > 0, "nobody was ever granted anything");
}

#[test]
fn a_recording_can_be_checked_again() {
    let Some(file) = std::env::var_os("LOCKGATE_HISTORY_FILE") else { return };
    let (found, count) = check(&record::load(file.as_ref()));
    println!("{count:?}");
    let story: Vec<String> = found.iter().map(|violation| format!("- {violation}")).collect();
    assert!(found.is_empty(), "{} violations\n{}", found.len(), story.join("\n"));
}
