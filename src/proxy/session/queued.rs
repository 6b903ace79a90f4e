//! What Lockgate answers itself, on an own link whose state it concerns. `HELLO`, `AUTH` and `SELECT` go there and count once they are
//! accepted. Inside of `MULTI` something with the same rights, arity and errors goes upstream in the place of the others too and is
//! queued there, and when `EXEC`'s reply shows that it ran, its effect is carried out or its element becomes Lockgate's answer.

use super::admission::Admission;
use super::handshake::{Hello, canonical_number};
use super::step::OWN_CHANNEL;
use super::transaction::{Change, Entry, NOTED_MAX, Replies, SessionChange};
use super::{Gone, Session};
use crate::commands::client::{ClientCall, integer, kept_name};
use crate::commands::{Effect, Here, Plan, Treatment, client_effect, plan, resolve};
use crate::domain::Resp;
use crate::protocol::args::{args, encode_command};
use crate::protocol::request::RequestFrame;
use crate::proxy::client_list::Listed;
use crate::upstream::dial::{Credentials, Identity, LinkKey};

/// A client's number that no server ever gives out.
const NOBODY: &[u8] = b"9223372036854775807";

/// What goes upstream in a command's place, and what it means once it has run.
type Queued = (Vec<u8>, Entry);

impl Session {
    /// Sends what Lockgate would answer itself over the own link, where the upstream has to queue it (`MULTI`) or to refuse it (a
    /// subscriber under RESP2); `false` where Lockgate answers. Nothing may be owed.
    pub(super) fn queue_own(&mut self, command: &[u8], frame: &RequestFrame) -> bool {
        let facts = self.worker.links().facts();
        let name = &command[frame.name.clone()];
        let args: Vec<&[u8]> = args(command).collect();
        let here = match facts.table.find(name).map(|entry| entry.treatment) {
            Some(Treatment::Here(here)) => here,
            Some(Treatment::Look(look)) => match resolve(look, &args).0 {
                Treatment::Here(here) => here,
                _ => return false,
            },
            _ => return false,
        };
        let resp = self.resp();
        let Some(own) = self.own.as_mut() else { return false };
        if own.is_relay
            && (here != Here::Quit || own.talk.is_heard())
            && let Some((request, entry)) = relayed(here, command, &args)
        {
            own.forward_entry(
                &request,
                if own.talk.is_pubsub_only() && here != Here::Reset { Entry::Plain } else { entry },
            );
            return true;
        }
        let ends_it = here == Here::Quit || (here == Here::Reset && args.len() == 1);
        let (is_multi, is_pubsub_only) = (own.talk.is_multi(), own.talk.is_pubsub_only());
        let is_of_link = matches!(here, Here::Select | Here::Auth | Here::Hello);
        if ends_it || !(is_multi || is_pubsub_only || is_of_link) {
            return false;
        }
        let (request, entry) = match here {
            // The upstream does not know the command: it refuses it, and a transaction is aborted by that.
            Here::Lock => {
                let says = if is_multi { not_in_multi(name) } else { not_while_subscribed(name) };
                own.link.push(command);
                own.talk.sent_replaced(says);
                return true;
            }
            // Nor this one, which goes in its place.
            Here::OwnChannel => {
                let says =
                    if is_multi { format!("-{OWN_CHANNEL}\r\n").into_bytes() } else { not_while_subscribed(name) };
                own.link.push(&refused());
                own.talk.sent_replaced(says);
                return true;
            }
            _ if is_pubsub_only => (command.to_vec(), Entry::Plain),
            _ if own.talk.noted() >= NOTED_MAX => (refused(), Entry::Plain),
            Here::Client => match self.queued_client(command, &args) {
                Some(queued) => queued,
                None => return true,
            },
            Here::Select => select(command, &args),
            Here::Auth => auth(command, &args),
            Here::Hello => hello(command, &args),
            Here::Command => match plan(&args, resp) {
                Plan::Forward => (command.to_vec(), Entry::Plain),
                Plan::Ask { request, merge } => (request, Entry::Merge(merge)),
            },
            Here::Quit | Here::Reset => (command.to_vec(), Entry::Plain),
        };
        if let Some(own) = self.own.as_mut() {
            let is_marked = is_multi && entry.may_be_mute();
            own.forward_entry(&request, entry);
            if is_marked {
                own.link.push(&marker());
                own.talk.sent(Entry::Marker);
            }
        }
        true
    }

