//! Who waits for whom on one node: kept up to date with every wait, and searched when one begins.
//!
//! An edge goes from a waiting call to the calls that have to end before its lock can come free:
//! - the waiting calls of the owner who holds the lock (one actor, wherever he acts);
//! - the call that blocks the connection which took the lock by `SET NX`;
//! - the `SET NX` that blocks the connection over which the lock's owner got it;
//! - the call behind which, on the same connection, the holder's release stands.
//!
//! There are no edges to those who rank before a waiter in the same line, although he waits for them, too. Whoever stands in a line
//! waits for its holder first, so that a cycle over such an edge has a shorter one through the holder, unless the one who ranks
//! before waits in several lines at once. That cycle is no deadlock while the holder is outside of it: he lets go, the line moves, and
//! with the lock in the hands of the next the edge goes to a holder. Nobody is aborted for an order that could still be another.

use std::collections::HashMap;

use super::slab::Slab;
use super::wait::{HeldBy, Hold, Link, Told, Via, Wait};
use crate::domain::{CallId, LockKey, OwnerId};

/// Releases behind one blocked call that are kept in mind.
pub const BEHIND_MAX: usize = 256;
/// So often a change is news: other nodes may have heard of it only after the first time.
const NEWS_TOLD: u8 = 2;
/// The place of the connection over which an owner got his lock, among the parties that hold it.
const OVER: usize = 2;
/// Links that one question is answered with at most.
pub const LINKS_MAX: usize = 4096;

/// Whose end ends a hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Party {
    Owner(OwnerId),
    Connection(u64),
}

/// A party that waits, or is waited for.
#[derive(Debug)]
struct Known {
    name: Party,
    /// Its waits: a connection has one at most.
    waits: Vec<usize>,
    /// How many awaited keys it holds.
    holds: usize,
}

/// A key that somebody waits for.
#[derive(Debug)]
struct Awaited {
    key: LockKey,
    by: Option<HeldBy>,
    /// The holder: an owner, or the connection that took it …
    holder: Option<usize>,
    /// … the connection on which the holder's release stands …
    behind: Option<usize>,
    /// … and the one over which he got it.
    over: Option<usize>,
    waits: usize,
    /// How often waits for it were told as news since anything changed.
    told: u8,
}

/// A wait.
#[derive(Debug)]
struct Entry {
    wait: Wait,
    key: usize,
    owner: Option<usize>,
    connection: usize,
    /// In which search it was met, and coming from where.
    met: (u32, usize),
}

/// The waits of one node.
#[derive(Debug, Default)]
pub struct WaitGraph {
    waits: Slab<Entry>,
    keys: Slab<Awaited>,
    parties: Slab<Known>,
    by_call: HashMap<CallId, usize>,
    by_key: HashMap<LockKey, usize>,
    by_party: HashMap<Party, usize>,
    /// Releases that stand behind a blocked call, by its connection.
    behind: HashMap<u64, Vec<(LockKey, OwnerId)>>,
    behind_by_hold: HashMap<(LockKey, OwnerId), u64>,
    search: u32,
    stack: Vec<usize>,
}

impl WaitGraph {
    /// A call begins to wait. One that is known already is left as it is.
    pub fn begins(&mut self, wait: Wait) {
        if self.by_call.contains_key(&wait.id.call) {
            return;
        }
        let key = match self.by_key.get(&wait.key) {
            Some(key) => *key,
            None => {
                let key = wait.key.clone();
                let place = self.keys.add(Awaited {
                    key: key.clone(),
                    by: None,
                    holder: None,
                    behind: None,
                    over: None,
                    waits: 0,
                    told: 0,
                });
                self.by_key.insert(key, place);
                place
            }
        };
        let awaited = self.keys.get_mut(key);
        awaited.waits += 1;
        awaited.told = 0;
        let owner = wait.owner.clone().map(|owner| self.party(Party::Owner(owner)));
        let connection = self.party(Party::Connection(wait.connection));
        let call = wait.id.call;
        let entry = self.waits.add(Entry { wait, key, owner, connection, met: (0, 0) });
        for party in owner.into_iter().chain([connection]) {
            self.parties.get_mut(party).waits.push(entry);
        }
        self.by_call.insert(call, entry);
    }

    /// A call waits no more.
    pub fn ends(&mut self, call: CallId) {
        let Some(place) = self.by_call.remove(&call) else { return };
        let Some(Entry { key, owner, connection, .. }) = self.waits.take(place) else { return };
        for party in owner.into_iter().chain([connection]) {
            self.parties.get_mut(party).waits.retain(|wait| *wait != place);
            self.forget_if_idle(party);
        }
        let awaited = self.keys.get_mut(key);
        awaited.waits -= 1;
        if awaited.waits == 0 {
            self.set_holders(key, [None; 3]);
            if let Some(awaited) = self.keys.take(key) {
                self.by_key.remove(&awaited.key);
            }
        }
    }

