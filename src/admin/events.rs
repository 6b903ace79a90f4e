//! `/api/events`: what happens to locks on all nodes, as server-sent events.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::desk::{Job, Shared};
use super::problem;
use crate::events::Ears;
use crate::upstream::router::Router;
use crate::upstream::watch::{Heard, WatchLink};

/// Streams at a time; each has a link of its own.
const STREAMS_MAX: usize = 64;
/// Events that wait for one reader; beyond it the stream ends.
const WAITING_MAX: usize = 1000;
const CHANNEL: &[u8] = b"lockgate:events";

static STREAMS: AtomicUsize = AtomicUsize::new(0);

/// One stream's place among them.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = STREAMS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < STREAMS_MAX).then_some(n + 1));
        taken.is_ok().then_some(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        STREAMS.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) async fn stream(State(shared): State<Shared>) -> Response {
    let Some(place) = Place::take() else {
        return problem(StatusCode::TOO_MANY_REQUESTS, "too many read events already; close one of them");
    };
    let (tell, told) = mpsc::channel::<String>(WAITING_MAX);
    let mut ears = Ears::of(shared.0.handle.coordinator().events());
    ears.subscribe(CHANNEL, false);
    let job: Job = Box::new(move |router| {
        Box::pin(async move {
            let _kept = (place, ears);
            tokio::select! {
                () = tell.closed() => {}
                () = pass_on(router, &tell) => {}
            }
        })
    });
    if shared.0.jobs.send(job).is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
    }
    let events = ReceiverStream::new(told).map(|text| Ok::<_, Infallible>(Event::default().data(text)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// Passes on what is published, until the link is lost or the reader is too slow.
async fn pass_on(router: Rc<Router>, tell: &mpsc::Sender<String>) {
    let Ok(dialled) = router.master().dial_watch().await else { return };
    let mut link = WatchLink::new(dialled);
    link.subscribe(&[CHANNEL], ());
    while let Ok(heard) = link.hear().await {
        if let Heard::Message { payload, .. } = heard
            && tell.try_send(String::from_utf8_lossy(&payload).into_owned()).is_err()
        {
            return;
        }
    }
}
