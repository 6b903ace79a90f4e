//! What LOCK.* takes for a lock and what it leaves alone; that a lock which somebody waits for is never free in between; that an owner does
//! not wait for himself; what the statistics count.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, eventually};

// ---- What is a lock.

/// What may stand under a key, and whether `LOCK.*` may take it for a lock.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    /// Nothing.
    Free,
    /// A lock, by its form or by its key's rule.
    Lock,
    /// A string of another form, outside the rules, that has an expiry: an unknown client's lock, or a session.
    Lease,
    /// A string without expiry, of another form and outside the rules.
    Data,
    /// No string.
    OtherType,
}

const KINDS: [(&str, &str, Kind); 14] = [
    ("k", "DEL k", Kind::Free),
    ("k", "SET k ann\x1f17\x1f1\x1f1700000000000\x1fn:1\x1f PX 600000", Kind::Lock),
    ("k", "SET k ann\x1f17\x1f1\x1f1700000000000\x1fn:1\x1f", Kind::Lock),
    ("lock:k", "SET lock:k ann PX 600000", Kind::Lock),
    ("lock:k", "SET lock:k ann", Kind::Lock),
    ("k", "SET k ann PX 600000", Kind::Lease),
    ("k", "SET k ann", Kind::Data),
    ("k", "SET k 12", Kind::Data),
    ("k", "HSET k ann 1", Kind::OtherType),
    ("k", "RPUSH k ann", Kind::OtherType),
    ("k", "SADD k ann", Kind::OtherType),
    ("k", "ZADD k 1 ann", Kind::OtherType),
    ("k", "XADD k * ann 1", Kind::OtherType),
    ("lock:k", "HSET lock:k ann 1", Kind::OtherType),
];

/// Commands on the key `@`, by somebody else and by the owner whose name stands there.
const COMMANDS: [&str; 17] = [
    "LOCK.ACQUIRE @ bob",
    "LOCK.ACQUIRE @ bob WAIT 30",
    "LOCK.ACQUIRE @ bob KEEPALIVE",
    "LOCK.PRIORITY @ bob high",
    "LOCK.ACQUIREALL 2 j @ bob",
    "LOCK.RELEASE @ bob",
    "LOCK.EXTEND @ bob 5000",
    "LOCK.TRANSFER @ bob cat",
    "LOCK.CANCEL @ bob",
    "LOCK.PROMOTE @ bob high",
    "LOCK.POSITION @ bob",
    "LOCK.INFO @",
    "LOCK.QUEUE @",
    "LOCK.RELEASE @ ann",
    "LOCK.RELEASEALL 1 @ ann",
    "LOCK.TRANSFER @ ann cat",
    "LOCK.FORCE @",
];

#[test]
fn no_command_touches_what_is_no_lock() {
    for server in ServerKind::ALL {
        let stage = Stage::on(server);
        let (mut client, mut bypass) = (stage.client(), stage.bypass());
        for (key, makes, kind) in KINDS {
            for command in COMMANDS {
                bypass.run("DEL k lock:k j");
                bypass.run(makes);
                let before = bypass.call(&["DUMP", key]);
                let line = command.replace('@', key);
                let reply = client.run(&line);
                let story = format!("{makes:?}, {line}: {reply:?}");
                let is_about_a_lock = match kind {
                    Kind::OtherType => {
                        assert!(reply.is_error("WRONGTYPE "), "{story}");
                        false
                    }
                    Kind::Data => {
                        assert!(reply.is_error("ERR ") && story.contains("is not a lock"), "{story}");
                        false
                    }
                    Kind::Lease if command.contains("FORCE") => {
                        assert!(reply.is_error("ERR ") && story.contains("is not a lock"), "{story}");
                        false
                    }
                    Kind::Free | Kind::Lock | Kind::Lease => true,
                };
                assert!(is_about_a_lock != matches!(reply, Reply::Error(_)), "{story}");
                if !is_about_a_lock {
                    assert_eq!(bypass.call(&["DUMP", key]), before, "{story}");
                    assert_eq!(bypass.run("EXISTS j"), Reply::Int(0), "{story}");
                }
            }
        }
        for (key, makes, kind) in KINDS {
            bypass.run("DEL k lock:k j");
            bypass.run(makes);
            let listed = client.run("LOCK.LIST 0 COUNT 1000");
            let is_listed = listed.items()[1].items().iter().any(|lock| lock.field("key") == Reply::bulk(key));
            assert_eq!(is_listed, kind == Kind::Lock, "{makes:?}: {listed:?}");
        }
    }
}

