//! Replies come as frames; what they show counts, and what was merely sent does not.

use super::super::transaction::Channels;
use super::*;
use crate::domain::Db;
use crate::protocol::reply::ReplyScanner;
use crate::upstream::dial::Credentials;

fn head(frame: &str) -> FrameHead {
    ReplyScanner::new().next(frame.as_bytes()).expect("it makes sense").1.expect("it is whole")
}

/// The frame comes, with the line end that stands for `|`.
fn comes(talk: &mut Conversation, frame: &str) -> (Fate, After) {
    let head = head(&frame.replace('|', "\r\n"));
    let fate = talk.fate(head.kind, &head.word);
    (fate, talk.came(&head))
}

fn passes(talk: &mut Conversation, frame: &str) {
    assert_eq!(comes(talk, frame), (Fate::Pass, After::Nothing), "{frame}");
}

fn ack(talk: &mut Conversation, word: &str, count: u64) {
    passes(talk, &format!("*3|${}|{word}|$1|c|:{count}|", word.len()));
}

fn select(db: Db) -> Entry {
    Entry::Change(Change::Session(SessionChange::Db(db)))
}

fn auth(user: &str) -> Entry {
    let credentials = Credentials { user: Some(user.into()), password: b"secret".to_vec() };
    Entry::Change(Change::Session(SessionChange::Identity(credentials)))
}

/// MULTI, and these, all queued.
fn transaction(entries: Vec<Entry>) -> Conversation {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent_multi();
    passes(&mut talk, "+OK|");
    for entry in entries {
        match entry {
            Entry::Plain => talk.sent_plain(),
            entry => talk.sent(entry),
        }
        passes(&mut talk, "+QUEUED|");
    }
    talk.sent_exec();
    talk
}

#[test]
fn what_a_command_changes_counts_when_its_reply_shows_that_it_ran() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent(select(5));
    talk.sent(auth("boss"));
    assert!(talk.take_changes().is_empty() && !talk.is_certain(), "neither is known yet");
    passes(&mut talk, "-ERR DB index is out of range|");
    assert!(talk.take_changes().is_empty(), "a refused one has changed nothing");
    passes(&mut talk, "+OK|");
    assert!(matches!(&talk.take_changes()[..], [SessionChange::Identity(who)] if who.user.as_deref() == Some(b"boss")));
    assert!(talk.is_certain() && talk.is_settled());
    assert_eq!(talk.grade(), Grade::Wash);
}

#[test]
fn in_a_transaction_it_counts_with_its_element() {
    let mut talk = transaction(vec![Entry::Plain, select(3), select(99), Entry::Plain, select(4)]);
    assert!(talk.is_multi() && talk.take_changes().is_empty());
    assert_eq!((talk.queued(), talk.noted()), (5, 3));
    assert!(talk.reads_elements());
    talk.exec_runs(Some(5));
    assert!(!talk.is_multi() && !talk.is_settled() && !talk.is_between_replies());
    for element in [":1|", "+OK|", "-ERR DB index is out of range|", "$1|v|"] {
        passes(&mut talk, element);
    }
    assert_eq!(talk.take_changes(), [SessionChange::Db(3)]);
    passes(&mut talk, "+OK|");
    assert_eq!(talk.take_changes(), [SessionChange::Db(4)]);
    assert!(talk.is_settled() && talk.is_default());
}

#[test]
fn a_transaction_that_does_not_run_changes_nothing() {
    for ends in ["*-1|", "-EXECABORT Transaction discarded because of previous errors.|"] {
        let mut talk = transaction(vec![select(3), Entry::Change(Change::Watch)]);
        if ends.starts_with('*') {
            talk.exec_runs(None);
        } else {
            passes(&mut talk, ends);
        }
        assert!(talk.take_changes().is_empty() && talk.is_default(), "{ends}");
    }
    let mut talk = transaction(vec![]);
    // What is no EXECABORT leaves the transaction open.
    passes(&mut talk, "-ERR wrong number of arguments for 'exec' command|");
    assert!(talk.is_multi() && !talk.is_default());
    talk.sent_discard();
    passes(&mut talk, "+OK|");
    assert!(!talk.is_multi() && talk.is_default());
}