    /// `CLIENT …` in a transaction; `None` where it was sent already.
    fn queued_client(&mut self, command: &[u8], args: &[&[u8]]) -> Option<Queued> {
        let as_it_is = |entry| Some((command.to_vec(), entry));
        let Some(subcommand) = args.get(1) else { return as_it_is(Entry::Plain) };
        if let Some(call) = ClientCall::read(args) {
            // Of a name the upstream gets nothing, so that nothing else bounds how much of it waits here.
            let is_naming = matches!(call, ClientCall::SetName(_) | ClientCall::SetInfo(..));
            let kept = |arg: &&[u8]| Box::from(if is_naming { kept_name(arg) } else { arg });
            let request = match call {
                ClientCall::List(filters) => self.list_with_own(args, filters),
                call => call.stand_in(args),
            };
            return Some((request, Entry::Answer(args.iter().map(kept).collect())));
        }
        match (subcommand.to_ascii_lowercase().as_slice(), args.get(2..).unwrap_or_default()) {
            (b"reply", [mode]) => match reply_mode(mode) {
                Some(mode) => Some((reply_stand_in(), Entry::Change(Change::Replies(mode)))),
                None => as_it_is(Entry::Plain),
            },
            (b"tracking", _) => {
                let (request, entry) = self.tracking(command, args);
                Some((request, entry))
            }
            (b"maint_notifications", _) => {
                // An upstream that took this would push clients past us.
                let word = subcommand.escape_ascii();
                let says = format!("-ERR unknown subcommand '{word}'. Try CLIENT HELP.\r\n");
                if let Some(own) = self.own.as_mut() {
                    own.link.push(&refused());
                    own.talk.sent_replaced(says.into_bytes());
                }
                None
            }
            _ => as_it_is(match client_effect(args) {
                Effect::Flag => Entry::Change(Change::Flag),
                Effect::Sticky => Entry::Change(Change::Lasting),
                _ => Entry::Plain,
            }),
        }
    }

    /// `CLIENT LIST` with this client's own link among those that are listed, where its filters let that be: what the upstream says of it when
    /// the command runs is not what it says behind the transaction.
    fn list_with_own(&self, args: &[&[u8]], filters: &[&[u8]]) -> Vec<u8> {
        let own = self.own.as_ref().map_or(0, |own| own.link.upstream_id()).to_string();
        let is_by_id = match filters {
            [] => true,
            [id, numbers @ ..] => {
                id.eq_ignore_ascii_case(b"id") && !numbers.is_empty() && numbers.iter().all(|n| integer(n).is_some())
            }
        };
        if own == "0" || !is_by_id {
            return ClientCall::List(filters).stand_in(args);
        }
        let mut words = args.to_vec();
        if filters.is_empty() {
            words.push(b"ID");
        }
        words.push(own.as_bytes());
        encoded(&words)
    }

