//! Says in which folders something happened, so that a quiet server costs one system call a look.
//!
//! One inotify watch a folder and no thread: the kernel keeps the events until the next look. inotify
//! only shortens the wait. What it does not report (network file systems, a folder on the way that was
//! exchanged, one over the limit) is found by the sweep over everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

/// Watches of one agent: the oldest kernels allow a user 8,192.
const FOLDERS_MAX: usize = 1_000;
/// Reads of the kernel's queue in one look; each takes some hundred events.
const READS_MAX: usize = 64;

const MASK: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// What happened since the last question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// In these folders; often in none.
    In(BTreeSet<PathBuf>),
    /// Nobody knows where.
    Anywhere,
}

/// The watched folders.
#[derive(Debug)]
pub(super) struct Folders {
    inotify: Option<Inotify>,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
    /// Several paths may lead to one folder.
    paths: HashMap<WatchDescriptor, Vec<PathBuf>>,
    buffer: Vec<u8>,
    /// Every folder asked for is watched.
    is_complete: bool,
}

impl Folders {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init();
        if let Err(error) = &inotify {
            tracing::info!(%error, "no inotify: every file is looked at every other second instead");
        }
        Self {
            inotify: inotify.ok(),
            watches: BTreeMap::new(),
            paths: HashMap::new(),
            buffer: vec![0; 4 << 10],
            is_complete: false,
        }
    }

    /// False when something may happen in a folder that exists and is not reported.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Watches these folders and no others; one that is not there is no error.
    pub(super) fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(inotify) = &self.inotify else { return };
        let mut watches = inotify.watches();
        let gone: Vec<_> = self.watches.keys().filter(|f| !folders.contains(*f)).cloned().collect();
        for folder in gone {
            let Some(descriptor) = self.watches.remove(&folder) else { continue };
            let paths = self.paths.entry(descriptor.clone()).or_default();
            paths.retain(|path| *path != folder);
            if paths.is_empty() {
                self.paths.remove(&descriptor);
                watches.remove(descriptor).ok(); // it went with its folder
            }
        }
        self.is_complete = folders.len() <= FOLDERS_MAX;
        for folder in folders.iter().take(FOLDERS_MAX) {
            if self.watches.contains_key(folder) {
                continue;
            }
            match watches.add(folder, MASK) {
                Ok(descriptor) => {
                    self.paths.entry(descriptor.clone()).or_default().push(folder.clone());
                    self.watches.insert(folder.clone(), descriptor);
                }
                // What cannot be listed is told by who lists it.
                Err(error) if is_absent(&error) => {}
                Err(_) => self.is_complete = false,
            }
        }
    }

    /// What happened since the last call.
    pub(super) fn happened(&mut self) -> Happened {
        let Some(inotify) = &mut self.inotify else {
            return Happened::In(BTreeSet::new());
        };
        let mut folders = BTreeSet::new();
        let mut gone = Vec::new();
        for _ in 0..READS_MAX {
            let events = match inotify.read_events(&mut self.buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Happened::Anywhere,
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    return Happened::Anywhere;
                }
                folders.extend(self.paths.get(&event.wd).into_iter().flatten().cloned());
                if event.mask.contains(EventMask::IGNORED) {
                    gone.push(event.wd);
                }
            }
        }
        for descriptor in gone {
            for path in self.paths.remove(&descriptor).unwrap_or_default() {
                self.watches.remove(&path);
            }
        }
        Happened::In(folders)
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// The folders whose events tell of a file: its own, and for a link that of its target.
pub(super) fn folders_of(path: &Path, is_link: bool) -> Vec<PathBuf> {
    let target = is_link.then(|| path.canonicalize().ok()).flatten();
    let parents = [Some(path), target.as_deref()].into_iter().flatten().map(Path::parent);
    parents.flatten().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_quiet_folder_says_nothing_and_a_new_one_is_watched_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        let both: BTreeSet<_> = [a.clone(), b.clone()].into();
        let only = |folder: &PathBuf| Happened::In([folder.clone()].into());
        let nowhere = || Happened::In(BTreeSet::new());
        let mut folders = Folders::new();
        folders.watch(&both);
        assert!(folders.is_complete());
        assert_eq!(folders.happened(), nowhere());
        fs::write(a.join("x"), "1").unwrap();
        assert_eq!(folders.happened(), only(&a));
        assert_eq!(folders.happened(), nowhere());
        fs::create_dir(&b).unwrap();
        folders.watch(&both);
        fs::write(b.join("x"), "1").unwrap();
        assert_eq!(folders.happened(), only(&b));
        fs::remove_dir_all(&a).unwrap();
        assert_eq!(folders.happened(), only(&a));
        fs::create_dir(&a).unwrap();
        folders.watch(&both);
        fs::write(a.join("y"), "1").unwrap();
        assert_eq!(folders.happened(), only(&a), "a folder made anew is another one");
        folders.watch(&[b.clone()].into());
        fs::write(a.join("z"), "1").unwrap();
        assert_eq!(folders.happened(), nowhere(), "nobody asks for it any more");
    }

    #[test]
    fn a_link_is_told_of_by_its_own_folder_and_that_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("available")).unwrap();
        fs::create_dir_all(top.join("enabled")).unwrap();
        fs::write(top.join("available/a"), "").unwrap();
        let link = top.join("enabled/a");
        std::os::unix::fs::symlink("../available/a", &link).unwrap();
        assert_eq!(folders_of(&link, true), [top.join("enabled"), top.join("available")]);
        assert_eq!(folders_of(&link, false), [top.join("enabled")]);
    }
}
