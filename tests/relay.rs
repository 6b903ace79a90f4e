//! `links.shared = 0`: every client has a connection to the upstream of its own from its first command to its last, and all but locks
//! goes there as it came.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, command, eventually};

const RELAY: &str = "workers = 1\nlinks.shared = 0\n";

fn pipeline(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect()
}

/// What the upstream says of one of its connections.
fn upstream_says(server: &RedisServer, id: i64) -> String {
    let list = server.side_wire().run("CLIENT LIST").text();
    let found = list.lines().find(|line| line.starts_with(&format!("id={id} ")));
    found.unwrap_or_else(|| panic!("the upstream has no client {id}: {list}")).to_owned()
}

#[test]
fn a_client_is_the_upstreams_client_under_its_own_number() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, RELAY);
        let mut client = lockgate.wire();
        let id = client.run("CLIENT ID").int();
        assert!(upstream_says(&server, id).contains(" cmd=client|id "));
        assert_eq!(client.run("CLIENT SETNAME bob"), Reply::Simple("OK".into()));
        assert!(upstream_says(&server, id).contains(" name=bob "));
        assert_eq!(client.run("HELLO 3").field("id"), Reply::Int(id));
        client.run("SELECT 3");
        assert!(upstream_says(&server, id).contains(" db=3 "));
        assert!(client.run("CLIENT INFO").text().contains(&format!("id={id} ")));
        assert!(client.run("CLIENT LIST").text().contains(&format!("id={id} ")));
        client.run("RESET");
        assert_eq!(client.run("CLIENT GETNAME"), Reply::Nil);
        assert_eq!(client.run("CLIENT ID").int(), id);
        assert!(upstream_says(&server, id).contains(" db=0 "));
    }
}

#[test]
fn lockgate_says_nothing_on_a_clients_connection_and_closes_it_with_the_client() {
    let stage = Stage::with(RELAY);
    let mut client = stage.client();
    client.run("PING");
    let mut side = stage.server.side_wire();
    side.run("CONFIG RESETSTAT");
    let id = client.run("CLIENT ID").int();
    let mut seen = stage.server.side_wire();
    seen.run("MONITOR");
    for n in 0..3 {
        client.run(&format!("SET k {n}"));
    }
    // Lockgate's own watch may ask something meanwhile, over a connection of its own.
    let address =
        upstream_says(&stage.server, id).split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap().to_owned();
    side.run("PING");
    let mut lines = Vec::new();
    loop {
        let line = seen.reply().text();
        match line.contains("\"PING\"") && line.contains("unix:") {
            true => break,
            false => lines.push(line),
        }
    }
    let of_client: Vec<&String> = lines.iter().filter(|line| line.contains(&address)).collect();
    assert_eq!(of_client.len(), 3, "{lines:?}");
    drop(client);
    eventually("the upstream's connection ends", || {
        let list = side.run("CLIENT LIST").text();
        (!list.contains(&format!("id={id} "))).then_some(())
    });
}

#[test]
fn a_lock_command_acts_in_the_database_and_as_the_user_that_the_client_has_come_to_be() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, RELAY);
        server.side_wire().run("ACL SETUSER dev on >pw ~dev* ~lockgate:* &* +@all");
        let mut client = lockgate.wire();
        client.send(&pipeline(&[
            "SELECT 3",
            "LOCK.ACQUIRE a me",
            "AUTH dev pw",
            "LOCK.ACQUIRE a you",
            "LOCK.ACQUIRE dev me",
        ]));
        let replies: Vec<Reply> = (0..5).map(|_| client.reply()).collect();
        assert!(!matches!(replies[1], Reply::Error(_)), "{replies:?}");
        assert!(replies[3].is_error("NOPERM"), "{replies:?}");
        assert!(!matches!(replies[4], Reply::Error(_)), "{replies:?}");
        let mut side = server.side_wire();
        assert_eq!(side.run("EXISTS a dev"), Reply::Int(0));
        side.run("SELECT 3");
        assert_eq!(side.run("EXISTS a dev"), Reply::Int(2));
        // What was refused has changed nothing, and RESET makes it anew.
        client.run("SELECT 4711");
        assert_eq!(client.run("LOCK.INFO dev").field("owner"), Reply::bulk("me"));
        client.send(&pipeline(&[
            "MULTI",
            "SELECT 5",
            "EXEC",
            "LOCK.ACQUIRE dev5 me",
            "RESET",
            "LOCK.ACQUIRE anybody me",
        ]));
        client.frames(6);
        assert_eq!(side.run("EXISTS anybody"), Reply::Int(0));
        side.run("SELECT 5");
        assert_eq!(side.run("EXISTS dev5"), Reply::Int(1));
        side.run("SELECT 0");
        assert_eq!(side.run("EXISTS anybody"), Reply::Int(1));
    }
}

