//! The lock commands beside acquire and release: each promise of theirs, through the binary.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, ServerKind, Stage, Wire, command, eventually};
use lockgate::commands::LOCK_COMMANDS;

const FENCED: &str = "FENCED ";

fn guarded(fence: i64, line: &str) -> Vec<String> {
    let mut words = vec!["LOCK.GUARD".to_owned(), "orders:1".into(), fence.to_string()];
    words.extend(line.split(' ').map(str::to_owned));
    words
}

// ---- LOCK.GUARD

#[test]
fn a_guarded_command_runs_while_its_fence_holds_and_not_a_moment_longer() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let fence = ann.acquires("orders:1", "ann");
    assert_eq!(Reply::parse(&ann.call(&guarded(fence, "SET balance 10"))), Reply::Simple("OK".into()));
    assert_eq!(Reply::parse(&bob.call(&guarded(fence, "INCRBY balance 5"))), Reply::Int(15));
    assert!(Reply::parse(&ann.call(&guarded(fence + 1, "SET balance 0"))).is_error(FENCED));
    ann.releases("orders:1", "ann");
    let told = Reply::parse(&ann.call(&guarded(fence, "SET balance 0")));
    assert_eq!(told, Reply::Error(format!("FENCED nobody holds 'orders:1'; the lock of fence {fence} is over")));
    bob.acquires("orders:1", "bob");
    assert!(Reply::parse(&ann.call(&guarded(fence, "SET balance 0"))).is_error(FENCED));
    assert_eq!(bob.run("GET balance"), Reply::bulk("15"));
}

#[test]
fn a_guarded_reply_is_the_commands_own_byte_for_byte() {
    for kind in ServerKind::ALL {
        let stage = Stage::on(kind);
        let mut bypass = stage.bypass();
        bypass.run("HSET h a 1 b 2");
        bypass.run("ZADD z 1.5 a 2 b");
        bypass.run("RPUSH l a b c");
        bypass.run("SET text some");
        bypass.run(&format!("SET big {}", "x".repeat(3_000_000)));
        let fence = stage.client().acquires("orders:1", "ann");
        for resp in ["2", "3"] {
            let (mut through, mut direct) = (stage.client(), stage.bypass());
            for wire in [&mut through, &mut direct] {
                wire.call(&["HELLO", resp]);
            }
            for line in [
                "GET text",
                "GET nothing",
                "GET big",
                "HGETALL h",
                "ZRANGE z 0 -1 WITHSCORES",
                "LRANGE l 0 -1",
                "LPOP none",
                "LPOP none 2",
                "EXISTS text",
                "DEL none",
                "TYPE h",
                "SISMEMBER none a",
                "ZSCORE z a",
                "EVAL return{1,{2,'x'},false} 0",
                "EVAL return{err='MINE_no'} 0",
                "EVAL return(9007199254740993) 0",
                "SCAN 0 MATCH none",
                // Errors too, those of a command that is wrong among them.
                "HGET text f",
                "INCR text",
                "GET",
                "SET text",
                "NOSUCH a b",
                "OBJECT NOSUCH text",
                "CONFIG GET maxmemory",
            ] {
                let own = direct.call(&line.split(' ').collect::<Vec<_>>());
                let guarded = through.call(&guarded(fence, line));
                assert!(own == guarded, "{line}: {} for {}", show(&guarded), show(&own));
            }
            through.assert_nothing_waits();
        }
    }
}

fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

#[test]
fn what_blocks_subscribes_or_is_about_the_connection_is_not_guarded() {
    let stage = Stage::new();
    let mut client = stage.client();
    let fence = client.acquires("orders:1", "ann");
    for line in [
        "BLPOP l 0",
        "BRPOPLPUSH a b 0",
        "XREAD BLOCK 0 STREAMS s $",
        "WAIT 0 0",
        "SUBSCRIBE ch",
        "PSUBSCRIBE ch*",
        "MONITOR",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "SELECT 1",
        "AUTH x",
        "HELLO 3",
        "CLIENT SETNAME x",
        "RESET",
        "QUIT",
        "LOCK.INFO orders:1",
        "LOCK.RELEASE orders:1 ann",
        "LOCK.GUARD orders:1 1 GET k",
    ] {
        let name = line.split(' ').next().unwrap().to_lowercase();
        let reply = Reply::parse(&client.call(&guarded(fence, line)));
        assert!(reply.is_error(&format!("ERR Command '{name}' not allowed under LOCK.GUARD")), "{line}: {reply:?}");
    }
    assert_eq!(Reply::parse(&client.call(&guarded(fence, "SET k v"))), Reply::Simple("OK".into()));
    for line in ["LOCK.GUARD orders:1 x GET k", "LOCK.GUARD orders:1 0 GET k", "LOCK.GUARD orders:1 -1 GET k"] {
        assert!(client.run(line).is_error("ERR FENCE must be an integer"), "{line}");
    }
}

#[test]
fn a_lock_without_a_fence_guards_nothing() {
    let stage = Stage::new();
    let mut client = stage.client();
    stage.bypass().run("SET lock:1 somebody NX PX 60000");
    stage.bypass().run("SET data something");
    stage.bypass().run("LPUSH list a");
    assert!(client.run("LOCK.GUARD lock:1 1 SET k v").is_error(FENCED));
    assert_eq!(client.run("LOCK.GUARD data 1 SET k v"), Reply::Error("ERR 'data' is not a lock".into()));
    assert!(client.run("LOCK.GUARD list 1 SET k v").is_error("WRONGTYPE"));
    assert!(client.run("LOCK.GUARD nothing 1 SET k v").is_error(FENCED));
    assert_eq!(client.run("EXISTS k"), Reply::Int(0));
}

#[test]
fn guards_leave_nothing_on_the_links_they_borrow() {
    let stage = Stage::new();
    let mut client = stage.client();
    let fence = client.acquires("orders:1", "ann");
    for round in 0..100 {
        assert_eq!(Reply::parse(&client.call(&guarded(fence, &format!("SET k {round}")))), Reply::Simple("OK".into()));
        assert!(Reply::parse(&client.call(&guarded(fence + 1, "SET k no"))).is_error(FENCED));
        assert!(Reply::parse(&client.call(&guarded(fence, "SET k"))).is_error("ERR wrong number"));
    }
    let links = stage.bypass().run("CLIENT LIST").text();
    assert!(links.lines().count() < 20, "{links}");
    assert!(!links.contains("multi=0") && !links.contains("multi=1"), "{links}");
}

