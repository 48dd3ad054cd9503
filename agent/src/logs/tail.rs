//! Follows one log through rename rotation, copytruncate, truncation, deletion and symlink swap.
//!
//! A file is its device, inode and first bytes, never its name. When another file takes the path,
//! the old one stays open and is read on until it is quiet: nginx writes to a renamed log until it
//! is told to reopen. After that it is closed and remembered, so that it is never read twice, and
//! opened again if it grows. A restart finds rotated files by the same identity among the
//! neighbours of the path, copies (copytruncate) and `.gz` included.
//!
//! Only whole lines leave; `offset` of every position is the start of a line.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wire::UnixMillis;

use super::checkpoint::{FileKey, Position};
use super::file::{Chunk, Open, Outcome, is_compressed, is_rotated_name, key_of};
use super::sources::permission_fix;

/// A rotated file that was not written for this long is closed; it is opened again if it grows.
const ROTATED_QUIET: Duration = Duration::from_secs(60);
/// A deleted file cannot be opened again, so it is kept longer; not for ever, since an open file
/// keeps its disk space.
const DELETED_QUIET: Duration = Duration::from_secs(300);
/// Time between looks at closed rotated files.
const RETIRED_LOOK: Duration = Duration::from_secs(10);
/// Closed rotated files remembered per log for longer than [`RETIRED_KEPT`].
const RETIRED_MAX: usize = 4;
/// Until a file is this long closed, its time of writing does not tell it from an unseen one.
const RETIRED_KEPT: Duration = Duration::from_secs(600);
/// Never more than these are remembered.
const RETIRED_LIMIT: usize = 64;
/// Times of files come from a clock that ticks more coarsely than ours.
const FILE_TIME_SLACK: Duration = Duration::from_millis(20);
/// A shorter beginning does not tell one file from another.
const HEAD_BYTES_MIN: usize = 16;

/// Where a file that no checkpoint knows begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It was there before the agent's first start: what it holds is history.
    End,
    /// It appeared later: every line is news.
    Beginning,
}

/// Why a log cannot be read at the moment. It is tried again; nothing else stops.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Not there (yet).
    #[error("log {} does not exist", path.display())]
    Missing {
        /// As followed.
        path: PathBuf,
    },
    /// Needs an operator.
    #[error("may not read log {}: {fix}", path.display())]
    Permission {
        /// As followed.
        path: PathBuf,
        /// One command.
        fix: String,
    },
    /// A directory, pipe or device.
    #[error("log {} is {what}: name the log file itself", path.display())]
    NotAFile {
        /// As followed.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Anything else.
    #[error("cannot read log {}: {source}", path.display())]
    Io {
        /// As followed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Log bytes and files that vanished before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Truncations in place; also files gone at a restart before their end was read.
    pub n_truncations: u64,
    /// As far as known.
    pub n_bytes: u64,
}

/// The circumstances of a look.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// For a file that nothing is known of.
    pub start: Start,
    /// Monotonic time.
    pub now: Instant,
    /// Wall clock, to compare with the times of files.
    pub at: UnixMillis,
    /// Tells whether another tail has a file open.
    pub is_held: &'a dyn Fn(FileKey) -> bool,
}

/// One followed log. See the module.
pub struct Tail {
    path: PathBuf,
    current: Option<Open>,
    /// Files that had the path before and may still be written; oldest first.
    rotated: Vec<Open>,
    /// Closed ones, oldest first.
    retired: Vec<Retired>,
    /// The file at the path belongs to another tail (a link to the same file).
    shadow: Option<FileKey>,
    vanished: Vanished,
    /// The neighbours were searched for files of the checkpoint.
    is_recovered: bool,
    /// The last two looks, older first. A rotated file that is unknown and newer was never seen.
    looked_at: [UnixMillis; 2],
    /// When names in the directories of the log changed last.
    names_changed: Vec<Option<SystemTime>>,
    /// Where the file at the path really lies.
    link_directory: Option<PathBuf>,
    /// Shape of its name there, if that is another one.
    link_shape: Option<String>,
    retired_look_at: Option<Instant>,
}

