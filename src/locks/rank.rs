//! Who goes first.

use crate::domain::{CallId, Level};

/// When a waiter came. Kept when he asks again, whatever his level then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The upstream's clock when it refused his first try, Unix time in µs.
    pub arrival_us: u64,
    /// His first call: tells two of the same microsecond apart.
    pub first_call: CallId,
}

/// A waiter's rank in line: the lower, the sooner. Static, so that nothing is ever ranked anew because time went by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    tier: u8,
    score: i64,
    below_critical: u8,
    first_call: CallId,
}

impl Rank {
    /// Strict levels where `promote_after_us` is 0. Otherwise a waiter beats one of the next level who came more than that much
    /// later: everyone's arrival is moved forward by so much for each level.
    pub fn new(level: Level, place: Place, promote_after_us: u64) -> Self {
        let below_critical = Level::Critical.number() - level.number();
        let ahead = i64::from(level.number()).saturating_mul(clamped(promote_after_us));
        let tier = if promote_after_us == 0 { below_critical } else { 0 };
        let score = clamped(place.arrival_us).saturating_sub(ahead).max(0);
        Rank { tier, score, below_critical, first_call: place.first_call }
    }

    /// 42 decimal digits that sort as ranks do, also between nodes: tier, score, levels below critical, first call.
    pub fn text(&self) -> String {
        format!("{}{:020}{}{:020}", self.tier, self.score, self.below_critical, self.first_call.0)
    }

    /// Reads [`Rank::text`]; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()))?;
        (text.len() == RANK_DIGITS).then_some(())?;
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        Some(Rank {
            tier: u8::try_from(number(0, 1)?).ok()?,
            score: i64::try_from(number(1, 21)?).ok()?,
            below_critical: u8::try_from(number(21, 22)?).ok()?,
            first_call: CallId(number(22, RANK_DIGITS)?),
        })
    }
}

/// What a script needs to rank an asker by the moment of its arrival: the tier, the µs that he is ahead, and the 21 digits that end
/// his rank.
pub fn parts(level: Level, first_call: CallId, promote_after_us: u64) -> (String, String, String) {
    let below_critical = Level::Critical.number() - level.number();
    let tier = if promote_after_us == 0 { below_critical } else { 0 };
    let ahead = i64::from(level.number()).saturating_mul(clamped(promote_after_us));
    (tier.to_string(), ahead.to_string(), format!("{below_critical}{:020}", first_call.0))
}

/// The length of [`Rank::text`].
pub const RANK_DIGITS: usize = 42;

fn clamped(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(level: Level, arrival_us: u64, promote_after_us: u64) -> Rank {
        Rank::new(level, Place { arrival_us, first_call: CallId(arrival_us) }, promote_after_us)
    }

    #[test]
    fn levels_are_strict_unless_waiting_promotes() {
        assert!(rank(Level::High, 9_000_000_000, 0) < rank(Level::Normal, 1, 0));
        assert!(rank(Level::Normal, 1, 0) < rank(Level::Normal, 2, 0));
    }

    #[test]
    fn the_text_of_a_rank_sorts_as_the_rank_does_and_reads_back() {
        let mut ranks = Vec::new();
        for level in [Level::Low, Level::Normal, Level::High, Level::Critical] {
            for arrival_us in [0, 7, 1_763_740_000_000_123, 1_763_740_000_000_124] {
                ranks.push(rank(level, arrival_us, 0));
                ranks.push(rank(level, arrival_us, 60_000_000));
            }
        }
        for a in &ranks {
            assert_eq!(Rank::parse(a.text().as_bytes()), Some(*a));
            for b in &ranks {
                assert_eq!(a.cmp(b), a.text().cmp(&b.text()), "{a:?} {b:?}");
            }
        }
        assert_eq!(Rank::parse(b"1"), None);
    }

    #[test]
    fn with_promotion_a_waiter_beats_the_next_level_that_came_more_than_that_much_later() {
        assert!(rank(Level::Low, 100, 50) < rank(Level::Normal, 151, 50));
        assert!(rank(Level::Normal, 150, 50) < rank(Level::Low, 100, 50), "exactly as much later is not more");
        assert!(rank(Level::High, 200, 50) < rank(Level::Low, 100, 50));
        assert!(rank(Level::Low, 100, 50) < rank(Level::High, 201, 50));
    }
}
