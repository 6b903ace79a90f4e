//! What clients do all day, drawn from the seed: sessions at a lock, from the first word to the last.

use super::client::Client;
use super::record::{Bond, Call, Op, Outcome, Record, Recorder, Write};
use super::servers::Side;
use crate::common::{Reply, Wire};
use fastrand::Rng;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the rule lets a `SET NX` wait.
pub const SET_NX_WAIT_MS: u64 = 1500;
/// A key whose rule keeps the place of a refused `SET NX`,
pub const TICKET_KEY: &str = "t:0";
/// for so long.
pub const TICKET_MS: u64 = 700;

/// How people go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Many sessions, short holds.
    Busy,
    /// Few sessions and long waits: whoever is not woken stays asleep, because nobody else comes along.
    Quiet,
    /// Most of those who wait hang up before they are answered.
    Leaving,
}

/// What the clients of a run have in common.
pub struct World {
    pub recorder: Arc<Recorder>,
    pub keys: Vec<String>,
    pub over_at: Instant,
    /// Who waits just now: key and owner.
    pub board: Mutex<Vec<(String, String)>>,
    pub manner: Manner,
    /// Commands that take a lock from its holder are drawn, too.
    pub is_rough: bool,
    /// `LOCK.TRANSFER` and `LOCK.FORCE` are known here.
    pub has_family: bool,
}

/// One client program.
pub struct Person {
    pub world: Arc<World>,
    pub number: usize,
    pub rng: Rng,
    pub client: Client,
    /// Straight to the server, for the guarded data and for what is done around Lockgate.
    pub side: Side,
    pub sessions: usize,
    /// The fence of a guarded write of which nobody knows whether it is still on its way.
    pub unsure_of: Option<i64>,
}

impl Person {
    pub fn lives(mut self) {
        while Instant::now() < self.world.over_at {
            self.sessions += 1;
            if self.rng.u32(..100) < 15 {
                let node = self.rng.usize(..2);
                self.client.go_to(node);
            }
            let key = self.world.keys[self.rng.usize(..self.world.keys.len())].clone();
            match self.rng.u32(..100) {
                // What is cancelled while it is handed the lock has to be passed on.
                0..30 if self.world.manner == Manner::Leaving => self.cancels(),
                0..45 if self.is_quiet() => self.sets(&key),
                0..48 => self.locks(&key),
                48..60 => self.locks_several(),
                60..67 if !self.is_quiet() => self.polls(),
                60..72 => self.locks(if self.is_quiet() { &key } else { TICKET_KEY }),
                72..87 => self.sets(&key),
                87..91 => self.cancels(),
                91..94 => self.promotes(),
                94..97 if self.world.is_rough => self.goes_around(&key),
                97..100 if self.world.is_rough && self.world.has_family => {
                    self.client.call(&key, "", Op::Force);
                }
                _ => self.pauses(5),
            }
            self.pauses(if self.is_quiet() { 4000 } else { 12 });
        }
    }

