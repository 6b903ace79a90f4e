//! A faulty relay: links through it can be cut, held back, or lose what they carry, in both directions or in one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens to bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Passes,
    /// They wait, and go on later.
    Held,
    /// They are gone; only a cut makes that look like a network.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the gate.
    There,
    Back,
    Both,
}

struct State {
    target: SocketAddr,
    there: Flow,
    back: Flow,
    is_cut: bool,
    is_over: bool,
    links: Vec<[TcpStream; 2]>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Stands in front of one listener.
pub struct Gate {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// A link may take so long to come about before it counts as refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Gate {
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let state =
            State { target, there: Flow::Passes, back: Flow::Passes, is_cut: false, is_over: false, links: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for from in listener.incoming() {
                    if shared.state.lock().unwrap().is_over {
                        return;
                    }
                    let Ok(from) = from else { continue };
                    let shared = Arc::clone(&shared);
                    // Dialling may take long where the network is broken.
                    std::thread::spawn(move || shared.link(&from));
                }
            }
        });
        Self { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where links go from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.state.lock().unwrap().target = target;
    }

    pub fn set(&self, way: Way, flow: Flow) {
        let mut state = self.shared.state.lock().unwrap();
        if way != Way::Back {
            state.there = flow;
        }
        if way != Way::There {
            state.back = flow;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Ends all links; new ones end at once while it stays cut.
    pub fn cut(&self) {
        self.shared.cut(true);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock().unwrap();
        (state.there, state.back, state.is_cut) = (Flow::Passes, Flow::Passes, false);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Ends all links that there are; new ones are welcome.
    pub fn drop_links(&self) {
        self.shared.cut(false);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().is_over = true;
        self.shared.cut(true);
        // A last connection wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn cut(&self, stays: bool) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = stays;
        for side in state.links.drain(..).flatten() {
            let _ = side.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn link(self: &Arc<Self>, from: &TcpStream) {
        let target = self.state.lock().unwrap().target;
        let Ok(to) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else { return };
        let _ = (from.set_nodelay(true), to.set_nodelay(true));
        let mut state = self.state.lock().unwrap();
        if state.is_cut || state.target != target {
            return;
        }
        let copies = |side: &TcpStream| [side.try_clone(), side.try_clone(), side.try_clone()];
        let ([Ok(from_1), Ok(from_2), Ok(from_3)], [Ok(to_1), Ok(to_2), Ok(to_3)]) = (copies(from), copies(&to)) else {
            return;
        };
        state.links.push([from_3, to_3]);
        drop(state);
        let (there, back) = (Arc::clone(self), Arc::clone(self));
        std::thread::spawn(move || there.pass(from_1, to_1, Way::There));
        std::thread::spawn(move || back.pass(to_2, from_2, Way::Back));
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let mut buffer = [0u8; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if self.flow(way) == Flow::Passes && to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
        let mut state = self.state.lock().unwrap();
        state.links.retain(|[side, _]| side.peer_addr().is_ok());
    }

    /// What becomes of the bytes at hand; waits while they are held back.
    fn flow(&self, way: Way) -> Flow {
        let mut state = self.state.lock().unwrap();
        loop {
            let flow = if way == Way::There { state.there } else { state.back };
            if state.is_over || state.is_cut {
                return Flow::Lost;
            }
            if flow != Flow::Held {
                return flow;
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}
