//! What the operator wants: TOML file < environment < flags, checked before anything starts (SPEC 9).
//!
//! [`Config`] is the checked result that the rest of the house reads. `keys` is the table of every key with its meaning,
//! from which reading, `config dump`, the environment's names and the suggestions for misspelt keys all come.

mod dump;
mod keys;
mod later;
mod live;
mod load;
mod networks;
mod reload;
mod setting;
mod suggest;
pub mod tree;
pub mod units;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::commands::lock_scripts::ScriptSays;
use crate::domain::{Level, Replicas};
use crate::health::webhook::Webhook;
pub use crate::upstream::url::Secret;
use crate::upstream::url::{Address, Upstream};

pub use dump::{dump, dump_defaults};
pub use keys::{Applies, KEYS, Key, RULE_KEYS};
pub use live::LiveConfig;
pub use load::{CONNECT_VARIABLE, Flags, Loaded, Sources, load};
pub use networks::Networks;
pub use reload::{Changes, changes};
pub use tree::{Origin, Problem};

/// Everything that can be set. Times of `None` mean "no limit", written "0s".
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Address,
    /// Where clients connect that speak TLS; `None` is nowhere.
    pub listen_tls: Option<Address>,
    /// Where the admin HTTP server listens; `None` is nowhere.
    pub admin: Option<Address>,
    /// What the admin server asks of those who change something, and, off the loopback, of everybody.
    pub admin_token: Option<Secret>,
    /// The admin server may measure.
    pub admin_benchmark: bool,
    /// What stands behind; carries the password, also where that came from `upstream_password_file`.
    pub upstream: Upstream,
    /// A file that holds nothing but the upstream's password.
    pub upstream_password_file: Option<PathBuf>,
    /// The embedded server's folder; `None` is the one in the user's state folder.
    pub data_dir: Option<PathBuf>,
    /// Threads; 0 is one per core. See [`Config::worker_count`].
    pub workers: usize,
    /// The lease of a lock whose call names none.
    pub default_ttl: Duration,
    /// Longer leases are cut to this.
    pub max_ttl: Duration,
    /// Longer waits are cut to this.
    pub max_wait: Duration,
    /// Waiters per key and node, beyond which a call is refused.
    pub max_queue: usize,
    /// After this much longer a waiter beats one of the next level.
    pub promote_after: Option<Duration>,
    /// How many replicas have to have a grant before its client is told.
    pub wait_replicas: Replicas,
    /// Where the queue cannot be kept, a `SET NX` passes as the plain command; else it is refused.
    pub fallback: bool,
    /// What clients see once the upstream has been away for [`Links::hold`], or where what they sent may have run.
    pub when_away: WhenAway,
    /// How long a shutdown waits for running commands.
    pub drain_timeout: Duration,
    /// `true`: clients act with the credentials of the upstream URL without giving any.
    pub trust_clients: bool,
    /// When a connection with bound locks that has gone silent is given up.
    pub client_timeout: Option<Duration>,
    /// Which keys are locks for plain `SET NX`; the first that matches counts.
    pub lock_keys: Vec<Rule>,
    /// Further scripts that are taken for a `SET NX`.
    pub lock_scripts: Vec<Script>,
    /// What happens to locks, for those who listen.
    pub events: Events,
    /// The look at the upstream's health.
    pub health: Health,
    /// Links to the upstream.
    pub links: Links,
    /// This node among others.
    pub nodes: Nodes,
    /// What is done about deadlocks.
    pub deadlock: Deadlock,
    /// What one client, and all together, may take.
    pub limits: Limits,
    /// TLS for clients, on `listen_tls`.
    pub tls: Tls,
    /// TLS to the upstream, where its URL asks for it.
    pub upstream_tls: UpstreamTls,
    /// Who did what to which lock.
    pub audit: Audit,
    /// Logs.
    pub log: Log,
}

