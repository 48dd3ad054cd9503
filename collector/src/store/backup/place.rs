//! Puts restored files in the place of old ones so that a crash leaves all of the old or all of the new.
//!
//! All that is new is written to `restore.tmp`, then that is renamed to `restore.ready`: from then on the
//! restore is done, and whoever opens the directory next finishes it. What was there is moved to a dated
//! folder, nothing is deleted. Only under the lock of the directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::super::hours::Day;
use super::super::open;
use super::{BackupError, DATABASE};
use crate::files;

const PARTIAL: &str = "restore.tmp";
const READY: &str = "restore.ready";
const PLAN: &str = "plan.json";

/// What is to be done with what is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Folder for what is replaced.
    pub(super) aside: String,
    /// Names in the data directory whose old files go there.
    pub(super) replaced: Vec<String>,
    /// Of these, those for which there is something new.
    pub(super) members: Vec<String>,
    /// Day files stay where they are, so what is cut out of them is kept aside.
    pub(super) keeps_days: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Folder of what was replaced; `None` when nothing was.
    pub aside: Option<PathBuf>,
    /// Parts of hours taken out of day files because the database does not know them.
    pub n_parts_cut: u64,
}

/// A new empty folder for what is to be put in place.
pub(super) fn begin(dir: &Path) -> Result<PathBuf, BackupError> {
    let partial = dir.join(PARTIAL);
    let file = |error: io::Error| BackupError::file(&partial, &error);
    remove(&partial).map_err(file)?;
    files::create_private_dir(&partial).map_err(file)?;
    Ok(partial)
}

/// Gives up what was begun.
pub(super) fn give_up(dir: &Path) {
    if let Err(error) = remove(&dir.join(PARTIAL)) {
        tracing::warn!(%error, dir = %dir.display(), "files of a restore stay behind");
    }
}

/// From here on the restore is done, whatever happens.
pub(super) fn commit(dir: &Path, plan: &Plan) -> Result<Finished, BackupError> {
    let partial = dir.join(PARTIAL);
    let file = |error: io::Error| BackupError::file(&partial, &error);
    let text = serde_json::to_vec(plan).expect("our own types are JSON");
    files::replace_private(&partial.join(PLAN), &text).map_err(file)?;
    give_to_owner(dir, &partial).map_err(file)?;
    sync(&partial).map_err(file)?;
    fs::rename(&partial, dir.join(READY)).and_then(|()| sync_dir(dir)).map_err(file)?;
    apply(dir, plan)
}

/// Finishes a restore that was interrupted after all of it was ready, and removes what is left of one that
/// was interrupted before; `None` when there was none to finish.
pub fn finish_interrupted(dir: &Path) -> Result<Option<Finished>, BackupError> {
    let partial = dir.join(PARTIAL);
    if partial.exists() {
        tracing::warn!(dir = %dir.display(), "a restore was interrupted and changed nothing; begin it again");
        remove(&partial).map_err(|error| BackupError::file(&partial, &error))?;
    }
    let path = dir.join(READY).join(PLAN);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Without a plan it was about to be removed.
            remove(&dir.join(READY)).map_err(|error| BackupError::file(&path, &error))?;
            return Ok(None);
        }
        Err(error) => return Err(BackupError::file(&path, &error)),
    };
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| {
        let what = format!("{}: the plan of a restore cannot be read: {error}", path.display());
        BackupError::new(what, "restore the backup again")
    })?;
    let finished = apply(dir, &plan)?;
    tracing::warn!(dir = %dir.display(), "a restore that was interrupted is finished");
    Ok(Some(finished))
}

/// Every step can be repeated: what is still in `ready` is not in place yet.
fn apply(dir: &Path, plan: &Plan) -> Result<Finished, BackupError> {
    let (ready, aside) = (dir.join(READY), dir.join(&plan.aside));
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| BackupError::file(&path, &error)
    };
    for name in &plan.replaced {
        let is_old = !plan.members.contains(name) || ready.join(name).exists();
        let old = dir.join(name);
        if is_old && old.symlink_metadata().is_ok() {
            files::create_private_dir(&aside).map_err(file(&aside))?;
            fs::rename(&old, aside.join(name)).map_err(file(&old))?;
        }
    }
    sync_dir(dir).map_err(file(dir))?;
    for name in &plan.members {
        let new = ready.join(name);
        if new.exists() {
            fs::rename(&new, dir.join(name)).map_err(file(&new))?;
        }
    }
    sync_dir(dir).map_err(file(dir))?;
    let n_parts_cut = cut(dir, plan.keeps_days.then_some(&aside))?;
    let was_replaced = aside.exists();
    if was_replaced {
        give_to_owner(dir, &aside).map_err(file(&aside))?;
    }
    fs::remove_file(ready.join(PLAN)).map_err(file(&ready))?;
    remove(&ready).and_then(|()| sync_dir(dir)).map_err(file(&ready))?;
    Ok(Finished { aside: was_replaced.then_some(aside), n_parts_cut })
}

