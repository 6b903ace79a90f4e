//! What may differ between the two runs of a conversation, and nothing more: ids become the names of the connections that
//! they mean (so that a wrong one is a difference), the addresses, times and sizes of `CLIENT LIST` go, and of what a
//! MONITOR sees only commands on data stay.

use std::borrow::Cow;
use std::collections::HashMap;

use super::vocabulary::CHANNELS;

/// Ids begin above this, so that no count is taken for one.
pub const SMALLEST_ID: i64 = 300;

/// Which connection has which id.
pub struct Ids {
    labels: HashMap<i64, String>,
    /// The order of all clients is the server's own: it turns its list a little further each time it looks after them, by five or, where
    /// there are no more, once round.
    are_turned: bool,
}

impl Ids {
    pub fn new(are_turned: bool) -> Self {
        Self { are_turned, labels: HashMap::new() }
    }

    pub fn insert(&mut self, id: i64, label: String) {
        self.labels.insert(id, label);
    }

    fn label(&self, id: i64) -> Option<&String> {
        self.labels.get(&id)
    }

    pub fn id(&self, label: &str) -> Option<i64> {
        self.labels.iter().find(|(_, known)| *known == label).map(|(id, _)| *id)
    }
}

/// The fields of `CLIENT LIST` that are about the client, not about its buffers and sockets.
const CLIENT_FIELDS: [&str; 15] = [
    "watch", "id", "name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp", "lib-name",
    "lib-ver", "capa",
];

/// Commands on data, which reach the server in the same order on both ways.
const MONITORED: [&str; 12] =
    ["get", "set", "incr", "append", "del", "lpush", "rpush", "lrange", "hset", "strlen", "publish", "echo"];

/// The frame as it is compared; `None` for one that is not.
pub fn masked(frame: &[u8], ids: &Ids) -> Option<Vec<u8>> {
    match monitor_line(frame) {
        Some(line) => line,
        None => {
            let frame = in_any_order(frame);
            let compared = all_commands(&frame).unwrap_or(frame.len());
            Some(rewritten(&frame[..compared], ids))
        }
    }
}

/// Where `COMMAND` alone lists all of them: in the order of a hash as well, and with Lockgate's own among them.
fn all_commands(frame: &[u8]) -> Option<usize> {
    const EACH: &[u8] = b"\r\n*10\r\n";
    let at = frame.windows(EACH.len()).position(|part| part == EACH)?;
    let head = frame[..at].iter().rposition(|byte| *byte == b'*')?;
    let count: usize = std::str::from_utf8(&frame[head + 1..at]).ok()?.parse().ok()?;
    (count > 100).then_some(head)
}

/// `UNSUBSCRIBE` alone ends all subscriptions, in the order of a hash whose seed is the server's own.
fn in_any_order(frame: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(frame);
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    let is_end = matches!(lines.first(), Some(&("*3" | ">3")))
        && lines.get(2).is_some_and(|word| matches!(*word, "unsubscribe" | "punsubscribe" | "sunsubscribe"))
        && lines.len() == 7;
    if !is_end {
        return Cow::Borrowed(frame);
    }
    (lines[3], lines[4]) = ("$1", "#");
    Cow::Owned(lines.join("\r\n").into_bytes())
}

/// Whether the reply without Lockgate and the one through it are the same.
pub fn are_equal(direct: &[u8], through: &[u8]) -> bool {
    // Both sides of a LOCK command have one reply in its place; inside a transaction that is an error, as EXEC shows.
    // After EXEC was not heard whole, what comes next counts as its elements.
    direct == through || lock_command(direct).is_some_and(|before| through.starts_with(before) && through[0] != b'>')
}

/// What stands before the place where a server says that it does not know a command which Lockgate does.
fn lock_command(frame: &[u8]) -> Option<&[u8]> {
    const UNKNOWN: &[u8] = b"-err unknown command 'lock.";
    let at = frame.to_ascii_lowercase().windows(UNKNOWN.len()).position(|part| part == UNKNOWN)?;
    Some(&frame[..at])
}

/// What a client hears beside the answers to its commands.
pub fn is_aside(frame: &[u8]) -> bool {
    let is_message = [&b"*3\r\n$7\r\nmessage\r\n"[..], b"*4\r\n$8\r\npmessage\r\n", b"*3\r\n$8\r\nsmessage\r\n"];
    frame.starts_with(b">") || frame.starts_with(b"+monitor") || is_message.iter().any(|begin| frame.starts_with(begin))
}

fn rewritten(frame: &[u8], ids: &Ids) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len());
    let mut rest = frame;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        if let Some((names, behind)) = channels(line, after) {
            out.extend(names);
            rest = behind;
            continue;
        }
        rest = after;
        let number = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse::<i64>().ok());
        match (line.first(), number) {
            (Some(b':'), Some(id)) if id >= SMALLEST_ID && ids.label(id).is_some() => {
                let label = ids.label(id).expect("just looked at");
                out.extend_from_slice(format!(":<{label}>\r\n").as_bytes());
            }
            (Some(b'$' | b'=' | b'!'), Some(len)) if len >= 0 => {
                let body = &after[..len as usize];
                rest = &after[len as usize + 2..];
                match clients(body, ids) {
                    None if body.starts_with(b"# Server\r\n") => out.extend(b"what INFO says"),
                    Some(lines) => out.extend([&line[..1], lines.as_bytes()].concat()),
                    None => out.extend([line, b"\r\n", body].concat()),
                }
                out.extend_from_slice(b"\r\n");
            }
            (Some(b'-'), _) => out.extend([quoted_ids(line, ids).as_bytes(), b"\r\n"].concat()),
            // A monitor's line falls between the elements of what EXEC answers to it.
            _ if monitor_line(&[line, b"\r\n"].concat()).is_some() => out.extend_from_slice(b"+monitor\r\n"),
            _ => out.extend([line, b"\r\n"].concat()),
        }
    }
    out
}

