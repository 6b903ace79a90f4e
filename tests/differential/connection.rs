//! The connections of the player: those of the sessions, which never wait, and that of who looks on and minds the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::common::reply::frame_len;
use super::common::wire::Wire;
use super::common::{PATIENCE, within};

/// Asks the kernel for `tcp_info`.
#[derive(Clone, Copy, Debug)]
struct TcpInfo;

#[allow(unsafe_code, reason = "the macro writes the one call of getsockopt, with the type that belongs to it")]
mod option {
    use super::TcpInfo;
    use nix::libc;
    nix::getsockopt_impl!(
        TcpInfo,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        libc::tcp_info,
        nix::sys::socket::sockopt::GetStruct<libc::tcp_info>
    );
}

/// One connection of a session.
pub struct Connection {
    /// `a1`, then `a2` after it has ended.
    pub label: String,
    /// This side's address as `CLIENT LIST` writes it.
    pub addr_text: String,
    stream: TcpStream,
    came: Vec<u8>,
    pub frames: Vec<Vec<u8>>,
    pub is_ended: bool,
}

impl Connection {
    #[track_caller]
    pub fn open(addr: SocketAddr, label: String) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap_or_else(|e| panic!("cannot connect: {e}"));
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let addr_text = stream.local_addr().unwrap().to_string();
        Self { label, addr_text, stream, came: Vec::new(), frames: Vec::new(), is_ended: false }
    }

    /// Closes, whatever was still to come.
    pub fn hang_up(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.is_ended = true;
    }

    /// Waits until the other side's system knows that this one has closed: before that it may have to acknowledge what came before.
    pub fn is_known_to_have_hung_up(&self) {
        const FIN_WAIT_1: u8 = 4;
        within(PATIENCE, || {
            let info = getsockopt(&self.stream, TcpInfo);
            info.map_or(true, |info| info.tcpi_state != FIN_WAIT_1).then_some(())
        });
    }

    /// Sends all of it; what the other side no longer takes is lost, as with any client.
    pub fn send(&mut self, mut bytes: &[u8]) {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() && Instant::now() < end {
            match self.stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                // It may be that the other side waits until we read.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.pump();
                    wait_for(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Duration::from_millis(5));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Takes in what has come; true if anything has.
    pub fn pump(&mut self) -> bool {
        let mut buffer = [0u8; 64 * 1024];
        let mut any = false;
        while !self.is_ended {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_ended = true,
                Ok(n) => self.came.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reset is how the other side closes when bytes of ours were still unread.
                Err(_) => self.is_ended = true,
            }
            any = true;
        }
        while let Some(len) = any.then(|| frame_len(&self.came)).flatten() {
            self.frames.push(self.came.drain(..len).collect());
        }
        any
    }

    /// Bytes that are no whole frame yet.
    pub fn rest(&self) -> &[u8] {
        &self.came
    }
}

/// Waits until one of the connections has something to say.
pub fn wait_for_any<'a>(connections: impl Iterator<Item = &'a Connection>, longest: Duration) {
    let mut fds: Vec<PollFd<'_>> =
        connections.filter(|c| !c.is_ended).map(|c| PollFd::new(&c.stream, PollFlags::IN)).collect();
    wait_for(&mut fds, longest);
}

fn wait_for(fds: &mut [PollFd<'_>], longest: Duration) {
    let longest = Timespec { tv_sec: 0, tv_nsec: longest.as_nanos().min(999_999_999) as _ };
    let _ = poll(fds, Some(&longest));
}

/// The one who looks on: a user who may do everything, and whose connection is made anew when somebody ends it.
pub struct Control {
    addr: SocketAddr,
    user: (&'static str, &'static str),
    wire: Option<Wire>,
}

/// Somebody did not answer.
#[derive(Debug)]
pub struct NoAnswer(pub String);

impl Control {
    pub fn new(addr: SocketAddr, user: (&'static str, &'static str)) -> Self {
        Self { addr, user, wire: None }
    }

    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Vec<u8>, NoAnswer> {
        let mut why = String::new();
        for _ in 0..3 {
            let wire = self.connected()?;
            wire.ask(words);
            match wire.try_frame(PATIENCE) {
                Ok(frame) => return Ok(frame),
                Err(silence) => why = silence.describe(),
            }
            self.wire = None;
        }
        Err(NoAnswer(why))
    }

    /// The words of a line; an error is a mistake of the test.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> Vec<u8> {
        let reply = self.call(&super::common::words::words(line)).expect("the server answers");
        assert!(reply[0] != b'-', "{line}: {}", String::from_utf8_lossy(&reply));
        reply
    }

    fn connected(&mut self) -> Result<&mut Wire, NoAnswer> {
        if self.wire.is_none() {
            let mut wire = Wire::connect(self.addr);
            let (name, password) = self.user;
            wire.ask(&["AUTH", name, password]);
            let welcome = wire.try_frame(PATIENCE).map_err(|silence| NoAnswer(silence.describe()))?;
            if welcome != b"+OK\r\n" {
                return Err(NoAnswer(format!("AUTH {name}: {}", String::from_utf8_lossy(&welcome))));
            }
            self.wire = Some(wire);
        }
        Ok(self.wire.as_mut().expect("just connected"))
    }

    /// `CLIENT LIST`, a line each.
    pub fn clients(&mut self) -> Result<Vec<String>, NoAnswer> {
        let list = self.call(&["CLIENT", "LIST"])?;
        let text = String::from_utf8_lossy(&list).into_owned();
        Ok(text.lines().filter(|line| line.starts_with("id=")).map(str::to_owned).collect())
    }
}

/// A field of a line of `CLIENT LIST`.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
