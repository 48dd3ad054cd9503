//! What servers told, put together again: sealed hours of a server as bodies of ten seconds each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use wire::UnixMillis;
use wire::v1::{self, BatchBody};

use super::super::blocks::{Place, SiteCount};
use super::super::quarantine::{COUNTS, EVENTS, PRESENCE};
use super::super::read;
use super::samples::{put, rescaled};
use super::{History, Hours, Seconds};
use crate::model::{ServerId, SiteId};

/// Seconds of a body: what counts are folded to when they are sealed.
pub(super) const TICK_S: i64 = 10;

/// Longest interval at which agents sample, s.
const INTERVAL_MAX_S: i64 = 300;
/// How often a server is said to have lived while it sampled nothing, s.
const BEAT_S: i64 = 30;

/// What a server told at once: a batch as it came, or ten seconds of sealed history.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Position of the batch; 0: of sealed history.
    pub id: i64,
    /// Whose.
    pub server: ServerId,
    /// When it came, on the collector's clock; of sealed history a second after its ten, which is what
    /// is usual: when it came is not kept.
    pub at: UnixMillis,
    /// On the server's clock: nothing older follows.
    pub complete_until: UnixMillis,
    /// What it holds; `None`: it cannot be read.
    pub body: Option<BatchBody>,
}

/// Which samples are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Samples {
    /// All.
    #[default]
    All,
    /// Those of these metrics; none of them: no samples are read.
    Of(&'static [&'static str]),
}

impl Samples {
    fn has(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.contains(&name),
        }
    }

    pub(super) fn is_none(self) -> bool {
        matches!(self, Self::Of([]))
    }
}

/// A column's series, and its scale; shared by all that name it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) series: v1::Series,
    scale: f64,
    wanted: f64,
}

/// Names met on the way, bounded.
#[derive(Debug, Default)]
pub(super) struct Names {
    columns: HashMap<i64, Option<Arc<Named>>>,
    sites: HashMap<ServerId, Arc<HashMap<SiteId, v1::Site>>>,
    n_sites: usize,
}

impl Names {
    /// Most names kept; forgotten all at once beyond it.
    const NAMES_MAX: usize = 200_000;

    fn column(
        &mut self,
        history: &History<'_>,
        id: i64,
        samples: Samples,
    ) -> rusqlite::Result<Option<Arc<Named>>> {
        if let Some(known) = self.columns.get(&id) {
            return Ok(known.clone());
        }
        let query = "SELECT name, attribute, scale FROM metric WHERE metric = ?1";
        let found = history.conn.prepare_cached(query)?.query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, i64>(2)? as f64))
        });
        let named = found.optional()?.and_then(|(metric, attribute, scale)| {
            let wanted = wire::catalog::find(&metric).filter(|_| samples.has(&metric))?.scale;
            let series = v1::Series { metric, attribute };
            Some(Arc::new(Named { series, scale, wanted }))
        });
        if self.columns.len() >= Self::NAMES_MAX {
            self.columns.clear();
        }
        self.columns.insert(id, named.clone());
        Ok(named)
    }

    pub(super) fn sites(
        &mut self,
        history: &History<'_>,
        server: ServerId,
    ) -> rusqlite::Result<Arc<HashMap<SiteId, v1::Site>>> {
        if let Some(known) = self.sites.get(&server) {
            return Ok(Arc::clone(known));
        }
        let site = |row: crate::store::SiteRow| {
            let (pool, upstream) = (row.pool.unwrap_or_default(), row.upstream.unwrap_or_default());
            (row.site, v1::Site { name: row.name, pool, upstream, ..v1::Site::default() })
        };
        let found: HashMap<_, _> =
            read::sites(history.conn, server)?.into_iter().map(site).collect();
        if self.n_sites + found.len() > Self::NAMES_MAX {
            self.sites.clear();
            self.n_sites = 0;
        }
        self.n_sites += found.len();
        let found = Arc::new(found);
        self.sites.insert(server, Arc::clone(&found));
        Ok(found)
    }
}

/// Sealed history of one server in some time, decoded; bodies are made of it bit by bit.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// By second; latest last.
    samples: Vec<(i64, Arc<Named>, i64)>,
    counts: Vec<(i64, SiteCount)>,
    events: BTreeMap<i64, BatchBody>,
    /// Seconds in which the server lived, though it sampled nothing.
    alive: BTreeSet<i64>,
    sites: Arc<HashMap<SiteId, v1::Site>>,
    /// What of `samples` and `counts` was taken.
    taken: (usize, usize),
}

