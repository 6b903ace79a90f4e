//! How many replies shared links may owe one session. Nobody knows how long a reply will be before it comes, and what a client does not
//! take has to be kept, because the link goes on for others. So the number begins small, and grows for a client that used all of it and
//! had short replies.

/// What every session may be owed; most pipelines are shorter.
const OWED_AT_FIRST: u64 = 64;
/// What no session is owed more than.
const OWED_MAX: u64 = 4096;
/// What replies of the size that came last may come to, in bytes.
const EXPECTED_MAX: u64 = 4 << 20;

/// The number for one session.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    /// It held the session back.
    was_full: bool,
}

impl Default for Window {
    fn default() -> Self {
        Window { size: OWED_AT_FIRST, was_full: false }
    }
}

impl Window {
    /// How many more may be owed where `owed` are.
    pub(super) fn room(&self, owed: u64) -> u64 {
        self.size.saturating_sub(owed)
    }

    /// There is no room: how many are to be owed before the session goes on.
    pub(super) fn holds_back(&mut self) -> u64 {
        self.was_full = true;
        self.size / 2
    }

    /// The session goes on after it was held back; replies had `bytes` each since.
    pub(super) fn goes_on(&mut self, reply_size: impl FnOnce() -> Option<u64>) {
        if !std::mem::take(&mut self.was_full) {
            return;
        }
        let Some(bytes) = reply_size() else { return };
        let fits = EXPECTED_MAX / bytes.max(1);
        self.size = (self.size * 2).min(fits).clamp(OWED_AT_FIRST, OWED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_replies_open_it_and_long_ones_close_it() {
        let mut window = Window::default();
        assert_eq!((window.room(0), window.room(60), window.room(99)), (64, 4, 0));
        for _ in 0..10 {
            window.holds_back();
            window.goes_on(|| Some(5));
        }
        assert_eq!(window.room(0), OWED_MAX);
        window.holds_back();
        window.goes_on(|| Some(8 << 10));
        assert_eq!(window.room(0), 512);
        window.holds_back();
        window.goes_on(|| Some(900 << 10));
        assert_eq!(window.room(0), OWED_AT_FIRST);
    }

    #[test]
    fn a_client_that_never_needed_it_has_no_more_than_at_first() {
        let mut window = Window::default();
        for _ in 0..1000 {
            window.goes_on(|| Some(5));
        }
        assert_eq!(window.room(0), OWED_AT_FIRST);
    }
}
