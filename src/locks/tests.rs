//! The line, told by events.

use std::collections::HashMap;
use std::sync::Arc;

use super::rank::{Place, Rank};
use super::*;
use crate::domain::{CallId, Fence, Level, Moment, OwnerId, PlainLease};

const LEASE_MS: u64 = 10_000;
const RULES: LineRules = LineRules {
    promote_after_us: 0,
    waiting_max: 4,
    place_kept_ms: 5000,
    look_every_ms: 1000,
    retry_base_ms: 50,
    retry_max_ms: 2000,
    claim_ms: 1000,
    queue_kept_ms: 60_000,
};

/// A line in front of a lock that somebody called "holder" has, unless told otherwise; time passes only when told to.
struct Story {
    line: Line,
    now: Moment,
    last_call: u64,
    last_fence: u64,
    calls: Vec<(CallId, String)>,
    /// What the scripts under way were sent with.
    tries: HashMap<CallId, (Level, Sent)>,
    release: Sent,
    hand_over: Sent,
}

impl Story {
    fn new() -> Self {
        Story::with(RULES)
    }

    fn with(rules: LineRules) -> Self {
        let now = Moment(1_000_000);
        Story {
            line: Line::new(rules, now),
            now,
            last_call: 0,
            last_fence: 100,
            calls: Vec::new(),
            tries: HashMap::new(),
            release: Sent::default(),
            hand_over: Sent::default(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<String> {
        let level = if let Event::Asks(asked) = &event { asked.level } else { Level::Normal };
        let actions = self.line.step(event, self.now);
        for action in &actions {
            match action {
                Action::Try { call, turn, .. } => drop(self.tries.insert(*call, (level, turn.sent()))),
                Action::Release(turn) => self.release = turn.sent(),
                Action::HandOver { turn, .. } => self.hand_over = turn.sent(),
                _ => {}
            }
        }
        actions.into_iter().map(|action| self.told(action)).collect()
    }

    /// An action in the words of these tests.
    fn told(&self, action: Action) -> String {
        let name =
            |call: &CallId| self.calls.iter().find(|(id, _)| id == call).map_or("?", |(_, name)| name).to_owned();
        let to = |turn: Turn| turn.offers.first().map_or(String::new(), |offer| format!(" for {}", name(&offer.call)));
        match action {
            Action::Try { call, turn, .. } => format!("{} tries{}", name(&call), to(turn)),
            Action::TryLater { call, .. } => format!("{} tries later", name(&call)),
            Action::GoOn(call) => format!("{} goes on", name(&call)),
            Action::Answer { call, answer } => match answer {
                Answer::Granted { grant, is_new } => {
                    format!("{} has {}{}", name(&call), grant.fence.0, if is_new { "" } else { " still" })
                }
                Answer::NotGranted => format!("{} gets nil", name(&call)),
                Answer::QueueFull { waiting } => format!("{} finds {waiting} before it", name(&call)),
                Answer::Failed(line) => format!("{} fails: {line}", name(&call)),
                Answer::Unreached(_) | Answer::Unavailable(_) => format!("{} finds nobody", name(&call)),
                Answer::ShuttingDown => format!("{} is sent home", name(&call)),
            },
            Action::Release(turn) => format!("release{}", to(turn)),
            Action::HandOver { task: Task::Look, turn } => format!("look{}", to(turn)),
            Action::HandOver { task: Task::TakeBack(value), turn } => {
                format!("take back {}{}", String::from_utf8_lossy(&value), to(turn))
            }
            Action::HandOver { task: Task::Confirm { claim, offer }, .. } => {
                format!("confirm {} of {}", String::from_utf8_lossy(&claim), name(&offer.call))
            }
        }
    }

    /// A call of that name begins; its owner is the name up to a prime.
    fn begins(&mut self, name: &str, level: Level, may_wait: bool) -> Vec<String> {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.push((call, name.into()));
        self.step(Event::Asks(AskedFor { may_wait, ..asked(call, name, level) }))
    }

    /// A `SET NX` of that name begins; it writes the name up to a prime.
    fn sets(&mut self, name: &str, may_wait: bool, ticket_ms: u64) -> Vec<String> {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.push((call, name.into()));
        let value: Arc<[u8]> = name.trim_end_matches('\'').as_bytes().into();
        let actor = if ticket_ms > 0 { Actor::Poller(value.clone()) } else { Actor::Call(call) };
        let form = Form::Plain { value, lease: PlainLease::Forever };
        self.step(Event::Asks(AskedFor { actor, form, may_wait, ticket_ms, ..asked(call, name, Level::Normal) }))
    }

    fn id(&self, name: &str) -> CallId {
        self.calls.iter().rev().find(|(_, known)| known == name).unwrap().0
    }

    fn tried(&mut self, name: &str, outcome: Tried) -> Vec<String> {
        let call = self.id(name);
        let (_, sent) = self.tries.remove(&call).unwrap();
        self.step(Event::Tried { call, sent, outcome })
    }

    fn granted(&mut self, name: &str) -> Vec<String> {
        let grant = self.grant();
        self.tried(name, Tried::Granted { grant, registered: None })
    }

    fn refused(&mut self, name: &str) -> Vec<String> {
        self.refused_by(name, by_stranger())
    }

    fn refused_by(&mut self, name: &str, seen: Seen) -> Vec<String> {
        self.now = Moment(self.now.0 + 10);
        let arrival_us = self.now.0;
        let registered = self.registered_by(name, arrival_us);
        self.tried(name, Tried::Refused { seen, registered: Some(registered), arrival_us })
    }

    /// Whom the script of a waiting call leaves registered.
    fn registered_by(&self, name: &str, arrival_us: u64) -> Registered {
        let (call, promote) = (self.id(name), self.line.rules.promote_after_us);
        let rank = Rank::new(self.tries[&call].0, Place { arrival_us, first_call: call }, promote);
        match self.line.best() {
            Some(best) if self.line.calls[&best].rank(promote).unwrap() < rank => Some(best),
            _ if self.line.calls[&call].asked.may_wait || self.line.calls[&call].asked.ticket_ms > 0 => Some(call),
            best => best,
        }
    }

    /// Asks, is refused and waits.
    fn waits(&mut self, name: &str) {
        self.waits_at(name, Level::Normal);
    }

    fn waits_at(&mut self, name: &str, level: Level) {
        let tries = self.begins(name, level, true);
        assert!(tries[0].starts_with(&format!("{name} tries")), "{tries:?}");
        assert_eq!(self.refused(name), [""; 0]);
    }

    fn grant(&mut self) -> Grant {
        self.last_fence += 1;
        Grant { fence: Fence(self.last_fence), value: self.last_fence.to_string().into_bytes().into() }
    }

    /// The holder releases, and the script gives the lock to whoever was offered.
    fn holder_releases(&mut self) -> Vec<String> {
        self.step(Event::Releases { owner: Some(owner("holder")) });
        self.released()
    }

    fn released(&mut self) -> Vec<String> {
        let sent = std::mem::take(&mut self.release);
        let handed = sent.offered.first().map(|call| Handed::To { call: *call, grant: self.grant() });
        let registered = Some(sent.offered.get(1).copied());
        self.step(released_by("holder", sent, Released::Freed { handed, registered }))
    }

    /// The hand-over under way gives the lock to whoever was offered.
    fn hands_over(&mut self) -> Vec<String> {
        let (call, registered) = (self.hand_over.offered[0], self.hand_over.offered.get(1).copied());
        let handed = Handed::To { call, grant: self.grant() };
        self.handed(Handing::To { handed, registered })
    }

    fn held(&mut self, seen: Seen) -> Vec<String> {
        let registered = self.hand_over.offered.first().copied();
        self.handed(Handing::Held { seen, registered })
    }

    fn free(&mut self) -> Vec<String> {
        self.handed(Handing::Free { registered: None })
    }

    fn handed(&mut self, outcome: Handing) -> Vec<String> {
        let sent = std::mem::take(&mut self.hand_over);
        self.step(Event::HandedOver { sent, outcome })
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

fn asked(call: CallId, name: &str, level: Level) -> AskedFor {
    let form = Form::Lock { owner: owner(name), lease_ms: LEASE_MS, meta: Arc::from(&b""[..]) };
    AskedFor {
        call,
        actor: Actor::Owner(owner(name)),
        form,
        level,
        may_wait: true,
        ticket_ms: 0,
        queue_max: None,
        place: None,
        deadline: None,
    }
}

fn released_by(name: &str, sent: Sent, outcome: Released) -> Event {
    Event::Released { ends_calls_of: Some(owner(name)), sent, outcome }
}

fn by_stranger() -> Seen {
    Seen { value: Arc::from(&b"stranger"[..]), left_ms: Some(LEASE_MS), ours: None, by: None }
}

fn named(story: &Story, name: &str, fence: u64) -> Named {
    Named { call: story.id(name), fence: Fence(fence), is_repeat: false, is_claim: false }
}

fn held_by(story: &Story, name: &str, fence: u64) -> Seen {
    Seen {
        value: fence.to_string().into_bytes().into(),
        left_ms: Some(LEASE_MS),
        ours: Some(named(story, name, fence)),
        by: None,
    }
}

#[test]
fn a_free_lock_is_granted_at_once_and_leaves_no_line_behind() {
    let mut story = Story::new();
    assert_eq!(story.begins("ann", Level::Normal, false), ["ann tries"]);
    assert_eq!(story.granted("ann"), ["ann has 101"]);
    assert!(story.line.is_idle());
}

#[test]
fn who_does_not_wait_gets_nil_and_leaves_no_line_behind() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    assert_eq!(story.refused("ann"), ["ann gets nil"]);
    assert!(story.line.is_idle());
}

#[test]
fn the_first_in_line_gets_it_and_the_gone_are_skipped() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    story.waits("cat");
    story.leaves("ann");
    assert_eq!(story.line.position(b"bob"), Some(1));
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
    let handed = Handed::To { call: story.id("ann"), grant: story.grant() };
    let outcome = Tried::HandedOver { handed, registered: None, arrival_us: story.now.0 };
    assert_eq!(story.tried("bob", outcome), ["ann has 101", "bob gets nil"]);
    assert!(story.line.is_idle());
}

#[test]
fn a_grant_to_one_who_left_while_it_was_on_its_way_goes_on_to_the_next() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    story.step(Event::Releases { owner: Some(owner("holder")) });
    assert_eq!(story.leaves("ann"), ["look for bob"], "he is this node's best now");
    assert_eq!(story.released(), [""; 0], "one at a time");
    assert_eq!(story.held(by_stranger()), ["take back 101 for bob"]);
    assert_eq!(story.hands_over(), ["bob has 102"]);
}

#[test]
fn a_timeout_that_races_with_the_grant_leaves_the_lock_to_the_next() {
    let mut story = Story::new();
    story.waits("ann");
    story.step(Event::Releases { owner: Some(owner("holder")) });
    let call = story.id("ann");
    assert_eq!(story.step(Event::TimesOut(call)), ["ann gets nil", "look"]);
    assert_eq!(story.released(), [""; 0]);
    assert_eq!(story.held(by_stranger()), ["take back 101"]);
    assert_eq!(story.free(), [""; 0]);
    assert!(story.line.is_idle());
}

#[test]
fn what_is_freed_while_a_refusal_is_on_its_way_is_looked_at() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    assert_eq!(story.holder_releases(), [""; 0], "nobody was in line yet");
    assert_eq!(story.refused("ann"), ["look for ann"]);
}

#[test]
fn at_the_end_of_the_lease_the_key_is_looked_at_and_again_when_it_was_extended() {
    let mut story = Story::new();
    story.waits("ann");
    story.line.step(Event::Extended { lease_ms: 300 }, story.now);
    assert_eq!(story.line.wake_at(), Some(story.now.plus_ms(301)));
    assert_eq!(story.later(301), ["look for ann"]);
    let seen = Seen { left_ms: Some(200), ..by_stranger() };
    assert_eq!(story.held(seen), [""; 0]);
    assert_eq!(story.later(200), [""; 0]);
    assert_eq!(story.later(1), ["look for ann"]);
}

#[test]
fn a_key_without_expiry_is_looked_at_now_and_then() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.refused_by("ann", Seen { left_ms: None, ..by_stranger() });
    assert_eq!(story.later(999), [""; 0]);
    assert_eq!(story.later(1), ["look for ann"]);
}

