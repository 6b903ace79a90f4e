//! Input that no well-meaning client sends: a clear error or a clean close, bounded memory, and everyone else undisturbed.
//! What Redis answers to broken requests in its own words is compared in `recorder/talks/protocol.talk`; here is what is
//! too large, too much or too odd for a conversation.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, PATIENCE, RedisServer, Reply, ServerKind, Stage, Wire, command, tools};
use std::time::Duration;

/// What a client sees that sends `bytes` and then says that it is done.
fn outcome(addr: std::net::SocketAddr, bytes: &[u8]) -> Result<String, String> {
    let mut client = Wire::connect(addr);
    client.send_for(bytes, PATIENCE);
    client.finish();
    match client.until_closed(PATIENCE) {
        Ok(seen) => Ok(seen.escape_ascii().to_string()),
        Err(seen) => Err(seen.escape_ascii().to_string()),
    }
}

/// Redis and Lockgate answer `bytes` alike, and Lockgate closes too.
#[track_caller]
fn is_answered_as_redis_does(stage: &Stage, bytes: &[u8]) {
    let expected = outcome(stage.server.addr(), bytes).expect("Redis closes");
    assert_eq!(outcome(stage.lockgate.addr(), bytes).as_ref(), Ok(&expected));
}

/// Somebody else's connection, and what it must still be able to do.
struct Neighbour(Wire, i64);

impl Neighbour {
    fn of(lockgate: &Lockgate) -> Self {
        Self(lockgate.wire(), 0)
    }

    #[track_caller]
    fn is_undisturbed(&mut self) {
        for _ in 0..3 {
            self.1 += 1;
            let pipeline = [command(&["INCR", "neighbour"]), command(&["ECHO", &self.1.to_string()])].concat();
            self.0.send(&pipeline);
            let replies = [self.0.try_frame(common::PATIENCE), self.0.try_frame(common::PATIENCE)];
            let texts = replies.map(|reply| match reply {
                Ok(frame) => String::from_utf8_lossy(&frame).into_owned(),
                Err(silence) => silence.describe(),
            });
            let number = self.1.to_string();
            assert_eq!(texts, [format!(":{number}\r\n"), format!("${}\r\n{number}\r\n", number.len())]);
        }
    }
}

#[test]
fn a_hundred_thousand_nested_arrays_are_refused() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    is_answered_as_redis_does(&stage, b"*1\r\n*1\r\n");
    // All at once the server may close in the middle of what is sent, which can cost the error on its way.
    for nested in [b"*1\r\n".repeat(100_000), b"*2\r\n$1\r\nx\r\n".repeat(100_000)] {
        let seen = outcome(stage.lockgate.addr(), &nested).expect("it closes");
        assert!(seen.is_empty() || seen.contains("Protocol error"), "{seen}");
        neighbour.is_undisturbed();
    }
    stage.lockgate.assert_settles_below(60 << 20);
}

#[test]
fn an_inline_request_that_never_ends_is_refused_at_64_kilobytes() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    // One byte over and no more, so that nothing is unread when the server closes.
    is_answered_as_redis_does(&stage, &b"x".repeat(64 * 1024 + 1));
    is_answered_as_redis_does(&stage, format!("SET k {}\r\n", "v".repeat(30_000)).as_bytes());
    for endless in [b"x".repeat(10 << 20), b"*1\r\n$".iter().copied().chain(b"1".repeat(10 << 20)).collect()] {
        let seen = outcome(stage.lockgate.addr(), &endless).expect("it closes");
        assert!(seen.is_empty() || seen.contains("Protocol error"), "{seen}");
        neighbour.is_undisturbed();
    }
    is_answered_as_redis_does(&stage, &[&b"*"[..], &b"1".repeat(64 * 1024 + 1)].concat());
    is_answered_as_redis_does(&stage, &[&b"*1\r\n$"[..], &b"1".repeat(64 * 1024 + 1)].concat());
}

#[test]
fn a_tls_hello_on_the_port_ends_without_harm() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.extend((0..501u32).map(|i| (i * 37 % 256) as u8));
    let seen = outcome(stage.lockgate.addr(), &hello).expect("it closes when the client does");
    assert!(seen.is_empty() || seen.starts_with('-'), "{seen}");
    neighbour.is_undisturbed();
}

