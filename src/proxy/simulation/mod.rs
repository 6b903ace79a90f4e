//! Whole days of several Lockgates, seeded: the real sessions, lock engine, scripts and links of one to three processes, before a
//! model of Redis that runs the real Lua, on a network, clocks and a runtime that are simulated. Nothing here waits for the real time:
//! when nobody has anything to do, the clock jumps to the next thing that is due, and the same seed plays the same day again.
//!
//! People take locks in every way there is, wait, cross one another, hang up and come back; faults break what connects them. The judge
//! sees each change upstream in the moment it happens and each answer in the moment it is heard; see `judge.rs` for the rules.
//!
//! What one lock's queue does in every order of events is played far more often by `src/locks/simulation`, which has a line but no
//! process around it.

mod client;
mod coverage;
mod faults;
mod judge;
mod panics;
mod people;
mod plan;
mod process;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use self::client::{Said, Wire};
use self::coverage::{Coverage, Question};
use self::judge::{Counts, Judge};
use self::people::{Client, Past};
use self::plan::Plan;
use self::process::Process;
use crate::protocol::args::encode_command;
use crate::upstream::simulated::net::Net;
use crate::upstream::simulated::server::{Cause, Change};

/// When each day begins, Unix µs.
const BEGINS_US: u64 = 1_763_740_000_000_000;
/// How often the judge looks for what takes too long.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// After the last person has gone, all leases, places and registrations are over within this.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// One day.
pub struct World {
    plan: Plan,
    seed: u64,
    net: Rc<Net>,
    tasks: Rc<LocalSet>,
    judge: RefCell<Judge>,
    processes: RefCell<Vec<Option<Process>>>,
    /// Holds that were let go of.
    past: RefCell<Vec<Past>>,
    /// Rings whenever a lock changes.
    changes: Notify,
    /// And where one step has taken several.
    taken_together: Notify,
    /// One for each person: rings when the upstream has given him what he waits for, before he can know.
    bells: Vec<Notify>,
    /// The connection of those who go around Lockgate.
    side: Cell<u64>,
    coverage: RefCell<Coverage>,
    is_over: Cell<bool>,
    connections: Cell<u64>,
    lives: Cell<u64>,
}

impl World {
    fn new(seed: u64, tells: bool, tasks: Rc<LocalSet>) -> Rc<World> {
        let mut dice = fastrand::Rng::with_seed(seed);
        let plan = Plan::draw(&mut dice);
        // What the code itself draws.
        fastrand::seed(seed);
        let net = Net::install(tasks.clone(), seed ^ 0x5eed, BEGINS_US);
        let judge = Judge::new(seed, tells, plan.clone());
        judge.say(|| format!("{plan:?}"));
        let world = Rc::new(World {
            seed,
            net: net.clone(),
            tasks,
            judge: RefCell::new(judge),
            processes: RefCell::default(),
            past: RefCell::default(),
            changes: Notify::new(),
            taken_together: Notify::new(),
            coverage: RefCell::default(),
            bells: (0..plan.people).map(|_| Notify::new()).collect(),
            side: Cell::new(net.serve(|server| server.connects())),
            is_over: Cell::new(false),
            connections: Cell::new(0),
            lives: Cell::new(0),
            plan,
        });
        // LOCKGATE_WIRE=1 shows what the nodes ask the upstream, too.
        world.net.serve(|server| server.is_told = tells && number("LOCKGATE_WIRE").is_some());
        let (weak, listened) = (Rc::downgrade(&world), net);
        listened.on_changes(move |changes, _| {
            let Some(world) = weak.upgrade() else { return };
            for change in changes {
                let is_ours = !matches!(change.cause, Cause::Client(client) if client == world.side.get());
                let mut judge = world.judge.borrow_mut();
                judge.changed(change, is_ours);
                if let Some(person) = judge.who_is_given(&change.key) {
                    world.bells[person].notify_waiters();
                }
            }
            let is_lock = |change: &&Change| !change.key.starts_with(b"lockgate:");
            let taken = changes.iter().filter(is_lock).filter(|change| change.after.is_some()).count();
            if changes.iter().any(|change| is_lock(&change)) {
                world.changes.notify_waiters();
            }
            if taken > 1 {
                world.taken_together.notify_waiters();
            }
        });
        world
    }

