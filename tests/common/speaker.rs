//! Somebody who takes part in the talk of the nodes without being one: a node of another version, or an impostor.

use super::reply::Reply;
use super::server::RedisServer;
use super::wire::{Wire, command};
use lockgate::coordinator::seal::{Addressee, Letter, Seal};
use std::time::Duration;

const HEARING: u64 = 1;

pub struct Speaker {
    name: String,
    seal: Seal,
    /// What it says of its form: `format` and `reads`.
    form: String,
    ears: Wire,
    mouth: Wire,
    number: u64,
}

impl Speaker {
    /// Without a secret, as a node before a server without a password.
    pub fn named(server: &RedisServer, name: &str, form: u64) -> Self {
        let mut ears = server.wire();
        ears.ask_line(&format!("SUBSCRIBE lockgate:node:{name}"));
        ears.frames(1);
        let form = form.to_string();
        Speaker { name: name.into(), seal: Seal::default(), form, ears, mouth: server.wire(), number: 0 }
    }

    /// Says to all that it is there, and answers those who introduce themselves to it.
    pub fn speaks(&mut self) {
        self.says(None, "alive");
        while let Ok(frame) = self.ears.try_frame(Duration::from_millis(30)) {
            let message = match Reply::parse(&frame).items() {
                [_, _, Reply::Bulk(message)] => message.clone(),
                other => panic!("a message was expected, not {other:?}"),
            };
            if let Ok(letter) = self.seal.clone().open(&message) {
                self.says(Some(Addressee { id: letter.from, hearing: letter.hearing }), "meet");
            }
        }
    }

    fn says(&mut self, to: Option<Addressee<'_>>, word: &str) {
        let channel = to.map_or("lockgate:nodes".into(), |to| format!("lockgate:node:{}", to.id));
        let body = command(&[word, "format", &self.form, "reads", &self.form, "version", "9.0.0", "knows", "1"]);
        self.number += 1;
        let letter = Letter { from: &self.name, instance: 1, hearing: HEARING, number: self.number, to, body: &body };
        let message = self.seal.close(&letter);
        assert!(self.mouth.call(&[&b"PUBLISH"[..], channel.as_bytes(), &message]).starts_with(b":"));
    }
}
