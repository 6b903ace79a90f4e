//! A relay that hands every stream on in small pieces, so that whoever reads it meets frames cut at any place.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// How large the pieces are.
#[derive(Clone, Copy, Debug)]
pub enum Pieces {
    /// A cut after every byte. Of what comes in one read only the first part is cut so finely: the lists that a server
    /// gives out at every connect are long, and a cut in their middle is like any other.
    Single,
    /// Pieces of 1 to 40 bytes, drawn from this seed.
    Random(u64),
}

pub struct Chopper {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    accepts: Option<JoinHandle<()>>,
}

impl Chopper {
    pub fn before(target: SocketAddr, pieces: Pieces) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let accepts = std::thread::spawn({
            let over = Arc::clone(&over);
            let streams = AtomicU64::new(0);
            move || {
                for client in listener.incoming() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                    let number = streams.fetch_add(2, Ordering::SeqCst);
                    relay(&client, &server, Dice::new(pieces, number));
                    relay(&server, &client, Dice::new(pieces, number + 1));
                }
            }
        });
        Self { addr, over, accepts: Some(accepts) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Chopper {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // A last connection wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.addr);
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
    }
}

/// One direction. The end of one side is told to the other as what it was, so that a half-close stays one.
fn relay(from: &TcpStream, to: &TcpStream, mut dice: Dice) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    to.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 16 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => n,
            };
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(dice.piece(read - rest.len()).min(rest.len()));
                if to.write_all(piece).is_err() {
                    // The reader is gone. What it said before it went is still on its way in the other direction, so
                    // the writer is heard out: closing on it now would take that away.
                    while from.read(&mut buffer).is_ok_and(|n| n > 0) {}
                    return;
                }
                if dice.pauses() {
                    std::thread::yield_now();
                }
                rest = more;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// A small generator (xorshift) per stream: the same seed cuts the same stream at the same places.
struct Dice {
    pieces: Pieces,
    state: u64,
}

/// So much of what one read brings is handed on byte by byte.
const SINGLE_MAX: usize = 600;

impl Dice {
    fn new(pieces: Pieces, stream: u64) -> Self {
        let seed = match pieces {
            Pieces::Single => 1,
            Pieces::Random(seed) => seed,
        };
        Self { pieces, state: (seed ^ (stream + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1 }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// How long the next piece is, `at` bytes into what was read.
    fn piece(&mut self, at: usize) -> usize {
        match self.pieces {
            Pieces::Single if at < SINGLE_MAX => 1,
            // Long replies are cut less often, or they would take all the time.
            _ if at >= SINGLE_MAX => 1 + (self.next() % 2000) as usize,
            _ => 1 + (self.next() % 40) as usize,
        }
    }

    fn pauses(&mut self) -> bool {
        self.next().is_multiple_of(3)
    }
}
