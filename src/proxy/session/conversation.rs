//! What a session's own upstream link owes, frame by frame, and which state the commands sent on it have left there.
//! Pure: bytes stay outside.

use std::collections::{HashSet, VecDeque};

use crate::commands::{Channel, Effect};
use crate::protocol::reply::FrameHead;

/// What becomes of a frame that the upstream sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// On to the client.
    Pass,
    /// Lockgate asked for it itself: collect it.
    Capture,
    /// The client gets another text in its place.
    Replace,
}

/// Replies expected, in order.
#[derive(Clone, Debug)]
enum Expected {
    Plain(u64),
    /// Acknowledgements of (un)subscribed channels; an error stands for all of them.
    Acks(u64),
    /// The same for SUBSCRIBE, with what it added: a refused one added nothing.
    Subscribed(u64, Channel, Box<[Box<[u8]>]>),
    Multi,
    /// Lasting state unless the upstream does not know the command at all.
    Unknown,
    Monitor,
    /// Ends a transaction in which the connection's own state may have changed.
    ExecLasting,
    /// Ends a transaction in which database or protocol may have changed.
    ExecKey,
    Capture,
    Replace(Box<[u8]>),
}

/// How replies are switched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Replies {
    #[default]
    On,
    Off,
    /// The next command gets none.
    SkipNext,
}

/// Whether replies can be told from the rest of what the upstream sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stream {
    /// They can.
    #[default]
    Counted,
    /// `MONITOR`, or a state that came about inside a transaction: frames pass uncounted.
    Uncounted,
    /// Replication: not even frames.
    Opaque,
}

/// The bookkeeping of one own link.
#[derive(Default)]
pub struct Conversation {
    owed: VecDeque<Expected>,
    stream: Stream,
    is_multi: bool,
    /// Commands queued in the transaction.
    queued: u32,
    /// Something queued will change the connection's own state.
    has_queued_lasting: bool,
    has_queued_key: bool,
    needs_resync: bool,
    is_watching: bool,
    is_tracking: bool,
    is_sticky: bool,
    replies: Replies,
    has_switched_replies: bool,
    subscribed: [HashSet<Box<[u8]>>; 3],
    /// Channels and patterns, as the upstream last counted them.
    confirmed: u64,
    confirmed_shard: u64,
    is_blocking: bool,
    has_waited: bool,
}

impl Conversation {
    /// Nothing is owed.
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// The link is as new: any other session could have it.
    pub fn is_default(&self) -> bool {
        self.owed.is_empty()
            && self.stream == Stream::Counted
            && !(self.needs_resync
                || self.is_multi
                || self.is_watching
                || self.is_tracking
                || self.is_sticky
                || self.has_switched_replies)
            && !self.is_subscribed()
            && self.subscribed.iter().all(HashSet::is_empty)
    }

    /// Between MULTI and EXEC.
    pub fn is_multi(&self) -> bool {
        self.is_multi
    }

    /// Commands queued between MULTI and EXEC.
    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// Keys are watched.
    pub fn is_watching(&self) -> bool {
        self.is_watching
    }

    /// The upstream tracks what is read.
    pub fn is_tracking(&self) -> bool {
        self.is_tracking
    }

    /// Channels are subscribed to: under RESP2 few commands are allowed then.
    pub fn is_subscribed(&self) -> bool {
        self.confirmed + self.confirmed_shard > 0
    }

    /// Channels, patterns and shard channels asked for.
    pub fn subscriptions(&self) -> [usize; 3] {
        [self.subscribed[0].len(), self.subscribed[1].len(), self.subscribed[2].len()]
    }

    /// A blocking command has not been answered.
    pub fn is_blocking(&self) -> bool {
        self.is_blocking && !self.owed.is_empty()
    }

    /// Whether replies can be counted.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// What follows must wait for the replies that are owed: they decide how it is to be read.
    pub fn must_settle(&self) -> bool {
        matches!(self.owed.back(), Some(Expected::Monitor | Expected::ExecLasting | Expected::ExecKey))
            || self.needs_resync
    }

    /// The command at hand gets no reply.
    pub fn is_silent(&self) -> bool {
        self.replies != Replies::On
    }

    /// The command at hand is the one that `CLIENT REPLY SKIP` silences.
    pub fn is_skipping(&self) -> bool {
        self.replies == Replies::SkipNext
    }

    /// Whether Lockgate's own answer to the command at hand is to be given; uses up a `CLIENT REPLY SKIP`.
    pub fn may_answer(&mut self) -> bool {
        match self.replies {
            Replies::On => true,
            Replies::Off => false,
            Replies::SkipNext => {
                self.replies = Replies::On;
                false
            }
        }
    }

    /// The first `WAIT` on this link asks about writes that went over a shared one.
    pub fn is_first_wait(&mut self) -> bool {
        !std::mem::replace(&mut self.has_waited, true)
    }

