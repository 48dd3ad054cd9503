//! Directories as listed in one round of looks, shared by all logs that lie in them.
//!
//! When thousands of logs rotate in one directory each of them looks for files that it lost; it is
//! read once for all of them, and not once for each. The same goes for the time it last changed.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wire::UnixMillis;

use super::olddir::{self, Rules};
use crate::clock;

/// A directory that changed so shortly before it is listed may change again without it being seen:
/// times of files tick coarsely.
const SETTLED: Duration = Duration::from_millis(50);

/// Paths of one directory with their inodes, in the order of their bytes.
pub type Listing = Rc<[(PathBuf, u64)]>;

/// See the module. Made anew for each round.
#[derive(Debug, Default)]
pub struct Listings {
    by_directory: RefCell<BTreeMap<PathBuf, (SystemTime, Listing)>>,
    changed: RefCell<BTreeMap<PathBuf, Option<SystemTime>>>,
    /// Directories in it that may hold rotated files, as seen first in this round.
    named: RefCell<BTreeMap<PathBuf, Rc<[PathBuf]>>>,
    rules: OnceCell<Rules>,
}

impl Listings {
    /// When names in a directory changed last, as seen first in this round.
    pub(super) fn changed(&self, directory: &Path) -> Option<SystemTime> {
        if let Some(changed) = self.changed.borrow().get(directory) {
            return *changed;
        }
        let changed = fs::metadata(directory).and_then(|meta| meta.modified()).ok();
        self.changed.borrow_mut().insert(directory.to_owned(), changed);
        changed
    }

    /// Other directories where rotated files of this log may lie.
    pub(super) fn archives_of(&self, log: &Path, directory: &Path) -> Vec<PathBuf> {
        let known = self.named.borrow().get(directory).cloned();
        let named = known.unwrap_or_else(|| {
            let named: Rc<[PathBuf]> =
                olddir::named(&self.of(directory).unwrap_or_default()).into();
            self.named.borrow_mut().insert(directory.to_owned(), Rc::clone(&named));
            named
        });
        self.rules.get_or_init(|| Rules::load(Path::new("/etc"))).archives_of(log, &named)
    }

    /// What is in a directory now.
    pub(super) fn of(&self, directory: &Path) -> io::Result<Listing> {
        self.list(directory, clock::now())
    }

    /// `at` is the wall clock, not later than now.
    fn list(&self, directory: &Path, at: UnixMillis) -> io::Result<Listing> {
        let changed = fs::metadata(directory)?.modified()?;
        if let Some((listed, listing)) = self.by_directory.borrow().get(directory)
            && *listed == changed
        {
            return Ok(Rc::clone(listing));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            entries.push((entry.path(), entry.ino()));
        }
        entries.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
        let listing: Listing = entries.into();
        let now = UNIX_EPOCH + Duration::from_millis(at.0.try_into().unwrap_or(0));
        if now.duration_since(changed).is_ok_and(|since| since >= SETTLED) {
            let known = (changed, Rc::clone(&listing));
            self.by_directory.borrow_mut().insert(directory.to_owned(), known);
        }
        Ok(listing)
    }
}

/// The entries whose path begins with these bytes.
pub(super) fn with_prefix<'l>(
    listing: &'l [(PathBuf, u64)],
    prefix: &Path,
) -> &'l [(PathBuf, u64)] {
    let prefix = prefix.as_os_str().as_bytes();
    let from = listing.partition_point(|(path, _)| path.as_os_str().as_bytes() < prefix);
    let is_in = |(path, _): &(PathBuf, u64)| path.as_os_str().as_bytes().starts_with(prefix);
    let n = listing[from..].partition_point(is_in);
    &listing[from..from + n]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listing: &[(PathBuf, u64)]) -> Vec<&str> {
        listing.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn a_prefix_finds_all_its_names_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.log", "a.log.1", "a-1.log", "ab.log", "b.log", "A.log", "a"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let listing = Listings::default().of(dir.path()).unwrap();
        for (prefix, want) in [
            ("a", &["a", "a-1.log", "a.log", "a.log.1", "ab.log"][..]),
            ("a.log", &["a.log", "a.log.1"]),
            ("b", &["b.log"]),
            ("c", &[]),
        ] {
            assert_eq!(names(with_prefix(&listing, &dir.path().join(prefix))), want, "{prefix}");
        }
        assert_eq!(with_prefix(&listing, dir.path()).len(), 7);
    }

    #[test]
    fn a_settled_directory_is_read_once_and_a_changed_one_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"").unwrap();
        let changed = fs::metadata(dir.path()).unwrap().modified().unwrap();
        let ms = changed.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let (unsettled, settled) = (UnixMillis(ms + 10), UnixMillis(ms + 1000));
        let listings = Listings::default();
        let first = listings.list(dir.path(), unsettled).unwrap();
        let second = listings.list(dir.path(), settled).unwrap();
        assert!(!Rc::ptr_eq(&first, &second), "it may have changed in the same tick");
        assert!(Rc::ptr_eq(&second, &listings.list(dir.path(), settled).unwrap()));
        fs::write(dir.path().join("b"), b"").unwrap();
        let later = changed + Duration::from_secs(5);
        fs::File::open(dir.path()).unwrap().set_modified(later).unwrap();
        assert_eq!(names(&listings.list(dir.path(), settled).unwrap()), ["a", "b"]);
    }
}