#[test]
fn a_guard_serves_connections_that_watch_subscribe_or_select() {
    let stage = Stage::new();
    let mut three = stage.client3();
    three.run("SELECT 4");
    three.run("WATCH other");
    let fence = three.acquires("orders:1", "ann");
    three.run("SUBSCRIBE ch");
    assert_eq!(Reply::parse(&three.call(&guarded(fence, "SET k v"))), Reply::Simple("OK".into()));
    stage.bypass().run("SELECT 4");
    assert_eq!(three.run("GET k"), Reply::bulk("v"));
    three.run("MULTI");
    assert!(Reply::parse(&three.call(&guarded(fence, "SET k w"))).text().contains("not allowed in transactions"));
    assert!(three.run("EXEC").is_error("EXECABORT"));
    three.send(&[command(&["CLIENT", "REPLY", "SKIP"]), command(&guarded(fence, "SET k x"))].concat());
    assert_eq!(three.run("GET k"), Reply::bulk("x"));
}

#[test]
fn writes_under_a_guard_keep_the_order_of_the_fences() {
    let stage = Stage::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let mut client = stage.client();
            let mut late = stage.client();
            scope.spawn(move || {
                let owner = format!("worker-{worker}");
                for _ in 0..60 {
                    let fence = client.run(&format!("LOCK.ACQUIRE orders:1 {owner} WAIT 60000")).int();
                    let push = guarded(fence, &format!("RPUSH log {fence}"));
                    // On its way while the lock goes on to the next.
                    late.send(&[command(&push), command(&push), command(&push)].concat());
                    client.releases("orders:1", &owner);
                    for _ in 0..3 {
                        let reply = late.reply();
                        assert!(matches!(reply, Reply::Int(_)) || reply.is_error(FENCED), "{reply:?}");
                    }
                }
            });
        }
    });
    let log: Vec<i64> =
        stage.bypass().run("LRANGE log 0 -1").items().iter().map(|fence| fence.text().parse().unwrap()).collect();
    assert!(!log.is_empty() && log.is_sorted(), "{log:?}");
}

// ---- LOCK.TRANSFER

#[test]
fn a_transfer_gives_the_lock_to_another_under_a_new_fence() {
    let stage = Stage::new();
    let mut client = stage.client();
    let first = client.run("LOCK.ACQUIRE orders:1 ann TTL 60000 PRIORITY high META note").int();
    let second = client.run("LOCK.TRANSFER orders:1 ann bob").int();
    assert!(second > first);
    let info = client.run("LOCK.INFO orders:1");
    assert_eq!((info.field("owner"), info.field("fence")), (Reply::bulk("bob"), Reply::Int(second)));
    assert_eq!((info.field("priority").text(), info.field("meta").text()), ("high".into(), "note".into()));
    assert!(info.field("ttl").int() > 50_000, "the rest of the lease stays");
    assert_eq!(client.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
    assert_eq!(client.run("LOCK.TRANSFER orders:1 ann cat"), Reply::Nil);
    assert_eq!(client.run(&format!("LOCK.TRANSFER orders:1 bob cat FENCE {first}")), Reply::Nil);
    let third = client.run(&format!("LOCK.TRANSFER orders:1 bob cat FENCE {second} TTL 5000")).int();
    assert!(third > second && client.run("PTTL orders:1").int() <= 5000);
    assert_eq!(client.run("LOCK.TRANSFER nothing ann bob"), Reply::Nil);
    client.releases("orders:1", "cat");
    assert!(client.acquires("orders:1", "dan") > third);
}

#[test]
fn a_transfer_passes_by_the_line_and_a_release_does_not() {
    let stage = Stage::new();
    let (mut ann, mut waiter) = (stage.client(), stage.client());
    let first = ann.acquires("orders:1", "ann");
    waiter.waits_for("orders:1", "eve");
    stage.await_waiters("orders:1", 1);
    let second = ann.run("LOCK.TRANSFER orders:1 ann bob TTL 60000").int();
    waiter.still_waits();
    ann.releases("orders:1", "bob");
    assert!(waiter.is_granted() > second && second > first);
}

#[test]
fn a_lock_of_set_nx_can_be_transferred_and_data_cannot() {
    let stage = Stage::new();
    let mut client = stage.client();
    stage.bypass().run("SET lock:1 token NX PX 60000");
    stage.bypass().run("SET lock:2 forever NX");
    stage.bypass().run("SET data ann");
    stage.bypass().run("LPUSH list ann");
    assert!(client.run("LOCK.TRANSFER lock:1 token bob").int() > 0);
    assert_eq!(client.run("LOCK.INFO lock:1").field("owner"), Reply::bulk("bob"));
    assert!(client.run("LOCK.TRANSFER lock:2 forever bob").int() > 0);
    assert_eq!(client.run("PTTL lock:2"), Reply::Int(-1));
    assert_eq!(client.run("LOCK.TRANSFER data ann bob"), Reply::Error("ERR 'data' is not a lock".into()));
    assert!(client.run("LOCK.TRANSFER list ann bob").is_error("WRONGTYPE"));
    for line in ["LOCK.TRANSFER k a b TTL", "LOCK.TRANSFER k a b TTL 5 TTL 5", "LOCK.TRANSFER k a b WAIT 5"] {
        assert_eq!(client.run(line), Reply::Error("ERR syntax error".into()), "{line}");
    }
}

#[test]
fn a_transferred_lock_is_renewed_and_released_for_its_old_holder_no_more() {
    let stage = Stage::new();
    let mut ann = stage.client3();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 1000 EPHEMERAL");
    ann.run("LOCK.TRANSFER orders:1 ann bob TTL 60000");
    drop(ann);
    assert_eq!(stage.client().run("LOCK.INFO orders:1").field("owner"), Reply::bulk("bob"));
    // Over another connection, too, and nobody is told of a loss.
    let (mut ann, mut other) = (stage.client3(), stage.client());
    ann.run("LOCK.ACQUIRE orders:2 ann TTL 1000 KEEPALIVE");
    assert!(other.run("LOCK.TRANSFER orders:2 ann bob TTL 1000").int() > 0);
    eventually("the new holder's lease ends", || stage.holder("orders:2").is_none().then_some(()));
    ann.assert_nothing_waits();
}

// ---- LOCK.QUEUE and LOCK.PROMOTE, on one node

#[test]
fn the_queue_is_told_in_grant_order_and_a_promotion_changes_it() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut waiters: Vec<Wire> = Vec::new();
    for (owner, level) in [("bob", "normal"), ("cat", "normal"), ("dan", "high")] {
        let mut client = stage.client();
        client.ask_line(&format!("LOCK.PRIORITY orders:1 {owner} {level} WAIT 60000"));
        waiters.push(client);
        stage.await_waiters("orders:1", waiters.len() as i64);
    }
    let mut look = stage.client3();
    let owners = |look: &mut Wire, line: &str| -> Vec<String> {
        look.run(line).items().iter().map(|waiter| waiter.field("owner").text()).collect()
    };
    assert_eq!(owners(&mut look, "LOCK.QUEUE orders:1"), ["dan", "bob", "cat"]);
    assert_eq!(owners(&mut look, "LOCK.QUEUE orders:1 COUNT 2"), ["dan", "bob"]);
    assert_eq!(look.run("LOCK.PROMOTE orders:1 cat critical"), Reply::Int(1));
    assert_eq!(look.run("LOCK.PROMOTE orders:1 dan low"), Reply::Int(3));
    assert_eq!(look.run("LOCK.PROMOTE orders:1 eve high"), Reply::Nil);
    let queue = look.run("LOCK.QUEUE orders:1");
    let first = &queue.items()[0];
    assert_eq!((first.field("owner").text(), first.field("priority").text()), ("cat".into(), "critical".into()));
    assert!(first.field("waited").int() >= 0 && first.field("deadline").int() > 30_000, "{first:?}");
    assert!(!first.field("node").text().is_empty());
    ann.releases("orders:1", "ann");
    for (index, owner) in [(1, "cat"), (0, "bob"), (2, "dan")] {
        waiters[index].is_granted();
        waiters[index].releases("orders:1", owner);
    }
    assert_eq!(look.run("LOCK.QUEUE orders:1"), Reply::Array(vec![]));
    assert!(look.run("LOCK.PROMOTE orders:1 ann urgent").is_error("ERR PRIORITY"));
}

