//! Waiters who are given another level, and pollers with tickets.

use super::*;

fn polls() -> Op {
    Op::SetNx { ttl_ms: 1000, wait_ms: 0, ticket_ms: 500 }
}

#[test]
fn who_was_given_a_higher_level_goes_first() {
    // Bob came second, and was given a higher level long before the clock saw the lock come free.
    let story = |ann, bob, promoted_ms| {
        Story::begins()
            .tick(2390, 2395, 4)
            .waited("ann", 1, (0, 100, ann), i64::try_from(ann).unwrap())
            .waited("bob", 1, (200, 300, bob), i64::try_from(bob).unwrap())
            .call("bob", Op::Promote { level: 2 }, promoted_ms, promoted_ms + 5, Outcome::Int(1))
    };
    story(2600, 2500, 400).passes();
    story(2500, 2600, 400).fails_by("passed in line");
    // His own node knew of it, the others perhaps not yet.
    story(2500, 2600, 2000).passes();
}

#[test]
fn who_was_given_a_lower_level_or_perhaps_any_may_be_passed() {
    let story = |outcome: Option<Outcome>| {
        let story = Story::begins().waited("ann", 1, (0, 100, 600), 6).waited("bob", 1, (200, 300, 500), 5);
        match outcome {
            Some(outcome) => story.call("ann", Op::Promote { level: 0 }, 150, 155, outcome),
            None => story,
        }
    };
    story(None).fails_by("passed in line");
    story(Some(Outcome::Int(2))).passes();
    story(Some(Outcome::Unknown)).passes();
    // It changed nothing.
    story(Some(Outcome::Nil)).fails_by("passed in line");
}

#[test]
fn a_waiter_who_is_not_found_is_caught() {
    let story = |from_ms| {
        Story::begins().waited("ann", 1, (0, 100, 600), 6).call(
            "ann",
            Op::Promote { level: 2 },
            from_ms,
            from_ms + 5,
            Outcome::Nil,
        )
    };
    // She may have been granted the lock since, or not have stood in line yet.
    story(50).passes();
    story(596).passes();
    let told = |story: Story| story.tick(500, 502, 5);
    told(story(300)).fails_by("a waiter was not found");
    told(story(300)).fault(0, 10).passes();
}

#[test]
fn a_refused_poller_keeps_his_place_as_long_as_his_ticket() {
    let story = |second_poll_ms: u64, node| {
        Story::begins()
            .call("v", polls(), 0, 5, Outcome::Nil)
            .call("v", polls(), second_poll_ms, second_poll_ms + 5, Outcome::Nil)
            .through(node)
    };
    let passes_him = |story: Story, from_ms| story.granted("bob", from_ms, from_ms + 5, 10, 1);
    passes_him(story(400, 0), 600).fails_by("passed in line");
    passes_him(story(400, 0), 900).passes();
    // He came too late, or elsewhere.
    passes_him(story(600, 0), 650).passes();
    passes_him(story(400, 1), 600).passes();
    // Another poller stands behind him.
    story(400, 0).call("w", polls(), 450, 455, Outcome::Ok).fails_by("passed in line");
}

#[test]
fn the_lock_is_kept_for_a_poller_from_before_others_came() {
    let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 5000, level: 3, bond: Bond::None };
    let story = |last_refused_ms: u64| {
        Story::begins()
            .call("v", polls(), 0, 5, Outcome::Nil)
            .call("v", polls(), last_refused_ms, last_refused_ms + 5, Outcome::Nil)
            .call("ann", asks.clone(), 100, 900, Outcome::Int(6))
            .seen("ann", 150)
            .call("v", polls(), 400, 405, Outcome::Ok)
            .call("v", Op::CompareAndDelete, 410, 415, Outcome::Int(1))
            .tick(450, 452, 5)
    };
    // It was his when she came; or else she should have had it.
    story(50).passes();
    story(200).fails_by("passed in line");
}
