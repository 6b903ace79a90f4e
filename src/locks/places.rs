//! Who stands where in line, whom scripts carry along, and the places of clients that left.

use super::event::{Actor, Sent, Turn};
use super::line::Line;
use super::rank::Place;
use crate::domain::{CallId, Moment};

impl Line {
    /// The best waiter.
    pub(super) fn best(&self) -> Option<CallId> {
        self.queue.nth(0).map(|(_, id)| id)
    }

    /// This node's two best waiters, but for the calls of `actor`: what a script carries along.
    pub(super) fn turn_but(&mut self, actor: Option<&Actor>, now: Moment) -> Turn {
        let rules = self.rules;
        // No owner stands in line twice.
        let best: Vec<CallId> = (0..3).map_while(|before| self.queue.nth(before)).map(|(_, id)| id).collect();
        let others: Vec<CallId> =
            best.into_iter().filter(|id| Some(&self.calls[id].asked.actor) != actor).take(2).collect();
        let offers = others.into_iter().filter_map(|id| {
            let call = self.call_mut(id);
            call.offers += 1;
            call.offer(rules.promote_after_us, rules.claim_ms)
        });
        let offers = offers.collect();
        let knows_until = self.tries.first().map_or(now, |(sent, _)| Moment(sent.0.saturating_sub(1)).min(now));
        Turn { offers, at: now, knows_until, epoch: self.epoch, left_over: self.left_over, line: self.number }
    }

    pub(super) fn withdraw(&mut self, sent: &Sent) {
        for offered in &sent.offered {
            self.withdraw_offer(*offered);
        }
    }

    pub(super) fn withdraw_offer(&mut self, id: CallId) {
        let call = self.call_mut(id);
        assert!(call.offers > 0, "an offer was withdrawn twice");
        call.offers -= 1;
        self.forget_if_past(id);
    }

    pub(super) fn enqueue(&mut self, id: CallId) {
        let promote_after_us = self.rules.promote_after_us;
        let call = self.call_mut(id);
        if let Some(rank) = call.rank(promote_after_us).filter(|_| !call.is_queued) {
            call.is_queued = true;
            self.entry_awaits_try = false;
            self.queue.insert(rank, id);
        }
    }

    pub(super) fn dequeue(&mut self, id: CallId) {
        let promote_after_us = self.rules.promote_after_us;
        let call = self.call_mut(id);
        if let Some(rank) = call.rank(promote_after_us).filter(|_| call.is_queued) {
            call.is_queued = false;
            self.entry_awaits_try = false;
            let was_there = self.queue.remove(rank);
            assert!(was_there, "a queued call has no place in the queue");
        }
    }

    pub(super) fn keep(&mut self, actor: Actor, place: Place, now: Moment) {
        if matches!(actor, Actor::Call(_)) {
            return;
        }
        let until = now.plus_ms(self.rules.place_kept_ms);
        self.forget_place(&actor);
        self.bytes += actor.bytes();
        self.kept.insert(actor.clone(), (place, until));
        self.kept_order.push_back((until, actor));
        // However many come and go in those seconds, memory stays bounded.
        while self.kept_order.len() > self.rules.waiting_max.max(1) {
            self.forget_oldest_place();
        }
    }

    pub(super) fn kept_place(&self, actor: &Actor, now: Moment) -> Option<Place> {
        self.kept.get(actor).filter(|(_, until)| *until > now).map(|(place, _)| *place)
    }

    pub(super) fn take_kept(&mut self, actor: &Actor, now: Moment) -> Option<Place> {
        let place = self.kept_place(actor, now);
        self.forget_place(actor);
        place
    }

    pub(super) fn forget_place(&mut self, actor: &Actor) {
        if self.kept.remove(actor).is_some() {
            self.bytes -= actor.bytes();
        }
    }

    pub(super) fn forget_places(&mut self, now: Moment) {
        while self.kept_order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest_place();
        }
    }

    pub(super) fn forget_oldest_place(&mut self) {
        let Some((until, actor)) = self.kept_order.pop_front() else { return };
        if self.kept.get(&actor).is_some_and(|(_, kept_until)| *kept_until == until) {
            self.forget_place(&actor);
        }
    }
}
