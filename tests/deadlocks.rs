//! Deadlocks (SPEC 5): found wherever they close, one call of each ended, and never one where there is none.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, Stage, Wire, eventually, within};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A heartbeat that a test need not wait for, and a timeout that a busy machine keeps.
const BEATS: &str = "[nodes]\nheartbeat = \"100ms\"\ntimeout = \"3s\"\n";
/// Within this a deadlock is broken. The product promises a second; the machine that runs the tests may be busy.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// For so long nothing must happen where there is no deadlock: several rounds of the search.
const QUIET_FOR: Duration = Duration::from_millis(900);

fn lockgate(server: &RedisServer, name: &str, more: &str) -> Lockgate {
    Lockgate::before_with(server, &format!("{BEATS}id = \"{name}\"\n{more}"))
}

/// So many nodes on one server that know one another.
fn nodes<const N: usize>(server: &RedisServer, more: &str) -> [Lockgate; N] {
    let nodes = std::array::from_fn(|number| lockgate(server, &format!("n{number}"), more));
    await_one_another(&nodes);
    nodes
}

#[track_caller]
fn await_one_another(nodes: &[Lockgate]) {
    for node in nodes {
        let mut look = node.wire();
        eventually("the nodes know one another", || {
            (look.run("LOCK.NODES").items().len() == nodes.len()).then_some(())
        });
    }
}

/// A client who holds these locks as that owner.
#[track_caller]
fn holding(on: &Lockgate, owner: &str, keys: &[&str]) -> Wire {
    let mut client = on.wire();
    for key in keys {
        client.acquires(key, owner);
    }
    client
}

/// Waits until that many stand in line for `key`.
#[track_caller]
fn await_waiters(on: &Lockgate, key: &str, count: i64) {
    let mut look = on.wire();
    eventually(&format!("{count} waiters for '{key}'"), || {
        (look.run(&format!("LOCK.INFO {key}")).field("waiters") == Reply::Int(count)).then_some(())
    });
}

/// What has come for a waiting call, if anything has.
fn came(client: &mut Wire) -> Option<Reply> {
    client.try_frame(Duration::from_millis(1)).ok().map(|frame| Reply::parse(&frame))
}

/// The one of these clients who is told something first, and what.
#[track_caller]
fn first_told(clients: &mut [&mut Wire]) -> (usize, String) {
    let told = within(FOUND_WITHIN, || {
        clients.iter_mut().enumerate().find_map(|(number, client)| Some((number, came(client)?)))
    });
    let (number, reply) = told.expect("the deadlock was not broken");
    (number, shown(&reply))
}

fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Error(line) => line.clone(),
        Reply::Nil => "nil".into(),
        other => format!("{other:?}"),
    }
}

fn history(on: &Lockgate, count: &str) -> Vec<(String, String, String)> {
    let entries = on.wire().run(&format!("LOCK.DEADLOCKS{count}")).items().to_vec();
    let text = |entry: &Reply, name: &str| entry.field(name).text();
    entries.iter().map(|entry| (text(entry, "cycle"), text(entry, "victim"), text(entry, "policy"))).collect()
}

/// Nobody is told anything, and nothing is found.
#[track_caller]
fn all_is_quiet(on: &Lockgate, clients: &mut [&mut Wire]) {
    let end = Instant::now() + QUIET_FOR;
    while Instant::now() < end {
        for (number, client) in clients.iter_mut().enumerate() {
            assert!(came(client).is_none(), "client {number} waits no longer");
        }
    }
    assert_eq!(history(on, ""), []);
}

