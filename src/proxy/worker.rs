//! One thread with a runtime of its own: its listener, its links, its sessions. Workers share the registry of clients
//! and the lock engine, and nothing that a plain command touches.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;

use super::arrival::{DoorRules, welcome};
use super::knocks::Knocks;
use super::listener::Door;
use super::registry::Registry;
use super::session::{AllOutboxes, Outbox};
use super::warmup::Warmups;
use crate::commands::lock_scripts::LockScripts;
use crate::config::LiveConfig;
use crate::coordinator::{Coordinator, Rules};
use crate::domain::Resp;
use crate::observe::fault::kept_up;
use crate::observe::memory;
use crate::upstream::dial::{Credentials, Identity, LinkKey};
use crate::upstream::links::{LinkSettings, Links};
use crate::upstream::peers::Peers;
use crate::upstream::router::{Common, Reached, Router, SCRATCH};
use crate::upstream::topology::Topology;

/// After so many tasks the runtime looks for news from the sockets: high, so that one look finds much and one write
/// upstream carries much.
const TASKS_PER_LOOK: u32 = 256;

/// How often a worker gives back memory that it has freed.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(3);

/// How often clients that send nothing are looked for: four times in what they have, within these bounds.
const IDLE_LOOK_MIN: Duration = Duration::from_millis(50);
const IDLE_LOOK_MAX: Duration = Duration::from_secs(1);

/// Longest wait at the end for locks that are being given back.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// What all workers have in common.
pub struct Shared {
    /// Who is master.
    pub topology: Topology,
    /// The configuration that is in force.
    pub live: Arc<LiveConfig>,
    /// How links are made.
    pub links: LinkSettings,
    /// Scripts of lock libraries that are taken for a `SET NX`.
    pub lock_scripts: LockScripts,
    /// All clients.
    pub registry: Arc<Registry>,
    /// The lock engine.
    pub coordinator: Arc<Coordinator>,
    /// Own links in use.
    pub own_in_use: Arc<AtomicUsize>,
    /// Dials that reached the upstream.
    pub reached: Reached,
    /// The way to all workers, for those who want links dialled.
    pub warmups: Warmups,
    /// While the upstream is away clients see their connection end, and no error.
    pub closes_when_away: bool,
    /// Every client has a link of its own for as long as it is there.
    pub is_relay: bool,
    /// Clients act with the credentials of the upstream's URL.
    pub trust_clients: bool,
    /// Most bytes of replies that wait for one client.
    pub output_max: usize,
    /// And of those that wait for all.
    pub outboxes: Arc<AllOutboxes>,
    /// A client that is silent on the network for so long is gone.
    pub client_timeout: Duration,
    /// What is asked of those who come.
    pub door: DoorRules,
    /// A client that has sent nothing for so long is closed; zero is never.
    pub idle_timeout: Duration,
    /// Wrong passwords.
    pub knocks: Knocks,
    /// No new clients; idle ones close.
    pub is_draining: AtomicBool,
}

/// One worker, seen from its sessions.
pub struct Worker {
    shared: Arc<Shared>,
    router: Rc<Router>,
    /// Its clients that may vanish.
    clients: Rc<Peers>,
    /// And the version that they are a copy of.
    rules: RefCell<(u64, Rc<Rules>)>,
    lock_scripts: Rc<LockScripts>,
}

impl Worker {
    /// A worker of this thread, in whose `LocalSet` it is made.
    pub fn new(shared: Arc<Shared>) -> Rc<Worker> {
        let scratch = Rc::new(RefCell::new(vec![0; SCRATCH].into_boxed_slice()));
        let (registry, coordinator, doubting) = (shared.registry.clone(), shared.coordinator.clone(), shared.clone());
        let common = Common {
            endpoint: shared.topology.endpoint().clone(),
            settings: shared.links.clone(),
            scratch,
            own_in_use: shared.own_in_use.clone(),
            reached: shared.reached.clone(),
            on_dialled: Rc::new(move |time_us| coordinator.met_master_again(time_us)),
            on_revoked: Rc::new(move |user| registry.kill_user(user)),
            on_doubt: Rc::new(move |()| doubting.topology.is_in_doubt()),
        };
        let router = Router::new(common, shared.topology.master());
        let keys = shared.coordinator.lock_keys();
        let rules = RefCell::new((keys.version(), Rc::new(keys.read(Rules::clone))));
        let clients = Peers::new(shared.client_timeout);
        let lock_scripts = Rc::new(shared.lock_scripts.clone());
        Rc::new(Worker { rules, lock_scripts, shared, router, clients })
    }

