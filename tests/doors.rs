//! Who is let in, from where, and for how long: load balancers, limits by address, idle clients, wrong passwords.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Certificates, Lockgate, PATIENCE, RedisServer, TlsWire, Wire, command, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const FROM_HERE: &str = "[limits]\nproxy_protocol = true\nproxy_trusted = ['127.0.0.0/8']\nhandshake_timeout = '1s'\n";

fn v2(from: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(from);
    header.extend([10, 0, 0, 1]);
    header.extend(port.to_be_bytes());
    header.extend(7379u16.to_be_bytes());
    header
}

fn listed(wire: &mut Wire) -> String {
    String::from_utf8_lossy(&wire.call(&["CLIENT", "LIST"])).into_owned()
}

#[test]
fn a_trusted_balancer_says_whose_a_connection_is() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, FROM_HERE);
    let mut first = lockgate.wire();
    // The header and the first command come in one piece, and nothing of the command is lost.
    let mut hello = b"PROXY TCP4 192.0.2.7 10.0.0.1 40001 7379\r\n".to_vec();
    hello.extend(command(&["PING"]));
    first.send(&hello);
    assert_eq!(first.frame(), b"+PONG\r\n");
    let list = listed(&mut first);
    assert!(list.contains(" addr=192.0.2.7:40001 laddr=10.0.0.1:7379 "), "{list}");
    // In pieces, too.
    let mut second = lockgate.wire();
    for byte in v2([198, 51, 100, 9], 5) {
        second.send(&[byte]);
    }
    let list = listed(&mut second);
    assert!(list.contains(" addr=198.51.100.9:5 ") && list.contains(" addr=192.0.2.7:40001 "), "{list}");
    // A health check names nobody.
    let mut check = lockgate.wire();
    check.send(b"PROXY UNKNOWN\r\n");
    assert!(listed(&mut check).contains(" addr=127.0.0.1:"));
    assert_eq!(check.call(&["CLIENT", "KILL", "ADDR", "192.0.2.7:40001"]), b":1\r\n");
    assert!(first.until_closed(PATIENCE).is_ok());
}

#[test]
fn without_its_header_a_balancers_connection_ends() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, FROM_HERE);
    for wrong in [&b"*1\r\n$4\r\nPING\r\n"[..], b"PROXY TCP4 nonsense\r\n", b"", b"PROXY TCP4 192"] {
        let mut wire = lockgate.wire();
        wire.send(wrong);
        assert_eq!(wire.until_closed(PATIENCE).unwrap(), b"", "{}", wrong.escape_ascii());
    }
}

#[test]
fn nobody_else_is_believed() {
    let server = RedisServer::start();
    let table = "[limits]\nproxy_protocol = true\nproxy_trusted = ['192.0.2.0/24', 'unix']\n";
    let lockgate = Lockgate::before_with(&server, table);
    let mut wire = lockgate.wire();
    assert_eq!(wire.call(&["PING"]), b"+PONG\r\n", "who comes by itself is served");
    assert!(listed(&mut wire).contains(" addr=127.0.0.1:"));
    wire.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 40001 7379\r\n");
    assert!(wire.frame().starts_with(b"-ERR unknown command 'PROXY'"));
}

#[test]
fn a_header_comes_before_a_handshake() {
    let (server, certificates) = (RedisServer::start(), Certificates::make(&[]));
    let lockgate = Lockgate::before_with(&server, &certificates.tls_table(FROM_HERE));
    let client = certificates.client(None);
    let mut wire = TlsWire::connect_behind(lockgate.tls_addr(), &client, &v2([203, 0, 113, 5], 1234)).unwrap();
    let list = wire.call(&["CLIENT", "LIST"]).unwrap();
    assert!(String::from_utf8_lossy(&list).contains(" addr=203.0.113.5:1234 "), "{}", list.escape_ascii());
    assert!(TlsWire::connect(lockgate.tls_addr(), &client).is_err());
}

#[test]
fn an_address_has_so_many_connections() {
    let server = RedisServer::start();
    let table = FROM_HERE.to_owned() + "connections_per_address = 2\n";
    let lockgate = Lockgate::before_with(&server, &table);
    let come = |from: &str| {
        let mut wire = lockgate.wire();
        wire.send(format!("PROXY TCP4 {from} 10.0.0.1 40001 7379\r\n").as_bytes());
        wire.ask(&["PING"]);
        let answer = wire.frame();
        (wire, answer)
    };
    let (first, answer) = come("192.0.2.7");
    assert_eq!(answer, b"+PONG\r\n");
    let (_second, answer) = come("192.0.2.7");
    assert_eq!(answer, b"+PONG\r\n");
    let (mut third, answer) = come("192.0.2.7");
    assert_eq!(answer, b"-ERR max number of clients reached for your address\r\n");
    assert!(third.until_closed(PATIENCE).is_ok());
    assert_eq!(come("192.0.2.8").1, b"+PONG\r\n", "others have their own");
    drop(first);
    eventually("there is room again", || (come("192.0.2.7").1 == b"+PONG\r\n").then_some(()));
}

