//! Who may do what, where Lockgate has users of its own: rules in Redis' own syntax, the users they make, and the judgement of one command.
//! Pure: time, dice and files are handed in. `docs/access.md` gives the reasons.
//!
//! A [`Catalog`] is what an upstream says of its commands, [`Users`] are made against it, and [`judge`] asks both. What servers differ in is
//! a [`Dialect`].

mod answers;
mod arguments;
mod builtin;
mod catalog;
mod category;
mod channels;
mod command;
mod databases;
mod describe;
mod dialect;
mod file;
mod keys;
mod keys_by_hand;
mod learn;
mod log;
mod password;
mod pattern;
mod rule;
mod selector;
mod subscriptions;
#[cfg(test)]
mod tests;
mod told;
mod user;
mod users;
mod verdict;

pub use catalog::{Catalog, Command, CommandId, Found};
pub use category::{Categories, CategoryNames};
pub use command::{Answer, Asker, AuthError, acl, auth};
pub use describe::SelectorText;
pub use dialect::{Dialect, Payload, Product};
pub use keys::{KeyRef, KeyRefs, Touch};
pub use log::{Context, Log, LogEntry, Reason};
pub use password::{GENPASS_BITS_MAX, PasswordHash, genpass};
pub use rule::RuleError;
pub use subscriptions::may_stay_subscribed;
pub use user::User;
pub use users::Users;
pub use verdict::{Denied, Request, What, judge, may_all};
