//! A relay in front of a server that for once answers itself: what a broken or hostile upstream would send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests that contain this word are answered by the relay, with the bytes it was given.
pub const TRIGGER: &[u8] = b"please-meddle";

pub struct Meddler {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Meddler {
    /// In front of `target`. A request with [`TRIGGER`] never reaches it; `answer` is sent instead, and then the
    /// connection is closed if `close` says so.
    pub fn before(target: SocketAddr, answer: Vec<u8>, close: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                for client in listener.incoming() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                    requests(&client, &server, &answer, close);
                    replies(&server, &client);
                }
            }
        });
        Self { addr, over }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

fn requests(client: &TcpStream, server: &TcpStream, answer: &Arc<Vec<u8>>, close: bool) {
    let (mut client, mut server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let answer = Arc::clone(answer);
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64 * 1024];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let bytes = &buffer[..read];
            if bytes.windows(TRIGGER.len()).any(|part| part == TRIGGER) {
                let _ = client.write_all(&answer);
                if close {
                    let _ = client.shutdown(Shutdown::Both);
                }
            } else if server.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn replies(server: &TcpStream, client: &TcpStream) {
    let (mut server, mut client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64 * 1024];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}
