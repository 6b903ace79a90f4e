//! Where a client's commands end. What is a command and what an error is exactly what Redis takes for one: bytes it does
//! not look at are not looked at here, and what it refuses is refused with the same words.

use std::ops::Range;

use super::error::ProtocolError;
use super::inline;
use super::number;

/// The longest line without its end, in bytes. Redis looks only after each read, so that a longer line may slip through
/// there when it comes in one piece; here the bound does not depend on how the stream is cut.
const LINE_MAX: usize = 64 * 1024;

/// Most arguments a command can have at all.
const ARGS_LIMIT: u64 = i32::MAX as u64;

/// Redis' default for the longest argument; beyond it the error for a client before `AUTH` is the ordinary one.
const BULK_MAX_DEFAULT: u64 = 512 * 1024 * 1024;

/// What Redis allows before and after `AUTH`.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Most arguments of one command.
    pub args_max: u64,
    /// Longest argument, in bytes.
    pub bulk_max: u64,
    /// `true` until the client has authenticated where the upstream demands it: changes the error texts.
    pub unauthenticated: bool,
}

/// A whole command at the front of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFrame {
    /// Bytes from the front of the input to the command's end.
    pub len: usize,
    /// Where the command's name stands, in bytes from the front of the input. Empty where it is not known: the name of an
    /// inline command with quotes in it, or one that was passed on already.
    pub name: Range<usize>,
    /// Arguments, the name included. 0 for an empty command, which owes no reply; 1 stands for any number of them in an
    /// inline command.
    pub args: u32,
    /// `false` for an inline command.
    pub is_multibulk: bool,
    /// An argument or a line of numbers does not end in CR LF. Redis does not look so closely; Valkey refuses it and
    /// closes.
    pub has_odd_end: bool,
}

/// Finds the ends of a client's commands; keeps its place, so that each byte is looked at once however the stream is cut.
/// After an error the connection has to be closed: there is no next command to find.
#[derive(Debug, Default)]
pub struct RequestScanner {
    stage: Stage,
    /// Bytes at the front of the input that are done with.
    at: usize,
    /// The line that is being read, across cuts.
    line: Line,
    /// Bytes still to jump over in the argument that is being read, the two after it included.
    skip: usize,
    /// Announced number of arguments.
    args: u32,
    /// Arguments that have not ended.
    args_left: u32,
    /// Where the name stands, or its beginning in an inline command; may reach beyond the input. `None`: not known or gone.
    name: Option<Range<usize>>,
    /// An inline command that is more than blanks.
    has_words: bool,
    /// Something did not end in CR LF.
    has_odd_end: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    /// Within an inline command.
    Inline,
    /// Within the `*` line.
    Count,
    /// Within a `$` line.
    Length,
    /// Within an argument.
    Argument,
}

impl RequestScanner {
    /// A scanner that waits for the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// `input` begins where the command being scanned begins (minus what `passed_on` was told). `Ok(None)` needs more bytes.
    /// After `Ok(Some(frame))` the scanner is ready for the next command, whose bytes begin at `input[frame.len..]`.
    ///
    /// # Errors
    /// What Redis answers before it closes the connection.
    pub fn advance(&mut self, input: &[u8], limits: &RequestLimits) -> Result<Option<RequestFrame>, ProtocolError> {
        debug_assert!(self.at <= input.len(), "bytes that were looked at are gone from the input");
        let is_whole = match self.stage {
            Stage::Start => match input.first() {
                None => false,
                Some(b'*') => {
                    self.stage = Stage::Count;
                    self.multibulk(input, limits)?
                }
                Some(_) => {
                    self.stage = Stage::Inline;
                    self.inline(input)?
                }
            },
            Stage::Inline => self.inline(input)?,
            Stage::Count | Stage::Length | Stage::Argument => self.multibulk(input, limits)?,
        };
        Ok(is_whole.then(|| self.finish(input)))
    }

    /// The first `n` bytes of the unfinished command, which `advance` has seen, were passed on and are gone from the front of
    /// the input (streaming of big commands). After this a returned frame's `len` counts from the new front.
    pub fn passed_on(&mut self, n: usize) {
        debug_assert!(n <= self.at, "bytes were passed on that nobody looked at");
        let n = n.min(self.at);
        self.at -= n;
        self.name = self.name.take().filter(|name| name.start >= n).map(|name| name.start - n..name.end - n);
    }

