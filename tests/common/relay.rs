//! A relay in front of several nodes that counts what clients say: connections go to the nodes in turn, bytes pass as they
//! are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub struct Relay {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    tries: Arc<AtomicUsize>,
}

impl Relay {
    /// In front of these, the first connection to the first of them.
    pub fn before(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (over, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn({
            let (over, tries) = (Arc::clone(&over), Arc::clone(&tries));
            move || {
                for (client, target) in listener.incoming().zip(targets.into_iter().cycle()) {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                    pass(&client, &server, Some(Arc::clone(&tries)));
                    pass(&server, &client, None);
                }
            }
        });
        Self { addr, over, tries }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many `SET … NX`, or scripts of the same meaning, the clients have sent.
    pub fn tries(&self) -> usize {
        self.tries.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // A last connection wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.addr);
    }
}

/// The option as every client writes it, in lower case; and the acquire script of npm's redlock.
const TRIES: [&[u8]; 2] = [b"\r\n$2\r\nnx\r\n", b"\r\n96da70f7716f27d278a5218544df37fd8b0a5e4c\r\n"];

fn pass(from: &TcpStream, to: &TcpStream, tries: Option<Arc<AtomicUsize>>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    to.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 16 * 1024];
        // The end of what was looked at, too short to hold any of them whole.
        let mut tails = TRIES.map(|_| Vec::new());
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if let Some(tries) = &tries {
                for (what, tail) in TRIES.iter().zip(&mut tails) {
                    tail.extend(buffer[..read].iter().map(u8::to_ascii_lowercase));
                    let found = tail.windows(what.len()).filter(|window| window == what).count();
                    tries.fetch_add(found, Ordering::SeqCst);
                    tail.drain(..tail.len().saturating_sub(what.len() - 1));
                }
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
