//! Rights as text: what `ACL LIST`, `ACL GETUSER` and `ACL SAVE` show, and what makes the same rights again.

use super::catalog::{Catalog, CommandId};
use super::category::Categories;
use super::dialect::Dialect;
use super::keys::Touch;
use super::selector::{Commands, KeyPattern, Selector};

/// The fields of `ACL GETUSER` that a set of rights has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectorText {
    /// `commands`
    pub commands: Vec<u8>,
    /// `keys`
    pub keys: Vec<u8>,
    /// `channels`
    pub channels: Vec<u8>,
    /// `databases`, of which not all servers know.
    pub databases: Option<Vec<u8>>,
}

impl SelectorText {
    pub(super) fn of(selector: &Selector, catalog: &Catalog, dialect: Dialect) -> SelectorText {
        let keys = if selector.all_keys { b"~*".to_vec() } else { joined(selector.keys.iter().map(key_rule)) };
        let channels = match selector.all_channels {
            true => b"&*".to_vec(),
            false => joined(selector.channels.iter().map(|pattern| [b"&", pattern.text()].concat())),
        };
        let databases = dialect.has_databases.then(|| match selector.all_databases {
            true => b"alldbs".to_vec(),
            false => database_rule(selector).unwrap_or_default(),
        });
        SelectorText { commands: command_rules(&selector.commands, catalog, dialect), keys, channels, databases }
    }
}

/// The rules that make these rights, on one line.
pub(super) fn rules(selector: &Selector, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    if selector.all_keys {
        words.push(b"~*".to_vec());
    }
    words.extend(selector.keys.iter().map(key_rule));
    words.push(if selector.all_channels { b"&*".to_vec() } else { b"resetchannels".to_vec() });
    words.extend(selector.channels.iter().map(|pattern| [b"&", pattern.text()].concat()));
    if !selector.all_databases {
        words.push(database_rule(selector).unwrap_or_else(|| b"resetdbs".to_vec()));
    }
    words.push(command_rules(&selector.commands, catalog, dialect));
    joined(words.into_iter())
}

fn joined(words: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    words.collect::<Vec<_>>().join(&b' ')
}

fn key_rule(key: &KeyPattern) -> Vec<u8> {
    let sign: &[u8] = match (key.touch.has(Touch::READ), key.touch.has(Touch::WRITE)) {
        (true, false) => b"%R~",
        (false, true) => b"%W~",
        _ => b"~",
    };
    [sign, key.pattern.text()].concat()
}

fn database_rule(selector: &Selector) -> Option<Vec<u8>> {
    if selector.databases.is_empty() {
        return None;
    }
    let numbers: Vec<String> = selector.databases.iter().map(u32::to_string).collect();
    Some(format!("db={}", numbers.join(",")).into_bytes())
}

fn command_rules(commands: &Commands, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
    let mut words = vec![if commands.future { b"+@all".to_vec() } else { b"-@all".to_vec() }];
    if dialect.keeps_rules {
        words.extend(commands.rules.iter().map(|rule| signed(rule.allows, &rule.name)));
    } else {
        worked_out(commands, catalog, dialect, &mut words);
    }
    joined(words.into_iter())
}

fn signed(allows: bool, name: &[u8]) -> Vec<u8> {
    [if allows { b"+" } else { b"-" }, name].concat()
}

/// Redis 7.0 keeps no rules: categories are taken as long as one of them says more right than wrong, the best first; what is still wrong is
/// put right command by command.
fn worked_out(commands: &Commands, catalog: &Catalog, dialect: Dialect, words: &mut Vec<Vec<u8>>) {
    let adds = !commands.future;
    let mut made = Commands::none(catalog);
    made.set_all(commands.future, catalog);
    let mut left = commands.clone();
    let mut taken = Categories::NONE;
    while let Some((name, category)) = best_category(&left, taken, adds, catalog) {
        made.set_category(category, adds, catalog, dialect);
        left.set_category(category, !adds, catalog, dialect);
        taken = taken.and(category);
        words.push(signed(adds, [b"@", name.as_bytes()].concat().as_slice()));
    }
    for (id, command) in catalog.iter() {
        let is_allowed = commands.allowed.has(id);
        if is_allowed != made.allowed.has(id) {
            words.push(signed(is_allowed, command.name.as_bytes()));
            made.set(id, is_allowed, catalog);
        }
        if !is_allowed {
            first_args(commands, id, command.name.as_bytes(), words);
        }
    }
}

fn first_args(commands: &Commands, id: CommandId, name: &[u8], words: &mut Vec<Vec<u8>>) {
    for (_, args) in commands.first_args.iter().filter(|(of, _)| *of == id) {
        words.extend(args.iter().map(|arg| [b"+", name, b"|", arg].concat()));
    }
}

/// The category with the fewest wrong commands among those that have more right ones; of equals the one with more right ones, then the first.
fn best_category<'c>(
    left: &Commands,
    taken: Categories,
    adds: bool,
    catalog: &'c Catalog,
) -> Option<(&'c str, Categories)> {
    let mut best: Option<(usize, usize, &str, Categories)> = None;
    for (name, category) in catalog.categories().iter().filter(|(_, category)| !taken.has_any(*category)) {
        let of_it = catalog.iter().filter(|(_, command)| command.categories.has_any(category));
        let (mut wrong, mut right) = (0, 0);
        for (id, _) in of_it {
            if left.allowed.has(id) == adds {
                right += 1;
            } else {
                wrong += 1;
            }
        }
        let is_better = best.is_none_or(|(fewest, most, ..)| wrong < fewest || wrong == fewest && right > most);
        if right > wrong && is_better {
            best = Some((wrong, right, name, category));
        }
    }
    best.map(|(_, _, name, category)| (name, category))
}
