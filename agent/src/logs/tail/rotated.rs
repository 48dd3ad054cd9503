//! Files that rotated away: finding them again, reading them on, closing and remembering them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Look, Tail, parent};
use crate::logs::checkpoint::{FileKey, Fingerprint, Position};
use crate::logs::file::{
    HEAD_BYTES_MIN, Open, is_compressed, is_packed_unread, is_rotated_name, key_of,
};
use crate::logs::listing::{self, Listings};

/// A rotated file that was not written for this long is closed; it is opened again if it grows.
const ROTATED_QUIET: Duration = Duration::from_secs(60);
/// A deleted file cannot be opened again, so it is kept longer; not for ever, since an open file
/// keeps its disk space.
const DELETED_QUIET: Duration = Duration::from_secs(300);
/// Closed rotated files remembered per log for longer than [`RETIRED_KEPT`].
const RETIRED_MAX: usize = 4;
/// Until a file is this long closed, its time of writing does not tell it from an unseen one.
const RETIRED_KEPT: Duration = Duration::from_secs(600);
/// Never more than these are remembered.
const RETIRED_LIMIT: usize = 64;
/// Times of files come from a clock that ticks more coarsely than ours.
const FILE_TIME_SLACK: Duration = Duration::from_millis(20);

pub(super) struct Retired {
    pub(super) position: Position,
    /// `None` = before this start of the agent.
    pub(super) since: Option<Instant>,
    /// Where it lies; may be outdated.
    pub(super) name: PathBuf,
    /// Half a line at its end.
    pub(super) n_bytes_unread: u64,
}

/// Files that rotated away.
impl Tail {
    /// Searches the neighbours for what the checkpoint knows and the path no longer has.
    ///
    /// False when the directory cannot be read: the search is tried again.
    pub(super) fn recover(&mut self, look: Look<'_>) -> bool {
        let is_held = look.is_held;
        let inodes = self.inodes_retired();
        let neighbours = match self.neighbours(look.listings, &inodes) {
            Ok(neighbours) => neighbours,
            Err(error) => return error.kind() == io::ErrorKind::NotFound,
        };
        let (mut nameless, mut unwritten) = (Vec::new(), Vec::new());
        for retired in std::mem::take(&mut self.retired) {
            let position = &retired.position;
            if position.is_done {
                let found = self
                    .find_same_in(position, &neighbours)
                    .or_else(|| {
                        self.find_renumbered_in(position, &neighbours).map(|(_, open)| open)
                    })
                    .filter(|open| !is_held(open.key));
                match found {
                    // Its writer may still have it open.
                    Some(open) if open.was_written_since(look.at, ROTATED_QUIET) => {
                        self.rotated.push(open);
                    }
                    Some(_) => self.retired.push(retired),
                    None => {
                        nameless.push(position.clone());
                        self.retired.push(retired);
                    }
                }
                continue;
            }
            if position.offset == 0 && is_vague(position.fingerprint) {
                unwritten.push(position.clone());
                continue;
            }
            let found = self
                .find_same_in(position, &neighbours)
                .filter(|open| !is_held(open.key))
                .or_else(|| self.find_copy_in(position, &neighbours));
            if let Some(open) = found {
                self.rotated.push(open);
            } else {
                self.vanished.n_gone += 1;
                let (offset, why) = (position.offset, self.why_no_copy(&neighbours));
                tracing::warn!(
                    path = %self.path.display(),
                    offset,
                    why,
                    "log was removed while the agent was stopped: what came after is lost"
                );
                self.note = Some(format!(
                    "a file was removed while the agent was stopped and what came after byte \
                     {offset} is lost: {why}"
                ));
            }
        }
        for position in nameless {
            self.read_late_copy(&position, &neighbours);
        }
        self.reopen_unwritten(&unwritten, &neighbours, look);
        self.add_unseen(&neighbours, look);
        true
    }

