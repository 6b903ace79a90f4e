//! The scanners against every way to cut a stream, and against `redis-protocol`.

// In a test a panic is the way to tell.
#![allow(clippy::unwrap_used)]

mod scanner_common;

use lockgate::protocol::args::{args, encode_command};
use lockgate::protocol::error::{ProtocolError, ReplyError};
use lockgate::protocol::frame::{self, Value};
use lockgate::protocol::inline;
use lockgate::protocol::reply::{FrameHead, ReplyScanner, Scan};
use lockgate::protocol::request::{RequestFrame, RequestLimits, RequestScanner};
use proptest::collection::vec;
use proptest::prelude::*;
use scanner_common::{Dice, rounds};

const LIMITS: RequestLimits = RequestLimits { args_max: i32::MAX as u64, bulk_max: 512 << 20, unauthenticated: false };

/// A reply as a server might make it.
#[derive(Clone, Debug)]
enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Null(&'static str),
    Boolean(bool),
    Double(&'static str),
    BigNumber(u64),
    BlobError(Vec<u8>),
    Verbatim(Vec<u8>),
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Attributed(Vec<(Reply, Reply)>, Box<Reply>),
}

impl Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        fn aggregate(kind: char, elements: &[Reply], out: &mut Vec<u8>) {
            out.extend(format!("{kind}{}\r\n", elements.len()).bytes());
            elements.iter().for_each(|element| element.encode(out));
        }
        fn pairs(kind: char, pairs: &[(Reply, Reply)], out: &mut Vec<u8>) {
            out.extend(format!("{kind}{}\r\n", pairs.len()).bytes());
            for (key, value) in pairs {
                key.encode(out);
                value.encode(out);
            }
        }
        fn blob(kind: char, front: &str, bytes: &[u8], out: &mut Vec<u8>) {
            out.extend(format!("{kind}{}\r\n{front}", front.len() + bytes.len()).bytes());
            out.extend([bytes, b"\r\n"].concat());
        }
        match self {
            Reply::Simple(text) => out.extend([b"+", &text[..], b"\r\n"].concat()),
            Reply::Error(text) => out.extend([b"-", &text[..], b"\r\n"].concat()),
            Reply::Integer(value) => out.extend(format!(":{value}\r\n").bytes()),
            Reply::Bulk(bytes) => blob('$', "", bytes, out),
            Reply::Null(null) => out.extend(null.bytes()),
            Reply::Boolean(value) => out.extend(if *value { b"#t\r\n" } else { b"#f\r\n" }),
            Reply::Double(value) => out.extend(format!(",{value}\r\n").bytes()),
            Reply::BigNumber(value) => out.extend(format!("({value}{value}\r\n").bytes()),
            Reply::BlobError(bytes) => blob('!', "", bytes, out),
            Reply::Verbatim(bytes) => blob('=', "txt:", bytes, out),
            Reply::Array(elements) => aggregate('*', elements, out),
            Reply::Set(elements) => aggregate('~', elements, out),
            Reply::Push(elements) => aggregate('>', elements, out),
            Reply::Map(entries) => pairs('%', entries, out),
            Reply::Attributed(attributes, reply) => {
                pairs('|', attributes, out);
                reply.encode(out);
            }
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// The kind byte, behind attributes.
    fn kind(&self) -> u8 {
        match self {
            Reply::Attributed(_, reply) => reply.kind(),
            other => other.to_bytes()[0],
        }
    }
}

/// `decoded` is what `reply` says. Numbers that only RESP3 has come as they were written.
fn is_same(decoded: &Value<'_>, reply: &Reply) -> bool {
    let all = |decoded: &[Value<'_>], replies: &[Reply]| {
        decoded.len() == replies.len() && decoded.iter().zip(replies).all(|(decoded, reply)| is_same(decoded, reply))
    };
    match (decoded, reply) {
        (_, Reply::Attributed(_, reply)) => is_same(decoded, reply),
        (Value::Simple(decoded), Reply::Simple(bytes))
        | (Value::Error(decoded), Reply::Error(bytes) | Reply::BlobError(bytes))
        | (Value::Bulk(decoded), Reply::Bulk(bytes) | Reply::Verbatim(bytes)) => decoded == bytes,
        (Value::Integer(decoded), Reply::Integer(value)) => decoded == value,
        (Value::Null, Reply::Null(_)) => true,
        (Value::Boolean(decoded), Reply::Boolean(value)) => decoded == value,
        (Value::Double(decoded), Reply::Double(value)) => *decoded == value.as_bytes(),
        (Value::BigNumber(decoded), Reply::BigNumber(value)) => *decoded == format!("{value}{value}").as_bytes(),
        (Value::Array(decoded), Reply::Array(elements))
        | (Value::Set(decoded), Reply::Set(elements))
        | (Value::Push(decoded), Reply::Push(elements)) => all(decoded, elements),
        (Value::Map(decoded), Reply::Map(entries)) => {
            decoded.len() == entries.len()
                && decoded
                    .iter()
                    .zip(entries)
                    .all(|(decoded, entry)| is_same(&decoded.0, &entry.0) && is_same(&decoded.1, &entry.1))
        }
        _ => false,
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    // Any bytes but the pair CR LF, and a CR at the end would make one.
    vec(any::<u8>(), 0..40)
        .prop_map(|bytes| bytes.into_iter().map(|byte| if byte == b'\r' { b'\n' } else { byte }).collect())
}

fn blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(prop_oneof![Just(b'\r'), Just(b'\n')], 0..6)]
}

