//! A server that outlived its Lockgate: how to find it, and how to tell whether it lives.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

/// How long one question to a server may take.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// The servers that work in `folder`. Redis changes into its folder, so that is what tells ours from all others, a process
/// id that was used again included.
pub(super) fn servers_in(folder: &Path) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    ids.filter(|pid| works_in(*pid, folder)).collect()
}

/// Whether `pid` is a server that works in `folder`.
pub(super) fn works_in(pid: Pid, folder: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    // A zombie has no folder any more, so it does not count as alive.
    std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
        && std::fs::read_to_string(process.join("comm"))
            .is_ok_and(|name| name.starts_with("redis-") || name.starts_with("valkey-"))
}

/// Whether a server answers on `socket`. One that is still loading, busy with a script or unable to write says so, and that
/// is an answer: it lives, and its clients are told.
pub(super) fn answers(socket: &Path) -> bool {
    ask(socket).is_ok_and(|reply| matches!(reply.first(), Some(b'+' | b'-')))
}

fn ask(socket: &Path) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = vec![0; 64];
    let length = stream.read(&mut reply)?;
    reply.truncate(length);
    Ok(reply)
}
