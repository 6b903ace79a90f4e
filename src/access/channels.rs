//! Which arguments of a command are channels.

/// What a command does with channels. Leaving one needs no right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Channels {
    /// The first argument, published to.
    Published,
    /// All arguments, each the name of a channel.
    Subscribed,
    /// All arguments, each a pattern, and compared as it stands: what it would match is not looked at.
    Patterns,
}

impl Channels {
    /// Those of the command of this name, in lower case.
    pub fn of(name: &str) -> Option<Channels> {
        match name {
            "publish" | "spublish" => Some(Channels::Published),
            "subscribe" | "ssubscribe" => Some(Channels::Subscribed),
            "psubscribe" => Some(Channels::Patterns),
            _ => None,
        }
    }

    /// The places of the channels among so many arguments.
    pub fn places(self, args: usize) -> std::ops::Range<usize> {
        match self {
            Channels::Published => 1..args.min(2),
            Channels::Subscribed | Channels::Patterns => 1..args,
        }
    }
}
