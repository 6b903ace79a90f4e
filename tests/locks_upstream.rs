//! Locks when something ends: the client, Lockgate, or the server behind it.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, PATIENCE, RedisServer, Reply, Stage, Wire, eventually, within};
use std::time::{Duration, Instant};

trait TryReply {
    fn try_reply(&mut self, line: &str) -> Option<Reply>;
}

impl TryReply for Wire {
    fn try_reply(&mut self, line: &str) -> Option<Reply> {
        self.ask_line(line);
        self.try_frame(PATIENCE).ok().map(|frame| Reply::parse(&frame))
    }
}

#[test]
fn at_the_end_waiters_are_told_and_lockgate_ends_well() {
    let mut stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let (mut bob, mut idle) = (stage.client(), stage.client());
    idle.run("PING");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    stage.lockgate.terminate();
    let reply = bob.reply();
    assert!(reply.is_error("UNAVAILABLE shutting down"), "{reply:?}");
    assert!(bob.until_closed(PATIENCE).is_ok());
    assert!(idle.until_closed(PATIENCE).is_ok_and(|rest| rest.is_empty()));
    let status = stage.lockgate.exit();
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert_eq!(stage.holder("orders:1").as_deref(), Some("ann"), "a lease outlives Lockgate");
    assert!(std::net::TcpStream::connect(stage.lockgate.addr()).is_err());
}

#[test]
fn the_end_comes_in_time_although_a_client_stays() {
    let mut stage = Stage::with("drain_timeout = \"500ms\"\n");
    let mut client = stage.client();
    client.ask(&["BLPOP", "nothing", "0"]);
    stage.server.await_blocked(1);
    let begun = Instant::now();
    stage.lockgate.terminate();
    let status = stage.lockgate.exit();
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn at_the_end_ephemeral_locks_are_released_and_keepalive_ones_keep_their_lease() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    client.run("LOCK.ACQUIRE orders:ephemeral ann TTL 60000 EPHEMERAL").int();
    client.run("LOCK.ACQUIRE orders:kept ann TTL 60000 KEEPALIVE").int();
    stage.lockgate.terminate();
    assert_eq!(stage.lockgate.exit().code(), Some(0));
    assert_eq!(stage.holder("orders:ephemeral"), None);
    assert_eq!(stage.holder("orders:kept").as_deref(), Some("ann"));
}

#[test]
fn after_a_crash_of_lockgate_locks_hold_until_their_lease_ends() {
    let mut stage = Stage::new();
    let mut ann = stage.client();
    let first = ann.run("LOCK.ACQUIRE orders:1 ann TTL 1500").int();
    stage.lockgate.kill();
    stage.lockgate = Lockgate::before(&stage.server);
    let mut bob = stage.client();
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob"), Reply::Nil);
    assert!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 60000").int() > first);
}

#[test]
fn the_holder_keeps_its_lock_over_a_crash_of_lockgate() {
    let mut stage = Stage::new();
    let first = stage.client().acquires("orders:1", "ann");
    stage.lockgate.kill();
    stage.lockgate = Lockgate::before(&stage.server);
    let mut ann = stage.client();
    assert_eq!(ann.acquires("orders:1", "ann"), first, "a repeat, also by way of another Lockgate");
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann FENCE {first}")), Reply::Int(1));
}

#[test]
fn while_the_upstream_is_away_calls_end_quickly_and_waiting_ones_go_on() {
    let mut stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    stage.server.kill();
    for line in ["LOCK.ACQUIRE orders:2 cat", "LOCK.RELEASE orders:1 ann", "LOCK.INFO orders:1"] {
        let begun = Instant::now();
        let reply = eventually("the call is refused", || {
            // A connection whose link broke in the middle may be closed; a new one is told what is wrong.
            stage.client().try_reply(line)
        });
        assert!(reply.is_error("UNAVAILABLE"), "{line}: {reply:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{line}: {:?}", begun.elapsed());
    }
    bob.still_waits();
    // The server comes back without its data: the lock is lost, and the waiter is next.
    stage.server.restart();
    bob.is_granted();
    assert_eq!(stage.holder("orders:1").as_deref(), Some("bob"));
}

