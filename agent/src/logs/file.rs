//! One opened log file: reads it in chunks of whole lines, and knows which file it is.
//!
//! Invariant: `offset <= read_to <= seen_end`. `offset` is always the start of a line; `read_to` is
//! beyond it only inside a line too long to hold, of which nothing is kept.
//!
//! A read is one system call. A truncation between two reads shows in it:
//! - The file is now shorter than what was seen of it: fewer bytes come than were there before.
//! - It has grown again beyond our place: each read begins up to [`MARGIN_BYTES`] before the place,
//!   and what is there must still have the checksum it had. These are the last lines handed out;
//!   for others to pass they had to have their very bytes, times included, at their very place.
//!   Zeros of a writer that goes on at its old place have not. A read from the start shows the
//!   first bytes, and the first read after a seek asks for them.
//!
//! So bytes are handed out only behind a margin that came with them in the same call, and nothing
//! has to be asked before or afterwards. A short read is the end: more that comes later makes an
//! event. Besides, a look that finds size or times changed compares the first bytes.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

mod fields;
mod identity;
#[cfg(test)]
pub(in crate::logs) mod lies;
mod packed;

use super::checkpoint::{FileKey, Fingerprint, Position};
pub(in crate::logs) use identity::{Stamp, are_same, key_of};
use packed::Packed;
pub(in crate::logs) use packed::{is_compressed, is_packed_unread, without_packing};

/// Size of a read buffer: the longest line that is looked at fits.
pub const BUFFER_BYTES: usize = super::parse::LINE_BYTES_MAX + CHUNK_BYTES;
/// What is read at a time unless a line is longer. Small, since what one chunk adds to the windows
/// must fit the room they leave in a batch.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes before the place of reading that must not have changed: the last line or two.
const MARGIN_BYTES: usize = 256;
/// A shorter beginning does not tell one file from another.
pub(in crate::logs) const HEAD_BYTES_MIN: usize = 16;
/// Times a file is asked for until it is not written meanwhile.
const SAME_TRIES: usize = 4;

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
    /// Checksum of the last [`MARGIN_BYTES`] before `read_to`, or of all there are; `None` until
    /// they were read.
    margin: Option<u32>,
    /// The read at this time came to the end.
    drained_at: Option<Instant>,
    /// At the last look.
    stamp: Option<Stamp>,
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
    /// It is a compressed copy of a file that was truncated.
    pub(in crate::logs) recovery: Option<Recovery>,
}

/// What a compressed copy is to give back, and what it gave.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::logs) struct Recovery {
    /// Unread bytes of the file that was truncated, as far as known.
    pub(in crate::logs) n_wanted: u64,
    /// Bytes read from the copy.
    pub(in crate::logs) n_found: u64,
}

enum Input {
    Plain(File),
    Packed(Box<Packed>),
}

