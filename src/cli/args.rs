//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::exec::TRAMPOLINE;
use crate::config::{Flags, units};

/// A Redis-protocol lock proxy: queues, priorities and fencing for locks, everything else passes untouched.
#[derive(Parser)]
#[command(name = "lockgate", version, about)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub sources: SourceFlags,
}

#[derive(Args)]
pub(super) struct SourceFlags {
    /// The configuration file (TOML) [env: LOCKGATE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect: host:port, or unix:///path [default: 127.0.0.1:7379]
    #[arg(long, global = true, value_name = "ADDR")]
    listen: Option<String>,
    /// The admin HTTP server: host:port, or "off" [default: 127.0.0.1:7380]
    #[arg(long, global = true, value_name = "ADDR|off")]
    admin: Option<String>,
    /// What stands behind: redis://…, unix:///path, or embedded [default: embedded]
    #[arg(long, global = true, value_name = "URL")]
    upstream: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve clients (what happens without a command, too)
    Serve {
        /// Tell what to type next, also where standard output is no terminal
        #[arg(long)]
        hint: bool,
    },
    /// Check or show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Run a command while a lock is held: stand in line, keep the lock, let go of it
    ///
    /// Exits as the command does; 75 where the lock was not got in time. The command finds its fencing token in LOCKGATE_FENCE. Where the lock
    /// is lost, it gets SIGTERM, and SIGKILL after the grace.
    Exec {
        /// The lock
        key: String,
        /// How long to stand in line
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration_or_none)]
        wait: Duration,
        /// low, normal, high or critical
        #[arg(long, value_name = "LEVEL")]
        priority: Option<String>,
        /// After so long without a sign of life of this process the lock is free
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
        ttl: Duration,
        /// From SIGTERM to SIGKILL, where the lock is lost
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_or_none)]
        grace: Duration,
        #[command(flatten)]
        connect: Connect,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Test whether the upstream, set up as it is, is good for locks; say what to change, and why
    Check {
        /// Print an array of findings instead
        #[arg(long)]
        json: bool,
    },
    /// Measure how fast locks are: alone, in line for one key, and by polling SET NX for comparison
    Bench {
        /// How long each of the three parts lasts
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        duration: Duration,
        /// How many clients ask at once
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = connections)]
        connections: usize,
        /// Ask for so many locks a second in the first part, however long answers take [default: each client asks when it has its answer]
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Print an array of the figures instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Show the locks of a running Lockgate, live; a table of them, once, where there is no terminal
    Top {
        /// How often to look
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
        every: Duration,
        #[command(flatten)]
        connect: Connect,
    },
    /// Watch a Redis, or a running Lockgate, for a while: which keys are locks, what polling costs, which rules would queue them
    ///
    /// It uses MONITOR, which costs the server some of its speed while it lasts.
    Learn {
        /// How long to watch
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
        duration: Duration,
        /// Print an array instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// The locks that stand upstream, asked of the upstream itself; works without a running Lockgate
    Locks {
        #[command(subcommand)]
        command: LocksCommand,
    },
    /// Print completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// The folder to write them to
        folder: PathBuf,
    },
    /// Become the command; for `exec`
    #[command(name = TRAMPOLINE, hide = true)]
    Become {
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Look at an audit
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Ask a running Lockgate for a PONG; for health checks
    Ping {
        /// How long the answer may take
        #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
        timeout: Duration,
    },
}

/// Which running Lockgate is asked.
#[derive(Args)]
pub(super) struct Connect {
    /// The Lockgate to ask [env: LOCKGATE_CONNECT] [default: what listen says]
    #[arg(long, value_name = "URL")]
    pub connect: Option<String>,
    /// The authorities that vouch for it, where the URL begins with rediss:// [default: the system's]
    #[arg(long = "connect-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum LocksCommand {
    /// A table of them
    List {
        #[command(flatten)]
        wanted: WantedLocks,
        /// Print a line of JSON for each instead, as export does
        #[arg(long)]
        json: bool,
    },
    /// Write them to standard output, a line of JSON each
    Export {
        #[command(flatten)]
        wanted: WantedLocks,
    },
    /// Write those that standard input tells, as export wrote them, where nothing stands in their keys
    ///
    /// A line needs key, owner and ttl_ms. Without a fence the lock gets a new one; with "fence": null it is written as SET NX writes it.
    Import,
    /// Free these locks, whoever holds them; the next waiter has them at once
    Force {
        /// Their keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

#[derive(Args)]
pub(super) struct WantedLocks {
    /// Only keys that match, as in KEYS
    #[arg(long = "match", value_name = "GLOB")]
    pattern: Option<String>,
    /// Only this owner's
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
}

impl From<WantedLocks> for super::locks::Wanted {
    fn from(wanted: WantedLocks) -> Self {
        Self { pattern: wanted.pattern, owner: wanted.owner }
    }
}

impl Default for Command {
    fn default() -> Self {
        Command::Serve { hint: false }
    }
}

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Say whether nothing was changed or taken out between the first line and the last
    Verify {
        /// The files of one audit, in any order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Say whether the configuration is right, and name every problem
    Check,
    /// Print the configuration in force, passwords masked
    Dump {
        /// Print the defaults instead, each with what it is for
        #[arg(long)]
        defaults: bool,
    },
}

impl From<SourceFlags> for Flags {
    fn from(flags: SourceFlags) -> Self {
        Flags { config: flags.config, listen: flags.listen, admin: flags.admin, upstream: flags.upstream }
    }
}

fn connections(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or("write a number from 1 to 1000")
}

fn duration_or_none(text: &str) -> Result<Duration, &'static str> {
    units::parse_duration(text).ok_or("write a duration such as \"500ms\" or \"3s\", or \"0s\" for none")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = units::parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or("write a duration such as \"500ms\" or \"3s\"")
}
