//! A transaction as the upstream's replies tell it: what it has queued, and which part of `EXEC`'s reply is whose. Pure.

use std::collections::VecDeque;

use super::handshake::HelloOption;
use crate::commands::{Channel, Merge};
use crate::domain::{Db, Resp};
use crate::upstream::dial::Credentials;

/// Most commands of one transaction that Lockgate answers or has to note itself; plain ones are only counted.
pub(super) const NOTED_MAX: usize = 16 << 10;

/// What a command does once its reply shows that it ran. The same whether it ran at once or within `EXEC`.
#[derive(Debug)]
pub(super) enum Entry {
    /// Leaves nothing behind.
    Plain,
    /// Changes the connection.
    Change(Change),
    /// Brings an acknowledgement for each channel, not one reply.
    Channels(Channels),
    /// `HELLO`: its reply names the upstream's number for the connection, which is not ours.
    Hello {
        change: Change,
        /// What a refusal does not tell whether it was done.
        in_doubt: Vec<HelloOption>,
    },
    /// `COMMAND`: LOCK.* is put into its reply.
    Merge(Merge),
    /// What went upstream stands for these words: its reply shows whether they may be carried out. Lockgate does so, and answers.
    Answer(Box<[Box<[u8]>]>),
    /// Lockgate's own, behind a command that may bring no element: its refusal, which nobody gets, shows where the next begins.
    Marker,
}

impl Entry {
    /// Within a transaction Redis 8.2 says nothing to a wrong password, so that the reply has fewer elements than its head tells.
    pub(super) fn may_be_mute(&self) -> bool {
        matches!(self, Entry::Hello { .. } | Entry::Change(Change::Session(SessionChange::Identity(_))))
    }
}

/// What an accepted command changes on its connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Keys are watched.
    Watch,
    /// No key is watched any more.
    Unwatch,
    /// A line for every command of the server.
    Monitor,
    /// The upstream notes what is read.
    Tracking { redirect: Option<u64>, is_noloop: bool },
    /// It notes nothing any more.
    NoTracking,
    /// A flag that `RESET` ends.
    Flag,
    /// One that it does not end on every upstream.
    Lasting,
    /// Whatever a command did that nobody here knows.
    Unknown,
    /// How the client's replies are switched. The upstream has been told nothing of it.
    Replies(Replies),
    /// Something of the session: which links it uses from here on, or what `CLIENT LIST` shows.
    Session(SessionChange),
}

/// What an accepted command changes for the session.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum SessionChange {
    /// `SELECT`
    Db(Db),
    /// `AUTH`
    Identity(Credentials),
    /// `HELLO`
    Hello { resp: Option<Resp>, auth: Option<Credentials>, name: Option<Vec<u8>> },
    /// `RESET`: the upstream has made the connection new, for nobody and in database 0.
    Reset,
}

impl std::fmt::Debug for SessionChange {
    /// Without passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SessionChange::Db(_) => "Db",
            SessionChange::Identity(_) => "Identity",
            SessionChange::Hello { .. } => "Hello",
            SessionChange::Reset => "Reset",
        })
    }
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Replies {
    #[default]
    On,
    Off,
    /// The next command gets none.
    Skip,
}

/// A command of the SUBSCRIBE family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Channels {
    pub(super) kind: Channel,
    /// How many were named.
    pub(super) names: usize,
    /// Acknowledgements that have come.
    pub(super) came: usize,
}

impl Channels {
    /// So many names of one kind.
    pub(super) fn named(kind: Channel, names: usize) -> Channels {
        Channels { kind, names, came: 0 }
    }
}

/// What the open transaction has queued, in order; equal neighbours that leave nothing are one number.
#[derive(Default)]
pub(super) struct Queue {
    runs: VecDeque<Run>,
    len: u32,
    noted: usize,
    markers: u64,
    is_aborted: bool,
}

enum Run {
    Plain(u64),
    Noted(Entry),
}

impl Queue {
    pub(super) fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Marker => self.markers += u64::from(!self.is_aborted),
            _ => self.len = self.len.saturating_add(1),
        }
        match (entry, self.runs.back_mut()) {
            (Entry::Plain, Some(Run::Plain(n))) => *n += 1,
            (Entry::Plain, _) => self.runs.push_back(Run::Plain(1)),
            (entry, _) => {
                self.noted += 1;
                self.runs.push_back(Run::Noted(entry));
            }
        }
    }

    /// A command was refused: `EXEC` will run nothing, and the upstream goes on saying `QUEUED` but keeps no more of them.
    pub(super) fn is_aborted(&mut self) {
        self.is_aborted = true;
    }

    pub(super) fn push_plain(&mut self, n: u64) {
        self.len = self.len.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        match self.runs.back_mut() {
            Some(Run::Plain(have)) => *have += n,
            _ => self.runs.push_back(Run::Plain(n)),
        }
    }

    /// Those among what was queued that the client knows nothing of.
    pub(super) fn markers(&self) -> u64 {
        self.markers
    }

    /// The front one is followed by a marker.
    pub(super) fn is_front_marked(&self) -> bool {
        matches!(self.runs.get(1), Some(Run::Noted(Entry::Marker)))
    }

    /// Those that Lockgate is to carry out, in order: their words.
    pub(super) fn answers(&self) -> impl Iterator<Item = &[Box<[u8]>]> {
        self.runs.iter().filter_map(|run| match run {
            Run::Noted(Entry::Answer(words)) => Some(&**words),
            _ => None,
        })
    }

    /// The front one is a marker.
    pub(super) fn is_front_marker(&self) -> bool {
        matches!(self.runs.front(), Some(Run::Noted(Entry::Marker)))
    }

    /// The client's commands that are queued.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Those among them that have to be told apart in `EXEC`'s reply.
    pub(super) fn noted(&self) -> usize {
        self.noted
    }

    /// The entry that the next element of the reply belongs to.
    pub(super) fn front(&self) -> &Entry {
        match self.runs.front() {
            Some(Run::Noted(entry)) => entry,
            _ => &Entry::Plain,
        }
    }

    pub(super) fn front_channels(&mut self) -> Option<&mut Channels> {
        match self.runs.front_mut() {
            Some(Run::Noted(Entry::Channels(channels))) => Some(channels),
            _ => None,
        }
    }

    pub(super) fn pop(&mut self) -> Entry {
        match self.runs.pop_front() {
            Some(Run::Plain(n)) => {
                if n > 1 {
                    self.runs.push_front(Run::Plain(n - 1));
                }
                Entry::Plain
            }
            Some(Run::Noted(entry)) => entry,
            None => Entry::Plain,
        }
    }
}

/// How far the reply of `EXEC` has come.
pub(super) struct Reading {
    /// Elements still to come, the present one included.
    pub(super) left: u64,
    pub(super) queue: Queue,
    /// `CLIENT REPLY SKIP` ran in it: what comes behind `EXEC` gets no reply.
    pub(super) skips_next: bool,
    /// The client has had its beginning.
    pub(super) was_begun: bool,
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
