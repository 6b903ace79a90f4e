//! However a lock comes free, the next waiter is told, and nobody asks again and again. The waiters here are on a node that never
//! looks at a key by itself, and leases are long: who is granted, was granted because the upstream told of the change.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::node::{Call, never_looking};
use common::{Lockgate, Node, RedisServer, Reply, ServerKind, Wire, eventually};
use lockgate::coordinator::{LockReply, LockSettings};

/// A server, a node whose waiters hear of changes, and another Lockgate for those who go through one.
struct Scene {
    node: Node,
    lockgate: Lockgate,
    server: RedisServer,
}

impl Scene {
    fn new() -> Self {
        Self::on(RedisServer::start())
    }

    fn on(server: RedisServer) -> Self {
        Scene { node: Node::before(&server, never_looking("near")), lockgate: Lockgate::before(&server), server }
    }

    /// ann has the lock for a minute, and bob waits for it; the upstream will tell of its next change.
    fn bob_waits(&self, db: u32, key: &str) -> Call {
        let held = self.node.ask_in(db, &format!("LOCK.ACQUIRE {key} ann TTL 60000")).reply();
        assert!(matches!(held, LockReply::Integer(_)), "{held:?}");
        self.asks_and_is_watched(db, &format!("LOCK.ACQUIRE {key} bob WAIT 60000"))
    }

    fn asks_and_is_watched(&self, db: u32, line: &str) -> Call {
        let before = self.node.looks();
        let call = self.node.ask_in(db, line);
        eventually("the waited-for key is watched", || (self.node.looks() > before).then_some(()));
        call
    }

    fn bypass(&self, db: u32) -> Wire {
        in_db(self.server.wire(), db)
    }

    fn through(&self, db: u32) -> Wire {
        in_db(self.lockgate.wire(), db)
    }
}

fn in_db(mut wire: Wire, db: u32) -> Wire {
    wire.run(&format!("SELECT {db}"));
    wire
}

fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.side_wire().run("INFO commandstats").text();
    let name = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

/// The ids of the watch links among the server's clients.
fn watch_links(server: &RedisServer) -> Vec<String> {
    let clients = server.side_wire().run("CLIENT LIST").text();
    let watching = clients.lines().filter(|line| line.contains(" name=lockgate-watch "));
    watching.map(|line| line.split(' ').next().unwrap().strip_prefix("id=").unwrap().to_owned()).collect()
}

/// The watch links of two nodes, once both have others than those.
fn links_other_than(server: &RedisServer, before: &[String]) -> Option<Vec<String>> {
    Some(watch_links(server)).filter(|links| links.len() == 2 && links.iter().all(|link| !before.contains(link)))
}

/// Ways to end a lock for good, in words that any client may send.
const ENDS: [&str; 9] = [
    "DEL k",
    "UNLINK k",
    "EVAL return(redis.call('DEL',KEYS[1])) 1 k",
    "PEXPIRE k -1",
    "PEXPIRE k 30",
    "PEXPIREAT k 1",
    "GETDEL k",
    "RENAME k elsewhere",
    "FLUSHDB",
];

#[test]
fn whatever_ends_a_lock_grants_it_to_the_next_waiter() {
    let scene = Scene::new();
    for end in ENDS.iter().copied().chain(["FLUSHALL"]) {
        for db in [0, 3] {
            for mut client in [scene.bypass(db), scene.through(db)] {
                let bob = scene.bob_waits(db, "k");
                bob.still_waits();
                let reply = client.run(end);
                assert!(!matches!(reply, Reply::Error(_)), "{end}: {reply:?}");
                let fence = bob.is_granted();
                let value = client.run("GET k").text();
                assert!(value.starts_with(&format!("bob\x1f{fence}\x1f")), "{end} in {db}: {value:?}");
                client.run("DEL k elsewhere");
            }
        }
    }
}

#[test]
fn every_server_that_is_supported_tells_of_changes() {
    for kind in [ServerKind::Redis82, ServerKind::Valkey91] {
        let scene = Scene::on(RedisServer::start_with(kind, &[]));
        for end in ENDS {
            let bob = scene.bob_waits(3, "k");
            scene.bypass(3).run(end);
            bob.is_granted();
            scene.bypass(3).run("DEL k elsewhere");
        }
    }
}

