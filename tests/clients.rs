//! Unmodified clients and lock libraries against a running Lockgate: each with eight workers on one lock and a counter
//! that must lose no update. The scripts are in `tests/clients/`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, ServerKind, eventually, tools};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A script of `tests/clients` and its further arguments (after the port and the counter's name).
enum Client {
    Node(&'static str, &'static str),
    Python(&'static str, &'static str),
}

impl Client {
    fn command(&self, addr: SocketAddr) -> Command {
        let scripts = tools::source_dir().join("tests/clients");
        let (mut command, variant) = match self {
            Self::Node(script, variant) => {
                let folder = scripts.join("node");
                assert!(
                    folder.join("node_modules").exists(),
                    "run scripts/setup-tests.sh first (or npm ci in {folder:?})"
                );
                let mut node = Command::new("node");
                node.arg(folder.join(script));
                (node, variant)
            }
            Self::Python(script, variant) => {
                let mut python = Command::new(python());
                python.arg(scripts.join("python").join(script));
                (python, variant)
            }
        };
        command.args([&addr.port().to_string(), "counter", variant]);
        command
    }

    /// Runs the eight workers; they check the counter themselves.
    #[track_caller]
    fn counts_without_losing_an_update(&self, kind: ServerKind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let output = run(self.command(lockgate.addr()));
        assert!(output.contains("counted to 96"), "{output}");
        lockgate.wire().assert_nothing_waits();
    }
}

fn python() -> PathBuf {
    let python = tools::target_dir().join("test-venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/setup-tests.sh first", python.display());
    python
}

/// Runs to the end, which must be a good one; returns what was written.
#[track_caller]
fn run(command: Command) -> String {
    let (output, written) = finish(command, b"");
    assert!(output.status.success(), "it ended with {}:\n{written}", output.status);
    written
}

/// Feeds `input`, waits for the end (at most a minute) and returns it with all that was written.
#[track_caller]
fn finish(mut command: Command, input: &[u8]) -> (Output, String) {
    let what = format!("{command:?} ends");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = pipe.read_to_end(&mut all);
            all
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let status = common::within(Duration::from_secs(60), || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
    }
    feeder.join().unwrap();
    let output = Output { status: child.wait().unwrap(), stdout: out.join().unwrap(), stderr: err.join().unwrap() };
    let written = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(status.is_some(), "this never came to be within a minute: {what}; it wrote:\n{written}");
    (output, written)
}

fn redis_cli(addr: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &addr.port().to_string()]).args(arguments);
    command
}

/// What redis-cli prints for one command.
#[track_caller]
fn says(addr: SocketAddr, arguments: &[&str]) -> String {
    run(redis_cli(addr, arguments)).trim_end().to_owned()
}

