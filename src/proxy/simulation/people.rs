//! What clients do all day, drawn from the seed.

mod asks;
mod ends;
mod looks;
mod lurks;

use std::rc::Rc;
use std::time::Duration;

use super::World;
use super::client::{Said, Wire};
use super::coverage::Question;
use super::judge::{Mark, Person};

/// A hold, as its holder knows it.
struct Mine {
    key: Vec<u8>,
    mark: Mark,
    wish_at_end: bool,
}

/// A client program.
pub struct Client {
    world: Rc<World>,
    number: Person,
    dice: fastrand::Rng,
    wire: Option<Wire>,
    connection: u64,
    values: u64,
    mine: Vec<Mine>,
    /// A poller's key and value, while he tries again and again.
    polled: Option<(Vec<u8>, Vec<u8>)>,
}

/// A hold that its owner has let go of, or lost.
pub struct Past {
    key: Vec<u8>,
    owner: Vec<u8>,
    fence: u64,
}

impl Client {
    /// Person `number` of `world`.
    pub fn new(world: Rc<World>, number: Person, seed: u64) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Client { world, number, dice, wire: None, connection: 0, values: 0, mine: Vec::new(), polled: None }
    }

    /// Lives until the world's day is over.
    pub async fn lives(mut self) {
        while !self.world.is_over() {
            if self.wire.is_none() {
                self.connects().await;
                continue;
            }
            self.does_something().await;
            self.thinks(400).await;
        }
        while !self.mine.is_empty() && self.wire.is_some() {
            self.lets_go().await;
        }
        self.hangs_up();
    }

    async fn does_something(&mut self) {
        let (has_family, holds) = (self.world.plan.has_family, !self.mine.is_empty());
        match self.dice.u8(..110) {
            0..40 if holds => self.lets_go().await,
            40..45 if holds && has_family => self.releases_all_of_his().await,
            45..51 if holds => self.extends().await,
            51..55 if holds => self.writes().await,
            55..60 if holds && has_family => self.transfers().await,
            60..63 if self.world.plan.is_rough => {
                let key = self.key();
                self.forces(key).await;
            }
            63..68 if has_family => {
                let (key, owner) = (self.key(), self.somebody());
                self.meddles_with_waiters(key, owner).await;
            }
            68..74 => self.looks_around().await,
            74..76 => self.hangs_up(),
            76..78 => self.acts_on_the_past().await,
            78..84 if has_family => {
                let owner = self.owner();
                self.acquires_all(owner, None).await;
            }
            84..93 if self.mine.len() < 3 => self.sets().await,
            100.. => self.lies_in_wait().await,
            93..96 if self.world.plan.has_data => self.keeps_data().await,
            _ if self.mine.len() < 3 => {
                let (key, owner) = (self.key(), self.owner());
                self.acquires(key, owner).await;
            }
            _ => self.lets_go().await,
        }
    }

    async fn thinks(&mut self, most_ms: u64) {
        let ms = if self.dice.u8(..4) == 0 { self.dice.u64(..=most_ms) } else { self.dice.u64(..=5) };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn connects(&mut self) {
        match self.world.connects(&mut self.dice) {
            Some(wire) => {
                self.connection = self.world.next_connection();
                self.wire = Some(wire);
                let (person, connection) = (self.number, self.connection);
                self.world.judge(|judge| judge.connects(person, connection));
                self.authenticates().await;
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }

    /// Where the node cannot find out whether it is true, its client goes.
    async fn authenticates(&mut self) {
        let user = self.world.plan.user(self.number);
        if user != "default"
            && self.asks(&[b"AUTH", user.as_bytes(), b"secret"]).await != Some(Said::Word(b"OK".into()))
        {
            self.hangs_up();
        }
    }

    fn hangs_up(&mut self) {
        if self.wire.take().is_none() {
            return;
        }
        let person = self.number;
        self.world.judge(|judge| judge.hangs_up(person));
        // What was tied to the connection goes with it, at its time.
        for mine in self.mine.iter().filter(|mine| mine.wish_at_end) {
            self.world.judge(|judge| judge.wishes_by_leaving(&mine.key, mine.mark.owner()));
        }
        self.mine.retain(|mine| !mine.wish_at_end);
    }

    fn owner(&mut self) -> Vec<u8> {
        match self.world.plan.owners {
            0 => format!("p{}", self.number).into_bytes(),
            owners => format!("o{}", self.dice.u64(..owners)).into_bytes(),
        }
    }

    fn somebody(&mut self) -> Vec<u8> {
        match self.world.plan.owners {
            0 => format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes(),
            _ => self.owner(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let keys = &self.world.plan.keys;
        keys[self.dice.usize(..keys.len())].clone()
    }

    async fn asks(&mut self, words: &[&[u8]]) -> Option<Said> {
        let said = match &mut self.wire {
            Some(wire) => wire.ask(words).await,
            None => None,
        };
        if said.is_none() {
            self.hangs_up();
        }
        said
    }

    /// Asks about one key as that owner; how the key stood and what came of it is noted.
    async fn asks_about(&mut self, key: &[u8], owner: &[u8], words: &[&[u8]]) -> Option<Said> {
        let question = self.question(words, &[key.to_vec()], owner);
        let said = self.asks(words).await;
        self.world.saw(&question, said.as_ref());
        said
    }

    fn question(&self, words: &[&[u8]], keys: &[Vec<u8>], owner: &[u8]) -> Question {
        self.world.judge(|judge| Question::new(words, keys.iter().map(|key| judge.stands(key, owner)).collect()))
    }
}
