//! TLS for clients: real ones, and what no client does.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Certificates, Lockgate, PATIENCE, RedisServer, ServerKind, TlsWire, Wire, command, eventually, tools};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

fn with_tls(server: &RedisServer, certificates: &Certificates, more: &str) -> Lockgate {
    Lockgate::before_with(server, &certificates.tls_table(more))
}

/// Runs to a good end; returns what was written.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said.trim_end().to_owned()
}

fn redis_cli(lockgate: &Lockgate, certificates: &Certificates) -> Command {
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "localhost", "-p", &lockgate.tls_addr().port().to_string(), "--tls", "--cacert"]);
    cli.arg(certificates.path("ca.crt"));
    cli
}

#[test]
fn redis_cli_redis_py_and_ioredis_work_over_tls() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&["app"]));
    for (table, user) in [("", "-"), ("client_ca = '{folder}/ca.crt'", "app")] {
        let lockgate = with_tls(&server, &certificates, table);
        let port = lockgate.tls_addr().port().to_string();
        let mut cli = redis_cli(&lockgate, &certificates);
        if user != "-" {
            cli.arg("--cert").arg(certificates.path("app.crt")).arg("--key").arg(certificates.path("app.key"));
        }
        assert_eq!(run(cli.args(["SET", "greeting", "hello"])), "OK");
        // In the clear beside it, as ever.
        assert_eq!(lockgate.wire().call(&["GET", "greeting"]), b"$5\r\nhello\r\n");
        let scripts = tools::source_dir().join("tests/clients");
        let mut python = Command::new(tools::target_dir().join("test-venv/bin/python"));
        python.arg(scripts.join("python/tls.py")).arg(&port).arg(certificates.folder()).arg(user);
        assert_eq!(run(&mut python), "all of it works");
        let mut node = Command::new("node");
        node.arg(scripts.join("node/tls.mjs")).arg(&port).arg(certificates.folder()).arg(user);
        assert_eq!(run(&mut node), "all of it works");
    }
}

#[test]
fn both_versions_are_spoken_and_sessions_are_resumed() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = with_tls(&server, &certificates, "");
    for (version, number) in [
        (&rustls::version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let client = certificates.client_of(None, &[version]);
        let mut first = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
        assert_eq!(first.call(&["PING"]).unwrap(), b"+PONG\r\n");
        assert_eq!((first.version(), first.is_resumed()), (Some(number), false));
        let mut second = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
        assert_eq!(second.call(&["PING"]).unwrap(), b"+PONG\r\n");
        assert!(second.is_resumed(), "{number:?}");
        // The end is said, so that a client can tell it from a connection that was cut.
        assert_eq!(second.call(&["QUIT"]).unwrap(), b"+OK\r\n");
        assert!(second.ends_in_order());
    }
}

#[test]
fn every_byte_comes_through_whoever_is_slow() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = with_tls(&server, &certificates, "");
    let mut wire = TlsWire::connect(lockgate.tls_addr(), &certificates.client(None)).unwrap();
    let value: String = (0..200_000).map(|number| format!("{number:05} ")).collect();
    assert_eq!(wire.call(&["SET", "big", &value]).unwrap(), b"+OK\r\n");
    // Many replies of many sizes, none of which is read before all is asked for: the socket fills, again and again in the middle of a
    // record.
    let mut asked = Vec::new();
    let sizes: Vec<usize> = (0..3000).map(|number| (number * 7919) % 16_000 + 1).collect();
    for size in &sizes {
        asked.extend(command(&["GETRANGE", "big", "3", &(size + 2).to_string()]));
        asked.extend(command(&["ECHO", &size.to_string()]));
    }
    wire.send(&asked).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for size in &sizes {
        assert_eq!(wire.frame().unwrap(), format!("${size}\r\n{}\r\n", &value[3..size + 3]).as_bytes());
        let echo = size.to_string();
        assert_eq!(wire.frame().unwrap(), format!("${}\r\n{echo}\r\n", echo.len()).as_bytes());
    }
    assert_eq!(wire.call(&["GET", "big"]).unwrap(), format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    // A client that closes without a word has been served all the same.
    wire.send(&command(&["SET", "last", "words"])).unwrap();
    wire.socket().shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.frame().unwrap(), b"+OK\r\n");
    assert_eq!(lockgate.wire().call(&["GET", "last"]), b"$5\r\nwords\r\n");
}

