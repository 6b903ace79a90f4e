//! One set of rights: commands, keys, channels, databases. A user has one, and one more for each pair of brackets.

use super::arguments::{has_blank, up_to_zero};
use super::catalog::{Catalog, CommandId};
use super::category::Categories;
use super::dialect::Dialect;
use super::keys::Touch;
use super::pattern::Pattern;
use super::rule::RuleError;

/// A bit for each command of a catalog.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn all(commands: usize, value: bool) -> Bits {
        Bits(vec![if value { u64::MAX } else { 0 }; commands.div_ceil(64)])
    }

    pub fn has(&self, id: CommandId) -> bool {
        self.0.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    fn set(&mut self, id: CommandId, value: bool) {
        if let Some(word) = self.0.get_mut(id.index() / 64) {
            let bit = 1 << (id.index() % 64);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }
}

/// A rule for commands as it was given: the name of a command or, with its `@`, of a category.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CommandRule {
    pub allows: bool,
    pub name: Box<[u8]>,
}

/// Which commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Commands {
    /// All of them, without a look at the bits.
    pub all: bool,
    /// Those too that the upstream is still to learn: the rules began with `+@all`.
    pub future: bool,
    pub allowed: Bits,
    /// First arguments with which a command is allowed that is not.
    pub first_args: Vec<(CommandId, Vec<Box<[u8]>>)>,
    pub rules: Vec<CommandRule>,
}

impl Commands {
    pub fn none(catalog: &Catalog) -> Self {
        let allowed = Bits::all(catalog.len(), false);
        Commands { all: false, future: false, allowed, first_args: Vec::new(), rules: Vec::new() }
    }

    /// `+@all` or `-@all`.
    pub fn set_all(&mut self, value: bool, catalog: &Catalog) {
        *self =
            Commands { all: value, future: value, allowed: Bits::all(catalog.len(), value), ..Commands::none(catalog) };
    }

    pub fn set_one(&mut self, id: CommandId, value: bool) {
        self.allowed.set(id, value);
        if !value {
            self.all = false;
        }
    }

    /// A command with its subcommands, and what goes with them.
    pub fn set(&mut self, id: CommandId, value: bool, catalog: &Catalog) {
        let command = catalog.command(id);
        self.first_args.retain(|(of, _)| *of != id);
        for one in std::iter::once(&id).chain(&command.subcommands) {
            self.set_one(*one, value);
            for follower in &catalog.command(*one).followers {
                self.set_one(*follower, value);
            }
        }
    }

    pub fn set_category(&mut self, category: Categories, value: bool, catalog: &Catalog, dialect: Dialect) {
        for (id, command) in catalog.iter() {
            if command.categories.has_any(category) && !(dialect.spares_modules && command.is_module) {
                self.set(id, value, catalog);
            }
        }
    }

    /// Notes a rule, and forgets those before it that it makes void.
    fn note(&mut self, allows: bool, name: &[u8]) {
        let name = name.to_ascii_lowercase();
        self.rules.retain(|rule| {
            let rest = rule.name.strip_prefix(name.as_slice());
            rest.is_none_or(|rest| !rest.is_empty() && rest[0] != b'|')
        });
        self.rules.push(CommandRule { allows, name: name.into() });
    }

    /// The same rules, as far as another catalog knows what they name.
    pub fn relearn(&mut self, catalog: &Catalog, dialect: Dialect) {
        let rules = std::mem::take(&mut self.rules);
        self.set_all(self.future, catalog);
        for rule in &rules {
            // What is not there any more may come back.
            if self.apply(rule.allows, &rule.name, catalog, dialect).is_err() {
                self.rules.push(rule.clone());
            }
        }
    }

