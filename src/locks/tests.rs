//! The line, told by events.

use std::sync::Arc;

use super::*;
use crate::domain::{CallId, Fence, Level, Moment, OwnerId};

const LEASE_MS: u64 = 10_000;
const RULES: LineRules = LineRules {
    promote_after_us: 0,
    waiting_max: 4,
    place_kept_ms: 5000,
    look_every_ms: 1000,
    retry_base_ms: 50,
    retry_max_ms: 2000,
};

/// A line in front of a lock that somebody called "holder" has, unless told otherwise; time passes only when told to.
struct Story {
    line: Line,
    now: Moment,
    last_call: u64,
    last_fence: u64,
    calls: Vec<(CallId, String)>,
}

impl Story {
    fn new() -> Self {
        Story::with(RULES)
    }

    fn with(rules: LineRules) -> Self {
        let now = Moment(1_000_000);
        Story { line: Line::new(rules, now), now, last_call: 0, last_fence: 100, calls: Vec::new() }
    }

    fn step(&mut self, event: Event) -> Vec<String> {
        let actions = self.line.step(event, self.now);
        actions.into_iter().map(|action| self.told(action)).collect()
    }

    /// An action in the words of these tests.
    fn told(&self, action: Action) -> String {
        let name =
            |call: &CallId| self.calls.iter().find(|(id, _)| id == call).map_or("?", |(_, name)| name).to_owned();
        let to = |offer: Option<Offer>| offer.map_or(String::new(), |offer| format!(" for {}", name(&offer.call)));
        match action {
            Action::Try { call, offer } => format!("{} tries{}", name(&call), to(offer)),
            Action::TryLater { call, .. } => format!("{} tries later", name(&call)),
            Action::GoOn(call) => format!("{} goes on", name(&call)),
            Action::Answer { call, answer } => match answer {
                Answer::Granted { grant, is_new } => {
                    format!("{} has {}{}", name(&call), grant.fence.0, if is_new { "" } else { " still" })
                }
                Answer::NotGranted => format!("{} gets nil", name(&call)),
                Answer::QueueFull { waiting } => format!("{} finds {waiting} before it", name(&call)),
                Answer::Failed(line) => format!("{} fails: {line}", name(&call)),
                Answer::Unavailable(_) => format!("{} finds nobody", name(&call)),
                Answer::ShuttingDown => format!("{} is sent home", name(&call)),
            },
            Action::Release { offer } => format!("release{}", to(offer)),
            Action::HandOver { taken_back: None, offer } => format!("look{}", to(offer)),
            Action::HandOver { taken_back: Some(value), offer } => {
                format!("take back {}{}", String::from_utf8_lossy(&value), to(offer))
            }
        }
    }

    /// A call of that name begins; its owner is the name up to a prime.
    fn begins(&mut self, name: &str, level: Level, may_wait: bool) -> Vec<String> {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.push((call, name.into()));
        let owner = owner(name);
        let asked =
            AskedFor { call, owner, level, lease_ms: LEASE_MS, meta: Arc::from(&b""[..]), may_wait, deadline: None };
        self.step(Event::Asks(asked))
    }

    fn id(&self, name: &str) -> CallId {
        self.calls.iter().rev().find(|(_, known)| known == name).unwrap().0
    }

    fn tried(&mut self, name: &str, offered: Option<&str>, outcome: Tried) -> Vec<String> {
        let (call, offered) = (self.id(name), offered.map(|offered| self.id(offered)));
        self.step(Event::Tried { call, offered, outcome })
    }

    fn refused(&mut self, name: &str, offered: Option<&str>) -> Vec<String> {
        self.now = Moment(self.now.0 + 10);
        let outcome = Tried::Refused { seen: by_stranger(), arrival_us: self.now.0 };
        self.tried(name, offered, outcome)
    }

    /// Asks, is refused and waits.
    fn waits(&mut self, name: &str) {
        self.waits_at(name, Level::Normal);
    }

    fn waits_at(&mut self, name: &str, level: Level) {
        let tries = self.begins(name, level, true);
        let offered = tries[0].split_once(" for ").map(|(_, offered)| offered.to_owned());
        assert!(tries[0].starts_with(&format!("{name} tries")), "{tries:?}");
        assert_eq!(self.refused(name, offered.as_deref()), [""; 0]);
    }

