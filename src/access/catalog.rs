//! The commands of an upstream as rules see them: subcommands are commands of their own, each with its categories and its keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::builtin;
use super::category::{Categories, CategoryNames};
use super::channels::Channels;
use super::databases::Reach;
use super::keys::{KeyFinder, KeyRefs};
use super::learn;
use super::told::{self, Told};
use crate::commands::LearnError;

/// The place of a command in its [`Catalog`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(u16);

impl CommandId {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A command or a subcommand.
#[derive(Clone, Debug)]
pub struct Command {
    /// As refusals write it: `config|get`.
    pub name: Box<str>,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// What it belongs to.
    pub categories: Categories,
    /// Anybody may run it, also before `AUTH`.
    pub is_free: bool,
    pub(super) is_module: bool,
    /// Its keys cannot be told.
    pub(super) is_opaque: bool,
    pub(super) parent: Option<CommandId>,
    pub(super) subcommands: Vec<CommandId>,
    /// What a rule for this command gives or takes along.
    pub(super) followers: Vec<CommandId>,
    pub(super) keys: KeyFinder,
    pub(super) channels: Option<Channels>,
    pub(super) reach: Reach,
    /// Where a command within this one begins, which is judged too.
    pub(super) inner_at: Option<usize>,
}

impl Command {
    /// The keys among `args`, which begin with the command's name.
    pub fn keys(&self, args: &[&[u8]]) -> KeyRefs {
        self.keys.find(args)
    }

    /// `false` if a server would refuse that many arguments, the name included.
    pub fn takes(&self, args: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { args >= least } else { args == least }
    }
}

/// What arguments name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A command or subcommand.
    Command(CommandId),
    /// A command that has subcommands, and this one is not among them.
    NoSubcommand(CommandId),
    /// The upstream has told of no such command.
    Nothing,
}

/// All commands of an upstream, and those of Lockgate.
#[derive(Clone, Debug)]
pub struct Catalog {
    commands: Vec<Command>,
    by_name: HashMap<Box<[u8]>, CommandId, BuildHasherDefault<NameHasher>>,
    categories: CategoryNames,
}

/// No command of any server has a longer name.
const NAME_MAX: usize = 64;

impl Catalog {
    /// What Redis 8.2 and Valkey 9.1 have, until the upstream has told.
    pub fn builtin() -> Catalog {
        Catalog::from_told(builtin::commands())
    }

    /// From the upstream's answer to `COMMAND`, in either protocol.
    pub fn learn(reply: &[u8]) -> Result<Catalog, LearnError> {
        Ok(Catalog::from_told(learn::commands(reply)?))
    }

    /// The same without the commands that Lockgate adds: what the upstream itself judges by.
    pub fn learn_bare(reply: &[u8]) -> Result<Catalog, LearnError> {
        Ok(Catalog::of(learn::commands(reply)?.into_iter()))
    }

    fn from_told(told: Vec<Told>) -> Catalog {
        let mut catalog = Catalog::of(told.into_iter().chain(told::of_lockgate()));
        catalog.let_follow();
        catalog
    }

    fn of(told: impl Iterator<Item = Told>) -> Catalog {
        let mut catalog =
            Catalog { commands: Vec::new(), by_name: HashMap::default(), categories: CategoryNames::default() };
        told.for_each(|command| catalog.add(command));
        catalog
    }

    fn add(&mut self, told: Told) {
        let Told { subcommands, .. } = &told;
        let subcommands = subcommands.clone();
        let Some(parent) = self.add_one(told, None) else { return };
        for subcommand in subcommands {
            if let Some(id) = self.add_one(subcommand, Some(parent)) {
                self.commands[parent.index()].subcommands.push(id);
            }
        }
    }

    /// `None` for a name that stands there already or is too long for one.
    fn add_one(&mut self, told: Told, parent: Option<CommandId>) -> Option<CommandId> {
        let lower = told.name.to_ascii_lowercase();
        if lower.len() > NAME_MAX || self.by_name.contains_key(lower.as_bytes()) {
            return None;
        }
        let id = CommandId(u16::try_from(self.commands.len()).ok()?);
        let categories = told
            .categories
            .iter()
            .fold(Categories::NONE, |all, name| all.and(self.categories.find_or_add(name.as_bytes())));
        let keys = KeyFinder::new(&lower, told.specs);
        let reach = Reach::of(&lower, categories, keys.has_keys());
        self.commands.push(Command {
            name: told.name,
            arity: told.arity,
            categories,
            is_free: told.is_free,
            is_module: told.is_module,
            is_opaque: told.is_opaque,
            parent,
            subcommands: Vec::new(),
            followers: Vec::new(),
            keys,
            channels: Channels::of(&lower),
            reach,
            inner_at: told.inner_at,
        });
        self.by_name.insert(lower.into_bytes().into(), id);
        Some(id)
    }

