//! The wait-for graph and the search for cycles, told by who waits for what.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::survey::{Cycle, Survey};
use super::victim::VictimPolicy;
use super::wait::{HeldBy, Hold, Told, Wait, WaitId};
use super::wait_graph::WaitGraph;
use crate::domain::{CallId, Fence, Level, LockKey, OwnerId};

/// A node, its waits, and which connections took what by `SET NX`.
#[derive(Default)]
struct Node {
    name: &'static str,
    graph: WaitGraph,
    took: HashMap<LockKey, u64>,
    last: u64,
}

fn node(name: &'static str, numbers_from: u64) -> Node {
    Node { name, last: numbers_from, ..Node::default() }
}

fn key(name: &str) -> LockKey {
    LockKey::new(0, name.as_bytes())
}

fn owner(name: &str) -> OwnerId {
    OwnerId::new(name.as_bytes()).expect("a plain name")
}

fn owned(name: &str) -> HeldBy {
    HeldBy::Owner { owner: owner(name), fence: Fence(7), since_ms: 1 }
}

impl Node {
    fn wait(&mut self, connection: u64, who: &str, is_plain: bool, key_name: &str) -> CallId {
        self.last += 1;
        let id = WaitId { node: self.name.into(), call: CallId(self.last) };
        self.graph.begins(Wait {
            id,
            connection,
            owner: (!is_plain).then(|| owner(who)),
            shown: who.as_bytes().into(),
            key: key(key_name),
            level: Level::Normal,
            since_us: self.last,
        });
        CallId(self.last)
    }

    /// `who` waits on a connection of his own for a lock that `holder` has.
    fn waits(&mut self, who: &str, key_name: &str, holder: &str) -> CallId {
        let call = self.wait(self.last + 1000, who, false, key_name);
        self.graph.held(&key(key_name), Some(owned(holder)), None);
        call
    }

    /// `connection` waits by a `SET NX` or as an owner for what `by` holds.
    fn waits_on(&mut self, connection: u64, who: &str, is_plain: bool, key_name: &str, by: HeldBy) -> CallId {
        let call = self.wait(connection, who, is_plain, key_name);
        let took = self.took.get(&key(key_name)).copied().filter(|_| matches!(by, HeldBy::Plain { .. }));
        self.graph.held(&key(key_name), Some(by), took);
        call
    }

    fn survey(&self, call: CallId) -> Option<Cycle> {
        survey(&[self], &self.graph.told(call)?)
    }
}

/// What a search over these nodes finds.
fn survey(nodes: &[&Node], start: &Told) -> Option<Cycle> {
    let mut survey = Survey::default();
    let (mut asked, mut todo): (HashSet<Hold>, HashSet<Hold>) = (HashSet::new(), start.hold().into_iter().collect());
    while !todo.is_empty() {
        let holds: Vec<Hold> = todo.into_iter().collect();
        for node in nodes {
            survey.add(node.graph.behind(&holds, |hold| node.took.get(&hold.key).copied()));
            for hold in &holds {
                if let Some(connection) = node.took.get(&hold.key) {
                    survey.claim(hold.clone(), node.name.into(), *connection);
                }
            }
        }
        asked.extend(holds);
        todo = survey.holds().difference(&asked).cloned().collect();
    }
    survey.cycle(start)
}

fn line(cycle: &Cycle, node: &str, call: CallId) -> String {
    cycle.line(&WaitId { node: node.into(), call })
}

