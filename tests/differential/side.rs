//! The two sides: a server as it is, and one of the same kind with Lockgate before it.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use super::common::wire::Wire;
use super::common::{Lockgate, PATIENCE, RedisServer, ServerKind, within};
use super::connection::{Control, NoAnswer, field};

/// Who minds the servers, and as whom Lockgate itself speaks to its upstream.
const BOSS: (&str, &str) = ("boss", "boss-password");
const GATE: (&str, &str) = ("gate", "gate-password");

/// One worker and one shared link, so that links are lent on as often as can be.
const CONFIG: &str = "workers = 1\n[links]\nshared = 1\n";

/// How often the one who looks on asks through Lockgate until an effect without a reply is known to be upstream. Each
/// time is a whole round trip behind everything that was sent before, and no effect needs more round trips than this.
const FENCES: usize = 12;

pub struct Side {
    /// Lockgate and the one who looks on through it; dropped before the server.
    gate: Option<(Control, Lockgate)>,
    pub server: RedisServer,
    pub control: Control,
}

impl Side {
    pub fn direct(kind: ServerKind) -> Self {
        let server = RedisServer::start_with(kind, &["--hz", "500", "--unixsocketperm", "700"]);
        let mut boss = server.wire();
        for (name, password) in [BOSS, GATE] {
            let reply =
                boss.call(&["ACL", "SETUSER", name, "reset", "on", &format!(">{password}"), "~*", "&*", "+@all"]);
            assert_eq!(reply, b"+OK\r\n");
        }
        raise_ids(server.addr());
        let control = Control::new(server.addr(), BOSS);
        Self { gate: None, server, control }
    }

    pub fn through(kind: ServerKind) -> Self {
        let mut side = Self::direct(kind);
        side.begin_lockgate();
        side
    }

    pub fn is_direct(&self) -> bool {
        self.gate.is_none()
    }

    /// A Lockgate that has met nobody yet.
    pub fn begin_lockgate(&mut self) {
        self.gate = None;
        let url = format!("redis://{}:{}@{}", GATE.0, GATE.1, self.server.addr());
        let lockgate = Lockgate::serve(&["--upstream", &url], Some(CONFIG));
        raise_ids(lockgate.addr());
        self.gate = Some((Control::new(lockgate.addr(), BOSS), lockgate));
    }

    /// What Lockgate has written.
    pub fn wrote(&self) -> String {
        self.gate.as_ref().map(|(_, lockgate)| lockgate.wrote()).unwrap_or_default()
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.gate.as_ref().map_or(self.server.addr(), |(_, lockgate)| lockgate.addr())
    }

    /// The one who looks on from where the clients are.
    pub fn onlooker(&mut self) -> &mut Control {
        match &mut self.gate {
            Some((control, _)) => control,
            None => &mut self.control,
        }
    }

    /// The id by which clients know the connection that comes from there.
    pub fn id_of(&mut self, local: &str) -> Result<i64, NoAnswer> {
        for _ in 0..100 {
            let clients = self.onlooker().clients()?;
            let line = clients.iter().find(|line| field(line, "addr") == Some(local));
            if let Some(id) = line.and_then(|line| field(line, "id")?.parse().ok()) {
                return Ok(id);
            }
        }
        Err(NoAnswer(format!("CLIENT LIST does not tell of {local}")))
    }

    /// Returns once all that was sent before has been carried out upstream.
    pub fn fence(&mut self, is_silent: bool) -> Result<(), NoAnswer> {
        if let Some((control, _)) = &mut self.gate {
            for _ in 0..if is_silent { FENCES } else { 1 } {
                control.call(&["PING"])?;
            }
        }
        // The first is answered in the same turn of the server as what came just before it.
        for _ in 0..2 {
            self.control.call(&["PING"])?;
        }
        Ok(())
    }

    /// Waits until nobody is connected but the one who looks on; who is, after a while.
    pub fn is_left(&mut self) -> Result<Vec<String>, NoAnswer> {
        let mut left = Vec::new();
        let patience = Duration::from_secs(5);
        let outcome = within(patience, || match self.onlooker().clients() {
            Ok(clients) if clients.len() <= 1 => Some(Ok(())),
            Ok(clients) => {
                left = clients;
                None
            }
            Err(error) => Some(Err(error)),
        });
        match outcome {
            Some(Ok(())) => Ok(Vec::new()),
            Some(Err(error)) => Err(error),
            None => Ok(left),
        }
    }

    /// The server as it was in the beginning; the users of a conversation stay unless all is to go.
    pub fn reset(&mut self, users: &[&str]) -> Result<(), NoAnswer> {
        for line in [
            "CLIENT UNPAUSE",
            "CONFIG SET requirepass \"\"",
            "ACL SETUSER default reset on nopass ~* &* +@all",
            "FLUSHALL",
            "FUNCTION FLUSH",
        ] {
            self.control.run(line);
        }
        for user in users {
            self.control.call(&["ACL", "DELUSER", user])?;
        }
        self.fence(true)
    }
}

/// Ids of clients grow past everything that a conversation counts.
fn raise_ids(addr: SocketAddr) {
    for _ in 0..super::mask::SMALLEST_ID {
        drop(TcpStream::connect_timeout(&addr, PATIENCE).expect("it listens"));
    }
    // The last one has been taken in when the next one is answered.
    let mut wire = Wire::connect(addr);
    wire.call(&["PING"]);
}
