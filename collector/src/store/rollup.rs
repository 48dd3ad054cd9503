//! Month files: what is kept of each hour for `[retention] rollup`, summed up once its day is over.
//!
//! A day is due when its last hour is sealed and what comes a little late would be: then each series of
//! each server gets a row of its hours, and each server one of its sites. It is read from the day file
//! only, written to the month file in the order of keys, and at last noted in `sealed.rolled` through
//! the writer. A crash before that repeats the day, which replaces the same rows by the same.
//!
//! What is sealed later still (`parts > rolled`) sums the day up again, of the servers it is about.
//! Damaged blocks are left out and reported; an hour that was summed up before its block broke stays.

pub(crate) mod month;
pub(crate) mod rolled;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::catalog::{self, Kind};

use self::month::{MonthFile, Rows};
use self::rolled::{HOURS, Rolled, SeriesDay, SitesDay, merge_parts};
use super::StoreError;
use super::blocks::{BlockError, Column, DayFile, Place};
use super::hours::{Day, HOUR_S};
use super::keeper::Keeper;
use super::quarantine::{COUNTS, Damage};
use crate::errors;
use crate::model::ServerId;

/// Servers summed up at once: 24 sums of one metric of each are in memory, some megabytes.
const SERVERS_AT_ONCE: usize = 256;
/// Rows of one transaction of a month file, about a megabyte.
const ROWS_A_COMMIT: usize = 2048;

/// A sealed hour and how much of it is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hour {
    t0: i64,
    parts: u32,
    rolled: u32,
}

/// Sums up the days that are due, the oldest first. A day that fails stops no other one.
pub(super) async fn pass(keeper: &Keeper, now: UnixMillis) -> Result<(), StoreError> {
    let upto = over_before(keeper, now);
    let found = keeper.store.read(move |conn| Ok((due(conn, upto)?, counters(conn)?))).await?;
    let (days, counters) = found;
    let mut failed = None;
    for (day, hours) in days {
        if keeper.stop.is_cancelled() {
            break;
        }
        let known = keeper.store.quarantine();
        if known.has_file(&day.file()) || known.has_file(&day.month().file()) {
            continue;
        }
        if let Err(error) = sum_up(keeper, day, hours, &counters).await {
            let (error, file) = (errors::chain(&error), day.file());
            tracing::error!(error, file = %file.display(), "a day could not be summed up; tried again");
            failed = Some(error);
        }
    }
    match failed {
        None => Ok(()),
        Some(error) => Err(StoreError::DayFile { path: "rollup".into(), source: error.into() }),
    }
}

/// Days that end before this second are over: their hours are sealed, and what was a little late too.
pub(super) fn over_before(keeper: &Keeper, now: UnixMillis) -> i64 {
    let hour = Duration::from_secs(HOUR_S.unsigned_abs());
    let waits = hour + keeper.pace.seal_after.0 + keeper.pace.late_after.0;
    now.minus(waits).second()
}

/// The days that are over and have hours that are not summed up, with all their sealed hours.
fn due(conn: &Connection, upto: i64) -> rusqlite::Result<BTreeMap<Day, Vec<Hour>>> {
    let mut query = conn.prepare_cached("SELECT t0, parts, rolled FROM sealed ORDER BY t0")?;
    let mut rows = query.query([])?;
    let mut days: BTreeMap<Day, Vec<Hour>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let hour = Hour { t0: row.get(0)?, parts: row.get(1)?, rolled: row.get(2)? };
        if let Some(day) = Day::of(hour.t0).filter(|day| day.end_second() <= upto) {
            days.entry(day).or_default().push(hour);
        }
    }
    days.retain(|_, hours| hours.iter().any(|hour| hour.parts > hour.rolled));
    Ok(days)
}

/// Ids of the series that are counters.
fn counters(conn: &Connection) -> rusqlite::Result<BTreeSet<i64>> {
    let mut query = conn.prepare_cached("SELECT metric, name FROM metric")?;
    let mut rows = query.query([])?;
    let mut counters = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(1)?.as_str()?;
        if catalog::find(name).is_some_and(|metric| metric.kind == Kind::Counter) {
            counters.insert(row.get(0)?);
        }
    }
    Ok(counters)
}

