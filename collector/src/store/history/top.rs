//! The servers that stand out by one metric over some time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::catalog::{Kind, Metric};

use super::super::blocks::{BlockError, Raw, Summary};
use super::super::hours::{HOUR_S, hour_of};
use super::super::quarantine::Damage;
use super::catalog::{Known, unit};
use super::samples::{put, rescaled, seconds};
use super::steps::Values;
use super::{History, Hours, Seconds, Why, file_of};
use crate::ingest::convert;
use crate::model::ServerId;

/// Longest time in which hours that are not sealed yet are read too: their batches hold everything else as
/// well, and there are many.
const HOT_SPAN_MS: i64 = 6 * 3_600_000;
/// Clocks of servers are believed up to an hour off.
const CLOCK_OFF_MS: u64 = 3_600_000;
/// Samples of a series in an hour, as a rule.
const SAMPLES_AN_HOUR: usize = 360;
/// Servers whose values are kept at once, at least and at most.
const SERVERS_AT_ONCE: (usize, usize) = (16, 4096);

/// What a server's values are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// The value that so many percent of the samples do not exceed: the nearest rank.
    Percentile(u8),
    /// The highest.
    Max,
    /// The mean.
    Avg,
}

impl Stat {
    /// `p50`, `p95`, `p99`, `max` or `avg`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "p50" => Some(Self::Percentile(50)),
            "p95" => Some(Self::Percentile(95)),
            "p99" => Some(Self::Percentile(99)),
            "max" => Some(Self::Max),
            "avg" => Some(Self::Avg),
            _ => None,
        }
    }
}

/// What is asked of the fleet.
#[derive(Clone, Debug)]
pub struct Contest {
    /// By which metric.
    pub metric: &'static Metric,
    /// By what of it.
    pub stat: Stat,
    /// First instant.
    pub from: UnixMillis,
    /// First instant no longer looked at.
    pub to: UnixMillis,
    /// How many are told.
    pub k: usize,
    /// Names of the servers that take part.
    pub servers: BTreeMap<ServerId, String>,
}

/// One server with one attribute of the metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Its name.
    pub server: String,
    /// `key=value`, or empty.
    pub attribute: String,
    /// What it is judged by.
    pub value: f64,
    /// Samples it was made of.
    pub n: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// Unit of the values; of a counter that of its rate.
    pub unit: String,
    /// Begin of what was looked at.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// Its end: before what was asked for when the newest hours are not packed yet and the time is long;
    /// what came late for others counts once it is packed too.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// What was read: `samples`, or `hours` where samples are kept no more.
    pub source: String,
    /// Largest relative error of the values; 0: they are exact. Of percentiles from `hours` it is that of the
    /// percentile of the means of minutes, which short peaks lie above.
    pub error: f64,
    /// Series that took part.
    pub n_series: u64,
    /// Highest first.
    pub top: Vec<Ranked>,
}

/// The values of one series, or what is needed of them.
#[derive(Debug, Default)]
struct Tally {
    n: u64,
    max: f64,
    sum: f64,
    /// Only for percentiles: levels as they are stored, rates by [`order_key`]; both in their order.
    keys: Vec<i64>,
}

/// Series with the values they were judged by, the highest kept.
pub(super) struct Best {
    pub(super) k: usize,
    pub(super) n: u64,
    pub(super) kept: Vec<Ranked>,
}

impl Best {
    pub(super) fn add(&mut self, ranked: Ranked) {
        self.n += 1;
        self.kept.push(ranked);
        if self.kept.len() >= 2 * self.k.max(32) {
            self.cut();
        }
    }

    pub(super) fn cut(&mut self) {
        self.kept.sort_by(|a, b| {
            let names = (&a.server, &a.attribute).cmp(&(&b.server, &b.attribute));
            b.value.total_cmp(&a.value).then(names)
        });
        self.kept.truncate(self.k);
    }
}

/// Samples of hours that are not sealed, by attribute and server.
type HotSamples = HashMap<String, BTreeMap<ServerId, Seconds>>;

