//! Passwords are kept as their SHA-256, as the servers keep them, and compared in constant time.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::rule::RuleError;

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash([u8; 32]);

impl PasswordHash {
    /// That of a password.
    pub fn of(password: &[u8]) -> Self {
        PasswordHash(Sha256::digest(password).into())
    }

    /// One written out: 64 hexadecimal digits in lower case.
    pub fn parse(text: &[u8]) -> Result<Self, RuleError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(RuleError::BadHash),
        };
        if text.len() != 64 {
            return Err(RuleError::BadHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(PasswordHash(hash))
    }

    /// The same hash? Takes as long whatever the answer.
    pub fn is(&self, other: &PasswordHash) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// The 64 digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// `true` if `password` is one of these. Looks at all of them.
pub(super) fn is_among(password: &[u8], hashes: &[PasswordHash]) -> bool {
    let given = PasswordHash::of(password);
    hashes.iter().fold(Choice::from(0), |found, hash| found | hash.is(&given)).into()
}

/// The longest password that `ACL GENPASS` makes.
pub const GENPASS_BITS_MAX: i64 = 4096;

/// What `ACL GENPASS bits` answers, with `fill` for dice; `None` for a number of bits that is refused.
pub fn genpass(bits: i64, fill: impl FnOnce(&mut [u8])) -> Option<String> {
    if bits <= 0 || bits > GENPASS_BITS_MAX {
        return None;
    }
    let digits = usize::try_from(bits).ok()?.div_ceil(4);
    let mut random = vec![0; digits.div_ceil(2)];
    fill(&mut random);
    let mut text = hex(&random);
    text.truncate(digits);
    Some(text)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_it_was_written() {
        let hash = PasswordHash::of(b"x");
        assert_eq!(hash.hex(), "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        assert_eq!(PasswordHash::parse(hash.hex().as_bytes()), Ok(hash.clone()));
        assert!(!format!("{hash:?}").contains("2d71"));
        for bad in ["", "2d", &hash.hex().to_uppercase(), &format!("{}g", &hash.hex()[1..])] {
            assert_eq!(PasswordHash::parse(bad.as_bytes()), Err(RuleError::BadHash), "{bad}");
        }
    }

    #[test]
    fn any_of_several_passwords_is_right() {
        let hashes = [PasswordHash::of(b"a"), PasswordHash::of(b"b")];
        assert!(is_among(b"a", &hashes) && is_among(b"b", &hashes));
        assert!(!is_among(b"c", &hashes) && !is_among(b"", &hashes) && !is_among(b"a", &[]));
    }

    #[test]
    fn a_generated_password_has_a_digit_for_four_bits() {
        let made = |bits| genpass(bits, |bytes| bytes.fill(0xab));
        assert_eq!(made(256).map(|text| text.len()), Some(64));
        assert_eq!(made(5).as_deref(), Some("ab"));
        assert_eq!(made(9).as_deref(), Some("aba"));
        assert_eq!(made(1).as_deref(), Some("a"));
        assert_eq!(made(4096).map(|text| text.len()), Some(1024));
        assert_eq!([made(0), made(-1), made(4097)], [None, None, None]);
    }
}