struct Retired {
    position: Position,
    /// `None` = before this start of the agent.
    since: Option<Instant>,
    /// Where it lies; may be outdated.
    name: PathBuf,
}

impl Tail {
    /// A tail that goes on at these positions (all files known under this path), which were saved
    /// at `saved_at`.
    #[must_use]
    pub fn new(path: &Path, positions: Vec<Position>, saved_at: UnixMillis) -> Self {
        let name = path.to_owned();
        let retired =
            positions.into_iter().map(|p| Retired { position: p, since: None, name: name.clone() });
        Self {
            path: name.clone(),
            current: None,
            rotated: Vec::new(),
            retired: retired.collect(),
            shadow: None,
            vanished: Vanished::default(),
            is_recovered: false,
            looked_at: [saved_at; 2],
            names_changed: Vec::new(),
            link_directory: None,
            link_shape: None,
            retired_look_at: None,
        }
    }

    /// The path it follows.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True while a file is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.current.is_some() || !self.rotated.is_empty()
    }

    /// True while a file is open that had the path before.
    #[must_use]
    pub fn has_rotated(&self) -> bool {
        !self.rotated.is_empty()
    }

    /// First byte of the current file not handed out.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.current.as_ref().map_or(0, |open| open.offset)
    }

    /// The current file.
    #[must_use]
    pub fn key(&self) -> Option<FileKey> {
        self.current.as_ref().map(|open| open.key)
    }

    /// Every file this tail has open; nobody else can get its inode meanwhile.
    pub fn keys_open(&self) -> impl Iterator<Item = FileKey> + '_ {
        self.current.iter().chain(&self.rotated).map(|open| open.key)
    }

    /// How far every file is covered, remembered ones included.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        let retired = self.retired.iter().map(|retired| retired.position.clone());
        let open = self.rotated.iter().chain(&self.current);
        retired.chain(open.map(|open| open.position(&self.path)))
    }

    /// What vanished since the last call.
    pub fn take_vanished(&mut self) -> Vanished {
        std::mem::take(&mut self.vanished)
    }

    /// Looks which file has the path now, and after files that rotated away.
    ///
    /// Cost: one `stat` when nothing changed. An error is about the file at the path only: older
    /// ones are still read.
    pub fn look(&mut self, look: Look<'_>, buffer: &mut [u8]) -> Result<(), TailError> {
        let before = self.key();
        let found = self.look_at_path(look, buffer);
        let is_told = found.as_ref().err().is_none_or(|e| e.kind() == io::ErrorKind::NotFound);
        if is_told {
            // A new name may be a file that rotated away before it was ever seen.
            let directories = self.directories();
            let changed = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
            let names_changed: Vec<_> = directories.iter().map(changed).collect();
            let has_new_names = names_changed != self.names_changed;
            if !self.is_recovered {
                self.is_recovered = self.recover(look.is_held);
            } else if has_new_names || self.key() != before {
                let neighbours = self.neighbours().unwrap_or_default();
                self.add_unseen(&neighbours, look.is_held);
            }
            self.names_changed = names_changed;
            self.looked_at = [self.looked_at[1], look.at];
        }
        self.retire(look.now);
        if self.retired_look_at.is_none_or(|at| look.now >= at) {
            self.retired_look_at = Some(look.now + RETIRED_LOOK);
            self.look_at_retired(look.now);
        }
        found.map_err(|error| to_error(&self.path, error))
    }

    /// The next whole lines of any file of this log, older files first; `None` at the end of all.
    ///
    /// At most one buffer is read a call.
    pub fn read(&mut self, now: Instant, buffer: &mut [u8]) -> Result<Option<Chunk>, TailError> {
        for ix in 0..=self.rotated.len() {
            let is_current = ix == self.rotated.len();
            let open = if is_current { self.current.as_mut() } else { self.rotated.get_mut(ix) };
            let Some(open) = open else { continue };
            match open.read(buffer) {
                Ok(Outcome::Chunk(chunk)) => {
                    open.quiet_since = None;
                    return Ok(Some(chunk));
                }
                Ok(Outcome::End) => {
                    open.quiet_since.get_or_insert(now);
                }
                Ok(Outcome::Shrunk) => {
                    self.truncated(ix, now).map_err(|error| to_error(&self.path, error))?;
                    // Its start, and perhaps a copy of what it was, are read by the next call.
                    return Ok(Some(Chunk::default()));
                }
                Err(error) if is_current => return Err(to_error(&self.path, error)),
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot read a rotated log");
                    self.vanished.n_truncations += 1;
                    self.forget_rotated(ix, now);
                }
            }
        }
        Ok(None)
    }
}

