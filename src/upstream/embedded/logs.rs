//! The server's own log lines become ours.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// A longer line is cut into several.
const LINE_MAX: u64 = 4096;
/// The last lines are kept, to say why the server ended.
const LAST_WORDS_MAX: usize = 3;

/// The server's last lines.
#[derive(Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    fn heard(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_WORDS_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// On one line.
    pub fn joined(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

/// Reads until the server has closed its output. Runs on a thread of its own.
pub(super) fn forward(output: PipeReader, last_words: &LastWords) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim();
                if !text.is_empty() {
                    say(text, last_words);
                }
            }
        }
    }
}

fn say(line: &str, last_words: &LastWords) {
    let (mark, text) = split(line).unwrap_or(('#', line));
    last_words.heard(text);
    let lower = text.to_ascii_lowercase();
    // '#' is the server's mark for warnings, and also for its greeting and its goodbye.
    let is_bad =
        ["warning", "error", "fatal", "crash", "can't", "bad ", "fail"].iter().any(|word| lower.contains(word));
    if mark == '#' && is_bad {
        tracing::warn!(target: "embedded", "{text}");
    } else {
        tracing::debug!(target: "embedded", "{text}");
    }
}

/// `123:M 21 Nov 2026 16:09:32.123 * Ready to accept connections` gives the mark and the text.
fn split(line: &str) -> Option<(char, &str)> {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.split_once(' ')?.1;
    }
    let (mark, text) = rest.split_once(' ')?;
    let mark = mark.parse().ok()?;
    ".-*#".contains(mark).then_some((mark, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_and_the_text_are_told_apart() {
        assert_eq!(split("123:M 21 Nov 2026 16:09:32.123 * Ready to accept"), Some(('*', "Ready to accept")));
        assert_eq!(split("*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***"), None);
    }
}
