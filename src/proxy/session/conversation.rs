//! What a session's own upstream link owes, frame by frame, and which state the replies have shown it to be in. Nothing is believed
//! because a command was sent: what it changes is kept beside the reply that is awaited, and counts when that shows that the command
//! was accepted. Pure: bytes stay outside.

use std::collections::VecDeque;

use super::doubt::Doubt;
use super::transaction::{Change, Entry, Queue, Reading, Replies, SessionChange};
use crate::commands::Channel;
use crate::domain::Resp;
use crate::protocol::frame;
use crate::protocol::reply::{FirstWord, FrameHead};

/// How the refusal of a marker begins, and no answer to what a marker stands behind.
pub(super) const MARKER: &[u8] = b"ERR syntax error";

/// What becomes of a frame that the upstream sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// On to the client.
    Pass,
    /// Nobody gets it.
    Drop,
    /// Lockgate reads it.
    Capture,
}

/// Replies expected, in order.
#[derive(Debug)]
enum Expected {
    Plain(u64),
    /// A blocking command's.
    Blocking,
    Multi,
    Exec,
    Discard,
    Entry(Entry),
    /// Raw bytes follow unless it is refused.
    Raw,
    /// To a command of Lockgate's own, which reads it.
    Capture,
    /// To one that Lockgate reads nothing from.
    Ignore,
    /// The command was sent to be refused; the client gets this text.
    Replace(Box<[u8]>),
}

/// What a frame is, beside the place where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// An answer.
    Reply,
    /// An acknowledgement that is expected.
    Ack,
    /// A push, or a message under RESP2.
    Push,
    /// What `MONITOR` shows.
    MonitorLine,
}

/// What is to be done once a frame is whole.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum After {
    Nothing,
    /// The client gets this.
    Say(Box<[u8]>),
    /// The client gets what was captured, once Lockgate's number for it or its commands are put in.
    Adapt(Adapt),
    /// What was captured is the upstream's judgement of a stand-in: Lockgate's own answer stands here, to the words that are
    /// [`Conversation::due`]. Nothing more is read before it was given.
    Due,
}

/// How a captured frame becomes the client's.
#[derive(Debug)]
pub(super) enum Adapt {
    Hello,
    Merge(crate::commands::Merge),
}

impl PartialEq for Adapt {
    fn eq(&self, other: &Self) -> bool {
        matches!((self, other), (Adapt::Hello, Adapt::Hello) | (Adapt::Merge(_), Adapt::Merge(_)))
    }
}

impl Eq for Adapt {}

/// What has to happen to the link before another session may have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Grade {
    /// Nothing: only what leaves no trace was sent, or a transaction whose end was seen.
    #[default]
    Clean,
    /// `RESET`, and all that follows from it.
    Wash,
    /// It is closed: `RESET` does not reach what was done to it.
    Close,
}

/// The bookkeeping of one own link.
#[derive(Default)]
pub(super) struct Conversation {
    owed: VecDeque<Expected>,
    /// Entries of `owed` that are not [`Expected::Plain`].
    special: usize,
    blocking: usize,
    resp: Resp,
    is_opaque: bool,
    is_multi: bool,
    queue: Queue,
    exec: Option<Reading>,
    due: Option<Box<[Box<[u8]>]>>,
    is_watching: bool,
    is_tracking: bool,
    is_noloop: bool,
    /// `CLIENT CACHING` was sent: it is about the next command.
    awaits_cached: bool,
    is_monitor: bool,
    /// The line of a marker, which a monitor gets behind the reply to it, is to come.
    hides_line: bool,
    /// Something stays on the connection for as long as this client has it.
    is_kept: bool,
    /// That is a flag which `RESET` may leave as it is.
    has_lasting: bool,
    /// Nothing is said to the client any more, messages included.
    is_over: bool,
    replies: Replies,
    /// Channels, patterns and shard channels, as the upstream counts them.
    subscribed: [u64; 3],
    has_waited: bool,
    grade: Grade,
    changes: Vec<SessionChange>,
    /// Where tracking sends its invalidations, as a number of ours.
    redirect: Option<u64>,
    doubt: Doubt,
    /// A refused `HELLO` may have made the client another user, and the upstream did not tell.
    is_user_unknown: bool,
}

