//! A master that Sentinels name, and who takes its place when it has gone.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::sentinels::{NAME, Passwords};
use common::{Lockgate, PATIENCE, Reply, ServerKind, Watched, Wire, eventually};
use std::process::Command;
use std::time::Instant;

const OK: fn() -> Reply = || Reply::Simple("OK".into());

/// The answer on a connection of its own; `None` where it was closed instead, as one is whose command may have run on the old master.
fn tried(lockgate: &Lockgate, line: &str) -> Option<Reply> {
    let mut wire = lockgate.wire();
    wire.ask_line(line);
    wire.try_frame(PATIENCE).ok().map(|frame| Reply::parse(&frame))
}

fn before(watched: &Watched) -> Lockgate {
    Lockgate::serve(&["--upstream", &watched.url()], None)
}

#[test]
fn the_master_is_found_and_the_next_one_after_a_crash() {
    for kind in ServerKind::ALL {
        let mut watched = Watched::start(kind);
        let lockgate = before(&watched);
        let mut ann = lockgate.wire();
        assert_eq!(ann.run("SET k v"), OK());
        assert_eq!(watched.servers[0].side_wire().run("GET k"), Reply::bulk("v"), "{kind:?}: it is the master");
        let first = ann.run("LOCK.ACQUIRE lock:1 ann TTL 60000").int();
        ann.run("WAIT 2 5000");
        watched.servers[0].kill();
        let next = watched.await_other_than(0);
        let promoted = Instant::now();
        let second = eventually("locks work again", || match tried(&lockgate, "LOCK.ACQUIRE lock:2 ann TTL 60000") {
            Some(Reply::Int(fence)) => Some(fence),
            _ => None,
        });
        let took = promoted.elapsed();
        println!("{kind:?}: a grant {took:?} after the promotion");
        assert!(second > first, "{kind:?}: fences grow over a failover: {first}, {second}");
        assert_eq!(watched.servers[next].side_wire().run("GET k"), Reply::bulk("v"));
        assert_eq!(lockgate.wire().run("LOCK.POSITION lock:1 ann"), Reply::Int(0), "{kind:?}: the lock was replicated");
    }
}

#[test]
fn who_waits_when_the_master_dies_waits_on_in_order() {
    let mut watched = Watched::start(ServerKind::Redis70);
    let lockgate = before(&watched);
    let mut holder = lockgate.wire();
    assert!(holder.run("LOCK.ACQUIRE lock:1 holder TTL 60000").int() > 0);
    holder.run("WAIT 2 5000");
    let mut waiters: Vec<Wire> = ["low", "normal", "high"]
        .iter()
        .map(|level| {
            let mut wire = lockgate.wire();
            wire.ask_line(&format!("LOCK.ACQUIRE lock:1 {level} PRIORITY {level} TTL 60000 WAIT 60000"));
            wire
        })
        .collect();
    let mut look = lockgate.wire();
    eventually("three wait", || (look.run("LOCK.POSITION lock:1 low") == Reply::Int(3)).then_some(()));
    watched.servers[0].kill();
    watched.await_other_than(0);
    let release = || {
        eventually("the lock is released", || {
            (tried(&lockgate, "LOCK.FORCE lock:1") == Some(Reply::Int(1))).then_some(())
        });
    };
    let mut fence = 0;
    for waiter in waiters.iter_mut().rev() {
        waiter.still_waits();
        release();
        let granted = waiter.reply().int();
        assert!(granted > fence);
        fence = granted;
    }
}

#[test]
fn a_planned_failover_goes_unnoticed() {
    let watched = Watched::start(ServerKind::Redis70);
    let lockgate = before(&watched);
    let mut client = lockgate.wire();
    assert_eq!(client.run("SET n 0"), OK());
    client.run("WAIT 2 5000");
    watched.fail_over();
    let mut count = 0;
    let next = eventually("another server is the master", || {
        // One after the other; an answer in between is the upstream's, and a client whose command was lost with the old master comes again.
        client.ask_line("INCR n");
        match client.try_frame(PATIENCE).map(|frame| Reply::parse(&frame)) {
            Ok(Reply::Int(_)) => count += 1,
            Ok(Reply::Error(line)) => assert!(line.starts_with("READONLY"), "{line}"),
            Ok(other) => panic!("{other:?}"),
            Err(_) => client = lockgate.wire(),
        }
        watched.master().filter(|at| *at != 0)
    });
    eventually("commands go there", || {
        tried(&lockgate, &format!("SET lock:{count} x NX PX 60000"));
        let mut there = watched.servers[next].side_wire();
        (there.run(&format!("EXISTS lock:{count}")) == Reply::Int(1)).then_some(())
    });
}

