//! What has not been sent yet, while no link stands: it waits for a link that is being dialled, and is held for `links.hold` where
//! the upstream is away, so that a restart or a failover goes unnoticed.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::call::{CallError, Caller};
use super::dial::LinkKey;
use super::link::Link;
use super::links::{Links, OwnError, Unavailable};
use super::own::OwnLink;
use super::pools::Pool;

/// Why nothing can be sent.
#[derive(Clone, Debug)]
pub enum NoLink {
    /// The upstream has been away for as long as is waited.
    Away(Unavailable),
    /// The upstream refused the link, with this error line (`-…` without the line end).
    Refused(Rc<[u8]>),
    /// Another server has become the master.
    Former,
}

/// A look at the links of a pool.
pub enum Pick {
    /// This one takes requests at once.
    Open(Rc<Link>),
    /// This one is being dialled.
    Dialling(Rc<Link>),
    /// The upstream is away.
    Away(Unavailable),
}

/// Knocks at a gone upstream within [`LinkSettings::hold`](super::links::LinkSettings), so that what is held is sent soon.
const KNOCKS_PER_HOLD: u32 = 10;

impl Links {
    /// A link of `pool` that takes requests at once, as soon as there is one.
    pub async fn reach(self: Rc<Self>, pool: Rc<Pool>) -> Result<Rc<Link>, NoLink> {
        let mut hold = pin!(self.hold());
        loop {
            if self.is_former() {
                return Err(NoLink::Former);
            }
            match self.pick_open(&pool) {
                Pick::Open(link) => return Ok(link),
                Pick::Dialling(link) => {
                    link.is_settled().await;
                    if let Some(line) = link.refusal() {
                        return Err(NoLink::Refused(line));
                    }
                }
                Pick::Away(away) => {
                    if !self.is_back(hold.as_mut()).await && !self.is_former() {
                        return Err(NoLink::Away(away));
                    }
                }
            }
        }
    }

    /// A link for one session alone, held for as [`Links::reach`] holds.
    pub async fn take_own(self: &Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        self.held(|| self.take_own_now(key)).await
    }

    /// A connection for one session's whole life, see [`Links::take_bare_now`], held for as [`Links::reach`] holds.
    pub async fn take_bare(self: &Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        self.held(|| self.take_bare_now(key)).await
    }

    async fn held<F>(self: &Rc<Self>, take: impl Fn() -> F) -> Result<OwnLink, OwnError>
    where
        F: Future<Output = Result<OwnLink, OwnError>>,
    {
        let mut hold = pin!(self.hold());
        loop {
            match take().await {
                Err(OwnError::Unavailable(away)) => {
                    if self.is_former() || !self.is_back(hold.as_mut()).await {
                        return Err(away.into());
                    }
                }
                taken => return taken,
            }
        }
    }

    /// One command over a shared link of `pool` and its reply; what was never sent is held as [`Links::reach`] holds.
    pub async fn call(self: Rc<Self>, pool: Rc<Pool>, request: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let caller = self.caller(&pool);
        let mut hold = pin!(self.hold());
        loop {
            match caller.call(request.clone()).await {
                Err(CallError::Unavailable(why)) => {
                    if self.is_former() || !self.is_back(hold.as_mut()).await {
                        return Err(CallError::Unavailable(why));
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// The time for which something is held.
    pub fn hold(&self) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(self.settings().hold)
    }

    /// Whether the upstream answers again before `hold` ends.
    pub async fn is_back(self: &Rc<Self>, hold: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = hold => false,
            () = self.comes_back() => true,
            () = self.ceases() => true,
        }
    }

    /// The longest pause between two tries to reach an upstream that has been away for `since`.
    pub(super) fn knock_pause_max(&self, since: Duration) -> Duration {
        let hold = self.settings().hold;
        let longest = self.settings().retry_max.min(super::links::RETRY_AT_LEAST);
        if since <= hold { longest.min((hold / KNOCKS_PER_HOLD).max(self.settings().retry_base)) } else { longest }
    }
}