#[test]
fn two_that_wait_for_each_other_are_a_cycle_and_a_chain_is_none() {
    let mut n = node("n", 0);
    let c = n.waits("c", "k3", "a");
    let a = n.waits("a", "k1", "b");
    assert_eq!((n.graph.cycle(c), n.graph.cycle(a)), (None, None));
    assert!(n.graph.is_awaited(a) && !n.graph.is_awaited(c));
    let b = n.waits("b", "k2", "a");
    assert_eq!(n.graph.cycle(b), Some(vec![b, a]));
    assert_eq!(n.graph.cycle(c), None, "it waits for the cycle, but is no part of it");
    let cycle = n.survey(b).expect("a cycle");
    assert_eq!(line(&cycle, "n", b), "b -> k2 -> a -> k1 -> b");
    assert_eq!(line(&cycle, "n", a), "a -> k1 -> b -> k2 -> a");
    assert_eq!(cycle, n.survey(a).expect("a cycle"), "the same from wherever it is looked for");
    n.graph.ends(a);
    assert_eq!((n.graph.cycle(b), n.survey(b)), (None, None));
    n.graph.ends(b);
    n.graph.ends(c);
    assert!(n.graph.is_empty());
}

#[test]
fn a_lock_that_changes_hands_ends_a_cycle_and_may_close_another() {
    let mut n = node("n", 0);
    let (a, b) = (n.waits("a", "k1", "b"), n.waits("b", "k2", "a"));
    assert!(n.graph.held(&key("k2"), Some(owned("z")), None));
    assert!(!n.graph.held(&key("k2"), Some(owned("z")), None), "that is no news");
    assert_eq!((n.graph.cycle(a), n.graph.cycle(b)), (None, None));
    assert!(n.graph.held(&key("k2"), None, None));
    assert_eq!(n.graph.cycle(a), None);
    n.graph.held(&key("k2"), Some(owned("a")), None);
    assert_eq!(n.graph.calls_of_holder(&key("k2")), [a]);
    assert_eq!(n.graph.cycle(a), Some(vec![a, b]));
}

#[test]
fn an_owner_is_one_actor_and_does_not_wait_for_himself() {
    let mut n = node("n", 0);
    let again = n.waits("a", "k1", "a");
    let other = n.waits("a", "k2", "b");
    assert_eq!((n.graph.cycle(again), n.survey(again)), (None, None));
    // One of his threads waits for b, and b waits for what another thread of his has.
    let b = n.waits("b", "k3", "a");
    assert_eq!(n.graph.cycle(b), Some(vec![b, other]));
    assert_eq!(n.graph.cycle(again), None);
}

#[test]
fn who_ranks_before_a_waiter_is_no_holder() {
    let mut n = node("n", 0);
    // c waits before a in the line of k, and for what a holds; h can still let go.
    let (c, a) = (n.waits("c", "k", "h"), n.waits("a", "k", "h"));
    let c2 = n.waits("c", "k2", "a");
    assert_eq!([c, a, c2].map(|call| n.graph.cycle(call)), [None, None, None]);
    n.graph.ends(c);
    n.graph.held(&key("k"), Some(owned("c")), None);
    assert_eq!(n.graph.cycle(a), Some(vec![a, c2]));
}

#[test]
fn a_release_behind_a_blocked_call_waits_for_that_call() {
    let mut n = node("n", 0);
    let b = n.waits_on(7, "b", false, "k", owned("a"));
    assert_eq!(n.graph.cycle(b), None);
    n.graph.stands_behind(7, vec![(key("other"), owner("a"))]);
    assert_eq!(n.graph.cycle(b), None, "it is the release of another lock");
    n.graph.stands_behind(7, vec![(key("k"), owner("b")), (key("k"), owner("a"))]);
    assert_eq!(n.graph.cycle(b), Some(vec![b]));
    let cycle = n.survey(b).expect("a cycle");
    assert_eq!(line(&cycle, "n", b), "b -> k -> a -> connection 7 of n -> b");
    n.graph.stands_behind(7, vec![]);
    assert_eq!((n.graph.cycle(b), n.survey(b)), (None, None));
    // The other way round: the release is there before it is known who holds the lock.
    n.graph.stands_behind(8, vec![(key("m"), owner("a"))]);
    let b = n.waits_on(8, "b", false, "m", owned("a"));
    assert_eq!(n.graph.cycle(b), Some(vec![b]));
}

