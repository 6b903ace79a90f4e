//! Who waits, over all nodes: POSITION, QUEUE, CANCEL, PROMOTE and the count of waiters. Each node knows its own waiters; the others
//! are asked, and whoever does not answer in time is left out, or named where the answer is a list.

use std::sync::Arc;

use super::deadlock::Suspect;
use super::peers::{Answers, Asked, Question};
use super::{Asker, Coordinator, LockReply, holder, integer};
use crate::domain::{Level, LockKey, OwnerId};
use crate::locks::rank::Rank;
use crate::locks::{Event, Waiter};
use crate::store::StoreError;
use crate::upstream::call::Caller;

/// Waiters that one node lists for another at most …
const LISTED_MAX: usize = 10_000;
/// … and for so many bytes of names.
const LISTED_BYTES_MAX: usize = 1 << 20;
/// What stands for one waiter in such a list: rank, owner, level, waited, left.
const WORDS_PER_WAITER: usize = 5;

/// A waiter, and on which node.
struct Listed {
    node: Arc<str>,
    waiter: Waiter,
}

impl Coordinator {
    /// `LOCK.POSITION`: 0 for the holder, the place in the queue from 1, or nil.
    pub(super) async fn position<C: Caller>(&self, asker: &Asker<C>, key: LockKey, owner: OwnerId) -> LockReply {
        match self.is_held_by(asker, &key, &owner).await {
            Ok(true) => return LockReply::Integer(0),
            Ok(false) => {}
            Err(error) => return LockReply::Error(error.into_line()),
        }
        let (mut rank, mut silent) = (self.rank_here(&key, owner.as_bytes()), Vec::new());
        if rank.is_none() {
            let answers = self.ask_others(&key, &Question::Place(owner.as_bytes().into()), &[]).await;
            rank = best_rank(&answers);
            silent = answers.silent;
        }
        if let Some(rank) = rank {
            return integer(self.place(&key, rank, &silent).await);
        }
        // He may have been told between the two that he has it.
        match self.is_held_by(asker, &key, &owner).await {
            Ok(true) => LockReply::Integer(0),
            Ok(false) => LockReply::Nil,
            Err(error) => LockReply::Error(error.into_line()),
        }
    }

    /// A claim is nobody's hold yet.
    async fn is_held_by<C: Caller>(
        &self,
        asker: &Asker<C>,
        key: &LockKey,
        owner: &OwnerId,
    ) -> Result<bool, StoreError> {
        let held = self.look(asker, key).await?;
        Ok(held.is_some_and(|held| !held.is_claim() && holder(&held.value) == owner.as_bytes()))
    }

