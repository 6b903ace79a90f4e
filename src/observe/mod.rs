//! What the outside sees of the inside. So far: logs.

pub mod log;
