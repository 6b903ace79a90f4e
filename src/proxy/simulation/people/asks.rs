//! How people ask for locks.

use std::time::Duration;

use super::{Client, Mine};
use crate::proxy::simulation::client::Said;
use crate::proxy::simulation::judge::{Asked, Lease, Mark};

/// Somebody who counts on an absolute time gives himself so much at most, in ms.
const ABSOLUTE_MAX_MS: u64 = 4000;
/// Some come with one that is over by so much, in ms.
const OVER_MAX_MS: u64 = 400;
/// How often a poller tries.
const POLLS_MAX: u8 = 8;

impl Client {
    /// Asks for locks; loses patience now and then. Returns whether it may ask again on this connection.
    async fn asks_for(&mut self, asked: Asked, words: &[&[u8]], is_ephemeral: bool) {
        let (keys, owner, value) = (asked.keys.clone(), asked.owner.clone(), asked.value.clone());
        let question = self.question(words, &keys, if value.is_some() { b"" } else { &owner });
        let call = self.world.judge(|judge| judge.asks(asked));
        let said = self.hears_or_leaves(words).await;
        self.world.saw(&question, said.as_ref().and_then(Option::as_ref));
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
                self.polled = None;
                return;
            }
            Some(Some(Said::Number(fence))) if fence > 0 && value.is_none() => vec![fence as u64],
            Some(Some(Said::Word(word))) if word == b"OK" => vec![0],
            // What SETNX says.
            Some(Some(Said::Number(1))) => vec![0],
            Some(Some(Said::Number(0))) => return self.world.judge(|judge| judge.refused(call, "nil")),
            Some(Some(Said::List(fences))) => fences.into_iter().map(fence_of).collect(),
            Some(Some(Said::Nil)) => return self.world.judge(|judge| judge.refused(call, "nil")),
            Some(Some(Said::Error(line))) => return self.world.judge(|judge| judge.refused(call, &line)),
            Some(Some(other)) => panic!("no answer to a call: {other:?}"),
        };
        self.world.judge(|judge| judge.granted(call, &fences));
        self.polled = None;
        let are_many = keys.len() > 1;
        for (key, fence) in keys.into_iter().zip(fences) {
            let mark = value.clone().map_or_else(|| Mark::Fenced(owner.clone(), fence), Mark::Plain);
            // ACQUIREALL lets be what is tied already.
            let is_tied = self.mine.iter().any(|mine| mine.key == key && mine.mark == mark && mine.wish_at_end);
            self.mine.retain(|mine| mine.key != key);
            self.mine.push(Mine { key, mark, wish_at_end: is_ephemeral || (are_many && is_tied) });
        }
    }

    /// Some leave after a while, some in the very moment in which they are given the lock and cannot know it yet: `None`.
    async fn hears_or_leaves(&mut self, words: &[&[u8]]) -> Option<Option<Said>> {
        let (patience_ms, leaves_when_given) = match self.dice.u8(..12) {
            0 => (self.dice.u64(..1500), false),
            1 => (60_000, true),
            _ => (60_000, false),
        };
        let world = self.world.clone();
        let is_given = world.bells[self.number].notified();
        let Some(wire) = &mut self.wire else { return Some(None) };
        tokio::select! {
            biased;
            said = wire.ask(words) => Some(said),
            () = is_given, if leaves_when_given => None,
            () = tokio::time::sleep(Duration::from_millis(patience_ms)) => None,
        }
    }

    fn times(&mut self) -> (u64, u64) {
        let ttl_ms = match self.dice.u8(..10) {
            0..2 => self.dice.u64(50..400),
            2..4 => self.dice.u64(4000..9000),
            _ => self.dice.u64(400..4000),
        };
        let wait_ms = match self.dice.u8(..20) {
            0..4 => 0,
            4..8 => self.dice.u64(1..300),
            8 => self.dice.u64(8000..25_000),
            _ => self.dice.u64(300..8000),
        };
        (ttl_ms, wait_ms)
    }

    pub(super) async fn acquires(&mut self, key: Vec<u8>, owner: Vec<u8>) {
        let (ttl_ms, wait_ms) = self.times();
        let plan = &self.world.plan;
        let ttl_ms = (self.dice.u8(..6) > 0).then_some(ttl_ms);
        let level = match self.dice.u8(..4) {
            0 | 1 => None,
            _ => Some(self.dice.u8(..4)),
        };
        let lease_ms = plan.lease_ms(&key, self.number, ttl_ms);
        let meant = level.unwrap_or(plan.level(&key, self.number));
        let meta: &[u8] = if self.dice.u8(..4) == 0 { b"note\x1f?" } else { b"" };
        let bond: &[&[u8]] = match self.dice.u8(..8) {
            0 | 1 => &[b"KEEPALIVE"],
            2 => &[b"EPHEMERAL"],
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
        (asked.leases, asked.meta) = (vec![Lease::Ms(lease_ms)], meta.to_vec());
        self.asks_for(asked, &words, bond == [b"EPHEMERAL"]).await;
    }

    fn asked(&self, keys: Vec<Vec<u8>>, owner: Vec<u8>, level: u8, wait_ms: u64) -> Asked {
        Asked {
            person: self.number,
            connection: self.connection,
            keys,
            owner,
            value: None,
            level,
            leases: Vec::new(),
            meta: Vec::new(),
            wait_us: wait_ms * 1000,
            ticket_us: 0,
            over_ms: None,
        }
    }

    /// Two or three keys, `meant` among them where one is.
    pub(super) async fn acquires_all(&mut self, owner: Vec<u8>, meant: Option<&[u8]>) {
        let (mut keys, (ttl_ms, wait_ms)) = (self.world.plan.keys.clone(), self.times());
        self.dice.shuffle(&mut keys);
        if let Some(at) = keys.iter().position(|key| Some(&key[..]) == meant) {
            keys.swap(0, at);
        }
        keys.truncate(self.dice.usize(2..4));
        self.dice.shuffle(&mut keys);
        let (count, ttl, wait) = (keys.len().to_string(), ttl_ms.to_string(), wait_ms.to_string());
        let mut words: Vec<&[u8]> = vec![b"LOCK.ACQUIREALL", count.as_bytes()];
        words.extend(keys.iter().map(Vec::as_slice));
        words.extend([&owner[..], b"TTL", ttl.as_bytes(), b"WAIT", wait.as_bytes()]);
        let mut asked = self.asked(keys.clone(), owner.clone(), 1, wait_ms);
        // The strictest of the rules counts for all of them.
        let leases = keys.iter().map(|key| self.world.plan.lease_ms(key, self.number, Some(ttl_ms)));
        asked.leases = vec![Lease::Ms(leases.min().unwrap_or(ttl_ms))];
        self.asks_for(asked, &words, false).await;
    }

    /// SET NX in all its forms; a poller tries a few times.
    pub(super) async fn sets(&mut self) {
        let key = self.key();
        let is_polled = self.world.plan.ticket_ms(&key, self.number) > 0;
        for _ in 0..if is_polled { self.dice.u8(1..=POLLS_MAX) } else { 1 } {
            self.sets_once(key.clone()).await;
            if self.polled.is_none() || self.wire.is_none() || self.world.is_over() {
                break;
            }
            let pause_ms = self.dice.u64(20..300);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    pub(super) async fn sets_once(&mut self, key: Vec<u8>) {
        let plan = &self.world.plan;
        let (takes, ticket_ms) = (plan.takes(&key, self.number), plan.ticket_ms(&key, self.number));
        let (max_ms, default_ms) = plan.plain_lease_ms(&key, self.number);
        let (level, wait_ms) = (plan.level(&key, self.number), plan.plain_wait_ms(&key, self.number));
        let (option, time, lease) = self.expiry(takes, default_ms);
        let value = match self.polled.take().filter(|(polled, _)| *polled == key) {
            Some((_, value)) => value,
            None => {
                self.values += 1;
                format!("p{}.{}.{}", self.number, self.connection, self.values).into_bytes()
            }
        };
        let time = time.to_string();
        let words: Vec<&[u8]> = match option {
            "" => vec![b"SETNX", &key, &value],
            _ => vec![b"SET", &key, &value, b"NX", option.as_bytes(), time.as_bytes()],
        };
        let mut asked = self.asked(vec![key.clone()], format!("p{}", self.number).into_bytes(), level, wait_ms);
        asked.leases = match (lease, max_ms) {
            (Lease::Ms(ms), Some(max_ms)) => vec![Lease::Ms(ms.min(max_ms))],
            // Cut where it is far, by the clock of the node.
            (Lease::UntilMs(_), Some(max_ms)) => vec![lease, Lease::Ms(max_ms)],
            _ => vec![lease],
        };
        if let Lease::UntilMs(until_ms) = lease {
            asked.over_ms = Some(until_ms);
        }
        (asked.value, asked.ticket_us) = (Some(value.clone()), ticket_ms * 1000);
        if self.mine.iter().any(|mine| mine.key == key) {
            // His own: answered at once.
            asked.wait_us = 0;
        }
        if ticket_ms > 0 {
            self.polled = Some((key.clone(), value.clone()));
        }
        self.asks_for(asked, &words, false).await;
    }

    /// The option, its time, and the lease that it asks for. What passes untouched and has no expiry would stay for ever, and what is
    /// over by then would be removed.
    fn expiry(&mut self, takes: bool, default_ms: Option<u64>) -> (&'static str, u64, Lease) {
        let now_ms = self.world.net.unix_us() / 1000;
        let ms = self.dice.u64(100..3000);
        match self.dice.u8(..16) {
            0 | 1 => {
                let secs = self.dice.u64(1..4);
                ("EX", secs, Lease::Ms(secs * 1000))
            }
            2..4 if takes => {
                let until_ms = now_ms + self.dice.u64(..ABSOLUTE_MAX_MS) - self.dice.u64(..OVER_MAX_MS);
                ("PXAT", until_ms, Lease::UntilMs(until_ms))
            }
            4 if takes => {
                let until = now_ms / 1000 + self.dice.u64(..ABSOLUTE_MAX_MS / 1000);
                ("EXAT", until, Lease::UntilMs(until * 1000))
            }
            5..9 if default_ms.is_some() => ("", 0, Lease::Ms(default_ms.unwrap_or(ms))),
            _ => ("PX", ms, Lease::Ms(ms)),
        }
    }
}

fn fence_of(said: Said) -> u64 {
    match said {
        Said::Number(fence) => fence as u64,
        other => panic!("a fence was expected, not {other:?}"),
    }
}