    /// Name range (relative to the command's start) of an unfinished multibulk command as soon as its first argument is
    /// whole, and as long as it has not been passed on.
    pub fn pending_name(&self) -> Option<Range<usize>> {
        if self.args_left < self.args { self.name.clone() } else { None }
    }

    /// Announced number of arguments of the unfinished command, 0 if not known yet.
    pub fn pending_args(&self) -> u32 {
        self.args
    }

    /// True when no byte of a next command has been seen.
    pub fn is_at_start(&self) -> bool {
        self.stage == Stage::Start
    }

    /// How many more bytes of input the scanner surely needs before it can say more (at least 1), for sizing reads.
    pub fn wants(&self) -> usize {
        match self.stage {
            Stage::Start | Stage::Inline => 1,
            // CR and a byte after it.
            Stage::Count | Stage::Length => 2 - usize::from(self.line.has_end),
            Stage::Argument => self.skip.max(1),
        }
    }

    /// Looks at the rest of a multibulk command; true at its end.
    fn multibulk(&mut self, input: &[u8], limits: &RequestLimits) -> Result<bool, ProtocolError> {
        if self.stage == Stage::Count {
            let Some(line) = self.read_line(input, b'*', ProtocolError::TooBigCount)? else { return Ok(false) };
            self.args = checked_count(line.number, limits)?;
            self.args_left = self.args;
            if self.args == 0 {
                return Ok(true);
            }
            self.stage = Stage::Length;
        }
        loop {
            if self.stage == Stage::Length {
                let Some(line) = self.read_line(input, b'$', ProtocolError::TooBigLength)? else { return Ok(false) };
                let len = checked_length(line, limits)?;
                if self.args_left == self.args {
                    self.name = Some(self.at..self.at.saturating_add(len));
                }
                self.skip = len.saturating_add(2);
                self.stage = Stage::Argument;
            }
            let jump = self.skip.min(input.len().saturating_sub(self.at));
            self.at += jump;
            self.skip -= jump;
            if self.skip > 0 {
                return Ok(false);
            }
            let end = self.at.checked_sub(2).and_then(|start| input.get(start..self.at));
            self.has_odd_end |= end.is_some_and(|end| end != b"\r\n");
            self.args_left -= 1;
            if self.args_left == 0 {
                return Ok(true);
            }
            self.stage = Stage::Length;
        }
    }

    /// The number line that begins, hopefully with `kind`, or goes on at `self.at`; `None` asks for more bytes.
    #[inline]
    fn read_line(
        &mut self,
        input: &[u8],
        kind: u8,
        too_big: ProtocolError,
    ) -> Result<Option<NumberLine>, ProtocolError> {
        let rest = input.get(self.at..).unwrap_or_default();
        let is_at_line_start = self.line.seen == 0 && !self.line.has_end;
        if is_at_line_start
            && rest.first() == Some(&kind)
            && let Some((number, len)) = number::plain_line(rest)
        {
            self.at += len;
            self.has_odd_end |= rest[len - 1] != b'\n';
            // Eighteen digits at most.
            return Ok(Some(NumberLine { first: kind, number: Some(number as i64) }));
        }
        let (used, has_ended) = self.line.read(rest, b'\r').ok_or(too_big)?;
        self.at += used;
        if !has_ended {
            return Ok(None);
        }
        self.has_odd_end |= rest.get(used.wrapping_sub(1)).is_some_and(|last| *last != b'\n');
        let line = self.line.number_line();
        self.line = Line::default();
        Ok(Some(line))
    }

    /// Looks at the rest of an inline command; true at its end.
    fn inline(&mut self, input: &[u8]) -> Result<bool, ProtocolError> {
        let rest = input.get(self.at..).unwrap_or_default();
        let (used, has_ended) = self.line.read(rest, b'\n').ok_or(ProtocolError::TooBigInline)?;
        if !self.has_words
            && let Some(start) = rest[..used].iter().position(|&byte| !inline::is_blank(byte))
        {
            self.has_words = true;
            self.name = Some(self.at + start..self.at + start);
        }
        self.at += used;
        Ok(has_ended)
    }

    /// Tells about the command that ended at `self.at` and gets ready for the next one.
    fn finish(&mut self, input: &[u8]) -> RequestFrame {
        let is_multibulk = self.stage != Stage::Inline;
        let name = match self.name.take() {
            Some(name) if is_multibulk => name,
            Some(name) => inline_name(&input[..self.at], name.start),
            None => 0..0,
        };
        let args = if is_multibulk { self.args } else { u32::from(self.has_words) };
        let has_odd_end = std::mem::take(&mut self.has_odd_end);
        let frame = RequestFrame { len: self.at, name, args, is_multibulk, has_odd_end };
        if !is_multibulk {
            self.line = Line::default();
            self.has_words = false;
        }
        self.stage = Stage::Start;
        self.at = 0;
        self.args = 0;
        self.args_left = 0;
        frame
    }
}

