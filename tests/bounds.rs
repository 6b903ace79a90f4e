//! Everything that a client can make Lockgate keep has a number, and what lies beyond it is refused in words that say what to do, or
//! given up, while everybody else goes on. The table is in docs/architecture.md, "Bounds".

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, PATIENCE, RedisServer, Reply, Wire, command, eventually, tools};
use std::time::Duration;

const KEY: &str = "orders:1";
/// What a busy process may hold more than before, for whatever reason.
const GROWTH: u64 = 24 << 20;

/// A call that waits: its connection, once the queue shows `waiters` of them.
fn waits(gate: &Lockgate, words: &[&[u8]], key: &str, waiters: usize) -> Wire {
    let mut wire = gate.wire();
    wire.ask(words);
    eventually("it waits", || {
        let queue = gate.wire().run(&format!("LOCK.QUEUE {key}"));
        (queue.items().len() == waiters).then_some(())
    });
    wire
}

#[test]
fn an_empty_owner_is_an_error_wherever_an_owner_is_named() {
    let server = RedisServer::start();
    let gate = Lockgate::before(&server);
    let mut wire = gate.wire();
    for words in [
        &["LOCK.ACQUIRE", KEY, ""][..],
        &["LOCK.ACQUIRE", KEY, "", "WAIT", "1000"],
        &["LOCK.PRIORITY", KEY, "", "high"],
        &["LOCK.RELEASE", KEY, ""],
        &["LOCK.EXTEND", KEY, "", "1000"],
        &["LOCK.REFRESH", KEY, "", "1000"],
        &["LOCK.TRANSFER", KEY, "", "bob"],
        &["LOCK.TRANSFER", KEY, "ann", ""],
        &["LOCK.CANCEL", KEY, ""],
        &["LOCK.PROMOTE", KEY, "", "high"],
        &["LOCK.POSITION", KEY, ""],
        &["LOCK.ACQUIREALL", "1", KEY, ""],
        &["LOCK.RELEASEALL", "1", KEY, ""],
    ] {
        let reply = String::from_utf8(wire.call(words)).unwrap();
        assert!(reply.starts_with("-ERR the owner is empty, as an unset variable is"), "{words:?}: {reply}");
    }
    assert_eq!(server.wire().run(&format!("EXISTS {KEY}")), Reply::Int(0));
}

#[test]
fn long_owners_and_meta_are_refused_before_anything_is_kept() {
    let server = RedisServer::start();
    let gate = Lockgate::before(&server);
    let mut wire = gate.wire();
    let (fits, long) = ("o".repeat(1 << 10), "o".repeat((1 << 10) + 1));
    assert!(wire.call(&["LOCK.ACQUIRE", KEY, &fits, "META", &"m".repeat(4 << 10)]).starts_with(b":"));
    assert_eq!(wire.call(&["LOCK.RELEASE", KEY, &fits]), b":1\r\n");
    for words in [
        &["LOCK.ACQUIRE", KEY, &long][..],
        &["LOCK.RELEASE", KEY, &long],
        &["LOCK.TRANSFER", KEY, "ann", &long],
        &["LOCK.ACQUIREALL", "1", KEY, &long],
    ] {
        let reply = String::from_utf8(wire.call(words)).unwrap();
        assert_eq!(
            reply,
            "-ERR the owner has 1025 bytes, and at most 1024 are allowed; shorten it, or raise limits.owner\r\n"
        );
    }
    let reply = wire.call(&["LOCK.ACQUIRE", KEY, "ann", "META", &"m".repeat((4 << 10) + 1)]);
    assert!(reply.starts_with(b"-ERR META has 4097 bytes"), "{}", String::from_utf8_lossy(&reply));
    assert_eq!(wire.call(&["LOCK.CONFIG", "SET", "limits.owner", "2kb"]), b"+OK\r\n");
    assert!(wire.call(&["LOCK.ACQUIRE", KEY, &long]).starts_with(b":"), "a setting of the running process");
}

#[test]
fn forty_waiters_with_six_megabytes_of_meta_each_are_refused_and_nothing_grows() {
    let server = RedisServer::start();
    let gate = Lockgate::before(&server);
    let mut holder = gate.wire();
    assert!(holder.call(&["LOCK.ACQUIRE", KEY, "ann"]).starts_with(b":"));
    let before = tools::resident_bytes(gate.pid());
    let meta = vec![b'm'; 6 << 20];
    let mut refused = Vec::new();
    for number in 0..40 {
        let mut wire = gate.wire();
        let owner = format!("bob-{number}");
        wire.send(&command(&[b"LOCK.ACQUIRE", KEY.as_bytes(), owner.as_bytes(), b"WAIT", b"60000", b"META", &meta]));
        let reply = wire.frame();
        assert!(reply.starts_with(b"-ERR META has 6291456 bytes"), "{}", String::from_utf8_lossy(&reply));
        refused.push(wire);
    }
    assert_eq!(holder.call(&["LOCK.RELEASE", KEY, "ann"]), b":1\r\n");
    gate.assert_settles_below(before + GROWTH);
}

