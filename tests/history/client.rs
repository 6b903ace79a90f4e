//! A client that writes down what it does: one connection at a time, through one node or another.

use super::record::{Bond, Call, Closed, Op, Outcome, Record, Recorder, Stray};
use crate::common::wire::Silence;
use crate::common::{Reply, Wire};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Deletes a key that holds what the caller wrote, as every library does it.
const COMPARE_AND_DELETE: &str =
    "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

/// Any call may take so long, however late it was sent: machines stand still.
const ALWAYS: Duration = Duration::from_secs(30);

pub struct Client {
    recorder: Arc<Recorder>,
    nodes: Vec<SocketAddr>,
    node: usize,
    link: Option<(u64, Wire)>,
    /// Answers that have not come by then will not come.
    gives_up: Instant,
}

impl Client {
    pub fn new(recorder: &Arc<Recorder>, nodes: &[SocketAddr], node: usize, gives_up: Instant) -> Self {
        Self { recorder: Arc::clone(recorder), nodes: nodes.to_vec(), node, link: None, gives_up }
    }

    /// Another connection of the same program, to the same node.
    pub fn beside(&self) -> Self {
        Self { recorder: Arc::clone(&self.recorder), nodes: self.nodes.clone(), link: None, ..*self }
    }

    /// From now on it goes through that node.
    pub fn go_to(&mut self, node: usize) {
        if node != self.node {
            self.close();
            self.node = node;
        }
    }

    /// Ends the connection, if there is one; what came unasked for is written down.
    pub fn close(&mut self) {
        let Some((conn, mut wire)) = self.link.take() else { return };
        let from_us = self.recorder.now_us();
        self.recorder.note(Record::Closed(Closed { conn, from_us }));
        if let Ok(frame) = wire.try_frame(Duration::from_micros(100)) {
            let frame = String::from_utf8_lossy(&frame).into_owned();
            self.recorder.note(Record::Stray(Stray { conn, at_us: from_us, frame }));
        }
    }

    /// Sends a command and waits for its answer.
    pub fn call(&mut self, key: &str, owner: &str, op: Op) -> Outcome {
        self.call_for(key, owner, op, None)
    }

    /// As `call`, but hangs up when no answer has come after `patience`.
    pub fn call_for(&mut self, key: &str, owner: &str, op: Op, patience: Option<Duration>) -> Outcome {
        let talk = self.talks(&words(key, owner, &op), patience);
        let outcome = talk.said.as_ref().map_or_else(Clone::clone, outcome);
        self.note(&talk, key, owner, op, outcome.clone());
        outcome
    }

    /// As `call`, for a command of several keys; returns what it came to for each of them.
    pub fn call_for_all(&mut self, keys: &[String], owner: &str, op: &Op, patience: Option<Duration>) -> Vec<Outcome> {
        let talk = self.talks(&words(&keys.join(" "), owner, op), patience);
        let outcomes: Vec<Outcome> = match &talk.said {
            Ok(Reply::Array(items)) if items.len() == keys.len() => items.iter().map(outcome).collect(),
            said => vec![said.as_ref().map_or_else(Clone::clone, outcome); keys.len()],
        };
        for (key, outcome) in keys.iter().zip(&outcomes) {
            self.note(&talk, key, owner, op.clone(), outcome.clone());
        }
        outcomes
    }

    fn note(&self, talk: &Talk, key: &str, owner: &str, op: Op, outcome: Outcome) {
        self.recorder.note(Record::Call(Call {
            id: talk.id,
            conn: talk.conn,
            node: Some(self.node),
            key: key.into(),
            owner: owner.into(),
            op,
            from_us: talk.from_us,
            until_us: talk.until_us,
            outcome,
        }));
    }

