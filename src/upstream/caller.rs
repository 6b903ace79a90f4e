//! One command over a shared link, one whole reply back.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::call::{CallError, Caller};
use super::link::{Loss, Sink};
use super::links::Links;
use super::pools::Pool;

/// Longest reply that is collected, in bytes; the longest that Lockgate asks for is that of `COMMAND DOCS`.
const REPLY_MAX: usize = 64 << 20;

/// Sends single commands over the shared links of one pool.
#[derive(Clone)]
pub struct LinkCaller {
    links: Rc<Links>,
    pool: Rc<Pool>,
}

impl LinkCaller {
    pub(super) fn new(links: Rc<Links>, pool: Rc<Pool>) -> LinkCaller {
        LinkCaller { links, pool }
    }
}

impl Caller for LinkCaller {
    fn reach(&self) -> impl Future<Output = Result<Option<Vec<u8>>, CallError>> + 'static {
        const ASK: &[u8] = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";
        let info = (!self.pool.is_open()).then(|| self.call(ASK.to_vec()));
        async move {
            match info {
                None => Ok(None),
                Some(info) => match info.await {
                    Ok(info) => Ok(Some(info)),
                    Err(CallError::Unavailable(why) | CallError::Lost(why)) => Err(CallError::Unavailable(why)),
                },
            }
        }
    }

    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        let slot = Rc::new(Slot::default());
        let mut sent = None;
        match self.links.pick(&self.pool) {
            Ok(link) => {
                link.send(&request, &(slot.clone() as Rc<dyn Sink>), 1);
                let heard = link.heard();
                sent = Some((link, heard));
            }
            Err(away) => slot.end(Err(CallError::Unavailable(away.0.to_string()))),
        }
        let links = self.links.clone();
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
