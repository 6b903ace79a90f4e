//! Whatever somebody does to the keys that Lockgate keeps beside locks: no call fails for it, fences grow, and what is rubbish goes.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::node::never_looking;
use common::{Lockgate, Node, RedisServer, Reply, ServerKind, Wire, command, eventually};
use lockgate::coordinator::{LockReply, LockSettings};
use lockgate::domain::WallClock;
use std::time::{Duration, SystemTime};

const COUNTER: &str = "lockgate:fence";

/// Two Lockgates before one server, and the highest fence that either has given for the key.
struct Pair {
    gates: [Lockgate; 2],
    server: RedisServer,
    last: i64,
    turn: usize,
}

impl Pair {
    fn before(server: RedisServer) -> Self {
        let gates = ["a", "b"].map(|id| Lockgate::before_with(&server, &format!("[nodes]\nid = \"{id}\"\n")));
        Pair { gates, server, last: 0, turn: 0 }
    }

    /// A client of the one, then of the other.
    fn client(&mut self) -> Wire {
        self.turn += 1;
        self.gates[self.turn % 2].wire()
    }

    #[track_caller]
    fn grew(&mut self, reply: &Reply, what: &str) {
        let Reply::Int(fence) = reply else { panic!("{what}: {reply:?}") };
        assert!(*fence > self.last && *fence < 1 << 53, "{what}: {fence} after {}", self.last);
        self.last = *fence;
    }

    /// The key changes hands in every way that gives out a fence.
    fn changes_hands(&mut self, what: &str) {
        let (mut ann, mut bob) = (self.client(), self.client());
        let taken = ann.run("LOCK.ACQUIRE k ann");
        self.grew(&taken, what);
        bob.ask_line("LOCK.ACQUIRE k bob WAIT 60000");
        eventually("bob waits", || (ann.run("LOCK.INFO k").field("waiters") == Reply::Int(1)).then_some(()));
        assert_eq!(ann.run("LOCK.RELEASE k ann"), Reply::Int(1), "{what}");
        let handed = bob.reply();
        self.grew(&handed, what);
        let moved = bob.run("LOCK.TRANSFER k bob cat");
        self.grew(&moved, what);
        assert_eq!(ann.run("LOCK.RELEASE k cat"), Reply::Int(1), "{what}");
        let several = ann.run("LOCK.ACQUIREALL 2 j k dan");
        self.grew(&several.items()[1], what);
        assert_eq!(bob.run("LOCK.RELEASEALL 2 j k dan"), Reply::Int(2), "{what}");
    }

    /// A counter that is far ahead may have been given out: what follows goes on above it, and above that where it is lost.
    fn goes_on_above_what_may_have_been_given(&mut self, vandal: &mut Wire) {
        for ahead in [1_000_000_000_000, 3_000_000_000_000_000] {
            let before = self.last;
            vandal.run(&format!("SET lockgate:fence {}", before + ahead));
            self.changes_hands("a counter far ahead");
            assert!(self.last > before + ahead, "{} after {before}", self.last);
            // The one who gave the last of them has seen it.
            let (mut giver, mut other) = (self.gates[(self.turn + 1) % 2].wire(), self.gates[self.turn % 2].wire());
            vandal.run("DEL lockgate:fence");
            let taken = giver.run("LOCK.ACQUIRE k ann");
            self.grew(&taken, "by the one who has seen it");
            // The other one reads it off the lock.
            vandal.run("DEL lockgate:fence");
            let moved = other.run("LOCK.TRANSFER k ann bob");
            self.grew(&moved, "by the one who has not");
            assert_eq!(other.run("LOCK.RELEASE k bob"), Reply::Int(1));
        }
    }
}

