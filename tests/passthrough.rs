//! What passes through Lockgate in bulk: long pipelines, large values, many connections, links that break.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, PATIENCE, RedisServer, Reply, ServerKind, Stage, Wire, command, eventually, tools, within};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What nobody should ever have to wait for a small command while others do what they like. Generous, because the
/// machine that runs the tests is busy with the tests.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The same where the server itself copies hundreds of megabytes at a time, and everybody waits for that.
const PAUSE_OF_A_BUSY_SERVER_MAX: Duration = Duration::from_secs(12);

/// A neighbour that sends small commands for as long as `during` runs; fails when one of them was held up or lost.
#[track_caller]
fn with_an_undisturbed_neighbour<T>(lockgate: &Lockgate, pause_max: Duration, during: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let mut neighbour = lockgate.wire();
    let mut other = lockgate.wire();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            let mut count = 0;
            while !over.load(Ordering::SeqCst) || count == 0 {
                let begun = Instant::now();
                count += 1;
                assert_eq!(neighbour.run("INCR neighbour"), Reply::Int(count));
                assert_eq!(other.run("PING"), Reply::Simple("PONG".into()));
                longest = longest.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        // Told also when `during` panics, or the scope would wait for ever.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let told = Over(&over);
        let result = during();
        drop(told);
        let longest = watch.join().expect("the neighbour was served rightly");
        assert!(longest < pause_max, "a neighbour waited {longest:?}");
        result
    })
}

#[test]
fn a_pipeline_of_ten_thousand_commands_is_sent_whole_before_the_first_read() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut pipeline = Vec::new();
    for i in 0..5_000 {
        pipeline.extend(command(&["SET", &format!("k:{}", i % 50), &i.to_string()]));
        pipeline.extend(command(&["GET", &format!("k:{}", i % 50)]));
    }
    client.send(&pipeline);
    for i in 0..5_000 {
        assert_eq!(client.frame(), b"+OK\r\n");
        assert_eq!(client.reply(), Reply::bulk(i.to_string()));
    }
    client.assert_nothing_waits();
}

#[test]
fn a_pipeline_of_ten_thousand_commands_with_values_of_a_kilobyte() {
    let stage = Stage::new();
    let mut client = stage.client();
    let value = "v".repeat(1024);
    let mut pipeline = Vec::new();
    for i in 0..10_000 {
        pipeline.extend(command(&["SET", &format!("k:{}", i % 100), &format!("{i}-{value}")]));
    }
    client.send(&pipeline);
    assert_eq!(client.frames(10_000), b"+OK\r\n".repeat(10_000));
    // Ten megabytes of replies that nobody reads until the last request is sent.
    let mut pipeline = Vec::new();
    for i in 0..10_000 {
        pipeline.extend(command(&["GET", &format!("k:{}", i % 100)]));
    }
    client.send(&pipeline);
    for i in 0..10_000 {
        let expected = format!("{}-{value}", 9_900 + i % 100);
        assert_eq!(client.frame(), format!("${}\r\n{expected}\r\n", expected.len()).as_bytes(), "{i}");
    }
    client.assert_nothing_waits();
    drop(client);
    stage.lockgate.assert_settles_below(60 << 20);
}

#[test]
fn a_long_pipeline_may_mix_commands_with_and_without_state() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut pipeline = Vec::new();
    for i in 0..400 {
        let number = i.to_string();
        for words in [
            &["SET", "k", &number][..],
            &["SELECT", "1"],
            &["SET", "k", &format!("one-{i}")],
            &["MULTI"],
            &["GET", "k"],
            &["SELECT", "0"],
            &["GET", "k"],
            &["EXEC"],
            &["RPUSH", "l", &number],
            &["BLPOP", "l", "0"],
            &["WATCH", "k"],
            &["UNWATCH"],
            &["NOPE"],
            &["EVAL", "return ARGV[1]", "0", &number],
        ] {
            pipeline.extend(command(words));
        }
    }
    client.send(&pipeline);
    let (ok, queued) = (Reply::Simple("OK".into()), Reply::Simple("QUEUED".into()));
    for i in 0..400 {
        let number = Reply::bulk(i.to_string());
        for expected in [ok.clone(), ok.clone(), ok.clone(), ok.clone(), queued.clone(), queued.clone(), queued.clone()]
        {
            assert_eq!(client.reply(), expected, "{i}");
        }
        assert_eq!(client.reply().items(), [Reply::bulk(format!("one-{i}")), ok.clone(), number.clone()], "{i}");
        assert_eq!(client.reply(), Reply::Int(1), "{i}");
        assert_eq!(client.reply().items(), [Reply::bulk("l"), number.clone()], "{i}");
        assert_eq!([client.reply(), client.reply()], [ok.clone(), ok.clone()], "{i}");
        assert!(client.reply().is_error("ERR unknown command"), "{i}");
        assert_eq!(client.reply(), number, "{i}");
    }
    client.assert_nothing_waits();
}

