//! The queue of an open transaction.

use super::*;

fn select(db: Db) -> Entry {
    Entry::Change(Change::Session(SessionChange::Db(db)))
}

#[test]
fn neighbours_that_leave_nothing_are_one_number_and_come_out_one_by_one() {
    let mut queue = Queue::default();
    queue.push(Entry::Plain);
    queue.push_plain(1_000_000);
    queue.push(select(3));
    queue.push_plain(2);
    assert_eq!((queue.len(), queue.noted(), queue.runs.len()), (1_000_004, 1, 3));
    for _ in 0..1_000_001 {
        assert!(matches!(queue.front(), Entry::Plain));
        assert!(matches!(queue.pop(), Entry::Plain));
    }
    assert!(matches!(queue.pop(), Entry::Change(Change::Session(SessionChange::Db(3)))));
    assert!(matches!((queue.pop(), queue.pop()), (Entry::Plain, Entry::Plain)));
    assert!(queue.runs.is_empty());
    assert!(
        matches!(queue.front(), Entry::Plain) && matches!(queue.pop(), Entry::Plain),
        "what was never queued is nothing"
    );
}

#[test]
fn a_marker_is_no_command_of_the_client_and_is_seen_from_the_one_before() {
    let mut queue = Queue::default();
    queue.push(select(3));
    queue.push(Entry::Marker);
    queue.push(select(4));
    assert_eq!((queue.len(), queue.markers()), (2, 1));
    assert!(queue.is_front_marked());
    queue.pop();
    queue.pop();
    assert!(!queue.is_front_marked());
    assert!(queue.front_channels().is_none());
}

#[test]
fn only_what_authenticates_may_have_no_element() {
    let credentials = Credentials { user: None, password: b"secret".to_vec() };
    let auth = Entry::Change(Change::Session(SessionChange::Identity(credentials)));
    let hello = Entry::Hello { change: Change::Flag, in_doubt: Vec::new() };
    assert!(auth.may_be_mute() && hello.may_be_mute());
    assert!(!select(1).may_be_mute() && !Entry::Plain.may_be_mute());
    let shown = format!("{auth:?}");
    assert!(!shown.contains("secret"), "{shown}");
}
