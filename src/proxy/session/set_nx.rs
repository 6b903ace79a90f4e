//! `SET … NX` and `SETNX` on lock keys: told from every other `SET` at next to no cost. What may wait runs as a step of its own; the rest
//! has its place in the stream ([`super::in_line`]).

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::grants::{GRANTS_AT_ONCE, Grant};
use super::lock_command::Ending;
use super::own::empty_message;
use super::{Gone, Session};
use crate::commands::lock_scripts::{LockScripts, ScriptCall, ScriptSays, is_script};
use crate::commands::set_nx::{PlainCall, PlainForm};
use crate::commands::{CommandTable, Look, Treatment};
use crate::coordinator::{Hurry, Rule, RuleCounts, Rules, SetNx, SetNxAnswer, Standing, Terms};
use crate::domain::{LockKey, Resp};
use crate::protocol::args::{args, encode_command};
use crate::protocol::frame::{self, decode};
use crate::protocol::request::RequestFrame;
use crate::proxy::registry::Wish;
use crate::upstream::call::Caller;
use crate::upstream::dial::{Identity, LinkKey};
use crate::upstream::links::Links;
use crate::upstream::pools::Lane;

/// How often a call that `CLIENT PAUSE` holds back looks whether that is over.
const PAUSE_LOOK: Duration = Duration::from_millis(10);

/// What becomes of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is none of ours.
    Pass,
    /// It would be ours if its rule were not in the shadow.
    Shadow,
    /// It queues.
    Take,
}

/// The rules, and for whom they are asked. Good for as long as nothing else happens to the session.
pub(super) struct Gate {
    /// `None` where the upstream has a refusal for the client anyway.
    rules: Option<Rc<Rules>>,
    identity: Identity,
    scripts: Rc<LockScripts>,
}

impl Gate {
    /// Judges a whole multibulk command.
    pub(super) fn judge(&self, table: &CommandTable, command: &[u8], frame: &RequestFrame) -> Verdict {
        // Looked up twice where it is one of these; everything else pays a comparison.
        if !matches!(frame.name.len(), 3 | 4 | 5 | 7) {
            return Verdict::Pass;
        }
        match look(table, &command[frame.name.clone()]) {
            Some(look) => self.judge_set(look, command, frame.args),
            None => Verdict::Pass,
        }
    }

    /// Judges a whole command that the table calls `look`. Most end at the number of their arguments, or at their key.
    pub(super) fn judge_set(&self, look: Look, command: &[u8], count: u32) -> Verdict {
        match self.rule(look, count, command) {
            Some((rule, key)) if self.call(look, command).is_some() => match rule.standing(key) {
                Standing::Acts => Verdict::Take,
                Standing::Shadow => Verdict::Shadow,
                Standing::Rests => Verdict::Pass,
            },
            _ => Verdict::Pass,
        }
    }

    /// `true` where a command, of which `bytes` are the beginning and which has `count` arguments, may turn out to be ours.
    pub(super) fn may_take(&self, table: &CommandTable, name: &[u8], count: u32, bytes: &[u8]) -> bool {
        let rule = look(table, name).and_then(|look| self.rule(look, count, bytes));
        rule.is_some_and(|(rule, key)| rule.standing(key) == Standing::Acts)
    }

    /// Counts a call that passes only because its rule is in the shadow.
    pub(super) fn note_shadow(&self, command: &[u8]) {
        let is_script = args(command).next().is_some_and(is_script);
        if let Some(rule) = args(command).nth(key_at(is_script)).and_then(|key| self.find(key)) {
            RuleCounts::note(&rule.counts.shadowed);
        }
    }

