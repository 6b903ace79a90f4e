//! What nodes say to one another about waits: lists of words, as everything between nodes.

use std::sync::Arc;

use crate::domain::{CallId, Fence, Level, LockKey, OwnerId};
use crate::locks::wait::{HeldBy, Hold, Link, Told, Via, Wait, WaitId};

/// Holds that one question asks for at most …
pub const HOLDS_MAX: usize = 1024;
/// … and their names, in bytes.
const BYTES_MAX: usize = 256 << 10;
/// Answers are longer at most, in bytes of their names.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a node knows of the holds it was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The waits that they cannot end before, and what those wait for in turn.
    pub links: Vec<Link>,
    /// Connections of the node that have taken them, whether blocked or not.
    pub claims: Vec<(Hold, u64)>,
}

/// An edge as `LOCK.GRAPH` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Who waits.
    pub waiter: Vec<u8>,
    /// For which key.
    pub resource: Vec<u8>,
    /// Who holds it.
    pub holder: Vec<u8>,
    /// Since when, in ms before now.
    pub waited_ms: u64,
}

/// The edges of one node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Edges(pub Vec<Edge>);

/// A wait that another node is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect(pub CallId);

type Words = Vec<Vec<u8>>;

fn put(words: &mut Words, number: impl ToString) {
    words.push(number.to_string().into_bytes());
}

fn put_key(words: &mut Words, key: &LockKey) {
    put(words, key.db);
    words.push(key.name.to_vec());
}

/// Four words: what it is, the name, and two numbers.
fn put_holder(words: &mut Words, by: Option<&HeldBy>) {
    match by {
        Some(HeldBy::Owner { owner, fence, since_ms }) => {
            words.extend([b"o".to_vec(), owner.as_bytes().to_vec()]);
            put(words, fence.0);
            put(words, since_ms);
        }
        Some(HeldBy::Plain { shown, print }) => {
            words.extend([b"p".to_vec(), shown.to_vec()]);
            put(words, print);
            put(words, 0);
        }
        None => {
            words.extend([b"n".to_vec(), Vec::new()]);
            put(words, 0);
            put(words, 0);
        }
    }
}

fn put_told(words: &mut Words, told: &Told) {
    let Wait { id, connection, owner, shown, key, level, since_us } = &told.wait;
    words.push(id.node.as_bytes().to_vec());
    put(words, id.call.0);
    put(words, connection);
    put(words, u8::from(owner.is_none()));
    words.push(shown.to_vec());
    put_key(words, key);
    put(words, level.number());
    put(words, since_us);
    put_holder(words, told.by.as_ref());
}

fn number<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<u64> {
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

fn read_key<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<LockKey> {
    let db = u32::try_from(number(words)?).ok()?;
    Some(LockKey { db, name: words.next()?.into() })
}

/// The outer `None` where it makes no sense.
fn read_holder<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<Option<HeldBy>> {
    let (kind, name) = (words.next()?, words.next()?);
    let (first, second) = (number(words)?, number(words)?);
    match kind {
        b"o" => Some(Some(HeldBy::Owner { owner: OwnerId::new(name)?, fence: Fence(first), since_ms: second })),
        b"p" => Some(Some(HeldBy::Plain { shown: name.into(), print: first })),
        b"n" => Some(None),
        _ => None,
    }
}

fn read_told<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<Told> {
    let node: Arc<str> = std::str::from_utf8(words.next()?).ok()?.into();
    let (call, connection, is_plain) = (CallId(number(words)?), number(words)?, number(words)? == 1);
    let shown: Arc<[u8]> = words.next()?.into();
    let key = read_key(words)?;
    let (level, since_us) = (Level::parse(words.next()?)?, number(words)?);
    let owner = if is_plain { None } else { Some(OwnerId::new(&shown)?) };
    let wait = Wait { id: WaitId { node, call }, connection, owner, shown, key, level, since_us };
    Some(Told { wait, by: read_holder(words)? })
}

/// As many of `holds` as one question takes; the number of those.
pub fn that_fit(holds: &[Hold]) -> usize {
    let mut bytes = 0;
    holds
        .iter()
        .take(HOLDS_MAX)
        .take_while(|hold| {
            bytes += hold.key.name.len() + hold.by.shown().len();
            bytes <= BYTES_MAX
        })
        .count()
}

/// The words of a question about holds.
pub fn write_holds(holds: &[Hold]) -> Words {
    let mut words = Words::new();
    for hold in holds {
        put_key(&mut words, &hold.key);
        put_holder(&mut words, Some(&hold.by));
    }
    words
}

/// Reads [`write_holds`].
pub fn read_holds<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Hold>> {
    let (mut words, mut holds) = (words.peekable(), Vec::new());
    while words.peek().is_some() && holds.len() < HOLDS_MAX {
        holds.push(Hold { key: read_key(&mut words)?, by: read_holder(&mut words)?? });
    }
    Some(holds)
}

impl Known {
    /// The words of the answer. What would not fit is left out.
    pub fn words(&self) -> Words {
        let (mut words, mut bytes) = (Words::new(), 0);
        let mut fits = |names: &[&[u8]]| {
            let size: usize = names.iter().map(|name| name.len()).sum();
            let fits = bytes + size <= ANSWER_BYTES_MAX;
            bytes += if fits { size } else { 0 };
            fits
        };
        for (hold, connection) in &self.claims {
            if fits(&[&hold.key.name, hold.by.shown()]) {
                words.push(b"claim".to_vec());
                put_key(&mut words, &hold.key);
                put_holder(&mut words, Some(&hold.by));
                put(&mut words, connection);
            }
        }
        for Link { hold, via, to } in &self.links {
            if fits(&[&hold.key.name, hold.by.shown(), &to.wait.key.name, &to.wait.shown]) {
                let via: &[u8] = match via {
                    Via::Owner => b"owner",
                    Via::Took => b"took",
                    Via::Over => b"over",
                    Via::Behind => b"behind",
                };
                words.push(via.to_vec());
                put_key(&mut words, &hold.key);
                put_holder(&mut words, Some(&hold.by));
                put_told(&mut words, to);
            }
        }
        words
    }

    /// Reads [`Known::words`]; what makes no sense ends it.
    pub fn read(words: &[Vec<u8>]) -> Self {
        let mut words = words.iter().map(Vec::as_slice);
        let mut known = Known::default();
        while known.read_one(&mut words).is_some() {}
        known
    }

    fn read_one<'a>(&mut self, words: &mut impl Iterator<Item = &'a [u8]>) -> Option<()> {
        let kind = words.next()?;
        let key = read_key(words)?;
        let hold = Hold { key, by: read_holder(words)?? };
        let via = match kind {
            b"owner" => Via::Owner,
            b"took" => Via::Took,
            b"over" => Via::Over,
            b"behind" => Via::Behind,
            b"claim" => {
                self.claims.push((hold, number(words)?));
                return Some(());
            }
            _ => return None,
        };
        self.links.push(Link { hold, via, to: read_told(words)? });
        Some(())
    }
}

