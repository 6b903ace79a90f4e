//! Connecting to the upstream: the socket, and the handshake that puts it into the state its users expect.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::link::Loss;
use super::lost::Trail;
use super::misfit::is_cluster;
use super::socket::{Reader, Socket, Writer};
use super::url::{Address, Endpoint};
use crate::domain::{Db, Resp};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::protocol::reply::ReplyScanner;
use crate::tls::ClientTls;

/// Longest handshake reply, in bytes; `HELLO` names every loaded module.
const HANDSHAKE_MAX: usize = 1 << 20;

/// For whom a link acts; the upstream's own ACL decides what it may do.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A client that the upstream takes for its default user, because it asked for no password when the client came.
    Anonymous,
    /// A client that has yet to authenticate. A link of this kind has no rights that the upstream does not give to any new connection,
    /// whatever has been set there since the link was dialled.
    Stranger,
    /// Lockgate itself, with the credentials of the upstream's URL.
    Service,
    /// A client that authenticated with these.
    Named(Rc<Credentials>),
}

/// What `AUTH` was given.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// `None` for `AUTH password`.
    pub user: Option<Vec<u8>>,
    /// The password in clear.
    pub password: Vec<u8>,
}

impl Credentials {
    /// The `AUTH` command for them.
    pub fn auth_command(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.user {
            Some(user) => encode_command(&[b"AUTH", user.as_slice(), &self.password], &mut out),
            None => encode_command(&[b"AUTH", self.password.as_slice()], &mut out),
        }
        out
    }
}

/// Links of the same key are alike.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LinkKey {
    /// For whom it acts.
    pub identity: Identity,
    /// Its logical database.
    pub db: Db,
    /// The protocol that its replies speak.
    pub resp: Resp,
}

/// A connected link after its handshake.
pub struct Dialled {
    /// To read from.
    pub reader: Reader,
    /// To write to.
    pub writer: Writer,
    /// What the upstream calls this connection; 0 where it does not say.
    pub upstream_id: u64,
    /// The life of the server that this connection belongs to; `None` where it does not say.
    pub run_id: Option<Rc<[u8]>>,
    /// The upstream's time as Unix time in µs; `None` where it does not say.
    pub time_us: Option<u64>,
    /// The upstream demands authentication, and this link has none.
    pub needs_auth: bool,
    /// A script keeps the upstream busy: it answers, and would not say more of this link.
    pub is_busy: bool,
    /// The server is a node of a cluster; `false` where it was not asked.
    pub is_cluster: bool,
    /// How it is ended upstream, should it be lost with something unanswered on it.
    pub trail: Option<Rc<Trail>>,
}

impl Dialled {
    /// A link whose upstream was asked nothing about itself.
    pub(super) fn unasked(reader: Reader, writer: Writer) -> Dialled {
        Dialled {
            reader,
            writer,
            upstream_id: 0,
            run_id: None,
            time_us: None,
            needs_auth: false,
            is_busy: false,
            is_cluster: false,
            trail: None,
        }
    }

    /// Sends whole commands that owe so many replies, and waits for these; before anybody else uses the link.
    pub(super) async fn ask(&mut self, requests: &[u8], replies: usize) -> Result<Vec<Vec<u8>>, DialError> {
        exchange(&mut self.reader, &self.writer, requests, replies).await
    }
}

/// Why there is no link.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody there, or no answer.
    #[error("{0}")]
    Unreachable(Rc<str>),
    /// The upstream answered the handshake with an error; the line as it came, with its `-`.
    #[error("the upstream refused: {}", .0.escape_ascii())]
    Refused(Rc<[u8]>),
}

impl DialError {
    /// The upstream knows the user no more, or not with this password. Whatever else it refuses (it has too many clients, or the
    /// database is out of range) says nothing about the user.
    pub fn is_of_credentials(&self) -> bool {
        matches!(self, DialError::Refused(line) if line.starts_with(b"-WRONGPASS ") || line.starts_with(b"-NOAUTH "))
    }

