//! The model of one Redis: what its clients ask runs at once and whole, one command after the other.
//!
//! Its time is set from outside before each thing that happens to it. Keys whose time is over are removed before a command sees them,
//! and now and then by [`Server::expires`]. Scripts see one time from their beginning to their end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::data::{Database, Datum};
use super::lua;
use super::reply::Reply;
use crate::domain::{Db, Resp};
use crate::protocol::args::args;
use crate::protocol::frame;
use crate::protocol::request::{RequestLimits, RequestScanner};

/// Why a key changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A client's command or script.
    Client(u64),
    /// Its time was over.
    Expiry,
    /// The data went with the server that had it.
    Disaster,
}

/// A key that held a string, or holds one now, and what it became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When, Unix time in µs.
    pub at_us: u64,
    /// Where.
    pub db: Db,
    /// Which.
    pub key: Vec<u8>,
    /// What it held.
    pub before: Option<Vec<u8>>,
    /// What it holds.
    pub after: Option<Vec<u8>>,
    /// Until when it holds that, Unix ms; `None` for ever.
    pub until_ms: Option<u64>,
    /// Why.
    pub cause: Cause,
    /// The command that did it, if one did.
    pub request: Vec<u8>,
}

/// A command, word by word.
type Words = Vec<Vec<u8>>;

#[derive(Debug, Default)]
struct Client {
    db: Db,
    resp: Resp,
    input: Vec<u8>,
    output: Vec<u8>,
    is_tracking: bool,
    channels: BTreeSet<Vec<u8>>,
    /// Commands since MULTI.
    queued: Option<Vec<Words>>,
    watched: BTreeSet<(Db, Vec<u8>)>,
    is_dirty: bool,
}

/// What a replica of the server has.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(BTreeMap<Db, Database>);

/// One server.
#[derive(Debug, Default)]
pub struct Server {
    now_us: u64,
    databases: BTreeMap<Db, Database>,
    scripts: HashMap<String, Vec<u8>>,
    clients: BTreeMap<u64, Client>,
    last_client: u64,
    /// Who is to be told when a key changes.
    tracked: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    changes: Vec<Change>,
    /// How often it was begun anew by another.
    lives: u64,
    is_in_script: bool,
    /// What is being carried out.
    request: Vec<u8>,
    /// Everything is printed.
    pub is_told: bool,
}

/// A command that a script or a transaction may not give.
const NOT_HERE: &str = "ERR This Redis command is not allowed from script";

const LIMITS: RequestLimits = RequestLimits { args_max: 1 << 20, bulk_max: 512 << 20, unauthenticated: false };

impl Server {
    /// It is that time now, Unix time in µs.
    pub fn set_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// Somebody connects; his number.
    pub fn connects(&mut self) -> u64 {
        self.last_client += 1;
        self.clients.insert(self.last_client, Client::default());
        self.last_client
    }

    /// A connection is gone.
    pub fn disconnects(&mut self, client: u64) {
        self.clients.remove(&client);
        for clients in self.tracked.values_mut() {
            clients.remove(&client);
        }
    }

    /// Whether that connection stands.
    pub fn has_client(&self, client: u64) -> bool {
        self.clients.contains_key(&client)
    }

    /// What the server has to say to a client.
    pub fn take_output(&mut self, client: u64) -> Vec<u8> {
        self.clients.get_mut(&client).map(|client| std::mem::take(&mut client.output)).unwrap_or_default()
    }

    /// Whether it has something to say to him.
    pub fn have_output_for(&self, client: u64) -> bool {
        self.clients.get(&client).is_some_and(|client| !client.output.is_empty())
    }

    /// What has changed since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// All keys there are.
    pub fn keys(&self) -> Vec<(Db, Vec<u8>)> {
        let all = self.databases.iter().flat_map(|(db, data)| data.names().map(|name| (*db, name.clone())));
        all.collect()
    }

