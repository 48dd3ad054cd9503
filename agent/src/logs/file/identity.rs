//! Which file a file is: its number, and its size and times where numbers cannot be trusted.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use wire::UnixMillis;

use super::{HEAD_BYTES_MIN, Input, Open, SAME_TRIES};
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

impl Open {
    /// True when the file at the path is this one by its number, and the file system does not give
    /// the same number to another one; or by its times, if it numbers its files anew.
    pub(in crate::logs) fn is_it(&mut self, key: FileKey, stamp: Stamp, path: &Path) -> bool {
        if key != self.key {
            return self.is_at(path);
        }
        if self.stamp == Some(stamp) || self.own_stamp() == Some(stamp) || self.is_at(path) {
            return true;
        }
        // Written all the time, or another file: then that does not begin like ours.
        for _ in 0..SAME_TRIES {
            let Ok(other) = Self::new(path) else { return true }; // the next look tells
            if self.first_bytes().is_ok_and(|head| head.starts_with(&other.head)) {
                return true;
            }
        }
        false
    }

    /// True when it was written at most this long before `at`, as far as its times tell.
    pub(in crate::logs) fn was_written_since(&self, at: UnixMillis, span: Duration) -> bool {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let written_ms = |stamp: Stamp| stamp.modified.0.saturating_mul(1000);
        self.own_stamp().is_some_and(|stamp| written_ms(stamp) >= at.0.saturating_sub(span_ms))
    }

    fn own_stamp(&self) -> Option<Stamp> {
        match &self.input {
            Input::Plain(file) => file.metadata().ok().map(|meta| Stamp::of(&meta)),
            Input::Packed(_) => None,
        }
    }

    /// True when the file at the path is this one, whatever number the file system gives it: no two
    /// files that hold anything have the same times of change and size for long.
    pub(in crate::logs) fn is_at(&self, path: &Path) -> bool {
        let Input::Plain(file) = &self.input else { return false };
        for _ in 0..SAME_TRIES {
            // A write between the calls changes the file, so it has to be still for a moment.
            let (Ok(before), Ok(own), Ok(after)) =
                (std::fs::metadata(path), file.metadata(), std::fs::metadata(path))
            else {
                return false;
            };
            if Stamp::of(&before) == Stamp::of(&after) {
                let tells = self.head.len() >= HEAD_BYTES_MIN || key_of(&own) != self.key;
                return tells && Stamp::of(&own) == Stamp::of(&before);
            }
        }
        false
    }
}

/// True when two paths of one number lead to one file; that may be written meanwhile.
pub(in crate::logs) fn are_same(one: &Path, other: &Path) -> bool {
    let stamp = |path| std::fs::metadata(path).map(|meta| Stamp::of(&meta)).ok();
    for _ in 0..SAME_TRIES {
        let (before, of_other, after) = (stamp(one), stamp(other), stamp(one));
        if before == after {
            return before == of_other;
        }
    }
    true
}
