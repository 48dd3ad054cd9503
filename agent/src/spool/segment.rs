//! One file of the spool: a header, then records, each with its own checksums.
//!
//! ```text
//! header   "GWSPOOL\n" | version u32 | epoch u64 | pos_first u64 | lines_before u64
//!          | crc32c u32                                                               (40 bytes)
//! record   "GWr1" | len u32 | pos u64 | lines_before u64 | acked u64 | at_ms i64
//!          | n_lines u32 | payload crc32c u32 | crc32c of these 48 bytes u32           (52 bytes)
//!          payload, len bytes
//! hole     a record "GWx1" without payload crc: `acked` counts the positions it stands for,
//!          `len` the bytes to skip; left where records were destroyed
//! ```
//! Numbers are little-endian. Positions in a file are contiguous, holes included, and
//! `lines_before` counts all log lines of earlier records: so whatever is missing between two
//! readable records, how many records and how many lines it was is known exactly.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Format of the files written; older ones are still read.
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 40;
pub(super) const RECORD_BYTES: usize = 52;
/// Largest payload: a full batch body and its few fields beside.
pub const PAYLOAD_BYTES_MAX: usize = wire::BODY_BYTES_MAX + (64 << 10);
/// Most positions one hole may stand for; a larger number is itself damage.
pub(super) const HOLE_MAX: u64 = 1 << 20;

const MAGIC: &[u8; 8] = b"GWSPOOL\n";
const RECORD: [u8; 4] = *b"GWr1";
const HOLE: [u8; 4] = *b"GWx1";

/// Writes of the spool, so that tests can fill the disk.
pub(super) trait Disk: Send {
    /// Writes all bytes at an offset, or some of them and fails.
    fn write_all_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns once everything written is on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;
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
    pub(super) is_hole: bool,
    /// Bytes that follow.
    pub(super) len: u32,
    pub(super) pos: u64,
    /// Log lines of all records before this one.
    pub(super) lines_before: u64,
    /// Acked position when this was written; of a hole, the positions it stands for.
    pub(super) acked: u64,
    pub(super) at_ms: i64,
    pub(super) n_lines: u32,
    pub(super) payload_crc: u32,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..4].copy_from_slice(if self.is_hole { &HOLE } else { &RECORD });
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.pos.to_le_bytes());
        out[16..24].copy_from_slice(&self.lines_before.to_le_bytes());
        out[24..32].copy_from_slice(&self.acked.to_le_bytes());
        out[32..40].copy_from_slice(&self.at_ms.to_le_bytes());
        out[40..44].copy_from_slice(&self.n_lines.to_le_bytes());
        out[44..48].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..48]);
        out[48..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The head at the start of `bytes`; `None` when there is no sound one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_BYTES)?;
        let is_hole = match bytes[..4].try_into().ok()? {
            RECORD => false,
            HOLE => true,
            _ => return None,
        };
        if crc32c::crc32c(&bytes[..48]) != u32_at(bytes, 48) {
            return None;
        }
        let head = Self {
            is_hole,
            len: u32_at(bytes, 4),
            pos: u64_at(bytes, 8),
            lines_before: u64_at(bytes, 16),
            acked: u64_at(bytes, 24),
            at_ms: u64_at(bytes, 32).cast_signed(),
            n_lines: u32_at(bytes, 40),
            payload_crc: u32_at(bytes, 44),
        };
        let sound = if is_hole { head.acked <= HOLE_MAX } else { head.is_sound_record() };
        sound.then_some(head)
    }

    fn is_sound_record(&self) -> bool {
        (1..=PAYLOAD_BYTES_MAX).contains(&(self.len as usize))
    }
}

/// Where one position lies; 12 bytes, since a full spool holds some hundred thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of the head, in the file.
    pub(super) offset: u32,
    /// Payload bytes; 0 = destroyed.
    pub(super) len: u32,
    /// Of a hole, its first position carries the lines of all.
    pub(super) n_lines: u32,
}