#[test]
fn a_lone_node_is_told_of_and_has_nothing_to_clean() {
    let stage = Stage::new();
    let mut client = stage.client3();
    let nodes = client.run("LOCK.NODES");
    assert_eq!((nodes.items().len(), nodes.items()[0].field("is_self")), (1, Reply::Int(1)));
    assert_eq!(client.run("LOCK.CLEANUP"), Reply::Int(0));
}

// ---- LOCK.FORCE

#[test]
fn a_forced_lock_goes_to_the_next_in_line_and_its_holder_is_told() {
    let stage = Stage::new();
    let (mut ann, mut admin, mut waiter) = (stage.client3(), stage.client(), stage.client());
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 3000 KEEPALIVE").int();
    waiter.waits_for("orders:1", "eve");
    stage.await_waiters("orders:1", 1);
    assert_eq!(admin.run("LOCK.FORCE orders:1"), Reply::Int(1));
    assert!(waiter.is_granted() > fence);
    assert_eq!(told_of_loss(&mut ann), ("orders:1".into(), "ann".into(), "taken".into()));
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
    waiter.releases("orders:1", "eve");
    assert_eq!(admin.run("LOCK.FORCE orders:1"), Reply::Int(0));
    stage.bypass().run("SET lock:1 somebody NX");
    stage.bypass().run("SET data something");
    stage.bypass().run("LPUSH list a");
    assert_eq!(admin.run("LOCK.FORCE lock:1"), Reply::Int(1));
    assert_eq!(admin.run("LOCK.FORCE data"), Reply::Error("ERR 'data' is not a lock".into()));
    assert!(admin.run("LOCK.FORCE list").is_error("WRONGTYPE"));
    assert_eq!(stage.bypass().run("EXISTS lock:1 data list"), Reply::Int(2));
}

// ---- LOCK.LIST

/// Every page of it.
fn listed(client: &mut Wire, options: &str) -> Vec<Reply> {
    let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let page = client.run(format!("LOCK.LIST {cursor} {options}").trim_end());
        let [next, locks] = page.items() else { panic!("a cursor and locks: {page:?}") };
        assert!(matches!(next, Reply::Bulk(_)), "{next:?}");
        all.extend(locks.items().to_vec());
        cursor = next.text();
        if cursor == "0" {
            return all;
        }
    }
}

