//! Whether an upstream that does not answer is there. A command that was sent waits for its reply as long as its link stands; what
//! decides about a silent link is whether the *server* answers on another one. A script may keep it from answering anybody for five
//! seconds, and from then on it says `-BUSY`: both is life.

use std::rc::Rc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dial::DialError;
use super::link::Link;
use super::links::Links;

/// What a new connection has shown.
#[derive(Clone, Debug)]
enum Proof {
    /// The server answers, and a script keeps it from anything else: all that was sent will be answered.
    Busy,
    /// The server answers: a link on which nothing comes is lost, or held back by the server.
    Free,
    /// Nothing, for as long as is waited.
    Silent(Rc<str>),
}

/// When the last look for a proof ended, and with what; those who ask at the same time look once.
#[derive(Default)]
pub struct LastProof(Mutex<Option<(Instant, Proof)>>);

impl Links {
    /// Resolves, with the reason, once what was sent on `link` when it had been read `heard` times will not be answered as far as
    /// anybody can tell: the server has been silent for
    /// [`silence_max`](super::links::LinkSettings::silence_max), or answers on other links and holds nothing back on this one.
    pub(super) async fn is_dead(self: &Rc<Self>, link: &Rc<Link>, mut heard: u64) -> String {
        let patience = self.settings().reply_timeout;
        if patience.is_zero() {
            return std::future::pending().await;
        }
        let mut doubted: Option<Instant> = None;
        loop {
            tokio::time::sleep(patience).await;
            if !link.is_silent_since(heard) {
                // It is being dialled, or others are answered before.
                heard = link.heard();
                doubted = None;
                continue;
            }
            doubted = doubted.filter(|since| !link.was_held_upstream_since(*since));
            if let Some(since) = doubted {
                // It is about to be ended, or to be found held back.
                if since.elapsed() < self.settings().silence_max() {
                    continue;
                }
                return format!("the upstream did not answer on this link within {:?}", since.elapsed());
            }
            // Boxed, since it is rare and large.
            match Box::pin(self.proof()).await {
                Proof::Busy => {}
                // It is ended upstream, so that nothing on it runs late, or found held back there.
                Proof::Free => {
                    link.doubt(heard);
                    doubted = Some(Instant::now());
                }
                Proof::Silent(why) => {
                    link.doubt(heard);
                    return why.to_string();
                }
            }
        }
    }

    async fn proof(self: &Rc<Self>) -> Proof {
        let asked = Instant::now();
        let mut last = self.last_proof.0.lock().await;
        if let Some((ended, proof)) = &*last
            && *ended >= asked
        {
            return proof.clone();
        }
        let key = self.service_pool(self.default_db()).key().clone();
        let proof = match self.dial_within(&key, self.settings().connect_timeout).await {
            Ok(dialled) if dialled.is_busy => Proof::Busy,
            Err(DialError::Refused(line)) if line.starts_with(b"-BUSY") => Proof::Busy,
            Ok(_) | Err(DialError::Refused(_)) => Proof::Free,
            Err(DialError::Unreachable(why)) => Proof::Silent(why),
        };
        *last = Some((Instant::now(), proof.clone()));
        proof
    }
}
