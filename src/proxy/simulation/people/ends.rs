//! How people let go of locks, give them away, lengthen them, and go on with what was theirs.

use super::{Client, Mine, Past};
use crate::proxy::simulation::client::Said;
use crate::proxy::simulation::judge::Mark;

/// Deletes a key if it still holds what the client wrote.
const COMPARE_AND_DELETE: &[u8] =
    b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
/// What somebody keeps under the name of a lock.
const DATA: &[u8] = b"data";

impl Client {
    pub(super) async fn lets_go(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let mine = self.mine.swap_remove(self.dice.usize(..self.mine.len()));
        let owner = mine.mark.owner().to_vec();
        let said = match &mine.mark {
            Mark::Fenced(_, fence) => self.releases(&mine.key, &owner, *fence).await,
            Mark::Plain(value) => {
                let words: [&[u8]; 5] = [b"EVAL", COMPARE_AND_DELETE, b"1", &mine.key, value];
                if self.world.plan.bypasses && self.dice.u8(..3) == 0 {
                    return self.world.bypasses(&words);
                }
                let wish = self.world.judge(|judge| judge.wishes(&mine.key, &owner, None));
                let said = self.asks(&words).await;
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

    async fn releases(&mut self, key: &[u8], owner: &[u8], fence: u64) -> Option<(Said, u64)> {
        let is_exact = self.dice.bool();
        let named = is_exact.then_some(fence);
        let wish = self.world.judge(|judge| judge.wishes(key, owner, named));
        let sent_us = self.world.net.unix_us();
        self.is_past(key, owner, fence);
        let fence_text = fence.to_string();
        let mut words: Vec<&[u8]> = vec![b"LOCK.RELEASE", key, owner];
        if is_exact {
            words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
        }
        let said = self.asks_about(key, owner, &words).await;
        match &said {
            Some(Said::Number(1)) => self.world.judge(|judge| judge.released(key, owner, fence)),
            Some(Said::Number(_)) => self.world.judge(|judge| judge.told_to_hold_nothing(key, owner, fence)),
            _ => {}
        }
        if let Some(Said::Number(said)) = &said {
            self.world.judge(|judge| judge.is_released(key, (owner, named), sent_us, *said));
        }
        said.map(|said| (said, wish))
    }

    fn is_past(&self, key: &[u8], owner: &[u8], fence: u64) {
        self.world.past.borrow_mut().push(Past { key: key.to_vec(), owner: owner.to_vec(), fence });
    }

    /// RELEASEALL, of keys that he holds and others.
    pub(super) async fn releases_all_of_his(&mut self) {
        if let Mark::Fenced(owner, _) = self.mine[self.dice.usize(..self.mine.len())].mark.clone() {
            self.releases_all(owner, None).await;
        }
    }

    /// RELEASEALL, `meant` among the keys where one is. Some leave in the middle.
    pub(super) async fn releases_all(&mut self, owner: Vec<u8>, meant: Option<&[u8]>) {
        let mut keys = self.world.plan.keys.clone();
        self.dice.shuffle(&mut keys);
        if let Some(at) = keys.iter().position(|key| Some(&key[..]) == meant) {
            keys.swap(0, at);
        }
        keys.truncate(self.dice.usize(1..=keys.len()));
        let ends = |mine: &Mine| keys.contains(&mine.key) && matches!(&mine.mark, Mark::Fenced(of, _) if *of == owner);
        let (ended, kept): (Vec<Mine>, Vec<Mine>) = std::mem::take(&mut self.mine).into_iter().partition(ends);
        self.mine = kept;
        let wish = |key: &Vec<u8>| self.world.judge(|judge| judge.wishes(key, &owner, None));
        let wishes: Vec<u64> = keys.iter().map(wish).collect();
        let fenced = |mine: &Mine| match mine.mark {
            Mark::Fenced(_, fence) => Some((mine.key.clone(), fence)),
            _ => None,
        };
        let had: Vec<(Vec<u8>, u64)> = ended.iter().filter_map(fenced).collect();
        for (key, fence) in &had {
            self.is_past(key, &owner, *fence);
        }
        let (sent_us, count) = (self.world.net.unix_us(), keys.len().to_string());
        let mut words: Vec<&[u8]> = vec![b"LOCK.RELEASEALL", count.as_bytes()];
        words.extend(keys.iter().map(Vec::as_slice));
        words.push(&owner);
        let question = self.question(&words, &keys, &owner);
        let patience_ms = if self.dice.u8(..6) == 0 { self.dice.u64(..50) } else { 60_000 };
        let patience = std::time::Duration::from_millis(patience_ms);
        let said = match &mut self.wire {
            Some(wire) => tokio::time::timeout(patience, wire.ask(&words)).await.ok().flatten(),
            None => None,
        };
        self.world.saw(&question, said.as_ref());
        match said {
            None => self.hangs_up(),
            Some(Said::Number(released)) => {
                self.world.judge(|judge| judge.are_released(&keys, &owner, sent_us, released));
                for (key, fence) in &had {
                    self.world.judge(|judge| judge.released(key, &owner, *fence));
                }
                for wish in wishes {
                    self.world.judge(|judge| judge.wish_is_over(wish, true));
                }
            }
            Some(_) => {}
        }
        // As long as one may stand that is tied, it ends with the connection at the latest.
        for mine in ended.iter().filter(|mine| mine.wish_at_end) {
            self.world.judge(|judge| judge.wishes_by_leaving(&mine.key, &owner));
        }
    }

    pub(super) async fn extends(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(owner, fence) = mark else { return };
        // Up and down, and beside renewals.
        let ttl_ms = if self.dice.bool() { self.dice.u64(200..3000) } else { self.dice.u64(3000..12_000) };
        let (ttl, lease_ms) = (ttl_ms.to_string(), self.world.plan.lease_ms(&key, self.number, Some(ttl_ms)));
        let (fence_text, named) = (fence.to_string(), self.dice.bool().then_some(fence));
        let mut words: Vec<&[u8]> = vec![b"LOCK.EXTEND", &key, &owner, ttl.as_bytes()];
        if named.is_some() {
            words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
        }
        let sent_us = self.world.net.unix_us();
        let Some(Said::Number(said)) = self.asks_about(&key, &owner, &words).await else { return };
        self.world.judge(|judge| judge.extended(&key, (&owner, named), lease_ms, sent_us, said == 1));
        if said == 0 {
            self.world.judge(|judge| judge.told_to_hold_nothing(&key, &owner, fence));
            self.mine.retain(|mine| mine.key != key);
        }
    }

    /// Somebody who was asleep since then goes on with a hold that is over, his own or another's, under its fence: it changes nothing.
    pub(super) async fn acts_on_the_past(&mut self) {
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
                if let Some(Said::Number(said)) = self.asks_about(&key, &owner, &words).await {
                    let lease_ms = self.world.plan.lease_ms(&key, self.number, Some(2000));
                    self.world.judge(|judge| judge.extended(&key, (&owner, Some(fence)), lease_ms, sent_us, said == 1));
                }
            }
            1 => {
                let words = [&[&b"LOCK.TRANSFER"[..], &key, &owner, b"thief"], &fenced[..]].concat();
                let wish = self.world.judge(|judge| judge.wishes_of_the_past(&key, &owner, fence));
                let said = self.asks_about(&key, &owner, &words).await;
                self.transferred(&key, (&owner, Some(fence)), b"thief", (None, sent_us), said, wish);
            }
            _ => {
                // It may still be under way to be released: then this is no more than that.
                let words = [&[&b"LOCK.RELEASE"[..], &key, &owner], &fenced[..]].concat();
                let wish = self.world.judge(|judge| judge.wishes_of_the_past(&key, &owner, fence));
                if let Some(Said::Number(said)) = self.asks_about(&key, &owner, &words).await {
                    let by = (&owner[..], Some(fence));
                    self.world.judge(|judge| judge.is_released(&key, by, sent_us, said));
                    self.world.judge(|judge| judge.wish_is_over(wish, said == 1));
                }
            }
        }
    }

    /// Writes what its lock guards: what stands there afterwards names the lock and the fence.
    pub(super) async fn writes(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(owner, fence) = &mark else { return };
        let (fence, data) = (fence.to_string(), [b"data:", &key[..]].concat());
        let words: [&[u8]; 6] = [b"LOCK.GUARD", &key, fence.as_bytes(), b"SET", &data, fence.as_bytes()];
        let sent_us = self.world.net.unix_us();
        match self.asks_about(&key, owner, &words).await {
            Some(Said::Word(_)) | None => {}
            // Somebody may have put data in its place.
            Some(Said::Error(line)) if line.starts_with("FENCED") || line.contains("is not a lock") => {
                self.world.judge(|judge| judge.is_fenced_off(&key, &mark, sent_us));
                self.mine.retain(|mine| mine.key != key);
            }
            Some(Said::Error(line)) if line.starts_with("UNAVAILABLE") => {}
            Some(other) => panic!("no answer to GUARD: {other:?}"),
        }
    }

    pub(super) async fn transfers(&mut self) {
        let at = self.dice.usize(..self.mine.len());
        let (key, mark) = (self.mine[at].key.clone(), self.mine[at].mark.clone());
        let Mark::Fenced(from, _) = mark else { return };
        let to = format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes();
        if self.mine[at].wish_at_end || from == to {
            return;
        }
        let wish = self.world.judge(|judge| judge.wishes(&key, &from, None));
        let sent_us = self.world.net.unix_us();
        let lease_ms = self.world.plan.lease_ms(&key, self.number, Some(1500));
        let words: [&[u8]; 6] = [b"LOCK.TRANSFER", &key, &from, &to, b"TTL", b"1500"];
        let said = self.asks_about(&key, &from, &words).await;
        if matches!(said, Some(Said::Number(_))) {
            self.mine.retain(|mine| mine.key != key);
        }
        self.transferred(&key, (&from, None), &to, (Some(lease_ms), sent_us), said, wish);
    }

    /// TRANSFER was answered, or never will be: then it may have been done, or may still be.
    pub(super) fn transferred(
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

    pub(super) async fn forces(&mut self, key: Vec<u8>) {
        self.world.judge(|judge| judge.is_rough_with(&key));
        if self.world.plan.bypasses && self.dice.bool() {
            return self.world.bypasses(&[b"DEL", &key]);
        }
        let wish = self.world.judge(|judge| judge.wishes(&key, b"", None));
        if let Some(Said::Number(number)) = self.asks_about(&key, b"", &[b"LOCK.FORCE", &key]).await {
            self.world.judge(|judge| judge.is_rough_with(&key));
            self.world.judge(|judge| judge.wish_is_over(wish, number == 1));
        }
    }

    /// Somebody who knows nothing of locks has something under that name, for a while.
    pub(super) async fn keeps_data(&mut self) {
        let key: &[u8] = b"c";
        self.world.bypasses(&[b"SET", key, DATA, b"NX"]);
        let ms = self.dice.u64(..1500);
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        self.world.bypasses(&[b"EVAL", COMPARE_AND_DELETE, b"1", key, DATA]);
    }
}
