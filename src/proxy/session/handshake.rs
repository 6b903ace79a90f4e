//! HELLO, AUTH, SELECT and RESET: which identity, database and protocol a session speaks with from here on. They cost
//! no link where links of the new kind stand already; otherwise a fresh link tries them out and stays for later use.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::own::OwnMode;
use super::transaction::{Change, Entry, SessionChange};
use super::{Gone, Session};
use crate::commands::Why;
use crate::commands::client::kept_name;
use crate::coordinator::Coordinator;
use crate::domain::{Db, Resp};
use crate::events::shown;
use crate::protocol::args::encode_command;
use crate::protocol::request::RequestFrame;
use crate::proxy::knocks::TooMany;
use crate::upstream::dial::{Credentials, Identity, LinkKey};
use serde_json::json;

/// `HELLO`, taken apart as far as the upstream would accept it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) resp: Option<Resp>,
    /// In order.
    pub(super) options: Vec<HelloOption>,
    /// Nothing follows that is no option.
    is_whole: bool,
}

/// An option of `HELLO`.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum HelloOption {
    Auth(Credentials),
    Name(Vec<u8>),
}

impl std::fmt::Debug for HelloOption {
    /// Without passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HelloOption::Auth(_) => "Auth",
            HelloOption::Name(_) => "Name",
        })
    }
}

impl Hello {
    pub(super) fn parse(args: &[&[u8]]) -> Hello {
        let mut hello = Hello { is_whole: true, ..Hello::default() };
        let Some(version) = args.get(1) else { return hello };
        hello.resp = match *version {
            b"2" => Some(Resp::V2),
            b"3" => Some(Resp::V3),
            _ => return Hello::default(),
        };
        let mut rest = args.get(2..).unwrap_or_default();
        while let Some(option) = rest.first() {
            rest = match (option.to_ascii_lowercase().as_slice(), rest) {
                (b"auth", [_, user, password, rest @ ..]) => {
                    let auth = Credentials { user: Some(user.to_vec()), password: password.to_vec() };
                    hello.options.push(HelloOption::Auth(auth));
                    rest
                }
                (b"setname", [_, name, rest @ ..]) if is_client_name(name) => {
                    hello.options.push(HelloOption::Name(kept_name(name).to_vec()));
                    rest
                }
                _ => {
                    hello.is_whole = false;
                    return hello;
                }
            };
        }
        hello
    }

    /// Every upstream does all of it or nothing: only a password can be refused, and nothing is done before it.
    fn is_all_or_nothing(&self) -> bool {
        self.is_whole && !self.options.iter().skip(1).any(|option| matches!(option, HelloOption::Auth(_)))
    }

    pub(super) fn auth(&self) -> Option<&Credentials> {
        self.options.iter().rev().find_map(|option| match option {
            HelloOption::Auth(auth) => Some(auth),
            HelloOption::Name(_) => None,
        })
    }

    pub(super) fn name(&self) -> Option<&[u8]> {
        self.options.iter().rev().find_map(|option| match option {
            HelloOption::Name(name) => Some(name.as_slice()),
            HelloOption::Auth(_) => None,
        })
    }

    /// What goes upstream for `command`: without the name, which is Lockgate's to keep, where that changes no answer.
    pub(super) fn request(&self, command: &[u8]) -> Vec<u8> {
        if !self.is_all_or_nothing() {
            return command.to_vec();
        }
        let mut words: Vec<&[u8]> = vec![b"HELLO"];
        if let Some(resp) = self.resp {
            words.push(if resp == Resp::V3 { b"3" } else { b"2" });
        }
        if let Some(Credentials { user: Some(user), password }) = self.auth() {
            words.extend([b"AUTH", user.as_slice(), password]);
        }
        encoded(&words)
    }

    /// What it does once it is accepted, and may have done where it is refused.
    pub(super) fn entry(self) -> Entry {
        let change = match self.is_whole {
            true => Change::Session(SessionChange::Hello {
                resp: self.resp,
                auth: self.auth().cloned(),
                name: self.name().map(<[u8]>::to_vec),
            }),
            // An option that nobody here knows.
            false => Change::Unknown,
        };
        let in_doubt = if self.is_all_or_nothing() { Vec::new() } else { self.options };
        Entry::Hello { change, in_doubt }
    }
}

