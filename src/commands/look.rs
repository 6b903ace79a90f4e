//! Commands whose arguments decide how they are treated.

use super::treatment::{Effect, Here, Look, Treatment, Why};

/// Channels that begin so are Lockgate's own.
const OWN_CHANNELS: &[u8] = b"lockgate:";

const SHARE: (Treatment, Effect) = (Treatment::Share, Effect::None);

const fn own(why: Why) -> (Treatment, Effect) {
    (Treatment::Own(why), Effect::None)
}

/// Settles `look` for a whole argument list, the command's name included. What it does not understand takes an own
/// link: that is only slower.
pub fn resolve(look: Look, args: &[&[u8]]) -> (Treatment, Effect) {
    match look {
        Look::StreamRead if has_block(args) => own(Why::Blocking),
        Look::StreamRead => SHARE,
        Look::Script => script(args),
        Look::Function if subcommand_is(args, &["kill"]) => own(Why::Kill),
        Look::Function => SHARE,
        Look::Flush if args.last().is_some_and(|last| last.eq_ignore_ascii_case(b"async")) => SHARE,
        Look::Flush => own(Why::Blocking),
        Look::Cluster => cluster(args),
        // For who knows no rules. Sessions ask theirs first.
        Look::Set | Look::SetNx => SHARE,
        Look::Publish if args.get(1).is_some_and(|channel| is_own_channel(channel)) => {
            (Treatment::Here(Here::OwnChannel), Effect::None)
        }
        Look::Publish => SHARE,
        Look::Module if subcommand_is(args, &["list", "help"]) => SHARE,
        // Whatever it stands for, it is a script.
        Look::LockScript => (Treatment::Script, Effect::None),
        Look::Module => own(Why::Admin),
    }
}

/// Whether only Lockgate publishes there.
pub fn is_own_channel(channel: &[u8]) -> bool {
    channel.starts_with(OWN_CHANNELS)
}

/// What `CLIENT …` does to the connection that runs it, for sessions that pass it to an own link.
pub fn client_effect(args: &[&[u8]]) -> Effect {
    let word = |at: usize, word: &str| args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    if word(1, "reply") {
        return match args.get(2).map(|mode| mode.to_ascii_lowercase()).as_deref() {
            Some(b"on") => Effect::ReplyOn,
            Some(b"off") => Effect::ReplyOff,
            Some(b"skip") => Effect::ReplySkip,
            _ => Effect::None,
        };
    }
    if word(1, "tracking") {
        return if word(2, "off") { Effect::TrackingOff } else { Effect::TrackingOn };
    }
    if word(1, "caching") {
        return Effect::Flag;
    }
    let lasting = ["no-evict", "no-touch", "capa", "import-source"];
    if subcommand_is(args, &lasting) { Effect::Sticky } else { Effect::None }
}

fn script(args: &[&[u8]]) -> (Treatment, Effect) {
    if subcommand_is(args, &["kill"]) {
        own(Why::Kill)
    } else if subcommand_is(args, &["debug"]) && args.get(2).is_some_and(|mode| mode.eq_ignore_ascii_case(b"no")) {
        own(Why::ClientFlags)
    } else if subcommand_is(args, &["debug"]) {
        // The next EVAL on this connection talks the debugger's own protocol.
        (Treatment::Own(Why::ClientFlags), Effect::Replication)
    } else {
        SHARE
    }
}

/// `CLUSTER` subcommands that only look. Of the others some wait for replicas (`SETSLOT` on Valkey) and one becomes a
/// replication stream (`SYNCSLOTS`).
const CLUSTER_LOOKS: [&str; 16] = [
    "count-failure-reports",
    "countkeysinslot",
    "getkeysinslot",
    "getslotmigrations",
    "help",
    "info",
    "keyslot",
    "links",
    "myid",
    "myshardid",
    "nodes",
    "replicas",
    "shards",
    "slaves",
    "slot-stats",
    "slots",
];

fn cluster(args: &[&[u8]]) -> (Treatment, Effect) {
    if subcommand_is(args, &["syncslots"]) {
        (Treatment::Own(Why::Replication), Effect::Replication)
    } else if subcommand_is(args, &CLUSTER_LOOKS) {
        SHARE
    } else {
        own(Why::Admin)
    }
}

fn subcommand_is(args: &[&[u8]], names: &[&str]) -> bool {
    args.get(1).is_some_and(|arg| names.iter().any(|name| arg.eq_ignore_ascii_case(name.as_bytes())))
}

