//! Frame boundaries and frames. The scanners only find ends, never look at a byte twice and need no buffer of their own;
//! [`frame`] makes and decodes the few small frames that Lockgate itself has to speak.

pub mod args;
pub mod error;
pub mod frame;
pub mod inline;
mod number;
pub mod proxy_header;
pub mod reply;
pub mod request;
