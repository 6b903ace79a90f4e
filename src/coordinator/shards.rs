//! The lines of all keys, shared by all workers. A shard's lock is held for one step of one line, never over an await.

use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{CallId, FastMap, Hashing, LockKey, Moment};
use crate::locks::{Action, Answer, AskedFor, Event, Grant, Line, LineRules, Standing, Task, Turn};

/// Enough that workers seldom meet at one.
const SHARDS: usize = 64;
/// A grant that its line knows nothing of is given back while the upstream is away for so long, in ms; then its lease has ended it.
const GIVE_BACK_FOR_MS: u64 = 60_000;

/// What a call is told while it waits.
#[derive(Debug)]
pub enum Word {
    /// Its try may go out now.
    GoOn,
    /// It ends.
    Answer(Answer),
}

/// Where a call in progress is reached, from whichever worker.
#[derive(Debug)]
struct Door {
    /// An answer takes the place of anything before it.
    word: Option<Word>,
    bell: Arc<Notify>,
}

/// A line, and whom its decisions reach.
#[derive(Debug)]
struct Seat {
    line: Line,
    doors: FastMap<CallId, Door>,
    /// The timer task's bell, while there is one.
    timer: Option<Arc<Notify>>,
    /// When the timer will look by itself.
    timer_at: Option<Moment>,
    /// For all keys.
    totals: Arc<Totals>,
    /// How long the key is.
    key_bytes: usize,
}

/// What the lines of all keys come to.
#[derive(Debug, Default)]
struct Totals {
    /// How many wait.
    waiting: AtomicU64,
    /// What is kept for calls and places, keys included, in bytes.
    bytes: AtomicU64,
    /// No more than that.
    bytes_max: AtomicU64,
}

/// A call that has come to its line.
#[derive(Debug)]
pub struct Entered {
    /// Rings when the call is told something.
    pub bell: Arc<Notify>,
    /// What is left to do.
    pub fed: Fed,
    /// It wished to wait, and all that may be kept for waiting calls is: its first try decides.
    pub is_crowded_out: bool,
}

/// What the call whose event was fed does next.
#[derive(Debug)]
pub enum Next {
    /// It sends its try; a free key may go to a waiter before it.
    Try(Standing, Turn),
    /// It tries again after so many ms.
    Later(u64),
    /// It ends.
    Answer(Answer),
}

/// A hand-over that is to be sent.
#[derive(Debug)]
pub struct HandOver {
    /// What for.
    pub task: Task,
    /// Whom a free key may go to.
    pub turn: Turn,
}

/// What is left to do, after a step, for the worker that fed the event.
#[derive(Debug, Default)]
pub struct Fed {
    /// For the call that fed it.
    pub next: Option<Next>,
    /// The best waiters, for a RELEASE.
    pub release_to: Option<Turn>,
    /// A script to send.
    pub hand_over: Option<HandOver>,
    /// A timer to start, and the bell that wakes it.
    pub start_timer: Option<Arc<Notify>>,
    /// Somebody waits, and nobody did before.
    pub is_awaited: bool,
    /// Calls that were answered.
    pub answers: usize,
}

/// Some of the lines, under one lock.
#[derive(Debug, Default)]
struct Shard {
    seats: FastMap<LockKey, Seat>,
    /// What calls are still to be told whose line has failed.
    last_words: FastMap<CallId, Word>,
}

/// The lines of all keys.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Mutex<Shard>>,
    /// The number of the newest line.
    last_line: AtomicU64,
    hasher: Hashing,
    rules: LineRules,
    /// The two of the rules that can change.
    waiting_max: AtomicUsize,
    promote_after_us: AtomicU64,
    is_closing: AtomicBool,
    totals: Arc<Totals>,
}

impl Shards {
    /// No line anywhere. All calls together keep at most `waiting_bytes` while they wait.
    pub fn new(rules: LineRules, waiting_bytes: u64) -> Self {
        let totals = Totals { bytes_max: AtomicU64::new(waiting_bytes), ..Totals::default() };
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Shards {
            shards,
            last_line: AtomicU64::new(0),
            hasher: Hashing::default(),
            waiting_max: AtomicUsize::new(rules.waiting_max),
            promote_after_us: AtomicU64::new(rules.promote_after_us),
            rules,
            is_closing: AtomicBool::new(false),
            totals: Arc::new(totals),
        }
    }