#[test]
fn many_clients_at_once_each_get_their_own_replies() {
    let stage = Stage::new();
    std::thread::scope(|scope| {
        for number in 0..24 {
            let mut client = stage.client();
            scope.spawn(move || {
                for round in 0..40 {
                    let mut pipeline = Vec::new();
                    for i in 0..round % 17 + 1 {
                        pipeline.extend(command(&["SET", &format!("k:{number}"), &format!("{number}-{round}-{i}")]));
                        pipeline.extend(command(&["GET", &format!("k:{number}")]));
                        pipeline.extend(command(&["ECHO", &format!("{number}/{round}/{i}")]));
                    }
                    client.send(&pipeline);
                    for i in 0..round % 17 + 1 {
                        assert_eq!(client.frame(), b"+OK\r\n");
                        assert_eq!(client.reply(), Reply::bulk(format!("{number}-{round}-{i}")));
                        assert_eq!(client.reply(), Reply::bulk(format!("{number}/{round}/{i}")));
                    }
                }
            });
        }
    });
}

#[test]
fn clients_that_leave_with_replies_owed_leave_them_to_nobody_else() {
    let stage = Stage::new();
    let mut steady = stage.client();
    for round in 0..150 {
        let mut hasty = stage.client();
        let words = command(&["ECHO", &format!("for the hasty one {round}")]);
        hasty.send(&words.repeat(round % 20 + 1));
        drop(hasty);
        assert_eq!(steady.run(&format!("ECHO steady-{round}")), Reply::bulk(format!("steady-{round}")));
    }
}

#[test]
fn a_thousand_stateless_clients_share_a_few_links() {
    let stage = Stage::new();
    let mut clients: Vec<Wire> = (0..1000).map(|_| stage.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(&["SET", &format!("k:{number}"), "v"]);
    }
    for client in &mut clients {
        assert_eq!(client.frame(), b"+OK\r\n");
    }
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(1000));
    let links = connected_clients(&stage);
    assert!(links <= 16, "{links} connections to the server for a thousand clients");
}

#[test]
fn what_modern_clients_send_when_they_connect_costs_no_link_of_their_own() {
    let stage = Stage::new();
    let mut clients: Vec<Wire> = (0..60).map(|_| stage.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let hello = [
            command(&["HELLO", "3"]),
            command(&["CLIENT", "SETNAME", &format!("client-{number}")]),
            command(&["CLIENT", "SETINFO", "LIB-NAME", "a-library"]),
            command(&["CLIENT", "SETINFO", "LIB-VER", "1.2.3"]),
            command(&["SELECT", "2"]),
            command(&["CLIENT", "ID"]),
            command(&["GET", "k"]),
        ];
        client.send(&hello.concat());
        assert!(client.frame().starts_with(b"%"));
        for _ in 0..5 {
            client.frame();
        }
        assert_eq!(client.frame(), b"_\r\n");
    }
    let links = connected_clients(&stage);
    assert!(links <= 16, "{links} connections to the server for sixty clients");
}

#[test]
fn a_link_of_ones_own_is_given_back_when_the_state_is_gone() {
    let stage = Stage::new();
    let mut most = 0;
    for _ in 0..5 {
        let mut clients: Vec<Wire> = (0..30).map(|_| stage.client()).collect();
        for client in &mut clients {
            client.run("SUBSCRIBE ch");
        }
        most = most.max(connected_clients(&stage));
        for client in &mut clients {
            client.run("UNSUBSCRIBE ch");
            client.run("WATCH k");
            client.run("MULTI");
            assert_eq!(client.run("EXEC"), Reply::Array(vec![]));
            client.run("BLPOP l 0.001");
            assert_eq!(client.run("GET k"), Reply::Nil);
        }
        // Those who need none any more leave theirs to the next ones, although they stay connected.
        let mut others: Vec<Wire> = (0..30).map(|_| stage.client()).collect();
        for client in &mut others {
            client.run("SUBSCRIBE ch");
        }
        most = most.max(connected_clients(&stage));
    }
    // Links of clients that left while subscribed cannot be used again, and may take a moment to go.
    assert!(most <= 80, "{most} connections to the server, thirty were ever needed at a time");
}

