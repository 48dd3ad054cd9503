//! A file that only takes space: given up when the disk is full, so that deleting can begin.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The ballast is made only where so many times its size is free.
const FREE_FACTOR: u64 = 8;

/// The ballast of one data directory.
pub(super) struct Ballast {
    path: PathBuf,
    n_bytes: u64,
}

impl Ballast {
    /// Describes a ballast of `n_bytes` in `dir`; 0 means none.
    pub(super) fn new(dir: &Path, n_bytes: u64) -> Self {
        Self { path: dir.join("ballast"), n_bytes }
    }

    /// Bytes free on the disk, for an unprivileged user; 0 when that cannot be found out.
    pub(super) fn free_bytes(&self) -> u64 {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        statvfs(dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Makes the file where it is missing and the disk has plenty; true when it made it.
    ///
    /// Not being able to is no failure: the ballast is a convenience.
    pub(super) fn take(&self) -> bool {
        let plenty = self.free_bytes() >= self.n_bytes.saturating_mul(FREE_FACTOR);
        if self.n_bytes == 0 || self.path.exists() || !plenty {
            return false;
        }
        let made = File::create_new(&self.path)
            .is_ok_and(|file| fallocate(&file, FallocateFlags::empty(), 0, self.n_bytes).is_ok());
        if !made {
            self.give_up();
        }
        made
    }

    /// Removes the file; the bytes it gave back, 0 when there was none.
    pub(super) fn give_up(&self) -> u64 {
        std::fs::remove_file(&self.path).map_or(0, |()| self.n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_is_taken_once_and_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 4096);
        assert_eq!([ballast.take(), ballast.take()], [true, false]);
        assert_eq!(std::fs::metadata(dir.path().join("ballast")).unwrap().len(), 4096);
        assert_eq!([ballast.give_up(), ballast.give_up()], [4096, 0]);
        assert!(!Ballast::new(dir.path(), u64::MAX / FREE_FACTOR).take(), "no room for it");
        assert!(!Ballast::new(dir.path(), 0).take());
    }
}
