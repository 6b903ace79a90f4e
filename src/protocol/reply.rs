//! Where an upstream's replies end, in RESP2 and RESP3.

use std::ops::Deref;

pub use super::error::ReplyError;
use super::number;

/// Counts the ends of an upstream's replies, RESP2 and RESP3, in a stream that is forwarded as it comes: needs no buffer,
/// keeps its place at any byte. One counter of elements to come stands for the whole nesting, so depth costs nothing.
/// After an error the link has to be closed.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    /// Elements of the frame that have not ended, the present one included; 0 between frames.
    open: u64,
    /// Payload bytes still to come in the present element, with the CR LF after them; 0 outside a payload.
    skip: u64,
    /// Kind byte of the present element, 0 before it came.
    kind: u8,
    /// What came of the present element's line.
    line: Line,
    /// Bytes of the frame in earlier inputs.
    seen: u64,
    /// The present element is the frame's own, not one within it.
    is_top: bool,
    /// The next element is the first within the frame.
    is_first: bool,
    /// The present element's bytes are the frame's first word.
    is_word: bool,
    head: Head,
}

/// How far a [`ReplyScanner::scan`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes from the front of the input.
    pub consumed: usize,
    /// Top-level frames that ended within them.
    pub frames: u32,
}

/// What there is to know of a frame without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The frame's first byte. An attribute in front is part of the frame, and the kind is of what follows it.
    pub kind: u8,
    /// The first bytes of a simple string, an error or a bulk string; of an aggregate's first element where that is a
    /// simple or bulk string; else empty.
    pub word: FirstWord,
    /// The value of the last integer in the frame, at any depth (the number of subscriptions in an acknowledgement).
    pub last_integer: Option<i64>,
    /// The frame is `$-1`, `*-1` or `_`.
    pub is_nil: bool,
}

/// The first bytes of a word, enough to tell one kind of push or error from another.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FirstWord {
    len: u8,
    bytes: [u8; FirstWord::MAX],
}

impl FirstWord {
    /// Longer words are cut to this many bytes.
    pub const MAX: usize = 16;

    /// The word, or as much of it as was kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, bytes: &[u8]) {
        let len = usize::from(self.len);
        let more = bytes.len().min(Self::MAX - len);
        self.bytes[len..len + more].copy_from_slice(&bytes[..more]);
        self.len += more as u8;
    }
}

impl Deref for FirstWord {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl std::fmt::Debug for FirstWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A [`FrameHead`] in the making; its kind is 0 until it is known.
#[derive(Debug, Default)]
struct Head {
    kind: u8,
    word: FirstWord,
    last_integer: Option<i64>,
    is_nil: bool,
}

impl ReplyScanner {
    /// A scanner that waits for the first frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fast path: scans until `frames_max` top-level frames have ended or the input is used up; `consumed` ends right after
    /// the last counted frame or is the whole input.
    ///
    /// # Errors
    /// The bytes are no reply.
    pub fn scan(&mut self, input: &[u8], frames_max: u32) -> Result<Scan, ReplyError> {
        let (mut consumed, mut frames) = (0, 0);
        while frames < frames_max && consumed < input.len() {
            let rest = &input[consumed..];
            if self.is_at_boundary()
                && let Some(len) = whole_scalar(rest)
            {
                consumed += len;
                frames += 1;
                continue;
            }
            let (used, has_ended) = self.read_frame(rest)?;
            consumed += used;
            frames += u32::from(has_ended);
        }
        Ok(Scan { consumed, frames })
    }

    /// Scans at most one frame and tells about it: how many bytes were consumed, and the frame's head when it ended within
    /// the input.
    ///
    /// # Errors
    /// The bytes are no reply.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<FrameHead>), ReplyError> {
        let (used, has_ended) = self.read_frame(input)?;
        let Head { kind, word, last_integer, is_nil } = self.head;
        Ok((used, has_ended.then_some(FrameHead { kind, word, last_integer, is_nil })))
    }

    /// True when no byte of a next frame has been seen.
    pub fn is_at_boundary(&self) -> bool {
        self.open == 0
    }

    /// Bytes of the bulk payload still to come in the unfinished frame, without the CR LF after it (0 when unknown).
    pub fn bulk_left(&self) -> u64 {
        self.skip.saturating_sub(2)
    }

    /// Bytes of the unfinished frame seen so far.
    pub fn frame_seen(&self) -> u64 {
        self.seen
    }

