//! Those who only watch: one looks at the keys on the server itself, one asks for the places of waiters, and a clock for each node
//! takes a lock of its own again and again.

use super::check::TICK;
use super::client::Client;
use super::people::World;
use super::record::{Bond, Held, Op, Outcome, Record, Recorder};
use super::servers::Side;
use crate::common::Reply;
use fastrand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(8);
const TICK_EVERY: Duration = Duration::from_millis(12);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Looks at all keys until `is_over`.
pub fn looks(recorder: &Recorder, keys: &[String], mut side: Side, is_over: &AtomicBool) {
    let mut seen: HashMap<&str, Held> = HashMap::new();
    let mut last_from = recorder.now_us();
    let mget: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    while !is_over.load(Ordering::SeqCst) {
        let (reply, from) = loop {
            let from = recorder.now_us();
            if let Some(reply) = side.call(&mget) {
                break (reply, from);
            }
        };
        let until = recorder.now_us();
        for (key, value) in keys.iter().zip(reply.items()) {
            let value = match value {
                Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            };
            let gap_us = until - last_from;
            match seen.get_mut(key.as_str()) {
                Some(held) if held.value == value => {
                    held.last_us = (from, until);
                    held.gap_us = held.gap_us.max(gap_us);
                }
                _ => {
                    let held =
                        Held { key: key.clone(), value, first_us: (from, until), last_us: (from, until), gap_us };
                    if let Some(before) = seen.insert(key, held) {
                        recorder.note(Record::Held(before));
                    }
                }
            }
        }
        last_from = from;
        std::thread::sleep(LOOK_EVERY);
    }
    for held in seen.into_values() {
        recorder.note(Record::Held(held));
    }
}

/// Takes and lets go of a lock that nobody else wants, each time under another name.
pub fn ticks(mut client: Client, node: usize, is_over: &AtomicBool) {
    let key = format!("{TICK}{node}");
    let mut number = 0;
    while !is_over.load(Ordering::SeqCst) {
        number += 1;
        let owner = format!("tick{node}.{number}");
        // Where a release goes astray the next tick is granted soon all the same.
        let asks = Op::Acquire { ttl_ms: 100, wait_ms: 0, level: 1, bond: Bond::None };
        if let Outcome::Int(fence) = client.call(&key, &owner, asks) {
            client.call(&key, &owner, Op::Release { fence: Some(fence) });
        }
        std::thread::sleep(TICK_EVERY);
    }
}

/// Asks where people stand who wait.
pub fn asks_places(world: &Arc<World>, mut client: Client, mut rng: Rng, is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        let waiting = {
            let board = world.board.lock().unwrap();
            if board.is_empty() { None } else { Some(board[rng.usize(..board.len())].clone()) }
        };
        if let Some((key, owner)) = waiting {
            client.call(&key, &owner, Op::Position);
        }
        std::thread::sleep(ASK_EVERY);
    }
}