    fn talks(&mut self, words: &[String], patience: Option<Duration>) -> Talk {
        let (conn, mut wire) = match self.link.take() {
            Some(link) => link,
            None => (self.recorder.next_id(), Wire::connect(self.nodes[self.node])),
        };
        let id = self.recorder.next_id();
        let from_us = self.recorder.now_us();
        wire.ask(words);
        let gives_up =
            patience.map_or(self.gives_up.max(Instant::now() + ALWAYS), |patience| Instant::now() + patience);
        let came = wire.try_frame(gives_up.saturating_duration_since(Instant::now()));
        let mut until_us = self.recorder.now_us();
        let said = match came {
            Ok(frame) => {
                self.link = Some((conn, wire));
                Ok(Reply::parse(&frame))
            }
            Err(Silence::Closed(_)) => Err(Outcome::Unknown),
            Err(Silence::TooLong(_)) => {
                // Written down before the connection is closed, which is when `wire` goes.
                self.recorder.note(Record::Closed(Closed { conn, from_us: until_us }));
                drop(wire);
                until_us = self.recorder.now_us();
                Err(if patience.is_some() { Outcome::Unknown } else { Outcome::Missing })
            }
        };
        Talk { id, conn, from_us, until_us, said }
    }
}

/// One command and what came of it.
struct Talk {
    id: u64,
    conn: u64,
    from_us: u64,
    until_us: u64,
    said: Result<Reply, Outcome>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// The command as it is sent.
fn words(key: &str, owner: &str, op: &Op) -> Vec<String> {
    let mut words: Vec<String> = match op {
        Op::Acquire { ttl_ms, wait_ms, level, bond } => {
            let line = format!("LOCK.ACQUIRE {key} {owner} TTL {ttl_ms} WAIT {wait_ms} PRIORITY {level}");
            let bond = match bond {
                Bond::None => "",
                Bond::Keepalive => " KEEPALIVE",
                Bond::Ephemeral => " EPHEMERAL",
            };
            return (line + bond).split(' ').map(str::to_owned).collect();
        }
        Op::Release { .. } => vec!["LOCK.RELEASE".into(), key.into(), owner.into()],
        Op::Extend { ttl_ms, .. } => vec!["LOCK.EXTEND".into(), key.into(), owner.into(), ttl_ms.to_string()],
        Op::Transfer { to, ttl_ms, .. } => {
            ["LOCK.TRANSFER", key, owner, to, "TTL", &ttl_ms.to_string()].map(str::to_owned).to_vec()
        }
        Op::AcquireAll { keys, ttl_ms, wait_ms, level } => {
            let line =
                format!("LOCK.ACQUIREALL {} {key} {owner} TTL {ttl_ms} WAIT {wait_ms} PRIORITY {level}", keys.len());
            return line.split(' ').map(str::to_owned).collect();
        }
        Op::ReleaseAll { keys } => {
            let line = format!("LOCK.RELEASEALL {} {key} {owner}", keys.len());
            return line.split(' ').map(str::to_owned).collect();
        }
        Op::Guard { fence, command } => {
            let mut words = vec!["LOCK.GUARD".into(), key.into(), fence.to_string()];
            words.extend(command.iter().cloned());
            words
        }
        Op::Cancel => vec!["LOCK.CANCEL".into(), key.into(), owner.into()],
        Op::Position => vec!["LOCK.POSITION".into(), key.into(), owner.into()],
        Op::Promote { level } => ["LOCK.PROMOTE", key, owner, &level.to_string()].map(str::to_owned).to_vec(),
        Op::Force => vec!["LOCK.FORCE".into(), key.into()],
        Op::SetNx { ttl_ms, .. } => ["SET", key, owner, "NX", "PX", &ttl_ms.to_string()].map(str::to_owned).to_vec(),
        Op::CompareAndDelete => ["EVAL", COMPARE_AND_DELETE, "1", key, owner].map(str::to_owned).to_vec(),
        Op::Del => vec!["DEL".into(), key.into()],
    };
    if let Op::Release { fence: Some(fence) }
    | Op::Extend { fence: Some(fence), .. }
    | Op::Transfer { fence: Some(fence), .. } = op
    {
        words.extend(["FENCE".into(), fence.to_string()]);
    }
    words
}

/// What a reply says of the call.
pub fn outcome(reply: &Reply) -> Outcome {
    match reply {
        Reply::Int(number) => Outcome::Int(*number),
        Reply::Nil => Outcome::Nil,
        Reply::Simple(text) if text == "OK" => Outcome::Ok,
        Reply::Bulk(bytes) => match String::from_utf8_lossy(bytes).parse() {
            Ok(number) => Outcome::Int(number),
            Err(_) => Outcome::Error(format!("{reply:?}")),
        },
        other => Outcome::Error(format!("{other:?}")),
    }
}
