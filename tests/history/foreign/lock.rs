//! One fenced lock as a sequential object: what each told outcome demands of its state, and what it makes of it.

use std::cell::Cell;
use todc_utils::specifications::Specification;

/// An owner, numbered within one history.
pub type Owner = u32;

/// Who holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The history does not tell.
    Unknown,
    Free,
    Held {
        owner: Owner,
        /// `None` for a lock taken by `SET NX`.
        fence: Option<i64>,
        /// The lease does not end before this, in µs of the recording.
        lasts_us: u64,
    },
}

/// The lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    holder: Holder,
    /// The highest fence told so far, and to whom.
    top: (i64, Owner),
}

/// What one call was told, or may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was granted under a new fence, or under the one that its owner holds already.
    Granted { owner: Owner, fence: Option<i64> },
    /// `from` gave it to `owner`, who was told of the fence.
    Transferred { from: Owner, owner: Owner, fence: i64 },
    /// The owner was told that the lease was set.
    Extended { owner: Owner, fence: Option<i64> },
    /// The owner was told that it was released.
    Released { owner: Owner, fence: Option<i64> },
    /// A command ran under this fence.
    Guarded { fence: i64 },
    /// The lock was taken away from its holder, whoever that was.
    Freed,
    /// If that owner holds it (under that fence, where one is named), it may have been released.
    MayRelease { owner: Owner, fence: Option<i64> },
    /// If that owner holds it, its lease may have been set anew.
    MayShorten { owner: Owner },
    /// If that owner holds it, it may be another's now.
    MayPass { owner: Owner },
    /// From here on the history does not tell who holds it.
    Lost,
}

/// One operation with what time says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub what: What,
    /// It took effect no later than this, in µs.
    pub until_us: u64,
    /// The lease that it sets lasts at least until then, in µs.
    pub lasts_us: u64,
    /// Its owner may hold the lock without having been told.
    pub may_hold_untold: bool,
    /// The server lost data around it: only its fence is judged.
    pub is_soft: bool,
}

thread_local! {
    static STEPS_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// The search that begins now may take so many steps.
pub fn begin_search(steps: u64) {
    STEPS_LEFT.set(steps);
}

/// The search took more steps than it may: its verdict says nothing.
pub fn is_exhausted() -> bool {
    STEPS_LEFT.get() == 0
}

/// The lock as todc-utils wants to see it.
pub struct FencedLock;

impl Specification for FencedLock {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State { holder: Holder::Unknown, top: (0, Owner::MAX) }
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let left = STEPS_LEFT.get();
        STEPS_LEFT.set(left.saturating_sub(1));
        if left == 0 {
            // Everything fits from here on, so that the search ends.
            return (true, *state);
        }
        match state.after(operation) {
            Some(after) => (true, after),
            None => (false, *state),
        }
    }
}

impl State {
    /// `None` where the operation's outcome cannot be told in this state.
    fn after(&self, operation: &Operation) -> Option<State> {
        let Operation { what, lasts_us, may_hold_untold, is_soft, .. } = *operation;
        let held = |owner, fence| Holder::Held { owner, fence, lasts_us };
        let mut after = *self;
        match what {
            What::Granted { owner, fence: Some(fence) } if (fence, owner) == self.top => {
                // A call that its owner's other call brings to its end sets no lease of its own.
                after.holder = match self.holder {
                    Holder::Held { fence: Some(present), .. } if present == fence => self.shortened(lasts_us),
                    Holder::Unknown => Holder::Held { owner, fence: Some(fence), lasts_us: 0 },
                    _ if is_soft => Holder::Unknown,
                    _ => return None,
                };
            }
            What::Granted { owner, fence } => {
                after.top = self.top_with(owner, fence)?;
                (is_soft || self.may_be_free(operation)).then_some(())?;
                after.holder = held(owner, fence);
            }
            What::Transferred { from, owner, fence } => {
                after.top = self.top_with(owner, Some(fence))?;
                (is_soft || self.may_be_held_by(from, None, may_hold_untold, operation)).then_some(())?;
                after.holder = held(owner, Some(fence));
            }
            What::Extended { owner, fence } => {
                (is_soft || self.may_be_held_by(owner, fence, may_hold_untold, operation)).then_some(())?;
                if let Holder::Held { owner: present, fence, .. } = self.holder
                    && present == owner
                {
                    after.holder = held(owner, fence);
                }
            }
            What::Released { owner, fence } => {
                (is_soft || self.may_be_held_by(owner, fence, may_hold_untold, operation)).then_some(())?;
                after.holder = Holder::Free;
            }
            What::Guarded { fence } => {
                let is_held = match self.holder {
                    Holder::Unknown => true,
                    Holder::Held { fence: present, .. } => present == Some(fence),
                    Holder::Free => false,
                };
                (is_soft || is_held).then_some(())?;
            }
            What::Freed => after.holder = Holder::Free,
            What::MayRelease { owner, fence } if self.is_held_by(owner, fence) => after.holder = Holder::Unknown,
            What::MayShorten { owner } if self.is_held_by(owner, None) => after.holder = self.shortened(lasts_us),
            What::MayPass { owner } if self.is_held_by(owner, None) => after.holder = Holder::Unknown,
            What::MayRelease { .. } | What::MayShorten { .. } | What::MayPass { .. } => {}
            What::Lost => after.holder = Holder::Unknown,
        }
        if is_soft {
            after.holder = Holder::Unknown;
        }
        Some(after)
    }

    fn top_with(&self, owner: Owner, fence: Option<i64>) -> Option<(i64, Owner)> {
        match fence {
            None => Some(self.top),
            Some(fence) => (fence > self.top.0).then_some((fence, owner)),
        }
    }

    fn shortened(&self, to_us: u64) -> Holder {
        match self.holder {
            Holder::Held { owner, fence, lasts_us } => Holder::Held { owner, fence, lasts_us: lasts_us.min(to_us) },
            other => other,
        }
    }

    /// It is free, or its lease can have ended before the operation did.
    fn may_be_free(&self, operation: &Operation) -> bool {
        match self.holder {
            Holder::Unknown | Holder::Free => true,
            Holder::Held { lasts_us, .. } => lasts_us <= operation.until_us,
        }
    }

    fn is_held_by(&self, owner: Owner, fence: Option<i64>) -> bool {
        matches!(self.holder, Holder::Held { owner: present, fence: under, .. }
            if present == owner && (fence.is_none() || fence == under))
    }

    fn may_be_held_by(&self, owner: Owner, fence: Option<i64>, may_hold_untold: bool, operation: &Operation) -> bool {
        match self.holder {
            Holder::Unknown => true,
            _ if self.is_held_by(owner, fence) => true,
            _ => may_hold_untold && self.may_be_free(operation),
        }
    }
}
