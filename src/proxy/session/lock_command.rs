//! `LOCK.*`: parsed here, decided by the coordinator. A call stalls this connection only, as BLPOP does.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::set_nx::user;
use super::{Gone, Session};
use crate::commands::lock_args::LockCommand;
use crate::coordinator::{Asker, LockReply};
use crate::domain::Resp;
use crate::proxy::registry::Wish;
use crate::upstream::caller::LinkCaller;
use crate::upstream::dial::LinkKey;

/// How a call ended.
pub(super) enum Ending<T> {
    Answered(T),
    Unblocked(Wish),
}

impl Session {
    pub(super) async fn lock_command(&mut self, args: &[&[u8]]) -> Result<(), Gone> {
        let command = match LockCommand::parse(args) {
            Ok(command) => command,
            Err(error) => {
                self.answer_line(&format!("-{error}"));
                return Ok(());
            }
        };
        if self.must_authenticate() {
            self.answer_line("-NOAUTH Authentication required.");
            return Ok(());
        }
        let may_wait = command.may_wait();
        let asker = self.asker();
        let coordinator = self.worker.coordinator().clone();
        if may_wait {
            self.card().fulfil();
            self.card().waits_for_lock.store(true, Ordering::Release);
        }
        let io = self.io.clone();
        // A grant that comes when its client has already left goes on to the next.
        let is_there = move || !(may_wait && io.peer_has_closed());
        let ending = self.lock_ending(coordinator.run_while(&asker, command, is_there), may_wait).await;
        self.card().waits_for_lock.store(false, Ordering::Release);
        let mut out = Vec::new();
        match ending? {
            Ending::Answered(reply) => reply.encode(self.resp(), &mut out),
            Ending::Unblocked(Wish::UnblockError) => {
                out.extend_from_slice(b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
            }
            Ending::Unblocked(_) => LockReply::Nil.encode(self.resp(), &mut out),
        }
        self.card().fulfil();
        self.answer(&out);
        Ok(())
    }

    pub(super) fn asker(&self) -> Asker<LinkCaller> {
        let links = self.worker.links();
        let db = self.key.db;
        // The script's replies are read here, so that RESP2 serves whatever the client speaks.
        let own_kind = links.pool(LinkKey { resp: Resp::V2, ..self.key.clone() });
        Asker {
            db,
            session: self.card().id,
            user: user(&self.key.identity).into(),
            caller: links.caller(&own_kind),
            service: links.caller(&links.service_pool(db)),
            bound: self.bound.clone(),
        }
    }

    /// Waits for the answer, for the client to leave, or for somebody to unblock it. Dropping `call` tells the
    /// coordinator that nobody waits any more.
    pub(super) async fn lock_ending<T>(
        &mut self,
        call: impl Future<Output = T>,
        may_wait: bool,
    ) -> Result<Ending<T>, Gone> {
        let io = self.io.clone();
        let mut call = pin!(call);
        let mut closed = pin!(io.closed_by_peer());
        std::future::poll_fn(|cx| {
            self.io.poll_flush(cx);
            // Pushes do not wait for the lock.
            if self.own.is_some() && self.pump_own(cx).is_err() {
                return Poll::Ready(Err(Gone));
            }
            if let Poll::Ready(reply) = call.as_mut().poll(cx) {
                return Poll::Ready(Ok(Ending::Answered(reply)));
            }
            match self.card().wished() {
                Wish::Kill => return Poll::Ready(Err(Gone)),
                wish @ (Wish::UnblockTimeout | Wish::UnblockError) if may_wait => {
                    return Poll::Ready(Ok(Ending::Unblocked(wish)));
                }
                _ => {}
            }
            if self.io.is_broken() || (may_wait && closed.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(Gone));
            }
            Poll::Pending
        })
        .await
    }
}
