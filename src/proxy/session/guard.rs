//! `LOCK.GUARD key fence command …`: the lock is watched and looked at, and the command runs in a transaction that ends in nothing
//! if the lock changes meanwhile. A script could not give the command's own reply, byte for byte.

use std::io;
use std::task::Poll;

use super::{Gone, HELD_REQUEST_MAX, Session};
use crate::commands::lock_args::GuardArgs;
use crate::commands::{CommandTable, Effect, Treatment, Why, resolve};
use crate::coordinator::OWN_KEYS;
use crate::domain::{Fence, LockKey};
use crate::protocol::args::encode_command;
use crate::protocol::frame::{self, Value};
use crate::proxy::registry::Wish;
use crate::store::StoreError;
use crate::store::companion;
use crate::store::value::Fields;
use crate::upstream::link::Sink;
use crate::upstream::own::OwnLink;

/// How often the command is tried while the lock changes under it (its lease is set anew, say) or a link breaks before it ran.
const TRIES_MAX: u32 = 8;

/// Commands that leave a connection as it was, and are about it all the same.
const ABOUT_THE_CONNECTION: [&str; 3] = ["echo", "ping", "readwrite"];

/// The link, and what came on it and was not read yet.
struct Talk {
    link: OwnLink,
    came: Vec<u8>,
    /// No transaction, no watches, nothing owed: the next session can have it.
    is_as_new: bool,
}

/// Why the talk cannot go on.
enum Broken {
    /// The client's own connection is over.
    Gone(Gone),
    /// The link to the upstream is.
    Link(io::Error),
}

impl From<Gone> for Broken {
    fn from(gone: Gone) -> Self {
        Broken::Gone(gone)
    }
}

/// What a try came to.
enum Outcome {
    /// The client has its answer.
    Answered,
    /// The lock changed meanwhile; nothing ran.
    Changed,
}

impl Session {
    pub(super) async fn guarded(&mut self, guard: GuardArgs) -> Result<(), Gone> {
        if companion::is_own(&guard.key) {
            self.answer_line(&format!("-{OWN_KEYS}"));
            return Ok(());
        }
        if let Some(says) = refusal(&self.worker.links().facts().table, &guard.command) {
            self.answer_line(&format!("-{says}"));
            return Ok(());
        }
        let mut trouble = "the lock changed with every try";
        for _ in 0..TRIES_MAX {
            let links = self.worker.links();
            let link = match self.guard(links.take_own_now(&self.key)).await? {
                Ok(link) => link,
                Err(error) => {
                    self.answer_line(&format!("-{error}"));
                    return Ok(());
                }
            };
            self.worker.registry().took_own_link(Why::Watch);
            let mut talk = Talk { link, came: Vec::new(), is_as_new: false };
            let mut was_sent = false;
            let outcome = self.try_guarded(&mut talk, &guard, &mut was_sent).await;
            if talk.is_as_new && talk.came.is_empty() && talk.link.scanner.is_at_boundary() {
                links.give_back(talk.link);
            }
            match outcome {
                Ok(Outcome::Answered) => return Ok(()),
                Ok(Outcome::Changed) => trouble = "the lock changed with every try",
                Err(Broken::Gone(gone)) => return Err(gone),
                Err(Broken::Link(error)) if was_sent => {
                    self.answer_line(&format!(
                        "-UNAVAILABLE the link to the upstream broke: {error}; this command may or may not have run"
                    ));
                    return Ok(());
                }
                // A link that had waited for its next use may have been closed by the upstream.
                Err(Broken::Link(_)) => trouble = "the link to the upstream broke",
            }
        }
        self.answer_line(&format!("-UNAVAILABLE {trouble}; the command has not run, try again"));
        Ok(())
    }

