//! Places in line, as POSITION, PROMOTE, CANCEL, QUEUE and INFO tell them.

use super::mark::Lock;
use super::{Asked, CALMS_DOWN_US, Call, Ended, Judge, Key};
use crate::domain::Level;
use crate::proxy::simulation::client::Said;

/// Whoever was refused or has left is known to wait, or to wait no more, after this, in calm times, in µs.
const SETTLES_US: u64 = 700_000;
/// Whose call is over may still have a place for so long, in µs.
const PLACE_KEPT_US: u64 = 6_000_000;
/// Other nodes answer within 200 ms where no message takes longer than this, in ms.
const NEAR_MS: u64 = 20;

impl Judge {
    /// A node that asks another one gets its answer before it gives up.
    fn nodes_hear_each_other(&self) -> bool {
        self.plan.longest_way_ms <= NEAR_MS && self.is_calm_for(CALMS_DOWN_US)
    }

    /// POSITION or PROMOTE was answered with a place, 0 for the holder, or nil.
    pub fn is_placed(&mut self, key: &[u8], owner: &[u8], sent_us: u64, (place, may_hold): (Option<i64>, bool)) {
        self.counts.looks += 1;
        let (who, key_name) = (owner.escape_ascii(), key.escape_ascii());
        match place {
            Some(0) if may_hold => {
                if !self.at_some_moment(key, sent_us, |held| held.names(owner) && !held.is_claim()) {
                    self.wrong(format!("POSITION says that {who} holds {key_name}, and it never did"));
                }
            }
            Some(place) if place > 0 => {
                self.may_wait(key, owner, sent_us);
                let (least, most) = (self.place_of(key, owner, sent_us), self.waiters_at_most(key, sent_us) + 1);
                let is_calm = self.is_calm_for(PLACE_KEPT_US);
                if is_calm && !(least..=most).contains(&(place as usize)) {
                    self.wrong(format!("{who} is number {place} before {key_name}, not {least} to {most}"));
                }
            }
            None => {
                let lock = self.lock_now(key);
                let certainly = self.calls.values().any(|call| {
                    call.asked.owner == owner
                        && call.asked.value.is_none()
                        && self.certainly_waits(call, key, sent_us, lock)
                });
                let has_it = self.at_some_moment(key, sent_us.saturating_sub(SETTLES_US), |held| held.names(owner));
                if self.nodes_hear_each_other() && certainly && !has_it {
                    self.wrong(format!("{who} waits for {key_name}, and it is said not to"));
                }
            }
            Some(other) => self.wrong(format!("{other} is no place of {who} before {key_name}")),
        }
    }

    /// CANCEL was answered 1.
    pub fn is_cancelled(&mut self, key: &[u8], owner: &[u8], sent_us: u64) {
        self.counts.looks += 1;
        self.may_wait(key, owner, sent_us);
    }

    /// He was said to wait.
    fn may_wait(&self, key: &[u8], owner: &[u8], sent_us: u64) {
        // What was granted in this moment is no call any more.
        let has_it = self.at_some_moment(key, sent_us.saturating_sub(SETTLES_US), |held| held.names(owner));
        let waits = self.calls.values().any(|call| call.asked.owner == owner && call.asked.is_about(key));
        let mut ended = self.ended_about(key, sent_us).filter(|(of, _)| *of == owner);
        if self.is_calm_for(PLACE_KEPT_US) && !has_it && !waits && ended.next().is_none() {
            let (who, key) = (owner.escape_ascii(), key.escape_ascii());
            self.wrong(format!("{who} is said to wait for {key}, and does not"));
        }
    }

    pub(super) fn ended_about(&self, key: &[u8], sent_us: u64) -> impl Iterator<Item = (&[u8], &Ended)> {
        let is_about = move |(of, _): &(&(Vec<Key>, Vec<u8>), &Vec<Ended>)| of.0.iter().any(|known| known == key);
        let all = self.ended.iter().filter(is_about).flat_map(|((_, of), all)| all.iter().map(|one| (&of[..], one)));
        all.filter(move |(_, ended)| ended.at_us + PLACE_KEPT_US > sent_us)
    }

    fn lock_now(&self, key: &[u8]) -> &Lock {
        static NONE: Lock = Lock::NEVER;
        self.locks.get(key).unwrap_or(&NONE)
    }

    /// So many may have waited since then.
    fn waiters_at_most(&self, key: &[u8], sent_us: u64) -> usize {
        let calls = self.calls.values().filter(|call| call.asked.is_about(key)).count();
        let pollers = self.tickets.keys().filter(|(of, _)| of == key).count();
        // Those who were granted since then wait no more.
        calls + pollers + self.ended_about(key, sent_us).count() + self.story(key, sent_us).len()
    }

    /// So many certainly wait, as far as all nodes can answer.
    fn waiting_certainly(&self, key: &[u8], sent_us: u64) -> impl Iterator<Item = &Call> {
        let is_near = self.nodes_hear_each_other();
        let lock = self.lock_now(key);
        self.calls.values().filter(move |call| {
            // Whoever is being given it waits no more.
            let is_given = || self.at_some_moment(key, call.since_us, |held| call.is_named_by(held.value.as_deref()));
            is_near && self.certainly_waits(call, key, sent_us, lock) && !is_given()
        })
    }

