//! Who goes first: levels, places, what PROMOTE and `promote_after` make of them, and the tickets of pollers.

use super::mark::{Lock, Mark};
use super::{Asked, Call, Ended, Judge, person_of};

/// Whoever was refused is known to wait after this, in calm times, in µs.
const SETTLES_US: u64 = 700_000;
/// Who takes a lock from its holder may take a claim of a waiter, who is registered no more until his node has noticed.
const ROUGH_FOR_US: u64 = 1_500_000;
/// A ticket that ends so soon may be over by the clock of the node, in µs.
const TICKET_MARGIN_US: u64 = 20_000;

/// A poller who was refused and has not given up.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    connection: u64,
    level: u8,
    ticket_us: u64,
    /// When he tried first: he may have his place since then.
    earliest_us: u64,
    /// Since when he certainly has one.
    certain_us: u64,
    /// When he sent his last try.
    sent_us: u64,
}

/// What is known of a place in line: the lowest level and the latest arrival of who is passed, or the highest and the earliest of who passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) level: u8,
    pub(super) place_us: u64,
}

impl Judge {
    /// Whether `one` is certainly before `other`, of whom the best is assumed.
    pub(super) fn is_before(&self, one: Standing, other: Standing) -> bool {
        let came_first = |ahead_us: i64| (one.place_us + SETTLES_US) as i64 - ahead_us < other.place_us as i64;
        let levels = i64::from(one.level) - i64::from(other.level);
        match self.plan.promote_after_ms {
            0 => levels > 0 || (levels == 0 && came_first(0)),
            // For each level a waiter counts as if he had come so much earlier.
            ms => came_first(levels * ms as i64 * 1000),
        }
    }

    /// A call without a lock ends: whoever polls may have a ticket from here on.
    pub(super) fn may_have_ticket(&mut self, call: &Call, how: &str) {
        let Asked { value: Some(value), ticket_us, connection, level, .. } = &call.asked else { return };
        let known = (call.asked.keys[0].clone(), value.clone());
        if *ticket_us == 0 || how != "nil" {
            self.tickets.remove(&known);
            return;
        }
        let before = self.tickets.get(&known).copied();
        // On one connection all goes through one node.
        let goes_on = |ticket: &Ticket| {
            ticket.connection == *connection && call.since_us + TICKET_MARGIN_US < ticket.sent_us + ticket.ticket_us
        };
        // In a full queue he has none, and is told what Redis would say. One whose absolute time is over when the lock that was kept for
        // him comes gives it up, and his place with it (day 1736).
        let is_over = call.asked.over_ms.is_some_and(|over_ms| self.may_be_over(over_ms));
        let has_none = is_over || self.plan.is_narrow(&known.0, call.asked.person);
        let ticket = Ticket {
            connection: *connection,
            level: *level,
            ticket_us: *ticket_us,
            earliest_us: before.map_or(call.since_us, |before| before.earliest_us),
            certain_us: match has_none {
                true => u64::MAX,
                false => before.filter(goes_on).map_or(self.now_us, |before| before.certain_us.min(self.now_us)),
            },
            sent_us: call.since_us,
        };
        self.tickets.insert(known, ticket);
    }

    /// He has the lock, or asks no more.
    pub(super) fn has_no_ticket(&mut self, asked: &Asked) {
        if let Some(value) = &asked.value {
            self.tickets.remove(&(asked.keys[0].clone(), value.clone()));
        }
    }

