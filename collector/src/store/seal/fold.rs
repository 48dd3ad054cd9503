//! The batches of one server -> what is sealed of one hour, pure.
//!
//! Each entry is filed under its own second. States of services, which say since when, are filed under the
//! nearest second of their batch, and the losses of a batch under its last. Within an hour the later batch wins
//! a sample and counts add up. Invariant: an entry of a batch is in exactly one hour, or in exactly one of the
//! numbers of [`Tally`], whatever hours are folded and in whatever order.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use wire::UnixMillis;
use wire::catalog::{self, Metric};
use wire::v1::{self, BatchBody};

use super::super::OTHER;
use super::super::blocks::{COUNTS_MAX, EVENTS_BYTES_MAX, SiteCount};
use super::super::hot::{self, Head, HourSet};
use super::super::hours::{self, HOUR_S};
use crate::ingest::convert::{NAME_BYTES_MAX, clip, name};
use crate::model::SiteId;

/// Most series of one server and hour; ten times what a server with 20 disks and 100 pools has.
const SERIES_MAX: usize = 4096;
/// Most samples of one server and hour, 16 bytes each: 500 series in each second.
const SAMPLES_MAX: usize = 1 << 21;
/// Gateway errors kept of one site and signal.
pub(in crate::store) const EXEMPLARS_MAX: u32 = 20;
/// Seconds of a tick that counts are folded to.
const TICK_S: u16 = 10;
/// First of the derived counters, and the end of what fits into a key.
const DERIVED: u32 = 1000;
const STATUS_END: u32 = 1024;

/// What was left out, and how much there is.
#[expect(clippy::struct_field_names, reason = "counts begin with n_")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Entries whose time is nonsense, or not within what their batch says it holds.
    pub(super) n_misdated: u64,
    /// Samples of unknown metrics, out of range, or too many.
    pub(super) n_samples_refused: u64,
    /// Counts of no known site, with no status, or too many.
    pub(super) n_counts_refused: u64,
    /// Gateway errors beyond [`EXEMPLARS_MAX`].
    pub(super) n_thinned: u64,
    /// States, lines and changes beyond the space for them, and gateway errors that make no sense.
    pub(super) n_events_refused: u64,
}

/// A series of the hour.
#[derive(Debug)]
pub(in crate::store) struct Series {
    pub(in crate::store) metric: &'static Metric,
    pub(in crate::store) attribute: String,
    /// Seconds of the hour, rising, none twice; and values.
    pub(in crate::store) samples: Vec<(u16, i64)>,
}

/// The hour of a server.
#[derive(Debug, Default)]
pub(in crate::store) struct Folded {
    pub(in crate::store) series: Vec<Series>,
    pub(in crate::store) counts: Vec<SiteCount>,
    pub(super) events: BatchBody,
    pub(super) tally: Tally,
}

impl Folded {
    /// Samples, counts and events in it.
    pub(super) fn n_entries(&self) -> u64 {
        let samples: usize = self.series.iter().map(|series| series.samples.len()).sum();
        let events = &self.events;
        let n_events = events.exemplars.len()
            + events.services.len()
            + events.log_lines.len()
            + events.changes.len();
        (samples + self.counts.len() + n_events) as u64
    }

    /// Nothing of the hour is there.
    pub(super) fn is_empty(&self) -> bool {
        self.n_entries() == 0 && self.events.loss.is_none()
    }
}

/// Takes the batches of a server, one after the other, in order of their commit.
pub(in crate::store) struct Fold<'s> {
    t0: i64,
    /// Ids of the server's sites.
    sites: &'s HashMap<String, SiteId>,
    /// Position in `series` by metric and attribute, as far as these are kept: what is refused, or too long,
    /// is not remembered, because bodies of others may be full of it.
    known: HashMap<&'static str, (&'static Metric, HashMap<String, u32>)>,
    /// The list of series of the batch before, and their positions: most batches of a server have the same.
    last: (Vec<v1::Series>, Vec<Option<u32>>),
    series: Vec<Series>,
    n_samples: usize,
    is_full_of_samples: bool,
    is_full_of_counts: bool,
    /// Site, status and second in one number, and the count.
    counts: Vec<(u64, u64)>,
    /// Length of `counts` at which equal keys are added up.
    compact_at: usize,
    /// Sites of `counts` by position.
    site_ids: Vec<SiteId>,
    site_positions: HashMap<SiteId, u32>,
    events: BatchBody,
    event_sites: HashMap<SiteId, u32>,
    n_event_bytes: usize,
    n_exemplars: HashMap<(SiteId, i32), u32>,
    tally: Tally,
}

