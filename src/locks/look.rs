//! What can be asked of a line: who waits, in which order, and where somebody stands. Changes nothing.

use std::sync::Arc;

use super::line::Line;
use super::rank::Rank;
use crate::domain::{Level, Moment, OwnerId};

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
    /// The rank of the waiter who shows this owner, the best one's where there are several.
    pub fn rank_of(&self, owner: &[u8]) -> Option<Rank> {
        self.waiting_call(&OwnerId::new(owner)?)?.rank(self.rules.promote_after_us)
    }

    /// How many rank before `rank`, whoever has that.
    pub fn before(&self, rank: Rank) -> usize {
        self.queue.count_before(rank)
    }

    /// The first `count` waiters, best first.
    pub fn waiters(&self, count: usize, now: Moment) -> Vec<Waiter> {
        let queued = (0..count).map_while(|before| self.queue.nth(before));
        let waiters = queued.map(|(rank, id)| {
            let call = &self.calls[&id];
            Waiter {
                rank,
                owner: call.asked.owner.as_bytes().into(),
                level: call.asked.level,
                waited_ms: now.since_us(call.asked_at) / 1000,
                left_ms: call.asked.deadline.map(|deadline| deadline.since_us(now) / 1000),
            }
        });
        waiters.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CallId;
    use crate::locks::{AskedFor, Event, LineRules, Seen, Tried};

    const RULES: LineRules = LineRules {
        promote_after_us: 0,
        waiting_max: 10,
        place_kept_ms: 5000,
        look_every_ms: 1000,
        retry_base_ms: 50,
        retry_max_ms: 2000,
    };

    fn owner(name: &str) -> OwnerId {
        OwnerId::new(name.as_bytes()).expect("a plain name")
    }

    fn asks(line: &mut Line, number: u64, name: &str, level: Level) {
        let (call, now) = (CallId(number), Moment::default().plus_ms(number));
        let deadline = Some(now.plus_ms(500));
        let (owner, meta) = (owner(name), Arc::from(&b""[..]));
        let asked = AskedFor { call, owner, level, lease_ms: 1000, meta, may_wait: true, deadline };
        line.step(Event::Asks(asked), now);
        let seen = Seen { value: b"stranger"[..].into(), left_ms: None, ours: None };
        line.step(Event::Tried { call, offered: None, outcome: Tried::Refused { seen, arrival_us: number } }, now);
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
        let bob = line.rank_of(b"bob").expect("he waits");
        assert_eq!((line.before(bob), line.rank_of(b"dan"), line.rank_of(b"\x1f")), (2, None, None));
    }

    #[test]
    fn who_is_promoted_stands_by_his_arrival_at_his_new_level() {
        let mut line = Line::new(RULES, Moment::default());
        asks(&mut line, 1, "ann", Level::Normal);
        asks(&mut line, 2, "bob", Level::High);
        asks(&mut line, 3, "cat", Level::Low);
        for (name, level, places) in
            [("cat", Level::High, [3, 1, 2]), ("ann", Level::High, [1, 2, 3]), ("dan", Level::Low, [1, 2, 3])]
        {
            line.step(Event::Promotes { owner: owner(name), level }, Moment::default());
            let now = ["ann", "bob", "cat"].map(|name| line.position(&owner(name)).unwrap_or(0));
            assert_eq!(now, places, "{name}");
        }
    }

    #[test]
    fn a_watched_line_looks_at_nothing_by_itself() {
        let mut line = Line::new(RULES, Moment::default());
        asks(&mut line, 1, "ann", Level::Normal);
        assert_eq!(line.wake_at(), Some(Moment::default().plus_ms(1001)));
        line.step(Event::Watched(true), Moment::default());
        assert_eq!(line.wake_at(), None);
        line.step(Event::Hint, Moment::default());
        assert!(line.wake_at().is_some(), "but it follows hints");
    }
}
