//! Who may: users with differing rights on every server. What the upstream refuses somebody has no effect through Lockgate either, and
//! the refusal is the upstream's own.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lockgate, RedisServer, Reply, ServerKind, Stage, Wire, eventually};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Every server, and Lockgate in front of it.
fn stages() -> impl Iterator<Item = Stage> {
    ServerKind::ALL.into_iter().map(Stage::on)
}

impl Wire {
    /// Becomes the user `name`, whose password is its name.
    #[track_caller]
    fn acting_as(mut self, name: &str) -> Self {
        assert_eq!(self.call(&["AUTH", name, name]), b"+OK\r\n");
        self
    }
}

impl Stage {
    /// Makes `name` a user with these rights alone, and its password its name.
    #[track_caller]
    fn user(&self, name: &str, rights: &str) {
        let rules = format!("ACL SETUSER {name} reset on >{name} {rights}");
        assert_eq!(self.bypass().run(&rules), Reply::Simple("OK".into()));
    }
}

#[test]
fn a_full_upstream_is_no_reason_to_close_a_users_connections() {
    for stage in stages() {
        stage.user("ann", "~* +@all");
        let (mut ann, mut admin) = (stage.client().acting_as("ann"), stage.bypass());
        assert_eq!(ann.run("SET k v"), Reply::Simple("OK".into()));
        let most = admin.run("CONFIG GET maxclients").items()[1].text();
        assert_eq!(admin.run("CONFIG SET maxclients 1"), Reply::Simple("OK".into()));
        assert!(admin.run("CLIENT KILL USER ann").int() >= 1);
        // Lockgate looks whether the user is still welcome, and is turned away because there are too many clients.
        let refused = || {
            let info = admin.run("INFO stats").text();
            (!info.contains("rejected_connections:0")).then_some(())
        };
        eventually("the upstream turns a connection away", refused);
        assert_eq!(admin.run(&format!("CONFIG SET maxclients {most}")), Reply::Simple("OK".into()));
        eventually("the user is served again on the same connection", || {
            ann.call(&["GET", "k"]).starts_with(b"$1").then_some(())
        });
    }
}

/// What Lockgate wants to know of a link it asks as itself, or as nobody, before the link becomes the client's.
#[test]
fn what_a_client_may_not_ask_is_not_asked_in_its_name() {
    for kind in ServerKind::ALL {
        for gate in ["", "gate:gate@"] {
            let server = RedisServer::start_with(kind, &[]);
            let mut side = server.side_wire();
            for rules in ["gate reset on >gate ~* &* +@all", "poor reset on >poor ~* +get"] {
                side.run(&format!("ACL SETUSER {rules}"));
            }
            side.run("ACL LOG RESET");
            let lockgate = Lockgate::serve(&["--upstream", &format!("redis://{gate}{}", server.addr())], None);
            let mut poor = lockgate.wire().acting_as("poor");
            assert_eq!(poor.run("GET k"), Reply::Nil);
            poor.run("HELLO 3");
            assert_eq!(poor.run("GET k"), Reply::Nil);
            assert_eq!(side.run("ACL LOG"), Reply::Array(Vec::new()), "{} as '{gate}'", kind.name());
        }
    }
}

/// A connection straight to a server of its own, and one through Lockgate to another, both as the user `ann` with these rights.
struct Pair {
    stage: Stage,
    _alone: RedisServer,
    wires: [Wire; 2],
}

impl Pair {
    fn new(kind: ServerKind, rights: &str) -> Self {
        let (stage, alone) = (Stage::on(kind), RedisServer::start_with(kind, &[]));
        stage.user("ann", rights);
        let rules = format!("ACL SETUSER ann reset on >ann {rights}");
        assert_eq!(alone.wire().run(&rules), Reply::Simple("OK".into()));
        let wires = [alone.wire().acting_as("ann"), stage.client().acting_as("ann")];
        Self { stage, _alone: alone, wires }
    }