    /// The client wrote over another link: the next `WAIT` on this one has to cover that, too.
    pub fn wrote_elsewhere(&mut self) {
        self.has_waited = false;
    }

    /// The client's command went out: `args` are its arguments after the name where the effect asks for them.
    pub fn sent(&mut self, effect: Effect, is_blocking: bool, args: &[&[u8]]) {
        if self.stream != Stream::Counted {
            return;
        }
        if self.is_multi {
            return self.sent_in_transaction(effect);
        }
        self.is_blocking |= is_blocking;
        match effect {
            Effect::ReplyOff | Effect::ReplySkip => {
                self.has_switched_replies = true;
                self.replies = match (effect, self.replies) {
                    (Effect::ReplyOff, _) | (_, Replies::Off) => Replies::Off,
                    _ => Replies::SkipNext,
                };
                return;
            }
            Effect::ReplyOn => self.replies = Replies::On,
            Effect::Multi => {
                self.is_multi = true;
                self.queued = 0;
            }
            Effect::Watch => self.is_watching = true,
            Effect::Unwatch => self.is_watching = false,
            Effect::Sticky | Effect::Wait => self.is_sticky = true,
            Effect::TrackingOn => self.is_tracking = true,
            Effect::TrackingOff => self.is_tracking = false,
            Effect::Replication => self.stream = Stream::Opaque,
            Effect::Subscribe(_) | Effect::Unsubscribe(_) | Effect::Monitor => {}
            Effect::Exec | Effect::Discard | Effect::None => {}
        }
        match self.replies {
            Replies::On => {}
            Replies::Off => return self.count_channels(effect, args),
            Replies::SkipNext => {
                self.replies = Replies::On;
                return self.count_channels(effect, args);
            }
        }
        match effect {
            Effect::Multi => self.owed.push_back(Expected::Multi),
            Effect::Monitor => self.owed.push_back(Expected::Monitor),
            Effect::Subscribe(_) | Effect::Unsubscribe(_) => {
                let acks = self.acks(effect, args);
                let expected = match effect {
                    Effect::Subscribe(channel) => {
                        let known = &self.subscribed[channel as usize];
                        let new = args.iter().filter(|name| !known.contains(**name)).map(|name| Box::from(*name));
                        Expected::Subscribed(acks, channel, new.collect())
                    }
                    _ => Expected::Acks(acks),
                };
                self.count_channels(effect, args);
                self.owed.push_back(expected);
            }
            _ => self.expect_plain(),
        }
    }

    /// A command that the table does not know went out.
    pub fn sent_unknown(&mut self) {
        if self.stream != Stream::Counted {
            return;
        }
        if self.is_multi {
            return self.sent_in_transaction(Effect::None);
        }
        if self.may_answer() {
            self.owed.push_back(Expected::Unknown);
        } else {
            self.is_sticky = true;
        }
    }

    fn sent_in_transaction(&mut self, effect: Effect) {
        match effect {
            Effect::Exec | Effect::Discard => {
                self.is_multi = false;
                self.is_watching = false;
                let is_lasting = std::mem::take(&mut self.has_queued_lasting);
                let changes_key = std::mem::take(&mut self.has_queued_key);
                if effect == Effect::Exec && is_lasting && self.replies != Replies::On {
                    // Without a reply to go by, nothing that follows can be counted.
                    self.stream = Stream::Uncounted;
                    return;
                }
                if effect == Effect::Exec && (is_lasting || changes_key) && self.replies == Replies::On {
                    let end = if is_lasting { Expected::ExecLasting } else { Expected::ExecKey };
                    return self.owed.push_back(end);
                }
            }
            Effect::None | Effect::Multi | Effect::Watch | Effect::Unwatch | Effect::Wait => self.queued += 1,
            _ => {
                self.queued += 1;
                self.has_queued_lasting = true;
            }
        }
        if self.may_answer() {
            self.expect_plain();
        }
    }

    /// SELECT, HELLO or AUTH is about to be queued in the transaction.
    pub fn will_change_key(&mut self) {
        self.has_queued_key = self.is_multi;
    }

    /// Whether the upstream must be asked for database and protocol; told once.
    pub fn take_resync(&mut self) -> bool {
        self.owed.is_empty() && std::mem::take(&mut self.needs_resync)
    }

    /// Lockgate's own command went out; its reply is collected.
    pub fn sent_own(&mut self) {
        self.owed.push_back(Expected::Capture);
    }

    /// The command went out only to make the upstream refuse it; the client gets `text` for the reply.
    pub fn sent_replaced(&mut self, text: Vec<u8>) {
        self.owed.push_back(Expected::Replace(text.into()));
    }

    fn expect_plain(&mut self) {
        match self.owed.back_mut() {
            Some(Expected::Plain(n)) => *n += 1,
            _ => self.owed.push_back(Expected::Plain(1)),
        }
    }

