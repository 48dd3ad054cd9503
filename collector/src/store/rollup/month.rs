//! Month files: `rollup/YYYYMM.db`, SQLite in WAL mode, one row for a day of one series, or of all sites
//! of one server.
//!
//! Rows are written in the order of their key, a day after the other, so the file only grows at its end.
//! A row is replaced when an hour of its day is summed up again. Every body has a CRC-32C over its key
//! and itself, checked at each read.

use std::fs;
use std::ops::Range;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::rolled::{self, DayOf, Rolled, SeriesDay, SitesDay};
use crate::model::ServerId;
use crate::store::blocks::{BlockError, bad, blob, check_crc};
use crate::store::hours::{Day, HOUR_S, Month};

/// `application_id` of month files: "gwro".
const APPLICATION_ID: i64 = 0x6777_726f;
/// `user_version`: format of the tables and bodies.
pub(in crate::store) const FORMAT: i64 = 1;
const DAY_S: i64 = 24 * HOUR_S;

const PRAGMAS: &str = "
PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=0; PRAGMA cache_size=-8192;
PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;";

const READER_PRAGMAS: &str = "
PRAGMA query_only=ON; PRAGMA busy_timeout=5000; PRAGMA cache_size=-2048; PRAGMA temp_store=MEMORY;
PRAGMA trusted_schema=OFF;";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS file(month TEXT PRIMARY KEY) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS series(day INTEGER NOT NULL, metric INTEGER NOT NULL, server_id INTEGER NOT NULL,
  crc INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(day, metric, server_id)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS sites(day INTEGER NOT NULL, server_id INTEGER NOT NULL,
  crc INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(day, server_id)) WITHOUT ROWID, STRICT;";

/// Stands for the metric in the checksum of a row of sites: ids of metrics are above 0.
pub(crate) const SITES: i64 = -1;

/// A month file, open.
#[derive(Debug)]
pub(crate) struct MonthFile {
    conn: Connection,
    month: Month,
}

/// Rows to be written, all of one day.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// (metric, server) with its day.
    pub(crate) series: Vec<(i64, ServerId, SeriesDay)>,
    /// Servers with the day of their sites.
    pub(crate) sites: Vec<(ServerId, SitesDay)>,
}

/// Whose and which hour a value is; of a damaged row its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) t0: i64,
    pub(crate) metric: i64,
    pub(crate) server: ServerId,
}

/// Is shown each hour that there is, which it may take, or that a row is damaged; ends the reading by `false`.
pub(crate) type See<'a> = dyn FnMut(Cell, Result<&mut Rolled, BlockError>) -> bool + 'a;

