//! `SET … NX` and `SETNX` on lock keys whose rule has a `wait`: how they queue, how they are woken, and when they must not wait.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, PATIENCE, RedisServer, Reply, Stage, Wire, command, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const QUEUED: &str = "[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\n";
/// A call stays in line although something stands behind it.
const STUBBORN: &str = "[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\nyield = false\n";

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

/// What a client does who has never heard of queues.
impl Wire {
    #[track_caller]
    fn takes(&mut self, key: &str, value: &str) {
        assert_eq!(self.run(&format!("SET {key} {value} NX PX 60000")), ok(), "{key} is free");
    }

    fn asks_for(&mut self, key: &str, value: &str) {
        self.ask_line(&format!("SET {key} {value} NX PX 60000"));
    }

    #[track_caller]
    fn has_it(&mut self) {
        assert_eq!(self.reply(), ok());
    }

    #[track_caller]
    fn is_told_no_at_once(&mut self, key: &str) {
        let began = Instant::now();
        assert_eq!(self.run(&format!("SET {key} again NX PX 60000")), Reply::Nil);
        assert!(began.elapsed() < PATIENCE, "the wait would have been longer");
    }
}

/// Frees a key in some way.
type Free = (&'static str, fn(&Stage));

const WAYS_TO_FREE: [Free; 14] = [
    ("DEL", |stage| drop(stage.client().run("DEL lock:1"))),
    ("UNLINK", |stage| drop(stage.client().run("UNLINK lock:1"))),
    ("GETDEL", |stage| drop(stage.client().run("GETDEL lock:1"))),
    ("a script", |stage| {
        let script = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";
        assert_eq!(stage.client().call(&["EVAL", script, "1", "lock:1", "ann"]), b":1\r\n");
    }),
    ("a transaction", |stage| {
        stage.client().send(&[command(&["MULTI"]), command(&["DEL", "lock:1"]), command(&["EXEC"])].concat());
    }),
    ("PEXPIRE", |stage| drop(stage.client().run("PEXPIRE lock:1 1"))),
    ("a short lease", |stage| drop(stage.client().run("PEXPIRE lock:1 300"))),
    ("RENAME", |stage| drop(stage.client().run("RENAME lock:1 elsewhere"))),
    ("FLUSHDB", |stage| drop(stage.client().run("FLUSHDB"))),
    ("FLUSHALL", |stage| drop(stage.client().run("FLUSHALL ASYNC"))),
    ("a client that bypasses Lockgate", |stage| drop(stage.bypass().run("DEL lock:1"))),
    ("its script", |stage| drop(stage.bypass().call(&["EVAL", "return redis.call('del','lock:1')", "0"]))),
    ("its FLUSHALL", |stage| drop(stage.bypass().run("FLUSHALL"))),
    ("LOCK.FORCE", |stage| drop(stage.client().run("LOCK.FORCE lock:1"))),
];

#[test]
fn whichever_way_the_key_comes_free_the_next_one_has_it() {
    for (way, free) in WAYS_TO_FREE {
        let stage = Stage::with(QUEUED);
        stage.client().takes("lock:1", "ann");
        let (mut bob, mut cat) = (stage.client(), stage.client());
        bob.asks_for("lock:1", "bob");
        stage.await_waiters("lock:1", 1);
        cat.asks_for("lock:1", "cat");
        stage.await_waiters("lock:1", 2);
        free(&stage);
        assert_eq!(bob.try_frame(PATIENCE).ok().as_deref(), Some(&b"+OK\r\n"[..]), "{way}");
        assert_eq!(stage.bypass().run("GET lock:1"), Reply::bulk("bob"), "{way}");
        cat.still_waits();
        bob.run("DEL lock:1");
        cat.has_it();
        assert_eq!(stage.bypass().run("GET lock:1"), Reply::bulk("cat"), "{way}");
    }
}

#[test]
fn the_order_is_that_of_arrival() {
    let stage = Stage::with(QUEUED);
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let mut waiters: Vec<Wire> = Vec::new();
    for number in 0..20 {
        let mut waiter = stage.client();
        // Many clients write the same value.
        waiter.asks_for("lock:1", "worker");
        stage.await_waiters("lock:1", number + 1);
        waiters.push(waiter);
    }
    ann.run("DEL lock:1");
    for number in 0..20 {
        waiters[number].has_it();
        for later in &mut waiters[number + 1..] {
            assert!(later.try_frame(Duration::from_millis(1)).is_err(), "one at a time");
        }
        waiters[number].run("DEL lock:1");
    }
    assert_eq!(stage.bypass().run("EXISTS lock:1"), Reply::Int(0));
}

#[test]
fn the_order_is_that_of_arrival_over_two_nodes_as_well() {
    let server = RedisServer::start();
    let nodes = [Lockgate::before_with(&server, QUEUED), Lockgate::before_with(&server, QUEUED)];
    let mut ann = nodes[0].wire();
    ann.takes("lock:1", "ann");
    let mut waiters: Vec<Wire> = Vec::new();
    for number in 0..10 {
        let mut waiter = nodes[number % 2].wire();
        waiter.asks_for("lock:1", &format!("w{number}"));
        let count = i64::try_from(number).unwrap() + 1;
        eventually(&format!("{count} stand in line"), || {
            (nodes[0].wire().run("LOCK.INFO lock:1").field("waiters") == Reply::Int(count)).then_some(())
        });
        waiters.push(waiter);
    }
    ann.run("DEL lock:1");
    for (number, waiter) in waiters.iter_mut().enumerate() {
        waiter.has_it();
        assert_eq!(server.wire().run("GET lock:1"), Reply::bulk(format!("w{number}")));
        waiter.run("DEL lock:1");
    }
}

/// Waits until so many clients of all nodes are known to wait for `lock:1`.
#[track_caller]
fn await_waiters(node: &Lockgate, count: i64) {
    let mut look = node.wire();
    eventually(&format!("{count} clients wait"), || {
        (look.run("LOCK.INFO lock:1").field("waiters") == Reply::Int(count)).then_some(())
    });
}

#[test]
fn a_node_that_dies_with_its_waiters_does_not_hold_up_the_others() {
    let server = RedisServer::start();
    let mut nodes = [Lockgate::before_with(&server, QUEUED), Lockgate::before_with(&server, QUEUED)];
    nodes[0].wire().takes("lock:1", "ann");
    let (mut bob, mut cat) = (nodes[0].wire(), nodes[1].wire());
    bob.asks_for("lock:1", "bob");
    await_waiters(&nodes[1], 1);
    cat.asks_for("lock:1", "cat");
    await_waiters(&nodes[1], 2);
    nodes[0].kill();
    server.wire().run("DEL lock:1");
    cat.has_it();
    assert_eq!(server.wire().run("GET lock:1"), Reply::bulk("cat"));
}

#[test]
fn when_the_wait_is_over_the_answer_is_what_redis_says() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\nwait = '200ms'\n");
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client3();
    for (form, no) in [("SET lock:1 bob NX", &b"_\r\n"[..]), ("SETNX lock:1 bob", b":0\r\n")] {
        let began = Instant::now();
        bob.ask_line(form);
        assert_eq!(bob.frame(), no, "{form}");
        assert!(began.elapsed() >= Duration::from_millis(190), "{form}: it waited {:?}", began.elapsed());
    }
    assert_eq!(stage.client().call(&["SET", "lock:1", "cat", "NX"]), b"$-1\r\n");
    stage.await_waiters("lock:1", 0);
}

