//! Several nodes on one upstream: they see one another, answer for one another, and clean up after one another.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::node::{field, never_looking, text};
use common::{Lockgate, Node, RedisServer, Reply, Speaker, Wire, eventually};
use lockgate::coordinator::{LockReply, LockSettings};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A heartbeat that a test need not wait for, and a timeout that a busy machine keeps.
const BEATS: &str = "[nodes]\nheartbeat = \"100ms\"\ntimeout = \"1s\"\n";

fn node(server: &RedisServer, name: &str) -> Node {
    Node::before(server, LockSettings { heartbeat_ms: 100, node_timeout_ms: 1000, ..never_looking(name) })
}

fn lockgate(server: &RedisServer, name: &str) -> Lockgate {
    Lockgate::before_with(server, &format!("{BEATS}id = \"{name}\"\n"))
}

fn names(node: &Node) -> Vec<String> {
    node.nodes().iter().map(|entry| text(entry, "id")).collect()
}

#[track_caller]
fn await_names(node: &Node, expected: &[&str]) {
    eventually(&format!("{expected:?} are there"), || (names(node) == expected).then_some(()));
}

fn leaders(node: &Node) -> Vec<String> {
    let entries = node.nodes();
    let leaders = entries.iter().filter(|entry| field(entry, "is_leader") == LockReply::Integer(1));
    leaders.map(|entry| text(entry, "id")).collect()
}

/// Who waits as the node lists it: owner, and on which node.
fn queue(node: &Node, key: &str) -> Vec<(String, String)> {
    node.queue(key, None).iter().map(|entry| (text(entry, "owner"), text(entry, "node"))).collect()
}

#[track_caller]
fn await_queue(node: &Node, key: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(owner, on)| (owner.to_string(), on.to_string())).collect();
    let mut last = Vec::new();
    let found = common::within(common::PATIENCE, || {
        last = queue(node, key);
        (last == expected).then_some(())
    });
    assert!(found.is_some(), "{last:?} instead of {expected:?}");
}

/// Stops a process where it stands; no thread of it moves when this returns.
fn stop(lockgate: &Lockgate) {
    common::tools::signal(lockgate.pid(), Signal::SIGSTOP);
    eventually("all of it stands still", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", lockgate.pid())).unwrap();
        let stands = |thread: std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
        };
        threads.flatten().all(stands).then_some(())
    });
}

/// The key is held by a stranger for a minute.
fn hold(server: &RedisServer, key: &str) {
    assert_eq!(server.wire().run(&format!("SET {key} stranger PX 60000")), Reply::Simple("OK".into()));
}

/// Asks on that Lockgate, and comes back when the call waits, as `from` lists it.
#[track_caller]
fn waits(on: &Lockgate, from: &Node, line: &str) -> Wire {
    let words: Vec<&str> = line.split(' ').collect();
    let mut client = on.wire();
    client.ask_line(line);
    eventually("the call waits", || queue(from, words[1]).iter().any(|(owner, _)| owner == words[2]).then_some(()));
    client
}

