//! Writes the entries of `LOCK.*` in the shape of the upstream's own entries, which differs by version and protocol.

use super::lock_spec::{Argument, GROUP, Keys, Kind, LockSpec};
use super::wire::{Cursor, Malformed};
use crate::domain::Resp;
use crate::protocol::{args, frame};

/// How the upstream writes its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub resp: Resp,
    /// Elements of an entry of `COMMAND INFO`: 6 at first, 7 with ACL categories, 10 from Redis 7.0.
    pub fields: usize,
    /// The empty list of subcommands is a set in Redis, an array in Valkey.
    pub has_subcommand_set: bool,
    /// Arguments carry what to show for them, from Redis 7.2.
    pub has_display_text: bool,
}

impl Shape {
    /// What the newest servers write; for an upstream that shows no entry to go by.
    pub fn newest(resp: Resp) -> Shape {
        Shape { resp, fields: 10, has_subcommand_set: true, has_display_text: true }
    }

    /// The shape of one entry of `COMMAND` or `COMMAND INFO`, at the front of `entry`.
    pub fn of_info(resp: Resp, entry: &[u8]) -> Result<Shape, Malformed> {
        Shape::of_infos(resp, entry, 1)
    }

    /// The shape of `count` such entries. How an empty list of subcommands looks, only a command without subcommands tells.
    pub fn of_infos(resp: Resp, entries: &[u8], count: usize) -> Result<Shape, Malformed> {
        let mut cursor = Cursor::new(entries);
        let mut shape = Shape::newest(resp);
        for _ in 0..count {
            shape.fields = cursor.values()?;
            for _ in 1..shape.fields {
                cursor.skip()?;
            }
            let last = &entries[cursor.position()..];
            if last.starts_with(b"~0\r") || last.starts_with(b"*0\r") {
                shape.has_subcommand_set = last[0] == b'~';
                break;
            }
            cursor.skip()?;
        }
        Ok(shape)
    }

    /// The shape of the entries of `COMMAND DOCS`.
    pub fn of_docs(resp: Resp, docs: &[u8]) -> Shape {
        Shape { has_display_text: memchr::memmem::find(docs, b"display_text").is_some(), ..Shape::newest(resp) }
    }
}

/// One entry of `COMMAND INFO`.
pub(super) fn info(spec: &LockSpec, shape: Shape) -> Vec<u8> {
    let mut out = Writer::new(shape.resp);
    out.array(shape.fields.clamp(6, 10));
    out.bulk(spec.name.as_bytes());
    out.int(spec.arity.into());
    out.words(spec.flags);
    for _first_last_step in 0..3 {
        out.int(spec.keys.fixed_place().into());
    }
    if shape.fields >= 7 {
        out.words(spec.categories);
    }
    if shape.fields >= 8 {
        out.set(0);
    }
    if shape.fields >= 9 {
        key_specifications(&mut out, spec.keys);
    }
    if shape.fields >= 10 {
        if shape.has_subcommand_set { out.set(0) } else { out.array(0) }
    }
    out.bytes
}

