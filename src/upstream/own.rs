//! An upstream link that one session has to itself, for as long as its connection has state of its own.

use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::dial::{Dialled, LinkKey};
use super::idle::OwnPermit;
use super::links::Links;
use super::lost::Trail;
use super::outgoing::Outgoing;
use super::socket::{Reader, Writer};
use crate::protocol::reply::ReplyScanner;

/// Longest reply that is collected before a session uses a link, in bytes.
const FRAME_MAX: usize = 16 << 20;

/// The wire; what is owed on it is the session's business.
pub struct OwnLink {
    /// Whose server it leads to.
    home: Weak<Links>,
    key: LinkKey,
    reader: Reader,
    writer: Writer,
    out: Outgoing,
    /// Finds the ends of its replies.
    pub scanner: ReplyScanner,
    upstream_id: u64,
    trail: Option<Rc<Trail>>,
    /// Something was sent on it since it was lent.
    is_used: bool,
    is_broken: bool,
    /// What came behind the frame that was asked for last.
    ahead: Vec<u8>,
    /// `None` while no session uses it, and where it was not lent but opened for one session.
    permit: Option<OwnPermit>,
}

impl OwnLink {
    /// The link just dialled for `key`.
    pub(super) fn new(key: LinkKey, dialled: Dialled, permit: Option<OwnPermit>, home: Weak<Links>) -> OwnLink {
        OwnLink {
            home,
            key,
            reader: dialled.reader,
            writer: dialled.writer,
            out: Outgoing::default(),
            scanner: ReplyScanner::new(),
            upstream_id: dialled.upstream_id,
            trail: dialled.trail,
            is_used: false,
            is_broken: false,
            ahead: Vec::new(),
            permit,
        }
    }

    /// Whether it leads to the server of `links`.
    pub(super) fn is_of(&self, links: &Rc<Links>) -> bool {
        std::ptr::eq(self.home.as_ptr(), Rc::as_ptr(links))
    }

    /// Identity, database and protocol that it is in.
    pub fn key(&self) -> &LinkKey {
        &self.key
    }

    /// It was brought into the state that `key` tells (AUTH, SELECT, HELLO).
    pub fn rekey(&mut self, key: LinkKey) {
        self.key = key;
    }

    /// No session uses it for now, and nothing on it is owed.
    pub fn rests(&mut self) {
        self.is_used = false;
        self.permit = None;
    }

    /// A session has it.
    pub(super) fn is_lent(&mut self, permit: OwnPermit) {
        self.permit = Some(permit);
    }

    /// No session has it, though something is still to be done on it.
    pub(super) fn is_left(&mut self) {
        self.permit = None;
    }

    /// What the upstream calls this connection.
    pub fn upstream_id(&self) -> u64 {
        self.upstream_id
    }

    /// Still connected, and the upstream has said nothing that nobody has read.
    pub fn is_quiet(&mut self) -> bool {
        if !self.ahead.is_empty() {
            return false;
        }
        let mut byte = [0u8; 1];
        self.reader.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_pending()
    }

    /// Adds to what is to be written.
    pub fn push(&mut self, bytes: &[u8]) {
        self.is_used = true;
        self.out.bytes_mut().extend_from_slice(bytes);
    }

    /// Requests that wait to be written, in bytes.
    pub fn backlog(&self) -> usize {
        self.out.len()
    }

    /// Writes what the socket takes, and wakes the task when it takes more. Where it takes nothing any more the reader
    /// tells the end, behind what the upstream has said before it closed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if self.out.poll_flush(&self.writer, cx).is_err() {
            self.is_broken = true;
            self.out = Outgoing::default();
        }
    }

    /// Reads what has come: the number of bytes, 0 when the upstream has closed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let outcome = self.reader.poll_read(cx, buffer);
        self.is_broken |= matches!(&outcome, Poll::Ready(Ok(0) | Err(_)));
        outcome
    }
}

impl Drop for OwnLink {
    /// What a client that has left had sent may run, as over a connection of its own; not what was lost with the link.
    fn drop(&mut self) {
        if let Some(trail) = self.trail.take().filter(|_| self.is_broken && self.is_used) {
            trail.is_lost();
        }
    }
}

impl OwnLink {
    /// One command, one reply as it came; for a link that no session uses yet.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.push(request);
        self.frame().await
    }

    /// The next frame of those that were asked for.
    pub(super) async fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut frame = Vec::new();
        let mut chunk = std::mem::take(&mut self.ahead);
        loop {
            let scan = self.scanner.scan(&chunk, 1).map_err(io::Error::other)?;
            frame.extend_from_slice(&chunk[..scan.consumed]);
            if scan.frames == 1 {
                self.ahead = chunk.split_off(scan.consumed);
                return Ok(frame);
            }
            if frame.len() > FRAME_MAX {
                return Err(io::Error::other("a reply is longer than anything that is asked here"));
            }
            chunk.resize(4096, 0);
            let n = std::future::poll_fn(|cx| {
                self.poll_flush(cx);
                self.poll_read(cx, &mut chunk)
            })
            .await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            chunk.truncate(n);
        }
    }
}
