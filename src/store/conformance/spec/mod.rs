//! What the scripts promise, told once more in Rust: what stands upstream, and what each call makes of it. It knows neither Lua nor
//! the store's way to write arguments, so that a line that is missing in either shows.

mod asking;
mod ends;
mod holds;
mod many;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::domain::{CallId, FIELD_SEPARATOR, Fence, Level, PlainLease};
use crate::locks::{Form, Grant, Offer};
use crate::store::value::Fields;

/// What one lock's key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// A string, until then (Unix ms; `None` for ever).
    Text(Vec<u8>, Option<u64>),
    /// A key of another type.
    NoString,
}

/// A string, and until when it stands.
pub type Text<'a> = (&'a [u8], Option<u64>);

/// A counter that is further ahead of the clock has been written by somebody else.
const AHEAD_MAX_US: u64 = 1 << 52;

/// So long may this machine stand still, in µs.
const STALL_US: u64 = 60_000_000;

/// A registered waiter.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// What a script may grant him.
    pub offer: Offer,
    /// When the try was sent that registered him; 0 where his node did, knowing of him.
    pub sent_us: u64,
}

impl Waiter {
    /// As it stands in the queue.
    pub fn text(&self) -> Vec<u8> {
        let Offer { call, rank, level, form, claim_ms } = &self.offer;
        let (owner, meta): (&[u8], &[u8]) = match form {
            Form::Lock { owner, meta, .. } => (owner.as_bytes(), meta),
            Form::Plain { value, .. } => (value, b""),
        };
        let lease = match form {
            Form::Lock { lease_ms, .. } => format!("L{lease_ms}"),
            Form::Plain { lease: PlainLease::Ms(ms), .. } => format!("P{ms}"),
            Form::Plain { lease: PlainLease::AtMs(at), .. } => format!("A{at}"),
            Form::Plain { lease: PlainLease::Forever, .. } => "N".into(),
        };
        let numbers = [
            rank.text(),
            self.sent_us.to_string(),
            claim_ms.to_string(),
            lease,
            level.number().to_string(),
            call.to_string(),
            owner.len().to_string(),
        ];
        let mut text: Vec<u8> = Vec::new();
        for number in numbers {
            text.extend(number.as_bytes());
            text.push(FIELD_SEPARATOR);
        }
        [&text, owner, meta].concat()
    }

    fn known(offer: &Offer) -> Waiter {
        Waiter { offer: offer.clone(), sent_us: 0 }
    }
}

/// Who is registered before one lock: one waiter of each node, until then (Unix ms).
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// By node.
    pub waiters: BTreeMap<String, Waiter>,
    /// When it is forgotten.
    pub until_ms: u64,
}

/// Everything that stands upstream.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// By key.
    pub locks: BTreeMap<Vec<u8>, Stands>,
    /// By the lock's key.
    pub queues: BTreeMap<Vec<u8>, Queue>,
    /// What the counter holds.
    pub counter: Option<String>,
    /// The fence of the hold that ends with the script under way.
    pub ending: Option<u64>,
    /// The upstream's clock, in µs.
    pub now_us: u64,
    /// The fences that the script under way has given: their microseconds are the upstream's alone.
    pub counted: VecDeque<u64>,
}

/// The node for which a script runs, and what it knows.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Its name.
    pub node: String,
    /// When it sent the script, in µs.
    pub sent_us: u64,
    /// Tries that it sent later had not been answered by then.
    pub knows_us: u64,
    /// A call that is registered under its name, and is none of this process's.
    pub left_over: Option<CallId>,
    /// The lowest fence that it may be given.
    pub floor: u64,
    /// By how many µs its fences run ahead of the clock.
    pub ahead_us: u64,
    /// How long it keeps a queue, in ms.
    pub kept_ms: u64,
}

/// Why nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The key holds no string.
    WrongType,
    /// The string is data.
    NotALock,
}

/// A value of the long form.
pub fn long(owner: &[u8], fence: u64, level: Level, acquired_ms: u64, call: &str, meta: &[u8]) -> Vec<u8> {
    let (fence, level, at) = (fence.to_string(), level.number().to_string(), acquired_ms.to_string());
    [owner, fence.as_bytes(), level.as_bytes(), at.as_bytes(), call.as_bytes(), meta].join(&FIELD_SEPARATOR)
}

impl Spec {
    /// The string in `key`, and until when.
    pub fn text(&self, key: &[u8]) -> Result<Option<Text<'_>>, Refusal> {
        match self.locks.get(key) {
            None => Ok(None),
            Some(Stands::Text(value, until)) => Ok(Some((value, *until))),
            Some(Stands::NoString) => Err(Refusal::WrongType),
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    fn write(&mut self, key: &[u8], value: Vec<u8>, until_ms: Option<u64>) {
        if until_ms.is_some_and(|until| until <= self.now_ms()) {
            self.locks.remove(key);
        } else {
            self.locks.insert(key.to_vec(), Stands::Text(value, until_ms));
        }
    }

    fn left_ms(&self, until_ms: Option<u64>) -> Option<u64> {
        until_ms.map(|until| until.saturating_sub(self.now_ms()))
    }

    /// Above the counter and the hold that ends, and never below the upstream's clock, nor below what the node has seen.
    fn next_fence(&mut self, floor: u64, ahead_us: u64) -> u64 {
        let fence = self.counted.pop_front().expect("the fence was read after the script");
        let is_believable = |fence: &u64| *fence < self.now_us + AHEAD_MAX_US;
        let counter = self.counter.as_ref().filter(|text| text.len() <= 16 && text.bytes().all(|c| c.is_ascii_digit()));
        let counter = counter.and_then(|text| text.parse().ok()).filter(is_believable);
        let above = counter.into_iter().chain(self.ending.filter(is_believable)).max().map_or(0, |fence| fence + 1);
        let (clock, least) = (self.now_us + ahead_us, floor.max(above));
        let by_clock = (clock..clock + STALL_US).contains(&fence) && fence >= least;
        assert!(by_clock || (fence == least && fence >= clock), "{fence} by the clock {clock}, not below {least}");
        self.counter = Some(fence.to_string());
        fence
    }

    fn until_of(&self, lease: PlainLease) -> Option<u64> {
        match lease {
            PlainLease::Ms(ms) => Some(self.now_ms() + ms),
            PlainLease::AtMs(at) => Some(at),
            PlainLease::Forever => None,
        }
    }
}

fn grant(fence: u64, value: Vec<u8>) -> Grant {
    Grant { fence: Fence(fence), value: Arc::from(value) }
}

fn call_name(node: &str, call: CallId) -> String {
    format!("{node}:{call}")
}

/// The lock is one: of the long form, with an expiry, or by a rule.
fn is_lock(value: &[u8], until_ms: Option<u64>, is_rule_key: bool) -> bool {
    Fields::read(value).is_some() || until_ms.is_some() || is_rule_key
}

/// Who holds what `value` says, by the owner's name alone.
pub enum Holder {
    /// `owner` does, under this fence (none where the value is but the owner).
    Himself(Option<u64>),
    /// Nobody yet: it is a claim for `owner`.
    ClaimOfHis,
    /// Another does, or has a claim.
    Another,
}

fn holder(value: &[u8], owner: &[u8]) -> Holder {
    match Fields::read(value) {
        Some(fields) if fields.owner != owner => Holder::Another,
        Some(fields) if fields.is_claim => Holder::ClaimOfHis,
        Some(fields) => Holder::Himself(Some(fields.fence.0)),
        None if value == owner => Holder::Himself(None),
        None => Holder::Another,
    }
}