#[test]
fn whatever_becomes_of_the_counter_fences_grow_and_no_call_fails() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::before(RedisServer::start_with(kind, &[]));
        let mut vandal = pair.server.wire();
        pair.changes_hands("as it is");
        vandal.run("COPY lockgate:fence old");
        for deed in [
            "DEL lockgate:fence",
            "FLUSHALL",
            "SET lockgate:fence 5",
            "SET lockgate:fence -5",
            "SET lockgate:fence 1.5",
            "SET lockgate:fence 1e300",
            "SET lockgate:fence 0x7fffffffffffff",
            "SET lockgate:fence text",
            "SET lockgate:fence 9007199254740990",
            "SET lockgate:fence 9007199254740991",
            "SET lockgate:fence 9007199254740992",
            "SET lockgate:fence 9223372036854775807",
            "SET lockgate:fence 99999999999999999999999999",
            "SETRANGE lockgate:fence 3 x",
            "RENAME lockgate:fence elsewhere",
            "COPY old lockgate:fence REPLACE",
            "PEXPIRE lockgate:fence 1",
        ] {
            vandal.run(deed);
            pair.changes_hands(deed);
            // The other one gives the next fence.
            pair.turn += 1;
            pair.changes_hands("after that");
        }
        for other_type in ["LPUSH lockgate:fence x", "HSET lockgate:fence a b", "SADD lockgate:fence x"] {
            vandal.run("DEL lockgate:fence");
            vandal.run(other_type);
            pair.changes_hands(other_type);
        }
        vandal.call(&["SET", COUNTER, ""]);
        pair.changes_hands("an empty one");
        pair.goes_on_above_what_may_have_been_given(&mut vandal);
    }
}

#[test]
fn databases_that_are_swapped_take_no_fence_back() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let gates = ["a", "b"].map(|id| Lockgate::before_with(&server, &format!("[nodes]\nid = \"{id}\"\n")));
        let mut admin = server.wire();
        let mut last = [0; 2];
        for round in 0..40 {
            for (db, last) in last.iter_mut().enumerate() {
                // Each database's lock through the one node, then through the other, which has seen nothing of it since.
                let mut wire = gates[(round / 2 + db) % 2].wire();
                wire.run(&format!("SELECT {db}"));
                for _ in 0..=round % 5 {
                    let fence = wire.acquires("k", "ann");
                    assert!(fence > *last, "round {round}, db {db}: {fence} after {last}");
                    *last = fence;
                    wire.releases("k", "ann");
                }
            }
            if round % 3 != 1 {
                admin.run("SWAPDB 0 1");
            }
        }
    }
}

/// The kinds of rubbish that may stand where a queue should.
fn rubbish() -> Vec<Vec<Vec<u8>>> {
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let rank = "0".repeat(42);
    let entries = [
        "text".to_owned(),
        rank.clone(),
        format!("{rank}\x1f0\x1f0\x1fL1000\x1f1\x1fabc\x1f3\x1fbob"),
        format!("{rank}\x1f0\x1f99999999999999999999\x1fL1000\x1f1\x1fabc\x1f3\x1fbob"),
        format!("{rank}\x1f0\x1f1000\x1fL1000\x1f9\x1fabc\x1f3\x1fbob"),
        format!("{rank}\x1f\x1f\x1f\x1f\x1f\x1f\x1f"),
    ];
    let mut all: Vec<Vec<Vec<u8>>> =
        ["SET lockgate:q:k text", "RPUSH lockgate:q:k a b", "SADD lockgate:q:k a"].map(words).to_vec();
    all.extend(entries.iter().map(|entry| words(&format!("HSET lockgate:q:k ghost {entry}"))));
    all.push(words(&format!("HSET lockgate:q:k a {rank}")));
    all.push(words(&format!("HSET lockgate:q:k gh\x1fost {}", entries[2].replace("\x1f0\x1fL", "\x1f1000\x1fL"))));
    all
}

