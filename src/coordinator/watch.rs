//! Drives the watch link: looks at the keys that somebody waits for, hears when they change, and hears the other nodes.
//!
//! A look is `GET`, `PTTL` and `HGET` in one go; the `GET` makes the upstream tell, once, when the key changes, and then the key is
//! looked at again. What is told is at most a hint that saves time: a key that cannot be watched is looked at now and then by its
//! line, and the timer at the known end of the lease runs in any case.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::fit::Part;
use super::nodes::{self, Introduction, News};
use super::peers::{Message, channel_of};
use super::presence::Load;
use super::{Coordinator, seen};
use crate::domain::{Db, LockKey, Moment};
use crate::locks::Event;
use crate::observe::fault::kept_up;
use crate::protocol::frame::{Value, decode};
use crate::store::nodes::registered_call;
use crate::store::value::Fields;
use crate::store::{Held, companion, replication_id};
use crate::upstream::dial::DialError;
use crate::upstream::links::Links;
use crate::upstream::misfit::{self, Misfit};
use crate::upstream::router::Router;
use crate::upstream::watch::{Heard, WatchLink};

/// Looks under way at a time; the others wait for their turn.
const LOOKS_MAX: usize = 512;
/// Events that are on their way to the upstream at a time; the others wait for their turn.
const EVENTS_AT_ONCE: usize = 256;
/// Nodes that have gone and are kept in mind.
const NODES_DOWN_MAX: usize = 256;
/// What is heard in one go before anything else is done.
const HEARD_AT_ONCE: usize = 1024;
/// The longest pause between two attempts to connect.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// How often the upstream is pinged while this node is alone and nobody waits, in ms; more often only then.
const QUIET_PING_MS: u64 = 3000;
/// After how long a refused CLIENT TRACKING or SUBSCRIBE is tried again: an ACL may have changed.
const REFUSED_FOR_MS: u64 = 60_000;

/// A key as the watch link saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The whole value; `None` where the key is free, or holds no string.
    pub value: Option<Arc<[u8]>>,
    /// It holds something else than a string, which is no lock.
    pub is_other_type: bool,
    /// The rest of its lease in ms; `None` where it has no expiry.
    pub left_ms: Option<u64>,
    /// What this node has registered in the key's queue.
    pub registered: Option<Vec<u8>>,
}

/// What the replies on the link are about.
enum About {
    /// Nothing that matters.
    Nothing,
    Tracking,
    Subscription,
    Database(Db),
    Value(LockKey),
    Lease,
    Registration,
    Replication {
        asked: Moment,
    },
    Counter,
    Time {
        history: Option<Vec<u8>>,
    },
    Published,
    Event,
    /// A script that does not exist.
    Trial,
    Ping {
        asked: Moment,
    },
    Info,
    SlowLog,
}

/// A look whose first reply has come.
struct Look {
    key: LockKey,
    observed: Observed,
    /// Why it is of no use; `true`: that will pass.
    trouble: Option<bool>,
}

/// Tells everybody, when dropped, that nothing is told any more.
struct OnLoss<'a>(&'a Coordinator);

impl Drop for OnLoss<'_> {
    fn drop(&mut self) {
        self.0.watch_lost();
    }
}

/// How the link ended.
enum End {
    Lost(String),
    /// The node leaves, and has said so.
    Left,
}

/// What is told once, and again only after it was otherwise.
#[derive(Default)]
struct Complaints {
    away: bool,
    tracking: bool,
    talking: bool,
    looking: bool,
    replication: bool,
}

/// What goes on over several links.
#[derive(Default)]
struct Memory {
    complaints: Complaints,
    /// The nodes that were there at the last look.
    nodes: BTreeSet<Arc<str>>,
    /// Those whose going was told.
    nodes_down: BTreeSet<Arc<str>>,
}

