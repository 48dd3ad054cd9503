//! One file of the spool: a header, then records, each with its own checksums.
//!
//! ```text
//! header   "GWSPOOL\n" | version u32 | epoch u64 | pos_first u64 | lines_before u64
//!          | bytes_before u64 | crc32c u32                                           (48 bytes)
//! record   "GWr2" | len u32 | pos u64 | lines_before u64 | bytes_before u64 | acked u64
//!          | at_ms i64 | n_lines u32 | payload crc32c u32 | n_bytes u64
//!          | crc32c of these 64 bytes u32                                            (68 bytes)
//!          payload, len bytes
//! hole     a record "GWx2" without payload crc: `acked` counts the positions it stands for,
//!          `len` the bytes to skip; left where records were destroyed
//! ```
//! Numbers are little-endian. Positions in a file are contiguous, holes included, and
//! `lines_before` and `bytes_before` count all log lines and bytes of earlier records: so whatever
//! is missing between two readable records, how many records, lines and bytes it was is known
//! exactly.
//!
//! Version 1 is still read, and repaired in its own form: it has no `bytes_before` and no `n_bytes`,
//! and its records begin with "GWr1" and "GWx1". What its records account for in bytes is unknown
//! and taken as 0.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Volume;

/// Format of the files written; older ones are still read.
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: usize = Format::V2.header_bytes();
pub(super) const RECORD_BYTES: usize = Format::V2.record_bytes();
/// Largest payload: a full batch body and its few fields beside.
pub const PAYLOAD_BYTES_MAX: usize = wire::BODY_BYTES_MAX + (64 << 10);
/// Most positions one hole may stand for; a larger number is itself damage.
pub(super) const HOLE_MAX: u64 = 1 << 20;
/// Most positions one file may stand for, holes included: what a start keeps in memory of it.
pub(super) const POSITIONS_MAX: u64 = 2 * HOLE_MAX;
/// Positions, lines and bytes from here on are damage, whatever the checksum says: so sums of them
/// never overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;
/// Positions beyond it are not gone on from: numbering began far below, and what is written after
/// them has to stay below [`NUMBER_MAX`].
pub(super) const POSITION_MAX: u64 = 1 << 60;

const MAGIC: &[u8; 8] = b"GWSPOOL\n";
/// Sizes a header of a later version may have.
const HEADERS_NEWER: std::ops::RangeInclusive<usize> = 40..=256;

/// How a file is written: all its records alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Lines only.
    V1,
    /// Lines and bytes.
    V2,
}

impl Format {
    pub(super) const fn header_bytes(self) -> usize {
        match self {
            Self::V1 => 40,
            Self::V2 => 48,
        }
    }

    pub(super) const fn record_bytes(self) -> usize {
        match self {
            Self::V1 => 52,
            Self::V2 => 68,
        }
    }

    /// First bytes of a record, and of a hole.
    const fn magic(self) -> [[u8; 4]; 2] {
        match self {
            Self::V1 => [*b"GWr1", *b"GWx1"],
            Self::V2 => [*b"GWr2", *b"GWx2"],
        }
    }
}

/// The disk under the spool, so that tests can fill it and make it fail.
pub(super) trait Disk: Send {
    /// Writes all bytes at an offset, or some of them and fails.
    fn write_all_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns once everything written is on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Fills `bytes` from an offset on, or fails.
    fn read_exact_at(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
        file.read_exact_at(bytes, at)
    }
    /// Returns once the directory of `path` names it on the disk.
    fn sync_directory_of(&self, path: &Path) -> io::Result<()> {
        crate::files::sync_directory_of(path)
    }
    /// Replaces a small file as a whole.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        crate::files::replace(path, bytes, 0o600)
    }
}