    /// What the command is answered, which must be the same both ways.
    #[track_caller]
    fn says<W: AsRef<[u8]> + std::fmt::Debug>(&mut self, words: &[W]) -> Reply {
        let kind = self.stage.server.kind();
        let [direct, through] = self.wires.each_mut().map(|wire| wire.call(words));
        let shown = |reply: &[u8]| reply.escape_ascii().to_string();
        assert_eq!(shown(&through), shown(&direct), "{words:?} on {}", kind.name());
        Reply::parse(&direct)
    }

    #[track_caller]
    fn says_line(&mut self, line: &str) -> Reply {
        self.says(&line.split(' ').collect::<Vec<_>>())
    }
}

/// Every subcommand of `CLIENT` that Lockgate answers or acts on, in forms that the servers would carry out.
const CLIENT_LINES: [&str; 22] = [
    "CLIENT ID",
    "CLIENT GETNAME",
    "CLIENT INFO",
    "CLIENT LIST",
    "CLIENT LIST TYPE normal",
    "CLIENT LIST ID 1",
    "CLIENT SETNAME bob",
    "CLIENT SETINFO lib-name bob",
    "CLIENT KILL 127.0.0.1:1",
    "CLIENT KILL USER default",
    "CLIENT KILL TYPE normal SKIPME no",
    "CLIENT UNBLOCK 1",
    "CLIENT UNBLOCK 1 ERROR",
    "CLIENT PAUSE 60000 WRITE",
    "CLIENT UNPAUSE",
    "CLIENT GETREDIR",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING ON",
    "CLIENT NO-EVICT ON",
    "CLIENT NO-TOUCH ON",
    "CLIENT CAPA redirect",
    "CLIENT HELP",
];

#[test]
fn who_may_not_run_client_gets_the_upstreams_refusal_and_nothing_happens() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::new(kind, "~* +@all -client");
        let mut other = pair.stage.client();
        let id = other.run("CLIENT ID").int();
        for line in CLIENT_LINES {
            let reply = pair.says_line(line);
            assert!(reply.is_error("NOPERM") || reply.is_error("ERR unknown subcommand"), "{line}: {reply:?}");
        }
        assert!(pair.says_line(&format!("CLIENT KILL ID {id}")).is_error("NOPERM"));
        assert_eq!(other.run("SET lock:free v NX"), Reply::Simple("OK".into()), "nothing is paused, and it lives");
        assert!(!other.run("CLIENT LIST").text().contains("name=bob"));
    }
}

#[test]
fn a_refused_unblock_leaves_the_waiter_where_it_is() {
    for stage in stages() {
        stage.user("ann", "~* +@all -client|unblock -client|kill");
        let (mut holder, mut waiter, mut blocked) = (stage.client(), stage.client(), stage.client());
        let ids = [&mut waiter, &mut blocked].map(|wire| wire.run("CLIENT ID").int());
        holder.acquires("lock:1", "holder");
        waiter.waits_for("lock:1", "waiter");
        blocked.ask_line("BLPOP list 0");
        stage.await_waiters("lock:1", 1);
        stage.server.await_blocked(1);
        let mut ann = stage.client().acting_as("ann");
        for id in ids {
            for line in ["CLIENT UNBLOCK {}", "CLIENT UNBLOCK {} ERROR", "CLIENT KILL ID {}"] {
                assert!(ann.run(&line.replace("{}", &id.to_string())).is_error("NOPERM"), "{line}");
            }
        }
        holder.run("RPUSH list x");
        assert_eq!(blocked.reply().items().len(), 2);
        holder.releases("lock:1", "holder");
        waiter.is_granted();
    }
}