impl Coordinator {
    /// Keeps a watch link to the upstream, and this node in touch with the others, until [`Coordinator::leaves`]. One worker runs it,
    /// in its `LocalSet`; if that ends, so does it.
    pub async fn keep_watch(self: Arc<Self>, router: Rc<Router>) {
        // Dropped, it ends them.
        let mut beside = JoinSet::new();
        let (coordinator, with) = (self.clone(), router.clone());
        beside.spawn_local(kept_up("housekeeping among the nodes", async move || {
            coordinator.clone().keep_house(with.clone()).await;
        }));
        let (coordinator, with) = (self.clone(), router.clone());
        beside.spawn_local(kept_up("the search for deadlocks", async move || {
            coordinator.clone().search_for_deadlocks(with.clone()).await;
        }));
        let (coordinator, with) = (self.clone(), router.clone());
        beside.spawn_local(kept_up("telling of leases that end", async move || {
            coordinator.clone().tell_of_expiry(with.clone()).await;
        }));
        if let Some(webhook) = self.settings.webhook.clone() {
            let coordinator = self.clone();
            beside.spawn_local(kept_up("telling of the upstream's health", async move || {
                coordinator.clone().tell_of_health(webhook.clone()).await;
            }));
        }
        let mut memory = Memory::default();
        kept_up("the watch over the upstream", async || self.watch_upstream(&router, &mut memory).await).await;
        drop(beside);
        // Nobody is left to do it.
        drop(self.nodes.take_clean_ups());
        self.lays_down_lead(&router).await;
    }

    /// One watch link after the other, until the node leaves.
    async fn watch_upstream(self: &Arc<Self>, router: &Rc<Router>, memory: &mut Memory) {
        let mut pause = Duration::ZERO;
        while !self.nodes.is_leaving() {
            let links = &router.master();
            match links.dial_watch().await {
                Ok(dialled) => {
                    self.fit.found(Part::Handshake, dialled.is_cluster.then_some(Misfit::Cluster));
                    self.health.is_there();
                    let watch = Watch::new(self, router, links, WatchLink::new(dialled), memory);
                    let begun = self.now();
                    // However the link ends, a panic or the end of this worker's runtime included.
                    let on_loss = OnLoss(self);
                    let end = watch.run().await;
                    drop(on_loss);
                    match end {
                        End::Left => break,
                        End::Lost(why) => {
                            tracing::debug!(%why, "the watch link was lost");
                            if !links.is_former() {
                                self.health.failed(&why, self.now());
                            }
                            if self.now().since_us(begun) > 1_000_000 {
                                pause = Duration::ZERO;
                            }
                        }
                    }
                }
                // The links have said so, and try again as well.
                Err(why @ DialError::Unreachable(_)) => {
                    self.health.failed(&why.to_string(), self.now());
                    tracing::debug!(%why, "no watch link");
                }
                Err(DialError::Refused(line)) => {
                    let misfit = Misfit::of_refusal(links.endpoint(), &line);
                    let why = DialError::Refused(line);
                    self.health.failed(&why.to_string(), self.now());
                    match misfit {
                        Some(misfit) => self.fit.found(Part::Handshake, Some(misfit)),
                        None if std::mem::replace(&mut memory.complaints.away, true) => {}
                        None => {
                            tracing::warn!(%why, "nobody tells of changes to lock keys: waiting ones are looked at twice a second");
                        }
                    }
                }
            }
            // Between half and the whole pause, so that the nodes do not come back as one.
            let sleep = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            tokio::select! {
                biased;
                () = sleep => {}
                () = self.nodes.leaves.notified() => {}
                () = links.ceases() => {}
            }
            if links.is_former() {
                pause = Duration::ZERO;
                continue;
            }
            let settings = links.settings();
            pause = (pause * 2).clamp(settings.retry_base, settings.retry_max.clamp(settings.retry_base, REDIAL_MAX));
        }
    }

    /// The node is about to end: the others are told, and [`Coordinator::keep_watch`] ends.
    pub fn leaves(&self) {
        self.nodes.begins_to_leave();
    }

    /// How often the watch link has looked at a key, ever.
    pub fn looks(&self) -> u64 {
        self.desk.looks()
    }

