//! The arguments within a command's bytes, and the bytes of a command.

use super::number;

/// The arguments of a whole multibulk command as `RequestScanner` cut it, the name first, without a copy. Whatever else
/// the bytes are, it ends where they stop to make sense, with as many arguments as were whole.
pub fn args(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (left, rest) = match number::plain_line(frame) {
        Some((count, len)) if frame[0] == b'*' => (count, &frame[len..]),
        _ => (0, &frame[..0]),
    };
    Args { left, rest }
}

struct Args<'a> {
    left: u64,
    rest: &'a [u8],
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 || *self.rest.first()? != b'$' {
            return None;
        }
        let (len, line) = number::plain_line(self.rest)?;
        let end = line.checked_add(usize::try_from(len).ok()?)?;
        let arg = self.rest.get(line..end)?;
        // The two bytes after an argument are skipped whatever they are, as Redis does.
        self.rest = self.rest.get(end + 2..)?;
        self.left -= 1;
        Some(arg)
    }
}

/// Appends the command with these arguments, the name first, to `out`.
pub fn encode_command<I: AsRef<[u8]>>(args: &[I], out: &mut Vec<u8>) {
    let size: usize = args.iter().map(|arg| arg.as_ref().len() + 16).sum();
    out.reserve(size + 16);
    push_line(b'*', args.len(), out);
    for arg in args {
        let arg = arg.as_ref();
        push_line(b'$', arg.len(), out);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a kind byte, a length and CR LF.
pub(super) fn push_line(kind: u8, len: usize, out: &mut Vec<u8>) {
    out.push(kind);
    // No slice is longer than `isize::MAX`.
    number::push(len as i64, out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_reads_back() {
        let mut frame = Vec::new();
        encode_command(&[&b"SET"[..], b"", b"a\r\n\0b"], &mut frame);
        assert_eq!(frame, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$5\r\na\r\n\0b\r\n");
        assert_eq!(args(&frame).collect::<Vec<_>>(), [&b"SET"[..], b"", b"a\r\n\0b"]);
    }

    #[test]
    fn line_ends_are_as_little_looked_at_as_by_redis() {
        assert_eq!(args(b"*1\rx$4\rxPINGyy").collect::<Vec<_>>(), [b"PING"]);
    }

    #[test]
    fn it_ends_where_the_bytes_stop_to_make_sense() {
        for (frame, whole) in [
            (&b""[..], 0),
            (b"PING\r\n", 0),
            (b"*-1\r\n", 0),
            (b"*9\r\n", 0),
            (b"*2\r\n$1\r\na\r\n", 1),
            (b"*2\r\n$1\r\na\r\n$5\r\nb\r\n", 1),
            (b"*2\r\n$1\r\na\r\n:5\r\n", 1),
            (b"*2\r\n$1\r\na\r\n$-1\r\n", 1),
            (b"*1\r\n$999999999999999999\r\nx\r\n", 0),
            (b"*1\r\n$1\r\nx\r", 0),
        ] {
            assert_eq!(args(frame).count(), whole, "{}", frame.escape_ascii());
        }
    }
}