/// How many connections the server has, but for the one that asks.
fn connected_clients(stage: &Stage) -> usize {
    let info = String::from_utf8_lossy(&stage.server.side_wire().call(&["INFO", "clients"])).into_owned();
    let count = info.lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap();
    count.parse::<usize>().unwrap() - 1
}

#[test]
fn a_value_of_512_megabytes_streams_through_a_few_kilobytes() {
    const LEN: u64 = 512 << 20;
    let stage = Stage::new();
    let mut client = stage.client();
    client.run("PING");
    with_an_undisturbed_neighbour(&stage.lockgate, PAUSE_OF_A_BUSY_SERVER_MAX, || {
        client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${LEN}\r\n").as_bytes());
        let piece: Vec<u8> = (0..1 << 20).map(|i| byte_at(i as u64)).collect();
        for _ in 0..LEN >> 20 {
            client.try_send(&piece).expect("the value is taken");
        }
        client.send(b"\r\n");
        assert_eq!(client.frame(), b"+OK\r\n");
        let peak = tools::peak_resident_bytes(stage.lockgate.pid());
        assert!(peak < 64 << 20, "{peak} bytes resident for the SET");
        assert_eq!(client.run("STRLEN big"), Reply::Int(LEN as i64));

        client.ask(&["GET", "big"]);
        let head = format!("${LEN}\r\n");
        assert_eq!(client.bytes(head.len()), head.as_bytes());
        client.swallow(LEN, |offset, bytes| {
            // Each piece is looked at in two places: enough to see a byte that was lost or doubled.
            assert_eq!(bytes[0], byte_at(offset), "at {offset}");
            let last = bytes.len() - 1;
            assert_eq!(bytes[last], byte_at(offset + last as u64), "at {}", offset + last as u64);
        });
        assert_eq!(client.bytes(2), b"\r\n");
        client.assert_nothing_waits();
        // The first large reply comes on a shared link, where up to `limits.output_buffer` of it waits for a client that is slower than
        // the server.
        let peak = tools::peak_resident_bytes(stage.lockgate.pid());
        assert!(peak < OUTPUT_BUFFER + (64 << 20), "{peak} bytes resident for the GET");
    });
}

/// `limits.output_buffer`, where nothing else is set.
const OUTPUT_BUFFER: u64 = 256 << 20;

/// What the large value holds at that place; 251 is a prime, so that pieces of a power of two are all different.
fn byte_at(offset: u64) -> u8 {
    ((offset % (1 << 20)) % 251) as u8
}

#[test]
fn values_of_every_size_around_a_buffers_end_come_back_whole() {
    let stage = Stage::new();
    let mut client = stage.client();
    let sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
        .into_iter()
        .flat_map(|kib: usize| (kib * 1024 - 40..kib * 1024 + 40).step_by(7).chain([kib * 1024]))
        .collect::<Vec<_>>();
    for size in sizes {
        let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        client.send(&[command(&[&b"SET"[..], b"k", &value]), command(&["GET", "k"]), command(&["ECHO", "x"])].concat());
        assert_eq!(client.frame(), b"+OK\r\n");
        assert_eq!(client.reply(), Reply::Bulk(value));
        assert_eq!(client.reply(), Reply::bulk("x"));
    }
}

#[test]
fn large_replies_of_many_members_come_back_whole() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut words = vec!["RPUSH".to_owned(), "l".to_owned()];
    words.extend((0..100_000).map(|i| format!("member-{i}")));
    assert_eq!(Reply::parse(&client.call(&words)), Reply::Int(100_000));
    client.send(&[command(&["LRANGE", "l", "0", "-1"]), command(&["PING"])].concat());
    let list = client.reply();
    assert_eq!(list.items().len(), 100_000);
    assert_eq!(list.items()[99_999], Reply::bulk("member-99999"));
    assert_eq!(client.frame(), b"+PONG\r\n");
    let nested = "local t = {} for i = 1, 1000 do t[i] = {i, {tostring(i), {}}, 'x'} end return t";
    let direct = stage.bypass().call(&["EVAL", nested, "0"]);
    assert_eq!(client.call(&["EVAL", nested, "0"]), direct);
    let deep = "local t = 'end' for i = 1, 500 do t = {t} end return t";
    let direct = stage.bypass().call(&["EVAL", deep, "0"]);
    assert_eq!(client.call(&["EVAL", deep, "0"]), direct);
}