#[test]
fn a_set_nx_on_a_lock_key_queues_and_one_in_a_transaction_is_the_upstreams() {
    let stage = Stage::with(&format!("{RELAY}[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\n"));
    let (mut holder, mut waiter) = (stage.client(), stage.client());
    assert_eq!(holder.run("SET lock:a h NX PX 60000"), Reply::Simple("OK".into()));
    waiter.ask_line("SET lock:a w NX PX 60000");
    stage.await_waiters("lock:a", 1);
    assert_eq!(holder.run("DEL lock:a"), Reply::Int(1));
    assert_eq!(waiter.reply(), Reply::Simple("OK".into()));
    holder.send(&pipeline(&["MULTI", "SET lock:a h NX", "EXEC"]));
    holder.frames(2);
    assert_eq!(holder.reply(), Reply::Array(vec![Reply::Nil]));
}

#[test]
fn where_a_password_is_asked_for_nobody_without_it_takes_a_lock() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "pw"]);
    for url in [server.url(), server.url().replace("redis://", "redis://:pw@")] {
        let lockgate = Lockgate::serve(&["--upstream", &url], Some(RELAY));
        let mut client = lockgate.wire();
        for line in
            ["LOCK.ACQUIRE a me", "SET lock:a me NX", "PUBLISH lockgate:x y", "CLIENT REPLY OFF", "GET a", "SELECT 1"]
        {
            assert!(client.run(line).is_error("NOAUTH"), "{line}");
        }
        assert_eq!(client.run("AUTH pw"), Reply::Simple("OK".into()));
        assert!(client.run("PUBLISH lockgate:x y").is_error("NOPERM"));
        assert!(!matches!(client.run("LOCK.ACQUIRE a me"), Reply::Error(_)));
        client.run("LOCK.RELEASE a me");
    }
}

/// Each is sent in one piece, directly and through Lockgate, and answered alike.
const ALIKE: &[&[&str]] = &[
    &["SUBSCRIBE a b", "PING", "GET x", "CLIENT ID", "UNSUBSCRIBE", "GET x"],
    &["SUBSCRIBE a", "PSUBSCRIBE p*", "RESET", "GET x"],
    &["HELLO 3", "SUBSCRIBE a", "GET x", "RESET", "HGETALL h"],
    &["MULTI", "SET x 1", "SELECT 2", "CLIENT GETNAME", "COMMAND COUNT", "EXEC", "GET x", "SELECT 0", "GET x"],
    &["MULTI", "NONSENSE", "EXEC", "WATCH x", "MULTI", "RESET", "EXEC"],
    &["CLIENT REPLY SKIP", "GET x", "GET x", "CLIENT REPLY OFF", "SET y 1", "SELECT 1", "CLIENT REPLY ON", "GET y"],
    &["CLIENT REPLY OFF", "SUBSCRIBE a", "RESET", "GET x"],
    &["HELLO 4", "HELLO 3 SETNAME bob", "CLIENT GETNAME", "CLIENT TRACKING ON", "CLIENT GETREDIR"],
    &[
        "CLIENT TRACKING ON",
        "HELLO 3",
        "CLIENT TRACKING ON",
        "GET x",
        "SET x 1",
        "CLIENT TRACKINGINFO",
        "RESET",
        "GET x",
    ],
    &["COMMAND COUNT", "COMMAND INFO get", "CLIENT KILL ID 4711", "CLIENT NO-EVICT ON", "CLIENT LIST ID 4711"],
    &["AUTH", "SELECT", "SELECT x", "SELECT 99", "RESET 1", "QUIT 1"],
    &["GET x", "QUIT", "SELECT 2", "GET x"],
];

