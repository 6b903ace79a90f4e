//! What a line hears, and what it wants done.

use std::sync::Arc;

use super::rank::{Place, Rank};
use crate::domain::{CallId, Fence, Level, Moment, OwnerId, PlainLease};

/// A granted lock: its fence, and the whole value that stands in the key, by which alone Lockgate takes a grant back or renews it.
/// Fence and owner are shared with the owner's repeats, and undoing by those would free a lock that somebody was just told he has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token; 0 for a `SET NX`, which has none.
    pub fence: Fence,
    /// What the key holds.
    pub value: Arc<[u8]>,
}

/// Who asks. Two calls of one actor are one wish, of which the newer counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The owner that a `LOCK.*` call names.
    Owner(OwnerId),
    /// A `SET NX` call: many clients write the same value, so the call itself is who waits.
    Call(CallId),
    /// A `SET NX` poller with a ticket: whoever writes this value, on any connection.
    Poller(Arc<[u8]>),
}

/// What is to stand in the key.
#[derive(Debug, Clone)]
pub enum Form {
    /// A lock of `LOCK.*`.
    Lock {
        /// Its owner.
        owner: OwnerId,
        /// The lease he wants, in ms.
        lease_ms: u64,
        /// What he notes in the lock's value.
        meta: Arc<[u8]>,
    },
    /// Exactly what a `SET NX` writes.
    Plain {
        /// The value.
        value: Arc<[u8]>,
        /// Its expiry.
        lease: PlainLease,
    },
}

impl Form {
    /// The owner for others to see.
    pub fn shown_owner(&self) -> &[u8] {
        match self {
            Form::Lock { owner, .. } => owner.as_bytes(),
            Form::Plain { value, .. } => value,
        }
    }

    /// The lease in ms from the grant; `None` where it has none, or ends at a time of day.
    pub fn lease_ms(&self) -> Option<u64> {
        match self {
            Form::Lock { lease_ms, .. } => Some(*lease_ms),
            Form::Plain { lease: PlainLease::Ms(ms), .. } => Some(*ms),
            Form::Plain { .. } => None,
        }
    }
}

/// One `LOCK.ACQUIRE` or `SET NX`.
#[derive(Debug, Clone)]
pub struct AskedFor {
    /// Its number, never given twice.
    pub call: CallId,
    /// Who asks.
    pub actor: Actor,
    /// For what.
    pub form: Form,
    /// How urgently.
    pub level: Level,
    /// `false` without a wait: a refusal is the answer.
    pub may_wait: bool,
    /// For how long a refused poller's place is kept, in ms; 0 for not at all.
    pub ticket_ms: u64,
    /// Most waiters of this key, where it is not the general number.
    pub queue_max: Option<u64>,
    /// The place it had elsewhere; `None` for a newcomer.
    pub place: Option<Place>,
    /// When the wait ends; for others to see, the call's own timer ends it.
    pub deadline: Option<Moment>,
}

impl AskedFor {
    /// What is kept for it, in bytes, but for its key.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Lock { owner, meta, .. } => owner.as_bytes().len() + meta.len(),
            Form::Plain { value, .. } => value.len(),
        }
    }
}

impl Actor {
    /// How long its name is, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Actor::Owner(owner) => owner.as_bytes().len(),
            Actor::Call(_) => 0,
            Actor::Poller(value) => value.len(),
        }
    }
}

/// A waiter whom a script may grant the lock to.
#[derive(Debug, Clone)]
pub struct Offer {
    /// His call.
    pub call: CallId,
    /// His rank.
    pub rank: Rank,
    /// His level.
    pub level: Level,
    /// What he asks for.
    pub form: Form,
    /// How long a claim of his stands unconfirmed, in ms.
    pub claim_ms: u64,
}

/// Whom a script may grant to, and what was known when it was sent.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// This node's best waiters, the best first. The script leaves the best of them who is not granted registered upstream.
    pub offers: Vec<Offer>,
    /// When it was decided.
    pub at: Moment,
    /// Tries that were sent later than this had not been answered by then: whom they have registered stays registered.
    pub knows_until: Moment,
    /// See [`Sent::epoch`].
    pub epoch: u64,
    /// A call that is registered as this node's and that nobody here knows: an earlier life of the node has left it, whose clock need not
    /// have been this one's.
    pub left_over: Option<CallId>,
    /// See [`Sent::line`].
    pub line: u64,
}

