//! Opening the database: lock, version, pragmas, migrations, watermarks.
//!
//! Invariant: a database that another collector uses or that a later release wrote is not touched.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::guard::{self, Numbers};
use super::{StoreError, Watermark, migrate};
use crate::model::ServerId;

/// Every migration, in order; `user_version` counts them.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_ledger.sql"),
    include_str!("migrations/0003_incident_server.sql"),
    include_str!("migrations/0004_notify.sql"),
    include_str!("migrations/0005_blocks.sql"),
    include_str!("migrations/0006_owner.sql"),
    include_str!("migrations/0007_guard.sql"),
];

// How pages are given back is settled when the first page is written: before the log.
const WRITER_PRAGMAS: &str = "
PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-65536;
PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;";

const READER_PRAGMAS: &str = "
PRAGMA query_only=ON; PRAGMA cache_size=-16384; PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY;
PRAGMA trusted_schema=OFF;";

/// Name of the database in the data directory.
pub(super) const NAME: &str = super::backup::DATABASE;

/// `auto_vacuum` of databases that can give pages back in steps.
pub(super) const INCREMENTAL: i64 = 2;

/// Largest database that is rewritten at start so that it can give pages back: a second or two.
const REWRITTEN_BYTES_MAX: u64 = 64 << 20;

/// File of the database in the data directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Takes the data directory for this process; held as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("collector.lock");
    let file = |source| StoreError::File { path: path.clone(), source };
    let mut options = File::options();
    let mut lock =
        options.create(true).truncate(false).read(true).write(true).open(&path).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = lock.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let pid = if known { holder.trim().to_owned() } else { "unknown".to_owned() };
            return Err(StoreError::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(file(source)),
    }
    lock.set_len(0).map_err(file)?;
    lock.rewind().map_err(file)?;
    writeln!(lock, "{}", std::process::id()).map_err(file)?;
    Ok(lock)
}

/// Opens the one writing connection and brings the schema up to date.
pub(super) fn writer(dir: &Path) -> Result<Connection, StoreError> {
    let path = path(dir);
    migrate::check(&path)?;
    if !path.exists() {
        create(dir, &path)?;
    }
    let broken = |source: rusqlite::Error| StoreError::from_open(&path, source);
    let mut conn = Connection::open(&path).map_err(broken)?;
    conn.execute_batch(WRITER_PRAGMAS).map_err(broken)?;
    let mode: String =
        conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(broken)?;
    if mode != "wal" {
        return Err(StoreError::NoWal { path });
    }
    conn.set_prepared_statement_cache_capacity(64);
    migrate::migrate(&mut conn, &path)?;
    if let Err(error) = give_back_from_now_on(&conn, dir) {
        tracing::warn!(%error, path = %path.display(), "the database keeps the disk space it took");
    }
    Ok(conn)
}

/// Releases before history was sealed made databases that never get smaller. A small one is rewritten
/// once, where there is room for two more of it; a large one stays as it is.
fn give_back_from_now_on(conn: &Connection, dir: &Path) -> rusqlite::Result<()> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("auto_vacuum")? == INCREMENTAL {
        return Ok(());
    }
    let n_bytes = (pragma("page_count")? * pragma("page_size")?).unsigned_abs();
    let disk = rustix::fs::statvfs(dir);
    let free_bytes = disk.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let path = path(dir);
    let path = path.display();
    if n_bytes > REWRITTEN_BYTES_MAX || free_bytes < 4 * n_bytes {
        tracing::warn!(
            %path, n_bytes, free_bytes,
            "the database was made by an early release and keeps the disk space it took; to change that, stop the collector, back it up and restore it"
        );
        return Ok(());
    }
    conn.execute_batch("PRAGMA auto_vacuum=INCREMENTAL; VACUUM;")?;
    tracing::info!(%path, n_bytes, "the database is rewritten so that it can give disk space back");
    Ok(())
}