#[test]
fn a_wait_ends_in_its_time_also_while_the_upstream_is_away() {
    let mut stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.ask_line("LOCK.ACQUIRE orders:1 bob WAIT 1500");
    stage.await_waiters("orders:1", 1);
    stage.server.kill();
    let begun = Instant::now();
    let reply = bob.reply();
    assert!(reply == Reply::Nil || reply.is_error("UNAVAILABLE"), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn lockgate_starts_without_its_upstream_and_serves_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let lockgate = Lockgate::before(&server);
    let reply = lockgate.wire().run("LOCK.ACQUIRE orders:1 ann");
    assert!(reply.is_error("UNAVAILABLE"), "{reply:?}");
    server.restart();
    let stage = Stage { lockgate, server };
    // Every thread of Lockgate finds it by itself.
    for number in 0..8 {
        eventually("the lock is granted", || {
            let reply = stage.client().try_reply(&format!("LOCK.ACQUIRE orders:{number} ann"))?;
            matches!(reply, Reply::Int(1..)).then_some(())
        });
    }
}

#[test]
fn a_broken_link_loses_no_waiter() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    // Every link of Lockgate is cut at once; this connection itself stays.
    stage.bypass().run("CLIENT KILL TYPE normal SKIPME yes");
    let mut cat = stage.client();
    let released = eventually("the release goes through", || {
        cat = stage.client();
        cat.try_reply("LOCK.RELEASE orders:1 ann").filter(|reply| !reply.is_error("UNAVAILABLE"))
    });
    assert!(matches!(released, Reply::Int(-1..=1)), "{released:?}");
    bob.is_granted();
}

#[test]
fn keepalive_renews_the_lease_for_as_long_as_the_connection_lives() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.bypass());
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 1500 KEEPALIVE").int();
    let mut renewals = 0;
    let mut last = i64::MAX;
    eventually("the lease is renewed three times", || {
        let pttl = bob.run("PTTL orders:1").int();
        assert!(pttl > 0, "the lock was lost: {pttl}");
        renewals += i32::from(pttl > last);
        last = pttl;
        (renewals >= 3).then_some(())
    });
    assert_eq!(ann.run("LOCK.INFO orders:1").field("fence"), Reply::Int(fence));
    drop(ann);
    // Nobody renews it any more, and nobody frees it before its time.
    eventually("the lease ends", || (bob.run("EXISTS orders:1") == Reply::Int(0)).then_some(()));
}

#[test]
fn an_idle_connection_keeps_its_renewed_lock_from_others() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 1000 KEEPALIVE").int();
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 2500"), Reply::Nil);
    ann.releases("orders:1", "ann");
    bob.acquires("orders:1", "bob");
}

#[test]
fn a_release_ends_the_renewal() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 1500 KEEPALIVE").int();
    ann.releases("orders:1", "ann");
    stage.client().run("LOCK.ACQUIRE orders:1 bob TTL 700").int();
    let mut look = stage.bypass();
    let mut last = i64::MAX;
    eventually("bob's lease runs out", || {
        let pttl = look.run("PTTL orders:1").int();
        assert!(pttl <= last, "somebody renewed it: {pttl} after {last}");
        last = pttl;
        (pttl == -2).then_some(())
    });
}

#[test]
fn ephemeral_frees_the_lock_as_soon_as_the_connection_closes() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000 EPHEMERAL").int();
    ann.run("LOCK.ACQUIRE orders:2 ann TTL 60000 EPHEMERAL").int();
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    let begun = Instant::now();
    drop(ann);
    bob.is_granted();
    eventually("the other lock is free too", || stage.holder("orders:2").is_none().then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn ephemeral_renews_as_well() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 1000 EPHEMERAL").int();
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 2500"), Reply::Nil);
    assert_eq!(ann.run("LOCK.POSITION orders:1 ann"), Reply::Int(0));
}

#[test]
fn the_end_of_an_ephemeral_connection_frees_no_lock_of_another() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000 EPHEMERAL").int();
    ann.releases("orders:1", "ann");
    bob.acquires("orders:1", "bob");
    // The same owner on a newer connection, too, holds on his own account.
    ann.run("LOCK.ACQUIRE orders:2 ann TTL 60000 EPHEMERAL").int();
    let mut newer = stage.client();
    newer.acquires("orders:2", "ann");
    drop(ann);
    let lost = within(Duration::from_millis(500), || {
        (stage.holder("orders:1").as_deref() != Some("bob") || stage.holder("orders:2").as_deref() != Some("ann"))
            .then_some(())
    });
    assert!(lost.is_none(), "a lock was freed that was another's");
}

#[test]
fn ephemeral_holds_for_a_waiter_that_was_granted_later() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.ask_line("LOCK.ACQUIRE orders:1 bob TTL 60000 WAIT 60000 EPHEMERAL");
    stage.await_waiters("orders:1", 1);
    ann.releases("orders:1", "ann");
    bob.is_granted();
    drop(bob);
    eventually("the lock is free", || stage.holder("orders:1").is_none().then_some(()));
}
