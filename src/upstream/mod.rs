//! The servers behind Lockgate: where they are, the links to them (how these are dialled, shared, lent and lost), and
//! the server that Lockgate minds itself.

pub mod admission;
pub mod alive;
pub mod call;
pub mod caller;
pub mod dial;
pub mod embedded;
pub mod facts;
mod idle;
pub mod link;
pub mod links;
pub mod lost;
pub mod misfit;
mod outgoing;
pub mod own;
pub mod peers;
#[cfg(test)]
pub mod pipe;
pub mod pools;
pub mod reach;
mod replicas;
pub mod router;
pub mod sentinel;
#[cfg(test)]
pub mod simulated;
pub mod socket;
pub mod stuck;
pub mod topology;
pub mod url;
mod warm;
pub mod watch;
