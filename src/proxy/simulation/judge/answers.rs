//! What is answered, against what stood upstream at some moment between the question and its answer.

use super::mark::{Held, Mark};
use super::{Asked, CALMS_DOWN_US, Call, Judge, Key};
use crate::proxy::simulation::client::Said;
use crate::store::value::Fields;

/// Whoever was refused or has left is known to wait, or to wait no more, after this, in calm times, in µs.
const SETTLES_US: u64 = 700_000;
/// An answer is no earlier than its time, but for what clocks make of it, in µs.
const CLOCKS_US: u64 = 20_000;
/// Whose call is over may still have a place for so long, in µs.
const PLACE_KEPT_US: u64 = 6_000_000;

impl Judge {
    /// All that `key` held since that moment. What happened in its very microsecond may have come before or after.
    fn story(&self, key: &[u8], from_us: u64) -> Vec<Held> {
        let story = self.locks.get(key).map_or(&[][..], |lock| &lock.story);
        let begins = story.iter().rposition(|held| held.since_us < from_us);
        let free = Held { since_us: 0, value: None, until_ms: None };
        match begins {
            Some(at) => story[at..].to_vec(),
            None => std::iter::once(free).chain(story.iter().cloned()).collect(),
        }
    }

    fn at_some_moment(&self, key: &[u8], from_us: u64, is_so: impl Fn(&Held) -> bool) -> bool {
        self.story(key, from_us).iter().any(is_so)
    }

    /// Calls of this owner on these keys may end by what is asked now.
    pub(super) fn may_end(&mut self, keys: &[Key], owner: &[u8]) {
        let is_meant = |asked: &Asked| asked.owner == owner && asked.keys.iter().any(|key| keys.contains(key));
        self.calls.values_mut().filter(|call| is_meant(&call.asked)).for_each(|call| call.may_end = true);
    }

    /// A grant is told: it was written with the lease, level and meta that were asked for.
    pub(super) fn is_written_as_asked(&self, call: &Call, fences: &[u64]) {
        let Call { asked, since_us, levels: (lowest, highest), .. } = call;
        let since_us = *since_us;
        // What the owner's older call was being given is told to the newer one as it was written.
        let is_older = |((keys, owner), _): (&(Vec<Key>, Vec<u8>), _)| {
            *owner == asked.owner && keys.iter().any(|key| asked.keys.contains(key))
        };
        if !self.owners_differ || self.ended.iter().any(is_older) {
            return;
        }
        for (key, fence) in asked.keys.iter().zip(fences) {
            let mark = match &asked.value {
                Some(value) => Mark::Plain(value.clone()),
                None => Mark::Fenced(asked.owner.clone(), *fence),
            };
            let is_single = asked.keys.len() == 1 && asked.value.is_none();
            let fits = |held: &Held| {
                let Some((of, is_claim)) = held.value.as_deref().map(Mark::of) else { return false };
                let is_level = |level: u8| (*lowest..=*highest).contains(&level);
                let tells = |level: u8, meta: &[u8]| !is_single || (is_level(level) && *meta == asked.meta);
                let as_asked = held.fields().is_none_or(|fields| tells(fields.level.number(), fields.meta));
                of == mark && !is_claim && held.lease_ms() == Some(asked.lease_ms) && as_asked
            };
            if !self.at_some_moment(key, since_us, fits) {
                let level = asked.level;
                let story = self.story(key, since_us);
                self.wrong(format!(
                    "{mark} is told of {}, and it was never written with a lease of {} ms at level {level}: {story:?}",
                    key.escape_ascii(),
                    asked.lease_ms
                ));
            }
        }
    }

    /// A call ends without a lock: its time was over, somebody was in its way, or something ended it.
    pub(super) fn is_due(&self, asked: &Asked, since_us: u64, how: &str, may_end: bool) {
        if self.had_trouble_since(since_us) || !self.owners_differ || may_end {
            return;
        }
        let code = how.split(' ').next().unwrap_or_default();
        let is_full = || asked.keys.iter().any(|key| self.narrow.contains(key));
        match code {
            "nil" if asked.wait_us > 0 => {
                if self.now_us + CLOCKS_US < since_us + asked.wait_us {
                    self.wrong(format!("person {} is answered nil before its time", asked.person));
                }
            }
            "nil" => {
                let (keys, owner) = (&asked.keys, &asked.owner);
                let is_in_the_way =
                    |held: &Held| held.value.is_some() && (asked.value.is_some() || !held.is_held_by(owner, None));
                let was_wanted = |key: &Key| {
                    let is_of_key = |of: &[Key]| of.contains(key);
                    self.calls.values().any(|call| is_of_key(&call.asked.keys))
                        || self.ended.iter().any(|((of, _), all)| {
                            is_of_key(of) && all.iter().any(|ended| ended.at_us + PLACE_KEPT_US > since_us)
                        })
                };
                if !keys.iter().any(|key| self.at_some_moment(key, since_us, is_in_the_way) || was_wanted(key)) {
                    self.wrong(format!("person {} is answered nil, and nothing was in its way", asked.person));
                }
            }
            "DEADLOCK" => {}
            "QUEUEFULL" if is_full() => {}
            _ => self.wrong(format!("person {} is answered an error out of nowhere: {how}", asked.person)),
        }
    }

