//! Which other nodes are there. A node that has just begun to hear the others announces itself on `lockgate:nodes`, and each that
//! hears it answers on its own channel. While at least two know of one another each tells with every heartbeat that it lives, and
//! whoever has been silent for the node timeout is taken for dead. A node alone says nothing. Nothing is kept upstream for all that.
//!
//! Another node counts as there only once it has answered to this node's present hearing, and from then on only what it sent later
//! does: whoever recorded messages cannot bring a dead node back, send a living one away, or ask something twice.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::peers::Talk;
use super::presence::{Load, Peer, Said, presence};
use super::seal::{Addressee, Letter, Seal, Unsealed};
use crate::domain::Moment;

/// Where nodes tell of themselves.
pub const CHANNEL: &[u8] = b"lockgate:nodes";

/// More nodes on one upstream are not heeded.
const NODES_MAX: usize = 256;
/// A longer name is no node's.
const NAME_MAX: usize = 256;
/// That somebody speaks under another seal is said so often, in ms.
const STRANGER_SAID_EVERY_MS: u64 = 60_000;

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
    seal: Seal,
    last_number: AtomicU64,
    /// Questions to the others, and what is to be sent.
    pub talk: Talk,
    /// Rings when the one who cleans up has something to do.
    pub duty: Notify,
    is_leaving: AtomicBool,
    /// Rings when this node is about to leave.
    pub leaves: Notify,
    must_speak: AtomicBool,
    is_in_use: AtomicBool,
    /// Another node is to lead.
    must_elect: AtomicBool,
    /// The namesake that was last complained about.
    namesake: AtomicU64,
}

#[derive(Debug)]
struct Circle {
    peers: HashMap<Arc<str>, Peer>,
    /// Those who were there and are so no more, by name and life, with the number of their last message:
    /// what they sent up to then may have been recorded. When it is full, a new hearing makes all of that void.
    gone: HashMap<(Arc<str>, u64), u64>,
    /// Names the present subscription, and only grows: whoever wants to be known has to say it.
    hearing: u64,
    /// Since when this node hears the others without a gap.
    hears_since: Option<Moment>,
    /// How often this node has introduced itself to others since.
    introduced: (Moment, usize),
    /// When a message under another seal was heard, and when that was said.
    stranger: Option<(Moment, Moment)>,
    /// When what it said of itself last came back to it.
    echoed: Option<Moment>,
    /// Until when the lock on leading is surely its own, and since when.
    leads: Option<(Moment, Moment)>,
    must_clean: bool,
    /// What nodes that are long gone may have left has not been looked for yet. That has time until there are others, or somebody
    /// uses this one.
    has_to_look_once: bool,
    /// Those who want leftovers removed now.
    clean_ups: Vec<oneshot::Sender<Result<u64, String>>>,
}

/// What a message of a node calls for.
#[derive(Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// Nothing.
    None,
    /// Its sender is to hear of this node.
    Introduce(Introduction),
    /// It is a question or an answer of a node that is there.
    Talk {
        /// Who sent it.
        from: &'a str,
        /// What it says.
        body: &'a [u8],
    },
}

/// To whom this node introduces itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The other's name.
    pub to: Arc<str>,
    /// Its hearing, as it told.
    hearing: u64,
    /// This node knows it; if not, it is to introduce itself as well.
    knows: bool,
}

impl Nodes {
    /// A node that has not heard of any other.
    pub fn new(me: Me, seal: Seal) -> Self {
        let circle = Circle {
            peers: HashMap::new(),
            gone: HashMap::new(),
            hearing: me.instance,
            hears_since: None,
            introduced: (Moment::default(), 0),
            stranger: None,
            echoed: None,
            leads: None,
            must_clean: false,
            has_to_look_once: true,
            clean_ups: Vec::new(),
        };
        let talk = Talk::new(me.instance);
        Nodes {
            me,
            circle: Mutex::new(circle),
            seal,
            last_number: AtomicU64::new(0),
            talk,
            duty: Notify::new(),
            is_leaving: AtomicBool::new(false),
            leaves: Notify::new(),
            must_speak: AtomicBool::new(false),
            is_in_use: AtomicBool::new(false),
            must_elect: AtomicBool::new(false),
            namesake: AtomicU64::new(0),
        }
    }

