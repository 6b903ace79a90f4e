//! What comes on a session's own link: replies and pushes go to the client, answers to Lockgate's own questions do not, and where
//! the answer is Lockgate's to give, the rest waits for it.

use std::task::{Context, Poll};

use super::conversation::{Adapt, After, Conversation, Fate};
use super::handshake::with_client_id;
use super::own::{BIG_REPLIES_KEEP, BIG_REPLY, OwnMode};
use super::{ClientIo, Gone, Session};
use crate::commands::client::ClientCall;
use crate::domain::Resp;
use crate::protocol::frame;

/// Reads of the own link in one turn, so that a flood on one connection does not hold up the others.
const READS_PER_TURN: usize = 4;
/// Longest reply that Lockgate reads itself on this link, in bytes; `COMMAND DOCS` is the longest there is.
const CAPTURE_MAX: usize = 16 << 20;
/// The line that tells how many elements an array has, with a sign, 19 digits and CR LF.
const HEAD_MAX: usize = 24;

/// What has come and is not done with.
#[derive(Default)]
pub(super) struct Incoming {
    /// The reply to a command of Lockgate's own, or one that it changes.
    pub(super) captured: Vec<u8>,
    /// Behind the place of an answer that is Lockgate's to give.
    unread: Vec<u8>,
    /// The beginning of a frame of which more is needed to tell whose it is.
    held: Vec<u8>,
    /// The beginning of the line that begins `EXEC`'s reply.
    head: Vec<u8>,
    /// What becomes of the frame that is coming.
    fate: Option<Fate>,
    /// Bytes of that frame.
    frame_bytes: u64,
    /// The invalidation that a write of Lockgate's for this client brings, where the client wants none for its own writes.
    shield: Option<Box<[u8]>>,
    /// It has come.
    has_shielded: bool,
}

impl Incoming {
    /// Nothing is half read.
    pub(super) fn is_empty(&self) -> bool {
        self.captured.is_empty() && self.unread.is_empty() && self.held.is_empty() && self.head.is_empty()
    }

    /// Lockgate writes `key` for this client over another link.
    pub(super) fn shield(&mut self, key: &[u8]) {
        let mut push = Vec::new();
        frame::push(Resp::V3, 2, &mut push);
        frame::bulk("invalidate", &mut push);
        frame::array(1, &mut push);
        frame::bulk(key, &mut push);
        self.shield = Some(push.into());
        self.has_shielded = false;
    }

    /// It has done so, or has not; `true` where the invalidation of that key has come meanwhile and was kept from the client.
    pub(super) fn unshield(&mut self) -> bool {
        self.shield = None;
        std::mem::take(&mut self.has_shielded)
    }

    /// Whether the push that begins like this, or is this, may be the one that is waited for.
    fn is_shielded(&self, rest: &[u8], is_whole: bool) -> bool {
        let Some(shield) = self.shield.as_ref().filter(|_| !self.has_shielded) else { return false };
        let seen = self.held.len();
        let is_alike =
            shield.get(seen..seen + rest.len()).is_some_and(|part| part == rest) && shield.starts_with(&self.held);
        is_alike && (!is_whole || shield.len() == seen + rest.len())
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

impl Session {
    /// Brings what the upstream sent on the own link to the client, and gives the link back when it is needed no longer.
    pub(super) fn pump_own(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        if self.own.is_none() {
            return Ok(());
        }
        let scratch = self.worker.router().scratch().clone();
        let mut scratch = scratch.borrow_mut();
        for turn in 0.. {
            let Some(own) = self.own.as_mut() else { break };
            if turn == 0 {
                own.link.poll_flush(cx);
            }
            // A client that does not read leaves its replies with the upstream; its flush wakes this task.
            if !self.io.client_keeps_up() || own.talk.due().is_some() {
                break;
            }
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            let unread = std::mem::take(&mut own.incoming.unread);
            if unread.is_empty() {
                match own.link.poll_read(cx, &mut scratch) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(n)) if n > 0 => own.bring(&scratch[..n], &self.io, &mut self.big_replies)?,
                    // Its state is lost with the link, as when a client's own connection to Redis breaks.
                    Poll::Ready(_) => {
                        self.has_lost_own = true;
                        self.io.flush_now();
                        return Err(Gone);
                    }
                }
            } else {
                own.bring(&unread, &self.io, &mut self.big_replies)?;
            }
            // The client may tell others what it has read: they see it, too.
            self.apply_changes();
            self.show_state();
            if !self.io.flush_now() {
                self.io.poll_flush(cx);
            }
        }
        drop(scratch);
        self.apply_changes();
        self.show_state();
        self.release_own();
        Ok(())
    }