    /// EXTEND was answered.
    pub fn extended(
        &mut self,
        key: &[u8],
        (owner, fence): (&[u8], Option<u64>),
        lease_ms: u64,
        sent_us: u64,
        is_so: bool,
    ) {
        self.counts.extensions += u64::from(is_so);
        let holds = |held: &Held| held.is_held_by(owner, fence);
        let has_lease = |held: &Held| holds(held) && held.lease_ms() == Some(lease_ms);
        let (who, key_name) = (owner.escape_ascii(), key.escape_ascii());
        match is_so {
            true if !self.at_some_moment(key, sent_us, has_lease) => {
                self.wrong(format!("{who} was told that {key_name} is extended to {lease_ms} ms, and it never was"));
            }
            false if !self.at_some_moment(key, sent_us, |held| !holds(held)) => {
                self.wrong(format!("{who} holds {key_name} ({fence:?}), and could not extend it"));
            }
            _ => {}
        }
    }

    /// RELEASE was answered.
    pub fn is_released(&mut self, key: &[u8], (owner, fence): (&[u8], Option<u64>), sent_us: u64, said: i64) {
        self.counts.releases += u64::from(said == 1);
        let had = |held: &Held| {
            held.fields()
                .is_some_and(|fields| fields.owner == owner && fence.is_none_or(|fence| fence == fields.fence.0))
        };
        let is_true = match said {
            // A claim of its owner ends as well.
            1 => self.at_some_moment(key, sent_us, had),
            0 => self.at_some_moment(key, sent_us, |held| held.value.is_some() && !had(held)),
            _ => self.at_some_moment(key, sent_us, |held| held.value.is_none()),
        };
        if !is_true {
            let story = self.story(key, sent_us);
            self.wrong(format!(
                "RELEASE of {} by {} ({fence:?}) is answered {said}: {story:?}",
                key.escape_ascii(),
                owner.escape_ascii()
            ));
        }
    }

    /// TRANSFER was answered with a fence: its giver held the lock, and `mark` has it with that lease.
    pub fn is_transferred(
        &mut self,
        key: &[u8],
        (owner, fence): (&[u8], Option<u64>),
        (mark, lease_ms): (&Mark, Option<u64>),
        sent_us: u64,
    ) {
        let fits = |held: &Held| {
            let of = held.value.as_deref().map(Mark::of);
            of == Some((mark.clone(), false)) && lease_ms.is_none_or(|lease_ms| held.lease_ms() == Some(lease_ms))
        };
        let had = |held: &Held| held.is_held_by(owner, fence);
        if !self.at_some_moment(key, sent_us, had) || !self.at_some_moment(key, sent_us, fits) {
            let (story, who) = (self.story(key, sent_us), owner.escape_ascii());
            self.wrong(format!("{mark} is given {} by {who} ({fence:?}): {story:?}", key.escape_ascii()));
        }
        self.is_told(key, mark);
    }

    /// TRANSFER was answered nil: its giver was not the holder, or not under that fence.
    pub fn is_not_transferred(&self, key: &[u8], (owner, fence): (&[u8], Option<u64>), sent_us: u64) {
        if !self.at_some_moment(key, sent_us, |held| !held.is_held_by(owner, fence)) {
            let (who, key) = (owner.escape_ascii(), key.escape_ascii());
            self.wrong(format!("{who} holds {key} ({fence:?}), and could not transfer it"));
        }
    }

    /// INFO was answered: a list of names and values.
    pub fn is_informed(&mut self, key: &[u8], sent_us: u64, said: &[Said]) {
        self.counts.looks += 1;
        let told = |name: &str| {
            let mut pairs = said.chunks(2);
            pairs.find(|pair| pair[0] == Said::Word(name.into())).map_or(&Said::Nil, |pair| &pair[1])
        };
        let word = |bytes: &[u8]| Said::Word(bytes.to_vec());
        let fits = |held: &Held| {
            // A claim is nobody's hold yet.
            let value = held.value.as_deref().filter(|_| !held.is_claim());
            let fields = value.and_then(Fields::read);
            let number = |number: u64| Said::Number(number as i64);
            let owner = fields.as_ref().map(|fields| fields.owner).or(value);
            let ttl_fits = match (told("ttl"), held.until_ms) {
                (Said::Nil, _) => value.is_none(),
                (_, _) if value.is_none() => false,
                (Said::Number(-1), until) => until.is_none(),
                (Said::Number(ttl), Some(until)) => {
                    let most = until.saturating_sub(sent_us.max(held.since_us) / 1000);
                    let least = until.saturating_sub(self.now_us / 1000 + 1);
                    (least..=most).contains(&u64::try_from(*ttl).unwrap_or(u64::MAX))
                }
                _ => false,
            };
            let of_fields = fields.as_ref().map_or([Said::Nil, Said::Nil, Said::Nil, Said::Nil, Said::Nil], |fields| {
                [
                    number(fields.fence.0),
                    word(fields.level.name().as_ref()),
                    number(fields.acquired_at_ms),
                    word(fields.meta),
                    word(fields.node),
                ]
            });
            let names = ["fence", "priority", "acquired_at", "meta", "node"];
            *told("held") == Said::Number(i64::from(value.is_some()))
                && *told("owner") == owner.map_or(Said::Nil, word)
                && ttl_fits
                && names.into_iter().zip(of_fields).all(|(name, expected)| *told(name) == expected)
        };
        if !self.at_some_moment(key, sent_us, fits) {
            let story = self.story(key, sent_us);
            self.wrong(format!("INFO of {} never was so: {said:?}, but {story:?}", key.escape_ascii()));
        }
    }

