//! `CLIENT …`: what speaks of clients is answered from Lockgate's own registry once the upstream has accepted it, what changes the
//! connection goes to a link of its own, the rest to the upstream.

use std::sync::Arc;

use super::queued::tracking_entry;
use super::transaction::{Change, Entry};
use super::{Gone, Session};
use crate::commands::client::{ClientCall, integer, kept_name};
use crate::commands::{Effect, Why, client_effect};
use crate::domain::Resp;
use crate::protocol::args::encode_command;
use crate::protocol::frame::{self, Value, decode};
use crate::protocol::request::RequestFrame;
use crate::proxy::client_list::{self, Filters, Listed};
use crate::proxy::registry::{Card, Wish};
use crate::upstream::call::{CallError, Caller};

/// Longer pauses would end before they begin: with the present time they exceed what a server's clock can count.
const PAUSE_MAX_MS: u64 = i64::MAX as u64 - (1 << 44);

/// What became of a `CLIENT` command.
pub(super) struct Answered {
    /// Its reply.
    pub reply: Vec<u8>,
    /// The client has ended its own connection: to be closed once it has the reply.
    pub is_last: bool,
}

/// Whether `CLIENT TRACKING` can go upstream.
pub(super) enum Redirect {
    /// It can: it redirects to nobody, or to a client that the upstream can name.
    Ready,
    /// With this answer.
    Refused(Vec<u8>),
    /// The upstream is away, and the client has been told.
    Told,
}

impl From<Vec<u8>> for Answered {
    fn from(reply: Vec<u8>) -> Self {
        Answered { reply, is_last: false }
    }
}

impl Session {
    pub(super) async fn client_command(
        &mut self,
        command: &[u8],
        frame: &RequestFrame,
        args: &[&[u8]],
    ) -> Result<(), Gone> {
        let Some(subcommand) = args.get(1).map(|word| word.to_ascii_lowercase()) else {
            return self.relay(command).await;
        };
        self.card().touch(&[b"client|", &*subcommand].concat());
        if let Some(call) = ClientCall::read(args) {
            let Some(judged) = self.judge(call.stand_in(args)).await? else { return Ok(()) };
            let answered = self.client_answer(call, judged).await?;
            if answered.is_last && !self.is_heard() {
                return self.is_to_leave().await;
            }
            self.answer(&answered.reply);
            if answered.is_last {
                self.flushed().await?;
                return Err(Gone);
            }
            return Ok(());
        }
        match subcommand.as_slice() {
            b"maint_notifications" => {
                // An upstream that took this would push clients past us.
                let word = String::from_utf8_lossy(args[1]);
                self.answer_line(&format!("-ERR unknown subcommand '{word}'. Try CLIENT HELP."));
                Ok(())
            }
            b"reply" => self.client_reply(command, args).await,
            b"tracking" | b"no-evict" | b"no-touch" | b"caching" | b"import-source" => {
                self.change_connection(command, frame, args).await
            }
            _ => self.relay(command).await,
        }
    }

    /// The upstream's reply to a question that stands for the command at hand, over the link on which the command would go; `None`
    /// where it is away, and the client has been told.
    async fn judge(&mut self, question: Vec<u8>) -> Result<Option<Vec<u8>>, Gone> {
        if self.own.as_ref().is_some_and(|own| own.may_ask()) {
            return self.ask_own(&question).await.map(Some);
        }
        match self.ask(question).await? {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => {
                self.has_no_answer(&error).await?;
                Ok(None)
            }
        }
    }

