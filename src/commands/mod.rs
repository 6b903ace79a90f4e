//! Commands and their arguments.

pub mod lock_args;
