//! ACL files: a line `user name rule…` for each user. What is wrong is told line by line, all of it at once.

use std::sync::Arc;

use super::arguments::{has_blank, up_to_zero};
use super::catalog::Catalog;
use super::dialect::Dialect;
use super::rule::RuleError;
use super::user::User;
use super::users::{Users, merge_brackets};

pub(super) fn load(text: &[u8], name: &str, catalog: Arc<Catalog>, dialect: Dialect) -> Result<Users, Vec<u8>> {
    let mut users = Users::nobody(Arc::clone(&catalog), dialect);
    let mut errors = Vec::new();
    for (number, line) in (1..).zip(up_to_zero(text).split(|byte| *byte == b'\n')) {
        let line = trim(line, b" \t\r\n");
        if line.is_empty() {
            continue;
        }
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        match new_user(&words, &users) {
            Ok((user_name, rules)) => {
                let mut user = User::new(user_name, &catalog, dialect);
                let problems = apply(&mut user, rules, &catalog, dialect);
                problems.iter().for_each(|problem| problem.tell(name, number, &mut errors));
                // Also with errors, as the name is taken.
                users.insert(user);
            }
            Err(problem) => problem.tell(name, number, &mut errors),
        }
    }
    if errors.is_empty() {
        users.add_default();
        return Ok(users);
    }
    errors
        .extend_from_slice(b"WARNING: ACL errors detected, no change to the previously active ACL rules was performed");
    Err(errors)
}

/// What is wrong with a line.
enum Problem {
    NoUser,
    BadName(Vec<u8>),
    Duplicate(Vec<u8>),
    OpenBracket,
    /// Named, as it holds no secret.
    Unknown(Vec<u8>),
    Rule(RuleError),
}

impl Problem {
    fn tell(&self, file: &str, number: usize, out: &mut Vec<u8>) {
        let place = format!("{file}:{number}");
        let place = place.as_bytes();
        let number = number.to_string();
        let parts: &[&[u8]] = match self {
            Problem::NoUser => &[place, b" should start with user keyword followed by the username. "],
            Problem::BadName(name) => &[b"'", place, b": username '", name, b"' contains invalid characters. "],
            Problem::Duplicate(name) => {
                &[b"WARNING: Duplicate user '", name, b"' found on line ", number.as_bytes(), b". "]
            }
            Problem::OpenBracket => &[place, b": Unmatched parenthesis in selector definition."],
            Problem::Unknown(rule) => {
                let says = RuleError::Unknown.to_string();
                return out.extend(
                    [place, b": Error in applying operation '", rule, b"': ", says.as_bytes(), b". "].concat(),
                );
            }
            Problem::Rule(error) => return out.extend([place, b": ", error.to_string().as_bytes(), b". "].concat()),
        };
        out.extend(parts.concat());
    }
}

/// The name and the rules of a line.
fn new_user<'l>(words: &'l [&'l [u8]], known: &Users) -> Result<(&'l [u8], &'l [&'l [u8]]), Problem> {
    let [b"user", name, rules @ ..] = words else { return Err(Problem::NoUser) };
    if has_blank(name) {
        return Err(Problem::BadName(name.to_vec()));
    }
    if known.has(name) {
        return Err(Problem::Duplicate(name.to_vec()));
    }
    Ok((name, rules))
}

fn apply(user: &mut User, rules: &[&[u8]], catalog: &Catalog, dialect: Dialect) -> Vec<Problem> {
    let Ok(rules) = merge_brackets(rules, dialect) else { return vec![Problem::OpenBracket] };
    let mut problems = Vec::new();
    for rule in rules.iter().map(|rule| trim(rule, b"\t\r\n")) {
        match user.apply(rule, catalog, dialect) {
            Ok(()) => {}
            Err(RuleError::Unknown) => problems.push(Problem::Unknown(rule.to_vec())),
            // One is enough: the others may come of it.
            Err(error) if !problems.iter().any(|problem| matches!(problem, Problem::Rule(_))) => {
                problems.push(Problem::Rule(error));
            }
            Err(_) => {}
        }
    }
    problems
}

fn trim<'a>(text: &'a [u8], blanks: &[u8]) -> &'a [u8] {
    let is_blank = |byte: &u8| blanks.contains(byte);
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |end| end + 1);
    &text[start..end]
}
