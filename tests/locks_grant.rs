//! Who gets a lock, what the key then says, and what the fence does.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, Stage, command, eventually};

#[test]
fn a_free_lock_is_granted_with_a_fence_and_a_held_one_is_not() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let fence = ann.acquires("orders:1", "ann");
    assert!(fence > 0 && fence < 1 << 53);
    assert_eq!(bob.call(&["LOCK.ACQUIRE", "orders:1", "bob"]), b"$-1\r\n");
    assert_eq!(bob.call(&["LOCK.ACQUIRE", "orders:1", "bob", "WAIT", "0"]), b"$-1\r\n");
    assert_eq!(stage.client3().call(&["LOCK.ACQUIRE", "orders:1", "bob"]), b"_\r\n");
    assert_eq!(stage.holder("orders:1").as_deref(), Some("ann"));
}

#[test]
fn the_fence_grows_with_every_change_of_holder() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut last = 0;
    for round in 0..20 {
        let owner = format!("worker-{round}");
        let fence = client.acquires("orders:1", &owner);
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        client.releases("orders:1", &owner);
    }
}

#[test]
fn the_fence_grows_past_flushall_script_flush_and_a_new_lockgate() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    let mut last = client.acquires("orders:1", "ann");
    for loss in ["FLUSHALL", "SCRIPT FLUSH", "FLUSHDB"] {
        client.run("LOCK.RELEASE orders:1 ann");
        assert_eq!(stage.bypass().run(loss), Reply::Simple("OK".into()));
        let fence = client.acquires("orders:1", "ann");
        assert!(fence > last, "{fence} after {last} and {loss}");
        last = fence;
    }
    client.releases("orders:1", "ann");
    stage.lockgate.kill();
    stage.lockgate = Lockgate::before(&stage.server);
    let fence = stage.client().acquires("orders:1", "ann");
    assert!(fence > last, "{fence} after {last} and a new Lockgate");
}

#[test]
fn lost_scripts_are_loaded_again_in_the_middle_of_a_pipeline() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.acquires("orders:1", "ann");
    stage.bypass().run("SCRIPT FLUSH");
    let pipeline = [
        command(&["SET", "k", "v"]),
        command(&["LOCK.ACQUIRE", "orders:2", "ann"]),
        command(&["GET", "k"]),
        command(&["LOCK.RELEASE", "orders:2", "ann"]),
        command(&["LOCK.EXTEND", "orders:1", "ann", "5000"]),
        command(&["LOCK.RELEASE", "orders:1", "ann"]),
    ];
    client.send(&pipeline.concat());
    assert_eq!(client.reply(), Reply::Simple("OK".into()));
    assert!(client.reply().int() > 0);
    assert_eq!(client.reply(), Reply::bulk("v"));
    for _ in 0..3 {
        assert_eq!(client.reply(), Reply::Int(1));
    }
}

#[test]
fn the_holder_that_asks_again_gets_the_same_fence_and_a_fresh_lease() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 5000").int();
    assert_eq!(ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000").int(), fence);
    assert!(ann.run("PTTL orders:1").int() > 50_000);
    // Also on another connection, and whatever it would be ready to wait.
    assert_eq!(stage.client().run("LOCK.ACQUIRE orders:1 ann TTL 30000 WAIT 1000").int(), fence);
    assert!(ann.run("PTTL orders:1").int() <= 30_000);
    ann.releases("orders:1", "ann");
    assert!(ann.acquires("orders:1", "ann") > fence, "the change was to nobody and back");
}

#[test]
fn an_owner_whose_name_begins_like_the_holders_is_another() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.acquires("orders:1", "ann");
    for other in ["an", "anna", "ANN"] {
        assert_eq!(client.run(&format!("LOCK.ACQUIRE orders:1 {other}")), Reply::Nil, "{other}");
        assert_eq!(client.run(&format!("LOCK.RELEASE orders:1 {other}")), Reply::Int(0), "{other}");
    }
}

#[test]
fn the_key_is_the_lock_and_its_value_says_who_holds_it() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let before_ms = unix_ms();
    let words = ["LOCK.ACQUIRE", "orders:1", "ann", "TTL", "20000", "PRIORITY", "high", "META", "a \x1f note"];
    let fence = Reply::parse(&ann.call(&words)).int();
    let value = stage.bypass().run("GET orders:1").text();
    let fields: Vec<&str> = value.splitn(6, '\x1f').collect();
    assert_eq!(fields.len(), 6, "{value:?}");
    assert_eq!(fields[0], "ann");
    assert_eq!(fields[1], fence.to_string());
    assert_eq!(fields[2], "2");
    let acquired_at: u128 = fields[3].parse().unwrap();
    assert!(acquired_at + 1000 >= before_ms && acquired_at <= unix_ms() + 1000, "{acquired_at}");
    assert!(fields[4].contains(':') && !fields[4].ends_with('?'), "{value:?}");
    assert_eq!(fields[5], "a \x1f note");
    let pttl = stage.bypass().run("PTTL orders:1").int();
    assert!(pttl > 10_000 && pttl <= 20_000, "{pttl}");
    assert_eq!(ann.run("GET orders:1").text(), value);
}

