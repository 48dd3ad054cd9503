//! Doors into private parts, for the fuzz targets and benchmarks of `tests/` alone.

use std::io;
use std::path::Path;

use super::file::{BUFFER_BYTES, Open, Outcome};
pub use super::parse::LINE_BYTES_MAX;

/// Reads one file as the tail does, without what finds and identifies files.
pub struct Reader {
    open: Open,
    buffer: Vec<u8>,
}

impl Reader {
    /// Opens a log at its start.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { open: Open::new(path)?, buffer: vec![0; BUFFER_BYTES] })
    }

    /// The next whole lines, and how many ended that were too long to hold; `None` at the end.
    pub fn next_lines(&mut self) -> io::Result<Option<(&[u8], u32)>> {
        match self.open.read(crate::clock::instant(), &mut self.buffer)? {
            Outcome::Chunk(chunk) => Ok(Some((&self.buffer[chunk.lines], chunk.n_too_long))),
            Outcome::End | Outcome::Shrunk => Ok(None),
        }
    }

    /// Bytes accounted for.
    pub fn offset(&self) -> u64 {
        self.open.offset
    }
}
