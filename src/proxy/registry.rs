//! Every client of the process, whichever worker serves it: what `CLIENT LIST` shows, and how one client reaches
//! another (`CLIENT KILL`, `CLIENT UNBLOCK`).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::commands::Why;
use crate::domain::{Db, Resp};

/// What another client (or the drain) wants of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Wish {
    /// Go on.
    None = 0,
    /// Close the connection.
    Kill,
    /// End the wait as if its time were up.
    UnblockTimeout,
    /// End the wait with `-UNBLOCKED`.
    UnblockError,
}

impl Wish {
    fn from_number(number: u8) -> Wish {
        match number {
            1 => Wish::Kill,
            2 => Wish::UnblockTimeout,
            3 => Wish::UnblockError,
            _ => Wish::None,
        }
    }
}

/// What changes seldom about a client.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_ver: Vec<u8>,
    /// `CLIENT CAPA redirect`.
    pub can_redirect: bool,
    /// The user it authenticated as; `default` until then.
    pub user: Vec<u8>,
    /// Logical database.
    pub db: Db,
    /// Protocol.
    pub resp: Resp,
}

/// What is known of one client.
pub struct Card {
    /// Lockgate's own number for it; never used twice by a process.
    pub id: u64,
    /// `ip:port`, or the path of a unix socket with `:0`.
    pub peer: String,
    /// Its address on our side.
    pub local: String,
    /// Its address without the port; `None` on a unix socket.
    pub address: Option<IpAddr>,
    /// Number of the file.
    pub fd: i32,
    /// When it connected.
    pub since: Instant,
    /// Came over a unix socket.
    pub is_unix: bool,
    profile: Mutex<Profile>,
    /// Milliseconds after `since` at which it last sent something.
    last_ms: AtomicU64,
    /// Milliseconds after `since` at which it was last seen doing something that may take its time.
    busy_ms: AtomicU64,
    /// It seems to have sent nothing for too long; its session knows more.
    is_idle: AtomicBool,
    last_command: [AtomicU64; 2],
    /// How many commands it has sent, by [`Path`].
    commands: [AtomicU64; Path::NAMES.len()],
    wish: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// What the upstream calls its own link; 0 while it has none.
    upstream_id: AtomicU64,
    /// How many clients do something upstream to that link, known by its number.
    pins: AtomicU32,
    /// Another client's invalidations come over it, so that it is kept, and taken where there is none.
    keeps_link: AtomicBool,
    /// Rings when it has an own link, or will have none.
    link_changed: Notify,
    /// A wait of Lockgate's own (LOCK.*) is under way.
    pub waits_for_lock: AtomicBool,
    /// It has said `QUIT` where no answer was wanted: nothing more is read of it, and it is to close the connection.
    pub is_quitting: AtomicBool,
    /// A blocking command runs on its own link.
    pub is_blocked: AtomicBool,
    /// Channels subscribed to.
    pub subscriptions: AtomicU32,
    /// Patterns subscribed to.
    pub patterns: AtomicU32,
    /// Shard channels subscribed to.
    pub shard_subscriptions: AtomicU32,
    /// Commands queued in MULTI; -1 outside.
    pub multi: AtomicI32,
    /// Commands that Lockgate has queued among them.
    pub markers: AtomicU32,
    /// Keys are watched.
    pub is_watching: AtomicBool,
    /// `MONITOR` runs.
    pub is_monitor: AtomicBool,
    /// `CLIENT TRACKING` is on.
    pub is_tracking: AtomicBool,
    /// A refused `HELLO` may have made it another user, or named it; the upstream was not asked yet.
    pub is_doubted: AtomicBool,
    /// To whom its invalidations go: 0 itself, -1 where nothing is tracked.
    pub redirect: AtomicI64,
}