impl Turn {
    /// What comes back with the script's reply.
    pub fn sent(&self) -> Sent {
        Sent { offered: self.offers.iter().map(|offer| offer.call).collect(), epoch: self.epoch, line: self.line }
    }
}

/// What was sent along with a script.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// The waiters it could have granted to.
    pub offered: Vec<CallId>,
    /// How often what is known of the registration had changed by then: replies of different links overtake one another.
    pub epoch: u64,
    /// The number of the line that sent it; 0 for none. A line that failed is followed by another, which knows nothing of it.
    pub line: u64,
}

/// How an asker stands among waiters, should he have to wait.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// His first call.
    pub first_call: CallId,
    /// When he came, Unix time of the upstream in µs; `None` for now.
    pub arrival_us: Option<u64>,
    /// By how much one level outweighs waiting, in µs; 0 for strict levels.
    pub promote_after_us: u64,
    /// A refusal registers him, if he is his node's best.
    pub waits: bool,
    /// How long a claim of his stands unconfirmed, in ms.
    pub claim_ms: u64,
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
    /// The owner who holds it by `LOCK.*`, and has been told; `None` for a claim, and for what others wrote.
    pub by: Option<OwnerId>,
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
    /// It is a claim: nobody holds the lock before it is confirmed.
    pub is_claim: bool,
}

/// Whom a script gave the lock to.
#[derive(Debug, Clone)]
pub enum Handed {
    /// A waiter of this node has it.
    To {
        /// His call.
        call: CallId,
        /// What he has.
        grant: Grant,
    },
    /// A claim stands in the key.
    Claimed {
        /// The call of this node that is to confirm it; `None` where it is another node's.
        call: Option<CallId>,
        /// The whole value.
        value: Arc<[u8]>,
    },
}

/// The call of this node that is registered upstream after a script.
pub type Registered = Option<CallId>;

/// What a call's own try brought.
#[derive(Debug, Clone)]
pub enum Tried {
    /// The key was free and is the caller's.
    Granted {
        /// What he has.
        grant: Grant,
        /// Told where somebody waits somewhere.
        registered: Option<Registered>,
    },
    /// The owner held it already, by the call `before` if that was one of this node.
    Repeated {
        /// Same fence, the caller's value.
        grant: Grant,
        /// The whole value until then.
        before: Arc<[u8]>,
        /// It was a claim: nobody had been told.
        was_claim: bool,
        /// Which call of this node that named.
        ours: Option<Named>,
    },
    /// The key was free and went to a waiter before the caller.
    HandedOver {
        /// To whom.
        handed: Handed,
        /// Who is registered now.
        registered: Registered,
        /// The upstream's clock, Unix time in µs.
        arrival_us: u64,
    },
    /// Another holds it.
    Refused {
        /// The holder.
        seen: Seen,
        /// Who is registered now; `None` where the script did not look.
        registered: Option<Registered>,
        /// The upstream's clock, Unix time in µs.
        arrival_us: u64,
    },
    /// It is refused and nothing more is known: a `SET NX` that does not wait.
    NotSet,
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
    /// The key was free or is free now.
    Freed {
        /// Who has it next.
        handed: Option<Handed>,
        /// Who is registered now; `None` where nobody waits anywhere.
        registered: Option<Registered>,
    },
    /// Nothing changed.
    Kept,
    /// The reply is lost: the key may be free, or the waiter's.
    Lost,
}

