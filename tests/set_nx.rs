//! `SET … NX` and `SETNX` on lock keys, and the rules that say which keys those are. How calls queue is in `set_nx_queue.rs`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, command, eventually, tools};
use nix::sys::signal::Signal;

/// A rule that shows where it acts: what it takes in hand without an expiry gets one of a minute.
const MARKED: &str = "[[lock_keys]]\nmatch = 'lock:*'\ndefault_ttl = '60s'\n";

impl Wire {
    /// Takes the free lock `key` by a `SET NX` without expiry; `true` where a rule gave it one.
    #[track_caller]
    fn is_taken_in_hand(&mut self, key: &str) -> bool {
        assert_eq!(self.call(&["SET", key, "v", "NX"]), b"+OK\r\n", "{key}");
        self.has_lease(key)
    }

    #[track_caller]
    fn has_lease(&mut self, key: &str) -> bool {
        let left = self.call(&["PTTL", key]);
        let left = Reply::parse(&left).int();
        assert!(left == -1 || (50_000..=60_000).contains(&left), "{key}: {left}");
        left != -1
    }

    #[track_caller]
    fn left_ms(&mut self, key: &str) -> i64 {
        self.call(&["PTTL", key])
            .strip_prefix(b":")
            .map_or(-9, |left| String::from_utf8_lossy(left).trim_end().parse().unwrap())
    }
}

/// Every sequence of up to `length` of these options.
fn sequences(length: usize) -> Vec<Vec<&'static str>> {
    const OPTIONS: [&str; 13] = [
        "NX",
        "nX",
        "PX 100000",
        "ex 100",
        "PXAT 9000000000000",
        "exat 9000000000",
        "XX",
        "GET",
        "KEEPTTL",
        "PX 0",
        "EX x",
        "EX",
        "BOGUS",
    ];
    let mut all: Vec<Vec<&str>> = vec![vec![]];
    let mut last = all.clone();
    for _ in 0..length {
        last = last.iter().flat_map(|some| OPTIONS.iter().map(|one| [&some[..], &[*one]].concat())).collect();
        all.extend(last.clone());
    }
    all
}

/// By how much the leases on both sides may differ: the time between the two questions on a busy machine, and less than any two forms.
const LEASES_DIFFER_MS_MAX: u64 = 15_000;

#[track_caller]
fn every_form_answers_as_without_lockgate(kind: ServerKind, length: usize) {
    let (alone, server) = (RedisServer::start_with(kind, &[]), RedisServer::start_with(kind, &[]));
    let lockgate = Lockgate::before(&server);
    for resp in ["2", "3"] {
        let mut wires = [alone.wire(), lockgate.wire()];
        for wire in &mut wires {
            wire.call(&["HELLO", resp]);
        }
        for options in sequences(length) {
            let set: Vec<&str> = ["SET", "lock:1", "new"]
                .into_iter()
                .chain(options.iter().flat_map(|option| option.split(' ')))
                .collect();
            let setnx: Vec<&str> =
                ["SETNX", "lock:1", "new"].into_iter().chain(set[3..].iter().copied().take(1)).collect();
            for (before, form) in [("DEL lock:1", &set), ("SET lock:1 old PX 50000", &set), ("DEL lock:1", &setnx)] {
                let [direct, through] = wires.each_mut().map(|wire| {
                    wire.run(before);
                    let seen = [wire.call(form), wire.call(&["GET", "lock:1"])];
                    (seen, wire.left_ms("lock:1"))
                });
                assert_eq!(direct.0, through.0, "RESP{resp}: {before}; {form:?}");
                // The two are not asked at the same time; below zero there is no lease, or no key.
                let is_same = direct.1 == through.1
                    || direct.1.min(through.1) >= 0 && direct.1.abs_diff(through.1) < LEASES_DIFFER_MS_MAX;
                assert!(is_same, "RESP{resp}: {before}; {form:?}: {} ms directly, {} ms through", direct.1, through.1);
            }
        }
    }
}