#[test]
fn a_connection_holds_what_it_took_by_set_nx() {
    let mut n = node("n", 0);
    n.took = HashMap::from([(key("k1"), 1), (key("k2"), 2)]);
    let two = n.waits_on(2, "w2", true, "k1", HeldBy::plain(b"v1"));
    assert_eq!(n.graph.cycle(two), None);
    let one = n.waits_on(1, "w1", true, "k2", HeldBy::plain(b"v2"));
    assert_eq!(n.graph.cycle(one), Some(vec![one, two]));
    let cycle = n.survey(one).expect("a cycle");
    let expected = "w1 -> k2 -> v2 -> connection 2 of n -> w2 -> k1 -> v1 -> connection 1 of n -> w1";
    assert_eq!(line(&cycle, "n", one), expected);
    // And with LOCK.* mixed in: the connection that took k1 waits as an owner for what a holds.
    let mut n = node("n", 0);
    n.took = HashMap::from([(key("k1"), 1)]);
    let a = n.waits_on(9, "a", false, "k1", HeldBy::plain(b"v1"));
    let b = n.waits_on(1, "b", false, "k3", owned("a"));
    assert_eq!(n.graph.cycle(b), Some(vec![b, a]));
    let cycle = n.survey(a).expect("a cycle");
    assert_eq!(line(&cycle, "n", a), "a -> k1 -> v1 -> connection 1 of n -> b -> k3 -> a");
}

#[test]
fn an_owner_whose_connection_is_blocked_by_a_set_nx_waits_for_it() {
    let mut n = node("n", 0);
    n.took = HashMap::from([(key("k1"), 1)]);
    let b = n.waits_on(9, "b", false, "k1", owned("a"));
    n.graph.held(&key("k1"), Some(owned("a")), Some(1));
    let plain = n.waits_on(1, "w", true, "k2", owned("b"));
    assert_eq!(n.graph.cycle(plain), Some(vec![plain, b]));
    let cycle = n.survey(plain).expect("a cycle");
    assert_eq!(line(&cycle, "n", plain), "w -> k2 -> b -> k1 -> a -> connection 1 of n -> w");
    // By another owner's call on a connection that both use he may still release over another one.
    n.graph.ends(plain);
    let other = n.waits_on(1, "c", false, "k2", owned("b"));
    assert_eq!((n.graph.cycle(other), n.survey(other)), (None, None));
}

#[test]
fn a_cycle_over_three_nodes_is_put_together() {
    let (mut x, mut y, mut z) = (node("x", 0), node("y", 100), node("z", 200));
    let a = x.waits("a", "k1", "b");
    let b = y.waits("b", "k2", "c");
    let c = z.waits("c", "k3", "a");
    assert_eq!([x.graph.cycle(a), y.graph.cycle(b), z.graph.cycle(c)], [None, None, None]);
    let nodes = [&x, &y, &z];
    let from_a = survey(&nodes, &x.graph.told(a).expect("it waits")).expect("a cycle");
    let from_c = survey(&nodes, &z.graph.told(c).expect("it waits")).expect("a cycle");
    assert_eq!(from_a, from_c);
    assert_eq!(from_a.line(&WaitId { node: "y".into(), call: b }), "b -> k2 -> c -> k3 -> a -> k1 -> b");
    for policy in [VictimPolicy::LowestPriority, VictimPolicy::Youngest, VictimPolicy::Requester] {
        let victim = from_a.victim(policy, |_| 1).map(|wait| wait.id.clone());
        assert_eq!(victim, from_c.victim(policy, |_| 1).map(|wait| wait.id.clone()));
        assert_eq!(victim.map(|id| id.call), Some(c), "the latest, {policy:?}");
    }
    assert!(survey(&[&x, &z], &x.graph.told(a).expect("it waits")).is_none(), "without y it is not complete");
}

