//! Every key as data: its name, what it means, how it is read and shown.

use std::time::Duration;

use super::setting::{Setting, within};
use super::tree::Value;
use super::units::LONGEST;
use super::{ByteSize, Config, Rule, Script};

/// One key of the configuration, or of a rule.
pub struct Key<C: 'static> {
    /// Its name with its table: "links.shared".
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub says: &'static str,
    /// When a change of it takes effect.
    pub applies: Applies,
    /// Reads it; the error says what is wrong and what to write.
    pub(super) set: fn(&mut C, &Value) -> Result<(), String>,
    /// Its value as TOML, secrets masked.
    pub(super) show: fn(&C) -> String,
    /// Whether two configurations agree on it.
    pub(super) same: fn(&C, &C) -> bool,
    /// Takes it over from another configuration.
    pub(super) copy: fn(&mut C, &C),
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// With SIGHUP or LOCK.CONFIG SET, or at the next start.
    AtRunTime,
    /// At the next start.
    AtStart,
    /// The key is read and checked, and the version that acts on it is yet to come. Setting it is noted in the log.
    Later,
}

/// `key!("links.shared", links.shared, 1..64, "sentence")`: the range is for numbers, times and sizes.
macro_rules! key {
    ($name:literal, $($field:ident).+, $says:literal) => {
        key!(@ AtStart $name, $($field).+, $says, |value| Setting::read(value))
    };
    ($name:literal, $($field:ident).+, $least:expr => $most:expr, $says:literal) => {
        key!(@ AtStart $name, $($field).+, $says, |value| within(value, $least, $most))
    };
    (at run time $name:literal, $($field:ident).+, $says:literal) => {
        key!(@ AtRunTime $name, $($field).+, $says, |value| Setting::read(value))
    };
    (at run time $name:literal, $($field:ident).+, $least:expr => $most:expr, $says:literal) => {
        key!(@ AtRunTime $name, $($field).+, $says, |value| within(value, $least, $most))
    };
    (later $name:literal, $($field:ident).+, $says:literal) => {
        key!(@ Later $name, $($field).+, $says, |value| Setting::read(value))
    };
    (later $name:literal, $($field:ident).+, $least:expr => $most:expr, $says:literal) => {
        key!(@ Later $name, $($field).+, $says, |value| within(value, $least, $most))
    };
    (@ $applies:ident $name:literal, $($field:ident).+, $says:literal, |$value:ident| $read:expr) => {
        Key {
            name: $name,
            says: $says,
            applies: Applies::$applies,
            set: |config, $value| {
                config.$($field).+ = $read?;
                Ok(())
            },
            show: |config| config.$($field).+.show(),
            same: |a, b| a.$($field).+ == b.$($field).+,
            copy: |to, from| to.$($field).+ = from.$($field).+.clone(),
        }
    };
}

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Every key but `lock_keys`, whose rules have [`RULE_KEYS`].
pub const KEYS: &[Key<Config>] = &[
    key!("listen", listen, "Where clients connect: host:port, or unix:///path."),
    key!(
        "listen_tls",
        listen_tls,
        "Where clients connect that speak TLS, beside listen: host:port; \"off\" is nowhere."
    ),
    key!("admin", admin, "Where the admin HTTP server listens: host:port; \"off\" is nowhere."),
    key!(
        "admin_token",
        admin_token,
        "What requests to it have to bring that change something, and off the loopback all of them."
    ),
    key!("admin_benchmark", admin_benchmark, "Lets POST /api/benchmark measure with a lock of its own."),
    key!(
        "upstream",
        upstream,
        "What stands behind: redis://[user:password@]host:port[/db], unix:///path, or embedded."
    ),
    key!("upstream_password_file", upstream_password_file, "A file that holds nothing but the upstream's password."),
    key!("data_dir", data_dir, "The embedded server's folder; empty is lockgate in the user's state folder."),
    key!("workers", workers, 0 => 1024, "Threads; 0 is one per core."),
    key!(at run time "default_ttl", default_ttl, MS => LONGEST, "The lease of a lock whose call names none."),
    key!(at run time "max_ttl", max_ttl, MS => LONGEST, "Longer leases are cut to this."),
    key!(at run time "max_wait", max_wait, Duration::ZERO => LONGEST, "Longer waits are cut to this."),
    key!(at run time "max_queue", max_queue, 1 => 10_000_000, "Waiters per key and node; one more is refused with QUEUEFULL."),
    key!(
        at run time "promote_after",
        promote_after,
        "A waiter beats one of the next level that came more than this later; 0s is never."
    ),
    key!(
        "wait_replicas",
        wait_replicas,
        "A grant is answered only after so many replicas have it: a number, or \"majority\"; 0 does not wait."
    ),
    key!(
        "fallback",
        fallback,
        "Where the queue cannot be kept, a SET NX passes as the plain command (true) or is refused (false)."
    ),
    key!(
        "when_away",
        when_away,
        "What clients see once the upstream has been away for links.hold: the end of their connection (close) or UNAVAILABLE (error)."
    ),
    key!("drain_timeout", drain_timeout, Duration::ZERO => DAY, "How long a shutdown waits for running commands."),
    key!("trust_clients", trust_clients, "Clients act with the upstream URL's credentials without giving any."),
    key!(
        "client_timeout",
        client_timeout,
        "When a connection with bound locks that has gone silent is given up; 0s is never."
    ),
    key!("links.shared", links.shared, 0 => 64, "Shared links to the upstream per worker, of each kind; 0 gives every client a link of its own."),
    key!("links.own_max", links.own_max, 1 => 1_000_000, "Most links at a time that serve one connection alone."),
    key!("links.connect_timeout", links.connect_timeout, MS => DAY, "Longest time to connect to the upstream; see reply_timeout."),
    key!("links.reply_timeout", links.reply_timeout, MS => DAY, "After so long without an answer Lockgate looks, for connect_timeout, whether the upstream answers anybody."),
    key!("links.idle_timeout", links.idle_timeout, "When a link nobody uses is closed; 0s is never."),
    key!("links.keepalive", links.keepalive, "TCP keepalive on links; 0s is none."),
    key!(
        "links.hold",
        links.hold,
        Duration::ZERO => DAY,
        "How long what was not sent yet is held while the upstream is away."
    ),
    key!(later "links.retries", links.retries, 0 => 100, "How often a command of Lockgate's own is tried again."),
    key!("links.retry_base", links.retry_base, MS => DAY, "First pause between tries; each next one is twice as long."),
    key!("links.retry_max", links.retry_max, MS => DAY, "Longest pause between tries."),
    key!("nodes.id", nodes.id, "This node's name; empty is the host name and a random part."),
    key!("nodes.heartbeat", nodes.heartbeat, MS => DAY, "How often this node shows that it lives."),
    key!("nodes.timeout", nodes.timeout, MS => DAY, "After which silence the others take it for dead."),
    key!(
        "nodes.secret",
        nodes.secret,
        "What nodes sign their messages with, the same on all of them; empty is made from the upstream's password."
    ),
    key!("nodes.announce", nodes.announce, "The address that clients are told; empty is the one they connected to."),
    key!(
        "deadlock.mode",
        deadlock.mode,
        "Deadlocks are broken (detect), refused (prevent), or left to time out (off)."
    ),
    key!(
        "deadlock.victim",
        deadlock.victim,
        "Whose call ends: lowest_priority, youngest, fewest_locks or requester; the same on all nodes."
    ),
    key!("limits.connections", limits.connections, 1 => 10_000_000, "Client connections at a time."),
    key!(
        "limits.connections_per_address",
        limits.connections_per_address,
        "Client connections from one address; 0 is no limit."
    ),
    key!(later "limits.waiting_per_connection", limits.waiting_per_connection, 1 => 10_000_000, "Calls of one connection that wait at a time."),
    key!(
        at run time "limits.waiting_bytes",
        limits.waiting_bytes,
        ByteSize(64 << 10) => ByteSize(1 << 40),
        "Keys, owners and meta that all waiting calls keep; a wait beyond it is refused with QUEUEFULL."
    ),
    key!(at run time "limits.owner", limits.owner, ByteSize(1) => ByteSize(1 << 20), "The longest owner."),
    key!(at run time "limits.meta", limits.meta, ByteSize(0) => ByteSize(1 << 20), "The longest META."),
    key!("limits.output_buffer", limits.output_buffer, ByteSize(1 << 20) => ByteSize(1 << 40), "Replies kept for one client that does not read; beyond it the client is closed."),
    key!(
        "limits.handshake_timeout",
        limits.handshake_timeout,
        "How long a TLS handshake and a PROXY header may take; 0s is no limit."
    ),
    key!("limits.idle_timeout", limits.idle_timeout, "When a client that sends nothing is disconnected; 0s is never."),
    key!(
        "limits.auth_delay",
        limits.auth_delay,
        "Up to which wrong passwords of an address slow down its next tries; 0s is not at all."
    ),
    key!(
        "limits.proxy_protocol",
        limits.proxy_protocol,
        "Connections from limits.proxy_trusted begin with a PROXY header (version 1 or 2), which says whose they are."
    ),
    key!(
        "limits.proxy_trusted",
        limits.proxy_trusted,
        "The load balancers that send one: addresses and networks such as \"10.0.0.0/8\", and \"unix\"."
    ),
    key!(
        "health.check_interval",
        health.check_interval,
        Duration::from_millis(100) => DAY,
        "How often the upstream is asked what it tells of itself, while somebody wants to know."
    ),
    key!("health.timeout_threshold", health.timeout_threshold, MS => DAY, "Round trips that are longer cost points of the score."),
    key!(
        "health.error_threshold",
        health.error_threshold,
        1 => 1000,
        "So many looks in a row that are worse than what was told last send an alert to health.webhook."
    ),
    key!("health.recovery_threshold", health.recovery_threshold, 1 => 1000, "And so many that are better send the all-clear."),
    key!(
        "health.memory_threshold",
        health.memory_threshold,
        "From how much of the upstream's maxmemory on the score falls."
    ),
    key!(
        "health.max_slow_queries",
        health.max_slow_queries,
        "More slow commands from one look to the next cost points of the score."
    ),
    key!("health.webhook", health.webhook, "Where alerts go: http://host[:port]/path; empty is nowhere."),
    key!("events.buffer", events.buffer, 1 => 1_000_000, "Events that wait to be sent; when there are more, the oldest are dropped and counted."),
    key!(
        "tls.cert",
        tls.cert,
        "The certificate that TLS clients are shown, in PEM form, with those between it and its authority."
    ),
    key!("tls.key", tls.key, "Its private key, in PEM form."),
    key!(
        "tls.client_ca",
        tls.client_ca,
        "The authorities that vouch for clients, in PEM form; empty asks clients for no certificate."
    ),
    key!(
        "tls.client_auth",
        tls.client_auth,
        "With client_ca: clients without a certificate are turned away (required) or served (optional)."
    ),
    key!(
        "tls.client_user",
        tls.client_user,
        "What of a client's certificate is the user it acts as: none, its common name (cn) or its first alternative name (san)."
    ),
    key!(
        "upstream_tls.ca",
        upstream_tls.ca,
        "The authorities that vouch for the upstream, in PEM form; empty is those of the system."
    ),
    key!("upstream_tls.cert", upstream_tls.cert, "The certificate that is shown to the upstream, in PEM form."),
    key!("upstream_tls.key", upstream_tls.key, "Its private key, in PEM form."),
    key!(
        "upstream_tls.server_name",
        upstream_tls.server_name,
        "What the upstream is called in its certificate; empty is the host of its URL."
    ),
    key!("audit.file", audit.file, "Where it is written down who did what to which lock; empty is nowhere."),
    key!(
        "audit.max_size",
        audit.max_size,
        ByteSize(4 << 10) => ByteSize(1 << 40),
        "A file that would grow beyond it gets a number, and another one begins."
    ),
    key!("audit.keep", audit.keep, 0 => 10_000, "So many files with a number are kept."),
    key!(
        "audit.on_failure",
        audit.on_failure,
        "While it cannot be written: nobody gets a lock (refuse), or all goes on and it says what it lacks (drop)."
    ),
    key!(at run time "log.level", log.level, "The least important line written: error, warn, info, debug, trace, or off."),
    key!("log.format", log.format, "Log lines for people (text) or for machines (json)."),
];

