//! A raw connection: bytes out, frames in exactly as they came. What it knows of RESP is written apart from Lockgate's
//! own scanner, so that one does not excuse the other's mistakes.

use super::reply::{Reply, frame_len};
use super::wait::PATIENCE;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client that sends what it is told and hands out what came.
pub struct Wire {
    stream: Stream,
    /// What came and was not handed out; the first `seen` bytes were.
    came: Vec<u8>,
    seen: usize,
    ended: bool,
}

/// Why no frame came.
#[derive(Debug)]
pub enum Silence {
    /// Nothing whole in time; these bytes of an unfinished frame.
    TooLong(Vec<u8>),
    /// The other side closed; these bytes of an unfinished frame came before.
    Closed(Vec<u8>),
}

/// A command as clients send it: an array of bulk strings.
pub fn command<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

impl Wire {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        // Each send leaves at once, so that what the test cuts stays cut.
        stream.set_nodelay(true).unwrap();
        // Who takes nothing for so long will take nothing at all; the test goes on and says what is missing.
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(Stream::Tcp(stream))
    }

    /// The same, `None` where nobody takes the connection.
    pub fn try_connect(addr: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).ok()?;
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Some(Self::over(Stream::Tcp(stream)))
    }

    pub fn connect_unix(path: &Path) -> Self {
        Self::try_connect_unix(path).unwrap_or_else(|| panic!("cannot connect to {}", path.display()))
    }

    pub fn try_connect_unix(path: &Path) -> Option<Self> {
        UnixStream::connect(path).ok().map(|stream| Self::over(Stream::Unix(stream)))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, came: Vec::new(), seen: 0, ended: false }
    }

    /// This side's port, by which the other side knows the connection.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().unwrap(),
            Stream::Unix(_) => panic!("a unix socket has no address"),
        }
    }

    /// Sends the bytes. A connection that the other side has closed swallows them, as it does for any client.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Sends as much as the other side takes within `patience`; returns how many bytes that was.
    pub fn send_for(&mut self, bytes: &[u8], patience: Duration) -> usize {
        let Stream::Tcp(stream) = &mut self.stream else { panic!("only over TCP") };
        stream.set_write_timeout(Some(patience)).unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => sent += n,
            }
        }
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    /// A second handle on the same connection, to write from another thread while this one reads.
    pub fn writer(&self) -> TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream.try_clone().unwrap(),
            Stream::Unix(_) => panic!("only over TCP"),
        }
    }

    /// Sends a command without waiting for its reply.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        self.send(&command(words));
    }

    /// Sends a command and hands out its reply's bytes.
    #[track_caller]
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        self.ask(words);
        self.frame()
    }

    /// Sends a command given as words between blanks and understands its reply.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> Reply {
        self.ask_line(line);
        self.reply()
    }

    /// Sends a command given as words between blanks.
    pub fn ask_line(&mut self, line: &str) {
        self.ask(&line.split_whitespace().collect::<Vec<_>>());
    }

    /// The next frame, its bytes as they came; fails the test if none comes.
    #[track_caller]
    pub fn frame(&mut self) -> Vec<u8> {
        match self.try_frame(PATIENCE) {
            Ok(frame) => frame,
            Err(silence) => panic!("a frame was expected: {}", silence.describe()),
        }
    }

    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        Reply::parse(&self.frame())
    }

    #[track_caller]
    pub fn frames(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.extend(self.frame());
        }
        all
    }

    pub fn try_frame(&mut self, patience: Duration) -> Result<Vec<u8>, Silence> {
        let end = Instant::now() + patience;
        loop {
            if let Some(len) = frame_len(&self.came[self.seen..]) {
                let frame = self.came[self.seen..self.seen + len].to_vec();
                self.hand_out(len);
                return Ok(frame);
            }
            if self.ended {
                return Err(Silence::Closed(self.rest()));
            }
            if !self.read_more(end) && !self.ended {
                return Err(Silence::TooLong(self.came[self.seen..].to_vec()));
            }
        }
    }

    /// Everything that comes until the other side closes; the error holds what came when it did not.
    pub fn until_closed(&mut self, patience: Duration) -> Result<Vec<u8>, Vec<u8>> {
        let end = Instant::now() + patience;
        while !self.ended {
            if !self.read_more(end) && !self.ended {
                return Err(self.rest());
            }
        }
        Ok(self.rest())
    }

    /// Reads and drops exactly `count` bytes that pass `check` (given their offset), for values too large to keep.
    #[track_caller]
    pub fn swallow(&mut self, count: u64, mut check: impl FnMut(u64, &[u8])) {
        let mut done = 0;
        while done < count {
            if self.seen == self.came.len() {
                assert!(self.read_more(Instant::now() + PATIENCE), "the value stopped after {done} of {count} bytes");
            }
            let here = usize::try_from(count - done).unwrap_or(usize::MAX).min(self.came.len() - self.seen);
            check(done, &self.came[self.seen..self.seen + here]);
            self.hand_out(here);
            done += here as u64;
        }
    }

    /// Exactly `count` bytes, whatever they are.
    #[track_caller]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        while self.came.len() - self.seen < count {
            assert!(self.read_more(end), "only {:?} came", String::from_utf8_lossy(&self.came[self.seen..]));
        }
        let bytes = self.came[self.seen..self.seen + count].to_vec();
        self.hand_out(count);
        bytes
    }

    /// Says that this side sends nothing more; it can still read.
    pub fn finish(&mut self) {
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// True when nothing else was waiting on the connection: a PING sent now is answered next.
    #[track_caller]
    pub fn assert_nothing_waits(&mut self) {
        let marker = format!("nothing-waits-{:?}", Instant::now());
        let reply = self.call(&["PING", &marker]);
        let text = String::from_utf8_lossy(&reply).into_owned();
        assert!(text.contains(&marker), "something else had come: {text:?}");
    }

    fn hand_out(&mut self, len: usize) {
        self.seen += len;
        if self.seen == self.came.len() {
            self.came.clear();
            self.seen = 0;
        } else if self.seen > 1 << 20 {
            self.came.drain(..self.seen);
            self.seen = 0;
        }
    }

    fn rest(&mut self) -> Vec<u8> {
        let rest = self.came[self.seen..].to_vec();
        self.came.clear();
        self.seen = 0;
        rest
    }

    /// Waits for more bytes until `end`; false when none came.
    fn read_more(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut buffer = [0u8; 64 * 1024];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer)),
        };
        match read {
            Ok(0) => {
                self.ended = true;
                false
            }
            Ok(n) => {
                self.came.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            // A reset is how the other side closes when bytes of ours were still unread.
            Err(_) => {
                self.ended = true;
                false
            }
        }
    }
}

impl Silence {
    pub fn describe(&self) -> String {
        match self {
            Self::TooLong(part) => format!("nothing whole came in time, only {:?}", String::from_utf8_lossy(part)),
            Self::Closed(part) => format!("the connection was closed after {:?}", String::from_utf8_lossy(part)),
        }
    }
}
