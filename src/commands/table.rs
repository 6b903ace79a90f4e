//! The table of all commands, looked into once per command: a name becomes two machine words and a probe or two.

use std::collections::HashMap;
use std::fmt;

use super::builtin::{self, Known};
use super::lock_spec::{LOCK_COMMANDS, LockSpec};
use super::treatment::{Effect, Here, Treatment, Why};
use super::wire::{Cursor, Malformed, Token};

/// What `COMMAND` says of a command, as far as anybody here asks.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// None of them.
    pub const NONE: Flags = Flags(0);
    /// May change data.
    pub const WRITE: Flags = Flags(1);
    /// Reads data and changes none.
    pub const READONLY: Flags = Flags(1 << 1);
    /// Keys stand where other arguments say: `COMMAND GETKEYS` knows.
    pub const MOVABLE_KEYS: Flags = Flags(1 << 2);
    /// May wait for something to happen.
    pub const BLOCKING: Flags = Flags(1 << 3);
    /// Has to do with channels.
    pub const PUBSUB: Flags = Flags(1 << 4);
    /// Not allowed in scripts.
    pub const NO_SCRIPT: Flags = Flags(1 << 5);
    /// For administrators.
    pub const ADMIN: Flags = Flags(1 << 6);
    /// Not allowed in transactions.
    pub const NO_MULTI: Flags = Flags(1 << 7);
    /// Allowed before `AUTH`.
    pub const NO_AUTH: Flags = Flags(1 << 8);
    /// A module brought it.
    pub const MODULE: Flags = Flags(1 << 9);
    /// Constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 10);
    /// It may have to be told to replicas, though it only reads: `CLIENT PAUSE … WRITE` holds it up. `COMMAND` does not show it.
    pub const MAY_REPLICATE: Flags = Flags(1 << 11);

    /// `true` if all of `other` are among these.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// `true` if one of `other` is among these.
    pub const fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that are among `others`, too.
    #[must_use]
    pub const fn only(self, others: Flags) -> Flags {
        Flags(self.0 & others.0)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    fn by_name(name: &[u8]) -> Flags {
        match name {
            b"write" => Flags::WRITE,
            b"readonly" => Flags::READONLY,
            b"movablekeys" => Flags::MOVABLE_KEYS,
            b"blocking" => Flags::BLOCKING,
            b"pubsub" => Flags::PUBSUB,
            b"noscript" => Flags::NO_SCRIPT,
            b"admin" => Flags::ADMIN,
            b"no_multi" => Flags::NO_MULTI,
            b"no_auth" => Flags::NO_AUTH,
            b"module" => Flags::MODULE,
            b"fast" => Flags::FAST,
            _ => Flags::NONE,
        }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#b})", self.0)
    }
}

/// A command.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in lower case.
    pub name: Box<str>,
    /// How a session in its default state treats it.
    pub treatment: Treatment,
    /// What it does to its connection. For [`Treatment::Look`], [`resolve`](super::resolve) has the word.
    pub effect: Effect,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// Place of the first key, 0 if there is none.
    pub first_key: i32,
    /// Place of the last key; negative: counted from the end.
    pub last_key: i32,
    /// From one key to the next.
    pub step: i32,
    /// What `COMMAND` says of it.
    pub flags: Flags,
}

impl Entry {
    /// It may change data.
    pub fn is_write(&self) -> bool {
        self.flags.has(Flags::WRITE)
    }

    /// It reads data and changes none, here and on replicas.
    pub fn is_readonly(&self) -> bool {
        self.flags.has(Flags::READONLY) && !self.flags.has(Flags::MAY_REPLICATE)
    }

    /// `false` if Redis would refuse that many arguments (the name included).
    pub fn takes(&self, args: usize) -> bool {
        arity_allows(self.arity, args)
    }
}

/// `true` if a command of that arity takes so many arguments, the name included.
pub(super) fn arity_allows(arity: i32, args: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    if arity < 0 { args >= least } else { args == least }
}