    /// Top-level kind byte of the unfinished frame, once seen. Behind an attribute it is the kind of what follows.
    pub fn pending_kind(&self) -> Option<u8> {
        (self.open > 0 && self.head.kind != 0).then_some(self.head.kind)
    }

    /// The first word of the unfinished frame, as far as it came.
    pub fn pending_word(&self) -> FirstWord {
        self.head.word
    }

    /// Reads to the end of the frame or of the input: bytes used, and whether the frame ended.
    fn read_frame(&mut self, input: &[u8]) -> Result<(usize, bool), ReplyError> {
        if self.open == 0 {
            if input.is_empty() {
                return Ok((0, false));
            }
            self.open = 1;
            self.head = Head::default();
            self.is_first = false;
        }
        let mut at = 0;
        loop {
            at += self.jump_elements(&input[at..]);
            let has_ended = if self.skip > 0 {
                at += self.read_payload(&input[at..])?;
                self.skip == 0
            } else {
                let (used, has_ended) = self.read_line(&input[at..])?;
                at += used;
                // A line with a payload behind it is only half of its element.
                has_ended && self.skip == 0
            };
            if has_ended {
                self.kind = 0;
                self.open -= 1;
                if self.open == 0 {
                    self.seen = 0;
                    return Ok((at, true));
                }
            }
            if at == input.len() {
                self.seen = self.seen.saturating_add(at as u64);
                return Ok((at, false));
            }
        }
    }

    /// Jumps over elements at the front of the input that are whole scalars and tell nothing of the frame but the last
    /// integer: bytes used. The frame's last element is left to others, so that it ends in one place.
    fn jump_elements(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        if self.kind != 0 || self.is_first {
            return at;
        }
        while self.open > 1
            && let Some(&kind) = input.get(at)
        {
            let rest = &input[at..];
            if kind == b':' {
                match number::plain_line(rest) {
                    Some((number, len)) if rest[len - 1] == b'\n' => {
                        // Eighteen digits at most.
                        self.head.last_integer = Some(number as i64);
                        at += len;
                    }
                    _ => break,
                }
            } else {
                match whole_scalar(rest) {
                    Some(len) => at += len,
                    None => break,
                }
            }
            self.open -= 1;
        }
        at
    }

    /// Jumps over a payload and looks at the CR LF after it: bytes used.
    fn read_payload(&mut self, input: &[u8]) -> Result<usize, ReplyError> {
        let jump = self.bulk_left().min(input.len() as u64) as usize;
        if self.is_word {
            self.head.word.push(&input[..jump]);
        }
        self.skip -= jump as u64;
        let mut used = jump;
        while self.skip > 0 && used < input.len() {
            let expected = if self.skip == 2 { b'\r' } else { b'\n' };
            if input[used] != expected {
                return Err(ReplyError::BadEnd(self.kind));
            }
            self.skip -= 1;
            used += 1;
        }
        Ok(used)
    }

    /// Reads an element's line or a part of it: bytes used, and whether the line ended.
    fn read_line(&mut self, input: &[u8]) -> Result<(usize, bool), ReplyError> {
        let Some(&first) = input.first() else { return Ok((0, false)) };
        if self.kind == 0 {
            self.begin(first)?;
            if has_number(first)
                && let Some((number, len)) = number::plain_line(input)
                && input[len - 1] == b'\n'
            {
                // Eighteen digits at most.
                self.counted(number as i64)?;
                return Ok((len, true));
            }
            let (used, has_ended) = self.read_rest(&input[1..])?;
            return Ok((used + 1, has_ended));
        }
        self.read_rest(input)
    }

    /// An element begins with `kind`.
    fn begin(&mut self, kind: u8) -> Result<(), ReplyError> {
        if !matches!(
            kind,
            b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b',' | b'#' | b'!' | b'=' | b'(' | b'%' | b'~' | b'>' | b'|'
        ) {
            return Err(if matches!(kind, b'.' | b';') {
                ReplyError::Streamed(kind)
            } else {
                ReplyError::UnknownKind(kind)
            });
        }
        self.kind = kind;
        self.line = Line::default();
        // An attribute leaves the place of the frame's own element open, and all of its elements come before that.
        self.is_top = self.head.kind == 0 && self.open == 1 && kind != b'|';
        self.is_word = match kind {
            b'+' | b'$' => self.is_top || self.is_first,
            b'-' => self.is_top,
            _ => false,
        };
        self.is_first = self.is_top && matches!(kind, b'*' | b'%' | b'~' | b'>');
        if self.is_top {
            self.head = Head { kind, is_nil: kind == b'_', ..Head::default() };
        }
        Ok(())
    }

