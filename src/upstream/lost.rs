//! Connections that were given up with something unanswered on them. What was sent there may still lie with the kernel, a relay or a
//! server that stands still, and run long after its caller was told that it was lost. So the next link that is dialled ends such a
//! connection upstream before anything else is sent over it: from then on what was sent there has run, or never will.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use tokio::sync::{Mutex, Notify};

use super::dial::{DialError, Dialled};
use super::link::Link;
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};

/// Most lost connections of a worker that are kept in mind; beyond that the oldest are forgotten.
const LOST_MAX: usize = 1024;

/// A connection as the upstream knows it: by its number, which counts for one life of one server.
pub struct Trail {
    upstream_id: u64,
    run_id: Rc<[u8]>,
    /// It was ended upstream, or cannot be.
    is_over: Cell<bool>,
    lost: Weak<LostLinks>,
}

impl Trail {
    /// Nobody hears any more what comes on the connection, and something on it was not answered.
    pub fn is_lost(self: &Rc<Self>) {
        let Some(lost) = self.lost.upgrade().filter(|_| !self.is_over.get()) else { return };
        let mut trails = lost.trails.borrow_mut();
        if trails.len() == LOST_MAX {
            trails.pop_front();
        }
        trails.push_back(self.clone());
        lost.bell.notify_one();
    }

    /// `link` has brought nothing for longer than its callers wait, since it had been read `heard` times: it is lost as soon as another
    /// one shows that the upstream answers.
    pub fn is_doubted(self: &Rc<Self>, link: &Rc<Link>, heard: u64) {
        let Some(lost) = self.lost.upgrade() else { return };
        let mut doubts = lost.doubts.borrow_mut();
        if doubts.iter().any(|doubt| Rc::ptr_eq(&doubt.trail, self)) {
            return;
        }
        doubts.push(Doubt { trail: self.clone(), link: Rc::downgrade(link), heard });
        lost.bell.notify_one();
    }
}

/// A link that is silent.
struct Doubt {
    trail: Rc<Trail>,
    link: Weak<Link>,
    heard: u64,
}

impl Doubt {
    fn link(&self) -> Option<Rc<Link>> {
        self.link.upgrade().filter(|link| link.is_silent_since(self.heard))
    }
}

/// What one worker has lost.
#[derive(Default)]
pub struct LostLinks {
    trails: RefCell<VecDeque<Rc<Trail>>>,
    doubts: RefCell<Vec<Doubt>>,
    /// One link at a time ends them; others that are dialled meanwhile wait for it.
    turn: Mutex<()>,
    bell: Notify,
    has_complained: Cell<bool>,
}

impl LostLinks {
    /// What is kept of a connection that was just dialled; `None` where the upstream does not tell enough to end it later.
    pub fn trail(self: &Rc<Self>, dialled: &Dialled) -> Option<Rc<Trail>> {
        let run_id = dialled.run_id.clone()?;
        let (upstream_id, lost) = (dialled.upstream_id, Rc::downgrade(self));
        (upstream_id > 0).then(|| Rc::new(Trail { upstream_id, run_id, is_over: Cell::new(false), lost }))
    }

    /// Something was lost or is in doubt, and nobody has ended it upstream yet.
    pub fn are_there(&self) -> bool {
        self.doubts.borrow_mut().retain(|doubt| doubt.link().is_some());
        !self.trails.borrow().is_empty() || !self.doubts.borrow().is_empty()
    }

    /// Resolves when there is something new.
    pub async fn come(&self) {
        self.bell.notified().await;
    }