    /// The rule for the key of a command that the table calls `look`, and the key.
    fn rule<'a>(&self, look: Look, count: u32, command: &'a [u8]) -> Option<(&Rule, &'a [u8])> {
        // A SET without options is the most common write there is, and no SET NX.
        let may_be = match look {
            Look::Set => count >= 4,
            Look::LockScript => count >= 5,
            _ => count == 3,
        };
        if !may_be || self.rules.is_none() {
            return None;
        }
        let key = args(command).nth(key_at(look == Look::LockScript))?;
        self.find(key).filter(|rule| !rule.barge).map(|rule| (rule, key))
    }

    /// The `SET NX` that `command` is, and its rule, where the gate takes it.
    pub(super) fn plain_call<'a>(&self, command: &'a [u8], frame: &RequestFrame) -> Option<(&Rule, PlainCall<'a>)> {
        // No `LOCK.*` is as short.
        let look = match frame.name.len() {
            3 => Look::Set,
            5 => Look::SetNx,
            _ => return None,
        };
        let (rule, key) = self.rule(look, frame.args, command)?;
        let is_taken = rule.standing(key) == Standing::Acts;
        self.call(look, command).filter(|_| is_taken).map(|call| (rule, call))
    }

    fn call<'a>(&self, look: Look, command: &'a [u8]) -> Option<PlainCall<'a>> {
        match look {
            Look::Set => PlainCall::of_set(args(command).skip(1)),
            Look::LockScript => self.scripts.read(args(command)).map(|script| script.call),
            _ => PlainCall::of_setnx(args(command).skip(1)),
        }
    }

    fn find(&self, key: &[u8]) -> Option<&Rule> {
        self.rules.as_ref()?.find(key, user(&self.identity))
    }
}

/// Which word is the key: behind the name, or behind a script and the count of its keys.
fn key_at(is_script: bool) -> usize {
    if is_script { 3 } else { 1 }
}

/// Whom the upstream takes a client for.
pub(super) fn user(identity: &Identity) -> &[u8] {
    match identity {
        Identity::Named(credentials) => credentials.user.as_deref().unwrap_or(b"default"),
        Identity::Anonymous | Identity::Stranger | Identity::Service => b"default",
    }
}

fn look(table: &CommandTable, name: &[u8]) -> Option<Look> {
    if matches!(name.len(), 4 | 7) {
        return is_script(name).then_some(Look::LockScript);
    }
    match table.find(name)?.treatment {
        Treatment::Look(look @ (Look::Set | Look::SetNx)) => Some(look),
        _ => None,
    }
}

impl Session {
    /// The rules for what this client sends now.
    pub(super) fn gate(&self) -> Gate {
        let rules = (!self.must_authenticate()).then(|| self.worker.rules());
        Gate { rules, identity: self.key.identity.clone(), scripts: self.worker.lock_scripts().clone() }
    }

    /// Runs the `SET NX` that `gate` takes, if the connection is in a state for it once nothing is owed to it any more; `false`
    /// where the upstream has to see it as it is (in a transaction, say).
    pub(super) async fn intercept(&mut self, gate: &Gate, command: &[u8], frame: &RequestFrame) -> Result<bool, Gone> {
        let facts = self.worker.links().facts();
        let Some(look) = look(&facts.table, &command[frame.name.clone()]) else { return Ok(false) };
        if self.own.as_ref().is_some_and(|own| own.talk.is_certain() && !own.may_intercept()) {
            return Ok(false);
        }
        // What is still owed may begin a transaction or end one, or end a subscription.
        self.drain().await?;
        if self.own.as_ref().is_some_and(|own| !own.may_intercept() || own.talk.is_pubsub_only()) {
            return Ok(false);
        }
        self.is_admitted().await?;
        if self.must_authenticate() {
            return Ok(false);
        }
        let Some(call) = gate.call(look, command) else { return Ok(false) };
        let Some(rule) = gate.find(call.key) else { return Ok(false) };
        if look == Look::LockScript && self.is_its_own(gate, command).await? {
            return Ok(false);
        }
        if self.waits_out_pause(command).await? {
            return Ok(true);
        }
        self.set_nx(rule, &call).await?;
        Ok(true)
    }

    /// Whether the lock that a script asks for is held under the token that it gives: the script lets its holder take it again.
    async fn is_its_own(&mut self, gate: &Gate, command: &[u8]) -> Result<bool, Gone> {
        let Some(ScriptCall { call, token: Some(token) }) = gate.scripts.read(args(command)) else { return Ok(false) };
        let last = token.len().saturating_sub(1).to_string();
        let mut question = Vec::new();
        encode_command(&[b"GETRANGE", call.key, b"0", last.as_bytes()], &mut question);
        let asked = self.asker().caller.call(question);
        let reply = self.guard(asked).await?;
        let held =
            reply.ok().and_then(|reply| decode(&reply).ok().and_then(|held| held.as_bytes().map(<[u8]>::to_vec)));
        Ok(!token.is_empty() && held.as_deref() == Some(token))
    }

