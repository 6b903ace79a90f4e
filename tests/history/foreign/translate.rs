//! From a recording to operations on a fenced lock, key by key.

use super::lock::{Operation, Owner, What};
use crate::history::check::TICK;
use crate::history::record::{Bond, Call, Fault, Loss, Op, Outcome, Record};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// What was sent and not answered acts no later than this after its end was seen: by then its link has been ended upstream.
const ACTS_WITHIN_US: u64 = 15_000_000;
/// After a failover an older holder may be back until the end of its lease; none is longer than this.
const RETURNS_WITHIN_US: u64 = 15_000_000;
/// The lease of a key that waits for the rest of its set.
const PENDING_MS: u64 = 2000;

/// An operation and the time within which it took effect.
#[derive(Clone, Debug)]
pub struct Timed {
    pub operation: Operation,
    pub from_us: u64,
    pub until_us: u64,
    told: String,
}

impl Timed {
    /// The same as far as it is known at that moment: what had not ended by then may come later.
    pub fn cut_at(&self, cut_us: u64) -> Timed {
        let mut cut = self.clone();
        if self.until_us > cut_us {
            cut.until_us = cut_us;
            cut.operation.is_soft = true;
        }
        cut
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (self.from_us as f64 / 1000.0, self.until_us as f64 / 1000.0);
        write!(f, "[{from:.1} … {until:.1} ms] {}", self.told)
    }
}

/// The operations of each key, but for the clock's.
pub fn by_key(history: &[Record]) -> BTreeMap<&str, Vec<Timed>> {
    let mut calls: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for record in history {
        if let Record::Call(call) = record
            && !call.key.starts_with(TICK)
        {
            calls.entry(&call.key).or_default().push(call);
        }
    }
    let scene = Scene::of(history);
    calls.into_iter().map(|(key, calls)| (key, scene.operations(&calls))).collect()
}

/// What else was recorded.
struct Scene<'a> {
    faults: Vec<&'a Fault>,
    closed_us: HashMap<u64, u64>,
    end_us: u64,
}

impl<'a> Scene<'a> {
    fn of(history: &'a [Record]) -> Self {
        let mut scene = Scene { faults: Vec::new(), closed_us: HashMap::new(), end_us: 0 };
        for record in history {
            let at_us = match record {
                Record::Call(call) => call.until_us,
                Record::Fault(fault) => {
                    scene.faults.push(fault);
                    fault.until_us
                }
                Record::Closed(closed) => {
                    scene.closed_us.insert(closed.conn, closed.from_us);
                    closed.from_us
                }
                _ => 0,
            };
            scene.end_us = scene.end_us.max(at_us);
        }
        scene.end_us += ACTS_WITHIN_US;
        scene
    }

    fn operations(&self, calls: &[&Call]) -> Vec<Timed> {
        let mut owners = Owners::default();
        let mut operations: Vec<Timed> =
            calls.iter().filter_map(|call| self.operation(&mut owners, calls, call)).collect();
        operations.extend(calls.iter().filter_map(|call| self.end_of_ephemeral(&mut owners, call)));
        operations.extend(self.faults.iter().filter(|fault| fault.loses.is_some()).map(|fault| Timed {
            operation: plain(What::Lost, fault.until_us),
            from_us: fault.from_us,
            until_us: fault.until_us,
            told: format!("the server loses data: {}", fault.what),
        }));
        for timed in &mut operations {
            timed.operation.is_soft |= self.touches_a_loss(timed);
        }
        operations
    }

    fn touches_a_loss(&self, timed: &Timed) -> bool {
        self.faults.iter().any(|fault| {
            let until_us = match fault.loses {
                None => return false,
                Some(Loss::Everything) => fault.until_us,
                Some(Loss::Newest) => fault.until_us + RETURNS_WITHIN_US,
            };
            timed.from_us <= until_us && timed.until_us >= fault.from_us
        })
    }

    fn operation(&self, owners: &mut Owners, calls: &[&Call], call: &Call) -> Option<Timed> {
        let is_answered = !matches!(call.outcome, Outcome::Unknown | Outcome::Missing | Outcome::Error(_));
        let what = what(owners, call, is_answered)?;
        let is_certain =
            !matches!(what, What::MayRelease { .. } | What::MayShorten { .. } | What::MayPass { .. } | What::Lost);
        let is_over = is_certain || matches!(call.op, Op::ReleaseAll { .. }) && is_answered;
        let until_us = if is_over { call.until_us } else { (call.until_us + ACTS_WITHIN_US).min(self.end_us) };
        Some(Timed {
            operation: Operation {
                what,
                until_us,
                lasts_us: lasts_us(call),
                may_hold_untold: may_hold_untold(calls, call),
                is_soft: false,
            },
            from_us: call.from_us,
            until_us,
            told: format!("{:?} {} {} → {:?}", call.op, call.key, call.owner, call.outcome),
        })
    }

