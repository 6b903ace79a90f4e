//! Small looks at the machine: where things were built, how much memory a process holds.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::path::PathBuf;

/// The folder that cargo builds into, where the set-up put the servers and the clients' packages.
pub fn target_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

/// The top folder of the source.
pub fn source_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The memory of a process that is in RAM at this moment, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    proc_status_kib(pid, "VmRSS:") * 1024
}

/// The most memory a process ever had in RAM, in bytes.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    proc_status_kib(pid, "VmHWM:") * 1024
}

fn proc_status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field is there");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process lives");
}