/// Redis takes printable ASCII without spaces.
pub(super) fn is_client_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(words, &mut out);
    out
}

impl Session {
    pub(super) async fn hello(&mut self, command: &[u8], frame: &RequestFrame, args: &[&[u8]]) -> Result<(), Gone> {
        let hello = Hello::parse(args);
        if !hello.is_all_or_nothing() {
            if hello.options.is_empty() {
                return self.relay_alone(command).await;
            }
            let credentials = hello.auth().cloned();
            return self.hello_in_doubt(command, frame, credentials).await;
        }
        let mut key = self.key.clone();
        if let Some(credentials) = hello.auth() {
            key.identity = Identity::Named(Rc::new(credentials.clone()));
        }
        key.resp = hello.resp.unwrap_or(key.resp);
        let Some(reply) = self.try_out(hello.request(command), &key).await? else { return Ok(()) };
        if !is_error(&reply) {
            self.set_key(key);
            if let Some(name) = hello.name() {
                self.card().profile().name = name.to_vec();
            }
        }
        let reply = with_client_id(reply, self.card().id);
        self.answer(&reply);
        Ok(())
    }

    /// A refusal of this `HELLO` does not tell what it has done: it runs on a link of the client's own, which is asked afterwards.
    async fn hello_in_doubt(
        &mut self,
        command: &[u8],
        frame: &RequestFrame,
        credentials: Option<Credentials>,
    ) -> Result<(), Gone> {
        self.is_admitted().await?;
        if let Err(error) = self.take_own(Why::Unknown).await? {
            return self.has_no_own(&error).await;
        }
        let claimed = credentials.map(|credentials| Identity::Named(Rc::new(credentials)));
        if let Some(claimed) = &claimed
            && !self.has_its_turn(claimed).await?
        {
            return Ok(());
        }
        self.queue_own(command, frame);
        self.drain().await?;
        self.dispel_doubt().await?;
        if let Some(claimed) = claimed.filter(|_| self.must_authenticate()) {
            self.was_wrong(&claimed);
        }
        Ok(())
    }

    /// A password was wrong: the next one waits longer, and it is written down.
    fn was_wrong(&self, claimed: &Identity) {
        let card = self.card();
        self.worker.knocks().was_wrong(card.address, Instant::now());
        if let (Some(audit), Identity::Named(credentials)) = (self.worker.coordinator().events().audit(), claimed) {
            let user = credentials.user.as_deref().unwrap_or(b"default");
            audit.note(auth_failed(user, card.id, &card.peer, self.worker.coordinator()));
        }
    }

    /// Waits until a password of this client may be judged: at once, unless wrong ones came from its address. `false`: too many wait there,
    /// and the client was told so.
    async fn has_its_turn(&mut self, claimed: &Identity) -> Result<bool, Gone> {
        if self.worker.knocks().were_right(claimed) {
            return Ok(true);
        }
        match self.worker.knocks().wait(self.card().address, Instant::now()) {
            Ok(Duration::ZERO) => Ok(true),
            Ok(wait) => {
                self.guard(tokio::time::sleep(wait)).await?;
                Ok(true)
            }
            Err(TooMany { wait }) => {
                let seconds = wait.as_secs();
                self.answer_line(&format!(
                    "-ERR too many wrong passwords came from your address; try again in {seconds} seconds"
                ));
                Ok(false)
            }
        }
    }

    pub(super) async fn auth(&mut self, command: &[u8], args: &[&[u8]]) -> Result<(), Gone> {
        let credentials = match args {
            [_, password] => Credentials { user: None, password: password.to_vec() },
            [_, user, password] => Credentials { user: Some(user.to_vec()), password: password.to_vec() },
            _ => return self.relay_alone(command).await,
        };
        let key = LinkKey { identity: Identity::Named(Rc::new(credentials)), ..self.key.clone() };
        self.try_and_keep(command, key).await
    }

    pub(super) async fn select(&mut self, command: &[u8], args: &[&[u8]]) -> Result<(), Gone> {
        let db = match args {
            [_, db] => canonical_number(db),
            _ => None,
        };
        let Some(db) = db else { return self.relay_alone(command).await };
        let key = LinkKey { db, ..self.key.clone() };
        self.try_and_keep(command, key).await
    }