#[test]
fn a_watch_stands_until_exec_discard_or_unwatch() {
    let watches = || {
        let mut talk = Conversation::new(Resp::V2);
        talk.sent(Entry::Change(Change::Watch));
        passes(&mut talk, "+OK|");
        assert!(talk.is_watching() && !talk.is_default());
        talk
    };
    let mut talk = watches();
    talk.sent(Entry::Change(Change::Unwatch));
    passes(&mut talk, "+OK|");
    assert!(talk.is_default());
    let mut talk = watches();
    talk.sent_multi();
    passes(&mut talk, "+OK|");
    talk.sent_exec();
    talk.exec_runs(Some(0));
    assert!(talk.is_default());
}

#[test]
fn channels_and_patterns_are_told_apart_by_what_their_sum_changes_by() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent(Entry::Channels(Channels::named(Channel::Plain, 3)));
    talk.sent(Entry::Channels(Channels::named(Channel::Pattern, 2)));
    talk.sent(Entry::Channels(Channels::named(Channel::Shard, 1)));
    // One of the channels was named twice.
    for count in [1, 2, 2] {
        assert!(!talk.is_default());
        ack(&mut talk, "subscribe", count);
    }
    assert_eq!(talk.subscriptions(), [2, 0, 0]);
    ack(&mut talk, "psubscribe", 3);
    ack(&mut talk, "psubscribe", 4);
    ack(&mut talk, "ssubscribe", 1);
    assert_eq!(talk.subscriptions(), [2, 2, 1]);
    assert!(talk.is_settled() && talk.is_pubsub_only());
    // A message is no answer.
    talk.sent_plain();
    passes(&mut talk, "*3|$7|message|$1|c|$2|hi|");
    assert!(!talk.is_settled());
    passes(&mut talk, "*2|$4|pong|$0||");
    assert!(talk.is_settled());
    // Without names there is one acknowledgement for each of the kind.
    talk.sent(Entry::Channels(Channels::named(Channel::Plain, 0)));
    ack(&mut talk, "unsubscribe", 3);
    assert!(!talk.is_settled());
    ack(&mut talk, "unsubscribe", 2);
    assert_eq!((talk.subscriptions(), talk.is_settled()), ([0, 2, 1], true));
    // And one where there is none.
    talk.sent(Entry::Channels(Channels::named(Channel::Plain, 0)));
    ack(&mut talk, "unsubscribe", 2);
    assert!(talk.is_settled());
    // The upstream may end one by itself: a slot has moved.
    ack_unasked(&mut talk, "sunsubscribe", 0);
    assert_eq!(talk.subscriptions(), [0, 2, 0]);
    talk.sent(Entry::Channels(Channels::named(Channel::Pattern, 2)));
    ack(&mut talk, "punsubscribe", 1);
    ack(&mut talk, "punsubscribe", 0);
    assert!(talk.is_default());
    assert_eq!(talk.grade(), Grade::Wash);
}

fn ack_unasked(talk: &mut Conversation, word: &str, count: u64) {
    talk.speaks(Resp::V3);
    passes(talk, &format!(">3|${}|{word}|$1|c|:{count}|", word.len()));
    talk.speaks(Resp::V2);
}

#[test]
fn a_refused_subscription_is_one_error_and_no_channel() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent(Entry::Channels(Channels::named(Channel::Plain, 3)));
    passes(&mut talk, "-NOPERM No permissions to access a channel|");
    assert!(talk.is_default());
}

