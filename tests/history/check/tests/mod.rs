//! Histories made by hand: good ones that must pass, and for each kind of wrong at least one that must be caught.

mod losses;
mod order;
mod sets;

use super::check;
use crate::history::record::{Bond, Call, Closed, End, Fault, Held, Loss, Op, Outcome, Record, Setup, Stray, Write};
use std::collections::{BTreeMap, BTreeSet};

/// A history told in ms.
struct Story(Vec<Record>);

const KEY: &str = "k";
const SEVERAL: [&str; 2] = [KEY, "l"];

impl Story {
    fn begins() -> Self {
        Story(vec![Record::Run(Setup { node_timeout_ms: 1000, place_kept_ms: 5000, ..Setup::default() })])
    }

    fn call(mut self, owner: &str, op: Op, from_ms: u64, until_ms: u64, outcome: Outcome) -> Self {
        let id = self.0.len() as u64;
        self.0.push(Record::Call(Call {
            id,
            conn: id,
            node: Some(0),
            key: KEY.into(),
            owner: owner.into(),
            op,
            from_us: from_ms * 1000,
            until_us: until_ms * 1000,
            outcome,
        }));
        self
    }

    /// A call of both keys, with what it came to for each.
    fn several(mut self, owner: &str, op: &Op, (from_ms, until_ms): (u64, u64), outcomes: [Outcome; 2]) -> Self {
        let id = self.0.len() as u64;
        for (key, outcome) in SEVERAL.into_iter().zip(outcomes) {
            self = self.call(owner, op.clone(), from_ms, until_ms, outcome).at(key);
            if let Some(Record::Call(call)) = self.0.last_mut() {
                (call.id, call.conn) = (id, id);
            }
        }
        self
    }

    /// The last call was about that key.
    fn at(mut self, key: &str) -> Self {
        if let Some(Record::Call(call)) = self.0.last_mut() {
            call.key = key.into();
        }
        self
    }

    /// The last call went to that node.
    fn through(mut self, node: usize) -> Self {
        if let Some(Record::Call(call)) = self.0.last_mut() {
            call.node = Some(node);
        }
        self
    }

    fn granted(self, owner: &str, from_ms: u64, until_ms: u64, ttl_ms: u64, fence: i64) -> Self {
        self.call(owner, asks(ttl_ms, 0), from_ms, until_ms, Outcome::Int(fence))
    }

    fn released(self, owner: &str, from_ms: u64, until_ms: u64, fence: i64) -> Self {
        self.call(owner, Op::Release { fence: Some(fence) }, from_ms, until_ms, Outcome::Int(1))
    }

    /// It waited from then until then, was seen waiting in between, was granted the lock, and soon released it.
    fn waited(self, owner: &str, level: u8, (from_ms, seen_ms, until_ms): (u64, u64, u64), fence: i64) -> Self {
        let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 5000, level, bond: Bond::None };
        self.call(owner, asks, from_ms, until_ms, Outcome::Int(fence)).seen(owner, seen_ms).released(
            owner,
            until_ms + 10,
            until_ms + 12,
            fence,
        )
    }

    fn seen(self, owner: &str, at_ms: u64) -> Self {
        self.call(owner, Op::Position, at_ms - 1, at_ms, Outcome::Int(1))
    }

    fn held(mut self, value: Option<&str>, from_ms: u64, until_ms: u64) -> Self {
        let look = |at_ms: u64| (at_ms * 1000, at_ms * 1000 + 100);
        self.0.push(Record::Held(Held {
            key: KEY.into(),
            value: value.map(str::to_owned),
            first_us: look(from_ms),
            last_us: look(until_ms),
            gap_us: 10_000,
        }));
        self
    }

    fn tick(mut self, from_ms: u64, until_ms: u64, fence: i64) -> Self {
        self = self.call(&format!("tick{fence}"), asks(100, 0), from_ms, until_ms, Outcome::Int(fence));
        if let Some(Record::Call(call)) = self.0.last_mut() {
            call.key = format!("{}0", super::TICK);
        }
        self
    }

    fn fault(mut self, from_ms: u64, until_ms: u64) -> Self {
        let (from_us, until_us) = (from_ms * 1000, until_ms * 1000);
        self.0.push(Record::Fault(Fault { what: "test".into(), node: None, from_us, until_us, loses: None }));
        self
    }

    /// The server lost something then.
    fn lost(mut self, what: Loss, from_ms: u64, until_ms: u64) -> Self {
        self = self.fault(from_ms, until_ms);
        if let Some(Record::Fault(fault)) = self.0.last_mut() {
            fault.loses = Some(what);
        }
        self
    }

    /// As `wrote`, but under `LOCK.GUARD`.
    fn wrote_guarded(mut self, fence: i64, from_ms: u64, until_ms: u64, read: i64) -> Self {
        self = self.wrote(fence, from_ms, until_ms, read, true);
        if let Some(Record::Write(write)) = self.0.last_mut() {
            write.is_guarded = true;
        }
        self
    }

    fn wrote(mut self, fence: i64, from_ms: u64, until_ms: u64, read: i64, was_taken: bool) -> Self {
        let (from_us, until_us) = (from_ms * 1000, until_ms * 1000);
        self.0.push(Record::Write(Write {
            key: KEY.into(),
            fence,
            from_us,
            until_us,
            read,
            wrote: read + 1,
            was_taken,
            is_guarded: false,
            is_unknown: false,
        }));
        self
    }

    fn and(mut self, record: Record) -> Self {
        self.0.push(record);
        self
    }

    #[track_caller]
    fn passes(self) {
        let found = check(&self.0).0;
        assert!(found.is_empty(), "{found:#?}");
    }

    /// That is wrong with it, and nothing else.
    #[track_caller]
    fn fails_by(self, rule: &str) {
        self.fails_by_all(&[rule]);
    }

    /// Just these are wrong with it.
    #[track_caller]
    fn fails_by_all(self, rules: &[&str]) {
        let found = check(&self.0).0;
        let broken: BTreeSet<&str> = found.iter().map(|violation| violation.rule).collect();
        assert_eq!(broken, rules.iter().copied().collect(), "{found:#?}");
    }
}

