//! Hours of one metric of many servers, as their sums tell them: what reports are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wire::catalog::Metric;

use super::super::blocks::{Column, Place};
use super::super::hours::Day;
use super::super::quarantine::Damage;
use super::super::rollup::month::MonthFile;
use super::super::rollup::rolled::Rolled;
use super::ahead::{self, Read};
use super::catalog::Known;
use super::minutes::Sampled;
use super::recent::HotHour;
use super::spread::Spread;
use super::{History, file_of};
use crate::model::ServerId;

/// Servers that are looked up one by one in a month; of more a whole range is read.
const ONE_BY_ONE: usize = 16;

/// Attributes of a metric that are read ahead, each by a thread of its own, one after the other.
const ATTRIBUTES_AHEAD: usize = 16;

/// An hour of one series.
#[derive(Clone, Copy, Debug)]
pub struct HourOf<'a> {
    /// Whose.
    pub server: ServerId,
    /// `key=value`, or empty.
    pub attribute: &'a str,
    /// First second of the hour, UTC.
    pub t0: i64,
    /// What it was.
    pub spread: &'a Spread,
}

/// Shows an hour: whose, its first second, what it was.
type Show<'a> = dyn FnMut(ServerId, i64, &Spread) + 'a;

/// How much of an hour is sealed, and how much of that is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsummed {
    pub(super) parts: u32,
    pub(super) rolled: u32,
}

/// One attribute of the metric that is asked for.
struct Asked<'a> {
    metric: &'static Metric,
    /// More than one where a release changed the scale.
    columns: &'a [Known],
    /// There are not so many attributes that each has hardly a row.
    is_one_of_few: bool,
    servers: &'a BTreeSet<ServerId>,
    hours: &'a Range<i64>,
    /// Hours that are read from samples.
    unsummed: &'a BTreeMap<i64, Unsummed>,
    /// What lies in `hot`.
    hot: BTreeMap<(i64, ServerId), HotHour>,
}

impl Asked<'_> {
    /// Whether the sums of a month file are what is told of an hour.
    fn is_summed(&self, t0: i64, server: ServerId) -> bool {
        !self.unsummed.contains_key(&t0)
            && self.servers.contains(&server)
            && (self.hot.is_empty() || !self.hot.contains_key(&(t0, server)))
    }

    fn spread(&self, rolled: Rolled, scale: f64) -> Spread {
        Spread::new(rolled, self.metric.kind, scale)
    }

    /// Of samples in the catalog's scale.
    fn of_column(&self, column: &Column) -> Option<Spread> {
        let rolled = Rolled::of(column, self.metric.kind)?;
        Some(self.spread(rolled, self.metric.scale))
    }
}

