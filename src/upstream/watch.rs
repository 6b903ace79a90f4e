//! The one link of the process on which the upstream tells of itself: keys that changed (CLIENT TRACKING), and what others publish.
//! Pipelined as the shared links are, in RESP3, so that what it tells comes between the replies. It knows nothing of locks.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::dial::Dialled;
use super::lost::Trail;
use super::outgoing::Outgoing;
use super::socket::{Reader, Writer};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::protocol::reply::{FrameHead, ReplyScanner};

/// Longest reply or push that is collected, in bytes; of a longer reply only is told that it came.
const FRAME_MAX: usize = 64 << 20;
/// What one read takes at most, in bytes.
const READ_BUFFER: usize = 16 << 10;

/// What came on a watch link.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// The reply to what was sent with this tag, as it came; `None` where it was too long to keep.
    Reply(T, Option<Vec<u8>>),
    /// Keys of these names have changed, in whichever databases; the upstream tells of each read but once.
    Changed(Vec<Vec<u8>>),
    /// Any key may have changed.
    AllChanged,
    /// Somebody has published something.
    Message {
        /// Where.
        channel: Vec<u8>,
        /// What.
        payload: Vec<u8>,
    },
}

struct Expected<T> {
    tag: T,
    /// Acknowledgements still to come, for a SUBSCRIBE: RESP3 sends one push a channel, and no reply.
    acks: usize,
    sent: Instant,
}

/// A connected watch link; `T` tags what is sent on it.
pub struct WatchLink<T> {
    reader: Reader,
    writer: Writer,
    out: Outgoing,
    input: Box<[u8]>,
    /// What of `input` was read and not looked at yet.
    unread: Range<usize>,
    scanner: ReplyScanner,
    /// What came of the present frame, unless it is too long.
    frame: Vec<u8>,
    is_too_long: bool,
    expected: VecDeque<Expected<T>>,
    trail: Option<Rc<Trail>>,
}

impl<T> Drop for WatchLink<T> {
    fn drop(&mut self) {
        if let Some(trail) = self.trail.take().filter(|_| !self.expected.is_empty()) {
            trail.is_lost();
        }
    }
}

impl<T> WatchLink<T> {
    /// The link just dialled, in RESP3.
    pub fn new(dialled: Dialled) -> Self {
        WatchLink {
            reader: dialled.reader,
            writer: dialled.writer,
            out: Outgoing::default(),
            input: vec![0; READ_BUFFER].into_boxed_slice(),
            unread: 0..0,
            scanner: ReplyScanner::new(),
            frame: Vec::new(),
            is_too_long: false,
            expected: VecDeque::new(),
            trail: dialled.trail,
        }
    }

    /// Sends a command that owes one reply. It leaves with the next [`WatchLink::hear`].
    pub fn send(&mut self, command: &[&[u8]], tag: T) {
        self.push(command, tag, 0);
    }

    /// Subscribes to `channels`, at least one. The reply is the last acknowledgement, or an error.
    pub fn subscribe(&mut self, channels: &[&[u8]], tag: T) {
        let command: Vec<&[u8]> = std::iter::once(&b"SUBSCRIBE"[..]).chain(channels.iter().copied()).collect();
        self.push(&command, tag, channels.len());
    }

    fn push(&mut self, command: &[&[u8]], tag: T, acks: usize) {
        encode_command(command, self.out.bytes_mut());
        self.expected.push_back(Expected { tag, acks, sent: Instant::now() });
    }

    /// Since when the oldest reply is due; `None` where none is.
    pub fn due_since(&self) -> Option<Instant> {
        self.expected.front().map(|expected| expected.sent)
    }

