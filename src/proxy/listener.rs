//! The door: TCP with one socket for each worker (the kernel spreads the clients), or a unix socket they share.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::observe::seldom::Seldom;
use crate::upstream::socket::Socket;
use crate::upstream::url::Address;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept (out of files), in which connections may end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is no address.
    #[error("the host of listen = \"{0}\" is not known; write an address of this machine")]
    UnknownHost(String),
    /// The address is taken.
    #[error("{0} is in use by another program; stop it, or choose another address with --listen")]
    InUse(String),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Failed {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// One worker's bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// The same once its worker's runtime runs.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Where one worker takes clients from.
#[derive(Debug)]
pub struct Door {
    /// In the clear.
    pub plain: Listener,
    /// With TLS, where that is spoken.
    pub tls: Option<Listener>,
}

/// The same once its worker's runtime runs.
#[derive(Debug)]
pub struct OpenDoor {
    plain: Listening,
    tls: Option<Listening>,
}

/// A client at the door.
#[derive(Debug)]
pub enum Arrival {
    /// It may speak at once.
    Plain(Socket),
    /// It has to shake hands first.
    Tls(Socket),
}

impl Door {
    /// Hands the sockets to the runtime of this thread.
    pub fn open(self) -> io::Result<OpenDoor> {
        Ok(OpenDoor { plain: self.plain.listen()?, tls: self.tls.map(Listener::listen).transpose()? })
    }
}

impl OpenDoor {
    /// The next client.
    pub async fn accept(&self) -> Arrival {
        let Some(tls) = &self.tls else { return Arrival::Plain(self.plain.accept().await) };
        tokio::select! {
            socket = self.plain.accept() => Arrival::Plain(socket),
            socket = tls.accept() => Arrival::Tls(socket),
        }
    }
}

/// The bound sockets and what to call them.
#[derive(Debug)]
pub struct Bound {
    /// As a client would write it.
    pub address: String,
    /// One for each worker.
    pub listeners: Vec<Listener>,
    /// The socket's file, to be removed at the end.
    pub path: Option<PathBuf>,
}

/// Binds `address` for so many workers.
pub fn bind(address: &Address, workers: usize) -> Result<Bound, ListenError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address.to_string()),
        _ => ListenError::Failed { address: address.to_string(), source },
    };
    let (host, port) = match address {
        Address::Unix(path) => {
            let listeners = bind_unix(path, workers).map_err(failed)?;
            return Ok(Bound { address: address.to_string(), listeners, path: Some(path.clone()) });
        }
        Address::Tcp { host, port } => (host.as_str(), *port),
        Address::Nowhere(_) => return Err(ListenError::UnknownHost(address.to_string())),
    };
    let wanted = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let wanted = wanted.ok_or_else(|| ListenError::UnknownHost(address.to_string()))?;
    // Sockets that share a port would also share it with another Lockgate of the same user: first see that it is free.
    drop(bind_tcp(wanted, false).map_err(failed)?);
    let first = bind_tcp(wanted, true).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let mut listeners = vec![Listener::Tcp(first)];
    for _ in 1..workers {
        listeners.push(Listener::Tcp(bind_tcp(bound, true).map_err(failed)?));
    }
    Ok(Bound { address: bound.to_string(), listeners, path: None })
}

fn bind_tcp(address: SocketAddr, is_shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<Vec<Listener>> {
    // A file left by a process that was killed answers to nobody.
    if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
        use std::os::unix::fs::FileTypeExt;
        if std::fs::symlink_metadata(path)?.file_type().is_socket() {
            std::fs::remove_file(path)?;
        }
    }
    let first = std::os::unix::net::UnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let mut listeners = Vec::new();
    for _ in 1..workers {
        listeners.push(Listener::Unix(first.try_clone()?));
    }
    listeners.push(Listener::Unix(first));
    Ok(listeners)
}

impl Listener {
    /// Hands the socket to the runtime of this thread.
    pub fn listen(self) -> io::Result<Listening> {
        match self {
            Listener::Tcp(socket) => TcpListener::from_std(socket).map(Listening::Tcp),
            Listener::Unix(socket) => UnixListener::from_std(socket).map(Listening::Unix),
        }
    }
}

impl Listening {
    /// The next client. Errors of single connections and a shortage of files pass.
    pub async fn accept(&self) -> Socket {
        loop {
            let accepted = match self {
                Listening::Tcp(listener) => listener.accept().await.map(|(stream, _)| Socket::Tcp(stream)),
                Listening::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
            };
            match accepted {
                Ok(socket) => return socket,
                Err(error) => {
                    static TOLD: Seldom = Seldom::new();
                    if let Some(times) = TOLD.happened() {
                        tracing::warn!(
                            %error,
                            times,
                            "a client could not be accepted; where files have run out raise `ulimit -n`, or lower limits.connections"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