fn keys_of(locks: &[Reply]) -> Vec<String> {
    let mut keys: Vec<String> = locks.iter().map(|lock| lock.field("key").text()).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn all_locks_of_a_database_are_listed_and_nothing_else() {
    let stage = Stage::new();
    let mut bypass = stage.bypass();
    let mut client = stage.client();
    for number in 0..300 {
        bypass.run(&format!("SET data:{number} x PX 60000"));
        client.acquires(&format!("orders:{number}"), if number % 3 == 0 { "ann" } else { "bob" });
    }
    bypass.run("SET lock:1 somebody NX PX 60000");
    bypass.run("SET lock:2 ann NX");
    bypass.run("LPUSH lock:list a");
    bypass.run(&format!("SET data:big {}", "x".repeat(1_000_000)));
    bypass.run("SELECT 3");
    bypass.run("SET lock:elsewhere x NX PX 60000");
    for mut client in [stage.client(), stage.client3()] {
        for options in ["", "COUNT 1", "COUNT 7", "count 100000"] {
            let locks = listed(&mut client, options);
            assert_eq!(keys_of(&locks).len(), 302, "{options}");
            assert!(!keys_of(&locks).iter().any(|key| key.starts_with("data") || key.starts_with("lockgate")));
        }
        let locks = listed(&mut client, "MATCH lock:*");
        assert_eq!(keys_of(&locks), ["lock:1", "lock:2"]);
        let forever = locks.iter().find(|lock| lock.field("key") == Reply::bulk("lock:2")).unwrap();
        assert_eq!(forever.field("ttl"), Reply::Int(-1), "a lock that never ends shows");
        assert_eq!(forever.field("fence"), Reply::Nil);
        assert_eq!(keys_of(&listed(&mut client, "OWNER ann")).len(), 101);
        assert_eq!(keys_of(&listed(&mut client, "OWNER ann MATCH orders:1?? COUNT 50")).len(), 33);
        assert_eq!(keys_of(&listed(&mut client, "OWNER an")), [""; 0]);
        let own = client.run("LOCK.INFO orders:7");
        let found = listed(&mut client, "MATCH orders:7");
        for field in ["key", "held", "owner", "fence", "priority", "acquired_at", "meta", "waiters", "node"] {
            assert_eq!(found[0].field(field), own.field(field), "{field}");
        }
    }
    for (line, error) in [
        ("LOCK.LIST x", "ERR invalid cursor"),
        ("LOCK.LIST -1", "ERR invalid cursor"),
        ("LOCK.LIST 0 COUNT", "ERR syntax error"),
        ("LOCK.LIST 0 COUNT 5 COUNT 5", "ERR syntax error"),
        ("LOCK.LIST 0 TYPE string", "ERR syntax error"),
        ("LOCK.LIST 0 COUNT 0", "ERR COUNT must be an integer from 1 to 9007199254740991"),
    ] {
        assert_eq!(client.run(line), Reply::Error(error.into()), "{line}");
    }
}

#[test]
fn a_list_shows_only_what_its_client_may_read() {
    let stage = Stage::new();
    stage.bypass().run("ACL SETUSER viewer on >pw resetkeys ~mine:* +@all");
    stage.bypass().run("ACL SETUSER blind on >pw ~* +@all -scan");
    let mut client = stage.client();
    client.acquires("mine:1", "ann");
    client.acquires("theirs:1", "bob");
    let mut viewer = stage.client();
    viewer.run("AUTH viewer pw");
    assert_eq!(keys_of(&listed(&mut viewer, "")), ["mine:1"]);
    let mut blind = stage.client();
    blind.run("AUTH blind pw");
    assert!(blind.run("LOCK.LIST 0").is_error("NOPERM"));
}

// ---- LOCK.ACQUIREALL and LOCK.RELEASEALL

fn fences(reply: &Reply) -> Vec<i64> {
    reply.items().iter().map(Reply::int).collect()
}

#[test]
fn all_keys_are_granted_or_none() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let all = fences(&ann.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000"));
    assert!(all.len() == 3 && all.is_sorted() && all[0] > 0);
    for (key, fence) in ["a", "b", "c"].into_iter().zip(&all) {
        let info = ann.run(&format!("LOCK.INFO {key}"));
        assert_eq!((info.field("owner"), info.field("fence")), (Reply::bulk("ann"), Reply::Int(*fence)));
        assert!(info.field("ttl").int() > 50_000);
    }
    assert_eq!(bob.run("LOCK.ACQUIREALL 3 x b y bob"), Reply::Nil);
    assert_eq!(bob.run("EXISTS x y"), Reply::Int(0), "nothing is left of what was not granted");
    assert_eq!(stage.client3().call(&["LOCK.ACQUIREALL", "1", "b", "bob"]), b"_\r\n");
    assert_eq!(ann.run("LOCK.RELEASEALL 3 a b nothing ann"), Reply::Int(2));
    assert_eq!(fences(&bob.run("LOCK.ACQUIREALL 2 b a bob")).len(), 2);
    assert_eq!(ann.run("LOCK.RELEASEALL 2 a c ann"), Reply::Int(1));
    assert_eq!(stage.holder("a").as_deref(), Some("bob"));
}

#[test]
fn keys_that_the_owner_holds_keep_their_fence_and_stay_his_when_the_rest_fails() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let held = ann.run("LOCK.ACQUIRE b ann TTL 5000 META note").int();
    bob.acquires("c", "bob");
    assert_eq!(ann.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000"), Reply::Nil);
    assert!(ann.run("PTTL b").int() <= 5000);
    assert_eq!(ann.run("LOCK.ACQUIREALL 3 a b c ann WAIT 50"), Reply::Nil);
    assert_eq!(stage.holder("b").as_deref(), Some("ann"));
    assert_eq!(ann.run("EXISTS a"), Reply::Int(0));
    bob.releases("c", "bob");
    let all = fences(&ann.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000"));
    assert_eq!(all[1], held);
    assert!(all[0] > held && all[2] > held);
    let info = ann.run("LOCK.INFO b");
    assert!(info.field("ttl").int() > 50_000, "a fresh lease");
    assert_eq!(info.field("meta"), Reply::bulk("note"));
    // And again: safe to repeat.
    assert_eq!(fences(&ann.run("LOCK.ACQUIREALL 3 a b c ann")), all);
}

#[test]
fn a_renewed_lock_is_renewed_on_when_it_is_asked_for_together_with_others() {
    let stage = Stage::new();
    let mut ann = stage.client3();
    let fence = ann.run("LOCK.ACQUIRE a ann TTL 1000 KEEPALIVE").int();
    assert_eq!(fences(&ann.run("LOCK.ACQUIREALL 2 a b ann TTL 1000"))[0], fence);
    eventually("what is not renewed ends", || stage.holder("b").is_none().then_some(()));
    let began = std::time::Instant::now();
    eventually("some leases later", || (began.elapsed().as_millis() > 2200).then_some(()));
    assert_eq!(ann.run("LOCK.INFO a").field("fence"), Reply::Int(fence));
    ann.assert_nothing_waits();
    ann.releases("a", "ann");
}

/// Found by day 3726.
#[test]
fn locks_taken_together_are_not_tied_by_what_tied_an_older_hold() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.run("LOCK.ACQUIRE a ann TTL 60000 EPHEMERAL").int();
    // The connection has not noticed it yet, when its owner takes the lock anew, and asks for it once more.
    assert_eq!(stage.client().run("LOCK.FORCE a"), Reply::Int(1));
    let first = fences(&ann.run("LOCK.ACQUIREALL 2 a b ann TTL 60000"));
    assert_eq!(fences(&ann.run("LOCK.ACQUIREALL 2 a c ann TTL 60000"))[0], first[0]);
    // One that is its own shows when the end of the connection has been dealt with.
    ann.run("LOCK.ACQUIRE marker ann TTL 60000 EPHEMERAL").int();
    drop(ann);
    stage.await_free("marker");
    assert_eq!(stage.holder("a").as_deref(), Some("ann"));
}

#[test]
fn while_it_waits_it_holds_nothing() {
    let stage = Stage::new();
    let (mut ann, mut bob, mut many) = (stage.client(), stage.client(), stage.client());
    ann.acquires("b", "ann");
    many.ask_line("LOCK.ACQUIREALL 3 a b c many WAIT 60000 TTL 60000");
    stage.await_waiters("b", 1);
    let fence = bob.acquires("c", "bob");
    assert!(fence > 0, "nobody is kept out of the others");
    ann.releases("b", "ann");
    stage.await_waiters("c", 1);
    eventually("what was in the way is free again", || stage.holder("b").is_none().then_some(()));
    many.still_waits();
    bob.releases("c", "bob");
    let all = fences(&many.reply());
    assert!(all.len() == 3 && all.iter().all(|granted| *granted > fence));
    assert_eq!(many.run("LOCK.RELEASEALL 3 a b c many"), Reply::Int(3));
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(1), "but for the counter of fences");
}

