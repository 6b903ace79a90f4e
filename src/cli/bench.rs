//! `lockgate bench`: how fast locks are here; alone, in line for one key, and, for comparison, by polling `SET NX` as clients do without a
//! queue. Each connection is a thread of its own, as a client is.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::FAILURE;
use super::client::{Client, Place};
use super::table::table;
use crate::protocol::frame::{Value, decode};

/// Connecting, and an answer that needs no wait, may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The lease of every lock, in ms: what a killed bench leaves behind.
const LEASE_MS: &str = "10000";
/// How long somebody who polls waits between two tries, as libraries do.
const POLLS_EVERY: Duration = Duration::from_millis(50);
/// How long the lock is held where all want the same; as long each does something else behind it.
const HOLD: Duration = Duration::from_millis(5);
/// Releases a polled lock, if it is still one's own.
const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// What was asked for.
pub(super) struct Bench {
    pub place: Place,
    /// Of each of the three parts.
    pub duration: Duration,
    pub connections: usize,
    /// Locks a second in all in the first part, whatever the answers take; `None`: each connection asks when it has its answer.
    pub rate: Option<u32>,
    pub as_json: bool,
}

/// The three parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Each connection has a key of its own.
    Alone,
    /// All stand in line for one key.
    InLine,
    /// All poll one key.
    Polling,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Alone => "alone",
            Part::InLine => "in line",
            Part::Polling => "polling",
        }
    }
}

/// What was measured. Times are in µs.
struct Measured {
    /// From asking to the lock.
    waits: Histogram<u64>,
    /// From one holder's release to the next one's answer.
    gaps: Histogram<u64>,
    locks: u64,
    commands: u64,
    took: Duration,
}

/// What the threads of a part share.
struct Shared {
    began: Instant,
    is_over: AtomicBool,
    /// When the lock was last released, in ns since the beginning; 0 while nobody has.
    released_ns: AtomicU64,
    locks: AtomicU64,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Measures, and prints a table, or JSON.
pub(super) fn bench(bench: &Bench) -> ExitCode {
    let mut all = Vec::new();
    for part in [Part::Alone, Part::InLine, Part::Polling] {
        match measured(bench, part) {
            Ok(measured) => all.push((part, measured)),
            Err(error) => {
                eprintln!("lockgate: {}: {error}", bench.place);
                return ExitCode::from(FAILURE);
            }
        }
    }
    if bench.as_json {
        println!("{}", serde_json::Value::Array(all.iter().map(|(part, measured)| as_json(*part, measured)).collect()));
    } else {
        print!("{}", report(bench, &all));
    }
    ExitCode::SUCCESS
}

fn measured(bench: &Bench, part: Part) -> io::Result<Measured> {
    let clients: Vec<Client> =
        (0..bench.connections).map(|_| bench.place.connect(ANSWER_MAX)).collect::<io::Result<_>>()?;
    let shared = Shared {
        began: Instant::now(),
        is_over: AtomicBool::new(false),
        released_ns: AtomicU64::new(0),
        locks: AtomicU64::new(0),
    };
    let results = std::thread::scope(|scope| {
        let shared = &shared;
        let work = clients.into_iter().enumerate().map(|(number, client)| {
            scope.spawn(move || {
                let mut runner = Runner::new(bench, part, number, client, shared);
                let done = runner.run();
                // The others stop as well where one cannot go on.
                shared.is_over.fetch_or(done.is_err(), Ordering::SeqCst);
                done.map(|()| runner)
            })
        });
        let work: Vec<_> = work.collect();
        wait(bench, part, shared);
        work.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended"))))
            .collect::<io::Result<Vec<Runner<'_>>>>()
    })?;
    let took = shared.began.elapsed();
    let (mut waits, mut gaps) = (histogram(), histogram());
    let (mut locks, mut commands) = (0, 0);
    for runner in results {
        waits.add(&runner.waits).and_then(|()| gaps.add(&runner.gaps)).map_err(io::Error::other)?;
        locks += runner.locks;
        commands += runner.commands;
    }
    Ok(Measured { waits, gaps, locks, commands, took })
}

/// Lets the time pass, and shows it on a terminal.
fn wait(bench: &Bench, part: Part, shared: &Shared) {
    let steps = u64::try_from(bench.duration.as_millis()).unwrap_or(u64::MAX);
    let bar = if io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix:>8} {bar:40} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(part.name());
    while shared.began.elapsed() < bench.duration && !shared.is_over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50).min(bench.duration));
        bar.set_position(u64::try_from(shared.began.elapsed().as_millis()).unwrap_or(steps).min(steps));
        bar.set_message(format!("{} locks", shared.locks.load(Ordering::Relaxed)));
    }
    shared.is_over.store(true, Ordering::SeqCst);
    bar.finish_and_clear();
}

