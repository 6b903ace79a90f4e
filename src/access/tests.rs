//! Users and their rights, from rules to verdicts.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::Resp;

const ROLES: &[u8] = include_bytes!("../../configs/users.acl");

fn bytes(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

fn with(rules: &str) -> Users {
    let mut users = Users::new(Arc::new(Catalog::builtin()), Dialect::NEWEST);
    users.set(b"u", &bytes(rules)).map_err(|error| String::from_utf8_lossy(&error).into_owned()).expect("good rules");
    users
}

fn roles() -> Users {
    Users::load(ROLES, "users.acl", Arc::new(Catalog::builtin()), Dialect::NEWEST).expect("they are right")
}

/// "ok", or what is wrong and where.
fn says_in(users: &Users, name: &str, line: &str, db: u32) -> String {
    let args = bytes(line);
    let Found::Command(command) = users.catalog().find(&args) else { panic!("no such command: {line}") };
    let user = users.get(name.as_bytes()).expect("a user");
    match judge(user, users.catalog(), Request { command, args: &args, db, databases: 16 }) {
        Ok(()) => "ok".into(),
        Err(denied) => format!("{:?} {}", denied.what, String::from_utf8_lossy(args[denied.at])),
    }
}

fn says(users: &Users, name: &str, line: &str) -> String {
    says_in(users, name, line, 0)
}

fn text(rules: &str) -> String {
    let users = with(rules);
    let line = users.list().into_iter().find(|line| line.starts_with(b"user u ")).expect("it is there");
    String::from_utf8_lossy(&line["user u ".len()..]).into_owned()
}

#[test]
fn the_roles_reach_what_they_name_and_no_more() {
    let users = roles();
    for (name, line, verdict) in [
        ("admin", "LOCK.FORCE locks:a", "ok"),
        ("admin", "LOCK.CONFIG SET mode off", "ok"),
        ("admin", "FLUSHALL", "ok"),
        ("app", "LOCK.ACQUIRE app:1 ann WAIT 5", "ok"),
        ("app", "LOCK.ACQUIRE other:1 ann", "Key other:1"),
        ("app", "LOCK.ACQUIREALL 2 locks:a other:b ann", "Key other:b"),
        ("app", "LOCK.FORCE locks:a", "Command LOCK.FORCE"),
        ("app", "LOCK.STATS", "Command LOCK.STATS"),
        ("app", "KEYS *", "Command KEYS"),
        ("app", "SET tasks:1 x", "ok"),
        ("lockservice", "LOCK.RELEASE locks:a ann", "ok"),
        ("lockservice", "LOCK.INFO locks:a", "ok"),
        ("lockservice", "EVAL x 1 locks:a", "ok"),
        ("lockservice", "EVAL x 2 locks:a b", "Key b"),
        ("lockservice", "LOCK.CLEANUP", "Command LOCK.CLEANUP"),
        ("monitor", "LOCK.INFO any", "ok"),
        ("monitor", "LOCK.QUEUE any", "ok"),
        ("monitor", "LOCK.LIST 0", "ok"),
        ("monitor", "LOCK.STATS", "ok"),
        ("monitor", "LOCK.NODES", "ok"),
        ("monitor", "LOCK.GRAPH", "Command LOCK.GRAPH"),
        ("monitor", "LOCK.ACQUIRE any ann", "Command LOCK.ACQUIRE"),
        ("monitor", "SET any x", "Command SET"),
        ("monitor", "PING", "ok"),
    ] {
        assert_eq!(says(&users, name, line), verdict, "{name}: {line}");
    }
}

#[test]
fn lock_commands_have_a_category_of_their_own_and_rules_of_their_own() {
    let users = with("on ~* +@lock -lock.transfer +lock.slowlog|len");
    for (line, verdict) in [
        ("LOCK.ACQUIRE k ann", "ok"),
        ("LOCK.TRANSFER k ann bob", "Command LOCK.TRANSFER"),
        ("LOCK.FORCE k", "Command LOCK.FORCE"),
        ("LOCK.STATS", "Command LOCK.STATS"),
        ("LOCK.SLOWLOG LEN", "ok"),
        ("LOCK.SLOWLOG RESET", "Command LOCK.SLOWLOG"),
    ] {
        assert_eq!(says(&users, "u", line), verdict, "{line}");
    }
}

#[test]
fn who_may_ask_the_upstream_how_it_is_may_ask_lockgate() {
    let users = with("on +info +slowlog|get -lock.nodes");
    for (line, verdict) in [
        ("LOCK.STATS", "ok"),
        ("LOCK.NODES", "Command LOCK.NODES"),
        ("LOCK.GRAPH", "ok"),
        ("LOCK.DEADLOCKS", "ok"),
        ("LOCK.SLOWLOG GET", "ok"),
        ("LOCK.SLOWLOG RESET", "Command LOCK.SLOWLOG"),
    ] {
        assert_eq!(says(&users, "u", line), verdict, "{line}");
    }
}

#[test]
fn a_guarded_command_is_judged_as_if_it_came_by_itself() {
    let users = with("on ~a* +lock.guard +get (+set %W~b*)");
    for (line, verdict) in [
        ("LOCK.GUARD a 1 GET ab", "ok"),
        ("LOCK.GUARD x 1 GET ab", "Key x"),
        ("LOCK.GUARD a 1 GET x", "Key x"),
        ("LOCK.GUARD a 1 DEL a", "Command DEL"),
        ("LOCK.GUARD a 1 SET b 2", "ok"),
        ("LOCK.GUARD a 1 nosuch", "Command nosuch"),
    ] {
        assert_eq!(says(&users, "u", line), verdict, "{line}");
    }
}

#[test]
fn what_nobody_can_judge_is_for_those_who_may_do_everything() {
    let users = with("on ~* &* +@all");
    assert!(may_all(users.get(b"u").expect("made")));
    assert_eq!(says(&users, "u", "LOCK.GUARD a 1 nosuch"), "ok");
    for rules in ["on ~* &* +@all -get", "on ~a* &* +@all", "on ~* +@all", "on ~* &* +@all db=0", "on ~* &* (+@all)"] {
        assert!(!may_all(with(rules).get(b"u").expect("made")), "{rules}");
    }
    // A module that finds its keys by itself.
    let reply = b"*1\r\n*10\r\n$8\r\nmine.get\r\n:-2\r\n*2\r\n+module\r\n+movablekeys\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n";
    let mut users = Users::new(Arc::new(Catalog::learn(reply).expect("good")), Dialect::NEWEST);
    users.set(b"u", &bytes("on ~a* +mine.get")).expect("good rules");
    assert_eq!(says(&users, "u", "MINE.GET a1"), "Key MINE.GET");
    users.set(b"u", &bytes("allkeys")).expect("good rules");
    assert_eq!(says(&users, "u", "MINE.GET a1"), "ok");
}

#[test]
fn one_set_of_rights_must_allow_the_whole_command() {
    let users = with("on +get ~a* (+set ~b* &news) (+publish &n*)");
    assert_eq!(says(&users, "u", "GET ab"), "ok");
    assert_eq!(says(&users, "u", "SET b 1"), "ok");
    assert_eq!(says(&users, "u", "GET b"), "Key b", "the key is told rather than the command");
    assert_eq!(says(&users, "u", "SET a 1"), "Key a");
    assert_eq!(says(&users, "u", "PUBLISH other x"), "Channel other");
    assert_eq!(says(&users, "u", "DEL a"), "Command DEL");
}

#[test]
fn patterns_of_channels_are_compared_as_they_stand() {
    let users = with("on +@pubsub &news:* &a");
    assert_eq!(says(&users, "u", "SUBSCRIBE a news:1"), "ok");
    assert_eq!(says(&users, "u", "SUBSCRIBE a b"), "Channel b");
    assert_eq!(says(&users, "u", "PSUBSCRIBE news:*"), "ok");
    assert_eq!(says(&users, "u", "PSUBSCRIBE news:1"), "Channel news:1");
    assert_eq!(says(&users, "u", "UNSUBSCRIBE b"), "ok");
}

#[test]
fn databases_are_those_of_the_connection_and_of_the_arguments() {
    let users = with("on ~* +@all db=0,2");
    assert_eq!(says_in(&users, "u", "GET k", 2), "ok");
    assert_eq!(says_in(&users, "u", "GET k", 1), "Database GET");
    assert_eq!(says(&users, "u", "SELECT 1"), "Database 1");
    assert_eq!(says(&users, "u", "MOVE k 3"), "Database 3");
    assert_eq!(says(&users, "u", "FLUSHALL"), "Database FLUSHALL");
    assert_eq!(says_in(&users, "u", "PING", 5), "ok");
    assert_eq!(says_in(&users, "u", "LOCK.ACQUIRE k ann", 5), "Database LOCK.ACQUIRE");
}

#[test]
fn rules_are_shown_as_they_were_given_but_for_void_ones() {
    assert_eq!(
        text("on ~a %R~b +GET -@Write +config|set +config"),
        "on ~a %R~b resetchannels -@all +get -@write +config"
    );
    assert_eq!(text("+@lock -lock.force"), "off resetchannels -@all +@lock -lock.force");
    assert_eq!(text("+@all -@dangerous"), "off resetchannels +@all -@dangerous");
    assert_eq!(text("db=3,1 allkeys &*"), "off ~* &* db=1,3 -@all");
}

#[test]
fn what_cannot_be_read_back_is_refused() {
    let mut users = with("on");
    let error = users.set(b"u", &[b"+get|a b"]).expect_err("a blank");
    assert_eq!(String::from_utf8_lossy(&error), "Error in ACL SETUSER modifier '+get|a b': Syntax error");
}

#[test]
fn what_is_saved_loads_as_the_same_users() {
    let users = roles();
    let again = Users::load(&users.save(), "again", Arc::clone(users.catalog()), users.dialect()).expect("good");
    assert!(users.iter().eq(again.iter()));
    assert!(users.authenticate(b"app", b"change-me-app").is_some());
    assert!(users.authenticate(b"app", b"change-me-admin").is_none());
    assert!(users.authenticate(b"nobody", b"").is_none());
}

#[test]
fn another_upstream_has_the_same_rules_as_far_as_it_knows_them() {
    let mut users = with("on +@all -@dangerous -vadd +lock.force");
    let before = users.list();
    let bare = b"*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*0\r\n:1\r\n:1\r\n:1\r\n*1\r\n+@read\r\n*0\r\n*0\r\n*0\r\n";
    users.relearn(Arc::new(Catalog::learn(bare).expect("good")), Dialect::NEWEST);
    assert_eq!(says(&users, "u", "LOCK.CLEANUP"), "Command LOCK.CLEANUP");
    users.relearn(Arc::new(Catalog::builtin()), Dialect::NEWEST);
    assert_eq!(users.list(), before);
}

#[test]
fn subscriptions_end_with_the_rule_that_allowed_them() {
    let user = |rules: &str| Arc::clone(with(rules).get(b"u").expect("made"));
    let stays = |before: &str, after: &str| {
        let (channels, patterns) = ([&b"news:1"[..]], [&b"a*"[..]]);
        may_stay_subscribed(&user(before), &user(after), channels.into_iter(), patterns.into_iter())
    };
    assert!(stays("&news:* &a*", "&a* &news:* &more"), "nothing was taken away");
    assert!(stays("&*", "&*") && stays("&x", "&*"));
    assert!(stays("&*", "&news:? &a*"), "what there is, is still allowed");
    assert!(!stays("&*", "&news:*"), "the pattern is not");
    assert!(!stays("&*", "&a*"), "the channel is not");
    assert!(!stays("&news:* &a*", "on"));
    assert!(stays("&news:* &a*", "(&a*) (&news:*)"), "brackets count together");
}

#[test]
fn refusals_have_each_servers_words() {
    let users = with("on ~a +get");
    let user = users.get(b"u").expect("made");
    let noperm = |what, dialect| {
        let command = users.catalog().named(b"config|get").expect("known");
        let denied = Denied { what, command, at: 0, from: 0 };
        String::from_utf8_lossy(&denied.noperm(user, users.catalog(), dialect)).into_owned()
    };
    let old = Dialect::REDIS_7_0;
    assert_eq!(noperm(What::Command, old), "NOPERM this user has no permissions to run the 'config|get' command");
    assert_eq!(
        noperm(What::Command, Dialect::NEWEST),
        "NOPERM User u has no permissions to run the 'config|get' command"
    );
    assert_eq!(noperm(What::Key, Dialect::NEWEST), "NOPERM No permissions to access a key");
    assert_eq!(noperm(What::Database, Dialect::NEWEST), "NOPERM No permissions to access database");
}

/// Bytes of which rules are made, and others.
fn rule() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just("+@all"),
        Just("-@read"),
        Just("+get|x"),
        Just("~a*"),
        Just("%RW~"),
        Just("("),
        Just(")"),
        Just("(+get"),
        Just("db="),
        Just("db=1,2"),
        Just("&"),
        Just("#"),
        Just("!"),
        Just(">"),
        Just("reset"),
        Just("\""),
        Just("'\\"),
        Just(" "),
        Just("|"),
        Just("+lock.info"),
    ];
    proptest::collection::vec(
        prop_oneof![words.prop_map(|word| word.as_bytes().to_vec()), proptest::collection::vec(any::<u8>(), 0..4)],
        0..4,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_rule_and_no_command_makes_it_panic(
        name in proptest::collection::vec(any::<u8>(), 0..4),
        rules in proptest::collection::vec(rule(), 0..6),
        at in any::<usize>(),
        arguments in proptest::collection::vec(prop_oneof![Just(b"STORE".to_vec()), Just(b"2".to_vec()), Just(b"db".to_vec()), rule()], 0..9),
        db in 0..20_u32,
        dialect in prop_oneof![Just(Dialect::REDIS_7_0), Just(Dialect::REDIS_7_2), Just(Dialect::VALKEY_9_1)],
    ) {
        thread_local!(static CATALOG: Arc<Catalog> = Arc::new(Catalog::builtin()));
        let catalog = CATALOG.with(Arc::clone);
        let mut users = Users::new(Arc::clone(&catalog), dialect);
        let _ = users.set(&name, &rules.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let _ = Users::load(&rules.join(&b' '), "file", Arc::clone(&catalog), dialect);
        let (id, command) = catalog.iter().nth(at % catalog.len()).expect("there are so many");
        let words = command.name.split('|').map(|word| word.as_bytes().to_vec());
        let args: Vec<Vec<u8>> = words.chain(arguments).collect();
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let _ = command.keys(&args);
        for user in users.iter() {
            // Also with arguments of which there are too few.
            let _ = judge(user, &catalog, Request { command: id, args: &args, db, databases: 16 });
            let _ = judge(user, &catalog, Request { command: id, args: &args[..1], db, databases: 16 });
        }
        let words: Vec<&[u8]> = [&b"ACL"[..], b"SETUSER"].into_iter().chain(rules.iter().map(Vec::as_slice)).collect();
        let mut log = Log::new(2);
        for subcommand in ["SETUSER", "DRYRUN", "GETUSER", "DELUSER", "LOG", "CAT", "GENPASS", "", "x"] {
            let me = Arc::clone(users.get(b"default").expect("always there"));
            let asker = Asker { user: &me, db, databases: 16, resp: Resp::V3 };
            let words = [&[words[0], subcommand.as_bytes()], &words[2..]].concat();
            let _ = acl(&words, asker, &mut users, &mut log, 0, |_| ());
            let _ = auth(&words[1..], &users);
        }
        let saved = users.save();
        let _ = Users::load(&saved, "again", catalog, dialect);
    }

    #[test]
    fn no_reply_makes_learning_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..400_usize) {
        let _ = Catalog::learn(&bytes);
        let good = b"*1\r\n*10\r\n$5\r\nxread\r\n:-4\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@read\r\n*0\r\n*1\r\n*6\r\n+flags\r\n*1\r\n+access\r\n\
                     +begin_search\r\n*4\r\n+type\r\n+keyword\r\n+spec\r\n*4\r\n+keyword\r\n+STREAMS\r\n+startfrom\r\n:1\r\n+find_keys\r\n*4\r\n+type\r\n\
                     +range\r\n+spec\r\n*6\r\n+lastkey\r\n:-1\r\n+keystep\r\n:1\r\n+limit\r\n:2\r\n*0\r\n";
        prop_assert!(Catalog::learn(good).is_ok());
        let _ = Catalog::learn(&good[..cut.min(good.len())]);
    }
}