impl Card {
    /// What changes seldom.
    pub fn profile(&self) -> MutexGuard<'_, Profile> {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It sent a command of that name just now.
    pub fn touch(&self, name: &[u8]) {
        let mut packed = [0u8; 16];
        for (to, from) in packed.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        let (first, second) = packed.split_at(8);
        let number = |half: &[u8]| half.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        self.last_command[0].store(number(first), Ordering::Relaxed);
        self.last_command[1].store(number(second), Ordering::Relaxed);
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// So many commands of it went that way. One session alone counts on a card.
    pub fn counts(&self, path: Path, count: u64) {
        let commands = &self.commands[path as usize];
        commands.store(commands.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The name of its last command, lower case, its first 16 bytes. What no command is called must not break a line of the list.
    pub fn last_command(&self) -> Vec<u8> {
        let halves = self.last_command.iter().flat_map(|half| half.load(Ordering::Relaxed).to_le_bytes());
        let named = halves.take_while(|byte| *byte != 0);
        named.map(|byte| if byte.is_ascii_graphic() { byte } else { b'?' }).collect()
    }

    /// Seconds since it last sent something.
    pub fn idle_s(&self) -> u64 {
        let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        age.saturating_sub(self.last_ms.load(Ordering::Relaxed)) / 1000
    }

    /// It waits, listens or watches, and may be silent meanwhile.
    fn may_be_silent(&self) -> bool {
        let listens = [&self.subscriptions, &self.patterns, &self.shard_subscriptions];
        self.waits_for_lock.load(Ordering::Relaxed)
            || self.is_blocked.load(Ordering::Relaxed)
            || self.is_monitor.load(Ordering::Relaxed)
            || listens.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// It has sent nothing for `limit`, and was not seen doing anything that may take its time.
    pub fn is_idle(&self, limit: Duration) -> bool {
        let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.last_ms.load(Ordering::Relaxed).max(self.busy_ms.load(Ordering::Relaxed));
        self.is_idle.load(Ordering::Relaxed)
            && !self.may_be_silent()
            && u128::from(age.saturating_sub(last)) >= limit.as_millis()
    }

    /// It is busy though it sends nothing.
    pub fn is_busy(&self) {
        let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.busy_ms.store(age, Ordering::Relaxed);
        self.is_idle.store(false, Ordering::Relaxed);
    }

    /// Tells the session's task what somebody wants of it. Nothing overrides [`Wish::Kill`].
    pub fn wish(&self, wish: Wish) {
        self.change_wish(wish);
        self.wake();
    }

    fn change_wish(&self, wish: Wish) {
        let is_final = |present| Wish::from_number(present) == Wish::Kill;
        let change = |present| (!is_final(present)).then_some(wish as u8);
        let _ = self.wish.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }

    /// Wakes the session's task so that it looks around.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake_by_ref();
        }
    }

    /// What somebody wants; an answered wish is [`Card::fulfil`]led.
    pub fn wished(&self) -> Wish {
        Wish::from_number(self.wish.load(Ordering::Acquire))
    }

    /// The wish to unblock was carried out, or came too late.
    pub fn fulfil(&self) {
        self.change_wish(Wish::None);
    }

    /// Its session has taken an own link, which the upstream knows by that number.
    pub fn takes_link(&self, upstream_id: u64) {
        self.upstream_id.store(upstream_id, Ordering::SeqCst);
        self.link_changed.notify_waiters();
    }

    /// Its session can have no own link.
    pub fn has_no_link(&self) {
        self.keeps_link.store(false, Ordering::SeqCst);
        self.link_changed.notify_waiters();
    }

    /// Its session is to have an own link as long as it lives: what comes over it for another client is for nobody else to read.
    pub fn keep_link(&self) {
        self.keeps_link.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// See [`Card::keep_link`].
    pub fn keeps_link(&self) -> bool {
        self.keeps_link.load(Ordering::SeqCst)
    }

    /// What the upstream calls its own link, as soon as it has one; 0 where it cannot have one.
    pub async fn link_comes(&self) -> u64 {
        loop {
            let mut changed = std::pin::pin!(self.link_changed.notified());
            changed.as_mut().enable();
            let upstream_id = self.upstream_id();
            if upstream_id != 0 || !self.keeps_link() {
                return upstream_id;
            }
            changed.await;
        }
    }

    /// Its session parts with its own link. `false` where somebody may be about to do something to it under its number, which must not
    /// hit the next session: then it is to be closed.
    #[must_use]
    pub fn parts_with_link(&self) -> bool {
        // Whoever pins, and whoever kills, looks at the number afterwards: one of the two sees the other.
        self.upstream_id.store(0, Ordering::SeqCst);
        self.pins.load(Ordering::SeqCst) == 0
            && !self.keeps_link()
            && Wish::from_number(self.wish.load(Ordering::SeqCst)) != Wish::Kill
    }

    /// What the upstream calls its own link at this moment; 0 while it has none. No ground for doing anything to it, see [`Card::pin`].
    pub fn upstream_id(&self) -> u64 {
        self.upstream_id.load(Ordering::SeqCst)
    }

    /// Keeps its own link from being lent to another session while something is done to it upstream.
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::SeqCst);
        Pin { upstream_id: self.upstream_id(), card: self.clone() }
    }

    /// The session's task.
    pub fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }
}