/// The real disk.
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn write_all_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) format: Format,
    pub(super) is_hole: bool,
    /// Bytes that follow.
    pub(super) len: u32,
    pub(super) pos: u64,
    /// What all records before this one account for.
    pub(super) before: Volume,
    /// Acked position when this was written; of a hole, the positions it stands for.
    pub(super) acked: u64,
    pub(super) at_ms: i64,
    /// What this one accounts for; at most `u32::MAX` lines.
    pub(super) volume: Volume,
    pub(super) payload_crc: u32,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_BYTES);
        let has_bytes = self.format == Format::V2;
        let n_lines = u32::try_from(self.volume.n_lines).unwrap_or(u32::MAX);
        out.extend_from_slice(&self.format.magic()[usize::from(self.is_hole)]);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.pos.to_le_bytes());
        out.extend_from_slice(&self.before.n_lines.to_le_bytes());
        if has_bytes {
            out.extend_from_slice(&self.before.n_bytes.to_le_bytes());
        }
        out.extend_from_slice(&self.acked.to_le_bytes());
        out.extend_from_slice(&self.at_ms.to_le_bytes());
        out.extend_from_slice(&n_lines.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        if has_bytes {
            out.extend_from_slice(&self.volume.n_bytes.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The head at the start of `bytes`; `None` when there is no sound one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let magic = bytes.first_chunk::<4>()?;
        let format = [Format::V2, Format::V1].into_iter().find(|f| f.magic().contains(magic))?;
        let bytes = bytes.get(..format.record_bytes())?;
        let (checked, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
            return None;
        }
        let is_hole = *magic == format.magic()[1];
        // From here on version 2 lies 8 bytes later.
        let (shift, bytes_before, n_bytes) = match format {
            Format::V1 => (0, 0, 0),
            Format::V2 => (8, u64_at(bytes, 24), u64_at(bytes, 56)),
        };
        let head = Self {
            format,
            is_hole,
            len: u32_at(bytes, 4),
            pos: u64_at(bytes, 8),
            before: Volume { n_lines: u64_at(bytes, 16), n_bytes: bytes_before },
            acked: u64_at(bytes, 24 + shift),
            at_ms: u64_at(bytes, 32 + shift).cast_signed(),
            volume: Volume { n_lines: u32_at(bytes, 40 + shift).into(), n_bytes },
            payload_crc: u32_at(bytes, 44 + shift),
        };
        head.is_sound().then_some(head)
    }

    fn is_sound(&self) -> bool {
        let before = [self.before.n_lines, self.before.n_bytes];
        let numbers = [self.pos, self.acked, self.volume.n_bytes].into_iter().chain(before);
        let fits = self.pos > 0 && numbers.into_iter().all(|number| number < NUMBER_MAX);
        let has_payload = (1..=PAYLOAD_BYTES_MAX).contains(&(self.len as usize));
        fits && if self.is_hole { self.acked <= HOLE_MAX } else { has_payload }
    }

    /// True when its positions are within reach of a file that begins at `pos_first`.
    fn fits(&self, pos_first: u64) -> bool {
        let end = self.pos + if self.is_hole { self.acked } else { 1 };
        end.saturating_sub(pos_first) <= POSITIONS_MAX
    }
}

/// Where one position lies; 24 bytes, since a full spool holds some hundred thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of the head, in the file.
    pub(super) offset: u32,
    /// Payload bytes; 0 = destroyed.
    pub(super) len: u32,
    /// What it accounts for. Of a hole, its first position carries the volume of all.
    pub(super) n_lines: u32,
    pub(super) n_bytes: u64,
}

impl Entry {
    fn new(offset: u64, len: u32, volume: Volume) -> Self {
        let n_lines = u32::try_from(volume.n_lines).unwrap_or(u32::MAX);
        Self { offset: offset as u32, len, n_lines, n_bytes: volume.n_bytes }
    }

    pub(super) fn volume(&self) -> Volume {
        Volume { n_lines: self.n_lines.into(), n_bytes: self.n_bytes }
    }
}

/// One file, as known in memory.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) epoch: u64,
    pub(super) format: Format,
    pub(super) pos_first: u64,
    /// What all records before it account for.
    pub(super) before: Volume,
    /// One per position from `pos_first`.
    pub(super) entries: Vec<Entry>,
    /// Bytes up to the end of the last sound record.
    pub(super) len: u64,
    /// When its first and its newest record were written.
    pub(super) at_first_ms: i64,
    pub(super) at_last_ms: i64,
}

/// Positions whose records are destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destroyed {
    /// The first one.
    pub(super) pos: u64,
    pub(super) n: u64,
    /// What all of them accounted for.
    pub(super) volume: Volume,
}

/// What a scan found out besides the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Highest acked position any record mentions.
    pub(super) acked: u64,
    /// Destroyed, and not yet marked by holes.
    pub(super) destroyed: Vec<Destroyed>,
    /// Bytes after the last sound record.
    pub(super) n_bytes_torn: u64,
    /// Holes to write over what was destroyed, so that it is counted once and not at each start.
    pub(super) holes: Vec<(u64, Head)>,
}

impl Segment {
    pub(super) fn pos_end(&self) -> u64 {
        self.pos_first + self.entries.len() as u64
    }

    /// What its records account for.
    pub(super) fn volume(&self) -> Volume {
        self.entries.iter().map(Entry::volume).sum()
    }

    pub(super) fn entry(&self, pos: u64) -> Option<Entry> {
        let ix = usize::try_from(pos.checked_sub(self.pos_first)?).ok()?;
        self.entries.get(ix).copied()
    }

