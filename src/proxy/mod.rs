//! Clients: the door, the workers behind it, and a session for each connection.

mod arrival;
mod client_list;
mod knocks;
mod listener;
mod registry;
mod session;
#[cfg(test)]
mod simulation;
mod warmup;
mod worker;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::arrival::DoorRules;
use self::knocks::Knocks;
use self::listener::{Bound, Door, ListenError, bind};
use self::registry::Registry;
use self::session::AllOutboxes;
use self::warmup::Warmups;
use self::worker::{Shared, Stop};
use crate::audit::{AuditError, Auditor};
use crate::commands::lock_scripts::{LockScript, LockScripts, ScriptAnswers};
use crate::config::{self, Config, LiveConfig, WhenAway};
use crate::coordinator::seal::Seal;
use crate::coordinator::{Coordinator, DeadlockMode, LockKeys, LockLimits, LockSettings, Rules};
use crate::health;
use crate::locks::victim::VictimPolicy;
use crate::tls::{self, ClientTls, ServerTls, TlsError};
use crate::upstream::dial::Connector;
use crate::upstream::links::LinkSettings;
use crate::upstream::router::{Common, Reached, Router};
use crate::upstream::topology::{Authority, Topology};
use crate::upstream::url::Upstream;

/// For all clients together so many times the bytes of replies may wait that may wait for one.
const OUTPUT_OF_ALL: usize = 4;
/// The Sentinels have so long to name the master before clients are told that Lockgate listens.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(1);
/// How often the drain looks whether the last client has gone.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The door does not open.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS was asked for, and cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What happens was to be written down, and cannot be.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A thread could not be started.
    #[error("cannot start a worker thread: {0}; is the limit of processes too low?")]
    Thread(#[from] io::Error),
}

/// What runs, seen from beside the clients: by the admin server.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// The lock engine.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.0.coordinator
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.0.registry.count()
    }

    /// How many links serve one client alone just now.
    pub fn own_links(&self) -> usize {
        self.0.own_in_use.load(Ordering::Relaxed)
    }

    /// Why clients have needed a link of their own, and how often each.
    pub fn own_links_taken(&self) -> Vec<(&'static str, u64)> {
        self.0.registry.own_links_taken().map(|(why, count)| (why.name(), count)).collect()
    }

    /// How many commands clients have sent, by the way that they went.
    pub fn commands(&self) -> [(&'static str, u64); 3] {
        self.0.registry.commands()
    }

    /// All workers dial their shared links; how many they have begun to dial.
    pub async fn warm_up(&self) -> usize {
        self.0.warmups.all().await
    }

    /// The process is about to end.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Relaxed)
    }

    /// A way to the upstream for the thread that asks, which has to be within a `LocalSet`.
    pub fn router(&self) -> Rc<Router> {
        let common = Common {
            settings: LinkSettings { shared: 1, ..self.0.links.clone() },
            own_in_use: self.0.own_in_use.clone(),
            reached: self.0.reached.clone(),
            ..Common::of_one(self.0.topology.endpoint().clone(), self.0.links.clone())
        };
        Router::new(common, self.0.topology.master())
    }
}

/// The running proxy.
pub struct Running {
    address: String,
    shared: Arc<Shared>,
    stop: watch::Sender<Stop>,
    workers: Vec<JoinHandle<()>>,
    path: Option<PathBuf>,
    /// Ends last, so that it holds what the end brings about.
    auditor: Option<Auditor>,
}

