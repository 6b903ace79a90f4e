//! Many short lives of one lock on several nodes, seeded: a model of the upstream with delays, lost replies, expiry, hints that are
//! late, doubled or lost, keys changed around us, nodes that crash and come back, and clients that come, wait, leave, ask again,
//! release or vanish. After each life nothing may have been promised twice, nobody may sleep before a free key, nobody may have been
//! overtaken, and nothing may be held or registered that nobody was told of.
//!
//! A failure names its seed; `LOCKGATE_SEED=n cargo test --lib simulation` replays it with its story, `LOCKGATE_SEEDS=n` runs more.

pub(crate) mod upstream;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::upstream::{Answered, Given, Holder, Key, Script, Upstream};
use super::rank::{Place, Rank};
use super::*;
use crate::domain::{CallId, Level, Moment, OwnerId, PlainLease};

const OWNERS: u64 = 5;
const BEGINS: Moment = Moment(1_000_000);
const CLIENTS_ACT_UNTIL: Moment = Moment(20_000_000);
/// How far the clocks of nodes, and of one node before and after it began anew, are apart.
const SKEW_MAX_US: u64 = 60_000_000;
const CLAIM_MS: u64 = 1000;
/// Two of the longest round trips: so long may a node's registration lag behind what it knows.
const SETTLES_US: u64 = 320_000;
const DISASTERS_APART_MS: u64 = 3000;
/// After so long behind one every node has had a heartbeat of each other.
const HEARD_AFTER_MS: u64 = 2000;
const NODE_TIMEOUT_US: u64 = 3_000_000;
/// What belongs to nobody.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
enum Due {
    /// A script that was sent, with the lowest fence that it may give, to that master.
    Runs {
        node: usize,
        life: u32,
        script: Script,
        fate: Fate,
        tag: Tag,
        floor: (u64, u64),
        master: u32,
    },
    Returns {
        node: usize,
        life: u32,
        reply: Answered,
        sent: Sent,
        tag: Tag,
    },
    /// The watch link's look reaches the upstream.
    Looks {
        node: usize,
        life: u32,
    },
    /// What it saw comes back.
    Observes {
        node: usize,
        life: u32,
        seen: Option<Seen>,
        registered: Registered,
    },
    /// The upstream tells that the key has changed.
    Invalidated {
        node: usize,
        life: u32,
    },
    /// The watch link stands again.
    WatchReturns {
        node: usize,
        life: u32,
    },
    TriesAgain(u64),
    TimesOut(u64),
    Acts,
    Releases {
        owner: u64,
        node: usize,
        hold: u64,
    },
    /// A SET NX's client deletes the key, if it still is his.
    Deletes {
        hold: u64,
    },
    Ticks {
        node: usize,
        life: u32,
    },
    Restarts {
        node: usize,
    },
    /// The leader has noticed that a node died, and clears away what it had registered by then.
    Cleans {
        node: usize,
        last_call: u64,
    },
}

/// Whose a script is.
#[derive(Debug, Clone, Copy)]
enum Tag {
    Try(CallId),
    HandOver,
    Release(u64),
}

/// What the network does to a script.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    /// It runs, and its reply is lost.
    LosesReply,
    /// It is lost before it runs, and nobody knows that.
    LosesScript,
    /// The link is down: it was never sent.
    NeverSent,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Waiting,
    Over,
}

struct Node {
    line: Line,
    /// By how much its steady clock is ahead of the world's, in µs; it drifts.
    skew_us: u64,
    /// Grows with every restart.
    life: u32,
    is_up: bool,
    has_watch: bool,
    is_looking: bool,
    is_armed: bool,
    /// As the store has them.
    floor: u64,
    ahead: u64,
    fence_max: u64,
    must_dial: bool,
    has_other_history: bool,
    /// What the watch link brings comes in the order in which the upstream sent it.
    watch_at: Moment,
    /// When its line is told of the time. One tick at a moment is enough: each asks for the next, and they would never be fewer.
    ticks: BTreeSet<Moment>,
}

/// What is known of somebody who waits.
#[derive(Debug)]
struct Waits {
    place: Place,
    level: Level,
    /// Since when his node knows, and has him at that level.
    known: Option<Moment>,
}

impl Waits {
    fn rank(&self, rules: &LineRules) -> Rank {
        Rank::new(self.level, self.place, rules.promote_after_us)
    }
}

struct Client {
    node: usize,
    owner: u64,
    told: Told,
    form: Form,
    level: Level,
}

struct World {
    seed: u64,
    dice: fastrand::Rng,
    now: Moment,
    due: BinaryHeap<Reverse<(Moment, u64)>>,
    todo: HashMap<u64, Due>,
    last_due: u64,
    nodes: Vec<Node>,
    rules: LineRules,
    upstream: Upstream,
    last_call: u64,
    calls: BTreeMap<u64, Client>,
    /// Which hold has which fence.
    holds: HashMap<u64, u64>,
    /// Who was told of which hold.
    told: HashMap<u64, u64>,
    /// A free key and a waiter, since when.
    idle_since: Option<Moment>,
    faults: bool,
    crashes: bool,
    failovers: bool,
    /// When the last disaster was.
    disaster: Moment,
    /// Which master rules, and what its replica had a moment ago.
    master: u32,
    replica: Option<(Option<Key>, BTreeMap<usize, upstream::Entry>, u64)>,
    /// Every call has an owner of its own, so that its rank is plain: level and arrival.
    is_orderly: bool,
    /// Whom the upstream has refused and who still waits.
    waiting: HashMap<u64, Waits>,
    is_told: bool,
    changes: u64,
    /// Scripts that were sent only to look.
    looks: u64,
}

