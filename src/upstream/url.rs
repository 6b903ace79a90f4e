//! Where the upstream is, as a URL says it (SPEC 6).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Longest path of a unix socket in bytes: `sun_path` holds 108 with the closing zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// The port of a Redis whose URL names none.
pub const DEFAULT_PORT: u16 = 6379;
/// The port of a Sentinel whose URL names none.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// A place to connect to or to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host` is a name, an IPv4 address, or an IPv6 address without its brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0, when listening, takes a free one.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// Not known yet, for this reason: no connection is tried.
    Nowhere(Arc<str>),
}

impl Address {
    /// Reads `host:port`, `[ipv6]:port` or `unix:///path`, as `listen` takes it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return socket_path(path).map(Address::Unix);
        }
        if text.contains("://") || text.starts_with('/') {
            return Err(AddressError::Shape);
        }
        match split_port(text)? {
            (host, Some(port)) if !host.is_empty() => Ok(Address::Tcp { host, port }),
            (host, Some(port)) if host.is_empty() => Err(AddressError::NoHost { port }),
            (host, _) => match host.parse() {
                Ok(port) => Err(AddressError::NoHost { port }),
                Err(_) => Err(AddressError::NoPort),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Nowhere(_) => write!(f, "an unknown address"),
        }
    }
}

/// Why a text is no address.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// A bare port, or `:port`.
    #[error("names no host; write \"127.0.0.1:{port}\" for this machine only, \"0.0.0.0:{port}\" for every network")]
    NoHost {
        /// The port that was given.
        port: u16,
    },
    /// A bare host.
    #[error("names no port; write it as host:port, for example \"127.0.0.1:7379\"")]
    NoPort,
    /// What stands where the port should.
    #[error("has '{0}' where the port should be; use a number from 0 to 65535")]
    Port(String),
    /// An opening bracket without its end, or more after it.
    #[error("has an IPv6 address without proper brackets; write it as \"[::1]:7379\"")]
    Brackets,
    /// An IPv6 address that is not in brackets at all.
    #[error("looks like an IPv6 address; put it in brackets: \"[::1]:7379\"")]
    NeedsBrackets,
    /// Another URL, or a bare path.
    #[error("is no address; write host:port, for example \"127.0.0.1:7379\", or unix:///path/to.sock")]
    Shape,
    /// `unix://` without an absolute path.
    #[error("needs an absolute path after unix://, for example unix:///run/lockgate.sock")]
    SocketPath,
    /// More than the kernel takes.
    #[error("has a socket path of {length} bytes; the system takes at most {SOCKET_PATH_MAX}")]
    SocketPathLength {
        /// Bytes of the path that was given.
        length: usize,
    },
}

/// What stands behind Lockgate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A private redis-server that Lockgate starts and minds.
    Embedded,
    /// One Redis or Valkey.
    Standalone(Endpoint),
    /// The master that Sentinels name.
    Sentinel(Sentinels),
}

impl Upstream {
    /// Reads a URL of SPEC 6. Empty and `embedded` mean the embedded server.
    pub fn parse(url: &str) -> Result<Upstream, UrlError> {
        if url.is_empty() || url == "embedded" {
            return Ok(Upstream::Embedded);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(UrlError::NoScheme);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => Endpoint::parse_tcp(rest).map(Upstream::Standalone),
            "unix" | "redis+unix" | "valkey+unix" => Endpoint::parse_unix(rest).map(Upstream::Standalone),
            "rediss" | "valkeys" => {
                let endpoint = Endpoint::parse_tcp(rest)?;
                Ok(Upstream::Standalone(Endpoint { is_tls: true, ..endpoint }))
            }
            "redis-sentinel" | "valkey-sentinel" => Sentinels::parse(rest, false).map(Upstream::Sentinel),
            "rediss-sentinel" | "valkeys-sentinel" => Sentinels::parse(rest, true).map(Upstream::Sentinel),
            "redis-cluster" => Err(UrlError::Later {
                what: "a cluster upstream (redis-cluster://)",
                instead: "redis:// with a standalone server",
            }),
            "redis-quorum" => Err(UrlError::Later {
                what: "a quorum of masters (redis-quorum://)",
                instead: "redis:// with one of them",
            }),
            // Only a plain word is repeated: anything else may be a password that stands in the wrong place.
            other if other.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                Err(UrlError::Scheme(other.to_owned()))
            }
            _ => Err(UrlError::NoScheme),
        }
    }
}