fn checked_count(number: Option<i64>, limits: &RequestLimits) -> Result<u32, ProtocolError> {
    let count = match number {
        None => return Err(ProtocolError::InvalidCount),
        Some(count) => u64::try_from(count).unwrap_or(0),
    };
    match count {
        _ if count > ARGS_LIMIT => Err(ProtocolError::InvalidCount),
        _ if count <= limits.args_max => Ok(count as u32),
        _ if limits.unauthenticated => Err(ProtocolError::UnauthenticatedCount),
        _ => Err(ProtocolError::InvalidCount),
    }
}

fn checked_length(line: NumberLine, limits: &RequestLimits) -> Result<usize, ProtocolError> {
    if line.first != b'$' {
        return Err(ProtocolError::ExpectedBulk(line.first));
    }
    let len = line.number.and_then(|len| u64::try_from(len).ok()).ok_or(ProtocolError::InvalidLength)?;
    match len {
        _ if len <= limits.bulk_max => usize::try_from(len).map_err(|_| ProtocolError::InvalidLength),
        _ if limits.unauthenticated && len <= BULK_MAX_DEFAULT => Err(ProtocolError::UnauthenticatedLength),
        _ => Err(ProtocolError::InvalidLength),
    }
}

/// The first word of an inline command that begins at `start`; empty where quotes make it something else than it looks.
fn inline_name(command: &[u8], start: usize) -> Range<usize> {
    let word = &command[start..];
    let len = word.iter().position(|&byte| inline::ends_word(byte)).unwrap_or(word.len());
    if memchr::memchr2(b'"', b'\'', &word[..len]).is_some() { 0..0 } else { start..start + len }
}

/// A whole `*` or `$` line.
struct NumberLine {
    first: u8,
    /// `None` where the rest of the line spells no integer.
    number: Option<i64>,
}

/// A sign, 19 digits, the first byte and a few to spare: a longer line spells no integer.
const KEPT_MAX: usize = 24;

/// A line that came in pieces. Its front is kept, so that the pieces themselves need not be.
#[derive(Debug, Default)]
struct Line {
    /// Bytes of the line so far.
    seen: usize,
    kept: [u8; KEPT_MAX],
    /// CR came; one more byte belongs to the line.
    has_end: bool,
    /// Redis looks for the line end with a C string function: a zero byte hides everything behind it.
    has_zero: bool,
}

