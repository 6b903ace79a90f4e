//! What `CLIENT LIST` and `CLIENT INFO` say of a client, in the words of the upstream in use, and whom the filters of `CLIENT LIST` and
//! `CLIENT KILL` mean. Whether a filter exists and is well formed the upstream has judged before.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::registry::{Card, FieldNames};
use crate::commands::client::integer;
use crate::domain::Resp;

/// The fields of an upstream that has not listed anybody yet, those of Redis 7.0.
const FIELDS: [&str; 28] = [
    "id",
    "addr",
    "laddr",
    "fd",
    "name",
    "age",
    "idle",
    "flags",
    "db",
    "sub",
    "psub",
    "ssub",
    "multi",
    "qbuf",
    "qbuf-free",
    "argv-mem",
    "multi-mem",
    "rbs",
    "rbp",
    "obl",
    "oll",
    "omem",
    "tot-mem",
    "events",
    "cmd",
    "user",
    "redir",
    "resp",
];

/// Filters that [`Filters::read`] knows, all but `SKIPME`.
const FILTERS: [&str; 14] = [
    "id", "type", "addr", "laddr", "user", "maxage", "idle", "flags", "name", "lib-name", "lib-ver", "db", "capa", "ip",
];

/// The names of the fields in the first line of an upstream's `CLIENT LIST`; `None` where it lists nobody.
pub fn fields_of(listed: &[u8]) -> Option<FieldNames> {
    let line = listed.split(|byte| *byte == b'\n').next().filter(|line| !line.is_empty())?;
    Some(parts(line).map(|(name, _)| name.into()).collect())
}

/// A client as it can be listed.
pub struct Listed {
    card: Arc<Card>,
    /// What the upstream says of the link that only this client is on; `None` where it has none, or the upstream did not say.
    link: Option<Box<[u8]>>,
}

impl Listed {
    /// All that can be told of a client on shared links.
    pub fn without_link(card: Arc<Card>) -> Listed {
        Listed { card, link: None }
    }

    /// The clients with what the upstream has `listed` of their links; of each the number by which it was asked for.
    pub fn with_links(asked: Vec<(Arc<Card>, u64)>, listed: &[u8]) -> Vec<Listed> {
        let lines: HashMap<u64, &[u8]> =
            listed.split(|byte| *byte == b'\n').filter_map(|line| Some((number_of(line)?, line))).collect();
        let with_link = |(card, link): (Arc<Card>, u64)| {
            // One that was given back meanwhile is another client's, or nobody's.
            let line = lines.get(&link).filter(|_| card.upstream_id() == link);
            Listed { card, link: line.map(|line| Box::from(*line)) }
        };
        asked.into_iter().map(with_link).collect()
    }

    /// What the upstream has said of its link at the moment that counts.
    pub fn was(&mut self, line: &[u8]) {
        self.link = Some(line.into());
    }

    /// Where the upstream has said nothing of that moment: it was in a transaction of so many commands.
    pub fn was_queueing(&mut self, queued: u32) {
        let Some(link) = &self.link else { return };
        let mut line = Vec::new();
        for (at, (name, value)) in parts(link.trim_ascii_end()).enumerate() {
            let then = match name {
                b"flags" => in_order([value, b"x"].concat()),
                b"multi" => queued.to_string().into_bytes(),
                _ => value.to_vec(),
            };
            push(at, name, &then, &mut line);
        }
        self.link = Some(line.into());
    }

    /// The client.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// As `CLIENT LIST` shows it, with the fields that the upstream shows. What is not known is 0.
    pub fn line(&self, fields: Option<&[Box<[u8]>]>, out: &mut Vec<u8>) {
        if let Some(link) = &self.link {
            return out.extend(own_line(&self.card, link));
        }
        let known: Vec<&[u8]> = match fields {
            Some(fields) => fields.iter().map(|name| &**name).collect(),
            None => FIELDS.iter().map(|name| name.as_bytes()).collect(),
        };
        for (at, name) in known.into_iter().enumerate() {
            let value = of_client(&self.card, name).or_else(|| of_connection(&self.card, name));
            push(at, name, value.as_deref().unwrap_or(b"0"), out);
        }
        out.push(b'\n');
    }

