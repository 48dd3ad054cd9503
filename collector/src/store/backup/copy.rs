//! Consistent copies of databases that are being written, made by readers of their own.
//!
//! A copy goes through SQLite, page by page in one read transaction, never through an own file handle:
//! closing one would drop the locks that this process holds on the file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::statvfs;
use tokio_util::sync::CancellationToken;

use super::super::damage;
use super::{BackupError, DATABASE};
use crate::{clock, files};

/// Folder of copies in the data directory while a backup is made.
const SCRATCH: &str = "backup.tmp";
/// Longest copy of the database: an open reader keeps the write-ahead log from being reset.
const COPY_TIME_MAX: Duration = Duration::from_secs(600);
/// Size of the write-ahead log at which a copy of the database is given up.
const LOG_BYTES_MAX: u64 = 2 << 30;
/// Steps of SQLite's machine between two looks at time, log and stop.
const STEPS: i32 = 20_000;
/// Room that stays free on the disk beside a copy.
const ROOM_BYTES: u64 = 64 << 20;

/// A data directory that is copied. Its folder of copies is removed when this is dropped.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    scratch: PathBuf,
    stop: CancellationToken,
}

/// A copy, removed when dropped.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    pub(super) n_bytes: u64,
    /// Modification time of what was copied.
    pub(super) mtime_ns: i64,
}

impl Copy {
    pub(super) fn open(&self) -> Result<File, BackupError> {
        File::open(&self.path).map_err(|error| BackupError::file(&self.path, &error))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Gone already where it was moved; else its folder goes soon.
        fs::remove_file(&self.path).ok();
    }
}

impl Source {
    /// Prepares to copy what is in `dir`; `stop` ends it. At most one at a time.
    pub fn new(dir: &Path, stop: CancellationToken) -> Result<Self, BackupError> {
        let scratch = dir.join(SCRATCH);
        clean(dir).map_err(|error| BackupError::file(&scratch, &error))?;
        files::create_private_dir(&scratch).map_err(|error| BackupError::file(&scratch, &error))?;
        Ok(Self { dir: dir.to_owned(), scratch, stop })
    }

    /// The data directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends it early.
    pub(super) fn check_stop(&self) -> Result<(), BackupError> {
        if self.stop.is_cancelled() {
            return Err(BackupError::new("the collector stops", "make it when it runs again"));
        }
        Ok(())
    }

    /// The database as it is now, packed, and its schema version.
    pub(super) fn database(&self) -> Result<(Copy, i64), BackupError> {
        let path = self.dir.join(DATABASE);
        let refused = |error: rusqlite::Error| BackupError::sqlite(&path, &error);
        if !path.exists() {
            let what = format!("{}: there is no database", path.display());
            return Err(BackupError::usage(what, "name the right data_dir in --config"));
        }
        let conn = open(&path).map_err(refused)?;
        let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = number("page_count").and_then(|pages| Ok((pages, number("page_size")?)));
        let (pages, size) = pages.map_err(refused)?;
        let schema = number("user_version").map_err(refused)?;
        self.check_room(pages.saturating_mul(size).unsigned_abs())?;
        let target = self.scratch.join(DATABASE);
        let until = clock::instant() + COPY_TIME_MAX;
        let (log, stop) = (self.dir.join("gatewatch.db-wal"), self.stop.clone());
        let is_over = move || {
            let is_large = fs::metadata(&log).is_ok_and(|log| log.len() > LOG_BYTES_MAX);
            stop.is_cancelled() || is_large || clock::instant() > until
        };
        conn.progress_handler(STEPS, Some(is_over)).map_err(refused)?;
        let named = target.to_string_lossy().into_owned();
        conn.execute("VACUUM INTO ?1", [named]).map_err(refused)?;
        drop(conn);
        Ok((Self::copied(target, 0)?, schema))
    }

    /// A day or month file as it is now; `None` when it is gone, or is just being made: nothing is in it
    /// that the database knows of. One that SQLite cannot read is taken as
    /// it lies there: it is kept, not judged.
    pub(super) fn file(&self, name: &str) -> Result<Option<Copy>, BackupError> {
        self.check_stop()?;
        let path = self.dir.join(name);
        let Ok(meta) = fs::metadata(&path) else { return Ok(None) };
        self.check_room(meta.len())?;
        let mtime_ns = mtime_ns(&meta);
        let target = self.scratch.join(name.replace('/', "-"));
        match Self::pages(&path, &target) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if damage::is_damage(&error) => {
                tracing::warn!(file = name, %error, "a damaged file goes into the backup as it is");
                fs::copy(&path, &target).map_err(|error| BackupError::file(&target, &error))?;
            }
            // Dropped by retention since.
            Err(_) if !path.exists() => return Ok(None),
            Err(error) => return Err(BackupError::sqlite(&path, &error)),
        }
        Self::copied(target, mtime_ns).map(Some)
    }

    /// Copies page by page; false when the file has no tables yet.
    fn pages(path: &Path, target: &Path) -> rusqlite::Result<bool> {
        let from = open(path)?;
        let mut to = Connection::open(target)?;
        to.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
        let copy = Backup::new(&from, &mut to)?;
        // All at once: in steps it would begin anew whenever the file is written.
        if copy.step(-1)? != StepResult::Done {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                Some("the file is locked".to_owned()),
            ));
        }
        drop(copy);
        to.query_row("SELECT count(*) > 0 FROM sqlite_schema", [], |row| row.get(0))
    }

    fn copied(path: PathBuf, mtime_ns: i64) -> Result<Copy, BackupError> {
        let meta = fs::metadata(&path).map_err(|error| BackupError::file(&path, &error))?;
        Ok(Copy { path, n_bytes: meta.len(), mtime_ns })
    }

    /// Says so before anything is written where the copy would not fit.
    fn check_room(&self, n_bytes: u64) -> Result<(), BackupError> {
        let free =
            statvfs(&self.dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let needed = n_bytes.saturating_add(ROOM_BYTES);
        if free >= needed {
            return Ok(());
        }
        let dir = self.dir.display();
        let what = format!(
            "{dir}: not enough room for a copy: {} MiB are needed, {} MiB are free",
            needed >> 20,
            free >> 20
        );
        Err(BackupError::new(what, "free space on its disk"))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(error) = clean(&self.dir) {
            tracing::warn!(%error, path = %self.scratch.display(), "copies of a backup stay behind");
        }
    }
}

/// Removes what a backup that was killed left behind.
pub(super) fn clean(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(SCRATCH)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Modification time, ns since the Unix epoch.
pub(super) fn mtime_ns(meta: &fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.execute_batch("PRAGMA busy_timeout=5000; PRAGMA trusted_schema=OFF")?;
    Ok(conn)
}

/// What a backup of `dir` consists of beside the database: names that are there, in order.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = Vec::new();
    for folder in ["ca", "blocks", "rollup"] {
        let path = dir.join(folder);
        let found = match fs::read_dir(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(BackupError::file(&path, &error)),
        };
        for file in found {
            let file = file.map_err(|error| BackupError::file(&path, &error))?;
            names.push(format!("{folder}/{}", file.file_name().to_string_lossy()));
        }
    }
    names.push("admin.token".to_owned());
    names.retain(|name| super::is_member(name) && dir.join(name).is_file());
    names.sort();
    Ok(names)
}