    /// What those who wait for this link are told.
    pub fn loss(&self) -> Loss {
        match self {
            DialError::Unreachable(why) => Loss::NotSent(why.clone()),
            DialError::Refused(line) => Loss::Refused(line.clone()),
        }
    }
}

/// What makes a socket of an address: the system, unless another way is given.
#[derive(Clone, Default)]
pub struct Connector {
    way: Option<Arc<Connect>>,
    tls: Option<Arc<ClientTls>>,
}

type Connect = dyn Fn(&Address) -> Pin<Box<dyn Future<Output = io::Result<Socket>>>> + Send + Sync;

impl Connector {
    /// Connects by `connect`.
    pub fn new<F>(connect: impl Fn(&Address) -> F + Send + Sync + 'static) -> Connector
    where
        F: Future<Output = io::Result<Socket>> + 'static,
    {
        Connector { way: Some(Arc::new(move |address| Box::pin(connect(address)))), tls: None }
    }

    /// Through the system, by `tls` where an endpoint asks for that.
    pub fn with_tls(tls: Option<Arc<ClientTls>>) -> Connector {
        Connector { way: None, tls }
    }

    /// Makes an encrypted connection of one in the clear.
    async fn secure(&self, socket: Socket, address: &Address) -> Result<Socket, String> {
        let (Socket::Tcp(stream), Address::Tcp { host, .. }) = (socket, address) else {
            return Err("TLS is spoken over TCP only".to_owned());
        };
        let tls = self.tls.as_ref().ok_or("TLS to the upstream is not set up")?;
        let handshake = tls.begin(stream, host).map_err(|error| error.to_string())?;
        let (stream, secured) = handshake.done().await.map_err(|error| error.to_string())?;
        Ok(Socket::Tls(stream, Box::new(secured)))
    }

    async fn connect(&self, address: &Address) -> io::Result<Socket> {
        match (&self.way, address) {
            (Some(connect), _) => connect(address).await,
            (None, Address::Tcp { host, port }) => TcpStream::connect((host.as_str(), *port)).await.map(Socket::Tcp),
            (None, Address::Unix(path)) => UnixStream::connect(path).await.map(Socket::Unix),
            (None, Address::Nowhere(why)) => Err(io::Error::other(why.to_string())),
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", if self.way.is_some() { "a network of its own" } else { "the system's network" })
    }
}

/// How long a dial may take, and where it may lead.
#[derive(Clone, Copy, Debug)]
pub struct DialTerms {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the handshake is through, from the beginning.
    pub answer: Duration,
    /// A replica is no upstream: it was the master, and is none any more.
    pub masters_only: bool,
}

/// What is said on a link before it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greet {
    /// All that puts it into the state its key tells, and what Lockgate wants to know of it.
    Fully,
    /// Only what its key cannot do without: for a client without credentials in database 0, nothing.
    Barely,
    /// Whether a new connection has to authenticate, and nothing else.
    ForAuth,
}

/// Connects and shakes hands on these `terms`.
pub async fn dial(
    endpoint: &Endpoint,
    key: &LinkKey,
    greet: Greet,
    connector: &Connector,
    terms: DialTerms,
    keepalive: Duration,
) -> Result<Dialled, DialError> {
    let too_late = |limit: Duration| {
        DialError::Unreachable(format!("no answer from {} within {limit:?}", endpoint.address).into())
    };
    let dialling = async {
        if let Address::Nowhere(why) = &endpoint.address {
            return Err(DialError::Unreachable(why.as_ref().into()));
        }
        let connecting = tokio::time::timeout(terms.connect, connector.connect(&endpoint.address));
        let connected = connecting.await.map_err(|_| too_late(terms.connect))?;
        let socket = connected.map_err(|error| {
            DialError::Unreachable(format!("cannot connect to {}: {error}", endpoint.address).into())
        })?;
        // A socket option that cannot be set costs speed or a late notice of a dead peer, not correctness.
        let _ = socket.tune(keepalive);
        let socket = match endpoint.is_tls {
            false => socket,
            true => connector.secure(socket, &endpoint.address).await.map_err(|why| {
                DialError::Unreachable(format!("cannot speak TLS with {}: {why}", endpoint.address).into())
            })?,
        };
        let mut dialled = match greet {
            Greet::Fully => greet_fully(endpoint, key, socket).await?,
            Greet::Barely => greet_barely(endpoint, key, socket).await?,
            Greet::ForAuth => return greet_for_auth(socket).await,
        };
        if terms.masters_only {
            is_master(&mut dialled).await?;
        }
        Ok(dialled)
    };
    tokio::time::timeout(terms.answer, dialling).await.map_err(|_| too_late(terms.answer))?
}

async fn greet_barely(endpoint: &Endpoint, key: &LinkKey, socket: Socket) -> Result<Dialled, DialError> {
    let (reader, writer) = socket.split();
    let mut greeting = Greeting { reader, writer };
    if let Some(auth) = auth_command(endpoint, key) {
        greeting.expect_ok(&auth).await?;
    }
    if key.resp == Resp::V3 {
        greeting.expect_ok(&hello_3()).await?;
    }
    if key.db != 0 {
        greeting.expect_ok(&select(key.db)).await?;
    }
    let Greeting { reader, writer } = greeting;
    Ok(Dialled::unasked(reader, writer))
}

/// Asks whether a connection has to authenticate: `HELLO` changes nothing and needs no right, also while a script keeps the upstream
/// busy.
pub fn for_auth() -> Vec<u8> {
    command(&[b"HELLO"])
}

/// Whether the upstream refused a command for want of a password.
pub fn is_noauth(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOAUTH")
}

async fn greet_for_auth(socket: Socket) -> Result<Dialled, DialError> {
    let (reader, writer) = socket.split();
    let mut greeting = Greeting { reader, writer };
    let reply = greeting.ask(&for_auth()).await?;
    let needs_auth = is_noauth(&reply);
    if !needs_auth {
        not_refused(&reply)?;
    }
    let Greeting { reader, writer } = greeting;
    Ok(Dialled { needs_auth, ..Dialled::unasked(reader, writer) })
}

/// `HELLO` tells the role and needs no right. Where it tells none, nothing can be said against the server.
async fn is_master(dialled: &mut Dialled) -> Result<(), DialError> {
    let reply = dialled.ask(&command(&[b"HELLO"]), 1).await?.concat();
    let role = decode(&reply).ok().and_then(|hello| hello.get("role")?.as_bytes().map(<[u8]>::to_vec));
    match role.as_deref() {
        None | Some(b"master") => Ok(()),
        Some(role) => {
            let role = role.escape_ascii();
            Err(DialError::Unreachable(format!("the server that was the master is a {role} now").into()))
        }
    }
}

fn not_refused(reply: &[u8]) -> Result<(), DialError> {
    if reply.first() == Some(&b'-') {
        let line = reply.strip_suffix(b"\r\n").unwrap_or(reply);
        return Err(DialError::Refused(line.into()));
    }
    Ok(())
}

fn auth_command(endpoint: &Endpoint, key: &LinkKey) -> Option<Vec<u8>> {
    match &key.identity {
        Identity::Anonymous | Identity::Stranger => None,
        Identity::Named(credentials) => Some(credentials.auth_command()),
        Identity::Service => service_credentials(endpoint).map(|c| c.auth_command()),
    }
}

/// What the upstream says of a new connection.
struct Told {
    upstream_id: u64,
    is_busy: bool,
    run_id: Option<Rc<[u8]>>,
    time_us: Option<u64>,
    is_cluster: bool,
}

impl Told {
    const QUESTIONS: usize = 2;

