//! The lines of all keys, shared by all workers. A shard's lock is held for one step of one line, never over an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{CallId, LockKey, Moment};
use crate::locks::{Action, Answer, AskedFor, Event, Line, LineRules, Standing, Task, Turn};

/// Enough that workers seldom meet at one.
const SHARDS: usize = 64;

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
    doors: HashMap<CallId, Door>,
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

/// The lines of all keys.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Mutex<HashMap<LockKey, Seat>>>,
    hasher: RandomState,
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
            hasher: RandomState::new(),
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
            shard.values_mut().for_each(|seat| seat.line.set_waiting_max(waiting_max));
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
        let seat = shard.entry(key.clone()).or_insert_with(|| self.new_seat(key, now));
        let is_crowded_out = (asked.may_wait || asked.ticket_ms > 0) && !self.totals.have_room(key, &asked);
        if is_crowded_out {
            (asked.may_wait, asked.ticket_ms) = (false, 0);
        }
        // Read under the shard's lock: `close` has either not come to this shard yet, or is seen here.
        asked.may_wait &= !self.is_closing();
        let call = asked.call;
        seat.doors.insert(call, Door { word: None, bell: bell.clone() });
        let fed = seat.feed(Event::Asks(asked), Some(call), true, now);
        Self::tidy(&mut shard, key);
        Entered { bell, fed, is_crowded_out }
    }

    /// Something happened to `key`. Where there is no line for it nobody needs to know.
    pub fn feed(&self, key: &LockKey, event: Event, caller: Option<CallId>, now: Moment) -> Option<Fed> {
        self.feed_seat(key, event, caller, true, now)
    }

    /// As [`Shards::feed`], if the line is so in that very moment; `None` where it is not.
    pub fn feed_if(&self, key: &LockKey, is_so: impl FnOnce(&Line) -> bool, event: Event, now: Moment) -> Option<Fed> {
        let mut shard = self.shard(key);
        let seat = shard.get_mut(key).filter(|seat| is_so(&seat.line))?;
        let fed = seat.feed(event, None, true, now);
        Self::tidy(&mut shard, key);
        Some(fed)
    }

    /// As [`Shards::feed`], from somebody who cannot send anything; what is to be sent the timer sends.
    pub fn tell(&self, key: &LockKey, event: Event, now: Moment) {
        self.feed_seat(key, event, None, false, now);
    }

    /// As [`Shards::feed`], and a line is made where there is none.
    pub fn feed_always(&self, key: &LockKey, event: Event, now: Moment) -> Fed {
        let mut shard = self.shard(key);
        let fed = shard.entry(key.clone()).or_insert_with(|| self.new_seat(key, now)).feed(event, None, true, now);
        Self::tidy(&mut shard, key);
        fed
    }

    fn feed_seat(
        &self,
        key: &LockKey,
        event: Event,
        caller: Option<CallId>,
        can_send: bool,
        now: Moment,
    ) -> Option<Fed> {
        let mut shard = self.shard(key);
        let fed = shard.get_mut(key)?.feed(event, caller, can_send, now);
        Self::tidy(&mut shard, key);
        Some(fed)
    }

    /// What the call is told, if its bell has rung for something.
    pub fn take_word(&self, key: &LockKey, call: CallId) -> Option<Word> {
        let mut shard = self.shard(key);
        let seat = shard.get_mut(key)?;
        let word = seat.doors.get_mut(&call)?.word.take()?;
        if matches!(word, Word::Answer(_)) {
            seat.doors.remove(&call);
            Self::tidy(&mut shard, key);
        }
        Some(word)
    }

    /// The call's client has gone. A grant that was on its way to him is given back.
    pub fn leave(&self, key: &LockKey, call: CallId, lease_ms: u64, now: Moment) -> Option<Fed> {
        let mut shard = self.shard(key);
        let seat = shard.get_mut(key)?;
        let word = seat.doors.remove(&call)?.word;
        let event = match word {
            // What a SET NX wrote does not tell whose it is: nobody but its owner takes it back.
            Some(Word::Answer(Answer::Granted { grant, is_new: true })) if grant.fence.0 > 0 => {
                Event::GivesBack { value: grant.value, lease_ms }
            }
            _ => Event::Leaves(call),
        };
        let fed = seat.feed(event, None, true, now);
        Self::tidy(&mut shard, key);
        Some(fed)
    }

    /// Reads something off the line of `key`.
    pub fn read<T>(&self, key: &LockKey, read: impl FnOnce(&Line) -> T) -> Option<T> {
        self.shard(key).get(key).map(|seat| read(&seat.line))
    }

    /// When the timer of `key` is to tick next: the outer `None` when it is needed no more (and is then taken off the line), the
    /// inner one when only its bell can tell.
    pub fn timer_at(&self, key: &LockKey) -> Option<Option<Moment>> {
        let mut shard = self.shard(key);
        let seat = shard.get_mut(key)?;
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
            for seat in shard.values_mut() {
                seat.feed(Event::ShutsDown, None, false, now);
            }
            shard.retain(|_, seat| !seat.is_idle());
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

    /// A line has something to tell the upstream that does not have to wait.
    pub fn have_work(&self) -> bool {
        self.shards.iter().any(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().any(|seat| seat.line.has_urgent_work())
        })
    }

    /// How many keys have a line.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: &LockKey) -> MutexGuard<'_, HashMap<LockKey, Seat>> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        // A panic while a step ran has been reported; the lines of other keys are as good as before.
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_seat(&self, key: &LockKey, now: Moment) -> Seat {
        Seat {
            line: Line::new(self.rules(), now),
            doors: HashMap::new(),
            timer: None,
            timer_at: None,
            totals: self.totals.clone(),
            key_bytes: key.name.len(),
        }
    }

    fn tidy(shard: &mut HashMap<LockKey, Seat>, key: &LockKey) {
        if shard.get(key).is_some_and(Seat::is_idle) {
            shard.remove(key);
        }
    }
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
