//! How LOCK.* commands speak: options and their errors, places in a pipeline, maps, transactions, COMMAND.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, Stage, command, eventually};

#[test]
fn options_come_in_any_order_and_any_case() {
    let stage = Stage::new();
    let mut client = stage.client();
    for (number, options) in [
        "TTL 5000 WAIT 10 PRIORITY high META note KEEPALIVE",
        "ephemeral meta note priority HIGH wait 10 ttl 5000",
        "Wait 0 Ttl 5000 Meta TTL Priority 2",
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("lock.Acquire orders:{number} ann {options}");
        assert!(client.run(&line).int() > 0, "{line}");
        assert_eq!(client.run(&format!("LOCK.INFO orders:{number}")).field("priority").text(), "high");
    }
    assert_eq!(client.run("LOCK.INFO orders:2").field("meta"), Reply::bulk("TTL"), "META takes any word for its text");
    assert!(client.run("LOCK.PRIORITY orders:4 ann CRITICAL ttl 5000 wait 1 meta x keepalive").int() > 0);
}

#[test]
fn every_level_has_a_name_and_a_number() {
    let stage = Stage::new();
    let mut client = stage.client();
    for (number, name) in ["low", "normal", "high", "critical"].into_iter().enumerate() {
        for (key, level) in [(format!("n:{number}"), number.to_string()), (format!("w:{number}"), name.to_uppercase())]
        {
            assert!(client.run(&format!("LOCK.ACQUIRE {key} ann PRIORITY {level}")).int() > 0);
            assert_eq!(client.run(&format!("LOCK.INFO {key}")).field("priority").text(), name);
        }
    }
    client.acquires("plain", "ann");
    assert_eq!(client.run("LOCK.INFO plain").field("priority").text(), "normal");
}

#[test]
fn wrong_options_are_refused_and_nothing_is_locked() {
    let stage = Stage::new();
    let mut client = stage.client();
    for line in [
        "LOCK.ACQUIRE orders:1 ann BOGUS",
        "LOCK.ACQUIRE orders:1 ann TTL",
        "LOCK.ACQUIRE orders:1 ann TTL 100 TTL 100",
        "LOCK.ACQUIRE orders:1 ann WAIT 1 wait 1",
        "LOCK.ACQUIRE orders:1 ann META a META b",
        "LOCK.ACQUIRE orders:1 ann META",
        "LOCK.ACQUIRE orders:1 ann PRIORITY",
        "LOCK.ACQUIRE orders:1 ann PRIORITY high PRIORITY high",
        "LOCK.ACQUIRE orders:1 ann KEEPALIVE KEEPALIVE",
        "LOCK.ACQUIRE orders:1 ann KEEPALIVE EPHEMERAL",
        "LOCK.ACQUIRE orders:1 ann 1000",
        "LOCK.PRIORITY orders:1 ann high PRIORITY low",
        "LOCK.PRIORITY orders:1 ann high BOGUS",
        "LOCK.RELEASE orders:1 ann BOGUS",
        "LOCK.RELEASE orders:1 ann FENCE",
        "LOCK.RELEASE orders:1 ann FENCE 1 FENCE 1",
        "LOCK.RELEASE orders:1 ann BOGUS 1",
        "LOCK.EXTEND orders:1 ann 100 BOGUS",
        "LOCK.EXTEND orders:1 ann 100 FENCE",
    ] {
        assert_eq!(client.run(line), Reply::Error("ERR syntax error".into()), "{line}");
    }
    for line in [
        "LOCK.ACQUIRE orders:1 ann TTL 0",
        "LOCK.ACQUIRE orders:1 ann TTL -1",
        "LOCK.ACQUIRE orders:1 ann TTL abc",
        "LOCK.ACQUIRE orders:1 ann TTL 1.5",
        "LOCK.ACQUIRE orders:1 ann TTL 1e3",
        "LOCK.ACQUIRE orders:1 ann TTL +5",
        "LOCK.ACQUIRE orders:1 ann TTL 9007199254740992",
        "LOCK.ACQUIRE orders:1 ann TTL 99999999999999999999999",
        "LOCK.ACQUIRE orders:1 ann WAIT -1",
        "LOCK.ACQUIRE orders:1 ann WAIT abc",
        "LOCK.ACQUIRE orders:1 ann WAIT 9007199254740992",
        "LOCK.ACQUIRE orders:1 ann PRIORITY 4",
        "LOCK.ACQUIRE orders:1 ann PRIORITY -1",
        "LOCK.ACQUIRE orders:1 ann PRIORITY urgent",
        "LOCK.PRIORITY orders:1 ann urgent",
        "LOCK.PRIORITY orders:1 ann 4",
        "LOCK.EXTEND orders:1 ann 0",
        "LOCK.EXTEND orders:1 ann -5",
        "LOCK.EXTEND orders:1 ann abc",
        "LOCK.EXTEND orders:1 ann 9007199254740992",
        "LOCK.RELEASE orders:1 ann FENCE abc",
        "LOCK.RELEASE orders:1 ann FENCE -1",
        "LOCK.EXTEND orders:1 ann 100 FENCE abc",
    ] {
        let reply = client.run(line);
        assert!(reply.is_error("ERR "), "{line}: {reply:?}");
    }
    assert_eq!(stage.bypass().run("DBSIZE"), Reply::Int(0));
}

