//! The command table and the merged `COMMAND` replies against what real servers say of themselves.

mod common;

use common::{RedisServer, Reply, ServerKind, Wire};
use lockgate::commands::{CommandTable, Keys, LOCK_COMMANDS, Plan, Treatment, Why, plan};
use lockgate::domain::Resp;

/// The server's connection after `HELLO` with that version.
fn speaking(server: &RedisServer, resp: Resp) -> Wire {
    let mut wire = server.wire();
    wire.call(&["HELLO", if resp == Resp::V3 { "3" } else { "2" }]);
    wire
}

/// What a client would get for `line` through Lockgate.
fn through_lockgate(wire: &mut Wire, line: &str, resp: Resp) -> Reply {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    match plan(&words, resp) {
        Plan::Forward => wire.run(line),
        Plan::Ask { request, merge } => {
            wire.send(&request);
            Reply::parse(&merge.apply(wire.frame()))
        }
    }
}

fn each_server(mut check: impl FnMut(&RedisServer)) {
    for kind in ServerKind::ALL {
        eprintln!("against {}", kind.name());
        check(&RedisServer::start_with(kind, &[]));
    }
}

fn each_server_and_protocol(mut check: impl FnMut(&mut Wire, Resp)) {
    each_server(|server| {
        for resp in [Resp::V2, Resp::V3] {
            check(&mut speaking(server, resp), resp);
        }
    });
}

/// Name and description one after the other, however the protocol writes a map.
fn pairs(reply: &Reply) -> Vec<(String, Reply)> {
    match reply {
        Reply::Map(pairs) => pairs.iter().map(|(name, value)| (name.text(), value.clone())).collect(),
        flat => flat.items().chunks(2).map(|pair| (pair[0].text(), pair[1].clone())).collect(),
    }
}

/// The kinds a reply is made of, without what it says: texts and numbers are blanked, the elements of a list are
/// reduced to the different kinds among them, keys of maps stay.
fn skeleton(reply: &Reply) -> String {
    let kinds = |items: &[Reply]| {
        let mut kinds: Vec<String> = items.iter().map(skeleton).collect();
        kinds.dedup();
        kinds.join(" ")
    };
    match reply {
        Reply::Simple(_) => "+".into(),
        Reply::Int(_) => ":".into(),
        Reply::Bulk(_) => "$".into(),
        Reply::Array(items) => format!("*[{}]", kinds(items)),
        Reply::Set(items) => format!("~[{}]", kinds(items)),
        Reply::Map(pairs) => {
            let fields: Vec<String> = pairs.iter().map(|(k, v)| format!("{}={}", k.text(), skeleton(v))).collect();
            format!("%[{}]", fields.join(" "))
        }
        other => panic!("nothing of that kind is in the replies of COMMAND: {other:?}"),
    }
}

#[test]
fn every_command_of_every_server_has_a_treatment_that_somebody_decided_on() {
    each_server(|server| {
        let reply = server.wire().call(&["COMMAND"]);
        let builtin = CommandTable::builtin();
        let undecided: Vec<String> = Reply::parse(&reply)
            .items()
            .iter()
            .map(|entry| entry.items()[0].text().to_lowercase())
            .filter(|name| {
                builtin.find(name.as_bytes()).is_none_or(|entry| entry.treatment == Treatment::Own(Why::Unknown))
            })
            // The vector sets of Redis 8 are a module, and come with flags that say enough.
            .filter(|name| !name.starts_with('v'))
            .collect();
        assert!(undecided.is_empty(), "{}: {undecided:?}", server.kind().name());
    });
}

#[test]
fn what_was_learned_agrees_with_the_server_in_arity_keys_and_access() {
    each_server_and_protocol(|wire, _| {
        let reply = wire.call(&["COMMAND"]);
        let table = CommandTable::learn(&reply).expect("a real server's reply");
        for told in Reply::parse(&reply).items() {
            let told = told.items();
            let name = told[0].text();
            let entry = table.find(name.as_bytes()).unwrap_or_else(|| panic!("{name} was not learned"));
            let flags: Vec<String> = told[2].items().iter().map(Reply::text).collect();
            assert_eq!(i64::from(entry.arity), told[1].int(), "{name}");
            assert_eq!(entry.is_write(), flags.iter().any(|flag| flag == "write"), "{name}");
            // The server calls it a reader, and holds it back with the writers.
            let is_reader = name != "pfcount" && flags.iter().any(|flag| flag == "readonly");
            assert_eq!(entry.is_readonly(), is_reader, "{name}");
            let keys = [entry.first_key, entry.last_key, entry.step].map(i64::from);
            assert_eq!(keys, [told[3].int(), told[4].int(), told[5].int()], "{name}");
            assert_ne!(entry.treatment, Treatment::Own(Why::Unknown), "{name}");
        }
    });
}