#[test]
fn nodes_see_one_another_and_one_of_them_leads() {
    let server = RedisServer::start();
    let a = node(&server, "a");
    eventually("a node alone leads", || (leaders(&a) == ["a"]).then_some(()));
    assert_eq!(server.wire().run("EXISTS lockgate:leader"), Reply::Int(0), "and needs no key for that");
    let (b, _c) = (lockgate(&server, "b"), lockgate(&server, "c"));
    let d = node(&server, "d");
    for node in [&a, &d] {
        await_names(node, &["a", "b", "c", "d"]);
    }
    let leader = eventually("all agree on one leader", || {
        let seen = leaders(&a);
        (seen.len() == 1 && seen == leaders(&d)).then(|| seen[0].clone())
    });
    let key = server.wire().run("GET lockgate:leader").text();
    assert!(key.starts_with(&format!("{leader}:")), "{key} names {leader}");
    let entries = a.nodes();
    for (entry, name) in entries.iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(field(entry, "is_self"), LockReply::Integer(i64::from(name == "a")));
        assert_eq!(text(entry, "version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(field(entry, "format"), LockReply::Integer(1));
        assert!(matches!(field(entry, "started_at"), LockReply::Integer(at) if at > 1_700_000_000_000));
        assert!(matches!(field(entry, "last_seen"), LockReply::Integer(ms) if ms < 1000), "{entry:?}");
    }
    assert_eq!(text(&entries[1], "address"), b.addr().to_string());
    // What a node has to do is told with the next heartbeat.
    hold(&server, "k");
    let (_bob, mut tied) = (waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000"), b.wire());
    tied.run("LOCK.ACQUIRE other ann EPHEMERAL").int();
    eventually("its load is told", || {
        let load = ["waiters", "locks"].map(|name| field(&a.nodes()[1], name));
        (load == [LockReply::Integer(1), LockReply::Integer(1)]).then_some(())
    });
}

#[test]
fn a_killed_node_is_gone_within_the_timeout_and_another_takes_the_lead() {
    let server = RedisServer::start();
    let (a, mut b) = (node(&server, "a"), lockgate(&server, "b"));
    await_names(&a, &["a", "b"]);
    eventually("somebody leads", || (server.wire().run("EXISTS lockgate:leader") == Reply::Int(1)).then_some(()));
    let killed = Instant::now();
    b.kill();
    await_names(&a, &["a"]);
    assert!(killed.elapsed() < Duration::from_millis(1900), "{:?}", killed.elapsed());
    eventually("the one who is left leads", || (leaders(&a) == ["a"]).then_some(()));
    eventually("and keeps no key for that", || {
        (server.wire().run("KEYS lockgate:*") == Reply::Array(vec![])).then_some(())
    });
}

#[test]
fn a_node_that_ends_orderly_says_so() {
    let server = RedisServer::start();
    let a = Node::before(&server, LockSettings { node_timeout_ms: 600_000, ..never_looking("a") });
    let mut b = lockgate(&server, "b");
    await_names(&a, &["a", "b"]);
    b.terminate();
    assert!(b.exit().success());
    await_names(&a, &["a"]);
}

#[test]
fn a_node_that_stood_still_takes_nobody_for_dead_and_is_welcome_again() {
    let server = RedisServer::start();
    let (a, b, c) = (node(&server, "a"), node(&server, "b"), node(&server, "c"));
    for node in [&a, &b, &c] {
        await_names(node, &["a", "b", "c"]);
    }
    let thaws = b.freeze();
    await_names(&a, &["a", "c"]);
    drop(thaws);
    // What it had missed it hears first.
    assert_eq!(names(&b), ["a", "b", "c"]);
    await_names(&a, &["a", "b", "c"]);
    assert_eq!(names(&b), ["a", "b", "c"]);
}

#[test]
fn whoever_waits_on_one_node_is_known_on_the_others() {
    let server = RedisServer::start();
    let a = node(&server, "a");
    let (b, c) = (lockgate(&server, "b"), lockgate(&server, "c"));
    await_names(&a, &["a", "b", "c"]);
    hold(&server, "k");
    let mut bob = waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000");
    let mut cat = waits(&c, &a, "LOCK.ACQUIRE k cat WAIT 50000 PRIORITY high");
    let mut dan = waits(&b, &a, "LOCK.ACQUIRE k dan WAIT 60000 PRIORITY low");
    let here = a.ask("LOCK.ACQUIRE k ann WAIT 60000");
    await_queue(&a, "k", &[("cat", "c"), ("bob", "b"), ("ann", "a"), ("dan", "b")]);
    let entries = a.queue("k", Some(1));
    assert_eq!((entries.len(), text(&entries[0], "priority")), (1, "high".into()));
    assert!(matches!(field(&entries[0], "deadline"), LockReply::Integer(left) if (1..=50_000).contains(&left)));
    assert!(matches!(field(&entries[0], "waited"), LockReply::Integer(waited) if (0..20_000).contains(&waited)));
    for client in [&mut b.wire(), &mut c.wire()] {
        assert_eq!(client.run("LOCK.INFO k").field("waiters"), Reply::Int(4));
        for (place, owner) in ["cat", "bob", "ann", "dan"].iter().enumerate() {
            assert_eq!(client.run(&format!("LOCK.POSITION k {owner}")), Reply::Int(place as i64 + 1), "{owner}");
        }
        assert_eq!(client.run("LOCK.POSITION k nobody"), Reply::Nil);
        assert_eq!(client.run("LOCK.CANCEL k nobody"), Reply::Int(0));
    }
    // Who came first at his new level goes first, wherever he was promoted.
    assert_eq!(a.promote("k", "dan", "critical"), LockReply::Integer(1));
    assert_eq!(a.promote("k", "ann", "high"), LockReply::Integer(3));
    assert_eq!(a.promote("k", "nobody", "high"), LockReply::Nil);
    await_queue(&a, "k", &[("dan", "b"), ("cat", "c"), ("ann", "a"), ("bob", "b")]);
    assert_eq!(c.wire().run("LOCK.CANCEL k bob"), Reply::Int(1));
    assert_eq!(bob.reply(), Reply::Nil);
    assert_eq!(b.wire().run("LOCK.CANCEL k ann"), Reply::Int(1));
    assert_eq!(here.reply(), LockReply::Nil);
    await_queue(&a, "k", &[("dan", "b"), ("cat", "c")]);
    for client in [&mut cat, &mut dan] {
        client.still_waits();
    }
}

#[test]
fn a_node_that_does_not_answer_is_named_and_holds_nobody_up() {
    let server = RedisServer::start();
    let long = "[nodes]\nheartbeat = \"100ms\"\ntimeout = \"60s\"\nid = \"b\"\n";
    let a = Node::before(&server, LockSettings { node_timeout_ms: 60_000, ..never_looking("a") });
    let b = Lockgate::before_with(&server, long);
    await_names(&a, &["a", "b"]);
    hold(&server, "k");
    let mut bob = waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000");
    let ann = a.ask("LOCK.ACQUIRE k ann WAIT 60000");
    await_queue(&a, "k", &[("bob", "b"), ("ann", "a")]);
    stop(&b);
    let begun = Instant::now();
    assert_eq!(queue(&a, "k"), [("ann".to_owned(), "a".to_owned()), ("nil".to_owned(), "b".to_owned())]);
    assert_eq!(field(&a.run("LOCK.INFO k"), "waiters"), LockReply::Integer(1));
    assert_eq!(a.run("LOCK.POSITION k ann"), LockReply::Integer(1));
    for reply in [a.run("LOCK.CANCEL k nobody"), a.promote("k", "nobody", "low")] {
        assert!(matches!(&reply, LockReply::Error(line) if line.starts_with("UNAVAILABLE node 'b'")), "{reply:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} for five answers", begun.elapsed());
    common::tools::signal(b.pid(), Signal::SIGCONT);
    await_queue(&a, "k", &[("bob", "b"), ("ann", "a")]);
    ann.still_waits();
    bob.still_waits();
}

#[test]
fn what_a_dead_node_has_left_in_queues_is_removed() {
    let server = RedisServer::start();
    let (a, mut b) = (node(&server, "a"), lockgate(&server, "b"));
    await_names(&a, &["a", "b"]);
    let mut side = server.wire();
    for db in [0, 3] {
        side.run(&format!("SELECT {db}"));
        side.run("HSET lockgate:q:k b registration c another");
        side.run("SADD lockgate:q:data b");
        side.run("HSET queues:k b registration");
        for number in 0..2000 {
            side.ask_line(&format!("SET filler:{number} x"));
        }
        side.frames(2000);
    }
    b.kill();
    for db in [0, 3] {
        side.run(&format!("SELECT {db}"));
        eventually("it is removed", || (side.run("EXISTS lockgate:q:k") == Reply::Int(0)).then_some(()));
        assert_eq!(side.run("EXISTS lockgate:q:data queues:k"), Reply::Int(2), "other data stays");
    }
}

#[test]
fn cleanup_removes_what_nobody_is_behind_and_tells_how_much() {
    let server = RedisServer::start();
    let (a, b) = (node(&server, "a"), lockgate(&server, "b"));
    await_names(&a, &["a", "b"]);
    assert_eq!(a.cleanup(), LockReply::Integer(0));
    // Its first look around is over as well: it would find that nobody of its own is behind what is put there under its name.
    assert_eq!(b.wire().run("LOCK.CLEANUP"), Reply::Int(0));
    let mut side = server.wire();
    hold(&server, "waited");
    let waits = a.ask("LOCK.ACQUIRE waited ann WAIT 60000");
    await_queue(&a, "waited", &[("ann", "a")]);
    // In a queue that is in use, what reads as no registration would be gone by then.
    let registration = format!("{}\x1f0\x1f1000\x1fL1000\x1f1\x1fabc\x1f3\x1fbob", "9".repeat(42));
    side.run(&format!("HSET lockgate:q:waited b {registration} ghost {registration}"));
    side.run("HSET lockgate:q:k a nobody-waits-here b his ghost x");
    side.run("SELECT 5");
    side.run("HSET lockgate:q:k ghost x spectre y");
    assert_eq!(a.cleanup(), LockReply::Integer(5));
    assert_eq!(side.run("EXISTS lockgate:q:k"), Reply::Int(0));
    side.run("SELECT 0");
    assert_eq!(side.run("HKEYS lockgate:q:waited").items().len(), 2);
    assert_eq!(side.run("HKEYS lockgate:q:k"), Reply::Array(vec![Reply::bulk("b")]));
    assert_eq!(a.cleanup(), LockReply::Integer(0));
    waits.still_waits();
}

#[test]
fn a_master_with_another_history_is_met_with_a_leap_of_the_fences() {
    let (server, old_master) = (RedisServer::start(), RedisServer::start());
    let a = node(&server, "a");
    let fence = || {
        let LockReply::Integer(fence) = a.run("LOCK.ACQUIRE k ann") else { return None };
        assert_eq!(a.run("LOCK.RELEASE k ann"), LockReply::Integer(1));
        Some(fence)
    };
    let before = eventually("the lock is granted", fence);
    let mut side = server.wire();
    side.run(&format!("REPLICAOF 127.0.0.1 {}", old_master.port()));
    eventually("it follows its master", || {
        side.run("INFO replication").text().contains("link_status:up").then_some(())
    });
    assert!(matches!(a.run("LOCK.ACQUIRE k ann"), LockReply::Error(line) if line.starts_with("READONLY")));
    side.run("REPLICAOF NO ONE");
    // The link stands as it stood; a heartbeat tells that the master is another.
    eventually("fences go on far above all that was given out", || fence().filter(|fence| fence - before > 1 << 32));
}

#[test]
fn two_nodes_of_one_name_are_complained_about() {
    let server = RedisServer::start();
    let (first, second) = (lockgate(&server, "same"), lockgate(&server, "same"));
    for lockgate in [&first, &second] {
        eventually("it says so", || lockgate.wrote().contains("goes by this node's name").then_some(()));
    }
}

#[test]
fn a_node_of_another_form_is_complained_about_and_not_asked() {
    let server = RedisServer::start();
    let a = node(&server, "a");
    let b = lockgate(&server, "b");
    await_names(&a, &["a", "b"]);
    let mut new = Speaker::named(&server, "new", 2);
    eventually("it is known", || {
        new.speaks();
        names(&a).contains(&"new".to_owned()).then_some(())
    });
    assert!(queue(&a, "k").contains(&("nil".into(), "new".into())));
    eventually("and the log tells", || {
        new.speaks();
        b.wrote().contains("does not understand").then_some(())
    });
    await_names(&a, &["a", "b"]);
}

#[test]
fn nonsense_on_the_nodes_channels_changes_nothing() {
    let server = RedisServer::start();
    let (a, b) = (node(&server, "a"), lockgate(&server, "b"));
    await_names(&a, &["a", "b"]);
    let mut side = server.wire();
    let ask = |words: &[&str]| String::from_utf8(common::command(words)).unwrap();
    // What a version without MACs would have heeded, and what none would.
    let odd = [
        String::new(),
        "x".into(),
        "*1\r\n".into(),
        "*999999999\r\n$1\r\n".into(),
        ask(&["ask", "1", "a", "dance", "0", "k"]),
        ask(&["ask", "1", "a", "queue", "0", "k", "18446744073709551615"]),
        ask(&["ask", "1", "nobody", "cancel", "4294967295", "k", "ann\x1f"]),
        ask(&["answer", "1", "a"]),
        ask(&["ask", "1", "a", "cancel", "0", "k", "bob"]),
        ask(&["alive", "id"]),
        ask(&["alive", "id", "b", "instance", "99999999999999999999"]),
        ask(&["bye", "id", "b", "instance", "0"]),
    ];
    hold(&server, "k");
    let mut bob = waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000");
    for message in &odd {
        for channel in ["lockgate:nodes", "lockgate:node:b"] {
            assert!(side.call(&["PUBLISH", channel, message]).starts_with(b":"));
        }
    }
    await_queue(&a, "k", &[("bob", "b")]);
    await_names(&a, &["a", "b"]);
    bob.still_waits();
    let complaint = "not made with this node's nodes.secret";
    eventually("the log tells, once", || b.wrote().contains(complaint).then_some(()));
    assert_eq!(b.wrote().matches(complaint).count(), 1);
}

#[test]
fn no_client_publishes_on_lockgates_own_channels() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before(&server);
    let (mut ear, mut client) = (server.wire(), lockgate.wire());
    ear.ask_line("PSUBSCRIBE lockgate:x*");
    ear.frames(1);
    let refused = |reply: &Reply| reply.is_error("NOPERM channels that begin with 'lockgate:'");
    for line in ["PUBLISH lockgate:x 1", "SPUBLISH lockgate:x 1", "publish lockgate:xy 1"] {
        assert!(refused(&client.run(line)), "{line}");
    }
    client.send(b"PUBLISH lockgate:x inline\r\n");
    assert!(refused(&client.reply()));
    // With a link of its own, and as a subscriber who may publish.
    client.run("WATCH k");
    assert!(refused(&client.run("PUBLISH lockgate:x 2")));
    let mut subscriber = lockgate.wire3();
    subscriber.ask_line("SUBSCRIBE c");
    subscriber.frames(1);
    assert!(refused(&subscriber.run("PUBLISH lockgate:x 2")));
    // A transaction is aborted by it, and nothing of it runs.
    assert_eq!(client.run("MULTI"), Reply::Simple("OK".into()));
    assert_eq!(client.run("SET k v"), Reply::Simple("QUEUED".into()));
    assert!(refused(&client.run("PUBLISH lockgate:x 3")));
    assert!(client.run("EXEC").is_error("EXECABORT"));
    assert_eq!(client.run("GET k"), Reply::Nil);
    // A message that is longer than what is read at a time; and others' channels are theirs.
    let long = "x".repeat(200_000);
    assert!(refused(&Reply::parse(&client.call(&["PUBLISH", "lockgate:x", &long]))));
    assert_eq!(client.call(&["PUBLISH", "lockgate", &long]), b":0\r\n");
    assert_eq!(client.run("PUBLISH c lockgate:x"), Reply::Int(1));
    assert!(client.run("LOCK.GUARD k 1 PUBLISH lockgate:x 4").is_error("ERR"));
    server.wire().run("PUBLISH lockgate:x last");
    assert_eq!(Reply::parse(&ear.frame()).items()[3], Reply::bulk("last"), "nothing else came through");
}

#[test]
fn what_nodes_said_once_does_no_harm_when_it_is_said_again() {
    let server = RedisServer::start();
    let (a, b) = (node(&server, "a"), lockgate(&server, "b"));
    await_names(&a, &["a", "b"]);
    hold(&server, "k");
    let mut tape = server.wire();
    tape.ask_line("SUBSCRIBE lockgate:nodes lockgate:node:a lockgate:node:b");
    tape.frames(2);
    let mut bob = waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000");
    assert_eq!(a.run("LOCK.CANCEL k bob"), LockReply::Integer(1));
    assert_eq!(bob.reply(), Reply::Nil);
    let c = lockgate(&server, "c");
    await_names(&a, &["a", "b", "c"]);
    drop(c);
    await_names(&a, &["a", "b"]);
    let mut bob = waits(&b, &a, "LOCK.ACQUIRE k bob WAIT 60000");
    let mut recorded = Vec::new();
    while let Ok(frame) = tape.try_frame(Duration::from_millis(10)) {
        if let [_, Reply::Bulk(channel), Reply::Bulk(message)] = Reply::parse(&frame).items() {
            recorded.push((channel.clone(), message.clone()));
        }
    }
    assert!(recorded.len() > 10, "{} messages", recorded.len());
    let mut side = server.wire();
    for (channel, message) in &recorded {
        assert!(side.call(&[&b"PUBLISH"[..], channel, message]).starts_with(b":"));
    }
    assert_eq!(names(&a), ["a", "b"], "who is gone stays so");
    await_queue(&a, "k", &[("bob", "b")]);
    bob.still_waits();
}

#[test]
fn nodes_with_different_secrets_are_strangers_and_say_so() {
    let server = RedisServer::start();
    let with = |id: &str, secret: &str| {
        Lockgate::before_with(&server, &format!("{BEATS}id = \"{id}\"\nsecret = \"{secret}\"\n"))
    };
    let (a, b, c) = (with("a", "one"), with("b", "one"), with("c", "two"));
    let seen = |lockgate: &Lockgate| {
        lockgate.wire().run("LOCK.NODES").items().iter().map(|node| node.field("id").text()).collect::<Vec<_>>()
    };
    for lockgate in [&a, &b] {
        eventually("it knows its like", || (seen(lockgate) == ["a", "b"]).then_some(()));
        eventually("and that there is another", || lockgate.wrote().contains("nodes.secret").then_some(()));
    }
    assert_eq!(seen(&c), ["c"]);
}

/// What clients of the server send, as MONITOR shows it, one line each, from now on.
struct Monitor(Wire);

impl Monitor {
    fn on(server: &RedisServer) -> Self {
        let mut wire = server.wire();
        assert_eq!(wire.run("MONITOR"), Reply::Simple("OK".into()));
        Monitor(wire)
    }

    /// The next commands that come within so long, without their times and arguments.
    fn sees_for(&mut self, period: Duration) -> Vec<String> {
        let until = Instant::now() + period;
        let mut seen = Vec::new();
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(frame) = self.0.try_frame(left) else { break };
            let line = String::from_utf8_lossy(&frame).into_owned();
            seen.push(line.split('"').nth(1).unwrap_or(&line).to_ascii_uppercase());
        }
        seen
    }

    /// Comes back once nothing but pings has come for longer than a ping takes to come.
    #[track_caller]
    fn falls_silent(&mut self) {
        eventually("nothing but pings comes", || {
            let seen = self.sees_for(Duration::from_millis(3500));
            (!seen.is_empty() && seen.iter().all(|command| command == "PING")).then_some(())
        });
    }
}

#[test]
fn a_node_alone_sends_nothing_but_a_ping_every_few_seconds() {
    let server = RedisServer::start();
    let mut monitor = Monitor::on(&server);
    let a = Lockgate::before(&server);
    monitor.falls_silent();
    let seen = monitor.sees_for(Duration::from_secs(10));
    assert!((2..=4).contains(&seen.len()) && seen.iter().all(|command| command == "PING"), "{seen:?}");
    // A newcomer is answered, and when it is gone it is quiet again.
    let mut b = Lockgate::before(&server);
    let knows_the_other = |lockgate: &Lockgate| {
        eventually("they know each other", || (lockgate.wire().run("LOCK.NODES").items().len() == 2).then_some(()));
    };
    knows_the_other(&a);
    knows_the_other(&b);
    assert!(monitor.sees_for(Duration::from_millis(2500)).iter().any(|command| command == "PUBLISH"));
    b.kill();
    // A link over which locks are taken has its master asked, once.
    let mut client = a.wire();
    client.acquires("k", "ann");
    client.releases("k", "ann");
    monitor.falls_silent();
    // Who is used asks for what it is asked for, and no more.
    for _ in 0..3 {
        client.acquires("k", "ann");
        client.releases("k", "ann");
    }
    let seen = monitor.sees_for(Duration::from_millis(3500));
    assert!(seen.iter().all(|command| !["PUBLISH", "INFO"].contains(&command.as_str())), "{seen:?}");
}

#[test]
fn nodes_find_each_other_however_they_lost_each_other() {
    let server = RedisServer::start();
    let (a, mut side) = (lockgate(&server, "a"), server.wire());
    let await_both = |lockgate: &Lockgate| {
        eventually("both are there", || (lockgate.wire().run("LOCK.NODES").items().len() == 2).then_some(()));
    };
    eventually("it listens", || (side.run("PUBSUB NUMSUB lockgate:nodes").items()[1] == Reply::Int(1)).then_some(()));
    // The announcement of the second one is lost: the first has no link just then.
    stop(&a);
    assert!(side.run("CLIENT KILL TYPE pubsub").int() > 0);
    let b = lockgate(&server, "b");
    eventually("it listens", || (side.run("PUBSUB NUMSUB lockgate:node:b").items()[1] == Reply::Int(1)).then_some(()));
    common::tools::signal(a.pid(), Signal::SIGCONT);
    await_both(&a);
    await_both(&b);
    // Both stand still for longer than the timeout.
    stop(&a);
    stop(&b);
    std::thread::sleep(Duration::from_millis(1500));
    for lockgate in [&a, &b] {
        common::tools::signal(lockgate.pid(), Signal::SIGCONT);
    }
    await_both(&a);
    await_both(&b);
    // The server closes all their links at once.
    side.run("CLIENT KILL TYPE normal");
    side.run("CLIENT KILL TYPE pubsub");
    await_both(&a);
    await_both(&b);
}

#[test]
fn where_pub_sub_is_refused_a_node_is_on_its_own_and_says_so() {
    let server = RedisServer::start();
    server.wire().run("ACL SETUSER service on >secret ~* resetchannels +@all");
    let url = format!("redis://service:secret@{}", server.addr());
    let b = Lockgate::serve(&["--upstream", &url], Some(BEATS));
    let a = Node::at(&url, LockSettings { heartbeat_ms: 100, node_timeout_ms: 1000, ..never_looking("a") });
    hold(&server, "k");
    let mut bob = b.wire();
    bob.waits_for("k", "bob");
    eventually("it says so once", || b.wrote().contains("nodes cannot talk").then_some(()));
    assert_eq!(names(&a), ["a"]);
    assert_eq!(leaders(&a), Vec::<String>::new(), "whether others are there is not known");
    assert!(matches!(a.cleanup(), LockReply::Error(line) if line.starts_with("UNAVAILABLE")));
    server.wire().run("DEL k");
    bob.is_granted();
    assert_eq!(b.wrote().matches("nodes cannot talk").count(), 1);
}

/// The line in docs/operations.md.
const SMALLEST_ACL: &str = "~locks:* ~lockgate:* &lockgate:* +@connection +evalsha +eval +exists +get +set +del +pexpire \
                            +pttl +time +hget +hset +hdel +hgetall +info +command +config|get +scan +select +publish +subscribe";

#[test]
fn the_smallest_acl_line_that_the_docs_give_is_enough() {
    let words: String = SMALLEST_ACL.split_whitespace().filter(|word| word.starts_with('+')).collect();
    let docs = std::fs::read_to_string(common::tools::source_dir().join("docs/operations.md")).unwrap();
    let block = docs.split("```").find(|block| block.contains("+evalsha")).expect("the docs give it");
    assert_eq!(words, block.split_whitespace().filter(|word| word.starts_with('+')).collect::<String>());

    let server = RedisServer::start();
    let mut side = server.wire();
    assert_eq!(
        side.run(&format!("ACL SETUSER service on >secret resetchannels {SMALLEST_ACL}")),
        Reply::Simple("OK".into())
    );
    let url = format!("redis://service:secret@{}", server.addr());
    let settings = LockSettings { heartbeat_ms: 100, node_timeout_ms: 1000, ..never_looking("a") };
    let (a, b) = (Node::at(&url, settings), Lockgate::serve(&["--upstream", &url], Some(BEATS)));
    eventually("they see one another", || (names(&a).len() == 2).then_some(()));
    hold(&server, "locks:k");
    side.run("HSET lockgate:q:locks:other ghost x");
    let bob = a.ask("LOCK.ACQUIRE locks:k bob WAIT 60000");
    let waiting = [("bob".to_owned(), "a".to_owned())];
    eventually("bob waits", || (queue(&a, "locks:k") == waiting).then_some(()));
    side.run("DEL locks:k");
    bob.is_granted();
    eventually("it was cleaned up", || (side.run("EXISTS lockgate:q:locks:other") == Reply::Int(0)).then_some(()));
    assert_eq!(a.run("LOCK.RELEASE locks:k bob"), LockReply::Integer(1));
    let wrote = b.wrote();
    assert!(!wrote.contains("WARN lockgate::coordinator"), "{wrote}");
}
