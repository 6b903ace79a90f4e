//! Who may do something without credentials, the upstream says: as of the moment at which a client comes, through whatever link it
//! would go on.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Wire};

/// What a client without credentials sends that would show or change something, over shared links and over one of its own.
const ATTEMPTS: [&str; 8] = [
    "GET k",
    "SET lock:1 v NX PX 60000",
    "LOCK.ACQUIRE lock:2 ann",
    "LOCK.INFO lock:2",
    "CLIENT LIST",
    "EVAL return(1) 0",
    "SELECT 1",
    "MULTI",
];

fn is_ok(reply: &Reply) -> bool {
    *reply == Reply::Simple("OK".into())
}

fn no_password(admin: &mut Wire) -> bool {
    admin.call(&["CONFIG", "SET", "requirepass", ""]) == b"+OK\r\n"
}

/// A client that is let in has left links of each sort behind.
fn use_all_links(lockgate: &Lockgate) {
    let mut client = lockgate.wire();
    for line in ["GET k", "EVAL return(1) 0", "LOCK.ACQUIRE lock:warm ann TTL 60000", "MULTI", "GET k", "EXEC"] {
        assert!(!matches!(client.run(line), Reply::Error(_)), "{line}");
    }
}

fn assert_is_kept_out(lockgate: &Lockgate, when: &str) {
    for line in ATTEMPTS {
        let reply = lockgate.wire().run(line);
        assert!(reply.is_error("NOAUTH"), "{when}: {line}: {reply:?}");
    }
    let mut client = lockgate.wire();
    for line in ATTEMPTS {
        let reply = client.run(line);
        assert!(reply.is_error("NOAUTH"), "{when}, one after another: {line}: {reply:?}");
    }
}

fn on_each_server(play: impl Fn(ServerKind, &RedisServer, &Lockgate)) {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, "workers = 2\n");
        play(kind, &server, &lockgate);
    }
}

#[test]
fn a_password_that_is_set_keeps_out_who_comes_later() {
    on_each_server(|kind, server, lockgate| {
        for is_around in [true, false] {
            (0..8).for_each(|_| use_all_links(lockgate));
            let mut standing = lockgate.wire();
            assert!(is_ok(&standing.run("SET k v")), "{kind:?}");
            let mut admin: Wire = if is_around { server.wire() } else { lockgate.wire() };
            assert!(is_ok(&admin.run("CONFIG SET requirepass pw")), "{kind:?}");
            assert_is_kept_out(lockgate, &format!("{kind:?} around Lockgate: {is_around}"));
            assert_eq!(standing.run("GET k"), Reply::bulk("v"), "as with the server, who is in stays in");
            let mut entering = lockgate.wire();
            assert!(entering.run("GET k").is_error("NOAUTH"));
            assert!(is_ok(&entering.run("AUTH pw")));
            assert_eq!(entering.run("GET k"), Reply::bulk("v"));
            assert!(no_password(&mut admin), "{kind:?}");
        }
    });
}

#[test]
fn a_user_without_password_that_is_switched_off_keeps_out_who_comes_later() {
    on_each_server(|kind, server, lockgate| {
        use_all_links(lockgate);
        let mut admin = server.wire();
        assert!(is_ok(&admin.run("ACL SETUSER default resetpass >pw")), "{kind:?}");
        assert_is_kept_out(lockgate, &format!("{kind:?}"));
        assert!(is_ok(&admin.run("ACL SETUSER default nopass")), "{kind:?}");
        assert!(is_ok(&lockgate.wire().run("SET k v")), "{kind:?}");
    });
}

#[test]
fn a_password_that_is_taken_away_lets_in_whoever_is_there() {
    on_each_server(|kind, server, lockgate| {
        let mut admin = server.wire();
        assert!(is_ok(&admin.run("CONFIG SET requirepass pw")));
        let (mut early, mut silent) = (lockgate.wire(), lockgate.wire());
        assert!(early.run("GET k").is_error("NOAUTH"), "{kind:?}");
        assert!(no_password(&mut admin));
        assert!(is_ok(&early.run("SET k v")), "{kind:?}: it stood before");
        assert!(is_ok(&early.run("SET lock:1 v NX")), "{kind:?}");
        assert_eq!(silent.run("GET k"), Reply::bulk("v"), "{kind:?}: it had said nothing before");
        assert_eq!(lockgate.wire().run("GET k"), Reply::bulk("v"), "{kind:?}: it comes now");
        // What the three have used is not lent to those who come when the password is back.
        assert!(is_ok(&admin.run("CONFIG SET requirepass pw")));
        assert_is_kept_out(lockgate, &format!("{kind:?} again"));
    });
}

#[test]
fn reset_makes_a_client_one_that_comes_now() {
    on_each_server(|kind, server, lockgate| {
        let mut client = lockgate.wire();
        assert!(is_ok(&client.run("SET k v")));
        assert!(is_ok(&server.wire().run("CONFIG SET requirepass pw")));
        assert_eq!(client.run("GET k"), Reply::bulk("v"));
        assert_eq!(client.run("RESET"), Reply::Simple("RESET".into()));
        for line in ATTEMPTS {
            let reply = client.run(line);
            assert!(reply.is_error("NOAUTH"), "{kind:?}: {line}: {reply:?}");
        }
    });
}

#[test]
fn those_who_authenticate_at_once_cost_the_upstream_no_question() {
    let server = RedisServer::start_with(ServerKind::Redis70, &["--requirepass", "pw"]);
    let url = format!("redis://:pw@{}", server.addr());
    let lockgate = Lockgate::serve(&["--upstream", &url], None);
    let enter = || {
        let mut client = lockgate.wire();
        assert!(is_ok(&client.run("AUTH pw")));
        assert_eq!(client.run("GET k"), Reply::Nil);
    };
    // Each worker has met this user.
    (0..20).for_each(|_| enter());
    let mut side = server.side_wire();
    let mut hellos = || {
        let Reply::Bulk(info) = side.run("INFO commandstats") else { panic!("no INFO") };
        String::from_utf8_lossy(&info)
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_hello:calls=")?.split(',').next().map(str::to_owned))
    };
    let before = hellos();
    (0..10).for_each(|_| enter());
    assert_eq!(hellos(), before);
}