    /// `+name` or `-name`; the name may be that of a category, and is not `@all`.
    pub fn apply(&mut self, allows: bool, name: &[u8], catalog: &Catalog, dialect: Dialect) -> Result<(), RuleError> {
        if let Some(category) = name.strip_prefix(b"@") {
            let found = catalog.categories().find(category).ok_or(RuleError::Unknown)?;
            self.set_category(found, allows, catalog, dialect);
            self.note(allows, name);
            return Ok(());
        }
        if allows && let Some(bar) = name.iter().rposition(|byte| *byte == b'|') {
            return self.allow_part(name, bar, catalog);
        }
        let id = catalog.named(name).ok_or(RuleError::Unknown)?;
        self.set(id, allows, catalog);
        self.note(allows, catalog.command(id).name.as_bytes());
        Ok(())
    }

    /// `+command|word`: a subcommand or, for a command that has none, its first argument.
    fn allow_part(&mut self, name: &[u8], bar: usize, catalog: &Catalog) -> Result<(), RuleError> {
        let id = catalog.named(&name[..bar]).ok_or(RuleError::Unknown)?;
        let (command, word) = (catalog.command(id), &name[bar + 1..]);
        if command.parent.is_some() {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        // What has a blank in it could not be read back.
        if word.is_empty() || has_blank(word) {
            return Err(RuleError::Syntax);
        }
        if command.subcommands.is_empty() {
            self.allow_first_arg(id, word);
        } else {
            self.set(catalog.named(name).ok_or(RuleError::Unknown)?, true, catalog);
        }
        self.note(true, name);
        Ok(())
    }

    fn allow_first_arg(&mut self, id: CommandId, word: &[u8]) {
        match self.first_args.iter_mut().find(|(of, _)| *of == id) {
            Some((_, words)) if words.iter().any(|known| known.eq_ignore_ascii_case(word)) => {}
            Some((_, words)) => words.push(word.into()),
            None => self.first_args.push((id, vec![word.into()])),
        }
    }

    /// Whether the command may be run with these arguments, its name among them.
    pub fn allows(&self, id: CommandId, args: &[&[u8]]) -> bool {
        self.all || self.allowed.has(id) || (!self.first_args.is_empty() && self.allows_first_arg(id, args))
    }

    fn allows_first_arg(&self, id: CommandId, args: &[&[u8]]) -> bool {
        let Some(given) = args.get(1).map(|arg| up_to_zero(arg)) else { return false };
        let words = self.first_args.iter().find(|(of, _)| *of == id);
        words.is_some_and(|(_, words)| words.iter().any(|word| word.eq_ignore_ascii_case(given)))
    }
}

/// Which keys a pattern allows, and what may be done with them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyPattern {
    pub touch: Touch,
    pub pattern: Pattern,
}

/// A set of rights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Selector {
    pub commands: Commands,
    pub all_keys: bool,
    pub keys: Vec<KeyPattern>,
    pub all_channels: bool,
    pub channels: Vec<Pattern>,
    pub all_databases: bool,
    /// In order.
    pub databases: Vec<u32>,
}

impl Selector {
    pub fn nothing(catalog: &Catalog) -> Self {
        Selector {
            commands: Commands::none(catalog),
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
            all_databases: true,
            databases: Vec::new(),
        }
    }

    /// Applies one rule.
    pub fn apply(&mut self, rule: &[u8], catalog: &Catalog, dialect: Dialect) -> Result<(), RuleError> {
        let word = up_to_zero(rule);
        if self.apply_word(word, catalog) || dialect.has_databases && self.apply_database_word(word) {
            return Ok(());
        }
        match *rule.first().ok_or(RuleError::Syntax)? {
            b'~' | b'%' => self.allow_keys(rule),
            b'&' => self.allow_channels(&rule[1..]),
            b'+' => self.commands.apply(true, &word[1..], catalog, dialect),
            b'-' => self.commands.apply(false, &word[1..], catalog, dialect),
            _ if dialect.has_databases && word.len() >= 3 && word[..3].eq_ignore_ascii_case(b"db=") => {
                self.databases = databases(&word[3..])?;
                self.all_databases = false;
                Ok(())
            }
            _ => Err(RuleError::Syntax),
        }
    }

