//! Who waits for which lock, and who is next: pure. No clock, no dice, no upstream in here; the coordinator brings them.

mod asking;
mod call;
mod claim;
mod ending;
pub mod event;
mod hand_on;
pub mod line;
mod look;
mod places;
pub mod rank;
mod ranking;
mod slab;
pub mod survey;
pub mod victim;
pub mod wait;
pub mod wait_graph;

pub use event::{
    Action, Actor, Answer, AskedFor, Event, Form, Grant, Handed, Handing, Named, Offer, Registered, Released, Seen,
    Sent, Standing, Task, Tried, Turn,
};
pub use line::{Line, LineRules};
pub use look::Waiter;

#[cfg(test)]
mod deadlock_tests;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;