#[test]
fn a_wait_for_many_ends_in_nil_and_leaves_nothing() {
    let stage = Stage::new();
    let (mut ann, mut many) = (stage.client(), stage.client());
    ann.acquires("b", "ann");
    assert_eq!(many.run("LOCK.ACQUIREALL 2 a b many WAIT 60"), Reply::Nil);
    many.ask_line("LOCK.ACQUIREALL 2 a b many WAIT 60000");
    stage.await_waiters("b", 1);
    assert_eq!(ann.run("LOCK.CANCEL b many"), Reply::Int(1));
    assert_eq!(many.reply(), Reply::Nil);
    // CLIENT UNBLOCK, and a client that leaves.
    let id = many.run("CLIENT ID").int();
    many.ask_line("LOCK.ACQUIREALL 2 a b many WAIT 60000");
    stage.await_waiters("b", 1);
    assert_eq!(ann.run(&format!("CLIENT UNBLOCK {id}")), Reply::Int(1));
    assert_eq!(many.reply(), Reply::Nil);
    many.ask_line("LOCK.ACQUIREALL 2 a b many WAIT 60000");
    stage.await_waiters("b", 1);
    drop(many);
    stage.await_waiters("b", 0);
    ann.releases("b", "ann");
    eventually("nothing is held", || (stage.bypass().run("EXISTS a b") == Reply::Int(0)).then_some(()));
}

#[test]
fn owners_who_want_the_same_keys_in_other_orders_do_not_lock_one_another_out() {
    let stage = Stage::new();
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let mut client = stage.client();
            scope.spawn(move || {
                let order = ["3 a b c", "3 c b a", "3 b a c"][worker % 3];
                for _ in 0..20 {
                    let all = client.run(&format!("LOCK.ACQUIREALL {order} worker-{worker} WAIT 60000"));
                    assert_eq!(fences(&all).len(), 3);
                    let count = client.run("INCR inside").int();
                    assert_eq!(count, 1, "alone with all three");
                    client.run("DECR inside");
                    assert_eq!(client.run(&format!("LOCK.RELEASEALL {order} worker-{worker}")), Reply::Int(3));
                }
            });
        }
    });
}

#[test]
fn crowds_that_want_overlapping_keys_all_get_their_turn() {
    let stage = Stage::new();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let mut client = stage.client();
            scope.spawn(move || {
                let keys = ["2 a b", "2 c b", "2 a c", "3 d a b", "1 b", "2 d c", "4 d c b a", "2 b d"][worker];
                for _ in 0..15 {
                    let all = client.run(&format!("LOCK.ACQUIREALL {keys} worker-{worker} WAIT 60000"));
                    let count = all.items().len() as i64;
                    assert_eq!(client.run(&format!("LOCK.RELEASEALL {keys} worker-{worker}")), Reply::Int(count));
                }
            });
        }
        // And among them some that want one key, in the ordinary way.
        for worker in 0..3 {
            let mut client = stage.client();
            scope.spawn(move || {
                let key = ["a", "b", "d"][worker];
                for _ in 0..30 {
                    client.waits_for(key, &format!("single-{worker}"));
                    client.is_granted();
                    client.releases(key, &format!("single-{worker}"));
                }
            });
        }
    });
    let mut bypass = stage.bypass();
    eventually("nothing is left but the counter", || (bypass.run("DBSIZE") == Reply::Int(1)).then_some(()));
}

#[test]
fn releaseall_hands_each_lock_to_the_next_in_its_line() {
    let stage = Stage::new();
    let (mut ann, mut bob, mut cat) = (stage.client(), stage.client(), stage.client());
    ann.run("LOCK.ACQUIREALL 2 a b ann");
    bob.waits_for("a", "bob");
    cat.waits_for("b", "cat");
    stage.await_waiters("a", 1);
    stage.await_waiters("b", 1);
    assert_eq!(ann.run("LOCK.RELEASEALL 2 a b ann"), Reply::Int(2));
    bob.is_granted();
    cat.is_granted();
}

#[test]
fn wrong_lists_of_keys_are_refused() {
    let stage = Stage::new();
    let mut client = stage.client();
    for name in ["LOCK.ACQUIREALL", "LOCK.RELEASEALL"] {
        for (rest, error) in [
            ("0 a ann", "ERR numkeys should be greater than 0"),
            ("-1 a ann", "ERR numkeys should be greater than 0"),
            ("x a ann", "ERR numkeys should be greater than 0"),
            ("2 a ann", "ERR Number of keys can't be greater than number of args"),
            ("9007199254740991 a ann", "ERR Number of keys can't be greater than number of args"),
            ("3 a b a ann", "ERR 'a' is named twice; name each key once"),
            ("1 a ann BOGUS", "ERR syntax error"),
            ("2 a lockgate:x ann", "ERR keys that begin with 'lockgate:' are Lockgate's own and cannot be locks"),
        ] {
            assert_eq!(client.run(&format!("{name} {rest}")), Reply::Error(error.into()), "{name} {rest}");
        }
        let number = Reply::Error(format!("ERR wrong number of arguments for '{}' command", name.to_lowercase()));
        assert_eq!(client.run(&format!("{name} 1 a")), number);
    }
    stage.bypass().run("SET data x");
    stage.bypass().run("LPUSH list x");
    assert_eq!(client.run("LOCK.ACQUIREALL 2 a data ann"), Reply::Error("ERR 'data' is not a lock".into()));
    assert!(client.run("LOCK.ACQUIREALL 2 a list ann").is_error("WRONGTYPE"));
    assert_eq!(client.run("EXISTS a"), Reply::Int(0));
    let keys: Vec<String> = (0..1025).map(|number| format!("k{number}")).collect();
    assert!(client.run(&format!("LOCK.ACQUIREALL 1025 {} ann", keys.join(" "))).is_error("ERR numkeys can be 1024"));
    let most = client.run(&format!("LOCK.ACQUIREALL 1024 {} ann", keys[..1024].join(" ")));
    assert_eq!(fences(&most).len(), 1024);
    assert_eq!(client.run(&format!("LOCK.RELEASEALL 1024 {} ann", keys[..1024].join(" "))), Reply::Int(1024));
}

// ---- LOCK.SLOWLOG and LOCK.STATS

