//! How the upstream is, as `LOCK.HEALTH`, the admin server and a webhook tell it.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Admin, Lockgate, RedisServer, Reply, ServerKind, Wire, eventually};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

fn health(wire: &mut Wire) -> (String, i64, Vec<String>) {
    let told = wire.run("LOCK.HEALTH");
    let reasons = told.field("reasons").items().iter().map(|reason| reason.field("code").text()).collect();
    (told.field("status").text(), told.field("health_score").int(), reasons)
}

/// Waits until the only reason is that one.
#[track_caller]
fn comes_to(wire: &mut Wire, status: &str, reasons: &[&str]) -> i64 {
    let mut last = None;
    let score = common::within(std::time::Duration::from_secs(20), || {
        let (is, score, codes) = health(wire);
        let fits = is == status && codes == reasons;
        last = Some((is, score, codes));
        fits.then_some(score)
    });
    score.unwrap_or_else(|| panic!("{status} {reasons:?} never came; it was {last:?}"))
}

const OFTEN: &str = "[health]\ncheck_interval = '100ms'\n";

#[test]
fn each_trouble_of_the_upstream_shows_and_passes() {
    for kind in [ServerKind::Redis70, ServerKind::Redis82, ServerKind::Valkey91] {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, &format!("{OFTEN}[nodes]\nheartbeat = '100ms'\n"));
        let (mut wire, mut direct) = (lockgate.wire3(), server.wire());
        assert_eq!(comes_to(&mut wire, "ok", &[]), 100);
        let told = wire.run("LOCK.HEALTH");
        assert_eq!(told.field("role").text(), "master");
        assert!(told.field("memory_used").int() > 100_000 && told.field("memory_max").int() == 0);
        let name = if kind == ServerKind::Valkey91 { "Valkey 9.1" } else { "Redis " };
        assert!(told.field("server").text().starts_with(name), "{told:?}");
        direct.run("CONFIG SET maxmemory 1mb");
        assert_eq!(comes_to(&mut wire, "degraded", &["memory"]), 60);
        direct.run("CONFIG SET maxmemory 10gb");
        direct.run("CONFIG SET maxmemory-policy allkeys-lru");
        assert_eq!(comes_to(&mut wire, "ok", &["evicts"]), 90);
        direct.run("CONFIG SET maxmemory 0");
        comes_to(&mut wire, "ok", &[]);
        direct.run("CONFIG SET slowlog-log-slower-than 0");
        comes_to(&mut wire, "ok", &[]);
        eventually("slow commands are seen", || {
            for _ in 0..200 {
                direct.run("PING");
            }
            (health(&mut wire).2 == ["slow_commands"]).then_some(())
        });
    }
}

#[test]
fn a_lost_replica_costs_points() {
    let server = RedisServer::start();
    let of_master = format!("127.0.0.1 {}", server.port());
    let lockgate = Lockgate::before_with(&server, OFTEN);
    let mut wire = lockgate.wire3();
    let mut replica = RedisServer::start_with(ServerKind::Redis70, &["--replicaof", &of_master]);
    eventually("the replica is known", || (wire.run("LOCK.HEALTH").field("replicas").int() == 1).then_some(()));
    replica.kill();
    assert_eq!(comes_to(&mut wire, "ok", &["replicas"]), 85);
}

/// `/api/health/detailed`, which answers also while the upstream, whose rights decide about `LOCK.HEALTH`, does not.
fn told(lockgate: &Lockgate) -> serde_json::Value {
    Admin::of(lockgate).ask("GET", "/api/health/detailed").json()
}

fn with_admin(url: &str, config: &str) -> Lockgate {
    Lockgate::serve(&["--upstream", url, "--admin", "127.0.0.1:0"], Some(config))
}

#[test]
fn an_upstream_that_is_away_is_down_and_the_answer_still_comes() {
    let mut server = RedisServer::start();
    let lockgate = with_admin(&server.url(), "[links]\nhold = '100ms'\n");
    eventually("it is well", || (told(&lockgate)["health_score"] == 100).then_some(()));
    server.kill();
    let down = eventually("it is down", || Some(told(&lockgate)).filter(|told| told["status"] == "down"));
    assert_eq!(down["health_score"], 0);
    assert!(down["reasons"][0]["says"].as_str().unwrap().contains("cannot be reached"), "{down}");
    server.restart();
    eventually("it is up, and the failures are not forgotten at once", || {
        let told = told(&lockgate);
        let score = told["health_score"].as_u64().unwrap();
        (told["status"] != "down" && score < 100 && told["reasons"][0]["code"] == "failures").then_some(())
    });
    let score = lockgate.wire3().run("LOCK.STATS").field("health_score").int();
    assert!((70..100).contains(&score), "{score}");
}