fn scalar(nulls: &'static [&'static str]) -> impl Strategy<Value = Reply> {
    prop_oneof![
        line().prop_map(Reply::Simple),
        line().prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Integer),
        (-20i64..20).prop_map(Reply::Integer),
        blob().prop_map(Reply::Bulk),
        proptest::sample::select(nulls).prop_map(Reply::Null),
    ]
}

fn resp2() -> impl Strategy<Value = Reply> {
    scalar(&["$-1\r\n", "*-1\r\n"]).prop_recursive(5, 40, 8, |inner| vec(inner, 0..8).prop_map(Reply::Array))
}

/// What `redis-protocol` can have as a key.
fn key() -> impl Strategy<Value = Reply> {
    prop_oneof![line().prop_map(Reply::Simple), blob().prop_map(Reply::Bulk), any::<i64>().prop_map(Reply::Integer)]
}

fn resp3() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        4 => scalar(&["_\r\n"]),
        1 => any::<bool>().prop_map(Reply::Boolean),
        1 => proptest::sample::select(&["1.5", "-2", "inf", "-inf", "1e300"][..]).prop_map(Reply::Double),
        1 => any::<u64>().prop_map(Reply::BigNumber),
        1 => blob().prop_map(Reply::BlobError),
        1 => blob().prop_map(Reply::Verbatim),
    ];
    leaf.prop_recursive(5, 40, 8, |inner| {
        let entries = || vec((key(), inner.clone()), 0..4);
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Reply::Array),
            vec(key(), 0..8).prop_map(Reply::Set),
            vec(inner.clone(), 0..8).prop_map(Reply::Push),
            entries().prop_map(Reply::Map),
            (entries(), inner.clone()).prop_map(|(attributes, reply)| match reply {
                // Attributes of attributes are legal but `redis-protocol` knows none.
                reply @ (Reply::Attributed(..) | Reply::Null(_)) => reply,
                reply => Reply::Attributed(attributes, Box::new(reply)),
            }),
        ]
    })
}

/// What a decoder says of the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Frame(usize),
    More,
    Refused,
}

fn oracle_resp2(input: &[u8]) -> Verdict {
    match redis_protocol::resp2::decode::decode_range(input) {
        Ok(Some((_, len))) => Verdict::Frame(len),
        Ok(None) => Verdict::More,
        Err(_) => Verdict::Refused,
    }
}

