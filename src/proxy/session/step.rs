//! Commands that run alone: what Lockgate answers itself, and what needs a link of its own first.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::set_nx::Verdict;
use super::transaction::Entry;
use super::{Gone, HELD_REQUEST_MAX, Session, treatment};
use crate::commands::{Here, Look, Plan, Treatment, Why, plan};
use crate::protocol::args::{args, encode_command};
use crate::protocol::error::ProtocolError;
use crate::protocol::frame;
use crate::protocol::inline;
use crate::protocol::request::{RequestFrame, RequestScanner};
use crate::proxy::registry::{Path, Wish};
use crate::upstream::call::CallError;
use crate::upstream::dial::LinkKey;
use crate::upstream::link::Sink;
use crate::upstream::pools::Lane;

/// What is said to whoever publishes where only Lockgate does.
pub(super) const OWN_CHANNEL: &str =
    "NOPERM channels that begin with 'lockgate:' carry Lockgate's own messages; publish on another one";

impl Session {
    /// Runs the command at the front of the input.
    pub(super) async fn step(&mut self, frame: RequestFrame) -> Result<(), Gone> {
        let bytes = self.input.split_to(frame.len);
        self.consume(0);
        let (command, frame) = if frame.is_multibulk {
            (Cow::Borrowed(&bytes[..]), frame)
        } else {
            match inline::split(&bytes) {
                Ok(words) if words.is_empty() => return Ok(()),
                Ok(words) => {
                    let mut command = Vec::new();
                    encode_command(&words, &mut command);
                    let Some(frame) = whole(&command) else { return Ok(()) };
                    (Cow::Owned(command), frame)
                }
                Err(error) => return self.refuse_protocol(error).await,
            }
        };
        self.card().touch(&command[frame.name.clone()]);
        self.card().counts(Path::Single, 1);
        self.dispel_doubt().await?;
        #[cfg(test)]
        assert!(command[frame.name.clone()] != *super::FAULT_FOR_A_TEST, "a test wants a fault");
        let facts = self.worker.links().facts();
        let gate = self.gate();
        match gate.judge(&facts.table, &command, &frame) {
            Verdict::Pass => {}
            Verdict::Shadow => {
                self.be_certain().await?;
                if self.own.as_ref().is_none_or(|own| own.may_intercept()) {
                    gate.note_shadow(&command);
                }
            }
            Verdict::Take => {
                if self.intercept(&gate, &command, &frame).await? {
                    return Ok(());
                }
            }
        }
        if self.own.is_some() && self.forward_own(&command, &frame).await? {
            return Ok(());
        }
        if self.is_held_back(&command, &frame) {
            return self.run_on_own(Why::Blocking, &command, &frame).await;
        }
        match treatment(&facts.table, &gate, &command, &frame) {
            Treatment::Hang => Err(Gone),
            Treatment::Here(here) if frame.has_odd_end => {
                // Read as Redis reads it; what is relayed of it must not break a shared link.
                let mut even = Vec::new();
                encode_command(&args(&command).collect::<Vec<_>>(), &mut even);
                let Some(frame) = whole(&even) else { return Ok(()) };
                self.answer_here(here, &even, &frame).await
            }
            // An upstream that minds how arguments end closes the connection, and others share theirs.
            Treatment::Share | Treatment::Script | Treatment::Look(_) if frame.has_odd_end => {
                self.run_on_own(Why::Unknown, &command, &frame).await
            }
            Treatment::Here(here) => self.answer_here(here, &command, &frame).await,
            Treatment::Script | Treatment::Look(Look::LockScript) => {
                self.drain().await?;
                self.goes_over(Lane::Scripts);
                self.submit_alone(&command).await
            }
            Treatment::Share | Treatment::Look(_) => self.submit_alone(&command).await,
            // They pass by whatever keeps the server busy, and no database is theirs.
            Treatment::Own(Why::Kill) => {
                self.worker.registry().took_own_link(Why::Kill);
                self.relay_over(LinkKey { db: 0, ..self.key.clone() }, &command).await
            }
            Treatment::Own(why) => self.run_on_own(why, &command, &frame).await,
        }
    }