    /// Creates the file with its header; on disk when it returns.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        epoch: u64,
        pos_first: u64,
        before: Volume,
    ) -> io::Result<(Self, File)> {
        let path = dir.join(format!("{pos_first:020}.seg"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let header = encode_header(epoch, pos_first, before);
        let written = disk
            .write_all_at(&file, &header, 0)
            .and_then(|()| disk.sync(&file))
            .and_then(|()| disk.sync_directory_of(&path));
        if let Err(error) = written {
            drop(std::fs::remove_file(&path)); // no header, no records: nothing is lost with it
            return Err(error);
        }
        let segment = Self {
            path,
            epoch,
            format: Format::V2,
            pos_first,
            before,
            entries: Vec::new(),
            len: HEADER_BYTES as u64,
            at_first_ms: i64::MAX,
            at_last_ms: i64::MIN,
        };
        Ok((segment, file))
    }

    /// Adds a record (or a hole of `head.acked` positions) after the last one; synced on return.
    ///
    /// On an error the file is cut back to what it was, as far as the disk lets us; the next
    /// append overwrites the rest in any case, since it writes at the same offset.
    pub(super) fn append(
        &mut self,
        disk: &dyn Disk,
        file: &File,
        head: &Head,
        payload: &[u8],
    ) -> io::Result<()> {
        assert_eq!(head.format, self.format, "all records of a file are alike");
        let mut bytes = head.encode();
        bytes.extend_from_slice(payload);
        let written = disk.write_all_at(file, &bytes, self.len).and_then(|()| disk.sync(file));
        if let Err(error) = written {
            drop(file.set_len(self.len));
            return Err(error);
        }
        self.admit(head, self.len);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The payload of a live entry; `None` when its bytes are no longer what was written.
    pub(super) fn read(
        format: Format,
        file: &File,
        pos: u64,
        entry: Entry,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; format.record_bytes() + entry.len as usize];
        match file.read_exact_at(&mut bytes, u64::from(entry.offset)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let head = Head::decode(&bytes).filter(|h| !h.is_hole && h.pos == pos);
        let payload = bytes.split_off(format.record_bytes());
        let sound = head.is_some_and(|h| h.payload_crc == crc32c::crc32c(&payload));
        Ok(sound.then_some(payload))
    }

    /// Finds every sound record in the bytes of a whole file of the spool, whatever its state.
    ///
    /// `None` = not even a header and no record; an error is the version of a newer program that
    /// wrote it. `is_last` decides what a bad end is: a write that was cut short, or destroyed
    /// records.
    pub(super) fn scan(
        path: &Path,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<Option<(Self, Findings)>, u32> {
        let named = pos_of(path);
        let header = match decode_header(bytes) {
            Ok(header) if named.is_none_or(|pos| pos == header.pos_first) => header,
            Err(Some(version)) => return Err(version),
            // The name says it too, and the records know their own position.
            Ok(_) | Err(None) => {
                let is_near = |head: &Head| named.is_some_and(|pos| head.fits(pos));
                let first = named.and_then(|pos| Some((pos, find_head(bytes, 0, pos, is_near)?)));
                let Some((pos_first, (_, head))) = first else { return Ok(None) };
                Header { format: head.format, epoch: 0, pos_first, before: None }
            }
        };
        let mut segment = Self {
            path: path.to_owned(),
            epoch: header.epoch,
            format: header.format,
            pos_first: header.pos_first,
            before: header.before.unwrap_or_default(),
            entries: Vec::new(),
            len: header.format.header_bytes() as u64,
            at_first_ms: i64::MAX,
            at_last_ms: i64::MIN,
        };
        let findings = segment.scan_records(bytes, is_last, header.before);
        Ok(Some((segment, findings)))
    }

    fn scan_records(&mut self, bytes: &[u8], is_last: bool, mut known: Option<Volume>) -> Findings {
        let record_bytes = self.format.record_bytes();
        let mut found = Findings::default();
        let mut at = self.format.header_bytes().min(bytes.len());
        while let Some((start, head)) = self.find_head(bytes, at, self.pos_end()) {
            let end = start + record_bytes + head.len as usize;
            let payload = bytes.get(start + record_bytes..end);
            let sound =
                head.is_hole || payload.is_some_and(|p| crc32c::crc32c(p) == head.payload_crc);
            if !sound && is_last && self.find_head(bytes, start + 1, head.pos + 1).is_none() {
                break; // the last write never finished
            }
            // Without a header the volume of what is missing before the first sound head is unknown.
            let before = known.unwrap_or(head.before);
            if self.entries.is_empty() {
                self.before = before;
            }
            let missing = Head {
                is_hole: true,
                len: (start - at).saturating_sub(record_bytes) as u32,
                pos: self.pos_end(),
                before,
                acked: head.pos - self.pos_end(),
                volume: head.before.minus(before),
                payload_crc: 0,
                ..head
            };
            if missing.acked > 0 {
                self.admit(&missing, at as u64);
                found.destroyed(&missing, at, start - at >= record_bytes);
            }
            if sound {
                self.admit(&head, start as u64);
            } else {
                let len = if payload.is_some() { head.len } else { 0 };
                let hole = Head { is_hole: true, len, acked: 1, payload_crc: 0, ..head };
                self.admit(&hole, start as u64);
                found.destroyed(&hole, start, true);
            }
            if !head.is_hole && head.acked <= POSITION_MAX {
                found.acked = found.acked.max(head.acked);
            }
            known = Some(head.before.plus(head.volume));
            // With its end cut off in the middle of a file, the next head is somewhere inside.
            at = if payload.is_some() { end } else { start + record_bytes };
            self.len = at as u64;
        }
        found.n_bytes_torn = (bytes.len() as u64).saturating_sub(self.len);
        found
    }

    /// As the function of this name, of the records this file holds.
    fn find_head(&self, bytes: &[u8], from: usize, pos: u64) -> Option<(usize, Head)> {
        find_head(bytes, from, pos, |head| head.format == self.format && head.fits(self.pos_first))
    }

    /// Notes a head that lies at `offset`.
    pub(super) fn admit(&mut self, head: &Head, offset: u64) {
        if head.is_hole {
            for ix in 0..head.acked {
                let volume = if ix == 0 { head.volume } else { Volume::default() };
                self.entries.push(Entry::new(offset, 0, volume));
            }
            return;
        }
        self.entries.push(Entry::new(offset, head.len, head.volume));
        self.at_first_ms = self.at_first_ms.min(head.at_ms);
        self.at_last_ms = self.at_last_ms.max(head.at_ms);
    }
}

impl Findings {
    fn destroyed(&mut self, hole: &Head, at: usize, fits: bool) {
        let (pos, n, volume) = (hole.pos, hole.acked, hole.volume);
        self.destroyed.push(Destroyed { pos, n, volume });
        if fits {
            self.holes.push((at as u64, *hole));
        }
    }
}

/// What stands at the start of a file.
struct Header {
    format: Format,
    epoch: u64,
    pos_first: u64,
    /// `None` when the header is destroyed.
    before: Option<Volume>,
}

fn encode_header(epoch: u64, pos_first: u64, before: Volume) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    for number in [epoch, pos_first, before.n_lines, before.n_bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// `Err(Some(version))` when a newer program wrote a sound header.
fn decode_header(bytes: &[u8]) -> Result<Header, Option<u32>> {
    let is_sound = |n_bytes: usize| {
        let parts = bytes.get(..n_bytes).and_then(<[u8]>::split_last_chunk::<4>);
        parts.is_some_and(|(head, crc)| crc32c::crc32c(head) == u32::from_le_bytes(*crc))
    };
    if bytes.first_chunk() != Some(MAGIC) || bytes.len() < Format::V1.header_bytes() {
        return Err(None);
    }
    let format = match u32_at(bytes, 8) {
        1 => Format::V1,
        VERSION => Format::V2,
        // Where a later one ends is not known here, but that it ends with its checksum.
        version => {
            let is_newer = version > VERSION && HEADERS_NEWER.step_by(4).any(is_sound);
            return Err(is_newer.then_some(version));
        }
    };
    if !is_sound(format.header_bytes()) {
        return Err(None);
    }
    let number = |ix: usize| u64_at(bytes, 12 + 8 * ix);
    let n_bytes = if format == Format::V1 { 0 } else { number(3) };
    let numbers = [number(1), number(2), n_bytes];
    if number(1) == 0 || numbers.iter().any(|number| *number >= NUMBER_MAX) {
        return Err(None);
    }
    let before = Some(Volume { n_lines: number(2), n_bytes });
    Ok(Header { format, epoch: number(0), pos_first: number(1), before })
}

/// The next sound head at or after `from` that can follow: of position `pos` or a little later.
fn find_head(
    bytes: &[u8],
    from: usize,
    pos: u64,
    fits: impl Fn(&Head) -> bool,
) -> Option<(usize, Head)> {
    let follows = |at: usize| {
        let head = Head::decode(&bytes[at..]).filter(&fits)?;
        (head.pos.checked_sub(pos)? < HOLE_MAX).then_some((at, head))
    };
    if let found @ Some(_) = bytes.get(from..).and_then(|_| follows(from)) {
        return found; // the usual case: no search
    }
    memchr::memmem::find_iter(bytes.get(from..)?, b"GW").find_map(|at| follows(from + at))
}

/// The first position as the file's name says it.
pub(super) fn pos_of(path: &Path) -> Option<u64> {
    let pos = path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()?;
    (1..NUMBER_MAX).contains(&pos).then_some(pos)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
