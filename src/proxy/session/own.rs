//! A session on an upstream link of its own: which commands go there, what comes back, and when it is given back.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::conversation::{Conversation, Fate, Stream};
use super::set_nx::Verdict;
use super::{BIG_REQUEST, Gone, HELD_REQUEST_MAX, Look, Pause, Session};
use crate::commands::{CommandTable, Effect, Here, Treatment, Why, client_effect, resolve};
use crate::domain::Resp;
use crate::protocol::args::{args, encode_command};
use crate::protocol::request::RequestFrame;
use crate::upstream::link::BACKLOG_MAX;
use crate::upstream::links::OwnError;
use crate::upstream::own::OwnLink;

/// A reply of more bytes is big.
pub(super) const BIG_REPLY: u64 = 256 << 10;
/// After a big reply the session stays on its own link for so many more.
pub(super) const BIG_REPLIES_KEEP: u32 = 16;
/// Reads of the own link in one turn, so that a flood on one connection does not hold up the others.
const READS_PER_TURN: usize = 4;
/// Longest reply to a command of Lockgate's own on this link, in bytes.
const CAPTURE_MAX: usize = 1 << 20;
/// The channel of the write that lets `WAIT` cover what went over shared links before.
const WAIT_CHANNEL: &[u8] = b"lockgate:wait";

/// The own link and what is known of it.
pub(super) struct OwnMode {
    pub(super) link: OwnLink,
    pub(super) talk: Conversation,
    /// The reply to a command of Lockgate's own.
    captured: Vec<u8>,
    /// How the big command that is streaming will count once it is whole.
    streaming: Option<Plan>,
    /// Bytes of the reply that is coming.
    frame_bytes: u64,
    /// The client of ours that `CLIENT TRACKING … REDIRECT` named.
    pub(super) redirect: Option<u64>,
}

/// What a command means on an own link.
#[derive(Clone, Copy)]
enum Plan {
    Forward { effect: Effect, is_blocking: bool, is_known: bool },
    Here(Here),
    Hang,
}