#[test]
fn a_watched_key_is_not_looked_at_by_the_clock() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.refused_by("ann", Seen { left_ms: None, ..by_stranger() });
    story.step(Event::Watched);
    assert_eq!(story.later(RULES.look_every_ms), [""; 0]);
    let mut story = Story::with(LineRules { look_every_ms: 0, ..RULES });
    story.begins("ann", Level::Normal, true);
    story.refused_by("ann", Seen { left_ms: None, ..by_stranger() });
    assert_eq!(story.later(RULES.look_every_ms), [""; 0], "nor one that is never to be");
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
    assert_eq!(story.held(by_stranger()), ["look for ann"], "the hint may be newer");
}

#[test]
fn the_newer_call_of_an_owner_takes_over_his_place_when_its_try_returns() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.begins("ann'", Level::Normal, true), ["ann' tries for bob"], "the script compares their ranks");
    assert_eq!(story.refused("ann'"), ["ann gets nil", "look for ann'"]);
    assert_eq!(story.line.position(b"ann"), Some(1));
    story.leaves("ann");
    assert_eq!(story.holder_releases(), ["ann' has 101"], "the end of the older connection touches nothing");
}

#[test]
fn a_newer_call_that_may_not_have_the_key_takes_nothing_over() {
    let mut story = Story::new();
    story.waits("ann");
    story.begins("ann'", Level::Normal, true);
    let outcome = Tried::Failed { line: "NOPERM no".into(), passes: false };
    assert_eq!(story.tried("ann'", outcome), ["ann' fails: NOPERM no"]);
    assert_eq!(story.holder_releases(), ["ann has 101"]);
}

