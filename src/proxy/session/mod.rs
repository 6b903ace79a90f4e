//! One client's connection, from its first byte to its last.
//!
//! Runs of stateless commands go over a link shared with others as they came, counted; their replies come back through
//! [`ClientIo`]. Lock commands that need not wait have their place among them ([`in_line`]). Everything else is a *step*: it waits until
//! nothing is owed, then runs alone, and the stream goes on behind it. While the connection has state of its own, all its commands go over a link of its own.

mod admission;
mod answers;
mod away;
mod bring;
mod client_command;
mod conversation;
mod doubt;
mod grants;
mod guard;
mod handshake;
mod in_line;
mod io;
mod lock_command;
mod lock_help;
mod outbox;
mod own;
mod pipelined;
mod queued;
mod rights;
mod set_nx;
mod step;
mod transaction;
mod window;

use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use self::admission::Admission;
use self::away::{Reaching, Submitted};
use self::grants::Grants;
use self::in_line::{Callers, InLine, Queued};
use self::io::ClientIo;
pub use self::outbox::{AllOutboxes, Outbox};
use self::own::{BIG_REPLIES_KEEP, OwnMode};
use self::set_nx::{Gate, Verdict};
use self::window::Window;
use super::registry::{Card, Member, Path, Wish};
use super::worker::Worker;
use crate::commands::lock_scripts::is_script;
use crate::commands::{self, CommandTable, Treatment, Why, resolve};
use crate::coordinator::BoundLocks;
use crate::domain::Resp;
use crate::protocol::args::args;
use crate::protocol::error::ProtocolError;
use crate::protocol::request::{RequestFrame, RequestLimits, RequestScanner};
use crate::upstream::dial::{Identity, LinkKey};
use crate::upstream::link::{BACKLOG_MAX, Link, Sink};
use crate::upstream::links::Links;
use crate::upstream::pools::{Lane, Pool};
use crate::upstream::socket::{Reader, Socket};

/// A command unfinished after so many bytes is big: it streams over an own link.
const BIG_REQUEST: usize = 64 << 10;
/// Longest command that Lockgate has to hold whole (LOCK.*, HELLO, CLIENT …), in bytes.
const HELD_REQUEST_MAX: usize = 8 << 20;
/// Most arguments before a client has authenticated, as Redis has it.
const ARGS_MAX_BEFORE_AUTH: u64 = 10;
/// Longest argument before a client has authenticated, in bytes.
const BULK_MAX_BEFORE_AUTH: u64 = 16 << 10;
/// Input kept beyond this is given back once it is used up.
const INPUT_KEPT: usize = 4 << 10;

/// A session that is sent this command panics.
#[cfg(test)]
pub const FAULT_FOR_A_TEST: &[u8] = b"fault.for.a.test";

/// The connection is over; nothing more is to be said.
#[derive(Debug)]
pub struct Gone;

/// Why the stream of commands pauses.
#[derive(Debug)]
enum Pause {
    /// The command at the front of the input runs alone.
    Step(RequestFrame),
    /// The unfinished command at the front of the input is big.
    Big,
    /// What follows belongs on a link of its own.
    NeedsOwn(Why),
    /// What came is no Redis protocol.
    Bad(ProtocolError),
    /// A command that would have to be held whole is longer than [`HELD_REQUEST_MAX`].
    TooLong,
    /// In the middle of what comes on the own link, an answer is Lockgate's to give.
    Due,
    /// The client has not authenticated, and the upstream is to say first whether it has to.
    Unknown,
    /// The connection is to be closed.
    Close,
}

/// What a look at the input came to.
enum Look {
    /// All whole commands were passed on.
    Used,
    /// The rest must wait for replies or for room.
    Wait,
    /// Something else has to happen first.
    Pause(Pause),
}

/// Whole commands that leave in one piece: `bytes` from `start` to `at`.
struct Run<'a> {
    bytes: &'a [u8],
    start: usize,
    at: usize,
    count: u32,
    /// Where the name of the last of them stands.
    name: Range<usize>,
}

