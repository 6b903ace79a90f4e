//! The audit: who did what to which lock, one JSON line each, in order, each with the hash of the line before. A thread of its own writes;
//! nobody else waits for the disk.

mod chain;
mod file;
mod verify;

pub use verify::{Verdict, verify};

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::file::{AuditFile, Unwritable};
use crate::config::{self, OnFailure};
use crate::observe::seldom::Seldom;

/// Most lines that wait for the disk; what comes beyond is left out, and the file says how many.
const WAITING_MAX: usize = 100_000;
/// How long a disk that takes nothing is left alone.
const RETRY: Duration = Duration::from_millis(200);

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
#[error("the audit cannot be written to {path}: {why}; correct audit.file, or take it out", path = .path.display())]
pub struct AuditError {
    path: PathBuf,
    why: io::Error,
}

/// What is written to; shared by all workers.
#[derive(Debug)]
pub struct Audit {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// The last line could not be written.
    is_failing: AtomicBool,
    on_failure: OnFailure,
}

#[derive(Debug, Default)]
struct Queue {
    /// JSON objects without what the chain adds.
    lines: VecDeque<String>,
    left_out: u64,
    is_closing: bool,
}

/// The thread that writes. Dropped, it writes what waits and ends.
#[derive(Debug)]
pub struct Auditor {
    audit: Arc<Audit>,
    thread: Option<JoinHandle<()>>,
}

impl Auditor {
    /// Goes on where the file ends.
    pub fn start(settings: &config::Audit, path: &Path) -> Result<Auditor, AuditError> {
        let failed = |why| AuditError { path: path.to_owned(), why };
        let file = AuditFile::open(path, settings.max_size.0 as u64, settings.keep).map_err(failed)?;
        let audit = Arc::new(Audit {
            queue: Mutex::default(),
            bell: Condvar::new(),
            is_failing: AtomicBool::new(false),
            on_failure: settings.on_failure,
        });
        let writing = audit.clone();
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writing.write_all(file));
        Ok(Auditor { audit, thread: Some(thread.map_err(failed)?) })
    }

    /// What is written to.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.audit.queue().is_closing = true;
        self.audit.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Audit {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a JSON object; never waits.
    pub fn note(&self, object: String) {
        let mut queue = self.queue();
        if queue.lines.len() >= WAITING_MAX {
            queue.left_out += 1;
            return;
        }
        queue.lines.push_back(object);
        drop(queue);
        self.bell.notify_one();
    }

    /// What cannot be written down is not to be done.
    pub fn refuses(&self) -> bool {
        self.on_failure == OnFailure::Refuse && self.is_failing.load(Ordering::Relaxed)
    }

    fn write_all(&self, mut file: AuditFile) {
        loop {
            let mut queue = self.queue();
            while queue.lines.is_empty() && !queue.is_closing {
                queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let is_closing = queue.is_closing;
            let (lines, left_out) = (std::mem::take(&mut queue.lines), std::mem::take(&mut queue.left_out));
            drop(queue);
            let is_done = self.write(&mut file, lines, left_out);
            if is_closing && (!is_done || self.queue().lines.is_empty()) {
                return;
            }
            if !is_done {
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Writes `lines`; those that the disk did not take wait again, in front of what has come since. `false` where there are such.
    fn write(&self, file: &mut AuditFile, lines: VecDeque<String>, left_out: u64) -> bool {
        let gap = (left_out > 0).then(|| chain::gap(left_out));
        let mut lines: VecDeque<String> = lines.into_iter().chain(gap).collect();
        let outcome = file.append(&mut lines);
        self.is_failing.store(outcome.is_err(), Ordering::Relaxed);
        let Err(Unwritable(error)) = outcome else { return true };
        static TOLD: Seldom = Seldom::new();
        if let Some(times) = TOLD.happened() {
            let path = file.path().display().to_string();
            tracing::error!(%error, times, path, on_failure = self.on_failure.name(), "the audit cannot be written");
        }
        let mut queue = self.queue();
        match self.on_failure {
            OnFailure::Drop => queue.left_out += lines.len() as u64,
            OnFailure::Refuse => {
                lines.append(&mut queue.lines);
                queue.lines = lines;
            }
        }
        // What is left out is told as soon as there is room for anything.
        if queue.lines.is_empty() && queue.left_out > 0 {
            let gap = chain::gap(std::mem::take(&mut queue.left_out));
            queue.lines.push_back(gap);
        }
        false
    }
}
