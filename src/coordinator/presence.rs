//! What nodes say of themselves, and what is known of another one.

use std::collections::HashMap;
use std::sync::Arc;

use super::nodes::Me;
use super::seal::Letter;
use crate::domain::Moment;
use crate::protocol::args::{args, encode_command};

/// The form of what nodes share upstream and say to one another: what this version writes …
pub const FORMAT: u64 = 1;
/// … and the newest that it understands. A version that brings another form first reads it and goes on writing the older one, so
/// that two successive versions can share an upstream.
pub const READS: u64 = 1;

/// What a node tells of itself is cut to this, in bytes.
const TEXT_MAX: usize = 256;

/// What a node has just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Waiting calls.
    pub waiters: u64,
    /// Locks tied to its clients' connections.
    pub locks: u64,
    /// By how many µs its fences run ahead of the upstream's clock.
    pub ahead_us: u64,
    /// The highest fence that it has seen.
    pub fence: u64,
    /// To which kinds of events its clients listen, a bit each.
    pub listens: u8,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    pub instance: u64,
    /// Since when it hears without a gap: what is meant for it says so.
    pub hearing: u64,
    /// The number of its last message.
    pub number: u64,
    /// It has spoken to this node since this one hears without a gap, so that no recording of it counts for it.
    is_met: bool,
    pub version: Arc<str>,
    pub format: u64,
    pub started_at_ms: u64,
    pub address: Arc<str>,
    pub load: Load,
    /// Since when it says that it leads.
    pub leads_since: Option<Moment>,
    pub heard: Moment,
    /// Each of us understands what the other writes.
    pub is_understood: bool,
}

impl Peer {
    /// The letter is of the life of it that is known, and was sent after all that was heard of it.
    pub fn is_next(&self, letter: &Letter<'_>) -> bool {
        self.is_met && self.instance == letter.instance && self.number < letter.number
    }

    /// The letter is of the same life, and no later than what was heard of it.
    pub fn is_same_life_before(&self, letter: &Letter<'_>) -> bool {
        self.instance == letter.instance && letter.number <= self.number
    }

    /// What was recorded before counts no more; it has to speak to this node anew.
    pub fn is_to_be_met_again(&mut self) {
        self.is_met = false;
    }

    /// It is there: it has sent this.
    pub fn has_sent(&mut self, letter: &Letter<'_>, now: Moment) {
        (self.number, self.heard) = (letter.number, now);
    }
}

/// What this node says of itself.
pub fn presence(me: &Me, word: &str, load: Load, leads: bool, knows: bool) -> Vec<u8> {
    let flag = |is_so: bool| if is_so { "1" } else { "0" };
    let Load { waiters, locks, ahead_us, fence, listens } = load;
    let numbers = [FORMAT, READS, me.started_at_ms, waiters, locks, ahead_us, fence, listens.into()];
    let [format, reads, started, waiters, locks, ahead, fence, listens] = numbers.map(|number| number.to_string());
    let mut out = Vec::new();
    #[rustfmt::skip]
    encode_command(&[
        word, "format", &format, "reads", &reads, "version", env!("CARGO_PKG_VERSION"), "started", &started,
        "address", &me.address, "waiters", &waiters, "locks", &locks, "leads", flag(leads), "ahead", &ahead,
        "fence", &fence, "knows", flag(knows), "listens", &listens,
    ], &mut out);
    out
}

/// What a node has said of itself: a word, then names and values in turn. Names that are not known belong to later versions.
pub struct Said<'a> {
    pub word: &'a [u8],
    values: HashMap<&'a [u8], &'a [u8]>,
}

impl<'a> Said<'a> {
    pub fn read(body: &'a [u8]) -> Self {
        let mut words = args(body);
        let (word, mut values) = (words.next().unwrap_or_default(), HashMap::new());
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            values.insert(name, value);
        }
        Said { word, values }
    }

    /// It knows the node that it speaks to.
    pub fn knows(&self) -> bool {
        self.number("knows") == 1
    }

    /// Where its clients connect.
    pub fn address(&self) -> Arc<str> {
        self.text("address").unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<Arc<str>> {
        let bytes = self.values.get(name.as_bytes())?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]);
        Some(text.chars().filter(|letter| !letter.is_control()).collect::<String>().into())
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.values.get(name.as_bytes()).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The sender of the letter as it describes itself; `before` is what was known of that life.
    pub fn peer(&self, letter: &Letter<'_>, now: Moment, before: Option<&Peer>) -> Peer {
        let format = self.number("format");
        let leads = self.number("leads") == 1;
        Peer {
            instance: letter.instance,
            hearing: letter.hearing,
            number: letter.number,
            is_met: true,
            version: self.text("version").unwrap_or_default(),
            format,
            started_at_ms: self.number("started"),
            address: self.address(),
            load: Load {
                waiters: self.number("waiters"),
                locks: self.number("locks"),
                ahead_us: self.number("ahead"),
                fence: self.number("fence"),
                listens: u8::try_from(self.number("listens")).unwrap_or(0),
            },
            leads_since: leads.then(|| before.and_then(|before| before.leads_since).unwrap_or(now)),
            heard: now,
            is_understood: format <= READS && FORMAT <= self.number("reads"),
        }
    }
}
