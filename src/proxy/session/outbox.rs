//! Replies on their way to one client. What they may take has a bound: a client that does not read is closed at it, as Redis does it,
//! so that the link it shares with others never has to wait for it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Above this the client counts as slow.
const ROOM_BELOW: usize = 256 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_KEPT: usize = 16 << 10;
/// Longest piece that a buffer is made of: a longer one would be copied again and again as it grows.
const PIECE: usize = 256 << 10;

/// What waits for all clients of a process together, in bytes, the first piece of each left out.
///
/// Each may take as much as is free. So one that does not read takes half of it at most, two take a third each, and there is always
/// something left for those who are merely slow; nobody has to find out who takes most.
#[derive(Debug)]
pub struct AllOutboxes {
    waits: AtomicUsize,
    limit: usize,
}

impl AllOutboxes {
    /// At most `limit` bytes ever wait.
    pub fn new(limit: usize) -> AllOutboxes {
        AllOutboxes { waits: AtomicUsize::new(0), limit }
    }

    fn free(&self) -> usize {
        self.limit.saturating_sub(self.waits.load(Ordering::Relaxed))
    }
}

/// First in, first out.
pub struct Outbox {
    /// What goes out next, from `start` on.
    first: Vec<u8>,
    start: usize,
    rest: VecDeque<Vec<u8>>,
    /// Bytes in `rest`.
    rest_bytes: usize,
    /// Most bytes of all.
    limit: usize,
    all: Arc<AllOutboxes>,
}

/// More waits for the client than it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Outbox {
    /// Nothing waits; at most `limit` bytes ever do, and no more than `all` have room for.
    pub fn new(limit: usize, all: &Arc<AllOutboxes>) -> Outbox {
        Outbox { first: Vec::new(), start: 0, rest: VecDeque::new(), rest_bytes: 0, limit, all: all.clone() }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.first.len() && self.rest.is_empty()
    }

    fn len(&self) -> usize {
        self.first.len() - self.start + self.rest_bytes
    }

    /// Most bytes that may wait.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the client keeps up.
    pub fn has_room(&self) -> bool {
        self.len() < ROOM_BELOW
    }

    /// Adds to the end.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Full> {
        if self.rest.is_empty() && self.first.len() + bytes.len() <= PIECE {
            self.first.extend_from_slice(bytes);
            return Ok(());
        }
        if self.len() + bytes.len() > self.limit || self.rest_bytes + bytes.len() > self.all.free() {
            return Err(Full);
        }
        self.rest_bytes += bytes.len();
        self.all.waits.fetch_add(bytes.len(), Ordering::Relaxed);
        while !bytes.is_empty() {
            if self.rest.back().is_none_or(|last| last.len() == PIECE) {
                self.rest.push_back(Vec::with_capacity(PIECE));
            }
            let Some(last) = self.rest.back_mut() else { break };
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Hands what waits to `write` until it takes no more (`WouldBlock`); `Ok(true)` when all is gone.
    pub fn drain(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        loop {
            while self.start < self.first.len() {
                match write(&self.first[self.start..]) {
                    Ok(n) => self.start += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.start = 0;
            self.first.clear();
            let Some(next) = self.rest.pop_front() else { break };
            self.rest_bytes -= next.len();
            self.all.waits.fetch_sub(next.len(), Ordering::Relaxed);
            self.first = next;
        }
        if self.first.capacity() > BUFFER_KEPT {
            self.first = Vec::new();
        }
        Ok(true)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.all.waits.fetch_sub(self.rest_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(limit: usize) -> Outbox {
        Outbox::new(limit, &Arc::new(AllOutboxes::new(usize::MAX)))
    }

    #[test]
    fn all_together_never_keep_more_than_they_may_and_one_alone_half_of_it() {
        const LIMIT: usize = 16 << 20;
        let all = Arc::new(AllOutboxes::new(LIMIT));
        let piece = vec![7; 100_000];
        let fill = |outbox: &mut Outbox| while outbox.push(&piece).is_ok() {};
        let mut greedy: Vec<Outbox> = (0..20).map(|_| Outbox::new(LIMIT, &all)).collect();
        fill(&mut greedy[0]);
        assert!(greedy[0].rest_bytes.abs_diff(LIMIT / 2) <= piece.len(), "{}", greedy[0].rest_bytes);
        greedy.iter_mut().skip(1).for_each(fill);
        assert!(all.waits.load(Ordering::Relaxed) <= LIMIT);
        let mut slow = Outbox::new(LIMIT, &all);
        assert_eq!(slow.push(&piece), Ok(()), "it has its first piece");
        drop(slow);
        drop(greedy);
        assert_eq!(all.waits.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_client_that_reads_slowly_loses_no_byte() {
        let mut outbox = outbox(8 << 20);
        let all: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        for chunk in all.chunks(70_001) {
            outbox.push(chunk).unwrap();
        }
        assert!(!outbox.has_room());
        let mut seen = Vec::new();
        let mut turn = 0;
        while !outbox.is_empty() {
            let _ = outbox
                .drain(|bytes| {
                    turn += 1;
                    if turn % 3 == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    let n = bytes.len().min(99_999);
                    seen.extend_from_slice(&bytes[..n]);
                    Ok(n)
                })
                .unwrap();
        }
        assert!(seen == all);
        assert!(outbox.has_room());
    }

    #[test]
    fn no_more_than_the_limit_waits_however_long_the_client_reads_a_little() {
        let mut outbox = outbox(1 << 20);
        let mut most = 0;
        for _ in 0..1000 {
            outbox.push(&[7; 10_000]).unwrap();
            let mut left = 10_000;
            let _ = outbox.drain(|bytes| {
                let n = bytes.len().min(left);
                left -= n;
                if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
            });
            most = most.max(outbox.first.capacity() + outbox.rest_bytes);
        }
        assert!(most <= 2 * PIECE, "{most}");
        let room = outbox.limit - outbox.len();
        assert_eq!(outbox.push(&vec![7; room + 1]), Err(Full));
        assert_eq!(outbox.push(&vec![7; room]), Ok(()));
    }
}
