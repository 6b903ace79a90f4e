//! Asks all workers to dial their shared links now, before clients come.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// What a worker is asked: it answers with how many links it has begun to dial.
pub type Asked = oneshot::Sender<usize>;

/// The way to all workers.
#[derive(Debug, Default)]
pub struct Warmups(Mutex<Vec<mpsc::UnboundedSender<Asked>>>);

impl Warmups {
    /// One more worker, which hears of warm-ups here.
    pub fn of_worker(&self) -> mpsc::UnboundedReceiver<Asked> {
        let (tell, told) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        told
    }

    /// Asks all of them; how many links they have begun to dial.
    pub async fn all(&self) -> usize {
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked: Vec<_> = workers
            .iter()
            .filter_map(|worker| {
                let (answer, answered) = oneshot::channel();
                worker.send(answer).ok().map(|()| answered)
            })
            .collect();
        let mut dialled = 0;
        for answered in asked {
            // A worker that ends has no use for links.
            dialled += answered.await.unwrap_or(0);
        }
        dialled
    }
}
