//! Lock commands in pipelines: they do not stop what is behind them, and everything has the effect and the answer that it has where each
//! command waits for the answer to the one before.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Stage, command};

const RULES: &str = "[[lock_keys]]\nmatch = \"lock:*\"\n[nodes]\nid = \"n\"\n";

/// A pipeline, as its words.
fn draw(dice: &mut fastrand::Rng) -> Vec<Vec<String>> {
    (0..dice.usize(2..40)).map(|_| draw_one(dice).split(' ').map(str::to_owned).collect()).collect()
}

fn draw_one(dice: &mut fastrand::Rng) -> String {
    let key = ["lock:a", "lock:b", "lock:c", "d"][dice.usize(..4)];
    let owner = ["ann", "bob"][dice.usize(..2)];
    match dice.u8(..22) {
        0..=4 => format!("LOCK.ACQUIRE {key} {owner} TTL 60000"),
        5 => format!("LOCK.ACQUIRE {key} {owner} TTL 60000 META note EPHEMERAL"),
        6 => format!("LOCK.ACQUIRE {key} {owner} WAIT 1"),
        7..=9 => format!("LOCK.RELEASE {key} {owner}"),
        10 => format!("LOCK.EXTEND {key} {owner} 50000"),
        11 => format!("LOCK.GUARD {key} 1 SET data:{key} x"),
        12..=13 => format!("SET {key} {owner} NX PX 60000"),
        14 => format!("SETNX {key} {owner}"),
        15 => format!("SET {key} plain"),
        16..=17 => format!("GET {key}"),
        18 => format!("DEL {key}"),
        19 => format!("SELECT {}", dice.u8(..2)),
        20 => format!("LOCK.INFO {key}"),
        _ => ["MULTI", "EXEC", "EXEC", "DISCARD", "LOCK.ACQUIRE lock:a", "EVAL return{1,2} 0"][dice.usize(..6)].into(),
    }
}

/// What differs from one run to the next is left out: fences, times, and the numbers of calls.
fn same(frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame);
    let is_number = |word: &str| word.len() >= 9 && word.bytes().all(|byte| byte.is_ascii_digit());
    let field = |word: &str| {
        let (node_and_call, mark) = match word.strip_suffix('+') {
            Some(word) => (word, "+"),
            None => (word, ""),
        };
        match node_and_call.split_once(':') {
            Some((_, call)) if call.len() >= 8 && call.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                format!("node:call{mark}")
            }
            _ if is_number(word.trim_start_matches(':')) => "number".into(),
            _ => word.to_owned(),
        }
    };
    let lines = text.split("\r\n").map(|line| line.split('\x1f').map(field).collect::<Vec<_>>().join("|"));
    // What is left of a lease, and lengths, differ as well.
    lines.filter(|line| !line.starts_with('$') && line.parse::<u64>().is_err()).map(ttl).collect::<Vec<_>>().join("\n")
}

fn ttl(line: String) -> String {
    match line.strip_prefix(':').and_then(|number| number.parse::<u64>().ok()) {
        Some(number) if number > 1000 => ":some".into(),
        _ => line,
    }
}

fn answers(pipeline: &[Vec<String>], at_once: bool, stage: &Stage) -> Vec<String> {
    let mut client = stage.client();
    if at_once {
        client.send(&pipeline.iter().flat_map(|words| command(words)).collect::<Vec<u8>>());
        return pipeline.iter().map(|_| same(&client.frame())).collect();
    }
    pipeline.iter().map(|words| same(&client.call(words))).collect()
}

fn left(stage: &Stage) -> Vec<String> {
    let mut direct = stage.bypass();
    let mut left = Vec::new();
    for db in 0..2 {
        direct.run(&format!("SELECT {db}"));
        for key in ["lock:a", "lock:b", "lock:c", "d", "data:lock:a", "data:d"] {
            left.push(format!("{db} {key} {}", same(&direct.call(&["GET", key]))));
        }
    }
    direct.run("FLUSHALL");
    left
}

#[test]
fn a_pipeline_of_locks_and_data_is_as_its_commands_one_by_one() {
    let (one, other) = (Stage::with(RULES), Stage::with(RULES));
    let first = std::env::var("LOCKGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..150, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let pipeline = draw(&mut fastrand::Rng::with_seed(seed));
        let (slow, fast) = (answers(&pipeline, false, &one), answers(&pipeline, true, &other));
        for (at, words) in pipeline.iter().enumerate() {
            assert_eq!(fast[at], slow[at], "seed {seed}, number {at}, {words:?} of {pipeline:?}");
        }
        // Ephemeral locks end with their connections.
        common::eventually("both are left alike", || (left_of(&one) == left_of(&other)).then_some(()));
        assert_eq!(left(&one), left(&other), "seed {seed}: {pipeline:?}");
    }
}

fn left_of(stage: &Stage) -> String {
    let mut direct = stage.bypass();
    let both: Vec<String> = (0..2)
        .map(|db| {
            direct.run(&format!("SELECT {db}"));
            same(&direct.call(&["DBSIZE"]))
        })
        .collect();
    both.join(" ")
}

/// The first command is held upstream; a client's commands behind its locks have gone out all the same.
#[test]
fn locks_do_not_stop_the_pipeline() {
    let stage = Stage::with(RULES);
    let mut client = stage.client();
    // The first dials the link, over the second its master is asked: these two are waited for.
    for number in 0..3 {
        client.acquires(&format!("warm:{number}"), "up");
    }
    let mut direct = stage.bypass();
    direct.run("CLIENT PAUSE 60000 WRITE");
    let mut pipeline = Vec::new();
    for number in 0..5 {
        pipeline.extend(command(&["LOCK.ACQUIRE", &format!("k{number}"), "ann"]));
        pipeline.extend(command(&["SET", &format!("lock:{number}"), "x", "NX", "PX", "60000"]));
        pipeline.extend(command(&["INCR", "count"]));
    }
    client.send(&pipeline);
    // The first script is held back there, and what is behind it lies in its connection.
    common::eventually("all of it is sent", || {
        let list = direct.run("CLIENT LIST").text();
        let buffered: usize = list
            .lines()
            .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("qbuf=")))
            .filter_map(|bytes| bytes.parse::<usize>().ok())
            .sum();
        (buffered > 2000).then_some(())
    });
    direct.run("CLIENT UNPAUSE");
    for number in 0..5 {
        assert!(client.reply().int() > 0);
        assert_eq!(client.frame(), b"+OK\r\n");
        assert_eq!(client.frame(), format!(":{}\r\n", number + 1).as_bytes());
    }
}
