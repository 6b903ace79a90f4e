//! The shortest conversation that still differs.

use std::collections::HashSet;

use super::conversation::{Act, BOSS, Command, Conversation, Step};
use super::vocabulary::USERS;

/// Drops steps and commands for as long as `differs` says that it still does; it is asked so often at most.
pub fn shortest(
    conversation: Conversation,
    tries: usize,
    mut differs: impl FnMut(&Conversation) -> bool,
) -> Conversation {
    let mut left = tries;
    let mut best = conversation;
    let mut ask = |steps: &[Step]| {
        left = left.saturating_sub(1);
        let candidate = Conversation { only_on: Vec::new(), steps: steps.to_vec() };
        left > 0 && is_judgeable(&candidate) && differs(&candidate)
    };
    loop {
        let before = best.steps.len() + commands(&best);
        without_chunks(&mut best.steps, &mut ask);
        for at in 0..best.steps.len() {
            let Act::Commands(mut all) = best.steps[at].act.clone() else { continue };
            without_chunks(&mut all, &mut |fewer| {
                let mut steps = best.steps.clone();
                steps[at].act = Act::Commands(fewer.to_vec());
                !fewer.is_empty() && ask(&steps)
            });
            best.steps[at].act = Act::Commands(all);
        }
        if best.steps.len() + commands(&best) == before {
            return best;
        }
    }
}

/// Leaves out halves, then quarters, and in the end single ones.
fn without_chunks<T: Clone>(all: &mut Vec<T>, differs: &mut impl FnMut(&[T]) -> bool) {
    let mut chunk = all.len().div_ceil(2).max(1);
    loop {
        let mut at = all.len();
        while at > 0 {
            let start = at.saturating_sub(chunk);
            let fewer = [&all[..start], &all[at..]].concat();
            if fewer.len() < all.len() && differs(&fewer) {
                *all = fewer;
            }
            at = start.min(all.len());
        }
        if chunk == 1 {
            return;
        }
        chunk = chunk.div_ceil(2);
    }
}

fn commands(conversation: &Conversation) -> usize {
    conversation.steps.iter().map(|step| step.sent().len()).sum()
}

/// LOCK commands while writes stand still have no counterpart without Lockgate; a password that was right is to stay so, for Redis
/// 8.2 does not always answer one that is wrong; and whether one is asked for changes while nobody is there.
fn is_judgeable(conversation: &Conversation) -> bool {
    let is_there = |name: &[u8]| {
        let made = |command: &Command| command.len() > 2 && command[1] == b"SETUSER" && command[2] == name;
        conversation.steps.iter().any(|step| step.who == BOSS && step.sent().iter().any(made))
    };
    let is_wrong = |command: &Command| {
        let at = command.iter().position(|word| word.eq_ignore_ascii_case(b"auth"));
        let named = at.and_then(|at| command.get(at + 1..));
        matches!(named, Some([user, _, ..]) if USERS.iter().any(|(name, _)| name.as_bytes() == user) && !is_there(user))
    };
    if conversation.steps.iter().flat_map(Step::sent).any(is_wrong) {
        return false;
    }
    let (mut present, mut is_met) = (HashSet::new(), false);
    for step in &conversation.steps {
        let asks_for_password = |command: &Command| command.get(2).is_some_and(|word| word == b"requirepass");
        match &step.act {
            Act::Reset => present.clear(),
            Act::Close => drop(present.remove(&step.who)),
            _ if step.who == BOSS => is_met |= !present.is_empty() && step.sent().iter().any(asks_for_password),
            _ => drop(present.insert(&step.who)),
        }
    }
    if is_met {
        return false;
    }
    let mut is_paused = false;
    for command in conversation.steps.iter().flat_map(Step::sent) {
        let text = command.join(&b' ').to_ascii_uppercase();
        is_paused = (is_paused || text == b"CLIENT PAUSE 100000 WRITE") && text != b"CLIENT UNPAUSE";
        if is_paused && text.starts_with(b"LOCK.") {
            return false;
        }
    }
    true
}
