//! The plain command behind a `SET NX`: what its rule makes of it, and how it is sent as it is where no queue can be kept.

use std::sync::Arc;

use super::rules::Rule;
use super::set_nx::{SetNx, SetNxAnswer, Terms};
use super::{Asker, Coordinator, UNAUDITED};
use crate::commands::set_nx::PlainForm;
use crate::domain::{Fence, LockKey, PlainLease};
use crate::locks::{Form, Grant};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{Value, decode};
use crate::upstream::call::{CallError, Caller};

/// KEYS: the key. Returns: 1, or 0 where the user may not run SETNX on it.
const MAY_SETNX: &[u8] =
    b"if redis.acl_check_cmd and not redis.acl_check_cmd('SETNX', KEYS[1], '') then return 0 end return 1";

impl Rule {
    /// The lease of a `SET NX` that asks for `asked`: `default_ttl` where it asks for none, cut at `max_ttl`. The general settings
    /// are for `LOCK.*`: a client that never heard of them keeps what it wrote, unless a rule for its keys says otherwise.
    ///
    /// `at_ms` is the Unix time by which it is granted at the latest. A lease until a certain time is cut if it would be too long even
    /// then; one that is too long only for an earlier grant stays as it is, and so exceeds `max_ttl` by less than the wait.
    fn plain_lease(&self, asked: PlainLease, at_ms: u64) -> PlainLease {
        let cut = |ms: u64| self.max_ttl_ms.map_or(ms, |max| ms.min(max)).max(1);
        match (asked, self.max_ttl_ms) {
            (PlainLease::Forever, _) => self.default_ttl_ms.map_or(asked, |ms| PlainLease::Ms(cut(ms))),
            (PlainLease::Ms(ms), _) => PlainLease::Ms(cut(ms)),
            (PlainLease::AtMs(until), Some(max)) if until > at_ms.saturating_add(max) => PlainLease::Ms(cut(max)),
            (PlainLease::AtMs(_), _) => asked,
        }
    }
}

impl Coordinator {
    /// What `rule` says about a `SET NX`.
    pub fn terms(&self, rule: &Rule) -> Terms {
        Terms {
            wait_ms: rule.wait_ms.min(self.settings.max_wait_ms.get()),
            level: rule.level.unwrap_or_default(),
            ticket_ms: rule.ticket_ms,
            max_queue: rule.queue_max,
        }
    }

    /// The lease of a `SET NX` under `rule` that asks for `asked`.
    pub fn plain_lease(&self, rule: &Rule, asked: PlainLease) -> PlainLease {
        let latest_ms = (self.unix_us() / 1000).saturating_add(self.terms(rule).wait_ms);
        rule.plain_lease(asked, latest_ms)
    }

    /// After [`SetNxAnswer::PassOn`]: the plain command decides, or, with `fallback = false`, nobody does.
    pub async fn pass_on<C: Caller>(self: &Arc<Self>, asker: &Asker<C>, ask: &SetNx, form: PlainForm) -> SetNxAnswer {
        let key = LockKey { db: asker.db, name: ask.key.clone() };
        if !self.settings.fallback {
            return SetNxAnswer::Error(format!(
                "UNAVAILABLE the queue for '{key}' cannot be kept, and fallback = false forbids the plain SET NX; try again, look \
                 into Lockgate's log for the reason, or set fallback = true"
            ));
        }
        self.fallback.note(&key);
        let answer = self.plain(asker, ask, form).await;
        if answer == SetNxAnswer::Set {
            self.deadlocks.took(&key, asker.session, &ask.value, ask.lease, self.now(), self.unix_us() / 1000);
        }
        answer
    }

    /// Whether the client's user may run `SETNX` on the key; `SET` may be allowed to it all the same. `true` where that cannot be found
    /// out: then the scripts are refused to it as well, or the upstream (Redis 6.2) does not tell.
    pub async fn may_setnx<C: Caller>(&self, asker: &Asker<C>, key: &[u8]) -> bool {
        let mut request = Vec::new();
        encode_command(&[&b"EVAL"[..], MAY_SETNX, b"1", key], &mut request);
        !asker.caller.call(request).await.is_ok_and(|reply| reply == b":0\r\n")
    }

    /// Sends the plain command for the client; never answers [`SetNxAnswer::PassOn`].
    pub async fn plain<C: Caller>(self: &Arc<Self>, asker: &Asker<C>, ask: &SetNx, form: PlainForm) -> SetNxAnswer {
        if self.cannot_be_audited() {
            return SetNxAnswer::Error(UNAUDITED.into());
        }
        let answer = self.as_written(asker, ask, form).await;
        if let (SetNxAnswer::Set, PlainForm::SetNx, PlainLease::Ms(ms)) = (&answer, form, ask.lease) {
            self.add_lease(asker, &ask.key, ms).await;
        }
        if answer != SetNxAnswer::Set {
            return answer;
        }
        let key = LockKey { db: asker.db, name: ask.key.clone() };
        let grant = Grant { fence: Fence(0), value: ask.value.clone() };
        let form = Form::Plain { value: ask.value.clone(), lease: ask.lease };
        match self.confirmed_by_replicas(&key, (&grant, true), &form, &asker.service).await {
            Ok(()) => answer,
            Err(line) => SetNxAnswer::Error(line),
        }
    }

