//! The lock engine on a real server: the coordinator, its scripts and its timers, with clients that are futures and links that can
//! be made to fail.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::reply::frame_len;
use common::{PATIENCE, RedisServer, ServerKind};
use lockgate::commands::lock_args::LockCommand;
use lockgate::coordinator::{Asker, BoundLocks, Coordinator, LockReply, LockSettings};
use lockgate::domain::Resp;
use lockgate::upstream::call::{CallError, Caller};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

// ---- Links.

/// What becomes of the next commands on a link.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Weather {
    Fine,
    /// Nothing goes out.
    Away,
    /// Commands run, their replies are lost.
    LosesReplies,
    /// Commands run, their replies wait for better weather.
    HoldsReplies,
}

type Parcel = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// A pipelined link to a server's socket.
#[derive(Clone)]
struct Link {
    out: mpsc::UnboundedSender<Parcel>,
    weather: Rc<Cell<Weather>>,
    change: Rc<Notify>,
    calls: Rc<Cell<u32>>,
}

impl Link {
    fn new(server: &RedisServer, db: u32) -> Self {
        Link::after(server, common::command(&["SELECT", &db.to_string()]))
    }

    /// A link whose connections begin with that command.
    fn after(server: &RedisServer, first: Vec<u8>) -> Self {
        let (out, parcels) = mpsc::unbounded_channel();
        spawn_local(carry(server.socket(), first, parcels));
        let (weather, change) = (Rc::new(Cell::new(Weather::Fine)), Rc::default());
        Link { out, weather, change, calls: Rc::default() }
    }

    fn becomes(&self, weather: Weather) {
        self.weather.set(weather);
        self.change.notify_waiters();
    }
}

impl Caller for Link {
    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        self.calls.set(self.calls.get() + 1);
        let weather = self.weather.get();
        let (back, reply) = oneshot::channel();
        if weather != Weather::Away {
            self.out.send((request, back)).expect("the link's task lives");
        }
        let link = self.clone();
        async move {
            if weather == Weather::Away {
                return Err(CallError::Unavailable("it is away".into()));
            }
            let reply = reply.await.map_err(|_| CallError::Lost("the server is gone".into()))?;
            if weather == Weather::LosesReplies {
                return Err(CallError::Lost("the wire was cut".into()));
            }
            while weather == Weather::HoldsReplies && link.weather.get() == Weather::HoldsReplies {
                link.change.notified().await;
            }
            Ok(reply)
        }
    }
}

/// Sends what comes and brings back the replies, one at a time; a lost connection loses what was on it, and the next dials anew.
async fn carry(socket: std::path::PathBuf, first: Vec<u8>, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
    let mut stream = None;
    while let Some((request, back)) = parcels.recv().await {
        if stream.is_none() {
            stream = tokio::net::UnixStream::connect(&socket).await.ok();
            if let Some(stream) = &mut stream {
                exchange(stream, &first).await;
            }
        }
        let reply = match &mut stream {
            Some(stream) => exchange(stream, &request).await,
            None => None,
        };
        match reply {
            Some(reply) => drop(back.send(reply)),
            None => stream = None,
        }
    }
}

async fn exchange(stream: &mut tokio::net::UnixStream, request: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(request).await.ok()?;
    let mut came = Vec::new();
    loop {
        if let Some(len) = frame_len(&came) {
            assert_eq!(len, came.len(), "one command, one reply");
            return Some(came);
        }
        if stream.read_buf(&mut came).await.ok()? == 0 {
            return None;
        }
    }
}

// ---- Clients.

/// A node with its links, on one worker.
#[derive(Clone)]
struct Node {
    engine: Arc<Coordinator>,
    caller: Link,
    service: Link,
    sessions: Rc<Cell<u64>>,
}

/// A connection's worth of commands.
#[derive(Clone)]
struct Client {
    node: Node,
    session: u64,
    bound: Rc<RefCell<Option<BoundLocks>>>,
}

fn settings() -> LockSettings {
    LockSettings { node: "n1".into(), look_every_ms: 0, ..LockSettings::default() }
}

impl Node {
    fn new(server: &RedisServer) -> Self {
        Node::with(server, settings())
    }

    fn with(server: &RedisServer, settings: LockSettings) -> Self {
        Node::of(Coordinator::new(settings), server)
    }

    fn of(engine: Arc<Coordinator>, server: &RedisServer) -> Self {
        Node { engine, caller: Link::new(server, 0), service: Link::new(server, 0), sessions: Rc::default() }
    }

    /// The server knows the scripts from now on, so that what bad weather hits is not the question for them.
    async fn warmed_up(self) -> Self {
        self.fence("LOCK.ACQUIRE warm ann").await;
        assert_eq!(self.run("LOCK.RELEASE warm ann").await, ONE);
        self
    }

    fn client(&self) -> Client {
        self.sessions.set(self.sessions.get() + 1);
        Client {
            node: self.clone(),
            session: self.sessions.get(),
            bound: Rc::new(RefCell::new(Some(BoundLocks::default()))),
        }
    }

    /// Runs a line of words on a connection of its own.
    async fn run(&self, line: &str) -> LockReply {
        self.client().run(line).await
    }

    async fn fence(&self, line: &str) -> i64 {
        fence(self.run(line).await)
    }

    /// A call that goes on while the test does something else. It has begun to wait when this returns.
    async fn waits(&self, line: &str) -> JoinHandle<LockReply> {
        let client = self.client();
        let line = line.to_owned();
        let (key, owner) = (line.split(' ').nth(1).unwrap().to_owned(), line.split(' ').nth(2).unwrap().to_owned());
        let call = spawn_local(async move { client.run(&line).await });
        until("the call waits", async || {
            let place = self.run(&format!("LOCK.POSITION {key} {owner}")).await;
            matches!(place, LockReply::Integer(place) if place > 0)
        })
        .await;
        call
    }
}

