//! What clients do all day, drawn from the seed: sessions at a lock, from the first word to the last.

use super::client::Client;
use super::record::{Bond, Call, Op, Outcome, Record, Recorder, Write};
use crate::common::{Reply, Wire};
use fastrand::Rng;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the rule lets a `SET NX` wait.
pub const SET_NX_WAIT_MS: u64 = 1500;

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
    pub side: Wire,
    pub sessions: usize,
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
                0..70 => self.locks(&key),
                70..88 => self.sets(&key),
                88..94 => self.cancels(),
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
        let entry = (key.to_owned(), owner.to_owned());
        self.world.board.lock().unwrap().push(entry.clone());
        let outcome = self.client.call_for(key, owner, op, patience);
        let mut board = self.world.board.lock().unwrap();
        if let Some(at) = board.iter().position(|waiting| *waiting == entry) {
            board.swap_remove(at);
        }
        outcome
    }

    fn holds(&mut self, key: &str, mut owner: String, mut fence: i64, ttl_ms: u64, bond: Bond) {
        let granted = Instant::now();
        let mut lease_ms = ttl_ms;
        for _ in 0..self.rng.u32(..3) {
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
                8 if self.world.has_family => {
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
        if self.rng.u32(..100) < 6 {
            self.client.call(key, &owner, Op::Release { fence: Some(fence) });
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
        let asks = Op::SetNx { ttl_ms, wait_ms: SET_NX_WAIT_MS };
        if self.asks(key, &value, asks, leaves_after) == Outcome::Ok {
            self.works();
            let deletes = self.world.is_rough && self.rng.u32(..10) == 0;
            let drops = if deletes { Op::Del } else { Op::CompareAndDelete };
            self.client.call(key, &value, drops);
        }
    }

    fn cancels(&mut self) {
        let waiting = {
            let board = self.world.board.lock().unwrap();
            if board.is_empty() { None } else { Some(board[self.rng.usize(..board.len())].clone()) }
        };
        if let Some((key, owner)) = waiting {
            self.client.call(&key, &owner, Op::Cancel);
        }
    }

    /// Deletes the key on the server itself, whoever has it.
    fn goes_around(&mut self, key: &str) {
        let recorder = &self.world.recorder;
        let (id, from_us) = (recorder.next_id(), recorder.now_us());
        let outcome = super::client::outcome(&self.side.call_reply(&["DEL", key]));
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
        let read = match self.side.call_reply(&["HGET", &data, "number"]) {
            Reply::Bulk(number) => String::from_utf8_lossy(&number).parse().unwrap(),
            _ => 0,
        };
        self.pauses(4);
        let (number, named) = ((read + 1).to_string(), fence.to_string());
        let was_taken = self.side.call_reply(&["EVAL", WRITE, "1", &data, &number, &named]) == Reply::Int(1);
        let until_us = self.world.recorder.now_us();
        let write = Write { key: key.into(), fence, from_us, until_us, read, wrote: read + 1, was_taken };
        self.world.recorder.note(Record::Write(write));
    }
}

/// Where the data is that a lock guards.
pub fn data_key(key: &str) -> String {
    format!("data:{key}")
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
