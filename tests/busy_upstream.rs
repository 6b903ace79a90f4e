//! A server that is busy with a script, or paused: calls wait for their answer as they do directly, refusals come as they are, what
//! ends the script gets through, and nobody stands behind what is long in coming.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{PATIENCE, Reply, ServerKind, Stage, Wire, eventually};
use std::time::{Duration, Instant};

/// Looks soon whether the server is there, and believes in it for longer than a test takes. All clients share their links.
const WATCHFUL: &str = "workers = 1\n[links]\nshared = 1\nreply_timeout = '200ms'\nconnect_timeout = '30s'\n";

const ENDLESS: [&str; 3] = ["EVAL", "while true do end", "0"];

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

/// A server that says `-BUSY` soon, in the midst of a script that does not end, sent through Lockgate by the client returned.
fn endlessly_busy() -> (Stage, Wire) {
    let stage = Stage::with(WATCHFUL);
    assert_eq!(stage.bypass().run("CONFIG SET busy-reply-threshold 100"), ok());
    assert_eq!(stage.client().run("SET k v"), ok());
    assert_eq!(stage.client().run("EVAL return(1) 0"), Reply::Int(1));
    let mut ann = stage.client();
    ann.ask(&ENDLESS);
    let mut look = stage.bypass();
    eventually("the server is busy", || look.run("PING").is_error("BUSY").then_some(()));
    (stage, ann)
}

#[test]
fn while_the_server_says_nothing_at_all_calls_wait_for_their_answer() {
    let stage = Stage::with(WATCHFUL);
    let mut holder = stage.client();
    holder.acquires("orders:1", "ann");
    holder.acquires("orders:2", "ann");
    let lines = [
        ("SET lock:n v NX PX 60000", ok()),
        ("LOCK.RELEASE orders:1 ann", Reply::Int(1)),
        ("LOCK.EXTEND orders:2 ann 60000", Reply::Int(1)),
        ("LOCK.POSITION orders:2 ann", Reply::Int(0)),
        ("EVAL return(1) 0", Reply::Int(1)),
        ("GET none", Reply::Nil),
        ("SELECT 3", ok()),
    ];
    let mut sleeper = stage.bypass();
    sleeper.ask_line("DEBUG SLEEP 2");
    eventually("it sleeps", || {
        let mut look = stage.bypass();
        look.ask_line("PING");
        look.try_frame(Duration::from_millis(50)).is_err().then_some(())
    });
    let begun = Instant::now();
    let mut asked: Vec<Wire> = lines
        .iter()
        .map(|(line, _)| {
            let mut wire = stage.client();
            wire.ask_line(line);
            wire
        })
        .collect();
    for (wire, (line, reply)) in asked.iter_mut().zip(lines) {
        assert_eq!(wire.reply(), reply, "{line}");
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "it did sleep");
    assert_eq!(stage.bypass().run("GET lock:n"), Reply::bulk("v"));
}

#[test]
fn behind_an_endless_script_others_are_told_busy_at_once() {
    let (stage, _ann) = endlessly_busy();
    let mut bob = stage.client();
    for line in
        ["GET k", "SET k v", "INFO server", "SET lock:1 v NX", "LOCK.ACQUIRE orders:1 bob", "LOCK.INFO orders:1"]
    {
        let begun = Instant::now();
        let reply = bob.run(line);
        assert!(reply.is_error("BUSY"), "{line}: {reply:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{line}: {:?}", begun.elapsed());
    }
    // Another script takes another link than the one that is stuck, once that is known.
    let mut behind = Vec::new();
    eventually("another script is refused", || {
        let mut bob = stage.client();
        bob.ask_line("EVAL return(1) 0");
        match bob.try_frame(Duration::from_millis(300)) {
            Ok(frame) => Reply::parse(&frame).is_error("BUSY").then_some(()),
            Err(_) => {
                behind.push(bob);
                None
            }
        }
    });
    // Newcomers, too.
    for line in ["GET k", "SELECT 3"] {
        let reply = stage.client3().run(line);
        assert!(reply.is_error("BUSY"), "{line}: {reply:?}");
    }
}

