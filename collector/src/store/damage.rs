//! Damage of `gatewatch.db` itself: nothing is written from then on, and the next start looks closer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, Error, ErrorCode};

use super::backup::{self, MARKER};
use super::{Store, StoreError, open};
use crate::files;
use crate::model::ServerId;

/// Damaged batches that are remembered; each beyond is counted at each read.
const BATCHES_MAX: usize = 10_000;

/// Batches of `hot` that were found damaged since the start.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<BTreeSet<i64>>);

impl Store {
    /// A stored batch does not unpack any more: a bit of it is another one now. It is told and counted
    /// once, however often it is read.
    /// `server` is `None` where not even that can be read.
    pub(crate) fn batch_damaged(&self, id: i64, server: Option<ServerId>) {
        let known = &self.inner.shared.damaged_batches.0;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&id) {
            return;
        }
        let is_first = known.is_empty();
        if known.len() < BATCHES_MAX {
            known.insert(id);
        }
        drop(known);
        self.stats().batches_damaged.one();
        let server_id = server.map(|server| server.0);
        if is_first {
            tracing::error!(
                id, server_id, path = %open::path(self.dir()).display(),
                "a stored batch is damaged: what it holds is not served, the rest is; check memory and disk of this machine. Further ones are counted"
            );
        } else {
            tracing::debug!(id, server_id, "a stored batch is damaged");
        }
    }
}

/// Whether SQLite says that the file is not what was written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether a reader met what may be damage: also a value that is none of its column.
pub(super) fn may_be_damage(error: &Error) -> bool {
    let is_odd = matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
    );
    is_odd || is_damage(error)
}

impl StoreError {
    /// Whether the database is damaged; what SQLite said of it.
    pub fn damage(&self) -> Option<String> {
        match self {
            Self::Corrupt { source, .. } => Some(source.to_string()),
            Self::Sqlite(error) if is_damage(error) => Some(error.to_string()),
            Self::Migration { source, .. } => match source {
                rusqlite_migration::Error::RusqliteError { err, .. } if is_damage(err) => {
                    Some(err.to_string())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The first fault of the database; `None` when it is sound. Reads all of it.
pub(super) fn quick_check(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}

/// Rows are missing: right after a restore nobody has them, else pages lost them.
pub(super) fn check_all(conn: &Connection, dir: &Path) -> Result<(), StoreError> {
    quick_check(conn)?.map_or(Ok(()), |why| Err(corrupt(dir, why)))
}

fn corrupt(dir: &Path, why: String) -> StoreError {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let source = rusqlite::Error::SqliteFailure(code, Some(why));
    StoreError::Corrupt { path: open::path(dir), source }
}

/// Leaves word for the next start.
pub(super) fn found(dir: &Path, why: &str) {
    let path = dir.join(open::NAME);
    tracing::error!(
        why, path = %path.display(),
        "the database is damaged: nothing is taken any more, agents keep their batches; the collector ends, and the next start restores the newest backup of `[backup] dir`"
    );
    if let Err(error) = files::replace_private(&dir.join(MARKER), why.as_bytes()) {
        tracing::error!(%error, "that cannot be left for the next start");
    }
}

/// Where the last run met damage: checks all of the database before it is used.
pub(super) fn look_closer(dir: &Path) -> Result<(), StoreError> {
    let marker = dir.join(MARKER);
    let Ok(why) = std::fs::read_to_string(&marker) else { return Ok(()) };
    let path = open::path(dir);
    let checked = open::reader(dir)?
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    match checked {
        Ok(said) if said == "ok" => {
            tracing::warn!(why, path = %path.display(), "the database was taken for damaged and is sound; check memory and disk of this machine");
            std::fs::remove_file(&marker)
                .map_err(|source| StoreError::File { path: marker.clone(), source })
        }
        Ok(said) => Err(corrupt(dir, said)),
        Err(error) => Err(corrupt(dir, error.to_string())),
    }
}

/// Finishes a restore that was interrupted, and removes copies of a backup that was.
pub(super) fn finish_interrupted(dir: &Path) -> Result<(), StoreError> {
    backup::clean(dir);
    backup::finish_interrupted(dir).map(drop).map_err(StoreError::Restore)
}
