//! From the handlers, which may run anywhere, to the lock engine, whose work stays on the admin server's thread.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::commands::lock_args::LockCommand;
use crate::coordinator::{Asker, BoundLocks, LockReply};
use crate::domain::Db;
use crate::proxy::Handle;
use crate::upstream::call::Caller;
use crate::upstream::router::Router;

/// Who asks, in the log and to the rules.
const USER: &[u8] = b"(admin)";
/// An upstream that does not answer within this is not ready.
const READY_MAX: Duration = Duration::from_secs(1);

pub(super) type Job = Box<dyn FnOnce(Rc<Router>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Desk {
    pub handle: Handle,
    pub jobs: mpsc::UnboundedSender<Job>,
    /// Measuring is allowed.
    pub may_benchmark: bool,
}

impl Desk {
    /// One `LOCK.*` command in `db`. Dropping the future ends the call, as a client that leaves does.
    pub async fn ask(&self, db: Db, words: Vec<Vec<u8>>) -> LockReply {
        let coordinator = self.handle.coordinator().clone();
        let asked = self.on_thread(async move |router: Rc<Router>| {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            match LockCommand::parse(&words) {
                Ok(command) => {
                    let service = router.service(db);
                    let (caller, bound) = (service.clone(), BoundLocks::default());
                    let asker = Asker { db, session: 0, user: USER.into(), caller, service, bound };
                    coordinator.run(&asker, command).await
                }
                Err(line) => LockReply::Error(line),
            }
        });
        asked.await.unwrap_or_else(|| LockReply::Error("UNAVAILABLE shutting down".into()))
    }

    /// Whether the upstream answers.
    pub async fn is_ready(&self) -> bool {
        let asked = self.on_thread(async |router: Rc<Router>| {
            let ping = router.service(router.default_db()).call(b"*1\r\n$4\r\nPING\r\n".to_vec());
            matches!(tokio::time::timeout(READY_MAX, ping).await, Ok(Ok(reply)) if reply == b"+PONG\r\n")
        });
        asked.await.unwrap_or(false)
    }

    async fn on_thread<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Router>) -> F + Send + 'static,
    ) -> Option<T> {
        let (mut answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |router| {
            Box::pin(async move {
                let done = tokio::select! {
                    biased;
                    () = answer.closed() => return,
                    done = work(router) => done,
                };
                // Whoever asked may have left.
                let _ = answer.send(done);
            })
        });
        self.jobs.send(job).ok()?;
        answered.await.ok()
    }
}

/// Where everything that the admin server does begins.
pub(super) type Shared = Arc<(Desk, super::door::Door)>;
