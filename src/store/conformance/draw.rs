//! What the random calls are made of.

use std::sync::Arc;

use crate::domain::{CallId, Level, OwnerId, PlainLease};
use crate::locks::{Form, Offer, Standing};
use crate::store::BRIDGE;

/// Names that are one another's beginning, that Lua's patterns would take for something else, and that a SET NX writes, too.
pub const OWNERS: [&[u8]; 6] = [b"ann", b"ann2", b"an", b"v", b"b\x00%b?\xff", b"ann?"];
/// Nodes whose order is that of their names.
pub const NODES: [&str; 3] = ["n", "n:1", "n:10"];
/// Locks of one slot.
pub const KEYS: [&[u8]; 3] = [b"k", b"k2", b"%{k}\x00"];
/// So far apart that no stall of this machine makes one of the other.
pub const LEASES_MS: [u64; 4] = [200_000, 400_000, 600_000, 800_000];
/// How long a queue is kept.
pub const KEPT_MS: [u64; 2] = [300_000, 500_000];
/// What stands in a key that nobody has locked by LOCK.*: what SET NX writes, an owner's very name, and what is almost of the long form.
pub const AROUND: [&[u8]; 16] = [
    b"v",
    b"ann",
    b"ann2",
    b"ann",
    b"stranger",
    b"",
    b"ann\x1f5\x1f4\x1f1\x1fn:1\x1f",
    b"ann\x1f5\x1f1\x1f1\x1fn:1",
    b"ann\x1fx\x1f1\x1f1\x1fn:1\x1f",
    b"ann\x1f\x1f1\x1f1\x1fn:1\x1f",
    b"ann\x1f5\x1f1\x1f\x1fn:1\x1f",
    b"ann\x1f5\x1f1\x1f1\x1f",
    b"v\x1fann\x1f5\x1f1\x1f1\x1fn:1\x1f",
    // The long form, by other hands: with nothing in a field that may be empty.
    b"ann\x1f5\x1f1\x1f1\x1f\x1f",
    b"\x1f5\x1f1\x1f1\x1fn:1\x1f",
    b"ann\x1f5\x1f1\x1f0\x1fn:1?\x1fnote",
];
/// By how much a level outweighs waiting, in µs.
const PROMOTES_AFTER_US: u64 = 10_000_000;
/// When all twins came: before anybody else of their level.
const TWINS_CAME_US: u64 = 1_763_700_000_000_000;
/// Half a second off each second of the real clock, so that who was here before never is a matter of moments.
const HALF_US: u64 = 500_000;

pub fn one_of<T: Copy>(dice: &mut fastrand::Rng, all: &[T]) -> T {
    all[dice.usize(..all.len())]
}

pub fn owner(dice: &mut fastrand::Rng) -> OwnerId {
    // Mostly the same, so that people meet.
    let known = if dice.bool() { 2 } else { OWNERS.len() };
    OwnerId::new(one_of(dice, &OWNERS[..known])).expect("a plain name")
}

pub fn level(dice: &mut fastrand::Rng) -> Level {
    one_of(dice, &[Level::Low, Level::Normal, Level::High, Level::Critical])
}

pub fn lease_ms(dice: &mut fastrand::Rng) -> u64 {
    one_of(dice, &LEASES_MS)
}

fn plain_lease(dice: &mut fastrand::Rng, now_ms: u64) -> PlainLease {
    match dice.u8(..4) {
        0 => PlainLease::Forever,
        1 => PlainLease::AtMs(now_ms + lease_ms(dice)),
        2 => PlainLease::AtMs(now_ms - 100_000),
        _ => PlainLease::Ms(lease_ms(dice)),
    }
}

pub fn form(dice: &mut fastrand::Rng, now_ms: u64) -> Form {
    if dice.u8(..4) == 0 {
        return Form::Plain { value: Arc::from(one_of(dice, &AROUND[..3])), lease: plain_lease(dice, now_ms) };
    }
    let meta = one_of(dice, &[&b""[..], b"", b"note\x1f\x00?", BRIDGE, b"?"]);
    Form::Lock { owner: owner(dice), lease_ms: lease_ms(dice), meta: meta.into() }
}

/// A level and a standing. Some are twins: whoever of them waits first at a node, their ranks are the very same, and what tells nodes
/// apart are their names.
pub fn level_and_standing(dice: &mut fastrand::Rng, call: CallId, now_us: u64) -> (Level, Standing) {
    let (waits, claim_ms) = (dice.u8(..3) > 0, lease_ms(dice));
    if dice.u8(..5) == 0 {
        let arrival_us = Some(TWINS_CAME_US);
        return (Level::High, Standing { first_call: CallId(1), arrival_us, promote_after_us: 0, waits, claim_ms });
    }
    let second = now_us / 1_000_000 - dice.u64(..60) + 30;
    let standing = Standing {
        first_call: call,
        arrival_us: dice.bool().then_some(second * 1_000_000 - HALF_US),
        promote_after_us: if dice.u8(..3) == 0 { PROMOTES_AFTER_US } else { 0 },
        waits,
        claim_ms,
    };
    (level(dice), standing)
}

/// A string that was written around Lockgate.
pub fn around(dice: &mut fastrand::Rng) -> Vec<u8> {
    one_of(dice, &AROUND).to_vec()
}

/// What a node brings along: up to two of those it knows, the best first.
pub fn offers(dice: &mut fastrand::Rng, waiters: &mut [Offer]) -> Vec<Offer> {
    waiters.sort_by_key(|offer| offer.rank);
    waiters.iter().take(dice.usize(..3)).cloned().collect()
}
