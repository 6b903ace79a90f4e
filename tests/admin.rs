//! The admin HTTP server, asked as a browser, Prometheus, a probe and Terraform ask it.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Admin, Lockgate, RedisServer, Reply, Wire, eventually};
use serde_json::{Value, json};
use std::io::BufRead;
use std::net::SocketAddr;

fn stage(config: &str) -> (RedisServer, Lockgate, Admin) {
    let server = RedisServer::start();
    let lockgate = Lockgate::serve(&["--upstream", &server.url(), "--admin", "127.0.0.1:0"], Some(config));
    let admin = Admin::of(&lockgate);
    (server, lockgate, admin)
}

fn queue_up(lockgate: &Lockgate, key: &str, owner: &str) -> Wire {
    let mut wire = lockgate.wire();
    wire.ask_line(&format!("LOCK.ACQUIRE {key} {owner} WAIT 60000 TTL 60000"));
    let mut look = lockgate.wire();
    eventually("it waits", || match look.run(&format!("LOCK.POSITION {key} {owner}")) {
        Reply::Int(place) if place > 0 => Some(()),
        _ => None,
    });
    wire
}

#[test]
fn probes_tell_life_and_readiness() {
    let (mut server, lockgate, admin) = stage("[links]\nhold = '100ms'\n");
    assert_eq!(admin.ask("GET", "/healthz").status, 200);
    assert_eq!(admin.ask("GET", "/readyz").status, 200);
    server.kill();
    let answer =
        eventually("it is not ready", || Some(admin.ask("GET", "/readyz")).filter(|answer| answer.status == 503));
    assert!(answer.body.contains("upstream"), "{}", answer.body);
    assert_eq!(admin.ask("GET", "/healthz").status, 200, "the process lives");
    server.restart();
    eventually("it is ready again", || (admin.ask("GET", "/readyz").status == 200).then_some(()));
    drop(lockgate);
}

#[test]
fn an_upstream_of_no_use_is_named_by_readyz() {
    let master = RedisServer::start();
    let of_master = format!("127.0.0.1 {}", master.port());
    let replica = RedisServer::start_with(common::ServerKind::Redis70, &["--replicaof", &of_master]);
    let lockgate = Lockgate::serve(&["--upstream", &replica.url(), "--admin", "127.0.0.1:0"], None);
    let admin = Admin::of(&lockgate);
    eventually("it says so", || {
        let answer = admin.ask("GET", "/readyz");
        (answer.status == 503 && answer.body.contains("replica")).then_some(())
    });
}

