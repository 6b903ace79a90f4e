//! A session on an upstream link of its own: which commands go there, and when it is given back.

use std::sync::atomic::Ordering;
use std::task::Context;

use super::client_command::Redirect;
use super::conversation::{Conversation, Grade};
use super::queued::marker;
use super::set_nx::Verdict;
use super::transaction::{Change, Channels, Entry};
use super::{BIG_REQUEST, Gone, HELD_REQUEST_MAX, Look, Pause, Session};
use crate::commands::{Channel, CommandTable, Effect, Treatment, Why, resolve};
use crate::events::Ears;
use crate::protocol::args::{args, encode_command};
use crate::protocol::request::RequestFrame;
use crate::proxy::registry::Path;
use crate::upstream::dial::LinkKey;
use crate::upstream::link::BACKLOG_MAX;
use crate::upstream::links::OwnError;
use crate::upstream::own::OwnLink;

/// A reply of more bytes is big.
pub(super) const BIG_REPLY: u64 = 256 << 10;
/// After a big reply the session stays on its own link for so many more.
pub(super) const BIG_REPLIES_KEEP: u32 = 16;
/// The channel of a write that is none: it lets `WAIT` cover what went over shared links before, and shows whether writes get through.
const WAIT_CHANNEL: &[u8] = b"lockgate:wait";

/// The own link and what is known of it.
pub(super) struct OwnMode {
    /// It is this session's from its first command to its last, and nobody else's: what Lockgate would have to answer in the place of
    /// an upstream that others share goes there as it is.
    pub(super) is_relay: bool,
    pub(super) link: OwnLink,
    pub(super) talk: Conversation,
    pub(super) incoming: super::bring::Incoming,
    /// Lockgate's number for the client.
    pub(super) client_id: u64,
    /// To which events it may listen.
    ears: Ears,
    /// How the big command that is streaming will count once it is whole.
    streaming: Option<Plan>,
}

/// What a command means on an own link.
#[derive(Clone, Copy)]
enum Plan {
    Forward { effect: Effect, is_blocking: bool, is_known: bool },
    Here,
    Hang,
}