#[test]
fn rubbish_in_the_place_of_a_queue_is_removed_and_holds_up_nobody() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::before(RedisServer::start_with(kind, &[]));
        let mut vandal = pair.server.wire();
        for deed in rubbish() {
            let story = format!("{}", deed.concat().escape_ascii());
            for ask in ["LOCK.ACQUIRE k ann", "LOCK.ACQUIREALL 2 j k ann", "SET k ann NX PX 60000"] {
                vandal.call(&deed);
                let mut ann = pair.client();
                let reply = ann.run(ask);
                assert!(!matches!(reply, Reply::Nil | Reply::Error(_)), "{story}, {ask}: {reply:?}");
                vandal.run("DEL lockgate:q:k");
                vandal.call(&deed);
                let freed = if ask.starts_with("SET") { ann.run("DEL k") } else { ann.run("LOCK.RELEASE k ann") };
                assert_eq!(freed, Reply::Int(1), "{story}, {ask}");
                ann.run("LOCK.RELEASE j ann");
                let again = ann.run("LOCK.ACQUIRE k ann").int();
                assert!(again > 0, "{story}");
                assert_eq!(vandal.run("EXISTS lockgate:q:k"), Reply::Int(0), "{story}, {ask}");
                ann.releases("k", "ann");
            }
        }
    }
}

#[test]
fn rubbish_put_in_the_place_of_a_queue_while_somebody_waits_costs_no_one_a_turn() {
    let mut pair = Pair::before(RedisServer::start());
    let mut vandal = pair.server.wire();
    for deed in rubbish() {
        let story = format!("{}", deed.concat().escape_ascii());
        let (mut ann, mut bob, mut cat) = (pair.client(), pair.client(), pair.client());
        ann.acquires("k", "ann");
        for (number, (wire, owner)) in [(&mut bob, "bob"), (&mut cat, "cat")].into_iter().enumerate() {
            wire.waits_for("k", owner);
            let waiters = Reply::Int(number as i64 + 1);
            eventually("they wait", || (ann.run("LOCK.INFO k").field("waiters") == waiters).then_some(()));
        }
        if !story.starts_with("HSET") {
            vandal.run("DEL lockgate:q:k");
        }
        vandal.send(&command(&deed));
        vandal.reply();
        ann.releases("k", "ann");
        // Which of them comes first nobody can know, whose registration was deleted.
        let mut waiting = vec![("bob", bob), ("cat", cat)];
        while !waiting.is_empty() {
            let place = eventually(&format!("{story}: somebody is granted"), || {
                waiting.iter_mut().position(|(_, wire)| wire.try_frame(Duration::from_millis(20)).is_ok())
            });
            let (owner, mut wire) = waiting.remove(place);
            wire.releases("k", owner);
        }
        eventually(&story, || (vandal.run("EXISTS lockgate:q:k") == Reply::Int(0)).then_some(()));
    }
}

/// How many scripts the server has run.
fn scripts(admin: &mut Wire) -> i64 {
    let stats = admin.run("INFO commandstats").text();
    let of = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")))?;
        line.split(',').next()?.parse::<i64>().ok()
    };
    of("evalsha").unwrap_or(0) + of("eval").unwrap_or(0)
}

/// A clock that is so far ahead of the system's, in seconds.
fn clock(ahead_s: u64) -> WallClock {
    WallClock::new(move || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (since.as_micros() as u64) + ahead_s * 1_000_000
    })
}

/// Who is registered as the best waiter of the node.
fn registered(admin: &mut Wire, node: &str) -> String {
    match admin.run(&format!("HGET lockgate:q:k {node}")) {
        Reply::Bulk(waiter) => String::from_utf8_lossy(&waiter).into_owned(),
        _ => String::new(),
    }
}

#[test]
fn a_node_that_begins_again_with_an_earlier_clock_asks_no_more_than_others() {
    let server = RedisServer::start();
    let mut admin = server.wire();
    admin.run("SET k stranger PX 600000");
    let settings = |ahead_s| LockSettings { clock: clock(ahead_s), ..never_looking("a") };
    let before = Node::before(&server, settings(3600));
    let _waits = before.ask("LOCK.ACQUIRE k ann WAIT 600000");
    eventually("ann is registered", || registered(&mut admin, "a").ends_with("ann").then_some(()));
    before.kill();
    let again = Node::before(&server, settings(0));
    let waits = again.ask("LOCK.ACQUIRE k bob WAIT 600000");
    eventually("bob is registered in her place", || registered(&mut admin, "a").ends_with("bob").then_some(()));
    // What follows from that has followed once another call has gone to and fro.
    for _ in 0..20 {
        assert!(matches!(again.run("LOCK.ACQUIRE k cat"), LockReply::Nil));
    }
    let sent = scripts(&mut admin);
    assert!(sent < 60, "{sent} scripts for two waiters and twenty tries");
    admin.run("DEL k");
    assert!(waits.is_granted() > 0);
}