async fn sum_up(
    keeper: &Keeper,
    day: Day,
    hours: Vec<Hour>,
    counters: &BTreeSet<i64>,
) -> Result<(), StoreError> {
    let work = Work {
        dir: keeper.dir.clone(),
        day,
        hours: hours.clone(),
        counters: counters.clone(),
        stop: keeper.stop.clone(),
        damages: Vec::new(),
        lost: 0,
        lacking: 0,
        is_missing: false,
        n_rows: 0,
    };
    let done = tokio::task::spawn_blocking(move || work.run()).await;
    let (ended, work) = done.map_err(|_| StoreError::Closed)?;
    for damage in work.damages {
        keeper.store.quarantine().report(damage);
    }
    if work.is_missing && keeper.is_news(&day.file()) {
        keeper.store.stats().day_files_missing.one();
        let file = day.file();
        tracing::error!(file = %file.display(), "a day file is gone; put it back from a backup");
    }
    let history =
        |error: BlockError| StoreError::DayFile { path: day.month().file(), source: error.into() };
    if !ended.map_err(history)? {
        return Ok(());
    }
    let changed: Vec<Hour> = hours.into_iter().filter(|hour| hour.parts > hour.rolled).collect();
    let n_hours = changed.len() as u64;
    let has_rows = work.n_rows > 0;
    let note = move |tx: &rusqlite::Transaction<'_>| {
        if has_rows {
            tx.execute("INSERT OR IGNORE INTO summed(day) VALUES (?1)", [day.first_second()])?;
        }
        note_rolled(tx, &changed)
    };
    keeper.store.write(note).await?;
    keeper.store.stats().hours_rolled.add(n_hours);
    tracing::debug!(file = %day.file().display(), n_hours, "a day is summed up");
    Ok(())
}

/// Notes how many parts of hours the month file has. At most 24 rows.
fn note_rolled(tx: &Connection, hours: &[Hour]) -> rusqlite::Result<()> {
    let mut update = tx.prepare_cached(
        "UPDATE sealed SET rolled = ?2 WHERE t0 = ?1 AND rolled < ?2 AND parts >= ?2",
    )?;
    for hour in hours {
        update.execute(params![hour.t0, hour.parts])?;
    }
    Ok(())
}

/// One day, on its own thread.
struct Work {
    dir: PathBuf,
    day: Day,
    hours: Vec<Hour>,
    counters: BTreeSet<i64>,
    stop: CancellationToken,
    damages: Vec<Damage>,
    /// A bit for each hour with a part that is lost, or whose list of servers is.
    lost: u32,
    /// A bit for each hour of which the file lacks parts.
    lacking: u32,
    is_missing: bool,
    /// Rows of the month file that were written.
    n_rows: usize,
}

/// The hours of one server while they are summed up.
#[derive(Default)]
struct Cell {
    /// The hour that is read.
    column: Option<Column>,
    hours: SeriesDay,
    /// A bit for each hour with a damaged block.
    damaged: u32,
}

impl Work {
    /// Whether the day is whole in its month file, and what was found on the way.
    fn run(mut self) -> (Result<bool, BlockError>, Self) {
        let ended = self.sum_up();
        (ended, self)
    }

