//! Who waits, in which order they are served, and what becomes of those who leave.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, Stage, Wire, command, eventually};
use std::time::{Duration, Instant};

/// Clients that stand in line for `key`, each in its place before the next one comes.
#[track_caller]
fn line_up(stage: &Stage, key: &str, owners: &[&str]) -> Vec<Wire> {
    let mut clients = Vec::new();
    for (place, owner) in owners.iter().enumerate() {
        let mut client = stage.client();
        client.waits_for(key, owner);
        stage.await_waiters(key, i64::try_from(place + 1).unwrap());
        clients.push(client);
    }
    clients
}

#[test]
fn a_waiter_is_granted_the_lock_when_it_is_released() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let first = ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob"]);
    queue[0].still_waits();
    ann.releases("orders:1", "ann");
    assert!(queue[0].is_granted() > first);
    assert_eq!(stage.holder("orders:1").as_deref(), Some("bob"));
    queue[0].releases("orders:1", "bob");
    assert_eq!(stage.holder("orders:1"), None);
}

#[test]
fn who_comes_first_is_served_first_over_many_connections() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let mut last = ann.acquires("orders:1", "ann");
    let owners: Vec<String> = (0..12).map(|number| format!("worker-{number}")).collect();
    let names: Vec<&str> = owners.iter().map(String::as_str).collect();
    let mut queue = line_up(&stage, "orders:1", &names);
    ann.releases("orders:1", "ann");
    for (number, name) in names.iter().enumerate() {
        let fence = queue[number].is_granted();
        assert!(fence > last);
        last = fence;
        if let Some(next) = queue.get_mut(number + 1) {
            next.still_waits();
        }
        queue[number].releases("orders:1", name);
    }
    assert_eq!(stage.holder("orders:1"), None);
}

#[test]
fn priority_goes_before_order_of_arrival() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let asked = [
        ("low", "LOCK.ACQUIRE orders:1 low WAIT 60000 PRIORITY low"),
        ("normal-1", "LOCK.ACQUIRE orders:1 normal-1 WAIT 60000"),
        ("high", "LOCK.PRIORITY orders:1 high high WAIT 60000"),
        ("normal-2", "LOCK.ACQUIRE orders:1 normal-2 PRIORITY 1 WAIT 60000"),
        ("critical", "LOCK.PRIORITY orders:1 critical 3 WAIT 60000"),
    ];
    let mut clients: Vec<(&str, Wire)> = Vec::new();
    for (place, (name, line)) in asked.into_iter().enumerate() {
        let mut client = stage.client();
        client.ask_line(line);
        stage.await_waiters("orders:1", place as i64 + 1);
        clients.push((name, client));
    }
    let mut look = stage.client();
    let order = ["critical", "high", "normal-1", "normal-2", "low"];
    for (place, name) in order.iter().enumerate() {
        assert_eq!(look.run(&format!("LOCK.POSITION orders:1 {name}")), Reply::Int(place as i64 + 1), "{name}");
    }
    let mut holder = ("ann", ann);
    for name in order {
        holder.1.releases("orders:1", holder.0);
        let at = clients.iter().position(|(who, _)| *who == name).unwrap();
        holder = clients.remove(at);
        holder.1.is_granted();
    }
}

#[test]
fn a_wait_ends_in_nil_when_its_time_is_over() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    let begun = Instant::now();
    assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob WAIT 80"), Reply::Nil);
    assert!(begun.elapsed() >= Duration::from_millis(79), "{:?}", begun.elapsed());
    assert_eq!(stage.client().run("LOCK.POSITION orders:1 bob"), Reply::Nil);
    ann.releases("orders:1", "ann");
    assert_eq!(stage.holder("orders:1"), None, "nobody is handed a lock that he no longer wants");
    bob.acquires("orders:1", "bob");
}

#[test]
fn waits_of_every_length_end_in_their_own_time() {
    let stage = Stage::new();
    stage.client().acquires("orders:1", "ann");
    let mut clients: Vec<Wire> = (0..10).map(|_| stage.client()).collect();
    let begun = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask_line(&format!("LOCK.ACQUIRE orders:1 worker-{number} WAIT {}", 400 - 40 * number));
    }
    for (number, client) in clients.iter_mut().enumerate().rev() {
        assert_eq!(client.reply(), Reply::Nil);
        assert!(begun.elapsed() >= Duration::from_millis(399 - 40 * number as u64));
    }
    stage.await_waiters("orders:1", 0);
}

#[test]
fn a_wait_above_the_maximum_is_cut() {
    let stage = Stage::with("max_wait = \"60ms\"\n");
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    for wait in ["60000", "9007199254740991"] {
        assert_eq!(bob.run(&format!("LOCK.ACQUIRE orders:1 bob WAIT {wait}")), Reply::Nil);
    }
}