#[test]
fn every_form_answers_as_redis_7_0_does() {
    every_form_answers_as_without_lockgate(ServerKind::Redis70, 3);
}

#[test]
fn every_form_answers_as_redis_8_2_does() {
    every_form_answers_as_without_lockgate(ServerKind::Redis82, 2);
}

#[test]
fn every_form_answers_as_valkey_9_1_does() {
    every_form_answers_as_without_lockgate(ServerKind::Valkey91, 2);
}

#[test]
fn a_set_nx_without_expiry_stays_so_unless_its_rule_says_otherwise() {
    let stage = Stage::new();
    assert!(!stage.client().is_taken_in_hand("lock:1"));
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    assert!(ann.is_taken_in_hand("lock:1"));
    assert_eq!(ann.run("SETNX lock:2 v"), Reply::Int(1));
    assert!(ann.has_lease("lock:2"));
    ann.run("SET lock:3 v NX PX 500000");
    assert!(ann.left_ms("lock:3") > 400_000, "what the client wrote stands");
}

#[test]
fn max_ttl_cuts_every_kind_of_expiry_and_adds_none() {
    let stage = Stage::with(
        "max_ttl = '90s'\n[[lock_keys]]\nmatch = 'lock:*'\nmax_ttl = '60s'\n[[lock_keys]]\nmatch = 'locks:*'",
    );
    let mut ann = stage.client();
    for expiry in ["PX 500000", "EX 500", "PXAT 9000000000000", "EXAT 9000000000"] {
        assert_eq!(ann.run(&format!("SET lock:1 v NX {expiry}")), Reply::Simple("OK".into()));
        assert!(ann.has_lease("lock:1"), "{expiry}");
        ann.run("DEL lock:1");
    }
    ann.run("SET lock:2 v NX PX 5000");
    assert!(ann.left_ms("lock:2") <= 5000);
    assert!(!ann.is_taken_in_hand("lock:3"));
    ann.run("SET locks:1 v NX EX 500");
    assert!(ann.left_ms("locks:1") > 400_000, "the general max_ttl is for LOCK.*");
}

#[test]
fn the_first_rule_that_matches_counts() {
    let stage = Stage::with(&format!("[[lock_keys]]\nmatch = 'lock:plain:*'\n{MARKED}[[lock_keys]]\nmatch = '*'\n"));
    let mut ann = stage.client();
    assert!(!ann.is_taken_in_hand("lock:plain:1"));
    assert!(ann.is_taken_in_hand("lock:1"));
    assert!(!ann.is_taken_in_hand("orders:1"));
}

#[test]
fn a_rule_may_rest_or_stay_in_the_shadow_or_barge() {
    for set in ["mode = 'off'", "mode = 'shadow'", "percent = 0", "barge = true"] {
        let stage = Stage::with(&format!("{MARKED}{set}\n"));
        let mut ann = stage.client();
        assert!(!ann.is_taken_in_hand("lock:1"), "{set}");
        // In a pipeline, inline, and on an own link.
        ann.send(b"SET lock:2 v NX\r\nPTTL lock:2\r\n");
        assert_eq!(ann.frames(2), b"+OK\r\n:-1\r\n", "{set}");
        ann.run("WATCH x");
        assert!(!ann.is_taken_in_hand("lock:3"), "{set}");
    }
}

#[test]
fn a_canary_takes_the_same_share_of_the_keys_on_every_node() {
    let server = RedisServer::start();
    let config = format!("{MARKED}percent = 30\n");
    let nodes = [Lockgate::before_with(&server, &config), Lockgate::before_with(&server, &config)];
    let mut wires = nodes.each_ref().map(Lockgate::wire);
    let shares = wires.each_mut().map(|wire| {
        wire.run("FLUSHALL");
        (0..300).filter(|i| wire.is_taken_in_hand(&format!("lock:{i}"))).collect::<Vec<_>>()
    });
    assert_eq!(shares[0], shares[1]);
    assert!((50..130).contains(&shares[0].len()), "{} of 300", shares[0].len());
}

