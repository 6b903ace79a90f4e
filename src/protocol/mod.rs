//! Frame boundaries and frames. The scanners only find ends and never look at a byte twice; `redis-protocol` decodes
//! the few frames that Lockgate itself has to understand.

pub mod request;
