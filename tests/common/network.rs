//! Two machines with a cable between them, that can be pulled: network namespaces. A test that needs them runs itself again in a process
//! that may make them.

use nix::sched::{CloneFlags, unshare};
use std::process::{Command, Stdio};

const INSIDE: &str = "LOCKGATE_TEST_INSIDE_NETWORK";
/// The address of this machine.
pub const HERE: &str = "10.77.0.1";
/// The address of the other one.
pub const THERE: &str = "10.77.0.2";

/// Runs `story` in a process whose network is its own, or goes without where the system allows none, and says so. `test` is the name
/// of the test that calls this.
pub fn with_a_network(test: &str, story: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return story();
    }
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.arg("--net");
    let is_allowed =
        Command::new(unshare.get_program()).args(unshare.get_args()).arg("true").stderr(Stdio::null()).status();
    if !is_allowed.is_ok_and(|status| status.success()) {
        eprintln!("{test}: this system allows no network namespaces; the test was left out");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let status = unshare.arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{test} failed in its network, see above");
}

/// Runs `there` on a thread that lives on the other machine; the cable is plugged in.
pub fn on_the_other_machine<T: Send + 'static>(
    there: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace inside one's own is allowed");
        ip("link set lo up");
        ip(&format!("link add cable type veth peer name cable netns {}", std::process::id()));
        ip(&format!("addr add {THERE}/24 dev cable"));
        ip("link set cable up");
        there()
    })
}

/// This machine's end of the cable.
pub fn plug_in() {
    super::eventually("the cable is there", || {
        let shown =
            Command::new("ip").args(["link", "show", "cable"]).stderr(Stdio::null()).stdout(Stdio::null()).status();
        shown.is_ok_and(|status| status.success()).then_some(())
    });
    ip(&format!("addr add {HERE}/24 dev cable"));
    ip("link set cable up");
}

/// Nothing arrives any more, and nobody is told.
pub fn pull_out() {
    ip("link set cable down");
}

#[track_caller]
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip is installed");
    assert!(status.success(), "ip {words}");
}