/// One file, as known in memory.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) epoch: u64,
    pub(super) pos_first: u64,
    pub(super) lines_before: u64,
    /// One per position from `pos_first`.
    pub(super) entries: Vec<Entry>,
    /// Bytes up to the end of the last sound record.
    pub(super) len: u64,
    /// When its first and its newest record were written.
    pub(super) at_first_ms: i64,
    pub(super) at_last_ms: i64,
}

/// What a scan found out besides the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Highest acked position any record mentions.
    pub(super) acked: u64,
    /// Positions destroyed, not yet marked as holes.
    pub(super) n_corrupt: u64,
    pub(super) n_lines_corrupt: u64,
    /// Bytes after the last sound record.
    pub(super) n_bytes_torn: u64,
    /// Holes to write over what was destroyed, so that it is counted once and not at each start.
    pub(super) holes: Vec<(u64, Head)>,
}

impl Segment {
    pub(super) fn pos_end(&self) -> u64 {
        self.pos_first + self.entries.len() as u64
    }

    pub(super) fn n_lines(&self) -> u64 {
        self.entries.iter().map(|e| u64::from(e.n_lines)).sum()
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
        lines_before: u64,
    ) -> io::Result<(Self, File)> {
        let path = dir.join(format!("{pos_first:020}.seg"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let header = encode_header(epoch, pos_first, lines_before);
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
            pos_first,
            lines_before,
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
        let mut bytes = Vec::with_capacity(RECORD_BYTES + payload.len());
        bytes.extend_from_slice(&head.encode());
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
    pub(super) fn read(file: &File, pos: u64, entry: Entry) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; RECORD_BYTES + entry.len as usize];
        match file.read_exact_at(&mut bytes, u64::from(entry.offset)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let head = Head::decode(&bytes).filter(|h| !h.is_hole && h.pos == pos);
        let payload = bytes.split_off(RECORD_BYTES);
        let sound = head.is_some_and(|h| h.payload_crc == crc32c::crc32c(&payload));
        Ok(sound.then_some(payload))
    }

    /// Reads a whole file of the spool and finds every sound record in it, whatever its state.
    ///
    /// `None` = not even a header and no record. `is_last` decides what a bad end is: a write
    /// that was cut short, or destroyed records.
    pub(super) fn scan(path: &Path, is_last: bool) -> Result<Option<(Self, Findings)>, ScanError> {
        let bytes = std::fs::read(path).map_err(ScanError::Io)?;
        let (epoch, pos_first, lines_before) = match decode_header(&bytes) {
            Ok(header) => header,
            Err(Some(version)) => return Err(ScanError::Version(version)),
            // The name says it too, and the records know their own position.
            Err(None) => match pos_of(path) {
                Some(pos) if find_head(&bytes, 0, pos).is_some() => (0, pos, None),
                _ => return Ok(None),
            },
        };
        let mut segment = Self {
            path: path.to_owned(),
            epoch,
            pos_first,
            lines_before: lines_before.unwrap_or(0),
            entries: Vec::new(),
            len: HEADER_BYTES as u64,
            at_first_ms: i64::MAX,
            at_last_ms: i64::MIN,
        };
        let findings = segment.scan_records(&bytes, is_last, lines_before);
        Ok(Some((segment, findings)))
    }

    fn scan_records(&mut self, bytes: &[u8], is_last: bool, mut lines: Option<u64>) -> Findings {
        let mut found = Findings::default();
        let mut at = HEADER_BYTES.min(bytes.len());
        while let Some((start, head)) = find_head(bytes, at, self.pos_end()) {
            let end = start + RECORD_BYTES + head.len as usize;
            let payload = bytes.get(start + RECORD_BYTES..end);
            let sound =
                head.is_hole || payload.is_some_and(|p| crc32c::crc32c(p) == head.payload_crc);
            if !sound && is_last && find_head(bytes, start + 1, head.pos + 1).is_none() {
                break; // the last write never finished
            }
            // Without a header the lines of what is missing before the first sound head are unknown.
            let lines_before = lines.unwrap_or(head.lines_before);
            if self.entries.is_empty() {
                self.lines_before = lines_before;
            }
            let missing = Head {
                is_hole: true,
                len: (start - at).saturating_sub(RECORD_BYTES) as u32,
                pos: self.pos_end(),
                lines_before,
                acked: head.pos - self.pos_end(),
                n_lines: head.lines_before.saturating_sub(lines_before) as u32,
                payload_crc: 0,
                ..head
            };
            if missing.acked > 0 {
                self.admit(&missing, at as u64);
                found.destroyed(&missing, at, start - at >= RECORD_BYTES);
            }
            if sound {
                self.admit(&head, start as u64);
            } else {
                let len = if payload.is_some() { head.len } else { 0 };
                let hole = Head { is_hole: true, len, acked: 1, payload_crc: 0, ..head };
                self.admit(&hole, start as u64);
                found.destroyed(&hole, start, true);
            }
            if !head.is_hole {
                found.acked = found.acked.max(head.acked);
            }
            lines = Some(head.lines_before + u64::from(head.n_lines));
            // With its end cut off in the middle of a file, the next head is somewhere inside.
            at = if payload.is_some() { end } else { start + RECORD_BYTES };
            self.len = at as u64;
        }
        found.n_bytes_torn = (bytes.len() as u64).saturating_sub(self.len);
        found
    }

    /// Notes a head that lies at `offset`.
    pub(super) fn admit(&mut self, head: &Head, offset: u64) {
        if head.is_hole {
            for ix in 0..head.acked {
                let n_lines = if ix == 0 { head.n_lines } else { 0 };
                self.entries.push(Entry { offset: offset as u32, len: 0, n_lines });
            }
            return;
        }
        self.entries.push(Entry { offset: offset as u32, len: head.len, n_lines: head.n_lines });
        self.at_first_ms = self.at_first_ms.min(head.at_ms);
        self.at_last_ms = self.at_last_ms.max(head.at_ms);
    }
}

impl Findings {
    fn destroyed(&mut self, hole: &Head, at: usize, fits: bool) {
        self.n_corrupt += hole.acked;
        self.n_lines_corrupt += u64::from(hole.n_lines);
        if fits {
            self.holes.push((at as u64, *hole));
        }
    }
}

/// Why a file could not be taken in.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    /// Written by a newer program.
    Version(u32),
}

fn encode_header(epoch: u64, pos_first: u64, lines_before: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&epoch.to_le_bytes());
    out[20..28].copy_from_slice(&pos_first.to_le_bytes());
    out[28..36].copy_from_slice(&lines_before.to_le_bytes());
    let crc = crc32c::crc32c(&out[..36]);
    out[36..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Epoch, first position and lines before it; `Err(Some(version))` when a newer program wrote a sound header.
fn decode_header(bytes: &[u8]) -> Result<(u64, u64, Option<u64>), Option<u32>> {
    let bytes = bytes.get(..HEADER_BYTES).ok_or(None)?;
    if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..36]) != u32_at(bytes, 36) {
        return Err(None);
    }
    match u32_at(bytes, 8) {
        VERSION => Ok((u64_at(bytes, 12), u64_at(bytes, 20), Some(u64_at(bytes, 28)))),
        other => Err(Some(other)),
    }
}

/// The next sound head at or after `from` that can follow: of position `pos` or a little later.
fn find_head(bytes: &[u8], from: usize, pos: u64) -> Option<(usize, Head)> {
    let follows = |at: usize| {
        let head = Head::decode(&bytes[at..])?;
        (head.pos.checked_sub(pos)? < HOLE_MAX).then_some((at, head))
    };
    if let found @ Some(_) = bytes.get(from..).and_then(|_| follows(from)) {
        return found; // the usual case: no search
    }
    memchr::memmem::find_iter(bytes.get(from..)?, b"GW").find_map(|at| follows(from + at))
}

/// The first position as the file's name says it.
pub(super) fn pos_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
