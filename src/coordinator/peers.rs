//! Questions from node to node, over pub/sub: each node hears what is published on a channel of its own. A question that is not
//! answered in time is answered by whoever asked, with what he knows.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::deadlock::{Suspect, read_holds, write_holds};
use crate::domain::{CallId, Level, LockKey, OwnerId};
use crate::locks::rank::Rank;
use crate::locks::wait::Hold;
use crate::protocol::args::{args, encode_command};

/// How long a question waits for its answers.
pub const ANSWER_MAX: Duration = Duration::from_millis(200);

/// What the channel of each node begins with.
const CHANNEL_PREFIX: &str = "lockgate:node:";
/// Questions of this node that wait for answers at a time; further ones go without.
const QUESTIONS_MAX: usize = 1024;
/// Messages that wait to be sent; further ones are not sent, as if they were lost.
const OUTBOX_MAX: usize = 8192;

/// The channel that the node of that name hears.
pub fn channel_of(node: &str) -> Vec<u8> {
    [CHANNEL_PREFIX.as_bytes(), node.as_bytes()].concat()
}

/// What one node wants to know of another about a key, or wants done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How many wait. Answer: the number.
    Waiters,
    /// What rank the waiter of this name has. Answer: the rank, or nothing.
    Place(Arc<[u8]>),
    /// How many rank before that. Answer: the number.
    Before(Rank),
    /// Who waits, at most so many. Answer: see `queue.rs`.
    Queue(usize),
    /// The waiter of this name leaves the queue. Answer: 1, or 0 where there is none.
    Cancel(Arc<[u8]>),
    /// The waiter of this name gets that level. Answer: his new rank, or nothing.
    Promote(Arc<[u8]>, Level),
    /// This owner has let go of the key at that time of the upstream (Unix time in µs): what he had asked for by then ends. No answer.
    Released(OwnerId, u64),
    /// Which waits these holds cannot end before. Answer: see `deadlock/words.rs`, as for all that follow.
    Holds(Vec<Hold>),
    /// Which locks an owner may hold. Answer: their keys.
    Locks(OwnerId),
    /// This wait is the victim of a deadlock: its node looks for itself. Answer: 1, or 0 where it waits no more.
    Suspect(Suspect),
    /// Who waits for what. Answer: the waits.
    Waits,
    /// The newest deadlocks, at most so many. Answer: those.
    Deadlocks(usize),
    /// Which keys somebody waits for, at most so many. Answer: see `queues.rs`.
    Queues(usize),
    /// Whoever leads is to let another one do so. Answer: 1, or 0 where this node does not lead.
    Cede,
}

/// A question that another node asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub from: String,
    /// The number of the question, which goes into the answer.
    pub number: u64,
    /// About which key.
    pub key: LockKey,
    /// What.
    pub question: Question,
}

/// What a node hears on its channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A question.
    Ask(Asked),
    /// An answer to a question of this node.
    Answer {
        /// To which question.
        number: u64,
        /// What.
        words: Vec<Vec<u8>>,
    },
}

/// What came of a question to several nodes.
#[derive(Debug, Default)]
pub struct Answers {
    /// The answers.
    pub came: Vec<(Arc<str>, Vec<Vec<u8>>)>,
    /// Those who did not answer in time.
    pub silent: Vec<Arc<str>>,
}

/// The node's end of all talks.
#[derive(Debug)]
pub struct Talk {
    state: Mutex<State>,
    /// Rings when there is something to send.
    bell: Notify,
    last_number: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    outbox: VecDeque<Parcel>,
    open: HashMap<u64, Open>,
}

/// What is to be said to another node.
#[derive(Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Which.
    pub to: Arc<str>,
    /// What.
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    missing: Vec<Arc<str>>,
    came: Vec<(Arc<str>, Vec<Vec<u8>>)>,
    bell: Arc<Notify>,
}

/// An open question; it is forgotten when this is dropped.
struct Asking<'a> {
    talk: &'a Talk,
    number: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.talk.lock().open.remove(&self.number);
    }
}

impl Talk {
    /// Nothing asked. Numbers go on from `first`, so that an answer meant for an earlier life of this node fits no question.
    pub fn new(first: u64) -> Self {
        Talk { state: Mutex::default(), bell: Notify::new(), last_number: AtomicU64::new(first) }
    }

