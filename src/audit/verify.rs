//! Whether an audit is whole: each line holds the hash of the one before.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::chain::{Link, NOTHING};

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is missing between the first and the last line.
    Whole {
        /// How many lines there are.
        lines: u64,
        /// The number of the first; what was before it is not among these files.
        first: u64,
        /// The hash of the last. Lines behind it may be missing: who knows it from elsewhere sees that they are.
        last: String,
    },
    /// There are no lines.
    Empty,
    /// From here on it is not what was written.
    Broken {
        /// In which file.
        file: PathBuf,
        /// In which line, from 1.
        line: u64,
        /// What is wrong there.
        why: &'static str,
    },
}

/// Reads the files in the order in which they were written, whatever the order of `paths` is.
pub fn verify(paths: &[PathBuf]) -> Result<Verdict, (PathBuf, io::Error)> {
    let mut files = Vec::new();
    for path in paths {
        let first = first_number(path).map_err(|error| (path.clone(), error))?;
        files.push((first.unwrap_or(u64::MAX), path));
    }
    files.sort();
    let (mut lines, mut first, mut last) = (0, 0, None::<Link>);
    for (_, path) in files {
        let mut reader = BufReader::new(File::open(path).map_err(|error| (path.clone(), error))?);
        let (mut line, mut number) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).map_err(|error| (path.clone(), error))? > 0 {
            number += 1;
            match follows(&line, last.as_ref()) {
                Ok(link) => {
                    if last.is_none() {
                        first = link.seq;
                    }
                    last = Some(link);
                }
                Err(why) => return Ok(Verdict::Broken { file: path.clone(), line: number, why }),
            }
            lines += 1;
            line.clear();
        }
    }
    Ok(last.map_or(Verdict::Empty, |last| Verdict::Whole { lines, first, last: last.hash }))
}

fn first_number(path: &Path) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path)?).read_until(b'\n', &mut line)?;
    Ok(Link::read(line.strip_suffix(b"\n").unwrap_or(&line)).map(|(link, _)| link.seq))
}

fn follows(line: &[u8], before: Option<&Link>) -> Result<Link, &'static str> {
    let line = line.strip_suffix(b"\n").ok_or("the line is not whole")?;
    let (link, prev) = Link::read(line).ok_or("this is no line of an audit")?;
    match before {
        Some(before) if link.seq != before.seq + 1 => Err("lines are missing before it"),
        Some(before) if prev != before.hash => Err("the line before it was changed"),
        None if (link.seq == 1) != (prev == NOTHING) => Err("it is not the first line, and says that it is"),
        _ => Ok(link),
    }
}