pub(crate) fn owner_id(owner: u64) -> OwnerId {
    OwnerId::new(format!("o{owner}").as_bytes()).unwrap()
}

pub(crate) fn owner_number(owner: &OwnerId) -> u64 {
    std::str::from_utf8(&owner.as_bytes()[1..]).unwrap().parse().unwrap()
}

impl World {
    fn new(seed: u64, is_told: bool) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let rules = LineRules {
            promote_after_us: if dice.bool() { 0 } else { 50_000 },
            waiting_max: dice.usize(2..8),
            place_kept_ms: 5000,
            look_every_ms: 1000,
            retry_base_ms: 50,
            retry_max_ms: 2000,
            claim_ms: CLAIM_MS,
            queue_kept_ms: 60_000,
        };
        let faults = dice.u8(..3) == 0;
        let is_orderly = dice.u8(..2) == 0;
        let crashes = dice.u8(..3) == 0;
        let failovers = dice.u8(..4) == 0;
        let nodes = (0..dice.usize(1..4)).map(|_| Node::new(rules, 0, BEGINS, dice.u64(..SKEW_MAX_US))).collect();
        World {
            seed,
            dice,
            now: BEGINS,
            due: BinaryHeap::new(),
            todo: HashMap::new(),
            last_due: 0,
            nodes,
            rules,
            upstream: Upstream::default(),
            last_call: 0,
            calls: BTreeMap::new(),
            holds: HashMap::new(),
            told: HashMap::new(),
            idle_since: None,
            faults,
            crashes,
            failovers,
            disaster: Moment(0),
            master: 0,
            replica: None,
            is_orderly,
            waiting: HashMap::new(),
            is_told,
            changes: 0,
            looks: 0,
        }
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if self.is_told {
            eprintln!("{:>10} {}", self.now.0, text());
        }
    }

    fn at(&mut self, at: Moment, due: Due) {
        self.last_due += 1;
        self.due.push(Reverse((at, self.last_due)));
        self.todo.insert(self.last_due, due);
    }

    fn after(&mut self, us: u64, due: Due) {
        self.at(Moment(self.now.0 + us), due);
    }

    fn run(&mut self) {
        self.after(0, Due::Acts);
        while let Some(Reverse((at, number))) = self.due.pop() {
            assert!(at.0 < 600_000_000, "seed {}: it never comes to rest", self.seed);
            self.now = at;
            self.expire();
            if let Some(due) = self.todo.remove(&number) {
                self.happens(due);
            }
            self.nobody_sleeps_before_a_free_key();
        }
        self.expire();
        self.nobody_looks_without_end();
        for (call, client) in &self.calls {
            assert_ne!(client.told, Told::Waiting, "seed {}: call {call} has no answer", self.seed);
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let (seed, line) = (self.seed, &node.line);
            assert!(!node.is_up || line.is_idle(), "seed {seed}: node {number} keeps something {line:?}");
        }
        let living = |node: &usize| self.nodes[*node].is_up;
        let left: Vec<_> = self.upstream.queue.keys().filter(|node| living(node)).collect();
        // A replica may bring back what was registered long ago: it goes with the queue's expiry, or costs one claim.
        let is_excused = self.failovers;
        assert!(
            is_excused || left.is_empty(),
            "seed {}: nodes {left:?} stay registered: {:?}",
            self.seed,
            self.upstream.queue
        );
    }

    /// A node asks for a reason: that a call has come or gone, that the key has changed, or that time has passed.
    fn nobody_looks_without_end(&self) {
        let seconds = self.now.since_us(BEGINS) / 1_000_000 + 1;
        let most = 20 * (self.last_call + self.upstream.holds + 10) + 4 * seconds * self.nodes.len() as u64;
        assert!(self.looks <= most, "seed {}: {} looks where {most} would do", self.seed, self.looks);
    }

    fn is_of(&self, node: usize, life: u32) -> bool {
        self.nodes[node].is_up && self.nodes[node].life == life
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Runs { node, life, script, fate, tag, floor, master } => {
                // What was on its way to a master that is no more is lost.
                let is_lost = master != self.master && fate != Fate::NeverSent;
                let fate = if is_lost { Fate::LosesScript } else { fate };
                (self.upstream.floor, self.upstream.ahead) = floor;
                self.runs(node, life, script, fate, tag);
            }
            Due::Returns { node, life, reply, sent, tag } if self.is_of(node, life) => {
                self.returns(node, reply, sent, tag);
            }
            Due::Looks { node, life } if self.is_of(node, life) && self.nodes[node].has_watch => {
                if !self.upstream.armed.contains(&node) {
                    self.upstream.armed.push(node);
                }
                let (seen, registered) = (self.upstream.seen(node, self.now), self.upstream.registered(node));
                self.by_watch(node, Due::Observes { node, life, seen, registered });
            }
            Due::Observes { node, life, seen, registered } if self.is_of(node, life) => {
                self.nodes[node].is_looking = false;
                if let Some(seen) = &seen {
                    self.learns(node, &seen.value);
                }
                if self.nodes[node].has_watch {
                    self.nodes[node].is_armed = true;
                    self.step(node, Event::Observed { seen, registered });
                }
            }
            Due::Invalidated { node, life } if self.is_of(node, life) => {
                self.nodes[node].is_armed = false;
                self.watch(node);
            }
            Due::WatchReturns { node, life } if self.is_of(node, life) => {
                self.nodes[node].has_watch = true;
                if std::mem::take(&mut self.nodes[node].has_other_history) {
                    self.met_master(node, true);
                }
                self.watch(node);
            }
            Due::TriesAgain(call) => self.step_of(call, Event::TriesAgain(CallId(call))),
            Due::TimesOut(call) => self.step_of(call, Event::TimesOut(CallId(call))),
            Due::Acts => self.acts(),
            Due::Releases { owner, node, hold }
                if self.nodes[node].is_up && !self.upstream.ended.contains_key(&hold) =>
            {
                self.step(node, Event::Releases { owner: Some(owner_id(owner)) });
            }
            Due::Deletes { hold } => {
                if let Some(key) = self.upstream.key.take_if(|key| key.hold == hold) {
                    self.ends(key, "deleted by its holder");
                }
            }
            Due::Ticks { node, life } if self.is_of(node, life) => {
                self.nodes[node].ticks.remove(&self.now);
                self.step(node, Event::Tick);
            }
            Due::Cleans { node, last_call } => {
                let registered = self.upstream.registered(node);
                if registered.is_some_and(|call| call.0 <= last_call) {
                    self.upstream.queue.remove(&node);
                }
            }
            Due::Restarts { node } => {
                let life = self.nodes[node].life + 1;
                self.say(|| format!("node {node} begins anew"));
                // Its watch link reads the counter, and the other nodes tell how far fences had come, over links on which they
                // have met the present master. That all are new when the counter is lost as well is not played: nobody would know.
                self.disaster = self.now;
                for other in 0..self.nodes.len() {
                    if self.nodes[other].is_up && std::mem::take(&mut self.nodes[other].has_other_history) {
                        self.met_master(other, true);
                    }
                }
                let known = self.nodes.iter().map(|node| node.ahead).max().unwrap_or(0);
                let ahead = known.max(self.upstream.counter.saturating_sub(self.upstream.time(self.now)));
                let living = self.nodes.iter().filter(|node| node.is_up);
                let fence_max = living.map(|node| node.fence_max).max().unwrap_or(0);
                // Its clock may be behind that of its earlier life.
                let skew_us = self.dice.u64(..SKEW_MAX_US);
                self.nodes[node] = Node::new(self.rules, life, self.now, skew_us);
                (self.nodes[node].ahead, self.nodes[node].fence_max) = (ahead, fence_max);
                self.met_master(node, false);
            }
            _ => {}
        }
        self.told_of_changes();
    }

    // ---- The upstream.

    fn expire(&mut self) {
        let Some(key) = self.upstream.expire(self.now) else { return };
        self.changes += 1;
        self.say(|| format!("upstream: {key:?} expires"));
        // A ghost must not be left to its lease, unless the link was bad or its node died. What a SET NX wrote is its client's.
        // An owner who repeats, on another node, a grant that nobody was told of and vanishes then as well leaves the hold to its
        // lease: that node cannot know that he was not told by the first.
        let has_wandered = matches!(key.holder, Holder::Lock { is_repeat: true, .. }) && self.nodes.len() > 1;
        let is_lock = matches!(key.holder, Holder::Lock { .. }) && !has_wandered;
        let is_ghost = is_lock && !self.told.contains_key(&key.hold) && !key.is_claim();
        let is_excused = self.faults || self.crashes || self.failovers;
        assert!(!is_ghost || is_excused, "seed {}: {key:?} was left to its lease, and nobody had it", self.seed);
        self.told_of_changes();
    }

    fn ends(&mut self, key: Key, why: &'static str) {
        self.say(|| format!("{key:?} is {why}"));
        self.upstream.ended.insert(key.hold, why);
        self.changes += 1;
    }

    /// Invalidations go out to whoever is armed.
    fn told_of_changes(&mut self) {
        if std::mem::take(&mut self.changes) == 0 {
            return;
        }
        for node in std::mem::take(&mut self.upstream.armed) {
            let life = self.nodes[node].life;
            self.by_watch(node, Due::Invalidated { node, life });
            if self.faults && self.dice.u8(..4) == 0 {
                self.by_watch(node, Due::Invalidated { node, life });
            }
        }
    }

    fn runs(&mut self, node: usize, life: u32, script: Script, fate: Fate, tag: Tag) {
        let is_run = matches!(fate, Fate::Arrives | Fate::LosesReply);
        let shown = self.is_told.then(|| format!("{:?}", self.upstream.key));
        let (sent, at) = match &script {
            Script::Acquire { turn, .. } | Script::HandOver { turn, .. } | Script::Release { turn, .. } => {
                (turn.sent(), turn.at)
            }
        };
        if self.failovers && self.dice.u8(..4) == 0 {
            // So far the replica has come.
            let upstream = &self.upstream;
            self.replica = Some((upstream.key.clone(), upstream.queue.clone(), upstream.counter));
        }
        let before = self.upstream.key.clone();
        let reply = is_run.then(|| self.upstream.run(node, &script, self.now));
        if is_run && before != self.upstream.key {
            self.changes += 1;
            if let Some(before) = before {
                self.nothing_is_taken_from_its_holder(&before, &script);
            }
        }
        self.say(|| {
            format!("{fate:?} of node {node}: {script:?}\n    on {}\n    → {reply:?}", shown.unwrap_or_default())
        });
        if let Some(Answered::Acquire(Tried::Refused { arrival_us, .. } | Tried::HandedOver { arrival_us, .. })) =
            &reply
            && let Script::Acquire { asked, standing, .. } = &script
            && standing.waits
        {
            let place =
                Place { arrival_us: standing.arrival_us.unwrap_or(*arrival_us), first_call: standing.first_call };
            if self.calls[&asked.call.0].told == Told::Waiting {
                self.waiting.insert(asked.call.0, Waits { place, level: asked.level, known: None });
            }
        }
        if let Some(key) = self.upstream.key.as_ref().filter(|key| key.fence > 0) {
            self.holds.insert(key.fence, key.hold);
        }
        for given in std::mem::take(&mut self.upstream.given) {
            let at = self.nodes[node].world(at);
            self.nobody_is_overtaken(&given, at);
        }
        let reply = reply.filter(|_| fate == Fate::Arrives).unwrap_or_else(|| match (&script, fate) {
            (Script::Acquire { .. }, Fate::NeverSent) => Answered::Acquire(Tried::NotReached("away".into())),
            (Script::Acquire { .. }, _) => Answered::Acquire(Tried::Lost("lost".into())),
            (Script::HandOver { .. }, Fate::NeverSent) => Answered::HandOver(Handing::NotReached),
            (Script::HandOver { .. }, _) => Answered::HandOver(Handing::Lost),
            (Script::Release { .. }, Fate::NeverSent) => Answered::Release(Released::Kept),
            (Script::Release { .. }, _) => Answered::Release(Released::Lost),
        });
        let back = if fate == Fate::NeverSent { 0 } else { self.delay() };
        self.after(back, Due::Returns { node, life, reply, sent, tag });
    }

    // ---- The coordinators.

    fn delay(&mut self) -> u64 {
        if self.dice.u8(..20) == 0 { self.dice.u64(1000..80_000) } else { self.dice.u64(50..800) }
    }

    fn by_watch(&mut self, node: usize, due: Due) {
        let at = Moment(self.now.0 + self.delay()).max(self.nodes[node].watch_at);
        self.nodes[node].watch_at = at;
        self.at(at, due);
    }

    fn send(&mut self, node: usize, script: Script, tag: Tag) {
        let has_fault = self.faults && self.now < CLIENTS_ACT_UNTIL && self.dice.u8(..6) == 0;
        let fate = match self.dice.u8(..3) {
            _ if !has_fault => Fate::Arrives,
            0 => Fate::LosesReply,
            1 => Fate::LosesScript,
            _ => Fate::NeverSent,
        };
        let delay = if fate == Fate::NeverSent { 0 } else { self.delay() };
        let life = self.nodes[node].life;
        if std::mem::take(&mut self.nodes[node].must_dial) {
            let other_history = std::mem::take(&mut self.nodes[node].has_other_history);
            self.met_master(node, other_history);
        }
        // What is on its way when the next disaster comes was sent by a node that had heard it as well (life 377804).
        if self.failovers && self.now >= self.disaster.plus_ms(HEARD_AFTER_MS) {
            self.all_hear_how_far_fences_are();
        }
        let (floor, master) = ((self.nodes[node].floor, self.nodes[node].ahead), self.master);
        self.after(delay, Due::Runs { node, life, script, fate, tag, floor, master });
    }

    fn step_of(&mut self, call: u64, event: Event) {
        let node = self.calls[&call].node;
        if self.calls[&call].told == Told::Waiting && self.nodes[node].is_up {
            self.step(node, event);
        }
    }

    fn step(&mut self, node: usize, event: Event) {
        let releaser = match &event {
            Event::Releases { owner: Some(owner) } => owner_number(owner),
            _ => NOBODY,
        };
        self.say(|| format!("node {node}: {event:?}"));
        let at = self.nodes[node].clock(self.now);
        for action in self.nodes[node].line.step(event, at) {
            self.say(|| format!("    {action:?}"));
            match action {
                Action::Try { call, standing, turn } => {
                    let client = &self.calls[&call.0];
                    let asked = AskedFor {
                        call,
                        actor: Actor::Call(call),
                        form: client.form.clone(),
                        level: client.level,
                        may_wait: true,
                        ticket_ms: 0,
                        queue_max: None,
                        place: None,
                        deadline: None,
                    };
                    self.send(node, Script::Acquire { asked, standing, turn }, Tag::Try(call));
                }
                Action::TryLater { call, after_ms } => self.after(after_ms * 1000, Due::TriesAgain(call.0)),
                Action::GoOn(call) => self.after(1, Due::TriesAgain(call.0)),
                Action::Answer { call, answer } => self.answered(node, call, answer),
                Action::Release(turn) => {
                    self.send(node, Script::Release { owner: releaser, turn }, Tag::Release(releaser));
                }
                Action::HandOver { task, turn } => {
                    self.looks += u64::from(matches!(task, Task::Look));
                    self.send(node, Script::HandOver { task, turn }, Tag::HandOver);
                }
            }
        }
        let Node { line, life, .. } = &self.nodes[node];
        if line.needs_timer()
            && let Some(at) = line.wake_at()
        {
            // A tick too many does no harm, one too few would.
            let life = *life;
            let at = self.nodes[node].world(at).max(Moment(self.now.0 + 1));
            if self.nodes[node].ticks.insert(at) {
                self.at(at, Due::Ticks { node, life });
            }
        }
        self.watch(node);
    }

    /// Where somebody waits, the watch link looks at the key, and so is told of its next change.
    fn watch(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        if state.has_watch && !state.is_armed && !state.is_looking && state.line.waiting() > 0 {
            state.is_looking = true;
            let (late, life) = (self.delay(), self.nodes[node].life);
            self.after(late, Due::Looks { node, life });
        }
    }

    fn returns(&mut self, node: usize, reply: Answered, sent: Sent, tag: Tag) {
        let (Answered::Acquire(Tried::HandedOver { handed, .. })
        | Answered::HandOver(Handing::To { handed, .. })
        | Answered::Release(Released::Freed { handed: Some(handed), .. })) = &reply
        else {
            if let Answered::Acquire(Tried::Refused { seen, .. }) | Answered::HandOver(Handing::Held { seen, .. }) =
                &reply
            {
                self.learns(node, &seen.value.clone());
            }
            return self.returned(node, reply, sent, tag);
        };
        match handed {
            Handed::To { grant, .. } => self.learns(node, &grant.value.clone()),
            Handed::Claimed { value, .. } => self.learns(node, &value.clone()),
        }
        self.returned(node, reply, sent, tag);
    }

    fn returned(&mut self, node: usize, reply: Answered, sent: Sent, tag: Tag) {
        match (reply, tag) {
            (Answered::Acquire(outcome), Tag::Try(call)) => {
                if let Some(waits) = self.waiting.get_mut(&call.0) {
                    waits.known.get_or_insert(self.now);
                }
                self.step(node, Event::Tried { call, sent, outcome });
            }
            (Answered::HandOver(outcome), _) => self.step(node, Event::HandedOver { sent, outcome }),
            (Answered::Release(outcome), Tag::Release(owner)) => {
                let is_heard = !matches!(outcome, Released::Lost);
                let ends_calls_of = is_heard.then(|| owner_id(owner));
                self.step(node, Event::Released { ends_calls_of, sent, outcome });
            }
            (reply, tag) => unreachable!("{reply:?} to {tag:?}"),
        }
    }

    // ---- The clients.

    fn acts(&mut self) {
        if self.now >= CLIENTS_ACT_UNTIL {
            return;
        }
        let pause = if self.dice.u8(..10) == 0 { 1_500_000 } else { 40_000 };
        let pause = self.dice.u64(..pause);
        self.after(pause, Due::Acts);
        let owner = self.dice.u64(1..=OWNERS);
        let node = self.dice.usize(..self.nodes.len());
        if !self.nodes[node].is_up {
            return;
        }
        match self.dice.u8(..28) {
            0..=15 => self.asks(node, owner),
            16 => {
                self.forget_waits(node, |client| client.owner == owner);
                self.step(node, Event::Cancels(Arc::from(owner_id(owner).as_bytes())));
            }
            17 => {
                // Freed around us. A claim is confirmed within moments: who deletes it then frees what nobody has.
                if let Some(key) = self.upstream.key.take_if(|key| !key.is_claim()) {
                    self.ends(key, "deleted around us");
                }
                if self.dice.bool() {
                    self.step(node, Event::Hint);
                }
            }
            18 if self.upstream.key.is_none() && self.upstream.queue.is_empty() => {
                self.upstream.holds += 1;
                let until = self.dice.bool().then(|| self.now.plus_ms(300));
                self.upstream.key = Some(Key { hold: self.upstream.holds, fence: 0, holder: Holder::Stranger, until });
                self.changes += 1;
            }
            19 => {
                if let Some(key) = self.upstream.key.as_mut().filter(|key| !key.is_claim()) {
                    key.until = Some(self.now.plus_ms(700));
                    self.changes += 1;
                    if self.dice.bool() {
                        self.step(node, Event::Extended { lease_ms: 700 });
                    }
                }
            }
            20 => {
                self.forget_waits(node, |client| client.owner == owner);
                self.step(node, Event::Releases { owner: Some(owner_id(owner)) });
            }
            21 if self.crashes && !(self.failovers && self.is_last(node)) => self.crash(node),
            24 if self.failovers && self.is_calm() => self.fails_over(),
            25 if self.failovers && self.is_calm() => {
                self.say(|| "FLUSHALL".into());
                if let Some(key) = self.upstream.key.take() {
                    self.ends(key, "flushed");
                }
                self.upstream.queue.clear();
                self.upstream.counter = 0;
                self.changes += 1;
            }
            22 if self.faults => {
                let state = &mut self.nodes[node];
                if std::mem::take(&mut state.has_watch) {
                    (state.is_armed, state.is_looking) = (false, false);
                    self.upstream.armed.retain(|armed| *armed != node);
                    let (life, back) = (self.nodes[node].life, self.watch_is_back_after());
                    self.step(node, Event::Unwatched);
                    self.after(back, Due::WatchReturns { node, life });
                }
            }
            23 => {
                let waits = |client: &Client| client.told == Told::Waiting && client.node == node;
                let waiting = self.calls.iter().filter(|(_, client)| waits(client));
                let waiting: Vec<(u64, u64)> = waiting.map(|(call, client)| (*call, client.owner)).collect();
                if let Some((call, owner)) = self.dice.choice(waiting) {
                    self.promotes(node, call, owner);
                }
            }
            _ => {
                // Somebody who waits goes away.
                let waiting: Vec<u64> = self
                    .calls
                    .iter()
                    .filter(|(_, client)| client.told == Told::Waiting && client.node == node)
                    .map(|(call, _)| *call)
                    .collect();
                if let Some(call) = self.dice.choice(waiting) {
                    self.leaves(call);
                }
            }
        }
    }

    /// Whoever waits by LOCK.* comes to another level, up or down. In orderly lives it is plain whose call is meant: it stands there at once,
    /// and the upstream knows of it as soon as of a waiter who has just come.
    fn promotes(&mut self, node: usize, call: u64, owner: u64) {
        let level = [Level::Low, Level::Normal, Level::High, Level::Critical][self.dice.usize(..4)];
        self.step(node, Event::Promotes { owner: Arc::from(owner_id(owner).as_bytes()), level });
        if !self.is_orderly || matches!(self.calls[&call].form, Form::Plain { .. }) {
            return;
        }
        let at = self.nodes[node].clock(self.now);
        let stands = self.nodes[node].line.waits_at(CallId(call), at).map(|(level, _)| level);
        if let (Some(stands), Some(waits)) = (stands, self.waiting.get_mut(&call)) {
            assert_eq!(stands, level, "seed {}: call {call} was promoted, and has kept its level", self.seed);
            (waits.level, waits.known) = (level, Some(self.now));
        }
    }

    /// Two disasters do not come within a few heartbeats of each other: how far fences had come would be known to one node alone.
    /// After that every node has heard it from the others.
    fn is_calm(&mut self) -> bool {
        if self.now < self.disaster.plus_ms(DISASTERS_APART_MS) {
            return false;
        }
        self.disaster = self.now;
        self.all_hear_how_far_fences_are();
        true
    }

    /// Every node has heard from the others how far fences run ahead of the clock.
    fn all_hear_how_far_fences_are(&mut self) {
        let known = self.nodes.iter().filter(|node| node.is_up).map(|node| node.ahead).max().unwrap_or(0);
        for node in 0..self.nodes.len() {
            if self.nodes[node].ahead < known {
                self.nodes[node].ahead = known;
                self.met_master(node, false);
            }
        }
    }

    /// A replica takes over that has not heard of the newest writes.
    fn fails_over(&mut self) {
        let Some((key, queue, counter)) = self.replica.take() else { return };
        self.say(|| format!("the master fails; its replica has {key:?}"));
        self.master += 1;
        let lost = std::mem::replace(&mut self.upstream.key, key);
        if let Some(lost) = lost.filter(|lost| self.upstream.key.as_ref().is_none_or(|key| key.hold != lost.hold)) {
            self.upstream.ended.insert(lost.hold, "lost with its master");
        }
        if let Some(key) = &self.upstream.key {
            // What it holds may have ended before; nobody acts on it any more.
            self.upstream.ended.insert(key.hold, "seen by a replica");
        }
        (self.upstream.queue, self.upstream.counter) = (queue, counter);
        self.upstream.lag_us = self.dice.u64(..upstream::LAG_MAX_US);
        self.upstream.armed.clear();
        for node in 0..self.nodes.len() {
            let state = &mut self.nodes[node];
            (state.must_dial, state.has_other_history) = (true, true);
            (state.has_watch, state.is_armed, state.is_looking) = (false, false, false);
            if state.is_up {
                let life = state.life;
                let back = self.watch_is_back_after();
                self.step(node, Event::Unwatched);
                self.after(back, Due::WatchReturns { node, life });
            }
        }
    }

    /// Mostly soon; now and then lines have to look by themselves for a long time.
    fn watch_is_back_after(&mut self) -> u64 {
        let longest = if self.dice.u8(..4) == 0 { 20_000_000 } else { 1_000_000 };
        self.dice.u64(1000..longest)
    }

    /// As `Store::met_fence` does it, for every value that this node sees.
    fn learns(&mut self, node: usize, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let Some(fence) = text.split(' ').nth(1).and_then(|fence| fence.parse::<u64>().ok()) else { return };
        let state = &mut self.nodes[node];
        let ahead = fence.saturating_sub(self.upstream.time(self.now));
        if ahead > 60_000_000 && ahead < state.ahead + (2 << 32) + 60_000_000 {
            state.ahead = state.ahead.max(ahead);
        }
        state.fence_max = state.fence_max.max(fence);
    }

    /// As `Store::met_master` does it.
    fn met_master(&mut self, node: usize, other_history: bool) {
        let state = &mut self.nodes[node];
        if other_history {
            state.ahead += 1 << 32;
        }
        state.floor = state.floor.max((self.upstream.time(self.now) + state.ahead).max(state.fence_max + 1));
    }

    fn forget_waits(&mut self, node: usize, is_meant: impl Fn(&Client) -> bool) {
        let calls = &self.calls;
        self.waiting.retain(|call, _| calls[call].node != node || !is_meant(&calls[call]));
    }

    /// No other node is there to remember how far fences had come.
    fn is_last(&self, node: usize) -> bool {
        self.nodes.iter().enumerate().all(|(other, state)| other == node || !state.is_up)
    }

    /// `kill -9`.
    fn crash(&mut self, node: usize) {
        self.say(|| format!("node {node} dies"));
        self.forget_waits(node, |_| true);
        for client in self.calls.values_mut().filter(|client| client.node == node) {
            client.told = Told::Over;
        }
        self.upstream.armed.retain(|armed| *armed != node);
        self.nodes[node].is_up = false;
        let back = self.dice.u64(1000..5_000_000);
        self.after(back, Due::Restarts { node });
        self.after(NODE_TIMEOUT_US, Due::Cleans { node, last_call: self.last_call });
    }

    /// By a script that was sent at that moment.
    fn nobody_is_overtaken(&mut self, given: &Given, sent: Moment) {
        self.waiting.remove(&given.call);
        // A claim that was not confirmed in time costs its waiter his turn, and only then.
        if !self.is_orderly || self.faults || self.crashes || self.failovers {
            return;
        }
        for (other, waits) in &self.waiting {
            let (rank, is_known) = (waits.rank(&self.rules), waits.known.is_some_and(|at| at.0 + SETTLES_US < sent.0));
            let is_living = self.calls[other].told == Told::Waiting && is_known;
            assert!(!is_living || rank >= given.rank, "seed {}: {given:?} overtakes call {other} {waits:?}", self.seed);
        }
    }

    fn asks(&mut self, node: usize, owner: u64) {
        self.last_call += 1;
        let call = self.last_call;
        let owner = if self.is_orderly { 1000 + call } else { owner };
        let may_wait = self.dice.u8(..4) > 0;
        let is_plain = self.dice.u8(..4) == 0;
        let ticket_ms = if is_plain && !may_wait && self.dice.bool() { 500 } else { 0 };
        let level = [Level::Low, Level::Normal, Level::High, Level::Critical][self.dice.usize(..4)];
        let lease_ms = 400 + call % 7 * 200;
        let (actor, form) = if is_plain {
            let lease = match self.dice.u8(..5) {
                0 | 1 => PlainLease::Ms(lease_ms),
                // Until a moment of the upstream's clock, which may have passed when the lock comes. Where another master with another
                // clock takes over, that moment means nothing.
                2 if !self.failovers => PlainLease::AtMs(self.upstream.time(self.now) / 1000 + self.dice.u64(..3000)),
                _ => PlainLease::Forever,
            };
            let value: Arc<[u8]> = Arc::from(upstream::PLAIN);
            let actor = if ticket_ms > 0 { Actor::Poller(value.clone()) } else { Actor::Call(CallId(call)) };
            (actor, Form::Plain { value, lease })
        } else {
            let owner = owner_id(owner);
            (Actor::Owner(owner.clone()), Form::Lock { owner, lease_ms, meta: Arc::from(&b""[..]) })
        };
        let owner = if is_plain { 1_000_000 + call } else { owner };
        let told = Told::Waiting;
        self.calls.insert(call, Client { node, owner, told, form: form.clone(), level });
        self.step(
            node,
            Event::Asks(AskedFor {
                call: CallId(call),
                actor,
                form,
                level,
                may_wait,
                ticket_ms,
                queue_max: None,
                place: None,
                deadline: None,
            }),
        );
        if may_wait {
            let wait_us = self.dice.u64(1000..4_000_000);
            self.after(wait_us, Due::TimesOut(call));
        }
    }

    fn leaves(&mut self, call: u64) {
        self.waiting.remove(&call);
        let client = self.calls.get_mut(&call).unwrap();
        client.told = Told::Over;
        let node = client.node;
        self.step(node, Event::Leaves(CallId(call)));
    }

    fn answered(&mut self, node: usize, call: CallId, answer: Answer) {
        let seed = self.seed;
        let client = self.calls.get_mut(&call.0).unwrap();
        let (told, owner) = (client.told, client.owner);
        assert_eq!(told, Told::Waiting, "seed {seed}: call {call:?} is answered twice, or after it left: {answer:?}");
        client.told = Told::Over;
        self.waiting.remove(&call.0);
        let Answer::Granted { grant, is_new } = answer else { return };
        let is_plain = matches!(client.form, Form::Plain { .. });
        let lease_ms = client.form.lease_ms().unwrap_or(CLAIM_MS);
        let fence = grant.fence.0;
        let state = &mut self.nodes[node];
        state.fence_max = state.fence_max.max(fence);
        let hold = match &self.upstream.key {
            Some(key) if is_plain && !key.is_claim() && key.call() == Some(call.0) => key.hold,
            // It has ended meanwhile.
            _ if is_plain => return,
            _ => match self.holds.get(&fence) {
                Some(hold) => *hold,
                None => panic!("seed {seed}: {owner} was told of the fence {fence}, which nobody gave"),
            },
        };
        // One client in eight has gone just now, and its grant is given back undelivered.
        if !is_plain && self.dice.u8(..8) == 0 && !self.told.contains_key(&hold) && is_new {
            self.step(node, Event::GivesBack { value: grant.value, lease_ms });
            return;
        }
        let before = self.told.insert(hold, owner);
        assert!(before.is_none_or(|before| before == owner), "seed {seed}: {hold} was given to two");
        let is_held = self.upstream.key.as_ref().is_some_and(|key| key.hold == hold && !key.is_claim());
        let ended = self.upstream.ended.get(&hold);
        assert!(is_held || ended.is_some(), "seed {seed}: {owner} was told of {hold}, which was taken from him");
        assert_ne!(ended, Some(&"taken back"), "seed {seed}: {owner} was told of {hold}, which was taken back");
        let holds_us = self.dice.u64(1000..1_200_000);
        // One in ten crashes and leaves it to the lease; without one, somebody deletes it.
        match self.dice.u8(..10) {
            0 if !is_plain => {}
            _ if is_plain => self.after(holds_us, Due::Deletes { hold }),
            _ => {
                let through = self.dice.usize(..self.nodes.len());
                self.after(holds_us, Due::Releases { owner, node: through, hold });
            }
        }
    }

    // ---- What must always be true.

    /// A script has changed the key that `before` stood in.
    fn nothing_is_taken_from_its_holder(&self, before: &Key, script: &Script) {
        let is_same_hold = self.upstream.key.as_ref().is_some_and(|key| key.hold == before.hold);
        let ended = self.upstream.ended.get(&before.hold);
        let is_due = is_same_hold || ended.is_some_and(|why| *why != "taken back");
        let was_told = self.told.contains_key(&before.hold);
        // An ephemeral end or an undelivered grant is given back by its whole value, and only that.
        let seed = self.seed;
        assert!(is_due || !was_told, "seed {seed}: {before:?} was taken from its holder by {script:?}");
    }

    fn nobody_sleeps_before_a_free_key(&mut self) {
        let waits: Vec<usize> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].is_up && self.nodes[*n].line.waiting() > 0).collect();
        let is_idle = self.upstream.key.is_none() && !waits.is_empty();
        let since = match (is_idle, self.idle_since) {
            (false, _) => None,
            (true, since) => Some(since.unwrap_or(self.now)),
        };
        self.idle_since = since;
        let patience_ms = if self.faults || self.failovers { 8000 } else { 400 };
        if let Some(since) = since {
            let slept_us = self.now.since_us(since);
            let seed = self.seed;
            assert!(slept_us < patience_ms * 1000, "seed {seed}: {waits:?} slept before a free key for {slept_us} µs");
        }
    }
}

