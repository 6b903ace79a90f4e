//! What has been asked of a key in which state, and what came of it.

use std::collections::BTreeMap;

use super::client::Said;

/// What must be seen of each command in each state of a key, in the days of a plain `cargo test`. A `~` marks what takes so many chances
/// at once that only a long run is sure to see it: fewer than ten were seen when the table was written. Where no answer alone was seen so
/// often, `asked` requires one of them. Between a question and its answer the key may change hands, so that nearly everything can come of
/// everything.
const TABLE: &str = "
ACQUIRE | Free | granted / nil
ACQUIRE | Awaited | granted / nil
ACQUIRE | Own | granted / nil~
ACQUIRE | OwnAwaited | granted / nil~
ACQUIRE | Others | granted / nil
ACQUIRE | OthersAwaited | granted~ / nil
ACQUIRE | OwnClaim | asked / granted~
ACQUIRE | OthersClaim | granted~ / nil
ACQUIRE | Value | granted~ / nil
ACQUIRE | ValueAwaited | granted~ / nil
ACQUIRE | Data | ERR
ACQUIRE WAIT | Free | granted / nil
ACQUIRE WAIT | Awaited | QUEUEFULL~ / granted / nil
ACQUIRE WAIT | Own | granted / nil~
ACQUIRE WAIT | OwnAwaited | granted / nil~
ACQUIRE WAIT | Others | DEADLOCK / QUEUEFULL~ / granted / nil
ACQUIRE WAIT | OthersAwaited | DEADLOCK / QUEUEFULL / granted / nil
ACQUIRE WAIT | OwnClaim | granted
ACQUIRE WAIT | OthersClaim | DEADLOCK~ / QUEUEFULL / granted / nil
ACQUIRE WAIT | Value | DEADLOCK / QUEUEFULL~ / granted / nil
ACQUIRE WAIT | ValueAwaited | DEADLOCK / QUEUEFULL / granted / nil
ACQUIRE WAIT | Data | ERR / granted~
ACQUIREALL | Free | granted / nil
ACQUIREALL | Awaited | granted / nil
ACQUIREALL | Own | granted / nil
ACQUIREALL | OwnAwaited | granted / nil
ACQUIREALL | Others | granted~ / nil
ACQUIREALL | OthersAwaited | nil
ACQUIREALL | OwnClaim | asked / nil~
ACQUIREALL | OthersClaim | nil
ACQUIREALL | Value | nil
ACQUIREALL | ValueAwaited | nil
ACQUIREALL | Data | ERR
ACQUIREALL WAIT | Free | DEADLOCK / ERR / QUEUEFULL / granted / nil
ACQUIREALL WAIT | Awaited | DEADLOCK / QUEUEFULL / granted / nil
ACQUIREALL WAIT | Own | DEADLOCK / ERR / QUEUEFULL~ / granted / nil
ACQUIREALL WAIT | OwnAwaited | DEADLOCK / QUEUEFULL / granted / nil
ACQUIREALL WAIT | Others | DEADLOCK / ERR / QUEUEFULL~ / granted / nil
ACQUIREALL WAIT | OthersAwaited | DEADLOCK / ERR / QUEUEFULL / granted / nil
ACQUIREALL WAIT | OwnClaim | asked / granted~
ACQUIREALL WAIT | OthersClaim | QUEUEFULL~ / granted / nil
ACQUIREALL WAIT | Value | DEADLOCK / QUEUEFULL~ / granted / nil
ACQUIREALL WAIT | ValueAwaited | DEADLOCK / QUEUEFULL / granted / nil
ACQUIREALL WAIT | Data | ERR
CANCEL | Free | 0
CANCEL | Awaited | 0
CANCEL | Own | 0
CANCEL | OwnAwaited | 0
CANCEL | Others | 0 / 1
CANCEL | OthersAwaited | 0 / 1
CANCEL | OwnClaim | asked / 1~
CANCEL | OthersClaim | 0 / 1~
CANCEL | Value | 0 / 1~
CANCEL | ValueAwaited | 0 / 1
CANCEL | Data | ERR
EXTEND | Free | 0
EXTEND | Awaited | 0
EXTEND | Own | 0~ / 1
EXTEND | OwnAwaited | 0~ / 1
EXTEND | Others | 0
EXTEND | OthersAwaited | 0
EXTEND | OwnClaim | 0
EXTEND | OthersClaim | 0
EXTEND | Value | 0
EXTEND | ValueAwaited | 0
EXTEND | Data | ERR
EXTEND FENCE | Free | 0
EXTEND FENCE | Awaited | 0
EXTEND FENCE | Own | 0 / 1
EXTEND FENCE | OwnAwaited | 0 / 1
EXTEND FENCE | Others | 0
EXTEND FENCE | OthersAwaited | 0
EXTEND FENCE | OwnClaim | 0
EXTEND FENCE | OthersClaim | 0
EXTEND FENCE | Value | 0
EXTEND FENCE | ValueAwaited | 0
EXTEND FENCE | Data | ERR
FORCE | Free | 0
FORCE | Awaited | 0 / 1~
FORCE | Others | 0~ / 1
FORCE | OthersAwaited | 0~ / 1
FORCE | OthersClaim | 1
FORCE | Value | 1
FORCE | ValueAwaited | 0~ / 1
FORCE | Data | asked / ERR~
GUARD | Free | FENCED
GUARD | Awaited | FENCED
GUARD | Own | FENCED / done
GUARD | OwnAwaited | FENCED / done
GUARD | Others | FENCED
GUARD | OthersAwaited | FENCED
GUARD | OwnClaim | FENCED
GUARD | OthersClaim | FENCED
GUARD | Value | FENCED
GUARD | ValueAwaited | FENCED
GUARD | Data | asked / ERR~ / FENCED~
INFO | Free | free / held~
INFO | Awaited | free / held
INFO | Own | free~ / held
INFO | OwnAwaited | held
INFO | Others | free~ / held
INFO | OthersAwaited | free~ / held
INFO | OwnClaim | free / held~
INFO | OthersClaim | free / held~
INFO | Value | held
INFO | ValueAwaited | held
INFO | Data | ERR
POSITION | Free | holder~ / nil
POSITION | Awaited | nil / place~
POSITION | Own | holder
POSITION | OwnAwaited | holder
POSITION | Others | nil / place
POSITION | OthersAwaited | holder~ / nil / place
POSITION | OwnClaim | holder~ / nil~ / place
POSITION | OthersClaim | holder~ / nil / place
POSITION | Value | nil / place
POSITION | ValueAwaited | holder~ / nil / place
POSITION | Data | ERR
PROMOTE | Free | nil / place~
PROMOTE | Awaited | nil
PROMOTE | Own | nil
PROMOTE | OwnAwaited | nil
PROMOTE | Others | nil / place
PROMOTE | OthersAwaited | nil / place
PROMOTE | OwnClaim | nil~ / place
PROMOTE | OthersClaim | nil
PROMOTE | Value | nil / place
PROMOTE | ValueAwaited | nil / place
PROMOTE | Data | ERR
QUEUE | Free | none / some~
QUEUE | Awaited | none / some
QUEUE | Own | none / some~
QUEUE | OwnAwaited | none~ / some
QUEUE | Others | none / some
QUEUE | OthersAwaited | none / some
QUEUE | OwnClaim | none~ / some
QUEUE | OthersClaim | none~ / some
QUEUE | Value | none / some
QUEUE | ValueAwaited | none / some
QUEUE | Data | ERR
RELEASE | Free | -1 / 0~ / 1~
RELEASE | Awaited | -1 / 0~ / 1~
RELEASE | Own | -1 / 0~ / 1
RELEASE | OwnAwaited | -1~ / 0~ / 1
RELEASE | Others | 0
RELEASE | OthersAwaited | 0
RELEASE | OwnClaim | 1
RELEASE | OthersClaim | 0
RELEASE | Value | 0
RELEASE | ValueAwaited | -1~ / 0
RELEASE | Data | asked / ERR~
RELEASE FENCE | Free | -1 / 0~
RELEASE FENCE | Awaited | -1 / 0
RELEASE FENCE | Own | -1 / 0 / 1
RELEASE FENCE | OwnAwaited | -1~ / 0 / 1
RELEASE FENCE | Others | 0
RELEASE FENCE | OthersAwaited | -1~ / 0
RELEASE FENCE | OwnClaim | 0~ / 1
RELEASE FENCE | OthersClaim | 0
RELEASE FENCE | Value | 0
RELEASE FENCE | ValueAwaited | 0
RELEASE FENCE | Data | ERR
RELEASEALL | Free | ERR / none / some
RELEASEALL | Awaited | none / some
RELEASEALL | Own | some
RELEASEALL | OwnAwaited | some
RELEASEALL | Others | none / some
RELEASEALL | OthersAwaited | none / some
RELEASEALL | OwnClaim | some
RELEASEALL | OthersClaim | none / some
RELEASEALL | Value | none / some
RELEASEALL | ValueAwaited | none / some
RELEASEALL | Data | ERR
SET NX | Free | granted / nil
SET NX | Awaited | granted / nil
SET NX | Others | granted / nil
SET NX | OthersAwaited | QUEUEFULL / granted / nil
SET NX | OthersClaim | QUEUEFULL~ / granted / nil
SET NX | Value | granted / nil
SET NX | ValueAwaited | QUEUEFULL / granted / nil
SET NX | Data | nil
SET NX AT | Free | granted / nil~
SET NX AT | Awaited | granted / nil~
SET NX AT | Others | granted / nil
SET NX AT | OthersAwaited | QUEUEFULL~ / granted / nil
SET NX AT | OthersClaim | granted / nil
SET NX AT | Value | granted / nil
SET NX AT | ValueAwaited | QUEUEFULL~ / granted / nil
SETNX | Free | granted
SETNX | Awaited | granted / nil~
SETNX | Others | granted / nil
SETNX | OthersAwaited | QUEUEFULL~ / granted / nil
SETNX | OthersClaim | granted / nil
SETNX | Value | granted / nil
SETNX | ValueAwaited | granted / nil
TRANSFER | Free | nil
TRANSFER | Awaited | nil
TRANSFER | Own | moved / nil
TRANSFER | OwnAwaited | moved / nil
TRANSFER | Others | nil
TRANSFER | OthersAwaited | nil
TRANSFER | OwnClaim | asked / nil~
TRANSFER | OthersClaim | nil
TRANSFER | Value | nil
TRANSFER | ValueAwaited | nil
TRANSFER | Data | asked / ERR~
";