fn histogram() -> Histogram<u64> {
    // A minute is longer than any wait here.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// One connection.
struct Runner<'a> {
    bench: &'a Bench,
    part: Part,
    shared: &'a Shared,
    client: Client,
    key: String,
    owner: String,
    waits: Histogram<u64>,
    gaps: Histogram<u64>,
    locks: u64,
    commands: u64,
}

impl<'a> Runner<'a> {
    fn new(bench: &'a Bench, part: Part, number: usize, client: Client, shared: &'a Shared) -> Self {
        let process = std::process::id();
        let key = match part {
            Part::Alone => format!("lockgate-bench:{process}:{number}"),
            Part::InLine => format!("lockgate-bench:{process}:line"),
            Part::Polling => format!("lockgate-bench:{process}:polled"),
        };
        let owner = format!("bench-{process}-{number}");
        Runner { bench, part, shared, client, key, owner, waits: histogram(), gaps: histogram(), locks: 0, commands: 0 }
    }

    fn run(&mut self) -> io::Result<()> {
        let pause = self
            .bench
            .rate
            .map(|rate| Duration::from_secs(1).mul_f64(self.bench.connections as f64 / f64::from(rate.max(1))));
        let mut due = Instant::now();
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let mut began = Instant::now();
            if let (Part::Alone, Some(pause)) = (self.part, pause) {
                std::thread::sleep(due.saturating_duration_since(began));
                // What comes late counts as late: from when it was due.
                began = due;
                due += pause;
            }
            let is_mine = match self.part {
                Part::Alone => self.acquires("0")?,
                Part::InLine => self.acquires("1000")?,
                Part::Polling => self.polls()?,
            };
            if is_mine {
                self.has_it(began)?;
            }
        }
        Ok(())
    }

    /// Holds the lock for a while, and lets go of it.
    fn has_it(&mut self, began: Instant) -> io::Result<()> {
        self.waits.saturating_record(us(began.elapsed()));
        self.locks += 1;
        self.shared.locks.fetch_add(1, Ordering::Relaxed);
        if self.part == Part::Alone {
            return self.releases();
        }
        let released = self.shared.released_ns.load(Ordering::SeqCst);
        if released > 0 {
            self.gaps.saturating_record(us(Duration::from_nanos(self.shared.now_ns().saturating_sub(released))));
        }
        std::thread::sleep(HOLD);
        self.shared.released_ns.store(self.shared.now_ns(), Ordering::SeqCst);
        self.releases()?;
        std::thread::sleep(HOLD);
        Ok(())
    }

    fn ask(&mut self, words: &[&[u8]]) -> io::Result<Vec<u8>> {
        self.commands += 1;
        self.client.send(words)?;
        self.client.reply(Instant::now() + ANSWER_MAX)
    }

    fn acquires(&mut self, wait_ms: &str) -> io::Result<bool> {
        let (key, owner) = (self.key.clone(), self.owner.clone());
        let words: [&[u8]; 7] = [
            b"LOCK.ACQUIRE",
            key.as_bytes(),
            owner.as_bytes(),
            b"TTL",
            LEASE_MS.as_bytes(),
            b"WAIT",
            wait_ms.as_bytes(),
        ];
        let reply = self.ask(&words)?;
        match decode(&reply) {
            Ok(Value::Integer(_)) => Ok(true),
            Ok(Value::Null) => Ok(false),
            Ok(Value::Error(line)) => Err(io::Error::other(String::from_utf8_lossy(line).into_owned())),
            _ => Err(io::Error::other("the answer makes no sense; is this a Lockgate?")),
        }
    }

    fn releases(&mut self) -> io::Result<()> {
        let (key, owner) = (self.key.clone(), self.owner.clone());
        match self.part {
            Part::Polling => self.ask(&[b"EVAL", RELEASE.as_bytes(), b"1", key.as_bytes(), owner.as_bytes()]).map(drop),
            _ => self.ask(&[b"LOCK.RELEASE", key.as_bytes(), owner.as_bytes()]).map(drop),
        }
    }

    /// As a library does that knows no queue: tries until it has it, with pauses.
    fn polls(&mut self) -> io::Result<bool> {
        let (key, owner) = (self.key.clone(), self.owner.clone());
        let words: [&[u8]; 6] = [b"SET", key.as_bytes(), owner.as_bytes(), b"NX", b"PX", LEASE_MS.as_bytes()];
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let reply = self.ask(&words)?;
            match decode(&reply) {
                Ok(Value::Simple(_)) => return Ok(true),
                Ok(Value::Error(line)) => return Err(io::Error::other(String::from_utf8_lossy(line).into_owned())),
                // With jitter, so that they do not march in step.
                _ => std::thread::sleep(POLLS_EVERY.mul_f64(0.5 + fastrand::f64())),
            }
        }
        Ok(false)
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1000.0
}

