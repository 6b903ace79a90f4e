//! What must never last: sleepers, cycles, locks that belong to nobody, and calls without an answer.

use std::collections::{BTreeMap, BTreeSet};

use super::mark::Mark;
use super::{CALMS_DOWN_US, Call, Judge, Key, Person, person_of, show};

/// A free key waits for its next holder no longer than this in calm times, in µs.
const SLEEPS_MAX_US: u64 = 1_500_000;
/// A deadlock lives no longer than this in calm times, in µs.
const CYCLE_MAX_US: u64 = 2_500_000;
/// A lock that nobody is to be told of is given on within this, in calm times, in µs.
const GHOST_MAX_US: u64 = 1_500_000;
/// An answer is late after this, in µs.
const ANSWERS_MAX_US: u64 = 4_000_000;

impl Judge {
    /// Who has just been given this lock, and does not know it yet; also who has asked again for what his owner holds.
    pub fn who_is_given(&self, key: &[u8]) -> Option<Person> {
        let hold = self.locks.get(key)?.hold.as_ref()?;
        Some(self.call_of(key, &hold.mark)?.asked.person)
    }

    pub(super) fn call_of(&self, key: &[u8], mark: &Mark) -> Option<&Call> {
        self.calls.values().find(|call| {
            call.asked.keys.iter().any(|known| known == key)
                && match (mark, &call.asked.value) {
                    (Mark::Fenced(owner, _), None) => *owner == call.asked.owner,
                    (Mark::Plain(value), Some(known)) => value == known,
                    _ => false,
                }
        })
    }

    pub(super) fn nobody_sleeps_before_a_free_key(&self) {
        if !self.is_calm_for(SLEEPS_MAX_US) {
            return;
        }
        for call in self.calls.values().filter(|call| call.asked.wait_us > 0) {
            let free_since = |key: &Key| match self.locks.get(key) {
                None => Some(0),
                Some(lock) => lock.hold.is_none().then_some(lock.free_since_us),
            };
            let since: Option<Vec<u64>> = call.asked.keys.iter().map(free_since).collect();
            let Some(since) = since.and_then(|since| since.into_iter().max()) else { continue };
            if self.now_us > since.max(call.since_us) + SLEEPS_MAX_US {
                self.wrong(format!("person {} sleeps before a free {:?}", call.asked.person, show(&call.asked.keys)));
            }
        }
    }

    pub(super) fn no_cycle_lasts(&self) {
        if !self.owners_differ() || !self.is_calm_for(CYCLE_MAX_US) {
            return;
        }
        for call in self.calls.values() {
            if call.in_cycle_since_us.is_some_and(|since| self.now_us > since + CYCLE_MAX_US) {
                let asked = &call.asked;
                self.wrong(format!(
                    "person {} waits for {:?} in a deadlock that lasts",
                    asked.person,
                    show(&asked.keys)
                ));
            }
        }
    }

    pub(super) fn nothing_is_left_with_the_gone(&self) {
        if !self.is_calm_for(GHOST_MAX_US) {
            return;
        }
        for (key, lock) in &self.locks {
            let Some(hold) = &lock.hold else { continue };
            // What a SET NX wrote cannot be told from what others write: it stays until its expiry, as on Redis.
            let is_known = hold.is_told
                || matches!(hold.mark, Mark::Plain(_))
                || self.call_of(key, &hold.mark).is_some()
                || self.unknown.contains(&(key.clone(), hold.mark.owner().to_vec()));
            if !is_known && self.now_us > hold.begun_us + GHOST_MAX_US {
                self.wrong(format!("{} holds {}, and nobody was told", hold.mark, key.escape_ascii()));
            }
        }
    }

    pub(super) fn all_are_answered(&self) {
        if !self.is_calm_for(ANSWERS_MAX_US) {
            return;
        }
        for call in self.calls.values() {
            let until = call.since_us.max(self.trouble_us + CALMS_DOWN_US) + call.asked.wait_us + ANSWERS_MAX_US;
            if self.now_us > until {
                self.wrong(format!("person {} has no answer about {:?}", call.asked.person, show(&call.asked.keys)));
            }
        }
    }

    /// Who is part of a cycle of waits now.
    pub(super) fn cycles(&mut self) {
        if !self.owners_differ() {
            return;
        }
        let (mut needs, mut waits_for) = (Waits::new(), Waits::new());
        for call in self.calls.values() {
            let person = call.asked.person;
            // Whoever waits as an owner for what his connection took by SET NX waits for himself.
            let in_the_way = |key: &&Key| match self.locks.get(*key).and_then(|lock| lock.hold.as_ref()) {
                None => false,
                Some(hold) if hold.mark.owner() != call.asked.owner => true,
                Some(hold) => matches!(hold.mark, Mark::Plain(_)) && call.asked.value.is_none(),
            };
            let keys: Vec<&Key> = call.asked.keys.iter().filter(in_the_way).collect();
            let holders = || keys.iter().filter_map(|key| self.holder(key, false));
            // All its keys are needed, and one of them is waited for at a time: which, is certain only where it is the last.
            needs.entry(person).or_default().extend(keys.iter().filter_map(|key| self.holder(key, true)));
            if keys.len() == 1 {
                waits_for.entry(person).or_default().extend(holders());
            }
        }
        for call in self.calls.values_mut() {
            let person = call.asked.person;
            if reaches_itself(&waits_for, person) {
                call.in_cycle_since_us.get_or_insert(self.now_us);
            } else {
                call.in_cycle_since_us = None;
            }
            let was_in_one = std::mem::replace(&mut call.is_in_cycle, reaches_itself(&needs, person));
            if was_in_one || call.is_in_cycle {
                call.last_in_cycle_us = Some(self.now_us);
            }
        }
    }

    /// Who could end the present hold of a lock by himself; `None` where nobody is known. With `or_may` also who may have taken it: a
    /// poller's value names the connection of his first poll, and another may have come to it (day 9805).
    fn holder(&self, key: &[u8], or_may: bool) -> Option<Person> {
        let hold = self.locks.get(key)?.hold.as_ref().filter(|hold| !hold.is_claim && !hold.is_bridge)?;
        let person = person_of(hold.mark.owner())?;
        if let Mark::Plain(value) = &hold.mark {
            // What a connection took is held by it, if it was taken for a lock at all.
            if !self.plan.takes(key, person) {
                return None;
            }
            let connection = value.split(|byte| *byte == b'.').nth(1).and_then(|text| std::str::from_utf8(text).ok());
            let connection: u64 = connection?.parse().ok()?;
            let may_be_another = or_may && self.plan.tickets;
            self.connections.get(&person).filter(|known| **known == connection || may_be_another)?;
        } else if !or_may {
            // A SET NX says who waits only by its connection: that of an owner who was told of the hold elsewhere is nobody's (day 18995).
            let is_plain = |call: &Call| call.asked.person == person && call.asked.value.is_some();
            let is_known = hold.told_on.is_some() && hold.told_on.as_ref() == self.connections.get(&person);
            if self.calls.values().any(is_plain) && !is_known {
                return None;
            }
        }
        Some(person)
    }
}

/// Who waits for whom.
type Waits = BTreeMap<Person, BTreeSet<Person>>;

fn reaches_itself(waits: &Waits, person: Person) -> bool {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![person]);
    while let Some(next) = todo.pop() {
        for other in waits.get(&next).into_iter().flatten() {
            if *other == person {
                return true;
            }
            if seen.insert(*other) {
                todo.push(*other);
            }
        }
    }
    false
}