/// Makes an empty database under its name at once: a power cut leaves a whole one or none.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let new = dir.join(format!("{NAME}.new"));
    let file = |source| StoreError::File { path: new.clone(), source };
    if new.exists() {
        std::fs::remove_file(&new).map_err(file)?;
    }
    let broken = |source: rusqlite::Error| StoreError::from_open(&new, source);
    let conn = Connection::open(&new).map_err(broken)?;
    conn.execute_batch(
        "PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=MEMORY;
         PRAGMA synchronous=OFF; CREATE TABLE first(n INTEGER); DROP TABLE first;",
    )
    .map_err(broken)?;
    drop(conn);
    File::open(&new).and_then(|made| made.sync_all()).map_err(file)?;
    std::fs::rename(&new, path).map_err(file)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(file)
}

/// Opens one reading connection.
pub(super) fn reader(dir: &Path) -> Result<Connection, StoreError> {
    let path = path(dir);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let broken = |source: rusqlite::Error| StoreError::from_open(&path, source);
    let conn = Connection::open_with_flags(&path, flags).map_err(broken)?;
    conn.execute_batch(READER_PRAGMAS).map_err(broken)?;
    Ok(conn)
}

/// A reading connection for one pass over a whole table: it keeps hardly a page of it. The writer's would keep
/// 64 MiB of what nobody asks for again.
pub(super) fn passer(dir: &Path) -> Result<Connection, StoreError> {
    let conn = reader(dir)?;
    let set = conn.execute_batch("PRAGMA cache_size=-1024");
    set.map_err(|source| StoreError::from_open(&path(dir), source))?;
    Ok(conn)
}

/// The database of a collector that may run or not, for a look that writes nothing: no file beside it
/// either. `None` when there is none, or none that can be read.
#[must_use]
pub fn peek(dir: &Path) -> Option<Connection> {
    let path = path(dir);
    let conn = path.exists().then(|| migrate::untouched(&path).ok()).flatten()?;
    conn.execute_batch(READER_PRAGMAS).ok()?;
    Some(conn)
}

/// Names a database that nobody writes now, so that SQLite makes no file beside it to read it.
pub(super) fn immutable_uri(path: &Path) -> String {
    let name = path.to_string_lossy();
    let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{name}?immutable=1")
}

/// How far each server is committed: the rows of the last flush, then the batches after it.
pub(super) fn watermarks(
    conn: &Connection,
) -> rusqlite::Result<(HashMap<ServerId, Watermark>, i64)> {
    let mut known = HashMap::new();
    let mut query = conn.prepare("SELECT server_id, epoch, seq FROM watermark")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        known.insert(ServerId(row.get(0)?), read_watermark(row)?);
    }
    let upto = "SELECT COALESCE((SELECT v FROM state WHERE k = 'hw_upto'), 0)";
    let mut last: i64 = conn.query_row(upto, [], |row| row.get(0))?;
    let query = format!("SELECT {} FROM hot WHERE id > ?1 ORDER BY id", guard::COLUMNS);
    let mut query = conn.prepare(&query)?;
    let mut rows = query.query([last])?;
    while let Some(row) = rows.next()? {
        last = last.max(row.get(0)?);
        // What is damaged says nothing of its server: at worst the agent sends that batch again.
        let Some(Numbers { head, epoch, seq, .. }) = Numbers::read(row) else { continue };
        let mark: &mut Watermark = known.entry(head.server).or_default();
        *mark = Watermark { epoch, seq }.max(*mark);
    }
    Ok((known, last))
}

fn read_watermark(row: &rusqlite::Row<'_>) -> rusqlite::Result<Watermark> {
    let (epoch, seq): (i64, i64) = (row.get(1)?, row.get(2)?);
    Ok(Watermark { epoch: epoch.cast_unsigned(), seq: seq.cast_unsigned() })
}

impl StoreError {
    /// Names the file and what to do about it.
    pub(super) fn from_open(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, source }
            }
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
                Self::Full { path, source: source.into() }
            }
            _ => Self::Open { path, source },
        }
    }
}
