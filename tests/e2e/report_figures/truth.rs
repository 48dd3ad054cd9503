//! What was sent to the collector, as the maker of the past wrote it down, and figures of it worked out
//! anew: exactly, from single samples and counts, without anything of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use wire::catalog::{self, Kind, Metric};

use super::table::Row;

pub(super) const HOUR: i64 = 3600;
/// Gateway errors of a site and an hour that are kept whole of one signal when the hour is packed.
const KEPT_MAX: u64 = 20;
/// What a sketch may be off by, and a little.
const ERROR: f64 = 0.0102;
/// Up to so many times a limit a mean may be left out of those above it: all of a slot of a sketch.
const MISSED: f64 = 1.0205;

/// Second, state, restarts of a service, and how its last run ended.
type State = (i64, String, i64, String);

/// How many gateway errors were kept whole of a site and hour, and how many of them name each part.
type Cell = (f64, BTreeMap<String, f64>);

/// Everything of the servers that are in the fleet today.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// By server, metric and what the attribute names: second and value.
    series: BTreeMap<(String, String, String), BTreeMap<i64, f64>>,
    /// By server and name.
    pub(super) sites: BTreeMap<(String, String), Site>,
    /// Gateway errors that were kept whole: second, site, what their path and line say.
    kept: Vec<(i64, (String, String), String)>,
    /// Lines of evidence: second and words.
    lines: Vec<(i64, String)>,
    /// By server and unit: second, state, restarts.
    states: BTreeMap<(String, String), Vec<State>>,
}

/// A site and what it answered.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) pool: String,
    pub(super) owner: String,
    /// Second, status or derived counter, how many.
    pub(super) counts: Vec<(i64, u32, u64)>,
}