/// Binds the listener and starts the workers. Returns at once, whether or not the upstream is there.
/// `live` is what is in force while it runs.
pub fn start(config: Arc<Config>, live: Arc<LiveConfig>, authority: Authority) -> Result<Running, StartError> {
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    };
    let tls = config.listen_tls.as_ref().map(|_| ServerTls::load(&config.tls)).transpose()?;
    let connector = Connector::with_tls(ClientTls::for_upstream(&config)?);
    let auditor = config.audit.file.as_deref().map(|file| Auditor::start(&config.audit, file)).transpose()?;
    let Bound { address, listeners, path } = bind(&config.listen, count)?;
    let encrypted = config.listen_tls.as_ref().map(|address| bind(address, count)).transpose()?;
    if let (Some(tls), Some(bound)) = (&tls, &encrypted) {
        tracing::info!("clients that speak TLS connect to {}", bound.address);
        let heeding = tls.clone();
        live.on_change(move |_| heeding.look_again());
        tls::follow(tls)?;
    }
    let mut encrypted = encrypted.map(|bound| bound.listeners).into_iter().flatten();
    let doors = listeners.into_iter().map(|plain| Door { plain, tls: encrypted.next() });
    let links = LinkSettings { connector, ..link_settings(&config) };
    let shared = prepare(&config, live, authority, lock_settings(&config, &address), links, tls);
    if let Some(auditor) = &auditor {
        let registry = shared.registry.clone();
        let audit = auditor.audit().clone();
        shared.coordinator.events().are_audited(audit, move |id| Some(registry.find(id)?.peer.clone()));
    }
    let (stop, stopped) = watch::channel(Stop::No);
    let workers = doors.enumerate().map(|(number, door)| {
        let (shared, stopped) = (shared.clone(), stopped.clone());
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let run = AssertUnwindSafe(|| worker::run(shared, door, stopped, number == 0));
            match catch_unwind(run) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker ended"),
                Err(_) => {
                    // Its clients wait for nobody, and a door may be left at which nobody opens.
                    eprintln!(
                        "lockgate: a worker thread ended by a fault of Lockgate; the process ends, to be started again"
                    );
                    std::process::abort();
                }
            }
        })
    });
    let workers = workers.collect::<io::Result<_>>()?;
    Ok(Running { address, shared, stop, workers, path, auditor })
}

/// What the workers of a process share, before there are any.
fn prepare(
    config: &Config,
    live: Arc<LiveConfig>,
    authority: Authority,
    locks: LockSettings,
    links: LinkSettings,
    tls: Option<Arc<ServerTls>>,
) -> Arc<Shared> {
    let coordinator = Coordinator::new(locks);
    let own_in_use = Arc::new(AtomicUsize::new(0));
    coordinator.health().knows_pool(own_in_use.clone(), config.links.own_max);
    let heeding = coordinator.clone();
    let rules = Mutex::new(config.lock_keys.clone());
    live.on_change(move |config| {
        heeding.change_limits(&lock_limits(config));
        let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
        // Rules that stay keep their counts.
        if *rules != config.lock_keys {
            heeding.lock_keys().replace(Rules::of(&config.lock_keys));
            rules.clone_from(&config.lock_keys);
        }
    });
    Arc::new(Shared {
        topology: Topology::new(authority),
        live,
        links,
        lock_scripts: LockScripts::with(config.lock_scripts.iter().map(lock_script)),
        registry: Registry::new(config.limits.connections, config.limits.connections_per_address),
        coordinator,
        own_in_use,
        reached: Reached::default(),
        warmups: Warmups::default(),
        trust_clients: config.trust_clients,
        closes_when_away: config.when_away == WhenAway::Close,
        is_relay: config.links.shared == 0,
        output_max: config.limits.output_buffer.0,
        outboxes: Arc::new(AllOutboxes::new(config.limits.output_buffer.0.saturating_mul(OUTPUT_OF_ALL))),
        client_timeout: config.client_timeout.unwrap_or_default(),
        door: DoorRules {
            tls,
            handshake_timeout: config.limits.handshake_timeout.unwrap_or_default(),
            behind_proxies: config.limits.proxy_protocol.then(|| config.limits.proxy_trusted.clone()),
        },
        idle_timeout: config.limits.idle_timeout.unwrap_or_default(),
        knocks: Knocks::new(config.limits.auth_delay.unwrap_or_default()),
        is_draining: AtomicBool::new(false),
    })
}

impl Running {
    /// Where it listens, as a client would write it.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What runs, seen from beside the clients.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Waits until it is known which server is the master, for a moment at most: the first clients are not to be told that nobody is there
    /// because nobody was asked yet.
    pub fn knows_its_master(&self) -> bool {
        self.shared.topology.is_known_within(FIRST_ANSWER_MAX)
    }