#[test]
fn two_processes_under_one_name_do_not_drive_each_other_round() {
    let server = RedisServer::start();
    let mut admin = server.wire();
    admin.run("SET k stranger PX 600000");
    let nodes = [0, 1].map(|_| Node::before(&server, never_looking("a")));
    let waits = ["ann", "bob"].map(|owner| format!("LOCK.ACQUIRE k {owner} WAIT 600000"));
    let _calls: Vec<_> = nodes.iter().zip(&waits).map(|(node, line)| node.ask(line)).collect();
    eventually("somebody is registered", || (!registered(&mut admin, "a").is_empty()).then_some(()));
    let begun = std::time::Instant::now();
    let before = scripts(&mut admin);
    // Each of them rewrites what the other has registered, by the heartbeat of its link at most.
    eventually("three seconds have passed", || (begun.elapsed() > Duration::from_secs(3)).then_some(()));
    let sent = scripts(&mut admin) - before;
    assert!(sent < 60, "{sent} scripts in three seconds, while nothing happens");
}

/// A counter that is a little ahead of the clock (a master whose clock is behind took over) and is lost: a node that has just begun has not
/// seen the fences that were given, and hears of them from those who have.
#[test]
fn a_node_that_begins_goes_on_above_the_fences_that_others_have_seen() {
    let server = RedisServer::start();
    let gate = |id: &str| Lockgate::before_with(&server, &format!("[nodes]\nid = \"{id}\"\n"));
    let a = gate("a");
    let mut direct = server.wire();
    let time = direct.run("TIME").items()[0].text().parse::<u64>().unwrap();
    // Too little to be taken for fences that run ahead of the clock.
    direct.run(&format!("SET lockgate:fence {}", (time + 50) * 1_000_000));
    let fence = a.wire().acquires("k", "ann");
    assert!(fence > i64::try_from((time + 50) * 1_000_000).unwrap(), "the counter stands, and is gone on from");
    direct.run("DEL lockgate:fence");
    let b = gate("b");
    let mut other = b.wire();
    eventually("they know one another", || (other.run("LOCK.NODES").items().len() == 2).then_some(()));
    let next = other.acquires("probe", "bob");
    assert!(next > fence, "{next} comes after {fence}");
}

#[test]
fn fences_far_ahead_of_the_clock_are_known_to_all_nodes_before_the_counter_can_be_lost() {
    let server = RedisServer::start();
    // No heartbeat falls into this test.
    let gate = |id: &str| {
        let config = format!("[nodes]\nid = \"{id}\"\nheartbeat = \"5m\"\ntimeout = \"20m\"\n");
        Lockgate::before_with(&server, &config)
    };
    let (a, b) = (gate("a"), gate("b"));
    let mut other = b.wire();
    eventually("they know one another", || (other.run("LOCK.NODES").items().len() == 2).then_some(()));
    let mut direct = server.wire();
    let time = direct.run("TIME").items()[0].text().parse::<u64>().unwrap();
    direct.run(&format!("SET lockgate:fence {}", (time + 86_400) * 1_000_000));
    let fence = a.wire().acquires("k", "ann");
    assert!(fence > i64::try_from((time + 86_400) * 1_000_000).unwrap(), "the counter stands, and is gone on from");
    direct.run("DEL lockgate:fence");
    eventually("the other node goes on above it", || {
        let next = other.acquires("probe", "bob");
        other.releases("probe", "bob");
        direct.run("DEL lockgate:fence");
        (next > fence).then_some(())
    });
}
