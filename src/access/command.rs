//! `ACL …` and `AUTH`: what is asked, what changes, and the answer. Files are the caller's to read and write.

use std::sync::Arc;

use super::answers;
use super::arguments::whole_number;
use super::catalog::Found;
use super::log::{Log, LogEntry};
use super::password::{GENPASS_BITS_MAX, genpass};
use super::user::User;
use super::users::{DEFAULT, Users};
use super::verdict::{Request, judge};
use crate::domain::Resp;
use crate::protocol::frame;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The user of the connection.
    pub user: &'a User,
    /// Its database.
    pub db: u32,
    /// How many databases the upstream has.
    pub databases: u32,
    /// How it is answered.
    pub resp: Resp,
}

/// What comes of `ACL …`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A whole frame.
    Says(Vec<u8>),
    /// `+OK`, and a user is made or has other rights: its connections are to be looked at.
    Set(Box<[u8]>),
    /// The frame, and users that are gone, whose connections end.
    Deleted(Vec<u8>, Vec<Box<[u8]>>),
    /// The file is to be read, and [`Users::load`] has the word.
    Load,
    /// The file is to be written, with what [`Users::save`] tells.
    Save,
}

fn error(text: impl AsRef<[u8]>) -> Answer {
    let mut out = Vec::new();
    frame::error([b"ERR ", text.as_ref()].concat(), &mut out);
    Answer::Says(out)
}

/// What the servers say of words that they do not know.
fn unknown(word: &[u8], is_count_at_fault: bool) -> Answer {
    let what =
        if is_count_at_fault { "unknown subcommand or wrong number of arguments for" } else { "unknown subcommand" };
    let word = &word[..word.len().min(128)];
    error([what.as_bytes(), b" '", word, b"'. Try ACL HELP."].concat())
}

/// Carries out `ACL …`, whose arguments begin with its name; `dice` makes passwords.
pub fn acl(
    args: &[&[u8]],
    asker: Asker<'_>,
    users: &mut Users,
    log: &mut Log,
    now_ms: u64,
    dice: impl FnOnce(&mut [u8]),
) -> Answer {
    let catalog = Arc::clone(users.catalog());
    match catalog.find(args) {
        Found::Command(id) if !catalog.command(id).takes(args.len()) => {
            return error(format!("wrong number of arguments for '{}' command", catalog.command(id).name));
        }
        Found::Command(_) => {}
        Found::NoSubcommand(_) | Found::Nothing => return unknown(args.get(1).copied().unwrap_or_default(), false),
    }
    let word = args[1].to_ascii_lowercase();
    match (word.as_slice(), &args[2..]) {
        (b"whoami", []) => said(|out| frame::bulk(asker.user.name(), out)),
        (b"users", []) => said(|out| answers::bulks(users.iter().map(|user| user.name()), out)),
        (b"list", []) => said(|out| answers::bulks(users.list().into_iter(), out)),
        (b"getuser", [name]) => said(|out| answers::user(users, name, asker.resp, out)),
        (b"setuser", [name, rules @ ..]) => match users.set(name, rules) {
            Ok(()) => Answer::Set((*name).into()),
            Err(text) => error(text),
        },
        (b"deluser", names) => delete(names, users),
        (b"cat", []) => said(|out| answers::bulks(catalog.categories().iter().map(|(name, _)| name), out)),
        (b"cat", [name]) => category(name, users),
        (b"log", rest) => tell_log(args[1], rest, asker.resp, users, log, now_ms),
        (b"dryrun", [name, command @ ..]) => dry_run(name, command, asker, users),
        (b"genpass", []) => password(256, dice),
        (b"genpass", [bits]) => match whole_number(bits) {
            Some(bits) => password(bits, dice),
            None => error(NO_NUMBER),
        },
        (b"load", []) => Answer::Load,
        (b"save", []) => Answer::Save,
        (b"help", []) => said(answers::help),
        _ => unknown(args[1], true),
    }
}

const NO_NUMBER: &str = "value is not an integer or out of range";