const COMMANDS: [&str; 20] = [
    "ACQUIRE",
    "ACQUIRE WAIT",
    "ACQUIREALL",
    "ACQUIREALL WAIT",
    "CANCEL",
    "EXTEND",
    "EXTEND FENCE",
    "FORCE",
    "GUARD",
    "INFO",
    "POSITION",
    "PROMOTE",
    "QUEUE",
    "RELEASE",
    "RELEASE FENCE",
    "RELEASEALL",
    "SET NX",
    "SET NX AT",
    "SETNX",
    "TRANSFER",
];

const STATES: [State; 11] = [
    State::Free,
    State::Awaited,
    State::Own,
    State::OwnAwaited,
    State::Others,
    State::OthersAwaited,
    State::OwnClaim,
    State::OthersClaim,
    State::Value,
    State::ValueAwaited,
    State::Data,
];

/// States in which a command is never asked, and why.
const UNSEEN: &[(&str, &[State], &str)] = &[
    ("FORCE", &NO_OWNER, "who forces names no owner"),
    ("SET NX", &NO_OWNER, "a SET NX has no owner: no lock is his own"),
    ("SET NX AT", &NO_OWNER, "a SET NX has no owner: no lock is his own"),
    ("SETNX", &NO_OWNER, "a SET NX has no owner: no lock is his own"),
    ("SET NX AT", &[State::Data], "drawn for keys of a rule, and there a string is no data"),
    ("SETNX", &[State::Data], "drawn for keys of a rule, and there a string is no data"),
];
const NO_OWNER: [State; 3] = [State::Own, State::OwnAwaited, State::OwnClaim];

