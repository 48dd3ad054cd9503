//! Follows one log through rename rotation, copytruncate, truncation, deletion and symlink swap.
//!
//! A file is its device, inode and first bytes, never its name. When another file takes the path,
//! the old one stays open and is read on until it is quiet: nginx writes to a renamed log until it
//! is told to reopen. After that it is closed and remembered, so that it is never read twice, and
//! opened again if it grows. A restart finds rotated files by the same identity among the
//! neighbours of the path, copies (copytruncate) and `.gz` included.
//!
//! Only whole lines leave; `offset` of every position is the start of a line.

mod rotated;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wire::UnixMillis;

use super::checkpoint::{FileKey, Position};
use super::file::{Chunk, HEAD_BYTES_MIN, Open, Outcome, Recovery, Stamp, key_of, must_be_file};
use super::listing::Listings;
use super::sources::permission_fix;
use rotated::{Retired, is_vague, lost_key, no_key, shape};

/// Time between looks at closed rotated files.
const RETIRED_LOOK: Duration = Duration::from_secs(10);

/// Where a file that no checkpoint knows begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It was there before the agent's first start: what it holds is history.
    End,
    /// It appeared later: every line is news.
    Beginning,
}

impl Start {
    /// A log born before the agent's first start is history; one whose birth the file system does not
    /// know is taken as news.
    #[must_use]
    pub fn by_birth(born: Option<SystemTime>, first_start_at: UnixMillis) -> Self {
        let first = UNIX_EPOCH + Duration::from_millis(first_start_at.0.try_into().unwrap_or(0));
        if born.is_some_and(|born| born < first) { Self::End } else { Self::Beginning }
    }
}

/// Why a log cannot be read at the moment. It is tried again; nothing else stops.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Not there (yet).
    #[error("log {} does not exist: correct its path, or it is followed once it appears", path.display())]
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

/// Log bytes and files that vanished before they were read. Per file, the bytes seen are those
/// handed out, those lost here, and those that still wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vanished {
    /// Truncations in place.
    pub n_truncations: u64,
    /// Files gone while the agent was stopped or that cannot be read any more, with an unread end
    /// nobody knows the size of.
    pub n_gone: u64,
    /// Bytes lost, as far as known.
    pub n_bytes: u64,
    /// Unread bytes of truncated files that were found in a copy; they are handed out, not lost.
    pub n_bytes_recovered: u64,
}

impl Vanished {
    /// Adds what another log lost.
    pub fn add(&mut self, more: &Self) {
        self.n_truncations += more.n_truncations;
        self.n_gone += more.n_gone;
        self.n_bytes += more.n_bytes;
        self.n_bytes_recovered += more.n_bytes_recovered;
    }
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
    /// Tells whether another tail follows a path under its own name.
    pub is_followed: &'a dyn Fn(&Path) -> bool,
    /// Directories listed in this round of looks, for all tails.
    pub listings: &'a Listings,
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
    /// The same by the clock that nobody sets; `None` before this start.
    looked: [Option<Instant>; 2],
    /// When names in the directories of the log changed last.
    names_changed: Vec<Option<SystemTime>>,
    /// A rotated file could not be told from an open one; it is looked at again.
    is_unsure: bool,
    /// Where the file at the path really lies.
    link_directory: Option<PathBuf>,
    /// Shape of its name there, if that is another one.
    link_shape: Option<String>,
    /// Other directories where rotated files may lie, and when they are looked for again.
    archives: Vec<PathBuf>,
    archives_due: Option<Instant>,
    /// What was lost last, and why.
    note: Option<String>,
    retired_look_at: Option<Instant>,
}

