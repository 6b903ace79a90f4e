//! What breaks, drawn from the seed: one fault after the other, each written down before it begins and after it has ended.

use super::gate::{Flow, Gate, Way};
use super::record::{Fault, Loss, Record, Recorder};
use super::servers::{Keeps, Servers, Side};
use crate::common::{Lockgate, Reply, tools};
use fastrand::Rng;
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What can be broken of a run.
pub struct Parts {
    pub recorder: Arc<Recorder>,
    pub nodes: Vec<NodeParts>,
    pub servers: Arc<Servers>,
    /// Straight to the server.
    pub side: Mutex<Side>,
    pub mishaps: Mishaps,
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

/// What befalls the server itself, beside its links and its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishaps {
    /// It is stopped for a while, at the most.
    Stops,
    /// It goes down and comes back, with its data or without.
    Restarts,
    /// Its replica takes over, without the newest writes.
    Failovers,
}

#[derive(Clone, Copy, Debug)]
enum Broken {
    Killed {
        same_name: bool,
    },
    Stopped,
    ServerStopped,
    ServerCrashed,
    ServerShutDown,
    ServerEmptied,
    ServerFlushed,
    /// The replica heard nothing for so long before it took over.
    FailedOver(Duration),
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
            let of = if broken.is_the_servers() { None } else { Some(node) };
            if !self.begins(broken, node, lasts) {
                continue;
            }
            if broken.lasts() {
                std::thread::sleep(lasts);
            }
            renamed += 1;
            self.ends(broken, node, renamed);
            let until_us = self.recorder.now_us();
            let (what, loses) = (format!("{broken:?}"), broken.loses());
            self.recorder.note(Record::Fault(Fault { what, node: of, from_us, until_us, loses }));
            if matches!(broken, Broken::FailedOver(_)) {
                self.servers.follows_again();
            }
        }
    }

    fn draws(&self, rng: &mut Rng) -> Broken {
        let way = [Way::There, Way::Back, Way::Both][rng.usize(..3)];
        if self.in_namespace && rng.u32(..10) < 6 {
            return Broken::PacketsLost(way);
        }
        // The rest of the time it is the links and the nodes that break.
        match (self.mishaps, rng.u32(..10)) {
            (Mishaps::Restarts, 0..4) if self.servers.keeps == Keeps::Log => {
                return if rng.bool() { Broken::ServerCrashed } else { Broken::ServerShutDown };
            }
            (Mishaps::Restarts, 0..4) => return Broken::ServerShutDown,
            (Mishaps::Restarts, 4..6) => return Broken::ServerEmptied,
            (Mishaps::Restarts, 6) => return Broken::ServerFlushed,
            (Mishaps::Failovers, 0..6) => {
                // Some lose nothing at all.
                let unheard_ms = if rng.u32(..4) == 0 { 0 } else { rng.u64(5..600) };
                return Broken::FailedOver(Duration::from_millis(unheard_ms));
            }
            _ => {}
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

    /// `false` where it could not be done.
    fn begins(&self, broken: Broken, node: usize, lasts: Duration) -> bool {
        let parts = &self.nodes[node];
        match broken {
            Broken::Killed { .. } => {
                if let Some(mut lockgate) = parts.lockgate.lock().unwrap().take() {
                    lockgate.kill();
                    parts.wrote.lock().unwrap().push_str(&lockgate.wrote());
                }
            }
            Broken::Stopped => self.signal(node, Signal::SIGSTOP),
            Broken::ServerStopped => tools::signal(self.servers.pid(), Signal::SIGSTOP),
            Broken::ServerCrashed => self.servers.crashes(lasts / 4),
            Broken::ServerShutDown => self.servers.is_shut_down(lasts / 4),
            Broken::ServerEmptied => self.servers.is_emptied(lasts / 4),
            Broken::ServerFlushed => drop(self.side.lock().unwrap().call(&["FLUSHALL"])),
            Broken::FailedOver(unheard) => {
                return self.servers.fails_over(unheard, |master| {
                    for parts in &self.nodes {
                        parts.upstream.lead_to(master.addr());
                        parts.upstream.drop_links();
                    }
                });
            }
            Broken::UpstreamCut => parts.upstream.cut(),
            Broken::UpstreamHeld(way) => parts.upstream.set(way, Flow::Held),
            Broken::UpstreamLost(way) => parts.upstream.set(way, Flow::Lost),
            Broken::UpstreamDropped => parts.upstream.drop_links(),
            Broken::DoorCut => parts.door.cut(),
            Broken::DoorHeld(way) => parts.door.set(way, Flow::Held),
            Broken::DoorLost(way) => parts.door.set(way, Flow::Lost),
            Broken::ScriptsFlushed => drop(self.side.lock().unwrap().call(&["SCRIPT", "FLUSH"])),
            Broken::LinksKilled => self.kill_links(),
            Broken::PacketsLost(way) => super::namespace::lose_packets(node, way),
        }
        true
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
            Broken::ServerStopped => tools::signal(self.servers.pid(), Signal::SIGCONT),
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
            Broken::UpstreamDropped
            | Broken::ScriptsFlushed
            | Broken::LinksKilled
            | Broken::ServerCrashed
            | Broken::ServerShutDown
            | Broken::ServerEmptied
            | Broken::ServerFlushed
            | Broken::FailedOver(_) => {}
        }
    }

    fn signal(&self, node: usize, signal: Signal) {
        if let Some(lockgate) = self.nodes[node].lockgate.lock().unwrap().as_ref() {
            tools::signal(lockgate.pid(), signal);
        }
    }

    /// `CLIENT KILL` for every link that a node has: all who did not come over the unix socket, as we did, and are no replica.
    fn kill_links(&self) {
        let mut side = self.side.lock().unwrap();
        let Some(Reply::Bulk(list)) = side.call(&["CLIENT", "LIST"]) else { return };
        let is_link = |line: &&str| line.contains(" addr=127.0.") && !line.contains(" flags=S ");
        for line in String::from_utf8_lossy(&list).lines().filter(is_link) {
            let id = line.split(' ').find_map(|field| field.strip_prefix("id="));
            if let Some(id) = id {
                side.call(&["CLIENT", "KILL", "ID", id]);
            }
        }
    }
}

