//! One run: a server, two nodes behind faulty relays, clients, faults; from the first call to the last key that has to be gone.

use super::check;
use super::client::Client;
use super::faults::{Mishaps, NodeParts, Parts};
use super::foreign;
use super::gate::Gate;
use super::libraries;
use super::namespace;
use super::people::{Manner, Person, SET_NX_WAIT_MS, TICKET_KEY, TICKET_MS, World, data_key, guarded_key};
use super::record::{self, End, Record, Recorder, Setup};
use super::servers::{Keeps, Servers, Side};
use super::watchers;
use crate::common::{Lockgate, Reply, ServerKind, Wire, within};
use fastrand::Rng;
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What kind of a run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    pub server: ServerKind,
    pub manner: Manner,
    /// Things break.
    pub has_faults: bool,
    /// Locks are taken from their holders, by FORCE and by DEL around Lockgate.
    pub is_rough: bool,
    /// redis-py and ioredis take part.
    pub has_libraries: bool,
    /// In a network namespace, where packets can be lost.
    pub in_namespace: bool,
    pub mishaps: Mishaps,
}

const CALM: Variant = Variant {
    name: "calm",
    server: ServerKind::Redis70,
    manner: Manner::Busy,
    has_faults: false,
    is_rough: false,
    has_libraries: false,
    in_namespace: false,
    mishaps: Mishaps::Stops,
};

impl Variant {
    pub const ALL: [Self; 12] = [
        CALM,
        Self { name: "stormy", has_faults: true, ..CALM },
        Self { name: "stormy-8.2", has_faults: true, server: ServerKind::Redis82, ..CALM },
        Self { name: "rough", is_rough: true, ..CALM },
        Self { name: "stormy-valkey", has_faults: true, is_rough: true, server: ServerKind::Valkey91, ..CALM },
        Self { name: "libraries", has_libraries: true, ..CALM },
        Self { name: "libraries-stormy", has_libraries: true, has_faults: true, ..CALM },
        Self { name: "namespace", has_faults: true, in_namespace: true, ..CALM },
        Self { name: "quiet", manner: Manner::Quiet, ..CALM },
        Self { name: "leaving", manner: Manner::Leaving, ..CALM },
        Self { name: "restart", has_faults: true, mishaps: Mishaps::Restarts, ..CALM },
        Self { name: "failover", has_faults: true, mishaps: Mishaps::Failovers, ..CALM },
    ];

    pub fn of_seed(seed: u64) -> Self {
        let all = Self::ALL.len() as u64;
        let variant = Self::ALL[usize::try_from(seed % all).unwrap()];
        if variant.mishaps != Mishaps::Stops && seed / all % 2 == 1 {
            // Nobody else comes along who could wake those whom the server's end has left asleep.
            return Self { manner: Manner::Quiet, ..variant };
        }
        variant
    }
}

const NODE_TIMEOUT_MS: u64 = 1000;
const PLACE_KEPT_MS: u64 = 5000;
const PEOPLE: usize = 10;
const QUIET_PEOPLE: usize = 7;
/// A call that has no answer so long after everything was mended will never have one.
const MENDED_FOR: Duration = Duration::from_secs(40);
/// Leases, places and registrations are over by then.
const ALL_GONE: Duration = Duration::from_secs(60);

