//! Which other nodes are there. Each tells of itself on `lockgate:nodes` with every heartbeat; nothing is kept upstream for that.
//! Whoever has been silent for the node timeout is taken for dead.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::peers::Talk;
use crate::domain::Moment;
use crate::protocol::args::{args, encode_command};

/// Where nodes tell of themselves.
pub const CHANNEL: &[u8] = b"lockgate:nodes";

/// The form of what nodes share upstream and say to one another: what this version writes …
pub const FORMAT: u64 = 1;
/// … and the newest that it understands. A version that brings another form first reads it and goes on writing the older one, so
/// that two successive versions can share an upstream.
pub const READS: u64 = 1;

/// More nodes on one upstream are not heeded.
const NODES_MAX: usize = 256;
/// What a node tells of itself is cut to this, in bytes.
const TEXT_MAX: usize = 256;

/// This node, as the others know it.
#[derive(Debug)]
pub struct Me {
    /// Its name.
    pub id: Arc<str>,
    /// Tells it from an earlier life under the same name; grows from one to the next.
    pub instance: u64,
    /// When it began, Unix time in ms.
    pub started_at_ms: u64,
    /// Where its clients connect.
    pub address: Arc<str>,
    /// How often it tells that it lives.
    pub heartbeat_ms: u64,
    /// After which silence a node counts as dead.
    pub timeout_ms: u64,
}

/// What a node has just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Waiting calls.
    pub waiters: u64,
    /// Locks tied to its clients' connections.
    pub locks: u64,
    /// By how many µs its fences run ahead of the upstream's clock.
    pub ahead_us: u64,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    pub instance: u64,
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

/// What there is to do for the one who cleans up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// There are other nodes.
    pub has_peers: bool,
    /// One of them leads.
    pub is_led: bool,
    /// This node leads.
    pub leads: bool,
    /// Something may have been left over by a node that is gone.
    pub must_clean: bool,
}

/// This node among the others.
#[derive(Debug)]
pub struct Nodes {
    pub me: Me,
    circle: Mutex<Circle>,
    /// Questions to the others, and what is to be sent.
    pub talk: Talk,
    /// Rings when the one who cleans up has something to do.
    pub duty: Notify,
    is_leaving: AtomicBool,
    /// Rings when this node is about to leave.
    pub leaves: Notify,
    must_speak: AtomicBool,
    /// The namesake that was last complained about.
    namesake: AtomicU64,
}

#[derive(Debug)]
struct Circle {
    peers: HashMap<Arc<str>, Peer>,
    /// Since when this node hears the others without a gap.
    hears_since: Option<Moment>,
    /// When what it said of itself last came back to it.
    echoed: Option<Moment>,
    /// Until when the lock on leading is surely its own, and since when.
    leads: Option<(Moment, Moment)>,
    must_clean: bool,
    /// Those who want leftovers removed now.
    clean_ups: Vec<oneshot::Sender<Result<u64, String>>>,
}

/// What a message of a node changes.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// A node was heard for the first time: it wants to know of us.
    Joined,
}

impl Nodes {
    /// A node that has not heard of any other.
    pub fn new(me: Me) -> Self {
        let circle = Circle {
            peers: HashMap::new(),
            hears_since: None,
            echoed: None,
            leads: None,
            must_clean: true,
            clean_ups: Vec::new(),
        };
        let talk = Talk::new(me.instance);
        Nodes {
            me,
            circle: Mutex::new(circle),
            talk,
            duty: Notify::new(),
            is_leaving: AtomicBool::new(false),
            leaves: Notify::new(),
            must_speak: AtomicBool::new(false),
            namesake: AtomicU64::new(0),
        }
    }

    /// What this node says of itself, with `word` being `alive` or `bye`.
    pub fn presence(&self, word: &str, load: Load, now: Moment) -> Vec<u8> {
        let leads = if self.lock().leads(now) { "1" } else { "0" };
        let numbers = [self.me.instance, FORMAT, READS, self.me.started_at_ms, load.waiters, load.locks, load.ahead_us];
        let [instance, format, reads, started, waiters, locks, ahead] = numbers.map(|number| number.to_string());
        let mut out = Vec::new();
        #[rustfmt::skip]
        encode_command(&[
            word, "id", &self.me.id, "instance", &instance, "format", &format, "reads", &reads,
            "version", env!("CARGO_PKG_VERSION"), "started", &started, "address", &self.me.address,
            "waiters", &waiters, "locks", &locks, "leads", leads, "ahead", &ahead,
        ], &mut out);
        out
    }