#[test]
fn a_wrong_number_of_arguments_is_told_as_redis_tells_it() {
    let stage = Stage::new();
    let mut client = stage.client();
    for line in [
        "LOCK.ACQUIRE",
        "LOCK.ACQUIRE orders:1",
        "lock.acquire orders:1",
        "LOCK.PRIORITY orders:1 ann",
        "LOCK.RELEASE orders:1",
        "LOCK.EXTEND orders:1 ann",
        "LOCK.REFRESH orders:1 ann",
        "LOCK.INFO",
        "LOCK.INFO a b",
        "LOCK.POSITION orders:1",
        "LOCK.POSITION orders:1 ann x",
        "LOCK.CANCEL orders:1",
    ] {
        let name = line.split(' ').next().unwrap().to_lowercase();
        let expected = format!("ERR wrong number of arguments for '{name}' command");
        assert_eq!(client.run(line), Reply::Error(expected), "{line}");
    }
}

#[test]
fn a_lock_command_that_does_not_exist_is_unknown() {
    let stage = Stage::new();
    let mut client = stage.client();
    let expected = Reply::Error("ERR unknown command 'LOCK.NOPE', with args beginning with: 'a' 'b' ".into());
    assert_eq!(client.run("LOCK.NOPE a b"), expected);
}

#[test]
fn answers_keep_their_place_in_a_pipeline() {
    let stage = Stage::new();
    let mut client = stage.client();
    for round in 0..20 {
        let key = format!("orders:{round}");
        let mut pipeline = Vec::new();
        for i in 0..10 {
            pipeline.extend(command(&["SET", "k", &format!("{round}-{i}")]));
            pipeline.extend(command(&["LOCK.ACQUIRE", &key, &format!("owner-{i}")]));
            pipeline.extend(command(&["GET", "k"]));
        }
        pipeline.extend(command(&["LOCK.RELEASE", &key, "owner-0"]));
        pipeline.extend(b"LOCK.ACQUIRE inline owner\r\nLOCK.RELEASE inline owner\r\nPING\r\n");
        client.send(&pipeline);
        for i in 0..10 {
            assert_eq!(client.reply(), Reply::Simple("OK".into()));
            let grant = client.reply();
            assert!(if i == 0 { grant.int() > 0 } else { grant == Reply::Nil }, "{i}: {grant:?}");
            assert_eq!(client.reply(), Reply::bulk(format!("{round}-{i}")));
        }
        assert_eq!(client.reply(), Reply::Int(1));
        assert!(client.reply().int() > 0);
        assert_eq!(client.reply(), Reply::Int(1));
        assert_eq!(client.reply(), Reply::Simple("PONG".into()));
    }
}

#[test]
fn a_pipeline_of_ten_thousand_locks_is_answered_in_order() {
    let stage = Stage::new();
    let mut client = stage.client();
    let mut pipeline = Vec::new();
    for i in 0..5_000 {
        pipeline.extend(command(&["LOCK.ACQUIRE", &format!("orders:{}", i % 100), "ann", "TTL", "60000"]));
        pipeline.extend(command(&["ECHO", &i.to_string()]));
    }
    client.send(&pipeline);
    let mut fences = [0; 100];
    for i in 0..5_000 {
        let fence = client.reply().int();
        assert!(fences[i % 100] == 0 || fences[i % 100] == fence);
        fences[i % 100] = fence;
        assert_eq!(client.reply(), Reply::bulk(i.to_string()));
    }
}

#[test]
fn requests_cut_anywhere_are_understood() {
    let stage = Stage::new();
    let mut client = stage.client();
    let request = [command(&["LOCK.ACQUIRE", "orders:1", "ann", "TTL", "60000"]), command(&["PING"])].concat();
    let mut fence = None;
    for cut in 1..request.len() {
        client.send(&request[..cut]);
        client.send(&request[cut..]);
        let here = client.reply().int();
        assert_eq!(*fence.get_or_insert(here), here);
        assert_eq!(client.reply(), Reply::Simple("PONG".into()));
    }
}

