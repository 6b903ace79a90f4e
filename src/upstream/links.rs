//! One worker's links to the upstream: the shared ones by key, the own ones that wait for their next session, and
//! whether the upstream is there at all.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::Strangers;
use super::alive::LastProof;
use super::call::Caller;
use super::caller::LinkCaller;
use super::dial::{Connector, DialError, DialTerms, Dialled, Greet, Identity, LinkKey, dial, service_credentials};
use super::facts::Facts;
use super::idle::{IdleLinks, OwnPermit, washed};
use super::link::Link;
use super::lost::{LostLinks, Over};
use super::own::OwnLink;
use super::peers::Peers;
use super::pools::{Lane, Pool};
use super::replicas::Waits;
use super::stuck::{Alarm, watch_silence};
use super::url::{Address, Endpoint};
use crate::domain::{Db, Resp};
use crate::observe::fault::kept_up;
use crate::observe::seldom::Seldom;

/// The upstream is tried again at least this often.
pub(super) const RETRY_AT_LEAST: Duration = Duration::from_secs(1);
/// Shared links of one worker from which on each new one closes the one that was idle for longest: users come and go, and each has
/// links of his own.
const SHARED_MAX: usize = 500;
/// Pools of one worker from which on those that nobody uses are forgotten before the next look.
const POOLS_MAX: usize = 1024;
/// What a client hears that has not authenticated.
const NOAUTH: &[u8] = b"-NOAUTH Authentication required.";
/// Why a server that was master is not used any more.
const FORMER: &str = "another server has become the master";
/// What is still owed by a server that was master has so long to come.
const FORMER_GRACE: Duration = Duration::from_millis(500);
/// How often idle links are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How links are made and kept; `[links]` of the configuration.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// Shared links by worker and key.
    pub shared: usize,
    /// Most own links of the whole process.
    pub own_max: usize,
    /// Longest connect; together with `reply_timeout` the longest handshake.
    pub connect_timeout: Duration,
    /// After so long without an answer Lockgate looks whether the upstream is there.
    pub reply_timeout: Duration,
    /// A link unused for so long is closed.
    pub idle_timeout: Duration,
    /// TCP keepalive towards the upstream.
    pub keepalive: Duration,
    /// How long what was not sent yet is held while the upstream is away.
    pub hold: Duration,
    /// First pause between attempts to reach the upstream; it doubles.
    pub retry_base: Duration,
    /// Longest pause, cut at a second.
    pub retry_max: Duration,
    /// The master may become another one, and each link is asked whether it leads to one.
    pub is_followed: bool,
    /// Most replicas that a master of this process has had, as far as anybody has looked.
    pub replicas_seen: Arc<AtomicU64>,
    /// What makes sockets.
    pub connector: Connector,
}

impl LinkSettings {
    /// For a few questions that are to be answered within `limit`.
    pub fn for_questions(limit: Duration) -> LinkSettings {
        LinkSettings {
            shared: 1,
            own_max: 1,
            connect_timeout: limit,
            reply_timeout: limit,
            idle_timeout: Duration::ZERO,
            keepalive: Duration::ZERO,
            hold: Duration::ZERO,
            retry_base: Duration::from_millis(50),
            retry_max: Duration::from_millis(500),
            is_followed: false,
            replicas_seen: Arc::default(),
            connector: Connector::default(),
        }
    }

    /// An upstream that has said nothing at all for so long, neither on a link nor on a new one, is away. A script may keep a server
    /// silent for its `busy-reply-threshold` (5 s), so the sum of both is to be more than that.
    pub fn silence_max(&self) -> Duration {
        self.reply_timeout + self.connect_timeout
    }
}

/// The upstream is away; the text tells what happened and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("UNAVAILABLE {0}; Lockgate keeps trying, ask again later")]
pub struct Unavailable(pub Rc<str>);

/// Why a session gets no link of its own.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OwnError {
    /// As many are in use as the configuration allows.
    #[error(
        "UNAVAILABLE all {0} upstream links of their own are in use by subscribed, blocked or otherwise stateful \
         connections; raise links.own_max"
    )]
    Exhausted(usize),
    /// The upstream is away.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The upstream refused the handshake; its error line without the leading `-`.
    #[error("{}", String::from_utf8_lossy(.0))]
    Refused(Rc<[u8]>),
}