    fn questions() -> Vec<u8> {
        [command(&[b"CLIENT", b"ID"]), command(&[b"INFO", b"server"])].concat()
    }

    /// What the replies to [`Told::questions`] say.
    fn of(replies: &[Vec<u8>]) -> Told {
        let [id, info] = replies else { return Told::of(&[Vec::new(), Vec::new()]) };
        let upstream_id = match decode(id) {
            Ok(Value::Integer(id)) => u64::try_from(id).unwrap_or(0),
            _ => 0,
        };
        let time = info_field(info, b"server_time_usec:");
        Told {
            upstream_id,
            is_busy: id.starts_with(b"-BUSY"),
            run_id: info_field(info, b"run_id:").map(Rc::from),
            time_us: time.and_then(|time| std::str::from_utf8(time).ok()?.parse().ok()),
            is_cluster: is_cluster(info),
        }
    }

    /// Nothing more would come of asking again as somebody else.
    fn is_whole(&self) -> bool {
        self.is_busy || (self.upstream_id > 0 && self.run_id.is_some())
    }
}

async fn greet_fully(endpoint: &Endpoint, key: &LinkKey, socket: Socket) -> Result<Dialled, DialError> {
    let (reader, writer) = socket.split();
    let mut greeting = Greeting { reader, writer };
    let mut needs_auth = false;

    let credentials = auth_command(endpoint, key);
    let mut is_v3 = key.resp == Resp::V2;
    let mut is_in_db = key.db == 0;
    let mut told = None;
    if matches!(key.identity, Identity::Named(_)) {
        told = Some(greeting.asked_before_named(endpoint).await?).filter(Told::is_whole);
        // A client that came to be somebody who may not SELECT is still in the database where it was before.
        is_v3 = is_v3 || greeting.is_taken(&hello_3()).await?;
        is_in_db = is_in_db || greeting.is_taken(&select(key.db)).await?;
    }
    if let Some(auth) = credentials {
        greeting.expect_ok(&auth).await?;
    } else {
        needs_auth = greeting.is_refused().await?;
        if needs_auth {
            told = greeting.asked_in_between(endpoint).await?;
            needs_auth = told.is_none() || greeting.is_refused().await?;
        }
    }
    if !is_v3 {
        greeting.expect_ok(&hello_3()).await?;
    }
    if !is_in_db && !needs_auth {
        greeting.expect_ok(&select(key.db)).await?;
    }
    let told = match told {
        Some(told) => told,
        None => greeting.asked().await?,
    };
    let Greeting { reader, writer } = greeting;
    let Told { upstream_id, is_busy, run_id, time_us, is_cluster } = told;
    Ok(Dialled { reader, writer, upstream_id, run_id, time_us, needs_auth, is_busy, is_cluster, trail: None })
}

/// What the reply of `HELLO` says that the connection is called.
fn id_in_hello(reply: &[u8]) -> Option<u64> {
    const FIELD: &[u8] = b"$2\r\nid\r\n:";
    let number = &reply[memchr::memmem::find(reply, FIELD)? + FIELD.len()..];
    std::str::from_utf8(number.split(|byte| *byte == b'\r').next()?).ok()?.parse().ok()
}

/// A field of an `INFO`, named with its colon; `None` where it is not there or empty.
fn info_field<'a>(info: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = info.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?.trim_ascii();
    (!value.is_empty()).then_some(value)
}

