//! A session's side towards its client that links may write to: replies come in from whichever link owes them, go out
//! at once, and what does not fit waits in the outbox.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Waker};

use super::answers::{Answers, Place};
use super::outbox::{Full, Outbox};
use super::own::BIG_REPLY;
use crate::observe::seldom::Seldom;
use crate::upstream::link::{Loss, Sink};
use crate::upstream::socket::Writer;

/// With more bytes than this behind an answer that is not known yet, no more is asked for.
const EARLY_MAX: usize = 256 << 10;

/// A reply of this size goes to the socket without a stop in the outbox.
const DIRECT: usize = 8 << 10;

/// How the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Stands,
    /// Nothing more is said; what was said before still goes out.
    Cut,
    /// Nothing goes out any more.
    Broken,
}

/// Shared by the session and the links that owe it replies.
pub struct ClientIo {
    writer: Writer,
    outbox: RefCell<Outbox>,
    /// What stands behind an answer that is not known yet.
    answers: RefCell<Answers>,
    /// Replies that shared links owe this client, and answers of Lockgate's own that have their place among them.
    owed: Cell<u64>,
    /// Below this many owed replies the session wants to be woken.
    wake_at: Cell<Option<u64>>,
    state: Cell<State>,
    /// What is lost ends the connection; else it is answered by an error.
    closes_when_away: bool,
    task: RefCell<Option<Waker>>,
    link_waiting_for_room: RefCell<Option<Waker>>,
    /// Bytes of the reply that is coming over a shared link.
    frame_bytes: Cell<u64>,
    had_big_reply: Cell<bool>,
    /// Replies over shared links since this was last asked, and their bytes.
    came: Cell<(u64, u64)>,
}

impl ClientIo {
    /// Writes to `writer` what does not have to wait in `outbox`. With `closes_when_away` the connection ends where replies are lost.
    pub fn new(writer: Writer, outbox: Outbox, closes_when_away: bool) -> ClientIo {
        ClientIo {
            writer,
            outbox: RefCell::new(outbox),
            answers: RefCell::default(),
            owed: Cell::new(0),
            wake_at: Cell::new(None),
            state: Cell::new(State::Stands),
            closes_when_away,
            task: RefCell::new(None),
            link_waiting_for_room: RefCell::new(None),
            frame_bytes: Cell::new(0),
            had_big_reply: Cell::new(false),
            came: Cell::new((0, 0)),
        }
    }

    /// How many bytes a reply over a shared link had since this was last asked, about; `None` where none came.
    pub fn take_reply_size(&self) -> Option<u64> {
        let (replies, bytes) = self.came.take();
        bytes.checked_div(replies)
    }

    /// The session's task, to be woken when something is up.
    pub fn set_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// Replies and answers that this client is owed.
    pub fn owed(&self) -> u64 {
        self.owed.get()
    }

    /// More replies are owed now.
    pub fn owe(&self, replies: u64) {
        self.answers.borrow_mut().owe_replies(replies);
        self.owed.set(self.owed.get() + replies);
    }

    /// An answer of Lockgate's own is owed now, behind everything else.
    pub fn owe_answer(&self) -> Place {
        let place = self.answers.borrow_mut().owe_answer(self.owed.get());
        self.owed.set(self.owed.get() + 1);
        place
    }

    /// That answer is known.
    pub fn answer(&self, place: Place, bytes: Vec<u8>) {
        self.answers.borrow_mut().answer_came(place, bytes, |bytes| self.push(bytes));
        self.owed.set(self.owed.get() - 1);
    }

    /// Replies have come, or stand-ins for them.
    fn replies(&self, bytes: &[u8], ended: u64) {
        let mut answers = self.answers.borrow_mut();
        if answers.is_empty() {
            return self.push(bytes);
        }
        answers.replies_came(bytes, ended, |bytes| self.push(bytes));
        if answers.early() > self.outbox.borrow().limit() {
            drop(answers);
            self.is_too_slow();
        }
    }

    /// Nothing more is said; what was said before still goes out.
    pub fn cut(&self) {
        if self.state.get() == State::Stands {
            self.state.set(State::Cut);
        }
    }

    /// Wakes the session once no more than `owed` replies are owed.
    pub fn wake_when_owed(&self, owed: u64) {
        self.wake_at.set(Some(owed));
    }

    /// The connection can't go on: the client is gone, or it was promised bytes that will not come.
    pub fn is_broken(&self) -> bool {
        match self.state.get() {
            State::Stands => false,
            State::Cut => self.outbox.borrow().is_empty(),
            State::Broken => true,
        }
    }

    /// It is over once the client has what it was sent so far.
    pub fn is_cut(&self) -> bool {
        self.state.get() == State::Cut
    }

    fn breaks(&self) {
        self.state.set(State::Broken);
    }