#[test]
fn two_that_wait_for_each_other_are_found_and_the_one_who_waits_on_goes_on() {
    let stage = Stage::new();
    let (mut a, mut b) = (holding(&stage.lockgate, "a", &["orders:2"]), holding(&stage.lockgate, "b", &["orders:1"]));
    b.waits_for("orders:2", "b");
    stage.await_waiters("orders:2", 1);
    let begun = Instant::now();
    a.waits_for("orders:1", "a");
    let (victim, line) = first_told(&mut [&mut a, &mut b]);
    assert!(begun.elapsed() < Duration::from_secs(1), "found after {:?}", begun.elapsed());
    assert_eq!((victim, line.as_str()), (0, "DEADLOCK a -> orders:1 -> b -> orders:2 -> a"), "the latest of equals");
    // The victim keeps its locks, and can let go of them.
    assert_eq!(stage.holder("orders:2").as_deref(), Some("a"));
    b.still_waits();
    a.releases("orders:2", "a");
    b.is_granted();
    let found = history(&stage.lockgate, "");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0], (line.strip_prefix("DEADLOCK ").unwrap().into(), "a".into(), "lowest_priority".into()));
    assert_eq!(stage.client().run("LOCK.STATS").field("deadlocks"), Reply::Int(1));
    // And the same two can do it again.
    b.waits_for("orders:3", "b");
    b.is_granted();
    a.waits_for("orders:2", "a");
    stage.await_waiters("orders:2", 1);
    a.still_waits();
}

#[test]
fn five_parties_in_a_ring_lose_one_call_and_no_more() {
    let stage = Stage::new();
    let mut ring: Vec<Wire> =
        (0..5).map(|who| holding(&stage.lockgate, &format!("o{who}"), &[&format!("k{who}")])).collect();
    for (who, client) in ring.iter_mut().enumerate() {
        client.waits_for(&format!("k{}", (who + 1) % 5), &format!("o{who}"));
        stage.await_waiters(&format!("k{}", (who + 1) % 5), 1);
    }
    let (victim, line) = first_told(&mut ring.iter_mut().collect::<Vec<_>>());
    assert_eq!((victim, line.as_str()), (4, "DEADLOCK o4 -> k0 -> o0 -> k1 -> o1 -> k2 -> o2 -> k3 -> o3 -> k4 -> o4"));
    // The others get their locks one after the other, as each lets go.
    ring[4].releases("k4", "o4");
    for who in (0..4).rev() {
        ring[who].is_granted();
        ring[who].releases(&format!("k{who}"), &format!("o{who}"));
    }
    assert_eq!(history(&stage.lockgate, "").len(), 1);
}

#[test]
fn a_cycle_over_two_nodes_is_found_within_a_second() {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, "");
    for round in 0..5 {
        let (k1, k2) = (format!("k1-{round}"), format!("k2-{round}"));
        let (mut a, mut b) = (holding(&x, "a", &[&k1]), holding(&y, "b", &[&k2]));
        a.waits_for(&k2, "a");
        await_waiters(&y, &k2, 1);
        let begun = Instant::now();
        b.waits_for(&k1, "b");
        let (victim, line) = first_told(&mut [&mut a, &mut b]);
        let took = begun.elapsed();
        println!("found over two nodes after {took:?}");
        assert!(took < Duration::from_secs(1), "found after {took:?}");
        assert_eq!((victim, line), (1, format!("DEADLOCK b -> {k1} -> a -> {k2} -> b")));
        b.releases(&k2, "b");
        a.is_granted();
        assert_eq!(history(&x, "").len(), round + 1, "each node tells what any of them has found");
        assert_eq!(history(&x, ""), history(&y, ""));
    }
}

#[test]
fn owners_who_have_gone_to_other_nodes_are_found_and_so_are_those_from_before_a_restart() {
    let server = RedisServer::start();
    let mut before = lockgate(&server, "before", "");
    drop((holding(&before, "a", &["k1"]), holding(&before, "b", &["k2"])));
    before.kill();
    drop(before);
    let [x, y] = nodes(&server, "");
    let (mut a, mut b) = (x.wire(), y.wire());
    a.waits_for("k2", "a");
    await_waiters(&y, "k2", 1);
    b.waits_for("k1", "b");
    let (victim, line) = first_told(&mut [&mut a, &mut b]);
    assert_eq!((victim, line.as_str()), (1, "DEADLOCK b -> k1 -> a -> k2 -> b"));
}