/// Takes parts out of day files, and days out of month files, that the database does not know: agents
/// send them anew, and ids that were given since name something else by now. A file is copied to `keep`
/// before.
fn cut(dir: &Path, keep: Option<&PathBuf>) -> Result<u64, BackupError> {
    let path = dir.join(DATABASE);
    let known = Known::read(&path).map_err(|error| BackupError::sqlite(&path, &error))?;
    let mut n_cut = 0;
    for name in super::copy::names(dir)?.iter().filter(|name| super::is_database(name)) {
        let file = dir.join(name);
        let done = if name.starts_with("blocks/") {
            cut_day(&file, name, &known, keep)
        } else {
            cut_month(&file, name, &known, keep)
        };
        match done {
            Ok(n) => n_cut += n,
            Err(CutError::Sqlite(error)) => match keep {
                // Nobody knows what is in it that the database does not know.
                Some(keep) => {
                    tracing::warn!(%error, file = name, "a file cannot be compared and is put aside");
                    put_aside(dir, name, keep).map_err(|error| BackupError::file(&file, &error))?;
                }
                // Of the backup, and as it was in it: found and told by whoever reads it.
                None => {
                    tracing::warn!(%error, file = name, "a file is not compared with the database");
                }
            },
            Err(CutError::Keep(error)) => return Err(BackupError::file(&file, &error)),
        }
    }
    Ok(n_cut)
}

/// Moves a file of days or months to where it is kept, with what SQLite has beside it.
fn put_aside(dir: &Path, name: &str, keep: &Path) -> io::Result<()> {
    files::create_private_dir(keep.join(name).parent().unwrap_or(keep))?;
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("{name}{suffix}");
        if dir.join(&name).exists() {
            fs::rename(dir.join(&name), keep.join(&name))?;
        }
    }
    Ok(())
}

enum CutError {
    Sqlite(rusqlite::Error),
    Keep(io::Error),
}

impl From<rusqlite::Error> for CutError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn cut_day(
    file: &Path,
    name: &str,
    known: &Known,
    keep: Option<&PathBuf>,
) -> Result<u64, CutError> {
    let mut conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut query =
        conn.prepare("SELECT t0, part FROM presence UNION SELECT t0, part FROM hour")?;
    let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found = found.collect::<rusqlite::Result<Vec<(i64, u32)>>>()?;
    drop(query);
    let unknown: Vec<_> =
        found.into_iter().filter(|(t0, part)| *part >= known.parts(*t0)).collect();
    if unknown.is_empty() {
        return Ok(0);
    }
    keep_copy(&conn, file, name, keep)?;
    let tx = conn.transaction()?;
    for table in tables(&tx, &["t0", "part"])? {
        let delete = format!("DELETE FROM {table} WHERE t0 = ?1 AND part = ?2");
        for (t0, part) in &unknown {
            tx.execute(&delete, params![t0, part])?;
        }
    }
    tx.commit()?;
    Ok(unknown.len() as u64)
}

/// Which rows of a month file the database does not know: of later days, and of ids that it gives anew.
fn unknown(table: &str) -> &'static str {
    if table == "series" {
        "day >= ?1 OR server_id > ?2 OR metric > ?3"
    } else {
        "day >= ?1 OR server_id > ?2 OR ?3 < 0"
    }
}

fn cut_month(
    file: &Path,
    name: &str,
    known: &Known,
    keep: Option<&PathBuf>,
) -> Result<u64, CutError> {
    let from = known.not_rolled_from().unwrap_or(i64::MAX);
    let mut conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let tables = tables(&conn, &["day", "server_id"])?;
    let mut n_rows = 0_i64;
    for table in &tables {
        let count = format!("SELECT count(*) FROM {} WHERE {}", table, unknown(table));
        let values = [from, known.last_server, known.last_metric];
        n_rows += conn.query_row(&count, values, |row| row.get::<_, i64>(0))?;
    }
    if n_rows == 0 {
        return Ok(0);
    }
    keep_copy(&conn, file, name, keep)?;
    let tx = conn.transaction()?;
    for table in tables {
        let delete = format!("DELETE FROM {} WHERE {}", table, unknown(&table));
        tx.execute(&delete, [from, known.last_server, known.last_metric])?;
    }
    tx.commit()?;
    Ok(0)
}