#[test]
fn info_is_a_flat_array_in_resp2_and_a_map_in_resp3() {
    let stage = Stage::new();
    let (mut two, mut three) = (stage.client(), stage.client3());
    let fields = ["key", "held", "owner", "fence", "ttl", "priority", "acquired_at", "meta", "waiters", "node"];
    let fence = two.run("LOCK.ACQUIRE orders:1 ann TTL 60000 META note PRIORITY low").int();
    let raw = two.call(&["LOCK.INFO", "orders:1"]);
    assert!(raw.starts_with(b"*20\r\n"), "{}", raw.escape_ascii());
    let raw = three.call(&["LOCK.INFO", "orders:1"]);
    assert!(raw.starts_with(b"%10\r\n"), "{}", raw.escape_ascii());
    for client in [&mut two, &mut three] {
        let info = client.run("LOCK.INFO orders:1");
        for field in fields {
            info.field(field);
        }
        assert_eq!(info.field("key"), Reply::bulk("orders:1"));
        assert!(matches!(info.field("held"), Reply::Int(1) | Reply::Bool(true)), "{info:?}");
        assert_eq!(info.field("owner"), Reply::bulk("ann"));
        assert_eq!(info.field("fence"), Reply::Int(fence));
        let ttl = info.field("ttl").int();
        assert!(ttl > 50_000 && ttl <= 60_000, "{ttl}");
        assert_eq!(info.field("priority").text(), "low");
        assert!(info.field("acquired_at").int() > 1_600_000_000_000);
        assert_eq!(info.field("meta"), Reply::bulk("note"));
        assert_eq!(info.field("waiters"), Reply::Int(0));
        assert!(!info.field("node").text().is_empty());

        let free = client.run("LOCK.INFO orders:free");
        assert_eq!(free.field("key"), Reply::bulk("orders:free"));
        assert!(matches!(free.field("held"), Reply::Int(0) | Reply::Bool(false)), "{free:?}");
        for field in ["owner", "fence", "priority", "acquired_at", "meta"] {
            assert_eq!(free.field(field), Reply::Nil, "{field}");
        }
    }
}

#[test]
fn info_on_a_lock_of_set_nx_knows_its_owner_and_no_fence() {
    let stage = Stage::new();
    stage.bypass().run("SET lock:1 somebody NX PX 60000");
    let info = stage.client().run("LOCK.INFO lock:1");
    assert_eq!(info.field("owner"), Reply::bulk("somebody"));
    assert_eq!(info.field("fence"), Reply::Nil);
    assert!(info.field("ttl").int() > 50_000);
    for field in ["priority", "acquired_at", "meta"] {
        assert_eq!(info.field(field), Reply::Nil, "{field}");
    }
}

#[test]
fn in_a_transaction_lock_commands_are_refused_and_exec_aborts() {
    let stage = Stage::new();
    let mut client = stage.client();
    for line in [
        "LOCK.ACQUIRE orders:1 ann",
        "LOCK.RELEASE orders:1 ann",
        "LOCK.INFO orders:1",
        "LOCK.ACQUIRE orders:1 ann WAIT 60000",
    ] {
        assert_eq!(client.run("MULTI"), Reply::Simple("OK".into()));
        assert_eq!(client.run("SET k v"), Reply::Simple("QUEUED".into()));
        let refusal = client.run(line);
        assert!(refusal.is_error("ERR ") && refusal.text().contains("not allowed in transactions"), "{refusal:?}");
        assert_eq!(client.run("SET k v"), Reply::Simple("QUEUED".into()));
        let aborted = Reply::Error("EXECABORT Transaction discarded because of previous errors.".into());
        assert_eq!(client.run("EXEC"), aborted);
        assert_eq!(client.run("EXISTS k orders:1"), Reply::Int(0));
    }
    // In one pipeline as well, and given up by DISCARD.
    client.send(
        &[
            command(&["MULTI"]),
            command(&["SET", "k", "v"]),
            command(&["LOCK.ACQUIRE", "orders:1", "ann"]),
            command(&["EXEC"]),
            command(&["MULTI"]),
            command(&["LOCK.ACQUIRE", "orders:1", "ann"]),
            command(&["DISCARD"]),
            command(&["EXISTS", "k", "orders:1"]),
        ]
        .concat(),
    );
    let replies: Vec<Reply> = (0..8).map(|_| client.reply()).collect();
    assert!(replies[2].is_error("ERR ") && replies[3].is_error("EXECABORT"), "{replies:?}");
    assert!(replies[5].is_error("ERR "), "{replies:?}");
    assert_eq!(replies[6..], [Reply::Simple("OK".into()), Reply::Int(0)]);
}

#[test]
fn locks_work_beside_watch_and_transactions() {
    let stage = Stage::new();
    let mut client = stage.client();
    assert_eq!(client.run("WATCH k"), Reply::Simple("OK".into()));
    client.acquires("orders:1", "ann");
    client.run("MULTI");
    client.run("SET k v");
    assert_eq!(client.run("EXEC"), Reply::Array(vec![Reply::Simple("OK".into())]));
    // A watched lock that changes hands aborts like any other key.
    client.run("WATCH orders:1");
    client.releases("orders:1", "ann");
    client.run("MULTI");
    client.run("SET k w");
    assert_eq!(client.run("EXEC"), Reply::Nil);
}