/// `true` if `BLOCK` is among the options of an `XREAD` or `XREADGROUP`. A group or consumer may bear that name.
fn has_block(args: &[&[u8]]) -> bool {
    let mut rest = args.get(1..).unwrap_or_default();
    while let Some(word) = rest.first() {
        let taken = match word.to_ascii_lowercase().as_slice() {
            b"block" => return true,
            b"streams" => return false,
            b"group" => 3,
            b"count" | b"claim" => 2,
            _ => 1,
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn treated(look: Look, line: &str) -> Treatment {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        resolve(look, &args).0
    }

    #[test]
    fn a_stream_read_takes_an_own_link_only_when_it_may_block() {
        let blocking = Treatment::Own(Why::Blocking);
        assert_eq!(treated(Look::StreamRead, "XREAD COUNT 2 STREAMS s 0"), Treatment::Share);
        assert_eq!(treated(Look::StreamRead, "XREAD STREAMS block 0"), Treatment::Share);
        assert_eq!(treated(Look::StreamRead, "XREADGROUP GROUP block block STREAMS s >"), Treatment::Share);
        assert_eq!(treated(Look::StreamRead, "XREAD Count 2 bLOCK 0 STREAMS s $"), blocking);
        assert_eq!(treated(Look::StreamRead, "XREADGROUP GROUP g c NOACK BLOCK 5 STREAMS s >"), blocking);
        assert_eq!(treated(Look::StreamRead, "XREADGROUP GROUP g c CLAIM 9 BLOCK 5 STREAMS s >"), blocking);
        assert_eq!(treated(Look::StreamRead, "XREAD"), Treatment::Share);
    }

    #[test]
    fn killing_a_script_does_not_queue_behind_it() {
        assert_eq!(treated(Look::Script, "script kill"), Treatment::Own(Why::Kill));
        assert_eq!(treated(Look::Function, "FUNCTION KILL"), Treatment::Own(Why::Kill));
        assert_eq!(treated(Look::Script, "SCRIPT LOAD x"), Treatment::Share);
        assert_eq!(treated(Look::Function, "FUNCTION LIST"), Treatment::Share);
    }

    #[test]
    fn the_script_debugger_makes_the_connection_raw() {
        assert_eq!(
            resolve(Look::Script, &[b"SCRIPT", b"DEBUG", b"YES"]),
            (Treatment::Own(Why::ClientFlags), Effect::Replication)
        );
    }

    #[test]
    fn a_flush_that_frees_before_it_answers_does_not_hold_up_others() {
        assert_eq!(treated(Look::Flush, "FLUSHALL ASYNC"), Treatment::Share);
        assert_eq!(treated(Look::Flush, "FLUSHALL"), Treatment::Own(Why::Blocking));
        assert_eq!(treated(Look::Flush, "FLUSHDB SYNC"), Treatment::Own(Why::Blocking));
    }

    #[test]
    fn what_only_looks_at_the_cluster_is_shared() {
        assert_eq!(treated(Look::Cluster, "CLUSTER SLOTS"), Treatment::Share);
        assert_eq!(treated(Look::Cluster, "CLUSTER SETSLOT 1 STABLE"), Treatment::Own(Why::Admin));
        assert_eq!(treated(Look::Cluster, "CLUSTER SYNCSLOTS X"), Treatment::Own(Why::Replication));
        assert_eq!(treated(Look::Cluster, "CLUSTER"), Treatment::Own(Why::Admin));
        assert_eq!(treated(Look::Module, "MODULE LIST"), Treatment::Share);
        assert_eq!(treated(Look::Module, "MODULE LOAD x"), Treatment::Own(Why::Admin));
    }

    #[test]
    fn lockgates_own_channels_are_nobody_elses_to_publish_on() {
        let refused = Treatment::Here(Here::OwnChannel);
        for line in ["PUBLISH lockgate:nodes x", "SPUBLISH lockgate: x", "PUBLISH lockgate:events x"] {
            assert_eq!(treated(Look::Publish, line), refused, "{line}");
        }
        for line in ["PUBLISH lockgate x", "PUBLISH a:lockgate: lockgate:", "PUBLISH Lockgate:nodes x", "PUBLISH"] {
            assert_eq!(treated(Look::Publish, line), Treatment::Share, "{line}");
        }
    }

    #[test]
    fn client_subcommands_tell_what_they_leave_behind() {
        assert_eq!(client_effect(&[b"CLIENT", b"REPLY", b"skip"]), Effect::ReplySkip);
        assert_eq!(client_effect(&[b"CLIENT", b"TRACKING", b"on"]), Effect::TrackingOn);
        assert_eq!(client_effect(&[b"CLIENT", b"TRACKING", b"OFF"]), Effect::TrackingOff);
        assert_eq!(client_effect(&[b"CLIENT", b"NO-EVICT", b"on"]), Effect::Sticky);
        assert_eq!(client_effect(&[b"CLIENT", b"ID"]), Effect::None);
        assert_eq!(client_effect(&[b"CLIENT"]), Effect::None);
    }
}
