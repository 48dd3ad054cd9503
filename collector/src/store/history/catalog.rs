//! The metrics that are stored, and which of their names somebody meant.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::catalog::{self, Kind, Metric};

use super::super::blocks::Place;
use super::super::quarantine::PRESENCE;
use super::History;
use crate::ingest::convert;
use crate::model::ServerId;

/// Attributes of one metric that are told.
const ATTRIBUTES_MAX: usize = 1000;
/// Names told as near to one that is unknown.
const NEAR_MAX: usize = 3;

/// A metric with the attributes that were sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownMetric {
    /// Its name.
    pub metric: String,
    /// Unit of its values as told; of a counter that of its rate.
    pub unit: String,
    /// `gauge` or `counter`; values of counters are told as rates a second.
    pub kind: String,
    /// The attributes seen on any server, `""` without one; at most 1,000.
    pub attributes: Vec<String>,
    /// There are more.
    pub more: bool,
}

/// A column of day files.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// Its id in them.
    pub(super) id: i64,
    /// `key=value`, or empty.
    pub attribute: String,
    /// What is stored is the value times this.
    pub(super) scale: f64,
}

impl History<'_> {
    /// The columns of a metric, of all servers: of one attribute, or of all. Rarely two have the same
    /// attribute: a release changed the scale then.
    pub(super) fn columns(
        &self,
        name: &str,
        attribute: Option<&str>,
    ) -> rusqlite::Result<Vec<Known>> {
        let mut query = self.conn.prepare_cached(
            "SELECT metric, attribute, scale FROM metric
             WHERE name = ?1 AND (?2 IS NULL OR attribute = ?2) ORDER BY attribute, metric",
        )?;
        let rows = query.query_map(params![name, attribute], |row| {
            let scale = row.get::<_, i64>(2)? as f64;
            Ok(Known { id: row.get(0)?, attribute: row.get(1)?, scale })
        })?;
        rows.collect()
    }

    /// Attributes under which a server sent a metric, in the last day of `from..to`, in order.
    pub fn attributes_of(
        &self,
        name: &str,
        server: ServerId,
        (from, to): (UnixMillis, UnixMillis),
    ) -> rusqlite::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        self.hot_of(server, (from, to), &mut |batch| {
            for series in batch.body.series.iter().filter(|series| series.metric == name) {
                found.insert(convert::clip(&series.attribute, convert::NAME_BYTES_MAX));
            }
        })?;
        let columns: BTreeMap<i64, String> = self
            .columns(name, None)?
            .into_iter()
            .map(|known| (known.id, known.attribute))
            .collect();
        for (t0, sealed) in self.hours(from, to)?.0.iter().rev().take(24) {
            if columns.is_empty() || !self.goes_on() {
                break;
            }
            let Some(file) = self.day(*t0, sealed.parts)? else { continue };
            for part in 0..sealed.parts {
                let place = Place { t0: *t0, server, part };
                let metrics =
                    self.tolerate(place, PRESENCE, file.metrics(place))?.unwrap_or_default();
                found.extend(metrics.iter().filter_map(|id| columns.get(id)).cloned());
            }
        }
        Ok(found)
    }

    /// The metrics that were sealed, by name. `only`: of this one, or those that begin so and a dot.
    pub fn metrics(&self, only: Option<&str>) -> rusqlite::Result<Vec<KnownMetric>> {
        let mut query = self.conn.prepare_cached("SELECT DISTINCT name, attribute FROM metric")?;
        let mut rows = query.query([])?;
        let mut found: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
            let is_asked = only.is_none_or(|only| {
                let rest = name.strip_prefix(only.trim_end_matches('.'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            let Some(metric) = catalog::find(name).filter(|_| is_asked) else { continue };
            let of = found.entry(metric.name).or_default();
            // One more than is told: so it is known that there are more.
            if of.len() <= ATTRIBUTES_MAX {
                of.insert(row.get(1)?);
            }
        }
        let told = |(name, of)| Some(known(catalog::find(name)?, of));
        Ok(found.into_iter().filter_map(told).collect())
    }
}

fn known(metric: &Metric, attributes: BTreeSet<String>) -> KnownMetric {
    let more = attributes.len() > ATTRIBUTES_MAX;
    KnownMetric {
        metric: metric.name.to_owned(),
        unit: unit(metric),
        kind: if metric.kind == Kind::Counter { "counter" } else { "gauge" }.to_owned(),
        attributes: attributes.into_iter().take(ATTRIBUTES_MAX).collect(),
        more,
    }
}

/// Unit in which values are told: counters are rates a second.
#[must_use]
pub(super) fn unit(metric: &Metric) -> String {
    match metric.kind {
        Kind::Gauge => metric.unit.to_owned(),
        Kind::Counter => format!("{}/s", metric.unit),
    }
}

/// Of `names` those nearest to what somebody wrote: what has it in it, then by letters that differ; none
/// when all are far off.
#[must_use]
pub fn near<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let written = written.to_lowercase();
    let mut ranked: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let lower = name.to_lowercase();
            if !written.is_empty() && (lower.contains(&written) || written.contains(&lower)) {
                return Some((0, name));
            }
            let n = distance(&written, &lower);
            (n <= 2.max(written.chars().count() / 3)).then_some((n, name))
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect()
}

/// How many letters have to be put in, taken out or replaced to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    /// What is longer is not compared letter by letter.
    const CHARS_MAX: usize = 128;
    let b: Vec<char> = b.chars().take(CHARS_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(CHARS_MAX).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let same = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = same.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The metric of this name; else those whose names are near.
pub fn metric(name: &str) -> Result<&'static Metric, Vec<&'static str>> {
    catalog::find(name).ok_or_else(|| near(name, catalog::METRICS.iter().map(|metric| metric.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_leads_to_the_right_one() {
        assert_eq!(metric("system.cpu.stael").unwrap_err()[0], "system.cpu.steal");
        assert_eq!(metric("STEAL").unwrap_err(), ["system.cpu.steal"]);
        assert_eq!(metric("qqqqqqqqqqqq").unwrap_err(), [""; 0]);
        assert_eq!(metric("").unwrap_err(), [""; 0]);
        assert_eq!(metric("system.cpu.steal").unwrap().name, "system.cpu.steal");
        assert_eq!(near("web-7", ["web-07", "db-1", "mail"].into_iter()), ["web-07"]);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
