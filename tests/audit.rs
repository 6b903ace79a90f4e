//! The audit: what it holds, how it is kept whole, and what happens where it cannot be written.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, eventually};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn table(file: &Path, more: &str) -> String {
    format!("[audit]\nfile = '{}'\n{more}\n", file.display())
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn verify(files: &[PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockgate")).args(["audit", "verify"]).args(files).output().unwrap()
}

#[track_caller]
fn is_whole(files: &[PathBuf], count: usize) {
    let output = verify(files);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.starts_with(&format!("{count} lines")), "{said}");
}

#[track_caller]
fn is_broken(files: &[PathBuf], says: &str) {
    let output = verify(files);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
}

fn named<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[test]
fn it_holds_who_did_what_to_which_lock_and_whose_password_was_wrong() {
    let server = RedisServer::start();
    let mut direct = server.wire();
    assert_eq!(direct.call(&["ACL", "SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all"]), b"+OK\r\n");
    assert_eq!(direct.call(&["ACL", "SETUSER", "bob", "on", ">secret", "~other:*", "&*", "+@all"]), b"+OK\r\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let lockgate = Lockgate::before_with(&server, &table(&file, ""));
    let mut ann = lockgate.wire();
    assert_eq!(ann.call(&["AUTH", "ann", "secret"]), b"+OK\r\n");
    let fence: u64 =
        String::from_utf8(ann.call(&["LOCK.ACQUIRE", "l", "worker-1"])).unwrap()[1..].trim().parse().unwrap();
    // Within 100 ms; a machine that is busy with other tests gets more.
    let begun = Instant::now();
    eventually("the line is there", || (!lines(&file).is_empty()).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(ann.call(&["LOCK.TRANSFER", "l", "worker-1", "worker-2"]).starts_with(b":"));
    assert_eq!(ann.call(&["LOCK.RELEASE", "l", "worker-2"]), b":1\r\n");
    assert!(ann.call(&["LOCK.ACQUIRE", "l", "worker-3"]).starts_with(b":"));
    assert_eq!(ann.call(&["LOCK.FORCE", "l"]), b":1\r\n");
    assert_eq!(ann.call(&["SET", "lock:x", "token", "NX", "PX", "60000"]), b"+OK\r\n");
    let mut bob = lockgate.wire();
    assert!(bob.call(&["AUTH", "bob", "guess"]).starts_with(b"-WRONGPASS"));
    assert_eq!(bob.call(&["AUTH", "bob", "secret"]), b"+OK\r\n");
    assert!(bob.call(&["LOCK.ACQUIRE", "l", "worker-4"]).starts_with(b"-"));
    eventually("all is written", || (lines(&file).len() >= 8).then_some(()));
    let all = lines(&file);
    let events: Vec<&str> = all.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        ["acquired", "transferred", "released", "acquired", "forced", "acquired", "auth_failed", "denied"],
        "{all:#?}"
    );
    let first = &all[0];
    assert_eq!((&first["owner"], &first["user"], &first["fence"]), (&"worker-1".into(), &"ann".into(), &fence.into()));
    assert_eq!(first["addr"], ann.local_addr().to_string());
    for line in &all[..6] {
        assert_eq!((&line["user"], &line["addr"]), (&"ann".into(), &ann.local_addr().to_string().into()), "{line}");
    }
    assert_eq!((&all[6]["user"], &all[6]["addr"]), (&"bob".into(), &bob.local_addr().to_string().into()));
    assert!(!all[6].to_string().contains("guess"));
    assert_eq!((&all[7]["user"], &all[7]["key"]), (&"bob".into(), &"l".into()));
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777, 0o600);
    is_whole(&[file], 8);
}

#[test]
fn what_was_changed_or_taken_out_is_found() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("audit.jsonl");
    let mut lockgate = Lockgate::before_with(&server, &table(&file, ""));
    let mut wire = lockgate.wire();
    for number in 0..20 {
        assert!(wire.call(&["LOCK.ACQUIRE", &format!("k{number}"), "ann"]).starts_with(b":"));
    }
    // A shutdown writes what waits.
    lockgate.terminate();
    assert!(lockgate.exit().success());
    is_whole(std::slice::from_ref(&file), 20);
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = text.lines().collect();
    let write = |lines: &[&str]| std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    write(&[&kept[..5], &kept[6..]].concat());
    is_broken(std::slice::from_ref(&file), "audit.jsonl:6: lines are missing before it");
    let forged = kept[5].replace("\"ann\"", "\"eve\"");
    write(&[&kept[..5], &[forged.as_str()], &kept[6..]].concat());
    is_broken(std::slice::from_ref(&file), "audit.jsonl:7: the line before it was changed");
    write(&[&kept[..5], &["nonsense"], &kept[6..]].concat());
    is_broken(std::slice::from_ref(&file), "audit.jsonl:6: this is no line of an audit");

    // The next start goes on where a crash has left it, and says what was torn.
    std::fs::write(&file, kept.join("\n") + "\n{\"event\":\"acq").unwrap();
    let lockgate = Lockgate::before_with(&server, &table(&file, ""));
    assert_eq!(lockgate.wire().call(&["LOCK.RELEASE", "k1", "ann"]), b":1\r\n");
    eventually("it goes on", || (lines(&file).len() == 22).then_some(()));
    let all = lines(&file);
    assert_eq!((&all[20]["event"], &all[20]["bytes"]), (&"audit_torn".into(), &13.into()));
    is_whole(std::slice::from_ref(&file), 22);
    // It is one Lockgate's alone.
    let second = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--upstream", &server.url()])
        .env("LOCKGATE_AUDIT__FILE", &file)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another Lockgate writes to it"));
}

