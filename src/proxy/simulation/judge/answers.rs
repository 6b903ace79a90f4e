//! What is answered, against what stood upstream at some moment between the question and its answer.

use super::mark::{Held, Mark};
use super::{Asked, Call, Judge, Key, show};
use crate::proxy::simulation::client::Said;
use crate::store::value::Fields;

/// An answer is no earlier than its time, but for what clocks make of it, in µs.
const CLOCKS_US: u64 = 20_000;
/// The clock of a node is off by so much where clocks do not step, in µs.
const SKEW_MAX_US: u64 = 2_100_000;
/// Whose call is over may still have a place for so long, in µs.
const PLACE_KEPT_US: u64 = 6_000_000;

impl Judge {
    /// All that `key` held since that moment. What happened in its very microsecond may have come before or after.
    pub(super) fn story(&self, key: &[u8], from_us: u64) -> Vec<Held> {
        let story = self.locks.get(key).map_or(&[][..], |lock| &lock.story);
        let begins = story.iter().rposition(|held| held.since_us < from_us);
        let free = Held { since_us: 0, value: None, until_ms: None };
        match begins {
            Some(at) => story[at..].to_vec(),
            None => std::iter::once(free).chain(story.iter().cloned()).collect(),
        }
    }

    pub(super) fn at_some_moment(&self, key: &[u8], from_us: u64, is_so: impl Fn(&Held) -> bool) -> bool {
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
        let is_his_alone = self.owners_differ() && !self.ended.iter().any(is_older);
        for (key, fence) in asked.keys.iter().zip(fences) {
            let mark = match &asked.value {
                Some(value) => Mark::Plain(value.clone()),
                None => Mark::Fenced(asked.owner.clone(), *fence),
            };
            let is_single = asked.keys.len() == 1 && asked.value.is_none();
            if !is_his_alone && asked.value.is_none() {
                // By whichever call of its owner, it stood while this one waited.
                if !self.at_some_moment(key, since_us, |held| held.is_held_by(&asked.owner, Some(*fence))) {
                    let story = self.story(key, since_us);
                    self.wrong(format!("{mark} is told of {}, and never held it since: {story:?}", key.escape_ascii()));
                }
                continue;
            }
            let fits = |held: &Held| {
                let Some((of, is_claim)) = held.value.as_deref().map(Mark::of) else { return false };
                let is_level = |level: u8| (*lowest..=*highest).contains(&level);
                let tells = |level: u8, meta: &[u8]| !is_single || (is_level(level) && *meta == asked.meta);
                let as_asked = held.fields().is_none_or(|fields| tells(fields.level.number(), fields.meta));
                of == mark && !is_claim && asked.leases.iter().any(|lease| held.has(*lease)) && as_asked
            };
            if !self.at_some_moment(key, since_us, fits) {
                let level = asked.level;
                let story = self.story(key, since_us);
                self.wrong(format!(
                    "{mark} is told of {}, and it was never written with a lease of {:?} at level {level}: {story:?}",
                    key.escape_ascii(),
                    asked.leases
                ));
            }
        }
    }

    /// A call ends without a lock: its time was over, somebody was in its way, or something ended it.
    pub(super) fn is_due(&self, asked: &Asked, since_us: u64, how: &str, may_end: bool) {
        if self.had_trouble_since(since_us) || may_end {
            return;
        }
        let code = how.split(' ').next().unwrap_or_default();
        let is_full = || asked.keys.iter().any(|key| self.plan.is_narrow(key, asked.person));
        let was_data = || asked.keys.iter().any(|key| self.at_some_moment(key, since_us, Held::is_data));
        match code {
            // Whose time is absolute goes by the clocks of the upstream and of his node.
            "nil" if asked.over_ms.is_some_and(|over_ms| self.may_be_over(over_ms)) => {}
            // A cycle through a connection ends by its SET NX; whose cycle it is, is not plain where owners are shared.
            "nil" if asked.value.is_some() && asked.wait_us > 0 && !self.owners_differ() => {}
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
                        || self.tickets.keys().any(|(of, _)| of == key)
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
            "ERR" if how.contains("is not a lock") && was_data() => {}
            _ => self.wrong(format!("person {} is answered an error out of nowhere: {how}", asked.person)),
        }
    }

    pub(super) fn may_be_over(&self, over_ms: u64) -> bool {
        self.plan.faults.steps_clocks() || over_ms.saturating_mul(1000) <= self.now_us + SKEW_MAX_US
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

    /// A guarded command was refused: at some moment the lock was not held under that fence.
    pub fn is_fenced_off(&self, key: &[u8], mark: &Mark, sent_us: u64) {
        let holds = |held: &Held| held.value.as_deref().map(Mark::of) == Some((mark.clone(), false));
        if !self.at_some_moment(key, sent_us, |held| !holds(held)) {
            self.wrong(format!("{mark} holds {}, and a guarded command was refused", key.escape_ascii()));
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

    /// RELEASEALL was answered with a number.
    pub fn are_released(&mut self, keys: &[Key], owner: &[u8], sent_us: u64, said: i64) {
        let had = |held: &Held| held.fields().is_some_and(|fields| fields.owner == owner);
        let most = keys.iter().filter(|key| self.at_some_moment(key, sent_us, had)).count() as i64;
        let least = keys.iter().filter(|key| !self.at_some_moment(key, sent_us, |held| !had(held))).count() as i64;
        self.counts.releases += u64::try_from(said).unwrap_or(0);
        if !(least..=most).contains(&said) {
            let (who, keys) = (owner.escape_ascii(), show(keys));
            self.wrong(format!("RELEASEALL of {keys:?} by {who} is answered {said}, not {least} to {most}"));
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
        self.are_counted(key, sent_us, told("waiters"));
        if !self.at_some_moment(key, sent_us, fits) {
            let story = self.story(key, sent_us);
            self.wrong(format!("INFO of {} never was so: {said:?}, but {story:?}", key.escape_ascii()));
        }
    }
}
