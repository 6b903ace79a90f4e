//! From a seed to a conversation; the same seed says the same again.

use fastrand::Rng;

use super::common::{ServerKind, words};
use super::conversation::{Act, BOSS, Command, Conversation, Step};
use super::vocabulary::{CHANNELS, DATABASES, KEYS, LISTS, LOCK_KEY_NAMES, NAMES, Topic, USERS};

const SESSIONS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Bytes that are no array of bulk strings.
const RAW: [&str; 9] = [
    "PING\r\n",
    "SET k1 inline\r\nGET k1\r\n",
    "*2\r\n$3\r\nGET\r\n$2\r\nk",
    "*3\r\n$3\r\nSET\r\n$2\r\nk1\r\n$5\r\nab",
    "\r\n\r\nPING\r\n",
    "*0\r\nECHO x\r\n",
    "POST / HTTP/1.1\r\n",
    "*1\r\n:5\r\n",
    "GET \"k1\r\n",
];

/// What the generator remembers of a session, so that it says what makes sense often, not only nonsense.
#[derive(Clone, Copy, Default)]
struct Mood {
    is_queueing: bool,
    is_silent: bool,
    is_subscribed: bool,
    is_blocked: bool,
}

struct Generator {
    rng: Rng,
    topics: Vec<(Topic, u32)>,
    left_out: &'static [&'static str],
    kind: ServerKind,
    sessions: usize,
    moods: [Mood; SESSIONS.len()],
    is_paused: bool,
    /// Pauses are of writes, and last until they are ended. Beside one of those a short pause of everything would last as long, and
    /// nobody would be answered any more.
    has_long_pauses: bool,
    /// `CLIENT TRACKING … BCAST` is played. The server tells of written keys when it has read all that lies before it, so that each
    /// command is a write of its own then.
    has_broadcasts: bool,
    /// Whoever comes has to authenticate.
    wants_password: bool,
    steps: Vec<Step>,
}

/// Users whose password is right throughout.
const SURE_USERS: [&str; 10] = ["u1", "u3", "u4", "u5", "u7", "u8", "u9", "ua", "uc", "default"];

/// The conversation of a seed, for a server of this kind, without these topics.
pub fn conversation(seed: u64, kind: ServerKind, without: Option<&[Topic]>) -> Conversation {
    let topics: Vec<_> =
        Topic::ALL.into_iter().filter(|(topic, _)| !without.is_some_and(|without| without.contains(topic))).collect();
    let left_out = if without.is_some() { &[] } else { Topic::OPEN };
    let mut rng = Rng::with_seed(seed);
    let sessions = rng.usize(1..=SESSIONS.len());
    let (has_long_pauses, has_broadcasts) = (rng.bool(), rng.u8(0..4) == 0);
    let begins_with_password = rng.u8(0..12) == 0;
    let mut generator = Generator {
        rng,
        topics,
        left_out,
        kind,
        sessions,
        moods: Default::default(),
        is_paused: false,
        has_long_pauses,
        has_broadcasts,
        wants_password: false,
        steps: prologue(),
    };
    if begins_with_password {
        generator.changes_password();
    }
    for who in 0..sessions {
        generator.begins(who);
    }
    for _ in 0..generator.rng.usize(5..25) {
        generator.goes_on();
    }
    let mut steps = ending_alone(generator.steps);
    if kind == ServerKind::Redis82 {
        steps.iter_mut().for_each(without_silent_refusals);
    }
    Conversation { only_on: Vec::new(), steps }
}

/// Redis 8.2 does not answer a refused AUTH that comes behind anything in one write, or in a transaction: what it answers next is
/// out of step. PING stands in for those.
fn without_silent_refusals(step: &mut Step) {
    let Act::Commands(commands) = &mut step.act else { return };
    for command in commands {
        let named = command.iter().position(|word| word.eq_ignore_ascii_case(b"auth")).map(|at| &command[at + 1..]);
        let is_refused = match named {
            Some([user, password, ..]) => {
                let is_sure = SURE_USERS.iter().any(|sure| sure.as_bytes() == user);
                !is_sure || password != b"pw"
            }
            // The password of the default user, where one is asked for.
            Some([password]) => password != b"pw",
            _ => false,
        };
        if is_refused {
            *command = vec![b"PING".to_vec()];
        }
    }
}

