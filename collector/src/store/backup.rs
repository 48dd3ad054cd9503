//! Backups: a tar of the database, the authority, the admin token, day and month files, and a manifest.
//!
//! `gatewatch.db`, `ca/NAME`, `admin.token`, `blocks/YYYYMMDD.db`, `rollup/YYYYMM.db`, then
//! `manifest.json` (format, release, schema, size and SHA-256 of each) and `manifest.sha256`. The two last
//! come last, so that an archive that broke off has none and is refused.
//!
//! The database is copied first, then the files: what its `sealed` rows name is in them. What they have
//! beyond that is taken out again at restore, because agents send it anew. Nobody waits for a backup:
//! the copies are made by own readers, and an archive is read from the copies.

mod archive;
mod copy;
mod mend;
mod place;
mod restore;
mod schedule;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::UnixMillis;

use super::hours::{Day, Month};
use crate::cli::exit;
use crate::errors;

pub(crate) use archive::pour;
pub use archive::{Archive, Progress, read_archive};
pub use copy::Source;
pub(super) use mend::MARKER;
pub use mend::mend;
pub use place::finish_interrupted;
pub use restore::{Restored, lock, restore};
pub(super) use restore::{beside_of, missing, write};
pub use schedule::Schedule;

/// Format of the archive; a later one is refused.
pub const FORMAT: u32 = 1;
/// Name of the database in data directory and archive.
pub const DATABASE: &str = "gatewatch.db";
/// Name of the manifest in an archive.
pub const MANIFEST: &str = "manifest.json";
/// Name of its checksum.
pub(super) const MANIFEST_SUM: &str = "manifest.sha256";
/// Largest manifest: 100 years of days.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the release that wrote it.
    pub format: u32,
    /// That release.
    pub release: String,
    /// Schema version of the database.
    pub schema: i64,
    /// When the database was copied.
    #[serde(with = "wire::rfc3339")]
    pub made_at: UnixMillis,
    /// Everything in it, but for the manifest.
    pub members: Vec<Member>,
    /// Day and month files that the database names and that were dropped by retention while the backup
    /// was made.
    #[serde(default)]
    pub expired: Vec<String>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Name below the data directory.
    pub name: String,
    /// Size.
    pub n_bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Name beside the archive, for what several scheduled backups share; else it is in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// Modification time of the file it was copied from, ns: one that did not change is not copied again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
}

/// Size of a file and its SHA-256 in hexadecimal.
pub type Sum = (u64, String);

/// Whether a member is a database, of the names that [`is_member`] lets pass.
pub(super) fn is_database(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "db")
}

/// Whether a name may stand in an archive: nothing else is ever unpacked.
#[must_use]
pub fn is_member(name: &str) -> bool {
    match name.split_once('/') {
        None => name == DATABASE || name == "admin.token",
        Some(("ca", file)) => {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            (1..=64).contains(&file.len()) && !file.starts_with('.') && file.bytes().all(good)
        }
        Some(("blocks", file)) => Day::of_file_name(file).is_some(),
        Some(("rollup", file)) => Month::of_file_name(file).is_some(),
        Some(_) => false,
    }
}

/// Why there is no backup, no restore or no answer; texts are for people.
#[derive(Debug)]
pub struct BackupError {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
    /// Exit code of the command.
    pub code: u8,
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

impl std::error::Error for BackupError {}

impl BackupError {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), code: exit::INTERNAL }
    }

    /// The command asks for something that cannot be.
    pub(crate) fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code: exit::USAGE, ..Self::new(what, fix) }
    }

    /// The archive is not what it should be.
    pub(crate) fn bad(what: impl Into<String>) -> Self {
        let fix = "use another backup; `gatewatch-collector verify FILE` checks one";
        Self { code: exit::NO, ..Self::new(what, fix) }
    }

    /// A file cannot be used.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        let (shown, kind) = (path.display(), error.kind());
        let fix = match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space there, or name a place on another disk"
            }
            io::ErrorKind::PermissionDenied => {
                "run the command as root or as the collector's user, who may write there"
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount it writable; under systemd name the folder: `systemctl edit gatewatch-collector`, \
                 below [Service] ReadWritePaths=FOLDER"
            }
            io::ErrorKind::NotFound => "check the name",
            _ => "check the disk",
        };
        Self::new(format!("{shown}: {error}"), fix)
    }

    /// SQLite refused.
    pub(crate) fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        let what = format!("{}: {}", path.display(), errors::chain(error));
        let fix = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => "free space on its disk",
            Some(rusqlite::ErrorCode::SystemIoFailure) => {
                "check the disk; is it full or read-only?"
            }
            Some(rusqlite::ErrorCode::OperationInterrupted) => {
                "it took too long or the collector stops: make it when there is less to do"
            }
            _ => "`gatewatch-collector verify` says whether it is damaged",
        };
        Self::new(what, fix)
    }
}

/// A backup that is made by itself: how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupState {
    /// Folder of the copies.
    pub dir: PathBuf,
    /// When the newest one was made.
    #[serde(with = "wire::rfc3339::option")]
    pub made_at: Option<UnixMillis>,
    /// When the last try failed, if none was made since.
    #[serde(with = "wire::rfc3339::option")]
    pub failed_at: Option<UnixMillis>,
    /// Why, and what to do.
    pub failure: Option<String>,
}

/// Who may make a backup, and how the last one went; shared by all handles of the store.
#[derive(Debug)]
pub struct Backups {
    turn: Arc<Semaphore>,
    state: Mutex<Option<BackupState>>,
}

impl Default for Backups {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), state: Mutex::default() }
    }
}

impl Backups {
    /// The right to make one; `None` while another is being made.
    pub fn take_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).try_acquire_owned().ok()
    }

    /// Waits for it; `None` never comes while the store is open.
    async fn wait_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// How those stand that are made by themselves; `None` where none are.
    pub fn state(&self) -> Option<BackupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: BackupState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

/// Removes copies that a backup left behind which was killed.
pub(super) fn clean(dir: &Path) {
    if let Err(error) = copy::clean(dir) {
        tracing::warn!(%error, "copies of a backup stay behind");
    }
}

#[cfg(test)]
mod tests;