    async fn run_on_own(&mut self, why: Why, command: &[u8], frame: &RequestFrame) -> Result<(), Gone> {
        match self.take_own(why).await? {
            Ok(()) => {
                self.forward_own(command, frame).await?;
            }
            Err(error) => self.has_no_own(&error).await?,
        }
        Ok(())
    }

    async fn answer_here(&mut self, here: Here, command: &[u8], frame: &RequestFrame) -> Result<(), Gone> {
        self.drain().await?;
        let args: Vec<&[u8]> = args(command).collect();
        if !matches!(here, Here::Auth | Here::Hello | Here::Reset | Here::Quit) {
            self.is_admitted().await?;
        }
        if here == Here::Client && self.must_authenticate() {
            return self.relay(command).await;
        }
        match here {
            Here::Quit if !self.is_heard() => self.is_to_leave().await,
            Here::Quit => {
                self.answer_line("+OK");
                self.flushed().await?;
                Err(Gone)
            }
            Here::Reset => self.reset(&args).await,
            Here::Hello => self.hello(command, frame, &args).await,
            Here::Auth => self.auth(command, &args).await,
            Here::Select => self.select(command, &args).await,
            Here::Client => self.client_command(command, frame, &args).await,
            Here::Command => self.command_command(command, &args).await,
            Here::Lock => self.lock_command(&args).await,
            Here::OwnChannel => {
                let line = if self.must_authenticate() { "NOAUTH Authentication required." } else { OWN_CHANNEL };
                self.answer_line(&format!("-{line}"));
                Ok(())
            }
        }
    }

    /// `COMMAND …`, which knows LOCK.* too.
    async fn command_command(&mut self, command: &[u8], args: &[&[u8]]) -> Result<(), Gone> {
        match plan(args, self.resp()) {
            Plan::Forward => self.relay(command).await,
            Plan::Ask { request, merge } => {
                match self.ask(request).await? {
                    Ok(reply) => self.answer(&merge.apply(reply)),
                    Err(error) => self.has_no_answer(&error).await?,
                }
                Ok(())
            }
        }
    }

    /// Passes a stateless command on as it is, over whichever link this session is on.
    pub(super) async fn relay(&mut self, command: &[u8]) -> Result<(), Gone> {
        match self.own.as_mut() {
            Some(own) => own.forward_entry(command, Entry::Plain),
            None => self.submit_alone(command).await?,
        }
        Ok(())
    }

    /// Asks one stateless question as this client, and takes the reply instead of passing it on.
    pub(super) async fn ask(&mut self, request: Vec<u8>) -> Result<Result<Vec<u8>, CallError>, Gone> {
        let (router, key) = (self.worker.router().clone(), self.key.clone());
        self.guard(router.call(key, request)).await
    }

    /// Adds Lockgate's own answer; nothing may be owed before it. CLIENT REPLY decides whether it is sent.
    pub(super) fn answer(&mut self, reply: &[u8]) {
        if self.may_answer() {
            self.io.push(reply);
            self.io.flush();
        }
    }

    /// Whether CLIENT REPLY lets the answer to the command at hand be sent; to be asked once for each.
    pub(super) fn may_answer(&mut self) -> bool {
        self.own.as_mut().is_none_or(|own| own.talk.may_answer())
    }

