//! A relay in front of a server that holds something back when it is told to: a request that contains a certain word, or everything
//! that the server answers on the connection that it came by.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of the next request with the word in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It passes.
    Nothing,
    /// It never reaches the server.
    Request,
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
        });
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for client in listener.incoming() {
                    if state.over.load(Ordering::SeqCst) {
                        return;
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

    /// Ends every connection; new ones are taken.
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
    }
}

fn requests(client: &TcpStream, server: &TcpStream, state: &Arc<State>, is_mute: &Arc<AtomicBool>) {
    let (mut client, mut server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (state, is_mute) = (Arc::clone(state), Arc::clone(is_mute));
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64 * 1024];
        let mut is_held = false;
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let bytes = &buffer[..read];
            let has_word = bytes.windows(state.word.len()).any(|part| part == state.word);
            let hold = if has_word { *state.hold.lock().unwrap() } else { Hold::Nothing };
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
        let _ = server.shutdown(Shutdown::Both);
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