#[test]
fn an_upstream_that_stands_still_is_noticed() {
    let server = RedisServer::start();
    let config = "[health]\ntimeout_threshold = '300ms'\n[nodes]\nheartbeat = '100ms'\n";
    let lockgate = with_admin(&server.url(), config);
    eventually("it is well", || (told(&lockgate)["health_score"] == 100).then_some(()));
    server.freeze();
    eventually("an answer is owed", || (told(&lockgate)["health_score"].as_u64()? <= 60).then_some(()));
    server.thaw();
    eventually("it is of use again", || (told(&lockgate)["health_score"].as_u64()? > 60).then_some(()));
}

/// How often the upstream was asked each of these.
fn asked(direct: &mut Wire) -> Vec<(String, u64)> {
    let told = direct.run("INFO commandstats").text();
    let counts = told.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    counts.filter(|(name, _)| !["info", "config|resetstat"].contains(&name.as_str())).collect()
}

#[test]
fn nothing_but_a_ping_is_sent_while_nobody_asks() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before(&server);
    let mut direct = server.wire();
    let count =
        |direct: &mut Wire, name: &str| asked(direct).iter().find(|(is, _)| is == name).map_or(0, |(_, count)| *count);
    // What belongs to the start may still come the first time.
    eventually("two heartbeats bring nothing but a PING each", || {
        direct.run("CONFIG RESETSTAT");
        eventually("it pings", || (count(&mut direct, "ping") >= 2).then_some(()));
        (asked(&mut direct).len() == 1).then_some(())
    });
    lockgate.wire().run("LOCK.HEALTH");
    assert_eq!(count(&mut direct, "slowlog|get"), 1, "it is asked once somebody wants to know");
}

#[test]
fn what_the_upstream_refuses_to_tell_is_not_asked_again_and_again() {
    let server = RedisServer::start();
    let mut direct = server.wire();
    direct.run("ACL SETUSER gate on >pw ~* &* +@all -slowlog -info");
    let url = format!("redis://gate:pw@127.0.0.1:{}", server.port());
    let lockgate = with_admin(&url, OFTEN);
    let refusals = |direct: &mut Wire| {
        let log = direct.run("ACL LOG 128");
        let count = |entry: &Reply| entry.items().get(1).map_or(0, Reply::int);
        log.items().iter().filter(|entry| entry.items()[7].text() == "slowlog|get").map(count).sum::<i64>()
    };
    eventually("it was asked", || {
        assert_eq!(told(&lockgate)["status"], "ok");
        (refusals(&mut direct) == 1).then_some(())
    });
    // The next looks are due.
    let before = told(&lockgate)["upstream"]["round_trip_ms"].clone();
    eventually("it goes on looking", || (told(&lockgate)["upstream"]["round_trip_ms"] != before).then_some(()));
    assert_eq!(told(&lockgate)["upstream"]["server"], serde_json::Value::Null, "INFO was refused too");
    assert_eq!(refusals(&mut direct), 1);
}

/// A webhook; each body that it gets. The first one is not taken.
fn webhook() -> (String, mpsc::Receiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut some = [0; 4096];
                let count = stream.read(&mut some).unwrap();
                request.extend(&some[..count]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length: usize =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
                if body.len() == length {
                    assert!(head.starts_with("POST /alerts HTTP/1.1\r\n"), "{head}");
                    break body.to_owned();
                }
            };
            let status = if number == 0 { "500 Not Now" } else { "204 No Content" };
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").as_bytes());
            if number > 0 && tell.send(serde_json::from_str(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, told)
}

#[test]
fn a_webhook_is_told_once_of_a_trouble_and_once_of_its_end() {
    let (url, told) = webhook();
    let mut server = RedisServer::start();
    let config =
        format!("{OFTEN}error_threshold = 3\nrecovery_threshold = 3\nwebhook = '{url}'\n[nodes]\nid = 'one'\n");
    let lockgate = Lockgate::before_with(&server, &config);
    let mut wire = lockgate.wire3();
    comes_to(&mut wire, "ok", &[]);
    server.kill();
    let alert = told.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!((&alert["alert"], &alert["node"], &alert["health_score"]), (&"down".into(), &"one".into(), &0.into()));
    assert!(alert["text"].as_str().unwrap().contains("Lockgate one: down"), "{alert}");
    // Many looks later nothing more was told.
    assert!(told.recv_timeout(std::time::Duration::from_millis(1500)).is_err());
    server.restart();
    let alert = told.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert!(["ok", "degraded"].contains(&alert["alert"].as_str().unwrap()), "{alert}");
    assert_eq!(alert["before"], "down");
    assert!(!lockgate.wrote().contains(&url), "the address may be a secret");
}
