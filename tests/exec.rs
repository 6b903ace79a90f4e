//! `lockgate exec`: a command under a lock.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, Stage, eventually, tools, within};
use nix::sys::signal::Signal;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn exec(stage: &Stage, options: &[&str], command: &[&str]) -> Command {
    let mut exec = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    let url = format!("redis://{}", stage.lockgate.addr());
    exec.env("LOCKGATE_CONNECT", url).args(["exec", "deploy"]).args(options).arg("--").args(command);
    exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    exec
}

/// Starts a shell script under the lock; returns when it has come to `ready`.
#[track_caller]
fn running(stage: &Stage, options: &[&str], script: &str) -> Child {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = script.replace("ready", &format!("touch {}", ready.display()));
    let child = exec(stage, options, &["sh", "-c", &script]).spawn().unwrap();
    eventually("the command runs", || ready.exists().then_some(()));
    child
}

/// Waits for its end; its exit code and what it wrote.
#[track_caller]
fn ends(mut child: Child) -> (Option<i32>, String) {
    let status = within(Duration::from_secs(20), || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
    }
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (status.unwrap_or_else(|| panic!("it did not end: {out}{err}")).code(), out + &err)
}

#[test]
fn the_command_runs_under_the_lock_and_its_status_is_the_answer() {
    let stage = Stage::new();
    let child = exec(&stage, &[], &["sh", "-c", "echo fence=$LOCKGATE_FENCE key=$LOCKGATE_KEY; sleep 0.3; exit 7"])
        .spawn()
        .unwrap();
    let mut look = stage.client();
    let held = eventually("the lock is held", || match look.run("LOCK.INFO deploy").field("fence") {
        Reply::Int(fence) => Some(fence),
        _ => None,
    });
    let (code, wrote) = ends(child);
    assert_eq!(
        (code, wrote.as_str()),
        (Some(7), format!("fence={held} key=deploy\n").as_str()),
        "nothing is said in a pipe"
    );
    assert_eq!(look.run("EXISTS deploy"), Reply::Int(0), "it is let go of");
}

#[test]
fn those_who_come_later_stand_in_line_and_who_waits_too_long_is_told() {
    let stage = Stage::new();
    let mut holder = stage.client();
    assert!(holder.run("LOCK.ACQUIRE deploy holder TTL 60000").int() > 0);
    let (code, wrote) = ends(exec(&stage, &["--wait", "200ms"], &["true"]).spawn().unwrap());
    assert_eq!(code, Some(75), "{wrote}");
    assert!(wrote.contains("'deploy' was not free"), "{wrote}");
    let low = exec(
        &stage,
        &["--priority", "low"],
        &["sh", "-c", "redis-cli -h 127.0.0.1 -p $0 rpush order low", &stage.lockgate.port().to_string()],
    )
    .spawn()
    .unwrap();
    stage.await_waiters("deploy", 1);
    let high = exec(
        &stage,
        &["--priority", "high"],
        &["sh", "-c", "redis-cli -h 127.0.0.1 -p $0 rpush order high", &stage.lockgate.port().to_string()],
    )
    .spawn()
    .unwrap();
    stage.await_waiters("deploy", 2);
    assert_eq!(holder.run("LOCK.RELEASE deploy holder"), Reply::Int(1));
    assert_eq!((ends(high).0, ends(low).0), (Some(0), Some(0)));
    assert_eq!(holder.run("LRANGE order 0 -1"), Reply::Array(vec![Reply::bulk("high"), Reply::bulk("low")]));
}

#[test]
fn a_short_lease_is_kept_for_as_long_as_the_command_runs() {
    let stage = Stage::new();
    let child = exec(&stage, &["--ttl", "300ms"], &["sleep", "1.2"]).spawn().unwrap();
    let mut look = stage.client();
    let fence = eventually("the lock is held", || match look.run("LOCK.INFO deploy").field("fence") {
        Reply::Int(fence) => Some(fence),
        _ => None,
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        assert_eq!(look.run("LOCK.INFO deploy").field("fence"), Reply::Int(fence));
    }
    assert_eq!(ends(child).0, Some(0));
}

#[test]
fn a_lost_lock_ends_the_command() {
    let stage = Stage::new();
    let options = ["--ttl", "600ms", "--grace", "300ms"];
    let child = running(&stage, &options, "trap 'echo told; exit 0' TERM; ready; while :; do sleep 0.05; done");
    let lost = Instant::now();
    assert_eq!(stage.bypass().run("DEL deploy"), Reply::Int(1));
    let (code, wrote) = ends(child);
    assert!(lost.elapsed() < Duration::from_secs(2), "{:?}", lost.elapsed());
    assert_eq!(code, Some(1), "it is no success: {wrote}");
    assert!(wrote.contains("told") && wrote.contains("the lock 'deploy' is lost"), "{wrote}");
    // One that does not listen is killed after the grace.
    let child = running(&stage, &options, "trap '' TERM; ready; while :; do sleep 0.05; done");
    assert_eq!(stage.bypass().run("DEL deploy"), Reply::Int(1));
    let (code, wrote) = ends(child);
    assert_eq!(code, Some(128 + 9), "{wrote}");
}

#[test]
fn where_lockgate_ends_the_lock_is_lost() {
    let stage = Stage::new();
    let child = running(&stage, &["--ttl", "1s"], "ready; exec sleep 30");
    tools::signal(stage.lockgate.pid(), Signal::SIGKILL);
    let (code, wrote) = ends(child);
    assert_eq!(code, Some(128 + 15), "{wrote}");
    assert!(wrote.contains("is lost"), "{wrote}");
}

#[test]
fn signals_are_passed_on_and_a_killed_wrapper_frees_the_lock() {
    let stage = Stage::new();
    let child = running(&stage, &[], "trap 'exit 5' TERM; ready; while :; do sleep 0.05; done");
    tools::signal(child.id(), Signal::SIGTERM);
    assert_eq!(ends(child).0, Some(5));
    let child = running(&stage, &[], "ready; exec sleep 2");
    tools::signal(child.id(), Signal::SIGKILL);
    stage.await_free("deploy");
    drop(child);
}

#[test]
fn what_cannot_be_done_is_told() {
    let stage = Stage::new();
    let (code, wrote) = ends(exec(&stage, &[], &["/no/such/program"]).spawn().unwrap());
    assert_eq!(code, Some(127), "{wrote}");
    assert!(wrote.contains("cannot run /no/such/program"), "{wrote}");
    assert_eq!(stage.client().run("EXISTS deploy"), Reply::Int(0));
    let (code, _) = ends(exec(&stage, &["--wait", "soon"], &["true"]).spawn().unwrap());
    assert_eq!(code, Some(2));
    let mut nobody = exec(&stage, &[], &["true"]);
    nobody.env("LOCKGATE_CONNECT", format!("redis://127.0.0.1:{}", common::server::free_port()));
    let (code, wrote) = ends(nobody.spawn().unwrap());
    assert_eq!(code, Some(1), "{wrote}");
    assert!(wrote.contains("127.0.0.1:"), "{wrote}");
}