#[test]
fn max_wait_cuts_the_wait_of_a_rule() {
    let stage = Stage::with(&format!("max_wait = '100ms'\n{QUEUED}"));
    stage.client().takes("lock:1", "ann");
    assert_eq!(stage.client().run("SET lock:1 bob NX"), Reply::Nil);
}

#[test]
fn setnx_waits_as_well() {
    let stage = Stage::with(QUEUED);
    let mut ann = stage.client();
    assert_eq!(ann.run("SETNX lock:1 ann"), Reply::Int(1));
    let mut bob = stage.client();
    bob.ask_line("SETNX lock:1 bob");
    stage.await_waiters("lock:1", 1);
    ann.run("DEL lock:1");
    assert_eq!(bob.reply(), Reply::Int(1));
    assert_eq!(bob.run("PTTL lock:1"), Reply::Int(-1), "it has no expiry, as the client wrote it");
}

#[test]
fn a_lease_counts_from_the_grant_and_a_time_that_has_passed_is_no() {
    let stage = Stage::with(QUEUED);
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.ask_line("SET lock:1 bob NX EX 30");
    stage.await_waiters("lock:1", 1);
    let now_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let mut cat = stage.client();
    cat.ask_line(&format!("SET lock:1 cat NX PXAT {}", now_ms + 500));
    stage.await_waiters("lock:1", 2);
    let mut dan = stage.client();
    dan.ask_line(&format!("SET lock:1 dan NX PXAT {}", now_ms + 100_000));
    stage.await_waiters("lock:1", 3);
    eventually("half a second is over", || {
        (std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() > (now_ms + 500) as u128).then_some(())
    });
    stage.client().run("DEL lock:1");
    bob.has_it();
    assert!((29_000..=30_000).contains(&stage.bypass().run("PTTL lock:1").int()));
    bob.run("DEL lock:1");
    dan.has_it();
    assert_eq!(cat.reply(), Reply::Nil, "its time had passed");
    assert_eq!(stage.bypass().run("PEXPIRETIME lock:1"), Reply::Int(now_ms + 100_000));
}

