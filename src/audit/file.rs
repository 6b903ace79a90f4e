//! The file that lines are appended to, and those that it was before: `audit.jsonl`, `audit.jsonl.1`, `audit.jsonl.2` …

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::chain::{self, Link};

/// The last line of a file is looked for in so much of its end.
const TAIL: u64 = 1 << 20;

/// The disk did not take it.
#[derive(Debug)]
pub(super) struct Unwritable(pub io::Error);

/// Open, and nobody else's.
pub(super) struct AuditFile {
    path: PathBuf,
    file: Flock<File>,
    /// As far as it holds whole lines.
    length: u64,
    last: Link,
    size_max: u64,
    keep: usize,
}

impl AuditFile {
    /// Goes on behind the last whole line of `path`, or, where that is empty, of the file before it.
    pub fn open(path: &Path, size_max: u64, keep: usize) -> io::Result<AuditFile> {
        let mut file = open(path)?;
        let (mut length, mut tail) = (file.metadata()?.len(), Vec::new());
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        file.read_to_end(&mut tail)?;
        let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count();
        tail.truncate(tail.len() - torn);
        length -= torn as u64;
        file.set_len(length)?;
        let last = match last_line(&tail) {
            Some(line) => Link::read(line).map(|(link, _)| link).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "its last line is none of an audit; move the file away")
            })?,
            None => fs::read(numbered(path, 1))
                .ok()
                .and_then(|text| Some(Link::read(last_line(&text)?)?.0))
                .unwrap_or_default(),
        };
        let mut opened = AuditFile { path: path.to_owned(), file, length, last, size_max, keep };
        if torn > 0 {
            opened.append(&mut VecDeque::from([chain::torn(torn)])).map_err(|Unwritable(error)| error)?;
        }
        Ok(opened)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the objects as lines and takes them out of `objects`, as far as the disk takes them.
    pub fn append(&mut self, objects: &mut VecDeque<String>) -> Result<(), Unwritable> {
        while !objects.is_empty() {
            let (mut text, mut last, mut count) = (String::new(), self.last.clone(), 0);
            for object in objects.iter() {
                let (line, link) = last.next(object);
                let is_full = self.length + (text.len() + line.len()) as u64 > self.size_max;
                if is_full && (self.length > 0 || count > 0) {
                    break;
                }
                text.push_str(&line);
                (last, count) = (link, count + 1);
            }
            if count == 0 {
                self.rotate().map_err(Unwritable)?;
                continue;
            }
            if let Err(error) = self.file.write_all(text.as_bytes()) {
                // Half a line is none: what was written of it is taken off again.
                let _ = self.file.set_len(self.length);
                return Err(Unwritable(error));
            }
            self.length += text.len() as u64;
            self.last = last;
            objects.drain(..count);
        }
        Ok(())
    }

    /// The file is full: it gets a number, and another one begins. Those beyond `keep` go.
    fn rotate(&mut self) -> io::Result<()> {
        let _ = self.file.sync_data();
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            keep => {
                for number in (1..keep).rev() {
                    match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                fs::rename(&self.path, numbered(&self.path, 1))?;
            }
        }
        self.file = open(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

/// Nobody else may read it, nor write to it at the same time.
fn open(path: &Path) -> io::Result<Flock<File>> {
    let file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| match why {
        nix::errno::Errno::EWOULDBLOCK => io::Error::other("another Lockgate writes to it"),
        why => why.into(),
    })
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The last whole line of a text that ends with one.
fn last_line(text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()
}