#[test]
fn locks_and_queues_are_shown_and_changed() {
    let (_server, lockgate, admin) = stage("");
    let mut ann = lockgate.wire();
    let fence = ann.call(&["LOCK.ACQUIRE", "a/b c%", "ann", "TTL", "60000", "META", "deploy"]);
    assert!(fence.starts_with(b":"));
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    let mut bob = queue_up(&lockgate, "orders:1", "bob");
    let mut cat = queue_up(&lockgate, "orders:1", "cat");
    let told = admin.get("/api/locks/a%2Fb%20c%25");
    assert_eq!((&told["key"], &told["owner"], &told["meta"]), (&json!("a/b c%"), &json!("ann"), &json!("deploy")));
    let told = admin.get("/api/locks/orders:1");
    let owners: Vec<&str> =
        told["queue"].as_array().unwrap().iter().map(|waiter| waiter["owner"].as_str().unwrap()).collect();
    assert_eq!((owners, &told["waiters"]), (vec!["bob", "cat"], &json!(2)));
    let listed = admin.get("/api/locks?match=orders:*&count=1000");
    assert_eq!(listed["locks"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(
        admin.get("/api/queue-status"),
        json!({"queue_depth": 2, "queues": [{"db": 0, "key": "orders:1", "waiters": 2}], "silent_nodes": []})
    );
    let next = &admin.get("/api/queue-status?show=5")["queues"][0]["next"];
    assert_eq!((&next[0]["owner"], &next[1]["owner"]), (&json!("bob"), &json!("cat")));
    let graph = admin.get("/api/graph");
    assert_eq!(graph.as_array().unwrap().len(), 2, "{graph}");
    let promoted = admin.ask("POST", "/api/locks/orders:1/promote?owner=cat&level=high");
    assert_eq!((promoted.status, promoted.json()), (200, json!({"place": 1})));
    let forced = admin.ask("DELETE", "/api/locks/orders:1");
    assert_eq!((forced.status, forced.json()), (200, json!({"forced": true})));
    assert!(cat.reply().int() > 0, "the one who was promoted is next");
    bob.still_waits();
    assert_eq!(admin.ask("DELETE", "/api/locks/nobody:1").status, 404);
    assert_eq!(admin.ask("POST", "/api/locks/orders:1/promote?owner=x&level=high").status, 404);
    assert_eq!(admin.ask("POST", "/api/locks/orders:1/promote").status, 400);
    ann.run("SET data text");
    let answer = admin.ask("GET", "/api/locks/data");
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.json()["error"].as_str().unwrap().contains("is not a lock"), "{}", answer.body);
}

#[test]
fn the_whole_is_shown_and_wrong_requests_are_told_so() {
    let (_server, lockgate, admin) = stage("[nodes]\nid = 'one'\n");
    lockgate.wire().run("LOCK.ACQUIRE orders:1 ann");
    assert_eq!(admin.get("/api/stats")["successful_acquires"], 1);
    assert_eq!(admin.get("/api/cluster/nodes")[0]["id"], "one");
    assert_eq!(admin.get("/api/deadlocks"), json!([]));
    assert!(admin.get("/api/pool-stats")["clients"].is_u64());
    assert_eq!(admin.ask("POST", "/api/cleanup").status, 200);
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("POST", "/api/stats", 405),
        ("GET", "/api/cleanup", 405),
        ("PUT", "/api/locks/orders:1", 405),
        ("GET", "/api/locks?db=x", 400),
    ] {
        assert_eq!(admin.ask(method, path).status, status, "{method} {path}");
    }
}

#[test]
fn metrics_are_as_prometheus_reads_them() {
    let (_server, lockgate, admin) = stage("");
    let mut ann = lockgate.wire();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    let _bob = queue_up(&lockgate, "orders:1", "bob");
    ann.run("LOCK.ACQUIRE secret:key ann");
    ann.run("LOCK.RELEASE secret:key ann");
    let plain = admin.ask("GET", "/metrics");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    assert!(plain.body.contains("# TYPE lockgate_lock_requests_total counter\n") && !plain.body.contains("EOF"));
    let wanted = ("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2");
    let answer = admin.ask_with("GET", "/metrics", &[wanted], "");
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    for line in [
        "lockgate_lock_requests_total 3",
        "lockgate_lock_queue_depth 1",
        "lockgate_locks_active 1",
        "lockgate_lock_results_total{result=\"granted\"} 2",
        "lockgate_lock_acquisition_duration_seconds_count 2",
        "lockgate_lock_hold_seconds_count 1",
        "lockgate_deadlocks_detected_total 0",
        "lockgate_backend_health_status 1",
        "lockgate_fallback_events_total 0",
        "lockgate_redis_connections_active 0",
        "# TYPE lockgate_lock_wait_seconds histogram",
        "lockgate_sessions_own_link_total{reason=",
    ] {
        assert!(answer.body.lines().any(|told| told.starts_with(line)), "{line} in\n{}", answer.body);
    }
    assert!(!answer.body.contains("secret") && !answer.body.contains("orders"), "no label has a key");
    assert!(answer.body.ends_with("# EOF\n"));
}

#[test]
fn health_is_told_with_its_reasons() {
    let (mut server, _lockgate, admin) = stage("[links]\nhold = '100ms'\n[nodes]\nid = 'one'\n");
    let told = eventually("all of it is known", || {
        Some(admin.get("/api/health/detailed")).filter(|told| told["upstream"]["replication"]["role"] == "master")
    });
    assert_eq!((&told["status"], &told["health_score"], &told["mode"]), (&json!("ok"), &json!(100), &json!("on")));
    assert!(told["upstream"]["round_trip_ms"].is_f64() && told["pool"]["clients"].is_u64(), "{told}");
    assert_eq!(admin.get("/api/health")["node"], "one");
    server.kill();
    let answer =
        eventually("it is down", || Some(admin.ask("GET", "/api/health")).filter(|answer| answer.status == 503));
    let told = answer.json();
    assert_eq!((&told["status"], &told["health_score"]), (&json!("down"), &json!(0)));
    assert_eq!(told["reasons"][0]["code"], "away", "{told}");
    assert!(admin.ask("GET", "/metrics").body.contains("lockgate_health_score 0\n"));
}

