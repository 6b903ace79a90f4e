//! Real Redis and Valkey servers, each in a folder and on a port of its own, gone when the test is.

use super::wait::{eventually, within};
use super::wire::Wire;
use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Which server to run: the system's own, or one of those that `tests/setup/fetch-servers.sh` brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    Redis70,
    Redis82,
    Valkey91,
}

impl ServerKind {
    pub const ALL: [Self; 3] = [Self::Redis70, Self::Redis82, Self::Valkey91];

    /// How conversations name it (`only on: …`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis70 => "redis-7.0",
            Self::Redis82 => "redis-8.2",
            Self::Valkey91 => "valkey-9.1",
        }
    }

    pub fn program(self) -> OsString {
        match self {
            Self::Redis70 => "redis-server".into(),
            newer => {
                let program = super::tools::target_dir().join("test-servers").join(newer.name());
                assert!(program.exists(), "{} is missing: run tests/setup/fetch-servers.sh first", program.display());
                program.into()
            }
        }
    }
}

/// A running server. It is killed when this is dropped, and its folder goes with it.
pub struct RedisServer {
    child: Child,
    kind: ServerKind,
    port: u16,
    extra: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// The system's redis-server with nothing in it.
    pub fn start() -> Self {
        Self::start_with(ServerKind::Redis70, &[])
    }

    /// A server of that kind, with further arguments as on its command line.
    pub fn start_with(kind: ServerKind, extra: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("lockgate-test-").tempdir().unwrap();
        let extra: Vec<String> = extra.iter().map(|word| word.to_string()).collect();
        // Between finding a free port and the server's bind somebody else can take it; then another one is tried.
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = launch(kind, folder.path(), port, &extra) {
                return Self { child, kind, port, extra, folder };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("no {} would start; its log:\n{log}", kind.name());
    }

    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `redis://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// A connection straight to the server.
    pub fn wire(&self) -> Wire {
        Wire::connect(self.addr())
    }

    /// A connection that shows in nobody's list of TCP clients, for looking at the server from the side.
    pub fn side_wire(&self) -> Wire {
        let mut wire = Wire::connect_unix(&self.socket());
        if let Some(at) = self.extra.iter().position(|word| word == "--requirepass") {
            assert_eq!(wire.call(&["AUTH", &self.extra[at + 1]]), b"+OK\r\n");
        }
        wire
    }

    /// Waits until that many clients stand blocked in a command such as BLPOP.
    #[track_caller]
    pub fn await_blocked(&self, clients: usize) {
        let mut side = self.side_wire();
        let line = format!("blocked_clients:{clients}\r\n");
        eventually(&format!("{clients} clients blocked in the server"), || {
            let info = String::from_utf8_lossy(&side.call(&["INFO", "clients"])).into_owned();
            info.contains(&line).then_some(())
        });
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts a server again where the killed one was: same port, same folder.
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.child = eventually("the server starts again on its port", || {
            launch(self.kind, self.folder.path(), self.port, &self.extra)
        });
    }

    /// Ends the server in order; it keeps its data, in the form that its configuration says.
    pub fn shut_down(&mut self) {
        if let Some(mut wire) = Wire::try_connect_unix(&self.socket()) {
            wire.ask(&["SHUTDOWN", "SAVE"]);
            within(super::wait::PATIENCE, || self.child.try_wait().unwrap());
        }
        self.kill();
    }

    /// As `restart`, but whatever the server had written to its disk is lost.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
        let _ = std::fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        self.restart();
    }

    /// Stops the process where it stands, as a machine that hangs.
    pub fn freeze(&self) {
        super::tools::signal(self.pid(), nix::sys::signal::Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        super::tools::signal(self.pid(), nix::sys::signal::Signal::SIGCONT);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The child once it answers on its socket; `None` when it ended first, as it does when the port is taken.
fn launch(kind: ServerKind, folder: &Path, port: u16, extra: &[String]) -> Option<Child> {
    let log = File::create(folder.join("log")).unwrap();
    let mut child = Command::new(kind.program())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--enable-debug-command", "yes", "--unixsocket"])
        .arg(folder.join("s"))
        .arg("--dir")
        .arg(folder)
        .args(extra)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", kind.program()));
    let up = within(Duration::from_secs(10), || {
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        let mut wire = Wire::try_connect_unix(&folder.join("s"))?;
        // With a password the answer is -NOAUTH, which tells as much; -LOADING is waited out.
        (!wire.call(&["PING"]).starts_with(b"-LOADING")).then_some(true)
    });
    if up == Some(true) {
        return Some(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