/// Which file has the path.
impl Tail {
    fn look_at_path(&mut self, look: Look<'_>, buffer: &mut [u8]) -> io::Result<()> {
        let meta = match fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.rotated.extend(self.current.take());
                }
                return Err(error);
            }
        };
        let key = key_of(&meta);
        if let Some(current) = self.current.as_mut().filter(|current| current.key == key) {
            current.size_known = current.size_known.max(meta.len());
            return Ok(());
        }
        let is_own = self.keys_open().any(|own| own == key);
        if !is_own && (look.is_held)(key) {
            self.rotated.extend(self.current.take());
            self.shadow = Some(key);
            return Ok(());
        }
        let open = Open::open(&self.path)?;
        self.rotated.extend(self.current.take());
        let real = fs::canonicalize(&self.path).ok();
        self.link_directory = real.as_deref().map(|real| parent(real).to_owned());
        let real = real.as_deref().and_then(Path::file_name).map(OsStr::to_string_lossy);
        let own = self.path.file_name().map(OsStr::to_string_lossy);
        self.link_shape = if real == own { None } else { real.map(|name| shape(&name)) };
        let was_shadow = self.shadow.take() == Some(open.key);
        let start = if was_shadow { Start::End } else { look.start };
        self.current = Some(self.resume(open, start, buffer)?);
        Ok(())
    }

    /// Puts a newly opened file where its last reading ended.
    fn resume(&mut self, mut open: Open, start: Start, buffer: &mut [u8]) -> io::Result<Open> {
        if let Some(ix) = self.rotated.iter().position(|rotated| rotated.key == open.key) {
            return Ok(self.rotated.remove(ix)); // renamed back
        }
        let has_key = |known: &Retired| known.position.key == open.key;
        if !self.retired.iter().any(has_key) {
            if start == Start::End {
                open.seek_to_end(buffer)?;
            }
            open.is_new = true;
            return Ok(open);
        }
        let is_it = |known: &Retired| known.position.fingerprint.matches(&open.head);
        let Some(ix) = self.retired.iter().position(|known| has_key(known) && is_it(known)) else {
            // Another file with its inode, or truncated while nobody looked. What a position that
            // is not done speaks of may still lie somewhere: `recover` searches for it.
            let reused = self.retired.iter_mut().filter(|known| known.position.is_done);
            let reused = reused.filter(|known| known.position.key == open.key);
            reused.for_each(|known| known.position.key = no_key(&known.position));
            return Ok(open);
        };
        let position = &self.retired[ix].position;
        let size = open.size()?.unwrap_or(u64::MAX);
        if size < position.offset {
            self.vanished.n_truncations += 1;
        }
        open.seek(position.offset.min(size));
        self.retired.remove(ix);
        Ok(open)
    }

    /// A file (the current one, or a rotated one) shrank or begins differently: it was truncated
    /// in place.
    fn truncated(&mut self, ix: usize, now: Instant) -> io::Result<()> {
        let open = self.rotated.get_mut(ix).or(self.current.as_mut());
        let Some(open) = open else { return Ok(()) };
        let n_unread = open.n_bytes_unread();
        self.vanished.n_truncations += 1;
        let head = open.first_bytes()?;
        let size = open.size()?.unwrap_or(0);
        let n_same = head.len().min(open.head.len());
        if size <= open.offset
            && n_same >= HEAD_BYTES_MIN
            && head[..n_same] == open.head[..n_same]
            && head.contains(&b'\n')
        {
            // Cut to a part that was read already; what comes next is new.
            self.vanished.n_bytes += n_unread;
            open.head = head;
            open.seek(size);
            open.size_known = size;
            tracing::warn!(path = %self.path.display(), size, "log was cut short");
            return Ok(());
        }
        let before = open.position(&self.path);
        open.restart()?;
        let copy = self.find_copy(&before);
        let n_saved = copy.as_ref().map_or(0, Open::n_bytes_unread);
        let n_bytes_lost = n_unread.saturating_sub(n_saved);
        self.vanished.n_bytes += n_bytes_lost;
        self.rotated.extend(copy);
        // Another copy of what it was is no unseen file.
        let position = Position { key: no_key(&before), is_done: true, ..before };
        self.retired.push(Retired { position, since: Some(now), name: self.path.clone() });
        tracing::warn!(
            path = %self.path.display(),
            n_bytes_lost,
            n_bytes_found_in_copy = n_saved,
            "log was truncated in place"
        );
        Ok(())
    }
}

