//! What is on its way to the upstream on a link that one owner writes to.

use std::io;
use std::task::Context;

use super::socket::Writer;

/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_KEPT: usize = 64 << 10;

/// Requests that the socket has not taken yet.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    /// Where more is added.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What waits to be written, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes what `writer` takes, and wakes the task when it takes more.
    pub fn poll_flush(&mut self, writer: &Writer, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match writer.try_write(&self.bytes[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if writer.poll_writable(cx)?.is_pending() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BUFFER_KEPT {
                self.bytes = Vec::new();
            }
        } else if self.written >= BUFFER_KEPT {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}