impl Session {
    /// Takes an own link once nothing is owed; on failure `Ok(Err)` tells what to answer.
    pub(super) async fn take_own(&mut self, why: Why) -> Result<Result<(), OwnError>, Gone> {
        if self.own.is_some() {
            return Ok(Ok(()));
        }
        self.drain().await?;
        let links = self.worker.links().clone();
        let key = self.key.clone();
        match self.guard(links.take_own(&key)).await? {
            Ok(link) => {
                self.worker.registry().took_own_link(why);
                tracing::debug!(client = self.card().id, why = why.name(), "takes an own link");
                self.card().takes_link(link.upstream_id());
                self.own = Some(Box::new(OwnMode {
                    link,
                    talk: Conversation::default(),
                    captured: Vec::new(),
                    streaming: None,
                    frame_bytes: 0,
                    redirect: None,
                }));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// The client reads slowly or gets big replies: what follows must not hold up a shared link.
    pub(super) async fn enter_own(&mut self, why: Why) -> Result<(), Gone> {
        if let Err(error) = self.take_own(why).await? {
            tracing::debug!(client = self.card().id, %error, why = why.name(), "no own link; waits for the client");
            self.big_replies = 0;
            self.flushed().await?;
        }
        Ok(())
    }

    /// A command is longer than [`BIG_REQUEST`] and not yet whole.
    pub(super) async fn big_request(&mut self) -> Result<(), Gone> {
        if let Err(error) = self.take_own(Why::BigRequest).await? {
            // The rest of the command cannot be told from the next one without reading all of it.
            self.answer_line(&format!("-{error}"));
            self.flushed().await?;
            return Err(Gone);
        }
        Ok(())
    }

    /// Brings what the upstream sent on the own link to the client, and gives the link back when it is as new.
    pub(super) fn pump_own(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        let Some(own) = self.own.as_mut() else { return Ok(()) };
        own.link.poll_flush(cx);
        let scratch = self.worker.links().scratch().clone();
        let mut scratch = scratch.borrow_mut();
        for turn in 0.. {
            // A client that does not read leaves its replies with the upstream; its flush wakes this task.
            if !self.io.client_keeps_up() {
                break;
            }
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match own.link.poll_read(cx, &mut scratch) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {
                    own.bring(&scratch[..n], &self.io, &mut self.big_replies)?;
                    if !self.io.flush_now() {
                        self.io.poll_flush(cx);
                    }
                }
                // Its state is lost with the link, as when a client's own connection to Redis breaks.
                Poll::Ready(_) => {
                    self.io.flush_now();
                    return Err(Gone);
                }
            }
        }
        drop(scratch);
        self.show_state();
        self.release_own();
        Ok(())
    }

    fn release_own(&mut self) {
        let is_done = self.own.as_ref().is_some_and(|own| {
            own.talk.is_default()
                && own.captured.is_empty()
                && own.streaming.is_none()
                && own.link.backlog() == 0
                && own.link.scanner.is_at_boundary()
                && self.big_replies == 0
                && self.io.client_keeps_up()
                // An unfinished command may be what the link was taken for.
                && self.scanner.is_at_start()
        });
        if is_done
            && let Some(own) = self.own.take()
            && self.card().parts_with_link()
        {
            self.worker.links().give_back(own.link);
        }
    }

    /// The upstream counts down a CLIENT REPLY SKIP with its own next command: gives it one, if Lockgate itself has
    /// answered the skipped command (or rather has not).
    pub(super) fn spend_skip(&mut self) {
        let Some(own) = self.own.as_mut() else { return };
        let mut ping = Vec::new();
        encode_command(&[b"PING"], &mut ping);
        own.link.push(&ping);
    }

    /// Closes the own link with whatever state it has.
    pub(super) fn drop_own(&mut self) {
        self.own = None;
        let _ = self.card().parts_with_link();
        self.show_state();
    }

    /// Keeps what `CLIENT LIST` shows.
    fn show_state(&self) {
        let card = self.card();
        let Some(own) = &self.own else {
            card.multi.store(-1, Ordering::Relaxed);
            card.redirect.store(-1, Ordering::Relaxed);
            for count in [&card.subscriptions, &card.patterns, &card.shard_subscriptions] {
                count.store(0, Ordering::Relaxed);
            }
            for flag in [&card.is_watching, &card.is_blocked, &card.is_monitor, &card.is_tracking] {
                flag.store(false, Ordering::Relaxed);
            }
            return;
        };
        let talk = &own.talk;
        let multi = if talk.is_multi() { i32::try_from(talk.queued()).unwrap_or(i32::MAX) } else { -1 };
        card.multi.store(multi, Ordering::Relaxed);
        card.is_watching.store(talk.is_watching(), Ordering::Relaxed);
        card.is_blocked.store(talk.is_blocking(), Ordering::Relaxed);
        card.is_tracking.store(talk.is_tracking(), Ordering::Relaxed);
        let redirect = own.redirect.and_then(|id| i64::try_from(id).ok()).unwrap_or(0);
        card.redirect.store(if talk.is_tracking() { redirect } else { -1 }, Ordering::Relaxed);
        card.is_monitor.store(talk.stream() == Stream::Uncounted, Ordering::Relaxed);
        let counts = [&card.subscriptions, &card.patterns, &card.shard_subscriptions];
        for (shown, count) in counts.into_iter().zip(talk.subscriptions()) {
            shown.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// Passes whole commands to the own link, and the part of a big one that has come.
    pub(super) fn pass_on_own(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> (usize, Look) {
        let limits = self.request_limits();
        let facts = self.worker.links().facts();
        let resp = self.resp();
        let gate = self.gate();
        let Some(own) = self.own.as_mut() else { return (0, Look::Wait) };
        let mut at = 0;
        let look = loop {
            if own.talk.stream() == Stream::Opaque {
                own.link.push(&bytes[at..]);
                at = bytes.len();
                break Look::Used;
            }
            if own.talk.must_settle() || own.link.backlog() > BACKLOG_MAX {
                break Look::Wait;
            }
            if at == bytes.len() {
                break Look::Used;
            }
            match self.scanner.advance(&bytes[at..], &limits) {
                Err(error) => break Look::Pause(Pause::Bad(error)),
                Ok(None) => {
                    let rest = &bytes[at..];
                    if own.streaming.is_none() {
                        if rest.len() <= BIG_REQUEST {
                            break Look::Used;
                        }
                        let name = self.scanner.pending_name().and_then(|range| rest.get(range)).unwrap_or_default();
                        let count = self.scanner.pending_args();
                        if own.may_intercept()
                            && rest.len() <= HELD_REQUEST_MAX
                            && gate.may_take(&facts.table, name, count, rest)
                        {
                            // Whether NX follows is told behind the value.
                            break Look::Used;
                        }
                        let plan = plan(&facts.table, name, &[]);
                        if let Plan::Here(_) = plan {
                            break if rest.len() > HELD_REQUEST_MAX { Look::Pause(Pause::TooLong) } else { Look::Used };
                        }
                        own.streaming = Some(plan);
                    }
                    own.link.push(rest);
                    self.scanner.passed_on(rest.len());
                    at = bytes.len();
                    break Look::Used;
                }
                Ok(Some(frame)) => {
                    let command = &bytes[at..at + frame.len];
                    if let Some(plan) = own.streaming.take() {
                        own.link.push(command);
                        own.count(plan, &[]);
                        at += frame.len;
                        continue;
                    }
                    if frame.args == 0 {
                        at += frame.len;
                        continue;
                    }
                    if !frame.is_multibulk {
                        break Look::Pause(Pause::Step(frame));
                    }
                    if own.may_intercept() {
                        match gate.judge(&facts.table, command, &frame) {
                            Verdict::Pass => {}
                            Verdict::Shadow => gate.note_shadow(command),
                            Verdict::Take => break Look::Pause(Pause::Step(frame)),
                        }
                    }
                    self.member.card.touch(&command[frame.name.clone()]);
                    match own.forward(&facts.table, command, &frame, resp) {
                        Onward::Sent => at += frame.len,
                        Onward::Step => break Look::Pause(Pause::Step(frame)),
                        Onward::Hang => break Look::Pause(Pause::Close),
                    }
                }
            }
        };
        own.link.poll_flush(cx);
        (at, look)
    }

    /// Sends one whole multibulk command over the own link; `false` when it is a step.
    pub(super) fn forward_own(&mut self, command: &[u8], frame: &RequestFrame) -> bool {
        let facts = self.worker.links().facts();
        let resp = self.resp();
        let Some(own) = self.own.as_mut() else { return false };
        matches!(own.forward(&facts.table, command, frame, resp), Onward::Sent)
    }

    /// Learns database and protocol from the upstream after a transaction that may have changed them.
    pub(super) async fn resync(&mut self) -> Result<(), Gone> {
        let mut request = Vec::new();
        encode_command(&[&b"CLIENT"[..], b"INFO"], &mut request);
        let reply = self.ask_own(&request).await?;
        let text = String::from_utf8_lossy(&reply);
        let field =
            |name: &str| text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.parse::<u32>().ok());
        let mut key = self.key.clone();
        key.db = field("db=").unwrap_or(key.db);
        // Redis tells the protocol from 7.0 on, and takes no HELLO in a transaction.
        key.resp = match field("resp=") {
            Some(3) => Resp::V3,
            Some(_) => Resp::V2,
            None => key.resp,
        };
        if let Some(own) = self.own.as_mut() {
            own.link.rekey(key.clone());
        }
        let name = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("name="));
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.card().profile().name = name.as_bytes().to_vec();
        }
        self.set_key(key);
        Ok(())
    }

    /// Sends a command of Lockgate's own, or one whose reply it has to see, over the own link; nothing may be owed.
    pub(super) async fn ask_own(&mut self, request: &[u8]) -> Result<Vec<u8>, Gone> {
        if let Some(own) = self.own.as_mut() {
            own.captured.clear();
            own.link.push(request);
            own.talk.sent_own();
        }
        self.drain().await?;
        Ok(self.own.as_mut().map(|own| std::mem::take(&mut own.captured)).unwrap_or_default())
    }
}

/// What became of a command on an own link.
enum Onward {
    Sent,
    Step,
    Hang,
}

impl OwnMode {
    /// Lockgate may answer a command in the upstream's place: no transaction is open, and none can be without being seen.
    pub(super) fn may_intercept(&self) -> bool {
        !self.talk.is_multi() && self.talk.stream() == Stream::Counted
    }

    /// Under RESP2 a subscriber may do little else.
    pub(super) fn is_pubsub_only(&self, resp: Resp) -> bool {
        resp == Resp::V2 && (self.talk.is_subscribed() || self.talk.subscriptions().iter().any(|count| *count > 0))
    }

    fn forward(&mut self, table: &CommandTable, command: &[u8], frame: &RequestFrame, resp: Resp) -> Onward {
        let name = &command[frame.name.clone()];
        let all: Vec<&[u8]> = args(command).collect();
        let plan = plan(table, name, &all);
        let is_pubsub_only = self.is_pubsub_only(resp);
        match plan {
            Plan::Hang => return Onward::Hang,
            Plan::Here(Here::Quit | Here::Reset) => return Onward::Step,
            // The upstream does not know the command: it refuses it, and a transaction is aborted by that.
            Plan::Here(Here::Lock) if self.talk.is_multi() => {
                let name = name.to_ascii_lowercase();
                let text = format!("-ERR Command '{}' not allowed in transactions\r\n", name.escape_ascii());
                self.link.push(command);
                self.talk.sent_replaced(text.into_bytes());
                return Onward::Sent;
            }
            Plan::Here(Here::Lock) if is_pubsub_only => {
                let name = name.to_ascii_lowercase();
                let text = format!(
                    "-ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                     in this context\r\n",
                    name.escape_ascii()
                );
                self.link.push(command);
                self.talk.sent_replaced(text.into_bytes());
                return Onward::Sent;
            }
            Plan::Here(_) if self.talk.is_multi() || is_pubsub_only => {
                self.link.push(command);
                let effect = match plan {
                    Plan::Here(Here::Client) => client_effect(&all),
                    _ => Effect::None,
                };
                let names_client = matches!(plan, Plan::Here(Here::Client))
                    && all.get(1).is_some_and(|w| w.eq_ignore_ascii_case(b"setname"));
                if names_client || matches!(plan, Plan::Here(Here::Select | Here::Hello | Here::Auth)) {
                    self.talk.will_change_key();
                }
                self.talk.sent(effect, false, &[]);
                return Onward::Sent;
            }
            Plan::Here(_) => return Onward::Step,
            // How many acknowledgements it brings depends on those that are still to come.
            Plan::Forward { effect: Effect::Unsubscribe(_), .. } if all.len() == 1 && !self.talk.is_settled() => {
                return Onward::Step;
            }
            Plan::Forward { effect: Effect::Wait, .. } if !self.talk.is_multi() && self.talk.is_first_wait() => {
                // WAIT asks about its connection's own writes, and those before went over a shared link: an empty
                // message counts as a write and comes after all of them.
                let mut write = Vec::new();
                encode_command(&[b"PUBLISH", WAIT_CHANNEL, b""], &mut write);
                self.link.push(&write);
                self.talk.sent_own();
            }
            Plan::Forward { .. } => {}
        }
        self.link.push(command);
        self.count(plan, all.get(1..).unwrap_or_default());
        Onward::Sent
    }

    /// A CLIENT subcommand that concerns the upstream connection.
    pub(super) fn forward_client(&mut self, command: &[u8], effect: Effect) {
        self.link.push(command);
        self.talk.sent(effect, false, &[]);
    }

    fn count(&mut self, plan: Plan, args: &[&[u8]]) {
        match plan {
            Plan::Forward { is_known: false, .. } => self.talk.sent_unknown(),
            Plan::Forward { effect, is_blocking, .. } => self.talk.sent(effect, is_blocking, args),
            Plan::Here(_) | Plan::Hang => self.talk.sent(Effect::None, false, &[]),
        }
    }

    /// Sorts what came: replies and pushes go to the client, answers to Lockgate's own questions do not.
    fn bring(&mut self, bytes: &[u8], io: &super::ClientIo, big_replies: &mut u32) -> Result<(), Gone> {
        let mut passed = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.talk.stream() == Stream::Opaque {
                break;
            }
            let plain = self.talk.plain_ahead();
            if plain > 0 && self.link.scanner.is_at_boundary() && self.link_speaks_plainly() {
                let scan = self.link.scanner.scan(&bytes[at..], plain).map_err(|_| Gone)?;
                at += scan.consumed;
                self.note_size(scan.consumed, scan.frames, big_replies);
                self.talk.came_plain(scan.frames);
                continue;
            }
            let (n, head) = self.link.scanner.next(&bytes[at..]).map_err(|_| Gone)?;
            let kind = head.as_ref().map(|h| h.kind).or(self.link.scanner.pending_kind()).unwrap_or(b'+');
            let fate = self.talk.fate(kind);
            if fate != Fate::Pass {
                io.push(&bytes[passed..at]);
                passed = at + n;
            }
            if fate == Fate::Capture && self.captured.len() < CAPTURE_MAX {
                self.captured.extend_from_slice(&bytes[at..at + n]);
            }
            at += n;
            self.note_size(n, u32::from(head.is_some()), big_replies);
            if let Some(head) = head
                && let Some(text) = self.talk.came(&head)
            {
                io.push(&text);
            }
        }
        io.push(&bytes[passed..]);
        Ok(())
    }

    /// RESP2 has no pushes: what is no message is a reply.
    fn link_speaks_plainly(&self) -> bool {
        self.link.key().resp == Resp::V2
    }

    fn note_size(&mut self, bytes: usize, ended: u32, big_replies: &mut u32) {
        self.frame_bytes += bytes as u64;
        if self.frame_bytes > BIG_REPLY {
            *big_replies = BIG_REPLIES_KEEP;
        }
        if ended > 0 {
            if self.frame_bytes <= BIG_REPLY {
                *big_replies = big_replies.saturating_sub(ended);
            }
            self.frame_bytes = 0;
        }
    }
}

fn plan(table: &CommandTable, name: &[u8], all: &[&[u8]]) -> Plan {
    let Some(entry) = table.find(name) else {
        return Plan::Forward { effect: Effect::None, is_blocking: false, is_known: false };
    };
    let (treatment, effect) = match entry.treatment {
        Treatment::Look(look) if !all.is_empty() => resolve(look, all),
        treatment => (treatment, entry.effect),
    };
    // A command with too few or too many arguments is refused and changes nothing.
    let effect = if all.is_empty() || entry.takes(all.len()) { effect } else { Effect::None };
    match treatment {
        Treatment::Here(here) => Plan::Here(here),
        Treatment::Hang => Plan::Hang,
        treatment => Plan::Forward { effect, is_blocking: treatment == Treatment::Own(Why::Blocking), is_known: true },
    }
}
