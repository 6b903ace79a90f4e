//! A network of our own, in which packets between a node and the server can be lost without a word. It has nothing but a loopback;
//! the server is reached at one address of it for each node, and the kernel's routing drops what goes to that address or comes from
//! it.

use super::gate::Way;
use nix::sched::{CloneFlags, unshare};
use std::process::{Command, Stdio};

/// The server's address for that node.
pub fn server_address(node: usize) -> String {
    format!("127.0.1.{}", node + 1)
}

/// Puts the calling thread, and all threads and processes that it starts from now on, into such a network. The error says why this
/// machine does not let us.
pub fn enter() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"))?;
    ip("link set lo up")?;
    // Rules for single addresses have to come before the one for all that is local.
    ip("rule add pref 100 lookup local")?;
    ip("rule del pref 0")
}

pub fn lose_packets(node: usize, way: Way) {
    let address = server_address(node);
    if way != Way::Back {
        ip(&format!("rule add pref 10 to {address} blackhole")).expect("it worked before");
    }
    if way != Way::There {
        ip(&format!("rule add pref 11 from {address} blackhole")).expect("it worked before");
    }
}

pub fn find_packets(node: usize) {
    let address = server_address(node);
    // One of the two may not be there.
    let _ = (ip(&format!("rule del to {address} blackhole")), ip(&format!("rule del from {address} blackhole")));
}

fn ip(words: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ip {words}: {status}")),
        Err(error) => Err(format!("ip: {error}")),
    }
}
