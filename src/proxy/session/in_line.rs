//! Lock commands that need not wait, in their place among what a client pipelines: each is one script on the link that the session is on
//! anyway, sent where the command stood, and its answer has its place among the replies (see [`super::answers`]). So the stream goes on,
//! and the order of effects is that of a direct connection.
//!
//! What such a command could not be in order with runs as a step: a call that may wait, one that is not sent at once, and a second
//! one on the same key while the first is under way, which the lock engine would take for the owner's newer call.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};

use super::Session;
use super::answers::Place;
use super::grants::Grant;
use super::set_nx::{Gate, goes_on, user};
use crate::commands::lock_args::{LockCommand, LockRequest};
use crate::commands::set_nx::{PlainCall, PlainForm};
use crate::commands::{self, Here, Treatment};
use crate::coordinator::{Asker, RuleCounts, SetNx, SetNxAnswer};
use crate::domain::{FastSet, LockKey, Resp};
use crate::protocol::args::args;
use crate::protocol::frame;
use crate::protocol::request::RequestFrame;
use crate::proxy::registry::Path;
use crate::upstream::caller::LinkCaller;
use crate::upstream::dial::LinkKey;
use crate::upstream::pools::Lane;

/// What became of a lock command at the front of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queued {
    /// It is under way, and has its place.
    UnderWay,
    /// It has to wait; the session is woken to try again.
    Held,
    /// It is to run alone.
    Alone,
}

/// A call that has come to its end.
struct Done {
    place: Place,
    keys: Vec<LockKey>,
    outcome: Outcome,
}

enum Outcome {
    /// The whole reply, and what a `SET NX` took.
    Answer(Vec<u8>, Option<Grant>),
    /// The upstream is away: a whole error line, which only a client that asked for errors is told.
    Away(String),
}

type Work = Pin<Box<dyn Future<Output = Done>>>;

/// The calls of one session that are under way in their places.
#[derive(Default)]
pub(super) struct InLine {
    calls: FuturesUnordered<Work>,
    /// The locks that they are about.
    keys: FastSet<LockKey>,
    /// The newest of them was not sent at once: nothing goes on before it has come to its end.
    is_holding: bool,
}

/// Most calls of a session that are under way at once: each keeps some KB.
const CALLS_MAX: usize = 256;

impl InLine {
    fn is_in_the_way_of(&self, keys: &[LockKey]) -> bool {
        self.calls.len() >= CALLS_MAX || keys.iter().any(|key| self.keys.contains(key))
    }
}

/// How the locks of a session are asked for: under its own identity, and Lockgate's.
pub(super) struct Callers {
    own: LinkCaller,
    service: LinkCaller,
    user: Arc<[u8]>,
}

/// A lock command that need not wait.
enum Brief {
    Lock(LockCommand),
    /// And where its rule counts it.
    SetNx(SetNx, Arc<RuleCounts>),
}

impl Brief {
    fn keys(&self, db: crate::domain::Db) -> Vec<LockKey> {
        match self {
            Brief::Lock(command) => command.keys().iter().map(|name| LockKey { db, name: name.clone() }).collect(),
            Brief::SetNx(ask, _) => vec![LockKey { db, name: ask.key.clone() }],
        }
    }
}

impl Session {
    /// Whether such a command may have its place in the stream.
    pub(super) fn may_be_brief(treatment: Treatment) -> bool {
        matches!(treatment, Treatment::Here(Here::Lock) | Treatment::Look(commands::Look::Set | commands::Look::SetNx))
    }

    /// Nothing goes on before the newest call has come to its end.
    pub(super) fn is_held_in_line(&self) -> bool {
        self.in_line.as_ref().is_some_and(|in_line| in_line.is_holding)
    }

    /// Begins the lock command `command`, before which nothing is left to be sent, if it need not wait.
    pub(super) fn queue_brief(
        &mut self,
        cx: &mut Context<'_>,
        gate: &Gate,
        command: &[u8],
        frame: &RequestFrame,
    ) -> Queued {
        let Some(brief) = self.brief(gate, command, frame) else { return Queued::Alone };
        let keys = brief.keys(self.key.db);
        if self.in_line.as_ref().is_some_and(|in_line| in_line.is_in_the_way_of(&keys)) {
            // Its end wakes the session.
            return Queued::Held;
        }
        let Some(link) = self.standing_link() else { return Queued::Alone };
        let asker = self.asker();
        let (caller, is_sent) = asker.caller.in_place(&link);
        let asker = Asker { caller, ..asker };
        self.card().touch(&command[frame.name.clone()]);
        self.card().counts(Path::Single, 1);
        let place = self.io.owe_answer();
        let work = self.work(brief, asker, place, keys.clone());
        let in_line = self.in_line.get_or_insert_default();
        in_line.keys.extend(keys);
        in_line.calls.push(work);
        let before = in_line.calls.len();
        self.poll_in_line(cx);
        if let Some(in_line) = self.in_line.as_mut() {
            in_line.is_holding = !is_sent.get() && in_line.calls.len() == before;
        }
        Queued::UnderWay
    }

