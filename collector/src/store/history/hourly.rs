//! Hours of one metric of many servers, as their sums tell them: what reports are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wire::catalog::{Kind, Metric};

use super::super::hours::HOUR_S;
use super::super::rollup::rolled::Rolled;
use super::History;
use super::rolled::MINUTE_S;
use crate::model::ServerId;

/// What a series was over some time: one hour, or several together. In the unit of its metric; of a
/// counter its rise a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    rolled: Rolled,
    kind: Kind,
    /// What is stored is the value times this.
    scale: f64,
}

impl Spread {
    /// Of an hour's sums.
    pub(super) fn new(rolled: Rolled, metric: &Metric, scale: f64) -> Self {
        Self { rolled, kind: metric.kind, scale }
    }

    fn told(&self, value: f64) -> f64 {
        let a_minute = if self.kind == Kind::Counter { MINUTE_S } else { 1.0 };
        value / self.scale / a_minute
    }

    /// Minutes with samples.
    #[must_use]
    pub fn n_minutes(&self) -> u64 {
        self.rolled.minutes.n()
    }

    /// The value below which a share `q` (0..=1) of the one-minute means lies, within 1 % of it.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.rolled.quantile(q).map(|value| self.told(value))
    }

    /// The least sample; of a counter the least rate of a minute.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.told(self.rolled.min as f64)
    }

    /// The largest sample; of a counter the largest rate of a minute.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.told(self.rolled.max as f64)
    }

    /// The mean of all samples; of a counter its rise a second over all the time it was watched.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.rolled.sum as f64 / self.scale / self.rolled.n.max(1) as f64
    }

    /// What a counter rose by in all; of a gauge the sum of its samples, which means nothing.
    #[must_use]
    pub fn rise(&self) -> f64 {
        self.rolled.sum as f64 / self.scale
    }

    /// Share of the minutes whose mean is above `limit`; minutes within 1 % of it may be on either side.
    /// `None` of nothing.
    #[must_use]
    pub fn share_above(&self, limit: f64) -> Option<f64> {
        let a_minute = if self.kind == Kind::Counter { MINUTE_S } else { 1.0 };
        let n = self.n_minutes();
        let above = self.rolled.minutes.n_above(limit * self.scale * a_minute);
        (n > 0).then(|| above as f64 / n as f64)
    }

    /// Adds another span of time, or another series of the same metric.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!((self.kind, self.scale), (other.kind, other.scale), "of one metric");
        self.rolled.merge(&other.rolled);
    }
}

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

impl History<'_> {
    /// Shows `see` every hour of one metric of these servers that begins in `hours`, of all its attributes,
    /// each hour once, in no order. What is missing or damaged is noted beside the answer.
    pub fn hourly(
        &self,
        metric: &'static Metric,
        servers: &BTreeSet<ServerId>,
        hours: &Range<i64>,
        see: &mut dyn FnMut(HourOf<'_>),
    ) -> rusqlite::Result<()> {
        let fresh: BTreeMap<i64, u32> = self.not_rolled(hours)?;
        for known in self.columns(metric.name, None)? {
            let mut show = |server: ServerId, t0: i64, rolled: &Rolled| {
                if servers.contains(&server) {
                    let spread = Spread::new(rolled.clone(), metric, known.scale);
                    see(HourOf { server, attribute: &known.attribute, t0, spread: &spread });
                }
                true
            };
            self.months(hours, &mut |file| {
                file.fleet(known.id, hours, &mut |cell, found| match found {
                    Ok(_) if fresh.contains_key(&cell.t0) => self.goes_on(),
                    Ok(rolled) => show(cell.server, cell.t0, &rolled) && self.goes_on(),
                    Err(error) => {
                        self.bad_day(cell, &error);
                        true
                    }
                })
            })?;
            for (t0, parts) in fresh.iter().filter(|(t0, _)| **t0 + HOUR_S > hours.start) {
                self.roll_now(metric.kind, &known, (*t0, *parts), &mut show)?;
            }
        }
        Ok(())
    }
}
