//! A claim is nobody's hold yet: what each command does where a claim for its very owner stands.

use std::sync::Arc;

use super::server::{Link, Server, now};
use crate::domain::{CallId, Fence, Level, LockKey, OwnerId, WallClock};
use crate::locks::{Form, Standing, Task};
use crate::store::reply::Reply;
use crate::store::{Acquired, AllAcquired, AllAsked, Ask, HandedOver, Outcome, Store, Times, Transfer, companion};

const KEY: &[u8] = b"k";
const CLAIM_MS: u64 = 200_000;
const LEASE_MS: u64 = 600_000;
const FENCE: u64 = 7;
const CALL: CallId = CallId(5);
const TIMES: Times = Times { sent_us: 1_763_740_000_000_000, knows_us: 1_763_740_000_000_000, left_over: None };

/// Claims for `ann`: of the node that asks, and of another.
const CLAIMS: [&[u8]; 2] = [b"ann\x1f7\x1f1\x1f1\x1fn:5?\x1fmeta", b"ann\x1f7\x1f1\x1f1\x1fother:9?\x1f"];

struct Stage {
    link: Link,
    store: Store,
    key: LockKey,
    claim: &'static [u8],
}

impl Stage {
    fn new(link: &Link, claim: &'static [u8]) -> Self {
        let stage = Stage {
            link: link.clone(),
            store: Store::new("n".into(), WallClock::default(), LEASE_MS),
            key: LockKey::new(0, KEY),
            claim,
        };
        stage.begins_anew();
        stage
    }

    fn begins_anew(&self) {
        self.link.run(&[b"FLUSHALL"]);
        self.link.run(&[b"SET", KEY, self.claim, b"PX", CLAIM_MS.to_string().as_bytes()]);
    }

    /// The claim stands as it did, for no longer than it did, and no fence was spent on it.
    fn is_untouched(&self, by: &str) {
        let value = self.link.run(&[b"GET", KEY]);
        assert_eq!(value, Reply::Text(self.claim.to_vec()), "{by} touches a claim");
        let Reply::Integer(left) = self.link.run(&[b"PTTL", KEY]) else { panic!("PTTL is a number") };
        assert!(left > 0 && left <= CLAIM_MS as i64, "{by} gives a claim {left} ms");
        assert_eq!(self.link.run(&[b"GET", companion::FENCE_COUNTER]), Reply::Nil, "{by} spends a fence on a claim");
    }

    /// Whom the lock is for next only the node knows that the claim was for: it is told by a claim of no call's.
    fn after_its_end(&self) -> Reply {
        if self.claim == CLAIMS[0] { Reply::Nil } else { Reply::Text(b"\x1f0\x1f1\x1f1\x1fother:0?\x1f".to_vec()) }
    }

    fn ask(&self, owner: &str, call: CallId) -> Ask {
        let form = Form::Lock {
            owner: OwnerId::new(owner.as_bytes()).expect("a plain name"),
            lease_ms: LEASE_MS,
            meta: Arc::from(&b""[..]),
        };
        let standing =
            Standing { first_call: call, arrival_us: None, promote_after_us: 0, waits: false, claim_ms: CLAIM_MS };
        Ask { call, form, level: Level::Normal, standing }
    }
}

#[test]
fn a_claim_is_nobodys_hold_yet_whatever_its_owner_asks() {
    let server = Server::start();
    let link = server.link();
    for claim in CLAIMS {
        let stage = Stage::new(&link, claim);
        let Stage { link, store, key, .. } = &stage;
        for is_rule_key in [false, true] {
            for fence in [None, Some(Fence(FENCE)), Some(Fence(FENCE + 1))] {
                let extended = now(store.extend(link, key, b"ann", fence, LEASE_MS, is_rule_key));
                assert_eq!(extended.expect("it is a lock"), Outcome::HeldByAnother);
                stage.is_untouched("EXTEND");
                let transfer =
                    Transfer { from: b"ann", fence, to: b"bob", lease_ms: Some(LEASE_MS), call: CALL, now_ms: 1 };
                let moved = now(store.transfer(link, key, &transfer, is_rule_key)).expect("it is a lock");
                assert!(moved.is_none(), "a claim was given away: {moved:?}");
                stage.is_untouched("TRANSFER");
                let released =
                    now(store.release(link, key, Some(b"bob"), fence, &[], TIMES, is_rule_key)).expect("it is a lock");
                assert_eq!(released.outcome, Outcome::HeldByAnother);
                stage.is_untouched("another's RELEASE");
            }
            let asked = AllAsked { owner: b"ann", call: CALL, level: Level::High, lease_ms: LEASE_MS, now_ms: 1 };
            let all = now(store.acquire_all(link, std::slice::from_ref(key), &asked, |_| is_rule_key));
            let all = all.expect("it is a lock");
            assert!(matches!(all, AllAcquired::InTheWay { place: 0, .. }), "a claim counts as a hold: {all:?}");
            stage.is_untouched("ACQUIREALL");
        }
        // What a grant of the past is known by is not this claim.
        for past in [&b"ann\x1f7\x1f1\x1f1\x1fn:5\x1fmeta"[..], b"ann\x1f6\x1f1\x1f1\x1fn:4\x1f"] {
            assert!(!now(store.renew(link, key, past, LEASE_MS)).expect("it is a lock"));
            stage.is_untouched("a renewal");
            let task = Task::TakeBack(past.into());
            let looked = now(store.hand_over(link, key, &task, &[], TIMES, false)).expect("it is a lock");
            assert!(matches!(looked, HandedOver::Held(..)), "{looked:?}");
            stage.is_untouched("what is given back");
        }
        let released = now(store.release(link, key, Some(b"ann"), Some(Fence(FENCE - 1)), &[], TIMES, false));
        assert_eq!(released.expect("it is a lock").outcome, Outcome::HeldByAnother);
        stage.is_untouched("a RELEASE of the past");
        let refused = now(store.acquire(link, key, &stage.ask("bob", CallId(8)), &[], TIMES, false));
        assert!(matches!(refused, Ok(Acquired::Refused(..))), "{refused:?}");
        stage.is_untouched("another's ACQUIRE");
    }
}

#[test]
fn a_claim_ends_with_its_owners_release_and_becomes_his_hold_when_he_asks() {
    let server = Server::start();
    let link = server.link();
    for claim in CLAIMS {
        let stage = Stage::new(&link, claim);
        let Stage { link, store, key, .. } = &stage;
        for fence in [None, Some(Fence(FENCE))] {
            stage.begins_anew();
            let released = now(store.release(link, key, Some(b"ann"), fence, &[], TIMES, false));
            assert_eq!(released.expect("it is a lock").outcome, Outcome::Released);
            assert_eq!(link.run(&[b"GET", KEY]), stage.after_its_end());
        }
        stage.begins_anew();
        let granted = now(store.acquire(link, key, &stage.ask("ann", CallId(8)), &[], TIMES, false));
        let Ok(Acquired::Repeated(grant, before)) = granted else { panic!("{granted:?}") };
        assert_eq!((grant.fence, &*before), (Fence(FENCE), claim), "the fence of the claim is told to its owner");
        let Reply::Text(value) = link.run(&[b"GET", KEY]) else { panic!("it is held") };
        assert_eq!(value, *grant.value);
        assert!(!value.contains(&b'?') && !value.contains(&b'+'), "it is a hold, and repeats none: {value:?}");
    }
}
