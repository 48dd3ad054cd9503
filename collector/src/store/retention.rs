//! What leaves, in this order: by age, then the oldest while there is too much, with its disk space.
//!
//! Day files leave after `[retention] raw`, once they are summed up; month files and old rows of the
//! database after `[retention] rollup`, both counted to a time that agents confirm (`Keeper::proven`).
//! While the data directory takes more than `disk_bytes_max`, or too little of its disk is free, the
//! oldest day files leave, then the oldest month files, then the incidents resolved longest ago; what is
//! of the last 24 hours, and what is open, never does. What was put aside because it was damaged or
//! replaced, and what backups need while they run, makes no history leave; only people remove it.
//!
//! `state.raw_from` says from which second on samples are kept: what comes for the time before is not
//! sealed any more. It is raised, and the `sealed` rows before it go, in one transaction before the file
//! is removed. A crash between the two leaves a file older than `raw_from`, removed by the next pass.
//!
//! Nothing here stops ingest: the writer is given at most [`ROWS_MAX`] rows or [`PAGES_MAX`] pages at a
//! time, and serves what queued up before the next.

pub(super) mod disk;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use wire::UnixMillis;

use self::disk::{Files, SpaceOf};
use super::StoreError;
use super::hours::{Day, Month};
use super::keeper::Keeper;
use super::rollup::{self, month::MonthFile};
use crate::selfstats::DiskUse;

/// Rows a job of retention deletes at most: about 10 ms of the writer.
pub(super) const ROWS_MAX: usize = 1000;
/// Pages a job of retention gives back at most: 1 MiB to move.
pub(super) const PAGES_MAX: u64 = 256;
/// No file leaves for want of space that holds an hour so young.
const YOUNG: Duration = Duration::from_secs(86_400);
/// How much longer than `raw` a day is kept that could not be summed up.
const GRACE: Duration = Duration::from_secs(7 * 86_400);

/// Drops what is due, and publishes what the data directory takes.
pub(super) async fn pass(keeper: &Keeper, now: UnixMillis) -> Result<(), StoreError> {
    pass_on(keeper, now, SPACE).await
}

#[cfg(not(test))]
const SPACE: SpaceOf = disk::space;
/// Tests are of data, whatever room the machine has that runs them; those of the disk tell how much.
#[cfg(test)]
const SPACE: SpaceOf = |dir| {
    let real = disk::space(dir)?;
    Ok(disk::Space { free_bytes: real.disk_bytes / 2, ..real })
};

async fn pass_on(keeper: &Keeper, now: UnixMillis, space: SpaceOf) -> Result<(), StoreError> {
    let proven = keeper.proven(now);
    by_age(keeper, proven, space).await?;
    if let Some(at) = proven {
        rows::drop_old(keeper, at).await?;
    }
    let files = look(keeper, space).await?;
    tell_strangers(keeper, &files)?;
    let n_over = by_size(keeper, proven.unwrap_or(now), files).await?;
    rows::give_back(keeper, n_over > 0).await?;
    publish(keeper, space).await
}