    /// Asks `nodes` the same question at once; resolves when all have answered, or after [`ANSWER_MAX`].
    pub async fn ask(&self, nodes: Vec<Arc<str>>, key: &LockKey, question: &Question) -> Answers {
        let until = Instant::now() + ANSWER_MAX;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let bell = Arc::new(Notify::new());
        let asking = Asking { talk: self, number };
        {
            let mut state = self.lock();
            if state.open.len() >= QUESTIONS_MAX || state.outbox.len() + nodes.len() > OUTBOX_MAX {
                return Answers { came: Vec::new(), silent: nodes };
            }
            let body = question.encode(number, key);
            for node in &nodes {
                state.outbox.push_back(Parcel { to: node.clone(), body: body.clone() });
            }
            state.open.insert(number, Open { missing: nodes, came: Vec::new(), bell: bell.clone() });
        }
        self.bell.notify_one();
        loop {
            let is_over = tokio::time::timeout_at(until, bell.notified()).await.is_err();
            let mut state = self.lock();
            let Some(open) = state.open.get_mut(&number) else { return Answers::default() };
            if is_over || open.missing.is_empty() {
                let answers =
                    Answers { came: std::mem::take(&mut open.came), silent: std::mem::take(&mut open.missing) };
                drop(state);
                drop(asking);
                return answers;
            }
        }
    }

    /// Tells `nodes` what asks for no answer; lost where it cannot be sent.
    pub fn tell(&self, nodes: Vec<Arc<str>>, key: &LockKey, question: &Question) {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut state = self.lock();
        if state.outbox.len() + nodes.len() > OUTBOX_MAX {
            return;
        }
        let body = question.encode(number, key);
        state.outbox.extend(nodes.into_iter().map(|to| Parcel { to, body: body.clone() }));
        drop(state);
        self.bell.notify_one();
    }