#[test]
fn a_node_that_has_just_died_keeps_nobody_from_finding_a_cycle() {
    let server = RedisServer::start();
    let [x, y, mut z] = nodes(&server, "");
    let (mut a, mut b) = (holding(&x, "a", &["k1"]), holding(&y, "b", &["k2"]));
    z.kill();
    a.waits_for("k2", "a");
    b.waits_for("k1", "b");
    let begun = Instant::now();
    let (_, line) = first_told(&mut [&mut a, &mut b]);
    println!("found beside a dead node after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(1500), "found after {:?}", begun.elapsed());
    assert!(line.starts_with("DEADLOCK "), "{line}");
}

#[test]
fn a_ring_over_three_nodes_loses_one_call() {
    let server = RedisServer::start();
    let nodes: [Lockgate; 3] = nodes(&server, "");
    let mut ring: Vec<Wire> =
        (0..6).map(|who| holding(&nodes[who % 3], &format!("o{who}"), &[&format!("k{who}")])).collect();
    for (who, client) in ring.iter_mut().enumerate() {
        client.waits_for(&format!("k{}", (who + 1) % 6), &format!("o{who}"));
        await_waiters(&nodes[0], &format!("k{}", (who + 1) % 6), 1);
    }
    let begun = Instant::now();
    let (victim, line) = first_told(&mut ring.iter_mut().collect::<Vec<_>>());
    assert!(begun.elapsed() < Duration::from_secs(1), "found after {:?}", begun.elapsed());
    assert_eq!(victim, 5);
    assert!(line.starts_with("DEADLOCK o5 -> k0 -> o0 -> k1 -> o1") && line.ends_with("-> k5 -> o5"), "{line}");
    ring[5].releases("k5", "o5");
    for who in (0..5).rev() {
        ring[who].is_granted();
        ring[who].releases(&format!("k{who}"), &format!("o{who}"));
    }
    assert_eq!(history(&nodes[1], "").len(), 1);
}

#[test]
fn a_connection_that_took_a_lock_by_set_nx_and_waits_as_an_owner_is_found() {
    let stage = Stage::new();
    let (mut a, mut x) = (holding(&stage.lockgate, "a", &["orders:1"]), stage.client());
    assert_eq!(x.run("SET lock:1 v1 NX PX 60000"), Reply::Simple("OK".into()));
    x.waits_for("orders:1", "b");
    stage.await_waiters("orders:1", 1);
    a.waits_for("lock:1", "a");
    let (victim, line) = first_told(&mut [&mut a, &mut x]);
    assert_eq!(victim, 0);
    let is_it =
        line.starts_with("DEADLOCK a -> lock:1 -> v1 -> connection ") && line.ends_with(" -> b -> orders:1 -> a");
    assert!(is_it, "{line}");
    x.still_waits();
    a.releases("orders:1", "a");
    x.is_granted();
}

#[test]
fn a_set_nx_in_a_cycle_gets_nil_early() {
    let rule =
        "[[lock_keys]]\nmatch = \"lock:*\"\nwait = \"60s\"\nwait_while_holding = true\npriority = \"critical\"\n";
    let stage = Stage::with(rule);
    // Two connections by SET NX alone.
    let (mut x, mut y) = (stage.client(), stage.client());
    assert_eq!(x.run("SET lock:1 v1 NX PX 60000"), Reply::Simple("OK".into()));
    assert_eq!(y.run("SET lock:2 v2 NX PX 60000"), Reply::Simple("OK".into()));
    x.ask_line("SET lock:2 w1 NX PX 60000");
    stage.await_waiters("lock:2", 1);
    y.ask_line("SET lock:1 w2 NX PX 60000");
    assert_eq!(first_told(&mut [&mut x, &mut y]), (1, "nil".into()));
    x.still_waits();
    assert_eq!(y.run("DEL lock:2"), Reply::Int(1));
    assert_eq!(x.reply(), Reply::Simple("OK".into()));
    // One of them as an owner: the SET NX gives way, whatever its level.
    let mut a = holding(&stage.lockgate, "a", &["orders:1", "lock:3"]);
    assert_eq!(y.run("SET lock:4 v4 NX PX 60000"), Reply::Simple("OK".into()));
    y.ask_line("SET lock:3 w3 NX PX 60000");
    stage.await_waiters("lock:3", 1);
    a.ask_line("LOCK.ACQUIRE lock:4 a WAIT 60000 PRIORITY low");
    assert_eq!(first_told(&mut [&mut a, &mut y]), (1, "nil".into()));
    a.still_waits();
    let found = history(&stage.lockgate, " COUNT 1");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, "w3");
    assert!(found[0].0.starts_with("w3 -> lock:3 -> a -> lock:4 -> v4 -> connection "), "{found:?}");
}