#[test]
fn all_that_waiting_calls_keep_has_a_bound() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(
        &server,
        "[limits]\nwaiting_bytes = \"64kb\"\n[[lock_keys]]\nmatch = \"lock:*\"\nwait = \"60s\"\n",
    );
    let mut holder = gate.wire();
    let long_key = format!("orders:{}", "k".repeat(22_000));
    for key in [KEY, &long_key, "lock:a"] {
        assert!(holder.call(&["LOCK.ACQUIRE", key, "ann"]).starts_with(b":"));
    }
    // Keys, META and the values of SET NX count alike.
    let bob = waits(&gate, &[b"LOCK.ACQUIRE", long_key.as_bytes(), b"bob", b"WAIT", b"60000"], &long_key, 1);
    let value = vec![b'v'; 40_000];
    let mut cat = waits(&gate, &[b"SET", b"lock:a", &value, b"NX", b"PX", b"60000"], "lock:a", 1);
    for words in [
        &[b"LOCK.ACQUIRE", KEY.as_bytes(), b"dan", b"WAIT", b"60000", b"META", &[b'm'; 4096][..]][..],
        &[b"SET", b"lock:a", &value, b"NX"],
    ] {
        let reply = String::from_utf8(gate.wire().call(words)).unwrap();
        assert!(reply.starts_with("-QUEUEFULL ") && reply.contains("limits.waiting_bytes"), "{reply}");
    }
    // What does not have to wait is none of it, and short names still find a place.
    assert!(
        gate.wire()
            .call(&[b"LOCK.ACQUIRE", &b"orders:2"[..], b"dan", b"WAIT", b"60000", b"META", &[b'm'; 4096]])
            .starts_with(b":")
    );
    let eve = waits(&gate, &[b"LOCK.ACQUIRE", KEY.as_bytes(), b"eve", b"WAIT", b"60000"], KEY, 1);
    // A wait that ends makes room: by a grant, and by a client that leaves, once its place is no longer kept in mind.
    assert_eq!(holder.run("LOCK.RELEASE lock:a ann"), Reply::Int(1));
    assert_eq!(cat.frame(), b"+OK\r\n");
    drop((bob, eve));
    let meta = vec![b'm'; 4096];
    let mut all: Vec<Wire> = Vec::new();
    for number in 0..14 {
        let owner = format!("fay-{number}");
        eventually("there is room again", || {
            let mut wire = gate.wire();
            wire.ask(&[b"LOCK.ACQUIRE", KEY.as_bytes(), owner.as_bytes(), b"WAIT", b"60000", b"META", &meta]);
            let waits = wire.try_frame(Duration::from_millis(100)).is_err();
            waits.then(|| all.push(wire))
        });
    }
    assert_eq!(all.len(), 14);
    assert!(all.iter_mut().all(|wire| wire.try_frame(Duration::ZERO).is_err()));
    assert_eq!(holder.run(&format!("LOCK.RELEASE {KEY} ann")), Reply::Int(1));
    assert!(all[0].try_frame(PATIENCE).is_ok_and(|reply| reply.starts_with(b":")));
}

#[test]
fn a_client_that_never_reads_is_closed_at_the_output_buffer_and_its_neighbours_go_on() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "workers = 1\n[limits]\noutput_buffer = \"1mb\"\n");
    let (mut neighbour, mut greedy) = (gate.wire(), gate.wire());
    // Just too short for a link of its own; together more than sockets and the buffer hold.
    assert_eq!(neighbour.call(&[&b"SET"[..], b"long", &vec![b'v'; 250_000]]), b"+OK\r\n");
    greedy.send(&command(&["GET", "long"]).repeat(64));
    eventually("it is closed", || gate.wrote().contains("limits.output_buffer").then_some(()));
    assert_eq!(neighbour.call(&["PING"]), b"+PONG\r\n");
    let came = greedy.until_closed(PATIENCE).expect("the end of the connection");
    assert!(came.len() < 64 * 250_000, "{} bytes", came.len());
}

