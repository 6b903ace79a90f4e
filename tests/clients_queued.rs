//! Unmodified clients and lock libraries that use `SET NX`, through two Lockgate nodes on one server: with a `wait` they are
//! queued and never poll, without one they poll as ever. The scripts are in `tests/clients/`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::relay::Relay;
use common::{Lockgate, RedisServer, Reply, ServerKind, eventually, tools, within};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longer than any test, shorter than a client's patience where the script sets that.
const QUEUED: &str = "[[lock_keys]]\nmatch = '*lock:*'\nwait = '50s'\n[[lock_keys]]\nmatch = '*:lock'\nwait = '50s'\n";
/// redis-py gives up a reply after five seconds unless it is told otherwise.
const QUEUED_BRIEFLY: &str =
    "[[lock_keys]]\nmatch = '*lock:*'\nwait = '4s'\n[[lock_keys]]\nmatch = '*:lock'\nwait = '4s'\n";

/// Workers of `tests/clients/*/order.*`.
const IN_LINE: usize = 6;
/// Workers times rounds of `tests/clients/*/workers.*`.
const COUNTED: usize = 96;

/// Two nodes on one server, and a door to both.
struct Nodes {
    relay: Relay,
    nodes: [Lockgate; 2],
    server: RedisServer,
}

impl Nodes {
    fn with(kind: ServerKind, config: &str) -> Self {
        let server = RedisServer::start_with(kind, &[]);
        let nodes = [Lockgate::before_with(&server, config), Lockgate::before_with(&server, config)];
        Self { relay: Relay::before(nodes.iter().map(Lockgate::addr).collect()), nodes, server }
    }

    fn port(&self) -> String {
        self.relay.addr().port().to_string()
    }

    /// Waits until so many clients of both nodes together wait for locks.
    #[track_caller]
    fn await_waiters(&self, key: &str, count: usize) {
        let mut look = self.nodes[0].wire();
        // A client whose call is still on its way has not arrived.
        eventually(&format!("{count} clients wait"), || {
            let waiters = look.run(&format!("LOCK.INFO {key}")).field("waiters");
            (waiters == Reply::Int(count as i64)).then_some(())
        });
    }
}

fn script(name: &str) -> Command {
    let scripts = tools::source_dir().join("tests/clients");
    if name.ends_with(".mjs") {
        let mut node = Command::new("node");
        node.arg(scripts.join("node").join(name));
        return node;
    }
    let mut python = Command::new(tools::target_dir().join("test-venv/bin/python"));
    python.arg(scripts.join("python").join(name));
    python
}

/// Waits for a good end (at most a minute); returns what was written.
#[track_caller]
fn ends_well(mut child: Child) -> String {
    drop(child.stdin.take());
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut all = String::new();
            let _ = pipe.unwrap().read_to_string(&mut all);
            all
        })
    };
    let out = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = within(Duration::from_secs(60), || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let written = format!("{}{}", out.join().unwrap(), err.join().unwrap());
    assert!(status.is_some_and(|status| status.success()), "it ended with {status:?}; it wrote:\n{written}");
    written
}

fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/setup-tests.sh has run")
}

/// Workers ask one after the other, alternately through both nodes, for a lock that is held; then it comes free.
#[track_caller]
fn are_granted_in_arrival_order_without_polling(name: &str, library: &str, key: &str) {
    let nodes = Nodes::with(ServerKind::Redis70, QUEUED);
    let mut holder = nodes.nodes[0].wire();
    assert_eq!(holder.call(&["SET", key, "holder", "NX", "PX", "120000"]), b"+OK\r\n");
    let mut child = start(script(name).args([nodes.port().as_str(), library, &IN_LINE.to_string()]));
    for number in 0..IN_LINE {
        child.stdin.as_mut().unwrap().write_all(b"next\n").unwrap();
        nodes.await_waiters(key, number + 1);
    }
    assert_eq!(holder.run(&format!("DEL {key}")), Reply::Int(1));
    ends_well(child);
    let order = nodes.server.wire().run("LRANGE order 0 -1");
    let expected: Vec<Reply> = (0..IN_LINE).map(|number| Reply::bulk(number.to_string())).collect();
    assert_eq!(order, Reply::Array(expected));
    assert_eq!(nodes.relay.tries(), IN_LINE, "SET NX commands that the clients sent");
}