/// From which second on samples are kept; what is older is not sealed any more. 0 at first.
pub(super) fn raw_from(conn: &Connection) -> rusqlite::Result<i64> {
    let found = conn
        .prepare_cached("SELECT v FROM state WHERE k = 'raw_from'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// The days with sealed hours, and whether all of these are summed up; and [`raw_from`].
fn sealed_days(conn: &Connection) -> rusqlite::Result<(BTreeMap<Day, bool>, i64)> {
    let mut query = conn.prepare_cached("SELECT t0, parts <= rolled FROM sealed ORDER BY t0")?;
    let mut rows = query.query([])?;
    let mut days = BTreeMap::new();
    while let Some(row) = rows.next()? {
        if let Some(day) = Day::of(row.get(0)?) {
            *days.entry(day).or_insert(true) &= row.get::<_, bool>(1)?;
        }
    }
    drop(rows);
    Ok((days, raw_from(conn)?))
}

async fn look(keeper: &Keeper, space: SpaceOf) -> Result<Files, StoreError> {
    let dir = keeper.dir.clone();
    let found = tokio::task::spawn_blocking(move || disk::look(&dir, space)).await;
    let found = found.map_err(|_| StoreError::Closed)?;
    found.map_err(|source| StoreError::File { path: keeper.dir.clone(), source })
}

/// Drops days and months past their age at `now`, the oldest first; where that is not known, only what was
/// to leave before.
async fn by_age(
    keeper: &Keeper,
    now: Option<UnixMillis>,
    space: SpaceOf,
) -> Result<(), StoreError> {
    let files = look(keeper, space).await?;
    let (sealed, from) = keeper.store.read(sealed_days).await?;
    let until = |age| now.map_or(i64::MIN, |now| now.minus(age).second());
    let raw_until = until(keeper.retention.raw.0);
    let last = until(keeper.retention.raw.0.saturating_add(GRACE));
    let days: BTreeSet<Day> = files.days.keys().chain(sealed.keys()).copied().collect();
    for day in days {
        let is_past = day.end_second() <= raw_until || day.end_second() <= from;
        // A file that is gone has nothing left to be summed up.
        let is_done = sealed.get(&day).is_none_or(|rolled| *rolled)
            || !files.days.contains_key(&day)
            || day.end_second() <= last;
        if !is_past || !is_done {
            break; // those after it are younger, and `raw_from` is one for all
        }
        let is_rolled = sealed.get(&day).is_none_or(|rolled| *rolled);
        drop_day(keeper, &files, day, Why { text: "age", is_rolled }).await?;
    }
    let rollup_until = until(keeper.retention.rollup.0);
    for (month, n_bytes) in &files.months {
        if month.end_second() <= rollup_until {
            drop_month(keeper, *month, *n_bytes, "age").await?;
        }
    }
    // Of files that somebody else removed as well.
    let kept_from = Month::of(rollup_until).map_or(i64::MIN, Month::first_second);
    forget_sums(keeper, kept_from).await
}

/// Drops the oldest while there is too much; returns how many bytes too much remain.
async fn by_size(keeper: &Keeper, now: UnixMillis, files: Files) -> Result<u64, StoreError> {
    let max = keeper.retention.disk_bytes_max.0;
    let (mut over, why) = files.over(max);
    tell_aside(keeper, &files, files.all_bytes.saturating_sub(max));
    if over == 0 {
        keeper.store.stats().disk_use.set_over(false);
        return Ok(0);
    }
    let (sealed, _) = keeper.store.read(sealed_days).await?;
    // What is asked for most stays, however large: the last 24 hours.
    let ended = rollup::over_before(keeper, now).min(now.minus(YOUNG).second());
    let days: Vec<_> = files.days.iter().map(|(day, n_bytes)| (*day, *n_bytes)).collect();
    for (day, n_bytes) in days.into_iter().filter(|(day, _)| day.end_second() <= ended) {
        if over == 0 || keeper.stop.is_cancelled() {
            return Ok(over);
        }
        let is_rolled = sealed.get(&day).is_none_or(|rolled| *rolled);
        drop_day(keeper, &files, day, Why { text: why, is_rolled }).await?;
        over = over.saturating_sub(n_bytes);
    }
    let open = Month::of(ended);
    for (month, n_bytes) in &files.months {
        if over == 0 || open.is_none_or(|open| *month >= open) {
            break;
        }
        drop_month(keeper, *month, *n_bytes, why).await?;
        over = over.saturating_sub(*n_bytes);
    }
    if over > 0 {
        rows::drop_incidents(keeper, now, why).await?;
        let stats = keeper.store.stats();
        if !stats.disk_use.set_over(true) {
            tracing::warn!(
                n_bytes = over,
                why,
                disk_bytes_max = max,
                "the data directory stays too large: what is left of history is young or open"
            );
        }
    }
    Ok(over)
}

/// Why a day leaves.
#[derive(Clone, Copy)]
struct Why {
    text: &'static str,
    /// Its sums are in its month file.
    is_rolled: bool,
}

async fn drop_day(keeper: &Keeper, files: &Files, day: Day, why: Why) -> Result<(), StoreError> {
    let end = day.end_second();
    while step(keeper, move |tx| leave(tx, end)).await? == ROWS_MAX - 1 {}
    keeper.store.hot_mut().forget_cuts(end);
    let Some(n_bytes) = files.days.get(&day) else { return Ok(()) };
    let file = day.file();
    unlink(&keeper.dir, &file)?;
    keeper.store.stats().days_dropped.one();
    let (file, n_bytes, why, is_rolled) = (file.display(), *n_bytes, why.text, why.is_rolled);
    if why == "age" && is_rolled {
        tracing::info!(%file, n_bytes, why, "a day of samples left");
    } else {
        tracing::warn!(%file, n_bytes, why, is_rolled, "a day of samples left early, or without its sums");
    }
    Ok(())
}

/// Keeps samples from `second` on only; returns how many rows it deleted, at most one less than
/// [`ROWS_MAX`]: one more says from when.
fn leave(tx: &Connection, second: i64) -> rusqlite::Result<usize> {
    tx.prepare_cached(
        "INSERT INTO state(k, v) VALUES ('raw_from', ?1) ON CONFLICT DO UPDATE SET v = max(v, ?1)",
    )?
    .execute([second])?;
    tx.prepare_cached(
        "DELETE FROM sealed WHERE t0 IN (SELECT t0 FROM sealed WHERE t0 < ?1 ORDER BY t0 LIMIT ?2)",
    )?
    .execute(params![second, ROWS_MAX as i64 - 1])
}

/// Runs one small job of retention on the writer. Batches that queued up are served between two.
async fn step<T, F>(keeper: &Keeper, job: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let counted = move |tx: &rusqlite::Transaction<'_>| {
        let before = tx.total_changes();
        let done = job(tx)?;
        let n_rows = tx.total_changes() - before;
        debug_assert!(n_rows <= ROWS_MAX as u64, "{n_rows} rows in one job of retention");
        Ok(done)
    };
    keeper.store.write(counted).await
}

/// Forgets that there are sums of the days before this second: they leave, and nobody is to miss them.
async fn forget_sums(keeper: &Keeper, second: i64) -> Result<(), StoreError> {
    let first = "SELECT min(day) FROM summed";
    let read =
        move |conn: &Connection| conn.query_row(first, [], |row| row.get::<_, Option<i64>>(0));
    while keeper.store.read(read).await?.is_some_and(|day| day < second) {
        let some = "DELETE FROM summed WHERE day IN
                    (SELECT day FROM summed WHERE day < ?1 ORDER BY day LIMIT ?2)";
        step(keeper, move |tx| tx.execute(some, params![second, ROWS_MAX as i64 - 1])).await?;
    }
    Ok(())
}

/// Drops the oldest month file.
async fn drop_month(
    keeper: &Keeper,
    month: Month,
    n_bytes: u64,
    why: &'static str,
) -> Result<(), StoreError> {
    forget_sums(keeper, month.end_second()).await?;
    let file = month.file();
    unlink(&keeper.dir, &file)?;
    keeper.store.stats().months_dropped.one();
    let file = file.display();
    if why == "age" {
        tracing::info!(%file, n_bytes, why, "a month of hourly sums left");
    } else {
        tracing::warn!(%file, n_bytes, why, "a month of hourly sums left early");
    }
    Ok(())
}

/// Removes a database file, then what SQLite keeps beside it: never a log whose file is there.
fn unlink(dir: &Path, file: &Path) -> Result<(), StoreError> {
    let path = dir.join(file);
    for suffix in disk::SUFFIXES {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        remove(Path::new(&name))?;
    }
    let folder = path.parent().unwrap_or(dir);
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| StoreError::File { path: folder.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Removes logs whose file is gone; says once what is there that the collector did not make.
fn tell_strangers(keeper: &Keeper, files: &Files) -> Result<(), StoreError> {
    for path in &files.leftovers {
        remove(path)?;
        tracing::info!(path = %path.display(), "a log without its file is removed");
    }
    for path in &files.strangers {
        if keeper.is_news(path) {
            tracing::warn!(path = %path.display(), "not a file of the collector; it is left alone, and counts for disk_bytes_max");
        }
    }
    Ok(())
}

/// Says once of what was put aside that the directory is larger than it may be with it.
fn tell_aside(keeper: &Keeper, files: &Files, n_over: u64) {
    let n_aside: u64 = files.aside.values().sum();
    if n_over == 0 || n_aside == 0 {
        return;
    }
    for (path, n_bytes) in &files.aside {
        if keeper.is_news(path) {
            tracing::warn!(path = %path.display(), n_bytes, "the data directory is over disk_bytes_max with what was put aside; look at it, then move it away or remove it");
        }
    }
}

/// Says what the data directory takes now.
async fn publish(keeper: &Keeper, space: SpaceOf) -> Result<(), StoreError> {
    let files = look(keeper, space).await?;
    let oldest = |conn: &Connection| {
        let first = "SELECT min(t0) FROM sealed WHERE parts > 0";
        conn.query_row(first, [], |row| row.get::<_, Option<i64>>(0))
    };
    let oldest_raw = keeper.store.read(oldest).await?;
    let (dir, first) = (keeper.dir.clone(), files.months.keys().next().copied());
    let oldest_rollup = tokio::task::spawn_blocking(move || {
        let month = MonthFile::open(&dir, first?).ok()??;
        month.oldest_day().ok().flatten()
    });
    let oldest_rollup = oldest_rollup.await.map_err(|_| StoreError::Closed)?;
    let max = keeper.retention.disk_bytes_max.0;
    keeper.store.stats().disk_use.set(DiskUse {
        hot_bytes: files.hot_bytes,
        blocks_bytes: files.days.values().sum(),
        rollup_bytes: files.months.values().sum(),
        all_bytes: files.all_bytes,
        bytes_max: max,
        free_bytes: files.space.free_bytes,
        is_over: keeper.store.stats().disk_use.is_over(),
        raw_from: oldest_raw.map(UnixMillis::from_second),
        rollup_from: oldest_rollup.map(UnixMillis::from_second),
    });
    Ok(())
}
