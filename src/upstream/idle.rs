//! Own links that wait for their next session, and what is done to a link before another session may have it: it is washed, in a task
//! of its own and off everybody's path, with every reply looked at. What cannot be washed is closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::dial::{Credentials, Identity, LinkKey};
use super::own::OwnLink;
use crate::domain::Resp;
use crate::protocol::args::encode_command;

/// Own links of one key that a worker keeps connected for the next session that needs one.
const IDLE_OF_A_KEY_MAX: usize = 4;
/// Those of all keys together.
const IDLE_MAX: usize = 16;

/// Own links that no session uses, in the order in which they were given back. They count in no limit.
#[derive(Default)]
pub(super) struct IdleLinks {
    links: VecDeque<(OwnLink, Instant)>,
}

impl IdleLinks {
    /// Keeps a link that is in the state its key tells, with nothing owed. The one that waited longest makes room.
    pub(super) fn put(&mut self, link: OwnLink) {
        let same = self.links.iter().filter(|(other, _)| other.key() == link.key()).count();
        if same >= IDLE_OF_A_KEY_MAX {
            return;
        }
        if self.links.len() >= IDLE_MAX {
            self.links.pop_front();
        }
        self.links.push_back((link, Instant::now()));
    }

    /// The link of that key that was used last, if the upstream has not closed it.
    pub(super) fn take(&mut self, key: &LinkKey) -> Option<OwnLink> {
        loop {
            let at = self.links.iter().rposition(|(link, _)| link.key() == key)?;
            let (mut link, _) = self.links.remove(at)?;
            if link.is_quiet() {
                return Some(link);
            }
        }
    }

    /// Drops those that the upstream has closed, and gives their keys.
    pub(super) fn drop_closed(&mut self) -> Vec<LinkKey> {
        let mut closed = Vec::new();
        self.links.retain_mut(|(link, _)| {
            let stands = link.is_quiet();
            if !stands {
                closed.push(link.key().clone());
            }
            stands
        });
        closed
    }

    /// Closes those that have waited for so long.
    pub(super) fn close_older_than(&mut self, limit: Duration) {
        self.links.retain(|(_, since)| since.elapsed() < limit);
    }
}

/// Brings a link on which nothing is owed into the state that its key tells, whatever it was in; `None` where the upstream does not
/// do all of it. `credentials` are those of the key's identity.
pub(super) async fn washed(mut link: OwnLink, credentials: Option<Credentials>) -> Option<OwnLink> {
    let mut reset = Vec::new();
    encode_command(&[b"RESET"], &mut reset);
    link.push(&reset);
    // What was on its way before it (messages, invalidations) is nobody's any more.
    while link.frame().await.ok()? != b"+RESET\r\n" {}
    let mut steps: Vec<Vec<u8>> = credentials.iter().map(Credentials::auth_command).collect();
    let mut step = |words: &[&[u8]]| {
        let mut command = Vec::new();
        encode_command(words, &mut command);
        steps.push(command);
    };
    if link.key().resp == Resp::V3 {
        step(&[b"HELLO", b"3"]);
    }
    // Whether a connection without credentials still has rights after RESET, the upstream says to SELECT.
    if link.key().db != 0 || link.key().identity == Identity::Anonymous {
        step(&[b"SELECT", link.key().db.to_string().as_bytes()]);
    }
    // One by one: Redis 8.2 says nothing to a wrong password that comes behind anything in one write.
    for step in steps {
        if matches!(link.ask(&step).await.ok()?.first(), None | Some(b'-' | b'!')) {
            return None;
        }
    }
    link.rests();
    Some(link)
}

/// The right to one of the process's own links; given back when dropped.
#[derive(Debug)]
pub(super) struct OwnPermit(Arc<AtomicUsize>);

impl OwnPermit {
    pub(super) fn take(in_use: &Arc<AtomicUsize>, most: usize) -> Option<OwnPermit> {
        in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1))
            .ok()
            .map(|_| OwnPermit(in_use.clone()))
    }
}

impl Drop for OwnPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "idle_tests.rs"]
mod tests;