impl<'a> Run<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Run { bytes, start: 0, at: 0, count: 0, name: 0..0 }
    }

    /// The next command is one of them.
    fn takes(&mut self, frame: &RequestFrame) {
        self.name = self.at + frame.name.start..self.at + frame.name.end;
        self.at += frame.len;
        self.count += 1;
    }

    /// The next command is none of them: another run begins behind it.
    fn skips(&mut self, frame: &RequestFrame) {
        self.at += frame.len;
        self.start = self.at;
    }
}

/// A client's connection.
pub struct Session {
    worker: Rc<Worker>,
    io: Rc<ClientIo>,
    sink: Rc<dyn Sink>,
    reader: Reader,
    member: Member,
    input: BytesMut,
    scanner: RequestScanner,
    /// The server that what it sends goes to.
    master: Rc<Links>,
    /// Identity, database and protocol of what it sends.
    key: LinkKey,
    /// The user that its certificate names: whom it is until it authenticates as another, and again after `RESET`.
    certified: Option<String>,
    /// How its identity is known while it has not authenticated.
    admission: Admission,
    pool: Rc<Pool>,
    /// The shared link that owes replies; no other is used before they have come.
    link: Option<Rc<Link>>,
    own: Option<Box<OwnMode>>,
    /// Which links its commands go over, until it is owed nothing.
    lane: Lane,
    /// Something waits for a link.
    reaching: Option<Reaching>,
    /// How many replies shared links may owe it.
    window: Window,
    /// Replies to come for which it stays on an own link because one was big.
    big_replies: u32,
    has_ended: bool,
    /// The upstream has closed its own link.
    has_lost_own: bool,
    bound: BoundLocks,
    /// What it took by `SET NX`.
    grants: Grants,
    /// Its lock commands that are under way in their places.
    in_line: Option<Box<InLine>>,
    /// How its locks are asked for.
    callers: Option<Box<Callers>>,
}

/// Closes the connection when it is dropped: after the session, which is declared later.
struct HangsUp {
    io: Rc<ClientIo>,
    client: u64,
}

impl Drop for HangsUp {
    fn drop(&mut self) {
        self.io.hang_up();
        if std::thread::panicking() {
            tracing::error!(
                client = self.client,
                "a fault of Lockgate ended this client's connection, and no other; please report it with the panic above"
            );
        }
    }
}

impl Session {
    /// Serves `socket` until the client or Lockgate closes it.
    /// `user` is whom its certificate names.
    pub async fn serve(worker: Rc<Worker>, socket: Socket, member: Member, user: Option<String>) {
        let (reader, writer) = socket.split();
        worker.clients().add(&writer);
        let io = Rc::new(ClientIo::new(writer, worker.outbox(), worker.closes_when_away()));
        let key = worker.initial_key(user.as_deref());
        if let Some(user) = &user {
            member.card.profile().user = user.clone().into_bytes();
        }
        let master = worker.links();
        let pool = master.pool(key.clone());
        let session = Session {
            sink: io.clone(),
            io,
            reader,
            member,
            input: BytesMut::new(),
            scanner: RequestScanner::new(),
            pool,
            master,
            key,
            certified: user,
            admission: Admission::Unasked,
            link: None,
            own: None,
            lane: Lane::Data,
            reaching: None,
            window: Window::default(),
            big_replies: 0,
            has_ended: false,
            has_lost_own: false,
            bound: BoundLocks::default(),
            grants: Grants::default(),
            in_line: None,
            callers: None,
            worker,
        };
        // Its name, its locks and its own link are gone before the client can see that the connection is, after a panic as well.
        let _ending = HangsUp { io: session.io.clone(), client: session.card().id };
        let mut session = session;
        let _ = session.run().await;
        if session.worker.is_relay() || session.has_lost_own {
            // The upstream has said its last word (to QUIT, say, or the end of an RDB file); the client gets it.
            let _ = session.flushed().await;
        }
    }