fn oracle_resp3(input: &[u8]) -> Verdict {
    match redis_protocol::resp3::decode::complete::decode_range(input) {
        Ok(Some((_, len))) => Verdict::Frame(len),
        Ok(None) => Verdict::More,
        Err(_) => Verdict::Refused,
    }
}

fn scanned(input: &[u8]) -> Verdict {
    match ReplyScanner::new().next(input) {
        Ok((len, Some(_))) => Verdict::Frame(len),
        Ok((_, None)) => Verdict::More,
        Err(_) => Verdict::Refused,
    }
}

/// Ends and heads of the frames in a stream that comes in these pieces, and whether it turned out to be no replies.
fn replies_in(input: &[u8], pieces: impl IntoIterator<Item = usize>) -> (Vec<(usize, FrameHead)>, bool) {
    let mut scanner = ReplyScanner::new();
    let mut frames = Vec::new();
    let mut from = 0;
    let mut begun = 0;
    for piece in pieces {
        let end = from + piece;
        while from < end {
            let Ok((used, head)) = scanner.next(&input[from..end]) else { return (frames, true) };
            from += used;
            if let Some(head) = head {
                frames.push((from, head));
                begun = from;
            }
            assert_eq!(scanner.frame_seen(), (from - begun) as u64);
            assert_eq!(scanner.is_at_boundary(), from == begun);
            assert!(head.is_some() || from == end, "a frame that has not ended takes all there is");
        }
    }
    (frames, false)
}

/// The commands in a stream that comes in these pieces (each with the place it begins at), and the error that ends them.
fn requests_in(
    input: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) -> (Vec<(usize, RequestFrame)>, Option<ProtocolError>) {
    let mut scanner = RequestScanner::new();
    let mut frames = Vec::new();
    let (mut from, mut end) = (0, 0);
    for piece in pieces {
        end += piece;
        loop {
            match scanner.advance(&input[from..end], &LIMITS) {
                Ok(Some(frame)) => {
                    assert!(scanner.is_at_start());
                    let len = frame.len;
                    frames.push((from, frame));
                    from += len;
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert_eq!(scanner.is_at_start(), from == end);
        assert!(scanner.wants() > 0);
    }
    (frames, None)
}

/// As [`requests_in`], but each piece of an unfinished command is passed on at once: where the commands end.
fn request_ends_passing_on(
    input: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) -> (Vec<(usize, u32)>, Option<ProtocolError>) {
    let mut scanner = RequestScanner::new();
    let mut ends = Vec::new();
    let (mut from, mut end) = (0, 0);
    for piece in pieces {
        end += piece;
        while from < end {
            match scanner.advance(&input[from..end], &LIMITS) {
                Ok(Some(frame)) => {
                    from += frame.len;
                    ends.push((from, frame.args));
                }
                Ok(None) => {
                    scanner.passed_on(end - from);
                    from = end;
                }
                Err(error) => return (ends, Some(error)),
            }
        }
    }
    (ends, None)
}

fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..30), 1..6)
}

/// A command's bytes, its arguments, and whether they are multibulk.
fn command() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<u8>>, bool)> {
    let multibulk = words().prop_map(|words| {
        let mut bytes = Vec::new();
        encode_command(&words, &mut bytes);
        (bytes, words, true)
    });
    let inline = vec("[A-Za-z0-9.:{}-]{1,9}", 1..5).prop_map(|words| {
        let words: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
        ([&words.join(&b' ')[..], b"\r\n"].concat(), words, false)
    });
    let empty = proptest::sample::select(&[("*0\r\n", true), ("*-5\r\n", true), ("\r\n", false), (" \n", false)][..])
        .prop_map(|(text, is_multibulk)| (text.as_bytes().to_vec(), vec![], is_multibulk));
    prop_oneof![6 => multibulk, 2 => inline, 1 => empty]
}

