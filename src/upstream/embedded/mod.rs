//! The embedded upstream: a private redis-server (or valkey-server) that Lockgate starts and minds (SPEC 6).
//!
//! It listens on a unix socket only, keeps an append-only file in a folder that one Lockgate at a time may use, is started
//! again when it dies, and ends with us: in good order when we do, and by the kernel's hand when we are killed. One that
//! outlived its Lockgate all the same is found by its working folder and adopted.

mod folder;
mod logs;
mod orphan;
mod program;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::url::{Address, Endpoint};
use folder::DataFolder;
pub use folder::running;
use program::Program;
use supervisor::Supervisor;

/// How long the start waits for the server's first answer before it goes on without.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(10);

/// What the server should be like.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedOptions {
    /// Its folder; `None` is `lockgate` in the user's state folder.
    pub data_dir: Option<PathBuf>,
    /// Connections that it has to take.
    pub connections_max: usize,
}

/// The running server. It is stopped by [`Embedded::stop`], or when this is dropped.
pub struct Embedded {
    supervisor: Supervisor,
    folder: DataFolder,
}

/// Why there is no embedded server.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// Neither redis-server nor valkey-server is there.
    #[error(
        "the embedded upstream needs redis-server (or valkey-server) on the PATH; install it with \
         `apt-get install redis-server`, or set upstream to a Redis that runs already"
    )]
    NoProgram,
    /// It could not even tell its version.
    #[error("{program} --version failed: {error}; reinstall it, or set upstream to a Redis that runs already")]
    BrokenProgram {
        /// The program's path.
        program: PathBuf,
        /// What it or the system said.
        error: String,
    },
    /// Older than Lockgate supports.
    #[error("{program} is version {version}; Lockgate needs Redis 6.2 or Valkey 7.2 or later")]
    OldProgram {
        /// The program's path.
        program: PathBuf,
        /// Its version.
        version: String,
    },
    /// No home, no XDG_STATE_HOME.
    #[error("there is no home folder to keep the embedded upstream's data in; set data_dir")]
    NoHome,
    /// Somebody else has the folder.
    #[error(
        "the data folder {folder} is in use by another Lockgate (process {owner}); stop that one, or set another data_dir"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Its process id, or "unknown".
        owner: String,
    },
    /// The folder cannot be made or written.
    #[error("cannot {action} {path}: {error}; check its permissions, or set another data_dir")]
    Folder {
        /// "create", "open" …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A folder for the socket is there, and it is somebody else's.
    #[error(
        "{path} belongs to another user or is open to others, so the embedded upstream's socket cannot be in it; \
             remove it, or set a data_dir with a shorter path"
    )]
    SocketFolder {
        /// The folder.
        path: PathBuf,
    },
    /// No thread to mind it.
    #[error("cannot start the thread that minds the embedded upstream: {0}")]
    Thread(std::io::Error),
}

/// Locks the folder, starts the server (or adopts the one that is there) and waits for its first answer. When that takes
/// long, as with gigabytes to load, it returns all the same: the proxy tells clients how things stand.
pub fn start(options: &EmbeddedOptions) -> Result<Embedded, EmbeddedError> {
    let program = Program::find()?;
    let folder = DataFolder::open(options.data_dir.as_deref())?;
    let server = program.server(&folder, options.connections_max);
    let supervisor = Supervisor::start(server).map_err(EmbeddedError::Thread)?;
    if !supervisor.wait_for_answer(FIRST_ANSWER_MAX) {
        tracing::warn!(folder = %folder.path().display(), "the embedded upstream has not answered yet; going on without");
    }
    Ok(Embedded { supervisor, folder })
}

impl Embedded {
    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::at(Address::Unix(self.folder.socket().to_owned()))
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Ends the server: it writes out its file and exits; after `limit` it is killed.
    pub fn stop(self, limit: Duration) {
        self.supervisor.stop(limit);
    }
}