    async fn run(&mut self) -> Result<(), Gone> {
        std::future::poll_fn(|cx| {
            self.member.card.set_waker(cx.waker());
            self.io.set_task(cx.waker());
            self.bound.set_task(cx.waker());
            Poll::Ready(())
        })
        .await;
        if self.worker.is_relay() {
            Box::pin(self.begin_relay()).await?;
        }
        loop {
            // Steps are rare and large: boxed, so that a connection that idles costs little.
            match std::future::poll_fn(|cx| self.pump(cx)).await {
                Pause::Step(frame) => Box::pin(self.step(frame)).await?,
                Pause::NeedsOwn(why) => Box::pin(self.enter_own(why)).await?,
                Pause::Big => Box::pin(self.big_request()).await?,
                Pause::Bad(error) => return Box::pin(self.refuse_protocol(error)).await,
                Pause::TooLong => return Box::pin(self.refuse_length()).await,
                Pause::Due => Box::pin(self.answer_due()).await?,
                Pause::Unknown => Box::pin(self.is_admitted()).await?,
                Pause::Close => return Ok(()),
            }
        }
    }

    /// Moves bytes both ways until something else has to happen.
    fn pump(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        self.poll_in_line(cx);
        if !self.io.is_flushed() {
            self.io.poll_flush(cx);
        }
        if self.must_close() {
            return Poll::Ready(Pause::Close);
        }
        if self.io.is_cut() {
            return Poll::Pending;
        }
        // What is brought to the client may show that it has gone, and nothing else may ever come then.
        if self.own.is_some() && (self.pump_own(cx).is_err() || self.io.is_broken()) {
            return Poll::Ready(Pause::Close);
        }
        if self.own.as_ref().is_some_and(|own| own.talk.due().is_some()) {
            return Poll::Ready(Pause::Due);
        }
        if self.own.is_none() && self.card().keeps_link() {
            return Poll::Ready(Pause::NeedsOwn(Why::Tracking));
        }
        self.tell_lost();
        loop {
            let look = if self.input.is_empty() { Look::Used } else { self.use_input(cx) };
            match look {
                Look::Used => {}
                Look::Wait => return Poll::Pending,
                Look::Pause(pause) => return Poll::Ready(pause),
            }
            if self.has_ended {
                return self.end_of_client();
            }
            if !self.may_read(cx) {
                return Poll::Pending;
            }
            let scratch = self.worker.router().scratch().clone();
            let mut scratch = scratch.borrow_mut();
            match self.reader.poll_read(cx, &mut scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.has_ended = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Pause::Close),
                Poll::Ready(Ok(n)) => match self.take(cx, &scratch[..n]) {
                    Look::Used => {}
                    Look::Wait => return Poll::Pending,
                    Look::Pause(pause) => return Poll::Ready(pause),
                },
            }
        }
    }

    fn must_close(&self) -> bool {
        let is_drained = || {
            self.worker.is_draining()
                && self.io.is_idle()
                && self.input.is_empty()
                && self.own.as_ref().is_none_or(|own| own.talk.is_settled())
        };
        self.io.is_broken() || self.card().wished() == Wish::Kill || is_drained() || self.is_idle_for_too_long()
    }

    /// It has sent nothing for `limits.idle_timeout`, and nothing is under way for it: neither replies nor locks that are renewed.
    fn is_idle_for_too_long(&self) -> bool {
        let limit = self.worker.idle_timeout();
        if limit.is_zero() || !self.card().is_idle(limit) {
            return false;
        }
        let is_settled = self.own.as_ref().is_none_or(|own| own.talk.is_settled());
        if self.bound.is_empty() && self.io.is_idle() && is_settled {
            return true;
        }
        self.card().is_busy();
        false
    }

    /// The connection is over, whatever is under way; what waits for the client is brought to it first, as far as it takes that.
    fn has_to_go(&self, cx: &mut Context<'_>) -> bool {
        self.io.poll_flush(cx);
        self.io.is_broken() || self.card().wished() == Wish::Kill
    }

    /// The client has closed its side: what it sent is still answered, but it waits for nothing.
    fn end_of_client(&self) -> Poll<Pause> {
        if self.io.is_broken() {
            return Poll::Ready(Pause::Close);
        }
        let has_pending = !self.io.is_idle()
            || self.own.as_ref().is_some_and(|own| !own.talk.is_settled() && !own.talk.is_blocking());
        if has_pending {
            self.io.wake_when_owed(0);
            return Poll::Pending;
        }
        Poll::Ready(Pause::Close)
    }

    /// Bytes just read: straight on where nothing waits before them, so that most are copied once only.
    fn take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Look {
        if !self.input.is_empty() {
            self.input.extend_from_slice(bytes);
            return self.use_input(cx);
        }
        let (used, look) = self.pass_on(cx, bytes);
        if used < bytes.len() {
            self.input.extend_from_slice(&bytes[used..]);
        }
        look
    }

    fn use_input(&mut self, cx: &mut Context<'_>) -> Look {
        let input = std::mem::take(&mut self.input);
        let (used, look) = self.pass_on(cx, &input);
        self.input = input;
        self.consume(used);
        look
    }

    fn consume(&mut self, used: usize) {
        self.input.advance(used);
        if self.input.is_empty() && (used > INPUT_KEPT || self.input.capacity() > INPUT_KEPT) {
            self.input = BytesMut::new();
        }
    }

    /// Passes whole commands on; returns how many bytes are done with.
    fn pass_on(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> (usize, Look) {
        if self.own.is_some() { self.pass_on_own(cx, bytes) } else { self.pass_on_shared(cx, bytes) }
    }

    fn pass_on_shared(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> (usize, Look) {
        if self.master.is_former() {
            self.follows();
        }
        if self.must_ask() && !admission::is_credentials(bytes) {
            return (0, Look::Pause(Pause::Unknown));
        }
        if let Some(look) = self.wait_for_shared(cx) {
            return (0, look);
        }
        let limits = self.request_limits();
        let facts = self.worker.links().facts();
        let gate = self.gate();
        let is_paused = self.worker.registry().is_paused();
        let mut run = Run::of(bytes);
        let mut room = self.window.room(self.io.owed());
        let look = loop {
            if u64::from(run.count) >= room && run.at < bytes.len() {
                break Look::Wait;
            }
            let frame = match self.scanner.advance(&bytes[run.at..], &limits) {
                Ok(Some(frame)) => frame,
                Ok(None) if bytes.len() - run.at > BIG_REQUEST => break Look::Pause(Pause::Big),
                Ok(None) => break Look::Used,
                Err(error) => break Look::Pause(Pause::Bad(error)),
            };
            if frame.args == 0 {
                // Nothing to run; it also ends the run of bytes that can leave in one piece.
                if let Some(look) = self.send_run(cx, &mut run) {
                    return (run.start, look);
                }
                run.skips(&frame);
                room = self.window.room(self.io.owed());
                continue;
            }
            let is_plain = frame.is_multibulk && !frame.has_odd_end && !is_paused;
            match treatment(&facts.table, &gate, &bytes[run.at..run.at + frame.len], &frame) {
                Treatment::Share if is_plain => run.takes(&frame),
                Treatment::Script if is_plain => {
                    if !self.may_go_to_scripts(run.count) {
                        self.scanner = RequestScanner::new();
                        break Look::Wait;
                    }
                    run.takes(&frame);
                }
                Treatment::Hang => break Look::Pause(Pause::Close),
                treatment if is_plain && Session::may_be_brief(treatment) => {
                    if let Some(look) = self.pass_on_brief(cx, &gate, &mut run, frame) {
                        return (run.start, look);
                    }
                    room = self.window.room(self.io.owed());
                }
                _ => break Look::Pause(Pause::Step(frame)),
            }
        };
        if let Some(look) = self.send_run(cx, &mut run) {
            return (run.start, look);
        }
        if matches!(look, Look::Wait) {
            self.waits_for_window(cx);
        }
        (run.at, look)
    }

    /// Sends what has been gathered, unless it has to wait.
    fn send_run(&mut self, cx: &mut Context<'_>, run: &mut Run<'_>) -> Option<Look> {
        if run.count > 0 {
            self.card().touch(&run.bytes[run.name.clone()]);
            if let Some(look) = self.hold_back(cx, &run.bytes[run.start..run.at], run.count) {
                return Some(look);
            }
            self.card().counts(Path::Shared, u64::from(run.count));
        }
        (run.start, run.count) = (run.at, 0);
        None
    }

    /// Begins the lock command behind `run` in its place, which is sent before; otherwise says how the look ends.
    fn pass_on_brief(
        &mut self,
        cx: &mut Context<'_>,
        gate: &Gate,
        run: &mut Run<'_>,
        frame: RequestFrame,
    ) -> Option<Look> {
        if let Some(look) = self.send_run(cx, run) {
            return Some(look);
        }
        match self.queue_brief(cx, gate, &run.bytes[run.at..run.at + frame.len], &frame) {
            Queued::UnderWay => {
                run.skips(&frame);
                self.is_held_in_line().then_some(Look::Wait)
            }
            Queued::Held => {
                self.scanner = RequestScanner::new();
                Some(Look::Wait)
            }
            Queued::Alone => Some(Look::Pause(Pause::Step(frame))),
        }
    }

    /// The window is full. What was refused is owed no more: then the session goes on at once.
    fn waits_for_window(&mut self, cx: &mut Context<'_>) {
        let owed = self.window.holds_back();
        if self.io.owed() <= owed {
            cx.waker().wake_by_ref();
        } else {
            self.io.wake_when_owed(owed);
        }
    }

    /// Whether a run of commands has to wait, or needs an own link, before it can be shared.
    fn wait_for_shared(&mut self, cx: &mut Context<'_>) -> Option<Look> {
        if self.is_held_in_line() {
            return Some(Look::Wait);
        }
        self.window.goes_on(|| self.io.take_reply_size());
        if self.io.owed() == 0 {
            self.link = None;
            if self.reaching.is_none() {
                self.lane = Lane::Data;
            }
        } else if self.must_tell_lost() {
            self.io.wake_when_owed(0);
            return Some(Look::Wait);
        }
        if self.io.take_big_reply() {
            self.big_replies = BIG_REPLIES_KEEP;
        }
        if self.big_replies > 0 || !self.io.client_keeps_up() {
            if self.io.owed() > 0 {
                self.io.wake_when_owed(0);
                return Some(Look::Wait);
            }
            let why = if self.big_replies > 0 { Why::BigReply } else { Why::SlowReader };
            return Some(Look::Pause(Pause::NeedsOwn(why)));
        }
        let link = self.link.as_ref()?;
        if !link.is_usable() {
            // It still owes replies; what comes behind them must not overtake them on another link.
            self.io.wake_when_owed(0);
            return Some(Look::Wait);
        }
        if link.backlog() > BACKLOG_MAX {
            link.wake_when_room(cx.waker());
            return Some(Look::Wait);
        }
        if self.window.room(self.io.owed()) == 0 {
            self.io.wake_when_owed(self.window.holds_back());
            return Some(Look::Wait);
        }
        None
    }

    /// A script behind plain commands waits for their replies; what follows a script goes the same way, in order.
    fn may_go_to_scripts(&mut self, run: u32) -> bool {
        if self.lane != Lane::Scripts && (run > 0 || self.io.owed() > 0) {
            self.io.wake_when_owed(0);
            return false;
        }
        self.goes_over(Lane::Scripts);
        true
    }

    /// What is sent from here on goes over the links of `lane`; nothing is owed.
    fn goes_over(&mut self, lane: Lane) {
        if self.lane != lane {
            (self.lane, self.link, self.reaching) = (lane, None, None);
        }
    }

    /// Sends a run of commands, unless it has to wait for a link or nothing is sent any more: then it is read once more, from its
    /// beginning.
    fn hold_back(&mut self, cx: &mut Context<'_>, commands: &[u8], replies: u32) -> Option<Look> {
        let look = match self.submit(cx, commands, replies) {
            Submitted::Done => return None,
            Submitted::Held => Look::Wait,
            Submitted::Ends => Look::Pause(Pause::Close),
        };
        self.scanner = RequestScanner::new();
        Some(look)
    }

    /// While `CLIENT PAUSE` holds writers back, a write would hold up everybody else on a shared link.
    fn is_held_back(&self, command: &[u8], frame: &RequestFrame) -> bool {
        self.own.is_none()
            && self.worker.registry().is_paused()
            && self.worker.links().facts().table.find(&command[frame.name.clone()]).is_some_and(|entry| {
                matches!(entry.treatment, Treatment::Share | Treatment::Script | Treatment::Look(_))
                    && !entry.is_readonly()
            })
    }

    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(own) = &self.own {
            return own.link.backlog() < BACKLOG_MAX;
        }
        if self.io.owed() > 0 && self.must_tell_lost() {
            self.io.wake_when_owed(0);
            return false;
        }
        if self.window.room(self.io.owed()) == 0 {
            self.io.wake_when_owed(self.window.holds_back());
            return false;
        }
        match &self.link {
            Some(link) if link.backlog() > BACKLOG_MAX => {
                link.wake_when_room(cx.waker());
                false
            }
            _ => true,
        }
    }

    fn request_limits(&self) -> RequestLimits {
        let links = self.worker.links();
        if self.must_authenticate() {
            return RequestLimits {
                args_max: ARGS_MAX_BEFORE_AUTH,
                bulk_max: BULK_MAX_BEFORE_AUTH,
                unauthenticated: true,
            };
        }
        RequestLimits { args_max: i32::MAX as u64, bulk_max: links.facts().bulk_max, unauthenticated: false }
    }

    /// Another server has become the master: what is sent from here on goes there.
    fn follows(&mut self) {
        self.master = self.worker.links();
        self.pool = self.master.pool(self.key.clone());
        self.reaching = None;
    }

    fn card(&self) -> &Card {
        &self.member.card
    }

    fn resp(&self) -> Resp {
        self.key.resp
    }

    /// What this client sends goes over links of `key` from here on.
    fn set_key(&mut self, key: LinkKey) {
        let mut profile = self.card().profile();
        profile.db = key.db;
        profile.resp = key.resp;
        profile.user = match &key.identity {
            Identity::Named(credentials) => credentials.user.clone().unwrap_or_else(|| b"default".to_vec()),
            _ => b"default".to_vec(),
        };
        drop(profile);
        self.master = self.worker.links();
        self.pool = self.master.pool(key.clone());
        self.link = None;
        self.callers = None;
        self.reaching = None;
        self.key = key;
    }
}