    fn flags(&self) -> Vec<u8> {
        match self.link.as_deref().and_then(|link| value_of(link, b"flags")) {
            Some(of_link) => with_own_flags(&self.card, of_link),
            None => flags(&self.card).into_bytes(),
        }
    }

    fn kind(&self) -> Kind {
        match &self.link {
            Some(_) => Kind::told_by(&self.flags()),
            None => kind(&self.card),
        }
    }
}

/// What `CLIENT INFO` says, and `CLIENT LIST` of who has an own link: the upstream's line of the link that the client is on, with what
/// Lockgate knows of the client's own connection.
pub fn own_line(card: &Card, upstream: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Until the upstream was asked it alone knows who this is.
    let is_doubted = card.is_doubted.load(Ordering::Relaxed);
    for (at, (name, value)) in parts(upstream.trim_ascii_end()).enumerate() {
        let own = match name {
            b"flags" => Some(with_own_flags(card, value)),
            b"user" if is_doubted => None,
            b"name" if is_doubted && !value.is_empty() => None,
            b"cmd" => of_connection(card, name),
            b"multi" => without_markers(card, value),
            _ => of_client(card, name),
        };
        push(at, name, own.as_deref().unwrap_or(value), &mut out);
    }
    out.push(b'\n');
    out
}

/// How many commands are queued, without those that Lockgate has put between; `None` where there are none of these.
fn without_markers(card: &Card, queued: &[u8]) -> Option<Vec<u8>> {
    let markers = i64::from(card.markers.load(Ordering::Relaxed));
    let queued = integer(queued).filter(|queued| markers > 0 && *queued >= markers)?;
    Some((queued - markers).to_string().into_bytes())
}

/// The line of the client that the upstream knows by that number.
pub fn line_of(listed: &[u8], id: u64) -> Option<&[u8]> {
    listed.split(|byte| *byte == b'\n').find(|line| number_of(line) == Some(id))
}

/// The upstream's number in its line of a client.
fn number_of(line: &[u8]) -> Option<u64> {
    value_of(line, b"id").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok())
}

/// A field of an upstream's line of a client.
pub fn value_of<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    parts(line.trim_ascii_end()).find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

fn push(at: usize, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if at > 0 {
        out.push(b' ');
    }
    out.extend_from_slice(name);
    out.push(b'=');
    out.extend_from_slice(value);
}

/// Names and values of a line. A value may have blanks in it where it is a path.
fn parts(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let equals = memchr::memchr(b'=', rest)?;
        let (name, behind) = (&rest[..equals], &rest[equals + 1..]);
        // The next name begins behind the last blank before the next sign of equality.
        let end = memchr::memchr(b'=', behind).and_then(|next| memchr::memrchr(b' ', &behind[..next]));
        let value = &behind[..end.unwrap_or(behind.len())];
        rest = end.map_or(&[][..], |end| &behind[end + 1..]);
        Some((name, value))
    })
}

/// What only Lockgate knows of a client.
fn of_client(card: &Card, name: &[u8]) -> Option<Vec<u8>> {
    let text = |shown: &dyn std::fmt::Display| Some(shown.to_string().into_bytes());
    match name {
        b"id" => text(&card.id),
        b"addr" => text(&card.peer),
        b"laddr" => text(&card.local),
        b"fd" => text(&card.fd),
        b"age" => text(&card.since.elapsed().as_secs()),
        b"idle" => text(&card.idle_s()),
        b"name" => Some(card.profile().name.clone()),
        b"user" => Some(card.profile().user.clone()),
        b"lib-name" => Some(card.profile().lib_name.clone()),
        b"lib-ver" => Some(card.profile().lib_ver.clone()),
        b"capa" => Some(capa(card).as_bytes().to_vec()),
        b"redir" => text(&card.redirect.load(Ordering::Relaxed)),
        _ => None,
    }
}