#[test]
fn a_newer_call_repeats_what_the_older_was_granted_meanwhile() {
    let mut story = Story::new();
    story.waits("ann");
    story.begins("ann'", Level::Normal, true);
    assert_eq!(story.holder_releases(), ["ann has 101"]);
    assert_eq!(story.refused("ann'"), ["ann' tries later", "look"], "she is registered, and waits no more");
    let call = story.id("ann'");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann' tries"]);
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    let outcome = Tried::Repeated { grant, before: Arc::from(&b"101"[..]), was_claim: false, ours: None };
    assert_eq!(story.tried("ann'", outcome), ["ann' has 101 still"]);
}

#[test]
fn a_place_is_kept_for_five_seconds_and_no_longer() {
    for (pause_ms, place) in [(4999, 1), (5000, 2)] {
        let mut story = Story::new();
        story.waits("ann");
        story.waits("bob");
        story.leaves("ann");
        assert_eq!(story.line.position(b"ann"), None, "he is passed over meanwhile");
        story.now = story.now.plus_ms(pause_ms);
        story.line.step(Event::Extended { lease_ms: LEASE_MS }, story.now);
        story.begins("ann'", Level::Normal, true);
        story.refused("ann'");
        assert_eq!(story.line.position(b"ann"), Some(place));
    }
}

#[test]
fn a_release_ends_the_owners_own_calls_and_his_place() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.step(Event::Releases { owner: Some(owner("ann")) }), ["release for bob"]);
    let sent = std::mem::take(&mut story.release);
    assert_eq!(
        story.step(released_by("ann", sent, Released::Kept)),
        ["ann gets nil", "look for bob"],
        "another holds it, and bob is this node's best from here on"
    );
    assert_eq!(story.line.position(b"bob"), Some(1));
}

#[test]
fn a_cancelled_call_gets_nil_and_keeps_no_place() {
    let mut story = Story::new();
    story.waits("ann");
    assert!(story.line.waits(b"ann"));
    assert_eq!(story.step(Event::Cancels(Arc::from(&b"ann"[..]))), ["ann gets nil", "look"]);
    story.held(by_stranger());
    assert!(story.line.is_idle());
}