    fn grant(&mut self) -> Grant {
        self.last_fence += 1;
        Grant { fence: Fence(self.last_fence), value: self.last_fence.to_string().into_bytes().into() }
    }

    /// The holder releases, and the script gives the lock to whoever was offered.
    fn holder_releases(&mut self) -> Vec<String> {
        let told = self.step(Event::Releases { owner: owner("holder") });
        let offered = told.last().unwrap().strip_prefix("release for ").map(str::to_owned);
        self.released(offered.as_deref())
    }

    fn released(&mut self, offered: Option<&str>) -> Vec<String> {
        let handed = offered.map(|_| self.grant());
        let offered = offered.map(|offered| self.id(offered));
        self.step(released_by("holder", offered, Released::Freed { handed }))
    }

    fn handed(&mut self, offered: Option<&str>, outcome: Handing) -> Vec<String> {
        let offered = offered.map(|offered| self.id(offered));
        self.step(Event::HandedOver { offered, outcome })
    }

    fn later(&mut self, ms: u64) -> Vec<String> {
        self.now = self.now.plus_ms(ms);
        self.step(Event::Tick)
    }

    fn leaves(&mut self, name: &str) -> Vec<String> {
        let call = self.id(name);
        self.step(Event::Leaves(call))
    }
}

fn owner(name: &str) -> OwnerId {
    OwnerId::new(name.trim_end_matches('\'').as_bytes()).unwrap()
}

fn released_by(name: &str, offered: Option<CallId>, outcome: Released) -> Event {
    Event::Released { owner: owner(name), ends_calls: true, offered, outcome }
}

fn by_stranger() -> Seen {
    Seen { value: Arc::from(&b"stranger"[..]), left_ms: Some(LEASE_MS), ours: None }
}

fn named(story: &Story, name: &str, fence: u64) -> Named {
    Named { call: story.id(name), fence: Fence(fence), is_repeat: false }
}

fn held_by(story: &Story, name: &str, fence: u64) -> Seen {
    Seen {
        value: fence.to_string().into_bytes().into(),
        left_ms: Some(LEASE_MS),
        ours: Some(named(story, name, fence)),
    }
}

#[test]
fn a_free_lock_is_granted_at_once_and_leaves_no_line_behind() {
    let mut story = Story::new();
    assert_eq!(story.begins("ann", Level::Normal, false), ["ann tries"]);
    let grant = story.grant();
    assert_eq!(story.tried("ann", None, Tried::Granted(grant)), ["ann has 101"]);
    assert!(story.line.is_idle());
}

#[test]
fn who_does_not_wait_gets_nil_and_leaves_no_line_behind() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    assert_eq!(story.refused("ann", None), ["ann gets nil"]);
    assert!(story.line.is_idle());
}

#[test]
fn the_first_in_line_gets_it_and_the_gone_are_skipped() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    story.waits("cat");
    story.leaves("ann");
    assert_eq!(story.line.position(&owner("bob")), Some(1));
    assert_eq!(story.holder_releases(), ["bob has 101"]);
    assert_eq!(story.holder_releases(), ["cat has 102"]);
}

#[test]
fn a_higher_level_goes_first() {
    let mut story = Story::new();
    story.waits_at("low", Level::Low);
    story.waits_at("normal", Level::Normal);
    story.waits_at("critical", Level::Critical);
    story.waits_at("high", Level::High);
    for name in ["critical", "high", "normal", "low"] {
        assert!(story.holder_releases()[0].starts_with(&format!("{name} has")));
    }
}

#[test]
fn a_newcomer_never_overtakes_but_by_a_higher_level() {
    let mut story = Story::new();
    story.waits("ann");
    assert_eq!(story.begins("bob", Level::Normal, false), ["bob tries for ann"]);
    let grant = story.grant();
    let outcome = Tried::HandedOver { grant, arrival_us: story.now.0 };
    assert_eq!(story.tried("bob", Some("ann"), outcome), ["ann has 101", "bob gets nil"]);
    story.waits("cat");
    assert_eq!(story.begins("dan", Level::High, true), ["dan tries"]);
}

