//! All users, by name, and the commands that list and change them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arguments::{has_blank, up_to_zero};
use super::catalog::Catalog;
use super::dialect::Dialect;
use super::file;
use super::user::User;

/// The user that a connection has before it names another.
pub const DEFAULT: &[u8] = b"default";

/// All users. Each stands behind a counter, so that a session can hold on to its own.
#[derive(Clone, Debug)]
pub struct Users {
    catalog: Arc<Catalog>,
    dialect: Dialect,
    by_name: BTreeMap<Box<[u8]>, Arc<User>>,
}

impl Users {
    /// The default user alone, who may do everything.
    pub fn new(catalog: Arc<Catalog>, dialect: Dialect) -> Users {
        let mut users = Users::nobody(catalog, dialect);
        users.add_default();
        users
    }

    pub(super) fn nobody(catalog: Arc<Catalog>, dialect: Dialect) -> Users {
        Users { catalog, dialect, by_name: BTreeMap::new() }
    }

    /// Unless there is one.
    pub(super) fn add_default(&mut self) {
        if self.by_name.contains_key(DEFAULT) {
            return;
        }
        let mut user = User::new(DEFAULT, &self.catalog, self.dialect);
        for rule in [&b"+@all"[..], b"~*", b"&*", b"on", b"nopass"] {
            let _ = user.apply(rule, &self.catalog, self.dialect);
        }
        self.insert(user);
    }

    /// Those of an ACL file, or of lines of configuration; `name` stands for it in errors. All of what is wrong is told at once, and then nobody
    /// is loaded. Without a default user in it, that one may do everything.
    pub fn load(text: &[u8], name: &str, catalog: Arc<Catalog>, dialect: Dialect) -> Result<Users, Vec<u8>> {
        file::load(text, name, catalog, dialect)
    }

    /// The commands against which the rules stand.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// How they are shown and refused.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn insert(&mut self, user: User) {
        self.by_name.insert(user.name().into(), Arc::new(user));
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    /// The user of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// Whoever says this name and this password may come in as: `AUTH name password`.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<&Arc<User>> {
        self.get(name).filter(|user| user.accepts(password))
    }

    /// In order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// `ACL SETUSER name rule…`: all rules, or none and an error's text. A user that is not there is made.
    pub fn set(&mut self, name: &[u8], rules: &[&[u8]]) -> Result<(), Vec<u8>> {
        if has_blank(name) {
            return Err(b"Usernames can't contain spaces or null characters".to_vec());
        }
        let rules = merge_brackets(rules, self.dialect).map_err(|at| {
            one_line([b"Unmatched parenthesis in acl selector starting at '", up_to_zero(rules[at]), b"'."].concat())
        })?;
        let mut user = match self.get(name) {
            Some(user) => User::clone(user),
            None => User::new(name, &self.catalog, self.dialect),
        };
        for rule in &rules {
            user.apply(rule, &self.catalog, self.dialect).map_err(|error| {
                let rule = up_to_zero(rule);
                one_line([b"Error in ACL SETUSER modifier '", rule, b"': ", error.to_string().as_bytes()].concat())
            })?;
        }
        self.insert(user);
        Ok(())
    }

    /// `ACL DELUSER name…`: how many were there, or an error's text.
    pub fn delete(&mut self, names: &[&[u8]]) -> Result<usize, &'static str> {
        if names.iter().any(|name| up_to_zero(name) == DEFAULT) {
            return Err("The 'default' user cannot be removed");
        }
        Ok(names.iter().filter(|name| self.by_name.remove(**name).is_some()).count())
    }

    /// The lines of `ACL LIST`.
    pub fn list(&self) -> Vec<Vec<u8>> {
        let line = |user: &Arc<User>| {
            [b"user ", user.name(), b" ", user.describe(&self.catalog, self.dialect).as_slice()].concat()
        };
        self.iter().map(line).collect()
    }

    /// What `ACL SAVE` writes.
    pub fn save(&self) -> Vec<u8> {
        self.list().into_iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect()
    }

    /// The same users before an upstream that has told of other commands. Rules whose commands it does not know rest.
    pub fn relearn(&mut self, catalog: Arc<Catalog>, dialect: Dialect) {
        for user in self.by_name.values_mut() {
            Arc::make_mut(user).relearn(&catalog, dialect);
        }
        (self.catalog, self.dialect) = (catalog, dialect);
    }
}

/// Brackets may be spread over several arguments: here each is one. The error is the place of a bracket that is not closed.
pub(super) fn merge_brackets(rules: &[&[u8]], dialect: Dialect) -> Result<Vec<Vec<u8>>, usize> {
    let mut merged = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (at, rule) in rules.iter().enumerate() {
        let opens = rule.starts_with(b"(") && !rule.ends_with(b")");
        match open.take() {
            _ if opens && dialect.brackets_begin_anew => open = Some((at, rule.to_vec())),
            None if opens => open = Some((at, rule.to_vec())),
            None => merged.push(rule.to_vec()),
            Some((from, mut text)) => {
                text.push(b' ');
                text.extend_from_slice(up_to_zero(rule));
                match rule.ends_with(b")") {
                    true => merged.push(text),
                    false => open = Some((from, text)),
                }
            }
        }
    }
    match open {
        Some((from, _)) => Err(from),
        None => Ok(merged),
    }
}

/// An error is one line.
pub(super) fn one_line(mut text: Vec<u8>) -> Vec<u8> {
    text.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
    text
}
