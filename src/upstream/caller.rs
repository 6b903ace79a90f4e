//! One command over a shared link, one whole reply back.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::call::{CallError, Caller, Replicated};
use super::dial::LinkKey;
use super::link::{Link, Loss, Sink};
use super::links::{Links, Unavailable};
use super::pools::{Lane, Pool};
use super::router::Router;
use crate::domain::Replicas;

/// Longest reply that is collected, in bytes; the longest that Lockgate asks for is that of `COMMAND DOCS`.
const REPLY_MAX: usize = 64 << 20;

/// Sends single commands over the shared links of one pool.
#[derive(Clone)]
pub struct LinkCaller {
    way: Way,
    /// The first command goes over this link, and so runs in its place among what else was sent there.
    place: Option<InPlace>,
}

/// Where commands go.
#[derive(Clone)]
enum Way {
    /// To one server.
    To(Rc<Links>, Rc<Pool>),
    /// To whichever is master at each of them.
    Following(Rc<Following>),
}

struct Following {
    router: Rc<Router>,
    key: LinkKey,
    lane: Lane,
    /// The master that the last one went to.
    last: RefCell<(Rc<Links>, Rc<Pool>)>,
}

impl Way {
    fn now(&self) -> (Rc<Links>, Rc<Pool>) {
        match self {
            Way::To(links, pool) => (links.clone(), pool.clone()),
            Way::Following(following) => {
                let master = following.router.master();
                let mut last = following.last.borrow_mut();
                if !Rc::ptr_eq(&last.0, &master) {
                    let pool = master.pool(following.key.clone()).lane(following.lane);
                    *last = (master, pool);
                }
                last.clone()
            }
        }
    }
}

#[derive(Clone)]
struct InPlace {
    link: Rc<Link>,
    is_sent: Rc<Cell<bool>>,
}

impl LinkCaller {
    pub(super) fn new(links: Rc<Links>, pool: Rc<Pool>) -> LinkCaller {
        LinkCaller { way: Way::To(links, pool), place: None }
    }

    pub(super) fn following(router: Rc<Router>, key: LinkKey, lane: Lane) -> LinkCaller {
        let master = router.master();
        let pool = master.pool(key.clone()).lane(lane);
        let last = RefCell::new((master, pool));
        LinkCaller { way: Way::Following(Rc::new(Following { router, key, lane, last })), place: None }
    }

    /// The same, but that the first command goes over `link`. The flag tells when it has been sent.
    pub fn in_place(self, link: &Rc<Link>) -> (LinkCaller, Rc<Cell<bool>>) {
        let is_sent = Rc::new(Cell::new(false));
        let place = Some(InPlace { link: link.clone(), is_sent: is_sent.clone() });
        (LinkCaller { place, ..self }, is_sent)
    }

    /// The link that the next command goes over where it has a place.
    fn next_place(&self) -> Option<&InPlace> {
        self.place.as_ref().filter(|place| !place.is_sent.get() && place.link.is_open())
    }
}

/// Sends one whole command over `link`, which is sent by the time this returns; resolves to its whole reply.
pub(super) fn call_over(
    links: Rc<Links>,
    link: Result<Rc<Link>, Unavailable>,
    request: &[u8],
) -> impl Future<Output = Result<Vec<u8>, CallError>> + use<> {
    let slot = Rc::new(Slot::default());
    let mut sent = None;
    match link {
        Ok(link) => {
            link.send(request, &(slot.clone() as Rc<dyn Sink>), 1);
            let heard = link.heard();
            sent = Some((link, heard));
        }
        Err(away) => slot.end(Err(CallError::Unavailable(away.0.to_string()))),
    }
    async move {
        let mut reply = pin!(std::future::poll_fn(|cx| match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }));
        let Some((link, heard)) = sent else { return reply.await };
        tokio::select! {
            biased;
            outcome = &mut reply => outcome,
            why = links.is_dead(&link, heard) => Err(CallError::Lost(why)),
        }
    }
}

impl Caller for LinkCaller {
    fn has_script(&self, digest: &'static str) -> bool {
        self.next_place().is_none_or(|place| place.link.has_script(digest))
    }

    fn notes_script(&self, digest: &'static str, is_there: bool) {
        if let Some(place) = &self.place {
            place.link.notes_script(digest, is_there);
        }
    }

    fn reach(&self) -> impl Future<Output = Result<Option<Vec<u8>>, CallError>> + 'static {
        const ASK: &[u8] = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";
        let (links, pool) = self.way.now();
        let (info, link) = match self.next_place() {
            Some(place) if place.link.has_met_master() => (None, None),
            // Its master is asked over this very link, and what was asked of it before has gone out before.
            Some(place) => (Some(call_over(links, Ok(place.link.clone()), ASK)), Some(place.link.clone())),
            None if pool.is_open() => (None, None),
            None => {
                let picked = links.pick(&pool);
                (Some(call_over(links, picked, ASK)), None)
            }
        };
        async move {
            let Some(info) = info else { return Ok(None) };
            match info.await {
                Ok(info) => {
                    if let Some(link) = link {
                        link.meets_master();
                    }
                    Ok(Some(info))
                }
                Err(CallError::Unavailable(why) | CallError::Lost(why)) => Err(CallError::Unavailable(why)),
            }
        }
    }

    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        let (links, pool) = self.way.now();
        let link = match self.next_place() {
            Some(place) => {
                place.is_sent.set(true);
                Ok(place.link.clone())
            }
            None => links.pick(&pool),
        };
        call_over(links, link, &request)
    }

    fn replicated(
        &self,
        key: &[u8],
        replicas: Replicas,
    ) -> impl Future<Output = Result<Option<Replicated>, CallError>> + 'static {
        let (links, pool) = self.way.now();
        let asked = links.replicated(pool.key().db, key, replicas);
        async move { asked.await.map(Some) }
    }
}

/// Collects one reply.
#[derive(Default)]
struct Slot {
    bytes: RefCell<Vec<u8>>,
    is_too_long: Cell<bool>,
    outcome: Cell<Option<Result<Vec<u8>, CallError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    fn end(&self, outcome: Result<Vec<u8>, CallError>) {
        self.outcome.set(Some(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Sink for Slot {
    fn deliver(&self, bytes: &[u8], ended: u32) {
        let mut collected = self.bytes.borrow_mut();
        if collected.len() + bytes.len() > REPLY_MAX {
            self.is_too_long.set(true);
        } else {
            collected.extend_from_slice(bytes);
        }
        if ended > 0 {
            let reply = std::mem::take(&mut *collected);
            drop(collected);
            self.end(match self.is_too_long.get() {
                false => Ok(reply),
                true => Err(CallError::Lost(format!("the reply is longer than {REPLY_MAX} bytes"))),
            });
        }
    }

    fn flush(&self) {}

    fn lost(&self, _replies: u32, _cut: bool, why: &Loss) {
        self.end(match why {
            Loss::NotSent(why) => Err(CallError::Unavailable(why.to_string())),
            Loss::Unknown(why) => Err(CallError::Lost(why.to_string())),
            Loss::Refused(line) => Ok([line, &b"\r\n"[..]].concat()),
        });
    }
}
