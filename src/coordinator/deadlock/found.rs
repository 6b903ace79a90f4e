//! `LOCK.GRAPH` and `LOCK.DEADLOCKS`: who waits for whom, and what was found, over all nodes.

use super::super::peers::Question;
use super::super::{Coordinator, LockReply, integer};
use super::Deadlocks;
use super::words::{Edge, Edges, write_keys};
use crate::domain::{LockKey, OwnerId};
use crate::locks::wait::Told;

/// Deadlocks that are kept in mind.
pub const HISTORY_MAX: usize = 100;
/// Waits that one node tells of at most.
const TOLD_MAX: usize = 10_000;
/// What stands for one deadlock in an answer: when, cycle, victim, policy.
const WORDS_PER_FOUND: usize = 4;

/// A deadlock that was broken by ending a call of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// When, Unix time in ms.
    pub at_ms: u64,
    /// Who waited for whom, beginning with the victim.
    pub cycle: String,
    /// The owner whose call was ended, or the value that a `SET NX` would have written.
    pub victim: Vec<u8>,
    /// How it was chosen.
    pub policy: &'static str,
}

impl Deadlocks {
    /// Keeps one more in mind.
    pub(super) fn remember(&self, found: Found) {
        let mut history = self.history();
        if history.len() == HISTORY_MAX {
            history.pop_back();
        }
        history.push_front(found);
    }

    /// What another node is told of what was found here.
    pub fn tell_found(&self, most: usize) -> Vec<Vec<u8>> {
        let history = self.history();
        history.iter().take(most).flat_map(words).collect()
    }

    /// What another node is told of an owner's locks.
    pub fn tell_locks(&self, owner: &OwnerId) -> Vec<Vec<u8>> {
        write_keys(&self.held.of(owner))
    }
}

fn words(found: &Found) -> [Vec<u8>; WORDS_PER_FOUND] {
    let Found { at_ms, cycle, victim, policy } = found.clone();
    [at_ms.to_string().into_bytes(), cycle.into_bytes(), victim, policy.into()]
}

impl Coordinator {
    /// `LOCK.GRAPH`: an entry for each wait of which is known who holds what it waits for, the longest first.
    pub(in super::super) async fn graph(&self) -> LockReply {
        let mut edges = self.edges_here().0;
        let answers = self.ask_others(&nothing(), &Question::Waits, &[]).await;
        edges.extend(answers.came.iter().flat_map(|(_, words)| Edges::read(words).0));
        edges.sort_by_key(|edge| std::cmp::Reverse(edge.waited_ms));
        let told = edges.into_iter().map(|Edge { waiter, resource, holder, waited_ms }| {
            LockReply::Map(vec![
                ("waiter", LockReply::Bulk(waiter)),
                ("resource", LockReply::Bulk(resource)),
                ("holder", LockReply::Bulk(holder)),
                ("waited", integer(waited_ms)),
            ])
        });
        LockReply::Array(told.collect())
    }

    /// The edges of this node's waits.
    pub(in super::super) fn edges_here(&self) -> Edges {
        let waits: Vec<Told> = self.deadlocks.graph().all().take(TOLD_MAX).collect();
        let now = self.now();
        let edges = waits.into_iter().filter_map(|Told { wait, by }| {
            let (_, waited_ms) = self.shards.read(&wait.key, |line| line.waits_at(wait.id.call, now)).flatten()?;
            let (waiter, resource) = (wait.shown.to_vec(), wait.key.name.to_vec());
            Some(Edge { waiter, resource, holder: by?.shown().to_vec(), waited_ms })
        });
        Edges(edges.collect())
    }

    /// `LOCK.DEADLOCKS`: the newest first.
    pub(in super::super) async fn deadlocks(&self, count: Option<u64>) -> LockReply {
        let most = count.map_or(HISTORY_MAX, |count| usize::try_from(count).unwrap_or(HISTORY_MAX)).min(HISTORY_MAX);
        let mut found = self.deadlocks.tell_found(most);
        let answers = self.ask_others(&nothing(), &Question::Deadlocks(most), &[]).await;
        for (_, words) in answers.came {
            let whole = words.len() / WORDS_PER_FOUND * WORDS_PER_FOUND;
            found.extend(words.into_iter().take(whole));
        }
        let mut entries: Vec<(u64, &[Vec<u8>])> = found
            .chunks_exact(WORDS_PER_FOUND)
            .filter_map(|words| Some((std::str::from_utf8(&words[0]).ok()?.parse().ok()?, words)))
            .collect();
        entries.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
        let told = entries.into_iter().take(most).map(|(at_ms, words)| {
            LockReply::Map(vec![
                ("when", integer(at_ms)),
                ("cycle", LockReply::Bulk(words[1].clone())),
                ("victim", LockReply::Bulk(words[2].clone())),
                ("policy", LockReply::Bulk(words[3].clone())),
            ])
        });
        LockReply::Array(told.collect())
    }
}

/// Questions that are about no key name this one.
pub(super) fn nothing() -> LockKey {
    LockKey::new(0, b"")
}