    pub(super) fn is_heard(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.talk.is_heard())
    }

    /// `QUIT`, or `CLIENT KILL` of oneself, where `CLIENT REPLY` lets nothing be said: a server ends the connection behind its answer, and there is none. So it reads
    /// no more, says no more, and the client closes.
    pub(super) async fn is_to_leave(&mut self) -> Result<(), Gone> {
        self.card().is_quitting.store(true, Ordering::Relaxed);
        if let Some(own) = self.own.as_mut() {
            own.talk.falls_silent();
        }
        let io = self.io.clone();
        let mut closed = pin!(io.closed_by_peer());
        std::future::poll_fn(|cx| {
            let is_over = self.has_to_go(cx) || self.worker.is_draining();
            if is_over || (self.own.is_some() && self.pump_own(cx).is_err()) {
                return Poll::Ready(());
            }
            closed.as_mut().poll(cx)
        })
        .await;
        Err(Gone)
    }

    /// An answer of one line, its kind byte first and without its line end, whatever it quotes.
    pub(super) fn answer_line(&mut self, line: &str) {
        let mut out = Vec::new();
        frame::line(line, &mut out);
        self.answer(&out);
    }

    /// What came is no Redis protocol: says so as Redis does, and closes.
    pub(super) async fn refuse_protocol(&mut self, error: ProtocolError) -> Result<(), Gone> {
        self.drain().await?;
        tracing::debug!(client = self.card().id, %error, "protocol error");
        if !self.is_heard() {
            return self.is_to_leave().await;
        }
        let mut line = Vec::new();
        error.encode(&mut line);
        self.answer(&line);
        self.flushed().await?;
        Err(Gone)
    }

    /// A command that Lockgate answers itself does not stream: beyond [`HELD_REQUEST_MAX`] it is refused.
    pub(super) async fn refuse_length(&mut self) -> Result<(), Gone> {
        self.drain().await?;
        self.answer_line(&format!(
            "-ERR this command is longer than {HELD_REQUEST_MAX} bytes, the most that Lockgate holds of one; shorten \
             its arguments"
        ));
        self.flushed().await?;
        Err(Gone)
    }

    /// Waits until every reply owed so far was delivered, and no frame is half out.
    pub(super) async fn drain(&mut self) -> Result<(), Gone> {
        while !self.drained().await? {
            Box::pin(self.answer_due()).await?;
        }
        Ok(())
    }

    /// The same where a reply that is owed may say how the next command is taken.
    pub(super) async fn be_certain(&mut self) -> Result<(), Gone> {
        match self.own.as_ref().is_none_or(|own| own.talk.is_certain()) {
            true => Ok(()),
            false => self.drain().await,
        }
    }

    /// `false` where an answer of Lockgate's own has to be given first.
    async fn drained(&mut self) -> Result<bool, Gone> {
        let io = self.io.clone();
        let mut closed = pin!(io.closed_by_peer());
        std::future::poll_fn(|cx| {
            self.poll_in_line(cx);
            self.io.poll_flush(cx);
            if self.io.is_broken() || self.card().wished() == Wish::Kill {
                return Poll::Ready(Err(Gone));
            }
            if self.own.is_some() && (self.pump_own(cx).is_err() || self.io.is_broken()) {
                return Poll::Ready(Err(Gone));
            }
            if self.io.owed() > 0 {
                self.io.wake_when_owed(0);
                return Poll::Pending;
            }
            let Some(own) = &self.own else { return Poll::Ready(Ok(true)) };
            if own.talk.due().is_some() {
                return Poll::Ready(Ok(false));
            }
            if own.talk.is_settled() && own.link.scanner.is_at_boundary() {
                return Poll::Ready(Ok(true));
            }
            if own.talk.is_blocking() && (self.has_ended_behind(cx)? || closed.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(Gone));
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until the client has taken all that it was sent.
    pub(super) async fn flushed(&mut self) -> Result<(), Gone> {
        std::future::poll_fn(|cx| {
            self.io.poll_flush(cx);
            match self.io.is_broken() || self.card().wished() == Wish::Kill {
                true => Poll::Ready(Err(Gone)),
                false if self.io.is_flushed() => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Runs `work` for as long as the connection lives.
    pub(super) async fn guard<F: Future>(&self, work: F) -> Result<F::Output, Gone> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            self.io.poll_flush(cx);
            if self.io.is_broken() || self.card().wished() == Wish::Kill {
                return Poll::Ready(Err(Gone));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

/// The frame of a command that Lockgate itself encoded.
fn whole(command: &[u8]) -> Option<RequestFrame> {
    let limits = crate::protocol::request::RequestLimits {
        args_max: i32::MAX as u64,
        bulk_max: HELD_REQUEST_MAX as u64,
        unauthenticated: false,
    };
    RequestScanner::new().advance(command, &limits).ok().flatten()
}