impl Client {
    async fn run(&self, line: &str) -> LockReply {
        self.run_words(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()).await
    }

    async fn run_words(&self, words: &[&[u8]]) -> LockReply {
        self.run_while(words, || true).await
    }

    /// Its client has gone by the time of the answer where `is_there` says so.
    async fn run_while(&self, words: &[&[u8]], is_there: impl Fn() -> bool) -> LockReply {
        let command = match LockCommand::parse(words) {
            Ok(command) => command,
            Err(line) => return LockReply::Error(line),
        };
        let bound = self.bound.borrow().clone().expect("the connection is open");
        let (caller, service) = (self.node.caller.clone(), self.node.service.clone());
        let asker = Asker { db: 0, session: self.session, user: (*b"default").into(), caller, service, bound };
        let reply = tokio::time::timeout(PATIENCE, self.node.engine.run_while(&asker, command, is_there)).await;
        reply.unwrap_or_else(|_| panic!("no answer: {words:?}"))
    }

    fn closes(&self) {
        self.bound.borrow_mut().take();
    }
}

fn fence(reply: LockReply) -> i64 {
    match reply {
        LockReply::Integer(fence) => fence,
        other => panic!("a fence was expected, not {other:?}"),
    }
}

fn error(reply: LockReply) -> String {
    match reply {
        LockReply::Error(line) => line,
        other => panic!("an error was expected, not {other:?}"),
    }
}

/// Looks until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "this never came to be: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A test's story on one worker, and at its end nothing may be left over.
fn story(tell: impl AsyncFnOnce(&mut RedisServer) -> Node) {
    story_on(RedisServer::start(), tell);
}

fn story_on(mut server: RedisServer, tell: impl AsyncFnOnce(&mut RedisServer) -> Node) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let node = tell(&mut server).await;
        tokio::time::timeout(PATIENCE, node.engine.settled()).await.expect("everything comes to an end");
        node.engine.shut_down();
        until("no line is left", async || node.engine.lines() == 0).await;
    });
}

fn get(server: &RedisServer, key: &str) -> Vec<u8> {
    server.side_wire().call(&["GET", key])
}

fn owner_of(server: &RedisServer, key: &str) -> String {
    let value = get(server, key);
    let text = String::from_utf8_lossy(&value).into_owned();
    text.split("\r\n").nth(1).unwrap_or("").split('\x1f').next().unwrap_or("").to_owned()
}

fn field(reply: &LockReply, name: &str) -> LockReply {
    let LockReply::Map(fields) = reply else { panic!("a map was expected, not {reply:?}") };
    fields.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

fn bulk(text: &str) -> LockReply {
    LockReply::Bulk(text.into())
}

const ONE: LockReply = LockReply::Integer(1);
const ZERO: LockReply = LockReply::Integer(0);

// ---- One client at a time.

#[test]
fn a_lock_is_taken_repeated_extended_and_released_with_its_three_outcomes() {
    for kind in ServerKind::ALL {
        story_on(RedisServer::start_with(kind, &[]), async |server| {
            let node = Node::new(server);
            let first = node.fence("LOCK.ACQUIRE k ann TTL 5000 META note PRIORITY high").await;
            assert_eq!(node.run("LOCK.ACQUIRE k bob").await, LockReply::Nil);
            assert_eq!(node.fence("LOCK.ACQUIRE k ann TTL 60000").await, first, "repeatable");
            let left = server.side_wire().run("PTTL k").int();
            assert!((50_000..=60_000).contains(&left), "a fresh lease: {left}");
            assert_eq!(node.run("LOCK.EXTEND k ann 90000").await, ONE);
            assert_eq!(node.run("LOCK.REFRESH k bob 90000").await, ZERO);
            assert_eq!(node.run(&format!("LOCK.EXTEND k ann 90000 FENCE {}", first + 1)).await, ZERO);
            assert_eq!(node.run("LOCK.RELEASE k bob").await, ZERO);
            assert_eq!(node.run(&format!("LOCK.RELEASE k ann FENCE {}", first + 1)).await, ZERO);
            assert_eq!(node.run(&format!("LOCK.RELEASE k ann FENCE {first}")).await, ONE);
            assert_eq!(node.run("LOCK.RELEASE k ann").await, LockReply::Integer(-1));
            assert_eq!(node.run("LOCK.EXTEND k ann 90000").await, ZERO, "it never brings a lock back");
            assert!(node.fence("LOCK.ACQUIRE k ann").await > first, "fences grow");
            assert_eq!(node.run("LOCK.RELEASE k ann").await, ONE);
            assert_eq!(server.side_wire().run("KEYS *").text_items(), ["lockgate:fence"], "nothing else is left");
            node
        });
    }
}

#[test]
fn an_uncontended_acquire_is_one_round_trip() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE warm ann").await;
        node.run("LOCK.RELEASE warm ann").await;
        let before = node.caller.calls.get();
        node.fence("LOCK.ACQUIRE k ann").await;
        assert_eq!((node.caller.calls.get() - before, node.engine.lines()), (1, 0), "and a held lock has no line");
        node.run("LOCK.RELEASE k ann").await;
        assert_eq!((node.caller.calls.get() - before, node.service.calls.get()), (2, 0));
        node
    });
}