#[test]
fn the_victim_of_a_deadlock_is_told_so_and_a_set_nx_gets_nil() {
    let aborts = |story: &Story, name: &str| Event::Aborts { call: story.id(name), line: "DEADLOCK".into() };
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    assert_eq!(story.step(aborts(&story, "ann")), [""; 0], "she does not wait yet");
    story.refused("ann");
    story.sets("x", true, 0);
    story.refused("x");
    let now = story.now;
    let waits = |story: &Story, name: &str| story.line.waits_at(story.id(name), now).is_some();
    assert!(waits(&story, "ann") && waits(&story, "x"));
    let mut told = story.step(aborts(&story, "x"));
    told.extend(story.step(aborts(&story, "ann")));
    let answers = |told: &[String]| told.iter().filter(|line| !line.starts_with("look")).cloned().collect::<Vec<_>>();
    assert_eq!(answers(&told), ["x gets nil", "ann fails: DEADLOCK"]);
    assert!(!waits(&story, "ann") && !waits(&story, "x"));
    assert_eq!(answers(&story.step(aborts(&story, "ann"))), [""; 0], "once");
}

#[test]
fn who_is_as_good_as_granted_is_no_victim_of_a_deadlock() {
    let mut story = Story::new();
    story.waits("ann");
    let seen = Some(claim_of(&story, "ann"));
    story.step(Event::Observed { seen, registered: None });
    story.later(0);
    let aborts = Event::Aborts { call: story.id("ann"), line: "DEADLOCK".into() };
    assert_eq!(story.step(aborts), [""; 0]);
    let outcome = Handing::Confirmed { grant: story.grant(), registered: None };
    assert_eq!(story.handed(outcome), ["ann has 101"]);
    // A poller has been answered, and only his place waits.
    let mut story = Story::new();
    story.sets("p", false, 500);
    story.refused("p");
    let aborts = Event::Aborts { call: story.id("p"), line: "DEADLOCK".into() };
    assert_eq!(story.step(aborts), [""; 0]);
    assert_eq!(story.line.waiting(), 1);
}

#[test]
fn a_full_queue_turns_newcomers_away_but_not_those_who_ask_again() {
    let mut story = Story::new();
    for name in ["ann", "bob", "cat", "dan"] {
        story.waits(name);
    }
    story.begins("eve", Level::Normal, true);
    assert_eq!(story.refused("eve"), ["eve finds 4 before it"]);
    story.begins("dan'", Level::Normal, true);
    assert_eq!(story.refused("dan'"), ["dan gets nil"]);
}

#[test]
fn a_lost_try_is_asked_again_and_its_ghost_is_laid() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    assert_eq!(story.tried("ann", Tried::Lost("".into())), ["ann tries later"]);
    let call = story.id("ann");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann tries"]);
    assert_eq!(story.tried("ann", Tried::Lost("".into())), ["ann finds nobody", "look"]);
    assert_eq!(story.handed(Handing::NotReached), [""; 0], "not in a busy loop");
    assert_eq!(story.later(100), ["look"]);
    let seen = held_by(&story, "ann", 7);
    assert_eq!(story.held(seen), ["take back 7"]);
    assert_eq!(story.free(), [""; 0]);
    assert!(story.line.is_idle());
}

#[test]
fn who_is_told_to_try_again_for_nothing_stays_where_he_stands() {
    let mut story = Story::new();
    story.waits("ann");
    let ann = story.id("ann");
    assert_eq!(story.step(Event::TriesAgain(ann)), [""; 0], "ann waits in line");
    story.begins("bob", Level::Normal, true);
    let bob = story.id("bob");
    assert_eq!(story.step(Event::TriesAgain(bob)), [""; 0], "bob's try is under way");
    assert_eq!(story.refused("bob"), [""; 0]);
    assert_eq!(story.holder_releases(), ["ann has 101"]);
    assert_eq!(story.step(Event::TriesAgain(ann)), [""; 0], "ann has it");
}

