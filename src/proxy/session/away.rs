//! The upstream is away: what this client sends is held while Lockgate reconnects. Then, and where something sent may have run, its
//! connection ends as it would with a Redis that has gone, or it is told so (`when_away`).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Gone, Session};
use crate::protocol::frame;
use crate::upstream::call::CallError;
use crate::upstream::link::{Link, Sink};
use crate::upstream::links::OwnError;
use crate::upstream::pools::Lane;
use crate::upstream::reach::{NoLink, Pick};

/// The link for what a session has to send, once there is one.
pub(super) type Reaching = Pin<Box<dyn Future<Output = Result<Rc<Link>, NoLink>>>>;

/// What became of commands for a shared link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Submitted {
    /// They were sent, or answered here.
    Done,
    /// No link stands yet; the session is woken to try again.
    Held,
    /// The connection is to end.
    Ends,
}

impl Session {
    /// The link for what is sent next, whose replies nobody else waits for yet.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Result<Rc<Link>, NoLink>> {
        let links = &self.master;
        if self.reaching.is_none() {
            let pool = &self.pool.lane(self.lane);
            match links.pick_open(pool) {
                Pick::Open(link) => return Poll::Ready(Ok(link)),
                Pick::Dialling(_) | Pick::Away(_) => {
                    self.reaching = Some(Box::pin(links.clone().reach(pool.clone())));
                }
            }
        }
        let Some(reaching) = &mut self.reaching else { return Poll::Pending };
        let outcome = reaching.as_mut().poll(cx);
        if outcome.is_ready() {
            self.reaching = None;
        }
        outcome
    }

    /// A link that stands, for a call that has its place among what the session sends; `None` where it has to wait for one, or be told
    /// that there is none.
    pub(super) fn standing_link(&mut self) -> Option<Rc<Link>> {
        if let Some(link) = self.link.as_ref().filter(|_| self.io.owed() > 0) {
            return link.is_open().then(|| link.clone());
        }
        // A pause that Lockgate was not told of holds back what writes, and only those wait for it who share its link.
        match self.master.pick_open(&self.pool.lane(Lane::Locks)) {
            Pick::Open(link) if self.reaching.is_none() => {
                self.goes_over(Lane::Locks);
                self.link = Some(link.clone());
                Some(link)
            }
            _ => None,
        }
    }

    /// Sends whole commands that owe `replies` over a shared link.
    pub(super) fn submit(&mut self, cx: &mut Context<'_>, commands: &[u8], replies: u32) -> Submitted {
        if replies == 0 {
            return Submitted::Done;
        }
        let next = match &self.link {
            Some(link) if link.is_usable() && self.io.owed() > 0 => Poll::Ready(Ok(link.clone())),
            _ => self.poll_link(cx),
        };
        let link = match next {
            Poll::Ready(Ok(link)) => link,
            Poll::Pending => return Submitted::Held,
            Poll::Ready(Err(NoLink::Away(_))) if self.worker.closes_when_away() => return Submitted::Ends,
            Poll::Ready(Err(NoLink::Away(away))) => {
                let mut line = Vec::new();
                frame::error(away.to_string(), &mut line);
                self.refuse(&line, replies);
                return Submitted::Done;
            }
            Poll::Ready(Err(NoLink::Former)) => {
                self.follows();
                cx.waker().wake_by_ref();
                return Submitted::Held;
            }
            // A password is asked for no longer.
            Poll::Ready(Err(NoLink::Refused(_))) if self.must_ask() => {
                cx.waker().wake_by_ref();
                return Submitted::Held;
            }
            Poll::Ready(Err(NoLink::Refused(line))) => {
                self.refuse(&[&line, &b"\r\n"[..]].concat(), replies);
                return Submitted::Done;
            }
        };
        self.io.owe(u64::from(replies));
        link.send(commands, &self.sink, replies);
        self.link = Some(link);
        Submitted::Done
    }

    fn refuse(&self, line: &[u8], replies: u32) {
        for _ in 0..replies {
            self.io.push(line);
        }
        self.io.flush();
    }

    /// As [`Session::submit`], for a command that runs alone.
    pub(super) async fn submit_alone(&mut self, command: &[u8]) -> Result<(), Gone> {
        std::future::poll_fn(|cx| {
            if self.has_to_go(cx) {
                return Poll::Ready(Err(Gone));
            }
            match self.submit(cx, command, 1) {
                Submitted::Done => Poll::Ready(Ok(())),
                Submitted::Held => Poll::Pending,
                Submitted::Ends => Poll::Ready(Err(Gone)),
            }
        })
        .await
    }

    /// What was to be answered will not be: ends the connection, or says why.
    pub(super) async fn is_away(&mut self, line: &str) -> Result<(), Gone> {
        if self.worker.closes_when_away() {
            self.flushed().await?;
            return Err(Gone);
        }
        self.answer_line(line);
        Ok(())
    }

    /// Tells why there is no link of its own.
    pub(super) async fn has_no_own(&mut self, error: &OwnError) -> Result<(), Gone> {
        match error {
            OwnError::Unavailable(_) => self.is_away(&format!("-{error}")).await,
            OwnError::Exhausted(_) | OwnError::Refused(_) => {
                self.answer_line(&format!("-{error}"));
                Ok(())
            }
        }
    }

    /// Tells why a question to the upstream has no answer.
    pub(super) async fn has_no_answer(&mut self, error: &CallError) -> Result<(), Gone> {
        self.is_away(&format!("-UNAVAILABLE {error}")).await
    }
}
