//! Starting, stopping, and the embedded server: what an operator sees of Lockgate.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes here, also on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until `look` finds something.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "this did not come about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A `lockgate` command that sees nothing of this machine's own settings.
fn lockgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    let names = std::env::vars_os().map(|(name, _)| name);
    let ours = names.filter(|name| name.to_string_lossy().starts_with("LOCKGATE_"));
    for name in ours {
        command.env_remove(name);
    }
    command
}

/// A running Lockgate. Dropped, it is killed.
struct Running {
    child: Child,
    /// As printed: "127.0.0.1:40123" or "unix:///path".
    address: String,
    /// Standard error so far.
    log: Arc<Mutex<String>>,
}

impl Running {
    /// With an embedded server in `folder`.
    fn in_folder(folder: &Path) -> Self {
        Running::with(&["--listen", "127.0.0.1:0"], &[("LOCKGATE_DATA_DIR", folder.to_str().expect("a plain path"))])
    }

    #[track_caller]
    fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = lockgate();
        command.arg("serve").args(arguments).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (heard, stderr) = (Arc::clone(&log), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = heard.lock().expect("not poisoned");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        let Some((_, rest)) = line.split_once("listening on ") else {
            let _ = child.wait();
            panic!("it did not start: {line:?}\n{}", log.lock().expect("not poisoned"));
        };
        let address = rest.split(' ').next().expect("an address").to_owned();
        Running { child, address, log }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    #[track_caller]
    fn logs(&self, text: &str) {
        eventually(&format!("a log line with {text:?}, in:\n{}", self.log()), || {
            self.log().contains(text).then_some(())
        });
    }

    /// Sends one inline command on a connection of its own; the reply up to where the server pauses.
    fn try_ask(&self, command: &str) -> Option<String> {
        match self.address.strip_prefix("unix://") {
            Some(path) => ask(UnixStream::connect(path).ok()?, command),
            None => {
                let stream = TcpStream::connect(&self.address).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).ok()?;
                ask(stream, command)
            }
        }
    }

    /// Asks until the upstream answers.
    #[track_caller]
    fn ask(&self, command: &str) -> String {
        eventually(&format!("an answer to {command}"), || {
            self.try_ask(command).filter(|reply| !reply.starts_with("-UNAVAILABLE") && !reply.starts_with("-LOADING"))
        })
    }

