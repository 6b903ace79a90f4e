//! Acquire scripts of lock libraries are the `SET NX` that they stand for.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, eventually};

const REDLOCK_5: &str = "96da70f7716f27d278a5218544df37fd8b0a5e4c";
const REDISLOCK: &str = "eb0c00d98f6f33b4262419a509002884540f30be";
const QUEUED: &str = "[[lock_keys]]\nmatch = 'lock:*'\nwait = '60s'\nyield = false\n";
/// Of the same meaning as npm's redlock, by one who wrote it himself.
const OWN: &str =
    "if redis.call('exists',KEYS[1])==1 then return -5 end redis.call('set',KEYS[1],ARGV[2],'PX',ARGV[1]) return 7";

#[test]
fn a_known_script_queues_and_answers_in_its_own_words() {
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before_with(&server, QUEUED);
        let (mut ann, mut bob, mut cat) = (lockgate.wire(), lockgate.wire(), lockgate.wire());
        assert_eq!(ann.run(&format!("EVALSHA {REDLOCK_5} 1 lock:a ann 60000")), Reply::Int(1), "{kind:?}");
        assert_eq!(server.wire().run("GET lock:a"), Reply::bulk("ann"), "{kind:?}");
        bob.ask_line(&format!("EVALSHA {REDLOCK_5} 1 lock:a bob 60000"));
        let mut look = lockgate.wire();
        let waiters = |look: &mut Wire| look.run("LOCK.QUEUE lock:a").items().len();
        eventually("bob waits", || (waiters(&mut look) == 1).then_some(()));
        cat.ask_line(&format!("EVALSHA {REDISLOCK} 1 lock:a catmore 3 60000"));
        eventually("cat waits", || (waiters(&mut look) == 2).then_some(()));
        assert_eq!(ann.run("DEL lock:a"), Reply::Int(1));
        assert_eq!(bob.reply(), Reply::Int(1), "{kind:?}");
        assert_eq!(bob.run("DEL lock:a"), Reply::Int(1));
        assert_eq!(cat.reply(), Reply::Simple("OK".into()), "{kind:?}");
        // Its holder may take it again.
        let again = cat.run(&format!("EVALSHA {REDISLOCK} 1 lock:a catless 3 50000"));
        assert!(is_no_script(&again), "{kind:?}: the script itself decides: {again:?}");
    }
}

/// The upstream is to run it, and does not know it.
fn is_no_script(reply: &Reply) -> bool {
    reply.is_error("NOSCRIPT")
}

#[test]
fn without_a_wait_it_is_refused_at_once() {
    let stage = Stage::new();
    let mut ann = stage.client();
    assert_eq!(ann.run(&format!("EVALSHA {REDLOCK_5} 1 lock:a ann 60000")), Reply::Int(1));
    let mut bob = stage.client();
    assert_eq!(bob.run(&format!("EVALSHA {REDLOCK_5} 1 lock:a bob 60000")), Reply::Int(0));
    assert_eq!(bob.run(&format!("EVALSHA {REDISLOCK} 1 lock:a bob 3 60000")), Reply::Nil);
    // Other keys, several keys and other scripts are the upstream's.
    for line in
        [format!("EVALSHA {REDLOCK_5} 1 plain bob 60000"), format!("EVALSHA {REDLOCK_5} 2 lock:a lock:b bob 60000")]
    {
        assert!(is_no_script(&bob.run(&line)), "{line}");
    }
    assert_eq!(bob.run("EVAL return(5) 1 lock:a bob 60000"), Reply::Int(5));
    // In a transaction it is the upstream's, too.
    assert_eq!(bob.run("MULTI"), Reply::Simple("OK".into()));
    assert_eq!(bob.run(&format!("EVALSHA {REDLOCK_5} 1 lock:c bob 60000")), Reply::Simple("QUEUED".into()));
    assert!(is_no_script(&bob.run("EXEC").items()[0]));
}

#[test]
fn a_script_of_ones_own_queues_once_it_is_named() {
    let sha1 = sha1_smol::Sha1::from(OWN).digest().to_string();
    let named = format!("[[lock_scripts]]\nsha1 = '{sha1}'\nvalue = 2\nttl = 1\ngranted = 7\nrefused = -5\n");
    for (config, queues) in [(QUEUED.to_owned(), false), (format!("{QUEUED}{named}"), true)] {
        let stage = Stage::with(&config);
        let (mut ann, mut bob) = (stage.client(), stage.client());
        assert_eq!(ann.call(&["EVAL", OWN, "1", "lock:a", "60000", "ann"]), b":7\r\n");
        bob.ask(&["EVAL", OWN, "1", "lock:a", "60000", "bob"]);
        if !queues {
            assert_eq!(bob.reply(), Reply::Int(-5));
            continue;
        }
        let mut look = stage.client();
        eventually("bob waits", || (look.run("LOCK.QUEUE lock:a").items().len() == 1).then_some(()));
        assert_eq!(ann.run("DEL lock:a"), Reply::Int(1));
        assert_eq!(bob.reply(), Reply::Int(7));
    }
}