/// Where the state can be asked for. All of it is what the replies up to now have shown.
impl Conversation {
    pub(super) fn new(resp: Resp) -> Conversation {
        Conversation { resp, ..Conversation::default() }
    }

    /// On a link that only this client ever writes on.
    pub(super) fn of_relay(resp: Resp) -> Conversation {
        Conversation { resp, has_waited: true, ..Conversation::default() }
    }

    /// Nothing is owed.
    pub(super) fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.due.is_none()
    }

    /// The session needs this link no longer.
    pub(super) fn is_default(&self) -> bool {
        self.is_settled()
            && !(self.is_opaque
                || self.is_multi
                || self.is_watching
                || self.is_tracking
                || self.is_monitor
                || self.is_kept
                || !self.doubt.is_empty()
                || self.replies != Replies::On)
            && !self.is_subscribed()
    }

    /// What has to happen to the link before another session may have it; to be asked when nothing is owed.
    pub(super) fn grade(&self) -> Grade {
        let is_open = self.is_multi || self.is_watching || self.is_opaque;
        if is_open { self.grade.max(Grade::Wash) } else { self.grade }
    }

    /// Between MULTI and EXEC.
    pub(super) fn is_multi(&self) -> bool {
        self.is_multi
    }

    /// Commands queued between MULTI and EXEC.
    pub(super) fn queued(&self) -> u32 {
        self.queue.len()
    }

    /// Commands queued that had to be noted.
    pub(super) fn noted(&self) -> usize {
        self.queue.noted()
    }

    /// How many commands the transaction had whose reply is being read.
    pub(super) fn was_queued(&self) -> u32 {
        self.exec.as_ref().map_or(0, |exec| exec.queue.len())
    }

    /// What Lockgate is to carry out of it, in order: the words of each.
    pub(super) fn queued_answers(&self) -> impl Iterator<Item = &[Box<[u8]>]> {
        self.queue.answers()
    }

    /// The client has had the beginning of `EXEC`'s reply, of which more is to come, or hears all that is said.
    pub(super) fn is_hearing(&self) -> bool {
        self.is_heard() || self.exec.as_ref().is_some_and(|exec| exec.was_begun)
    }

    pub(super) fn is_watching(&self) -> bool {
        self.is_watching
    }

    pub(super) fn is_tracking(&self) -> bool {
        self.is_tracking
    }

    /// `CLIENT TRACKING … NOLOOP` is on, and nothing is sent elsewhere.
    pub(super) fn spares_own_writes(&self) -> bool {
        self.is_tracking && self.is_noloop && self.redirect.is_none()
    }

    /// A flag was set that `RESET` may leave as it is.
    pub(super) fn has_lasting(&self) -> bool {
        self.has_lasting
    }

    pub(super) fn is_monitor(&self) -> bool {
        self.is_monitor
    }

    /// Channels are subscribed to: under RESP2 few commands are allowed then.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed != [0; 3]
    }

    /// Under RESP2 a subscriber may do little else.
    pub(super) fn is_pubsub_only(&self) -> bool {
        self.resp == Resp::V2 && self.is_subscribed()
    }

    /// How many channels, patterns and shard channels.
    pub(super) fn subscriptions(&self) -> [u64; 3] {
        self.subscribed
    }

    /// A blocking command has not been answered.
    pub(super) fn is_blocking(&self) -> bool {
        self.blocking > 0 && !self.is_multi
    }

    /// Replication: not even frames.
    pub(super) fn is_opaque(&self) -> bool {
        self.is_opaque
    }

    /// Every reply that is awaited is plain, so that the state is what it will be when the next command runs.
    pub(super) fn is_certain(&self) -> bool {
        self.special == 0
    }

    /// No part of a reply is out whose rest is to come.
    pub(super) fn is_between_replies(&self) -> bool {
        self.exec.is_none() && !self.is_opaque
    }

    /// The client of ours that `CLIENT TRACKING … REDIRECT` named.
    pub(super) fn redirect(&self) -> Option<u64> {
        self.redirect
    }

    /// What a refused `HELLO` may have done; nothing that is known may be owed.
    pub(super) fn doubt(&self) -> Option<&Doubt> {
        Some(&self.doubt).filter(|doubt| !doubt.is_empty())
    }

    /// The upstream was asked who the client is. Where it did not tell, the link is this client's for as long as it is there.
    pub(super) fn user_is_known(&mut self, is_told: bool) {
        self.doubt.is_user_known();
        self.is_user_unknown = !is_told;
        if !is_told {
            self.changed(Change::Unknown);
        }
    }

    /// Nobody here knows as whom the upstream takes what is sent on this link.
    pub(super) fn is_user_unknown(&self) -> bool {
        self.is_user_unknown
    }

    /// The upstream has told the client's name.
    pub(super) fn name_is_known(&mut self) {
        self.doubt.is_name_known();
    }

    /// The upstream has told so.
    pub(super) fn has_changed(&mut self, change: SessionChange) {
        self.changed(Change::Session(change));
    }

    /// Elements of `EXEC`'s reply that the client gets none of.
    pub(super) fn markers(&self) -> u64 {
        self.queue.markers()
    }

    /// The same of the transaction that is open, or whose reply is being read.
    pub(super) fn markers_queued(&self) -> u64 {
        self.exec.as_ref().map_or(self.queue.markers(), |exec| exec.queue.markers())
    }

    /// The client gets the replies to what it sends.
    pub(super) fn is_heard(&self) -> bool {
        self.replies == Replies::On
    }

    /// The next command is not answered, whatever it is.
    pub(super) fn skips(&self) -> bool {
        self.replies == Replies::Skip
    }

    /// The client gets nothing any more.
    pub(super) fn falls_silent(&mut self) {
        self.is_over = true;
        self.replies = Replies::Off;
    }

    /// The client gets no more replies; messages it does.
    pub(super) fn answers_no_more(&mut self) {
        self.replies = Replies::Off;
    }

    /// `CLIENT REPLY` was accepted; nothing may be owed.
    pub(super) fn switch_replies(&mut self, to: Replies) {
        self.replies = switched(self.replies, to);
    }

    /// Whether Lockgate's own answer to the command at hand is to be given; uses up a `CLIENT REPLY SKIP`.
    pub(super) fn may_answer(&mut self) -> bool {
        let is_heard = self.is_heard();
        if self.exec.is_none() {
            self.command_ended();
        }
        is_heard
    }

    /// The first `WAIT` on this link asks about writes that went over a shared one.
    pub(super) fn is_first_wait(&mut self) -> bool {
        !std::mem::replace(&mut self.has_waited, true)
    }

    /// The client wrote over another link: the next `WAIT` on this one has to cover that, too.
    pub(super) fn wrote_elsewhere(&mut self) {
        self.has_waited = false;
    }

    /// The upstream answers in another protocol from here on.
    pub(super) fn speaks(&mut self, resp: Resp) {
        self.resp = resp;
    }

    /// What has changed for the session since this was asked last.
    pub(super) fn take_changes(&mut self) -> Vec<SessionChange> {
        std::mem::take(&mut self.changes)
    }

    /// What Lockgate has to answer before more is read.
    pub(super) fn due(&self) -> Option<&[Box<[u8]>]> {
        self.due.as_deref()
    }
}

