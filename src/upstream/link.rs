//! A pipelined link to the upstream that many sessions share. What they send within one turn of the worker leaves in
//! one write; what comes back is cut at the ends of replies and handed to whom it is owed, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::dial::{DialError, Dialled};
use super::lost::Trail;
use super::socket::{Reader, Writer};
use super::stuck::{Alarm, Silence};
use crate::observe::fault::{Fault, caught};
use crate::protocol::reply::ReplyScanner;

/// Requests not yet written, in bytes, at which sessions stop adding more to a link.
pub const BACKLOG_MAX: usize = 1 << 20;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_KEPT: usize = 64 << 10;
/// Bytes of one reply from which it is big: the link that carries it takes no new requests.
const BIG_REPLY: u64 = 1 << 20;
/// What those are told who were owed something on a link that panicked.
const FAULT: &str = "a fault of Lockgate ended the link to the upstream";
/// Reads of one link in one turn, so that a flood on one does not hold up the others.
const READS_PER_TURN: usize = 4;

/// Who takes the replies to what he sent.
pub trait Sink {
    /// `bytes` continue the replies owed to this sink; `ended` of them end within. Must not send on a link.
    fn deliver(&self, bytes: &[u8], ended: u32);
    /// No more for now: what was delivered may go on its way.
    fn flush(&self);
    /// Whether there is room for more of a big reply.
    fn has_room(&self) -> bool {
        true
    }
    /// Asks for a wake-up once there is room.
    fn wake_when_room(&self, _waker: &Waker) {}
    /// `replies` that were owed will not come; `cut`: the first of them was begun.
    fn lost(&self, replies: u32, cut: bool, why: &Loss);
}

/// Why replies will not come.
#[derive(Clone, Debug)]
pub enum Loss {
    /// The requests were never sent: asking again is safe.
    NotSent(Rc<str>),
    /// They were sent; they may or may not have run.
    Unknown(Rc<str>),
    /// The upstream refused the link, with this error line (`-…` without the line end).
    Refused(Rc<[u8]>),
}

struct Owed {
    sink: Rc<dyn Sink>,
    replies: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connecting,
    Open,
    Closed,
}

/// One connection's life as a shared link; lost is lost, the table of links makes another.
pub struct Link {
    stage: Cell<Stage>,
    retired: Cell<bool>,
    /// The upstream has not authenticated this link and demands it.
    needs_auth: Cell<bool>,
    out: RefCell<Vec<u8>>,
    owed: RefCell<VecDeque<Owed>>,
    owed_replies: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    last_used: Cell<Instant>,
    /// A reply was begun, and nothing of it has come since.
    stalled_since: Cell<Option<Instant>>,
    given_up: Cell<Option<&'static str>>,
    /// When the upstream was last found to hold back what is on it.
    held: Cell<Option<Instant>>,
    alarm: Rc<Alarm>,
    silence: Silence,
    is_stuck: Cell<bool>,
    /// It was dialled while the upstream would not say how to end it.
    is_stopgap: Cell<bool>,
    /// Who its master is has been asked over it.
    has_met_master: Cell<bool>,
    /// Scripts that were run over it, by the addresses of their digests.
    scripts: RefCell<Vec<usize>>,
    /// How often something was read.
    heard: Cell<u64>,
    trail: RefCell<Option<Rc<Trail>>>,
    /// Rings once it is known what came of the dial.
    settled: Notify,
    refusal: RefCell<Option<Rc<[u8]>>>,
    /// Sessions that wait until the backlog is written.
    waiting_for_room: RefCell<Vec<Waker>>,
}

impl Link {
    /// A link that is being connected; what is sent meanwhile waits in its buffer.
    pub fn connecting(alarm: &Rc<Alarm>) -> Rc<Link> {
        Rc::new(Link {
            stage: Cell::new(Stage::Connecting),
            retired: Cell::new(false),
            needs_auth: Cell::new(false),
            out: RefCell::default(),
            owed: RefCell::default(),
            owed_replies: Cell::new(0),
            waker: RefCell::new(None),
            last_used: Cell::new(Instant::now()),
            stalled_since: Cell::new(None),
            given_up: Cell::new(None),
            held: Cell::new(None),
            heard: Cell::new(0),
            has_met_master: Cell::new(false),
            scripts: RefCell::default(),
            alarm: alarm.clone(),
            silence: Silence::default(),
            is_stuck: Cell::new(false),
            is_stopgap: Cell::new(false),
            trail: RefCell::new(None),
            settled: Notify::new(),
            refusal: RefCell::new(None),
            waiting_for_room: RefCell::default(),
        })
    }

