//! A fault of Lockgate itself, put in by a test: what it costs, and that it costs no more.

use std::rc::Rc;
use std::time::Duration;

use super::client::{Said, Wire};
use super::{Process, World, in_world};
use crate::coordinator::failpoint as step;
use crate::locks::Event;
use crate::observe::fault::failpoint;
use crate::proxy::session::FAULT_FOR_A_TEST;

fn begins(world: &Rc<World>) {
    world.begins(0, "n0".into(), 0);
}

fn connects(world: &World) -> Wire {
    world.processes.borrow()[0].as_ref().and_then(Process::connect).expect("it listens")
}

async fn left_over(world: &World) -> Vec<String> {
    tokio::time::sleep(Duration::from_secs(20)).await;
    let worker = world.processes.borrow()[0].as_ref().and_then(Process::worker).expect("it lives");
    worker.coordinator().left_over()
}

fn is_fault(said: &Option<Said>) -> bool {
    matches!(said, Some(Said::Error(line)) if line.starts_with("ERR a fault of Lockgate"))
}

#[test]
fn a_fault_in_one_queue_is_an_error_for_its_calls_and_the_key_goes_on() {
    in_world(1, false, |world| async move {
        begins(&world);
        let (mut ann, mut bob, mut cat) = (connects(&world), connects(&world), connects(&world));
        let mut other = connects(&world);
        assert!(matches!(ann.ask(&["LOCK.ACQUIRE", "k", "ann", "KEEPALIVE"]).await, Some(Said::Number(_))));
        assert!(matches!(other.ask(&["LOCK.ACQUIRE", "other", "ann", "KEEPALIVE"]).await, Some(Said::Number(_))));
        assert!(bob.send(&["LOCK.ACQUIRE", "k", "bob", "WAIT", "60000"]));
        let mut waits_elsewhere = connects(&world);
        assert!(waits_elsewhere.send(&["LOCK.ACQUIRE", "other", "bob", "WAIT", "60000"]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        step::arm(|event| matches!(event, Event::Cancels(_)));
        cat.ask(&["LOCK.CANCEL", "k", "bob"]).await;
        assert!(is_fault(&bob.hear().await), "bob's wait ends");
        // The lock is ann's as before, and the next in line is served.
        assert!(cat.send(&["LOCK.ACQUIRE", "k", "cat", "WAIT", "60000"]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ann.ask(&["LOCK.RELEASE", "k", "ann"]).await, Some(Said::Number(1)));
        assert!(matches!(cat.hear().await, Some(Said::Number(_))));
        assert_eq!(other.ask(&["LOCK.RELEASE", "other", "ann"]).await, Some(Said::Number(1)));
        assert!(matches!(waits_elsewhere.hear().await, Some(Said::Number(_))), "no other key noticed");
        assert_eq!(left_over(&world).await, Vec::<String>::new());
    });
}

#[test]
fn a_grant_that_a_fault_swallowed_goes_to_the_next_at_once() {
    in_world(2, false, |world| async move {
        begins(&world);
        let (mut ann, mut bob) = (connects(&world), connects(&world));
        step::arm(|event| matches!(event, Event::Tried { .. }));
        assert!(is_fault(&ann.ask(&["LOCK.ACQUIRE", "k", "ann", "TTL", "3600000"]).await));
        assert!(matches!(bob.ask(&["LOCK.ACQUIRE", "k", "bob", "WAIT", "5000"]).await, Some(Said::Number(_))));
        assert_eq!(ann.ask(&["LOCK.RELEASE", "k", "ann"]).await, Some(Said::Number(0)), "it is not ann's");
        assert_eq!(left_over(&world).await, Vec::<String>::new());
    });
}

#[test]
fn a_fault_in_a_session_ends_that_connection_as_if_its_client_had_left() {
    in_world(3, false, |world| async move {
        begins(&world);
        let (mut ann, mut bob) = (connects(&world), connects(&world));
        assert!(matches!(
            ann.ask(&["LOCK.ACQUIRE", "k", "ann", "TTL", "3600000", "EPHEMERAL"]).await,
            Some(Said::Number(_))
        ));
        assert!(bob.send(&["LOCK.ACQUIRE", "k", "bob", "WAIT", "60000"]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ann.ask(&[FAULT_FOR_A_TEST]).await, None, "the connection ends");
        assert!(matches!(bob.hear().await, Some(Said::Number(_))), "and its lock goes to the next");
        let worker = world.processes.borrow()[0].as_ref().and_then(Process::worker).expect("it lives");
        assert_eq!(worker.registry().count(), 1);
        drop(worker);
        assert_eq!(left_over(&world).await, Vec::<String>::new());
    });
}

#[test]
fn a_fault_in_a_shared_link_ends_the_connections_that_it_owes_replies_and_no_other() {
    in_world(4, false, |world| async move {
        begins(&world);
        let (mut ann, mut bob, mut cat) = (connects(&world), connects(&world), connects(&world));
        for wire in [&mut ann, &mut bob, &mut cat] {
            assert!(wire.ask(&["GET", "k"]).await.is_some(), "it is served");
        }
        world.net.stops(true);
        assert!(ann.send(&["GET", "k"]) && bob.send(&["GET", "k"]));
        tokio::time::sleep(Duration::from_millis(20)).await;
        failpoint::arm("a shared link");
        world.net.stops(false);
        let both = async { (ann.hear().await, bob.hear().await) };
        let both = tokio::time::timeout(Duration::from_secs(1), both).await;
        assert_eq!(both.expect("neither waits for ever"), (None, None), "both connections end");
        assert!(failpoint::has_happened());
        assert!(cat.ask(&["GET", "k"]).await.is_some(), "the one that was owed nothing goes on, over another link");
    });
}

/// What the process does all the time, and at what point a test ends it.
const ALL_THE_TIME: [&str; 6] = [
    "closing idle links",
    "looking for stuck links",
    "the watch over the upstream",
    "housekeeping among the nodes",
    "the timer of a queue",
    "the renewal of a lock",
];

#[test]
fn what_goes_on_all_the_time_begins_anew_after_a_fault() {
    for (seed, place) in (5..).zip(ALL_THE_TIME) {
        in_world(seed, false, |world| async move {
            begins(&world);
            let (mut ann, mut bob, mut cat) = (connects(&world), connects(&world), connects(&world));
            failpoint::arm(place);
            assert!(matches!(
                ann.ask(&["LOCK.ACQUIRE", "k", "ann", "TTL", "6000", "EPHEMERAL"]).await,
                Some(Said::Number(_))
            ));
            let begun = tokio::time::Instant::now();
            let refused = bob.ask(&["LOCK.ACQUIRE", "k", "bob", "WAIT", "4000"]).await;
            assert_eq!(refused, Some(Said::Nil), "{place}: the lock is renewed");
            assert!(begun.elapsed() < Duration::from_secs(5), "{place}: bob waited {:?}", begun.elapsed());
            assert!(cat.send(&["LOCK.ACQUIRE", "k", "cat", "WAIT", "60000"]));
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert!(failpoint::has_happened(), "{place}");
            assert_eq!(ann.ask(&["LOCK.POSITION", "k", "ann"]).await, Some(Said::Number(0)), "{place}: and again");
            drop(ann);
            assert!(matches!(cat.hear().await, Some(Said::Number(_))), "{place}: it is released with its connection");
            assert_eq!(cat.ask(&["LOCK.RELEASE", "k", "cat"]).await, Some(Said::Number(1)));
            assert_eq!(left_over(&world).await, Vec::<String>::new(), "{place}");
        });
    }
}

#[test]
fn an_upstream_that_comes_back_is_found_although_the_search_for_it_had_a_fault() {
    in_world(12, false, |world| async move {
        begins(&world);
        let mut ann = connects(&world);
        assert!(ann.ask(&["GET", "k"]).await.is_some());
        failpoint::arm("reaching for the upstream");
        world.net.closes(true);
        world.net.cuts(None, 100);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(failpoint::has_happened());
        world.net.closes(false);
        let mut bob = connects(&world);
        let reply = tokio::time::timeout(Duration::from_secs(4), bob.ask(&["GET", "k"])).await;
        assert!(matches!(reply, Ok(Some(Said::Nil))), "{reply:?}");
    });
}