impl Session {
    /// Takes an own link once nothing is owed; on failure `Ok(Err)` tells what to answer.
    pub(super) async fn take_own(&mut self, why: Why) -> Result<Result<(), OwnError>, Gone> {
        if self.own.is_some() {
            return Ok(Ok(()));
        }
        self.drain().await?;
        let router = self.worker.router().clone();
        let key = self.key.clone();
        match self.guard(router.take_own(&key)).await? {
            Ok(link) => {
                self.worker.registry().took_own_link(why);
                tracing::debug!(client = self.card().id, why = why.name(), "takes an own link");
                self.card().takes_link(link.upstream_id());
                self.own = Some(OwnMode::new(link, Conversation::new(key.resp), false, self));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Takes the link that this session has for as long as it lives. Without one it can only be told so.
    pub(super) async fn begin_relay(&mut self) -> Result<(), Gone> {
        let router = self.worker.router().clone();
        let key = self.key.clone();
        match self.guard(router.take_bare(&key)).await? {
            Ok(link) => {
                self.own = Some(OwnMode::new(link, Conversation::of_relay(key.resp), true, self));
                Ok(())
            }
            Err(error) => {
                self.has_no_own(&error).await?;
                self.flushed().await?;
                Err(Gone)
            }
        }
    }

    /// The client reads slowly or gets big replies: what follows must not hold up a shared link.
    pub(super) async fn enter_own(&mut self, why: Why) -> Result<(), Gone> {
        // Somebody else may want the link of a client that has said nothing yet.
        self.is_admitted().await?;
        if let Err(error) = self.take_own(why).await? {
            tracing::debug!(client = self.card().id, %error, why = why.name(), "no own link; waits for the client");
            self.big_replies = 0;
            self.card().has_no_link();
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

    /// Gives the link back when the session needs it no longer.
    pub(super) fn release_own(&mut self) {
        let is_done = self.own.as_ref().is_some_and(|own| {
            !own.is_relay
                && own.talk.is_default()
                && own.is_idle()
                && !self.member.card.keeps_link()
                && self.big_replies == 0
                && self.io.client_keeps_up()
                // An unfinished command may be what the link was taken for.
                && self.scanner.is_at_start()
        });
        if is_done {
            self.part_with_own();
        }
    }

    /// Nothing of this session's state is left on a link of its own.
    pub(super) fn part_with_own(&mut self) {
        let Some(own) = self.own.take() else { return };
        let may_be_lent = self.card().parts_with_link();
        self.show_state();
        if !may_be_lent || !own.talk.is_settled() || !own.is_idle() {
            return;
        }
        match own.talk.grade() {
            Grade::Clean => self.worker.links().give_back(own.link),
            Grade::Wash => self.worker.links().wash(own.link),
            Grade::Close => {}
        }
    }

    /// Keeps what `CLIENT LIST` shows.
    pub(super) fn show_state(&self) {
        let card = self.card();
        let Some(own) = &self.own else {
            card.multi.store(-1, Ordering::Relaxed);
            card.markers.store(0, Ordering::Relaxed);
            card.redirect.store(-1, Ordering::Relaxed);
            for count in [&card.subscriptions, &card.patterns, &card.shard_subscriptions] {
                count.store(0, Ordering::Relaxed);
            }
            let flags = [&card.is_watching, &card.is_blocked, &card.is_monitor, &card.is_tracking, &card.is_doubted];
            for flag in flags {
                flag.store(false, Ordering::Relaxed);
            }
            return;
        };
        let talk = &own.talk;
        let multi = if talk.is_multi() { i32::try_from(talk.queued()).unwrap_or(i32::MAX) } else { -1 };
        card.multi.store(multi, Ordering::Relaxed);
        card.markers.store(u32::try_from(talk.markers_queued()).unwrap_or(u32::MAX), Ordering::Relaxed);
        card.is_watching.store(talk.is_watching(), Ordering::Relaxed);
        card.is_blocked.store(talk.is_blocking(), Ordering::Relaxed);
        card.is_tracking.store(talk.is_tracking(), Ordering::Relaxed);
        let redirect = talk.redirect().and_then(|id| i64::try_from(id).ok()).unwrap_or(0);
        card.redirect.store(if talk.is_tracking() { redirect } else { -1 }, Ordering::Relaxed);
        card.is_monitor.store(talk.is_monitor(), Ordering::Relaxed);
        card.is_doubted.store(talk.doubt().is_some(), Ordering::Relaxed);
        let counts = [&card.subscriptions, &card.patterns, &card.shard_subscriptions];
        for (shown, count) in counts.into_iter().zip(talk.subscriptions()) {
            shown.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// Passes whole commands to the own link, and the part of a big one that has come.
    pub(super) fn pass_on_own(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> (usize, Look) {
        let limits = self.request_limits();
        let facts = self.worker.links().facts();
        let gate = self.gate();
        let is_paused = self.worker.registry().is_paused();
        let Some(own) = self.own.as_mut() else { return (0, Look::Wait) };
        let mut at = 0;
        let look = loop {
            if own.talk.is_opaque() {
                own.link.push(&bytes[at..]);
                at = bytes.len();
                break Look::Used;
            }
            if own.link.backlog() > BACKLOG_MAX {
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
                        if (own.may_intercept() || !own.talk.is_certain())
                            && rest.len() <= HELD_REQUEST_MAX
                            && gate.may_take(&facts.table, name, count, rest)
                        {
                            // Whether NX follows is told behind the value.
                            break Look::Used;
                        }
                        let seen: Vec<&[u8]> = args(rest).collect();
                        let plan = plan(&facts.table, name, &seen);
                        if plan.is_held_whole() {
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
                    let verdict = gate.judge(&facts.table, command, &frame);
                    if verdict != Verdict::Pass && !own.talk.is_certain() {
                        // It may be queued, refused, or Lockgate's: a reply that is still to come tells.
                        break Look::Pause(Pause::Step(frame));
                    }
                    match verdict {
                        Verdict::Shadow if own.may_intercept() => gate.note_shadow(command),
                        Verdict::Take if own.may_intercept() => break Look::Pause(Pause::Step(frame)),
                        _ => {}
                    }
                    match own.forward(&facts.table, command, &frame, is_paused) {
                        Onward::Sent => {
                            self.member.card.touch(&command[frame.name.clone()]);
                            self.member.card.counts(Path::Own, 1);
                            at += frame.len;
                        }
                        Onward::Wait | Onward::Step | Onward::Hang => break Look::Pause(Pause::Step(frame)),
                    }
                }
            }
        };
        own.link.poll_flush(cx);
        (at, look)
    }

    /// Sends one whole multibulk command over the own link, once it is certain how it will be taken; `false` when that is not the
    /// upstream's business.
    pub(super) async fn forward_own(&mut self, command: &[u8], frame: &RequestFrame) -> Result<bool, Gone> {
        let facts = self.worker.links().facts();
        let is_paused = self.worker.registry().is_paused();
        for _ in 0..2 {
            let Some(own) = self.own.as_mut() else { return Ok(false) };
            match own.forward(&facts.table, command, frame, is_paused) {
                Onward::Sent => return Ok(true),
                // Behind what blocks it is not read yet. A server that closes writes nothing more: neither that one's answer, nor what
                // lies between.
                Onward::Hang => {
                    own.talk.answers_no_more();
                    self.drain().await?;
                    return Err(Gone);
                }
                Onward::Wait | Onward::Step if !own.talk.is_settled() => self.drain().await?,
                Onward::Wait | Onward::Step => break,
            }
        }
        // Whom invalidations are redirected to has to have a link that the upstream can name. What refuses that refuses the command.
        let words: Vec<&[u8]> = args(command).collect();
        if is_client_tracking(&words)
            && self.own.as_ref().is_some_and(|own| own.talk.is_multi() && !own.is_relay)
            && let Redirect::Told = self.ready_redirect(&words).await?
        {
            return Ok(true);
        }
        let was_sent = self.queue_own(command, frame);
        if was_sent {
            // Redis 8.2 leaves out the refusal of a HELLO behind which another command has come.
            self.be_certain().await?;
        }
        Ok(was_sent)
    }

    /// Sends a command of Lockgate's own, or one whose reply it has to see, over the own link; nothing may be owed.
    pub(super) async fn ask_own(&mut self, request: &[u8]) -> Result<Vec<u8>, Gone> {
        if let Some(own) = self.own.as_mut() {
            own.incoming.captured.clear();
            own.link.push(request);
            own.talk.sent_own();
        }
        self.drain().await?;
        Ok(self.own.as_mut().map(|own| std::mem::take(&mut own.incoming.captured)).unwrap_or_default())
    }
}

/// What became of a command on an own link.
enum Onward {
    Sent,
    /// How it is taken depends on a reply that is still to come.
    Wait,
    Step,
    Hang,
}

impl OwnMode {
    /// Nothing has come on `link` yet, and nothing is under way.
    fn new(link: OwnLink, talk: Conversation, is_relay: bool, session: &Session) -> Box<Self> {
        let ears = Ears::of(session.worker.coordinator().events());
        let client_id = session.card().id;
        Box::new(OwnMode { is_relay, link, talk, incoming: Default::default(), client_id, ears, streaming: None })
    }

    /// Lockgate may answer a command in the upstream's place: no transaction is open, and the upstream would run it for somebody whom
    /// Lockgate knows.
    pub(super) fn may_intercept(&self) -> bool {
        self.is_plain() && !self.talk.is_user_unknown()
    }

    /// What is sent on this link runs at once, and its reply is the next frame that is none of pub/sub.
    pub(super) fn is_plain(&self) -> bool {
        self.may_ask() && !self.talk.is_monitor()
    }

    /// Lockgate may ask the upstream something of its own on this link.
    pub(super) fn may_ask(&self) -> bool {
        !self.talk.is_multi() && !self.talk.is_opaque()
    }

    /// Nothing is on its way on the link, in either direction.
    fn is_idle(&self) -> bool {
        self.incoming.is_empty()
            && self.streaming.is_none()
            && self.link.backlog() == 0
            && self.link.scanner.is_at_boundary()
    }

    /// The link was brought into the state that `key` tells.
    pub(super) fn rekey(&mut self, key: LinkKey) {
        self.talk.speaks(key.resp);
        self.talk.was_changed();
        self.link.rekey(key);
    }

    /// `is_paused` where the upstream holds back writes.
    fn forward(&mut self, table: &CommandTable, command: &[u8], frame: &RequestFrame, is_paused: bool) -> Onward {
        let all: Vec<&[u8]> = args(command).collect();
        let plan = plan(table, &command[frame.name.clone()], &all);
        match plan {
            Plan::Hang => return Onward::Hang,
            Plan::Here => return Onward::Step,
            Plan::Forward { effect: Effect::Wait | Effect::Monitor | Effect::Replication, .. }
                if !self.talk.is_certain() =>
            {
                return Onward::Wait;
            }
            // Whoever waits for no replica is answered at once, also where a write would be held back.
            Plan::Forward { effect: Effect::Wait, .. } if is_paused && asks_for_nobody(&all) => {}
            Plan::Forward { effect: Effect::Wait, .. } if self.may_write() && self.talk.is_first_wait() => {
                // WAIT asks about its connection's own writes, and those before went over a shared link: an empty
                // message counts as a write and comes after all of them.
                self.link.push(&empty_message());
                self.talk.sent_ignored();
            }
            Plan::Forward { .. } => {}
        }
        self.link.push(command);
        match plan {
            // Whoever leaves meanwhile is gone: a server does not run it any more.
            Plan::Forward { effect: Effect::None, is_known: true, .. }
                if is_paused && is_write(table, command, frame) =>
            {
                self.talk.sent_blocking();
            }
            plan => self.count(plan, all.get(1..).unwrap_or_default()),
        }
        Onward::Sent
    }

    fn may_write(&self) -> bool {
        self.may_intercept() && !self.talk.is_pubsub_only()
    }

    /// A command of the client's that does `entry` once it is accepted.
    pub(super) fn forward_entry(&mut self, command: &[u8], entry: Entry) {
        self.link.push(command);
        match entry {
            Entry::Plain => self.talk.sent_plain(),
            entry => self.talk.sent(entry),
        }
    }

    pub(super) fn forward_caching(&mut self, command: &[u8]) {
        self.link.push(command);
        self.talk.sent_caching();
    }

    /// The command at hand runs elsewhere: what `CLIENT CACHING` has said is about no other one.
    pub(super) fn uses_caching_up(&mut self) {
        if self.talk.takes_caching() {
            self.link.push(&marker());
            self.talk.sent_ignored();
        }
    }

    fn count(&mut self, plan: Plan, args: &[&[u8]]) {
        let Plan::Forward { effect, is_blocking, is_known } = plan else { return self.talk.sent_plain() };
        if !is_known {
            return self.talk.sent(Entry::Change(Change::Unknown));
        }
        match effect {
            Effect::None if is_blocking => self.talk.sent_blocking(),
            Effect::Multi => self.talk.sent_multi(),
            Effect::Exec => self.talk.sent_exec(),
            Effect::Discard => self.talk.sent_discard(),
            Effect::Watch => self.talk.sent(Entry::Change(Change::Watch)),
            Effect::Unwatch => self.talk.sent(Entry::Change(Change::Unwatch)),
            Effect::Subscribe(kind) | Effect::Unsubscribe(kind) => {
                if let Effect::Subscribe(_) = effect {
                    let is_pattern = kind == Channel::Pattern;
                    args.iter().for_each(|name| self.ears.subscribe(name, is_pattern));
                }
                self.talk.sent(Entry::Channels(Channels::named(kind, args.len())));
            }
            // What is a monitor counts as a replica, and these are not answered any more, unless a transaction queues or refuses them.
            Effect::Monitor | Effect::Replication
                if self.talk.is_monitor() && !self.talk.is_multi() && !self.talk.is_pubsub_only() =>
            {
                self.talk.sent_unanswered();
            }
            Effect::Monitor => self.talk.sent(Entry::Change(Change::Monitor)),
            Effect::Replication if is_never_answered(args) => self.talk.sent_unanswered(),
            Effect::Replication => self.talk.sent_raw(),
            Effect::Wait if !self.talk.is_multi() => self.talk.sent_wait(),
            Effect::Flag => self.talk.sent(Entry::Change(Change::Flag)),
            Effect::Sticky => self.talk.sent(Entry::Change(Change::Lasting)),
            // Only CLIENT has these, which is not forwarded here.
            Effect::ReplyOn | Effect::ReplyOff | Effect::ReplySkip | Effect::TrackingOn | Effect::TrackingOff => {
                self.talk.sent(Entry::Change(Change::Unknown));
            }
            Effect::None | Effect::Wait => self.talk.sent_plain(),
        }
    }
}

/// What counts as a write and changes nothing.
pub(super) fn empty_message() -> Vec<u8> {
    let mut write = Vec::new();
    encode_command(&[b"PUBLISH", WAIT_CHANNEL, b""], &mut write);
    write
}

/// The upstream holds it back in a pause.
fn is_write(table: &CommandTable, command: &[u8], frame: &RequestFrame) -> bool {
    table.find(&command[frame.name.clone()]).is_some_and(|entry| !entry.is_readonly())
}

fn is_client_tracking(words: &[&[u8]]) -> bool {
    matches!(words, [name, subcommand, ..] if name.eq_ignore_ascii_case(b"client") && subcommand.eq_ignore_ascii_case(b"tracking"))
}

/// `WAIT` and `WAITAOF` for none, wherever that is.
fn asks_for_nobody(words: &[&[u8]]) -> bool {
    words.get(1..words.len().saturating_sub(1)).is_some_and(|counts| counts.iter().all(|count| *count == b"0"))
}

/// `REPLCONF ACK` and `GETACK`, which is how replication speaks behind its beginning.
fn is_never_answered(args: &[&[u8]]) -> bool {
    args.first().is_some_and(|word| word.eq_ignore_ascii_case(b"ack") || word.eq_ignore_ascii_case(b"getack"))
}

impl Plan {
    /// All of its arguments are needed before any of them goes on.
    fn is_held_whole(self) -> bool {
        match self {
            Plan::Here => true,
            Plan::Forward { effect, .. } => matches!(effect, Effect::Subscribe(_) | Effect::Unsubscribe(_)),
            Plan::Hang => false,
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
    // A command with too few or too many arguments is refused and changes nothing; but EXEC ends the transaction all the same.
    let counts = all.is_empty() || entry.takes(all.len()) || effect == Effect::Exec;
    let effect = if counts { effect } else { Effect::None };
    match treatment {
        Treatment::Here(_) => Plan::Here,
        Treatment::Hang => Plan::Hang,
        treatment => Plan::Forward { effect, is_blocking: treatment == Treatment::Own(Why::Blocking), is_known: true },
    }
}
