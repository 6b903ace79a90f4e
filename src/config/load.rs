//! File, environment and flags become one checked [`Config`], or every problem found, each with its place and its fix.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::keys::{Applies, KEYS, RULE_KEYS, SCRIPT_KEYS, VARIABLE_PREFIX, variable_of};
use super::tree::{Entry, Node, Origin, Problem, Value, join, parse_file, parse_variable};
use super::{ClientUser, Config, Digest, Key, Rule, Script, Tls, UpstreamTls, later, suggest, units};
use crate::domain::Replicas;
use crate::upstream::url::{Address, Endpoint, Sentinels, Upstream};

/// The file's variable, for when there is no `--config`.
const FILE_VARIABLE: &str = "LOCKGATE_CONFIG";
/// Where commands that speak to a running Lockgate find it.
pub const CONNECT_VARIABLE: &str = "LOCKGATE_CONNECT";
/// What `lockgate exec` tells its command, which may be another Lockgate.
const OF_EXEC: [&str; 3] = ["LOCKGATE_FENCE", "LOCKGATE_KEY", "LOCKGATE_OWNER"];
/// Sends LOCK.* to the upstream as it is (SPEC 8, modes).
const PASS_ALL_VARIABLE: &str = "DISABLE_ENHANCED_LOCKING";
/// A configuration is read whole, so a wrong path such as a device must not fill the memory.
const FILE_SIZE_MAX: u64 = 4 << 20;

/// Longest name of a node, in bytes.
const NODE_ID_MAX: usize = 64;

/// What the flags say; a flag that was not given says nothing.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--upstream`
    pub upstream: Option<String>,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The environment; all of it, as `${VAR}` may name any variable.
    pub environment: HashMap<String, String>,
}

impl Sources {
    /// These flags and this process' environment. Variables that are no UTF-8 cannot be named and are left out.
    pub fn of_process(flags: Flags) -> Self {
        let text = |os: std::ffi::OsString| os.into_string().ok();
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        Sources { flags, environment }
    }
}

/// A checked configuration, and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The result.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where each key that is not at its default was said.
    pub origins: HashMap<&'static str, Origin>,
    /// What works but may not be meant, as sentences for the log.
    pub notes: Vec<String>,
}

/// Reads and checks everything. Never stops at the first problem.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    let mut reader = Reader::default();
    let file = sources.flags.config.clone().or_else(|| variable(sources, FILE_VARIABLE).map(PathBuf::from));
    if let Some(path) = &file {
        let origin = match sources.flags.config {
            Some(_) => Origin::Flag("--config"),
            None => Origin::Environment(FILE_VARIABLE.to_owned()),
        };
        reader.read_file(path, origin, sources);
    }
    reader.read_environment(sources);
    reader.read_flags(&sources.flags);
    reader.check();
    if reader.problems.is_empty() {
        Ok(Loaded { config: reader.config, file, origins: reader.origins, notes: reader.notes })
    } else {
        Err(reader.problems)
    }
}

/// A variable that is set to something: an empty one counts as not set, as compose files leave them.
fn variable<'a>(sources: &'a Sources, name: &str) -> Option<&'a str> {
    sources.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

#[derive(Default)]
struct Reader {
    config: Config,
    origins: HashMap<&'static str, Origin>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Reader {
    fn read_file(&mut self, path: &Path, named_by: Origin, sources: &Sources) {
        match read_bounded(path) {
            Ok(text) => match parse_file(path, &text, &|name| sources.environment.get(name).cloned()) {
                Ok(entries) => self.apply_table(&entries, ""),
                Err(problems) => self.problems.extend(problems),
            },
            Err(says) => self.problems.push(Problem { origin: named_by, key: None, says }),
        }
    }

