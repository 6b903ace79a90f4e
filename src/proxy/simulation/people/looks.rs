//! How people look at locks, and meddle with those who wait.

use super::Client;
use crate::proxy::simulation::client::Said;

impl Client {
    /// Cancels or promotes somebody's call, through whichever node.
    pub(super) async fn meddles_with_waiters(&mut self, key: Vec<u8>, owner: Vec<u8>) {
        let sent_us = self.world.net.unix_us();
        if self.dice.u8(..3) == 0 {
            let which = self.world.judge(|judge| judge.meddles(&key, &owner, None));
            let said = self.asks_about(&key, &owner, &[b"LOCK.CANCEL", &key, &owner]).await;
            if said.is_some() {
                self.world.judge(|judge| judge.meddled(which, false));
            }
            match said {
                Some(Said::Number(0)) => {
                    self.world.judge(|judge| judge.is_placed(&key, &owner, sent_us, (None, false)));
                }
                Some(Said::Number(1)) => self.world.judge(|judge| judge.is_cancelled(&key, &owner, sent_us)),
                _ => {}
            }
            return;
        }
        let level = self.dice.u8(..4);
        let which = self.world.judge(|judge| judge.meddles(&key, &owner, Some(level)));
        let text = level.to_string();
        let said = self.asks_about(&key, &owner, &[b"LOCK.PROMOTE", &key, &owner, text.as_bytes()]).await;
        if said.is_some() {
            let was_met = matches!(said, Some(Said::Number(place)) if place > 0);
            self.world.judge(|judge| judge.meddled(which, was_met));
        }
        self.placed(&key, &owner, sent_us, said, false);
    }

    fn placed(&mut self, key: &[u8], owner: &[u8], sent_us: u64, said: Option<Said>, may_hold: bool) {
        let place = match said {
            Some(Said::Number(place)) => Some(place),
            Some(Said::Nil) => None,
            _ => return,
        };
        self.world.judge(|judge| judge.is_placed(key, owner, sent_us, (place, may_hold)));
    }

    pub(super) async fn looks_around(&mut self) {
        let words: &[&[u8]] = match self.dice.u8(..8) {
            0..6 => {
                let (key, owner) = (self.key(), self.somebody());
                return self.looks(key, owner).await;
            }
            6 => &[b"LOCK.GRAPH"],
            _ if self.dice.bool() => &[b"LOCK.LIST", b"0"],
            _ => &[b"LOCK.STATS"],
        };
        self.asks(words).await;
    }

    /// INFO, POSITION or QUEUE.
    pub(super) async fn looks(&mut self, key: Vec<u8>, owner: Vec<u8>) {
        let sent_us = self.world.net.unix_us();
        match self.dice.u8(..3) {
            0 => {
                if let Some(Said::List(said)) = self.asks_about(&key, &owner, &[b"LOCK.INFO", &key]).await {
                    self.world.judge(|judge| judge.is_informed(&key, sent_us, &said));
                }
            }
            1 => {
                let said = self.asks_about(&key, &owner, &[b"LOCK.POSITION", &key, &owner]).await;
                self.placed(&key, &owner, sent_us, said, true);
            }
            _ => {
                if let Some(Said::List(said)) = self.asks_about(&key, &owner, &[b"LOCK.QUEUE", &key]).await {
                    self.world.judge(|judge| judge.is_listed(&key, sent_us, &said));
                }
            }
        }
    }
}
