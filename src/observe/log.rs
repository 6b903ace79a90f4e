//! Log lines on standard error, as text or JSON.
//!
//! A worker serves many clients, so it must not wait for whoever reads the log: lines go through a bounded queue to a thread
//! of their own, and are counted and left out when that falls behind.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Lines that may be on their way to standard error.
const QUEUE_MAX: usize = 8192;
/// How long the end of the process waits for them.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The running log. Dropping it writes out what is on its way.
pub struct LogHandle {
    level: reload::Handle<LevelFilter, Registry>,
    lines: SyncSender<Message>,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts logging. To be called once; a second call leaves the first in force.
pub fn start(log: &Log) -> LogHandle {
    let (lines, queue) = mpsc::sync_channel(QUEUE_MAX);
    let left_out = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&left_out);
    // Should the thread not start, try_send fails and the lines are only left out.
    let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        for message in queue {
            write_out(message, &counter);
        }
    });
    let writer = LineWriter { lines: lines.clone(), left_out };
    let (filter, level) = reload::Layer::new(filter_of(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = match log.format {
        LogFormat::Text => registry.with(layer.with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    LogHandle { level, lines }
}

impl LogHandle {
    /// Changes the level from now on.
    pub fn set_level(&self, level: LogLevel) {
        let _ = self.level.reload(filter_of(level));
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }
}

fn write_out(message: Message, left_out: &AtomicU64) {
    // Nobody can be told that standard error is gone, so its errors are not looked at.
    let mut stderr = io::stderr().lock();
    match message {
        Message::Line(line) => {
            let _ = stderr.write_all(&line);
        }
        Message::Flush(done) => {
            let _ = stderr.flush();
            let _ = done.send(());
        }
    }
    let count = left_out.swap(0, Ordering::Relaxed);
    if count > 0 {
        let _ =
            writeln!(stderr, "lockgate: {count} log lines were left out, because standard error was not read in time");
    }
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[derive(Clone)]
struct LineWriter {
    lines: SyncSender<Message>,
    left_out: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = &'a LineWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LineWriter {
    /// `tracing` writes each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Message::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