    /// Somebody begins to wait for `key`: its changes are to be told.
    pub(super) fn want(&self, key: &LockKey) {
        self.desk.want(
            key,
            |key| self.is_awaited(key),
            |is_watched| match is_watched {
                true => self.shards.tell(key, Event::Watched, self.now()),
                false => self.unwatched(key),
            },
        );
    }

    /// The watch link has seen `key`. Its next change will be told.
    fn observed(&self, key: &LockKey, observed: Observed) {
        let registered = observed.registered.as_deref().and_then(registered_call);
        let is_data = observed.is_other_type
            || observed.value.as_ref().is_some_and(|value| {
                let is_bare = observed.left_ms.is_none() && Fields::read(value).is_none();
                is_bare && !self.settings.lock_keys.matches(&key.name)
            });
        self.saw_holder(key, observed.value.as_deref());
        let seen = observed.value.map(|value| seen(&self.store, Held { value, left_ms: observed.left_ms }));
        self.shards.tell(key, Event::Observed { seen, registered }, self.now());
        if is_data {
            // Whoever waits for it is told by the script that will now look.
            self.hint(key);
        }
    }

    /// Nothing is told any more of what changes, nor of other nodes.
    fn watch_lost(&self) {
        self.nodes.is_deaf();
        self.nodes.talk.drop_mail();
        self.desk.lost(|key| self.unwatched(key));
    }

    /// A line that knows already is not bothered: it would look at once.
    fn unwatched(&self, key: &LockKey) {
        if self.shards.read(key, |line| line.is_watched()).unwrap_or(false) {
            self.shards.tell(key, Event::Unwatched, self.now());
        }
    }

    fn is_awaited(&self, key: &LockKey) -> bool {
        self.shards.read(key, |line| line.waiting() > 0).unwrap_or(false)
    }

    pub(super) fn load(&self) -> Load {
        let (ahead_us, fence) = (self.store.ahead_us(), self.store.fence_max());
        let (waiters, locks) = (self.shards.waiting(), self.tied.count() as u64);
        Load { waiters, locks, ahead_us, fence, listens: self.events.mask_here() }
    }
}

/// The number of the newest entry of the slow log, -1 where there is none; `None` where it is not told.
fn newest_slow(reply: Option<&Value<'_>>) -> Option<i64> {
    let entries = reply?.as_array()?;
    match entries.first() {
        Some(newest) => newest.as_array()?.first()?.as_integer(),
        None => Some(-1),
    }
}

struct Watch<'a> {
    coordinator: &'a Arc<Coordinator>,
    router: &'a Rc<Router>,
    links: &'a Rc<Links>,
    link: WatchLink<About>,
    memory: &'a mut Memory,
    /// The database in which what is sent runs …
    db: Option<Db>,
    /// … and in which what is answered has run.
    answered_db: Option<Db>,
    /// Whether changes are told; `None` until the upstream has said so.
    is_tracking: bool,
    /// They are told only where somebody may wait for them.
    has_asked_for_changes: bool,
    /// Whether other nodes are heard; `None` until the upstream has said so.
    is_subscribed: bool,
    /// When what was refused is tried again.
    retry_at: Option<Moment>,
    looks: usize,
    /// Events that were published and not confirmed yet.
    events_sent: usize,
    look: Option<Look>,
    last_beat: Moment,
    asked_master: Moment,
    has_met_master: bool,
    /// It may become another master, and nothing would be told of that: it is asked with every heartbeat.
    is_master_in_doubt: bool,
}

impl<'a> Watch<'a> {
    fn new(
        coordinator: &'a Arc<Coordinator>,
        router: &'a Rc<Router>,
        links: &'a Rc<Links>,
        link: WatchLink<About>,
        memory: &'a mut Memory,
    ) -> Self {
        let db = Some(links.default_db());
        Watch {
            coordinator,
            router,
            links,
            link,
            memory,
            db,
            answered_db: db,
            is_tracking: false,
            has_asked_for_changes: false,
            is_subscribed: false,
            retry_at: None,
            looks: 0,
            events_sent: 0,
            look: None,
            last_beat: coordinator.now(),
            asked_master: Moment::default(),
            has_met_master: false,
            is_master_in_doubt: true,
        }
    }