/// The credentials of the upstream's URL.
pub fn service_credentials(endpoint: &Endpoint) -> Option<Credentials> {
    let password = endpoint.password.as_ref()?;
    Some(Credentials {
        user: endpoint.user.as_ref().map(|u| u.clone().into_bytes()),
        password: password.clone().into_bytes(),
    })
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(args, &mut out);
    out
}

fn hello_3() -> Vec<u8> {
    command(&[b"HELLO", b"3"])
}

fn select(db: Db) -> Vec<u8> {
    command(&[b"SELECT", db.to_string().as_bytes()])
}

struct Greeting {
    reader: Reader,
    writer: Writer,
}

impl Greeting {
    /// What the upstream says of this connection before it becomes a client's, who may have no right to ask: to Lockgate itself, or to
    /// whoever has no credentials.
    async fn asked_before_named(&mut self, endpoint: &Endpoint) -> Result<Told, DialError> {
        // Where AUTH is refused there is still what anybody is told.
        let auth = service_credentials(endpoint).map(|service| service.auth_command());
        let before = usize::from(auth.is_some());
        let requests = [auth.unwrap_or_default(), Told::questions()].concat();
        let replies = self.exchange(&requests, before + Told::QUESTIONS).await?;
        Ok(Told::of(&replies[before..]))
    }

