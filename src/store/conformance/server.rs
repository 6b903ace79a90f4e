//! The servers that are asked: a real redis-server, and the model of Redis that whole days are played before.

use std::future::{Future, ready};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::protocol::frame::{Value, decode};
use crate::protocol::reply::ReplyScanner;
use crate::store::reply::Reply;
use crate::upstream::call::{CallError, Caller};
use crate::upstream::simulated::server::Server as Redis;

/// A redis-server of its own.
pub struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Begins one on a socket of its own.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Server { child, folder };
        let began = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "redis-server does not come up");
            std::thread::yield_now();
        }
        server
    }

    /// A connection to it alone.
    pub fn stream(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).unwrap()
    }

    /// A connection to it, and to the model beside it.
    pub fn link(&self) -> Link {
        let mut model = Redis::default();
        let client = model.connects();
        let socket = self.stream();
        Link(Arc::new(Mutex::new(Wire { socket, model, client, now_us: 0, slack_ms: 0 })))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TIME: &[u8] = b"*1\r\n$4\r\nTIME\r\n";

/// Numbers above it are times in µs.
const LONG_AGO_US: i64 = 1_000_000_000_000_000;

/// Numbers above it are what is left of a lease, in ms.
const LEASE_MS: i64 = 60_000;

/// One command, one reply, and nothing else goes on meanwhile. The model of Redis that the simulation of the whole process has is asked
/// the same, and must say the same.
#[derive(Clone)]
pub struct Link(Arc<Mutex<Wire>>);

struct Wire {
    socket: UnixStream,
    model: Redis,
    client: u64,
    now_us: u64,
    /// By how much a lease in the server and in the model may differ: what was written between two looks at the clock begins at either.
    slack_ms: u64,
}

impl Wire {
    /// The replies to so many commands.
    fn ask_server(&mut self, requests: &[u8], mut count: u32) -> Vec<Vec<u8>> {
        self.socket.write_all(requests).unwrap();
        let (mut replies, mut reply, mut scanner) = (Vec::new(), Vec::new(), ReplyScanner::new());
        let mut chunk = [0u8; 4096];
        while count > 0 {
            let n = self.socket.read(&mut chunk).unwrap();
            assert!(n > 0, "the server closed the link");
            let mut rest = &chunk[..n];
            while !rest.is_empty() {
                let scan = scanner.scan(rest, 1).unwrap();
                reply.extend_from_slice(&rest[..scan.consumed]);
                rest = &rest[scan.consumed..];
                if scan.frames == 1 {
                    replies.push(std::mem::take(&mut reply));
                    count -= 1;
                }
            }
        }
        replies
    }

    fn ask_both(&mut self, request: &[u8]) -> Result<Vec<u8>, Undecidable> {
        // In one go, so that next to no time passes between the three.
        let replies = self.ask_server(&[TIME, request, TIME].concat(), 3);
        let [before, real, after] = &replies[..] else { panic!("three were asked") };
        let (real, until_us) = (real.clone(), time_us(after));
        self.now_us = time_us(before);
        self.model.set_time(self.now_us);
        let (now_ms, until_ms) = (self.now_us / 1000, until_us / 1000);
        self.slack_ms = self.slack_ms.max(until_ms.saturating_sub(now_ms + 1));
        let is_undecidable = self.model.expires_within(now_ms.saturating_sub(self.slack_ms), until_ms + self.slack_ms);
        assert!(self.model.hears(self.client, request), "the model closed the link");
        let modelled = self.model.take_output(self.client);
        if is_undecidable {
            self.slack_ms = 0;
            return Err(Undecidable);
        }
        let (Ok(one), Ok(other)) = (decode(&real), decode(&modelled)) else { panic!("a reply makes no sense") };
        let asked: Vec<_> = crate::protocol::args::args(request).map(|word| word.escape_ascii().to_string()).collect();
        // A hash has no order.
        let are_alike = match (asked[0] == "HGETALL", &one, &other) {
            (true, Value::Array(one), Value::Array(other)) => are_alike(&sorted(one), &sorted(other)),
            _ => are_alike(&one, &other),
        };
        assert!(are_alike, "asked {asked:?}\n a server said {one:?}\n the model {other:?}");
        if one != other {
            // Fences by the clock and arrivals are of another microsecond: the model goes on from the server's.
            let key = crate::protocol::args::args(request).nth(1).unwrap_or_default();
            match (&asked[0][..], &one) {
                ("GET", value) => self.model_follows(&[b"SET", key, value.as_bytes().unwrap_or_default(), b"KEEPTTL"]),
                ("HGETALL", Value::Array(fields)) => {
                    let fields: Vec<&[u8]> = fields.iter().filter_map(Value::as_bytes).collect();
                    self.model_follows(&[&[b"HSET", key], &fields[..]].concat());
                }
                _ => {}
            }
        }
        Ok(real)
    }

    fn model_follows(&mut self, words: &[&[u8]]) {
        let mut request = Vec::new();
        crate::protocol::args::encode_command(words, &mut request);
        self.model.hears(self.client, &request);
        self.model.take_output(self.client);
    }
}

/// A key may have expired before the command or after it, and no clock tells which: the machine stood still between two commands of one
/// pipeline, this one or one in which a lease was written. A life in which that happens is played again from its beginning.
pub struct Undecidable;

/// What `TIME` says, in µs.
fn time_us(reply: &[u8]) -> u64 {
    match decode(reply).unwrap() {
        Value::Array(time) => {
            let [seconds, us] = [0, 1].map(|part: usize| time[part].as_str().unwrap().parse::<u64>().unwrap());
            seconds * 1_000_000 + us
        }
        other => panic!("TIME is an array, not {other:?}"),
    }
}

/// The same, but for what a millisecond changes.
fn are_alike(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Array(some), Value::Array(others)) => {
            some.len() == others.len() && some.iter().zip(others).all(|(one, other)| are_alike(one, other))
        }
        (Value::Integer(one), Value::Integer(other)) => {
            let least = (*one).min(*other);
            let most = match least {
                // A fence goes by the clock where the counter was lost: by the microsecond of the script.
                LONG_AGO_US.. => 5_000_000,
                // What is left of a lease, on a machine that stands still for a while.
                LEASE_MS.. => LEASE_MS,
                _ => 1,
            };
            one.abs_diff(*other) < most as u64
        }
        (Value::Error(one), Value::Error(other)) => {
            one.split(|byte| *byte == b' ').next() == other.split(|byte| *byte == b' ').next()
        }
        _ => match (one.as_bytes(), other.as_bytes()) {
            // A part of the time.
            (Some(one), Some(other)) if [one, other].iter().all(|text| text.iter().all(u8::is_ascii_digit)) => true,
            (Some(one), Some(other)) => without_times(one) == without_times(other),
            _ => one == other,
        },
    }
}

