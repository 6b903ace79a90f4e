//! One order over all nodes: priority, then arrival, handed over in the releasing step, whichever node a waiter came by and whichever
//! releases.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Circle, Reply, ServerKind, Wire, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KEY: &str = "orders:1";
const QUEUED: &str = "[[lock_keys]]\nmatch = 'orders:*'\nwait = '60s'\n";

/// What a reader that is told of every event of a key has seen of it, until it is asked.
struct Watcher {
    events: Wire,
}

impl Watcher {
    fn of(circle: &Circle, key: &str) -> Self {
        let mut server = circle.server.wire();
        server.run("CONFIG SET notify-keyspace-events KA");
        let mut events = circle.server.wire();
        events.run(&format!("SUBSCRIBE __keyspace@0__:{key}"));
        Self { events }
    }

    /// How often the key came free so far: by a DEL, or by the end of its lease.
    fn times_free(&mut self) -> usize {
        self.events.ask_line("PING until-here");
        let mut free = 0;
        loop {
            let reply = self.events.reply();
            let words: Vec<String> = reply.items().iter().map(Reply::text_or_number).collect();
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["pong", ..] => return free,
                ["message", _, "del" | "expired" | "evicted"] => free += 1,
                _ => {}
            }
        }
    }
}

/// Ends what runs beside a test, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Reply {
    fn text_or_number(&self) -> String {
        match self {
            Reply::Int(number) => number.to_string(),
            other => other.text(),
        }
    }
}

/// Grants come in that order, each released by another node than the waiter's, and the key is never free in between.
#[track_caller]
fn assert_granted_in_order(circle: &Circle, queue: &mut [(usize, &str, Wire)], order: &[&str]) {
    let mut holder = "ann".to_owned();
    for (number, owner) in order.iter().enumerate() {
        let releasing = circle.nodes.len() - 1 - number % circle.nodes.len();
        circle.client(releasing).releases(KEY, &holder);
        let (_, _, client) = queue.iter_mut().find(|(_, name, _)| name == owner).unwrap();
        client.is_granted();
        assert_eq!(circle.holder(KEY).as_deref(), Some(*owner));
        holder = owner.to_string();
    }
    circle.client(0).releases(KEY, &holder);
    assert_eq!(circle.holder(KEY), None);
}

#[test]
fn priority_then_arrival_decide_over_three_nodes_on_every_server() {
    for kind in ServerKind::ALL {
        let circle = Circle::with(kind, 3, "");
        circle.client(0).acquires(KEY, "ann");
        let asks = [
            (1, "bob", "normal"),
            (0, "cat", "normal"),
            (2, "dan", "high"),
            (1, "eve", "low"),
            (2, "fay", "normal"),
            (0, "gus", "critical"),
            (1, "hal", "high"),
            (0, "ida", "low"),
        ];
        let waits = |(node, owner, level)| (node, owner, circle.waits(node, KEY, owner, &format!("PRIORITY {level}")));
        let mut queue: Vec<_> = asks.into_iter().map(waits).collect();
        let mut watcher = Watcher::of(&circle, KEY);
        let order = ["gus", "dan", "hal", "bob", "cat", "fay", "eve", "ida"];
        assert_granted_in_order(&circle, &mut queue, &order);
        assert_eq!(watcher.times_free(), 1, "only the last release frees it on {}", kind.name());
        circle.assert_nothing_stays();
    }
}

#[test]
fn every_node_gives_on_to_every_other_in_order_of_arrival() {
    // Each pair of node that releases and node that waits, the releasing one with and without waiters of its own.
    let circle = Circle::of(3);
    circle.client(0).acquires(KEY, "ann");
    let nodes = [1, 2, 0, 2, 1, 0, 0, 1, 1, 2, 2, 0];
    let owners: Vec<String> = (0..nodes.len()).map(|number| format!("w{number:02}")).collect();
    let mut queue: Vec<_> = nodes
        .iter()
        .zip(&owners)
        .map(|(node, owner)| (*node, owner.as_str(), circle.waits(*node, KEY, owner, "")))
        .collect();
    let order: Vec<&str> = owners.iter().map(String::as_str).collect();
    assert_granted_in_order(&circle, &mut queue, &order);
}

