//! HELLO, AUTH, SELECT and RESET: which identity, database and protocol a session speaks with from here on. They cost
//! no link where links of the new kind stand already; otherwise a fresh link tries them out and stays for later use.

use std::rc::Rc;

use super::transaction::{Change, Entry};
use super::{Gone, Session};
use crate::commands::Why;
use crate::domain::{Db, Resp};
use crate::protocol::args::encode_command;
use crate::upstream::dial::{Credentials, Identity, LinkKey};

/// `HELLO`, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) resp: Option<Resp>,
    pub(super) auth: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) name: Option<Vec<u8>>,
}

impl Hello {
    /// `None` for whatever the upstream will refuse; its error is the answer then.
    pub(super) fn parse(args: &[&[u8]]) -> Option<Hello> {
        let mut hello = Hello::default();
        let Some(version) = args.get(1) else { return Some(hello) };
        hello.resp = Some(match *version {
            b"2" => Resp::V2,
            b"3" => Resp::V3,
            _ => return None,
        });
        let mut rest = args.get(2..).unwrap_or_default();
        while let Some(option) = rest.first() {
            rest = match (option.to_ascii_lowercase().as_slice(), rest) {
                (b"auth", [_, user, password, rest @ ..]) => {
                    hello.auth = Some((user.to_vec(), password.to_vec()));
                    rest
                }
                (b"setname", [_, name, rest @ ..]) if is_client_name(name) => {
                    hello.name = Some(name.to_vec());
                    rest
                }
                _ => return None,
            };
        }
        Some(hello)
    }

    /// The command without the name, which is Lockgate's to keep.
    pub(super) fn request(&self) -> Vec<u8> {
        let mut words: Vec<&[u8]> = vec![b"HELLO"];
        if let Some(resp) = self.resp {
            words.push(if resp == Resp::V3 { b"3" } else { b"2" });
        }
        if let Some((user, password)) = &self.auth {
            words.extend([b"AUTH", user.as_slice(), password]);
        }
        encoded(&words)
    }
}

/// Whether a `HELLO` that will be refused names a user all the same.
pub(super) fn names_a_user(args: &[&[u8]]) -> bool {
    args.iter().skip(2).any(|word| word.eq_ignore_ascii_case(b"auth"))
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
    pub(super) async fn hello(&mut self, command: &[u8], args: &[&[u8]]) -> Result<(), Gone> {
        let Some(hello) = Hello::parse(args) else {
            return match names_a_user(args) {
                true => self.half_refused_hello(command).await,
                false => self.relay_alone(command).await,
            };
        };
        let mut key = self.key.clone();
        if let Some((user, password)) = &hello.auth {
            let credentials = Credentials { user: Some(user.clone()), password: password.clone() };
            key.identity = Identity::Named(Rc::new(credentials));
        }
        key.resp = hello.resp.unwrap_or(key.resp);
        let Some(reply) = self.try_out(hello.request(), &key).await? else { return Ok(()) };
        if !is_error(&reply) {
            self.set_key(key);
            if let Some(name) = hello.name {
                self.card().profile().name = name;
            }
        }
        let reply = with_client_id(reply, self.card().id);
        self.answer(&reply);
        Ok(())
    }

    /// Redis before 7.2 authenticates, and then refuses the name: who the client is then only its own link knows, and nobody
    /// else gets that.
    async fn half_refused_hello(&mut self, command: &[u8]) -> Result<(), Gone> {
        if let Err(error) = self.take_own(Why::Unknown).await? {
            return self.has_no_own(&error).await;
        }
        if let Some(own) = self.own.as_mut() {
            own.forward_entry(command, Entry::Change(Change::Unknown));
        }
        Ok(())
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
        self.part_with_own();
        self.big_replies = 0;
        self.card().profile().name.clear();
        self.set_key(self.worker.initial_key());
        self.answer_line("+RESET");
        Ok(())
    }

    /// Has the upstream judge a command that turns a link of this session's kind into one of kind `key`, while the session has no link
    /// of its own; gives its reply, or `None` when the upstream is away and the client has been told.
    async fn try_out(&mut self, request: Vec<u8>, key: &LinkKey) -> Result<Option<Vec<u8>>, Gone> {
        let links = self.worker.links().clone();
        // On a link of that kind the command changes nothing, so that any such link can judge it; with the rights of this client, for
        // AUTH and HELLO need none, and SELECT is judged on one of its own user.
        if let Some(pool) = links.standing_pool(key) {
            return match self.guard(links.call(pool, request)).await? {
                Ok(reply) => Ok(Some(reply)),
                Err(error) => {
                    self.has_no_answer(&error).await?;
                    Ok(None)
                }
            };
        }
        let before = if key.identity == self.key.identity { self.key_for_trying() } else { self.key_of_nobody() };
        let mut link = match self.guard(links.take_own(&before)).await? {
            Ok(link) => link,
            Err(error) => {
                self.has_no_own(&error).await?;
                return Ok(None);
            }
        };
        match self.guard(link.ask(&request)).await? {
            Ok(reply) => {
                if !is_error(&reply) {
                    link.rekey(key.clone());
                    links.wash(link);
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
        if self.must_authenticate() { self.key_of_nobody() } else { self.key.clone() }
    }

    /// A password is judged the same over every connection. The one of before may be taken no longer.
    fn key_of_nobody(&self) -> LinkKey {
        LinkKey { identity: Identity::Anonymous, db: 0, resp: Resp::V2 }
    }

    /// Passes on a command that the upstream will refuse; if it does not, only a link of its own is changed by it.
    pub(super) async fn relay_alone(&mut self, command: &[u8]) -> Result<(), Gone> {
        if self.own.is_some() {
            return self.relay(command).await;
        }
        self.relay_over(self.key_for_trying(), command).await
    }

    /// Passes a command on over a link of its own of kind `key`, which ends with it.
    pub(super) async fn relay_over(&mut self, key: LinkKey, command: &[u8]) -> Result<(), Gone> {
        self.drain().await?;
        let links = self.worker.links().clone();
        match self.guard(links.take_own(&key)).await? {
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
        assert_eq!(parse("HELLO"), Some(Hello::default()));
        let full = parse("hello 3 setname bob auth u p").expect("well formed");
        assert_eq!(full.request(), encoded(&[b"HELLO", b"3", b"AUTH", b"u", b"p"]));
        assert_eq!(full.name.as_deref(), Some(&b"bob"[..]));
        for bad in ["HELLO 4", "HELLO 3 AUTH u", "HELLO 3 SETNAME", "HELLO 3 NONSENSE", "HELLO 03"] {
            assert_eq!(parse(bad), None, "{bad}");
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