#[test]
fn a_lock_is_handed_over_between_tls_and_plain_clients() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = with_tls(&server, &certificates, "");
    let mut holder = TlsWire::connect(lockgate.tls_addr(), &certificates.client(None)).unwrap();
    let answer = holder.call(&["LOCK.ACQUIRE", "orders:1", "ann", "TTL", "60000", "EPHEMERAL"]).unwrap();
    assert!(answer.starts_with(b":"), "{}", answer.escape_ascii());
    let mut waiter = lockgate.wire();
    waiter.ask(&["LOCK.ACQUIRE", "orders:1", "bob", "WAIT", "60000"]);
    eventually("bob waits", || {
        let queue = lockgate.wire().call(&["LOCK.QUEUE", "orders:1"]);
        String::from_utf8_lossy(&queue).contains("bob").then_some(())
    });
    drop(holder);
    assert!(waiter.frame().starts_with(b":"), "the holder left, and bob has it");
}

#[test]
fn a_certificate_is_asked_for_where_authorities_are_named() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&["app"]));
    let strangers = Certificates::make(&["app"]);
    let required = with_tls(&server, &certificates, "client_ca = '{folder}/ca.crt'");
    // With TLS 1.3 a client hears of the refusal when it reads.
    let refused = |addr, client| TlsWire::connect(addr, &client).and_then(|mut wire| wire.call(&["PING"])).is_err();
    assert!(refused(required.tls_addr(), certificates.client(None)));
    let mut wire = TlsWire::connect(required.tls_addr(), &certificates.client(Some("app"))).unwrap();
    assert_eq!(wire.call(&["PING"]).unwrap(), b"+PONG\r\n");
    assert_eq!(wire.call(&["ACL", "WHOAMI"]).unwrap(), b"$7\r\ndefault\r\n", "client_user is none");
    // Another authority's "app" is nobody here.
    let forged = {
        let mut roots = rustls::RootCertStore::empty();
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        roots.add(CertificateDer::from_pem_file(certificates.path("ca.crt")).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let cert = CertificateDer::from_pem_file(strangers.path("app.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(strangers.path("app.key")).unwrap();
        std::sync::Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(vec![cert], key).unwrap())
    };
    assert!(refused(required.tls_addr(), forged.clone()));
    let optional = with_tls(&server, &certificates, "client_ca = '{folder}/ca.crt'\nclient_auth = 'optional'");
    assert!(!refused(optional.tls_addr(), certificates.client(None)));
    assert!(!refused(optional.tls_addr(), certificates.client(Some("app"))));
    assert!(refused(optional.tls_addr(), forged));
}

#[test]
fn a_certificate_says_who_its_holder_is() {
    let certificates = Certificates::make(&["app", "ghost"]);
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let mut direct = server.wire();
        assert_eq!(direct.call(&["ACL", "SETUSER", "app", "on", "nopass", "~app:*", "+@all"]), b"+OK\r\n");
        assert_eq!(direct.call(&["ACL", "SETUSER", "default", ">secret", "resetkeys", "-@all"]), b"+OK\r\n");
        for what in ["cn", "san"] {
            let table = format!("client_ca = '{{folder}}/ca.crt'\nclient_user = '{what}'");
            let lockgate = with_tls(&server, &certificates, &table);
            let client = certificates.client(Some("app"));
            let mut first = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
            assert_eq!(first.call(&["SET", "app:x", "1"]).unwrap(), b"+OK\r\n");
            let mut wire = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
            assert_eq!(wire.call(&["SET", "app:x", "1"]).unwrap(), b"+OK\r\n");
            assert!(wire.is_resumed(), "the certificate is shown once, and counts");
            assert!(wire.call(&["SET", "other", "1"]).unwrap().starts_with(b"-NOPERM"));
            assert_eq!(wire.call(&["ACL", "WHOAMI"]).unwrap(), b"$3\r\napp\r\n");
            assert!(String::from_utf8_lossy(&wire.call(&["CLIENT", "LIST"]).unwrap()).contains(" user=app "));
            assert_eq!(wire.call(&["RESET"]).unwrap(), b"+RESET\r\n");
            assert_eq!(wire.call(&["ACL", "WHOAMI"]).unwrap(), b"$3\r\napp\r\n", "it is whom it was at its coming");
            // Whom the upstream does not know is nobody.
            let mut ghost = TlsWire::connect(lockgate.tls_addr(), &certificates.client(Some("ghost"))).unwrap();
            assert!(ghost.call(&["SET", "app:x", "1"]).unwrap().starts_with(b"-WRONGPASS"));
        }
    }
}

#[test]
fn changed_certificates_are_taken_over_and_bad_ones_are_not() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = with_tls(&server, &certificates, "");
    let client = certificates.client(None);
    let mut standing = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
    let first = standing.server_certificate();
    let shown = || TlsWire::connect(lockgate.tls_addr(), &client).unwrap().server_certificate();

    // Half of a change does not count.
    std::fs::write(certificates.path("server.crt"), "no certificate").unwrap();
    tools::signal(lockgate.pid(), Signal::SIGHUP);
    eventually("the log says why", || {
        let said = lockgate.wrote();
        (said.contains("the old ones stay in force") && said.contains("server.crt holds no certificate")).then_some(())
    });
    assert_eq!(shown(), first);

    // Nobody has to tell Lockgate of it.
    certificates.make_again(&[]);
    eventually("the new certificate is shown", || (shown() != first).then_some(()));
    assert_eq!(standing.call(&["PING"]).unwrap(), b"+PONG\r\n", "who is connected stays");
}

