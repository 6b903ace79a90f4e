//! One `LOCK.ACQUIRE` or `SET NX` as its line knows it, until nothing under way can concern it any more.

use std::sync::Arc;

use super::event::{Answer, AskedFor, Offer};
use super::rank::{Place, Rank};
use crate::domain::{Fence, Moment};

/// How far a call has come.
#[derive(Debug)]
pub enum Stage {
    /// Its own try has not been answered yet. No script of this node grants to it, because only the own try shows that the client may
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

/// A poller who was refused, and whose place is kept for his next poll.
#[derive(Debug)]
pub struct Ticket {
    /// Until when.
    pub until: Moment,
    /// The claim that is kept for him.
    pub reserved: Option<Arc<[u8]>>,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    pub asked: AskedFor,
    pub asked_at: Moment,
    pub stage: Stage,
    /// When it came, once that is known.
    pub place: Option<Place>,
    /// When its own try was refused first, Unix time of the upstream in µs. Its place may be older, by another call of its owner.
    pub arrived_us: Option<u64>,
    /// While its own try was under way its owner let go of the key through another node, at that time of the upstream: if the try was
    /// refused before, the call ended then.
    pub released_us: Option<u64>,
    pub is_queued: bool,
    /// Scripts of an earlier epoch of the line write the rank into the queue upstream that it had before it was promoted.
    pub promoted_at: u64,
    /// It was answered, and waits for the poller's next call.
    pub ticket: Option<Ticket>,
    /// When its last try was sent.
    pub sent: Moment,
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
    /// Its time is up, but the confirmation, or the try, under way decides.
    pub is_overdue: bool,
    pub attempts: u32,
    /// Why its last try brought nothing.
    pub trouble: Option<Arc<str>>,
    /// An older call of this owner was granted while the own try was under way.
    pub owner_was_granted: bool,
    /// It waits, and its owner has come to hold the key by another call: it is to ask again, which repeats that hold.
    pub joins: bool,
    /// The line's count of frees when the try went out.
    pub frees_before: u64,
    /// A grant to this owner's older call, of which nobody was told: this call's repeat makes it its own.
    pub predecessor: Option<Arc<[u8]>>,
    /// The fence of such a predecessor, of which nobody was told: as long as that stands, nor is it by repeating it.
    pub untold_fence: Option<Fence>,
    /// A value that was to be taken back, and was not there any more because this call had just made it its own.
    pub took_over: Option<Arc<[u8]>>,
}

impl Call {
    pub fn new(asked: AskedFor, asked_at: Moment) -> Self {
        Call {
            place: asked.place,
            asked,
            asked_at,
            stage: Stage::Asking,
            arrived_us: None,
            released_us: None,
            is_queued: false,
            promoted_at: 0,
            ticket: None,
            sent: Moment::default(),
            is_trying: false,
            is_deferred: false,
            was_lost: false,
            offers: 0,
            is_unsettled: false,
            is_overdue: false,
            attempts: 0,
            trouble: None,
            owner_was_granted: false,
            joins: false,
            frees_before: 0,
            predecessor: None,
            untold_fence: None,
            took_over: None,
        }
    }

    /// How it ends where the upstream brought no answer in the end.
    pub fn no_answer(&self, why: Arc<str>) -> Answer {
        if self.was_lost { Answer::Unavailable(why) } else { Answer::Unreached(why) }
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

    /// How long a claim of its stands unconfirmed, in ms.
    pub fn claim_ms(&self, claim_ms: u64) -> u64 {
        self.asked.ticket_ms.max(claim_ms)
    }

    /// `None` for a call that has no place yet.
    pub fn offer(&self, promote_after_us: u64, claim_ms: u64) -> Option<Offer> {
        let AskedFor { call, form, level, .. } = &self.asked;
        let rank = self.rank(promote_after_us)?;
        Some(Offer { call: *call, rank, level: *level, form: form.clone(), claim_ms: self.claim_ms(claim_ms) })
    }
}