    /// `CLIENT TRACKING …` as the upstream is to get it, with its own number for the client that `REDIRECT` names.
    fn tracking(&self, command: &[u8], args: &[&[u8]]) -> Queued {
        let is_killed = |id| self.is_killed_before(id);
        let redirected = match self.redirect_target(args) {
            Ok(redirected) if !redirected.as_ref().is_some_and(|(id, _)| is_killed(*id)) => redirected,
            // Nobody of ours, nobody whom the upstream knows, or who will be gone by then.
            _ => {
                let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"redirect")).map(|at| at + 1);
                let mut words = args.to_vec();
                if let Some(id) = at.and_then(|at| words.get_mut(at)) {
                    *id = NOBODY;
                }
                return (encoded(&words), Entry::Plain);
            }
        };
        let (target, request) = match redirected {
            Some((target, request)) => (Some(target), request),
            None => (None, command.to_vec()),
        };
        (request, tracking_entry(args, target))
    }

    /// The open transaction ends the connection of the client `id`, which is another one: Lockgate does that when the upstream has run all
    /// of it.
    fn is_killed_before(&self, id: u64) -> bool {
        let (Some(own), Some(card)) = (self.own.as_ref(), self.worker.registry().find(id)) else { return false };
        let client = Listed::without_link(card);
        id != own.client_id
            && own.talk.queued_answers().any(|words| {
                let words: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
                match ClientCall::read(&words) {
                    Some(ClientCall::Kill(filters)) => {
                        self.kill_filters(filters).is_ok_and(|filters| filters.take(&client))
                    }
                    _ => false,
                }
            })
    }

    /// Takes over what the replies on the own link have shown to be changed.
    pub(super) fn apply_changes(&mut self) {
        let Some(own) = self.own.as_mut() else { return };
        let changes = own.talk.take_changes();
        if changes.is_empty() {
            return;
        }
        let mut key = self.key.clone();
        for change in changes {
            match change {
                SessionChange::Db(db) => key.db = db,
                SessionChange::Reset => {
                    key = LinkKey { identity: Identity::Stranger, db: 0, resp: Resp::V2 };
                    self.admission = Admission::Unasked;
                    self.card().profile().name.clear();
                }
                SessionChange::Identity(credentials) => key.identity = Identity::Named(credentials.into()),
                SessionChange::Hello { resp, auth, name } => {
                    key.resp = resp.unwrap_or(key.resp);
                    if let Some(credentials) = auth {
                        key.identity = Identity::Named(credentials.into());
                    }
                    if let Some(name) = name {
                        self.card().profile().name = name;
                    }
                }
            }
        }
        if key != self.key {
            if let Some(own) = self.own.as_mut() {
                own.rekey(key.clone());
            }
            self.set_key(key);
        }
    }

    /// `CLIENT REPLY`: the upstream judges it in the form that changes nothing, and goes on answering; what the client does not
    /// want to hear ends here.
    pub(super) async fn client_reply(&mut self, command: &[u8], args: &[&[u8]]) -> Result<(), Gone> {
        let mode = match args {
            [_, _, mode] => reply_mode(mode),
            _ => None,
        };
        let Some(mode) = mode else { return self.relay_alone(command).await };
        let reply = match self.own.is_some() {
            true => self.ask_own(&reply_stand_in()).await?,
            false => match self.ask(reply_stand_in()).await? {
                Ok(reply) => reply,
                Err(error) => return self.has_no_answer(&error).await,
            },
        };
        if reply.first() == Some(&b'-') {
            self.answer(&reply);
            return Ok(());
        }
        if mode != Replies::On
            && let Err(error) = self.take_own(crate::commands::Why::ReplyMode).await?
        {
            return self.has_no_own(&error).await;
        }
        if let Some(own) = self.own.as_mut() {
            own.talk.switch_replies(mode);
        }
        if mode == Replies::On {
            self.answer(&reply);
        }
        Ok(())
    }
}