/// Bytes a body takes in memory, about: what is of a fixed size, and its texts.
pub(super) fn bytes_of(body: &BatchBody) -> usize {
    let samples: usize = body.ticks.iter().map(|tick| 48 + 12 * tick.value.len()).sum();
    let counts: usize = body.seconds.iter().map(|second| 64 + 8 * second.status.len()).sum();
    let n = body.exemplars.len()
        + body.log_lines.len()
        + body.changes.len()
        + body.services.len()
        + body.series.len()
        + body.sites.len();
    let texts = texts(&body.exemplars)
        + texts(&body.log_lines)
        + texts(&body.changes)
        + texts(&body.services)
        + texts(&body.series)
        + texts(&body.sites);
    samples + counts + 200 * n + texts + 64
}

fn texts(entries: &[impl prost::Message]) -> usize {
    entries.iter().map(prost::Message::encoded_len).sum()
}

impl Decoded {
    /// Bytes it takes, about.
    pub(super) fn n_bytes(&self) -> usize {
        let (samples, counts) = (self.samples.len(), self.counts.len());
        let alive = self.alive.len() * size_of::<i64>();
        let events: usize = self.events.values().map(bytes_of).sum();
        samples * size_of::<(i64, Arc<Named>, i64)>()
            + counts * size_of::<(i64, SiteCount)>()
            + alive
            + events
    }

    /// What it has before second `to`, and was not taken yet; `None`: nothing. An empty body says that the
    /// server lived.
    pub(super) fn take(&mut self, to: i64) -> Option<BatchBody> {
        let mut body = BatchBody::default();
        let later = self.alive.split_off(&to);
        let lived = !std::mem::replace(&mut self.alive, later).is_empty();
        let mut sites: HashMap<String, u32> = HashMap::new();
        while let Some(entry) = self.events.first_entry().filter(|entry| *entry.key() < to) {
            add_events(&mut body, &mut sites, entry.remove());
        }
        let mut series: HashMap<*const Named, u32> = HashMap::new();
        let rest = &self.samples[self.taken.0..];
        let n = rest.partition_point(|(second, ..)| *second < to);
        for (second, named, value) in &rest[..n] {
            let ix = *series.entry(Arc::as_ptr(named)).or_insert_with(|| {
                body.series.push(named.series.clone());
                body.series.len() as u32 - 1
            });
            let at_unix_ms = second * 1000;
            if body.ticks.last().is_none_or(|tick| tick.at_unix_ms != at_unix_ms) {
                body.ticks.push(v1::Tick { at_unix_ms, ..v1::Tick::default() });
            }
            if let Some(tick) = body.ticks.last_mut() {
                tick.series.push(ix);
                tick.value.push(*value);
            }
        }
        self.taken.0 += n;
        let rest = &self.counts[self.taken.1..];
        let n = rest.partition_point(|(second, _)| *second < to);
        for (second, count) in &rest[..n] {
            let Some(site) = self.sites.get(&count.site) else { continue };
            let site = site_ix(&mut body, &mut sites, site);
            add_count(&mut body, site, *second, count);
        }
        self.taken.1 += n;
        (lived || body != BatchBody::default()).then_some(body)
    }
}

/// Position of a site in a body, where it is put when it is missing.
fn site_ix(body: &mut BatchBody, sites: &mut HashMap<String, u32>, site: &v1::Site) -> u32 {
    if let Some(ix) = sites.get(&site.name) {
        return *ix;
    }
    let ix = body.sites.len() as u32;
    body.sites.push(site.clone());
    sites.insert(site.name.clone(), ix);
    ix
}

/// Counts of one site and second follow each other.
fn add_count(body: &mut BatchBody, site: u32, second: i64, count: &SiteCount) {
    let is_it = |last: &v1::SiteSecond| (last.site, last.second) == (site, second);
    if !body.seconds.last().is_some_and(is_it) {
        body.seconds.push(v1::SiteSecond { site, second, status: Vec::new(), count: Vec::new() });
    }
    let Some(last) = body.seconds.last_mut() else { return };
    // A tick of a busy site may hold more than the wire's number does.
    let mut n = count.n;
    while n > 0 {
        let some = u32::try_from(n).unwrap_or(u32::MAX);
        last.status.push(u32::from(count.status));
        last.count.push(some);
        n -= u64::from(some);
    }
}