    /// Ends them all over the link that `over` gives, which has just been answered and carries nothing yet. They are forgotten with the
    /// first answer, whatever it is: then nothing more can be done.
    pub async fn end<'a>(&self, over: impl Future<Output = Result<Over<'a>, DialError>>) -> Result<(), DialError> {
        let _turn = self.turn.lock().await;
        if !self.are_there() {
            return Ok(());
        }
        let mut over = match over.await {
            Ok(over) => over,
            Err(DialError::Refused(line)) => {
                self.complain(&String::from_utf8_lossy(&line));
                self.forget(|_| true);
                return Ok(());
            }
            Err(why) => return Err(why),
        };
        let dialled = over.dialled();
        // Asked last: what was only slow has been heard by now.
        let trails: Vec<Rc<Trail>> = self.trails.borrow().iter().cloned().collect();
        let silent: Vec<(Rc<Trail>, Rc<Link>)> =
            self.doubts.borrow().iter().filter_map(|doubt| Some((doubt.trail.clone(), doubt.link()?))).collect();
        let all: Vec<&Rc<Trail>> = trails.iter().chain(silent.iter().map(|(trail, _)| trail)).collect();
        // The numbers begin anew with every life of the server, and each server has its own.
        let same: Vec<&Rc<Trail>> =
            all.iter().copied().filter(|trail| dialled.run_id.as_ref() == Some(&trail.run_id)).collect();
        let held = held_back(dialled, &silent).await?;
        let same: Vec<&Rc<Trail>> = same.into_iter().filter(|trail| !held.contains(&trail.upstream_id)).collect();
        let mut request = Vec::new();
        for trail in &same {
            encode_command(&[&b"CLIENT"[..], b"KILL", b"ID", trail.upstream_id.to_string().as_bytes()], &mut request);
        }
        let mut are_ended = dialled.run_id.is_some();
        for reply in dialled.ask(&request, same.len()).await? {
            match decode(&reply) {
                Ok(Value::Error(line)) => {
                    are_ended = false;
                    self.complain(&String::from_utf8_lossy(line));
                }
                reply => tracing::debug!(?reply, "a connection that was lost with something unanswered was ended"),
            }
        }
        if dialled.run_id.is_none() {
            self.complain("INFO server tells no run_id");
        }
        let is_held = |trail: &Rc<Trail>| held.contains(&trail.upstream_id);
        all.iter().filter(|trail| !is_held(trail)).for_each(|trail| trail.is_over.set(true));
        for (trail, link) in &silent {
            match is_held(trail) {
                true => link.is_held_upstream(),
                false if are_ended => link.give_up("the upstream did not answer on this link"),
                false => {}
            }
        }
        self.forget(|trail| trail.is_over.get());
        self.doubts.borrow_mut().retain(|doubt| !is_held(&doubt.trail));
        Ok(())
    }

    fn forget(&self, which: impl Fn(&Trail) -> bool) {
        self.trails.borrow_mut().retain(|trail| !which(trail));
        self.doubts.borrow_mut().retain(|doubt| !which(&doubt.trail));
    }

    fn complain(&self, why: &str) {
        if !self.has_complained.replace(true) {
            tracing::warn!(
                upstream = why,
                "a lost link cannot be ended upstream (CLIENT KILL, INFO): what was sent on it may still run; see 'What nodes share' \
                 in docs/operations.md"
            );
        }
    }
}

/// Which of the silent connections the upstream itself holds back (CLIENT PAUSE), by its own list: what was sent there has arrived, and
/// will be answered.
async fn held_back(dialled: &mut Dialled, silent: &[(Rc<Trail>, Rc<Link>)]) -> Result<Vec<u64>, DialError> {
    let of_this_server = silent.iter().filter(|(trail, _)| dialled.run_id.as_ref() == Some(&trail.run_id));
    let ids: Vec<String> = of_this_server.map(|(trail, _)| trail.upstream_id.to_string()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<&[u8]> =
        [&b"CLIENT"[..], b"LIST", b"ID"].into_iter().chain(ids.iter().map(String::as_bytes)).collect();
    let mut request = Vec::new();
    encode_command(&words, &mut request);
    let reply = dialled.ask(&request, 1).await?.concat();
    let list = match decode(&reply) {
        Ok(value) => value.as_bytes().unwrap_or_default().to_vec(),
        Err(_) => Vec::new(),
    };
    let is_blocked = |line: &&str| {
        line.split(' ').any(|field| field.strip_prefix("flags=").is_some_and(|flags| flags.contains('b')))
    };
    let id = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("id=")?.parse().ok());
    Ok(String::from_utf8_lossy(&list).lines().filter(is_blocked).filter_map(id).collect())
}

/// The link over which lost ones are ended.
pub enum Over<'a> {
    /// The one that was dialled in any case.
    AtHand(&'a mut Dialled),
    /// One for this alone.
    Own(Box<Dialled>),
}

impl Over<'_> {
    fn dialled(&mut self) -> &mut Dialled {
        match self {
            Over::AtHand(dialled) => dialled,
            Over::Own(dialled) => dialled,
        }
    }
}
