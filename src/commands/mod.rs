//! Every command as data: how a session treats it, what it does to its connection, where its keys stand, and what
//! `COMMAND` says about the ones that Lockgate adds. No I/O here; `docs/passthrough.md` gives the reasons.

mod builtin;
pub mod client;
mod encode;
pub mod glob;
pub mod introspect;
pub mod lock_args;
pub mod lock_rights;
pub mod lock_scripts;
pub mod lock_spec;
mod look;
pub mod set_nx;
mod table;
mod treatment;
pub(crate) mod wire;

pub use introspect::{Merge, Plan, plan};
pub use lock_spec::{Keys, LOCK_COMMANDS, LockSpec, lock_command};
pub use look::{client_effect, is_own_channel, resolve};
pub use table::{CommandTable, Entry, Flags, LearnError};
pub use treatment::{Channel, Effect, Here, Look, Treatment, Why};
pub use wire::Malformed;