#[test]
fn a_lost_try_whose_wait_is_over_may_still_have_registered_its_call() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    let call = story.id("ann");
    assert_eq!(story.step(Event::TimesOut(call)), [""; 0]);
    assert_eq!(story.tried("ann", Tried::Lost("".into())), ["ann tries later", "look"]);
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann tries"]);
    let seen = by_stranger();
    assert_eq!(story.tried("ann", Tried::Refused { seen, registered: None, arrival_us: 7 }), ["ann gets nil"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
    assert!(story.line.is_idle());
}

#[test]
fn what_a_lost_try_may_have_given_to_a_waiter_who_left_is_taken_back() {
    let mut story = Story::new();
    story.waits("ann");
    assert_eq!(story.begins("bob", Level::Normal, false), ["bob tries for ann"]);
    assert_eq!(story.leaves("ann"), ["look"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
    assert_eq!(story.tried("bob", Tried::Lost("".into())), ["bob tries later", "look"]);
    let seen = held_by(&story, "ann", 7);
    assert_eq!(story.held(seen), ["take back 7"]);
}

#[test]
fn a_lost_try_may_have_removed_the_registration_of_the_owners_own_waiter() {
    let mut story = Story::new();
    story.waits("ann");
    assert_eq!(story.begins("ann'", Level::Normal, false), ["ann' tries"], "without her older call");
    assert_eq!(story.tried("ann'", Tried::Lost("".into())), ["ann' tries later", "look for ann"]);
}

#[test]
fn a_lost_hand_over_is_found_by_looking() {
    let mut story = Story::new();
    story.waits("ann");
    story.step(Event::Releases { owner: Some(owner("holder")) });
    let sent = std::mem::take(&mut story.release);
    let lost = Event::Released { ends_calls_of: None, sent, outcome: Released::Lost };
    assert_eq!(story.step(lost), ["look for ann"]);
    let seen = held_by(&story, "ann", 7);
    let outcome = Handing::Held { seen, registered: None };
    assert_eq!(story.handed(outcome), ["ann has 7"]);
    assert!(story.line.is_idle());
}

#[test]
fn an_older_try_under_way_holds_the_owners_newer_call_back() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.leaves("ann");
    assert_eq!(story.begins("ann'", Level::Normal, true), [""; 0]);
    assert_eq!(story.granted("ann"), ["ann' goes on"], "nobody was told, and nobody else gets it");
    let call = story.id("ann'");
    assert_eq!(story.step(Event::TriesAgain(call)), ["ann' tries"]);
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    story.leaves("ann'");
    let outcome = Tried::Repeated { grant, before: Arc::from(&b"101"[..]), was_claim: false, ours: None };
    assert_eq!(story.tried("ann'", outcome), ["take back new"], "nobody was told of this fence ever");
}

#[test]
fn a_grant_that_nobody_was_told_of_here_may_have_been_told_by_another_node() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.leaves("ann");
    story.begins("ann'", Level::Normal, true);
    assert_eq!(story.granted("ann"), ["ann' goes on"]);
    let call = story.id("ann'");
    story.step(Event::TriesAgain(call));
    story.leaves("ann'");
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    let outcome =
        Tried::Repeated { grant, before: Arc::from(&b"101 of the other node"[..]), was_claim: false, ours: None };
    assert_eq!(story.tried("ann'", outcome), [""; 0], "its owner holds it by what the other node told him");
}

#[test]
fn what_a_gone_call_repeated_belongs_to_the_older_call_that_is_just_being_told() {
    let mut story = Story::new();
    story.waits("ann");
    story.step(Event::Releases { owner: Some(owner("holder")) });
    story.begins("ann'", Level::Normal, false);
    story.leaves("ann'");
    let grant = Grant { fence: Fence(101), value: Arc::from(&b"new"[..]) };
    let ours = Some(named(&story, "ann", 101));
    let outcome = Tried::Repeated { grant, before: Arc::from(&b"101"[..]), was_claim: false, ours };
    assert_eq!(story.tried("ann'", outcome).first().map(String::as_str), Some("ann has 101"));
    assert!(story.released().iter().all(|told| !told.starts_with("take back")), "she was told of that fence already");
}

#[test]
fn what_a_gone_call_repeated_belongs_to_the_older_call_that_was_just_confirmed() {
    for was_claim in [false, true] {
        let mut story = Story::new();
        story.waits("ann");
        let seen = Some(claim_of(&story, "ann"));
        story.step(Event::Observed { seen, registered: None });
        assert_eq!(story.later(0), ["confirm ann? of ann"]);
        story.begins("ann'", Level::Normal, false);
        story.leaves("ann'");
        let grant = Grant { fence: Fence(7), value: Arc::from(&b"new"[..]) };
        let ours = Some(Named { is_claim: was_claim, ..named(&story, "ann", 7) });
        let before = Arc::from(if was_claim { &b"ann?"[..] } else { b"ann" });
        assert_eq!(story.tried("ann'", Tried::Repeated { grant, before, was_claim, ours }), ["ann has 7"]);
        let outcome = if was_claim {
            // Where the repeat came first, the confirmation has found another value.
            let seen =
                Seen { value: Arc::from(&b"new"[..]), left_ms: None, ours: Some(named(&story, "ann'", 7)), by: None };
            Handing::Held { seen, registered: None }
        } else {
            let grant = Grant { fence: Fence(7), value: Arc::from(&b"ann"[..]) };
            Handing::Confirmed { grant, registered: None }
        };
        assert_eq!(story.handed(outcome), [""; 0], "she was told of that fence already");
        assert!(story.line.is_idle());
    }
}

#[test]
fn a_repeat_whose_client_left_does_not_end_the_hold() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, false);
    story.leaves("ann");
    let grant = story.grant();
    assert_eq!(
        story.tried("ann", Tried::Repeated { grant, before: Arc::from(&b"old"[..]), was_claim: false, ours: None }),
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
    assert_eq!(story.handed(outcome), ["ann fails: WRONGTYPE no", "bob fails: WRONGTYPE no"]);
}

#[test]
fn a_waiter_stays_while_the_upstream_is_away() {
    let mut story = Story::new();
    story.waits("ann");
    story.later(1000);
    for attempt in 1..6 {
        assert_eq!(story.handed(Handing::NotReached), [""; 0]);
        assert_eq!(story.later((50 << (attempt - 1)) - 1), [""; 0]);
        assert_eq!(story.later(50 << attempt), ["look for ann"]);
    }
    assert_eq!(story.hands_over(), ["ann has 101"]);
}

#[test]
fn a_wait_shorter_than_the_round_trip_ends_with_the_try() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    let call = story.id("ann");
    assert_eq!(story.step(Event::TimesOut(call)), [""; 0]);
    assert_eq!(story.refused("ann"), ["ann gets nil"]);
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
        let call = CallId(number + 1);
        let tries = story.line.step(Event::Asks(asked(call, &format!("o{number}"), Level::Normal)), story.now);
        let Some(Action::Try { turn, .. }) = tries.into_iter().next() else { panic!("no try") };
        let registered = Some(Some(CallId(1)));
        let outcome = Tried::Refused { seen: by_stranger(), registered, arrival_us: number };
        story.line.step(Event::Tried { call, sent: turn.sent(), outcome }, story.now);
    }
    assert_eq!(story.line.position(b"o5000"), Some(5001));
    for number in 0..10_000u64 {
        let actions = story.line.step(Event::Releases { owner: Some(owner("holder")) }, story.now);
        let Some(Action::Release(turn)) = actions.into_iter().next() else { panic!("no turn") };
        assert_eq!(turn.offers[0].call, CallId(number + 1));
        let handed = Some(Handed::To { call: turn.offers[0].call, grant: story.grant() });
        let registered = Some(turn.offers.get(1).map(|offer| offer.call));
        let event = released_by("holder", turn.sent(), Released::Freed { handed, registered });
        assert!(matches!(story.line.step(event, story.now)[..], [Action::Answer { .. }]));
    }
    assert!(story.line.is_idle());
    // Not how fast: that no step goes through all who wait. That would take many minutes.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