    /// Opens files that had hardly a beginning and still have no more: nothing else tells them, and
    /// their writer may yet begin. One that was written since is found by its time like an unseen
    /// one.
    fn reopen_unwritten(
        &mut self,
        positions: &[Position],
        neighbours: &[(PathBuf, u64)],
        look: Look<'_>,
    ) {
        let has_size = |size: u64| positions.iter().any(|p| u64::from(p.fingerprint.bytes) == size);
        for (path, _) in neighbours {
            if !self.is_rotated_name(path)
                || is_compressed(path)
                || !fs::metadata(path).is_ok_and(|meta| has_size(meta.len()))
            {
                continue;
            }
            let Ok(open) = Open::new(path) else { continue };
            let is_it = positions.iter().any(|Position { key, fingerprint, .. }| {
                let has_number = neighbours.iter().any(|(_, inode)| *inode == key.inode);
                (*key == open.key || !has_number)
                    && fingerprint.bytes as usize == open.head.len()
                    && fingerprint.matches(&open.head)
            });
            if !is_it || self.is_known(&open) || (look.is_held)(open.key) {
                continue;
            }
            if self.is_at_own(path) {
                self.is_unsure = true;
            } else {
                self.rotated.push(open);
            }
        }
    }

    /// Files that took the path and rotated away again since the last look.
    ///
    /// A copy of a known file is none of them: it is found when that file turns out truncated.
    pub(super) fn add_unseen(&mut self, neighbours: &[(PathBuf, u64)], look: Look<'_>) {
        let is_recent = self.recent(look);
        // One that could not be told then has the times of then.
        let was_unsure = std::mem::take(&mut self.is_unsure);
        let mut candidates = Vec::new();
        for (path, _) in neighbours.iter().filter(|(path, _)| self.is_rotated_name(path)) {
            // While a compressor works, both are there.
            let plain = path.with_extension("");
            if is_packed_unread(path)
                || is_compressed(path) && neighbours.iter().any(|(other, _)| *other == plain)
            {
                continue;
            }
            let Ok(meta) = fs::metadata(path) else { continue };
            let key = key_of(&meta);
            let Ok(modified) = meta.modified() else { continue };
            let at_ms = modified.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis() as i64);
            let is_empty = was_unsure && meta.len() == 0 && self.is_at_own(path);
            if (is_empty || is_recent(at_ms)) && !(look.is_held)(key) {
                candidates.push((modified, path));
            }
        }
        candidates.sort();
        // How the open files begin by now tells their copies.
        let now: Vec<_> =
            self.rotated.iter_mut().chain(&mut self.current).map(Open::fingerprint_now).collect();
        let is_copy =
            |head: &[u8]| now.iter().any(|print| !is_vague(*print) && print.matches(head));
        for (_, path) in candidates {
            match Open::new(path) {
                Ok(open)
                    if self.is_known(&open)
                        || is_copy(&open.head)
                        || self.is_copy_of_known(&open.head) => {}
                // Where numbers change, an empty file is told from another one when it grows.
                Ok(_) if self.is_at_own(path) => self.is_unsure = true,
                Ok(open) => self.rotated.push(open),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read a rotated log");
                }
            }
        }
    }

    /// Tells whether a file time can be later than the look before the last, on whichever side of
    /// a step of the wall clock it was taken.
    fn recent(&self, look: Look<'_>) -> impl Fn(i64) -> bool + use<> {
        let slack_ms = FILE_TIME_SLACK.as_millis() as i64;
        let (looked_ms, now_ms) = (self.looked_at[0].0, look.at.0);
        let elapsed = self.looked[0].map(|looked| look.now.saturating_duration_since(looked));
        let windows = if let Some(elapsed) = elapsed {
            let elapsed_ms = elapsed.as_millis() as i64;
            [
                looked_ms - slack_ms..=looked_ms + elapsed_ms + slack_ms,
                now_ms - elapsed_ms - slack_ms..=now_ms + slack_ms,
            ]
        } else {
            // Nobody knows how long the agent was stopped. What was written this long before is
            // remembered, so it is told from what is new by its text.
            let known_ms = RETIRED_KEPT.as_millis() as i64;
            [looked_ms - slack_ms..=i64::MAX, looked_ms.min(now_ms) - known_ms..=now_ms + slack_ms]
        };
        move |at_ms| windows.iter().any(|window| window.contains(&at_ms))
    }

    /// True when an open file may be the one at this path.
    fn is_at_own(&self, path: &Path) -> bool {
        self.rotated.iter().chain(&self.current).any(|own| own.is_at(path))
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
        prints.any(|print| !is_vague(print) && print.matches(head))
    }

    /// Closes rotated files that nobody writes any more.
    pub(super) fn retire(&mut self, now: Instant) {
        let mut ix = 0;
        while let Some(open) = self.rotated.get_mut(ix) {
            let limit = if open.is_frozen() {
                Duration::ZERO
            } else if open.is_deleted() || open.head.is_empty() {
                DELETED_QUIET // nothing would tell an empty file when it is opened again
            } else {
                ROTATED_QUIET
            };
            let quiet = |open: &Open| {
                open.quiet_since.is_some_and(|at| now.saturating_duration_since(at) >= limit)
            };
            if quiet(open) {
                open.check_quiet();
            }
            if quiet(open) {
                self.forget_rotated(ix, now);
            } else {
                ix += 1;
            }
        }
    }

    /// Closes a rotated file and remembers it while it has a name.
    pub(super) fn forget_rotated(&mut self, ix: usize, now: Instant) {
        let open = self.rotated.remove(ix);
        let position = Position { is_done: true, ..open.position(&self.path) };
        if let Some(recovery) = open.recovery {
            self.vanished.n_bytes += recovery.n_wanted.saturating_sub(recovery.n_found);
        } else if open.is_deleted() || is_vague(position.fingerprint) {
            self.vanished.n_bytes += open.n_bytes_unread(); // half a line that nobody will finish
        }
        if !open.is_deleted() && !is_vague(position.fingerprint) {
            let mut retired = Retired::new(position, Some(now), &self.path);
            retired.n_bytes_unread = open.n_bytes_unread();
            if open.recovery.is_some() {
                retired.n_bytes_unread = 0;
            }
            self.retired.push(retired);
            self.retired_look_at = Some(now);
        }
        let is_old = self.retired.first().is_some_and(|oldest| {
            oldest.since.is_none_or(|since| now.saturating_duration_since(since) > RETIRED_KEPT)
        });
        let n_max = if is_old { RETIRED_MAX } else { RETIRED_LIMIT };
        if self.retired.len() > n_max && self.is_recovered {
            self.vanished.n_bytes += self.retired.remove(0).n_bytes_unread;
        }
    }

    /// Opens a closed file again when it grew, forgets it when it has no name any more.
    pub(super) fn look_at_retired(&mut self, look: Look<'_>) {
        let now = look.now;
        if !self.is_recovered || self.retired.is_empty() {
            return;
        }
        let inodes = self.inodes_retired();
        let mut neighbours = None;
        let mut nameless = Vec::new();
        for mut retired in std::mem::take(&mut self.retired) {
            let since = *retired.since.get_or_insert(now);
            let has_name = retired.has_name() || {
                let list = || self.neighbours(look.listings, &inodes).unwrap_or_default();
                let neighbours = neighbours.get_or_insert_with(list);
                retired.find_name(neighbours) || {
                    let found = self.find_renumbered_in(&retired.position, neighbours);
                    found.map(|(name, open)| retired.renumbered(name, open.key)).is_some()
                }
            };
            if has_name {
                match retired.reopen() {
                    Some(open) => self.rotated.push(open),
                    None => self.retired.push(retired),
                }
                continue;
            }
            nameless.push(retired.position.clone());
            if now < since + RETIRED_KEPT {
                // Its beginning still tells a compressed copy for a while.
                retired.position.key = no_key(&retired.position);
                self.retired.push(retired);
            } else {
                self.vanished.n_bytes += retired.n_bytes_unread;
            }
        }
        for position in nameless {
            self.read_late_copy(&position, neighbours.as_deref().unwrap_or_default());
        }
    }

    /// Opens the compressed copy of a closed file if that was written between its closing and its
    /// compression.
    fn read_late_copy(&mut self, position: &Position, neighbours: &[(PathBuf, u64)]) {
        if position.key == no_key(position) {
            return;
        }
        let copy = self.find_copy_in(position, neighbours).and_then(Open::with_more_lines);
        if copy.is_some() {
            // The copy has the half line too.
            let is_it = |known: &&mut Retired| known.position.fingerprint == position.fingerprint;
            self.retired.iter_mut().filter(is_it).for_each(|known| known.n_bytes_unread = 0);
        }
        self.rotated.extend(copy);
    }

    /// A copy of a file, made before that was truncated.
    pub(super) fn find_copy(
        &self,
        position: &Position,
        neighbours: &[(PathBuf, u64)],
    ) -> Option<Open> {
        let mut copy = self.find_copy_in(position, neighbours)?;
        copy.size_known = copy.size().ok().flatten().unwrap_or(0);
        Some(copy)
    }

    fn find_copy_in(&self, position: &Position, neighbours: &[(PathBuf, u64)]) -> Option<Open> {
        if is_vague(position.fingerprint) {
            return None;
        }
        let named = neighbours.iter().filter(|(path, _)| self.is_rotated_name(path));
        let named = named.filter(|(path, _)| !is_packed_unread(path));
        let mut copies = named.filter_map(|(path, _)| open_at(path, position, false));
        copies.find(|copy| {
            // Where numbers change, an open file is known by its text only.
            let mut open = self.rotated.iter().chain(&self.current);
            !self.is_known(copy) && !open.any(|open| open.begins_like(copy))
        })
    }

    /// The file itself under another name and number, as its text tells.
    fn find_renumbered_in<'n>(
        &self,
        position: &Position,
        neighbours: &'n [(PathBuf, u64)],
    ) -> Option<(&'n Path, Open)> {
        if position.key == no_key(position) {
            return None;
        }
        let mut plain = neighbours.iter().filter(|(path, _)| !is_compressed(path));
        plain.find_map(|entry| {
            let open = self.find_copy_in(position, std::slice::from_ref(entry))?;
            Some((entry.0.as_path(), open))
        })
    }

    /// The file itself under another name. What is known of a file with hardly a beginning does
    /// not tell it from another one that got its inode, so that one needs a rotated name too.
    fn find_same_in(&self, position: &Position, neighbours: &[(PathBuf, u64)]) -> Option<Open> {
        let named = neighbours.iter().filter(|(path, inode)| {
            *inode == position.key.inode
                && (!is_vague(position.fingerprint) || self.is_rotated_name(path))
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

    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![parent(&self.path).to_owned()];
        if let Some(real) = self.link_directory.as_ref().filter(|real| **real != directories[0]) {
            directories.push(real.clone());
        }
        directories.extend(self.archives.iter().cloned());
        directories
    }

    pub(super) fn changed_names(&self, listings: &Listings) -> Vec<Option<SystemTime>> {
        self.directories().iter().map(|directory| listings.changed(directory)).collect()
    }

    /// Why the unread rest of a file was not found.
    pub(super) fn why_no_copy(&self, neighbours: &[(PathBuf, u64)]) -> &'static str {
        let is_unread =
            |(path, _): &(PathBuf, u64)| is_packed_unread(path) && self.is_rotated_name(path);
        if neighbours.iter().any(is_unread) {
            "rotated files are compressed in a way that is not read: use gzip or zstd, or \
             delaycompress"
        } else {
            "and no copy was found: use rename rotation, or keep one rotated file"
        }
    }

    /// Files beside the path, and beside what it links to, with their inodes: those that may be
    /// rotated ones of this log by their name, or that have one of `inodes`.
    pub(super) fn neighbours(
        &self,
        listings: &Listings,
        inodes: &[u64],
    ) -> io::Result<Vec<(PathBuf, u64)>> {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let stem = name.iter().rposition(|byte| *byte == b'.').map_or(name, |dot| &name[..dot]);
        let mut neighbours = Vec::new();
        for directory in self.directories() {
            let listing = match listings.of(&directory) {
                Ok(listing) => listing,
                Err(_) if self.archives.contains(&directory) => continue,
                Err(error) => return Err(error),
            };
            if self.link_shape.is_some() {
                neighbours.extend(listing.iter().cloned());
                continue;
            }
            let prefix = directory.join(OsStr::from_bytes(stem));
            neighbours.extend(listing::with_prefix(&listing, &prefix).iter().cloned());
            if !inodes.is_empty() {
                let has_inode = |entry: &&(PathBuf, u64)| inodes.contains(&entry.1);
                neighbours.extend(listing.iter().filter(has_inode).cloned());
            }
        }
        Ok(neighbours)
    }

    fn inodes_retired(&self) -> Vec<u64> {
        self.retired.iter().map(|retired| retired.position.key.inode).collect()
    }
}

