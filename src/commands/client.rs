//! `CLIENT …` as far as Lockgate answers it: it speaks of Lockgate's own clients, but whether it may be asked, and in this form, is the
//! upstream's to judge. So a *stand-in* goes upstream, under the client's identity: the same subcommand, with the same number of
//! arguments or as many as are checked alike, that tells nothing and changes nothing there. What is refused has no effect here either,
//! and the refusal is the reply.

use crate::protocol::args::encode_command;

/// A client's number that no server ever gives out.
const NOBODY: &[u8] = b"9223372036854775807";
/// An address that no client ever has.
const NOWHERE: &[u8] = b"255.255.255.255:0";

/// A `CLIENT` command that Lockgate answers once the upstream has accepted its stand-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCall<'a> {
    /// `ID`
    Id,
    /// `GETNAME`
    GetName,
    /// `INFO`
    Info,
    /// `GETREDIR`
    GetRedir,
    /// `TRACKINGINFO`
    TrackingInfo,
    /// `LIST`, with its filters.
    List(&'a [&'a [u8]]),
    /// `SETNAME`, with a name that servers take.
    SetName(&'a [u8]),
    /// `SETINFO`, with a field and a value that servers take.
    SetInfo(&'a [u8], &'a [u8]),
    /// `CAPA`, with what the client says that it can do.
    Capa(&'a [&'a [u8]]),
    /// `KILL`, with an address alone (the old form) or filters.
    Kill(&'a [&'a [u8]]),
    /// `UNBLOCK`
    Unblock {
        /// Whom.
        id: i64,
        /// `ERROR` instead of a time-out.
        with_error: bool,
    },
    /// `PAUSE`, for so many milliseconds.
    Pause {
        /// For how long.
        ms: u64,
        /// Nothing is answered, not even what only reads.
        is_of_all: bool,
    },
    /// `UNPAUSE`
    Unpause,
}

impl<'a> ClientCall<'a> {
    /// Reads the arguments, the name first. `None` for what the upstream answers in every respect; no such form of a subcommand that is
    /// answered here has an effect, for it is refused.
    pub fn read(args: &'a [&'a [u8]]) -> Option<Self> {
        let rest = args.get(2..)?;
        Some(match (args[1].to_ascii_lowercase().as_slice(), rest) {
            (b"id", []) => ClientCall::Id,
            (b"getname", []) => ClientCall::GetName,
            (b"info", []) => ClientCall::Info,
            (b"getredir", []) => ClientCall::GetRedir,
            (b"trackinginfo", []) => ClientCall::TrackingInfo,
            (b"list", filters) => ClientCall::List(filters),
            (b"setname", [name]) if is_plain_word(name) => ClientCall::SetName(name),
            (b"setinfo", [field, value]) if is_plain_word(value) => ClientCall::SetInfo(field, value),
            (b"capa", [_, ..]) => ClientCall::Capa(rest),
            (b"kill", [_, ..]) => ClientCall::Kill(rest),
            // With a word too many Valkey looks at none of them, and everybody else refuses it.
            (b"unblock", [id, how @ ..]) => {
                let with_error = matches!(how, [how] if how.eq_ignore_ascii_case(b"error"));
                ClientCall::Unblock { id: integer(id)?, with_error }
            }
            (b"pause", [ms, mode @ ..]) => ClientCall::Pause {
                ms: integer(ms).and_then(|ms| u64::try_from(ms).ok())?,
                is_of_all: !mode.first().is_some_and(|mode| mode.eq_ignore_ascii_case(b"write")),
            },
            (b"unpause", []) => ClientCall::Unpause,
            _ => return None,
        })
    }

    /// What goes upstream in the place of the command with these arguments.
    pub fn stand_in(&self, args: &[&[u8]]) -> Vec<u8> {
        let mut words = args.to_vec();
        match self {
            // As they are they change nothing, or are to be carried out upstream as well.
            ClientCall::Id | ClientCall::GetName | ClientCall::Info | ClientCall::GetRedir => {}
            ClientCall::TrackingInfo | ClientCall::Pause { .. } | ClientCall::Unpause => {}
            ClientCall::List([]) => words.extend([&b"ID"[..], NOBODY]),
            ClientCall::List(_) => {}
            ClientCall::SetName(_) => words[2] = b"",
            ClientCall::SetInfo(..) => words[3] = b"",
            // Capabilities that nobody has heard of are taken, and forgotten.
            ClientCall::Capa(_) => words.splice(2.., [&b"lockgate"[..]]).for_each(drop),
            ClientCall::Kill([_]) => words[2] = NOWHERE,
            // Behind the last filter, so that none of theirs counts in its place; but a filter that has no value must not get this one.
            ClientCall::Kill(filters) if ends_without_value(filters) => {
                words.splice(2..2, [&b"LADDR"[..], NOWHERE]).for_each(drop);
            }
            ClientCall::Kill(_) => words.extend([&b"LADDR"[..], NOWHERE]),
            ClientCall::Unblock { .. } => words[2] = NOBODY,
        }
        let mut out = Vec::new();
        encode_command(&words, &mut out);
        out
    }

    /// Whether `reply` to the stand-in lets the command be carried out; else it is the answer.
    pub fn is_accepted(&self, reply: &[u8]) -> bool {
        match self {
            // Nobody has the address that was asked for.
            ClientCall::Kill([_]) => reply.starts_with(b"-ERR No such client"),
            _ => !matches!(reply.first(), None | Some(b'-' | b'!')),
        }
    }
}