/// Runs it for about `lasts`; returns what was written down.
pub fn run(seed: u64, variant: Variant, lasts: Duration) -> Vec<Record> {
    if !variant.in_namespace {
        return Run::new(seed, variant, lasts).goes();
    }
    // Its network is a thread's own, and that of whatever it starts.
    std::thread::scope(|scope| {
        let in_network = scope.spawn(|| match namespace::enter() {
            Ok(()) => Run::new(seed, variant, lasts).goes(),
            Err(why) => {
                eprintln!("no network of our own here ({why}); the relays alone break links");
                Run::new(seed, Variant { in_namespace: false, ..variant }, lasts).goes()
            }
        });
        in_network.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Run {
    seed: u64,
    variant: Variant,
    lasts: Duration,
    servers: Arc<Servers>,
    recorder: Arc<Recorder>,
    parts: Parts,
}

impl Run {
    fn new(seed: u64, variant: Variant, lasts: Duration) -> Self {
        let bind = ["--bind", "127.0.0.1", "127.0.1.1", "127.0.1.2"];
        let keeps = match variant.mishaps {
            Mishaps::Restarts if Self::rng_of(seed, 2).bool() => Keeps::Log,
            Mishaps::Restarts => Keeps::Snapshot,
            Mishaps::Stops | Mishaps::Failovers => Keeps::Nothing,
        };
        let has_replica = variant.mishaps == Mishaps::Failovers;
        let extra: &[&str] = if variant.in_namespace { &bind } else { &[] };
        let servers = Arc::new(Servers::start(variant.server, keeps, has_replica, extra));
        let recorder = Arc::new(Recorder::new(Setup {
            seed,
            variant: variant.name.into(),
            server: variant.server.name().into(),
            node_timeout_ms: NODE_TIMEOUT_MS,
            place_kept_ms: PLACE_KEPT_MS,
        }));
        let nodes = (0..2).map(|number| node(number, variant, servers.port())).collect();
        let parts = Parts {
            recorder: Arc::clone(&recorder),
            nodes,
            servers: Arc::clone(&servers),
            side: Mutex::new(Side::to(&servers)),
            mishaps: variant.mishaps,
            in_namespace: variant.in_namespace,
        };
        Self { seed, variant, lasts, servers, recorder, parts }
    }

    fn rng(&self, of: u64) -> Rng {
        Self::rng_of(self.seed, of)
    }

    fn rng_of(seed: u64, of: u64) -> Rng {
        Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(of))
    }

    fn goes(self) -> Vec<Record> {
        let doors: Vec<SocketAddr> = self.parts.nodes.iter().map(|node| node.door.addr()).collect();
        let over_at = Instant::now() + self.lasts;
        let gives_up = over_at + MENDED_FOR;
        let (storm_over, all_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let keys: Vec<String> = (0..3).map(|number| format!("h:{number}")).collect();
        let all_keys: Vec<String> = keys.iter().cloned().chain([TICKET_KEY.to_owned()]).collect();
        let mut look = Wire::connect(doors[0]);
        let world = Arc::new(World {
            recorder: Arc::clone(&self.recorder),
            keys: keys.clone(),
            over_at,
            board: Mutex::default(),
            manner: self.variant.manner,
            is_rough: self.variant.is_rough,
            has_family: !look.run("LOCK.FORCE").text().contains("unknown command"),
        });
        std::thread::scope(|scope| {
            let client = |node| Client::new(&self.recorder, &doors, node, gives_up);
            scope.spawn(|| watchers::looks(&self.recorder, &all_keys, Side::to(&self.servers), &all_over));
            for node in 0..2 {
                let client = client(node);
                let all_over = &all_over;
                scope.spawn(move || watchers::ticks(client, node, all_over));
                let (client, rng) = (Client::new(&self.recorder, &doors, node, gives_up), self.rng(50 + node as u64));
                let world = &world;
                // Whoever asks for a place makes a node look at the key, and wakes who was forgotten there.
                if self.variant.manner != Manner::Quiet {
                    scope.spawn(move || watchers::asks_places(world, client, rng, all_over));
                }
            }
            let people = if self.variant.manner == Manner::Quiet { QUIET_PEOPLE } else { PEOPLE };
            let people = (0..people).map(|number| {
                let person = Person {
                    world: Arc::clone(&world),
                    number,
                    rng: self.rng(100 + number as u64),
                    client: client(number % 2),
                    side: Side::to(&self.servers),
                    sessions: 0,
                    unsure_of: None,
                };
                scope.spawn(|| person.lives())
            });
            let people: Vec<_> = people.collect();
            let libraries = self
                .variant
                .has_libraries
                .then(|| scope.spawn(|| libraries::take_part(&self.recorder, self.seed, &doors, &keys, self.lasts)));
            let storm = self.variant.has_faults.then(|| {
                let rng = self.rng(1);
                let storm_over = &storm_over;
                let parts = &self.parts;
                scope.spawn(move || parts.break_things(rng, storm_over))
            });
            // The last part is calm, so that promptness after a storm can be judged.
            std::thread::sleep((self.lasts * 2 / 3).min(over_at.saturating_duration_since(Instant::now())));
            storm_over.store(true, Ordering::SeqCst);
            let mut panics: Vec<_> = storm.into_iter().filter_map(|storm| storm.join().err()).collect();
            panics.extend(people.into_iter().chain(libraries).filter_map(|person| person.join().err()));
            all_over.store(true, Ordering::SeqCst);
            if let Some(panic) = panics.pop() {
                record::save(&self.recorder.all(), &recording(self.seed));
                std::panic::resume_unwind(panic);
            }
        });
        self.looks_back(&all_keys);
        self.recorder.all()
    }

    /// Waits until everything is gone that has to go, and writes down what is not.
    fn looks_back(&self, keys: &[String]) {
        let mut side = Side::to(&self.servers);
        let mut end = End::default();
        let mut is_clean = || {
            end.left = leftovers(&mut side);
            let told = self.waited_for(keys);
            end.waited_for = told.clone().unwrap_or_default();
            end.left.is_empty() && told.is_some_and(|waited_for| waited_for.is_empty())
        };
        let went = within(ALL_GONE, || is_clean().then_some(()));
        if went.is_none() && self.variant.mishaps == Mishaps::Failovers {
            // A registration that was removed in what the new master never had is there once more, when he who waited has long gone.
            let before = leftovers(&mut Side::to(&self.servers));
            let cleaned = self.parts.nodes.iter().map(|node| Wire::connect(node.door.addr()).run("LOCK.CLEANUP"));
            let cleaned: Vec<Reply> = cleaned.collect();
            if is_clean() {
                eprintln!("seed {}: LOCK.CLEANUP removed {cleaned:?}, of {before:?}", self.seed);
            }
        }
        end.at_us = self.recorder.now_us();
        let mut read = |words: &[&str]| match side.asks(words) {
            Reply::Bulk(number) => Some(String::from_utf8_lossy(&number).parse().unwrap()),
            _ => None,
        };
        for key in keys {
            end.data.extend(read(&["HGET", &data_key(key), "number"]).map(|number| (key.clone(), number)));
            end.guarded.extend(read(&["GET", &guarded_key(key)]).map(|number| (key.clone(), number)));
        }
        self.recorder.note(Record::End(end));
        self.keep_logs();
    }

    /// Keys somebody waits for, as the nodes say; `None` where one could not answer.
    fn waited_for(&self, keys: &[String]) -> Option<Vec<String>> {
        let mut waited_for = Vec::new();
        for (number, node) in self.parts.nodes.iter().enumerate() {
            let mut look = Wire::connect(node.door.addr());
            for key in keys {
                match look.call_reply(&["LOCK.INFO", key]) {
                    Reply::Error(_) => return None,
                    info if info.field("waiters") == Reply::Int(0) => {}
                    info => waited_for.push(format!("node {number}: {info:?}")),
                }
            }
        }
        Some(waited_for)
    }

    fn keep_logs(&self) {
        for node in &self.parts.nodes {
            let mut wrote = node.wrote.lock().unwrap().clone();
            if let Some(lockgate) = node.lockgate.lock().unwrap().as_ref() {
                wrote += &lockgate.wrote();
            }
            let name = format!("{}.{}.log", self.seed, node.name);
            std::fs::write(record::folder().join(name), wrote).unwrap();
        }
    }
}

/// Keys that have no business on the server when all locks are free and nobody waits, with what is in them. Several nodes keep a
/// leader.
fn leftovers(side: &mut Side) -> Vec<String> {
    let keys = side.asks(&["KEYS", "*"]);
    let mut names: Vec<String> = keys.items().iter().map(Reply::text).collect();
    names.retain(|name| name != "lockgate:fence" && name != "lockgate:leader" && !name.starts_with("data:"));
    names.sort();
    let tells = |name: String| {
        let read = if name.starts_with("lockgate:q:") { "HGETALL" } else { "GET" };
        format!("{name} = {:?}", side.asks(&[read, &name]))
    };
    names.into_iter().map(tells).collect()
}

fn node(number: usize, variant: Variant, server_port: u16) -> NodeParts {
    let host = if variant.in_namespace { namespace::server_address(number) } else { "127.0.0.1".into() };
    let upstream = Gate::before(format!("{host}:{server_port}").parse().unwrap());
    let url = format!("redis://{}", upstream.addr());
    let starts = move |name: &str| Lockgate::serve(&["--upstream", &url], Some(&config(name)));
    let name = ["a", "b"][number].to_owned();
    let lockgate = starts(&name);
    NodeParts {
        door: Gate::before(lockgate.addr()),
        lockgate: Mutex::new(Some(lockgate)),
        starts: Box::new(starts),
        name,
        upstream,
        wrote: Mutex::default(),
    }
}

/// Everything that waits for a broken part is short, so that much can break in a run.
fn config(name: &str) -> String {
    format!(
        "admin = \"off\"\n[nodes]\nid = \"{name}\"\nheartbeat = \"200ms\"\ntimeout = \"{NODE_TIMEOUT_MS}ms\"\n\
         [links]\nconnect_timeout = \"1s\"\nreply_timeout = \"1s\"\nretry_base = \"20ms\"\nretry_max = \"300ms\"\n\
         [[lock_keys]]\nmatch = \"h:*\"\nwait = \"{SET_NX_WAIT_MS}ms\"\n\
         [[lock_keys]]\nmatch = \"{TICKET_KEY}\"\npoll_ticket = \"{TICKET_MS}ms\"\n"
    )
}

fn recording(seed: u64) -> PathBuf {
    record::folder().join(format!("{seed}.jsonl"))
}

/// Runs and checks one history; a failure names the seed, and its recording stays. Returns what it amounted to.
pub fn judge(seed: u64, variant: Variant, lasts: Duration) -> Result<check::Count, String> {
    let again = format!("the same draws again: LOCKGATE_HISTORY_SEED={seed} cargo test --test histories seeds");
    let history = catch_unwind(|| run(seed, variant, lasts)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| said.to_string())).unwrap_or_default();
        format!("seed {seed} ({}) did not come to its end: {said}\n{again}", variant.name)
    })?;
    let path = recording(seed);
    record::save(&history, &path);
    let (mut found, mut count) = check::check(&history);
    let (foreign, judged) = foreign::judge(&history);
    found.extend(foreign);
    count.linearized += judged.operations;
    count.undecided += judged.undecided;
    if found.is_empty() {
        return Ok(count);
    }
    let shown: Vec<String> = found.iter().take(5).map(|violation| format!("- {violation}")).collect();
    Err(format!(
        "seed {seed} ({}): {} violations\n{}\n{again}\n\
         the same recording again: LOCKGATE_HISTORY_FILE={} cargo test --test histories recording",
        variant.name,
        found.len(),
        shown.join("\n"),
        path.display()
    ))
}

/// A good history need not be kept where there are many.
pub fn forget(seed: u64) {
    let Ok(folder) = std::fs::read_dir(record::folder()) else { return };
    let begins = format!("{seed}.");
    for file in folder.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(&begins)) {
        let _ = std::fs::remove_file(file.path());
    }
}
