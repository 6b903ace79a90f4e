//! What a server's losses excuse, and what they do not.

use super::*;

#[test]
fn a_lock_that_was_lost_with_everything_may_be_granted_anew() {
    let story = || Story::begins().granted("ann", 0, 2, 5000, 1);
    let next = |story: Story, fence| story.granted("bob", 1000, 1002, 1000, fence);
    next(story().lost(Loss::Everything, 500, 600), 2).passes();
    next(story().fault(500, 600), 2).fails_by("two holders");
    // It was lost after bob had it, or before ann had.
    next(story().lost(Loss::Everything, 1100, 1200), 2).fails_by("two holders");
    let late = Story::begins().lost(Loss::Everything, 0, 10).granted("ann", 20, 22, 5000, 1);
    next(late, 2).fails_by("two holders");
}

#[test]
fn fences_grow_whatever_is_lost() {
    for what in [Loss::Everything, Loss::Newest] {
        let story = || Story::begins().granted("ann", 450, 452, 100, 5).lost(what, 400, 600);
        story().granted("bob", 1000, 1002, 1000, 6).passes();
        story().granted("bob", 1000, 1002, 1000, 4).fails_by("a fence did not grow");
        story().granted("bob", 1000, 1002, 1000, 5).fails_by("one fence for two");
    }
}

#[test]
fn only_the_newest_is_lost_with_a_master() {
    let story = |from_ms| Story::begins().granted("ann", from_ms, from_ms + 2, 5000, 1).lost(Loss::Newest, 500, 600);
    let next = |story: Story| story.granted("bob", 1000, 1002, 1000, 2);
    next(story(550)).passes();
    // It had been replicated, or was given by the new master.
    next(story(300)).fails_by("two holders");
    next(story(650)).fails_by("two holders");
    // Told of at 550, as a claim it can have been there before: its lease was a claim's then.
    let waited = |told_ms| Story::begins().tick(450, 455, 2).call("ann", asks(5000, 5000), 0, told_ms, Outcome::Int(1));
    let next = |story: Story| story.granted("bob", 2000, 2002, 1000, 3);
    next(waited(550).lost(Loss::Newest, 500, 600)).passes();
    next(waited(490).lost(Loss::Newest, 500, 600)).fails_by("two holders");
}

#[test]
fn a_key_that_no_longer_holds_what_was_lost_is_no_wonder() {
    let story = |what, from_ms| {
        let story = Story::begins().granted("ann", from_ms, from_ms + 2, 5000, 1).held(None, 1000, 1100);
        story.lost(what, 500, 600)
    };
    story(Loss::Everything, 100).passes();
    story(Loss::Newest, 550).passes();
    story(Loss::Newest, 100).fails_by("the key is not the holder's");
}

#[test]
fn a_release_that_was_lost_leaves_the_lock_to_its_owner() {
    let story = |released_ms| {
        Story::begins().granted("ann", 0, 2, 5000, 1).released("ann", released_ms, released_ms + 2, 1).lost(
            Loss::Newest,
            500,
            600,
        )
    };
    let again = |story: Story| story.granted("ann", 1000, 1002, 5000, 1);
    again(story(550)).passes();
    again(story(300)).fails_by("a released fence is told again");
    let guarded =
        |story: Story| story.call("ann", Op::Guard { fence: 1, command: Vec::new() }, 1000, 1002, Outcome::Ok);
    guarded(story(550)).passes();
    guarded(story(300)).fails_by("a guard let one of the past through");
}

#[test]
fn an_extension_that_was_lost_leaves_the_lease_as_it_was() {
    let story = |extended_ms| {
        Story::begins()
            .granted("ann", 0, 2, 1000, 1)
            .call("ann", Op::Extend { ttl_ms: 9000, fence: Some(1) }, extended_ms, extended_ms + 2, Outcome::Int(1))
            .lost(Loss::Newest, 500, 600)
            .granted("bob", 2000, 2002, 1000, 2)
    };
    story(550).passes();
    story(300).fails_by("two holders");
}

#[test]
fn updates_are_lost_with_the_data_and_not_otherwise() {
    let story = |wrote_ms| {
        Story::begins()
            .granted("ann", 0, 2, 5000, 1)
            .lost(Loss::Newest, 500, 600)
            .wrote(1, wrote_ms, wrote_ms + 5, 0, true)
            .wrote(1, 1000, 1005, 0, true)
    };
    story(550).passes();
    story(300).fails_by("a lost update");
    let guarded = |wrote_ms, what| {
        Story::begins().lost(what, 500, 600).wrote_guarded(1, wrote_ms, wrote_ms + 5, 0).wrote_guarded(2, 1000, 1005, 0)
    };
    guarded(550, Loss::Newest).passes();
    guarded(300, Loss::Everything).passes();
    guarded(300, Loss::Newest).fails_by("a guarded update was lost");
    guarded(700, Loss::Everything).fails_by("a guarded update was lost");
}

#[test]
fn nobody_sleeps_after_a_loss_and_everybody_is_answered() {
    let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 9000, level: 1, bond: Bond::None };
    let story = |free_until_ms| {
        Story::begins()
            .call("ann", asks.clone(), 0, 9000, Outcome::Nil)
            .seen("ann", 100)
            .lost(Loss::Newest, 500, 600)
            .held(None, 700, free_until_ms)
    };
    story(8000).fails_by("a sleeper before a free key");
    story(5000).passes();
    Story::begins().lost(Loss::Everything, 5, 10).call("ann", asks, 0, 20_000, Outcome::Missing).fails_by("no answer");
}
