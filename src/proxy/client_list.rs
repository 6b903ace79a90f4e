//! `CLIENT LIST` lines and the filters of `CLIENT LIST` and `CLIENT KILL`, as Redis has them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::registry::Card;
use crate::domain::Resp;

/// One client, with the fields of Redis 7.2; what Lockgate does not count is 0.
pub fn line(card: &Card) -> String {
    let profile = card.profile();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let command = card.last_command();
    let load = |n: &std::sync::atomic::AtomicU32| n.load(Ordering::Relaxed);
    format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} watch={} \
         qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user={} \
         redir=-1 resp={} lib-name={} lib-ver={}\n",
        card.id,
        card.peer,
        card.local,
        card.fd,
        text(&profile.name),
        card.since.elapsed().as_secs(),
        card.idle_s(),
        flags(card),
        profile.db,
        load(&card.subscriptions),
        load(&card.patterns),
        load(&card.shard_subscriptions),
        card.multi.load(Ordering::Relaxed),
        u8::from(card.is_watching.load(Ordering::Relaxed)),
        if command.is_empty() { "NULL".into() } else { text(&command) },
        text(&profile.user),
        if profile.resp == Resp::V3 { 3 } else { 2 },
        text(&profile.lib_name),
        text(&profile.lib_ver),
    )
}

fn flags(card: &Card) -> String {
    let is = |flag: &std::sync::atomic::AtomicBool| flag.load(Ordering::Relaxed);
    let all = [
        (is(&card.is_monitor), 'O'),
        (kind(card) == Kind::PubSub, 'P'),
        (card.multi.load(Ordering::Relaxed) >= 0, 'x'),
        (is(&card.is_blocked) || is(&card.waits_for_lock), 'b'),
        (is(&card.is_tracking), 't'),
        (card.is_unix, 'U'),
    ];
    let set: String = all.iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| *letter).collect();
    if set.is_empty() { "N".into() } else { set }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Normal,
    PubSub,
    /// Replicas and masters do not connect here.
    Other,
}

fn kind(card: &Card) -> Kind {
    let counts = [&card.subscriptions, &card.patterns, &card.shard_subscriptions];
    match counts.iter().any(|n| n.load(Ordering::Relaxed) > 0) {
        true => Kind::PubSub,
        false => Kind::Normal,
    }
}

/// Which clients are meant; all conditions must hold.
#[derive(Debug, Default)]
pub struct Filter {
    ids: Option<HashSet<u64>>,
    kind: Option<Kind>,
    addr: Option<Vec<u8>>,
    laddr: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    age_min_s: Option<u64>,
    skip: Option<u64>,
}

impl Filter {
    /// Whether the client is meant.
    pub fn takes(&self, card: &Card) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&card.id))
            && self.kind.is_none_or(|k| k == kind(card))
            && self.addr.as_ref().is_none_or(|addr| card.peer.as_bytes() == addr.as_slice())
            && self.laddr.as_ref().is_none_or(|addr| card.local.as_bytes() == addr.as_slice())
            && self.user.as_ref().is_none_or(|user| card.profile().user == *user)
            && self.age_min_s.is_none_or(|age| card.since.elapsed().as_secs() >= age)
            && self.skip != Some(card.id)
    }

    /// The words after `CLIENT LIST`.
    pub fn of_list(words: &[&[u8]]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        match words {
            [] => {}
            [word, kind] if word.eq_ignore_ascii_case(b"type") => filter.kind = Some(parse_kind(kind)?),
            [word, ids @ ..] if word.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
                filter.ids =
                    Some(ids.iter().map(|id| parse_id(id, "ERR Invalid client ID")).collect::<Result<_, _>>()?);
            }
            _ => return Err("ERR syntax error".into()),
        }
        Ok(filter)
    }

    /// The words after `CLIENT KILL`, and whether it is the old form with an address only. `own` is who asks: spared
    /// unless `SKIPME no`.
    pub fn of_kill(words: &[&[u8]], own: u64) -> Result<(Filter, bool), String> {
        if let [addr] = words {
            return Ok((Filter { addr: Some(addr.to_vec()), ..Filter::default() }, true));
        }
        let mut filter = Filter { skip: Some(own), ..Filter::default() };
        if !words.len().is_multiple_of(2) {
            return Err("ERR syntax error".into());
        }
        for pair in words.chunks_exact(2) {
            let [word, value] = pair else { continue };
            match word.to_ascii_lowercase().as_slice() {
                b"id" => filter.ids = Some(HashSet::from([parse_id(value, "ERR client-id should be greater than 0")?])),
                b"type" => filter.kind = Some(parse_kind(value)?),
                b"addr" => filter.addr = Some(value.to_vec()),
                b"laddr" => filter.laddr = Some(value.to_vec()),
                b"user" => filter.user = Some(value.to_vec()),
                b"maxage" => filter.age_min_s = Some(parse_id(value, "ERR maxage is not an integer or out of range")?),
                b"skipme" => match value.to_ascii_lowercase().as_slice() {
                    b"yes" => filter.skip = Some(own),
                    b"no" => filter.skip = None,
                    _ => return Err("ERR syntax error".into()),
                },
                _ => return Err("ERR syntax error".into()),
            }
        }
        Ok((filter, false))
    }
}

fn parse_id(text: &[u8], error: &str) -> Result<u64, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
    number.filter(|id| *id > 0).ok_or_else(|| error.into())
}

fn parse_kind(text: &[u8]) -> Result<Kind, String> {
    match text.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(Kind::Normal),
        b"pubsub" => Ok(Kind::PubSub),
        b"master" | b"replica" | b"slave" => Ok(Kind::Other),
        _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(text))),
    }
}