#[test]
fn both_kinds_of_clients_stand_in_one_line() {
    let stage = Stage::with(QUEUED);
    let mut ann = stage.client();
    ann.acquires("lock:1", "ann");
    let (mut bob, mut cat, mut dan) = (stage.client(), stage.client(), stage.client());
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    cat.waits_for("lock:1", "cat");
    stage.await_waiters("lock:1", 2);
    dan.asks_for("lock:1", "dan");
    stage.await_waiters("lock:1", 3);
    ann.releases("lock:1", "ann");
    bob.has_it();
    let info = bob.run("LOCK.INFO lock:1");
    assert_eq!((info.field("owner"), info.field("fence")), (Reply::bulk("bob"), Reply::Nil));
    assert_eq!(info.field("waiters"), Reply::Int(2));
    bob.run("DEL lock:1");
    cat.is_granted();
    cat.releases("lock:1", "cat");
    dan.has_it();
    assert_eq!(stage.bypass().run("GET lock:1"), Reply::bulk("dan"));
}

#[test]
fn a_higher_level_goes_first() {
    let stage = Stage::with(&format!("{QUEUED}priority = 'high'\n"));
    let mut ann = stage.client();
    ann.acquires("lock:1", "ann");
    let (mut low, mut plain, mut critical) = (stage.client(), stage.client(), stage.client());
    low.ask_line("LOCK.ACQUIRE lock:1 low WAIT 60000 PRIORITY normal");
    stage.await_waiters("lock:1", 1);
    plain.asks_for("lock:1", "plain");
    stage.await_waiters("lock:1", 2);
    critical.ask_line("LOCK.ACQUIRE lock:1 critical WAIT 60000 PRIORITY critical");
    stage.await_waiters("lock:1", 3);
    ann.releases("lock:1", "ann");
    critical.is_granted();
    critical.releases("lock:1", "critical");
    plain.has_it();
    low.still_waits();
    plain.run("DEL lock:1");
    low.is_granted();
}