/// Files that rotated away.
impl Tail {
    /// Searches the neighbours for what the checkpoint knows and the path no longer has.
    ///
    /// False when the directory cannot be read: the search is tried again.
    fn recover(&mut self, is_held: &dyn Fn(FileKey) -> bool) -> bool {
        if self.retired.is_empty() && self.current.as_ref().is_none_or(|open| open.is_new) {
            return true; // nothing was ever known of this log
        }
        let neighbours = match self.neighbours() {
            Ok(neighbours) => neighbours,
            Err(error) => return error.kind() == io::ErrorKind::NotFound,
        };
        for retired in std::mem::take(&mut self.retired) {
            let position = &retired.position;
            if position.is_done {
                self.retired.push(retired);
                continue;
            }
            if position.offset == 0 && position.is_vague() {
                continue; // if it was written since, it is found by its time like an unseen one
            }
            let found = self
                .find_same_in(position, &neighbours)
                .filter(|open| !is_held(open.key))
                .or_else(|| self.find_copy_in(position, &neighbours));
            if let Some(open) = found {
                self.rotated.push(open);
            } else {
                self.vanished.n_truncations += 1;
                tracing::warn!(
                    path = %self.path.display(),
                    offset = position.offset,
                    "log was removed while the agent was stopped: what came after is lost"
                );
            }
        }
        self.add_unseen(&neighbours, is_held);
        true
    }