    /// Carries out `call` and makes its reply, where `judged`, the upstream's reply to the stand-in, allows that; else that is the reply.
    pub(super) async fn client_answer(&mut self, call: ClientCall<'_>, judged: Vec<u8>) -> Result<Answered, Gone> {
        if !call.is_accepted(&judged) {
            return Ok(judged.into());
        }
        let mut out = Vec::new();
        match call {
            ClientCall::Id => frame::integer(self.card().id as i64, &mut out),
            ClientCall::GetName => {
                let name = self.card().profile().name.clone();
                match name.is_empty() {
                    true => frame::null(self.resp(), &mut out),
                    false => frame::bulk(&name, &mut out),
                }
            }
            ClientCall::SetName(name) => {
                self.card().profile().name = kept_name(name).to_vec();
                out = judged;
            }
            ClientCall::SetInfo(field, value) => {
                self.set_info(field, value);
                out = judged;
            }
            ClientCall::Capa(words) => {
                let can_redirect = words.iter().any(|word| word.eq_ignore_ascii_case(b"redirect"));
                self.card().profile().can_redirect |= can_redirect;
                out = judged;
            }
            ClientCall::Info => match decode(&judged) {
                Ok(Value::Bulk(line)) => text(self.resp(), &client_list::own_line(self.card(), line), &mut out),
                _ => out = judged,
            },
            ClientCall::List(filters) => return self.list(filters, &judged).await.map(Answered::from),
            ClientCall::GetRedir | ClientCall::TrackingInfo => out = self.with_own_redirect(judged),
            ClientCall::Kill(filters) => return self.kill(filters).await,
            ClientCall::Unblock { id, with_error } => return self.unblock(id, with_error).await.map(Answered::from),
            ClientCall::Pause { ms, is_of_all } => {
                if ms <= PAUSE_MAX_MS {
                    self.worker.registry().pause(ms, is_of_all);
                }
                out = judged;
            }
            ClientCall::Unpause => {
                self.worker.registry().unpause();
                out = judged;
            }
        }
        Ok(out.into())
    }

    fn set_info(&self, field: &[u8], value: &[u8]) {
        let mut profile = self.card().profile();
        match field.to_ascii_lowercase().as_slice() {
            b"lib-name" => profile.lib_name = kept_name(value).to_vec(),
            b"lib-ver" => profile.lib_ver = kept_name(value).to_vec(),
            // A newer upstream keeps it; the next session must not have it.
            _ => {}
        }
    }

    /// `CLIENT LIST`, once the upstream has listed what it would list itself.
    async fn list(&mut self, filters: &[&[u8]], listed: &[u8]) -> Result<Vec<u8>, Gone> {
        let registry = self.worker.registry().clone();
        let mut out = Vec::new();
        if let Ok(Value::Bulk(lines)) = decode(listed)
            && let Some(names) = client_list::fields_of(lines)
        {
            registry.saw_list_fields(names);
        } else if registry.list_fields().is_none() {
            // Nobody was listed: whoever may list some may list all.
            let mut all = Vec::new();
            encode_command(&[&b"CLIENT"[..], b"LIST"], &mut all);
            if let Ok(lines) = self.ask(all).await?
                && let Ok(Value::Bulk(lines)) = decode(&lines)
                && let Some(names) = client_list::fields_of(lines)
            {
                registry.saw_list_fields(names);
            }
        }
        let fields = registry.list_fields();
        let collects_ids = collects_ids(fields.as_deref());
        let filters = match Filters::read(filters, self.card().id, false, collects_ids) {
            Ok(filters) => filters,
            Err(line) => {
                frame::error(line, &mut out);
                return Ok(out);
            }
        };
        let mut cards: Vec<_> = match filters.only_ids().filter(|_| !collects_ids) {
            Some(ids) => ids.filter_map(|id| registry.find(id)).collect(),
            None => registry.all(),
        };
        // Who is to be closed already is gone.
        cards.retain(|card| card.wished() != Wish::Kill);
        let mut clients = self.with_links(cards).await?;
        self.as_in_exec(&mut clients, &filters, listed);
        let mut lines = Vec::new();
        for client in clients.iter().filter(|client| filters.take(client)) {
            client.line(fields.as_deref(), &mut lines);
        }
        text(self.resp(), &lines, &mut out);
        Ok(out)
    }