/// An array of names of channels: in the order of a hash, and with those on which nodes of Lockgate speak. What stands behind it, too.
fn channels<'a>(head: &[u8], mut rest: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
    let count: usize = std::str::from_utf8(head.strip_prefix(b"*")?).ok()?.parse().ok().filter(|count| *count > 0)?;
    let mut names = Vec::new();
    for _ in 0..count {
        let behind = rest.strip_prefix(b"$")?;
        let end = behind.windows(2).position(|pair| pair == b"\r\n")?;
        let len: usize = std::str::from_utf8(&behind[..end]).ok()?.parse().ok()?;
        let name = std::str::from_utf8(behind.get(end + 2..end + 2 + len)?).ok()?;
        rest = behind.get(end + len + 4..)?;
        let is_own = name.starts_with("lockgate:");
        if !is_own && !CHANNELS.contains(&name) && !matches!(name, "__redis__:invalidate" | "extra") {
            return None;
        }
        names.extend((!is_own).then(|| name.to_owned()));
    }
    names.sort();
    let shown: String = names.iter().map(|name| format!("{name}\r\n")).collect();
    Some((format!("*{}\r\n{shown}", names.len()).into_bytes(), rest))
}

/// An error in which what was meant for a number or an address is quoted, or, behind half a command, how long a number is.
fn quoted_ids(line: &[u8], ids: &Ids) -> String {
    let text = String::from_utf8_lossy(line).into_owned();
    let shown = |word: &str| match word.parse().ok().and_then(|id: i64| ids.label(id)) {
        Some(label) => format!("<{label}>"),
        None if word.starts_with("127.0.0.1:") => "<address>".to_owned(),
        None if matches!(word.as_bytes(), [b'$', b'1'..=b'9']) => "<length>".to_owned(),
        None => word.to_owned(),
    };
    text.split('\'').map(shown).collect::<Vec<_>>().join("'")
}

/// `CLIENT LIST` and `CLIENT INFO`: the lines of the conversation's own connections.
fn clients(body: &[u8], ids: &Ids) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let text = text.strip_prefix("txt:").unwrap_or(text);
    if !text.starts_with("id=") || !text.contains(" addr=") {
        return None;
    }
    let mut listed: Vec<(i64, String)> =
        text.lines().filter_map(|line| Some((id_of(line)?, client(line, ids)?))).collect();
    if ids.are_turned {
        listed.sort();
    }
    let lines: Vec<String> = listed.into_iter().map(|(_, line)| line).collect();
    Some(format!("clients\n{}", lines.join("\n")))
}

fn id_of(line: &str) -> Option<i64> {
    super::connection::field(line, "id")?.parse().ok()
}

fn client(line: &str, ids: &Ids) -> Option<String> {
    let label = |number: &str| number.parse().ok().and_then(|id: i64| ids.label(id)).cloned();
    let id = super::connection::field(line, "id")?;
    let is_queueing = super::connection::field(line, "flags").is_some_and(|flags| flags.contains('x'));
    let fields = line.split(' ').filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        let shown = match name {
            "id" => return label(id),
            // Valkey counts the commands of a transaction that is none as 0 once something was watched.
            "multi" if !is_queueing => "-1".to_owned(),
            "redir" => label(value).unwrap_or_else(|| value.to_owned()),
            // Who was blocked is listed so until the server turns to it.
            "flags" => Some(value.replace('u', "")).filter(|flags| !flags.is_empty()).unwrap_or_else(|| "N".to_owned()),
            _ => value.to_owned(),
        };
        CLIENT_FIELDS.contains(&name).then(|| format!("{name}={shown}"))
    });
    label(id).map(|_| fields.collect::<Vec<_>>().join(" "))
}

/// `+1339518083.107412 [0 127.0.0.1:60866] "GET" "k"` without time and address; `Some(None)` for one that is dropped.
fn monitor_line(frame: &[u8]) -> Option<Option<Vec<u8>>> {
    let text = std::str::from_utf8(frame.strip_prefix(b"+")?).ok()?;
    let (time, rest) = text.split_once(" [")?;
    if !time.contains('.') || !time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let (origin, command) = rest.split_once("] ")?;
    let db = origin.split(' ').next()?;
    let name = command.split('"').nth(1).unwrap_or_default().to_ascii_lowercase();
    let is_lock_key = ["\"lock:", ":lock\"", "\"lockgate:"].iter().any(|part| command.contains(part));
    let is_kept = MONITORED.contains(&name.as_str()) && !is_lock_key && !origin.ends_with("lua");
    Some(is_kept.then(|| format!("+monitor [{db}] {command}").into_bytes()))
}