#[test]
fn no_reader_ever_finds_the_key_free_while_it_goes_from_node_to_node() {
    let circle = Circle::of(2);
    let is_over = AtomicBool::new(false);
    circle.client(0).acquires(KEY, "ann");
    let mut watcher = Watcher::of(&circle, KEY);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let reader = scope.spawn(|| {
            let (mut side, mut looks) = (circle.server.wire(), 0);
            while !is_over.load(Ordering::SeqCst) {
                for _ in 0..50 {
                    side.ask_line(&format!("EXISTS {KEY}"));
                }
                for _ in 0..50 {
                    assert_eq!(side.reply(), Reply::Int(1), "free after {looks} looks");
                    looks += 1;
                }
            }
            looks
        });
        let (mut holder, mut on) = ("ann".to_owned(), 0);
        let mut next = circle.waits(1, KEY, "w0", "");
        for round in 1..200 {
            // There is always somebody: the holder leaves when the next one and the one after him stand in line.
            let owner = format!("w{round}");
            let after = circle.waits(round % 2, KEY, &owner, "");
            if round % 5 == 0 {
                assert_eq!(circle.client(on).run(&format!("LOCK.FORCE {KEY}")), Reply::Int(1));
            } else {
                circle.client(on).releases(KEY, &holder);
            }
            next.is_granted();
            (holder, on) = (format!("w{}", round - 1), round / 2 % 2);
            next = after;
        }
        drop(over);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(watcher.times_free(), 0);
}

#[test]
fn set_nx_and_lock_waiters_of_several_nodes_stand_in_one_line() {
    let circle = Circle::with(ServerKind::Redis70, 2, QUEUED);
    let mut watcher = Watcher::of(&circle, KEY);
    circle.client(0).acquires(KEY, "ann");
    let mut bob = circle.waits_plain(1, KEY, "bob");
    let mut cat = circle.waits(0, KEY, "cat", "");
    let mut dan = circle.waits_plain(0, KEY, "dan");
    let mut eve = circle.waits(1, KEY, "eve", "");
    circle.client(0).releases(KEY, "ann");
    assert_eq!(bob.reply(), Reply::Simple("OK".into()));
    assert_eq!(watcher.times_free(), 0);
    assert_eq!(circle.server.wire().run(&format!("GET {KEY}")), Reply::bulk("bob"));
    // His client has never heard of Lockgate, and frees it around every queue.
    assert_eq!(bob.run(&format!("DEL {KEY}")), Reply::Int(1));
    cat.is_granted();
    circle.client(1).releases(KEY, "cat");
    assert_eq!(dan.reply(), Reply::Simple("OK".into()));
    assert_eq!(circle.client(1).run(&format!("LOCK.FORCE {KEY}")), Reply::Int(1));
    eve.is_granted();
    eve.releases(KEY, "eve");
    circle.assert_nothing_stays();
}

#[test]
fn whoever_waited_longer_by_promote_after_beats_the_next_level_over_nodes() {
    for (promote_after, order) in [("'10m'", ["cat", "bob"]), ("'200ms'", ["bob", "cat"])] {
        let circle = Circle::with(ServerKind::Redis70, 2, &format!("promote_after = {promote_after}\n"));
        circle.client(0).acquires(KEY, "ann");
        let bob = circle.waits(1, KEY, "bob", "PRIORITY normal");
        let came = Instant::now();
        eventually("more than that passes", || (came.elapsed() > Duration::from_millis(400)).then_some(()));
        let cat = circle.waits(0, KEY, "cat", "PRIORITY high");
        assert_granted_in_order(&circle, &mut [(1, "bob", bob), (0, "cat", cat)], &order);
    }
}

#[test]
fn a_newcomer_passes_no_waiter_of_another_node() {
    // The waiter's node stands still while the key is freed around it, so that the newcomer finds it free.
    for newcomer in ["LOCK.ACQUIRE orders:1 new", "LOCK.ACQUIRE orders:1 new WAIT 60000", "SET orders:1 new NX"] {
        for rule in ["", QUEUED, "[[lock_keys]]\nmatch = 'orders:*'\n"] {
            if newcomer.starts_with("SET") && rule.is_empty() {
                continue;
            }
            let circle = Circle::with(ServerKind::Redis70, 2, rule);
            circle.client(0).acquires(KEY, "ann");
            let mut bob = circle.waits(1, KEY, "bob", "");
            circle.stop(1);
            let mut side = circle.server.wire();
            let mut new = circle.client(0);
            side.run(&format!("DEL {KEY}"));
            new.ask_line(newcomer);
            let value = eventually("somebody has it", || match side.run(&format!("GET {KEY}")) {
                Reply::Nil => None,
                value => Some(value.text()),
            });
            assert!(value.starts_with("bob\x1f"), "{newcomer} under '{rule}': {value:?} has it");
            let waits = newcomer.contains("WAIT") || (newcomer.starts_with("SET") && rule == QUEUED);
            if waits {
                new.still_waits();
            } else {
                assert_eq!(new.reply(), Reply::Nil, "{newcomer} under '{rule}'");
            }
            circle.go_on(1);
            // He stood still for longer than a claim stands, perhaps: then it is free, or the newcomer's, who gives it back.
            if waits {
                let first = eventually("one of the two has it", || {
                    [&mut bob, &mut new].into_iter().position(|who| who.try_frame(Duration::from_millis(5)).is_ok())
                });
                side.run(&format!("DEL {KEY}"));
                let other = if first == 0 { &mut new } else { &mut bob };
                other.reply();
            } else {
                bob.is_granted();
            }
        }
    }
}