#[test]
fn a_lock_that_somebody_wrote_over_is_watched_on_and_granted_when_that_ends() {
    let scene = Scene::new();
    let mut client = scene.bypass(0);
    for over in [
        "RENAME other lock:k",
        "SET lock:k stranger",
        "SET lock:k stranger PX 40",
        "PERSIST lock:k",
        "COPY other lock:k REPLACE",
    ] {
        let bob = scene.bob_waits(0, "lock:k");
        client.run("SET other stranger PX 60000");
        let before = scene.node.looks();
        let reply = client.run(over);
        assert!(!matches!(reply, Reply::Error(_)), "{over}: {reply:?}");
        eventually("it is looked at again", || (scene.node.looks() > before).then_some(()));
        if !over.contains("PX") {
            bob.still_waits();
            client.run("DEL lock:k");
        }
        bob.is_granted();
        client.run("DEL lock:k other");
    }
}

#[test]
fn who_waits_for_what_is_no_lock_any_more_is_told() {
    let scene = Scene::new();
    for (over, code) in [("SET k data", "ERR 'k' is not a lock"), ("SADD k data", "WRONGTYPE")] {
        let bob = scene.bob_waits(0, "k");
        let mut client = scene.bypass(0);
        client.run("MULTI");
        client.run("DEL k");
        client.run(over);
        client.run("EXEC");
        let reply = bob.reply();
        assert!(matches!(&reply, LockReply::Error(line) if line.starts_with(code)), "{over}: {reply:?}");
        client.run("DEL k");
    }
}

#[test]
fn a_lease_that_ends_by_itself_is_granted_on_also_if_it_was_set_by_somebody_else() {
    let scene = Scene::new();
    let mut client = scene.bypass(0);
    client.run("SET k stranger PX 60000");
    let bob = scene.asks_and_is_watched(0, "LOCK.ACQUIRE k bob WAIT 60000");
    // Longer first, then shorter than was known.
    client.run("PEXPIRE k 90000");
    client.run("PEXPIRE k 100");
    bob.is_granted();
}

#[test]
fn eviction_frees_a_lock_as_well() {
    let scene = Scene::on(RedisServer::start_with(ServerKind::Redis70, &["--maxmemory-policy", "volatile-random"]));
    let mut client = scene.bypass(0);
    let bob = scene.bob_waits(0, "k");
    client.run("CONFIG SET maxmemory 500kb");
    eventually("the lock is evicted", || {
        client.run("SET more x");
        (client.run("EXISTS k") == Reply::Int(0)).then_some(())
    });
    bob.still_waits();
    client.run("CONFIG SET maxmemory 0");
    bob.is_granted();
}

#[test]
fn the_same_name_in_two_databases_is_two_locks() {
    let scene = Scene::new();
    let (here, there) = (scene.bob_waits(0, "k"), scene.bob_waits(3, "k"));
    scene.bypass(3).run("DEL k");
    there.is_granted();
    here.still_waits();
    scene.bypass(0).run("DEL k");
    here.is_granted();
}

#[test]
fn names_of_any_bytes_are_watched() {
    let scene = Scene::new();
    for name in ["{k}", "a{b", "}{", "lock:é", "k:lockgate:q:"] {
        let bob = scene.bob_waits(0, name);
        scene.bypass(0).run(&format!("DEL {name}"));
        bob.is_granted();
    }
}

#[test]
fn many_waited_for_locks_are_all_told_of() {
    const COUNT: usize = 1500;
    let scene = Scene::new();
    let mut client = scene.bypass(0);
    let waiting: Vec<Call> = (0..COUNT)
        .map(|number| {
            client.run(&format!("SET k{number} stranger PX 60000"));
            scene.node.ask_in(number as u32 % 2 * 3, &format!("LOCK.ACQUIRE k{number} bob WAIT 60000"))
        })
        .collect();
    // Every other one is in a database where nobody holds it.
    for call in waiting.iter().skip(1).step_by(2) {
        call.is_granted();
    }
    client.run("FLUSHALL");
    for call in waiting.iter().step_by(2) {
        call.is_granted();
    }
}