#[test]
fn a_guard_on_what_is_no_lock_runs_nothing() {
    let stage = Stage::new();
    let (mut client, mut bypass) = (stage.client(), stage.bypass());
    for (key, makes, kind) in KINDS {
        bypass.run("DEL k lock:k balance");
        bypass.run(makes);
        let reply = client.run(&format!("LOCK.GUARD {key} 18 SET balance 1"));
        assert!(matches!(&reply, Reply::Error(_)), "{makes:?}: {reply:?}");
        assert_eq!(reply.is_error("WRONGTYPE "), kind == Kind::OtherType, "{makes:?}: {reply:?}");
        assert_eq!(bypass.run("EXISTS balance"), Reply::Int(0), "{makes:?}");
    }
}

#[test]
fn who_takes_a_lock_by_force_and_from_whom_stands_in_the_log() {
    let stage = Stage::new();
    let (mut ann, mut admin) = (stage.client3(), stage.client());
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 400 KEEPALIVE").int();
    assert_eq!(admin.run("LOCK.FORCE orders:1"), Reply::Int(1));
    assert_eq!(admin.run("LOCK.FORCE orders:1"), Reply::Int(0));
    let wrote = eventually("both are told", || {
        let wrote = stage.lockgate.wrote();
        let lines: Vec<String> = wrote.lines().filter(|line| line.contains("orders:1")).map(str::to_owned).collect();
        (lines.len() == 2).then_some(lines)
    });
    for (line, what) in wrote.iter().zip(["was taken from its holder", "a renewed lock was lost"]) {
        assert!(line.contains("WARN") && line.contains(what), "{wrote:?}");
        assert!(line.contains("owner=ann") && line.contains(&format!("fence={fence}")), "{wrote:?}");
    }
    assert!(wrote[0].contains("by=") && wrote[0].contains("user=default"), "{wrote:?}");
    assert!(matches!(ann.reply(), Reply::Push(_)), "she is told of the loss");
    let kept = ann.run("LOCK.ACQUIRE orders:2 ann KEEPALIVE").int();
    let moved = admin.run("LOCK.TRANSFER orders:2 ann bob").int();
    assert!(moved > kept);
    eventually("it is told", || {
        let wrote = stage.lockgate.wrote();
        let line = wrote.lines().find(|line| line.contains("orders:2"))?;
        assert!(line.contains("INFO") && line.contains("from=ann") && line.contains("to=bob"), "{line}");
        line.contains(&format!("fence={moved}")).then_some(())
    });
}

// ---- Never free in between.

/// Lockgate before a server that tells of keys, and a connection that hears of every deletion of `k`.
fn told_of_deletions() -> (Stage, Wire) {
    let stage = Stage::new();
    stage.bypass().run("CONFIG SET notify-keyspace-events KEA");
    let mut ear = stage.bypass();
    ear.run("SUBSCRIBE __keyspace@0__:k");
    (stage, ear)
}

/// What has happened to `k` so far, in order.
fn happened(stage: &Stage, ear: &mut Wire) -> Vec<String> {
    stage.bypass().run("PUBLISH __keyspace@0__:k end");
    let mut events = Vec::new();
    loop {
        let event = ear.reply().items()[2].text();
        if event == "end" {
            return events;
        }
        events.push(event);
    }
}

/// Ends the hold of the client that it is given.
type End = Box<dyn Fn(&mut Wire)>;