impl Upstream {
    /// Whether any of it is reached by TLS.
    pub fn speaks_tls(&self) -> bool {
        match self {
            Upstream::Embedded => false,
            Upstream::Standalone(endpoint) => endpoint.is_tls,
            Upstream::Sentinel(sentinels) => sentinels.is_tls || sentinels.master.is_tls,
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Embedded => write!(f, "embedded"),
            Upstream::Standalone(endpoint) => write!(f, "{endpoint}"),
            Upstream::Sentinel(sentinels) => write!(f, "{sentinels}"),
        }
    }
}

/// Sentinels, and the master that they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Those that the URL names, at least one.
    pub addresses: Vec<Address>,
    /// What they call the master.
    pub name: String,
    /// Who Lockgate is to the Sentinels themselves.
    pub user: Option<String>,
    /// A secret: `Display` does not show it.
    pub password: Option<Secret>,
    /// They speak TLS; whether the master does, `master` says.
    pub is_tls: bool,
    /// Who Lockgate is to the master; its address is what the Sentinels say.
    pub master: Endpoint,
}

/// A text that neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Sentinels {
    fn parse(rest: &str, is_tls: bool) -> Result<Self, UrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, places) = split_credentials(authority);
        let addresses = places.split(',').map(|place| {
            let (host, port) = split_port(place)?;
            if host.is_empty() {
                return Err(UrlError::NoSentinel);
            }
            Ok(Address::Tcp { host, port: port.unwrap_or(DEFAULT_SENTINEL_PORT) })
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let (name, db) = path.trim_end_matches('/').split_once('/').unwrap_or((path.trim_end_matches('/'), ""));
        let name = decode(name).ok_or(UrlError::Encoding { what: "name" })?;
        if name.is_empty() {
            return Err(UrlError::NoName);
        }
        let mut master = Endpoint { is_tls, ..Endpoint::at(Address::Nowhere("no Sentinel was asked yet".into())) };
        master.take_credentials(credentials)?;
        if !db.is_empty() {
            master.db = database(db)?;
        }
        let mut sentinels = Sentinels { addresses, name, user: None, password: None, is_tls, master };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let decoded = |text, what| decode(text).ok_or(UrlError::Encoding { what });
            match pair.split_once('=') {
                Some(("db", db)) => sentinels.master.db = database(db)?,
                Some(("sentinel_user", user)) => sentinels.user = Some(decoded(user, "user")?),
                Some(("sentinel_password", password)) => {
                    sentinels.password = Some(Secret(decoded(password, "password")?));
                }
                Some(("sentinel_tls", answer @ ("true" | "false"))) => sentinels.is_tls = answer == "true",
                _ => return Err(UrlError::SentinelQuery),
            }
        }
        Ok(sentinels)
    }
}

impl fmt::Display for Sentinels {
    /// The URL, with `***` in the passwords' places.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.master.is_tls { "rediss-sentinel://" } else { "redis-sentinel://" })?;
        self.master.show_credentials(f)?;
        for (number, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if number > 0 { "," } else { "" })?;
        }
        write!(f, "/{}", self.name)?;
        if self.master.db != 0 {
            write!(f, "/{}", self.master.db)?;
        }
        let user = self.user.as_ref().map(|user| format!("sentinel_user={user}"));
        let password = self.password.as_ref().map(|_| "sentinel_password=***".to_owned());
        let tls = (self.is_tls != self.master.is_tls).then(|| format!("sentinel_tls={}", self.is_tls));
        let options: Vec<String> = [user, password, tls].into_iter().flatten().collect();
        write!(f, "{}{}", if options.is_empty() { "" } else { "?" }, options.join("&"))
    }
}

/// One server and who Lockgate is to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// The user to authenticate as; `None` with a password is the user `default`.
    pub user: Option<String>,
    /// A secret: neither `Debug` nor `Display` shows it.
    pub password: Option<String>,
    /// The logical database that connections begin with.
    pub db: u32,
    /// It speaks TLS.
    pub is_tls: bool,
}

impl Endpoint {
    /// The server at `address`, with no credentials and database 0.
    pub fn at(address: Address) -> Self {
        Endpoint { address, user: None, password: None, db: 0, is_tls: false }
    }

