//! Sees everything: each change of the data in the moment it happens, each thing that is asked, and each answer in the moment it is
//! heard. Says at once what is wrong.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::args::args;
use crate::store::value::Fields;
use crate::store::{BRIDGE, released_by};
use crate::upstream::simulated::server::{Cause, Change};

/// A person, by number.
pub type Person = usize;

/// A key without a database; all is played in one.
pub type Key = Vec<u8>;

/// So long after the last trouble all must be as it is meant to be, in µs: links are dialled anew, nodes know who is there.
const CALMS_DOWN_US: u64 = 5_000_000;
/// A free key waits for its next holder no longer than this in calm times, in µs.
const SLEEPS_MAX_US: u64 = 1_500_000;
/// A deadlock lives no longer than this in calm times, in µs.
const CYCLE_MAX_US: u64 = 2_500_000;
/// A victim was part of a cycle so recently, in µs.
const CYCLE_SEEN_US: u64 = 1_000_000;
/// A lock that nobody is to be told of is given on within this, in calm times, in µs.
const GHOST_MAX_US: u64 = 2_500_000;
/// How long the place of somebody who left is kept for him, in µs.
const PLACE_KEPT_US: u64 = 5_100_000;
/// An answer is late after this, in µs.
const ANSWERS_MAX_US: u64 = 4_000_000;
/// Whoever was refused is known to wait after this, in calm times, in µs.
const SETTLES_US: u64 = 700_000;

/// What tells one hold from another: the owner and the fence, or the whole value of a `SET NX`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Of LOCK.*.
    Fenced(Vec<u8>, u64),
    /// Of SET NX.
    Plain(Vec<u8>),
    /// A claim of a SET NX, by node and call.
    Claimed(Vec<u8>),
}

impl Mark {
    fn of(value: &[u8]) -> (Mark, bool) {
        match Fields::read(value) {
            Some(fields) if fields.is_claim && fields.fence.0 == 0 => {
                (Mark::Claimed([fields.node, b":", fields.call].concat()), true)
            }
            Some(fields) => (Mark::Fenced(fields.owner.to_vec(), fields.fence.0), fields.is_claim),
            None => (Mark::Plain(value.to_vec()), false),
        }
    }

    fn owner(&self) -> &[u8] {
        match self {
            Mark::Fenced(owner, _) => owner,
            // `value` is `person.connection.number`.
            Mark::Plain(value) => value.split(|byte| *byte == b'.').next().unwrap_or_default(),
            Mark::Claimed(_) => b"",
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mark::Fenced(owner, fence) => write!(f, "{}#{fence}", owner.escape_ascii()),
            Mark::Plain(value) => write!(f, "'{}'", value.escape_ascii()),
            Mark::Claimed(call) => write!(f, "a claim of {}", call.escape_ascii()),
        }
    }
}

#[derive(Debug, Clone)]
struct Hold {
    mark: Mark,
    is_claim: bool,
    is_bridge: bool,
    begun_us: u64,
    is_told: bool,
    /// Ended by a node, and nobody had asked for that.
    taken_back_us: Option<u64>,
}

#[derive(Debug, Default)]
struct Lock {
    hold: Option<Hold>,
    past: Vec<Hold>,
    free_since_us: u64,
}

/// What somebody waits for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks.
    pub person: Person,
    /// For which keys.
    pub keys: Vec<Key>,
    /// As whom.
    pub owner: Vec<u8>,
    /// What a SET NX writes.
    pub value: Option<Vec<u8>>,
    /// 0 to 3.
    pub level: u8,
    /// For how long he waits, in µs.
    pub wait_us: u64,
}

#[derive(Debug)]
struct Call {
    asked: Asked,
    since_us: u64,
    /// When he began to wait for the place that may have been kept for him.
    place_us: u64,
    /// When it was last part of a cycle.
    last_in_cycle_us: Option<u64>,
    /// Since when it is part of one.
    in_cycle_since_us: Option<u64>,
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
}

/// The rules of the house.
pub struct Judge {
    seed: u64,
    now_us: u64,
    /// `None`: nothing is told.
    story: Option<Vec<String>>,
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
    /// Each person has an owner of its own: who waits for whom is plain.
    pub owners_differ: bool,
    /// Deadlocks are to be found.
    pub finds_deadlocks: bool,
    /// Higher levels go first, and then whoever came first.
    pub order_matters: bool,
    /// The upstream has lost something.
    pub had_disaster: bool,
    /// Whose calls may have come to something that nobody knows.
    unknown: BTreeSet<(Key, Vec<u8>)>,
    /// Since when somebody waited who left, and when he did.
    places: BTreeMap<(Vec<Key>, Vec<u8>), (u64, u64)>,
    /// Connections that are still open, by person.
    connections: BTreeMap<Person, u64>,
    verdict: RefCell<Option<String>>,
    /// What was played.
    pub counts: Counts,
}

