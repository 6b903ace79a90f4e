//! `SET K v NX` and `SETNX K v`, read as Redis reads them. What Redis would refuse, and every other form of `SET`, is not told
//! apart here: it goes to the upstream as it came, which answers for itself.
//!
//! ```text
//! SET   key value NX [EX s | PX ms | EXAT unix-s | PXAT unix-ms]    (options in any order and any case)
//! SETNX key value
//! ```

use super::lock_scripts::ScriptAnswers;
use crate::domain::PlainLease;

/// Times beyond this (in ms) go to the upstream as they came: scripts could not count that far.
const TIME_MAX_MS: i64 = (1 << 53) - 1;

/// Which command it was: the two answer in different words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlainForm {
    /// `SET … NX`: `+OK`, or nil.
    Set,
    /// `SETNX`: `:1`, or `:0`.
    SetNx,
    /// A library's script that stands for a `SET … NX`, and what it answers.
    Script(ScriptAnswers),
}

/// A `SET … NX` or `SETNX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlainCall<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What the key is to hold.
    pub value: &'a [u8],
    /// For how long.
    pub lease: PlainLease,
    /// How it is answered.
    pub form: PlainForm,
}

impl<'a> PlainCall<'a> {
    /// Reads the arguments of `SET`, without the name. `None` for anything but a `SET … NX` that Redis would carry out.
    pub fn of_set(mut args: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let (key, value) = (args.next()?, args.next()?);
        let mut has_nx = false;
        let mut expiry: Option<(Unit, &[u8])> = None;
        while let Some(word) = args.next() {
            let word = c_string(word);
            if word.eq_ignore_ascii_case(b"nx") {
                has_nx = true;
                continue;
            }
            let unit = Unit::named(word)?;
            if expiry.is_some_and(|(other, _)| other != unit) {
                return None;
            }
            // As in Redis, of the same option several times the last one counts, and the others are not looked at.
            expiry = Some((unit, args.next()?));
        }
        let lease = match expiry {
            None => PlainLease::Forever,
            Some((unit, time)) => unit.lease(time)?,
        };
        has_nx.then_some(PlainCall { key, value, lease, form: PlainForm::Set })
    }

