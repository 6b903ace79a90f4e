//! What people ask, and what they are told.

use super::mark::{Hold, Mark};
use super::{Asked, CALMS_DOWN_US, Call, Ended, Judge, Key, Person, Wish, show};

/// A victim was part of a cycle so recently, in µs.
const CYCLE_SEEN_US: u64 = 1_000_000;
/// How long the place of somebody who left is kept for him, in µs.
const PLACE_KEPT_US: u64 = 5_100_000;

impl Judge {
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
        self.may_end(&asked.keys, &asked.owner);
        let kept = self.place_that_is_his(&asked);
        let (levels, may_end) = self.meets_meddlers(&asked);
        let call = Call {
            since_us: self.now_us,
            place_us: kept.unwrap_or(self.now_us),
            levels,
            promoted: None,
            may_end,
            asked,
            last_in_cycle_us: None,
            is_in_cycle: false,
            in_cycle_since_us: None,
        };
        self.calls.insert(self.last_call, call);
        self.cycles();
        self.last_call
    }

    /// The best place that an earlier call of the same owner may leave to this one, whoever made it: one that has left, or one that still
    /// waits and gets nil when this one takes over (day 1839). Where several share an owner, one that was refused may have been taken over
    /// by another's that is over as well, and its place is kept (day 9272).
    fn place_that_is_his(&self, asked: &Asked) -> Option<u64> {
        if asked.value.is_some() {
            return None;
        }
        let is_shared = |keys: &[Key]| keys.iter().any(|key| asked.is_about(key));
        let is_shared_owner = self.plan.owners > 0;
        let is_kept =
            |ended: &&Ended| (ended.keeps_place || is_shared_owner) && self.now_us < ended.at_us + PLACE_KEPT_US;
        let ended = self.ended.iter().filter(|((keys, owner), _)| *owner == asked.owner && is_shared(keys));
        let kept = ended.flat_map(|(_, all)| all).filter(is_kept).map(|ended| ended.place_us);
        let is_his =
            |call: &&Call| call.asked.owner == asked.owner && call.asked.value.is_none() && is_shared(&call.asked.keys);
        kept.chain(self.calls.values().filter(is_his).map(|call| call.place_us)).min()
    }

    /// The end of a connection is to end a hold.
    pub fn wishes_by_leaving(&mut self, key: &[u8], owner: &[u8]) {
        let wish = self.wishes(key, owner, None);
        self.wishes.iter_mut().filter(|known| known.by == wish).for_each(|known| known.is_tie = true);
    }

    /// Somebody asks for a hold to end.
    pub fn wishes(&mut self, key: &[u8], owner: &[u8], fence: Option<u64>) -> u64 {
        self.last_call += 1;
        self.say(|| format!("{} wishes to end its hold of {} ({fence:?})", owner.escape_ascii(), key.escape_ascii()));
        self.may_end(&[key.to_vec()], owner);
        self.wishes.push(Wish { key: key.to_vec(), owner: owner.to_vec(), by: self.last_call, fence, is_tie: false });
        self.last_call
    }

    /// Somebody goes on with a hold of the past, under its fence. It may stand after all: its release is still on its way, or a disaster
    /// brings it back. What its owner waits for by now is not meant.
    pub fn wishes_of_the_past(&mut self, key: &[u8], owner: &[u8], fence: u64) -> u64 {
        let mark = Mark::Fenced(owner.to_vec(), fence);
        if self.locks.get(key).and_then(|lock| lock.hold.as_ref()).is_some_and(|hold| hold.mark == mark) {
            return self.wishes(key, owner, Some(fence));
        }
        self.last_call += 1;
        let (key, owner, fence) = (key.to_vec(), owner.to_vec(), Some(fence));
        self.wishes.push(Wish { key, owner, by: self.last_call, fence, is_tie: false });
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
        let Some(call) = self.calls.remove(&call) else { return };
        self.counts.grants += 1;
        self.has_no_ticket(&call.asked);
        if self.was_over(&call) {
            return self.cycles();
        }
        self.is_written_as_asked(&call, fences);
        let Call { asked, since_us, .. } = call;
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

    /// A SET NX on a free key with an absolute time that has passed is OK, as on Redis, and the key stays free.
    fn was_over(&self, call: &Call) -> bool {
        let Call { asked, since_us, .. } = call;
        if asked.over_ms.is_none_or(|over_ms| over_ms.saturating_mul(1000) > self.now_us) {
            return false;
        }
        let key = &asked.keys[0];
        let stood = self.at_some_moment(key, *since_us, |held| held.value == asked.value);
        !stood && self.at_some_moment(key, *since_us, |held| held.value.is_none())
    }

    /// Somebody is told that this hold is his.
    pub fn is_told(&mut self, key: &[u8], mark: &Mark) {
        self.say(|| format!("told: {mark} holds {}", key.escape_ascii()));
        let lock = self.locks.entry(key.to_vec()).or_default();
        let present = lock.hold.as_mut().filter(|hold| hold.mark == *mark);
        let Some(hold) = present.or_else(|| lock.past.iter_mut().rev().find(|hold| hold.mark == *mark)) else {
            self.wrong(format!("{mark} was told of {} and never held it", key.escape_ascii()));
        };
        let person = super::person_of(mark.owner());
        hold.told_on = person.and_then(|person| self.connections.get(&person).copied());
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
        let Some(call) = self.calls.remove(&call) else { return };
        self.ends_without(&call, false);
        if call.asked.wait_us == 0 && call.place_us < call.since_us {
            // Who looks in without waiting keeps the place that an earlier call had (day 797).
            let latest = self.ended.get_mut(&(call.asked.keys.clone(), call.asked.owner.clone()));
            if let Some(latest) = latest.and_then(|all| all.last_mut()) {
                latest.keeps_place = true;
            }
        }
        self.may_have_ticket(&call, how);
        let Call { asked, last_in_cycle_us, is_in_cycle, since_us, may_end, .. } = call;
        self.say(|| format!("person {} is refused: {how}", asked.person));
        if how.starts_with("DEADLOCK") {
            self.counts.victims += 1;
            let was_in_one = is_in_cycle || last_in_cycle_us.is_some_and(|at| self.now_us <= at + CYCLE_SEEN_US);
            if self.owners_differ() && !was_in_one && !self.had_trouble_since(since_us) {
                self.wrong(format!("person {} was ended for a deadlock that was none: {how}", asked.person));
            }
        }
        if how.starts_with("UNAVAILABLE") {
            self.is_unknown(&asked);
        }
        self.is_due(&asked, since_us, how, last_in_cycle_us.is_some() || is_in_cycle || may_end);
        self.cycles();
    }

    /// A call that nobody hears the answer of any more.
    pub fn left(&mut self, call: u64) {
        if let Some(call) = self.calls.remove(&call) {
            self.ends_without(&call, true);
            let asked = call.asked;
            self.say(|| format!("person {} leaves", asked.person));
            // Who asks without WAIT and closes his side may still read: he is answered, and his lease ends what he does not.
            if asked.wait_us == 0 || self.had_trouble_since(self.now_us.saturating_sub(1)) {
                self.is_unknown(&asked);
            }
        }
        self.cycles();
    }

    /// Whatever came of it, nobody knows.
    pub fn is_lost(&mut self, call: u64) {
        if let Some(call) = self.calls.remove(&call) {
            self.ends_without(&call, true);
            self.say(|| format!("person {} lost the connection", call.asked.person));
            self.is_unknown(&call.asked);
        }
        self.cycles();
    }

    fn ends_without(&mut self, call: &Call, keeps_place: bool) {
        if keeps_place {
            self.has_no_ticket(&call.asked);
        }
        let Call { asked, place_us, .. } = call;
        let ended = Ended { at_us: self.now_us, place_us: *place_us, level: asked.level, keeps_place };
        let is_recent = |ended: &Ended| self.now_us < ended.at_us + PLACE_KEPT_US;
        let has_left_before = self.ended.iter().any(|((keys, owner), all)| {
            let is_same = *owner == asked.owner && keys.iter().any(|key| asked.keys.contains(key));
            is_same && keeps_place && all.iter().any(|ended| ended.keeps_place && is_recent(ended))
        });
        let all = self.ended.entry((asked.keys.clone(), asked.owner.clone())).or_default();
        all.retain(is_recent);
        all.push(ended);
        // Whoever leaves, asks again on another node and leaves there, too: neither node can know whether the other has told him.
        if has_left_before {
            self.is_unknown(&call.asked);
        }
    }

    pub(super) fn is_unknown(&mut self, asked: &Asked) {
        for key in &asked.keys {
            self.unknown.insert((key.clone(), asked.owner.clone()));
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

    pub(super) fn had_trouble_since(&self, us: u64) -> bool {
        self.is_troubled || self.trouble_us + CALMS_DOWN_US > us
    }
}
