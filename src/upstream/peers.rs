//! Peers that vanish while they are owed data. Keepalive probes find a silent peer only on a connection where nothing is under way; with
//! data under way the kernel repeats it for a quarter of an hour. TCP_USER_TIMEOUT would end that, and would end the connection of a
//! client that lives and does not read, too: so the kernel is asked what was acknowledged, and decides nothing.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::getsockopt;
use tokio::time::Instant;

use super::socket::{TcpWriter, Unanswered, Writer};
use crate::observe::fault::kept_up;

/// Asks the kernel for `tcp_info`.
#[derive(Clone, Copy, Debug)]
struct TcpInfo;

#[allow(unsafe_code, reason = "the macro writes the one call of getsockopt, with the type that belongs to it")]
mod option {
    use super::TcpInfo;
    use nix::libc;
    nix::getsockopt_impl!(
        TcpInfo,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        libc::tcp_info,
        nix::sys::socket::sockopt::GetStruct<libc::tcp_info>
    );
}

/// A silent peer was sent the same at least so often.
const REPEATS_MIN: u32 = 2;
/// Two moments that the kernel tells may be off by so much, in ms.
const TICK_MS: u32 = 10;
/// A silence is looked for so often while it lasts.
const LOOKS: u32 = 4;
/// Between two looks at least so long.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);

/// The connections of one thread whose peers are looked after.
#[derive(Debug)]
pub struct Peers {
    writers: RefCell<Vec<Weak<TcpWriter>>>,
    silence_max: Duration,
}

impl Peers {
    /// A peer that acknowledges nothing for `silence_max` while something is under way to it is gone; zero for never. To be made
    /// within a `LocalSet`.
    pub fn new(silence_max: Duration) -> Rc<Peers> {
        let peers = Rc::new(Peers { writers: RefCell::default(), silence_max });
        if !silence_max.is_zero() {
            let (weak, pause) = (Rc::downgrade(&peers), (silence_max / LOOKS).max(LOOK_EVERY_MIN));
            tokio::task::spawn_local(kept_up("looking for peers that have vanished", async move || {
                look_after(weak.clone(), pause).await;
            }));
        }
        peers
    }

    /// Looks after the peer of `writer` for as long as that lives.
    pub fn add(&self, writer: &Writer) {
        let Some(writer) = writer.tcp() else { return };
        let mut writers = self.writers.borrow_mut();
        if writers.len() == writers.capacity() {
            writers.retain(|writer| writer.strong_count() > 0);
        }
        writers.push(Rc::downgrade(writer));
    }

    /// Closes all connections, whatever is under way on them.
    pub fn close_all(&self) {
        for writer in self.writers.take() {
            if let Some(writer) = writer.upgrade() {
                writer.shut_down();
            }
        }
    }

    fn look(&self, now: Instant) {
        // The last look comes when the silence is complete, not up to a pause later.
        let limit = self.silence_max - self.silence_max / LOOKS;
        let mut writers = self.writers.borrow_mut();
        writers.retain(|writer| {
            let Some(writer) = writer.upgrade() else { return false };
            if has_vanished(&writer, now, limit) {
                tracing::info!(?limit, "a peer acknowledges nothing of what it is sent; its connection is closed");
                writer.shut_down();
                return false;
            }
            true
        });
        if writers.capacity() > 64 && writers.len() < writers.capacity() / 4 {
            writers.shrink_to_fit();
        }
    }
}

async fn look_after(peers: Weak<Peers>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(peers) = peers.upgrade() else { return };
        peers.look(Instant::now());
    }
}

/// Nothing was acknowledged for `limit`, and something was under way in all that time.
fn has_vanished(writer: &TcpWriter, now: Instant, limit: Duration) -> bool {
    if writer.is_settled() {
        return false;
    }
    let Ok(info) = getsockopt(writer, TcpInfo) else { return false };
    if is_settled(&info) {
        writer.settles();
        return false;
    }
    let is_unanswered = is_unanswered(&info);
    let heard = Duration::from_millis(info.tcpi_last_ack_recv.into());
    match writer.unanswered() {
        Some(Unanswered { since, repeats }) if is_unanswered && heard >= now.saturating_duration_since(since) => {
            // A single answer may be left out: the peer's kernel limits how often it says that there is no room.
            let [sent, tried] = repeated(&info);
            let asked_again = sent.saturating_sub(repeats[0]).max(tried.saturating_sub(repeats[1]));
            let asked_again = asked_again.max(info.tcpi_probes.into());
            now >= since + limit && asked_again >= REPEATS_MIN
        }
        _ => {
            let unanswered = Unanswered { since: now, repeats: repeated(&info) };
            writer.set_unanswered(is_unanswered.then_some(unanswered));
            false
        }
    }
}

/// Something was sent since the peer was heard. A peer that does not read answers each probe and each repetition, and these come minutes
/// apart in the end: what is merely unacknowledged is no silence.
fn is_unanswered(info: &libc::tcp_info) -> bool {
    let was_sent_since = info.tcpi_last_data_sent.saturating_add(TICK_MS) < info.tcpi_last_ack_recv;
    info.tcpi_probes > 0 || (info.tcpi_unacked > 0 && was_sent_since)
}

/// How often anything was sent again, and how often that was due: with a cable out, nothing is sent.
fn repeated(info: &libc::tcp_info) -> [u32; 2] {
    [info.tcpi_total_retrans, info.tcpi_retransmits.into()]
}

fn is_settled(info: &libc::tcp_info) -> bool {
    info.tcpi_unacked == 0 && info.tcpi_probes == 0 && info.tcpi_notsent_bytes == 0
}