    fn sum_up(&mut self) -> Result<bool, BlockError> {
        let file = match DayFile::open(&self.dir, self.day) {
            Ok(Some(file)) => file,
            Ok(None) => {
                self.is_missing = true;
                return Ok(false);
            }
            Err(BlockError::Bad(why)) => {
                self.damages.push(Damage::file(&self.day.file(), why));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut month = match MonthFile::create(&self.dir, self.day.month()) {
            Ok(month) => month,
            Err(BlockError::Bad(why)) => {
                self.damages.push(Damage::file(&self.day.month().file(), why));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        for hour in self.hours.clone() {
            let checked = file.check_parts(hour.t0, hour.parts);
            if self.unless_bad(hour.t0, checked)?.is_none() {
                self.lacking |= 1 << self.ix(hour.t0);
            }
        }
        let (servers, metrics) = (self.servers(&file)?, self.metrics(&file)?);
        self.lost = self.lost(&file)?;
        for group in servers.chunks(SERVERS_AT_ONCE) {
            let mut rows = Rows::default();
            for metric in &metrics {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                self.series(&file, &month, *metric, group, &mut rows)?;
                if rows.series.len() >= ROWS_A_COMMIT {
                    self.put(&mut month, &std::mem::take(&mut rows))?;
                }
            }
            for server in group {
                self.sites(&file, &month, *server, &mut rows)?;
            }
            self.put(&mut month, &rows)?;
        }
        Ok(true)
    }

    fn put(&mut self, month: &mut MonthFile, rows: &Rows) -> Result<(), BlockError> {
        self.n_rows += rows.series.len() + rows.sites.len();
        month.put(self.day, rows)
    }

    /// Those with something that is not summed up, in order.
    fn servers(&mut self, file: &DayFile) -> Result<Vec<ServerId>, BlockError> {
        let mut servers = BTreeSet::new();
        for hour in self.hours.clone() {
            for part in hour.rolled..hour.parts {
                match file.servers(hour.t0, part) {
                    Err(BlockError::Bad(why)) => {
                        let (day, t0) = (self.day.file(), hour.t0);
                        self.damages.push(Damage::part(&day, t0, part, why));
                    }
                    found => servers.extend(found?),
                }
            }
        }
        Ok(servers.into_iter().collect())
    }

    /// Hours of which more was summed up than can be read now.
    fn lost(&self, file: &DayFile) -> Result<u32, BlockError> {
        let mut lost = 0;
        for hour in &self.hours {
            for part in 0..hour.parts {
                match file.servers(hour.t0, part) {
                    Err(BlockError::Bad(_)) => lost |= 1 << self.ix(hour.t0),
                    found => drop(found?),
                }
            }
        }
        Ok(lost)
    }

    fn metrics(&mut self, file: &DayFile) -> Result<BTreeSet<i64>, BlockError> {
        let mut metrics = BTreeSet::new();
        for hour in self.hours.clone() {
            let found = file.metrics_of_hour(hour.t0);
            metrics.extend(self.unless_bad(hour.t0, found)?.unwrap_or_default());
        }
        Ok(metrics)
    }

    /// Reports a damaged hour and goes on without it.
    fn unless_bad<T>(
        &mut self,
        t0: i64,
        found: Result<T, BlockError>,
    ) -> Result<Option<T>, BlockError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(BlockError::Bad(why)) => {
                self.damages.push(Damage::hour(&self.day.file(), t0, why));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The hours of one metric of a group of servers.
    fn series(
        &mut self,
        file: &DayFile,
        month: &MonthFile,
        metric: i64,
        group: &[ServerId],
        rows: &mut Rows,
    ) -> Result<(), BlockError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        let kind = if self.counters.contains(&metric) { Kind::Counter } else { Kind::Gauge };
        let damaged = self.lost | self.lacking;
        let mut cells: Vec<Cell> =
            group.iter().map(|_| Cell { damaged, ..Cell::default() }).collect();
        for hour in self.hours.clone() {
            let (ix_hour, mut broken) = (self.ix(hour.t0), Vec::new());
            let read = file.columns_in(hour.t0, metric, (*first, *last), &mut |raw| {
                let cell = group.binary_search(&raw.place.server).map(|ix| &mut cells[ix]);
                let (Ok(cell), true) = (cell, raw.place.part < hour.parts) else { return true };
                match raw.column() {
                    Ok(column) => {
                        let whole = cell.column.take().map(|early| merge_parts(&early, &column));
                        cell.column = Some(whole.unwrap_or(column));
                    }
                    Err(error) => {
                        cell.damaged |= 1 << ix_hour;
                        broken.push((raw.place, error.to_string()));
                    }
                }
                true
            });
            if self.unless_bad(hour.t0, read)?.is_none() {
                for cell in &mut cells {
                    cell.damaged |= 1 << ix_hour;
                }
            }
            for cell in &mut cells {
                let column = cell.column.take();
                cell.hours[ix_hour] = column.and_then(|column| Rolled::of(&column, kind));
            }
            let file = self.day.file();
            let broken = broken.into_iter();
            self.damages.extend(broken.map(|(place, why)| Damage::at(&file, place, metric, why)));
        }
        for (server, mut cell) in group.iter().zip(cells) {
            if cell.damaged != 0 {
                let before = month.series_day(self.day, metric, *server);
                Self::keep(&mut cell, Self::unless_row_bad(before)?);
            }
            if cell.hours.iter().any(Option::is_some) {
                rows.series.push((metric, *server, cell.hours));
            }
        }
        Ok(())
    }

    /// A damaged row of the month file is about to be replaced.
    fn unless_row_bad<T>(found: Result<Option<T>, BlockError>) -> Result<Option<T>, BlockError> {
        match found {
            Err(BlockError::Bad(_)) => Ok(None),
            other => other,
        }
    }

    /// Takes damaged hours over from what was summed up when they were whole.
    fn keep(cell: &mut Cell, before: Option<SeriesDay>) {
        let Some(before) = before else { return };
        for (ix, old) in before.into_iter().enumerate() {
            if cell.damaged >> ix & 1 == 1 && old.is_some() {
                cell.hours[ix] = old;
            }
        }
    }

    /// The hours of the sites of one server.
    fn sites(
        &mut self,
        file: &DayFile,
        month: &MonthFile,
        server: ServerId,
        rows: &mut Rows,
    ) -> Result<(), BlockError> {
        let (mut sites, mut damaged) = (SitesDay::default(), Vec::new());
        for hour in self.hours.clone() {
            let mut counts = Vec::new();
            if self.lacking >> self.ix(hour.t0) & 1 == 1 {
                damaged.push(self.ix(hour.t0));
            }
            for part in 0..hour.parts {
                let place = Place { t0: hour.t0, server, part };
                match file.counts(place) {
                    Ok(found) => counts.extend(found),
                    Err(BlockError::Bad(why)) => {
                        damaged.push(self.ix(hour.t0));
                        self.damages.push(Damage::at(&self.day.file(), place, COUNTS, why));
                    }
                    Err(error) => return Err(error),
                }
            }
            sites.add(self.ix(hour.t0), &counts);
        }
        if !damaged.is_empty()
            && let Some(before) = Self::unless_row_bad(month.sites_day(self.day, server))?
        {
            for hour in damaged {
                let mut old = SitesDay::default();
                old.take_hour(hour, &before);
                if !old.is_empty() {
                    sites.clear_hour(hour);
                    sites.take_hour(hour, &old);
                }
            }
        }
        if !sites.is_empty() {
            rows.sites.push((server, sites));
        }
        Ok(())
    }

    /// Which hour of the day it is.
    fn ix(&self, t0: i64) -> usize {
        ((t0 - self.day.first_second()) / HOUR_S).clamp(0, HOURS as i64 - 1) as usize
    }
}