    /// Who holds `key` now; `taken_by` is the connection of this node that took it. `true` where somebody waits for it and
    /// that is news.
    pub fn held(&mut self, key: &LockKey, by: Option<HeldBy>, taken_by: Option<u64>) -> bool {
        let Some(place) = self.by_key.get(key).copied() else { return false };
        let taken_by = taken_by.map(Party::Connection);
        let (holder, behind, over) = match &by {
            Some(HeldBy::Owner { owner, .. }) => {
                let behind = self.behind_by_hold.get(&(key.clone(), owner.clone())).copied();
                (Some(Party::Owner(owner.clone())), behind.map(Party::Connection), taken_by)
            }
            Some(HeldBy::Plain { .. }) => (taken_by, None, None),
            None => (None, None, None),
        };
        let awaited = self.keys.get(place);
        let named = [holder, behind, over];
        let known = [awaited.holder, awaited.behind, awaited.over];
        let name = |party: Option<usize>| party.map(|party| &self.parties.get(party).name);
        if awaited.by == by && known.into_iter().zip(&named).all(|(known, named)| name(known) == named.as_ref()) {
            return false;
        }
        let parties = named.map(|party| party.map(|party| self.party(party)));
        let awaited = self.keys.get_mut(place);
        awaited.by = by;
        awaited.told = 0;
        self.set_holders(place, parties);
        true
    }

    /// These releases stand behind the call that blocks `connection`; none of them where it is blocked no more.
    pub fn stands_behind(&mut self, connection: u64, mut releases: Vec<(LockKey, OwnerId)>) {
        releases.truncate(BEHIND_MAX);
        let gone = self.behind.remove(&connection).unwrap_or_default();
        for hold in &gone {
            if self.behind_by_hold.get(hold) == Some(&connection) {
                self.behind_by_hold.remove(hold);
            }
        }
        for hold in &releases {
            self.behind_by_hold.insert(hold.clone(), connection);
        }
        for (key, _) in gone.iter().chain(&releases) {
            let Some(place) = self.by_key.get(key) else { continue };
            let awaited = self.keys.get(*place);
            let over = awaited.over.map(|over| &self.parties.get(over).name);
            let over = over.and_then(|over| if let Party::Connection(number) = over { Some(*number) } else { None });
            let by = awaited.by.clone();
            if matches!(by, Some(HeldBy::Owner { .. })) {
                self.held(key, by, over);
            }
        }
        if !releases.is_empty() {
            self.behind.insert(connection, releases);
        }
    }

    /// Whether somebody waits on this node for what the waiting party holds: without that its wait closes no cycle here.
    pub fn is_awaited(&self, call: CallId) -> bool {
        let Some(place) = self.by_call.get(&call) else { return false };
        let entry = self.waits.get(*place);
        entry.owner.into_iter().chain([entry.connection]).any(|party| self.parties.get(party).holds > 0)
    }

