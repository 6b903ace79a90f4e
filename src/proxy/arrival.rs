//! From the door to a session: whose connection it is (by a PROXY header, where one is to come), whether there is room for it, and the
//! handshake that it may have to begin with.

use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::listener::Arrival;
use super::registry::{Member, Origin, Profile, TurnedAway, Wish};
use super::session::Session;
use super::worker::Worker;
use crate::config::Networks;
use crate::observe::seldom::Seldom;
use crate::protocol::proxy_header::{self, Header, Source};
use crate::tls::ServerTls;
use crate::upstream::socket::Socket;

/// What is asked of those who come.
#[derive(Debug, Default)]
pub struct DoorRules {
    /// TLS for clients, where it is spoken.
    pub tls: Option<Arc<ServerTls>>,
    /// A client may take so long to shake hands; zero is for ever.
    pub handshake_timeout: Duration,
    /// Connections from these begin with a PROXY header.
    pub behind_proxies: Option<Networks>,
}

/// A client has connected, in the clear and by itself.
pub fn admit(worker: &Rc<Worker>, socket: Socket) {
    let origin = origin_of(&socket);
    if let Some((socket, member)) = registered(worker, socket, origin, true) {
        tokio::task::spawn_local(Session::serve(worker.clone(), socket, member, None));
    }
}

/// Somebody is at the door.
pub fn welcome(worker: &Rc<Worker>, arrival: Arrival) {
    let is_proxied =
        |socket: &Socket| worker.door().behind_proxies.as_ref().is_some_and(|trusted| names(trusted, socket));
    match arrival {
        Arrival::Plain(socket) if !is_proxied(&socket) => admit(worker, socket),
        arrival => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move { introduce(worker, arrival).await });
        }
    }
}

/// All that has to be said before a session can begin.
async fn introduce(worker: Rc<Worker>, arrival: Arrival) {
    let (socket, is_tls) = match arrival {
        Arrival::Plain(socket) => (socket, false),
        Arrival::Tls(socket) => (socket, true),
    };
    let is_proxied = worker.door().behind_proxies.as_ref().is_some_and(|trusted| names(trusted, &socket));
    let mut origin = origin_of(&socket);
    if is_proxied {
        match in_time(&worker, announced(&socket)).await {
            Ok(Source::Itself) => {}
            Ok(Source::Client { from, to }) => origin = Origin::tcp(from, to),
            Err(why) => return failed("a PROXY header", &origin.peer, &why),
        }
    }
    let Some((socket, member)) = registered(&worker, socket, origin, !is_tls) else { return };
    if !is_tls {
        return Session::serve(worker, socket, member, None).await;
    }
    if let Some((socket, user)) = secured(&worker, socket, &member).await {
        Session::serve(worker, socket, member, user).await;
    }
}

fn origin_of(socket: &Socket) -> Origin {
    let (peer, local) = socket.peer_and_local();
    Origin { peer, local, address: socket.peer_address().map(|address| address.to_canonical()) }
}

fn names(trusted: &Networks, socket: &Socket) -> bool {
    match socket.peer_address() {
        Some(address) => trusted.contain(address),
        None => trusted.have_unix && matches!(socket, Socket::Unix(_)),
    }
}

async fn in_time<T>(worker: &Worker, doing: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    let limit = worker.door().handshake_timeout;
    let too_late = async { if limit.is_zero() { pending().await } else { tokio::time::sleep(limit).await } };
    tokio::select! {
        outcome = doing => outcome.map_err(|error| error.to_string()),
        () = too_late => Err(format!("it was not through within {limit:?}")),
    }
}

/// Whom the header at the front of the connection names. Nothing behind it is read.
async fn announced(socket: &Socket) -> io::Result<Source> {
    let mut header = Vec::new();
    loop {
        let came = header.len();
        match proxy_header::read(&header).map_err(io::Error::other)? {
            Header::Whole(source) => return Ok(source),
            Header::Wants(more) => header.resize(came + more, 0),
        }
        let read = socket.read_some(&mut header[came..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        header.truncate(came + read);
    }
}

/// A card for the client; without one it is turned away, with a word where `may_speak`.
fn registered(worker: &Rc<Worker>, socket: Socket, origin: Origin, may_speak: bool) -> Option<(Socket, Member)> {
    if let Err(error) = socket.tune(worker.client_timeout()) {
        tracing::debug!(%error, "a client left at once");
        return None;
    }
    let profile = Profile { user: b"default".to_vec(), db: worker.router().default_db(), ..Profile::default() };
    let is_unix = matches!(socket, Socket::Unix(_));
    let address = origin.address;
    match worker.registry().admit(origin, socket.fd(), is_unix, profile) {
        Ok(member) => Some((socket, member)),
        Err(why) => {
            is_turned_away(why, address);
            if may_speak {
                let (_, writer) = socket.split();
                // A fresh socket takes a line this short, or its peer is gone.
                let _ = writer.try_write(format!("-ERR {why}\r\n").as_bytes());
            }
            None
        }
    }
}

fn is_turned_away(why: TurnedAway, address: Option<IpAddr>) {
    static FULL: Seldom = Seldom::new();
    static ONE: Seldom = Seldom::new();
    match (why, address) {
        (TurnedAway::OfAddress, Some(address)) => {
            if let Some(clients) = ONE.happened() {
                tracing::warn!(clients, last = %address, "clients were turned away; raise limits.connections_per_address");
            }
        }
        _ => {
            if let Some(clients) = FULL.happened() {
                tracing::warn!(clients, "clients were turned away; raise limits.connections");
            }
        }
    }
}

/// Shakes hands: the encrypted connection, and the user that its client's certificate names.
async fn secured(worker: &Worker, socket: Socket, member: &Member) -> Option<(Socket, Option<String>)> {
    let (Socket::Tcp(stream), Some(tls)) = (socket, &worker.door().tls) else { return None };
    let handshake = shakes_hands(tls, stream);
    // It may be killed, and the drain does not wait for it.
    let is_unwanted = std::future::poll_fn(|cx| {
        member.card.set_waker(cx.waker());
        if worker.is_draining() || member.card.wished() == Wish::Kill { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::select! {
        outcome = in_time(worker, handshake) => match outcome {
            Ok(secured) => return Some(secured),
            Err(why) => failed("a TLS handshake", &member.card.peer, &why),
        },
        () = is_unwanted => {}
    }
    None
}

async fn shakes_hands(tls: &ServerTls, stream: TcpStream) -> io::Result<(Socket, Option<String>)> {
    let (stream, secured) = tls.begin(stream).map_err(io::Error::other)?.done().await?;
    let user = secured.peer_certificate().and_then(|certificate| tls.user_is().of(&certificate));
    Ok((Socket::Tls(stream, Box::new(secured)), user))
}

fn failed(what: &str, peer: &str, why: &str) {
    static TOLD: Seldom = Seldom::new();
    if let Some(times) = TOLD.happened() {
        tracing::warn!(peer, why, times, "{what} failed at the door");
    }
}

impl Origin {
    fn tcp(from: SocketAddr, to: SocketAddr) -> Origin {
        Origin { peer: from.to_string(), local: to.to_string(), address: Some(from.ip().to_canonical()) }
    }
}