    /// Whoever begins to hold a lock comes before all who are known to wait.
    pub(super) fn nobody_is_passed(&self, key: &[u8], mark: &Mark, lock: &Lock) {
        let is_rough = lock.rough_us.is_some_and(|at| self.now_us < at + ROUGH_FOR_US);
        // A SET NX on another key than a lock's is passed on untouched.
        let passes = matches!(mark, Mark::Plain(_))
            && !person_of(mark.owner()).is_some_and(|person| self.plan.takes(key, person));
        if !self.is_calm_for(SETTLES_US) || is_rough || passes {
            return;
        }
        let Some(next) = self.best_of(key, mark) else { return };
        for call in self.calls.values() {
            if self.certainly_waits(call, key, self.now_us, lock) && self.is_before(call.at_worst(self.now_us), next) {
                let (one, since) = (&call.asked, call.since_us % 1_000_000_000);
                if !call.is_of(mark) {
                    let (person, level, key) = (one.person, one.level, key.escape_ascii());
                    self.wrong(format!(
                        "{mark} begins to hold {key}, before person {person} who waits for it since {since} at level {level}"
                    ));
                }
            }
        }
        for ((_, value), ticket) in self.tickets.iter().filter(|((of, _), _)| of == key) {
            let poller = Mark::Plain(value.clone());
            let lives = ticket.certain_us.saturating_add(SETTLES_US) < self.now_us
                && self.now_us + TICKET_MARGIN_US < ticket.sent_us + ticket.ticket_us
                && poller != *mark;
            let standing = Standing { level: ticket.level, place_us: ticket.certain_us };
            if lives && self.is_before(standing, next) && !lock.past.iter().any(|past| past.mark == poller) {
                let (key, since) = (key.escape_ascii(), ticket.certain_us % 1_000_000_000);
                self.wrong(format!("{mark} begins to hold {key}, before {poller} who polls for it since {since}"));
            }
        }
    }

    /// The best place that whoever begins to hold it may have had; `None` where that is not known.
    fn best_of(&self, key: &[u8], mark: &Mark) -> Option<Standing> {
        let calls: Vec<&Call> =
            self.calls.values().filter(|call| call.asked.is_about(key) && call.is_of(mark)).collect();
        if calls.is_empty() || calls.iter().any(|call| call.asked.keys.len() > 1) {
            return None;
        }
        // What its owner's older call was being given as its time ran out is the newer one's.
        let is_plain = matches!(mark, Mark::Plain(_));
        let is_recent = |older: &Ended| !is_plain && self.now_us < older.at_us + 2 * SETTLES_US;
        let ended = self.ended_about(key, self.now_us);
        let older = ended.filter(|(owner, older)| *owner == mark.owner() && is_recent(older)).map(|(_, older)| older);
        let of_older = older.map(|older| Standing { level: older.level, place_us: older.place_us });
        let of_call = |call: &&Call| Standing { level: call.levels_at(self.now_us).1, place_us: call.place_us };
        let polled = match mark {
            Mark::Plain(value) => self.tickets.get(&(key.to_vec(), value.clone())),
            _ => None,
        };
        let of_ticket = polled.map(|ticket| Standing { level: ticket.level, place_us: ticket.earliest_us });
        let all = calls.iter().map(of_call).chain(of_older).chain(of_ticket);
        all.reduce(|one, other| Standing {
            level: one.level.max(other.level),
            place_us: one.place_us.min(other.place_us),
        })
    }

    /// All nodes that may decide know by `at_us` that he waits for this key alone, and he goes on waiting.
    pub(super) fn certainly_waits(&self, call: &Call, key: &[u8], at_us: u64, lock: &Lock) -> bool {
        let asked = &call.asked;
        // He has been given it, and his lease was over before he could be told.
        let had_it = |past: &super::mark::Hold| past.mark.owner() == asked.owner && past.begun_us >= call.since_us;
        asked.keys == [key]
            && asked.wait_us > 0
            && call.since_us + SETTLES_US < at_us
            && asked.until_us(call.since_us) > self.now_us + SETTLES_US
            && asked.over_ms.is_none_or(|over_ms| !self.may_be_over(over_ms))
            && !call.may_end
            && !lock.past.iter().any(had_it)
    }
}

impl Call {
    /// The lowest and the highest level that it may have by now.
    pub(super) fn levels_at(&self, now_us: u64) -> (u8, u8) {
        match self.promoted {
            Some((since_us, level)) if since_us <= now_us => (level, level),
            _ => self.levels,
        }
    }

    /// The worst place that he may have, as far as is known.
    pub(super) fn at_worst(&self, now_us: u64) -> Standing {
        Standing { level: self.levels_at(now_us).0, place_us: self.since_us }
    }

    /// It is the call of that hold, or another of its owner.
    pub(super) fn is_of(&self, mark: &Mark) -> bool {
        match (mark, &self.asked.value) {
            (Mark::Fenced(owner, _), None) => *owner == self.asked.owner,
            (Mark::Plain(value), Some(known)) => value == known,
            _ => false,
        }
    }
}