#[test]
fn broken_links_are_made_anew_and_no_reply_goes_astray() {
    let stage = Stage::new();
    let mut clients: Vec<Wire> = (0..8).map(|_| stage.client()).collect();
    for round in 0..10 {
        // Not the side connection over the unix socket itself, but all that come over TCP.
        stage.server.side_wire().run("CLIENT KILL TYPE normal SKIPME yes");
        for (number, client) in clients.iter_mut().enumerate() {
            let words = format!("ECHO {number}-{round}");
            let own = Reply::bulk(format!("{number}-{round}"));
            eventually("the client is served again", || {
                client.ask_line(&words);
                match client.try_frame(PATIENCE) {
                    Ok(frame) => {
                        let reply = Reply::parse(&frame);
                        assert!(reply == own || reply.is_error("UNAVAILABLE"), "{reply:?}");
                        (reply == own).then_some(())
                    }
                    // A connection whose own replies were lost on the way may only be closed.
                    Err(_) => {
                        *client = stage.client();
                        None
                    }
                }
            });
        }
    }
}

#[test]
fn a_server_that_ends_and_comes_back_is_found_again() {
    let mut stage = Stage::with("when_away = 'error'\n");
    let mut client = stage.client();
    assert_eq!(client.run("SET k v"), Reply::Simple("OK".into()));
    stage.server.kill();
    let begun = Instant::now();
    let refused = eventually("a command is refused", || {
        client.ask_line("GET k");
        match client.try_frame(PATIENCE) {
            Ok(frame) => Some(Reply::parse(&frame)),
            Err(_) => {
                client = stage.client();
                None
            }
        }
    });
    assert!(refused.is_error("UNAVAILABLE"), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    stage.server.restart();
    let begun = Instant::now();
    eventually("the command is served", || {
        client.ask_line("GET k");
        match client.try_frame(PATIENCE) {
            Ok(frame) => (Reply::parse(&frame) == Reply::Nil).then_some(()),
            Err(_) => {
                client = stage.client();
                None
            }
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "tried at least every second, not after {:?}", begun.elapsed());
}

#[test]
fn a_subscriber_whose_link_breaks_is_closed() {
    let stage = Stage::new();
    let (mut subscriber, mut watcher) = (stage.client(), stage.client());
    subscriber.run("SUBSCRIBE ch");
    watcher.run("WATCH k");
    stage.server.side_wire().run("CLIENT KILL TYPE pubsub");
    // It cannot know what it missed; a closed connection makes its library subscribe anew.
    assert!(subscriber.until_closed(PATIENCE).is_ok());
    stage.server.side_wire().run("CLIENT KILL TYPE normal SKIPME yes");
    // What was watched is lost with the link: an EXEC that succeeded would be a lie.
    watcher.send(&[command(&["MULTI"]), command(&["SET", "k", "v"]), command(&["EXEC"])].concat());
    let outcome = watcher.until_closed(Duration::from_secs(2));
    assert_eq!(stage.bypass().run("EXISTS k"), Reply::Int(0), "{outcome:?}");
}

#[test]
fn a_server_that_hangs_does_not_hang_those_who_ask_for_locks() {
    let stage = Stage::with("[links]\nreply_timeout = \"500ms\"\nconnect_timeout = \"1s\"\n");
    let mut client = stage.client();
    client.run("SET k v");
    stage.server.freeze();
    let begun = Instant::now();
    // How long a plain command may take is the client's to say; for a call of its own Lockgate looks whether anybody is answered.
    client.ask_line("LOCK.ACQUIRE orders:1 ann");
    let outcome = client.try_frame(PATIENCE);
    stage.server.thaw();
    let frame = outcome.unwrap_or_else(|silence| panic!("a clear error, not: {}", silence.describe()));
    let reply = Reply::parse(&frame);
    assert!(reply.is_error("UNAVAILABLE"), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    eventually("it serves again", || {
        let mut client = stage.client();
        client.ask_line("GET k");
        client.try_frame(PATIENCE).ok().filter(|frame| frame == b"$1\r\nv\r\n").map(|_| ())
    });
}

#[test]
fn a_unix_socket_a_password_and_a_database_in_the_url() {
    let server = RedisServer::start();
    let url = format!("unix://{}", server.socket().display());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    assert_eq!(lockgate.wire().run("SET k v"), Reply::Simple("OK".into()));
    assert_eq!(server.wire().run("GET k"), Reply::bulk("v"));

    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "p@ss word"]);
    let url = format!("redis://:p%40ss%20word@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    let mut client = lockgate.wire();
    // The credentials of the URL are Lockgate's own; a client must still say who it is.
    assert!(client.run("GET k").is_error("NOAUTH"));
    assert!(client.run("AUTH wrong").is_error("WRONGPASS"));
    assert_eq!(client.call(&["AUTH", "p@ss word"]), b"+OK\r\n");
    assert_eq!(client.run("SET k v"), Reply::Simple("OK".into()));

    let lockgate = Lockgate::serve(&["--upstream", &url], Some("trust_clients = true\n"));
    assert_eq!(lockgate.wire().run("GET k"), Reply::bulk("v"), "trusted clients use Lockgate's credentials");
}

#[test]
fn a_password_that_changes_counts_from_then_on() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "old"]);
    let lockgate = Lockgate::before(&server);
    let (mut first, mut second) = (lockgate.wire(), lockgate.wire());
    assert_eq!(first.run("AUTH old"), Reply::Simple("OK".into()));
    assert_eq!(first.run("SET k v"), Reply::Simple("OK".into()));
    assert_eq!(first.run("CONFIG SET requirepass new"), Reply::Simple("OK".into()));
    // As with Redis, who is in stays in; who comes needs the new word.
    assert_eq!(first.run("GET k"), Reply::bulk("v"));
    assert!(second.run("AUTH old").is_error("WRONGPASS"));
    assert!(second.run("GET k").is_error("NOAUTH"));
    assert_eq!(second.run("AUTH new"), Reply::Simple("OK".into()));
    assert_eq!(second.run("GET k"), Reply::bulk("v"));
}