    /// A node, maybe this one, has said something of itself. Anything that makes no sense is passed over.
    pub fn heard(&self, message: &[u8], now: Moment) -> News {
        let mut words = args(message);
        let word = words.next().unwrap_or_default();
        let said = Said::read(words);
        let Some(id) = said.text("id").filter(|id| !id.is_empty()) else { return News::None };
        if *id == *self.me.id {
            self.heard_myself(&said, now);
            return News::None;
        }
        let mut circle = self.lock();
        if word == b"bye" {
            if let Some(peer) = circle.peers.get(&*id).filter(|peer| peer.instance == said.number("instance")) {
                tracing::info!(node = %id, "a node has left");
                // Its waiters were told, and what it had registered for them went with them, unless it could not.
                circle.must_clean |= peer.load.waiters > 0;
                circle.peers.remove(&*id);
                drop(circle);
                self.duty.notify_one();
            }
            return News::None;
        }
        if word != b"alive" {
            return News::None;
        }
        let is_crowded = circle.peers.len() >= NODES_MAX;
        match circle.peers.entry(id) {
            Entry::Occupied(mut known) if known.get().instance <= said.number("instance") => {
                let is_new = known.get().instance < said.number("instance");
                known.insert(said.peer(now, Some(known.get()).filter(|_| !is_new)));
                if is_new { News::Joined } else { News::None }
            }
            // What an earlier life of it had still to say.
            Entry::Occupied(_) => News::None,
            Entry::Vacant(_) if is_crowded => News::None,
            Entry::Vacant(place) => {
                let peer = said.peer(now, None);
                let (node, address, version) = (place.key().clone(), &peer.address, &peer.version);
                if peer.is_understood {
                    tracing::info!(%node, %address, %version, "another node is there");
                } else {
                    tracing::error!(
                        %node, %address, %version, format = peer.format,
                        "another node shares data on this upstream in a form that one of us does not understand; bring both to \
                         successive versions of Lockgate"
                    );
                }
                place.insert(peer);
                drop(circle);
                self.duty.notify_one();
                News::Joined
            }
        }
    }

    fn heard_myself(&self, said: &Said<'_>, now: Moment) {
        let instance = said.number("instance");
        if instance == self.me.instance {
            self.lock().echoed = Some(now);
        } else if self.namesake.swap(instance, Ordering::Relaxed) != instance {
            tracing::error!(
                id = %self.me.id, address = %said.text("address").unwrap_or_default(),
                "another node goes by this node's name; give each its own nodes.id, or leave it out"
            );
        }
    }

    /// By how many µs the others' fences run ahead of the upstream's clock, at most.
    pub fn ahead_us(&self) -> u64 {
        self.lock().peers.values().map(|peer| peer.load.ahead_us).max().unwrap_or(0)
    }

    /// From now on this node hears what the others say.
    pub fn hears(&self, now: Moment) {
        self.lock().hears_since.get_or_insert(now);
    }

    /// From now on it hears nothing. Nobody is taken for dead for what nobody could hear.
    pub fn is_deaf(&self) {
        let mut circle = self.lock();
        circle.hears_since = None;
        circle.echoed = None;
    }

    /// Takes those for dead who were silent for the node timeout when the upstream was asked something, at `asked`, whose answer has
    /// been heard by now: what they had said before that has been heard as well, however long this node itself stood still.
    pub fn judge(&self, asked: Moment) {
        let mut circle = self.lock();
        let Some(since) = circle.hears_since else { return };
        let timeout_ms = self.me.timeout_ms;
        let dead: Vec<Arc<str>> = circle
            .peers
            .iter()
            .filter(|(_, peer)| peer.heard.max(since).plus_ms(timeout_ms) <= asked)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &dead {
            tracing::warn!(node = %id, timeout_ms, "a node has been silent for too long and counts as dead");
            circle.peers.remove(id);
        }
        if !dead.is_empty() {
            circle.must_clean = true;
            drop(circle);
            self.duty.notify_one();
        }
    }