#[test]
fn the_slow_log_tells_the_longest_waits_and_holds() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client3());
    assert_eq!(ann.run("LOCK.SLOWLOG LEN"), Reply::Int(0));
    ann.acquires("orders:1", "ann");
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 120"), Reply::Nil);
    ann.releases("orders:1", "ann");
    assert_eq!(ann.run("LOCK.SLOWLOG LEN"), Reply::Int(2));
    let entries = bob.run("LOCK.SLOWLOG GET");
    let [hold, wait] = entries.items() else { panic!("{entries:?}") };
    for (entry, kind, owner) in [(hold, "hold", "ann"), (wait, "wait", "bob")] {
        assert_eq!((entry.field("kind").text(), entry.field("owner").text()), (kind.into(), owner.into()));
        assert_eq!(entry.field("key"), Reply::bulk("orders:1"));
        assert!(entry.field("ms").int() >= 120 && entry.field("id").int() > 0, "{entry:?}");
        assert!(entry.field("when").int() > 1_600_000_000_000);
    }
    assert_eq!(ann.run("LOCK.SLOWLOG GET 1").items().len(), 1);
    assert_eq!(ann.run("LOCK.SLOWLOG GET -1").items().len(), 2);
    assert_eq!(ann.run("LOCK.SLOWLOG RESET"), Reply::Simple("OK".into()));
    assert_eq!(ann.run("LOCK.SLOWLOG GET"), Reply::Array(vec![]));
    for (line, error) in [
        ("LOCK.SLOWLOG NOPE", "ERR unknown subcommand 'NOPE'. Try LOCK.HELP."),
        ("LOCK.SLOWLOG LEN 1", "ERR wrong number of arguments for 'lock.slowlog|len' command"),
        ("LOCK.SLOWLOG GET x", "ERR count should be greater than or equal to -1"),
        ("LOCK.SLOWLOG", "ERR wrong number of arguments for 'lock.slowlog' command"),
    ] {
        assert_eq!(ann.run(line), Reply::Error(error.into()), "{line}");
    }
}

#[test]
fn the_statistics_count_what_happened() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("lock:1", "ann");
    ann.run("LOCK.ACQUIREALL 2 a b ann TTL 60000");
    assert_eq!(bob.run("LOCK.ACQUIRE lock:1 bob"), Reply::Nil);
    assert_eq!(bob.run("LOCK.ACQUIRE lock:1 bob WAIT 20"), Reply::Nil);
    bob.waits_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    let mut three = stage.client3();
    let now = three.run("LOCK.STATS");
    assert_eq!((now.field("active_locks"), now.field("queue_depth")), (Reply::Int(3), Reply::Int(1)));
    ann.releases("lock:1", "ann");
    bob.is_granted();
    bob.releases("lock:1", "bob");
    ann.run("LOCK.RELEASEALL 2 a b ann");
    assert_eq!(ann.run("LOCK.RELEASE a ann"), Reply::Int(-1));
    let stats = three.run("LOCK.STATS");
    for (field, count) in [
        ("active_locks", 0),
        ("total_requests", 5),
        ("successful_acquires", 3),
        ("refused", 1),
        ("timeouts", 1),
        ("cancelled", 0),
        ("failed", 0),
        ("expired", 1),
        ("deadlocks", 0),
        ("queue_depth", 0),
        ("bound_locks", 0),
    ] {
        assert_eq!(stats.field(field), Reply::Int(count), "{field}: {stats:?}");
    }
    assert!(stats.field("uptime").int() >= 0 && stats.field("memory").int() > 1 << 20);
    for (field, count) in [("wait_ms", 2), ("hold_ms", 4), ("hand_over_ms", 1)] {
        let spread = stats.field(field);
        assert_eq!(spread.field("count"), Reply::Int(count), "{field}: {stats:?}");
        let number = |name: &str| match spread.field(name) {
            Reply::Double(text) => text.parse::<f64>().unwrap(),
            other => panic!("{name} of {field}: {other:?}"),
        };
        assert!(number("p50") <= number("p95") && number("p95") <= number("p99") && number("p99") <= number("max"));
        assert!(number("average") > 0.0 && number("average") <= number("max"), "{spread:?}");
    }
    // SET NX on a lock key counts as well.
    for reply in [Reply::Simple("OK".into()), Reply::Nil] {
        assert_eq!(ann.run("SET lock:2 token NX PX 60000"), reply);
    }
    let after = three.run("LOCK.STATS");
    for (field, count) in [("total_requests", 7), ("successful_acquires", 4), ("refused", 2), ("active_locks", 1)] {
        assert_eq!(after.field(field), Reply::Int(count), "{field}: {after:?}");
    }
    let rule = stats.field("rules").items()[0].clone();
    assert_eq!((rule.field("match").text(), rule.field("requests").int()), ("lock:*".into(), 4));
    assert_eq!(rule.field("granted"), Reply::Int(2));
    let role = stats.field("roles").items()[0].clone();
    assert_eq!((role.field("role").text(), role.field("requests").int()), ("default".into(), 5));
    // In RESP2 the same as flat arrays and texts.
    let flat = ann.run("LOCK.STATS");
    assert!(matches!(flat.field("wait_ms").field("p99"), Reply::Bulk(_)), "{flat:?}");
}

// ---- LOCK.CONFIG and LOCK.HELP

#[test]
fn the_configuration_is_told_without_secrets() {
    let stage = Stage::with("max_queue = 17\n[[lock_keys]]\nmatch = 'orders:*'\n");
    let (mut two, mut three) = (stage.client(), stage.client3());
    assert_eq!(two.call(&["LOCK.CONFIG", "GET", "max_queue"]), b"*2\r\n$9\r\nmax_queue\r\n$2\r\n17\r\n");
    assert_eq!(three.call(&["LOCK.CONFIG", "GET", "MAX_QUEUE"]), b"%1\r\n$9\r\nmax_queue\r\n$2\r\n17\r\n");
    let all = three.run("LOCK.CONFIG GET *");
    assert_eq!(all.field("default_ttl"), Reply::bulk("30s"));
    assert_eq!(all.field("links.shared"), Reply::bulk("2"));
    assert!(all.field("lock_keys").text().contains("match = \"orders:*\""), "{all:?}");
    let some = two.run("LOCK.CONFIG GET max_* links.own_max");
    assert_eq!(some.items().len(), 8, "{some:?}");
    assert_eq!(two.run("LOCK.CONFIG GET nothing*"), Reply::Array(vec![]));
}

#[test]
fn a_password_never_shows_in_the_configuration() {
    let server = common::RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "hush-hush"]);
    let url = format!("redis://:hush-hush@{}", server.addr());
    let lockgate = common::Lockgate::serve(&["--upstream", &url], None);
    let mut client = lockgate.wire();
    assert!(client.run("LOCK.CONFIG GET *").is_error("NOAUTH"));
    client.run("AUTH hush-hush");
    let all = client.call(&["LOCK.CONFIG", "GET", "*"]);
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("upstream") && !text.contains("hush-hush"), "{text}");
}