/// Tables that have these columns.
fn tables(conn: &Connection, columns: &[&str; 2]) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(
        "SELECT s.name FROM sqlite_schema s, pragma_table_info(s.name) c
         WHERE s.type = 'table' AND c.name IN (?1, ?2) GROUP BY s.name HAVING count(*) = 2",
    )?;
    query.query_map(columns, |row| row.get(0))?.collect()
}

/// Copies a file to where it is kept, before it is cut. Nobody else has it open: the directory is locked.
fn keep_copy(
    conn: &Connection,
    file: &Path,
    name: &str,
    keep: Option<&PathBuf>,
) -> Result<(), CutError> {
    let Some(keep) = keep else { return Ok(()) };
    let copy = keep.join(name);
    // One that is there was copied before an interruption: the one here is cut by now.
    if copy.exists() {
        return Ok(());
    }
    let folder = copy.parent().unwrap_or(keep);
    files::create_private_dir(folder).map_err(CutError::Keep)?;
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    let temp = folder.join(".copy");
    fs::copy(file, &temp).map_err(CutError::Keep)?;
    File::open(&temp).and_then(|temp| temp.sync_all()).map_err(CutError::Keep)?;
    fs::rename(&temp, &copy).map_err(CutError::Keep)
}

/// What the database says of day and month files.
struct Known {
    /// Hours that are sealed, rising: how many parts each has, and how many of them are rolled up.
    hours: Vec<(i64, u32, u32)>,
    /// The highest ids that were given; those above name something else one day.
    last_server: i64,
    last_metric: i64,
}

impl Known {
    fn read(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(open::immutable_uri(path), flags)?;
        let has_any = "SELECT count(*) FROM sqlite_schema WHERE name = 'sealed'";
        if conn.query_row(has_any, [], |row| row.get::<_, i64>(0))? == 0 {
            // Of a release that sealed nothing.
            return Ok(Self { hours: Vec::new(), last_server: i64::MAX, last_metric: i64::MAX });
        }
        let last = |table: &str| {
            let last = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
            let last = conn.query_row(last, [table], |row| row.get::<_, i64>(0)).optional()?;
            Ok::<_, rusqlite::Error>(last.unwrap_or(i64::MAX))
        };
        let (last_server, last_metric) = (last("server")?, last("metric")?);
        let mut query = conn.prepare("SELECT t0, parts, rolled FROM sealed ORDER BY t0")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let hours = rows.collect::<rusqlite::Result<_>>()?;
        Ok(Self { hours, last_server, last_metric })
    }

    fn parts(&self, t0: i64) -> u32 {
        let found = self.hours.binary_search_by_key(&t0, |hour| hour.0);
        found.map_or(0, |ix| self.hours[ix].1)
    }

    /// First second of the first day that month files cannot have yet. What is older than every sealed
    /// hour stays: its hours left by age.
    fn not_rolled_from(&self) -> Option<i64> {
        let day = |t0: i64| Day::of(t0).map(Day::first_second);
        let rolled = self.hours.iter().rev().find(|(.., rolled)| *rolled > 0);
        match rolled {
            Some((t0, ..)) => Day::of(*t0).map(Day::end_second),
            None => self.hours.first().and_then(|(t0, ..)| day(*t0)),
        }
    }
}

/// `PREFIX-20261130T120000Z`, free in `dir`.
pub(super) fn dated(dir: &Path, prefix: &str, now: UnixMillis) -> String {
    let stamp = stamp(now);
    let names = (0..1000).map(|n| match n {
        0 => format!("{prefix}-{stamp}"),
        n => format!("{prefix}-{stamp}-{n}"),
    });
    let mut free = names.into_iter().filter(|name| !dir.join(name).exists());
    free.next().unwrap_or_else(|| format!("{prefix}-{stamp}-x"))
}

/// `20261130T120000Z`
pub(super) fn stamp(at: UnixMillis) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Where root works for a collector that runs as another user, that user has to own the files.
pub(super) fn give_to_owner(dir: &Path, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = fs::metadata(dir)?;
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))?;
    if path.is_dir() {
        for inner in fs::read_dir(path)? {
            give_to_owner(dir, &inner?.path())?;
        }
    }
    Ok(())
}

/// Brings a folder and all in it to the disk.
fn sync(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for inner in fs::read_dir(path)? {
            sync(&inner?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