#[test]
fn what_the_client_does_not_want_to_hear_is_dropped() {
    let mut talk = Conversation::new(Resp::V2);
    talk.switch_replies(Replies::Off);
    talk.sent_plain();
    assert_eq!(comes(&mut talk, "+OK|").0, Fate::Drop);
    talk.switch_replies(Replies::Skip);
    assert!(!talk.is_heard(), "SKIP changes nothing while replies are off");
    talk.switch_replies(Replies::On);
    talk.switch_replies(Replies::Skip);
    talk.sent_plain();
    assert_eq!(talk.plain_ahead(), 0, "each has to be looked at");
    assert_eq!(comes(&mut talk, "+OK|").0, Fate::Drop);
    assert!(talk.is_heard() && talk.is_default(), "SKIP is for one command");
    talk.switch_replies(Replies::Off);
    talk.sent(Entry::Change(Change::Session(SessionChange::Reset)));
    assert_eq!(comes(&mut talk, "+RESET|").0, Fate::Pass, "RESET ends it, and is answered");
    assert!(talk.is_heard());
}

#[test]
fn plain_replies_ahead_need_no_look_unless_something_may_come_between() {
    let mut talk = Conversation::new(Resp::V2);
    (0..5).for_each(|_| talk.sent_plain());
    assert_eq!(talk.plain_ahead(), 5);
    talk.came_plain(3);
    assert_eq!(talk.plain_ahead(), 2);
    talk.speaks(Resp::V3);
    assert_eq!(talk.plain_ahead(), 0, "a push may come between");
    talk.speaks(Resp::V2);
    talk.came_plain(2);
    assert!(talk.is_settled());
}

#[test]
fn a_command_that_nobody_knows_makes_the_link_useless_for_others_unless_there_is_no_such_command() {
    for (reply, grade) in
        [("-ERR unknown command 'x'|", Grade::Clean), ("-ERR not now|", Grade::Close), ("+OK|", Grade::Close)]
    {
        let mut talk = Conversation::new(Resp::V2);
        talk.sent(Entry::Change(Change::Unknown));
        passes(&mut talk, reply);
        assert_eq!((talk.grade(), talk.is_default()), (grade, grade == Grade::Clean), "{reply}");
    }
}

#[test]
fn reset_makes_all_of_it_new() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent(Entry::Channels(Channels::named(Channel::Plain, 1)));
    ack(&mut talk, "subscribe", 1);
    talk.sent(Entry::Change(Change::Tracking { redirect: Some(7), is_noloop: true }));
    talk.sent(Entry::Change(Change::Monitor));
    passes(&mut talk, "+OK|");
    passes(&mut talk, "+OK|");
    assert!(talk.is_tracking() && talk.is_monitor() && talk.is_subscribed());
    passes(&mut talk, "+1339518083.107412 [0 127.0.0.1:60866] \"GET\" \"k\"|");
    talk.sent(Entry::Change(Change::Session(SessionChange::Reset)));
    passes(&mut talk, "+RESET|");
    assert!(talk.is_default() && talk.redirect().is_none());
    assert_eq!(talk.take_changes(), [SessionChange::Reset]);
    assert_eq!(talk.grade(), Grade::Close, "RESET does not end a monitor of every server");
}

#[test]
fn raw_bytes_follow_only_where_they_were_granted() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent_raw();
    assert!(!talk.hears_raw(b'-'), "it is refused");
    passes(&mut talk, "-NOPERM no|");
    talk.sent_raw();
    talk.sent_plain();
    assert!(talk.hears_raw(b'+') && talk.is_opaque());
    assert_eq!(talk.grade(), Grade::Close);
}

#[test]
fn a_command_sent_for_its_refusal_says_what_the_client_is_to_hear() {
    let mut talk = Conversation::new(Resp::V2);
    talk.sent_replaced(b"-ERR ours|".to_vec());
    assert_eq!(comes(&mut talk, "-ERR theirs|"), (Fate::Drop, After::Say(b"-ERR ours|"[..].into())));
    talk.sent_own();
    assert_eq!(talk.fate(b'$', b"x"), Fate::Capture);
    talk.came(&head("$1\r\nx\r\n"));
    talk.sent_ignored();
    assert_eq!(comes(&mut talk, ":0|"), (Fate::Drop, After::Nothing));
    assert!(talk.is_settled());
}
