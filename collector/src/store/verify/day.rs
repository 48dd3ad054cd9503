//! Checks one day file: every body, and that it has what the database says.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;

use super::super::blocks::{BlockError, DayFile, Place};
use super::super::hours::Day;
use super::{FROM_BACKUP, Problem, Report, Sealed, faults, hour_name, open_to_read};
use crate::model::ServerId;

/// One file and what is known of it.
struct Look<'a> {
    file: DayFile,
    name: String,
    report: &'a mut Report,
}

/// Checks a day file against the hours that are sealed in it.
pub(super) fn verify_day(
    path: &Path,
    day: Day,
    sealed: &[Sealed],
    running: bool,
    report: &mut Report,
) {
    report.file(path);
    let name = day.file().display().to_string();
    let problem = |what: String| Problem {
        file: name.clone(),
        what,
        means: "what is damaged in it is not served; the rest is".into(),
        fix: FROM_BACKUP.into(),
        ..Problem::default()
    };
    let opened = open_to_read(path, running).map_err(BlockError::from);
    let file = match opened.and_then(|conn| DayFile::of(conn, day)) {
        Ok(file) => file,
        Err(error) => {
            let means = "nothing of that day is served".to_owned();
            report.add(Problem { means, ..problem(words(&error)) });
            return;
        }
    };
    match faults(file.conn()) {
        Ok(faults) => {
            for fault in faults {
                report.add(problem(format!("it is damaged: {fault}")));
            }
        }
        Err(error) => report.add(problem(format!("it cannot be checked: {error}"))),
    }
    let mut look = Look { file, name, report };
    let hours = match hours_of(look.file.conn()) {
        Ok(hours) => hours,
        Err(error) => {
            look.tell(None, format!("its hours cannot be read: {error}"));
            return;
        }
    };
    for hour in &hours {
        if let Err(error) = look.hour(*hour, None) {
            look.tell(Some(*hour), words(&error));
        }
    }
    for hour in sealed {
        look.parts(*hour);
    }
}

/// Checks only some hours, and of one server where it is named, against those that are sealed.
pub(super) fn verify_hours(
    path: &Path,
    day: Day,
    hours: &[i64],
    server: Option<ServerId>,
    sealed: &[Sealed],
    report: &mut Report,
) {
    let name = day.file().display().to_string();
    let opened = open_to_read(path, true).map_err(BlockError::from);
    let file = match opened.and_then(|conn| DayFile::of(conn, day)) {
        Ok(file) => file,
        Err(error) => {
            return report.add(Problem { file: name, what: words(&error), ..Problem::default() });
        }
    };
    let mut look = Look { file, name, report };
    for hour in hours {
        if let Err(error) = look.hour(*hour, server).and_then(|()| look.lists(*hour)) {
            look.tell(Some(*hour), words(&error));
        }
    }
    for hour in sealed.iter().filter(|sealed| hours.contains(&sealed.t0)) {
        look.parts(*hour);
    }
}

fn hours_of(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut query = conn.prepare(
        "SELECT t0 FROM block UNION SELECT t0 FROM presence UNION SELECT t0 FROM site_block
         UNION SELECT t0 FROM event_block UNION SELECT t0 FROM hour",
    )?;
    let rows = query.query_map([], |row| row.get(0))?;
    rows.collect()
}