impl Broken {
    /// It concerns all nodes.
    fn is_the_servers(self) -> bool {
        match self {
            Self::ServerStopped
            | Self::ServerCrashed
            | Self::ServerShutDown
            | Self::ServerEmptied
            | Self::ServerFlushed
            | Self::FailedOver(_)
            | Self::ScriptsFlushed
            | Self::LinksKilled => true,
            Self::Killed { .. }
            | Self::Stopped
            | Self::UpstreamCut
            | Self::UpstreamHeld(_)
            | Self::UpstreamLost(_)
            | Self::UpstreamDropped
            | Self::DoorCut
            | Self::DoorHeld(_)
            | Self::DoorLost(_)
            | Self::PacketsLost(_) => false,
        }
    }

    /// It stays broken until it is mended.
    fn lasts(self) -> bool {
        match self {
            Self::ServerCrashed
            | Self::ServerShutDown
            | Self::ServerEmptied
            | Self::ServerFlushed
            | Self::FailedOver(_)
            | Self::ScriptsFlushed
            | Self::LinksKilled
            | Self::UpstreamDropped => false,
            Self::ServerStopped
            | Self::Killed { .. }
            | Self::Stopped
            | Self::UpstreamCut
            | Self::UpstreamHeld(_)
            | Self::UpstreamLost(_)
            | Self::DoorCut
            | Self::DoorHeld(_)
            | Self::DoorLost(_)
            | Self::PacketsLost(_) => true,
        }
    }

    fn loses(self) -> Option<Loss> {
        match self {
            Self::ServerEmptied | Self::ServerFlushed => Some(Loss::Everything),
            Self::FailedOver(_) => Some(Loss::Newest),
            _ => None,
        }
    }
}
