//! `lockgate check`, and what shells and `man` get of the command line.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::server::{RedisServer, ServerKind};
use std::process::{Command, Output};

fn lockgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockgate")).args(arguments).output().unwrap()
}

fn report(url: &str) -> (Option<i32>, String) {
    let output = lockgate(&["check", "--upstream", url]);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_server_is_judged_by_how_it_is_set_up() {
    for kind in [ServerKind::Redis70, ServerKind::Redis82, ServerKind::Valkey91] {
        let server = RedisServer::start_with(kind, &[]);
        let mut client = server.wire();
        client.run("CONFIG SET appendonly yes");
        let (code, good) = report(&server.url());
        assert_eq!(code, Some(0), "{good}");
        assert!(good.contains("ok        scripts: allowed"), "{good}");
        assert!(good.contains("ok        hints: tracking and pub/sub are allowed"), "{good}");
        client.run("CONFIG SET maxmemory 100mb");
        client.run("CONFIG SET maxmemory-policy allkeys-lru");
        client.run("SET job:lock w");
        let (code, bad) = report(&server.url());
        assert_eq!(code, Some(1), "{bad}");
        assert!(bad.contains("BLOCKER   memory: maxmemory 104857600 with maxmemory-policy allkeys-lru"), "{bad}");
        assert!(bad.contains("WARNING   expiry: 1 locks have none: job:lock"), "{bad}");
        client.run("ACL SETUSER mean on >pw ~* &* +@all -eval -evalsha -config -subscribe -client|tracking");
        let (code, mean) = report(&server.url().replace("redis://", "redis://mean:pw@"));
        assert_eq!(code, Some(1), "{mean}");
        for line in [
            "BLOCKER   scripts: NOPERM",
            "WARNING   tracking: NOPERM",
            "WARNING   pub/sub: NOPERM",
            "note      settings: CONFIG GET is refused",
        ] {
            assert!(mean.contains(line), "{line} in {mean}");
        }
    }
}

#[test]
fn the_report_is_json_for_programs_too() {
    let server = RedisServer::start();
    let output = lockgate(&["check", "--json", "--upstream", &server.url()]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let levels: Vec<&str> = told.as_array().unwrap().iter().filter_map(|one| one["level"].as_str()).collect();
    assert!(levels.contains(&"ok") && levels.iter().all(|level| ["ok", "note", "warning"].contains(level)), "{told}");
}

#[test]
fn where_nobody_answers_that_is_the_report() {
    let (code, told) = report("redis://127.0.0.1:1");
    assert_eq!(code, Some(1));
    assert!(told.contains("BLOCKER   upstream: cannot be asked: 127.0.0.1:1: Connection refused"), "{told}");
}

#[test]
fn completions_and_man_pages_know_every_command() {
    for (shell, sign) in [("bash", "_lockgate()"), ("zsh", "#compdef lockgate"), ("fish", "complete -c lockgate")] {
        let output = lockgate(&["completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(sign) && text.contains("exec"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(lockgate(&["man", folder.path().to_str().unwrap()]).status.success());
    for page in ["lockgate.1", "lockgate-exec.1", "lockgate-locks-import.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    assert!(!folder.path().join("lockgate-exec-command.1").exists(), "what is hidden has no page");
}