    fn parse_tcp(rest: &str) -> Result<Self, UrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, place) = split_credentials(authority);
        let (host, port) = split_port(place)?;
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        let mut endpoint = Endpoint::at(Address::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) });
        endpoint.take_credentials(credentials)?;
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            endpoint.db = database(path)?;
        }
        endpoint.take_query(query)?;
        Ok(endpoint)
    }

    fn parse_unix(rest: &str) -> Result<Self, UrlError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = rest.find('/').ok_or(AddressError::SocketPath)?;
        // A path may hold an '@', so only what stands before its first slash can be credentials.
        let (authority, path) = rest.split_at(slash);
        let (credentials, place) = split_credentials(authority);
        if !place.is_empty() {
            return Err(AddressError::SocketPath.into());
        }
        let path = decode(path).ok_or(UrlError::Encoding { what: "path" })?;
        let mut endpoint = Endpoint::at(Address::Unix(socket_path(&path)?));
        endpoint.take_credentials(credentials)?;
        endpoint.take_query(query)?;
        Ok(endpoint)
    }

    fn take_credentials(&mut self, credentials: Option<&str>) -> Result<(), UrlError> {
        let Some(credentials) = credentials else { return Ok(()) };
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        if !user.is_empty() {
            self.user = Some(decode(user).ok_or(UrlError::Encoding { what: "user" })?);
        }
        if let Some(password) = password {
            self.password = Some(decode(password).ok_or(UrlError::Encoding { what: "password" })?);
        }
        Ok(())
    }

    fn show_credentials(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.password) {
            (None, None) => Ok(()),
            (user, None) => write!(f, "{}@", user.as_deref().unwrap_or_default()),
            (user, Some(_)) => write!(f, "{}:***@", user.as_deref().unwrap_or_default()),
        }
    }

    fn take_query(&mut self, query: &str) -> Result<(), UrlError> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("db", db)) => self.db = database(db)?,
                _ => return Err(UrlError::Query),
            }
        }
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    /// The URL, with `***` in the password's place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, place) = match &self.address {
            Address::Tcp { .. } if self.is_tls => ("rediss", self.address.to_string()),
            Address::Tcp { .. } | Address::Nowhere(_) => ("redis", self.address.to_string()),
            Address::Unix(path) => ("unix", path.display().to_string()),
        };
        write!(f, "{scheme}://")?;
        self.show_credentials(f)?;
        write!(f, "{place}")?;
        match (&self.address, self.db) {
            (_, 0) => Ok(()),
            (Address::Tcp { .. } | Address::Nowhere(_), db) => write!(f, "/{db}"),
            (Address::Unix(_), db) => write!(f, "?db={db}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Why a URL does not name an upstream. Never repeats what may be a secret.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// No `scheme://` at its front.
    #[error("is no upstream URL; write redis://host:port, unix:///path/to.sock, or embedded")]
    NoScheme,
    /// A scheme that no version knows.
    #[error(
        "has the unknown scheme '{0}://'; write redis://host:port, rediss://host:port, unix:///path/to.sock, or embedded"
    )]
    Scheme(String),
    /// A scheme that SPEC knows and this version does not serve.
    #[error("asks for {what}, which comes in a later version; use {instead} until then")]
    Later {
        /// What was asked for.
        what: &'static str,
        /// What works today.
        instead: &'static str,
    },
    /// `redis://` and no host.
    #[error("names no host; write redis://host:port")]
    NoHost,
    /// `%` without two hexadecimal digits, or bytes that are no UTF-8.
    #[error("has a {what} with a wrong %-escape; write % itself as %25, @ as %40, : as %3A, / as %2F")]
    Encoding {
        /// Which part of the URL.
        what: &'static str,
    },
    /// Neither a number after the host nor one after `db=`.
    #[error("has '{0}' where the database number should be; use a number such as /0")]
    Database(String),
    /// `redis-sentinel://` and no host, or an empty one between commas.
    #[error("names no Sentinel in one of its places; write redis-sentinel://host:port,host:port/master-name")]
    NoSentinel,
    /// `redis-sentinel://` without what the master is called.
    #[error("does not say what the Sentinels call the master; write redis-sentinel://host:port,host:port/master-name")]
    NoName,
    /// Anything that a Sentinel's URL does not know after the `?`.
    #[error(
        "has an unknown option after '?'; only db, sentinel_user, sentinel_password and sentinel_tls=true|false are known"
    )]
    SentinelQuery,
    /// Anything but `db=` after the `?`.
    #[error("has an unknown option after '?'; only db=NUMBER is known")]
    Query,
    /// The part that says where.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Credentials end at the last `@`: a password that was not escaped may hold one.
