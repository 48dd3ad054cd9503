//! One file as it was seen last, and whether it is another one now.
//!
//! The hash is the first 8 bytes of the SHA-256 of the content, without a key: it is the same in every
//! release and on every server, and `sha256sum FILE | cut -c1-16` prints it, so that an operator finds
//! the version before a change in a backup, and one edit rolled out to many servers is seen to be one.
//! The content cannot be had from it; only who knows a whole file but for one short secret could try
//! secrets. Files that hold little but secrets (private keys, passwords of panels) are not looked at.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ring::digest::{SHA256, digest};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// Of a larger file time and size tell whether it changed.
pub(super) const HASHED_BYTES_MAX: u64 = 4 << 20;

/// A file changed so lately is read even if its times are those we know: it may have been written
/// again within the same tick of the file system's clock. Longer than the time between two looks.
pub(super) const UNSETTLED_MS: i64 = 5000;

/// One file as it was seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    /// When content, owner or mode changed last, or a link to it was made, ms. Unlike the
    /// modification time nobody can set it, so a file copied with its times is as new as it is here.
    pub(super) changed_at: i64,
    /// Modification time, ms.
    modified_at: i64,
    size: u64,
    pub(super) inode: u64,
    /// Of its content; `None` when it may not be read or is too large.
    pub(super) hash: Option<u64>,
}

/// What the kernel says of a file without opening it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Change time, ms.
    pub(super) changed_at: i64,
    /// Modification time, ms.
    pub(super) modified_at: i64,
    pub(super) size: u64,
    pub(super) inode: u64,
}

impl Mark {
    /// True when the content is another one; where it cannot be read, when time or size are.
    pub(super) fn differs(&self, known: &Self) -> bool {
        match (self.hash, known.hash) {
            (Some(now), Some(before)) => now != before,
            _ => (self.modified_at, self.size) != (known.modified_at, known.size),
        }
    }

    /// True when nothing says that the file is another one.
    pub(super) fn is_of(&self, facts: Facts) -> bool {
        let Facts { changed_at, size, inode, .. } = facts;
        (self.changed_at, self.size, self.inode) == (changed_at, size, inode)
    }

    /// The mark of a file; its content is read, by `read`, only when something else differs.
    pub(super) fn of(
        facts: Facts,
        known: Option<&Self>,
        now_ms: i64,
        read: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Self {
        let Facts { changed_at, modified_at, size, inode } = facts;
        let is_settled = now_ms - changed_at > UNSETTLED_MS;
        if let Some(known) = known
            && is_settled
            && known.is_of(facts)
        {
            return *known;
        }
        let content = if size <= HASHED_BYTES_MAX { read().ok() } else { None };
        let content = content.filter(|bytes| bytes.len() as u64 <= HASHED_BYTES_MAX);
        Self { changed_at, modified_at, size, inode, hash: content.map(|bytes| hash(&bytes)) }
    }
}

impl Facts {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            changed_at: metadata.ctime() * 1000 + metadata.ctime_nsec() / 1_000_000,
            modified_at: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
            size: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

/// A file of the system as it is now; links are followed.
pub(super) fn inspect(path: &Path, known: Option<&Mark>, now_ms: i64) -> io::Result<Mark> {
    let link = fs::symlink_metadata(path)?;
    let (metadata, linked_at) = if link.is_symlink() {
        (fs::metadata(path)?, Facts::of(&link).changed_at)
    } else {
        (link, 0)
    };
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut facts = Facts::of(&metadata);
    facts.changed_at = facts.changed_at.max(linked_at);
    Ok(Mark::of(facts, known, now_ms, || read(path, HASHED_BYTES_MAX + 1)))
}

/// The beginning of a regular file; anything else could hold us for ever.
pub(super) fn read(path: &Path, n_bytes_max: u64) -> io::Result<Vec<u8>> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    read_regular(file, n_bytes_max)
}

/// The beginning of an open file, if it is a regular one.
pub(super) fn read_regular(file: File, n_bytes_max: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(n_bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first 8 bytes of the SHA-256, as `sha256sum | cut -c1-16` prints them.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let digest = digest(&SHA256, bytes);
    let first = digest.as_ref().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_a_named_algorithm() {
        // printf abc | sha256sum | cut -c1-16
        assert_eq!(format!("{:016x}", hash(b"abc")), "ba7816bf8f01cfea");
        assert_eq!(format!("{:016x}", hash(b"")), "e3b0c44298fc1c14");
    }

    #[test]
    fn content_decides_and_where_it_cannot_be_read_time_and_size() {
        let mark = |modified_at, size, hash| Mark { modified_at, size, hash, ..Mark::default() };
        for (now, known, want) in [
            (mark(2, 1, Some(7)), mark(1, 1, Some(7)), false),
            (mark(1, 1, Some(8)), mark(1, 1, Some(7)), true),
            (mark(1, 1, None), mark(1, 1, None), false),
            (mark(2, 1, None), mark(1, 1, None), true),
            (mark(1, 2, None), mark(1, 1, None), true),
            // The agent was given the right to read it.
            (mark(1, 1, Some(7)), mark(1, 1, None), false),
        ] {
            assert_eq!(now.differs(&known), want, "{now:?} {known:?}");
        }
    }

    #[test]
    fn a_large_file_is_not_read_and_no_pipe_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(HASHED_BYTES_MAX + 1).unwrap();
        assert_eq!(inspect(&large, None, 0).unwrap().hash, None);
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(inspect(&pipe, None, 0).is_err());
        assert!(read(&pipe, 10).is_err());
    }
}
