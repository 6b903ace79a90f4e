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
