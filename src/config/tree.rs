//! What was said, and where: the values of the file, the environment and the flags, each with its place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was said. Errors name it, `config dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// In the configuration file.
    File {
        /// The file as it was named.
        path: Arc<Path>,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// In this environment variable.
    Environment(String),
    /// In this flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Environment(name) => write!(f, "{name}"),
            Origin::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string; also all that comes from the environment and from flags.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Bool(bool),
    /// An array.
    List(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
    /// What no key takes: a float, a date, a number past 64 bits. Named for the error.
    Other(&'static str),
}

impl Value {
    /// For errors: "a string", "a table" …
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What was said.
    pub value: Value,
    /// Where.
    pub origin: Origin,
}

/// A key of a table, its own place, and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key as written.
    pub name: String,
    /// Where the key stands, as opposed to its value.
    pub origin: Origin,
    /// What it is set to.
    pub node: Node,
}

/// Something wrong in a place, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The key, where one is known: "links.shared".
    pub key: Option<String>,
    /// What is wrong and what to write instead.
    pub says: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.says)
    }
}

/// Turns byte offsets of a text into lines and columns.
struct Places<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Places<'_> {
    fn at(&self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start.min(self.text.len())).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: Arc::clone(&self.path),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Reads a TOML document. `variable` looks up `${NAME}` in its strings.
pub fn parse_file(
    path: &Path,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Entry>, Vec<Problem>> {
    let places = Places { path: path.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // The first error is the one to mend; those after it on the same line are its echo.
        let mut problems: Vec<Problem> = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let origin = places.at(&span);
            let is_echo = problems.iter().any(|seen| same_line(&seen.origin, &origin));
            if !is_echo {
                let says = explain_syntax(error.message(), line_around(text, span.start));
                problems.push(Problem { origin, key: None, says });
            }
        }
        return Err(problems);
    }
    let mut problems = Vec::new();
    let entries = table_entries(table.get_ref(), "", &places, variable, &mut problems);
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

/// Reads a list or a table that an environment variable holds, as `[{ match = "orders:*" }]`.
pub fn parse_variable(name: &str, text: &str) -> Result<Node, Problem> {
    let origin = Origin::Environment(name.to_owned());
    let wrong = |says: String| Problem { origin: origin.clone(), key: None, says };
    let value = DeValue::parse(text).map_err(|error| {
        wrong(format!("is no TOML value ({}); write it as in the file, on one line", first_line(error.message())))
    })?;
    let places = Places { path: PathBuf::new().into(), text };
    let mut problems = Vec::new();
    let mut node = value_node(&value, "", &places, &|_| None, &mut problems);
    if let Some(problem) = problems.into_iter().next() {
        return Err(wrong(problem.says));
    }
    give_origin(&mut node, &origin);
    Ok(node)
}

fn give_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| give_origin(item, origin)),
        Value::Table(entries) => entries.iter_mut().for_each(|entry| {
            entry.origin = origin.clone();
            give_origin(&mut entry.node, origin);
        }),
        _ => {}
    }
}

fn table_entries(
    table: &DeTable<'_>,
    prefix: &str,
    places: &Places<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(name, value)| {
            let path = join(prefix, name.get_ref());
            let node = value_node(value, &path, places, variable, problems);
            let origin = places.at(&name.span());
            (name.span().start, Entry { name: name.get_ref().to_string(), origin, node })
        })
        .collect();
    entries.sort_by_key(|(start, _)| *start);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn value_node(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    places: &Places<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Node {
    let origin = places.at(&value.span());
    let value = match value.get_ref() {
        DeValue::String(text) => match substitute(text, variable) {
            Ok(text) => Value::Text(text),
            Err(says) => {
                problems.push(Problem { origin: origin.clone(), key: Some(path.to_owned()), says });
                Value::Text(String::new())
            }
        },
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number that is too large"),
        },
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| value_node(item, path, places, variable, problems)).collect())
        }
        DeValue::Table(table) => Value::Table(table_entries(table, path, places, variable, problems)),
    };
    Node { value, origin }
}

/// `links` and `shared` make `links.shared`.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Puts the variables' values in the place of `${NAME}`; `$$` is a dollar sign.
fn substitute(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or("has '${' without its '}'; write ${NAME}, or $$ for a dollar sign itself")?;
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_name {
                return Err("has a ${…} with no plain variable name in it; write ${NAME}, or $$ for a dollar sign \
                            itself"
                    .to_owned());
            }
            let value = variable(name).ok_or_else(|| {
                format!("the environment variable {name} is not set; set it, or write the value here")
            })?;
            out.push_str(&value);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn same_line(a: &Origin, b: &Origin) -> bool {
    matches!((a, b), (Origin::File { line: a, .. }, Origin::File { line: b, .. }) if a == b)
}

fn line_around(text: &str, offset: usize) -> &str {
    let offset = offset.min(text.len());
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("")
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or(message)
}

/// The parser's word and the usual reason for it. The line itself is not repeated: it may hold a password.
fn explain_syntax(message: &str, line: &str) -> String {
    let message = first_line(message);
    let value = line.split_once('=').map(|(_, value)| value.trim()).unwrap_or("");
    let hint = if message.contains("duplicate") {
        "this key or table was set before; keep one of them"
    } else if !line.contains('=') && !line.trim_start().starts_with('[') {
        "a line is `key = value`, `[table]` or `# comment`"
    } else if line.contains('=') && value.is_empty() {
        "the value is missing"
    } else if !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']) {
        "texts, addresses and durations stand in double quotes, as in listen = \"127.0.0.1:7379\" or max_ttl = \"2h\""
    } else if value.starts_with('"') && value.matches('"').count() % 2 == 1 {
        "a closing double quote is missing"
    } else {
        "see docs/configuration.md for how this file is written"
    };
    format!("is not valid TOML ({message}); {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        substitute(text, &|name| (name == "PW").then(|| "s${X}".to_owned()))
    }

    #[test]
    fn variables_are_put_in_once() {
        assert_eq!(with("a${PW}b"), Ok("as${X}b".to_owned()));
        assert_eq!(with("$$5 and $ and a$"), Ok("$5 and $ and a$".to_owned()));
        assert!(with("${NONE}").expect_err("unset").contains("NONE is not set"));
        assert!(with("${PW").expect_err("open").contains("without its '}'"));
        assert!(with("${}").expect_err("empty").contains("no plain variable name"));
    }
}