    /// Within a transaction this client's own link is as the upstream has `listed` it when the command ran.
    fn as_in_exec(&self, clients: &mut Vec<Listed>, filters: &Filters, listed: &[u8]) {
        let Some(own) = self.own.as_ref().filter(|own| own.talk.due().is_some()) else { return };
        let Ok(Value::Bulk(lines)) = decode(listed) else { return };
        let is_own = |client: &Listed| client.card().id == own.client_id;
        match client_list::line_of(lines, own.link.upstream_id()) {
            Some(line) => clients.iter_mut().filter(|client| is_own(client)).for_each(|client| client.was(line)),
            // Nothing that the upstream does not know was asked for.
            None if filters.are_of_links_alone() => clients.retain(|client| !is_own(client)),
            // A filter of Lockgate's knowledge, a name say, has kept the upstream from listing the link.
            None => clients
                .iter_mut()
                .filter(|client| is_own(client))
                .for_each(|client| client.was_queueing(own.talk.was_queued())),
        }
    }

    /// These clients with what the upstream says of the links that they have to themselves. Whether this client may know has been judged
    /// before.
    async fn with_links(&mut self, cards: Vec<Arc<Card>>) -> Result<Vec<Listed>, Gone> {
        let asked: Vec<_> =
            cards.into_iter().map(|card| (card.upstream_id(), card)).map(|(id, card)| (card, id)).collect();
        let numbers: Vec<String> = asked.iter().map(|(_, id)| id).filter(|id| **id != 0).map(u64::to_string).collect();
        if numbers.is_empty() {
            return Ok(asked.into_iter().map(|(card, _)| Listed::without_link(card)).collect());
        }
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"LIST", b"ID"];
        words.extend(numbers.iter().map(|number| number.as_bytes()));
        let mut question = Vec::new();
        encode_command(&words, &mut question);
        let links = self.worker.links();
        let listed =
            self.guard(links.caller(&links.service_pool(links.default_db())).call(question)).await?.unwrap_or_default();
        let lines = match decode(&listed) {
            Ok(Value::Bulk(lines)) => lines,
            // It tells Lockgate less than this client: what is known here has to do.
            _ => b"",
        };
        Ok(Listed::with_links(asked, lines))
    }

    /// A reply about `CLIENT TRACKING … REDIRECT`, in which the upstream names a client by its own number for it.
    fn with_own_redirect(&self, reply: Vec<u8>) -> Vec<u8> {
        const FIELD: &[u8] = b"redirect\r\n:";
        let number = match reply.first() {
            Some(b':') => 1,
            _ => match memchr::memmem::find(&reply, FIELD) {
                Some(at) => at + FIELD.len(),
                None => return reply,
            },
        };
        let Some(len) = memchr::memchr(b'\r', &reply[number..]) else { return reply };
        let named = integer(&reply[number..number + len]).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
        let Some(named) = named else { return reply };
        let asked_for = self.own.as_ref().and_then(|own| own.talk.redirect());
        let id = asked_for.or_else(|| self.worker.registry().find_by_link(named)).unwrap_or(named);
        [&reply[..number], id.to_string().as_bytes(), &reply[number + len..]].concat()
    }

    /// TRACKING and the like: the connection needs a link that remembers them.
    async fn change_connection(&mut self, command: &[u8], frame: &RequestFrame, args: &[&[u8]]) -> Result<(), Gone> {
        let effect = client_effect(args);
        let changes_nothing = matches!(effect, Effect::TrackingOff | Effect::None);
        if self.own.is_none() && changes_nothing {
            return self.relay_alone(command).await;
        }
        match self.ready_redirect(args).await? {
            Redirect::Ready => {}
            Redirect::Refused(reply) => {
                self.answer(&reply);
                return Ok(());
            }
            Redirect::Told => return Ok(()),
        }
        let redirected = match self.redirect_target(args) {
            Ok(redirected) => redirected,
            Err(error) => {
                self.answer_line(&error);
                return Ok(());
            }
        };
        let why = match effect {
            Effect::TrackingOn => Why::Tracking,
            _ => Why::ClientFlags,
        };
        if let Err(error) = self.take_own(why).await? {
            return self.has_no_own(&error).await;
        }
        debug_assert!(frame.args > 0);
        if let Some(own) = self.own.as_mut() {
            let (target, command) = match &redirected {
                Some((target, command)) => (Some(*target), command.as_slice()),
                None => (None, command),
            };
            let entry = match effect {
                Effect::TrackingOn | Effect::TrackingOff => tracking_entry(args, target),
                Effect::Flag => Entry::Change(Change::Flag),
                Effect::Sticky => Entry::Change(Change::Lasting),
                _ => Entry::Plain,
            };
            match args[1].eq_ignore_ascii_case(b"caching") {
                true => own.forward_caching(command),
                false => own.forward_entry(command, entry),
            }
        }
        Ok(())
    }

    /// Sees to it that the client that `CLIENT TRACKING … REDIRECT id` names has a link which the upstream can name, if this client may
    /// redirect to it; else gives the answer.
    pub(super) async fn ready_redirect(&mut self, args: &[&[u8]]) -> Result<Redirect, Gone> {
        const NOT_THERE: &[u8] = b"-ERR The client ID you want redirect to does not exist";
        let Some((question, id)) = redirect_stand_in(args) else { return Ok(Redirect::Ready) };
        let Some(judged) = self.judge(question).await? else { return Ok(Redirect::Told) };
        if !judged.starts_with(NOT_THERE) {
            return Ok(Redirect::Refused(judged));
        }
        let Some(card) = self.worker.registry().find(id) else { return Ok(Redirect::Refused(judged)) };
        if card.id == self.card().id && self.take_own(Why::Tracking).await?.is_err() {
            return Ok(Redirect::Ready);
        }
        card.keep_link();
        let limit = self.worker.links().settings().connect_timeout;
        // Where none comes in time the answer says so.
        let _ = self.guard(tokio::time::timeout(limit, card.link_comes())).await?;
        Ok(Redirect::Ready)
    }

    /// `CLIENT TRACKING … REDIRECT id` names a client of ours: the upstream knows it by another number.
    /// Gives our number of it and the command with the upstream's.
    pub(super) fn redirect_target(&self, args: &[&[u8]]) -> Result<Option<(u64, Vec<u8>)>, String> {
        let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"redirect"));
        let Some((at, id)) = at.and_then(|at| Some((at + 1, args.get(at + 1)?))) else { return Ok(None) };
        let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) else { return Ok(None) };
        let missing = "-ERR The client ID you want redirect to does not exist";
        let card = self.worker.registry().find(id).ok_or(missing)?;
        if card.upstream_id() != 0 {
            card.keep_link();
        }
        let upstream = card.upstream_id();
        if upstream == 0 {
            return Err("-UNAVAILABLE the client you want to redirect to has no upstream connection of its own; try again, or raise \
                        links.own_max"
                .into());
        }
        let upstream = upstream.to_string();
        let mut words = args.to_vec();
        words[at] = upstream.as_bytes();
        let mut out = Vec::new();
        encode_command(&words, &mut out);
        Ok(Some((id, out)))
    }

    /// Whom `CLIENT KILL` means with these words, which the upstream has accepted.
    pub(super) fn kill_filters(&self, words: &[&[u8]]) -> Result<Filters, String> {
        match words {
            [addr] => Ok(Filters::of_address(addr)),
            _ => {
                let collects_ids = collects_ids(self.worker.registry().list_fields().as_deref());
                Filters::read(words, self.card().id, true, collects_ids)
            }
        }
    }

    /// `CLIENT KILL`, of which the upstream has said that it may be.
    async fn kill(&mut self, filters: &[&[u8]]) -> Result<Answered, Gone> {
        let registry = self.worker.registry().clone();
        let mut reply = Vec::new();
        let filters = match self.kill_filters(filters) {
            Ok(filters) => filters,
            Err(line) => {
                frame::error(line, &mut reply);
                return Ok(reply.into());
            }
        };
        let clients = match filters.ask_for_links() {
            true => self.with_links(registry.all()).await?,
            false => registry.all().into_iter().map(Listed::without_link).collect(),
        };
        // Who is to be closed already is gone.
        let is_meant = |client: &&Listed| client.card().wished() != Wish::Kill && filters.take(client);
        let victims: Vec<_> = clients.iter().filter(is_meant).map(|client| client.card().clone()).collect();
        self.end(&victims).await?;
        match (filters.are_an_address(), victims.is_empty()) {
            (true, true) => frame::error("ERR No such client", &mut reply),
            (true, false) => frame::simple("OK", &mut reply),
            (false, _) => frame::integer(victims.len() as i64, &mut reply),
        }
        let is_last = victims.iter().any(|card| card.id == self.card().id);
        Ok(Answered { reply, is_last })
    }

    /// Closes the connections of all `victims` but this one. What they are blocked in has ended before anybody hears of it: their own
    /// links may be closed only later.
    async fn end(&mut self, victims: &[Arc<Card>]) -> Result<(), Gone> {
        let links = self.worker.links();
        let mut asked = Vec::new();
        for card in victims.iter().filter(|card| card.id != self.card().id) {
            card.wish(Wish::Kill);
            // From here on that link is lent to nobody else.
            let upstream = card.upstream_id();
            if upstream != 0 {
                asked.push(links.caller(&self.pool).call(client_request(&[b"KILL", b"ID"], upstream, None)));
            }
        }
        for ended in asked {
            let _ = self.guard(ended).await?;
        }
        Ok(())
    }

    /// `CLIENT UNBLOCK`, of which the upstream has said that it may be.
    async fn unblock(&mut self, id: i64, with_error: bool) -> Result<Vec<u8>, Gone> {
        let card = u64::try_from(id).ok().and_then(|id| self.worker.registry().find(id));
        let mut out = Vec::new();
        let Some(card) = card else {
            frame::integer(0, &mut out);
            return Ok(out);
        };
        if card.waits_for_lock.load(std::sync::atomic::Ordering::Acquire) {
            card.wish(if with_error { Wish::UnblockError } else { Wish::UnblockTimeout });
            frame::integer(1, &mut out);
            return Ok(out);
        }
        let pin = card.pin();
        if pin.upstream_id == 0 {
            frame::integer(0, &mut out);
            return Ok(out);
        }
        let mode: &[u8] = if with_error { b"ERROR" } else { b"TIMEOUT" };
        let asked =
            self.worker.links().caller(&self.pool).call(client_request(&[b"UNBLOCK"], pin.upstream_id, Some(mode)));
        // Until it has run, also where the client that asked for it leaves before.
        let unblocked = tokio::task::spawn_local(async move {
            let reply = asked.await;
            drop(pin);
            reply
        });
        match self.guard(unblocked).await? {
            Ok(Ok(reply)) => out = reply,
            Ok(Err(error)) => frame::error(unavailable(&error), &mut out),
            Err(_) => frame::error("UNAVAILABLE Lockgate is closing", &mut out),
        }
        Ok(out)
    }
}