    /// What came next. May be dropped half-way and asked again. The error tells why the link is lost.
    pub async fn hear(&mut self) -> Result<Heard<T>, String> {
        std::future::poll_fn(|cx| self.poll_hear(cx)).await
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard<T>, String>> {
        if let Err(error) = self.out.poll_flush(&self.writer, cx) {
            return Poll::Ready(Err(format!("the upstream took no more requests: {error}")));
        }
        loop {
            if let Some(heard) = self.heard_already()? {
                return Poll::Ready(Ok(heard));
            }
            match ready!(self.reader.poll_read(cx, &mut self.input)) {
                Ok(0) => return Poll::Ready(Err("the upstream closed the link".into())),
                Ok(n) => self.unread = 0..n,
                Err(error) => return Poll::Ready(Err(format!("the link to the upstream broke: {error}"))),
            }
        }
    }

    /// What has come with the last read and was not heard yet.
    pub fn heard_already(&mut self) -> Result<Option<Heard<T>>, String> {
        while !self.unread.is_empty() {
            let bytes = &self.input[self.unread.clone()];
            let (used, head) =
                self.scanner.next(bytes).map_err(|error| format!("what the upstream sent makes no sense: {error}"))?;
            self.is_too_long |= self.frame.len() + used > FRAME_MAX;
            if self.is_too_long {
                self.frame = Vec::new();
            } else {
                self.frame.extend_from_slice(&bytes[..used]);
            }
            self.unread.start += used;
            if let Some(head) = head
                && let Some(heard) = self.understand(head)?
            {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }

    fn understand(&mut self, head: FrameHead) -> Result<Option<Heard<T>>, String> {
        let is_too_long = std::mem::take(&mut self.is_too_long);
        let frame = std::mem::take(&mut self.frame);
        if head.kind == b'>' {
            if is_too_long {
                return Err(format!("the upstream told something longer than {FRAME_MAX} bytes"));
            }
            return self.understand_push(frame);
        }
        match self.expected.pop_front() {
            Some(expected) => Ok(Some(Heard::Reply(expected.tag, (!is_too_long).then_some(frame)))),
            None => Err("the upstream sent a reply that nobody asked for".into()),
        }
    }

    fn understand_push(&mut self, frame: Vec<u8>) -> Result<Option<Heard<T>>, String> {
        let push = decode(&frame).map_err(|error| format!("what the upstream told makes no sense: {error}"))?;
        let parts = push.as_array().unwrap_or_default();
        let word = parts.first().and_then(Value::as_bytes).unwrap_or_default();
        Ok(match (word, &parts[1.min(parts.len())..]) {
            (b"invalidate", [Value::Null]) => Some(Heard::AllChanged),
            (b"invalidate", [names]) => {
                let names = names.as_array().unwrap_or_default();
                Some(Heard::Changed(names.iter().filter_map(Value::as_bytes).map(<[u8]>::to_vec).collect()))
            }
            (b"message", [channel, payload]) => match (channel.as_bytes(), payload.as_bytes()) {
                (Some(channel), Some(payload)) => {
                    Some(Heard::Message { channel: channel.to_vec(), payload: payload.to_vec() })
                }
                _ => None,
            },
            (b"subscribe", _) => {
                let Some(expected) = self.expected.front_mut().filter(|expected| expected.acks > 0) else {
                    return Err("the upstream acknowledged a subscription that nobody asked for".into());
                };
                expected.acks -= 1;
                match expected.acks {
                    0 => self.expected.pop_front().map(|expected| Heard::Reply(expected.tag, Some(frame))),
                    _ => None,
                }
            }
            // What a later upstream may tell of besides.
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::socket::Socket;
    use super::*;

    fn link() -> (WatchLink<&'static str>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = Socket::Unix(ours).split();
        (WatchLink::new(Dialled::unasked(reader, writer)), theirs)
    }

    #[tokio::test]
    async fn replies_come_to_what_was_sent_and_pushes_between_them() {
        let (mut link, mut upstream) = link();
        link.send(&[b"GET", b"k"], "get");
        link.subscribe(&[b"a", b"b"], "subscribe");
        link.send(&[b"PING"], "ping");
        let said = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n$1\r\nv\r\n>3\r\n+subscribe\r\n+a\r\n:1\r\n\
                     >3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n>3\r\n+subscribe\r\n+b\r\n:2\r\n+PONG\r\n\
                     >2\r\n$10\r\ninvalidate\r\n_\r\n>1\r\n+later\r\n+what\r\n";
        for byte in said {
            upstream.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(link.hear().await, Ok(Heard::Changed(vec![b"k".to_vec()])));
        assert_eq!(link.hear().await, Ok(Heard::Reply("get", Some(b"$1\r\nv\r\n".to_vec()))));
        assert_eq!(link.hear().await, Ok(Heard::Message { channel: b"a".to_vec(), payload: b"hi".to_vec() }));
        assert!(matches!(link.hear().await, Ok(Heard::Reply("subscribe", Some(_)))));
        assert_eq!(link.hear().await, Ok(Heard::Reply("ping", Some(b"+PONG\r\n".to_vec()))));
        assert_eq!(link.due_since(), None);
        assert_eq!(link.hear().await, Ok(Heard::AllChanged));
        assert!(link.hear().await.is_err(), "a reply that nobody asked for ends the link");
        let mut sent = vec![0; 1024];
        let n = upstream.read(&mut sent).await.unwrap();
        assert!(sent[..n].starts_with(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$9\r\nSUBSCRIBE\r\n"));
    }

    #[tokio::test]
    async fn a_refused_subscription_is_one_error() {
        let (mut link, mut upstream) = link();
        link.subscribe(&[b"a", b"b"], "subscribe");
        link.send(&[b"PING"], "ping");
        upstream.write_all(b"-NOPERM no\r\n+PONG\r\n").await.unwrap();
        assert_eq!(link.hear().await, Ok(Heard::Reply("subscribe", Some(b"-NOPERM no\r\n".to_vec()))));
        assert_eq!(link.hear().await, Ok(Heard::Reply("ping", Some(b"+PONG\r\n".to_vec()))));
        let silence = tokio::time::timeout(Duration::from_millis(5), link.hear()).await;
        assert!(silence.is_err(), "hearing may be given up and taken up again");
        drop(upstream);
        assert!(link.hear().await.is_err());
    }
}