#[test]
fn what_is_no_handshake_ends_and_harms_nobody() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let table = certificates.tls_table("[limits]\nhandshake_timeout = '1s'");
    let lockgate = Lockgate::before_with(&server, &table);
    let client = certificates.client(None);
    let mut other = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();

    // Plain bytes.
    let mut plain = TcpStream::connect(lockgate.tls_addr()).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&0x15), "a TLS alert, and the end: {answer:?}");

    // Handshakes that stop half-way, and one that never begins: each ends in its time.
    let hello = client_hello(&certificates);
    let begun = Instant::now();
    let mut halves: Vec<TcpStream> = (0..hello.len())
        .step_by(20)
        .map(|cut| {
            let mut half = TcpStream::connect(lockgate.tls_addr()).unwrap();
            half.set_read_timeout(Some(PATIENCE)).unwrap();
            half.write_all(&hello[..cut]).unwrap();
            half
        })
        .collect();
    assert_eq!(other.call(&["PING"]).unwrap(), b"+PONG\r\n");
    for half in &mut halves {
        let mut rest = Vec::new();
        let _ = half.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == 0x15, "{rest:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "they had their time");
    // Garbage in the middle of a connection ends that one.
    let mut broken = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
    assert_eq!(broken.call(&["PING"]).unwrap(), b"+PONG\r\n");
    broken.socket().write_all(&[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]).unwrap();
    assert!(broken.frame().is_err());
    assert_eq!(other.call(&["PING"]).unwrap(), b"+PONG\r\n");
    eventually("nobody else is left", || {
        let list = lockgate.wire().call(&["CLIENT", "LIST"]);
        (String::from_utf8_lossy(&list).matches("id=").count() == 2).then_some(())
    });
}

#[test]
fn a_thousand_handshakes_leave_nothing_behind() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = with_tls(&server, &certificates, "");
    let hello = client_hello(&certificates);
    let round = |count: usize| {
        for number in 0..count {
            let client = certificates.client(None);
            let mut wire = TlsWire::connect(lockgate.tls_addr(), &client).unwrap();
            if number % 10 == 0 {
                assert_eq!(wire.call(&["PING"]).unwrap(), b"+PONG\r\n");
            }
            let mut half = TcpStream::connect(lockgate.tls_addr()).unwrap();
            half.write_all(&hello[..number % hello.len()]).unwrap();
        }
    };
    round(300);
    let before = tools::resident_bytes(lockgate.pid());
    round(1000);
    lockgate.assert_settles_below(before + (4 << 20));
}

#[test]
fn a_shutdown_does_not_wait_for_handshakes() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let mut lockgate = Lockgate::before_with(&server, &certificates.tls_table("[limits]\nhandshake_timeout = '0s'"));
    let _half = TcpStream::connect(lockgate.tls_addr()).unwrap();
    eventually("it is there", || {
        let list = lockgate.wire().call(&["CLIENT", "LIST"]);
        (String::from_utf8_lossy(&list).matches("id=").count() == 2).then_some(())
    });
    let begun = Instant::now();
    lockgate.terminate();
    assert!(lockgate.exit().success());
    assert!(begun.elapsed() < Duration::from_secs(4), "drain_timeout is 5s");
}

