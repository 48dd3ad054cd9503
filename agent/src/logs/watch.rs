//! Wakes the gather thread when something happens in the directories of followed logs.
//!
//! One inotify watch per directory for names, one per file for writes, no thread. A file that is
//! written all the time is read in every round anyway; its watch is taken away meanwhile, since an
//! event for each line would cost its writer and us more than the line. inotify only shortens the
//! wait: every file is looked at each second anyway, which also covers what it does not report
//! (network file systems, a directory on the way to a log that was exchanged).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;

const NAMES: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// Configurations are also edited in place.
const NAMES_AND_WRITES: WatchMask = NAMES.union(WatchMask::CLOSE_WRITE);

/// The watched directories; without inotify it never wakes anybody.
pub struct Watch {
    inotify: Option<AsyncFd<Inotify>>,
    /// The number of each directory ever given.
    numbers: BTreeMap<PathBuf, usize>,
    /// The live watch of each directory, by number.
    watches: Vec<Option<WatchDescriptor>>,
    /// Directories of configurations, by number.
    configs: BTreeSet<usize>,
    /// Directories of a watch: several paths may lead to one.
    by_descriptor: HashMap<WatchDescriptor, Vec<usize>>,
    /// Logs of a watch: several paths may lead to one.
    logs: HashMap<WatchDescriptor, Vec<usize>>,
    buffer: Vec<u8>,
    has_warned: bool,
}

/// The watch of a file, kept by who follows it.
pub type FileWatch = WatchDescriptor;

/// What happened, as far as it is known.
pub enum Event<'e> {
    /// The log of this number was written.
    Written(usize),
    /// A file was created, renamed or removed.
    Name {
        /// Number that [`Watch::add`] gave it.
        directory: usize,
        /// Of the file.
        name: &'e OsStr,
    },
    /// In a directory of configurations a file was created, renamed, removed or written.
    Config,
    /// Something; look at everything.
    Unknown,
}

