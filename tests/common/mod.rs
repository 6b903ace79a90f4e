//! What the tests about the product share: real servers that live as long as the test, Lockgate's own binary, a raw
//! connection that sees every byte, and waiting for a state instead of for a time.

// Every test file compiles this folder for itself and uses a part of it.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

pub mod admin;
pub mod certificates;
pub mod circle;
pub mod holder;
pub mod lockgate;
pub mod meddler;
pub mod network;
pub mod node;
pub mod relay;
pub mod reply;
pub mod sentinels;
pub mod server;
pub mod speaker;
pub mod stage;
pub mod tools;
pub mod wait;
pub mod wire;
pub mod words;

pub use admin::Admin;
pub use certificates::{Certificates, TlsWire};
pub use circle::Circle;
pub use lockgate::Lockgate;
pub use node::Node;
pub use reply::Reply;
pub use sentinels::Watched;
pub use server::{RedisServer, ServerKind};
pub use speaker::Speaker;
pub use stage::Stage;
pub use wait::{PATIENCE, eventually, within};
pub use wire::{Wire, command};