/// Checks a stream of replies against an oracle, whole and cut at every byte.
fn check_replies(replies: &[Reply], oracle: fn(&[u8]) -> Verdict) -> Result<(), TestCaseError> {
    let mut stream = Vec::new();
    let mut ends = Vec::new();
    for reply in replies {
        let from = stream.len();
        reply.encode(&mut stream);
        ends.push(stream.len());
        prop_assert_eq!(oracle(&stream[from..]), Verdict::Frame(stream.len() - from), "the oracle itself");
        let decoded = frame::decode(&stream[from..]);
        prop_assert!(decoded.as_ref().is_ok_and(|decoded| is_same(decoded, reply)), "{:?}", decoded);
    }
    let whole = replies_in(&stream, [stream.len()]);
    prop_assert!(!whole.1);
    prop_assert_eq!(whole.0.iter().map(|(end, _)| *end).collect::<Vec<_>>(), ends.clone());
    for ((_, head), reply) in whole.0.iter().zip(replies) {
        prop_assert_eq!(head.kind, reply.kind());
    }
    prop_assert_eq!(&replies_in(&stream, vec![1; stream.len()]), &whole, "byte by byte");
    for cut in 0..=stream.len() {
        prop_assert_eq!(&replies_in(&stream, [cut, stream.len() - cut]), &whole, "cut at {}", cut);
        let mut scanner = ReplyScanner::new();
        let first = scanner.scan(&stream[..cut], u32::MAX).unwrap();
        let second = scanner.scan(&stream[cut..], u32::MAX).unwrap();
        prop_assert_eq!((first.consumed, second.consumed), (cut, stream.len() - cut));
        prop_assert_eq!((first.frames + second.frames) as usize, replies.len());
        prop_assert!(scanner.is_at_boundary());
    }
    for (count, end) in ends.iter().enumerate() {
        let scan = Scan { consumed: *end, frames: count as u32 + 1 };
        prop_assert_eq!(ReplyScanner::new().scan(&stream, scan.frames), Ok(scan));
    }
    Ok(())
}

proptest! {
    #[test]
    fn resp2_replies_end_where_redis_protocol_says_however_they_are_cut(replies in vec(resp2(), 1..5)) {
        check_replies(&replies, oracle_resp2)?;
    }

    #[test]
    fn resp3_replies_end_where_redis_protocol_says_however_they_are_cut(replies in vec(resp3(), 1..5)) {
        check_replies(&replies, oracle_resp3)?;
    }

    #[test]
    fn commands_end_in_the_same_places_however_they_are_cut(commands in vec(command(), 1..6)) {
        let stream: Vec<u8> = commands.iter().flat_map(|(bytes, ..)| bytes.clone()).collect();
        let whole = requests_in(&stream, [stream.len()]);
        prop_assert_eq!(whole.1, None);
        prop_assert_eq!(whole.0.len(), commands.len());
        let mut ends = Vec::new();
        for ((from, frame), (bytes, words, is_multibulk)) in whole.0.iter().zip(&commands) {
            prop_assert_eq!(frame.len, bytes.len());
            prop_assert_eq!(frame.is_multibulk, *is_multibulk);
            prop_assert_eq!(frame.args == 0, words.is_empty());
            let name = &stream[*from..][frame.name.clone()];
            prop_assert_eq!(name, words.first().map_or(&b""[..], |word| &word[..]));
            if *is_multibulk {
                prop_assert_eq!(frame.args as usize, words.len());
                prop_assert_eq!(args(bytes).map(<[u8]>::to_vec).collect::<Vec<_>>(), words.clone());
            } else {
                prop_assert_eq!(inline::split(bytes), Ok(words.clone()));
            }
            ends.push((from + frame.len, frame.args));
        }
        prop_assert_eq!(&requests_in(&stream, vec![1; stream.len()]), &whole, "byte by byte");
        prop_assert_eq!(&request_ends_passing_on(&stream, vec![1; stream.len()]).0, &ends);
        for cut in 0..=stream.len() {
            prop_assert_eq!(&requests_in(&stream, [cut, stream.len() - cut]), &whole, "cut at {}", cut);
            prop_assert_eq!(&request_ends_passing_on(&stream, [cut, stream.len() - cut]).0, &ends);
        }
    }

    #[test]
    fn any_bytes_are_scanned_decoded_and_split_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (replies_in(&bytes, [bytes.len()]), requests_in(&bytes, [bytes.len()]));
        let _ = (frame::decode(&bytes), inline::split(&bytes), args(&bytes).count());
    }
}