#[test]
fn what_is_known_before_the_upstream_answers_agrees_with_redis_7() {
    let server = RedisServer::start();
    let builtin = CommandTable::builtin();
    for told in Reply::parse(&server.wire().call(&["COMMAND"])).items() {
        let told = told.items();
        let name = told[0].text();
        let entry = builtin.find(name.as_bytes()).unwrap_or_else(|| panic!("{name} is missing"));
        let ours = [entry.arity, entry.first_key, entry.last_key, entry.step].map(i64::from);
        assert_eq!(ours, [told[1].int(), told[3].int(), told[4].int(), told[5].int()], "{name}");
    }
}

#[test]
fn what_may_wait_never_shares_a_link() {
    each_server(|server| {
        let reply = server.wire().call(&["COMMAND"]);
        let table = CommandTable::learn(&reply).expect("a real server's reply");
        for told in Reply::parse(&reply).items() {
            let told = told.items();
            let flags: Vec<String> = told[2].items().iter().map(Reply::text).collect();
            if flags.iter().any(|flag| flag == "blocking") {
                let name = told[0].text();
                assert_ne!(table.find(name.as_bytes()).map(|entry| entry.treatment), Some(Treatment::Share), "{name}");
            }
        }
    });
}

#[test]
fn lock_commands_stand_among_the_servers_own_in_the_same_shape() {
    each_server_and_protocol(|wire, resp| {
        let all = through_lockgate(wire, "COMMAND", resp);
        let count = through_lockgate(wire, "COMMAND COUNT", resp).int();
        let theirs = wire.run("COMMAND");
        assert_eq!(all.items().len(), theirs.items().len() + LOCK_COMMANDS.len());
        // The server's table may move between two calls, and with it the order.
        let sorted = |entries: &[Reply]| {
            let mut texts: Vec<String> = entries.iter().map(|entry| format!("{:?}", entry.items()[0])).collect();
            texts.sort();
            texts
        };
        let own = &all.items()[..theirs.items().len()];
        assert!(sorted(own) == sorted(theirs.items()), "the server's own come first");
        assert_eq!(all.items().len(), usize::try_from(count).expect("a count"));
        for (lock, spec) in all.items()[theirs.items().len()..].iter().zip(LOCK_COMMANDS) {
            // One of the server's own whose keys stand in the same way.
            let alike = match spec.keys {
                Keys::None => "echo",
                Keys::First(_) => "get",
                Keys::Counted(_) => "zunion",
                Keys::FirstAndInner(_) => "sort_ro",
            };
            let alike = wire.run(&format!("COMMAND INFO {alike}")).items()[0].clone();
            let mut expected = skeleton(&alike);
            if matches!(spec.keys, Keys::FirstAndInner(_)) {
                // Servers differ in how much they say of keys that they cannot tell.
                expected = skeleton(lock);
                assert_eq!(lock.items().len(), alike.items().len());
            }
            assert_eq!(skeleton(lock), expected, "{}", spec.name);
        }
    });
}

#[test]
fn entries_keep_the_order_in_which_they_were_asked_for() {
    each_server_and_protocol(|wire, resp| {
        let mixed = through_lockgate(wire, "COMMAND INFO set LOCK.INFO nosuch config|get lock.acquire", resp);
        let theirs = wire.run("COMMAND INFO set nosuch config|get");
        let [set, info, nosuch, config, acquire] = mixed.items() else { panic!("five entries: {mixed:?}") };
        assert_eq!([set, nosuch, config], [&theirs.items()[0], &theirs.items()[1], &theirs.items()[2]]);
        assert_eq!(info.items()[0].text(), "lock.info");
        assert_eq!(acquire.items()[0].text(), "lock.acquire");
        assert_eq!(skeleton(info), skeleton(&wire.run("COMMAND INFO get").items()[0]));
    });
}

