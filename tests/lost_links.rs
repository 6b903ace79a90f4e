//! Links that are lost with something unanswered on them: what was sent there must not run when everybody has given it up.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::holder::{Hold, Holder};
use common::{Lockgate, PATIENCE, RedisServer, Reply, ServerKind, Wire, command, eventually};

/// Requests with this in them are kept.
const WORD: &str = "orders:late";
/// One worker, so that all clients share its links, and a patience that a test need not wait for.
const SETTINGS: &str = "workers = 1\n[links]\nreply_timeout = \"1s\"\nconnect_timeout = \"2s\"\n";

struct Scene {
    server: RedisServer,
    holder: Holder,
    lockgate: Lockgate,
}

impl Scene {
    fn new() -> Self {
        Scene::of(RedisServer::start(), "", "")
    }

    fn of(server: RedisServer, credentials: &str, more: &str) -> Self {
        let holder = Holder::before(server.addr(), WORD.as_bytes());
        let url = holder.url().replace("redis://", &format!("redis://{credentials}"));
        let config = format!("{more}{SETTINGS}");
        let lockgate = Lockgate::serve(&["--upstream", &url], Some(&config));
        Scene { server, holder, lockgate }
    }

    /// The server has the scripts, so that each call is one request.
    fn warmed_up(self, client: &mut Wire) -> Self {
        client.acquires("warm", "ann");
        client.releases("warm", "ann");
        self
    }

    /// The client's request is on its way, and stays there.
    fn keeps(&self, client: &mut Wire, request: &[u8]) {
        self.holder.hold(Hold::Later);
        client.send(request);
        eventually("the request is kept", || (self.holder.held() == 1).then_some(()));
        self.holder.hold(Hold::Nothing);
    }

    /// What was kept reaches the server, if that still listens.
    fn lets_go(&self) {
        self.holder.let_go();
        eventually("what was late has come", || (self.holder.late() == 1).then_some(()));
    }

    fn value(&self) -> Reply {
        self.server.side_wire().run(&format!("GET {WORD}"))
    }
}

fn is_fence(reply: &Reply) -> bool {
    matches!(reply, Reply::Int(fence) if *fence > 0)
}

fn acquire() -> Vec<u8> {
    command(&["LOCK.ACQUIRE", WORD, "ann", "TTL", "600000"])
}

/// The call is asked again over another link, and the lock taken and released there.
fn is_granted_and_releases(client: &mut Wire) {
    client.is_granted();
    client.releases(WORD, "ann");
}

#[test]
fn what_was_on_its_way_when_the_link_broke_never_runs() {
    let scene = Scene::new();
    let mut ann = scene.lockgate.wire();
    let scene = scene.warmed_up(&mut ann);
    scene.keeps(&mut ann, &acquire());
    scene.holder.cut();
    is_granted_and_releases(&mut ann);
    scene.lets_go();
    assert_eq!(scene.value(), Reply::Nil, "a lock that nobody knows of");
}

#[test]
fn what_lies_on_a_silent_link_never_runs_once_its_caller_was_told() {
    let scene = Scene::new();
    let mut ann = scene.lockgate.wire();
    let scene = scene.warmed_up(&mut ann);
    scene.keeps(&mut ann, &acquire());
    // Nothing breaks: the link is given up because another one is answered and this one is not.
    is_granted_and_releases(&mut ann);
    scene.lets_go();
    assert_eq!(scene.value(), Reply::Nil, "a lock that nobody knows of");
}

#[test]
fn a_waiter_who_has_gone_is_not_registered_late() {
    let scene = Scene::new();
    let (mut ann, mut bob) = (scene.lockgate.wire(), scene.lockgate.wire());
    let scene = scene.warmed_up(&mut ann);
    ann.acquires(WORD, "ann");
    scene.keeps(&mut bob, &command(&["LOCK.ACQUIRE", WORD, "bob", "WAIT", "600000"]));
    drop(bob);
    eventually("the link is ended", || (scene.holder.ended() == 1).then_some(()));
    scene.lets_go();
    let mut look = scene.server.side_wire();
    eventually("nobody is registered", || (look.run(&format!("EXISTS lockgate:q:{WORD}")).int() == 0).then_some(()));
    ann.releases(WORD, "ann");
    assert_eq!(scene.value(), Reply::Nil);
}

#[test]
fn what_a_connection_with_a_link_of_its_own_had_sent_never_runs_late() {
    let scene = Scene::new();
    let mut ann = scene.lockgate.wire();
    assert_eq!(ann.run("WATCH k"), Reply::Simple("OK".into()));
    scene.keeps(&mut ann, &command(&["SET", WORD, "late"]));
    scene.holder.cut();
    let _ = ann.until_closed(PATIENCE).expect("its connection ends with the link");
    eventually("the link is ended", || (scene.holder.ended() == 1).then_some(()));
    scene.lets_go();
    assert_eq!(scene.value(), Reply::Nil);
}