    /// POSITION or PROMOTE was answered with a place, 0 for the holder, or nil.
    pub fn is_placed(&mut self, key: &[u8], owner: &[u8], sent_us: u64, (place, may_hold): (Option<i64>, bool)) {
        self.counts.looks += 1;
        let (who, key_name) = (owner.escape_ascii(), key.escape_ascii());
        let waited = || {
            let is_his = |asked: &Asked| asked.owner == owner && asked.keys.iter().any(|of| of == key);
            let was_his = |((keys, of), all): (&(Vec<Key>, Vec<u8>), &Vec<super::Ended>)| {
                let is_recent = all.iter().any(|ended| ended.at_us + PLACE_KEPT_US > sent_us);
                *of == owner && keys.iter().any(|of| of == key) && is_recent
            };
            self.calls.values().any(|call| is_his(&call.asked)) || self.ended.iter().any(was_his)
        };
        match place {
            Some(0) if may_hold => {
                if !self.at_some_moment(key, sent_us, |held| held.names(owner) && !held.is_claim()) {
                    self.wrong(format!("POSITION says that {who} holds {key_name}, and it never did"));
                }
            }
            Some(place) if place > 0 => {
                // What was granted in this moment is no call any more.
                let has_it = self.at_some_moment(key, sent_us.saturating_sub(SETTLES_US), |held| held.names(owner));
                if self.is_calm_for(PLACE_KEPT_US) && !waited() && !has_it {
                    self.wrong(format!("{who} is told to be number {place} before {key_name}, and does not wait"));
                }
            }
            None => {
                let certainly = self.calls.values().any(|call| {
                    let asked = &call.asked;
                    *asked.keys == [key.to_vec()]
                        && asked.owner == owner
                        && asked.value.is_none()
                        && call.since_us + SETTLES_US < sent_us
                        && call.since_us + asked.wait_us > self.now_us + SETTLES_US
                        && !call.may_end
                });
                let has_it = self.at_some_moment(key, sent_us.saturating_sub(SETTLES_US), |held| held.names(owner));
                if self.is_calm_for(CALMS_DOWN_US) && self.owners_differ && certainly && !has_it {
                    self.wrong(format!("{who} waits for {key_name}, and it is said not to"));
                }
            }
            Some(other) => self.wrong(format!("{other} is no place of {who} before {key_name}")),
        }
    }

    /// Somebody cancels a waiter's call, or promotes it to that level: from here on it may have come to that, and so may one that is
    /// asked before this is over. Returns what to say then.
    pub fn meddles(&mut self, key: &[u8], owner: &[u8], level: Option<u8>) -> usize {
        let meddling = Meddling { key: key.to_vec(), owner: owner.to_vec(), level, over_us: None };
        for call in self.calls.values_mut().filter(|call| meddling.is_about(&call.asked)) {
            meddling.meets(&mut call.levels, &mut call.may_end);
        }
        self.meddlings.push(meddling);
        self.meddlings.len() - 1
    }

    /// That was answered.
    pub fn meddled(&mut self, which: usize) {
        self.meddlings[which].over_us = Some(self.now_us);
    }

    /// A new call meets what is still on its way about its owner: CANCEL, PROMOTE, and what ends holds.
    pub(super) fn meets_meddlers(&self, asked: &Asked) -> ((u8, u8), bool) {
        let mut levels = (asked.level, asked.level);
        let mut may_end = self.wishes.iter().any(|wish| wish.owner == asked.owner && asked.keys.contains(&wish.key));
        for meddling in self.meddlings.iter().filter(|meddling| meddling.is_about(asked)) {
            if meddling.over_us.is_none_or(|over| self.now_us < over + SETTLES_US) {
                meddling.meets(&mut levels, &mut may_end);
            }
        }
        (levels, may_end)
    }
}

/// A CANCEL (without a level) or PROMOTE.
#[derive(Debug)]
pub struct Meddling {
    key: Key,
    owner: Vec<u8>,
    level: Option<u8>,
    over_us: Option<u64>,
}

impl Meddling {
    fn is_about(&self, asked: &Asked) -> bool {
        asked.owner == self.owner && asked.keys.contains(&self.key)
    }

    fn meets(&self, levels: &mut (u8, u8), may_end: &mut bool) {
        match self.level {
            Some(level) => *levels = (levels.0.min(level), levels.1.max(level)),
            None => *may_end = true,
        }
    }
}
