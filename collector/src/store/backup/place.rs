//! Puts restored files in the place of old ones so that a crash leaves all of the old or all of the new.
//!
//! All that is new is written to `restore.tmp`, then that is renamed to `restore.ready`: from then on the
//! restore is done, and whoever opens the directory next finishes it. What was there is moved to a dated
//! folder, nothing is deleted. Only under the lock of the directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

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

/// Takes parts out of day files that the database does not know: agents send them anew, and ids that were
/// given since name something else by now. A file is copied to `keep` before.
fn cut(dir: &Path, keep: Option<&PathBuf>) -> Result<u64, BackupError> {
    let path = dir.join(DATABASE);
    let known = known_parts(&path).map_err(|error| BackupError::sqlite(&path, &error))?;
    let mut n_cut = 0;
    for name in super::copy::names(dir)?.iter().filter(|name| name.starts_with("blocks/")) {
        let file = dir.join(name);
        match cut_file(&file, name, &known, keep) {
            Ok(n) => n_cut += n,
            // Damaged: found and told by whoever reads it.
            Err(CutError::Sqlite(error)) => {
                tracing::warn!(%error, file = name, "a day file is not compared with the database");
            }
            Err(CutError::Keep(error)) => return Err(BackupError::file(&file, &error)),
        }
    }
    Ok(n_cut)
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

fn cut_file(
    file: &Path,
    name: &str,
    known: &[(i64, u32)],
    keep: Option<&PathBuf>,
) -> Result<u64, CutError> {
    let mut conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut query =
        conn.prepare("SELECT t0, part FROM presence UNION SELECT t0, part FROM hour")?;
    let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found = found.collect::<rusqlite::Result<Vec<(i64, u32)>>>()?;
    drop(query);
    let parts = |t0| known.binary_search_by_key(&t0, |known| known.0).map_or(0, |ix| known[ix].1);
    let unknown: Vec<_> = found.into_iter().filter(|(t0, part)| *part >= parts(*t0)).collect();
    if unknown.is_empty() {
        return Ok(0);
    }
    if let Some(keep) = keep {
        let copy = keep.join(name);
        // One that is there was copied before an interruption: the one here is cut by now.
        if !copy.exists() {
            let folder = copy.parent().unwrap_or(keep);
            files::create_private_dir(folder).map_err(CutError::Keep)?;
            // Nobody else has it open: the directory is locked.
            conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
            let temp = folder.join(".copy");
            fs::copy(file, &temp).map_err(CutError::Keep)?;
            File::open(&temp).and_then(|temp| temp.sync_all()).map_err(CutError::Keep)?;
            fs::rename(&temp, &copy).map_err(CutError::Keep)?;
        }
    }
    let tx = conn.transaction()?;
    let tables: Vec<String> = {
        let mut query = tx.prepare(
            "SELECT s.name FROM sqlite_schema s, pragma_table_info(s.name) c
             WHERE s.type = 'table' AND c.name IN ('t0', 'part') GROUP BY s.name HAVING count(*) = 2",
        )?;
        query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for (t0, part) in &unknown {
        for table in &tables {
            let delete = format!("DELETE FROM {table} WHERE t0 = ?1 AND part = ?2");
            tx.execute(&delete, params![t0, part])?;
        }
    }
    tx.commit()?;
    Ok(unknown.len() as u64)
}

/// Hours that are sealed, rising, and how many parts each has.
fn known_parts(path: &Path) -> rusqlite::Result<Vec<(i64, u32)>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(open::immutable_uri(path), flags)?;
    let has_any = "SELECT count(*) FROM sqlite_schema WHERE name = 'sealed'";
    if conn.query_row(has_any, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new()); // of a release that sealed nothing
    }
    let mut query = conn.prepare("SELECT t0, parts FROM sealed ORDER BY t0")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
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