#[test]
fn what_was_sent_for_a_client_whose_connection_ends_runs_as_without_lockgate() {
    let scene = Scene::new();
    let (mut ann, mut other) = (scene.lockgate.wire3(), scene.lockgate.wire());
    ann.run("SUBSCRIBE c");
    scene.keeps(&mut ann, &command(&["SET", WORD, "left"]));
    drop(ann);
    eventually("Lockgate has noticed that nobody is there", || {
        scene.server.side_wire().run("PUBLISH c m");
        (other.run("CLIENT LIST").text().lines().count() == 1).then_some(())
    });
    scene.lets_go();
    assert_eq!(scene.value(), Reply::bulk("left"));
}

#[test]
fn numbers_of_another_life_of_the_server_are_left_alone() {
    let mut scene = Scene::new();
    let mut ann = scene.lockgate.wire();
    scene = scene.warmed_up(&mut ann);
    scene.keeps(&mut ann, &acquire());
    let numbers = scene.server.side_wire().run("CLIENT LIST").text();
    let most =
        numbers.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse::<i64>().ok()).max();
    scene.holder.shut(true);
    scene.server.kill();
    scene.server.restart();
    // Strangers get the numbers that the lost links had.
    let mut strangers = Vec::new();
    while strangers.last_mut().is_none_or(|stranger: &mut Wire| stranger.run("CLIENT ID").int() <= most.unwrap()) {
        strangers.push(Wire::connect(scene.server.addr()));
    }
    scene.holder.shut(false);
    let mut client = scene.lockgate.wire();
    eventually("Lockgate has its upstream again", || is_fence(&client.run("LOCK.ACQUIRE other ann")).then_some(()));
    for stranger in &mut strangers {
        assert_eq!(stranger.run("PING"), Reply::Simple("PONG".into()));
    }
}

/// With users of its own for Lockgate and for clients; neither the one nor the other may everything.
fn server_with_users(service: &str) -> RedisServer {
    let server = RedisServer::start_with(ServerKind::Redis70, &[]);
    let mut admin = server.side_wire();
    for line in [
        format!("ACL SETUSER service on >secret ~* &* +@all {service}"),
        "ACL SETUSER app on >secret ~* &* +@all -client|kill".into(),
    ] {
        assert_eq!(admin.run(&line), Reply::Simple("OK".into()));
    }
    server
}

#[test]
fn links_of_clients_are_ended_by_lockgate_itself() {
    let scene = Scene::of(server_with_users(""), "service:secret@", "");
    let mut ann = scene.lockgate.wire();
    assert_eq!(ann.run("AUTH app secret"), Reply::Simple("OK".into()));
    let scene = scene.warmed_up(&mut ann);
    scene.keeps(&mut ann, &acquire());
    scene.holder.cut();
    is_granted_and_releases(&mut ann);
    scene.lets_go();
    assert_eq!(scene.value(), Reply::Nil);
    assert!(!scene.lockgate.wrote().contains("cannot be ended"), "{}", scene.lockgate.wrote());
}

#[test]
fn where_lockgate_may_end_no_links_it_says_so_once_and_goes_on() {
    let scene = Scene::of(server_with_users("-client|kill"), "service:secret@", "trust_clients = true\n");
    let mut ann = scene.lockgate.wire();
    let scene = scene.warmed_up(&mut ann);
    scene.keeps(&mut ann, &acquire());
    for _ in 0..3 {
        scene.holder.cut();
        eventually("it goes on", || is_fence(&ann.run("LOCK.ACQUIRE warm ann")).then_some(()));
    }
    eventually("it says so", || scene.lockgate.wrote().contains("cannot be ended upstream").then_some(()));
    assert_eq!(scene.lockgate.wrote().matches("cannot be ended upstream").count(), 1);
}

#[test]
fn who_shares_a_link_that_was_only_slow_has_his_reply() {
    let scene = Scene::new();
    let (mut ann, mut plain) = (scene.lockgate.wire(), scene.lockgate.wire());
    let scene = scene.warmed_up(&mut ann);
    assert_eq!(plain.run("SET k v"), Reply::Simple("OK".into()));
    scene.server.freeze();
    plain.ask_line("GET k");
    ann.send(&acquire());
    let told = ann.reply();
    assert!(told.is_error("UNAVAILABLE"), "{told:?}");
    scene.server.thaw();
    assert_eq!(plain.reply(), Reply::bulk("v"));
    eventually("all is well", || is_fence(&ann.run("LOCK.ACQUIRE other ann")).then_some(()));
}
