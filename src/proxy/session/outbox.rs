//! Replies on their way to one client. Memory is bounded: what a slow client does not take goes to an unlinked
//! temporary file, so that the link it shares with others never has to wait for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Replies kept in memory, in bytes; more goes to the file.
const MEMORY_MAX: usize = 1 << 20;
/// Above this the client counts as slow.
const ROOM_BELOW: usize = 256 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_KEPT: usize = 16 << 10;
/// What is read back from the file at a time.
const CHUNK: usize = 256 << 10;

/// First in, first out: memory first, then the file.
#[derive(Default)]
pub struct Outbox {
    memory: Vec<u8>,
    start: usize,
    spill: Option<Spill>,
}

struct Spill {
    file: File,
    read_at: u64,
    write_at: u64,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.memory.len() && self.spill.is_none()
    }

    /// Whether the client keeps up.
    pub fn has_room(&self) -> bool {
        self.spill.is_none() && self.memory.len() - self.start < ROOM_BELOW
    }

    /// Adds to the end. Fails only when the temporary file does.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.spill.is_none() && self.memory.len() - self.start + bytes.len() <= MEMORY_MAX {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        if self.spill.is_none() {
            self.spill = Some(Spill { file: unlinked_file()?, read_at: 0, write_at: 0 });
        }
        if let Some(spill) = &mut self.spill {
            spill.file.write_all_at(bytes, spill.write_at)?;
            spill.write_at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Hands what waits to `write` until it takes no more (`WouldBlock`); `Ok(true)` when all is gone.
    pub fn drain(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        loop {
            while self.start < self.memory.len() {
                match write(&self.memory[self.start..]) {
                    Ok(n) => self.start += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.start = 0;
            self.memory.clear();
            let Some(spill) = &mut self.spill else { break };
            let left = usize::try_from(spill.write_at - spill.read_at).unwrap_or(usize::MAX).min(CHUNK);
            if left == 0 {
                self.spill = None;
                break;
            }
            self.memory.resize(left, 0);
            spill.file.read_exact_at(&mut self.memory, spill.read_at)?;
            spill.read_at += left as u64;
        }
        if self.memory.capacity() > BUFFER_KEPT {
            self.memory = Vec::new();
        }
        Ok(true)
    }
}

/// A file without a name: gone with its last use, also after a crash.
fn unlinked_file() -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = std::env::temp_dir();
    loop {
        let path = folder.join(format!("lockgate-{}-{:016x}", std::process::id(), fastrand::u64(..)));
        match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_stops_reading_costs_a_file_and_loses_no_byte() {
        let mut outbox = Outbox::default();
        let all: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        for chunk in all.chunks(70_001) {
            outbox.push(chunk).unwrap();
        }
        assert!(outbox.memory.len() <= MEMORY_MAX);
        assert!(!outbox.has_room());
        let mut seen = Vec::new();
        let mut turn = 0;
        while !outbox.is_empty() {
            let _ = outbox
                .drain(|bytes| {
                    turn += 1;
                    if turn % 3 == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    let n = bytes.len().min(99_999);
                    seen.extend_from_slice(&bytes[..n]);
                    Ok(n)
                })
                .unwrap();
        }
        assert!(seen == all);
        assert!(outbox.has_room());
    }
}