#[test]
fn queues_of_all_nodes_are_told_as_one() {
    let (server, one, admin) = stage("");
    let two = Lockgate::before(&server);
    let mut look = two.wire();
    eventually("they know each other", || (look.run("LOCK.NODES").items().len() == 2).then_some(()));
    one.wire().run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    let _waiting = [queue_up(&one, "orders:1", "bob"), queue_up(&two, "orders:1", "cat")];
    let told = admin.get("/api/queue-status");
    assert_eq!((&told["queue_depth"], &told["queues"][0]["waiters"]), (&json!(2), &json!(2)), "{told}");
}

#[test]
fn another_node_leads_after_an_election() {
    let (server, one, admin) = stage("[nodes]\nid = 'one'\n");
    eventually("who is alone leads", || {
        let told = admin.ask("POST", "/api/cluster/leader/election").json();
        (told == json!({"before": "one", "leader": "one"})).then_some(())
    });
    let two = Lockgate::serve(
        &["--upstream", &server.url(), "--admin", "127.0.0.1:0"],
        Some("[nodes]\nid = 'two'\nheartbeat = '200ms'\n"),
    );
    for lockgate in [&one, &two] {
        lockgate.wire().run("LOCK.ACQUIRE orders:1 ann");
    }
    let leader = || admin.get("/api/cluster/status")["leader"].as_str().map(str::to_owned);
    let mut before = eventually("one of both leads", || {
        (admin.get("/api/cluster/status")["nodes"] == 2).then_some(())?;
        leader()
    });
    // Asked on the leader's own node, and on the other one.
    for _ in 0..2 {
        let told = admin.ask("POST", "/api/cluster/leader/election").json();
        assert_eq!(told["before"], before.as_str(), "{told}");
        assert_ne!(told["leader"], before.as_str(), "{told}");
        let now = told["leader"].as_str().unwrap().to_owned();
        eventually("the other node says so as well", || {
            let nodes = Admin::of(&two).get("/api/cluster/nodes");
            let leads = |node: &Value| node["id"] == now.as_str() && node["is_leader"] == 1;
            nodes.as_array().unwrap().iter().any(leads).then_some(())
        });
        before = now;
    }
}

#[test]
fn links_are_dialled_before_clients_need_them() {
    let (server, _lockgate, admin) = stage("workers = 2\n[links]\nshared = 3\n");
    let links =
        || server.wire().run("CLIENT LIST").text().lines().filter(|line| !line.contains("cmd=client|list")).count();
    eventually("it has settled", || (links() > 0).then_some(()));
    let dialled = admin.ask("POST", "/api/connections/warmup").json()["dialled"].as_u64().unwrap();
    // Two workers, three links each, for plain commands and for locks; some may stand already.
    assert!((8..=12).contains(&dialled), "{dialled}");
    eventually("they stand", || (links() >= 12).then_some(()));
    assert_eq!(admin.ask("POST", "/api/connections/warmup").json(), json!({"dialled": 0}));
}

#[test]
fn measuring_is_allowed_by_the_configuration_only() {
    let (_server, _lockgate, admin) = stage("");
    let refused = admin.ask("POST", "/api/benchmark");
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("admin_benchmark"), "{}", refused.body);
    let (_server, lockgate, admin) = stage("admin_benchmark = true\n");
    let told = admin.ask("POST", "/api/benchmark?duration=200ms").json();
    assert!(told["pairs"].as_u64().unwrap() > 0 && told["acquire_ms"]["p50"].as_f64().unwrap() > 0.0, "{told}");
    assert_eq!(lockgate.wire().run("LOCK.POSITION lockgate-benchmark x"), Reply::Nil, "nothing is left");
}