    // ---- What this node says. To be sent in the order in which it was made.

    /// What it tells everybody of itself, with `word` being `alive` or `bye`.
    pub fn presence(&self, word: &str, load: Load, now: Moment) -> Vec<u8> {
        let leads = self.lock().leads(now);
        self.seal(None, &presence(&self.me, word, load, leads, false))
    }

    /// What it tells another node of itself.
    pub fn introduce(&self, whom: &Introduction, load: Load, now: Moment) -> Vec<u8> {
        let leads = self.lock().leads(now);
        let to = Addressee { id: &whom.to, hearing: whom.hearing };
        self.seal(Some(to), &presence(&self.me, "meet", load, leads, whom.knows))
    }

    /// A question or an answer to another node; `None` where that one is not there.
    pub fn tell(&self, to: &str, body: &[u8]) -> Option<Vec<u8>> {
        let hearing = self.lock().peers.get(to)?.hearing;
        Some(self.seal(Some(Addressee { id: to, hearing }), body))
    }

    fn seal(&self, to: Option<Addressee<'_>>, body: &[u8]) -> Vec<u8> {
        let hearing = self.lock().hearing;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        self.seal.close(&Letter { from: &self.me.id, instance: self.me.instance, hearing, number, to, body })
    }

    // ---- What it hears.

