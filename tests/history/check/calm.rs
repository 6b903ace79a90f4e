//! When nothing was broken: only then can order and promptness be judged.

use super::Tale;
use crate::history::record::Outcome;

/// For how long such a stall is felt.
const STALL_FELT_US: u64 = 1_500_000;

/// Times at which something was broken, with the time that it takes to be well again.
pub struct Calm {
    spans: Vec<(u64, u64, Option<usize>)>,
}

impl Calm {
    /// A fault is felt for `felt_us` after its end. A clock's lock, or a look at the server, that took longer than `stall_us` shows a
    /// machine, a node or a server that stood still.
    pub fn of(tale: &Tale, felt_us: u64, stall_us: u64) -> Self {
        let faults = tale.faults.iter().map(|fault| (fault.from_us, fault.until_us + felt_us, fault.node));
        let stalls = tale.ticks.iter().filter(|tick| {
            tick.until_us - tick.from_us > stall_us || !matches!(tick.outcome, Outcome::Int(1..) | Outcome::Ok)
        });
        let stalls = stalls.map(|tick| (tick.from_us, tick.until_us + STALL_FELT_US, tick.node));
        let gaps = tale.held.values().flatten().filter(|held| held.gap_us > stall_us);
        let gaps = gaps.map(|held| (held.first_us.0, held.last_us.1 + STALL_FELT_US, None));
        Calm { spans: faults.chain(stalls).chain(gaps).collect() }
    }

    /// Nothing was broken from `from_us` to `until_us`, anywhere.
    pub fn holds(&self, from_us: u64, until_us: u64) -> bool {
        self.spans.iter().all(|(from, until, _)| *until < from_us || until_us < *from)
    }

    /// Nothing was broken that concerns this node: others may have been.
    pub fn holds_for(&self, node: Option<usize>, from_us: u64, until_us: u64) -> bool {
        self.spans.iter().all(|span| !concerns(span, node) || span.1 < from_us || until_us < span.0)
    }

    /// The longest part of this time in which nothing was broken that concerns this node.
    pub fn longest_for(&self, node: Option<usize>, from_us: u64, until_us: u64) -> (u64, u64) {
        let mut broken: Vec<(u64, u64)> =
            self.spans.iter().filter(|span| concerns(span, node)).map(|(from, until, _)| (*from, *until)).collect();
        broken.sort_unstable();
        let (mut longest, mut whole_from) = ((from_us, from_us), from_us);
        for (from, until) in broken.into_iter().chain([(until_us, until_us)]) {
            let whole_until = from.min(until_us);
            if whole_until.saturating_sub(whole_from) > longest.1 - longest.0 {
                longest = (whole_from, whole_until);
            }
            whole_from = whole_from.max(until);
        }
        longest
    }
}

fn concerns((_, _, of): &(u64, u64, Option<usize>), node: Option<usize>) -> bool {
    of.is_none() || node.is_none() || *of == node
}