    /// `LOCK.CANCEL`: 1 where the owner waited, on whichever node, else 0.
    pub(super) async fn cancel<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        owner: OwnerId,
    ) -> LockReply {
        if let Err(error) = self.look_to_change(asker, &key).await {
            return LockReply::Error(error.into_line());
        }
        let mut was_waiting = self.cancel_here(&key, owner.as_bytes(), || asker.service.clone());
        // The owner may have gone from one node to another.
        let answers = self.ask_others(&key, &Question::Cancel(owner.as_bytes().into()), &[]).await;
        was_waiting |= answers.came.iter().any(|(_, words)| words.first().is_some_and(|word| word == b"1"));
        match answers.silent.first() {
            Some(node) if !was_waiting => unknown(node, "the call was cancelled"),
            _ => LockReply::Integer(i64::from(was_waiting)),
        }
    }

    /// `LOCK.PROMOTE`: the waiter's new place, or nil if he does not wait.
    pub async fn promote<C: Caller>(
        self: &Arc<Self>,
        asker: &Asker<C>,
        key: LockKey,
        owner: OwnerId,
        level: Level,
    ) -> LockReply {
        if let Err(error) = self.look_to_change(asker, &key).await {
            return LockReply::Error(error.into_line());
        }
        let mut rank = self.promote_here(&key, owner.as_bytes(), level, || asker.service.clone());
        let question = Question::Promote(owner.as_bytes().into(), level);
        let answers = self.ask_others(&key, &question, &[]).await;
        rank = [rank, best_rank(&answers)].into_iter().flatten().min();
        match (rank, answers.silent.first()) {
            (Some(rank), _) => integer(self.place(&key, rank, &answers.silent).await),
            (None, Some(node)) => unknown(node, "the waiter was promoted"),
            (None, None) => LockReply::Nil,
        }
    }

    /// `LOCK.QUEUE`: the waiters in grant order, at most `count`, and an entry without an owner for each node that did not answer.
    pub async fn queue<C: Caller>(&self, asker: &Asker<C>, key: LockKey, count: Option<u64>) -> LockReply {
        if let Err(error) = self.look(asker, &key).await {
            return LockReply::Error(error.into_line());
        }
        let count = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let waiters = self.waiters_here(&key, count);
        let me = &self.nodes.me.id;
        let mut listed: Vec<Listed> = waiters.into_iter().map(|waiter| Listed { node: me.clone(), waiter }).collect();
        let mut answers = self.ask_others(&key, &Question::Queue(count), &[]).await;
        let mut ends_before: Option<Rank> = None;
        for (node, words) in std::mem::take(&mut answers.came) {
            let Some((waiters, is_cut)) = read_list(&words) else {
                answers.silent.push(node);
                continue;
            };
            if let Some(last) = waiters.last().filter(|_| is_cut) {
                ends_before = Some(ends_before.map_or(last.rank, |end| end.min(last.rank)));
            }
            listed.extend(waiters.into_iter().map(|waiter| Listed { node: node.clone(), waiter }));
        }
        listed.sort_by(|a, b| (a.waiter.rank, &a.node).cmp(&(b.waiter.rank, &b.node)));
        // Behind the end of a list that was cut, nobody's place is known.
        if let Some(end) = ends_before {
            listed.retain(|listed| listed.waiter.rank <= end);
        }
        listed.truncate(count);
        answers.silent.sort();
        let silent = answers.silent.into_iter().map(|node| entry(None, &node));
        LockReply::Array(listed.iter().map(|listed| entry(Some(&listed.waiter), &listed.node)).chain(silent).collect())
    }

    /// How many wait for `key`, on all nodes that answer.
    pub(super) async fn waiters(&self, key: &LockKey) -> u64 {
        let here = self.waiting_here(key);
        here + sum(&self.ask_others(key, &Question::Waiters, &[]).await)
    }

    /// Answers another node's question; `None` where none is expected. `service` makes a link to the upstream in the key's database.
    pub(super) fn answer<C: Caller>(
        self: &Arc<Self>,
        asked: &Asked,
        service: impl FnOnce() -> C,
    ) -> Option<Vec<Vec<u8>>> {
        let key = &asked.key;
        let number = |number: u64| vec![number.to_string().into_bytes()];
        let rank = |rank: Option<Rank>| rank.map(|rank| rank.text().into_bytes()).into_iter().collect();
        Some(match &asked.question {
            Question::Waiters => number(self.waiting_here(key)),
            Question::Place(owner) => rank(self.rank_here(key, owner)),
            Question::Before(rank) => number(self.before_here(key, *rank)),
            Question::Queue(count) => write_list(&self.waiters_here(key, (*count).min(LISTED_MAX)), *count),
            Question::Cancel(owner) => number(u64::from(self.cancel_here(key, owner, service))),
            Question::Promote(owner, level) => rank(self.promote_here(key, owner, *level, service)),
            Question::Released(owner, at_us) => {
                self.released_elsewhere(key, owner, *at_us, service);
                return None;
            }
            Question::Holds(holds) => self.known_of(holds).words(),
            Question::Locks(owner) => self.deadlocks.tell_locks(owner),
            Question::Suspect(Suspect(call)) => number(u64::from(self.is_suspected(*call))),
            Question::Waits => self.edges_here().words(),
            Question::Deadlocks(count) => self.deadlocks.tell_found(*count),
            Question::Cede => number(u64::from(self.nodes.is_to_cede(self.now()))),
            Question::Queues(count) => self.tell_queues((*count).min(LISTED_MAX)),
        })
    }

    /// From 1, over all nodes but the `silent` ones.
    async fn place(&self, key: &LockKey, rank: Rank, silent: &[Arc<str>]) -> u64 {
        let here = self.before_here(key, rank);
        1 + here + sum(&self.ask_others(key, &Question::Before(rank), silent).await)
    }

    /// Asks all other nodes but those that were silent before; who cannot be asked is silent.
    pub(super) async fn ask_others(&self, key: &LockKey, question: &Question, but: &[Arc<str>]) -> Answers {
        if self.nodes.is_alone() {
            return Answers::default();
        }
        let (asked, not_asked) = self.others(but);
        let mut answers = match asked.is_empty() {
            true => Answers::default(),
            false => self.nodes.talk.ask(asked, key, question).await,
        };
        answers.silent.extend(not_asked);
        answers
    }

    /// All other nodes but some: those that can be asked, and those that cannot.
    pub(super) fn others(&self, but: &[Arc<str>]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let peers = self.nodes.peers().into_iter().filter(|(id, _)| !but.contains(id));
        let can_talk = self.nodes.can_talk(self.now());
        let (asked, not_asked): (Vec<_>, Vec<_>) = peers.partition(|(_, peer)| peer.is_understood && can_talk);
        let names = |nodes: Vec<(Arc<str>, _)>| nodes.into_iter().map(|(id, _)| id).collect();
        (names(asked), names(not_asked))
    }

    /// An owner is one actor on all nodes: what he has let go of here, at that time of the upstream, he waits for nowhere.
    pub(super) fn tell_released(&self, key: &LockKey, owner: &OwnerId, at_us: u64) {
        if !self.nodes.is_alone() {
            self.nodes.talk.tell(self.others(&[]).0, key, &Question::Released(owner.clone(), at_us));
        }
    }

    fn released_elsewhere<C: Caller>(
        self: &Arc<Self>,
        key: &LockKey,
        owner: &OwnerId,
        at_us: u64,
        service: impl FnOnce() -> C,
    ) {
        let event = Event::ReleasedElsewhere { owner: owner.clone(), at_us };
        if let Some(fed) = self.shards.feed_if(key, |line| line.knows(owner), event, self.now()) {
            self.carry_out(fed, key, &service());
        }
    }

    pub(super) fn waiting_here(&self, key: &LockKey) -> u64 {
        self.shards.read(key, |line| line.waiting()).unwrap_or(0) as u64
    }

    fn rank_here(&self, key: &LockKey, owner: &[u8]) -> Option<Rank> {
        self.shards.read(key, |line| line.rank_of(owner)).flatten()
    }

    fn before_here(&self, key: &LockKey, rank: Rank) -> u64 {
        self.shards.read(key, |line| line.count_before(rank)).unwrap_or(0) as u64
    }

    fn waiters_here(&self, key: &LockKey, count: usize) -> Vec<Waiter> {
        self.shards.read(key, |line| line.waiters(count, self.now())).unwrap_or_default()
    }

    /// Without a waiter there is nothing to do, and no link is needed.
    fn cancel_here<C: Caller>(self: &Arc<Self>, key: &LockKey, owner: &[u8], service: impl FnOnce() -> C) -> bool {
        // Whoever is granted the lock by another worker meanwhile has not left the queue.
        let event = Event::Cancels(owner.into());
        let fed = self.shards.feed_if(key, |line| line.waits(owner), event, self.now());
        fed.map(|fed| self.carry_out(fed, key, &service())).is_some()
    }

    fn promote_here<C: Caller>(
        self: &Arc<Self>,
        key: &LockKey,
        owner: &[u8],
        level: Level,
        service: impl FnOnce() -> C,
    ) -> Option<Rank> {
        self.rank_here(key, owner)?;
        self.fed(key, Event::Promotes { owner: owner.into(), level }, &service());
        self.rank_here(key, owner)
    }
}