const REPLIES: [&[u8]; 12] = [
    b"+OK\r\n:1\r\n$3\r\nfoo\r\n",
    b"-ERR unknown command 'x', with args beginning with: \r\n+PONG\r\n",
    b"*3\r\n$3\r\nfoo\r\n$-1\r\n:5\r\n*-1\r\n",
    b"$12\r\nab\r\ncd\r\nefgh\r\n$0\r\n\r\n",
    b"*2\r\n*2\r\n:1\r\n*0\r\n*1\r\n*1\r\n$1\r\na\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n+OK\r\n",
    b"|1\r\n+key-popularity\r\n%2\r\n$1\r\na\r\n,0.1923\r\n$1\r\nb\r\n,0.0012\r\n*2\r\n:2039123\r\n:9543892\r\n",
    b"~3\r\n+a\r\n#t\r\n:3\r\n#f\r\n_\r\n,inf\r\n",
    b"=15\r\ntxt:Some string\r\n!21\r\nSYNTAX invalid syntax\r\n",
    b"(3492890328409238509324850943850943825024385\r\n*1\r\n|1\r\n+a\r\n_\r\n:1\r\n",
];

const REQUESTS: [&[u8]; 8] = [
    b"*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nal\r\n",
    b"PING\r\n",
    b"SET k \"quoted \\x41 value\"\r\n",
    b"*0\r\n*-1\r\n\r\n \r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*4\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n$10\r\n0123456789\r\n",
    b"GET 'single'\n",
];

fn stream_of(from: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    (0..1 + dice.below(4)).flat_map(|_| dice.pick(from).to_vec()).collect()
}

/// Where both take the bytes for a frame they agree on its end, and neither asks for more where the other is content.
fn assert_agreement(input: &[u8], oracle: fn(&[u8]) -> Verdict, story: &str) {
    let mut from = 0;
    while from < input.len() {
        let rest = &input[from..];
        match (scanned(rest), oracle(rest)) {
            (Verdict::Frame(ours), Verdict::Frame(theirs)) => {
                assert_eq!(ours, theirs, "{story}: {}", rest.escape_ascii());
                from += ours;
            }
            (Verdict::Refused, _) | (_, Verdict::Refused) | (Verdict::More, Verdict::More) => return,
            // It reads four bytes before it sees that so many cannot be there.
            (Verdict::Frame(_), Verdict::More) if memchr::memchr(b'=', rest).is_some() => return,
            (ours, theirs) => panic!("{story}: {ours:?}, oracle {theirs:?}: {}", rest.escape_ascii()),
        }
    }
}

#[test]
fn mutated_replies_end_where_redis_protocol_says() {
    let (mut dice, seed) = Dice::seeded();
    for round in 0..rounds(50_000) {
        let story = format!("seed {seed}, round {round}");
        let mut input = stream_of(&REPLIES, &mut dice);
        dice.mutate(&mut input);
        assert_agreement(&input, oracle_resp2, &story);
        assert_agreement(&input, oracle_resp3, &story);
        let whole = replies_in(&input, [input.len()]);
        let cuts = dice.cuts(input.len());
        assert_eq!(replies_in(&input, cuts.clone()), whole, "{story}, pieces {cuts:?}: {}", input.escape_ascii());
        assert_eq!(replies_in(&input, vec![1; input.len()]), whole, "{story}: {}", input.escape_ascii());
        assert_scan_agrees(&input, &whole, cuts, &story);
        let mut from = 0;
        for (end, head) in &whole.0 {
            assert_decoded(&input[from..*end], head, &story);
            from = *end;
        }
    }
}

