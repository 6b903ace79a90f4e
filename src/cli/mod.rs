//! Arguments → config → runtime → wiring → exit code.

mod args;
mod config;
mod ping;

use std::process::ExitCode;

use clap::Parser;

use crate::app::{self, Serve, ServeError};
use crate::config::{Origin, Problem, Sources};
use args::{Arguments, Command, ConfigCommand};

/// A blocker or a failure.
const FAILURE: u8 = 1;
/// The command line itself is wrong.
const USAGE: u8 = 2;

/// Reads the arguments, runs what they ask for and tells the exit code: 0 fine, 1 a failure, 2 wrong usage.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let sources = Sources::of_process(arguments.sources.into());
    match arguments.command.unwrap_or_default() {
        Command::Serve { hint } => serve(&Serve { sources, hint }),
        Command::Config { command: ConfigCommand::Check } => config::check(&sources),
        Command::Config { command: ConfigCommand::Dump { defaults } } => config::dump(&sources, defaults),
        Command::Ping { timeout } => ping::ping(&sources, timeout),
    }
}

fn serve(wanted: &Serve) -> ExitCode {
    match app::serve(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Config(problems)) => refuse(&problems),
        Err(error) => {
            eprintln!("lockgate: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Every problem on a line of its own, its place first.
fn refuse(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("lockgate: {problem}");
    }
    let is_usage = problems.iter().any(|problem| matches!(problem.origin, Origin::Flag(_)));
    ExitCode::from(if is_usage { USAGE } else { FAILURE })
}
