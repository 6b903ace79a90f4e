//! What can be set, where, and what is said when it is wrong.

#![allow(missing_docs)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lockgate::config::{
    self, ByteSize, Config, Flags, KEYS, Loaded, LogFormat, LogLevel, Mode, RULE_KEYS, Sources, WhenAway,
};
use lockgate::domain::{Level, Replicas};
use lockgate::upstream::url::{Address, Upstream};

/// A file, variables and flags.
struct Said {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Said {
    fn nothing() -> Self {
        Said { folder: tempfile::tempdir().expect("a temporary folder"), sources: Sources::default() }
    }

    fn in_file(mut self, text: &str) -> Self {
        let path = self.path("lockgate.toml");
        std::fs::write(&path, text).expect("writes");
        self.sources.flags.config = Some(path);
        self
    }

    fn in_variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn in_flags(mut self, set: impl FnOnce(&mut Flags)) -> Self {
        set(&mut self.sources.flags);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn loads(&self) -> Loaded {
        match config::load(&self.sources) {
            Ok(loaded) => loaded,
            Err(problems) => panic!("refused: {}", problems.iter().map(|p| format!("\n  {p}")).collect::<String>()),
        }
    }

    /// Every problem as its line, the folder's path taken off.
    #[track_caller]
    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let problems = config::load(&self.sources).expect_err("this should be refused");
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }

    #[track_caller]
    fn is_refused(&self, with: &str) {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "one problem was to be named: {problems:#?}");
        assert!(problems[0].contains(with), "{:?} does not say {with:?}", problems[0]);
    }
}

