//! Looks for cycles of waits, over all nodes, and ends one call of each.
//!
//! A search begins with the wait that may have closed a cycle. Whom it waits for is asked round by round: each node tells of the waits
//! that a hold cannot end before, as far as it can follow them itself, so that a cycle takes as many rounds as it changes nodes. Only
//! waits of those who hold something are ever told. Then every key of the cycle is read. All of that is done twice, one pass after the
//! other: what reads the same both times stood all the while between them, all edges at once, and so did the cycle.
//!
//! The victim is a function of the cycle. Only its own node ends it; whoever else finds the cycle tells that node to look for itself.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::super::Coordinator;
use super::super::many::join_all;
use super::super::peers::Question;
use super::super::shards::Fed;
use super::found::nothing;
use super::words::{Known, read_keys, that_fit};
use super::{Suspect, held_by};
use crate::domain::{CallId, LockKey, OwnerId};
use crate::locks::Event;
use crate::locks::survey::{Cycle, Survey};
use crate::locks::victim::VictimPolicy;
use crate::locks::wait::{HeldBy, Hold, Link, Told, Wait};
use crate::upstream::router::Router;

/// How often waits are searched from that nothing pointed at, in ms: the parts of a cycle may wait on nodes that do not know of each
/// other …
const ROUND_MS: u64 = 200;
/// … and every so manieth time from all of them, whatever was found before.
const ALL_EVERY: u64 = 25;
/// Between the two passes, in ms: whoever is about to let go has let go by then.
const CONFIRM_AFTER_MS: u64 = 40;
/// Rounds of questions of one pass; a cycle that changes nodes more often is not found.
const ROUNDS_MAX: usize = 64;
/// Cycles that are followed at a time; others wait for the next search.
const CYCLES_MAX: usize = 64;
/// Keys that are read at a time.
const LOOKS_AT_ONCE: usize = 64;

/// What a pass has found.
#[derive(Default)]
struct Pass {
    cycles: Vec<Cycle>,
    /// Not every node has answered, or not every key could be read: there may be more.
    is_partial: bool,
}

impl Coordinator {
    /// Searches whenever a wait begins that may close a cycle, and round by round besides. One worker runs it.
    pub(in super::super) async fn search_for_deadlocks(self: Arc<Self>, router: Rc<Router>) {
        if self.deadlocks.is_off() {
            return;
        }
        let (mut next_round, mut rounds) = (self.now(), 0u64);
        loop {
            let is_empty = self.deadlocks.graph().is_empty();
            tokio::select! {
                biased;
                () = self.deadlocks.bell.notified() => {}
                () = self.sleep_until(next_round), if !is_empty => {}
            }
            let mut starts = std::mem::take(&mut *self.deadlocks.suspects());
            if self.now() >= next_round {
                next_round = self.now().plus_ms(ROUND_MS);
                rounds += 1;
                starts.extend(self.deadlocks.graph().news(rounds.is_multiple_of(ALL_EVERY)));
            }
            if !starts.is_empty() {
                let starts: Vec<CallId> = starts.into_iter().collect();
                self.search(&router, &starts).await;
            }
        }
    }

