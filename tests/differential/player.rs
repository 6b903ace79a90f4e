//! Plays a conversation on one side, step by step: one write, then everybody takes in what it brings.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::common::command;
use super::connection::{Connection, NoAnswer, wait_for_any};
use super::conversation::{Act, BOSS, Command, Conversation, Step};
use super::links;
use super::mask::{self, Ids};
use super::side::Side;

/// How long `BRPOP … 0.01` takes to end by its time, for a server that looks every 2 ms.
const TIMED: Duration = Duration::from_millis(20);

/// So many clients a server looks after each time, at least.
const CLIENTS_A_TURN: usize = 5;

/// What all connections have seen after a step: of each how many frames, and whether it has ended.
type Mark = Vec<(usize, bool)>;

/// What was seen where no Lockgate was.
pub struct Transcript {
    /// The conversation's steps, and the last ones by which each session shows that nothing else was owed to it.
    pub steps: Vec<Step>,
    labels: Vec<String>,
    frames: Vec<Vec<Vec<u8>>>,
    marks: Vec<Mark>,
    /// By connection: somebody else ended it with what may have brought it something just before, which a server does not send any more.
    may_have_more: Vec<bool>,
}

/// Where the two sides differ.
pub struct Difference {
    /// After so many steps.
    pub step: usize,
    pub says: String,
}

struct Player<'a> {
    side: &'a mut Side,
    connections: Vec<Connection>,
    /// Which connection a session has, or had last.
    current: HashMap<String, usize>,
    ids: Ids,
    /// How many commands were sent that end by their time, perhaps one behind the other.
    timed: u32,
    /// By connection: the masked frames, and how many frames were masked.
    seen: Vec<(Vec<Vec<u8>>, usize)>,
}

/// Plays it on a server without Lockgate.
pub fn watch(conversation: &Conversation, side: &mut Side) -> Result<Transcript, NoAnswer> {
    let mut player = Player::new(side, &conversation.steps);
    let mut steps = conversation.steps.clone();
    let mut marks = Vec::new();
    let mut at = 0;
    while at < steps.len() || player.add_farewell(&mut steps, conversation.steps.len()) {
        player.take(&steps[at])?;
        player.settle(&steps[at])?;
        marks.push(player.mark());
        at += 1;
    }
    let labels: Vec<String> = player.connections.iter().map(|c| c.label.clone()).collect();
    let frames = player.seen.iter().map(|(frames, _)| frames.clone()).collect();
    player.leave()?;
    let may_have_more = labels.iter().enumerate().map(|(at, label)| may_have_more(at, label, &steps, &marks)).collect();
    Ok(Transcript { steps, labels, frames, marks, may_have_more })
}

/// Whether the connection was ended together with what may have brought it a reply: in a step of another session that says more than that, or,
/// in one of its own, by somebody whom that has unblocked.
fn may_have_more(at: usize, label: &str, steps: &[Step], marks: &[Mark]) -> bool {
    let ends = marks.iter().position(|mark| mark.get(at).is_some_and(|(_, is_ended)| *is_ended));
    let Some(step) = ends.map(|ends| &steps[ends]) else { return false };
    let says = |words: &Command, at: usize, word: &str| {
        words.get(at).is_some_and(|is| is.eq_ignore_ascii_case(word.as_bytes()))
    };
    let runs_several = step.sent().iter().any(|words| says(words, 0, "exec"));
    match label.trim_end_matches(char::is_numeric) == step.who {
        true => !runs_several && !step.sent().iter().any(|words| says(words, 1, "kill") || says(words, 0, "quit")),
        false => runs_several || step.sent().len() > 1,
    }
}

/// Plays it on the other side; the first difference, if there is one.
pub fn compare(transcript: &Transcript, side: &mut Side, patience: Duration) -> Option<Difference> {
    let mut player = Player::new(side, &transcript.steps);
    for (at, step) in transcript.steps.iter().enumerate() {
        let outcome = player.take(step).and_then(|()| player.follow(transcript, at, patience));
        let says = match outcome {
            Ok(None) if step.act == Act::Reset => links::stained(player.side, patience),
            Ok(says) => says,
            Err(NoAnswer(why)) => Some(format!("the one who looks on is not answered: {why}")),
        };
        if let Some(says) = says {
            return Some(Difference { step: at, says });
        }
    }
    let step = transcript.steps.len();
    let says = match player.leave() {
        Ok(left) if left.is_empty() => links::stained(player.side, patience),
        Ok(left) => Some(format!("connections are listed that their clients have closed: {left:#?}")),
        Err(NoAnswer(why)) => Some(format!("the one who looks on is not answered in the end: {why}")),
    };
    says.map(|says| Difference { step, says })
}

