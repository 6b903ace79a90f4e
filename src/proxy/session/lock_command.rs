//! `LOCK.*`: parsed here, decided by the coordinator. A call stalls this connection only, as BLPOP does. What is not about locks
//! alone is answered here: `LOCK.CONFIG`, `LOCK.HELP`, and `LOCK.GUARD`, which has a file of its own.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::lock_help;
use super::own::OwnMode;
use super::pipelined::LOOK_AFTER;
use super::set_nx::user;
use super::{Gone, Session};
use crate::commands::glob;
use crate::commands::lock_args::{ConfigArgs, LockCommand, LockRequest};
use crate::commands::lock_rights::needed_for;
use crate::coordinator::{Hurry, LockReply, LostLock};
use crate::domain::Resp;
use crate::protocol::frame;
use crate::proxy::registry::Wish;
use crate::upstream::link::Sink;

/// What is said to a client whose rights nobody here knows.
const USER_UNKNOWN: &str = "-NOPERM a refused HELLO may have made this connection another user, and the upstream tells nobody which \
                            (ACL WHOAMI, CLIENT LIST); authenticate again";

/// How a call ended.
pub(super) enum Ending<T> {
    Answered(T),
    Unblocked(Wish),
}

impl Session {
    pub(super) async fn lock_command(&mut self, args: &[&[u8]]) -> Result<(), Gone> {
        if self.must_authenticate() {
            self.answer_line("-NOAUTH Authentication required.");
            return Ok(());
        }
        let request = match LockRequest::parse(args) {
            Ok(request) => request,
            Err(error) => {
                self.answer_line(&format!("-{error}"));
                return Ok(());
            }
        };
        if self.own.as_ref().is_some_and(|own| own.talk.is_user_unknown()) {
            self.answer_line(USER_UNKNOWN);
            return Ok(());
        }
        if let Some(needed) = needed_for(&request)
            && !self.is_entitled(args[0], needed).await?
        {
            return Ok(());
        }
        match request {
            LockRequest::Engine(command) => self.lock_call(command).await?,
            LockRequest::Guard(guard) => self.guarded(guard).await?,
            LockRequest::Config(ConfigArgs::Get(globs)) => {
                let mut values = self.worker.config().values();
                values.retain(|(name, _)| globs.iter().any(|glob| glob::matches(glob, name.as_bytes())));
                let map = values.into_iter().map(|(name, value)| (name, LockReply::Bulk(value.into_bytes())));
                self.answer_lock(&LockReply::Map(map.collect()));
            }
            LockRequest::Config(ConfigArgs::Set(pairs)) => self.set_config(&pairs),
            LockRequest::Help => self.answer_lock(&lock_help::lines()),
        }
        Ok(())
    }

    fn set_config(&mut self, pairs: &[(String, String)]) {
        let reply = match self.worker.config().set(pairs) {
            Ok(()) => {
                let card = self.card();
                let user = user(&self.key.identity).escape_ascii();
                for (name, value) in pairs {
                    tracing::info!(name, value, %user, client = card.id, addr = card.peer, "LOCK.CONFIG SET");
                }
                LockReply::ok()
            }
            Err(says) => LockReply::Error(format!("ERR {says}")),
        };
        self.answer_lock(&reply);
    }

    async fn lock_call(&mut self, command: LockCommand) -> Result<(), Gone> {
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
        let ending = self.lock_ending(coordinator.run_while(&asker, command, is_there), may_wait, None).await;
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

    fn answer_lock(&mut self, reply: &LockReply) {
        let mut out = Vec::new();
        reply.encode(self.resp(), &mut out);
        self.answer(&out);
    }

    /// Tells of renewed locks that were lost, unless a frame is half out. Only RESP3 has frames that nobody asked for.
    pub(super) fn tell_lost(&mut self) {
        if !self.bound.has_lost() || !self.is_between_frames() {
            return;
        }
        while let Some(LostLock { key, owner, reason }) = self.bound.take_lost() {
            if self.resp() == Resp::V3 {
                let mut push = Vec::new();
                frame::push(Resp::V3, 4, &mut push);
                for part in [b"lock.lost", &*key, owner.as_bytes(), reason.as_bytes()] {
                    frame::bulk(part, &mut push);
                }
                self.io.push(&push);
            }
        }
        self.io.flush();
    }

    /// Whether a loss is to be told first: no more is asked of a shared link meanwhile.
    pub(super) fn must_tell_lost(&self) -> bool {
        self.bound.has_lost() && self.resp() == Resp::V3
    }

    fn is_between_frames(&self) -> bool {
        let own_is = |own: &OwnMode| own.talk.is_between_replies() && own.link.scanner.is_at_boundary();
        self.io.owed() == 0 && self.own.as_deref().is_none_or(own_is)
    }

    /// Waits for the answer, for the client to leave, or for somebody to unblock it; `hurry` is given when anything arrives behind the
    /// call. Dropping `call` tells the coordinator that nobody waits any more. The answer has its place behind a push that is half sent,
    /// and before what the call itself has brought about: where it does not wait, nothing is read of the own link meanwhile.
    pub(super) async fn lock_ending<T>(
        &mut self,
        call: impl Future<Output = T>,
        may_wait: bool,
        hurry: Option<&Hurry>,
    ) -> Result<Ending<T>, Gone> {
        let ending = self.call_ending(call, may_wait, hurry).await?;
        if may_wait {
            self.drain().await?;
        }
        Ok(ending)
    }

    async fn call_ending<T>(
        &mut self,
        call: impl Future<Output = T>,
        may_wait: bool,
        hurry: Option<&Hurry>,
    ) -> Result<Ending<T>, Gone> {
        let io = self.io.clone();
        let mut call = pin!(call);
        let mut closed = pin!(io.closed_by_peer());
        let mut pipelined = if may_wait && hurry.is_none() { self.looks_behind() } else { None };
        let mut patience = pin!(tokio::time::sleep(LOOK_AFTER));
        std::future::poll_fn(|cx| {
            self.io.poll_flush(cx);
            // Pushes do not wait for the lock.
            if may_wait && self.own.is_some() && self.pump_own(cx).is_err() {
                return Poll::Ready(Err(Gone));
            }
            self.tell_lost();
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
            if let Some(hurry) = hurry.filter(|hurry| !hurry.was_given())
                && self.has_something_behind(cx)?
            {
                hurry.give();
                cx.waker().wake_by_ref();
            }
            if let Some(pipelined) = &mut pipelined
                && (patience.is_elapsed() || patience.as_mut().poll(cx).is_ready())
                && self.look_behind(cx, pipelined).is_err()
            {
                return Poll::Ready(Err(Gone));
            }
            Poll::Pending
        })
        .await
    }
}
