//! The servers behind Lockgate: where they are, the links to them, and the one that Lockgate minds itself.

pub mod embedded;
pub mod url;
