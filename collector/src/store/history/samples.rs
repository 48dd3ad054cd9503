//! Samples of one metric of one server: columns of day files, parts put together, and hot batches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::catalog::{Kind, Metric};
use wire::v1::BatchBody;

use super::super::blocks::{Column, Place};
use super::catalog::{Known, unit};
use super::steps::{GAP_S, Point, Steps, Values};
use super::{History, Sealed};
use crate::ingest::convert;
use crate::model::ServerId;

/// What is asked of one server.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose.
    pub server: ServerId,
    /// Which.
    pub metric: &'static Metric,
    /// `key=value`, or empty.
    pub attribute: String,
    /// First instant.
    pub from: UnixMillis,
    /// First instant no longer told.
    pub to: UnixMillis,
    /// Put together by so many seconds; `None`: each sample.
    pub step_s: Option<i64>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Unit of the values; of a counter that of its rate.
    pub unit: String,
    /// `gauge` or `counter`; values of a counter are its rate a second.
    pub kind: String,
    /// What was read: `samples`, `hours` where samples are kept no more, or `hours and samples`.
    pub source: String,
    /// In order of time; steps without a sample are left out.
    pub points: Vec<Point>,
}

/// Samples of one hour or less by second; later ones win.
pub(in crate::store) type Seconds = BTreeMap<i64, i64>;

impl History<'_> {
    /// Samples, or their steps. Cut after [`super::Limits::n_values`] points.
    /// Where samples are kept no more, steps of whole hours are of hourly sums.
    pub fn series(&self, wanted: &Wanted) -> rusqlite::Result<Series> {
        let metric = wanted.metric;
        let mut values = Values::new(metric);
        let mut steps = Steps::new(wanted.step_s);
        self.hours_before(wanted, &mut steps)?;
        let (has_hours, mut has_samples) = (!steps.points.is_empty(), false);
        // The rate of the first sample takes the one before it.
        let lead = if metric.kind == Kind::Counter { GAP_S * 1000 } else { 0 };
        let span = (UnixMillis(wanted.from.0.saturating_sub(lead)), wanted.to);
        self.samples(wanted.server, metric, &wanted.attribute, span, &mut |second, scaled| {
            let Some(value) = values.next(second, scaled) else { return true };
            if second.saturating_mul(1000) < wanted.from.0 {
                return true;
            }
            has_samples = true;
            steps.add(second, value);
            if steps.points.len() <= self.limits.n_values {
                return true;
            }
            steps.points.pop();
            self.cut(&format!("there are more than {} points", self.limits.n_values));
            false
        })?;
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" }.to_owned();
        let source = match (has_hours, has_samples) {
            (true, true) => "hours and samples",
            (true, false) => "hours",
            (false, _) => "samples",
        };
        Ok(Series { unit: unit(metric), kind, source: source.to_owned(), points: steps.points })
    }

    /// Shows `see` each second and value times the catalog's scale with its instant in `from..to`, in order
    /// of time, until it says false.
    pub(super) fn samples(
        &self,
        server: ServerId,
        metric: &'static Metric,
        attribute: &str,
        (from, to): (UnixMillis, UnixMillis),
        see: &mut dyn FnMut(i64, i64) -> bool,
    ) -> rusqlite::Result<()> {
        let hours = self.hours(from, to)?;
        let columns = self.columns(metric.name, Some(attribute))?;
        let (from_s, to_s) = seconds(from, to);
        let mut hot = Seconds::new();
        self.hot_of(server, (from, to), &mut |batch| {
            samples_of(&batch.body, metric, attribute, &mut |second, scaled| {
                if (from_s..to_s).contains(&second) && hours.is_hot(batch.id, second) {
                    hot.insert(second, scaled);
                }
            });
        })?;
        let mut hot = hot.into_iter().peekable();
        for (t0, sealed) in &hours.0 {
            while let Some((second, value)) = hot.next_if(|(second, _)| second < t0) {
                if !see(second, value) {
                    return Ok(());
                }
            }
            if !self.goes_on() {
                return Ok(());
            }
            let mut hour = self.hour_of_columns(server, &columns, metric, *t0, *sealed)?;
            while let Some((second, value)) = hot.next_if(|(second, _)| *second < t0 + 3600) {
                hour.insert(second, value);
            }
            for (second, value) in hour.range(from_s..to_s.max(from_s)) {
                if !see(*second, *value) {
                    return Ok(());
                }
            }
        }
        for (second, value) in hot {
            if !see(second, value) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What is sealed of one hour, all parts put together.
    fn hour_of_columns(
        &self,
        server: ServerId,
        columns: &[Known],
        metric: &Metric,
        t0: i64,
        sealed: Sealed,
    ) -> rusqlite::Result<Seconds> {
        let mut hour = Seconds::new();
        if columns.is_empty() {
            return Ok(hour);
        }
        let Some(file) = self.day(t0, sealed.parts)? else { return Ok(hour) };
        for part in 0..sealed.parts {
            let place = Place { t0, server, part };
            for known in columns {
                let column =
                    self.tolerate(place, known.id, file.column(place, known.id))?.flatten();
                if let Some(column) = column {
                    put(&mut hour, t0, &column, known.scale, metric.scale);
                }
            }
        }
        Ok(hour)
    }
}

/// Adds a column; what is of another scale than the catalog's is brought to it.
pub(super) fn put(hour: &mut Seconds, t0: i64, column: &Column, scale: f64, wanted: f64) {
    let values = column.values.iter().map(|value| rescaled(*value, scale, wanted));
    hour.extend(column.at.iter().map(|at| t0 + i64::from(*at)).zip(values));
}

/// A value of one scale in another.
#[expect(clippy::float_cmp, reason = "scales are whole numbers")]
pub(super) fn rescaled(value: i64, scale: f64, wanted: f64) -> i64 {
    if scale == wanted { value } else { (value as f64 / scale * wanted).round() as i64 }
}

/// The seconds whose first instant lies in `from..to`.
pub(super) fn seconds(from: UnixMillis, to: UnixMillis) -> (i64, i64) {
    let up = |at: UnixMillis| at.0.saturating_add(999).div_euclid(1000);
    (up(from), up(to))
}

/// Shows `see` second and scaled value of each sample of one series in a body.
fn samples_of(body: &BatchBody, metric: &Metric, attribute: &str, see: &mut dyn FnMut(i64, i64)) {
    let is_it = |series: &wire::v1::Series| {
        series.metric == metric.name
            && convert::clip(&series.attribute, convert::NAME_BYTES_MAX) == attribute
    };
    let wanted: Vec<u32> =
        (0..).zip(&body.series).filter(|(_, series)| is_it(series)).map(|(ix, _)| ix).collect();
    if wanted.is_empty() {
        return;
    }
    for tick in &body.ticks {
        let second = UnixMillis(tick.at_unix_ms).second();
        for (series, value) in tick.series.iter().zip(&tick.value) {
            if wanted.contains(series) {
                see(second, *value);
            }
        }
    }
}
