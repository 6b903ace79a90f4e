//! What a client leaves on a connection to the upstream that another client gets after it: nothing.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Wire, command, eventually};

/// One worker, so that every client is lent the links of the one before.
const ONE_WORKER: &str = "workers = 1\n";

fn pipeline(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect()
}

/// The replies to a pipeline, one for each line.
fn run(wire: &mut Wire, lines: &[&str]) -> Vec<Reply> {
    wire.send(&pipeline(lines));
    lines.iter().map(|_| wire.reply()).collect()
}

/// What the upstream says of the connections that Lockgate has to it, once `is_so`.
#[track_caller]
fn await_links(server: &RedisServer, what: &str, is_so: impl Fn(&str) -> bool) -> String {
    let mut side = server.side_wire();
    eventually(what, || {
        let list = String::from_utf8_lossy(&side.call(&["CLIENT", "LIST"])).into_owned();
        let links: String =
            list.lines().filter(|line| !line.contains(" laddr=/")).map(|line| format!("{line}\n")).collect();
        is_so(&links).then_some(links)
    })
}

fn setup(kind: ServerKind) -> (RedisServer, Lockgate) {
    let server = RedisServer::start_with(kind, &[]);
    let mut side = server.side_wire();
    for line in [
        "ACL SETUSER boss on >pw ~* &* +@all",
        "ACL SETUSER dev on >pw ~dev &* +@all -@dangerous",
        "SET secret treasure",
        "SET dev k",
    ] {
        side.run(line);
    }
    let lockgate = Lockgate::before_with(&server, ONE_WORKER);
    (server, lockgate)
}

#[test]
fn who_authenticated_within_a_transaction_is_nobody_elses_user() {
    for kind in ServerKind::ALL {
        let (_server, lockgate) = setup(kind);
        for (from, to, sees) in [("dev", "boss", false), ("boss", "dev", true)] {
            for change in [format!("AUTH {to} pw"), format!("HELLO 3 AUTH {to} pw")] {
                let mut first = lockgate.wire();
                assert_eq!(first.run(&format!("AUTH {from} pw")), Reply::Simple("OK".into()));
                first.send(&pipeline(&["MULTI", &change, "EXEC"]));
                first.frames(3);
                assert_eq!(first.run("ACL WHOAMI"), Reply::bulk(to));
                let of_first = first.run("GET secret");
                assert_eq!(of_first.is_error("NOPERM"), to == "dev", "{of_first:?}");
                for _ in 0..6 {
                    let mut next = lockgate.wire();
                    next.run(&format!("AUTH {from} pw"));
                    let replies = run(&mut next, &["MULTI", "ACL WHOAMI", "GET secret", "EXEC"]);
                    match (sees, &replies[3]) {
                        (true, Reply::Array(items)) => assert_eq!(items[0], Reply::bulk(from)),
                        (false, refused) => assert!(refused.is_error("EXECABORT"), "{refused:?}"),
                        other => panic!("{other:?}"),
                    }
                }
                drop(first);
            }
        }
    }
}

#[test]
fn a_hello_that_is_refused_after_a_part_of_it_gives_nobody_else_a_user() {
    for kind in ServerKind::ALL {
        let (server, lockgate) = setup(kind);
        server.side_wire().run("ACL SETUSER mute on >pw ~* &* +@all -acl -client");
        let half = "HELLO 3 AUTH boss pw BAD";
        for lines in [
            &[half][..],
            &["WATCH k", half],
            &["MULTI", half, "EXEC"],
            &["MULTI", "HELLO 3 AUTH boss pw AUTH boss wrong", "EXEC"],
            &["HELLO 3 AUTH mute pw BAD", half],
            &["MULTI", "HELLO 3 AUTH mute pw BAD", "EXEC", "GET k"],
        ] {
            let mut first = lockgate.wire();
            assert_eq!(first.run("AUTH dev pw"), Reply::Simple("OK".into()));
            // Redis 8.2 says nothing to a wrong password in a transaction: what comes next is taken for the rest of that reply.
            let is_mute = kind == ServerKind::Redis82 && lines.iter().any(|line| line.contains("wrong"));
            first.send(&pipeline(lines));
            first.ask_line("ECHO end");
            first.frames(lines.len() + usize::from(!is_mute));
            drop(first);
            for _ in 0..6 {
                let mut next = lockgate.wire();
                next.run("AUTH dev pw");
                let replies = run(&mut next, &["MULTI", "ACL WHOAMI", "EXEC"]);
                assert_eq!(replies[2], Reply::Array(vec![Reply::bulk("dev")]), "{} after {lines:?}", kind.name());
                assert!(next.run("GET secret").is_error("NOPERM"));
            }
        }
    }
}

