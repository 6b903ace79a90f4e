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
        let score = clamped(place.arrival_us).saturating_sub(ahead);
        Rank { tier, score, below_critical, first_call: place.first_call }
    }

    /// 42 digits that sort as ranks do: how waiters of several nodes are compared.
    pub fn text(&self) -> String {
        format!("{}{:020}{}{:020}", self.tier, self.score.max(0), self.below_critical, self.first_call.0)
    }

    /// Reads what [`Rank::text`] wrote.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        if digits.len() != RANK_DIGITS {
            return None;
        }
        let below_critical = digits[21..22].parse().ok()?;
        let (tier, score) = (digits[..1].parse().ok()?, digits[1..21].parse().ok()?);
        Some(Rank { tier, score, below_critical, first_call: CallId(digits[22..].parse().ok()?) })
    }
}

/// The length of a rank as text.
const RANK_DIGITS: usize = 42;

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
    fn as_text_ranks_sort_as_they_do_and_read_back() {
        let level = [Level::Low, Level::Normal, Level::High, Level::Critical];
        let arrivals = [0, 7, 1_763_740_000_000_123, i64::MAX as u64];
        for promote_after_us in [0, 5] {
            let all = level.iter().flat_map(|level| arrivals.map(|arrival| rank(*level, arrival, promote_after_us)));
            let mut ranks: Vec<Rank> = all.filter(|rank| rank.score >= 0).collect();
            ranks.sort();
            let texts: Vec<String> = ranks.iter().map(Rank::text).collect();
            assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == RANK_DIGITS));
            assert_eq!(texts.iter().filter_map(|text| Rank::parse(text.as_bytes())).collect::<Vec<_>>(), ranks);
        }
        for odd in ["", "1", &"x".repeat(42), &"9".repeat(42), &"0".repeat(43)] {
            assert_eq!(Rank::parse(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn levels_are_strict_unless_waiting_promotes() {
        assert!(rank(Level::High, 9_000_000_000, 0) < rank(Level::Normal, 1, 0));
        assert!(rank(Level::Normal, 1, 0) < rank(Level::Normal, 2, 0));
    }

    #[test]
    fn with_promotion_a_waiter_beats_the_next_level_that_came_more_than_that_much_later() {
        assert!(rank(Level::Low, 100, 50) < rank(Level::Normal, 151, 50));
        assert!(rank(Level::Normal, 150, 50) < rank(Level::Low, 100, 50), "exactly as much later is not more");
        assert!(rank(Level::High, 200, 50) < rank(Level::Low, 100, 50));
        assert!(rank(Level::Low, 100, 50) < rank(Level::High, 201, 50));
    }
}
