//! `SET … NX` and `SETNX` on a lock key: what a session asks for, and how it is answered.

use std::sync::Arc;

use super::hurry::Hurry;
use super::{Asker, Coordinator, UNAUDITED};
use crate::domain::{Level, LockKey, PlainLease};
use crate::locks::{Actor, Answer, AskedFor, Form};
use crate::upstream::call::Caller;

/// A `SET … NX` or `SETNX` on a lock key, in the database of its asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetNx {
    /// The key.
    pub key: Arc<[u8]>,
    /// What the key is to hold: the owner for others to see. Any bytes.
    pub value: Arc<[u8]>,
    /// For how long, counted from the grant.
    pub lease: PlainLease,
    /// What the rule for the key says.
    pub terms: Terms,
}

/// What a rule says about one call. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// How long it queues; 0 for an answer at once.
    pub wait_ms: u64,
    /// How urgently.
    pub level: Level,
    /// How long its place is kept when it is refused; 0 for not at all.
    pub ticket_ms: u64,
    /// Most waiters of the key on this node, where it is not the general number.
    pub max_queue: Option<u64>,
}

/// How a `SET NX` ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetNxAnswer {
    /// The key holds the value.
    Set,
    /// Somebody else's value was there, until the end of the wait.
    NotSet,
    /// A whole error line, without its `-`.
    Error(String),
    /// It never reached the upstream: a whole error line, without its `-`.
    Unreached(String),
    /// The upstream did not answer, and the key may have been set: a whole error line, without its `-`.
    Unknown(String),
    /// The queue cannot be kept: the plain command decides, see [`Coordinator::pass_on`].
    PassOn,
}

impl Coordinator {
    /// Runs one `SET NX`; `hurry` ends its wait early. Dropping the future means that the client has left, or was unblocked: safe at any moment, nothing leaks.
    /// `is_there` is asked at the moment when a grant becomes the answer; a grant that meets nobody goes on to the next. To be
    /// awaited inside a `LocalSet`.
    pub async fn set_nx<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        ask: SetNx,
        hurry: Option<&Hurry>,
        is_there: impl Fn() -> bool,
    ) -> SetNxAnswer {
        self.nodes.is_used();
        if self.cannot_be_audited() {
            return SetNxAnswer::Error(UNAUDITED.into());
        }
        let SetNx { key, value, lease, terms } = ask;
        let written = value.clone();
        let key = LockKey { db: asker.db, name: key };
        let call = self.next_call();
        // Nobody waits beyond the time at which his lease would have ended.
        let useful_ms = match lease {
            PlainLease::AtMs(at_ms) => at_ms.saturating_sub(self.unix_us() / 1000),
            _ => u64::MAX,
        };
        let deadline = (terms.wait_ms > 0).then(|| self.now().plus_ms(terms.wait_ms.min(useful_ms)));
        let asked = AskedFor {
            call,
            actor: if terms.ticket_ms > 0 { Actor::Poller(value.clone()) } else { Actor::Call(call) },
            form: Form::Plain { value, lease },
            level: terms.level,
            may_wait: terms.wait_ms > 0,
            ticket_ms: terms.ticket_ms,
            queue_max: terms.max_queue,
            place: None,
            deadline,
        };
        let own = Hurry::default();
        let hurry = hurry.unwrap_or(&own);
        let is_hurried = async {
            if terms.wait_ms > 0 {
                self.fit.turns_bad().await;
                // Nobody would tell it that the key is free. So it has what its try has brought, as without a wait.
                hurry.give();
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            biased;
            answer = self.wait_for(asker, &key, asked, deadline, Some(hurry), is_there) => answer,
            () = is_hurried => unreachable!("it only hurries the call"),
        };
        let answer = match answer {
            Some((_, answer)) => answer,
            None => return SetNxAnswer::NotSet,
        };
        match answer {
            Answer::Granted { .. } => {
                self.deadlocks.took(&key, asker.session, &written, lease, self.now(), self.unix_us() / 1000);
                SetNxAnswer::Set
            }
            // At the end of this node, too: a client that is told no tries again, elsewhere.
            Answer::NotGranted | Answer::ShuttingDown => SetNxAnswer::NotSet,
            Answer::QueueFull { waiting } => SetNxAnswer::Error(format!(
                "QUEUEFULL '{key}' already has {waiting} waiters; raise max_queue or lower the load"
            )),
            // The client may not run scripts, or not what is in them, or not touch what is kept beside locks: the command itself may be
            // allowed to it.
            Answer::Failed(line) if is_about_rights(&line) => SetNxAnswer::PassOn,
            Answer::Failed(line) => SetNxAnswer::Error(line.to_string()),
            Answer::Unreached(why) => {
                SetNxAnswer::Unreached(format!("UNAVAILABLE {why}; the key was not set, try again"))
            }
            Answer::Unavailable(why) => SetNxAnswer::Unknown(format!(
                "UNAVAILABLE {why}; whether the key was set is unknown, look at its value"
            )),
        }
    }
}

/// An error about what the client's user may do in a script, in the words of Redis up to 7.0, of Redis 7.2 and later, and of Valkey.
pub(super) fn is_about_rights(line: &str) -> bool {
    line.starts_with("NOPERM")
        || line.contains("ACL failure in script")
        || line.contains("The user executing the script can't ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_within_a_script_is_told_from_other_errors() {
        for line in [
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "ERR The user executing the script can't run this command or subcommand",
            "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments",
            "ERR ACL failure in script: User u has no permissions to run the 'exists' command script: 3b0c, on @user_script:1.",
            "ERR ACL failure in script: No permissions to access a key",
        ] {
            assert!(is_about_rights(line), "{line}");
        }
        for line in
            ["OOM command not allowed when used memory > 'maxmemory'.", "READONLY You can't write against a replica."]
        {
            assert!(!is_about_rights(line), "{line}");
        }
    }
}