/// True when `name` is what log rotation makes of `base`: a number or date behind it, or before
/// its extension, perhaps compressed.
#[must_use]
pub(in crate::logs) fn is_rotated_name(base: &str, name: &str) -> bool {
    let name = without_packing(name);
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
        must_be_file(&meta)?;
        let input = match Packed::kind_of(path) {
            Some(kind) => Input::Packed(Box::new(Packed::new(kind, file)?)),
            None => Input::Plain(file),
        };
        let mut open = Self {
            input,
            key: key_of(&meta),
            head: Vec::new(),
            offset: 0,
            read_to: 0,
            margin: None,
            drained_at: None,
            stamp: None,
            seen_end: 0,
            size_known: 0,
            after_hole: false,
            is_suspect: false,
            quiet_since: None,
            recovery: None,
        };
        open.head = open.first_bytes()?;
        Ok(open)
    }

    /// Goes on at an offset that is the start of a line.
    pub(in crate::logs) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.read_to = offset;
        self.seen_end = offset;
        self.margin = None;
        self.drained_at = None;
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
            Input::Packed(_) => Ok(None),
        }
    }

    /// True when no name leads to the file any more.
    pub(in crate::logs) fn is_deleted(&self) -> bool {
        match &self.input {
            Input::Plain(file) => file.metadata().is_ok_and(|meta| meta.nlink() == 0),
            Input::Packed(_) => false,
        }
    }

    /// A compressed file never grows.
    pub(in crate::logs) fn is_frozen(&self) -> bool {
        matches!(self.input, Input::Packed(_))
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

    /// The next whole lines. `buffer` has [`BUFFER_BYTES`]. Right after a read to the end, `now`
    /// being the same, there is nothing more.
    pub(in crate::logs) fn read(&mut self, now: Instant, buffer: &mut [u8]) -> io::Result<Outcome> {
        if self.is_suspect {
            return Ok(Outcome::Shrunk);
        }
        if self.drained_at.take() == Some(now) {
            return Ok(Outcome::End);
        }
        let margin = self.margin_bytes();
        let from = self.read_to - margin as u64;
        let mut n_asked = margin + CHUNK_BYTES;
        let mut n = self.read_once_at(&mut buffer[..n_asked], from)?;
        if n == n_asked
            && self.read_to == self.offset
            && memchr::memchr(b'\n', &buffer[margin..n]).is_none()
        {
            n_asked = buffer.len();
            n = self.read_once_at(buffer, from)?;
        }
        let end = from + n as u64;
        if !self.is_frozen() && end < self.seen_end.max(self.head.len() as u64)
            || n < margin
            || !self.continues(&buffer[..n], from, margin)?
        {
            return Ok(Outcome::Shrunk);
        }
        self.drained_at = (n < n_asked).then_some(now);
        self.seen_end = self.seen_end.max(end);
        self.size_known = self.size_known.max(end);
        if n == margin {
            self.margin.get_or_insert_with(|| crc32c::crc32c(&buffer[..margin]));
            self.drained_at = None;
            return Ok(Outcome::End);
        }
        self.grow_head(&buffer[..n], from)?;
        let outcome = self.take(buffer, margin..n);
        if matches!(outcome, Outcome::End) {
            self.drained_at = None;
        }
        let here = (self.read_to - from) as usize;
        let before = here.wrapping_sub(self.margin_bytes())..here;
        self.margin = buffer[..n].get(before).map(crc32c::crc32c);
        Ok(outcome)
    }

    /// True when what was read at `from` begins with bytes that are known.
    fn continues(&mut self, bytes: &[u8], from: u64, margin: usize) -> io::Result<bool> {
        if self.is_frozen() {
            return Ok(true);
        }
        if from == 0 {
            return Ok(bytes.starts_with(&self.head) && self.is_margin(&bytes[..margin]));
        }
        match self.margin {
            Some(_) => Ok(self.is_margin(&bytes[..margin])),
            None => self.begins_the_same(), // the first read at a place that was sought
        }
    }

    fn is_margin(&self, bytes: &[u8]) -> bool {
        self.margin.is_none_or(|known| known == crc32c::crc32c(bytes))
    }

    /// Bytes that are read before `read_to`, to see that they are still the same.
    fn margin_bytes(&self) -> usize {
        if self.is_frozen() { 0 } else { self.read_to.min(MARGIN_BYTES as u64) as usize }
    }

    /// Takes what it can of the part of the buffer that was read at `read_to`.
    fn take(&mut self, buffer: &[u8], part: Range<usize>) -> Outcome {
        if self.read_to == 0 && buffer[part.start] == 0 && !self.after_hole {
            self.skip_hole();
            return Outcome::Chunk(Chunk::default());
        }
        if self.read_to > self.offset {
            return Outcome::Chunk(self.finish_long_line(buffer, part));
        }
        let skipped = self.skip_zeros(&buffer[part.clone()]);
        let rest = part.start + skipped..part.end;
        let lines = self.whole_lines(buffer, rest.clone());
        if lines.is_empty() {
            if part.end < buffer.len() {
                return Outcome::End;
            }
            self.read_to += rest.len() as u64; // too long to hold: look for its end
        }
        Outcome::Chunk(Chunk { lines, ..Chunk::default() })
    }

    /// Goes on at the end of a file that was cut back to a part that was read.
    pub(in crate::logs) fn cut_to(&mut self, head: Vec<u8>, size: u64) {
        self.head = head;
        self.seek(size);
        self.size_known = size;
        self.is_suspect = false;
    }

    /// Goes on where it is in a file that was cut back and has grown beyond: the line that our
    /// place is now in counts as one that cannot be read.
    pub(in crate::logs) fn regrown(&mut self, head: Vec<u8>, size: u64) -> io::Result<()> {
        let is_line_start = self.is_line_start(self.offset)?;
        self.cut_to(head, self.offset);
        self.size_known = size;
        if !is_line_start {
            self.read_to += 1;
        }
        Ok(())
    }

    /// Goes behind the hole that a truncation leaves when its writer goes on at its old offset.
    fn skip_hole(&mut self) {
        self.after_hole = true;
        if let Input::Plain(file) = &self.input {
            let start = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)).unwrap_or(0);
            self.seek(start);
        }
    }

    /// Notes what a look saw of the file at the path, and if that changed, whether the file still
    /// begins as it did.
    pub(in crate::logs) fn look(&mut self, stamp: Stamp) {
        if self.stamp.replace(stamp) == Some(stamp) {
            return;
        }
        self.is_suspect |= stamp.size < self.seen_end || !self.begins_the_same().unwrap_or(true);
        if !self.is_suspect {
            self.size_known = self.size_known.max(stamp.size);
        }
    }

    /// True when both begin with the same bytes, enough to tell files apart.
    pub(in crate::logs) fn begins_like(&self, other: &Self) -> bool {
        let n = self.head.len().min(other.head.len());
        n >= HEAD_BYTES_MIN && self.head[..n] == other.head[..n]
    }

    /// True when the other file holds the same text up to our place, perhaps under another name or
    /// number.
    pub(in crate::logs) fn has_same_text(&mut self, other: &mut Self) -> io::Result<bool> {
        if self.is_frozen() || other.is_frozen() || self.head.len() < HEAD_BYTES_MIN {
            return Ok(false);
        }
        let n = self.offset.min(MARGIN_BYTES as u64) as usize;
        let (mut own, mut its) = ([0; MARGIN_BYTES], [0; MARGIN_BYTES]);
        let n_own = self.read_at(&mut own[..n], self.offset - n as u64)?;
        let n_its = other.read_at(&mut its[..n], self.offset - n as u64)?;
        Ok(other.head.starts_with(&self.head) && n_own == n && own[..n_own] == its[..n_its])
    }

    /// Starts anew at the first byte of a file that was truncated in place.
    pub(in crate::logs) fn restart(&mut self) -> io::Result<()> {
        self.head = self.first_bytes()?;
        self.seek(0);
        self.is_suspect = false;
        self.stamp = None;
        self.size_known = 0;
        self.quiet_since = None;
        Ok(())
    }

    /// True when it no longer is what was read, and nobody has acted on it yet.
    pub(in crate::logs) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// A file that was at its end is no longer so when it was written or truncated since.
    pub(in crate::logs) fn check_quiet(&mut self) {
        if self.is_frozen() || self.quiet_since.is_none() {
            return;
        }
        let size = self.size().ok().flatten();
        self.is_suspect |= size.is_some_and(|size| size < self.seen_end)
            || !self.begins_the_same().unwrap_or(true);
        if self.is_suspect || size != Some(self.seen_end) {
            self.quiet_since = None;
        }
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

    /// Reads the first bytes of a file that had few.
    pub(in crate::logs) fn complete_head(&mut self) {
        if self.head.len() < Fingerprint::BYTES_MAX {
            self.is_suspect |= !self.begins_the_same().unwrap_or(true);
        }
    }

    /// Completes the first bytes of a file that was shorter, from what was read at `from`.
    fn grow_head(&mut self, bytes: &[u8], from: u64) -> io::Result<()> {
        if self.is_frozen() || self.head.len() >= Fingerprint::BYTES_MAX {
            return Ok(());
        }
        match (self.head.len() as u64).checked_sub(from) {
            Some(known) => {
                let n = Fingerprint::BYTES_MAX - self.head.len();
                self.head.extend(bytes.iter().skip(known as usize).take(n));
            }
            None => self.head = self.first_bytes()?,
        }
        Ok(())
    }

    fn finish_long_line(&mut self, buffer: &[u8], part: Range<usize>) -> Chunk {
        let Some(newline) = memchr::memchr(b'\n', &buffer[part.clone()]) else {
            self.read_to += part.len() as u64;
            return Chunk::default();
        };
        let end = self.read_to + newline as u64 + 1;
        let n_bytes_too_long = end - self.offset;
        self.offset = end;
        self.read_to = end;
        let lines = self.whole_lines(buffer, part.start + newline + 1..part.end);
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
            Input::Packed(packed) => packed.read_at(buffer, offset),
        }
    }

    /// One system call; less than asked for is the end, or all there is at the moment.
    fn read_once_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Input::Plain(file) = &self.input else { return self.read_at(buffer, offset) };
        loop {
            match file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// An error for what is no file, with what it is.
pub(in crate::logs) fn must_be_file(meta: &Metadata) -> io::Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let kind = if meta.is_dir() { "a directory" } else { "a device or pipe" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, kind))
}

/// Reading leaves the access time alone where that is allowed: noting it costs a write to the disk's
/// journal for each read of a log that was written since.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let open = |flags: rustix::fs::OFlags| {
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
    };
    // Only its owner may ask for it.
    match open(flags | rustix::fs::OFlags::NOATIME) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
            open(flags)
        }
        opened => opened,
    }
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