#[test]
fn a_value_says_nothing_about_who_holds_the_lock() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\nwait = '100ms'\n");
    let mut ann = stage.client();
    ann.takes("lock:1", "same");
    assert_eq!(ann.run("SET lock:1 same NX"), Reply::Nil, "SET NX is never re-entrant");
    assert_eq!(stage.client().run("SET lock:1 same NX"), Reply::Nil);
    assert_eq!(stage.client().run("LOCK.ACQUIRE lock:1 same"), Reply::Nil, "nor is it the owner's");
}

#[test]
fn a_try_that_does_not_wait_passes_no_waiter() {
    // Pollers on the one node, whose rule has no wait, and a waiter on the other.
    let server = RedisServer::start();
    let pollers = Lockgate::before(&server);
    let queue = Lockgate::before_with(&server, QUEUED);
    for round in 0..20 {
        server.wire().run("SET lock:1 holder PX 60000");
        let mut bob = queue.wire();
        bob.asks_for("lock:1", "bob");
        eventually("bob waits in line", || {
            (queue.wire().run("LOCK.INFO lock:1").field("waiters") == Reply::Int(1)).then_some(())
        });
        let over = AtomicBool::new(false);
        let passed = std::thread::scope(|scope| {
            let polls = scope.spawn(|| {
                let mut wire = pollers.wire();
                let mut passed = 0;
                while !over.load(Ordering::SeqCst) {
                    passed += usize::from(wire.run("SET lock:1 poller NX PX 60000") == ok());
                }
                passed
            });
            server.wire().run("DEL lock:1");
            let granted = bob.try_frame(PATIENCE);
            over.store(true, Ordering::SeqCst);
            (polls.join().unwrap(), granted.is_ok())
        });
        assert_eq!(passed, (0, true), "round {round}: how many polls passed the waiter, and whether he got it");
        server.wire().run("FLUSHALL");
    }
}

#[test]
fn a_rule_that_barges_may_pass_waiters() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\nbarge = true\n");
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    assert_eq!(stage.client().run("SET lock:1 bob NX"), Reply::Nil, "it is the plain command, which does not wait");
}

#[test]
fn a_client_that_has_left_is_passed_over() {
    let stage = Stage::with(QUEUED);
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let (mut bob, mut cat) = (stage.client(), stage.client());
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    cat.asks_for("lock:1", "cat");
    stage.await_waiters("lock:1", 2);
    drop(bob);
    stage.await_waiters("lock:1", 1);
    ann.run("DEL lock:1");
    cat.has_it();
}