macro_rules! on_every_server {
    ($($name:ident($kind:ident) $body:block)*) => {
        mod redis_7_0 {
            use super::*;
            $(#[test] fn $name() { let $kind = ServerKind::Redis70; $body })*
        }
        mod redis_8_2 {
            use super::*;
            $(#[test] fn $name() { let $kind = ServerKind::Redis82; $body })*
        }
        mod valkey_9_1 {
            use super::*;
            $(#[test] fn $name() { let $kind = ServerKind::Valkey91; $body })*
        }
    };
}

on_every_server! {
    ioredis_5_queues_with_lock_acquire(kind) {
        Client::Node("ioredis.mjs", "ioredis5").counts_without_losing_an_update(kind);
    }

    ioredis_6_queues_with_lock_acquire(kind) {
        Client::Node("ioredis.mjs", "ioredis6").counts_without_losing_an_update(kind);
    }

    node_redis_queues_with_lock_acquire_in_resp2(kind) {
        Client::Node("node-redis.mjs", "2").counts_without_losing_an_update(kind);
    }

    node_redis_queues_with_lock_acquire_in_resp3(kind) {
        Client::Node("node-redis.mjs", "3").counts_without_losing_an_update(kind);
    }

    redlock_over_ioredis_5_excludes(kind) {
        Client::Node("redlock.mjs", "ioredis5").counts_without_losing_an_update(kind);
    }

    redlock_over_ioredis_6_excludes(kind) {
        Client::Node("redlock.mjs", "ioredis6").counts_without_losing_an_update(kind);
    }

    redis_semaphore_over_ioredis_5_excludes(kind) {
        Client::Node("redis-semaphore.mjs", "ioredis5").counts_without_losing_an_update(kind);
    }

    redis_semaphore_over_ioredis_6_excludes(kind) {
        Client::Node("redis-semaphore.mjs", "ioredis6").counts_without_losing_an_update(kind);
    }

    redis_py_queues_with_lock_acquire_in_resp2(kind) {
        Client::Python("redis_py_queue.py", "2").counts_without_losing_an_update(kind);
    }

    redis_py_queues_with_lock_acquire_in_resp3(kind) {
        Client::Python("redis_py_queue.py", "3").counts_without_losing_an_update(kind);
    }

    redis_pys_own_lock_excludes_in_resp2(kind) {
        Client::Python("redis_py_lock.py", "2").counts_without_losing_an_update(kind);
    }

    redis_pys_own_lock_excludes_in_resp3(kind) {
        Client::Python("redis_py_lock.py", "3").counts_without_losing_an_update(kind);
    }

    python_redis_lock_excludes(kind) {
        Client::Python("python_redis_lock.py", "").counts_without_losing_an_update(kind);
    }

    pottery_excludes(kind) {
        Client::Python("pottery_redlock.py", "").counts_without_losing_an_update(kind);
    }

    redis_cli_talks_as_ever(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let addr = lockgate.addr();
        assert_eq!(says(addr, &["PING"]), "PONG");
        assert_eq!(says(addr, &["SET", "k", "a value"]), "OK");
        assert_eq!(says(addr, &["GET", "k"]), "a value");
        assert_eq!(says(addr, &["-3", "HSET", "h", "f", "v"]), "1");
        assert_eq!(says(addr, &["-3", "--json", "HGETALL", "h"]), r#"{"f":"v"}"#);
        assert_eq!(says(addr, &["-n", "3", "EXISTS", "k"]), "0");
        assert!(says(addr, &["NOPE"]).starts_with("ERR unknown command"));
        assert!(says(addr, &["LOCK.ACQUIRE", "orders:1", "ann"]).parse::<u64>().unwrap() > 0);
        assert_eq!(says(addr, &["LOCK.ACQUIRE", "orders:1", "bob"]), "");
        assert_eq!(says(addr, &["LOCK.POSITION", "orders:1", "ann"]), "0");
        let info = says(addr, &["-3", "--json", "LOCK.INFO", "orders:1"]);
        assert!(info.contains(r#""owner":"ann""#), "{info}");
        assert_eq!(says(addr, &["LOCK.RELEASE", "orders:1", "ann"]), "1");
        assert_eq!(says(addr, &["--scan"]).lines().filter(|key| *key == "orders:1").count(), 0);
    }

    redis_cli_types_ahead_from_standard_input(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let (output, written) = finish(
            redis_cli(lockgate.addr(), &[]),
            b"SET k 1\nMULTI\nINCR k\nINCR k\nEXEC\nLOCK.ACQUIRE l ann\nLOCK.RELEASE l ann\nSUBSCRIBE\nGET k\n",
        );
        assert!(output.status.success());
        let lines: Vec<&str> = written.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[..6], ["OK", "OK", "QUEUED", "QUEUED", "2", "3"], "{written}");
        assert!(lines[6].parse::<u64>().is_ok_and(|fence| fence > 0), "{written}");
        assert_eq!(lines[7], "1", "{written}");
        assert!(lines[8].starts_with("ERR wrong number of arguments for 'subscribe'"), "{written}");
        assert_eq!(lines[9..], ["3"], "{written}");
    }

    redis_cli_shows_hints_for_lock_commands(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let mut hints = Command::new(python());
        hints.arg(tools::source_dir().join("tests/clients/python/redis_cli_hints.py"));
        hints.arg(lockgate.port().to_string());
        hints.args(["SET ", "key value ["]);
        // The line is emptied by running it, whatever comes of it.
        hints.args(["k v\\r", "OK"]);
        hints.args(["LOCK.ACQUIRE ", "key owner ["]);
        hints.args(["orders:1 ann\\r", "(integer)"]);
        hints.args(["LOCK.REL\\t", "LOCK.RELEASE"]);
        hints.args([" orders:1 ann\\r", "(integer) 1"]);
        run(hints);
    }

    redis_cli_pipes_in_bulk(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        let mut input = Vec::new();
        for i in 0..20_000 {
            input.extend(common::command(&["SET", &format!("key:{i}"), "value"]));
        }
        let (output, written) = finish(redis_cli(lockgate.addr(), &["--pipe"]), &input);
        assert!(output.status.success(), "{written}");
        assert!(written.contains("errors: 0, replies: 20000"), "{written}");
        assert_eq!(server.wire().run("DBSIZE").int(), 20_000);
    }

    redis_benchmark_runs_its_usual_tests(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        for depth in ["1", "16"] {
            let written = benchmark(&lockgate, &["-n", "4000", "-c", "20", "-P", depth, "-t", "ping,set,get,lpush,lrange_100,mset"]);
            assert!(written.contains("\"SET\","), "{written}");
        }
        eventually("the benchmark's connections are gone from the server", || {
            let clients = String::from_utf8_lossy(&server.side_wire().call(&["INFO", "clients"])).into_owned();
            let count = clients.lines().find_map(|line| line.strip_prefix("connected_clients:"))?.parse::<usize>().ok()?;
            // What stays are the few links that everybody shares, and the connection that asks.
            (count <= 12).then_some(())
        });
    }

    redis_benchmark_measures_locks(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        for depth in ["1", "16"] {
            let common = ["-n", "2000", "-c", "10", "-P", depth, "-r", "50"];
            let lock = "orders:__rand_int__";
            let acquire = benchmark(&lockgate, &[&common[..], &["LOCK.ACQUIRE", lock, "bench", "TTL", "60000"]].concat());
            assert!(acquire.contains("LOCK.ACQUIRE"), "{acquire}");
            assert!(server.wire().run("DBSIZE").int() >= 50, "the locks are keys of the server");
            benchmark(&lockgate, &[&common[..], &["LOCK.RELEASE", lock, "bench"]].concat());
        }
    }

    a_worker_that_dies_leaves_its_lock_to_the_next_one(kind) {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        // redis-cli takes the lock and is gone; the lease ends, and who waits is next.
        let first: u64 = says(lockgate.addr(), &["LOCK.ACQUIRE", "orders:1", "ann", "TTL", "300"]).parse().unwrap();
        let second: u64 = says(lockgate.addr(), &["LOCK.ACQUIRE", "orders:1", "bob", "WAIT", "20000"]).parse().unwrap();
        assert!(second > first);
    }
}

/// Runs redis-benchmark, which ends badly at the first error that is answered.
#[track_caller]
fn benchmark(lockgate: &Lockgate, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &lockgate.port().to_string(), "--csv"]).args(arguments);
    run(command)
}

/// A test of the tests: without a lock the counter loses updates, so a count that is right means something.
#[test]
fn the_counter_notices_when_there_is_no_lock() {
    let server = RedisServer::start();
    let (output, written) = finish(Client::Node("unlocked.mjs", "ioredis6").command(server.addr()), b"");
    assert!(!output.status.success() && written.contains("updates were lost"), "{written}");
}