#[test]
fn an_http_request_runs_nothing() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost:7379\r\nUser-Agent: x\r\n\r\nSET hacked 1\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\nSET hacked 1\r\n",
        "Host: localhost\r\nSET hacked 1\r\n",
    ] {
        let mut client = stage.client();
        client.send(request.as_bytes());
        let seen = client.until_closed(PATIENCE).expect("it closes by itself");
        assert!(seen.is_empty() || seen.starts_with(b"-ERR "), "{}", seen.escape_ascii());
    }
    neighbour.is_undisturbed();
    assert_eq!(stage.bypass().run("EXISTS hacked"), Reply::Int(0));
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_request_holds_up_nobody() {
    let stage = Stage::new();
    let mut neighbours: Vec<Neighbour> = vec![Neighbour::of(&stage.lockgate)];
    let mut halves = Vec::new();
    for (number, size) in [50, 5_000, 20_000, 70_000, 1 << 20, 8 << 20].into_iter().enumerate() {
        let whole = command(&["SET", &format!("half:{number}"), &"v".repeat(size)]);
        for part in [10, 30, whole.len() / 2, whole.len() - 1] {
            let mut client = stage.client();
            // Some of them had been in good standing and just used a shared link.
            if part % 2 == 0 {
                client.run("PING");
            }
            client.send_for(&whole[..part], PATIENCE);
            halves.push(client);
        }
        neighbours[0].is_undisturbed();
    }
    // They go, their requests unfinished: nothing of them was carried out, and nothing is in the way.
    halves.clear();
    neighbours[0].is_undisturbed();
    for number in 0..6 {
        assert_eq!(stage.client().run(&format!("EXISTS half:{number}")), Reply::Int(0), "{number}");
    }
    stage.lockgate.assert_settles_below(80 << 20);
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_long_pipeline_holds_up_nobody() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    let mut client = stage.client();
    let mut bytes = command(&["SET", "k", "v"]).repeat(1000);
    bytes.extend(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf");
    client.send(&bytes);
    assert_eq!(client.frames(1000), b"+OK\r\n".repeat(1000));
    neighbour.is_undisturbed();
    client.send(&"v".repeat(96).into_bytes());
    neighbour.is_undisturbed();
    client.send(b"\r\n");
    assert_eq!(client.frame(), b"+OK\r\n");
}

#[test]
fn declared_sizes_cost_nothing_until_the_bytes_come() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    let mut clients = Vec::new();
    for declared in [
        "*2\r\n$4\r\nECHO\r\n$536870912\r\nabc",
        "*2147483647\r\n",
        "*2147483647\r\n$3\r\nDEL\r\n$1\r\nk\r\n",
        "*2\r\n$536870912\r\nabc",
    ] {
        for _ in 0..50 {
            let mut client = stage.client();
            client.send(declared.as_bytes());
            clients.push(client);
        }
        neighbour.is_undisturbed();
    }
    let resident = tools::resident_bytes(stage.lockgate.pid());
    assert!(resident < 80 << 20, "{resident} bytes resident");
}

#[test]
fn a_request_of_a_million_arguments_is_carried_out() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut request = b"*1000001\r\n$3\r\nDEL\r\n".to_vec();
    request.extend(b"$1\r\nk\r\n".repeat(1_000_000));
    client.run("SET k v");
    client.send(&request);
    assert_eq!(client.reply(), Reply::Int(1));
    client.assert_nothing_waits();
    drop(client);
    stage.lockgate.assert_settles_below(80 << 20);
}

#[test]
fn noise_of_every_kind_leaves_lockgate_standing() {
    let mut stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    let mut dice = 0x2545_F491_4F6C_DD1D_u64;
    const NEARLY: &[u8] = b"*$:+-%~0123456789\r\n\r\n\r\nab \"'";
    let mut roll = move || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice
    };
    for round in 0..300 {
        let len = 1 + (roll() % 3000) as usize;
        let bytes: Vec<u8> = match round % 3 {
            // Anything.
            0 => (0..len).map(|_| roll() as u8).collect(),
            // What looks like the protocol.
            1 => (0..len).map(|_| NEARLY[(roll() as usize) % NEARLY.len()]).collect(),
            // A right pipeline with a few bytes changed.
            _ => {
                let mut pipeline =
                    [command(&["SET", "k", "v"]), command(&["LOCK.INFO", "k"]), command(&["GET", "k"])].concat();
                pipeline = pipeline.repeat(5);
                for _ in 0..4 {
                    let at = (roll() as usize) % pipeline.len();
                    pipeline[at] = roll() as u8;
                }
                pipeline
            }
        };
        let mut client = stage.client();
        client.send_for(&bytes, Duration::from_secs(5));
        client.finish();
        assert!(client.until_closed(PATIENCE).is_ok(), "round {round}: {}", bytes.escape_ascii());
        if round % 20 == 0 {
            neighbour.is_undisturbed();
        }
    }
    neighbour.is_undisturbed();
    assert!(stage.lockgate.lives());
    stage.lockgate.assert_settles_below(60 << 20);
}