    fn read_environment(&mut self, sources: &Sources) {
        let mut names: Vec<&String> =
            sources.environment.keys().filter(|name| name.starts_with(VARIABLE_PREFIX)).collect();
        names.sort();
        for name in names {
            if let Some(value) = variable(sources, name) {
                self.apply_variable(name, value);
            }
        }
        if variable(sources, PASS_ALL_VARIABLE).is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
            self.problems.push(Problem {
                origin: Origin::Environment(PASS_ALL_VARIABLE.to_owned()),
                key: None,
                says: "passing LOCK.* to the upstream comes in a later version; unset it, or point clients at the \
                       upstream itself"
                    .to_owned(),
            });
        }
    }

    fn apply_variable(&mut self, name: &str, value: &str) {
        if [FILE_VARIABLE, CONNECT_VARIABLE].contains(&name) || OF_EXEC.contains(&name) {
            return;
        }
        let key = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        let origin = Origin::Environment(name.to_owned());
        if matches!(key.as_str(), "lock_keys" | "lock_scripts") {
            match parse_variable(name, value) {
                Ok(node) if key == "lock_scripts" => self.apply_scripts(&node),
                Ok(node) => self.apply_rules(&node),
                Err(problem) => self.problems.push(problem),
            }
            return;
        }
        let is_known = KEYS.iter().any(|known| known.name == key) || later::find(&key).is_some();
        if is_known {
            let node = Node { value: Value::Text(value.to_owned()), origin: origin.clone() };
            self.apply_entry(&Entry { name: key.clone(), origin, node }, &key);
        } else if let Some(meant) = suggest::nearest(&key, known_keys()) {
            let says = format!("is no variable of Lockgate; did you mean {}?", variable_of(meant));
            self.problems.push(Problem { origin, key: None, says });
        } else if !is_from_kubernetes(name) {
            // Others may use the prefix for things of their own, so a stranger is no reason not to start.
            self.notes.push(format!("the environment variable {name} is none of Lockgate's and was ignored"));
        }
    }

    fn read_flags(&mut self, flags: &Flags) {
        let given = [
            ("--listen", "listen", &flags.listen),
            ("--admin", "admin", &flags.admin),
            ("--upstream", "upstream", &flags.upstream),
        ];
        for (flag, key, value) in given {
            if let Some(value) = value {
                let origin = Origin::Flag(flag);
                let node = Node { value: Value::Text(value.clone()), origin: origin.clone() };
                self.apply_entry(&Entry { name: key.to_owned(), origin, node }, key);
            }
        }
    }

    fn apply_table(&mut self, entries: &[Entry], prefix: &str) {
        for entry in entries {
            self.apply_entry(entry, &join(prefix, &entry.name));
        }
    }

    fn apply_entry(&mut self, entry: &Entry, name: &str) {
        let node = &entry.node;
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            match (key.set)(&mut self.config, &node.value) {
                Ok(()) => drop(self.origins.insert(key.name, node.origin.clone())),
                Err(says) => self.problem(&node.origin, name, says),
            }
        } else if name == "lock_keys" {
            self.apply_rules(node);
        } else if name == "lock_scripts" {
            self.apply_scripts(node);
        } else if let (true, Value::Table(entries)) = (is_table(name), &node.value) {
            self.apply_table(entries, name);
        } else if is_table(name) && later::find(name).is_none() {
            let says = format!("is a table, not {}; write [{name}] on a line and its keys below", node.value.kind());
            self.problem(&node.origin, name, says);
        } else if let Some(later) = later::find(name) {
            if !(later.fits)(&node.value) {
                self.problem(&entry.origin, name, later.says.to_owned());
            }
        } else {
            let says = unknown(name, known_keys());
            self.problem(&entry.origin, name, says);
        }
    }

    fn apply_rules(&mut self, node: &Node) {
        let Value::List(items) = &node.value else {
            let says = format!("is {}; write [[lock_keys]] on a line and the rule's keys below", node.value.kind());
            return self.problem(&node.origin, "lock_keys", says);
        };
        let rules: Vec<Rule> = items.iter().filter_map(|item| self.read_rule(item)).collect();
        self.config.lock_keys = rules;
        self.origins.insert("lock_keys", node.origin.clone());
    }

    fn apply_scripts(&mut self, node: &Node) {
        const NAME: &str = "lock_scripts";
        let Value::List(items) = &node.value else {
            let says =
                format!("is {}; write [[lock_scripts]] on a line and the script's keys below", node.value.kind());
            return self.problem(&node.origin, NAME, says);
        };
        let mut scripts = Vec::new();
        for item in items {
            let problems_before = self.problems.len();
            let Some(script) = self.read_item(item, NAME, "sha1 = \"…\"", SCRIPT_KEYS, Script::default()) else {
                continue;
            };
            if script.sha1 == Digest([0; 20]) && self.problems.len() == problems_before {
                let says = "is missing; it is the SHA1 of the script's text, in 40 hexadecimal digits".to_owned();
                self.problem(&item.origin, "lock_scripts.sha1", says);
            }
            if script.value.max(script.ttl) > script.arguments || script.value == script.ttl {
                let says = "value and ttl are two of the arguments; raise arguments, or correct them".to_owned();
                self.problem(&item.origin, "lock_scripts.arguments", says);
            }
            scripts.push(script);
        }
        self.config.lock_scripts = scripts;
        self.origins.insert(NAME, node.origin.clone());
    }

    /// Reads a table of the list `list`, such as `example`, onto `item`.
    fn read_item<T>(
        &mut self,
        node: &Node,
        list: &str,
        example: &str,
        keys: &'static [Key<T>],
        mut item: T,
    ) -> Option<T> {
        let Value::Table(entries) = &node.value else {
            let says = format!("holds {}; each entry is a table such as {{ {example} }}", node.value.kind());
            self.problem(&node.origin, list, says);
            return None;
        };
        for entry in entries {
            let name = join(list, &entry.name);
            match keys.iter().find(|key| key.name == entry.name) {
                Some(key) => {
                    if let Err(says) = (key.set)(&mut item, &entry.node.value) {
                        self.problem(&entry.node.origin, &name, says);
                    }
                }
                None => {
                    let says = unknown(&entry.name, keys.iter().map(|key| key.name));
                    self.problem(&entry.origin, &name, says);
                }
            }
        }
        Some(item)
    }

    fn read_rule(&mut self, node: &Node) -> Option<Rule> {
        let problems_before = self.problems.len();
        let rule = self.read_item(node, "lock_keys", "match = \"orders:*\"", RULE_KEYS, Rule::matching(""))?;
        if let (Some(small), Some(large)) = (rule.default_ttl, rule.max_ttl)
            && small > large
        {
            let (small, large) = (units::show_duration(small), units::show_duration(large));
            let says =
                format!("default_ttl ({small}) is longer than max_ttl ({large}); lower default_ttl or raise max_ttl");
            self.problem(&node.origin, "lock_keys.default_ttl", says);
        }
        // A match that was misspelt or wrong has been named already.
        if rule.pattern.is_empty() && self.problems.len() == problems_before {
            let says = "is missing or empty; say which keys the rule is for, as in match = \"orders:*\"".to_owned();
            self.problem(&node.origin, "lock_keys.match", says);
        }
        Some(rule)
    }

    /// What only several keys together can get wrong.
    fn check(&mut self) {
        self.take_password_file();
        for (small, large) in misfits(&self.config) {
            let said = if self.origins.contains_key(small.0) { small.0 } else { large.0 };
            self.problem(&self.origin(said), said, misfit(small, large));
        }
        if let Some(id) = &self.config.nodes.id {
            // The name stands in the value of every lock, between separators of its own.
            let is_plain =
                id.len() <= NODE_ID_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !is_plain {
                let says =
                    format!("'{id}' does not fit; write at most {NODE_ID_MAX} letters, digits, '.', '_' and '-'");
                self.problem(&self.origin("nodes.id"), "nodes.id", says);
            }
        }
        match &self.config.upstream {
            Upstream::Embedded if self.config.wait_replicas != Replicas::NotAsked => {
                let says = "asks for replicas, and the embedded upstream has none; set upstream, or write 0".to_owned();
                self.problem(&self.origin("wait_replicas"), "wait_replicas", says);
            }
            Upstream::Embedded => {}
            Upstream::Standalone(endpoint) => {
                let endpoint = endpoint.clone();
                self.check_upstream(std::slice::from_ref(&endpoint.address), &endpoint);
            }
            Upstream::Sentinel(sentinels) => {
                let Sentinels { addresses, master, .. } = sentinels.clone();
                self.check_upstream(&addresses, &master);
            }
        }
        if let Some(Address::Tcp { host, .. }) = &self.config.admin
            && !is_loopback(host)
            && self.config.admin_token.is_none()
        {
            let says =
                "is open to the network, and admin_token is not set; set it, or write an address of this machine only"
                    .to_owned();
            self.problem(&self.origin("admin"), "admin", says);
        }
        self.check_tls();
        self.note_what_may_not_be_meant();
    }

    /// What is asked for in part would be believed in as a whole.
    fn check_tls(&mut self) {
        let Config { listen_tls, tls, upstream_tls, upstream, .. } = &self.config;
        let mut wrong: Vec<(&str, &str)> = Vec::new();
        match listen_tls {
            Some(Address::Unix(_)) => {
                wrong.push(("listen_tls", "is a unix socket, which needs no TLS; write host:port"))
            }
            Some(_) if tls.cert.is_none() || tls.key.is_none() => {
                wrong.push(("listen_tls", "needs a certificate; set tls.cert and tls.key, or \"off\""));
            }
            None if *tls != Tls::default() => {
                let set = KEYS
                    .iter()
                    .map(|key| key.name)
                    .find(|name| name.starts_with("tls.") && self.origins.contains_key(name));
                wrong.push((
                    set.unwrap_or("tls.cert"),
                    "is set, and nobody listens for TLS; set listen_tls to the address where TLS clients are to connect",
                ));
            }
            _ => {}
        }
        if tls.client_user != ClientUser::None && tls.client_ca.is_none() {
            wrong.push(("tls.client_user", "needs certificates that can be trusted; set tls.client_ca"));
        }
        if *upstream_tls != UpstreamTls::default() && !upstream.speaks_tls() {
            wrong.push((
                "upstream",
                "is reached in the clear, and [upstream_tls] is set; write rediss://, or take the table out",
            ));
        }
        if self.config.limits.proxy_protocol && self.config.limits.proxy_trusted.is_empty() {
            wrong.push((
                "limits.proxy_protocol",
                "is true, and nobody is trusted to say whose a connection is; name the load balancers in limits.proxy_trusted",
            ));
        }
        for (key, says) in wrong {
            self.problem(&self.origin(key), key, says.to_owned());
        }
    }

    /// `places` are asked or connected to, as whom `endpoint` says.
    fn check_upstream(&mut self, places: &[Address], endpoint: &Endpoint) {
        let is_own = |place: &&Address| **place == self.config.listen && !matches!(place, Address::Tcp { port: 0, .. });
        if let Some(own) = places.iter().find(is_own) {
            let says = format!("is {own}, where Lockgate itself listens; write the address of the Redis behind it");
            self.problem(&self.origin("upstream"), "upstream", says);
        } else if endpoint.user.is_some() && endpoint.password.is_none() {
            let says = "names a user without a password; write redis://user:password@host, or set \
                        upstream_password_file"
                .to_owned();
            self.problem(&self.origin("upstream"), "upstream", says);
        }
    }

    fn take_password_file(&mut self) {
        const KEY: &str = "upstream_password_file";
        let Some(path) = self.config.upstream_password_file.clone() else { return };
        let wrong = match &mut self.config.upstream {
            Upstream::Embedded => {
                Some("is set, but the embedded upstream has no password; take it out, or set upstream".to_owned())
            }
            Upstream::Standalone(endpoint) | Upstream::Sentinel(Sentinels { master: endpoint, .. })
                if endpoint.password.is_some() =>
            {
                Some("is set, and the upstream's URL has a password too; keep one of them".to_owned())
            }
            Upstream::Standalone(endpoint) | Upstream::Sentinel(Sentinels { master: endpoint, .. }) => {
                match read_bounded(&path) {
                    Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                        Some(format!("{} is empty; write the password into it", path.display()))
                    }
                    Ok(text) => {
                        endpoint.password = Some(text.trim_end_matches(['\r', '\n']).to_owned());
                        None
                    }
                    Err(says) => Some(says),
                }
            }
        };
        if let Some(says) = wrong {
            self.problem(&self.origin(KEY), KEY, says);
        }
    }

    fn note_what_may_not_be_meant(&mut self) {
        let is_open = matches!(&self.config.listen, Address::Tcp { host, .. } if !is_loopback(host));
        let listen = &self.config.listen;
        if is_open && self.config.upstream == Upstream::Embedded {
            self.notes.push(format!(
                "listen is {listen} and the embedded upstream has no password: whoever reaches this port can read and \
                 change everything; keep it behind a firewall, or use an upstream that asks for passwords"
            ));
        }
        if is_open && self.config.trust_clients {
            self.notes.push(format!(
                "listen is {listen} and trust_clients is true: whoever reaches this port acts with the upstream URL's \
                 credentials"
            ));
        }
        if is_open {
            let says = match self.config.listen_tls {
                None => "set listen_tls and [tls], and keep listen on this machine",
                Some(_) => "keep listen on this machine, since listen_tls serves the others",
            };
            self.notes.push(format!(
                "listen is {listen}, in the clear: whoever sees the network reads passwords and data; {says}"
            ));
        }
        let early: Vec<&str> = KEYS
            .iter()
            .filter(|key| key.applies == Applies::Later && self.origins.contains_key(key.name))
            .map(|key| key.name)
            .collect();
        if !early.is_empty() {
            self.notes.push(format!("set, but without effect in this version: {}", early.join(", ")));
        }
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    fn problem(&mut self, origin: &Origin, key: &str, says: String) {
        self.problems.push(Problem { origin: origin.clone(), key: Some(key.to_owned()), says });
    }
}