/// Takes the name of a user.
type TellUser = Box<dyn Fn(&[u8])>;
/// Takes the upstream's time, Unix time in µs, where it tells one.
type TellTime = Box<dyn Fn(Option<u64>)>;

/// All links of one worker.
pub struct Links {
    endpoint: Endpoint,
    pub(super) settings: LinkSettings,
    has_credentials: bool,
    scratch: Rc<RefCell<Box<[u8]>>>,
    pub(super) pools: RefCell<HashMap<LinkKey, Rc<Pool>>>,
    pub(super) alarm: Rc<Alarm>,
    idle_own: RefCell<IdleLinks>,
    own_in_use: Arc<AtomicUsize>,
    down: RefCell<Option<Rc<str>>>,
    is_probing: Cell<bool>,
    facts: RefCell<Rc<Facts>>,
    pub(super) strangers: Strangers,
    /// Dials of all workers that reached the upstream: what one worker finds out ends the others' pause, too.
    reached: Arc<AtomicU64>,
    reached_when_down: Cell<u64>,
    /// Rings when the upstream answers after it was away.
    back: Notify,
    lost: Rc<LostLinks>,
    peers: Rc<Peers>,
    pub(super) last_proof: LastProof,
    on_revoked: OnceCell<TellUser>,
    on_dialled: OnceCell<TellTime>,
    on_doubt: OnceCell<Box<dyn Fn()>>,
    /// Another server is master now: nothing is sent here any more.
    is_former: Cell<bool>,
    /// Rings when that comes to be so.
    ceases: Notify,
    /// Who waits for replicas.
    pub(super) waits: Waits,
}

impl Links {
    /// The table of a worker; `own_in_use` and `reached` are shared by all workers. Must run within a `LocalSet`.
    pub(super) fn new(
        endpoint: Endpoint,
        settings: LinkSettings,
        scratch: Rc<RefCell<Box<[u8]>>>,
        own_in_use: Arc<AtomicUsize>,
        reached: Arc<AtomicU64>,
    ) -> Rc<Links> {
        let links = Rc::new(Links {
            peers: Peers::new(settings.keepalive),
            has_credentials: service_credentials(&endpoint).is_some(),
            endpoint,
            settings,
            scratch,
            pools: RefCell::default(),
            alarm: Rc::default(),
            idle_own: RefCell::default(),
            own_in_use,
            down: RefCell::new(None),
            is_probing: Cell::new(false),
            facts: RefCell::new(Rc::new(Facts::before_contact())),
            strangers: Strangers::default(),
            reached,
            reached_when_down: Cell::new(0),
            back: Notify::new(),
            lost: Rc::default(),
            last_proof: LastProof::default(),
            on_revoked: OnceCell::new(),
            on_dialled: OnceCell::new(),
            on_doubt: OnceCell::new(),
            is_former: Cell::new(false),
            ceases: Notify::new(),
            waits: Waits::default(),
        });
        if !links.is_nowhere() {
            links.clone().learns_facts();
        }
        let (weak, alarm, lost) = (Rc::downgrade(&links), links.alarm.clone(), links.lost.clone());
        let (sweeping, ending) = (weak.clone(), weak.clone());
        tokio::task::spawn_local(kept_up("closing idle links", async move || sweep(sweeping.clone()).await));
        tokio::task::spawn_local(kept_up("looking for stuck links", async move || {
            watch_silence(weak.clone(), alarm.clone()).await;
        }));
        tokio::task::spawn_local(kept_up("ending lost links", async move || {
            end_lost(ending.clone(), lost.clone()).await;
        }));
        links
    }

    /// The database that a new connection begins in.
    pub fn default_db(&self) -> Db {
        self.endpoint.db
    }

    /// What is known of the upstream.
    pub fn facts(&self) -> Rc<Facts> {
        self.facts.borrow().clone()
    }

    /// Why the upstream cannot be used, if it cannot.
    pub(super) fn away(self: &Rc<Self>) -> Option<Rc<str>> {
        if self.is_former.get() {
            return Some(FORMER.into());
        }
        let why = self.down.borrow().clone()?;
        if self.reached.load(Ordering::Acquire) != self.reached_when_down.get() {
            self.came_up();
            return None;
        }
        Some(why)
    }

    /// It is not known where it is: whoever knows has said why.
    fn is_nowhere(&self) -> bool {
        matches!(self.endpoint.address, Address::Nowhere(_))
    }

