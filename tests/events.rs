//! What happens to locks, told to whoever subscribes to `lockgate:events`, on whichever node.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Circle, Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A subscriber, and the events that it gets.
struct Listener(Wire);

impl Listener {
    fn to(lockgate: &Lockgate, subscription: &str) -> Self {
        let mut wire = lockgate.wire3();
        wire.ask_line(subscription);
        let acknowledged = wire.frame();
        assert!(acknowledged.starts_with(b">3"), "{}", acknowledged.escape_ascii());
        Listener(wire)
    }

    /// The channel and the event that comes next.
    #[track_caller]
    fn next_on(&mut self) -> (String, Value) {
        let Reply::Push(parts) = self.0.reply() else { panic!("no push") };
        let text = |part: &Reply| match part {
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?}"),
        };
        let [.., channel, payload] = parts.as_slice() else { panic!("{parts:?}") };
        (text(channel), serde_json::from_str(&text(payload)).unwrap())
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        self.next_on().1
    }

    /// The next event is of this name, and has these fields.
    #[track_caller]
    fn tells(&mut self, event: &str, fields: Value) -> Value {
        let told = self.next();
        assert_eq!(told["event"], event, "{told}");
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(told[name], *value, "{name} in {told}");
        }
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(now_ms.abs_diff(told["at_ms"].as_u64().unwrap()) < 20_000, "{told}");
        assert!(told["node"].as_str().is_some_and(|node| !node.is_empty()), "{told}");
        told
    }
}

#[test]
fn the_life_of_a_lock_is_told() {
    for kind in ServerKind::ALL {
        let stage = Stage::on(kind);
        let mut listener = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events");
        let mut ann = stage.client();
        let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000").int();
        let lock = json!({"db": 0, "key": "orders:1", "owner": "ann", "fence": fence});
        listener.tells("acquired", lock.clone());
        let mut bob = stage.client();
        bob.ask_line("LOCK.ACQUIRE orders:1 bob WAIT 60000 PRIORITY high TTL 60000");
        listener.tells("queued", json!({"key": "orders:1", "owner": "bob", "priority": "high", "fence": null}));
        assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(1));
        let mut both = [listener.next(), listener.next()];
        both.sort_by_key(|told| told["event"].as_str().unwrap().to_owned());
        let second = bob.reply().int();
        assert_eq!((&both[0]["event"], &both[0]["fence"]), (&json!("acquired"), &json!(second)), "{both:?}");
        assert_eq!((&both[1]["event"], &both[1]["owner"]), (&json!("released"), &json!("ann")), "{both:?}");
        let third = bob.run("LOCK.TRANSFER orders:1 bob cat").int();
        listener.tells("transferred", json!({"owner": "bob", "to": "cat", "fence": third}));
        assert_eq!(bob.run("LOCK.FORCE orders:1"), Reply::Int(1));
        listener.tells("forced", json!({"owner": "cat", "fence": third}));
        assert!(ann.run("LOCK.ACQUIRE orders:2 ann TTL 60000").int() > 0);
        listener.tells("acquired", json!({"key": "orders:2"}));
        assert_eq!(bob.run("LOCK.ACQUIRE orders:2 bob WAIT 50"), Reply::Nil);
        listener.tells("queued", json!({"owner": "bob"}));
        listener.tells("timeout", json!({"key": "orders:2", "owner": "bob"}));
        bob.ask_line("LOCK.ACQUIRE orders:2 bob WAIT 60000");
        listener.tells("queued", json!({"owner": "bob"}));
        assert_eq!(ann.run("LOCK.CANCEL orders:2 bob"), Reply::Int(1));
        listener.tells("cancelled", json!({"key": "orders:2", "owner": "bob"}));
        assert_eq!(bob.reply(), Reply::Nil);
    }
}

#[test]
fn a_lease_that_ends_is_told_though_nobody_waits() {
    let stage = Stage::new();
    let mut listener = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events");
    let mut ann = stage.client();
    let began = Instant::now();
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 300").int();
    listener.tells("acquired", json!({"ttl_ms": 300}));
    listener.tells("expired", json!({"key": "orders:1", "owner": "ann", "fence": fence}));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    // One that is extended ends later, one that is released does not.
    let second = ann.run("LOCK.ACQUIRE orders:2 ann TTL 300").int();
    listener.tells("acquired", json!({"fence": second}));
    assert_eq!(ann.run("LOCK.EXTEND orders:2 ann 900"), Reply::Int(1));
    let third = ann.run("LOCK.ACQUIRE orders:3 ann TTL 300").int();
    listener.tells("acquired", json!({"fence": third}));
    assert_eq!(ann.run("LOCK.RELEASE orders:3 ann"), Reply::Int(1));
    listener.tells("released", json!({"key": "orders:3"}));
    listener.tells("expired", json!({"key": "orders:2", "fence": second}));
    assert!(began.elapsed() >= took + Duration::from_millis(890));
    // And a lock by SET NX.
    assert_eq!(ann.run("SET lock:1 v NX PX 200"), Reply::Simple("OK".into()));
    listener.tells("acquired", json!({"key": "lock:1", "owner": "v", "fence": null}));
    listener.tells("expired", json!({"key": "lock:1", "owner": "v", "fence": null}));
}

