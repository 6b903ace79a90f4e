//! Chance with a seed, and the ways in which bytes go wrong.

use std::env;

/// The same seed gives the same numbers (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// `LOCKGATE_FUZZ_SEED`, or always the same.
    pub fn seeded() -> (Self, u64) {
        let seed = number_from_env("LOCKGATE_FUZZ_SEED").unwrap_or(0x10C6_6A7E);
        (Dice(seed), seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One of any kind, most often of a kind that parsers care for.
    pub fn byte(&mut self) -> u8 {
        if self.one_in(3) {
            self.roll() as u8
        } else {
            *self.pick(b"\r\n\0 \t\"'\\*$+-:_,#(!=%~>|?.;0123456789xna\x0b\xff")
        }
    }

    /// Does a few things to `bytes` that a broken or hostile peer might.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            let len = self.below((bytes.len() - at).min(12) + 1);
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(self.byte()),
                0 => bytes[at] = self.byte(),
                1 => bytes.insert(at, self.byte()),
                2 => drop(bytes.drain(at..at + len)),
                3 => bytes.truncate(at),
                4 => {
                    let copy = bytes[at..at + len].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
                5 => {
                    let number = *self.pick(&NUMBERS);
                    bytes.splice(at..at, number.bytes());
                }
                6 => {
                    let number = *self.pick(&NUMBERS);
                    // Over the digits that follow the place.
                    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    bytes.splice(at..at + digits, number.bytes());
                }
                _ => bytes[at] ^= 1 << self.below(8),
            }
        }
    }

    /// Lengths of pieces that `len` bytes are cut into.
    pub fn cuts(&mut self, len: usize) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut left = len;
        let piece_max = *self.pick(&[1, 3, 17, 1000, usize::MAX]);
        while left > 0 {
            let piece = 1 + self.below(left.min(piece_max));
            cuts.push(piece);
            left -= piece;
        }
        cuts
    }
}

const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "10",
    "11",
    "-0",
    "00",
    "+1",
    " 1",
    "-2",
    "16384",
    "16385",
    "536870912",
    "536870913",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999999",
];

/// `LOCKGATE_FUZZ_ROUNDS`, or as many as a debug build does in a few seconds.
pub fn rounds(default: u64) -> u64 {
    number_from_env("LOCKGATE_FUZZ_ROUNDS").unwrap_or(default)
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