impl History<'_> {
    /// The series with the highest values, from every sample.
    pub fn top(&self, contest: &Contest) -> rusqlite::Result<Ranking> {
        if let Some(ranking) = self.top_of_hours(contest)? {
            return Ok(ranking);
        }
        let (from, mut to) = (contest.from, contest.to);
        let mut hours = self.hours(from, to)?;
        let mut hot = HotSamples::new();
        // Before the oldest there is nothing to read.
        let begin = super::oldest(self.conn)?.map_or(to, |oldest| oldest.max(from));
        if to.0.saturating_sub(begin.0) <= HOT_SPAN_MS {
            hot = self.hot_samples(contest, &hours)?;
        } else if let Some((t0, _)) = hours.0.last_key_value() {
            to = to.min(UnixMillis::from_second(t0 + HOUR_S));
            self.note_waiting(&hours, (from, to))?;
        } else {
            self.cut("nothing of that time is packed yet: ask for six hours or less");
        }
        let columns = self.columns(contest.metric.name, None)?;
        let mut by_attribute: BTreeMap<&str, Vec<&Known>> = BTreeMap::new();
        for known in &columns {
            by_attribute.entry(&known.attribute).or_default().push(known);
        }
        let mut best = Best { k: contest.k, n: 0, kept: Vec::new() };
        let attributes: BTreeSet<&str> =
            by_attribute.keys().copied().chain(hot.keys().map(String::as_str)).collect();
        let none = BTreeMap::new();
        if columns.is_empty() {
            hours.0.clear();
        }
        for attribute in attributes {
            let of = by_attribute.get(attribute).map_or(&[][..], Vec::as_slice);
            let hot = hot.get(attribute).unwrap_or(&none);
            self.top_of(contest, (attribute, of), (&hours, to), hot, &mut best)?;
        }
        best.cut();
        Ok(Ranking {
            unit: unit(contest.metric),
            from,
            to,
            source: "samples".to_owned(),
            error: 0.0,
            n_series: best.n,
            top: best.kept,
        })
    }

    /// Hours between those that are sealed whose batches wait still, and are not read.
    fn note_waiting(
        &self,
        hours: &Hours,
        (from, to): (UnixMillis, UnixMillis),
    ) -> rusqlite::Result<()> {
        let all = (hour_of(from.second())..to.second()).step_by(3600);
        let mut waiting: BTreeSet<i64> = all.filter(|t0| !hours.0.contains_key(t0)).collect();
        let (Some(first), Some(last)) = (waiting.first(), waiting.last()) else { return Ok(()) };
        let heads = "SELECT DISTINCT t_min / 3600000 * 3600, t_max / 3600000 * 3600 FROM hot
                     WHERE t_max >= ?1 AND t_min < ?2";
        let mut heads = self.conn.prepare_cached(heads)?;
        let mut rows = heads.query([first * 1000, (last + 3600) * 1000])?;
        while let Some(row) = rows.next()? {
            let told = row.get::<_, i64>(0)?..=row.get(1)?;
            waiting.retain(|t0| {
                if told.contains(t0) {
                    self.hole(None, Why::Unreadable, *t0);
                }
                !told.contains(t0)
            });
            if waiting.is_empty() || !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    /// Judges all servers by one attribute, so many at once as memory allows.
    fn top_of(
        &self,
        contest: &Contest,
        (attribute, columns): (&str, &[&Known]),
        (hours, to): (&Hours, UnixMillis),
        hot: &BTreeMap<ServerId, Seconds>,
        best: &mut Best,
    ) -> rusqlite::Result<()> {
        let is_percentile = matches!(contest.stat, Stat::Percentile(_));
        let bytes = if is_percentile {
            hours.0.len().max(1) * SAMPLES_AN_HOUR * size_of::<i64>()
        } else {
            256
        };
        let at_once = (self.limits.n_bytes / bytes).clamp(SERVERS_AT_ONCE.0, SERVERS_AT_ONCE.1);
        let servers: Vec<ServerId> = contest.servers.keys().copied().collect();
        let mut all: BTreeMap<i64, u32> = hours.0.iter().map(|(t0, of)| (*t0, of.parts)).collect();
        for second in hot.values().flat_map(Seconds::keys) {
            all.entry(hour_of(*second)).or_default();
        }
        for some in servers.chunks(at_once) {
            let mut tallies = Tallies::new(contest, all.len());
            for (t0, parts) in &all {
                if !self.goes_on() {
                    // Half of the time would be judged as if it were all.
                    return Ok(());
                }
                let mut hour = HourOf {
                    contest,
                    t0: *t0,
                    parts: *parts,
                    span: seconds(contest.from, to),
                    hot,
                    tallies: &mut tallies,
                };
                self.top_of_hour(&mut hour, columns, some)?;
            }
            for (server, (_, tally)) in tallies.of {
                let Some(value) = tally.judged(contest) else { continue };
                let name = contest.servers.get(&server).cloned().unwrap_or_default();
                let attribute = attribute.to_owned();
                best.add(Ranked { server: name, attribute, value: value.0, n: value.1 });
            }
        }
        Ok(())
    }

    fn top_of_hour(
        &self,
        hour: &mut HourOf<'_, '_>,
        columns: &[&Known],
        servers: &[ServerId],
    ) -> rusqlite::Result<()> {
        // Of several parts, of hot samples beside them and of two scales samples are put together first.
        let mut several: BTreeMap<ServerId, Seconds> = BTreeMap::new();
        if hour.parts > 0 {
            self.sealed_columns(hour, columns, servers, &mut several)?;
        }
        for server in servers {
            let end = hour.t0 + 3600;
            let hot = hour.hot.get(server).map(|hot| hot.range(hour.t0..end));
            for (second, value) in hot.into_iter().flatten() {
                several.entry(*server).or_default().insert(*second, *value);
            }
        }
        for (server, seconds) in several {
            let of = seconds.range(hour.span.0..hour.span.1.max(hour.span.0));
            hour.tallies.add(server, of.map(|(second, value)| (*second, *value)));
        }
        Ok(())
    }

    /// Takes the columns of one hour that are alone; the samples of others are put into `several`.
    fn sealed_columns(
        &self,
        hour: &mut HourOf<'_, '_>,
        columns: &[&Known],
        servers: &[ServerId],
        several: &mut BTreeMap<ServerId, Seconds>,
    ) -> rusqlite::Result<()> {
        let (Some(first), Some(last)) = (servers.first(), servers.last()) else { return Ok(()) };
        let Some(file) = self.day(hour.t0, hour.parts)? else { return Ok(()) };
        let is_simple = hour.parts == 1 && columns.len() == 1;
        let mut damaged = Vec::new();
        for known in columns {
            let read = file.columns_in(hour.t0, known.id, (*first, *last), &mut |raw| {
                let server = raw.place.server;
                if raw.place.part >= hour.parts || !hour.contest.servers.contains_key(&server) {
                    return true;
                }
                let taken = if is_simple && !hour.has_hot(server) {
                    hour.take(&raw, known.scale)
                } else {
                    raw.column().map(|column| {
                        let of = several.entry(server).or_default();
                        put(of, hour.t0, &column, known.scale, hour.contest.metric.scale);
                    })
                };
                if let Err(error) = taken {
                    damaged.push((raw.place, known.id, error));
                }
                !self.end.is_due()
            });
            if let Err(error) = read {
                let damage = |why: &str| Damage::hour(&file_of(hour.t0), hour.t0, why);
                self.failed(None, hour.t0, error, damage)?;
            }
        }
        for (place, metric, error) in damaged {
            self.tolerate::<()>(place, metric, Err(error))?;
        }
        Ok(())
    }

    /// Samples of one metric of all servers in hours that are not sealed, or that came late.
    fn hot_samples(&self, contest: &Contest, hours: &Hours) -> rusqlite::Result<HotSamples> {
        let mut found = HotSamples::new();
        let span = seconds(contest.from, contest.to);
        let mut n = 0_usize;
        self.hot_of_all((contest.from, contest.to), CLOCK_OFF_MS, &mut |batch| {
            if n * 32 > self.limits.n_bytes || !contest.servers.contains_key(&batch.server) {
                return;
            }
            let is_it = |series: &wire::v1::Series| {
                (series.metric == contest.metric.name)
                    .then(|| convert::clip(&series.attribute, convert::NAME_BYTES_MAX))
            };
            let names: Vec<Option<String>> = batch.body.series.iter().map(is_it).collect();
            for tick in &batch.body.ticks {
                let second = UnixMillis(tick.at_unix_ms).second();
                if !(span.0..span.1).contains(&second) || !hours.is_hot(batch.id, second) {
                    continue;
                }
                for (ix, value) in tick.series.iter().zip(&tick.value) {
                    let Some(Some(name)) = names.get(*ix as usize) else { continue };
                    if !found.contains_key(name) {
                        found.insert(name.clone(), BTreeMap::new());
                    }
                    let of = found.get_mut(name).and_then(|of| of.entry(batch.server).or_default().insert(second, *value));
                    n += usize::from(of.is_none());
                }
            }
            if n * 32 > self.limits.n_bytes {
                self.cut("there are too many samples that are not packed yet: ask for a time further back");
            }
        })?;
        Ok(found)
    }
}

/// One hour of one attribute.
struct HourOf<'a, 'c> {
    contest: &'c Contest,
    t0: i64,
    parts: u32,
    /// Seconds that count.
    span: (i64, i64),
    hot: &'a BTreeMap<ServerId, Seconds>,
    tallies: &'a mut Tallies<'c>,
}

impl HourOf<'_, '_> {
    fn has_hot(&self, server: ServerId) -> bool {
        let hot = self.hot.get(&server);
        hot.is_some_and(|hot| hot.range(self.t0..self.t0 + 3600).next().is_some())
    }

    /// Takes a column that is alone. Highest and mean of a level need no value of it.
    fn take(&mut self, raw: &Raw<'_>, scale: f64) -> Result<(), BlockError> {
        let metric = self.contest.metric;
        let is_whole = self.span.0 <= self.t0 && self.t0 + 3600 <= self.span.1;
        let summary = raw.summary;
        let is_level = metric.kind == Kind::Gauge && self.is_in_range(&summary, scale);
        let is_percentile = matches!(self.contest.stat, Stat::Percentile(_));
        if is_level && is_whole && !is_percentile {
            raw.check()?;
            if (i64::MIN + 1..i64::MAX).contains(&summary.sum) {
                let (max, sum) = (summary.max as f64 / scale, summary.sum as f64 / scale);
                self.tallies.tally(raw.place.server).1.add_all(summary.n, max, sum);
                return Ok(());
            }
        }
        let column = raw.column()?;
        let second = |at: &u16| self.t0 + i64::from(*at);
        let first = column.at.partition_point(|at| second(at) < self.span.0);
        let end = column.at.partition_point(|at| second(at) < self.span.1).max(first);
        let (at, values) = (&column.at[first..end], &column.values[first..end]);
        let values = values.iter().map(|value| rescaled(*value, scale, metric.scale));
        if is_level && is_percentile {
            let tally = &mut self.tallies.tally(raw.place.server).1;
            tally.n += values.len() as u64;
            tally.keys.extend(values);
        } else {
            self.tallies.add(raw.place.server, at.iter().map(second).zip(values));
        }
        Ok(())
    }

    /// Whether no value of a column is nonsense: scales and the range keep the order of values.
    fn is_in_range(&self, summary: &Summary, scale: f64) -> bool {
        let metric = self.contest.metric;
        [summary.min, summary.max]
            .iter()
            .all(|value| metric.from_wire(rescaled(*value, scale, metric.scale)).is_some())
    }
}

/// What the servers of one attribute are judged by.
struct Tallies<'a> {
    contest: &'a Contest,
    /// Samples of a server, as a rule.
    n_usual: usize,
    of: BTreeMap<ServerId, (Values, Tally)>,
}