    /// A write that the upstream holds back would hold up everybody else on its link. Whoever has no right to it is told so at once, as by
    /// the server: then this is `true`.
    async fn waits_out_pause(&mut self, command: &[u8]) -> Result<bool, Gone> {
        let registry = self.worker.registry().clone();
        if !registry.is_paused() {
            return Ok(false);
        }
        let mut judged = pin!(judged_in_pause(self.worker.links(), self.key.clone(), command.to_vec()));
        // Where nothing at all is answered, a new link is not either.
        let mut is_judged = registry.is_all_paused();
        while registry.is_paused() {
            if let Some(count) = registry.looks_at_pauses() {
                self.looks_whether_over(count);
            }
            let some_time = async {
                tokio::select! {
                    biased;
                    reply = &mut judged, if !is_judged => reply,
                    () = tokio::time::sleep(PAUSE_LOOK) => None,
                }
            };
            if let Some(reply) = self.guard(some_time).await? {
                is_judged = true;
                if reply.starts_with(b"-NOPERM") {
                    if let Some(own) = self.own.as_mut() {
                        own.uses_caching_up();
                    }
                    self.answer(&reply);
                    return Ok(true);
                }
            }
            if self.io.peer_has_closed() {
                return Err(Gone);
            }
        }
        Ok(false)
    }

    /// A pause may be ended around Lockgate: what it holds back gets through then. Nobody else is on these links but other looks.
    fn looks_whether_over(&self, count: u64) {
        let (router, registry) = (self.worker.router(), self.worker.registry().clone());
        let key = LinkKey { identity: Identity::Service, db: router.default_db(), resp: Resp::V2 };
        let gets_through = router.caller(key, Lane::Scripts).call(empty_message());
        tokio::task::spawn_local(async move {
            if gets_through.await.is_ok_and(|reply| reply.starts_with(b":")) {
                registry.pauses_are_over(count);
            }
        });
    }

