//! The request scanner against a real redis-server: the same bytes must be the same commands, and the same errors.

// In a test a panic is the way to tell.
#![allow(clippy::unwrap_used)]

mod scanner_common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lockgate::protocol::args::encode_command;
use lockgate::protocol::error::ProtocolError;
use lockgate::protocol::frame;
use lockgate::protocol::inline;
use lockgate::protocol::reply::ReplyScanner;
use lockgate::protocol::request::{RequestLimits, RequestScanner};
use scanner_common::{Dice, rounds};

const LIMITS: RequestLimits = RequestLimits { args_max: i32::MAX as u64, bulk_max: 512 << 20, unauthenticated: false };
const STRANGER: RequestLimits = RequestLimits { args_max: 10, bulk_max: 16_384, unauthenticated: true };
const LINE_MAX: usize = 64 * 1024;

/// A redis-server on a unix socket in a folder of its own; both go when it is dropped.
struct Redis {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .args(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let redis = Redis { child, socket, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&redis.socket).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    /// Everything that is answered to `stream`, sent in these pieces, until the connection ends.
    fn answers(&self, stream: &[u8], pieces: &[usize]) -> Vec<u8> {
        let mut socket = UnixStream::connect(&self.socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = stream;
        for &piece in pieces {
            // After an error Redis closes without reading on, and what it said is still to be read.
            if socket.write_all(&rest[..piece]).is_err() {
                break;
            }
            rest = &rest[piece..];
        }
        let _ = socket.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match socket.read(&mut piece) {
                Ok(0) => return answers,
                Ok(len) => answers.extend(&piece[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answers,
                Err(error) => panic!("no end of {}: {error}", answers.escape_ascii()),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many commands of `stream` will be answered, and the error that ends it.
fn predicted(stream: &[u8], limits: &RequestLimits) -> (usize, Option<ProtocolError>) {
    let mut scanner = RequestScanner::new();
    let mut rest = stream;
    let mut answered = 0;
    loop {
        match scanner.advance(rest, limits) {
            Ok(None) => return (answered, None),
            Err(error) => return (answered, Some(error)),
            Ok(Some(frame)) => {
                if !frame.is_multibulk
                    && let Err(error) = inline::split(&rest[..frame.len])
                {
                    return (answered, Some(error));
                }
                answered += usize::from(frame.args > 0);
                rest = &rest[frame.len..];
            }
        }
    }
}

/// The frames in what Redis answered.
fn frames_of(answers: &[u8]) -> Vec<&[u8]> {
    let mut scanner = ReplyScanner::new();
    let mut frames = Vec::new();
    let mut rest = answers;
    while !rest.is_empty() {
        let scan = scanner.scan(rest, 1).unwrap();
        frames.push(&rest[..scan.consumed]);
        rest = &rest[scan.consumed..];
    }
    assert!(scanner.is_at_boundary(), "{}", answers.escape_ascii());
    frames
}

fn assert_agreement(redis: &Redis, stream: &[u8], pieces: &[usize], limits: &RequestLimits, story: &str) {
    let (answered, error) = predicted(stream, limits);
    let answers = redis.answers(stream, pieces);
    let mut frames = frames_of(&answers);
    let story = || {
        let shown = &stream[..stream.len().min(300)];
        format!("{story}: {}\nanswered {}", shown.escape_ascii(), answers.escape_ascii())
    };
    if let Some(error) = error {
        let mut expected = Vec::new();
        error.encode(&mut expected);
        assert_eq!(frames.pop(), Some(&expected[..]), "{error}; {}", story());
    }
    assert_eq!(frames.len(), answered, "{error:?}; {}", story());
    assert!(!frames.iter().any(|frame| frame.starts_with(b"-ERR Protocol error")), "{}", story());
}

/// A command that is answered once and does no harm, whatever a mutation makes of it.
fn command(dice: &mut Dice) -> Vec<u8> {
    let value: Vec<u8> = (0..dice.below(30)).map(|_| dice.byte()).collect();
    let words: &[&[u8]] = match dice.below(5) {
        0 => &[b"PING"],
        1 => &[b"ECHO", &value],
        2 => &[b"SET", b"key", &value],
        3 => &[b"GET", b"key"],
        _ => &[b"NOSUCH", b"", &value],
    };
    let mut bytes = Vec::new();
    match dice.below(8) {
        0 => {
            bytes.extend(*dice.pick(&[&b"PING\r\n"[..], b"GET key\n", b"ECHO \"a\\x41\\n\"\r\n", b"ECHO 'it\\'s'\r\n"]))
        }
        1 => bytes.extend(*dice.pick(&[&b"\r\n"[..], b"\n", b" \t\x0b\r\n", b"*0\r\n", b"*-1\r\n", b"*-12\rx"])),
        _ => encode_command(words, &mut bytes),
    }
    bytes
}

fn fuzz(redis: &Redis, limits: &RequestLimits) {
    let (mut dice, seed) = Dice::seeded();
    for round in 0..rounds(10_000) {
        let mut stream: Vec<u8> = (0..1 + dice.below(4)).flat_map(|_| command(&mut dice)).collect();
        if !dice.one_in(8) {
            dice.mutate(&mut stream);
        }
        let pieces = if dice.one_in(4) { dice.cuts(stream.len()) } else { vec![stream.len()] };
        assert_agreement(redis, &stream, &pieces, limits, &format!("seed {seed}, round {round}"));
    }
}

#[test]
fn redis_reads_the_same_commands_and_refuses_in_the_same_words() {
    fuzz(&Redis::start(&[]), &LIMITS);
}

#[test]
fn redis_reads_the_same_from_a_stranger() {
    let redis = Redis::start(&["--requirepass", "secret"]);
    fuzz(&redis, &STRANGER);
    for stream in [
        "*10\r\n$4\r\nPING\r\n",
        "*11\r\n",
        "*2147483647\r\n",
        "*2147483648\r\n",
        "*1\r\n$16384\r\n",
        "*1\r\n$16385\r\n",
        "*1\r\n$536870912\r\n",
        "*1\r\n$536870913\r\n",
    ] {
        assert_agreement(&redis, stream.as_bytes(), &[stream.len()], &STRANGER, "by hand");
    }
}

#[test]
fn redis_has_the_same_bounds() {
    let redis = Redis::start(&[]);
    for stream in [
        "*2147483647\r\n",
        "*2147483648\r\n",
        "*-9223372036854775808\r\nPING\r\n",
        "*-9223372036854775809\r\n",
        "*1\r\n$536870912\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n\r\n",
        "*1\r\n\n\r\n",
        "*1\r\n\rx",
        "*1\r\n4\r\n",
        "*1\r\n$4\r\nPINGxyPING\r\n",
        "*1\rx$4\ryPINGzzPING\n",
        "PING\0\r\nPING\r\n",
        "*1\0\r\n$4\r\nPING\r\n",
        "*1\r\n$4\0\r\nPING\r\n",
    ] {
        assert_agreement(&redis, stream.as_bytes(), &[stream.len()], &LIMITS, "by hand");
    }
    for byte in 1..=255u8 {
        let stream = [b"*1\r\n", &[byte][..], b"4\r\nPING\r\n"].concat();
        assert_agreement(&redis, &stream, &[stream.len()], &LIMITS, "by hand");
    }
    for start in ["PING ", "PING\0", "\r", "*", "*1", "*\0\r\n", "*1\r\n$", "*1\r\n$1", "*1\r\n", "*1\r\n$\0\r\n"] {
        let before = if start.starts_with("*1\r\n") { 4 } else { 0 };
        for len in [LINE_MAX - 1, LINE_MAX, LINE_MAX + 1, LINE_MAX + 2] {
            let mut stream = start.as_bytes().to_vec();
            stream.resize(before + len, b'1');
            assert_agreement(&redis, &stream, &[stream.len()], &LIMITS, "a long line");
        }
    }
}

#[test]
fn redis_splits_inline_commands_into_the_same_words() {
    let redis = Redis::start(&[]);
    let (mut dice, seed) = Dice::seeded();
    for round in 0..rounds(10_000) {
        let mut line = b"EVAL \"return ARGV\" 0 ".to_vec();
        for _ in 0..dice.below(16) {
            match dice.below(6) {
                0 => line.extend(*dice.pick(&[
                    &b"\\x4a"[..],
                    b"\\xG0",
                    b"\\x4",
                    b"\\n",
                    b"\\'",
                    b"\\\"",
                    b"\\\\",
                    b"\" \"",
                    b"' '",
                ])),
                1 => line.push(dice.roll() as u8),
                _ => line.push(*dice.pick(b"\"\"''  \t\x0b\x0c\r\\abnrtx0fF")),
            }
        }
        line.retain(|byte| !matches!(byte, 0 | b'\n'));
        line.extend(*dice.pick(&[&b"\n"[..], b"\r\n", b"\r\r\n", b" \r\n"]));
        let answers = redis.answers(&line, &[line.len()]);
        let story = format!("seed {seed}, round {round}: {}\nanswered {}", line.escape_ascii(), answers.escape_ascii());
        match inline::split(&line) {
            Ok(words) => {
                let decoded = frame::decode(&answers).unwrap_or_else(|error| panic!("{error}: {story}"));
                let seen: Vec<&[u8]> =
                    decoded.as_array().expect(&story).iter().map(|word| word.as_bytes().unwrap()).collect();
                assert_eq!(seen, words[3..], "{story}");
            }
            Err(error) => {
                let mut expected = Vec::new();
                error.encode(&mut expected);
                assert_eq!(answers, expected, "{story}");
            }
        }
    }
}