impl Node {
    /// What its clock shows: it is as much ahead as it is, and a thousandth fast.
    fn clock(&self, now: Moment) -> Moment {
        Moment(now.0 + self.skew_us + now.0 / 1000)
    }

    /// When its clock shows that; a moment too late rather than too early.
    fn world(&self, at: Moment) -> Moment {
        Moment((at.0.saturating_sub(self.skew_us)) * 1000 / 1001 + 2)
    }

    fn new(rules: LineRules, life: u32, now: Moment, skew_us: u64) -> Self {
        let line = Line::new(rules, Moment(now.0 + skew_us + now.0 / 1000));
        Node {
            line,
            skew_us,
            life,
            is_up: true,
            has_watch: true,
            is_looking: false,
            is_armed: false,
            floor: now.0,
            ahead: 0,
            fence_max: 0,
            must_dial: false,
            has_other_history: false,
            watch_at: now,
            ticks: BTreeSet::new(),
        }
    }
}

/// How many lives `cargo test` plays when nobody asks for more.
const SEEDS: u64 = 1500;

#[test]
fn no_life_of_a_lock_breaks_a_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("LOCKGATE_SEED") {
        return World::new(seed, true).run();
    }
    let first = number("LOCKGATE_FIRST_SEED").unwrap_or(0);
    let end = first + number("LOCKGATE_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let life = std::panic::AssertUnwindSafe(|| World::new(seed, false).run());
                    if std::panic::catch_unwind(life).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        failed == u64::MAX,
        "seed {failed} failed; LOCKGATE_SEED={failed} cargo test --lib simulation tells its story"
    );
}