    async fn try_guarded(
        &mut self,
        talk: &mut Talk,
        guard: &GuardArgs,
        was_sent: &mut bool,
    ) -> Result<Outcome, Broken> {
        // More than any owner's name can be, and no more than that: the key may turn out to be data, and large.
        let end = HELD_REQUEST_MAX.to_string();
        talk.send(&[&b"WATCH"[..], &guard.key]);
        talk.send(&[&b"GETRANGE"[..], &guard.key, b"0", end.as_bytes()]);
        talk.send(&[&b"PTTL"[..], &guard.key]);
        // On its own, for were it refused, what follows would run unguarded.
        talk.send(&[&b"MULTI"[..]]);
        let mut first = Vec::with_capacity(4);
        for _ in 0..4 {
            first.push(self.frame(talk).await?);
        }
        if let Some(error) = first.iter().find(|reply| is_error(reply)) {
            // The link is closed with whatever state it is in.
            self.answer(error);
            return Ok(Outcome::Answered);
        }
        if let Some(says) = self.why_not_held(guard, &first[1], &first[2]) {
            self.answer_line(&format!("-{says}"));
            talk.send(&[&b"DISCARD"[..]]);
            talk.is_as_new = self.frame(talk).await.is_ok_and(|reply| !is_error(&reply));
            return Ok(Outcome::Answered);
        }
        talk.send(&guard.command);
        talk.send(&[&b"EXEC"[..]]);
        *was_sent = true;
        let queued = self.frame(talk).await?;
        let came = self.reply_of_exec(talk).await?;
        let is_known = self.worker.links().facts().table.find(&guard.command[0]).is_some();
        // An EXEC that was refused for another reason than the command leaves the transaction open.
        let refused_exec = came.as_ref().is_some_and(|reply| is_error(reply) && !reply.starts_with(b"-EXECABORT"));
        match came {
            // As the upstream said it, the command is wrong; EXEC just says that it was.
            Some(_) if is_error(&queued) => self.answer(&queued),
            Some(reply) if is_nil(&reply) => {
                *was_sent = false;
                talk.is_as_new = is_known;
                return Ok(Outcome::Changed);
            }
            Some(reply) => self.answer(&reply),
            None => {}
        }
        // What nobody here knows may have left something behind.
        talk.is_as_new = is_known && !refused_exec;
        Ok(Outcome::Answered)
    }

    /// Why the command must not run, as an error line; `None` where the lock is held under that fence.
    fn why_not_held(&self, guard: &GuardArgs, value: &[u8], left: &[u8]) -> Option<String> {
        let GuardArgs { key, fence: Fence(wanted), .. } = guard;
        let key = LockKey { db: self.key.db, name: key.clone() };
        let (Ok(Value::Bulk(value)), Ok(Value::Integer(left))) = (frame::decode(value), frame::decode(left)) else {
            return Some("ERR the upstream's answer to GETRANGE makes no sense".into());
        };
        if left == -2 {
            return Some(format!("FENCED nobody holds '{key}'; the lock of fence {wanted} is over"));
        }
        match Fields::read(value) {
            // A claim that nobody has confirmed is nobody's hold yet.
            Some(fields) if fields.fence.0 == *wanted && !fields.is_claim => None,
            Some(_) => Some(format!("FENCED '{key}' is held under another fence; the lock of fence {wanted} is over")),
            None if left == -1 && !self.worker.coordinator().is_lock_key(&key) => {
                Some(StoreError::NotALock(key).to_string())
            }
            None => Some(format!("FENCED '{key}' is held without a fence; the lock of fence {wanted} is over")),
        }
    }

    /// Reads the reply to EXEC. Where the command ran, its reply goes on to the client as it comes, and `None` comes back; else the
    /// whole reply.
    async fn reply_of_exec(&mut self, talk: &mut Talk) -> Result<Option<Vec<u8>>, Broken> {
        const ONE: &[u8] = b"*1\r\n";
        while !talk.came.starts_with(ONE) {
            if !ONE.starts_with(&talk.came[..talk.came.len().min(ONE.len())]) {
                return self.frame(talk).await.map(Some);
            }
            self.more(talk).await?;
        }
        talk.link.scanner.next(ONE).map_err(io::Error::other).map_err(Broken::Link)?;
        talk.came.drain(..ONE.len());
        let is_heard = self.may_answer();
        let mut has_begun = false;
        loop {
            if !talk.came.is_empty() {
                let (used, head) =
                    talk.link.scanner.next(&talk.came).map_err(io::Error::other).map_err(Broken::Link)?;
                if is_heard {
                    self.io.push(&talk.came[..used]);
                    self.io.flush();
                }
                has_begun = true;
                talk.came.drain(..used);
                if head.is_some() {
                    return Ok(None);
                }
            }
            match self.more(talk).await {
                // Half a reply is out: nothing that follows could be read.
                Err(Broken::Link(_)) if has_begun && is_heard => return Err(Broken::Gone(Gone)),
                more => more?,
            }
        }
    }