    /// Carries out what a stand-in in `EXEC`'s reply has stood for, and answers in its place.
    pub(super) async fn answer_due(&mut self) -> Result<(), Gone> {
        let Some(own) = self.own.as_mut() else { return Ok(()) };
        let Some(words) = own.talk.due().map(<[_]>::to_vec) else { return Ok(()) };
        let judged = std::mem::take(&mut own.incoming.captured);
        let args: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
        let (reply, is_last) = match ClientCall::read(&args) {
            Some(call) => {
                let answered = self.client_answer(call, judged).await?;
                (answered.reply, answered.is_last)
            }
            None => (judged, false),
        };
        // A server closes behind what it has still to write, as the beginning of this reply is.
        if is_last && self.own.as_ref().is_none_or(|own| !own.talk.is_hearing()) {
            return self.is_to_leave().await;
        }
        self.answer(&reply);
        if is_last {
            return self.runs_the_rest().await;
        }
        if let Some(own) = self.own.as_mut() {
            own.talk.was_answered();
        }
        self.apply_changes();
        Ok(())
    }
}

impl Session {
    /// The client has ended its own connection in the midst of a transaction: what is behind that is still carried out, and it hears no
    /// more of it.
    async fn runs_the_rest(&mut self) -> Result<(), Gone> {
        loop {
            if let Some(own) = self.own.as_mut() {
                own.talk.falls_silent();
                own.talk.was_answered();
            }
            let is_over = std::future::poll_fn(|cx| {
                if self.has_to_go(cx) || self.pump_own(cx).is_err() {
                    return Poll::Ready(true);
                }
                match &self.own {
                    Some(own) if own.talk.due().is_some() => Poll::Ready(false),
                    Some(own) if !own.talk.is_between_replies() => Poll::Pending,
                    _ => Poll::Ready(true),
                }
            })
            .await;
            let due = self.own.as_mut().filter(|_| !is_over).and_then(|own| {
                let words = own.talk.due()?.to_vec();
                Some((words, std::mem::take(&mut own.incoming.captured)))
            });
            let Some((words, judged)) = due else { break };
            let args: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
            if let Some(call) = ClientCall::read(&args) {
                self.client_answer(call, judged).await?;
            }
        }
        self.flushed().await?;
        Err(Gone)
    }
}