    /// Something was published where this node hears it.
    pub fn heard<'a>(&self, message: &'a [u8], now: Moment) -> News<'a> {
        let letter = match self.seal.open(message) {
            Ok(letter) => letter,
            Err(why) => {
                self.heard_a_stranger(why, now);
                return News::None;
            }
        };
        let is_name = letter.from.len() <= NAME_MAX && !letter.from.contains(char::is_control);
        let is_for_me = letter.to.is_none_or(|to| *to.id == *self.me.id);
        if !is_name || !is_for_me {
            return News::None;
        }
        let said = Said::read(letter.body);
        if *letter.from == *self.me.id {
            return self.heard_my_name(&letter, &said, now);
        }
        match (letter.to, said.word) {
            (None, b"alive") => self.heard_that_it_lives(&letter, &said, now),
            (None, b"bye") => self.heard_that_it_leaves(&letter),
            (Some(_), b"meet") => self.met(&letter, &said, now),
            (Some(_), _) => match self.lock().peers.get_mut(letter.from) {
                Some(peer) if peer.is_next(&letter) => {
                    peer.has_sent(&letter, now);
                    News::Talk { from: letter.from, body: letter.body }
                }
                // Whoever asks is known, or will be in a moment; a recording of what was asked is not.
                _ => News::None,
            },
            (None, _) => News::None,
        }
    }

    fn heard_that_it_lives<'a>(&self, letter: &Letter<'a>, said: &Said<'_>, now: Moment) -> News<'a> {
        let mut circle = self.lock();
        let Some(known) = circle.peers.get_mut(letter.from).filter(|peer| peer.instance >= letter.instance) else {
            return circle.introduces(letter, false, now, &self.me);
        };
        if known.is_next(letter) {
            let hears_anew = known.hearing != letter.hearing;
            *known = said.peer(letter, now, Some(known));
            // What it knew of others it has to hear from them again.
            return if hears_anew { circle.introduces(letter, true, now, &self.me) } else { News::None };
        }
        let is_to_be_met = known.instance == letter.instance && known.number < letter.number;
        if is_to_be_met { circle.introduces(letter, false, now, &self.me) } else { News::None }
    }

    fn heard_that_it_leaves<'a>(&self, letter: &Letter<'a>) -> News<'a> {
        let mut circle = self.lock();
        if let Some(peer) = circle.peers.get(letter.from).filter(|peer| peer.is_next(letter)) {
            tracing::info!(node = %letter.from, "a node has left");
            // Its waiters were told, and what it had registered for them went with them, unless it could not.
            circle.must_clean |= peer.load.waiters > 0;
            circle.forgets(letter.from);
            drop(circle);
            self.duty.notify_one();
        }
        News::None
    }

    /// A node speaks to this one, and to its present hearing: it is there.
    fn met<'a>(&self, letter: &Letter<'a>, said: &Said<'_>, now: Moment) -> News<'a> {
        let mut circle = self.lock();
        if circle.is_recorded(letter) {
            return News::None;
        }
        let is_crowded = circle.peers.len() >= NODES_MAX;
        match circle.peers.entry(letter.from.into()) {
            // An earlier life of it, or a recording.
            Entry::Occupied(known) if known.get().instance > letter.instance => return News::None,
            Entry::Occupied(known) if known.get().is_same_life_before(letter) => return News::None,
            Entry::Occupied(mut known) => {
                let before = Some(known.get()).filter(|peer| peer.instance == letter.instance);
                let peer = said.peer(letter, now, before);
                known.insert(peer);
            }
            Entry::Vacant(_) if is_crowded => return News::None,
            Entry::Vacant(place) => {
                let peer = said.peer(letter, now, None);
                complain_or_tell(letter.from, &peer);
                place.insert(peer);
                self.duty.notify_one();
            }
        }
        if said.knows() { News::None } else { circle.introduces(letter, true, now, &self.me) }
    }

    fn heard_my_name<'a>(&self, letter: &Letter<'a>, said: &Said<'_>, now: Moment) -> News<'a> {
        let mut circle = self.lock();
        if letter.instance == self.me.instance {
            if letter.hearing == circle.hearing {
                circle.echoed = Some(now);
            }
            return News::None;
        }
        if said.word != b"meet" || circle.is_recorded(letter) {
            // A namesake will answer, a recording of an earlier life will not.
            return circle.introduces(letter, false, now, &self.me);
        }
        if self.namesake.swap(letter.instance, Ordering::Relaxed) != letter.instance {
            tracing::error!(
                id = %self.me.id, address = %said.address(),
                "another node goes by this node's name; give each its own nodes.id, or leave it out"
            );
        }
        if said.knows() { News::None } else { circle.introduces(letter, true, now, &self.me) }
    }

    /// Somebody publishes where only nodes should, or a node has another secret. Nothing it says is heeded.
    fn heard_a_stranger(&self, why: Unsealed, now: Moment) {
        let mut circle = self.lock();
        let said = circle.stranger.map(|(_, said)| said);
        let is_to_be_said = said.is_none_or(|said| said.plus_ms(STRANGER_SAID_EVERY_MS) <= now);
        circle.stranger = Some((now, said.filter(|_| !is_to_be_said).unwrap_or(now)));
        drop(circle);
        match why {
            _ if !is_to_be_said => {}
            Unsealed::Forged => tracing::error!(
                "a message on lockgate:nodes or this node's channel was not made with this node's nodes.secret: it is not heeded. \
                 Give all nodes of an upstream the same nodes.secret (by default it comes from the upstream's password), and \
                 no client the right to publish there"
            ),
            Unsealed::Newer(form) => tracing::error!(
                form,
                "a node of a later version speaks in a form that this one does not read; bring both to successive versions"
            ),
        }
    }

    /// This node is about to subscribe; `now_us` is Unix time in µs. What was meant for it before is not for it any more.
    pub fn subscribes(&self, now_us: u64) {
        let mut circle = self.lock();
        circle.hearing = now_us.max(circle.hearing + 1);
        circle.echoed = None;
        circle.peers.values_mut().for_each(Peer::is_to_be_met_again);
    }

    /// By how many µs the others' fences run ahead of the upstream's clock, at most.
    pub fn ahead_us(&self) -> u64 {
        self.lock().peers.values().map(|peer| peer.load.ahead_us).max().unwrap_or(0)
    }

    /// The highest fence that the others have seen.
    pub fn fence(&self) -> u64 {
        self.lock().peers.values().map(|peer| peer.load.fence).max().unwrap_or(0)
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
    /// Whether there were any.
    pub fn judge(&self, asked: Moment) -> bool {
        let mut circle = self.lock();
        let Some(since) = circle.hears_since else { return false };
        let timeout_ms = self.me.timeout_ms;
        let dead: Vec<Arc<str>> = circle
            .peers
            .iter()
            .filter(|(_, peer)| peer.heard.max(since).plus_ms(timeout_ms) <= asked)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &dead {
            tracing::warn!(node = %id, timeout_ms, "a node has been silent for too long and counts as dead");
            circle.forgets(id);
        }
        if !dead.is_empty() {
            circle.must_clean = true;
            drop(circle);
            self.duty.notify_one();
        }
        !dead.is_empty()
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

    /// To which kinds of events the clients of other nodes listen, a bit each.
    pub fn listening(&self) -> u8 {
        self.lock().peers.values().fold(0, |mask, peer| mask | peer.load.listens)
    }

    /// Whether that node began after this one.
    pub fn came_after_this(&self, id: &str) -> bool {
        self.lock().peers.get(id).is_some_and(|peer| peer.started_at_ms >= self.me.started_at_ms)
    }

    /// The names of the other nodes that are there.
    pub fn names(&self) -> BTreeSet<Arc<str>> {
        self.lock().peers.keys().cloned().collect()
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

    /// This node has heard the others for so long that it knows who is there, and there is none whom it does not understand.
    pub fn knows_all(&self, now: Moment) -> bool {
        let stranger = self.lock().stranger;
        let hears_strangers = stranger.is_some_and(|(heard, _)| now < heard.plus_ms(self.me.timeout_ms));
        self.knows_all_at().is_some_and(|at| at <= now) && self.can_talk(now) && !hears_strangers
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
        circle.has_to_look_once &= leads || !is_led;
        let looks_once = circle.has_to_look_once && (has_peers || self.is_in_use());
        Duty { has_peers, is_led, leads, must_clean: circle.must_clean || looks_once }
    }

    /// Somebody is about to clean up.
    pub fn begins_to_clean(&self) {
        let mut circle = self.lock();
        (circle.must_clean, circle.has_to_look_once) = (false, false);
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

    /// If this node leads, it is to let another one do so; `false` where it does not.
    pub fn is_to_cede(&self, now: Moment) -> bool {
        let leads = self.lock().leads(now);
        if leads {
            self.must_elect.store(true, Ordering::SeqCst);
            self.duty.notify_one();
        }
        leads
    }

    /// Whether that was asked for, since this was asked last.
    pub fn take_election(&self) -> bool {
        self.must_elect.swap(false, Ordering::SeqCst)
    }

    /// Somebody uses locks through this node. Until then it has no reason to look for what others have left.
    pub fn is_used(&self) {
        if !self.is_in_use.load(Ordering::Relaxed) {
            self.is_in_use.store(true, Ordering::Relaxed);
            self.duty.notify_one();
            self.talk.ring();
        }
    }

    /// Whether somebody has used locks through this node.
    pub fn is_in_use(&self) -> bool {
        self.is_in_use.load(Ordering::Relaxed)
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

    /// Who is alone says nothing after its announcement; who is not has a heartbeat.
    fn can_talk(&self, now: Moment, timeout_ms: u64) -> bool {
        let is_current = |echoed: Moment| self.peers.is_empty() || now < echoed.plus_ms(timeout_ms);
        self.hears_since.is_some() && self.echoed.is_some_and(is_current)
    }

    /// It is there no more.
    fn forgets(&mut self, id: &str) {
        let Some((id, peer)) = self.peers.remove_entry(id) else { return };
        if self.gone.len() >= NODES_MAX {
            self.gone.clear();
            self.hearing += 1;
        }
        self.gone.insert((id, peer.instance), peer.number);
    }

    /// Whatever it says of itself, it was not sent to this node now: it names another hearing, or its sender was heard further.
    fn is_recorded(&self, letter: &Letter<'_>) -> bool {
        let last = self.gone.get(&(letter.from.into(), letter.instance));
        letter.to.is_none_or(|to| to.hearing != self.hearing) || last.is_some_and(|last| letter.number <= *last)
    }

    /// `letter` asks for an introduction. There are no more of them in a heartbeat than there can be nodes.
    fn introduces<'a>(&mut self, letter: &Letter<'a>, knows: bool, now: Moment, me: &Me) -> News<'a> {
        if self.introduced.0.plus_ms(me.heartbeat_ms) <= now {
            self.introduced = (now, 0);
        }
        self.introduced.1 += 1;
        match self.introduced.1 <= NODES_MAX {
            true => News::Introduce(Introduction { to: letter.from.into(), hearing: letter.hearing, knows }),
            false => News::None,
        }
    }
}

fn complain_or_tell(node: &str, peer: &Peer) {
    let Peer { address, version, format, .. } = peer;
    if peer.is_understood {
        tracing::info!(%node, %address, %version, "another node is there");
    } else {
        tracing::error!(
            %node, %address, %version, format,
            "another node shares data on this upstream in a form that one of us does not understand; bring both to successive \
             versions of Lockgate"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::args::encode_command;

    fn node_under(seal: Seal, id: &str, instance: u64) -> Nodes {
        let node = Nodes::new(
            Me {
                id: id.into(),
                instance,
                started_at_ms: 17,
                address: "127.0.0.1:7379".into(),
                heartbeat_ms: 1000,
                timeout_ms: 3000,
            },
            seal,
        );
        node.subscribes(instance);
        node.hears(at(0));
        node
    }

    fn node(id: &str, instance: u64) -> Nodes {
        node_under(Seal::default(), id, instance)
    }

    fn at(ms: u64) -> Moment {
        Moment::default().plus_ms(ms)
    }

    const LOAD: Load = Load { waiters: 2, locks: 1, ahead_us: 0, fence: 0, listens: 0 };

    fn says(node: &Nodes, word: &str) -> Vec<u8> {
        node.presence(word, LOAD, at(0))
    }

    /// `hears` what was said, and the two go on until neither has anything more to say. How many introductions that took.
    fn hear(hears: &Nodes, speaks: &Nodes, message: &[u8], now: Moment) -> usize {
        match hears.heard(message, now) {
            News::Introduce(whom) => 1 + hear(speaks, hears, &hears.introduce(&whom, LOAD, now), now),
            _ => 0,
        }
    }

    fn names(node: &Nodes) -> Vec<String> {
        node.peers().into_iter().map(|(id, _)| id.to_string()).collect()
    }

    /// Two nodes that know each other.
    fn pair() -> (Nodes, Nodes) {
        let (a, b) = (node("a", 1), node("b", 1));
        assert_eq!(hear(&a, &b, &says(&b, "alive"), at(0)), 2);
        (a, b)
    }

    fn asks(node: &Nodes, to: &str) -> Vec<u8> {
        node.tell(to, b"*1\r\n$3\r\nask\r\n").expect("it is known")
    }

    fn is_heeded(news: &News<'_>) -> bool {
        matches!(news, News::Talk { .. })
    }

    #[test]
    fn a_newcomer_announces_itself_and_is_answered() {
        let (a, b) = pair();
        assert_eq!((names(&a), names(&b)), (vec!["b".to_owned()], vec!["a".to_owned()]));
        assert_eq!(hear(&a, &b, &says(&b, "alive"), at(1005)), 0, "who is known needs no answer");
        let (_, peer) = &a.peers()[0];
        assert_eq!((peer.load.waiters, peer.load.locks, peer.started_at_ms), (2, 1, 17));
        assert_eq!((&*peer.address, peer.heard, peer.is_understood), ("127.0.0.1:7379", at(1005), true));
        let newer = node("b", 2);
        hear(&a, &newer, &says(&newer, "alive"), at(1100));
        assert_eq!(a.heard(&says(&b, "alive"), at(1200)), News::None);
        assert_eq!(a.peers()[0].1.instance, 2, "what its earlier life had still to say counts no more");
        a.heard(&says(&b, "bye"), at(1300));
        assert_eq!(names(&a), ["b"]);
        a.heard(&says(&newer, "bye"), at(1300));
        assert!(a.is_alone());
    }

    #[test]
    fn two_that_come_at_once_meet() {
        let (a, b) = (node("a", 1), node("b", 1));
        let (from_a, from_b) = (says(&a, "alive"), says(&b, "alive"));
        hear(&a, &b, &from_b, at(0));
        hear(&b, &a, &from_a, at(0));
        assert_eq!((names(&a).len(), names(&b).len()), (1, 1));
    }

    #[test]
    fn whoever_was_taken_for_dead_and_is_heard_again_is_welcome() {
        let (a, b) = pair();
        assert!(a.judge(at(3000)) && a.is_alone());
        assert_eq!(hear(&a, &b, &says(&b, "alive"), at(3500)), 2, "b still knows a, and is asked to say so");
        assert_eq!(names(&a), ["b"]);
        assert!(is_heeded(&a.heard(&asks(&b, "a"), at(3600))) && is_heeded(&b.heard(&asks(&a, "b"), at(3600))));
    }

    #[test]
    fn a_message_under_another_secret_is_not_heeded() {
        let (a, b) = (node("a", 1), node_under(Seal::of(b"other"), "b", 1));
        a.heard(&says(&a, "alive"), at(0));
        assert_eq!(a.heard(&says(&b, "alive"), at(1000)), News::None);
        assert!(a.is_alone());
        assert!(!a.knows_all(at(3000)), "somebody is there whom it does not understand");
        assert!(a.knows_all(at(4000)));
    }

    #[test]
    fn what_was_recorded_does_no_harm_later() {
        let (a, b) = (node("a", 1), node("b", 1));
        let News::Introduce(whom) = b.heard(&says(&a, "alive"), at(0)) else { panic!("it answers") };
        let met = b.introduce(&whom, LOAD, at(0));
        hear(&a, &b, &met, at(0));
        let recorded = [says(&b, "alive"), asks(&b, "a"), says(&b, "bye")];
        assert_eq!(a.heard(&recorded[0], at(10)), News::None);
        assert!(is_heeded(&a.heard(&recorded[1], at(20))));
        for message in &recorded[..2] {
            assert_eq!(a.heard(message, at(500)), News::None, "once is enough");
        }
        assert_eq!(a.peers()[0].1.heard, at(20), "and shows no life");
        a.heard(&recorded[2], at(600));
        assert!(a.is_alone());
        // It is gone: nobody answers to what it once said, nor does it count again.
        for message in recorded.iter().chain([&met]) {
            assert!(!is_heeded(&a.heard(message, at(700))));
        }
        assert!(a.is_alone());
        // So many come and go that not all can be kept in mind.
        for number in 0..2 * NODES_MAX {
            let other = node(&format!("n{number}"), 1);
            hear(&a, &other, &says(&other, "alive"), at(2000 * number as u64));
            a.heard(&says(&other, "bye"), at(2000 * number as u64));
        }
        assert!(a.lock().gone.len() <= NODES_MAX);
        a.heard(&met, at(9_000_000));
        assert!(a.is_alone());
        // Nor does a node that has just begun under the same name believe it.
        let later = node("a", 9);
        for message in &recorded {
            assert!(!is_heeded(&later.heard(message, at(800))));
        }
        assert!(later.is_alone());
    }

    #[test]
    fn what_a_node_missed_while_it_was_deaf_cannot_be_played_to_it_later() {
        let (a, b) = pair();
        let c = node("c", 1);
        hear(&c, &b, &says(&b, "alive"), at(0));
        a.is_deaf();
        let missed = [says(&b, "alive"), asks(&b, "a"), says(&b, "bye")];
        a.subscribes(500);
        a.hears(at(1000));
        let heard = a.peers()[0].1.heard;
        for message in &missed {
            assert!(!is_heeded(&a.heard(message, at(1100))));
        }
        assert_eq!((names(&a), a.peers()[0].1.heard), (vec!["b".to_owned()], heard));
        // To the living one it introduces itself anew, and is answered.
        let announced = says(&a, "alive");
        assert_eq!(hear(&b, &a, &announced, at(1200)), 1);
        assert!(is_heeded(&a.heard(&asks(&b, "a"), at(1300))));
        // What was meant for one node is not for another.
        assert_eq!(c.heard(&asks(&b, "a"), at(1300)), News::None);
    }

    #[test]
    fn silence_is_death_but_only_as_far_as_it_could_be_heard() {
        let (a, b) = pair();
        a.heard(&says(&b, "alive"), at(100));
        assert_eq!(a.judged_at(), Some(at(3100)));
        assert!(!a.judge(at(3099)));
        assert_eq!(names(&a), ["b"]);
        // The link was lost, and is back.
        a.is_deaf();
        assert!(!a.judge(at(9000)));
        a.hears(at(9000));
        assert!(!a.judge(at(11_999)));
        assert_eq!(names(&a), ["b"]);
        a.is_used();
        a.begins_to_clean();
        assert!(a.judge(at(12_000)));
        assert!(a.is_alone() && a.duties(at(12_000)).must_clean);
    }

    #[test]
    fn what_others_should_know_at_once_is_said_once() {
        let a = node("a", 1);
        assert!(!a.take_must_speak());
        a.speaks_up();
        assert!(a.take_must_speak() && !a.take_must_speak());
    }

    #[test]
    fn a_namesake_is_who_answers_and_not_who_once_did() {
        let (a, namesake, later) = (node("a", 1), node("a", 2), node("a", 9));
        let complained_of = |node: &Nodes| node.namesake.load(Ordering::Relaxed);
        let alive = says(&namesake, "alive");
        assert!(matches!(a.heard(&alive, at(1)), News::Introduce(_)), "it is asked");
        assert_eq!(complained_of(&a), 0, "that may have been recorded");
        let said = says(&a, "alive");
        let News::Introduce(whom) = namesake.heard(&said, at(2)) else { panic!("it answers") };
        let met = namesake.introduce(&whom, LOAD, at(2));
        a.heard(&met, at(2));
        assert_eq!(complained_of(&a), 2);
        // The answer was given to another life of this node.
        later.heard(&met, at(3));
        assert_eq!(complained_of(&later), 0);
        assert!(a.is_alone() && later.is_alone(), "it is no other node");
    }

    #[test]
    fn the_echo_of_its_own_words_shows_a_node_that_it_can_talk() {
        let (a, namesake) = (node("a", 1), node("a", 2));
        assert!(!a.can_talk(at(0)));
        a.heard(&says(&namesake, "alive"), at(1));
        assert!(!a.can_talk(at(1)), "that was somebody else");
        a.heard(&says(&a, "alive"), at(2));
        assert!(a.can_talk(at(2)) && !a.knows_all(at(2)) && a.is_alone());
        assert!(a.knows_all(at(3000)) && a.can_talk(at(60_000)), "who is alone says it once");
        let b = node("b", 1);
        hear(&a, &b, &says(&b, "alive"), at(60_000));
        assert!(!a.can_talk(at(60_000)), "who is not is heard with every heartbeat");
        a.heard(&says(&a, "alive"), at(60_000));
        assert!(a.can_talk(at(60_000)) && !a.can_talk(at(63_000)));
        a.subscribes(99);
        assert!(!a.can_talk(at(60_001)));
    }

    #[test]
    fn one_leads_also_while_two_believe_they_do() {
        let (a, b, c) = (node("a", 1), node("b", 1), node("c", 1));
        a.heard(&says(&a, "alive"), at(0));
        assert_eq!(a.leader(at(0)).as_deref(), Some("a"), "who is alone leads");
        b.leads_until(Some(at(3000)), at(0));
        hear(&a, &b, &says(&b, "alive"), at(10));
        assert_eq!(a.leader(at(10)).as_deref(), Some("b"));
        assert!(a.duties(at(10)).is_led && !a.duties(at(10)).must_clean);
        c.leads_until(Some(at(9000)), at(3100));
        hear(&a, &c, &c.presence("alive", LOAD, at(3100)), at(3100));
        assert_eq!(a.leader(at(3100)).as_deref(), Some("c"), "the one who took over last");
        a.heard(&b.presence("alive", LOAD, at(3200)), at(3200));
        assert_eq!(a.leader(at(3200)).as_deref(), Some("c"), "whose lease has ended says so");
        assert!(a.leads_until(Some(at(6000)), at(3300)));
        assert_eq!(a.leader(at(3300)).as_deref(), Some("a"));
        assert!(!a.leads_until(Some(at(7000)), at(3400)) && a.duties(at(3400)).leads);
        assert_eq!(a.leader(at(7000)).as_deref(), Some("c"));
    }

    #[test]
    fn a_node_of_a_form_that_one_of_us_does_not_understand_is_known_as_such() {
        let (a, seal) = (node("a", 1), Seal::default());
        let mut body = Vec::new();
        encode_command(&["meet", "format", "2", "reads", "2", "and", "more", "knows", "1", "odd one out"], &mut body);
        let hearing = a.lock().hearing;
        let to = Some(Addressee { id: "a", hearing });
        let letter = Letter { from: "new", instance: 1, hearing: 1, number: 1, to, body: &body };
        assert_eq!(a.heard(&seal.close(&letter), at(0)), News::None);
        assert!(!a.peers()[0].1.is_understood);
        let wrong_hearing = Some(Addressee { id: "a", hearing: hearing + 1 });
        for odd in [
            Letter { from: "", ..letter.clone() },
            Letter { from: "con\ntrol", ..letter.clone() },
            Letter { from: &"x".repeat(300), ..letter.clone() },
            Letter { from: "other", to: wrong_hearing, ..letter.clone() },
            Letter { from: "other", to: None, ..letter.clone() },
            Letter { from: "other", body: b"", ..letter.clone() },
        ] {
            assert_eq!(a.heard(&seal.close(&odd), at(0)), News::None, "{odd:?}");
        }
        for odd in [&b""[..], b"*1\r\n$5\r\nalive\r\n", b"*9\r\n", b"hello"] {
            assert_eq!(a.heard(odd, at(0)), News::None);
        }
        assert_eq!(names(&a), ["new"]);
    }

    #[test]
    fn however_many_call_themselves_nodes_memory_and_answers_stay_bounded() {
        let a = node("a", 1);
        let mut introductions = 0;
        for number in 0..2 * NODES_MAX {
            let other = node(&format!("n{number}"), 1);
            introductions += hear(&a, &other, &says(&other, "alive"), at(0));
        }
        assert_eq!(a.peers().len(), NODES_MAX);
        assert_eq!(introductions, 2 * NODES_MAX);
    }
}
