//! What can be asked of a line about those who wait in it. Changes nothing.

use std::sync::Arc;

use super::call::{Call, Stage};
use super::line::Line;
use super::rank::Rank;
use crate::domain::{CallId, Level, Moment};

/// A waiter, for others to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// His rank among the waiters of all nodes.
    pub rank: Rank,
    /// The owner he shows.
    pub owner: Arc<[u8]>,
    /// His level.
    pub level: Level,
    /// Since when his call asks, in ms before now.
    pub waited_ms: u64,
    /// When his wait ends, in ms from now; `None` where nothing ends it.
    pub left_ms: Option<u64>,
}

impl Line {
    /// The first `count` waiters, best first.
    pub fn waiters(&self, count: usize, now: Moment) -> Vec<Waiter> {
        let queued = (0..count).map_while(|before| self.queue.nth(before));
        let waiters = queued.map(|(rank, id)| {
            let call = &self.calls[&id];
            let until = call.ticket.as_ref().map(|ticket| ticket.until).or(call.asked.deadline);
            Waiter {
                rank,
                owner: call.asked.form.shown_owner().into(),
                level: call.asked.level,
                waited_ms: now.since_us(call.asked_at) / 1000,
                left_ms: until.map(|until| until.since_us(now) / 1000),
            }
        });
        waiters.collect()
    }

    /// At what level the call stands in line, and since when it asks, in ms before now; `None` where it does not.
    pub fn waits_at(&self, id: CallId, now: Moment) -> Option<(Level, u64)> {
        let call = self.calls.get(&id).filter(|_| self.is_waiting(id))?;
        Some((call.asked.level, now.since_us(call.asked_at) / 1000))
    }

    /// A value that `is_it` is about to be taken back: whoever holds the key by it is about to let go.
    pub fn gives_back(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        self.give_backs.iter().chain(&self.giving_back).any(|give_back| is_it(&give_back.value))
    }

    /// The call stands in line, and nobody is about to tell it that it has the lock.
    pub fn is_waiting(&self, id: CallId) -> bool {
        self.stands_in_line(id) && !self.is_being_confirmed(id) && !self.unconfirmed.contains(&id)
    }

    /// The call waits, though it may be about to be told that it has the lock.
    pub(super) fn stands_in_line(&self, id: CallId) -> bool {
        let waits = |call: &Call| matches!(call.stage, Stage::Waiting) && call.ticket.is_none();
        self.calls.get(&id).is_some_and(waits)
    }

    /// The line looks at nothing by itself, because changes are told.
    pub fn is_watched(&self) -> bool {
        self.is_watched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OwnerId;
    use crate::locks::{Actor, AskedFor, Event, Form, LineRules, Seen, Sent, Tried};

    const RULES: LineRules = LineRules {
        promote_after_us: 0,
        waiting_max: 10,
        place_kept_ms: 5000,
        look_every_ms: 1000,
        retry_base_ms: 50,
        retry_max_ms: 2000,
        claim_ms: 1000,
        queue_kept_ms: 1000,
    };

    fn asks(line: &mut Line, number: u64, name: &str, level: Level) {
        let (call, now) = (CallId(number), Moment::default().plus_ms(number));
        let owner = OwnerId::new(name.as_bytes()).expect("a plain name");
        let form = Form::Lock { owner: owner.clone(), lease_ms: 1000, meta: Arc::from(&b""[..]) };
        let (actor, deadline) = (Actor::Owner(owner), Some(now.plus_ms(500)));
        let (may_wait, ticket_ms, queue_max, place) = (true, 0, None, None);
        let asked = AskedFor { call, actor, form, level, may_wait, ticket_ms, queue_max, place, deadline };
        line.step(Event::Asks(asked), now);
        let seen = Seen { value: b"stranger"[..].into(), left_ms: None, ours: None, by: None };
        let outcome = Tried::Refused { seen, registered: None, arrival_us: number };
        line.step(Event::Tried { call, sent: Sent::default(), outcome }, now);
    }

    #[test]
    fn waiters_are_told_in_order_with_their_times() {
        let mut line = Line::new(RULES, Moment::default());
        asks(&mut line, 1, "ann", Level::Normal);
        asks(&mut line, 2, "bob", Level::Normal);
        asks(&mut line, 3, "cat", Level::High);
        let now = Moment::default().plus_ms(103);
        let listed = line.waiters(2, now);
        let told: Vec<_> = listed.iter().map(|one| (&*one.owner, one.level, one.waited_ms, one.left_ms)).collect();
        assert_eq!(told, [(&b"cat"[..], Level::High, 100, Some(400)), (b"ann", Level::Normal, 102, Some(398))]);
        assert_eq!(line.waiters(usize::MAX, now).len(), 3);
    }
}