#[test]
fn client_unblock_ends_the_wait() {
    let stage = Stage::with(QUEUED);
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    let id = bob.run("CLIENT ID").int();
    let asks = [
        ("SET lock:1 bob NX", "TIMEOUT", Reply::Nil),
        ("SETNX lock:1 bob", "TIMEOUT", Reply::Int(0)),
        ("SET lock:1 bob NX", "ERROR", Reply::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".into())),
    ];
    for (form, how, answer) in asks {
        bob.ask_line(form);
        stage.await_waiters("lock:1", 1);
        assert_eq!(stage.client().run(&format!("CLIENT UNBLOCK {id} {how}")), Reply::Int(1));
        assert_eq!(bob.reply(), answer, "{form} {how}");
        stage.await_waiters("lock:1", 0);
    }
    bob.assert_nothing_waits();
}

#[test]
fn what_is_pipelined_behind_a_wait_comes_after_it_and_nobody_else_is_held_up() {
    // On one worker all share its links.
    let stage = Stage::with(&format!("workers = 1\n{STUBBORN}"));
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.send(&[command(&["GET", "k"]), command(&["SET", "lock:1", "bob", "NX"]), command(&["GET", "lock:1"])].concat());
    assert_eq!(bob.reply(), Reply::Nil);
    stage.await_waiters("lock:1", 1);
    bob.still_waits();
    for number in 0..100 {
        assert_eq!(ann.run(&format!("SET k {number}")), ok());
    }
    ann.run("DEL lock:1");
    bob.has_it();
    assert_eq!(bob.reply(), Reply::bulk("bob"));
}

#[test]
fn client_reply_silences_the_answer_and_not_the_wait() {
    let stage = Stage::with(STUBBORN);
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.send(
        &[command(&["CLIENT", "REPLY", "SKIP"]), command(&["SET", "lock:1", "bob", "NX"]), command(&["PING"])].concat(),
    );
    stage.await_waiters("lock:1", 1);
    bob.still_waits();
    ann.run("DEL lock:1");
    assert_eq!(bob.reply(), Reply::Simple("PONG".into()));
    assert_eq!(bob.run("GET lock:1"), Reply::bulk("bob"));
}

#[test]
fn a_shutdown_tells_those_who_wait() {
    let mut stage = Stage::with(QUEUED);
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    stage.lockgate.terminate();
    assert_eq!(bob.reply(), Reply::Nil);
    assert!(bob.until_closed(PATIENCE).is_ok_and(|rest| rest.is_empty()));
    stage.lockgate.exit();
    assert_eq!(stage.bypass().run("KEYS lockgate:q:*"), Reply::Array(vec![]));
}

#[test]
fn a_full_queue_takes_no_more() {
    let stage = Stage::with(&format!("{QUEUED}max_queue = 1\n"));
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    assert!(stage.client().run("SET lock:1 cat NX").is_error("QUEUEFULL"));
    bob.still_waits();
}

#[test]
fn a_waiting_set_nx_is_a_plain_one_to_a_transaction_and_to_get() {
    let stage = Stage::with(QUEUED);
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.send(
        &["MULTI", "SET lock:1 bob NX", "EXEC"].map(|line| command(&line.split(' ').collect::<Vec<_>>())).concat(),
    );
    assert_eq!(bob.frames(3), b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n");
    assert_eq!(bob.run("SET lock:1 bob NX GET"), Reply::bulk("ann"));
    assert_eq!(bob.run("SET lock:1 bob NX KEEPTTL"), Reply::Nil);
}

// ---- the call that yields ----

#[test]
fn a_waiting_call_yields_to_what_arrives_behind_it() {
    let stage = Stage::with(QUEUED);
    stage.client().takes("lock:1", "ann");
    let mut bob = stage.client();
    // In one pipeline, and later.
    bob.send(&[command(&["SET", "lock:1", "bob", "NX"]), command(&["ECHO", "one"])].concat());
    assert_eq!((bob.reply(), bob.reply()), (Reply::Nil, Reply::bulk("one")));
    for form in ["SET lock:1 bob NX PX 60000", "SETNX lock:1 bob"] {
        bob.ask_line(form);
        stage.await_waiters("lock:1", 1);
        bob.still_waits();
        bob.ask_line("ECHO two");
        let no = if form.starts_with("SETNX") { Reply::Int(0) } else { Reply::Nil };
        assert_eq!((bob.reply(), bob.reply()), (no, Reply::bulk("two")));
        stage.await_waiters("lock:1", 0);
    }
    // Also to the first byte of something.
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    bob.send(b"*");
    assert_eq!(bob.reply(), Reply::Nil);
    bob.send(b"1\r\n$4\r\nPING\r\n");
    assert_eq!(bob.reply(), Reply::Simple("PONG".into()));
}

#[test]
fn a_call_that_finds_its_lock_free_does_not_yield() {
    let stage = Stage::with(QUEUED);
    let mut bob = stage.client();
    bob.send(&[command(&["SET", "lock:1", "bob", "NX"]), command(&["GET", "lock:1"])].concat());
    assert_eq!((bob.reply(), bob.reply()), (ok(), Reply::bulk("bob")));
}

#[test]
fn a_call_that_yields_with_a_ticket_keeps_its_place() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\npoll_ticket = '30s'\n");
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let (mut bob, mut cat) = (stage.client(), stage.client());
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    cat.asks_for("lock:1", "cat");
    stage.await_waiters("lock:1", 2);
    bob.ask_line("PING");
    assert_eq!((bob.reply(), bob.reply()), (Reply::Nil, Reply::Simple("PONG".into())));
    ann.run("DEL lock:1");
    cat.still_waits();
    bob.takes("lock:1", "bob");
    bob.run("DEL lock:1");
    cat.has_it();
}

#[test]
fn with_yield_false_a_call_waits_on_and_what_is_behind_it_too() {
    let stage = Stage::with(STUBBORN);
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    let mut bob = stage.client();
    bob.asks_for("lock:1", "bob");
    bob.ask_line("GET lock:1");
    stage.await_waiters("lock:1", 1);
    bob.still_waits();
    ann.run("DEL lock:1");
    assert_eq!((bob.reply(), bob.reply()), (ok(), Reply::bulk("bob")));
}

// ---- the connection that must not wait ----

#[test]
fn a_connection_that_holds_a_lock_does_not_wait_for_another() {
    let stage = Stage::with(QUEUED);
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.takes("lock:1", "ann");
    bob.takes("lock:2", "bob");
    bob.is_told_no_at_once("lock:1");
    assert_eq!(bob.run("SETNX lock:1 bob"), Reply::Int(0));
    // Its own lock ends by a script, which Lockgate does not understand.
    bob.call(&["EVAL", "return redis.call('del',KEYS[1])", "1", "lock:2"]);
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    ann.run("DEL lock:1");
    bob.has_it();
}

#[test]
fn a_lock_that_has_become_anothers_is_no_lock_of_the_connection() {
    let stage = Stage::with(QUEUED);
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.takes("lock:1", "ann");
    bob.takes("lock:2", "bob");
    bob.run("SELECT 3");
    bob.takes("lock:2", "bob");
    bob.run("SELECT 0");
    stage.bypass().run("SET lock:2 somebody PX 60000");
    bob.is_told_no_at_once("lock:1");
    let mut side = stage.bypass();
    side.run("SELECT 3");
    side.run("DEL lock:2");
    side.run("LPUSH lock:2 x");
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    ann.run("DEL lock:1");
    bob.has_it();
}

#[test]
fn no_connection_waits_for_its_own_lock() {
    for rule in ["", "wait_while_holding = true\n"] {
        let stage = Stage::with(&format!("{QUEUED}{rule}"));
        let mut bob = stage.client();
        bob.takes("lock:1", "bob");
        bob.is_told_no_at_once("lock:1");
        assert_eq!(bob.run("SETNX lock:1 bob"), Reply::Int(0));
        bob.run("DEL lock:1");
        bob.takes("lock:1", "bob");
    }
}

#[test]
fn a_rule_may_let_a_connection_wait_while_it_holds_a_lock() {
    let stage = Stage::with(&format!("{QUEUED}wait_while_holding = true\n"));
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.takes("lock:1", "ann");
    bob.takes("lock:2", "bob");
    bob.asks_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    ann.run("DEL lock:1");
    bob.has_it();
}

#[test]
fn a_connection_with_very_many_locks_does_not_wait_any_more() {
    let stage = Stage::with(&format!("{QUEUED}wait_while_holding = true\n"));
    stage.client().takes("lock:theirs", "ann");
    let mut bob = stage.client();
    for number in 0..300 {
        bob.takes(&format!("lock:{number}"), "bob");
    }
    bob.is_told_no_at_once("lock:theirs");
    bob.is_told_no_at_once("lock:299");
    // One that took as many, but not at a time, does.
    let mut cat = stage.client();
    for number in 0..600 {
        cat.takes("lock:cats", &number.to_string());
        cat.run("DEL lock:cats");
        cat.takes(&format!("lock:cat:{number}"), "cat");
        cat.run(&format!("DEL lock:cat:{number}"));
    }
    cat.asks_for("lock:theirs", "cat");
    stage.await_waiters("lock:theirs", 1);
}

// ---- pollers ----

#[test]
fn a_poller_with_a_ticket_keeps_its_turn() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\npoll_ticket = '5s'\n");
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    assert_eq!(stage.client().run("SET lock:1 bob NX PX 60000"), Reply::Nil);
    assert_eq!(stage.client().run("SET lock:1 cat NX PX 60000"), Reply::Nil);
    ann.run("DEL lock:1");
    assert_eq!(stage.client().run("SET lock:1 dan NX PX 60000"), Reply::Nil, "others are before him");
    assert_eq!(stage.client().run("SET lock:1 cat NX PX 60000"), Reply::Nil, "bob is before her");
    stage.client().takes("lock:1", "bob");
    stage.client().run("DEL lock:1");
    stage.client().takes("lock:1", "cat");
}