// ---- Several nodes.

fn claim_of(story: &Story, name: &str) -> Seen {
    let ours = Some(Named { is_claim: true, ..named(story, name, 7) });
    Seen { value: Arc::from(format!("{name}?").into_bytes()), left_ms: Some(1000), ours, by: None }
}

#[test]
fn a_claim_of_another_nodes_making_is_confirmed_before_anybody_is_told() {
    let mut story = Story::new();
    story.waits("ann");
    let seen = Some(claim_of(&story, "ann"));
    assert_eq!(story.step(Event::Observed { seen, registered: None }), [""; 0], "the timer sends it");
    assert_eq!(story.later(0), ["confirm ann? of ann"]);
    let outcome = Handing::Confirmed { grant: story.grant(), registered: None };
    assert_eq!(story.handed(outcome), ["ann has 101"]);
    assert!(story.line.is_idle());
}

#[test]
fn a_claim_for_one_who_left_goes_on_and_so_does_one_for_a_call_that_nobody_knows() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    let seen = Some(claim_of(&story, "ann"));
    story.step(Event::Observed { seen, registered: None });
    assert_eq!(story.leaves("ann"), ["take back ann? for bob"]);
    assert_eq!(story.hands_over(), ["bob has 101"]);

    let mut story = Story::new();
    story.waits("ann");
    let ours = Some(Named { call: CallId(99), fence: Fence(7), is_repeat: false, is_claim: true });
    let seen = Some(Seen { value: Arc::from(&b"ghost?"[..]), left_ms: Some(1000), ours, by: None });
    story.step(Event::Observed { seen, registered: Some(story.id("ann")) });
    assert_eq!(story.later(0), ["take back ghost? for ann"]);
}

#[test]
fn a_time_out_during_the_confirmation_waits_for_its_outcome() {
    for is_confirmed in [true, false] {
        let mut story = Story::new();
        story.waits("ann");
        let seen = Some(claim_of(&story, "ann"));
        story.step(Event::Observed { seen, registered: None });
        story.later(0);
        let call = story.id("ann");
        assert_eq!(story.step(Event::TimesOut(call)), [""; 0]);
        if is_confirmed {
            let outcome = Handing::Confirmed { grant: story.grant(), registered: None };
            assert_eq!(story.handed(outcome), ["ann has 101"]);
        } else {
            assert_eq!(story.held(by_stranger()), ["ann gets nil", "look"], "and she is registered no more");
        }
    }
}

