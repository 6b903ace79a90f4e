//! A client of a running Lockgate, for the commands that speak to one. Blocking: there is one conversation, and nothing else to do.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::protocol::args::encode_command;
use crate::protocol::reply::ReplyScanner;
use crate::tls::ClientTls;
use crate::upstream::url::{Address, Endpoint};

/// What one read takes at most, in bytes.
const READ: usize = 16_384;

enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Reads what has come, and waits for it so long at most.
    fn read_within(&mut self, left: Duration, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(chunk)),
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(left)).and_then(|()| stream.read(chunk)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(chunk)),
        }
    }
}

/// Where a server is, and how it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub endpoint: Endpoint,
    /// Set where the endpoint asks for TLS.
    pub tls: Option<Arc<ClientTls>>,
}

impl Place {
    /// Connects and authenticates within `limit`.
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Client> {
        Client::connect(&self.endpoint, self.tls.as_deref(), limit)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.address.fmt(f)
    }
}

/// A connection in RESP3.
pub(super) struct Client {
    stream: Stream,
    scanner: ReplyScanner,
    /// What came of the present frame, and behind it.
    input: Vec<u8>,
    seen: usize,
}

impl Client {
    fn connect(endpoint: &Endpoint, tls: Option<&ClientTls>, limit: Duration) -> io::Result<Client> {
        let stream = match &endpoint.address {
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                let mut connected = None;
                for place in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&place, limit) {
                        Ok(stream) => {
                            connected = Some(stream);
                            break;
                        }
                        Err(error) => last = error,
                    }
                }
                let stream = connected.ok_or(last)?;
                stream.set_nodelay(true)?;
                match tls.filter(|_| endpoint.is_tls) {
                    None => Stream::Tcp(stream),
                    Some(tls) => {
                        let session = tls.session(host).map_err(io::Error::other)?;
                        stream.set_read_timeout(Some(limit))?;
                        Stream::Tls(Box::new(StreamOwned::new(session, stream)))
                    }
                }
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Address::Nowhere(why) => return Err(io::Error::other(why.to_string())),
        };
        let mut client = Client { stream, scanner: ReplyScanner::new(), input: Vec::new(), seen: 0 };
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &endpoint.password {
            let user = endpoint.user.as_deref().unwrap_or("default");
            hello.extend([b"AUTH", user.as_bytes(), password.as_bytes()]);
        }
        client.send(&hello)?;
        let reply = client.reply(Instant::now() + limit)?;
        if reply.first() == Some(&b'-') {
            return Err(io::Error::other(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned()));
        }
        if endpoint.db != 0 {
            client.send(&[b"SELECT", endpoint.db.to_string().as_bytes()])?;
            let reply = client.reply(Instant::now() + limit)?;
            if reply.first() == Some(&b'-') {
                return Err(io::Error::other(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned()));
            }
        }
        Ok(client)
    }

    pub(super) fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut command = Vec::new();
        encode_command(words, &mut command);
        self.send_raw(&command)
    }

    /// Sends what is encoded already.
    pub(super) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// The next frame that is no push, as it came.
    pub(super) fn reply(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        loop {
            let frame = self.frame(until)?;
            if frame.first() != Some(&b'>') {
                return Ok(frame);
            }
        }
    }

    /// The next frame, as it came; fails with [`io::ErrorKind::TimedOut`] where none is whole by then.
    pub(super) fn frame(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = self.whole_frame()? {
                return Ok(frame);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut chunk = [0; READ];
            let read = self.stream.read_within(left, &mut chunk);
            match read {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn whole_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (used, head) = self.scanner.next(&self.input[self.seen..]).map_err(io::Error::other)?;
        self.seen += used;
        if head.is_none() {
            return Ok(None);
        }
        let frame = self.input.drain(..self.seen).collect();
        self.seen = 0;
        Ok(Some(frame))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.sock.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}
