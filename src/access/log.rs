//! What `ACL LOG` tells: refusals, the newest first, equal ones within a minute as one.

use std::collections::VecDeque;

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
    /// A name with its password.
    Auth,
    /// A database.
    Database,
}

impl Reason {
    /// As `ACL LOG` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Channel => "channel",
            Reason::Auth => "auth",
            Reason::Database => "database",
        }
    }
}

/// Where it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// By itself.
    TopLevel,
    /// In a transaction, when queued or at `EXEC`.
    Multi,
    /// In a script.
    Lua,
}

impl Context {
    /// As `ACL LOG` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Context::TopLevel => "toplevel",
            Context::Multi => "multi",
            Context::Lua => "lua",
        }
    }
}

/// A refusal, and how often it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// How often.
    pub count: u64,
    /// What was refused.
    pub reason: Reason,
    /// Where it was asked for.
    pub context: Context,
    /// The command, key, channel or database.
    pub object: Box<[u8]>,
    /// Who asked.
    pub user: Box<[u8]>,
    /// The last client that asked, as `CLIENT INFO` writes it.
    pub client_info: Box<[u8]>,
    /// Grows with every entry.
    pub id: u64,
    /// When it first came, Unix time in ms.
    pub created_ms: u64,
    /// When it last came.
    pub updated_ms: u64,
}

impl LogEntry {
    /// How long ago it last came.
    pub fn age_s(&self, now_ms: u64) -> f64 {
        now_ms.saturating_sub(self.updated_ms) as f64 / 1000.0
    }

    fn is_like(&self, other: &LogEntry) -> bool {
        self.reason == other.reason
            && self.context == other.context
            && self.updated_ms.abs_diff(other.updated_ms) <= GROUPED_WITHIN_MS
            && self.object == other.object
            && self.user == other.user
    }
}

const GROUPED_WITHIN_MS: u64 = 60_000;
/// So many of the newest are looked at for an equal one.
const LOOKED_AT: usize = 10;

/// The log. It has a bounded number of entries.
#[derive(Clone, Debug)]
pub struct Log {
    entries: VecDeque<LogEntry>,
    entries_max: usize,
    next_id: u64,
}

impl Log {
    /// The servers' own bound.
    pub const ENTRIES_MAX: usize = 128;

    /// An empty log of that size at most; with 0 nothing is kept.
    pub fn new(entries_max: usize) -> Self {
        Log { entries: VecDeque::new(), entries_max, next_id: 0 }
    }

    /// Notes a refusal.
    pub fn add(
        &mut self,
        now_ms: u64,
        reason: Reason,
        context: Context,
        object: &[u8],
        user: &[u8],
        client_info: &[u8],
    ) {
        if self.entries_max == 0 {
            return;
        }
        let new = LogEntry {
            count: 1,
            reason,
            context,
            object: object.into(),
            user: user.into(),
            client_info: client_info.into(),
            id: self.next_id,
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        let like = self.entries.iter().take(LOOKED_AT).position(|entry| entry.is_like(&new));
        match like.and_then(|place| self.entries.remove(place)) {
            Some(old) => self.entries.push_front(LogEntry {
                count: old.count + 1,
                client_info: new.client_info,
                updated_ms: now_ms,
                ..old
            }),
            None => {
                self.next_id += 1;
                self.entries.push_front(new);
                self.entries.truncate(self.entries_max);
            }
        }
    }

    /// The newest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &LogEntry> {
        self.entries.iter()
    }

    /// Forgets all of them. Their numbers go on.
    pub fn reset(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(log: &mut Log, now_ms: u64, key: &str) {
        log.add(now_ms, Reason::Key, Context::TopLevel, key.as_bytes(), b"app", b"id=1");
    }

    fn told(log: &Log) -> Vec<(String, u64, u64)> {
        let text = |entry: &LogEntry| String::from_utf8_lossy(&entry.object).into_owned();
        log.entries().map(|entry| (text(entry), entry.count, entry.id)).collect()
    }

    #[test]
    fn equal_refusals_within_a_minute_are_one_entry() {
        let mut log = Log::new(10);
        key(&mut log, 0, "a");
        key(&mut log, 10, "b");
        key(&mut log, 60_000, "a");
        assert_eq!(told(&log), [("a".into(), 2, 0), ("b".into(), 1, 1)]);
        key(&mut log, 120_001, "a");
        assert_eq!(told(&log), [("a".into(), 1, 2), ("a".into(), 2, 0), ("b".into(), 1, 1)]);
        let newest = log.entries().next().expect("an entry");
        assert!((newest.age_s(121_501) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn reason_context_and_user_keep_refusals_apart() {
        let mut log = Log::new(10);
        key(&mut log, 0, "get");
        log.add(0, Reason::Command, Context::TopLevel, b"get", b"app", b"");
        log.add(0, Reason::Key, Context::Multi, b"get", b"app", b"");
        log.add(0, Reason::Key, Context::TopLevel, b"get", b"other", b"");
        assert_eq!(log.entries().len(), 4);
    }

    #[test]
    fn only_ten_are_looked_at_and_only_so_many_are_kept() {
        let mut log = Log::new(12);
        for number in 0..11 {
            key(&mut log, 0, &number.to_string());
        }
        key(&mut log, 0, "0");
        assert_eq!(log.entries().next().map(|entry| entry.count), Some(1), "the eleventh is too far down");
        key(&mut log, 0, "x");
        assert_eq!(log.entries().len(), 12);
        log.reset();
        assert_eq!(log.entries().len(), 0);
        key(&mut log, 0, "y");
        assert_eq!(log.entries().next().map(|entry| entry.id), Some(13));
        let mut none = Log::new(0);
        key(&mut none, 0, "a");
        assert_eq!(none.entries().len(), 0);
    }
}