    /// When the next node will have been silent for too long, if it stays so.
    pub fn judged_at(&self) -> Option<Moment> {
        let circle = self.lock();
        let since = circle.hears_since?;
        circle.peers.values().map(|peer| peer.heard.max(since).plus_ms(self.me.timeout_ms)).min()
    }

    /// What this node says comes back to it, so that it hears what the others say, too.
    pub fn can_talk(&self, now: Moment) -> bool {
        self.lock().can_talk(now, self.me.timeout_ms)
    }

    /// The other nodes that are there, by name.
    pub fn peers(&self) -> Vec<(Arc<str>, Peer)> {
        let circle = self.lock();
        let mut peers: Vec<_> = circle.peers.iter().map(|(id, peer)| (id.clone(), peer.clone())).collect();
        drop(circle);
        peers.sort_by(|a, b| a.0.cmp(&b.0));
        peers
    }

    /// Whether there is any other node.
    pub fn is_alone(&self) -> bool {
        self.lock().peers.is_empty()
    }

    /// Whether `id` is this node's or that of a node that is there.
    pub fn is_there(&self, id: &[u8]) -> bool {
        let Ok(id) = std::str::from_utf8(id) else { return false };
        *id == *self.me.id || self.lock().peers.contains_key(id)
    }

    /// This node has heard the others for so long that it knows who is there.
    pub fn knows_all(&self, now: Moment) -> bool {
        self.knows_all_at().is_some_and(|at| at <= now) && self.can_talk(now)
    }

    /// When it will, if it goes on hearing them.
    pub fn knows_all_at(&self) -> Option<Moment> {
        Some(self.lock().hears_since?.plus_ms(self.me.timeout_ms))
    }

    /// Who leads: of those who say so, and for a moment that can be two, the one who took over last. Who is alone needs no lock.
    pub fn leader(&self, now: Moment) -> Option<Arc<str>> {
        let circle = self.lock();
        let mine = circle.leads.filter(|_| circle.leads(now)).map(|(_, since)| (since, &self.me.id));
        let theirs = circle.peers.iter().filter_map(|(id, peer)| Some((peer.leads_since?, id)));
        let leader = mine.into_iter().chain(theirs).max().map(|(_, id)| id.clone());
        let is_alone = circle.peers.is_empty() && circle.can_talk(now, self.me.timeout_ms);
        leader.or_else(|| is_alone.then(|| self.me.id.clone()))
    }

    /// The lock on leading is this node's until then; with `None` it is not.
    pub fn leads_until(&self, until: Option<Moment>, now: Moment) -> bool {
        let mut circle = self.lock();
        let had = circle.leads(now);
        let since = circle.leads.map_or(now, |(_, since)| since);
        circle.leads = until.map(|until| (until, if had { since } else { now }));
        had != circle.leads.is_some()
    }

    /// What there is to do for the one who cleans up.
    pub fn duties(&self, now: Moment) -> Duty {
        let mut circle = self.lock();
        let (has_peers, leads) = (!circle.peers.is_empty(), circle.leads(now));
        let is_led = circle.peers.values().any(|peer| peer.leads_since.is_some());
        // It is the leader's business, who has seen the same.
        circle.must_clean &= leads || !is_led;
        Duty { has_peers, is_led, leads, must_clean: circle.must_clean }
    }

    /// Somebody is about to clean up.
    pub fn begins_to_clean(&self) {
        self.lock().must_clean = false;
    }

    /// It came to nothing.
    pub fn must_clean_again(&self) {
        self.lock().must_clean = true;
    }

    /// Asks for leftovers to be removed now; resolves to how many there were, or why they could not be.
    pub fn asks_to_clean(&self) -> oneshot::Receiver<Result<u64, String>> {
        let (done, outcome) = oneshot::channel();
        self.lock().clean_ups.push(done);
        self.duty.notify_one();
        outcome
    }