/// The last filter is named and has no value. Behind `ID` and its number there may be more of them.
fn ends_without_value(filters: &[&[u8]]) -> bool {
    let mut rest = filters;
    while let [word, _, behind @ ..] = rest {
        let is_id = word.eq_ignore_ascii_case(b"id") || word.eq_ignore_ascii_case(b"not-id");
        let more = behind.iter().take_while(|word| is_id && integer(word).is_some()).count();
        rest = &behind[more..];
    }
    !rest.is_empty()
}

/// Longest name or value of a client that is kept, in bytes; of a longer one the beginning.
const NAME_KEPT: usize = 4 << 10;

/// What is kept of a client's name.
pub fn kept_name(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_KEPT)]
}

/// What servers take for a name or a value: printable ASCII without blanks, or nothing.
pub fn is_plain_word(word: &[u8]) -> bool {
    word.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// An integer in the one spelling that Redis takes.
pub fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::args::args;

    fn stand_in(line: &str) -> Option<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let sent = ClientCall::read(&words)?.stand_in(&words);
        Some(args(&sent).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_goes_upstream_touches_nobody_there() {
        for (line, sent) in [
            ("CLIENT ID", "CLIENT ID"),
            ("client Kill 1.2.3.4:5", "client Kill 255.255.255.255:0"),
            ("CLIENT KILL ID 5", "CLIENT KILL ID 5 LADDR 255.255.255.255:0"),
            ("CLIENT KILL LADDR a:1 SKIPME no", "CLIENT KILL LADDR a:1 SKIPME no LADDR 255.255.255.255:0"),
            ("CLIENT KILL TYPE normal ID", "CLIENT KILL LADDR 255.255.255.255:0 TYPE normal ID"),
            ("CLIENT KILL ID 5 6 user", "CLIENT KILL LADDR 255.255.255.255:0 ID 5 6 user"),
            ("CLIENT KILL ID 5 6 7", "CLIENT KILL ID 5 6 7 LADDR 255.255.255.255:0"),
            ("CLIENT UNBLOCK 5 error", "CLIENT UNBLOCK 9223372036854775807 error"),
            ("CLIENT UNBLOCK 5 error x", "CLIENT UNBLOCK 9223372036854775807 error x"),
            ("CLIENT SETNAME bob", "CLIENT SETNAME "),
            ("CLIENT SETINFO lib-name x", "CLIENT SETINFO lib-name "),
            ("CLIENT CAPA redirect more", "CLIENT CAPA lockgate"),
            ("CLIENT LIST", "CLIENT LIST ID 9223372036854775807"),
            ("CLIENT LIST TYPE normal", "CLIENT LIST TYPE normal"),
            ("CLIENT PAUSE 5 WRITE", "CLIENT PAUSE 5 WRITE"),
        ] {
            assert_eq!(stand_in(line).as_deref(), Some(sent), "{line}");
        }
    }

    #[test]
    fn what_the_upstream_will_refuse_goes_there_as_it_is() {
        for line in [
            "CLIENT",
            "CLIENT NOSUCH",
            "CLIENT ID x",
            "CLIENT SETNAME a\nb",
            "CLIENT SETNAME",
            "CLIENT KILL",
            "CLIENT UNBLOCK +5",
            "CLIENT UNBLOCK 05",
            "CLIENT UNBLOCK x",
            "CLIENT PAUSE x",
            "CLIENT PAUSE -1",
            "CLIENT UNPAUSE 1",
            "CLIENT CAPA",
        ] {
            assert_eq!(stand_in(line), None, "{line}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_nobody_found() {
        let old = [&b"CLIENT"[..], b"KILL", b"1.2.3.4:5"];
        let old = ClientCall::read(&old).expect("well formed");
        assert!(old.is_accepted(b"-ERR No such client\r\n"));
        assert!(!old.is_accepted(b"-NOPERM this user\r\n"));
        let new = [&b"CLIENT"[..], b"KILL", b"ID", b"5"];
        let new = ClientCall::read(&new).expect("well formed");
        assert!(new.is_accepted(b":0\r\n"));
        assert!(!new.is_accepted(b"-ERR syntax error\r\n"));
    }
}