    /// Connected, and neither lost nor taken out of service.
    pub fn is_open(&self) -> bool {
        self.stage.get() == Stage::Open && !self.retired.get()
    }

    /// Takes requests: connected or about to be.
    pub fn is_usable(&self) -> bool {
        self.stage.get() != Stage::Closed && !self.retired.get()
    }

    /// Resolves once it is known what came of the dial.
    pub async fn is_settled(&self) {
        let settled = self.settled.notified();
        if self.stage.get() == Stage::Connecting {
            settled.await;
        }
    }

    /// The error line with which the upstream refused the link, if it did.
    pub fn refusal(&self) -> Option<Rc<[u8]>> {
        self.refusal.borrow().clone()
    }

    /// Whether the upstream demands authentication that this link does not have.
    pub fn needs_auth(&self) -> bool {
        self.needs_auth.get()
    }

    /// Requests that wait to be written, in bytes.
    pub fn backlog(&self) -> usize {
        self.out.borrow().len()
    }

    /// Replies that are still to come.
    pub fn owed_replies(&self) -> u64 {
        self.owed_replies.get()
    }

    /// When something was last sent.
    pub fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    /// Ends the link if the upstream has stopped in the middle of a reply for so long. A reply that has not begun may
    /// take its time: that is the command's business.
    pub fn give_up_if_stalled(&self, limit: Duration) {
        if self.stalled_since.get().is_some_and(|since| since.elapsed() > limit) {
            self.give_up("the upstream stopped in the middle of a reply");
        }
    }

    /// Ends the link at once; what is owed on it is lost.
    pub fn give_up(&self, why: &'static str) {
        self.given_up.set(Some(why));
        self.wake();
    }

    /// Whether who its master is has been asked over it.
    pub fn has_met_master(&self) -> bool {
        self.has_met_master.get()
    }

    /// It has been asked.
    pub fn meets_master(&self) {
        self.has_met_master.set(true);
    }

    /// Whether the script of that digest was run over it.
    pub fn has_script(&self, digest: &'static str) -> bool {
        self.scripts.borrow().contains(&digest.as_ptr().addr())
    }

    /// It was, or (`false`) the server has lost its scripts.
    pub fn notes_script(&self, digest: &'static str, is_there: bool) {
        let mut scripts = self.scripts.borrow_mut();
        if !is_there {
            scripts.clear();
        } else if !scripts.contains(&digest.as_ptr().addr()) {
            scripts.push(digest.as_ptr().addr());
        }
    }

    /// How often something has come: where that has not changed, nothing has.
    pub fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Connected, and nothing has come since it was read `heard` times.
    pub fn is_silent_since(&self, heard: u64) -> bool {
        self.stage.get() == Stage::Open && self.heard.get() == heard
    }