/// Who did what to which lock, written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// The file; `None` is no audit.
    pub file: Option<PathBuf>,
    /// A longer one gets a number, and another one begins.
    pub max_size: ByteSize,
    /// So many with a number are kept.
    pub keep: usize,
    /// What happens to locks while it cannot be written.
    pub on_failure: OnFailure,
}

/// What happens to locks while the audit cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nobody gets one.
    Refuse,
    /// All goes on, and the audit says how much it does not hold.
    Drop,
}

impl OnFailure {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            OnFailure::Refuse => "refuse",
            OnFailure::Drop => "drop",
        }
    }
}

/// TLS for clients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// The file with Lockgate's certificate, and those between it and its authority.
    pub cert: Option<PathBuf>,
    /// The file with its key.
    pub key: Option<PathBuf>,
    /// The file with the authorities that vouch for clients; `None`: clients are asked for no certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client has to have one.
    pub client_auth: ClientAuth,
    /// What in it is the name of a user.
    pub client_user: ClientUser,
}

/// Whether clients have to have a certificate, where they are asked for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Those without one are turned away.
    #[default]
    Required,
    /// Those without one are served; one that nobody vouches for is turned away.
    Optional,
}

/// What in a client's certificate is the name of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientUser {
    /// Nothing.
    #[default]
    None,
    /// The common name.
    Cn,
    /// The first of the alternative names.
    San,
}

/// TLS to the upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// The file with the authorities that vouch for it; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The file with the certificate that is shown to it.
    pub cert: Option<PathBuf>,
    /// The file with the key of that.
    pub key: Option<PathBuf>,
    /// What it is called in its certificate; `None`: as in its URL.
    pub server_name: Option<String>,
}

/// What clients see while the upstream is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// The end of their connection, as of a Redis that has gone.
    Close,
    /// `-UNAVAILABLE`.
    Error,
}

/// Which keys are locks, and what holds for them. Empty or `None` fields leave the general setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// A glob as in `KEYS`.
    pub pattern: String,
    /// How long a refused `SET NX` queues before it answers nil.
    pub wait: Option<Duration>,
    /// The level that its calls wait at.
    pub priority: Option<Level>,
    /// Whether the rule acts, only counts, or rests.
    pub mode: Mode,
    /// The share of matching keys, by hash, for which it acts.
    pub percent: usize,
    /// How long a refused poller's place is kept.
    pub poll_ticket: Option<Duration>,
    /// Lets a connection that holds a lock wait for another.
    pub wait_while_holding: bool,
    /// Lets a `SET NX` pass waiters.
    pub barge: bool,
    /// A waiting `SET NX` ends when anything else arrives behind it on its connection.
    pub yields: bool,
    /// Whose calls it is for; empty is everybody's.
    pub users: Vec<String>,
    /// Overrides [`Config::max_ttl`].
    pub max_ttl: Option<Duration>,
    /// The lease of a `SET NX` without expiry.
    pub default_ttl: Option<Duration>,
    /// Overrides [`Config::max_queue`]; 0 leaves it.
    pub max_queue: usize,
}

/// A `[[lock_scripts]]` entry: a script that takes one lock as `SET key value NX PX ms` does.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Of its text.
    pub sha1: Digest,
    /// How many arguments follow the key.
    pub arguments: usize,
    /// Which of them is written, from 1.
    pub value: usize,
    /// Which of them is the lease in ms, from 1.
    pub ttl: usize,
    /// What it answers where the lock was taken.
    pub granted: Saying,
    /// What it answers where another holds it.
    pub refused: Saying,
}

impl Default for Script {
    /// With the arguments and answers of npm's redlock.
    fn default() -> Self {
        let (granted, refused) = (Saying(ScriptSays::Integer(1)), Saying(ScriptSays::Integer(0)));
        Script { sha1: Digest([0; 20]), arguments: 2, value: 1, ttl: 2, granted, refused }
    }
}

/// A SHA1, written as 40 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 20]);