#[test]
fn the_value_of_a_lock_is_in_the_long_form() {
    story(async |server| {
        let node = Node::new(server);
        let fence = node.fence("LOCK.PRIORITY k ann critical META by:hand").await;
        let value = get(server, "k");
        let text = String::from_utf8_lossy(&value).into_owned();
        let fields: Vec<&str> = text.split("\r\n").nth(1).unwrap().split('\x1f').collect();
        assert_eq!((fields[0], fields[1], fields[2]), ("ann", fence.to_string().as_str(), "3"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        assert!(now.abs_diff(fields[3].parse().unwrap()) < 20_000);
        assert!(fields[4].starts_with("n1:"));
        assert_eq!(fields[5], "by:hand");
        node
    });
}

#[test]
fn info_tells_of_every_kind_of_holder() {
    story(async |server| {
        let node = Node::new(server);
        let free = node.run("LOCK.INFO lock:a").await;
        assert_eq!(
            (field(&free, "held"), field(&free, "owner"), field(&free, "ttl")),
            (ZERO, LockReply::Nil, LockReply::Nil)
        );
        let fence = node.fence("LOCK.ACQUIRE lock:a ann META m TTL 5000").await;
        let held = node.run("LOCK.INFO lock:a").await;
        for (name, value) in [
            ("key", bulk("lock:a")),
            ("held", ONE),
            ("owner", bulk("ann")),
            ("fence", LockReply::Integer(fence)),
            ("priority", bulk("normal")),
            ("meta", bulk("m")),
            ("waiters", ZERO),
            ("node", bulk("n1")),
        ] {
            assert_eq!(field(&held, name), value, "{name}");
        }
        server.side_wire().run("SET lock:b someone");
        let around = node.run("LOCK.INFO lock:b").await;
        assert_eq!((field(&around, "owner"), field(&around, "ttl")), (bulk("someone"), LockReply::Integer(-1)));
        assert_eq!((field(&around, "fence"), field(&around, "node")), (LockReply::Nil, LockReply::Nil));
        let mut wire = Vec::new();
        held.encode(Resp::V3, &mut wire);
        assert!(wire.starts_with(b"%10\r\n$3\r\nkey\r\n"));
        node
    });
}

#[test]
fn keys_and_owners_may_be_any_bytes() {
    story(async |server| {
        let node = Node::new(server);
        let client = node.client();
        for key in [&b""[..], b"\x00\xff{}\r\n", b"{", b"}{a}", b"%s\x1f"] {
            for owner in [&b" "[..], b"\x00\r\n\xff", b"%d$1"] {
                let first = fence(client.run_words(&[b"LOCK.ACQUIRE", key, owner, b"META", b"\x1f\x00"]).await);
                assert_eq!(fence(client.run_words(&[b"LOCK.ACQUIRE", key, owner]).await), first);
                assert_eq!(client.run_words(&[b"LOCK.POSITION", key, owner]).await, ZERO);
                assert_eq!(client.run_words(&[b"LOCK.EXTEND", key, owner, b"50"]).await, ONE);
                assert_eq!(client.run_words(&[b"LOCK.RELEASE", key, owner]).await, ONE);
            }
        }
        node
    });
}

#[test]
fn data_is_no_lock_and_a_lock_taken_around_us_is_anothers() {
    story(async |server| {
        let node = Node::new(server);
        let mut side = server.side_wire();
        side.run("SET data ann");
        side.run("HSET hash f v");
        for command in ["ACQUIRE", "ACQUIRE", "RELEASE", "POSITION", "CANCEL"] {
            assert_eq!(error(node.run(&format!("LOCK.{command} data ann")).await), "ERR 'data' is not a lock");
            assert_eq!(
                error(node.run(&format!("LOCK.{command} hash ann")).await),
                "WRONGTYPE Operation against a key holding the wrong kind of value"
            );
        }
        assert_eq!(error(node.run("LOCK.ACQUIRE data ann WAIT 60000").await), "ERR 'data' is not a lock");
        assert_eq!(error(node.run("LOCK.EXTEND data ann 5").await), "ERR 'data' is not a lock");
        assert_eq!(error(node.run("LOCK.INFO data").await), "ERR 'data' is not a lock");
        assert_eq!(side.run("GET data").text(), "ann");
        // A value of another form is an owner as it stands, where it expires or a rule names the key.
        side.run("SET k ann PX 60000");
        side.run("SET lock:k ann");
        for key in ["k", "lock:k"] {
            assert_eq!(node.run(&format!("LOCK.ACQUIRE {key} ann")).await, LockReply::Nil, "never re-entrant");
            assert_eq!(node.run(&format!("LOCK.POSITION {key} ann")).await, ZERO);
            assert_eq!(node.run(&format!("LOCK.RELEASE {key} ann FENCE 1")).await, ZERO, "it has no fence");
            assert_eq!(node.run(&format!("LOCK.RELEASE {key} ann")).await, ONE);
        }
        assert!(error(node.run("LOCK.ACQUIRE lockgate:fence ann").await).starts_with("ERR keys that begin with"));
        node
    });
}

#[test]
fn leases_and_waits_are_cut_at_their_maximum() {
    story(async |server| {
        let settings =
            LockSettings { default_ttl_ms: 7000.into(), max_ttl_ms: 9000.into(), max_wait_ms: 30.into(), ..settings() };
        let node = Node::with(server, settings);
        let mut side = server.side_wire();
        let mut lease = |line: &str| (side.run(line).int() + 999) / 1000;
        node.fence("LOCK.ACQUIRE a ann").await;
        node.fence("LOCK.ACQUIRE b ann TTL 9007199254740991").await;
        node.fence("LOCK.ACQUIRE c ann TTL 1000").await;
        assert_eq!((lease("PTTL a"), lease("PTTL b"), lease("PTTL c")), (7, 9, 1));
        node.run("LOCK.EXTEND a ann 9007199254740991").await;
        assert_eq!(lease("PTTL a"), 9);
        assert_eq!(node.run("LOCK.ACQUIRE a bob WAIT 9007199254740991").await, LockReply::Nil);
        node
    });
}

#[test]
fn fences_grow_though_the_counter_is_lost() {
    story(async |server| {
        let node = Node::new(server);
        let mut side = server.side_wire();
        let first = node.fence("LOCK.ACQUIRE a ann").await;
        side.run("FLUSHALL");
        let second = node.fence("LOCK.ACQUIRE a ann").await;
        assert!(second > first, "{first} {second}");
        side.run("SET lockgate:fence 17");
        let third = node.fence("LOCK.ACQUIRE b ann").await;
        assert!(third > second, "{second} {third}");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        node.engine.met_master(u64::try_from(now.as_micros()).unwrap(), true);
        let fourth = node.fence("LOCK.ACQUIRE c ann").await;
        assert!(fourth >= third + (1 << 32), "{third} {fourth}");
        assert!(node.fence("LOCK.ACQUIRE d ann").await > fourth);
        node
    });
}

#[test]
fn scripts_that_the_server_lost_are_sent_again() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k ann").await;
        server.side_wire().run("SCRIPT FLUSH");
        assert_eq!(node.run("LOCK.RELEASE k ann").await, ONE);
        node
    });
}

