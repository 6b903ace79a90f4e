//! Nothing stays behind for a lock that is neither held nor waited for: not upstream, but for one counter, and not in the proxy.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Circle, Reply, ServerKind, Wire, command, eventually, within};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pairs of acquire and release; `LOCKGATE_PAIRS=10000000` for a long night.
fn pairs() -> u64 {
    std::env::var("LOCKGATE_PAIRS").ok().map_or(200_000, |text| text.parse().expect("LOCKGATE_PAIRS is a number"))
}

/// On a machine that is busy with everything else a reply may take long; it is none of this test's business.
const RULES: &str = "[links]\nreply_timeout = '60s'\n[[lock_keys]]\nmatch = 'queued:*'\nwait = '60s'\n[[lock_keys]]\nmatch = 'ticket:*'\npoll_ticket = '50ms'\n";
/// Pairs that are under way on one connection.
const PIPELINE: u64 = 250;
const CONNECTIONS: u64 = 8;

/// Takes and frees the lock of that number in some way, as commands and how their replies begin.
fn pair(number: u64) -> Vec<(Vec<u8>, &'static [u8])> {
    let one = |line: String| command(&line.split(' ').collect::<Vec<_>>());
    let take = |options: &str| (one(format!("LOCK.ACQUIRE job:{number} ann{options}")), &b":1"[..]);
    let release = || (one(format!("LOCK.RELEASE job:{number} ann")), &b":1\r\n"[..]);
    match number % 20 {
        0 => vec![take(" PRIORITY critical META nightly"), release()],
        1 => vec![take(" EPHEMERAL TTL 60000"), release()],
        2 => vec![take(" KEEPALIVE"), (one(format!("LOCK.EXTEND job:{number} ann 90000")), b":1\r\n"), release()],
        3 => vec![take(" WAIT 60000"), take(" TTL 50000"), release()],
        4 => vec![
            (one(format!("SET queued:{number} ann NX PX 60000")), b"+OK"),
            (one(format!("DEL queued:{number}")), b":1\r\n"),
        ],
        5 => vec![
            (one(format!("SET ticket:{number} ann NX PX 60000")), b"+OK"),
            (one(format!("SET ticket:{number} bob NX PX 60000")), b"$-1"),
            (one(format!("DEL ticket:{number}")), b":1\r\n"),
        ],
        6 => vec![take(""), (one(format!("LOCK.ACQUIRE job:{number} bob WAIT 1")), b"$-1"), release()],
        7 => vec![take(""), (one(format!("DEL job:{number}")), b":1\r\n")],
        // It is left to its lease, or to the end of its connection.
        8 => vec![take(" TTL 1")],
        9 => vec![take(" TTL 60000 EPHEMERAL")],
        10 => vec![take(""), (one(format!("LOCK.FORCE job:{number}")), b":1\r\n")],
        _ => vec![take(""), release()],
    }
}

/// Takes and frees the locks from `first` on, so many, over one connection.
fn run_pairs(circle: &Circle, first: u64, count: u64) {
    let mut done = 0;
    while done < count {
        // A connection ends now and then, and with it what is tied to it.
        let mut client = circle.client(((first + done) / PIPELINE) as usize % circle.nodes.len());
        for _ in 0..8 {
            let some = PIPELINE.min(count - done);
            let steps: Vec<_> = (first + done..first + done + some).flat_map(pair).collect();
            client.send(&steps.iter().flat_map(|(request, _)| request.clone()).collect::<Vec<u8>>());
            for (request, expected) in &steps {
                let reply = client.frame();
                let (asked, told) = (String::from_utf8_lossy(request), String::from_utf8_lossy(&reply));
                assert!(reply.starts_with(expected), "{told:?} to {asked:?}");
            }
            done += some;
        }
    }
}

/// Waits that end in every way, on a few keys of their own.
fn run_waits(circle: &Circle, keys: &str, rounds: u64) {
    let (mut ann, mut bob, mut cat, mut side) =
        (circle.client(0), circle.client(1), circle.client(0), circle.client(0));
    for round in 0..rounds {
        let key = &format!("{keys}:{round}");
        ann.acquires(key, "ann");
        bob.ask_line(&format!("LOCK.ACQUIRE {key} bob WAIT 60000"));
        circle.await_place(1, key, "bob");
        cat.ask_line(&format!("LOCK.ACQUIRE {key} cat WAIT 60000 PRIORITY high"));
        circle.await_place(0, key, "cat");
        match round % 5 {
            0 => ann.releases(key, "ann"),
            1 => {
                side.run(&format!("LOCK.CANCEL {key} cat"));
                assert_eq!(cat.reply(), Reply::Nil);
                ann.releases(key, "ann");
                bob.is_granted();
                bob.releases(key, "bob");
                continue;
            }
            2 => drop(side.run(&format!("DEL {key}"))),
            3 => {
                cat = circle.client(0);
                ann.releases(key, "ann");
                bob.is_granted();
                bob.releases(key, "bob");
                continue;
            }
            _ => drop(ann.run(&format!("LOCK.EXTEND {key} ann 1"))),
        }
        cat.is_granted();
        cat.releases(key, "cat");
        bob.is_granted();
        bob.releases(key, "bob");
    }
}

