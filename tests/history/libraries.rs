//! Unmodified clients that take part: redis-py and ioredis, each in a process of its own, which writes its calls as JSON lines with
//! the times of the clock that all processes of the machine share.

use super::record::{Call, Record, Recorder};
use crate::common::tools;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What a process says of one call: its times are absolute, its connection a number of its own.
fn taken_down(line: &str, recorder: &Recorder, offset: u64, id: u64) -> Option<Call> {
    let mut call: Call = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    call.from_us = call.from_us.checked_sub(recorder.origin_us())?;
    call.until_us = call.until_us.checked_sub(recorder.origin_us())?;
    call.conn += offset;
    call.id = id;
    Some(call)
}

/// Runs all of them for that long and takes down what they did.
pub fn take_part(recorder: &Arc<Recorder>, seed: u64, doors: &[SocketAddr], keys: &[String], lasts: Duration) {
    let scripts = tools::source_dir().join("tests/clients");
    let mut python = Command::new(tools::target_dir().join("test-venv/bin/python"));
    python.arg(scripts.join("python/history.py"));
    let mut node = Command::new("node");
    node.arg(scripts.join("node/history.mjs"));
    let children = [python, node].into_iter().enumerate().map(|(number, mut command)| {
        command.args([seed.to_string(), lasts.as_millis().to_string()]);
        command.args(doors.iter().map(|door| door.port().to_string())).args(keys);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = command.spawn().expect("scripts/setup-tests.sh has run");
        let recorder = Arc::clone(recorder);
        std::thread::spawn(move || reads(child, &recorder, (number as u64 + 1) * 1_000_000))
    });
    let children: Vec<_> = children.collect();
    for child in children {
        child.join().unwrap();
    }
}

fn reads(mut child: Child, recorder: &Recorder, offset: u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok).filter(|line| line.starts_with('{')) {
        let id = recorder.next_id();
        if let Some(call) = taken_down(&line, recorder, offset, id) {
            recorder.note(Record::Call(call));
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "a client's process ended with {status}");
}