/// What a script says, written as `"OK"`, `"nil"` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saying(pub ScriptSays);

/// What happens to locks, for those who listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Most events that wait to be sent.
    pub buffer: usize,
}

/// A share of something, from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u8);

/// The look at the upstream's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How often the upstream is asked what it tells of itself.
    pub check_interval: Duration,
    /// Longer round trips cost points.
    pub timeout_threshold: Duration,
    /// So many looks in a row that are worse send an alert …
    pub error_threshold: u32,
    /// … and so many that are better the all-clear.
    pub recovery_threshold: u32,
    /// So much of `maxmemory` costs points.
    pub memory_threshold: Percent,
    /// More slow commands between two looks cost points.
    pub max_slow_queries: usize,
    /// Where alerts go.
    pub webhook: Option<Webhook>,
}

/// Links to the upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    /// Shared links per worker, identity, database and protocol; 0 gives every client a link of its own for as long as it is there.
    pub shared: usize,
    /// Most own links at a time, over all workers.
    pub own_max: usize,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time for an answer to Lockgate's own questions.
    pub reply_timeout: Duration,
    /// When a link nobody uses is closed.
    pub idle_timeout: Option<Duration>,
    /// TCP keepalive on links.
    pub keepalive: Option<Duration>,
    /// How long what was not sent yet is held while the upstream is away.
    pub hold: Duration,
    /// How often a command of Lockgate's own is tried again.
    pub retries: u32,
    /// First pause between tries; each next one is twice as long.
    pub retry_base: Duration,
    /// Longest pause between tries.
    pub retry_max: Duration,
}

/// This node among others.
#[derive(Clone, Debug, PartialEq)]
pub struct Nodes {
    /// Its name; `None` is the host name and a random part.
    pub id: Option<String>,
    /// How often it shows that it lives.
    pub heartbeat: Duration,
    /// After which silence the others take it for dead.
    pub timeout: Duration,
    /// Under which nodes sign what they say to one another; `None` is made from the upstream's password.
    pub secret: Option<Secret>,
    /// The address that clients are told; `None` is the one they connected to.
    pub announce: Option<String>,
}

/// What is done about deadlocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Deadlock {
    /// Whether they are broken, refused, or left alone.
    pub mode: DeadlockMode,
    /// Whose call is ended.
    pub victim: VictimPolicy,
}

/// What is done about deadlocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlockMode {
    /// One call of each is ended.
    Detect,
    /// The call that would close one is refused.
    Prevent,
    /// Nothing.
    Off,
}

/// Whose call is ended to break a deadlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VictimPolicy {
    /// Who waits at the lowest level.
    LowestPriority,
    /// Whose lock in the cycle was taken last.
    Youngest,
    /// Who holds the fewest locks.
    FewestLocks,
    /// Whose wait began last.
    Requester,
}

/// What one client, and all together, may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections at a time.
    pub connections: usize,
    /// Client connections from one address; 0 is no limit.
    pub connections_per_address: usize,
    /// Calls of one connection that wait at a time.
    pub waiting_per_connection: usize,
    /// Bytes of keys, owners and meta that all waiting calls together keep.
    pub waiting_bytes: ByteSize,
    /// Longest owner that a `LOCK.*` call may name, in bytes.
    pub owner: ByteSize,
    /// Longest META of a lock, in bytes.
    pub meta: ByteSize,
    /// Bytes of replies kept for one client that does not read; beyond it the client is closed.
    pub output_buffer: ByteSize,
    /// How long a handshake may take before a client may speak.
    pub handshake_timeout: Option<Duration>,
    /// When a client that sends nothing is disconnected.
    pub idle_timeout: Option<Duration>,
    /// The longest that a try waits because of wrong passwords of its address.
    pub auth_delay: Option<Duration>,
    /// Connections from `proxy_trusted` begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Where the load balancers are.
    pub proxy_trusted: Networks,
}

/// Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least important line that is written.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
}

/// How much of Lockgate is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it.
    On,
    /// Only observes and counts.
    Shadow,
    /// A plain proxy.
    Off,
}

/// The least important line that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// None at all.
    Off,
    /// What needs somebody.
    Error,
    /// What may need somebody soon.
    Warn,
    /// What one wants to know afterwards.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Every step.
    Trace,
}

/// For people or for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text.
    Text,
    /// A JSON object a line.
    Json,
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", units::show_size(self.0 as u64))
    }
}

impl Config {
    /// Threads to start: `workers`, or one per core that this process may use.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Address::Tcp { host: "127.0.0.1".to_owned(), port: 7379 },
            listen_tls: None,
            admin: Some(Address::Tcp { host: "127.0.0.1".to_owned(), port: 7380 }),
            admin_token: None,
            admin_benchmark: false,
            upstream: Upstream::Embedded,
            upstream_password_file: None,
            data_dir: None,
            workers: 0,
            default_ttl: Duration::from_secs(30),
            max_ttl: Duration::from_secs(2 * 3600),
            max_wait: Duration::from_secs(600),
            max_queue: 1000,
            promote_after: None,
            wait_replicas: Replicas::NotAsked,
            fallback: true,
            when_away: WhenAway::Close,
            drain_timeout: Duration::from_secs(5),
            trust_clients: false,
            client_timeout: Some(Duration::from_secs(15)),
            lock_scripts: Vec::new(),
            lock_keys: ["lock:*", "locks:*", "redlock:*", "*:lock"].map(Rule::matching).into(),
            events: Events { buffer: 1000 },
            health: Health {
                check_interval: Duration::from_secs(5),
                timeout_threshold: Duration::from_secs(1),
                error_threshold: 5,
                recovery_threshold: 3,
                memory_threshold: Percent(80),
                max_slow_queries: 10,
                webhook: None,
            },
            links: Links {
                shared: 2,
                own_max: 1000,
                connect_timeout: Duration::from_secs(5),
                reply_timeout: Duration::from_secs(3),
                idle_timeout: Some(Duration::from_secs(300)),
                keepalive: Some(Duration::from_secs(30)),
                hold: Duration::from_secs(2),
                retries: 3,
                retry_base: Duration::from_millis(50),
                retry_max: Duration::from_secs(2),
            },
            nodes: Nodes {
                id: None,
                heartbeat: Duration::from_secs(1),
                timeout: Duration::from_secs(3),
                secret: None,
                announce: None,
            },
            deadlock: Deadlock { mode: DeadlockMode::Detect, victim: VictimPolicy::LowestPriority },
            limits: Limits {
                connections: 10_000,
                connections_per_address: 0,
                waiting_per_connection: 1000,
                waiting_bytes: ByteSize(64 << 20),
                owner: ByteSize(1 << 10),
                meta: ByteSize(4 << 10),
                output_buffer: ByteSize(256 << 20),
                handshake_timeout: Some(Duration::from_secs(10)),
                idle_timeout: None,
                auth_delay: Some(Duration::from_secs(2)),
                proxy_protocol: false,
                proxy_trusted: Networks::default(),
            },
            tls: Tls::default(),
            upstream_tls: UpstreamTls::default(),
            audit: Audit { file: None, max_size: ByteSize(100 << 20), keep: 10, on_failure: OnFailure::Refuse },
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
        }
    }
}

impl Rule {
    /// A rule for the keys that match `pattern`, with nothing else set.
    pub fn matching(pattern: &str) -> Self {
        Rule {
            pattern: pattern.to_owned(),
            wait: None,
            priority: None,
            mode: Mode::On,
            percent: 100,
            poll_ticket: None,
            wait_while_holding: false,
            barge: false,
            yields: true,
            users: Vec::new(),
            max_ttl: None,
            default_ttl: None,
            max_queue: 0,
        }
    }
}
