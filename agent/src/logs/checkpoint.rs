//! How far each log is covered: one small file, replaced atomically.
//!
//! ```text
//! "GWCKPT\n\0" | version u32 | len u32 | payload, len bytes | crc32c of all before it u32
//! payload      first_start_ms i64 | saved_ms i64 | spool position u64 | n u32
//! n times      is_done u8 | path_len u16 | path | device u64 | inode u64
//!              | fingerprint u64 | fingerprint_bytes u32 | offset u64
//! ```
//! Numbers are little-endian. Spooled batches carry the same offsets, so the file may be older than
//! the spool: at start every record after the position is applied to it.
//!
//! Where a log begins that is in neither: one that was there before the agent's first start is
//! followed from its end, one that appeared later is read from its start.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use wire::UnixMillis;

const MAGIC: &[u8; 8] = b"GWCKPT\n\0";
const VERSION: u32 = 1;

/// What a file is, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`; file systems hand it out again after a deletion, hence the fingerprint.
    pub inode: u64,
}

/// Hash of the first bytes of a file, to tell a file from a later one with its inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// FNV-1a, 64 bit.
    pub hash: u64,
    /// Bytes it covers, at most [`Fingerprint::BYTES_MAX`]; 0 matches every file.
    pub bytes: u32,
}

impl Fingerprint {
    /// Most bytes a fingerprint covers: two lines of a log with their times.
    pub const BYTES_MAX: usize = 256;

    /// Of the first bytes of a file.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        let head = &head[..head.len().min(Self::BYTES_MAX)];
        let hash = head.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { hash, bytes: head.len() as u32 }
    }

    /// True when a file that begins with `head` (all of its first bytes) has this fingerprint.
    #[must_use]
    pub fn matches(self, head: &[u8]) -> bool {
        self.bytes == 0
            || head.get(..self.bytes as usize).is_some_and(|head| Self::of(head) == self)
    }
}

/// How far one file is covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Path it is followed under; a rotated file keeps the path it had.
    pub path: PathBuf,
    /// Which file.
    pub key: FileKey,
    /// Of its first bytes.
    pub fingerprint: Fingerprint,
    /// First byte not covered; always the start of a line.
    pub offset: u64,
    /// Rotated and read to its end: only remembered so that it is never read again.
    pub is_done: bool,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// When this agent first started here.
    pub first_start_at: UnixMillis,
    /// Everything that had a name before this is known; a little before it was written.
    pub saved_at: UnixMillis,
    /// Last spooled record whose offsets are in here.
    pub spool_pos: u64,
    /// Every file known.
    pub positions: Vec<Position>,
}