/// What the upstream knows of a client's link, and Lockgate of the client.
fn of_connection(card: &Card, name: &[u8]) -> Option<Vec<u8>> {
    let text = |shown: &dyn std::fmt::Display| Some(shown.to_string().into_bytes());
    let count = |n: &AtomicU32| text(&n.load(Ordering::Relaxed));
    match name {
        b"flags" => Some(flags(card).into_bytes()),
        b"db" => text(&card.profile().db),
        b"sub" => count(&card.subscriptions),
        b"psub" => count(&card.patterns),
        b"ssub" => count(&card.shard_subscriptions),
        b"multi" => text(&card.multi.load(Ordering::Relaxed)),
        b"watch" => text(&u8::from(card.is_watching.load(Ordering::Relaxed))),
        b"events" => Some(b"r".to_vec()),
        b"cmd" => Some(card.last_command()).filter(|name| !name.is_empty()).or(Some(b"NULL".to_vec())),
        b"resp" => text(&if card.profile().resp == Resp::V3 { 3 } else { 2 }),
        _ => None,
    }
}

fn capa(card: &Card) -> &'static str {
    if card.profile().can_redirect { "r" } else { "" }
}

/// The flags that the upstream shows of a link, as those of the client: over which kind of socket it came is its own affair, and who
/// waits for a lock is blocked.
fn with_own_flags(card: &Card, flags: &[u8]) -> Vec<u8> {
    let own = [
        (card.waits_for_lock.load(Ordering::Relaxed), b'b'),
        (card.is_quitting.load(Ordering::Relaxed), b'c'),
        (card.is_unix, b'U'),
    ];
    let of_link = flags.iter().copied().filter(|flag| *flag != b'U');
    in_order(of_link.chain(own.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag)).collect())
}

/// Flags as an upstream writes them, each once; `N` where there is none.
fn in_order(mut flags: Vec<u8>) -> Vec<u8> {
    const ORDER: &[u8] = b"OSMPxbtRBdcuAUreTI";
    flags.retain(|flag| *flag != b'N');
    flags.sort_by_key(|flag| ORDER.iter().position(|known| known == flag).unwrap_or(ORDER.len()));
    flags.dedup();
    if flags.is_empty() { b"N".to_vec() } else { flags }
}