/// Which way a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// With others over a shared link.
    Shared,
    /// Over the client's own link, behind others.
    Own,
    /// By itself: what Lockgate answers, and what has to be looked at.
    Single,
}

impl Path {
    /// As metrics name them.
    const NAMES: [&str; 3] = ["shared", "own", "single"];
}

/// An own link that is lent to nobody else; see [`Card::pin`].
pub struct Pin {
    card: Arc<Card>,
    /// What the upstream calls it; 0 where there is none.
    pub upstream_id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.card.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The names of the fields by which an upstream lists a client, in their order.
pub type FieldNames = Arc<[Box<[u8]>]>;

/// What is known of `CLIENT PAUSE` beside its end.
#[derive(Default)]
struct Pauses {
    /// Those of which clients of ours have told.
    count: u64,
    /// How many they were when the upstream was last asked whether they are over.
    looked_at: u64,
    /// Until when nothing at all is answered, as [`Registry::paused_until_ms`].
    of_all_until_ms: u64,
}

impl Pauses {
    fn end(&mut self, paused_until_ms: &AtomicU64) {
        self.of_all_until_ms = 0;
        paused_until_ms.store(0, Ordering::Release);
    }
}

/// Where a client comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `ip:port`, or the path of a unix socket with `:0`.
    pub peer: String,
    /// Its address on our side.
    pub local: String,
    /// Its address without the port; `None` on a unix socket.
    pub address: Option<IpAddr>,
}

/// Why there is no room for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// As many are connected as may be.
    #[error("max number of clients reached")]
    OfAll,
    /// As many are connected from its address as may be.
    #[error("max number of clients reached for your address")]
    OfAddress,
}

/// All clients, and how many there may be.
pub struct Registry {
    clients: DashMap<u64, Arc<Card>>,
    next_id: AtomicU64,
    count: AtomicUsize,
    most: usize,
    /// How many there are from each address, where that is limited.
    of_address: DashMap<IpAddr, usize>,
    most_of_address: usize,
    own_links: [AtomicU64; Why::ALL.len()],
    /// What clients that have gone had sent.
    commands_before: Mutex<[u64; Path::NAMES.len()]>,
    since: Instant,
    /// Milliseconds after `since` until which `CLIENT PAUSE` holds writers back; 0 when nobody paused.
    paused_until_ms: AtomicU64,
    pauses: Mutex<Pauses>,
    list_fields: Mutex<Option<FieldNames>>,
}

impl Registry {
    /// Takes at most `most` clients at a time, and `most_of_address` from one address; 0 is any number of these.
    pub fn new(most: usize, most_of_address: usize) -> Arc<Registry> {
        Arc::new(Registry {
            clients: DashMap::new(),
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            most,
            of_address: DashMap::new(),
            most_of_address,
            own_links: Default::default(),
            commands_before: Mutex::default(),
            since: Instant::now(),
            paused_until_ms: AtomicU64::new(0),
            pauses: Mutex::default(),
            list_fields: Mutex::default(),
        })
    }