fn unavailable(error: &CallError) -> String {
    format!("UNAVAILABLE {error}")
}

/// `CLIENT TRACKING … REDIRECT id` with a number that nobody has, and the number.
fn redirect_stand_in(args: &[&[u8]]) -> Option<(Vec<u8>, u64)> {
    let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"redirect"))? + 1;
    let id = u64::try_from(integer(args.get(at)?)?).ok()?;
    let nobody = i64::MAX.to_string();
    let mut words = args.to_vec();
    words[at] = nobody.as_bytes();
    let mut question = Vec::new();
    encode_command(&words, &mut question);
    Some((question, id))
}

fn client_request(subcommand: &[&[u8]], id: u64, mode: Option<&[u8]>) -> Vec<u8> {
    let id = id.to_string();
    let mut words: Vec<&[u8]> = vec![b"CLIENT"];
    words.extend(subcommand);
    words.push(id.as_bytes());
    words.extend(mode);
    let mut out = Vec::new();
    encode_command(&words, &mut out);
    out
}

/// Servers that list a client's capabilities take the numbers of several `ID` filters together.
fn collects_ids(fields: Option<&[Box<[u8]>]>) -> bool {
    fields.is_some_and(|fields| fields.iter().any(|name| **name == *b"capa"))
}

/// Text as Redis gives it: verbatim under RESP3.
fn text(resp: Resp, text: &[u8], out: &mut Vec<u8>) {
    match resp {
        Resp::V2 => frame::bulk(text, out),
        Resp::V3 => {
            out.extend_from_slice(format!("={}\r\ntxt:", text.len() + 4).as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}