#[test]
fn the_smallest_acl_suffices_and_without_it_nobody_elses_wait_is_touched() {
    story(async |server| {
        let mut side = server.side_wire();
        let least =
            "+evalsha +eval +exists +get +set +del +pexpire +pttl +time +hget +hset +hdel +hgetall ~lock:* ~lockgate:*";
        side.run(&format!("ACL SETUSER some on >pw {least}"));
        let full = Node::new(server);
        let link = Link::after(server, common::command(&["AUTH", "some", "pw"]));
        let node = Node { caller: link.clone(), service: link, ..full.clone() };
        node.fence("LOCK.ACQUIRE lock:a holder TTL 60000").await;
        assert_eq!(node.run("LOCK.EXTEND lock:a holder 60000").await, ONE);
        let ann = node.waits("LOCK.ACQUIRE lock:a ann WAIT 60000").await;
        assert_eq!(node.run("LOCK.RELEASE lock:a holder").await, ONE);
        fence(ann.await.unwrap());
        // Somebody waits for a key that this user may not touch.
        full.fence("LOCK.ACQUIRE k holder TTL 60000").await;
        let bob = full.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        for line in ["LOCK.ACQUIRE k bob", "LOCK.ACQUIRE k bob WAIT 60000", "LOCK.RELEASE k bob", "LOCK.CANCEL k bob"] {
            let refused = error(node.run(line).await);
            assert!(refused.starts_with("NOPERM"), "{line}: {refused}");
        }
        assert_eq!(full.run("LOCK.POSITION k bob").await, ONE);
        assert_eq!(full.run("LOCK.RELEASE k holder").await, ONE);
        fence(bob.await.unwrap());
        node
    });
}

// ---- Waiting.

#[test]
fn waiters_are_served_by_level_then_by_arrival_and_the_key_is_never_free_between() {
    story(async |server| {
        let node = Node::new(server);
        let mut last = node.fence("LOCK.ACQUIRE k holder").await;
        let mut waiting = Vec::new();
        for (owner, level) in [("b1", 1), ("b2", 1), ("a1", 3), ("c1", 0), ("b3", 1), ("a2", 3)] {
            waiting.push((owner, node.waits(&format!("LOCK.ACQUIRE k {owner} WAIT 60000 PRIORITY {level}")).await));
        }
        assert_eq!(field(&node.run("LOCK.INFO k").await, "waiters"), LockReply::Integer(6));
        assert_eq!(node.run("LOCK.POSITION k c1").await, LockReply::Integer(6));
        assert_eq!(node.run("LOCK.POSITION k nobody").await, LockReply::Nil);
        let mut holder = "holder";
        for next in ["a1", "a2", "b1", "b2", "b3", "c1"] {
            assert_eq!(node.run(&format!("LOCK.RELEASE k {holder}")).await, ONE);
            assert_eq!(owner_of(server, "k"), next, "handed over in the same step");
            let at = waiting.iter().position(|(owner, _)| *owner == next).unwrap();
            let granted = fence(waiting.remove(at).1.await.unwrap());
            assert!(granted > last);
            (last, holder) = (granted, next);
        }
        node
    });
}

#[test]
fn a_newcomer_without_wait_does_not_overtake() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        // Freed around us, and nobody told us.
        server.side_wire().run("DEL k");
        assert_eq!(node.run("LOCK.ACQUIRE k bob").await, LockReply::Nil);
        fence(ann.await.unwrap());
        assert_eq!(owner_of(server, "k"), "ann");
        node
    });
}

#[test]
fn a_timeout_is_nil_and_the_waiter_has_left() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let began = Instant::now();
        assert_eq!(node.run("LOCK.ACQUIRE k ann WAIT 80").await, LockReply::Nil);
        assert!(began.elapsed() >= Duration::from_millis(80));
        assert_eq!(node.run("LOCK.POSITION k ann").await, LockReply::Nil);
        assert_eq!(node.run("LOCK.RELEASE k holder").await, ONE);
        assert_eq!(get(server, "k"), b"$-1\r\n");
        node
    });
}

#[test]
fn an_expired_lock_goes_to_the_waiter_promptly() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder TTL 150").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        fence(ann.await.unwrap());
        assert_eq!(owner_of(server, "k"), "ann");
        node
    });
}

#[test]
fn an_extended_lock_is_waited_for_longer_and_a_shortened_one_less() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder TTL 60000").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        assert_eq!(node.run("LOCK.EXTEND k holder 120").await, ONE);
        fence(ann.await.unwrap());
        node
    });
}

#[test]
fn a_key_deleted_around_us_is_found_by_a_hint_or_by_looking() {
    story(async |server| {
        let node = Node::with(server, LockSettings { look_every_ms: 50, ..settings() });
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        server.side_wire().run("DEL k");
        fence(ann.await.unwrap());
        let quiet = Node::new(server);
        let bob = quiet.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        server.side_wire().run("DEL k");
        quiet.engine.hint(&lockgate::domain::LockKey::new(0, b"k"));
        fence(bob.await.unwrap());
        node
    });
}