/// The key of a file that is gone, and of which every copy was read: no file has it.
pub(super) fn no_key(position: &Position) -> FileKey {
    FileKey { device: 0, inode: position.fingerprint.hash }
}

/// The key of a file that is gone, but of which there may be a compressed copy; another file has
/// its number now.
pub(super) fn lost_key(position: &Position) -> FileKey {
    FileKey { device: u64::MAX, inode: position.fingerprint.hash }
}

/// A name without its numbers.
pub(super) fn shape(name: &str) -> String {
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
    pub(super) fn new(position: Position, since: Option<Instant>, name: &Path) -> Self {
        Self { position, since, name: name.to_owned(), n_bytes_unread: 0 }
    }

    /// True when a file under another number is the one it speaks of, by its text.
    pub(super) fn speaks_of(&self, open: &mut Open) -> bool {
        let Position { fingerprint, offset, .. } = self.position;
        !is_vague(fingerprint)
            && fingerprint.matches(&open.head)
            && open.size().is_ok_and(|size| size.is_none_or(|size| size >= offset))
            && open.is_line_start(offset).unwrap_or(false)
    }

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

    fn renumbered(&mut self, name: &Path, key: FileKey) {
        name.clone_into(&mut self.name);
        self.position.key = key;
    }

    /// The file, if it has lines that were not read.
    fn reopen(&self) -> Option<Open> {
        let size = fs::metadata(&self.name).ok()?.len();
        if size <= self.position.offset || is_compressed(&self.name) {
            return None;
        }
        open_at(&self.name, &self.position, false)?.with_more_lines()
    }
}

/// Hardly a beginning: it does not tell a file from another one.
pub(super) fn is_vague(print: Fingerprint) -> bool {
    (print.bytes as usize) < HEAD_BYTES_MIN
}

/// Opens a file at a position if it is the file the position speaks of, or, unless `is_same`, a
/// copy of it.
fn open_at(path: &Path, position: &Position, is_same: bool) -> Option<Open> {
    let mut open = Open::new(path).ok()?;
    let is_it = position.fingerprint.matches(&open.head)
        && (!is_same || open.key == position.key)
        && open.size().ok()?.is_none_or(|size| size >= position.offset)
        && open.is_line_start(position.offset).ok()?;
    open.seek(position.offset);
    is_it.then_some(open)
}
