//! `lockgate config check` and `lockgate config dump`.

use std::io::Write;
use std::process::ExitCode;

use super::refuse;
use crate::config::{self, Sources};

pub(super) fn check(sources: &Sources) -> ExitCode {
    match config::load(sources) {
        Ok(loaded) => {
            for note in &loaded.notes {
                eprintln!("lockgate: note: {note}");
            }
            let read = loaded.file.map(|file| format!(" ({})", file.display())).unwrap_or_default();
            print(&format!("the configuration is fine{read}\n"))
        }
        Err(problems) => refuse(&problems),
    }
}

pub(super) fn dump(sources: &Sources, defaults: bool) -> ExitCode {
    if defaults {
        return print(&config::dump_defaults());
    }
    match config::load(sources) {
        Ok(loaded) => print(&config::dump(&loaded)),
        Err(problems) => refuse(&problems),
    }
}

/// A reader that has seen enough, as `head` has, is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}
