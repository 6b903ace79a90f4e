//! A conversation as text, one step a line:
//!
//! ```text
//! # a remark
//! only on: redis-8.2 valkey-9.1        where it is played
//! boss: ACL SETUSER u1 on >p1          straight to the server, by somebody who may do everything
//! a: MULTI ; CLIENT KILL ID {b} ; EXEC session a sends commands in one write; {b} is b's id, {b.addr} its address
//! a> "*2\r\n$3\r\nGET"                 sends the bytes as they are
//! a.close                              a hangs up; its next step connects anew
//! reset                                everybody hangs up, and the server is as in the beginning
//! ```
//!
//! A session connects with its first step, and again after its connection has ended. `{big}` is a value of 100 KB.

use std::fmt;

use super::common::words::{self, quoted};

/// The name of who speaks straight to the server.
pub const BOSS: &str = "boss";

#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub who: String,
    pub act: Act,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    Commands(Vec<Command>),
    Raw(Vec<u8>),
    Close,
    Reset,
}

/// The words of a command.
pub type Command = Vec<Vec<u8>>;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Conversation {
    pub only_on: Vec<String>,
    pub steps: Vec<Step>,
}

impl Step {
    pub fn commands(who: &str, commands: Vec<Command>) -> Self {
        Self { who: who.to_owned(), act: Act::Commands(commands) }
    }

    /// Its commands, if it has some.
    pub fn sent(&self) -> &[Command] {
        match &self.act {
            Act::Commands(commands) => commands,
            _ => &[],
        }
    }
}

impl Conversation {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut conversation = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(names) = line.strip_prefix("only on: ") {
                conversation.only_on = names.split_whitespace().map(str::to_owned).collect();
                continue;
            }
            conversation.steps.push(step(line));
        }
        conversation
    }

    pub fn is_for(&self, server: &str) -> bool {
        self.only_on.is_empty() || self.only_on.iter().any(|name| name == server)
    }
}

#[track_caller]
fn step(line: &str) -> Step {
    if line == "reset" {
        return Step { who: String::new(), act: Act::Reset };
    }
    let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or_else(|| panic!("no step: {line}"));
    let (who, rest) = line.split_at(end);
    let act = match (rest.strip_prefix(": "), rest.strip_prefix("> ")) {
        (Some(text), _) => Act::Commands(words::commands(text)),
        (_, Some(text)) => Act::Raw(words::words(text).concat()),
        _ if rest == ".close" => Act::Close,
        _ => panic!("no step: {line}"),
    };
    Step { who: who.to_owned(), act }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = &self.who;
        match &self.act {
            Act::Reset => write!(f, "reset"),
            Act::Close => write!(f, "{who}.close"),
            Act::Raw(bytes) => write!(f, "{who}> {}", quoted(bytes)),
            Act::Commands(commands) => {
                let line = |command: &Command| command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
                write!(f, "{who}: {}", commands.iter().map(line).collect::<Vec<_>>().join(" ; "))
            }
        }
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.only_on.is_empty() {
            writeln!(f, "only on: {}", self.only_on.join(" "))?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
