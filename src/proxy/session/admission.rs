//! A client that has not authenticated: whether it may do anything, the upstream is asked before its first command.

use super::{ARGS_MAX_BEFORE_AUTH, BULK_MAX_BEFORE_AUTH, Gone, Session};
use crate::protocol::args::args;
use crate::protocol::request::{RequestLimits, RequestScanner};
use crate::upstream::admission::Admitted;
use crate::upstream::dial::{Identity, LinkKey, for_auth, is_noauth};

/// How a session knows whether it has to authenticate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Nobody was asked yet.
    Unasked,
    /// The upstream did not say: it was away.
    Unsure,
    /// The upstream has said it.
    Asked,
}

impl Session {
    /// The upstream demands a password that this client has not given.
    pub(super) fn must_authenticate(&self) -> bool {
        self.key.identity == Identity::Stranger
            && (self.admission == Admission::Asked || self.worker.links().auth_required())
    }

    /// The upstream is to be asked before anything is sent for this client.
    pub(super) fn must_ask(&self) -> bool {
        let links = self.worker.links();
        match (&self.key.identity, self.admission) {
            (Identity::Service | Identity::Named(_), _) => false,
            (Identity::Anonymous | Identity::Stranger, Admission::Unasked) => true,
            (Identity::Anonymous | Identity::Stranger, Admission::Unsure) => links.is_there(),
            (Identity::Stranger, Admission::Asked) => !links.auth_required(),
            (Identity::Anonymous, Admission::Asked) => false,
        }
    }

    /// Asks the upstream whether this client has to authenticate, where that is to be asked: over its own link, if it has one, which was
    /// there when the client came; nothing may be owed then.
    pub(super) async fn is_admitted(&mut self) -> Result<(), Gone> {
        if !self.must_ask() {
            return Ok(());
        }
        let admitted = match &self.own {
            Some(own) if own.may_ask() => {
                let reply = self.ask_own(&for_auth()).await?;
                Admitted::Surely(!is_noauth(&reply))
            }
            Some(_) => return Ok(()),
            None => {
                self.drain().await?;
                let links = self.worker.links();
                self.guard(links.admits_strangers()).await?
            }
        };
        let (admits, admission) = match admitted {
            Admitted::Surely(admits) => (admits, Admission::Asked),
            Admitted::Perhaps(admits) => (admits, Admission::Unsure),
        };
        self.admission = admission;
        let identity = if admits { Identity::Anonymous } else { Identity::Stranger };
        if identity != self.key.identity {
            self.set_key(LinkKey { identity, ..self.key.clone() });
        }
        Ok(())
    }

    /// It is as a client that has just come.
    pub(super) fn begins_anew(&mut self) {
        self.admission = Admission::Unasked;
        self.set_key(self.worker.initial_key(self.certified.as_deref()));
    }
}

/// Whether `bytes` begin with a whole `AUTH`, or a `HELLO` that authenticates: what its client was before does not matter to it.
pub(super) fn is_credentials(bytes: &[u8]) -> bool {
    let limits =
        RequestLimits { args_max: ARGS_MAX_BEFORE_AUTH, bulk_max: BULK_MAX_BEFORE_AUTH, unauthenticated: true };
    let Ok(Some(frame)) = RequestScanner::new().advance(bytes, &limits) else { return false };
    if !frame.is_multibulk {
        return false;
    }
    let mut words = args(&bytes[..frame.len]);
    match words.next() {
        Some(name) if name.eq_ignore_ascii_case(b"auth") => true,
        Some(name) if name.eq_ignore_ascii_case(b"hello") => {
            words.nth(1).is_some_and(|word| word.eq_ignore_ascii_case(b"auth"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_authenticates_at_once_needs_no_question() {
        let command = |line: &str| {
            let mut out = Vec::new();
            crate::protocol::args::encode_command(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>(), &mut out);
            out
        };
        for line in ["AUTH pw", "auth user pw", "HELLO 3 AUTH u p", "hello 2 auth u p SETNAME n"] {
            assert!(is_credentials(&command(line)), "{line}");
        }
        for line in ["GET k", "HELLO", "HELLO 3", "HELLO 3 SETNAME auth", "HELLO AUTH u p", "MULTI", "QUIT"] {
            assert!(!is_credentials(&command(line)), "{line}");
        }
        let cut = command("AUTH pw");
        assert!(!is_credentials(&cut[..cut.len() - 3]));
        assert!(!is_credentials(b""));
    }
}
