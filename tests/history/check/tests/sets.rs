//! Sets of several keys, guards, and refusals.

use super::*;

fn asks_for_both(wait_ms: u64) -> Op {
    let keys = SEVERAL.map(str::to_owned).to_vec();
    Op::AcquireAll { keys, ttl_ms: 1000, wait_ms, level: 1 }
}

fn releases_both() -> Op {
    Op::ReleaseAll { keys: SEVERAL.map(str::to_owned).to_vec() }
}

fn fences(first: i64, second: i64) -> [Outcome; 2] {
    [first, second].map(Outcome::Int)
}

fn guard(fence: i64) -> Op {
    Op::Guard { fence, command: vec!["GET".into(), "x".into()] }
}

fn fenced() -> Outcome {
    Outcome::Error("-FENCED nobody holds it".into())
}

#[test]
fn a_set_excludes_others_at_each_of_its_keys() {
    let story = || Story::begins().several("ann", &asks_for_both(0), (0, 2), fences(1, 2));
    for key in SEVERAL {
        story().granted("bob", 500, 502, 1000, 3).at(key).fails_by("two holders");
        story()
            .several("ann", &releases_both(), (100, 110), [2, 2].map(Outcome::Int))
            .granted("bob", 500, 502, 1000, 3)
            .at(key)
            .passes();
        // Nobody knows whose it was that one.
        story()
            .granted("ann", 120, 122, 300, 4)
            .at("elsewhere")
            .several("ann", &releases_both(), (100, 110), [1, 1].map(Outcome::Int))
            .granted("bob", 500, 502, 1000, 5)
            .at(key)
            .fails_by("a holder was turned away");
    }
}

#[test]
fn each_key_of_a_set_has_a_fence_of_its_own() {
    Story::begins().several("ann", &asks_for_both(0), (0, 2), fences(1, 2)).passes();
    Story::begins().several("ann", &asks_for_both(0), (0, 2), fences(1, 1)).fails_by("one fence for two");
}

#[test]
fn half_a_set_is_caught() {
    Story::begins()
        .several("ann", &asks_for_both(0), (0, 2), [Outcome::Int(1), Outcome::Nil])
        .fails_by("half a set was granted");
    Story::begins().several("ann", &asks_for_both(0), (0, 2), [Outcome::Nil, Outcome::Nil]).passes();
}

#[test]
fn a_set_that_nobody_was_told_of_is_caught_when_it_stays() {
    let story = |outcome: Outcome| {
        Story::begins()
            .several("ann", &asks_for_both(500), (0, 500), [outcome.clone(), outcome])
            .granted("bob", 9000, 9001, 10, 9)
            .held(Some(&value("ann", 1, "x")), 400, 4000)
    };
    story(Outcome::Nil).fails_by("given to the gone");
    story(Outcome::Error("-UNAVAILABLE".into())).fault(100, 200).passes();
}

#[test]
fn a_set_passes_nobody_and_may_be_passed_while_another_key_is_in_its_way() {
    let set_granted = |until_ms| {
        Story::begins().several("ann", &asks_for_both(5000), (200, until_ms), fences(5, 6)).several(
            "ann",
            &releases_both(),
            (until_ms + 10, until_ms + 12),
            [2, 2].map(Outcome::Int),
        )
    };
    set_granted(500).waited("bob", 1, (0, 100, 600), 7).fails_by("passed in line");
    set_granted(700).waited("bob", 1, (0, 100, 600), 4).passes();
    let set_seen = set_granted(900).seen("ann", 250);
    set_seen.waited("bob", 1, (300, 400, 600), 4).passes();
}

#[test]
fn a_set_sleeps_only_where_all_its_keys_are_free() {
    let asks = asks_for_both(8000);
    let story = || Story::begins().several("ann", &asks, (0, 8000), [Outcome::Nil, Outcome::Nil]).held(None, 200, 6000);
    let other = |held: Record| match held {
        Record::Held(held) => Record::Held(Held { key: SEVERAL[1].into(), ..held }),
        other => other,
    };
    let with = |value: Option<&str>, from_ms, until_ms| {
        let Story(mut records) = story().held(value, from_ms, until_ms);
        let held = other(records.pop().unwrap());
        Story(records).and(held)
    };
    with(None, 300, 5000).fails_by("a sleeper before a free key");
    with(None, 300, 3000).passes();
    with(Some("v"), 300, 5000).passes();
}

// ---- Guards, and others that are refused.

#[test]
fn a_guard_that_refuses_the_holder_is_caught() {
    let story =
        |from_ms| Story::begins().granted("ann", 0, 2, 1000, 1).call("ann", guard(1), from_ms, from_ms + 5, fenced());
    story(500).fails_by("a holder was turned away");
    // Her lease may have been over.
    story(994).passes();
    Story::begins().granted("ann", 0, 2, 1000, 2).call("ann", guard(1), 500, 505, fenced()).passes();
}

#[test]
fn a_guard_that_lets_one_of_the_past_through_is_caught() {
    let ran = |story: Story| story.call("ann", guard(1), 500, 505, Outcome::Ok);
    let story = || Story::begins().granted("ann", 0, 2, 100, 1);
    ran(story()).passes();
    ran(story().granted("bob", 300, 302, 50, 2)).fails_by("a guard let one of the past through");
    // It may have run just before.
    ran(story()).granted("bob", 503, 504, 50, 2).passes();
    ran(story().released("ann", 50, 52, 1)).fails_by("a guard let one of the past through");
    let plain = Op::SetNx { ttl_ms: 1000, wait_ms: 0, ticket_ms: 0 };
    ran(story().call("v", plain, 300, 302, Outcome::Ok)).fails_by("a guard let one of the past through");
}

#[test]
fn a_guarded_update_that_is_lost_is_caught() {
    let story = || Story::begins().granted("ann", 0, 2, 1000, 1).wrote_guarded(1, 10, 20, 0);
    let end = |number| {
        let guarded = BTreeMap::from([(KEY.to_owned(), number)]);
        Record::End(End { guarded, ..End::default() })
    };
    // However late it came: the lock was still held then, or it would not have run.
    story().wrote_guarded(2, 2000, 2010, 1).and(end(2)).passes();
    story().wrote_guarded(2, 2000, 2010, 0).fails_by("a guarded update was lost");
    story().wrote_guarded(2, 2000, 2010, 1).and(end(1)).fails_by("a guarded update was lost");
}

#[test]
fn a_victim_without_a_cycle_is_caught() {
    let deadlock = || Outcome::Error("-DEADLOCK ann -> k -> bob -> l -> ann".into());
    let story = || Story::begins().call("ann", asks(1000, 5000), 100, 200, deadlock());
    story().fails_by("a victim without a cycle");
    story().granted("ann", 0, 2, 1000, 1).at("l").passes();
    story()
        .granted("ann", 0, 2, 1000, 1)
        .at("l")
        .released("ann", 50, 52, 1)
        .at("l")
        .fails_by("a victim without a cycle");
}

#[test]
fn an_error_out_of_nowhere_is_caught() {
    let story = || Story::begins().call("ann", asks(1000, 0), 0, 2, Outcome::Error("-ERR whatever".into()));
    story().fails_by("an error out of nowhere");
    story().fault(0, 1).passes();
}