#[test]
fn a_rule_with_users_is_for_them_alone() {
    let stage = Stage::with(&format!("{MARKED}users = ['bob']\n"));
    let mut side = stage.bypass();
    for user in ["ann", "bob"] {
        side.run(&format!("ACL SETUSER {user} on >pw ~* +@all"));
    }
    let mut client = stage.client();
    assert!(!client.is_taken_in_hand("lock:1"), "the default user");
    client.run("AUTH bob pw");
    assert!(client.is_taken_in_hand("lock:2"));
    client.run("AUTH ann pw");
    assert!(!client.is_taken_in_hand("lock:3"));
    assert!(client.call(&["HELLO", "3", "AUTH", "bob", "pw"]).starts_with(b"%"));
    assert!(client.is_taken_in_hand("lock:4"));
}

#[test]
fn a_rule_for_the_default_user_is_for_those_who_name_nobody() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "secret"]);
    let lockgate = Lockgate::before_with(&server, &format!("{MARKED}users = ['default']\n"));
    let mut ann = lockgate.wire();
    assert!(ann.run("SET lock:1 v NX").is_error("NOAUTH"));
    assert_eq!(ann.call(&["AUTH", "secret"]), b"+OK\r\n");
    assert!(ann.is_taken_in_hand("lock:1"));
}

#[test]
fn rules_change_with_a_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lockgate.toml");
    std::fs::write(&file, "").unwrap();
    let server = RedisServer::start();
    let lockgate = Lockgate::serve(&["--upstream", &server.url(), "--config", file.to_str().unwrap()], None);
    let mut ann = lockgate.wire();
    assert!(!ann.is_taken_in_hand("lock:1"));
    std::fs::write(&file, MARKED).unwrap();
    tools::signal(lockgate.pid(), Signal::SIGHUP);
    eventually("the new rule acts, for connections that stand as well", || {
        ann.run("DEL lock:1");
        ann.is_taken_in_hand("lock:1").then_some(())
    });
    assert!(lockgate.wrote().contains("changed: lock_keys"), "{}", lockgate.wrote());
}

#[test]
fn lockgates_own_keys_are_no_lock_keys() {
    let stage = Stage::with("[[lock_keys]]\nmatch = '*'\ndefault_ttl = '60s'\n");
    assert!(!stage.client().is_taken_in_hand("lockgate:mine"));
    assert!(stage.client().is_taken_in_hand("mine"));
}

#[test]
fn lock_commands_take_lease_level_and_queue_from_the_rule_too() {
    let stage = Stage::with(
        "default_ttl = '20s'\nmax_ttl = '20s'\n[[lock_keys]]\nmatch = 'lock:*'\npriority = 'high'\nmax_ttl = '60s'\ndefault_ttl = '55s'\nmax_queue = 1\n",
    );
    let mut ann = stage.client();
    ann.acquires("lock:1", "ann");
    let info = ann.run("LOCK.INFO lock:1");
    assert_eq!(info.field("priority"), Reply::bulk("high"));
    assert!((50_000..=55_000).contains(&info.field("ttl").int()), "{info:?}");
    ann.run("LOCK.EXTEND lock:1 ann 600000");
    assert!(ann.has_lease("lock:1"), "longer than the general max_ttl");
    let mut bob = stage.client();
    bob.waits_for("lock:1", "bob");
    stage.await_waiters("lock:1", 1);
    assert!(
        stage.client().run("LOCK.ACQUIRE lock:1 cat WAIT 1000").is_error("QUEUEFULL 'lock:1' already has 1 waiters")
    );
    ann.run("LOCK.ACQUIRE lock:2 ann PRIORITY low TTL 5000");
    let info = ann.run("LOCK.INFO lock:2");
    assert_eq!(info.field("priority"), Reply::bulk("low"), "what is named goes before the rule");
    assert!(info.field("ttl").int() <= 5000);
    ann.acquires("other", "ann");
    let info = ann.run("LOCK.INFO other");
    assert_eq!(info.field("priority"), Reply::bulk("normal"));
    assert!(info.field("ttl").int() <= 20_000);
}

