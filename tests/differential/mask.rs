//! What may differ between the two runs of a conversation, and nothing more: ids become the names of the connections that
//! they mean (so that a wrong one is a difference), the addresses, times and sizes of `CLIENT LIST` go, and of what a
//! MONITOR sees only commands on data stay.

use std::borrow::Cow;
use std::collections::HashMap;

/// Ids begin above this, so that no count is taken for one.
pub const SMALLEST_ID: i64 = 300;

/// Which connection has which id.
pub type Ids = HashMap<i64, String>;

/// The fields of `CLIENT LIST` that are about the client, not about its buffers and sockets.
const CLIENT_FIELDS: [&str; 14] = [
    "id", "name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp", "lib-name", "lib-ver", "capa",
];

/// Commands on data, which reach the server in the same order on both ways.
const MONITORED: [&str; 12] =
    ["get", "set", "incr", "append", "del", "lpush", "rpush", "lrange", "hset", "strlen", "publish", "echo"];

/// The word that a run without Lockgate says in place of a LOCK command.
pub const STAND_IN: &str = "lock.stand-in";

/// The frame as it is compared; `None` for one that is not.
pub fn masked(frame: &[u8], ids: &Ids) -> Option<Vec<u8>> {
    match monitor_line(frame) {
        Some(line) => line,
        None => Some(rewritten(&in_any_order(frame), ids)),
    }
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
    direct == through || (is_stand_in(direct) && !through.starts_with(b">"))
}

fn is_stand_in(frame: &[u8]) -> bool {
    frame.starts_with(b"-ERR unknown command") && frame.windows(STAND_IN.len()).any(|part| part == STAND_IN.as_bytes())
}

fn rewritten(frame: &[u8], ids: &Ids) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len());
    let mut rest = frame;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        rest = after;
        let number = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse::<i64>().ok());
        match (line.first(), number) {
            (Some(b':'), Some(id)) if id >= SMALLEST_ID && ids.contains_key(&id) => {
                out.extend_from_slice(format!(":<{}>\r\n", ids[&id]).as_bytes());
            }
            (Some(b'$' | b'=' | b'!'), Some(len)) if len >= 0 => {
                let body = &after[..len as usize];
                rest = &after[len as usize + 2..];
                match clients(body, ids, frame.starts_with(b"*")) {
                    Some(lines) => out.extend([&line[..1], lines.as_bytes()].concat()),
                    None => out.extend([line, b"\r\n", body].concat()),
                }
                out.extend_from_slice(b"\r\n");
            }
            _ => out.extend([line, b"\r\n"].concat()),
        }
    }
    out
}

/// `CLIENT LIST` and `CLIENT INFO`: the lines of the conversation's own connections. In the reply of `EXEC` the asker's
/// transaction is under way for a server, and over for Lockgate.
fn clients(body: &[u8], ids: &Ids, is_in_exec: bool) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let text = text.strip_prefix("txt:").unwrap_or(text);
    if !text.starts_with("id=") || !text.contains(" addr=") {
        return None;
    }
    let lines: Vec<String> = text.lines().filter_map(|line| client(line, ids, is_in_exec)).collect();
    Some(format!("clients\n{}", lines.join("\n")))
}

/// What tells of the connection's state; Lockgate shows no finer ones in the lists of others.
fn flags(all: &str, is_queueing: bool) -> String {
    let shown: String = all.chars().filter(|flag| !"eTBdrR".contains(*flag) && (*flag != 'x' || is_queueing)).collect();
    if shown.is_empty() { "N".to_owned() } else { shown }
}

fn client(line: &str, ids: &Ids, is_in_exec: bool) -> Option<String> {
    let label = |number: &str| number.parse().ok().and_then(|id: i64| ids.get(&id)).cloned();
    let id = super::connection::field(line, "id")?;
    let is_queueing = super::connection::field(line, "flags").is_some_and(|flags| flags.contains('x') && !is_in_exec);
    let fields = line.split(' ').filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        let shown = match name {
            "id" => return label(id),
            // Valkey counts the commands of a transaction that is none as 0 once something was watched.
            "multi" if !is_queueing => "-1".to_owned(),
            "flags" => flags(value, is_queueing),
            "redir" => label(value).unwrap_or_else(|| value.to_owned()),
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
