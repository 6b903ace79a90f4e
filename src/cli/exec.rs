//! `lockgate exec`: stands in line for a lock, runs a command while the lock is kept, and lets go of it.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, gethostname};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::{Client, Place};
use super::{FAILURE, USAGE};
use crate::protocol::frame::{Value, decode};

/// The hidden command that becomes the one to be run: signals are blocked in whatever this process starts, and cannot be unblocked there
/// from outside.
pub(super) const TRAMPOLINE: &str = "exec-command";
/// The lock was not got in time; `sysexits.h` calls it a temporary failure.
const NOT_IN_TIME: u8 = 75;
/// Connecting, and an answer that needs no wait, may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often the place in line is told on a terminal.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// What the child is told of; the others are the terminal's, or Lockgate's own.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// What `exec` was asked for.
pub(super) struct Exec {
    pub place: Place,
    pub key: String,
    pub wait: Duration,
    pub ttl: Duration,
    pub grace: Duration,
    pub priority: Option<String>,
    pub command: Vec<OsString>,
}

/// Why the lock was not got.
enum NoLock {
    InTime,
    Refused(String),
}

/// A lock that is kept for as long as its connection stands.
struct Kept {
    client: Client,
    owner: String,
    fence: i64,
}

pub(super) fn exec(exec: &Exec) -> ExitCode {
    let kept = match acquire(exec) {
        Ok(kept) => kept,
        Err(NoLock::InTime) => {
            eprintln!("lockgate: '{}' was not free within {:?}", exec.key, exec.wait);
            return ExitCode::from(NOT_IN_TIME);
        }
        Err(NoLock::Refused(why)) => return failure(&why),
    };
    // From here on a signal goes to the command. A signal before has ended this process, and with it the hold.
    let signals = match watched_signals() {
        Ok(signals) => signals,
        Err(error) => return failure(&format!("cannot watch signals: {error}")),
    };
    let child = std::process::Command::new("/proc/self/exe")
        .args([TRAMPOLINE, "--"])
        .args(&exec.command)
        .env("LOCKGATE_FENCE", kept.fence.to_string())
        .env("LOCKGATE_KEY", &exec.key)
        .env("LOCKGATE_OWNER", &kept.owner)
        .spawn();
    match child {
        Ok(child) => run(exec, kept, child, &signals),
        Err(error) => {
            release(exec, kept);
            failure(&format!("cannot start the command: {error}"))
        }
    }
}

