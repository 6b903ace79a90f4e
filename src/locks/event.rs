//! What a line hears, and what it wants done.

use std::sync::Arc;

use crate::domain::{CallId, Fence, Level, Moment, OwnerId};

/// A granted lock: its fence, and the whole value that stands in the key, by which alone Lockgate takes a grant back or renews it.
/// Fence and owner are shared with the owner's repeats, and undoing by those would free a lock that somebody was just told he has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub fence: Fence,
    /// What the key holds.
    pub value: Arc<[u8]>,
}

/// One `LOCK.ACQUIRE`.
#[derive(Debug, Clone)]
pub struct AskedFor {
    /// Its number, never given twice.
    pub call: CallId,
    /// Who asks.
    pub owner: OwnerId,
    /// How urgently.
    pub level: Level,
    /// The lease he wants, in ms.
    pub lease_ms: u64,
    /// What he notes in the lock's value.
    pub meta: Arc<[u8]>,
    /// `false` without `WAIT`: a refusal is the answer.
    pub may_wait: bool,
    /// When the wait ends; for others to see, the call's own timer ends it.
    pub deadline: Option<Moment>,
}

/// A waiter whom a script may grant the lock to.
#[derive(Debug, Clone)]
pub struct Offer {
    /// His call.
    pub call: CallId,
    /// His name.
    pub owner: OwnerId,
    /// His level.
    pub level: Level,
    /// The lease he wants, in ms.
    pub lease_ms: u64,
    /// What he notes in the lock's value.
    pub meta: Arc<[u8]>,
}

/// A held lock as a script saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The whole value.
    pub value: Arc<[u8]>,
    /// The rest of the lease in ms; `None` where it has no expiry.
    pub left_ms: Option<u64>,
    /// The call of this node that the value names.
    pub ours: Option<Named>,
}

/// A call of this node, as the value of a lock names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The call.
    pub call: CallId,
    /// The fence it holds the lock under.
    pub fence: Fence,
    /// It only repeated: an older call of its owner was granted this fence.
    pub is_repeat: bool,
}

/// What a call's own try brought.
#[derive(Debug, Clone)]
pub enum Tried {
    /// The key was free and is the caller's.
    Granted(Grant),
    /// The owner held it already, by the call `before` if that was one of this node.
    Repeated {
        /// Same fence, the caller's value.
        grant: Grant,
        /// The whole value until then.
        before: Arc<[u8]>,
        /// Which call of this node that named.
        ours: Option<Named>,
    },
    /// The key was free and went to the waiter who was offered.
    HandedOver {
        /// What he has now.
        grant: Grant,
        /// The upstream's clock, Unix time in µs.
        arrival_us: u64,
    },
    /// Another holds it.
    Refused {
        /// The holder.
        seen: Seen,
        /// The upstream's clock, Unix time in µs.
        arrival_us: u64,
    },
    /// The upstream answered with an error.
    Failed {
        /// The whole error line.
        line: Arc<str>,
        /// It will pass (loading, say): a call that may wait tries again.
        passes: bool,
    },
    /// The upstream is away and the try never went out.
    NotReached(Arc<str>),
    /// The try went out, its reply is lost: it may have been granted.
    Lost(Arc<str>),
}

/// What a RELEASE brought.
#[derive(Debug, Clone)]
pub enum Released {
    /// The key was free or is free now, and the waiter who was offered has it, if there was one.
    Freed {
        /// What he has now.
        handed: Option<Grant>,
    },
    /// Nothing changed.
    Kept,
    /// The reply is lost: the key may be free, or the waiter's.
    Lost,
}

/// What a hand-over or a probe brought.
#[derive(Debug, Clone)]
pub enum Handing {
    /// The waiter who was offered has the lock.
    To(Grant),
    /// The key is free and nobody was offered.
    Free,
    /// Another holds it.
    Held(Seen),
    /// The upstream answered with an error.
    Failed {
        /// The whole error line.
        line: Arc<str>,
        /// The key is no lock: nobody needs to wait for it.
        is_final: bool,
    },
    /// The upstream is away and the script never went out.
    NotReached,
    /// The reply is lost.
    Lost,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A call arrives.
    Asks(AskedFor),
    /// A call that was told to try later, or to go on, does.
    TriesAgain(CallId),
    /// A call's own try has returned.
    Tried {
        /// The call.
        call: CallId,
        /// The waiter the script could have granted to instead.
        offered: Option<CallId>,
        /// What came of it.
        outcome: Tried,
    },
    /// The client has gone, or no longer wants to wait.
    Leaves(CallId),
    /// The call has waited as long as it was willing to.
    TimesOut(CallId),
    /// Somebody cancels the owner's call.
    Cancels(OwnerId),
    /// The waiter's level changes; his arrival stands.
    Promotes {
        /// Who waits.
        owner: OwnerId,
        /// His level from here on.
        level: Level,
    },
    /// The owner's RELEASE is about to be sent.
    Releases {
        /// Who releases.
        owner: OwnerId,
    },
    /// A RELEASE has returned.
    Released {
        /// Who released.
        owner: OwnerId,
        /// The upstream heard him, and it was no release of the past: his own calls on the key end.
        ends_calls: bool,
        /// The waiter the script could have granted to.
        offered: Option<CallId>,
        /// What came of it.
        outcome: Released,
    },
    /// A grant is given back: nobody was told of it, or its connection has ended.
    GivesBack {
        /// The whole value.
        value: Arc<[u8]>,
        /// Its lease in ms: after that it is gone by itself.
        lease_ms: u64,
    },
    /// The holder set his lease anew.
    Extended {
        /// The lease in ms from now.
        lease_ms: u64,
    },
    /// A hand-over has returned.
    HandedOver {
        /// The waiter the script could have granted to.
        offered: Option<CallId>,
        /// What came of it.
        outcome: Handing,
    },
    /// The key may have changed around us.
    Hint,
    /// Whether we are told from here on when the key changes around us.
    Watched(bool),
    /// Time has passed.
    Tick,
    /// The node ends.
    ShutsDown,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has the lock.
    Granted {
        /// The fence and the value.
        grant: Grant,
        /// `false` where the owner had been told of this fence before: his hold does not end with this call.
        is_new: bool,
    },
    /// It has not.
    NotGranted,
    /// There is no place to wait at.
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The upstream refused, in its own words.
    Failed(Arc<str>),
    /// The upstream did not answer.
    Unavailable(Arc<str>),
    /// The node ends.
    ShuttingDown,
}

/// What the world should do.
#[derive(Debug, Clone)]
pub enum Action {
    /// The call's own try goes out, on its client's link. A free key goes to `offer`, if there is one.
    Try {
        /// The call.
        call: CallId,
        /// The waiter who ranks before it.
        offer: Option<Offer>,
    },
    /// The call tries again after so long.
    TryLater {
        /// The call.
        call: CallId,
        /// The pause in ms.
        after_ms: u64,
    },
    /// The try of the owner's older call has returned: this one's may go out.
    GoOn(CallId),
    /// The call ends.
    Answer {
        /// The call.
        call: CallId,
        /// How.
        answer: Answer,
    },
    /// The RELEASE goes out; the key goes to `offer`, if there is one.
    Release {
        /// The best waiter.
        offer: Option<Offer>,
    },
    /// A hand-over goes out on Lockgate's own link: to give back a value, or to look whether the key is free. At most one a line.
    HandOver {
        /// The whole value to take back.
        taken_back: Option<Arc<[u8]>>,
        /// The best waiter.
        offer: Option<Offer>,
    },
}
