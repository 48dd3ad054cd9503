//! Follows one log through rename rotation, copytruncate, truncation, deletion and symlink swap.
//!
//! A file is its device, inode and first bytes, never its name. When another file takes the path,
//! the old one stays open and is read on until it is quiet: nginx writes to a renamed log until it
//! is told to reopen. After that it is closed and remembered, so that it is never read twice, and
//! opened again if it grows. A restart finds rotated files by the same identity among the
//! neighbours of the path, copies (copytruncate) and `.gz` included.
//!
//! Only whole lines leave; `offset` of every position is the start of a line.

use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

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
/// Closed rotated files remembered per log; the oldest is forgotten first.
const RETIRED_MAX: usize = 4;
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
    /// A rotated file that is unknown and newer was never seen.
    looked_at: UnixMillis,
    retired_look_at: Option<Instant>,
}

struct Retired {
    position: Position,
    /// Where it lies; may be outdated.
    name: PathBuf,
}

impl Tail {
    /// A tail that goes on at these positions (all files known under this path), which were saved
    /// at `saved_at`.
    #[must_use]
    pub fn new(path: &Path, positions: Vec<Position>, saved_at: UnixMillis) -> Self {
        let name = path.to_owned();
        let retired = positions.into_iter().map(|p| Retired { position: p, name: name.clone() });
        Self {
            path: name.clone(),
            current: None,
            rotated: Vec::new(),
            retired: retired.collect(),
            shadow: None,
            vanished: Vanished::default(),
            is_recovered: false,
            looked_at: saved_at,
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
            let has_moved = self.key() != before || self.key().is_none();
            if !self.is_recovered {
                self.is_recovered = self.recover(look.is_held);
            } else if has_moved && (self.is_open() || !self.retired.is_empty()) {
                self.add_unseen(&self.neighbours().unwrap_or_default(), look.is_held);
            }
            self.looked_at = look.at;
        }
        self.retire(look.now);
        if self.retired_look_at.is_none_or(|at| look.now >= at) {
            self.retired_look_at = Some(look.now + RETIRED_LOOK);
            self.look_at_retired();
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
                    self.truncated(ix).map_err(|error| to_error(&self.path, error))?;
                    // Its start, and perhaps a copy of what it was, are read by the next call.
                    return Ok(Some(Chunk::default()));
                }
                Err(error) if is_current => return Err(to_error(&self.path, error)),
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot read a rotated log");
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
            return Ok(open);
        }
        let is_it = |known: &Retired| known.position.fingerprint.matches(&open.head);
        let Some(ix) = self.retired.iter().position(|known| has_key(known) && is_it(known)) else {
            // Another file with its inode, or truncated while nobody looked. What a position that
            // is not done speaks of may still lie somewhere: `recover` searches for it.
            self.retired.retain(|known| !has_key(known) || !known.position.is_done);
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
    fn truncated(&mut self, ix: usize) -> io::Result<()> {
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
        if self.retired.iter().all(|retired| retired.position.is_done) {
            return true;
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
            let found = self
                .find_same_in(position, &neighbours)
                .filter(|open| !is_held(open.key))
                .or_else(|| self.find_copy_in(position, &neighbours));
            if let Some(open) = found {
                self.rotated.push(open);
            } else if position.fingerprint.bytes > 0 {
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
        let after = Duration::from_millis(self.looked_at.0.try_into().unwrap_or(0));
        let after = UNIX_EPOCH + after.saturating_sub(FILE_TIME_SLACK);
        let mut unseen = Vec::new();
        for (path, _) in neighbours.iter().filter(|(path, _)| self.is_rotated_name(path)) {
            let Ok(meta) = fs::metadata(path) else { continue };
            let key = key_of(&meta);
            let Ok(modified) = meta.modified() else { continue };
            if modified < after || meta.len() == 0 || is_held(key) || self.is_known(key) {
                continue;
            }
            match Open::open(path) {
                Ok(open) if self.is_copy_of_known(&open.head) => {}
                Ok(open) => unseen.push((modified, open)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read a rotated log");
                }
            }
        }
        unseen.sort_by_key(|(modified, _)| *modified);
        self.rotated.extend(unseen.into_iter().map(|(_, open)| open));
    }

    fn is_known(&self, key: FileKey) -> bool {
        self.keys_open().any(|own| own == key)
            || self.retired.iter().any(|retired| retired.position.key == key)
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
            self.retired.push(Retired { position, name: self.path.clone() });
            self.retired_look_at = Some(now);
        }
        if self.retired.len() > RETIRED_MAX && self.is_recovered {
            self.retired.remove(0);
        }
    }

    /// Opens a closed file again when it grew, forgets it when it has no name any more.
    fn look_at_retired(&mut self) {
        if !self.is_recovered || self.retired.is_empty() {
            return;
        }
        let mut neighbours = None;
        for mut retired in std::mem::take(&mut self.retired) {
            let key = retired.position.key;
            let named = |path: &Path| fs::metadata(path).ok().filter(|meta| key_of(meta) == key);
            let mut meta = named(&retired.name);
            if meta.is_none() {
                let all = neighbours.get_or_insert_with(|| self.neighbours());
                let all = all.as_deref().unwrap_or_default();
                if let Some((path, _)) = all.iter().find(|(_, inode)| *inode == key.inode) {
                    retired.name.clone_from(path);
                    meta = named(path);
                }
            }
            let Some(meta) = meta else { continue };
            let is_frozen = is_compressed(&retired.name);
            if is_frozen || meta.len() <= retired.position.offset {
                self.retired.push(retired);
                continue;
            }
            // Another file with its inode is none of ours any more.
            let Some(mut open) = open_at(&retired.name, &retired.position, true) else { continue };
            if open.has_more_lines() {
                self.rotated.push(open);
            } else {
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
        if (position.fingerprint.bytes as usize) < HEAD_BYTES_MIN {
            return None;
        }
        let named = neighbours.iter().filter(|(path, _)| self.is_rotated_name(path));
        let mut copies = named.filter_map(|(path, _)| open_at(path, position, false));
        copies.find(|open| !self.is_known(open.key))
    }

    /// The file itself under another name. What is known of a file with hardly a beginning does
    /// not tell it from another one that got its inode, so that one needs a rotated name too.
    fn find_same_in(&self, position: &Position, neighbours: &[(PathBuf, u64)]) -> Option<Open> {
        let is_vague = (position.fingerprint.bytes as usize) < HEAD_BYTES_MIN;
        let named = neighbours.iter().filter(|(path, inode)| {
            *inode == position.key.inode && (!is_vague || self.is_rotated_name(path))
        });
        let mut same = named.filter_map(|(path, _)| open_at(path, position, true));
        same.find(|open| !self.is_known(open.key))
    }

    fn is_rotated_name(&self, path: &Path) -> bool {
        match (self.path.file_name(), path.file_name()) {
            (Some(base), Some(name)) => {
                is_rotated_name(&base.to_string_lossy(), &name.to_string_lossy())
            }
            _ => false,
        }
    }

    /// Files beside the path, and beside what it links to, with their inodes.
    fn neighbours(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut neighbours = Vec::new();
        let mut directories = vec![parent(&self.path).to_owned()];
        if let Ok(real) = fs::canonicalize(&self.path) {
            directories.push(parent(&real).to_owned());
        }
        directories.dedup();
        for directory in directories {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                neighbours.push((entry.path(), entry.ino()));
            }
        }
        Ok(neighbours)
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
