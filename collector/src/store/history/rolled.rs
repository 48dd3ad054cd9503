//! Where samples are kept no more, or the time is long: hourly sums of month files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use wire::UnixMillis;
use wire::catalog::{Kind, Metric};

use super::super::blocks::{BlockError, Column, Place};
use super::super::hours::{Day, HOUR_S, Month, hour_of};
use super::super::quarantine::{COUNTS, Damage};
use super::super::rollup::month::{Cell, MonthFile};
use super::super::rollup::rolled::{BAD_MINUTES, Rolled, merge_parts};
use super::super::sketch;
use super::catalog::{Known, unit};
use super::steps::{Point, Steps};
use super::top::Best;
use super::{Contest, FILES_MAX, History, Ranked, Ranking, Stat, Wanted, Why, file_of};
use crate::model::{ServerId, SiteId};

/// Longest time that is ranked from every sample.
const SAMPLES_SPAN_MS: i64 = 14 * 86_400_000;
/// Bytes that the sketch of a series takes while it is ranked, about.
const SERIES_BYTES: usize = 10 << 10;
/// Seconds of the minutes by which counters are kept.
pub(super) const MINUTE_S: f64 = 60.0;

impl History<'_> {
    /// The first second of which samples are kept; `None`: there are none.
    fn first_sample(&self) -> rusqlite::Result<Option<i64>> {
        let first = "SELECT min(t0) FROM sealed WHERE parts > 0";
        self.conn.query_row(first, [], |row| row.get(0))
    }

    /// Puts what is kept of the hours before the first sample into steps of whole hours. Steps that are
    /// none cannot have it: the answer is cut then.
    pub(super) fn hours_before(&self, wanted: &Wanted, steps: &mut Steps) -> rusqlite::Result<()> {
        let first = self.first_sample()?.unwrap_or(i64::MAX);
        let hours = hour_of(wanted.from.second())..first.min(wanted.to.second());
        if hours.is_empty() {
            return Ok(());
        }
        self.note_lost(&hours)?;
        let is_hourly = wanted.step_s.is_some_and(|step| step % HOUR_S == 0);
        for known in self.columns(wanted.metric.name, Some(&wanted.attribute))? {
            let mut is_cut = false;
            self.months(&hours, &mut |file| {
                file.series(known.id, wanted.server, &hours, &mut |cell, found| match found {
                    Ok(_) if !is_hourly => {
                        is_cut = true;
                        false
                    }
                    Ok(rolled) => {
                        steps.add_hour(cell.t0, point(rolled, wanted.metric, known.scale));
                        steps.points.len() <= self.limits.n_values
                    }
                    Err(error) => {
                        self.bad_day(cell, &error);
                        true
                    }
                })
            })?;
            if is_cut {
                let until = UnixMillis::from_second(first.min(hours.end)).to_rfc3339();
                self.cut(&format!(
                    "before {until} only hourly sums are kept: ask by a step of whole hours"
                ));
            }
        }
        steps.points.sort_by_key(|point| point.at);
        Ok(())
    }

    /// Adds the requests of one server in the hours before the first sample that is kept: of hours that
    /// begin in `from_s..to_s`, by site and status or derived counter.
    pub(super) fn counts_before(
        &self,
        server: ServerId,
        (from_s, to_s): (i64, i64),
        add: &mut dyn FnMut(SiteId, u16, u64),
    ) -> rusqlite::Result<()> {
        let hours = from_s..self.first_sample()?.unwrap_or(i64::MAX).min(to_s);
        if hours.is_empty() {
            return Ok(());
        }
        self.note_lost(&hours)?;
        self.months(&hours, &mut |file| {
            for day in file.days(&hours) {
                let sites = match file.sites_day(day, server) {
                    Ok(sites) => sites.unwrap_or_default(),
                    Err(error) => {
                        let cell = Cell { t0: day.first_second(), metric: COUNTS, server };
                        self.bad_day(cell, &error);
                        continue;
                    }
                };
                for (site, status, numbers) in
                    sites.iter().filter(|(_, key, _)| *key != BAD_MINUTES)
                {
                    let starts = (0..).map(|hour| day.first_second() + hour * HOUR_S);
                    let of_time = numbers.iter().zip(starts).filter(|(_, t0)| hours.contains(t0));
                    add(site, status, of_time.map(|(n, _)| *n).fold(0, u64::saturating_add));
                }
            }
            Ok(())
        })
    }

    /// The ranking from hourly sums: of a time that is longer than 14 days, or that begins before the
    /// first sample that is kept. `None`: of another.
    pub(super) fn top_of_hours(&self, contest: &Contest) -> rusqlite::Result<Option<Ranking>> {
        let first = self.first_sample()?.unwrap_or(i64::MAX);
        let hours = hour_of(contest.from.second())..contest.to.second();
        let begin = contest.from.max(UnixMillis::from_second(first));
        let is_long = contest.to.0.saturating_sub(begin.0) > SAMPLES_SPAN_MS;
        let unsampled = hours.start..first.min(hours.end);
        self.note_lost(&unsampled)?;
        if !is_long && (hours.start >= first || !self.has_months(&(hours.start..first))?) {
            return Ok(None);
        }
        let mut best = Best { k: contest.k, n: 0, kept: Vec::new() };
        let (fresh, mut end) = (self.not_rolled(&hours)?, hours.start);
        if let Some((t0, _)) = fresh.last_key_value() {
            end = t0 + HOUR_S;
        }
        // So many servers at once as memory allows.
        let servers: Vec<ServerId> = contest.servers.keys().copied().collect();
        let at_once = (self.limits.n_bytes / SERIES_BYTES).max(1);
        let columns = self.columns(contest.metric.name, None)?;
        let groups = columns
            .iter()
            .flat_map(|known| servers.chunks(at_once).map(move |group| (known, group)));
        for (known, group) in groups {
            if !self.goes_on() {
                break;
            }
            let mut of: BTreeMap<ServerId, Rolled> = BTreeMap::new();
            let mut take = |server: ServerId, t0: i64, rolled: &Rolled| {
                if group.binary_search(&server).is_ok() {
                    of.entry(server).or_default().merge(rolled);
                    end = end.max(t0 + HOUR_S);
                }
                true
            };
            self.months(&hours, &mut |file| {
                file.fleet(known.id, &hours, &mut |cell, found| match found {
                    // A day that is being summed up, or failed half way: it is read below, whole.
                    Ok(_) if fresh.contains_key(&cell.t0) => !self.end.is_due(),
                    Ok(rolled) => take(cell.server, cell.t0, rolled) && !self.end.is_due(),
                    Err(error) => {
                        self.bad_day(cell, &error);
                        true
                    }
                })
            })?;
            for (t0, parts) in &fresh {
                self.roll_now(contest.metric.kind, known, (*t0, *parts), &mut take)?;
            }
            for (server, rolled) in of {
                let Some(value) = judged(&rolled, contest, known.scale) else { continue };
                let name = contest.servers.get(&server).cloned().unwrap_or_default();
                let attribute = known.attribute.clone();
                best.add(Ranked { server: name, attribute, value, n: rolled.n });
            }
        }
        best.cut();
        let is_percentile = matches!(contest.stat, Stat::Percentile(_));
        Ok(Some(Ranking {
            unit: unit(contest.metric),
            from: UnixMillis::from_second(hours.start),
            to: UnixMillis::from_second(end).min(contest.to),
            source: "hours".to_owned(),
            error: if is_percentile { sketch::ERROR } else { 0.0 },
            n_series: best.n,
            top: best.kept,
        }))
    }

    /// Sealed hours that are in no month file, yet or any more, with their parts.
    pub(super) fn not_rolled(&self, hours: &Range<i64>) -> rusqlite::Result<BTreeMap<i64, u32>> {
        let lost = self.lost_days(hours)?;
        let mut query = self.conn.prepare_cached(
            "SELECT t0, parts, rolled FROM sealed WHERE t0 >= ?1 AND t0 < ?2 AND parts > 0",
        )?;
        let mut rows = query.query([hours.start, hours.end])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let (t0, rolled) = (row.get(0)?, row.get::<_, u32>(2)?);
            if rolled == 0 || Day::of(t0).is_some_and(|day| lost.contains(&day)) {
                found.insert(t0, row.get(1)?);
            }
        }
        Ok(found)
    }

    /// Days with any of these hours that were summed up, but whose sums are gone: without their month file,
    /// or not in the one that was made since. What cannot be read is not among them.
    pub(super) fn lost_days(&self, hours: &Range<i64>) -> rusqlite::Result<BTreeSet<Day>> {
        let mut lost = BTreeSet::new();
        for day in self.summed_days(hours)? {
            let is_lost = match self.month_file(day.month()) {
                Ok(None) => true,
                Ok(Some(file)) => matches!(file.has_day(day), Ok(false)),
                Err(_) => false,
            };
            if is_lost {
                lost.insert(day);
            }
        }
        Ok(lost)
    }

    /// Days with any of these hours of which there must be sums.
    fn summed_days(&self, hours: &Range<i64>) -> rusqlite::Result<Vec<Day>> {
        let mut query = self
            .conn
            .prepare_cached("SELECT day FROM summed WHERE day > ?1 AND day < ?2 ORDER BY day")?;
        let first = hours.start.saturating_sub(24 * HOUR_S);
        let rows = query.query_map([first, hours.end], |row| row.get::<_, i64>(0))?;
        rows.filter_map(|day| day.map(Day::of).transpose()).collect()
    }

    /// Says of which of these hours the sums are gone. For hours before the first sample: nothing else is
    /// kept of them.
    fn note_lost(&self, hours: &Range<i64>) -> rusqlite::Result<()> {
        if !hours.is_empty() {
            let lost = self.lost_days(hours)?;
            self.hole_of_days(Why::Missing, &lost, hours);
        }
        Ok(())
    }

    /// The same of those of these hours that were before the first sample that is kept.
    pub(super) fn note_lost_before(&self, hours: &Range<i64>) -> rusqlite::Result<()> {
        let first = self.first_sample()?.unwrap_or(i64::MAX);
        self.note_lost(&(hours.start..first.min(hours.end)))
    }

    fn hole_of_days<'d>(
        &self,
        why: Why,
        days: impl IntoIterator<Item = &'d Day>,
        hours: &Range<i64>,
    ) {
        for day in days {
            let of_day = (0..24).map(|hour| day.first_second() + hour * HOUR_S);
            for t0 in of_day.filter(|t0| hours.contains(t0)) {
                self.hole(None, why, t0);
            }
        }
    }

    /// Sums up an hour that is in no month file yet.
    pub(super) fn roll_now(
        &self,
        kind: Kind,
        known: &Known,
        (t0, parts): (i64, u32),
        take: &mut dyn FnMut(ServerId, i64, &Rolled) -> bool,
    ) -> rusqlite::Result<()> {
        let Some(file) = self.day(t0, parts)?.filter(|_| self.goes_on()) else { return Ok(()) };
        let mut damaged = Vec::new();
        let mut hours: BTreeMap<ServerId, Vec<Column>> = BTreeMap::new();
        let read = file.columns_of(t0, known.id, &mut |raw| {
            if raw.place.part < parts {
                match raw.column() {
                    Ok(column) => hours.entry(raw.place.server).or_default().push(column),
                    Err(error) => damaged.push((raw.place, error)),
                }
            }
            !self.end.is_due()
        });
        if let Err(error) = read {
            let damage = |why: &str| Damage::hour(&file_of(t0), t0, why);
            self.failed(None, t0, error, damage)?;
        }
        for (place, error) in damaged {
            self.tolerate::<()>(place, known.id, Err(error))?;
        }
        for (server, columns) in hours {
            let column = columns.into_iter().reduce(|early, late| merge_parts(&early, &late));
            let rolled = column.and_then(|column| Rolled::of(&column, kind));
            if rolled.is_some_and(|rolled| !take(server, t0, &rolled)) {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is a month file of any of these hours.
    fn has_months(&self, hours: &Range<i64>) -> rusqlite::Result<bool> {
        let mut any = false;
        self.months(hours, &mut |_| {
            any = true;
            Ok(())
        })?;
        Ok(any)
    }

    /// Shows `see` the month files with any of these hours, oldest first. What cannot be read is a hole.
    pub(super) fn months(
        &self,
        hours: &Range<i64>,
        see: &mut dyn FnMut(&MonthFile) -> Result<(), BlockError>,
    ) -> rusqlite::Result<()> {
        for month in self.kept_months(hours) {
            if !self.goes_on() {
                return Ok(());
            }
            let opened = self.month_file(month);
            let read = opened.and_then(|file| file.as_deref().map_or(Ok(()), &mut *see));
            if let Err(error) = read {
                self.bad_month(month, error, hours)?;
            }
        }
        Ok(())
    }

    /// Notes that a month cannot be read.
    pub(super) fn bad_month(
        &self,
        month: Month,
        error: BlockError,
        hours: &Range<i64>,
    ) -> rusqlite::Result<()> {
        let why = self.why(error, |why: &str| Damage::file(&month.file(), why))?;
        let (from, to) = (month.first_second(), month.end_second());
        let of_month = from.max(hours.start)..to.min(hours.end);
        let days = self.summed_days(&of_month)?;
        self.hole_of_days(why, &days, &of_month);
        if days.is_empty() {
            self.hole(None, why, of_month.start);
        }
        Ok(())
    }

    /// The file of a month, open as long as it is among the last ones that were used; `None`: there is none.
    fn month_file(&self, month: Month) -> Result<Option<Rc<MonthFile>>, BlockError> {
        let known = self.state.borrow().months.iter().find(|(of, _)| *of == month).cloned();
        if let Some((_, file)) = known {
            return Ok(Some(file));
        }
        let Some(file) = MonthFile::open(self.dir, month)?.map(Rc::new) else { return Ok(None) };
        let months = &mut self.state.borrow_mut().months;
        if months.len() == FILES_MAX {
            drop(months.remove(0));
        }
        months.push((month, Rc::clone(&file)));
        Ok(Some(file))
    }

    /// Months that have a file, oldest first.
    pub(super) fn kept_months(&self, hours: &Range<i64>) -> Vec<Month> {
        let folder: PathBuf = self.dir.join("rollup");
        // Without the folder nothing was summed up yet.
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut months: Vec<Month> = entries
            .filter_map(|entry| Month::of_file_name(entry.file_name().to_str()?))
            .filter(|month| month.first_second() < hours.end && month.end_second() > hours.start)
            .collect();
        months.sort_unstable();
        months
    }

    pub(super) fn bad_day(&self, cell: Cell, error: &BlockError) {
        if let (Some(known), Some(month)) = (self.quarantine, Month::of(cell.t0)) {
            let place = Place { t0: cell.t0, server: cell.server, part: 0 };
            known.report(Damage::at(&month.file(), place, cell.metric, error.to_string()));
        }
        for hour in 0..24 {
            self.hole(Some(cell.server), Why::Damaged, cell.t0 + hour * HOUR_S);
        }
    }
}

/// An hour as a point. Of counters smallest and largest are those of its minutes.
fn point(rolled: &Rolled, metric: &Metric, scale: f64) -> Point {
    let at = UnixMillis(0);
    let (low, high) = (rolled.min as f64 / scale, rolled.max as f64 / scale);
    match metric.kind {
        Kind::Gauge => {
            let sum = rolled.sum as f64 / scale;
            Point { at, n: rolled.n, min: low, max: high, sum, last: None }
        }
        Kind::Counter => {
            // Agents sample each ten seconds: as many rates there were.
            let n = (rolled.n / 10).max(1);
            let sum = rolled.sum as f64 / scale / rolled.n.max(1) as f64 * n as f64;
            Point { at, n, min: low / MINUTE_S, max: high / MINUTE_S, sum, last: None }
        }
    }
}

fn judged(rolled: &Rolled, contest: &Contest, scale: f64) -> Option<f64> {
    let a_minute = if contest.metric.kind == Kind::Counter { MINUTE_S } else { 1.0 };
    Some(match contest.stat {
        Stat::Percentile(percent) => {
            rolled.quantile(f64::from(percent) / 100.0)? / scale / a_minute
        }
        Stat::Max => rolled.max as f64 / scale / a_minute,
        Stat::Avg => rolled.sum as f64 / scale / rolled.n.max(1) as f64,
    })
}