fn unknown(node: &str, what: &str) -> LockReply {
    LockReply::Error(format!(
        "UNAVAILABLE node '{node}' did not answer in time; whether {what} there is unknown, ask LOCK.QUEUE"
    ))
}

fn sum(answers: &Answers) -> u64 {
    answers.came.iter().filter_map(|(_, words)| number(words.first()?)).sum()
}

fn best_rank(answers: &Answers) -> Option<Rank> {
    answers.came.iter().filter_map(|(_, words)| Rank::parse(words.first()?)).min()
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A waiter as `LOCK.QUEUE` tells it, or a node that did not answer.
fn entry(waiter: Option<&Waiter>, node: &str) -> LockReply {
    let field = |read: fn(&Waiter) -> LockReply| waiter.map_or(LockReply::Nil, read);
    LockReply::Map(vec![
        ("owner", field(|waiter| LockReply::Bulk(waiter.owner.to_vec()))),
        ("priority", field(|waiter| LockReply::Bulk(waiter.level.name().into()))),
        ("waited", field(|waiter| integer(waiter.waited_ms))),
        ("deadline", field(|waiter| waiter.left_ms.map_or(LockReply::Nil, integer))),
        ("node", LockReply::Bulk(node.as_bytes().to_vec())),
    ])
}

/// First whether the list was cut before its end or `count`, then each waiter's words.
fn write_list(waiters: &[Waiter], count: usize) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = 0;
    for waiter in waiters {
        bytes += waiter.owner.len();
        if bytes > LISTED_BYTES_MAX && words.len() > 1 {
            break;
        }
        let left = waiter.left_ms.map(|left_ms| left_ms.to_string()).unwrap_or_default();
        words.extend([waiter.rank.text().into_bytes(), waiter.owner.to_vec()]);
        words.extend([waiter.level.number().to_string(), waiter.waited_ms.to_string(), left].map(String::into_bytes));
    }
    let listed = words.len() / WORDS_PER_WAITER;
    let is_cut = listed < waiters.len() || (waiters.len() == LISTED_MAX && count > LISTED_MAX);
    words[0] = if is_cut { b"1".to_vec() } else { b"0".to_vec() };
    words
}