#[test]
fn a_waited_for_key_that_becomes_data_sends_its_waiters_home() {
    story(async |server| {
        let node = Node::with(server, LockSettings { look_every_ms: 20, ..settings() });
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        server.side_wire().run("SET k data");
        assert_eq!(error(ann.await.unwrap()), "ERR 'k' is not a lock");
        node
    });
}

#[test]
fn a_full_queue_says_so() {
    story(async |server| {
        let node = Node::with(server, LockSettings { max_queue: 2, ..settings() });
        node.fence("LOCK.ACQUIRE k holder").await;
        let _ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        let _bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        let full = error(node.run("LOCK.ACQUIRE k cat WAIT 60000").await);
        assert_eq!(full, "QUEUEFULL 'k' already has 2 waiters; raise max_queue or lower the load");
        assert_eq!(node.run("LOCK.ACQUIRE k cat").await, LockReply::Nil);
        node
    });
}

// ---- Leaving, cancelling, asking again.

#[test]
fn a_client_that_left_is_skipped_and_its_place_is_kept_for_it() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        let bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        let cat = node.waits("LOCK.ACQUIRE k cat WAIT 60000").await;
        ann.abort();
        until("ann is passed over", async || node.run("LOCK.POSITION k ann").await == LockReply::Nil).await;
        assert_eq!(node.run("LOCK.RELEASE k holder").await, ONE);
        fence(bob.await.unwrap());
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        assert_eq!(node.run("LOCK.POSITION k ann").await, ONE, "before cat, who came later");
        node.run("LOCK.RELEASE k bob").await;
        fence(ann.await.unwrap());
        node.run("LOCK.RELEASE k ann").await;
        fence(cat.await.unwrap());
        node
    });
}

#[test]
fn whose_client_has_gone_by_the_time_of_the_answer_gives_back_what_is_new_and_nothing_that_was_told() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE held ann").await;
        for key in [&b"held"[..], b"new"] {
            let words = [&b"LOCK.ACQUIRE"[..], key, b"ann", b"WAIT", b"60000"];
            assert_eq!(node.client().run_while(&words, || false).await, LockReply::Nil);
        }
        until("the new one is free", async || node.run("LOCK.POSITION new ann").await == LockReply::Nil).await;
        node.engine.settled().await;
        assert_eq!(node.run("LOCK.POSITION held ann").await, ZERO, "his other connection was told of it");
        assert_eq!(node.run("LOCK.RELEASE held ann").await, ONE);
        node
    });
}

#[test]
fn a_repeat_takes_over_and_the_older_call_gets_nil() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let older = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        let _bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        let newer = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        assert_eq!(older.await.unwrap(), LockReply::Nil);
        assert_eq!(node.run("LOCK.POSITION k ann").await, ONE);
        node.run("LOCK.RELEASE k holder").await;
        fence(newer.await.unwrap());
        node
    });
}

#[test]
fn cancel_ends_a_wait_and_release_ends_the_owners_own() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        assert_eq!(node.run("LOCK.CANCEL k bob").await, ZERO);
        assert_eq!(node.run("LOCK.CANCEL k holder").await, ZERO);
        assert_eq!(node.run("LOCK.CANCEL k ann").await, ONE);
        assert_eq!(ann.await.unwrap(), LockReply::Nil);
        assert_eq!(node.run("LOCK.CANCEL k ann").await, ZERO);
        let bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        assert_eq!(node.run("LOCK.RELEASE k bob").await, ZERO, "another holds it");
        assert_eq!(bob.await.unwrap(), LockReply::Nil);
        node
    });
}

#[test]
fn a_grant_that_met_nobody_goes_on_to_the_next() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        let bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        // The release runs and hands over to ann; while its reply is on its way, she leaves.
        node.caller.becomes(Weather::HoldsReplies);
        let releasing = node.client();
        let release = spawn_local(async move { releasing.run("LOCK.RELEASE k holder").await });
        until("the key is ann's", async || owner_of(server, "k") == "ann").await;
        ann.abort();
        let _ = ann.await;
        node.caller.becomes(Weather::Fine);
        assert_eq!(release.await.unwrap(), ONE);
        fence(bob.await.unwrap());
        assert_eq!(owner_of(server, "k"), "bob");
        node
    });
}

#[test]
fn a_grant_whose_client_is_gone_when_it_comes_goes_on_unless_another_call_was_told_of_it() {
    story(async |server| {
        let node = Node::new(server);
        let client = node.client();
        let is_there = async |line: &str, is_there: bool| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let command = LockCommand::parse(&words).expect("a command");
            let (caller, service) = (node.caller.clone(), node.service.clone());
            let asker =
                Asker { db: 0, session: 1, user: (*b"default").into(), caller, service, bound: BoundLocks::default() };
            node.engine.run_while(&asker, command, || is_there).await
        };
        assert_eq!(is_there("LOCK.ACQUIRE k ann TTL 60000", false).await, LockReply::Nil);
        until("the key is free", async || get(server, "k") == b"$-1\r\n").await;
        let first = fence(client.run("LOCK.ACQUIRE k ann TTL 60000").await);
        assert_eq!(is_there("LOCK.ACQUIRE k ann TTL 60000", false).await, LockReply::Nil);
        node.engine.settled().await;
        assert_eq!(
            fence(client.run("LOCK.ACQUIRE k ann").await),
            first,
            "the hold that another call was told of stands"
        );
        node
    });
}

#[test]
fn a_client_that_leaves_during_its_try_leaves_no_lock_behind() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.caller.becomes(Weather::HoldsReplies);
        let client = node.client();
        let ann = spawn_local(async move { client.run("LOCK.ACQUIRE k ann TTL 60000").await });
        until("the key is ann's", async || owner_of(server, "k") == "ann").await;
        ann.abort();
        let _ = ann.await;
        node.caller.becomes(Weather::Fine);
        until("the key is free", async || get(server, "k") == b"$-1\r\n").await;
        node
    });
}