#[test]
fn a_pause_is_what_the_upstream_makes_of_it() {
    for stage in stages() {
        stage.user("ann", "~* +@all -client|unpause");
        let (mut ann, mut other) = (stage.client().acting_as("ann"), stage.client());
        for misspelt in
            ["CLIENT PAUSE 60000 SOME", "CLIENT PAUSE x", "CLIENT PAUSE -1", "CLIENT PAUSE +60000", "CLIENT PAUSE"]
        {
            assert!(ann.run(misspelt).is_error("ERR"), "{misspelt}");
            assert_eq!(other.run("SET lock:1 v NX"), Reply::Simple("OK".into()), "{misspelt}");
            other.run("DEL lock:1");
        }
        let begun = Instant::now();
        assert_eq!(ann.run("CLIENT PAUSE 1500 WRITE"), Reply::Simple("OK".into()));
        assert_eq!(ann.run("CLIENT PAUSE 1 WRITE"), Reply::Simple("OK".into()), "which shortens nothing");
        assert!(ann.run("CLIENT UNPAUSE").is_error("NOPERM"));
        assert!(ann.run("CLIENT UNPAUSE now").is_error("ERR wrong number"));
        assert_eq!(other.run("SET lock:1 v NX"), Reply::Simple("OK".into()));
        assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
        assert_eq!(ann.run("CLIENT PAUSE 60000 WRITE"), Reply::Simple("OK".into()));
        assert_eq!(other.run("CLIENT UNPAUSE"), Reply::Simple("OK".into()));
        assert_eq!(other.run("SET lock:2 v NX"), Reply::Simple("OK".into()));
    }
}

#[test]
fn what_an_error_quotes_does_not_split_the_reply() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::new(kind, "~* +@all");
        for odd in [&b"a\r\nb"[..], b"\r\n+OK", b"\0x", b"\xff\xfe", b"a\r\n:1\r\n"] {
            for before in [
                &["CLIENT", "LIST", "TYPE"][..],
                &["CLIENT", "LIST", "ID"],
                &["CLIENT", "LIST"],
                &["CLIENT", "KILL", "TYPE"],
                &["CLIENT", "KILL", "USER"],
                &["CLIENT", "KILL", "ID"],
                &["CLIENT", "KILL"],
                &["CLIENT", "UNBLOCK"],
                &["CLIENT", "UNBLOCK", "1"],
                &["CLIENT", "PAUSE", "1"],
                &["CLIENT", "SETNAME"],
                &["CLIENT", "SETINFO", "lib-name"],
                &["CLIENT"],
                &["CLIENT", "TRACKING"],
                &["CLIENT", "REPLY"],
            ] {
                let words: Vec<&[u8]> = before.iter().map(|word| word.as_bytes()).chain([odd]).collect();
                pair.says(&words);
            }
            pair.says(&[&b"CLIENT"[..], b"SETINFO", odd, b"x"]);
            let client = &mut pair.wires[1];
            for words in [
                &[&b"LOCK.ACQUIRE"[..], b"k", b"o", odd][..],
                &[b"LOCK.ACQUIRE", b"k", b"o", b"TTL", odd],
                &[b"LOCK.RELEASEALL", b"2", odd, odd, b"o"],
                &[b"LOCK.SLOWLOG", odd],
                &[b"LOCK.CONFIG", odd],
                &[b"LOCK.CONFIG", b"SET", odd, b"1"],
                &[b"LOCK.LIST", odd],
            ] {
                assert!(Reply::parse(&client.call(words)).is_error("ERR"), "{words:?}");
            }
            // A value without expiry is no lock, and the error names its key.
            assert_eq!(client.call(&[&b"SET"[..], odd, b"data"]), b"+OK\r\n");
            assert!(Reply::parse(&client.call(&[&b"LOCK.RELEASE"[..], odd, b"o"])).is_error("ERR"));
            assert_eq!(client.call(&["PING"]), b"+PONG\r\n", "each command had one reply");
        }
    }
}