    /// It owes replies and has brought none for a while: what can takes another one.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.get()
    }

    /// A look at whether it has become stuck, or is so no more; `true` where it owes anything.
    pub fn look_for_silence(&self) -> bool {
        let owes = self.stage.get() == Stage::Open && self.owed_replies.get() > 0;
        self.is_stuck.set(self.silence.looked_at(owes, self.heard.get()));
        owes
    }

    /// Another link takes its place, which the upstream may by now say more about.
    pub fn retire_if_stopgap(&self) {
        if self.is_stopgap.take() {
            self.retire();
        }
    }

    /// The upstream holds back what is on this link (CLIENT PAUSE): it is not lost.
    pub fn is_held_upstream(&self) {
        self.held.set(Some(Instant::now()));
    }

    /// Whether that was said since `moment`.
    pub fn was_held_upstream_since(&self, moment: Instant) -> bool {
        self.held.get().is_some_and(|said| said >= moment)
    }

    /// Somebody waits in vain for a reply to what was sent when the link had been read `heard` times. If nothing at all has come
    /// since, the link takes no more requests: what is on it may be lost, or come late. Should it have been slow, all is delivered.
    pub fn doubt(self: &Rc<Self>, heard: u64) {
        if self.is_silent_since(heard)
            && let Some(trail) = self.trail.borrow().as_ref()
        {
            self.retire();
            trail.is_doubted(self, heard);
        }
    }

    /// Sends whole requests that owe `replies` in all. Never call this from within [`Sink::deliver`].
    pub fn send(&self, requests: &[u8], sink: &Rc<dyn Sink>, replies: u32) {
        debug_assert!(self.is_usable(), "requests for a link that takes none");
        let mut out = self.out.borrow_mut();
        let was_empty = out.is_empty();
        out.extend_from_slice(requests);
        drop(out);
        let mut owed = self.owed.borrow_mut();
        match owed.back_mut() {
            Some(last) if Rc::ptr_eq(&last.sink, sink) && last.replies < u32::MAX / 2 => last.replies += replies,
            _ => owed.push_back(Owed { sink: sink.clone(), replies }),
        }
        if self.owed_replies.get() == 0 {
            self.alarm.something_is_owed();
        }
        self.owed_replies.set(self.owed_replies.get() + u64::from(replies));
        if was_empty {
            self.wake();
        }
    }

    /// Wakes `waker` once the backlog is below [`BACKLOG_MAX`] again or the link is gone.
    pub fn wake_when_room(&self, waker: &Waker) {
        self.waiting_for_room.borrow_mut().push(waker.clone());
    }

    /// No new requests; what is owed is still delivered, then the link closes.
    pub fn retire(&self) {
        self.retired.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Drives the link from the dial to its end; returns why the dial failed, if it did. `scratch` lends the worker's
    /// read buffer.
    pub async fn drive(
        self: Rc<Self>,
        dialled: impl Future<Output = Result<Dialled, DialError>>,
        scratch: Rc<RefCell<Box<[u8]>>>,
    ) -> Result<(), DialError> {
        let dialled = match caught(dialled).await.unwrap_or_else(|Fault| Err(DialError::Unreachable(FAULT.into()))) {
            Ok(dialled) => dialled,
            Err(error) => {
                let loss = error.loss();
                if let Loss::Refused(line) = &loss {
                    self.refusal.replace(Some(line.clone()));
                }
                self.close(&loss);
                self.settled.notify_waiters();
                return Err(error);
            }
        };
        self.stage.set(Stage::Open);
        self.settled.notify_waiters();
        self.needs_auth.set(dialled.needs_auth);
        self.is_stopgap.set(dialled.is_busy);
        self.trail.replace(dialled.trail);
        let mut wire = Wire::new(dialled.reader, dialled.writer);
        let ended = caught(std::future::poll_fn(|cx| self.poll(cx, &mut wire, &scratch))).await;
        if let Some(trail) = self.trail.borrow().as_ref().filter(|_| self.owed_replies.get() > 0) {
            trail.is_lost();
        }
        match ended {
            Ok(why) => self.close_cut(&Loss::Unknown(why), !wire.scanner.is_at_boundary()),
            Err(Fault) => {
                tracing::error!(
                    "a fault of Lockgate ended a shared link to the upstream, and no other; please report it with the panic above"
                );
                // How much of the reply at the front was handed on is not known.
                self.close_cut(&Loss::Unknown(FAULT.into()), true);
            }
        }
        Ok(())
    }

    fn poll(&self, cx: &mut Context<'_>, wire: &mut Wire, scratch: &RefCell<Box<[u8]>>) -> Poll<Rc<str>> {
        {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        if let Some(why) = self.given_up.get() {
            return Poll::Ready(why.into());
        }
        if let Err(error) = self.write(cx, wire) {
            return Poll::Ready(format!("the upstream took no more requests: {error}").into());
        }
        if self.retired.get() && self.owed.borrow().is_empty() {
            return Poll::Ready("retired".into());
        }
        for _ in 0..READS_PER_TURN {
            if self.must_pause(cx, wire) {
                self.stalled_since.set(None);
                return Poll::Pending;
            }
            let mut buffer = scratch.borrow_mut();
            let n = match wire.reader.poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready("the upstream closed the link".into()),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(format!("the link to the upstream broke: {error}").into());
                }
            };
            self.heard.set(self.heard.get() + 1);
            self.is_stuck.set(false);
            let outcome = self.distribute(wire, &buffer[..n]);
            drop(buffer);
            self.stalled_since.set((!wire.scanner.is_at_boundary()).then(Instant::now));
            for sink in wire.touched.drain(..) {
                sink.flush();
            }
            if let Err(why) = outcome {
                return Poll::Ready(why);
            }
            if self.retired.get() && self.owed.borrow().is_empty() {
                return Poll::Ready("retired".into());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the backlog as far as the socket takes it.
    fn write(&self, cx: &mut Context<'_>, wire: &mut Wire) -> std::io::Result<()> {
        let mut out = self.out.borrow_mut();
        while wire.written < out.len() {
            match wire.writer.try_write(&out[wire.written..]) {
                Ok(n) => wire.written += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if wire.writer.poll_writable(cx)?.is_pending() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if wire.written == out.len() {
            if !out.is_empty() {
                self.last_used.set(Instant::now());
            }
            wire.written = 0;
            out.clear();
            if out.capacity() > BUFFER_KEPT {
                *out = Vec::new();
            }
        } else if wire.written >= BUFFER_KEPT {
            out.drain(..wire.written);
            wire.written = 0;
        }
        let has_room = out.len() - wire.written < BACKLOG_MAX / 2;
        drop(out);
        if has_room && !self.waiting_for_room.borrow().is_empty() {
            for waker in self.waiting_for_room.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    /// A big reply for somebody who reads slowly, and nobody else behind it: leave the rest with the upstream.
    fn must_pause(&self, cx: &mut Context<'_>, wire: &Wire) -> bool {
        if wire.scanner.is_at_boundary() {
            return false;
        }
        let owed = self.owed.borrow();
        let Some(front) = owed.front() else { return false };
        let is_big = wire.scanner.frame_seen() > BIG_REPLY || wire.scanner.bulk_left() > BIG_REPLY;
        if !is_big {
            return false;
        }
        self.retired.set(true);
        if front.sink.has_room() || owed.iter().any(|o| !Rc::ptr_eq(&o.sink, &front.sink)) {
            return false;
        }
        front.sink.wake_when_room(cx.waker());
        true
    }

    fn distribute(&self, wire: &mut Wire, mut bytes: &[u8]) -> Result<(), Rc<str>> {
        let mut owed = self.owed.borrow_mut();
        while !bytes.is_empty() {
            if wire.scanner.is_at_boundary() && bytes[0] == b'>' {
                wire.is_in_push = true;
            }
            if wire.is_in_push {
                // Nobody on a shared link subscribes or tracks: nobody is meant.
                let (n, head) = wire.scanner.next(bytes).map_err(|error| Rc::from(error.to_string()))?;
                wire.is_in_push = head.is_none();
                bytes = &bytes[n..];
                continue;
            }
            let Some(front) = owed.front_mut() else {
                return Err("the upstream sent a reply that nobody asked for".into());
            };
            let scan = wire
                .scanner
                .scan(bytes, front.replies)
                .map_err(|error| Rc::from(format!("the upstream's reply makes no sense: {error}")))?;
            let (reply, rest) = bytes.split_at(scan.consumed);
            #[cfg(test)]
            crate::observe::fault::failpoint::pass("a shared link");
            front.sink.deliver(reply, scan.frames);
            front.replies -= scan.frames;
            self.owed_replies.set(self.owed_replies.get() - u64::from(scan.frames));
            bytes = rest;
            if front.replies == 0 {
                wire.touched.extend(owed.pop_front().map(|o| o.sink));
            } else {
                wire.touched.push(front.sink.clone());
            }
        }
        Ok(())
    }

    fn close(&self, why: &Loss) {
        self.close_cut(why, false);
    }

    fn close_cut(&self, why: &Loss, mut cut: bool) {
        self.stage.set(Stage::Closed);
        self.out.take();
        self.owed_replies.set(0);
        for owed in self.owed.take() {
            // Each of them is told, whatever happens to another one.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                owed.sink.lost(owed.replies, cut, why);
                owed.sink.flush();
            }));
            cut = false;
        }
        for waker in self.waiting_for_room.take() {
            waker.wake();
        }
    }
}

struct Wire {
    reader: Reader,
    writer: Writer,
    scanner: ReplyScanner,
    /// How much of the link's `out` the socket has taken.
    written: usize,
    touched: Vec<Rc<dyn Sink>>,
    /// A push that nobody asked for is being dropped.
    is_in_push: bool,
}

impl Wire {
    fn new(reader: Reader, writer: Writer) -> Wire {
        Wire { reader, writer, scanner: ReplyScanner::new(), written: 0, touched: Vec::new(), is_in_push: false }
    }
}