    fn is_over(&self) -> bool {
        self.is_over.get()
    }

    fn judge<T>(&self, work: impl FnOnce(&mut Judge) -> T) -> T {
        let mut judge = self.judge.borrow_mut();
        judge.now(self.net.unix_us());
        work(&mut judge)
    }

    /// How a key stood when something was asked, and what came of it.
    fn saw(&self, question: &Question, said: Option<&Said>) {
        self.coverage.borrow_mut().saw(question, said);
    }

    fn next_connection(&self) -> u64 {
        self.connections.set(self.connections.get() + 1);
        self.connections.get()
    }

    /// A client connects to a node that is there.
    fn connects(&self, dice: &mut fastrand::Rng) -> Option<Wire> {
        let processes = self.processes.borrow();
        let living: Vec<usize> = (0..processes.len()).filter(|at| processes[*at].is_some()).collect();
        let node = *living.get(dice.usize(..living.len().max(1)))?;
        processes[node].as_ref()?.connect()
    }

    /// Somebody asks the upstream directly.
    fn bypasses(&self, words: &[&[u8]]) {
        let mut request = Vec::new();
        encode_command(words, &mut request);
        self.net.serve(|server| {
            if !server.has_client(self.side.get()) {
                self.side.set(server.connects());
            }
            server.hears(self.side.get(), &request);
            server.take_output(self.side.get());
        });
    }

    fn begins(&self, place: usize, name: String, skew_us: i64) {
        self.lives.set(self.lives.get() + 1);
        let process = Process::begin(&self.tasks, place, self.plan.config(name), self.net.unix_us(), skew_us);
        self.net.takes_up_to(place, self.plan.longest_way_ms);
        let mut processes = self.processes.borrow_mut();
        if processes.len() <= place {
            processes.resize_with(place + 1, || None);
        }
        processes[place] = Some(process);
    }

    async fn lives(self: Rc<Self>) -> (Counts, Coverage) {
        let mut dice = fastrand::Rng::with_seed(self.seed ^ 0xd1ce);
        for place in 0..self.plan.nodes {
            self.begins(place, format!("n{place}"), dice.i64(-2_000_000..2_000_000));
        }
        let people: Vec<_> = (0..self.plan.people)
            .map(|number| self.tasks.spawn_local(Client::new(self.clone(), number, dice.u64(..)).lives()))
            .collect();
        let faults = self.tasks.spawn_local(faults::happen(self.clone(), dice.u64(..)));
        self.goes_on_for(Duration::from_millis(self.plan.day_ms)).await;
        self.is_over.set(true);
        let mut tasks = people;
        tasks.push(faults);
        while !tasks.iter().all(JoinHandle::is_finished) {
            self.goes_on_for(LOOKS_EVERY).await;
        }
        for task in tasks {
            // A judge's verdict comes before whatever it broke off.
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.goes_on_for(ENDS_WITHIN).await;
        self.nothing_is_left().await;
        (self.judge(|judge| judge.counts), self.coverage.take())
    }

    /// So much time passes, while the judge looks around.
    async fn goes_on_for(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(LOOKS_EVERY).await;
            self.net.serve(|_| ());
            let now_us = self.net.unix_us();
            let looks = std::panic::AssertUnwindSafe(|| self.judge.borrow_mut().time(now_us));
            let _ = std::panic::catch_unwind(looks);
            if let Some(verdict) = self.judge.borrow().verdict() {
                panic!("{verdict}");
            }
        }
    }