    /// From here on lines take so many waiters, those that stand too, and keep so many bytes; new lines rank by `promote_after_us`.
    pub fn change_rules(&self, waiting_max: usize, waiting_bytes: u64, promote_after_us: u64) {
        self.totals.bytes_max.store(waiting_bytes, Ordering::Relaxed);
        self.waiting_max.store(waiting_max, Ordering::Relaxed);
        self.promote_after_us.store(promote_after_us, Ordering::Relaxed);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.seats.values_mut().for_each(|seat| seat.line.set_waiting_max(waiting_max));
        }
    }

    fn rules(&self) -> LineRules {
        LineRules {
            waiting_max: self.waiting_max.load(Ordering::Relaxed),
            promote_after_us: self.promote_after_us.load(Ordering::Relaxed),
            ..self.rules
        }
    }

    /// A call arrives.
    pub fn enter(&self, key: &LockKey, mut asked: AskedFor, now: Moment) -> Entered {
        let mut shard = self.shard(key);
        let bell = Arc::new(Notify::new());
        let seat = shard.seats.entry(key.clone()).or_insert_with(|| self.new_seat(key, now));
        let is_crowded_out = (asked.may_wait || asked.ticket_ms > 0) && !self.totals.have_room(key, &asked);
        if is_crowded_out {
            (asked.may_wait, asked.ticket_ms) = (false, 0);
        }
        // Read under the shard's lock: `close` has either not come to this shard yet, or is seen here.
        asked.may_wait &= !self.is_closing();
        let call = asked.call;
        seat.doors.insert(call, Door { word: None, bell: bell.clone() });
        let fed = self.step(&mut shard, key, Event::Asks(asked), Some(call), true, now).unwrap_or_default();
        Entered { bell, fed, is_crowded_out }
    }

    /// Something happened to `key`. Where there is no line for it nobody needs to know.
    pub fn feed(&self, key: &LockKey, event: Event, caller: Option<CallId>, now: Moment) -> Option<Fed> {
        self.step(&mut self.shard(key), key, event, caller, true, now)
    }

    /// As [`Shards::feed`], if the line is so in that very moment; `None` where it is not.
    pub fn feed_if(&self, key: &LockKey, is_so: impl FnOnce(&Line) -> bool, event: Event, now: Moment) -> Option<Fed> {
        let mut shard = self.shard(key);
        shard.seats.get(key).filter(|seat| is_so(&seat.line))?;
        self.step(&mut shard, key, event, None, true, now)
    }

    /// As [`Shards::feed`], from somebody who cannot send anything; what is to be sent the timer sends.
    pub fn tell(&self, key: &LockKey, event: Event, now: Moment) {
        self.step(&mut self.shard(key), key, event, None, false, now);
    }

    /// As [`Shards::feed`], and a line is made where there is none.
    pub fn feed_always(&self, key: &LockKey, event: Event, now: Moment) -> Fed {
        self.step_always(&mut self.shard(key), key, event, true, now)
    }

    fn step_always(&self, shard: &mut Shard, key: &LockKey, event: Event, can_send: bool, now: Moment) -> Fed {
        shard.seats.entry(key.clone()).or_insert_with(|| self.new_seat(key, now));
        self.step(shard, key, event, None, can_send, now).unwrap_or_default()
    }

    /// One step of the line of `key`. Should it panic, the line is given up: its calls get an error, a grant that the event brought is
    /// given back, and the next call finds a new line. No other key is concerned.
    fn step(
        &self,
        shard: &mut Shard,
        key: &LockKey,
        event: Event,
        caller: Option<CallId>,
        can_send: bool,
        now: Moment,
    ) -> Option<Fed> {
        let grant = event.grant().cloned();
        let seat = shard.seats.get_mut(key);
        let seat = match event.sent_by() {
            Some(number) => seat.filter(|seat| seat.line.number() == number),
            None => seat,
        };
        let Some(seat) = seat else { return self.gives_back(shard, key, grant, can_send, now) };
        let counted = seat.counts();
        // Half a step may have been made: nothing of the line is used after a panic.
        match catch_unwind(AssertUnwindSafe(|| seat.feed(event, caller, can_send, now))) {
            Ok(fed) => {
                Self::tidy(shard, key);
                Some(fed)
            }
            Err(_) => {
                self.give_up(shard, key, caller, counted);
                let mut fed = self.gives_back(shard, key, grant, can_send, now).unwrap_or_default();
                fed.next = caller.map(|_| Next::Answer(failed(key)));
                Some(fed)
            }
        }
    }

    /// Nobody here knows of the grant. What a SET NX wrote does not tell whose it is: nobody but its owner takes it back.
    fn gives_back(
        &self,
        shard: &mut Shard,
        key: &LockKey,
        grant: Option<Grant>,
        can_send: bool,
        now: Moment,
    ) -> Option<Fed> {
        let Grant { value, .. } = grant.filter(|grant| grant.fence.0 > 0)?;
        let event = Event::GivesBack { value, lease_ms: GIVE_BACK_FOR_MS };
        Some(self.step_always(shard, key, event, can_send, now))
    }

    /// Ends the line of `key`, whose calls are told so. `counted` is what of it is in the totals.
    fn give_up(&self, shard: &mut Shard, key: &LockKey, caller: Option<CallId>, counted: (u64, u64)) {
        let Some(seat) = shard.seats.remove(key) else { return };
        tracing::error!(
            %key, db = key.db, calls = seat.doors.len(),
            "a fault of Lockgate ended the queue of this key: its calls are answered with an error, and the key goes on with a \
             new queue; please report it with the panic above"
        );
        self.totals.change(counted, (0, 0));
        for (call, door) in seat.doors.into_iter().filter(|(call, _)| Some(*call) != caller) {
            let word = door.word.filter(|word| matches!(word, Word::Answer(_)));
            shard.last_words.insert(call, word.unwrap_or_else(|| Word::Answer(failed(key))));
            door.bell.notify_one();
        }
        if let Some(timer) = seat.timer {
            timer.notify_one();
        }
    }

    /// As after a panic within a step: whoever carried something out for this line will not tell it what came of that.
    pub fn give_up_line(&self, key: &LockKey, number: u64) {
        let mut shard = self.shard(key);
        if let Some(counted) = shard.seats.get(key).filter(|seat| seat.line.number() == number).map(Seat::counts) {
            self.give_up(&mut shard, key, None, counted);
        }
    }

    /// What the call is told, if its bell has rung for something.
    pub fn take_word(&self, key: &LockKey, call: CallId) -> Option<Word> {
        let mut shard = self.shard(key);
        let Some(door) = shard.seats.get_mut(key).and_then(|seat| seat.doors.get_mut(&call)) else {
            return shard.last_words.remove(&call);
        };
        let word = door.word.take()?;
        if matches!(word, Word::Answer(_)) {
            shard.seats.get_mut(key)?.doors.remove(&call);
            Self::tidy(&mut shard, key);
        }
        Some(word)
    }

    /// The call's client has gone. A grant that was on its way to him is given back.
    pub fn leave(&self, key: &LockKey, call: CallId, lease_ms: u64, now: Moment) -> Option<Fed> {
        let mut shard = self.shard(key);
        let word = match shard.last_words.remove(&call) {
            Some(word) => Some(word),
            None => shard.seats.get_mut(key)?.doors.remove(&call)?.word,
        };
        match word {
            // What a SET NX wrote does not tell whose it is: nobody but its owner takes it back.
            Some(Word::Answer(Answer::Granted { grant, is_new: true })) if grant.fence.0 > 0 => {
                let event = Event::GivesBack { value: grant.value, lease_ms };
                Some(self.step_always(&mut shard, key, event, true, now))
            }
            _ => self.step(&mut shard, key, Event::Leaves(call), None, true, now),
        }
    }

    /// Reads something off the line of `key`.
    pub fn read<T>(&self, key: &LockKey, read: impl FnOnce(&Line) -> T) -> Option<T> {
        self.shard(key).seats.get(key).map(|seat| read(&seat.line))
    }

    /// When the timer of `key` that `bell` wakes is to tick next: the outer `None` when it is needed no more (and is then taken off the
    /// line), the inner one when only its bell can tell.
    pub fn timer_at(&self, key: &LockKey, bell: &Arc<Notify>) -> Option<Option<Moment>> {
        let mut shard = self.shard(key);
        let is_its_own = |seat: &&mut Seat| seat.timer.as_ref().is_some_and(|timer| Arc::ptr_eq(timer, bell));
        let seat = shard.seats.get_mut(key).filter(is_its_own)?;
        if seat.line.needs_timer() {
            seat.timer_at = seat.line.wake_at();
            return Some(seat.timer_at);
        }
        seat.timer = None;
        Self::tidy(&mut shard, key);
        None
    }

    /// Every waiting call is answered, and none begins any more.
    pub fn close(&self, now: Moment) {
        self.is_closing.store(true, Ordering::SeqCst);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<LockKey> = shard.seats.keys().cloned().collect();
            for key in keys {
                self.step(&mut shard, &key, Event::ShutsDown, None, false, now);
            }
        }
    }

    /// No call may begin to wait any more.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// How many wait, for all keys.
    pub fn waiting(&self) -> u64 {
        self.totals.waiting.load(Ordering::Relaxed)
    }

    /// What is kept for calls and places, in bytes.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.totals.bytes.load(Ordering::Relaxed)
    }

    /// The keys that somebody waits for, and how many do; at most so many.
    pub fn queues(&self, most: usize) -> Vec<(LockKey, usize)> {
        let mut queues = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = shard.seats.iter().map(|(key, seat)| (key.clone(), seat.line.waiting()));
            queues.extend(waiting.filter(|(_, waiting)| *waiting > 0));
        }
        queues.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        queues.truncate(most);
        queues
    }

    /// A line has something to tell the upstream that does not have to wait.
    pub fn have_work(&self) -> bool {
        self.shards.iter().any(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.seats.values().any(|seat| seat.line.has_urgent_work())
        })
    }

    /// How many keys have a line.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).seats.len()).sum()
    }

    fn shard(&self, key: &LockKey) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        // No step panics under the lock, see `step`; what else may have did not change a line.
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_seat(&self, key: &LockKey, now: Moment) -> Seat {
        Seat {
            line: Line::numbered(self.rules(), self.last_line.fetch_add(1, Ordering::Relaxed) + 1, now),
            doors: FastMap::default(),
            timer: None,
            timer_at: None,
            totals: self.totals.clone(),
            key_bytes: key.name.len(),
        }
    }

    fn tidy(shard: &mut Shard, key: &LockKey) {
        if shard.seats.get(key).is_some_and(Seat::is_idle) {
            shard.seats.remove(key);
        }
    }
}