fn said(tell: impl FnOnce(&mut Vec<u8>)) -> Answer {
    let mut out = Vec::new();
    tell(&mut out);
    Answer::Says(out)
}

fn delete(names: &[&[u8]], users: &mut Users) -> Answer {
    let gone: Vec<Box<[u8]>> =
        names.iter().filter(|name| users.get(name).is_some()).map(|name| (*name).into()).collect();
    match users.delete(names) {
        Ok(count) => {
            let mut out = Vec::new();
            frame::integer(i64::try_from(count).unwrap_or(i64::MAX), &mut out);
            Answer::Deleted(out, gone)
        }
        Err(text) => error(text),
    }
}

fn category(name: &[u8], users: &Users) -> Answer {
    let catalog = users.catalog();
    match catalog.categories().find(name) {
        Some(category) => {
            let of_it = catalog.iter().filter(|(_, command)| command.categories.has_any(category));
            said(|out| answers::bulks(of_it.map(|(_, command)| command.name.as_bytes()), out))
        }
        None => error([b"Unknown category '", &name[..name.len().min(128)], b"'"].concat()),
    }
}

fn tell_log(word: &[u8], rest: &[&[u8]], resp: Resp, users: &Users, log: &mut Log, now_ms: u64) -> Answer {
    let count = match rest {
        [] => 10,
        [word] if word.eq_ignore_ascii_case(b"reset") => {
            log.reset();
            return said(|out| frame::simple("OK", out));
        }
        [count] => match whole_number(count) {
            Some(count) => usize::try_from(count).unwrap_or(0),
            None => return error(NO_NUMBER),
        },
        _ => return unknown(word, true),
    };
    let entries: Vec<&LogEntry> = log.entries().take(count).collect();
    said(|out| answers::log(&entries, users.dialect(), resp, now_ms, out))
}

fn dry_run(name: &[u8], args: &[&[u8]], asker: Asker<'_>, users: &Users) -> Answer {
    let (catalog, dialect) = (users.catalog(), users.dialect());
    let Some(user) = users.get(name) else { return error([b"User '", name, b"' not found"].concat()) };
    let Found::Command(id) = catalog.find(args) else {
        return error([b"Command '", args[0], b"' not found"].concat());
    };
    let command = catalog.command(id);
    if !command.takes(args.len()) {
        return error(format!("wrong number of arguments for '{}' command", command.name));
    }
    match judge(user, catalog, Request { command: id, args, db: asker.db, databases: asker.databases }) {
        Ok(()) => said(|out| frame::simple("OK", out)),
        Err(denied) => said(|out| frame::bulk(denied.dry_run(user, catalog, dialect, args), out)),
    }
}

fn password(bits: i64, dice: impl FnOnce(&mut [u8])) -> Answer {
    match genpass(bits, dice) {
        Some(password) => said(|out| frame::bulk(password, out)),
        None => error(format!(
            "ACL GENPASS argument must be the number of bits for the output password, a positive number up to {GENPASS_BITS_MAX}"
        )),
    }
}

/// Why `AUTH` was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// No argument at all.
    #[error("ERR wrong number of arguments for 'auth' command")]
    TooFew,
    /// More than a name and a password.
    #[error("ERR syntax error")]
    TooMany,
    /// A password alone, and the default user needs none.
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
    )]
    NeedsNone,
    /// No such user, another password, or a user that is off. Belongs in the log, under the name that was given.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPassword,
}

/// Who comes in by `AUTH …`, whose arguments begin with its name.
pub fn auth<'a>(args: &[&[u8]], users: &'a Users) -> Result<&'a Arc<User>, AuthError> {
    let (name, password) = match args {
        [_, password] if users.get(DEFAULT).is_some_and(|user| !user.needs_no_password()) => (DEFAULT, *password),
        [_, _] => return Err(AuthError::NeedsNone),
        [_, name, password] => (*name, *password),
        [] | [_] => return Err(AuthError::TooFew),
        _ => return Err(AuthError::TooMany),
    };
    users.authenticate(name, password).ok_or(AuthError::WrongPassword)
}
