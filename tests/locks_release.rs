//! How a lock ends and how it is lengthened.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, Stage, eventually};

#[test]
fn a_release_says_whether_it_released_another_holds_or_nobody_does() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(-1));
    ann.acquires("orders:1", "ann");
    assert_eq!(bob.run("LOCK.RELEASE orders:1 bob"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(1));
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(-1));
    assert_eq!(stage.bypass().run("EXISTS orders:1"), Reply::Int(0));
}

#[test]
fn a_release_with_a_fence_ends_only_the_grant_it_means() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let first = ann.acquires("orders:1", "ann");
    ann.releases("orders:1", "ann");
    let second = ann.acquires("orders:1", "ann");
    // A retried release of the first grant, its reply lost, does not hit the second.
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann FENCE {first}")), Reply::Int(0));
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann fence {second}")), Reply::Int(1));
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann FENCE {second}")), Reply::Int(-1));
}

#[test]
fn any_connection_may_release_in_the_owners_name() {
    let stage = Stage::new();
    stage.client().acquires("orders:1", "ann");
    stage.client().releases("orders:1", "ann");
}

#[test]
fn a_lock_without_keepalive_outlives_its_connection() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.acquires("orders:1", "ann");
    drop(ann);
    let mut bob = stage.client();
    for _ in 0..20 {
        assert_eq!(bob.run("LOCK.ACQUIRE orders:1 bob"), Reply::Nil);
    }
    bob.releases("orders:1", "ann");
}

#[test]
fn after_its_expiry_a_lock_cannot_be_released_or_extended() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 40").int();
    eventually("the lease ends", || (stage.bypass().run("EXISTS orders:1") == Reply::Int(0)).then_some(()));
    assert_eq!(ann.run("LOCK.EXTEND orders:1 ann 60000"), Reply::Int(0));
    assert_eq!(stage.bypass().run("EXISTS orders:1"), Reply::Int(0), "an extension brings nothing back");
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(-1));
    stage.client().acquires("orders:1", "bob");
    assert_eq!(ann.run("LOCK.EXTEND orders:1 ann 60000"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
    assert_eq!(stage.holder("orders:1").as_deref(), Some("bob"));
}

#[test]
fn an_extension_sets_the_lease_for_the_holder_alone() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let fence = ann.run("LOCK.ACQUIRE orders:1 ann TTL 5000").int();
    let value = ann.run("GET orders:1");
    assert_eq!(ann.run("LOCK.EXTEND orders:1 ann 60000"), Reply::Int(1));
    assert!(ann.run("PTTL orders:1").int() > 50_000);
    assert_eq!(ann.run("LOCK.REFRESH orders:1 ann 20000"), Reply::Int(1));
    assert!(ann.run("PTTL orders:1").int() <= 20_000);
    assert_eq!(ann.run("GET orders:1"), value, "an extension changes nothing but the lease");
    assert_eq!(bob.run("LOCK.EXTEND orders:1 bob 60000"), Reply::Int(0));
    assert_eq!(ann.run(&format!("LOCK.EXTEND orders:1 ann 60000 FENCE {}", fence + 1)), Reply::Int(0));
    assert!(ann.run("PTTL orders:1").int() <= 20_000);
    assert_eq!(ann.run(&format!("LOCK.EXTEND orders:1 ann 60000 FENCE {fence}")), Reply::Int(1));
    assert!(ann.run("PTTL orders:1").int() > 50_000);
    assert_eq!(ann.run("LOCK.EXTEND orders:free ann 60000"), Reply::Int(0));
    assert_eq!(ann.run("EXISTS orders:free"), Reply::Int(0));
}

#[test]
fn a_lock_of_set_nx_is_not_released_or_extended_by_a_name_that_looks_alike() {
    let stage = Stage::new();
    let mut ann = stage.client();
    ann.run("SET lock:1 ann NX PX 30000");
    assert_eq!(ann.run("LOCK.RELEASE lock:1 bob"), Reply::Int(0));
    assert_eq!(ann.run("LOCK.RELEASE lock:1 ann FENCE 1"), Reply::Int(0), "it has no fence");
    assert_eq!(ann.run("LOCK.EXTEND lock:1 ann 60000 FENCE 1"), Reply::Int(0));
    assert!(ann.run("PTTL lock:1").int() <= 30_000);
}

#[test]
fn a_release_hands_the_lock_on_in_the_same_step() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let first = ann.acquires("orders:1", "ann");
    let mut bob = stage.client();
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    // The release and a look right behind it, in one pipeline: the key is never free between.
    ann.send(&[common::command(&["LOCK.RELEASE", "orders:1", "ann"]), common::command(&["GET", "orders:1"])].concat());
    assert_eq!(ann.reply(), Reply::Int(1));
    assert!(ann.reply().text().starts_with("bob\x1f"));
    assert!(bob.is_granted() > first);
}

#[test]
fn a_release_ends_what_its_owner_waits_for_and_one_of_the_past_does_not() {
    let stage = Stage::new();
    let (mut ann, mut bob, mut other) = (stage.client(), stage.client(), stage.client());
    let past = bob.acquires("orders:1", "bob");
    bob.releases("orders:1", "bob");
    ann.acquires("orders:1", "ann");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    assert_eq!(other.run(&format!("LOCK.RELEASE orders:1 bob FENCE {past}")), Reply::Int(0));
    bob.still_waits();
    assert_eq!(other.run("LOCK.RELEASE orders:1 bob"), Reply::Int(0));
    assert_eq!(bob.reply(), Reply::Nil);
    stage.await_waiters("orders:1", 0);
    assert_eq!(stage.holder("orders:1").as_deref(), Some("ann"));
}

#[test]
fn a_release_by_the_new_holders_predecessor_hits_nobody() {
    let stage = Stage::new();
    let (mut ann, mut bob) = (stage.client(), stage.client());
    let fence = ann.acquires("orders:1", "ann");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    ann.releases("orders:1", "ann");
    bob.is_granted();
    assert_eq!(ann.run("LOCK.RELEASE orders:1 ann"), Reply::Int(0));
    assert_eq!(ann.run(&format!("LOCK.RELEASE orders:1 ann FENCE {fence}")), Reply::Int(0));
    assert_eq!(stage.holder("orders:1").as_deref(), Some("bob"));
}