#[test]
fn a_waiter_whose_client_has_left_is_skipped() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    let mut dan = stage.client();
    dan.ask_line("LOCK.ACQUIRE orders:1 dan WAIT 60000 EPHEMERAL");
    stage.await_waiters("orders:1", 3);
    drop(queue.remove(0));
    stage.await_waiters("orders:1", 2);
    ann.releases("orders:1", "ann");
    queue[0].is_granted();
    drop(dan);
    queue[0].releases("orders:1", "cat");
    // Whether dan was seen to leave before or after the release: the lock ends with nobody. (EPHEMERAL, because on a busy machine the
    // kernel may tell of his leaving after his answer was written.)
    stage.await_free("orders:1");
    let mut eve = stage.client();
    eve.acquires("orders:1", "eve");
}

#[test]
fn a_waiter_that_comes_back_soon_keeps_its_place() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    drop(queue.remove(0));
    stage.await_waiters("orders:1", 1);
    let mut bob = stage.client();
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 2);
    assert_eq!(stage.client().run("LOCK.POSITION orders:1 bob"), Reply::Int(1));
    ann.releases("orders:1", "ann");
    bob.is_granted();
    queue[0].still_waits();
    bob.releases("orders:1", "bob");
    queue[0].is_granted();
}

#[test]
fn the_newer_call_takes_over_and_the_older_one_gets_nil() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    let mut newer = stage.client();
    newer.waits_for("orders:1", "bob");
    assert_eq!(queue[0].reply(), Reply::Nil);
    stage.await_waiters("orders:1", 2);
    // The end of the older call's connection touches nothing any more.
    drop(queue.remove(0));
    assert_eq!(stage.client().run("LOCK.POSITION orders:1 bob"), Reply::Int(1));
    ann.releases("orders:1", "ann");
    newer.is_granted();
    newer.releases("orders:1", "bob");
    queue[0].is_granted();
}

#[test]
fn a_lease_that_ends_hands_the_lock_to_the_next_waiter() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let first = ann.run("LOCK.ACQUIRE orders:1 ann TTL 2000").int();
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    let begun = Instant::now();
    assert!(queue[0].is_granted() > first);
    assert!(begun.elapsed() < Duration::from_secs(3), "promptly, not after {:?}", begun.elapsed());
    queue[1].still_waits();
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
}

#[test]
fn a_lease_that_was_lengthened_is_waited_out() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 2000").int();
    let mut queue = line_up(&stage, "orders:1", &["bob"]);
    let begun = Instant::now();
    assert_eq!(ann.run("LOCK.EXTEND orders:1 ann 2500"), Reply::Int(1));
    queue[0].is_granted();
    assert!(begun.elapsed() > Duration::from_millis(2400), "{:?}", begun.elapsed());
}

#[test]
fn a_lock_of_set_nx_that_expires_is_handed_to_the_waiter() {
    let stage = Stage::new();
    let mut bypass = stage.bypass();
    bypass.run("SET lock:1 ann NX PX 2000");
    let mut queue = line_up(&stage, "lock:1", &["bob"]);
    queue[0].is_granted();
    assert_eq!(bypass.run("SET lock:1 ann NX PX 400"), Reply::Nil);
}

#[test]
fn waiters_of_different_locks_do_not_delay_one_another() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let keys: Vec<String> = (0..30).map(|number| format!("orders:{number}")).collect();
    for key in &keys {
        ann.acquires(key, "ann");
    }
    let mut waiting: Vec<Wire> = keys.iter().map(|key| line_up(&stage, key, &["bob"]).remove(0)).collect();
    for (number, key) in keys.iter().enumerate().rev() {
        ann.releases(key, "ann");
        waiting[number].is_granted();
    }
}

#[test]
fn the_same_key_in_two_databases_has_two_queues() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.run("SELECT 3");
    bob.acquires("orders:1", "bob");
    let (mut cat, mut dan) = (stage.client(), stage.client());
    cat.waits_for("orders:1", "cat");
    stage.await_waiters("orders:1", 1);
    dan.run("SELECT 3");
    dan.waits_for("orders:1", "dan");
    let mut look = stage.client();
    look.run("SELECT 3");
    eventually("dan waits in database 3", || (look.run("LOCK.POSITION orders:1 dan") == Reply::Int(1)).then_some(()));
    bob.releases("orders:1", "bob");
    dan.is_granted();
    cat.still_waits();
    ann.releases("orders:1", "ann");
    cat.is_granted();
}

