//! What clients do all day, drawn from the seed.

use std::rc::Rc;
use std::time::Duration;

use super::World;
use super::client::{Said, Wire};
use super::judge::{Asked, Mark, Person};

/// How long a rule lets a `SET NX` wait, in ms.
pub const SET_NX_WAIT_MS: u64 = 2500;

/// Deletes a key if it still holds what the client wrote.
const COMPARE_AND_DELETE: &[u8] =
    b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// A hold, as its holder knows it.
struct Mine {
    key: Vec<u8>,
    mark: Mark,
    wish_at_end: bool,
}

/// A client program.
pub struct Client {
    world: Rc<World>,
    number: Person,
    dice: fastrand::Rng,
    wire: Option<Wire>,
    connection: u64,
    values: u64,
    mine: Vec<Mine>,
}

/// A hold that its owner has let go of, or lost.
pub struct Past {
    key: Vec<u8>,
    owner: Vec<u8>,
    fence: u64,
}

impl Client {
    /// Person `number` of `world`.
    pub fn new(world: Rc<World>, number: Person, seed: u64) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Client { world, number, dice, wire: None, connection: 0, values: 0, mine: Vec::new() }
    }

    /// Lives until the world's day is over.
    pub async fn lives(mut self) {
        while !self.world.is_over() {
            if self.wire.is_none() {
                self.connects().await;
                continue;
            }
            match self.dice.u8(..100) {
                0..45 if !self.mine.is_empty() => self.lets_go().await,
                45..51 if !self.mine.is_empty() => self.extends().await,
                51..55 if !self.mine.is_empty() => self.writes().await,
                55..60 if !self.mine.is_empty() && self.world.plan.has_family => self.transfers().await,
                60..63 if self.world.plan.is_rough => self.forces().await,
                63..68 if self.world.plan.has_family => self.meddles_with_waiters().await,
                68..74 => self.looks().await,
                74..76 => self.hangs_up(),
                76..78 => self.acts_on_the_past().await,
                78..84 if self.world.plan.has_family => self.acquires_all().await,
                84..95 if self.mine.len() < 3 => self.sets().await,
                _ if self.mine.len() < 3 => self.acquires().await,
                _ => self.lets_go().await,
            }
            self.thinks(400).await;
        }
        while !self.mine.is_empty() && self.wire.is_some() {
            self.lets_go().await;
        }
        self.hangs_up();
    }

    async fn thinks(&mut self, most_ms: u64) {
        let ms = if self.dice.u8(..4) == 0 { self.dice.u64(..=most_ms) } else { self.dice.u64(..=5) };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn connects(&mut self) {
        match self.world.connects(&mut self.dice) {
            Some(wire) => {
                self.connection = self.world.next_connection();
                self.wire = Some(wire);
                let (person, connection) = (self.number, self.connection);
                self.world.judge(|judge| judge.connects(person, connection));
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }

    fn hangs_up(&mut self) {
        if self.wire.take().is_none() {
            return;
        }
        let person = self.number;
        self.world.judge(|judge| judge.hangs_up(person));
        // What was tied to the connection goes with it, at its time.
        for mine in self.mine.iter().filter(|mine| mine.wish_at_end) {
            self.world.judge(|judge| judge.wishes_by_leaving(&mine.key, mine.mark.owner()));
        }
        self.mine.retain(|mine| !mine.wish_at_end);
    }

    fn owner(&mut self) -> Vec<u8> {
        match self.world.plan.owners {
            0 => format!("p{}", self.number).into_bytes(),
            owners => format!("o{}", self.dice.u64(..owners)).into_bytes(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let keys = &self.world.plan.keys;
        keys[self.dice.usize(..keys.len())].clone()
    }

    async fn asks(&mut self, words: &[&[u8]]) -> Option<Said> {
        let said = match &mut self.wire {
            Some(wire) => wire.ask(words).await,
            None => None,
        };
        if said.is_none() {
            self.hangs_up();
        }
        said
    }

    /// Asks for locks; loses patience now and then.
    async fn asks_for(&mut self, asked: Asked, words: &[&[u8]], is_ephemeral: bool) {
        // Some leave after a while, some in the very moment in which they are given the lock and cannot know it yet.
        let (patience_ms, leaves_when_given) = match self.dice.u8(..12) {
            0 => (self.dice.u64(..1500), false),
            1 => (60_000, true),
            _ => (60_000, false),
        };
        let world = self.world.clone();
        let is_given = world.bells[self.number].notified();
        let (keys, owner, value) = (asked.keys.clone(), asked.owner.clone(), asked.value.clone());
        let call = self.world.judge(|judge| judge.asks(asked));
        let Some(wire) = &mut self.wire else { return };
        let said = tokio::select! {
            biased;
            said = wire.ask(words) => Some(said),
            () = is_given, if leaves_when_given => None,
            () = tokio::time::sleep(Duration::from_millis(patience_ms)) => None,
        };
        let marks = |fences: &[u64]| -> Vec<Mark> {
            match &value {
                Some(value) => vec![Mark::Plain(value.clone())],
                None => fences.iter().map(|fence| Mark::Fenced(owner.clone(), *fence)).collect(),
            }
        };
        let fences = match said {
            None | Some(None) => {
                if is_ephemeral {
                    for key in &keys {
                        self.world.judge(|judge| judge.wishes_by_leaving(key, &owner));
                    }
                }
                match said {
                    None => self.world.judge(|judge| judge.left(call)),
                    _ => self.world.judge(|judge| judge.is_lost(call)),
                }
                self.hangs_up();
                return;
            }
            Some(Some(Said::Number(fence))) if fence > 0 => vec![fence as u64],
            Some(Some(Said::Word(word))) if word == b"OK" => vec![0],
            Some(Some(Said::List(fences))) => {
                let fence = |said| match said {
                    Said::Number(fence) => fence as u64,
                    other => panic!("a fence was expected, not {other:?}"),
                };
                fences.into_iter().map(fence).collect()
            }
            Some(Some(Said::Nil)) => return self.world.judge(|judge| judge.refused(call, "nil")),
            Some(Some(Said::Error(line))) => return self.world.judge(|judge| judge.refused(call, &line)),
            Some(Some(other)) => panic!("no answer to a call: {other:?}"),
        };
        self.world.judge(|judge| judge.granted(call, &fences));
        let are_many = keys.len() > 1;
        for (key, mark) in keys.into_iter().zip(marks(&fences)) {
            // ACQUIREALL lets be what is tied already.
            let is_tied = self.mine.iter().any(|mine| mine.key == key && mine.mark == mark && mine.wish_at_end);
            self.mine.retain(|mine| mine.key != key);
            self.mine.push(Mine { key, mark, wish_at_end: is_ephemeral || (are_many && is_tied) });
        }
    }

    fn times(&mut self) -> (u64, u64) {
        let ttl_ms = match self.dice.u8(..10) {
            0..2 => self.dice.u64(50..400),
            2..4 => self.dice.u64(4000..9000),
            _ => self.dice.u64(400..4000),
        };
        let wait_ms = match self.dice.u8(..10) {
            0..2 => 0,
            2..4 => self.dice.u64(1..300),
            _ => self.dice.u64(300..8000),
        };
        (ttl_ms, wait_ms)
    }

    async fn acquires(&mut self) {
        let (key, owner, (ttl_ms, wait_ms)) = (self.key(), self.owner(), self.times());
        let plan = &self.world.plan;
        let ttl_ms = (self.dice.u8(..6) > 0).then_some(ttl_ms);
        let level = match self.dice.u8(..4) {
            0 | 1 => None,
            _ => Some(self.dice.u8(..4)),
        };
        let (lease_ms, meant) = (plan.lease_ms(&key, ttl_ms), level.unwrap_or(plan.level(&key)));
        let meta: &[u8] = if self.dice.u8(..4) == 0 { b"note\x1f?" } else { b"" };
        let bond: &[&[u8]] = match self.dice.u8(..8) {
            0 => &[b"KEEPALIVE"],
            1 => &[b"EPHEMERAL"],
            _ => &[],
        };
        let (ttl, wait) = (ttl_ms.unwrap_or(0).to_string(), wait_ms.to_string());
        let priority = meant.to_string();
        let mut words: Vec<&[u8]> = match level {
            Some(_) if self.dice.u8(..4) == 0 => vec![b"LOCK.PRIORITY", &key, &owner, priority.as_bytes()],
            Some(_) => vec![b"LOCK.ACQUIRE", &key, &owner, b"PRIORITY", priority.as_bytes()],
            None => vec![b"LOCK.ACQUIRE", &key, &owner],
        };
        if ttl_ms.is_some() {
            words.extend([&b"TTL"[..], ttl.as_bytes()]);
        }
        words.extend([&b"WAIT"[..], wait.as_bytes()]);
        if !meta.is_empty() {
            words.extend([&b"META"[..], meta]);
        }
        words.extend(bond);
        let mut asked = self.asked(vec![key.clone()], owner.clone(), meant, wait_ms);
        (asked.lease_ms, asked.meta) = (lease_ms, meta.to_vec());
        self.asks_for(asked, &words, bond == [b"EPHEMERAL"]).await;
    }

    fn asked(&self, keys: Vec<Vec<u8>>, owner: Vec<u8>, level: u8, wait_ms: u64) -> Asked {
        let wait_us = wait_ms * 1000;
        Asked { person: self.number, keys, owner, value: None, level, lease_ms: 0, meta: Vec::new(), wait_us }
    }

    async fn acquires_all(&mut self) {
        let (mut keys, owner, (ttl_ms, wait_ms)) = (self.world.plan.keys.clone(), self.owner(), self.times());
        self.dice.shuffle(&mut keys);
        keys.truncate(2);
        let (count, ttl, wait) = (keys.len().to_string(), ttl_ms.to_string(), wait_ms.to_string());
        let mut words: Vec<&[u8]> = vec![b"LOCK.ACQUIREALL", count.as_bytes()];
        words.extend(keys.iter().map(Vec::as_slice));
        words.extend([&owner[..], b"TTL", ttl.as_bytes(), b"WAIT", wait.as_bytes()]);
        let mut asked = self.asked(keys.clone(), owner.clone(), 1, wait_ms);
        // The strictest of the rules counts for all of them.
        let leases = keys.iter().map(|key| self.world.plan.lease_ms(key, Some(ttl_ms)));
        asked.lease_ms = leases.min().unwrap_or(ttl_ms);
        self.asks_for(asked, &words, false).await;
    }

    async fn sets(&mut self) {
        let key = self.key();
        let ttl_ms = self.dice.u64(100..3000);
        let (ttl, lease_ms) = (ttl_ms.to_string(), self.world.plan.plain_lease_ms(&key, ttl_ms));
        self.values += 1;
        let value = format!("p{}.{}.{}", self.number, self.connection, self.values).into_bytes();
        let words: [&[u8]; 6] = [b"SET", &key, &value, b"NX", b"PX", ttl.as_bytes()];
        let level = self.world.plan.level(&key);
        let mut asked = self.asked(vec![key.clone()], format!("p{}", self.number).into_bytes(), level, SET_NX_WAIT_MS);
        asked.lease_ms = lease_ms;
        asked.value = Some(value.clone());
        if self.world.plan.tickets || !key.starts_with(b"lock:") || self.mine.iter().any(|mine| mine.key == key) {
            // A poller's, no lock key by any rule, or his own: answered at once.
            asked.wait_us = 0;
        }
        self.asks_for(asked, &words, false).await;
    }

    async fn lets_go(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let mine = self.mine.swap_remove(self.dice.usize(..self.mine.len()));
        let (key, owner) = (&mine.key, mine.mark.owner().to_vec());
        let said = match &mine.mark {
            Mark::Fenced(_, fence) => {
                let is_exact = self.dice.bool();
                let named = is_exact.then_some(*fence);
                let wish = self.world.judge(|judge| judge.wishes(key, &owner, named));
                let sent_us = self.world.net.unix_us();
                self.world.past.borrow_mut().push(Past { key: key.clone(), owner: owner.clone(), fence: *fence });
                let fence_text = fence.to_string();
                let mut words: Vec<&[u8]> = vec![b"LOCK.RELEASE", key, &owner];
                if is_exact {
                    words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
                }
                let said = self.asks(&words).await;
                match &said {
                    Some(Said::Number(1)) => self.world.judge(|judge| judge.released(key, &owner, *fence)),
                    Some(Said::Number(_)) => self.world.judge(|judge| judge.told_to_hold_nothing(key, &owner, *fence)),
                    _ => {}
                }
                if let Some(Said::Number(said)) = &said {
                    self.world.judge(|judge| judge.is_released(key, (&owner, named), sent_us, *said));
                }
                said.map(|said| (said, wish))
            }
            Mark::Plain(value) => {
                if self.world.plan.bypasses && self.dice.u8(..3) == 0 {
                    return self.world.bypasses(&[b"EVAL", COMPARE_AND_DELETE, b"1", key, value]);
                }
                let wish = self.world.judge(|judge| judge.wishes(key, &owner, None));
                let said = self.asks(&[b"EVAL", COMPARE_AND_DELETE, b"1", key, value]).await;
                said.map(|said| (said, wish))
            }
            Mark::Claimed(_) => None,
        };
        // As long as it may stand, it ends with its connection at the latest.
        if mine.wish_at_end && !said.as_ref().is_some_and(|(said, _)| *said == Said::Number(1)) {
            self.world.judge(|judge| judge.wishes_by_leaving(&mine.key, &owner));
        }
        // Without an answer it may still be done.
        if let Some((said, wish)) = said
            && !matches!(said, Said::Error(_))
        {
            self.world.judge(|judge| judge.wish_is_over(wish, said == Said::Number(1)));
        }
    }

    async fn extends(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(owner, fence) = mark else { return };
        // Up and down, and beside renewals.
        let ttl_ms = if self.dice.bool() { self.dice.u64(200..3000) } else { self.dice.u64(3000..12_000) };
        let (ttl, lease_ms) = (ttl_ms.to_string(), self.world.plan.lease_ms(&key, Some(ttl_ms)));
        let (fence_text, named) = (fence.to_string(), self.dice.bool().then_some(fence));
        let mut words: Vec<&[u8]> = vec![b"LOCK.EXTEND", &key, &owner, ttl.as_bytes()];
        if named.is_some() {
            words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
        }
        let sent_us = self.world.net.unix_us();
        let Some(Said::Number(said)) = self.asks(&words).await else { return };
        self.world.judge(|judge| judge.extended(&key, (&owner, named), lease_ms, sent_us, said == 1));
        if said == 0 {
            self.world.judge(|judge| judge.told_to_hold_nothing(&key, &owner, fence));
            self.mine.retain(|mine| mine.key != key);
        }
    }

    /// Somebody who was asleep since then goes on with a hold that is over, his own or another's, under its fence: it changes nothing.
    async fn acts_on_the_past(&mut self) {
        let Some((key, owner, fence)) = ({
            let past = self.world.past.borrow();
            let at = self.dice.usize(..past.len().max(1));
            past.get(at).map(|past| (past.key.clone(), past.owner.clone(), past.fence))
        }) else {
            return;
        };
        let (fence_text, sent_us) = (fence.to_string(), self.world.net.unix_us());
        let fenced = [&b"FENCE"[..], fence_text.as_bytes()];
        match self.dice.u8(..3) {
            0 => {
                let words = [&[&b"LOCK.EXTEND"[..], &key, &owner, b"2000"], &fenced[..]].concat();
                if let Some(Said::Number(said)) = self.asks(&words).await {
                    let lease_ms = self.world.plan.lease_ms(&key, Some(2000));
                    self.world.judge(|judge| judge.extended(&key, (&owner, Some(fence)), lease_ms, sent_us, said == 1));
                }
            }
            1 => {
                let words = [&[&b"LOCK.TRANSFER"[..], &key, &owner, b"thief"], &fenced[..]].concat();
                let wish = self.world.judge(|judge| judge.wishes_of_the_past(&key, &owner, fence));
                let said = self.asks(&words).await;
                self.transferred(&key, (&owner, Some(fence)), b"thief", (None, sent_us), said, wish);
            }
            _ => {
                // It may still be under way to be released: then this is no more than that.
                let words = [&[&b"LOCK.RELEASE"[..], &key, &owner], &fenced[..]].concat();
                let wish = self.world.judge(|judge| judge.wishes_of_the_past(&key, &owner, fence));
                if let Some(Said::Number(said)) = self.asks(&words).await {
                    let by = (&owner[..], Some(fence));
                    self.world.judge(|judge| judge.is_released(&key, by, sent_us, said));
                    self.world.judge(|judge| judge.wish_is_over(wish, said == 1));
                }
            }
        }
    }

    /// Writes what its lock guards: what stands there afterwards names the lock and the fence.
    async fn writes(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(_, fence) = mark else { return };
        let (fence, data) = (fence.to_string(), [b"data:", &key[..]].concat());
        let said = self.asks(&[b"LOCK.GUARD", &key, fence.as_bytes(), b"SET", &data, fence.as_bytes()]).await;
        match said {
            Some(Said::Word(_)) | None => {}
            Some(Said::Error(line)) if line.starts_with("FENCED") => {
                self.world.judge(|judge| judge.is_fenced_off(&key, &mark));
                self.mine.retain(|mine| mine.key != key);
            }
            Some(Said::Error(line)) if line.starts_with("UNAVAILABLE") => {}
            Some(other) => panic!("no answer to GUARD: {other:?}"),
        }
    }

    async fn transfers(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(from, _) = mark else { return };
        let to = format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes();
        if self.mine[at].wish_at_end || from == to {
            return;
        }
        let wish = self.world.judge(|judge| judge.wishes(&key, &from, None));
        let sent_us = self.world.net.unix_us();
        let lease_ms = self.world.plan.lease_ms(&key, Some(1500));
        let said = self.asks(&[b"LOCK.TRANSFER", &key, &from, &to, b"TTL", b"1500"]).await;
        if matches!(said, Some(Said::Number(_))) {
            self.mine.retain(|mine| mine.key != key);
        }
        self.transferred(&key, (&from, None), &to, (Some(lease_ms), sent_us), said, wish);
    }

    /// TRANSFER was answered, or never will be: then it may have been done, or may still be.
    fn transferred(
        &self,
        key: &[u8],
        (from, fence): (&[u8], Option<u64>),
        to: &[u8],
        (lease_ms, sent_us): (Option<u64>, u64),
        said: Option<Said>,
        wish: u64,
    ) {
        match said {
            Some(Said::Number(given)) => {
                let mark = Mark::Fenced(to.to_vec(), given as u64);
                self.world.judge(|judge| judge.is_transferred(key, (from, fence), (&mark, lease_ms), sent_us));
                self.world.judge(|judge| judge.wish_is_over(wish, true));
            }
            Some(Said::Nil) => {
                self.world.judge(|judge| judge.is_not_transferred(key, (from, fence), sent_us));
                self.world.judge(|judge| judge.wish_is_over(wish, false));
            }
            _ => self.world.judge(|judge| judge.knows_nothing_of(key, to)),
        }
    }

    async fn forces(&mut self) {
        let key = self.key();
        if self.world.plan.bypasses && self.dice.bool() {
            return self.world.bypasses(&[b"DEL", &key]);
        }
        let wish = self.world.judge(|judge| judge.wishes(&key, b"", None));
        if let Some(Said::Number(number)) = self.asks(&[b"LOCK.FORCE", &key]).await {
            self.world.judge(|judge| judge.wish_is_over(wish, number == 1));
        }
    }

    /// Cancels or promotes somebody's call.
    async fn meddles_with_waiters(&mut self) {
        let (key, owner) = (self.key(), format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes());
        let sent_us = self.world.net.unix_us();
        if self.dice.u8(..3) == 0 {
            let which = self.world.judge(|judge| judge.meddles(&key, &owner, None));
            let said = self.asks(&[b"LOCK.CANCEL", &key, &owner]).await;
            if said.is_some() {
                self.world.judge(|judge| judge.meddled(which));
            }
            if said == Some(Said::Number(0)) {
                self.world.judge(|judge| judge.is_placed(&key, &owner, sent_us, (None, false)));
            }
            return;
        }
        let level = self.dice.u8(..4);
        let which = self.world.judge(|judge| judge.meddles(&key, &owner, Some(level)));
        let said = self.asks(&[b"LOCK.PROMOTE", &key, &owner, level.to_string().as_bytes()]).await;
        if said.is_some() {
            self.world.judge(|judge| judge.meddled(which));
        }
        self.placed(&key, &owner, sent_us, said, false);
    }

    fn placed(&mut self, key: &[u8], owner: &[u8], sent_us: u64, said: Option<Said>, may_hold: bool) {
        let place = match said {
            Some(Said::Number(place)) => Some(place),
            Some(Said::Nil) => None,
            _ => return,
        };
        self.world.judge(|judge| judge.is_placed(key, owner, sent_us, (place, may_hold)));
    }

    async fn looks(&mut self) {
        let (key, owner, sent_us) = (self.key(), self.somebody(), self.world.net.unix_us());
        let words: &[&[u8]] = match self.dice.u8(..8) {
            0 | 1 => {
                if let Some(Said::List(said)) = self.asks(&[b"LOCK.INFO", &key]).await {
                    self.world.judge(|judge| judge.is_informed(&key, sent_us, &said));
                }
                return;
            }
            2 | 3 => {
                let said = self.asks(&[b"LOCK.POSITION", &key, &owner]).await;
                return self.placed(&key, &owner, sent_us, said, true);
            }
            4 => &[b"LOCK.QUEUE", &key],
            5 => &[b"LOCK.GRAPH"],
            6 => &[b"LOCK.LIST", b"0"],
            _ => &[b"LOCK.STATS"],
        };
        self.asks(words).await;
    }

    fn somebody(&mut self) -> Vec<u8> {
        match self.world.plan.owners {
            0 => format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes(),
            _ => self.owner(),
        }
    }
}