    /// Some commands of Lockgate need what a command of the upstream needs: they have its categories, and go with it in rules.
    fn let_follow(&mut self) {
        for (leader, follower) in told::FOLLOWERS {
            let (Some(leader), Some(follower)) = (self.named(leader.as_bytes()), self.named(follower.as_bytes()))
            else {
                continue;
            };
            self.commands[follower.index()].categories = self.commands[leader.index()].categories;
            self.commands[leader.index()].followers.push(follower);
        }
    }

    /// The command with that id, which must come from this catalog.
    pub fn command(&self, id: CommandId) -> &Command {
        &self.commands[id.index()]
    }

    /// All of them; a subcommand comes behind its command.
    pub fn iter(&self) -> impl Iterator<Item = (CommandId, &Command)> {
        (0..).map(CommandId).zip(&self.commands)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Never: there are always those of Lockgate.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The names of categories.
    pub fn categories(&self) -> &CategoryNames {
        &self.categories
    }

    /// The command that a rule names, `get` or `config|get`, in any case.
    pub fn named(&self, name: &[u8]) -> Option<CommandId> {
        let mut lower = [0; NAME_MAX];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.by_name.get(&*lower).copied()
    }

    /// The command that `args` call, as a server looks it up. Never allocates.
    pub fn find(&self, args: &[&[u8]]) -> Found {
        let Some((name, rest)) = args.split_first() else { return Found::Nothing };
        let Some(id) = self.named(name).filter(|id| self.command(*id).parent.is_none()) else { return Found::Nothing };
        let command = self.command(id);
        let Some(word) = rest.first().filter(|_| !command.subcommands.is_empty()) else { return Found::Command(id) };
        let is_word = |sub: &&CommandId| {
            let name = self.command(**sub).name.as_bytes();
            name.len() == command.name.len() + 1 + word.len()
                && name[command.name.len() + 1..].eq_ignore_ascii_case(word)
        };
        match command.subcommands.iter().find(is_word) {
            Some(sub) => Found::Command(*sub),
            None => Found::NoSubcommand(id),
        }
    }
}

/// FNV-1a: names are short, and nobody but the upstream chooses them.
#[derive(Clone, Copy)]
struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        NameHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 ^= number as u64;
    }

    fn finish(&self) -> u64 {
        // The table looks at the upper bits, which FNV leaves poor.
        self.0 ^ self.0.rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(catalog: &Catalog, line: &str) -> String {
        let args: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        match catalog.find(&args) {
            Found::Command(id) => catalog.command(id).name.to_string(),
            Found::NoSubcommand(id) => format!("{}?", catalog.command(id).name),
            Found::Nothing => "?".into(),
        }
    }

    #[test]
    fn commands_and_subcommands_are_found_in_any_case() {
        let catalog = Catalog::builtin();
        for (line, name) in [
            ("GET k", "get"),
            ("Config GET x", "config|get"),
            ("CONFIG", "config"),
            ("config nosuch", "config?"),
            ("config|get x", "?"),
            ("nosuch", "?"),
            ("", "?"),
            ("LOCK.Acquire k o", "lock.acquire"),
            ("lock.slowlog RESET", "lock.slowlog|reset"),
        ] {
            assert_eq!(found(&catalog, line), name, "{line}");
        }
        assert_eq!(found(&catalog, &"x".repeat(1000)), "?");
    }

    #[test]
    fn what_tells_of_lockgate_goes_with_what_tells_of_the_upstream() {
        let catalog = Catalog::builtin();
        let categories = |name: &str| catalog.named(name.as_bytes()).map(|id| catalog.command(id).categories);
        assert_eq!(categories("lock.stats"), categories("info"));
        assert_eq!(categories("lock.graph"), categories("slowlog|get"));
        assert_eq!(categories("lock.slowlog|reset"), categories("slowlog|reset"));
        let lock = catalog.categories().find(b"lock").expect("ours");
        for name in ["lock.force", "lock.config", "lock.config|set", "lock.cleanup", "lock.stats"] {
            assert!(!categories(name).expect("ours").has_any(lock), "{name}");
        }
        for name in ["lock.acquire", "lock.info", "lock.guard", "lock.help"] {
            assert!(categories(name).expect("ours").has_any(lock), "{name}");
        }
    }
}