fn flags(card: &Card) -> String {
    let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
    let all = [
        (is(&card.is_monitor), 'O'),
        (kind(card) == Kind::Replica, 'S'),
        (kind(card) == Kind::PubSub, 'P'),
        (card.multi.load(Ordering::Relaxed) >= 0, 'x'),
        (is(&card.is_blocked) || is(&card.waits_for_lock), 'b'),
        (is(&card.is_quitting), 'c'),
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
    /// Its connection has become a replication stream.
    Replica,
}

impl Kind {
    fn told_by(flags: &[u8]) -> Kind {
        match flags {
            _ if flags.contains(&b'S') => Kind::Replica,
            _ if flags.contains(&b'P') => Kind::PubSub,
            _ => Kind::Normal,
        }
    }
}

fn kind(card: &Card) -> Kind {
    let counts = [&card.subscriptions, &card.patterns, &card.shard_subscriptions];
    // What follows these is no commands any more.
    if [&b"sync"[..], b"psync", b"replconf"].contains(&card.last_command().as_slice()) {
        Kind::Replica
    } else if counts.iter().any(|n| n.load(Ordering::Relaxed) > 0) {
        Kind::PubSub
    } else {
        Kind::Normal
    }
}

/// Which clients are meant; all conditions must hold.
#[derive(Debug, Default)]
pub struct Filters {
    /// By name, and whether it is turned round (`NOT-…`). Of the same filter the last one counts.
    wanted: HashMap<(&'static str, bool), Vec<Vec<u8>>>,
    skip: Option<u64>,
    is_address: bool,
}

impl Filters {
    /// Reads what the upstream has accepted. `own` is who asks, and spared by `KILL` unless it says `SKIPME no`. `collects_ids` where
    /// the upstream takes the numbers of several `ID` together.
    ///
    /// # Errors
    /// An error line: the upstream knows a filter that Lockgate does not.
    pub fn read(words: &[&[u8]], own: u64, is_kill: bool, collects_ids: bool) -> Result<Self, String> {
        let mut filters = Filters { skip: is_kill.then_some(own), ..Filters::default() };
        let mut rest = words;
        while let [word, value, behind @ ..] = rest {
            rest = behind;
            let word = word.to_ascii_lowercase();
            if word == b"skipme" {
                filters.skip = value.eq_ignore_ascii_case(b"yes").then_some(own);
                continue;
            }
            let (name, is_not) = match word.strip_prefix(b"not-") {
                Some(name) => (name, true),
                None => (&*word, false),
            };
            let Some(name) = FILTERS.into_iter().find(|known| known.as_bytes() == name) else {
                let word = String::from_utf8_lossy(&word).into_owned();
                return Err(format!("ERR Lockgate does not know the filter '{word}' of this upstream; use ID instead"));
            };
            let mut values = vec![value.to_vec()];
            if name == "id" {
                let more = rest.iter().take_while(|word| integer(word).is_some()).count();
                values.extend(rest[..more].iter().map(|id| id.to_vec()));
                rest = &rest[more..];
            }
            let wanted = filters.wanted.entry((name, is_not)).or_default();
            if !(name == "id" && collects_ids) {
                wanted.clear();
            }
            wanted.append(&mut values);
        }
        // Valkey takes an `ID` without any number at the end: it means nobody.
        if let [word] = rest
            && word.eq_ignore_ascii_case(b"id")
        {
            filters.wanted.entry(("id", false)).or_default();
        }
        Ok(filters)
    }

    /// `CLIENT KILL addr`, the old form.
    pub fn of_address(addr: &[u8]) -> Self {
        Filters { wanted: HashMap::from([(("addr", false), vec![addr.to_vec()])]), skip: None, is_address: true }
    }

    /// The numbers asked for, where nothing else is: Redis lists their clients in this order, and one twice that is named twice.
    pub fn only_ids(&self) -> Option<impl Iterator<Item = u64>> {
        let ids = self.wanted.get(&("id", false)).filter(|_| self.wanted.len() == 1 && self.skip.is_none())?;
        Some(ids.iter().filter_map(|id| integer(id).and_then(|id| u64::try_from(id).ok())))
    }

    /// The old form, which is answered in other words.
    pub fn are_an_address(&self) -> bool {
        self.is_address
    }

    /// Whether what only the upstream knows of clients' own links decides.
    pub fn ask_for_links(&self) -> bool {
        self.wanted.keys().any(|(name, _)| matches!(*name, "flags" | "type"))
    }

    /// What the upstream says of a link decides, and nothing else.
    pub fn are_of_links_alone(&self) -> bool {
        self.skip.is_none() && self.wanted.keys().all(|(name, _)| matches!(*name, "flags" | "type" | "db"))
    }

    /// Whether the client is meant.
    pub fn take(&self, client: &Listed) -> bool {
        self.skip != Some(client.card.id)
            && self
                .wanted
                .iter()
                .all(|((name, is_not), values)| values.iter().any(|value| is(client, name, value)) != *is_not)
    }
}

/// Whether the filter `name` with this value means the client.
fn is(client: &Listed, name: &str, value: &[u8]) -> bool {
    let card = &*client.card;
    let number = || integer(value).and_then(|number| u64::try_from(number).ok());
    // What is not set has no value that could be equal.
    let is_set_to = |set: &[u8]| !set.is_empty() && set == value;
    match name {
        "id" => number() == Some(card.id),
        "type" => match value.to_ascii_lowercase().as_slice() {
            b"normal" => client.kind() == Kind::Normal,
            b"pubsub" => client.kind() == Kind::PubSub,
            b"replica" | b"slave" => client.kind() == Kind::Replica,
            // Masters do not connect here.
            _ => false,
        },
        "addr" => card.peer.as_bytes() == value,
        "laddr" => card.local.as_bytes() == value,
        "user" => card.profile().user == value,
        "maxage" => number().is_some_and(|least| card.since.elapsed().as_secs() >= least),
        "idle" => number().is_some_and(|least| card.idle_s() >= least),
        "flags" => {
            let shown = client.flags();
            value.iter().all(|flag| shown.contains(flag))
        }
        "name" => is_set_to(&card.profile().name),
        "lib-name" => is_set_to(&card.profile().lib_name),
        "lib-ver" => is_set_to(&card.profile().lib_ver),
        "db" => number() == Some(u64::from(card.profile().db)),
        "capa" => value.iter().all(|capa_asked| capa(card).as_bytes().contains(capa_asked)),
        "ip" => ip(card) == value,
        _ => false,
    }
}

/// The address without its port.
fn ip(card: &Card) -> &[u8] {
    let host = card.peer.rsplit_once(':').map_or(card.peer.as_str(), |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::registry::{Member, Origin, Profile, Registry};

    fn client() -> Member {
        let profile = Profile { name: b"bob".to_vec(), user: b"ann".to_vec(), db: 3, ..Profile::default() };
        let origin = Origin { peer: "127.0.0.1:5".into(), local: "127.0.0.1:6".into(), address: None };
        Registry::new(1, 0).admit(origin, 9, false, profile).expect("there is room")
    }

    fn means(words: &str) -> bool {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        Filters::read(&words, 99, false, true).expect("known").take(&Listed::without_link(client().card.clone()))
    }

    #[test]
    fn a_filter_means_a_client_as_it_does_on_the_server() {
        for words in [
            "ID 7 1",
            "ID 7 ID 1",
            "id 1 NAME bob",
            "NAME x NAME bob",
            "NOT-NAME x",
            "TYPE normal",
            "NOT-TYPE pubsub",
            "USER ann",
            "DB 3",
            "FLAGS NN",
            "NOT-FLAGS Nx",
            "IP 127.0.0.1",
            "ADDR 127.0.0.1:5",
            "NOT-CAPA r",
            "MAXAGE 0",
            "SKIPME yes",
            "NOT-ID 2 3",
        ] {
            assert!(means(words), "{words}");
        }
        for words in [
            "ID 7",
            "NAME x",
            "NAME bob NAME x",
            "NOT-ID 1",
            "FLAGS Nx",
            "LIB-NAME ",
            "IP 127",
            "TYPE primary",
            "CAPA r",
            "DB 0",
        ] {
            assert!(!means(words), "{words}");
        }
    }

    #[test]
    fn a_filter_that_nobody_here_knows_means_nobody() {
        assert!(Filters::read(&[b"SHOE", b"44"], 1, true, false).is_err());
    }

    #[test]
    fn of_one_filter_the_last_counts_but_where_the_upstream_collects_ids() {
        let ids = [&b"ID"[..], b"1", b"ID", b"2"];
        assert!(
            !Filters::read(&ids, 9, true, false).expect("known").take(&Listed::without_link(client().card.clone()))
        );
        assert!(Filters::read(&ids, 9, true, true).expect("known").take(&Listed::without_link(client().card.clone())));
    }

    #[test]
    fn a_line_has_the_fields_of_the_upstream() {
        let upstream = b"id=5 addr=/a b/s:0 name= new-one=7 flags=U user=x resp=2\nid=6 addr=\n";
        let fields = fields_of(upstream).expect("one is listed");
        let mut listed = Vec::new();
        Listed::without_link(client().card.clone()).line(Some(&fields), &mut listed);
        assert_eq!(listed, b"id=1 addr=127.0.0.1:5 name=bob new-one=0 flags=N user=ann resp=2\n");
        let first = upstream.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let told = own_line(&client().card, first);
        assert_eq!(told, b"id=1 addr=127.0.0.1:5 name=bob new-one=7 flags=N user=ann resp=2\n");
        assert_eq!(fields_of(b""), None);
    }
}