impl<'a> Player<'a> {
    fn new(side: &'a mut Side, steps: &[Step]) -> Self {
        let sessions: HashSet<&str> = steps.iter().map(|step| &*step.who).filter(|who| *who != BOSS).collect();
        // Beside them there is the one who looks on.
        let are_turned = sessions.len() + 1 > CLIENTS_A_TURN;
        Self {
            side,
            connections: Vec::new(),
            current: HashMap::new(),
            ids: Ids::new(are_turned),
            timed: 0,
            seen: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), NoAnswer> {
        match &step.act {
            Act::Reset => {
                self.leave()?;
                self.side.reset(&[])?;
            }
            Act::Commands(commands) if step.who == BOSS => {
                for words in commands {
                    let words = self.filled_in(words);
                    self.side.control.call(&words)?;
                }
            }
            Act::Commands(commands) => {
                let bytes: Vec<u8> = commands.iter().flat_map(|words| command(&self.filled_in(words))).collect();
                self.session(&step.who)?.send(&bytes);
            }
            Act::Raw(bytes) => self.session(&step.who)?.send(bytes),
            Act::Close => {
                if let Some(&at) = self.current.get(&step.who) {
                    self.connections[at].hang_up();
                    self.connections[at].is_known_to_have_hung_up();
                }
            }
        }
        Ok(())
    }

    /// The connection of a session, a new one where it has none.
    fn session(&mut self, who: &str) -> Result<&mut Connection, NoAnswer> {
        let at = match self.current.get(who) {
            Some(&at) if !self.connections[at].is_ended => at,
            _ => {
                let count =
                    self.connections.iter().filter(|c| c.label.trim_end_matches(char::is_numeric) == who).count();
                let connection = Connection::open(self.side.addr(), format!("{who}{}", count + 1));
                self.ids.insert(self.side.id_of(&connection.addr_text)?, connection.label.clone());
                self.connections.push(connection);
                self.seen.push((Vec::new(), 0));
                self.current.insert(who.to_owned(), self.connections.len() - 1);
                self.connections.len() - 1
            }
        };
        Ok(&mut self.connections[at])
    }

    fn filled_in(&self, words: &Command) -> Command {
        words.iter().map(|word| self.filled_in_word(word)).collect()
    }

    fn filled_in_word(&self, word: &[u8]) -> Vec<u8> {
        let Some(inner) = word.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")) else {
            return word.to_vec();
        };
        let name = String::from_utf8_lossy(inner).into_owned();
        if name == "big" {
            return vec![b'x'; 99_991];
        }
        let (who, is_addr) = name.strip_suffix(".addr").map_or((name.as_str(), false), |who| (who, true));
        let connection = self.current.get(who).map(|&at| &self.connections[at]);
        match connection {
            Some(connection) if is_addr => connection.addr_text.clone().into_bytes(),
            Some(connection) => self.ids.id(&connection.label).unwrap_or(0).to_string().into_bytes(),
            None => b"0".to_vec(),
        }
    }

    /// Takes in what has come; true if anything has that is compared.
    fn pump(&mut self) -> bool {
        let mut any = false;
        for (connection, (shown, count)) in self.connections.iter_mut().zip(&mut self.seen) {
            let before = (shown.len(), connection.rest().len(), connection.is_ended);
            connection.pump();
            for frame in &connection.frames[*count..] {
                shown.extend(mask::masked(frame, &self.ids));
            }
            *count = connection.frames.len();
            any |= before != (shown.len(), connection.rest().len(), connection.is_ended);
        }
        any
    }