#[test]
fn measured_times_are_told_in_buckets() {
    let (_server, lockgate, admin) = stage("");
    let mut ann = lockgate.wire();
    for _ in 0..3 {
        ann.run("LOCK.ACQUIRE orders:1 ann");
        ann.run("LOCK.RELEASE orders:1 ann");
    }
    let told = admin.get("/api/latency");
    for (kind, count) in [("acquisition", 3), ("hold", 3), ("wait", 0), ("hand_over", 0)] {
        let buckets = told[kind]["buckets"].as_array().unwrap();
        let sum: u64 = buckets.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
        assert_eq!((&told[kind]["count"], sum), (&json!(count), count), "{kind}");
        assert!(buckets.last().unwrap()["up_to"].is_null(), "the last has no bound");
    }
}

#[test]
fn the_page_runs_no_script_but_its_own() {
    let (_server, _lockgate, admin) = stage("");
    let page = admin.ask("GET", "/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.body.contains("://") && !page.body.contains("style=") && !page.body.contains("onclick"));
    // All that it names is there, and of the kind that it should be.
    let named = page.body.split(['"', '\'']).filter(|text| text.starts_with("/page/"));
    for path in named {
        let answer = admin.ask("GET", path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{path}");
    }
    assert_eq!(admin.ask("GET", "/page/none.js").status, 404);
    assert_eq!(admin.ask("POST", "/").status, 405);
}

#[test]
fn off_the_loopback_a_browser_is_asked_for_the_token() {
    let server = RedisServer::start();
    let config = "admin_token = 's3cret'\n";
    let lockgate = Lockgate::serve(&["--upstream", &server.url(), "--admin", "0.0.0.0:0"], Some(config));
    let admin = Admin(SocketAddr::from(([127, 0, 0, 1], Admin::of(&lockgate).0.port())));
    let refused = admin.ask("GET", "/");
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("www-authenticate: basic"), "{}", refused.head);
    let refused = admin.ask("GET", "/api/stats");
    assert_eq!((refused.status, refused.head.contains("www-authenticate")), (401, false), "the page itself asks then");
    let known = ("authorization", "Basic YW55Ym9keTpzM2NyZXQ=");
    assert_eq!(admin.ask_with("GET", "/", &[known], "").status, 200);
    assert_eq!(admin.ask_with("GET", "/api/stats", &[known], "").status, 200);
}

#[test]
fn a_token_and_the_origin_guard_what_changes_something() {
    let (_server, lockgate, admin) = stage("admin_token = 's3cret'\n");
    lockgate.wire().run("LOCK.ACQUIRE orders:1 ann TTL 60000");
    assert_eq!(admin.ask("GET", "/api/stats").status, 200);
    let path = "/api/locks/orders:1";
    assert_eq!(admin.ask("DELETE", path).status, 401);
    assert_eq!(admin.ask_with("DELETE", path, &[("authorization", "Bearer wrong")], "").status, 401);
    let right = ("authorization", "Bearer s3cret");
    assert_eq!(admin.ask_with("DELETE", path, &[right, ("origin", "http://evil.example")], "").status, 403);
    assert_eq!(admin.ask_with("DELETE", path, &[right, ("host", "evil.example")], "").status, 403);
    assert_eq!(admin.ask_with("DELETE", path, &[right], "").status, 200);
    assert!(!lockgate.wrote().contains("s3cret"));
}

#[test]
fn events_come_as_a_stream() {
    let (_server, lockgate, admin) = stage("");
    let mut stream = admin.open("GET", "/api/events", &[], "");
    let mut ann = lockgate.wire();
    let mut line = String::new();
    while !line.starts_with("content-type") {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    assert!(line.contains("text/event-stream"), "{line}");
    // What happens before the stream stands is not told.
    let told = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut line = String::new();
            while !line.starts_with("data:") {
                line.clear();
                assert!(stream.read_line(&mut line).unwrap() > 0);
            }
            line
        });
        let mut number = 0;
        eventually("an event has come", || {
            number += 1;
            ann.run(&format!("LOCK.ACQUIRE orders:{number} ann"));
            reader.is_finished().then_some(())
        });
        reader.join().unwrap()
    });
    let event: Value = serde_json::from_str(told.trim_start_matches("data:").trim()).unwrap();
    assert_eq!((&event["event"], &event["owner"]), (&json!("acquired"), &json!("ann")));
}