    /// Reads on in a line whose kind is known: bytes used, and whether the line ended.
    fn read_rest(&mut self, input: &[u8]) -> Result<(usize, bool), ReplyError> {
        let (used, has_ended) = self.line.read(input, has_number(self.kind)).ok_or(ReplyError::BadEnd(self.kind))?;
        if self.is_word && self.kind != b'$' {
            self.push_word(&input[..used], has_ended);
        }
        if has_ended && has_number(self.kind) {
            if self.line.kept() == Some(b"?") {
                return Err(ReplyError::Streamed(self.kind));
            }
            let number = self.line.kept().and_then(number::parse).ok_or(ReplyError::BadNumber(self.kind))?;
            self.counted(number)?;
        }
        Ok((used, has_ended))
    }

    /// Takes a piece of a line, without its CR LF where that is in it, as the frame's first word.
    fn push_word(&mut self, piece: &[u8], has_ended: bool) {
        self.head.word.push(piece);
        if has_ended {
            // The line end may have come piece by piece, hence it is cut off where it can be told.
            let len = usize::from(self.head.word.len).min(self.line.len);
            self.head.word.len = len as u8;
        }
    }

    /// The number in an element's line is known: what it makes of the element. An aggregate gives its place to its elements.
    fn counted(&mut self, number: i64) -> Result<(), ReplyError> {
        if self.kind == b':' {
            self.head.last_integer = Some(number);
            return Ok(());
        }
        if number == -1 && matches!(self.kind, b'$' | b'*') {
            self.head.is_nil |= self.is_top;
            return Ok(());
        }
        let count = u64::try_from(number).map_err(|_| ReplyError::BadNumber(self.kind))?;
        let elements = match self.kind {
            b'$' | b'!' | b'=' => {
                self.skip = count + 2;
                return Ok(());
            }
            b'%' => count.checked_mul(2),
            b'|' => count.checked_mul(2).and_then(|elements| elements.checked_add(1)),
            _ => Some(count),
        };
        self.is_first &= count > 0;
        self.open = elements.and_then(|elements| self.open.checked_add(elements)).ok_or(ReplyError::TooMany)?;
        Ok(())
    }
}

/// Kinds whose line is a number.
fn has_number(kind: u8) -> bool {
    matches!(kind, b':' | b'$' | b'*' | b'!' | b'=' | b'%' | b'~' | b'>' | b'|')
}

/// The bytes of the frame at the front of `input`, which is not empty, where that is a whole scalar of the plainest form.
/// `None` says nothing.
#[inline]
fn whole_scalar(input: &[u8]) -> Option<usize> {
    match input[0] {
        b'+' | b'-' | b'_' | b',' | b'#' | b'(' => {
            let end = memchr::memchr(b'\r', input)?;
            (*input.get(end + 1)? == b'\n').then_some(end + 2)
        }
        b':' => number::plain_line(input).map(|(_, len)| len).filter(|len| input[len - 1] == b'\n'),
        b'$' if input.starts_with(b"$-1\r\n") => Some(5),
        b'$' => {
            let (payload, line) = number::plain_line(input)?;
            let end = line.checked_add(usize::try_from(payload).ok()?)?;
            (input[line - 1] == b'\n' && *input.get(end)? == b'\r' && *input.get(end + 1)? == b'\n').then_some(end + 2)
        }
        _ => None,
    }
}

/// A sign and 19 digits fit.
const KEPT_MAX: usize = 20;

/// An element's line behind its kind byte, in pieces.
#[derive(Debug, Default)]
struct Line {
    /// Bytes of the line so far, without its CR LF.
    len: usize,
    kept: [u8; KEPT_MAX],
    /// CR came: LF ends the line.
    has_cr: bool,
}

