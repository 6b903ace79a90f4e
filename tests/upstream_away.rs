//! The upstream goes away and comes back: what was not sent is held, what was sent ends its connection as a Redis that restarts
//! ends it, and `LOCK.*` is told at once.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::wire::Silence;
use common::{Lockgate, PATIENCE, RedisServer, Reply, Stage, Wire, eventually, tools, within};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Held for longer than any test takes.
const HELD: &str = "[links]\nhold = '60s'\n";
/// Held for a time that a test can wait for.
const BRIEFLY: &str = "[links]\nhold = '300ms'\n";
/// Not held, and told so.
const TOLD: &str = "when_away = 'error'\n[links]\nhold = '300ms'\n";
const OK: fn() -> Reply = || Reply::Simple("OK".into());

/// A stage whose server has just gone, which Lockgate knows.
fn deserted(config: &str) -> Stage {
    let mut stage = Stage::with(config);
    assert_eq!(stage.client().run("SET k v"), OK());
    stage.server.kill();
    is_away(&stage.lockgate);
    stage
}

fn is_away(lockgate: &Lockgate) {
    let mut ann = lockgate.wire();
    eventually("Lockgate finds its upstream away", || {
        ann.run("LOCK.RELEASE away ann").is_error("UNAVAILABLE").then_some(())
    });
}

/// Sends each command on a connection of its own.
fn ask_all(stage: &Stage, lines: &[&str]) -> Vec<Wire> {
    let ask = |line: &&str| {
        let mut wire = stage.client();
        wire.ask_line(line);
        wire
    };
    lines.iter().map(ask).collect()
}

#[track_caller]
fn is_closed_without_a_word(wire: &mut Wire) {
    match wire.try_frame(PATIENCE) {
        Err(Silence::Closed(rest)) if rest.is_empty() => {}
        other => panic!("a connection that ends, and nothing on it, not {other:?}"),
    }
}

/// Of every kind: shared, answered here over the upstream, on a link of its own, a lock by SET NX, a handshake.
const KINDS: [&str; 8] = [
    "GET new",
    "COMMAND COUNT",
    "MULTI",
    "BLPOP list 0.1",
    "SET lock:1 v NX PX 60000",
    "HELLO 3",
    "SELECT 3",
    "EVAL return(1) 0",
];

#[test]
fn what_was_not_sent_is_held_until_the_upstream_is_back() {
    let mut stage = deserted(HELD);
    let mut held = ask_all(&stage, &KINDS);
    held.iter_mut().for_each(Wire::still_waits);
    stage.server.restart();
    for (wire, line) in held.iter_mut().zip(KINDS) {
        let reply = wire.reply();
        assert!(!matches!(reply, Reply::Error(_)), "{line}: {reply:?}");
    }
    assert_eq!(stage.bypass().run("GET lock:1"), Reply::bulk("v"));
}

#[test]
fn a_pipeline_is_held_whole_and_in_order() {
    let mut stage = deserted(HELD);
    let mut ann = stage.client();
    for number in 0..200 {
        ann.ask_line(&format!("RPUSH list {number}"));
    }
    ann.ask_line("LRANGE list 0 1");
    ann.still_waits();
    stage.server.restart();
    for number in 1..=200 {
        assert_eq!(ann.reply(), Reply::Int(number));
    }
    assert_eq!(ann.reply(), Reply::Array(vec![Reply::bulk("0"), Reply::bulk("1")]));
}

#[test]
fn what_is_held_for_too_long_ends_its_connection() {
    let stage = deserted(BRIEFLY);
    for (mut wire, line) in ask_all(&stage, &KINDS).into_iter().zip(KINDS) {
        let begun = Instant::now();
        is_closed_without_a_word(&mut wire);
        assert!(begun.elapsed() < Duration::from_secs(5), "{line}: {:?}", begun.elapsed());
    }
}

#[test]
fn with_when_away_error_the_client_is_told_and_keeps_its_connection() {
    let mut stage = deserted(TOLD);
    let mut all = ask_all(&stage, &KINDS);
    for (wire, line) in all.iter_mut().zip(KINDS) {
        let reply = wire.reply();
        assert!(reply.is_error("UNAVAILABLE"), "{line}: {reply:?}");
        let Reply::Error(says) = &reply else { panic!("{reply:?}") };
        assert!(!says.contains("unknown") && !says.contains("may or may not"), "it was never sent: {says}");
    }
    stage.server.restart();
    for wire in &mut all {
        assert_eq!(wire.run("SET k v"), OK());
    }
}

#[test]
fn a_lock_command_that_need_not_wait_is_told_at_once_and_a_waiting_one_waits() {
    let mut stage = deserted(HELD);
    let mut bob = stage.client();
    bob.waits_for("orders:2", "bob");
    let mut ann = stage.client();
    let lines =
        ["LOCK.ACQUIRE orders:1 ann", "LOCK.RELEASE orders:1 ann", "LOCK.INFO orders:1", "LOCK.GUARD orders:1 1 GET x"];
    for line in lines {
        let begun = Instant::now();
        assert!(ann.run(line).is_error("UNAVAILABLE"), "{line}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{line}: {:?}", begun.elapsed());
    }
    bob.still_waits();
    stage.server.restart();
    bob.is_granted();
    eventually("and the others too", || matches!(ann.run("LOCK.ACQUIRE orders:1 ann"), Reply::Int(1..)).then_some(()));
}