/// Why a checkpoint could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk's fault.
    #[error("cannot {what} checkpoint {}", path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not what was written; the caller falls back to the spooled records.
    #[error("checkpoint {} is corrupt: {reason}", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Checkpoint {
    /// Reads the file; `None` when there is none yet.
    pub fn load(path: &Path) -> Result<Option<Self>, CheckpointError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(CheckpointError::Io { what: "read", path: path.to_owned(), source });
            }
        };
        let corrupt = |reason| CheckpointError::Corrupt { path: path.to_owned(), reason };
        Self::decode(&bytes).map(Some).map_err(corrupt)
    }

    /// Replaces the file: after a crash it is the old or the new one, never a mixture.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        crate::files::replace(path, &self.encode(), 0o600).map_err(|source| CheckpointError::Io {
            what: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Takes over newer positions: the same file moves on, an unknown one is added. A path that is
    /// not UTF-8 stays as it was: batches can only carry it approximately.
    pub fn apply(&mut self, newer: &[Position]) {
        let mut known: BTreeMap<FileKey, usize> =
            self.positions.iter().enumerate().map(|(ix, p)| (p.key, ix)).collect();
        for position in newer {
            let ix = *known.entry(position.key).or_insert_with(|| {
                self.positions.push(position.clone());
                self.positions.len() - 1
            });
            let known = &mut self.positions[ix];
            let is_same_path = known.path.to_string_lossy() == position.path.to_string_lossy();
            let path = if is_same_path { known.path.clone() } else { position.path.clone() };
            *known = Position { path, ..position.clone() };
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(28 + self.positions.len() * 128);
        payload.extend_from_slice(&self.first_start_at.0.to_le_bytes());
        payload.extend_from_slice(&self.saved_at.0.to_le_bytes());
        payload.extend_from_slice(&self.spool_pos.to_le_bytes());
        payload.extend_from_slice(&(self.positions.len() as u32).to_le_bytes());
        for position in &self.positions {
            let path = position.path.as_os_str().as_bytes();
            let path = &path[..path.len().min(usize::from(u16::MAX))];
            payload.push(u8::from(position.is_done));
            payload.extend_from_slice(&(path.len() as u16).to_le_bytes());
            payload.extend_from_slice(path);
            payload.extend_from_slice(&position.key.device.to_le_bytes());
            payload.extend_from_slice(&position.key.inode.to_le_bytes());
            payload.extend_from_slice(&position.fingerprint.hash.to_le_bytes());
            payload.extend_from_slice(&position.fingerprint.bytes.to_le_bytes());
            payload.extend_from_slice(&position.offset.to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(payload.len() + 20);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let body = bytes.strip_prefix(MAGIC).ok_or("it does not begin like a checkpoint")?;
        let mut header = Reader(body);
        if header.u32()? != VERSION {
            return Err("its version is not one this agent reads");
        }
        let len = header.u32()? as usize;
        if header.0.len() != len + 4 {
            return Err("it is cut short or too long");
        }
        let (sealed, crc) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(sealed).to_le_bytes() != crc {
            return Err("its checksum is wrong");
        }
        let mut reader = Reader(&header.0[..len]);
        let mut checkpoint = Self {
            first_start_at: UnixMillis(reader.u64()?.cast_signed()),
            saved_at: UnixMillis(reader.u64()?.cast_signed()),
            spool_pos: reader.u64()?,
            positions: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            let is_done = reader.take(1)?[0] != 0;
            let path_len = u16::from_le_bytes(reader.array()?);
            checkpoint.positions.push(Position {
                path: OsStr::from_bytes(reader.take(usize::from(path_len))?).into(),
                key: FileKey { device: reader.u64()?, inode: reader.u64()? },
                fingerprint: Fingerprint { hash: reader.u64()?, bytes: reader.u32()? },
                offset: reader.u64()?,
                is_done,
            });
        }
        Ok(checkpoint)
    }
}

/// Reads numbers off the front of a slice.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], &'static str> {
        let (front, rest) = self.0.split_at_checked(n).ok_or("an entry is cut short")?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N).map(|front| front.try_into().expect("take returns exactly N bytes"))
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Checkpoint {
        let position = |path: &str, inode| Position {
            path: path.into(),
            key: FileKey { device: 8, inode },
            fingerprint: Fingerprint::of(path.as_bytes()),
            offset: inode * 1000,
            is_done: inode == 2,
        };
        Checkpoint {
            first_start_at: UnixMillis(1),
            saved_at: UnixMillis(-2),
            spool_pos: u64::MAX,
            positions: vec![position("/var/log/a", 1), position("/var/log/\u{fc}", 2)],
        }
    }

    #[test]
    fn a_saved_checkpoint_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        assert_eq!(Checkpoint::load(&path).unwrap(), None);
        for positions in [example().positions, Vec::new()] {
            let checkpoint = Checkpoint { positions, ..example() };
            checkpoint.save(&path).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap(), Some(checkpoint));
        }
    }

    #[test]
    fn version_1_is_read_as_it_was_written() {
        let mut bytes = b"GWCKPT\n\0\x01\0\0\0\x1c\0\0\0".to_vec();
        bytes.extend_from_slice(&[7; 24]);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let sevens = 0x0707_0707_0707_0707;
        let read = Checkpoint::decode(&bytes).unwrap();
        assert_eq!((read.spool_pos, read.first_start_at.0), (sevens, sevens as i64));
    }

    #[test]
    fn every_damage_is_noticed() {
        let good = example().encode();
        for ix in 0..good.len() {
            let mut bad = good.clone();
            bad[ix] ^= 0x20;
            assert!(Checkpoint::decode(&bad).is_err(), "bit flip in byte {ix}");
            assert!(Checkpoint::decode(&good[..ix]).is_err(), "cut to {ix} bytes");
        }
        let longer = [good.as_slice(), b"x"].concat();
        assert!(Checkpoint::decode(&longer).is_err());
    }

    #[test]
    fn newer_positions_move_known_files_on_and_add_unknown_ones() {
        let mut checkpoint = example();
        let moved = Position { offset: 5, ..checkpoint.positions[0].clone() };
        let added = Position { key: FileKey { device: 8, inode: 3 }, ..moved.clone() };
        checkpoint.apply(&[added.clone(), moved.clone(), added.clone()]);
        assert_eq!(checkpoint.positions, [moved, example().positions[1].clone(), added]);
    }

    #[test]
    fn a_fingerprint_matches_a_file_that_grew_and_no_other() {
        let print = Fingerprint::of(b"first line\n");
        assert!(print.matches(b"first line\nsecond line\n"));
        assert!(!print.matches(b"First line\nsecond line\n"));
        assert!(!print.matches(b"first"), "a shorter file is another one");
        assert!(Fingerprint::default().matches(b""));
        let long = vec![b'a'; 1000];
        assert_eq!(Fingerprint::of(&long).bytes, 256);
    }
}