impl OwnMode {
    /// Takes what came up to the place where Lockgate has to answer first.
    fn bring(&mut self, bytes: &[u8], io: &ClientIo, big_replies: &mut u32) -> Result<(), Gone> {
        // What lies between goes to the client in one piece.
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() && self.talk.due().is_none() {
            if self.talk.is_opaque() {
                at = bytes.len();
                break;
            }
            let rest = &bytes[at..];
            if self.link.scanner.is_at_boundary() {
                if self.talk.hears_raw(rest[0]) {
                    continue;
                }
                let plain = self.take_plain(rest, big_replies)?;
                if plain > 0 {
                    at += plain;
                    continue;
                }
                if self.talk.reads_elements() && (rest[0] == b'*' || !self.incoming.head.is_empty()) {
                    io.push(&bytes[from..at]);
                    at += self.take_head(rest, io)?;
                    from = at;
                    continue;
                }
            }
            let step = self.take_frame(rest, big_replies)?;
            if !step.passes {
                io.push(&bytes[from..at]);
                from = at + step.used;
            }
            at += step.used;
            if !step.instead.is_empty() {
                io.push(&bytes[from..at]);
                io.push(&step.instead);
                from = at;
            }
        }
        io.push(&bytes[from..at]);
        self.incoming.unread.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    /// Frames at the front that can only be plain replies: how many bytes.
    fn take_plain(&mut self, rest: &[u8], big_replies: &mut u32) -> Result<usize, Gone> {
        const QUEUED: &[u8] = b"+QUEUED\r\n";
        let ahead = self.talk.plain_ahead();
        if ahead == 0 {
            return Ok(0);
        }
        if self.talk.is_multi() {
            let whole = rest.chunks_exact(QUEUED.len()).take(ahead as usize);
            let queued = whole.take_while(|frame| *frame == QUEUED).count();
            // No more than `ahead`, which is as wide.
            self.talk.came_plain(queued as u32);
            return Ok(queued * QUEUED.len());
        }
        let scan = self.link.scanner.scan(rest, ahead).map_err(|_| Gone)?;
        self.incoming.note_size(scan.consumed, scan.frames, big_replies);
        self.talk.came_plain(scan.frames);
        Ok(scan.consumed)
    }

    /// The line at the front that tells how many elements `EXEC` has brought, or a part of it: how many bytes.
    fn take_head(&mut self, rest: &[u8], io: &ClientIo) -> Result<usize, Gone> {
        let end = memchr::memchr(b'\n', rest).map(|end| end + 1);
        let used = end.unwrap_or(rest.len());
        let mut head = std::mem::take(&mut self.incoming.head);
        head.extend_from_slice(&rest[..used]);
        if head.len() > HEAD_MAX {
            return Err(Gone);
        }
        if end.is_none() {
            self.incoming.head = head;
            return Ok(used);
        }
        let count = head.get(1..head.len() - 2).and_then(|count| std::str::from_utf8(count).ok()?.parse::<i64>().ok());
        let count = count.ok_or(Gone)?;
        if self.talk.is_heard() {
            match self.talk.markers() {
                markers if markers > 0 && count > 0 => {
                    io.push(format!("*{}\r\n", count.saturating_sub_unsigned(markers)).as_bytes());
                }
                _ => io.push(&head),
            }
        }
        self.talk.exec_runs(u64::try_from(count).ok());
        Ok(used)
    }

    /// One frame at the front, or a part of it.
    fn take_frame(&mut self, rest: &[u8], big_replies: &mut u32) -> Result<Step, Gone> {
        let seen = self.link.scanner.frame_seen();
        let (used, head) = self.link.scanner.next(rest).map_err(|_| Gone)?;
        let mut step = Step { used, passes: true, instead: Vec::new() };
        let incoming = &mut self.incoming;
        let fate = match incoming.fate {
            Some(fate) => fate,
            None => {
                let kind = head.as_ref().map(|head| head.kind).or(self.link.scanner.pending_kind());
                let word = head.as_ref().map_or(self.link.scanner.pending_word(), |head| head.word);
                let is_clear = |kind| {
                    head.is_some() || self.talk.is_fate_clear(kind) || seen + used as u64 >= Conversation::CLEAR_AFTER
                };
                let is_shielded = kind == Some(b'>') && incoming.is_shielded(&rest[..used], head.is_some());
                if is_shielded && head.is_some() {
                    incoming.held.clear();
                    incoming.has_shielded = true;
                    step.passes = false;
                    return Ok(step);
                }
                let Some(kind) = kind.filter(|kind| !is_shielded && is_clear(*kind)) else {
                    incoming.held.extend_from_slice(&rest[..used]);
                    step.passes = false;
                    return Ok(step);
                };
                let fate = self.talk.fate(kind, &word);
                incoming.fate = Some(fate);
                fate
            }
        };
        let held = std::mem::take(&mut incoming.held);
        if fate == Fate::Capture {
            incoming.captured.extend_from_slice(&held);
            incoming.captured.extend_from_slice(&rest[..used]);
            if incoming.captured.len() > CAPTURE_MAX {
                return Err(Gone);
            }
        }
        if fate != Fate::Pass {
            step.passes = false;
        } else if !held.is_empty() {
            step.passes = false;
            step.instead = [&held, &rest[..used]].concat();
        }
        incoming.note_size(used, u32::from(head.is_some()), big_replies);
        if let Some(head) = head {
            incoming.fate = None;
            let is_heard = self.talk.is_heard();
            match self.talk.came(&head) {
                After::Nothing | After::Due => {}
                After::Say(text) => step.instead.extend_from_slice(&text),
                After::Adapt(adapt) => {
                    let reply = std::mem::take(&mut self.incoming.captured);
                    if is_heard {
                        step.instead = self.adapted(adapt, reply);
                    }
                }
            }
        }
        Ok(step)
    }

    fn adapted(&self, adapt: Adapt, reply: Vec<u8>) -> Vec<u8> {
        match adapt {
            Adapt::Hello if self.is_relay => reply,
            Adapt::Hello => with_client_id(reply, self.client_id),
            Adapt::Merge(merge) => merge.apply(reply),
        }
    }
}

/// What became of a frame, or of a part of it.
struct Step {
    used: usize,
    /// It goes to the client as it is.
    passes: bool,
    /// What goes to the client behind what passed before.
    instead: Vec<u8>,
}