fn unix_ms() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

#[test]
fn without_a_ttl_the_lease_is_the_configured_one() {
    let stage = Stage::with("default_ttl = \"7s\"\n");
    stage.client().acquires("orders:1", "ann");
    let pttl = stage.bypass().run("PTTL orders:1").int();
    assert!(pttl > 5_000 && pttl <= 7_000, "{pttl}");
    let stage = Stage::new();
    stage.client().acquires("orders:1", "ann");
    let pttl = stage.bypass().run("PTTL orders:1").int();
    assert!(pttl > 25_000 && pttl <= 30_000, "{pttl}");
}

#[test]
fn a_ttl_below_a_second_is_kept_to_the_millisecond() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.run("LOCK.ACQUIRE orders:1 ann TTL 150").int();
    let pttl = stage.bypass().run("PTTL orders:1").int();
    assert!(pttl <= 150 && pttl != -1, "{pttl}");
    eventually("the lease ends", || (stage.bypass().run("EXISTS orders:1") == Reply::Int(0)).then_some(()));
    client.acquires("orders:1", "bob");
}

#[test]
fn a_ttl_of_one_millisecond_is_not_forever() {
    let stage = Stage::new();
    let mut client = stage.client();
    assert!(client.run("LOCK.ACQUIRE orders:1 ann TTL 1").int() > 0);
    eventually("the lease ends", || (stage.bypass().run("EXISTS orders:1") == Reply::Int(0)).then_some(()));
}

#[test]
fn a_ttl_above_the_maximum_is_cut() {
    let stage = Stage::with("default_ttl = \"5s\"\nmax_ttl = \"10s\"\n");
    let mut client = stage.client();
    for ttl in ["10001", "7200000", "9007199254740991"] {
        assert!(client.run(&format!("LOCK.ACQUIRE orders:{ttl} ann TTL {ttl}")).int() > 0);
        let pttl = stage.bypass().run(&format!("PTTL orders:{ttl}")).int();
        assert!(pttl > 5_000 && pttl <= 10_000, "{pttl}");
        assert_eq!(client.run(&format!("LOCK.EXTEND orders:{ttl} ann {ttl}")), Reply::Int(1));
        assert!(stage.bypass().run(&format!("PTTL orders:{ttl}")).int() <= 10_000);
    }
    let stage = Stage::new();
    stage.client().run("LOCK.ACQUIRE orders:1 ann TTL 9007199254740991").int();
    assert!(stage.bypass().run("PTTL orders:1").int() <= 7_200_000, "two hours unless told otherwise");
}

#[test]
fn a_lock_belongs_to_the_database_of_its_connection() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    bob.run("SELECT 3");
    ann.acquires("orders:1", "ann");
    bob.acquires("orders:1", "bob");
    assert_eq!(ann.run("LOCK.RELEASE orders:1 bob"), Reply::Int(0));
    let mut bypass = stage.bypass();
    assert!(bypass.run("GET orders:1").text().starts_with("ann\x1f"));
    bypass.run("SELECT 3");
    assert!(bypass.run("GET orders:1").text().starts_with("bob\x1f"));
    ann.run("SELECT 3");
    ann.releases("orders:1", "bob");
}

#[test]
fn a_lock_taken_by_set_nx_excludes_lock_acquire_and_the_other_way_round() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    assert_eq!(ann.run("SET lock:1 ann NX PX 30000"), Reply::Simple("OK".into()));
    assert_eq!(bob.run("LOCK.ACQUIRE lock:1 bob"), Reply::Nil);
    assert_eq!(bob.run("LOCK.ACQUIRE lock:1 ann"), Reply::Nil, "also where the value equals the owner");
    assert_eq!(bob.run("LOCK.RELEASE lock:1 bob"), Reply::Int(0));
    assert_eq!(ann.run("GET lock:1"), Reply::bulk("ann"));
    assert_eq!(ann.run("DEL lock:1"), Reply::Int(1));
    bob.acquires("lock:1", "bob");
    assert_eq!(ann.run("SET lock:1 ann NX PX 30000"), Reply::Nil);
    assert_eq!(ann.run("SETNX lock:1 ann"), Reply::Int(0));
    // And for a client that knows nothing of Lockgate.
    assert_eq!(stage.bypass().run("SET lock:1 ann NX PX 30000"), Reply::Nil);
    bob.releases("lock:1", "bob");
    assert_eq!(ann.run("SET lock:1 ann NX PX 30000"), Reply::Simple("OK".into()));
}

