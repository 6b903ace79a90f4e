//! The recorder: plays a conversation straight to a server and through Lockgate to another one, and compares what every
//! client saw, byte for byte, with only ids, addresses, times and the like masked.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod chopper;
pub mod mask;
pub mod play;
pub mod talk;

use crate::common::{Lockgate, RedisServer, ServerKind};
use chopper::{Chopper, Pieces};
use play::Transcript;
use talk::Talk;

/// How the clients of a conversation reach the server.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    Direct,
    /// Every byte stream cut into pieces on its way.
    Chopped(Pieces),
    Lockgate,
    /// Cut on both sides of Lockgate.
    ChoppedLockgate(Pieces),
}

/// Plays every conversation of `talks` that is meant for this kind of server both ways; fails the test with all differences.
#[track_caller]
pub fn compare(kind: ServerKind, talks: &str, left: Path, right: Path) {
    let only = std::env::var("TALK").ok();
    let mut differences = Vec::new();
    let mut played = 0;
    for talk in talk::parse(talks) {
        let cut = matches!(right, Path::Chopped(_) | Path::ChoppedLockgate(_));
        let chosen = only.as_ref().is_none_or(|part| talk.title.contains(part.as_str()));
        if !talk.is_for(kind) || (cut && talk.whole) || !chosen {
            continue;
        }
        let (expected, got) = std::thread::scope(|scope| {
            let expected = scope.spawn(|| play_along(kind, &talk, left));
            let got = play_along(kind, &talk, right);
            (expected.join().expect("the conversation works without Lockgate"), got)
        });
        if let Some(silence) = &expected.broke_off {
            differences.push(format!(
                "== {} breaks off even without Lockgate: {silence}\n{}",
                talk.title,
                expected.text()
            ));
        } else if let Some(difference) = expected.difference(&got) {
            differences.push(format!("== {} ({}, {right:?})\n{difference}", talk.title, kind.name()));
        }
        played += 1;
    }
    assert!(played > 0 || only.is_some(), "no conversation was played");
    assert!(
        differences.is_empty(),
        "{} of {played} conversations differ:\n\n{}",
        differences.len(),
        differences.join("\n\n")
    );
}

/// A node tells the others once that it is there; a monitor in the talk is not to hear of it. With a server that has settings of its own it
/// may be unable to.
fn has_announced_itself(server: &RedisServer, talk: &Talk) {
    if talk.server_arguments.is_empty() {
        let mut wire = server.wire();
        let says = |text: String| text.contains("cmdstat_publish:").then_some(());
        crate::common::eventually("the node has announced itself", || says(wire.run("INFO commandstats").text()));
    }
}

fn play_along(kind: ServerKind, talk: &Talk, path: Path) -> Transcript {
    let extra: Vec<&str> = talk.server_arguments.iter().map(String::as_str).collect();
    let server = RedisServer::start_with(kind, &extra);
    match path {
        Path::Direct => play::play(talk, &server, server.addr()),
        Path::Chopped(pieces) => {
            let chopper = Chopper::before(server.addr(), pieces);
            play::play(talk, &server, chopper.addr())
        }
        Path::Lockgate => {
            let lockgate = Lockgate::before_with(&server, &talk.lockgate_config);
            has_announced_itself(&server, talk);
            play::play(talk, &server, lockgate.addr())
        }
        Path::ChoppedLockgate(pieces) => {
            let inner = Chopper::before(server.addr(), pieces);
            let url = format!("redis://{}", inner.addr());
            let lockgate = Lockgate::serve(&["--upstream", &url], Some(&talk.lockgate_config));
            has_announced_itself(&server, talk);
            let outer = Chopper::before(lockgate.addr(), pieces);
            play::play(talk, &server, outer.addr())
        }
    }
}
