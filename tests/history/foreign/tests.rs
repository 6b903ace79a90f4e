//! Histories made by hand: what must pass, and what the foreign judge must not let pass.

use super::judge;
use crate::history::record::{Bond, Call, Fault, Loss, Op, Outcome, Record};

struct Story(Vec<Record>);

impl Story {
    fn call(mut self, owner: &str, op: Op, from_ms: u64, until_ms: u64, outcome: Outcome) -> Self {
        let id = self.0.len() as u64;
        self.0.push(Record::Call(Call {
            id,
            conn: id,
            node: Some(0),
            key: "k".into(),
            owner: owner.into(),
            op,
            from_us: from_ms * 1000,
            until_us: until_ms * 1000,
            outcome,
        }));
        self
    }

    fn granted(self, owner: &str, from_ms: u64, until_ms: u64, ttl_ms: u64, fence: i64) -> Self {
        let op = Op::Acquire { ttl_ms, wait_ms: 0, level: 1, bond: Bond::None };
        self.call(owner, op, from_ms, until_ms, Outcome::Int(fence))
    }

    fn released(self, owner: &str, from_ms: u64, until_ms: u64) -> Self {
        self.call(owner, Op::Release { fence: None }, from_ms, until_ms, Outcome::Int(1))
    }

    fn lost(mut self, what: Loss, from_ms: u64, until_ms: u64) -> Self {
        let (from_us, until_us) = (from_ms * 1000, until_ms * 1000);
        self.0.push(Record::Fault(Fault { what: "test".into(), node: None, from_us, until_us, loses: Some(what) }));
        self
    }

    #[track_caller]
    fn passes(self) {
        let (found, judged) = judge(&self.0);
        assert!(found.is_empty(), "{}", found[0]);
        assert_eq!(judged.undecided, 0);
    }

    #[track_caller]
    fn wrong_is_told(self) {
        assert!(!judge(&self.0).0.is_empty(), "nothing was found");
    }
}

fn story() -> Story {
    Story(Vec::new())
}

#[test]
fn one_after_the_other_passes() {
    story()
        .granted("ann", 0, 1, 1000, 5)
        .released("ann", 10, 11)
        .granted("bob", 5, 12, 1000, 6)
        .granted("bob", 20, 21, 1000, 6)
        .call("bob", Op::Extend { ttl_ms: 100, fence: Some(6) }, 30, 31, Outcome::Int(1))
        .granted("cat", 40, 135, 1000, 9)
        .passes();
}

#[test]
fn two_holders_at_once_are_caught() {
    story().granted("ann", 0, 1, 1000, 5).granted("bob", 10, 12, 1000, 6).wrong_is_told();
}

#[test]
fn a_fence_that_falls_or_repeats_is_caught() {
    story().granted("ann", 0, 1, 1000, 5).released("ann", 10, 11).granted("bob", 20, 21, 1000, 4).wrong_is_told();
    story().granted("ann", 0, 1, 1000, 5).released("ann", 10, 11).granted("bob", 20, 21, 1000, 5).wrong_is_told();
}

#[test]
fn a_fence_that_falls_is_caught_beside_a_loss_as_well() {
    let lost = |what| story().granted("ann", 0, 1, 1000, 5).lost(what, 10, 20);
    lost(Loss::Everything).granted("bob", 30, 31, 1000, 6).passes();
    lost(Loss::Newest).granted("bob", 30, 31, 1000, 6).passes();
    lost(Loss::Everything).granted("bob", 30, 31, 1000, 4).wrong_is_told();
    lost(Loss::Newest).granted("bob", 30, 31, 1000, 4).wrong_is_told();
}

#[test]
fn a_release_of_what_was_anothers_is_caught() {
    story().granted("ann", 0, 1, 1000, 5).released("bob", 10, 11).wrong_is_told();
}

#[test]
fn a_release_without_an_answer_may_come_late() {
    story()
        .granted("ann", 0, 1, 60_000, 5)
        .call("ann", Op::Release { fence: None }, 10, 20, Outcome::Unknown)
        .granted("bob", 15, 400, 1000, 6)
        .passes();
}

#[test]
fn who_was_not_told_may_hold_it_all_the_same() {
    let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 0, level: 1, bond: Bond::None };
    story().call("ann", asks, 0, 5, Outcome::Unknown).released("ann", 10, 11).passes();
}

#[test]
fn a_lease_that_ends_makes_room_and_not_before() {
    story().granted("ann", 0, 1, 100, 5).granted("bob", 50, 96, 1000, 6).passes();
    story().granted("ann", 0, 1, 100, 5).granted("bob", 50, 80, 1000, 6).wrong_is_told();
    story()
        .granted("ann", 0, 1, 100, 5)
        .call("ann", Op::Extend { ttl_ms: 1000, fence: None }, 50, 51, Outcome::Int(1))
        .granted("bob", 150, 180, 1000, 6)
        .wrong_is_told();
}

#[test]
fn a_command_under_a_fence_of_the_past_is_caught() {
    let guard = Op::Guard { fence: 5, command: vec!["INCR".into(), "n".into()] };
    story()
        .granted("ann", 0, 1, 1000, 5)
        .released("ann", 10, 11)
        .granted("bob", 12, 13, 1000, 6)
        .call("ann", guard.clone(), 20, 21, Outcome::Int(1))
        .wrong_is_told();
    story().granted("ann", 0, 1, 1000, 5).call("ann", guard, 20, 21, Outcome::Int(1)).passes();
}

#[test]
fn three_thousand_operations_take_no_time_worth_mentioning() {
    let story = (0..1500u64).fold(story(), |story, at| {
        let from_ms = at * 10;
        story.granted("ann", from_ms, from_ms + 2, 1000, 10 + at as i64).released("ann", from_ms + 3, from_ms + 5)
    });
    story.passes();
}
