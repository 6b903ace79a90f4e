//! A grant is told only when replicas have it (`wait_replicas`): on a real master with two replicas, of which some stop or go.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Wire, eventually};

/// A master and two replicas that follow it.
struct Group {
    master: RedisServer,
    replicas: Vec<RedisServer>,
    lockgate: Lockgate,
}

impl Group {
    fn of(kind: ServerKind, wait_replicas: &str) -> Self {
        let quick = ["--repl-diskless-sync-delay", "0"];
        let master = RedisServer::start_with(kind, &quick);
        let port = master.port().to_string();
        let words = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
        let replicas: Vec<RedisServer> = (0..2).map(|_| RedisServer::start_with(kind, &words)).collect();
        eventually("both replicas follow", || {
            let info = String::from_utf8_lossy(&master.side_wire().call(&["INFO", "replication"])).into_owned();
            (info.matches("state=online").count() == 2).then_some(())
        });
        let lockgate = Lockgate::before_with(&master, &format!("wait_replicas = {wait_replicas}\n"));
        Group { master, replicas, lockgate }
    }

    fn client(&self) -> Wire {
        self.lockgate.wire()
    }

    fn freeze(&self, count: usize) {
        self.replicas[..count].iter().for_each(RedisServer::freeze);
    }

    fn await_free(&self, key: &str) {
        eventually(&format!("{key} is free"), || {
            (self.master.side_wire().run(&format!("EXISTS {key}")) == Reply::Int(0)).then_some(())
        });
    }
}

#[track_caller]
fn is_refused(reply: &Reply, key: &str) {
    let Reply::Error(line) = reply else { panic!("{reply:?}") };
    assert!(line.starts_with(&format!("NOREPLICAS '{key}' is not granted: ")), "{line}");
}

#[test]
fn replicas_have_a_grant_before_anybody_is_told() {
    for kind in ServerKind::ALL {
        let group = Group::of(kind, "2");
        let mut ann = group.client();
        for number in 0..20 {
            let fence = ann.run(&format!("LOCK.ACQUIRE lock:{number} ann TTL 60000")).int();
            assert_eq!(ann.run(&format!("SET lock:plain:{number} x NX PX 60000")), Reply::Simple("OK".into()));
            for replica in &group.replicas {
                let value = replica.side_wire().run(&format!("GET lock:{number}"));
                assert!(format!("{value:?}").contains(&fence.to_string()), "{kind:?}: {value:?}");
                assert_eq!(replica.side_wire().run(&format!("GET lock:plain:{number}")), Reply::bulk("x"), "{kind:?}");
            }
        }
    }
}

#[test]
fn one_wait_serves_all_who_are_granted_meanwhile() {
    let group = Group::of(ServerKind::Redis70, "1");
    let mut clients: Vec<Wire> = (0..60).map(|_| group.client()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.ask_line(&format!("LOCK.ACQUIRE lock:{round}:{number} ann TTL 60000"));
        }
        clients.iter_mut().for_each(|client| assert!(client.reply().int() > 0));
    }
    let stats = String::from_utf8_lossy(&group.master.side_wire().call(&["INFO", "commandstats"])).into_owned();
    let waits = stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
    let waits: u64 = waits.and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
    println!("{waits} WAITs for 300 grants");
    assert!(waits < 200, "{waits}");
}

#[test]
fn what_too_few_replicas_have_is_taken_back() {
    for kind in ServerKind::ALL {
        let group = Group::of(kind, "2");
        let mut ann = group.client();
        let held = ann.run("LOCK.ACQUIRE lock:held ann TTL 60000").int();
        group.freeze(1);
        is_refused(&ann.run("LOCK.ACQUIRE lock:1 ann TTL 60000"), "lock:1");
        group.await_free("lock:1");
        is_refused(&ann.run("SET lock:2 x NX PX 60000"), "lock:2");
        group.await_free("lock:2");
        is_refused(&ann.run("SETNX lock:3 x"), "lock:3");
        group.await_free("lock:3");
        is_refused(&ann.run("LOCK.ACQUIREALL 2 lock:4 lock:5 ann TTL 60000"), "lock:4");
        group.await_free("lock:4");
        group.await_free("lock:5");
        let Reply::Error(line) = ann.run("LOCK.ACQUIRE lock:held ann TTL 60000") else { panic!("a repeat is told") };
        assert!(line.contains("the hold of before stands"), "{line}");
        assert_eq!(ann.run(&format!("LOCK.RELEASE lock:held ann FENCE {held}")), Reply::Int(1), "{kind:?}");
        group.replicas[0].thaw();
        eventually("locks are granted again", || {
            matches!(ann.run("LOCK.ACQUIRE lock:1 ann"), Reply::Int(_)).then_some(())
        });
    }
}

#[test]
fn a_waiter_whose_grant_replicas_do_not_have_is_told_so_and_the_next_may_have_it() {
    let group = Group::of(ServerKind::Redis70, "1");
    let (mut ann, mut bob, mut cat) = (group.client(), group.client(), group.client());
    assert!(ann.run("LOCK.ACQUIRE lock:1 ann TTL 60000").int() > 0);
    bob.ask_line("LOCK.ACQUIRE lock:1 bob TTL 60000 WAIT 60000");
    eventually("bob waits", || (ann.run("LOCK.POSITION lock:1 bob") == Reply::Int(1)).then_some(()));
    cat.ask_line("LOCK.ACQUIRE lock:1 cat TTL 60000 WAIT 60000");
    eventually("cat waits", || (ann.run("LOCK.POSITION lock:1 cat") == Reply::Int(2)).then_some(()));
    group.freeze(2);
    assert_eq!(ann.run("LOCK.RELEASE lock:1 ann"), Reply::Int(1), "a release waits for nobody");
    is_refused(&bob.reply(), "lock:1");
    group.replicas[1].thaw();
    // By then his own second may be over, too.
    match cat.reply() {
        Reply::Int(fence) => assert!(fence > 0),
        other => is_refused(&other, "lock:1"),
    }
}

#[test]
fn a_majority_bears_one_replica_that_stops_or_goes_and_no_replica_makes_it_smaller() {
    let mut group = Group::of(ServerKind::Redis70, "\"majority\"");
    let mut ann = group.client();
    assert!(ann.run("LOCK.ACQUIRE lock:1 ann TTL 60000").int() > 0);
    group.freeze(1);
    assert!(ann.run("LOCK.ACQUIRE lock:2 ann TTL 60000").int() > 0);
    group.replicas[0].kill();
    assert!(ann.run("LOCK.ACQUIRE lock:3 ann TTL 60000").int() > 0);
    group.replicas[1].kill();
    eventually("the master knows that it is alone", || {
        let info = String::from_utf8_lossy(&group.master.side_wire().call(&["INFO", "replication"])).into_owned();
        info.contains("connected_slaves:0").then_some(())
    });
    is_refused(&ann.run("LOCK.ACQUIRE lock:4 ann TTL 60000"), "lock:4");
    group.await_free("lock:4");
    assert_eq!(ann.run("LOCK.RELEASE lock:3 ann"), Reply::Int(1));
}

#[test]
fn who_leaves_while_replicas_are_waited_for_leaves_no_lock_behind() {
    let group = Group::of(ServerKind::Redis70, "2");
    group.freeze(2);
    let mut ann = group.client();
    ann.ask_line("LOCK.ACQUIRE lock:1 ann TTL 600000");
    eventually("the master has it", || (group.master.side_wire().run("EXISTS lock:1") == Reply::Int(1)).then_some(()));
    drop(ann);
    group.await_free("lock:1");
}
