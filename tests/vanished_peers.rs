//! A host that vanishes says nothing. Its connections are given up within `client_timeout` also while data is under way to it, which
//! keepalive probes do not notice; a client that lives and does not read is let alone.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::network::{HERE, THERE, on_the_other_machine, plug_in, pull_out, with_a_network};
use common::{Lockgate, PATIENCE, RedisServer, Reply, ServerKind, Wire, eventually};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const LOCK: &str = "orders:1";
/// What a busy machine may need to do anything at all.
const SLACK: Duration = Duration::from_secs(4);

#[test]
fn an_ephemeral_lock_of_a_host_that_vanishes_while_it_is_owed_data_is_freed_within_client_timeout() {
    with_a_network(
        "an_ephemeral_lock_of_a_host_that_vanishes_while_it_is_owed_data_is_freed_within_client_timeout",
        || {
            let server = RedisServer::start();
            let (told, tell) = mpsc::channel::<SocketAddr>();
            let (is_ready, ready) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            let other = on_the_other_machine(move || {
                let mut client = Wire::connect(tell.recv().unwrap());
                client.run(&format!("LOCK.ACQUIRE {LOCK} ann TTL 600000 EPHEMERAL"));
                client.run("SUBSCRIBE news");
                is_ready.send(()).unwrap();
                // It neither closes nor answers from here on.
                let _ = ended.recv();
            });
            plug_in();
            let gate = Lockgate::serve_at(
                &format!("{HERE}:0"),
                &["--upstream", &format!("unix://{}", server.socket().display())],
                Some("client_timeout = \"3s\"\n"),
            );
            told.send(gate.addr()).unwrap();
            ready.recv().unwrap();
            let mut side = server.side_wire();
            assert_eq!(side.run(&format!("EXISTS {LOCK}")), Reply::Int(1));
            pull_out();
            assert_eq!(side.run("PUBLISH news something"), Reply::Int(1), "it is owed this");
            let since = Instant::now();
            eventually("the lock is free", || (side.run(&format!("EXISTS {LOCK}")) == Reply::Int(0)).then_some(()));
            assert!(since.elapsed() < Duration::from_secs(3) + SLACK, "after {:?}", since.elapsed());
            assert!(gate.wrote().contains("a peer acknowledges nothing"), "and the log tells why");
            drop(end);
            other.join().unwrap();
        },
    );
}

#[test]
fn what_is_asked_of_an_upstream_whose_host_vanishes_ends_within_the_keepalive() {
    with_a_network("what_is_asked_of_an_upstream_whose_host_vanishes_ends_within_the_keepalive", || {
        let (is_ready, ready) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = on_the_other_machine(move || {
            let server = RedisServer::start_with(ServerKind::Redis70, &["--bind", THERE, "--protected-mode", "no"]);
            is_ready.send(server.port()).unwrap();
            let _ = ended.recv();
        });
        plug_in();
        let port = ready.recv().unwrap();
        let gate = Lockgate::serve(
            &["--upstream", &format!("redis://{THERE}:{port}")],
            Some("[links]\nkeepalive = \"2s\"\nconnect_timeout = \"1s\"\n"),
        );
        let (mut shared, mut own) = (gate.wire(), gate.wire());
        assert_eq!(shared.call(&["SET", "a", "b"]), b"+OK\r\n");
        assert_eq!(own.call(&["MULTI"]), b"+OK\r\n");
        pull_out();
        let since = Instant::now();
        shared.ask(&["GET", "a"]);
        own.ask(&["GET", "a"]);
        let answer = shared.until_closed(Duration::from_millis(1)).unwrap_or_else(|came| came);
        assert!(answer.is_empty(), "nothing is known yet: {}", String::from_utf8_lossy(&answer));
        let ended_well = |wire: &mut Wire| match wire.try_frame(PATIENCE) {
            Ok(reply) => reply.starts_with(b"-UNAVAILABLE"),
            Err(common::wire::Silence::Closed(_)) => true,
            Err(common::wire::Silence::TooLong(_)) => false,
        };
        assert!(ended_well(&mut shared) && ended_well(&mut own));
        assert!(since.elapsed() < Duration::from_secs(2) + SLACK, "after {:?}", since.elapsed());
        drop(end);
        other.join().unwrap();
    });
}

#[test]
fn a_client_that_lives_and_does_not_read_keeps_its_connection_and_its_lock() {
    let server = RedisServer::start();
    let gate = Lockgate::before_with(&server, "client_timeout = \"1s\"\n");
    let mut client = gate.wire();
    assert!(client.call(&["LOCK.ACQUIRE", LOCK, "ann", "TTL", "600000", "EPHEMERAL"]).starts_with(b":"));
    client.run("SUBSCRIBE news");
    let mut side = server.side_wire();
    let message = vec![b'm'; 1 << 20];
    let count = 16;
    for _ in 0..count {
        assert_eq!(side.call(&[b"PUBLISH", &b"news"[..], &message]), b":1\r\n");
    }
    // More than any socket buffer holds stands still for several times the timeout.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(side.run(&format!("EXISTS {LOCK}")), Reply::Int(1));
    for _ in 0..count {
        assert!(client.frame().len() > message.len());
    }
    assert_eq!(side.run(&format!("EXISTS {LOCK}")), Reply::Int(1));
}
