//! Durations and sizes as people write them: "250ms", "1h30m", "256mb".

use std::time::Duration;

/// The longest time that a setting takes. Far below what a clock could overflow at.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads "250ms", "5s", "1h30m" or "0s"; `None` where the text is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, after) = rest.split_at(digits_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ms = TIME_UNITS.iter().find(|(name, _)| *name == unit)?.1;
        // "30s1h" and "1s1s" are slips of the pen rather than durations.
        if unit_ms >= unit_before {
            return None;
        }
        unit_before = unit_ms;
        total_ms = total_ms.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit_ms)?)?;
        rest = after;
    }
    let total = Duration::from_millis(total_ms);
    (unit_before != u64::MAX && total <= LONGEST).then_some(total)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that is exact.
pub fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let (name, unit_ms) =
        TIME_UNITS.iter().rev().find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms)).unwrap_or(&TIME_UNITS[0]);
    format!("{}{name}", ms / unit_ms)
}

const SIZE_UNITS: [(&str, u64); 4] = [("b", 1), ("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30)];

/// Reads "256mb", "64kb", "1gb" or a plain number of bytes. Units are powers of 1024, in any case.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().ok()?;
    let unit = unit.trim();
    let bytes = if unit.is_empty() { 1 } else { SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    number.checked_mul(bytes)
}

/// Writes a size as [`parse_size`] reads it, in the largest unit that is exact.
pub fn show_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0b".to_owned();
    }
    let (name, unit) = SIZE_UNITS.iter().rev().find(|(_, unit)| bytes.is_multiple_of(*unit)).unwrap_or(&SIZE_UNITS[0]);
    format!("{}{name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in
            [("250ms", 250), ("5s", 5_000), ("2h", 7_200_000), ("1h30m", 5_400_000), ("0s", 0), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-5s", "1.5s", "5sec", "30s1h", "1s1s", "99999999999999999999s", "40000d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("256mb", 256 << 20), ("64KB", 65536), ("1gb", 1 << 30), ("4096", 4096), ("10 mb", 10 << 20)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "mb", "-1mb", "1.5gb", "1tb", "99999999999gb"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for ms in [0, 1, 999, 1000, 1500, 60_000, 5_400_000, 7_200_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1023, 1024, 256 << 20, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