#[test]
fn who_sends_nothing_is_closed_but_not_who_waits_listens_or_holds() {
    let server = RedisServer::start();
    let lockgate = Lockgate::before_with(&server, "[limits]\nidle_timeout = '400ms'\n");
    let [mut idle, mut listener, mut blocked, mut holder, mut waiter, mut monitor] = [(); 6].map(|()| lockgate.wire());
    assert_eq!(idle.call(&["PING"]), b"+PONG\r\n");
    assert!(listener.call(&["SUBSCRIBE", "news"]).starts_with(b"*3"));
    blocked.ask(&["BLPOP", "list", "0"]);
    assert!(holder.call(&["LOCK.ACQUIRE", "l", "ann", "TTL", "300", "KEEPALIVE"]).starts_with(b":"));
    waiter.ask(&["LOCK.ACQUIRE", "l", "bob", "WAIT", "60000"]);
    assert_eq!(monitor.call(&["MONITOR"]), b"+OK\r\n");
    let never = TcpStream::connect(lockgate.addr()).unwrap();
    assert!(idle.until_closed(PATIENCE).is_ok());
    let mut never = never;
    never.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(never.read(&mut [0]).unwrap(), 0, "nor may one be silent from the beginning");
    // Three times their time is over for the others.
    std::thread::sleep(Duration::from_millis(1200));
    let mut other = lockgate.wire();
    assert_eq!(other.call(&["PUBLISH", "news", "hi"]), b":1\r\n");
    assert!(listener.frame().ends_with(b"$2\r\nhi\r\n"));
    assert_eq!(other.call(&["RPUSH", "list", "x"]), b":1\r\n");
    assert_eq!(blocked.frame(), b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    // Who has been answered has all its time from then on.
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(blocked.call(&["PING"]), b"+PONG\r\n");
    assert_eq!(holder.call(&["LOCK.RELEASE", "l", "ann"]), b":1\r\n");
    assert!(waiter.frame().starts_with(b":"));
    assert!(blocked.until_closed(PATIENCE).is_ok());
    assert!(monitor.try_frame(Duration::from_millis(1)).is_ok());
}

#[test]
fn wrong_passwords_slow_down_their_address_and_nobody_else() {
    let server = RedisServer::start_with(common::ServerKind::Redis70, &["--requirepass", "right"]);
    let lockgate = Lockgate::before_with(&server, FROM_HERE);
    let come = |from: &str| {
        let mut wire = lockgate.wire();
        wire.send(format!("PROXY TCP4 {from} 10.0.0.1 40001 7379\r\n").as_bytes());
        wire
    };
    let begun = Instant::now();
    for number in 0..8 {
        let words: &[&str] =
            if number % 2 == 0 { &["AUTH", "wrong"] } else { &["HELLO", "3", "AUTH", "default", "wrong"] };
        assert!(come("192.0.2.7").call(words).starts_with(b"-WRONGPASS"));
    }
    // 50, 100, 200 and 400 ms before the fifth to the eighth.
    assert!(begun.elapsed() >= Duration::from_millis(750), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(come("192.0.2.8").call(&["AUTH", "right"]), b"+OK\r\n");
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    // What was right before is not held up, wherever it comes from.
    let begun = Instant::now();
    assert_eq!(come("192.0.2.7").call(&["AUTH", "right"]), b"+OK\r\n");
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    // A HELLO that may be half done is no way around it.
    let begun = Instant::now();
    let mut odd = come("192.0.2.7");
    assert!(odd.call(&["HELLO", "3", "AUTH", "default", "wrong", "NONSENSE"]).starts_with(b"-"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[test]
fn many_wrong_passwords_at_once_are_refused_and_the_others_are_served() {
    let server = RedisServer::start_with(common::ServerKind::Redis70, &["--requirepass", "right"]);
    let lockgate = Lockgate::before_with(&server, FROM_HERE);
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 40001 7379\r\n";
    let mut guessing: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(lockgate.addr()).unwrap()).collect();
    guessing.iter_mut().for_each(|stream| stream.write_all(header).unwrap());
    for round in 0..8 {
        for stream in &mut guessing {
            let _ = stream.write_all(&command(&["AUTH", &format!("guess{round}")]));
        }
    }
    eventually("tries are refused", || {
        let mut wire = lockgate.wire();
        wire.send(header);
        let answer = wire.call(&["AUTH", "another"]);
        answer.starts_with(b"-ERR too many wrong passwords came from your address; try again in").then_some(())
    });
}