#[test]
fn with_promotion_a_newcomer_of_the_next_level_passes_only_who_came_just_now() {
    let mut story = Story::with(LineRules { promote_after_us: 500_000, ..RULES });
    story.waits("ann");
    assert_eq!(story.begins("bob", Level::High, false), ["bob tries"]);
    story.refused("bob", None);
    story.now = story.now.plus_ms(501);
    assert_eq!(story.begins("cat", Level::High, false), ["cat tries for ann"]);
}

#[test]
fn a_grant_to_one_who_left_while_it_was_on_its_way_goes_on_to_the_next() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    story.step(Event::Releases { owner: owner("holder") });
    assert_eq!(story.leaves("ann"), [""; 0]);
    assert_eq!(story.released(Some("ann")), ["take back 101 for bob"]);
    let grant = story.grant();
    assert_eq!(story.handed(Some("bob"), Handing::To(grant)), ["bob has 102"]);
}

#[test]
fn a_timeout_that_races_with_the_grant_leaves_the_lock_to_the_next() {
    let mut story = Story::new();
    story.waits("ann");
    story.step(Event::Releases { owner: owner("holder") });
    let call = story.id("ann");
    assert_eq!(story.step(Event::TimesOut(call)), ["ann gets nil"]);
    assert_eq!(story.released(Some("ann")), ["take back 101"]);
    assert_eq!(story.handed(None, Handing::Free), [""; 0]);
    assert!(story.line.is_idle());
}

#[test]
fn what_is_freed_while_a_refusal_is_on_its_way_is_looked_at() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    assert_eq!(story.holder_releases(), [""; 0], "nobody was in line yet");
    assert_eq!(story.refused("ann", None), ["look for ann"]);
}

#[test]
fn at_the_end_of_the_lease_the_key_is_looked_at_and_again_when_it_was_extended() {
    let mut story = Story::new();
    story.waits("ann");
    story.line.step(Event::Extended { lease_ms: 300 }, story.now);
    assert_eq!(story.line.wake_at(), Some(story.now.plus_ms(301)));
    assert_eq!(story.later(301), ["look for ann"]);
    let seen = Seen { left_ms: Some(200), ..by_stranger() };
    assert_eq!(story.handed(Some("ann"), Handing::Held(seen)), [""; 0]);
    assert_eq!(story.later(200), [""; 0]);
    assert_eq!(story.later(1), ["look for ann"]);
}

#[test]
fn a_key_without_expiry_is_looked_at_now_and_then() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    let outcome = Tried::Refused { seen: Seen { left_ms: None, ..by_stranger() }, arrival_us: 5 };
    story.tried("ann", None, outcome);
    assert_eq!(story.later(999), [""; 0]);
    assert_eq!(story.later(1), ["look for ann"]);
}

#[test]
fn a_hint_is_followed_by_the_timer_and_by_one_look_at_a_time() {
    let mut story = Story::new();
    story.waits("ann");
    assert_eq!(story.step(Event::Hint), [""; 0]);
    assert!(story.line.wake_at().unwrap() <= story.now);
    assert_eq!(story.later(0), ["look for ann"]);
    story.step(Event::Hint);
    assert_eq!(story.later(0), [""; 0]);
    assert_eq!(story.handed(Some("ann"), Handing::Held(by_stranger())), ["look for ann"], "the hint may be newer");
}

#[test]
fn the_newer_call_of_an_owner_takes_over_his_place_when_its_try_returns() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.begins("ann'", Level::Normal, true), ["ann' tries"], "nobody else ranks before her");
    assert_eq!(story.refused("ann'", None), ["ann gets nil"]);
    assert_eq!(story.line.position(&owner("ann")), Some(1));
    story.leaves("ann");
    assert_eq!(story.holder_releases(), ["ann' has 101"], "the end of the older connection touches nothing");
}

