//! What may differ between two runs of the same conversation, and nothing more.

/// How much of a frame may differ.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// What is another's in every run.
    Always,
    /// Every number.
    Digits,
    /// All fields of CLIENT LIST but those that say who a client is and what it does.
    ClientFields,
}

/// Fields of CLIENT LIST which every server version has, and which are about the client, not about buffers.
const CLIENT_FIELDS: [&str; 12] =
    ["id", "addr", "laddr", "name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "resp"];

impl Mask {
    pub fn apply(self, frame: &[u8]) -> Vec<u8> {
        match self {
            Self::Always => always(frame),
            Self::Digits => digits(frame),
            Self::ClientFields => client_fields(&digits(frame)),
        }
    }
}

fn client_fields(frame: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(frame);
    let lines = text.split('\n').map(|line| {
        let kept = line.split(' ').filter(|word| {
            // The first field of a verbatim string stands right behind its head.
            let word = word.strip_prefix("txt:").unwrap_or(word);
            word.split_once('=').is_none_or(|(name, _)| name.len() < 2 || CLIENT_FIELDS.contains(&name))
        });
        kept.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Masks what is another's in every run wherever it stands: the client's id in HELLO, and time and address in MONITOR.
pub fn always(frame: &[u8]) -> Vec<u8> {
    if let Some(masked) = monitor_line(frame) {
        return masked;
    }
    let head = b"$2\r\nid\r\n:";
    match frame.windows(head.len()).position(|part| part == head) {
        Some(at) if frame.starts_with(b"%") || frame.starts_with(b"*") => {
            let mut out = frame[..at + head.len()].to_vec();
            let rest = &frame[at + head.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            out.push(b'#');
            out.extend_from_slice(&rest[digits..]);
            out
        }
        _ => frame.to_vec(),
    }
}

/// Masks every number, for replies that are all ids, addresses, times and sizes.
pub fn digits(frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len());
    for &byte in frame {
        if !byte.is_ascii_digit() {
            out.push(byte);
        } else if out.last() != Some(&b'#') {
            out.push(b'#');
        }
    }
    out
}

/// `+1339518083.107412 [0 127.0.0.1:60866] "GET" "k"` without time and address.
fn monitor_line(frame: &[u8]) -> Option<Vec<u8>> {
    let text = frame.strip_prefix(b"+")?;
    let space = text.iter().position(|&byte| byte == b' ')?;
    let time = &text[..space];
    if !time.contains(&b'.') || !time.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        return None;
    }
    let rest = text[space + 1..].strip_prefix(b"[")?;
    let end = rest.iter().position(|&byte| byte == b']')?;
    let db = rest[..end].split(|&byte| byte == b' ').next()?;
    let origin: &[u8] = if rest[..end].ends_with(b"lua") { b"lua" } else { b"#" };
    Some([b"+# [", db, b" ", origin, &rest[end..]].concat())
}
