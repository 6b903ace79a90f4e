//! A link in a pair of sockets: what is said to the upstream, and what comes of its answers.

use std::rc::Rc;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::dial::{Dialled, Identity};
use super::super::socket::Socket;
use super::*;

const LIMIT: Duration = Duration::from_secs(1);

fn key(db: u32, resp: Resp) -> LinkKey {
    LinkKey { identity: Identity::Anonymous, db, resp }
}

fn named() -> Credentials {
    Credentials { user: Some(b"ann".to_vec()), password: b"secret".to_vec() }
}

/// A link of `key`, and the upstream's end of it.
fn link(key: LinkKey) -> (OwnLink, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = Socket::Unix(ours).split();
    (OwnLink::new(key, Dialled::unasked(reader, writer), None, std::rc::Weak::new()), theirs)
}

/// Answers each command that comes, alone in its write, with the next of `replies`; returns what came. Closes behind the last.
async fn answers(mut upstream: UnixStream, replies: &[&str]) -> Vec<String> {
    let mut heard = Vec::new();
    for reply in replies {
        let mut bytes = vec![0; 1024];
        let n = upstream.read(&mut bytes).await.unwrap();
        let words = String::from_utf8_lossy(&bytes[..n]).into_owned();
        heard.push(words.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect::<Vec<_>>().join(" "));
        upstream.write_all(reply.as_bytes()).await.unwrap();
    }
    heard
}

async fn wash(key: LinkKey, credentials: Option<Credentials>, replies: &[&str]) -> (bool, Vec<String>) {
    let (link, upstream) = link(key.clone());
    let both = async { tokio::join!(washed(link, credentials), answers(upstream, replies)) };
    let (washed, heard) = tokio::time::timeout(LIMIT, both).await.expect("it ends");
    assert!(washed.as_ref().is_none_or(|washed| washed.key() == &key));
    (washed.is_some(), heard)
}

#[tokio::test]
async fn a_wash_makes_the_link_what_its_key_says_one_command_after_the_other() {
    let all = ["+RESET\r\n", "+OK\r\n", "%1\r\n+proto\r\n:3\r\n", "+OK\r\n"];
    let (is_washed, heard) = wash(key(5, Resp::V3), Some(named()), &all).await;
    assert!(is_washed);
    assert_eq!(heard, ["RESET ", "AUTH ann secret ", "HELLO 3 ", "SELECT 5 "]);
    let (is_washed, heard) = wash(key(0, Resp::V2), None, &["+RESET\r\n", "+OK\r\n"]).await;
    assert!(is_washed);
    assert_eq!(heard, ["RESET ", "SELECT 0 "], "the reply shows whether it still may do anything without a password");
    let of_service = LinkKey { identity: Identity::Service, db: 0, resp: Resp::V2 };
    assert_eq!(wash(of_service, None, &["+RESET\r\n"]).await, (true, vec!["RESET ".to_owned()]));
}

#[tokio::test]
async fn what_was_on_its_way_before_the_reset_is_for_nobody() {
    let late = ">2\r\n+invalidate\r\n*1\r\n+k\r\n*3\r\n+message\r\n+c\r\n+RESET\r\n-ERR late\r\n+RESET\r\n";
    assert!(wash(key(0, Resp::V2), None, &[late, "+OK\r\n"]).await.0);
}

#[tokio::test]
async fn a_link_of_which_any_step_is_refused_is_closed() {
    let refused = ["-NOPERM this user has no permissions\r\n", "-WRONGPASS no\r\n", "!3\r\nERR\r\n"];
    for no in refused {
        assert!(!wash(key(5, Resp::V3), Some(named()), &["+RESET\r\n", no]).await.0, "AUTH: {no}");
        assert!(!wash(key(5, Resp::V3), Some(named()), &["+RESET\r\n", "+OK\r\n", no]).await.0, "HELLO: {no}");
        assert!(!wash(key(5, Resp::V2), None, &["+RESET\r\n", no]).await.0, "SELECT: {no}");
        assert!(!wash(key(5, Resp::V2), None, &[no]).await.0, "RESET: {no}");
    }
    assert!(!wash(key(0, Resp::V2), None, &["+RES"]).await.0, "and where the upstream closes in the middle");
}

#[tokio::test]
async fn an_idle_link_is_lent_again_if_it_is_of_the_kind_and_quiet() {
    let mut idle = IdleLinks::default();
    let kinds = [key(0, Resp::V2), key(0, Resp::V3), key(7, Resp::V2)];
    let mut upstreams: Vec<UnixStream> = kinds
        .iter()
        .map(|key| {
            let (link, upstream) = link(key.clone());
            idle.put(link);
            upstream
        })
        .collect();
    assert!(idle.take(&key(1, Resp::V2)).is_none());
    assert!(idle.take(&kinds[0]).is_some_and(|link| link.key() == &kinds[0]));
    assert!(idle.take(&kinds[0]).is_none(), "it was lent");
    // One says something that nobody asked for, the other is closed.
    upstreams[1].write_all(b">1\r\n+late\r\n").await.unwrap();
    upstreams.truncate(2);
    tokio::task::yield_now().await;
    assert!(idle.take(&kinds[1]).is_none() && idle.take(&kinds[2]).is_none());
    assert!(idle.links.is_empty());
}

#[tokio::test(start_paused = true)]
async fn idle_links_have_a_number_and_close_after_a_while() {
    let mut idle = IdleLinks::default();
    let mut upstreams = Vec::new();
    let mut put = |idle: &mut IdleLinks, db| {
        let (link, upstream) = link(key(db, Resp::V2));
        idle.put(link);
        upstreams.push(upstream);
    };
    (0..IDLE_OF_A_KEY_MAX + 3).for_each(|_| put(&mut idle, 0));
    assert_eq!(idle.links.len(), IDLE_OF_A_KEY_MAX);
    tokio::time::advance(Duration::from_secs(5)).await;
    (1..=20).for_each(|db| put(&mut idle, db));
    assert_eq!(idle.links.len(), IDLE_MAX);
    assert!(idle.take(&key(0, Resp::V2)).is_none(), "those that waited longest made room");
    tokio::time::advance(Duration::from_secs(5)).await;
    put(&mut idle, 20);
    idle.close_older_than(Duration::from_secs(5));
    assert_eq!(idle.links.len(), 1);
    assert!(idle.take(&key(20, Resp::V2)).is_some());
}

#[test]
fn permits_end_with_those_who_have_them() {
    let in_use = Arc::new(AtomicUsize::new(0));
    let (one, two) = (OwnPermit::take(&in_use, 2), OwnPermit::take(&in_use, 2));
    assert!(one.is_some() && two.is_some() && OwnPermit::take(&in_use, 2).is_none());
    drop(one);
    assert!(OwnPermit::take(&in_use, 2).is_some());
    drop(Rc::new(two));
    assert_eq!(in_use.load(Ordering::Relaxed), 0);
}
