//! Work that must come to its end although nobody may be left to wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

/// A future that goes on by itself when it is dropped half-way: a script that was sent will be answered, and whoever it granted a
/// lock to is told by whoever reads that answer. While somebody waits for it, it costs no task of its own.
///
/// To be polled and dropped inside a `LocalSet`.
pub struct Afloat<T: 'static> {
    work: Option<Pin<Box<dyn Future<Output = T>>>>,
    errands: Arc<Errands>,
}

impl<T: 'static> Afloat<T> {
    /// Wraps `work`; it begins when first polled.
    pub fn new(errands: &Arc<Errands>, work: impl Future<Output = T> + 'static) -> Self {
        Afloat { work: Some(Box::pin(work)), errands: errands.clone() }
    }
}

impl<T: 'static> Future for Afloat<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: work that panics has ended, and does not go on by itself.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let ready = work.as_mut().poll(cx);
        if ready.is_pending() {
            self.work = Some(work);
        }
        ready
    }
}

impl<T: 'static> Drop for Afloat<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let errand = self.errands.begin();
            tokio::task::spawn_local(async move {
                let _errand = errand;
                work.await;
            });
        }
    }
}

/// Counts the work under way that no session waits for.
#[derive(Debug, Default)]
pub struct Errands {
    under_way: AtomicUsize,
    all_done: Notify,
}

/// One such piece of work; dropping it ends it.
#[derive(Debug)]
pub struct Errand(Arc<Errands>);

impl Errands {
    /// Counts one more.
    pub fn begin(self: &Arc<Self>) -> Errand {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        Errand(self.clone())
    }

    /// How many are under way.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// Resolves when none is under way.
    pub async fn all_done(&self) {
        loop {
            let done = self.all_done.notified();
            let mut done = std::pin::pin!(done);
            done.as_mut().enable();
            if self.under_way.load(Ordering::SeqCst) == 0 {
                return;
            }
            done.await;
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.all_done.notify_waiters();
        }
    }
}