#[test]
fn a_subscriber_in_resp2_may_not_lock_and_one_in_resp3_may() {
    let stage = Stage::new();
    let (mut two, mut three) = (stage.client(), stage.client3());
    two.run("SUBSCRIBE ch");
    let refusal = two.run("LOCK.ACQUIRE orders:1 ann");
    assert_eq!(
        refusal,
        Reply::Error(
            "ERR Can't execute 'lock.acquire': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
             in this context"
                .into()
        )
    );
    three.run("SUBSCRIBE ch");
    three.acquires("orders:1", "ann");
    three.ask_line("LOCK.ACQUIRE orders:1 bob WAIT 60000");
    stage.await_waiters("orders:1", 1);
    stage.client().run("PUBLISH ch hello");
    assert_eq!(three.reply().items()[2], Reply::bulk("hello"), "a push does not wait for the lock");
    stage.client().releases("orders:1", "ann");
    three.is_granted();
}

#[test]
fn client_reply_off_and_skip_silence_lock_commands_too() {
    let stage = Stage::new();
    let mut client = stage.client();
    client.send(&[command(&["CLIENT", "REPLY", "SKIP"]), command(&["LOCK.ACQUIRE", "orders:1", "ann"])].concat());
    assert_eq!(client.run("ECHO next"), Reply::bulk("next"));
    assert_eq!(stage.holder("orders:1").as_deref(), Some("ann"));
    client.send(
        &[
            command(&["CLIENT", "REPLY", "OFF"]),
            command(&["LOCK.RELEASE", "orders:1", "ann"]),
            command(&["LOCK.NOPE"]),
            command(&["LOCK.ACQUIRE", "orders:2", "ann"]),
            command(&["CLIENT", "REPLY", "ON"]),
        ]
        .concat(),
    );
    assert_eq!(client.reply(), Reply::Simple("OK".into()));
    assert_eq!(stage.holder("orders:1"), None);
    assert_eq!(stage.holder("orders:2").as_deref(), Some("ann"));
}

#[test]
fn command_knows_the_lock_commands() {
    let stage = Stage::new();
    let (mut client, mut bypass) = (stage.client(), stage.bypass());
    let own = client.run("COMMAND COUNT").int() - bypass.run("COMMAND COUNT").int();
    assert!(own >= 7, "{own} commands more than the server's");
    let list = client.run("COMMAND LIST");
    let all = client.run("COMMAND");
    assert_eq!(client.run("COMMAND COUNT").int(), all.items().len() as i64);
    for name in
        ["lock.acquire", "lock.priority", "lock.release", "lock.extend", "lock.info", "lock.position", "lock.cancel"]
    {
        assert!(list.items().contains(&Reply::bulk(name)), "{name} is listed");
        let info = client.run(&format!("COMMAND INFO {name}"));
        assert_eq!(info.items()[0].items()[0].text(), name);
        assert_eq!(info.items()[0].items()[3], Reply::Int(1), "the first key of {name}");
        let docs = client.run(&format!("COMMAND DOCS {name}"));
        assert!(!docs.field(name).field("summary").text().is_empty());
        assert!(!docs.field(name).field("arguments").items().is_empty());
    }
    let mixed = client.run("COMMAND INFO get LOCK.ACQUIRE nope");
    assert_eq!(mixed.items()[0].items()[0].text(), "get");
    assert_eq!(mixed.items()[1].items()[0].text(), "lock.acquire");
    assert_eq!(mixed.items()[2], Reply::Nil);
    let keys = client.run("COMMAND GETKEYS LOCK.ACQUIRE orders:1 ann TTL 5");
    assert_eq!(keys, Reply::Array(vec![Reply::bulk("orders:1")]));
    let mut three = stage.client3();
    let docs = three.call(&["COMMAND", "DOCS", "LOCK.ACQUIRE"]);
    assert!(docs.starts_with(b"%1\r\n$12\r\nlock.acquire\r\n%"), "{}", docs.escape_ascii());
    // Together with the server's own: what redis-cli asks when it starts.
    let docs = three.run("COMMAND DOCS");
    docs.field("get").field("summary");
    docs.field("lock.acquire").field("summary");
}

#[test]
fn a_client_that_sends_an_acquire_and_goes_leaves_no_waiter() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    for _ in 0..20 {
        let mut client = stage.client();
        client.waits_for("orders:1", "bob");
        drop(client);
    }
    ann.releases("orders:1", "ann");
    eventually("nobody holds the lock", || stage.holder("orders:1").is_none().then_some(()));
    stage.await_waiters("orders:1", 0);
}