/// A server that is not to answer closes a connection only where something else is about to be written to it. So what ends one, in a
/// conversation with silence in it, is a write of its own.
fn ending_alone(steps: Vec<Step>) -> Vec<Step> {
    let says = |command: &Command, at: usize, word: &str| {
        command.get(at).is_some_and(|is| is.eq_ignore_ascii_case(word.as_bytes()))
    };
    let ends = |command: &Command| says(command, 0, "quit") || says(command, 1, "kill");
    if !steps.iter().flat_map(Step::sent).any(|command| says(command, 1, "reply")) {
        return steps;
    }
    let mut steps = steps;
    // The line of a monitor's own command comes behind the reply to it, and is as silent.
    for step in &mut steps {
        if let Act::Commands(commands) = &mut step.act {
            commands
                .iter_mut()
                .filter(|command| says(command, 0, "monitor"))
                .for_each(|it| *it = vec![b"PING".to_vec()]);
        }
    }
    let mut alone = Vec::new();
    for step in steps {
        match &step.act {
            // Servers do not agree on what an empty line or a broken command means to CLIENT REPLY SKIP.
            Act::Raw(bytes) if !bytes.ends_with(b"\n") || bytes.starts_with(b"\r\n") || bytes.starts_with(b"*0") => {}
            Act::Commands(commands) if commands.iter().any(ends) => {
                let writes = commands.chunk_by(|one, next| !ends(one) && !ends(next));
                alone.extend(writes.map(|commands| Step::commands(&step.who, commands.to_vec())));
            }
            _ => alone.push(step),
        }
    }
    alone
}

/// The users, and in each database its number under `db`.
fn prologue() -> Vec<Step> {
    let marks = "EVAL \"for i = 0, 15 do redis.call('SELECT', i) redis.call('SET', 'db', i) end\" 0".to_owned();
    let users = USERS.iter().map(|(name, rights)| format!("ACL SETUSER {name} reset {rights}"));
    let lines = users.chain(["ACL DELUSER ub".to_owned(), marks]);
    lines.map(|line| Step::commands(BOSS, words::commands(&line))).collect()
}

impl Generator {
    /// A session that has just connected says who it is, or says nothing of the kind.
    fn begins(&mut self, who: usize) {
        self.moods[who] = Mood::default();
        if !self.talks_of(Topic::Connection) {
            return;
        }
        let lines: &[&str] = match self.rng.u32(0..10) {
            0 => &["AUTH %u pw"],
            1 => &["HELLO 3 AUTH %u pw SETNAME %N"],
            2 => &["HELLO 3", "SELECT %d"],
            3 => &["SELECT %d"],
            4 => &["AUTH %u pw", "CLIENT SETNAME ann", "SELECT %d"],
            5 => &["HELLO 3", "CLIENT SETINFO LIB-NAME lib", "CLIENT SETINFO LIB-VER 1"],
            6 => &["CLIENT SETNAME bob"],
            _ => return,
        };
        let commands = lines.iter().map(|line| self.filled(line)).collect();
        self.says(who, commands);
    }

    fn talks_of(&self, topic: Topic) -> bool {
        self.topics.iter().any(|(known, _)| *known == topic)
    }

    fn goes_on(&mut self) {
        let who = self.rng.usize(0..self.sessions);
        match self.rng.u32(0..100) {
            0..=4 => {
                self.steps.push(Step { who: SESSIONS[who].to_owned(), act: Act::Close });
                self.begins(who);
            }
            5..=6 if self.talks_of(Topic::Half) && !self.has_broadcasts => {
                let bytes = RAW[self.rng.usize(..RAW.len())].into();
                self.steps.push(Step { who: SESSIONS[who].to_owned(), act: Act::Raw(bytes) });
            }
            7..=23 if self.talks_of(Topic::Transaction) => self.transaction(who),
            24 if self.talks_of(Topic::Pause) && !self.has_long_pauses => {
                // One of writes under one of everything: all stand still for as long as the longer one lasts.
                let pauses = ["CLIENT PAUSE 30 WRITE", "CLIENT PAUSE 3 ALL"].map(|line| self.filled(line));
                self.says(who, pauses.into());
            }
            25..=31 if self.talks_of(Topic::Itself) => {
                let probe = ["ACL WHOAMI", "CLIENT GETNAME", "GET db"].map(|line| self.filled(line));
                self.says(who, probe.into());
            }
            32..=41 if self.talks_of(Topic::Connection) => self.comes_back(who),
            42 if self.talks_of(Topic::Connection) => self.changes_password(),
            _ => {
                let count = self.rng.usize(1..=8).min(self.rng.usize(1..=8)).min(self.rng.usize(1..=8));
                let commands = (0..count).map(|_| self.command(who)).collect();
                self.says(who, commands);
            }
        }
    }