/// The names of the clients that are listed.
fn names(listed: &Reply) -> BTreeSet<String> {
    let text = listed.text();
    let names = text.split_whitespace().filter_map(|word| word.strip_prefix("name=")).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[test]
fn filters_are_those_of_the_upstream() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::new(kind, "~* +@all");
        let mut kept = Vec::new();
        for wire in [|pair: &Pair| pair._alone.wire(), |pair: &Pair| pair.stage.client()] {
            let (mut named, mut subscribed, mut queueing) = (wire(&pair).acting_as("ann"), wire(&pair), wire(&pair));
            for (client, name) in [(&mut named, "one"), (&mut subscribed, "two"), (&mut queueing, "three")] {
                assert_eq!(client.call(&["CLIENT", "SETNAME", name]), b"+OK\r\n");
            }
            named.run("CLIENT SETINFO lib-name lib");
            named.run("CLIENT CAPA redirect");
            named.run("SELECT 3");
            subscribed.run("SUBSCRIBE channel");
            queueing.run("MULTI");
            kept.extend([named, subscribed, queueing]);
        }
        for filter in [
            "",
            "TYPE normal",
            "TYPE pubsub",
            "TYPE replica",
            "TYPE primary",
            "TYPE nosuch",
            "TYPE",
            "ID",
            "ID x",
            "ID 0",
            "ID 77777",
            "ID 77777 88888",
            "USER ann",
            "USER nobody",
            "USER default",
            "SKIPME yes",
            "SKIPME x",
            "NAME one",
            "NAME one NAME two",
            "NOT-NAME one",
            "LIB-NAME lib",
            "NOT-LIB-NAME lib",
            "DB 3",
            "DB 77",
            "DB x",
            "NOT-DB 3",
            "FLAGS P",
            "FLAGS x",
            "FLAGS Z",
            "NOT-FLAGS N",
            "CAPA r",
            "NOT-CAPA r",
            "CAPA q",
            "IP 127.0.0.1",
            "IP 1",
            "MAXAGE 1000",
            "MAXAGE 0",
            "IDLE 1000",
            "IDLE x",
            "ADDR x LADDR y",
            "NOT-ADDR x",
            "NOT-TYPE pubsub",
            "FOO x",
            "TYPE normal DB 3",
        ] {
            let line = format!("CLIENT LIST {filter}");
            let [direct, through] = pair.wires.each_mut().map(|wire| wire.run(line.trim_end()));
            let seen = |reply: &Reply| match reply {
                Reply::Error(_) => Err(format!("{reply:?}")),
                listed => Ok(names(listed)),
            };
            assert_eq!(seen(&through), seen(&direct), "{filter} on {}", kind.name());
        }
        for filter in [
            "USER nobody",
            "TYPE nosuch",
            "ID 0",
            "ID 77777",
            "NAME nobody",
            "MAXAGE x",
            "127.0.0.1:1",
            "ADDR",
            "IDLE 0",
        ] {
            pair.says_line(&format!("CLIENT KILL {filter}"));
        }
        let [direct, through] = pair.wires.each_mut().map(|wire| wire.run("CLIENT KILL ADDR x TYPE pubsub"));
        assert_eq!((direct, through), (Reply::Int(0), Reply::Int(0)));
        let [direct, through] = pair.wires.each_mut().map(|wire| wire.run("CLIENT KILL TYPE pubsub"));
        assert_eq!((direct, through), (Reply::Int(1), Reply::Int(1)));
    }
}

/// The names of the fields of every line.
fn fields(listed: &Reply) -> Vec<Vec<String>> {
    let field = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
    listed.text().lines().map(|line| line.split(' ').map(field).collect()).collect()
}

#[test]
fn clients_are_listed_with_the_fields_that_the_upstream_has() {
    for kind in ServerKind::ALL {
        let mut pair = Pair::new(kind, "~* +@all");
        let [direct, through] = pair.wires.each_mut().map(|wire| fields(&wire.run("CLIENT LIST"))[0].clone());
        assert_eq!(through, direct, "{}", kind.name());
        let [direct, through] = pair.wires.each_mut().map(|wire| fields(&wire.run("CLIENT INFO")));
        assert_eq!(through, direct, "{}", kind.name());
    }
}