    /// Removes what is over by now.
    pub fn expires(&mut self) {
        let now_ms = self.now_us / 1000;
        let over: Vec<_> = self.databases.iter().map(|(db, data)| (*db, data.expired(now_ms))).collect();
        for (db, keys) in over {
            for key in keys {
                let before = self.databases.get_mut(&db).and_then(|data| data.remove(&key));
                self.changed(db, &key, before, Cause::Expiry);
            }
        }
    }

    /// What a replica has that got everything up to now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.databases.clone())
    }

    /// Whether a key's time is over at one of these moments and not at the other, in ms.
    pub fn expires_within(&self, from_ms: u64, until_ms: u64) -> bool {
        self.databases.values().any(|data| data.expired(from_ms).len() != data.expired(until_ms).len())
    }

    /// Another server with that data takes its place: connections, scripts and what is tracked are gone, and its history is another.
    pub fn is_replaced(&mut self, by: Snapshot) {
        let before = std::mem::replace(&mut self.databases, by.0);
        self.clients.clear();
        self.scripts.clear();
        self.tracked.clear();
        self.lives += 1;
        let mut names: BTreeSet<(Db, Vec<u8>)> = BTreeSet::new();
        for data in [&before, &self.databases] {
            names.extend(data.iter().flat_map(|(db, data)| data.names().map(|name| (*db, name.clone()))));
        }
        for (db, key) in names {
            let was = before.get(&db).and_then(|data| data.get(&key)).cloned();
            self.note(db, &key, was, Cause::Disaster);
        }
    }

    /// All scripts are forgotten.
    pub fn forgets_scripts(&mut self) {
        self.scripts.clear();
    }

    /// Everything is removed.
    pub fn flush(&mut self) {
        let before = std::mem::take(&mut self.databases);
        for (db, data) in before {
            for name in data.names() {
                self.touch(db, name);
                self.note(db, name, data.get(name).cloned(), Cause::Disaster);
            }
        }
        self.tracked.clear();
        for client in self.clients.values_mut().filter(|client| client.is_tracking) {
            frame::push(Resp::V3, 2, &mut client.output);
            frame::bulk("invalidate", &mut client.output);
            frame::null(Resp::V3, &mut client.output);
        }
    }

    /// Bytes come from a client: whole commands are carried out. Returns `false` where the connection is to be closed.
    pub fn hears(&mut self, client: u64, bytes: &[u8]) -> bool {
        let Some(known) = self.clients.get_mut(&client) else { return false };
        known.input.extend_from_slice(bytes);
        loop {
            let Some(known) = self.clients.get_mut(&client) else { return false };
            let frame = match RequestScanner::new().advance(&known.input, &LIMITS) {
                Ok(Some(frame)) => frame,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let request: Vec<u8> = known.input.drain(..frame.len).collect();
            let words: Vec<&[u8]> = args(&request).collect();
            self.expires();
            self.request.clone_from(&request);
            let reply = self.serves(client, &words);
            self.request.clear();
            if self.is_told {
                let words: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
                eprintln!("{:>10}   {client} asks {} => {reply:?}", self.now_us % 1_000_000_000, words.join(" "));
            }
            let Some(known) = self.clients.get_mut(&client) else { return false };
            if let Some(reply) = reply {
                reply.encode(known.resp, &mut known.output);
            }
        }
    }

    /// One command of a client. `None`: its answer is written already.
    fn serves(&mut self, client: u64, words: &[&[u8]]) -> Option<Reply> {
        let name = words.first()?.to_ascii_uppercase();
        let known = self.clients.get_mut(&client)?;
        if let Some(queued) = &mut known.queued
            && !matches!(name.as_slice(), b"EXEC" | b"DISCARD" | b"MULTI" | b"WATCH" | b"RESET")
        {
            queued.push(words.iter().map(|word| word.to_vec()).collect());
            return Some(Reply::Simple("QUEUED".into()));
        }
        Some(match (name.as_slice(), &words[1..]) {
            (b"HELLO", version) => {
                if version.first() == Some(&&b"3"[..]) {
                    known.resp = Resp::V3;
                }
                Reply::Map(vec![Reply::Bulk(b"server".to_vec()), Reply::Bulk(b"redis".to_vec())])
            }
            (b"AUTH", _) => Reply::ok(),
            (b"RESET", []) => {
                *known = Client {
                    input: std::mem::take(&mut known.input),
                    output: std::mem::take(&mut known.output),
                    ..Client::default()
                };
                for clients in self.tracked.values_mut() {
                    clients.remove(&client);
                }
                Reply::Simple("RESET".into())
            }
            (b"SELECT", [db]) => match number(db) {
                Some(db) if (0..16).contains(&db) => {
                    known.db = db as Db;
                    Reply::ok()
                }
                _ => Reply::Error("ERR DB index is out of range".into()),
            },
            (b"CLIENT", [word, rest @ ..]) => return self.client_command(client, word, rest),
            (b"SUBSCRIBE", channels) => {
                for channel in channels {
                    known.channels.insert(channel.to_vec());
                    frame::push(known.resp, 3, &mut known.output);
                    frame::bulk("subscribe", &mut known.output);
                    frame::bulk(channel, &mut known.output);
                    frame::integer(known.channels.len() as i64, &mut known.output);
                }
                return None;
            }
            (b"MULTI", []) => {
                known.queued = Some(Vec::new());
                Reply::ok()
            }
            (b"DISCARD", []) => {
                self.ends_transaction(client);
                Reply::ok()
            }
            (b"WATCH", keys) => {
                let db = known.db;
                known.watched.extend(keys.iter().map(|key| (db, key.to_vec())));
                Reply::ok()
            }
            (b"UNWATCH", []) => {
                known.watched.clear();
                known.is_dirty = false;
                Reply::ok()
            }
            (b"EXEC", []) => {
                let (is_dirty, queued) = self.ends_transaction(client)?;
                match queued {
                    None => Reply::Error("ERR EXEC without MULTI".into()),
                    Some(_) if is_dirty => Reply::Nil,
                    Some(queued) => {
                        let run = |words: Words| {
                            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                            self.command(client, &words)
                        };
                        Reply::Array(queued.into_iter().map(run).collect())
                    }
                }
            }
            _ => self.command(client, words),
        })
    }

    fn ends_transaction(&mut self, client: u64) -> Option<(bool, Option<Vec<Words>>)> {
        let known = self.clients.get_mut(&client)?;
        known.watched.clear();
        Some((std::mem::take(&mut known.is_dirty), known.queued.take()))
    }

    fn client_command(&mut self, client: u64, word: &[u8], rest: &[&[u8]]) -> Option<Reply> {
        Some(match (word.to_ascii_uppercase().as_slice(), rest) {
            (b"ID", _) => Reply::Integer(client as i64),
            (b"TRACKING", [on, ..]) => {
                self.clients.get_mut(&client)?.is_tracking = on.eq_ignore_ascii_case(b"ON");
                Reply::ok()
            }
            (b"KILL", [by, id, ..]) if by.eq_ignore_ascii_case(b"ID") => {
                let id = number(id).unwrap_or(0) as u64;
                let was_there = self.clients.contains_key(&id);
                if was_there {
                    self.disconnects(id);
                }
                Reply::Integer(i64::from(was_there))
            }
            (b"SETNAME" | b"SETINFO" | b"REPLY" | b"NO-EVICT" | b"NO-TOUCH", _) => Reply::ok(),
            _ => Reply::Error("ERR unknown subcommand".into()),
        })
    }

    /// A command on data, of a client or of a script of his.
    fn command(&mut self, client: u64, words: &[&[u8]]) -> Reply {
        self.data_command(client, words).unwrap_or_else(|error| error)
    }

    fn data_command(&mut self, client: u64, words: &[&[u8]]) -> Result<Reply, Reply> {
        let name = words[0].to_ascii_uppercase();
        let (now_us, cause) = (self.now_us, Cause::Client(client));
        let db = self.clients.get(&client).map_or(0, |client| client.db);
        let data = self.databases.entry(db).or_default();
        Ok(match (name.as_slice(), &words[1..]) {
            (b"PING", []) => Reply::Simple("PONG".into()),
            (b"PING" | b"ECHO", [text]) => Reply::Bulk(text.to_vec()),
            (b"TIME", []) => {
                let part = |part: u64| Reply::Bulk(part.to_string().into_bytes());
                Reply::Array(vec![part(now_us / 1_000_000), part(now_us % 1_000_000)])
            }
            (b"INFO", [section]) => Reply::Text(self.info(section)),
            (b"GET", [key]) => {
                let reply = Reply::bulk_or_nil(data.text(key)?);
                self.is_read(client, key);
                reply
            }
            (b"GETRANGE", [key, _, end]) => {
                let text = data.text(key)?.unwrap_or_default();
                let end = number(end).and_then(|end| usize::try_from(end).ok()).unwrap_or(usize::MAX - 1);
                Reply::Bulk(text[..text.len().min(end.saturating_add(1))].to_vec())
            }
            (b"EXISTS", keys) => Reply::Integer(keys.iter().filter(|key| data.get(key).is_some()).count() as i64),
            (b"PTTL", [key]) => {
                let reply = match data.until_ms(key) {
                    None => -2,
                    Some(None) => -1,
                    Some(Some(until)) => until.saturating_sub(now_us / 1000) as i64,
                };
                self.is_read(client, key);
                Reply::Integer(reply)
            }
            (b"TYPE", [key]) => Reply::Simple(
                match data.get(key) {
                    None => "none",
                    Some(Datum::Text(_)) => "string",
                    Some(Datum::Hash(_)) => "hash",
                }
                .into(),
            ),
            (b"SET", [key, value, options @ ..]) => return self.set(client, db, key, value, options),
            (b"SETNX", [key, value]) => {
                let set = self.set(client, db, key, value, &[b"NX"])?;
                Reply::Integer(i64::from(set == Reply::ok()))
            }
            (b"DEL" | b"UNLINK", keys) => {
                let mut removed = 0;
                for key in keys {
                    let before = self.databases.get_mut(&db).and_then(|data| data.remove(key));
                    removed += i64::from(before.is_some());
                    if before.is_some() {
                        self.changed(db, key, before, cause);
                    }
                }
                Reply::Integer(removed)
            }
            (b"INCR", [key]) => {
                let before = match data.text(key)? {
                    None => 0,
                    Some(text) => number(text)
                        .ok_or_else(|| Reply::Error("ERR value is not an integer or out of range".into()))?,
                };
                let until_ms = data.until_ms(key).flatten();
                data.set(key, (before + 1).to_string().as_bytes(), until_ms);
                self.touch(db, key);
                Reply::Integer(before + 1)
            }
            (b"PEXPIRE", [key, ms]) => {
                let until = now_us / 1000 + number(ms).unwrap_or(0).max(0) as u64;
                let before = data.get(key).cloned();
                let is_there = data.set_until(key, Some(until));
                if is_there {
                    self.changed(db, key, before, cause);
                }
                Reply::Integer(i64::from(is_there))
            }
            (b"PERSIST", [key]) => {
                let had = data.until_ms(key).flatten().is_some();
                data.set_until(key, None);
                self.touch(db, key);
                Reply::Integer(i64::from(had))
            }
            (b"HGET", [key, field]) => {
                let fields = data.hash(key)?;
                let value = fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_slice());
                let reply = Reply::bulk_or_nil(value);
                self.is_read(client, key);
                reply
            }
            (b"HGETALL", [key]) => {
                let fields = data.hash(key)?.iter();
                let reply = Reply::Map(
                    fields.flat_map(|(name, value)| [Reply::Bulk(name.clone()), Reply::Bulk(value.clone())]).collect(),
                );
                self.is_read(client, key);
                reply
            }
            (b"HSET", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let mut new = 0;
                for pair in pairs.chunks(2) {
                    new += data.set_field(key, pair[0], pair[1])?;
                }
                self.touch(db, key);
                Reply::Integer(new)
            }
            (b"HDEL", [key, fields @ ..]) => {
                let mut removed = 0;
                for field in fields {
                    removed += data.remove_field(key, field)?;
                }
                if removed > 0 {
                    self.touch(db, key);
                }
                Reply::Integer(removed)
            }
            (b"SCAN", [_, options @ ..]) => scan(data, options),
            (b"FLUSHALL", _) => {
                self.flush();
                Reply::ok()
            }
            (b"PUBLISH", [channel, payload]) => Reply::Integer(self.publish(channel, payload)),
            (b"EVAL", [text, rest @ ..]) if !self.is_in_script => {
                let digest = sha1_smol::Sha1::from(text).digest().to_string();
                self.scripts.insert(digest.clone(), text.to_vec());
                self.script(client, &digest, rest)?
            }
            (b"EVALSHA", [digest, rest @ ..]) if !self.is_in_script => {
                let digest = String::from_utf8_lossy(digest).to_ascii_lowercase();
                self.script(client, &digest, rest)?
            }
            (b"EVAL" | b"EVALSHA", _) => return Err(Reply::Error(NOT_HERE.into())),
            _ => {
                let name = String::from_utf8_lossy(words[0]);
                return Err(Reply::Error(format!("ERR unknown command '{name}', with args beginning with: ")));
            }
        })
    }

    fn set(&mut self, client: u64, db: Db, key: &[u8], value: &[u8], options: &[&[u8]]) -> Result<Reply, Reply> {
        let syntax = || Reply::Error("ERR syntax error".into());
        let (now_ms, data) = (self.now_us / 1000, self.databases.entry(db).or_default());
        let (mut until_ms, mut only_new, mut only_known, mut gets) = (None, false, false, false);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut time = || options.next().and_then(|time| number(time)).map(|time| time as u64).ok_or_else(syntax);
            match option.to_ascii_uppercase().as_slice() {
                b"NX" => only_new = true,
                b"XX" => only_known = true,
                b"GET" => gets = true,
                b"KEEPTTL" => until_ms = data.until_ms(key).flatten(),
                b"PX" => until_ms = Some(now_ms + time()?),
                b"EX" => until_ms = Some(now_ms + time()? * 1000),
                b"PXAT" => until_ms = Some(time()?),
                b"EXAT" => until_ms = Some(time()? * 1000),
                _ => return Err(syntax()),
            }
        }
        let before = data.get(key).cloned();
        let old = match gets {
            true => Reply::bulk_or_nil(data.text(key)?),
            false => Reply::ok(),
        };
        if (only_new && before.is_some()) || (only_known && before.is_none()) {
            return Ok(if gets { old } else { Reply::Nil });
        }
        if until_ms.is_some_and(|until| until < now_ms) {
            data.remove(key);
        } else {
            data.set(key, value, until_ms);
        }
        self.changed(db, key, before, Cause::Client(client));
        Ok(old)
    }

    fn script(&mut self, client: u64, digest: &str, rest: &[&[u8]]) -> Result<Reply, Reply> {
        let [count, rest @ ..] = rest else { return Err(Reply::Error("ERR wrong number of arguments".into())) };
        let count = number(count).and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        let Some((keys, args)) = rest.split_at_checked(count) else {
            return Err(Reply::Error("ERR Number of keys can't be greater than number of args".into()));
        };
        let Some(text) = self.scripts.get(digest).cloned() else {
            return Err(Reply::Error("NOSCRIPT No matching script. Please use EVAL.".into()));
        };
        self.is_in_script = true;
        let reply = lua::run(digest, &text, (keys, args), &mut |words| self.command(client, words));
        self.is_in_script = false;
        Ok(reply)
    }

    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> i64 {
        let mut heard = 0;
        for client in self.clients.values_mut().filter(|client| client.channels.contains(channel)) {
            heard += 1;
            // The publisher himself hears it before the reply to what he is just doing.
            frame::push(client.resp, 3, &mut client.output);
            frame::bulk("message", &mut client.output);
            frame::bulk(channel, &mut client.output);
            frame::bulk(payload, &mut client.output);
        }
        heard
    }

    fn info(&self, section: &[u8]) -> String {
        match section.to_ascii_lowercase().as_slice() {
            b"server" => format!(
                "# Server\r\nredis_version:7.0.15\r\nrun_id:{:040x}\r\nserver_time_usec:{}\r\n",
                self.lives + 1,
                self.now_us
            ),
            b"replication" => format!("# Replication\r\nrole:master\r\nmaster_replid:{:040x}\r\n", self.lives + 1),
            b"keyspace" => {
                let dbs = self.databases.iter().filter(|(_, data)| !data.is_empty());
                let lines = dbs.map(|(db, data)| format!("db{db}:keys={},expires=0,avg_ttl=0\r\n", data.len()));
                format!("# Keyspace\r\n{}", lines.collect::<String>())
            }
            _ => String::new(),
        }
    }

    /// A client has read a key by a command of his own.
    fn is_read(&mut self, client: u64, key: &[u8]) {
        if !self.is_in_script && self.clients.get(&client).is_some_and(|client| client.is_tracking) {
            self.tracked.entry(key.to_vec()).or_default().insert(client);
        }
    }

    fn changed(&mut self, db: Db, key: &[u8], before: Option<Datum>, cause: Cause) {
        self.touch(db, key);
        self.note(db, key, before, cause);
    }

    /// Whoever tracks or watches it is told.
    fn touch(&mut self, db: Db, key: &[u8]) {
        for client in self.clients.values_mut().filter(|client| !client.watched.is_empty()) {
            client.is_dirty |= client.watched.contains(&(db, key.to_vec()));
        }
        for client in self.tracked.remove(key).unwrap_or_default() {
            let Some(client) = self.clients.get_mut(&client) else { continue };
            frame::push(Resp::V3, 2, &mut client.output);
            frame::bulk("invalidate", &mut client.output);
            frame::array(1, &mut client.output);
            frame::bulk(key, &mut client.output);
        }
    }

    fn note(&mut self, db: Db, key: &[u8], before: Option<Datum>, cause: Cause) {
        let text = |datum: Option<&Datum>| match datum {
            Some(Datum::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let (before, after) = (text(before.as_ref()), text(self.databases.get(&db).and_then(|data| data.get(key))));
        if before.is_some() || after.is_some() {
            self.changes.push(Change {
                at_us: self.now_us,
                db,
                key: key.to_vec(),
                before,
                after,
                until_ms: self.databases.get(&db).and_then(|data| data.until_ms(key)).flatten(),
                cause,
                request: self.request.clone(),
            });
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// All that match, in one step.
fn scan(data: &Database, options: &[&[u8]]) -> Reply {
    let option = |name: &[u8]| {
        let at = options.iter().position(|word| word.eq_ignore_ascii_case(name))?;
        options.get(at + 1)
    };
    let prefix = option(b"MATCH").map(|glob| glob.strip_suffix(b"*").unwrap_or(glob));
    let is_of_type = |name: &[u8]| match (option(b"TYPE"), data.get(name)) {
        (Some(kind), Some(Datum::Hash(_))) => kind.eq_ignore_ascii_case(b"hash"),
        (Some(kind), Some(Datum::Text(_))) => kind.eq_ignore_ascii_case(b"string"),
        _ => true,
    };
    let names = data.names().filter(|name| prefix.is_none_or(|prefix| name.starts_with(prefix)) && is_of_type(name));
    let names = names.map(|name| Reply::Bulk(name.clone())).collect();
    Reply::Array(vec![Reply::Bulk(b"0".to_vec()), Reply::Array(names)])
}