#[test]
fn calls_of_two_owners_on_one_connection_do_not_wait_for_ever() {
    let stage = Stage::new();
    let mut shared = stage.client();
    shared.acquires("k", "a");
    // b's call stands before the release it waits for.
    shared.waits_for("k", "b");
    shared.ask_line("LOCK.RELEASE k a");
    let line = shown(&shared.reply());
    assert!(line.starts_with("DEADLOCK b -> k -> a -> connection ") && line.ends_with(" -> b"), "{line}");
    assert_eq!(shared.reply(), Reply::Int(1), "and now the release has run");
    // The release may also come when the call has waited for a while, and in pieces, with others before it.
    shared.acquires("k", "a");
    shared.waits_for("k", "b");
    stage.await_waiters("k", 1);
    shared.send(b"PING\r\n*4\r\n$15\r\nLOCK.RELEASEALL\r\n$1\r\n1\r\n$1\r\nk\r\n");
    shared.still_waits();
    shared.send(b"$1\r\na\r\n");
    assert!(shown(&shared.reply()).starts_with("DEADLOCK b -> k -> a"));
    assert_eq!((shared.reply(), shared.reply()), (Reply::Simple("PONG".into()), Reply::Int(1)));
    // A SET NX that waits gets nil.
    let stage = Stage::with("[[lock_keys]]\nmatch = \"lock:*\"\nwait = \"60s\"\nyield = false\n");
    let mut shared = stage.client();
    shared.acquires("lock:k", "a");
    shared.ask_line("SET lock:k v NX PX 1000");
    shared.ask_line("LOCK.RELEASE lock:k a");
    assert_eq!((shared.reply(), shared.reply()), (Reply::Nil, Reply::Int(1)));
}

#[test]
fn releases_on_another_connection_or_of_other_locks_close_nothing() {
    let stage = Stage::new();
    let (mut shared, mut other) = (stage.client(), stage.client());
    for key in ["k", "m"] {
        shared.acquires(key, "a");
    }
    shared.waits_for("k", "b");
    shared.ask_line("LOCK.RELEASE m a");
    shared.ask_line("LOCK.RELEASE k c");
    all_is_quiet(&stage.lockgate, &mut [&mut shared]);
    other.releases("k", "a");
    shared.is_granted();
    assert_eq!((shared.reply(), shared.reply()), (Reply::Int(1), Reply::Int(0)));
}

#[test]
fn through_connections_that_several_owners_share_a_longer_cycle_is_found() {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, "");
    let (mut one, mut two) = (x.wire(), y.wire());
    one.acquires("k1", "a");
    two.acquires("k2", "c");
    // a's release stands behind b, who waits for c, whose release stands behind d, who waits for a.
    one.waits_for("k2", "b");
    one.ask_line("LOCK.RELEASE k1 a");
    await_waiters(&y, "k2", 1);
    two.waits_for("k1", "d");
    two.ask_line("LOCK.RELEASE k2 c");
    // The other one goes on as soon as the release behind the victim has run.
    let line = shown(&two.reply());
    assert!(line.starts_with("DEADLOCK d -> k1 -> a -> connection ") && line.ends_with(" of n1 -> d"), "{line}");
    assert_eq!(two.reply(), Reply::Int(1));
    one.is_granted();
    assert_eq!(one.reply(), Reply::Int(1));
}