#[test]
fn what_tells_of_all_locks_needs_the_like_on_the_upstream() {
    const NEEDED: [(&str, &str); 13] = [
        ("LOCK.STATS", "info"),
        ("LOCK.NODES", "info"),
        ("LOCK.HEALTH", "info"),
        ("LOCK.GRAPH", "slowlog|get"),
        ("LOCK.DEADLOCKS", "slowlog|get"),
        ("LOCK.SLOWLOG GET", "slowlog|get"),
        ("LOCK.SLOWLOG LEN", "slowlog|len"),
        ("LOCK.SLOWLOG RESET", "slowlog|reset"),
        ("LOCK.CONFIG GET *", "config|get"),
        ("LOCK.CONFIG SET max_wait 5s", "config|set"),
        ("LOCK.FORCE lock:1", "config|set"),
        ("LOCK.CLEANUP", "config|set"),
        ("LOCK.HELP", "help"),
    ];
    for stage in stages() {
        for (line, permission) in NEEDED {
            let mut others: Vec<&str> =
                NEEDED.iter().map(|(_, other)| *other).filter(|other| *other != permission).collect();
            others.retain(|other| *other != "help");
            let but: String = others.iter().map(|other| format!(" +{other}")).collect();
            let rights = "~* &* +@all -@dangerous -@admin";
            stage.user("ann", &format!("{rights}{but}"));
            let reply = stage.client().acting_as("ann").run(line);
            if permission == "help" {
                assert!(!matches!(reply, Reply::Error(_)), "{line}: {reply:?}");
                continue;
            }
            let command = line.split(' ').next().unwrap();
            let says = format!("NOPERM {command} needs the permission to run '{permission}' on the upstream");
            assert!(reply.is_error(&says), "{line}: {reply:?}");
            stage.user("ann", &format!("{rights} +{permission}"));
            let reply = stage.client().acting_as("ann").run(line);
            assert!(!matches!(reply, Reply::Error(_)), "{line} with {permission}: {reply:?}");
        }
        assert!(stage.lockgate.wrote().contains("LOCK.CONFIG SET"), "who changed a setting stands in the log");
    }
}

/// The upstream's own words for a script that does what its user may not do. Each version has others.
#[track_caller]
fn assert_is_refused_in_a_script(reply: &Reply) {
    let Reply::Error(says) = reply else { panic!("it is not refused: {reply:?}") };
    assert!(["can't run this command", "no permissions"].iter().any(|words| says.contains(words)), "{says}");
}

#[test]
fn who_may_only_look_at_locks_changes_nobodys_wait() {
    const LOOKS: &str = "~* +@connection +evalsha +eval +exists +get +pttl +time +hget +hgetall";
    for stage in stages() {
        let (mut holder, mut waiter) = (stage.client(), stage.client());
        holder.acquires("lock:1", "holder");
        waiter.waits_for("lock:1", "waiter");
        stage.await_waiters("lock:1", 1);
        stage.user("ann", LOOKS);
        let mut ann = stage.client().acting_as("ann");
        let keys = |stage: &Stage| stage.bypass().run("HGETALL lockgate:q:lock:1");
        let before = keys(&stage);
        for line in ["LOCK.CANCEL lock:1 waiter", "LOCK.PROMOTE lock:1 waiter high", "LOCK.CANCEL lock:1 nobody"] {
            assert_is_refused_in_a_script(&ann.run(line));
        }
        assert_eq!(ann.run("LOCK.POSITION lock:1 waiter"), Reply::Int(1));
        let queue = ann.run("LOCK.QUEUE lock:1");
        assert_eq!(queue.items()[0].field("priority").text(), "normal", "{queue:?}");
        assert_eq!(keys(&stage), before);
        stage.user("ann", &format!("{LOOKS} +hdel"));
        let mut ann = stage.client().acting_as("ann");
        assert_eq!(ann.run("LOCK.PROMOTE lock:1 waiter high"), Reply::Int(1));
        assert_eq!(ann.run("LOCK.CANCEL lock:1 waiter"), Reply::Int(1));
        assert_eq!(waiter.reply(), Reply::Nil);
        // The question itself changes nothing upstream.
        eventually("nobody is registered any more", || {
            (stage.bypass().run("EXISTS lockgate:q:lock:1") == Reply::Int(0)).then_some(())
        });
        let changes = |stage: &Stage| {
            let info = stage.bypass().run("INFO persistence").text();
            info.lines().find(|line| line.starts_with("rdb_changes_since_last_save")).unwrap().to_owned()
        };
        let before = changes(&stage);
        assert_eq!(ann.run("LOCK.CANCEL lock:2 waiter"), Reply::Int(0));
        assert_eq!(changes(&stage), before);
    }
}