#[test]
fn a_release_whose_client_left_still_hands_over() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        node.caller.becomes(Weather::HoldsReplies);
        let client = node.client();
        let release = spawn_local(async move { client.run("LOCK.RELEASE k holder").await });
        until("the key is ann's", async || owner_of(server, "k") == "ann").await;
        release.abort();
        let _ = release.await;
        node.caller.becomes(Weather::Fine);
        fence(ann.await.unwrap());
        node
    });
}

// ---- Bad weather.

#[test]
fn while_the_upstream_is_away_a_waiting_call_waits_and_another_is_told() {
    story(async |server| {
        let node = Node::new(server);
        node.caller.becomes(Weather::Away);
        for line in
            ["LOCK.ACQUIRE k ann", "LOCK.RELEASE k ann", "LOCK.EXTEND k ann 5", "LOCK.INFO k", "LOCK.POSITION k a"]
        {
            let line = error(node.run(line).await);
            assert!(line.starts_with("UNAVAILABLE the upstream cannot be reached: it is away"), "{line}");
        }
        let client = node.client();
        let ann = spawn_local(async move { client.run("LOCK.ACQUIRE k ann WAIT 60000").await });
        let before = node.caller.calls.get();
        until("ann tries and tries", async || node.caller.calls.get() > before + 2).await;
        node.caller.becomes(Weather::Fine);
        fence(ann.await.unwrap());
        node.caller.becomes(Weather::Away);
        assert!(error(node.run("LOCK.ACQUIRE k bob WAIT 120").await).starts_with("UNAVAILABLE"));
        node
    });
}

#[test]
fn an_acquire_whose_reply_was_lost_is_asked_again_and_never_granted_twice() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.caller.becomes(Weather::LosesReplies);
        let client = node.client();
        let ann = spawn_local(async move { client.run("LOCK.ACQUIRE k ann WAIT 60000").await });
        until("the key is ann's", async || owner_of(server, "k") == "ann").await;
        let value = get(server, "k");
        node.caller.becomes(Weather::Fine);
        let fence = fence(ann.await.unwrap());
        assert_eq!(get(server, "k"), value, "the same grant");
        assert!(String::from_utf8_lossy(&value).contains(&format!("\x1f{fence}\x1f")));
        node
    });
}

#[test]
fn an_acquire_that_stays_unknown_is_an_error_and_its_ghost_is_laid() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.caller.becomes(Weather::LosesReplies);
        node.service.becomes(Weather::Away);
        assert!(error(node.run("LOCK.ACQUIRE k ann TTL 60000").await).starts_with("UNAVAILABLE the link"));
        assert_eq!(owner_of(server, "k"), "ann", "a ghost holds it");
        node.service.becomes(Weather::Fine);
        until("the key is free", async || get(server, "k") == b"$-1\r\n").await;
        node
    });
}

#[test]
fn a_lost_repeat_does_not_end_the_hold() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        let first = node.fence("LOCK.ACQUIRE k ann TTL 60000").await;
        node.caller.becomes(Weather::LosesReplies);
        assert!(error(node.run("LOCK.ACQUIRE k ann TTL 60000").await).starts_with("UNAVAILABLE the link"));
        node.caller.becomes(Weather::Fine);
        node.engine.settled().await;
        until("the line has looked", async || node.engine.lines() == 0).await;
        assert_eq!(node.fence("LOCK.ACQUIRE k ann").await, first);
        node
    });
}

#[test]
fn a_release_whose_reply_was_lost_is_never_sent_again() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        node.caller.becomes(Weather::LosesReplies);
        let before = node.caller.calls.get();
        let line = error(node.run("LOCK.RELEASE k holder").await);
        assert!(line.starts_with("UNAVAILABLE") && line.contains("is unknown"), "{line}");
        assert_eq!(node.caller.calls.get(), before + 1);
        fence(ann.await.unwrap());
        node.caller.becomes(Weather::Fine);
        node
    });
}

#[test]
fn waiters_survive_a_server_that_comes_back_empty() {
    story(async |server| {
        let node = Node::with(server, LockSettings { look_every_ms: 50, ..settings() });
        let first = node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        server.restart();
        assert!(fence(ann.await.unwrap()) > first);
        node
    });
}

#[test]
fn a_script_error_reaches_the_client_as_it_is_and_a_waiter_outlives_it() {
    story(async |server| {
        let node = Node::with(server, LockSettings { look_every_ms: 20, ..settings() });
        let mut side = server.side_wire();
        side.run("CONFIG SET maxmemory 1");
        let refused = error(node.run("LOCK.ACQUIRE k ann").await);
        assert!(refused.starts_with("OOM "), "{refused}");
        side.run("CONFIG SET maxmemory 0");
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        side.run("CONFIG SET maxmemory 1");
        assert_eq!(node.run("LOCK.RELEASE k holder").await, ONE, "a release needs no memory");
        assert_eq!(get(server, "k"), b"$-1\r\n");
        side.run("CONFIG SET maxmemory 0");
        fence(ann.await.unwrap());
        node
    });
}

#[test]
fn shutting_down_sends_waiters_home_and_lets_the_others_end() {
    story(async |server| {
        let node = Node::new(server);
        node.fence("LOCK.ACQUIRE k holder").await;
        let ann = node.waits("LOCK.ACQUIRE k ann WAIT 60000").await;
        node.engine.shut_down();
        assert_eq!(error(ann.await.unwrap()), "UNAVAILABLE shutting down");
        assert_eq!(error(node.run("LOCK.ACQUIRE k bob WAIT 60000").await), "UNAVAILABLE shutting down");
        assert_eq!(node.run("LOCK.ACQUIRE k bob").await, LockReply::Nil);
        assert_eq!(node.run("LOCK.RELEASE k holder").await, ONE);
        node
    });
}

// ---- Locks tied to a connection.