    /// The embedded server's process.
    #[track_caller]
    fn embedded(&self) -> Pid {
        let info = self.ask("INFO server");
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).expect("INFO names the process");
        Pid::from_raw(line.trim().parse().expect("a number"))
    }

    fn send(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it lives");
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        eventually("the end of Lockgate", || self.child.try_wait().expect("can be waited for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One command, and one reply to its end: a line, or a bulk string.
fn ask(mut stream: impl Read + Write, command: &str) -> Option<String> {
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let mut reply = String::new();
    reader.read_line(&mut reply).ok().filter(|length| *length > 0)?;
    if let Some(length) = reply.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) {
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk).ok()?;
        return String::from_utf8(bulk).ok();
    }
    Some(reply.trim_end().to_owned())
}

/// Also when it is a zombie that nobody has reaped yet.
fn is_gone(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[track_caller]
fn goes(pid: Pid) {
    eventually(&format!("the end of process {pid}"), || is_gone(pid).then_some(()));
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Runs a Lockgate that is not expected to start.
#[track_caller]
fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = lockgate();
    command.arg("serve").args(arguments).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    eventually("a refusal", || child.try_wait().expect("can be waited for"));
    child.wait_with_output().expect("its output")
}

#[test]
fn it_serves_where_it_says_and_its_data_survives_a_restart() {
    let folder = folder();
    let mut first = Running::in_folder(folder.path());
    assert_eq!(first.ask("SET fruit apple"), "+OK");
    let server = first.embedded();
    first.send(Signal::SIGTERM);
    assert_eq!(first.ends().code(), Some(0), "{}", first.log());
    assert!(is_gone(server), "the embedded server has outlived a Lockgate that stopped in good order");
    let second = Running::in_folder(folder.path());
    assert_eq!(second.ask("GET fruit"), "apple");
}

#[test]
fn a_killed_embedded_server_is_started_again_with_its_data() {
    let folder = folder();
    let lockgate = Running::in_folder(folder.path());
    for round in 0..3 {
        assert_eq!(lockgate.ask(&format!("SET round {round}")), "+OK");
        let server = lockgate.embedded();
        kill(server, Signal::SIGKILL).expect("it lives");
        goes(server);
        assert_eq!(lockgate.ask("GET round"), round.to_string());
    }
    lockgate.logs("the embedded upstream ended (by SIGKILL)");
}

#[test]
fn a_shutdown_command_only_restarts_the_embedded_server() {
    let folder = folder();
    let lockgate = Running::in_folder(folder.path());
    lockgate.ask("SET fruit apple");
    let server = lockgate.embedded();
    let _ = lockgate.try_ask("SHUTDOWN");
    goes(server);
    assert_eq!(lockgate.ask("GET fruit"), "apple");
}

#[test]
fn killing_lockgate_ends_the_embedded_server_and_loses_nothing() {
    let folder = folder();
    let mut first = Running::in_folder(folder.path());
    first.ask("SET fruit apple");
    let server = first.embedded();
    first.send(Signal::SIGKILL);
    first.ends();
    goes(server);
    assert_eq!(Running::in_folder(folder.path()).ask("GET fruit"), "apple");
}

#[test]
fn a_killed_lockgate_can_be_replaced_at_once() {
    let folder = folder();
    let mut lockgate = Running::in_folder(folder.path());
    for round in 0..5 {
        lockgate.ask(&format!("SET round {round}"));
        lockgate.send(Signal::SIGKILL);
        lockgate.ends();
        // The old server may still be writing out: the new Lockgate must neither race with it nor lose it.
        lockgate = Running::in_folder(folder.path());
        assert_eq!(lockgate.ask("GET round"), round.to_string(), "{}", lockgate.log());
    }
}

#[test]
fn a_second_lockgate_on_the_same_folder_is_refused_and_told_who_has_it() {
    let folder = folder();
    let first = Running::in_folder(folder.path());
    let path = folder.path().to_str().expect("a plain path");
    let second = refused(&["--listen", "127.0.0.1:0"], &[("LOCKGATE_DATA_DIR", path)]);
    assert_eq!(second.status.code(), Some(1));
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(says.contains(&format!("in use by another Lockgate (process {})", first.pid())), "{says}");
    assert_eq!(first.ask("PING"), "+PONG");
}

/// A redis-server in `folder` that no Lockgate minds. Dropped, it is killed.
struct Orphan(Child);

impl Orphan {
    fn in_folder(folder: &Path) -> Self {
        let socket = folder.join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--appendonly", "yes", "--save", "", "--unixsocket"]).arg(&socket);
        command.current_dir(folder).stdout(Stdio::null());
        let orphan = Orphan(command.spawn().expect("redis-server starts"));
        eventually("the orphan's answer", || ask(UnixStream::connect(&socket).ok()?, "SET fruit apple"));
        orphan
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_outlived_its_lockgate_is_adopted() {
    let folder = folder();
    let orphan = Orphan::in_folder(folder.path());
    let mut lockgate = Running::in_folder(folder.path());
    assert_eq!(lockgate.embedded(), orphan.pid());
    assert_eq!(lockgate.ask("GET fruit"), "apple");
    lockgate.logs("adopted the embedded upstream");

    // It is ours now: when it dies it is replaced, and the data stays.
    kill(orphan.pid(), Signal::SIGKILL).expect("it lives");
    eventually("another server", || (lockgate.embedded() != orphan.pid()).then_some(()));
    assert_eq!(lockgate.ask("GET fruit"), "apple");
    lockgate.send(Signal::SIGTERM);
    assert_eq!(lockgate.ends().code(), Some(0));
}

#[test]
fn an_adopted_server_ends_with_its_new_lockgate() {
    let folder = folder();
    let orphan = Orphan::in_folder(folder.path());
    let mut lockgate = Running::in_folder(folder.path());
    lockgate.send(Signal::SIGTERM);
    assert_eq!(lockgate.ends().code(), Some(0), "{}", lockgate.log());
    assert!(is_gone(orphan.pid()), "the adopted server has outlived its Lockgate");
}

#[test]
fn a_left_over_server_that_does_not_answer_is_ended_and_replaced() {
    let folder = folder();
    let orphan = Orphan::in_folder(folder.path());
    // Stopped, it can neither answer nor hear SIGTERM, as in a script that never ends.
    kill(orphan.pid(), Signal::SIGSTOP).expect("it lives");
    let lockgate = Running::in_folder(folder.path());
    assert_ne!(lockgate.embedded(), orphan.pid());
    assert!(is_gone(orphan.pid()));
    assert_eq!(lockgate.ask("GET fruit"), "apple");
}

#[test]
fn a_file_cut_off_in_the_middle_of_a_write_is_loaded_up_to_there() {
    let folder = folder();
    let mut first = Running::in_folder(folder.path());
    first.ask("SET fruit apple");
    first.send(Signal::SIGTERM);
    first.ends();
    let files = std::fs::read_dir(folder.path().join("appendonlydir")).expect("the append-only files");
    let newest = files
        .map(|file| file.expect("an entry").path())
        .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .expect("the file that grows");
    let mut file = std::fs::OpenOptions::new().append(true).open(newest).expect("opens");
    file.write_all(b"*3\r\n$3\r\nSET\r\n$5\r\nfruit\r\n$4\r\npe").expect("writes");
    drop(file);
    assert_eq!(Running::in_folder(folder.path()).ask("GET fruit"), "apple");
}

#[test]
fn a_folder_with_a_very_long_path_works_too() {
    let folder = folder();
    let long = folder.path().join("x".repeat(150));
    let mut first = Running::in_folder(&long);
    first.ask("SET fruit apple");
    first.send(Signal::SIGTERM);
    assert_eq!(first.ends().code(), Some(0));
    let mut second = Running::in_folder(&long);
    assert_eq!(second.ask("GET fruit"), "apple");
    // In good order, as it then takes the folder of its socket along.
    second.send(Signal::SIGTERM);
    assert_eq!(second.ends().code(), Some(0));
}

#[test]
fn only_its_user_may_enter_the_data_folder_and_the_socket() {
    let folder = folder();
    let data = folder.path().join("data");
    let lockgate = Running::in_folder(&data);
    lockgate.ask("PING");
    let mode = |path: &Path| path.metadata().expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("redis.sock")), 0o700);
}

#[test]
fn the_embedded_server_is_out_of_reach_of_ctrl_c() {
    let folder = folder();
    let lockgate = Running::in_folder(folder.path());
    let server = lockgate.embedded();
    let group = nix::unistd::getpgid(Some(server)).expect("it lives");
    assert_eq!(group, server, "it is in a process group of its own");
}

#[test]
fn sigterm_and_sigint_end_it_with_exit_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = folder();
        let mut lockgate = Running::in_folder(folder.path());
        lockgate.ask("PING");
        lockgate.send(signal);
        assert_eq!(lockgate.ends().code(), Some(0), "{}", lockgate.log());
        lockgate.logs("stopped");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = folder();
    let data = folder.path().to_str().expect("a plain path");
    let mut lockgate =
        Running::with(&["--listen", "127.0.0.1:0"], &[("LOCKGATE_DATA_DIR", data), ("LOCKGATE_DRAIN_TIMEOUT", "10m")]);
    lockgate.ask("PING");
    // A command that runs as long as nobody pushes, so that the drain has something to wait for.
    let mut client = TcpStream::connect(&lockgate.address).expect("connects");
    client.write_all(b"BLPOP nothing 0\r\n").expect("writes");
    eventually("the client is blocked", || {
        lockgate.try_ask("EVAL \"return redis.call('INFO','clients')\" 0")?.contains("blocked_clients:1").then_some(())
    });
    lockgate.send(Signal::SIGTERM);
    lockgate.logs("no new connections");
    lockgate.send(Signal::SIGTERM);
    let code = lockgate.ends().code();
    assert_eq!(code, Some(143), "{}", lockgate.log());
}

#[test]
fn sighup_changes_the_log_level_and_keeps_the_old_configuration_when_the_new_is_wrong() {
    let folder = folder();
    let file = folder.path().join("lockgate.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("writes");
    write("[log]\nlevel = 'info'");
    let (path, data) = (file.display().to_string(), folder.path().join("data").display().to_string());
    let lockgate = Running::with(&["--config", &path, "--listen", "127.0.0.1:0"], &[("LOCKGATE_DATA_DIR", &data)]);

    write("workers = 5\nmax_queue = 5\n[log]\nlevel = 'debug'");
    lockgate.send(Signal::SIGHUP);
    lockgate.logs("reloaded the configuration; changed: max_queue, log.level");
    lockgate.logs("need a restart to take effect: workers");
    assert!(lockgate.ask("LOCK.CONFIG GET max_queue").starts_with("*2"));

    write("max_queue = 'many'");
    lockgate.send(Signal::SIGHUP);
    lockgate.logs("the configuration was not reloaded: ");
    lockgate.logs("lockgate.toml:1:13: max_queue: 'many' does not fit");
    assert_eq!(lockgate.ask("PING"), "+PONG");
}

#[test]
fn logs_are_one_json_object_a_line_where_wanted() {
    let folder = folder();
    let data = folder.path().display().to_string();
    let variables = [("LOCKGATE_DATA_DIR", data.as_str()), ("LOCKGATE_LOG__FORMAT", "json")];
    let mut lockgate = Running::with(&["--listen", "127.0.0.1:0"], &variables);
    lockgate.send(Signal::SIGTERM);
    lockgate.ends();
    lockgate.logs("\"message\":\"stopped\"");
    for line in lockgate.log().lines() {
        assert!(line.starts_with("{\"timestamp\":\"") && line.ends_with('}'), "{line}");
        assert!(line.contains("\"level\":\"") && line.contains("\"message\":\""), "{line}");
    }
}

#[test]
fn ping_tells_by_its_exit_code_whether_lockgate_and_the_upstream_answer() {
    let folder = folder();
    let running = Running::in_folder(folder.path());
    running.ask("PING");
    let ping =
        |address: &str| lockgate().args(["ping", "--listen", address, "--timeout", "2s"]).output().expect("runs");
    let alive = ping(&running.address);
    assert_eq!((alive.status.code(), alive.stdout.as_slice()), (Some(0), &b"+PONG\n"[..]));
    let everywhere = running.address.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(ping(&everywhere).status.code(), Some(0), "what listens everywhere is asked on the loopback");

    let nobody = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").to_string();
    let refused = ping(&nobody);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("does not answer"));

    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let silent = ping(&silent.local_addr().expect("an address").to_string());
    assert_eq!(silent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&silent.stderr).contains("the time is up"));
}

