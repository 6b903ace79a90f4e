//! What has been tried in which state, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::{Refusal, Spec, Stands};
use crate::store::value::Fields;

/// What may come of each command in each state of a key, and all that must have been seen. A `~` marks what takes so many chances at
/// once (an owner, a fence, a queue of one node) that only a long run is sure to see it. Left out are states that a command does not
/// tell apart: who names no owner finds no lock of his own (`set_nx`, `clean`, `force`, `look`, what a node does in its own turn).
const TABLE: &str = "
acquire | Free | granted / handed over
acquire | Awaited | granted / handed over
acquire | Own | repeated
acquire | Anothers | refused
acquire | OwnClaim | repeated
acquire | AnothersClaim | refused
acquire | OwnValue | refused
acquire | Value | refused
acquire | Data | no lock
acquire | NoString | wrong type
acquire_all | Free | new
acquire_all | Awaited | in the way
acquire_all | Own | repeated / taken before~
acquire_all | Anothers | bridge / in the way
acquire_all | OwnClaim | bridge~ / in the way
acquire_all | AnothersClaim | bridge / in the way
acquire_all | OwnValue | in the way
acquire_all | Value | in the way
acquire_all | Data | no lock
acquire_all | NoString | wrong type
clean | Free | none
clean | Awaited | none~ / some~
clean | Anothers | none / some
clean | AnothersClaim | none / some
clean | Value | none / some
clean | Data | none / some~
clean | NoString | none / some~
confirm | Free | free / handed over~
confirm | Awaited | handed over~
confirm | Anothers | held~
confirm | AnothersClaim | confirmed / held~ / over
confirm | Value | held~
confirm | Data | held~ / no lock~
confirm | NoString | wrong type~
extend | Free | -1
extend | Awaited | -1
extend | Own | 0 / 1
extend | Anothers | 0
extend | OwnClaim | 0
extend | AnothersClaim | 0
extend | OwnValue | 0~ / 1
extend | Value | 0
extend | Data | no lock
extend | NoString | wrong type
force | Free | -1 / -1, handed over~
force | Awaited | -1~ / -1, handed over~
force | Anothers | 1 / 1, handed over
force | AnothersClaim | 1 / 1, handed over
force | Value | 1 / 1, handed over / no lock
force | Data | no lock
force | NoString | wrong type
lead | Free | 0 / 1
lead | OwnValue | 0 / 1
lead | Value | 0
look | Free | free
look | Awaited | free
look | Anothers | held
look | AnothersClaim | held
look | Value | held
look | Data | no lock
look | NoString | wrong type
look around | Free | free / handed over
look around | Awaited | free~ / handed over
look around | Anothers | held
look around | AnothersClaim | held
look around | Value | held
look around | Data | held~ / no lock
look around | NoString | wrong type
release | Free | -1 / -1, handed over
release | Awaited | -1~ / -1, handed over
release | Own | 0 / 1 / 1, handed over
release | Anothers | 0
release | OwnClaim | 0~ / 1~ / 1, handed over
release | AnothersClaim | 0
release | OwnValue | 0~ / 1~ / 1, handed over
release | Value | 0
release | Data | no lock
release | NoString | wrong type
renew | Free | 0
renew | Awaited | 0
renew | Own | 0 / 1
renew | Anothers | 0
renew | OwnClaim | 0~ / 1
renew | AnothersClaim | 0
renew | OwnValue | 0~
renew | Value | 0 / 1
renew | Data | 0 / 1
renew | NoString | wrong type
set_nx | Free | granted / handed over~
set_nx | Awaited | granted / handed over
set_nx | Anothers | not set / refused
set_nx | AnothersClaim | not set / refused
set_nx | Value | not set / refused
set_nx | Data | not set / refused
set_nx | NoString | not set
take back | Free | free / handed over
take back | Awaited | free~ / handed over
take back | Anothers | free / handed over / held
take back | AnothersClaim | free / handed over / held
take back | Value | free / handed over / held
take back | Data | free / handed over / held~ / no lock
take back | NoString | wrong type
transfer | Free | nil
transfer | Awaited | nil
transfer | Own | moved / nil
transfer | Anothers | nil
transfer | OwnClaim | nil
transfer | AnothersClaim | nil
transfer | OwnValue | moved / nil~
transfer | Value | nil
transfer | Data | no lock
transfer | NoString | wrong type
";

