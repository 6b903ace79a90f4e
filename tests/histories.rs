//! Real servers, two nodes, many clients, and everything that can break, drawn from a seed; each call is written down, and the
//! history is checked for two holders, fences that do not grow, waiters that were passed, sleepers, and leftovers.
//!
//! `LOCKGATE_HISTORY_SEED=n` runs one seed, `LOCKGATE_HISTORY_MINUTES=n` runs seeds for that long (from that one, where both are
//! set), `LOCKGATE_HISTORY_FILE=path` checks a recording once more.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod history;

use history::check::{Count, check};
use history::foreign::judge as judge_foreign;
use history::record;
use history::run::{Variant, forget, judge};
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

/// Which seeds to run.
struct Seeds {
    first: u64,
    /// So many …
    count: u64,
    /// … or for so long; good ones are not kept then.
    lasts: Option<Duration>,
}

impl Seeds {
    fn wanted() -> Self {
        let (seed, minutes) = (number("LOCKGATE_HISTORY_SEED"), number("LOCKGATE_HISTORY_MINUTES"));
        let lasts = minutes.map(|minutes| Duration::from_secs(60 * minutes));
        match seed {
            Some(first) => Self { first, count: 1, lasts },
            None if lasts.is_some() => Self { first: 1000, count: 1, lasts },
            None => Self { first: 1, count: Variant::ALL.len() as u64, lasts },
        }
    }

    /// Runs them; returns how many there were, what they amounted to, and what was found.
    fn run(&self) -> (u64, Count, Vec<String>) {
        let (next, all) = (AtomicU64::new(self.first), Mutex::new((0, Count::default(), Vec::new())));
        let began = Instant::now();
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if self.lasts.map_or(seed >= self.first + self.count, |lasts| began.elapsed() >= lasts) {
                    return;
                }
                let judged = judge(seed, Variant::of_seed(seed), LASTS);
                let mut all = all.lock().unwrap();
                all.0 += 1;
                match judged {
                    Ok(count) => {
                        all.1 += count;
                        if self.lasts.is_some() {
                            forget(seed);
                        }
                    }
                    Err(story) => {
                        eprintln!("{story}");
                        all.2.push(story);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(work);
            }
        });
        all.into_inner().unwrap()
    }
}

#[test]
fn seeds_draw_histories_in_which_a_lock_is_a_lock() {
    let (runs, count, found) = Seeds::wanted().run();
    println!("{runs} histories: {count:?}");
    assert!(found.is_empty(), "{} of {runs} histories went wrong:\n{}", found.len(), found.join("\n"));
    assert!(count.grants > 0, "nobody was ever granted anything");
}

#[test]
fn a_recording_can_be_checked_again() {
    let Some(file) = std::env::var_os("LOCKGATE_HISTORY_FILE") else { return };
    let history = record::load(file.as_ref());
    let (mut found, count) = check(&history);
    let (foreign, judged) = judge_foreign(&history);
    found.extend(foreign);
    println!("{count:?} {judged:?}");
    let story: Vec<String> = found.iter().map(|violation| format!("- {violation}")).collect();
    assert!(found.is_empty(), "{} violations\n{}", found.len(), story.join("\n"));
}
