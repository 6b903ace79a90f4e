//! What others have put into the keys: rubbish in a queue is nobody, and a string that is only almost of the long form is data.

use super::draw::AROUND;
use super::refused::{Stage, table};
use super::server::{Link, Server, now};
use crate::domain::{CallId, Fence, Level, LockKey, OwnerId, WallClock};
use crate::locks::{Form, Standing, Task};
use crate::store::value::Fields;
use crate::store::{AllAsked, Ask, Store, StoreError, Times, Transfer};

/// A waiter, as a node writes him.
const WAITER: &[u8] = b"000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f3\x1feve";
/// Texts that no node writes. Most are a waiter but for one thing.
const RUBBISH: [&[u8]; 13] = [
    b"",
    b"nobody",
    b"x000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"0000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"00000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f\x1f200\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f0\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f20000000000000\x1fL600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f200\x1fX600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f200\x1f600\x1f1\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f4\x1f4\x1f3\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f\x1feve",
    b"000000000000000000000000000000000000000001\x1f0\x1f200\x1fL600\x1f1\x1f4\x1f3",
];

#[test]
fn what_others_put_into_a_queue_changes_no_answer() {
    let server = Server::start();
    let usual = table(&Stage::usual(&server));
    // Of another node, of the one that asks, and of none at all.
    let fields = RUBBISH.iter().flat_map(|text| [(&b"z"[..], *text), (b"n", *text)]);
    for (node, text) in fields.chain([(&b"z\x1f"[..], WAITER)]) {
        let found = table(&Stage::with_rubbish(&server, node, text));
        assert_eq!(found, usual, "with {} in the field {}", text.escape_ascii(), node.escape_ascii());
    }
    let waiter = table(&Stage::with_rubbish(&server, b"z", WAITER));
    assert_ne!(waiter, usual, "who waits is somebody");
}

const KEY: &[u8] = b"k";
const LEASE_MS: u64 = 600_000;
const TIMES: Times = Times { sent_us: 1_763_740_000_000_000, knows_us: 1_763_740_000_000_000, left_over: None };

/// What each command that tells data from locks says of what stands there: by its name, and `true` where that is data to it.
fn say_data(link: &Link) -> Vec<(&'static str, bool)> {
    let (store, key) = (Store::new("n".into(), WallClock::default(), LEASE_MS), LockKey::new(0, KEY));
    let releases = |by, fence| now(store.release(link, &key, by, fence, &[], TIMES, false));
    let call = CallId(8);
    let asked = AllAsked { owner: b"eve", call, level: Level::High, lease_ms: LEASE_MS, now_ms: 1 };
    let transfer = Transfer { from: b"eve", fence: None, to: b"dan", lease_ms: None, call, now_ms: 1 };
    let asks = |waits| {
        let standing = Standing { first_call: call, arrival_us: None, promote_after_us: 0, waits, claim_ms: 200_000 };
        let owner = OwnerId::new(b"eve").expect("a plain name");
        let form = Form::Lock { owner, lease_ms: LEASE_MS, meta: b"".as_slice().into() };
        now(store.acquire(link, &key, &Ask { call, form, level: Level::Normal, standing }, &[], TIMES, false))
    };
    let all = || now(store.acquire_all(link, std::slice::from_ref(&key), &asked, |_| false));
    vec![
        ("look", is_data(now(store.look(link, &key, false)))),
        ("look to change", is_data(now(store.look_to_change(link, &key, false)))),
        ("extend", is_data(now(store.extend(link, &key, b"eve", None, LEASE_MS, false)))),
        ("transfer", is_data(now(store.transfer(link, &key, &transfer, false)))),
        ("acquire all", is_data(all())),
        (
            "take back",
            is_data(now(store.hand_over(link, &key, &Task::TakeBack(b"x".as_slice().into()), &[], TIMES, false))),
        ),
        ("acquire", is_data(asks(false))),
        ("release", is_data(releases(Some(b"eve"), None))),
        ("release under a fence", is_data(releases(Some(b"eve"), Some(Fence(5))))),
        ("acquire and wait", is_data(asks(true))),
        // What is no data it removes.
        ("force", is_data(releases(None, None))),
    ]
}

fn is_data<T>(said: Result<T, StoreError>) -> bool {
    match said {
        Ok(_) => false,
        Err(StoreError::NotALock(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_almost_of_the_long_form_is_data_to_every_command() {
    let server = Server::start();
    let link = server.link();
    for value in AROUND {
        link.run(&[b"FLUSHALL"]);
        link.run(&[b"SET", KEY, value]);
        let is_data_here = Fields::read(value).is_none();
        for (command, is_data) in say_data(&link) {
            assert_eq!(is_data, is_data_here, "{command} of {}", value.escape_ascii());
        }
    }
}