/// What a history was made of.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Calls that were asked.
    pub calls: u64,
    /// Grants that were told.
    pub grants: u64,
    /// Grants told after a wait.
    pub waits: u64,
    /// Calls ended as victims.
    pub victims: u64,
    /// Guarded writes.
    pub writes: u64,
    /// Changes of locks upstream.
    pub changes: u64,
    /// Faults.
    pub faults: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: Counts) {
        self.calls += other.calls;
        self.grants += other.grants;
        self.waits += other.waits;
        self.victims += other.victims;
        self.writes += other.writes;
        self.changes += other.changes;
        self.faults += other.faults;
    }
}

impl Judge {
    /// Nothing has happened yet. With `tells` the story is kept for [`Judge::story`].
    pub fn new(seed: u64, tells: bool) -> Self {
        Judge {
            seed,
            now_us: 0,
            story: tells.then(Vec::new),
            locks: BTreeMap::new(),
            calls: BTreeMap::new(),
            wishes: Vec::new(),
            used: Vec::new(),
            last_call: 0,
            fence_told: 0,
            fences: BTreeSet::new(),
            trouble_us: 0,
            is_troubled: false,
            owners_differ: true,
            finds_deadlocks: true,
            order_matters: true,
            had_disaster: false,
            unknown: BTreeSet::new(),
            places: BTreeMap::new(),
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

    /// Writes it down.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let line = format!("{:>10} {}", self.now_us % 1_000_000_000, text());
            eprintln!("{line}");
            story.push(line);
        }
    }