type Named = (&'static str, std::time::Duration);

/// Pairs of times of which the first is longer than the second, and must not be.
pub(super) fn misfits(config: &Config) -> Vec<(Named, Named)> {
    let pairs = [
        (("default_ttl", config.default_ttl), ("max_ttl", config.max_ttl)),
        (("links.retry_base", config.links.retry_base), ("links.retry_max", config.links.retry_max)),
        (("nodes.heartbeat", config.nodes.heartbeat), ("nodes.timeout", config.nodes.timeout)),
    ];
    pairs.into_iter().filter(|(small, large)| small.1 > large.1).collect()
}

/// Such a pair in words.
pub(super) fn misfit((small, small_is): Named, (large, large_is): Named) -> String {
    let (small_is, large_is) = (units::show_duration(small_is), units::show_duration(large_is));
    format!("{small} ({small_is}) is longer than {large} ({large_is}); lower {small} or raise {large}")
}

fn known_keys() -> impl Iterator<Item = &'static str> + Clone {
    KEYS.iter()
        .map(|key: &Key<Config>| key.name)
        .chain(later::LATER.iter().map(|later| later.name))
        .chain(["lock_keys", "lock_scripts"])
}

fn is_table(name: &str) -> bool {
    known_keys().any(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    // A key in the wrong table is as common as a misspelt one: "shared" for "links.shared".
    let last = name.rsplit('.').next().unwrap_or(name);
    let elsewhere = known.clone().find(|candidate| candidate.rsplit('.').next() == Some(last));
    match suggest::nearest(name, known).or(elsewhere) {
        Some(meant) => format!("is no key of Lockgate; did you mean {meant}?"),
        None => "is no key of Lockgate; `lockgate config dump --defaults` lists them all".to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// Kubernetes gives every pod variables of this form for each service, and a service may well be called lockgate.
fn is_from_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name == "LOCKGATE_PORT"
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let shown = path.display();
    let file = std::fs::File::open(path)
        .map_err(|error| format!("cannot read {shown} ({error}); check the path and its permissions"))?;
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read {shown} ({error}); check that it is a file"))?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(format!(
            "{shown} is over {}, which is no configuration; check the path",
            units::show_size(FILE_SIZE_MAX)
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{shown} is no UTF-8 text (line {line}); save it as UTF-8")
    })
}