/// How a key stands to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nobody holds it or waits for it.
    Free,
    /// Nobody holds it, and somebody waits.
    Awaited,
    /// The asker's owner holds it by LOCK.*.
    Own,
    /// And another waits.
    OwnAwaited,
    /// Another holds it by LOCK.*.
    Others,
    /// And somebody else waits.
    OthersAwaited,
    /// A claim for the asker's owner.
    OwnClaim,
    /// A claim for another.
    OthersClaim,
    /// What a SET NX wrote.
    Value,
    /// And somebody waits.
    ValueAwaited,
    /// A string that is no lock.
    Data,
}

/// Something that is asked, and how its keys stood just before.
pub struct Question {
    command: &'static str,
    states: Vec<State>,
}

impl Question {
    /// Of a command.
    pub fn new(words: &[&[u8]], states: Vec<State>) -> Self {
        Question { command: command(words), states }
    }
}

fn command(words: &[&[u8]]) -> &'static str {
    let has = |word: &[u8]| words.contains(&word);
    let waits = words.iter().position(|word| *word == b"WAIT").is_some_and(|at| words[at + 1] != b"0");
    match words[0] {
        b"LOCK.ACQUIRE" | b"LOCK.PRIORITY" if waits => "ACQUIRE WAIT",
        b"LOCK.ACQUIRE" | b"LOCK.PRIORITY" => "ACQUIRE",
        b"LOCK.ACQUIREALL" if waits => "ACQUIREALL WAIT",
        b"LOCK.ACQUIREALL" => "ACQUIREALL",
        b"LOCK.RELEASE" if has(b"FENCE") => "RELEASE FENCE",
        b"LOCK.RELEASE" => "RELEASE",
        b"LOCK.RELEASEALL" => "RELEASEALL",
        b"LOCK.EXTEND" if has(b"FENCE") => "EXTEND FENCE",
        b"LOCK.EXTEND" => "EXTEND",
        b"LOCK.TRANSFER" => "TRANSFER",
        b"LOCK.GUARD" => "GUARD",
        b"LOCK.CANCEL" => "CANCEL",
        b"LOCK.PROMOTE" => "PROMOTE",
        b"LOCK.POSITION" => "POSITION",
        b"LOCK.INFO" => "INFO",
        b"LOCK.QUEUE" => "QUEUE",
        b"LOCK.FORCE" => "FORCE",
        b"SETNX" => "SETNX",
        b"SET" if has(b"PXAT") || has(b"EXAT") => "SET NX AT",
        b"SET" => "SET NX",
        other => panic!("{} has no name in the coverage", other.escape_ascii()),
    }
}