    async fn run(mut self) -> End {
        let coordinator = self.coordinator;
        let nodes = &coordinator.nodes;
        self.link.send(&[b"CLIENT", b"SETNAME", b"lockgate-watch"], About::Nothing);
        // Fences that run ahead of the clock are to go on above those that others gave.
        self.link.send(&[b"GET", companion::FENCE_COUNTER], About::Counter);
        self.ask_for_news();
        self.ask_for_master();
        self.try_scripts();
        loop {
            if nodes.is_leaving() {
                return self.leave().await;
            }
            if nodes.is_in_use() && !self.has_asked_for_changes {
                self.ask_for_changes();
            }
            self.send_looks();
            #[cfg(test)]
            crate::observe::fault::failpoint::pass("the watch over the upstream");
            while let Some(parcel) = nodes.talk.take_mail() {
                if let Some(message) = nodes.tell(&parcel.to, &parcel.body) {
                    self.publish(&channel_of(&parcel.to), &message);
                }
            }
            if nodes.take_must_speak() && !nodes.is_alone() {
                self.say("alive");
            }
            self.send_events();
            let now = coordinator.now();
            self.ask_how_it_is(now);
            if self.retry_at.is_some_and(|at| at <= now) {
                self.retry_at = None;
                self.ask_for_news();
            }
            let next_beat = self.last_beat.plus_ms(self.beat_every_ms());
            if next_beat <= now {
                self.beat();
                continue;
            }
            // Unless the question is out already whose reply decides it.
            let judged_at = nodes.judged_at().filter(|at| self.asked_master < *at);
            let wake_at = judged_at.map_or(next_beat, |at| at.min(next_beat));
            tokio::select! {
                biased;
                heard = self.link.hear() => {
                    if let Err(why) = heard.and_then(|heard| self.understand_all(heard)) {
                        return End::Lost(why);
                    }
                }
                () = coordinator.sleep_until(wake_at) => {
                    // Asked when nothing is left to hear: this node itself may have stood still.
                    if self.is_silent() {
                        return End::Lost("the upstream is silent".into());
                    }
                    if wake_at < next_beat {
                        // Somebody may have died: the reply shows that all was heard that he had said.
                        self.ask_for_master();
                    }
                }
                () = self.links.ceases() => return End::Lost("another server has become the master".into()),
                () = coordinator.desk.wanted() => {}
                () = nodes.talk.has_mail() => {}
                () = coordinator.events.has_more.notified() => {}
                () = coordinator.events.has_changed.notified() => nodes.speaks_up(),
                () = nodes.leaves.notified() => {}
                () = coordinator.store.ahead_grew.notified() => nodes.speaks_up(),
                () = coordinator.health.wanted() => {}
                () = coordinator.store.master_doubted.notified() => {
                    self.has_met_master = false;
                    self.ask_for_master();
                }
            }
        }
    }

    /// The upstream is to tell of changes. What happened before would not have been told: it may be another master by now.
    fn ask_for_changes(&mut self) {
        self.has_asked_for_changes = true;
        self.link.send(&[b"CLIENT", b"TRACKING", b"ON"], About::Tracking);
        self.ask_for_master();
    }

    /// The upstream is to tell what other nodes say; these are told that this one is there. What was refused is asked for again.
    fn ask_for_news(&mut self) {
        let coordinator = self.coordinator;
        self.has_asked_for_changes = self.is_tracking;
        if !self.is_subscribed {
            coordinator.nodes.subscribes(coordinator.settings.clock.unix_us());
            let own = channel_of(&coordinator.nodes.me.id);
            self.link.subscribe(&[nodes::CHANNEL, &own], About::Subscription);
            self.say("alive");
        }
    }

