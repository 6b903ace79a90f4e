//! One Lockgate: the real worker, sessions, lock engine and links, on a network, a clock and a runtime that are simulated.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::client::Wire;
use crate::config::{Config, LiveConfig};
use crate::domain::WallClock;
use crate::proxy::arrival::admit;
use crate::proxy::worker::Worker;
use crate::proxy::{link_settings, lock_settings, prepare};
use crate::upstream::dial::Connector;
use crate::upstream::pipe::pipe;
use crate::upstream::simulated::net;
use crate::upstream::socket::Socket;
use crate::upstream::topology::Authority;
use crate::upstream::url::{Address, Endpoint};

/// A process that runs, until it is killed.
pub struct Process {
    tasks: RefCell<Option<Rc<LocalSet>>>,
    worker: Rc<RefCell<Option<Rc<Worker>>>>,
    bell: Rc<Notify>,
    is_killed: Rc<Cell<bool>>,
    /// So many ms it is to stand still.
    stands_still_ms: Rc<Cell<u64>>,
    skew_us: Arc<AtomicI64>,
}

impl Process {
    /// Begins a process at `place`, as `config` says. Its clock is off by `skew_us`. It runs in `world`.
    pub fn begin(world: &LocalSet, place: net::Place, config: Config, origin_us: u64, skew_us: i64) -> Process {
        let tasks = Rc::new(LocalSet::new());
        let process = Process {
            tasks: RefCell::new(Some(tasks.clone())),
            worker: Rc::default(),
            bell: Rc::default(),
            is_killed: Rc::default(),
            stands_still_ms: Rc::default(),
            skew_us: Arc::new(AtomicI64::new(skew_us)),
        };
        let clock = clock(process.skew_us.clone(), origin_us);
        let slot = process.worker.clone();
        tasks.spawn_local(async move {
            let mut locks = lock_settings(&config, &format!("node-{place}"));
            locks.clock = clock;
            let mut links = link_settings(&config);
            links.connector = Connector::new(move |_| net::dial(place));
            let endpoint = Endpoint::at(Address::Tcp { host: "upstream".into(), port: 6379 });
            let live = Arc::new(LiveConfig::new(config.clone()));
            let worker = Worker::new(prepare(&config, live, Authority::One(endpoint), locks, links, None));
            tokio::task::spawn_local(worker.keep_watch());
            *slot.borrow_mut() = Some(worker);
        });
        let (bell, is_killed, pause) =
            (process.bell.clone(), process.is_killed.clone(), process.stands_still_ms.clone());
        world.spawn_local(async move {
            let mut tasks = Some(tasks);
            while let Some(running) = tasks.take() {
                running.run_until(bell.notified()).await;
                if is_killed.get() {
                    break;
                }
                // Stopped: nothing of it runs meanwhile.
                let ms = pause.take();
                if ms > 0 {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                tasks = Some(running);
            }
        });
        process
    }

    /// A client connects; `None` where nobody listens any more.
    pub fn connect(&self) -> Option<Wire> {
        let (near, far) = pipe();
        let slot = self.worker.clone();
        self.tasks.borrow().as_ref()?.spawn_local(async move {
            let worker = slot.borrow().clone();
            if let Some(worker) = worker {
                admit(&worker, Socket::Pipe(far));
            }
        });
        Some(Wire::new(near))
    }

    /// Stops it for so long, as SIGSTOP and SIGCONT do.
    pub fn stands_still(&self, ms: u64) {
        self.stands_still_ms.set(ms);
        self.bell.notify_one();
    }

    /// Its clock makes a step.
    pub fn steps(&self, us: i64) {
        self.skew_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Tells those who wait, gives back what is on its way, and says goodbye to the other nodes, as on SIGTERM.
    pub async fn leaves(&self) {
        let Some(worker) = self.worker() else { return };
        let coordinator = worker.coordinator();
        coordinator.shut_down();
        let _ = tokio::time::timeout(Duration::from_millis(500), coordinator.settled()).await;
        coordinator.leaves();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&self) {
        self.is_killed.set(true);
        self.tasks.take();
        self.worker.take();
        self.bell.notify_one();
    }

    /// The worker, for a look inside.
    pub fn worker(&self) -> Option<Rc<Worker>> {
        self.worker.borrow().clone()
    }
}

fn clock(skew_us: Arc<AtomicI64>, origin_us: u64) -> WallClock {
    let origin = Instant::now();
    WallClock::new(move || {
        let us = origin_us + u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        us.saturating_add_signed(skew_us.load(Ordering::Relaxed))
    })
}