fn asks(ttl_ms: u64, wait_ms: u64) -> Op {
    Op::Acquire { ttl_ms, wait_ms, level: 1, bond: Bond::None }
}

fn value(owner: &str, fence: i64, call: &str) -> String {
    format!("{owner}\x1f{fence}\x1f1\x1f1700000000000\x1fa:{call}\x1f")
}

// ---- Two holders.

#[test]
fn one_after_the_other_is_good() {
    Story::begins()
        .granted("ann", 0, 2, 1000, 1)
        .released("ann", 10, 12, 1)
        .granted("bob", 11, 13, 1000, 2)
        // Bob's lease runs out.
        .granted("cat", 1000, 1015, 1000, 3)
        .passes();
}

#[test]
fn a_grant_within_anothers_lease_is_caught() {
    Story::begins().granted("ann", 0, 2, 1000, 1).granted("bob", 500, 502, 1000, 2).fails_by("two holders");
}

#[test]
fn a_grant_within_a_lease_that_was_extended_is_caught() {
    let extended = Story::begins().granted("ann", 0, 2, 1000, 1).call(
        "ann",
        Op::Extend { ttl_ms: 3000, fence: Some(1) },
        500,
        510,
        Outcome::Int(1),
    );
    extended.granted("bob", 2000, 2002, 1000, 2).fails_by("two holders");
}

#[test]
fn an_extension_may_shorten() {
    let story = |outcome| {
        Story::begins()
            .granted("ann", 0, 2, 5000, 1)
            .call("ann", Op::Extend { ttl_ms: 100, fence: Some(1) }, 500, 510, outcome)
            .granted("bob", 1000, 1002, 1000, 2)
    };
    story(Outcome::Int(1)).passes();
    story(Outcome::Unknown).passes();
    story(Outcome::Int(0)).fails_by_all(&["two holders", "a holder was turned away"]);
}

#[test]
fn a_release_of_another_fence_or_without_effect_ends_nothing() {
    for (fence, outcome) in [(Some(7), Outcome::Unknown), (None, Outcome::Int(0)), (None, Outcome::Int(-1))] {
        Story::begins()
            .granted("ann", 0, 2, 5000, 1)
            .call("ann", Op::Release { fence }, 100, 110, outcome)
            .granted("bob", 500, 502, 1000, 2)
            .fails_by_all(match fence {
                Some(_) => &["two holders"],
                None => &["two holders", "a holder was turned away"],
            });
    }
    Story::begins()
        .granted("ann", 0, 2, 5000, 1)
        .call("ann", Op::Release { fence: None }, 100, 110, Outcome::Unknown)
        .granted("bob", 500, 502, 1000, 2)
        .passes();
}

#[test]
fn a_release_sent_long_before_may_strike_late() {
    Story::begins()
        .granted("ann", 0, 2, 100, 1)
        .call("ann", Op::Release { fence: None }, 50, 60, Outcome::Unknown)
        .granted("ann", 500, 502, 5000, 2)
        .granted("bob", 1000, 1002, 1000, 3)
        .passes();
}

#[test]
fn an_ephemeral_lock_ends_with_its_connection() {
    let tied = Op::Acquire { ttl_ms: 5000, wait_ms: 0, level: 1, bond: Bond::Ephemeral };
    let story = || Story::begins().call("ann", tied.clone(), 0, 2, Outcome::Int(1));
    story().and(Record::Closed(Closed { conn: 1, from_us: 500_000 })).granted("bob", 501, 503, 1000, 2).passes();
    story().granted("bob", 501, 503, 1000, 2).fails_by("two holders");
}