impl<'a> Tallies<'a> {
    fn new(contest: &'a Contest, n_hours: usize) -> Self {
        let is_percentile = matches!(contest.stat, Stat::Percentile(_));
        let n_usual = if is_percentile { n_hours * SAMPLES_AN_HOUR } else { 0 };
        Self { contest, n_usual, of: BTreeMap::new() }
    }

    fn tally(&mut self, server: ServerId) -> &mut (Values, Tally) {
        let keys = || Vec::with_capacity(self.n_usual);
        let fresh =
            || (Values::new(self.contest.metric), Tally { keys: keys(), ..Tally::default() });
        self.of.entry(server).or_insert_with(fresh)
    }

    /// Adds samples by second, in order of time.
    fn add(&mut self, server: ServerId, samples: impl Iterator<Item = (i64, i64)>) {
        let keep = matches!(self.contest.stat, Stat::Percentile(_));
        let kind = self.contest.metric.kind;
        let (values, tally) = self.tally(server);
        for (second, scaled) in samples {
            let Some(value) = values.next(second, scaled) else { continue };
            tally.add_all(1, value, value);
            if keep {
                tally.keys.push(if kind == Kind::Gauge { scaled } else { order_key(value) });
            }
        }
    }
}

/// A value as an integer of the same order, and the other way round, by their bits.
fn order_key(value: f64) -> i64 {
    swap(value.to_bits().cast_signed())
}