#[test]
fn a_wrong_end_of_a_bulk_string_disturbs_nobody_else() {
    // Redis does not look at the two bytes; Valkey calls it a protocol error and close. Neither may be felt by
    // others who share a link with the offender.
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let mut neighbours: Vec<Neighbour> = vec![Neighbour::of(&lockgate)];
        for request in ["*1\r\n$4\r\nPINGxx", "*2\r\n$3\r\nGET\r\n$1\r\nkxx", "*2\r\n$3\r\nGETxx$1\r\nk\r\n"] {
            let expected = outcome(server.addr(), request.as_bytes()).expect("the server closes");
            let seen = outcome(lockgate.addr(), request.as_bytes());
            neighbours[0].is_undisturbed();
            assert_eq!(seen.as_ref(), Ok(&expected), "{} to {}", kind.name(), request.escape_default());
        }
    }
}

#[test]
fn a_thousand_connections_that_say_nothing_are_cheap() {
    let stage = Stage::new();
    let mut neighbour = Neighbour::of(&stage.lockgate);
    let silent: Vec<Wire> = (0..1000).map(|_| stage.client()).collect();
    neighbour.is_undisturbed();
    // All of it, not the growth: an allocator takes memory in large steps. The benchmarks measure each connection's share.
    let resident = tools::resident_bytes(stage.lockgate.pid());
    assert!(resident < 64 << 20, "{resident} bytes resident with a thousand silent connections");
    drop(silent);
    neighbour.is_undisturbed();
}

#[test]
fn wrong_arguments_of_every_lock_command_are_errors() {
    let stage = Stage::new();
    let mut client = stage.client();
    for name in ["ACQUIRE", "PRIORITY", "RELEASE", "EXTEND", "REFRESH", "CANCEL", "POSITION", "INFO"] {
        for arguments in [&[][..], &["\x00", "\x1f", "\x7f", "-1", "TTL"], &["k", "o", "TTL", "\u{0661}"], &["k"; 40]] {
            let words: Vec<String> =
                std::iter::once(format!("LOCK.{name}")).chain(arguments.iter().map(|word| word.to_string())).collect();
            let reply = Reply::parse(&client.call(&words));
            assert!(reply.is_error("ERR "), "{words:?}: {reply:?}");
        }
    }
    client.assert_nothing_waits();
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(0));
}

#[test]
fn a_client_that_breaks_the_protocol_again_and_again_breaks_no_shared_link() {
    let server = RedisServer::start_with(ServerKind::Valkey91, &[]);
    let lockgate = Lockgate::before(&server);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let neighbours: Vec<_> = (0..4)
            .map(|number| {
                let mut client = lockgate.wire();
                let over = &over;
                scope.spawn(move || {
                    let mut round = 0;
                    while !over.load(std::sync::atomic::Ordering::SeqCst) {
                        round += 1;
                        let word = format!("{number}-{round}");
                        client.send(&command(&["ECHO", &word]).repeat(20));
                        for _ in 0..20 {
                            assert_eq!(client.reply(), Reply::bulk(&word));
                        }
                    }
                })
            })
            .collect();
        for _ in 0..60 {
            let _ = outcome(lockgate.addr(), b"*2\r\n$3\r\nGET\r\n$1\r\nkxx");
            let _ = outcome(lockgate.addr(), b"*1\rx$4\ryPING\r\n");
            let _ = outcome(lockgate.addr(), b"*2\r\n$7\r\nCOMMANDxx$5\r\nCOUNTxx");
            let _ = outcome(lockgate.addr(), b"*1\r\n$-1\r\n");
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        for neighbour in neighbours {
            neighbour.join().expect("a neighbour lost a reply");
        }
    });
}