fn split_credentials(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, authority),
    }
}

/// `host[:port]`, the brackets of an IPv6 address taken off.
fn split_port(place: &str) -> Result<(String, Option<u16>), AddressError> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(AddressError::Brackets)?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(AddressError::Brackets),
        }
    } else {
        match place.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err(AddressError::NeedsBrackets),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = match port {
        Some(digits) => Some(digits.parse().map_err(|_| AddressError::Port(digits.to_owned()))?),
        None => None,
    };
    Ok((host.to_owned(), port))
}

fn socket_path(path: &str) -> Result<PathBuf, AddressError> {
    match path.len() {
        length if length > SOCKET_PATH_MAX => Err(AddressError::SocketPathLength { length }),
        length if length < 2 || !path.starts_with('/') => Err(AddressError::SocketPath),
        _ => Ok(PathBuf::from(path)),
    }
}

fn database(digits: &str) -> Result<u32, UrlError> {
    digits.parse().map_err(|_| UrlError::Database(digits.to_owned()))
}

/// Undoes percent-encoding; `None` where an escape is wrong or the bytes are no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: &u8| char::from(*b).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standalone(url: &str) -> Endpoint {
        match Upstream::parse(url) {
            Ok(Upstream::Standalone(endpoint)) => endpoint,
            other => panic!("{url} is {other:?}"),
        }
    }

    #[test]
    fn nothing_and_embedded_mean_the_embedded_server() {
        assert_eq!(Upstream::parse(""), Ok(Upstream::Embedded));
        assert_eq!(Upstream::parse("embedded"), Ok(Upstream::Embedded));
    }

    #[test]
    fn a_tcp_url_gives_host_port_credentials_and_database() {
        let plain = standalone("redis://10.0.0.5");
        assert_eq!(plain.address, Address::Tcp { host: "10.0.0.5".into(), port: 6379 });
        assert_eq!((plain.user, plain.password, plain.db), (None, None, 0));

        let full = standalone("redis://app:p%40ss%3a%2f%25@db.example:7000/3");
        assert_eq!(full.address, Address::Tcp { host: "db.example".into(), port: 7000 });
        assert_eq!(full.user.as_deref(), Some("app"));
        assert_eq!(full.password.as_deref(), Some("p@ss:/%"));
        assert_eq!(full.db, 3);

        let six = standalone("redis://:secret@[::1]:6380/");
        assert_eq!(six.address, Address::Tcp { host: "::1".into(), port: 6380 });
        assert_eq!((six.user, six.password.as_deref()), (None, Some("secret")));
        assert_eq!(standalone("redis://a:b@c@host").password.as_deref(), Some("b@c"));
        assert_eq!(standalone("redis://host?db=4").db, 4);
        assert_eq!(standalone("valkey://host:1").address, Address::Tcp { host: "host".into(), port: 1 });
    }

    #[test]
    fn a_sentinel_url_gives_who_is_asked_and_for_whom() {
        let Ok(Upstream::Sentinel(plain)) = Upstream::parse("redis-sentinel://s1,s2:1,[::1]/my%2Fmaster") else {
            panic!("a good URL")
        };
        let shown: Vec<String> = plain.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["s1:26379", "s2:1", "[::1]:26379"]);
        assert_eq!((plain.name.as_str(), plain.master.db, plain.master.password), ("my/master", 0, None));
        let url = "redis-sentinel://app:s3cret@s1/main/4?sentinel_user=w&sentinel_password=s3cret";
        let Ok(full) = Upstream::parse(url) else { panic!("a good URL") };
        assert_eq!(full.to_string(), "redis-sentinel://app:***@s1:26379/main/4?sentinel_user=w&sentinel_password=***");
        assert!(!format!("{full:?}").contains("s3cret"));
        for (url, says) in [
            ("redis-sentinel://s1", "what the Sentinels call the master"),
            ("redis-sentinel://s1,/m", "no Sentinel in one of its places"),
            ("redis-sentinel:///m", "no Sentinel in one of its places"),
            ("redis-sentinel://s1/m?x=1", "sentinel_password"),
            ("redis-sentinel://s1/m/x", "database number"),
            ("redis-sentinel://s1:x/m", "'x' where the port"),
        ] {
            let error = Upstream::parse(url).expect_err(url).to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn a_scheme_with_two_s_asks_for_tls() {
        for url in ["rediss://h:1", "valkeys://h:1"] {
            assert!(standalone(url).is_tls);
            assert_eq!(standalone(url).to_string(), "rediss://h:1");
        }
        assert!(!standalone("redis://h").is_tls);
        for (url, master, sentinels) in [
            ("rediss-sentinel://s1:1/m", true, true),
            ("rediss-sentinel://s1:1/m?sentinel_tls=false", true, false),
            ("redis-sentinel://s1:1/m?sentinel_tls=true", false, true),
            ("redis-sentinel://s1:1/m", false, false),
        ] {
            let Ok(Upstream::Sentinel(read)) = Upstream::parse(url) else { panic!("{url} is a good URL") };
            assert_eq!((read.master.is_tls, read.is_tls, read.to_string().as_str()), (master, sentinels, url));
        }
    }

    #[test]
    fn a_unix_url_gives_path_credentials_and_database() {
        let plain = standalone("unix:///run/re@dis.sock");
        assert_eq!(plain.address, Address::Unix("/run/re@dis.sock".into()));
        let full = standalone("unix://u:p@/run/a%20b.sock?db=2");
        assert_eq!(full.address, Address::Unix("/run/a b.sock".into()));
        assert_eq!((full.user.as_deref(), full.password.as_deref(), full.db), (Some("u"), Some("p"), 2));
    }

    #[test]
    fn what_comes_later_is_refused_and_says_so() {
        for url in ["redis-cluster://a,b", "redis-quorum://a,b,c"] {
            let error = Upstream::parse(url).expect_err(url).to_string();
            assert!(error.contains("comes in a later version"), "{url}: {error}");
        }
    }

    #[test]
    fn wrong_urls_say_what_to_write_and_never_repeat_a_secret() {
        for (url, says) in [
            ("127.0.0.1:6379", "redis://host:port"),
            ("http://h", "unknown scheme 'http://'"),
            ("redis://", "names no host"),
            ("redis://h:port", "'port' where the port should be"),
            ("redis://h:70000", "'70000'"),
            ("redis://h/x", "database number"),
            ("redis://h?ssl=1", "only db=NUMBER"),
            ("redis://u:%zz@h", "%25"),
            ("redis://u:%ff@h", "%25"),
            ("redis://::1:6379", "brackets"),
            ("redis://[::1", "brackets"),
            ("unix://relative", "absolute path"),
            ("unix://", "absolute path"),
            ("s3cret@h://x", "no upstream URL"),
        ] {
            let error = Upstream::parse(url).expect_err(url).to_string();
            assert!(error.contains(says), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let long = format!("unix:///{}", "x".repeat(120));
        assert!(Upstream::parse(&long).expect_err("too long").to_string().contains("121 bytes"));
    }

    #[test]
    fn neither_debug_nor_display_shows_a_password() {
        let upstream = Upstream::parse("redis://app:s3cret@h/1").expect("a good URL");
        assert_eq!(upstream.to_string(), "redis://app:***@h:6379/1");
        assert!(!format!("{upstream:?}").contains("s3cret"));
    }

    #[test]
    fn listening_addresses() {
        assert_eq!(Address::parse("localhost:0"), Ok(Address::Tcp { host: "localhost".into(), port: 0 }));
        assert_eq!(Address::parse("[::1]:7379").map(|a| a.to_string()), Ok("[::1]:7379".to_owned()));
        assert_eq!(Address::parse("unix:///run/x.sock"), Ok(Address::Unix("/run/x.sock".into())));
        for (text, says) in [
            ("7379", "127.0.0.1:7379"),
            (":7379", "127.0.0.1:7379"),
            ("localhost", "host:port"),
            ("/run/x.sock", "unix:///"),
            ("redis://h:1", "unix:///"),
            ("::1:7379", "brackets"),
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