    fn is_silent(&self) -> bool {
        let settings = self.links.settings();
        let timeout = Duration::from_millis(self.coordinator.nodes.me.timeout_ms);
        let limit = if settings.reply_timeout.is_zero() { timeout } else { timeout.min(settings.reply_timeout) };
        self.link.due_since().is_some_and(|since| since.elapsed() > limit)
    }

    /// A node that is alone, and on which nobody waits for what the upstream may tell, leaves it in peace.
    fn beat_every_ms(&self) -> u64 {
        let coordinator = self.coordinator;
        let heartbeat_ms = coordinator.nodes.me.heartbeat_ms;
        let is_settled = !self.is_master_in_doubt && coordinator.fit.is_good();
        let is_quiet = coordinator.nodes.is_alone() && is_settled && coordinator.shards.waiting() == 0;
        if is_quiet { heartbeat_ms.max(QUIET_PING_MS) } else { heartbeat_ms }
    }

    /// The heartbeat: this node tells the others that it lives, and asks the upstream whether it does. Where there are others, their
    /// fences may be lost with a failover: it asks whether it is still the same master as well.
    fn beat(&mut self) {
        self.last_beat = self.coordinator.now();
        let is_alone = self.coordinator.nodes.is_alone();
        if !is_alone {
            self.say("alive");
        }
        // Those who wait are not to wait for a server that has become a replica.
        let is_quiet = is_alone && !self.is_master_in_doubt && self.coordinator.shards.waiting() == 0;
        if !self.coordinator.fit.is_good() {
            self.try_scripts();
        }
        match is_quiet {
            true => {
                let asked = self.last_beat;
                self.coordinator.health.asks(asked);
                self.link.send(&[b"PING"], About::Ping { asked });
            }
            false => self.ask_for_master(),
        }
        self.coordinator.desk.beat();
    }

    /// Whether the upstream lets this user run scripts.
    fn try_scripts(&mut self) {
        self.link.send(&misfit::trial(), About::Trial);
    }

    /// What the upstream tells of itself, where somebody wants to know and has not asked just now.
    fn ask_how_it_is(&mut self, now: Moment) {
        let Some(questions) = self.coordinator.health.questions(now) else { return };
        if questions.info {
            self.link.send(&[b"INFO"], About::Info);
        }
        if questions.slow {
            self.link.send(&[b"SLOWLOG", b"GET", b"1"], About::SlowLog);
        }
    }

    fn say(&mut self, word: &str) {
        let coordinator = self.coordinator;
        let presence = coordinator.nodes.presence(word, coordinator.load(), coordinator.now());
        self.publish(nodes::CHANNEL, &presence);
    }

    fn introduce(&mut self, whom: &Introduction) {
        let coordinator = self.coordinator;
        let message = coordinator.nodes.introduce(whom, coordinator.load(), coordinator.now());
        self.publish(&channel_of(&whom.to), &message);
    }

    /// Publishes what has happened, as far as there is room for more.
    fn send_events(&mut self) {
        let events = self.coordinator.events.clone();
        while self.events_sent < EVENTS_AT_ONCE
            && let Some(event) = events.take()
        {
            for channel in event.channels(&events) {
                self.link.send(&[b"PUBLISH", &channel, event.text.as_bytes()], About::Event);
                self.events_sent += 1;
            }
        }
    }