#[test]
fn a_lock_that_somebody_waits_for_is_never_free_in_between() {
    let (stage, mut ear) = told_of_deletions();
    let ends: [(&str, End); 5] = [
        ("LOCK.ACQUIRE k ann", Box::new(|wire| assert_eq!(wire.run("LOCK.RELEASE k ann"), Reply::Int(1)))),
        (
            "LOCK.ACQUIREALL 2 j k ann",
            Box::new(|wire| assert_eq!(wire.run("LOCK.RELEASEALL 2 j k ann"), Reply::Int(2))),
        ),
        ("LOCK.ACQUIRE k ann", Box::new(|wire| assert_eq!(wire.run("LOCK.FORCE k"), Reply::Int(1)))),
        ("LOCK.ACQUIRE k ann EPHEMERAL", Box::new(|wire| wire.finish())),
        ("SET k ann PX 600000", Box::new(|wire| assert_eq!(wire.run("LOCK.RELEASE k ann"), Reply::Int(1)))),
    ];
    for (takes, ends_it) in ends {
        for other_node in [false, true] {
            let second = Lockgate::before_with(&stage.server, "[nodes]\nid = \"second\"\n");
            let mut ann = stage.client();
            assert!(!matches!(ann.run(takes), Reply::Nil | Reply::Error(_)));
            let mut bob = if other_node { second.wire() } else { stage.client() };
            bob.waits_for("k", "bob");
            let mut look = second.wire();
            eventually("bob is registered", || {
                (stage.bypass().run("EXISTS lockgate:q:k") == Reply::Int(1)).then_some(())
            });
            eventually("he waits", || (look.run("LOCK.POSITION k bob") == Reply::Int(1)).then_some(()));
            happened(&stage, &mut ear);
            ends_it(&mut ann);
            bob.is_granted();
            let events = happened(&stage, &mut ear);
            assert!(!events.iter().any(|event| event == "del" || event == "expired"), "{takes}: {events:?}");
            bob.releases("k", "bob");
            happened(&stage, &mut ear);
        }
    }
}

#[test]
fn a_grant_that_meets_nobody_goes_to_the_next_in_one_step() {
    let (stage, mut ear) = told_of_deletions();
    let second = Lockgate::before_with(&stage.server, "[nodes]\nid = \"second\"\n");
    for round in 0..30 {
        let mut ann = stage.client();
        ann.acquires("k", "ann");
        let (mut bob, mut cat) = (second.wire(), stage.client());
        bob.waits_for("k", "bob");
        eventually("bob waits", || (ann.run("LOCK.POSITION k bob") == Reply::Int(1)).then_some(()));
        cat.waits_for("k", "cat");
        eventually("cat waits", || (ann.run("LOCK.POSITION k cat") == Reply::Int(2)).then_some(()));
        happened(&stage, &mut ear);
        // He leaves in the moment of the hand-over: sometimes before it, sometimes after.
        ann.ask_line("LOCK.RELEASE k ann");
        bob.finish();
        assert_eq!(ann.reply(), Reply::Int(1));
        if bob.try_frame(common::PATIENCE).is_ok_and(|frame| frame.starts_with(b":")) {
            // The grant was there before he had left: the lock is his.
            assert_eq!(ann.run("LOCK.RELEASE k bob"), Reply::Int(1), "round {round}");
        }
        let is_granted = cat.try_frame(common::PATIENCE);
        assert!(is_granted.is_ok(), "round {round}");
        let events = happened(&stage, &mut ear);
        assert!(!events.iter().any(|event| event == "del"), "round {round}: {events:?}");
        cat.releases("k", "cat");
        happened(&stage, &mut ear);
    }
}

// ---- One owner on several nodes.

struct Nodes {
    gates: Vec<Lockgate>,
    server: RedisServer,
}

impl Nodes {
    fn new() -> Self {
        let server = RedisServer::start();
        let gate = |id: &&str| Lockgate::before_with(&server, &format!("[nodes]\nid = \"{id}\"\n"));
        Nodes { gates: ["a", "b", "c"].iter().map(gate).collect(), server }
    }

    fn wire(&self, node: usize) -> Wire {
        self.gates[node].wire()
    }

    #[track_caller]
    fn await_waiters(&self, count: i64) {
        let mut look = self.wire(0);
        eventually("they wait", || (look.run("LOCK.INFO k").field("waiters") == Reply::Int(count)).then_some(()));
    }
}

#[test]
fn an_owner_who_waits_on_several_nodes_is_told_on_all_of_them() {
    let nodes = Nodes::new();
    for takes in ["LOCK.ACQUIRE k bob", "SET k stranger PX 600000"] {
        let mut bob = nodes.server.wire();
        let mut through = nodes.wire(0);
        match takes.starts_with("SET") {
            true => drop(bob.run(takes)),
            false => drop(through.run(takes)),
        }
        let mut calls: Vec<Wire> = (0..3).map(|node| nodes.wire(node)).collect();
        for (number, call) in calls.iter_mut().enumerate() {
            let bond = ["", " KEEPALIVE", " EPHEMERAL"][number];
            call.ask_line(&format!("LOCK.ACQUIRE k ann WAIT 60000 TTL 60000{bond}"));
            nodes.await_waiters(number as i64 + 1);
        }
        match takes.starts_with("SET") {
            true => drop(bob.run("DEL k")),
            false => through.releases("k", "bob"),
        }
        let fences: Vec<i64> = calls.iter_mut().map(Wire::is_granted).collect();
        assert!(fences.iter().all(|fence| *fence == fences[0]), "{fences:?}");
        let mut look = nodes.wire(1);
        assert_eq!(look.run("LOCK.INFO k").field("fence"), Reply::Int(fences[0]));
        assert_eq!(look.run("LOCK.INFO k").field("waiters"), Reply::Int(0));
        // Locks are not counted: the first release ends it for all of them.
        calls[0].releases("k", "ann");
        assert_eq!(nodes.server.wire().run("EXISTS k"), Reply::Int(0));
    }
}

