//! What the outside sees of the inside: logs, and the memory that the process holds.

pub mod fault;
pub mod log;
pub mod memory;
pub mod seldom;
