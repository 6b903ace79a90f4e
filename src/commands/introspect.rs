//! `COMMAND …`: the upstream answers, and what concerns `LOCK.*` is put in. The upstream is always asked, so that its
//! refusals (no such subcommand in this version, not authenticated, not permitted) stay its own, and its answer is
//! patched at its head instead of being taken apart: it has some 200 KB.

use super::encode::{self, Shape};
use super::glob;
use super::lock_spec::{Keys, LOCK_COMMANDS, LockSpec, lock_command};
use super::wire::{Cursor, Malformed};
use crate::domain::Resp;

/// What to do for `COMMAND …`.
#[derive(Debug)]
pub enum Plan {
    /// Nothing of it concerns `LOCK.*`: pass it as it is.
    Forward,
    /// Send `request` in place of the client's, and answer with what `merge` makes of the reply.
    Ask {
        /// The whole request.
        request: Vec<u8>,
        /// Turns the upstream's reply into the client's.
        merge: Merge,
    },
}

/// How an upstream's reply becomes the client's.
#[derive(Debug)]
pub struct Merge {
    resp: Resp,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// An integer, plus our number of commands.
    Count,
    /// Our entries behind the upstream's.
    InfoOfAll,
    DocsOfAll,
    List(Vec<&'static LockSpec>),
    /// The names the client asked for, in order; the upstream was asked for its own and for [`SAMPLE`].
    InfoOf(Vec<Asked>),
    DocsOf(Vec<Asked>),
    /// The upstream was asked about a command of its own, and did not refuse.
    Instead(Vec<u8>),
    /// A guarded command's keys behind this element, that of the lock.
    KeysBehind {
        lock: Vec<u8>,
        /// The command has no arguments, for which the upstream would refuse to answer; it was asked with one.
        is_padded: bool,
    },
}

#[derive(Debug)]
enum Asked {
    Ours(&'static LockSpec),
    Theirs(Vec<u8>),
}

/// Every upstream has it; its entry, asked for after the client's, shows the shape of entries in this version.
const SAMPLE: &[u8] = b"get";

/// What to do for `COMMAND …` (`args` with the name) from a client that speaks `resp`.
pub fn plan(args: &[&[u8]], resp: Resp) -> Plan {
    let Some(subcommand) = args.get(1) else { return ask(args, resp, Kind::InfoOfAll) };
    let names = &args[2..];
    match (subcommand.to_ascii_lowercase().as_slice(), names) {
        (b"count", []) => ask(args, resp, Kind::Count),
        (b"info", []) => ask(args, resp, Kind::InfoOfAll),
        (b"docs", []) => ask(args, resp, Kind::DocsOfAll),
        (b"info", _) => ask_for_names(args, resp, Kind::InfoOf),
        (b"docs", _) => ask_for_names(args, resp, Kind::DocsOf),
        (b"list", _) => list(args, resp),
        (b"getkeys" | b"getkeysandflags", [name, inner @ ..]) => {
            lock_command(name).map_or(Plan::Forward, |spec| keys(args, spec, inner, resp))
        }
        _ => Plan::Forward,
    }
}

fn ask(request: &[&[u8]], resp: Resp, kind: Kind) -> Plan {
    Plan::Ask { request: encode::request(request), merge: Merge { resp, kind } }
}

fn ask_for_names(args: &[&[u8]], resp: Resp, kind: fn(Vec<Asked>) -> Kind) -> Plan {
    let asked: Vec<Asked> = args[2..]
        .iter()
        .map(|name| lock_command(name).map_or_else(|| Asked::Theirs(name.to_vec()), Asked::Ours))
        .collect();
    if asked.iter().all(|asked| matches!(asked, Asked::Theirs(_))) {
        return Plan::Forward;
    }
    let mut request = args[..2].to_vec();
    request.extend(args[2..].iter().filter(|name| lock_command(name).is_none()));
    request.push(SAMPLE);
    ask(&request, resp, kind(asked))
}

fn list(args: &[&[u8]], resp: Resp) -> Plan {
    let matches: Box<dyn Fn(&LockSpec) -> bool> = match &args[2..] {
        [] => Box::new(|_| true),
        [filter, by, what] if filter.eq_ignore_ascii_case(b"filterby") => match by.to_ascii_lowercase().as_slice() {
            b"pattern" => Box::new(|spec| glob::matches_in_any_case(what, spec.name.as_bytes())),
            b"aclcat" => Box::new(|spec| {
                spec.categories.iter().any(|category| category.as_bytes()[1..].eq_ignore_ascii_case(what))
            }),
            // LOCK.* comes with no module.
            _ => return Plan::Forward,
        },
        _ => return Plan::Forward,
    };
    let ours: Vec<_> = LOCK_COMMANDS.iter().filter(|spec| matches(spec)).collect();
    if ours.is_empty() { Plan::Forward } else { ask(args, resp, Kind::List(ours)) }
}

/// What Redis says where a command cannot have so many arguments.
const WRONG_NUMBER: &[u8] = b"-ERR Invalid number of arguments specified for command\r\n";
/// What Redis says where a command has no keys.
const NO_KEYS: &[u8] = b"-ERR The command has no key arguments\r\n";

/// `COMMAND GETKEYS lock.… key …` and its sister; `inner` is what follows the lock command's name.
fn keys(args: &[&[u8]], spec: &'static LockSpec, inner: &[&[u8]], resp: Resp) -> Plan {
    let elements = |keys: &[&[u8]], flags: &[&str]| match args[1].len() {
        7 => encode::keys(keys),
        _ => encode::keys_and_flags(keys, flags, resp),
    };
    let list = |keys: &[&[u8]], flags: &[&str]| [encode::head(keys.len(), false, resp), elements(keys, flags)].concat();
    let is_right_number = spec.takes(inner.len() + 1);
    let answer = match spec.keys {
        Keys::None => NO_KEYS.to_vec(),
        _ if !is_right_number => WRONG_NUMBER.to_vec(),
        Keys::First(flags) => list(&inner[..1], flags),
        Keys::Counted(flags) => match counted_keys(inner) {
            Some(keys) => list(keys, flags),
            None => b"-ERR Invalid arguments specified for command\r\n".to_vec(),
        },
        Keys::FirstAndInner(flags) => {
            // Whatever stands behind key and fence the upstream knows.
            let mut request = [&args[..2], &inner[2..]].concat();
            let is_padded = inner.len() == 3;
            if is_padded {
                request.push(b"k");
            }
            return ask(&request, resp, Kind::KeysBehind { lock: elements(&inner[..1], flags), is_padded });
        }
    };
    ask(&[args[0], args[1], SAMPLE, b"k"], resp, Kind::Instead(answer))
}

/// The keys behind their number.
fn counted_keys<'a, 'b>(args: &'b [&'a [u8]]) -> Option<&'b [&'a [u8]]> {
    let count: usize = std::str::from_utf8(args.first()?).ok()?.parse().ok().filter(|count| *count > 0)?;
    args.get(1..count.checked_add(1)?)
}

