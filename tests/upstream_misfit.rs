//! An upstream that answers and is of no use all the same: named once in the log, by `lockgate ping`, and to those who would wait.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::server::ServerKind;
use common::{Lockgate, RedisServer, Reply, eventually};
use std::process::{Command, Output};

/// Which calls would wait for what does not come.
const WAITING: [&str; 4] = [
    "LOCK.ACQUIRE orders:1 ann WAIT 600000",
    "LOCK.ACQUIRE orders:1 ann KEEPALIVE",
    "LOCK.ACQUIRE orders:1 ann EPHEMERAL",
    "LOCK.ACQUIREALL 1 orders:1 ann WAIT 600000",
];

fn ping(lockgate: &Lockgate, url: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LOCKGATE_")) {
        command.env_remove(name);
    }
    let address = lockgate.addr().to_string();
    command.args(["ping", "--timeout", "10s", "--listen", &address, "--upstream", url]).output().unwrap()
}

/// Named in one ERROR line, by `lockgate ping`, and by each call that would wait, which a client sends after `login`.
#[track_caller]
fn is_named(lockgate: &Lockgate, url: &str, login: Option<&str>, what: &str) {
    eventually("the log names it", || lockgate.wrote().contains(what).then_some(()));
    let ping = ping(lockgate, url);
    let says = String::from_utf8_lossy(&ping.stderr).into_owned();
    assert!(ping.status.code() == Some(1) && says.contains(what), "{ping:?}");
    let mut ann = lockgate.wire();
    if let Some(login) = login {
        assert_eq!(ann.run(login), Reply::Simple("OK".into()));
    }
    for line in WAITING {
        let reply = ann.run(line);
        assert!(reply.is_error("UNAVAILABLE") && format!("{reply:?}").contains(what), "{line}: {reply:?}");
    }
    let lines = lockgate.wrote().lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(lines, 1, "one ERROR line");
}

/// Within a second or two of being put right it serves as if nothing had been.
#[track_caller]
fn is_mended(lockgate: &Lockgate, url: &str, login: Option<&str>) {
    let mut ann = lockgate.wire();
    if let Some(login) = login {
        assert_eq!(ann.run(login), Reply::Simple("OK".into()));
    }
    eventually("calls that wait are served", || {
        matches!(ann.run("LOCK.ACQUIRE orders:1 ann WAIT 10000 KEEPALIVE"), Reply::Int(1..)).then_some(())
    });
    eventually("the log says so", || lockgate.wrote().contains("of use to Lockgate again").then_some(()));
    assert_eq!(ping(lockgate, url).status.code(), Some(0));
}

#[test]
fn a_wrong_password_in_the_url_is_named_until_it_is_right() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "right"]);
    let url = format!("redis://:wrong@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    is_named(&lockgate, &url, Some("AUTH right"), "refuses the user or password of its URL");
    assert_eq!(server.side_wire().run("CONFIG SET requirepass wrong"), Reply::Simple("OK".into()));
    is_mended(&lockgate, &url, Some("AUTH wrong"));
}

#[test]
fn a_password_that_the_server_does_not_have_is_named() {
    let server = RedisServer::start();
    let url = format!("redis://:needless@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    is_named(&lockgate, &url, None, "refuses the user or password of its URL");
}

#[test]
fn a_call_that_waits_when_it_is_found_is_told() {
    let server = RedisServer::start();
    let mut side = server.side_wire();
    assert_eq!(side.run("ACL SETUSER gate on >pass ~* &* +@all"), Reply::Simple("OK".into()));
    let lockgate = Lockgate::serve(&["--upstream", &format!("redis://gate:pass@{}", server.addr())], None);
    let mut ann = lockgate.wire();
    assert!(matches!(ann.run("LOCK.ACQUIRE orders:1 ann TTL 600000"), Reply::Int(1..)));
    ann.waits_for("orders:1", "bob");
    assert_eq!(side.run("ACL SETUSER gate resetpass >other"), Reply::Simple("OK".into()));
    // The watch link has to be dialled again.
    assert!(matches!(side.run("CLIENT KILL USER gate"), Reply::Int(1..)));
    eventually("the log names it", || lockgate.wrote().contains("refuses the user or password").then_some(()));
    let reply = ann.reply();
    assert!(reply.is_error("UNAVAILABLE"), "{reply:?}");
}

#[test]
fn a_replica_is_named_until_it_is_promoted() {
    let master = RedisServer::start();
    let replica = RedisServer::start();
    let become_replica = format!("REPLICAOF 127.0.0.1 {}", master.port());
    assert_eq!(replica.wire().run(&become_replica), Reply::Simple("OK".into()));
    let lockgate = Lockgate::before(&replica);
    is_named(&lockgate, &replica.url(), None, "the upstream is a replica");
    assert_eq!(replica.wire().run("REPLICAOF NO ONE"), Reply::Simple("OK".into()));
    is_mended(&lockgate, &replica.url(), None);
}

#[test]
fn a_node_of_a_cluster_is_named() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &["--cluster-enabled", "yes"]);
        let lockgate = Lockgate::before(&server);
        is_named(&lockgate, &server.url(), None, "a node of a cluster");
    }
}

#[test]
fn a_user_who_may_not_run_scripts_is_named_until_he_may() {
    let server = RedisServer::start();
    let user = "ACL SETUSER gate on >pass ~* &* +@all -@scripting";
    assert_eq!(server.wire().run(user), Reply::Simple("OK".into()));
    let url = format!("redis://gate:pass@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    is_named(&lockgate, &url, None, "does not let the URL's user run scripts");
    assert_eq!(server.wire().run("ACL SETUSER gate +@scripting"), Reply::Simple("OK".into()));
    is_mended(&lockgate, &url, None);
}
