//! The words in which a command's treatment is told.

/// How a session treats a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Treatment {
    /// Leaves nothing on the connection and gives exactly one reply at once: shares a pipelined link.
    Share,
    /// As [`Treatment::Share`], on links that carry scripts only: one that does not end holds up all that was sent behind it.
    Script,
    /// The arguments decide: ask [`resolve`](super::resolve).
    Look(Look),
    /// Needs an upstream link of its own, and why.
    Own(Why),
    /// Lockgate answers it itself.
    Here(Here),
    /// `POST` and `Host:`: Redis takes them for an HTTP request forged by a browser and closes the connection at
    /// once, without an answer.
    Hang,
}

/// Why a session is on an upstream link of its own. The names are the labels of the metric `sessions_own_link`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// Between `MULTI` and `EXEC` or `DISCARD`.
    Transaction,
    /// Keys are watched.
    Watch,
    /// Channels are subscribed to.
    Subscribe,
    /// The answer may take its time, and would hold up everybody else on the link.
    Blocking,
    /// `MONITOR` turns the connection into a stream.
    Monitor,
    /// `CLIENT TRACKING` is on: the upstream remembers for this connection which keys were read.
    Tracking,
    /// `CLIENT REPLY OFF` or `SKIP`: replies no longer match commands.
    ReplyMode,
    /// A flag of the connection that shared links do not have: `CLIENT NO-EVICT`, `READONLY`, `ASKING`, `SCRIPT DEBUG`.
    ClientFlags,
    /// `WAIT` asks about the writes of its own connection.
    Wait,
    /// `SYNC`, `PSYNC`, `REPLCONF`: the connection becomes a replication stream.
    Replication,
    /// `SCRIPT KILL`, `FUNCTION KILL` and `SHUTDOWN` must pass by the running script, which holds up its own link.
    Kill,
    /// Closes connections, stalls the server or waits for replicas: kept away from the links of others.
    Admin,
    /// A module's command may answer from a thread of its own, whenever that is done.
    Module,
    /// Not known well enough to be shared.
    Unknown,
    /// The request is so large that it would hold up everybody else on the link.
    BigRequest,
    /// The reply is so large that it would hold up everybody else on the link.
    BigReply,
    /// The client reads its replies more slowly than they come.
    SlowReader,
}

impl Why {
    /// Every reason, in the order of [`Why::index`].
    pub const ALL: [Why; 17] = [
        Why::Transaction,
        Why::Watch,
        Why::Subscribe,
        Why::Blocking,
        Why::Monitor,
        Why::Tracking,
        Why::ReplyMode,
        Why::ClientFlags,
        Why::Wait,
        Why::Replication,
        Why::Kill,
        Why::Admin,
        Why::Module,
        Why::Unknown,
        Why::BigRequest,
        Why::BigReply,
        Why::SlowReader,
    ];

    /// The reason as a metric label.
    pub const fn name(&self) -> &'static str {
        match self {
            Why::Transaction => "transaction",
            Why::Watch => "watch",
            Why::Subscribe => "subscribe",
            Why::Blocking => "blocking",
            Why::Monitor => "monitor",
            Why::Tracking => "tracking",
            Why::ReplyMode => "reply_mode",
            Why::ClientFlags => "client_flags",
            Why::Wait => "wait",
            Why::Replication => "replication",
            Why::Kill => "kill",
            Why::Admin => "admin",
            Why::Module => "module",
            Why::Unknown => "unknown",
            Why::BigRequest => "big_request",
            Why::BigReply => "big_reply",
            Why::SlowReader => "slow_reader",
        }
    }

    /// The reason's place in [`Why::ALL`], for counters kept in an array.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The commands that Lockgate answers itself, because they speak of the client's connection and not of an upstream one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Here {
    /// `HELLO`
    Hello,
    /// `AUTH`
    Auth,
    /// `SELECT`
    Select,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `CLIENT` with any subcommand.
    Client,
    /// `COMMAND` with any subcommand.
    Command,
    /// Any `LOCK.*` command.
    Lock,
    /// `PUBLISH` and `SPUBLISH` where only Lockgate publishes: refused.
    OwnChannel,
}

/// Whose arguments decide. A word for each family that [`resolve`](super::resolve) can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// `XREAD` and `XREADGROUP`: blocking with `BLOCK`.
    StreamRead,
    /// `SCRIPT`: `KILL` and `DEBUG` are special.
    Script,
    /// `FUNCTION`: `KILL` is special.
    Function,
    /// `FLUSHALL`, `FLUSHDB`: newer servers free the memory in a thread and answer when that is done, but for `ASYNC`.
    Flush,
    /// `CLUSTER`: what only looks is shared.
    Cluster,
    /// `MODULE`: what only looks is shared.
    Module,
    /// `SET`: with `NX`, on a lock key, it queues.
    Set,
    /// `SETNX`: on a lock key it queues.
    SetNx,
    /// `PUBLISH`, `SPUBLISH`: Lockgate's own channels are nobody else's to publish on.
    Publish,
    /// `EVAL`, `EVALSHA` of a library's acquire script: on a lock key it queues.
    LockScript,
}

/// What a command does to the state of the connection that runs it, for the session's bookkeeping on an own link.
///
/// Unless said otherwise an effect takes place only if the reply is no error, and inside of a transaction when `EXEC`
/// runs the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Leaves the connection as it was.
    None,
    /// Opens a transaction.
    Multi,
    /// Ends the transaction and the watches, also when its reply is `EXECABORT` or nil. Outside of a transaction: an
    /// error, and nothing ends.
    Exec,
    /// Ends the transaction and the watches. Outside of a transaction: an error, and nothing ends.
    Discard,
    /// Keys are watched.
    Watch,
    /// No key is watched any more.
    Unwatch,
    /// One acknowledgement for each channel named, with the number of subscriptions in it.
    Subscribe(Channel),
    /// One acknowledgement for each channel named; without arguments one for each that was subscribed to, but at
    /// least one. The number of remaining subscriptions is in it.
    Unsubscribe(Channel),
    /// From here on a line for every command the server runs, until `RESET`.
    Monitor,
    /// `SYNC`, `PSYNC`, `REPLCONF` and the script debugger: bytes are raw from here on, whatever the reply.
    Replication,
    /// Asks about the writes that this connection made before.
    Wait,
    /// A flag that stays until `RESET`: the session keeps the own link.
    Flag,
    /// Lasting or unknown state, which `RESET` does not end: the session keeps the own link, and nobody gets it after that.
    Sticky,
    /// `CLIENT REPLY ON`: replies again, this one included.
    ReplyOn,
    /// `CLIENT REPLY OFF`: no replies from here on, this one included.
    ReplyOff,
    /// `CLIENT REPLY SKIP`: neither this command nor the next one is answered.
    ReplySkip,
    /// The upstream notes what is read, and sends invalidations.
    TrackingOn,
    /// The upstream forgets what was read.
    TrackingOff,
}

/// A kind of channel; each has a table of subscriptions of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    /// `SUBSCRIBE`
    Plain,
    /// `PSUBSCRIBE`
    Pattern,
    /// `SSUBSCRIBE`
    Shard,
}
