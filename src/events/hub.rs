//! Who listens, and what is on its way to them. Where nobody does, an event costs one look at a number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::{Happened, text};
use crate::audit::Audit;
use crate::domain::LockKey;

/// The channel of all events.
const ALL: &[u8] = b"lockgate:events";
/// What stands before database and key in the channel of one lock.
const OF_ONE: &[u8] = b"lockgate:events:";

/// Which channels somebody listens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// That of all events.
    All,
    /// Those of single locks, some of them.
    OfLocks,
}

impl Feed {
    const BOTH: [Feed; 2] = [Feed::All, Feed::OfLocks];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The lock that it is about; `None` for an event among nodes.
    pub key: Option<LockKey>,
    /// The JSON object.
    pub text: Arc<str>,
}

impl Outgoing {
    /// The channels that it goes to, of those that somebody listens to.
    pub fn channels(&self, events: &Events) -> Vec<Vec<u8>> {
        let mut channels = Vec::new();
        if events.is_heard_on(Feed::All) {
            channels.push(ALL.to_vec());
        }
        if let Some(key) = self.key.as_ref().filter(|_| events.is_heard_on(Feed::OfLocks)) {
            channels.push([OF_ONE, format!("{}:", key.db).as_bytes(), &key.name].concat());
        }
        channels
    }
}

/// What is written down, and what says where a client comes from.
struct Audited {
    audit: Arc<Audit>,
    addresses: Box<dyn Fn(u64) -> Option<String> + Send + Sync>,
}

impl std::fmt::Debug for Audited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.audit)
    }
}

/// All that listens, and what was not sent yet.
#[derive(Debug)]
pub struct Events {
    node: Arc<str>,
    /// How many listen on this node, by [`Feed`].
    here: [AtomicUsize; 2],
    /// What is listened to on other nodes, a bit each.
    elsewhere: AtomicU8,
    /// The same of both, so that one look is enough.
    is_heard: AtomicBool,
    waiting: Mutex<VecDeque<Outgoing>>,
    waiting_max: AtomicUsize,
    dropped: AtomicU64,
    audit: OnceLock<Audited>,
    /// Rings when there is something to send.
    pub has_more: Notify,
    /// Rings when who listens here has changed.
    pub has_changed: Notify,
}

impl Events {
    /// Events of `node`; at most so many wait to be sent.
    pub fn new(node: Arc<str>, waiting_max: usize) -> Arc<Events> {
        Arc::new(Events {
            node,
            here: Default::default(),
            elsewhere: AtomicU8::new(0),
            is_heard: AtomicBool::new(false),
            waiting: Mutex::default(),
            waiting_max: AtomicUsize::new(waiting_max),
            dropped: AtomicU64::new(0),
            audit: OnceLock::new(),
            has_more: Notify::new(),
            has_changed: Notify::new(),
        })
    }

    /// Whether anybody listens, on whichever node.
    pub fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    fn is_heard_on(&self, channel: Feed) -> bool {
        (self.mask_here() | self.elsewhere.load(Ordering::SeqCst)) & channel.bit() != 0
    }

    /// What is listened to on this node, a bit for each [`Feed`].
    pub fn mask_here(&self) -> u8 {
        Feed::BOTH
            .into_iter()
            .filter(|channel| self.here[*channel as usize].load(Ordering::SeqCst) > 0)
            .fold(0, |mask, channel| mask | channel.bit())
    }

    /// What is listened to on other nodes.
    pub fn is_heard_elsewhere(&self, mask: u8) {
        self.elsewhere.store(mask, Ordering::SeqCst);
        self.looks_again();
    }

    fn looks_again(&self) {
        let is_heard = self.mask_here() | self.elsewhere.load(Ordering::SeqCst) != 0;
        self.is_heard.store(is_heard, Ordering::SeqCst);
    }

    /// What happens is written down from here on; `addresses` says where a client comes from.
    pub fn are_audited(&self, audit: Arc<Audit>, addresses: impl Fn(u64) -> Option<String> + Send + Sync + 'static) {
        let _ = self.audit.set(Audited { audit, addresses: Box::new(addresses) });
    }

    /// Where it is written down, if it is.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.audit.get().map(|audited| &audited.audit)
    }

    /// Whether anything is to be told, or written down.
    pub fn is_wanted(&self) -> bool {
        self.is_heard() || self.audit.get().is_some()
    }

    /// Something has happened. Told to those who listen, and written down.
    pub fn happens(&self, happened: &Happened<'_>) {
        if let Some(Audited { audit, addresses }) = self.audit.get() {
            let address = happened.by.and_then(|by| addresses(by.session));
            if let Some(text) = text::audited(happened, &self.node, address.as_deref()) {
                audit.note(text);
            }
        }
        if self.is_heard()
            && let Some(text) = text::of(happened, &self.node)
        {
            self.send(Outgoing { key: Some(happened.key.clone()), text: text.into() });
        }
    }

    /// Another node has come (`node_up`) or gone (`node_down`).
    pub fn node_happens(&self, event: &'static str, peer: &str, at_ms: u64) {
        if self.is_heard() {
            self.send(Outgoing { key: None, text: text::of_node(event, peer, &self.node, at_ms).into() });
        }
    }

    fn send(&self, outgoing: Outgoing) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.waiting_max.load(Ordering::Relaxed) {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(outgoing);
        drop(waiting);
        self.has_more.notify_one();
    }

    /// The oldest one that was not sent yet.
    pub fn take(&self) -> Option<Outgoing> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// How many were dropped, because they came faster than they could be sent.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What one client listens to, for as long as this is kept.