    /// Whether the upstream can be used, as far as is known.
    pub fn is_there(self: &Rc<Self>) -> bool {
        self.away().is_none()
    }

    /// The worker's read buffer.
    pub fn scratch(&self) -> &Rc<RefCell<Box<[u8]>>> {
        &self.scratch
    }

    /// The pool of `key`. Service is Anonymous where the URL has no credentials, so that they share their links.
    pub fn pool(&self, mut key: LinkKey) -> Rc<Pool> {
        if key.identity == Identity::Service && !self.has_credentials {
            key.identity = Identity::Anonymous;
        }
        let mut pools = self.pools.borrow_mut();
        if pools.len() >= POOLS_MAX && !pools.contains_key(&key) {
            pools.retain(|_, pool| pool.close_idle(Duration::MAX));
        }
        pools.entry(key.clone()).or_insert_with(|| Pool::of(key)).clone()
    }

    /// The pool of `key`, if a link of it stands; none is made.
    pub fn standing_pool(&self, key: &LinkKey) -> Option<Rc<Pool>> {
        let mut key = key.clone();
        if key.identity == Identity::Service && !self.has_credentials {
            key.identity = Identity::Anonymous;
        }
        self.pools.borrow().get(&key).filter(|pool| pool.is_open()).cloned()
    }

    /// Lockgate's own pool in `db`.
    pub fn service_pool(&self, db: Db) -> Rc<Pool> {
        self.pool(LinkKey { identity: Identity::Service, db, resp: Resp::V2 }).lane(Lane::Locks)
    }

    /// Makes room for one more shared link: the one that was idle for longest closes. Where none is idle there is one more.
    fn make_room(&self) {
        let (mut count, mut idlest) = (0, None::<Rc<Link>>);
        for pool in self.all_pools() {
            for link in pool.links.borrow().iter().filter(|link| link.is_usable()) {
                count += 1;
                let is_idle = link.is_open() && link.owed_replies() == 0 && link.backlog() == 0;
                if is_idle && idlest.as_ref().is_none_or(|idlest| link.last_used() < idlest.last_used()) {
                    idlest = Some(link.clone());
                }
            }
        }
        if let Some(idlest) = idlest.filter(|_| count >= SHARED_MAX) {
            idlest.retire();
        }
    }

    pub(super) fn open(self: &Rc<Self>, key: LinkKey) -> Rc<Link> {
        self.make_room();
        let link = Link::connecting(&self.alarm);
        let (table, driven) = (self.clone(), link.clone());
        tokio::task::spawn_local(async move {
            let dialling = table.clone();
            let scratch = table.scratch.clone();
            drop(table);
            let (weak, named) = (Rc::downgrade(&dialling), key.clone());
            let dial = async move {
                let dialled = dialling.dial(&key).await?;
                if let Some(tell) = dialling.on_dialled.get() {
                    tell(dialled.time_us);
                }
                Ok(dialled)
            };
            let was_open = driven.drive(dial, scratch).await.is_ok();
            if let (Some(links), Identity::Named(_), true) = (weak.upgrade(), &named.identity, was_open) {
                links.see_whether_revoked(&named).await;
            }
        });
        link
    }

    /// The upstream closes the links of a user that was deleted or lost its password; its sessions go the same way.
    async fn see_whether_revoked(self: &Rc<Self>, key: &LinkKey) {
        if self.is_former.get() {
            return;
        }
        let revoked = matches!(self.dial(key).await, Err(refusal) if refusal.is_of_credentials());
        if let (true, Identity::Named(credentials), Some(tell)) = (revoked, &key.identity, self.on_revoked.get()) {
            tell(credentials.user.as_deref().unwrap_or(b"default"));
        }
    }

    /// Calls `tell` whenever a shared link has been dialled, before anything is sent on it: the upstream may have lost its newest writes
    /// since it was heard last.
    pub fn on_dialled(&self, tell: impl Fn(Option<u64>) + 'static) {
        let _ = self.on_dialled.set(Box::new(tell));
    }

    /// Calls `tell` with the name of a user whose links the upstream has closed and does not take back.
    pub fn on_revoked(&self, tell: impl Fn(&[u8]) + 'static) {
        let _ = self.on_revoked.set(Box::new(tell));
    }