/// Eight workers count to 96 under the lock; returns how often they asked for it.
#[track_caller]
fn tries_to_count(kind: ServerKind, config: &str, name: &str, variant: &str) -> usize {
    let nodes = Nodes::with(kind, config);
    let written = ends_well(start(script(name).args([nodes.port().as_str(), "counter", variant])));
    assert!(written.contains("counted to 96"), "{written}");
    nodes.relay.tries()
}

macro_rules! libraries {
    ($($name:ident: $order:literal $library:literal $key:literal, $count:literal $variant:literal, $wait:ident;)*) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn is_granted_in_arrival_order_without_polling() {
                    are_granted_in_arrival_order_without_polling($order, $library, $key);
                }

                #[test]
                fn asks_once_for_each_acquisition() {
                    for kind in ServerKind::ALL {
                        assert_eq!(tries_to_count(kind, $wait, $count, $variant), COUNTED, "{}", kind.name());
                    }
                }

                #[test]
                fn polls_as_ever_where_no_rule_has_a_wait() {
                    assert!(tries_to_count(ServerKind::Redis70, "", $count, $variant) >= COUNTED);
                }
            }
        )*
    };
}

libraries! {
    ioredis_5: "order.mjs" "ioredis5" "lock:order", "set-nx.mjs" "ioredis5", QUEUED;
    ioredis_6: "order.mjs" "ioredis6" "lock:order", "set-nx.mjs" "ioredis6", QUEUED;
    node_redis: "order.mjs" "node-redis" "lock:order", "set-nx.mjs" "node-redis", QUEUED;
    redis_semaphore: "order.mjs" "redis-semaphore" "mutex:order:lock", "redis-semaphore.mjs" "ioredis6", QUEUED;
    redis_py: "order.py" "redis-py" "lock:order", "redis_py_lock.py" "3", QUEUED_BRIEFLY;
    python_redis_lock: "order.py" "python-redis-lock" "lock:order", "python_redis_lock.py" "", QUEUED_BRIEFLY;
    redlock: "order.mjs" "redlock" "lock:order", "redlock.mjs" "ioredis6", QUEUED;
    pottery: "order.py" "pottery" "redlock:order", "pottery_redlock.py" "", QUEUED_BRIEFLY;
}

/// A waiting call yields, so that the other parts of a program that share its client are not held up.
#[test]
fn ioredis_shared_by_a_whole_program_is_not_held_up_by_a_wait() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, QUEUED);
    for library in ["ioredis5", "ioredis6"] {
        let mut holder = lockgate.wire();
        assert_eq!(holder.call(&["SET", "lock:queued", "holder", "NX", "PX", "120000"]), b"+OK\r\n");
        assert_eq!(holder.call(&["SET", "work", "0"]), b"+OK\r\n");
        let child = start(script("queued-lock.mjs").args([&lockgate.port().to_string(), library, "shared"]));
        eventually("the program goes on beside the call", || {
            let done = holder.run("GET work").text().parse::<u32>().unwrap();
            (done > 100).then_some(())
        });
        assert_eq!(holder.run("DEL lock:queued"), Reply::Int(1));
        let written = ends_well(child);
        assert!(written.contains("got it"), "{written}");
    }
}

/// A node ends while a library waits in its queue: it is told no, reconnects to another node, and gets the lock there.
#[test]
fn libraries_that_wait_while_a_node_ends_get_their_lock_from_another_one() {
    let programs = [
        (QUEUED_BRIEFLY, "queued_lock.py", ["", ""]),
        (QUEUED, "queued-lock.mjs", ["ioredis5", "alone"]),
        (QUEUED, "queued-lock.mjs", ["ioredis6", "alone"]),
    ];
    for (config, name, words) in programs {
        let mut nodes = Nodes::with(ServerKind::Redis70, config);
        let mut holder = nodes.server.wire();
        assert_eq!(holder.call(&["SET", "lock:queued", "holder", "PX", "120000"]), b"+OK\r\n");
        let child = start(script(name).arg(nodes.port()).args(words));
        eventually("it waits at the first node", || {
            let mut look = nodes.nodes[0].wire();
            (look.run("LOCK.INFO lock:queued").field("waiters") == Reply::Int(1)).then_some(())
        });
        nodes.nodes[0].terminate();
        assert_eq!(nodes.nodes[0].exit().code(), Some(0));
        assert_eq!(holder.run("DEL lock:queued"), Reply::Int(1));
        let written = ends_well(child);
        assert!(written.contains("got it"), "{name}: {written}");
    }
}