    /// Files that took the path and rotated away again since the last look.
    ///
    /// A copy of a known file is none of them: it is found when that file turns out truncated.
    fn add_unseen(&mut self, neighbours: &[(PathBuf, u64)], is_held: &dyn Fn(FileKey) -> bool) {
        let after = Duration::from_millis(self.looked_at[0].0.try_into().unwrap_or(0));
        let after = UNIX_EPOCH + after.saturating_sub(FILE_TIME_SLACK);
        let mut candidates = Vec::new();
        for (path, _) in neighbours.iter().filter(|(path, _)| self.is_rotated_name(path)) {
            // While a compressor works, both are there.
            let plain = path.with_extension("");
            if is_compressed(path) && neighbours.iter().any(|(other, _)| *other == plain) {
                continue;
            }
            let Ok(meta) = fs::metadata(path) else { continue };
            let key = key_of(&meta);
            let Ok(modified) = meta.modified() else { continue };
            if modified >= after && !is_held(key) {
                candidates.push((modified, path));
            }
        }
        candidates.sort();
        // What was written since they were opened tells their copies.
        self.rotated.iter_mut().chain(&mut self.current).for_each(Open::refresh_head);
        for (_, path) in candidates {
            match Open::open(path) {
                Ok(open) if self.is_known(&open) || self.is_copy_of_known(&open.head) => {}
                Ok(open) => self.rotated.push(open),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read a rotated log");
                }
            }
        }
    }

    fn is_known(&self, open: &Open) -> bool {
        self.keys_open().any(|own| own == open.key)
            || self.retired.iter().map(|retired| &retired.position).any(|position| {
                position.key == open.key && position.fingerprint.matches(&open.head)
            })
    }

    fn is_copy_of_known(&self, head: &[u8]) -> bool {
        let mut prints = self
            .current
            .iter()
            .chain(&self.rotated)
            .map(Open::fingerprint)
            .chain(self.retired.iter().map(|retired| retired.position.fingerprint));
        prints.any(|print| print.bytes as usize >= HEAD_BYTES_MIN && print.matches(head))
    }

    /// Closes rotated files that nobody writes any more.
    fn retire(&mut self, now: Instant) {
        let mut ix = 0;
        while let Some(open) = self.rotated.get(ix) {
            let limit = if open.is_frozen() {
                Duration::ZERO
            } else if open.is_deleted() {
                DELETED_QUIET
            } else {
                ROTATED_QUIET
            };
            let quiet = open.quiet_since.map(|since| now.saturating_duration_since(since));
            if quiet.is_some_and(|quiet| quiet >= limit) {
                self.forget_rotated(ix, now);
            } else {
                ix += 1;
            }
        }
    }

    /// Closes a rotated file and remembers it while it has a name.
    fn forget_rotated(&mut self, ix: usize, now: Instant) {
        let open = self.rotated.remove(ix);
        let position = Position { is_done: true, ..open.position(&self.path) };
        let is_gone = open.is_deleted();
        if is_gone {
            self.vanished.n_bytes += open.n_bytes_unread(); // half a line that nobody will finish
        } else {
            let since = Some(now);
            self.retired.push(Retired { position, since, name: self.path.clone() });
            self.retired_look_at = Some(now);
        }
        let is_old = self.retired.first().is_some_and(|oldest| {
            oldest.since.is_none_or(|since| now.saturating_duration_since(since) > RETIRED_KEPT)
        });
        let n_max = if is_old { RETIRED_MAX } else { RETIRED_LIMIT };
        if self.retired.len() > n_max && self.is_recovered {
            self.retired.remove(0);
        }
    }

    /// Opens a closed file again when it grew, forgets it when it has no name any more.
    fn look_at_retired(&mut self, now: Instant) {
        if !self.is_recovered || self.retired.is_empty() {
            return;
        }
        let mut neighbours = None;
        for mut retired in std::mem::take(&mut self.retired) {
            let since = *retired.since.get_or_insert(now);
            let has_name = retired.has_name() || {
                let neighbours = neighbours.get_or_insert_with(|| self.neighbours());
                retired.find_name(neighbours.as_deref().unwrap_or_default())
            };
            if has_name {
                match retired.reopen() {
                    Some(open) => self.rotated.push(open),
                    None => self.retired.push(retired),
                }
            } else if now < since + RETIRED_KEPT {
                // Its beginning still tells a compressed copy for a while.
                retired.position.key = no_key(&retired.position);
                self.retired.push(retired);
            }
        }
    }

    /// A copy of a file, made before that was truncated.
    fn find_copy(&self, position: &Position) -> Option<Open> {
        let mut copy = self.find_copy_in(position, &self.neighbours().unwrap_or_default())?;
        copy.size_known = copy.size().ok().flatten().unwrap_or(0);
        Some(copy)
    }

    fn find_copy_in(&self, position: &Position, neighbours: &[(PathBuf, u64)]) -> Option<Open> {
        if position.is_vague() {
            return None;
        }
        let named = neighbours.iter().filter(|(path, _)| self.is_rotated_name(path));
        let mut copies = named.filter_map(|(path, _)| open_at(path, position, false));
        copies.find(|open| !self.is_known(open))
    }

    /// The file itself under another name. What is known of a file with hardly a beginning does
    /// not tell it from another one that got its inode, so that one needs a rotated name too.
    fn find_same_in(&self, position: &Position, neighbours: &[(PathBuf, u64)]) -> Option<Open> {
        let named = neighbours.iter().filter(|(path, inode)| {
            *inode == position.key.inode && (!position.is_vague() || self.is_rotated_name(path))
        });
        let mut same = named.filter_map(|(path, _)| open_at(path, position, true));
        same.find(|open| !self.is_known(open))
    }

    /// A name that rotation makes of ours, or one like that of the file our link leads to, but for
    /// its numbers (`access-20261120.log`).
    fn is_rotated_name(&self, path: &Path) -> bool {
        let (Some(base), Some(name)) = (self.path.file_name(), path.file_name()) else {
            return false;
        };
        let (base, name) = (base.to_string_lossy(), name.to_string_lossy());
        is_rotated_name(&base, &name)
            || self.link_shape.as_ref().is_some_and(|of_link| *of_link == shape(&name))
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![parent(&self.path).to_owned()];
        if let Some(real) = self.link_directory.as_ref().filter(|real| **real != directories[0]) {
            directories.push(real.clone());
        }
        directories
    }

    /// Files beside the path, and beside what it links to, with their inodes.
    fn neighbours(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut neighbours = Vec::new();
        for directory in self.directories() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                neighbours.push((entry.path(), entry.ino()));
            }
        }
        Ok(neighbours)
    }
}