    async fn set_nx(&mut self, rule: &Rule, call: &PlainCall<'_>) -> Result<(), Gone> {
        RuleCounts::note(&rule.counts.taken);
        let coordinator = self.worker.coordinator().clone();
        let mut ask = SetNx {
            key: call.key.into(),
            value: call.value.into(),
            lease: coordinator.plain_lease(rule, call.lease),
            terms: coordinator.terms(rule),
        };
        let asker = self.asker();
        let db = asker.db;
        if self.grants.are_too_many() {
            ask.terms.wait_ms = 0;
        }
        let may_wait = ask.terms.wait_ms > 0;
        // The newest first: it is the likeliest to be still there.
        let in_the_way = match may_wait {
            true if rule.wait_while_holding => self.grants.at(db, call.key),
            true => self.grants.newest_first(),
            false => Vec::new(),
        };
        if may_wait {
            self.card().fulfil();
            self.card().waits_for_lock.store(true, Ordering::Release);
        }
        // A call that waits may be granted by another's script, which is no write of its own.
        let is_shielded = !may_wait && self.own.as_ref().is_some_and(|own| own.talk.spares_own_writes());
        if is_shielded && let Some(own) = self.own.as_mut() {
            own.incoming.shield(call.key);
        }
        let io = self.io.clone();
        let is_there = move || !(may_wait && io.peer_has_closed());
        let keys = [LockKey { db, name: ask.key.clone() }];
        let by = asker.by();
        let asking = coordinator.asks(&keys, &ask.value, &by, ask.terms.wait_ms);
        let gone = RefCell::new(Vec::new());
        let hurry = Hurry::default();
        let ending = {
            let links = self.worker.links();
            let identity = self.key.identity.clone();
            let answer = async {
                let hold = pin!(links.hold());
                if call.form == PlainForm::SetNx && !coordinator.may_setnx(&asker, &ask.key).await {
                    // In its own words.
                    return coordinator.plain(&asker, &ask, call.form).await;
                }
                let mut answer = SetNxAnswer::NotSet;
                if !in_the_way.is_empty() {
                    // What comes free at once needs no question; most of those in the way have ended long ago.
                    let terms = Terms { wait_ms: 0, ticket_ms: 0, ..ask.terms };
                    answer = coordinator.set_nx(&asker, SetNx { terms, ..ask.clone() }, None, &is_there).await;
                }
                if answer == SetNxAnswer::NotSet {
                    // No release could be sent behind it. What stands may be what the call itself has just set, whose reply comes over
                    // another link: so the call ends by its own answer, and is never dropped with a grant on its way.
                    let stands = async {
                        one_stands(&links, &identity, in_the_way, &gone).await;
                        hurry.give();
                        std::future::pending::<()>().await;
                    };
                    answer = tokio::select! {
                        biased;
                        answer = coordinator.set_nx(&asker, ask.clone(), Some(&hurry), &is_there) => answer,
                        () = stands => unreachable!("it only hurries the call"),
                    };
                }
                if may_wait && matches!(answer, SetNxAnswer::Unreached(_)) {
                    return answer;
                }
                let again = || coordinator.set_nx(&asker, ask.clone(), Some(&hurry), &is_there);
                goes_on(&links, hold, answer, again, || coordinator.pass_on(&asker, &ask, call.form)).await
            };
            self.lock_ending(answer, may_wait, (may_wait && rule.yields).then_some(&hurry)).await
        };
        self.card().waits_for_lock.store(false, Ordering::Release);
        self.grants.forget(&gone.into_inner());
        let (mut out, mut granted) = (Vec::new(), None);
        let ending = ending?;
        if let Ending::Answered(answer) = &ending {
            asking.ends_plainly(answer, ask.lease);
        }
        match ending {
            Ending::Answered(SetNxAnswer::Set) => {
                granted = Some(Grant::new(db, &ask.key, &ask.value));
                match call.form {
                    PlainForm::Set => frame::simple("OK", &mut out),
                    PlainForm::SetNx => frame::integer(1, &mut out),
                    PlainForm::Script(answers) => self.script_says(answers.granted, &mut out),
                }
            }
            Ending::Answered(SetNxAnswer::Error(line)) => frame::error(line, &mut out),
            Ending::Answered(SetNxAnswer::Unreached(line) | SetNxAnswer::Unknown(line)) => {
                self.card().fulfil();
                return self.is_away(&format!("-{line}")).await;
            }
            Ending::Unblocked(Wish::UnblockError) => {
                frame::error("UNBLOCKED client unblocked via CLIENT UNBLOCK", &mut out);
            }
            Ending::Answered(SetNxAnswer::NotSet | SetNxAnswer::PassOn) | Ending::Unblocked(_) => match call.form {
                PlainForm::Set => frame::null(self.resp(), &mut out),
                PlainForm::SetNx => frame::integer(0, &mut out),
                PlainForm::Script(answers) => self.script_says(answers.refused, &mut out),
            },
        }
        self.card().fulfil();
        if let Some(own) = self.own.as_mut() {
            own.talk.wrote_elsewhere();
            own.uses_caching_up();
        }
        self.answer(&out);
        if is_shielded {
            self.unshield(call.key, granted.is_some()).await?;
        }
        match granted {
            Some(grant) => self.remember(grant).await,
            None => Ok(()),
        }
    }

    fn script_says(&self, says: ScriptSays, out: &mut Vec<u8>) {
        match says {
            ScriptSays::Ok => frame::simple("OK", out),
            ScriptSays::Nil => frame::null(self.resp(), out),
            ScriptSays::Integer(number) => frame::integer(number, out),
        }
    }

    /// `CLIENT TRACKING … NOLOOP`: the client is not told of a key that it has written itself.
    async fn unshield(&mut self, key: &[u8], was_written: bool) -> Result<(), Gone> {
        if was_written {
            // What the write has brought stands before the answer to this.
            self.ask_own(b"*1\r\n$4\r\nPING\r\n").await?;
        }
        let has_come = self.own.as_mut().is_some_and(|own| own.incoming.unshield());
        if has_come && !was_written {
            let mut push = Vec::new();
            frame::push(Resp::V3, 2, &mut push);
            frame::bulk("invalidate", &mut push);
            frame::array(1, &mut push);
            frame::bulk(key, &mut push);
            self.io.push(&push);
        }
        Ok(())
    }