/// Why a reply to `COMMAND` taught nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LearnError {
    /// The upstream refuses `COMMAND` (its ACL, still loading …).
    #[error("the upstream refused COMMAND: {0}")]
    Refused(String),
    /// The reply is not what `COMMAND` answers.
    #[error("the upstream's answer to COMMAND makes no sense: {0}")]
    Malformed(#[from] Malformed),
}

/// All commands that the upstream and Lockgate know.
#[derive(Clone, Debug)]
pub struct CommandTable {
    entries: Vec<Entry>,
    /// The packed names of `entries`; 0 for the long ones.
    keys: Vec<Packed>,
    /// Open addressing over `keys`: 0 is free, else the entry's place plus one.
    slots: Vec<u16>,
    /// Names longer than 16 bytes.
    long: HashMap<Box<str>, u16>,
}

/// Up to 16 bytes in lower case, the rest zero.
type Packed = [u64; 2];

const PACKED_MAX: usize = 16;

/// Longer names are unknown without a look.
const NAME_MAX: usize = 128;

/// A module may bring some hundreds of commands; this bounds what a strange upstream can make us keep.
const ENTRIES_MAX: usize = 16_384;

impl CommandTable {
    /// What is known before the upstream has been heard.
    pub fn builtin() -> CommandTable {
        CommandTable::from_entries(builtin_entries().collect())
    }

    /// The table for an upstream that answered `COMMAND` with these bytes (RESP2 or RESP3, any version).
    ///
    /// A core command's treatment is ours, its arity, keys and flags are the upstream's. What we do not know shares a
    /// link if the upstream's flags say that it only reads or writes; a module's command only if it is also `fast`, for
    /// a module may answer the slow ones from a thread of its own.
    pub fn learn(upstream_command_reply: &[u8]) -> Result<CommandTable, LearnError> {
        let known: HashMap<Box<str>, Entry> = builtin_entries().map(|entry| (entry.name.clone(), entry)).collect();
        let mut entries: HashMap<Box<str>, Entry> = known
            .values()
            .filter(|entry| stands_alone(entry))
            .map(|entry| (entry.name.clone(), entry.clone()))
            .collect();
        let mut cursor = Cursor::new(upstream_command_reply);
        let count = match cursor.next().map_err(LearnError::Malformed)? {
            Token::Array(count) => count,
            Token::Error(text) => return Err(LearnError::Refused(String::from_utf8_lossy(text).into_owned())),
            _ => return Err(LearnError::Malformed(Malformed { at: 0 })),
        };
        for _ in 0..count.min(ENTRIES_MAX) {
            let Some(told) = read_entry(&mut cursor)? else { continue };
            let entry = match known.get(&told.name) {
                Some(ours) => {
                    let flags = told.flags.and(ours.flags.only(Flags::MAY_REPLICATE));
                    Entry { treatment: ours.treatment, effect: ours.effect, flags, ..told }
                }
                None => judge(told),
            };
            entries.insert(entry.name.clone(), entry);
        }
        Ok(CommandTable::from_entries(entries.into_values().collect()))
    }

