//! `verify`: whether a data directory, or a backup, is what was written. Reads only.
//!
//! Each database is checked by SQLite, each body by its checksum and by decoding it, and the hours that
//! the database calls sealed against what the day files have.

mod archive;
mod day;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::backup::{self, DATABASE};
use super::blocks::BlockError;
use super::hours::{Day, HOUR_S, Month};
use super::rollup::month::{MonthFile, SITES};
use super::{Store, damage, open};
use crate::errors;
use crate::model::ServerId;

pub use archive::verify_archive;

/// Problems listed; more are only counted.
const PROBLEMS_MAX: usize = 1000;
/// Faults that SQLite is asked for in one file.
const FAULTS_MAX: u32 = 20;

/// How often places that were found damaged are looked at again.
const RECHECK_EVERY: Duration = Duration::from_secs(3600);

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Below the data directory.
    pub file: String,
    /// Where in it, in words; empty: all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What that means.
    pub means: String,
    /// What to do.
    pub fix: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// Files read.
    pub n_files: u64,
    /// Their bytes.
    pub n_bytes: u64,
    /// Hours that the database calls sealed.
    pub n_hours: u64,
    /// Packed columns, counts and events whose checksum was computed.
    pub n_bodies: u64,
    /// All problems, also those not listed.
    pub n_problems: u64,
    /// The first 1,000.
    pub problems: Vec<Problem>,
}

impl Report {
    fn add(&mut self, problem: Problem) {
        self.n_problems += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn file(&mut self, path: &Path) {
        self.n_files += 1;
        self.n_bytes += fs::metadata(path).map_or(0, |meta| meta.len());
    }

    fn done(mut self) -> Self {
        self.sound = self.n_problems == 0;
        self
    }
}

/// An hour that is in its day file, as the database says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    t0: i64,
    parts: u32,
}

const FROM_BACKUP: &str = "put the file back from a backup while the collector is stopped, then run \
                           verify again";

/// Checks a data directory, whether a collector runs on it or not. Hours that began before `raw_from` may
/// be gone.
#[must_use]
pub fn verify(dir: &Path, raw_from: UnixMillis) -> Report {
    let mut report = Report::default();
    let running = is_running(dir);
    let Told { sealed, summed } = verify_database(&dir.join(DATABASE), running, &mut report);
    for name in ["ca/ca.pem", "ca/ca.key", "admin.token"] {
        if !dir.join(name).is_file() {
            report.add(Problem {
                file: name.into(),
                what: "it is missing".into(),
                means: "agents do not trust the collector, or operators have no token".into(),
                fix: "put it back from a backup".into(),
                ..Problem::default()
            });
        }
    }
    let mut days: Vec<Day> =
        files_in(dir, "blocks").filter_map(|n| Day::of_file_name(&n)).collect();
    days.sort();
    for day in &days {
        let of_day = sealed.iter().filter(|hour| Day::of(hour.t0) == Some(*day));
        let of_day: Vec<Sealed> = of_day.copied().collect();
        day::verify_day(&dir.join(day.file()), *day, &of_day, running, &mut report);
    }
    let still_due = |hour: &&Sealed| hour.t0 >= raw_from.second();
    let mut missing: Vec<(Day, u64)> = Vec::new();
    for hour in sealed.iter().filter(still_due) {
        let Some(day) = Day::of(hour.t0).filter(|day| !days.contains(day)) else { continue };
        match missing.last_mut() {
            Some((last, n)) if *last == day => *n += 1,
            _ => missing.push((day, 1)),
        }
    }
    for (day, n_hours) in missing {
        report.add(missing_day(day, n_hours));
    }
    for name in files_in(dir, "rollup").filter(|name| Month::of_file_name(name).is_some()) {
        let name = format!("rollup/{name}");
        verify_month(&dir.join(&name), &name, running, &mut report);
    }
    for days in summed.chunk_by(|one, next| one.month() == next.month()) {
        if let Some(day) = days.first().filter(|day| !dir.join(day.month().file()).is_file()) {
            report.add(missing_month(day.month(), days.len()));
        }
    }
    quarantined(dir, &mut report);
    report.done()
}

fn missing_day(day: Day, n_hours: u64) -> Problem {
    Problem {
        file: day.file().display().to_string(),
        what: format!("it is missing; the database says that {n_hours} hours are in it"),
        means: "the samples, counts and events of that day cannot be read".into(),
        fix: "put the file back from a backup, or leave it: the rest is served".into(),
        ..Problem::default()
    }
}

fn missing_month(month: Month, n_days: usize) -> Problem {
    Problem {
        file: month.file().display().to_string(),
        what: format!("it is missing; the database says that the sums of {n_days} days are in it"),
        means: "long reports lack the days of that month whose samples left".into(),
        fix: "put the file back from a backup, or leave it: the rest is served".into(),
        ..Problem::default()
    }
}

fn files_in(dir: &Path, folder: &str) -> impl Iterator<Item = String> {
    let files = fs::read_dir(dir.join(folder)).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.into_iter()
}

