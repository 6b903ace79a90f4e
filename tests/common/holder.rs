//! A relay in front of a server that holds something back when it is told to: a request that contains a certain word, or everything
//! that the server answers on the connection that it came by.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What becomes of the next request with the word in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It passes.
    Nothing,
    /// It never reaches the server.
    Request,
    /// It reaches the server when [`Holder::let_go`] says so, whatever has become of its sender by then.
    Later,
    /// It does, and nothing that the server says on its connection from then on comes back.
    Replies,
}

pub struct Holder {
    addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    word: Vec<u8>,
    hold: Mutex<Hold>,
    held: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
    is_shut: AtomicBool,
    /// Connections with something for later on them that the server has ended, …
    ended: AtomicUsize,
    /// … and those whose late requests have reached it, or were turned away.
    late: AtomicUsize,
    may_go: Mutex<bool>,
    goes: Condvar,
}

impl Holder {
    /// In front of `target`; everything passes until [`Holder::hold`].
    pub fn before(target: SocketAddr, word: &[u8]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            word: word.to_vec(),
            hold: Mutex::new(Hold::Nothing),
            held: AtomicUsize::new(0),
            connections: Mutex::default(),
            over: AtomicBool::new(false),
            is_shut: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
            may_go: Mutex::new(false),
            goes: Condvar::new(),
        });
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for client in listener.incoming() {
                    if state.over.load(Ordering::SeqCst) {
                        return;
                    }
                    if state.is_shut.load(Ordering::SeqCst) {
                        continue;
                    }
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                    state.connections.lock().unwrap().push(client.try_clone().unwrap());
                    let is_mute = Arc::new(AtomicBool::new(false));
                    requests(&client, &server, &state, &is_mute);
                    replies(&server, &client, &is_mute);
                }
            }
        });
        Self { addr, state }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    pub fn hold(&self, hold: Hold) {
        *self.state.hold.lock().unwrap() = hold;
    }

    /// How many requests with the word it has held, or whose replies it has.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    /// What was kept for later goes to the server.
    pub fn let_go(&self) {
        *self.state.may_go.lock().unwrap() = true;
        self.state.goes.notify_all();
    }

    /// On how many connections late requests have run, or found nobody.
    pub fn late(&self) -> usize {
        self.state.late.load(Ordering::SeqCst)
    }

    /// How many connections with something for later on them the server has ended.
    pub fn ended(&self) -> usize {
        self.state.ended.load(Ordering::SeqCst)
    }

    /// New connections end at once, or are taken again.
    pub fn shut(&self, is_shut: bool) {
        self.state.is_shut.store(is_shut, Ordering::SeqCst);
    }

    /// Ends every connection on Lockgate's side; new ones are taken.
    pub fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        self.let_go();
    }
}

fn requests(client: &TcpStream, server: &TcpStream, state: &Arc<State>, is_mute: &Arc<AtomicBool>) {
    let (mut client, mut server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (state, is_mute) = (Arc::clone(state), Arc::clone(is_mute));
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64 * 1024];
        let mut is_held = false;
        let mut kept = Vec::new();
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let bytes = &buffer[..read];
            let has_word = bytes.windows(state.word.len()).any(|part| part == state.word);
            let hold = if has_word { *state.hold.lock().unwrap() } else { Hold::Nothing };
            if hold == Hold::Later || !kept.is_empty() {
                if kept.is_empty() {
                    state.held.fetch_add(1, Ordering::SeqCst);
                    await_end(&server, &state);
                }
                kept.extend_from_slice(bytes);
                continue;
            }
            // Before anything of it goes out, so that no reply slips by.
            is_held |= hold == Hold::Request;
            if hold == Hold::Replies {
                is_mute.store(true, Ordering::SeqCst);
            }
            // What follows a held request on its connection stays behind it.
            if !is_held && server.write_all(bytes).is_err() {
                break;
            }
            if hold != Hold::Nothing {
                state.held.fetch_add(1, Ordering::SeqCst);
            }
        }
        if kept.is_empty() {
            let _ = server.shutdown(Shutdown::Both);
            return;
        }
        drop(state.goes.wait_while(state.may_go.lock().unwrap(), |may_go| !*may_go).unwrap());
        let _ = (server.write_all(&kept), server.shutdown(Shutdown::Write));
        // The server reads to the end before it closes.
        while let Ok(1..) = server.read(&mut buffer) {}
        state.late.fetch_add(1, Ordering::SeqCst);
    });
}

/// Notes when the server ends the connection.
fn await_end(server: &TcpStream, state: &Arc<State>) {
    let (server, state) = (server.try_clone().unwrap(), Arc::clone(state));
    std::thread::spawn(move || {
        while matches!(server.peek(&mut [0]), Ok(1..)) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        state.ended.fetch_add(1, Ordering::SeqCst);
    });
}

fn replies(server: &TcpStream, client: &TcpStream, is_mute: &Arc<AtomicBool>) {
    let (mut server, mut client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let is_mute = Arc::clone(is_mute);
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64 * 1024];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if !is_mute.load(Ordering::SeqCst) && client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}