/// What was sent.
impl Conversation {
    pub(super) fn sent_plain(&mut self) {
        match self.owed.back_mut() {
            Some(Expected::Plain(n)) => *n += 1,
            _ => self.owed.push_back(Expected::Plain(1)),
        }
    }

    pub(super) fn sent_blocking(&mut self) {
        self.blocking += 1;
        self.expect(Expected::Blocking);
    }

    pub(super) fn sent_multi(&mut self) {
        self.expect(Expected::Multi);
    }

    pub(super) fn sent_exec(&mut self) {
        self.expect(Expected::Exec);
    }

    pub(super) fn sent_discard(&mut self) {
        self.expect(Expected::Discard);
    }

    /// `CLIENT CACHING` went out.
    pub(super) fn sent_caching(&mut self) {
        self.awaits_cached = true;
        self.sent_plain();
    }

    /// The command that `CLIENT CACHING` is about may be the one at hand, which runs elsewhere.
    pub(super) fn takes_caching(&mut self) -> bool {
        std::mem::take(&mut self.awaits_cached)
    }

    /// A command that does `entry` once it is accepted, at once or with `EXEC`.
    pub(super) fn sent(&mut self, entry: Entry) {
        self.grade = self.grade.max(grade(&entry));
        self.expect(Expected::Entry(entry));
    }