/// Adds events of one body to another; sites are named anew.
fn add_events(body: &mut BatchBody, sites: &mut HashMap<String, u32>, events: BatchBody) {
    for exemplar in events.exemplars {
        let Some(site) = events.sites.get(exemplar.site as usize) else { continue };
        let site = site_ix(body, sites, site);
        body.exemplars.push(v1::Exemplar { site, ..exemplar });
    }
    body.services.extend(events.services);
    body.log_lines.extend(events.log_lines);
    body.changes.extend(events.changes);
    body.loss = body.loss.take().or(events.loss);
}

impl History<'_> {
    /// Decodes what is sealed of one server in the seconds `from_s..to_s` of its clock.
    pub(super) fn decode(
        &self,
        server: ServerId,
        hours: &Hours,
        (from_s, to_s): (i64, i64),
        samples: Samples,
        names: &mut Names,
    ) -> rusqlite::Result<Decoded> {
        let mut decoded = Decoded { sites: names.sites(self, server)?, ..Decoded::default() };
        for (t0, sealed) in hours.0.range(from_s.saturating_sub(3599)..to_s) {
            let Some(file) = self.day(*t0, sealed.parts)? else { continue };
            let mut columns: HashMap<i64, (Arc<Named>, Seconds)> = HashMap::new();
            for part in 0..sealed.parts {
                let place = Place { t0: *t0, server, part };
                for count in self.tolerate(place, COUNTS, file.counts(place))?.unwrap_or_default() {
                    decoded.counts.push((t0 + i64::from(count.second), count));
                }
                let events = self.tolerate(place, EVENTS, file.events(place))?.unwrap_or_default();
                file_events(*t0, events, &mut decoded.events);
                if samples.is_none() {
                    continue;
                }
                for metric in
                    self.tolerate(place, PRESENCE, file.metrics(place))?.unwrap_or_default()
                {
                    let Some(named) = names.column(self, metric, samples)? else { continue };
                    let column =
                        self.tolerate(place, metric, file.column(place, metric))?.flatten();
                    let Some(column) = column else { continue };
                    let of = columns.entry(metric).or_insert_with(|| (named, Seconds::new()));
                    put(&mut of.1, *t0, &column, 1.0, 1.0);
                }
            }
            let sampled = columns.values().flat_map(|(_, seconds)| seconds.keys().copied());
            decoded.alive.extend(alive(*t0, &sampled.collect()));
            for (named, seconds) in columns.into_values() {
                let (scale, wanted) = (named.scale, named.wanted);
                let of = seconds.range(from_s..to_s.max(from_s));
                decoded.samples.extend(of.map(|(second, value)| {
                    (*second, Arc::clone(&named), rescaled(*value, scale, wanted))
                }));
            }
        }
        let is_in = |second: i64| (from_s..to_s).contains(&second);
        decoded.counts.retain(|(second, _)| is_in(*second));
        decoded.events.retain(|second, _| is_in(*second));
        decoded.alive.retain(|second| is_in(*second));
        decoded.counts.sort_by_key(|(second, count)| (*second, count.site, count.status));
        let key = |(second, named, _): &(i64, Arc<Named>, i64)| {
            (*second, named.series.metric.clone(), named.series.attribute.clone())
        };
        decoded.samples.sort_by_cached_key(key);
        Ok(decoded)
    }
}

impl History<'_> {
    /// Shows `see` requests and exemplars of these servers in `from..to` on the collector's clock, in no
    /// order, and others from around it; how far the clock of each server is ahead is given in ms.
    pub fn requests(
        &self,
        servers: &BTreeMap<ServerId, i64>,
        (from, to): (UnixMillis, UnixMillis),
        see: &mut dyn FnMut(ServerId, &BatchBody),
    ) -> rusqlite::Result<()> {
        let off_ms = servers.values().map(|ms| ms.unsigned_abs()).max().unwrap_or(0) + 1000;
        let (least, most) = (
            UnixMillis(from.0.saturating_sub_unsigned(off_ms)),
            UnixMillis(to.0.saturating_add_unsigned(off_ms)),
        );
        let hours = self.hours(least, most)?;
        self.hot_of_all((from, to), off_ms, &mut |mut batch| {
            if servers.contains_key(&batch.server) {
                let is_hot = |second: i64| hours.is_hot(batch.id, second);
                batch.body.seconds.retain(|second| is_hot(second.second));
                let second = |one: &v1::Exemplar| UnixMillis(one.at_unix_ms).second();
                batch.body.exemplars.retain(|one| is_hot(second(one)));
                see(batch.server, &batch.body);
            }
        })?;
        let (mut names, none) = (Names::default(), Samples::Of(&[]));
        for (t0, sealed) in &hours.0 {
            let hour = Hours([(*t0, *sealed)].into(), i64::MIN);
            for (server, ahead_ms) in servers {
                if !self.goes_on() {
                    return Ok(());
                }
                let second = |at: UnixMillis| UnixMillis(at.0.saturating_add(*ahead_ms)).second();
                let span = (second(from).max(*t0), (second(to) + 1).min(t0 + 3600));
                if span.0 >= span.1 {
                    continue;
                }
                let mut decoded = self.decode(*server, &hour, span, none, &mut names)?;
                if let Some(body) = decoded.take(i64::MAX) {
                    see(*server, &body);
                }
            }
        }
        Ok(())
    }
}