impl Truth {
    /// Reads the file that `past` wrote.
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("the maker of the past wrote it");
        let mut forgotten = BTreeSet::new();
        let (mut series, mut sites) = (Vec::new(), Vec::new());
        let (mut kept, mut lines, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split('\t').collect();
            let number = |ix: usize| words[ix].parse::<i64>().expect("a number");
            match words[0] {
                "series" => {
                    let metric = catalog::find(words[3]).expect("in the catalog");
                    let of = words[4].split_once('=').map_or("", |(_, of)| of);
                    let values = BTreeMap::<i64, f64>::new();
                    series.push((words[2].to_owned(), metric, of.to_owned(), values));
                }
                // What is sent later of the same second is the truth.
                "s" => {
                    let (_, metric, _, values) = &mut series[number(1) as usize];
                    values.insert(number(2).div_euclid(1000), number(3) as f64 / metric.scale);
                }
                "site" => {
                    let (pool, owner) = (words[4].to_owned(), words[5].to_owned());
                    let site = Site { pool, owner, counts: Vec::new() };
                    sites.push((words[2].to_owned(), words[3].to_owned(), site));
                }
                "c" => {
                    let of = &mut sites[number(1) as usize].2.counts;
                    of.push((number(2), number(3) as u32, number(4) as u64));
                }
                "e" => kept.push((number(2), number(1) as usize, words[3].to_owned())),
                "l" => lines.push((words[1].to_owned(), number(2), words[3].to_owned())),
                "u" => {
                    let state = (number(3), words[4].to_owned(), number(5), words[6].to_owned());
                    states.push((words[1].to_owned(), words[2].to_owned(), state));
                }
                "forgotten" => drop(forgotten.insert(words[1].to_owned())),
                other => panic!("{other:?} is no kind of line"),
            }
        }
        let name = |server: &str| server.split_once(':').expect("NUMBER:NAME").1.to_owned();
        let stays = |server: &String| !forgotten.contains(server);
        let series = series.into_iter().filter(|(server, ..)| stays(server));
        let kept = kept.into_iter().filter(|(_, site, _)| stays(&sites[*site].0));
        let kept = kept.map(|(at, site, said)| (at, site_of(&sites[site], &name), said)).collect();
        let lines = lines.into_iter().filter(|(server, ..)| stays(server));
        let mut by_unit: BTreeMap<(String, String), Vec<State>> = BTreeMap::new();
        for (server, unit, state) in states.into_iter().filter(|(server, ..)| stays(server)) {
            by_unit.entry((name(&server), unit)).or_default().push(state);
        }
        let sites = sites.into_iter().filter(|(server, ..)| stays(server));
        Self {
            series: series
                .map(|(server, metric, of, values)| {
                    ((name(&server), metric.name.to_owned(), of), values)
                })
                .collect(),
            sites: sites.map(|(server, site, of)| ((name(&server), site), of)).collect(),
            kept,
            lines: lines.map(|(_, at, said)| (at, said)).collect(),
            states: by_unit,
        }
    }

    /// What rows of plugins must say: those of folders below `wp-content/plugins`.
    pub(super) fn parts(&self, hours: &Range<i64>) -> Vec<Row> {
        let named = |said: &str| -> BTreeSet<String> {
            let after = said.split("wp-content/plugins/").skip(1);
            after.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect()
        };
        let mut n_of: BTreeMap<(&(String, String), &str, i64), u64> = BTreeMap::new();
        let mut is_kept = |site, line, at: i64| {
            let n = n_of.entry((site, line, at.div_euclid(HOUR))).or_default();
            *n += 1;
            *n <= KEPT_MAX
        };
        // By site and hour what was kept whole, and how much of it names each part.
        let mut cells: BTreeMap<(&(String, String), i64), Cell> = BTreeMap::new();
        for (at, site, said) in self.kept.iter().filter(|(at, ..)| hours.contains(at)) {
            if is_kept(site, way(said), *at) {
                let cell = cells.entry((site, at.div_euclid(HOUR))).or_default();
                cell.0 += 1.0;
                for part in named(said) {
                    *cell.1.entry(part).or_default() += 1.0;
                }
            }
        }
        let lines = || self.lines.iter().filter(|(at, _)| hours.contains(at));
        let all: BTreeSet<String> = cells
            .values()
            .flat_map(|(_, named)| named.keys().cloned())
            .chain(lines().flat_map(|(_, said)| named(said)))
            .collect();
        let n_all: u64 = self.sites.values().map(|site| site.n_errors(hours)).sum();
        let mut rows = Vec::new();
        for part in &all {
            let (mut n, mut sites) = (0.0, BTreeSet::new());
            for ((site, hour), (n_kept, named)) in &cells {
                let Some(n_named) = named.get(part) else { continue };
                let within = hour * HOUR..hour * HOUR + HOUR;
                n += self.sites[*site].n_errors(&within) as f64 * n_named / n_kept;
                sites.insert(*site);
            }
            let mut row = Row::new(&[("part", part), ("kind", "plugin")]);
            row.put("errors", Want::exactly(n.round()));
            row.put("errors_ratio", Want::exactly(n / n_all as f64));
            let n_lines = lines().filter(|(_, said)| named(said).contains(part)).count();
            row.put("lines", Want::exactly(n_lines as f64));
            row.put("sites", Want::exactly(sites.len() as f64));
            let worst = sites.into_iter().max_by_key(|site| self.sites[*site].n_errors(hours));
            let worst = worst.map(|(server, name)| format!("{name} on {server}"));
            row.put("worst_site", worst.map_or(Want::Unknown, |worst| Want::text(&worst)));
            rows.push(row);
        }
        rows
    }

    /// What rows of services must say: those that failed or restarted.
    pub(super) fn services(&self, hours: &Range<i64>) -> Vec<Row> {
        let mut rows = Vec::new();
        for ((server, unit), states) in &self.states {
            let mut states: Vec<_> =
                states.iter().filter(|(at, ..)| hours.contains(at)).cloned().collect();
            states.sort();
            let pairs = || states.windows(2).map(|pair| (&pair[0], &pair[1]));
            let changes = pairs().filter(|(one, next)| one.1 != next.1);
            let failures = changes.clone().filter(|(_, next)| next.1 == "failed").count();
            let restarts: i64 = pairs().map(|(one, next)| (next.2 - one.2).max(0)).sum();
            if failures == 0 && restarts == 0 {
                continue;
            }
            let mut row = Row::new(&[("service", unit), ("server", server)]);
            row.put("restarts", Want::exactly(restarts as f64));
            row.put("failures", Want::exactly(failures as f64));
            row.put("changes", Want::exactly(changes.count() as f64));
            let mut ended = states.iter().rev().map(|(.., ended)| ended.as_str());
            let bad = ended.find(|ended| !["", "success"].contains(ended));
            row.put("ended", bad.map_or(Want::Unknown, Want::text));
            let last = pairs().rfind(|(one, next)| one.1 != next.1 || next.2 > one.2);
            let at = last.map(|(_, next)| super::rfc(next.0).replace('Z', ".000Z"));
            row.put("last", at.map_or(Want::Unknown, |at| Want::text(&at)));
            rows.push(row);
        }
        rows
    }

    /// The names of its servers that sent anything.
    pub(super) fn servers(&self) -> BTreeSet<&str> {
        self.series.keys().map(|(server, ..)| server.as_str()).collect()
    }

    /// What a metric of a server has series of within these hours.
    pub(super) fn of(&self, server: &str, metric: &str, hours: &Range<i64>) -> Vec<&str> {
        let own = self.series.iter().filter(|((s, m, _), values)| {
            s == server && m == metric && values.range(hours.clone()).next().is_some()
        });
        own.map(|((_, _, of), _)| of.as_str()).collect()
    }

    /// Samples of a series within these hours.
    pub(super) fn samples(
        &self,
        server: &str,
        metric: &str,
        of: &str,
        hours: &Range<i64>,
    ) -> Vec<(i64, f64)> {
        let key = (server.to_owned(), metric.to_owned(), of.to_owned());
        let all = self.series.get(&key).into_iter().flat_map(|v| v.range(hours.clone()));
        all.map(|(at, value)| (*at, *value)).collect()
    }

    /// The minutes of a series within these hours.
    pub(super) fn minutes(
        &self,
        server: &str,
        metric: &str,
        of: &str,
        hours: &Range<i64>,
    ) -> Minutes {
        let samples = self.samples(server, metric, of, hours);
        let metric = catalog::find(metric).expect("in the catalog");
        Minutes::new(metric, &samples)
    }

    /// Hours in which a server sampled anything.
    pub(super) fn hours(&self, server: &str, hours: &Range<i64>) -> BTreeSet<i64> {
        let own = self.series.iter().filter(|((s, ..), _)| s == server);
        own.flat_map(|(_, values)| values.range(hours.clone()))
            .map(|(at, _)| at.div_euclid(HOUR) * HOUR)
            .collect()
    }
}