/// The fast path counts what the other one tells.
fn assert_scan_agrees(input: &[u8], whole: &(Vec<(usize, FrameHead)>, bool), cuts: Vec<usize>, story: &str) {
    let mut scanner = ReplyScanner::new();
    let (mut from, mut frames, mut is_refused) = (0, 0, false);
    for piece in cuts {
        match scanner.scan(&input[from..from + piece], u32::MAX) {
            Ok(scan) => frames += scan.frames as usize,
            Err(_) => {
                is_refused = true;
                break;
            }
        }
        from += piece;
    }
    assert_eq!(is_refused, whole.1, "{story}: {}", input.escape_ascii());
    assert!(frames <= whole.0.len() && (is_refused || frames == whole.0.len()), "{story}: {}", input.escape_ascii());
}

/// Whatever the scanner takes for a frame decodes, but for what only a decoder looks at; and the two tell the same of it.
fn assert_decoded(reply: &[u8], head: &FrameHead, story: &str) {
    match frame::decode(reply) {
        Ok(value) => {
            assert_eq!(value.is_null(), head.is_nil, "{story}: {}", reply.escape_ascii());
            let first = value.as_array().and_then(<[_]>::first);
            if let Some(text) =
                value.as_bytes().or(value.as_error()).filter(|_| matches!(head.kind, b'+' | b'-' | b'$'))
            {
                assert_eq!(head.word.as_bytes(), &text[..text.len().min(16)], "{story}: {}", reply.escape_ascii());
            } else if let Some(text) =
                first.and_then(Value::as_bytes).filter(|_| !reply.contains(&b'|') && !reply.contains(&b'='))
            {
                assert_eq!(head.word.as_bytes(), &text[..text.len().min(16)], "{story}: {}", reply.escape_ascii());
            }
            if let Value::Integer(integer) = value {
                assert_eq!(head.last_integer, Some(integer), "{story}: {}", reply.escape_ascii());
            }
        }
        // A verbatim string needs room for its format.
        Err(error) => assert_eq!(error, ReplyError::BadNumber(b'='), "{story}: {}", reply.escape_ascii()),
    }
}

#[test]
fn mutated_requests_are_read_the_same_however_they_are_cut() {
    let (mut dice, seed) = Dice::seeded();
    for round in 0..rounds(50_000) {
        let mut input = stream_of(&REQUESTS, &mut dice);
        dice.mutate(&mut input);
        let whole = requests_in(&input, [input.len()]);
        let cuts = dice.cuts(input.len());
        let story = format!("seed {seed}, round {round}, pieces {cuts:?}: {}", input.escape_ascii());
        assert_eq!(requests_in(&input, cuts.clone()), whole, "{story}");
        assert_eq!(requests_in(&input, vec![1; input.len()]), whole, "{story}");
        let ends: Vec<_> = whole.0.iter().map(|(from, frame)| (from + frame.len, frame.args)).collect();
        assert_eq!(request_ends_passing_on(&input, cuts), (ends, whole.1), "{story}");
        for (from, frame) in &whole.0 {
            let bytes = &input[*from..from + frame.len];
            if frame.is_multibulk {
                let words: Vec<_> = args(bytes).collect();
                assert_eq!(words.len(), frame.args as usize, "{story}");
                assert_eq!(words.first().copied().unwrap_or_default(), &bytes[frame.name.clone()], "{story}");
            } else if let Ok(words) = inline::split(bytes) {
                assert_eq!(words.is_empty(), frame.args == 0, "{story}");
                let name = &bytes[frame.name.clone()];
                assert!(name.is_empty() || *name == words[0][..], "{story}");
            }
        }
    }
}

#[test]
fn a_hundred_thousand_nested_arrays_are_one_frame_however_they_come() {
    let mut input = b"*1\r\n".repeat(100_000);
    input.extend(b"$1\r\na\r\n");
    let mut scanner = ReplyScanner::new();
    let mut frames = 0;
    for piece in input.chunks(4093) {
        frames += scanner.scan(piece, u32::MAX).unwrap().frames;
    }
    assert_eq!(frames, 1);
    assert!(scanner.is_at_boundary());
    assert!(matches!(frame::decode(&input), Err(ReplyError::TooDeep { .. })));
}
