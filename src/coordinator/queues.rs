//! Which keys somebody waits for, over all nodes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Coordinator;
use super::peers::Question;
use crate::domain::LockKey;

/// What one node tells another of its queues, in bytes of keys.
const TOLD_BYTES_MAX: usize = 1 << 20;
/// What stands for one queue in an answer: database, key, how many wait.
const WORDS_PER_QUEUE: usize = 3;

/// The keys that somebody waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queues {
    /// Keys, and how many wait for each, the longest queue first.
    pub queues: Vec<(LockKey, u64)>,
    /// How many wait in all.
    pub depth: u64,
    /// Nodes that did not answer: their waiters are missing.
    pub silent: Vec<Arc<str>>,
}

impl Coordinator {
    /// The keys that somebody waits for on any node, at most so many.
    pub async fn queues(&self, most: usize) -> Queues {
        let here = self.shards.queues(most).into_iter().map(|(key, waiting)| (key, waiting as u64)).collect();
        let answers = self.ask_others(&LockKey::new(0, b""), &Question::Queues(most), &[]).await;
        let told = answers.came.iter().map(|(_, words)| read(words));
        let Queues { mut queues, depth, .. } = together(std::iter::once(here).chain(told));
        queues.truncate(most);
        Queues { queues, depth, silent: answers.silent }
    }

    /// What another node is told of the queues here.
    pub(super) fn tell_queues(&self, most: usize) -> Vec<Vec<u8>> {
        let mut bytes = 0;
        let fits = |(key, _): &(LockKey, usize)| {
            bytes += key.name.len();
            bytes <= TOLD_BYTES_MAX
        };
        let queues = self.shards.queues(most).into_iter().take_while(fits);
        queues
            .flat_map(|(LockKey { db, name }, waiting)| {
                [db.to_string().into_bytes(), name.to_vec(), waiting.to_string().into_bytes()]
            })
            .collect()
    }
}

fn read(words: &[Vec<u8>]) -> Vec<(LockKey, u64)> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let queue = |words: &[Vec<u8>]| {
        let [db, name, waiting] = words else { return None };
        Some((LockKey::new(u32::try_from(number(db)?).ok()?, name), number(waiting)?))
    };
    words.chunks(WORDS_PER_QUEUE).filter_map(queue).collect()
}

/// What several nodes tell, as one.
fn together(told: impl Iterator<Item = Vec<(LockKey, u64)>>) -> Queues {
    let mut waiting: HashMap<LockKey, u64> = HashMap::new();
    for (key, count) in told.flatten() {
        let sum = waiting.entry(key).or_default();
        *sum = sum.saturating_add(count);
    }
    let depth = waiting.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
    let mut queues: Vec<_> = waiting.into_iter().collect();
    queues.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    Queues { queues, depth, silent: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_nodes_tell_of_one_key_is_added() {
        let key = |name: &str| LockKey::new(0, name.as_bytes());
        let words = ["0", "a", "2", "0", "b", "1", "nonsense"].map(|word| word.as_bytes().to_vec());
        let told = together([vec![(key("b"), 4), (key("c"), 1)], read(&words)].into_iter());
        assert_eq!(told.queues, [(key("b"), 5), (key("a"), 2), (key("c"), 1)]);
        assert_eq!(told.depth, 8);
    }
}
