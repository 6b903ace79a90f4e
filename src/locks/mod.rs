//! Who waits for which lock, and who is next: pure. No clock, no dice, no upstream in here; the coordinator brings them.

mod call;
pub mod event;
mod hand_on;
pub mod line;
mod look;
pub mod rank;
mod ranking;

pub use event::{Action, Answer, AskedFor, Event, Grant, Handing, Named, Offer, Released, Seen, Tried};
pub use line::{Line, LineRules};
pub use look::Waiter;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