#[test]
fn descriptions_have_the_servers_shape() {
    const ORDER: [&str; 7] = ["name", "type", "display_text", "key_spec_index", "token", "flags", "arguments"];
    each_server_and_protocol(|wire, resp| {
        let all = through_lockgate(wire, "COMMAND DOCS", resp);
        let theirs = wire.run("COMMAND DOCS");
        assert_eq!(pairs(&all).len(), pairs(&theirs).len() + LOCK_COMMANDS.len());
        for line in ["COMMAND DOCS", "COMMAND DOCS get lock.info", "COMMAND DOCS lock.info nosuch get"] {
            let docs = through_lockgate(wire, line, resp);
            assert_eq!(skeleton(&docs.field("lock.info")), skeleton(&docs.field("get")), "{line}");
        }
        let names = |line: &str, wire: &mut Wire| -> Vec<String> {
            pairs(&through_lockgate(wire, line, resp)).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("COMMAND DOCS lock.info nosuch get lock.cancel", wire), ["lock.info", "get", "lock.cancel"]);
        assert_eq!(names("COMMAND DOCS lock.info", wire), ["lock.info"]);
        for argument in all.field("lock.acquire").field("arguments").items() {
            let fields: Vec<String> = pairs(argument).into_iter().map(|(name, _)| name).collect();
            let places: Vec<_> = fields.iter().map(|field| ORDER.iter().position(|known| known == field)).collect();
            assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{fields:?}");
        }
    });
}

#[test]
fn lists_and_keys_include_lock_commands() {
    each_server_and_protocol(|wire, resp| {
        let all = through_lockgate(wire, "COMMAND LIST", resp);
        assert_eq!(all.items().len(), wire.run("COMMAND LIST").items().len() + LOCK_COMMANDS.len());
        let locks = through_lockgate(wire, "COMMAND LIST FILTERBY ACLCAT lock", resp);
        assert_eq!(locks.items().len(), LOCK_COMMANDS.len() - 9, "three rule, and six tell of everybody");
        let mixed = through_lockgate(wire, "COMMAND LIST FILTERBY PATTERN l*.?n*", resp);
        assert_eq!(mixed.items(), [Reply::bulk("lock.info")]);
        let admin = through_lockgate(wire, "COMMAND LIST FILTERBY ACLCAT dangerous", resp);
        for name in ["lock.force", "lock.config", "lock.cleanup"] {
            assert!(admin.items().contains(&Reply::bulk(name)), "{name}");
            for category in ["lock", "read", "write"] {
                let list = through_lockgate(wire, &format!("COMMAND LIST FILTERBY ACLCAT {category}"), resp);
                assert!(!list.items().contains(&Reply::bulk(name)), "{name} in {category}");
            }
        }
        let keys = through_lockgate(wire, "COMMAND GETKEYS lock.acquire K o", resp);
        assert_eq!(keys, Reply::Array(vec![Reply::bulk("K")]));
        for (line, expected) in [
            ("LOCK.ACQUIREALL 2 a b o WAIT 5", &["a", "b"][..]),
            ("LOCK.RELEASEALL 1 a o", &["a"]),
            ("LOCK.GUARD K 7 MSET a 1 b 2", &["K", "a", "b"]),
            ("LOCK.GUARD K 7 DBSIZE", &["K"]),
        ] {
            let keys = through_lockgate(wire, &format!("COMMAND GETKEYS {line}"), resp);
            assert_eq!(keys, Reply::Array(expected.iter().map(Reply::bulk).collect()), "{line}");
        }
        for line in ["LOCK.STATS", "LOCK.LIST 0", "LOCK.HELP"] {
            let none = through_lockgate(wire, &format!("COMMAND GETKEYS {line}"), resp);
            assert_eq!(none, Reply::Error("ERR The command has no key arguments".into()), "{line}");
        }
        let guard = through_lockgate(wire, "COMMAND GETKEYSANDFLAGS LOCK.GUARD K 7 GET a", resp);
        assert_eq!(guard.items().len(), 2);
        assert_eq!(skeleton(&guard), skeleton(&wire.run("COMMAND GETKEYSANDFLAGS MGET K a")));
        let lock = through_lockgate(wire, "COMMAND GETKEYSANDFLAGS lock.info K", resp);
        assert_eq!(skeleton(&lock), skeleton(&wire.run("COMMAND GETKEYSANDFLAGS get K")));
    });
}

#[test]
fn what_the_upstream_forbids_stays_forbidden() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "secret"]);
    let mut wire = server.wire();
    for line in ["COMMAND", "COMMAND COUNT", "COMMAND DOCS lock.info", "COMMAND LIST", "COMMAND GETKEYS lock.info k"] {
        let reply = through_lockgate(&mut wire, line, Resp::V2);
        assert!(reply.is_error("NOAUTH"), "{line}: {reply:?}");
    }
    let refused = CommandTable::learn(&wire.call(&["COMMAND"]));
    assert!(refused.is_err_and(|error| error.to_string().contains("NOAUTH")));
}