    /// Everybody has gone, and all is over.
    async fn nothing_is_left(&self) {
        self.judge(|judge| judge.ends_well());
        if self.judge(|judge| judge.had_disaster) {
            // A replica may have brought back what it had not seen removed.
            let node = self.processes.borrow().iter().flatten().next().and_then(Process::connect);
            let Some(mut node) = node else { panic!("seed {}: no node is left", self.seed) };
            let said = node.ask(&["LOCK.CLEANUP"]).await;
            assert!(matches!(said, Some(Said::Number(_))), "seed {}: CLEANUP says {said:?}", self.seed);
        }
        let left: Vec<String> =
            self.net.serve(|server| server.keys()).into_iter().map(|(_, key)| key.escape_ascii().to_string()).collect();
        let is_known = |key: &String| key == "lockgate:fence" || key == "lockgate:leader" || key.starts_with("data:");
        assert!(left.iter().all(is_known), "seed {}: left behind are {left:?}", self.seed);
        for (place, process) in self.processes.borrow().iter().enumerate() {
            let Some(worker) = process.as_ref().and_then(Process::worker) else { continue };
            let left = worker.coordinator().left_over();
            assert!(left.is_empty(), "seed {}: node {place} keeps {left:?}", self.seed);
        }
    }
}

/// Plays the day of `seed`.
fn play(seed: u64, tells: bool) -> (Counts, Coverage) {
    in_world(seed, tells, World::lives)
}

/// Does something in the world of `seed`, before anybody lives there.
fn in_world<F: Future>(seed: u64, tells: bool, work: impl FnOnce(Rc<World>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    let tasks = Rc::new(LocalSet::new());
    let outcome = tasks.block_on(&runtime, async { work(World::new(seed, tells, tasks.clone())).await });
    Net::remove();
    outcome
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many days are played where nobody asks for more.
const SEEDS: u64 = 300;

#[test]
fn no_day_breaks_a_promise() {
    if let Some(seed) = number("LOCKGATE_DAY") {
        eprintln!("{:?}", play(seed, true).0);
        return;
    }
    let first = number("LOCKGATE_FIRST_DAY").unwrap_or(0);
    let (next, last) = (AtomicU64::new(first), first + number("LOCKGATE_DAYS").unwrap_or(SEEDS));
    let (failed, sum) = (Mutex::new(Vec::new()), Mutex::new((Counts::default(), Coverage::default())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while failed.lock().is_ok_and(|failed| failed.is_empty()) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    match std::panic::catch_unwind(|| play(seed, false)) {
                        Ok((counts, coverage)) => {
                            let mut sum = sum.lock().expect("nobody panics with it");
                            sum.0.add(counts);
                            sum.1.add(coverage);
                        }
                        Err(_) => failed.lock().expect("nobody panics with it").push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    let (counts, coverage) = sum.into_inner().expect("nobody panics with it");
    println!("{}{} days: {counts:?}", coverage.report(), last - first);
    let is_slice = number("LOCKGATE_DAYS").is_none() && first == 0 && failed.is_empty();
    let missing = if is_slice { coverage.missing() } else { Vec::new() };
    assert!(missing.is_empty(), "the days do not show all that they are to show: {missing:#?}");
    if let Some(seed) = failed.iter().min() {
        panic!("day {seed} failed; LOCKGATE_DAY={seed} cargo test --lib no_day -- --nocapture tells its story");
    }
}

/// Whatever the clocks of nodes say, fences go by the upstream's (found by day 906).
#[test]
fn fences_grow_over_a_flush_though_a_node_whose_clock_is_ahead_has_just_begun() {
    in_world(0, false, |world| async move {
        let acquire = async |place: usize, skew_us: i64| {
            world.begins(place, format!("n{place}"), skew_us);
            let mut wire = world.processes.borrow()[place].as_ref().and_then(Process::connect).expect("it listens");
            wire.ask(&["LOCK.ACQUIRE", "k", "ann"]).await
        };
        let first = acquire(0, 5_000_000).await;
        world.net.serve(|server| server.flush());
        let (Some(Said::Number(first)), Some(Said::Number(then))) = (first, acquire(1, 0).await) else {
            panic!("both are granted");
        };
        assert!(then > first, "{then} comes after {first}");
    });
}

#[test]
fn the_same_seed_plays_the_same_day() {
    for seed in 0..10 {
        let (one, other) = (play(seed, false), play(seed, false));
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "seed {seed}");
    }
}
