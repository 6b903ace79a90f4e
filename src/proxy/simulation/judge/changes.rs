//! What happens upstream, and whether it may.

use super::mark::{Held, Hold, Lock, Mark};
use super::{Judge, Wish};
use crate::protocol::args::args;
use crate::store::value::Fields;
use crate::store::{BRIDGE, is_renewal, is_transfer, released_by};
use crate::upstream::simulated::server::{Cause, Change};

impl Judge {
    /// A lock has changed. `is_ours`: through one of the nodes.
    pub fn changed(&mut self, change: &Change, is_ours: bool) {
        if change.key.starts_with(b"lockgate:") {
            return;
        }
        self.now(change.at_us);
        if let Some(lock) = change.key.strip_prefix(b"data:") {
            if change.cause != Cause::Disaster {
                self.counts.writes += 1;
                self.is_written(change, lock);
            }
            return;
        }
        self.counts.changes += 1;
        let after = change.after.as_deref().map(Mark::of);
        self.say(|| {
            let shown = after.as_ref().map_or("nobody".into(), |(mark, is_claim)| {
                format!("{mark}{}", if *is_claim { " (claim)" } else { "" })
            });
            format!("{} -> {shown} by {:?}", change.key.escape_ascii(), change.cause)
        });
        let mut lock = self.locks.remove(&change.key).unwrap_or_default();
        self.leases_keep(change, &lock);
        lock.story.push(Held { since_us: change.at_us, value: change.after.clone(), until_ms: change.until_ms });
        let before = lock.hold.take();
        match (before, after) {
            (Some(mut hold), Some((mark, is_claim))) if hold.mark == mark => {
                if is_claim && !hold.is_claim && change.cause != Cause::Disaster {
                    self.wrong(format!("{mark} held {} and has but a claim now", change.key.escape_ascii()));
                }
                hold.is_claim = is_claim;
                hold.is_bridge &= is_bridge(change.after.as_deref());
                lock.hold = Some(hold);
            }
            (before, after) => {
                if let Some(hold) = before {
                    self.ends(change, hold, &mut lock, is_ours);
                }
                match after {
                    None => lock.free_since_us = change.at_us,
                    Some((mark, is_claim)) => {
                        let is_bridge = is_bridge(change.after.as_deref());
                        lock.hold = Some(self.begins(change, mark, (is_claim, is_bridge), &mut lock));
                    }
                }
            }
        }
        self.locks.insert(change.key.clone(), lock);
        self.cycles();
    }

    /// Somebody frees this key without asking its holder.
    pub fn is_rough_with(&mut self, key: &[u8]) {
        self.locks.entry(key.to_vec()).or_default().rough_us = Some(self.now_us);
    }

    /// A claim is not lengthened, and a renewal does not shorten what its owner has extended.
    fn leases_keep(&self, change: &Change, lock: &Lock) {
        let Some(before) = lock.story.last().filter(|before| before.value == change.after && before.value.is_some())
        else {
            return;
        };
        let (until_ms, key) = (change.until_ms, change.key.escape_ascii());
        // Whose claim is taken away may be the next all the same, and has it anew.
        let is_taken = |owner: &[u8]| self.wishes.iter().any(|wish| wish.key == change.key && wish.owner == owner);
        if before.fields().is_some_and(|fields| fields.is_claim && !is_taken(fields.owner))
            && until_ms > before.until_ms
        {
            self.wrong(format!("the claim of {key} is lengthened, to {until_ms:?}"));
        }
        let words: Vec<&[u8]> = args(&change.request).collect();
        if is_renewal(&words) && before.until_ms.is_some_and(|before| until_ms.is_some_and(|until| until < before)) {
            self.wrong(format!("a renewal shortens the lease of {key} from {:?} to {until_ms:?}", before.until_ms));
        }
    }

    fn ends(&mut self, change: &Change, mut hold: Hold, lock: &mut Lock, is_ours: bool) {
        let owner = hold.mark.owner();
        if is_ours && matches!(change.cause, Cause::Client(_)) && !hold.is_claim && !hold.is_bridge {
            let fence = match hold.mark {
                Mark::Fenced(_, fence) => Some(fence),
                _ => None,
            };
            let words: Vec<&[u8]> = args(&change.request).collect();
            let is_given_back = words.get(8) == Some(&&b"back"[..]);
            let fits = |wish: &Wish| {
                wish.key == change.key
                    && match released_by(&words) {
                        Some((None, _)) => wish.owner.is_empty(),
                        Some((Some(owner), fence)) => wish.owner == owner && wish.fence == fence,
                        // What is given back without a wish must not be told of any more.
                        None if is_given_back => wish.is_tie && wish.owner == owner,
                        None => wish.owner == owner && wish.fence.is_none_or(|wished| Some(wished) == fence),
                    }
            };
            match self.wishes.iter().position(fits) {
                Some(at) => self.used.push(self.wishes.remove(at)),
                None if hold.is_told => {
                    self.wrong(format!("{} holds {} and it was taken from it", hold.mark, change.key.escape_ascii()));
                }
                None => hold.taken_back_us = Some(self.now_us),
            }
        }
        lock.past.push(hold);
    }

    fn begins(&mut self, change: &Change, mark: Mark, (is_claim, is_bridge): (bool, bool), lock: &mut Lock) -> Hold {
        let (key, cause) = (&change.key[..], change.cause);
        if let Some(at) = lock.past.iter().position(|past| past.mark == mark) {
            let past = lock.past.remove(at);
            // What was lost with its master may be repeated by its owner; a disaster may bring back what was over.
            let is_excused = cause == Cause::Disaster || self.had_disaster;
            if !is_excused && matches!(mark, Mark::Fenced(..)) {
                self.wrong(format!("{mark} holds {} once more, after it had ended", key.escape_ascii()));
            }
            return Hold { is_claim, is_bridge, begun_us: self.now_us, taken_back_us: None, ..past };
        }
        if let Mark::Fenced(_, fence) = mark
            && cause != Cause::Disaster
            && fence <= self.fence_told
        {
            self.wrong(format!("{mark} begins to hold {}, but {} has been told", key.escape_ascii(), self.fence_told));
        }
        // Whoever is given a lock by its holder passes those who wait.
        let is_given = is_transfer(&args(&change.request).collect::<Vec<_>>());
        if cause != Cause::Disaster && !is_bridge && !is_given {
            self.nobody_is_passed(key, &mark, lock);
        }
        Hold { mark, is_claim, is_bridge, begun_us: self.now_us, is_told: false, told_on: None, taken_back_us: None }
    }

    /// Guarded data was written under a fence: the lock is held under it in this very moment.
    fn is_written(&self, change: &Change, lock: &[u8]) {
        let hold = self.locks.get(lock).and_then(|lock| lock.hold.as_ref()).filter(|hold| !hold.is_claim);
        let fence = match hold.map(|hold| &hold.mark) {
            Some(Mark::Fenced(_, fence)) => fence.to_string(),
            _ => String::new(),
        };
        if change.after.as_deref() != Some(fence.as_bytes()) {
            let written = change.after.as_deref().unwrap_or_default().escape_ascii();
            self.wrong(format!("{written} wrote what {} guards, whose fence is '{fence}'", lock.escape_ascii()));
        }
    }
}

fn is_bridge(value: Option<&[u8]>) -> bool {
    value.and_then(Fields::read).is_some_and(|fields| fields.meta == BRIDGE)
}