impl Line {
    /// Reads on until `end`: how many bytes belong to the line and whether it is whole. `None`: the line is too big.
    fn read(&mut self, input: &[u8], end: u8) -> Option<(usize, bool)> {
        if self.has_end {
            return Some((input.len().min(1), !input.is_empty()));
        }
        let window = &input[..input.len().min(LINE_MAX + 1 - self.seen)];
        let stop = if self.has_zero { None } else { memchr::memchr2(end, 0, window) };
        match stop {
            Some(at) if window[at] == end => {
                self.keep(&window[..at]);
                if end == b'\n' {
                    return Some((at + 1, true));
                }
                self.has_end = true;
                let is_whole = input.len() > at + 1;
                Some((at + 1 + usize::from(is_whole), is_whole))
            }
            _ => {
                self.has_zero |= stop.is_some();
                self.keep(window);
                (self.seen <= LINE_MAX).then_some((window.len(), false))
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.seen < KEPT_MAX {
            let len = bytes.len().min(KEPT_MAX - self.seen);
            self.kept[self.seen..self.seen + len].copy_from_slice(&bytes[..len]);
        }
        self.seen += bytes.len();
    }

    fn number_line(&self) -> NumberLine {
        match self.kept.get(..self.seen) {
            Some([first, number @ ..]) => NumberLine { first: *first, number: number::parse(number) },
            // The line is nothing but its end, so that is what stands where a `$` is expected.
            Some([]) => NumberLine { first: b'\r', number: None },
            None => NumberLine { first: self.kept[0], number: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits =
        RequestLimits { args_max: i32::MAX as u64, bulk_max: BULK_MAX_DEFAULT, unauthenticated: false };
    const STRANGER: RequestLimits = RequestLimits { args_max: 10, bulk_max: 16_384, unauthenticated: true };

    fn scan(input: &[u8]) -> Result<Option<RequestFrame>, ProtocolError> {
        RequestScanner::new().advance(input, &LIMITS)
    }

    fn multibulk(len: usize, name: Range<usize>, args: u32) -> RequestFrame {
        RequestFrame { len, name, args, is_multibulk: true, has_odd_end: false }
    }

    fn inline(len: usize, name: Range<usize>, args: u32) -> RequestFrame {
        RequestFrame { len, name, args, is_multibulk: false, has_odd_end: false }
    }

    #[test]
    fn a_command_ends_where_its_last_argument_does() {
        assert_eq!(scan(b"*1\r\n$4\r\nPING\r\n*1"), Ok(Some(multibulk(14, 8..12, 1))));
        assert_eq!(scan(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), Ok(Some(multibulk(20, 8..11, 2))));
        assert_eq!(scan(b"*1\r\n$0\r\n\r\n"), Ok(Some(multibulk(10, 8..8, 1))));
    }

    #[test]
    fn what_redis_does_not_look_at_is_not_looked_at() {
        for input in [&b"*1\rx$4\ryPINGzz"[..], b"*1\rx$4\r\nPING\r\n", b"*1\r\n$4\ryPING\r\n"] {
            let odd = RequestFrame { has_odd_end: true, ..multibulk(14, 8..12, 1) };
            assert_eq!(scan(input), Ok(Some(odd)));
        }
    }

    #[test]
    fn another_end_than_cr_lf_is_told_of_because_some_servers_mind() {
        let odd = RequestFrame { has_odd_end: true, ..multibulk(14, 8..12, 1) };
        assert_eq!(scan(b"*1\r\n$4\r\nPINGzz"), Ok(Some(odd)));
        let mut scanner = RequestScanner::new();
        assert_eq!(scanner.advance(b"*1\r\n$4\r\nPINGz", &LIMITS), Ok(None));
        assert!(scanner.advance(b"*1\r\n$4\r\nPINGzz", &LIMITS).unwrap().is_some_and(|frame| frame.has_odd_end));
        let next = scanner.advance(b"*1\r\n$4\r\nPING\r\n", &LIMITS).unwrap();
        assert!(next.is_some_and(|frame| !frame.has_odd_end));
    }

    #[test]
    fn empty_commands_owe_no_reply() {
        for (input, len) in [(&b"*0\r\n"[..], 4), (b"*-1\r\n", 5), (b"*-9223372036854775808\r\n", 23)] {
            assert_eq!(scan(input), Ok(Some(multibulk(len, 0..0, 0))));
        }
        for (input, len) in [(&b"\r\nPING"[..], 2), (b"\n", 1), (b" \t\x0b\r\n", 5)] {
            assert_eq!(scan(input), Ok(Some(inline(len, 0..0, 0))));
        }
    }

    #[test]
    fn inline_commands_are_lines() {
        assert_eq!(scan(b"PING\r\nPING"), Ok(Some(inline(6, 0..4, 1))));
        assert_eq!(scan(b"  SET a b\n"), Ok(Some(inline(10, 2..5, 1))));
        assert_eq!(scan(b"\"GET\" a\r\n"), Ok(Some(inline(9, 0..0, 1))));
        assert_eq!(scan(b"G'ET' a\r\n"), Ok(Some(inline(9, 0..0, 1))));
        assert_eq!(scan(b"$3\r\n"), Ok(Some(inline(4, 0..2, 1))));
        assert_eq!(scan(b"PING"), Ok(None));
        assert_eq!(scan(b"PING\0\r\n"), Ok(None), "a zero byte hides the line end from Redis");
    }

    #[test]
    fn malformed_commands_are_refused_in_the_words_of_redis() {
        for (input, message) in [
            (&b"*\r\n"[..], "invalid multibulk length"),
            (b"*01\r\n", "invalid multibulk length"),
            (b"*+1\r\n", "invalid multibulk length"),
            (b"*-0\r\n", "invalid multibulk length"),
            (b"*1 \r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*99999999999999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n\r\n", "expected '$', got ' '"),
            (b"*1\r\n\n\r\n", "expected '$', got ' '"),
            (b"*1\r\n$\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$00\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        ] {
            let error = scan(input).expect_err(&input.escape_ascii().to_string());
            assert_eq!(error.message(), message.as_bytes(), "{}", input.escape_ascii());
        }
        assert_eq!(scan(b"*1\r\n\xff\r\n").unwrap_err().message(), &b"expected '$', got '\xff'"[..]);
        assert_eq!(scan(b"*1\r\nx"), Ok(None), "the line has to be whole first");
        assert_eq!(scan(b"*1\r\n\x001\r\n"), Ok(None), "a zero byte hides the line end from Redis");
    }

    #[test]
    fn lines_without_end_are_refused_at_64_kb() {
        for (start, error) in [
            ("PING ", ProtocolError::TooBigInline),
            ("PING\0", ProtocolError::TooBigInline),
            ("*", ProtocolError::TooBigCount),
            ("*\0\r\n", ProtocolError::TooBigCount),
            ("*1\r\n$", ProtocolError::TooBigLength),
            ("*1\r\n", ProtocolError::TooBigLength),
        ] {
            let before = if start.starts_with("*1") { 4 } else { 0 };
            let mut input = start.as_bytes().to_vec();
            input.resize(before + LINE_MAX, b'1');
            assert_eq!(scan(&input), Ok(None), "{start:?}");
            input.push(b'1');
            assert_eq!(scan(&input), Err(error), "{start:?}");
        }
    }

    #[test]
    fn before_auth_less_is_allowed() {
        let scan = |input: &[u8]| RequestScanner::new().advance(input, &STRANGER);
        assert_eq!(scan(b"*10\r\n"), Ok(None));
        assert_eq!(scan(b"*11\r\n"), Err(ProtocolError::UnauthenticatedCount));
        assert_eq!(scan(b"*2147483648\r\n"), Err(ProtocolError::InvalidCount));
        assert_eq!(scan(b"*1\r\n$16384\r\n"), Ok(None));
        assert_eq!(scan(b"*1\r\n$16385\r\n"), Err(ProtocolError::UnauthenticatedLength));
        assert_eq!(scan(b"*1\r\n$536870913\r\n"), Err(ProtocolError::InvalidLength));
    }

    #[test]
    fn an_unfinished_command_tells_what_is_known() {
        let mut scanner = RequestScanner::new();
        assert!(scanner.is_at_start());
        let command = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9\r\n";
        assert_eq!(scanner.advance(&command[..9], &LIMITS), Ok(None));
        assert!(!scanner.is_at_start());
        assert_eq!((scanner.pending_args(), scanner.pending_name(), scanner.wants()), (3, None, 4));
        assert_eq!(scanner.advance(command, &LIMITS), Ok(None));
        assert_eq!((scanner.pending_args(), scanner.pending_name(), scanner.wants()), (3, Some(8..11), 11));
    }

    #[test]
    fn a_cut_within_a_line_end_changes_nothing() {
        let command = b"*1\r\n\rx5\r\n";
        for cut in 0..6 {
            let mut scanner = RequestScanner::new();
            assert_eq!(scanner.advance(&command[..cut], &LIMITS), Ok(None));
            assert_eq!(scanner.advance(command, &LIMITS), Err(ProtocolError::ExpectedBulk(b'\r')));
        }
    }

    #[test]
    fn big_commands_can_be_passed_on_in_pieces() {
        let command = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9\r\n123456789\r\n";
        for piece in 1..command.len() {
            let mut scanner = RequestScanner::new();
            let mut rest = &command[..];
            while rest.len() > piece {
                assert_eq!(scanner.advance(&rest[..piece], &LIMITS), Ok(None));
                scanner.passed_on(piece);
                rest = &rest[piece..];
            }
            assert_eq!(scanner.advance(rest, &LIMITS), Ok(Some(multibulk(rest.len(), 0..0, 3))));
            assert!(scanner.is_at_start());
        }
    }

    #[test]
    fn a_name_moves_with_the_front() {
        let command = b"*1\r\n$4\r\nPING\r\n";
        let mut scanner = RequestScanner::new();
        assert_eq!(scanner.advance(&command[..8], &LIMITS), Ok(None));
        scanner.passed_on(3);
        assert_eq!(scanner.advance(&command[3..], &LIMITS), Ok(Some(multibulk(11, 5..9, 1))));
        let mut scanner = RequestScanner::new();
        assert_eq!(scanner.advance(b" PING a", &LIMITS), Ok(None));
        scanner.passed_on(3);
        assert_eq!(scanner.advance(b"NG a\r\n", &LIMITS), Ok(Some(inline(6, 0..0, 1))));
    }
}