/// How a request failed: every failure of a site in one way has one line; its path stands before it.
fn way(said: &str) -> &str {
    said.split_once(' ').map_or("", |(_, line)| line)
}

/// Server and name of a site.
fn site_of(
    (server, site, _): &(String, String, Site),
    name: &impl Fn(&str) -> String,
) -> (String, String) {
    (name(server), site.clone())
}

impl Site {
    /// Requests within these hours: derived counters repeat others.
    pub(super) fn n(&self, hours: &Range<i64>) -> u64 {
        self.sum(hours, |status| status < 1000)
    }

    /// Gateway errors within these hours.
    pub(super) fn n_errors(&self, hours: &Range<i64>) -> u64 {
        self.sum(hours, |status| matches!(status, 502 | 504 | 1000))
    }

    /// How many of what `is` wanted.
    pub(super) fn sum(&self, hours: &Range<i64>, is: impl Fn(u32) -> bool) -> u64 {
        let wanted = self.counts.iter().filter(|(at, status, _)| hours.contains(at) && is(*status));
        wanted.map(|(_, _, n)| n).sum()
    }

    /// Minutes with an answer 502, 503 or 504.
    pub(super) fn bad_minutes(&self, hours: &Range<i64>) -> BTreeSet<i64> {
        let bad = self
            .counts
            .iter()
            .filter(|(at, status, n)| hours.contains(at) && (502..=504).contains(status) && *n > 0);
        bad.map(|(at, ..)| at.div_euclid(60)).collect()
    }