    /// Everybody leaves, and whoever comes then has to authenticate, or has not to.
    fn changes_password(&mut self) {
        for who in &SESSIONS[..self.sessions] {
            self.steps.push(Step { who: (*who).to_owned(), act: Act::Close });
        }
        self.moods = Default::default();
        self.wants_password = !self.wants_password;
        let password = if self.wants_password { "pw" } else { "\"\"" };
        self.steps.push(Step::commands(BOSS, words::commands(&format!("CONFIG SET requirepass {password}"))));
    }

    /// A whole transaction in one write, or in several, with anything in it.
    fn transaction(&mut self, who: usize) {
        let mut commands = vec![self.filled("MULTI")];
        for _ in 0..self.rng.usize(1..=4) {
            commands.push(self.command(who));
        }
        match self.rng.u32(0..8) {
            0 => {}
            1 => commands.push(self.filled("DISCARD")),
            _ => commands.push(self.filled("EXEC")),
        }
        if self.rng.bool() {
            return self.says(who, commands);
        }
        for command in commands {
            self.says(who, vec![command]);
        }
    }

    /// Ends the state that a session is in, so that its link is lent on.
    fn comes_back(&mut self, who: usize) {
        let mood = self.moods[who];
        let line = match self.rng.u32(0..4) {
            _ if mood.is_silent => "CLIENT REPLY ON",
            _ if mood.is_queueing => "EXEC",
            _ if mood.is_subscribed => "UNSUBSCRIBE",
            _ if mood.is_blocked => {
                let other = (who + 1) % self.sessions;
                let line = ["LPUSH q1 x", "LPUSH app:q x", "CLIENT UNBLOCK %b"][self.rng.usize(..3)];
                let line = line.replace("%b", &format!("{{{}}}", SESSIONS[who]));
                let command = self.filled(&line);
                let command = if self.may_pause(&command) { command } else { self.filled("PING") };
                return self.says(other, vec![command]);
            }
            0 if self.is_paused => "CLIENT UNPAUSE",
            1 => "CLIENT TRACKING OFF",
            2 => "RESET",
            _ => "UNWATCH",
        };
        let command = self.filled(line);
        self.says(who, vec![command]);
    }