impl Merge {
    /// The client's reply, made from the upstream's raw one, which is one whole frame. An error, and whatever is not understood, passes
    /// through as it is.
    pub fn apply(self, upstream: Vec<u8>) -> Vec<u8> {
        if let (Kind::KeysBehind { lock, .. }, NO_KEYS) = (&self.kind, upstream.as_slice()) {
            return [encode::head(1, false, self.resp), lock.clone()].concat();
        }
        if matches!(upstream.first(), None | Some(b'-' | b'!')) {
            return upstream;
        }
        let merged = match self.kind {
            Kind::Count => counted(&upstream),
            Kind::InfoOfAll => info_of_all(&upstream, self.resp),
            Kind::DocsOfAll => docs_of_all(&upstream, self.resp),
            Kind::List(ours) => listed(&upstream, &ours),
            Kind::InfoOf(asked) => info_of(&upstream, &asked, self.resp),
            Kind::DocsOf(asked) => docs_of(&upstream, &asked, self.resp),
            Kind::Instead(answer) => Ok(answer),
            Kind::KeysBehind { is_padded: true, .. } => Ok(WRONG_NUMBER.to_vec()),
            Kind::KeysBehind { lock, .. } => keys_behind(&lock, &upstream, self.resp),
        };
        merged.unwrap_or(upstream)
    }
}

