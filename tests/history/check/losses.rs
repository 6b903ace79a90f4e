//! What the server had lost, and what that excuses. A lock is a key: what is lost of the server's data is lost of the locks, for
//! exactly those keys and grants that can have been lost with it. Fences are excused by nothing.
//!
//! - *Everything* (a server that came back empty, or was flushed): what was granted or written before the loss was over is gone from
//!   its beginning on.
//! - *The newest* (a replica took over): what was executed before the loss began has stayed. What can have been executed while it
//!   lasted may be undone: a grant or a write is gone, an extension is, and a lock that had been released may be held once more, by the
//!   owner and under the fence that it had, until the end of its lease.

use crate::history::record::{Loss, Record};

/// All losses of a history.
pub struct Losses(Vec<Span>);

struct Span {
    from_us: u64,
    until_us: u64,
    what: Loss,
}

impl Losses {
    pub fn of(history: &[Record]) -> Self {
        let span = |record: &Record| match record {
            Record::Fault(fault) => {
                fault.loses.map(|what| Span { from_us: fault.from_us, until_us: fault.until_us, what })
            }
            _ => None,
        };
        Self(history.iter().filter_map(span).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Until when something certainly stands that was written between these times, if nobody changes it.
    pub fn stands_until(&self, (from_us, until_us): (u64, u64)) -> u64 {
        let takes = |span: &&Span| {
            from_us < span.until_us
                && match span.what {
                    Loss::Everything => true,
                    Loss::Newest => until_us >= span.from_us,
                }
        };
        self.0.iter().filter(takes).map(|span| span.from_us).min().unwrap_or(u64::MAX)
    }

    /// What was done between these times can have been undone, so that what it had changed is as before.
    pub fn may_undo(&self, from_us: u64, until_us: u64) -> bool {
        let undoes = |span: &Span| span.what == Loss::Newest && from_us < span.until_us && until_us >= span.from_us;
        self.0.iter().any(undoes)
    }
}