/// Whether a collector holds the directory.
fn is_running(dir: &Path) -> bool {
    // Given back at once: a start meanwhile must not fail.
    File::open(dir.join("collector.lock")).is_ok_and(|lock| lock.try_lock_shared().is_err())
}

/// Opens a database to read: without any file beside it where nobody writes it.
fn open_to_read(path: &Path, running: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut log = path.to_path_buf().into_os_string();
    log.push("-wal");
    let has_log = fs::metadata(Path::new(&log)).is_ok_and(|log| log.len() > 0);
    let conn = if running || has_log {
        Connection::open_with_flags(path, flags)?
    } else {
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(open::immutable_uri(path), flags)?
    };
    conn.execute_batch(
        "PRAGMA query_only=ON; PRAGMA busy_timeout=5000; PRAGMA trusted_schema=OFF",
    )?;
    Ok(conn)
}

/// What SQLite finds wrong with a file.
fn faults(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?;
    let said = query.query_map([], |row| row.get::<_, String>(0))?;
    let said: Vec<String> = said.collect::<rusqlite::Result<_>>()?;
    Ok(said.into_iter().filter(|line| line != "ok").collect())
}

/// What the database says of the files beside it.
#[derive(Debug, Default)]
struct Told {
    /// Hours that are in their day file.
    sealed: Vec<Sealed>,
    /// Days that are in their month file, in order.
    summed: Vec<Day>,
}

/// Checks the database; what it says of the files beside it.
fn verify_database(path: &Path, running: bool, report: &mut Report) -> Told {
    report.file(path);
    let problem = |what: String| {
        Problem {
        file: DATABASE.into(),
        what,
        means: "the collector cannot rely on it: it ends when it meets the damage".into(),
        fix: "restore a backup with `gatewatch-collector restore FILE --force`, which keeps this one; \
              agents send the last two hours anew"
            .into(),
        ..Problem::default()
    }
    };
    if !path.is_file() {
        let fix = "name the right data_dir in --config, or restore a backup".to_owned();
        report.add(Problem { fix, ..problem("there is no database".into()) });
        return Told::default();
    }
    let checked = open_to_read(path, running).and_then(|conn| {
        let faults = faults(&conn)?;
        let version = conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
        Ok((conn, faults, version))
    });
    let (conn, faults, version) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            let what = if damage::is_damage(&error) { "it is damaged" } else { "it is unreadable" };
            report.add(problem(format!("{what}: {error}")));
            return Told::default();
        }
    };
    for fault in faults {
        report.add(problem(format!("it is damaged: {fault}")));
    }
    let known = open::MIGRATIONS.len() as i64;
    if version > known {
        report.add(Problem {
            means: "this release does not open it".into(),
            fix: "use the release that wrote it".into(),
            ..problem(format!("it was written by a later release (schema {version})"))
        });
        return Told::default();
    }
    match sealed(&conn).and_then(|sealed| Ok(Told { sealed, summed: summed(&conn)? })) {
        Ok(told) => {
            report.n_hours = told.sealed.len() as u64;
            told
        }
        Err(error) => {
            report.add(problem(format!("its list of packed hours cannot be read: {error}")));
            Told::default()
        }
    }
}

fn sealed(conn: &Connection) -> rusqlite::Result<Vec<Sealed>> {
    let has_any = "SELECT 1 FROM sqlite_schema WHERE name = 'sealed'";
    if conn.query_row(has_any, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new()); // of a release that sealed nothing
    }
    let mut query = conn.prepare("SELECT t0, parts FROM sealed WHERE parts > 0 ORDER BY t0")?;
    let rows = query.query_map([], |row| Ok(Sealed { t0: row.get(0)?, parts: row.get(1)? }))?;
    rows.collect()
}

fn summed(conn: &Connection) -> rusqlite::Result<Vec<Day>> {
    let has_any = "SELECT 1 FROM sqlite_schema WHERE name = 'summed'";
    if conn.query_row(has_any, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new()); // of a release that summed nothing up
    }
    let mut query = conn.prepare("SELECT day FROM summed ORDER BY day")?;
    let rows = query.query_map([], |row| row.get::<_, i64>(0))?;
    rows.filter_map(|day| day.map(Day::of).transpose()).collect()
}

/// Checks a month file: the database and every body.
fn verify_month(path: &Path, name: &str, running: bool, report: &mut Report) {
    report.file(path);
    let problem = |place: String, what: String| Problem {
        file: name.into(),
        place,
        what,
        means: "long reports of that month may lack it; the rest is served".into(),
        fix: FROM_BACKUP.into(),
    };
    let month = path.file_name().and_then(|name| Month::of_file_name(&name.to_string_lossy()));
    let Some(month) = month else { return };
    let opened = open_to_read(path, running).map_err(BlockError::from);
    let checked = opened.and_then(|conn| MonthFile::of(conn, month)).and_then(|file| {
        for fault in faults(file.conn())? {
            report.add(problem(String::new(), format!("it is damaged: {fault}")));
        }
        let mut bad: Vec<(String, String)> = Vec::new();
        let n = file.check_bodies(&mut |day, server, metric, error| {
            let of = if metric == SITES { "sites".to_owned() } else { format!("metric {metric}") };
            let place = format!("day {}, server {}, {of}", UnixMillis(day * 1000), server.0);
            bad.push((place, errors::chain(&error)));
        })?;
        report.n_bodies += n;
        for (place, what) in bad {
            report.add(problem(place, what));
        }
        Ok(())
    });
    if let Err(error) = checked {
        report.add(problem(String::new(), errors::chain(&error)));
    }
}