#[test]
fn it_listens_on_a_unix_socket() {
    let folder = folder();
    let address = format!("unix://{}", folder.path().join("lockgate.sock").display());
    let data = folder.path().join("data").display().to_string();
    let lockgate = Running::with(&["--listen", &address], &[("LOCKGATE_DATA_DIR", &data)]);
    assert_eq!(lockgate.address, address);
    assert_eq!(lockgate.ask("PING"), "+PONG");
}

#[test]
fn it_starts_and_listens_without_its_upstream() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let lockgate = Running::with(&["--listen", "127.0.0.1:0", "--upstream", &format!("redis://{nobody}")], &[]);
    // Other commands are held for a while, as tests/upstream_away.rs tells.
    let reply = lockgate.try_ask("LOCK.ACQUIRE orders:1 ann").expect("an answer");
    assert!(reply.starts_with("-UNAVAILABLE "), "{reply}");
}

#[test]
fn an_address_in_use_is_refused_and_named() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let holder = TcpListener::bind(taken).expect("binds again");
    let data = folder.path().display().to_string();
    let output = refused(&["--listen", &taken.to_string()], &[("LOCKGATE_DATA_DIR", &data)]);
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains(&taken.to_string()), "{says}");
    drop(holder);
}

#[test]
fn two_lockgates_do_not_share_an_address_by_accident() {
    let (one, two) = (folder(), folder());
    let first = Running::in_folder(one.path());
    let data = two.path().display().to_string();
    let second = refused(&["--listen", &first.address], &[("LOCKGATE_DATA_DIR", &data)]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&first.address));
}

