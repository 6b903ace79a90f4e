//! `lockgate audit verify`: whether an audit is what was written.

use std::path::PathBuf;
use std::process::ExitCode;

use super::FAILURE;
use crate::audit::{self, Verdict};

pub(super) fn verify(files: &[PathBuf]) -> ExitCode {
    match audit::verify(files) {
        Ok(Verdict::Whole { lines, first, last }) => {
            println!("{lines} lines from number {first}, whole; the last has the hash {last}");
            ExitCode::SUCCESS
        }
        Ok(Verdict::Empty) => {
            println!("no lines");
            ExitCode::SUCCESS
        }
        Ok(Verdict::Broken { file, line, why }) => {
            eprintln!("lockgate: {}:{line}: {why}", file.display());
            ExitCode::from(FAILURE)
        }
        Err((file, error)) => {
            eprintln!("lockgate: cannot read {} ({error}); check the path and its permissions", file.display());
            ExitCode::from(FAILURE)
        }
    }
}