fn sorted<'a>(pairs: &[Value<'a>]) -> Value<'a> {
    let mut pairs: Vec<_> = pairs.chunks(2).map(<[_]>::to_vec).collect();
    pairs.sort_by_key(|pair| pair[0].as_bytes().map(<[u8]>::to_vec));
    Value::Array(pairs.concat())
}

/// Long numbers are times, or made of them.
fn without_times(text: &[u8]) -> Vec<&[u8]> {
    let parts = text.chunk_by(|one, other| one.is_ascii_digit() == other.is_ascii_digit());
    parts.map(|part| if part[0].is_ascii_digit() && part.len() > 5 { &b"time"[..] } else { part }).collect()
}

impl Link {
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let outcome = self.0.lock().unwrap().ask_both(request);
        outcome.unwrap_or_else(|undecidable| std::panic::resume_unwind(Box::new(undecidable)))
    }

    /// The server's clock as it was asked last, in µs.
    pub fn now_us(&self) -> u64 {
        self.0.lock().unwrap().now_us
    }

    /// The time of a key is over.
    pub fn lets_expire(&self, key: &[u8]) {
        self.run(&[b"PEXPIRE", key, b"1"]);
        self.waits_for_the_end_of(key);
    }

    /// Until it is gone, and its last millisecond as well: a server removes at once what PEXPIRE gives an end that has come by the time
    /// that it looks, which on a busy machine is a millisecond after it has read the clock. For the model the key lives on through that one.
    fn waits_for_the_end_of(&self, key: &[u8]) {
        let end_ms = self.now_us() / 1000 + 1;
        let mut request = Vec::new();
        crate::protocol::args::encode_command(&[&b"PTTL"[..], key], &mut request);
        request.extend_from_slice(TIME);
        loop {
            let replies = self.0.lock().unwrap().ask_server(&request, 2);
            if replies[0] == b":-2\r\n" && time_us(&replies[1]) / 1000 > end_ms {
                return;
            }
        }
    }

    /// Asks, and reads the reply.
    pub fn run(&self, words: &[&[u8]]) -> Reply {
        let mut request = Vec::new();
        crate::protocol::args::encode_command(words, &mut request);
        Reply::read(&self.ask(&request)).unwrap()
    }
}

impl Caller for Link {
    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        ready(Ok(self.ask(&request)))
    }
}

/// What never waits is done at the first poll.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("the link answers at once"),
    }
}

/// What a machine that stands still for a millisecond in the middle of a PEXPIRE makes of it (seeds 25 and 65, each once).
#[test]
fn a_key_that_a_server_removes_in_its_last_millisecond_is_over_in_the_model_too() {
    let server = Server::start();
    let link = server.link();
    let mut removal = Vec::new();
    crate::protocol::args::encode_command(&[&b"DEL"[..], b"k"], &mut removal);
    for _ in 0..20 {
        link.run(&[b"SET", b"k", b"v", b"PX", b"200000"]);
        link.run(&[b"PEXPIRE", b"k", b"1"]);
        link.0.lock().unwrap().ask_server(&removal, 1);
        link.waits_for_the_end_of(b"k");
        assert!(matches!(link.run(&[b"GET", b"k"]), Reply::Nil));
    }
}