    /// A lock that is tied to a connection may go with it, or with its node.
    fn end_of_ephemeral(&self, owners: &mut Owners, call: &Call) -> Option<Timed> {
        let (Op::Acquire { bond: Bond::Ephemeral, .. }, Outcome::Int(fence)) = (&call.op, &call.outcome) else {
            return None;
        };
        let broken = self.faults.iter().filter(|fault| fault.until_us >= call.from_us).map(|fault| fault.from_us);
        let from_us = broken.chain(self.closed_us.get(&call.conn).copied()).min()?.max(call.from_us);
        let what = What::MayRelease { owner: owners.number(&call.owner), fence: Some(*fence) };
        let until_us = self.end_us.max(from_us);
        let told = format!("the connection of '{}' may have ended", call.owner);
        Some(Timed { operation: plain(what, until_us), from_us, until_us, told })
    }
}

fn plain(what: What, until_us: u64) -> Operation {
    Operation { what, until_us, lasts_us: 0, may_hold_untold: false, is_soft: false }
}

/// What a call demands and does; `None` for what neither changes the lock nor tells of it.
fn what(owners: &mut Owners, call: &Call, is_answered: bool) -> Option<What> {
    let owner = owners.number(&call.owner);
    Some(match (&call.op, &call.outcome) {
        (Op::Acquire { .. } | Op::AcquireAll { .. }, Outcome::Int(fence)) => {
            What::Granted { owner, fence: Some(*fence) }
        }
        // The owner's own lock may have a new lease all the same.
        (Op::Acquire { .. } | Op::AcquireAll { .. }, _) => What::MayShorten { owner },
        (Op::SetNx { .. }, Outcome::Ok) => What::Granted { owner, fence: None },
        (Op::Transfer { to, .. }, Outcome::Int(fence)) => {
            What::Transferred { from: owner, owner: owners.number(to), fence: *fence }
        }
        (Op::Transfer { .. }, _) if !is_answered => What::MayPass { owner },
        (Op::Extend { fence, .. }, Outcome::Int(1)) => What::Extended { owner, fence: *fence },
        (Op::Extend { .. }, _) if !is_answered => What::MayShorten { owner },
        (Op::Release { fence }, Outcome::Int(1)) => What::Released { owner, fence: *fence },
        (Op::Release { fence }, _) if !is_answered => What::MayRelease { owner, fence: *fence },
        (Op::CompareAndDelete, Outcome::Int(1)) => What::Released { owner, fence: None },
        (Op::CompareAndDelete, _) if !is_answered => What::MayRelease { owner, fence: None },
        (Op::ReleaseAll { .. }, outcome) if *outcome != Outcome::Int(0) => What::MayRelease { owner, fence: None },
        (Op::Force | Op::Del, Outcome::Int(1)) => What::Freed,
        (Op::Force | Op::Del, _) if !is_answered => What::Lost,
        (Op::Guard { fence, .. }, Outcome::Int(_) | Outcome::Ok | Outcome::Nil) => What::Guarded { fence: *fence },
        _ => return None,
    })
}

/// The earliest end of the lease that this call can have set. Servers round milliseconds, and clocks differ a little.
fn lasts_us(call: &Call) -> u64 {
    let ttl_ms = match &call.op {
        Op::Acquire { ttl_ms, .. }
        | Op::Extend { ttl_ms, .. }
        | Op::Transfer { ttl_ms, .. }
        | Op::SetNx { ttl_ms, .. } => *ttl_ms,
        Op::AcquireAll { ttl_ms, .. } if matches!(call.outcome, Outcome::Int(_)) => *ttl_ms,
        Op::AcquireAll { ttl_ms, .. } => (*ttl_ms).min(PENDING_MS),
        _ => return 0,
    };
    (call.from_us + ttl_ms * 1000).saturating_sub(5_000 + ttl_ms)
}

/// Another call of that owner may have been granted the lock without being told, before this one ended.
fn may_hold_untold(calls: &[&Call], call: &Call) -> bool {
    calls.iter().any(|other| {
        let asks = match &other.op {
            Op::Acquire { .. } | Op::AcquireAll { .. } => {
                other.owner == call.owner && !matches!(other.outcome, Outcome::Int(_))
            }
            Op::SetNx { .. } => other.owner == call.owner && other.outcome != Outcome::Ok,
            Op::Transfer { to, .. } => *to == call.owner && !matches!(other.outcome, Outcome::Int(_)),
            _ => false,
        };
        asks && other.from_us <= call.until_us
    })
}

/// Owners as numbers.
#[derive(Default)]
struct Owners(HashMap<String, Owner>);

impl Owners {
    fn number(&mut self, owner: &str) -> Owner {
        let next = self.0.len() as Owner;
        *self.0.entry(owner.to_owned()).or_insert(next)
    }
}