fn info(id: &str) -> String {
    json!({"ID": id, "Operation": "OperationTypeApply", "Who": format!("{id}@ci"), "Path": ""}).to_string()
}

#[test]
fn terraform_runs_queue_in_order() {
    let (_server, lockgate, admin) = stage("");
    let path = "/api/terraform/prod%2Fnetwork";
    assert_eq!(admin.ask_with("LOCK", path, &[], &info("one")).status, 200);
    assert_eq!(admin.ask_with("POST", path, &[], &info("one")).status, 200, "it may ask again");
    let refused = admin.ask_with("LOCK", path, &[], &info("two"));
    assert_eq!((refused.status, &refused.json()["ID"], &refused.json()["Who"]), (423, &json!("one"), &json!("one@ci")));
    assert_eq!(admin.ask_with("UNLOCK", path, &[], &info("two")).status, 409);
    let waits = format!("{path}?wait=60s&ttl=10m");
    let contenders: Vec<String> = (1..=20).map(|number| format!("run-{number}")).collect();
    std::thread::scope(|scope| {
        let mut look = lockgate.wire();
        let waiting: Vec<_> = contenders
            .iter()
            .map(|id| {
                let (admin, waits) = (&admin, &waits);
                let handle = scope.spawn(move || admin.ask_with("LOCK", waits, &[], &info(id)).status);
                eventually("it waits", || match look.run(&format!("LOCK.POSITION prod/network {id}")) {
                    Reply::Int(place) if place > 0 => Some(()),
                    _ => None,
                });
                (id.as_str(), handle)
            })
            .collect();
        let mut holder = "one";
        for (id, handle) in waiting {
            assert!(!handle.is_finished(), "{id} is not granted before its turn");
            assert_eq!(admin.ask_with("UNLOCK", path, &[], &info(holder)).status, 200);
            assert_eq!(handle.join().unwrap(), 200, "{id}");
            assert_eq!(look.run(&format!("LOCK.POSITION prod/network {id}")), Reply::Int(0));
            holder = id;
        }
        assert_eq!(admin.ask_with("DELETE", path, &[], &info(holder)).status, 200);
    });
    // Held by another client, and then unlocked by force.
    lockgate.wire().run("LOCK.ACQUIRE prod/network ann TTL 60000");
    let refused = admin.ask_with("LOCK", path, &[], &info("five"));
    assert_eq!((refused.status, &refused.json()["ID"]), (423, &json!("ann")));
    assert_eq!(admin.ask("UNLOCK", path).status, 200);
    assert_eq!(admin.ask_with("LOCK", path, &[], &info("five")).status, 200);
    assert_eq!(admin.ask_with("LOCK", path, &[], "no json").status, 400);
    assert_eq!(admin.ask_with("LOCK", &format!("{path}?wait=soon"), &[], &info("six")).status, 400);
    assert_eq!(admin.ask("GET", path).status, 405);
}

#[test]
fn a_run_that_is_given_up_leaves_the_queue() {
    let (_server, lockgate, admin) = stage("");
    let mut ann = lockgate.wire();
    ann.run("LOCK.ACQUIRE state ann TTL 60000");
    let stream = admin.open("LOCK", "/api/terraform/state?wait=60s", &[], &info("gone"));
    let mut look = lockgate.wire();
    eventually("it waits", || (look.run("LOCK.POSITION state gone") == Reply::Int(1)).then_some(()));
    drop(stream);
    eventually("it waits no more", || (look.run("LOCK.POSITION state gone") == Reply::Nil).then_some(()));
}

#[test]
fn a_place_that_is_taken_ends_only_the_start_that_asked_for_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = RedisServer::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(["--listen", "127.0.0.1:0", "--upstream", &server.url(), "--admin", &address])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("the admin server cannot listen on {address}")), "{said}");
}