    /// Those who have asked for that.
    pub fn take_clean_ups(&self) -> Vec<oneshot::Sender<Result<u64, String>>> {
        std::mem::take(&mut self.lock().clean_ups)
    }

    /// Something about this node has changed that the others should know before the next heartbeat.
    pub fn speaks_up(&self) {
        self.must_speak.store(true, Ordering::SeqCst);
        self.talk.ring();
    }

    /// Whether that is so, since this was asked last.
    pub fn take_must_speak(&self) -> bool {
        self.must_speak.swap(false, Ordering::SeqCst)
    }

    /// This node is about to leave.
    pub fn begins_to_leave(&self) {
        self.is_leaving.store(true, Ordering::SeqCst);
        self.leaves.notify_one();
    }

    /// Whether it is.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Circle> {
        // A panic while it was held has been reported; what is known of the nodes is as good as before.
        self.circle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Circle {
    fn leads(&self, now: Moment) -> bool {
        self.leads.is_some_and(|(until, _)| now < until)
    }

    fn can_talk(&self, now: Moment, timeout_ms: u64) -> bool {
        self.hears_since.is_some() && self.echoed.is_some_and(|echoed| now < echoed.plus_ms(timeout_ms))
    }
}

/// What a node has said: names and values in turn. Names that are not known belong to later versions.
struct Said<'a>(HashMap<&'a [u8], &'a [u8]>);

impl<'a> Said<'a> {
    fn read(mut words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut said = HashMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            said.insert(name, value);
        }
        Said(said)
    }

