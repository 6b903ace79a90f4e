//! Keys, what they hold, and until when.

use std::collections::BTreeMap;

use super::reply::Reply;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// A string.
    Text(Vec<u8>),
    /// A hash; its fields in the order in which they came.
    Hash(Vec<Field>),
}

/// A field of a hash, and its value.
pub type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    datum: Datum,
    until_ms: Option<u64>,
}

/// The error of a command that wants another type.
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// One logical database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    keys: BTreeMap<Vec<u8>, Entry>,
}

impl Database {
    /// Keys whose time is over, as the upstream removes them sooner or later. A key lives through the whole of its last millisecond.
    pub fn expired(&self, now_ms: u64) -> Vec<Vec<u8>> {
        let over = self.keys.iter().filter(|(_, entry)| entry.until_ms.is_some_and(|until| now_ms > until));
        over.map(|(name, _)| name.clone()).collect()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The names of all keys.
    pub fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.keys.keys()
    }

    /// Removes a key; what it held.
    pub fn remove(&mut self, key: &[u8]) -> Option<Datum> {
        self.keys.remove(key).map(|entry| entry.datum)
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Option<&Datum> {
        self.keys.get(key).map(|entry| &entry.datum)
    }

    /// The string that it holds, or nothing.
    pub fn text(&self, key: &[u8]) -> Result<Option<&[u8]>, Reply> {
        match self.get(key) {
            None => Ok(None),
            Some(Datum::Text(text)) => Ok(Some(text)),
            Some(Datum::Hash(_)) => Err(Reply::Error(WRONG_TYPE.into())),
        }
    }

    /// The hash that it holds, or nothing.
    pub fn hash(&self, key: &[u8]) -> Result<&[Field], Reply> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Datum::Hash(fields)) => Ok(fields),
            Some(Datum::Text(_)) => Err(Reply::Error(WRONG_TYPE.into())),
        }
    }

    /// Writes a string, until then.
    pub fn set(&mut self, key: &[u8], text: &[u8], until_ms: Option<u64>) {
        self.keys.insert(key.to_vec(), Entry { datum: Datum::Text(text.to_vec()), until_ms });
    }

    /// Until when, `None` for ever, of a key that is there.
    pub fn until_ms(&self, key: &[u8]) -> Option<Option<u64>> {
        self.keys.get(key).map(|entry| entry.until_ms)
    }

    /// Gives a key another end; whether it is there.
    pub fn set_until(&mut self, key: &[u8], until_ms: Option<u64>) -> bool {
        self.keys.get_mut(key).map(|entry| entry.until_ms = until_ms).is_some()
    }

    /// Writes a field of a hash; 1 where it is new.
    pub fn set_field(&mut self, key: &[u8], field: &[u8], value: &[u8]) -> Result<i64, Reply> {
        let new = || Entry { datum: Datum::Hash(Vec::new()), until_ms: None };
        match &mut self.keys.entry(key.to_vec()).or_insert_with(new).datum {
            Datum::Text(_) => Err(Reply::Error(WRONG_TYPE.into())),
            Datum::Hash(fields) => match fields.iter_mut().find(|(name, _)| name == field) {
                Some((_, known)) => {
                    *known = value.to_vec();
                    Ok(0)
                }
                None => {
                    fields.push((field.to_vec(), value.to_vec()));
                    Ok(1)
                }
            },
        }
    }

    /// Removes a field of a hash, and the hash with its last one; 1 where it was there.
    pub fn remove_field(&mut self, key: &[u8], field: &[u8]) -> Result<i64, Reply> {
        let Some(entry) = self.keys.get_mut(key) else { return Ok(0) };
        let Datum::Hash(fields) = &mut entry.datum else { return Err(Reply::Error(WRONG_TYPE.into())) };
        let before = fields.len();
        fields.retain(|(name, _)| name != field);
        let removed = before - fields.len();
        if fields.is_empty() {
            self.keys.remove(key);
        }
        Ok(removed as i64)
    }
}