    /// No new clients; idle ones are closed, running commands end, waiting calls are told. Returns when all clients
    /// have gone, or after `limit`.
    pub fn drain(self, limit: Duration) {
        let until = Instant::now() + limit;
        self.shared.is_draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(Stop::Drain);
        self.shared.coordinator.shut_down();
        while self.shared.registry.count() > 0 && Instant::now() < until {
            for card in self.shared.registry.all() {
                card.wake();
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        let left = self.shared.registry.count();
        if left > 0 {
            tracing::warn!(left, "drain_timeout is over; closing the clients that are still busy");
        }
        self.stop.send_replace(Stop::Now);
        for worker in self.workers {
            let _ = worker.join();
        }
        for (why, count) in self.shared.registry.own_links_taken().filter(|(_, count)| *count > 0) {
            tracing::debug!(why = why.name(), count, "own links taken");
        }
        if let Some(path) = self.path {
            let _ = std::fs::remove_file(path);
        }
        drop(self.auditor);
    }
}

fn lock_script(script: &config::Script) -> LockScript {
    let config::Script { sha1, arguments, value, ttl, granted, refused } = script;
    LockScript {
        sha1: sha1.0,
        arguments: *arguments,
        value: *value,
        ttl: *ttl,
        token_length: None,
        answers: ScriptAnswers { granted: granted.0, refused: refused.0 },
    }
}

fn link_settings(config: &Config) -> LinkSettings {
    LinkSettings {
        // Lockgate's own questions share links whatever the clients do.
        shared: config.links.shared.max(1),
        own_max: config.links.own_max,
        connect_timeout: config.links.connect_timeout,
        reply_timeout: config.links.reply_timeout,
        idle_timeout: config.links.idle_timeout.unwrap_or_default(),
        keepalive: config.links.keepalive.unwrap_or_default(),
        hold: config.links.hold,
        retry_base: config.links.retry_base,
        retry_max: config.links.retry_max,
        is_followed: matches!(config.upstream, Upstream::Sentinel(_)),
        replicas_seen: Arc::default(),
        connector: Connector::default(),
    }
}

fn lock_limits(config: &Config) -> LockLimits {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    LockLimits {
        default_ttl_ms: ms(config.default_ttl),
        max_ttl_ms: ms(config.max_ttl),
        max_wait_ms: ms(config.max_wait),
        max_queue: config.max_queue as u64,
        waiting_bytes: config.limits.waiting_bytes.0 as u64,
        owner_max: config.limits.owner.0 as u64,
        meta_max: config.limits.meta.0 as u64,
        promote_after_ms: ms(config.promote_after.unwrap_or_default()),
    }
}

fn lock_settings(config: &Config, address: &str) -> LockSettings {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let limits = lock_limits(config);
    LockSettings {
        default_ttl_ms: limits.default_ttl_ms.into(),
        max_ttl_ms: limits.max_ttl_ms.into(),
        max_wait_ms: limits.max_wait_ms.into(),
        max_queue: limits.max_queue,
        waiting_bytes: limits.waiting_bytes,
        owner_max: limits.owner_max.into(),
        meta_max: limits.meta_max.into(),
        promote_after_ms: limits.promote_after_ms,
        lock_keys: LockKeys::of(Rules::of(&config.lock_keys)),
        replicas: config.wait_replicas,
        fallback: config.fallback,
        deadlock_mode: match config.deadlock.mode {
            config::DeadlockMode::Detect => DeadlockMode::Detect,
            config::DeadlockMode::Prevent => DeadlockMode::Prevent,
            config::DeadlockMode::Off => DeadlockMode::Off,
        },
        victim: match config.deadlock.victim {
            config::VictimPolicy::LowestPriority => VictimPolicy::LowestPriority,
            config::VictimPolicy::Youngest => VictimPolicy::Youngest,
            config::VictimPolicy::FewestLocks => VictimPolicy::FewestLocks,
            config::VictimPolicy::Requester => VictimPolicy::Requester,
        },
        heartbeat_ms: ms(config.nodes.heartbeat),
        node_timeout_ms: ms(config.nodes.timeout),
        events_buffer: config.events.buffer,
        health: health::Limits {
            check_interval_ms: ms(config.health.check_interval),
            timeout_threshold_ms: ms(config.health.timeout_threshold),
            memory_threshold: config.health.memory_threshold.0,
            max_slow_queries: config.health.max_slow_queries as u64,
            error_threshold: config.health.error_threshold,
            recovery_threshold: config.health.recovery_threshold,
        },
        webhook: config.health.webhook.clone(),
        address: config.nodes.announce.clone().unwrap_or_else(|| address.to_owned()),
        seal: node_secret(config).map_or_else(Seal::default, |secret| Seal::of(secret.as_bytes())),
        node: config.nodes.id.clone().unwrap_or_else(random_node_id),
        ..LockSettings::default()
    }
}

/// What nodes of one upstream have in common, and others have not.
fn node_secret(config: &Config) -> Option<&str> {
    let password = match &config.upstream {
        Upstream::Standalone(endpoint) => endpoint.password.as_deref(),
        Upstream::Sentinel(sentinels) => sentinels.master.password.as_deref(),
        Upstream::Embedded => None,
    };
    config.nodes.secret.as_ref().map(|secret| secret.0.as_str()).or(password).filter(|secret| !secret.is_empty())
}

/// Host name and a random part, so that nodes of one host differ.
fn random_node_id() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    format!("{host}-{:08x}", RandomState::new().build_hasher().finish() as u32)
}
