//! Who is master, as of one version of the truth. Standalone and Sentinel upstreams differ in what makes these, and nowhere else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::links::LinkSettings;
use super::sentinel;
use super::url::{Address, Endpoint, Sentinels};

/// How often the first answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The master as it is known at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Master {
    /// It listens here.
    At(Address),
    /// Nobody has named one yet; the text says why.
    Unknown(Arc<str>),
}

impl Master {
    /// Where it is, with the credentials and the database of `like`.
    pub fn endpoint(&self, like: &Endpoint) -> Endpoint {
        let address = match self {
            Master::At(address) => address.clone(),
            Master::Unknown(why) => Address::Nowhere(why.clone()),
        };
        Endpoint { address, ..like.clone() }
    }
}

/// What tells who is master.
#[derive(Clone, Debug)]
pub enum Authority {
    /// Always this one.
    One(Endpoint),
    /// Whom these name.
    Sentinels(Sentinels),
}

/// The master as the whole process knows it.
pub struct Topology {
    authority: Authority,
    tell: watch::Sender<Master>,
    master: watch::Receiver<Master>,
    doubt: Arc<Notify>,
}

impl Topology {
    /// Where `authority` tells who is master. Nobody is asked yet.
    pub fn new(authority: Authority) -> Topology {
        let first = match &authority {
            Authority::One(endpoint) => Master::At(endpoint.address.clone()),
            Authority::Sentinels(sentinels) => sentinels.nobody_yet(),
        };
        let (tell, master) = watch::channel(first);
        Topology { authority, tell, master, doubt: Arc::default() }
    }

    /// Credentials and database of the upstream's URL.
    pub fn endpoint(&self) -> &Endpoint {
        match &self.authority {
            Authority::One(endpoint) => endpoint,
            Authority::Sentinels(sentinels) => &sentinels.master,
        }
    }

    /// Who is master, as it changes.
    pub fn master(&self) -> watch::Receiver<Master> {
        self.master.clone()
    }

    /// Waits until somebody has named one, for `limit` at most. Blocks the thread.
    pub fn is_known_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let is_known = || matches!(*self.master.borrow(), Master::At(_));
        while !is_known() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
        is_known()
    }

    /// It may be another one: whoever can tell is asked at once.
    pub fn is_in_doubt(&self) {
        self.doubt.notify_one();
    }

    /// Follows whoever is master, for as long as it is awaited; one worker does, in its `LocalSet`.
    pub async fn keep_up(&self, settings: LinkSettings) {
        match &self.authority {
            Authority::One(_) => std::future::pending().await,
            Authority::Sentinels(sentinels) => {
                sentinel::follow(sentinels.clone(), settings, self.tell.clone(), self.doubt.clone()).await;
            }
        }
    }
}