#[test]
fn a_deadlock_and_a_lost_lock_are_told() {
    let stage = Stage::new();
    let mut listener = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events");
    let (mut ann, mut bob) = (stage.client(), stage.client());
    assert!(ann.run("LOCK.ACQUIRE a ann TTL 60000 KEEPALIVE").int() > 0);
    assert!(bob.run("LOCK.ACQUIRE b bob TTL 60000").int() > 0);
    ann.ask_line("LOCK.ACQUIRE b ann WAIT 60000");
    bob.ask_line("LOCK.ACQUIRE a bob WAIT 60000");
    let told = std::iter::from_fn(|| Some(listener.next())).find(|told| told["event"] == "deadlock").unwrap();
    assert!(told["cycle"].as_str().unwrap().contains("->") && told["policy"] == "lowest_priority", "{told}");
    let mut short = stage.client();
    assert!(short.run("LOCK.ACQUIRE c cat TTL 400 KEEPALIVE").int() > 0);
    stage.bypass().run("DEL c");
    let told = std::iter::from_fn(|| Some(listener.next())).find(|told| told["event"] == "lost").unwrap();
    assert_eq!((&told["key"], &told["reason"]), (&json!("c"), &json!("freed")), "{told}");
}

#[test]
fn each_lock_has_a_channel_of_its_own() {
    let stage = Stage::new();
    let mut all = Listener::to(&stage.lockgate, "PSUBSCRIBE lockgate:events:*");
    let mut one = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events:3:mine");
    let mut ann = stage.client();
    ann.run("SELECT 3");
    ann.run("LOCK.ACQUIRE other ann");
    ann.run("LOCK.ACQUIRE mine ann");
    let (channel, told) = all.next_on();
    assert_eq!((channel.as_str(), &told["key"]), ("lockgate:events:3:other", &json!("other")));
    let (channel, told) = one.next_on();
    assert_eq!((channel.as_str(), &told["key"], &told["db"]), ("lockgate:events:3:mine", &json!("mine"), &json!(3)));
}

#[test]
fn where_nobody_listens_the_upstream_hears_nothing() {
    let stage = Stage::new();
    let published = || {
        let Reply::Bulk(info) = stage.bypass().run("INFO commandstats") else { panic!("no INFO") };
        let text = String::from_utf8_lossy(&info).into_owned();
        text.lines()
            .find_map(|line| line.strip_prefix("cmdstat_publish:calls=")?.split(',').next()?.parse().ok())
            .unwrap_or(0u64)
    };
    let mut ann = stage.client();
    // The node has said that it is there by then.
    eventually("it has begun", || (ann.run("LOCK.ACQUIRE first ann").int() > 0 && published() > 0).then_some(()));
    let mut listener = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events");
    ann.run("LOCK.ACQUIRE k ann");
    listener.tells("acquired", json!({"key": "k"}));
    drop(listener);
    // Whoever listens around Lockgate hears what is published, and is no listener of Lockgate's.
    let mut around = stage.bypass();
    around.ask_line("SUBSCRIBE lockgate:events");
    around.frame();
    let mut number = 0;
    eventually("nobody listens any more", || {
        number += 1;
        ann.run(&format!("LOCK.ACQUIRE quiet:{number} ann"));
        let _listener = Listener::to(&stage.lockgate, "SUBSCRIBE lockgate:events");
        ann.run(&format!("LOCK.ACQUIRE loud:{number} ann"));
        // Published in order: what was to be heard of the quiet one has come before the loud one.
        let mut heard = String::new();
        while !heard.contains(&format!("loud:{number}")) {
            heard += &String::from_utf8_lossy(&around.frame());
        }
        (!heard.contains(&format!("quiet:{number}"))).then_some(())
    });
}

#[test]
fn events_reach_who_listens_at_another_node() {
    let circle = Circle::with(ServerKind::Redis70, 2, "");
    let mut listener = Listener::to(&circle.nodes[0], "SUBSCRIBE lockgate:events");
    let mut there = circle.nodes[1].wire();
    // What happens before the other node has heard of the listener is not told.
    let told = eventually("the other node tells", || {
        there.run("LOCK.ACQUIRE far ann TTL 60000");
        listener.0.try_frame(Duration::from_millis(100)).ok()
    });
    let text = String::from_utf8_lossy(&told).into_owned();
    assert!(text.contains("\"key\":\"far\""), "{text}");
    let third = Lockgate::serve(&["--upstream", &circle.server.url()], Some("[nodes]\nid = 'third'\n"));
    let comes = std::iter::from_fn(|| Some(listener.next())).find(|told| told["event"] == "node_up").unwrap();
    assert_eq!(comes["peer"], "third", "{comes}");
    drop(third);
    let goes = std::iter::from_fn(|| Some(listener.next())).find(|told| told["event"] == "node_down").unwrap();
    assert_eq!(goes["peer"], "third", "{goes}");
}

#[test]
fn no_client_can_tell_an_event() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before(&server);
    assert!(lockgate.wire().run("PUBLISH lockgate:events {}").is_error("NOPERM"));
}
