//! One user: whether it may come in, with which passwords, and its rights.

use super::arguments::{split, up_to_zero};
use super::catalog::Catalog;
use super::describe::{self, SelectorText};
use super::dialect::{Dialect, Payload};
use super::password::{PasswordHash, is_among};
use super::rule::RuleError;
use super::selector::Selector;

/// A user. A new one may do nothing, and nobody can come in as it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    name: Box<[u8]>,
    is_on: bool,
    needs_no_password: bool,
    /// Whether payloads are looked into, where that was said.
    sanitizes: Option<bool>,
    passwords: Vec<PasswordHash>,
    /// The first one is the user's own, those of brackets follow.
    pub(super) selectors: Vec<Selector>,
}

impl User {
    pub(super) fn new(name: &[u8], catalog: &Catalog, dialect: Dialect) -> User {
        User {
            name: name.into(),
            is_on: false,
            needs_no_password: false,
            sanitizes: (dialect.payload == Payload::FromTheStart).then_some(true),
            passwords: Vec::new(),
            selectors: vec![Selector::nothing(catalog)],
        }
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Somebody can come in as it.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Any password will do.
    pub fn needs_no_password(&self) -> bool {
        self.needs_no_password
    }

    /// `true` if somebody who says this password may come in.
    pub fn accepts(&self, password: &[u8]) -> bool {
        self.is_on && (self.needs_no_password || is_among(password, &self.passwords))
    }

    /// The hashes of its passwords, as `ACL GETUSER` tells them.
    pub fn passwords(&self) -> impl Iterator<Item = String> {
        self.passwords.iter().map(PasswordHash::hex)
    }

    /// The flags of `ACL GETUSER`.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_on { "on" } else { "off" }];
        flags.extend(self.needs_no_password.then_some("nopass"));
        flags.extend(self.sanitizes.map(|does| if does { "sanitize-payload" } else { "skip-sanitize-payload" }));
        flags
    }

    /// Its rights as `ACL GETUSER` tells them: its own first, then those in brackets.
    pub fn selectors(&self, catalog: &Catalog, dialect: Dialect) -> Vec<SelectorText> {
        self.selectors.iter().map(|selector| SelectorText::of(selector, catalog, dialect)).collect()
    }

    /// The rules that make this user again, on one line: what `ACL LIST` shows behind the name.
    pub fn describe(&self, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
        let mut line = Vec::new();
        for flag in self.flags() {
            line.extend_from_slice(flag.as_bytes());
            line.push(b' ');
        }
        for password in self.passwords() {
            line.extend_from_slice(format!("#{password} ").as_bytes());
        }
        for (place, selector) in self.selectors.iter().enumerate() {
            let rules = describe::rules(selector, catalog, dialect);
            match place {
                0 => line.extend(rules),
                _ => line.extend([b" (", rules.as_slice(), b")"].concat()),
            }
        }
        line
    }

    /// The same rules before another catalog.
    pub(super) fn relearn(&mut self, catalog: &Catalog, dialect: Dialect) {
        for selector in &mut self.selectors {
            selector.commands.relearn(catalog, dialect);
        }
    }

    /// Applies one rule, brackets being one.
    pub(super) fn apply(&mut self, rule: &[u8], catalog: &Catalog, dialect: Dialect) -> Result<(), RuleError> {
        let Some(&first) = rule.first() else { return Ok(()) };
        match up_to_zero(rule).to_ascii_lowercase().as_slice() {
            b"on" => self.is_on = true,
            b"off" => self.is_on = false,
            b"nopass" => (self.needs_no_password, self.passwords) = (true, Vec::new()),
            b"resetpass" => (self.needs_no_password, self.passwords) = (false, Vec::new()),
            b"sanitize-payload" => self.sanitize(true, dialect),
            b"skip-sanitize-payload" => self.sanitize(false, dialect),
            b"clearselectors" => self.selectors.truncate(1),
            b"reset" => {
                *self = User::new(&self.name, catalog, dialect);
                self.sanitize(true, dialect);
            }
            _ => match first {
                b'>' | b'#' => self.add_password(rule)?,
                b'<' | b'!' => self.remove_password(rule)?,
                b'(' if rule.ends_with(b")") => self.selectors.push(bracket(rule, catalog, dialect)?),
                _ => self.selectors[0].apply(rule, catalog, dialect)?,
            },
        }
        Ok(())
    }

    fn sanitize(&mut self, does: bool, dialect: Dialect) {
        self.sanitizes = (dialect.payload != Payload::Forgotten).then_some(does);
    }

    fn add_password(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let hash = if rule[0] == b'>' { PasswordHash::of(&rule[1..]) } else { PasswordHash::parse(&rule[1..])? };
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
        self.needs_no_password = false;
        Ok(())
    }

    fn remove_password(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let hash = if rule[0] == b'<' { PasswordHash::of(&rule[1..]) } else { PasswordHash::parse(&rule[1..])? };
        let place = self.passwords.iter().position(|known| *known == hash).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(place);
        Ok(())
    }
}

/// `(rule …)`. As on the servers, quotes that do not match leave nothing of it.
fn bracket(rule: &[u8], catalog: &Catalog, dialect: Dialect) -> Result<Selector, RuleError> {
    let mut selector = Selector::nothing(catalog);
    let inner = rule.get(1..rule.len() - 1).unwrap_or_default();
    for rule in split(inner).unwrap_or_default() {
        selector.apply(&rule, catalog, dialect)?;
    }
    Ok(selector)
}
