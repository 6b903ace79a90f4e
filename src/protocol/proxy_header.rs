//! The PROXY protocol, versions 1 and 2: the line or block that a load balancer puts in front of a connection, to say whose it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header of version 2 begins with; no client begins so.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before what its length counts.
const FIXED: usize = 16;
/// The shortest header of all.
const SHORTEST_LINE: usize = b"PROXY UNKNOWN\r\n".len();
/// The longest line of version 1, with its end.
const LINE_MAX: usize = 107;
/// The longest block of version 2 that is taken: addresses, and more that a balancer may tell.
const BLOCK_MAX: usize = FIXED + 2048;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client's: its address, and the one that it connected to.
    Client {
        /// The client's own.
        from: SocketAddr,
        /// Where it connected.
        to: SocketAddr,
    },
    /// The balancer's own (a health check), or that of somebody whom it does not name: the socket's addresses count.
    Itself,
}

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// At least so many more bytes belong to it.
    Wants(usize),
    /// It is whole, and nothing behind it was looked at.
    Whole(Source),
}

/// What came is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no PROXY header")]
pub struct NoHeader;

/// Reads what has come of a header. As long as no more is read than it wants, nothing that belongs to the client is.
pub fn read(bytes: &[u8]) -> Result<Header, NoHeader> {
    if bytes.is_empty() {
        return Ok(Header::Wants(SHORTEST_LINE));
    }
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return read_block(bytes);
    }
    let common = bytes.len().min(6);
    if bytes[..common] == b"PROXY "[..common] {
        return read_line(bytes);
    }
    Err(NoHeader)
}

fn read_block(bytes: &[u8]) -> Result<Header, NoHeader> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else { return Ok(Header::Wants(FIXED - bytes.len())) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + length > BLOCK_MAX || fixed[12] >> 4 != 2 {
        return Err(NoHeader);
    }
    if rest.len() < length {
        return Ok(Header::Wants(length - rest.len()));
    }
    let source = match (fixed[12] & 0xf, fixed[13], rest) {
        (0, _, _) => Source::Itself,
        (1, 0x11, &[a, b, c, d, e, f, g, h, p, q, r, s, ..]) => Source::Client {
            from: SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([p, q])),
            to: SocketAddr::new(Ipv4Addr::new(e, f, g, h).into(), u16::from_be_bytes([r, s])),
        },
        (1, 0x21, rest) if rest.len() >= 36 => {
            let address =
                |at: usize| <[u8; 16]>::try_from(&rest[at..at + 16]).map(Ipv6Addr::from).map_err(|_| NoHeader);
            let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
            Source::Client {
                from: SocketAddr::new(address(0)?.into(), port(32)),
                to: SocketAddr::new(address(16)?.into(), port(34)),
            }
        }
        (1, 0x11 | 0x21, _) => return Err(NoHeader),
        (1, _, _) => Source::Itself,
        _ => return Err(NoHeader),
    };
    Ok(Header::Whole(source))
}

fn read_line(bytes: &[u8]) -> Result<Header, NoHeader> {
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let is_over = bytes.len() >= LINE_MAX || bytes.contains(&b'\n');
        return if is_over { Err(NoHeader) } else { Ok(Header::Wants(shortest_rest(bytes))) };
    };
    let line = std::str::from_utf8(line).map_err(|_| NoHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(Header::Whole(Source::Itself)),
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let place = |address: &str, port: &str| {
                let address: IpAddr = address.parse().map_err(|_| NoHeader)?;
                let is_plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| is_plain).ok_or(NoHeader)?;
                (address.is_ipv4() == (family == "TCP4")).then(|| SocketAddr::new(address, port)).ok_or(NoHeader)
            };
            Ok(Header::Whole(Source::Client { from: place(from, from_port)?, to: place(to, to_port)? }))
        }
        _ => Err(NoHeader),
    }
}

/// How many bytes are still to come at least, so that nothing behind the line is read.
fn shortest_rest(bytes: &[u8]) -> usize {
    let to_its_end = if bytes.ends_with(b"\r") { 1 } else { 2 };
    SHORTEST_LINE.saturating_sub(bytes.len()).max(to_its_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, to: &str) -> Result<Header, NoHeader> {
        Ok(Header::Whole(Source::Client {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
        }))
    }

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short");
        [&SIGNATURE[..], &[0x20 | command, family], &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn both_versions_name_a_client() {
        assert_eq!(read(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 7379\r\n"), client("192.0.2.1:56324", "10.0.0.1:7379"));
        assert_eq!(read(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), client("[2001:db8::1]:1", "[::1]:65535"));
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 4, 0x1c, 0xd3];
        assert_eq!(read(&block(1, 0x11, &v4)), client("192.0.2.1:56324", "10.0.0.1:7379"));
        assert_eq!(
            read(&block(1, 0x11, &[&v4[..], b"more that it tells"].concat())),
            client("192.0.2.1:56324", "10.0.0.1:7379")
        );
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0, 1, 0, 2]].concat();
        assert_eq!(read(&block(1, 0x21, &v6)), client("[::1]:1", "[::1]:2"));
    }

    #[test]
    fn who_is_not_named_is_whoever_connected() {
        for text in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"] {
            assert_eq!(read(text), Ok(Header::Whole(Source::Itself)));
        }
        assert_eq!(read(&block(0, 0, b"")), Ok(Header::Whole(Source::Itself)));
        assert_eq!(read(&block(1, 0x31, &[0; 216])), Ok(Header::Whole(Source::Itself)));
    }

    #[test]
    fn no_byte_behind_a_header_is_wanted() {
        let v4 = block(1, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0, 1, 0, 2]);
        for whole in [&b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 7379\r\n"[..], b"PROXY UNKNOWN\r\n", &v4] {
            let mut came = 0;
            while let Header::Wants(more) = read(&whole[..came]).expect("a header") {
                came += more;
                assert!(came <= whole.len(), "{came} bytes of {} were wanted", whole.len());
            }
            assert_eq!(came, whole.len());
            for cut in 0..whole.len() {
                assert!(matches!(read(&whole[..cut]), Ok(Header::Wants(_))), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_seen_at_once() {
        for text in [
            &b"*1\r\n$4\r\nPING\r\n"[..],
            b"PROXX",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
            b"PROXY TCP4 ::1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 1\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 1\r\n",
            b"PROXY TCP9 192.0.2.1 10.0.0.1 1 1\r\n",
            b"PROXY \n",
            b"\x16\x03\x01",
        ] {
            assert_eq!(read(text), Err(NoHeader), "{}", text.escape_ascii());
        }
        assert_eq!(read(&[&b"PROXY TCP4 "[..], &[b'1'; 200]].concat()), Err(NoHeader));
        let mut wrong = block(1, 0x11, &[0; 12]);
        wrong[12] = 0x31;
        assert_eq!(read(&wrong), Err(NoHeader));
        assert_eq!(read(&block(2, 0x11, &[0; 12])), Err(NoHeader));
        assert_eq!(read(&block(1, 0x11, &[0; 4])), Err(NoHeader));
        assert_eq!(read(&block(1, 0x11, &[0; 4000])), Err(NoHeader));
    }
}