    fn apply_word(&mut self, word: &[u8], catalog: &Catalog) -> bool {
        match word.to_ascii_lowercase().as_slice() {
            b"allkeys" | b"~*" => (self.all_keys, self.keys) = (true, Vec::new()),
            b"resetkeys" => (self.all_keys, self.keys) = (false, Vec::new()),
            b"allchannels" | b"&*" => (self.all_channels, self.channels) = (true, Vec::new()),
            b"resetchannels" => (self.all_channels, self.channels) = (false, Vec::new()),
            b"allcommands" | b"+@all" => self.commands.set_all(true, catalog),
            b"nocommands" | b"-@all" => self.commands.set_all(false, catalog),
            _ => return false,
        }
        true
    }

    fn apply_database_word(&mut self, word: &[u8]) -> bool {
        match word.to_ascii_lowercase().as_slice() {
            b"alldbs" => (self.all_databases, self.databases) = (true, Vec::new()),
            b"resetdbs" => (self.all_databases, self.databases) = (false, Vec::new()),
            _ => return false,
        }
        true
    }

    fn allow_keys(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::KeysAfterAll);
        }
        let (touch, pattern) = key_rule(rule)?;
        if has_blank(pattern) {
            return Err(RuleError::Syntax);
        }
        match self.keys.iter_mut().find(|known| known.pattern.text() == pattern) {
            Some(known) => known.touch = known.touch.and(touch),
            None => self.keys.push(KeyPattern { touch, pattern: Pattern::new(pattern) }),
        }
        Ok(())
    }

    fn allow_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::ChannelsAfterAll);
        }
        if has_blank(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|known| known.text() == pattern) {
            self.channels.push(Pattern::new(pattern));
        }
        Ok(())
    }

    pub fn allows_key(&self, key: &[u8], touch: Touch) -> bool {
        self.all_keys || self.keys.iter().any(|known| known.touch.has(touch) && known.pattern.matches(key))
    }

    pub fn allows_channel(&self, channel: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|known| known.matches(channel))
    }

    /// A pattern is allowed as it stands: what it would match is not looked at.
    pub fn allows_channel_pattern(&self, pattern: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|known| up_to_zero(pattern) == known.text())
    }

    pub fn allows_database(&self, db: u32) -> bool {
        self.all_databases || self.databases.binary_search(&db).is_ok()
    }
}

/// `~pattern`, `%R~pattern`, `%W~pattern`, `%RW~pattern`: what may be done, and the pattern. As the servers take it, what ends before its `~`
/// has an empty pattern.
fn key_rule(rule: &[u8]) -> Result<(Touch, &[u8]), RuleError> {
    if rule[0] == b'~' {
        return Ok((Touch::BOTH, &rule[1..]));
    }
    let mut touch = Touch::NONE;
    for (at, byte) in rule.iter().enumerate().skip(1) {
        touch = match byte.to_ascii_uppercase() {
            b'R' if !touch.has(Touch::READ) => touch.and(Touch::READ),
            b'W' if !touch.has(Touch::WRITE) => touch.and(Touch::WRITE),
            b'~' if touch != Touch::NONE => return Ok((touch, &rule[at + 1..])),
            _ => return Err(RuleError::Syntax),
        };
    }
    if touch == Touch::NONE { Err(RuleError::Syntax) } else { Ok((touch, &[])) }
}

/// The numbers of `db=`, in order.
fn databases(list: &[u8]) -> Result<Vec<u32>, RuleError> {
    let mut numbers = list.split(|byte| *byte == b',').map(database).collect::<Result<Vec<u32>, _>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// One of them: blanks and a sign may stand before it.
fn database(text: &[u8]) -> Result<u32, RuleError> {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t'..=b'\r')).unwrap_or(text.len());
    let number = &text[start..];
    let digits = number.strip_prefix(b"+").or(number.strip_prefix(b"-")).unwrap_or(number);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(RuleError::Syntax);
    }
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<i32>().ok());
    number.and_then(|number| u32::try_from(number).ok()).ok_or(RuleError::NoSuchDatabase)
}
