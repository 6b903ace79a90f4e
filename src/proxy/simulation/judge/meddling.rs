//! CANCEL and PROMOTE: what has come to whose call by them.

use super::{Asked, Judge, Key};

/// Whoever was refused or has left is known to wait, or to wait no more, after this, in calm times, in µs.
const SETTLES_US: u64 = 700_000;

impl Judge {
    /// Somebody cancels a waiter's call, or promotes it to that level: from here on it may have come to that, and so may one that is
    /// asked before this is over. Returns what to say then.
    pub fn meddles(&mut self, key: &[u8], owner: &[u8], level: Option<u8>) -> usize {
        let sent_us = self.now_us;
        let meddling = Meddling { key: key.to_vec(), owner: owner.to_vec(), level, sent_us, over_us: None };
        for call in self.calls.values_mut().filter(|call| meddling.is_about(&call.asked)) {
            meddling.meets(&mut call.levels, &mut call.may_end);
            call.promoted = None;
        }
        self.meddlings.push(meddling);
        self.meddlings.len() - 1
    }

    /// That was answered; `was_met` where the waiter was promoted. Where it can have been no call but his present one, that one has the new
    /// level before long.
    pub fn meddled(&mut self, which: usize, was_met: bool) {
        let now_us = self.now_us;
        self.meddlings[which].over_us = Some(now_us);
        let Meddling { key, owner, level, sent_us, .. } = &self.meddlings[which];
        let Some(level) = level.filter(|_| was_met && self.owners_differ()) else { return };
        let is_open = |other: &Meddling| {
            other.key == *key && other.owner == *owner && other.over_us.is_none_or(|over| over >= *sent_us)
        };
        let has_rival = self.meddlings.iter().filter(|other| is_open(other)).count() > 1;
        let is_alone = !has_rival && self.ended_about(key, *sent_us).all(|(of, _)| of != owner);
        let (key, owner, sent_us) = (key.clone(), owner.clone(), *sent_us);
        for call in self.calls.values_mut() {
            let is_meant = call.asked.owner == owner && call.asked.keys == [key.clone()] && call.asked.value.is_none();
            if is_alone && is_meant && call.since_us < sent_us {
                call.promoted = Some((now_us + SETTLES_US, level));
            }
        }
    }

    /// A new call meets what is still on its way about its owner: CANCEL, PROMOTE, and what ends holds.
    pub(super) fn meets_meddlers(&self, asked: &Asked) -> ((u8, u8), bool) {
        let mut levels = (asked.level, asked.level);
        // A release that was carried out upstream ends what its node knows of, once it is told.
        let mut wishes = self.wishes.iter().chain(&self.used);
        let mut may_end = wishes.any(|wish| wish.owner == asked.owner && asked.keys.contains(&wish.key));
        // Another call of his that was sent before may come to the line after this one, and take over as the newer: on its way, or because
        // it wants several keys and comes to the line of each in his time.
        may_end |= self.calls.values().any(|call| {
            let other = &call.asked;
            let may_come = other.keys.len() > 1 || self.now_us < call.since_us + SETTLES_US;
            may_come && other.owner == asked.owner && asked.keys.iter().any(|key| other.is_about(key))
        });
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
    sent_us: u64,
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