/// What is negative is turned over but for its sign.
fn swap(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

impl Tally {
    fn add_all(&mut self, n: u64, max: f64, sum: f64) {
        self.max = if self.n == 0 { max } else { self.max.max(max) };
        self.n += n;
        self.sum += sum;
    }

    /// What the series is judged by, and of how many samples; `None` without any.
    fn judged(mut self, contest: &Contest) -> Option<(f64, u64)> {
        let n = self.n;
        let value = match contest.stat {
            _ if n == 0 => return None,
            Stat::Max => self.max,
            Stat::Avg => self.sum / n as f64,
            Stat::Percentile(percent) => {
                // Nearest rank: the smallest value that so many do not exceed.
                let rank = (self.keys.len() * usize::from(percent)).div_ceil(100).max(1) - 1;
                let key = *self.keys.select_nth_unstable(rank).1;
                match contest.metric.kind {
                    Kind::Gauge => contest.metric.from_wire(key)?,
                    Kind::Counter => f64::from_bits(swap(key).cast_unsigned()),
                }
            }
        };
        Some((value, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let check = |metric: &str, n: u64, stat: &str, want: f64| {
            let contest = Contest {
                metric: wire::catalog::find(metric).unwrap(),
                stat: Stat::named(stat).unwrap(),
                from: UnixMillis(0),
                to: UnixMillis(0),
                k: 1,
                servers: BTreeMap::new(),
            };
            let (mut tallies, mut total) = (Tallies::new(&contest, 1), 0);
            // The first of a counter has no rate.
            let is_counter = contest.metric.kind == Kind::Counter;
            let samples = (0..n + u64::from(is_counter)).map(|ix| {
                let value = if is_counter { total } else { n - ix };
                total += n - ix.min(n);
                (ix as i64, value.cast_signed())
            });
            tallies.add(ServerId(1), samples);
            let tally = tallies.of.remove(&ServerId(1)).map(|(_, tally)| tally);
            let found = tally.and_then(|tally| tally.judged(&contest));
            assert_eq!(found, (n > 0).then_some((want, n)), "{stat} of {n} of {metric}");
        };
        for metric in ["system.processes.running", "system.network.io.receive"] {
            check(metric, 100, "p95", 95.0);
            check(metric, 100, "p99", 99.0);
            check(metric, 20, "p95", 19.0);
            check(metric, 1, "p50", 1.0);
            check(metric, 3, "p50", 2.0);
            check(metric, 4, "avg", 2.5);
            check(metric, 4, "max", 4.0);
            check(metric, 0, "max", 0.0);
        }
        assert_eq!(Stat::named("p75"), None);
    }

    #[test]
    fn keys_have_the_order_of_their_values() {
        let values = [f64::MIN, -1.5, -1.0, -1e-300, 0.0, 1e-300, 0.1, 2.0, f64::MAX];
        let keys = values.map(order_key);
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(keys.map(|key| f64::from_bits(swap(key).cast_unsigned())), values);
    }
}