    /// A command whose acceptance turns the connection into a stream of bytes.
    pub(super) fn sent_raw(&mut self) {
        self.grade = Grade::Close;
        self.expect(Expected::Raw);
    }

    /// A command that is never answered, of a kind that nobody else's link may have seen.
    pub(super) fn sent_unanswered(&mut self) {
        self.grade = Grade::Close;
        self.is_kept = true;
    }

    /// `WAIT`: it asks about what this connection wrote, so that the client keeps it.
    pub(super) fn sent_wait(&mut self) {
        self.is_kept = true;
        self.sent_plain();
    }

    /// Lockgate's own command went out; its reply is collected.
    pub(super) fn sent_own(&mut self) {
        self.expect(Expected::Capture);
    }

    /// Lockgate's own command went out; its reply is of no interest.
    pub(super) fn sent_ignored(&mut self) {
        self.expect(Expected::Ignore);
    }

    /// The command went out only to make the upstream refuse it; the client gets `text` for the reply.
    pub(super) fn sent_replaced(&mut self, text: Vec<u8>) {
        self.expect(Expected::Replace(text.into()));
    }

    /// The session changed the link outside of its own commands (HELLO, AUTH, SELECT that it asked itself).
    pub(super) fn was_changed(&mut self) {
        self.grade = self.grade.max(Grade::Wash);
    }

    fn expect(&mut self, expected: Expected) {
        self.special += 1;
        self.owed.push_back(expected);
    }
}

/// What came.
impl Conversation {
    /// What becomes of the frame that begins with `kind` and whose first word is `word`.
    pub(super) fn fate(&self, kind: u8, word: &[u8]) -> Fate {
        let is_heard = self.is_heard();
        match self.class(kind, word) {
            Class::Push | Class::Ack if self.is_over => Fate::Drop,
            Class::Push if is_redirect_broken(word) && self.redirect.is_some() => Fate::Drop,
            Class::Push | Class::Ack => Fate::Pass,
            Class::MonitorLine if is_heard && !self.hides_line => Fate::Pass,
            Class::MonitorLine => Fate::Drop,
            Class::Reply => match self.reply_fate(kind, word) {
                // RESET ends CLIENT REPLY OFF, and is answered.
                Fate::Pass if !is_heard && !self.is_reset(kind) => Fate::Drop,
                fate => fate,
            },
        }
    }

    /// Whether the fate is the same whatever the frame's first word.
    pub(super) fn is_fate_clear(&self, kind: u8) -> bool {
        if is_error(kind) && self.exec.as_ref().is_some_and(|exec| exec.queue.is_front_marked()) {
            return false;
        }
        if kind == b'+' && self.hides_line {
            return false;
        }
        let depends = match kind {
            b'*' => self.resp == Resp::V2 && (self.is_subscribed() || self.awaits_acks()),
            // Of one who redirects, the upstream may name the other by its own number.
            b'>' if self.redirect.is_some() => return false,
            b'>' => self.awaits_acks(),
            b'+' => self.is_monitor,
            _ => false,
        };
        !depends || (self.is_heard() && self.reply_fate(kind, b"") == Fate::Pass)
    }

    /// `word` can be told: a frame of which so much came.
    pub(super) const CLEAR_AFTER: u64 = 48;

