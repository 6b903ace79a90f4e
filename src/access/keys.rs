//! Which arguments of a command are keys, and what happens to them, by the key specifications that `COMMAND` tells.

use super::arguments::whole_number;
use super::keys_by_hand::ByHand;

/// What happens to a key, as far as rules ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Touch(u8);

impl Touch {
    /// It is only named.
    pub const NONE: Touch = Touch(0);
    /// Its data is read, and comes back or goes elsewhere.
    pub const READ: Touch = Touch(1);
    /// Its data is changed.
    pub const WRITE: Touch = Touch(1 << 1);
    /// Both.
    pub const BOTH: Touch = Touch(3);

    /// `true` if all of `other` is in this.
    pub const fn has(self, other: Touch) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Touch) -> Touch {
        Touch(self.0 | other.0)
    }
}

/// A key of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyRef {
    /// Its place among the arguments, from 0 for the command's name.
    pub at: usize,
    /// What happens to it.
    pub touch: Touch,
}

/// As many keys as fit without an allocation.
const INLINE: usize = 8;

/// The keys of a command, in the order in which the servers look at them.
#[derive(Clone, Debug, Default)]
pub struct KeyRefs {
    inline: [KeyRef; INLINE],
    count: usize,
    spilled: Vec<KeyRef>,
}

impl KeyRefs {
    /// One more.
    pub(super) fn push(&mut self, at: usize, touch: Touch) {
        let key = KeyRef { at, touch };
        if self.spilled.is_empty() && self.count < INLINE {
            self.inline[self.count] = key;
        } else {
            if self.spilled.is_empty() {
                self.spilled.extend_from_slice(&self.inline);
            }
            self.spilled.push(key);
        }
        self.count += 1;
    }

    fn clear(&mut self) {
        self.count = 0;
        self.spilled.clear();
    }

    /// All of them.
    pub fn as_slice(&self) -> &[KeyRef] {
        if self.spilled.is_empty() { &self.inline[..self.count] } else { &self.spilled }
    }
}

/// Where the search for keys begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// At that argument.
    Index(i64),
    /// Behind that word, which is looked for from there on; a negative place counts from the end, and the search goes backwards.
    Keyword { word: Box<[u8]>, from: i64 },
    /// The specification does not say.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Find {
    /// Up to `last`, counted from the first or, where negative, from the end; with a limit, only that part of what is left.
    Range { last: i64, step: i64, limit: i64 },
    /// As many as the argument `index` behind the beginning says, from `first` behind it on.
    Count { index: i64, first: i64, step: i64 },
    /// The specification does not say.
    Unknown,
}

/// One key specification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeySpec {
    pub touch: Touch,
    /// What it finds is routed like a key and is none: a sharded channel.
    pub is_not_key: bool,
    /// There may be more keys than it finds.
    pub is_incomplete: bool,
    /// What happens to the key depends on other arguments.
    pub is_variable: bool,
    pub begin: Begin,
    pub find: Find,
}

/// A specification does not fit these arguments.
struct Misfit;

impl KeySpec {
    fn find(&self, args: &[&[u8]], keys: &mut KeyRefs) -> Result<(), Misfit> {
        let Some(first) = self.beginning(args)? else { return Ok(()) };
        let count = i64::try_from(args.len()).map_err(|_| Misfit)?;
        let (first, last, step) = match self.find {
            Find::Range { last, step, .. } if last >= 0 => (first, first.saturating_add(last), step),
            Find::Range { last, step, limit: 0 } => (first, count + last, step),
            Find::Range { last, step, limit } => (first, first + ((count - first) / limit + last), step),
            Find::Count { index, first: offset, step } => {
                let told = usize::try_from(first + index).ok().and_then(|at| args.get(at)).ok_or(Misfit)?;
                let number = whole_number(told).filter(|number| *number >= 0).ok_or(Misfit)?;
                let first = first + offset;
                (first, first.saturating_add((number - 1).saturating_mul(step)), step)
            }
            Find::Unknown => return Err(Misfit),
        };
        if last >= count || last < first || first >= count || first < 0 || step < 1 {
            return Err(Misfit);
        }
        let mut at = first;
        while at <= last {
            keys.push(usize::try_from(at).map_err(|_| Misfit)?, self.touch);
            at += step;
        }
        if self.is_incomplete { Err(Misfit) } else { Ok(()) }
    }

    /// The place where the search begins; `None` if its word does not stand there.
    fn beginning(&self, args: &[&[u8]]) -> Result<Option<i64>, Misfit> {
        let (word, from) = match &self.begin {
            Begin::Index(at) => return Ok(Some(*at)),
            Begin::Unknown => return Err(Misfit),
            Begin::Keyword { word, from } => (word, *from),
        };
        let count = i64::try_from(args.len()).map_err(|_| Misfit)?;
        // As the servers do it: the last argument looked at is the one before the end.
        let (start, end) = if from > 0 { (from, count - 1) } else { (count + from, 1) };
        let step = if start <= end { 1 } else { -1 };
        let mut at = start;
        while at != end && (1..count).contains(&at) {
            let is_word = usize::try_from(at).is_ok_and(|at| args[at].eq_ignore_ascii_case(word));
            if is_word {
                return Ok(Some(at + 1));
            }
            at += step;
        }
        Ok(None)
    }
}

/// All that is known of where a command's keys stand.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFinder {
    specs: Box<[KeySpec]>,
    by_hand: Option<ByHand>,
    prefers_specs: bool,
    has_keys: bool,
}

impl KeyFinder {
    pub fn new(name: &str, specs: Vec<KeySpec>) -> Self {
        let by_hand = ByHand::of(name);
        let has_spec = specs.iter().any(|spec| !spec.is_not_key);
        KeyFinder {
            prefers_specs: has_spec && !specs.iter().any(|spec| spec.is_variable),
            has_keys: has_spec || by_hand.is_some(),
            by_hand,
            specs: specs.into(),
        }
    }

    /// Whether the command can have keys at all.
    pub fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// The keys among `args`. Where there are none, or the command is going to refuse its arguments, none.
    pub fn find(&self, args: &[&[u8]]) -> KeyRefs {
        let mut keys = KeyRefs::default();
        if self.prefers_specs {
            let mut specs = self.specs.iter().filter(|spec| !spec.is_not_key);
            if specs.all(|spec| spec.find(args, &mut keys).is_ok()) {
                return keys;
            }
            keys.clear();
        }
        if let Some(by_hand) = self.by_hand {
            by_hand.find(args, &mut keys);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_keys_than_fit_are_kept_all_the_same() {
        let mut keys = KeyRefs::default();
        for at in 0..20 {
            keys.push(at, Touch::READ);
            assert_eq!(keys.as_slice().len(), at + 1);
        }
        assert!(keys.as_slice().iter().enumerate().all(|(place, key)| key.at == place));
    }
}