#[test]
fn a_release_ends_the_owners_calls_on_all_nodes_and_none_that_comes_later() {
    let nodes = Nodes::new();
    nodes.server.wire().run("SET k stranger PX 600000");
    let mut other = nodes.wire(1);
    other.waits_for("k", "bob");
    nodes.await_waiters(1);
    for round in 0..20 {
        let mut calls: Vec<Wire> = (0..3).map(|node| nodes.wire(node)).collect();
        for (number, call) in calls.iter_mut().enumerate() {
            call.waits_for("k", "ann");
            nodes.await_waiters(number as i64 + 2);
        }
        let mut ann = nodes.wire(round % 3);
        assert_eq!(ann.run("LOCK.RELEASE k ann FENCE 5"), Reply::Int(0), "one of the past ends nothing");
        calls.iter_mut().for_each(Wire::still_waits);
        assert_eq!(ann.run("LOCK.RELEASE k ann"), Reply::Int(0));
        // Her next call overtakes what is still on its way.
        let mut next = nodes.wire((round + 1) % 3);
        next.waits_for("k", "ann");
        for call in &mut calls {
            assert_eq!(call.reply(), Reply::Nil);
        }
        nodes.await_waiters(2);
        next.still_waits();
        assert_eq!(ann.run("LOCK.CANCEL k ann"), Reply::Int(1));
        assert_eq!(next.reply(), Reply::Nil);
        nodes.await_waiters(1);
    }
}

#[test]
fn an_owner_who_comes_to_hold_the_key_by_a_transfer_waits_no_more() {
    let nodes = Nodes::new();
    for transfers_at in [0, 1] {
        let mut bob = nodes.wire(transfers_at);
        bob.acquires("k", "bob");
        let mut ann = nodes.wire(1);
        ann.waits_for("k", "ann");
        nodes.await_waiters(1);
        let fence = bob.run("LOCK.TRANSFER k bob ann").int();
        assert_eq!(ann.is_granted(), fence);
        ann.releases("k", "ann");
    }
}

#[test]
fn a_call_for_several_keys_takes_what_its_owner_came_to_hold_elsewhere() {
    let nodes = Nodes::new();
    let mut bob = nodes.wire(0);
    bob.acquires("k", "bob");
    let (mut one, mut all) = (nodes.wire(1), nodes.wire(2));
    one.ask_line("LOCK.ACQUIRE k ann WAIT 60000 TTL 60000 META mine");
    nodes.await_waiters(1);
    all.ask_line("LOCK.ACQUIREALL 2 j k ann WAIT 60000 TTL 60000");
    nodes.await_waiters(2);
    bob.releases("k", "bob");
    let fence = one.is_granted();
    let fences = all.reply();
    assert_eq!(fences.items()[1], Reply::Int(fence), "{fences:?}");
    let told = one.run("LOCK.INFO k");
    assert_eq!(told.field("meta"), Reply::bulk("mine"));
    assert!(told.field("ttl").int() > 30_000, "{told:?}");
    assert_eq!(all.run("LOCK.RELEASEALL 2 j k ann"), Reply::Int(2));
}

#[test]
fn what_one_connection_keeps_alive_stays_so_when_the_owners_other_call_is_told() {
    let nodes = Nodes::new();
    let mut bob = nodes.wire(0);
    bob.acquires("k", "bob");
    let (mut kept, mut other) = (nodes.wire(1), nodes.wire(2));
    kept.ask_line("LOCK.ACQUIRE k ann WAIT 60000 TTL 1000 EPHEMERAL");
    nodes.await_waiters(1);
    other.ask_line("LOCK.ACQUIRE k ann WAIT 60000 TTL 1000");
    nodes.await_waiters(2);
    bob.releases("k", "bob");
    let fence = kept.is_granted();
    assert_eq!(other.is_granted(), fence);
    let mut look = nodes.wire(0);
    let begun = std::time::Instant::now();
    eventually("several leases have passed", || {
        assert_eq!(look.run("LOCK.INFO k").field("fence"), Reply::Int(fence), "after {:?}", begun.elapsed());
        (begun.elapsed() > std::time::Duration::from_secs(4)).then_some(())
    });
    other.releases("k", "ann");
}