    /// A card for a new client, where there is room for it.
    pub fn admit(
        self: &Arc<Self>,
        origin: Origin,
        fd: i32,
        is_unix: bool,
        profile: Profile,
    ) -> Result<Member, TurnedAway> {
        let Origin { peer, local, address } = origin;
        if let Some(address) = address.filter(|_| self.most_of_address > 0) {
            let mut count = self.of_address.entry(address).or_insert(0);
            if *count >= self.most_of_address {
                return Err(TurnedAway::OfAddress);
            }
            *count += 1;
        }
        let taken = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < self.most).then_some(n + 1));
        if taken.is_err() {
            self.leaves(address);
            return Err(TurnedAway::OfAll);
        }
        let card = Arc::new(Card {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            local,
            address,
            fd,
            since: Instant::now(),
            is_unix,
            profile: Mutex::new(profile),
            last_ms: AtomicU64::new(0),
            busy_ms: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
            last_command: Default::default(),
            commands: Default::default(),
            wish: AtomicU8::new(0),
            waker: Mutex::new(None),
            upstream_id: AtomicU64::new(0),
            pins: AtomicU32::new(0),
            keeps_link: AtomicBool::new(false),
            link_changed: Notify::new(),
            waits_for_lock: AtomicBool::new(false),
            is_quitting: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            subscriptions: AtomicU32::new(0),
            patterns: AtomicU32::new(0),
            shard_subscriptions: AtomicU32::new(0),
            multi: AtomicI32::new(-1),
            markers: AtomicU32::new(0),
            is_watching: AtomicBool::new(false),
            is_monitor: AtomicBool::new(false),
            is_tracking: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            redirect: AtomicI64::new(-1),
        });
        self.clients.insert(card.id, card.clone());
        Ok(Member { registry: self.clone(), card })
    }

    /// One less from there.
    fn leaves(&self, address: Option<IpAddr>) {
        if let Some(address) = address.filter(|_| self.most_of_address > 0) {
            self.of_address.alter(&address, |_, count| count - 1);
            self.of_address.remove_if(&address, |_, count| *count == 0);
        }
    }

    /// Tells the sessions of clients that have sent nothing for `limit`.
    pub fn look_for_idle(&self, limit: Duration) {
        for card in self.all() {
            if card.may_be_silent() {
                card.is_busy();
            } else {
                card.is_idle.store(true, Ordering::Relaxed);
                if card.is_idle(limit) {
                    card.wake();
                }
            }
        }
    }

    /// The client of that number.
    pub fn find(&self, id: u64) -> Option<Arc<Card>> {
        self.clients.get(&id).map(|card| card.clone())
    }

    /// All clients in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Card>> {
        let mut cards: Vec<_> = self.clients.iter().map(|entry| entry.value().clone()).collect();
        cards.sort_by_key(|card| card.id);
        cards
    }

    /// Closes the connections of a user that is no more.
    pub fn kill_user(&self, user: &[u8]) {
        tracing::info!(user = %user.escape_ascii(), "the upstream takes this user no more; closing its connections");
        for card in self.all().iter().filter(|card| card.profile().user == user) {
            card.wish(Wish::Kill);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A client of ours has paused the upstream for so long. As there, no pause shortens another one.
    pub fn pause(&self, ms: u64, is_of_all: bool) {
        let mut pauses = self.pauses();
        let until = self.now_ms().saturating_add(ms);
        pauses.count += 1;
        if is_of_all {
            pauses.of_all_until_ms = pauses.of_all_until_ms.max(until);
        }
        self.paused_until_ms.fetch_max(until, Ordering::AcqRel);
    }

    /// A client of ours has ended every pause.
    pub fn unpause(&self) {
        self.pauses().end(&self.paused_until_ms);
    }

    /// Whether nothing at all is answered, as far as is known.
    pub fn is_all_paused(&self) -> bool {
        self.now_ms() < self.pauses().of_all_until_ms
    }

    /// Whether the pauses up to now are over is to be found out, by a command that they hold back: their number, for
    /// [`Registry::pauses_are_over`]. Once for each; and not where nothing at all is answered.
    pub fn looks_at_pauses(&self) -> Option<u64> {
        let mut pauses = self.pauses();
        if pauses.looked_at == pauses.count || self.now_ms() < pauses.of_all_until_ms {
            return None;
        }
        pauses.looked_at = pauses.count;
        Some(pauses.count)
    }

    /// So many pauses were noted when a command was sent that has got through.
    pub fn pauses_are_over(&self, count: u64) {
        let mut pauses = self.pauses();
        if pauses.count == count {
            pauses.end(&self.paused_until_ms);
        }
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether writers are held back upstream, as far as clients of ours had it paused.
    pub fn is_paused(&self) -> bool {
        let until = self.paused_until_ms.load(Ordering::Relaxed);
        until != 0 && self.now_ms() < until
    }

    /// How the upstream lists a client, as far as it has been seen: the names of its fields, in their order.
    pub fn list_fields(&self) -> Option<FieldNames> {
        self.list_fields.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The upstream lists clients by these fields.
    pub fn saw_list_fields(&self, names: FieldNames) {
        *self.list_fields.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }

    /// The client whose own link the upstream knows by that number.
    pub fn find_by_link(&self, upstream_id: u64) -> Option<u64> {
        self.clients.iter().find(|card| card.upstream_id() == upstream_id).map(|card| card.id)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a session that took an own link, by reason.
    pub fn took_own_link(&self, why: Why) {
        self.own_links[why.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Commands of all clients so far, by the way that they went.
    pub fn commands(&self) -> [(&'static str, u64); Path::NAMES.len()] {
        let before = self.commands_before.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = *before;
        for card in &self.clients {
            sums.iter_mut().zip(&card.commands).for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        }
        std::array::from_fn(|path| (Path::NAMES[path], sums[path]))
    }

    /// Sessions that took an own link so far, by reason.
    pub fn own_links_taken(&self) -> impl Iterator<Item = (Why, u64)> + '_ {
        Why::ALL.iter().zip(&self.own_links).map(|(why, count)| (*why, count.load(Ordering::Relaxed)))
    }
}

/// A client's place in the registry; dropping it signs it off.
pub struct Member {
    registry: Arc<Registry>,
    /// Its card.
    pub card: Arc<Card>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // At no moment is one counted twice, or not at all.
        let mut before = self.registry.commands_before.lock().unwrap_or_else(PoisonError::into_inner);
        before.iter_mut().zip(&self.card.commands).for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        self.registry.clients.remove(&self.card.id);
        drop(before);
        self.registry.leaves(self.card.address);
        self.registry.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Registry::new(1, 0).admit(Origin::default(), 0, false, Profile::default()).expect("there is room")
    }

    #[test]
    fn a_name_that_no_command_has_breaks_no_line() {
        let client = member();
        client.card.touch(b"client|cr\r\nlf id");
        assert_eq!(client.card.last_command(), b"client|cr??lf?id");
    }

    #[test]
    fn no_pause_shortens_another_one() {
        let registry = Registry::new(0, 0);
        registry.pause(60_000, true);
        registry.pause(0, false);
        assert!(registry.is_paused());
        registry.unpause();
        assert!(!registry.is_paused());
    }

    #[test]
    fn what_got_through_before_another_pause_does_not_end_that() {
        let registry = Registry::new(0, 0);
        registry.pause(60_000, false);
        let first = registry.looks_at_pauses().expect("nobody has looked yet");
        assert_eq!(registry.looks_at_pauses(), None, "somebody does");
        registry.pause(60_000, false);
        registry.pauses_are_over(first);
        assert!(registry.is_paused());
        let second = registry.looks_at_pauses().expect("there is another one");
        registry.pauses_are_over(second);
        assert!(!registry.is_paused());
        registry.pause(60_000, true);
        assert_eq!(registry.looks_at_pauses(), None, "nobody would be answered");
    }

    #[test]
    fn a_link_that_somebody_acts_on_is_not_lent_on() {
        let member = member();
        let card = &member.card;
        card.takes_link(7);
        let pin = card.pin();
        assert_eq!(pin.upstream_id, 7);
        assert!(!card.parts_with_link(), "while it is pinned");
        drop(pin);
        card.takes_link(8);
        assert!(card.parts_with_link());
        assert_eq!(card.pin().upstream_id, 0);
        card.takes_link(9);
        card.wish(Wish::Kill);
        assert!(!card.parts_with_link(), "its number may be on its way to the upstream");
    }

    #[test]
    fn who_is_to_be_closed_is_not_saved_by_being_unblocked() {
        let member = member();
        member.card.wish(Wish::UnblockError);
        assert_eq!(member.card.wished(), Wish::UnblockError);
        member.card.wish(Wish::Kill);
        for later in [Wish::UnblockTimeout, Wish::UnblockError, Wish::None] {
            member.card.wish(later);
            member.card.fulfil();
            assert_eq!(member.card.wished(), Wish::Kill, "{later:?}");
        }
    }
}