#[test]
fn what_happened_while_the_watch_link_was_lost_is_noticed_afterwards() {
    let scene = Scene::new();
    let mut client = scene.bypass(0);
    let bob = scene.bob_waits(0, "k");
    let first = eventually("each node has one", || links_other_than(&scene.server, &[]));
    for id in &first {
        assert_eq!(client.run(&format!("CLIENT KILL ID {id}")), Reply::Int(1));
    }
    client.run("DEL k");
    bob.is_granted();
    eventually("both are back", || links_other_than(&scene.server, &first));
    // And once more, with a link on which nothing is told for a while.
    client.run("DEL k");
    let bob = scene.bob_waits(0, "k");
    client.run("ACL SETUSER default -client|tracking");
    let killed = watch_links(&scene.server);
    for id in &killed {
        client.run(&format!("CLIENT KILL ID {id}"));
    }
    let deaf = eventually("both have another link, of no use", || links_other_than(&scene.server, &killed));
    client.run("DEL k");
    bob.still_waits();
    client.run("ACL SETUSER default +client|tracking");
    for id in &deaf {
        client.run(&format!("CLIENT KILL ID {id}"));
    }
    bob.is_granted();
}

#[test]
fn a_server_that_hangs_is_given_up_and_watched_again_when_it_goes_on() {
    let settings = LockSettings { heartbeat_ms: 50, node_timeout_ms: 300, ..never_looking("near") };
    let server = RedisServer::start();
    let scene = Scene { node: Node::before(&server, settings), lockgate: Lockgate::before(&server), server };
    let bob = scene.bob_waits(0, "k");
    let before = eventually("each node has one", || links_other_than(&scene.server, &[]));
    let mut client = scene.bypass(0);
    // A server that hangs does not see who leaves it; that it was left shows when it goes on.
    client.run("DEBUG SLEEP 1");
    eventually("there is another link", || {
        let now = watch_links(&scene.server);
        now.iter().any(|link| !before.contains(link)).then_some(())
    });
    client.run("DEL k");
    bob.is_granted();
}

#[test]
fn waiting_costs_no_polling() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, "[nodes]\nheartbeat = \"100ms\"\ntimeout = \"500ms\"\n");
    server.wire().run("SET k stranger PX 60000");
    let mut waiting: Vec<Wire> = Vec::new();
    for number in 0..5 {
        let mut client = lockgate.wire();
        client.waits_for("k", &format!("bob-{number}"));
        waiting.push(client);
    }
    let mut look = lockgate.wire();
    eventually("all wait", || (look.run("LOCK.INFO k").field("waiters") == Reply::Int(5)).then_some(()));
    let commands = ["get", "pttl", "hget", "hgetall", "evalsha", "eval", "exists", "select", "set", "scan"];
    let counts = || commands.map(|command| calls(&server, command));
    let beat = |beats: u64| {
        let begun = calls(&server, "info");
        eventually("the node's heart beats", || (calls(&server, "info") >= begun + beats).then_some(()));
    };
    eventually("the node has looked for leftovers once", || (calls(&server, "scan") > 0).then_some(()));
    eventually("calm has come", || {
        let before = counts();
        beat(2);
        (counts() == before).then_some(())
    });
    let before = counts();
    // Longer than any look would have waited.
    beat(25);
    assert_eq!(counts(), before, "{commands:?}");
    server.wire().run("DEL k");
    let mut look = server.wire();
    eventually("one of them has it", || look.call(&["GET", "k"]).windows(4).any(|part| part == b"bob-").then_some(()));
}

#[test]
fn where_tracking_is_refused_locks_are_looked_at_instead() {
    let server = RedisServer::start();
    server.wire().run("ACL SETUSER service on >secret ~* &* +@all -client|tracking");
    let settings = LockSettings { look_every_ms: 50, ..never_looking("near") };
    let node = Node::at(&format!("redis://service:secret@{}", server.addr()), settings);
    server.wire().run("SET k stranger PX 60000");
    let bob = node.ask("LOCK.ACQUIRE k bob WAIT 60000");
    let before = calls(&server, "evalsha");
    eventually("it is looked at now and then", || (calls(&server, "evalsha") > before + 3).then_some(()));
    server.wire().run("DEL k");
    bob.is_granted();
}

#[test]
fn where_the_watch_may_not_read_a_lock_it_is_looked_at_instead() {
    let server = RedisServer::start();
    server.wire().run("ACL SETUSER service on >secret ~* &* +@all -pttl");
    let lockgate = Lockgate::serve(&["--upstream", &format!("redis://service:secret@{}", server.addr())], None);
    server.wire().run("SET k stranger PX 60000");
    let mut bob = lockgate.wire();
    bob.waits_for("k", "bob");
    eventually("it says so", || lockgate.wrote().contains("cannot be watched").then_some(()));
    server.wire().run("DEL k");
    bob.is_granted();
    assert_eq!(lockgate.wrote().matches("cannot be watched").count(), 1, "once");
}