    /// The command as such a call, if it is one.
    fn brief(&self, gate: &Gate, command: &[u8], frame: &RequestFrame) -> Option<Brief> {
        if self.must_authenticate() {
            return None;
        }
        let Some((rule, call)) = gate.plain_call(command, frame) else {
            let words: Vec<&[u8]> = args(command).collect();
            let LockRequest::Engine(command) = LockRequest::parse(&words).ok()? else { return None };
            let is_brief = match &command {
                LockCommand::Release { .. } | LockCommand::Extend { .. } => true,
                LockCommand::Acquire(acquire) => acquire.wait_ms == 0,
                _ => false,
            };
            return is_brief.then_some(Brief::Lock(command));
        };
        let coordinator = self.worker.coordinator();
        let terms = coordinator.terms(rule);
        let is_brief = call.form == PlainForm::Set && terms.wait_ms == 0 && terms.ticket_ms == 0;
        if !is_brief || (self.worker.rules().have_waits() && self.grants.are_full()) {
            return None;
        }
        let PlainCall { key, value, lease, .. } = call;
        let lease = coordinator.plain_lease(rule, lease);
        let ask = SetNx { key: key.into(), value: value.into(), lease, terms };
        Some(Brief::SetNx(ask, rule.counts.clone()))
    }

    fn work(&self, brief: Brief, asker: Asker<LinkCaller>, place: Place, keys: Vec<LockKey>) -> Work {
        let (coordinator, resp) = (self.worker.coordinator().clone(), self.resp());
        match brief {
            Brief::Lock(command) => Box::pin(async move {
                let reply = coordinator.run_while(&asker, command, || true).await;
                let mut out = Vec::new();
                reply.encode(resp, &mut out);
                Done { place, keys, outcome: Outcome::Answer(out, None) }
            }),
            Brief::SetNx(ask, counts) => {
                RuleCounts::note(&counts.taken);
                let links = self.worker.links();
                let keeps_grants = self.worker.rules().have_waits();
                Box::pin(async move {
                    let by = asker.by();
                    let asking = coordinator.asks(&keys, &ask.value, &by, 0);
                    let hold = pin!(links.hold());
                    let first = coordinator.set_nx(&asker, ask.clone(), None, || true).await;
                    let again = || coordinator.set_nx(&asker, ask.clone(), None, || true);
                    let pass_on = || coordinator.pass_on(&asker, &ask, PlainForm::Set);
                    let answer = goes_on(&links, hold, first, again, pass_on).await;
                    asking.ends_plainly(&answer, ask.lease);
                    let outcome = set_nx_outcome(&ask, answer, asker.db, resp, keeps_grants);
                    Done { place, keys, outcome }
                })
            }
        }
    }

    /// Takes in what has come of the calls under way.
    pub(super) fn poll_in_line(&mut self, cx: &mut Context<'_>) {
        let Some(in_line) = self.in_line.as_mut() else { return };
        if in_line.calls.is_empty() {
            return;
        }
        let mut has_answered = false;
        while let Poll::Ready(Some(done)) = Pin::new(&mut in_line.calls).poll_next(cx) {
            let Done { place, keys, outcome } = done;
            for key in &keys {
                in_line.keys.remove(key);
            }
            in_line.is_holding = false;
            has_answered = true;
            match outcome {
                Outcome::Answer(bytes, grant) => {
                    self.io.answer(place, bytes);
                    if let Some(grant) = grant {
                        self.grants.add(grant);
                    }
                }
                Outcome::Away(line) => {
                    if self.worker.closes_when_away() {
                        self.io.cut();
                    }
                    let mut out = Vec::new();
                    frame::error(line, &mut out);
                    self.io.answer(place, out);
                }
            }
        }
        if has_answered {
            self.io.poll_flush(cx);
        }
    }

    /// Who asks for locks, and how; what that takes is made once for each identity, database and protocol.
    pub(super) fn asker(&mut self) -> Asker<LinkCaller> {
        let (worker, key) = (&self.worker, &self.key);
        let callers = self.callers.get_or_insert_with(|| {
            let router = worker.router();
            Box::new(Callers {
                // The scripts' replies are read here, so that RESP2 serves whatever the client speaks.
                own: router.caller(LinkKey { resp: Resp::V2, ..key.clone() }, Lane::Locks),
                service: router.service(key.db),
                user: user(&key.identity).into(),
            })
        });
        Asker {
            db: key.db,
            session: self.member.card.id,
            user: callers.user.clone(),
            caller: callers.own.clone(),
            service: callers.service.clone(),
            bound: self.bound.clone(),
        }
    }
}

fn set_nx_outcome(ask: &SetNx, answer: SetNxAnswer, db: crate::domain::Db, resp: Resp, keeps_grants: bool) -> Outcome {
    let (mut out, mut grant) = (Vec::new(), None);
    match answer {
        SetNxAnswer::Set => {
            grant = keeps_grants.then(|| Grant::new(db, &ask.key, &ask.value));
            frame::simple("OK", &mut out);
        }
        SetNxAnswer::NotSet | SetNxAnswer::PassOn => frame::null(resp, &mut out),
        SetNxAnswer::Error(line) => frame::error(line, &mut out),
        SetNxAnswer::Unreached(line) | SetNxAnswer::Unknown(line) => return Outcome::Away(line),
    }
    Outcome::Answer(out, grant)
}