impl Tail {
    /// A tail that goes on at these positions (all files known under this path), which were saved
    /// at `saved_at`.
    #[must_use]
    pub fn new(path: &Path, positions: Vec<Position>, saved_at: UnixMillis) -> Self {
        let name = path.to_owned();
        let retired = positions.into_iter().map(|position| Retired::new(position, None, &name));
        Self {
            path: name.clone(),
            current: None,
            rotated: Vec::new(),
            retired: retired.collect(),
            shadow: None,
            vanished: Vanished::default(),
            is_recovered: false,
            looked_at: [saved_at; 2],
            looked: [None; 2],
            names_changed: Vec::new(),
            is_unsure: false,
            link_directory: None,
            link_shape: None,
            archives: Vec::new(),
            archives_due: None,
            note: None,
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

    /// For a W3C log that is resumed in its middle: the line that names its columns there.
    pub fn fields_line(&mut self) -> Option<Vec<u8>> {
        let next = self.rotated.first_mut().or(self.current.as_mut())?;
        // What is wrong with the file the next read says.
        next.fields_line().ok().flatten()
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

    /// How far every file is covered, remembered ones included. A rotated file that was read to
    /// its end is done: nothing is lost if it is gone at the next start.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        let retired = self.retired.iter().map(|retired| retired.position.clone());
        let rotated = self.rotated.iter().map(|open| {
            let position = open.position(&self.path);
            let is_read = open.quiet_since.is_some() && open.n_bytes_unread() == 0;
            Position { is_done: is_read && !is_vague(position.fingerprint), ..position }
        });
        let current = self.current.iter().map(|open| open.position(&self.path));
        retired.chain(rotated).chain(current)
    }

    /// Size of the current file as far as known; what lies beyond [`Tail::offset`] waits.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.current.as_ref().map_or(0, |open| open.offset + open.n_bytes_unread())
    }

    /// What was lost last, and why.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        let shadow = self.shadow.map(|_| {
            "another followed log is the same file by its number, and it is read there: name one of \
             them, or keep logs on a file system that numbers its files"
        });
        shadow.or(self.note.as_deref())
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
            let mut names_changed = self.changed_names(look.listings);
            let has_new_names = names_changed != self.names_changed || self.is_unsure;
            if has_new_names && self.archives_due.is_none_or(|due| look.now >= due) {
                self.archives_due = Some(look.now + RETIRED_LOOK);
                self.archives = look.listings.archives_of(&self.path, parent(&self.path));
                names_changed = self.changed_names(look.listings);
            }
            if !self.is_recovered {
                // At the first start what lies beside the log is history.
                let is_history = look.start == Start::End && self.retired.is_empty();
                self.is_recovered = is_history || self.recover(look);
            } else if has_new_names || self.key() != before {
                let neighbours = self.neighbours(look.listings, &[]).unwrap_or_default();
                self.add_unseen(&neighbours, look);
            }
            self.names_changed = names_changed;
            // What the checkpoint said is dealt with at the first look.
            let is_first = self.looked[1].is_none();
            self.looked_at = [if is_first { look.at } else { self.looked_at[1] }, look.at];
            self.looked = [if is_first { Some(look.now) } else { self.looked[1] }, Some(look.now)];
        }
        // The checkpoint is to know what was written to them, though nobody has read it yet.
        self.complete_heads();
        self.restart_truncated(look.now);
        self.retire(look.now);
        if self.retired_look_at.is_none_or(|at| look.now >= at) {
            self.retired_look_at = Some(look.now + RETIRED_LOOK);
            self.look_at_retired(look);
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
            let before = open.offset;
            match open.read(now, buffer) {
                Ok(Outcome::Chunk(chunk)) => {
                    open.quiet_since = None;
                    if let Some(recovery) = &mut open.recovery {
                        recovery.n_found += open.offset - before;
                        self.vanished.n_bytes_recovered += open.offset - before;
                    }
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
                    self.note = Some(format!("the rest of a rotated file is lost: {error}"));
                    self.vanished.n_gone += 1;
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
                    self.leave();
                }
                return Err(error);
            }
        };
        let (key, stamp) = (key_of(&meta), Stamp::of(&meta));
        if let Some(current) = self.current.as_mut()
            && current.is_it(key, stamp, &self.path)
        {
            current.look(stamp);
            return Ok(());
        }
        if let Err(error) = must_be_file(&meta) {
            self.leave();
            return Err(error);
        }
        let is_own = self.keys_open().any(|own| own == key);
        // A link may lead to another one's log. When that rotates, the new file is not the link's.
        let is_anothers =
            || fs::canonicalize(&self.path).is_ok_and(|real| (look.is_followed)(&real));
        if !is_own && ((look.is_held)(key) || is_anothers()) {
            self.leave();
            self.shadow = Some(key);
            return Ok(());
        }
        let mut open = Open::new(&self.path)?;
        if self.keys_open().any(|own| own == open.key) && !self.is_one_of_rotated(&open) {
            // The file system gives all its files one number: ours has no other file's.
            open.key = self.own_number(look.at);
        }
        let mut outdated = self.current.take();
        // The checkpoint is to know it, also when it is not read before.
        outdated.iter_mut().for_each(Open::complete_head);
        let successor = self.succeed(outdated, &mut open, look.now)?;
        let real = fs::canonicalize(&self.path).ok();
        self.link_directory = real.as_deref().map(|real| parent(real).to_owned());
        let real = real.as_deref().and_then(Path::file_name).map(OsStr::to_string_lossy);
        let own = self.path.file_name().map(OsStr::to_string_lossy);
        self.link_shape = if real == own { None } else { real.map(|name| shape(&name)) };
        let was_shadow = self.shadow.take() == Some(open.key);
        let start = if was_shadow { Start::End } else { look.start };
        self.current = Some(if successor { open } else { self.resume(open, start, buffer)? });
        Ok(())
    }

    /// True when what the path leads to now is open already: it had the path before, or lay beside it.
    fn is_one_of_rotated(&mut self, open: &Open) -> bool {
        // What was empty may have been written since.
        self.complete_heads();
        self.rotated.iter().any(|rotated| {
            // As long as hardly anything is in them nothing but their number tells.
            let is_vague = is_vague(rotated.fingerprint());
            is_vague && rotated.key == open.key && rotated.head.starts_with(&open.head)
                || rotated.is_at(&self.path)
        })
    }

    /// Looks again how the files begin in which hardly anything was seen.
    fn complete_heads(&mut self) {
        let vague = self.rotated.iter_mut().filter(|open| is_vague(open.fingerprint()));
        vague.for_each(Open::complete_head);
    }

    /// A key that no file of this log has, nor had before it was started.
    fn own_number(&self, at: UnixMillis) -> FileKey {
        let known: Vec<FileKey> = self.positions().map(|position| position.key).collect();
        let keys = (at.0.cast_unsigned()..).map(|inode| FileKey { device: u64::MAX, inode });
        keys.into_iter()
            .find(|key| !known.contains(key))
            .expect("there are more numbers than files")
    }

    /// Puts the file that had the path aside; nothing has it now.
    fn leave(&mut self) {
        let mut outdated = self.current.take();
        outdated.iter_mut().for_each(Open::check_quiet);
        self.rotated.extend(outdated);
    }

    /// Puts the file that had the path aside. True when the new one holds the same text, as on a
    /// file system that numbers its files anew or after an editor: it goes on at the same place.
    fn succeed(
        &mut self,
        outdated: Option<Open>,
        open: &mut Open,
        now: Instant,
    ) -> io::Result<bool> {
        let Some(mut outdated) = outdated else { return Ok(false) };
        let is_same = outdated.has_same_text(open)?;
        if is_same {
            open.seek(outdated.offset);
        }
        outdated.check_quiet();
        self.rotated.push(outdated);
        let ix = self.rotated.len() - 1;
        if is_same && !self.rotated[ix].is_deleted() {
            self.forget_rotated(ix, now); // opened again if it is another one and grows
        }
        Ok(is_same)
    }

    /// Puts a newly opened file where its last reading ended.
    fn resume(&mut self, mut open: Open, start: Start, buffer: &mut [u8]) -> io::Result<Open> {
        let is_it = |rotated: &Open| rotated.key == open.key || rotated.is_at(&self.path);
        if let Some(ix) = self.rotated.iter().position(is_it) {
            return Ok(self.rotated.remove(ix)); // renamed back
        }
        let key = open.key;
        let has_key = |known: &Retired| known.position.key == key;
        let is_it = |known: &Retired| known.position.fingerprint.matches(&open.head);
        let by_key = self.retired.iter().position(|known| has_key(known) && is_it(known));
        // The number of a device changes with a new start of the machine, and some file systems
        // number their files anew.
        let known = by_key.or_else(|| {
            let mut found = Vec::new();
            for (ix, known) in self.retired.iter().enumerate() {
                if !known.position.is_done && known.speaks_of(&mut open) {
                    found.push((known.position.offset, ix));
                }
            }
            found.into_iter().max().map(|(_, ix)| ix)
        });
        if known.is_none() && !self.retired.iter().any(has_key) {
            if start == Start::End {
                open.seek_to_end(buffer)?;
            }
            return Ok(open);
        }
        let Some(ix) = known else {
            // Another file with its inode, or truncated while nobody looked. What a position that
            // is not done speaks of may still lie somewhere: `recover` searches for it.
            let reused = self.retired.iter_mut().filter(|known| known.position.is_done);
            let reused = reused.filter(|known| has_key(known));
            reused.for_each(|known| known.position.key = lost_key(&known.position));
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

    /// What a look found truncated is told now: the checkpoint is to know how it begins, since that
    /// alone tells it when it has rotated away by the next start.
    fn restart_truncated(&mut self, now: Instant) {
        let is_suspect =
            |tail: &Self| tail.rotated.iter().chain(&tail.current).position(Open::is_suspect);
        while let Some(ix) = is_suspect(self) {
            if self.truncated(ix, now).is_err() {
                return; // the next read tells why
            }
        }
    }

    /// A file (the current one, or a rotated one) shrank or begins differently: it was truncated
    /// in place.
    fn truncated(&mut self, ix: usize, now: Instant) -> io::Result<()> {
        let open = self.rotated.get_mut(ix).or(self.current.as_mut());
        let Some(open) = open else { return Ok(()) };
        let n_unread = open.n_bytes_unread();
        let head = open.first_bytes()?;
        let size = open.size()?.unwrap_or(0);
        self.vanished.n_truncations += 1;
        let n_same = head.len().min(open.head.len());
        if n_same >= HEAD_BYTES_MIN
            && head[..n_same] == open.head[..n_same]
            && head.contains(&b'\n')
        {
            // Cut to a part that was read already; what comes next is new.
            if size <= open.offset {
                self.vanished.n_bytes += n_unread;
                open.cut_to(head, size);
            } else {
                open.regrown(head, size)?;
            }
            tracing::warn!(path = %self.path.display(), size, "log was cut short");
            self.note = Some("it was cut short: what came after is lost".to_owned());
            return Ok(());
        }
        let before = open.position(&self.path);
        open.restart()?;
        // Fresh: the copy was made a moment ago.
        let neighbours = self.neighbours(&Listings::default(), &[]).unwrap_or_default();
        let mut copy = self.find_copy(&before, &neighbours);
        let n_saved = copy.as_ref().map_or(0, Open::n_bytes_unread);
        let mut n_bytes_lost = n_unread.saturating_sub(n_saved);
        if let Some(packed) = copy.as_mut().filter(|copy| copy.is_frozen()) {
            // How much is in it shows when it is read.
            packed.recovery = Some(Recovery { n_wanted: n_unread, n_found: 0 });
            n_bytes_lost = 0;
        }
        self.vanished.n_bytes += n_bytes_lost;
        self.vanished.n_bytes_recovered += n_saved;
        if n_bytes_lost > 0 {
            let why = self.why_no_copy(&neighbours);
            self.note = Some(format!("{n_bytes_lost} bytes are lost: it was truncated, {why}"));
        }
        self.rotated.extend(copy);
        // Another copy of what it was is no unseen file.
        let position = Position { key: no_key(&before), is_done: true, ..before };
        self.retired.push(Retired::new(position, Some(now), &self.path));
        tracing::warn!(
            path = %self.path.display(),
            n_bytes_lost,
            n_bytes_found_in_copy = n_saved,
            "log was truncated in place"
        );
        Ok(())
    }
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