#[derive(Debug)]
pub struct Ears {
    events: Arc<Events>,
    heard: [bool; 2],
}

impl Ears {
    /// Of a client that listens to nothing yet.
    pub fn of(events: &Arc<Events>) -> Ears {
        Ears { events: events.clone(), heard: [false; 2] }
    }

    /// The client subscribes to a channel of that name, or to all that match it.
    pub fn subscribe(&mut self, name: &[u8], is_pattern: bool) {
        let (all, of_locks) = if is_pattern && literal_of(name) < name.len() {
            (literal_of(name) <= ALL.len() && may_match(name, ALL), may_match(name, OF_ONE))
        } else {
            (name == ALL, name.starts_with(OF_ONE))
        };
        for (channel, is_meant) in [(Feed::All, all), (Feed::OfLocks, of_locks)] {
            if is_meant && !std::mem::replace(&mut self.heard[channel as usize], true) {
                self.events.here[channel as usize].fetch_add(1, Ordering::SeqCst);
                self.events.looks_again();
                self.events.has_changed.notify_one();
            }
        }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let mut has_changed = false;
        for channel in Feed::BOTH {
            if self.heard[channel as usize] {
                self.events.here[channel as usize].fetch_sub(1, Ordering::SeqCst);
                has_changed = true;
            }
        }
        if has_changed {
            self.events.looks_again();
            self.events.has_changed.notify_one();
        }
    }
}

/// Whether the glob may match a name that begins with `start`; it is certain where it is no: what is taken for a match costs some work in
/// vain, and what is missed is not told.
fn may_match(glob: &[u8], start: &[u8]) -> bool {
    let common = literal_of(glob).min(start.len());
    glob[..common] == start[..common]
}

/// How many bytes of the glob stand for themselves, before the first that does not.
fn literal_of(glob: &[u8]) -> usize {
    glob.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(glob.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::What;

    fn happened(key: &LockKey) -> Happened<'_> {
        Happened { what: What::Expired, key, owner: b"ann", fence: None, at_ms: 1, by: None }
    }

    #[test]
    fn nothing_is_kept_where_nobody_listens() {
        let events = Events::new("n1".into(), 10);
        let key = LockKey::new(0, b"k");
        events.happens(&happened(&key));
        assert_eq!(events.take(), None);
        let mut ears = Ears::of(&events);
        ears.subscribe(b"news", false);
        ears.subscribe(b"lockgate:event", false);
        ears.subscribe(b"news:*", true);
        assert!(!events.is_heard());
        ears.subscribe(b"lockgate:events", false);
        events.happens(&happened(&key));
        let told = events.take().expect("an event");
        assert_eq!(told.channels(&events), [b"lockgate:events".to_vec()]);
        drop(ears);
        events.happens(&happened(&key));
        assert_eq!((events.is_heard(), events.take()), (false, None));
    }

    #[test]
    fn each_lock_has_a_channel_of_its_own() {
        for (name, is_pattern, all, one) in [
            (&b"lockgate:events:0:k"[..], false, false, true),
            (b"lockgate:events:*", true, false, true),
            (b"lockgate:*", true, true, true),
            (b"*", true, true, true),
            (b"lock*:0:k", true, true, true),
            (b"lockgate:events", true, true, false),
            (b"other:*", true, false, false),
        ] {
            let events = Events::new("n1".into(), 10);
            let mut ears = Ears::of(&events);
            ears.subscribe(name, is_pattern);
            let key = LockKey::new(2, b"a:b");
            events.happens(&happened(&key));
            let channels = events.take().map(|told| told.channels(&events)).unwrap_or_default();
            let mut wanted = Vec::new();
            wanted.extend(all.then(|| b"lockgate:events".to_vec()));
            wanted.extend(one.then(|| b"lockgate:events:2:a:b".to_vec()));
            assert_eq!(channels, wanted, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn what_comes_faster_than_it_is_sent_is_dropped_and_counted() {
        let events = Events::new("n1".into(), 3);
        events.is_heard_elsewhere(Feed::All.bit());
        let keys: Vec<LockKey> = (0..5u8).map(|number| LockKey::new(0, &[number])).collect();
        keys.iter().for_each(|key| events.happens(&happened(key)));
        let left: Vec<LockKey> = std::iter::from_fn(|| events.take()).filter_map(|told| told.key).collect();
        assert_eq!(left, keys[2..], "the newest stay");
        assert_eq!(events.dropped(), 2);
    }
}
