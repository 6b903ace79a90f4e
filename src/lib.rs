//! The map of the house. One direction of dependencies:
//! `main → cli → app → proxy → coordinator → store → upstream → commands → protocol → domain`;
//! `locks`, the pure state machine, uses only `domain`; `tls`, below `upstream`, uses nothing but files; `access`, as pure, says who may, by `commands`; `config` and `observe` are data that any layer may read.

pub mod access;
pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod commands;
pub mod config;
pub mod coordinator;
pub mod domain;
pub mod events;
pub mod health;
pub mod locks;
pub mod observe;
pub mod protocol;
pub mod proxy;
pub mod store;
pub mod tls;
pub mod upstream;