// ---- Statistics.

/// What was answered so far, over all nodes.
#[derive(Default)]
struct Answered {
    asked: i64,
    granted: i64,
    released: i64,
}

fn plays(dice: &mut fastrand::Rng, wire: &mut Wire, bypass: &mut Wire, answered: &mut Answered) {
    let key = ["a", "b", "lock:c", "lock:d"][dice.usize(..4)];
    let owner = ["ann", "bob", "cat"][dice.usize(..3)];
    let count = |reply: &Reply| i64::from(matches!(reply, Reply::Int(number) if *number > 0));
    match dice.u8(..12) {
        0..=3 => {
            let ttl = [20, 60_000][dice.usize(..2)];
            let reply = wire.run(&format!("LOCK.ACQUIRE {key} {owner} TTL {ttl}"));
            answered.asked += 1;
            answered.granted += count(&reply);
        }
        4..=6 => answered.released += count(&wire.run(&format!("LOCK.RELEASE {key} {owner}"))),
        7 => answered.released += count(&wire.run(&format!("LOCK.FORCE {key}"))),
        8 => answered.released += count(&wire.run(&format!("LOCK.TRANSFER {key} {owner} dan"))),
        9 => {
            let lease = ["", " PX 60000", " PX 30"][dice.usize(..3)];
            let reply = wire.run(&format!("SET lock:c {owner} NX{lease}"));
            answered.asked += 1;
            answered.granted += i64::from(reply == Reply::Simple("OK".into()));
        }
        10 => {
            answered.asked += 1;
            match wire.run(&format!("LOCK.ACQUIREALL 2 a b {owner} TTL 60000")) {
                Reply::Array(_) => answered.granted += 1,
                _ => answered.released += wire.run(&format!("LOCK.RELEASEALL 2 a b {owner}")).int(),
            }
        }
        _ => {
            let deed = ["DEL a", "SET lock:d ann PX 60000 NX", "SET lock:c bob", "FLUSHALL", "PEXPIRE b 90000"];
            bypass.run(deed[dice.usize(..deed.len())]);
        }
    }
}

#[test]
fn every_release_that_is_counted_belongs_to_a_hold_that_is() {
    for seed in 0..4 {
        let server = RedisServer::start();
        let mut bypass = server.wire();
        // Holds of before the start.
        for key in ["a", "b"] {
            bypass.run(&format!("SET {key} ann\x1f17\x1f1\x1f1700000000000\x1fn:1\x1f PX 600000"));
        }
        let gates = ["a", "b"].map(|id| Lockgate::before_with(&server, &format!("[nodes]\nid = \"{id}\"\n")));
        let mut wires: Vec<Wire> = gates.iter().map(Lockgate::wire).collect();
        let (mut dice, mut answered) = (fastrand::Rng::with_seed(seed), Answered::default());
        for step in 0..300 {
            let node = dice.usize(..2);
            plays(&mut dice, &mut wires[node], &mut bypass, &mut answered);
            if step % 20 > 0 {
                continue;
            }
            let stats: Vec<Reply> = wires.iter_mut().map(|wire| wire.run("LOCK.STATS")).collect();
            let sum = |name: &str| stats.iter().map(|stats| stats.field(name).int()).sum::<i64>();
            let story = format!("seed {seed}, step {step}: {stats:?}");
            assert_eq!(sum("total_requests"), answered.asked, "{story}");
            assert_eq!(sum("successful_acquires"), answered.granted, "{story}");
            assert_eq!(sum("released"), answered.released, "{story}");
            let ends = ["successful_acquires", "refused", "timeouts", "cancelled", "failed"].map(sum);
            assert_eq!(ends.iter().sum::<i64>(), answered.asked, "{story}");
            for stats in &stats {
                let [holds, released, active] =
                    ["holds", "released", "active_locks"].map(|name| stats.field(name).int());
                assert!(holds >= released + active, "{story}");
                assert!(stats.field("hold_ms").field("count").int() <= released, "{story}");
            }
        }
    }
}