/// The first bytes of a handshake.
fn client_hello(certificates: &Certificates) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(certificates.client(None), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// A Redis that speaks TLS alone, and wants to see a certificate.
fn redis_with_tls(certificates: &Certificates, kind: ServerKind, port: u16) -> RedisServer {
    let path = |name: &str| certificates.path(name).display().to_string();
    let (ca, cert, key, port) = (path("ca.crt"), path("server.crt"), path("server.key"), port.to_string());
    RedisServer::start_with(
        kind,
        &["--tls-port", &port, "--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key],
    )
}

fn upstream_table(certificates: &Certificates, user: &str) -> String {
    let folder = certificates.folder().display();
    format!("[upstream_tls]\nca = '{folder}/ca.crt'\ncert = '{folder}/{user}.crt'\nkey = '{folder}/{user}.key'\n")
}

#[test]
fn the_upstream_is_reached_over_tls() {
    let certificates = Certificates::make(&["gate"]);
    let port = common::server::free_port();
    let server = redis_with_tls(&certificates, ServerKind::Redis70, port);
    let url = format!("rediss://localhost:{port}");
    let lockgate = Lockgate::serve(&["--upstream", &url], Some(&upstream_table(&certificates, "gate")));
    let mut wire = lockgate.wire();
    let value = "v".repeat(2_000_000);
    assert_eq!(wire.call(&["SET", "big", &value]), b"+OK\r\n");
    assert_eq!(wire.call(&["GET", "big"]), format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    for number in 0..200 {
        wire.ask(&["INCR", "n"]);
        assert_eq!(wire.frame(), format!(":{}\r\n", number + 1).as_bytes());
    }
    // Locks, a transaction, a subscription: every kind of link.
    let mut waiter = lockgate.wire();
    assert!(wire.call(&["LOCK.ACQUIRE", "l", "ann", "TTL", "60000"]).starts_with(b":"));
    waiter.ask(&["LOCK.ACQUIRE", "l", "bob", "WAIT", "60000"]);
    eventually("bob waits", || {
        String::from_utf8_lossy(&lockgate.wire().call(&["LOCK.QUEUE", "l"])).contains("bob").then_some(())
    });
    assert_eq!(wire.call(&["LOCK.RELEASE", "l", "ann"]), b":1\r\n");
    assert!(waiter.frame().starts_with(b":"));
    assert_eq!(wire.call(&["MULTI"]), b"+OK\r\n");
    assert_eq!(wire.call(&["INCR", "n"]), b"+QUEUED\r\n");
    assert_eq!(wire.call(&["EXEC"]), b"*1\r\n:201\r\n");
    // None of it went in the clear.
    let clients = String::from_utf8_lossy(&server.side_wire().call(&["CLIENT", "LIST"])).into_owned();
    let plain = format!("laddr=127.0.0.1:{} ", server.port());
    assert!(!clients.contains(&plain) && clients.contains(&format!(":{port} ")), "{clients}");
    let mut ping = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    let folder = certificates.folder().display();
    ping.args(["ping", "--listen", &lockgate.addr().to_string(), "--upstream", &url]);
    ping.env("LOCKGATE_UPSTREAM_TLS__CA", format!("{folder}/ca.crt"));
    ping.env("LOCKGATE_UPSTREAM_TLS__CERT", format!("{folder}/gate.crt"));
    ping.env("LOCKGATE_UPSTREAM_TLS__KEY", format!("{folder}/gate.key"));
    assert_eq!(run(&mut ping), "+PONG");
}

#[test]
fn an_upstream_that_nobody_vouches_for_is_not_used() {
    let (certificates, others) = (Certificates::make(&["gate"]), Certificates::make(&["gate"]));
    let port = common::server::free_port();
    let _server = redis_with_tls(&certificates, ServerKind::Redis70, port);
    let table = upstream_table(&others, "gate");
    for (url, table, why) in [
        (format!("rediss://localhost:{port}"), table, "certificate"),
        (format!("rediss://127.0.0.2:{port}"), upstream_table(&certificates, "gate"), "cannot connect"),
        (
            format!("rediss://localhost:{port}"),
            upstream_table(&certificates, "gate") + "server_name = 'elsewhere'",
            "not valid for name",
        ),
    ] {
        let lockgate = Lockgate::serve(&["--upstream", &url], Some(&table));
        let answer = lockgate.wire().call(&["LOCK.ACQUIRE", "l", "ann"]);
        assert!(answer.starts_with(b"-UNAVAILABLE"), "{}", answer.escape_ascii());
        eventually(&format!("the log says why: {why}"), || lockgate.wrote().contains(why).then_some(()));
    }
    // A name of its own makes up for an address that the certificate does not name.
    let lockgate = Lockgate::serve(
        &["--upstream", &format!("rediss://localhost:{port}")],
        Some(&(upstream_table(&certificates, "gate") + "server_name = '127.0.0.1'")),
    );
    assert_eq!(lockgate.wire().call(&["PING"]), b"+PONG\r\n");
}

#[test]
fn a_lost_link_over_tls_is_dialled_again() {
    let certificates = Certificates::make(&["gate"]);
    let port = common::server::free_port();
    let server = redis_with_tls(&certificates, ServerKind::Redis70, port);
    let url = format!("rediss://localhost:{port}");
    let lockgate = Lockgate::serve(&["--upstream", &url], Some(&upstream_table(&certificates, "gate")));
    let mut wire: Wire = lockgate.wire();
    assert_eq!(wire.call(&["SET", "k", "1"]), b"+OK\r\n");
    assert_eq!(server.side_wire().call(&["CLIENT", "KILL", "TYPE", "normal"]).first(), Some(&b':'));
    eventually("it goes on", || {
        let mut fresh = lockgate.wire();
        fresh.ask(&["GET", "k"]);
        fresh.try_frame(PATIENCE).is_ok_and(|frame| frame == b"$1\r\n1\r\n").then_some(())
    });
}
