//! Links to the upstream.

pub mod call;
