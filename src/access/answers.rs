//! The answers of `ACL …` as frames.

use super::describe::SelectorText;
use super::dialect::Dialect;
use super::log::LogEntry;
use super::users::Users;
use crate::domain::Resp;
use crate::protocol::frame;

/// An array of strings.
pub(super) fn bulks(items: impl Iterator<Item = impl AsRef<[u8]>>, out: &mut Vec<u8>) {
    let items: Vec<_> = items.collect();
    frame::array(items.len(), out);
    items.iter().for_each(|item| frame::bulk(item, out));
}

/// `ACL GETUSER`.
pub(super) fn user(users: &Users, name: &[u8], resp: Resp, out: &mut Vec<u8>) {
    let (catalog, dialect) = (users.catalog(), users.dialect());
    let Some(user) = users.get(name) else { return frame::null(resp, out) };
    let selectors = user.selectors(catalog, dialect);
    let Some((own, brackets)) = selectors.split_first() else { return frame::null(resp, out) };
    frame::map(resp, 3 + fields(own), out);
    frame::bulk("flags", out);
    let flags = user.flags();
    frame::set(resp, flags.len(), out);
    flags.iter().for_each(|flag| frame::bulk(flag, out));
    frame::bulk("passwords", out);
    bulks(user.passwords(), out);
    selector(own, out);
    frame::bulk("selectors", out);
    frame::array(brackets.len(), out);
    for one in brackets {
        frame::map(resp, fields(one), out);
        selector(one, out);
    }
}

fn fields(text: &SelectorText) -> usize {
    3 + usize::from(text.databases.is_some())
}

fn selector(text: &SelectorText, out: &mut Vec<u8>) {
    for (name, value) in [("commands", &text.commands), ("keys", &text.keys), ("channels", &text.channels)] {
        frame::bulk(name, out);
        frame::bulk(value, out);
    }
    if let Some(databases) = &text.databases {
        frame::bulk("databases", out);
        frame::bulk(databases, out);
    }
}

/// `ACL LOG`. Servers before 7.2 tell no ids and no times.
pub(super) fn log(entries: &[&LogEntry], dialect: Dialect, resp: Resp, now_ms: u64, out: &mut Vec<u8>) {
    frame::array(entries.len(), out);
    for entry in entries {
        frame::map(resp, if dialect.keeps_rules { 10 } else { 7 }, out);
        number("count", entry.count, out);
        for (name, text) in [
            ("reason", entry.reason.name().as_bytes()),
            ("context", entry.context.name().as_bytes()),
            ("object", &entry.object),
            ("username", &entry.user),
        ] {
            frame::bulk(name, out);
            frame::bulk(text, out);
        }
        frame::bulk("age-seconds", out);
        let age = entry.age_s(now_ms).to_string();
        match resp {
            Resp::V2 => frame::bulk(age, out),
            Resp::V3 => frame::line(format!(",{age}"), out),
        }
        frame::bulk("client-info", out);
        frame::bulk(&entry.client_info, out);
        if dialect.keeps_rules {
            number("entry-id", entry.id, out);
            number("timestamp-created", entry.created_ms, out);
            number("timestamp-last-updated", entry.updated_ms, out);
        }
    }
}

fn number(name: &str, number: u64, out: &mut Vec<u8>) {
    frame::bulk(name, out);
    frame::integer(i64::try_from(number).unwrap_or(i64::MAX), out);
}

const HELP: &[&str] = &[
    "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAT [<category>]",
    "    The categories of commands, or the commands of one.",
    "DELUSER <username> [<username> ...]",
    "    Delete users; their connections end.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Tell whether a user may run a command, without running it.",
    "GETUSER <username>",
    "    What a user may do.",
    "GENPASS [<bits>]",
    "    Make a password of that strength, 256 bits if none is given.",
    "LIST",
    "    All users, each as a line of an ACL file.",
    "LOAD",
    "    Read the ACL file again.",
    "LOG [<count> | RESET]",
    "    What was refused, the newest first; or forget it.",
    "SAVE",
    "    Write the users to the ACL file.",
    "SETUSER <username> <rule> [<rule> ...]",
    "    Make a user, or change one, rule by rule.",
    "USERS",
    "    The names of all users.",
    "WHOAMI",
    "    The user of this connection.",
    "HELP",
    "    Print this help.",
];

/// `ACL HELP`.
pub(super) fn help(out: &mut Vec<u8>) {
    frame::array(HELP.len(), out);
    HELP.iter().for_each(|line| frame::simple(line, out));
}
