//! Which server a worker's commands go to: the present master. Another one takes its place as soon as the topology says so; nothing
//! above knows what kind of upstream it is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::call::CallError;
use super::caller::LinkCaller;
use super::dial::{Identity, LinkKey};
use super::links::{LinkSettings, Links, OwnError};
use super::own::OwnLink;
use super::pools::Lane;
use super::topology::Master;
use super::url::{Address, Endpoint};
use crate::domain::{Db, Resp};
use crate::observe::fault::kept_up;

/// What one read takes at most, in bytes.
pub const SCRATCH: usize = 64 << 10;
/// Servers that were master once and are kept in mind: one may become it again, with connections that were lost there.
const FORMER_MAX: usize = 8;

/// Dials of all workers that reached a server, by its address: what one worker finds out ends the others' pause, too.
#[derive(Clone, Default)]
pub struct Reached(Arc<Mutex<HashMap<Address, Arc<AtomicU64>>>>);

impl Reached {
    fn of(&self, address: &Address) -> Arc<AtomicU64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(address.clone()).or_default().clone()
    }
}

/// What the links of every server have in common.
pub struct Common {
    /// Credentials and database of the upstream's URL; its address is the first master's, if that is known.
    pub endpoint: Endpoint,
    /// How links are made.
    pub settings: LinkSettings,
    /// The worker's read buffer.
    pub scratch: Rc<RefCell<Box<[u8]>>>,
    /// Own links in use, in the whole process.
    pub own_in_use: Arc<AtomicUsize>,
    /// Dials that reached a server, in the whole process.
    pub reached: Reached,
    /// Called with the server's time when a shared link has been dialled, see [`Links::on_dialled`].
    pub on_dialled: Tell<Option<u64>>,
    /// Called with the name of a user whom the server takes no more, see [`Links::on_revoked`].
    pub on_revoked: TellUser,
    /// Called where it is in doubt whether the server is still the master.
    pub on_doubt: Tell<()>,
}

/// Takes what there is to tell.
pub type Tell<T> = Rc<dyn Fn(T)>;
/// Takes the name of a user.
pub type TellUser = Rc<dyn Fn(&[u8])>;

impl Common {
    /// For one server alone; nobody is told anything.
    pub fn of_one(endpoint: Endpoint, settings: LinkSettings) -> Common {
        Common {
            endpoint,
            settings,
            scratch: Rc::new(RefCell::new(vec![0; SCRATCH].into_boxed_slice())),
            own_in_use: Arc::default(),
            reached: Reached::default(),
            on_dialled: Rc::new(|_| {}),
            on_revoked: Rc::new(|_| {}),
            on_doubt: Rc::new(|()| {}),
        }
    }
}

/// The way to the upstream of one worker.
pub struct Router {
    common: Common,
    master: RefCell<Rc<Links>>,
    former: RefCell<Vec<Rc<Links>>>,
}

impl Router {
    /// Follows what `topology` says, from now on. To be made within a `LocalSet`.
    pub fn new(common: Common, mut topology: watch::Receiver<Master>) -> Rc<Router> {
        let first = node(&common, &topology.borrow_and_update());
        let router = Rc::new(Router { common, master: RefCell::new(first), former: RefCell::default() });
        let weak = Rc::downgrade(&router);
        tokio::task::spawn_local(kept_up("following the master", async move || {
            follow(weak.clone(), &mut topology).await;
        }));
        router
    }

    /// The way to one server that is always the master.
    pub fn to_one(common: Common) -> Rc<Router> {
        let master = Master::At(common.endpoint.address.clone());
        Router::new(common, watch::channel(master).1)
    }

    /// The links to the present master.
    pub fn master(&self) -> Rc<Links> {
        self.master.borrow().clone()
    }

    /// A way to whichever server is master at each call: with the rights, in the database and in the lane that are named.
    pub fn caller(self: &Rc<Self>, key: LinkKey, lane: Lane) -> LinkCaller {
        LinkCaller::following(self.clone(), key, lane)
    }

    /// A way for Lockgate's own work in `db`.
    pub fn service(self: &Rc<Self>, db: Db) -> LinkCaller {
        self.caller(LinkKey { identity: Identity::Service, db, resp: Resp::V2 }, Lane::Locks)
    }

    /// The database that a new connection begins in.
    pub fn default_db(&self) -> Db {
        self.common.endpoint.db
    }

    /// How links are made and kept.
    pub fn settings(&self) -> &LinkSettings {
        &self.common.settings
    }

    /// The worker's read buffer.
    pub fn scratch(&self) -> &Rc<RefCell<Box<[u8]>>> {
        &self.common.scratch
    }

    /// As [`Links::take_own`], of whichever server is master in the end.
    pub async fn take_own(self: Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        loop {
            let master = self.master();
            match master.take_own(key).await {
                Err(_) if master.is_former() => {}
                taken => return taken,
            }
        }
    }

    /// As [`Links::take_bare`], of whichever server is master in the end.
    pub async fn take_bare(self: Rc<Self>, key: &LinkKey) -> Result<OwnLink, OwnError> {
        loop {
            let master = self.master();
            match master.take_bare(key).await {
                Err(_) if master.is_former() => {}
                taken => return taken,
            }
        }
    }

    /// As [`Links::call`], to whichever server is master in the end.
    pub async fn call(self: Rc<Self>, key: LinkKey, request: Vec<u8>) -> Result<Vec<u8>, CallError> {
        loop {
            let master = self.master();
            match master.clone().call(master.pool(key.clone()), request.clone()).await {
                Err(CallError::Unavailable(_)) if master.is_former() => {}
                outcome => return outcome,
            }
        }
    }

    fn has_become(&self, master: &Master) {
        let endpoint = master.endpoint(&self.common.endpoint);
        let before = self.master();
        if before.endpoint().address == endpoint.address {
            return;
        }
        let mut former = self.former.borrow_mut();
        let known = former.iter().position(|links| links.endpoint().address == endpoint.address);
        let next = match known.map(|at| former.remove(at)) {
            Some(links) => links,
            None => node(&self.common, master),
        };
        former.push(before.clone());
        if former.len() > FORMER_MAX {
            former.remove(0);
        }
        drop(former);
        next.is_master_now();
        self.master.replace(next);
        before.is_master_no_more();
    }
}

fn node(common: &Common, master: &Master) -> Rc<Links> {
    let endpoint = master.endpoint(&common.endpoint);
    let reached = common.reached.of(&endpoint.address);
    let links =
        Links::new(endpoint, common.settings.clone(), common.scratch.clone(), common.own_in_use.clone(), reached);
    let (dialled, revoked, doubt) = (common.on_dialled.clone(), common.on_revoked.clone(), common.on_doubt.clone());
    links.on_dialled(move |time_us| dialled(time_us));
    links.on_revoked(move |user| revoked(user));
    links.on_doubt(move || doubt(()));
    links
}

async fn follow(router: Weak<Router>, topology: &mut watch::Receiver<Master>) {
    loop {
        let Some(worker) = router.upgrade() else { return };
        let master = topology.borrow_and_update().clone();
        worker.has_become(&master);
        drop(worker);
        // Nothing makes others where the master is always the same.
        if topology.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