    fn wrong(&self, what: String) -> ! {
        let mut verdict = self.verdict.borrow_mut();
        verdict.get_or_insert_with(|| format!("seed {}: at {}: {what}", self.seed, self.now_us % 1_000_000_000));
        drop(verdict);
        // Whoever did it goes no further; the world asks for the verdict.
        std::panic::resume_unwind(Box::new("the judge has spoken"));
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

    fn is_calm_for(&self, us: u64) -> bool {
        !self.is_troubled && self.now_us >= self.trouble_us + CALMS_DOWN_US + us
    }

    // ---- What people do.

    /// A person has a new connection.
    pub fn connects(&mut self, person: Person, connection: u64) {
        self.connections.insert(person, connection);
    }

    /// And has it no more.
    pub fn hangs_up(&mut self, person: Person) {
        self.connections.remove(&person);
    }

    /// Somebody asks for locks.
    pub fn asks(&mut self, asked: Asked) -> u64 {
        self.last_call += 1;
        self.counts.calls += 1;
        self.say(|| {
            let kind = if asked.value.is_some() { ", by SET NX" } else { "" };
            let (person, level, ms) = (asked.person, asked.level, asked.wait_us / 1000);
            format!("person {person} asks for {:?} at level {level}, waits {ms} ms{kind}", show(&asked.keys))
        });
        let kept = self.places.get(&(asked.keys.clone(), asked.owner.clone()));
        let kept = kept.filter(|(_, left_us)| asked.value.is_none() && self.now_us < left_us + PLACE_KEPT_US);
        let call = Call {
            since_us: self.now_us,
            place_us: kept.map_or(self.now_us, |(place_us, _)| *place_us),
            asked,
            last_in_cycle_us: None,
            in_cycle_since_us: None,
        };
        self.calls.insert(self.last_call, call);
        self.cycles();
        self.last_call
    }

    /// Somebody asks for a hold to end, or will by the end of his connection.
    pub fn wishes(&mut self, key: &[u8], owner: &[u8], fence: Option<u64>) -> u64 {
        self.last_call += 1;
        self.say(|| format!("{} wishes to end its hold of {} ({fence:?})", owner.escape_ascii(), key.escape_ascii()));
        self.wishes.push(Wish { key: key.to_vec(), owner: owner.to_vec(), by: self.last_call, fence });
        self.last_call
    }

    /// What he wished has been done or not: it ends nothing any more.
    pub fn wish_is_over(&mut self, wish: u64, was_done: bool) {
        let Some(at) = self.wishes.iter().position(|known| known.by == wish) else {
            self.used.retain(|known| known.by != wish);
            return;
        };
        let over = self.wishes.remove(at);
        // It did what another was taken for, who may still come.
        let taken = self.used.iter().position(|known| known.key == over.key && known.owner == over.owner);
        if let (true, Some(at)) = (was_done, taken) {
            self.wishes.push(self.used.remove(at));
        }
    }

    /// A call was granted, under these fences in the order of its keys (0 for SET NX).
    pub fn granted(&mut self, call: u64, fences: &[u64]) {
        let Some(Call { asked, since_us, .. }) = self.calls.remove(&call) else { return };
        self.counts.grants += 1;
        self.counts.waits += u64::from(self.now_us > since_us + 30_000 && asked.wait_us > 0);
        for (key, fence) in asked.keys.iter().zip(fences) {
            let mark = match &asked.value {
                Some(value) => Mark::Plain(value.clone()),
                None => Mark::Fenced(asked.owner.clone(), *fence),
            };
            self.is_told(key, &mark);
        }
        self.cycles();
    }

    /// Somebody is told that this hold is his.
    pub fn is_told(&mut self, key: &[u8], mark: &Mark) {
        self.say(|| format!("told: {mark} holds {}", key.escape_ascii()));
        let lock = self.locks.entry(key.to_vec()).or_default();
        let present = lock.hold.as_mut().filter(|hold| hold.mark == *mark);
        let Some(hold) = present.or_else(|| lock.past.iter_mut().rev().find(|hold| hold.mark == *mark)) else {
            self.wrong(format!("{mark} was told of {} and never held it", key.escape_ascii()));
        };
        let (was_told, hold_copy) = (std::mem::replace(&mut hold.is_told, true), hold.clone());
        if hold_copy.is_claim {
            self.wrong(format!("{mark} was told of {} and it was but a claim", key.escape_ascii()));
        }
        if let Some(at_us) = hold_copy.taken_back_us {
            let ms = (self.now_us - at_us) / 1000;
            self.wrong(format!("{mark} was told of {} {ms} ms after it was taken back", key.escape_ascii()));
        }
        if let (Mark::Fenced(_, fence), false) = (mark, was_told) {
            if !self.fences.insert(*fence) {
                self.wrong(format!("{mark} was told of {}, and that fence had been told before", key.escape_ascii()));
            }
            self.fence_told = self.fence_told.max(*fence);
        }
    }

    /// A call ended without a lock.
    pub fn refused(&mut self, call: u64, how: &str) {
        let Some(Call { asked, last_in_cycle_us, in_cycle_since_us, since_us, .. }) = self.calls.remove(&call) else {
            return;
        };
        self.say(|| format!("person {} is refused: {how}", asked.person));
        if how.starts_with("DEADLOCK") {
            self.counts.victims += 1;
            let was_in_one =
                in_cycle_since_us.is_some() || last_in_cycle_us.is_some_and(|at| self.now_us <= at + CYCLE_SEEN_US);
            if self.owners_differ && !was_in_one && !self.had_trouble_since(since_us) {
                self.wrong(format!("person {} was ended for a deadlock that was none: {how}", asked.person));
            }
        }
        if how.starts_with("UNAVAILABLE") {
            self.is_unknown(&asked);
        }
        self.cycles();
    }

    /// A call that nobody hears the answer of any more.
    pub fn left(&mut self, call: u64) {
        if let Some(Call { asked, place_us, .. }) = self.calls.remove(&call) {
            self.say(|| format!("person {} leaves", asked.person));
            self.places.insert((asked.keys.clone(), asked.owner.clone()), (place_us, self.now_us));
            if self.had_trouble_since(self.now_us.saturating_sub(1)) {
                self.is_unknown(&asked);
            }
        }
        self.cycles();
    }

    /// Whatever came of it, nobody knows.
    pub fn is_lost(&mut self, call: u64) {
        if let Some(Call { asked, place_us, .. }) = self.calls.remove(&call) {
            self.say(|| format!("person {} lost the connection", asked.person));
            self.places.insert((asked.keys.clone(), asked.owner.clone()), (place_us, self.now_us));
            self.is_unknown(&asked);
        }
        self.cycles();
    }

    fn is_unknown(&mut self, asked: &Asked) {
        for key in &asked.keys {
            self.unknown.insert((key.clone(), asked.owner.clone()));
        }
    }

    /// A guarded command of a holder was refused.
    pub fn is_fenced_off(&mut self, key: &[u8], mark: &Mark) {
        if let Mark::Fenced(owner, fence) = mark {
            self.told_to_hold_nothing(key, owner, *fence);
        }
    }

    /// Guarded data was written under a fence: the lock is held under it in this very moment.
    fn is_written(&self, change: &Change, lock: &[u8]) {
        let hold = self.locks.get(lock).and_then(|lock| lock.hold.as_ref()).filter(|hold| !hold.is_claim);
        let fence = match hold.map(|hold| &hold.mark) {
            Some(Mark::Fenced(_, fence)) => fence.to_string(),
            _ => String::new(),
        };
        if change.after.as_deref() != Some(fence.as_bytes()) {
            let written = change.after.as_deref().unwrap_or_default().escape_ascii();
            self.wrong(format!("{written} wrote what {} guards, whose fence is '{fence}'", lock.escape_ascii()));
        }
    }

    /// Whether somebody was given that lock, nobody knows.
    pub fn knows_nothing_of(&mut self, key: &[u8], owner: &[u8]) {
        self.unknown.insert((key.to_vec(), owner.to_vec()));
    }

    /// A RELEASE was answered 1.
    pub fn released(&mut self, key: &[u8], owner: &[u8], fence: u64) {
        let mark = Mark::Fenced(owner.to_vec(), fence);
        if self.locks.get(key).and_then(|lock| lock.hold.as_ref()).is_some_and(|hold| hold.mark == mark) {
            self.wrong(format!("{mark} was told that {} is released, and still holds it", key.escape_ascii()));
        }
    }

    /// A holder was told that he is none.
    pub fn told_to_hold_nothing(&mut self, key: &[u8], owner: &[u8], fence: u64) {
        let mark = Mark::Fenced(owner.to_vec(), fence);
        let holds = |hold: &Hold| hold.mark == mark && hold.is_told;
        if self.locks.get(key).and_then(|lock| lock.hold.as_ref()).is_some_and(holds) {
            self.wrong(format!("{mark} holds {} and was told that it does not", key.escape_ascii()));
        }
    }

    fn had_trouble_since(&self, us: u64) -> bool {
        self.is_troubled || self.trouble_us + CALMS_DOWN_US > us
    }

    // ---- What happens upstream.

    /// A lock has changed. `is_ours`: through one of the nodes.
    pub fn changed(&mut self, change: &Change, is_ours: bool) {
        if change.key.starts_with(b"lockgate:") {
            return;
        }
        self.now(change.at_us);
        if let Some(lock) = change.key.strip_prefix(b"data:") {
            if change.cause != Cause::Disaster {
                self.counts.writes += 1;
                self.is_written(change, lock);
            }
            return;
        }
        self.counts.changes += 1;
        let after = change.after.as_deref().map(Mark::of);
        self.say(|| {
            let shown = after.as_ref().map_or("nobody".into(), |(mark, is_claim)| {
                format!("{mark}{}", if *is_claim { " (claim)" } else { "" })
            });
            format!("{} -> {shown} by {:?}", change.key.escape_ascii(), change.cause)
        });
        let mut lock = self.locks.remove(&change.key).unwrap_or_default();
        let before = lock.hold.take();
        match (before, after) {
            (Some(mut hold), Some((mark, is_claim))) if hold.mark == mark => {
                if is_claim && !hold.is_claim {
                    self.wrong(format!("{mark} held {} and has but a claim now", change.key.escape_ascii()));
                }
                hold.is_claim = is_claim;
                hold.is_bridge &= is_bridge(change.after.as_deref());
                lock.hold = Some(hold);
            }
            (before, after) => {
                if let Some(hold) = before {
                    self.ends(change, hold, &mut lock, is_ours);
                }
                match after {
                    None => lock.free_since_us = change.at_us,
                    Some((mark, is_claim)) => {
                        let is_bridge = is_bridge(change.after.as_deref());
                        lock.hold =
                            Some(self.begins(&change.key, mark, (is_claim, is_bridge), &mut lock, change.cause));
                    }
                }
            }
        }
        self.locks.insert(change.key.clone(), lock);
        self.cycles();
    }

    fn ends(&mut self, change: &Change, mut hold: Hold, lock: &mut Lock, is_ours: bool) {
        let owner = hold.mark.owner();
        if is_ours && matches!(change.cause, Cause::Client(_)) && !hold.is_claim && !hold.is_bridge {
            let fence = match hold.mark {
                Mark::Fenced(_, fence) => Some(fence),
                _ => None,
            };
            let words: Vec<&[u8]> = args(&change.request).collect();
            let fits = |wish: &Wish| {
                wish.key == change.key
                    && match released_by(&words) {
                        Some((None, _)) => wish.owner.is_empty(),
                        Some((Some(owner), fence)) => wish.owner == owner && wish.fence == fence,
                        None => wish.owner == owner && wish.fence.is_none_or(|wished| Some(wished) == fence),
                    }
            };
            match self.wishes.iter().position(fits) {
                Some(at) => self.used.push(self.wishes.remove(at)),
                None if hold.is_told => {
                    self.wrong(format!("{} holds {} and it was taken from it", hold.mark, change.key.escape_ascii()));
                }
                None => hold.taken_back_us = Some(self.now_us),
            }
        }
        lock.past.push(hold);
    }

    fn begins(
        &mut self,
        key: &[u8],
        mark: Mark,
        (is_claim, is_bridge): (bool, bool),
        lock: &mut Lock,
        cause: Cause,
    ) -> Hold {
        if let Some(at) = lock.past.iter().position(|past| past.mark == mark) {
            let past = lock.past.remove(at);
            // What was lost with its master may be repeated by its owner; a disaster may bring back what was over.
            let is_excused = cause == Cause::Disaster || self.had_disaster;
            if !is_excused && matches!(mark, Mark::Fenced(..)) {
                self.wrong(format!("{mark} holds {} once more, after it had ended", key.escape_ascii()));
            }
            return Hold { is_claim, is_bridge, taken_back_us: None, ..past };
        }
        if let Mark::Fenced(_, fence) = mark
            && cause != Cause::Disaster
            && fence <= self.fence_told
        {
            self.wrong(format!("{mark} begins to hold {}, but {} has been told", key.escape_ascii(), self.fence_told));
        }
        if cause != Cause::Disaster && self.order_matters && !is_bridge {
            self.nobody_is_passed(key, &mark);
        }
        Hold { mark, is_claim, is_bridge, begun_us: self.now_us, is_told: false, taken_back_us: None }
    }

    // ---- What must never last.

    fn call_of(&self, key: &[u8], mark: &Mark) -> Option<&Call> {
        self.calls.values().find(|call| {
            call.asked.keys.iter().any(|known| known == key)
                && match (mark, &call.asked.value) {
                    (Mark::Fenced(owner, _), None) => *owner == call.asked.owner,
                    (Mark::Plain(value), Some(known)) => value == known,
                    _ => false,
                }
        })
    }

    /// Whoever begins to hold a lock comes before all who are known to wait.
    fn nobody_is_passed(&self, key: &[u8], mark: &Mark) {
        if !self.is_calm_for(SETTLES_US) {
            return;
        }
        let Some(next) = self.call_of(key, mark).filter(|call| call.asked.keys.len() == 1) else { return };
        for call in self.calls.values().filter(|call| call.asked.keys == [key]) {
            let is_known = call.asked.wait_us > 0 && call.since_us + SETTLES_US < self.now_us;
            let still_waits = call.since_us + call.asked.wait_us > self.now_us + SETTLES_US;
            let (one, other) = (&call.asked, &next.asked);
            let is_before =
                one.level > other.level || (one.level == other.level && call.since_us + SETTLES_US < next.place_us);
            if is_known && still_waits && is_before && one.person != other.person {
                self.wrong(format!(
                    "{mark} begins to hold {}, before person {} who waits for it since {} at level {}",
                    key.escape_ascii(),
                    one.person,
                    call.since_us % 1_000_000_000,
                    one.level
                ));
            }
        }
    }

    fn nobody_sleeps_before_a_free_key(&self) {
        if !self.is_calm_for(SLEEPS_MAX_US) {
            return;
        }
        for call in self.calls.values().filter(|call| call.asked.wait_us > 0) {
            let free_since = |key: &Key| match self.locks.get(key) {
                None => Some(0),
                Some(lock) => lock.hold.is_none().then_some(lock.free_since_us),
            };
            let since: Option<Vec<u64>> = call.asked.keys.iter().map(free_since).collect();
            let Some(since) = since.and_then(|since| since.into_iter().max()) else { continue };
            if self.now_us > since.max(call.since_us) + SLEEPS_MAX_US {
                self.wrong(format!("person {} sleeps before a free {:?}", call.asked.person, show(&call.asked.keys)));
            }
        }
    }

    fn no_cycle_lasts(&self) {
        if !self.finds_deadlocks || !self.owners_differ || !self.is_calm_for(CYCLE_MAX_US) {
            return;
        }
        for call in self.calls.values() {
            if call.in_cycle_since_us.is_some_and(|since| self.now_us > since + CYCLE_MAX_US) {
                let asked = &call.asked;
                self.wrong(format!(
                    "person {} waits for {:?} in a deadlock that lasts",
                    asked.person,
                    show(&asked.keys)
                ));
            }
        }
    }

    fn nothing_is_left_with_the_gone(&self) {
        if !self.is_calm_for(GHOST_MAX_US) {
            return;
        }
        for (key, lock) in &self.locks {
            let Some(hold) = &lock.hold else { continue };
            let is_known = hold.is_told
                || self.call_of(key, &hold.mark).is_some()
                || self.unknown.contains(&(key.clone(), hold.mark.owner().to_vec()));
            if !is_known && self.now_us > hold.begun_us + GHOST_MAX_US {
                self.wrong(format!("{} holds {}, and nobody was told", hold.mark, key.escape_ascii()));
            }
        }
    }

    fn all_are_answered(&self) {
        if !self.is_calm_for(ANSWERS_MAX_US) {
            return;
        }
        for call in self.calls.values() {
            let until = call.since_us.max(self.trouble_us + CALMS_DOWN_US) + call.asked.wait_us + ANSWERS_MAX_US;
            if self.now_us > until {
                self.wrong(format!("person {} has no answer about {:?}", call.asked.person, show(&call.asked.keys)));
            }
        }
    }

    /// Who is part of a cycle of waits now.
    fn cycles(&mut self) {
        if !self.owners_differ {
            return;
        }
        let mut waits_for: BTreeMap<Person, BTreeSet<Person>> = BTreeMap::new();
        for call in self.calls.values() {
            // Whoever waits as an owner for what his connection took by SET NX waits for himself.
            let is_own = |(holder, is_plain): &(Person, bool)| {
                *holder == call.asked.person && !(*is_plain && call.asked.value.is_none())
            };
            let holders = call.asked.keys.iter().filter_map(|key| self.holder(key)).filter(|holder| !is_own(holder));
            waits_for.entry(call.asked.person).or_default().extend(holders.map(|(holder, _)| holder));
        }
        let reaches_itself = |person: Person| {
            let (mut seen, mut todo) = (BTreeSet::new(), vec![person]);
            while let Some(next) = todo.pop() {
                for other in waits_for.get(&next).into_iter().flatten() {
                    if *other == person {
                        return true;
                    }
                    if seen.insert(*other) {
                        todo.push(*other);
                    }
                }
            }
            false
        };
        for call in self.calls.values_mut() {
            if reaches_itself(call.asked.person) {
                call.in_cycle_since_us.get_or_insert(self.now_us);
            } else if call.in_cycle_since_us.take().is_some() {
                call.last_in_cycle_us = Some(self.now_us);
            }
        }
    }

    /// Who could end the present hold of a lock by himself, and whether he took it by SET NX; `None` where nobody is known.
    fn holder(&self, key: &[u8]) -> Option<(Person, bool)> {
        let hold = self.locks.get(key)?.hold.as_ref().filter(|hold| !hold.is_claim && !hold.is_bridge)?;
        let mut parts = hold.mark.owner().split(|byte| *byte == b'.');
        let person = std::str::from_utf8(parts.next()?.strip_prefix(b"p")?).ok()?.parse().ok()?;
        if let Mark::Plain(value) = &hold.mark {
            // What a connection took is held by it, if it was taken for a lock at all.
            if !key.starts_with(b"lock:") {
                return None;
            }
            let connection = value.split(|byte| *byte == b'.').nth(1).and_then(|text| std::str::from_utf8(text).ok());
            let connection: u64 = connection?.parse().ok()?;
            self.connections.get(&person).filter(|known| **known == connection)?;
        }
        Some((person, matches!(hold.mark, Mark::Plain(_))))
    }

    /// Everybody has gone: what is wrong with what is left, if anything.
    pub fn ends_well(&self) {
        if let Some((call, open)) = self.calls.first_key_value() {
            self.wrong(format!("call {call} of person {} has no answer", open.asked.person));
        }
    }
}

fn show(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|key| key.escape_ascii().to_string()).collect()
}

fn is_bridge(value: Option<&[u8]>) -> bool {
    value.and_then(Fields::read).is_some_and(|fields| fields.meta == BRIDGE)
}
