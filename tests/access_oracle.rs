//! Rules, users and verdicts against real servers: they are asked the same, and must answer the same.
//!
//! `ACL_SEED=n` begins elsewhere, `ACL_ROUNDS=n` plays longer, `ACL_SERVER=redis-8.2` one server only.

mod common;

#[path = "access_oracle/draw.rs"]
mod draw;

use std::sync::Arc;

use common::{RedisServer, Reply, ServerKind, Wire};
use draw::Draw;
use lockgate::access::{
    Answer, Asker, Catalog, CommandId, Context, Denied, Dialect, Found, Log, Product, Request, Touch, Users, acl, auth,
    judge,
};
use lockgate::domain::Resp;

/// As many as the servers have.
const DATABASES: u32 = 16;

/// A server, and Lockgate's users beside it.
struct Pair {
    kind: ServerKind,
    server: RedisServer,
    wire: Wire,
    users: Users,
    draw: Draw,
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn dialect(kind: ServerKind) -> Dialect {
    match kind {
        ServerKind::Redis70 => Dialect::of(Product::Redis, 7, 0),
        ServerKind::Redis82 => Dialect::of(Product::Redis, 8, 2),
        ServerKind::Valkey91 => Dialect::of(Product::Valkey, 9, 1),
    }
}

/// Plays `rounds` with each server, each with a seed of its own.
fn with_each_server(rounds: u64, extra: &[&str], mut play: impl FnMut(&mut Pair)) {
    let only = std::env::var("ACL_SERVER").ok();
    for kind in ServerKind::ALL.into_iter().filter(|kind| only.as_deref().is_none_or(|name| name == kind.name())) {
        let server = RedisServer::start_with(kind, extra);
        let mut wire = server.wire();
        let catalog = Catalog::learn_bare(&wire.call(&["COMMAND"])).expect("a real server's reply");
        let users = Users::new(Arc::new(catalog), dialect(kind));
        let mut pair = Pair { kind, server, wire, users, draw: Draw::new(0) };
        let first = number("ACL_SEED", 1);
        let mut cases = 0;
        for seed in first..first + number("ACL_ROUNDS", rounds) {
            pair.draw = Draw::new(seed);
            eprintln!("{}, ACL_SEED={seed}", kind.name());
            pair.forget_users();
            play(&mut pair);
            cases += pair.draw.cases;
        }
        eprintln!("{}: {cases} cases", kind.name());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(words: &[Vec<u8>]) -> Vec<&[u8]> {
    words.iter().map(Vec::as_slice).collect()
}

impl Pair {
    fn forget_users(&mut self) {
        let names: Vec<Vec<u8>> = self.users.iter().map(|user| user.name().to_vec()).collect();
        for name in names.iter().filter(|name| name.as_slice() != b"default") {
            self.wire.call(&[&b"ACL"[..], b"DELUSER", name.as_slice()]);
        }
        self.users = Users::new(Arc::clone(self.users.catalog()), self.users.dialect());
    }

    fn is_7_0(&self) -> bool {
        self.kind == ServerKind::Redis70
    }

    /// `ACL SETUSER` on both sides.
    fn set(&mut self, name: &[u8], rules: &[Vec<u8>]) {
        let words = [&[&b"ACL"[..], b"SETUSER", name], bytes(rules).as_slice()].concat();
        let theirs = Reply::parse(&self.wire.call(&words));
        let ours = match self.users.set(name, &bytes(rules)) {
            Ok(()) => Reply::Simple("OK".into()),
            Err(error) => Reply::Error(format!("ERR {}", text(&error))),
        };
        assert_eq!(
            ours,
            theirs,
            "SETUSER {:?} {:?}",
            text(name),
            rules.iter().map(|rule| text(rule)).collect::<Vec<_>>()
        );
        self.draw.cases += 1;
    }

    /// The lines of `ACL LIST` on both sides.
    fn compare_lists(&mut self) {
        let theirs = Reply::parse(&self.wire.call(&["ACL", "LIST"]));
        let theirs: Vec<String> = theirs.items().iter().map(Reply::text).collect();
        let ours: Vec<String> = self.users.list().iter().map(|line| text(line)).collect();
        assert_eq!(self.comparable(&ours), self.comparable(&theirs));
        self.draw.cases += 1;
    }

    /// Redis 7.0 tells single commands in the order of a hash table whose seed changes with every start.
    fn comparable(&self, lines: &[String]) -> Vec<String> {
        if !self.is_7_0() {
            return lines.to_vec();
        }
        let sorted = |line: &String| {
            let line = line.replace(')', " )");
            let mut words: Vec<&str> = line.split(' ').collect();
            words.sort_unstable();
            words.join(" ")
        };
        lines.iter().map(sorted).collect()
    }

    /// `ACL GETUSER` on both sides.
    fn compare_user(&mut self, name: &[u8]) {
        let theirs = Reply::parse(&self.wire.call(&[&b"ACL"[..], b"GETUSER", name]));
        let (catalog, dialect) = (Arc::clone(self.users.catalog()), self.users.dialect());
        let user = self.users.get(name).cloned();
        let Some(user) = user else {
            assert_eq!(theirs, Reply::Nil);
            return;
        };
        let list = |words: Vec<String>| Reply::Array(words.iter().map(Reply::bulk).collect());
        assert_eq!(theirs.field("flags"), list(user.flags().iter().map(|flag| flag.to_string()).collect()));
        assert_eq!(theirs.field("passwords"), list(user.passwords().collect()));
        let selectors = user.selectors(&catalog, dialect);
        let inner = theirs.field("selectors");
        assert_eq!(selectors.len(), 1 + inner.items().len());
        for (ours, theirs) in selectors.iter().zip(std::iter::once(&theirs).chain(inner.items())) {
            let words = |reply: Reply| self.comparable(&[reply.text()]);
            assert_eq!(self.comparable(&[text(&ours.commands)]), words(theirs.field("commands")));
            assert_eq!(text(&ours.keys), theirs.field("keys").text());
            assert_eq!(text(&ours.channels), theirs.field("channels").text());
            let databases = theirs.maybe_field("databases").map(|reply| reply.text());
            assert_eq!(ours.databases.as_deref().map(text), databases);
        }
        self.draw.cases += 1;
    }

    fn rules(&mut self, count: usize) -> Vec<Vec<u8>> {
        let catalog = Arc::clone(self.users.catalog());
        self.draw.rules(&catalog, self.users.dialect(), count)
    }

    fn judge(&self, name: &[u8], command: CommandId, args: &[&[u8]], db: u32) -> Result<(), Denied> {
        let (catalog, user) = (self.users.catalog(), self.users.get(name).expect("it was made"));
        judge(user, catalog, Request { command, args, db, databases: DATABASES })
    }

    /// What `ACL DRYRUN` would answer.
    fn judged(&self, name: &[u8], command: CommandId, args: &[&[u8]], db: u32) -> Reply {
        let (catalog, user) = (self.users.catalog(), self.users.get(name).expect("it was made"));
        match self.judge(name, command, args, db) {
            Ok(()) => Reply::Simple("OK".into()),
            Err(denied) => Reply::Bulk(denied.dry_run(user, catalog, self.users.dialect(), args)),
        }
    }

    /// Sends what the user may not do, with arguments of some kind: the refusals and what `ACL LOG` tells of them are the same.
    fn compare_refusals(&mut self, name: &[u8], db: u32) {
        self.wire.call(&["ACL", "LOG", "RESET"]);
        let mut wire = self.server.wire();
        wire.call(&["SELECT", &db.to_string()]);
        assert_eq!(Reply::parse(&wire.call(&[&b"AUTH"[..], name, b"any"])), Reply::Simple("OK".into()));
        let (catalog, dialect) = (Arc::clone(self.users.catalog()), self.users.dialect());
        let mut log = Log::new(Log::ENTRIES_MAX);
        for (_, command) in catalog.iter() {
            let args = self.draw.arguments(command);
            let args = bytes(&args);
            let Found::Command(id) = catalog.find(&args) else { continue };
            // Some are refused before rights are looked at.
            let is_protected = ["debug", "module"].contains(&command.name.split('|').next().expect("a name"));
            if is_protected || !catalog.command(id).takes(args.len()) {
                continue;
            }
            let Err(denied) = self.judge(name, id, &args, db) else { continue };
            let user = self.users.get(name).expect("it was made");
            let ours = Reply::Error(text(&denied.noperm(user, &catalog, dialect)));
            assert_eq!(ours, Reply::parse(&wire.call(&args)), "{}", command.name);
            log.add(0, denied.reason(), Context::TopLevel, denied.object(&catalog, &args), name, b"");
            self.draw.cases += 1;
        }
        let theirs = Reply::parse(&self.wire.call(&["ACL", "LOG", "1000"]));
        let entry = |fields: [&str; 5]| fields.map(str::to_owned);
        let ours = log.entries().map(|one| {
            let (object, user) = (text(&one.object), text(&one.user));
            entry([&one.count.to_string(), one.reason.name(), one.context.name(), &object, &user])
        });
        let theirs = theirs.items().iter().map(|one| {
            let field = |name| one.field(name).text();
            let count = one.field("count").int().to_string();
            entry([&count, &field("reason"), &field("context"), &field("object"), &field("username")])
        });
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
    }

    /// Every command of the server, each with arguments of some kind, for one user.
    fn compare_verdicts(&mut self, name: &[u8], db: u32) {
        self.wire.call(&["SELECT", &db.to_string()]);
        let catalog = Arc::clone(self.users.catalog());
        let mut asked = Vec::new();
        let mut sent = Vec::new();
        for (_, command) in catalog.iter() {
            let args = self.draw.arguments(command);
            let words = [&[&b"ACL"[..], b"DRYRUN", name], bytes(&args).as_slice()].concat();
            sent.extend(common::command(&words));
            asked.push(args);
        }
        self.wire.send(&sent);
        for args in asked {
            let theirs = self.wire.reply();
            let args = bytes(&args);
            // A word behind a command may happen to be one of its subcommands.
            let Found::Command(id) = catalog.find(&args) else {
                assert!(matches!(theirs, Reply::Error(_)), "{theirs:?}");
                continue;
            };
            if matches!(theirs, Reply::Error(_)) {
                assert!(!catalog.command(id).takes(args.len()), "{theirs:?} for {}", catalog.command(id).name);
                continue;
            }
            let ours = self.judged(name, id, &args, db);
            let line: Vec<String> = args.iter().map(|arg| text(arg)).collect();
            let user = self.users.list().iter().map(|line| text(line)).find(|line| line.starts_with("user u "));
            assert_eq!(ours, theirs, "{line:?} in database {db} by {user:?}");
            self.draw.cases += 1;
        }
    }
}

#[test]
fn every_command_is_judged_as_by_the_server() {
    with_each_server(12, &[], |pair| {
        for _ in 0..2 {
            let count = pair.draw.below(8);
            let rules = [vec![b"on".to_vec()], pair.rules(count)].concat();
            pair.set(b"u", &rules);
            if pair.users.get(b"u").is_none() {
                continue;
            }
            let db = pair.draw.pick(&[0, 0, 1, 3]);
            pair.compare_verdicts(b"u", db);
        }
    });
}

#[test]
fn acl_and_auth_are_answered_as_by_the_server() {
    const LINES: &str = "WHOAMI|whoami x|USERS|LIST|LIST x|GETUSER u|GETUSER nobody|GETUSER|SETUSER|SETUSER v|SETUSER v on >p ~a (+get %R~b)|GETUSER v|\
        SETUSER v nosuch|SETUSER v (+get|DELUSER|DELUSER nobody|DELUSER default v|DELUSER v v nobody|USERS|CAT|CAT nosuch|CAT x y|LOG x|LOG 1 2|LOG -1|\
        LOG RESET|LOG|DRYRUN|DRYRUN u|DRYRUN nobody get a|DRYRUN u nosuch|DRYRUN u config|DRYRUN u config nosuch|DRYRUN u get|DRYRUN u get a|\
        DRYRUN u set a b|DRYRUN u config get x|GENPASS 0|GENPASS 4097|GENPASS x|GENPASS 1 2|nosuch|nosuch x||help x";
    with_each_server(1, &[], |pair| {
        for resp in [Resp::V2, Resp::V3] {
            pair.set(b"u", &["reset", "on", "nopass", "~a", "+get"].map(|rule| rule.as_bytes().to_vec()));
            pair.wire.call(&["HELLO", if resp == Resp::V3 { "3" } else { "2" }]);
            let mut log = Log::new(Log::ENTRIES_MAX);
            for line in LINES.split('|') {
                let line = line.trim();
                let args: Vec<&[u8]> =
                    std::iter::once("ACL").chain(line.split_whitespace()).map(str::as_bytes).collect();
                let theirs = pair.wire.call(&args);
                let me = Arc::clone(pair.users.get(b"default").expect("always there"));
                let asker = Asker { user: &me, db: 0, databases: DATABASES, resp };
                let ours = match acl(&args, asker, &mut pair.users, &mut log, 0, |bytes| bytes.fill(1)) {
                    Answer::Says(frame) | Answer::Deleted(frame, _) => frame,
                    Answer::Set(_) => b"+OK\r\n".to_vec(),
                    other => panic!("{other:?}"),
                };
                if line == "CAT" {
                    // Ours comes last.
                    let (ours, theirs) = (Reply::parse(&ours), Reply::parse(&theirs));
                    assert_eq!(ours.items().split_last().map(|(_, rest)| rest), Some(theirs.items()));
                } else {
                    assert_eq!(text(&ours), text(&theirs), "ACL {line}");
                }
                pair.draw.cases += 1;
            }
            for category in ["read", "Dangerous", "stream"] {
                let args = [&b"ACL"[..], b"CAT", category.as_bytes()];
                let sorted = |reply: Reply| {
                    let mut names: Vec<String> = reply.items().iter().map(Reply::text).collect();
                    names.sort();
                    names
                };
                let me = Arc::clone(pair.users.get(b"default").expect("always there"));
                let asker = Asker { user: &me, db: 0, databases: DATABASES, resp };
                let Answer::Says(ours) = acl(&args, asker, &mut pair.users, &mut log, 0, |_| ()) else {
                    panic!("a list")
                };
                assert_eq!(sorted(Reply::parse(&ours)), sorted(Reply::parse(&pair.wire.call(&args))));
            }
        }
        pair.set(b"v", &["on", ">p", "off", ">q"].map(|rule| rule.as_bytes().to_vec()));
        pair.set(b"w", &["on", ">p", ">q"].map(|rule| rule.as_bytes().to_vec()));
        for line in ["AUTH", "AUTH p", "AUTH v p", "AUTH w p x", "AUTH nobody p", "AUTH w x", "AUTH w q", "AUTH u x"] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let ours = match auth(&args, &pair.users) {
                Ok(_) => Reply::Simple("OK".into()),
                Err(error) => Reply::Error(error.to_string()),
            };
            assert_eq!(ours, Reply::parse(&pair.server.wire().call(&args)), "{line}");
        }
    });
}

#[test]
fn keys_are_those_that_the_server_finds() {
    with_each_server(30, &[], |pair| {
        let catalog = Arc::clone(pair.users.catalog());
        for (_, command) in catalog.iter() {
            let args = pair.draw.arguments(command);
            let args = bytes(&args);
            let Found::Command(id) = catalog.find(&args) else { continue };
            let words = [&[&b"COMMAND"[..], b"GETKEYSANDFLAGS"], args.as_slice()].concat();
            let theirs = match Reply::parse(&pair.wire.call(&words)) {
                Reply::Array(keys) => keys.iter().map(|key| told(&key.items()[0], key.items()[1].items())).collect(),
                // None, or not the right number of arguments.
                Reply::Error(_) => Vec::new(),
                other => panic!("{other:?}"),
            };
            if catalog.command(id).takes(args.len()) {
                let ours: Vec<_> = catalog
                    .command(id)
                    .keys(&args)
                    .as_slice()
                    .iter()
                    .map(|key| (text(args[key.at]), key.touch))
                    .collect();
                let line: Vec<String> = args.iter().map(|arg| text(arg)).collect();
                assert_eq!(ours, theirs, "{line:?}");
                pair.draw.cases += 1;
            }
        }
    });
}

/// A key with its flags.
fn told(key: &Reply, flags: &[Reply]) -> (String, Touch) {
    let touch = flags.iter().fold(Touch::NONE, |touch, flag| match flag.text().as_str() {
        "access" => touch.and(Touch::READ),
        "insert" | "update" | "delete" => touch.and(Touch::WRITE),
        _ => touch,
    });
    (key.text(), touch)
}

#[test]
fn what_is_learned_is_the_same_in_both_protocols() {
    with_each_server(1, &[], |pair| {
        let mut wire = pair.server.wire();
        wire.call(&["HELLO", "3"]);
        let newer = Catalog::learn_bare(&wire.call(&["COMMAND"])).expect("a real server's reply");
        let older = pair.users.catalog();
        assert_eq!(newer.len(), older.len());
        for (_, command) in older.iter() {
            let id = newer.named(command.name.as_bytes()).expect("the same commands");
            assert_eq!(newer.command(id).categories, command.categories, "{}", command.name);
            for _ in 0..5 {
                let args = pair.draw.arguments(command);
                let args = bytes(&args);
                assert_eq!(
                    newer.command(id).keys(&args).as_slice(),
                    command.keys(&args).as_slice(),
                    "{}",
                    command.name
                );
            }
        }
    });
}

#[test]
fn refusals_and_their_log_are_the_servers() {
    with_each_server(12, &[], |pair| {
        let count = pair.draw.below(8);
        let rules = [pair.rules(count), vec![b"on".to_vec(), b"nopass".to_vec()]].concat();
        pair.set(b"u", &rules);
        if pair.users.get(b"u").is_some() {
            let db = pair.draw.pick(&[0, 0, 1, 3]);
            pair.compare_refusals(b"u", db);
        }
    });
}

#[test]
fn what_is_taken_away_before_exec_is_refused_in_the_servers_words() {
    with_each_server(1, &[], |pair| {
        for (taken, line) in
            [("-get", "GET a"), ("resetkeys", "GET a"), ("resetchannels", "PUBLISH c x"), ("resetdbs", "GET a")]
        {
            pair.set(b"u", &["reset", "on", "nopass", "~*", "&*", "+@all"].map(|rule| rule.as_bytes().to_vec()));
            let mut wire = pair.server.wire();
            wire.call(&["AUTH", "u", "any"]);
            wire.run("MULTI");
            assert_eq!(wire.run(line), Reply::Simple("QUEUED".into()));
            if taken == "resetdbs" && !pair.users.dialect().has_databases {
                continue;
            }
            pair.set(b"u", &[taken.as_bytes().to_vec()]);
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let Found::Command(id) = pair.users.catalog().find(&args) else { panic!("every server has it") };
            let denied = pair.judge(b"u", id, &args, 0).expect_err("it was taken away");
            assert_eq!(wire.run("EXEC"), Reply::Array(vec![Reply::Error(denied.at_exec())]), "{taken}");
        }
    });
}

#[test]
fn rules_come_to_the_same_users_and_the_same_text() {
    with_each_server(60, &[], |pair| {
        for _ in 0..12 {
            let name = pair.draw.pick(&[&b"u"[..], b"v", b"", b"a b", b"\xc3\xbc", b"default"]);
            let count = 1 + pair.draw.below(3);
            // The server must go on letting this test in.
            let rules = if name == b"default" { Vec::new() } else { pair.rules(count) };
            pair.set(name, &rules);
            pair.compare_lists();
            pair.compare_user(name);
        }
    });
}

const START: &str = "user default on nopass ~* &* +@all\n";

#[test]
fn a_file_is_loaded_or_refused_as_by_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("users.acl");
    std::fs::write(&path, START).expect("written");
    let name = path.to_str().expect("plain").to_owned();
    with_each_server(60, &["--aclfile", &name], |pair| {
        let catalog = Arc::clone(pair.users.catalog());
        let file = pair.draw.file(&catalog, pair.users.dialect());
        std::fs::write(&path, &file).expect("written");
        let theirs = Reply::parse(&pair.wire.call(&["ACL", "LOAD"]));
        match Users::load(&file, &name, catalog, pair.users.dialect()) {
            Ok(users) => {
                assert_eq!(theirs, Reply::Simple("OK".into()), "{}", text(&file));
                pair.users = users;
                pair.compare_lists();
                assert_eq!(Reply::parse(&pair.wire.call(&["ACL", "SAVE"])), Reply::Simple("OK".into()));
                let saved = std::fs::read(&path).expect("saved");
                let lines = |bytes: &[u8]| pair.comparable(&text(bytes).lines().map(str::to_owned).collect::<Vec<_>>());
                assert_eq!(lines(&pair.users.save()), lines(&saved));
            }
            Err(error) => assert_eq!(Reply::Error(format!("ERR {}", text(&error))), theirs, "{}", text(&file)),
        }
        pair.draw.cases += 1;
        // The next server starts with it.
        std::fs::write(&path, START).expect("written");
    });
    let _ = std::fs::remove_file(&path);
}

#[test]
fn the_four_roles_are_what_they_say_before_every_server() {
    let file = include_bytes!("../configs/users.acl");
    with_each_server(1, &[], |pair| {
        let catalog = Catalog::learn_bare(&pair.wire.call(&["COMMAND"])).expect("a real server's reply");
        let users =
            Users::load(file, "users.acl", Arc::new(catalog), pair.users.dialect()).map_err(|error| text(&error));
        pair.users = users.expect("they are right");
        for line in text(file).lines().filter(|line| line.starts_with("user ")) {
            let words = line.split(' ').skip(1).map(|word| word.as_bytes());
            let words: Vec<&[u8]> = [&b"ACL"[..], b"SETUSER"].into_iter().chain(words).collect();
            assert_eq!(Reply::parse(&pair.wire.call(&words)), Reply::Simple("OK".into()), "{line}");
        }
        for name in [&b"admin"[..], b"app", b"lockservice", b"monitor"] {
            for _ in 0..4 {
                pair.compare_verdicts(name, 0);
            }
            pair.compare_user(name);
        }
        assert!(pair.server.pid() > 0);
    });
}

#[test]
fn an_empty_key_is_matched_by_no_star() {
    with_each_server(1, &[], |pair| {
        for rule in ["%RW~*", "%R~**", "~", "allkeys"] {
            pair.set(b"u", &["reset", "on", "+@all", rule].map(|rule| rule.as_bytes().to_vec()));
            let args: [&[u8]; 2] = [b"GET", b""];
            let theirs = Reply::parse(&pair.wire.call(&[&b"ACL"[..], b"DRYRUN", b"u", args[0], args[1]]));
            let Found::Command(id) = pair.users.catalog().find(&args) else { panic!("every server has it") };
            assert_eq!(pair.judged(b"u", id, &args, 0), theirs, "{rule}");
        }
    });
}

#[test]
fn what_is_known_before_an_upstream_has_told_is_what_servers_have() {
    with_each_server(1, &[], |pair| {
        let builtin = Catalog::builtin();
        for (_, command) in pair.users.catalog().iter() {
            let id = builtin.named(command.name.as_bytes());
            let id = id.unwrap_or_else(|| panic!("{} of {} is missing", command.name, pair.kind.name()));
            // What the servers agree in is that of each; where they differ it is that of Redis 8.2.
            if pair.kind == ServerKind::Redis82 {
                assert_eq!(builtin.command(id).categories, command.categories, "{}", command.name);
                assert_eq!(builtin.command(id).arity, command.arity, "{}", command.name);
            }
        }
    });
}