#[test]
fn a_newer_call_that_may_not_have_the_key_takes_nothing_over() {
    let mut story = Story::new();
    story.waits("ann");
    story.begins("ann'", Level::Normal, true);
    let outcome = Tried::Failed { line: "NOPERM no".into(), passes: false };
    assert_eq!(story.tried("ann'", None, outcome), ["ann' fails: NOPERM no"]);
    assert_eq!(story.holder_releases(), ["ann has 101"]);
}

#[test]
fn a_newer_call_repeats_what_the_older_was_granted_meanwhile() {
    let mut story = Story::new();
    story.waits("ann");
    story.begins("ann'", Level::Normal, true);
    assert_eq!(story.holder_releases(), ["ann has 101"]);
    assert_eq!(story.refused("ann'", None), ["ann' tries later"]);
    let call = story.id("ann'");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann' tries"]);
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    let outcome = Tried::Repeated { grant, before: Arc::from(&b"101"[..]), ours: None };
    assert_eq!(story.tried("ann'", None, outcome), ["ann' has 101 still"]);
}

#[test]
fn a_place_is_kept_for_five_seconds_and_no_longer() {
    for (pause_ms, place) in [(4999, 1), (5000, 2)] {
        let mut story = Story::new();
        story.waits("ann");
        story.waits("bob");
        story.leaves("ann");
        assert_eq!(story.line.position(&owner("ann")), None, "he is passed over meanwhile");
        story.now = story.now.plus_ms(pause_ms);
        story.line.step(Event::Extended { lease_ms: LEASE_MS }, story.now);
        story.begins("ann'", Level::Normal, true);
        story.refused("ann'", (place == 2).then_some("bob"));
        assert_eq!(story.line.position(&owner("ann")), Some(place));
    }
}

#[test]
fn a_release_ends_the_owners_own_calls_and_his_place() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.step(Event::Releases { owner: owner("ann") }), ["release for bob"]);
    let offered = Some(story.id("bob"));
    assert_eq!(story.step(released_by("ann", offered, Released::Kept)), ["ann gets nil"], "another holds it");
    assert_eq!(story.line.position(&owner("bob")), Some(1));
}

#[test]
fn a_cancelled_call_gets_nil_and_keeps_no_place() {
    let mut story = Story::new();
    story.waits("ann");
    assert!(story.line.waits(&owner("ann")));
    assert_eq!(story.step(Event::Cancels(owner("ann"))), ["ann gets nil"]);
    assert!(story.line.is_idle());
}

#[test]
fn a_full_queue_turns_newcomers_away_but_not_those_who_ask_again() {
    let mut story = Story::new();
    for name in ["ann", "bob", "cat", "dan"] {
        story.waits(name);
    }
    story.begins("eve", Level::Normal, true);
    assert_eq!(story.refused("eve", Some("ann")), ["eve finds 4 before it"]);
    story.begins("dan'", Level::Normal, true);
    assert_eq!(story.refused("dan'", Some("ann")), ["dan gets nil"]);
}

#[test]
fn a_lost_try_is_asked_again_and_its_ghost_is_laid() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    assert_eq!(story.tried("ann", None, Tried::Lost("".into())), ["ann tries later"]);
    let call = story.id("ann");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann tries"]);
    assert_eq!(story.tried("ann", None, Tried::Lost("".into())), ["ann finds nobody", "look"]);
    assert_eq!(story.handed(None, Handing::NotReached), [""; 0], "not in a busy loop");
    assert_eq!(story.later(100), ["look"]);
    let seen = held_by(&story, "ann", 7);
    assert_eq!(story.handed(None, Handing::Held(seen)), ["take back 7"]);
    assert_eq!(story.handed(None, Handing::Free), [""; 0]);
    assert!(story.line.is_idle());
}

#[test]
fn a_lost_hand_over_is_found_by_looking() {
    let mut story = Story::new();
    story.waits("ann");
    story.step(Event::Releases { owner: owner("holder") });
    let offered = Some(story.id("ann"));
    let lost = Event::Released { owner: owner("holder"), ends_calls: false, offered, outcome: Released::Lost };
    assert_eq!(story.step(lost), ["look for ann"]);
    let seen = held_by(&story, "ann", 7);
    assert_eq!(story.handed(Some("ann"), Handing::Held(seen)), ["ann has 7"]);
    assert!(story.line.is_idle());
}