#[test]
fn a_release_that_the_upstream_refuses_is_not_counted_and_ends_nothing() {
    for stage in stages() {
        stage.user("ann", "~* &* +@all");
        let mut ann = stage.client().acting_as("ann");
        ann.run("LOCK.ACQUIRE lock:1 ann KEEPALIVE TTL 60000").int();
        stage.client().acquires("lock:2", "holder");
        let mut waiting = stage.client();
        waiting.waits_for("lock:2", "ann");
        stage.await_waiters("lock:2", 1);
        stage.user("ann", "~* &* +@all -del");
        let figures = |stage: &Stage| {
            let stats = stage.client().run("LOCK.STATS");
            ["holds", "released", "expired", "active_locks", "bound_locks"].map(|name| stats.field(name))
        };
        let before = figures(&stage);
        assert_is_refused_in_a_script(&ann.run("LOCK.RELEASE lock:1 ann"));
        stage.user("ann", "~lock:* &* +@all");
        assert!(ann.run("LOCK.RELEASE lock:2 ann").is_error("NOPERM"));
        assert_eq!(figures(&stage), before);
        assert_eq!(stage.client().run("LOCK.POSITION lock:1 ann"), Reply::Int(0));
        assert_eq!(stage.client().run("LOCK.POSITION lock:2 ann"), Reply::Int(1));
    }
}

#[test]
fn a_refused_reset_resets_nothing() {
    for stage in stages() {
        stage.user("ann", "~* &* +@all -slowlog|reset");
        let mut ann = stage.client().acting_as("ann");
        ann.run("CONFIG SET slowlog-log-slower-than 0");
        ann.run("PING");
        assert!(ann.run("LOCK.SLOWLOG RESET").is_error("NOPERM"));
        assert!(ann.run("SLOWLOG LEN").int() > 0);
        assert_eq!(stage.client().run("LOCK.SLOWLOG RESET"), Reply::Simple("OK".into()));
        assert!(ann.run("SLOWLOG LEN").int() > 0, "that of the upstream is another");
    }
}

/// Calls that take a free lock, with rights under which they go differently, and whether they may.
const PLAIN_CALLS: [(&str, &[&str]); 9] = [
    // All that redis-py's Lock needs.
    ("~* +set +get +del +eval +evalsha", &["SET lock:1 v NX PX 60000", "SETNX lock:2 v"]),
    ("~* +set", &["SET lock:1 v NX", "SETNX lock:2 v", "SET lock:3 v NX EX 60"]),
    ("~* +setnx", &["SETNX lock:1 v", "SET lock:2 v NX"]),
    ("~* +@all -set", &["SETNX lock:1 v", "SET lock:2 v NX", "SETNX lock:1 w"]),
    ("~* +@all -setnx", &["SETNX lock:1 v", "SET lock:2 v NX"]),
    ("~lock:* +@all", &["SET lock:1 v NX", "SETNX lock:2 v", "SET locks:3 v NX"]),
    ("%W~lock:* +@all", &["SET lock:1 v NX PX 60000", "SETNX lock:2 v"]),
    ("%R~lock:* +@all", &["SET lock:1 v NX PX 60000", "SETNX lock:2 v"]),
    ("~* +@all -@scripting", &["SET lock:1 v NX PX 60000", "SETNX lock:2 v", "SET lock:1 w NX"]),
];

#[test]
fn a_set_nx_asks_for_the_rights_it_asks_for_on_the_server() {
    for kind in ServerKind::ALL {
        for (rights, calls) in PLAIN_CALLS {
            let mut pair = Pair::new(kind, rights);
            for line in calls {
                pair.says_line(line);
            }
            for line in ["SET lock:9 v NX", "SETNX lock:9 w", "SET other v NX", "SETNX other v"] {
                pair.says_line(line);
            }
        }
        // Under rights by first argument, which Redis 7 knows for some commands.
        let mut pair = Pair::new(kind, "~* +@scripting +exists +get +set|lock:1");
        for line in ["SET lock:1 v NX", "SET lock:2 v NX", "SETNX lock:1 v"] {
            pair.says_line(line);
        }
    }
}

