//! One encrypted connection over TCP: the handshake, and then the two directions, each used as its socket would be.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::net::TcpStream;

/// Most encrypted bytes that are read at a time.
const CHUNK: usize = 32 << 10;

thread_local! {
    /// Where encrypted bytes arrive, for all connections of the thread.
    static ARRIVING: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// A connection whose handshake is under way.
pub struct Handshake {
    stream: TcpStream,
    connection: Connection,
}

impl Handshake {
    /// Over `stream`, on the side that `connection` says.
    pub fn new(stream: TcpStream, connection: impl Into<Connection>) -> Handshake {
        Handshake { stream, connection: connection.into() }
    }

    /// Shakes hands. Whoever has waited long enough drops this.
    pub async fn done(mut self) -> io::Result<(TcpStream, Secured)> {
        while self.connection.is_handshaking() || self.connection.wants_write() {
            if !flushed(&mut self.connection, &self.stream)? {
                self.stream.writable().await?;
                continue;
            }
            if !self.connection.is_handshaking() {
                break;
            }
            self.stream.readable().await?;
            match self.connection.read_tls(&mut Raw(&self.stream)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The other side is told why, if there is room for that.
                let _ = flushed(&mut self.connection, &self.stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        let secured =
            Secured { connection: RefCell::new(self.connection), held: RefCell::default(), is_ahead: Cell::new(false) };
        Ok((self.stream, secured))
    }
}

/// A connection whose handshake is through. It reads and writes over the socket that it is handed, always the same.
#[derive(Debug)]
pub struct Secured {
    connection: RefCell<Connection>,
    /// Encrypted bytes that came and were not looked at, because the plain ones before them had not been taken.
    held: RefCell<Vec<u8>>,
    /// The first byte of what is to be written next is encrypted already: see [`Secured::try_write`].
    is_ahead: Cell<bool>,
}

impl Secured {
    /// Who the other side is, the certificate of its own first; `None` where it has shown none.
    pub fn peer_certificate(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
        Some(self.connection.borrow().peer_certificates()?.first()?.clone().into_owned())
    }

    /// Reads what has come into `buffer`: the number of bytes, 0 at the end of the stream.
    pub fn poll_read(&self, stream: &TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(n) = self.take_plain(buffer)? {
                return Poll::Ready(Ok(n));
            }
            let held = self.held.take();
            if !held.is_empty() {
                self.decrypt(stream, &held)?;
                continue;
            }
            ready!(stream.poll_read_ready(cx))?;
            let arrived = ARRIVING.with_borrow_mut(|chunk| match stream.try_read(chunk) {
                Ok(0) => Ok(false),
                Ok(n) => self.decrypt(stream, &chunk[..n]).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                Err(error) => Err(error),
            })?;
            if !arrived {
                // Many clients just leave. What they sent was whole, or the scanner sees that it was not.
                return Poll::Ready(Ok(0));
            }
        }
    }

    /// What is decrypted already; `None` where nothing is.
    fn take_plain(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = self.connection.borrow_mut();
        let mut filled = 0;
        while filled < buffer.len() {
            match connection.reader().read(&mut buffer[filled..]) {
                // The other side has said that nothing more comes.
                Ok(0) => return Ok(Some(filled)),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok((filled > 0).then_some(filled))
    }

    /// Takes in encrypted bytes, as many as there is room for; the rest is held.
    fn decrypt(&self, stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        while !bytes.is_empty() {
            match connection.read_tls(&mut bytes) {
                // Nothing counts behind the end.
                Ok(0) => break,
                Ok(_) => {}
                // What is decrypted has to be taken first.
                Err(_) => {
                    self.held.borrow_mut().extend_from_slice(bytes);
                    break;
                }
            }
            if let Err(error) = connection.process_new_packets() {
                let _ = flushed(&mut connection, stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(())
    }

    /// Writes what fits at once; `WouldBlock` when nothing does.
    ///
    /// What is encrypted has to go out, also where the socket takes only a part of it. So that the caller knows that something is left,
    /// the last byte counts as not written then: when it comes again, it is skipped.
    pub fn try_write(&self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut connection = self.connection.borrow_mut();
        if !flushed(&mut connection, stream)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = usize::from(!bytes.is_empty() && self.is_ahead.take());
        while taken < bytes.len() {
            taken += connection.writer().write(&bytes[taken..])?;
            if !flushed(&mut connection, stream)? {
                self.is_ahead.set(true);
                return if taken > 1 { Ok(taken - 1) } else { Err(io::ErrorKind::WouldBlock.into()) };
            }
        }
        Ok(taken)
    }

    /// Tells the other side that nothing more comes, if there is room for that.
    pub fn say_goodbye(&self, stream: &TcpStream) {
        // A panic may have left it in the middle of something.
        if let Ok(mut connection) = self.connection.try_borrow_mut() {
            connection.send_close_notify();
            let _ = flushed(&mut connection, stream);
        }
    }
}

/// Writes what is encrypted; `false`: the rest waits for the socket.
fn flushed(connection: &mut Connection, stream: &TcpStream) -> io::Result<bool> {
    while connection.wants_write() {
        match connection.write_tls(&mut Raw(stream)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The socket, as what never waits.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
