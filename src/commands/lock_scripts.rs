//! Acquire scripts of lock libraries, known by their SHA1: on one lock key each of them is a `SET … NX PX`, and is queued as such. What it
//! answers stays the script's own.

use sha1_smol::Sha1;

use super::set_nx::{PlainCall, PlainForm, positive};
use crate::domain::PlainLease;

/// Leases beyond this (in ms) go to the upstream as they came: scripts could not count that far.
const LEASE_MAX_MS: u64 = (1 << 53) - 1;

/// How a script says something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ScriptSays {
    /// `+OK`
    Ok,
    /// nil
    Nil,
    /// A number.
    Integer(i64),
}

/// What a script answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ScriptAnswers {
    /// Where the lock was taken.
    pub granted: ScriptSays,
    /// Where another holds it.
    pub refused: ScriptSays,
}

/// A script that takes one lock as `SET key value NX PX ms` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockScript {
    /// The SHA1 of its text.
    pub sha1: [u8; 20],
    /// How many arguments follow the key.
    pub arguments: usize,
    /// Which of them is written, from 1.
    pub value: usize,
    /// Which of them is the lease in ms, from 1.
    pub ttl: usize,
    /// Which of them says how many bytes of the value name the holder, from 1: he may take his lock again.
    pub token_length: Option<usize>,
    /// What it answers.
    pub answers: ScriptAnswers,
}

/// `OK` or nil, as `SET` says it.
const AS_SET: ScriptAnswers = ScriptAnswers { granted: ScriptSays::Ok, refused: ScriptSays::Nil };
/// How many keys were taken.
const AS_COUNT: ScriptAnswers = ScriptAnswers { granted: ScriptSays::Integer(1), refused: ScriptSays::Integer(0) };

/// What every Lockgate knows: npm `redlock` 2 to 5, and bsm/redislock for Go 0.9.4 and later.
pub const KNOWN: [(&str, LockScript); 8] = [
    ("862f31bf38e9b63ce28d6e9e5143551bb34ef981", redlock(AS_SET)),
    ("d01fb69e6ecc8bad3ca9bacba9f4f9e96862313f", redlock(AS_COUNT)),
    ("e5a322e2634ef59a516e8ea150cb085afafee684", redlock(AS_COUNT)),
    ("96da70f7716f27d278a5218544df37fd8b0a5e4c", redlock(AS_COUNT)),
    ("80a1b5f2cfccec3b7119ba7721d2127682b691a7", REDISLOCK),
    ("f874b0cff7cf27a4e301351841c4ad25f2ba5413", REDISLOCK),
    ("52ea3e09e6f54c2d8407710e32616177dbe4f761", REDISLOCK),
    ("eb0c00d98f6f33b4262419a509002884540f30be", REDISLOCK),
];

const fn redlock(answers: ScriptAnswers) -> LockScript {
    LockScript { sha1: [0; 20], arguments: 2, value: 1, ttl: 2, token_length: None, answers }
}

const REDISLOCK: LockScript =
    LockScript { sha1: [0; 20], arguments: 3, value: 1, ttl: 3, token_length: Some(2), answers: AS_SET };

/// The scripts that are taken for a `SET NX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockScripts(Vec<LockScript>);

/// A call of one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScriptCall<'a> {
    /// What it stands for.
    pub call: PlainCall<'a>,
    /// How many bytes of the value name the holder, where the script lets him take his lock again.
    pub token: Option<&'a [u8]>,
}

impl LockScripts {
    /// The known ones, and `more`.
    pub fn with(more: impl IntoIterator<Item = LockScript>) -> LockScripts {
        let known = KNOWN
            .iter()
            .filter_map(|(digest, script)| Some(LockScript { sha1: digest_of(digest.as_bytes())?, ..*script }));
        LockScripts(more.into_iter().chain(known).collect())
    }

    /// Reads `EVAL` or `EVALSHA` with its name; `None` for anything but a known script for one key, with arguments that it takes.
    pub fn read<'a>(&self, mut words: impl Iterator<Item = &'a [u8]>) -> Option<ScriptCall<'a>> {
        let (name, script, count, key) = (words.next()?, words.next()?, words.next()?, words.next()?);
        if count != b"1" {
            return None;
        }
        let sha1 = match name.len() {
            4 => Sha1::from(script).digest().bytes(),
            _ => digest_of(script)?,
        };
        let script = self.0.iter().find(|known| known.sha1 == sha1)?;
        let arguments: Vec<&[u8]> = words.take(script.arguments + 1).collect();
        if arguments.len() != script.arguments {
            return None;
        }
        let value = arguments.get(script.value - 1)?;
        let lease_ms = number(arguments.get(script.ttl - 1)?).filter(|ms| (1..=LEASE_MAX_MS).contains(ms))?;
        let token = match script.token_length {
            Some(at) => Some(value.get(..usize::try_from(number(arguments.get(at - 1)?)?).ok()?)?),
            None => None,
        };
        let call = PlainCall { key, value, lease: PlainLease::Ms(lease_ms), form: PlainForm::Script(script.answers) };
        Some(ScriptCall { call, token })
    }
}