#[test]
fn without_a_redis_server_it_says_what_to_install() {
    let empty = folder();
    let path = empty.path().display().to_string();
    let output = refused(&["--listen", "127.0.0.1:0"], &[("PATH", &path), ("LOCKGATE_DATA_DIR", &path)]);
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("apt-get install redis-server"), "{says}");
}

#[test]
fn a_server_program_that_is_too_old_is_refused() {
    let folder = folder();
    let path = folder.path().display().to_string();
    let program = folder.path().join("redis-server");
    let script = "#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=0'\n";
    std::fs::write(&program, script).expect("writes");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let output = refused(&["--listen", "127.0.0.1:0"], &[("PATH", &path), ("LOCKGATE_DATA_DIR", &path)]);
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("is version 6.0.16; Lockgate needs Redis 6.2"), "{says}");
}

#[test]
fn a_server_that_cannot_start_is_tried_again_and_its_last_words_are_logged() {
    let folder = folder();
    let path = folder.path().display().to_string();
    let program = folder.path().join("redis-server");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'Redis server v=7.0.15 bits=64'; exit 0; }\n\
                  echo '1:M 21 Nov 2026 16:09:32.123 # the disk is on fire'\nexit 3\n";
    std::fs::write(&program, script).expect("writes");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let data: PathBuf = folder.path().join("data");
    let data = data.display().to_string();
    let mut lockgate = Running::with(&["--listen", "127.0.0.1:0"], &[("PATH", &path), ("LOCKGATE_DATA_DIR", &data)]);
    lockgate.logs("ended (exit code 3); its last words: the disk is on fire");
    lockgate.send(Signal::SIGTERM);
    assert_eq!(lockgate.ends().code(), Some(0), "{}", lockgate.log());
}

/// What the simulation, the histories and the stories check; each has a bug that shows it to bite.
const CHECKERS: [&str; 10] = [
    "one live lease per key",
    "fences only grow",
    "grant order is rank order",
    "no sleeper on a free key",
    "no grant to the gone",
    "exactly one answer",
    "no lasting cycle",
    "no victim without a cycle",
    "no leaked key",
    "bounded memory",
];

#[test]
fn every_bite_still_finds_what_it_changes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/bite/bites.toml")).unwrap();
    let bites: toml::Table = text.parse().unwrap();
    let bites = bites["bite"].as_array().unwrap();
    assert!(bites.len() >= 20);
    for bite in bites {
        let word = |key: &str| bite[key].as_str().unwrap();
        let file = std::fs::read_to_string(root.join(word("file"))).unwrap();
        assert_eq!(file.matches(word("old")).count(), 1, "'{}' of tests/bite/bites.toml", word("name"));
        assert_ne!(word("old"), word("new"));
    }
    for checker in CHECKERS {
        assert!(
            bites.iter().any(|bite| bite.get("checker").and_then(|name| name.as_str()) == Some(checker)),
            "{checker}"
        );
    }
}