    /// An answer has come; one that nobody waits for any more is dropped.
    pub fn answered(&self, from: &str, number: u64, words: Vec<Vec<u8>>) {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&number) else { return };
        let Some(at) = open.missing.iter().position(|node| **node == *from) else { return };
        let node = open.missing.swap_remove(at);
        open.came.push((node, words));
        if open.missing.is_empty() {
            open.bell.notify_one();
        }
    }

    /// Sends `words` to `to` as the answer to its question.
    pub fn answer(&self, to: &str, number: u64, words: &[Vec<u8>]) {
        let number = number.to_string();
        let mut all: Vec<&[u8]> = vec![b"answer", number.as_bytes()];
        all.extend(words.iter().map(Vec::as_slice));
        let mut body = Vec::new();
        encode_command(&all, &mut body);
        let mut state = self.lock();
        if state.outbox.len() < OUTBOX_MAX {
            state.outbox.push_back(Parcel { to: to.into(), body });
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Wakes whoever sends.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Resolves when there may be something to send.
    pub async fn has_mail(&self) {
        self.bell.notified().await;
    }

    /// The next message to send.
    pub fn take_mail(&self) -> Option<Parcel> {
        self.lock().outbox.pop_front()
    }

    /// Nothing can be sent: what waits for that is lost.
    pub fn drop_mail(&self) {
        self.lock().outbox.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    fn encode(&self, number: u64, key: &LockKey) -> Vec<u8> {
        let (number, db) = (number.to_string(), key.db.to_string());
        let (word, words): (&str, Vec<Vec<u8>>) = match self {
            Question::Waiters => ("waiters", vec![]),
            Question::Place(owner) => ("place", vec![owner.to_vec()]),
            Question::Before(rank) => ("before", vec![rank.text().into_bytes()]),
            Question::Queue(count) => ("queue", vec![count.to_string().into_bytes()]),
            Question::Cancel(owner) => ("cancel", vec![owner.to_vec()]),
            Question::Promote(owner, level) => {
                ("promote", vec![owner.to_vec(), level.number().to_string().into_bytes()])
            }
            Question::Released(owner, at_us) => {
                ("released", vec![owner.as_bytes().to_vec(), at_us.to_string().into_bytes()])
            }
            Question::Holds(holds) => ("holds", write_holds(holds)),
            Question::Locks(owner) => ("locks", vec![owner.as_bytes().to_vec()]),
            Question::Suspect(Suspect(call)) => ("suspect", vec![call.0.to_string().into_bytes()]),
            Question::Waits => ("waits", vec![]),
            Question::Deadlocks(count) => ("deadlocks", vec![count.to_string().into_bytes()]),
            Question::Queues(count) => ("queues", vec![count.to_string().into_bytes()]),
            Question::Cede => ("cede", vec![]),
        };
        let mut all: Vec<&[u8]> = vec![b"ask", number.as_bytes(), word.as_bytes(), db.as_bytes(), &key.name];
        all.extend(words.iter().map(Vec::as_slice));
        let mut body = Vec::new();
        encode_command(&all, &mut body);
        body
    }
}

impl Message {
    /// What `from` says; `None` where it makes no sense to this version.
    pub fn read(from: &str, body: &[u8]) -> Option<Message> {
        let mut words = args(body);
        let word = words.next()?;
        let number = number(words.next()?)?;
        match word {
            b"answer" => Some(Message::Answer { number, words: words.map(<[u8]>::to_vec).collect() }),
            b"ask" => {
                let what = words.next()?;
                let key = LockKey { db: u32::try_from(self::number(words.next()?)?).ok()?, name: words.next()?.into() };
                let question = match what {
                    b"waiters" => Question::Waiters,
                    b"place" => Question::Place(words.next()?.into()),
                    b"before" => Question::Before(Rank::parse(words.next()?)?),
                    b"queue" => Question::Queue(usize::try_from(self::number(words.next()?)?).ok()?),
                    b"cancel" => Question::Cancel(words.next()?.into()),
                    b"promote" => Question::Promote(words.next()?.into(), Level::parse(words.next()?)?),
                    b"released" => Question::Released(OwnerId::new(words.next()?)?, self::number(words.next()?)?),
                    b"holds" => Question::Holds(read_holds(words)?),
                    b"locks" => Question::Locks(OwnerId::new(words.next()?)?),
                    b"suspect" => Question::Suspect(Suspect(CallId(self::number(words.next()?)?))),
                    b"waits" => Question::Waits,
                    b"deadlocks" => Question::Deadlocks(usize::try_from(self::number(words.next()?)?).ok()?),
                    b"cede" => Question::Cede,
                    b"queues" => Question::Queues(usize::try_from(self::number(words.next()?)?).ok()?),
                    _ => return None,
                };
                Some(Message::Ask(Asked { from: from.to_owned(), number, key, question }))
            }
            _ => None,
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_ask(parcel: &Parcel) -> Asked {
        match Message::read("a", &parcel.body) {
            Some(Message::Ask(asked)) => asked,
            other => panic!("a question was expected, not {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_question_goes_to_each_node_and_the_silent_are_named() {
        let talk = Talk::new(40);
        let key = LockKey::new(3, b"k\r\n\x00");
        let question = Question::Promote(b"bob"[..].into(), Level::High);
        let nodes = vec!["b".into(), "c".into()];
        let replies = async {
            talk.has_mail().await;
            for to in ["b", "c"] {
                let parcel = talk.take_mail().expect("both are asked");
                assert_eq!(*parcel.to, *to);
                let asked = read_ask(&parcel);
                assert_eq!((asked.from.as_str(), &asked.key, &asked.question), ("a", &key, &question));
                if to == "b" {
                    talk.answered("stranger", asked.number, vec![]);
                    talk.answered("b", asked.number + 1, vec![]);
                    talk.answered("b", asked.number, vec![b"yes".to_vec()]);
                    talk.answered("b", asked.number, vec![b"twice".to_vec()]);
                }
            }
        };
        let begun = Instant::now();
        let (answers, ()) = tokio::join!(talk.ask(nodes, &key, &question), replies);
        assert_eq!(answers.came, [("b".into(), vec![b"yes".to_vec()])]);
        assert_eq!(answers.silent, [std::sync::Arc::from("c")]);
        assert!(begun.elapsed() >= ANSWER_MAX);
        assert!(talk.lock().open.is_empty());
    }

    #[tokio::test]
    async fn every_question_and_answer_reads_back() {
        let rank = Rank::parse("0".repeat(42).as_bytes()).unwrap();
        let key = LockKey::new(0, b"");
        for question in [
            Question::Waiters,
            Question::Place(b"\xff"[..].into()),
            Question::Before(rank),
            Question::Queue(7),
            Question::Cancel(b""[..].into()),
            Question::Promote(b"ann"[..].into(), Level::Low),
            Question::Holds(vec![Hold { key: key.clone(), by: crate::locks::wait::HeldBy::plain(b"v") }]),
            Question::Released(OwnerId::new(b"a\r\nb").unwrap(), u64::MAX),
            Question::Holds(vec![]),
            Question::Locks(OwnerId::new(b"ann").unwrap()),
            Question::Suspect(Suspect(CallId(3))),
            Question::Waits,
            Question::Deadlocks(3),
            Question::Queues(8),
            Question::Cede,
        ] {
            let parcel = Parcel { to: "b".into(), body: question.encode(9, &key) };
            assert_eq!(read_ask(&parcel), Asked { from: "a".into(), number: 9, key: key.clone(), question });
        }
        let talk = Talk::new(0);
        talk.answer("a", 9, &[b"x".to_vec(), vec![]]);
        let parcel = talk.take_mail().unwrap();
        assert_eq!(&*parcel.to, "a");
        let words = vec![b"x".to_vec(), vec![]];
        assert_eq!(Message::read("b", &parcel.body), Some(Message::Answer { number: 9, words }));
        for odd in
            [&b""[..], b"PING", b"*3\r\n$3\r\nask\r\n$1\r\n1\r\n$5\r\nplace\r\n", b"*2\r\n$6\r\nanswer\r\n$1\r\nx\r\n"]
        {
            assert_eq!(Message::read("a", odd), None);
        }
    }

    #[test]
    fn mail_is_bounded() {
        let talk = Talk::new(0);
        for _ in 0..2 * OUTBOX_MAX {
            talk.answer("a", 1, &[]);
        }
        assert_eq!(std::iter::from_fn(|| talk.take_mail()).count(), OUTBOX_MAX);
    }
}