#[test]
fn acquireall_waits_as_any_other_call_and_holds_nothing_meanwhile() {
    let stage = Stage::new();
    let (mut a, mut b) = (holding(&stage.lockgate, "a", &["k1"]), holding(&stage.lockgate, "b", &["k2"]));
    b.waits_for("k1", "b");
    stage.await_waiters("k1", 1);
    a.ask_line("LOCK.ACQUIREALL 2 k3 k2 a WAIT 60000");
    let (victim, line) = first_told(&mut [&mut a, &mut b]);
    assert_eq!((victim, line.as_str()), (0, "DEADLOCK a -> k2 -> b -> k1 -> a"));
    assert_eq!(stage.holder("k3"), None);
    a.releases("k1", "a");
    b.is_granted();
    // Those who ask for all of them at once, in any order, never wait for each other.
    let (mut c, mut d) = (stage.client(), stage.client());
    for _ in 0..20 {
        c.ask_line("LOCK.ACQUIREALL 3 m1 m2 m3 c WAIT 60000");
        d.ask_line("LOCK.ACQUIREALL 3 m3 m2 m1 d WAIT 60000");
        let mut open = vec![(&mut c, "c"), (&mut d, "d")];
        while !open.is_empty() {
            open.retain_mut(|(client, owner)| {
                let Some(reply) = came(client) else { return true };
                assert_eq!(reply.items().len(), 3, "{reply:?}");
                assert_eq!(client.run(&format!("LOCK.RELEASEALL 3 m1 m2 m3 {owner}")), Reply::Int(3));
                false
            });
        }
    }
    assert_eq!(history(&stage.lockgate, "").len(), 1);
}

#[test]
fn a_waiter_behind_a_higher_one_is_not_deadlocked_until_that_one_holds_the_lock() {
    let stage = Stage::new();
    let on = &stage.lockgate;
    let (mut h, mut a) = (holding(on, "h", &["k"]), holding(on, "a", &["k2"]));
    let (mut c, mut c_too) = (stage.client(), stage.client());
    c.ask_line("LOCK.PRIORITY k c high WAIT 60000");
    stage.await_waiters("k", 1);
    a.waits_for("k", "a");
    stage.await_waiters("k", 2);
    c_too.ask_line("LOCK.PRIORITY k2 c high WAIT 60000");
    // a waits behind c, and c for a; but h has the lock, and it could still be a whom he lets pass.
    all_is_quiet(on, &mut [&mut a, &mut c, &mut c_too]);
    h.releases("k", "h");
    c.is_granted();
    let (victim, line) = first_told(&mut [&mut a, &mut c_too]);
    assert_eq!((victim, line.as_str()), (0, "DEADLOCK a -> k -> c -> k2 -> a"), "the lowest");
    a.releases("k2", "a");
    c_too.is_granted();
}

/// Two owners who deadlock: a took its first lock first and holds three, b began to wait first, at a lower level for `low`.
fn victim_of(policy: &str, low: &str) -> (String, String) {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, &format!("[deadlock]\nvictim = \"{policy}\"\n"));
    let mut a = holding(&x, "a", &["k1", "a2", "a3"]);
    // Told apart by the ms in which they were taken.
    std::thread::sleep(Duration::from_millis(5));
    let mut b = holding(&y, "b", &["k2"]);
    let level = |owner: &str| if owner == low { "low" } else { "normal" };
    b.ask_line(&format!("LOCK.ACQUIRE k1 b WAIT 60000 PRIORITY {}", level("b")));
    await_waiters(&x, "k1", 1);
    a.ask_line(&format!("LOCK.ACQUIRE k2 a WAIT 60000 PRIORITY {}", level("a")));
    let (victim, _) = first_told(&mut [&mut a, &mut b]);
    let found = eventually("it is told of", || history(&x, "").into_iter().next());
    assert_eq!(found.1, ["a", "b"][victim]);
    (found.1, found.2)
}

#[test]
fn each_policy_has_its_victim() {
    for (policy, low, victim) in [
        ("lowest_priority", "b", "b"),
        ("lowest_priority", "a", "a"),
        ("youngest", "a", "b"),
        ("fewest_locks", "a", "b"),
        ("requester", "b", "a"),
    ] {
        assert_eq!(victim_of(policy, low), (victim.into(), policy.into()), "{policy}, {low} waits at the lowest level");
    }
}