    /// Where nothing else tells when all has come: until the server has nothing more to say.
    fn settle(&mut self, step: &Step) -> Result<(), NoAnswer> {
        let bytes: usize =
            step.sent().iter().flatten().map(|word| if word == b"{big}" { 99_991 } else { word.len() }).sum();
        // A turn of the server takes in so much of one connection.
        for _ in 0..bytes / 16_384 {
            self.side.fence(true)?;
        }
        // A command that ends by its time may have to wait for its turn first.
        self.timed += timed(step);
        let end = Instant::now() + TIMED * self.timed;
        let mut quiet = 0;
        while quiet < 2 || Instant::now() < end {
            self.side.fence(true)?;
            quiet = if self.pump() { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    fn mark(&self) -> Mark {
        self.connections.iter().zip(&self.seen).map(|(c, (frames, _))| (frames.len(), c.is_ended)).collect()
    }

    /// Waits for what this step has brought on the other side, and looks whether it is the same, and no more.
    fn follow(&mut self, transcript: &Transcript, at: usize, patience: Duration) -> Result<Option<String>, NoAnswer> {
        let mark = &transcript.marks[at];
        let end = Instant::now() + patience;
        loop {
            self.pump();
            let has_come = self.mark().iter().zip(mark).all(|(is, ought)| is.0 >= ought.0 && is.1 >= ought.1);
            if has_come || Instant::now() >= end || self.differs(transcript, mark).is_some() {
                break;
            }
            wait_for_any(self.connections.iter(), Duration::from_millis(20));
        }
        let step = &transcript.steps[at];
        self.timed += timed(step);
        self.side.fence(is_silent(step, transcript, at))?;
        if self.timed > 0 && is_silent(step, transcript, at) {
            // What ends by its time may say nothing of that.
            std::thread::sleep(TIMED * self.timed);
            self.side.fence(true)?;
        }
        self.pump();
        let says = self.differs(transcript, mark).or_else(|| self.misses(transcript, mark));
        Ok(says)
    }

    /// A frame that is another, or one too many, or an end that is none on the other side.
    fn differs(&self, transcript: &Transcript, mark: &Mark) -> Option<String> {
        for (at, (connection, (shown, _))) in self.connections.iter().zip(&self.seen).enumerate() {
            let (count, is_ended) = mark[at];
            let direct = &transcript.frames[at][..count];
            let label = &connection.label;
            for (number, through) in shown.iter().enumerate() {
                match direct.get(number) {
                    // Whoever was cut off by another may have heard less.
                    None if is_ended && (transcript.may_have_more[at] || mask::is_aside(through)) => {}
                    None => return Some(format!("{label} gets one frame more:\n  through  {}", readable(through))),
                    Some(direct) if !mask::are_equal(direct, through) => {
                        let both = format!("  direct   {}\n  through  {}", readable(direct), readable(through));
                        return Some(format!("{label} gets another frame (its number {}):\n{both}", number + 1));
                    }
                    Some(_) => {}
                }
            }
            if connection.is_ended && !is_ended {
                return Some(format!("{label} is closed; directly it stays open"));
            }
        }
        None
    }

    /// Frames and ends that have not come.
    fn misses(&self, transcript: &Transcript, mark: &Mark) -> Option<String> {
        for (at, connection) in self.connections.iter().enumerate() {
            let ((shown, _), (count, is_ended)) = (&self.seen[at], mark[at]);
            if shown.len() < count {
                let frame = readable(&transcript.frames[at][shown.len()]);
                let rest = readable(connection.rest());
                let label = &transcript.labels[at];
                return Some(format!("{label} gets no frame:\n  direct   {frame}\n  through  nothing whole: {rest}"));
            }
            if is_ended && !connection.is_ended {
                return Some(format!("{} stays open; directly it is closed", connection.label));
            }
        }
        None
    }

    /// The last steps: each session that is still there says something more. False when there is none.
    fn add_farewell(&self, steps: &mut Vec<Step>, played: usize) -> bool {
        if steps.len() > played {
            return false;
        }
        let mut open: Vec<&String> =
            self.current.iter().filter(|(_, at)| !self.connections[**at].is_ended).map(|(who, _)| who).collect();
        open.sort();
        let farewell = vec![b"ECHO".to_vec(), b"farewell".to_vec()];
        steps.extend(open.iter().map(|who| Step::commands(who, vec![farewell.clone()])));
        !open.is_empty()
    }

    /// Everybody hangs up; who is still listed after a while.
    fn leave(&mut self) -> Result<Vec<String>, NoAnswer> {
        // Whoever is paused is not read, and its end is not seen.
        self.side.onlooker().call(&["CLIENT", "UNPAUSE"])?;
        for connection in &mut self.connections {
            connection.hang_up();
        }
        self.side.is_left()
    }
}

/// How many commands of the step end by their time.
fn timed(step: &Step) -> u32 {
    let count = step.sent().iter().flatten().filter(|word| *word == b"0.01").count();
    u32::try_from(count).unwrap_or(0)
}

/// Whether the step has effects of which no reply tells.
fn is_silent(step: &Step, transcript: &Transcript, at: usize) -> bool {
    let total = |mark: Option<&Mark>| mark.map_or(0, |mark| mark.iter().map(|(frames, _)| frames).sum());
    let before = at.checked_sub(1).map_or(0, |before| total(transcript.marks.get(before)));
    match &step.act {
        Act::Commands(commands) => total(transcript.marks.get(at)) - before < commands.len(),
        _ => true,
    }
}

/// A frame for a person to read.
pub fn readable(frame: &[u8]) -> String {
    let text = frame.escape_ascii().to_string();
    match text.char_indices().nth(1500) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], frame.len()),
        None => text,
    }
}
