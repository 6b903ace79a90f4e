//! `lockgate bench`, `lockgate learn` and `lockgate top`: what is measured, what is made of what clients do, what is shown.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Stage, eventually, tools};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

fn lockgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn json(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn bench_measures_three_parts_and_leaves_nothing_behind() {
    let stage = Stage::new();
    let url = format!("redis://{}", stage.lockgate.addr());
    let arguments = ["bench", "--duration", "300ms", "--connections", "3", "--json", "--connect", &url];
    let parts = json(&lockgate(&arguments).output().unwrap());
    let names: Vec<&str> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, ["alone", "in line", "polling"]);
    for part in &parts {
        assert!(part["locks"].as_u64().unwrap() > 0, "{part}");
        assert!(part["p50_ms"].as_f64().unwrap() <= part["longest_ms"].as_f64().unwrap() + 0.1, "{part}");
    }
    for part in &parts[..2] {
        let commands = part["commands_per_lock"].as_f64().unwrap();
        assert!((2.0..3.0).contains(&commands), "one to ask and one to let go, and what was cut off: {part}");
    }
    assert_eq!(stage.bypass().run("KEYS lockgate-bench:*").items().len(), 0);
    let table = lockgate(&["bench", "--duration", "100ms", "--rate", "50", "--connect", &url]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("COMMANDS/LOCK") && table.contains("50 locks a second asked for"), "{table}");
}

#[test]
fn bench_needs_a_lockgate() {
    let server = common::server::RedisServer::start();
    let output = lockgate(&["bench", "--duration", "100ms", "--connect", &server.url()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown command"), "it says why");
}

/// Begins to watch that server; returns when it does.
fn watching(addr: SocketAddr, side: &mut common::wire::Wire, arguments: &[&str]) -> Child {
    let url = format!("redis://{addr}");
    let child = lockgate(&[&["learn", "--duration", "3s", "--connect", &url], arguments].concat()).spawn().unwrap();
    eventually("it watches", || side.run("CLIENT LIST").text().contains("cmd=monitor").then_some(()));
    child
}

#[test]
fn learn_tells_locks_of_libraries_from_a_cache() {
    let server = common::server::RedisServer::start();
    let mut side = server.wire();
    let child = watching(server.addr(), &mut side, &["--json"]);
    // redis-py's own Lock beside a cache, marks and sessions.
    let script = format!(
        "import redis, time\n\
         r = redis.Redis(port={})\n\
         for n in range(3):\n    \
             one = r.lock(f'py:{{n}}:guard', timeout=5, blocking=False)\n    \
             two = r.lock(f'py:{{n}}:guard', timeout=5, blocking=False)\n    \
             assert one.acquire() and not two.acquire()\n    \
             one.release()\n    \
             assert r.set(f'page:{{n}}', '<html>', nx=True, ex=60)\n    \
             r.get(f'page:{{n}}'), r.get(f'page:{{n}}')\n    \
             r.set(f'session:{{n}}', 'data', ex=60)\n    \
             r.delete(f'session:{{n}}', f'page:{{n}}')\n    \
             r.set(f'seen:{{n}}', 1, nx=True, ex=86400)\n",
        server.port()
    );
    let python = Command::new(tools::target_dir().join("test-venv/bin/python")).arg("-c").arg(script).status();
    assert!(python.unwrap().success(), "scripts/setup-tests.sh makes the environment");
    let found = json(&child.wait_with_output().unwrap());
    let names: Vec<&str> = found.iter().map(|family| family["match"].as_str().unwrap()).collect();
    assert_eq!(names, ["py:*:guard"], "{found:?}");
    assert_eq!((found[0]["taken"].as_u64(), found[0]["refused"].as_u64()), (Some(3), Some(3)), "{found:?}");
    assert_eq!(found[0]["queued"], Value::Bool(false));
}

#[test]
fn learn_proposes_rules_and_knows_what_is_queued() {
    let stage = Stage::new();
    let mut side = stage.bypass();
    let child = watching(stage.lockgate.addr(), &mut side, &[]);
    let mut client = stage.client();
    client.run("SET orders:17 x NX PX 60000");
    client.run("SET orders:17 y NX PX 60000");
    client.run("DEL orders:17");
    client.run("SET job:lock x NX PX 60000");
    client.run("LOCK.ACQUIRE deploy ann TTL 1000");
    let output = child.wait_with_output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    for part in ["[[lock_keys]]\nmatch = \"orders:*\"\nwait = \"5s\"", "1 tries found their lock taken"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    for name in ["deploy", "job:lock"] {
        assert!(
            report.lines().any(|line| line.starts_with(name) && line.ends_with("queued by Lockgate")),
            "{name}: {report}"
        );
    }
}

#[test]
fn top_is_a_table_where_there_is_no_terminal() {
    let stage = Stage::new();
    stage.client().run("LOCK.ACQUIRE orders:1 ann TTL 60000 PRIORITY high");
    let url = format!("redis://{}", stage.lockgate.addr());
    let output = lockgate(&["top", "--connect", &url]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("KEY") && lines[1].starts_with("orders:1  ann") && lines[1].contains("high"),
        "{table}"
    );
    let nobody = lockgate(&["top", "--connect", "redis://127.0.0.1:1"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
}

#[test]
fn top_on_a_terminal_shows_what_changes_and_ends_with_q() {
    use std::io::{Read, Write};
    let stage = Stage::new();
    let program = env!("CARGO_BIN_EXE_lockgate");
    let shell =
        format!("stty rows 30 cols 120; exec {program} top --every 100ms --connect redis://{}", stage.lockgate.addr());
    let mut child = Command::new("script")
        .args(["-qefc", &shell, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, screen) = (child.stdout.take().unwrap(), std::sync::Arc::new(std::sync::Mutex::new(String::new())));
    let told = screen.clone();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = out.read(&mut chunk) {
            told.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    });
    eventually("it shows the frame", || screen.lock().unwrap().contains("q quit").then_some(()));
    stage.client().run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    eventually("it shows the lock", || screen.lock().unwrap().contains("orders:1").then_some(()));
    child.stdin.take().unwrap().write_all(b"q").unwrap();
    let ended = eventually("it ends", || child.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    reader.join().unwrap();
}