/// A waiter leaves in some way; what is left of him is his connection.
type Leaving = (&'static str, fn(&Circle, &mut Option<Wire>));

#[test]
fn the_best_waiter_who_leaves_in_any_way_holds_nobody_up() {
    let circle = Circle::of(2);
    let leaves: [Leaving; 6] = [
        ("cancelled here", |circle, _| {
            assert_eq!(circle.client(1).run(&format!("LOCK.CANCEL {KEY} bob")), Reply::Int(1));
        }),
        ("cancelled there", |circle, _| {
            assert_eq!(circle.client(0).run(&format!("LOCK.CANCEL {KEY} bob")), Reply::Int(1));
        }),
        ("released before he has it", |circle, _| {
            assert_eq!(circle.client(1).run(&format!("LOCK.RELEASE {KEY} bob")), Reply::Int(0));
        }),
        ("timed out", |_, bob| assert_eq!(bob.as_mut().unwrap().reply(), Reply::Nil)),
        ("disconnected", |_, bob| drop(bob.take())),
        ("disconnected the moment it is his", |_, _| {}),
    ];
    for (way, leave) in leaves {
        circle.client(0).acquires(KEY, "ann");
        let wait = if way == "timed out" { 700 } else { 60_000 };
        let mut bob = circle.client(1);
        bob.ask_line(&format!("LOCK.ACQUIRE {KEY} bob WAIT {wait} PRIORITY high"));
        circle.await_place(1, KEY, "bob");
        let mut bob = Some(bob);
        let mut cat = circle.waits(1, KEY, "cat", "");
        let mut dan = circle.waits(0, KEY, "dan", "");
        leave(&circle, &mut bob);
        if way.ends_with("his") {
            drop(bob);
        } else {
            circle.await_waiters(0, KEY, 2);
        }
        let begun = Instant::now();
        circle.client(0).releases(KEY, "ann");
        cat.is_granted();
        assert!(begun.elapsed() < Duration::from_secs(3), "{way}: {:?}", begun.elapsed());
        dan.still_waits();
        circle.client(0).releases(KEY, "cat");
        dan.is_granted();
        dan.releases(KEY, "dan");
        circle.assert_nothing_stays();
    }
}

#[test]
fn a_waiter_can_be_promoted_and_looked_up_from_any_node() {
    let circle = Circle::of(3);
    circle.client(0).acquires(KEY, "ann");
    let asks = [(0, "bob"), (1, "cat"), (2, "dan"), (1, "eve")];
    let mut queue: Vec<_> =
        asks.iter().map(|(node, owner)| (*node, *owner, circle.waits(*node, KEY, owner, ""))).collect();
    assert_eq!(circle.client(0).run(&format!("LOCK.PROMOTE {KEY} dan critical")), Reply::Int(1));
    assert_eq!(circle.client(2).run(&format!("LOCK.PROMOTE {KEY} eve high")), Reply::Int(2));
    assert_eq!(circle.client(1).run(&format!("LOCK.PROMOTE {KEY} bob low")), Reply::Int(4));
    let order = ["dan", "eve", "cat", "bob"];
    for node in 0..3 {
        // A node that is kept from running for 200 ms is not waited for.
        eventually(&format!("{order:?} as node {node} lists it"), || {
            let queue = circle.client(node).run(&format!("LOCK.QUEUE {KEY}"));
            let owners = queue.items().iter().map(|entry| entry.field("owner").text()).collect::<Vec<String>>();
            (owners == order).then_some(())
        });
        for (place, owner) in order.iter().enumerate() {
            eventually(&format!("{owner} stands at {} as node {node} knows", place + 1), || {
                let position = circle.client(node).run(&format!("LOCK.POSITION {KEY} {owner}"));
                (position == Reply::Int(place as i64 + 1)).then_some(())
            });
        }
    }
    assert_granted_in_order(&circle, &mut queue, &order);
    circle.assert_nothing_stays();
}

#[test]
fn a_node_of_another_form_is_reported_and_order_goes_on() {
    let circle = Circle::of(2);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            let mut new = common::Speaker::named(&circle.server, "new", 2);
            while !is_over.load(Ordering::SeqCst) {
                new.speaks();
            }
        });
        for node in &circle.nodes {
            eventually("the log tells", || node.wrote().contains("does not understand").then_some(()));
        }
        circle.client(0).acquires(KEY, "ann");
        let asks = [(1, "bob"), (0, "cat"), (1, "dan")];
        let mut queue: Vec<_> =
            asks.iter().map(|(node, owner)| (*node, *owner, circle.waits(*node, KEY, owner, ""))).collect();
        assert_granted_in_order(&circle, &mut queue, &["bob", "cat", "dan"]);
    });
}