impl Default for LockScripts {
    fn default() -> Self {
        LockScripts::with([])
    }
}

/// Whether a command of that name runs a script that may be one of these.
pub fn is_script(name: &[u8]) -> bool {
    match name.len() {
        4 => name.eq_ignore_ascii_case(b"eval"),
        7 => name.eq_ignore_ascii_case(b"evalsha"),
        _ => false,
    }
}

/// A SHA1 in 40 hexadecimal digits of any case.
pub fn digest_of(text: &[u8]) -> Option<[u8; 20]> {
    let mut digest = [0; 20];
    if text.len() != 40 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(digest)
}

fn number(text: &[u8]) -> Option<u64> {
    u64::try_from(positive(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDLOCK_5: &str = "96da70f7716f27d278a5218544df37fd8b0a5e4c";
    const REDISLOCK_10: &str = "eb0c00d98f6f33b4262419a509002884540f30be";

    fn read<'a>(scripts: &LockScripts, words: &[&'a str]) -> Option<ScriptCall<'a>> {
        scripts.read(words.iter().map(|word| word.as_bytes()))
    }

    #[test]
    fn every_known_script_has_a_digest_that_is_one() {
        assert_eq!(LockScripts::default().0.len(), KNOWN.len());
        for (digest, script) in KNOWN {
            assert!(script.value <= script.arguments && script.ttl <= script.arguments, "{digest}");
        }
    }

    #[test]
    fn a_known_script_for_one_key_is_a_set_nx() {
        let scripts = LockScripts::default();
        let upper = REDLOCK_5.to_ascii_uppercase();
        for digest in [REDLOCK_5, &upper] {
            let ScriptCall { call, token } =
                read(&scripts, &["EVALSHA", digest, "1", "lock:a", "me", "30000"]).unwrap();
            assert_eq!((call.key, call.value, call.lease), (&b"lock:a"[..], &b"me"[..], PlainLease::Ms(30_000)));
            assert_eq!((call.form, token), (PlainForm::Script(AS_COUNT), None));
        }
        let ScriptCall { call, token } =
            read(&scripts, &["evalsha", REDISLOCK_10, "1", "k", "tokenmeta", "5", "700"]).unwrap();
        assert_eq!((call.value, call.lease, token), (&b"tokenmeta"[..], PlainLease::Ms(700), Some(&b"token"[..])));
    }

    #[test]
    fn whatever_else_it_is_stays_a_script() {
        let scripts = LockScripts::default();
        for words in [
            &["EVALSHA", REDLOCK_5, "2", "a", "b", "me", "30000"][..],
            &["EVALSHA", REDLOCK_5, "01", "a", "me", "30000"],
            &["EVALSHA", REDLOCK_5, "1", "a", "me"],
            &["EVALSHA", REDLOCK_5, "1", "a", "me", "30000", "more"],
            &["EVALSHA", REDLOCK_5, "1", "a", "me", "0"],
            &["EVALSHA", REDLOCK_5, "1", "a", "me", "1.5"],
            &["EVALSHA", REDLOCK_5, "1", "a", "me", "9007199254740992"],
            &["EVALSHA", &REDLOCK_5[1..], "1", "a", "me", "1"],
            &["EVALSHA", "0000000000000000000000000000000000000000", "1", "a", "me", "1"],
            &["EVAL", "return 1", "1", "a", "me", "1"],
            &["EVALSHA", REDISLOCK_10, "1", "k", "token", "6", "700"],
            &["EVALSHA", REDISLOCK_10, "1", "k", "token", "x", "700"],
            &["EVALSHA", REDLOCK_5],
        ] {
            assert_eq!(read(&scripts, words), None, "{words:?}");
        }
    }

    #[test]
    fn a_script_of_ones_own_is_known_by_its_text_and_by_its_digest() {
        let text = "return redis.call('set', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[1])";
        let sha1 = Sha1::from(text).digest().bytes();
        let own = LockScript { sha1, arguments: 2, value: 2, ttl: 1, token_length: None, answers: AS_SET };
        let scripts = LockScripts::with([own]);
        let digest = Sha1::from(text).digest().to_string();
        for words in [["EVAL", text, "1", "k", "5", "me"], ["EVALSHA", &digest, "1", "k", "5", "me"]] {
            let call = read(&scripts, &words).unwrap().call;
            assert_eq!((call.value, call.lease), (&b"me"[..], PlainLease::Ms(5)));
        }
    }
}