    fn command(&mut self, who: usize) -> Command {
        let total: u32 = self.topics.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.u32(0..total);
        let topic = self.topics.iter().find(|(_, weight)| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it
        });
        let topic = topic.map_or(Topic::Data, |(topic, _)| *topic);
        // What the two sides say of LOCK commands while writes stand still cannot be the same: one has none.
        // Nor what is told of the keys that these are made of.
        if topic == Topic::Locks && (self.is_paused || self.has_broadcasts) {
            return self.filled("PING");
        }
        let templates = topic.templates();
        let template = templates[self.rng.usize(..templates.len())];
        let template = if self.left_out.contains(&template) { "PING" } else { template };
        if template.contains("BCAST") && !self.has_broadcasts {
            return self.filled("PING");
        }
        // A word too many or too few, now and then.
        let mut command = self.filled(template);
        match self.rng.u32(0..60) {
            // Redis 7.0 does what stands before it in a HELLO, and the name is upstream's then.
            0 if command[0] != b"HELLO" => command.push(b"extra".to_vec()),
            // Not of what would stop the clock for long.
            1 if command.len() > 1 && !matches!(topic, Topic::Blocking | Topic::Pause) => {
                drop(command.pop());
            }
            _ => {}
        }
        if !self.may_pause(&command) {
            return self.filled("PING");
        }
        self.note(who, &command);
        command
    }

    /// Whether the command is no pause, or one of those that this conversation has.
    fn may_pause(&self, command: &Command) -> bool {
        let words: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match words[..] {
            // Valkey does not look at what stands behind a word too many, and pauses everything.
            ["CLIENT", "PAUSE", _, _, _, ..] if self.kind == ServerKind::Valkey91 => false,
            // Redis 7.0 ends with a panic where somebody whom a pause holds back is unblocked.
            ["CLIENT", "UNBLOCK", ..] => self.kind != ServerKind::Redis70 || !self.has_long_pauses,
            ["CLIENT", "PAUSE", ms, "WRITE", ..] => ms == "0" || self.has_long_pauses,
            ["CLIENT", "PAUSE", ms, ..] if ms.parse::<u32>().is_ok_and(|ms| ms < 100_000) => !self.has_long_pauses,
            _ => true,
        }
    }

    /// What the command does to the session's mood, if it is taken.
    fn note(&mut self, who: usize, command: &Command) {
        let mood = &mut self.moods[who];
        let text =
            command.iter().map(|w| String::from_utf8_lossy(w).to_ascii_uppercase()).collect::<Vec<_>>().join(" ");
        match text.split(' ').next().unwrap_or_default() {
            "MULTI" => mood.is_queueing = true,
            "EXEC" | "DISCARD" => mood.is_queueing = false,
            "RESET" | "QUIT" => *mood = Mood::default(),
            "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" => mood.is_subscribed = true,
            "UNSUBSCRIBE" | "PUNSUBSCRIBE" => mood.is_subscribed = false,
            "BLPOP" | "BLMOVE" | "XREAD" | "BZPOPMIN" => mood.is_blocked = true,
            _ => {}
        }
        match text.as_str() {
            "CLIENT REPLY OFF" => mood.is_silent = true,
            "CLIENT REPLY ON" => mood.is_silent = false,
            "CLIENT PAUSE 100000 WRITE" => self.is_paused = true,
            "CLIENT UNPAUSE" => self.is_paused = false,
            _ => {}
        }
    }

    fn says(&mut self, who: usize, commands: Vec<Command>) {
        for command in &commands {
            self.note(who, command);
        }
        // A SET NX that Lockgate carries out takes a round trip more, in which whoever was waiting goes on with what it has sent.
        let asks_for_lock = |command: &Command| {
            command.len() > 2 && LOCK_KEY_NAMES.iter().any(|name| command[1] == name.as_bytes()) && command[0] != b"GET"
        };
        let somebody_waits = self.is_paused || self.moods.iter().any(|mood| mood.is_blocked);
        if self.has_broadcasts || (somebody_waits && commands.iter().any(asks_for_lock)) {
            return self.steps.extend(commands.into_iter().map(|one| Step::commands(SESSIONS[who], vec![one])));
        }
        self.steps.push(Step::commands(SESSIONS[who], commands));
    }

    fn filled(&mut self, template: &str) -> Command {
        let mut line = String::new();
        let mut letters = template.chars();
        while let Some(letter) = letters.next() {
            match (letter, letter == '%') {
                (_, true) => line.push_str(&self.drawn(letters.next().unwrap_or('%'))),
                (other, false) => line.push(other),
            }
        }
        words::words(&line)
    }

    fn drawn(&mut self, kind: char) -> String {
        let rng = &mut self.rng;
        let mut of = |list: &[&str]| list[rng.usize(..list.len())].to_owned();
        match kind {
            'k' => of(&KEYS),
            'l' => of(&LOCK_KEY_NAMES),
            'q' => of(&LISTS),
            'v' => of(&["v", "w", "value"]),
            'n' => of(&["1", "2", "7"]),
            'd' => of(&DATABASES),
            'c' => of(&CHANNELS),
            'N' => of(&NAMES),
            'u' | 'w' => of(&["u1", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "ua", "uc", "u0", "default"]),
            's' => format!("{{{}}}", SESSIONS[self.rng.usize(..self.sessions)]),
            'a' => format!("{{{}.addr}}", SESSIONS[self.rng.usize(..self.sessions)]),
            other => panic!("no such placeholder: %{other}"),
        }
    }
}