#[test]
fn where_what_was_sent_may_have_run_the_connection_ends() {
    let mut stage = Stage::with(BRIEFLY);
    let (mut ann, mut bob, mut own) = (stage.client(), stage.client(), stage.client());
    assert_eq!(bob.run("SET k v"), OK());
    assert_eq!(own.run("WATCH k"), OK());
    stage.server.freeze();
    ann.ask_line("GET k");
    ann.still_waits();
    stage.server.kill();
    is_closed_without_a_word(&mut ann);
    is_closed_without_a_word(&mut own);
    // Nothing of his was under way.
    stage.server.restart();
    assert_eq!(bob.run("GET k"), Reply::Nil);
}

#[test]
fn what_came_before_the_loss_is_still_delivered() {
    let mut stage = Stage::with(BRIEFLY);
    let mut ann = stage.client();
    stage.bypass().call(&["SET", "k", &"x".repeat(20_000)]);
    for _ in 0..5 {
        ann.ask_line("GET k");
    }
    assert_eq!(ann.frame().len(), "$20000\r\n".len() + 20_000 + 2);
    ann.ask_line("ECHO x");
    eventually("all of it has run", || {
        let calls = stage.bypass().run("INFO commandstats").text();
        calls.lines().any(|line| line.starts_with("cmdstat_echo:calls=")).then_some(())
    });
    // A server writes its replies at the end of a turn, and may have told the count before that: one turn later they are written.
    stage.bypass().run("PING");
    stage.server.freeze();
    ann.ask_line("GET k");
    stage.server.kill();
    let came = ann.until_closed(PATIENCE).unwrap_or_else(|came| panic!("open, after {} bytes", came.len()));
    let whole = 4 * ("$20000\r\n".len() + 20_000 + 2) + "$1\r\nx\r\n".len();
    assert!(came.len() == whole, "{} bytes of {whole}", came.len());
}

#[test]
fn a_client_that_leaves_while_its_command_is_held_is_let_go() {
    let mut stage = deserted(BRIEFLY);
    drop(ask_all(&stage, &KINDS));
    stage.server.restart();
    let mut ann = stage.client();
    eventually("they are gone", || (ann.run("CLIENT LIST").text().lines().count() == 1).then_some(()));
}

#[test]
fn what_is_held_for_many_stays_small() {
    let stage = deserted(HELD);
    let before = tools::resident_bytes(stage.lockgate.pid());
    let mut crowd: Vec<Wire> = (0..50).map(|_| stage.client()).collect();
    let some = common::command(&["SET", "k", &"x".repeat(10_000)]).repeat(1000);
    for wire in &mut crowd {
        // It takes a part, and then no more.
        let taken = wire.send_for(&some, Duration::from_millis(100));
        assert!(taken < some.len());
    }
    let grown = tools::resident_bytes(stage.lockgate.pid()).saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes for 50 clients with 10 MB each");
}

/// How long a program may take to start on a machine that is busy with everything else.
const STARTED: Duration = Duration::from_secs(60);

/// A program that must not notice.
struct Program {
    child: Child,
    steps: std::sync::mpsc::Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("scripts/setup-tests.sh has run");
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, steps) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, steps }
    }

    #[track_caller]
    fn goes_on(&self) {
        // What it had printed before tells nothing.
        while self.steps.try_recv().is_ok() {}
        for _ in 0..3 {
            self.steps.recv_timeout(STARTED).expect("the program goes on");
        }
    }

    #[track_caller]
    fn ends_well(mut self) {
        drop(self.child.stdin.take());
        let status = within(PATIENCE, || self.child.try_wait().unwrap());
        let said: Vec<String> = self.steps.iter().collect();
        assert!(status.is_some_and(|status| status.success()), "{status:?}; it said {said:?}");
        assert!(said.last().is_some_and(|line| line.starts_with("rode it out")), "{said:?}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same program once on the server itself and once through Lockgate, over a restart that takes so long.
fn rides_out(program: impl Fn(u16) -> Command) {
    let mut server = RedisServer::start();
    let lockgate = Lockgate::before(&server);
    let programs = [server.port(), lockgate.port()].map(|port| Program::start(&mut program(port)));
    for _ in 0..2 {
        programs.iter().for_each(Program::goes_on);
        server.kill();
        // The time for which it is away is what this test is about.
        std::thread::sleep(Duration::from_millis(1300));
        server.restart();
        programs.iter().for_each(Program::goes_on);
    }
    for program in programs {
        program.ends_well();
    }
}

#[test]
fn redis_py_rides_out_a_restart() {
    rides_out(|port| {
        let mut python = Command::new(tools::target_dir().join("test-venv/bin/python"));
        python.arg(tools::source_dir().join("tests/clients/python/ride_out.py")).arg(port.to_string());
        python
    });
}

#[test]
fn ioredis_rides_out_a_restart() {
    for library in ["ioredis5", "ioredis6"] {
        rides_out(|port| {
            let mut node = Command::new("node");
            node.arg(tools::source_dir().join("tests/clients/node/ride-out.mjs")).args([&port.to_string(), library]);
            node
        });
    }
}
