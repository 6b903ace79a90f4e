//! What makes a message between nodes trustworthy: a MAC under a secret that only nodes have, and enough around the message that a
//! recorded one is of no use later.
//!
//! On the wire a message is a list: the version of this form, sender, the sender's life, the sender's hearing, number, addressee, the
//! addressee's hearing, body, MAC. A hearing is the time since which a node has been subscribed without a gap.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::protocol::args::{args, encode_command};

/// The form of sealed messages that this version writes …
const FORMAT: u64 = 1;
/// … and the newest that it reads. A version with a new form reads it first and writes the older one.
const READS: u64 = 1;
/// A secret is stretched, so that a recorded message is of little use for guessing a weak one.
const ROUNDS: u32 = 100_000;
const SALT: &[u8] = b"lockgate: messages between nodes";
/// Fields before the MAC.
const FIELDS: usize = 8;

/// The key under which nodes seal their messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Seal([u8; 64]);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Seal::default() { "without a secret" } else { "***" })
    }
}

impl Default for Seal {
    /// No secret: the MAC is only a checksum.
    fn default() -> Self {
        Seal([0; 64])
    }
}

/// A node's hearing, as an address: what is meant for an earlier one is not for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressee<'a> {
    /// Its name.
    pub id: &'a str,
    /// Since when it hears without a gap.
    pub hearing: u64,
}

/// A message with all that says where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter<'a> {
    /// The sender's name.
    pub from: &'a str,
    /// The sender's life.
    pub instance: u64,
    /// Since when the sender hears without a gap.
    pub hearing: u64,
    /// Grows with every message of that life.
    pub number: u64,
    /// Whom it is for; `None` is everybody.
    pub to: Option<Addressee<'a>>,
    /// What is said.
    pub body: &'a [u8],
}

/// Why a message is not heeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// Its MAC is not of this seal.
    Forged,
    /// It is genuine, in a form that this version does not read.
    Newer(u64),
}

impl Seal {
    /// Made from what all nodes of an upstream know. Takes some milliseconds.
    pub fn of(secret: &[u8]) -> Self {
        let mut key = [0; 64];
        // As many bytes as the hash gives; HMAC fills up with zeros.
        pbkdf2::pbkdf2_hmac::<Sha256>(secret, SALT, ROUNDS, &mut key[..32]);
        Seal(key)
    }

    /// The letter as it goes over the wire.
    pub fn close(&self, letter: &Letter<'_>) -> Vec<u8> {
        let Letter { from, instance, hearing, number, to, body } = letter;
        let to_hearing = to.map_or(0, |to| to.hearing);
        let [format, instance, hearing, number, to_hearing] =
            [FORMAT, *instance, *hearing, *number, to_hearing].map(|number| number.to_string().into_bytes());
        let to = to.map_or("", |to| to.id);
        let mut fields: Vec<&[u8]> =
            vec![&format, from.as_bytes(), &instance, &hearing, &number, to.as_bytes(), &to_hearing, body];
        let mac = self.mac(&fields).finalize().into_bytes();
        fields.push(&mac);
        let mut message = Vec::new();
        encode_command(&fields, &mut message);
        message
    }

    /// What was sealed. Nothing of a message is looked at before its MAC has been.
    pub fn open<'a>(&self, message: &'a [u8]) -> Result<Letter<'a>, Unsealed> {
        let mut fields: Vec<&[u8]> = args(message).collect();
        let mac = fields.pop().ok_or(Unsealed::Forged)?;
        self.mac(&fields).verify_slice(mac).map_err(|_| Unsealed::Forged)?;
        let format = fields.first().and_then(|format| number(format)).ok_or(Unsealed::Forged)?;
        if format > READS {
            return Err(Unsealed::Newer(format));
        }
        read(&fields).ok_or(Unsealed::Forged)
    }

    fn mac(&self, fields: &[&[u8]]) -> Hmac<Sha256> {
        let mut all = Vec::new();
        encode_command(fields, &mut all);
        let mut mac = Hmac::<Sha256>::new(&self.0.into());
        mac.update(&all);
        mac
    }
}

fn read<'a>(fields: &[&'a [u8]]) -> Option<Letter<'a>> {
    let text = |at: usize| std::str::from_utf8(fields[at]).ok();
    if fields.len() < FIELDS {
        return None;
    }
    let to = match text(5)? {
        "" => None,
        id => Some(Addressee { id, hearing: number(fields[6])? }),
    };
    Some(Letter {
        from: text(1).filter(|from| !from.is_empty())?,
        instance: number(fields[2])?,
        hearing: number(fields[3])?,
        number: number(fields[4])?,
        to,
        body: fields[7],
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter<'static> {
        let to = Some(Addressee { id: "b", hearing: 7 });
        Letter { from: "a", instance: 17, hearing: 18, number: 3, to, body: b"*1\r\n$3\r\nbye\r\n" }
    }

    #[test]
    fn a_letter_opens_under_the_seal_that_closed_it_and_under_no_other() {
        let seal = Seal::of(b"secret");
        for letter in [letter(), Letter { to: None, body: b"", ..letter() }] {
            let message = seal.close(&letter);
            assert_eq!(seal.open(&message), Ok(letter));
            assert_eq!(Seal::of(b"Secret").open(&message), Err(Unsealed::Forged));
            assert_eq!(Seal::default().open(&message), Err(Unsealed::Forged));
        }
    }

    #[test]
    fn no_byte_of_a_letter_can_be_changed() {
        let seal = Seal::default();
        let message = seal.close(&letter());
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            // The bytes after an argument are nobody's.
            assert!(seal.open(&changed).is_err() || seal.open(&changed) == Ok(letter()), "byte {at}");
            assert!(seal.open(&message[..at]).is_err());
        }
        assert_eq!(seal.open(b""), Err(Unsealed::Forged));
        assert_eq!(seal.open(b"*1\r\n$0\r\n\r\n"), Err(Unsealed::Forged));
    }

    #[test]
    fn a_later_form_is_known_as_such_if_it_is_genuine() {
        let seal = Seal::default();
        let fields: [&[u8]; 3] = [b"2", b"whatever", b"comes"];
        let mac = seal.mac(&fields).finalize().into_bytes();
        let mut message = Vec::new();
        encode_command(&[fields[0], fields[1], fields[2], &mac], &mut message);
        assert_eq!(seal.open(&message), Err(Unsealed::Newer(2)));
        let mut forged = Vec::new();
        encode_command(&[fields[0], fields[1], fields[2], &[0; 32]], &mut forged);
        assert_eq!(seal.open(&forged), Err(Unsealed::Forged));
    }

    #[test]
    fn a_seal_does_not_show_its_key() {
        assert_eq!(format!("{:?} {:?}", Seal::of(b"x"), Seal::default()), "*** without a secret");
    }
}