/// What `exec` starts, in a process of its own: with no signal blocked, it becomes the command.
pub(super) fn become_command(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::from(USAGE) };
    if let Err(error) = SigSet::all().thread_unblock() {
        return failure(&format!("cannot unblock signals: {error}"));
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("lockgate: cannot run {}: {error}", program.to_string_lossy());
    // As a shell says it.
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

fn watched_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::from_iter(PASSED_ON);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn failure(why: &str) -> ExitCode {
    eprintln!("lockgate: {why}");
    ExitCode::from(FAILURE)
}

/// Nobody else goes by that name, and a person can tell whose it is.
fn owner() -> String {
    let host = gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    format!("exec@{host}:{}:{:08x}", std::process::id(), fastrand::u32(..))
}

fn acquire(exec: &Exec) -> Result<Kept, NoLock> {
    let refused = |error: io::Error| NoLock::Refused(format!("{}: {error}", exec.place));
    let mut client = exec.place.connect(ANSWER_MAX).map_err(refused)?;
    let owner = owner();
    let (ttl, wait) = (exec.ttl.as_millis().to_string(), exec.wait.as_millis().to_string());
    let mut words: Vec<&[u8]> = vec![b"LOCK.ACQUIRE", exec.key.as_bytes(), owner.as_bytes(), b"TTL", ttl.as_bytes()];
    words.extend([b"WAIT", wait.as_bytes(), b"EPHEMERAL"]);
    if let Some(priority) = &exec.priority {
        words.extend([b"PRIORITY", priority.as_bytes()]);
    }
    client.send(&words).map_err(refused)?;
    let place = io::stderr().is_terminal().then(|| Standing::told_of(exec, &owner));
    let reply = client.reply(Instant::now() + exec.wait + ANSWER_MAX).map_err(refused)?;
    drop(place);
    match decode(&reply) {
        Ok(Value::Integer(fence)) => Ok(Kept { client, owner, fence }),
        Ok(Value::Null) => Err(NoLock::InTime),
        Ok(Value::Error(line)) => Err(NoLock::Refused(String::from_utf8_lossy(line).into_owned())),
        _ => Err(NoLock::Refused("the answer makes no sense; is this a Lockgate?".to_owned())),
    }
}

/// Tells the place in line on the terminal, until it is dropped.
struct Standing(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Standing {
    fn told_of(exec: &Exec, owner: &str) -> Standing {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, server, key, owner) = (is_over.clone(), exec.place.clone(), exec.key.clone(), owner.to_owned());
        let thread = std::thread::spawn(move || {
            let mut told = false;
            let Ok(mut client) = server.connect(ANSWER_MAX) else { return };
            while !over.load(Ordering::SeqCst) {
                if client.send(&[b"LOCK.POSITION", key.as_bytes(), owner.as_bytes()]).is_err() {
                    break;
                }
                let Ok(reply) = client.reply(Instant::now() + ANSWER_MAX) else { break };
                if let Ok(Value::Integer(place @ 1..)) = decode(&reply) {
                    eprint!("\r\x1b[Klockgate: waiting for '{key}', place {place}");
                    let _ = io::stderr().flush();
                    told = true;
                }
                std::thread::park_timeout(PLACE_EVERY);
            }
            if told {
                eprint!("\r\x1b[K");
            }
        });
        Standing(is_over, Some(thread))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        if let Some(thread) = self.1.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// What is to be done about the child.
enum Stage {
    /// It runs under the lock.
    Running,
    /// The lock is lost; the child was told, and is killed at that time.
    Ending(Instant),
    /// It was killed.
    Killed,
}

fn run(exec: &Exec, mut kept: Kept, mut child: Child, signals: &SignalFd) -> ExitCode {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let ping_every = (exec.ttl / 3).max(Duration::from_millis(100));
    let mut stage = Stage::Running;
    let (mut next_ping, mut answer_by) = (Instant::now() + ping_every, None::<Instant>);
    let mut is_lost = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return failure(&format!("cannot wait for the command: {error}")),
        }
        let wake_at = match stage {
            Stage::Running => answer_by.map_or(next_ping, |by| by.min(next_ping)),
            Stage::Ending(at) => at,
            Stage::Killed => Instant::now() + PLACE_EVERY,
        };
        wait_for_news(signals, (!is_lost).then_some(&kept.client), wake_at);
        pass_signals_on(signals, pid);
        let now = Instant::now();
        if !is_lost {
            let lost = hear(&mut kept, &mut answer_by)
                .or_else(|| answer_by.filter(|by| *by <= now).map(|_| "Lockgate does not answer".to_owned()));
            if let Some(why) = lost {
                is_lost = true;
                eprintln!("lockgate: the lock '{}' is lost ({why}); ending the command", exec.key);
                let _ = kill(pid, Signal::SIGTERM);
                stage = Stage::Ending(now + exec.grace);
            } else if next_ping <= now {
                next_ping = now + ping_every;
                // Where that fails, the next look tells.
                let _ = kept.client.send(&[b"PING"]);
                answer_by.get_or_insert(now + exec.ttl / 2);
            }
        }
        if let Stage::Ending(at) = stage
            && at <= now
        {
            let _ = kill(pid, Signal::SIGKILL);
            stage = Stage::Killed;
        }
    };
    if !is_lost {
        release(exec, kept);
    }
    exit_code(status, is_lost)
}

/// The command's own status; a lock that was lost is no success.
fn exit_code(status: ExitStatus, is_lost: bool) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILURE),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(FAILURE),
        (None, None) => FAILURE,
    };
    ExitCode::from(if is_lost && code == 0 { FAILURE } else { code })
}

fn wait_for_news(signals: &SignalFd, client: Option<&Client>, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let timeout =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let signals = signals.as_fd();
    let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
    let client = client.map(AsFd::as_fd);
    fds.extend(client.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    // An interrupted poll is looked at like any other.
    let _ = poll(&mut fds, Some(&timeout));
}

/// What the terminal sends goes to the child as well, so that only what was meant for this process is passed on.
fn pass_signals_on(signals: &SignalFd, pid: Pid) {
    const FROM_KERNEL: i32 = 0x80;
    while let Ok(Some(told)) = signals.read_signal() {
        let signal = i32::try_from(told.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal.filter(|signal| *signal != Signal::SIGCHLD && told.ssi_code != FROM_KERNEL) {
            let _ = kill(pid, signal);
        }
    }
}

/// What has come on the connection; why the lock is lost, if it is.
fn hear(kept: &mut Kept, answer_by: &mut Option<Instant>) -> Option<String> {
    loop {
        match kept.client.frame(Instant::now() + Duration::from_millis(1)) {
            Ok(frame) => match decode(&frame) {
                Ok(Value::Push(parts)) if parts.first().and_then(Value::as_bytes) == Some(b"lock.lost") => {
                    let reason = parts.get(3).and_then(Value::as_bytes).unwrap_or(b"it was taken");
                    return Some(String::from_utf8_lossy(reason).into_owned());
                }
                Ok(Value::Push(_)) => {}
                _ => *answer_by = None,
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}

/// What is not let go of here ends with the connection.
fn release(exec: &Exec, mut kept: Kept) {
    let fence = kept.fence.to_string();
    let words: [&[u8]; 5] = [b"LOCK.RELEASE", exec.key.as_bytes(), kept.owner.as_bytes(), b"FENCE", fence.as_bytes()];
    if kept.client.send(&words).is_ok() {
        let _ = kept.client.reply(Instant::now() + ANSWER_MAX);
    }
}