    /// Who listens on other nodes, and which of them have come and gone.
    fn look_at_nodes(&mut self) {
        let coordinator = self.coordinator;
        coordinator.events.is_heard_elsewhere(coordinator.nodes.listening());
        let names = coordinator.nodes.names();
        let known = &mut self.memory.nodes;
        if names != *known {
            let at_ms = coordinator.unix_us_at(coordinator.now()) / 1000;
            for peer in names.difference(known) {
                // Those that were there before this node came have not come.
                if self.memory.nodes_down.remove(peer) || coordinator.nodes.came_after_this(peer) {
                    coordinator.events.node_happens("node_up", peer, at_ms);
                }
            }
            for peer in known.difference(&names) {
                coordinator.events.node_happens("node_down", peer, at_ms);
                if self.memory.nodes_down.len() < NODES_DOWN_MAX {
                    self.memory.nodes_down.insert(peer.clone());
                }
            }
            *known = names;
        }
    }

    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.link.send(&[b"PUBLISH", channel, message], About::Published);
    }

    fn ask_for_master(&mut self) {
        self.asked_master = self.coordinator.now();
        self.coordinator.health.asks(self.asked_master);
        self.link.send(&[b"INFO", b"replication"], About::Replication { asked: self.asked_master });
    }

    async fn leave(mut self) -> End {
        if !self.coordinator.nodes.is_alone() {
            self.say("bye");
        }
        // The last word is out when everything was answered.
        while self.link.due_since().is_some() {
            match self.link.hear().await {
                Ok(_) => {}
                Err(why) => return End::Lost(why),
            }
        }
        End::Left
    }

    // ---- Keys.

    /// Looks at what is wanted, as far as there is room for more looks.
    fn send_looks(&mut self) {
        if !self.is_tracking {
            return;
        }
        let coordinator = self.coordinator;
        while self.looks < LOOKS_MAX
            && let Some(key) = coordinator.desk.next(|key| coordinator.is_awaited(key))
        {
            if self.db != Some(key.db) {
                self.link.send(&[b"SELECT", key.db.to_string().as_bytes()], About::Database(key.db));
                self.db = Some(key.db);
            }
            let queue = companion::queue(&key);
            self.link.send(&[b"GET", &key.name], About::Value(key.clone()));
            self.link.send(&[b"PTTL", &key.name], About::Lease);
            self.link.send(&[b"HGET", &queue, coordinator.nodes.me.id.as_bytes()], About::Registration);
            self.looks += 1;
        }
    }

    /// The first reply of a look.
    fn value_came(&mut self, key: LockKey, reply: Option<&Value<'_>>) {
        self.coordinator.desk.armed(&key);
        let mut observed = Observed { value: None, is_other_type: false, left_ms: None, registered: None };
        let mut trouble = None;
        match reply {
            // It ran in another database than it was meant for.
            _ if self.answered_db != Some(key.db) => trouble = Some(false),
            Some(Value::Null) => {}
            Some(Value::Bulk(value)) => observed.value = Some((*value).into()),
            Some(Value::Error(line)) if line.starts_with(b"WRONGTYPE") => observed.is_other_type = true,
            other => trouble = Some(self.complain_of_look(other)),
        }
        self.look = Some(Look { key, observed, trouble });
    }

    fn lease_came(&mut self, reply: Option<&Value<'_>>) {
        let lease = match reply {
            Some(Value::Integer(left)) => Ok(*left),
            other => Err(self.complain_of_look(other)),
        };
        let Some(look) = &mut self.look else { return };
        match lease {
            // Gone between the two commands.
            Ok(-2) => look.observed.value = None,
            Ok(left) => look.observed.left_ms = u64::try_from(left).ok(),
            Err(trouble) => look.trouble = look.trouble.or(Some(trouble)),
        }
    }

    /// The last reply of a look.
    fn registration_came(&mut self, reply: Option<&Value<'_>>) {
        let registered = match reply {
            Some(Value::Bulk(registered)) => Ok(Some(registered.to_vec())),
            Some(Value::Null) => Ok(None),
            // Somebody has put something else in its place, which the next script puts right.
            Some(Value::Error(line)) if line.starts_with(b"WRONGTYPE") => Ok(None),
            other => Err(self.complain_of_look(other)),
        };
        self.looks = self.looks.saturating_sub(1);
        let Some(Look { key, mut observed, mut trouble }) = self.look.take() else { return };
        match registered {
            Ok(registered) => observed.registered = registered,
            Err(passes) => trouble = trouble.or(Some(passes)),
        }
        match trouble {
            None => {
                self.coordinator.desk.looked(&key);
                self.coordinator.observed(&key, observed);
            }
            Some(passes) => {
                self.coordinator.desk.failed(&key, passes);
                self.coordinator.unwatched(&key);
            }
        }
    }

    /// Why a look brought nothing; `true` where that will pass.
    fn complain_of_look(&mut self, reply: Option<&Value<'_>>) -> bool {
        const PASSING: [&[u8]; 5] = [b"LOADING", b"MASTERDOWN", b"BUSY", b"CLUSTERDOWN", b"TRYAGAIN"];
        let line = reply.and_then(Value::as_error).unwrap_or(b"a reply that makes no sense");
        let passes = PASSING.iter().any(|code| line.starts_with(code));
        if !passes && !std::mem::replace(&mut self.memory.complaints.looking, true) {
            tracing::warn!(
                upstream = %line.escape_ascii(),
                "a waited-for lock cannot be watched, so it is looked at twice a second; see 'What nodes share' in docs/operations.md"
            );
        }
        passes
    }

    // ---- What is heard.

    fn understand_all(&mut self, first: Heard<About>) -> Result<(), String> {
        self.understand(first);
        for _ in 0..HEARD_AT_ONCE {
            match self.link.heard_already()? {
                Some(heard) => self.understand(heard),
                None => break,
            }
        }
        Ok(())
    }

    fn understand(&mut self, heard: Heard<About>) {
        let desk = &self.coordinator.desk;
        match heard {
            Heard::Reply(about, raw) => {
                let reply = raw.as_deref().and_then(|raw| decode(raw).ok());
                self.reply_came(about, reply.as_ref());
            }
            Heard::Changed(names) => {
                for name in names {
                    match companion::queued_name(&name) {
                        Some(lock) => desk.queue_changed(lock),
                        None => desk.lock_changed(&name),
                    }
                }
            }
            Heard::AllChanged => {
                desk.all_changed();
                // A flush, or the data of another master.
                self.ask_for_master();
            }
            Heard::Message { payload, .. } => self.message_came(&payload),
        }
    }

    /// A node has said something.
    fn message_came(&mut self, message: &[u8]) {
        let coordinator = self.coordinator;
        match coordinator.nodes.heard(message, coordinator.now()) {
            News::None => {}
            News::Introduce(whom) => self.introduce(&whom),
            News::Talk { from, body } => return self.talk_came(from, body),
        }
        self.look_at_nodes();
        // Who began after a failover, or heard of it later, goes on above what the others gave since, and gave before it.
        let (store, nodes) = (&coordinator.store, &coordinator.nodes);
        store.met_ahead(nodes.ahead_us(), store.upstream_us());
        store.met_fence(nodes.fence(), store.upstream_us());
    }

    fn talk_came(&mut self, from: &str, body: &[u8]) {
        let (coordinator, talk) = (self.coordinator, &self.coordinator.nodes.talk);
        match Message::read(from, body) {
            Some(Message::Answer { number, words }) => talk.answered(from, number, words),
            Some(Message::Ask(asked)) => {
                let router = self.router;
                let words = coordinator.answer(&asked, || router.service(asked.key.db));
                if let Some(words) = words {
                    talk.answer(&asked.from, asked.number, &words);
                }
            }
            None => {}
        }
    }

    fn reply_came(&mut self, about: About, reply: Option<&Value<'_>>) {
        let now = self.coordinator.now();
        let refusal = reply.and_then(Value::as_error);
        match about {
            About::Nothing => {}
            About::Event => self.events_sent = self.events_sent.saturating_sub(1),
            About::Tracking => {
                self.is_tracking = refusal.is_none();
                let complained = std::mem::replace(&mut self.memory.complaints.tracking, !self.is_tracking);
                if let (Some(line), false) = (refusal, complained) {
                    tracing::warn!(
                        upstream = %line.escape_ascii(),
                        "the upstream does not tell of changes (CLIENT TRACKING): waited-for locks are looked at twice a second"
                    );
                }
                self.refused_until_later(refusal.is_some(), now);
                if self.is_tracking {
                    self.memory.complaints.away = false;
                }
            }
            About::Subscription => {
                self.is_subscribed = refusal.is_none();
                match refusal {
                    None => self.coordinator.nodes.hears(now),
                    Some(line) => self.complain_of_talk(line),
                }
                self.refused_until_later(refusal.is_some(), now);
            }
            About::Published => {
                if let Some(line) = refusal {
                    self.complain_of_talk(line);
                }
            }
            About::Trial => {
                self.coordinator.fit.found(Part::Scripts, refusal.and_then(Misfit::of_trial));
            }
            About::Database(db) => {
                self.answered_db = refusal.is_none().then_some(db);
                if let Some(line) = refusal {
                    tracing::debug!(db, upstream = %line.escape_ascii(), "a database cannot be watched");
                    self.db = None;
                }
            }
            About::Value(key) => self.value_came(key, reply),
            About::Lease => self.lease_came(reply),
            About::Registration => self.registration_came(reply),
            About::Ping { asked } => self.coordinator.health.answered(asked, now),
            About::Info => {
                let told = reply.and_then(Value::as_bytes).map(String::from_utf8_lossy);
                self.coordinator.health.told(told.as_deref(), now);
            }
            About::SlowLog => self.coordinator.health.told_slow(newest_slow(reply), now),
            About::Counter => {
                let fence =
                    reply.and_then(Value::as_bytes).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                if let Some(fence) = fence {
                    self.coordinator.store.met_fence(fence, self.coordinator.store.upstream_us());
                }
            }
            About::Replication { asked } => self.replication_came(reply, asked),
            About::Time { history } => {
                let time_us = reply.and_then(Value::as_array).and_then(|time| match time {
                    [seconds, micros] => {
                        let [seconds, micros] = [seconds, micros].map(|part| u64::try_from(part.as_integer()?).ok());
                        seconds?.checked_mul(1_000_000)?.checked_add(micros?)
                    }
                    _ => None,
                });
                let store = &self.coordinator.store;
                if let Some(time_us) = time_us {
                    store.met_time(time_us);
                }
                store.met_history(history.as_deref(), store.upstream_us());
            }
        }
    }

    fn refused_until_later(&mut self, is_refused: bool, now: Moment) {
        if is_refused {
            self.retry_at = Some(now.plus_ms(REFUSED_FOR_MS));
        }
    }

    fn complain_of_talk(&mut self, line: &[u8]) {
        if !std::mem::replace(&mut self.memory.complaints.talking, true) {
            tracing::warn!(
                upstream = %line.escape_ascii(),
                "nodes cannot talk over this upstream (PUBLISH and SUBSCRIBE on lockgate:*): this one does not know of others"
            );
        }
    }

    /// Doubles as the answer to the ping: all that was published before has been heard by now.
    fn replication_came(&mut self, reply: Option<&Value<'_>>, asked: Moment) {
        self.coordinator.health.answered(asked, self.coordinator.now());
        if self.coordinator.nodes.judge(asked) && self.coordinator.nodes.is_alone() {
            // Once more before it falls silent: who only stood still, and takes this node for dead as well, will answer.
            self.say("alive");
        }
        self.look_at_nodes();
        let text = reply.and_then(Value::as_bytes);
        if text.is_none() && !std::mem::replace(&mut self.memory.complaints.replication, true) {
            let line = reply.and_then(Value::as_error).unwrap_or_default();
            tracing::warn!(
                upstream = %line.escape_ascii(),
                "INFO replication is refused: a failover is noticed only when the link to the old master breaks"
            );
        }
        // A replica may be promoted behind a standing link; who refuses to tell will not tell later.
        let is_master =
            text.is_some_and(|text| text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"role:master")));
        if let Some(text) = text {
            self.coordinator.fit.found(Part::Role, Misfit::of_role(text));
        }
        let is_refused = reply.and_then(Value::as_error).is_some_and(|line| line.starts_with(b"NOPERM"));
        self.is_master_in_doubt = !is_master && !is_refused;
        let history = text.and_then(replication_id);
        if !self.has_met_master || !self.coordinator.store.knows_history(history) {
            self.has_met_master = true;
            self.link.send(&[b"TIME"], About::Time { history: history.map(<[u8]>::to_vec) });
        }
    }
}