struct Weight {
    keys: i64,
    server: u64,
    proxies: Vec<u64>,
}

fn used_memory(side: &mut Wire) -> u64 {
    let info = side.run("INFO memory").text();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

fn weigh(circle: &Circle) -> Weight {
    let mut side = circle.server.wire();
    let proxies = circle.nodes.iter().map(|node| common::tools::resident_bytes(node.pid())).collect();
    Weight { keys: side.run("DBSIZE").int(), server: used_memory(&mut side), proxies }
}

/// Nobody waits, nothing is tied to a connection, and no line is left.
#[track_caller]
fn assert_idle(circle: &Circle) {
    for node in &circle.nodes {
        let mut client = node.wire();
        let mut last = Reply::Nil;
        let found = within(common::PATIENCE, || {
            last = client.run("LOCK.STATS");
            ["queue_depth", "bound_locks"]
                .iter()
                .all(|name| matches!(last.maybe_field(name), None | Some(Reply::Int(0))))
                .then_some(())
        });
        assert!(found.is_some(), "{last:?}");
    }
}

#[test]
fn a_great_many_locks_leave_one_counter_behind() {
    let circle = Circle::with(ServerKind::Redis70, 2, RULES);
    let next = AtomicU64::new(1);
    let storm = |count: u64, waits: u64| {
        std::thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                let (circle, next) = (&circle, &next);
                scope.spawn(move || {
                    let share = count / CONNECTIONS;
                    run_pairs(circle, next.fetch_add(share, Ordering::SeqCst), share);
                    run_waits(circle, &format!("waits:{number}:{count}"), waits);
                });
            }
        });
    };
    // The scripts, the counter, the buffers and what allocators keep are there from here on.
    storm(20_000, 5);
    circle.assert_nothing_stays();
    let before = eventually("leases of the first ones have ended", || {
        let weight = weigh(&circle);
        (weight.keys == circle.companions().len() as i64).then_some(weight)
    });
    storm(pairs(), 40);
    circle.assert_nothing_stays();
    let mut last = 0;
    let same = within(common::PATIENCE, || {
        last = weigh(&circle).keys;
        (last == before.keys).then_some(())
    });
    assert!(same.is_some(), "{last} keys instead of {}: {:?}", before.keys, circle.companions());
    let mut grown = 0;
    let settled = within(common::PATIENCE, || {
        grown = weigh(&circle).server.saturating_sub(before.server);
        // What the connections' buffers come to; a byte or two for each lock would be more.
        (grown < 400_000).then_some(())
    });
    assert!(settled.is_some(), "the server holds {grown} bytes more");
    for (node, before) in circle.nodes.iter().zip(before.proxies) {
        node.assert_settles_below(before + 48 * 1024 * 1024);
    }
    assert_idle(&circle);
}

#[test]
fn cleanup_brings_back_what_a_crash_has_left() {
    let mut circle = Circle::with(ServerKind::Redis70, 3, RULES);
    let before = circle.server.wire().run("DBSIZE").int();
    let mut holder = circle.client(0);
    let mut lost = Vec::new();
    for number in 0..50 {
        let key = format!("job:{number}");
        holder.acquires(&key, "ann");
        let mut client = circle.client(1 + number % 2);
        client.ask_line(&format!("LOCK.ACQUIRE {key} bob WAIT 60000"));
        lost.push(client);
    }
    eventually("all are registered", || {
        let queues = circle.companions().iter().filter(|name| name.starts_with("lockgate:q:")).count();
        (queues == 50).then_some(())
    });
    circle.nodes[1].kill();
    circle.nodes[2].kill();
    // Whether the leader was among the dead or not: somebody cleans, and this says when all of it is done.
    let removed = within(Duration::from_secs(15), || match holder.run("LOCK.CLEANUP") {
        Reply::Int(_) if circle.companions().iter().all(|name| !name.starts_with("lockgate:q:")) => Some(()),
        _ => None,
    });
    assert!(removed.is_some(), "{:?}", circle.companions());
    for number in 0..50 {
        holder.releases(&format!("job:{number}"), "ann");
    }
    circle.assert_nothing_stays();
    let after = circle.server.wire().run("DBSIZE").int();
    assert!(after <= before + 1, "{after} keys, {before} before: {:?}", circle.companions());
    circle.nodes.truncate(1);
    assert_idle(&circle);
}
