//! The data folder: one Lockgate at a time, and a socket path that the kernel takes.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::EmbeddedError;
use crate::upstream::url::SOCKET_PATH_MAX;

const LOCK_FILE: &str = "lockgate.lock";
const SOCKET_FILE: &str = "redis.sock";
/// Only its owner may enter.
const PRIVATE: u32 = 0o700;

/// An open data folder. Its lock lasts as long as this value, and ends with the process however that ends.
pub(super) struct DataFolder {
    path: PathBuf,
    socket: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder where needed, and takes its lock.
    pub fn open(wanted: Option<&Path>) -> Result<Self, EmbeddedError> {
        let wanted = match wanted {
            Some(path) => path.to_owned(),
            None => default_folder().ok_or(EmbeddedError::NoHome)?,
        };
        create(&wanted)?;
        let path = wanted.canonicalize().map_err(failed("open", &wanted))?;
        let lock = take_lock(&path)?;
        let socket = socket_for(&path)?;
        Ok(DataFolder { path, socket, _lock: lock })
    }

    /// The folder's absolute path, links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The server's socket, in the folder or, where that path is too long, in a short private one.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // A folder that was made for the socket alone goes with it; one with something in it stays.
        if let Some(folder) = self.socket.parent().filter(|folder| *folder != self.path) {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// The socket of the server that a running Lockgate minds in that folder, if there is one.
pub fn running(wanted: Option<&Path>) -> Option<PathBuf> {
    let folder = wanted.map(Path::to_owned).or_else(default_folder)?.canonicalize().ok()?;
    socket_for(&folder).ok().filter(|socket| socket.exists())
}

/// `$XDG_STATE_HOME/lockgate`, else `~/.local/state/lockgate`.
fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").or_else(|| Some(nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??.dir));
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(home()?.join(".local/state")))?;
    Some(state.join("lockgate"))
}

fn create(path: &Path) -> Result<(), EmbeddedError> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(path).map_err(failed("create", path))
}

fn take_lock(folder: &Path) -> Result<File, EmbeddedError> {
    let path = folder.join(LOCK_FILE);
    // Not truncated on opening: until the lock is ours, the process id in it is another's.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.take(32).read_to_string(&mut owner);
            let owner = match owner.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(EmbeddedError::InUse { folder: folder.to_owned(), owner });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(failed("write", &path))?;
    Ok(file)
}

fn socket_for(folder: &Path) -> Result<PathBuf, EmbeddedError> {
    let inside = folder.join(SOCKET_FILE);
    if inside.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(inside);
    }
    // Always the same name for the same folder, so that the next Lockgate finds what this one left.
    let name = format!("lockgate-{}-{:016x}", nix::unistd::getuid(), fnv1a(folder.as_os_str().as_encoded_bytes()));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let private = runtime.unwrap_or_else(|| PathBuf::from("/tmp")).join(name);
    create(&private)?;
    // Anyone may have made that name in /tmp before us, as a link or as a folder of his own.
    let found = private.symlink_metadata().map_err(failed("open", &private))?;
    let is_ours = found.is_dir() && found.uid() == nix::unistd::getuid().as_raw() && found.mode() & 0o077 == 0;
    let socket = private.join(SOCKET_FILE);
    if is_ours && socket.as_os_str().len() <= SOCKET_PATH_MAX {
        Ok(socket)
    } else {
        Err(EmbeddedError::SocketFolder { path: private })
    }
}

/// A stable hash, unlike the standard library's.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |error| EmbeddedError::Folder { action, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_lockgate_at_a_time() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let first = DataFolder::open(Some(place.path())).expect("the first gets it");
        let error = DataFolder::open(Some(place.path())).err().expect("the second does not").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        DataFolder::open(Some(place.path())).expect("and the next does again");
    }

    #[test]
    fn a_long_folder_gets_a_short_socket_always_the_same() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let long = place.path().join("x".repeat(120));
        let socket = DataFolder::open(Some(&long)).expect("opens").socket().to_owned();
        assert!(socket.as_os_str().len() <= SOCKET_PATH_MAX, "{socket:?}");
        assert_eq!(DataFolder::open(Some(&long)).expect("opens again").socket(), socket);
        assert!(!socket.parent().expect("a folder").exists(), "the socket's own folder is left behind");
    }
}
