//! Links to the upstream: how they are dialled, shared, lent and lost.

pub mod call;
pub mod caller;
pub mod dial;
pub mod facts;
pub mod link;
pub mod links;
pub mod own;
pub mod socket;
pub mod url;