    /// Requests a second of each hour from its first to its last with any.
    pub(super) fn rates(&self, hours: &Range<i64>) -> Vec<f64> {
        let mut by_hour: BTreeMap<i64, u64> = BTreeMap::new();
        for (at, status, n) in &self.counts {
            if hours.contains(at) && *status < 1000 {
                *by_hour.entry(at.div_euclid(HOUR)).or_default() += n;
            }
        }
        let (Some(first), Some(last)) = (by_hour.keys().next(), by_hour.keys().last()) else {
            return Vec::new();
        };
        let n = |hour| by_hour.get(&hour).copied().unwrap_or(0);
        let mut rates: Vec<f64> =
            (*first..=*last).map(|hour| n(hour) as f64 / HOUR as f64).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }
}

/// One-minute means: of a counter its rise a second in each minute that it was watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Minutes {
    /// Minute since the epoch and mean, rising by minute.
    pub(super) means: Vec<(i64, f64)>,
    /// The largest sample; of a counter the largest mean.
    pub(super) max: f64,
    /// What a counter rose by within hours.
    pub(super) rise: f64,
    /// How much larger than `max` what is told may be: rises of minutes are kept as whole numbers.
    step: f64,
}

impl Minutes {
    fn new(metric: &Metric, samples: &[(i64, f64)]) -> Self {
        match metric.kind {
            Kind::Gauge => Self::of_gauge(samples),
            Kind::Counter => Self::of_counter(samples),
        }
    }

    fn of_gauge(samples: &[(i64, f64)]) -> Self {
        let mut by_minute: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for (at, value) in samples {
            by_minute.entry(at.div_euclid(60)).or_default().push(*value);
        }
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let means = by_minute.into_iter().map(|(minute, values)| (minute, mean(values))).collect();
        let max = samples.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max);
        Self { means, max, rise: 0.0, step: 0.0 }
    }

    /// Between two samples of an hour it rises evenly; what falls began anew at nothing.
    fn of_counter(samples: &[(i64, f64)]) -> Self {
        let (mut rises, mut rise) = (BTreeMap::<i64, (f64, f64)>::new(), 0.0);
        for pair in samples.windows(2) {
            let [(from, before), (to, after)] = [pair[0], pair[1]];
            if from.div_euclid(HOUR) != to.div_euclid(HOUR) {
                continue;
            }
            let step = if after >= before { after - before } else { after };
            rise += step;
            for minute in from.div_euclid(60)..=(to - 1).div_euclid(60) {
                let watched = (to.min(minute * 60 + 60) - from.max(minute * 60)) as f64;
                let of = rises.entry(minute).or_default();
                of.0 += step * watched / (to - from) as f64;
                of.1 += watched;
            }
        }
        let means: Vec<(i64, f64)> =
            rises.into_iter().map(|(minute, (rise, watched))| (minute, rise / watched)).collect();
        let max = means.iter().map(|(_, mean)| *mean).fold(f64::MIN, f64::max);
        Self { means, max, rise, step: 1.0 / 60.0 }
    }

    /// Each mean through `f`, which is given the minute as well; `None` leaves it out.
    pub(super) fn map(&self, f: impl Fn(i64, f64) -> Option<f64>) -> Self {
        let means: Vec<(i64, f64)> =
            self.means.iter().filter_map(|(at, mean)| Some((*at, f(*at, *mean)?))).collect();
        Self { means, ..self.clone() }
    }

    /// All of it times `factor`.
    pub(super) fn times(&self, factor: f64) -> Self {
        let mut scaled = self.map(|_, mean| Some(mean * factor));
        (scaled.max, scaled.step) = (self.max * factor, self.step * factor);
        scaled
    }

    /// Together with the minutes of others.
    pub(super) fn with(mut self, other: &Self) -> Self {
        let is_first = self.means.is_empty();
        self.means.extend(&other.means);
        self.max = if is_first { other.max } else { self.max.max(other.max) };
        self.step = self.step.max(other.step);
        self
    }

    pub(super) fn n(&self) -> usize {
        self.means.len()
    }

    /// Between what the quantile that is told must lie.
    pub(super) fn quantile(&self, q: f64) -> Want {
        let mut values: Vec<f64> = self.means.iter().map(|(_, mean)| *mean).collect();
        values.sort_by(f64::total_cmp);
        between(&values, q, ERROR)
    }

    /// The largest.
    pub(super) fn max(&self) -> Want {
        if self.means.is_empty() {
            return Want::Unknown;
        }
        Want::Between(self.max * (1.0 - 1e-9), self.max * (1.0 + 1e-9) + self.step)
    }

    /// Minutes above a limit: those just above it may be left out, none at or below it counts.
    pub(super) fn n_above(&self, limit: f64) -> (u64, u64) {
        let n = |least: f64| self.means.iter().filter(|(_, mean)| *mean > least).count() as u64;
        (n(limit * MISSED), n(limit * (1.0 - 1e-9)))
    }

    pub(super) fn minutes_above(&self, limit: f64) -> Want {
        let (least, most) = self.n_above(limit);
        if self.means.is_empty() { Want::Unknown } else { Want::Between(least as f64, most as f64) }
    }

    pub(super) fn share_above(&self, limit: f64) -> Want {
        let ((least, most), n) = (self.n_above(limit), self.n() as f64);
        if self.means.is_empty() {
            return Want::Unknown;
        }
        Want::Between(least as f64 / n, most as f64 / n)
    }
}