/// Seconds of an hour in which a server lived, going by when it sampled: one in each [`BEAT_S`] between
/// samples that are about as far apart as usual, and at the ends of the hour. Agents may sample each
/// five minutes only, and beat all the while.
fn alive(t0: i64, sampled: &BTreeSet<i64>) -> Vec<i64> {
    let (Some(first), Some(last)) = (sampled.first(), sampled.last()) else { return Vec::new() };
    let times: Vec<i64> = sampled.iter().copied().collect();
    let mut gaps: Vec<i64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort_unstable();
    let Some(usual) = gaps.get(gaps.len() / 2) else { return Vec::new() };
    let longest = usual.min(&INTERVAL_MAX_S) * 5 / 2;
    let ends = [(t0, *first), (*last, t0 + 3600)];
    let spans = times.windows(2).map(|two| (two[0], two[1])).chain(ends);
    let spans = spans.filter(|(from, to)| to - from <= longest);
    spans.flat_map(|(from, to)| (from + BEAT_S..to).step_by(BEAT_S as usize)).collect()
}

/// Files events under their second; losses, which have none, at the end of their hour.
fn file_events(t0: i64, events: BatchBody, to: &mut BTreeMap<i64, BatchBody>) {
    let second = |ms: i64| UnixMillis(ms).second();
    let sites = events.sites;
    for exemplar in events.exemplars {
        let Some(site) = sites.get(exemplar.site as usize) else { continue };
        let of = to.entry(second(exemplar.at_unix_ms)).or_default();
        let ix = of.sites.iter().position(|known| known.name == site.name);
        let ix = ix.unwrap_or_else(|| {
            of.sites.push(site.clone());
            of.sites.len() - 1
        });
        of.exemplars.push(v1::Exemplar { site: ix as u32, ..exemplar });
    }
    for service in events.services {
        // A state may say that it is one since long before.
        let second = second(service.at_unix_ms).clamp(t0, t0 + 3599);
        to.entry(second).or_default().services.push(service);
    }
    for line in events.log_lines {
        to.entry(second(line.at_unix_ms)).or_default().log_lines.push(line);
    }
    for change in events.changes {
        to.entry(second(change.at_unix_ms)).or_default().changes.push(change);
    }
    if events.loss.is_some() {
        to.entry(t0 + 3599).or_default().loss = events.loss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_lives_between_samples_that_are_as_far_apart_as_usual() {
        let check = |sampled: &[i64], want: &[i64]| {
            let sampled = sampled.iter().copied().collect();
            let found: BTreeSet<i64> = alive(3600, &sampled).into_iter().collect();
            assert_eq!(found, want.iter().copied().collect(), "{sampled:?}");
        };
        check(&[], &[]);
        check(&[4000], &[]);
        check(&[3700, 6000], &[3630, 3660, 3690]); // 100 s at the begin, and nothing over 2,300
        let each_10_s: Vec<i64> = (3600..7200).step_by(10).collect();
        check(&each_10_s, &[]);
        let each_5_min: Vec<i64> = (3700..7200).step_by(300).collect();
        let beats: Vec<i64> = (3700..7200)
            .step_by(300)
            .flat_map(|at| (at + 30..(at + 300).min(7200)).step_by(30))
            .chain((3630..3700).step_by(30))
            .collect();
        check(&each_5_min, &beats);
        let gone: Vec<i64> =
            each_10_s.iter().copied().filter(|at| !(5000..5200).contains(at)).collect();
        check(&gone, &[]);
    }
}
