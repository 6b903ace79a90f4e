//! Wiring: configuration, upstream and proxy become a running Lockgate, and a signal ends it.

mod files;
mod signals;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::admin::{self, Admin, AdminError};
use crate::config::{self, Config, LiveConfig, Problem, Sources};
use crate::observe::log;
use crate::proxy::{self, Handle, StartError};
use crate::upstream::embedded::{self, Embedded, EmbeddedError, EmbeddedOptions};
use crate::upstream::topology::Authority;
use crate::upstream::url::Upstream;
use signals::{Event, Signals};

/// How long the embedded server may take to write out and exit. It needs milliseconds; a disk that hangs needs a limit.
const EMBEDDED_STOP_MAX: Duration = Duration::from_secs(5);

/// Why Lockgate did not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Every problem of the configuration.
    #[error("the configuration has {} problem(s)", .0.len())]
    Config(Vec<Problem>),
    /// No embedded server.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// No listener.
    #[error(transparent)]
    Proxy(#[from] StartError),
    /// No admin server, where one was asked for.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// No thread for the signals.
    #[error("cannot start the thread that waits for signals: {0}")]
    Signals(std::io::Error),
}

/// What `lockgate serve` was asked for.
pub struct Serve {
    /// Where the configuration comes from, at the start and at every SIGHUP.
    pub sources: Sources,
    /// Tell what to type next also where standard output is no terminal.
    pub hint: bool,
}

/// Runs until SIGTERM or SIGINT, drains, and returns.
pub fn serve(serve: &Serve) -> Result<(), ServeError> {
    let loaded = config::load(&serve.sources).map_err(ServeError::Config)?;
    // Before any other thread is there: they inherit which signals are blocked.
    let signals = Signals::watch().map_err(ServeError::Signals)?;
    let log = Arc::new(log::start(&loaded.config.log));
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "read the configuration");
    }
    loaded.notes.iter().for_each(|note| tracing::warn!("{note}"));
    files::raise_limit(&loaded.config);

    let loaded_origins = loaded.origins.clone();
    let config = Arc::new(loaded.config.clone());
    let (embedded, authority) = reach_upstream(&config)?;
    let live = Arc::new(LiveConfig::new(loaded.config));
    let heeding = Arc::clone(&log);
    live.on_change(move |config| heeding.set_level(config.log.level));
    let running = proxy::start(Arc::clone(&config), Arc::clone(&live), authority)?;
    let is_wished = loaded_origins.contains_key("admin");
    let admin = start_admin(&config, is_wished, running.handle())?;
    running.knows_its_master();
    announce(&running.address(), &describe_upstream(&config, embedded.as_ref()), serve.hint);

    wait_for_end(&signals, &serve.sources, config.drain_timeout, &live);
    running.drain(config.drain_timeout);
    drop(admin);
    if let Some(embedded) = embedded {
        embedded.stop(EMBEDDED_STOP_MAX);
    }
    tracing::info!("stopped");
    Ok(())
}

fn reach_upstream(config: &Config) -> Result<(Option<Embedded>, Authority), EmbeddedError> {
    match &config.upstream {
        Upstream::Standalone(endpoint) => Ok((None, Authority::One(endpoint.clone()))),
        Upstream::Sentinel(sentinels) => Ok((None, Authority::Sentinels(sentinels.clone()))),
        Upstream::Embedded => {
            let options = EmbeddedOptions {
                data_dir: config.data_dir.clone(),
                connections_max: files::upstream_links_max(config),
            };
            let embedded = embedded::start(&options)?;
            let endpoint = embedded.endpoint();
            Ok((Some(embedded), Authority::One(endpoint)))
        }
    }
}

/// The admin server, if there is to be one. Where its default place is taken, by another Lockgate say, there is none: nobody asked for it.
fn start_admin(config: &Config, is_wished: bool, handle: Handle) -> Result<Option<Admin>, AdminError> {
    let Some(address) = &config.admin else { return Ok(None) };
    match admin::start(
        address,
        config.admin_token.as_ref().map(|token| token.0.clone()),
        config.admin_benchmark,
        handle,
    ) {
        Ok(admin) => {
            tracing::info!(address = %admin.address(), "the admin server is listening");
            Ok(Some(admin))
        }
        Err(error) if is_wished => Err(error),
        Err(error) => {
            tracing::warn!("{error}");
            Ok(None)
        }
    }
}

fn describe_upstream(config: &Config, embedded: Option<&Embedded>) -> String {
    match embedded {
        Some(embedded) => format!("embedded, data in {}", embedded.data_dir().display()),
        None => config.upstream.to_string(),
    }
}

/// The one line on standard output that scripts wait for; for people, also what to type next.
fn announce(address: &str, upstream: &str, hint: bool) {
    let mut out = std::io::stdout().lock();
    // Whoever started us may have closed standard output, which is no reason not to serve.
    let _ = writeln!(out, "Lockgate is listening on {address} (upstream: {upstream})");
    if hint || out.is_terminal() {
        let client = client_command(address);
        let _ = writeln!(
            out,
            "\nTry it from another terminal:\n\n  \
             {client} LOCK.ACQUIRE orders:1 alice TTL 60000\n  \
             {client} LOCK.ACQUIRE orders:1 bob WAIT 60000     # waits for alice\n  \
             {client} LOCK.RELEASE orders:1 alice              # from a third: bob gets it at once\n\n\
             Ctrl-C stops it."
        );
    }
    let _ = out.flush();
}

fn client_command(address: &str) -> String {
    if let Some(path) = address.strip_prefix("unix://") {
        return format!("redis-cli -s {path}");
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "7379"));
    match host.trim_start_matches('[').trim_end_matches(']') {
        "0.0.0.0" | "127.0.0.1" => format!("redis-cli -p {port}"),
        "::" => format!("redis-cli -h ::1 -p {port}"),
        host => format!("redis-cli -h {host} -p {port}"),
    }
}

fn wait_for_end(signals: &Signals, sources: &Sources, drain_timeout: Duration, live: &LiveConfig) {
    loop {
        match signals.next() {
            Event::Reload => reload(sources, live),
            Event::End(name) => {
                tracing::info!(
                    "{name}: no new connections; running commands have {} to end (a second signal stops at once)",
                    config::units::show_duration(drain_timeout)
                );
                return;
            }
        }
    }
}

/// SIGHUP. What was wrong stays as it was; what can change changes; the rest is named.
fn reload(sources: &Sources, live: &LiveConfig) {
    let wanted = match config::load(sources) {
        Ok(wanted) => wanted,
        Err(problems) => {
            for problem in problems {
                tracing::error!("the configuration was not reloaded: {problem}");
            }
            return;
        }
    };
    let changes = live.reload(&wanted.config);
    let changed = if changes.at_run_time.is_empty() { "nothing".to_owned() } else { changes.at_run_time.join(", ") };
    tracing::info!("reloaded the configuration; changed: {changed}");
    if !changes.after_restart.is_empty() {
        tracing::warn!("these keys changed and need a restart to take effect: {}", changes.after_restart.join(", "));
    }
}
