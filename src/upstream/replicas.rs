//! Waiting until replicas have what was written: one `WAIT` for all who ask meanwhile.
//!
//! `WAIT` speaks of the writes of its own connection, and offsets are the server's: a small write in front of it makes it speak of everything
//! that has run before, on whichever connection. Without that write it would speak of nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::{CallError, Replicated};
use super::caller::call_over;
use super::dial::{Identity, LinkKey};
use super::link::Link;
use super::links::Links;
use super::pools::Lane;
use crate::domain::{Db, Replicas, Resp};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};

/// Replicas have so long to take what was written, in ms.
const REPLICAS_HAVE_MS: &str = "1000";
/// How often a master is asked how many replicas it has.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// The small write: the counter of fences stands where a grant was given, and stays as it is.
const SMALL_WRITE: [&[u8]; 3] = [b"APPEND", b"lockgate:fence", b""];

type Outcome = Result<Replicated, CallError>;

/// Somebody who waits for replicas.
struct Asked {
    key: Vec<u8>,
    replicas: Replicas,
    answer: oneshot::Sender<Outcome>,
}

/// Who waits for replicas of one server, by database.
#[derive(Default)]
pub(super) struct Waits {
    by_db: RefCell<HashMap<Db, Vec<Asked>>>,
    counted: Cell<Option<Instant>>,
}

impl Links {
    /// See [`super::call::Caller::replicated`].
    pub(super) fn replicated(
        self: &Rc<Self>,
        db: Db,
        key: &[u8],
        replicas: Replicas,
    ) -> impl Future<Output = Outcome> + use<> {
        let (answer, answered) = oneshot::channel();
        let mut by_db = self.waits.by_db.borrow_mut();
        let is_first = !by_db.contains_key(&db);
        by_db.entry(db).or_default().push(Asked { key: key.to_vec(), replicas, answer });
        if is_first {
            let links = self.clone();
            tokio::task::spawn_local(async move {
                let _gone = Gone { links: links.clone(), db };
                links.serve_waits(db).await;
            });
        }
        async move { answered.await.unwrap_or_else(|_| Err(CallError::Lost("waiting for replicas came to no end".into()))) }
    }

    /// One batch after the other, until nobody asks.
    async fn serve_waits(self: &Rc<Self>, db: Db) {
        loop {
            let batch = match self.waits.by_db.borrow_mut().get_mut(&db) {
                Some(asked) if !asked.is_empty() => std::mem::take(asked),
                _ => return,
            };
            let outcomes = self.wait_once(db, &batch).await;
            for (asked, outcome) in batch.into_iter().zip(outcomes) {
                let _ = asked.answer.send(outcome);
            }
        }
    }

    async fn wait_once(self: &Rc<Self>, db: Db, batch: &[Asked]) -> Vec<Outcome> {
        let key = LinkKey { identity: Identity::Service, db, resp: Resp::V2 };
        let pool = self.pool(key).lane(Lane::Replicas);
        let link = match self.pick(&pool) {
            Ok(link) => link,
            Err(away) => return batch.iter().map(|_| Err(CallError::Unavailable(away.0.to_string()))).collect(),
        };
        let replicas = batch.first().map(|asked| asked.replicas).unwrap_or_default();
        match self.wait_over(&link, batch, replicas).await {
            Ok(outcomes) => outcomes,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn wait_over(
        self: &Rc<Self>,
        link: &Rc<Link>,
        batch: &[Asked],
        replicas: Replicas,
    ) -> Result<Vec<Outcome>, CallError> {
        let ask = |words: &[&[u8]]| {
            let mut request = Vec::new();
            encode_command(words, &mut request);
            call_over(self.clone(), Ok(link.clone()), &request)
        };
        if replicas == Replicas::Majority && self.waits.counted.get().is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            let info = ask(&[b"INFO", b"replication"]).await?;
            self.settings.replicas_seen.fetch_max(replicas_of(&info), Ordering::Relaxed);
            self.waits.counted.set(Some(Instant::now()));
        }
        let needed = replicas.needed(self.settings.replicas_seen.load(Ordering::Relaxed));
        // All of it goes out at once.
        let written = ask(&SMALL_WRITE);
        let waited = ask(&[b"WAIT", needed.to_string().as_bytes(), REPLICAS_HAVE_MS.as_bytes()]);
        let values: Vec<_> = batch.iter().map(|asked| ask(&[b"GET", &asked.key])).collect();
        number(&written.await?)?;
        let have_it = number(&waited.await?)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for value in values {
            outcomes.push(value.await.map(|value| Replicated { have_it, needed, value }));
        }
        Ok(outcomes)
    }
}

/// The batches of one database end, by a panic too: whoever still waits is told, and the next who asks begins anew.
struct Gone {
    links: Rc<Links>,
    db: Db,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.links.waits.by_db.borrow_mut().remove(&self.db);
    }
}

fn number(reply: &[u8]) -> Result<u64, CallError> {
    match decode(reply) {
        Ok(Value::Integer(number)) => Ok(u64::try_from(number).unwrap_or(0)),
        Ok(Value::Error(line)) => Err(CallError::Unavailable(format!(
            "it refuses to wait for replicas: {}; Lockgate's user needs +append and +wait",
            String::from_utf8_lossy(line)
        ))),
        _ => Err(CallError::Lost("the reply to WAIT makes no sense".into())),
    }
}

fn replicas_of(info: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(info);
    let count = text.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
