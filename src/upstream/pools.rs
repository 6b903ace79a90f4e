//! The shared links of one kind, in four lanes, and which of them takes the next requests.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::dial::LinkKey;
use super::link::{BACKLOG_MAX, Link};
use super::links::{Links, Unavailable};
use super::reach::Pick;

/// Replies owed on a link from which another one is opened or preferred.
const BUSY_REPLIES: u64 = 1024;
/// Requests unwritten on a link, in bytes, from which another one is opened or preferred.
const BUSY_BACKLOG: usize = 16 << 10;
/// Links beyond `links.shared` that a pool may have where some of its links are stuck.
const SPARE: usize = 2;

const _: () = assert!(BUSY_BACKLOG < BACKLOG_MAX);

/// What shares links with what. A reply that is long in coming holds up all that was sent behind it, so what may be long in coming for
/// a reason of its own goes another way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Plain commands of clients.
    Data,
    /// Scripts of clients: one that does not end holds up its own link, while the server answers `-BUSY` to everybody else.
    Scripts,
    /// Lockgate's own, which write: `CLIENT PAUSE` holds them back, and reads go on.
    Locks,
    /// `WAIT`, which holds up its link until replicas have what was written.
    Replicas,
}

impl Lane {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// The shared links of one key in one lane.
pub struct Pool {
    key: LinkKey,
    pub(super) links: RefCell<Vec<Rc<Link>>>,
    scripts: OnceCell<Rc<Pool>>,
    locks: OnceCell<Rc<Pool>>,
    replicas: OnceCell<Rc<Pool>>,
}

impl Pool {
    /// Without any link yet.
    pub(super) fn of(key: LinkKey) -> Rc<Pool> {
        Rc::new(Pool {
            key,
            links: RefCell::default(),
            scripts: OnceCell::new(),
            locks: OnceCell::new(),
            replicas: OnceCell::new(),
        })
    }

    /// What its links have in common.
    pub fn key(&self) -> &LinkKey {
        &self.key
    }

    /// Whether at least one link stands.
    pub fn is_open(&self) -> bool {
        self.links.borrow().iter().any(|link| link.is_open())
    }

    /// The pool of the same key in that lane, for one in [`Lane::Data`].
    pub fn lane(self: &Rc<Self>, lane: Lane) -> Rc<Pool> {
        let beside = match lane {
            Lane::Data => return self.clone(),
            Lane::Scripts => &self.scripts,
            Lane::Locks => &self.locks,
            Lane::Replicas => &self.replicas,
        };
        beside.get_or_init(|| Pool::of(self.key.clone())).clone()
    }

    fn beside(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.scripts.get().into_iter().chain(self.locks.get()).chain(self.replicas.get())
    }

    /// Closes what nobody has used for `limit`; `false` where nobody needs the pool any more.
    pub(super) fn close_idle(self: &Rc<Self>, limit: Duration) -> bool {
        self.links.borrow_mut().retain(|link| {
            let is_idle = link.owed_replies() == 0 && link.last_used().elapsed() > limit;
            if is_idle {
                link.retire();
            }
            link.is_usable()
        });
        let is_beside_needed = self.beside().filter(|pool| pool.close_idle(limit)).count() > 0;
        // A session that still has the pool's Rc would otherwise go on with a pool that nobody else finds.
        is_beside_needed || Rc::strong_count(self) > 1 || !self.links.borrow().is_empty()
    }

    /// An open or usable link that takes requests, the calmest one, and whether it is calm enough.
    fn calmest(&self, takes: impl Fn(&Link) -> bool) -> Option<(Rc<Link>, bool)> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.is_usable());
        let mut calmest: Option<&Rc<Link>> = None;
        for link in links.iter().filter(|link| takes(link)) {
            if link.owed_replies() < BUSY_REPLIES && link.backlog() < BUSY_BACKLOG && !link.is_stuck() {
                return Some((link.clone(), true));
            }
            let burden = |link: &Link| (link.is_stuck(), link.backlog(), link.owed_replies());
            if calmest.is_none_or(|calmest| burden(link) < burden(calmest)) {
                calmest = Some(link);
            }
        }
        calmest.map(|link| (link.clone(), false))
    }

    fn has_room(&self, shared: usize) -> bool {
        let links = self.links.borrow();
        let spare = if links.iter().all(|link| link.is_stuck()) { SPARE } else { 0 };
        links.len() < shared + spare
    }

    /// Every link that stands is stuck, and none is being dialled.
    pub(super) fn is_stuck(&self) -> bool {
        let links = self.links.borrow();
        !links.is_empty() && links.iter().all(|link| link.is_stuck())
    }
}

impl Links {
    /// A usable link of the pool, the least busy one, also where it is yet being dialled; opens one where that helps.
    pub fn pick(self: &Rc<Self>, pool: &Rc<Pool>) -> Result<Rc<Link>, Unavailable> {
        let calmest = match pool.calmest(Link::is_usable) {
            Some((link, true)) => return Ok(link),
            calmest => calmest.map(|(link, _)| link),
        };
        let away = self.away();
        match (calmest, away) {
            (Some(calmest), away) if away.is_some() || !pool.has_room(self.settings.shared) => Ok(calmest),
            (_, None) => Ok(self.add_link(pool)),
            (_, Some(why)) => Err(Unavailable(why)),
        }
    }

    /// As [`Links::pick`], for those who can wait until a link stands: nothing of theirs is lost with a dial that fails.
    pub fn pick_open(self: &Rc<Self>, pool: &Rc<Pool>) -> Pick {
        let calmest = match pool.calmest(Link::is_open) {
            Some((link, true)) => return Pick::Open(link),
            calmest => calmest.map(|(link, _)| link),
        };
        let away = self.away();
        let dialling = pool.links.borrow().iter().find(|link| !link.is_open()).cloned();
        match (calmest, dialling, away) {
            (Some(calmest), dialling, away) => {
                if dialling.is_none() && away.is_none() && pool.has_room(self.settings.shared) {
                    self.add_link(pool);
                }
                Pick::Open(calmest)
            }
            (None, Some(dialling), _) => Pick::Dialling(dialling),
            (None, None, Some(why)) => Pick::Away(Unavailable(why)),
            (None, None, None) => Pick::Dialling(self.add_link(pool)),
        }
    }

    pub(super) fn add_link(self: &Rc<Self>, pool: &Rc<Pool>) -> Rc<Link> {
        let link = self.open(pool.key.clone());
        pool.links.borrow_mut().push(link.clone());
        link
    }

    /// A link beside those that are stuck, for what comes from here on.
    pub(super) fn go_around(self: &Rc<Self>, pool: &Rc<Pool>) {
        if pool.is_stuck() && pool.has_room(self.settings.shared) && self.away().is_none() {
            self.add_link(pool);
        }
    }

    /// All pools, in all lanes.
    pub(super) fn all_pools(&self) -> Vec<Rc<Pool>> {
        let pools = self.pools.borrow();
        pools.values().flat_map(|pool| std::iter::once(pool).chain(pool.beside())).cloned().collect()
    }

    pub(super) fn each_link(&self, mut act: impl FnMut(&Link)) {
        for pool in self.all_pools() {
            pool.links.borrow().iter().for_each(|link| act(link));
        }
    }
}