#[test]
fn plain_and_other_locks_exclude_one_another() {
    let set_nx = |ttl_ms| Op::SetNx { ttl_ms, wait_ms: 0, ticket_ms: 0 };
    Story::begins()
        .call("v", set_nx(1000), 0, 2, Outcome::Ok)
        .granted("bob", 500, 502, 1000, 2)
        .fails_by("two holders");
    Story::begins()
        .granted("bob", 0, 2, 1000, 2)
        .call("v", set_nx(1000), 500, 502, Outcome::Ok)
        .fails_by("two holders");
    Story::begins()
        .call("v", set_nx(1000), 0, 2, Outcome::Ok)
        .call("v", Op::CompareAndDelete, 400, 410, Outcome::Int(1))
        .granted("bob", 405, 412, 1000, 2)
        .passes();
}

#[test]
fn a_waiters_lease_counts_from_when_it_can_have_been_granted() {
    // Asked at 0, told at 3000: nobody can say that the lease of 1000 ms did not begin and end in between …
    let story = || Story::begins().call("ann", asks(1000, 5000), 0, 3000, Outcome::Int(5));
    story().granted("bob", 3001, 3005, 1000, 6).passes();
    // … unless the clock was given a lower fence shortly before.
    story().tick(2900, 2910, 4).granted("bob", 3001, 3005, 1000, 6).fails_by("two holders");
}

// ---- What the key says.

#[test]
fn a_key_that_is_not_the_holders_is_caught() {
    let story = || Story::begins().granted("ann", 0, 2, 1000, 1);
    story().held(Some(&value("ann", 1, "x")), 1, 500).held(Some(&value("bob", 2, "y")), 1000, 1100).passes();
    story().held(Some(&value("bob", 2, "y")), 100, 110).fails_by("the key is not the holder's");
    story().held(Some(&value("ann", 1, "x?")), 100, 110).fails_by("the key is not the holder's");
    story().held(None, 100, 110).fails_by("the key is not the holder's");
}

#[test]
fn a_lock_given_to_somebody_who_had_gone_is_caught() {
    let story = |gone_ms: u64| {
        Story::begins()
            .call("ann", asks(30_000, 5000), 0, gone_ms, Outcome::Unknown)
            .and(Record::Closed(Closed { conn: 1, from_us: gone_ms * 1000 }))
            .granted("bob", 9000, 9001, 10, 9)
            .held(Some(&value("ann", 1, "x")), 2000, 6000)
    };
    story(1000).fails_by("given to the gone");
    story(1900).passes();
    story(1000).fault(500, 600).passes();
}

#[test]
fn a_lock_left_with_somebody_who_was_refused_is_caught() {
    let story = |outcome| {
        Story::begins().call("ann", asks(30_000, 500), 0, 500, outcome).granted("bob", 9000, 9001, 10, 9).held(
            Some(&value("ann", 1, "x")),
            400,
            4000,
        )
    };
    story(Outcome::Nil).fails_by("given to the gone");
    // It may have been granted, and is then her own until its lease is over.
    story(Outcome::Error("UNAVAILABLE".into())).fails_by("an error out of nowhere");
}

// ---- Fences.

#[test]
fn a_fence_that_does_not_grow_is_caught() {
    Story::begins()
        .granted("ann", 0, 2, 10, 5)
        .released("ann", 3, 4, 5)
        .granted("bob", 100, 102, 1000, 4)
        .fails_by("a fence did not grow");
}

#[test]
fn a_fence_told_to_two_is_caught() {
    Story::begins().granted("ann", 0, 2, 10, 5).granted("bob", 100, 102, 10, 5).fails_by("one fence for two");
}

#[test]
fn a_holder_who_asks_again_keeps_his_fence_and_nobody_after_a_release_does() {
    let story = || Story::begins().granted("ann", 0, 2, 1000, 5);
    story().granted("ann", 500, 502, 1000, 5).granted("bob", 1600, 1602, 1000, 6).passes();
    story().released("ann", 100, 102, 5).granted("ann", 500, 502, 1000, 5).fails_by("a released fence is told again");
}

// ---- Order.

#[test]
fn who_was_seen_waiting_first_goes_first() {
    Story::begins().waited("ann", 1, (0, 100, 500), 5).waited("bob", 1, (200, 300, 600), 6).passes();
    Story::begins().waited("ann", 1, (0, 100, 600), 6).waited("bob", 1, (200, 300, 500), 5).fails_by("passed in line");
    // Nobody knows who came first.
    Story::begins().waited("ann", 1, (0, 250, 600), 6).waited("bob", 1, (200, 300, 500), 5).passes();
}