/// What the collector found before and serves no more, unless this found it as well.
fn quarantined(dir: &Path, report: &mut Report) {
    let Some(conn) = open::peek(dir) else { return };
    let listed = conn.prepare("SELECT file, t0, why, at FROM quarantine ORDER BY id LIMIT 1000");
    let Ok(mut listed) = listed else { return };
    let rows = listed.query_map([], |row| {
        let hour = row.get::<_, Option<i64>>(1)?;
        Ok((row.get::<_, String>(0)?, hour, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
    });
    for (file, hour, why, at) in rows.into_iter().flatten().filter_map(Result::ok) {
        if report.problems.iter().any(|problem| problem.file == file) {
            continue;
        }
        if file.rsplit('/').next().and_then(Day::of_aside_name).is_some() {
            report.add(Problem {
                file,
                place: String::new(),
                what: format!("found damaged at {}, and put aside", UnixMillis(at)),
                means: "what is only in it is not served".into(),
                fix: "put the day file back from a backup while the collector is stopped, then remove this one"
                    .into(),
            });
            continue;
        }
        report.add(Problem {
            file,
            place: hour.map(hour_name).unwrap_or_default(),
            what: format!("found damaged at {}: {why}; it reads sound now", UnixMillis(at)),
            means: "it is still not served".into(),
            fix: "nothing, if the collector runs: it looks again after this command and each hour"
                .into(),
        });
    }
}

fn hour_name(t0: i64) -> String {
    format!("hour {}", UnixMillis(t0.saturating_mul(1000)))
}

/// Looks whether a place that was found damaged is sound by now. Blocks.
pub(super) fn is_sound(dir: &Path, spot: &super::quarantine::Spot) -> bool {
    let mut report = Report::default();
    let path = dir.join(&spot.file);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    if name.as_deref().and_then(Day::of_aside_name).is_some() {
        return !path.exists(); // somebody looked at it, and took it away
    }
    if !path.is_file() {
        return false;
    }
    match name.as_deref().and_then(Day::of_file_name) {
        Some(day) => {
            let hours = (0..24).map(|n| day.first_second() + n * HOUR_S);
            let mine = hours.filter(|t0| spot.t0.is_none_or(|hour| hour == *t0));
            let mine: Vec<i64> = mine.collect();
            let server: Option<ServerId> = spot.server;
            // What the database says cannot be compared: then nothing is called sound.
            let Ok(sealed) = open_to_read(&dir.join(DATABASE), true).and_then(|conn| sealed(&conn))
            else {
                return false;
            };
            day::verify_hours(&path, day, &mine, server, &sealed, &mut report);
        }
        None => verify_month(&path, &spot.file, true, &mut report),
    }
    report.n_problems == 0
}

/// Whether a place is of a day that has left since: nobody asks for it any more.
fn has_left(store: &Store, spot: &super::quarantine::Spot) -> bool {
    let name = Path::new(&spot.file).file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(day) = name.as_deref().and_then(Day::of_file_name) else { return false };
    let hours = day.first_second()..day.end_second();
    !store.dir().join(&spot.file).exists() && !store.hot().has_sealed(hours)
}

/// Looks at every place that was found damaged, and serves those again that are sound by now; how many
/// were, or have left, and how many are damaged.
pub async fn recheck(store: &Store) -> (usize, usize) {
    let entries = store.quarantine().list();
    let store_of = store.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let spots = entries.into_iter().map(|entry| entry.damage.spot);
        let is_over = |spot: &_| has_left(&store_of, spot) || is_sound(store_of.dir(), spot);
        spots.filter(is_over).collect::<Vec<_>>()
    });
    let sound = looked.await.unwrap_or_default();
    let n_cleared = sound.iter().filter(|spot| store.quarantine().clear(spot)).count();
    (n_cleared, store.quarantine().n())
}

/// Does so each hour until stopped: a file that was put back is served without a command.
pub async fn recheck_hourly(store: Store, stop: CancellationToken) {
    let mut turns = tokio::time::interval(RECHECK_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a turn that is not taken is due at once.
            _ = turns.tick() => {}
        }
        tokio::select! {
            biased;
            // What is being read is left behind: it changes nothing.
            () = stop.cancelled() => return,
            _ = recheck(&store) => {}
        }
    }
}

/// Names a backup may have.
fn is_backup_of_days(name: &str) -> Option<Day> {
    name.strip_prefix("blocks/").filter(|_| backup::is_member(name)).and_then(Day::of_file_name)
}

#[cfg(test)]
mod tests;