#[test]
fn del_frees_a_lock_for_the_next_try() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    for free in ["DEL orders:1", "UNLINK orders:1", "GETDEL orders:1", "RENAME orders:1 elsewhere", "FLUSHDB"] {
        let first = ann.acquires("orders:1", "ann");
        bob.run(free);
        let second = bob.acquires("orders:1", "bob");
        assert!(second > first, "{second} after {first} and {free}");
        assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
        bob.releases("orders:1", "bob");
    }
}

#[test]
fn a_key_that_is_no_string_is_refused_at_once_and_left_alone() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.run("RPUSH a-list x");
    client.run("HSET a-hash f v");
    for key in ["a-list", "a-hash"] {
        for line in [
            format!("LOCK.ACQUIRE {key} ann"),
            format!("LOCK.ACQUIRE {key} ann WAIT 60000"),
            format!("LOCK.PRIORITY {key} ann high WAIT 60000"),
            format!("LOCK.RELEASE {key} ann"),
            format!("LOCK.EXTEND {key} ann 1000"),
        ] {
            let reply = client.run(&line);
            assert!(reply.is_error("WRONGTYPE"), "{line}: {reply:?}");
        }
        assert_eq!(client.run(&format!("EXISTS {key}")), Reply::Int(1));
        assert_eq!(client.run(&format!("PTTL {key}")), Reply::Int(-1));
    }
}

#[test]
fn a_string_that_is_no_lock_is_refused_and_left_alone() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.run("SET config:colour blue");
    for line in [
        "LOCK.ACQUIRE config:colour ann",
        "LOCK.ACQUIRE config:colour ann WAIT 60000",
        "LOCK.ACQUIRE config:colour blue",
    ] {
        let reply = client.run(line);
        assert!(reply.is_error("ERR ") && reply.text().contains("is not a lock"), "{line}: {reply:?}");
    }
    assert_ne!(client.run("LOCK.RELEASE config:colour blue"), Reply::Int(1));
    assert_eq!(client.run("GET config:colour"), Reply::bulk("blue"));
    assert_eq!(client.run("PTTL config:colour"), Reply::Int(-1));
    // With an expiry, or under a name that the rules call a lock, it is somebody's.
    client.run("SET config:colour blue PX 60000");
    assert_eq!(client.run("LOCK.ACQUIRE config:colour ann"), Reply::Nil);
    client.run("SET lock:colour blue");
    assert_eq!(client.run("LOCK.ACQUIRE lock:colour ann"), Reply::Nil);
}

#[test]
fn keys_and_owners_may_be_any_bytes() {
    let stage = Stage::new();
    let mut client = stage.client();
    let keys: [&[u8]; 8] = [b"", b"{", b"}", b"{}", b"{a}b", b"a{b", b"\x00\xff\r\n \"'", b"\x1f\x1f"];
    let owners: [&[u8]; 4] = [b"\x00", b"\xff\xfe\r\n$5\r\n", b"with blank", b"{}?:"];
    for key in keys {
        let mut last = 0;
        for owner in owners {
            let fence = Reply::parse(&client.call(&[b"LOCK.ACQUIRE", key, owner])).int();
            assert!(fence > last);
            last = fence;
            let info = Reply::parse(&client.call(&[b"LOCK.INFO", key]));
            assert_eq!(info.field("owner"), Reply::bulk(owner));
            assert_eq!(info.field("key"), Reply::bulk(key));
            assert_eq!(client.call(&[b"LOCK.POSITION", key, owner]), b":0\r\n");
            assert_eq!(client.call(&[b"LOCK.ACQUIRE", key, b"another"]), b"$-1\r\n");
            assert_eq!(client.call(&[b"LOCK.EXTEND", key, owner, b"9000"]), b":1\r\n");
            assert_eq!(client.call(&[b"LOCK.RELEASE", key, owner]), b":1\r\n");
            assert_eq!(client.call(&[b"EXISTS", key]), b":0\r\n");
        }
    }
}

#[test]
fn lockgates_own_keys_cannot_be_locks() {
    let stage = Stage::new();
    let reply = stage.client().run("LOCK.ACQUIRE lockgate:something ann");
    assert!(reply.is_error("ERR "), "{reply:?}");
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(0));
}