#[test]
fn who_is_registered_upstream_is_put_right_when_the_best_leaves() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.leaves("bob"), [""; 0], "ann is registered as before");
    story.waits("cat");
    assert_eq!(story.leaves("ann"), ["look for cat"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
    assert_eq!(story.leaves("cat"), ["look"]);
}

#[test]
fn replies_that_overtook_one_another_leave_nobody_sure_and_one_look_settles_it() {
    let mut story = Story::new();
    story.begins("ann", Level::Normal, true);
    story.begins("bob", Level::Normal, true);
    let seen = by_stranger();
    let (ann, bob) = (story.id("ann"), story.id("bob"));
    let refused = |registered| Tried::Refused { seen: seen.clone(), registered: Some(Some(registered)), arrival_us: 5 };
    assert_eq!(story.tried("bob", refused(bob)), [""; 0]);
    assert_eq!(story.tried("ann", refused(ann)), ["look for ann"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
}

#[test]
fn looks_that_bring_nothing_are_made_again_with_growing_pauses_only() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    assert_eq!(story.leaves("ann"), ["look for bob"]);
    // Whatever this node says, another call stays registered under its name.
    let odd = || Handing::Held { seen: by_stranger(), registered: Some(CallId(999)) };
    let mut at_once = 0;
    while story.handed(odd()) == ["look for bob"] {
        at_once += 1;
        assert!(at_once <= 3, "it looks without end");
    }
    assert_eq!(story.line.left_over, Some(CallId(999)), "nobody here knows that call");
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let at = story.line.wake_at().unwrap();
        pauses.push(at.since_us(story.now) / 1000);
        story.now = at;
        assert_eq!(story.step(Event::Tick), ["look for bob"]);
        assert_eq!(story.handed(odd()), [""; 0]);
    }
    assert!(pauses[0] >= RULES.retry_base_ms && pauses[7] >= RULES.look_every_ms, "{pauses:?}");
    // The key is seen to be free: that is a new reason.
    story.step(Event::Observed { seen: None, registered: Some(CallId(999)) });
    assert_eq!(story.step(Event::Tick), ["look for bob"]);
    assert_eq!(story.hands_over(), ["bob has 101"]);
}

#[test]
fn a_waiting_call_repeats_what_its_owner_came_to_hold_elsewhere() {
    for is_lost in [false, true] {
        let mut story = Story::new();
        story.waits("ann");
        story.waits("bob");
        let ann = story.id("ann");
        let by_ann = || Seen { by: Some(owner("ann")), ..by_stranger() };
        let observed = || Event::Observed { seen: Some(by_ann()), registered: Some(ann) };
        assert_eq!(story.step(observed()), ["ann goes on"]);
        assert_eq!(story.step(observed()), [""; 0], "once");
        assert_eq!(story.step(Event::TriesAgain(ann)), ["ann tries for bob"]);
        assert_eq!(story.step(observed()), [""; 0]);
        if is_lost {
            // The owner has let go of it before, and the call stands where it stood.
            assert_eq!(story.refused("ann"), [""; 0]);
            assert_eq!(story.line.position(b"ann"), Some(1));
            assert_eq!(story.step(observed()), ["ann goes on"]);
            assert_eq!(story.step(Event::TriesAgain(ann)), ["ann tries for bob"]);
            assert_eq!(story.step(Event::TimesOut(ann)), [""; 0], "the try decides");
            assert_eq!(story.refused("ann")[0], "ann gets nil");
        } else {
            let (grant, before) = (story.grant(), by_stranger().value);
            let outcome = Tried::Repeated { grant, before, was_claim: false, ours: None };
            assert_eq!(story.tried("ann", outcome)[0], "ann has 101 still");
        }
    }
}

/// Life 22706: it was told as new, given back undelivered, and the owner's other call told of it afterwards.
#[test]
fn a_look_that_finds_a_repeat_whose_try_is_still_on_its_way_back_tells_nobody() {
    let mut story = Story::new();
    story.waits("ann");
    let ann = story.id("ann");
    let by_ann = Seen { by: Some(owner("ann")), ..by_stranger() };
    story.step(Event::Observed { seen: Some(by_ann), registered: Some(ann) });
    assert_eq!(story.step(Event::TriesAgain(ann)), ["ann tries"]);
    let ours = Some(Named { is_repeat: true, ..named(&story, "ann", 7) });
    let repeat = || Seen { ours, ..by_stranger() };
    let observed = |registered| Event::Observed { seen: Some(repeat()), registered };
    assert_eq!(story.step(observed(Some(ann))), [""; 0]);
    let why = "lost".into();
    assert_eq!(story.tried("ann", Tried::Lost(why)), ["look for ann"]);
    assert_eq!(story.held(repeat())[0], "ann has 7 still");
}

#[test]
fn a_waiting_call_that_is_granted_while_it_asks_again_stays_granted() {
    for is_told_by_the_refusal in [true, false] {
        let mut story = Story::new();
        story.waits("ann");
        story.waits("bob");
        let ann = story.id("ann");
        let by_ann = Seen { by: Some(owner("ann")), ..by_stranger() };
        story.step(Event::Observed { seen: Some(by_ann), registered: Some(ann) });
        assert_eq!(story.step(Event::TriesAgain(ann)), ["ann tries for bob"]);
        let told = if is_told_by_the_refusal {
            let seen = held_by(&story, "ann", 101);
            story.refused_by("ann", seen)
        } else {
            let mut told = story.holder_releases();
            told.extend(story.refused("ann"));
            told
        };
        let answers: Vec<&String> = told.iter().filter(|told| told.starts_with("ann")).collect();
        assert_eq!(answers, ["ann has 101"]);
        assert_eq!((story.line.position(b"ann"), story.line.position(b"bob")), (None, Some(1)));
    }
}

#[test]
fn a_release_through_another_node_ends_what_its_owner_had_asked_for_by_then() {
    let released = |at_us| Event::ReleasedElsewhere { owner: owner("ann"), at_us };
    let mut story = Story::new();
    story.waits("bob");
    story.waits("ann");
    let arrived_us = story.now.0;
    assert_eq!(story.step(released(arrived_us - 1)), [""; 0], "she has come since");
    assert_eq!(story.step(released(arrived_us)), ["ann gets nil"]);
    // What she asks for after that is a new wish, be it at the older call's place.
    story.waits("ann'");
    story.begins("ann''", Level::Normal, true);
    let before_us = story.now.0;
    assert_eq!(story.refused("ann''"), ["ann' gets nil"]);
    assert_eq!(story.step(released(before_us)), [""; 0]);
    assert_eq!(story.line.position(b"ann"), Some(2));
    // A place that is kept for her goes as well.
    story.leaves("ann''");
    assert!(story.line.knows(&owner("ann")));
    let now_us = story.now.0;
    story.step(released(now_us));
    assert!(!story.line.knows(&owner("ann")) && story.line.knows(&owner("bob")));
}

#[test]
fn a_release_through_another_node_may_be_told_before_the_try_has_returned() {
    for (later_us, leaves) in [(0, false), (0, true), (1, false), (1, true)] {
        let mut story = Story::new();
        story.begins("ann", Level::Normal, true);
        // The refusal bears a time 10 ms after this.
        let at_us = story.now.0 + 10 - later_us;
        assert_eq!(story.step(Event::ReleasedElsewhere { owner: owner("ann"), at_us }), [""; 0]);
        if leaves {
            story.leaves("ann");
        }
        let told = story.refused("ann");
        let waits = story.line.position(b"ann").is_some();
        let is_known = story.line.kept_place(&Actor::Owner(owner("ann")), story.now).is_some() || waits;
        assert_eq!(is_known, later_us > 0, "{told:?}");
        assert_eq!(told.contains(&"ann gets nil".to_owned()), later_us == 0 && !leaves, "{told:?}");
    }
}

#[test]
fn a_promoted_waiter_passes_those_below() {
    let mut story = Story::new();
    story.waits("ann");
    story.waits("bob");
    let told = story.step(Event::Promotes { owner: Arc::from(&b"bob"[..]), level: Level::High });
    assert_eq!(told, ["look for bob"]);
    assert_eq!(story.line.position(b"bob"), Some(1));
}

#[test]
fn who_is_promoted_while_a_look_is_under_way_is_written_anew_whatever_a_refused_try_tells() {
    let mut story = Story::new();
    story.waits_at("low", Level::Low);
    assert_eq!(story.later(LEASE_MS), ["look for low"]);
    assert_eq!(story.step(Event::Promotes { owner: b"low"[..].into(), level: Level::Critical }), [""; 0]);
    story.begins("bob", Level::Normal, true);
    assert_eq!(story.refused("bob"), [""; 0], "low stands there, under the rank that he had");
    assert_eq!(story.held(by_stranger()), ["look for low"]);
    assert_eq!(story.held(by_stranger()), [""; 0], "this one has written his new rank");
}

#[test]
fn what_was_sent_before_a_promotion_may_write_the_old_rank_again() {
    let mut story = Story::new();
    story.waits_at("low", Level::Low);
    story.step(Event::Releases { owner: Some(owner("holder")) });
    assert_eq!(story.step(Event::Promotes { owner: b"low"[..].into(), level: Level::Critical }), ["look for low"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
    let handed = Handed::Claimed { call: None, value: b"another"[..].into() };
    let outcome = Released::Freed { handed: Some(handed), registered: Some(Some(story.id("low"))) };
    let sent = std::mem::take(&mut story.release);
    assert_eq!(story.step(released_by("holder", sent, outcome)), ["look for low"]);
    assert_eq!(story.held(by_stranger()), [""; 0]);
}

#[test]
fn calls_of_set_nx_wait_each_for_itself() {
    let mut story = Story::new();
    for name in ["x", "x'"] {
        story.sets(name, true, 0);
        story.refused(name);
    }
    assert_eq!(story.line.waiting(), 2);
    story.step(Event::Releases { owner: Some(owner("holder")) });
    let sent = std::mem::take(&mut story.release);
    let handed = Some(Handed::Claimed { call: Some(story.id("x")), value: Arc::from(&b"x?"[..]) });
    let outcome = Released::Freed { handed, registered: Some(Some(story.id("x'"))) };
    assert_eq!(story.step(released_by("holder", sent, outcome)), ["confirm x? of x"]);
    let grant = Grant { fence: Fence(0), value: Arc::from(&b"x"[..]) };
    let registered = Some(story.id("x'"));
    assert_eq!(story.handed(Handing::Confirmed { grant, registered }), ["x has 0"]);
    assert_eq!(story.line.waiting(), 1);
}

#[test]
fn a_set_nx_whose_absolute_expiry_has_passed_upstream_ends_and_its_claim_goes_on() {
    let mut story = Story::new();
    story.sets("x", true, 0);
    story.refused("x");
    story.waits("ann");
    let seen = Some(claim_of(&story, "x"));
    story.step(Event::Observed { seen, registered: None });
    assert_eq!(story.later(0), ["confirm x? of x"]);
    let registered = Some(story.id("ann"));
    assert_eq!(story.handed(Handing::Over { registered }), ["x gets nil", "take back x? for ann"]);
    assert_eq!(story.hands_over(), ["ann has 101"]);
}

#[test]
fn a_set_nx_whose_confirmation_was_lost_is_never_told_what_nobody_knows() {
    for (value, told) in [(&b"x"[..], "x finds nobody"), (b"y", "")] {
        let mut story = Story::new();
        story.sets("x", true, 0);
        story.refused("x");
        let seen = Some(claim_of(&story, "x"));
        story.step(Event::Observed { seen, registered: None });
        assert_eq!(story.later(0), ["confirm x? of x"]);
        story.handed(Handing::Lost);
        let seen = Seen { value: Arc::from(value), ..by_stranger() };
        let looks = story.later(100);
        assert_eq!(looks, ["look for x"]);
        let answers = story.held(seen);
        assert_eq!(answers.first().map_or("", String::as_str), told);
    }
}

#[test]
fn a_refused_poller_with_a_ticket_gets_the_lock_at_his_next_poll() {
    let mut story = Story::new();
    story.sets("x", false, 500);
    assert_eq!(story.refused("x"), ["x gets nil"]);
    story.waits("ann");
    story.step(Event::Releases { owner: Some(owner("holder")) });
    let sent = std::mem::take(&mut story.release);
    assert_eq!(sent.offered, [story.id("x"), story.id("ann")]);
    let handed = Some(Handed::Claimed { call: Some(story.id("x")), value: Arc::from(&b"x?"[..]) });
    let outcome = Released::Freed { handed, registered: Some(Some(story.id("ann"))) };
    assert_eq!(story.step(released_by("holder", sent, outcome)), ["look for x"], "he stays this node's best");
    let seen = claim_of(&story, "x");
    story.held(seen);
    story.sets("x'", false, 500);
    let told = story.refused_by("x'", claim_of(&story, "x"));
    assert_eq!(told.last().unwrap(), "confirm x? of x'");
    let grant = Grant { fence: Fence(0), value: Arc::from(&b"x"[..]) };
    let registered = Some(story.id("ann"));
    assert_eq!(story.handed(Handing::Confirmed { grant, registered }), ["x' has 0"]);
}

#[test]
fn what_is_kept_for_a_ticket_goes_on_when_it_runs_out() {
    let mut story = Story::new();
    story.sets("x", false, 500);
    story.refused("x");
    story.waits("ann");
    let seen = Some(claim_of(&story, "x"));
    let registered = Some(story.id("ann"));
    story.step(Event::Observed { seen, registered });
    assert_eq!(story.later(0), ["look for x"], "the ticket stays this node's best");
    let seen = claim_of(&story, "x");
    assert_eq!(story.held(seen), [""; 0]);
    assert_eq!(story.later(500), ["take back x? for ann"]);
}