    /// The next whole reply.
    async fn frame(&mut self, talk: &mut Talk) -> Result<Vec<u8>, Broken> {
        let mut frame = Vec::new();
        loop {
            if !talk.came.is_empty() {
                let (used, head) =
                    talk.link.scanner.next(&talk.came).map_err(io::Error::other).map_err(Broken::Link)?;
                frame.extend(talk.came.drain(..used));
                match head {
                    // Nobody here subscribes or tracks.
                    Some(head) if head.kind == b'>' => frame.clear(),
                    Some(_) => return Ok(frame),
                    None => {}
                }
                continue;
            }
            self.more(talk).await?;
        }
    }

    /// Sends what waits and reads more, as long as the client takes what it gets.
    async fn more(&mut self, talk: &mut Talk) -> Result<(), Broken> {
        let scratch = self.worker.router().scratch().clone();
        std::future::poll_fn(|cx| {
            self.io.poll_flush(cx);
            if self.io.is_broken() || self.card().wished() == Wish::Kill {
                return Poll::Ready(Err(Broken::Gone(Gone)));
            }
            if !self.io.client_keeps_up() {
                return Poll::Pending;
            }
            talk.link.poll_flush(cx);
            let mut scratch = scratch.borrow_mut();
            match talk.link.poll_read(cx, &mut scratch) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0)) => Poll::Ready(Err(Broken::Link(io::ErrorKind::UnexpectedEof.into()))),
                Poll::Ready(Ok(n)) => {
                    talk.came.extend_from_slice(&scratch[..n]);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Link(error))),
            }
        })
        .await
    }
}

impl Talk {
    fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        let mut request = Vec::new();
        encode_command(words, &mut request);
        self.link.push(&request);
    }
}

/// Why `command` cannot be guarded, as an error line. What nobody here knows the upstream judges.
fn refusal(table: &CommandTable, command: &[Vec<u8>]) -> Option<String> {
    let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    let entry = table.find(words.first()?)?;
    let (treatment, effect) = match entry.treatment {
        Treatment::Look(look) => resolve(look, &words),
        treatment => (treatment, entry.effect),
    };
    let leaves_nothing = matches!(treatment, Treatment::Share | Treatment::Script) && effect == Effect::None;
    let is_fit = leaves_nothing && !ABOUT_THE_CONNECTION.contains(&&*entry.name);
    (!is_fit).then(|| {
        format!(
            "ERR Command '{}' not allowed under LOCK.GUARD; only what works on data at once can be guarded",
            entry.name
        )
    })
}

fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
}

fn is_nil(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"_\r\n" | b"$-1\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(line: &str) -> bool {
        let command: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        refusal(&CommandTable::builtin(), &command).is_some()
    }

    #[test]
    fn what_blocks_subscribes_or_is_about_the_connection_is_not_guarded() {
        for line in [
            "BLPOP k 0",
            "XREAD BLOCK 0 STREAMS s $",
            "SUBSCRIBE c",
            "SSUBSCRIBE c",
            "MONITOR",
            "MULTI",
            "EXEC",
            "discard",
            "WATCH k",
            "UNWATCH",
            "SELECT 1",
            "AUTH x",
            "HELLO 3",
            "CLIENT ID",
            "QUIT",
            "RESET",
            "PING",
            "READONLY",
            "LOCK.INFO k",
            "lock.guard k 1 GET x",
            "WAIT 0 0",
            "SYNC",
            "FLUSHALL",
            "SCRIPT KILL",
            "DEBUG SLEEP 1",
            "SHUTDOWN",
        ] {
            assert!(is_refused(line), "{line}");
        }
    }

    #[test]
    fn what_works_on_data_is() {
        for line in [
            "GET k",
            "SET k v",
            "set k v nx px 5",
            "DEL a b",
            "EVAL x 0",
            "XREAD STREAMS s 0",
            "FCALL f 0",
            "PUBLISH c m",
            "NOSUCH",
            "GET",
            "FLUSHALL ASYNC",
            "KEYS *",
        ] {
            assert!(!is_refused(line), "{line}");
        }
    }
}