#[test]
fn nothing_is_carried_out_for_a_client_of_whom_nobody_says_who_it_is() {
    let server = RedisServer::start_with(ServerKind::Redis70, &[]);
    let mut side = server.side_wire();
    for line in [
        "ACL SETUSER gate on >pw ~* &* +@all -client|list",
        "ACL SETUSER boss on >pw ~* &* +@all",
        "ACL SETUSER mute on >pw ~* &* +@all -acl -set",
    ] {
        assert_eq!(side.run(line), Reply::Simple("OK".into()));
    }
    let url = format!("redis://gate:pw@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], Some(ONE_WORKER));
    let mut client = lockgate.wire();
    client.run("AUTH boss pw");
    assert_eq!(client.run("SET lock:a v NX PX 100000"), Reply::Simple("OK".into()));
    assert!(client.run("HELLO 2 AUTH mute pw BAD").is_error("ERR"));
    for line in ["SET lock:z v NX", "SET lock:z v", "LOCK.ACQUIRE z me"] {
        let answer = client.run(line);
        assert!(answer.is_error("NOPERM"), "{line}: {answer:?}");
    }
    client.run("AUTH boss pw");
    for line in ["SET lock:z v NX", "LOCK.ACQUIRE z me"] {
        assert!(!client.run(line).is_error(""), "{line}");
    }
}

#[test]
fn locks_are_judged_by_whom_a_refused_hello_has_made_of_the_client() {
    for kind in ServerKind::ALL {
        let (_server, lockgate) = setup(kind);
        for lines in [&["HELLO 2 AUTH dev pw BAD"][..], &["MULTI", "HELLO 2 AUTH dev pw BAD", "EXEC"]] {
            let mut client = lockgate.wire();
            client.run("AUTH boss pw");
            run(&mut client, lines);
            let is_dev = kind == ServerKind::Redis70;
            let answer = client.run("LOCK.ACQUIRE secret-lock owner");
            assert_eq!(answer.is_error("NOPERM"), is_dev, "{}: {answer:?}", kind.name());
            assert_eq!(client.run("ACL WHOAMI"), Reply::bulk(if is_dev { "dev" } else { "boss" }));
            if !is_dev {
                client.run("LOCK.RELEASE secret-lock owner");
            }
        }
    }
}

#[test]
fn a_link_that_is_lent_on_has_no_name_database_protocol_or_flag_of_the_one_before() {
    for kind in ServerKind::ALL {
        let (server, lockgate) = setup(kind);
        for _ in 0..3 {
            let mut first = lockgate.wire();
            first.send(&pipeline(&[
                "MULTI",
                "CLIENT SETNAME leftover",
                "SELECT 7",
                "CLIENT NO-EVICT ON",
                "CLIENT TRACKING ON BCAST",
                "HELLO 3",
                "EXEC",
            ]));
            first.frames(7);
            assert_eq!(first.run("RESET"), Reply::Simple("RESET".into()));
            let mut next = lockgate.wire();
            assert_eq!(run(&mut next, &["MULTI", "SET k v", "HGETALL none", "EXEC"])[3].items().len(), 2);
            // On Redis 7.0 it has its flag still.
            drop(first);
            await_links(&server, "no link has anything of its last user", |links| {
                // One is Lockgate's own, which tracks and is subscribed for as long as it lives.
                links.lines().filter(|link| link.contains(" sub=0 ")).all(|link| {
                    let flags = link.split(" flags=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("");
                    !link.contains("name=leftover") && !link.contains(" db=7") && !flags.contains(['e', 't', 'x'])
                })
            });
        }
        let mut look = server.side_wire();
        look.run("SELECT 7");
        assert_eq!(look.run("EXISTS k"), Reply::Int(0), "a write went to the database of the one before");
    }
}

#[test]
fn messages_for_one_client_are_no_replies_to_the_next() {
    let (_server, lockgate) = setup(ServerKind::Redis70);
    let mut loud = lockgate.wire();
    for round in 0..10 {
        let mut first = lockgate.wire();
        first.send(&pipeline(&["SUBSCRIBE ch", "RESET"]));
        first.frames(2);
        for _ in 0..5 {
            loud.run("PUBLISH ch loud");
        }
        let mut next = lockgate.wire();
        let value = format!("v{round}");
        let replies = run(&mut next, &["MULTI", &format!("SET k {value}"), "GET k", "EXEC"]);
        assert_eq!(replies[3], Reply::Array(vec![Reply::Simple("OK".into()), Reply::bulk(&value)]));
        next.assert_nothing_waits();
    }
}

#[test]
fn an_upstream_without_reset_gets_its_links_closed_instead() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--rename-command", "RESET", ""]);
    let lockgate = Lockgate::before_with(&server, ONE_WORKER);
    for _ in 0..3 {
        let mut first = lockgate.wire();
        first.send(&pipeline(&["MULTI", "CLIENT SETNAME leftover", "SELECT 7", "EXEC", "SELECT 0", "UNWATCH"]));
        first.frames(6);
        drop(first);
        let mut next = lockgate.wire();
        let replies = run(&mut next, &["MULTI", "SET k v", "EXEC"]);
        assert_eq!(replies[2], Reply::Array(vec![Reply::Simple("OK".into())]));
    }
    await_links(&server, "links with a name are closed", |links| !links.contains("name=leftover"));
    let mut look = server.side_wire();
    assert_eq!(look.run("EXISTS k"), Reply::Int(1));
}

#[test]
fn a_client_is_killed_and_unblocked_from_within_a_transaction_by_its_number_here() {
    for kind in ServerKind::ALL {
        let (server, lockgate) = setup(kind);
        // So that the numbers of the upstream are others than ours.
        let _more: Vec<Wire> = (0..8).map(|_| server.wire()).collect();
        let mut bystanders: Vec<Wire> = (0..6).map(|_| lockgate.wire()).collect();
        let ids: Vec<i64> = bystanders.iter_mut().map(|wire| wire.run("CLIENT ID").int()).collect();
        let mut killer = lockgate.wire();
        let mine = killer.run("CLIENT ID").int();
        let kill = format!("CLIENT KILL ID {}", ids[2]);
        let replies = run(&mut killer, &["MULTI", "CLIENT ID", &kill, "CLIENT KILL ID 999999", "EXEC"]);
        assert_eq!(replies[4], Reply::Array(vec![Reply::Int(mine), Reply::Int(1), Reply::Int(0)]), "{}", kind.name());
        let mut victim = bystanders.remove(2);
        assert!(victim.until_closed(common::PATIENCE).is_ok(), "it is closed");
        for wire in &mut bystanders {
            assert_eq!(wire.run("PING"), Reply::Simple("PONG".into()));
        }
        let mut blocked = bystanders.remove(0);
        blocked.ask_line("BLPOP l 0");
        server.await_blocked(1);
        let unblock = format!("CLIENT UNBLOCK {} ERROR", ids[0]);
        assert_eq!(run(&mut killer, &["MULTI", &unblock, "EXEC"])[2], Reply::Array(vec![Reply::Int(1)]));
        assert!(blocked.reply().is_error("UNBLOCKED"));
        // What is discarded, aborted or refused touches nobody.
        let kill = format!("CLIENT KILL ID {}", ids[1]);
        run(&mut killer, &["MULTI", &kill, "DISCARD"]);
        run(&mut killer, &["MULTI", &kill, "NOSUCH", "EXEC"]);
        let mut dev = lockgate.wire();
        dev.run("AUTH dev pw");
        assert!(run(&mut dev, &["MULTI", &kill, "EXEC"])[2].is_error("EXECABORT"));
        assert_eq!(bystanders[0].run("PING"), Reply::Simple("PONG".into()));
    }
}

#[test]
fn links_that_nobody_uses_are_in_nobodys_way() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, "workers = 4\n[links]\nown_max = 4\n");
    for round in 0..72 {
        let mut client = lockgate.wire();
        if round % 3 == 0 {
            client.run("HELLO 3");
        }
        client.run(&format!("SELECT {}", round % 4));
        assert_eq!(client.run("WATCH k"), Reply::Simple("OK".into()), "round {round}");
        assert_eq!(run(&mut client, &["MULTI", "SET k v", "EXEC"])[2].items().len(), 1);
    }
    // In use at the same time there are no more than that.
    let mut watching: Vec<Wire> = (0..4).map(|_| lockgate.wire()).collect();
    for client in &mut watching {
        eventually("the last one's link is free", || {
            (client.run("WATCH k") == Reply::Simple("OK".into())).then_some(())
        });
    }
    assert!(lockgate.wire().run("WATCH k").is_error("UNAVAILABLE all 4 upstream links"));
}