#[test]
fn a_higher_level_goes_first_whoever_came_first() {
    // The clock shows that the lock came free long after both stood in line.
    let story = |ann, bob| {
        let story = Story::begins().tick(390, 395, 4);
        story.waited("ann", ann, (0, 100, 600), 6).waited("bob", bob, (200, 300, 500), 5)
    };
    story(1, 2).passes();
    story(2, 1).fails_by("passed in line");
    story(2, 1).fault(0, 10).passes();
}

#[test]
fn who_gave_up_in_vain_was_passed_too() {
    let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 400, level: 1, bond: Bond::None };
    let story = |outcome| {
        Story::begins().call("ann", asks.clone(), 0, 402, outcome).seen("ann", 100).waited("bob", 1, (200, 250, 300), 5)
    };
    story(Outcome::Nil).fails_by("passed in line");
    story(Outcome::Nil).call("eve", Op::Position, 0, 1, Outcome::Nil).fails_by("passed in line");
    story(Outcome::Nil).call("ann", Op::Cancel, 220, 230, Outcome::Int(1)).passes();
    // Whom a claim was taken from by force stands at the end of the line until his node knows.
    story(Outcome::Nil).call("", Op::Del, 210, 211, Outcome::Int(1)).passes();
}

// ---- Answers.

#[test]
fn calls_without_an_answer_late_ones_and_answers_too_many_are_caught() {
    Story::begins().call("ann", asks(10, 100), 0, 9000, Outcome::Missing).fails_by("no answer");
    Story::begins().call("ann", asks(10, 100), 0, 9000, Outcome::Nil).fails_by("a late answer");
    Story::begins().call("ann", asks(10, 100), 0, 9000, Outcome::Nil).fault(100, 200).passes();
    Story::begins().call("ann", asks(10, 100), 0, 1000, Outcome::Nil).passes();
    let stray = Stray { conn: 1, at_us: 5, frame: ":1".into() };
    Story::begins().and(Record::Stray(stray)).fails_by("an answer too many");
}

#[test]
fn a_sleeper_before_a_free_key_is_caught() {
    let asks = Op::Acquire { ttl_ms: 1000, wait_ms: 8000, level: 1, bond: Bond::None };
    let story = |from_ms| Story::begins().call("ann", asks.clone(), from_ms, from_ms + 8000, Outcome::Nil);
    story(0).seen("ann", 100).held(None, 200, 4000).fails_by("a sleeper before a free key");
    story(0).seen("ann", 100).held(None, 200, 2500).passes();
    story(0).held(None, 200, 4000).fault(1500, 1600).passes();
    // Not seen waiting, but nothing was in its way.
    story(0).held(None, 200, 4000).fails_by("a sleeper before a free key");
}

#[test]
fn what_is_left_is_caught() {
    let end = |left: &[&str], waited_for: &[&str]| {
        let [left, waited_for] = [left, waited_for].map(|names| names.iter().map(|name| name.to_string()).collect());
        Record::End(End { at_us: 9, left, waited_for, ..End::default() })
    };
    Story::begins().and(end(&[], &[])).passes();
    Story::begins().and(end(&["lockgate:q:k"], &[])).fails_by("something is left");
    Story::begins().and(end(&[], &["k"])).fails_by("something is left");
}

// ---- Data.

#[test]
fn a_lost_update_is_caught() {
    let story =
        || Story::begins().granted("ann", 0, 2, 1000, 1).released("ann", 50, 52, 1).granted("bob", 60, 62, 900, 2);
    let end = |number| {
        let data = BTreeMap::from([(KEY.to_owned(), number)]);
        Record::End(End { data, ..End::default() })
    };
    story().wrote(1, 10, 20, 0, true).wrote(2, 70, 80, 1, true).and(end(2)).passes();
    story().wrote(1, 10, 20, 0, true).wrote(2, 70, 80, 0, true).fails_by("a lost update");
    story().wrote(1, 10, 20, 0, true).wrote(2, 70, 80, 1, true).and(end(1)).fails_by("a lost update");
    story().wrote(1, 10, 20, 0, false).fails_by("a holder was fenced off");
    // Written after the lease: the fence is there to refuse it.
    story().wrote(2, 70, 80, 0, true).wrote(1, 990, 1200, 1, false).and(end(1)).passes();
}

#[test]
fn a_recording_reads_back_as_it_was_written() {
    let Story(records) = Story::begins()
        .granted("ann", 0, 2, 1000, 1)
        .released("ann", 5, 6, 1)
        .held(Some("v"), 1, 2)
        .held(None, 3, 4)
        .fault(1, 2)
        .wrote(1, 2, 3, 0, true)
        .and(Record::End(End::default()));
    let file = tempfile::NamedTempFile::new().unwrap();
    crate::history::record::save(&records, file.path());
    assert_eq!(crate::history::record::load(file.path()), records);
}