    /// The best place that this owner can have.
    fn place_of(&self, key: &[u8], owner: &[u8], sent_us: u64) -> usize {
        let his: Vec<&Call> =
            self.calls.values().filter(|call| call.asked.owner == owner && call.asked.is_about(key)).collect();
        let [call] = his[..] else { return 1 };
        let has_older = self.ended_about(key, sent_us).any(|(of, _)| of == owner)
            || self.at_some_moment(key, sent_us, |held| held.names(owner));
        if has_older || call.asked.keys.len() > 1 || call.asked.value.is_some() {
            return 1;
        }
        let best = super::order::Standing { level: call.levels_at(self.now_us).1, place_us: call.place_us };
        let is_before = |other: &&Call| other.asked.owner != owner && self.is_before(other.at_worst(self.now_us), best);
        1 + self.waiting_certainly(key, sent_us).filter(is_before).count()
    }

    /// INFO has told a number of waiters.
    pub(super) fn are_counted(&self, key: &[u8], sent_us: u64, waiters: &Said) {
        let Said::Number(waiters) = waiters else { self.wrong(format!("{waiters:?} is no number of waiters")) };
        let (least, most) = (self.waiting_certainly(key, sent_us).count(), self.waiters_at_most(key, sent_us));
        if self.is_calm_for(PLACE_KEPT_US) && !(least..=most).contains(&(*waiters as usize)) {
            self.wrong(format!("{waiters} wait for {}, not {least} to {most}", key.escape_ascii()));
        }
    }

    /// QUEUE was answered: a list for each waiter, best first, and for each node that was silent.
    pub fn is_listed(&mut self, key: &[u8], sent_us: u64, said: &[Said]) {
        self.counts.looks += 1;
        let entries: Vec<(&[u8], u8)> = said.iter().filter_map(entry).collect();
        let key_name = key.escape_ascii();
        if self.plan.promote_after_ms == 0 && !entries.is_sorted_by(|one, other| one.1 >= other.1) {
            self.wrong(format!("QUEUE of {key_name} is out of order: {entries:?}"));
        }
        if !self.is_calm_for(PLACE_KEPT_US) {
            return;
        }
        let most = self.waiters_at_most(key, sent_us);
        if entries.len() > most {
            self.wrong(format!("QUEUE of {key_name} has {} entries, and {most} can wait", entries.len()));
        }
        for (owner, level) in &entries {
            let fits = |call: &Call| {
                let (lowest, highest) = call.levels_at(sent_us);
                // Who wants several stands in line at the level of each key's rule.
                let is_bridge = call.asked.keys.len() > 1;
                call.names() == *owner && (is_bridge || (lowest..=highest).contains(level))
            };
            let is_known = self.calls.values().any(|call| call.asked.is_about(key) && fits(call));
            let is_poller = self.tickets.keys().any(|(of, value)| of == key && value == owner);
            let was_known = self.ended_about(key, sent_us).any(|(of, _)| owner.starts_with(of));
            let has_it = self.at_some_moment(key, sent_us.saturating_sub(SETTLES_US), |held| {
                held.names(owner) || held.value.as_deref() == Some(owner) || held.is_claim()
            });
            if !is_known && !is_poller && !was_known && !has_it {
                let who = owner.escape_ascii();
                self.wrong(format!("QUEUE of {key_name} has {who} at level {level}, and nobody asks so"));
            }
        }
        let is_missing = |call: &&Call| !entries.iter().any(|(owner, _)| call.names() == *owner);
        if let Some(call) = self.waiting_certainly(key, sent_us).find(is_missing) {
            self.wrong(format!("QUEUE of {key_name} does not have person {}: {entries:?}", call.asked.person));
        }
    }
}

impl Call {
    /// The owner that others see.
    fn names(&self) -> &[u8] {
        self.asked.value.as_ref().unwrap_or(&self.asked.owner)
    }

    /// That value is his, or may be a claim of his.
    fn is_named_by(&self, value: Option<&[u8]>) -> bool {
        let Asked { owner, value: own, .. } = &self.asked;
        let Some(value) = value else { return false };
        match (crate::store::value::Fields::read(value), own) {
            (Some(fields), None) => fields.owner == owner,
            (Some(fields), Some(_)) => fields.is_claim,
            (None, own) => own.as_deref() == Some(value),
        }
    }
}

/// The owner and the level of an entry; `None` where it stands for a node.
fn entry(said: &Said) -> Option<(&[u8], u8)> {
    let Said::List(fields) = said else { return None };
    let told = |name: &str| {
        let mut pairs = fields.chunks(2);
        pairs.find(|pair| pair[0] == Said::Word(name.into())).map(|pair| &pair[1])
    };
    match (told("owner")?, told("priority")?) {
        (Said::Word(owner), Said::Word(level)) => Some((owner, Level::parse(level)?.number())),
        _ => None,
    }
}