/// The key of a file that is gone, but of which there may be a compressed copy: no file has it.
fn no_key(position: &Position) -> FileKey {
    FileKey { device: 0, inode: position.fingerprint.hash }
}

/// A name without its numbers.
fn shape(name: &str) -> String {
    let mut shape = String::with_capacity(name.len());
    for c in name.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !shape.ends_with('0') {
            shape.push(c);
        }
    }
    shape
}

impl Retired {
    /// True while the file has the name it had last.
    fn has_name(&self) -> bool {
        fs::metadata(&self.name).is_ok_and(|meta| key_of(&meta) == self.position.key)
    }

    /// Finds the name the file has now; false when it has none: compressed or deleted, and perhaps
    /// another file has its inode.
    fn find_name(&mut self, neighbours: &[(PathBuf, u64)]) -> bool {
        let inode = self.position.key.inode;
        let mut named = neighbours.iter().filter(|(_, other)| *other == inode);
        let found = named.find(|(path, _)| open_at(path, &self.position, true).is_some());
        if let Some((path, _)) = found {
            self.name.clone_from(path);
        }
        found.is_some()
    }

    /// The file, if it has lines that were not read.
    fn reopen(&self) -> Option<Open> {
        let size = fs::metadata(&self.name).ok()?.len();
        if size <= self.position.offset || is_compressed(&self.name) {
            return None;
        }
        let mut open = open_at(&self.name, &self.position, true)?;
        open.has_more_lines().then_some(open)
    }
}

impl Position {
    /// Hardly a beginning: it does not tell a file from another one.
    fn is_vague(&self) -> bool {
        (self.fingerprint.bytes as usize) < HEAD_BYTES_MIN
    }
}

/// Opens a file at a position if it is the file the position speaks of, or, unless `is_same`, a
/// copy of it.
fn open_at(path: &Path, position: &Position, is_same: bool) -> Option<Open> {
    let mut open = Open::open(path).ok()?;
    let is_it = position.fingerprint.matches(&open.head)
        && (!is_same || open.key == position.key)
        && open.size().ok()?.is_none_or(|size| size >= position.offset)
        && open.is_line_start(position.offset).ok()?;
    open.seek(position.offset);
    is_it.then_some(open)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn to_error(path: &Path, error: io::Error) -> TailError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => TailError::Missing { path },
        io::ErrorKind::PermissionDenied => {
            let fix = permission_fix(&path);
            TailError::Permission { path, fix }
        }
        io::ErrorKind::InvalidInput => TailError::NotAFile { path, what: error.to_string() },
        _ => TailError::Io { path, source: error },
    }
}

#[cfg(test)]
mod tests;
