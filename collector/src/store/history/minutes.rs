//! Means of minutes of one series, as far back as samples are kept.

use std::collections::BTreeSet;
use std::ops::Range;

use wire::UnixMillis;
use wire::catalog::{Kind, Metric};

use super::super::blocks::{Column, Place};
use super::super::hours::HOUR_S;
use super::super::retention;
use super::super::rollup::rolled::{Minutes, merge_parts};
use super::History;
use super::catalog::Known;
use super::recent::HotHour;
use super::rolled::MINUTE_S;
use super::samples::rescaled;
use crate::model::ServerId;

/// What samples tell of an hour of a server.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    /// In the catalog's scale.
    pub(super) column: Option<Column>,
    pub(super) is_damaged: bool,
}

impl Sampled {
    /// Adds a column to what was read of the hour before it; of one second the later one wins.
    pub(super) fn put(&mut self, mut column: Column, scale: f64, wanted: f64) {
        for value in &mut column.values {
            *value = rescaled(*value, scale, wanted);
        }
        self.column = Some(match self.column.take() {
            None => column,
            Some(early) => merge_parts(&early, &column),
        });
    }
}

impl History<'_> {
    /// First second of which samples are kept; of what was before it only hourly sums, as far as any.
    pub fn samples_from(&self) -> rusqlite::Result<i64> {
        retention::raw_from(self.conn)
    }

    /// Shows `see` the mean of each minute with samples, by its first second, in order of time; of a counter
    /// its rise a second. Returns of which of these hours samples are kept; `None`: only sums are of them all.
    ///
    /// These are the means that [`super::Spread`] tells quantiles of: of a counter what came between the last
    /// sample of an hour and the first of the next one is in none.
    pub fn minutes(
        &self,
        server: ServerId,
        metric: &'static Metric,
        attribute: &str,
        hours: &Range<i64>,
        see: &mut dyn FnMut(i64, f64),
    ) -> rusqlite::Result<Option<Range<i64>>> {
        let kept = hours.start.max(self.samples_from()?)..hours.end;
        if kept.is_empty() {
            return Ok(None);
        }
        let recent = self.recent(server, hours)?;
        let hot = recent.series.get(metric.name).and_then(|of| of.get(attribute));
        let hot = hot.map_or(&[][..], Vec::as_slice);
        let columns = self.columns(metric.name, Some(attribute))?;
        let at = |second: i64| UnixMillis(second.saturating_mul(1000));
        let sealed = self.hours(at(kept.start), at(kept.end))?;
        let waiting = hot.iter().map(|(t0, _)| t0);
        let all: BTreeSet<i64> = sealed.0.keys().chain(waiting).copied().collect();
        let a_minute = if metric.kind == Kind::Counter { MINUTE_S } else { 1.0 };
        for t0 in all.into_iter().filter(|t0| kept.contains(t0)) {
            if !self.goes_on() {
                break;
            }
            let hot = hot.iter().find(|(of, _)| *of == t0).map(|(_, hour)| hour);
            let minutes = if let Some(HotHour::Whole(minutes)) = hot {
                Some(minutes.clone())
            } else {
                let parts = sealed.0.get(&t0).map_or(0, |sealed| sealed.parts);
                let mut sampled = self.hour_of_one(server, metric, &columns, (t0, parts))?;
                if let Some(HotHour::Late(late)) = hot {
                    sampled.put(late.clone(), metric.scale, metric.scale);
                }
                sampled.column.and_then(|column| Minutes::of(&column, metric.kind))
            };
            for (minute, mean) in minutes.iter().flat_map(Minutes::iter) {
                see(t0 + minute * 60, mean / metric.scale / a_minute);
            }
        }
        Ok(Some(kept))
    }

    /// Samples of a sealed hour of one server, all parts put together.
    pub(super) fn hour_of_one(
        &self,
        server: ServerId,
        metric: &Metric,
        columns: &[Known],
        (t0, parts): (i64, u32),
    ) -> rusqlite::Result<Sampled> {
        let mut sampled = Sampled::default();
        if columns.is_empty() || parts == 0 {
            return Ok(sampled);
        }
        let Some(file) = self.day(t0, parts)? else {
            return Ok(Sampled { is_damaged: true, ..sampled });
        };
        for part in 0..parts {
            let place = Place { t0, server, part };
            for known in columns {
                match self.tolerate(place, known.id, file.column(place, known.id))? {
                    Some(Some(column)) => sampled.put(column, known.scale, metric.scale),
                    Some(None) => {}
                    None => sampled.is_damaged = true,
                }
            }
        }
        Ok(sampled)
    }

    /// How many parts of an hour are sealed.
    pub(super) fn parts(&self, t0: i64) -> rusqlite::Result<u32> {
        let mut query =
            self.conn.prepare_cached("SELECT coalesce(max(parts), 0) FROM sealed WHERE t0 = ?1")?;
        query.query_row([t0], |row| row.get(0))
    }

    /// The hours with an instant from `from` to `to`; what begins in them is known by their first second.
    pub(super) fn span_of(hours: &Range<i64>) -> (UnixMillis, UnixMillis) {
        let at = |second: i64| UnixMillis(second.saturating_mul(1000));
        (at(hours.start), at(hours.end.saturating_add(HOUR_S)))
    }
}