#[test]
fn what_is_said_through_it_is_what_is_said_directly() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, RELAY);
        for lines in ALIKE {
            let said = [server.addr(), lockgate.addr()].map(|addr| {
                server.side_wire().run("FLUSHALL");
                let mut wire = Wire::connect(addr);
                let id = wire.run("CLIENT ID").int();
                wire.send(&pipeline(lines));
                if lines.iter().any(|line| line.starts_with("QUIT")) {
                    return wire.until_closed(common::PATIENCE).unwrap();
                }
                wire.send(&pipeline(&["ECHO end"]));
                let mut all = Vec::new();
                while !all.ends_with(b"$3\r\nend\r\n") && !all.ends_with(b"this context\r\n") {
                    all.extend(wire.frame());
                }
                // The connection's own number.
                String::from_utf8(all).unwrap().replace(&format!(":{id}\r"), ":ID\r").into_bytes()
            });
            assert_eq!(said[0].escape_ascii().to_string(), said[1].escape_ascii().to_string(), "{kind:?} {lines:?}");
        }
    }
}

#[test]
fn a_refused_hello_is_answered_whatever_comes_behind_it() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, RELAY);
        let mut client = lockgate.wire();
        client.send(&pipeline(&[
            "SET x 1",
            "HELLO 2 AUTH nobody pw",
            "GET x",
            "AUTH nobody pw",
            "GET x",
            "LOCK.ACQUIRE a me",
        ]));
        let replies: Vec<Reply> = (0..6).map(|_| client.reply()).collect();
        assert!(replies[1].is_error("WRONGPASS") && replies[3].is_error("WRONGPASS"), "{kind:?} {replies:?}");
        assert_eq!([&replies[2], &replies[4]], [&Reply::bulk("1"); 2]);
        assert!(!matches!(replies[5], Reply::Error(_)), "{kind:?} {replies:?}");
    }
}

#[test]
fn monitor_shows_the_clients_own_connection_and_ends_with_reset() {
    let stage = Stage::with(RELAY);
    let (mut monitor, mut client) = (stage.client(), stage.client());
    assert_eq!(monitor.run("MONITOR"), Reply::Simple("OK".into()));
    let id = client.run("CLIENT ID").int();
    let address =
        upstream_says(&stage.server, id).split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap().to_owned();
    client.run("SET shown 1");
    let line =
        eventually("the command is shown", || Some(monitor.reply().text()).filter(|line| line.contains("shown")));
    assert!(line.contains(&format!("[0 {address}]")), "{line}");
    monitor.ask_line("RESET");
    eventually("RESET is answered", || (monitor.reply() == Reply::Simple("RESET".into())).then_some(()));
    assert_eq!(monitor.run("GET shown"), Reply::bulk("1"));
}

#[test]
fn a_client_that_the_upstream_ends_is_ended_and_one_that_comes_while_it_is_away_is_held() {
    let mut stage = Stage::with(RELAY);
    let (mut killer, mut killed) = (stage.client(), stage.client());
    let id = killed.run("CLIENT ID").int();
    assert_eq!(killer.run(&format!("CLIENT KILL ID {id}")), Reply::Int(1));
    killed.until_closed(common::PATIENCE).unwrap();
    stage.server.kill();
    killer.until_closed(common::PATIENCE).unwrap();
    let mut held = stage.client();
    held.ask_line("PING");
    stage.server.restart();
    assert_eq!(held.reply(), Reply::Simple("PONG".into()));
    stage.server.kill();
    held.until_closed(common::PATIENCE).unwrap();
    let mut given_up = stage.client();
    given_up.ask_line("PING");
    let said = given_up.until_closed(common::PATIENCE).unwrap();
    assert_eq!(said, b"", "the connection ends as with a Redis that is away");
}