/// A node that stands still is asked until it answers: without what it has granted, the other one would be the victim.
#[test]
fn fewest_locks_are_counted_over_all_nodes_or_not_yet() {
    let server = RedisServer::start();
    let more = "[deadlock]\nvictim = \"fewest_locks\"\n";
    let [x, y, z] = ["x", "y", "z"].map(|name| {
        let beats = "[nodes]\nheartbeat = \"100ms\"\ntimeout = \"60s\"\n";
        Lockgate::before_with(&server, &format!("{beats}id = \"{name}\"\n{more}"))
    });
    let all = [x, y, z];
    await_one_another(&all);
    let [x, y, z] = &all;
    let (mut a, mut b) = (holding(x, "a", &["k1"]), holding(y, "b", &["k2"]));
    let _more_of_his = holding(z, "a", &["a2", "a3"]);
    common::tools::signal(z.pid(), Signal::SIGSTOP);
    b.ask_line("LOCK.ACQUIRE k1 b WAIT 60000");
    await_waiters(x, "k1", 1);
    a.ask_line("LOCK.ACQUIRE k2 a WAIT 60000 PRIORITY low");
    all_is_quiet(x, &mut [&mut a, &mut b]);
    common::tools::signal(z.pid(), Signal::SIGCONT);
    assert_eq!(first_told(&mut [&mut a, &mut b]).0, 1, "b holds one lock, and a three");
}

#[test]
fn prevention_refuses_the_call_that_would_close_a_cycle() {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, "[deadlock]\nmode = \"prevent\"\n");
    for (one, other) in [(&x, &x), (&x, &y)] {
        let (mut a, mut b) = (holding(one, "a", &["k1"]), holding(other, "b", &["k2"]));
        a.ask_line("LOCK.ACQUIRE k2 a WAIT 60000 PRIORITY low");
        await_waiters(one, "k2", 1);
        b.ask_line("LOCK.ACQUIRE k1 b WAIT 60000 PRIORITY critical");
        let (victim, line) = first_told(&mut [&mut a, &mut b]);
        assert_eq!((victim, line.as_str()), (1, "DEADLOCK b -> k1 -> a -> k2 -> b"));
        let found = eventually("it is told of", || history(one, " COUNT 1").into_iter().next());
        assert_eq!(found.2, "prevent");
        b.releases("k2", "b");
        a.is_granted();
        a.releases("k1", "a");
        a.releases("k2", "a");
    }
}

#[test]
fn switched_off_a_deadlock_is_left_to_its_timeouts() {
    let stage = Stage::with("[deadlock]\nmode = \"off\"\n");
    let (mut a, mut b) = (holding(&stage.lockgate, "a", &["k1"]), holding(&stage.lockgate, "b", &["k2"]));
    a.waits_for("k2", "a");
    b.waits_for("k1", "b");
    all_is_quiet(&stage.lockgate, &mut [&mut a, &mut b]);
    assert_eq!(stage.client().run("LOCK.GRAPH").items().len(), 0);
}

#[test]
fn the_graph_tells_who_waits_for_whom_on_all_nodes() {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, "");
    let _held = (holding(&x, "ann", &["k1"]), server.wire().run("SET lock:1 someone PX 60000"));
    let (mut bob, mut cat) = (x.wire(), y.wire());
    bob.waits_for("k1", "bob");
    await_waiters(&x, "k1", 1);
    cat.waits_for("lock:1", "cat");
    await_waiters(&x, "lock:1", 1);
    for node in [&x, &y] {
        for mut client in [node.wire(), node.wire3()] {
            let edges = client.run("LOCK.GRAPH").items().to_vec();
            let told = |edge: &Reply| ["waiter", "resource", "holder"].map(|name| edge.field(name).text());
            let expected = [["bob", "k1", "ann"], ["cat", "lock:1", "someone"]];
            assert_eq!(edges.iter().map(told).collect::<Vec<_>>(), expected);
            assert!(edges.iter().all(|edge| (0..60_000).contains(&edge.field("waited").int())));
        }
    }
    drop(bob);
    eventually("who has gone waits for nobody", || (x.wire().run("LOCK.GRAPH").items().len() == 1).then_some(()));
    for (line, expected) in [
        ("LOCK.GRAPH x", "ERR wrong number of arguments for 'lock.graph' command"),
        ("LOCK.DEADLOCKS x", "ERR syntax error"),
        ("LOCK.DEADLOCKS COUNT 0", "ERR COUNT must be"),
    ] {
        let reply = shown(&x.wire().run(line));
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
}

