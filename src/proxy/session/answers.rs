//! What a client is owed, in the order in which it asked, where not all of it comes over one link: replies that come before their turn
//! wait here, and an answer of Lockgate's own has its place among them.

use std::collections::VecDeque;

/// One run of what is owed.
#[derive(Debug)]
enum Part {
    /// Replies that come over the session's link; those that came before their turn.
    Replies { left: u64, came: Vec<u8> },
    /// Lockgate's own answer, once it is known.
    Answer(Option<Vec<u8>>),
}

/// The place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

/// All that is owed behind the first answer that is not known yet. Empty while all comes from one link: then nothing passes through here.
#[derive(Debug, Default)]
pub(super) struct Answers {
    parts: VecDeque<Part>,
    /// The number of the part at the front.
    first: u64,
    /// Bytes that came before their turn.
    early: usize,
}

impl Answers {
    /// Nothing waits for an answer: what comes is next.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes that came before their turn.
    pub fn early(&self) -> usize {
        self.early
    }

    /// So many more replies are owed, behind everything else.
    pub fn owe_replies(&mut self, replies: u64) {
        match self.parts.back_mut() {
            None => {}
            Some(Part::Replies { left, .. }) => *left += replies,
            Some(Part::Answer(_)) => self.parts.push_back(Part::Replies { left: replies, came: Vec::new() }),
        }
    }

    /// An answer is owed, behind everything else; `owed` replies are owed before it where nothing is noted here yet.
    pub fn owe_answer(&mut self, owed: u64) -> Place {
        if self.parts.is_empty() && owed > 0 {
            self.parts.push_back(Part::Replies { left: owed, came: Vec::new() });
        }
        self.parts.push_back(Part::Answer(None));
        Place(self.first + self.parts.len() as u64 - 1)
    }

    /// `bytes` of the replies have come, and `ended` replies end within; `out` takes what it is the turn of.
    pub fn replies_came(&mut self, bytes: &[u8], ended: u64, mut out: impl FnMut(&[u8])) {
        let due = |part: &Part| matches!(part, Part::Replies { left, .. } if *left > 0);
        let Some(at) = self.parts.iter().position(due) else { return out(bytes) };
        let Part::Replies { left, came } = &mut self.parts[at] else { return };
        *left = left.saturating_sub(ended);
        if at == 0 {
            out(bytes);
            self.settle(out);
        } else {
            came.extend_from_slice(bytes);
            self.early += bytes.len();
        }
    }

    /// The answer at `place` is known; `out` takes what it is the turn of.
    pub fn answer_came(&mut self, place: Place, bytes: Vec<u8>, out: impl FnMut(&[u8])) {
        let at = usize::try_from(place.0.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(Part::Answer(answer)) = self.parts.get_mut(at) {
            *answer = Some(bytes);
            self.settle(out);
        }
    }

    fn settle(&mut self, mut out: impl FnMut(&[u8])) {
        while let Some(part) = self.parts.front_mut() {
            match part {
                Part::Answer(None) => return,
                Part::Answer(Some(bytes)) => out(bytes),
                Part::Replies { left, came } => {
                    if !came.is_empty() {
                        self.early -= came.len();
                        out(came);
                        *came = Vec::new();
                    }
                    if *left > 0 {
                        return;
                    }
                }
            }
            self.parts.pop_front();
            self.first += 1;
        }
        if self.parts.capacity() > PARTS_KEPT {
            self.parts = VecDeque::new();
        }
    }
}

/// Room for so many parts is kept.
const PARTS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_that_is_not_known_yet_holds_back_what_stands_behind_it() {
        let (mut answers, mut told) = (Answers::default(), Vec::new());
        let first = answers.owe_answer(2);
        answers.owe_replies(1);
        let second = answers.owe_answer(0);
        answers.replies_came(b"a", 1, |bytes| told.extend_from_slice(bytes));
        assert_eq!(told, b"a");
        answers.replies_came(b"b", 1, |bytes| told.extend_from_slice(bytes));
        answers.replies_came(b"c", 1, |bytes| told.extend_from_slice(bytes));
        answers.answer_came(second, b"2".to_vec(), |bytes| told.extend_from_slice(bytes));
        assert_eq!((told.as_slice(), answers.early()), (&b"ab"[..], 1));
        answers.answer_came(first, b"1".to_vec(), |bytes| told.extend_from_slice(bytes));
        assert_eq!(told, b"ab1c2");
        assert!(answers.is_empty() && answers.early() == 0);
    }

    #[test]
    fn a_reply_that_is_half_there_goes_on_where_it_stands() {
        let (mut answers, mut told) = (Answers::default(), Vec::new());
        let place = answers.owe_answer(0);
        answers.owe_replies(1);
        answers.replies_came(b"ha", 0, |bytes| told.extend_from_slice(bytes));
        answers.answer_came(place, b"1".to_vec(), |bytes| told.extend_from_slice(bytes));
        assert_eq!(told, b"1ha");
        answers.replies_came(b"lf", 1, |bytes| told.extend_from_slice(bytes));
        assert_eq!(told, b"1half");
        assert!(answers.is_empty());
    }

    proptest! {
        /// Whatever comes when, the client gets it in the order in which it asked.
        #[test]
        fn the_order_is_that_of_the_questions(
            asked in prop::collection::vec(prop::option::of(1u64..4), 1..20),
            order in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let (mut answers, mut told) = (Answers::default(), Vec::new());
            let (mut expected, mut places, mut replies, mut next) = (Vec::new(), Vec::new(), VecDeque::new(), 0u8);
            for run in asked {
                match run {
                    None => {
                        places.push((answers.owe_answer(replies.len() as u64), next));
                        expected.push(next);
                        next += 1;
                    }
                    Some(count) => {
                        answers.owe_replies(count);
                        for _ in 0..count {
                            replies.push_back(next);
                            expected.push(next);
                            next += 1;
                        }
                    }
                }
            }
            for pick in order {
                let at = pick.index(places.len() + 1);
                if at < places.len() {
                    let (place, byte) = places.remove(at);
                    answers.answer_came(place, vec![byte], |bytes| told.extend_from_slice(bytes));
                } else if let Some(byte) = replies.pop_front() {
                    answers.replies_came(&[byte], 1, |bytes| told.extend_from_slice(bytes));
                }
                prop_assert_eq!(&told[..], &expected[..told.len()]);
            }
            for byte in replies {
                answers.replies_came(&[byte], 1, |bytes| told.extend_from_slice(bytes));
            }
            for (place, byte) in places {
                answers.answer_came(place, vec![byte], |bytes| told.extend_from_slice(bytes));
            }
            prop_assert_eq!(told, expected);
            prop_assert!(answers.is_empty());
        }
    }
}