/// What Lockgate would answer in the place of an upstream that others share, on a link that only this client ever has: it goes as it is.
/// `None` for what stays Lockgate's. Were the upstream told of `CLIENT REPLY`, nobody would know which commands it accepts.
fn relayed(here: Here, command: &[u8], args: &[&[u8]]) -> Option<Queued> {
    let (request, entry) = match here {
        Here::Lock | Here::OwnChannel => return None,
        Here::Client => {
            let is = |word: &[u8]| args.get(1).is_some_and(|subcommand| subcommand.eq_ignore_ascii_case(word));
            if is(b"reply") || is(b"maint_notifications") {
                return None;
            }
            let entry = match client_effect(args) {
                Effect::TrackingOn | Effect::TrackingOff => tracking_entry(args, redirect(args)),
                _ => Entry::Plain,
            };
            (command.to_vec(), entry)
        }
        Here::Select => select(command, args),
        Here::Auth => auth(command, args),
        Here::Hello => hello(command, args),
        Here::Reset if args.len() == 1 => (command.to_vec(), Entry::Change(Change::Session(SessionChange::Reset))),
        Here::Reset | Here::Quit | Here::Command => (command.to_vec(), Entry::Plain),
    };
    Some(match entry {
        entry @ Entry::Hello { .. } => (command.to_vec(), entry),
        entry => (request, entry),
    })
}

/// The connection that `CLIENT TRACKING … REDIRECT` names.
fn redirect(args: &[&[u8]]) -> Option<u64> {
    let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"redirect"))?;
    std::str::from_utf8(args.get(at + 1)?).ok()?.parse().ok()
}

/// What `CLIENT TRACKING …` does once it is accepted; `target` is our number of the client that `REDIRECT` names.
pub(super) fn tracking_entry(args: &[&[u8]], target: Option<u64>) -> Entry {
    let has = |word: &[u8]| args.iter().skip(2).any(|arg| arg.eq_ignore_ascii_case(word));
    match args.get(2).map(|on| on.to_ascii_lowercase()).as_deref() {
        Some(b"on") => Entry::Change(Change::Tracking { redirect: target, is_noloop: has(b"noloop") }),
        Some(b"off") => Entry::Change(Change::NoTracking),
        _ => Entry::Plain,
    }
}

/// `CLIENT REPLY` that changes nothing.
fn reply_stand_in() -> Vec<u8> {
    encoded(&[b"CLIENT", b"REPLY", b"ON"])
}

/// What is refused as [`MARKER`](super::conversation::MARKER) says when it runs, needs no rights and is queued everywhere.
pub(super) fn marker() -> Vec<u8> {
    encoded(&[b"AUTH", b"", b"", b""])
}

/// A command that is an error everywhere, and nothing else.
fn refused() -> Vec<u8> {
    encoded(&[b"CLIENT"])
}

fn reply_mode(word: &[u8]) -> Option<Replies> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Some(Replies::On),
        b"off" => Some(Replies::Off),
        b"skip" => Some(Replies::Skip),
        _ => None,
    }
}

fn select(command: &[u8], args: &[&[u8]]) -> Queued {
    let entry = match args {
        [_, db] => {
            canonical_number(db).map_or(Entry::Plain, |db| Entry::Change(Change::Session(SessionChange::Db(db))))
        }
        _ => Entry::Plain,
    };
    (command.to_vec(), entry)
}

fn auth(command: &[u8], args: &[&[u8]]) -> Queued {
    let credentials = match args {
        [_, password] => Some(Credentials { user: None, password: password.to_vec() }),
        [_, user, password] => Some(Credentials { user: Some(user.to_vec()), password: password.to_vec() }),
        _ => None,
    };
    let entry = credentials
        .map_or(Entry::Plain, |credentials| Entry::Change(Change::Session(SessionChange::Identity(credentials))));
    (command.to_vec(), entry)
}

fn hello(command: &[u8], args: &[&[u8]]) -> Queued {
    let hello = Hello::parse(args);
    (hello.request(command), hello.entry())
}

fn not_in_multi(name: &[u8]) -> Vec<u8> {
    format!("-ERR Command '{}' not allowed in transactions\r\n", name.to_ascii_lowercase().escape_ascii()).into_bytes()
}

fn not_while_subscribed(name: &[u8]) -> Vec<u8> {
    format!(
        "-ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
         context\r\n",
        name.to_ascii_lowercase().escape_ascii()
    )
    .into_bytes()
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(words, &mut out);
    out
}