#[test]
fn a_client_that_reads_late_gets_every_byte_and_costs_no_more_than_a_few_replies() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "workers = 1\n");
    let (mut neighbour, mut late) = (gate.wire(), gate.wire());
    let value = vec![b'v'; 900_000];
    assert_eq!(neighbour.call(&[&b"SET"[..], b"long", &value]), b"+OK\r\n");
    let before = tools::resident_bytes(gate.pid());
    let count = 300;
    late.send(&command(&["GET", "long"]).repeat(count));
    eventually("it has a link of its own, where the upstream keeps the rest", || {
        let own = String::from_utf8(neighbour.call(&["CLIENT", "LIST"])).unwrap();
        assert_eq!(own.matches("cmd=get").count(), 1);
        let waits = server.side_wire().call(&["CLIENT", "LIST"]);
        let waits = String::from_utf8(waits).unwrap();
        waits.split_whitespace().any(|word| word.strip_prefix("omem=").is_some_and(|n| n.len() > 8)).then_some(())
    });
    let peak = tools::peak_resident_bytes(gate.pid());
    assert!(peak < before + 64 * 900_000 + 2 * GROWTH, "{peak} after {before}");
    for _ in 0..count {
        late.swallow(9 + 900_000 + 2, |_, _| {});
    }
    late.assert_nothing_waits();
    gate.assert_settles_below(before + GROWTH);
}

#[test]
fn thousands_of_wrong_passwords_leave_nothing() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "workers = 1\n[links]\nidle_timeout = \"0s\"\n");
    let mut wire = gate.wire();
    let connected = || {
        let info = String::from_utf8(server.side_wire().call(&["INFO", "clients"])).unwrap();
        info.split_once("connected_clients:").unwrap().1.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let mut guess = |number: usize| {
        let reply = wire.call(&["AUTH", "ann", &format!("{number:0>1000}")]);
        assert!(reply.starts_with(b"-WRONGPASS"), "{}", String::from_utf8_lossy(&reply));
    };
    (0..100).for_each(&mut guess);
    let before = tools::resident_bytes(gate.pid());
    (100..3000).for_each(&mut guess);
    eventually("their links are gone", || (connected() < 20).then_some(()));
    gate.assert_settles_below(before + GROWTH / 3);
}

#[test]
fn users_that_come_and_go_keep_a_bounded_number_of_shared_links_and_are_all_served() {
    const USERS: usize = 800;
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "workers = 1\n");
    let mut side = server.side_wire();
    let mut sessions = Vec::new();
    for number in 0..USERS {
        let user = format!("user-{number}");
        assert_eq!(side.call(&["ACL", "SETUSER", &user, "on", ">secret", "~*", "+@all"]), b"+OK\r\n");
        let mut session = gate.wire();
        assert_eq!(session.call(&["AUTH", &user, "secret"]), b"+OK\r\n");
        assert_eq!(session.call(&["SET", "k", &user]), b"+OK\r\n");
        sessions.push(session);
    }
    // Whether a link is shared shows in what it did last.
    eventually("no more than 500 shared links stand", || {
        let list = String::from_utf8(side.call(&["CLIENT", "LIST"])).unwrap();
        let shared = list.lines().filter(|line| line.contains("cmd=set")).count();
        (100..=510).contains(&shared).then_some(())
    });
    for session in &mut sessions {
        assert_eq!(session.call(&["SET", "k", "again"]), b"+OK\r\n");
    }
}

#[test]
fn replies_that_wait_for_all_clients_together_have_a_bound_and_a_neighbour_is_served() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "workers = 1\n[limits]\noutput_buffer = \"16mb\"\n");
    let mut neighbour = gate.wire();
    assert_eq!(neighbour.call(&[&b"SET"[..], b"long", &vec![b'v'; 250_000]]), b"+OK\r\n");
    let before = tools::resident_bytes(gate.pid());
    // Each of them may have what it asks for; all of them may not.
    let mut greedy: Vec<Wire> = (0..30).map(|_| gate.wire()).collect();
    for wire in &mut greedy {
        wire.send(&command(&["GET", "long"]).repeat(64));
    }
    eventually("some are closed", || gate.wrote().contains("four times that").then_some(()));
    assert_eq!(neighbour.call(&["GET", "long"]).len(), 9 + 250_000 + 2);
    let peak = tools::peak_resident_bytes(gate.pid());
    assert!(peak < before + (64 << 20) + 2 * GROWTH, "{peak} after {before}");
    drop(greedy);
    gate.assert_settles_below(before + GROWTH);
}