#[test]
fn two_connections_that_wrote_the_same_value_are_not_told_apart() {
    let (mut x, mut y) = (node("x", 0), node("y", 100));
    x.took = HashMap::from([(key("k1"), 1)]);
    let a = x.waits_on(9, "a", false, "k1", HeldBy::plain(b"v"));
    x.waits_on(1, "b", false, "k3", owned("a"));
    let told = x.graph.told(a).expect("it waits");
    assert!(survey(&[&x, &y], &told).is_some());
    // Whichever of them it is, the other one is free.
    y.took = HashMap::from([(key("k1"), 5)]);
    assert!(survey(&[&x, &y], &told).is_none());
}

#[test]
fn long_names_are_cut_and_odd_bytes_shown() {
    let mut n = node("n", 0);
    let long = "x".repeat(1000);
    n.waits("a\r\n", &long, "b");
    let b = n.waits("b", "k", "a\r\n");
    let cycle = n.survey(b).expect("a cycle");
    assert_eq!(line(&cycle, "n", b), format!("b -> k -> a\\r\\n -> {}… -> b", "x".repeat(128)));
}

#[test]
fn random_waits_with_ordered_keys_never_make_a_cycle_and_random_ones_agree_with_a_plain_search() {
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..300 {
        let is_ordered = round % 2 == 0;
        let mut n = node("n", 0);
        let mut edges: Vec<(usize, usize)> = Vec::new();
        let mut calls: Vec<Option<CallId>> = Vec::new();
        for who in 0..12 {
            // Each waits for one of those before him at most, or, where nothing is ordered, for anybody.
            let whom = random.usize(0..12);
            let is_wanted = whom != who && (!is_ordered || whom < who);
            calls.push(is_wanted.then(|| {
                edges.push((who, whom));
                n.waits(&format!("o{who}"), &format!("k{whom}"), &format!("o{whom}"))
            }));
        }
        for _ in 0..random.usize(0..4) {
            let who = random.usize(0..12);
            if let Some(call) = calls[who].take() {
                n.graph.ends(call);
                edges.retain(|(from, _)| *from != who);
            }
        }
        for (who, call) in calls.iter().enumerate() {
            let Some(call) = call else { continue };
            let (mut at, mut steps) = (who, 0);
            while let Some((_, next)) = edges.iter().find(|(from, _)| *from == at)
                && steps < 12
            {
                (at, steps) = (*next, steps + 1);
                if at == who {
                    break;
                }
            }
            let is_on_cycle = steps > 0 && at == who;
            assert!(!is_ordered || !is_on_cycle);
            assert_eq!(n.graph.cycle(*call).is_some(), is_on_cycle, "round {round}");
            assert_eq!(n.survey(*call).is_some(), is_on_cycle, "round {round}");
        }
    }
}

#[test]
fn a_chain_of_a_hundred_is_searched_in_less_than_ten_microseconds() {
    let mut n = node("n", 0);
    let calls: Vec<CallId> = (0..100)
        .map(|who| n.waits(&format!("owner-{who}"), &format!("orders:{}", who + 1), &format!("owner-{}", who + 1)))
        .collect();
    let mut best_ns = u128::MAX;
    for _ in 0..200 {
        let begun = Instant::now();
        assert_eq!(n.graph.cycle(calls[0]), None);
        best_ns = best_ns.min(begun.elapsed().as_nanos());
    }
    println!("a chain of 100 waits: {best_ns} ns for a search");
    // Unoptimized code is given more; `bench/deadlock` measures what is shipped.
    let limit_ns = if cfg!(debug_assertions) { 100_000 } else { 10_000 };
    assert!(best_ns < limit_ns, "{best_ns} ns");
    let last = n.waits("owner-100", "orders:0", "owner-0");
    assert_eq!(n.graph.cycle(last).map(|cycle| cycle.len()), Some(101));
}