    /// The calls on a cycle through the wait of `call`, beginning with it.
    pub fn cycle(&mut self, call: CallId) -> Option<Vec<CallId>> {
        let start = *self.by_call.get(&call)?;
        self.search = self.search.wrapping_add(1).max(1);
        let search = self.search;
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        stack.push(start);
        let mut last = None;
        'search: while let Some(at) = stack.pop() {
            let entry = self.waits.get(at);
            let awaited = self.keys.get(entry.key);
            // An owner does not wait for himself: what he holds his next call repeats.
            let holder = awaited.holder.filter(|holder| entry.owner != Some(*holder));
            let parties = [holder, awaited.behind, awaited.over];
            for (kind, party) in parties.into_iter().enumerate().filter_map(|(kind, party)| Some((kind, party?))) {
                for next in 0..self.parties.get(party).waits.len() {
                    let next = self.parties.get(party).waits[next];
                    if kind == OVER && self.waits.get(next).owner.is_some() {
                        continue;
                    }
                    if next == start {
                        last = Some(at);
                        break 'search;
                    }
                    let met = &mut self.waits.get_mut(next).met;
                    if met.0 != search {
                        *met = (search, at);
                        stack.push(next);
                    }
                }
            }
        }
        self.stack = stack;
        let mut path = vec![last?];
        while path[path.len() - 1] != start {
            path.push(self.waits.get(path[path.len() - 1]).met.1);
        }
        Some(path.iter().rev().map(|place| self.waits.get(*place).wait.id.call).collect())
    }

    /// The wait of `call`, and who holds what it waits for.
    pub fn told(&self, call: CallId) -> Option<Told> {
        self.by_call.get(&call).map(|place| self.tell(*place))
    }

    /// All waits.
    pub fn all(&self) -> impl Iterator<Item = Told> {
        self.waits.iter().map(|(place, _)| self.tell(place))
    }

    /// All waiting calls.
    pub fn calls(&self) -> Vec<CallId> {
        self.by_call.keys().copied().collect()
    }

    /// The waiting calls of whoever holds `key`.
    pub fn calls_of_holder(&self, key: &LockKey) -> Vec<CallId> {
        let Some(place) = self.by_key.get(key) else { return Vec::new() };
        let awaited = self.keys.get(*place);
        let parties = awaited.holder.into_iter().chain(awaited.behind).chain(awaited.over);
        let waits = parties.flat_map(|party| &self.parties.get(party).waits);
        waits.map(|wait| self.waits.get(*wait).wait.id.call).collect()
    }

    /// The call that blocks `connection`.
    pub fn blocks(&self, connection: u64) -> Option<CallId> {
        let party = self.by_party.get(&Party::Connection(connection))?;
        self.parties.get(*party).waits.first().map(|wait| self.waits.get(*wait).wait.id.call)
    }

    /// Who holds `key`, where somebody waits for it.
    pub fn holder(&self, key: &LockKey) -> Option<&HeldBy> {
        self.keys.get(*self.by_key.get(key)?).by.as_ref()
    }

    /// The waits of which something has changed since this was asked twice, or `all` of them.
    pub fn news(&mut self, all: bool) -> Vec<CallId> {
        let is_news = |entry: &&Entry| all || self.keys.get(entry.key).told < NEWS_TOLD;
        let news = self.waits.iter().map(|(_, entry)| entry).filter(is_news);
        let news = news.map(|entry| entry.wait.id.call).collect();
        let places: Vec<usize> = self.keys.iter().map(|(place, _)| place).collect();
        for place in places {
            let told = &mut self.keys.get_mut(place).told;
            *told = told.saturating_add(1);
        }
        news
    }

    /// The wait of `call` is news again.
    pub fn is_news(&mut self, call: CallId) {
        if let Some(place) = self.by_call.get(&call) {
            let key = self.waits.get(*place).key;
            self.keys.get_mut(key).told = 0;
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.by_call.is_empty()
    }

    /// The waits of this node that these holds cannot end before, and those that those wait for in turn, as far as this node knows.
    /// `took` tells which connection of this node took a lock.
    pub fn behind(&self, holds: &[Hold], took: impl Fn(&Hold) -> Option<u64>) -> Vec<Link> {
        let mut links = Vec::new();
        let mut seen: std::collections::HashSet<Hold> = holds.iter().cloned().collect();
        let mut todo: Vec<Hold> = holds.to_vec();
        while let Some(hold) = todo.pop() {
            let parties = match &hold.by {
                HeldBy::Owner { owner, .. } => {
                    let behind = self.behind_by_hold.get(&(hold.key.clone(), owner.clone())).copied();
                    [
                        Some((Via::Owner, Party::Owner(owner.clone()))),
                        behind.map(|connection| (Via::Behind, Party::Connection(connection))),
                        took(&hold).map(|connection| (Via::Over, Party::Connection(connection))),
                    ]
                }
                HeldBy::Plain { .. } => {
                    [took(&hold).map(|connection| (Via::Took, Party::Connection(connection))), None, None]
                }
            };
            for (via, party) in parties.into_iter().flatten() {
                let Some(party) = self.by_party.get(&party) else { continue };
                for wait in &self.parties.get(*party).waits {
                    if via == Via::Over && self.waits.get(*wait).owner.is_some() {
                        continue;
                    }
                    if links.len() >= LINKS_MAX {
                        return links;
                    }
                    let to = self.tell(*wait);
                    if let Some(next) = to.hold()
                        && seen.insert(next.clone())
                    {
                        todo.push(next);
                    }
                    links.push(Link { hold: hold.clone(), via, to });
                }
            }
        }
        links
    }

    fn tell(&self, place: usize) -> Told {
        let entry = self.waits.get(place);
        Told { wait: entry.wait.clone(), by: self.keys.get(entry.key).by.clone() }
    }

    fn party(&mut self, name: Party) -> usize {
        if let Some(place) = self.by_party.get(&name) {
            return *place;
        }
        let place = self.parties.add(Known { name: name.clone(), waits: Vec::new(), holds: 0 });
        self.by_party.insert(name, place);
        place
    }

    /// Holder, behind, over.
    fn set_holders(&mut self, key: usize, parties: [Option<usize>; 3]) {
        let awaited = self.keys.get_mut(key);
        let before = [awaited.holder, awaited.behind, awaited.over];
        [awaited.holder, awaited.behind, awaited.over] = parties;
        for party in parties.into_iter().flatten() {
            self.parties.get_mut(party).holds += 1;
        }
        for party in before.into_iter().flatten() {
            self.parties.get_mut(party).holds -= 1;
            self.forget_if_idle(party);
        }
    }

    fn forget_if_idle(&mut self, party: usize) {
        let known = self.parties.get(party);
        if known.waits.is_empty()
            && known.holds == 0
            && let Some(known) = self.parties.take(party)
        {
            self.by_party.remove(&known.name);
        }
    }
}
