//! What the Sentinels have said, put together.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::answer::Answer;
use super::verdict::{Said, master_of};
use crate::upstream::topology::Master;
use crate::upstream::url::{Address, Sentinels};

/// Most Sentinels that are talked to; a deployment has three or five.
const SEATS_MAX: usize = 16;
/// For so long after the last reason for it the master is in doubt.
const DOUBT_LASTS: Duration = Duration::from_secs(10);

/// One Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub address: Address,
}

struct Known {
    seat: Seat,
    /// What it says; `Err` why it says nothing, `None` before it was asked.
    said: Option<Result<Said, String>>,
}

/// All of them.
pub(super) struct Council {
    sentinels: Sentinels,
    seats: RefCell<Vec<Known>>,
    /// Those of the seats that nobody talks to yet.
    new: RefCell<Vec<Seat>>,
    arrived: Notify,
    believed: RefCell<Option<Said>>,
    master: watch::Sender<Master>,
    doubted: Cell<Option<Instant>>,
    doubt: Notify,
}

impl Council {
    pub(super) fn new(sentinels: Sentinels, master: watch::Sender<Master>) -> Council {
        let council = Council {
            seats: RefCell::default(),
            new: RefCell::default(),
            arrived: Notify::new(),
            believed: RefCell::default(),
            master,
            // Nothing is known yet.
            doubted: Cell::new(Some(Instant::now())),
            doubt: Notify::new(),
            sentinels,
        };
        council.sentinels.addresses.iter().for_each(|address| council.seat(address));
        council
    }

    pub(super) fn sentinels(&self) -> &Sentinels {
        &self.sentinels
    }

    fn seat(&self, address: &Address) {
        let mut seats = self.seats.borrow_mut();
        if seats.len() >= SEATS_MAX || seats.iter().any(|known| known.seat.address == *address) {
            return;
        }
        let seat = Seat { address: address.clone() };
        seats.push(Known { seat: seat.clone(), said: None });
        self.new.borrow_mut().push(seat);
        self.arrived.notify_one();
    }

    pub(super) fn take_new_seat(&self) -> Option<Seat> {
        self.new.borrow_mut().pop()
    }

    /// Resolves when one is known that nobody talks to yet.
    pub(super) async fn has_new_seats(&self) {
        self.arrived.notified().await;
    }

    /// The master may be another one.
    pub(super) fn is_in_doubt(&self) {
        let had_doubts = self.doubts();
        self.doubted.set(Some(Instant::now()));
        if !had_doubts {
            self.doubt.notify_waiters();
        }
    }

    /// Whether the master may be another one.
    pub(super) fn doubts(&self) -> bool {
        self.doubted.get().is_some_and(|since| since.elapsed() < DOUBT_LASTS)
    }

    /// Resolves when it comes to be in doubt.
    pub(super) async fn has_doubts(&self) {
        self.doubt.notified().await;
    }

    pub(super) fn has_answered(&self, seat: &Seat, answer: Answer) {
        answer.others.iter().for_each(|address| self.seat(address));
        self.hears(seat, Ok(answer.said));
    }

    pub(super) fn is_silent(&self, seat: &Seat, why: &str) {
        tracing::debug!(sentinel = %seat.address, why, "a Sentinel does not answer");
        self.hears(seat, Err(why.to_owned()));
    }

    fn hears(&self, seat: &Seat, said: Result<Said, String>) {
        let mut seats = self.seats.borrow_mut();
        if let Some(known) = seats.iter_mut().find(|known| known.seat == *seat) {
            known.said = Some(said);
        }
        let all: Vec<Said> = seats.iter().filter_map(|known| known.said.as_ref()?.as_ref().ok()).cloned().collect();
        let mut believed = self.believed.borrow_mut();
        let now = match master_of(&all, seats.len(), believed.as_ref()) {
            Some(said) => {
                let master = Master::At(said.master.clone());
                *believed = Some(said);
                master
            }
            // Who was believed last is still the best guess.
            None if believed.is_some() => return,
            // Some may yet say it.
            None if seats.iter().any(|known| known.said.is_none()) => return,
            None => Master::Unknown(self.why_nobody(&seats).into()),
        };
        self.master.send_if_modified(|master| {
            let has_changed = *master != now;
            match &now {
                _ if !has_changed => {}
                Master::At(address) => {
                    tracing::info!(name = %self.sentinels.name, master = %address, "the Sentinels name the master");
                }
                Master::Unknown(why) => tracing::warn!("{why}"),
            }
            *master = now;
            has_changed
        });
    }

    fn why_nobody(&self, seats: &[Known]) -> String {
        let each = seats.iter().filter_map(|known| {
            let why = known.said.as_ref()?.as_ref().err()?;
            Some(if why.contains(&known.seat.address.to_string()) {
                why.clone()
            } else {
                format!("{}: {why}", known.seat.address)
            })
        });
        format!("no Sentinel names the master '{}' ({})", self.sentinels.name, each.collect::<Vec<_>>().join("; "))
    }
}
