//! Sees everything: each change of the data in the moment it happens, each thing that is asked, and each answer in the moment it is
//! heard. Says at once what is wrong.

mod answers;
mod asking;
mod changes;
mod counts;
mod lasting;
mod mark;
mod meddling;
mod order;
mod places;
mod stands;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

pub use counts::Counts;
use mark::Lock;
pub use mark::Mark;
use order::Ticket;

use super::plan::Plan;

/// A person, by number.
pub type Person = usize;

/// A key without a database; all is played in one.
pub type Key = Vec<u8>;

/// So long after the last trouble all must be as it is meant to be, in µs: links are dialled anew, nodes know who is there.
const CALMS_DOWN_US: u64 = 5_000_000;

/// What somebody waits for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks.
    pub person: Person,
    /// Over which connection.
    pub connection: u64,
    /// For which keys.
    pub keys: Vec<Key>,
    /// As whom.
    pub owner: Vec<u8>,
    /// What a SET NX writes.
    pub value: Option<Vec<u8>>,
    /// 0 to 3.
    pub level: u8,
    /// The leases that its rules may leave it.
    pub leases: Vec<Lease>,
    /// What it notes in the lock.
    pub meta: Vec<u8>,
    /// For how long he waits, in µs.
    pub wait_us: u64,
    /// For how long his place is kept when he is refused, in µs.
    pub ticket_us: u64,
    /// When what he asks for makes no sense any more, Unix ms.
    pub over_ms: Option<u64>,
}

/// How long a lock is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// So long from its beginning.
    Ms(u64),
    /// Until that Unix time.
    UntilMs(u64),
}

impl Asked {
    /// Until when a call of this moment waits, in µs.
    fn until_us(&self, since_us: u64) -> u64 {
        (since_us + self.wait_us).min(self.over_ms.map_or(u64::MAX, |over_ms| over_ms.saturating_mul(1000)))
    }

    fn is_about(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|known| known == key)
    }
}

#[derive(Debug)]
struct Call {
    asked: Asked,
    since_us: u64,
    /// When he began to wait for the place that may have been kept for him.
    place_us: u64,
    /// The levels that it may have by PROMOTE, the lowest and the highest.
    levels: (u8, u8),
    /// From when on it certainly has this level, and no other.
    promoted: Option<(u64, u8)>,
    /// Somebody has cancelled it, or released as its owner, if that came before its answer.
    may_end: bool,
    /// When it was last part of a cycle.
    last_in_cycle_us: Option<u64>,
    /// It is part of one, as far as all keys that it needs go.
    is_in_cycle: bool,
    /// Since when it is part of one that its node can see.
    in_cycle_since_us: Option<u64>,
}

/// A call that ended without a lock.
#[derive(Debug, Clone, Copy)]
struct Ended {
    at_us: u64,
    place_us: u64,
    level: u8,
    /// Its client has gone: the place is kept for him.
    keeps_place: bool,
}

/// What is asked of a hold's end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    key: Key,
    owner: Vec<u8>,
    /// Who wishes it: it ends with his answer, unless that is unknown.
    by: u64,
    /// That it wants to end this very hold only.
    fence: Option<u64>,
    /// It comes with the end of a connection: the node gives the lock back.
    is_tie: bool,
}

/// The rules of the house.
pub struct Judge {
    seed: u64,
    now_us: u64,
    /// The story is printed as it goes.
    tells: bool,
    locks: BTreeMap<Key, Lock>,
    calls: BTreeMap<u64, Call>,
    wishes: Vec<Wish>,
    /// Those that were taken for the reason of an end.
    used: Vec<Wish>,
    last_call: u64,
    /// The highest fence that anybody was told.
    fence_told: u64,
    fences: BTreeSet<u64>,
    trouble_us: u64,
    is_troubled: bool,
    plan: Plan,
    /// The upstream has lost something.
    pub had_disaster: bool,
    /// Who has cancelled and promoted whom.
    meddlings: Vec<meddling::Meddling>,
    /// Whose calls may have come to something that nobody knows.
    unknown: BTreeSet<(Key, Vec<u8>)>,
    /// How the latest calls of an owner about these keys ended that got no lock. Each node keeps places of its own.
    ended: BTreeMap<(Vec<Key>, Vec<u8>), Vec<Ended>>,
    /// The pollers who were refused and have not given up, by key and value.
    tickets: BTreeMap<(Key, Vec<u8>), Ticket>,
    /// Connections that are still open, by person.
    connections: BTreeMap<Person, u64>,
    verdict: RefCell<Option<String>>,
    /// What was played.
    pub counts: Counts,
}
impl Judge {
    /// Nothing has happened yet on a day of that kind. With `tells` the story is printed as it goes.
    pub fn new(seed: u64, tells: bool, plan: Plan) -> Self {
        Judge {
            seed,
            now_us: 0,
            tells,
            locks: BTreeMap::new(),
            calls: BTreeMap::new(),
            wishes: Vec::new(),
            used: Vec::new(),
            last_call: 0,
            fence_told: 0,
            fences: BTreeSet::new(),
            trouble_us: 0,
            is_troubled: false,
            plan,
            had_disaster: false,
            meddlings: Vec::new(),
            unknown: BTreeSet::new(),
            ended: BTreeMap::new(),
            tickets: BTreeMap::new(),
            connections: BTreeMap::new(),
            verdict: RefCell::default(),
            counts: Counts::default(),
        }
    }

    /// It is that time; whatever takes too long is found.
    pub fn time(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.nobody_sleeps_before_a_free_key();
        self.no_cycle_lasts();
        self.nothing_is_left_with_the_gone();
        self.all_are_answered();
    }

    /// It is that time.
    pub fn now(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// Tells it, where the story is told.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>10} {}", self.now_us % 1_000_000_000, text());
        }
    }

    pub(super) fn wrong(&self, what: String) -> ! {
        let mut verdict = self.verdict.borrow_mut();
        verdict.get_or_insert_with(|| format!("seed {}: at {}: {what}", self.seed, self.now_us % 1_000_000_000));
        drop(verdict);
        // Whoever did it goes no further; the world asks for the verdict.
        std::panic::resume_unwind(Box::new("the judge has spoken"));
    }

    /// Each person has an owner of its own: who waits for whom is plain.
    fn owners_differ(&self) -> bool {
        self.plan.owners == 0
    }

    /// What was wrong first, if anything was.
    pub fn verdict(&self) -> Option<String> {
        self.verdict.borrow().clone()
    }

    /// Something goes wrong with the network, a node or the server, or is over.
    pub fn trouble(&mut self, is_troubled: bool, what: &str) {
        self.say(|| format!("---- {what}"));
        self.counts.faults += u64::from(is_troubled);
        self.is_troubled = is_troubled;
        self.trouble_us = self.now_us;
    }

    pub(super) fn is_calm_for(&self, us: u64) -> bool {
        !self.is_troubled && self.now_us >= self.trouble_us + CALMS_DOWN_US + us
    }

    /// Everybody has gone: what is wrong with what is left, if anything.
    pub fn ends_well(&self) {
        if let Some((call, open)) = self.calls.first_key_value() {
            self.wrong(format!("call {call} of person {} has no answer", open.asked.person));
        }
    }
}

/// Whose owner's name that is, where each person has one of his own.
fn person_of(owner: &[u8]) -> Option<Person> {
    std::str::from_utf8(owner.strip_prefix(b"p")?).ok()?.parse().ok()
}

fn show(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|key| key.escape_ascii().to_string()).collect()
}