/// What a call is told whose line has failed.
fn failed(key: &LockKey) -> Answer {
    let line = format!(
        "ERR a fault of Lockgate ended the queue of '{key}'; whether this call got the lock before is unknown, look at LOCK.INFO \
         and ask again"
    );
    Answer::Failed(line.into())
}

impl Totals {
    /// Whether one more call at `key` may wait.
    fn have_room(&self, key: &LockKey, asked: &AskedFor) -> bool {
        let more = (key.name.len() + asked.bytes()) as u64;
        self.bytes.load(Ordering::Relaxed).saturating_add(more) <= self.bytes_max.load(Ordering::Relaxed)
    }

    /// The counts of one line have changed. Wraps downwards as well: the sums are right again once the step is counted.
    fn change(&self, before: (u64, u64), after: (u64, u64)) {
        self.waiting.fetch_add(after.0.wrapping_sub(before.0), Ordering::Relaxed);
        if after.1 != before.1 {
            self.bytes.fetch_add(after.1.wrapping_sub(before.1), Ordering::Relaxed);
        }
    }
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.timer.is_none() && self.doors.is_empty() && self.line.is_idle()
    }

    fn feed(&mut self, event: Event, caller: Option<CallId>, can_send: bool, now: Moment) -> Fed {
        #[cfg(test)]
        failpoint::pass(&event);
        let mut fed = Fed::default();
        let before = self.counts();
        for action in self.line.step(event, now) {
            match action {
                Action::Try { call, standing, turn } => {
                    assert_eq!(caller, Some(call), "only the call itself can send its try");
                    fed.next = Some(Next::Try(standing, turn));
                }
                Action::TryLater { call, after_ms } => {
                    assert_eq!(caller, Some(call), "only the call itself can try again");
                    fed.next = Some(Next::Later(after_ms));
                }
                Action::Answer { call, answer } if caller == Some(call) => {
                    self.doors.remove(&call);
                    fed.next = Some(Next::Answer(answer));
                }
                Action::Answer { call, answer } => {
                    fed.answers += 1;
                    self.say(call, Word::Answer(answer));
                }
                Action::GoOn(call) => self.say(call, Word::GoOn),
                Action::Release(turn) => fed.release_to = Some(turn),
                Action::HandOver { task, turn } => {
                    assert!(can_send, "a hand-over was decided where nobody can send it");
                    fed.hand_over = Some(HandOver { task, turn });
                }
            }
        }
        let after = self.counts();
        fed.is_awaited = before.0 == 0 && after.0 > 0;
        self.totals.change(before, after);
        self.wind_timer(&mut fed, can_send);
        fed
    }

    /// How many wait, and what is kept, in bytes.
    fn counts(&self) -> (u64, u64) {
        let (names, bytes) = self.line.kept();
        (self.line.waiting() as u64, (bytes + names * self.key_bytes) as u64)
    }

    fn say(&mut self, call: CallId, word: Word) {
        if let Some(door) = self.doors.get_mut(&call) {
            door.word = Some(word);
            door.bell.notify_one();
        }
    }

    /// A line with something to watch has one timer. It is woken when it would come too late, or has nothing to do any more.
    fn wind_timer(&mut self, fed: &mut Fed, can_send: bool) {
        let is_needed = self.line.needs_timer();
        match &self.timer {
            None if is_needed && can_send => {
                let bell = Arc::new(Notify::new());
                self.timer = Some(bell.clone());
                self.timer_at = None;
                fed.start_timer = Some(bell);
            }
            Some(bell) => {
                let is_late = match (self.line.wake_at(), self.timer_at) {
                    (Some(due), Some(set)) => due < set,
                    (Some(_), None) => true,
                    (None, _) => false,
                };
                if is_late || !is_needed {
                    bell.notify_one();
                }
            }
            None => {}
        }
    }
}

