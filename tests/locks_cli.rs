//! `lockgate locks`: the locks upstream, without a running Lockgate in between.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, Stage};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn locks(stage: &Stage, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(["locks", "--upstream", &stage.server.url()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn locks_are_listed_without_what_is_none() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000 PRIORITY high META batch");
    ann.run("SET job:lock w NX");
    ann.run("SET session:1 data EX 100");
    let list = told(&locks(&stage, &["list"], b""));
    let Reply::Int(fence) = fence else { panic!("{fence:?}") };
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("KEY"), "{list}");
    assert_eq!(lines.len(), 3, "no rule makes a lock of session:1: {list}");
    assert!(lines[1].starts_with("job:lock  w ") && lines[1].contains("never"), "{list}");
    for word in ["orders:1", "ann", &fence.to_string(), "high", "batch"] {
        assert!(lines[2].contains(word), "{word} in {list}");
    }
    assert_eq!(told(&locks(&stage, &["list", "--owner", "bob"], b"")).lines().count(), 1);
    assert_eq!(told(&locks(&stage, &["list", "--match", "orders:?"], b"")).lines().count(), 2);
}

#[test]
fn what_is_exported_is_imported_with_its_fences() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let Reply::Int(fence) = ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000 META batch") else { panic!("it is free") };
    ann.run("LOCK.ACQUIRE orders:2 bob TTL 60000");
    let exported = locks(&stage, &["export"], b"");
    assert_eq!(told(&exported).lines().count(), 2);
    let again = locks(&stage, &["import"], &exported.stdout);
    assert_eq!(again.status.code(), Some(1), "both stand there");
    assert!(text(&again.stderr).contains("0 written, 2 left as they are, 0 wrong"), "{}", text(&again.stderr));
    stage.bypass().run("FLUSHALL");
    told(&locks(&stage, &["import"], &exported.stdout));
    let info = ann.run("LOCK.INFO orders:1");
    assert_eq!(info.field("fence"), Reply::Int(fence));
    assert_eq!(info.field("owner"), Reply::bulk("ann"));
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann FENCE {fence}")), Reply::Int(1));
}

#[test]
fn a_table_of_locks_is_imported_and_later_fences_come_after_it() {
    let stage = Stage::new();
    let far = 9_007_199_254_000_000_u64 / 4;
    let table = format!(
        "{{\"key\":\"a\",\"owner\":\"w1\",\"ttl_ms\":60000}}\n\n{{\"key\":\"b\",\"owner\":\"w2\",\"ttl_ms\":60000,\"fence\":{far}}}\n\
         {{\"key\":\"c\",\"owner\":\"w3\",\"fence\":null,\"ttl_ms\":null}}\n"
    );
    told(&locks(&stage, &["import"], table.as_bytes()));
    let mut client = stage.client();
    let Reply::Int(later) = client.run("LOCK.ACQUIRE d ann TTL 1000") else { panic!("it is free") };
    assert!(later > i64::try_from(far).unwrap(), "{later} comes after {far}");
    assert_eq!(client.run("GET c"), Reply::bulk("w3"));
    assert_eq!(client.run("LOCK.RELEASE a w1"), Reply::Int(1));
    let wrong = locks(&stage, &["import"], b"{\"key\":\"e\"}\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).starts_with("lockgate: line 1: has no owner"), "{}", text(&wrong.stderr));
}

#[test]
fn force_gives_the_lock_to_the_next_waiter() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    let freed = told(&locks(&stage, &["force", "orders:1", "orders:2"], b""));
    assert_eq!(freed, "orders:1: freed; ann held it; the next waiter has it\norders:2: nobody holds it\n");
    bob.is_granted();
    ann.run("SET data 1");
    let refused = locks(&stage, &["force", "data"], b"");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("'data' is not a lock"), "{}", text(&refused.stderr));
}