    /// Keeps the process in touch with the upstream and the other nodes, until the node leaves. One worker does.
    pub fn keep_watch(&self) -> impl Future<Output = ()> + 'static {
        self.coordinator().clone().keep_watch(self.router.clone())
    }

    /// Its way to the upstream.
    pub fn router(&self) -> &Rc<Router> {
        &self.router
    }

    /// Its links to the present master.
    pub fn links(&self) -> Rc<Links> {
        self.router.master()
    }

    /// Its clients, which are closed when they have vanished.
    pub fn clients(&self) -> &Peers {
        &self.clients
    }

    /// All clients of the process.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// The lock engine.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.shared.coordinator
    }

    /// The configuration that is in force.
    pub fn config(&self) -> &LiveConfig {
        &self.shared.live
    }

    /// This thread's copy of the rules for lock keys, made anew when they have changed.
    pub fn rules(&self) -> Rc<Rules> {
        let keys = self.shared.coordinator.lock_keys();
        let version = keys.version();
        let mut copy = self.rules.borrow_mut();
        if copy.0 != version {
            *copy = (version, Rc::new(keys.read(Rules::clone)));
        }
        copy.1.clone()
    }

    /// Scripts of lock libraries that are taken for a `SET NX`.
    pub fn lock_scripts(&self) -> &Rc<LockScripts> {
        &self.lock_scripts
    }

    /// While the upstream is away clients see their connection end, and no error.
    pub fn closes_when_away(&self) -> bool {
        self.shared.closes_when_away
    }

    /// Every client has a link of its own for as long as it is there.
    pub fn is_relay(&self) -> bool {
        self.shared.is_relay
    }

    /// Where replies wait for one client.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.shared.output_max, &self.shared.outboxes)
    }

    /// What is asked of those who come.
    pub fn door(&self) -> &DoorRules {
        &self.shared.door
    }

    /// Wrong passwords.
    pub fn knocks(&self) -> &Knocks {
        &self.shared.knocks
    }

    /// A client that is silent on the network for so long is gone.
    pub fn client_timeout(&self) -> Duration {
        self.shared.client_timeout
    }

    /// A client that has sent nothing for so long is closed; zero is never.
    pub fn idle_timeout(&self) -> Duration {
        self.shared.idle_timeout
    }

    /// The process is about to end.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Relaxed)
    }

    /// What a connection speaks before it has said anything, and before the upstream was asked whether it may.
    /// A client whose certificate names a `user` is that one, as far as the upstream lets it in without a password.
    pub fn initial_key(&self, user: Option<&str>) -> LinkKey {
        let identity = match user {
            Some(user) => Identity::Named(Rc::new(Credentials { user: Some(user.into()), password: Vec::new() })),
            None if self.shared.trust_clients => Identity::Service,
            None => Identity::Stranger,
        };
        LinkKey { identity, db: self.router.default_db(), resp: Resp::V2 }
    }
}

/// Runs a worker on this thread until `stop` says so. One of them keeps the process in touch with the upstream and the other nodes.
pub fn run(shared: Arc<Shared>, door: Door, mut stop: watch::Receiver<Stop>, keeps_watch: bool) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TASKS_PER_LOOK).build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let worker = Worker::new(shared);
        tokio::task::spawn_local(kept_up("giving back memory", async || {
            loop {
                tokio::time::sleep(GIVE_BACK_EVERY).await;
                memory::give_back();
            }
        }));
        let (warming, mut warmups) = (worker.clone(), worker.shared.warmups.of_worker());
        tokio::task::spawn_local(kept_up("dialling links before they are needed", async move || {
            while let Some(asked) = warmups.recv().await {
                let links = warming.links();
                // Whoever asked may have left.
                let _ = asked.send(links.warm_up());
            }
        }));
        let watch = keeps_watch.then(|| tokio::task::spawn_local(worker.keep_watch()));
        let idle_timeout = worker.idle_timeout();
        if keeps_watch && !idle_timeout.is_zero() {
            let registry = worker.registry().clone();
            tokio::task::spawn_local(kept_up("closing idle clients", async move || {
                loop {
                    tokio::time::sleep((idle_timeout / 4).clamp(IDLE_LOOK_MIN, IDLE_LOOK_MAX)).await;
                    registry.look_for_idle(idle_timeout);
                }
            }));
        }
        let following = worker.shared.clone();
        if keeps_watch {
            tokio::task::spawn_local(kept_up("following the topology", async move || {
                following.topology.keep_up(following.links.clone()).await;
            }));
        }
        let door = match door.open() {
            Ok(door) => door,
            Err(error) => {
                tracing::error!(%error, "a worker cannot listen");
                return Err(error);
            }
        };
        kept_up("taking new clients", async || {
            loop {
                tokio::select! {
                    arrival = door.accept() => welcome(&worker, arrival),
                    _ = stop.wait_for(|stop| *stop != Stop::No) => break,
                }
            }
        })
        .await;
        drop(door);
        let _ = stop.wait_for(|stop| *stop == Stop::Now).await;
        // Ephemeral locks of those who have just left, and grants on their way to them, are given on first.
        let _ = tokio::time::timeout(SETTLE_MAX, worker.coordinator().settled()).await;
        if let Some(watch) = watch {
            worker.coordinator().leaves();
            let _ = tokio::time::timeout(SETTLE_MAX, watch).await;
        }
        Ok(())
    })
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Serve.
    No,
    /// Take no new clients.
    Drain,
    /// End the thread.
    Now,
}
