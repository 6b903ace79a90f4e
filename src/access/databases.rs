//! Which databases a command reaches, for rules with `db=`. `COMMAND` does not tell; found by asking Valkey 9.1 for every command.

use super::arguments::whole_number;
use super::category::Categories;

/// Which databases a command reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// None.
    Nowhere,
    /// That of the connection.
    Current,
    /// All of them.
    Everywhere,
    /// Those that its arguments name and no other: `SELECT`, `SWAPDB`.
    Named,
    /// That of the connection, and the one that the argument 2 names: `MOVE`.
    CurrentAndSecond,
    /// That of the connection, and those behind each `DB`: `COPY`.
    CurrentAndOption,
}

impl Reach {
    /// That of the command of this name, in lower case.
    pub fn of(name: &str, categories: Categories, has_keys: bool) -> Reach {
        const DATA: Categories = Categories::KEYSPACE.and(Categories::READ).and(Categories::WRITE);
        match name {
            "select" | "swapdb" => Reach::Named,
            "move" => Reach::CurrentAndSecond,
            "copy" => Reach::CurrentAndOption,
            "flushall" | "cluster|cancelslotmigrations" | "cluster|flushslot" | "cluster|migrateslots" => {
                Reach::Everywhere
            }
            _ if has_keys || categories.has_any(DATA) => Reach::Current,
            _ => Reach::Nowhere,
        }
    }

    /// The place of the argument that names a database which is not `allowed`, of so many there are; 0 for the connection's own.
    pub fn first_denied(self, args: &[&[u8]], db: u32, databases: u32, allowed: impl Fn(u32) -> bool) -> Option<usize> {
        let number = |arg: &&[u8]| {
            whole_number(arg).and_then(|number| u32::try_from(number).ok()).filter(|number| *number < databases)
        };
        // Where one of the numbers is none, the command is going to refuse all of them.
        let named = |places: &mut dyn Iterator<Item = usize>| {
            let mut denied = None;
            for at in places {
                let number = args.get(at).and_then(number)?;
                if denied.is_none() && !allowed(number) {
                    denied = Some(at);
                }
            }
            denied
        };
        let current = || (!allowed(db)).then_some(0);
        match self {
            Reach::Nowhere => None,
            Reach::Current => current(),
            Reach::Everywhere => (0..databases).any(|db| !allowed(db)).then_some(0),
            Reach::Named => named(&mut (1..args.len())),
            Reach::CurrentAndSecond => named(&mut [2].into_iter()).or_else(current),
            Reach::CurrentAndOption => {
                option_places(args).and_then(|places| named(&mut places.into_iter())).or_else(current)
            }
        }
    }
}

/// The places behind each `DB` among the options of `COPY`; `None` if it is going to refuse them.
fn option_places(args: &[&[u8]]) -> Option<Vec<usize>> {
    let (mut places, mut at) = (Vec::new(), 3);
    while let Some(arg) = args.get(at) {
        if arg.eq_ignore_ascii_case(b"replace") {
            at += 1;
        } else if arg.eq_ignore_ascii_case(b"db") && at + 1 < args.len() {
            places.push(at + 1);
            at += 2;
        } else {
            return None;
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(reach: Reach, line: &str, allowed: &[u32]) -> Option<usize> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        reach.first_denied(&args, 0, 16, |db| allowed.contains(&db))
    }

    #[test]
    fn arguments_that_name_databases_are_looked_at() {
        assert_eq!(denied(Reach::Named, "SELECT 1", &[1]), None);
        assert_eq!(denied(Reach::Named, "SELECT 1", &[0]), Some(1));
        assert_eq!(denied(Reach::Named, "SELECT 99", &[]), None, "there is none: the command refuses it");
        assert_eq!(denied(Reach::Named, "SWAPDB 1 2", &[1]), Some(2));
        assert_eq!(denied(Reach::Named, "SWAPDB 1 x", &[]), None);
        assert_eq!(denied(Reach::CurrentAndSecond, "MOVE k 1", &[1]), Some(0));
        assert_eq!(denied(Reach::CurrentAndSecond, "MOVE k 1", &[0]), Some(2));
        assert_eq!(denied(Reach::CurrentAndOption, "COPY a b REPLACE DB 3", &[0]), Some(5));
        assert_eq!(denied(Reach::CurrentAndOption, "COPY a b x DB 3", &[0]), None);
        assert_eq!(denied(Reach::CurrentAndOption, "COPY a b DB 1 DB 2", &[1, 2]), Some(0));
    }

    #[test]
    fn other_commands_reach_the_connections_own_all_or_none() {
        assert_eq!(denied(Reach::Current, "GET k", &[1]), Some(0));
        assert_eq!(denied(Reach::Everywhere, "FLUSHALL", &[0, 1]), Some(0));
        assert_eq!(denied(Reach::Everywhere, "FLUSHALL", &(0..16).collect::<Vec<_>>()), None);
        assert_eq!(denied(Reach::Nowhere, "PING", &[]), None);
    }
}
