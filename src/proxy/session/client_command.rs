//! `CLIENT …`: what speaks of clients is answered from Lockgate's own registry, what changes the connection goes to a
//! link of its own, the rest to the upstream.

use std::sync::atomic::Ordering;

use super::handshake::is_client_name;
use super::{Gone, Session};
use crate::commands::{Effect, Why, client_effect};
use crate::domain::Resp;
use crate::protocol::args::encode_command;
use crate::protocol::frame;
use crate::protocol::request::RequestFrame;
use crate::proxy::client_list::{self, Filter};
use crate::proxy::registry::Wish;

impl Session {
    pub(super) async fn client_command(
        &mut self,
        command: &[u8],
        frame: &RequestFrame,
        args: &[&[u8]],
    ) -> Result<(), Gone> {
        let Some(subcommand) = args.get(1) else { return self.relay(command).await };
        let rest = args.get(2..).unwrap_or_default();
        match (subcommand.to_ascii_lowercase().as_slice(), rest) {
            (b"id", []) => self.answer_integer(self.card().id as i64),
            (b"getname", []) => {
                let name = self.card().profile().name.clone();
                let mut out = Vec::new();
                match name.is_empty() {
                    true => frame::null(self.resp(), &mut out),
                    false => frame::bulk(&name, &mut out),
                }
                self.answer(&out);
            }
            (b"setname", [name]) => match is_client_name(name) {
                true => {
                    self.card().profile().name = name.to_vec();
                    self.answer_line("+OK");
                }
                false => self.answer_line("-ERR Client names cannot contain spaces, newlines or special characters."),
            },
            (b"setinfo", [field, value]) if self.worker.links().facts().knows_setinfo() => {
                self.set_info(field, value);
            }
            (b"info", []) => {
                let line = client_list::line(self.card());
                self.answer_text(line.as_bytes());
            }
            (b"list", filters) => match Filter::of_list(filters) {
                Ok(filter) => {
                    let lines: String = self
                        .worker
                        .registry()
                        .all()
                        .iter()
                        .filter(|c| filter.takes(c))
                        .map(|c| client_list::line(c))
                        .collect();
                    self.answer_text(lines.as_bytes());
                }
                Err(error) => self.answer_line(&format!("-{error}")),
            },
            (b"pause", [ms, ..]) => {
                if let Some(ms) = std::str::from_utf8(ms).ok().and_then(|ms| ms.parse().ok()) {
                    self.worker.registry().pause(ms);
                }
                return self.relay(command).await;
            }
            (b"unpause", []) => {
                self.worker.registry().pause(0);
                return self.relay(command).await;
            }
            (b"getredir", []) if self.own.as_ref().is_some_and(|own| own.redirect.is_some()) => {
                let target = self.own.as_ref().and_then(|own| own.redirect).unwrap_or(0);
                self.answer_integer(i64::try_from(target).unwrap_or(i64::MAX));
            }
            (b"kill", [_, ..]) => return self.kill(rest).await,
            (b"unblock", [_] | [_, _]) => return self.unblock(rest).await,
            (b"maint_notifications", _) => {
                // An upstream that took this would push clients past us.
                let word = String::from_utf8_lossy(subcommand);
                self.answer_line(&format!("-ERR unknown subcommand '{word}'. Try CLIENT HELP."));
            }
            (b"reply" | b"tracking" | b"no-evict" | b"no-touch" | b"caching" | b"capa" | b"import-source", _) => {
                return self.change_connection(command, frame, args).await;
            }
            _ => return self.relay(command).await,
        }
        Ok(())
    }

    fn set_info(&mut self, field: &[u8], value: &[u8]) {
        let is_valid = value.iter().all(|byte| (b'!'..=b'~').contains(byte));
        let mut profile = self.card().profile();
        let (known, slot) = match field.to_ascii_lowercase().as_slice() {
            b"lib-name" => ("lib-name", &mut profile.lib_name),
            b"lib-ver" => ("lib-ver", &mut profile.lib_ver),
            _ => {
                drop(profile);
                let field = String::from_utf8_lossy(field).into_owned();
                return self.answer_line(&format!("-ERR Unrecognized option '{field}'"));
            }
        };
        if is_valid {
            *slot = value.to_vec();
        }
        drop(profile);
        match is_valid {
            true => self.answer_line("+OK"),
            false => self.answer_line(&format!("-ERR {known} cannot contain spaces, newlines or special characters.")),
        }
    }