#[test]
fn a_kept_alive_lock_is_renewed_while_its_connection_lives() {
    story(async |server| {
        let node = Node::new(server);
        let client = node.client();
        fence(client.run("LOCK.ACQUIRE k ann TTL 1000 KEEPALIVE").await);
        let end = Instant::now() + Duration::from_millis(3200);
        until("it has been held for more than three leases", async || {
            assert_eq!(owner_of(server, "k"), "ann");
            Instant::now() > end
        })
        .await;
        client.closes();
        until("it ends with its lease", async || get(server, "k") == b"$-1\r\n").await;
        node
    });
}

#[test]
fn an_ephemeral_lock_is_released_when_its_connection_closes() {
    story(async |server| {
        let node = Node::new(server);
        let client = node.client();
        fence(client.run("LOCK.ACQUIRE k ann TTL 60000 EPHEMERAL").await);
        let bob = node.waits("LOCK.ACQUIRE k bob WAIT 60000").await;
        client.closes();
        fence(bob.await.unwrap());
        assert_eq!(owner_of(server, "k"), "bob");
        node
    });
}

#[test]
fn the_end_of_an_older_connection_touches_nothing_any_more() {
    story(async |server| {
        let node = Node::new(server);
        let (older, newer) = (node.client(), node.client());
        let first = fence(older.run("LOCK.ACQUIRE k ann TTL 60000 EPHEMERAL").await);
        assert_eq!(fence(newer.run("LOCK.ACQUIRE k ann TTL 60000").await), first);
        older.closes();
        node.engine.settled().await;
        assert_eq!(owner_of(server, "k"), "ann");
        node
    });
}

#[test]
fn a_renewal_never_brings_a_released_lock_back_nor_touches_the_next() {
    story(async |server| {
        let node = Node::new(server);
        let client = node.client();
        fence(client.run("LOCK.ACQUIRE k ann TTL 1000 KEEPALIVE").await);
        assert_eq!(node.run("LOCK.RELEASE k ann").await, ONE, "from another connection");
        let before = node.service.calls.get();
        until("a renewal was tried", async || node.service.calls.get() > before).await;
        assert_eq!(get(server, "k"), b"$-1\r\n");
        client.closes();
        fence(node.client().run("LOCK.ACQUIRE k bob TTL 60000").await);
        assert_eq!(owner_of(server, "k"), "bob");
        node
    });
}

// ---- Crowds.

#[test]
fn eight_workers_on_two_threads_lose_no_update() {
    let server = RedisServer::start();
    server.side_wire().run("SET counter 0");
    let engine = Coordinator::new(settings());
    std::thread::scope(|threads| {
        for thread in 0..2 {
            let (engine, server) = (engine.clone(), &server);
            threads.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                LocalSet::new().block_on(&runtime, async {
                    let node = Node::of(engine.clone(), server);
                    let data = Link::new(server, 0);
                    let workers: Vec<_> = (0..4)
                        .map(|worker| spawn_local(count(node.clone(), data.clone(), format!("w{thread}{worker}"))))
                        .collect();
                    for worker in workers {
                        worker.await.unwrap();
                    }
                    // What this thread began for the other's calls it has to end.
                    engine.settled().await;
                });
            });
        }
    });
    assert_eq!(server.side_wire().run("GET counter").text(), "400");
}

/// Fifty times: takes the lock, reads, adds one and writes, lets go.
async fn count(node: Node, data: Link, owner: String) {
    let client = node.client();
    for _ in 0..50 {
        fence(client.run(&format!("LOCK.ACQUIRE k {owner} WAIT 60000")).await);
        let read = data.call(common::command(&["GET", "counter"])).await.unwrap();
        let number = common::Reply::parse(&read).text().parse::<u64>().unwrap();
        data.call(common::command(&["SET", "counter", &(number + 1).to_string()])).await.unwrap();
        assert_eq!(client.run(&format!("LOCK.RELEASE k {owner}")).await, ONE);
    }
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    story(async |server| {
        let node = Node::new(server);
        let mut dice = fastrand::Rng::with_seed(11);
        let mut crowd = Vec::new();
        for number in 0..300 {
            let client = node.client();
            let (key, wait, stays) = (dice.u8(..3), dice.u16(..300), dice.u64(..40));
            crowd.push(spawn_local(async move {
                let line = format!("LOCK.ACQUIRE k{key} o{number} TTL 60000 WAIT {wait}");
                let call = client.run(&line);
                // Some lose patience before the answer, at any moment.
                let Ok(reply) = tokio::time::timeout(Duration::from_millis(stays * 10), call).await else { return };
                if let LockReply::Integer(_) = reply {
                    assert_eq!(client.run(&format!("LOCK.RELEASE k{key} o{number}")).await, ONE);
                }
            }));
            tokio::task::yield_now().await;
        }
        for call in crowd {
            call.await.unwrap();
        }
        until("no lock is left", async || server.side_wire().run("DBSIZE").int() == 1).await;
        node
    });
}

#[test]
fn a_thousand_waiters_on_one_key_do_not_delay_another() {
    story(async |server| {
        let node = Node::with(server, LockSettings { max_queue: 5000, ..settings() });
        node.fence("LOCK.ACQUIRE k holder TTL 600000").await;
        let mut waiting = HashSet::new();
        for number in 0..1000 {
            let client = node.client();
            spawn_local(async move { client.run(&format!("LOCK.ACQUIRE k o{number} WAIT 60000")).await });
            waiting.insert(number);
        }
        let everyone = LockReply::Integer(1000);
        until("all wait", async || field(&node.run("LOCK.INFO k").await, "waiters") == everyone).await;
        let began = Instant::now();
        node.fence("LOCK.ACQUIRE other ann").await;
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        assert_eq!(node.run("LOCK.RELEASE k holder").await, ONE);
        node
    });
}

// ---- Several keys at once, and locks that change hands, while replies are lost.