impl History<'_> {
    /// Shows `see` every hour of one metric of these servers that begins in `hours`, of all its attributes,
    /// each hour once, in no order. What is missing or damaged is noted beside the answer.
    ///
    /// Cost: a row of sums for a day of a series; hours that are not summed up are decoded. Of many metrics
    /// ask one after the other for the same servers and hours: what is not sealed is then opened once.
    pub fn hourly(
        &self,
        metric: &'static Metric,
        servers: &BTreeSet<ServerId>,
        hours: &Range<i64>,
        see: &mut dyn FnMut(HourOf<'_>),
    ) -> rusqlite::Result<()> {
        let unsummed = self.unsummed(hours)?;
        self.note_lost_before(hours)?;
        let mut hot: BTreeMap<String, BTreeMap<(i64, ServerId), HotHour>> = BTreeMap::new();
        for server in servers {
            if !self.goes_on() {
                return Ok(());
            }
            let recent = self.recent(*server, hours)?;
            for (attribute, found) in recent.series.get(metric.name).into_iter().flatten() {
                let of = hot.entry(attribute.clone()).or_default();
                let found = found.iter().filter(|(t0, _)| hours.contains(t0));
                of.extend(found.map(|(t0, hour)| ((*t0, *server), hour.clone())));
            }
        }
        let mut columns: BTreeMap<String, Vec<Known>> = BTreeMap::new();
        for known in self.columns(metric.name, None)? {
            columns.entry(known.attribute.clone()).or_default().push(known);
        }
        for attribute in hot.keys() {
            columns.entry(attribute.clone()).or_default();
        }
        let is_one_of_few = columns.len() <= ATTRIBUTES_AHEAD;
        for (attribute, columns) in &columns {
            let hot = hot.remove(attribute).unwrap_or_default();
            let unsummed = &unsummed;
            let asked = Asked { metric, columns, is_one_of_few, servers, hours, unsummed, hot };
            let mut show = |server, t0, spread: &Spread| {
                see(HourOf { server, attribute, t0, spread });
            };
            self.summed(&asked, &mut show)?;
            self.sampled(&asked, &mut show)?;
            self.waiting(&asked, &mut show)?;
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    /// Ranges of servers that are read at once.
    pub(super) fn ranges(servers: &BTreeSet<ServerId>) -> Vec<(ServerId, ServerId)> {
        if servers.len() <= ONE_BY_ONE {
            return servers.iter().map(|server| (*server, *server)).collect();
        }
        servers.first().zip(servers.last()).map(|(a, b)| (*a, *b)).into_iter().collect()
    }

    /// Hours whose sums are told.
    fn summed(&self, asked: &Asked<'_>, show: &mut Show<'_>) -> rusqlite::Result<()> {
        if let ([known], true) = (asked.columns, asked.is_one_of_few) {
            return self.summed_ahead(asked, known, show);
        }
        // An hour may have sums of both columns: they are put together day by day.
        self.months(asked.hours, &mut |file| {
            for day in file.days(asked.hours) {
                let from = day.first_second().max(asked.hours.start);
                let hours = from..day.end_second().min(asked.hours.end);
                let mut of_day: BTreeMap<(i64, ServerId), Spread> = BTreeMap::new();
                for known in asked.columns {
                    file.fleet(known.id, &hours, &mut |cell, found| {
                        match found {
                            Ok(rolled) if asked.is_summed(cell.t0, cell.server) => {
                                let spread = asked.spread(std::mem::take(rolled), known.scale);
                                add(&mut of_day, (cell.t0, cell.server), spread);
                            }
                            Ok(_) => {}
                            Err(_) if !asked.servers.contains(&cell.server) => {}
                            Err(error) => self.bad_day(cell, &error),
                        }
                        self.goes_on()
                    })?;
                }
                for ((t0, server), spread) in &of_day {
                    show(*server, *t0, spread);
                }
            }
            Ok(())
        })
    }

    /// The same of one column: a second thread reads and decodes.
    fn summed_ahead(
        &self,
        asked: &Asked<'_>,
        known: &Known,
        show: &mut Show<'_>,
    ) -> rusqlite::Result<()> {
        if !self.goes_on() {
            return Ok(());
        }
        let wanted = ahead::Wanted {
            dir: self.dir,
            months: self.kept_months(asked.hours),
            metric: known.id,
            servers: asked.servers,
            ranges: Self::ranges(asked.servers),
            hours: asked.hours,
        };
        let mut spread = asked.spread(Rolled::default(), known.scale);
        let mut see = |read: Read<'_>| {
            match read {
                Read::Hour(cell, rolled) if asked.is_summed(cell.t0, cell.server) => {
                    spread.swap(rolled);
                    show(cell.server, cell.t0, &spread);
                }
                Read::Hour(..) => {}
                Read::Damaged(cell, error) => self.bad_day(cell, &error),
                Read::Failed(month, error) => self.bad_month(month, error, asked.hours)?,
            }
            Ok(())
        };
        ahead::read(&wanted, &mut see, &|| self.goes_on())
    }

    /// Hours that are sealed but not summed up, or not wholly, with what lies in `hot` of them.
    fn sampled(&self, asked: &Asked<'_>, show: &mut Show<'_>) -> rusqlite::Result<()> {
        for (t0, unsummed) in asked.unsummed {
            if !self.goes_on() {
                return Ok(());
            }
            let mut found = self.hour_of_fleet(asked, *t0, unsummed.parts)?;
            let end = (t0.saturating_add(1), ServerId(i64::MIN));
            for ((_, server), hour) in asked.hot.range((*t0, ServerId(i64::MIN))..end) {
                let HotHour::Late(column) = hour else { continue };
                let of = found.entry(*server).or_default();
                of.put(column.clone(), asked.metric.scale, asked.metric.scale);
            }
            for (server, sampled) in found {
                // Whole sums of before are better than half of the samples.
                let kept = if sampled.is_damaged && unsummed.rolled > 0 {
                    self.sums_of(asked, *t0, server)?
                } else {
                    None
                };
                let told = || asked.of_column(sampled.column.as_ref()?);
                if let Some(spread) = kept.or_else(told) {
                    show(server, *t0, &spread);
                }
            }
        }
        Ok(())
    }

    /// Hours of which something lies in `hot`: alone, or beside sums that do not have it.
    fn waiting(&self, asked: &Asked<'_>, show: &mut Show<'_>) -> rusqlite::Result<()> {
        for ((t0, server), hour) in &asked.hot {
            if !self.goes_on() {
                return Ok(());
            }
            match hour {
                _ if asked.unsummed.contains_key(t0) => {}
                HotHour::Whole(minutes) => {
                    show(*server, *t0, &asked.spread(minutes.rolled(), asked.metric.scale));
                }
                HotHour::Late(late) => {
                    let of = (*t0, self.parts(*t0)?);
                    let mut sampled = self.hour_of_one(*server, asked.metric, asked.columns, of)?;
                    let kept =
                        if sampled.is_damaged { self.sums_of(asked, *t0, *server)? } else { None };
                    sampled.put(late.clone(), asked.metric.scale, asked.metric.scale);
                    let told = || asked.of_column(sampled.column.as_ref()?);
                    if let Some(spread) = kept.or_else(told) {
                        show(*server, *t0, &spread);
                    }
                }
            }
        }
        Ok(())
    }

    /// The sums of an hour of one server, whatever part of it they are of.
    fn sums_of(
        &self,
        asked: &Asked<'_>,
        t0: i64,
        server: ServerId,
    ) -> rusqlite::Result<Option<Spread>> {
        let mut sums = BTreeMap::new();
        for known in asked.columns {
            self.months(&(t0..t0 + 1), &mut |file: &MonthFile| {
                file.series(known.id, server, &(t0..t0 + 1), &mut |cell, found| {
                    match found {
                        Ok(rolled) => add(
                            &mut sums,
                            (t0, server),
                            asked.spread(std::mem::take(rolled), known.scale),
                        ),
                        Err(error) => self.bad_day(cell, &error),
                    }
                    true
                })
            })?;
        }
        Ok(sums.remove(&(t0, server)))
    }

    /// Samples of a sealed hour of all servers, all parts put together.
    fn hour_of_fleet(
        &self,
        asked: &Asked<'_>,
        t0: i64,
        parts: u32,
    ) -> rusqlite::Result<BTreeMap<ServerId, Sampled>> {
        let mut hour: BTreeMap<ServerId, Sampled> = BTreeMap::new();
        let Some(file) = self.day(t0, parts)?.filter(|_| !asked.columns.is_empty()) else {
            return Ok(hour);
        };
        let mut columns: Vec<(u32, ServerId, f64, Column)> = Vec::new();
        for known in asked.columns {
            let mut damaged = Vec::new();
            for range in Self::ranges(asked.servers) {
                let read = file.columns_in(t0, known.id, range, &mut |raw| {
                    let Place { server, part, .. } = raw.place;
                    if part >= parts || !asked.servers.contains(&server) {
                        return true;
                    }
                    match raw.column() {
                        // Almost always there is only one.
                        Ok(column) => columns.push((part, server, known.scale, column)),
                        Err(error) => damaged.push((raw.place, error)),
                    }
                    !self.end.is_due()
                });
                if let Err(error) = read {
                    let damage = |why: &str| Damage::hour(&file_of(t0), t0, why);
                    self.failed(None, t0, error, damage)?;
                }
            }
            for (place, error) in damaged {
                hour.entry(place.server).or_default().is_damaged = true;
                self.tolerate::<()>(place, known.id, Err(error))?;
            }
        }
        // Of one second the later part wins, in whatever scale it is.
        columns.sort_by_key(|(part, ..)| *part);
        for (_, server, scale, column) in columns {
            hour.entry(server).or_default().put(column, scale, asked.metric.scale);
        }
        Ok(hour)
    }

    /// Sealed hours whose sums are in no month file, yet or any more, or that have later parts than these.
    pub(super) fn unsummed(&self, hours: &Range<i64>) -> rusqlite::Result<BTreeMap<i64, Unsummed>> {
        let lost = self.lost_days(hours)?;
        let mut query = self.conn.prepare_cached(
            "SELECT t0, parts, rolled FROM sealed WHERE t0 >= ?1 AND t0 < ?2 AND parts > 0",
        )?;
        let mut rows = query.query([hours.start, hours.end])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let (t0, mut unsummed) =
                (row.get(0)?, Unsummed { parts: row.get(1)?, rolled: row.get(2)? });
            if Day::of(t0).is_some_and(|day| lost.contains(&day)) {
                unsummed.rolled = 0;
            }
            if unsummed.rolled < unsummed.parts {
                found.insert(t0, unsummed);
            }
        }
        Ok(found)
    }
}

fn add(to: &mut BTreeMap<(i64, ServerId), Spread>, key: (i64, ServerId), spread: Spread) {
    match to.get_mut(&key) {
        Some(sum) => sum.merge(&spread),
        None => drop(to.insert(key, spread)),
    }
}