    /// Reads the arguments of `SETNX`, without the name; `None` where there are not exactly two.
    pub fn of_setnx(mut args: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let (key, value) = (args.next()?, args.next()?);
        args.next().is_none().then_some(PlainCall { key, value, lease: PlainLease::Forever, form: PlainForm::SetNx })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

impl Unit {
    fn named(word: &[u8]) -> Option<Self> {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        match word.len() {
            2 if is(b"px") => Some(Unit::Px),
            2 if is(b"ex") => Some(Unit::Ex),
            4 if is(b"pxat") => Some(Unit::PxAt),
            4 if is(b"exat") => Some(Unit::ExAt),
            _ => None,
        }
    }

    /// `None` for times that Redis refuses, and for those beyond [`TIME_MAX_MS`].
    fn lease(self, time: &[u8]) -> Option<PlainLease> {
        let time = positive(time)?;
        let ms = match self {
            Unit::Px | Unit::PxAt => time,
            Unit::Ex | Unit::ExAt => time.checked_mul(1000)?,
        };
        let ms = u64::try_from(ms).ok().filter(|_| ms <= TIME_MAX_MS)?;
        Some(match self {
            Unit::Px | Unit::Ex => PlainLease::Ms(ms),
            Unit::PxAt | Unit::ExAt => PlainLease::AtMs(ms),
        })
    }
}

/// Redis compares option words as C strings, which end at their first zero byte.
fn c_string(word: &[u8]) -> &[u8] {
    // No option that we know is longer than this, with the zero byte.
    match word.iter().take(5).position(|&byte| byte == 0) {
        Some(end) => &word[..end],
        None => word,
    }
}

/// An integer above 0 in the one spelling that Redis takes.
pub(super) fn positive(text: &[u8]) -> Option<i64> {
    let is_plain = text.first()? != &b'0' && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(line: &str) -> Option<PlainCall<'_>> {
        PlainCall::of_set(line.split(' ').map(str::as_bytes))
    }

    fn lease(line: &str) -> Option<PlainLease> {
        set(line).map(|call| call.lease)
    }

    #[test]
    fn options_come_in_any_order_and_any_case() {
        let plain = PlainCall { key: b"k", value: b"v", lease: PlainLease::Forever, form: PlainForm::Set };
        assert_eq!(set("k v NX"), Some(plain));
        assert_eq!(set("k v nx NX"), Some(plain), "Redis takes it twice");
        for line in ["k v NX PX 1500", "k v px 1500 nx", "k v Px 1500 Nx", "k v PX 1 NX PX 1500", "k v PX x PX 1500 NX"]
        {
            assert_eq!(lease(line), Some(PlainLease::Ms(1500)), "{line}");
        }
        assert_eq!(lease("k v ex 2 nx"), Some(PlainLease::Ms(2000)));
        assert_eq!(lease("k v nx pxat 1763740000123"), Some(PlainLease::AtMs(1_763_740_000_123)));
        assert_eq!(lease("k v exAT 1763740000 NX"), Some(PlainLease::AtMs(1_763_740_000_000)));
        assert_eq!(lease("nx nx nx"), Some(PlainLease::Forever), "a key and a value may bear that name");
    }

    #[test]
    fn any_other_set_is_left_to_the_upstream() {
        for line in [
            "k v",
            "k",
            "k v XX",
            "k v NX XX",
            "k v NX GET",
            "k v NX KEEPTTL",
            "k v NX IFEQ v",
            "k v NX PERSIST",
            "k v N",
            "k v NXX",
            "k v PX 1500",
            "k v EX 2",
            "k v NX PX",
            "k v PX NX",
            "k v NX PX 1 EX 1",
            "k v NX PX 1 PXAT 1",
            "k v NX EXAT 1 EX 1",
            "k v NX ",
            "k nx v",
        ] {
            assert_eq!(set(line), None, "{line}");
        }
        for time in
            ["0", "-1", "+1", "01", "1.5", "", "x", "9223372036854775807", "9223372036854775808", "9007199254740992"]
        {
            assert_eq!(lease(&format!("k v NX PX {time}")), None, "PX {time}");
            assert_eq!(lease(&format!("k v NX PXAT {time}")), None, "PXAT {time}");
        }
        assert_eq!(lease("k v NX PX 9007199254740991"), Some(PlainLease::Ms((1 << 53) - 1)));
        assert_eq!(lease("k v NX EX 9007199254740"), Some(PlainLease::Ms(9_007_199_254_740_000)));
        for seconds in ["9007199254741", "9223372036854775", "9223372036854775807"] {
            assert_eq!(lease(&format!("k v NX EX {seconds}")), None, "EX {seconds}");
        }
    }

    #[test]
    fn an_option_word_ends_at_a_zero_byte_as_it_does_in_redis() {
        let words: [&[u8]; 5] = [b"k\0", b"v\0", b"NX\0zz", b"PX\0", b"5"];
        let call = PlainCall::of_set(words.into_iter()).unwrap();
        assert_eq!((call.key, call.value, call.lease), (&b"k\0"[..], &b"v\0"[..], PlainLease::Ms(5)));
        assert_eq!(PlainCall::of_set([&b"k"[..], b"v", b"\0NX"].into_iter()), None);
    }

    #[test]
    fn setnx_takes_a_key_and_a_value() {
        let setnx = |line: &'static str| PlainCall::of_setnx(line.split(' ').map(str::as_bytes));
        let call = PlainCall { key: b"k", value: b"v", lease: PlainLease::Forever, form: PlainForm::SetNx };
        assert_eq!(setnx("k v"), Some(call));
        assert_eq!(setnx("k"), None);
        assert_eq!(setnx("k v NX"), None);
    }
}