/// The keys of a `[[lock_keys]]` rule.
pub const RULE_KEYS: &[Key<Rule>] = &[
    key!("match", pattern, "Which keys: a glob as in KEYS."),
    key!("wait", wait, "How long a refused SET NX queues before it answers nil; 0s is not at all."),
    key!("priority", priority, "The level that its calls wait at: low, normal, high or critical."),
    key!("mode", mode, "Whether the rule acts (on), only counts (shadow) or rests (off)."),
    key!("percent", percent, 0 => 100, "The share of matching keys, by hash, for which it acts."),
    key!("poll_ticket", poll_ticket, "How long a refused poller's place is kept; 0s is not at all."),
    key!("wait_while_holding", wait_while_holding, "Lets a connection that holds a lock wait for another."),
    key!("barge", barge, "Lets a SET NX pass waiters."),
    key!("yield", yields, "Ends a waiting SET NX with nil when anything else arrives behind it on its connection."),
    key!("users", users, "Whose calls it is for; empty is everybody's."),
    key!("max_ttl", max_ttl, "Longer leases are cut to this; 0s is the general max_ttl."),
    key!("default_ttl", default_ttl, "The lease of a SET NX without expiry; 0s is none."),
    key!("max_queue", max_queue, "Waiters per key and node; 0 is the general max_queue."),
];

/// The keys of a `[[lock_scripts]]` entry.
pub const SCRIPT_KEYS: &[Key<Script>] = &[
    key!("sha1", sha1, "The SHA1 of the script's text."),
    key!("arguments", arguments, 2 => 16, "How many arguments follow the key."),
    key!("value", value, 1 => 16, "Which argument is written, from 1."),
    key!("ttl", ttl, 1 => 16, "Which argument is the lease in ms, from 1."),
    key!("granted", granted, "What the script answers where it took the lock: OK, nil or a number."),
    key!("refused", refused, "What it answers where another holds it."),
];

/// The variable that sets `key`: LOCKGATE_LINKS__SHARED for links.shared.
pub(super) fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// What the names of Lockgate's environment variables begin with.
pub(super) const VARIABLE_PREFIX: &str = "LOCKGATE_";
