//! Lockgate's own binary, as a user starts it.

use super::server::RedisServer;
use super::tools;
use super::wait::{PATIENCE, eventually, within};
use super::wire::Wire;
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A running Lockgate. It is killed when this is dropped; when the test fails, what it wrote is shown.
pub struct Lockgate {
    child: Child,
    addr: SocketAddr,
    wrote: Arc<Mutex<String>>,
    _config: Option<tempfile::NamedTempFile>,
}

impl Lockgate {
    /// In front of that server, everything else as it comes.
    #[track_caller]
    pub fn before(server: &RedisServer) -> Self {
        Self::serve(&["--upstream", &server.url()], None)
    }

    /// In front of that server, with lines for the configuration file.
    #[track_caller]
    pub fn before_with(server: &RedisServer, config: &str) -> Self {
        Self::serve(&["--upstream", &server.url()], Some(config))
    }

    /// `lockgate serve --listen 127.0.0.1:0 …`; returns once it says that it listens.
    #[track_caller]
    pub fn serve(arguments: &[&str], config: Option<&str>) -> Self {
        Self::serve_at("127.0.0.1:0", arguments, config)
    }

    /// The same, at an address.
    #[track_caller]
    pub fn serve_at(listen: &str, arguments: &[&str], config: Option<&str>) -> Self {
        let config = config.map(|text| {
            let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        });
        // Another build can be put to the test, such as the one that users have.
        let binary = std::env::var_os("LOCKGATE_BINARY").unwrap_or(env!("CARGO_BIN_EXE_lockgate").into());
        let mut command = Command::new(binary);
        // Settings of whoever runs the tests are not the test's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LOCKGATE_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--listen", listen]).args(arguments);
        if !arguments.contains(&"--admin") {
            command.args(["--admin", "off"]);
        }
        if let Some(file) = &config {
            command.arg("--config").arg(file.path());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let wrote = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &wrote);
        collect(child.stderr.take().unwrap(), &wrote);
        let addr = within(PATIENCE, || {
            let said = wrote.lock().unwrap().clone();
            listening_on(&said).map(Ok).or_else(|| child.try_wait().unwrap().map(Err))
        });
        match addr {
            Some(Ok(addr)) => Self { child, addr, wrote, _config: config },
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let said = wrote.lock().unwrap().clone();
                panic!("lockgate did not come to listen ({other:?}); it wrote:\n{said}");
            }
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Where it takes TLS clients.
    #[track_caller]
    pub fn tls_addr(&self) -> SocketAddr {
        eventually("lockgate says where TLS clients connect", || {
            let said = self.wrote();
            let after = said[..said.rfind('\n')?].split("that speak TLS connect to ").nth(1)?.to_owned();
            after.split_whitespace().next()?.parse().ok()
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn wire(&self) -> Wire {
        Wire::connect(self.addr)
    }

    /// A connection that speaks RESP3.
    #[track_caller]
    pub fn wire3(&self) -> Wire {
        let mut wire = self.wire();
        assert!(wire.call(&["HELLO", "3"]).starts_with(b"%"));
        wire
    }

    /// Everything it has written so far, standard output and error together.
    pub fn wrote(&self) -> String {
        self.wrote.lock().unwrap().clone()
    }

    pub fn terminate(&self) {
        tools::signal(self.pid(), Signal::SIGTERM);
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        eventually("lockgate ends", || self.child.try_wait().unwrap())
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Fails when it holds more than that in memory, and still does after `PATIENCE`.
    #[track_caller]
    pub fn assert_settles_below(&self, limit_bytes: u64) {
        let mut last = 0;
        let settled = within(PATIENCE, || {
            last = tools::resident_bytes(self.pid());
            (last < limit_bytes).then_some(())
        });
        assert!(settled.is_some(), "{last} bytes resident, {limit_bytes} allowed");
    }
}

impl Drop for Lockgate {
    fn drop(&mut self) {
        let alive = self.lives();
        self.kill();
        if std::thread::panicking() {
            // The readers end with the pipes; a moment lets the last lines in.
            std::thread::sleep(Duration::from_millis(20));
            eprintln!("lockgate (alive at the end: {alive}) wrote:\n{}", self.wrote());
        }
    }
}

/// The address in the line `… listening on 127.0.0.1:54321 …`.
fn listening_on(said: &str) -> Option<SocketAddr> {
    let complete = &said[..said.rfind('\n')?];
    complete.lines().find_map(|line| {
        let after = line.split("listening on ").nth(1)?;
        let word = after.split(|c: char| c.is_whitespace() || c == ',').next()?;
        word.trim_end_matches('.').parse().ok()
    })
}

/// Reads the pipe for as long as it is open, so that the process never waits for a reader.
fn collect(pipe: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