/// Between what a quantile of sorted values must lie when each may be off by `error`.
pub(super) fn between(values: &[f64], q: f64, error: f64) -> Want {
    let Some(last) = values.len().checked_sub(1) else { return Want::Unknown };
    let low = (q * last as f64).floor() as usize;
    let high = ((q * values.len() as f64).ceil() as usize).min(last);
    Want::Between(values[low] * (1.0 - error), values[high] * (1.0 + error))
}

/// What a cell of a report must say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Want {
    /// These words.
    Text(String),
    /// Any of these words.
    OneOf(Vec<String>),
    /// A number from here to there.
    Between(f64, f64),
    /// A number from here to there, or nothing.
    Perhaps(f64, f64),
    /// Nothing.
    Unknown,
}

impl Want {
    pub(super) fn exactly(number: f64) -> Self {
        Self::Between(number, number)
    }

    pub(super) fn maybe(number: Option<f64>) -> Self {
        number.map_or(Self::Unknown, Self::exactly)
    }

    /// Least and most.
    pub(super) fn ends(&self) -> Option<[f64; 2]> {
        match self {
            Self::Between(low, high) => Some([*low, *high]),
            _ => None,
        }
    }

    pub(super) fn text(words: &str) -> Self {
        Self::Text(words.to_owned())
    }

    /// Whether a value of JSON is that.
    pub(super) fn holds(&self, told: &serde_json::Value) -> bool {
        match self {
            // A word with a level is told with it.
            Self::Text(words) => told.as_str().or(told["text"].as_str()) == Some(words),
            Self::OneOf(all) => told.as_str().is_some_and(|told| all.iter().any(|w| w == told)),
            Self::Between(low, high) => told.as_f64().is_some_and(|told| {
                let slack = 1e-6 * low.abs().max(high.abs()) + 1e-9;
                (low - slack..=high + slack).contains(&told)
            }),
            Self::Perhaps(low, high) => told.is_null() || Self::Between(*low, *high).holds(told),
            Self::Unknown => told.is_null(),
        }
    }
}
