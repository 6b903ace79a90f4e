//! Whether the upstream is of use to the locks, as the watch link finds it. Where it is not, calls that need Lockgate's own links
//! are told so instead of waiting for what will not come.

use tokio::sync::watch;

use crate::upstream::misfit::Misfit;

/// What the watch link has found; each part stands until the upstream says otherwise.
#[derive(Default)]
struct Found {
    /// By the handshake.
    handshake: Option<Misfit>,
    role: Option<Misfit>,
    scripts: Option<Misfit>,
}

/// Which part.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Handshake,
    Role,
    Scripts,
}

/// Shared by all workers.
pub(super) struct Fit(watch::Sender<Found>);

impl Found {
    fn worst(&self) -> Option<&Misfit> {
        [&self.handshake, &self.role, &self.scripts].into_iter().find_map(Option::as_ref)
    }
}

impl Fit {
    /// Nothing is known to be wrong.
    pub fn new() -> Fit {
        Fit(watch::Sender::default())
    }

    /// What is wrong, if anything is.
    pub fn misfit(&self) -> Option<Misfit> {
        self.0.borrow().worst().cloned()
    }

    /// Nothing is known to be wrong: failures are worth a line of their own.
    pub fn is_good(&self) -> bool {
        self.0.borrow().worst().is_none()
    }

    /// The upstream has told of a part. The log says what changes.
    pub fn found(&self, part: Part, now: Option<Misfit>) {
        self.0.send_if_modified(|found| {
            let before = found.worst().cloned();
            match part {
                Part::Handshake => found.handshake = now,
                Part::Role => found.role = now,
                Part::Scripts => found.scripts = now,
            }
            let after = found.worst();
            let has_changed = before.as_ref() != after;
            match after {
                Some(misfit) if has_changed => tracing::error!("{misfit}"),
                None if has_changed => tracing::info!("the upstream is of use to Lockgate again"),
                _ => {}
            }
            has_changed
        });
    }

    /// Resolves with what is wrong once something is that does not pass by itself.
    pub async fn turns_bad(&self) -> Misfit {
        let mut found = self.0.subscribe();
        loop {
            if let Some(misfit) = found.borrow_and_update().worst().filter(|misfit| !misfit.may_pass()) {
                return misfit.clone();
            }
            // The sender is `self`, which lives for as long as this is awaited.
            if found.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
