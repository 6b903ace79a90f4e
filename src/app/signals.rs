//! SIGTERM and SIGINT end Lockgate, a second one at once; SIGHUP reloads.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};

use nix::sys::signal::{SigSet, Signal};

/// What the operator wants.
pub(super) enum Event {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT, by name.
    End(&'static str),
}

/// Signals as events, in order.
pub(super) struct Signals {
    events: Receiver<Event>,
}

impl Signals {
    /// Blocks the signals in this thread and all that it will start, and waits for them on one of its own: no code of ours
    /// ever runs inside a signal handler.
    pub fn watch() -> io::Result<Self> {
        let watched = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        watched.thread_block()?;
        let (sender, events) = mpsc::channel();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || forward(watched, &sender))?;
        Ok(Signals { events })
    }

    /// The next event; waits for it.
    pub fn next(&self) -> Event {
        // The thread at the other end never stops; should it have died, ending in good order is the best left to do.
        self.events.recv().unwrap_or(Event::End("the signal thread is gone"))
    }
}

fn forward(watched: SigSet, events: &Sender<Event>) {
    let mut is_ending = false;
    loop {
        let Ok(signal) = watched.wait() else { continue };
        let event = match signal {
            Signal::SIGHUP => Event::Reload,
            _ if is_ending => {
                // Not through the log, which would not be written out any more.
                eprintln!("lockgate: {signal} again: stopping at once");
                // The embedded server is told by the kernel, and writes out what it has.
                std::process::exit(128 + signal as i32);
            }
            _ => {
                is_ending = true;
                Event::End(signal.as_str())
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
