//! Whether the upstream lets in those who come without credentials. It is asked for each of them, by a connection made for that: on a
//! link that stands already they would have the rights of whoever came before the password was set.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::dial::{DialError, Greet, Identity, LinkKey};
use super::links::Links;
use crate::domain::Resp;

/// What a worker knows of it, and the question that is under way.
#[derive(Default)]
pub(super) struct Strangers {
    /// The last answer; `None` before the first.
    needs_auth: Cell<Option<bool>>,
    begun: Cell<u64>,
    answered: Cell<u64>,
    /// The last question had no answer.
    was_in_vain: Cell<bool>,
    over: Notify,
}

impl Strangers {
    /// A new connection without credentials has just been told so.
    pub(super) fn has_met(&self, needs_auth: bool) {
        self.needs_auth.set(Some(needs_auth));
    }

    fn is_asking(&self) -> bool {
        self.begun.get() > self.answered.get()
    }
}

/// Who a client without credentials is, as of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admitted {
    /// The upstream has been asked.
    Surely(bool),
    /// It did not say; this is what it said before.
    Perhaps(bool),
}

impl Links {
    /// Whether the upstream demands that clients authenticate, as far as is known.
    pub fn auth_required(&self) -> bool {
        self.strangers.needs_auth.get().unwrap_or(false)
    }

    /// Asks whether a client that comes now may do anything without authenticating. Those who come while the upstream is asked share
    /// the next question.
    pub async fn admits_strangers(self: Rc<Self>) -> Admitted {
        let before = self.strangers.begun.get();
        while self.strangers.answered.get() <= before {
            if self.away().is_some() {
                return Admitted::Perhaps(!self.auth_required());
            }
            let over = self.strangers.over.notified();
            if !self.strangers.is_asking() {
                self.strangers.begun.set(self.strangers.begun.get() + 1);
                // A client that leaves in between takes the answer from nobody.
                tokio::task::spawn_local(self.clone().ask_for_admission());
            }
            over.await;
        }
        let admits = !self.auth_required();
        if self.strangers.was_in_vain.get() { Admitted::Perhaps(admits) } else { Admitted::Surely(admits) }
    }

    async fn ask_for_admission(self: Rc<Self>) {
        let _over = Over(self.clone());
        let key = LinkKey { identity: Identity::Stranger, db: self.default_db(), resp: Resp::V2 };
        let asked = self.dial_and(Greet::ForAuth, &key, self.settings.silence_max()).await;
        self.strangers.was_in_vain.set(asked.is_err());
        match asked {
            Ok(dialled) => {
                self.strangers.has_met(dialled.needs_auth);
                self.came_up();
            }
            Err(DialError::Refused(_)) => self.came_up(),
            Err(DialError::Unreachable(why)) => self.went_down(&why),
        }
    }
}

/// The question that is under way is over when this is dropped, whatever became of it.
struct Over(Rc<Links>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.strangers.answered.set(self.0.strangers.begun.get());
        self.0.strangers.over.notify_waiters();
    }
}