fn file(text: &str) -> Said {
    Said::nothing().in_file(text)
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn nothing_said_gives_the_defaults_of_the_contract() {
    let config = Said::nothing().loads().config;
    assert_eq!(config, Config::default());
    assert_eq!(config.listen, Address::Tcp { host: "127.0.0.1".into(), port: 7379 });
    assert_eq!(config.upstream, Upstream::Embedded);
    assert_eq!(config.default_ttl, Duration::from_secs(30));
    assert_eq!(config.max_ttl, Duration::from_secs(7200));
    assert_eq!(config.max_wait, Duration::from_secs(600));
    assert_eq!(config.limits.output_buffer, ByteSize(256 << 20));
    assert!(config.worker_count() >= 1);
}

#[test]
fn every_key_of_a_whole_file_is_read() {
    let said = file(
        r#"
        listen = "unix:///run/lockgate.sock"
        admin = "off"
        upstream = "redis://app@10.0.0.5:7000/3"
        upstream_password_file = "PASSWORD_FILE"
        data_dir = "lockgate-data"
        workers = 4
        mode = "on"
        default_ttl = "10s"
        max_ttl = "1h30m"
        max_wait = "5m"
        max_queue = 17
        promote_after = "2s"
        wait_replicas = "majority"
        fallback = false
        when_away = "error"
        drain_timeout = "0s"
        trust_clients = true
        client_timeout = "0s"
        [[lock_keys]]
        match = "orders:*"
        wait = "5s"
        priority = "HIGH"
        percent = 50
        mode = "shadow"
        poll_ticket = "500ms"
        wait_while_holding = true
        barge = true
        yield = false
        max_ttl = "1m"
        default_ttl = "30s"
        max_queue = 9
        users = ["forgeflow"]
        [[lock_keys]]
        match = "*"
        [links]
        shared = 3
        own_max = 77
        hold = "0s"
        idle_timeout = "0s"
        [nodes]
        id = "north"
        [limits]
        connections = 42
        output_buffer = "1mb"
        proxy_protocol = false
        [log]
        level = "debug"
        format = "json"
        "#,
    );
    let password_file = said.path("password");
    std::fs::write(&password_file, "p@ss word\n").expect("writes");
    let text = std::fs::read_to_string(said.path("lockgate.toml")).expect("reads");
    let said = said.in_file(&text.replace("PASSWORD_FILE", &password_file.display().to_string()));
    let config = said.loads().config;
    assert_eq!(config.listen, Address::Unix("/run/lockgate.sock".into()));
    let Upstream::Standalone(upstream) = &config.upstream else { panic!("{:?}", config.upstream) };
    assert_eq!(upstream.address, Address::Tcp { host: "10.0.0.5".into(), port: 7000 });
    assert_eq!((upstream.user.as_deref(), upstream.password.as_deref()), (Some("app"), Some("p@ss word")));
    assert_eq!(upstream.db, 3);
    assert_eq!(config.data_dir, Some("lockgate-data".into()));
    assert_eq!((config.workers, config.worker_count(), config.max_queue), (4, 4, 17));
    assert_eq!(config.max_ttl, Duration::from_secs(5400));
    assert_eq!(config.promote_after, Some(Duration::from_secs(2)));
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert!(config.trust_clients);
    assert_eq!(config.client_timeout, None);
    assert_eq!(config.lock_keys.len(), 2);
    assert_eq!(config.lock_keys[0].pattern, "orders:*");
    assert_eq!(config.lock_keys[0].wait, Some(Duration::from_secs(5)));
    assert_eq!(config.lock_keys[0].priority, Some(Level::High));
    assert_eq!(config.lock_keys[0].users, ["forgeflow"]);
    let rule = &config.lock_keys[0];
    assert_eq!((rule.percent, rule.mode, rule.max_queue), (50, Mode::Shadow, 9));
    assert_eq!((rule.poll_ticket, rule.wait_while_holding, rule.barge), (Some(Duration::from_millis(500)), true, true));
    assert!(!rule.yields && config.lock_keys[1].yields);
    let lease = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!((rule.max_ttl, rule.default_ttl), (lease(60), lease(30)));
    assert_eq!(config.wait_replicas, Replicas::Majority);
    assert!(!config.fallback);
    assert_eq!((config.when_away, config.links.hold), (WhenAway::Error, Duration::ZERO));
    assert_eq!((config.links.shared, config.links.own_max, config.links.idle_timeout), (3, 77, None));
    assert_eq!(config.nodes.id.as_deref(), Some("north"));
    assert_eq!(config.limits.connections, 42);
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let said = file("listen = '127.0.0.1:1'\nmax_queue = 1\nworkers = 1\n[links]\nshared = 1\n[log]\nlevel = 'warn'")
        .in_variable("LOCKGATE_LISTEN", "127.0.0.1:2")
        .in_variable("LOCKGATE_MAX_QUEUE", "2")
        .in_variable("LOCKGATE_LINKS__SHARED", "2")
        .in_flags(|flags| flags.listen = Some("127.0.0.1:3".to_owned()));
    let loaded = said.loads();
    assert_eq!(loaded.config.listen, Address::Tcp { host: "127.0.0.1".into(), port: 3 });
    assert_eq!(loaded.config.max_queue, 2);
    assert_eq!(loaded.config.links.shared, 2);
    assert_eq!(loaded.config.workers, 1);
    assert_eq!(loaded.config.log.level, LogLevel::Warn);
    assert_eq!(loaded.origins["listen"].to_string(), "--listen");
    assert_eq!(loaded.origins["links.shared"].to_string(), "LOCKGATE_LINKS__SHARED");
    assert!(loaded.origins["workers"].to_string().ends_with("lockgate.toml:3:11"));
}

#[test]
fn the_environment_sets_rules_and_the_file_to_read() {
    let said =
        Said::nothing().in_variable("LOCKGATE_LOCK_KEYS", r#"[{ match = "a:*", wait = "1s" }, { match = "b" }]"#);
    let rules = said.loads().config.lock_keys;
    assert_eq!(rules.iter().map(|rule| rule.pattern.as_str()).collect::<Vec<_>>(), ["a:*", "b"]);

    let written = file("workers = 3");
    let path = written.path("lockgate.toml").display().to_string();
    let said = Said::nothing().in_variable("LOCKGATE_CONFIG", &path);
    assert_eq!(said.loads().config.workers, 3);
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let said = Said::nothing().in_variable("LOCKGATE_UPSTREAM", "").in_variable("LOCKGATE_WORKERS", "");
    assert_eq!(said.loads().config, Config::default());
}

#[test]
fn variables_are_put_into_the_texts_of_the_file() {
    let said = file("upstream = 'redis://:${PW}@h'\nmax_queue = '${QUEUE}'\n[nodes]\nannounce = 'a$$b'")
        .in_variable("PW", "s3cret")
        .in_variable("QUEUE", "5");
    let config = said.loads().config;
    let Upstream::Standalone(endpoint) = &config.upstream else { panic!("{:?}", config.upstream) };
    assert_eq!(endpoint.password.as_deref(), Some("s3cret"));
    assert_eq!(config.max_queue, 5);
    assert_eq!(config.nodes.announce.as_deref(), Some("a$b"));
    file("\n\nupstream = 'redis://:${PW}@h'").is_refused(
        "lockgate.toml:3:12: upstream: the environment variable PW is not set; set it, or write the value here",
    );
}

#[test]
fn an_error_names_file_line_column_key_and_the_fix() {
    for (text, says) in [
        ("\nlisen = '127.0.0.1:1'", "lockgate.toml:2:1: lisen: is no key of Lockgate; did you mean listen?"),
        ("shared = 3", "lockgate.toml:1:1: shared: is no key of Lockgate; did you mean links.shared?"),
        ("[links]\nshard = 3", "lockgate.toml:2:1: links.shard: is no key of Lockgate; did you mean links.shared?"),
        ("colour = 'red'", "`lockgate config dump --defaults` lists them all"),
        ("links = 3", "lockgate.toml:1:9: links: is a table, not a number; write [links] on a line"),
        ("max_ttl = 30", "lockgate.toml:1:11: max_ttl: 30 has no unit; write \"30s\" or \"30ms\""),
        ("max_ttl = '5 minutes'", "max_ttl: '5 minutes' does not fit; write a duration such as \"250ms\""),
        ("max_ttl = 1.5", "max_ttl: is a number with a fraction; write a duration"),
        ("workers = 'many'", "workers: 'many' does not fit; write a whole number"),
        ("workers = 99999", "workers: 99999 is out of range; write 0 to 1024"),
        ("workers = 99999999999999999999", "workers: is a number that is too large; write a whole number"),
        ("[links]\nshared = 65", "lockgate.toml:2:10: links.shared: 65 is out of range; write 0 to 64"),
        ("max_wait = '90000d'", "max_wait: '90000d' does not fit"),
        ("trust_clients = 'yes'", "trust_clients: 'yes' does not fit; write true or false"),
        ("listen = '7379'", "listen: '7379' names no host; write \"127.0.0.1:7379\" for this machine only"),
        ("listen = ''", "listen: is empty; write host:port or unix:///path"),
        ("upstream = '127.0.0.1:6379'", "upstream: the URL is no upstream URL; write redis://host:port"),
        ("upstream = 'redis://h:6379/x'", "upstream: the URL has 'x' where the database number should be"),
        ("upstream = 'redis://127.0.0.1:7379'", "upstream: is 127.0.0.1:7379, where Lockgate itself listens"),
        ("upstream = 'redis://bob@h'", "upstream: names a user without a password"),
        ("default_ttl = '3h'", "default_ttl (3h) is longer than max_ttl (2h); lower default_ttl or raise max_ttl"),
        ("max_ttl = '1s'", "max_ttl: default_ttl (30s) is longer than max_ttl (1s)"),
        ("[limits]\noutput_buffer = 'big'", "limits.output_buffer: 'big' does not fit; write a size such as \"64kb\""),
        ("[nodes]\nid = 'a:b?'", "nodes.id: 'a:b?' does not fit; write at most 64 letters"),
        ("[log]\nlevel = 'loud'", "log.level: 'loud' does not fit; write \"error\""),
        ("lock_keys = 'orders:*'", "lock_keys: is a string; write [[lock_keys]] on a line"),
        ("[[lock_keys]]\nwait = '1s'", "lockgate.toml:1:1: lock_keys.match: is missing or empty"),
        (
            "[[lock_keys]]\nmacth = 'x'",
            "lockgate.toml:2:1: lock_keys.macth: is no key of Lockgate; did you mean match?",
        ),
        (
            "[[lock_keys]]\nmatch = 'x'\nmax_ttl = '1m'\ndefault_ttl = '2m'",
            "lock_keys.default_ttl: default_ttl (2m) is longer than max_ttl (1m); lower default_ttl or raise max_ttl",
        ),
        ("[[lock_keys]]\nmatch = 'x'\npercent = 101", "lock_keys.percent: 101 is out of range; write 0 to 100"),
        ("[[lock_keys]]\nmatch = 'x'\npriority = 'top'", "lock_keys.priority: 'top' does not fit; write \"low\""),
        ("upstream_password_file = '/x'", "upstream_password_file: is set, but the embedded upstream has no password"),
        ("upstream = 'redis://h'\nupstream_password_file = '/no/such'", "cannot read /no/such (No such file"),
    ] {
        println!("{text}");
        file(text).is_refused(says);
    }
}

#[test]
fn what_is_no_toml_is_explained_with_its_place() {
    for (text, says) in [
        ("listen = 127.0.0.1:7379", "lockgate.toml:1:"),
        ("listen = 127.0.0.1:7379", "stand in double quotes"),
        ("\nmax_ttl = 2h", "lockgate.toml:2:"),
        ("max_ttl = 2h", "stand in double quotes"),
        ("listen", "a line is `key = value`"),
        ("listen =", "the value is missing"),
        ("workers = 1\nworkers = 2", "lockgate.toml:2:1: is not valid TOML"),
        ("workers = 1\nworkers = 2", "keep one of them"),
        ("listen = \"127.0.0.1:1", "a closing double quote is missing"),
    ] {
        let problems = file(text).problems().join("\n");
        assert!(problems.contains(says), "{text:?} gives {problems:?}, which does not say {says:?}");
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let said = file("lisen = 'x'\nmax_ttl = 3\n[links]\nshared = 65")
        .in_variable("LOCKGATE_WORKERS", "x")
        .in_flags(|flags| flags.upstream = Some("redis-quorum://h".to_owned()));
    let problems = said.problems();
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

#[test]
fn an_error_of_the_environment_names_the_variable_and_of_a_flag_the_flag() {
    let said = Said::nothing();
    said.in_variable("LOCKGATE_MAX_TTL", "soon").is_refused("LOCKGATE_MAX_TTL: max_ttl: 'soon' does not fit");
    let said = Said::nothing();
    said.in_variable("LOCKGATE_LINKS_SHARED", "2")
        .is_refused("LOCKGATE_LINKS_SHARED: is no variable of Lockgate; did you mean LOCKGATE_LINKS__SHARED?");
    let said = Said::nothing();
    said.in_variable("LOCKGATE_LOCK_KEYS", "orders:*").is_refused("LOCKGATE_LOCK_KEYS: is no TOML value");
    let said = Said::nothing();
    said.in_flags(|flags| flags.listen = Some("nowhere".into()))
        .is_refused("--listen: listen: 'nowhere' names no port");
    let said = Said::nothing();
    said.in_flags(|flags| flags.config = Some("/no/such.toml".into()))
        .is_refused("--config: cannot read /no/such.toml");
}

#[test]
fn strangers_with_our_prefix_are_noted_and_those_of_kubernetes_left_alone() {
    let said = Said::nothing().in_variable("LOCKGATE_HOUSE_COLOUR", "red");
    assert!(said.loads().notes.iter().any(|note| note.contains("LOCKGATE_HOUSE_COLOUR")));
    let said = Said::nothing()
        .in_variable("LOCKGATE_SERVICE_HOST", "10.0.0.1")
        .in_variable("LOCKGATE_SERVICE_PORT_REDIS", "7379")
        .in_variable("LOCKGATE_PORT", "tcp://10.0.0.1:7379")
        .in_variable("LOCKGATE_PORT_7379_TCP_ADDR", "10.0.0.1");
    assert_eq!(said.loads().notes, [""; 0]);
}

#[test]
fn what_this_version_does_not_do_is_refused_and_not_ignored() {
    for text in [
        "mode = 'shadow'",
        "[acl]\nfile = 'users.acl'",
        "[acl.limits.bob]\nmax_locks = 1",
        "upstream = 'redis-cluster://a,b'",
    ] {
        let problems = file(text).problems();
        assert!(problems.iter().all(|problem| problem.contains("version")), "{text}: {problems:#?}");
    }
    Said::nothing()
        .in_variable("LOCKGATE_ACL__FILE", "x")
        .is_refused("LOCKGATE_ACL__FILE: acl.file: Lockgate's own ACL comes");
    Said::nothing().in_variable("DISABLE_ENHANCED_LOCKING", "true").is_refused("DISABLE_ENHANCED_LOCKING: ");
    // And what asks for nothing more than this version does is fine.
    file("admin = 'off'\nmode = 'on'").loads();
    file("[health]\ncheck_interval = '5s'\ntimeout_threshold = '1s'\nerror_threshold = 5\nmemory_threshold = '80%'\nwebhook = ''").loads();
    Said::nothing().in_variable("LOCKGATE_ADMIN_TOKEN", "x").in_variable("DISABLE_ENHANCED_LOCKING", "false").loads();
}

#[test]
fn half_of_tls_is_refused_and_not_believed_in() {
    for (text, says) in [
        ("listen_tls = '0.0.0.0:7390'", "listen_tls: needs a certificate; set tls.cert and tls.key"),
        ("[tls]\ncert = 'a'\nkey = 'b'", "tls.cert: is set, and nobody listens for TLS; set listen_tls"),
        ("listen_tls = 'unix:///run/x'\n[tls]\ncert = 'a'\nkey = 'b'", "listen_tls: is a unix socket"),
        ("listen_tls = 'h:1'\n[tls]\ncert = 'a'\nkey = 'b'\nclient_user = 'cn'", "tls.client_user: needs certificates"),
        ("[limits]\nproxy_protocol = true", "name the load balancers in limits.proxy_trusted"),
        ("[limits]\nproxy_trusted = ['10.0.0']", "'10.0.0' is no address"),
        ("upstream = 'redis://h'\n[upstream_tls]\nca = 'a'", "upstream: is reached in the clear"),
    ] {
        file(text).is_refused(says);
    }
    file("listen_tls = 'h:1'\n[tls]\ncert = 'a'\nkey = 'b'\nclient_ca = 'c'\nclient_user = 'san'").loads();
    file("upstream = 'rediss://h'\n[upstream_tls]\nca = 'a'").loads();
}

#[test]
fn a_share_and_the_address_of_a_webhook_are_checked() {
    let config = file("[health]\nmemory_threshold = ' 90 %'\nwebhook = 'http://relay:9000/a'").loads().config;
    assert_eq!(
        (config.health.memory_threshold.0, config.health.webhook.unwrap().url.as_str()),
        (90, "http://relay:9000/a")
    );
    for share in ["'80'", "80", "'0%'", "'101%'", "'-1%'", "''"] {
        file(&format!("[health]\nmemory_threshold = {share}")).is_refused("write a share from \"1%\" to \"100%\"");
    }
    let refused = file("[health]\nwebhook = 'https://chat.example/s3cret'").problems();
    assert!(refused[0].contains("write http://host[:port]/path") && !refused[0].contains("s3cret"), "{refused:?}");
}

#[test]
fn no_error_and_no_dump_shows_a_password() {
    for text in [
        "upstream = 'redis://app:s3cret@h:x'",
        "upstream = 'redis://app:s3cret@h/x'",
        "upstream = 'redis://app:s3cret%zz@h'",
        "upstream = 's3cret@h:6379'",
        "upstream = 'rediss://app:s3cret@h:x'",
        "upstream = 'redis://app:s3cret@127.0.0.1:7379'",
        "upstream = \"redis://app:s3cret@h",
        "upstream = redis://app:s3cret@h",
    ] {
        let problems = file(text).problems().join("\n");
        assert!(!problems.contains("s3cret"), "{problems}");
    }
    let loaded = file("upstream = 'redis://app:s3cret@h'").loads();
    assert!(!config::dump(&loaded).contains("s3cret"));
    assert!(!format!("{loaded:?}").contains("s3cret"));
}

#[test]
fn the_dump_reads_back_as_the_same_configuration() {
    let text = "max_ttl = '90m'\nworkers = 2\n[[lock_keys]]\nmatch = 'a\"\\b'\nwait = '1s'\n[nodes]\nannounce = 'é'";
    let loaded = file(text).loads();
    let dumped = config::dump(&loaded);
    assert_eq!(file(&dumped).loads().config, loaded.config, "{dumped}");
    assert!(dumped.contains("lockgate.toml:2:11"), "{dumped}");
    assert_eq!(file(&config::dump_defaults()).loads().config, Config::default());
    let none = file("lock_keys = []").loads();
    assert_eq!(file(&config::dump(&none)).loads().config, none.config);
}

#[test]
fn a_reload_tells_what_changes_at_once_from_what_needs_a_restart() {
    let before = Config::default();
    let after = file("workers = 9\nupstream = 'redis://h'\n[log]\nlevel = 'debug'").loads().config;
    let changes = config::changes(&before, &after);
    assert_eq!(changes.at_run_time, ["log.level"]);
    assert_eq!(changes.after_restart, ["upstream", "workers"]);
    assert_eq!(config::changes(&after, &after), config::Changes::default());
    let ruled = file("[[lock_keys]]\nmatch = 'orders:*'").loads().config;
    assert_eq!(config::changes(&before, &ruled).at_run_time, ["lock_keys"]);
    // A password is masked wherever it is shown, and still seen to change.
    let one = file("upstream = 'redis://:a@h'").loads().config;
    let two = file("upstream = 'redis://:b@h'").loads().config;
    assert_eq!(config::changes(&one, &two).after_restart, ["upstream"]);
}

#[test]
fn an_open_door_is_noted() {
    let notes = |text: &str| file(text).loads().notes.join("\n");
    assert!(notes("listen = '0.0.0.0:7379'").contains("whoever reaches this port can read and change everything"));
    assert!(notes("listen = '[::]:1'\nupstream = 'redis://h'\ntrust_clients = true").contains("trust_clients is true"));
    assert!(notes("listen = '0.0.0.0:7379'\nupstream = 'redis://h'").contains("in the clear"));
    assert_eq!(notes("listen = '[::1]:7379'"), "");
    assert_eq!(notes("listen = 'localhost:7379'"), "");
    assert!(notes("[links]\nretries = 1").contains("without effect in this version: links.retries"));
}

#[test]
fn a_path_that_is_no_configuration_is_refused() {
    let said = Said::nothing();
    let folder = said.folder.path().to_owned();
    said.in_flags(|flags| flags.config = Some(folder)).is_refused("check that it is a file");
    Said::nothing().in_flags(|flags| flags.config = Some("/dev/zero".into())).is_refused("is no configuration");
    let said = Said::nothing();
    std::fs::write(said.path("latin"), b"\n\nid = '\xe9'").expect("writes");
    let path = said.path("latin");
    said.in_flags(|flags| flags.config = Some(path)).is_refused("is no UTF-8 text (line 3)");
}

#[test]
fn the_examples_load_and_the_documentation_knows_every_key() {
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut examples = 0;
    for entry in std::fs::read_dir(repository().join("configs")).expect("configs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            examples += 1;
            Said::nothing().in_variable("REDIS_PASSWORD", "x").in_flags(|flags| flags.config = Some(path)).loads();
        }
    }
    assert!(examples >= 4, "{examples} examples");
    let defaults = read(repository().join("configs/lockgate.toml"));
    assert_eq!(defaults, config::dump_defaults(), "write configs/lockgate.toml anew: lockgate config dump --defaults");
    let documentation = read(repository().join("docs/configuration.md"));
    let names = KEYS.iter().map(|key| key.name).chain(RULE_KEYS.iter().map(|key| key.name));
    for name in names {
        assert!(documentation.contains(&format!("| `{name}`")), "docs/configuration.md does not tell about {name}");
    }
}

fn lockgate(arguments: &[&str], variables: &HashMap<&str, &str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("LOCKGATE_"));
    for name in ours {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables).output().expect("runs")
}

#[test]
fn exit_codes_tell_a_wrong_configuration_from_a_wrong_command_line() {
    let none = HashMap::new();
    let fine = lockgate(&["config", "check"], &none);
    assert_eq!(fine.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&fine.stdout), "the configuration is fine\n");

    let wrong = file("max_ttl = 3");
    let path = wrong.path("lockgate.toml").display().to_string();
    let checked = lockgate(&["config", "check", "--config", &path], &none);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stderr).contains("lockgate.toml:1:11: max_ttl: "));
    assert_eq!(lockgate(&["serve", "--config", &path], &none).status.code(), Some(1));

    let by_variable = lockgate(&["config", "check"], &HashMap::from([("LOCKGATE_WORKERS", "x")]));
    assert_eq!(by_variable.status.code(), Some(1));
    assert_eq!(lockgate(&["--listen", "nowhere"], &none).status.code(), Some(2));
    assert_eq!(lockgate(&["--colour"], &none).status.code(), Some(2));
    assert_eq!(lockgate(&["juggle"], &none).status.code(), Some(2));
    assert_eq!(lockgate(&["--version"], &none).status.code(), Some(0));
    assert_eq!(lockgate(&["--help"], &none).status.code(), Some(0));
    let dump = lockgate(&["config", "dump", "--upstream", "redis://:s3cret@h"], &none);
    assert_eq!(dump.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&dump.stdout).contains("upstream = \"redis://:***@h:6379\"  # --upstream"));
}