#[test]
fn of_a_long_client_name_the_beginning_is_kept() {
    let server = RedisServer::start();
    let gate = Lockgate::before(&server);
    let (name, kept) = ("n".repeat(1 << 20), "n".repeat(4 << 10));
    let before = tools::resident_bytes(gate.pid());
    let mut all: Vec<Wire> = (0..40).map(|_| gate.wire()).collect();
    for wire in &mut all {
        assert_eq!(wire.call(&["CLIENT", "SETNAME", &name]), b"+OK\r\n");
        assert_eq!(wire.run("CLIENT GETNAME"), Reply::Bulk(kept.clone().into()));
    }
    // Queued, it is not kept whole either.
    let mut queuing = gate.wire();
    assert_eq!(queuing.run("MULTI"), Reply::Simple("OK".into()));
    for _ in 0..60 {
        assert_eq!(queuing.call(&["CLIENT", "SETNAME", &name]), b"+QUEUED\r\n");
    }
    gate.assert_settles_below(before + GROWTH);
    assert_eq!(queuing.run("EXEC").items().len(), 60);
    assert_eq!(queuing.run("CLIENT GETNAME"), Reply::Bulk(kept.into()));
    let mut greets = gate.wire();
    assert!(greets.call(&["HELLO", "3", "SETNAME", &name]).starts_with(b"%"));
    assert_eq!(greets.call(&["CLIENT", "GETNAME"]).len(), b"$4096\r\n".len() + 4096 + 2);
}

#[test]
fn channels_that_are_subscribed_to_are_counted_and_not_kept() {
    const CHANNELS: usize = 6000;
    let server = RedisServer::start();
    let gate = Lockgate::before(&server);
    let mut wire = gate.wire();
    let before = tools::resident_bytes(gate.pid());
    let long = "c".repeat(10_000);
    let hundred = |wire: &mut Wire, command: &str, first: usize| {
        let mut words = vec![command.to_owned()];
        words.extend((first..first + 100).map(|number| format!("{long}{number}")));
        wire.ask(&words);
        wire.frames(100);
    };
    (0..CHANNELS).step_by(100).for_each(|first| hundred(&mut wire, "SUBSCRIBE", first));
    gate.assert_settles_below(before + GROWTH);
    wire.ask(&["PSUBSCRIBE", "a*", "b*"]);
    wire.frames(2);
    let mut other = gate.wire();
    let mut shows = |what: &str| {
        let list = String::from_utf8(other.call(&["CLIENT", "LIST"])).unwrap();
        assert!(list.contains(what), "{what} in {list}");
    };
    shows(" sub=6000 psub=2 ");
    // One of them twice, and one that was never subscribed to.
    wire.ask(&["SUBSCRIBE", &format!("{long}0")]);
    wire.ask(&["UNSUBSCRIBE", &format!("{long}0"), "nobody's"]);
    assert!(wire.frames(3).ends_with(b":6001\r\n"));
    shows(" sub=5999 psub=2 ");
    // All at once would be more than the upstream has waiting for a subscriber.
    (1000..CHANNELS).step_by(100).for_each(|first| hundred(&mut wire, "UNSUBSCRIBE", first));
    wire.ask(&["UNSUBSCRIBE"]);
    wire.ask(&["PUNSUBSCRIBE"]);
    assert!(wire.frames(999 + 2).ends_with(b":0\r\n"));
    wire.ask(&["UNSUBSCRIBE"]);
    assert!(wire.frame().ends_with(b"$-1\r\n:0\r\n"), "one for none");
    assert_eq!(wire.run("PING"), Reply::Simple("PONG".into()));
    shows(" sub=0 psub=0 ");
}

#[test]
fn locks_that_are_renewed_have_a_bound() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "[limits]\nwaiting_bytes = \"64kb\"\n");
    let mut wire = gate.wire();
    let mut acquire = |key: &str, bond: &[&str]| {
        let words: Vec<&str> = ["LOCK.ACQUIRE", key, "ann"].into_iter().chain(bond.iter().copied()).collect();
        String::from_utf8(wire.call(&words)).unwrap()
    };
    let refused = (0..2000).find(|number| !acquire(&format!("k:{number}"), &["KEEPALIVE"]).starts_with(':'));
    let refused = refused.expect("there is a bound");
    assert!((500..1024).contains(&refused), "{refused}");
    let key = format!("k:{refused}");
    for bond in ["KEEPALIVE", "EPHEMERAL"] {
        let reply = acquire(&key, &[bond]);
        assert!(reply.starts_with("-LIMIT ") && reply.contains("limits.waiting_bytes"), "{reply}");
    }
    assert_eq!(server.wire().run(&format!("EXISTS {key}")), Reply::Int(0), "it was not taken");
    assert!(acquire(&key, &[]).starts_with(':'), "without being renewed it is granted");
    assert!(acquire("k:0", &["KEEPALIVE"]).starts_with(':'), "and what is renewed already may be asked for again");
    assert_eq!(gate.wire().run("LOCK.RELEASE k:1 ann"), Reply::Int(1));
    let mut other = gate.wire();
    eventually("one that ends makes room", || {
        other.call(&["LOCK.ACQUIRE", "k:1", "bob", "EPHEMERAL"]).starts_with(b":").then_some(())
    });
}
