//! Guarded data: what is read and written back under the lock loses no update, as long as nobody outstays his lease.

use super::{Grant, Tale, Violation};
use crate::history::record::{Call, Op, Write};
use std::collections::{BTreeMap, HashMap};

pub fn check(tale: &Tale, grants: &BTreeMap<&str, Vec<Grant>>, found: &mut Vec<Violation>) {
    guarded(tale, found);
    let mut by_key: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in tale.writes.iter().filter(|write| !write.is_guarded) {
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
        for write in writes.iter().copied().filter(|write| is_within(write) && !write.is_unknown) {
            if !write.was_taken {
                let story = format!("{write:?}: the data had seen a higher fence");
                found.push(Violation { rule: "a holder was fenced off", story });
            } else if tale.losses.stands_until((write.from_us, write.until_us)) < u64::MAX {
                // The data may have lost it, too.
            } else if let Some(other) = wrote.insert(write.wrote, write) {
                found.push(Violation { rule: "a lost update", story: format!("{other:?}\n    and {write:?}") });
            }
        }
        let all_within = writes.iter().all(|write| is_within(write) && write.was_taken) && tale.losses.is_empty();
        let is_sum = |call: &&Call| matches!(call.op, Op::Force | Op::Del);
        let was_meddled_with = tale.calls.get(key).is_some_and(|calls| calls.iter().any(is_sum));
        let total = tale.end.and_then(|end| end.data.get(key)).copied();
        if all_within && !was_meddled_with && total.is_some_and(|total| total != writes.len() as i64) {
            let story = format!("'{key}': {} updates made {total:?}", writes.len());
            found.push(Violation { rule: "a lost update", story });
        }
    }
}

/// What is read and written back under `LOCK.GUARD`, both under one fence, loses no update, whoever outstays his lease, takes locks by
/// force or deletes them: between the two the lock was held without a break.
fn guarded(tale: &Tale, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in tale.writes.iter().filter(|write| write.is_guarded) {
        by_key.entry(&write.key).or_default().push(write);
    }
    for (key, writes) in by_key {
        let taken = writes.iter().copied().filter(|write| write.was_taken);
        let mut wrote: HashMap<i64, &Write> = HashMap::new();
        for write in taken.clone().filter(|write| tale.losses.stands_until((write.from_us, write.until_us)) == u64::MAX)
        {
            if let Some(other) = wrote.insert(write.wrote, write) {
                let story = format!("{other:?}\n    and {write:?}");
                found.push(Violation { rule: "a guarded update was lost", story });
            }
        }
        let Some(end) = tale.end.filter(|_| tale.losses.is_empty()) else { continue };
        let total = end.guarded.get(key).copied().unwrap_or(0);
        let (least, unknown) = (taken.count() as i64, writes.iter().filter(|write| write.is_unknown).count() as i64);
        if total < least || total > least + unknown {
            let story = format!("'{key}': {least} updates, and {unknown} perhaps, made {total}");
            found.push(Violation { rule: "a guarded update was lost", story });
        }
    }
}