    fn pauses(&mut self, most_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.u64(..most_ms * 1000)));
    }

    fn is_quiet(&self) -> bool {
        self.world.manner == Manner::Quiet
    }

    /// Goes about what the lock is for: short, or long enough for others to come and wait.
    fn works(&mut self) {
        self.pauses(if self.is_quiet() { 800 } else { 25 });
    }

    /// A name of its own for this session, or now and then the one that this client has always had.
    fn name(&mut self) -> String {
        if self.rng.u32(..100) < 10 {
            format!("c{}", self.number)
        } else {
            format!("c{}.{}", self.number, self.sessions)
        }
    }

    /// After which time it hangs up, if it does; where not most do, so many of a hundred.
    fn patience(&mut self, hundredths: u32) -> Option<Duration> {
        if self.world.manner == Manner::Leaving {
            return (self.rng.u32(..100) < 70).then(|| Duration::from_micros(self.rng.u64(300..30_000)));
        }
        (self.rng.u32(..100) < hundredths).then(|| Duration::from_millis(self.rng.u64(1..400)))
    }

    /// Leases mostly last; the short ones are for clients that outstay them.
    fn draws_ttl(&mut self) -> u64 {
        if self.world.manner != Manner::Busy {
            // Who would be woken by the end of a lease must be woken before.
            return self.rng.u64(6000..8000);
        }
        match self.rng.u32(..10) {
            0..7 => self.rng.u64(2000..4000),
            7..9 => self.rng.u64(300..900),
            _ => self.rng.u64(40..150),
        }
    }

    fn locks(&mut self, key: &str) {
        let owner = self.name();
        let ttl_ms = self.draws_ttl();
        let (least_ms, most_ms) = if self.is_quiet() { (4000, 8000) } else { (200, 3000) };
        let wait_ms = if self.rng.u32(..4) > 0 { self.rng.u64(least_ms..most_ms) } else { 0 };
        let level = [1, 1, 1, 0, 2, 3][self.rng.usize(..6)];
        let bond = match self.rng.u32(..10) {
            0 => Bond::Keepalive,
            1 => Bond::Ephemeral,
            _ => Bond::None,
        };
        let leaves_after = if wait_ms == 0 { None } else { self.patience(8) };
        let asks = Op::Acquire { ttl_ms, wait_ms, level, bond };
        let mut outcome = self.asks(key, &owner, asks.clone(), leaves_after);
        let comes_back = self.rng.bool();
        if matches!(outcome, Outcome::Unknown | Outcome::Error(_)) && comes_back {
            // As clients do that send what was not answered once more; perhaps through the other node.
            self.pauses(50);
            let node = self.rng.usize(..2);
            self.client.go_to(node);
            outcome = self.asks(key, &owner, asks, None);
        }
        match outcome {
            Outcome::Int(fence) => self.holds(key, owner, fence, ttl_ms, bond),
            Outcome::Unknown if self.rng.bool() => drop(self.client.call(key, &owner, Op::Release { fence: None })),
            _ => {}
        }
    }

    fn asks(&mut self, key: &str, owner: &str, op: Op, patience: Option<Duration>) -> Outcome {
        self.waits_for(&[key.to_owned()], owner, |client| client.call_for(key, owner, op, patience))
    }

    fn holds(&mut self, key: &str, mut owner: String, mut fence: i64, ttl_ms: u64, bond: Bond) {
        let granted = Instant::now();
        let mut lease_ms = ttl_ms;
        for _ in 0..self.rng.u32(..3) {
            if self.rng.u32(..4) == 0 {
                self.writes_guarded(key, &owner, fence);
                continue;
            }
            match self.rng.u32(..10) {
                // Only with time to spare, as a careful client would.
                0..5 if ttl_ms >= 1000 && granted.elapsed() < Duration::from_millis(ttl_ms / 4) => {
                    self.writes(key, fence);
                }
                5 | 6 => {
                    let ttl_ms = self.rng.u64(500..3000);
                    let fence = (self.rng.u32(..4) > 0).then_some(fence);
                    self.client.call(key, &owner, Op::Extend { ttl_ms, fence });
                    lease_ms = ttl_ms;
                }
                7 => {
                    let asks = Op::Acquire { ttl_ms, wait_ms: self.rng.u64(..2) * 500, level: 1, bond };
                    match self.client.call(key, &owner, asks) {
                        Outcome::Int(again) => fence = again,
                        Outcome::Nil => return,
                        _ => {}
                    }
                }
                8 if self.world.has_family && self.rng.bool() => {
                    let to = format!("{owner}t{}", self.rng.u32(..1000));
                    let op = Op::Transfer { to: to.clone(), ttl_ms: 2000, fence: Some(fence) };
                    match self.client.call(key, &owner, op) {
                        Outcome::Int(given) => (owner, fence, lease_ms) = (to, given, 2000),
                        _ => return,
                    }
                }
                _ => self.pauses(30),
            }
        }
        match self.rng.u32(..100) {
            0..5 if lease_ms < 1000 || bond == Bond::Ephemeral => return self.client.close(),
            5..9 if lease_ms < 1000 => return,
            9..16 if lease_ms < 1000 => {
                // Outstays its lease and knows nothing of it.
                std::thread::sleep(Duration::from_millis(lease_ms + 30));
            }
            _ => self.works(),
        }
        let named = (self.rng.u32(..100) < 65).then_some(fence);
        self.client.call(key, &owner, Op::Release { fence: named });
        match self.rng.u32(..100) {
            0..6 => drop(self.client.call(key, &owner, Op::Release { fence: Some(fence) })),
            // What a holder of the past still has to write must not be written.
            6..16 => self.writes_guarded(key, &owner, fence),
            _ => {}
        }
    }

    /// Some of the keys at once, or none.
    fn locks_several(&mut self) {
        let mut keys = self.world.keys.clone();
        self.rng.shuffle(&mut keys);
        keys.truncate([1, 2, 2, 2, 3][self.rng.usize(..5)]);
        let owner = format!("c{}.{}a", self.number, self.sessions);
        let (least_ms, most_ms) = if self.is_quiet() { (4000, 8000) } else { (200, 3000) };
        let wait_ms = if self.rng.u32(..5) > 0 { self.rng.u64(least_ms..most_ms) } else { 0 };
        let (ttl_ms, level) = (self.draws_ttl(), [1, 1, 1, 0, 2, 3][self.rng.usize(..6)]);
        let leaves_after = match self.world.manner {
            // In the middle of taking what is free.
            Manner::Leaving if self.rng.bool() => Some(Duration::from_micros(self.rng.u64(100..3000))),
            _ if wait_ms == 0 => None,
            _ => self.patience(8),
        };
        let op = Op::AcquireAll { keys: keys.clone(), ttl_ms, wait_ms, level };
        let outcomes = self.waits_for(&keys, &owner, |client| client.call_for_all(&keys, &owner, &op, leaves_after));
        let fences: Vec<(&String, i64)> = keys
            .iter()
            .zip(&outcomes)
            .filter_map(|(key, outcome)| match outcome {
                Outcome::Int(fence) => Some((key, *fence)),
                _ => None,
            })
            .collect();
        let Some((key, fence)) = fences.first().copied() else {
            if outcomes[0] == Outcome::Unknown && self.rng.bool() {
                self.client.call_for_all(&keys, &owner, &Op::ReleaseAll { keys: keys.clone() }, None);
            }
            return;
        };
        if self.rng.bool() {
            self.writes_guarded(key, &owner, fence);
        }
        self.works();
        if self.rng.u32(..5) == 0 {
            // Some are let go before the others.
            self.client.call(key, &owner, Op::Release { fence: Some(fence) });
        }
        if ttl_ms >= 1000 || self.rng.u32(..3) > 0 {
            self.client.call_for_all(&keys, &owner, &Op::ReleaseAll { keys: keys.clone() }, None);
        }
    }

    /// Asks again and again, as lock libraries do, at a key whose rule gives tickets.
    fn polls(&mut self) {
        let value = format!("p{}.{}", self.number, self.sessions);
        let asks = Op::SetNx { ttl_ms: self.rng.u64(2500..4000), wait_ms: 0, ticket_ms: TICKET_MS };
        for _ in 0..self.rng.u32(1..40) {
            match self.client.call(TICKET_KEY, &value, asks.clone()) {
                Outcome::Ok => {
                    self.works();
                    self.client.call(TICKET_KEY, &value, Op::CompareAndDelete);
                    return;
                }
                Outcome::Nil => self.pauses(120),
                // Whatever it is now, it ends with its lease.
                _ => return,
            }
        }
    }

    fn sets(&mut self, key: &str) {
        let value = format!("s{}.{}", self.number, self.sessions);
        let leaves_after = self.patience(6);
        let ttl_ms = match self.world.manner {
            _ if leaves_after.is_some() => 900,
            Manner::Quiet => 7000,
            _ => self.rng.u64(2500..4000),
        };
        let asks = Op::SetNx { ttl_ms, wait_ms: SET_NX_WAIT_MS, ticket_ms: 0 };
        if self.asks(key, &value, asks, leaves_after) == Outcome::Ok {
            self.works();
            let deletes = self.world.is_rough && self.rng.u32(..10) == 0;
            let drops = if deletes { Op::Del } else { Op::CompareAndDelete };
            self.client.call(key, &value, drops);
        }
    }

    fn cancels(&mut self) {
        if let Some((key, owner)) = self.somebody_who_waits() {
            self.client.call(&key, &owner, Op::Cancel);
        }
    }

    fn promotes(&mut self) {
        if let Some((key, owner)) = self.somebody_who_waits() {
            let level = self.rng.u8(..4);
            self.client.call(&key, &owner, Op::Promote { level });
        }
    }

    fn somebody_who_waits(&mut self) -> Option<(String, String)> {
        let board = self.world.board.lock().unwrap();
        if board.is_empty() { None } else { Some(board[self.rng.usize(..board.len())].clone()) }
    }

    /// Deletes the key on the server itself, whoever has it.
    fn goes_around(&mut self, key: &str) {
        let recorder = &self.world.recorder;
        let (id, from_us) = (recorder.next_id(), recorder.now_us());
        let outcome = self.side.call(&["DEL", key]).as_ref().map_or(Outcome::Unknown, super::client::outcome);
        let until_us = recorder.now_us();
        let call = Call {
            id,
            conn: 0,
            node: None,
            key: key.into(),
            owner: String::new(),
            op: Op::Del,
            from_us,
            until_us,
            outcome,
        };
        recorder.note(Record::Call(call));
    }

    /// Raises the guarded number by one: reads, gives others a chance, writes back. The data itself refuses fences of the past.
    fn writes(&mut self, key: &str, fence: i64) {
        const WRITE: &str = "if tonumber(redis.call('hget',KEYS[1],'fence') or '0') > tonumber(ARGV[2]) then return 0 end \
                             redis.call('hset',KEYS[1],'number',ARGV[1],'fence',ARGV[2]) return 1";
        let data = data_key(key);
        let from_us = self.world.recorder.now_us();
        let Some(read) = self.side.call(&["HGET", &data, "number"]) else { return };
        let read = number_in(&read);
        self.pauses(4);
        let (number, named) = ((read + 1).to_string(), fence.to_string());
        let wrote = self.side.call(&["EVAL", WRITE, "1", &data, &number, &named]);
        let until_us = self.world.recorder.now_us();
        self.world.recorder.note(Record::Write(Write {
            key: key.into(),
            fence,
            from_us,
            until_us,
            read,
            wrote: read + 1,
            was_taken: wrote == Some(Reply::Int(1)),
            is_guarded: false,
            is_unknown: wrote.is_none(),
        }));
    }

    /// Raises another number, that looks at no fence itself: `LOCK.GUARD` alone keeps holders of the past from it.
    fn writes_guarded(&mut self, key: &str, owner: &str, fence: i64) {
        // What is still on its way under this fence could overtake what comes now.
        if self.unsure_of == Some(fence) {
            return;
        }
        let data = guarded_key(key);
        let from_us = self.world.recorder.now_us();
        let read = vec!["GET".into(), data.clone()];
        let read = match self.client.call(key, owner, Op::Guard { fence, command: read }) {
            Outcome::Int(read) => read,
            Outcome::Nil => 0,
            _ => return,
        };
        self.pauses(4);
        let wrote = vec!["SET".into(), data, (read + 1).to_string()];
        let wrote = self.client.call(key, owner, Op::Guard { fence, command: wrote });
        let until_us = self.world.recorder.now_us();
        let is_unknown = wrote != Outcome::Ok && !is_fenced(&wrote);
        self.unsure_of = if is_unknown { Some(fence) } else { self.unsure_of };
        self.world.recorder.note(Record::Write(Write {
            key: key.into(),
            fence,
            from_us,
            until_us,
            read,
            wrote: read + 1,
            was_taken: wrote == Outcome::Ok,
            is_guarded: true,
            is_unknown,
        }));
    }

    /// Others can read on the board who waits while `call` lasts. Now and then the waiter himself asks, over another connection, for
    /// another level meanwhile.
    fn waits_for<T>(&mut self, keys: &[String], owner: &str, call: impl FnOnce(&mut Client) -> T) -> T {
        let entries: Vec<(String, String)> = keys.iter().map(|key| (key.clone(), owner.to_owned())).collect();
        self.world.board.lock().unwrap().extend(entries.iter().cloned());
        let promotes_himself = (self.rng.u32(..100) < 5)
            .then(|| (self.client.beside(), self.rng.u64(1..200), self.rng.usize(..keys.len()), self.rng.u8(..4)));
        let outcome = std::thread::scope(|scope| {
            if let Some((mut beside, after_ms, key, level)) = promotes_himself {
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(after_ms));
                    beside.call(&keys[key], owner, Op::Promote { level });
                });
            }
            call(&mut self.client)
        });
        let mut board = self.world.board.lock().unwrap();
        for entry in entries {
            if let Some(at) = board.iter().position(|waiting| *waiting == entry) {
                board.swap_remove(at);
            }
        }
        outcome
    }
}

fn number_in(reply: &Reply) -> i64 {
    match reply {
        Reply::Bulk(number) => String::from_utf8_lossy(number).parse().unwrap(),
        _ => 0,
    }
}

/// The lock was over, and the command has not run.
pub fn is_fenced(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Error(error) if error.starts_with("-FENCED"))
}

/// Where the data is that a lock guards.
pub fn data_key(key: &str) -> String {
    format!("data:{key}")
}

/// Where the number is that `LOCK.GUARD` alone protects.
pub fn guarded_key(key: &str) -> String {
    format!("data:guarded:{key}")
}

impl Wire {
    /// Sends a command and understands its reply, however long a server that is stopped takes for it.
    pub fn call_reply<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        self.ask(words);
        match self.try_frame(Duration::from_secs(60)) {
            Ok(frame) => Reply::parse(&frame),
            Err(silence) => panic!("the server said nothing: {}", silence.describe()),
        }
    }
}
