//! The server behind the nodes: how it goes down and comes back, with its data, without, or as another that had been its replica.

use super::gate::{Flow, Gate, Way};
use crate::common::{RedisServer, Reply, ServerKind, Wire, eventually, within};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the server keeps its data when it goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// An append-only file, synced before anything is answered: a crash loses nothing.
    Log,
    /// A snapshot when it is shut down in order; a crash loses everything.
    Snapshot,
}

/// The server that is the master now, and its replica where there is one.
pub struct Servers {
    pub keeps: Keeps,
    kind: ServerKind,
    master: Mutex<RedisServer>,
    replica: Mutex<Option<Replica>>,
    /// Where those find the master who go around Lockgate.
    socket: Mutex<PathBuf>,
}

struct Replica {
    server: RedisServer,
    /// Between it and its master.
    link: Gate,
}

/// A replica that has not confirmed what its master wrote after so long does not follow it just now.
const FOLLOWS_WITHIN_MS: &str = "1000";
/// A replica takes so long at most to read what its master has.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

impl Servers {
    pub fn start(kind: ServerKind, keeps: Keeps, has_replica: bool, extra: &[&str]) -> Self {
        let mut words = extra.to_vec();
        if keeps == Keeps::Log {
            words.extend(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        words.extend(["--repl-diskless-sync-delay", "0"]);
        let master = RedisServer::start_with(kind, &words);
        let replica = has_replica.then(|| Replica::of(&master, kind));
        let socket = Mutex::new(master.socket());
        Self { keeps, kind, master: Mutex::new(master), replica: Mutex::new(replica), socket }
    }

    pub fn port(&self) -> u16 {
        self.master.lock().unwrap().port()
    }

    pub fn pid(&self) -> u32 {
        self.master.lock().unwrap().pid()
    }

    /// `kill -9`, and the same server again a moment later.
    pub fn crashes(&self, is_down_for: Duration) {
        let mut master = self.master.lock().unwrap();
        master.kill();
        std::thread::sleep(is_down_for);
        master.restart();
    }

    /// An orderly end, and the same server again a moment later.
    pub fn is_shut_down(&self, is_down_for: Duration) {
        let mut master = self.master.lock().unwrap();
        master.shut_down();
        std::thread::sleep(is_down_for);
        master.restart();
    }

    /// `kill -9`, and a server with nothing in it in its place.
    pub fn is_emptied(&self, is_down_for: Duration) {
        let mut master = self.master.lock().unwrap();
        master.kill();
        std::thread::sleep(is_down_for);
        master.restart_empty();
    }

    /// The replica hears nothing more for `unheard`, then its master dies and it is promoted; `leads` is told where it is. Nothing
    /// that was executed before this call is lost, what is executed until the master's death is. `false`: the replica did not follow,
    /// and nothing was done.
    pub fn fails_over(&self, unheard: Duration, leads: impl FnOnce(&RedisServer)) -> bool {
        let (mut master, mut replica) = (self.master.lock().unwrap(), self.replica.lock().unwrap());
        let mut side = master.side_wire();
        // WAIT is about what its own connection wrote; offsets are everybody's.
        side.call(&["SET", "data:mark", "1"]);
        let follows = side.call(&["WAIT", "1", FOLLOWS_WITHIN_MS]) == b":1\r\n";
        let Some(promoted) = replica.take_if(|_| follows) else { return false };
        promoted.link.set(Way::Both, Flow::Lost);
        std::thread::sleep(unheard);
        master.kill();
        let mut wire = promoted.server.side_wire();
        assert_eq!(wire.call(&["REPLICAOF", "NO", "ONE"]), b"+OK\r\n");
        *self.socket.lock().unwrap() = promoted.server.socket();
        leads(&promoted.server);
        *master = promoted.server;
        true
    }

    /// Gives the master a replica, if it has none; returns once it follows.
    pub fn follows_again(&self) {
        let (master, mut replica) = (self.master.lock().unwrap(), self.replica.lock().unwrap());
        if replica.is_none() {
            *replica = Some(Replica::of(&master, self.kind));
        }
    }
}

impl Replica {
    fn of(master: &RedisServer, kind: ServerKind) -> Self {
        let link = Gate::before(master.addr());
        let port = link.addr().port().to_string();
        let server = RedisServer::start_with(kind, &["--repl-diskless-sync-delay", "0"]);
        let mut wire = server.side_wire();
        assert_eq!(wire.call(&["REPLICAOF", "127.0.0.1", &port]), b"+OK\r\n");
        // One that is slow to follow is found out when it is needed.
        within(SYNC_PATIENCE, || {
            let info = String::from_utf8_lossy(&wire.call(&["INFO", "replication"])).into_owned();
            info.contains("master_link_status:up").then_some(())
        });
        Self { server, link }
    }
}

/// A client that goes around Lockgate, to whichever server is the master.
pub struct Side {
    servers: Arc<Servers>,
    wire: Option<Wire>,
}

impl Side {
    pub fn to(servers: &Arc<Servers>) -> Self {
        Self { servers: Arc::clone(servers), wire: None }
    }

    /// Sends a command, when there is a server to send it to, and understands its reply, however long a server that is stopped takes
    /// for it. `None`: the link broke first, and nobody knows whether it was executed.
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Option<Reply> {
        loop {
            let wire = self.wire.get_or_insert_with(|| {
                eventually("there is a server", || {
                    let socket = self.servers.socket.lock().unwrap().clone();
                    Wire::try_connect_unix(&socket)
                })
            });
            wire.ask(words);
            match wire.try_frame(Duration::from_secs(60)) {
                Ok(frame) => match Reply::parse(&frame) {
                    // It has not been executed: the server has only just begun again.
                    Reply::Error(error) if error.starts_with("LOADING") => std::thread::sleep(Duration::from_millis(2)),
                    reply => return Some(reply),
                },
                Err(_) => {
                    self.wire = None;
                    return None;
                }
            }
        }
    }

    /// A question, which can be asked again until it is answered.
    pub fn asks<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        loop {
            if let Some(reply) = self.call(words) {
                return reply;
            }
        }
    }
}