fn key_specifications(out: &mut Writer, keys: Keys) {
    match keys {
        Keys::None => out.set(0),
        Keys::First(flags) => {
            out.set(1);
            key_specification(out, flags, "range", &[("lastkey", 0), ("keystep", 1), ("limit", 0)]);
        }
        Keys::Counted(flags) => {
            out.set(1);
            key_specification(out, flags, "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)]);
        }
        Keys::FirstAndInner(flags) => {
            out.set(2);
            key_specification(out, flags, "range", &[("lastkey", 0), ("keystep", 1), ("limit", 0)]);
            out.map(3);
            out.bulk(b"flags");
            out.words(&["RW", "access", "update", "incomplete"]);
            for search in ["begin_search", "find_keys"] {
                out.bulk(search.as_bytes());
                out.map(2);
                out.pair("type", "unknown");
                out.bulk(b"spec");
                out.map(0);
            }
        }
    }
}

/// Keys that are found from the first argument on.
fn key_specification(out: &mut Writer, flags: &[&str], kind: &str, find: &[(&str, i64)]) {
    out.map(3);
    out.bulk(b"flags");
    out.words(flags);
    out.bulk(b"begin_search");
    out.map(2);
    out.pair("type", "index");
    out.bulk(b"spec");
    out.map(1);
    out.bulk(b"index");
    out.int(1);
    out.bulk(b"find_keys");
    out.map(2);
    out.pair("type", kind);
    out.bulk(b"spec");
    out.map(find.len());
    for (name, number) in find {
        out.bulk(name.as_bytes());
        out.int(*number);
    }
}

/// One entry of `COMMAND DOCS`: the name and what is said about it.
pub(super) fn docs(spec: &LockSpec, shape: Shape) -> Vec<u8> {
    let mut out = Writer::new(shape.resp);
    out.bulk(spec.name.as_bytes());
    // As Redis has it, a command without arguments has none to tell of.
    let has_arguments = !spec.arguments.is_empty();
    out.map(4 + usize::from(has_arguments));
    out.pair("summary", spec.summary);
    out.pair("since", spec.since);
    out.pair("group", GROUP);
    out.pair("complexity", spec.complexity);
    if has_arguments {
        out.bulk(b"arguments");
        arguments(&mut out, spec.arguments, shape);
    }
    out.bytes
}

fn arguments(out: &mut Writer, list: &[Argument], shape: Shape) {
    out.array(list.len());
    for argument in list {
        self::argument(out, argument, shape);
    }
}

fn argument(out: &mut Writer, argument: &Argument, shape: Shape) {
    let (kind, inner) = match argument.kind {
        Kind::Key => ("key", None),
        Kind::Text => ("string", None),
        Kind::Integer => ("integer", None),
        Kind::Pattern => ("pattern", None),
        Kind::Word => ("pure-token", None),
        Kind::OneOf(inner) => ("oneof", Some(inner)),
        Kind::Block(inner) => ("block", Some(inner)),
    };
    let is_key = matches!(argument.kind, Kind::Key);
    let shows_display = shape.has_display_text && inner.is_none();
    let mut flags = Vec::new();
    flags.extend(argument.is_optional.then_some("optional"));
    flags.extend(argument.is_multiple.then_some("multiple"));
    let extras = [shows_display, is_key, argument.token.is_some(), !flags.is_empty(), inner.is_some()];
    out.map(2 + extras.into_iter().filter(|&there| there).count());
    out.pair("name", argument.name);
    out.pair("type", kind);
    if shows_display {
        out.pair("display_text", argument.display);
    }
    if is_key {
        out.bulk(b"key_spec_index");
        out.int(0);
    }
    if let Some(token) = argument.token {
        out.pair("token", token);
    }
    if !flags.is_empty() {
        out.bulk(b"flags");
        out.words(&flags);
    }
    if let Some(inner) = inner {
        out.bulk(b"arguments");
        arguments(out, inner, shape);
    }
}

/// The element of `COMMAND LIST`.
pub(super) fn name(spec: &LockSpec) -> Vec<u8> {
    let mut out = Writer::new(Resp::V2);
    out.bulk(spec.name.as_bytes());
    out.bytes
}

/// The elements of the answer of `COMMAND GETKEYS`.
pub(super) fn keys(keys: &[&[u8]]) -> Vec<u8> {
    let mut out = Writer::new(Resp::V2);
    keys.iter().for_each(|key| out.bulk(key));
    out.bytes
}

/// The elements of the answer of `COMMAND GETKEYSANDFLAGS`.
pub(super) fn keys_and_flags(keys: &[&[u8]], flags: &[&str], resp: Resp) -> Vec<u8> {
    let mut out = Writer::new(resp);
    for key in keys {
        out.array(2);
        out.bulk(key);
        out.words(flags);
    }
    out.bytes
}

/// A request to the upstream.
pub(super) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    args::encode_command(words, &mut out);
    out
}

/// The head of an array, or of a map of so many pairs.
pub(super) fn head(count: usize, is_map: bool, resp: Resp) -> Vec<u8> {
    let mut out = Writer::new(resp);
    if is_map {
        out.map(count)
    } else {
        out.array(count)
    }
    out.bytes
}

/// Frames in one protocol.
struct Writer {
    bytes: Vec<u8>,
    resp: Resp,
}

impl Writer {
    fn new(resp: Resp) -> Self {
        Writer { bytes: Vec::new(), resp }
    }

    fn array(&mut self, count: usize) {
        frame::array(count, &mut self.bytes);
    }

    fn set(&mut self, count: usize) {
        frame::set(self.resp, count, &mut self.bytes);
    }

    fn map(&mut self, pairs: usize) {
        frame::map(self.resp, pairs, &mut self.bytes);
    }

    fn int(&mut self, number: i64) {
        frame::integer(number, &mut self.bytes);
    }

    fn bulk(&mut self, text: &[u8]) {
        frame::bulk(text, &mut self.bytes);
    }

    fn pair(&mut self, name: &str, text: &str) {
        self.bulk(name.as_bytes());
        self.bulk(text.as_bytes());
    }

    /// A set of simple strings.
    fn words(&mut self, words: &[&str]) {
        self.set(words.len());
        for word in words {
            frame::simple(word, &mut self.bytes);
        }
    }
}