fn counted(upstream: &[u8]) -> Result<Vec<u8>, Malformed> {
    let theirs = Cursor::new(upstream).int()?;
    let ours = i64::try_from(LOCK_COMMANDS.len()).unwrap_or_default();
    Ok(format!(":{}\r\n", theirs + ours).into_bytes())
}

fn info_of_all(upstream: &[u8], resp: Resp) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let theirs = cursor.values()?;
    if theirs == 0 {
        // Redis 6.2 takes `COMMAND INFO` without names at its word.
        return Ok(upstream.to_vec());
    }
    let entries = &upstream[cursor.position()..];
    let shape = Shape::of_infos(resp, entries, theirs)?;
    let mut reply = encode::head(theirs + LOCK_COMMANDS.len(), false, resp);
    reply.extend_from_slice(entries);
    reply.extend(LOCK_COMMANDS.iter().flat_map(|spec| encode::info(spec, shape)));
    Ok(reply)
}

fn docs_of_all(upstream: &[u8], resp: Resp) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let theirs = cursor.values()? / 2;
    let entries = &upstream[cursor.position()..];
    let shape = Shape::of_docs(resp, entries);
    let mut reply = encode::head(theirs + LOCK_COMMANDS.len(), true, resp);
    reply.extend_from_slice(entries);
    reply.extend(LOCK_COMMANDS.iter().flat_map(|spec| encode::docs(spec, shape)));
    Ok(reply)
}

fn listed(upstream: &[u8], ours: &[&LockSpec]) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let theirs = cursor.values()?;
    let mut reply = encode::head(theirs + ours.len(), false, Resp::V2);
    reply.extend_from_slice(&upstream[cursor.position()..]);
    reply.extend(ours.iter().flat_map(|spec| encode::name(spec)));
    Ok(reply)
}

/// The upstream's list with one element before the others.
fn keys_behind(first: &[u8], upstream: &[u8], resp: Resp) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let theirs = cursor.values()?;
    Ok([&encode::head(theirs + 1, false, resp), first, &upstream[cursor.position()..]].concat())
}

/// One entry for each name, nil for an unknown one.
fn info_of(upstream: &[u8], asked: &[Asked], resp: Resp) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let count = cursor.values()?;
    let entries = (0..count).map(|_| cursor.slice()).collect::<Result<Vec<_>, _>>()?;
    let of_theirs = asked.iter().filter(|asked| matches!(asked, Asked::Theirs(_))).count();
    let [theirs @ .., sample] = entries.as_slice() else { return Err(Malformed { at: 0 }) };
    if theirs.len() != of_theirs {
        return Err(Malformed { at: upstream.len() });
    }
    // Nil where somebody renamed the sample away.
    let shape = Shape::of_info(resp, sample).unwrap_or(Shape::newest(resp));
    let mut theirs = theirs.iter();
    let mut reply = encode::head(asked.len(), false, resp);
    for asked in asked {
        match asked {
            Asked::Ours(spec) => reply.extend(encode::info(spec, shape)),
            Asked::Theirs(_) => reply.extend_from_slice(theirs.next().copied().unwrap_or_default()),
        }
    }
    Ok(reply)
}