fn per_second(measured: &Measured) -> f64 {
    measured.locks as f64 / measured.took.as_secs_f64()
}

fn per_lock(measured: &Measured) -> f64 {
    measured.commands as f64 / measured.locks.max(1) as f64
}

fn report(bench: &Bench, all: &[(Part, Measured)]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(part, measured)| {
            let cell = |quantile| format!("{:.2}", ms(&measured.waits, quantile));
            let gap = if *part == Part::Alone { String::new() } else { format!("{:.2}", ms(&measured.gaps, 0.5)) };
            vec![
                part.name().to_owned(),
                format!("{:.0}", per_second(measured)),
                cell(0.5),
                cell(0.95),
                cell(0.99),
                cell(0.999),
                format!("{:.2}", measured.waits.max() as f64 / 1000.0),
                gap,
                format!("{:.1}", per_lock(measured)),
            ]
        })
        .collect();
    let head = ["", "LOCKS/S", "MEDIAN", "P95", "P99", "P99.9", "LONGEST", "GAP", "COMMANDS/LOCK"];
    let how = match bench.rate {
        Some(rate) => format!("{} connections, {rate} locks a second asked for in the first part", bench.connections),
        None => format!("{} connections", bench.connections),
    };
    format!(
        "{how}; times in ms from asking to the lock; GAP: median from a release to the next holder's answer.\n\
         alone: each its own key; in line and polling: one key, held for {} ms\n\n{}",
        HOLD.as_millis(),
        table(&head, &[1, 2, 3, 4, 5, 6, 7, 8], &rows)
    )
}

fn as_json(part: Part, measured: &Measured) -> serde_json::Value {
    json!({
        "part": part.name(),
        "locks": measured.locks,
        "locks_per_second": per_second(measured),
        "commands_per_lock": per_lock(measured),
        "p50_ms": ms(&measured.waits, 0.5),
        "p95_ms": ms(&measured.waits, 0.95),
        "p99_ms": ms(&measured.waits, 0.99),
        "p999_ms": ms(&measured.waits, 0.999),
        "longest_ms": measured.waits.max() as f64 / 1000.0,
        "gap_p50_ms": if part == Part::Alone { serde_json::Value::Null } else { json!(ms(&measured.gaps, 0.5)) },
    })
}