#[test]
fn an_owner_who_acts_in_several_places_does_not_deadlock_with_himself() {
    let server = RedisServer::start();
    let [x, y] = nodes(&server, "");
    let (mut one, mut two) = (holding(&x, "a", &["k1"]), holding(&y, "a", &["k2"]));
    // Each asks for what the other thread of his has: it is his already.
    assert!(one.run("LOCK.ACQUIRE k2 a WAIT 60000").int() > 0);
    assert!(two.run("LOCK.ACQUIRE k1 a WAIT 60000").int() > 0);
    // He waits in two places, and somebody else waits for him.
    let _b = holding(&x, "b", &["k3", "k4"]);
    let mut c = y.wire();
    one.waits_for("k3", "a");
    two.waits_for("k4", "a");
    c.waits_for("k1", "c");
    all_is_quiet(&x, &mut [&mut one, &mut two, &mut c]);
}

#[test]
fn waits_that_end_in_time_are_no_deadlock() {
    let stage = Stage::new();
    let on = &stage.lockgate;
    // A wait that runs out before anybody could have looked twice, over and over.
    let (mut a, mut b) = (holding(on, "a", &["k1"]), holding(on, "b", &["k2"]));
    for _ in 0..20 {
        a.ask_line("LOCK.ACQUIRE k2 a WAIT 25");
        b.ask_line("LOCK.ACQUIRE k1 b WAIT 25");
        assert_eq!((a.reply(), b.reply()), (Reply::Nil, Reply::Nil));
    }
    // Owners who let go over another connection as soon as they wait.
    for _ in 0..20 {
        let mut free = stage.client();
        a.waits_for("k2", "a");
        b.waits_for("k1", "b");
        free.releases("k1", "a");
        b.is_granted();
        free.releases("k2", "b");
        a.is_granted();
        assert_eq!(free.run("LOCK.RELEASEALL 2 k1 k2 a"), Reply::Int(1));
        assert_eq!(free.run("LOCK.RELEASEALL 2 k1 k2 b"), Reply::Int(1));
        a.acquires("k1", "a");
        b.acquires("k2", "b");
    }
    assert_eq!(history(on, ""), []);
}

#[test]
fn a_cycle_that_dissolves_before_it_was_seen_twice_costs_nobody_his_call() {
    /// Sooner than that nobody believes in a cycle.
    const DISSOLVED_WITHIN: Duration = Duration::from_millis(30);
    let stage = Stage::new();
    let mut counted = 0;
    for round in 0..200 {
        let name = |word: &str| format!("{word}-{round}");
        let (k1, k2, ann, bob) = (name("k1"), name("k2"), name("a"), name("b"));
        let mut a = holding(&stage.lockgate, &ann, &[&k1]);
        let (mut b, mut free) = (holding(&stage.lockgate, &bob, &[&k2]), stage.client());
        a.waits_for(&k2, &ann);
        stage.await_waiters(&k2, 1);
        let begun = Instant::now();
        // b would be the victim; over another connection he lets go of what a waits for.
        b.waits_for(&k1, &bob);
        if round % 2 == 0 {
            stage.await_waiters(&k1, 1);
        }
        free.releases(&k2, &bob);
        if begun.elapsed() > DISSOLVED_WITHIN {
            // The machine stood still, and there may have been a deadlock.
            continue;
        }
        a.is_granted();
        if let Ok(frame) = b.try_frame(Duration::from_millis(80)) {
            panic!("round {round}: {:?}", Reply::parse(&frame));
        }
        a.releases(&k1, &ann);
        b.is_granted();
        counted += 1;
        if counted == 20 {
            break;
        }
    }
    assert!(counted > 0, "the machine stands still");
}

#[test]
fn a_hold_that_ended_upstream_without_a_word_is_not_believed() {
    let stage = Stage::new();
    let (mut a, mut b) = (holding(&stage.lockgate, "a", &["k1"]), holding(&stage.lockgate, "b", &["k2"]));
    a.waits_for("k2", "a");
    stage.await_waiters("k2", 1);
    // Around Lockgate the lock goes to somebody else.
    assert_eq!(stage.bypass().run("SET k1 stranger PX 60000"), Reply::Simple("OK".into()));
    b.waits_for("k1", "b");
    all_is_quiet(&stage.lockgate, &mut [&mut a, &mut b]);
}