/// Name and description of each known name, in the order asked for; unknown ones are left out.
fn docs_of(upstream: &[u8], asked: &[Asked], resp: Resp) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(upstream);
    let count = cursor.values()? / 2;
    let mut theirs = Vec::with_capacity(count);
    for _ in 0..count {
        let from = cursor.position();
        let name = cursor.text()?;
        cursor.skip()?;
        theirs.push((name, &upstream[from..cursor.position()]));
    }
    let mut shape = Shape::newest(resp);
    if theirs.last().is_some_and(|(name, _)| name.eq_ignore_ascii_case(SAMPLE)) {
        shape = theirs.pop().map_or(shape, |(_, sample)| Shape::of_docs(resp, sample));
    }
    let mut theirs = theirs.into_iter().peekable();
    let mut entries: Vec<Vec<u8>> = Vec::with_capacity(asked.len());
    for asked in asked {
        match asked {
            Asked::Ours(spec) => entries.push(encode::docs(spec, shape)),
            Asked::Theirs(wanted) => {
                let entry = theirs.next_if(|(name, _)| name.eq_ignore_ascii_case(wanted));
                entries.extend(entry.map(|(_, entry)| entry.to_vec()));
            }
        }
    }
    // A renamed command is described under its first name, and so was not recognized.
    entries.extend(theirs.map(|(_, entry)| entry.to_vec()));
    Ok([encode::head(entries.len(), true, resp), entries.concat()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str, resp: Resp, upstream: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let Plan::Ask { merge, .. } = plan(&args, resp) else { panic!("'{line}' is passed as it is") };
        String::from_utf8(merge.apply(upstream.replace(' ', "\r\n").into_bytes())).expect("text")
    }

    fn is_forwarded(line: &str) -> bool {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        matches!(plan(&args, Resp::V2), Plan::Forward)
    }

    #[test]
    fn what_does_not_concern_locks_passes_untouched() {
        for line in [
            "COMMAND HELP",
            "COMMAND NOSUCH",
            "COMMAND COUNT 1",
            "COMMAND INFO get set lock.nosuch",
            "COMMAND DOCS get",
            "COMMAND GETKEYS get k",
            "COMMAND GETKEYS",
            "COMMAND LIST FILTERBY MODULE lock",
            "COMMAND LIST FILTERBY PATTERN ge*",
            "COMMAND LIST FILTERBY ACLCAT string",
            "COMMAND LIST NONSENSE",
        ] {
            assert!(is_forwarded(line), "{line}");
        }
    }

    #[test]
    fn the_count_includes_lock_commands() {
        let count = format!(":{}\r\n", 240 + LOCK_COMMANDS.len());
        assert_eq!(answered("command count", Resp::V2, ":240 "), count);
    }

    #[test]
    fn an_upstream_error_passes_as_it_is() {
        for line in
            ["COMMAND", "COMMAND COUNT", "COMMAND DOCS", "COMMAND INFO lock.info", "COMMAND GETKEYS lock.info k"]
        {
            assert_eq!(answered(line, Resp::V2, "-NOAUTH "), "-NOAUTH\r\n", "{line}");
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_passes_as_it_is() {
        for line in ["COMMAND", "COMMAND DOCS", "COMMAND INFO lock.info", "COMMAND LIST", "COMMAND COUNT"] {
            assert_eq!(answered(line, Resp::V2, "+OK "), "+OK\r\n", "{line}");
        }
    }

    #[test]
    fn names_keep_the_order_in_which_they_were_asked_for() {
        let asked = "COMMAND INFO set lock.info nosuch";
        let args: Vec<&[u8]> = asked.split(' ').map(str::as_bytes).collect();
        let Plan::Ask { request, .. } = plan(&args, Resp::V2) else { panic!("passed as it is") };
        let expected = b"*5\r\n$7\r\nCOMMAND\r\n$4\r\nINFO\r\n$3\r\nset\r\n$6\r\nnosuch\r\n$3\r\nget\r\n";
        assert_eq!(request, expected);
        let reply = answered(asked, Resp::V2, "*3 *6 $3 set :-3 *0 :1 :1 :1 $-1 *6 $3 get :2 *0 :1 :1 :1 ");
        let lock = "*6 $9 lock.info :2 *4 +readonly +noscript +fast +no_multi :1 :1 :1";
        let expected = format!("*3 *6 $3 set :-3 *0 :1 :1 :1 {lock} $-1 ").replace(' ', "\r\n");
        assert_eq!(reply, expected);
    }

    #[test]
    fn descriptions_leave_out_what_nobody_knows_and_keep_the_order() {
        let reply = answered("COMMAND DOCS nosuch lock.info SET", Resp::V3, "%2 $3 set %0 $3 get %0 ");
        assert!(
            reply.starts_with("%2\r\n$9\r\nlock.info\r\n%5\r\n") && reply.ends_with("$3\r\nset\r\n%0\r\n"),
            "{reply}"
        );
        let renamed = answered("COMMAND DOCS lock.info renamed", Resp::V3, "%2 $3 set %0 $3 get %0 ");
        assert!(renamed.starts_with("%2\r\n") && renamed.ends_with("$3\r\nset\r\n%0\r\n"), "{renamed}");
    }

    #[test]
    fn the_keys_of_a_lock_command_are_known() {
        let sample = "*1 $1 k ";
        assert_eq!(answered("COMMAND GETKEYS lock.acquire K o", Resp::V2, sample), "*1\r\n$1\r\nK\r\n");
        assert_eq!(
            answered("COMMAND GETKEYSANDFLAGS lock.info K", Resp::V3, sample),
            "*1\r\n*2\r\n$1\r\nK\r\n~2\r\n+RO\r\n+access\r\n"
        );
        let refused = "-ERR Invalid number of arguments specified for command\r\n";
        assert_eq!(answered("COMMAND GETKEYS lock.acquire K", Resp::V2, sample), refused);
        assert_eq!(answered("COMMAND GETKEYS lock.acquire", Resp::V2, sample), refused);
        let many = answered("COMMAND GETKEYS lock.acquireall 2 a b o TTL 5", Resp::V2, sample);
        assert_eq!(many, "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        for wrong in ["0 a o", "x a o", "3 a o"] {
            let reply = answered(&format!("COMMAND GETKEYS lock.releaseall {wrong}"), Resp::V2, sample);
            assert_eq!(reply, "-ERR Invalid arguments specified for command\r\n", "{wrong}");
        }
        for none in ["lock.stats", "lock.list 0", "lock.config get *", "lock.help"] {
            let reply = answered(&format!("COMMAND GETKEYS {none}"), Resp::V2, sample);
            assert_eq!(reply.as_bytes(), NO_KEYS, "{none}");
        }
    }

    #[test]
    fn a_guarded_commands_keys_stand_behind_the_locks() {
        let guard = "COMMAND GETKEYS lock.guard K 7 mset a 1 b 2";
        let args: Vec<&[u8]> = guard.split(' ').map(str::as_bytes).collect();
        let Plan::Ask { request, .. } = plan(&args, Resp::V2) else { panic!("passed as it is") };
        assert!(request.starts_with(b"*7\r\n$7\r\nCOMMAND\r\n$7\r\nGETKEYS\r\n$4\r\nmset\r\n"));
        let lone = answered("COMMAND GETKEYS lock.guard K 7 get", Resp::V2, "*1 $1 k ");
        assert_eq!(lone.as_bytes(), WRONG_NUMBER);
        let theirs = "*2 $1 a $1 b ";
        assert_eq!(answered(guard, Resp::V2, theirs), "*3\r\n$1\r\nK\r\n$1\r\na\r\n$1\r\nb\r\n");
        let Plan::Ask { merge, .. } = plan(&args, Resp::V2) else { panic!("passed as it is") };
        assert_eq!(merge.apply(NO_KEYS.to_vec()), b"*1\r\n$1\r\nK\r\n");
        let Plan::Ask { merge, .. } = plan(&args, Resp::V2) else { panic!("passed as it is") };
        assert_eq!(merge.apply(b"-ERR Invalid command specified\r\n".to_vec()), b"-ERR Invalid command specified\r\n");
    }

    #[test]
    fn lists_are_filtered_as_the_upstream_filters() {
        let all = answered("COMMAND LIST", Resp::V2, "*1 $3 get ");
        assert!(all.starts_with(&format!("*{}\r\n$3\r\nget\r\n", 1 + LOCK_COMMANDS.len())), "{all}");
        assert_eq!(answered("COMMAND LIST FILTERBY PATTERN L*.INFO", Resp::V2, "*0 "), "*1\r\n$9\r\nlock.info\r\n");
        let locks = answered("COMMAND LIST filterby AclCat LOCK", Resp::V2, "*0 ");
        let own = LOCK_COMMANDS.iter().filter(|spec| spec.categories.contains(&"@lock")).count();
        assert!(locks.starts_with(&format!("*{own}\r\n")), "{locks}");
        let reads = answered("COMMAND LIST FILTERBY ACLCAT read", Resp::V2, "*0 ");
        assert!(reads.contains("lock.position") && !reads.contains("lock.acquire"), "{reads}");
    }
}