    /// The command of that name, in any case. `None`: unknown to the upstream, which may still take it (a module was
    /// loaded meanwhile): the caller uses an own link.
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        if name.len() > PACKED_MAX {
            return self.find_long(name);
        }
        let key = pack(name);
        let mask = self.slots.len() - 1;
        let mut slot = hash(key) & mask;
        loop {
            let place = usize::from(self.slots[slot].checked_sub(1)?);
            if self.keys[place] == key {
                let entry = &self.entries[place];
                // A zero byte at a name's end packs to the same words.
                return (entry.name.len() == name.len()).then_some(entry);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// All of them, in no order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn find_long(&self, name: &[u8]) -> Option<&Entry> {
        if name.len() > NAME_MAX {
            return None;
        }
        let mut lower = [0; NAME_MAX];
        let lower = &mut lower[..name.len()];
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let place = *self.long.get(std::str::from_utf8(lower).ok()?)?;
        self.entries.get(usize::from(place))
    }

    fn from_entries(entries: Vec<Entry>) -> CommandTable {
        let slots = vec![0; (entries.len() * 4).next_power_of_two()];
        let mut table = CommandTable { keys: Vec::with_capacity(entries.len()), slots, long: HashMap::new(), entries };
        let mask = table.slots.len() - 1;
        for (place, entry) in (0_u16..).zip(&table.entries) {
            if entry.name.len() > PACKED_MAX {
                table.keys.push([0; 2]);
                table.long.insert(entry.name.clone(), place);
                continue;
            }
            let key = pack(entry.name.as_bytes());
            table.keys.push(key);
            let mut slot = hash(key) & mask;
            while table.slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            table.slots[slot] = place + 1;
        }
        table
    }
}

fn builtin_entries() -> impl Iterator<Item = Entry> {
    let lists = [builtin::ABOUT_THE_CONNECTION, builtin::ON_AN_OWN_LINK, builtin::BY_ARGUMENTS, builtin::SHARED];
    lists.into_iter().flatten().map(Entry::from).chain(LOCK_COMMANDS.iter().map(Entry::from))
}

impl From<&LockSpec> for Entry {
    fn from(spec: &LockSpec) -> Self {
        let flags = spec.flags.iter().fold(Flags::NONE, |flags, name| flags.and(Flags::by_name(name.as_bytes())));
        let place = spec.keys.fixed_place();
        Entry {
            name: spec.name.into(),
            treatment: Treatment::Here(Here::Lock),
            effect: Effect::None,
            arity: spec.arity,
            first_key: place,
            last_key: place,
            step: place,
            flags,
        }
    }
}

impl From<&Known> for Entry {
    fn from(known: &Known) -> Self {
        let [first_key, last_key, step] = known.keys;
        Entry {
            name: known.name.into(),
            treatment: known.treatment,
            effect: known.effect,
            arity: known.arity,
            first_key,
            last_key,
            step,
            flags: known.flags,
        }
    }
}

/// Those that need not be in the upstream's list to exist: ours, and the ones which older servers have outside of it.
fn stands_alone(entry: &Entry) -> bool {
    matches!(entry.treatment, Treatment::Hang | Treatment::Here(Here::Lock | Here::Quit))
}

/// One element of the reply to `COMMAND`; `None` for a name that is none.
fn read_entry(cursor: &mut Cursor<'_>) -> Result<Option<Entry>, Malformed> {
    let fields = cursor.values()?;
    if fields < 6 {
        return Err(Malformed { at: cursor.position() });
    }
    let name = cursor.text()?.to_ascii_lowercase();
    let arity = cursor.int()?;
    let mut flags = Flags::NONE;
    for _ in 0..cursor.values()? {
        flags = flags.and(Flags::by_name(cursor.text()?));
    }
    let (first_key, last_key, step) = (cursor.int()?, cursor.int()?, cursor.int()?);
    for _ in 6..fields {
        cursor.skip()?;
    }
    let Ok(name) = String::from_utf8(name) else { return Ok(None) };
    if name.is_empty() || name.len() > NAME_MAX {
        return Ok(None);
    }
    let small = |number: i64| i32::try_from(number).unwrap_or_default();
    Ok(Some(Entry {
        name: name.into(),
        treatment: Treatment::Own(Why::Unknown),
        effect: Effect::Sticky,
        arity: small(arity),
        first_key: small(first_key),
        last_key: small(last_key),
        step: small(step),
        flags,
    }))
}

/// Module families that answer on the main thread and at once, also where they are not marked `fast`.
const PROMPT_FAMILIES: [&str; 6] = ["json.", "bf.", "cf.", "cms.", "topk.", "tdigest."];

/// `true` for modules' commands that are known not to use a thread. Of the time series, those over many of them ask the
/// other nodes of a cluster.
fn is_prompt(name: &str) -> bool {
    let series = name.strip_prefix("ts.").is_some_and(|rest| !rest.starts_with('m') && rest != "queryindex");
    series || PROMPT_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// The treatment of a command that we have never heard of, by what the upstream says about it.
fn judge(told: Entry) -> Entry {
    const ODD: Flags = Flags::BLOCKING
        .and(Flags::PUBSUB)
        .and(Flags::NO_SCRIPT)
        .and(Flags::ADMIN)
        .and(Flags::NO_MULTI)
        .and(Flags::NO_AUTH);
    let works_on_data = told.flags.has_any(Flags::READONLY.and(Flags::WRITE)) && !told.flags.has_any(ODD);
    let is_prompt = !told.flags.has(Flags::MODULE) || told.flags.has(Flags::FAST) || is_prompt(&told.name);
    match (works_on_data, is_prompt) {
        (true, true) => Entry { treatment: Treatment::Share, effect: Effect::None, ..told },
        (true, false) => Entry { treatment: Treatment::Own(Why::Module), effect: Effect::None, ..told },
        (false, _) => Entry { treatment: Treatment::Own(Why::Unknown), effect: Effect::Sticky, ..told },
    }
}

/// Up to 16 bytes as two words in lower case. Reads overlap instead of copying byte by byte: this runs per command.
fn pack(name: &[u8]) -> Packed {
    let word = |at: usize| u64::from_le_bytes(name[at..at + 8].try_into().unwrap_or_default());
    let half = |at: usize| u64::from(u32::from_le_bytes(name[at..at + 4].try_into().unwrap_or_default()));
    let length = name.len();
    let words = match length {
        8 => [word(0), 0],
        9..=16 => [word(0), word(length - 8) >> (8 * (16 - length))],
        4..8 => [half(0) | half(length - 4) << (8 * (length - 4)), 0],
        1..4 => {
            let byte = |at: usize| u64::from(name[at]) << (8 * at);
            [byte(0) | byte(length / 2) | byte(length - 1), 0]
        }
        _ => [0, 0],
    };
    [lower(words[0]), lower(words[1])]
}

/// Eight bytes at once: sets 0x20 in those between `A` and `Z`.
fn lower(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let ascii = !word & (ONES * 0x80);
    let low = word & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let past_z = low + ONES * (0x80 - b'Z' as u64 - 1);
    word | (from_a & !past_z & ascii) >> 2
}

/// The upper bits of a product depend on all bits of the name; more of them than any table has slots.
fn hash([low, high]: Packed) -> usize {
    ((low ^ high.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reply to `COMMAND` in the form of Redis 6.2 (seven elements) with these names and flags.
    fn reply(commands: &[(&str, &[&str])]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", commands.len());
        for (name, flags) in commands {
            out += &format!("*7\r\n${}\r\n{name}\r\n:-2\r\n*{}\r\n", name.len(), flags.len());
            out.extend(flags.iter().map(|flag| format!("+{flag}\r\n")));
            out += ":1\r\n:1\r\n:1\r\n*1\r\n+@slow\r\n";
        }
        out.into_bytes()
    }

    fn learned(commands: &[(&str, &[&str])]) -> CommandTable {
        CommandTable::learn(&reply(commands)).expect("a good reply")
    }

    fn treatment(table: &CommandTable, name: &str) -> Option<Treatment> {
        table.find(name.as_bytes()).map(|entry| entry.treatment)
    }

    #[test]
    fn every_command_is_found_in_any_case() {
        let table = CommandTable::builtin();
        for entry in table.entries() {
            for name in [entry.name.to_string(), entry.name.to_uppercase(), capitalized(&entry.name)] {
                assert_eq!(table.find(name.as_bytes()).map(|found| &found.name), Some(&entry.name), "{name}");
            }
        }
    }

    fn capitalized(name: &str) -> String {
        name.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect()
    }

    #[test]
    fn names_that_are_none_are_not_found() {
        let table = CommandTable::builtin();
        for name in
            ["", "ge", "gett", "get\0", "\0", "GET ", "zrangebyscor\u{0}", "georadiusbymembex", "@", "[", "\u{e9}"]
        {
            assert!(table.find(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(table.find(&[b'x'; 100_000]).is_none());
    }

    #[test]
    fn no_name_stands_twice_in_the_table() {
        let mut names: Vec<_> = builtin_entries().map(|entry| entry.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn probes_are_short() {
        let table = CommandTable::builtin();
        let mask = table.slots.len() - 1;
        for (slot, &place) in table.slots.iter().enumerate().filter(|(_, place)| **place != 0) {
            let home = hash(table.keys[usize::from(place) - 1]) & mask;
            assert!((slot.wrapping_sub(home) & mask) < 8, "{:?}", table.entries[usize::from(place) - 1].name);
        }
    }

    #[test]
    fn the_upstream_decides_what_exists_and_we_how_it_is_treated() {
        let table = learned(&[("get", &["readonly"]), ("blpop", &["write"]), ("flushall", &["write"])]);
        assert_eq!(treatment(&table, "GET"), Some(Treatment::Share));
        assert_eq!(treatment(&table, "blpop"), Some(Treatment::Own(Why::Blocking)));
        assert_eq!(treatment(&table, "set"), None, "this upstream has none");
        assert_eq!(treatment(&table, "config"), None);
        assert_eq!(table.find(b"get").map(|entry| entry.arity), Some(-2), "arity is the upstream's");
    }

    #[test]
    fn what_older_servers_do_not_list_is_there_all_the_same() {
        let table = learned(&[]);
        assert_eq!(treatment(&table, "quit"), Some(Treatment::Here(Here::Quit)));
        assert_eq!(treatment(&table, "POST"), Some(Treatment::Hang));
        assert_eq!(treatment(&table, "Host:"), Some(Treatment::Hang));
        assert_eq!(treatment(&table, "lock.acquire"), Some(Treatment::Here(Here::Lock)));
    }

    #[test]
    fn an_unknown_command_is_shared_only_if_its_flags_leave_no_doubt() {
        let table = learned(&[
            ("newread", &["readonly", "fast"]),
            ("newwrite", &["write", "denyoom", "movablekeys"]),
            ("newpop", &["write", "blocking"]),
            ("newsub", &["pubsub", "readonly"]),
            ("newadmin", &["admin", "write"]),
            ("newstate", &["noscript", "fast"]),
            ("newcontainer", &[]),
            ("json.get", &["readonly", "module"]),
            ("ts.add", &["write", "module"]),
            ("ts.mrange", &["readonly", "module"]),
            ("ft.search", &["readonly", "module"]),
            ("mine.peek", &["readonly", "module", "fast"]),
        ]);
        let unknown = Some(Treatment::Own(Why::Unknown));
        for name in ["newread", "newwrite", "json.get", "ts.add", "mine.peek"] {
            assert_eq!(treatment(&table, name), Some(Treatment::Share), "{name}");
        }
        for name in ["newpop", "newsub", "newadmin", "newstate", "newcontainer"] {
            assert_eq!(treatment(&table, name), unknown, "{name}");
            assert_eq!(table.find(name.as_bytes()).map(|entry| entry.effect), Some(Effect::Sticky), "{name}");
        }
        for name in ["ts.mrange", "ft.search"] {
            assert_eq!(treatment(&table, name), Some(Treatment::Own(Why::Module)), "{name}");
        }
    }

    #[test]
    fn a_refusal_or_nonsense_teaches_nothing() {
        let refused = CommandTable::learn(b"-NOAUTH Authentication required.\r\n");
        assert_eq!(refused.err(), Some(LearnError::Refused("NOAUTH Authentication required.".into())));
        let long = b"*99999999\r\n*7\r\n".as_slice();
        for nonsense in
            [b"".as_slice(), b"+OK\r\n", b"*1\r\n:1\r\n", b"*1\r\n*2\r\n:1\r\n:1\r\n", b"*2\r\n", long, b"*-5\r\n"]
        {
            assert!(
                matches!(CommandTable::learn(nonsense), Err(LearnError::Malformed(_))),
                "{}",
                nonsense.escape_ascii()
            );
        }
    }

    proptest! {
        #[test]
        fn packing_is_lower_case_padded_with_zeros(name in proptest::collection::vec(any::<u8>(), 0..=PACKED_MAX)) {
            let mut plain = [0; PACKED_MAX];
            plain[..name.len()].copy_from_slice(&name.to_ascii_lowercase());
            let packed: Vec<u8> = pack(&name).iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(packed, plain);
        }

        #[test]
        fn no_reply_makes_learning_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..400_usize) {
            let _ = CommandTable::learn(&bytes);
            let good = reply(&[("get", &["readonly"]), ("blpop", &["write", "blocking"])]);
            let _ = CommandTable::learn(&good[..cut.min(good.len())]);
        }
    }
}
