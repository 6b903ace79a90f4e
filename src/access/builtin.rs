//! What Redis 8.2 has, and Valkey 9.1 and Redis 7.0 besides: for rules that are read before an upstream has told of its commands.

use super::keys::{Begin, Find, KeySpec, Touch};
use super::told::Told;

/// A command a line: name, arity, flags, categories, and its key specifications: what happens to the key, where the search begins, which
/// arguments are keys. Written down from the servers' answers to `COMMAND`; a test compares it with them.
const LIST: &str = include_str!("builtin.txt");

/// All of them.
pub(super) fn commands() -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for told in LIST.lines().filter_map(command) {
        let parent = told.name.split_once('|').map(|(parent, _)| parent);
        match (parent, all.last_mut()) {
            (Some(parent), Some(last)) if *last.name == *parent => last.subcommands.push(told),
            _ => all.push(told),
        }
    }
    all
}

fn command(line: &str) -> Option<Told> {
    let mut fields = line.split(' ');
    let (name, arity) = (fields.next()?, fields.next()?);
    let words = |field: &str| field.split(',').filter(|word| *word != "-").map(str::to_owned).collect::<Vec<_>>();
    let (flags, categories) = (words(fields.next()?), words(fields.next()?));
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    Some(Told {
        name: name.into(),
        arity: arity.parse().ok()?,
        categories,
        is_free: has("no_auth"),
        is_module: has("module"),
        is_opaque: false,
        specs: fields.filter_map(key_spec).collect(),
        subcommands: Vec::new(),
        inner_at: None,
    })
}

fn key_spec(text: &str) -> Option<KeySpec> {
    let mut parts = text.split('/');
    let (flags, begin, find) = (parts.next()?, parts.next()?, parts.next()?);
    let begin = match begin.split_once('@') {
        Some((word, from)) => Begin::Keyword { word: word.as_bytes().into(), from: from.parse().ok()? },
        None => begin.parse().map_or(Begin::Unknown, Begin::Index),
    };
    let numbers: Vec<i64> = find.split(':').skip(1).filter_map(|number| number.parse().ok()).collect();
    let find = match (find.split(':').next(), numbers.as_slice()) {
        (Some("range"), &[last, step, limit]) => Find::Range { last, step, limit },
        (Some("count"), &[index, first, step]) => Find::Count { index, first, step },
        _ => Find::Unknown,
    };
    let mut spec =
        KeySpec { touch: Touch::NONE, is_not_key: false, is_incomplete: false, is_variable: false, begin, find };
    flags.split('+').for_each(|flag| spec.flag(flag.as_bytes()));
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        let all = commands();
        let count: usize = all.iter().map(|told| 1 + told.subcommands.len()).sum();
        assert_eq!(count, LIST.lines().count());
        assert!(all.iter().all(|told| !told.name.contains('|')), "a subcommand stands behind its command");
        let set = all.iter().find(|told| &*told.name == "set").expect("it is there");
        assert_eq!((set.specs.len(), set.specs[0].touch, set.specs[0].is_variable), (1, Touch::BOTH, true));
    }
}
