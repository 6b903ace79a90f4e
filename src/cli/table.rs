//! Tables for people.

/// Lines with `head` above them; each column as wide as its widest cell, numbers (columns in `right`) to the right.
pub(super) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let wide = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| wide(&row[column])).chain([wide(head[column])]).max().unwrap_or(0))
        .collect();
    let line = |cells: &[&str]| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[column] - wide(cell));
            if column > 0 {
                text.push_str("  ");
            }
            if right.contains(&column) {
                text.push_str(&gap);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&gap);
            }
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(head);
    for row in rows {
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// A time for people: two units at most.
pub(super) fn time(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..10_000 => format!("{}.{}s", s, ms % 1000 / 100),
        10_000..60_000 => format!("{s}s"),
        60_000..3_600_000 => format!("{m}m{:02}s", s % 60),
        3_600_000..86_400_000 => format!("{h}h{:02}m", m % 60),
        _ => format!("{d}d{:02}h", h % 24),
    }
}

/// Bytes for a terminal: what is no plain text is escaped, and long texts are cut.
pub(super) fn text(bytes: &[u8], most: usize) -> String {
    let shown = match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    };
    if shown.chars().count() <= most {
        return shown;
    }
    shown.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["orders".into(), "7".into()], vec!["é".into(), "1000".into()]];
        assert_eq!(table(&["KEY", "FENCE"], &[1], &rows), "KEY     FENCE\norders      7\né        1000\n");
    }

    #[test]
    fn times_have_two_units_at_most() {
        let told = [0, 999, 1500, 59_999, 61_000, 3_660_000, 90_000_000].map(time);
        assert_eq!(told, ["0ms", "999ms", "1.5s", "59s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(text(b"\x1b[2J", 99), "\\x1b[2J");
        assert_eq!(text("größer".as_bytes(), 5), "größ…");
    }
}