    /// Whether a big reply has come since this was last asked.
    pub fn take_big_reply(&self) -> bool {
        self.had_big_reply.take() || self.frame_bytes.get() > BIG_REPLY
    }

    /// Everything owed was delivered and written.
    pub fn is_idle(&self) -> bool {
        self.owed.get() == 0 && self.outbox.borrow().is_empty()
    }

    /// All that was delivered is written.
    pub fn is_flushed(&self) -> bool {
        self.outbox.borrow().is_empty()
    }

    /// Whether the client keeps up with what it is sent.
    pub fn client_keeps_up(&self) -> bool {
        self.outbox.borrow().has_room() && self.answers.borrow().early() < EARLY_MAX
    }

    /// Ends when the client has closed its side, whether or not all that it sent was read.
    pub async fn closed_by_peer(&self) {
        self.writer.closed_by_peer().await;
    }

    /// Whether the client has closed its side, asked of the kernel at this moment.
    pub fn peer_has_closed(&self) -> bool {
        self.writer.peer_has_closed()
    }

    /// The session is over: closes the connection at once, whatever links still owe it.
    pub fn hang_up(&self) {
        self.breaks();
        self.writer.shut_down();
        if let Some(link) = self.link_waiting_for_room.take() {
            link.wake();
        }
    }

    /// Adds bytes for the client.
    pub fn push(&self, mut bytes: &[u8]) {
        if self.state.get() != State::Stands {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        if bytes.len() >= DIRECT && outbox.is_empty() {
            match self.writer.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.breaks(),
            }
            if bytes.is_empty() {
                return;
            }
        }
        if let Err(Full) = outbox.push(bytes) {
            self.is_too_slow();
        }
    }

    fn is_too_slow(&self) {
        static TOLD: Seldom = Seldom::new();
        if let Some(clients) = TOLD.happened() {
            tracing::warn!(
                clients,
                "a client that does not read is closed: what waits for it reaches limits.output_buffer, or, with what waits for \
                 others, four times that"
            );
        }
        self.breaks();
    }

    /// Writes what the socket takes. `false`: the rest waits for the socket.
    pub fn flush_now(&self) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let outcome = outbox.drain(|bytes| self.writer.try_write(bytes));
        if outbox.has_room()
            && let Some(link) = self.link_waiting_for_room.take()
        {
            link.wake();
        }
        match outcome {
            Ok(is_done) => is_done,
            Err(_) => {
                self.breaks();
                true
            }
        }
    }

    /// Writes what the socket takes, and wakes the session's task when it takes more.
    pub fn poll_flush(&self, cx: &mut Context<'_>) {
        while !self.flush_now() {
            match self.writer.poll_writable(cx) {
                std::task::Poll::Pending => return,
                std::task::Poll::Ready(Ok(())) => {}
                std::task::Poll::Ready(Err(_)) => return self.breaks(),
            }
        }
    }
}

impl Sink for ClientIo {
    fn deliver(&self, bytes: &[u8], ended: u32) {
        self.replies(bytes, u64::from(ended));
        if ended == 0 {
            self.frame_bytes.set(self.frame_bytes.get() + bytes.len() as u64);
        } else if self.frame_bytes.replace(0) > BIG_REPLY {
            self.had_big_reply.set(true);
        }
        self.owed.set(self.owed.get() - u64::from(ended));
        let (replies, came) = self.came.get();
        self.came.set((replies + u64::from(ended), came + bytes.len() as u64));
    }

    fn flush(&self) {
        let is_done = self.flush_now();
        let is_awaited = self.wake_at.get().is_some_and(|at| self.owed.get() <= at);
        if is_awaited {
            self.wake_at.set(None);
        }
        // The session's task waits for the socket, and closes what is broken.
        if !is_done || is_awaited || self.state.get() != State::Stands {
            self.wake();
        }
    }

    fn has_room(&self) -> bool {
        self.state.get() == State::Broken || self.client_keeps_up()
    }

    fn wake_when_room(&self, waker: &Waker) {
        *self.link_waiting_for_room.borrow_mut() = Some(waker.clone());
    }

    fn lost(&self, replies: u32, cut: bool, why: &Loss) {
        self.owed.set(self.owed.get() - u64::from(replies));
        let line = match why {
            Loss::NotSent(_) | Loss::Unknown(_) if self.closes_when_away => {
                self.cut();
                return;
            }
            Loss::NotSent(why) => {
                format!("-UNAVAILABLE {why}; Lockgate keeps trying, ask again later\r\n").into_bytes()
            }
            Loss::Unknown(why) => format!("-UNAVAILABLE {why}; this command may or may not have run\r\n").into_bytes(),
            Loss::Refused(line) => [line, &b"\r\n"[..]].concat(),
        };
        if cut {
            // Half a reply is out: nothing that follows could be read.
            self.breaks();
        }
        for _ in 0..replies {
            self.replies(&line, 1);
        }
    }
}