    async fn try_and_keep(&mut self, command: &[u8], key: LinkKey) -> Result<(), Gone> {
        let Some(reply) = self.try_out(command.to_vec(), &key).await? else { return Ok(()) };
        if !is_error(&reply) {
            self.set_key(key);
        }
        self.answer(&reply);
        Ok(())
    }

    /// Everything as on a new connection. No right is asked for that by any upstream.
    pub(super) async fn reset(&mut self, args: &[&[u8]]) -> Result<(), Gone> {
        if args.len() != 1 {
            self.answer_line("-ERR wrong number of arguments for 'reset' command");
            return Ok(());
        }
        let as_new = LinkKey { identity: Identity::Stranger, db: 0, resp: Resp::V2 };
        let is_bound = |own: &OwnMode| self.card().keeps_link() || own.talk.has_lasting();
        if self.own.as_deref().is_some_and(is_bound) && self.worker.initial_key(self.certified.as_deref()) == as_new {
            return self.reset_own().await;
        }
        // Only CLIENT REPLY OFF ends with it.
        let is_skipped = self.own.as_ref().is_some_and(|own| own.talk.skips());
        self.part_with_own();
        self.big_replies = 0;
        self.card().profile().name.clear();
        self.begins_anew();
        if !is_skipped {
            self.answer_line("+RESET");
        }
        Ok(())
    }

    /// The link stays: another client's invalidations come over it, and the upstream has to go on knowing it by its number; or it has
    /// a flag of which only the upstream can say whether `RESET` ends it.
    async fn reset_own(&mut self) -> Result<(), Gone> {
        if let Some(own) = self.own.as_mut() {
            own.forward_entry(&encoded(&[b"RESET"]), Entry::Change(Change::Session(SessionChange::Reset)));
        }
        self.drain().await
    }

    /// Has the upstream judge a command that turns a link of this session's kind into one of kind `key`, while the session has no link
    /// of its own; gives its reply, or `None` when the upstream is away and the client has been told.
    async fn try_out(&mut self, request: Vec<u8>, key: &LinkKey) -> Result<Option<Vec<u8>>, Gone> {
        let links = self.worker.links();
        let is_try = key.identity != self.key.identity;
        // On a link of that kind the command changes nothing, so that any such link can judge it; with the rights of this client, for
        // AUTH and HELLO need none, and SELECT is judged on one of its own user.
        if links.standing_pool(key).is_some() {
            let router = self.worker.router().clone();
            return match self.guard(router.call(key.clone(), request)).await? {
                Ok(reply) => Ok(Some(reply)),
                Err(error) => {
                    self.has_no_answer(&error).await?;
                    Ok(None)
                }
            };
        }
        if is_try && !self.has_its_turn(&key.identity).await? {
            return Ok(None);
        }
        // A password is judged the same over every connection, of whomever. The one of before may be taken no longer.
        let anybody = LinkKey { identity: Identity::Anonymous, db: 0, resp: Resp::V2 };
        let before = if key.identity == self.key.identity { self.key_for_trying() } else { anybody };
        let router = self.worker.router().clone();
        let mut link = match self.guard(router.take_own(&before)).await? {
            Ok(link) => link,
            Err(error) => {
                self.has_no_own(&error).await?;
                return Ok(None);
            }
        };
        match self.guard(link.ask(&request)).await? {
            Ok(reply) => {
                if !is_error(&reply) {
                    if is_try {
                        self.worker.knocks().was_right(&key.identity);
                    }
                    link.rekey(key.clone());
                    links.wash(link);
                } else if is_try && is_wrong_password(&reply) {
                    self.was_wrong(&key.identity);
                }
                Ok(Some(reply))
            }
            Err(error) => {
                self.is_away(&format!("-UNAVAILABLE the upstream went away: {error}")).await?;
                Ok(None)
            }
        }
    }

    /// What a link has to be on which a command of this session can be tried out. Where a password is asked for and the client has
    /// given none, the protocol and the database could not be had either, and change no answer.
    fn key_for_trying(&self) -> LinkKey {
        match self.must_authenticate() {
            true => LinkKey { identity: Identity::Stranger, db: 0, resp: Resp::V2 },
            false => self.key.clone(),
        }
    }

