//! A connection in memory, for simulations: what goes in on one side lies there until the simulated network takes it out, and the
//! other way round. Nothing here knows of time; whoever carries the bytes does.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What one direction holds at most before its writer has to wait.
const ROOM: usize = 1 << 20;

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    bytes: VecDeque<u8>,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    closing: Option<Waker>,
}

/// One direction, shared by those who write and read it.
#[derive(Debug, Clone, Default)]
pub struct Flow(Arc<Mutex<Lane>>);

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct End {
    /// What comes in.
    pub incoming: Flow,
    /// What goes out.
    pub outgoing: Flow,
}

/// The two ends of a connection.
pub fn pipe() -> (End, End) {
    let (there, back) = (Flow::default(), Flow::default());
    (End { incoming: back.clone(), outgoing: there.clone() }, End { incoming: there, outgoing: back })
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, Lane> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what has come into `buffer`: the number of bytes, 0 at the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut lane = self.lock();
        if lane.bytes.is_empty() {
            if lane.is_closed {
                return Poll::Ready(Ok(0));
            }
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buffer.len().min(lane.bytes.len());
        for (to, from) in buffer.iter_mut().zip(lane.bytes.drain(..n)) {
            *to = from;
        }
        wake(&mut lane.writer);
        Poll::Ready(Ok(n))
    }

    /// Writes what fits.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut lane = self.lock();
        if lane.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(ROOM.saturating_sub(lane.bytes.len()));
        if n == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        lane.bytes.extend(&bytes[..n]);
        wake(&mut lane.reader);
        Ok(n)
    }

    /// Ready once something can be written, or never can any more.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.lock();
        if lane.is_closed || lane.bytes.len() < ROOM {
            return Poll::Ready(Ok(()));
        }
        lane.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nothing more is written; what lies there can still be read.
    pub fn close(&self) {
        let mut lane = self.lock();
        lane.is_closed = true;
        wake(&mut lane.reader);
        wake(&mut lane.writer);
        wake(&mut lane.closing);
    }

    /// Whether it was.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Ends when it is.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut lane = self.lock();
            if lane.is_closed {
                return Poll::Ready(());
            }
            lane.closing = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// All that lies there, at once; waits for something. `None` at the end.
    pub async fn take(&self) -> Option<Vec<u8>> {
        std::future::poll_fn(|cx| {
            let mut lane = self.lock();
            if lane.bytes.is_empty() && !lane.is_closed {
                lane.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            wake(&mut lane.writer);
            let bytes: Vec<u8> = lane.bytes.drain(..).collect();
            Poll::Ready((!bytes.is_empty()).then_some(bytes))
        })
        .await
    }
}

impl End {
    /// Closes both directions.
    pub fn close(&self) {
        self.incoming.close();
        self.outgoing.close();
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
