//! An upstream for simulations: a model of the parts of Redis that Lockgate uses, running the real Lua scripts, and a network before
//! it that delays, loses and cuts. Time is the runtime's, which a simulation lets run ahead; chance comes from a seed.
//!
//! `src/store/conformance` compares the model with a real redis-server.

pub mod data;
pub mod lua;
pub mod net;
pub mod reply;
pub mod server;