#[test]
fn what_can_change_while_lockgate_runs_changes_at_once() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let ok = Reply::Simple("OK".into());
    assert_eq!(ann.run("LOCK.CONFIG SET default_ttl 7s max_ttl 9s"), ok);
    ann.acquires("orders:1", "ann");
    let ttl = ann.run("PTTL orders:1").int();
    assert!(ttl > 5_000 && ttl <= 7_000, "{ttl}");
    assert_eq!(ann.run("LOCK.EXTEND orders:1 ann 60000"), Reply::Int(1));
    assert!(ann.run("PTTL orders:1").int() <= 9_000);
    assert_eq!(ann.run("LOCK.CONFIG SET max_wait 30ms"), ok);
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 60000"), Reply::Nil);
    assert_eq!(ann.run("LOCK.CONFIG SET max_wait 10m"), ok);
    assert_eq!(ann.run("LOCK.CONFIG SET max_queue 1"), ok);
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    assert!(stage.client().run("LOCK.ACQUIRE orders:1 cat WAIT 60000").is_error("QUEUEFULL"));
    assert_eq!(ann.run("LOCK.CONFIG SET max_queue 2"), ok, "also for a line that stands");
    let mut cat = stage.client();
    cat.waits_for("orders:1", "cat");
    stage.await_waiters("orders:1", 2);
    assert_eq!(ann.run("LOCK.CONFIG SET log.level debug"), ok);
    assert_eq!(ann.run("LOCK.CONFIG GET log.level").field("log.level"), Reply::bulk("debug"));
    for (line, error) in [
        (
            "LOCK.CONFIG SET listen 127.0.0.1:1",
            "ERR listen cannot change while Lockgate runs; change the configuration file and restart",
        ),
        ("LOCK.CONFIG SET defualt_ttl 5s", "ERR 'defualt_ttl' is no key of Lockgate; did you mean default_ttl?"),
        (
            "LOCK.CONFIG SET max_ttl 1s",
            "ERR default_ttl (7s) is longer than max_ttl (1s); lower default_ttl or raise max_ttl",
        ),
        ("LOCK.CONFIG SET max_ttl", "ERR wrong number of arguments for 'lock.config|set' command"),
        ("LOCK.CONFIG SET max_ttl 1s max_wait", "ERR wrong number of arguments for 'lock.config|set' command"),
        ("LOCK.CONFIG GET", "ERR wrong number of arguments for 'lock.config' command"),
        ("LOCK.CONFIG NOPE x", "ERR unknown subcommand 'NOPE'. Try LOCK.HELP."),
    ] {
        assert_eq!(ann.run(line), Reply::Error(error.into()), "{line}");
    }
    assert!(ann.run("LOCK.CONFIG SET max_queue 0").is_error("ERR max_queue: 0 is out of range"));
}

#[test]
fn help_names_every_lock_command() {
    let stage = Stage::new();
    let help = stage.client().run("LOCK.HELP");
    let lines: Vec<String> = help.items().iter().map(Reply::text).collect();
    assert!(matches!(help.items()[0], Reply::Simple(_)), "as other HELP subcommands answer");
    for spec in LOCK_COMMANDS {
        let name = spec.name.to_uppercase();
        assert!(lines.iter().any(|line| line.split(' ').next() == Some(&name)), "{name}");
    }
    assert!(lines.contains(&"LOCK.TRANSFER <key> <from> <to> [TTL <ms>] [FENCE <fence>]".to_owned()), "{lines:?}");
    assert!(stage.client().run("LOCK.HELP me").is_error("ERR wrong number of arguments for 'lock.help' command"));
}

// ---- What holds for all of them.

/// A call of each command that would be taken outside of a transaction.
const ONE_OF_EACH: [&str; 26] = [
    "LOCK.ACQUIRE k ann",
    "LOCK.PRIORITY k ann high",
    "LOCK.RELEASE k ann",
    "LOCK.EXTEND k ann 5000",
    "LOCK.REFRESH k ann 5000",
    "LOCK.GUARD k 1 GET x",
    "LOCK.TRANSFER k ann bob",
    "LOCK.CANCEL k ann",
    "LOCK.PROMOTE k ann high",
    "LOCK.POSITION k ann",
    "LOCK.INFO k",
    "LOCK.QUEUE k COUNT 5",
    "LOCK.LIST 0",
    "LOCK.FORCE k",
    "LOCK.ACQUIREALL 1 k ann",
    "LOCK.RELEASEALL 1 k ann",
    "LOCK.SLOWLOG LEN",
    "LOCK.STATS",
    "LOCK.GRAPH",
    "LOCK.DEADLOCKS COUNT 1",
    "LOCK.NODES",
    "LOCK.HEALTH",
    "LOCK.CLEANUP",
    "LOCK.CONFIG GET x",
    "LOCK.HELP",
    "LOCK.CONFIG SET max_queue 10",
];

#[test]
fn no_lock_command_runs_in_a_transaction() {
    let stage = Stage::new();
    for mut client in [stage.client(), stage.client3()] {
        for line in ONE_OF_EACH {
            client.run("MULTI");
            let name = line.split(' ').next().unwrap().to_lowercase();
            let refusal = Reply::Error(format!("ERR Command '{name}' not allowed in transactions"));
            assert_eq!(client.run(line), refusal);
            assert!(client.run("EXEC").is_error("EXECABORT"), "{line}");
        }
    }
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(0));
    for spec in LOCK_COMMANDS {
        let is_there = ONE_OF_EACH.iter().any(|line| line.to_lowercase().split(' ').next() == Some(spec.name));
        assert!(is_there, "{}", spec.name);
    }
}

#[test]
fn every_command_refuses_a_wrong_number_of_arguments_and_lockgates_own_keys() {
    let stage = Stage::new();
    let mut client = stage.client();
    for spec in LOCK_COMMANDS {
        let least = spec.arity.unsigned_abs() as usize;
        let mut wrong = vec![vec![spec.name; least - 1]];
        if spec.arity > 0 {
            wrong.push(vec![spec.name; least + 1]);
        }
        for words in wrong.into_iter().filter(|words| !words.is_empty()) {
            let error = format!("ERR wrong number of arguments for '{}' command", spec.name);
            assert_eq!(Reply::parse(&client.call(&words)), Reply::Error(error), "{words:?}");
        }
    }
    for line in ONE_OF_EACH.iter().filter(|line| line.contains(" k")) {
        let reply = client.run(&line.replace(" k", " lockgate:k"));
        assert!(reply.is_error("ERR keys that begin with 'lockgate:'"), "{line}: {reply:?}");
    }
}

#[test]
fn who_may_not_rule_the_upstream_does_not_rule_lockgate() {
    let stage = Stage::new();
    stage.bypass().run("ACL SETUSER worker on >pw ~* +@all -@dangerous");
    stage.bypass().run("ACL SETUSER admin on >pw ~* +@all");
    let (mut worker, mut admin) = (stage.client(), stage.client());
    worker.run("AUTH worker pw");
    admin.run("AUTH admin pw");
    worker.acquires("orders:1", "ann");
    for line in ["LOCK.CONFIG GET *", "LOCK.CONFIG SET max_wait 5s", "LOCK.FORCE orders:1", "LOCK.CLEANUP"] {
        assert!(worker.run(line).is_error("NOPERM"), "{line}");
    }
    assert_eq!(stage.holder("orders:1").as_deref(), Some("ann"));
    assert_eq!(admin.run("LOCK.CONFIG SET max_wait 5s"), Reply::Simple("OK".into()));
    assert_eq!(admin.run("LOCK.FORCE orders:1"), Reply::Int(1));
    for line in ["LOCK.LIST 0", "LOCK.INFO orders:1", "LOCK.HELP"] {
        assert!(!matches!(worker.run(line), Reply::Error(_)), "{line}");
    }
}

