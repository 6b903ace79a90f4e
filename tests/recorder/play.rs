//! Plays a conversation and writes down what every client saw.

use super::mask::{self, Mask};
use super::talk::{Step, Talk};
use crate::common::wire::Silence;
use crate::common::{RedisServer, Wire, command, within};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a client waits for a frame it has a right to.
const FRAME_PATIENCE: Duration = Duration::from_secs(10);

/// What was seen, a line for each step and frame.
#[derive(Default)]
pub struct Transcript {
    lines: Vec<String>,
    /// Why the conversation could not go on, if so.
    pub broke_off: Option<String>,
}

struct Player<'a> {
    server: &'a RedisServer,
    addr: SocketAddr,
    clients: HashMap<String, Wire>,
    /// In the order in which they came, which is the order in which they are looked at in the end.
    names: Vec<String>,
    kept: HashMap<String, String>,
    transcript: Transcript,
}

pub fn play(talk: &Talk, server: &RedisServer, addr: SocketAddr) -> Transcript {
    let mut player = Player {
        server,
        addr,
        clients: HashMap::new(),
        names: Vec::new(),
        kept: HashMap::new(),
        transcript: Transcript::default(),
    };
    for (line, step) in &talk.steps {
        player.transcript.lines.push(line.clone());
        if let Err(reason) = player.take(step) {
            player.transcript.lines.push(format!("    !! {reason}"));
            player.transcript.broke_off = Some(reason);
            return player.transcript;
        }
    }
    player.look_for_leftovers();
    player.transcript
}

impl Player<'_> {
    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Call { who, commands, frames, mask } => {
                let bytes: Vec<u8> = commands.iter().flat_map(|words| command(&self.fill_in(words))).collect();
                self.client(who).send(&bytes);
                self.read(who, *frames, *mask)
            }
            Step::Raw { who, bytes } => {
                let filled = self.fill_in(std::slice::from_ref(bytes)).concat();
                self.client(who).send(&filled);
                Ok(())
            }
            Step::Read { who, frames, mask } => self.read(who, *frames, *mask),
            Step::ReadUntil { who, text } => loop {
                let frame = self.frame(who)?;
                if String::from_utf8_lossy(&frame).contains(text) {
                    self.note(who, &mask::always(&frame));
                    return Ok(());
                }
            },
            Step::Keep { who, name, command: words } => {
                let bytes = command(&self.fill_in(words));
                self.client(who).send(&bytes);
                let frame = self.frame(who)?;
                let text = String::from_utf8_lossy(&frame).into_owned();
                let number = text.strip_prefix(':').map(|number| number.trim().to_owned());
                self.note(who, &mask::digits(&frame));
                self.kept.insert(name.clone(), number.ok_or_else(|| format!("an integer was expected, not {text:?}"))?);
                Ok(())
            }
            Step::AskUntil { who, text, command: words } => {
                let bytes = command(&self.fill_in(words));
                let mut outcome = Err(String::new());
                let found = within(FRAME_PATIENCE, || {
                    self.client(who).send(&bytes);
                    outcome = self.frame(who);
                    let seen = outcome.as_ref().is_ok_and(|frame| String::from_utf8_lossy(frame).contains(text));
                    (seen || outcome.is_err()).then_some(())
                });
                let frame = outcome?;
                self.note(who, &mask::always(&frame));
                found.ok_or_else(|| format!("{text:?} never came"))
            }
            Step::Finish { who } => {
                self.client(who).finish();
                Ok(())
            }
            Step::Close { who } => {
                self.clients.remove(who);
                Ok(())
            }
            Step::Closed { who } => {
                let rest = self.client(who).until_closed(FRAME_PATIENCE);
                match rest {
                    Ok(rest) => {
                        self.note(who, &rest);
                        self.transcript.lines.push(format!("    {who} is closed"));
                        self.clients.remove(who);
                        Ok(())
                    }
                    Err(rest) => Err(format!("{who} stays open; it got \"{}\"", rest.escape_ascii())),
                }
            }
            Step::Blocked { clients } => {
                let mut side = self.server.side_wire();
                let line = format!("blocked_clients:{clients}\r\n");
                within(FRAME_PATIENCE, || {
                    let info = side.call(&["INFO", "clients"]);
                    String::from_utf8_lossy(&info).contains(&line).then_some(())
                })
                .ok_or_else(|| format!("there never were {clients} blocked clients"))
            }
        }
    }

    fn client(&mut self, who: &str) -> &mut Wire {
        if !self.clients.contains_key(who) {
            self.clients.insert(who.to_owned(), Wire::connect(self.addr));
            if !self.names.iter().any(|name| name == who) {
                self.names.push(who.to_owned());
            }
        }
        self.clients.get_mut(who).unwrap()
    }

    fn read(&mut self, who: &str, frames: usize, mask: Mask) -> Result<(), String> {
        for _ in 0..frames {
            let frame = self.frame(who)?;
            self.note(who, &mask.apply(&frame));
        }
        Ok(())
    }

    fn frame(&mut self, who: &str) -> Result<Vec<u8>, String> {
        self.client(who).try_frame(FRAME_PATIENCE).map_err(|silence| match silence {
            Silence::Closed(part) => format!("{who} was closed instead; it got \"{}\"", part.escape_ascii()),
            Silence::TooLong(part) => format!("{who} got nothing whole, only \"{}\"", part.escape_ascii()),
        })
    }

    fn note(&mut self, who: &str, frame: &[u8]) {
        self.transcript.lines.push(format!("    {who} got \"{}\"", frame.escape_ascii()));
    }

    fn fill_in(&self, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let fill = |word: &Vec<u8>| {
            let Ok(mut text) = String::from_utf8(word.clone()) else { return word.clone() };
            for (name, value) in &self.kept {
                text = text.replace(&format!("{{{name}}}"), value);
            }
            text.into_bytes()
        };
        words.iter().map(fill).collect()
    }

    /// In the end every client says that it is done, and what still comes for it belongs to the transcript: a reply too
    /// many, or a connection that stays open, is a difference.
    fn look_for_leftovers(&mut self) {
        for name in self.names.clone() {
            let Some(mut client) = self.clients.remove(&name) else { continue };
            client.finish();
            let end = match client.until_closed(FRAME_PATIENCE) {
                Ok(rest) if rest.is_empty() => format!("{name} ends"),
                Ok(rest) => format!("{name} ends with more: \"{}\"", rest.escape_ascii()),
                Err(rest) => format!("{name} stays open, with more: \"{}\"", rest.escape_ascii()),
            };
            self.transcript.lines.push(end);
        }
    }
}

impl Transcript {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The first place where two transcripts part, with what led there; `None` when they are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let length = self.lines.len().max(other.lines.len());
        let at = (0..length).find(|&i| self.lines.get(i) != other.lines.get(i))?;
        let before = self.lines[at.saturating_sub(6)..at].join("\n");
        let line = |transcript: &Self| transcript.lines.get(at).map_or("(nothing)", |line| line.trim()).to_owned();
        Some(format!("{before}\n--- expected: {}\n+++ got:      {}", line(self), line(other)))
    }
}