    /// Keeps in mind what this connection holds, where that may matter to a call that could wait.
    async fn remember(&mut self, grant: Grant) -> Result<(), Gone> {
        if !self.worker.rules().have_waits() {
            return Ok(());
        }
        if self.grants.are_full() {
            // Most of them have ended in ways that are not seen here: by a script, or by their expiry.
            let gone = RefCell::new(Vec::new());
            let links = self.worker.links();
            let all = self.grants.newest_first();
            self.guard(drop_those_gone(&links, &self.key.identity, all, &gone)).await?;
            self.grants.forget(&gone.into_inner());
        }
        self.grants.add(grant);
        Ok(())
    }
}

/// What the upstream says to a write while it holds writes back: nothing, unless the client has no right to it. Should it get through, a
/// transaction that nobody ends has it; a client that may open none is asked for by `ACL DRYRUN` first.
async fn judged_in_pause(links: Rc<Links>, key: LinkKey, command: Vec<u8>) -> Option<Vec<u8>> {
    if let Ok(mut link) = links.take_own_now(&key).await {
        let is_queued = link.ask(b"*1\r\n$5\r\nMULTI\r\n").await.is_ok_and(|reply| reply == b"+OK\r\n");
        if (is_queued || is_refused_dry(&links, &key, &command).await)
            && let Ok(reply) = link.ask(&command).await
        {
            return Some(reply);
        }
    }
    std::future::pending().await
}

async fn is_refused_dry(links: &Rc<Links>, key: &LinkKey, command: &[u8]) -> bool {
    let words: Vec<&[u8]> = [&b"ACL"[..], b"DRYRUN", user(&key.identity)].into_iter().chain(args(command)).collect();
    let mut question = Vec::new();
    encode_command(&words, &mut question);
    let reply = links.caller(&links.service_pool(links.default_db())).call(question).await;
    // `+OK` is an answer of another kind.
    reply.is_ok_and(|reply| reply.starts_with(b"$"))
}

/// What becomes of a `SET NX` that was answered with `answer`: one that no queue can be kept for is passed on as it is, and one that
/// never reached the upstream is asked `again` when that is back, for as long as `hold` lasts.
pub(super) async fn goes_on<A: Future<Output = SetNxAnswer>, P: Future<Output = SetNxAnswer>>(
    links: &Rc<Links>,
    mut hold: Pin<&mut impl Future<Output = ()>>,
    mut answer: SetNxAnswer,
    again: impl Fn() -> A,
    pass_on: impl Fn() -> P,
) -> SetNxAnswer {
    loop {
        if answer == SetNxAnswer::PassOn {
            answer = pass_on().await;
        }
        let is_unreached = matches!(answer, SetNxAnswer::Unreached(_));
        if !is_unreached || !links.is_back(hold.as_mut()).await {
            return answer;
        }
        answer = again().await;
    }
}

/// Resolves as soon as one of `grants` is found to stand; never where none does. Those that do not go into `gone`.
async fn one_stands(links: &Rc<Links>, identity: &Identity, grants: Vec<Grant>, gone: &RefCell<Vec<Grant>>) {
    for some in grants.chunks(GRANTS_AT_ONCE) {
        if look_at(links, identity, some, gone).await {
            return;
        }
    }
    std::future::pending().await
}

async fn drop_those_gone(links: &Rc<Links>, identity: &Identity, grants: Vec<Grant>, gone: &RefCell<Vec<Grant>>) {
    for some in grants.chunks(GRANTS_AT_ONCE) {
        look_at(links, identity, some, gone).await;
    }
}

/// Asks for all of `grants` in one round trip; `true` if one stands, or may stand.
async fn look_at(links: &Rc<Links>, identity: &Identity, grants: &[Grant], gone: &RefCell<Vec<Grant>>) -> bool {
    let mut replies = Vec::with_capacity(grants.len());
    for grant in grants {
        let key = LinkKey { identity: identity.clone(), db: grant.db, resp: Resp::V2 };
        replies.push(grant.ask(&links.caller(&links.pool(key))));
    }
    let mut one_stands = false;
    for (grant, reply) in grants.iter().zip(replies) {
        match grant.stands(reply.await) {
            true => one_stands = true,
            false => gone.borrow_mut().push(grant.clone()),
        }
    }
    one_stands
}
