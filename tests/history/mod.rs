//! Histories of real runs: recorded in full, then checked for what a lock service must never do. See `docs/testing.md`.

pub mod check;
mod client;
mod faults;
pub mod foreign;
mod gate;
mod libraries;
mod namespace;
mod people;
pub mod record;
pub mod run;
mod servers;
mod watchers;
