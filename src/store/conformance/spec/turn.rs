//! Whose turn it is.

use super::{Sender, Spec, Waiter, call_name, grant, long};
use crate::domain::CallId;
use crate::locks::{Form, Handed, Offer, Registered};

impl Spec {
    pub(super) fn mine(&self, key: &[u8], node: &str) -> Option<&Waiter> {
        self.queues.get(key)?.waiters.get(node)
    }

    /// The best of the other nodes; among equals the first by the node's name.
    pub(super) fn other(&self, key: &[u8], node: &str) -> Option<(String, Waiter)> {
        let others = self.queues.get(key)?.waiters.iter().filter(|(of, _)| *of != node);
        others.min_by_key(|(of, waiter)| (waiter.offer.rank, (*of).clone())).map(|(of, w)| (of.clone(), w.clone()))
    }

    /// Whom a node brings, and who was registered by a try of its own that it knew nothing of yet; the two best.
    pub(super) fn own(&self, key: &[u8], sender: &Sender, offers: &[Offer]) -> Vec<Waiter> {
        let mut own: Vec<Waiter> = offers.iter().map(Waiter::known).collect();
        if let Some(mine) = self.mine(key, &sender.node)
            && mine.sent_us > sender.knows_us
            && Some(mine.offer.call) != sender.left_over
            && own.iter().all(|waiter| waiter.offer.call != mine.offer.call)
        {
            own.push(mine.clone());
            own.sort_by_key(|waiter| waiter.offer.rank);
        }
        own.truncate(2);
        own
    }

    pub(super) fn unregister(&mut self, key: &[u8], node: &str) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.waiters.remove(node);
            if queue.waiters.is_empty() {
                self.queues.remove(key);
            }
        }
    }

    /// A node's best waiter is this one from here on. What changes keeps the queue for as long as its node wants at least.
    pub(super) fn register(&mut self, key: &[u8], sender: &Sender, waiter: Option<Waiter>) -> Registered {
        let Some(waiter) = waiter else {
            self.unregister(key, &sender.node);
            return None;
        };
        let call = waiter.offer.call;
        let kept_until = self.now_ms() + sender.kept_ms;
        let queue = self.queues.entry(key.to_vec()).or_default();
        let known = queue.waiters.insert(sender.node.clone(), waiter.clone());
        if known.is_none_or(|known| known.text() != waiter.text()) {
            queue.until_ms = queue.until_ms.max(kept_until);
        }
        Some(call)
    }

    /// Writes the lock for a waiter: a claim, but for a LOCK.* waiter whom his own node has brought.
    fn give(&mut self, key: &[u8], sender: &Sender, of: &str, waiter: &Waiter) -> Handed {
        let Offer { call, level, form, claim_ms, .. } = &waiter.offer;
        let is_own = sender.node == of;
        let at_ms = sender.sent_us / 1000;
        let name = call_name(of, *call);
        match form {
            Form::Lock { owner, lease_ms, meta } => {
                let fence = self.next_fence(sender.floor, sender.ahead_us);
                if is_own && waiter.sent_us == 0 {
                    let value = long(owner.as_bytes(), fence, *level, at_ms, &name, meta);
                    self.write(key, value.clone(), Some(self.now_ms() + lease_ms));
                    return Handed::To { call: *call, grant: grant(fence, value) };
                }
                let value = long(owner.as_bytes(), fence, *level, at_ms, &format!("{name}?"), meta);
                self.claimed(key, of, is_own.then_some(*call), (value, *claim_ms))
            }
            Form::Plain { .. } => {
                let value = long(b"", 0, *level, at_ms, &format!("{name}?"), b"");
                self.claimed(key, of, is_own.then_some(*call), (value, *claim_ms))
            }
        }
    }

    fn claimed(&mut self, key: &[u8], of: &str, call: Option<CallId>, (value, ms): (Vec<u8>, u64)) -> Handed {
        self.write(key, value.clone(), Some(self.now_ms() + ms));
        if call.is_none() {
            self.unregister(key, of);
        }
        Handed::Claimed { call, value: value.into() }
    }

    /// The free lock goes to the best of this node's and the others'; `None` where nobody waits.
    pub(super) fn take_turns(&mut self, key: &[u8], sender: &Sender, own: Vec<Waiter>) -> Option<(Handed, Registered)> {
        let other = self.other(key, &sender.node);
        let mut own = own.into_iter();
        let (first, second) = (own.next(), own.next());
        let is_own = first.as_ref().is_some_and(|first| {
            let mine = (first.offer.rank, &sender.node);
            other.as_ref().is_none_or(|(of, other)| mine < (other.offer.rank, of))
        });
        let (handed, best) = match (first, other) {
            (Some(first), _) if is_own => (self.give(key, sender, &sender.node, &first), second),
            (first, Some((of, other))) => (self.give(key, sender, &of, &other), first),
            _ => {
                self.unregister(key, &sender.node);
                return None;
            }
        };
        let registered = self.register(key, sender, best);
        Some((handed, registered))
    }
}