    fn reply_fate(&self, kind: u8, word: &[u8]) -> Fate {
        let is_error = is_error(kind);
        if let Some(exec) = &self.exec {
            return match exec.queue.front() {
                Entry::Answer(_) => Fate::Capture,
                Entry::Marker => Fate::Drop,
                _ if is_marker(kind, word) && exec.queue.is_front_marked() => Fate::Drop,
                _ if is_error => Fate::Pass,
                // Lockgate answers in its place, if anything is to be answered.
                Entry::Change(Change::Replies(_)) => Fate::Drop,
                Entry::Hello { .. } | Entry::Merge(_) => Fate::Capture,
                Entry::Plain | Entry::Change(_) | Entry::Channels(_) => Fate::Pass,
            };
        }
        match self.owed.front() {
            Some(Expected::Capture) => Fate::Capture,
            Some(Expected::Replace(_) | Expected::Ignore | Expected::Entry(Entry::Marker)) => Fate::Drop,
            Some(Expected::Entry(Entry::Hello { .. })) if !self.is_multi && !is_error => Fate::Capture,
            _ => Fate::Pass,
        }
    }

    /// The reply that is next shows that `RESET` was accepted, which `CLIENT REPLY SKIP` keeps silent all the same.
    fn is_reset(&self, kind: u8) -> bool {
        self.exec.is_none()
            && !self.skips()
            && !is_error(kind)
            && matches!(self.owed.front(), Some(Expected::Entry(Entry::Change(change))) if *change == Change::Session(SessionChange::Reset))
    }

    fn class(&self, kind: u8, word: &[u8]) -> Class {
        match kind {
            b'>' if self.awaits_acks() && ack_of(word).is_some() => Class::Ack,
            b'>' => Class::Push,
            b'*' if self.awaits_acks() && ack_of(word).is_some() => Class::Ack,
            b'*' if self.resp == Resp::V2 && self.is_subscribed() && is_message(word) => Class::Push,
            b'+' if self.is_monitor && is_monitor_line(word) => Class::MonitorLine,
            _ => Class::Reply,
        }
    }

    fn awaits_acks(&self) -> bool {
        match (&self.exec, self.owed.front()) {
            (Some(exec), _) => matches!(exec.queue.front(), Entry::Channels(_)),
            (None, Some(Expected::Entry(Entry::Channels(_)))) => true,
            _ => false,
        }
    }