fn outcome(command: &str, said: Option<&Said>) -> &'static str {
    match (command, said) {
        (_, None) => "lost",
        (_, Some(Said::Error(line))) => match line.split(' ').next().unwrap_or_default() {
            "DEADLOCK" => "DEADLOCK",
            "QUEUEFULL" => "QUEUEFULL",
            "FENCED" => "FENCED",
            "UNAVAILABLE" => "UNAVAILABLE",
            _ => "ERR",
        },
        (_, Some(Said::Nil)) => "nil",
        ("SETNX", Some(Said::Number(0))) => "nil",
        ("ACQUIRE" | "ACQUIRE WAIT" | "SETNX" | "ACQUIREALL" | "ACQUIREALL WAIT", _) => "granted",
        ("SET NX" | "SET NX AT", _) => "granted",
        ("RELEASEALL", Some(Said::Number(number))) => {
            if *number == 0 {
                "none"
            } else {
                "some"
            }
        }
        ("TRANSFER", _) => "moved",
        ("GUARD", _) => "done",
        ("PROMOTE", _) => "place",
        ("POSITION", Some(Said::Number(0))) => "holder",
        ("POSITION", _) => "place",
        ("INFO", Some(Said::List(map))) => match map.chunks(2).find(|pair| pair[0] == Said::Word(b"held".into())) {
            Some([_, Said::Number(1)]) => "held",
            _ => "free",
        },
        ("QUEUE", Some(Said::List(list))) => {
            if list.is_empty() {
                "none"
            } else {
                "some"
            }
        }
        (_, Some(Said::Number(1))) => "1",
        (_, Some(Said::Number(0))) => "0",
        (_, Some(Said::Number(-1))) => "-1",
        (command, Some(said)) => panic!("{said:?} is no answer to {command}"),
    }
}

/// How often each command came to each outcome, by state.
#[derive(Debug, Default, Clone)]
pub struct Coverage(BTreeMap<(&'static str, State), BTreeMap<&'static str, u64>>);

impl Coverage {
    /// A question was answered, or never will be.
    pub fn saw(&mut self, question: &Question, said: Option<&Said>) {
        let outcome = outcome(question.command, said);
        for state in &question.states {
            *self.0.entry((question.command, *state)).or_default().entry(outcome).or_default() += 1;
        }
    }

    /// Adds those of another day.
    pub fn add(&mut self, other: Coverage) {
        for (case, outcomes) in other.0 {
            for (outcome, count) in outcomes {
                *self.0.entry(case).or_default().entry(outcome).or_default() += count;
            }
        }
    }

    /// What must have been seen and was not: cells of the table, and states of which it has no line and for which no reason is given.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let lines: BTreeMap<&str, &str> = TABLE.lines().filter_map(|line| line.rsplit_once(" | ")).collect();
        for command in COMMANDS {
            for state in STATES {
                let case = format!("{command} | {state:?}");
                let has_reason = UNSEEN.iter().any(|(of, states, _)| *of == command && states.contains(&state));
                let seen = self.0.get(&(command, state));
                match lines.get(case.as_str()) {
                    None if has_reason => {}
                    None => missing.push(format!("{case}: no line, and no reason why")),
                    Some(outcomes) => {
                        let required = outcomes.split(" / ").filter(|word| !word.ends_with('~'));
                        let is_missing =
                            |word: &&str| seen.is_none_or(|seen| *word != "asked" && !seen.contains_key(word));
                        missing.extend(required.filter(is_missing).map(|word| format!("never seen: {case} | {word}")));
                    }
                }
            }
        }
        missing
    }

    /// The table as it was seen, a line for each command and state.
    pub fn report(&self) -> String {
        let line = |((command, state), outcomes): (&(&str, State), &BTreeMap<&str, u64>)| {
            let outcomes: Vec<String> =
                outcomes.iter().map(|(outcome, count)| format!("{outcome} ({count})")).collect();
            format!("{command} | {state:?} | {}\n", outcomes.join(" / "))
        };
        self.0.iter().map(line).collect()
    }
}
