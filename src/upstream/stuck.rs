//! Links that owe replies and bring none: behind a script that does not end, or a `CLIENT PAUSE`. What comes next takes another link,
//! as long as there is one. Looked at only while something is owed.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::links::Links;

/// How often links that owe something are looked at; one that was silent from one look to the next but one is stuck.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Rings when a link begins to owe something.
#[derive(Default)]
pub struct Alarm {
    is_watching: Cell<bool>,
    bell: Notify,
}

impl Alarm {
    /// A link owes replies, and did not before.
    pub fn something_is_owed(&self) {
        if !self.is_watching.get() {
            self.bell.notify_one();
        }
    }
}

/// What a link's silence is measured by.
#[derive(Default)]
pub struct Silence {
    /// How often the link had been read when it was looked at last.
    heard: Cell<u64>,
    looks: Cell<u32>,
}

impl Silence {
    /// A look: whether it has gone on for so long that the link counts as stuck.
    pub fn looked_at(&self, owes: bool, heard: u64) -> bool {
        let goes_on = owes && self.heard.replace(heard) == heard;
        self.looks.set(if goes_on { self.looks.get().saturating_add(1) } else { 0 });
        self.looks.get() >= 2
    }
}

/// Looks at the links of a worker for as long as they owe something.
pub async fn watch_silence(links: Weak<Links>, alarm: Rc<Alarm>) {
    loop {
        alarm.is_watching.set(true);
        let mut is_quiet = false;
        while !is_quiet {
            tokio::time::sleep(LOOK_EVERY).await;
            #[cfg(test)]
            crate::observe::fault::failpoint::pass("looking for stuck links");
            let Some(links) = links.upgrade() else { return };
            is_quiet = true;
            for pool in links.all_pools() {
                pool.links.borrow().iter().for_each(|link| is_quiet &= !link.look_for_silence());
                links.go_around(&pool);
            }
        }
        alarm.is_watching.set(false);
        alarm.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_stuck_when_it_owes_and_two_looks_found_nothing_new() {
        let silence = Silence::default();
        assert!(!silence.looked_at(true, 5), "it has been heard since the last look");
        assert!(!silence.looked_at(true, 5) && silence.looked_at(true, 5));
        assert!(!silence.looked_at(true, 6), "it was only slow");
        assert!(!silence.looked_at(true, 6) && silence.looked_at(true, 6));
        assert!(!silence.looked_at(false, 6), "what owes nothing may be silent");
    }
}