impl Look<'_> {
    fn tell(&mut self, hour: Option<i64>, what: String) {
        self.report.add(Problem {
            file: self.name.clone(),
            place: hour.map(hour_name).unwrap_or_default(),
            what,
            means: "this is not served; the rest of the day is".into(),
            fix: FROM_BACKUP.into(),
        });
    }

    /// Whether the file has what the database says is sealed.
    fn parts(&mut self, hour: Sealed) {
        let found = self.file.check_parts(hour.t0, hour.parts);
        let n_servers = |part: u32| -> Result<(i64, i64), BlockError> {
            let said = "SELECT n_servers FROM hour WHERE t0 = ?1 AND part = ?2";
            let said = self.file.conn().query_row(said, (hour.t0, part), |row| row.get(0))?;
            Ok((said, self.file.servers(hour.t0, part)?.len() as i64))
        };
        let what = match found {
            Ok(()) => (0..hour.parts).find_map(|part| match n_servers(part) {
                Ok((said, found)) if said != found => {
                    Some(format!("part {part} has {found} servers, {said} were written"))
                }
                Ok(_) => None,
                Err(error) => Some(words(&error)),
            }),
            Err(error) => Some(words(&error)),
        };
        if let Some(what) = what {
            self.tell(Some(hour.t0), what);
        }
    }

    /// Every body of an hour.
    fn hour(&mut self, t0: i64, server: Option<ServerId>) -> Result<(), BlockError> {
        let places = self.places(t0)?;
        let mine = |place: &Place| server.is_none_or(|server| server == place.server);
        for place in places.into_iter().filter(mine) {
            self.place(place);
        }
        // Also those that no list names.
        let metrics: Vec<i64> = {
            let conn = self.file.conn();
            let mut query = conn.prepare("SELECT DISTINCT metric FROM block WHERE t0 = ?1")?;
            query.query_map([t0], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        for metric in metrics {
            let mut bad: Vec<(Place, String)> = Vec::new();
            let mut n = 0;
            self.file.columns_of(t0, metric, &mut |raw| {
                if server.is_none_or(|server| server == raw.place.server) {
                    n += 1;
                    bad.extend(raw.column().err().map(|error| (raw.place, words(&error))));
                }
                true
            })?;
            self.report.n_bodies += n;
            for (place, what) in bad {
                self.tell_place(place, &format!("metric {metric}"), what);
            }
        }
        Ok(())
    }

    /// The servers of each part: of a lost one there are none.
    fn lists(&self, t0: i64) -> Result<(), BlockError> {
        (0..self.file.parts(t0)?).try_for_each(|part| self.file.servers(t0, part).map(drop))
    }

    fn places(&self, t0: i64) -> Result<Vec<Place>, BlockError> {
        let mut query = self.file.conn().prepare(
            "SELECT server_id, part FROM presence WHERE t0 = ?1
             UNION SELECT server_id, part FROM site_block WHERE t0 = ?1
             UNION SELECT server_id, part FROM event_block WHERE t0 = ?1",
        )?;
        let rows = query.query_map([t0], |row| {
            Ok(Place { t0, server: ServerId(row.get(0)?), part: row.get(1)? })
        })?;
        let mut places = rows.collect::<Result<BTreeSet<_>, _>>()?;
        // A row that damage hides is known by the list of its part; a list that is broken is told of.
        for part in 0..self.file.parts(t0)? {
            let servers = self.file.servers(t0, part).unwrap_or_default();
            places.extend(servers.into_iter().map(|server| Place { t0, server, part }));
        }
        Ok(places.into_iter().collect())
    }

    /// What a part has of a server beside its columns, and that no column is gone.
    fn place(&mut self, place: Place) {
        self.report.n_bodies += 4;
        let metrics = match self.file.metrics(place) {
            Ok(metrics) => metrics,
            // It says what else there should be: nothing else can be told of this server.
            Err(error) => return self.tell_place(place, "list of metrics", words(&error)),
        };
        let counts = self.file.counts(place).err().map(|error| ("counts", words(&error)));
        let events = self.file.events(place).err().map(|error| ("events", words(&error)));
        let listed = self.missing(place, &metrics).map(|what| ("list of metrics", what));
        let cover = self.file.cover(place).err().map(|error| ("list of batches", words(&error)));
        for (body, what) in [counts, events, cover, listed].into_iter().flatten() {
            self.tell_place(place, body, what);
        }
    }

    fn missing(&self, place: Place, metrics: &[i64]) -> Option<String> {
        let select =
            "SELECT 1 FROM block WHERE t0 = ?1 AND metric = ?2 AND server_id = ?3 AND part = ?4";
        let conn = self.file.conn();
        let is_there = |metric: i64| -> rusqlite::Result<bool> {
            let mut query = conn.prepare_cached(select)?;
            query.exists((place.t0, metric, place.server.0, place.part))
        };
        metrics.iter().find_map(|metric| match is_there(*metric) {
            Ok(true) => None,
            Ok(false) => Some(format!("metric {metric} is gone")),
            Err(error) => Some(error.to_string()),
        })
    }

    fn tell_place(&mut self, place: Place, body: &str, what: String) {
        let Place { t0, server, part } = place;
        self.report.add(Problem {
            file: self.name.clone(),
            place: format!("{}, server {}, part {part}, {body}", hour_name(t0), server.0),
            what,
            means: "these values are not served; the rest is".into(),
            fix: FROM_BACKUP.into(),
        });
    }
}

fn words(error: &BlockError) -> String {
    crate::errors::chain(error)
}