impl<'s> Fold<'s> {
    /// Folds the hour that begins at `t0`.
    pub(in crate::store) fn new(t0: i64, sites: &'s HashMap<String, SiteId>) -> Self {
        Self {
            t0,
            sites,
            known: HashMap::new(),
            last: (Vec::new(), Vec::new()),
            series: Vec::new(),
            n_samples: 0,
            is_full_of_samples: false,
            is_full_of_counts: false,
            counts: Vec::new(),
            compact_at: 1 << 16,
            site_ids: Vec::new(),
            site_positions: HashMap::new(),
            events: BatchBody::default(),
            event_sites: HashMap::new(),
            n_event_bytes: 0,
            n_exemplars: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Takes what a batch holds of the hour.
    pub(in crate::store) fn add(&mut self, head: &Head, body: &BatchBody) {
        let place = Times { t0: self.t0, at: head.at, span: head.span() };
        self.samples(&place, body);
        let sites: Vec<Option<SiteId>> = body.sites.iter().map(|site| self.site(site)).collect();
        self.requests(&place, body, &sites);
        self.exemplars(&place, body, &sites);
        self.context(&place, body);
    }

    /// The hour.
    pub(in crate::store) fn finish(mut self) -> Folded {
        self.compact();
        let mut series = self.series;
        for series in &mut series {
            settle(&mut series.samples);
        }
        series.retain(|series| !series.samples.is_empty());
        let count = |(key, n): &(u64, u64)| SiteCount {
            site: self.site_ids[(key >> 32) as usize],
            status: (key >> 16) as u16,
            second: *key as u16,
            n: *n,
        };
        let mut counts: Vec<SiteCount> = self.counts.iter().map(count).collect();
        counts.sort_unstable();
        Folded { series, counts, events: self.events, tally: self.tally }
    }

    /// The id of a site; that of `other` for one that the store refused.
    fn site(&self, site: &v1::Site) -> Option<SiteId> {
        let name = name(&site.name)?.to_lowercase();
        self.sites.get(&name).or_else(|| self.sites.get(OTHER)).copied()
    }

    fn samples(&mut self, place: &Times, body: &BatchBody) {
        if self.last.0 != body.series {
            let positions = body.series.iter().map(|series| self.position(series)).collect();
            self.last = (body.series.clone(), positions);
        }
        let positions = std::mem::take(&mut self.last.1);
        for tick in &body.ticks {
            let n_wrong = tick.series.len().abs_diff(tick.value.len()) as u64;
            let second = match place.second(UnixMillis(tick.at_unix_ms)) {
                Filed::Here(second) => second,
                Filed::Elsewhere => continue,
                Filed::Nowhere => {
                    self.tally.n_misdated += tick.series.len().min(tick.value.len()) as u64;
                    continue;
                }
            };
            self.tally.n_samples_refused += n_wrong;
            for (position, value) in tick.series.iter().zip(&tick.value) {
                let series = positions.get(*position as usize).copied().flatten();
                self.sample(series, second, *value);
            }
        }
        self.last.1 = positions;
    }

    fn sample(&mut self, series: Option<u32>, second: u16, value: i64) {
        if self.n_samples >= SAMPLES_MAX && !self.is_full_of_samples {
            self.series.iter_mut().for_each(|series| settle(&mut series.samples));
            self.n_samples = self.series.iter().map(|series| series.samples.len()).sum();
            // Not again for a few: it takes time.
            self.is_full_of_samples = self.n_samples > SAMPLES_MAX / 4 * 3;
        }
        let series = series.and_then(|ix| self.series.get_mut(ix as usize));
        match series {
            Some(series)
                if !self.is_full_of_samples && series.metric.from_wire(value).is_some() =>
            {
                series.samples.push((second, value));
                self.n_samples += 1;
            }
            _ => self.tally.n_samples_refused += 1,
        }
    }

    fn position(&mut self, series: &v1::Series) -> Option<u32> {
        let known = self.known.get(series.metric.as_str());
        if let Some(position) = known.and_then(|(_, known)| known.get(&series.attribute)) {
            return Some(*position);
        }
        let metric = match known {
            Some((metric, _)) => metric,
            None => catalog::find(&series.metric)?,
        };
        let attribute = clip(&series.attribute, NAME_BYTES_MAX);
        let (_, known) = self.known.entry(metric.name).or_insert_with(|| (metric, HashMap::new()));
        if let Some(position) = known.get(&attribute) {
            return Some(*position);
        }
        if self.series.len() >= SERIES_MAX {
            return None;
        }
        let position = self.series.len() as u32;
        known.insert(attribute.clone(), position);
        self.series.push(Series { metric, attribute, samples: Vec::new() });
        Some(position)
    }

    fn requests(&mut self, place: &Times, body: &BatchBody, sites: &[Option<SiteId>]) {
        for second in &body.seconds {
            let at = match place.second(UnixMillis::from_second(second.second)) {
                Filed::Here(at) => at,
                Filed::Elsewhere => continue,
                Filed::Nowhere => {
                    self.tally.n_misdated += second.status.len().min(second.count.len()) as u64;
                    continue;
                }
            };
            let n_wrong = second.status.len().abs_diff(second.count.len()) as u64;
            self.tally.n_counts_refused += n_wrong;
            let site = sites.get(second.site as usize).copied().flatten();
            for (status, n) in second.status.iter().zip(&second.count) {
                match site {
                    Some(site) if matches!(status, 100..=599 | DERIVED..STATUS_END) => {
                        self.count(site, *status, at, *n);
                    }
                    _ => self.tally.n_counts_refused += 1,
                }
            }
        }
    }

    fn count(&mut self, site: SiteId, status: u32, second: u16, n: u32) {
        if n == 0 {
            return;
        }
        if self.counts.len() >= self.compact_at && !self.is_full_of_counts {
            self.compact();
            self.compact_at = (self.counts.len() * 2).clamp(1 << 16, COUNTS_MAX);
            self.is_full_of_counts = self.counts.len() > COUNTS_MAX / 4 * 3;
        }
        if self.is_full_of_counts {
            self.tally.n_counts_refused += 1;
            return;
        }
        let keeps_second = matches!(status, 502..=504) || status >= DERIVED;
        let second = if keeps_second { second } else { second / TICK_S * TICK_S };
        let position = *self.site_positions.entry(site).or_insert_with(|| {
            self.site_ids.push(site);
            self.site_ids.len() as u32 - 1
        });
        let key = (u64::from(position) << 32) | (u64::from(status) << 16) | u64::from(second);
        self.counts.push((key, u64::from(n)));
    }

    /// Adds up equal keys.
    fn compact(&mut self) {
        self.counts.sort_unstable_by_key(|(key, _)| *key);
        self.counts.dedup_by(|next, sum| {
            let same = next.0 == sum.0;
            if same {
                sum.1 += next.1;
            }
            same
        });
    }

    fn exemplars(&mut self, place: &Times, body: &BatchBody, sites: &[Option<SiteId>]) {
        for exemplar in &body.exemplars {
            match place.second(UnixMillis(exemplar.at_unix_ms)) {
                Filed::Here(_) => {}
                Filed::Elsewhere => continue,
                Filed::Nowhere => {
                    self.tally.n_misdated += 1;
                    continue;
                }
            }
            let site = sites.get(exemplar.site as usize).copied().flatten();
            let (Some(site), 502..=504) = (site, exemplar.status) else {
                self.tally.n_events_refused += 1;
                continue;
            };
            let n_kept = self.n_exemplars.entry((site, exemplar.signal)).or_default();
            if *n_kept >= EXEMPLARS_MAX {
                self.tally.n_thinned += 1;
                continue;
            }
            let named = &body.sites[exemplar.site as usize];
            let site_bytes = named.name.len() + named.pool.len() + named.upstream.len() + 16;
            let n_bytes = self.n_event_bytes + exemplar.encoded_len() + 16 + site_bytes;
            if n_bytes > EVENTS_BYTES_MAX {
                self.tally.n_thinned += 1;
                continue;
            }
            *n_kept += 1;
            self.n_event_bytes = n_bytes;
            let events = &mut self.events;
            let position = *self.event_sites.entry(site).or_insert_with(|| {
                events.sites.push(v1::Site { aliases: Vec::new(), ..named.clone() });
                events.sites.len() as u32 - 1
            });
            events.exemplars.push(v1::Exemplar { site: position, ..exemplar.clone() });
        }
    }

    /// States, lines, changes and losses.
    fn context(&mut self, place: &Times, body: &BatchBody) {
        for service in &body.services {
            let second = UnixMillis(service.at_unix_ms).second().clamp(place.span.0, place.span.1);
            if hours::hour_of(second) == self.t0 && self.has_room(service.encoded_len()) {
                self.events.services.push(service.clone());
            }
        }
        for line in &body.log_lines {
            if self.is_here(place, line.at_unix_ms) && self.has_room(line.encoded_len()) {
                self.events.log_lines.push(line.clone());
            }
        }
        for change in &body.changes {
            if self.is_here(place, change.at_unix_ms) && self.has_room(change.encoded_len()) {
                self.events.changes.push(change.clone());
            }
        }
        if let Some(loss) = &body.loss
            && hours::hour_of(place.span.1) == self.t0
        {
            add_loss(self.events.loss.get_or_insert_default(), loss);
        }
    }

    fn is_here(&mut self, place: &Times, at: i64) -> bool {
        let filed = place.second(UnixMillis(at));
        self.tally.n_misdated += u64::from(matches!(filed, Filed::Nowhere));
        matches!(filed, Filed::Here(_))
    }

    fn has_room(&mut self, n_bytes: usize) -> bool {
        let n_bytes = self.n_event_bytes + n_bytes + 16;
        if n_bytes > EVENTS_BYTES_MAX {
            self.tally.n_events_refused += 1;
            return false;
        }
        self.n_event_bytes = n_bytes;
        true
    }
}

/// In which hours a batch has anything that is folded or counted. Its first hour counts what is misdated, its
/// last has the losses.
pub(in crate::store) fn hours_of(head: &Head, body: &BatchBody) -> HourSet {
    let span = head.span();
    let mut hours = HourSet::of(head);
    let ms = |at: i64| UnixMillis(at).second();
    let seconds = body.seconds.iter().map(|second| second.second);
    let exemplars = body.exemplars.iter().map(|exemplar| ms(exemplar.at_unix_ms));
    let ticks = body.ticks.iter().map(|tick| ms(tick.at_unix_ms));
    let lines = body.log_lines.iter().map(|line| ms(line.at_unix_ms));
    let changes = body.changes.iter().map(|change| ms(change.at_unix_ms));
    let services = body.services.iter().map(|service| ms(service.at_unix_ms).clamp(span.0, span.1));
    let all = seconds.chain(exemplars).chain(ticks).chain(lines).chain(changes).chain(services);
    all.chain([span.0, span.1]).for_each(|second| hours.insert(second));
    hours
}

/// Where the entries of a batch belong.
struct Times {
    t0: i64,
    /// Arrival.
    at: UnixMillis,
    /// First and last second of the batch.
    span: (i64, i64),
}

enum Filed {
    /// In the hour that is folded, at this second of it.
    Here(u16),
    /// In another hour; or nowhere, and counted with another hour.
    Elsewhere,
    /// Nowhere, and counted now.
    Nowhere,
}

impl Times {
    fn second(&self, at: UnixMillis) -> Filed {
        let hours = hours::hour_of(self.span.0)..hours::hour_of(self.span.1) + HOUR_S;
        let second = at.second();
        if !hot::is_plausible(self.at, at) || !hours.contains(&second) {
            // Each hour of the batch meets the entry; its first counts it.
            return if hours.start == self.t0 { Filed::Nowhere } else { Filed::Elsewhere };
        }
        match u16::try_from(second - self.t0) {
            Ok(second) if i64::from(second) < HOUR_S => Filed::Here(second),
            _ => Filed::Elsewhere,
        }
    }
}

/// Orders samples by second; of one second the one that came last stays.
fn settle(samples: &mut Vec<(u16, i64)>) {
    if samples.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return;
    }
    let last: BTreeMap<u16, i64> = samples.iter().copied().collect();
    *samples = last.into_iter().collect();
}

fn add_loss(sum: &mut v1::Loss, loss: &v1::Loss) {
    let add = |to: &mut u64, n: u64| *to = to.saturating_add(n);
    add(&mut sum.n_lines_rejected, loss.n_lines_rejected);
    add(&mut sum.n_lines_lost, loss.n_lines_lost);
    add(&mut sum.n_bytes_lost, loss.n_bytes_lost);
    add(&mut sum.n_truncations, loss.n_truncations);
    add(&mut sum.n_exemplars_dropped, loss.n_exemplars_dropped);
    add(&mut sum.n_lines_other, loss.n_lines_other);
    add(&mut sum.n_times_clamped, loss.n_times_clamped);
    add(&mut sum.n_spool_records_corrupt, loss.n_spool_records_corrupt);
    add(&mut sum.n_events_dropped, loss.n_events_dropped);
    add(&mut sum.n_bytes_rejected, loss.n_bytes_rejected);
    add(&mut sum.n_bytes_recovered, loss.n_bytes_recovered);
    add(&mut sum.n_lines_too_long, loss.n_lines_too_long);
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