impl Line {
    /// Reads on until CR LF: how many bytes belong to the line and whether it is whole. A line that is a number ends at the
    /// first CR, and `None` tells that it does not; any other may have single CRs and LFs in it.
    fn read(&mut self, input: &[u8], is_number: bool) -> Option<(usize, bool)> {
        let mut at = 0;
        while at < input.len() {
            if self.has_cr {
                if input[at] == b'\n' {
                    return Some((at + 1, true));
                }
                if is_number {
                    return None;
                }
                self.has_cr = false;
                self.keep(b"\r");
            }
            let rest = &input[at..];
            let end = memchr::memchr(b'\r', rest);
            self.keep(&rest[..end.unwrap_or(rest.len())]);
            if is_number && self.len > KEPT_MAX {
                return None;
            }
            self.has_cr = end.is_some();
            at += end.map_or(rest.len(), |end| end + 1);
        }
        Some((at, false))
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.len < KEPT_MAX {
            let len = bytes.len().min(KEPT_MAX - self.len);
            self.kept[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        }
        self.len = self.len.saturating_add(bytes.len());
    }

    /// The line, unless it is longer than any number.
    fn kept(&self) -> Option<&[u8]> {
        self.kept.get(..self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of all frames of a stream of whole ones.
    fn heads(mut input: &[u8]) -> Vec<FrameHead> {
        let mut scanner = ReplyScanner::new();
        let mut heads = Vec::new();
        while !input.is_empty() {
            let (used, head) = scanner.next(input).unwrap();
            heads.extend(head);
            input = &input[used..];
        }
        assert!(scanner.is_at_boundary());
        heads
    }

    fn head(input: &[u8]) -> FrameHead {
        let heads = heads(input);
        assert_eq!(heads.len(), 1, "{}", input.escape_ascii());
        heads[0]
    }

    #[test]
    fn every_kind_is_one_frame() {
        for frame in [
            &b"+OK\r\n"[..],
            b"+\r\n",
            b"-ERR a\rb\nc\r\r\n",
            b":0\r\n",
            b":-9223372036854775808\r\n",
            b"$0\r\n\r\n",
            b"$5\r\na\r\nb\r\r\n",
            b"$-1\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            b"_\r\n",
            b",3.25\r\n",
            b",inf\r\n",
            b"#t\r\n",
            b"!3\r\nERR\r\n",
            b"=5\r\ntxt:a\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"%1\r\n+a\r\n*1\r\n:1\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b">2\r\n+pubsub\r\n:1\r\n",
            b"|1\r\n+ttl\r\n:5\r\n+OK\r\n",
            b"*1\r\n|1\r\n+a\r\n|1\r\n+b\r\n_\r\n_\r\n:1\r\n",
        ] {
            head(frame);
            let whole = ReplyScanner::new().scan(frame, 9);
            assert_eq!(whole, Ok(Scan { consumed: frame.len(), frames: 1 }), "{}", frame.escape_ascii());
            for cut in 0..frame.len() {
                let mut scanner = ReplyScanner::new();
                assert_eq!(scanner.scan(&frame[..cut], 9), Ok(Scan { consumed: cut, frames: 0 }));
                assert_eq!(scanner.is_at_boundary(), cut == 0);
                assert_eq!(scanner.frame_seen(), cut as u64);
                assert_eq!(scanner.scan(&frame[cut..], 9), Ok(Scan { consumed: frame.len() - cut, frames: 1 }));
                assert_eq!((scanner.is_at_boundary(), scanner.frame_seen()), (true, 0));
            }
        }
    }

    #[test]
    fn scanning_stops_after_the_frames_asked_for() {
        let input = b"+OK\r\n:1\r\n*1\r\n:2\r\n$1\r\na\r\n";
        let ends = [0, 5, 9, 17, 24];
        for (frames, end) in ends.into_iter().enumerate() {
            let scan = Scan { consumed: end, frames: frames as u32 };
            assert_eq!(ReplyScanner::new().scan(input, frames as u32), Ok(scan));
        }
        assert_eq!(ReplyScanner::new().scan(input, 9), Ok(Scan { consumed: 24, frames: 4 }));
    }

    #[test]
    fn a_head_tells_what_the_frame_is() {
        assert_eq!(head(b"+OK\r\n").word.as_bytes(), b"OK");
        assert_eq!(head(b"-MOVED 3999 127.0.0.1:6381\r\n").word.as_bytes(), b"MOVED 3999 127.0");
        assert_eq!(head(b"-ab\rc\r\n").word.as_bytes(), b"ab\rc");
        assert_eq!(head(b"$3\r\nfoo\r\n").word.as_bytes(), b"foo");
        assert_eq!(head(b":42\r\n").last_integer, Some(42));
        assert_eq!(head(b":-42\r\n").last_integer, Some(-42));
        let ack = head(b">3\r\n$9\r\nsubscribe\r\n$5\r\nfirst\r\n:2\r\n");
        assert_eq!((ack.kind, ack.word.as_bytes(), ack.last_integer), (b'>', &b"subscribe"[..], Some(2)));
        assert_eq!(head(b"*2\r\n+ok\r\n+no\r\n").word.as_bytes(), b"ok");
        assert_eq!(head(b"*2\r\n:1\r\n+no\r\n").word.as_bytes(), b"", "only the first element counts");
        assert_eq!(head(b"*2\r\n*1\r\n+no\r\n+no\r\n").word.as_bytes(), b"", "and only where it is a string");
        assert_eq!(head(b"*2\r\n*0\r\n+no\r\n").word.as_bytes(), b"");
        assert_eq!(head(b"*2\r\n$-1\r\n+no\r\n").word.as_bytes(), b"");
    }

    #[test]
    fn nil_is_told_at_the_top_only() {
        for nil in [&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n", b"|1\r\n+a\r\n+b\r\n_\r\n"] {
            assert!(head(nil).is_nil, "{}", nil.escape_ascii());
        }
        for other in [&b"*1\r\n$-1\r\n"[..], b"*1\r\n_\r\n", b"$0\r\n\r\n", b"|1\r\n+a\r\n_\r\n+b\r\n"] {
            assert!(!head(other).is_nil, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn an_attribute_is_part_of_the_frame_that_follows() {
        let input = b"|1\r\n+ttl\r\n:5\r\n$2\r\nok\r\n";
        let frame = head(input);
        assert_eq!((frame.kind, frame.word.as_bytes(), frame.last_integer), (b'$', &b"ok"[..], None));
        let mut scanner = ReplyScanner::new();
        scanner.scan(&input[..14], 1).unwrap();
        assert_eq!(scanner.pending_kind(), None);
        scanner.scan(&input[14..16], 1).unwrap();
        assert_eq!(scanner.pending_kind(), Some(b'$'));
        assert_eq!(heads(b"|0\r\n|0\r\n+a\r\n+b\r\n").len(), 2);
    }

    #[test]
    fn the_payload_to_come_is_known() {
        let mut scanner = ReplyScanner::new();
        scanner.scan(b"$10\r\n123", 1).unwrap();
        assert_eq!((scanner.bulk_left(), scanner.frame_seen(), scanner.pending_kind()), (7, 8, Some(b'$')));
        scanner.scan(b"4567890\r", 1).unwrap();
        assert_eq!((scanner.bulk_left(), scanner.is_at_boundary()), (0, false));
        assert_eq!(scanner.scan(b"\n", 1), Ok(Scan { consumed: 1, frames: 1 }));
        assert_eq!(scanner.pending_kind(), None);
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for (input, error) in [
            (&b"OK\r\n"[..], ReplyError::UnknownKind(b'O')),
            (b"\r\n", ReplyError::UnknownKind(b'\r')),
            (b"*?\r\n", ReplyError::Streamed(b'*')),
            (b"$?\r\n", ReplyError::Streamed(b'$')),
            (b".\r\n", ReplyError::Streamed(b'.')),
            (b":\r\n", ReplyError::BadNumber(b':')),
            (b":1a\r\n", ReplyError::BadNumber(b':')),
            (b"$-2\r\n", ReplyError::BadNumber(b'$')),
            (b"%-1\r\n", ReplyError::BadNumber(b'%')),
            (b"$01\r\n", ReplyError::BadNumber(b'$')),
            (b"$99999999999999999999\r\n", ReplyError::BadNumber(b'$')),
            (b"$9999999999999999999999", ReplyError::BadEnd(b'$')),
            (b"$1\rx", ReplyError::BadEnd(b'$')),
            (b"$1\r\nabc", ReplyError::BadEnd(b'$')),
            (b"$1\r\na\rc", ReplyError::BadEnd(b'$')),
            (b"%9223372036854775807\r\n%9223372036854775807\r\n", ReplyError::TooMany),
            (b"|9223372036854775807\r\n|9223372036854775807\r\n", ReplyError::TooMany),
        ] {
            assert_eq!(ReplyScanner::new().scan(input, 9), Err(error), "{}", input.escape_ascii());
            assert_eq!(ReplyScanner::new().next(input), Err(error), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let mut input = b"*1\r\n".repeat(100_000);
        input.extend(b":1\r\n");
        assert_eq!(head(&input).last_integer, Some(1));
    }
}