    /// Calls `tell` whenever it is in doubt whether this server is the master.
    pub fn on_doubt(&self, tell: impl Fn() + 'static) {
        let _ = self.on_doubt.set(Box::new(tell));
    }

    fn is_in_doubt(&self) {
        if let Some(tell) = self.on_doubt.get() {
            tell();
        }
    }

    async fn dial(self: &Rc<Self>, key: &LinkKey) -> Result<Dialled, DialError> {
        self.dial_within(key, self.settings.silence_max()).await
    }

    pub(super) async fn dial_within(self: &Rc<Self>, key: &LinkKey, limit: Duration) -> Result<Dialled, DialError> {
        let mut outcome = self.dial_once(key, limit).await;
        if let Ok(dialled) = &outcome
            && matches!(key.identity, Identity::Anonymous | Identity::Stranger)
        {
            self.strangers.has_met(dialled.needs_auth);
            if key.identity == Identity::Stranger && !dialled.needs_auth {
                // It would keep its rights when a password is asked for again.
                self.came_up();
                return Err(DialError::Refused(NOAUTH.into()));
            }
        }
        if let Ok(dialled) = &mut outcome {
            dialled.trail = self.lost.trail(dialled);
            // Nothing is sent before that, and nobody has been told that the upstream is there.
            if let Err(why) = self.end_lost_over(key, dialled).await {
                outcome = Err(why);
            }
        }
        match &outcome {
            // An upstream that refuses is there.
            Ok(_) | Err(DialError::Refused(_)) => self.came_up(),
            Err(DialError::Unreachable(why)) => self.went_down(why),
        }
        outcome
    }

    async fn dial_once(&self, key: &LinkKey, limit: Duration) -> Result<Dialled, DialError> {
        self.dial_and(Greet::Fully, key, limit).await
    }

    pub(super) async fn dial_and(&self, greet: Greet, key: &LinkKey, limit: Duration) -> Result<Dialled, DialError> {
        let LinkSettings { connector, connect_timeout, keepalive, is_followed, .. } = &self.settings;
        let terms = DialTerms { connect: *connect_timeout, answer: limit, masters_only: *is_followed };
        let dialled = dial(&self.endpoint, key, greet, connector, terms, *keepalive).await?;
        self.peers.add(&dialled.writer);
        Ok(dialled)
    }