#[test]
fn a_full_file_gets_a_number_and_the_chain_goes_on() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("audit.jsonl");
    let lockgate = Lockgate::before_with(&server, &table(&file, "max_size = '4kb'\nkeep = 3"));
    let mut wire = lockgate.wire();
    for number in 0..100 {
        assert!(wire.call(&["LOCK.ACQUIRE", &format!("k{number}"), "ann"]).starts_with(b":"));
    }
    let numbered = |number: usize| folder.path().join(format!("audit.jsonl.{number}"));
    eventually("all is written", || (lines(&file).last().or(lines(&numbered(1)).last())?["seq"] == 100).then_some(()));
    for number in 1..=3 {
        let size = numbered(number).metadata().unwrap().len();
        assert!((3000..=4096).contains(&size), "{size}");
    }
    assert!(!numbered(4).exists());
    let files: Vec<PathBuf> = [file.clone(), numbered(1), numbered(2), numbered(3)].into();
    let kept: usize = files.iter().map(|file| lines(file).len()).sum();
    is_whole(&files, kept);
    is_broken(&[file, numbered(2)], "lines are missing before it");
}

/// A file system of its own that is full soon; `None` where this user may not mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder.path()).output();
        output.is_ok_and(|output| output.status.success()).then_some(Small(folder))
    }

    fn fill(&self) {
        let _ = std::fs::write(self.0.path().join("ballast"), vec![0; 1 << 20]);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn on_a_full_disk_nobody_gets_a_lock_or_the_gap_is_told() {
    let server = RedisServer::start();
    for on_failure in ["refuse", "drop"] {
        let Some(disk) = Small::mount() else {
            eprintln!("not tested: no file system can be mounted here");
            return;
        };
        let file = disk.0.path().join("audit.jsonl");
        let lockgate = Lockgate::before_with(&server, &table(&file, &format!("on_failure = '{on_failure}'")));
        let mut wire = lockgate.wire();
        assert!(wire.call(&["LOCK.ACQUIRE", "first", on_failure]).starts_with(b":"));
        eventually("it is written", || (lines(&file).len() == 1).then_some(()));
        disk.fill();
        // The file's last page takes some lines yet.
        let mut number = 0;
        eventually("the log says that it cannot be written", || {
            number += 1;
            wire.call(&["LOCK.ACQUIRE", &format!("{on_failure}{number}"), "ann", "TTL", "60000"]);
            lockgate.wrote().contains("the audit cannot be written").then_some(())
        });
        let answer = wire.call(&["LOCK.ACQUIRE", "more", on_failure]);
        let plain = wire.call(&["SET", "lock:more", on_failure, "NX"]);
        if on_failure == "refuse" {
            assert!(answer.starts_with(b"-UNAVAILABLE the audit cannot be written"), "{}", answer.escape_ascii());
            assert!(plain.starts_with(b"-UNAVAILABLE the audit cannot be written"), "{}", plain.escape_ascii());
            assert_eq!(wire.call(&["LOCK.RELEASE", "first", on_failure]), b":1\r\n", "who holds one can let go of it");
        } else {
            assert!(answer.starts_with(b":") && plain == b"+OK\r\n", "{}", answer.escape_ascii());
        }
        assert_eq!(wire.call(&["SET", "other", "1"]), b"+OK\r\n");
        disk.make_room();
        eventually("locks are given again", || {
            wire.call(&["LOCK.ACQUIRE", "last", on_failure]).starts_with(b":").then_some(())
        });
        eventually("the last line is there", || lines(&file).iter().any(|line| line["key"] == "last").then_some(()));
        let all = lines(&file);
        if on_failure == "refuse" {
            assert_eq!(named(&all, "audit_gap").len(), 0, "nothing is missing");
            assert_eq!(named(&all, "released").len(), 1);
        } else {
            assert!(!named(&all, "audit_gap").is_empty() && named(&all, "audit_gap")[0]["left_out"].as_u64() > Some(0));
        }
        is_whole(&[file], all.len());
        for key in ["first", "more", "last"] {
            wire.call(&["DEL", key, "lock:more"]);
        }
    }
}