    fn text(&self, name: &str) -> Option<Arc<str>> {
        let bytes = self.0.get(name.as_bytes())?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]);
        Some(text.chars().filter(|letter| !letter.is_control()).collect::<String>().into())
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.0.get(name.as_bytes()).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn peer(&self, now: Moment, before: Option<&Peer>) -> Peer {
        let format = self.number("format");
        let leads = self.number("leads") == 1;
        Peer {
            instance: self.number("instance"),
            version: self.text("version").unwrap_or_default(),
            format,
            started_at_ms: self.number("started"),
            address: self.text("address").unwrap_or_default(),
            load: Load { waiters: self.number("waiters"), locks: self.number("locks"), ahead_us: self.number("ahead") },
            leads_since: leads.then(|| before.and_then(|before| before.leads_since).unwrap_or(now)),
            heard: now,
            is_understood: format <= READS && FORMAT <= self.number("reads"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, instance: u64) -> Nodes {
        Nodes::new(Me {
            id: id.into(),
            instance,
            started_at_ms: 17,
            address: "127.0.0.1:7379".into(),
            heartbeat_ms: 1000,
            timeout_ms: 3000,
        })
    }

    fn at(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    fn says(node: &Nodes, word: &str, now: Moment) -> Vec<u8> {
        node.presence(word, Load { waiters: 2, locks: 1, ahead_us: 0 }, now)
    }

    fn names(node: &Nodes) -> Vec<String> {
        node.peers().into_iter().map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn nodes_learn_of_one_another_and_tell_news_from_the_known() {
        let (a, b) = (node("a", 1), node("b", 1));
        a.hears(at(0));
        assert_eq!(a.heard(&says(&b, "alive", at(0)), at(5)), News::Joined);
        assert_eq!(a.heard(&says(&b, "alive", at(0)), at(1005)), News::None);
        let (_, peer) = &a.peers()[0];
        assert_eq!((peer.load.waiters, peer.load.locks, peer.started_at_ms), (2, 1, 17));
        assert_eq!((&*peer.address, peer.heard, peer.is_understood), ("127.0.0.1:7379", at(1005), true));
        assert_eq!(a.heard(&says(&node("b", 2), "alive", at(0)), at(1100)), News::Joined, "it began anew");
        assert_eq!(a.heard(&says(&b, "alive", at(0)), at(1200)), News::None);
        assert_eq!(a.peers()[0].1.instance, 2, "what its earlier life had still to say counts no more");
        a.heard(&says(&b, "bye", at(0)), at(1300));
        assert_eq!(names(&a), ["b"]);
        a.heard(&says(&node("b", 2), "bye", at(0)), at(1300));
        assert!(a.is_alone());
    }

    #[test]
    fn silence_is_death_but_only_as_far_as_it_could_be_heard() {
        let (a, b) = (node("a", 1), node("b", 1));
        a.hears(at(0));
        a.heard(&says(&b, "alive", at(0)), at(100));
        assert_eq!(a.judged_at(), Some(at(3100)));
        a.judge(at(3099));
        assert_eq!(names(&a), ["b"]);
        // The link was lost, and is back.
        a.is_deaf();
        a.judge(at(9000));
        a.hears(at(9000));
        a.judge(at(11_999));
        assert_eq!(names(&a), ["b"]);
        a.begins_to_clean();
        a.judge(at(12_000));
        assert!(a.is_alone() && a.duties(at(12_000)).must_clean);
    }

    #[test]
    fn the_echo_of_its_own_words_shows_a_node_that_it_can_talk() {
        let (a, namesake) = (node("a", 1), node("a", 2));
        a.hears(at(0));
        assert!(!a.can_talk(at(0)));
        a.heard(&says(&namesake, "alive", at(0)), at(1));
        assert!(!a.can_talk(at(1)), "that was somebody else");
        a.heard(&says(&a, "alive", at(0)), at(2));
        assert!(a.can_talk(at(2)) && !a.knows_all(at(2)) && a.is_alone());
        a.heard(&says(&a, "alive", at(0)), at(3000));
        assert!(a.knows_all(at(3000)));
        assert!(!a.can_talk(at(6000)), "it has fallen silent");
    }

    #[test]
    fn one_leads_also_while_two_believe_they_do() {
        let (a, b, c) = (node("a", 1), node("b", 1), node("c", 1));
        a.hears(at(0));
        a.heard(&says(&a, "alive", at(0)), at(0));
        assert_eq!(a.leader(at(0)).as_deref(), Some("a"), "who is alone leads");
        b.leads_until(Some(at(3000)), at(0));
        a.heard(&says(&b, "alive", at(10)), at(10));
        assert_eq!(a.leader(at(10)).as_deref(), Some("b"));
        assert!(a.duties(at(10)).is_led && !a.duties(at(10)).must_clean);
        c.leads_until(Some(at(9000)), at(3100));
        a.heard(&says(&c, "alive", at(3100)), at(3100));
        assert_eq!(a.leader(at(3100)).as_deref(), Some("c"), "the one who took over last");
        a.heard(&says(&b, "alive", at(3200)), at(3200));
        assert_eq!(a.leader(at(3200)).as_deref(), Some("c"), "whose lease has ended says so");
        assert!(a.leads_until(Some(at(6000)), at(3300)));
        assert_eq!(a.leader(at(3300)).as_deref(), Some("a"));
        assert!(!a.leads_until(Some(at(7000)), at(3400)) && a.duties(at(3400)).leads);
        assert_eq!(a.leader(at(7000)).as_deref(), Some("c"));
    }

    #[test]
    fn a_node_of_a_form_that_one_of_us_does_not_understand_is_known_as_such() {
        let a = node("a", 1);
        let mut message = Vec::new();
        let words = ["alive", "id", "new", "format", "2", "reads", "2", "and", "more", "odd one out"];
        encode_command(&words, &mut message);
        assert_eq!(a.heard(&message, at(0)), News::Joined);
        assert!(!a.peers()[0].1.is_understood);
        for odd in
            [&b""[..], b"*1\r\n$5\r\nalive\r\n", b"*9\r\n", b"hello", b"*3\r\n$5\r\nalive\r\n$2\r\nid\r\n$0\r\n\r\n"]
        {
            assert_eq!(a.heard(odd, at(0)), News::None);
        }
        assert_eq!(names(&a), ["new"]);
    }

    #[test]
    fn however_many_call_themselves_nodes_memory_stays_bounded() {
        let a = node("a", 1);
        for number in 0..2 * NODES_MAX {
            a.heard(&says(&node(&format!("n{number}"), 1), "alive", at(0)), at(0));
        }
        assert_eq!(a.peers().len(), NODES_MAX);
    }
}