/// How a key stands to whoever calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nobody holds it or waits for it.
    Free,
    /// Nobody holds it, and somebody waits.
    Awaited,
    /// The caller's owner holds it by LOCK.*.
    Own,
    /// Another holds it by LOCK.*.
    Anothers,
    /// A claim for the caller's owner.
    OwnClaim,
    /// A claim for another, or for a SET NX.
    AnothersClaim,
    /// A string that is the caller's name.
    OwnValue,
    /// Another string with an expiry, or that a rule takes for a lock.
    Value,
    /// A string that is no lock.
    Data,
    /// No string at all.
    NoString,
}

impl State {
    /// How `key` stands to `owner`.
    pub fn of(spec: &Spec, key: &[u8], owner: Option<&[u8]>, is_rule_key: bool) -> State {
        let (value, until_ms) = match spec.locks.get(key) {
            None if spec.queues.contains_key(key) => return State::Awaited,
            None => return State::Free,
            Some(Stands::NoString) => return State::NoString,
            Some(Stands::Text(value, until_ms)) => (value, until_ms),
        };
        match Fields::read(value) {
            Some(fields) => match (Some(fields.owner) == owner, fields.is_claim) {
                (true, false) => State::Own,
                (false, false) => State::Anothers,
                (true, true) => State::OwnClaim,
                (false, true) => State::AnothersClaim,
            },
            None if until_ms.is_none() && !is_rule_key => State::Data,
            None if Some(&value[..]) == owner => State::OwnValue,
            None => State::Value,
        }
    }
}

impl Refusal {
    /// For the report.
    pub fn word(&self) -> &'static str {
        match self {
            Refusal::WrongType => "wrong type",
            Refusal::NotALock => "no lock",
        }
    }
}

/// How often each command came to each outcome, by state.
#[derive(Debug, Default)]
pub struct Coverage(BTreeMap<(&'static str, State), BTreeMap<&'static str, u64>>);

impl Coverage {
    /// Once more.
    pub fn saw(&mut self, command: &'static str, state: State, outcome: &'static str) {
        *self.0.entry((command, state)).or_default().entry(outcome).or_default() += 1;
    }

    /// What is in the table and was not seen, and what was seen and is not in it. What is marked as rare need not have been seen.
    pub fn differences(&self, with_rare: bool) -> Vec<String> {
        let mut differences = Vec::new();
        let mut expected: BTreeSet<(String, String)> = BTreeSet::new();
        for line in TABLE.lines().filter(|line| !line.is_empty()) {
            let mut cells = line.split(" | ");
            let (command, state) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            for outcome in cells.next().unwrap_or_default().split(" / ") {
                let (word, is_rare) = outcome.strip_suffix('~').map_or((outcome, false), |word| (word, true));
                let case = format!("{command} | {state}");
                let seen = self.0.iter().find(|((name, of), _)| format!("{name} | {of:?}") == case);
                let count = seen.and_then(|(_, outcomes)| outcomes.get(word)).copied().unwrap_or(0);
                if count == 0 && (with_rare || !is_rare) {
                    differences.push(format!("never seen: {case} | {word}"));
                }
                expected.insert((case, word.to_owned()));
            }
        }
        for ((command, state), outcomes) in &self.0 {
            for (outcome, count) in outcomes {
                let case = format!("{command} | {state:?}");
                if !expected.contains(&(case.clone(), (*outcome).to_owned())) {
                    differences.push(format!("seen {count} times, and not in the table: {case} | {outcome}"));
                }
            }
        }
        differences
    }

    /// The table as it was seen, a line for each command and state.
    pub fn report(&self) -> String {
        let line = |((command, state), outcomes): (&(&str, State), &BTreeMap<&str, u64>)| {
            let outcomes: Vec<String> =
                outcomes.iter().map(|(outcome, count)| format!("{outcome} ({count})")).collect();
            format!("{command:<12} {:<14} {}\n", format!("{state:?}"), outcomes.join(", "))
        };
        self.0.iter().map(line).collect()
    }
}