/// How the whole command `command` is treated by a session in its default state.
fn treatment(table: &CommandTable, gate: &Gate, command: &[u8], frame: &RequestFrame) -> Treatment {
    match table.find(&command[frame.name.clone()]).map(|entry| entry.treatment) {
        None => Treatment::Own(Why::Unknown),
        Some(look @ Treatment::Look(kind @ (commands::Look::Set | commands::Look::SetNx))) => {
            match gate.judge_set(kind, command, frame.args) {
                Verdict::Pass => Treatment::Share,
                // A step: taken, or counted.
                Verdict::Shadow | Verdict::Take => look,
            }
        }
        Some(Treatment::Script) if is_script(&command[frame.name.clone()]) => {
            match gate.judge_set(commands::Look::LockScript, command, frame.args) {
                Verdict::Pass => Treatment::Script,
                Verdict::Shadow | Verdict::Take => Treatment::Look(commands::Look::LockScript),
            }
        }
        // Often used, so looked at without a list of all arguments.
        Some(Treatment::Look(commands::Look::Publish)) => match args(command).nth(1) {
            Some(channel) if commands::is_own_channel(channel) => Treatment::Here(commands::Here::OwnChannel),
            _ => Treatment::Share,
        },
        Some(Treatment::Look(look)) => resolve(look, &args(command).collect::<Vec<_>>()).0,
        Some(treatment) => treatment,
    }
}
