//! Which call of a deadlock is ended: a pure function of the cycle, the same wherever it is asked.

use std::cmp::Reverse;

use super::wait::WaitId;
use crate::domain::Level;

/// How the victim of a deadlock is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VictimPolicy {
    /// Who waits at the lowest level.
    #[default]
    LowestPriority,
    /// Whose lock in the cycle was taken last: he has done the least since.
    Youngest,
    /// Who holds the fewest locks.
    FewestLocks,
    /// Whose wait began last, and so closed the cycle.
    Requester,
}

impl VictimPolicy {
    /// The word for people, as the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            VictimPolicy::LowestPriority => "lowest_priority",
            VictimPolicy::Youngest => "youngest",
            VictimPolicy::FewestLocks => "fewest_locks",
            VictimPolicy::Requester => "requester",
        }
    }
}

/// A party to a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its wait.
    pub id: WaitId,
    /// A `SET NX`: it loses nothing but its patience when it gets nil early.
    pub is_plain: bool,
    /// At what level it waits.
    pub level: Level,
    /// Since when it waits, Unix time in µs.
    pub since_us: u64,
    /// Since when it holds what the one before it in the cycle waits for, Unix time in ms; `None` where the value does not tell.
    pub holds_since_ms: Option<u64>,
    /// How many locks it holds.
    pub locks: u64,
}

/// The place of the victim among the parties to a cycle. Where a `SET NX` waits in it, that one. What the policy leaves open is decided
/// by the lowest level, then by the latest wait, then by its name.
pub fn victim(cycle: &[Candidate], policy: VictimPolicy) -> Option<usize> {
    let has_plain = cycle.iter().any(|party| party.is_plain);
    let parties = cycle.iter().enumerate().filter(|(_, party)| party.is_plain == has_plain);
    let rank = |party: &Candidate| {
        let first = match policy {
            VictimPolicy::LowestPriority => u64::from(party.level.number()),
            VictimPolicy::Youngest => u64::MAX - party.holds_since_ms.unwrap_or(party.since_us / 1000),
            VictimPolicy::FewestLocks => party.locks,
            VictimPolicy::Requester => u64::MAX - party.since_us,
        };
        (first, party.level, Reverse((party.since_us, party.id.clone())))
    };
    parties.min_by_key(|(_, party)| rank(party)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CallId;

    const POLICIES: [VictimPolicy; 4] =
        [VictimPolicy::LowestPriority, VictimPolicy::Youngest, VictimPolicy::FewestLocks, VictimPolicy::Requester];

    fn party(node: &str, call: u64) -> Candidate {
        Candidate {
            id: WaitId { node: node.into(), call: CallId(call) },
            is_plain: false,
            level: Level::Normal,
            since_us: call,
            holds_since_ms: Some(7),
            locks: 1,
        }
    }

    /// The victim's node, whichever party is named first.
    fn chosen(cycle: &[Candidate], policy: VictimPolicy) -> String {
        let mut cycle = cycle.to_vec();
        let mut found = Vec::new();
        for _ in 0..cycle.len() {
            let place = victim(&cycle, policy).expect("a cycle has a victim");
            found.push(cycle[place].id.node.to_string());
            cycle.rotate_left(1);
        }
        found.dedup();
        assert_eq!(found.len(), 1, "the victim depends on where one begins to count: {found:?}");
        found.remove(0)
    }

    #[test]
    fn each_policy_has_its_own_measure() {
        let a = Candidate { level: Level::Low, holds_since_ms: Some(1), locks: 9, ..party("a", 1) };
        let b = Candidate { level: Level::High, holds_since_ms: Some(9), locks: 9, ..party("b", 2) };
        let c = Candidate { level: Level::High, holds_since_ms: Some(2), locks: 1, ..party("c", 3) };
        let d = Candidate { level: Level::High, holds_since_ms: Some(2), locks: 9, ..party("d", 4) };
        let cycle = [a, b, c, d];
        assert_eq!(POLICIES.map(|policy| chosen(&cycle, policy)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn ties_end_with_the_latest_and_in_the_end_with_the_name() {
        for policy in POLICIES {
            let low = Candidate { level: Level::Low, ..party("low", 5) };
            assert_eq!(chosen(&[party("a", 5), low, party("b", 5)], policy), "low", "{policy:?}");
            assert_eq!(chosen(&[party("a", 5), party("b", 6), party("c", 4)], policy), "b", "{policy:?}");
            assert_eq!(chosen(&[party("b", 5), party("a", 5)], policy), "b", "{policy:?}");
        }
    }

    #[test]
    fn a_waiting_set_nx_goes_first_whatever_the_policy() {
        for policy in POLICIES {
            let plain = Candidate { is_plain: true, level: Level::Critical, locks: 9, ..party("plain", 1) };
            assert_eq!(chosen(&[party("a", 5), plain, party("b", 6)], policy), "plain");
        }
        assert_eq!(victim(&[], VictimPolicy::Youngest), None);
    }
}
