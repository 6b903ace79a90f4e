//! Which keys the watch link has to look at, and of which the upstream will tell when they change.
//!
//! A key is on the desk from the moment somebody begins to wait for it; it is forgotten when it is found that nobody does any more.
//! The desk is told by all workers and asked by the task that drives the link.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{Db, LockKey};

/// Below so many keys nobody looks for those that have gone.
const SWEEP_FROM: usize = 256;

/// The keys that are waited for.
#[derive(Debug)]
pub struct Desk {
    spots: Mutex<Spots>,
    bell: Notify,
    looks: AtomicU64,
}

#[derive(Debug)]
struct Spots {
    /// By name, because the upstream does not tell the database of what has changed.
    by_name: HashMap<Arc<[u8]>, Vec<Spot>>,
    count: usize,
    /// Those to look at, in order. An entry whose spot says otherwise by now is stale.
    to_look: VecDeque<LockKey>,
    /// Those to look at with the next heartbeat.
    put_off: Vec<LockKey>,
    /// As soon as there are so many, those that nobody waits for are forgotten.
    sweep_at: usize,
}

#[derive(Debug)]
struct Spot {
    db: Db,
    stage: Stage,
    /// Its queue has changed since it was looked at, which waits until the next heartbeat.
    is_queue_stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for its turn to be looked at.
    ToLook,
    /// A look at it is under way.
    Looking {
        /// The lock has been read: what changes from here on is told.
        is_armed: bool,
        /// And it has changed.
        has_changed: bool,
    },
    /// It was looked at, and its next change is told.
    Watched,
    /// It could not be looked at.
    PutOff,
}

impl Desk {
    /// Nothing to look at.
    pub fn new() -> Self {
        let spots = Spots {
            by_name: HashMap::new(),
            count: 0,
            to_look: VecDeque::new(),
            put_off: Vec::new(),
            sweep_at: SWEEP_FROM,
        };
        Desk { spots: Mutex::new(spots), bell: Notify::new(), looks: AtomicU64::new(0) }
    }

    /// Somebody begins to wait for `key`. `tell` is called, once, with whether the upstream tells of its changes already.
    ///
    /// Both closures run under the desk's lock, so that what they tell cannot overtake the loss of the link; they may take a
    /// shard's.
    pub fn want(&self, key: &LockKey, is_awaited: impl Fn(&LockKey) -> bool, tell: impl FnOnce(bool)) {
        let mut spots = self.lock();
        if spots.count >= spots.sweep_at {
            spots.sweep(is_awaited);
        }
        let is_watched = match spots.stage_mut(key) {
            Some(Stage::Watched) => true,
            Some(Stage::ToLook | Stage::Looking { .. }) => false,
            Some(stage @ Stage::PutOff) => {
                *stage = Stage::ToLook;
                spots.to_look.push_back(key.clone());
                false
            }
            None => {
                spots.insert(key);
                false
            }
        };
        tell(is_watched);
        drop(spots);
        if !is_watched {
            self.bell.notify_one();
        }
    }

    /// Resolves when there may be something to look at.
    pub async fn wanted(&self) {
        self.bell.notified().await;
    }

    /// The next key to look at; it counts as being looked at from here on. Those that nobody waits for any more are forgotten.
    pub fn next(&self, is_awaited: impl Fn(&LockKey) -> bool) -> Option<LockKey> {
        let mut spots = self.lock();
        while let Some(key) = spots.to_look.pop_front() {
            match spots.stage_mut(&key) {
                Some(Stage::ToLook) if !is_awaited(&key) => spots.remove(&key),
                Some(stage @ Stage::ToLook) => {
                    *stage = Stage::Looking { is_armed: false, has_changed: false };
                    return Some(key);
                }
                _ => {}
            }
        }
        None
    }

    /// The lock itself has been read: from here on the upstream tells when it changes.
    pub fn armed(&self, key: &LockKey) {
        if let Some(Stage::Looking { is_armed, .. }) = self.lock().stage_mut(key) {
            *is_armed = true;
        }
    }

