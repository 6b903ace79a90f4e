//! Finding redis-server and starting it the way Lockgate needs it.

use std::ffi::OsString;
use std::io::{self, PipeReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use super::EmbeddedError;
use super::folder::DataFolder;

/// Looked for in this order.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// Major and minor.
const OLDEST: (u32, u32) = (6, 2);
/// What the server is given for Lockgate's own links and for people who look at it directly.
const CONNECTIONS_MIN: usize = 10_000;

/// A server program of a version that will do.
pub(super) struct Program {
    path: PathBuf,
}

/// All that is needed to start the server, as often as it takes.
#[derive(Clone)]
pub(super) struct Server {
    program: PathBuf,
    pub folder: PathBuf,
    pub socket: PathBuf,
    connections_max: usize,
}

impl Program {
    /// The first on the PATH.
    pub fn find() -> Result<Self, EmbeddedError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let candidates =
            NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
        let path = candidates.into_iter().find(|path| is_executable(path)).ok_or(EmbeddedError::NoProgram)?;
        Program { path }.check_version()
    }

    fn check_version(self) -> Result<Self, EmbeddedError> {
        let broken = |error: String| EmbeddedError::BrokenProgram { program: self.path.clone(), error };
        let output = Command::new(&self.path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| broken(error.to_string()))?;
        if !output.status.success() {
            return Err(broken(output.status.to_string()));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = said.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
        let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) < OLDEST => {
                Err(EmbeddedError::OldProgram { program: self.path, version: version.to_owned() })
            }
            (Some(_), Some(_)) => Ok(self),
            _ => {
                tracing::warn!(program = %self.path.display(), said = said.trim(), "cannot tell the version of the server");
                Ok(self)
            }
        }
    }

    /// How to start it in this folder.
    pub fn server(self, folder: &DataFolder, connections_max: usize) -> Server {
        Server {
            program: self.path,
            folder: folder.path().to_owned(),
            socket: folder.socket().to_owned(),
            connections_max: connections_max.max(CONNECTIONS_MIN),
        }
    }
}

impl Server {
    /// Starts it. The thread that calls this has to live as long as the server shall: the kernel ends the child when the
    /// thread that forked it ends, not only when the process does.
    pub fn spawn(&self) -> io::Result<(Child, PipeReader)> {
        let (lines, output) = io::pipe()?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments()).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C in a terminal goes to the whole group; the server has to outlive the drain.
        command.process_group(0);
        end_with_parent(&mut command);
        Ok((command.spawn()?, lines))
    }

    fn arguments(&self) -> Vec<OsString> {
        let connections_max = self.connections_max.to_string();
        let plain = [
            ("--port", "0"),
            ("--unixsocketperm", "700"),
            ("--daemonize", "no"),
            ("--supervised", "no"),
            ("--appendonly", "yes"),
            ("--appendfsync", "everysec"),
            // A crash may cut the last command short: what is whole is loaded, the rest was never answered.
            ("--aof-load-truncated", "yes"),
            ("--save", ""),
            ("--loglevel", "notice"),
            ("--logfile", ""),
            ("--maxclients", &connections_max),
        ];
        let mut arguments: Vec<OsString> = plain.iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
        arguments.extend(["--unixsocket".into(), self.socket.clone().into_os_string()]);
        arguments.extend(["--dir".into(), self.folder.clone().into_os_string()]);
        arguments
    }
}

fn end_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // Lockgate waits for signals on a thread and blocks them elsewhere; the server must hear its own.
        SigSet::empty().thread_set_mask()?;
        // Had the parent died before the first line, nobody would send the signal any more.
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only these three system calls are made; none allocates or takes a lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(prepare);
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
