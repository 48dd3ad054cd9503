//! Which file a file is: its number, and its size and times where numbers cannot be trusted.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::logs::checkpoint::FileKey;

/// Identity of a file, whatever its name.
pub(in crate::logs) fn key_of(meta: &Metadata) -> FileKey {
    #[cfg(test)]
    if let Some(inode) = super::lies::inode() {
        return FileKey { device: meta.dev(), inode };
    }
    FileKey { device: meta.dev(), inode: meta.ino() }
}

/// What changes with every write: size, times of writing and of change in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs) struct Stamp {
    pub(in crate::logs) size: u64,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(in crate::logs) fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// True when two paths of one number lead to one file; that may be written meanwhile.
pub(in crate::logs) fn are_same(one: &Path, other: &Path) -> bool {
    let stamp = |path| std::fs::metadata(path).map(|meta| Stamp::of(&meta)).ok();
    for _ in 0..super::SAME_TRIES {
        let (before, of_other, after) = (stamp(one), stamp(other), stamp(one));
        if before == after {
            return before == of_other;
        }
    }
    true
}