#[test]
fn script_kill_gets_through_and_all_is_well() {
    let (stage, mut ann) = endlessly_busy();
    let mut bob = stage.client3();
    let begun = Instant::now();
    assert_eq!(bob.run("SCRIPT KILL"), ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let killed = ann.reply();
    assert!(matches!(&killed, Reply::Error(line) if line.contains("killed")), "{killed:?}");
    assert!(bob.run("SCRIPT KILL").is_error("NOTBUSY"));
    bob.acquires("orders:1", "bob");
    assert_eq!(bob.run("GET k"), Reply::bulk("v"));
    assert_eq!(ann.run("EVAL return(1) 0"), Reply::Int(1));
}

#[test]
fn function_kill_gets_through_from_any_database() {
    let stage = Stage::with(WATCHFUL);
    let library = "#!lua name=lib\nredis.register_function('forever', function() while true do end end)";
    assert!(!matches!(stage.bypass().call(&["FUNCTION", "LOAD", library]).first(), Some(b'-')));
    assert_eq!(stage.bypass().run("CONFIG SET busy-reply-threshold 100"), ok());
    let (mut ann, mut bob) = (stage.client(), stage.client());
    assert_eq!(bob.run("SELECT 5"), ok());
    ann.ask_line("FCALL forever 0");
    eventually("the function is ended", || (bob.run("FUNCTION KILL") == ok()).then_some(()));
    assert!(matches!(ann.reply(), Reply::Error(_)));
}

#[test]
fn shutdown_gets_through() {
    let (stage, mut ann) = endlessly_busy();
    let mut bob = stage.client();
    bob.ask_line("SHUTDOWN NOSAVE");
    assert!(bob.until_closed(PATIENCE).is_ok_and(|rest| rest.is_empty()));
    let _ = ann.until_closed(PATIENCE).expect("its link is gone");
    assert!(Wire::try_connect(stage.server.addr()).is_none());
}

#[test]
fn scripts_and_plain_commands_of_one_pipeline_run_in_order() {
    let stage = Stage::new();
    let mut ann = stage.client();
    let script = "return redis.call('INCR', KEYS[1])";
    let mut pipeline = Vec::new();
    let mut next = 0;
    for run in [1, 3, 1, 1, 40, 2, 500] {
        for _ in 0..run {
            pipeline.extend(common::command(&["INCR", "n"]));
            next += 1;
        }
        pipeline.extend(common::command(&["EVAL", script, "1", "n"]));
        pipeline.extend(b"EVAL \"return redis.call('INCR', KEYS[1])\" 1 n\r\n");
        next += 2;
    }
    ann.send(&pipeline);
    for number in 1..=next {
        assert_eq!(ann.reply(), Reply::Int(number));
    }
}

#[test]
fn while_writes_are_paused_reads_go_on_and_locks_wait_for_the_end() {
    let stage = Stage::with(WATCHFUL);
    let mut reader = stage.client();
    assert_eq!(reader.run("SET k v"), ok());
    let (mut ann, mut bob) = (stage.client(), stage.client());
    ann.acquires("orders:1", "ann");
    bob.waits_for("orders:1", "bob");
    stage.await_waiters("orders:1", 1);
    // Around Lockgate, which is not told.
    let mut ruler = stage.bypass();
    assert_eq!(ruler.run("CLIENT PAUSE 600000 WRITE"), ok());
    let begun = Instant::now();
    let mut asked =
        ["LOCK.ACQUIRE orders:2 cat", "LOCK.RELEASE orders:1 ann", "SET lock:1 v NX PX 60000"].map(|line| {
            let mut wire = stage.client();
            wire.ask_line(line);
            wire
        });
    // Longer than it takes to look several times whether the links are dead.
    while begun.elapsed() < Duration::from_secs(2) {
        let read = Instant::now();
        assert_eq!(reader.run("GET k"), Reply::bulk("v"));
        // The pause itself is longer than any test.
        assert!(read.elapsed() < Duration::from_secs(15), "a read waited {:?}", read.elapsed());
    }
    asked.iter_mut().for_each(Wire::still_waits);
    assert_eq!(ruler.run("CLIENT UNPAUSE"), ok());
    assert!(asked[0].is_granted() > 0);
    assert_eq!(asked[1].reply(), Reply::Int(1));
    assert_eq!(asked[2].reply(), ok());
    bob.is_granted();
}

#[test]
fn behind_a_plain_write_that_is_held_back_reads_take_another_link() {
    let stage = Stage::with(WATCHFUL);
    assert_eq!(stage.client().run("SET k v"), ok());
    let mut ruler = stage.bypass();
    assert_eq!(ruler.run("CLIENT PAUSE 600000 WRITE"), ok());
    let mut writer = stage.client();
    writer.ask_line("SET k w");
    let mut stuck = Vec::new();
    let mut reader = eventually("a newcomer is served", || {
        let mut reader = stage.client();
        reader.ask_line("GET k");
        match reader.try_frame(Duration::from_millis(300)) {
            Ok(_) => Some(reader),
            // What was sent just behind the write stays there.
            Err(_) => {
                stuck.push(reader);
                None
            }
        }
    });
    for _ in 0..100 {
        assert_eq!(reader.run("GET k"), Reply::bulk("v"));
    }
    writer.still_waits();
    assert_eq!(ruler.run("CLIENT UNPAUSE"), ok());
    assert_eq!(writer.reply(), ok());
    for reader in &mut stuck {
        assert_eq!(reader.reply(), Reply::bulk("w"));
    }
}

#[test]
fn what_a_pause_through_lockgate_holds_back_never_shares_a_link_with_reads() {
    let stage = Stage::with("workers = 1\nlinks.shared = 1\n");
    let mut ruler = stage.client();
    assert_eq!(ruler.run("PFADD h a"), Reply::Int(1));
    assert_eq!(ruler.run("CLIENT PAUSE 600000 WRITE"), ok());
    // PFCOUNT reads, and may have to tell replicas; COMMAND does not say so.
    for line in ["SET k v", "PFCOUNT h", "PUBLISH ch m", "EVAL return 0", "LOCK.ACQUIRE l ann", "SET lock:1 v NX"] {
        let mut writer = stage.client();
        writer.ask_line(line);
        assert!(matches!(ruler.run("GET h"), Reply::Bulk(_)), "behind {line}");
        writer.still_waits();
    }
    assert_eq!(ruler.run("CLIENT UNPAUSE"), ok());
}

#[test]
fn a_pause_that_is_ended_around_lockgate_is_over() {
    for kind in ServerKind::ALL {
        let stage = Stage::on(kind);
        let mut admin = stage.bypass();
        assert_eq!(stage.client().run("CLIENT PAUSE 600000 WRITE"), ok());
        let mut asker = stage.client();
        asker.ask_line("SET lock:n v NX PX 60000");
        eventually("something is held back", || {
            admin.run("CLIENT LIST").text().lines().any(|line| line.contains(" flags=b")).then_some(())
        });
        assert_eq!(admin.run("CLIENT UNPAUSE"), ok());
        assert_eq!(asker.reply(), ok(), "{}", kind.name());
    }
}