/// One client of the random traffic: it takes some of the locks, by `LOCK.ACQUIRE`, by `SET NX`, or the rest of
/// them at once, and lets go of all. Returns how often it was told of a deadlock.
fn wander(on: &Lockgate, number: usize, seed: u64, is_ordered: bool, rounds: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(seed + number as u64);
    let (mut client, owner) = (on.wire(), format!("o{number}"));
    let mut told = 0;
    for round in 0..rounds {
        // What all write tells nobody who holds a lock: then deadlocks are seldom found, and none must be found where none is.
        let value = if is_ordered { "1".to_owned() } else { format!("{owner}-{round}") };
        let mut keys: Vec<String> = (0..5).filter(|_| random.bool()).map(|key| format!("t{key}")).collect();
        if !is_ordered {
            random.shuffle(&mut keys);
        }
        let (mut plain, mut owned): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for (place, key) in keys.iter().enumerate() {
            let level = random.u8(0..4);
            let (line, taken) = match random.u8(0..4) {
                0 => (format!("SET {key} {value} NX PX 30000"), 1),
                1 => {
                    let mut rest = keys[place..].to_vec();
                    random.shuffle(&mut rest);
                    let (count, rest) = (rest.len(), rest.join(" "));
                    (format!("LOCK.ACQUIREALL {count} {rest} {owner} WAIT 20000 PRIORITY {level}"), count)
                }
                _ => (format!("LOCK.ACQUIRE {key} {owner} WAIT 20000 PRIORITY {level}"), 1),
            };
            match client.run(&line) {
                Reply::Simple(_) => plain.push(key),
                Reply::Int(_) | Reply::Array(_) => owned.extend(keys[place..place + taken].iter().map(String::as_str)),
                Reply::Error(line) if line.starts_with("DEADLOCK") => told += 1,
                Reply::Nil if line.starts_with("SET") => {}
                other => panic!("seed {seed}, {line}: {other:?}"),
            }
            if plain.len() + owned.len() != place + taken {
                break;
            }
            if taken > 1 {
                break;
            }
        }
        for key in plain {
            assert_eq!(client.run(&format!("DEL {key}")), Reply::Int(1));
        }
        for key in owned {
            assert_eq!(client.run(&format!("LOCK.RELEASE {key} {owner}")), Reply::Int(1));
        }
    }
    told
}

#[test]
fn random_traffic_with_ordered_keys_has_no_deadlock_and_with_any_order_it_ends_all_the_same() {
    let server = RedisServer::start();
    let rule = "[[lock_keys]]\nmatch = \"t*\"\nwait = \"20s\"\nwait_while_holding = true\n";
    // Rules stand before tables.
    let nodes: [Lockgate; 2] =
        std::array::from_fn(|number| Lockgate::before_with(&server, &format!("{rule}{BEATS}id = \"n{number}\"\n")));
    await_one_another(&nodes);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let nodes = &nodes;
    let all = |is_ordered: bool, rounds: usize| -> usize {
        std::thread::scope(|scope| {
            let wander = |number| scope.spawn(move || wander(&nodes[number % 2], number, seed, is_ordered, rounds));
            let wanderers: Vec<_> = (0..8).map(wander).collect();
            wanderers.into_iter().map(|wanderer| wanderer.join().unwrap()).sum()
        })
    };
    // A connection that meets the value it wrote itself believes that it holds the lock, and gets nil; nobody else is turned away.
    assert_eq!(all(true, 150), 0, "seed {seed}");
    assert_eq!(history(&nodes[0], ""), [], "seed {seed}");
    let ended = all(false, 15);
    let found = history(&nodes[0], "").len();
    println!("{found} deadlocks in random traffic, {ended} calls of owners ended for them");
    assert!(found > 0 && ended > 0, "seed {seed}: nothing deadlocked, so nothing was tried");
}