#[test]
fn a_client_that_reads_slowly_slows_itself_and_nobody_else() {
    let stage = Stage::new();
    let mut client = stage.client();
    let value = "v".repeat(1 << 20);
    client.call(&["SET", "big", &value]);
    with_an_undisturbed_neighbour(&stage.lockgate, PAUSE_OF_A_BUSY_SERVER_MAX, || {
        // Hundreds of megabytes of replies are asked for, and nobody reads.
        let requests = command(&["GET", "big"]).repeat(400);
        let sent = client.send_for(&requests, Duration::from_millis(300));
        let mut peak = 0;
        within(Duration::from_millis(1500), || {
            peak = peak.max(tools::resident_bytes(stage.lockgate.pid()));
            None::<()>
        });
        assert!(peak < 200 << 20, "{peak} bytes resident for one client that does not read");
        // When it reads at last, it gets everything, as it was.
        let rest = requests[sent..].to_vec();
        let mut writer = client.writer();
        let feeder = std::thread::spawn(move || writer.write_all(&rest).is_ok());
        for number in 0..400 {
            assert_eq!(client.bytes(10), b"$1048576\r\n", "{number}");
            client.swallow(1 << 20, |_, bytes| assert!(bytes.iter().all(|byte| *byte == b'v')));
            assert_eq!(client.bytes(2), b"\r\n");
        }
        assert!(feeder.join().unwrap());
        client.assert_nothing_waits();
    });
}

#[test]
fn a_subscriber_that_never_reads_costs_bounded_memory() {
    let stage = Stage::new();
    let (mut subscriber, mut publisher) = (stage.client(), stage.client());
    subscriber.run("SUBSCRIBE ch");
    let message = "m".repeat(64 << 10);
    with_an_undisturbed_neighbour(&stage.lockgate, PAUSE_MAX, || {
        for _ in 0..200 {
            publisher.send(&command(&["PUBLISH", "ch", &message]).repeat(10));
            publisher.frames(10);
        }
    });
    let resident = tools::resident_bytes(stage.lockgate.pid());
    assert!(resident < 200 << 20, "{resident} bytes resident");
    drop(subscriber);
    stage.lockgate.assert_settles_below(100 << 20);
}

/// An upstream that has said its last word closes, and a client that reads slowly gets all of it.
#[test]
fn what_was_said_before_the_upstream_closed_reaches_a_slow_reader() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--repl-diskless-sync", "no"]);
    let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(8 << 20).collect();
    assert_eq!(server.wire().call(&[&b"SET"[..], b"k", &value]), b"+OK\r\n");
    let lockgate = Lockgate::before(&server);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&lockgate.addr().into()).unwrap();
    let mut client = std::net::TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[command(&["REPLCONF", "rdb-only", "1"]), command(&["SYNC"])].concat()).unwrap();
    let (mut came, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        match client.read(&mut chunk).unwrap() {
            0 => break,
            n => came.extend_from_slice(&chunk[..n]),
        }
    }
    let head = came.iter().position(|byte| *byte == b'$').unwrap();
    let end = head + came[head..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let announced: usize = std::str::from_utf8(&came[head + 1..end - 2]).unwrap().parse().unwrap();
    assert!(announced > value.len());
    assert_eq!(came.len() - end, announced);
}
