//! A server that answers nonsense: whatever it sends, the client who asked gets a clear error, the bytes themselves or a
//! close, nobody else notices, and Lockgate stands.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::meddler::Meddler;
use common::{Lockgate, PATIENCE, RedisServer, Reply, eventually};
use std::time::Duration;

/// Asks a question that is answered with `answer` instead; then everybody else must be served rightly.
#[track_caller]
fn nonsense_is_survived(answer: &[u8], close: bool) -> Vec<u8> {
    let server = RedisServer::start();
    let meddler = Meddler::before(server.addr(), answer.to_vec(), close);
    let mut lockgate =
        Lockgate::serve(&["--upstream", &meddler.url()], Some("workers = 1\n[links]\nreply_timeout = \"500ms\"\n"));
    let mut neighbour = lockgate.wire();
    assert_eq!(neighbour.run("ECHO before"), Reply::bulk("before"));

    // The last question of Lockgate's own is over: what is swallowed now was the client's.
    eventually("Lockgate has learned the commands", || {
        let stats = server.side_wire().call(&["INFO", "commandstats"]);
        String::from_utf8_lossy(&stats).contains("cmdstat_command:").then_some(())
    });
    assert_eq!(neighbour.run("ECHO again"), Reply::bulk("again"));

    let mut client = lockgate.wire();
    client.ask(&["ECHO", "please-meddle"]);
    // One frame, a close, or in the end the client's own patience.
    let seen = match client.try_frame(Duration::from_secs(3)) {
        Ok(frame) => frame,
        Err(common::wire::Silence::Closed(part) | common::wire::Silence::TooLong(part)) => part,
    };
    drop(client);

    for round in 0..20 {
        let word = format!("round-{round}");
        eventually("the neighbour is served its own replies", || {
            neighbour.ask(&["ECHO", &word]);
            match neighbour.try_frame(PATIENCE) {
                Ok(frame) => {
                    let reply = Reply::parse(&frame);
                    assert!(reply == Reply::bulk(&word) || reply.is_error("UNAVAILABLE"), "{reply:?} for {word}");
                    (reply == Reply::bulk(&word)).then_some(())
                }
                Err(_) => {
                    neighbour = lockgate.wire();
                    None
                }
            }
        });
    }
    assert!(lockgate.lives());
    lockgate.assert_settles_below(60 << 20);
    seen
}

#[test]
fn a_reply_of_a_hundred_thousand_nested_arrays() {
    nonsense_is_survived(&[b"*1\r\n".repeat(100_000), b":1\r\n".to_vec()].concat(), false);
}

#[test]
fn a_reply_of_no_known_kind() {
    nonsense_is_survived(b"?what\r\n", false);
}

#[test]
fn a_reply_with_a_length_that_is_none() {
    for length in ["$99999999999999999999\r\n", "$x\r\n", "*99999999999999999999\r\n", "$-7\r\n", "*\r\n"] {
        nonsense_is_survived(length.as_bytes(), false);
    }
}

#[test]
fn a_line_that_never_ends() {
    nonsense_is_survived(&[b"+".to_vec(), b"x".repeat(8 << 20)].concat(), false);
}

#[test]
fn more_replies_than_were_asked_for() {
    let seen = nonsense_is_survived(b"$5\r\nfirst\r\n$6\r\nsecond\r\n$5\r\nthird\r\n", false);
    assert!(seen == b"$5\r\nfirst\r\n" || seen.is_empty() || seen.starts_with(b"-"), "{}", seen.escape_ascii());
}

#[test]
fn a_push_that_nobody_asked_for() {
    nonsense_is_survived(b">2\r\n+message\r\n+x\r\n$4\r\nreal\r\n", false);
}

#[test]
fn half_a_reply_and_the_end() {
    nonsense_is_survived(b"$100\r\nonly this much", true);
    nonsense_is_survived(b"", true);
}

#[test]
fn half_a_reply_and_nothing_more() {
    nonsense_is_survived(b"$100\r\nonly this much", false);
}