#[test]
fn an_older_try_under_way_holds_the_owners_newer_call_back() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.leaves("ann");
    assert_eq!(story.begins("ann'", Level::Normal, true), [""; 0]);
    let grant = story.grant();
    assert_eq!(
        story.tried("ann", None, Tried::Granted(grant)),
        ["ann' goes on"],
        "nobody was told, and nobody else gets it"
    );
    let call = story.id("ann'");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann' tries"]);
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    story.leaves("ann'");
    let outcome = Tried::Repeated { grant, before: Arc::from(&b"old"[..]), ours: None };
    assert_eq!(story.tried("ann'", None, outcome), ["take back new"], "nobody was told of this fence ever");
}

#[test]
fn a_repeat_whose_client_left_does_not_end_the_hold() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    story.leaves("ann");
    let grant = story.grant();
    assert_eq!(
        story.tried("ann", None, Tried::Repeated { grant, before: Arc::from(&b"old"[..]), ours: None }),
        [""; 0]
    );
    assert!(story.line.is_idle());
}

#[test]
fn a_key_that_is_no_lock_any_more_sends_its_waiters_home() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    story.later(1000);
    let outcome = Handing::Failed { line: "WRONGTYPE no".into(), is_final: true };
    assert_eq!(story.handed(Some("ann"), outcome), ["ann fails: WRONGTYPE no", "bob fails: WRONGTYPE no"]);
}

#[test]
fn a_waiter_stays_while_the_upstream_is_away() {
    let mut story = Story::new();
    story.waits("ann");
    story.later(1000);
    for attempt in 1..6 {
        assert_eq!(story.handed(Some("ann"), Handing::NotReached), [""; 0]);
        assert_eq!(story.later((50 << (attempt - 1)) - 1), [""; 0]);
        assert_eq!(story.later(50 << attempt), ["look for ann"]);
    }
    let grant = story.grant();
    assert_eq!(story.handed(Some("ann"), Handing::To(grant)), ["ann has 101"]);
}

#[test]
fn a_wait_shorter_than_the_round_trip_ends_with_the_try() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    let call = story.id("ann");
    assert_eq!(story.step(Event::TimesOut(call)), [""; 0]);
    assert_eq!(story.refused("ann", None), ["ann gets nil"]);
}

#[test]
fn shutting_down_answers_those_who_wait() {
    let mut story = Story::new();
    story.waits("ann");
    story.begins("bob", Level::Normal, true);
    story.begins("cat", Level::Normal, false);
    assert_eq!(story.step(Event::ShutsDown), ["ann is sent home", "bob is sent home"]);
}

#[test]
fn ten_thousand_waiters_are_served_in_order_quickly() {
    let mut story = Story::with(LineRules { waiting_max: 20_000, ..RULES });
    let began = std::time::Instant::now();
    for number in 0..10_000u64 {
        let asked = AskedFor {
            call: CallId(number + 1),
            owner: owner(&format!("o{number}")),
            level: Level::Normal,
            lease_ms: LEASE_MS,
            meta: Arc::from(&b""[..]),
            may_wait: true,
            deadline: None,
        };
        let tries = story.line.step(Event::Asks(asked), story.now);
        let Some(Action::Try { offer, .. }) = tries.into_iter().next() else { panic!("no try") };
        let outcome = Tried::Refused { seen: by_stranger(), arrival_us: number };
        let offered = offer.map(|offer| offer.call);
        story.line.step(Event::Tried { call: CallId(number + 1), offered, outcome }, story.now);
    }
    assert_eq!(story.line.position(&owner("o5000")), Some(5001));
    for number in 0..10_000u64 {
        let actions = story.line.step(Event::Releases { owner: owner("holder") }, story.now);
        let Some(Action::Release { offer: Some(offer) }) = actions.into_iter().next() else { panic!("no offer") };
        assert_eq!(offer.call, CallId(number + 1));
        let handed = Some(story.grant());
        let event = released_by("holder", Some(offer.call), Released::Freed { handed });
        assert!(matches!(story.line.step(event, story.now)[..], [Action::Answer { .. }]));
    }
    assert!(story.line.is_idle());
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
