//! What several nodes have told of their waits, put together, and the cycles in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::victim::{Candidate, VictimPolicy, victim};
use super::wait::{HeldBy, Hold, Link, Told, Via, Wait, WaitId};

/// Names in the line that tells of a cycle are cut to this, in bytes …
const NAME_MAX: usize = 128;
/// … and of longer cycles only so many parties are named.
const NAMED_MAX: usize = 64;

/// One part of a cycle: this wait waits for a lock that is held like that, and the hold does not end before the next wait does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The wait.
    pub wait: Wait,
    /// Who holds what it waits for.
    pub by: HeldBy,
    /// Why that does not end before the next wait.
    pub via: Via,
}

/// A cycle of waits. Two are the same where each edge reads the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    steps: Vec<Step>,
}

/// All that was told.
#[derive(Debug, Default)]
pub struct Survey {
    links: HashMap<Hold, Vec<Link>>,
    /// The connections that are said to have taken a lock, by node.
    claims: HashMap<Hold, HashSet<(Arc<str>, u64)>>,
}

impl Survey {
    /// Adds what a node told. Of a wait that two answers tell of, the first counts.
    pub fn add(&mut self, links: Vec<Link>) {
        for link in links {
            let known = self.links.entry(link.hold.clone()).or_default();
            if !known.iter().any(|other| (other.via, &other.to.wait.id) == (link.via, &link.to.wait.id)) {
                known.push(link);
            }
        }
    }

    /// `connection` of `node` has at some time taken `hold` by its value, as far as that node knows.
    pub fn claim(&mut self, hold: Hold, node: Arc<str>, connection: u64) {
        self.claims.entry(hold).or_default().insert((node, connection));
    }

    /// The holds that the told waits wait for.
    pub fn holds(&self) -> HashSet<Hold> {
        self.links.values().flatten().filter_map(|link| link.to.hold()).collect()
    }

    /// The waits that some hold cannot end before: no other can be on a cycle.
    pub fn waits(&self) -> HashSet<&WaitId> {
        self.links.values().flatten().map(|link| &link.to.wait.id).collect()
    }

    /// The waits that `hold` cannot end before. Where several connections have taken a lock by the same value, one after the other and
    /// through different nodes, nobody can tell whose it is now, and none of them counts.
    fn after<'a>(&'a self, hold: &Hold, waiter: &'a Wait) -> impl Iterator<Item = &'a Link> {
        let links = self.links.get(hold).map(Vec::as_slice).unwrap_or_default();
        let claims = self.claims.get(hold).map_or(0, HashSet::len);
        links.iter().filter(move |link| match link.via {
            // An owner does not wait for himself: what he holds his next call repeats.
            Via::Owner => waiter.owner.is_none() || waiter.owner != link.to.wait.owner,
            Via::Took | Via::Over => claims == 1,
            Via::Behind => true,
        })
    }

    /// A cycle through the wait `start`.
    pub fn cycle(&self, start: &Told) -> Option<Cycle> {
        let mut met: HashMap<&WaitId, (&Told, &Told, Via)> = HashMap::new();
        let mut todo: Vec<&Told> = vec![start];
        while let Some(at) = todo.pop() {
            let Some(hold) = at.hold() else { continue };
            for link in self.after(&hold, &at.wait) {
                if link.to.wait.id == start.wait.id {
                    return path(start, at, link.via, &met);
                }
                if !met.contains_key(&link.to.wait.id) {
                    met.insert(&link.to.wait.id, (&link.to, at, link.via));
                    todo.push(&link.to);
                }
            }
        }
        None
    }
}

/// The way from `start` to `last`, whose hold does not end before `start` does.
fn path(start: &Told, last: &Told, via: Via, met: &HashMap<&WaitId, (&Told, &Told, Via)>) -> Option<Cycle> {
    let (mut at, mut via) = (last, via);
    let mut steps = Vec::new();
    loop {
        steps.push(Step { wait: at.wait.clone(), by: at.by.clone()?, via });
        if at.wait.id == start.wait.id {
            break;
        }
        let (_, before, via_before) = met.get(&at.wait.id)?;
        (at, via) = (before, *via_before);
    }
    steps.reverse();
    Some(Cycle::new(steps))
}

impl Cycle {
    /// Wherever one begins to count, the same cycle comes of it.
    fn new(mut steps: Vec<Step>) -> Self {
        let first = steps.iter().enumerate().min_by_key(|(_, step)| step.wait.id.clone()).map_or(0, |(place, _)| place);
        steps.rotate_left(first);
        Cycle { steps }
    }

    /// Its parts.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Which of its waits is to end. `locks` tells how many locks a party holds.
    pub fn victim(&self, policy: VictimPolicy, locks: impl Fn(&Wait) -> u64) -> Option<&Wait> {
        let before = self.steps.iter().cycle().skip(self.steps.len().saturating_sub(1));
        let candidates = self.steps.iter().zip(before).map(|(step, before)| Candidate {
            id: step.wait.id.clone(),
            is_plain: step.wait.owner.is_none(),
            level: step.wait.level,
            since_us: step.wait.since_us,
            holds_since_ms: match &before.by {
                HeldBy::Owner { since_ms, .. } if before.via == Via::Owner => Some(*since_ms),
                _ => None,
            },
            locks: locks(&step.wait),
        });
        let candidates: Vec<Candidate> = candidates.collect();
        victim(&candidates, policy).map(|place| &self.steps[place].wait)
    }

    /// The line for people, beginning and ending with the wait `first`: `a -> orders:1 -> b -> orders:2 -> a`. A connection stands in it
    /// where a hold cannot end because of the call that blocks it.
    pub fn line(&self, first: &WaitId) -> String {
        let at = self.steps.iter().position(|step| step.wait.id == *first).unwrap_or(0);
        let (until, from) = self.steps.split_at(at);
        let mut parts: Vec<Arc<str>> = Vec::new();
        let steps: Vec<&Step> = from.iter().chain(until).collect();
        for (place, step) in steps.iter().enumerate().take(NAMED_MAX) {
            let next = &steps[(place + 1) % steps.len()].wait;
            if place == 0 {
                parts.push(name(&step.wait.shown));
            }
            parts.push(name(&step.wait.key.name));
            parts.push(name(step.by.shown()));
            if step.via != Via::Owner {
                parts.push(format!("connection {} of {}", next.connection, next.id.node).into());
                parts.push(name(&next.shown));
            }
        }
        if steps.len() > NAMED_MAX {
            parts.push(format!("({} more)", steps.len() - NAMED_MAX).into());
            parts.push(name(&steps[0].wait.shown));
        }
        parts.join(" -> ")
    }
}

fn name(bytes: &[u8]) -> Arc<str> {
    let cut = &bytes[..bytes.len().min(NAME_MAX)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    // What is text stays text; control characters and broken text are escaped.
    match std::str::from_utf8(cut) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text}{more}").into(),
        _ => format!("{}{more}", cut.escape_ascii()).into(),
    }
}