impl Edges {
    /// The words of the answer, as many as fit.
    pub fn words(&self) -> Words {
        let (mut words, mut bytes) = (Words::new(), 0);
        for Edge { waiter, resource, holder, waited_ms } in &self.0 {
            bytes += waiter.len() + resource.len() + holder.len();
            if bytes > ANSWER_BYTES_MAX {
                break;
            }
            words.extend([waiter.clone(), resource.clone(), holder.clone()]);
            put(&mut words, waited_ms);
        }
        words
    }

    /// Reads [`Edges::words`].
    pub fn read(words: &[Vec<u8>]) -> Self {
        let mut words = words.iter().map(Vec::as_slice);
        let one = || {
            let (waiter, resource, holder) = (words.next()?.to_vec(), words.next()?.to_vec(), words.next()?.to_vec());
            Some(Edge { waiter, resource, holder, waited_ms: number(&mut words)? })
        };
        Edges(std::iter::from_fn(one).collect())
    }
}

/// The words of a list of keys.
pub fn write_keys(keys: &[LockKey]) -> Words {
    let mut words = Words::new();
    keys.iter().for_each(|key| put_key(&mut words, key));
    words
}

/// Reads [`write_keys`].
pub fn read_keys(words: &[Vec<u8>]) -> Vec<LockKey> {
    let mut words = words.iter().map(Vec::as_slice);
    std::iter::from_fn(|| read_key(&mut words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shown: &[u8], is_plain: bool, by: Option<HeldBy>) -> Told {
        let owner = if is_plain { None } else { OwnerId::new(shown) };
        let wait = Wait {
            id: WaitId { node: "n1".into(), call: CallId(9) },
            connection: 4,
            owner,
            shown: shown.into(),
            key: LockKey::new(3, b"k\r\n"),
            level: Level::High,
            since_us: 77,
        };
        Told { wait, by }
    }

    #[test]
    fn what_is_said_reads_back() {
        let ann = HeldBy::Owner { owner: OwnerId::new(b"ann\x00").unwrap(), fence: Fence(5), since_ms: 6 };
        let holds = vec![
            Hold { key: LockKey::new(0, b""), by: ann.clone() },
            Hold { key: LockKey::new(9, b"k"), by: HeldBy::plain(b"\xff\x1f") },
        ];
        let words = write_holds(&holds);
        assert_eq!(read_holds(words.iter().map(Vec::as_slice)), Some(holds.clone()));
        assert_eq!(read_holds(words[..3].iter().map(Vec::as_slice)), None);
        let waits = [told(b"bob", false, Some(ann)), told(b"v\x1f", true, None)];
        let link = |via, to: &Told| Link { hold: holds[0].clone(), via, to: to.clone() };
        let links = vec![link(Via::Owner, &waits[0]), link(Via::Took, &waits[1]), link(Via::Behind, &waits[0])];
        let known = Known { links: links.clone(), claims: vec![(holds[1].clone(), 7)] };
        let words = known.words();
        assert_eq!(Known::read(&words), known);
        assert_eq!(Known::read(&words[..words.len() - 1]).links, links[..2]);
        let edge = Edge { waiter: b"a".to_vec(), resource: vec![], holder: b"\xff".to_vec(), waited_ms: 3 };
        let edges = Edges(vec![edge.clone(), edge]);
        assert_eq!(Edges::read(&edges.words()), edges);
        let keys = [LockKey::new(1, b"a"), LockKey::new(2, b"")];
        assert_eq!(read_keys(&write_keys(&keys)), keys);
    }

    #[test]
    fn questions_and_answers_are_bounded() {
        let hold = |length: usize| Hold { key: LockKey::new(0, &vec![b'x'; length]), by: HeldBy::plain(b"") };
        assert_eq!(that_fit(&vec![hold(1); 5000]), HOLDS_MAX);
        assert_eq!(that_fit(&vec![hold(100 << 10); 5]), 2);
        let long = Link { hold: hold(400 << 10), via: Via::Owner, to: told(b"a", false, None) };
        let known = Known { links: vec![long; 5], claims: vec![(hold(300 << 10), 1)] };
        let read = Known::read(&known.words());
        assert_eq!((read.links.len(), read.claims.len()), (1, 1));
    }
}
