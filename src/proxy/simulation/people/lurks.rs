//! How people wait for a state that seldom stands or passes within a round trip (a claim, data, a free key that others wait for), and ask
//! something in that very moment, about whoever is meant.

use std::time::Duration;

use super::Client;
use crate::proxy::simulation::client::Said;
use crate::proxy::simulation::coverage::State;
use crate::proxy::simulation::judge::{Judge, Mark};

/// Somebody waits for such a state for so long, in ms.
const LURKS_MS: u64 = 600;

/// What somebody has found.
struct Found {
    key: Vec<u8>,
    /// Whom a claim is for, and its fence.
    claim: Option<(Vec<u8>, u64)>,
}

impl Client {
    /// Waits for a key to come to such a state, and asks one of all commands about it.
    pub(super) async fn lies_in_wait(&mut self) {
        let Some(Found { key, claim }) = self.finds().await else { return };
        let (own, may_hold) = (self.owner(), self.mine.len() < 3);
        let (named, fence) = match claim {
            Some((owner, fence)) if self.dice.u8(..3) > 0 => (owner, fence),
            _ => (own.clone(), self.some_fence()),
        };
        // Whoever has a name of his own asks for locks under no other.
        let asker = if self.world.plan.owners > 0 { named.clone() } else { own };
        let (has_family, is_rough) = (self.world.plan.has_family, self.world.plan.is_rough);
        match self.dice.u8(..31) {
            0..3 if may_hold => self.acquires(key, asker).await,
            3 | 4 if may_hold => self.sets_once(key).await,
            5..9 if may_hold && has_family => self.acquires_all(asker, Some(&key)).await,
            9..13 if has_family => self.meddles_with_waiters(key, named).await,
            13 | 14 => self.extends_as(&key, &named, None).await,
            15 | 16 => self.extends_as(&key, &named, Some(fence)).await,
            17 | 18 => self.releases_as(&key, &named, None).await,
            19 | 20 => self.releases_as(&key, &named, Some(fence)).await,
            21 | 22 if has_family => self.releases_all(named, Some(&key)).await,
            23 | 24 if has_family => self.transfers_as(&key, &named).await,
            25 | 26 if is_rough => self.forces(key).await,
            27 | 28 => self.writes_as(&key, &named, fence).await,
            _ => self.looks(key, named).await,
        }
    }

    /// What he lies in wait for is drawn; `None` where it does not come in time.
    async fn finds(&mut self) -> Option<Found> {
        let wanted: &[State] = match self.dice.u8(..8) {
            0..4 => &[State::OthersClaim],
            4..7 if self.world.plan.has_data => &[State::Data],
            4..7 => &[State::Awaited],
            _ => &[State::Value, State::ValueAwaited],
        };
        let (world, keys) = (self.world.clone(), &self.world.plan.keys);
        let is_so = |judge: &Judge, key: &[u8]| wanted.contains(&judge.stands(key, b""));
        let found = async {
            loop {
                let changed = world.changes.notified();
                let found = world.judge(|judge| {
                    let key = keys.iter().find(|key| is_so(judge, key))?;
                    Some(Found { key: key.clone(), claim: judge.claimed_for(key) })
                });
                match found {
                    Some(found) => return found,
                    None => changed.await,
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(LURKS_MS), found).await.ok()
    }

    /// Of a hold that is over, or of none.
    fn some_fence(&mut self) -> u64 {
        let past = self.world.past.borrow();
        let at = self.dice.usize(..past.len().max(1));
        past.get(at).map_or(5, |past| past.fence)
    }

    async fn extends_as(&mut self, key: &[u8], owner: &[u8], fence: Option<u64>) {
        let (fence_text, sent_us) = (fence.unwrap_or(0).to_string(), self.world.net.unix_us());
        let mut words: Vec<&[u8]> = vec![b"LOCK.EXTEND", key, owner, b"1600"];
        if fence.is_some() {
            words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
        }
        if let Some(Said::Number(said)) = self.asks_about(key, owner, &words).await {
            let lease_ms = self.world.plan.lease_ms(key, self.number, Some(1600));
            self.world.judge(|judge| judge.extended(key, (owner, fence), lease_ms, sent_us, said == 1));
        }
    }

    async fn releases_as(&mut self, key: &[u8], owner: &[u8], fence: Option<u64>) {
        let (fence_text, sent_us) = (fence.unwrap_or(0).to_string(), self.world.net.unix_us());
        let mut words: Vec<&[u8]> = vec![b"LOCK.RELEASE", key, owner];
        let wish = match fence {
            Some(fence) => {
                words.extend([&b"FENCE"[..], fence_text.as_bytes()]);
                self.world.judge(|judge| judge.wishes_of_the_past(key, owner, fence))
            }
            None => self.world.judge(|judge| judge.wishes(key, owner, None)),
        };
        match self.asks_about(key, owner, &words).await {
            Some(Said::Number(said)) => {
                self.world.judge(|judge| judge.is_released(key, (owner, fence), sent_us, said));
                self.world.judge(|judge| judge.wish_is_over(wish, said == 1));
            }
            Some(Said::Error(line)) if line.contains("is not a lock") => {
                self.world.judge(|judge| judge.wish_is_over(wish, false));
            }
            _ => {}
        }
    }

    async fn transfers_as(&mut self, key: &[u8], from: &[u8]) {
        let to = format!("p{}", self.dice.usize(..self.world.plan.people)).into_bytes();
        if from == to {
            return;
        }
        let wish = self.world.judge(|judge| judge.wishes(key, from, None));
        let (lease_ms, sent_us) = (self.world.plan.lease_ms(key, self.number, Some(1500)), self.world.net.unix_us());
        let words: [&[u8]; 6] = [b"LOCK.TRANSFER", key, from, &to, b"TTL", b"1500"];
        let said = self.asks_about(key, from, &words).await;
        self.transferred(key, (from, None), &to, (Some(lease_ms), sent_us), said, wish);
    }

    async fn writes_as(&mut self, key: &[u8], owner: &[u8], fence: u64) {
        let (text, data, sent_us) = (fence.to_string(), [b"data:", key].concat(), self.world.net.unix_us());
        let words: [&[u8]; 6] = [b"LOCK.GUARD", key, text.as_bytes(), b"SET", &data, text.as_bytes()];
        if let Some(Said::Error(line)) = self.asks_about(key, owner, &words).await
            && line.starts_with("FENCED")
        {
            let mark = Mark::Fenced(owner.to_vec(), fence);
            self.world.judge(|judge| judge.is_fenced_off(key, &mark, sent_us));
        }
    }
}