    /// The look at `key` has ended well. What has changed meanwhile is looked at again.
    pub fn looked(&self, key: &LockKey) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let mut spots = self.lock();
        match spots.stage_mut(key) {
            Some(stage @ Stage::Looking { has_changed: true, .. }) => {
                *stage = Stage::ToLook;
                spots.to_look.push_back(key.clone());
            }
            Some(stage @ Stage::Looking { .. }) => *stage = Stage::Watched,
            _ => {}
        }
    }

    /// The look at `key` has failed. It is tried again with the next heartbeat, or when somebody else begins to wait for it.
    pub fn failed(&self, key: &LockKey, try_again: bool) {
        let mut spots = self.lock();
        if let Some(stage @ Stage::Looking { .. }) = spots.stage_mut(key) {
            *stage = Stage::PutOff;
            if try_again {
                spots.put_off.push(key.clone());
            }
        }
    }

    /// A heartbeat: what was put off is looked at.
    pub fn beat(&self) {
        let mut spots = self.lock();
        for key in std::mem::take(&mut spots.put_off) {
            let Some(spot) = spots.spot_mut(&key) else { continue };
            let is_queue_stale = std::mem::take(&mut spot.is_queue_stale);
            if spot.stage == Stage::PutOff || (spot.stage == Stage::Watched && is_queue_stale) {
                spot.stage = Stage::ToLook;
                spots.to_look.push_back(key);
            }
        }
    }

    /// The lock of that name has changed, in some database: it is looked at again wherever it is waited for.
    pub fn lock_changed(&self, name: &[u8]) {
        self.lock().changed(name);
    }

    /// The queue of the lock of that name has changed. Nearly always that is a node's own doing, or the lock changes with it; so it is
    /// looked at with the next heartbeat, and nodes that were of two minds about a queue could not drive each other round. It is read
    /// last in a look, so that a look under way has yet to read it.
    pub fn queue_changed(&self, name: &[u8]) {
        let mut spots = self.lock();
        let Spots { by_name, put_off, .. } = &mut *spots;
        let Some((name, same)) = by_name.get_key_value(name).map(|(name, _)| name.clone()).and_then(|name| {
            let same = by_name.get_mut(&name)?;
            Some((name, same))
        }) else {
            return;
        };
        for spot in same.iter_mut().filter(|spot| spot.stage == Stage::Watched && !spot.is_queue_stale) {
            spot.is_queue_stale = true;
            put_off.push(LockKey { db: spot.db, name: name.clone() });
        }
    }

    /// Everything may have changed.
    pub fn all_changed(&self) {
        let mut spots = self.lock();
        let names: Vec<Arc<[u8]>> = spots.by_name.keys().cloned().collect();
        for name in names {
            spots.changed(&name);
        }
    }

    /// The link is lost: nothing is told any more, and everything is to be looked at once there is another. `tell` hears of each
    /// key, under the desk's lock.
    pub fn lost(&self, mut tell: impl FnMut(&LockKey)) {
        let mut spots = self.lock();
        let Spots { by_name, to_look, put_off, .. } = &mut *spots;
        to_look.clear();
        put_off.clear();
        for (name, same) in by_name {
            for spot in same {
                let key = LockKey { db: spot.db, name: name.clone() };
                (spot.stage, spot.is_queue_stale) = (Stage::ToLook, false);
                tell(&key);
                to_look.push_back(key);
            }
        }
    }

    /// How many looks have ended well, ever.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// How many keys are on the desk.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Spots> {
        // A panic while the desk was held has been reported; what stands on it is as good as before.
        self.spots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spots {
    fn spot_mut(&mut self, key: &LockKey) -> Option<&mut Spot> {
        self.by_name.get_mut(&key.name)?.iter_mut().find(|spot| spot.db == key.db)
    }

    fn stage_mut(&mut self, key: &LockKey) -> Option<&mut Stage> {
        self.spot_mut(key).map(|spot| &mut spot.stage)
    }

    fn insert(&mut self, key: &LockKey) {
        self.by_name.entry(key.name.clone()).or_default().push(Spot {
            db: key.db,
            stage: Stage::ToLook,
            is_queue_stale: false,
        });
        self.count += 1;
        self.to_look.push_back(key.clone());
    }

    fn remove(&mut self, key: &LockKey) {
        let Some(same) = self.by_name.get_mut(&key.name) else { return };
        let before = same.len();
        same.retain(|spot| spot.db != key.db);
        self.count -= before - same.len();
        if same.is_empty() {
            self.by_name.remove(&key.name);
        }
    }

    fn changed(&mut self, name: &[u8]) {
        let Some((name, same)) = self.by_name.get_key_value(name).map(|(name, _)| name.clone()).and_then(|name| {
            let same = self.by_name.get_mut(&name)?;
            Some((name, same))
        }) else {
            return;
        };
        for spot in same {
            match &mut spot.stage {
                stage @ Stage::Watched => {
                    *stage = Stage::ToLook;
                    self.to_look.push_back(LockKey { db: spot.db, name: name.clone() });
                }
                // What was told before the lock was read, the look will see.
                Stage::Looking { is_armed: true, has_changed } => *has_changed = true,
                Stage::Looking { .. } | Stage::ToLook | Stage::PutOff => {}
            }
        }
    }

    /// Forgets what nobody waits for. Whether that is much or little, the next time is so far away that it costs little on average.
    fn sweep(&mut self, is_awaited: impl Fn(&LockKey) -> bool) {
        let Spots { by_name, count, .. } = self;
        *count = 0;
        by_name.retain(|name, same| {
            same.retain(|spot| {
                matches!(spot.stage, Stage::Looking { .. }) || is_awaited(&LockKey { db: spot.db, name: name.clone() })
            });
            *count += same.len();
            !same.is_empty()
        });
        self.sweep_at = SWEEP_FROM.max(self.count * 2);
        let mut to_look = std::mem::take(&mut self.to_look);
        to_look.retain(|key| matches!(self.stage_mut(key), Some(Stage::ToLook)));
        self.to_look = to_look;
        let mut put_off = std::mem::take(&mut self.put_off);
        put_off.retain(|key| self.spot_mut(key).is_some_and(|spot| spot.stage == Stage::PutOff || spot.is_queue_stale));
        self.put_off = put_off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(db: Db, name: &str) -> LockKey {
        LockKey::new(db, name.as_bytes())
    }

    fn want(desk: &Desk, key: &LockKey) -> bool {
        let mut is_watched = false;
        desk.want(key, |_| true, |told| is_watched = told);
        is_watched
    }

    fn next(desk: &Desk) -> Option<LockKey> {
        desk.next(|_| true)
    }

    fn watch(desk: &Desk, key: &LockKey) {
        want(desk, key);
        assert_eq!(next(desk).as_ref(), Some(key));
        desk.armed(key);
        desk.looked(key);
    }

    #[test]
    fn a_wanted_key_is_looked_at_once_and_watched_from_then_on() {
        let desk = Desk::new();
        let k = key(0, "k");
        assert!(!want(&desk, &k) && !want(&desk, &k));
        assert_eq!(next(&desk), Some(k.clone()));
        assert_eq!(next(&desk), None);
        assert!(!want(&desk, &k), "not before the look has ended");
        desk.armed(&k);
        desk.looked(&k);
        assert!(want(&desk, &k));
        assert_eq!(next(&desk), None);
    }

    #[test]
    fn a_change_is_looked_at_in_every_database_that_waits_for_the_name() {
        let desk = Desk::new();
        let (here, there) = (key(0, "k"), key(3, "k"));
        watch(&desk, &here);
        watch(&desk, &there);
        watch(&desk, &key(0, "other"));
        desk.lock_changed(b"k");
        desk.lock_changed(b"k");
        desk.lock_changed(b"nobody waits for this");
        assert_eq!([next(&desk), next(&desk), next(&desk)], [Some(here), Some(there), None]);
    }

    #[test]
    fn what_changes_during_a_look_is_looked_at_again_but_only_if_the_look_could_have_missed_it() {
        let desk = Desk::new();
        let k = key(0, "k");
        want(&desk, &k);
        next(&desk);
        desk.lock_changed(b"k");
        desk.armed(&k);
        desk.queue_changed(b"k");
        desk.looked(&k);
        assert!(want(&desk, &k), "both had been told before they were read");
        desk.queue_changed(b"k");
        desk.queue_changed(b"k");
        assert_eq!(next(&desk), None, "a queue has time");
        desk.beat();
        assert_eq!(next(&desk), Some(k.clone()));
        desk.armed(&k);
        desk.all_changed();
        desk.looked(&k);
        assert_eq!(next(&desk), Some(k.clone()));
        desk.looked(&k);
        desk.beat();
        assert_eq!(next(&desk), None);
    }

    #[test]
    fn after_a_loss_everything_is_looked_at_again() {
        let desk = Desk::new();
        let keys = [key(0, "a"), key(0, "b"), key(0, "c")];
        watch(&desk, &keys[0]);
        want(&desk, &keys[1]);
        next(&desk);
        want(&desk, &keys[2]);
        let mut told = Vec::new();
        desk.lost(|key| told.push(key.clone()));
        told.sort();
        assert_eq!(told, keys);
        let mut looked: Vec<LockKey> = std::iter::from_fn(|| next(&desk)).collect();
        looked.sort();
        assert_eq!(looked, keys);
    }

    #[test]
    fn what_could_not_be_looked_at_is_tried_again_where_that_helps() {
        let desk = Desk::new();
        let (passing, refused) = (key(0, "a"), key(0, "b"));
        for (key, try_again) in [(&passing, true), (&refused, false)] {
            want(&desk, key);
            next(&desk);
            desk.failed(key, try_again);
        }
        assert_eq!(next(&desk), None);
        desk.beat();
        assert_eq!((next(&desk), next(&desk)), (Some(passing), None));
        assert!(!want(&desk, &refused));
        assert_eq!(next(&desk), Some(refused));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_forgotten() {
        let desk = Desk::new();
        for number in 0..10 * SWEEP_FROM {
            let key = key(0, &number.to_string());
            desk.want(&key, |awaited| *awaited == key, |_| {});
            desk.next(|_| true);
            desk.armed(&key);
            desk.looked(&key);
        }
        assert!(desk.len() <= 2 * SWEEP_FROM, "{}", desk.len());
        desk.all_changed();
        assert_eq!(desk.next(|_| false), None);
        assert_eq!(desk.len(), 0);
    }
}