// ---- `lock.lost`

/// The push that tells of a lost lock.
fn told_of_loss(client: &mut Wire) -> (String, String, String) {
    let push = client.reply();
    let Reply::Push(parts) = &push else { panic!("a push was expected, not {push:?}") };
    let texts: Vec<String> = parts.iter().map(Reply::text).collect();
    assert!(texts.len() == 4 && texts[0] == "lock.lost", "{texts:?}");
    (texts[1].clone(), texts[2].clone(), texts[3].clone())
}

#[test]
fn a_holder_whose_renewed_lock_was_lost_is_told() {
    let stage = Stage::new();
    let mut ann = stage.client3();
    let mut bypass = stage.bypass();
    for (option, loss, reason) in [
        ("KEEPALIVE", "DEL orders:1", "freed"),
        ("EPHEMERAL", "SET orders:1 thief PX 60000", "taken"),
        ("KEEPALIVE", "RENAME other orders:1", "taken"),
        ("KEEPALIVE", "FLUSHALL", "freed"),
    ] {
        bypass.run("HSET other f v");
        ann.run(&format!("LOCK.ACQUIRE orders:1 ann TTL 3000 {option}"));
        bypass.run(loss);
        assert_eq!(told_of_loss(&mut ann), ("orders:1".into(), "ann".into(), reason.into()));
        ann.assert_nothing_waits();
        bypass.run("DEL orders:1");
    }
    assert_eq!(stage.client().run("LOCK.STATS").field("bound_locks"), Reply::Int(0));
}

#[test]
fn a_lease_that_ran_out_while_the_upstream_was_silent_is_told_as_expired() {
    let stage = Stage::new();
    let mut ann = stage.client3();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 300 KEEPALIVE");
    stage.server.freeze();
    let began = std::time::Instant::now();
    eventually("the lease is over", || (began.elapsed().as_millis() > 700).then_some(()));
    stage.server.thaw();
    assert_eq!(told_of_loss(&mut ann).2, "expired");
}

#[test]
fn a_client_that_speaks_resp2_is_told_nothing_it_did_not_ask_for() {
    let stage = Stage::new();
    let (mut two, mut three) = (stage.client(), stage.client3());
    two.run("LOCK.ACQUIRE orders:2 ann TTL 1000 KEEPALIVE");
    three.run("LOCK.ACQUIRE orders:3 ann TTL 2000 KEEPALIVE");
    stage.bypass().run("DEL orders:2 orders:3");
    assert_eq!(told_of_loss(&mut three).0, "orders:3");
    // That came later than the other one's.
    two.assert_nothing_waits();
    two.call(&["HELLO", "3"]);
    two.assert_nothing_waits();
}

#[test]
fn who_lets_go_himself_has_lost_nothing() {
    let stage = Stage::new();
    let (mut ann, mut other) = (stage.client3(), stage.client());
    ann.run("LOCK.ACQUIRE a ann TTL 1000 KEEPALIVE");
    ann.run("LOCK.ACQUIRE b ann TTL 1000 KEEPALIVE");
    ann.run("LOCK.ACQUIRE c ann TTL 1000 KEEPALIVE");
    ann.run("LOCK.ACQUIRE d ann TTL 1000 KEEPALIVE");
    ann.run("LOCK.ACQUIRE marker ann TTL 3000 KEEPALIVE");
    ann.releases("a", "ann");
    other.releases("b", "ann");
    // Asked anew over another connection, and given away.
    other.run("LOCK.ACQUIRE c ann TTL 60000");
    assert!(other.run("LOCK.TRANSFER d ann bob TTL 60000").int() > 0);
    stage.bypass().run("DEL marker");
    assert_eq!(told_of_loss(&mut ann).0, "marker", "renewals that fail later than the others'");
    ann.assert_nothing_waits();
}

#[test]
fn a_loss_is_told_between_replies_never_within_one() {
    let stage = Stage::new();
    let mut ann = stage.client3();
    let big = "x".repeat(200_000);
    ann.run(&format!("SET big {big}"));
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 1000 KEEPALIVE");
    stage.bypass().run("DEL orders:1");
    // A client that always has replies to come.
    let batch: Vec<u8> = (0..20).flat_map(|_| command(&["GET", "big"])).collect();
    ann.send(&batch);
    let mut lost = 0;
    let mut replies = 0;
    let began = std::time::Instant::now();
    while lost == 0 {
        assert!(began.elapsed() < common::PATIENCE, "told of nothing");
        match ann.reply() {
            Reply::Push(parts) => {
                assert_eq!(parts[0], Reply::bulk("lock.lost"));
                lost += 1;
            }
            reply => {
                assert!(reply == Reply::bulk(&big), "a reply in pieces");
                replies += 1;
                if replies % 10 == 0 {
                    ann.send(&batch[..batch.len() / 2]);
                }
            }
        }
    }
}

#[test]
fn a_subscriber_a_waiter_and_a_transaction_are_told_too() {
    let stage = Stage::new();
    let mut subscriber = stage.client3();
    subscriber.run("SUBSCRIBE ch");
    subscriber.run("LOCK.ACQUIRE a ann TTL 1000 KEEPALIVE");
    let mut waiter = stage.client3();
    waiter.run("LOCK.ACQUIRE b ann TTL 1000 KEEPALIVE");
    stage.client().acquires("c", "bob");
    waiter.ask_line("LOCK.ACQUIRE c ann WAIT 60000");
    stage.await_waiters("c", 1);
    let mut transaction = stage.client3();
    transaction.run("LOCK.ACQUIRE d ann TTL 1000 KEEPALIVE");
    transaction.run("MULTI");
    transaction.run("SET k v");
    stage.bypass().run("DEL a b d");
    for (client, key) in [(&mut subscriber, "a"), (&mut waiter, "b"), (&mut transaction, "d")] {
        assert_eq!(told_of_loss(client).0, key);
    }
    assert_eq!(transaction.run("EXEC"), Reply::Array(vec![Reply::Simple("OK".into())]));
    stage.client().releases("c", "bob");
    waiter.is_granted();
}