    /// What the upstream says of this connection to Lockgate itself, which it belongs to for a moment, and then to nobody again.
    async fn asked_in_between(&mut self, endpoint: &Endpoint) -> Result<Option<Told>, DialError> {
        let reset = command(&[b"RESET"]);
        if service_credentials(endpoint).is_none() || !self.is_taken(&reset).await? {
            return Ok(None);
        }
        let told = self.asked_before_named(endpoint).await?;
        self.expect_ok(&reset).await?;
        Ok(Some(told).filter(Told::is_whole))
    }

    /// A password is asked for, which this connection has not given.
    async fn is_refused(&mut self) -> Result<bool, DialError> {
        Ok(is_noauth(&self.ask(&command(&[b"PING"])).await?))
    }

    /// What the upstream says of this connection to whom it is for.
    async fn asked(&mut self) -> Result<Told, DialError> {
        let replies = self.exchange(&Told::questions(), Told::QUESTIONS).await?;
        let mut told = Told::of(&replies);
        if replies[0].starts_with(b"-NOPERM") {
            // HELLO needs no right, and changes nothing.
            told.upstream_id = id_in_hello(&self.ask(&for_auth()).await?).unwrap_or(0);
        }
        Ok(told)
    }

    async fn exchange(&mut self, requests: &[u8], replies: usize) -> Result<Vec<Vec<u8>>, DialError> {
        exchange(&mut self.reader, &self.writer, requests, replies).await
    }

    async fn expect_ok(&mut self, request: &[u8]) -> Result<(), DialError> {
        not_refused(&self.ask(request).await?)
    }

    /// Whether the upstream carries it out.
    async fn is_taken(&mut self, request: &[u8]) -> Result<bool, DialError> {
        Ok(self.ask(request).await?.first() != Some(&b'-'))
    }

    /// Sends one command and waits for its one reply, returned as it came.
    async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, DialError> {
        Ok(self.exchange(request, 1).await?.concat())
    }
}

/// Sends whole commands and waits for their replies, returned each as it came.
async fn exchange(
    reader: &mut Reader,
    writer: &Writer,
    requests: &[u8],
    replies: usize,
) -> Result<Vec<Vec<u8>>, DialError> {
    let broken = |error: io::Error| DialError::Unreachable(format!("the handshake broke off: {error}").into());
    let mut written = 0;
    while written < requests.len() {
        match writer.try_write(&requests[written..]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| writer.poll_writable(cx)).await.map_err(broken)?;
            }
            Err(error) => return Err(broken(error)),
        }
    }
    let (mut scanner, mut frames, mut frame) = (ReplyScanner::new(), Vec::with_capacity(replies), Vec::new());
    let mut chunk = [0u8; 4096];
    while frames.len() < replies {
        let n = std::future::poll_fn(|cx| reader.poll_read(cx, &mut chunk)).await.map_err(broken)?;
        if n == 0 {
            return Err(DialError::Unreachable("the upstream closed the link during the handshake".into()));
        }
        let mut rest = &chunk[..n];
        while !rest.is_empty() && frames.len() < replies {
            let scan = scanner.scan(rest, 1).map_err(|error| {
                DialError::Unreachable(format!("the handshake's reply makes no sense: {error}").into())
            })?;
            frame.extend_from_slice(&rest[..scan.consumed]);
            rest = &rest[scan.consumed..];
            if scan.frames == 1 {
                frames.push(std::mem::take(&mut frame));
            }
        }
        if frame.len() > HANDSHAKE_MAX {
            return Err(DialError::Unreachable("the handshake's reply does not end".into()));
        }
    }
    Ok(frames)
}
