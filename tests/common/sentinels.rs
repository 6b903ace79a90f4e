//! A master with replicas, and the Sentinels that watch over them: real processes on free ports.

use super::server::{RedisServer, ServerKind, free_port};
use super::wait::{eventually, within};
use super::wire::Wire;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the Sentinels call the master.
pub const NAME: &str = "main";
/// A server that has been silent for so long is down, in ms.
pub const DOWN_AFTER_MS: u64 = 1000;

/// One Sentinel.
pub struct Sentinel {
    child: Child,
    kind: ServerKind,
    port: u16,
    password: Option<String>,
    folder: tempfile::TempDir,
}

impl Sentinel {
    fn start(kind: ServerKind, master: u16, passwords: &Passwords) -> Self {
        let folder = tempfile::Builder::new().prefix("lockgate-test-").tempdir().unwrap();
        for _ in 0..20 {
            let port = free_port();
            let mut config = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\nsentinel failover-timeout {NAME} 3000\n\
                 sentinel parallel-syncs {NAME} 2\n",
                folder.path().display()
            );
            if let Some(password) = &passwords.servers {
                config += &format!("sentinel auth-pass {NAME} {password}\n");
            }
            if let Some(password) = &passwords.sentinels {
                config += &format!("requirepass {password}\nsentinel sentinel-pass {password}\n");
            }
            std::fs::write(folder.path().join("sentinel.conf"), config).unwrap();
            if let Some(child) = launch(kind, folder.path(), port) {
                return Sentinel { child, kind, port, password: passwords.sentinels.clone(), folder };
            }
        }
        panic!("no Sentinel would start; its log:\n{}", std::fs::read_to_string(folder.path().join("log")).unwrap());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn wire(&self) -> Wire {
        let mut wire = Wire::connect(([127, 0, 0, 1], self.port).into());
        if let Some(password) = &self.password {
            assert_eq!(wire.call(&["AUTH", password]), b"+OK\r\n");
        }
        wire
    }