/// What a hand-over brought.
#[derive(Debug, Clone)]
pub enum Handing {
    /// The key was free, and somebody has it now.
    To {
        /// Who.
        handed: Handed,
        /// Who is registered now.
        registered: Registered,
    },
    /// The claim is a lock now.
    Confirmed {
        /// What the waiter has.
        grant: Grant,
        /// Who is registered now.
        registered: Registered,
    },
    /// The key is free and nobody waits.
    Free {
        /// Who is registered now.
        registered: Registered,
    },
    /// The moment until which the confirmed call wanted the key has passed by the upstream's clock: the call ends. Its claim
    /// stands still.
    Over {
        /// Who is registered now.
        registered: Registered,
    },
    /// Another holds it.
    Held {
        /// The holder.
        seen: Seen,
        /// Who is registered now.
        registered: Registered,
    },
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
        /// What the script was sent with.
        sent: Sent,
        /// What came of it.
        outcome: Tried,
    },
    /// The client has gone, or no longer wants to wait.
    Leaves(CallId),
    /// The call has waited as long as it was willing to.
    TimesOut(CallId),
    /// It waits no longer, since something stands behind it; with a ticket it keeps its place.
    Yields(CallId),
    /// The call waits in a deadlock, and is the one that ends it.
    Aborts {
        /// The call.
        call: CallId,
        /// What its client is told: a whole error line. A `SET NX` is told that it has not got the lock.
        line: Arc<str>,
    },
    /// Somebody cancels the wait of whoever shows this owner.
    Cancels(Arc<[u8]>),
    /// A waiter's level changes; his arrival stands.
    Promotes {
        /// The owner he shows.
        owner: Arc<[u8]>,
        /// His level from here on.
        level: Level,
    },
    /// A RELEASE is about to be sent.
    Releases {
        /// Who releases; `None` where the lock is taken from whoever holds it.
        owner: Option<OwnerId>,
    },
    /// A RELEASE has returned.
    Released {
        /// Whose calls on the key end with it: the upstream heard him, and it was no release of the past.
        ends_calls_of: Option<OwnerId>,
        /// What the script was sent with.
        sent: Sent,
        /// What came of it.
        outcome: Released,
    },
    /// The owner has let go of the key through another node: his calls that had come by then end.
    ReleasedElsewhere {
        /// Who.
        owner: OwnerId,
        /// When, Unix time of the upstream in µs: what he asks for after that is a new wish.
        at_us: u64,
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
        /// What the script was sent with.
        sent: Sent,
        /// What came of it.
        outcome: Handing,
    },
    /// The watch link has looked at the key, and tells of its next change.
    Observed {
        /// Who holds it; `None` where nobody does.
        seen: Option<Seen>,
        /// The call of this node that is registered upstream.
        registered: Registered,
    },
    /// The watch link tells of changes around us, as it did before anybody waited here.
    Watched,
    /// Nobody tells of changes around us any more.
    Unwatched,
    /// The key may have changed around us.
    Hint,
    /// Time has passed.
    Tick,
    /// The node ends.
    ShutsDown,
}

impl Event {
    /// The number of the line that sent the script whose reply this is; `None` for everything else.
    pub fn sent_by(&self) -> Option<u64> {
        match self {
            Event::Tried { sent, .. } | Event::Released { sent, .. } | Event::HandedOver { sent, .. } => {
                Some(sent.line).filter(|line| *line > 0)
            }
            _ => None,
        }
    }

    /// What a waiter of this node has been granted by it.
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Event::Tried { outcome: Tried::Granted { grant, .. }, .. }
            | Event::Tried { outcome: Tried::HandedOver { handed: Handed::To { grant, .. }, .. }, .. }
            | Event::Released { outcome: Released::Freed { handed: Some(Handed::To { grant, .. }), .. }, .. }
            | Event::HandedOver { outcome: Handing::To { handed: Handed::To { grant, .. }, .. }, .. }
            | Event::HandedOver { outcome: Handing::Confirmed { grant, .. }, .. } => Some(grant),
            _ => None,
        }
    }
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
    /// The upstream was not reached: nothing of the call has run.
    Unreached(Arc<str>),
    /// The upstream did not answer: what was sent may have run.
    Unavailable(Arc<str>),
    /// The node ends.
    ShuttingDown,
}

/// What a hand-over is for, besides looking at the key.
#[derive(Debug, Clone)]
pub enum Task {
    /// Just look.
    Look,
    /// Take this whole value back.
    TakeBack(Arc<[u8]>),
    /// Make a claim the lock of its waiter.
    Confirm {
        /// The whole value of the claim.
        claim: Arc<[u8]>,
        /// Its waiter.
        offer: Offer,
    },
}

/// What the world should do.
#[derive(Debug, Clone)]
pub enum Action {
    /// The call's own try goes out, on its client's link.
    Try {
        /// The call.
        call: CallId,
        /// How it would stand among the waiters.
        standing: Standing,
        /// Whom a free key may go to instead.
        turn: Turn,
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
    /// The RELEASE goes out.
    Release(Turn),
    /// A hand-over goes out on Lockgate's own link. At most one a line.
    HandOver {
        /// What for.
        task: Task,
        /// Whom a free key may go to.
        turn: Turn,
    },
}