    async fn search(self: &Arc<Self>, router: &Rc<Router>, starts: &[CallId]) {
        let first = self.pass(router, starts).await;
        if first.is_partial {
            self.search_again(starts);
        }
        if first.cycles.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(CONFIRM_AFTER_MS)).await;
        let mine = |cycle: &Cycle| -> Vec<CallId> {
            let waits = cycle.steps().iter().map(|step| &step.wait.id);
            waits.filter(|id| id.node == self.nodes.me.id).map(|id| id.call).collect()
        };
        let starts: HashSet<CallId> = first.cycles.iter().flat_map(mine).collect();
        let starts: Vec<CallId> = starts.into_iter().collect();
        let second = self.pass(router, &starts).await;
        let mut hit: HashSet<CallId> = HashSet::new();
        for cycle in first.cycles.iter().filter(|cycle| second.cycles.contains(cycle)) {
            // One victim may have been enough for several cycles.
            if !mine(cycle).iter().any(|call| hit.contains(call)) {
                hit.extend(self.break_up(router, cycle).await);
            }
        }
        self.search_again(&starts);
    }

    /// What came of these was not the last word.
    fn search_again(&self, starts: &[CallId]) {
        let mut graph = self.deadlocks.graph();
        starts.iter().for_each(|call| graph.is_news(*call));
    }

    /// Asks for everything anew, and finds the cycles through these waits of this node.
    async fn pass(self: &Arc<Self>, router: &Rc<Router>, starts: &[CallId]) -> Pass {
        let is_alone = self.nodes.is_alone();
        let starts: Vec<Told> = {
            let mut graph = self.deadlocks.graph();
            let mut may_be = |call: &CallId| !is_alone || (graph.is_awaited(*call) && graph.cycle(*call).is_some());
            let starts: Vec<CallId> = starts.iter().copied().filter(|call| may_be(call)).collect();
            starts.into_iter().filter_map(|call| graph.told(call)).collect::<Vec<Told>>()
        };
        let starts: Vec<Told> = starts.into_iter().filter_map(|told| self.as_it_is_now(told)).collect();
        if starts.is_empty() {
            return Pass::default();
        }
        let (survey, mut is_partial) = self.survey(&starts).await;
        let mut cycles: Vec<Cycle> = Vec::new();
        let met = survey.waits();
        for start in starts.iter().filter(|start| met.contains(&start.wait.id)) {
            if let Some(cycle) = survey.cycle(start).filter(|cycle| !cycles.contains(cycle)) {
                cycles.push(cycle);
            }
            if cycles.len() == CYCLES_MAX {
                is_partial = true;
                break;
            }
        }
        if !cycles.is_empty() {
            let read = self.read_keys_of(router, &cycles).await;
            let stands = |cycle: &Cycle| cycle.steps().iter().all(|step| read.get(&step.wait.key) == Some(&step.by));
            is_partial |= thinned_out(&mut cycles, |cycle| stands(cycle) && self.are_waiting(cycle));
        }
        Pass { cycles, is_partial }
    }

    /// Everything that these waits wait for, directly or not; `true` where somebody did not answer.
    async fn survey(&self, starts: &[Told]) -> (Survey, bool) {
        let mut survey = Survey::default();
        let (mut asked, mut silent) = (HashSet::new(), Vec::new());
        let mut todo: HashSet<Hold> = starts.iter().filter_map(Told::hold).collect();
        for _ in 0..ROUNDS_MAX {
            let holds: Vec<Hold> = todo.drain().collect();
            let Known { links, claims } = self.known_of(&holds);
            survey.add(links);
            claims.into_iter().for_each(|(hold, connection)| survey.claim(hold, self.nodes.me.id.clone(), connection));
            let mut rest = &holds[..];
            while !rest.is_empty() && !self.nodes.is_alone() {
                // A name that is longer than a whole question may be is not asked for.
                let fit = that_fit(rest).max(1);
                let (some, others) = rest.split_at(fit);
                rest = others;
                if that_fit(some) == 0 {
                    continue;
                }
                let answers = self.ask_others(&nothing(), &Question::Holds(some.to_vec()), &silent).await;
                silent.extend(answers.silent);
                for (node, words) in answers.came {
                    let Known { links, claims } = Known::read(&words);
                    survey.add(links);
                    claims.into_iter().for_each(|(hold, connection)| survey.claim(hold, node.clone(), connection));
                }
            }
            asked.extend(holds);
            todo.extend(survey.holds().difference(&asked).cloned());
            if todo.is_empty() {
                break;
            }
        }
        (survey, !silent.is_empty())
    }

    /// What this node knows of these holds.
    pub(in super::super) fn known_of(&self, holds: &[Hold]) -> Known {
        let links = self.deadlocks.graph().behind(holds, |hold| self.deadlocks.taker(hold));
        let links = links.into_iter().filter(|link| !self.is_being_let_go(&link.hold));
        let links = links.filter_map(|link| Some(Link { to: self.as_it_is_now(link.to)?, ..link }));
        let claims = holds.iter().filter_map(|hold| Some((hold.clone(), self.deadlocks.taker(hold)?)));
        Known { links: links.collect(), claims: claims.collect() }
    }

    /// The wait with the level it has by now; `None` where its call was answered: the graph knows it until its client was told.
    fn as_it_is_now(&self, mut told: Told) -> Option<Told> {
        let wait = &mut told.wait;
        let (level, _) = self.shards.read(&wait.key, |line| line.waits_at(wait.id.call, self.now())).flatten()?;
        wait.level = level;
        Some(told)
    }

    /// This node is about to take the lock back from its holder, who does not want it any more.
    fn is_being_let_go(&self, hold: &Hold) -> bool {
        let is_it = |value: &[u8]| held_by(value).as_ref() == Some(&hold.by);
        self.shards.read(&hold.key, |line| line.gives_back(is_it)).unwrap_or(false)
    }

    fn is_waiting(&self, wait: &Wait) -> bool {
        self.shards.read(&wait.key, |line| line.is_waiting(wait.id.call)).unwrap_or(false)
    }

    /// Whether those of its waits that are of this node still are.
    fn are_waiting(&self, cycle: &Cycle) -> bool {
        let mut mine = cycle.steps().iter().filter(|step| step.wait.id.node == self.nodes.me.id);
        mine.all(|step| self.is_waiting(&step.wait))
    }

    /// Who holds the keys of these cycles, read upstream now. What cannot be read is missing.
    async fn read_keys_of(self: &Arc<Self>, router: &Rc<Router>, cycles: &[Cycle]) -> HashMap<LockKey, HeldBy> {
        let keys: HashSet<&LockKey> =
            cycles.iter().flat_map(|cycle| cycle.steps()).map(|step| &step.wait.key).collect();
        let keys: Vec<&LockKey> = keys.into_iter().collect();
        let mut read = HashMap::new();
        for some in keys.chunks(LOOKS_AT_ONCE) {
            let looks = some.iter().map(|key| async move {
                let service = router.service(key.db);
                self.store.look(&service, key, true).await
            });
            for (key, held) in some.iter().zip(join_all(looks).await) {
                let Ok(held) = held else { continue };
                let value = held.as_ref().map(|held| &*held.value);
                self.saw_holder(key, value);
                if let Some(by) = value.and_then(held_by) {
                    read.insert((*key).clone(), by);
                }
            }
        }
        read
    }

    /// Ends the victim's call, if it is one of this node; else its node is told to look for itself. Returns the call that was ended.
    async fn break_up(self: &Arc<Self>, router: &Rc<Router>, cycle: &Cycle) -> Option<CallId> {
        let locks = match self.deadlocks.policy {
            VictimPolicy::FewestLocks => self.count_locks(router, cycle).await?,
            _ => HashMap::new(),
        };
        let count = |wait: &Wait| wait.owner.as_ref().and_then(|owner| locks.get(owner)).copied().unwrap_or(0);
        let victim = cycle.victim(self.deadlocks.policy, count)?;
        let call = victim.id.call;
        if victim.id.node != self.nodes.me.id {
            let question = Question::Suspect(Suspect(call));
            self.nodes.talk.ask(vec![victim.id.node.clone()], &nothing(), &question).await;
            return None;
        }
        let line = cycle.line(&victim.id);
        let event = Event::Aborts { call, line: format!("DEADLOCK {line}").into() };
        let fed: Fed = self.shards.feed(&victim.key, event, None, self.now())?;
        let has_ended = fed.answers > 0;
        if has_ended {
            self.note_deadlock(cycle, victim, &line);
        }
        self.carry_out(fed, &victim.key, &router.service(victim.key.db));
        has_ended.then_some(call)
    }

    /// How many locks the owners in a cycle hold, granted by whichever node; each was read. `None` where a node has not answered: what it
    /// has granted would not count, and others who hear it would choose another victim. The next search asks again, until it answers or
    /// counts as dead.
    async fn count_locks(self: &Arc<Self>, router: &Rc<Router>, cycle: &Cycle) -> Option<HashMap<OwnerId, u64>> {
        let mut locks = HashMap::new();
        for owner in cycle.steps().iter().filter_map(|step| step.wait.owner.as_ref()) {
            let mut keys: HashSet<LockKey> = self.deadlocks.held.of(owner).into_iter().collect();
            let answers = self.ask_others(&nothing(), &Question::Locks(owner.clone()), &[]).await;
            let may_answer = self.others(&[]).0;
            if answers.silent.iter().any(|node| may_answer.contains(node)) {
                return None;
            }
            keys.extend(answers.came.iter().flat_map(|(_, words)| read_keys(words)));
            // What others wait for in this cycle he holds in any case.
            keys.extend(
                cycle
                    .steps()
                    .iter()
                    .filter(|step| step.by.shown() == owner.as_bytes())
                    .map(|step| step.wait.key.clone()),
            );
            let keys: Vec<LockKey> = keys.into_iter().collect();
            let mut held = 0;
            for some in keys.chunks(LOOKS_AT_ONCE) {
                let looks = some.iter().map(|key| async move {
                    let service = router.service(key.db);
                    self.store.look(&service, key, true).await
                });
                for (key, value) in some.iter().zip(join_all(looks).await) {
                    let Ok(value) = value else { continue };
                    match value.as_ref().and_then(|held| held_by(&held.value)) {
                        Some(HeldBy::Owner { owner: holder, .. }) if holder == *owner => held += 1,
                        _ => self.deadlocks.let_go(key, owner),
                    }
                }
            }
            locks.insert(owner.clone(), held);
        }
        Some(locks)
    }
}

/// Keeps those that are so; whether others were there.
fn thinned_out<T>(all: &mut Vec<T>, is_so: impl Fn(&T) -> bool) -> bool {
    let before = all.len();
    all.retain(is_so);
    all.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_stand_any_more_or_could_not_be_read_is_looked_for_again() {
        let mut all = vec![1, 2, 3];
        assert!(!thinned_out(&mut all, |one| *one > 0));
        assert!(thinned_out(&mut all, |one| *one != 2));
        assert_eq!(all, [1, 3]);
    }
}
