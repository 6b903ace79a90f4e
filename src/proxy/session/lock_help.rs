//! `LOCK.HELP`: the lock commands in a few lines, made from what `COMMAND DOCS` tells of them.

use crate::commands::LOCK_COMMANDS;
use crate::commands::lock_spec::{Argument, Kind, LockSpec};
use crate::coordinator::LockReply;

/// An array of lines, a command and its sentence each, as other HELP subcommands of Redis answer.
pub fn lines() -> LockReply {
    let mut lines = vec!["LOCK.<command> [<arg> [value] [opt] ...]. Commands are:".to_owned()];
    for spec in LOCK_COMMANDS {
        lines.push(usage(spec));
        lines.push(format!("    {}", spec.summary));
    }
    LockReply::Array(lines.into_iter().map(LockReply::Simple).collect())
}

fn usage(spec: &LockSpec) -> String {
    let words = std::iter::once(spec.name.to_ascii_uppercase()).chain(spec.arguments.iter().map(shown));
    words.collect::<Vec<_>>().join(" ")
}

fn shown(argument: &Argument) -> String {
    let all = |arguments: &[Argument], between: &str| arguments.iter().map(shown).collect::<Vec<_>>().join(between);
    let value = match argument.kind {
        Kind::Word => None,
        Kind::OneOf(choices) => Some(all(choices, "|")),
        Kind::Block(arguments) => Some(all(arguments, " ")),
        _ => Some(format!("<{}>", argument.display)),
    };
    let mut text = match (argument.token, value) {
        (Some(token), Some(value)) => format!("{token} {value}"),
        (Some(token), None) => token.to_owned(),
        (None, value) => value.unwrap_or_default(),
    };
    if argument.is_multiple {
        text = format!("{text} [{text} ...]");
    }
    if argument.is_optional { format!("[{text}]") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_written() {
        for (name, line) in [
            ("lock.release", "LOCK.RELEASE <key> <owner> [FENCE <fence>]"),
            ("lock.promote", "LOCK.PROMOTE <key> <owner> LOW|NORMAL|HIGH|CRITICAL"),
            ("lock.releaseall", "LOCK.RELEASEALL <numkeys> <key> [<key> ...] <owner>"),
            ("lock.guard", "LOCK.GUARD <key> <fence> <command> [<arg> [<arg> ...]]"),
            ("lock.slowlog", "LOCK.SLOWLOG GET [<count>]|RESET|LEN"),
            ("lock.config", "LOCK.CONFIG GET <pattern> [<pattern> ...]|SET <name> <value> [<name> <value> ...]"),
            ("lock.stats", "LOCK.STATS"),
        ] {
            let spec = LOCK_COMMANDS.iter().find(|spec| spec.name == name).expect("a lock command");
            assert_eq!(usage(spec), line);
        }
    }
}
