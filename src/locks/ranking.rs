//! The waiters of one key in the order of their ranks, with every question answered in O(log n): who is first, who leaves, who
//! stands where. A treap in an arena, each node counting those below it.

use std::cmp::Ordering;

use super::rank::Rank;
use crate::domain::CallId;

/// No node.
const NIL: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    rank: Rank,
    call: CallId,
    /// Random enough to keep the tree flat, and the same in every run.
    weight: u64,
    count: u32,
    left: u32,
    right: u32,
}

/// Waiters by rank.
#[derive(Debug)]
pub struct Ranking {
    nodes: Vec<Node>,
    unused: Vec<u32>,
    root: u32,
    seed: u64,
}

impl Default for Ranking {
    fn default() -> Self {
        Ranking { nodes: Vec::new(), unused: Vec::new(), root: NIL, seed: 0 }
    }
}

impl Ranking {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.count(self.root) as usize
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.root == NIL
    }

    /// A waiter takes his place. No two have the same rank.
    pub fn insert(&mut self, rank: Rank, call: CallId) {
        let (before, after) = self.split(self.root, rank, false);
        let new = self.new_node(rank, call);
        let left = self.merge(before, new);
        self.root = self.merge(left, after);
    }

    /// A waiter leaves; `false` where nobody has that rank.
    pub fn remove(&mut self, rank: Rank) -> bool {
        let (before, rest) = self.split(self.root, rank, false);
        let (found, after) = self.split(rest, rank, true);
        self.root = self.merge(before, after);
        let was_there = found != NIL;
        if was_there {
            self.unused.push(found);
        }
        if self.root == NIL {
            // A long queue that has gone gives its memory back.
            *self = Ranking::default();
        }
        was_there
    }

    /// Who has so many before him.
    pub fn nth(&self, before: usize) -> Option<(Rank, CallId)> {
        let (mut at, mut before) = (self.node(self.root)?, before);
        loop {
            let left = self.count(at.left) as usize;
            at = match before.cmp(&left) {
                Ordering::Less => self.node(at.left)?,
                Ordering::Equal => return Some((at.rank, at.call)),
                Ordering::Greater => {
                    before -= left + 1;
                    self.node(at.right)?
                }
            };
        }
    }

    /// How many stand before `rank`.
    pub fn count_before(&self, rank: Rank) -> usize {
        let (mut at, mut before) = (self.root, 0);
        while let Some(node) = self.node(at) {
            if node.rank < rank {
                before += 1 + self.count(node.left) as usize;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        before
    }

    /// Everyone, best first.
    pub fn in_order(&self) -> Vec<CallId> {
        let mut calls = Vec::with_capacity(self.len());
        let (mut at, mut above) = (self.root, Vec::new());
        loop {
            while let Some(node) = self.node(at) {
                above.push(at);
                at = node.left;
            }
            let Some(node) = above.pop().and_then(|top| self.node(top)) else { return calls };
            calls.push(node.call);
            at = node.right;
        }
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn count(&self, at: u32) -> u32 {
        self.node(at).map_or(0, |node| node.count)
    }

    fn recount(&mut self, at: u32) {
        let count = 1 + self.count(self.nodes[at as usize].left) + self.count(self.nodes[at as usize].right);
        self.nodes[at as usize].count = count;
    }

    fn new_node(&mut self, rank: Rank, call: CallId) -> u32 {
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut weight = self.seed;
        weight = (weight ^ (weight >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        weight = (weight ^ (weight >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let node = Node { rank, call, weight: weight ^ (weight >> 31), count: 1, left: NIL, right: NIL };
        match self.unused.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    /// Those before `rank` and the others; with `inclusive`, `rank` itself counts as before.
    fn split(&mut self, at: u32, rank: Rank, inclusive: bool) -> (u32, u32) {
        let Some(node) = self.node(at) else { return (NIL, NIL) };
        if node.rank < rank || (inclusive && node.rank == rank) {
            let (middle, after) = self.split(node.right, rank, inclusive);
            self.nodes[at as usize].right = middle;
            self.recount(at);
            (at, after)
        } else {
            let (before, middle) = self.split(node.left, rank, inclusive);
            self.nodes[at as usize].left = middle;
            self.recount(at);
            (before, at)
        }
    }

    fn merge(&mut self, before: u32, after: u32) -> u32 {
        let (Some(left), Some(right)) = (self.node(before), self.node(after)) else {
            return if before == NIL { after } else { before };
        };
        if left.weight > right.weight {
            let middle = self.merge(left.right, after);
            self.nodes[before as usize].right = middle;
            self.recount(before);
            before
        } else {
            let middle = self.merge(before, right.left);
            self.nodes[after as usize].left = middle;
            self.recount(after);
            after
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Level;
    use crate::locks::rank::Place;

    fn rank(number: u64) -> Rank {
        Rank::new(Level::Normal, Place { arrival_us: number, first_call: CallId(number) }, 0)
    }

    #[test]
    fn keeps_order_and_counts_like_a_sorted_list() {
        let (mut ranking, mut list) = (Ranking::default(), Vec::<u64>::new());
        let mut dice = 7u64;
        for _ in 0..4000 {
            dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let number = (dice >> 33) % 500;
            match list.binary_search(&number) {
                Ok(at) => {
                    assert_eq!(ranking.count_before(rank(number)), at);
                    assert!(ranking.remove(rank(number)));
                    list.remove(at);
                }
                Err(at) => {
                    assert!(!ranking.remove(rank(number)));
                    ranking.insert(rank(number), CallId(number));
                    list.insert(at, number);
                }
            }
            assert_eq!(ranking.len(), list.len());
            for before in [0, 1, list.len() / 2, list.len()] {
                assert_eq!(ranking.nth(before).map(|(_, call)| call.0), list.get(before).copied());
            }
        }
        assert_eq!(ranking.in_order().iter().map(|call| call.0).collect::<Vec<_>>(), list);
    }

    #[test]
    fn ten_thousand_in_arrival_order_make_no_deep_tree() {
        let mut ranking = Ranking::default();
        for number in 0..10_000 {
            ranking.insert(rank(number), CallId(number));
        }
        fn depth(ranking: &Ranking, at: u32) -> usize {
            ranking.node(at).map_or(0, |node| 1 + depth(ranking, node.left).max(depth(ranking, node.right)))
        }
        assert!(depth(&ranking, ranking.root) < 50, "{}", depth(&ranking, ranking.root));
        for number in 0..10_000 {
            assert!(ranking.remove(rank(number)));
        }
        assert!(ranking.is_empty() && ranking.nodes.capacity() == 0, "an empty line holds no memory");
    }
}
