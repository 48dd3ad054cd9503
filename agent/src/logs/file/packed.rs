//! Rotated logs that were compressed: `.gz` and `.zst` are read, of the others only the name is known.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::fill;

/// Largest window of a zstd frame, log2 of its bytes: what `zstd -19` makes. A larger one is an
/// error, not memory.
const WINDOW_LOG_MAX: u32 = 23;
const READ: [&str; 2] = [".gz", ".zst"];
const UNREAD: [&str; 5] = [".bz2", ".xz", ".lz4", ".Z", ".zip"];

/// True for a name that a compressor gave; such a file is never followed as a log.
pub(in crate::logs) fn is_compressed(path: &Path) -> bool {
    has_ending(path, &READ) || is_packed_unread(path)
}

/// True for a compressed file whose lines cannot be read.
pub(in crate::logs) fn is_packed_unread(path: &Path) -> bool {
    has_ending(path, &UNREAD)
}

/// The name that a file had before it was compressed.
pub(in crate::logs) fn without_packing(name: &str) -> &str {
    READ.iter().chain(&UNREAD).find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| endings.iter().any(|ending| ending[1..] == *extension))
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gz,
    Zst,
}

/// A compressed file, read forward; the last bytes stay for the start of a cut line.
pub(super) struct Packed {
    kind: Kind,
    decoder: Decoder,
    /// Bytes decoded so far.
    at: u64,
    /// The bytes just before `at`.
    last: Vec<u8>,
}

enum Decoder {
    Gz(MultiGzDecoder<File>),
    Zst(zstd::stream::read::Decoder<'static, BufReader<File>>),
}

impl Packed {
    /// `None` for a name of a plain file.
    pub(super) fn kind_of(path: &Path) -> Option<Kind> {
        match path.extension()?.to_str()? {
            "gz" => Some(Kind::Gz),
            "zst" => Some(Kind::Zst),
            _ => None,
        }
    }

    /// Begins at the start of the file.
    pub(super) fn new(kind: Kind, mut file: File) -> io::Result<Self> {
        file.rewind()?;
        let decoder = match kind {
            Kind::Gz => Decoder::Gz(MultiGzDecoder::new(file)),
            Kind::Zst => {
                let mut decoder = zstd::stream::read::Decoder::new(file)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Decoder::Zst(decoder)
            }
        };
        Ok(Self { kind, decoder, at: 0, last: Vec::new() })
    }

    fn file(&self) -> &File {
        match &self.decoder {
            Decoder::Gz(decoder) => decoder.get_ref(),
            Decoder::Zst(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn decoder(&mut self) -> &mut dyn io::Read {
        match &mut self.decoder {
            Decoder::Gz(decoder) => decoder,
            Decoder::Zst(decoder) => decoder,
        }
    }

    /// Fills the buffer from an offset of the unpacked text, as far as there is any.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset + (self.last.len() as u64) < self.at {
            // The same file again, not what its name leads to by now.
            *self = Self::new(self.kind, self.file().try_clone()?)?;
        }
        if offset > self.at {
            let n = offset - self.at;
            self.at += io::copy(&mut self.decoder().take(n), &mut io::sink())?;
            self.last.clear();
            if self.at < offset {
                return Ok(0);
            }
        }
        let known = &self.last[self.last.len() - (self.at - offset) as usize..];
        let n_known = known.len().min(buffer.len());
        buffer[..n_known].copy_from_slice(&known[..n_known]);
        if n_known == buffer.len() {
            return Ok(n_known);
        }
        let decoder = self.decoder();
        let n = n_known + fill(&mut buffer[n_known..], |rest, _| decoder.read(rest))?;
        self.at = offset + n as u64;
        self.last.clear();
        self.last.extend_from_slice(&buffer[..n]);
        Ok(n)
    }
}