/// A step that panics, where a test wants one.
#[cfg(test)]
pub mod failpoint {
    use std::cell::Cell;

    use crate::locks::Event;

    type IsIt = fn(&Event) -> bool;

    thread_local! {
        static ARMED: Cell<Option<IsIt>> = const { Cell::new(None) };
    }

    /// The next step of this thread whose event is such panics.
    pub fn arm(is_it: IsIt) {
        ARMED.set(Some(is_it));
    }

    /// Called at the beginning of each step.
    pub fn pass(event: &Event) {
        if ARMED.get().is_some_and(|is_it| is_it(event)) {
            ARMED.set(None);
            panic!("a test wants this step to fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::LockSettings;
    use crate::domain::{Fence, Level, OwnerId};
    use crate::locks::{Actor, Form, Seen, Tried};

    const NOW: Moment = Moment(1_000_000);

    fn key() -> LockKey {
        LockKey { db: 0, name: b"orders:1"[..].into() }
    }

    fn asked(call: u64, owner: &str) -> AskedFor {
        let owner = OwnerId::new(owner.as_bytes()).unwrap();
        AskedFor {
            call: CallId(call),
            actor: Actor::Owner(owner.clone()),
            form: Form::Lock { owner, lease_ms: 1000, meta: b""[..].into() },
            level: Level::Normal,
            may_wait: true,
            ticket_ms: 0,
            queue_max: None,
            place: None,
            deadline: None,
        }
    }

    fn shards() -> Shards {
        Shards::new(LockSettings::default().line_rules(), 1 << 20)
    }

    /// The try that the call is to send.
    fn asks(shards: &Shards, call: u64, owner: &str) -> (Arc<Notify>, Turn) {
        let entered = shards.enter(&key(), asked(call, owner), NOW);
        match entered.fed.next {
            Some(Next::Try(_, turn)) => (entered.bell, turn),
            next => panic!("{owner} is to send a try: {next:?}"),
        }
    }

    fn refused(shards: &Shards, call: u64, turn: &Turn) -> Fed {
        let seen = Seen { value: b"someone"[..].into(), left_ms: Some(9000), ours: None, by: None };
        let outcome = Tried::Refused { seen, registered: None, arrival_us: call };
        let event = Event::Tried { call: CallId(call), sent: turn.sent(), outcome };
        let fed = shards.feed(&key(), event, Some(CallId(call)), NOW).expect("there is a line");
        assert!(fed.next.is_none());
        fed
    }

    fn granted(shards: &Shards, call: u64, turn: &Turn) -> Option<Fed> {
        let grant = Grant { fence: Fence(7), value: b"bob\x1f7"[..].into() };
        let outcome = Tried::Granted { grant, registered: None };
        shards.feed(&key(), Event::Tried { call: CallId(call), sent: turn.sent(), outcome }, Some(CallId(call)), NOW)
    }

    fn is_failure(answer: &Answer) -> bool {
        matches!(answer, Answer::Failed(line) if line.starts_with("ERR a fault of Lockgate ended the queue of 'orders:1'"))
    }

    #[test]
    fn the_first_who_waits_is_told_of_and_no_other() {
        let shards = shards();
        let waits = |call, owner| {
            let (_bell, turn) = asks(&shards, call, owner);
            refused(&shards, call, &turn).is_awaited
        };
        assert!(waits(1, "ann"), "ann is the first");
        assert!(!waits(2, "bob"), "ann waits already");
        for call in [1, 2] {
            shards.leave(&key(), CallId(call), 0, NOW);
        }
        assert!(waits(3, "cat"), "nobody waited any more");
    }

    #[test]
    fn there_is_work_only_where_something_is_to_be_told_to_the_upstream() {
        let shards = shards();
        let (_bell, turn) = asks(&shards, 1, "ann");
        assert!(!shards.have_work(), "the try is all that is to be sent");
        refused(&shards, 1, &turn);
        shards.tell(&key(), Event::GivesBack { value: b"bob\x1f7"[..].into(), lease_ms: 9000 }, NOW);
        assert!(shards.have_work(), "a grant is nobody's");
    }

    #[test]
    fn a_step_that_panics_ends_its_line_with_an_error_and_the_key_works_again_at_once() {
        let shards = shards();
        let (_bell, turn) = asks(&shards, 1, "ann");
        refused(&shards, 1, &turn);
        let (_bell, turn) = asks(&shards, 2, "bob");
        failpoint::arm(|event| matches!(event, Event::Tried { .. }));
        let fed = granted(&shards, 2, &turn).expect("there was a line");
        assert!(matches!(&fed.next, Some(Next::Answer(answer)) if is_failure(answer)), "{:?}", fed.next);
        // What the upstream gave to bob goes back, by its whole value: bob was told that he has nothing.
        let hand_over = fed.hand_over.expect("the grant is given back");
        assert!(matches!(&hand_over.task, Task::TakeBack(value) if **value == *b"bob\x1f7"));
        match shards.take_word(&key(), CallId(1)) {
            Some(Word::Answer(answer)) => assert!(is_failure(&answer)),
            word => panic!("ann is told: {word:?}"),
        }
        assert_eq!((shards.waiting(), shards.bytes()), (0, 0));
        let (_bell, turn) = asks(&shards, 3, "cat");
        let fed = granted(&shards, 3, &turn).expect("cat's line");
        assert!(matches!(fed.next, Some(Next::Answer(Answer::Granted { .. }))));
    }

    #[test]
    fn a_reply_that_comes_after_its_line_has_failed_grants_nobody_anything() {
        let shards = shards();
        let (_bell, late) = asks(&shards, 1, "ann");
        failpoint::arm(|event| matches!(event, Event::Hint));
        shards.tell(&key(), Event::Hint, NOW);
        // A new line stands there when ann's reply comes.
        let (_bell, turn) = asks(&shards, 2, "bob");
        refused(&shards, 2, &turn);
        let fed = granted(&shards, 1, &late).expect("it goes back");
        assert!(fed.next.is_none());
        assert_eq!(shards.read(&key(), |line| line.is_giving_back(b"bob\x1f7")), Some(true));
        assert!(matches!(shards.take_word(&key(), CallId(1)), Some(Word::Answer(answer)) if is_failure(&answer)));
        assert_eq!(shards.read(&key(), Line::waiting), Some(1), "bob still waits");
        assert!(shards.take_word(&key(), CallId(2)).is_none());
    }

    #[test]
    fn an_answer_that_was_given_before_the_fault_stands() {
        let shards = shards();
        let (_bell, turn) = asks(&shards, 1, "ann");
        refused(&shards, 1, &turn);
        // Told to end, and not yet awake.
        shards.tell(&key(), Event::ShutsDown, NOW);
        let (_bell, _turn) = asks(&shards, 2, "bob");
        failpoint::arm(|event| matches!(event, Event::Hint));
        shards.tell(&key(), Event::Hint, NOW);
        assert!(matches!(shards.take_word(&key(), CallId(1)), Some(Word::Answer(Answer::ShuttingDown))));
        // Whoever leaves without having listened leaves nothing behind.
        shards.leave(&key(), CallId(2), 0, NOW);
        assert!(shards.take_word(&key(), CallId(2)).is_none());
    }
}
