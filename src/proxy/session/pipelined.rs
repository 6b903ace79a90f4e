//! What a client has sent behind a call that waits: releases that stand there cannot run before the call has ended, and whoever waits
//! for those locks waits for the call, too. It is read so far only to see them; it runs in its place.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Gone, Session};
use crate::commands::lock_args::LockCommand;
use crate::coordinator::StandsBehind;
use crate::domain::LockKey;
use crate::protocol::args::args;
use crate::protocol::inline;
use crate::protocol::request::{RequestFrame, RequestScanner};

/// Bytes behind a waiting call that are looked at.
const LOOK_MAX: usize = 64 << 10;

/// Bytes behind a command that blocks which are taken in so that the client's end is seen behind them.
const BEHIND_BLOCKED_MAX: usize = 1 << 20;

/// A call that waits for so long is looked behind. Most are answered sooner, and a long pipeline is not read once for each of them.
pub(super) const LOOK_AFTER: Duration = Duration::from_millis(20);

/// How far what stands behind a waiting call was looked at.
pub(super) struct Pipelined {
    found: StandsBehind,
    scanner: RequestScanner,
    at: usize,
    /// There is no more to see: too much has come, or what changes the meaning of what follows.
    is_done: bool,
}

impl Session {
    /// For a call that may wait; `None` where nobody asks for what stands behind it.
    pub(super) fn looks_behind(&self) -> Option<Pipelined> {
        let found = self.worker.coordinator().notes_releases(self.card().id)?;
        Some(Pipelined { found, scanner: RequestScanner::new(), at: 0, is_done: false })
    }

    /// Takes in what has come, up to `most` bytes; `true` where there was any.
    fn take_in(&mut self, cx: &mut Context<'_>, most: usize) -> Result<bool, Gone> {
        let scratch = self.worker.router().scratch().clone();
        let mut scratch = scratch.borrow_mut();
        let most = scratch.len().min(most);
        match self.reader.poll_read(cx, &mut scratch[..most]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                self.has_ended = true;
                Ok(false)
            }
            Poll::Ready(Ok(n)) => {
                self.input.extend_from_slice(&scratch[..n]);
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Gone),
        }
    }

    /// Whether the client has sent anything behind the call that it waits for.
    pub(super) fn has_something_behind(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        if !self.input.is_empty() || self.has_ended {
            return Ok(!self.input.is_empty());
        }
        self.take_in(cx, usize::MAX)
    }

    /// Takes in what the client has sent behind a command that blocks; `true` where it has closed its side.
    pub(super) fn has_ended_behind(&mut self, cx: &mut Context<'_>) -> Result<bool, Gone> {
        while !self.has_ended && self.input.len() < BEHIND_BLOCKED_MAX && self.take_in(cx, usize::MAX)? {}
        Ok(self.has_ended)
    }

    /// Takes in what the client has sent behind the waiting call, up to [`LOOK_MAX`], and notes the releases in it.
    pub(super) fn look_behind(&mut self, cx: &mut Context<'_>, pipelined: &mut Pipelined) -> Result<(), Gone> {
        while !pipelined.is_done {
            self.scan_behind(pipelined);
            pipelined.found.tell();
            let room = LOOK_MAX.saturating_sub(self.input.len());
            if self.has_ended || pipelined.is_done || room == 0 || !self.take_in(cx, room)? {
                break;
            }
        }
        Ok(())
    }

    fn scan_behind(&self, pipelined: &mut Pipelined) {
        let limits = self.request_limits();
        while !pipelined.is_done && pipelined.at < self.input.len().min(LOOK_MAX) {
            let rest = &self.input[pipelined.at..];
            match pipelined.scanner.advance(rest, &limits) {
                Ok(Some(frame)) => {
                    pipelined.at += frame.len;
                    pipelined.note(&rest[..frame.len], &frame, self.key.db);
                }
                Ok(None) => break,
                Err(_) => pipelined.is_done = true,
            }
        }
    }
}

impl Pipelined {
    fn note(&mut self, command: &[u8], frame: &RequestFrame, db: crate::domain::Db) {
        let name = command[frame.name.clone()].to_ascii_lowercase();
        match name.as_slice() {
            b"lock.release" | b"lock.releaseall" => {
                let words = match frame.is_multibulk {
                    true => args(command).map(<[u8]>::to_vec).collect(),
                    false => inline::split(command).unwrap_or_default(),
                };
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                let (keys, owner) = match LockCommand::parse(&words) {
                    Ok(LockCommand::Release { key, owner, .. }) => (vec![key], owner),
                    Ok(LockCommand::ReleaseAll { keys, owner }) => (keys, owner),
                    _ => return,
                };
                for name in keys {
                    self.found.add(LockKey { db, name }, owner.clone());
                }
                self.is_done = self.found.is_full();
            }
            // What follows runs elsewhere, or not at all.
            b"select" | b"multi" | b"reset" | b"quit" | b"hello" | b"auth" => self.is_done = true,
            _ => {}
        }
    }
}