    /// So many frames can only be plain replies that pass: they need no look.
    pub(super) fn plain_ahead(&self) -> u32 {
        let may_others_come = self.resp == Resp::V3 || self.is_subscribed() || self.is_monitor;
        match self.owed.front() {
            Some(Expected::Plain(n)) if !may_others_come && self.replies == Replies::On => {
                u32::try_from(*n).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    /// `n` of the [`Conversation::plain_ahead`] have come; in a transaction all of them were queued.
    pub(super) fn came_plain(&mut self, n: u32) {
        if let Some(Expected::Plain(left)) = self.owed.front_mut() {
            *left -= u64::from(n);
            if *left == 0 {
                self.owed.pop_front();
            }
        }
        if self.is_multi {
            self.queue.push_plain(n.into());
        }
    }

    /// Raw bytes follow, unless `first`, the first byte of what comes, begins a refusal.
    pub(super) fn hears_raw(&mut self, first: u8) -> bool {
        if self.is_multi || is_error(first) || !matches!(self.owed.front(), Some(Expected::Raw)) {
            return false;
        }
        self.is_opaque = true;
        self.owed.clear();
        (self.special, self.blocking) = (0, 0);
        true
    }

    /// The next frame is `EXEC`'s reply, and its elements have to be told apart.
    pub(super) fn reads_elements(&self) -> bool {
        let is_next = self.exec.is_none() && matches!(self.owed.front(), Some(Expected::Exec));
        is_next && self.is_multi && (self.queue.noted() > 0 || self.is_subscribed())
    }

    /// The head of that reply has come: so many elements follow; none where the transaction was not run.
    pub(super) fn exec_runs(&mut self, elements: Option<u64>) {
        let queue = std::mem::take(&mut self.queue);
        self.is_multi = false;
        self.is_watching = false;
        match elements {
            Some(left) if left > 0 => {
                self.exec = Some(Reading { left, queue, skips_next: false, was_begun: self.is_heard() });
            }
            _ => {
                self.reply_ended();
            }
        }
    }

    /// A whole frame has come.
    pub(super) fn came(&mut self, head: &FrameHead) -> After {
        self.hides_line = self.exec.as_ref().is_some_and(|exec| {
            self.is_monitor
                && is_marker(head.kind, &head.word)
                && (exec.queue.is_front_marked() || exec.queue.is_front_marker())
        });
        match self.class(head.kind, &head.word) {
            Class::Reply if self.exec.is_some() => self.came_element(head),
            Class::Reply => self.came_reply(head),
            Class::Ack => {
                self.count(head);
                self.came_ack();
                After::Nothing
            }
            Class::Push => {
                if ack_of(&head.word).is_some() {
                    self.count(head);
                }
                match self.redirect.filter(|_| is_redirect_broken(&head.word) && !self.is_over) {
                    Some(id) => After::Say(redirect_broken(id).into()),
                    None => After::Nothing,
                }
            }
            Class::MonitorLine => After::Nothing,
        }
    }

    /// Takes the number of subscriptions from an acknowledgement. That of channels and that of patterns come as their sum: what it has
    /// changed by is of the kind that is acknowledged.
    fn count(&mut self, head: &FrameHead) {
        let Some(kind) = ack_of(&head.word) else { return };
        let now = u64::try_from(head.last_integer.unwrap_or(0)).unwrap_or(0);
        let other = match kind {
            Channel::Plain => self.subscribed[Channel::Pattern as usize],
            Channel::Pattern => self.subscribed[Channel::Plain as usize],
            Channel::Shard => 0,
        };
        self.subscribed[kind as usize] = now.saturating_sub(other);
    }

    fn came_ack(&mut self) {
        let channels = match (&mut self.exec, self.owed.front_mut()) {
            (Some(exec), _) => exec.queue.front_channels(),
            (None, Some(Expected::Entry(Entry::Channels(channels)))) => Some(channels),
            _ => None,
        };
        let Some(channels) = channels else { return };
        channels.came += 1;
        let has_ended = match channels.names {
            // One for each that was subscribed to, but at least one.
            0 => self.subscribed[channels.kind as usize] == 0,
            names => channels.came == names,
        };
        if !has_ended {
            return;
        }
        match &mut self.exec {
            Some(exec) => {
                exec.queue.pop();
                self.element_ended();
            }
            None => {
                self.reply_ended();
            }
        }
    }

    fn came_element(&mut self, head: &FrameHead) -> After {
        let Some(exec) = &mut self.exec else { return After::Nothing };
        if let Entry::Answer(words) = exec.queue.front() {
            self.due = Some(words.clone());
            return After::Due;
        }
        let is_mute = is_marker(head.kind, &head.word) && exec.queue.is_front_marked();
        let entry = exec.queue.pop();
        if is_mute {
            // A wrong password, and no element for it: this one is the marker's.
            exec.queue.pop();
            self.has_failed(entry, b"WRONGPASS");
            self.element_ended();
            self.element_ended();
            return After::Nothing;
        }
        let after = match is_error(head.kind) {
            true => self.was_refused(Expected::Entry(entry), &head.word),
            false => self.accepted(entry),
        };
        self.element_ended();
        after
    }

    /// Lockgate's own answer was given where it was [`Conversation::due`].
    pub(super) fn was_answered(&mut self) {
        if self.due.take().is_some()
            && let Some(exec) = &mut self.exec
        {
            exec.queue.pop();
            self.element_ended();
        }
    }

    fn element_ended(&mut self) {
        let Some(exec) = &mut self.exec else { return };
        exec.left -= 1;
        if exec.left == 0 {
            let skips_next = exec.skips_next;
            self.exec = None;
            self.reply_ended();
            if skips_next {
                self.replies = switched(self.replies, Replies::Skip);
            }
        }
    }

    fn came_reply(&mut self, head: &FrameHead) -> After {
        if self.is_multi && is_error(head.kind) && !leaves_transaction(&head.word) {
            self.queue.is_aborted();
        }
        if let Some(Expected::Plain(n)) = self.owed.front_mut()
            && *n > 1
        {
            *n -= 1;
            if self.is_multi && is_queued(head) {
                self.queue.push(Entry::Plain);
            }
            self.command_ended();
            return After::Nothing;
        }
        let is_heard = self.is_heard();
        match self.reply_ended() {
            Some(Expected::Replace(text)) => {
                if self.is_multi && is_queued(head) {
                    self.queue.push(Entry::Plain);
                }
                // It was sent for its refusal, and this is the client's answer all the same.
                if is_heard { After::Say(text) } else { After::Nothing }
            }
            Some(expected) => self.ended(expected, head),
            None => After::Nothing,
        }
    }

    fn ended(&mut self, expected: Expected, head: &FrameHead) -> After {
        if self.is_multi && is_queued(head) {
            self.queue.push(match expected {
                Expected::Entry(entry) => entry,
                Expected::Raw => Entry::Change(Change::Unknown),
                _ => Entry::Plain,
            });
            return After::Nothing;
        }
        if is_error(head.kind) {
            return self.was_refused(expected, &head.word);
        }
        match expected {
            Expected::Multi => {
                self.is_multi = true;
                self.queue = Queue::default();
            }
            Expected::Exec | Expected::Discard => self.transaction_ended(),
            Expected::Entry(entry) => return self.accepted(entry),
            _ => {}
        }
        After::Nothing
    }

    fn was_refused(&mut self, expected: Expected, word: &[u8]) -> After {
        match expected {
            Expected::Exec if word.starts_with(b"EXECABORT") => self.transaction_ended(),
            Expected::Entry(entry @ Entry::Hello { .. }) if !self.is_multi => self.has_failed(entry, word),
            // An error of the command, not of its name: nobody knows what it did.
            Expected::Entry(Entry::Change(Change::Unknown)) if !word.starts_with(b"ERR unknown comm") => {
                return self.accepted(Entry::Change(Change::Unknown));
            }
            _ => {}
        }
        After::Nothing
    }

    /// A command has run, and was refused.
    fn has_failed(&mut self, entry: Entry, word: &[u8]) {
        if let Entry::Hello { in_doubt, .. } = entry {
            self.doubt.refused(in_doubt, word);
        }
    }

    fn transaction_ended(&mut self) {
        self.is_multi = false;
        self.is_watching = false;
        self.queue = Queue::default();
    }

    /// A reply has shown that a command ran.
    fn accepted(&mut self, entry: Entry) -> After {
        match entry {
            Entry::Plain | Entry::Answer(_) | Entry::Channels(_) | Entry::Marker => After::Nothing,
            Entry::Merge(merge) => After::Adapt(Adapt::Merge(merge)),
            Entry::Hello { change, .. } => {
                self.changed(change);
                After::Adapt(Adapt::Hello)
            }
            Entry::Change(Change::Replies(Replies::On)) if !self.is_over => {
                self.changed(Change::Replies(Replies::On));
                After::Say(b"+OK\r\n"[..].into())
            }
            Entry::Change(change) => {
                self.changed(change);
                After::Nothing
            }
        }
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Watch => self.is_watching = true,
            Change::Unwatch => self.is_watching = false,
            Change::Monitor => self.is_monitor = true,
            Change::Tracking { redirect, is_noloop } => {
                (self.is_tracking, self.redirect, self.is_noloop) = (true, redirect, is_noloop);
            }
            Change::NoTracking => (self.is_tracking, self.redirect, self.is_noloop) = (false, None, false),
            Change::Flag => self.is_kept = true,
            Change::Lasting => (self.is_kept, self.has_lasting) = (true, true),
            Change::Unknown => {
                self.is_kept = true;
                self.grade = Grade::Close;
            }
            Change::Replies(Replies::Skip) => {
                if let Some(exec) = &mut self.exec {
                    exec.skips_next = true;
                }
            }
            // Whoever has ended its own connection hears nothing any more.
            Change::Replies(_) if self.is_over => {}
            Change::Replies(to) => self.replies = to,
            Change::Session(change) => {
                match &change {
                    SessionChange::Hello { resp: Some(resp), .. } => self.resp = *resp,
                    SessionChange::Reset => self.is_as_new(),
                    _ => {}
                }
                if matches!(
                    &change,
                    SessionChange::Identity(_) | SessionChange::Hello { auth: Some(_), .. } | SessionChange::Reset
                ) {
                    self.doubt.is_user_known();
                    self.is_user_unknown = false;
                }
                self.changes.push(change);
            }
        }
    }

    /// `RESET` was accepted.
    fn is_as_new(&mut self) {
        self.resp = Resp::V2;
        self.replies = Replies::On;
        self.transaction_ended();
        (self.is_tracking, self.redirect, self.is_noloop) = (false, None, false);
        self.is_monitor = false;
        self.subscribed = [0; 3];
    }

    /// The front of what is owed has come.
    fn reply_ended(&mut self) -> Option<Expected> {
        let expected = self.owed.pop_front()?;
        if !matches!(expected, Expected::Capture | Expected::Ignore | Expected::Entry(Entry::Marker)) {
            self.command_ended();
        }
        match expected {
            Expected::Plain(_) => {}
            Expected::Blocking => {
                self.special -= 1;
                self.blocking -= 1;
            }
            _ => self.special -= 1,
        }
        Some(expected)
    }

    fn command_ended(&mut self) {
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
    }
}

fn grade(entry: &Entry) -> Grade {
    match entry {
        Entry::Plain | Entry::Merge(_) | Entry::Answer(_) | Entry::Marker => Grade::Clean,
        Entry::Channels(_) | Entry::Hello { .. } => Grade::Wash,
        Entry::Change(change) => match change {
            Change::Watch | Change::Unwatch | Change::Replies(_) => Grade::Clean,
            // Whether it does anything is told by the reply.
            Change::Unknown => Grade::Clean,
            Change::Monitor | Change::Lasting => Grade::Close,
            Change::Tracking { .. } | Change::NoTracking | Change::Flag | Change::Session(_) => Grade::Wash,
        },
    }
}

/// What `CLIENT REPLY` makes of the mode before it: SKIP changes nothing while replies are off.
fn switched(from: Replies, to: Replies) -> Replies {
    if from == Replies::Off && to == Replies::Skip { from } else { to }
}

fn is_error(kind: u8) -> bool {
    matches!(kind, b'-' | b'!')
}

fn is_redirect_broken(word: &[u8]) -> bool {
    word == &b"tracking-redir-broken"[..FirstWord::MAX]
}

/// Says that the client which is known by the number `id` here is there no longer.
fn redirect_broken(id: u64) -> Vec<u8> {
    let mut push = Vec::new();
    frame::push(Resp::V3, 2, &mut push);
    frame::bulk(b"tracking-redir-broken", &mut push);
    frame::integer(i64::try_from(id).unwrap_or(i64::MAX), &mut push);
    push
}

/// Errors of commands that run within a transaction at once, and leave it as it is.
fn leaves_transaction(error: &[u8]) -> bool {
    error.starts_with(b"ERR MULTI calls") || error.starts_with(b"ERR WATCH inside")
}

fn is_marker(kind: u8, word: &[u8]) -> bool {
    is_error(kind) && word == MARKER
}

fn is_queued(head: &FrameHead) -> bool {
    head.kind == b'+' && &*head.word == b"QUEUED"
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

/// `1339518083.107412 [0 127.0.0.1:60866] "GET" "k"`
fn is_monitor_line(word: &[u8]) -> bool {
    let seconds = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    seconds > 0 && word.get(seconds) == Some(&b'.')
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
