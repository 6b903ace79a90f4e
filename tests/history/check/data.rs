//! Guarded data: what is read and written back under the lock loses no update, as long as nobody outstays his lease.

use super::{Grant, Tale, Violation};
use crate::history::record::{Call, Op, Write};
use std::collections::{BTreeMap, HashMap};

pub fn check(tale: &Tale, grants: &BTreeMap<&str, Vec<Grant>>, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in &tale.writes {
        by_key.entry(&write.key).or_default().push(write);
    }
    for (key, writes) in by_key {
        let ends: HashMap<i64, (u64, u64)> = grants
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|grant| Some((grant.fence?, (grant.since_us.1, grant.ends_us))))
            .collect();
        let is_within = |write: &Write| {
            ends.get(&write.fence).is_some_and(|(from, until)| *from <= write.from_us && write.until_us < *until)
        };
        let mut wrote: HashMap<i64, &Write> = HashMap::new();
        for write in writes.iter().copied().filter(|write| is_within(write)) {
            if !write.was_taken {
                let story = format!("{write:?}: the data had seen a higher fence");
                found.push(Violation { rule: "a holder was fenced off", story });
            } else if let Some(other) = wrote.insert(write.wrote, write) {
                found.push(Violation { rule: "a lost update", story: format!("{other:?}\n    and {write:?}") });
            }
        }
        let all_within = writes.iter().all(|write| is_within(write) && write.was_taken);
        let is_sum = |call: &&Call| matches!(call.op, Op::Force | Op::Del);
        let was_meddled_with = tale.calls.get(key).is_some_and(|calls| calls.iter().any(|call| is_sum(&call)));
        let total = tale.end.and_then(|end| end.data.get(key)).copied();
        if all_within && !was_meddled_with && total.is_some_and(|total| total != writes.len() as i64) {
            let story = format!("'{key}': {} updates made {total:?}", writes.len());
            found.push(Violation { rule: "a lost update", story });
        }
    }
}
