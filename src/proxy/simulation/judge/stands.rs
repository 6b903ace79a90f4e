//! How a key stands to somebody, for the coverage.

use super::Judge;
use crate::proxy::simulation::coverage::State;

impl Judge {
    /// For whom a claim in `key` is, and under which fence; `None` where there is none, or it is for a SET NX.
    pub fn claimed_for(&self, key: &[u8]) -> Option<(Vec<u8>, u64)> {
        let held = self.locks.get(key)?.story.last()?;
        let fields = held.fields().filter(|fields| fields.is_claim && fields.fence.0 > 0)?;
        Some((fields.owner.to_vec(), fields.fence.0))
    }

    /// How `key` stands to `owner` in this moment.
    pub fn stands(&self, key: &[u8], owner: &[u8]) -> State {
        let is_other = |asked: &super::Asked| asked.is_about(key) && (asked.owner != owner || asked.value.is_some());
        let is_awaited = self.calls.values().any(|call| call.asked.wait_us > 0 && is_other(&call.asked));
        let held = self.locks.get(key).and_then(|lock| lock.story.last()).filter(|held| held.value.is_some());
        match (held, held.and_then(super::mark::Held::fields)) {
            (None, _) if is_awaited => State::Awaited,
            (None, _) => State::Free,
            // A SET NX has no owner, nor has its claim.
            (_, Some(fields)) => match (fields.owner == owner && !owner.is_empty(), fields.is_claim) {
                (true, true) => State::OwnClaim,
                (false, true) => State::OthersClaim,
                (true, false) if is_awaited => State::OwnAwaited,
                (true, false) => State::Own,
                (false, false) if is_awaited => State::OthersAwaited,
                (false, false) => State::Others,
            },
            (Some(held), None) if held.is_data() => State::Data,
            (Some(_), None) if is_awaited => State::ValueAwaited,
            (Some(_), None) => State::Value,
        }
    }
}