#[test]
fn an_owner_with_the_separating_byte_is_refused() {
    let stage = Stage::new();
    let mut client = stage.client();
    for owner in ["\x1f", "ann\x1fbob", "\x1fann", "ann\x1f"] {
        for words in [
            &["LOCK.ACQUIRE", "orders:1", owner][..],
            &["LOCK.PRIORITY", "orders:1", owner, "high"],
            &["LOCK.RELEASE", "orders:1", owner],
            &["LOCK.EXTEND", "orders:1", owner, "1000"],
        ] {
            let reply = Reply::parse(&client.call(words));
            assert!(reply.is_error("ERR "), "{words:?}: {reply:?}");
        }
    }
    assert_eq!(client.run("EXISTS orders:1"), Reply::Int(0));
}

#[test]
fn large_owners_and_notes_are_kept_whole() {
    let stage = Stage::new();
    let mut client = stage.client();
    // The most that the defaults allow.
    let (owner, note) = ("o".repeat(1024), "n".repeat(4096));
    assert!(Reply::parse(&client.call(&["LOCK.ACQUIRE", "orders:1", &owner, "META", &note])).int() > 0);
    let info = client.run("LOCK.INFO orders:1");
    assert_eq!(info.field("owner"), Reply::bulk(&owner));
    assert_eq!(info.field("meta"), Reply::bulk(&note));
    assert_eq!(client.call(&["LOCK.RELEASE", "orders:1", &owner]), b":1\r\n");
}

#[test]
fn locks_leave_nothing_behind_but_one_counter() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.run("SET k v");
    client.run("GET k");
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(1), "no key of ours before the first lock");
    client.run("DEL k");
    for i in 0..50 {
        client.acquires(&format!("orders:{i}"), "ann");
    }
    assert!(stage.bypass().run("DBSIZE").int() <= 51, "one key a lock, and a counter");
    for i in 0..50 {
        client.releases(&format!("orders:{i}"), "ann");
    }
    let keys = stage.bypass().run("KEYS *");
    assert!(keys.items().len() <= 1, "{keys:?}");
    assert!(keys.items().iter().all(|key| key.text().starts_with("lockgate:")), "{keys:?}");
}

#[test]
fn eight_connections_that_try_at_once_make_one_holder() {
    let stage = Stage::new();
    for round in 0..30 {
        let key = format!("orders:{round}");
        let mut clients: Vec<_> = (0..8).map(|_| stage.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.ask(&["LOCK.ACQUIRE", &key, &format!("worker-{number}")]);
        }
        let granted = clients.iter_mut().map(common::Wire::reply).filter(|reply| *reply != Reply::Nil).count();
        assert_eq!(granted, 1);
    }
}

#[test]
fn the_upstreams_own_refusals_reach_the_client() {
    let stage = Stage::new();
    let (mut client, mut bypass) = (stage.client(), stage.bypass());
    assert_eq!(bypass.run("CONFIG SET maxmemory 1"), Reply::Simple("OK".into()));
    let reply = client.run("LOCK.ACQUIRE orders:1 ann");
    assert!(reply.is_error("OOM"), "{reply:?}");
    bypass.run("CONFIG SET maxmemory 0");
    bypass.run("REPLICAOF 127.0.0.1 1");
    let reply = client.run("LOCK.ACQUIRE orders:1 ann");
    assert!(reply.is_error("READONLY"), "{reply:?}");
    bypass.run("REPLICAOF NO ONE");
    client.acquires("orders:1", "ann");
}

#[test]
fn who_may_not_touch_the_key_may_not_lock_it() {
    let server = RedisServer::start_with(common::ServerKind::Redis70, &["--requirepass", "secret"]);
    let lockgate = Lockgate::before(&server);
    let mut client = lockgate.wire();
    for line in ["LOCK.ACQUIRE orders:1 ann", "LOCK.ACQUIRE orders:1 ann WAIT 60000", "LOCK.RELEASE orders:1 ann"] {
        let reply = client.run(line);
        assert!(reply.is_error("NOAUTH"), "{line}: {reply:?}");
    }
    assert_eq!(client.run("AUTH secret"), Reply::Simple("OK".into()));
    client.acquires("orders:1", "ann");
    client.run("ACL SETUSER bob on >pw ~bob:* ~lockgate:* +@all");
    let mut bob = lockgate.wire();
    bob.run("AUTH bob pw");
    bob.acquires("bob:1", "bob");
    for line in ["LOCK.ACQUIRE orders:2 bob", "LOCK.RELEASE orders:1 ann", "LOCK.EXTEND orders:1 ann 1000"] {
        let reply = bob.run(line);
        assert!(reply.is_error("NOPERM"), "{line}: {reply:?}");
    }
    assert_eq!(client.run("LOCK.POSITION orders:1 ann"), Reply::Int(0));
}
