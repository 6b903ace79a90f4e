//! One `LOCK.ACQUIRE` as its line knows it, until nothing under way can concern it any more.

use std::sync::Arc;

use super::event::{AskedFor, Offer};
use super::rank::{Place, Rank};
use crate::domain::{Fence, Moment};

/// How far a call has come.
#[derive(Debug)]
pub enum Stage {
    /// Its own try has not been answered yet. Nobody else's script grants to it, because only the own try shows that the client may
    /// have the key at all.
    Asking,
    /// Refused once, and waiting in line.
    Waiting,
    /// Answered with this fence.
    Granted(Fence),
    /// Over, without a grant that anybody was told of.
    Gone {
        /// The client went away, or asks again: the place is kept in mind.
        keeps_place: bool,
    },
}

/// One call.
#[derive(Debug)]
pub struct Call {
    pub asked: AskedFor,
    pub asked_at: Moment,
    pub stage: Stage,
    /// When it came, once that is known.
    pub place: Option<Place>,
    pub is_queued: bool,
    /// Its own try is under way.
    pub is_trying: bool,
    /// An older call of this owner has a try under way: two at once could overtake one another on their links, and the older would
    /// write its name over the newer's.
    pub is_deferred: bool,
    /// The reply of an earlier try was lost, so that it may hold the lock without anybody knowing.
    pub was_lost: bool,
    /// Scripts under way that may grant to it.
    pub offers: u32,
    /// A lost reply may have granted to it; the next look at the key will tell.
    pub is_unsettled: bool,
    pub attempts: u32,
    /// Why its last try brought nothing.
    pub trouble: Option<Arc<str>>,
    /// An older call of this owner was granted while the own try was under way.
    pub owner_was_granted: bool,
    /// The line's count of frees when the try went out.
    pub frees_before: u64,
    /// A grant to this owner's older call, of which nobody was told: this call's repeat makes it its own.
    pub predecessor: Option<Arc<[u8]>>,
    /// It had such a predecessor, so that what it repeats is a fence nobody was told of.
    pub repeats_untold: bool,
    /// A value that was to be taken back, and was not there any more because this call had just made it its own.
    pub took_over: Option<Arc<[u8]>>,
}

impl Call {
    pub fn new(asked: AskedFor, asked_at: Moment) -> Self {
        Call {
            asked,
            asked_at,
            stage: Stage::Asking,
            place: None,
            is_queued: false,
            is_trying: false,
            is_deferred: false,
            was_lost: false,
            offers: 0,
            is_unsettled: false,
            attempts: 0,
            trouble: None,
            owner_was_granted: false,
            frees_before: 0,
            predecessor: None,
            repeats_untold: false,
            took_over: None,
        }
    }

    pub fn is_living(&self) -> bool {
        matches!(self.stage, Stage::Asking | Stage::Waiting)
    }

    /// Nothing under way can concern it any more.
    pub fn is_past(&self) -> bool {
        !self.is_living() && !self.is_trying && self.offers == 0 && !self.is_unsettled
    }

    pub fn rank(&self, promote_after_us: u64) -> Option<Rank> {
        Some(Rank::new(self.asked.level, self.place?, promote_after_us))
    }

    pub fn offer(&self) -> Offer {
        let AskedFor { call, owner, level, lease_ms, meta, .. } = &self.asked;
        Offer { call: *call, owner: owner.clone(), level: *level, lease_ms: *lease_ms, meta: meta.clone() }
    }
}