impl MonthFile {
    /// Opens the file to write, and makes it where it is missing. For the one task that sums up.
    pub(crate) fn create(dir: &Path, month: Month) -> Result<Self, BlockError> {
        let path = dir.join(month.file());
        let folder = path.parent().unwrap_or(dir);
        let file = |error| BlockError::File(folder.to_owned(), error);
        if !folder.exists() {
            crate::files::create_private_dir(folder).map_err(file)?;
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file)?;
        }
        let conn = Connection::open(&path)?;
        conn.execute_batch(PRAGMAS)?;
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found == 0 {
            let tx = conn.unchecked_transaction()?;
            tx.execute_batch(TABLES)?;
            tx.execute("INSERT OR IGNORE INTO file(month) VALUES(?1)", [name(month)])?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", FORMAT)?;
            tx.commit()?;
        }
        let this = Self { conn, month };
        this.check()?;
        Ok(this)
    }

    /// Opens the file to read; `None` when it is not there.
    pub(crate) fn open(dir: &Path, month: Month) -> Result<Option<Self>, BlockError> {
        let path = dir.join(month.file());
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags)?;
        conn.execute_batch(READER_PRAGMAS)?;
        Self::of(conn, month).map(Some)
    }

    /// Takes a connection that is to be one of the file of this month.
    pub(crate) fn of(conn: Connection, month: Month) -> Result<Self, BlockError> {
        let this = Self { conn, month };
        this.check()?;
        Ok(this)
    }

    /// Checks and decodes every body; shows the damaged ones: day, server, metric or [`SITES`]. How many
    /// there are.
    pub(crate) fn check_bodies(
        &self,
        bad_one: &mut dyn FnMut(i64, ServerId, i64, BlockError),
    ) -> Result<u64, BlockError> {
        let mut n = 0;
        for select in [
            "SELECT day, server_id, metric, crc, body FROM series",
            "SELECT day, server_id, ?1, crc, body FROM sites",
        ] {
            let mut query = self.conn.prepare(select)?;
            let n_params = query.parameter_count();
            let mut rows =
                query.query(rusqlite::params_from_iter([SITES].iter().take(n_params)))?;
            while let Some(row) = rows.next()? {
                let (day, server, metric) = (row.get(0)?, ServerId(row.get(1)?), row.get(2)?);
                let body = blob(row, 4)?;
                n += 1;
                let checked =
                    check_crc(row.get(3)?, crc(day, metric, server, body)).and_then(|()| {
                        let is_sound = match metric {
                            SITES => SitesDay::decode(body).is_some(),
                            _ => rolled::decode_series(body).is_some(),
                        };
                        if is_sound { Ok(()) } else { Err(bad("it cannot be decoded")) }
                    });
                if let Err(error) = checked {
                    bad_one(day, server, metric, error);
                }
            }
        }
        Ok(n)
    }

    fn check(&self) -> Result<(), BlockError> {
        let pragma = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (kind, format) = (pragma("application_id")?, pragma("user_version")?);
        if kind != APPLICATION_ID {
            return Err(bad("it is no month file"));
        }
        if format != FORMAT {
            return Err(BlockError::Bad(format!("format {format} is not known to this release")));
        }
        let found: Option<String> =
            self.conn.query_row("SELECT month FROM file", [], |row| row.get(0)).optional()?;
        match found {
            Some(found) if found == name(self.month) => Ok(()),
            Some(found) => Err(BlockError::Bad(format!("it is the file of {found}"))),
            None => Err(bad("it does not say of which month it is")),
        }
    }

    /// Writes rows of one day in one transaction; those there are replaced.
    pub(crate) fn put(&mut self, day: Day, rows: &Rows) -> Result<(), BlockError> {
        let (tx, day) = (self.conn.transaction()?, day.first_second());
        for (metric, server, hours) in &rows.series {
            let body = rolled::encode_series(hours);
            let crc = crc(day, *metric, *server, &body);
            tx.prepare_cached(
                "INSERT OR REPLACE INTO series(day, metric, server_id, crc, body)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![day, metric, server.0, crc, body])?;
        }
        for (server, sites) in &rows.sites {
            let body = sites.encode();
            tx.prepare_cached(
                "INSERT OR REPLACE INTO sites(day, server_id, crc, body) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![day, server.0, crc(day, SITES, *server, &body), body])?;
        }
        tx.commit()?;
        Ok(())
    }

    /// One day of one series.
    pub(crate) fn series_day(
        &self,
        day: Day,
        metric: i64,
        server: ServerId,
    ) -> Result<Option<SeriesDay>, BlockError> {
        let day = day.first_second();
        let mut query = self.conn.prepare_cached(
            "SELECT crc, body FROM series WHERE day = ?1 AND metric = ?2 AND server_id = ?3",
        )?;
        let mut rows = query.query(params![day, metric, server.0])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let body = blob(row, 1)?;
        check_crc(row.get(0)?, crc(day, metric, server, body))?;
        rolled::decode_series(body).map(Some).ok_or_else(|| bad("the hours of a day"))
    }

    /// Shows the hours that there are of one series with their first second in `hours`, in order.
    pub(crate) fn series(
        &self,
        metric: i64,
        server: ServerId,
        hours: &Range<i64>,
        see: &mut See<'_>,
    ) -> Result<(), BlockError> {
        for day in self.days(hours) {
            let cell = Cell { t0: day.first_second(), metric, server };
            let found = match self.series_day(day, metric, server) {
                Err(error @ BlockError::Bad(_)) => Err(error),
                other => Ok(other?),
            };
            let goes_on = match found {
                Ok(None) => true,
                Ok(Some(mut series)) => {
                    let series = (0..).zip(&mut series);
                    show(
                        cell,
                        series.filter_map(|(ix, hour)| Some((ix, hour.as_mut()?))),
                        hours,
                        see,
                    )
                }
                Err(error) => see(cell, Err(error)),
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Shows the hours of one metric of all servers, by day, server and hour.
    pub(crate) fn fleet(
        &self,
        metric: i64,
        hours: &Range<i64>,
        see: &mut See<'_>,
    ) -> Result<(), BlockError> {
        self.of_servers(metric, (ServerId(i64::MIN), ServerId(i64::MAX)), hours, see)
    }

    /// The same of the servers in `from..=to`.
    pub(crate) fn of_servers(
        &self,
        metric: i64,
        (from, to): (ServerId, ServerId),
        hours: &Range<i64>,
        see: &mut See<'_>,
    ) -> Result<(), BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT server_id, crc, body FROM series
             WHERE day = ?1 AND metric = ?2 AND server_id BETWEEN ?3 AND ?4 ORDER BY server_id",
        )?;
        let mut room = DayOf::default();
        for day in self.days(hours) {
            let day = day.first_second();
            let mut rows = query.query(params![day, metric, from.0, to.0])?;
            while let Some(row) = rows.next()? {
                let (server, body) = (ServerId(row.get(0)?), blob(row, 2)?);
                let cell = Cell { t0: day, metric, server };
                let found = match check_crc(row.get(1)?, crc(day, metric, server, body)) {
                    Ok(()) => room.decode(body).ok_or_else(|| bad("the hours of a day")),
                    Err(error) => Err(error),
                };
                let goes_on = match found {
                    Ok(series) => show(cell, series, hours, see),
                    Err(error) => see(cell, Err(error)),
                };
                if !goes_on {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One day of the sites of one server.
    pub(crate) fn sites_day(
        &self,
        day: Day,
        server: ServerId,
    ) -> Result<Option<SitesDay>, BlockError> {
        let day = day.first_second();
        let mut query = self
            .conn
            .prepare_cached("SELECT crc, body FROM sites WHERE day = ?1 AND server_id = ?2")?;
        let mut rows = query.query(params![day, server.0])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let body = blob(row, 1)?;
        check_crc(row.get(0)?, crc(day, SITES, server, body))?;
        SitesDay::decode(body).map(Some).ok_or_else(|| bad("the sites of a day"))
    }

    /// Shows the sites of a day of the servers in `from..=to`, by server, until `see` says false.
    pub(crate) fn sites_of_servers(
        &self,
        day: Day,
        (from, to): (ServerId, ServerId),
        see: &mut dyn FnMut(ServerId, Result<SitesDay, BlockError>) -> bool,
    ) -> Result<(), BlockError> {
        let day = day.first_second();
        let mut query = self.conn.prepare_cached(
            "SELECT server_id, crc, body FROM sites
             WHERE day = ?1 AND server_id BETWEEN ?2 AND ?3 ORDER BY server_id",
        )?;
        let mut rows = query.query(params![day, from.0, to.0])?;
        while let Some(row) = rows.next()? {
            let (server, body) = (ServerId(row.get(0)?), blob(row, 2)?);
            let found = check_crc(row.get(1)?, crc(day, SITES, server, body));
            let found = found
                .and_then(|()| SitesDay::decode(body).ok_or_else(|| bad("the sites of a day")));
            if !see(server, found) {
                break;
            }
        }
        Ok(())
    }

    /// Whether it has anything of a day.
    pub(crate) fn has_day(&self, day: Day) -> Result<bool, BlockError> {
        let any = "SELECT EXISTS(SELECT 1 FROM series WHERE day = ?1)
                   OR EXISTS(SELECT 1 FROM sites WHERE day = ?1)";
        let mut query = self.conn.prepare_cached(any)?;
        Ok(query.query_row([day.first_second()], |row| row.get(0))?)
    }

    /// First second of the first day it has anything of.
    pub(crate) fn oldest_day(&self) -> Result<Option<i64>, BlockError> {
        let oldest = "SELECT min(day) FROM (SELECT min(day) AS day FROM series
                      UNION ALL SELECT min(day) FROM sites)";
        Ok(self.conn.query_row(oldest, [], |row| row.get(0))?)
    }

    /// Days of the month with an hour in `hours`.
    pub(crate) fn days(&self, hours: &Range<i64>) -> impl Iterator<Item = Day> + use<> {
        let from = hours.start.max(self.month.first_second());
        let to = hours.end.min(self.month.end_second());
        let first = from.div_euclid(DAY_S) * DAY_S;
        let n = if from < to { (to - 1 - first) / DAY_S + 1 } else { 0 };
        (0..n).filter_map(move |ix| Day::of(first + ix * DAY_S))
    }

    /// The connection, for checks of the whole file.
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }
}

fn show<'r>(
    day: Cell,
    series: impl Iterator<Item = (usize, &'r mut Rolled)>,
    hours: &Range<i64>,
    see: &mut See<'_>,
) -> bool {
    for (ix, hour) in series {
        let t0 = day.t0 + ix as i64 * HOUR_S;
        if hours.contains(&t0) && !see(Cell { t0, ..day }, Ok(hour)) {
            return false;
        }
    }
    true
}

fn crc(day: i64, metric: i64, server: ServerId, body: &[u8]) -> i64 {
    let head = [day, metric, server.0].map(i64::to_le_bytes);
    i64::from(crc32c::crc32c_append(crc32c::crc32c(head.as_flattened()), body))
}

fn name(month: Month) -> String {
    month.file().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::blocks::Column;
    use wire::catalog::Kind;

    /// 2026-11-20T00:00:00Z.
    const T0: i64 = 1_795_132_800;

    fn rolled(value: i64) -> Rolled {
        let column = Column { metric: 1, at: vec![0, 60], values: vec![value, value + 2] };
        Rolled::of(&column, Kind::Gauge).unwrap()
    }

    fn put(file: &mut MonthFile, t0: i64, metric: i64, server: i64, value: i64) {
        let mut series = SeriesDay::default();
        (series[0], series[23]) = (Some(rolled(value)), Some(rolled(value + 1)));
        let rows = Rows { series: vec![(metric, ServerId(server), series)], sites: Vec::new() };
        file.put(Day::of(t0).unwrap(), &rows).unwrap();
    }

    #[test]
    fn hours_are_found_by_series_and_by_metric() {
        let dir = tempfile::tempdir().unwrap();
        let month = Month::of(T0).unwrap();
        let mut file = MonthFile::create(dir.path(), month).unwrap();
        put(&mut file, T0, 3, 7, 100);
        put(&mut file, T0, 3, 8, 200);
        put(&mut file, T0 + DAY_S, 3, 7, 300);
        put(&mut file, T0, 4, 7, 400);
        put(&mut file, T0, 3, 7, 110); // summed up again
        drop(file);
        let file = MonthFile::open(dir.path(), month).unwrap().unwrap();
        let mut found = Vec::new();
        let mut see = |cell: Cell, rolled: Result<&mut Rolled, BlockError>| {
            found.push((cell.server.0, (cell.t0 - T0) / HOUR_S, rolled.unwrap().min));
            true
        };
        file.series(3, ServerId(7), &(T0..T0 + 2 * DAY_S), &mut see).unwrap();
        file.fleet(3, &(T0 + 23 * HOUR_S..T0 + DAY_S), &mut see).unwrap();
        file.series(3, ServerId(9), &(0..i64::MAX), &mut see).unwrap();
        assert_eq!(
            found,
            [(7, 0, 110), (7, 23, 111), (7, 24, 300), (7, 47, 301), (7, 23, 111), (8, 23, 201)]
        );
        assert!(MonthFile::open(dir.path(), Month::of(0).unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_flipped_bit_is_found_and_the_rest_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MonthFile::create(dir.path(), Month::of(T0).unwrap()).unwrap();
        put(&mut file, T0, 3, 7, 100);
        put(&mut file, T0, 3, 8, 200);
        let flip =
            "UPDATE series SET body = CAST(X'00' || substr(body, 2) AS BLOB) WHERE server_id = 7";
        file.conn().execute(flip, []).unwrap();
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        let mut see = |cell: Cell, rolled: Result<&mut Rolled, BlockError>| {
            match rolled {
                Ok(_) => good.push(cell.server.0),
                Err(_) => damaged.push((cell.server.0, cell.t0)),
            }
            true
        };
        file.fleet(3, &(0..i64::MAX), &mut see).unwrap();
        file.series(3, ServerId(7), &(0..i64::MAX), &mut see).unwrap();
        assert_eq!((good, damaged), (vec![8, 8], vec![(7, T0), (7, T0)]));
    }

    #[test]
    fn another_file_under_its_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (november, december) = (Month::of(T0).unwrap(), Month::of(T0 + 15 * DAY_S).unwrap());
        drop(MonthFile::create(dir.path(), november).unwrap());
        fs::copy(dir.path().join(november.file()), dir.path().join(december.file())).unwrap();
        let error = MonthFile::open(dir.path(), december).unwrap_err();
        assert_eq!(error.to_string(), "it is damaged: it is the file of 202611");
        assert!(matches!(MonthFile::create(dir.path(), december), Err(BlockError::Bad(_))));
    }
}
