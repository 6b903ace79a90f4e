//! The thread that minds the server: starts it, waits for its end, starts it again, and lets it end when told to.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::logs::{self, LastWords};
use super::orphan;
use super::program::Server;

/// The first pause before a server that died is started again; doubled each time up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A server that ran this long died of something new, so the pauses begin anew.
const RAN_WELL: Duration = Duration::from_secs(10);
/// How long an orphan may take to answer before it is told to end.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to end before it is killed.
const ORPHAN_END_MAX: Duration = Duration::from_secs(5);
/// Between two looks at something that gives no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The same for an adopted server, which is no child of ours and so cannot be waited for.
const LOOK_AT_ADOPTED: Duration = Duration::from_millis(200);
/// How long a server that is merely dropped may take.
const STOP_WHEN_DROPPED: Duration = Duration::from_secs(5);

/// The minded server.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    server: Server,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Set once, never cleared: nothing is started any more.
    stopping: bool,
    /// The server that runs. A child is only reaped under this lock, so its id cannot have become another's.
    running: Option<Pid>,
    /// A server has ended, or could not be started.
    failed: bool,
    /// The thread has ended, and with it the server.
    ended: bool,
}

impl Supervisor {
    /// Starts the thread, which starts the server.
    pub fn start(server: Server) -> io::Result<Self> {
        let shared = Arc::new(Shared { server, state: Mutex::default(), changed: Condvar::new() });
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("embedded".to_owned()).spawn(move || its.mind())?;
        Ok(Supervisor { shared, thread: Some(thread) })
    }

    /// Whether the server answers within `limit`; `false` at once when it fails instead.
    pub fn wait_for_answer(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            // A look at `running` first: until an orphan has been dealt with, its answers are not ours.
            let (is_running, has_failed) = {
                let state = self.shared.lock();
                (state.running.is_some(), state.failed)
            };
            if is_running && orphan::answers(&self.shared.server.socket) {
                return true;
            }
            if has_failed || Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets the server write out and exit; kills it after `limit`.
    pub fn stop(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.changed.notify_all();
        signal(state.running, Signal::SIGTERM);
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("the embedded upstream did not exit in time and is killed");
                signal(state.running, Signal::SIGKILL);
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let _ = thread.join();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end(STOP_WHEN_DROPPED);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mind(&self) {
        let mut pause = PAUSE_MIN;
        while !self.lock().stopping {
            let began = Instant::now();
            let minded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match self.find_orphan() {
                Some(orphan) => self.mind_adopted(orphan),
                None => self.mind_child(),
            }));
            let why = minded.unwrap_or_else(|_| "is out of sight after a fault of Lockgate".to_owned());
            if self.lock().stopping {
                break;
            }
            if began.elapsed() > RAN_WELL {
                pause = PAUSE_MIN;
            }
            self.lock().failed = true;
            tracing::error!(retry_ms = pause.as_millis() as u64, "the embedded upstream {why}; it is started again");
            self.rest(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// A server that works in our folder, which nobody but us may use, and answers. One that does not is ended: two servers
    /// on one append-only file would destroy it.
    fn find_orphan(&self) -> Option<Pid> {
        let deadline = Instant::now() + ORPHAN_PATIENCE;
        let mut told_to_end = false;
        loop {
            let servers = orphan::servers_in(&self.server.folder);
            match servers.as_slice() {
                [] => return None,
                [one] if !told_to_end && orphan::answers(&self.server.socket) => return Some(*one),
                _ => {}
            }
            if self.lock().stopping {
                return None;
            }
            if Instant::now() >= deadline + ORPHAN_END_MAX {
                servers.iter().for_each(|pid| signal(Some(*pid), Signal::SIGKILL));
            } else if Instant::now() >= deadline && !told_to_end {
                tracing::warn!(?servers, "a server left over in the data folder does not answer and is ended");
                servers.iter().for_each(|pid| signal(Some(*pid), Signal::SIGTERM));
                told_to_end = true;
            }
            self.rest(LOOK_AGAIN);
        }
    }

    fn mind_adopted(&self, orphan: Pid) -> String {
        tracing::info!(pid = orphan.as_raw(), "adopted the embedded upstream that an earlier Lockgate left running");
        if !self.runs(orphan) {
            signal(Some(orphan), Signal::SIGTERM);
        }
        while orphan::works_in(orphan, &self.server.folder) {
            let pause = if self.lock().stopping { LOOK_AGAIN } else { LOOK_AT_ADOPTED };
            self.rest(pause);
        }
        self.lock().running = None;
        "that was adopted has ended".to_owned()
    }

    fn mind_child(&self) -> String {
        let (child, output) = match self.server.spawn() {
            Ok(started) => started,
            Err(error) => return format!("cannot be started ({error})"),
        };
        let pid = Pid::from_raw(child.id() as i32);
        tracing::info!(pid = pid.as_raw(), "started the embedded upstream");
        if !self.runs(pid) {
            signal(Some(pid), Signal::SIGTERM);
        }
        let last_words = LastWords::default();
        let heard = last_words.clone();
        let listener =
            std::thread::Builder::new().name("embedded-log".to_owned()).spawn(move || logs::forward(output, &heard));
        if let Err(error) = &listener {
            tracing::warn!(%error, "cannot read the embedded upstream's log");
        }
        let status = self.wait_for(child, pid);
        // Not joined: a forked helper of the server may hold the output open. Its last lines are there in a moment.
        if let Ok(listener) = listener {
            let deadline = Instant::now() + Duration::from_millis(200);
            while !listener.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        match status {
            Ok(status) => format!("ended ({}); its last words: {}", describe(status), last_words.joined()),
            Err(error) => format!("cannot be waited for ({error})"),
        }
    }

    /// Waits without reaping, then reaps under the lock, so that no signal can go to a process id that is free again.
    fn wait_for(&self, mut child: Child, pid: Pid) -> io::Result<ExitStatus> {
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
        let mut state = self.lock();
        let status = child.wait();
        state.running = None;
        status
    }

    /// Notes the running server; `false` where it should end at once, as a stop came while it was being started.
    fn runs(&self, pid: Pid) -> bool {
        let mut state = self.lock();
        state.running = Some(pid);
        !state.stopping
    }

    /// Waits for `pause`, or until told to stop.
    fn rest(&self, pause: Duration) {
        let state = self.lock();
        if state.stopping {
            drop(state);
            // The stop is known already; this only keeps a loop from spinning.
            std::thread::sleep(pause.min(LOOK_AGAIN));
        } else {
            drop(self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn signal(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid
        && let Err(error) = kill(pid, signal)
    {
        tracing::debug!(pid = pid.as_raw(), %signal, %error, "the embedded upstream had gone already");
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("by {signal}"),
            Err(_) => format!("by signal {number}"),
        },
        (None, None) => status.to_string(),
    }
}