    /// `SETNX` has no words for the lease that a rule gives. It is set before the client is told that it has the lock; what has an expiry
    /// by then is somebody else's lock already. Where the client's user may not set one, Lockgate's own does.
    async fn add_lease<C: Caller>(&self, asker: &Asker<C>, key: &[u8], ms: u64) {
        let ms = ms.to_string();
        let words: [&[u8]; 4] = [b"PEXPIRE", key, ms.as_bytes(), b"NX"];
        // Redis 6.2 does not know NX.
        for (caller, count) in [(&asker.caller, 4), (&asker.service, 4), (&asker.service, 3)] {
            let mut request = Vec::new();
            encode_command(&words[..count], &mut request);
            if caller.call(request).await.is_ok_and(|reply| reply.starts_with(b":")) {
                return;
            }
        }
        tracing::warn!(key = %key.escape_ascii(), ms, "a SETNX that passed got no lease: PEXPIRE was refused; the lock stays until it is released");
    }

    async fn as_written<C: Caller>(&self, asker: &Asker<C>, ask: &SetNx, form: PlainForm) -> SetNxAnswer {
        match asker.caller.call(plain_command(ask, form)).await {
            Ok(reply) => match decode(&reply) {
                Ok(Value::Simple(_) | Value::Integer(1)) => SetNxAnswer::Set,
                Ok(Value::Null | Value::Integer(0)) => SetNxAnswer::NotSet,
                Ok(Value::Error(line)) => SetNxAnswer::Error(String::from_utf8_lossy(line).into_owned()),
                _ => SetNxAnswer::Error("ERR the upstream's answer to SET NX makes no sense; is it a Redis?".into()),
            },
            Err(error @ CallError::Unavailable(_)) => {
                SetNxAnswer::Unreached(format!("UNAVAILABLE {error}; the key was not set, try again"))
            }
            Err(error @ CallError::Lost(_)) => SetNxAnswer::Unknown(format!(
                "UNAVAILABLE {error}; whether the key was set is unknown, look at its value"
            )),
        }
    }
}

/// As the client wrote it: who may run `SETNX` need not be allowed to `SET`.
fn plain_command(ask: &SetNx, form: PlainForm) -> Vec<u8> {
    let mut out = Vec::new();
    if form == PlainForm::SetNx {
        encode_command(&[&b"SETNX"[..], &ask.key, &ask.value], &mut out);
        return out;
    }
    let (unit, time) = match ask.lease {
        PlainLease::Forever => ("", String::new()),
        PlainLease::Ms(ms) => ("PX", ms.to_string()),
        PlainLease::AtMs(at) => ("PXAT", at.to_string()),
    };
    let words: [&[u8]; 6] = [b"SET", &ask.key, &ask.value, b"NX", unit.as_bytes(), time.as_bytes()];
    let count = if unit.is_empty() { 4 } else { 6 };
    encode_command(&words[..count], &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::coordinator::Rules;
    use crate::protocol::args::args;
    use std::time::Duration;

    fn rule(change: impl FnOnce(&mut config::Rule)) -> Rule {
        let mut rule = config::Rule::matching("*");
        change(&mut rule);
        Rules::of(&[rule]).all()[0].clone()
    }

    fn words(form: PlainForm, lease: PlainLease) -> String {
        let terms = Terms::default();
        let ask = SetNx { key: (*b"k").into(), value: (*b"v").into(), lease, terms };
        let command = plain_command(&ask, form);
        args(&command).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_lease_stays_as_the_client_wrote_it_unless_the_rule_says_otherwise() {
        let silent = rule(|_| ());
        for lease in [PlainLease::Forever, PlainLease::Ms(u64::from(u32::MAX)), PlainLease::AtMs(5)] {
            assert_eq!(silent.plain_lease(lease, 1000), lease);
        }
        let strict = rule(|rule| {
            rule.default_ttl = Some(Duration::from_secs(90));
            rule.max_ttl = Some(Duration::from_secs(60));
        });
        assert_eq!(strict.plain_lease(PlainLease::Forever, 1000), PlainLease::Ms(60_000));
        assert_eq!(strict.plain_lease(PlainLease::Ms(60_001), 1000), PlainLease::Ms(60_000));
        assert_eq!(strict.plain_lease(PlainLease::Ms(5), 1000), PlainLease::Ms(5));
        assert_eq!(strict.plain_lease(PlainLease::AtMs(61_001), 1000), PlainLease::Ms(60_000));
        assert_eq!(strict.plain_lease(PlainLease::AtMs(61_000), 1000), PlainLease::AtMs(61_000));
        let only_max = rule(|rule| rule.max_ttl = Some(Duration::from_secs(60)));
        assert_eq!(only_max.plain_lease(PlainLease::Forever, 0), PlainLease::Forever, "what has no lease is not cut");
    }

    #[test]
    fn the_plain_command_says_what_the_client_said() {
        assert_eq!(words(PlainForm::Set, PlainLease::Forever), "SET k v NX");
        assert_eq!(words(PlainForm::Set, PlainLease::Ms(30)), "SET k v NX PX 30");
        assert_eq!(words(PlainForm::Set, PlainLease::AtMs(9000)), "SET k v NX PXAT 9000");
        assert_eq!(words(PlainForm::SetNx, PlainLease::Forever), "SETNX k v");
    }
}
