//! What a `HELLO` that was refused may have done all the same: Redis 7.0 carries its options out one after the other, and those in front
//! of the one that it refuses stay. The client is on its own link until the upstream was asked who it is now.

use super::handshake::HelloOption;
use super::transaction::SessionChange;
use super::{Gone, Session};
use crate::commands::client::kept_name;
use crate::protocol::args::encode_command;
use crate::protocol::frame::{self, Value};
use crate::proxy::client_list;
use crate::upstream::call::Caller;
use crate::upstream::dial::{Credentials, Identity};

/// The options that may have been carried out, in order.
#[derive(Default)]
pub(super) struct Doubt {
    options: Vec<HelloOption>,
}

impl Doubt {
    /// A `HELLO` with these options was refused in the words that begin with `word`.
    pub(super) fn refused(&mut self, mut options: Vec<HelloOption>, word: &[u8]) {
        if word.starts_with(b"WRONGPASS") {
            // One of the passwords is wrong, so that the last one was not reached or is it.
            let last = options.iter().rposition(|option| matches!(option, HelloOption::Auth(_)));
            options.truncate(last.unwrap_or(0));
        }
        self.options.extend(options);
    }

    /// A reply has shown who the connection is.
    pub(super) fn is_user_known(&mut self) {
        self.options.retain(|option| !matches!(option, HelloOption::Auth(_)));
    }

    /// A reply has shown its name.
    pub(super) fn is_name_known(&mut self) {
        self.options.retain(|option| !matches!(option, HelloOption::Name(_)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.options.is_empty()
    }

    fn has_users(&self) -> bool {
        self.options.iter().any(|option| matches!(option, HelloOption::Auth(_)))
    }

    fn has_names(&self) -> bool {
        self.options.iter().any(|option| matches!(option, HelloOption::Name(_)))
    }

    /// What the client has authenticated with where the upstream says that it is `user`; `None` where that is who it was before.
    fn credentials(&self, user: &[u8], before: &Identity) -> Option<Credentials> {
        if matches!(before, Identity::Named(known) if known.user.as_deref().unwrap_or(b"default") == user) {
            return None;
        }
        self.options.iter().find_map(|option| match option {
            HelloOption::Auth(auth) if auth.user.as_deref() == Some(user) => Some(auth.clone()),
            _ => None,
        })
    }

    fn is_name(&self, name: &[u8]) -> bool {
        self.options.iter().any(|option| matches!(option, HelloOption::Name(other) if other == name))
    }
}

impl Session {
    /// Asks the upstream what a refused `HELLO` has done, before anything depends on it. Within a transaction nothing does: all of it
    /// goes over the link.
    pub(super) async fn dispel_doubt(&mut self) -> Result<(), Gone> {
        if self.own.as_ref().is_none_or(|own| own.talk.doubt().is_none()) {
            return Ok(());
        }
        self.drain().await?;
        let Some(own) = self.own.as_ref().filter(|own| own.is_plain() && !own.talk.is_pubsub_only()) else {
            return Ok(());
        };
        let (asks_user, asks_name) =
            own.talk.doubt().map_or((false, false), |doubt| (doubt.has_users(), doubt.has_names()));
        if asks_user {
            let reply = self.ask_own(&encoded(&[b"ACL", b"WHOAMI"])).await?;
            // Whoever may not ask that is named by the list of clients.
            let reply = if reply.starts_with(b"-NOPERM") { self.user_listed().await? } else { reply };
            let is_told = self.is_user(&reply);
            if let Some(own) = self.own.as_mut() {
                own.talk.user_is_known(is_told);
            }
        }
        if asks_name {
            let reply = self.ask_own(&encoded(&[b"CLIENT", b"GETNAME"])).await?;
            // Before the client has authenticated it is not told; then it is asked once more.
            if !reply.starts_with(b"-NOAUTH") {
                self.is_named(&reply);
                if let Some(own) = self.own.as_mut() {
                    own.talk.name_is_known();
                }
            }
        }
        self.apply_changes();
        self.release_own();
        Ok(())
    }

    /// The user of the own link as the upstream lists it, encoded as `ACL WHOAMI` has it; empty where it does not.
    async fn user_listed(&mut self) -> Result<Vec<u8>, Gone> {
        let id = self.own.as_ref().map_or(0, |own| own.link.upstream_id()).to_string();
        let links = self.worker.links();
        let question = encoded(&[b"CLIENT", b"LIST", b"ID", id.as_bytes()]);
        let listed = self.guard(links.caller(&links.service_pool(links.default_db())).call(question)).await?;
        let mut out = Vec::new();
        if let Ok(Value::Bulk(line)) = frame::decode(&listed.unwrap_or_default())
            && let Some(user) = client_list::value_of(line, b"user")
        {
            frame::bulk(user, &mut out);
        }
        Ok(out)
    }

    /// Takes over who the upstream says that the connection is; `false` where it does not say.
    fn is_user(&mut self, reply: &[u8]) -> bool {
        let Some(own) = self.own.as_mut() else { return true };
        match frame::decode(reply) {
            Ok(Value::Bulk(user)) => {
                if let Some(credentials) =
                    own.talk.doubt().and_then(|doubt| doubt.credentials(user, &self.key.identity))
                {
                    own.talk.has_changed(SessionChange::Identity(credentials));
                }
                true
            }
            // Nobody has authenticated.
            _ => reply.starts_with(b"-NOAUTH"),
        }
    }

    fn is_named(&mut self, reply: &[u8]) {
        let Some(doubt) = self.own.as_ref().and_then(|own| own.talk.doubt()) else { return };
        if let Ok(Value::Bulk(name)) = frame::decode(reply)
            && doubt.is_name(kept_name(name))
        {
            self.card().profile().name = kept_name(name).to_vec();
        }
    }
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(words, &mut out);
    out
}