    /// What was lost with something unanswered on it is ended upstream, under Lockgate's own identity: `dialled` is the proof that the
    /// upstream answers, and serves if nobody has more rights.
    async fn end_lost_over(&self, key: &LinkKey, dialled: &mut Dialled) -> Result<(), DialError> {
        if dialled.needs_auth || !self.lost.are_there() {
            return Ok(());
        }
        let service = LinkKey { identity: Identity::Service, db: self.endpoint.db, resp: Resp::V2 };
        let is_service =
            key.identity == Identity::Service || (key.identity == Identity::Anonymous && !self.has_credentials);
        let has_service = self.has_credentials || !self.auth_required();
        let over = async {
            let own = if is_service || !has_service {
                None
            } else {
                Some(self.dial_once(&service, self.settings.silence_max()).await?)
            };
            Ok(match own.filter(|own| !own.needs_auth) {
                Some(own) => Over::Own(Box::new(own)),
                None => Over::AtHand(dialled),
            })
        };
        let limit = self.settings.silence_max();
        match tokio::time::timeout(limit, self.lost.end(over)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::Unreachable(format!("no answer to CLIENT KILL within {limit:?}").into())),
        }
    }

    /// A connected link for [`super::watch::WatchLink`], under Lockgate's own identity.
    pub async fn dial_watch(self: &Rc<Self>) -> Result<Dialled, DialError> {
        let key = LinkKey { resp: Resp::V3, ..self.service_pool(self.endpoint.db).key().clone() };
        self.dial(&key).await
    }

    /// Where the upstream is, and as whom Lockgate reaches it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How links are made and kept.
    pub fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    pub(super) fn came_up(self: &Rc<Self>) {
        self.reached.fetch_add(1, Ordering::AcqRel);
        if self.down.take().is_some() {
            tracing::info!(upstream = %self.endpoint.address, "the upstream is back");
            self.back.notify_waiters();
            self.clone().learns_facts();
        }
    }

    pub(super) fn went_down(self: &Rc<Self>, why: &Rc<str>) {
        self.is_in_doubt();
        self.reached_when_down.set(self.reached.load(Ordering::Acquire));
        let was_there = self.down.replace(Some(why.clone())).is_none();
        if was_there && !self.is_nowhere() {
            tracing::warn!(upstream = %self.endpoint.address, why = %why, "the upstream is away");
        }
        if !self.is_probing.replace(true) {
            let links = self.clone();
            tokio::task::spawn_local(kept_up("reaching for the upstream", async move || links.probe().await));
        }
    }

    /// Tries to reach the upstream until it answers.
    async fn probe(self: &Rc<Self>) {
        let gone = Instant::now();
        let mut pause = self.settings.retry_base.min(self.knock_pause_max(Duration::ZERO));
        while self.down.borrow().is_some() && !self.is_former.get() {
            // Between half and the whole pause, so that the workers do not knock together.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            #[cfg(test)]
            crate::observe::fault::failpoint::pass("reaching for the upstream");
            let key = self.service_pool(self.endpoint.db).key().clone();
            let _ = self.dial(&key).await;
            pause = (pause * 2).min(self.knock_pause_max(gone.elapsed()));
        }
        self.is_probing.set(false);
    }

    fn learns_facts(self: Rc<Self>) {
        tokio::task::spawn_local(kept_up("asking the upstream for its commands", async move || {
            self.learn_facts().await
        }));
    }

    async fn learn_facts(self: &Rc<Self>) {
        let service = self.caller(&self.service_pool(self.endpoint.db));
        let asked = loop {
            match Facts::ask(&service).await {
                // It has more urgent things to do just now.
                Ok(None) => tokio::time::sleep(RETRY_AT_LEAST).await,
                Ok(Some(facts)) => break Ok(facts),
                Err(why) => break Err(why),
            }
        };
        match asked {
            Ok(facts) => *self.facts.borrow_mut() = Rc::new(facts),
            Err(why) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.happened() {
                    tracing::warn!(%why, times, "the upstream does not tell its commands; the built-in table serves");
                }
            }
        }
    }

    /// Sends single commands over the shared links of `pool`.
    pub fn caller(self: &Rc<Self>, pool: &Rc<Pool>) -> LinkCaller {
        LinkCaller::new(self.clone(), pool.clone())
    }

    /// Resolves when the upstream answers again.
    pub(super) async fn comes_back(self: &Rc<Self>) {
        let back = self.back.notified();
        // Another worker may have found out first.
        if self.away().is_some() {
            back.await;
        }
    }

    /// A connected link for one session alone; fails at once where the upstream is away.
    pub async fn take_own_now(self: &Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        let most = self.settings.own_max;
        let permit = OwnPermit::take(&self.own_in_use, most).ok_or(OwnError::Exhausted(most))?;
        let idle = self.idle_own.borrow_mut().take(key);
        if let Some(mut link) = idle {
            link.is_lent(permit);
            return Ok(link);
        }
        if let Some(why) = self.away() {
            return Err(Unavailable(why).into());
        }
        match self.dial(key).await {
            Ok(dialled) => Ok(OwnLink::new(key.clone(), dialled, Some(permit), Rc::downgrade(self))),
            Err(DialError::Unreachable(why)) => Err(Unavailable(why).into()),
            Err(DialError::Refused(line)) => Err(OwnError::Refused(line.strip_prefix(b"-").unwrap_or(&line).into())),
        }
    }

    /// A connection for one session's whole life, on which nothing is said that its key can do without; fails at once where the
    /// upstream is away. It counts in no limit but that of the clients.
    pub async fn take_bare_now(self: &Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        if let Some(why) = self.away() {
            return Err(Unavailable(why).into());
        }
        // That a socket opens does not show that the upstream answers; that none does shows that it is away.
        match self.dial_and(Greet::Barely, key, self.settings.silence_max()).await {
            Ok(dialled) => Ok(OwnLink::new(key.clone(), dialled, None, Rc::downgrade(self))),
            Err(DialError::Unreachable(why)) => {
                self.went_down(&why);
                Err(Unavailable(why).into())
            }
            Err(DialError::Refused(line)) => Err(OwnError::Refused(line.strip_prefix(b"-").unwrap_or(&line).into())),
        }
    }

    /// Takes back an own link that is in the state its key tells, with nothing owed.
    pub fn give_back(self: &Rc<Self>, mut link: OwnLink) {
        if link.key().identity == Identity::Stranger || self.is_former.get() || !link.is_of(self) {
            return;
        }
        link.rests();
        self.idle_own.borrow_mut().put(link);
    }

    /// Takes back an own link with nothing owed, in whatever state it is: it is lent again only after the upstream has shown that it is
    /// in the state its key tells.
    pub fn wash(self: &Rc<Self>, mut link: OwnLink) {
        link.is_left();
        // RESET makes a stranger's what any new connection is, which may be more.
        if link.key().identity == Identity::Stranger || self.is_former.get() || !link.is_of(self) {
            return;
        }
        let links = self.clone();
        tokio::task::spawn_local(async move {
            let credentials = match &link.key().identity {
                Identity::Anonymous | Identity::Stranger => None,
                Identity::Named(credentials) => Some((**credentials).clone()),
                Identity::Service => service_credentials(&links.endpoint),
            };
            let limit = links.settings.connect_timeout;
            if let Ok(Some(link)) = tokio::time::timeout(limit, washed(link, credentials)).await {
                links.give_back(link);
            }
        });
    }

    /// Whether another server has become the master.
    pub fn is_former(&self) -> bool {
        self.is_former.get()
    }

    /// Resolves when another server becomes the master.
    pub async fn ceases(&self) {
        let ceases = self.ceases.notified();
        if !self.is_former.get() {
            ceases.await;
        }
    }

    /// Another server has become the master: nothing is sent here any more. What is owed has a moment to come, then every connection is
    /// closed, those of sessions too: this server may not have noticed yet, or never will.
    pub(super) fn is_master_no_more(self: &Rc<Self>) {
        self.is_former.set(true);
        self.idle_own.take();
        self.each_link(Link::retire);
        self.ceases.notify_waiters();
        self.back.notify_waiters();
        let links = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(FORMER_GRACE).await;
            if links.is_former.get() {
                links.each_link(|link| link.give_up(FORMER));
                links.peers.close_all();
            }
        });
    }

    /// It is the master, again perhaps.
    pub(super) fn is_master_now(self: &Rc<Self>) {
        self.is_former.set(false);
        self.pools.borrow_mut().clear();
    }

    fn give_up_stalled(&self) {
        let limit = self.settings.reply_timeout;
        if limit.is_zero() {
            return;
        }
        self.each_link(|link| link.give_up_if_stalled(limit));
    }

    fn close_idle(self: &Rc<Self>) {
        self.each_link(Link::retire_if_stopgap);
        for key in self.idle_own.borrow_mut().drop_closed() {
            // It may be all that the upstream had of this user.
            if matches!(key.identity, Identity::Named(_)) {
                let links = self.clone();
                tokio::task::spawn_local(async move { links.see_whether_revoked(&key).await });
            }
        }
        let limit = match self.settings.idle_timeout {
            limit if limit.is_zero() => Duration::MAX,
            limit => limit,
        };
        self.idle_own.borrow_mut().close_older_than(limit);
        self.pools.borrow_mut().retain(|_, pool| pool.close_idle(limit));
    }
}

async fn sweep(links: std::rc::Weak<Links>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        #[cfg(test)]
        crate::observe::fault::failpoint::pass("closing idle links");
        let Some(links) = links.upgrade() else { return };
        links.give_up_stalled();
        links.close_idle();
    }
}

/// Sees to it that lost connections are ended upstream although nobody dials.
async fn end_lost(links: std::rc::Weak<Links>, lost: Rc<LostLinks>) {
    loop {
        lost.come().await;
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            let Some(links) = links.upgrade() else { return };
            if !lost.are_there() {
                break;
            }
            let key = links.service_pool(links.endpoint.db).key().clone();
            if links.dial(&key).await.is_ok_and(|dialled| dialled.needs_auth) {
                // Some client's link has to do it.
                break;
            }
            pause = (pause * 2).clamp(links.settings.retry_base, RETRY_AT_LEAST);
        }
    }
}

/// Asks one command of the service link and gives the raw reply.
pub async fn ask(caller: &LinkCaller, args: &[&[u8]]) -> Result<Vec<u8>, super::call::CallError> {
    let mut request = Vec::new();
    crate::protocol::args::encode_command(args, &mut request);
    caller.call(request).await
}