#[test]
fn a_master_that_was_frozen_and_comes_back_is_written_to_no_more() {
    let watched = Watched::start(ServerKind::Redis70);
    let lockgate = before(&watched);
    let mut ann = lockgate.wire();
    assert_eq!(ann.run("SET k before"), OK());
    ann.run("WAIT 2 5000");
    watched.servers[0].freeze();
    let next = watched.await_other_than(0);
    eventually("locks work again", || {
        matches!(tried(&lockgate, "LOCK.ACQUIRE lock:2 ann TTL 60000"), Some(Reply::Int(_))).then_some(())
    });
    watched.servers[0].thaw();
    let mut writes = 0;
    // As long as the old one takes itself for a master, and a while behind that.
    eventually("the old master follows the new one", || {
        assert_eq!(lockgate.wire().run(&format!("SET after:{writes} x")), OK());
        writes += 1;
        (!watched.is_promoted(0)).then_some(())
    });
    let mut there = watched.servers[next].side_wire();
    for write in 0..writes {
        assert_eq!(there.run(&format!("GET after:{write}")), Reply::bulk("x"), "{write} of {writes}");
    }
}

#[test]
fn sentinels_that_are_gone_or_unknown_to_the_url_do_not_matter() {
    let mut watched = Watched::start(ServerKind::Redis70);
    // The first place of the URL is empty, and the third Sentinel is in none.
    let places = format!("127.0.0.1:{},127.0.0.1:{}", common::server::free_port(), watched.sentinels[1].port());
    let lockgate = Lockgate::serve(&["--upstream", &watched.url_of(&places)], None);
    assert_eq!(lockgate.wire().run("SET k v"), OK());
    // Those that the URL names are gone; the one that they knew tells of the failover.
    watched.sentinels[1].wire().run(&format!("SENTINEL SET {NAME} quorum 1"));
    watched.fail_over();
    let next = eventually("another server is the master", || watched.master().filter(|at| *at != 0));
    watched.sentinels[1].kill();
    eventually("commands go there", || {
        tried(&lockgate, "SET there 1");
        (watched.servers[next].side_wire().run("EXISTS there") == Reply::Int(1)).then_some(())
    });
}

#[test]
fn passwords_of_servers_and_sentinels() {
    let passwords = Passwords { servers: Some("of-the-servers".into()), sentinels: Some("of-sentinels".into()) };
    let watched = Watched::start_with(ServerKind::Redis70, passwords);
    let lockgate = before(&watched);
    let mut ann = lockgate.wire();
    assert!(ann.run("GET k").is_error("NOAUTH"));
    assert_eq!(ann.run("AUTH of-the-servers"), OK());
    assert_eq!(ann.run("SET k v"), OK());
    assert!(ann.run("LOCK.ACQUIRE lock:1 ann").int() > 0);
    assert!(!lockgate.wrote().contains("of-the-servers") && !lockgate.wrote().contains("of-sentinels"));
}

#[test]
fn without_a_master_it_starts_says_so_and_begins_when_there_is_one() {
    let mut watched = Watched::start(ServerKind::Redis70);
    let url = watched.url();
    watched.sentinels.iter_mut().for_each(common::sentinels::Sentinel::kill);
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    let line = match lockgate.wire().run("LOCK.ACQUIRE lock:1 ann") {
        Reply::Error(line) => line,
        other => panic!("{other:?}"),
    };
    assert!(
        line.starts_with("UNAVAILABLE the upstream cannot be reached: no Sentinel names the master 'main'"),
        "{line}"
    );
    let ping = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_lockgate"))
            .args(["ping", "--listen", &lockgate.addr().to_string(), "--upstream", &url])
            .args(arguments)
            .output()
            .unwrap()
    };
    let pinged = ping(&["--timeout", "2s"]);
    assert_eq!(pinged.status.code(), Some(1), "{pinged:?}");
    let said = String::from_utf8_lossy(&pinged.stderr).into_owned();
    assert!(said.contains("no Sentinel names the master 'main'"), "{said}");
    watched.sentinels.iter_mut().for_each(common::sentinels::Sentinel::restart);
    eventually("it has found the master", || {
        matches!(tried(&lockgate, "LOCK.ACQUIRE lock:1 ann"), Some(Reply::Int(_))).then_some(())
    });
    let pinged = ping(&["--timeout", "5s"]);
    assert!(pinged.status.success(), "{pinged:?}");
}
