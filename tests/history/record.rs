//! What a run writes down: one JSON object a line, in `target/histories/<name>.jsonl`. All times are µs of the machine's monotonic
//! clock since the run began, taken by the one who records: before a call's first byte is sent, and after its last byte came.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Record {
    Run(Setup),
    Call(Call),
    Closed(Closed),
    Fault(Fault),
    Held(Held),
    Write(Write),
    Stray(Stray),
    End(End),
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub seed: u64,
    pub variant: String,
    pub server: String,
    /// When the others take a silent node for dead.
    pub node_timeout_ms: u64,
    /// For how long a client's place is kept that left.
    pub place_kept_ms: u64,
}

/// One command of one client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    pub conn: u64,
    /// The node it was sent to; `None` for the server itself.
    pub node: Option<usize>,
    pub key: String,
    /// The owner, or what a `SET NX` writes.
    pub owner: String,
    pub op: Op,
    pub from_us: u64,
    /// When the answer had come, or the end of the connection was seen.
    pub until_us: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Acquire {
        ttl_ms: u64,
        wait_ms: u64,
        level: u8,
        bond: Bond,
    },
    Release {
        fence: Option<i64>,
    },
    Extend {
        ttl_ms: u64,
        fence: Option<i64>,
    },
    Transfer {
        to: String,
        ttl_ms: u64,
        fence: Option<i64>,
    },
    /// Written down once for each of its keys, with the same `id`; the outcome is what it came to for that key.
    AcquireAll {
        keys: Vec<String>,
        ttl_ms: u64,
        wait_ms: u64,
        level: u8,
    },
    /// Written down once for each of its keys; the outcome of all of them is how many were released.
    ReleaseAll {
        keys: Vec<String>,
    },
    /// Runs a command that touches no lock, if the key is held under that fence.
    Guard {
        fence: i64,
        command: Vec<String>,
    },
    Cancel,
    Position,
    Promote {
        level: u8,
    },
    Force,
    /// `SET key owner NX PX ttl_ms`, which waits as its rule says, or else keeps its place for `ticket_ms`.
    SetNx {
        ttl_ms: u64,
        wait_ms: u64,
        #[serde(default)]
        ticket_ms: u64,
    },
    /// Deletes the key if it holds the owner.
    CompareAndDelete,
    Del,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bond {
    None,
    Keepalive,
    Ephemeral,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Int(i64),
    Ok,
    Nil,
    Error(String),
    /// The connection ended before an answer came.
    Unknown,
    /// Neither an answer nor the connection's end, long after everything was well again.
    Missing,
}

/// A connection's end; `from_us` is before it, as far as we brought it about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    pub conn: u64,
    pub from_us: u64,
}

/// Something that was broken on purpose, or a machine that stood still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub what: String,
    /// The only node it concerns.
    pub node: Option<usize>,
    pub from_us: u64,
    pub until_us: u64,
    /// What the server lost with it.
    #[serde(default)]
    pub loses: Option<Loss>,
}

/// What a fault has taken from the server's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// All that there was.
    Everything,
    /// What was written while the fault lasted; all that was executed before it began has stayed.
    Newest,
}

/// What a key held, as looks at the server itself saw it: the same at each look from the first to the last of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub key: String,
    /// `None` for a free key.
    pub value: Option<String>,
    /// The first look that saw it: before and after.
    pub first_us: (u64, u64),
    /// The last one.
    pub last_us: (u64, u64),
    /// The longest time from the beginning of one look to the end of the next.
    pub gap_us: u64,
}

/// A change of guarded data: read and written back under the lock, checked with its fence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    pub key: String,
    pub fence: i64,
    pub from_us: u64,
    pub until_us: u64,
    pub read: i64,
    pub wrote: i64,
    /// The data took it: its fence was not below one seen before.
    pub was_taken: bool,
    /// Read and written under `LOCK.GUARD`, by which alone this number is protected.
    #[serde(default)]
    pub is_guarded: bool,
    /// The link broke before the answer came: it may have been written, or not.
    #[serde(default)]
    pub is_unknown: bool,
}

/// A frame that nobody had asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stray {
    pub conn: u64,
    pub at_us: u64,
    pub frame: String,
}

/// What was there when everybody had gone and every lease was over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub at_us: u64,
    /// Keys that should not be there any more.
    pub left: Vec<String>,
    /// Keys somebody still waits for, as the nodes say.
    pub waited_for: Vec<String>,
    /// The guarded data.
    pub data: BTreeMap<String, i64>,
    /// The numbers that `LOCK.GUARD` alone protects.
    #[serde(default)]
    pub guarded: BTreeMap<String, i64>,
}

/// Takes down a run.
pub struct Recorder {
    origin_us: u64,
    records: Mutex<Vec<Record>>,
    last_id: AtomicU64,
}

impl Recorder {
    pub fn new(setup: Setup) -> Self {
        Self { origin_us: monotonic_us(), records: Mutex::new(vec![Record::Run(setup)]), last_id: AtomicU64::new(0) }
    }

    pub fn now_us(&self) -> u64 {
        monotonic_us() - self.origin_us
    }

    /// When the run began, by the clock that every process of this machine reads.
    pub fn origin_us(&self) -> u64 {
        self.origin_us
    }

    /// A number for a call or a connection.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn note(&self, record: Record) {
        self.records.lock().unwrap().push(record);
    }

    pub fn all(&self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }
}

fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock");
    now.tv_sec().cast_unsigned() * 1_000_000 + now.tv_nsec().cast_unsigned() / 1000
}

/// Where recordings and the nodes' logs of a run go.
pub fn folder() -> PathBuf {
    let folder = crate::common::tools::target_dir().join("histories");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn save(records: &[Record], path: &Path) {
    let lines: Vec<String> = records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    std::fs::write(path, lines.join("\n") + "\n").unwrap();
}

pub fn load(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let read = |(number, line): (usize, &str)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("line {}: {error}", number + 1))
    };
    text.lines().enumerate().map(read).collect()
}