#[test]
fn a_ticket_ends() {
    let stage = Stage::with("[[lock_keys]]\nmatch = 'lock:*'\npoll_ticket = '300ms'\n");
    let mut ann = stage.client();
    ann.takes("lock:1", "ann");
    assert_eq!(stage.client().run("SET lock:1 bob NX PX 60000"), Reply::Nil);
    ann.run("DEL lock:1");
    let mut cat = stage.client();
    eventually("bob does not come back, so cat is next", || {
        (cat.run("SET lock:1 cat NX PX 60000") == ok()).then_some(())
    });
    cat.run("DEL lock:1");
    stage.await_waiters("lock:1", 0);
    eventually("nothing is left behind", || {
        (stage.bypass().run("KEYS lockgate:q:*") == Reply::Array(vec![])).then_some(())
    });
}

// ---- where the queue cannot be kept ----

/// A client who may SET and GET and little else: no script can run in his name.
#[track_caller]
fn without_scripts(stage: &Stage) -> Wire {
    stage.bypass().run("ACL SETUSER plain on >pw ~* +@all -@scripting");
    let mut wire = stage.client();
    assert_eq!(wire.run("AUTH plain pw"), ok());
    wire
}

#[test]
fn where_no_queue_can_be_kept_the_plain_command_decides() {
    let stage = Stage::with(QUEUED);
    let mut bob = without_scripts(&stage);
    bob.takes("lock:1", "bob");
    assert_eq!(bob.run("SET lock:1 bob NX"), Reply::Nil);
    assert_eq!(bob.run("SETNX lock:2 bob"), Reply::Int(1));
    eventually("the log says so", || {
        stage.lockgate.wrote().contains("SET NX passes as the plain command").then_some(())
    });
    assert_eq!(stage.lockgate.wrote().matches("passes as the plain command").count(), 1, "said once for all of them");
    let calls = stage.client().run("LOCK.STATS").field("fallbacks");
    assert_eq!(calls, Reply::Int(3), "and each is counted");
}

#[test]
fn without_fallback_it_is_refused() {
    let stage = Stage::with(&format!("fallback = false\n{QUEUED}"));
    let mut bob = without_scripts(&stage);
    assert!(bob.run("SET lock:1 bob NX").is_error("UNAVAILABLE the queue for 'lock:1' cannot be kept"));
    assert_eq!(stage.bypass().run("EXISTS lock:1"), Reply::Int(0));
}

/// Nobody would tell who waits that the key is free: what Lockgate itself asks is refused.
#[test]
fn before_an_upstream_that_is_of_no_use_nobody_waits() {
    let server = RedisServer::start();
    let mut side = server.side_wire();
    side.run("ACL SETUSER gate on >right ~* &* +@all");
    side.run("SET lock:held v");
    let url = format!("redis://gate:wrong@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], Some(QUEUED));
    let mut client = lockgate.wire();
    client.is_told_no_at_once("lock:held");
    client.takes("lock:free", "me");
}
