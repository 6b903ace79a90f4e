//! One stream socket, TCP (in the clear or encrypted) or unix, split into the half that its task reads and the half that anyone on the thread may
//! write to. Clients and upstreams use the same type.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::time::Instant;

#[cfg(test)]
use super::pipe;
use crate::tls::Secured;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TCP, encrypted.
    Tls(TcpStream, Box<Secured>),
    /// Over a unix socket.
    Unix(UnixStream),
    /// Within a simulation.
    #[cfg(test)]
    Pipe(pipe::End),
}

/// The half that is read by the one task that owns the connection.
#[derive(Debug)]
pub enum Reader {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over TCP, encrypted.
    Tls(tcp::OwnedReadHalf, Rc<Secured>),
    /// Over a unix socket.
    Unix(unix::OwnedReadHalf),
    /// Within a simulation.
    #[cfg(test)]
    Pipe(pipe::Flow),
}

/// The half that is written to; dropping it closes that direction.
#[derive(Debug)]
pub enum Writer {
    /// Over TCP; [`super::peers::Peers`] may look after it.
    Tcp(Rc<TcpWriter>),
    /// Over TCP, encrypted.
    Tls(TlsWriter),
    /// Over a unix socket.
    Unix(unix::OwnedWriteHalf),
    /// Within a simulation.
    #[cfg(test)]
    Pipe(PipeWriter),
}

/// The half of a TCP connection that is written to, and what is known of what its peer acknowledges.
#[derive(Debug)]
pub struct TcpWriter {
    half: tcp::OwnedWriteHalf,
    /// All that was written was acknowledged when this was last looked at.
    is_settled: Cell<bool>,
    unanswered: Cell<Option<Unanswered>>,
}

/// What was sent and nothing was heard of.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered {
    /// When that was first seen.
    pub since: Instant,
    /// How often the kernel had repeated anything by then, and wished to.
    pub repeats: [u32; 2],
}

impl TcpWriter {
    fn of(half: tcp::OwnedWriteHalf) -> Rc<TcpWriter> {
        Rc::new(TcpWriter { half, is_settled: Cell::new(true), unanswered: Cell::new(None) })
    }

    /// Nothing was written since all was acknowledged.
    pub fn is_settled(&self) -> bool {
        self.is_settled.get()
    }

    /// All that was written is acknowledged.
    pub fn settles(&self) {
        self.is_settled.set(true);
        self.unanswered.set(None);
    }

    /// Something is under way of which nothing was heard.
    pub fn unanswered(&self) -> Option<Unanswered> {
        self.unanswered.get()
    }

    /// See [`TcpWriter::unanswered`].
    pub fn set_unanswered(&self, unanswered: Option<Unanswered>) {
        self.unanswered.set(unanswered);
    }

    /// Closes both directions, also while the other half is still in use.
    pub fn shut_down(&self) {
        // A peer that has closed already is what was wanted.
        let _ = socket2::SockRef::from(self.half.as_ref()).shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for TcpWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.half.as_ref().as_fd()
    }
}

/// What is written to is encrypted first. Dropping it tells the peer that nothing more comes.
#[derive(Debug)]
pub struct TlsWriter {
    tcp: Rc<TcpWriter>,
    secured: Rc<Secured>,
}

impl TlsWriter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.is_settled.set(false);
        self.secured.try_write(self.tcp.half.as_ref(), bytes)
    }
}

impl Drop for TlsWriter {
    fn drop(&mut self) {
        self.secured.say_goodbye(self.tcp.half.as_ref());
    }
}

/// What a simulation writes to, and what it reads, since a peer that closes ends that.
#[cfg(test)]
#[derive(Debug)]
pub struct PipeWriter(pipe::End);

#[cfg(test)]
impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.outgoing.close();
    }
}

impl Socket {
    /// No delay for small frames, and keepalive probes that give a vanished peer up after about `silence_max`.
    pub fn tune(&self, silence_max: Duration) -> io::Result<()> {
        let (Socket::Tcp(stream) | Socket::Tls(stream, _)) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        if !silence_max.is_zero() {
            let third = (silence_max / 3).max(Duration::from_secs(1));
            let probes = socket2::TcpKeepalive::new().with_time(third).with_interval(third).with_retries(2);
            let socket = socket2::SockRef::from(stream);
            socket.set_tcp_keepalive(&probes)?;
        }
        Ok(())
    }

    /// `ip:port` of the other end, or the path of a unix socket, as `CLIENT LIST` shows them.
    pub fn peer_and_local(&self) -> (String, String) {
        match self {
            Socket::Tcp(stream) | Socket::Tls(stream, _) => (
                stream.peer_addr().map_or_else(|_| "?:0".into(), |a| a.to_string()),
                stream.local_addr().map_or_else(|_| "?:0".into(), |a| a.to_string()),
            ),
            Socket::Unix(stream) => {
                let path = stream.local_addr().ok().and_then(|a| a.as_pathname().map(|p| p.display().to_string()));
                let name = format!("{}:0", path.unwrap_or_default());
                (name.clone(), name)
            }
            #[cfg(test)]
            Socket::Pipe(_) => ("127.0.0.1:1".into(), "127.0.0.1:2".into()),
        }
    }