#[test]
fn a_full_queue_refuses_the_next_one() {
    let stage = Stage::with("max_queue = 2\n");
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    let reply = stage.client().run("LOCK.ACQUIRE orders:1 dan WAIT 60000");
    assert!(reply.is_error("QUEUEFULL"), "{reply:?}");
    assert_eq!(stage.client().run("LOCK.ACQUIRE orders:1 dan"), Reply::Nil, "who does not wait needs no place");
    ann.acquires("orders:2", "ann");
    line_up(&stage, "orders:2", &["dan"]);
    drop(queue.remove(0));
    stage.await_waiters("orders:1", 1);
    let mut dan = stage.client();
    dan.waits_for("orders:1", "dan");
    stage.await_waiters("orders:1", 2);
}

#[test]
fn client_unblock_ends_a_wait() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    let id = bob.run("CLIENT ID").int();
    for (line, expected) in [
        (format!("CLIENT UNBLOCK {id}"), Reply::Nil),
        (format!("CLIENT UNBLOCK {id} TIMEOUT"), Reply::Nil),
        (format!("CLIENT UNBLOCK {id} ERROR"), Reply::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".into())),
    ] {
        bob.waits_for("orders:1", "bob");
        stage.await_waiters("orders:1", 1);
        assert_eq!(ann.run(&line), Reply::Int(1), "{line}");
        assert_eq!(bob.reply(), expected, "{line}");
        assert_eq!(ann.run(&line), Reply::Int(0), "{line} when it no longer waits");
        stage.await_waiters("orders:1", 0);
    }
    bob.assert_nothing_waits();
    ann.releases("orders:1", "ann");
    assert_eq!(stage.holder("orders:1"), None);
}

#[test]
fn client_kill_takes_a_waiter_out_of_the_line() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    let id = bob.run("CLIENT ID").int();
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    assert_eq!(ann.run(&format!("CLIENT KILL ID {id}")), Reply::Int(1));
    assert!(bob.until_closed(common::PATIENCE).is_ok_and(|rest| rest.is_empty()));
    stage.await_waiters("orders:1", 0);
    ann.releases("orders:1", "ann");
    assert_eq!(stage.holder("orders:1"), None);
}