#[test]
fn a_transaction_sees_the_plain_command() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    ann.send(&["MULTI", "SET lock:1 v NX", "SETNX lock:2 v", "EXEC", "PTTL lock:1", "PTTL lock:2"].map(line).concat());
    assert_eq!(ann.frames(6), b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n:-1\r\n:-1\r\n");
    assert!(ann.is_taken_in_hand("lock:3"), "and nobody else does");
}

fn line(words: &str) -> Vec<u8> {
    command(&words.split(' ').collect::<Vec<_>>())
}

#[test]
fn a_connection_with_state_of_its_own_is_served_too() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client3();
    for (number, state) in
        ["WATCH x", "CLIENT TRACKING ON", "CLIENT NO-EVICT ON", "WAIT 0 0", "SUBSCRIBE news"].iter().enumerate()
    {
        ann.run(state);
        assert!(ann.is_taken_in_hand(&format!("lock:{number}")), "{state}");
    }
    let mut bob = stage.client();
    bob.run("SUBSCRIBE news");
    assert!(bob.run("SET lock:9 v NX").is_error("ERR Can't execute 'set'"));
    bob.run("UNSUBSCRIBE news");
    assert!(bob.is_taken_in_hand("lock:9"));
}

#[test]
fn an_answer_that_client_reply_forbids_is_not_given() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    ann.send(&["CLIENT REPLY SKIP", "SET lock:1 v NX", "SET lock:1 v NX"].map(line).concat());
    assert_eq!(ann.frame(), b"$-1\r\n");
    ann.send(
        &["CLIENT REPLY OFF", "SETNX lock:2 v", "SET lock:3 v NX", "CLIENT REPLY ON", "SETNX lock:2 v"]
            .map(line)
            .concat(),
    );
    assert_eq!(ann.frames(2), b"+OK\r\n:0\r\n");
    for key in ["lock:1", "lock:2", "lock:3"] {
        assert!(ann.has_lease(key), "{key}");
    }
    ann.assert_nothing_waits();
}

#[test]
fn a_pipeline_keeps_its_order() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for round in 0..200 {
        let key = format!("lock:{}", round % 20);
        sent.extend(command(&["INCR", "count"]));
        sent.extend(command(&["SET", &key, &round.to_string(), "NX", "PX", "60000"]));
        sent.extend(command(&["GET", &key]));
        let first = round % 20;
        let set = if round < 20 { "+OK\r\n" } else { "$-1\r\n" };
        let value = first.to_string();
        expected.extend(format!(":{}\r\n{set}${}\r\n{value}\r\n", round + 1, value.len()).into_bytes());
    }
    ann.send(&sent);
    assert_eq!(ann.frames(600), expected);
}

#[test]
fn a_long_value_is_a_value() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    for (size, is_held) in [(60_000, true), (70_000, true), (2 << 20, true), (9 << 20, false)] {
        let value = "x".repeat(size);
        for (count, words) in [vec!["SET", "lock:a", &value, "NX"], vec!["SETNX", "lock:b", &value]].iter().enumerate()
        {
            let (first, again): (&[u8], &[u8]) =
                if count == 0 { (b"+OK\r\n", b"$-1\r\n") } else { (b":1\r\n", b":0\r\n") };
            assert_eq!(ann.call(words), first, "{size}");
            assert_eq!(ann.call(words), again, "{size}");
            assert_eq!(ann.run(&format!("STRLEN {}", words[1])).int(), i64::try_from(size).unwrap());
            assert_eq!(ann.has_lease(words[1]), is_held, "{size}: longer ones pass as they are");
            ann.run(&format!("DEL {}", words[1]));
        }
        // The same length in other forms, and behind a small command.
        let mut sent = command(&["SET", "k", "1"]);
        sent.extend(command(&["SET", "lock:a", &value, "EX", "60"]));
        sent.extend(command(&["SET", "lock:a", "w", "NX"]));
        sent.extend(command(&["SET", "k", &value]));
        ann.send(&sent);
        assert_eq!(ann.frames(4), b"+OK\r\n+OK\r\n$-1\r\n+OK\r\n", "{size}");
        ann.run("DEL lock:a");
    }
}

