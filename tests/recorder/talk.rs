//! Conversations as text, one step a line:
//!
//! ```text
//! == A title that is a sentence        begins a conversation, with servers of its own
//! server: --requirepass secret         arguments for the server
//! lockgate: max_queue = 3              a line for Lockgate's configuration
//! only on: redis-8.2 valkey-9.1        where this conversation is played
//! whole: because …                     not played with cut streams, for this reason
//! # a remark
//! a: SET k "v\r\n"                     client a sends a command and reads one frame
//! a:3 SUBSCRIBE x y z                  … and reads three; `a:0` reads none
//! a:~ TIME                             … and every number in the frames is masked
//! a:% CLIENT LIST                      … and only the fields are kept that say who a client is and what it does
//! a: SET k v ; GET k ; BOGUS           a pipeline in one write, one frame a command (`;` alone is the separator)
//! a> "PING\r\n"                        sends the bytes as they are
//! a< 2                                 reads two frames more (`a<` one, `a< ~2` masked)
//! a<until text                         reads frames, drops those without `text`, keeps the first with it
//! a=id CLIENT ID                       keeps the integer that comes, for use as {id}
//! a? :1 :: PUBSUB NUMPAT               asks again until the frame contains `:1`
//! a.finish                             a says that it sends nothing more
//! a.close                              a is gone
//! a.closed                             reads until the server closes
//! blocked 2                            waits until two clients are blocked in the server
//! ```
//!
//! Words are those of redis-cli (`common/words.rs`).

use super::mask::Mask;
use crate::common::ServerKind;
use crate::common::words::{commands, words};

pub struct Talk {
    pub title: String,
    pub server_arguments: Vec<String>,
    pub lockgate_config: String,
    only_on: Vec<String>,
    /// What is seen depends on how the bytes are cut, in the server itself too.
    pub whole: bool,
    pub steps: Vec<(String, Step)>,
}

pub enum Step {
    /// `who`, the commands of one write, the frames to read then, and what of them may differ.
    Call {
        who: String,
        commands: Vec<Vec<Vec<u8>>>,
        frames: usize,
        mask: Mask,
    },
    Raw {
        who: String,
        bytes: Vec<u8>,
    },
    Read {
        who: String,
        frames: usize,
        mask: Mask,
    },
    ReadUntil {
        who: String,
        text: String,
    },
    Keep {
        who: String,
        name: String,
        command: Vec<Vec<u8>>,
    },
    AskUntil {
        who: String,
        text: String,
        command: Vec<Vec<u8>>,
    },
    Finish {
        who: String,
    },
    Close {
        who: String,
    },
    Closed {
        who: String,
    },
    Blocked {
        clients: usize,
    },
}

impl Talk {
    pub fn is_for(&self, kind: ServerKind) -> bool {
        self.only_on.is_empty() || self.only_on.iter().any(|name| name == kind.name())
    }
}

#[track_caller]
pub fn parse(text: &str) -> Vec<Talk> {
    let mut talks: Vec<Talk> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            talks.push(Talk {
                title: title.to_owned(),
                server_arguments: Vec::new(),
                lockgate_config: String::new(),
                only_on: Vec::new(),
                whole: false,
                steps: Vec::new(),
            });
            continue;
        }
        let talk = talks.last_mut().expect("a conversation begins with a title");
        if let Some(arguments) = line.strip_prefix("server: ") {
            talk.server_arguments.extend(words(arguments).into_iter().map(|word| String::from_utf8(word).unwrap()));
        } else if let Some(setting) = line.strip_prefix("lockgate: ") {
            talk.lockgate_config.push_str(setting);
            talk.lockgate_config.push('\n');
        } else if let Some(names) = line.strip_prefix("only on: ") {
            talk.only_on.extend(names.split_whitespace().map(str::to_owned));
        } else if line.starts_with("whole: ") {
            talk.whole = true;
        } else {
            talk.steps.push((line.to_owned(), step(line)));
        }
    }
    talks
}

fn step(line: &str) -> Step {
    if let Some(count) = line.strip_prefix("blocked ") {
        return Step::Blocked { clients: count.trim().parse().unwrap() };
    }
    let name_end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or_else(|| panic!("no step: {line}"));
    let who = line[..name_end].to_owned();
    let (sign, rest) = line[name_end..].split_at(1);
    match sign {
        ":" => {
            let (head, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            let commands = commands(tail);
            let (frames, mask) = count(head, commands.len());
            Step::Call { who, commands, frames, mask }
        }
        ">" => Step::Raw { who, bytes: words(rest).concat() },
        "<" => match rest.strip_prefix("until ") {
            Some(text) => Step::ReadUntil { who, text: text.to_owned() },
            None => {
                let (frames, mask) = count(rest.trim(), 1);
                Step::Read { who, frames, mask }
            }
        },
        "=" => {
            let (name, command) = rest.split_once(' ').unwrap_or_else(|| panic!("no command: {line}"));
            Step::Keep { who, name: name.to_owned(), command: words(command) }
        }
        "?" => {
            let (text, command) = rest.split_once(" :: ").unwrap_or_else(|| panic!("no `::`: {line}"));
            Step::AskUntil { who, text: text.trim().to_owned(), command: words(command) }
        }
        "." => match rest {
            "finish" => Step::Finish { who },
            "close" => Step::Close { who },
            "closed" => Step::Closed { who },
            _ => panic!("no step: {line}"),
        },
        _ => panic!("no step: {line}"),
    }
}

/// `~3`: three frames, numbers masked.
fn count(head: &str, default: usize) -> (usize, Mask) {
    let (digits, mask) = match head.split_at_checked(1) {
        Some(("~", digits)) => (digits, Mask::Digits),
        Some(("%", digits)) => (digits, Mask::ClientFields),
        _ => (head, Mask::Always),
    };
    (if digits.is_empty() { default } else { digits.parse().unwrap_or_else(|_| panic!("no number: {head}")) }, mask)
}