    fn acks(&self, effect: Effect, args: &[&[u8]]) -> u64 {
        match effect {
            Effect::Unsubscribe(channel) if args.is_empty() => self.subscribed[channel as usize].len().max(1) as u64,
            _ => args.len().max(1) as u64,
        }
    }

    fn count_channels(&mut self, effect: Effect, args: &[&[u8]]) {
        match effect {
            Effect::Subscribe(channel) => {
                self.subscribed[channel as usize].extend(args.iter().map(|name| Box::from(*name)));
            }
            Effect::Unsubscribe(channel) if args.is_empty() => self.subscribed[channel as usize].clear(),
            Effect::Unsubscribe(channel) => {
                for name in args {
                    self.subscribed[channel as usize].remove(*name);
                }
            }
            _ => {}
        }
    }

    /// What becomes of the frame that begins with `kind`, as long as no more of it is known.
    pub fn fate(&self, kind: u8) -> Fate {
        if kind == b'>' {
            return Fate::Pass;
        }
        match self.owed.front() {
            Some(Expected::Capture) => Fate::Capture,
            Some(Expected::Replace(_)) => Fate::Replace,
            _ => Fate::Pass,
        }
    }

    /// Every frame can only be the reply to a command: they need no look.
    pub fn plain_ahead(&self) -> u32 {
        match self.owed.front() {
            Some(Expected::Plain(n))
                if self.stream == Stream::Counted && self.confirmed + self.confirmed_shard == 0 =>
            {
                u32::try_from(*n).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    /// `n` of the [`Conversation::plain_ahead`] have come.
    pub fn came_plain(&mut self, n: u32) {
        if let Some(Expected::Plain(left)) = self.owed.front_mut() {
            *left -= u64::from(n);
            if *left == 0 {
                self.owed.pop_front();
            }
        }
        self.note_settled();
    }

    /// A whole frame has come; returns the text that replaces it, if one does.
    pub fn came(&mut self, head: &FrameHead) -> Option<Box<[u8]>> {
        if self.stream != Stream::Counted {
            return None;
        }
        let word = head.word.as_bytes();
        let ack = ack_of(word).filter(|_| matches!(head.kind, b'>' | b'*'));
        let awaits_acks = matches!(self.owed.front(), Some(Expected::Acks(_) | Expected::Subscribed(..)));
        if let Some(channel) = ack
            && (head.kind == b'>' || awaits_acks)
        {
            let count = u64::try_from(head.last_integer.unwrap_or(0)).unwrap_or(0);
            match channel {
                Channel::Shard => self.confirmed_shard = count,
                Channel::Plain | Channel::Pattern => self.confirmed = count,
            }
            if let Some(Expected::Acks(left) | Expected::Subscribed(left, ..)) = self.owed.front_mut() {
                *left -= 1;
                if *left == 0 {
                    self.owed.pop_front();
                }
            }
            self.note_settled();
            return None;
        }
        let is_message = head.kind == b'>' || (head.kind == b'*' && self.is_subscribed() && is_message(word));
        if is_message {
            return None;
        }
        let is_error = matches!(head.kind, b'-' | b'!');
        let mut replacement = None;
        match self.owed.pop_front() {
            Some(Expected::Plain(n)) if n > 1 => self.owed.push_front(Expected::Plain(n - 1)),
            Some(Expected::Acks(n)) if !is_error && n > 1 => self.owed.push_front(Expected::Acks(n - 1)),
            Some(Expected::Subscribed(_, channel, names)) => {
                for name in names {
                    self.subscribed[channel as usize].remove(&name);
                }
            }
            Some(Expected::Multi) if is_error => self.is_multi = false,
            Some(Expected::Unknown) if !(is_error && word.starts_with(b"ERR unknown comm")) => self.is_sticky = true,
            Some(Expected::Monitor | Expected::ExecLasting) if !is_error => {
                self.stream = Stream::Uncounted;
                self.owed.clear();
            }
            Some(Expected::ExecKey) => self.needs_resync = true,
            Some(Expected::Replace(text)) => replacement = Some(text),
            _ => {}
        }
        self.note_settled();
        replacement
    }

    fn note_settled(&mut self) {
        if self.owed.is_empty() {
            self.is_blocking = false;
        }
    }
}

fn ack_of(word: &[u8]) -> Option<Channel> {
    match word {
        b"subscribe" | b"unsubscribe" => Some(Channel::Plain),
        b"psubscribe" | b"punsubscribe" => Some(Channel::Pattern),
        b"ssubscribe" | b"sunsubscribe" => Some(Channel::Shard),
        _ => None,
    }
}

fn is_message(word: &[u8]) -> bool {
    matches!(word, b"message" | b"pmessage" | b"smessage")
}
