//! Arguments → config → runtime → wiring → exit code.

mod args;
mod audit;
mod bench;
mod check;
mod client;
mod config;
mod exec;
mod learn;
mod locks;
mod ping;
mod shell;
mod table;
mod top;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::app::{self, Serve, ServeError};
use crate::config::{CONNECT_VARIABLE, Config, Origin, Problem, Sources, UpstreamTls};
use crate::coordinator::Rules;
use crate::tls::ClientTls;
use crate::upstream::url::{Endpoint, Upstream};
use args::{Arguments, AuditCommand, Command, ConfigCommand, Connect, LocksCommand};
use client::Place;

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
        Command::Check { json } => check::check(&sources, json),
        Command::Bench { duration, connections, rate, json, connect } => match running_lockgate(&sources, connect) {
            Ok(place) => bench::bench(&bench::Bench { place, duration, connections, rate, as_json: json }),
            Err(code) => code,
        },
        Command::Learn { duration, json, connect } => {
            // Without a configuration of its own it judges by the rules that a Lockgate begins with.
            let config = crate::config::load(&sources).map_or_else(|_| Config::default(), |loaded| loaded.config);
            match running_lockgate(&sources, connect) {
                Ok(place) => learn::learn(&place, duration, &Rules::of(&config.lock_keys), json),
                Err(code) => code,
            }
        }
        Command::Top { every, connect } => match running_lockgate(&sources, connect) {
            Ok(place) => top::top(&place, every),
            Err(code) => code,
        },
        Command::Locks { command } => match command {
            LocksCommand::List { wanted, json } => locks::list(&sources, &wanted.into(), json),
            LocksCommand::Export { wanted } => locks::export(&sources, &wanted.into()),
            LocksCommand::Import => locks::import(&sources),
            LocksCommand::Force { keys } => locks::force(&sources, &keys),
        },
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { folder } => shell::man_pages(&folder),
        Command::Audit { command: AuditCommand::Verify { files } } => audit::verify(&files),
        Command::Become { command } => exec::become_command(&command),
        Command::Ping { timeout } => ping::ping(&sources, timeout),
        Command::Exec { key, wait, priority, ttl, grace, connect, command } => {
            match running_lockgate(&sources, connect) {
                Ok(place) => exec::exec(&exec::Exec { place, key, wait, ttl, grace, priority, command }),
                Err(code) => code,
            }
        }
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

/// Where a running Lockgate is: as `--connect` or LOCKGATE_CONNECT says, else where the configuration lets it listen.
fn running_lockgate(sources: &Sources, connect: Connect) -> Result<Place, ExitCode> {
    match connect.connect.or_else(|| sources.environment.get(CONNECT_VARIABLE).cloned()) {
        Some(url) => match Upstream::parse(&url) {
            Ok(Upstream::Standalone(endpoint)) => with_tls(endpoint, connect.ca),
            Ok(_) => {
                eprintln!(
                    "lockgate: --connect names a Lockgate; write redis://[user:password@]host:port, rediss:// or unix:///path"
                );
                Err(ExitCode::from(USAGE))
            }
            Err(error) => {
                eprintln!("lockgate: the URL of --connect {error}");
                Err(ExitCode::from(USAGE))
            }
        },
        None => match crate::config::load(sources) {
            Ok(loaded) => with_tls(Endpoint::at(ping::reachable(loaded.config.listen)), None),
            Err(problems) => Err(refuse(&problems)),
        },
    }
}

/// How that one is spoken to; its certificate is one that the system, or the authorities in the file `ca`, vouch for.
fn with_tls(endpoint: Endpoint, ca: Option<PathBuf>) -> Result<Place, ExitCode> {
    let wanted = UpstreamTls { ca, ..UpstreamTls::default() };
    match endpoint.is_tls.then(|| ClientTls::load(&wanted)).transpose() {
        Ok(tls) => Ok(Place { endpoint, tls }),
        Err(error) => {
            eprintln!("lockgate: {error}");
            Err(ExitCode::from(FAILURE))
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