#[test]
fn a_key_of_another_type_is_present() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    ann.run("LPUSH lock:l x");
    assert_eq!(ann.run("SET lock:l v NX"), Reply::Nil);
    assert_eq!(ann.run("SETNX lock:l v"), Reply::Int(0));
    assert_eq!(ann.run("LRANGE lock:l 0 -1"), Reply::Array(vec![Reply::bulk("x")]));
}

#[test]
fn a_lock_belongs_to_the_database_of_the_connection() {
    let stage = Stage::with(MARKED);
    let mut ann = stage.client();
    assert!(ann.is_taken_in_hand("lock:1"));
    ann.run("SELECT 5");
    assert!(ann.is_taken_in_hand("lock:1"));
    assert_eq!(ann.run("SET lock:1 v NX"), Reply::Nil);
}

#[test]
fn the_upstreams_refusal_is_the_answer() {
    let stage = Stage::with(MARKED);
    stage.bypass().run("ACL SETUSER reader on >pw ~* +@read");
    let mut reader = stage.client();
    reader.run("AUTH reader pw");
    assert!(reader.run("SET lock:1 v NX").is_error("NOPERM"));
    assert!(reader.run("SETNX lock:1 v").is_error("NOPERM"));
    stage.bypass().run("CONFIG SET maxmemory 1");
    assert!(stage.client().run("SET lock:1 v NX").is_error("OOM"));
    assert_eq!(stage.bypass().run("EXISTS lock:1"), Reply::Int(0));
}

#[test]
fn while_the_upstream_is_away_the_answer_is_one_clear_line() {
    let mut stage = Stage::with(&format!("when_away = 'error'\n{MARKED}"));
    let mut ann = stage.client();
    assert!(ann.is_taken_in_hand("lock:1"));
    stage.server.kill();
    eventually("the loss is noticed", || ann.run("SET lock:2 v NX").is_error("UNAVAILABLE").then_some(()));
    assert!(ann.run("SETNX lock:2 v").is_error("UNAVAILABLE"));
    stage.server.restart();
    eventually("it is there again", || (ann.run("SET lock:2 v NX") == Reply::Simple("OK".into())).then_some(()));
}

#[test]
fn what_client_pause_holds_back_holds_nobody_else_up() {
    let stage = Stage::with(MARKED);
    let (mut ann, mut bob) = (stage.client(), stage.client());
    bob.run("CLIENT PAUSE 60000 WRITE");
    ann.ask_line("SET lock:1 v NX");
    ann.still_waits();
    assert_eq!(bob.run("GET lock:1"), Reply::Nil, "readers go on");
    bob.run("CLIENT UNPAUSE");
    assert_eq!(ann.reply(), Reply::Simple("OK".into()));
    assert!(ann.has_lease("lock:1"));
}

#[test]
fn wait_asks_about_the_locks_of_its_connection_too() {
    let stage = Stage::with(MARKED);
    let address = stage.server.port().to_string();
    let replica = RedisServer::start_with(ServerKind::Redis70, &["--replicaof", "127.0.0.1", &address]);
    let mut ann = stage.client();
    eventually("the replica follows", || {
        ann.run("SET k v");
        (ann.run("WAIT 1 1000") == Reply::Int(1)).then_some(())
    });
    replica.freeze();
    ann.run("SET lock:1 v NX");
    assert_eq!(ann.run("WAIT 1 100"), Reply::Int(0), "it has not got the lock");
    replica.thaw();
    assert_eq!(ann.run("WAIT 1 20000"), Reply::Int(1));
    assert!(Wire::connect(replica.addr()).has_lease("lock:1"));
}