    /// A field of what it knows of the master.
    pub fn field(&self, name: &str) -> String {
        let reply = self.wire().call(&["SENTINEL", "MASTER", NAME]);
        let text = String::from_utf8_lossy(&reply).into_owned();
        let words: Vec<&str> = text.split("\r\n").filter(|line| !line.starts_with(['*', '$'])).collect();
        let at = words.iter().step_by(2).position(|word| *word == name);
        at.and_then(|at| words.get(2 * at + 1)).unwrap_or(&"").to_string()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// It goes on where it was killed, with what it had written down.
    pub fn restart(&mut self) {
        self.kill();
        self.child = eventually("the Sentinel starts again", || launch(self.kind, self.folder.path(), self.port));
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(kind: ServerKind, folder: &std::path::Path, port: u16) -> Option<Child> {
    let log = File::create(folder.join("log")).unwrap();
    let mut child = Command::new(kind.program())
        .arg(folder.join("sentinel.conf"))
        .arg("--sentinel")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let up = within(Duration::from_secs(10), || {
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        Wire::try_connect(([127, 0, 0, 1], port).into()).map(|_| true)
    });
    if up == Some(true) {
        return Some(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// What the servers and the Sentinels ask for.
#[derive(Default)]
pub struct Passwords {
    pub servers: Option<String>,
    pub sentinels: Option<String>,
}

/// Servers, the first of which is the master in the beginning, and three Sentinels that know them all.
pub struct Watched {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<Sentinel>,
    passwords: Passwords,
}

impl Watched {
    pub fn start(kind: ServerKind) -> Self {
        Self::start_with(kind, Passwords::default())
    }

    pub fn start_with(kind: ServerKind, passwords: Passwords) -> Self {
        let mut common = vec!["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        if let Some(password) = &passwords.servers {
            common.extend(["--requirepass", password, "--masterauth", password]);
        }
        let master = RedisServer::start_with(kind, &common);
        let of_master = format!("127.0.0.1 {}", master.port());
        let servers: Vec<RedisServer> = std::iter::once(master)
            .chain((0..2).map(|_| {
                let mut words = common.clone();
                words.extend(["--replicaof", &of_master]);
                RedisServer::start_with(kind, &words)
            }))
            .collect();
        for replica in &servers[1..] {
            eventually("a replica follows the master", || {
                let info = replica.side_wire().call(&["INFO", "replication"]);
                String::from_utf8_lossy(&info).contains("master_link_status:up").then_some(())
            });
        }
        let port = servers[0].port();
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(kind, port, &passwords)).collect();
        for sentinel in &sentinels {
            for (option, ms) in [("info-period", "200"), ("publish-period", "200")] {
                sentinel.wire().call(&["SENTINEL", "DEBUG", option, ms]);
            }
            eventually("a Sentinel knows everybody", || {
                (sentinel.field("num-slaves") == "2" && sentinel.field("num-other-sentinels") == "2").then_some(())
            });
        }
        Watched { servers, sentinels, passwords }
    }

    /// What Lockgate is given.
    pub fn url(&self) -> String {
        let places: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        self.url_of(&places.join(","))
    }

    pub fn url_of(&self, places: &str) -> String {
        let servers = self.passwords.servers.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let sentinels = self
            .passwords
            .sentinels
            .as_ref()
            .map(|password| format!("?sentinel_password={password}"))
            .unwrap_or_default();
        format!("redis-sentinel://{servers}{places}/{NAME}{sentinels}")
    }

    /// Which of the servers most Sentinels name.
    pub fn master(&self) -> Option<usize> {
        let said: Vec<u16> = self.sentinels.iter().filter_map(|sentinel| sentinel.try_master()).collect();
        self.servers.iter().position(|server| 2 * said.iter().filter(|port| **port == server.port()).count() > 3)
    }

    /// Returns once another server than `before` is the master, in the Sentinels' eyes and its own.
    #[track_caller]
    pub fn await_other_than(&self, before: usize) -> usize {
        let promoted = within(super::wait::PATIENCE, || {
            (0..self.servers.len()).filter(|at| *at != before).find(|at| self.is_promoted(*at))
        });
        promoted.unwrap_or_else(|| {
            let logs = self
                .sentinels
                .iter()
                .map(|sentinel| std::fs::read_to_string(sentinel.folder.path().join("log")).unwrap());
            panic!("no other server was promoted; the Sentinels wrote:\n{}", logs.collect::<Vec<_>>().join("\n"))
        })
    }

    /// It takes itself for a master. A server that is just being made another ends its connections: then it is asked once more.
    pub fn is_promoted(&self, at: usize) -> bool {
        let ask = || {
            let mut wire = Wire::try_connect_unix(&self.servers[at].socket())?;
            if let Some(password) = &self.passwords.servers {
                wire.ask(&["AUTH", password]);
                wire.try_frame(super::wait::PATIENCE).ok()?;
            }
            wire.ask(&["ROLE"]);
            wire.try_frame(super::wait::PATIENCE).ok()
        };
        let role = ask().or_else(ask);
        role.is_some_and(|role| role.windows(6).any(|word| word == b"master"))
    }

    /// Asks the first Sentinel to make another server the master, in order.
    #[track_caller]
    pub fn fail_over(&self) {
        eventually("a failover begins", || {
            let reply = self.sentinels[0].wire().call(&["SENTINEL", "FAILOVER", NAME]);
            reply.starts_with(b"+OK").then_some(())
        });
    }
}

impl Sentinel {
    fn try_master(&self) -> Option<u16> {
        let mut wire = Wire::try_connect(([127, 0, 0, 1], self.port).into())?;
        if let Some(password) = &self.password {
            wire.call(&["AUTH", password]);
        }
        let reply = wire.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        String::from_utf8_lossy(&reply).split("\r\n").nth(4)?.parse().ok()
    }
}