    /// REPLY, TRACKING and the like: the connection needs a link that remembers them.
    async fn change_connection(&mut self, command: &[u8], frame: &RequestFrame, args: &[&[u8]]) -> Result<(), Gone> {
        let effect = client_effect(args);
        let changes_nothing = matches!(effect, Effect::ReplyOn | Effect::TrackingOff | Effect::None);
        if self.own.is_none() && changes_nothing {
            return self.relay_alone(command).await;
        }
        let redirected = match self.redirect_target(args) {
            Ok(redirected) => redirected,
            Err(error) => {
                self.answer_line(&error);
                return Ok(());
            }
        };
        let why = match effect {
            Effect::ReplyOff | Effect::ReplySkip => Why::ReplyMode,
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
            if matches!(effect, Effect::TrackingOn | Effect::TrackingOff) {
                own.redirect = target;
            }
            own.forward_client(command, effect);
        }
        Ok(())
    }

    /// `CLIENT TRACKING … REDIRECT id` names a client of ours: the upstream knows it by another number.
    /// Gives our number of it and the command with the upstream's.
    fn redirect_target(&self, args: &[&[u8]]) -> Result<Option<(u64, Vec<u8>)>, String> {
        let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"redirect"));
        let Some((at, id)) = at.and_then(|at| Some((at + 1, args.get(at + 1)?))) else { return Ok(None) };
        let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) else { return Ok(None) };
        let missing = "-ERR The client ID you want redirect to does not exist";
        let card = self.worker.registry().find(id).ok_or(missing)?;
        let upstream = card.upstream_id.load(Ordering::Relaxed);
        if upstream == 0 {
            return Err("-ERR The client you want to redirect to has no upstream connection of its own yet; let it \
                        SUBSCRIBE to __redis__:invalidate first"
                .into());
        }
        let upstream = upstream.to_string();
        let mut words = args.to_vec();
        words[at] = upstream.as_bytes();
        let mut out = Vec::new();
        encode_command(&words, &mut out);
        Ok(Some((id, out)))
    }

    async fn kill(&mut self, rest: &[&[u8]]) -> Result<(), Gone> {
        let (filter, is_old_form) = match Filter::of_kill(rest, self.card().id) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.answer_line(&format!("-{error}"));
                return Ok(());
            }
        };
        let victims: Vec<_> = self.worker.registry().all().into_iter().filter(|card| filter.takes(card)).collect();
        for card in &victims {
            let upstream = card.upstream_id.load(Ordering::Relaxed);
            if upstream != 0 && card.id != self.card().id {
                // What it is blocked in ends before anybody hears that it is gone.
                let mut request = Vec::new();
                encode_command(&[&b"CLIENT"[..], b"KILL", b"ID", upstream.to_string().as_bytes()], &mut request);
                let _ = self.ask(request).await?;
            }
        }
        let is_suicide = victims.iter().any(|card| card.id == self.card().id);
        match (is_old_form, victims.is_empty()) {
            (true, true) => self.answer_line("-ERR No such client"),
            (true, false) => self.answer_line("+OK"),
            (false, _) => self.answer_integer(victims.len() as i64),
        }
        for card in victims.iter().filter(|card| card.id != self.card().id) {
            card.wish(Wish::Kill);
        }
        if is_suicide {
            self.flushed().await?;
            return Err(Gone);
        }
        Ok(())
    }

    async fn unblock(&mut self, rest: &[&[u8]]) -> Result<(), Gone> {
        let with_error = match rest.get(1).map(|mode| mode.to_ascii_lowercase()).as_deref() {
            None | Some(b"timeout") => false,
            Some(b"error") => true,
            Some(_) => {
                self.answer_line("-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
                return Ok(());
            }
        };
        let Some(id) = rest.first().and_then(|id| std::str::from_utf8(id).ok()?.parse::<i64>().ok()) else {
            self.answer_line("-ERR value is not an integer or out of range");
            return Ok(());
        };
        let card = u64::try_from(id).ok().and_then(|id| self.worker.registry().find(id));
        let Some(card) = card else {
            self.answer_integer(0);
            return Ok(());
        };
        if card.waits_for_lock.load(Ordering::Acquire) {
            card.wish(if with_error { Wish::UnblockError } else { Wish::UnblockTimeout });
            self.answer_integer(1);
            return Ok(());
        }
        let upstream = card.upstream_id.load(Ordering::Relaxed);
        if upstream == 0 {
            self.answer_integer(0);
            return Ok(());
        }
        let mode: &[u8] = if with_error { b"ERROR" } else { b"TIMEOUT" };
        let mut request = Vec::new();
        encode_command(&[&b"CLIENT"[..], b"UNBLOCK", upstream.to_string().as_bytes(), mode], &mut request);
        self.relay(&request).await
    }

    pub(super) fn answer_integer(&mut self, number: i64) {
        self.answer_line(&format!(":{number}"));
    }

    /// Text as Redis gives it: verbatim under RESP3.
    fn answer_text(&mut self, text: &[u8]) {
        let mut out = Vec::new();
        match self.resp() {
            Resp::V2 => frame::bulk(text, &mut out),
            Resp::V3 => {
                out.extend_from_slice(format!("={}\r\ntxt:", text.len() + 4).as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.answer(&out);
    }
}
