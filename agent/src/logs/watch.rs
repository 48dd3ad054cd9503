//! Wakes the gather thread when something happens in the directories of followed logs.
//!
//! One inotify watch per directory, none per file and no thread. inotify only shortens the wait:
//! every file is looked at each second anyway, which also covers what it does not report (network
//! file systems, a directory on the way to a log that was exchanged).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;

const EVENTS: WatchMask = WatchMask::MODIFY
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// The watched directories; without inotify it never wakes anybody.
pub struct Watch {
    inotify: Option<AsyncFd<Inotify>>,
    /// The number of each directory ever given.
    numbers: BTreeMap<PathBuf, usize>,
    /// The live watch of each directory, by number.
    watches: Vec<Option<WatchDescriptor>>,
    /// Directories of a watch: several paths may lead to one.
    by_descriptor: HashMap<WatchDescriptor, Vec<usize>>,
    buffer: Vec<u8>,
    has_warned: bool,
}

/// What happened, as far as it is known.
pub enum Event<'e> {
    /// A file was written, created, renamed or removed.
    File {
        /// Number that [`Watch::add`] gave it.
        directory: usize,
        /// Of the file.
        name: &'e OsStr,
        /// Not merely written.
        is_name_change: bool,
    },
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
            by_descriptor: HashMap::new(),
            buffer: vec![0; 16 << 10],
            has_warned: false,
        }
    }

    /// True when every directory given to [`Watch::add`] so far reports its events.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inotify.is_some() && !self.has_warned
    }

    /// Watches a directory; again and again is fine. A missing directory is no error: it is given
    /// again when the log appears. Returns the number by which events name it.
    pub fn add(&mut self, directory: &Path) -> usize {
        let known = self.numbers.get(directory).copied();
        let number = known.unwrap_or_else(|| {
            self.watches.push(None);
            self.numbers.insert(directory.to_owned(), self.watches.len() - 1);
            self.watches.len() - 1
        });
        let Some(inotify) = self.inotify.as_ref() else { return number };
        if self.watches[number].is_some() {
            return number;
        }
        match inotify.get_ref().watches().add(directory, EVENTS) {
            Ok(descriptor) => {
                self.by_descriptor.entry(descriptor.clone()).or_default().push(number);
                self.watches[number] = Some(descriptor);
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        directory = %directory.display(),
                        "too many inotify watches: logs are looked at four times a second; \
                         raise the sysctl fs.inotify.max_user_watches"
                    );
                }
            }
            Err(_) => {} // the look at the log itself says what is wrong
        }
        number
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
                if event.mask.contains(EventMask::IGNORED) {
                    removed.push(event.wd);
                    continue;
                }
                if event.mask.contains(EventMask::MOVE_SELF) {
                    moved.push(event.wd);
                    continue;
                }
                let directories = self.by_descriptor.get(&event.wd);
                for directory in directories.into_iter().flatten() {
                    match event.name {
                        Some(name) => on_event(&Event::File {
                            directory: *directory,
                            name,
                            is_name_change: event.mask != EventMask::MODIFY,
                        }),
                        None => on_event(&Event::Unknown),
                    }
                }
                if directories.is_none() || event.mask.contains(EventMask::Q_OVERFLOW) {
                    on_event(&Event::Unknown);
                }
            }
        }
        for descriptor in moved {
            // Another directory may have its name by now. An error means that it is gone as well.
            inotify.get_ref().watches().remove(descriptor.clone()).ok();
            removed.push(descriptor);
        }
        for descriptor in removed {
            for number in self.by_descriptor.remove(&descriptor).into_iter().flatten() {
                self.watches[number] = None;
            }
            on_event(&Event::Unknown);
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
