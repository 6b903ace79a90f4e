//! What shells and `man` want to know of the command line, made from the command line itself.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::FAILURE;
use super::args::Arguments;

/// Prints completions.
pub(super) fn completions(shell: Shell) -> ExitCode {
    clap_complete::generate(shell, &mut Arguments::command(), "lockgate", &mut io::stdout());
    ExitCode::SUCCESS
}

/// Writes a page for the program and one for each command.
pub(super) fn man_pages(folder: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Arguments::command(), folder));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockgate: cannot write to {}: {error}", folder.display());
            ExitCode::from(FAILURE)
        }
    }
}