fn fences(reply: &LockReply) -> Vec<i64> {
    let LockReply::Array(fences) = reply else { panic!("fences were expected, not {reply:?}") };
    fences.iter().map(|fence| fence.as_integer().unwrap()).collect()
}

/// The server knows these scripts from now on.
async fn knows_more_scripts(node: &Node) {
    assert_eq!(fences(&node.run("LOCK.ACQUIREALL 1 warm ann").await).len(), 1);
    node.fence("LOCK.TRANSFER warm ann bob").await;
    assert_eq!(node.run("LOCK.RELEASE warm bob").await, ONE);
}

#[test]
fn several_keys_whose_grant_was_lost_on_its_way_are_granted_by_the_second_try() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        knows_more_scripts(&node).await;
        node.caller.becomes(Weather::LosesReplies);
        let (other, clears) = (node.clone(), node.caller.clone());
        let call = spawn_local(async move { other.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000 WAIT 60000").await });
        until("the first try ran", async || owner_of(server, "c") == "ann").await;
        clears.becomes(Weather::Fine);
        let granted = fences(&call.await.unwrap());
        for (key, fence) in ["a", "b", "c"].into_iter().zip(granted) {
            assert_eq!(field(&node.run(&format!("LOCK.INFO {key}")).await, "fence"), LockReply::Integer(fence));
        }
        assert_eq!(node.run("LOCK.RELEASEALL 3 a b c ann").await, LockReply::Integer(3));
        node
    });
}

#[test]
fn several_keys_of_whose_grant_nobody_was_told_are_given_back() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        knows_more_scripts(&node).await;
        let held = node.fence("LOCK.ACQUIRE b ann TTL 60000").await;
        // Every reply is lost, and the call gives up.
        node.caller.becomes(Weather::LosesReplies);
        assert!(error(node.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000").await).starts_with("UNAVAILABLE"));
        node.caller.becomes(Weather::Fine);
        until("they are free", async || server.side_wire().run("EXISTS a c").int() == 0).await;
        // The client leaves while the reply is on its way.
        node.caller.becomes(Weather::HoldsReplies);
        let other = node.clone();
        let call = spawn_local(async move { other.run("LOCK.ACQUIREALL 3 a b c ann TTL 60000").await });
        until("they are taken", async || server.side_wire().run("EXISTS a c").int() == 2).await;
        call.abort();
        assert!(call.await.is_err());
        node.caller.becomes(Weather::Fine);
        until("they are free again", async || server.side_wire().run("EXISTS a c").int() == 0).await;
        assert_eq!(field(&node.run("LOCK.INFO b").await, "fence"), LockReply::Integer(held), "his own hold stays");
        assert_eq!(node.run("LOCK.RELEASE b ann").await, ONE);
        node
    });
}

#[test]
fn several_keys_are_waited_for_while_the_upstream_is_away() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        knows_more_scripts(&node).await;
        node.caller.becomes(Weather::Away);
        assert!(error(node.run("LOCK.ACQUIREALL 2 a b ann").await).starts_with("UNAVAILABLE"));
        assert!(error(node.run("LOCK.ACQUIREALL 2 a b ann WAIT 50").await).starts_with("UNAVAILABLE"));
        let other = node.clone();
        let call = spawn_local(async move { other.run("LOCK.ACQUIREALL 2 a b ann WAIT 60000").await });
        tokio::task::yield_now().await;
        node.caller.becomes(Weather::Fine);
        assert_eq!(fences(&call.await.unwrap()).len(), 2);
        assert_eq!(node.run("LOCK.RELEASEALL 2 a b ann").await, LockReply::Integer(2));
        assert_eq!(server.side_wire().run("DBSIZE").int(), 1);
        node
    });
}

#[test]
fn who_waits_for_several_keys_and_leaves_gives_on_what_he_was_about_to_get() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        for round in 0..30_u64 {
            node.fence("LOCK.ACQUIRE b holder TTL 60000").await;
            let other = node.clone();
            let call = spawn_local(async move { other.run("LOCK.ACQUIREALL 3 a b c many TTL 60000 WAIT 60000").await });
            until("it waits", async || node.run("LOCK.POSITION b many").await == ONE).await;
            let next = node.waits("LOCK.ACQUIRE b next TTL 60000 WAIT 60000").await;
            assert_eq!(node.run("LOCK.RELEASE b holder").await, ONE);
            tokio::time::sleep(Duration::from_micros(round * 40)).await;
            call.abort();
            match call.await {
                Ok(granted) => {
                    assert_eq!(fences(&granted).len(), 3);
                    assert_eq!(node.run("LOCK.RELEASEALL 3 a b c many").await, LockReply::Integer(3));
                }
                Err(_) => until("a and c are free", async || server.side_wire().run("EXISTS a c").int() == 0).await,
            }
            fence(next.await.unwrap());
            assert_eq!(node.run("LOCK.RELEASE b next").await, ONE);
        }
        node
    });
}

#[test]
fn a_transfer_whose_reply_was_lost_is_told_when_it_can_be_seen() {
    story(async |server| {
        let node = Node::new(server).warmed_up().await;
        knows_more_scripts(&node).await;
        node.fence("LOCK.ACQUIRE k ann TTL 60000").await;
        node.caller.becomes(Weather::LosesReplies);
        let told = error(node.run("LOCK.TRANSFER k ann bob").await);
        assert!(told.contains("whether the lock was transferred is unknown"), "{told}");
        assert_eq!(owner_of(server, "k"), "bob");
        node.caller.becomes(Weather::Fine);
        assert_eq!(node.run("LOCK.RELEASE k bob").await, ONE);
        node
    });
}

/// What these tests need of replies beyond what is common.
trait TextItems {
    fn text_items(&self) -> Vec<String>;
}

impl TextItems for common::Reply {
    fn text_items(&self) -> Vec<String> {
        self.items().iter().map(|item| item.text()).collect()
    }
}