    /// Passes on a command that the upstream will refuse; if it does not, only a link of its own is changed by it.
    pub(super) async fn relay_alone(&mut self, command: &[u8]) -> Result<(), Gone> {
        if self.own.is_some() {
            return self.relay(command).await;
        }
        self.is_admitted().await?;
        self.relay_over(self.key_for_trying(), command).await
    }

    /// Passes a command on over a link of its own of kind `key`, which ends with it.
    pub(super) async fn relay_over(&mut self, key: LinkKey, command: &[u8]) -> Result<(), Gone> {
        self.drain().await?;
        let (links, router) = (self.worker.links(), self.worker.router().clone());
        match self.guard(router.take_own(&key)).await? {
            Err(error) => self.has_no_own(&error).await?,
            Ok(mut link) => match self.guard(link.ask(command)).await? {
                Ok(reply) => {
                    if is_error(&reply) {
                        links.wash(link);
                    }
                    self.answer(&reply);
                }
                Err(error) => self.is_away(&format!("-UNAVAILABLE the upstream went away: {error}")).await?,
            },
        }
        Ok(())
    }
}

/// The audit's line of it, without the password.
fn auth_failed(user: &[u8], client: u64, address: &str, coordinator: &Coordinator) -> String {
    let (node, at_ms) = (coordinator.node(), coordinator.unix_ms());
    json!({ "event": "auth_failed", "user": shown(user), "client": client, "addr": address, "node": node, "at_ms": at_ms }).to_string()
}

/// Redis 6 and later, and what came before users.
fn is_wrong_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-WRONGPASS ") || reply.starts_with(b"-ERR invalid password")
}

fn is_error(reply: &[u8]) -> bool {
    reply.first().is_none_or(|kind| matches!(kind, b'-' | b'!'))
}

/// A database number as clients write it; anything else is for the upstream to judge.
pub(super) fn canonical_number(text: &[u8]) -> Option<Db> {
    let number: Db = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// The reply of `HELLO` with Lockgate's own client id in it.
pub(super) fn with_client_id(reply: Vec<u8>, id: u64) -> Vec<u8> {
    const FIELD: &[u8] = b"$2\r\nid\r\n:";
    let Some(at) = memchr::memmem::find(&reply, FIELD) else { return reply };
    let number = at + FIELD.len();
    let Some(end) = memchr::memchr(b'\r', &reply[number..]) else { return reply };
    [&reply[..number], id.to_string().as_bytes(), &reply[number + end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_taken_apart_only_where_the_upstream_would_accept_it() {
        let parse = |line: &str| Hello::parse(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        assert_eq!(parse("HELLO"), Hello { is_whole: true, ..Hello::default() });
        let full = parse("hello 3 auth u p setname bob");
        assert!(full.is_all_or_nothing());
        assert_eq!(full.request(b""), encoded(&[b"HELLO", b"3", b"AUTH", b"u", b"p"]));
        assert_eq!(full.name(), Some(&b"bob"[..]));
        for bad in ["HELLO 4", "HELLO 3 AUTH u", "HELLO 3 SETNAME", "HELLO 3 NONSENSE", "HELLO 03"] {
            assert!(!parse(bad).is_all_or_nothing() && parse(bad).options.is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_hello_that_may_be_half_done_goes_on_as_it_came() {
        for (line, options) in [
            ("HELLO 3 AUTH u p BAD", 1),
            ("HELLO 3 SETNAME x AUTH u p", 2),
            ("HELLO 3 AUTH u p AUTH v q", 2),
            ("HELLO 3 AUTH u p SETNAME x SETNAME", 2),
        ] {
            let hello = Hello::parse(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
            assert!(!hello.is_all_or_nothing(), "{line}");
            assert_eq!(hello.options.len(), options, "{line}");
            assert_eq!(hello.request(b"as it came"), b"as it came");
        }
    }

    #[test]
    fn the_client_id_in_hello_is_lockgates() {
        let reply = b"%2\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:12345\r\n".to_vec();
        assert_eq!(with_client_id(reply, 7), b"%2\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n");
    }

    #[test]
    fn only_canonical_database_numbers_are_read_here() {
        assert_eq!(canonical_number(b"15"), Some(15));
        for odd in ["015", "+1", "-1", "", "a", "99999999999"] {
            assert_eq!(canonical_number(odd.as_bytes()), None, "{odd}");
        }
    }
}
