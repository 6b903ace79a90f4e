//! One server of each kind with and without Lockgate, and what comes of playing conversations on both.

use std::time::Duration;

use super::common::ServerKind;
use super::conversation::{Act, Conversation, Step};
use super::player::{self, Difference};
use super::shrink;
use super::side::Side;
use super::vocabulary::USERS;

/// How long the other side may take for what has come at once on this one.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same while a conversation is made shorter, which needs many tries.
const SHORT_PATIENCE: Duration = Duration::from_millis(400);
/// How often a shorter conversation is tried.
const TRIES: usize = 150;
/// How many conversations before it may have had a part in a difference.
const MEMORY: usize = 8;

pub struct Judge {
    kind: ServerKind,
    direct: Side,
    other: Side,
    /// What was played since this Lockgate began, the newest last.
    played: Vec<Conversation>,
}

/// A difference, and the shortest way to it.
pub struct Finding {
    pub conversation: Conversation,
    pub says: String,
    /// Played again from the beginning, it differs again.
    pub is_certain: bool,
    pub lockgate_wrote: String,
}

impl Judge {
    /// Lockgate against the server.
    pub fn of_lockgate(kind: ServerKind) -> Self {
        Self { kind, direct: Side::direct(kind), other: Side::through(kind), played: Vec::new() }
    }

    /// The server against itself: what differs here is the player's fault.
    pub fn of_itself(kind: ServerKind) -> Self {
        Self { kind, direct: Side::direct(kind), other: Side::direct(kind), played: Vec::new() }
    }

    /// Plays it on both sides, on what conversations before it have left of links.
    pub fn judge(&mut self, conversation: &Conversation) -> Option<Finding> {
        let found = self.play(conversation, PATIENCE, false)?;
        self.played.push(conversation.clone());
        let finding = self.explain(conversation, found);
        self.played.clear();
        self.reset(true);
        self.begin_anew();
        Some(finding)
    }

    fn play(&mut self, conversation: &Conversation, patience: Duration, is_fresh: bool) -> Option<Difference> {
        self.reset(is_fresh);
        let transcript = player::watch(conversation, &mut self.direct)
            .unwrap_or_else(|why| panic!("{} does not answer: {why:?}\n{conversation}", self.kind.name()));
        let found = player::compare(&transcript, &mut self.other, patience);
        if found.is_none() {
            self.played.push(conversation.clone());
            if self.played.len() > MEMORY {
                self.played.remove(0);
            }
        }
        found
    }

    /// Both servers as in the beginning, and without the users that conversations make if all of it is to go.
    fn reset(&mut self, is_all: bool) {
        let users: Vec<&str> = match is_all {
            true => USERS.iter().map(|(name, _)| *name).chain(["ub"]).collect(),
            false => Vec::new(),
        };
        for side in [&mut self.direct, &mut self.other] {
            side.reset(&users).unwrap_or_else(|why| panic!("{} does not answer: {why:?}", self.kind.name()));
        }
    }

    /// Plays it with a Lockgate that has met nobody.
    pub fn play_fresh(&mut self, conversation: &Conversation, patience: Duration) -> Option<Difference> {
        self.reset(true);
        self.begin_anew();
        self.play(conversation, patience, true)
    }

    fn begin_anew(&mut self) {
        match self.other.is_direct() {
            true => self.other = Side::direct(self.kind),
            false => self.other.begin_lockgate(),
        }
    }

    /// Looks for the shortest conversation, with those before it where it does not differ alone.
    fn explain(&mut self, conversation: &Conversation, found: Difference) -> Finding {
        let says = format!("step {}: {}", found.step + 1, found.says);
        let lockgate_wrote = self.other.wrote();
        let before = std::mem::take(&mut self.played);
        let mut candidates = vec![conversation.clone()];
        for first in (0..before.len().saturating_sub(1)).rev() {
            candidates.push(joined(&before[first..]));
        }
        for candidate in candidates {
            if self.play_fresh(&candidate, PATIENCE).is_some() {
                let short = shrink::shortest(candidate, TRIES, |c| self.play_fresh(c, SHORT_PATIENCE).is_some());
                let again = self.play_fresh(&short, PATIENCE);
                let says = again.as_ref().map_or(says, |d| format!("step {}: {}", d.step + 1, d.says));
                return Finding { conversation: short, says, is_certain: again.is_some(), lockgate_wrote };
            }
        }
        Finding { conversation: conversation.clone(), says, is_certain: false, lockgate_wrote }
    }
}

/// Several conversations as one, with everybody's leaving between them.
fn joined(conversations: &[Conversation]) -> Conversation {
    let reset = Step { who: String::new(), act: Act::Reset };
    let mut steps = Vec::new();
    for conversation in conversations {
        if !steps.is_empty() {
            steps.push(reset.clone());
        }
        steps.extend(conversation.steps.iter().cloned());
    }
    Conversation { only_on: Vec::new(), steps }
}

impl Finding {
    /// For a person to read, and to keep as a file.
    pub fn tell(&self, server: &str) -> String {
        let certainty = match self.is_certain {
            true => "the shortest conversation that differs",
            false => "it did not differ when it was played again",
        };
        let says = self.says.replace('\n', "\n# ");
        format!("# {certainty}\n# {says}\nonly on: {server}\n{}", self.conversation)
    }
}