    /// The address of the other end; `None` where it has none, as on a unix socket.
    pub fn peer_address(&self) -> Option<IpAddr> {
        match self {
            Socket::Tcp(stream) | Socket::Tls(stream, _) => stream.peer_addr().ok().map(|address| address.ip()),
            Socket::Unix(_) => None,
            #[cfg(test)]
            Socket::Pipe(_) => None,
        }
    }

    /// Reads what has come, at least a byte; 0 at the end. Only while nobody shakes hands on it.
    pub async fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let outcome = match self {
                Socket::Tcp(stream) | Socket::Tls(stream, _) => {
                    stream.readable().await?;
                    stream.try_read(buffer)
                }
                Socket::Unix(stream) => {
                    stream.readable().await?;
                    stream.try_read(buffer)
                }
                #[cfg(test)]
                Socket::Pipe(end) => std::future::poll_fn(|cx| end.incoming.poll_read(cx, buffer)).await,
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    /// The number of the file, as `CLIENT LIST` shows it.
    pub fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match self {
            Socket::Tcp(stream) | Socket::Tls(stream, _) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
            #[cfg(test)]
            Socket::Pipe(_) => -1,
        }
    }

    /// Gives each direction its own half.
    pub fn split(self) -> (Reader, Writer) {
        match self {
            Socket::Tcp(stream) => {
                let (r, w) = stream.into_split();
                (Reader::Tcp(r), Writer::Tcp(TcpWriter::of(w)))
            }
            Socket::Tls(stream, secured) => {
                let ((r, w), secured) = (stream.into_split(), Rc::from(secured));
                let writer = TlsWriter { tcp: TcpWriter::of(w), secured: Rc::clone(&secured) };
                (Reader::Tls(r, secured), Writer::Tls(writer))
            }
            Socket::Unix(stream) => {
                let (r, w) = stream.into_split();
                (Reader::Unix(r), Writer::Unix(w))
            }
            #[cfg(test)]
            Socket::Pipe(end) => (Reader::Pipe(end.incoming.clone()), Writer::Pipe(PipeWriter(end))),
        }
    }
}

impl Reader {
    /// Reads what has come into `buffer`: the number of bytes, 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Reader::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Reader::Tls(half, secured) => {
                return secured.poll_read(half.as_ref(), cx, buffer.initialize_unfilled());
            }
            Reader::Unix(half) => Pin::new(half).poll_read(cx, &mut buffer),
            #[cfg(test)]
            Reader::Pipe(flow) => return flow.poll_read(cx, buffer.initialize_unfilled()),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Writer {
    /// Ends when the peer has closed its side, whether or not all that it sent was read.
    pub async fn closed_by_peer(&self) {
        // The mask of PRIORITY holds "read closed" but not "readable", so bytes that wait do not end this.
        let _ = match self {
            Writer::Tcp(tcp) | Writer::Tls(TlsWriter { tcp, .. }) => tcp.half.ready(Interest::PRIORITY).await,
            Writer::Unix(half) => half.ready(Interest::PRIORITY).await,
            #[cfg(test)]
            Writer::Pipe(writer) => return writer.0.incoming.closed().await,
        };
    }

    /// Writes what fits at once; `WouldBlock` when nothing does.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Writer::Tcp(writer) => {
                writer.is_settled.set(false);
                writer.half.try_write(bytes)
            }
            Writer::Tls(writer) => writer.try_write(bytes),
            Writer::Unix(half) => half.try_write(bytes),
            #[cfg(test)]
            Writer::Pipe(writer) => writer.0.outgoing.try_write(bytes),
        }
    }

    /// Whether the peer has closed its side, asked of the kernel at this moment; the runtime may not have heard yet.
    pub fn peer_has_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let fd = match self {
            Writer::Tcp(tcp) | Writer::Tls(TlsWriter { tcp, .. }) => tcp.as_fd(),
            Writer::Unix(half) => half.as_ref().as_fd(),
            #[cfg(test)]
            Writer::Pipe(writer) => return writer.0.incoming.is_closed(),
        };
        let mut asked = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
        let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut asked, Some(&Timespec::default())).is_ok() && asked[0].revents().intersects(ends)
    }

    /// Of a TCP connection; [`super::peers::Peers`] looks after these.
    pub fn tcp(&self) -> Option<&Rc<TcpWriter>> {
        match self {
            Writer::Tcp(tcp) | Writer::Tls(TlsWriter { tcp, .. }) => Some(tcp),
            Writer::Unix(_) => None,
            #[cfg(test)]
            Writer::Pipe(_) => None,
        }
    }

    /// Closes both directions, also while the other half is still in use.
    pub fn shut_down(&self) {
        match self {
            Writer::Tcp(writer) => writer.shut_down(),
            Writer::Tls(writer) => {
                writer.secured.say_goodbye(writer.tcp.half.as_ref());
                writer.tcp.shut_down();
            }
            Writer::Unix(half) => {
                let _ = socket2::SockRef::from(half.as_ref()).shutdown(std::net::Shutdown::Both);
            }
            #[cfg(test)]
            Writer::Pipe(writer) => writer.0.close(),
        }
    }

    /// Wakes the task once there is room to write.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Tcp(tcp) | Writer::Tls(TlsWriter { tcp, .. }) => tcp.half.as_ref().poll_write_ready(cx),
            Writer::Unix(half) => half.as_ref().poll_write_ready(cx),
            #[cfg(test)]
            Writer::Pipe(writer) => writer.0.outgoing.poll_writable(cx),
        }
    }
}
