//! Reads the upstream's answer to `COMMAND`, as far as rules ask: names, categories, key specifications, subcommands.

use super::keys::{Begin, Find, KeySpec, Touch};
use super::told::Told;
use crate::commands::LearnError;
use crate::commands::wire::{Cursor, Malformed, Token};

/// More than any server has, and each with no more subcommands.
const COMMANDS_MAX: usize = 10_000;

/// All commands in `reply`, in RESP2 or RESP3.
pub(super) fn commands(reply: &[u8]) -> Result<Vec<Told>, LearnError> {
    let mut cursor = Cursor::new(reply);
    let count = match cursor.next().map_err(LearnError::Malformed)? {
        Token::Array(count) => count,
        Token::Error(text) => return Err(LearnError::Refused(String::from_utf8_lossy(text).into_owned())),
        _ => return Err(LearnError::Malformed(Malformed { at: 0 })),
    };
    let mut all = Vec::new();
    for _ in 0..count.min(COMMANDS_MAX) {
        all.extend(command(&mut cursor, true).map_err(LearnError::Malformed)?);
    }
    Ok(all)
}

/// One element; `None` for a name that is none. Servers before Redis 7.0 tell seven fields of a command, later ones ten.
fn command(cursor: &mut Cursor<'_>, may_have_subcommands: bool) -> Result<Option<Told>, Malformed> {
    let fields = cursor.values()?;
    if fields < 6 {
        return Err(Malformed { at: cursor.position() });
    }
    let name = cursor.text()?;
    let arity = i32::try_from(cursor.int()?).unwrap_or_default();
    let (mut is_free, mut is_module, mut is_movable) = (false, false, false);
    for _ in 0..cursor.values()? {
        match cursor.text()? {
            b"no_auth" => is_free = true,
            b"module" => is_module = true,
            b"movablekeys" => is_movable = true,
            _ => {}
        }
    }
    let place = [cursor.int()?, cursor.int()?, cursor.int()?];
    let (mut categories, mut specs, mut subcommands) = (Vec::new(), Vec::new(), Vec::new());
    for field in 6..fields {
        match field {
            6 => {
                for _ in 0..cursor.values()? {
                    let name = cursor.text()?;
                    categories.push(String::from_utf8_lossy(name.strip_prefix(b"@").unwrap_or(name)).into_owned());
                }
            }
            8 => {
                for _ in 0..cursor.values()? {
                    specs.push(key_spec(cursor)?);
                }
            }
            9 if may_have_subcommands => {
                for _ in 0..cursor.values()?.min(COMMANDS_MAX) {
                    subcommands.extend(command(cursor, false)?);
                }
            }
            _ => cursor.skip()?,
        }
    }
    if fields < 9 {
        specs.extend(by_place(place));
    }
    let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
    let name: Box<str> = name.into();
    let is_opaque = is_module && is_movable;
    Ok(Some(Told { name, arity, categories, is_free, is_module, is_opaque, specs, subcommands, inner_at: None }))
}

/// A server that tells no specifications tells first key, last key and step. What happens to the keys it does not say: the worst is assumed.
fn by_place([first, last, step]: [i64; 3]) -> Option<KeySpec> {
    (first > 0).then(|| KeySpec {
        touch: Touch::BOTH,
        is_not_key: false,
        is_incomplete: false,
        is_variable: false,
        begin: Begin::Index(first),
        find: Find::Range { last: if last < 0 { last } else { last - first }, step, limit: 0 },
    })
}

fn key_spec(cursor: &mut Cursor<'_>) -> Result<KeySpec, Malformed> {
    let mut spec = KeySpec {
        touch: Touch::NONE,
        is_not_key: false,
        is_incomplete: false,
        is_variable: false,
        begin: Begin::Unknown,
        find: Find::Unknown,
    };
    for _ in 0..cursor.values()? / 2 {
        match cursor.text()? {
            b"flags" => {
                for _ in 0..cursor.values()? {
                    spec.flag(cursor.text()?);
                }
            }
            b"begin_search" => spec.begin = begin(cursor)?,
            b"find_keys" => spec.find = find(cursor)?,
            _ => cursor.skip()?,
        }
    }
    Ok(spec)
}

/// The fields of a search, each with its value.
type Fields<'a> = Vec<(&'a [u8], Token<'a>)>;

/// `type` and `spec` of a search.
fn search<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], Fields<'a>), Malformed> {
    let (mut kind, mut fields) = (&[][..], Vec::new());
    for _ in 0..cursor.values()? / 2 {
        match cursor.text()? {
            b"type" => kind = cursor.text()?,
            b"spec" => {
                for _ in 0..cursor.values()? / 2 {
                    fields.push((cursor.text()?, cursor.next()?));
                }
            }
            _ => cursor.skip()?,
        }
    }
    Ok((kind, fields))
}

fn number(fields: &[(&[u8], Token<'_>)], name: &[u8]) -> i64 {
    fields
        .iter()
        .find_map(|(field, value)| match value {
            Token::Int(number) if *field == name => Some(*number),
            _ => None,
        })
        .unwrap_or_default()
}

fn begin(cursor: &mut Cursor<'_>) -> Result<Begin, Malformed> {
    let (kind, fields) = search(cursor)?;
    let word = fields.iter().find_map(|(name, value)| match value {
        Token::Text(word) if *name == b"keyword" => Some(*word),
        _ => None,
    });
    Ok(match (kind, word) {
        (b"index", _) => Begin::Index(number(&fields, b"index")),
        (b"keyword", Some(word)) => Begin::Keyword { word: word.into(), from: number(&fields, b"startfrom") },
        _ => Begin::Unknown,
    })
}

fn find(cursor: &mut Cursor<'_>) -> Result<Find, Malformed> {
    let (kind, fields) = search(cursor)?;
    let number = |name: &str| number(&fields, name.as_bytes());
    Ok(match kind {
        b"range" => Find::Range { last: number("lastkey"), step: number("keystep"), limit: number("limit") },
        b"keynum" => Find::Count { index: number("keynumidx"), first: number("firstkey"), step: number("keystep") },
        _ => Find::Unknown,
    })
}
