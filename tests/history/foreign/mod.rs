//! A judge that is not ours: the WGL linearizability checker of todc-utils, asked whether what the clients of each key were told can
//! have happened in some order on one fenced lock ([`lock`]). It shares nothing with `history::check` but the recording.
//!
//! What the recording leaves open is resolved in the product's favour: a call without an answer may have acted at any later moment,
//! a lease may have ended at any time after its shortest possible end, and around a moment at which the server lost data only fences
//! are judged. So a right product is never accused.

mod lock;
mod translate;

use super::check::Violation;
use super::record::Record;
use lock::FencedLock;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use translate::Timed;

/// Steps of the search after which a key counts as undecided; a history that is linearizable takes a few for each call.
const STEPS_MAX: u64 = 3_000_000;

/// How much was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Operations of all keys.
    pub operations: usize,
    /// Keys whose search was given up.
    pub undecided: usize,
}

/// Judges the history of each key.
pub fn judge(history: &[Record]) -> (Vec<Violation>, Judged) {
    let (mut found, mut judged) = (Vec::new(), Judged::default());
    for (key, operations) in translate::by_key(history) {
        judged.operations += operations.len();
        match decide(&operations) {
            Verdict::Linearizable => {}
            Verdict::Undecided => judged.undecided += 1,
            Verdict::Not => {
                let shortest = shortest_wrong(&operations);
                let story: Vec<String> = shortest.iter().map(|timed| format!("    {timed}")).collect();
                let story = format!("no order explains what was told of '{key}'\n{}", story.join("\n"));
                found.push(Violation { rule: "not linearizable", story });
            }
        }
    }
    (found, judged)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Linearizable,
    Not,
    Undecided,
}

fn decide(operations: &[Timed]) -> Verdict {
    if operations.is_empty() {
        return Verdict::Linearizable;
    }
    lock::begin_search(STEPS_MAX);
    let is_linearizable = WGLChecker::<FencedLock>::is_linearizable(History::from_actions(actions(operations)));
    match (lock::is_exhausted(), is_linearizable) {
        (true, _) => Verdict::Undecided,
        (false, true) => Verdict::Linearizable,
        (false, false) => Verdict::Not,
    }
}

/// Calls and responses in the order of time. At one moment calls come first, so that what touches is concurrent.
fn actions(operations: &[Timed]) -> Vec<(usize, Action<lock::Operation>)> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (process, timed) in operations.iter().enumerate() {
        events.push((timed.from_us, false, process));
        events.push((timed.until_us, true, process));
    }
    events.sort_unstable();
    let action = |(_, is_response, process): (u64, bool, usize)| {
        let operation = operations[process].operation;
        (process, if is_response { Action::Response(operation) } else { Action::Call(operation) })
    };
    events.into_iter().map(action).collect()
}

/// The end of the shortest beginning of a wrong history that is wrong already; its last operations are what a person looks at.
fn shortest_wrong(operations: &[Timed]) -> Vec<Timed> {
    const SHOWN: usize = 12;
    let mut by_end: Vec<&Timed> = operations.iter().collect();
    by_end.sort_by_key(|timed| timed.until_us);
    let beginning = |count: usize| -> Vec<Timed> {
        let cut_us = by_end.get(count.saturating_sub(1)).map_or(0, |timed| timed.until_us);
        operations.iter().filter(|timed| timed.from_us <= cut_us).map(|timed| timed.cut_at(cut_us)).collect()
    };
    let (mut good, mut bad) = (0, by_end.len());
    while good + 1 < bad {
        let middle = usize::midpoint(good, bad);
        match decide(&beginning(middle)) {
            Verdict::Not => bad = middle,
            Verdict::Linearizable | Verdict::Undecided => good = middle,
        }
    }
    let mut wrong = beginning(bad);
    wrong.sort_by_key(|timed| timed.until_us);
    wrong.split_off(wrong.len().saturating_sub(SHOWN))
}

#[cfg(test)]
mod tests;
