//! One opened log file: reads it in chunks of whole lines, and knows which file it is.
//!
//! Invariant: `offset <= read_to <= seen_end`. `offset` is always the start of a line; `read_to` is
//! beyond it only inside a line too long to hold, of which nothing is kept.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use flate2::read::MultiGzDecoder;

use super::checkpoint::{FileKey, Fingerprint, Position};

/// Size of a read buffer: the longest line that is looked at fits.
pub const BUFFER_BYTES: usize = super::parse::LINE_BYTES_MAX + CHUNK_BYTES;
/// What is read at a time unless a line is longer. Small, since what one chunk adds to the windows
/// must fit the room they leave in a batch.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Whole lines, as a part of the read buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Ends with a newline, or is empty: then the call only got on inside an overlong line.
    pub lines: Range<usize>,
    /// Lines that did not fit the buffer and ended in this chunk; no part of them is in `lines`.
    pub n_too_long: u32,
    /// Their bytes, newlines included.
    pub n_bytes_too_long: u64,
}

/// What a read came to.
pub(in crate::logs) enum Outcome {
    /// Whole lines.
    Chunk(Chunk),
    /// Nothing more at the moment; perhaps half a line.
    End,
    /// The file is shorter than it was, or begins differently.
    Shrunk,
}

/// A log file, plain or compressed.
pub(in crate::logs) struct Open {
    input: Input,
    pub(in crate::logs) key: FileKey,
    /// First bytes, as last seen.
    pub(in crate::logs) head: Vec<u8>,
    pub(in crate::logs) offset: u64,
    read_to: u64,
    /// End of what was read, half a line included.
    seen_end: u64,
    /// Size when last asked; what a truncation takes away is known up to here.
    pub(in crate::logs) size_known: u64,
    /// After a truncation a writer may go on at its old offset, which leaves zeros before it.
    after_hole: bool,
    /// It no longer begins as it did, as a look at it found out.
    is_suspect: bool,
    /// At its end since then.
    pub(in crate::logs) quiet_since: Option<Instant>,
}

enum Input {
    Plain(File),
    Gz(Box<Gz>),
}

/// A compressed file, read forward; the last bytes stay for the start of a cut line.
struct Gz {
    decoder: MultiGzDecoder<File>,
    /// Bytes decoded so far.
    at: u64,
    /// The bytes just before `at`.
    last: Vec<u8>,
}

/// Identity of a file, whatever its name.
pub(in crate::logs) fn key_of(meta: &Metadata) -> FileKey {
    FileKey { device: meta.dev(), inode: meta.ino() }
}

/// True for a name that a compressor gave; such a file is never followed as a log.
pub(in crate::logs) fn is_compressed(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("gz" | "bz2" | "xz" | "zst" | "lz4" | "Z" | "zip"))
}

/// True when `name` is what log rotation makes of `base`: a number or date behind it, or before
/// its extension, perhaps compressed.
#[must_use]
pub(in crate::logs) fn is_rotated_name(base: &str, name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, extension) = base.rsplit_once('.').unwrap_or((base, ""));
    if !name.starts_with(stem) {
        return false; // asked of every name in a directory: this is all most of them cost
    }
    let middle = |front: &str, back: &str| {
        name.strip_prefix(front).and_then(|rest| rest.strip_suffix(back)).map(str::to_owned)
    };
    let behind = middle(base, "");
    let before = middle(stem, &format!(".{extension}")).filter(|_| !extension.is_empty());
    let is_mark = |mark: &str| {
        let mark = mark.trim_start_matches(['.', '-', '_']);
        matches!(mark, "old" | "bak" | "prev")
            || mark.starts_with(|c: char| c.is_ascii_digit())
                && mark.chars().all(|c| c.is_ascii_digit() || "-_.T:Z".contains(c))
    };
    let has_separator = |mark: &String| mark.starts_with(['.', '-', '_']);
    [behind, before].into_iter().flatten().filter(has_separator).any(|mark| is_mark(&mark))
}