#[test]
fn a_set_nx_whose_user_may_not_queue_passes_and_is_counted() {
    for stage in stages() {
        stage.user("ann", "~* +set +get +del +eval +evalsha");
        let mut ann = stage.client().acting_as("ann");
        assert_eq!(ann.run("SET lock:1 v NX PX 60000"), Reply::Simple("OK".into()));
        assert_eq!(ann.run("SET lock:1 w NX PX 60000"), Reply::Nil);
        assert_eq!(stage.client().run("LOCK.STATS").field("fallbacks"), Reply::Int(2));
        assert_eq!(ann.run("EVAL return(redis.call('DEL',KEYS[1])) 1 lock:1"), Reply::Int(1));
    }
}

#[test]
fn a_setnx_that_passes_carries_its_rules_lease_all_the_same() {
    const RULE: &str = "[[lock_keys]]\nmatch = \"lock:*\"\ndefault_ttl = \"20s\"\n";
    for kind in ServerKind::ALL {
        let server = RedisServer::start_with(kind, &[]);
        let gate = Lockgate::before_with(&server, RULE);
        // Whose rights suffice for SETNX alone, for its lease, too, and for the queue.
        for (number, rights) in ["+setnx", "+setnx +pexpire", "+@all -evalsha -eval", "+@all"].iter().enumerate() {
            let rules = format!("ACL SETUSER ann reset on >ann ~* {rights}");
            assert_eq!(server.wire().run(&rules), Reply::Simple("OK".into()));
            let (mut ann, key) = (gate.wire().acting_as("ann"), format!("lock:{number}"));
            assert_eq!(ann.run(&format!("SETNX {key} v")), Reply::Int(1), "{rights}");
            let left = server.wire().run(&format!("PTTL {key}")).int();
            assert!((1..=20_000).contains(&left), "{rights}: {left}");
            // Nor is the lease of a lock that stands touched.
            server.wire().run(&format!("PEXPIRE {key} 5000"));
            assert_eq!(ann.run(&format!("SETNX {key} w")), Reply::Int(0), "{rights}");
            assert!(server.wire().run(&format!("PTTL {key}")).int() <= 5000);
        }
    }
}

#[test]
fn invalidations_go_to_the_client_they_are_redirected_to_and_to_nobody_after_it() {
    for stage in stages() {
        stage.user("ann", "~* &* +@all -client|tracking");
        let (mut reader, mut target) = (stage.client(), stage.client3());
        let id = target.run("CLIENT ID").int();
        let redirect = format!("CLIENT TRACKING ON REDIRECT {id}");
        assert!(stage.client().acting_as("ann").run(&redirect).is_error("NOPERM"));
        assert!(
            reader
                .run("CLIENT TRACKING ON REDIRECT 999")
                .is_error("ERR The client ID you want redirect to does not exist")
        );
        assert_eq!(reader.run(&redirect), Reply::Simple("OK".into()), "it has subscribed to nothing, and speaks RESP3");
        assert_eq!(reader.run("CLIENT GETREDIR"), Reply::Int(id));
        assert_eq!(reader.run("CLIENT TRACKINGINFO").field("redirect"), Reply::Int(id));
        assert!(reader.run("CLIENT INFO").text().contains(&format!(" redir={id} ")));
        let invalidates = |reader: &mut Wire, target: &mut Wire, key: &str| {
            reader.run(&format!("GET {key}"));
            stage.client().run(&format!("SET {key} 1"));
            let told = Reply::Push(vec![Reply::bulk("invalidate"), Reply::Array(vec![Reply::bulk(key)])]);
            assert_eq!(target.reply(), told);
        };
        invalidates(&mut reader, &mut target, "k1");
        // What would make its link as new, had nobody redirected to it.
        target.run("MULTI");
        target.run("EXEC");
        let mut next = stage.client3();
        next.run("MULTI");
        invalidates(&mut reader, &mut target, "k2");
        assert_eq!(next.run("EXEC"), Reply::Array(vec![]), "and nothing else came to it");
    }
}
