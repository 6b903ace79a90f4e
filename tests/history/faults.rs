//! What breaks, drawn from the seed: one fault after the other, each written down before it begins and after it has ended.

use super::gate::{Flow, Gate, Way};
use super::record::{Fault, Record, Recorder};
use crate::common::{Lockgate, Reply, Wire, tools};
use fastrand::Rng;
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What can be broken of a run.
pub struct Parts {
    pub recorder: Arc<Recorder>,
    pub nodes: Vec<NodeParts>,
    pub server_pid: u32,
    /// Straight to the server.
    pub side: Mutex<Wire>,
    /// The nodes reach the server at addresses of their own, in a network that can lose packets.
    pub in_namespace: bool,
}

/// One node and what leads to it and away from it.
pub struct NodeParts {
    pub lockgate: Mutex<Option<Lockgate>>,
    /// Starts it anew, with this name.
    pub starts: Box<dyn Fn(&str) -> Lockgate + Send + Sync>,
    pub name: String,
    /// In front of it.
    pub door: Gate,
    /// Between it and the server.
    pub upstream: Gate,
    /// What the nodes before this one have written.
    pub wrote: Mutex<String>,
}

#[derive(Clone, Copy, Debug)]
enum Broken {
    Killed {
        same_name: bool,
    },
    Stopped,
    ServerStopped,
    UpstreamCut,
    UpstreamHeld(Way),
    UpstreamLost(Way),
    UpstreamDropped,
    DoorCut,
    DoorHeld(Way),
    DoorLost(Way),
    ScriptsFlushed,
    LinksKilled,
    /// Packets between the node and the server are lost without a word.
    PacketsLost(Way),
}

impl Parts {
    /// Breaks things until `is_over`, and leaves everything whole.
    pub fn break_things(&self, mut rng: Rng, is_over: &AtomicBool) {
        let mut renamed = 0;
        while !is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(rng.u64(100..900)));
            let node = rng.usize(..self.nodes.len());
            let broken = self.draws(&mut rng);
            let lasts = Duration::from_millis(rng.u64(50..1800));
            let from_us = self.recorder.now_us();
            let of = match broken {
                Broken::ServerStopped | Broken::ScriptsFlushed | Broken::LinksKilled => None,
                _ => Some(node),
            };
            self.begins(broken, node);
            if !matches!(broken, Broken::ScriptsFlushed | Broken::LinksKilled | Broken::UpstreamDropped) {
                std::thread::sleep(lasts);
            }
            renamed += 1;
            self.ends(broken, node, renamed);
            let until_us = self.recorder.now_us();
            let what = format!("{broken:?}");
            self.recorder.note(Record::Fault(Fault { what, node: of, from_us, until_us }));
        }
    }

    fn draws(&self, rng: &mut Rng) -> Broken {
        let way = [Way::There, Way::Back, Way::Both][rng.usize(..3)];
        if self.in_namespace && rng.u32(..10) < 6 {
            return Broken::PacketsLost(way);
        }
        match rng.u32(..14) {
            0 | 1 => Broken::Killed { same_name: rng.bool() },
            2 => Broken::Stopped,
            3 => Broken::ServerStopped,
            4 => Broken::UpstreamCut,
            5 => Broken::UpstreamHeld(way),
            6 | 7 => Broken::UpstreamLost(way),
            8 => Broken::UpstreamDropped,
            9 => Broken::DoorCut,
            10 => Broken::DoorHeld(way),
            11 => Broken::DoorLost(way),
            12 => Broken::ScriptsFlushed,
            _ => Broken::LinksKilled,
        }
    }

    fn begins(&self, broken: Broken, node: usize) {
        let parts = &self.nodes[node];
        match broken {
            Broken::Killed { .. } => {
                if let Some(mut lockgate) = parts.lockgate.lock().unwrap().take() {
                    lockgate.kill();
                    parts.wrote.lock().unwrap().push_str(&lockgate.wrote());
                }
            }
            Broken::Stopped => self.signal(node, Signal::SIGSTOP),
            Broken::ServerStopped => tools::signal(self.server_pid, Signal::SIGSTOP),
            Broken::UpstreamCut => parts.upstream.cut(),
            Broken::UpstreamHeld(way) => parts.upstream.set(way, Flow::Held),
            Broken::UpstreamLost(way) => parts.upstream.set(way, Flow::Lost),
            Broken::UpstreamDropped => parts.upstream.drop_links(),
            Broken::DoorCut => parts.door.cut(),
            Broken::DoorHeld(way) => parts.door.set(way, Flow::Held),
            Broken::DoorLost(way) => parts.door.set(way, Flow::Lost),
            Broken::ScriptsFlushed => drop(self.side.lock().unwrap().call_reply(&["SCRIPT", "FLUSH"])),
            Broken::LinksKilled => self.kill_links(),
            Broken::PacketsLost(way) => super::namespace::lose_packets(node, way),
        }
    }

    fn ends(&self, broken: Broken, node: usize, number: usize) {
        let parts = &self.nodes[node];
        match broken {
            Broken::Killed { same_name } => {
                let name = if same_name { parts.name.clone() } else { format!("{}{number}", parts.name) };
                let lockgate = (parts.starts)(&name);
                parts.door.lead_to(lockgate.addr());
                *parts.lockgate.lock().unwrap() = Some(lockgate);
            }
            Broken::Stopped => self.signal(node, Signal::SIGCONT),
            Broken::ServerStopped => tools::signal(self.server_pid, Signal::SIGCONT),
            Broken::UpstreamCut | Broken::UpstreamHeld(_) => parts.upstream.heal(),
            Broken::DoorCut | Broken::DoorHeld(_) => parts.door.heal(),
            // A stream from which something is missing is no link any more.
            Broken::UpstreamLost(_) => {
                parts.upstream.cut();
                parts.upstream.heal();
            }
            Broken::DoorLost(_) => {
                parts.door.cut();
                parts.door.heal();
            }
            Broken::PacketsLost(_) => super::namespace::find_packets(node),
            Broken::UpstreamDropped | Broken::ScriptsFlushed | Broken::LinksKilled => {}
        }
    }

    fn signal(&self, node: usize, signal: Signal) {
        if let Some(lockgate) = self.nodes[node].lockgate.lock().unwrap().as_ref() {
            tools::signal(lockgate.pid(), signal);
        }
    }

    /// `CLIENT KILL` for every link that a node has: all who did not come over the unix socket, as we did.
    fn kill_links(&self) {
        let mut side = self.side.lock().unwrap();
        let Reply::Bulk(list) = side.call_reply(&["CLIENT", "LIST"]) else { return };
        for line in String::from_utf8_lossy(&list).lines().filter(|line| line.contains(" addr=127.0.")) {
            let id = line.split(' ').find_map(|field| field.strip_prefix("id="));
            if let Some(id) = id {
                side.call_reply(&["CLIENT", "KILL", "ID", id]);
            }
        }
    }
}