impl Open {
    /// Opens a file to read it from its start; never blocks on a pipe.
    pub(in crate::logs) fn new(path: &Path) -> io::Result<Self> {
        let file = open_file(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            let kind = if meta.is_dir() { "a directory" } else { "a device or pipe" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, kind));
        }
        let is_gz = path.extension().is_some_and(|extension| extension == "gz");
        let input = if is_gz { Input::Gz(Box::new(Gz::new(file))) } else { Input::Plain(file) };
        let mut open = Self {
            input,
            key: key_of(&meta),
            head: Vec::new(),
            offset: 0,
            read_to: 0,
            seen_end: 0,
            size_known: 0,
            after_hole: false,
            is_suspect: false,
            quiet_since: None,
        };
        open.head = open.first_bytes()?;
        Ok(open)
    }

    /// Goes on at an offset that is the start of a line.
    pub(in crate::logs) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.read_to = offset;
        self.seen_end = offset;
    }

    /// Goes to the last start of a line: what is there now was written before we came.
    pub(in crate::logs) fn seek_to_end(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let size = self.size()?.unwrap_or(0);
        let from = size.saturating_sub(buffer.len() as u64);
        let n = self.read_at(buffer, from)?;
        let partial = memchr::memrchr(b'\n', &buffer[..n]).map_or(n, |newline| n - newline - 1);
        // A cut line longer than the buffer: its rest will be counted as one bad line.
        let start = if partial == n && from > 0 { n } else { n - partial };
        self.seek(from + start as u64);
        Ok(())
    }

    /// Size now; `None` when only decoding would tell.
    pub(in crate::logs) fn size(&self) -> io::Result<Option<u64>> {
        match &self.input {
            Input::Plain(file) => Ok(Some(file.metadata()?.len())),
            Input::Gz(_) => Ok(None),
        }
    }

    /// True when no name leads to the file any more.
    pub(in crate::logs) fn is_deleted(&self) -> bool {
        match &self.input {
            Input::Plain(file) => file.metadata().is_ok_and(|meta| meta.nlink() == 0),
            Input::Gz(_) => false,
        }
    }

    /// A compressed file never grows.
    pub(in crate::logs) fn is_frozen(&self) -> bool {
        matches!(self.input, Input::Gz(_))
    }

    pub(in crate::logs) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.head)
    }

    pub(in crate::logs) fn position(&self, path: &Path) -> Position {
        Position {
            path: path.to_owned(),
            key: self.key,
            fingerprint: self.fingerprint(),
            offset: self.offset,
            is_done: false,
        }
    }

    /// Bytes at the end that no newline follows, or that were never read.
    pub(in crate::logs) fn n_bytes_unread(&self) -> u64 {
        self.seen_end.max(self.size_known).saturating_sub(self.offset)
    }

    /// True when `offset` can be the end of a line of this file.
    pub(in crate::logs) fn is_line_start(&mut self, offset: u64) -> io::Result<bool> {
        let mut byte = [0];
        Ok(offset == 0 || self.read_at(&mut byte, offset - 1)? == 1 && byte[0] == b'\n')
    }

    /// The file, if a whole line is there beyond the offset; half a line is not worth a descriptor.
    pub(in crate::logs) fn with_more_lines(mut self) -> Option<Self> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let n = self.read_at(&mut buffer, self.offset).unwrap_or(0);
        (n == buffer.len() || memchr::memchr(b'\n', &buffer[..n]).is_some()).then_some(self)
    }

    /// The next whole lines. `buffer` has [`BUFFER_BYTES`].
    pub(in crate::logs) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Outcome> {
        if let Some(size) = self.size()? {
            if self.is_suspect || size < self.seen_end.max(self.head.len() as u64) {
                return Ok(Outcome::Shrunk);
            }
            self.size_known = size;
            if size == self.seen_end && (self.quiet_since.is_some() || size == self.read_to) {
                return Ok(Outcome::End);
            }
        }
        let mut n = self.read_at(&mut buffer[..CHUNK_BYTES], self.read_to)?;
        let is_cut = n == CHUNK_BYTES && memchr::memchr(b'\n', &buffer[..n]).is_none();
        if is_cut && self.read_to == self.offset {
            n = self.read_at(buffer, self.read_to)?;
        }
        // Checked after the read: if it still begins the same, what was read belongs to it.
        if !self.begins_the_same()? {
            return Ok(Outcome::Shrunk);
        }
        self.seen_end = self.seen_end.max(self.read_to + n as u64);
        if n == 0 {
            return Ok(Outcome::End);
        }
        if self.read_to == 0 && buffer[0] == 0 && !self.after_hole {
            self.skip_hole();
            return Ok(Outcome::Chunk(Chunk::default()));
        }
        if self.read_to > self.offset {
            return Ok(Outcome::Chunk(self.finish_long_line(&buffer[..n])));
        }
        let skipped = self.skip_zeros(&buffer[..n]);
        let lines = self.whole_lines(buffer, skipped..n);
        if lines.is_empty() {
            if n < buffer.len() {
                return Ok(Outcome::End);
            }
            self.read_to += (n - skipped) as u64; // too long to hold: look for its end
        }
        Ok(Outcome::Chunk(Chunk { lines, ..Chunk::default() }))
    }

    /// Goes on at the end of a file that was cut back to a part that was read.
    pub(in crate::logs) fn cut_to(&mut self, head: Vec<u8>, size: u64) {
        self.head = head;
        self.seek(size);
        self.size_known = size;
        self.is_suspect = false;
    }

    /// Goes behind the hole that a truncation leaves when its writer goes on at its old offset.
    fn skip_hole(&mut self) {
        self.after_hole = true;
        if let Input::Plain(file) = &self.input {
            let start = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)).unwrap_or(0);
            self.seek(start);
        }
    }

    /// Notes the size, and whether it still begins as it did: a file that was truncated and has
    /// grown to its old size shows it only there.
    pub(in crate::logs) fn look(&mut self, size: u64) {
        self.size_known = self.size_known.max(size);
        self.is_suspect |= !self.begins_the_same().unwrap_or(true);
    }

    /// Starts anew at the first byte of a file that was truncated in place.
    pub(in crate::logs) fn restart(&mut self) -> io::Result<()> {
        self.head = self.first_bytes()?;
        self.seek(0);
        self.is_suspect = false;
        self.size_known = 0;
        self.quiet_since = None;
        Ok(())
    }

    /// How it begins now, truncated or not; a file that cannot be read matches nothing.
    pub(in crate::logs) fn fingerprint_now(&mut self) -> Fingerprint {
        Fingerprint::of(&self.first_bytes().unwrap_or_default())
    }

    pub(in crate::logs) fn first_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; Fingerprint::BYTES_MAX];
        let n = self.read_at(&mut head, 0)?;
        head.truncate(n);
        Ok(head)
    }

    fn begins_the_same(&mut self) -> io::Result<bool> {
        if self.is_frozen() {
            return Ok(true);
        }
        let head = self.first_bytes()?;
        let is_same = head.starts_with(&self.head);
        if is_same {
            self.head = head;
        }
        Ok(is_same)
    }

    fn finish_long_line(&mut self, buffer: &[u8]) -> Chunk {
        let Some(newline) = memchr::memchr(b'\n', buffer) else {
            self.read_to += buffer.len() as u64;
            return Chunk::default();
        };
        let end = self.read_to + newline as u64 + 1;
        let n_bytes_too_long = end - self.offset;
        self.offset = end;
        self.read_to = end;
        let lines = self.whole_lines(buffer, newline + 1..buffer.len());
        Chunk { lines, n_too_long: 1, n_bytes_too_long }
    }

    fn skip_zeros(&mut self, buffer: &[u8]) -> usize {
        if !self.after_hole {
            return 0;
        }
        let n = buffer.iter().take_while(|byte| **byte == 0).count();
        self.after_hole = n == buffer.len();
        self.offset += n as u64;
        self.read_to = self.offset;
        n
    }

    fn whole_lines(&mut self, buffer: &[u8], part: Range<usize>) -> Range<usize> {
        let n = memchr::memrchr(b'\n', &buffer[part.clone()]).map_or(0, |newline| newline + 1);
        self.offset += n as u64;
        self.read_to = self.offset;
        part.start..part.start + n
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &mut self.input {
            Input::Plain(file) => fill(buffer, |rest, n| file.read_at(rest, offset + n as u64)),
            Input::Gz(gz) => gz.read_at(buffer, offset),
        }
    }
}

impl Gz {
    fn new(file: File) -> Self {
        Self { decoder: MultiGzDecoder::new(file), at: 0, last: Vec::new() }
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset + (self.last.len() as u64) < self.at {
            // The same file again, not what its name leads to by now.
            let mut file = self.decoder.get_ref().try_clone()?;
            file.rewind()?;
            *self = Self::new(file);
        }
        if offset > self.at {
            let n = offset - self.at;
            self.at += io::copy(&mut (&mut self.decoder).take(n), &mut io::sink())?;
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
        let decoder = &mut self.decoder;
        let n = n_known + fill(&mut buffer[n_known..], |rest, _| decoder.read(rest))?;
        self.at = offset + n as u64;
        self.last.clear();
        self.last.extend_from_slice(&buffer[..n]);
        Ok(n)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Reads until the buffer is full or there is no more.
fn fill(
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match read(&mut buffer[n..], n) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}