#[test]
fn a_cancelled_call_gets_nil_and_its_place_is_gone() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    assert_eq!(ann.run("LOCK.CANCEL orders:1 nobody"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.CANCEL orders:1 ann"), Reply::Int(0), "the holder does not wait");
    assert_eq!(ann.run("LOCK.CANCEL orders:free bob"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.CANCEL orders:1 bob"), Reply::Int(1));
    assert_eq!(queue[0].reply(), Reply::Nil);
    assert_eq!(ann.run("LOCK.CANCEL orders:1 bob"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.POSITION orders:1 bob"), Reply::Nil);
    assert_eq!(ann.run("LOCK.POSITION orders:1 cat"), Reply::Int(1));
    ann.releases("orders:1", "ann");
    queue[1].is_granted();
}

#[test]
fn a_claim_is_nobodys_hold_before_it_is_confirmed() {
    let stage = Stage::new();
    let claim = "ann\x1f1790000000000000\x1f1\x1f1790000000000\x1felsewhere:7?\x1f";
    for waits in [true, false] {
        let key = format!("orders:{waits}");
        let mut ann = stage.client();
        if waits {
            assert_eq!(stage.client().run(&format!("SET {key} stranger PX 60000")), Reply::Simple("OK".into()));
            ann.waits_for(&key, "ann");
            stage.await_waiters(&key, 1);
        }
        stage.bypass().run(&format!("SET {key} {claim} PX 60000"));
        let place = if waits { Reply::Int(1) } else { Reply::Nil };
        assert_eq!(stage.client().run(&format!("LOCK.POSITION {key} ann")), place);
        let info = stage.client().run(&format!("LOCK.INFO {key}"));
        assert_eq!((info.field("held"), info.field("waiters")), (Reply::Int(0), Reply::Int(i64::from(waits))));
        for name in ["owner", "fence", "ttl", "priority", "acquired_at", "meta", "node"] {
            assert_eq!(info.field(name), Reply::Nil, "{name}");
        }
        let listed = stage.client().run(&format!("LOCK.LIST 0 MATCH {key} COUNT 1000"));
        assert_eq!(listed.items()[1].items(), []);
        // And another's as soon as it is.
        stage.bypass().run(&format!("SET {key} {} PX 60000", claim.replace('?', "")));
        assert_eq!(stage.client().run(&format!("LOCK.INFO {key}")).field("held"), Reply::Int(1));
        if !waits {
            assert_eq!(stage.client().run(&format!("LOCK.POSITION {key} ann")), Reply::Int(0));
        }
    }
}

#[test]
fn position_counts_from_the_holder() {
    let stage = Stage::new();
    let mut ann = stage.client();
    assert_eq!(ann.run("LOCK.POSITION orders:1 ann"), Reply::Nil);
    ann.acquires("orders:1", "ann");
    let _queue = line_up(&stage, "orders:1", &["bob", "cat"]);
    for (owner, place) in [("ann", Reply::Int(0)), ("bob", Reply::Int(1)), ("cat", Reply::Int(2)), ("dan", Reply::Nil)]
    {
        assert_eq!(ann.run(&format!("LOCK.POSITION orders:1 {owner}")), place, "{owner}");
    }
}

#[test]
fn a_wait_blocks_its_own_connection_and_no_other() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    let mut bob = stage.client();
    bob.send(
        &[
            command(&["SET", "before", "1"]),
            command(&["LOCK.ACQUIRE", "orders:1", "bob", "WAIT", "60000"]),
            command(&["SET", "after", "1"]),
            command(&["GET", "after"]),
        ]
        .concat(),
    );
    stage.await_waiters("orders:1", 1);
    assert_eq!(bob.reply(), Reply::Simple("OK".into()), "what came before the wait is answered before it ends");
    bob.still_waits();
    for _ in 0..50 {
        assert_eq!(ann.run("EXISTS before after"), Reply::Int(1));
    }
    ann.releases("orders:1", "ann");
    bob.is_granted();
    assert_eq!(bob.reply(), Reply::Simple("OK".into()));
    assert_eq!(bob.reply(), Reply::bulk("1"));
}

#[test]
fn one_release_after_another_serves_everybody_who_hangs_on() {
    // Eight connections that each take the lock, count and release, with the counter kept outside of any atomic step.
    let stage = Stage::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let mut client = stage.client();
            scope.spawn(move || {
                let owner = format!("worker-{number}");
                for _ in 0..25 {
                    client.waits_for("orders:1", &owner);
                    client.is_granted();
                    let before = match client.run("GET counter") {
                        Reply::Nil => 0,
                        count => count.text().parse::<i64>().unwrap(),
                    };
                    std::thread::yield_now();
                    client.run(&format!("SET counter {}", before + 1));
                    client.releases("orders:1", &owner);
                }
            });
        }
    });
    assert_eq!(stage.bypass().run("GET counter"), Reply::bulk("200"));
    assert_eq!(stage.holder("orders:1"), None);
    let keys = stage.bypass().run("KEYS lockgate:*");
    assert!(keys.items().len() <= 1, "nothing is left of the queue: {keys:?}");
}

#[test]
fn clients_that_come_and_go_in_all_ways_never_lose_the_lock() {
    // A storm: waits that time out, connections that close, calls that are cancelled, while the lock goes round.
    let stage = Stage::new();
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for number in 0..6u64 {
            let stage = &stage;
            scope.spawn(move || {
                let owner = format!("worker-{number}");
                let mut client = stage.client();
                let mut round = number;
                while Instant::now() < end {
                    round += 1;
                    match round % 4 {
                        // Leaves in the middle of its wait.
                        0 => {
                            client.waits_for("orders:1", &owner);
                            let _ = client.try_frame(Duration::from_millis(round % 7));
                            client = stage.client();
                            client.run(&format!("LOCK.RELEASE orders:1 {owner}"));
                        }
                        1 => {
                            client.ask_line(&format!("LOCK.ACQUIRE orders:1 {owner} WAIT {}", round % 9));
                            if client.reply() != Reply::Nil {
                                client.releases("orders:1", &owner);
                            }
                        }
                        2 => {
                            // A name that no call of a closed connection has, which may arrive late.
                            let owner = format!("{owner}-{round}");
                            client.ask_line(&format!("LOCK.ACQUIRE orders:1 {owner} WAIT 60000"));
                            let cancelled = stage.client().run(&format!("LOCK.CANCEL orders:1 {owner}"));
                            let reply = client.reply();
                            if reply != Reply::Nil {
                                assert_ne!(cancelled, Reply::Int(1), "a cancelled call was granted");
                                client.releases("orders:1", &owner);
                            }
                        }
                        _ => {
                            client.waits_for("orders:1", &owner);
                            client.is_granted();
                            assert_eq!(stage.holder("orders:1").as_deref(), Some(owner.as_str()));
                            client.releases("orders:1", &owner);
                        }
                    }
                }
                client.run(&format!("LOCK.CANCEL orders:1 {owner}"));
                client.run(&format!("LOCK.RELEASE orders:1 {owner}"));
            });
        }
    });
    // A call whose client left may still have been granted; it is passed on, never left to its lease.
    stage.await_free("orders:1");
    stage.await_waiters("orders:1", 0);
    stage.client().acquires("orders:1", "ann");
}