fn read_list(words: &[Vec<u8>]) -> Option<(Vec<Waiter>, bool)> {
    let (is_cut, waiters) = words.split_first()?;
    let read = |words: &[Vec<u8>]| {
        let [rank, owner, level, waited, left] = words else { return None };
        Some(Waiter {
            rank: Rank::parse(rank)?,
            owner: owner.as_slice().into(),
            level: Level::parse(level)?,
            waited_ms: number(waited)?,
            left_ms: number(left),
        })
    };
    Some((waiters.chunks(WORDS_PER_WAITER).map(read).collect::<Option<_>>()?, is_cut == b"1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(number: u8, owner: &[u8]) -> Waiter {
        let rank = Rank::parse(format!("{number:042}").as_bytes()).unwrap();
        Waiter { rank, owner: owner.into(), level: Level::High, waited_ms: 7, left_ms: (number > 1).then_some(9) }
    }

    #[test]
    fn a_list_of_waiters_reads_back() {
        let waiters = vec![waiter(1, b"ann"), waiter(2, b""), waiter(3, b"\r\n\xff")];
        assert_eq!(read_list(&write_list(&waiters, 3)), Some((waiters, false)));
        assert_eq!(read_list(&write_list(&[], 3)), Some((vec![], false)));
        assert_eq!(read_list(&[]), None);
        assert_eq!(read_list(&[b"0".to_vec(), b"odd".to_vec()]), None);
    }

    #[test]
    fn a_list_is_cut_where_more_were_asked_for_than_it_may_hold() {
        let waiters: Vec<Waiter> = (0..LISTED_MAX).map(|_| waiter(1, b"x")).collect();
        let is_cut = |waiters: &[Waiter], count| read_list(&write_list(waiters, count)).expect("it reads back").1;
        assert!(!is_cut(&waiters, LISTED_MAX), "nobody asked for more");
        assert!(is_cut(&waiters, LISTED_MAX + 1), "there may be more");
        assert!(!is_cut(&waiters[1..], LISTED_MAX + 1), "there are no more");
    }

    #[test]
    fn a_list_of_long_names_is_cut_and_says_so() {
        let waiters: Vec<Waiter> = (1..=3).map(|number| waiter(number, &vec![b'x'; LISTED_BYTES_MAX / 2])).collect();
        assert_eq!(read_list(&write_list(&waiters, 9)), Some((waiters[..2].to_vec(), true)));
        let giant = [waiter(1, &vec![b'x'; 2 * LISTED_BYTES_MAX])];
        assert_eq!(read_list(&write_list(&giant, 9)), Some((giant.to_vec(), false)));
    }
}