impl Watch {
    /// Must be called within the runtime that will wait for it.
    #[must_use]
    #[expect(
        deprecated,
        reason = "sound here: Inotify owns its descriptor; the successor is unsafe"
    )]
    #[expect(clippy::new_without_default, reason = "makes a kernel object, needs a runtime")]
    pub fn new() -> Self {
        let inotify = Inotify::init().and_then(AsyncFd::new);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no inotify: logs are looked at four times a second instead");
        }
        Self {
            inotify: inotify.ok(),
            numbers: BTreeMap::new(),
            watches: Vec::new(),
            configs: BTreeSet::new(),
            by_descriptor: HashMap::new(),
            logs: HashMap::new(),
            buffer: vec![0; 16 << 10],
            has_warned: false,
        }
    }

    /// True when every directory given to [`Watch::add`] so far reports its events.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inotify.is_some() && !self.has_warned
    }

    /// Watches a directory of configurations, also for files that are edited in place.
    pub fn add_config(&mut self, directory: &Path) {
        let number = self.number(directory);
        if self.configs.insert(number) {
            // A watch that is there already learns what else is wanted.
            self.watches[number] = None;
        }
        self.add(directory);
    }

    /// Watches a directory; again and again is fine. A missing directory is no error: it is given
    /// again when the log appears. Returns the number by which events name it.
    pub fn add(&mut self, directory: &Path) -> usize {
        let number = self.number(directory);
        let Some(inotify) = self.inotify.as_ref() else { return number };
        if self.watches[number].is_some() {
            return number;
        }
        let mask = if self.configs.contains(&number) { NAMES_AND_WRITES } else { NAMES };
        match inotify.get_ref().watches().add(directory, mask | WatchMask::MASK_ADD) {
            Ok(descriptor) => {
                let numbers = self.by_descriptor.entry(descriptor.clone()).or_default();
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
                self.watches[number] = Some(descriptor);
            }
            Err(error) => self.note_limit(&error, directory),
        }
        number
    }

    fn number(&mut self, directory: &Path) -> usize {
        let known = self.numbers.get(directory).copied();
        known.unwrap_or_else(|| {
            self.watches.push(None);
            self.numbers.insert(directory.to_owned(), self.watches.len() - 1);
            self.watches.len() - 1
        })
    }

    /// Watches the file that has this path, for the log of this number.
    pub fn add_file(&mut self, path: &Path, log: usize) -> Option<FileWatch> {
        match self.inotify.as_ref()?.get_ref().watches().add(path, WatchMask::MODIFY) {
            Ok(descriptor) => {
                let logs = self.logs.entry(descriptor.clone()).or_default();
                if !logs.contains(&log) {
                    logs.push(log);
                }
                Some(descriptor)
            }
            Err(error) => {
                self.note_limit(&error, path);
                None
            }
        }
    }

    /// True when the watch serves no other log.
    #[must_use]
    pub fn is_own(&self, watch: &FileWatch) -> bool {
        self.logs.get(watch).is_some_and(|logs| logs.len() == 1)
    }

    /// Takes a log off a watch, and the watch away with its last log.
    pub fn remove_file(&mut self, watch: FileWatch, log: usize) {
        let Some(logs) = self.logs.get_mut(&watch) else { return };
        logs.retain(|known| *known != log);
        if logs.is_empty() {
            self.logs.remove(&watch);
            if let Some(inotify) = &self.inotify {
                // An error means that the file is gone, and the watch with it.
                drop(inotify.get_ref().watches().remove(watch));
            }
        }
    }

    fn note_limit(&mut self, error: &io::Error, path: &Path) {
        let is_limit = error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error());
        // Of other errors the look at the log itself says what is wrong.
        if is_limit && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                path = %path.display(),
                "too many inotify watches: logs are looked at four times a second; \
                 raise the sysctl fs.inotify.max_user_watches"
            );
        }
    }

    /// Returns when events wait; for ever pending without inotify. Cancel-safe: events stay queued
    /// until [`Watch::drain`] takes them.
    pub async fn ready(&self) {
        match &self.inotify {
            Some(inotify) => {
                if let Ok(guard) = inotify.readable().await {
                    drop(guard); // stays ready; `drain` clears it
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Takes all events that wait.
    pub fn drain(&mut self, mut on_event: impl FnMut(&Event<'_>)) {
        self.clear_ready();
        let Some(inotify) = self.inotify.as_mut() else { return };
        let (mut removed, mut moved) = (Vec::new(), Vec::new());
        loop {
            let events = match inotify.get_mut().read_events(&mut self.buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    on_event(&Event::Unknown);
                } else if event.mask.contains(EventMask::IGNORED) {
                    removed.push(event.wd);
                } else if event.mask.contains(EventMask::MOVE_SELF) {
                    moved.push(event.wd);
                } else if let Some(logs) = self.logs.get(&event.wd) {
                    for log in logs {
                        on_event(&Event::Written(*log));
                    }
                } else if let Some(directories) = self.by_descriptor.get(&event.wd) {
                    for directory in directories {
                        if self.configs.contains(directory) {
                            on_event(&Event::Config);
                        }
                        if event.mask.contains(EventMask::CLOSE_WRITE) {
                            continue; // logs have watches of their own
                        }
                        on_event(&event.name.map_or(Event::Unknown, |name| Event::Name {
                            directory: *directory,
                            name,
                        }));
                    }
                }
                // Else the watch was taken away, and this is from before.
            }
        }
        for descriptor in moved {
            // Another directory may have its name by now. An error means that it is gone as well.
            inotify.get_ref().watches().remove(descriptor.clone()).ok();
            removed.push(descriptor);
        }
        for descriptor in removed {
            self.logs.remove(&descriptor);
            if let Some(numbers) = self.by_descriptor.remove(&descriptor) {
                for number in numbers {
                    self.watches[number] = None;
                }
                on_event(&Event::Unknown);
            }
        }
    }

    /// Tells the runtime that nothing waits any more. Before the events are read: one that comes
    /// meanwhile then wakes us once too often, not once too seldom.
    fn clear_ready(&mut self) {
        use std::task::{Context, Poll, Waker};
        if let Some(inotify) = &self.inotify {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(mut guard)) = inotify.poll_read_ready(&mut context) {
                guard.clear_ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;

    /// Events in short: the log written, or the name.
    fn drained(watch: &mut Watch) -> Vec<String> {
        let mut seen = Vec::new();
        watch.drain(|event| {
            seen.push(match event {
                Event::Written(log) => format!("log {log}"),
                Event::Name { directory, name } => {
                    format!("{directory}/{}", name.to_string_lossy())
                }
                Event::Config => "config".to_owned(),
                Event::Unknown => "unknown".to_owned(),
            });
        });
        seen.dedup();
        seen
    }

    fn append(path: &Path) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(b"line\n").unwrap();
    }

    #[tokio::test]
    async fn writes_name_the_log_and_changes_of_names_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (log, other) = (dir.path().join("a.log"), dir.path().join("b.log"));
        append(&log);
        let mut watch = Watch::new();
        let number = watch.add(dir.path());
        assert_eq!(watch.add(dir.path()), number, "again and again is fine");
        let own = watch.add_file(&log, 7).unwrap();
        assert!(drained(&mut watch).is_empty());
        append(&log);
        append(&log);
        assert_eq!(drained(&mut watch), ["log 7"]);
        append(&other);
        assert_eq!(drained(&mut watch), [format!("{number}/b.log")]);
        append(&other);
        assert!(drained(&mut watch).is_empty(), "nobody follows it");
        fs::rename(&log, dir.path().join("a.log.1")).unwrap();
        assert_eq!(drained(&mut watch), [format!("{number}/a.log"), format!("{number}/a.log.1")]);
        append(&dir.path().join("a.log.1"));
        assert_eq!(drained(&mut watch), ["log 7"], "the watch is that of the file");
        append(&dir.path().join("a.log.1"));
        watch.remove_file(own, 7);
        append(&dir.path().join("a.log.1"));
        assert!(drained(&mut watch).is_empty(), "what came before the end is not told either");
        assert!(watch.is_complete());
    }

    #[tokio::test]
    async fn a_configuration_that_is_edited_is_told_also_where_logs_are() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("a.conf");
        append(&conf);
        let mut watch = Watch::new();
        let number = watch.add(dir.path());
        append(&conf);
        assert!(drained(&mut watch).is_empty(), "of a directory of logs names only");
        watch.add_config(dir.path());
        watch.add_config(dir.path());
        append(&conf);
        assert_eq!(drained(&mut watch), ["config"]);
        fs::rename(&conf, dir.path().join("b.conf")).unwrap();
        let told = drained(&mut watch);
        assert!(told.contains(&"config".to_owned()), "{told:?}");
        assert!(told.contains(&format!("{number}/b.conf")), "{told:?}");
    }

    #[tokio::test]
    async fn two_paths_to_one_file_share_a_watch() {
        let dir = tempfile::tempdir().unwrap();
        let (log, link) = (dir.path().join("a.log"), dir.path().join("link.log"));
        append(&log);
        fs::hard_link(&log, &link).unwrap();
        let mut watch = Watch::new();
        let first = watch.add_file(&log, 1).unwrap();
        assert!(watch.is_own(&first));
        let second = watch.add_file(&link, 2).unwrap();
        assert!(!watch.is_own(&first));
        append(&log);
        assert_eq!(drained(&mut watch), ["log 1", "log 2"]);
        watch.remove_file(first, 1);
        append(&log);
        assert_eq!(drained(&mut watch), ["log 2"]);
        watch.remove_file(second, 2);
        append(&log);
        assert!(drained(&mut watch).is_empty());
    }

    #[tokio::test]
    async fn a_directory_that_vanished_is_watched_again_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let mut watch = Watch::new();
        let number = watch.add(&logs);
        fs::remove_dir(&logs).unwrap();
        assert_eq!(drained(&mut watch), ["unknown"]);
        fs::create_dir(&logs).unwrap();
        assert_eq!(watch.add(&logs), number);
        append(&logs.join("a.log"));
        assert_eq!(drained(&mut watch), [format!("{number}/a.log")]);
    }
}
