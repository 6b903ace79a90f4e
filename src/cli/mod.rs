//! Arguments → config → runtime → wiring → exit code.

use std::process::ExitCode;

/// Reads the arguments, runs what they ask for and tells the exit code: 0 fine, 1 a failure, 2 wrong usage.
pub fn run() -> ExitCode {
    ExitCode::from(2)
}
