//! Random conversations, played straight to a server and through Lockgate.

pub(crate) use super::common;

pub mod connection;
pub mod conversation;
pub mod generator;
pub mod judge;
pub mod links;
pub mod mask;
pub mod player;
pub mod shrink;
pub mod side;
pub mod vocabulary;
