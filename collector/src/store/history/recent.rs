//! What is not sealed yet of a server, by the hour: folded as it will be sealed.
//!
//! Each batch is opened once for all metrics, and what came of it is kept for the rest of the read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use wire::UnixMillis;

use super::super::blocks::{Column, SiteCount};
use super::super::hours::HOUR_S;
use super::super::read;
use super::super::rollup::rolled::Minutes;
use super::super::seal::fold::{self, Fold, Folded};
use super::hot::HotBatch;
use super::pieces::bytes_of;
use super::{History, Hours};
use crate::model::{ServerId, SiteId};

/// An hour of a series in `hot`.
#[derive(Clone, Debug)]
pub(super) enum HotHour {
    /// Nothing of the hour is sealed.
    Whole(Minutes),
    /// It came after the hour was sealed: samples of the next part, in the catalog's scale.
    Late(Column),
}

impl HotHour {
    fn n_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Whole(minutes) => minutes.n_bytes(),
                Self::Late(column) => column.at.len() * size_of::<(u16, i64)>(),
            }
    }
}

/// Hours of series by attribute, each with its first second, rising: mostly one, so no tree.
pub(super) type HotSeries = BTreeMap<String, Vec<(i64, HotHour)>>;

/// What lies in `hot` of one server.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// By metric.
    pub(super) series: BTreeMap<&'static str, HotSeries>,
    /// Requests by hour, as [`coarse`] has them; of a sealed one those of its next part.
    pub(super) counts: BTreeMap<i64, Vec<SiteCount>>,
    n_bytes: usize,
}

impl Recent {
    fn add(&mut self, t0: i64, is_sealed: bool, folded: Folded) {
        for series in folded.series {
            let (at, values) = series.samples.into_iter().unzip();
            let column = Column { metric: 0, at, values };
            let hour = if is_sealed {
                Some(HotHour::Late(column))
            } else {
                Minutes::of(&column, series.metric.kind).map(HotHour::Whole)
            };
            let Some(hour) = hour else { continue };
            self.n_bytes += hour.n_bytes() + series.attribute.len();
            let of_metric = self.series.entry(series.metric.name).or_default();
            let hours = of_metric.entry(series.attribute).or_default();
            hours.reserve_exact(1);
            hours.push((t0, hour));
        }
        let counts = coarse(folded.counts);
        if !counts.is_empty() {
            self.n_bytes += counts.len() * size_of::<SiteCount>();
            self.counts.insert(t0, counts);
        }
    }
}

/// Requests of an hour as far as sums tell them: those that failed by the minute, all others together. Of a
/// large fleet each ten seconds of each status would be most of what a report holds in memory.
///
/// `counts` are in order.
fn coarse(mut counts: Vec<SiteCount>) -> Vec<SiteCount> {
    for count in &mut counts {
        let is_failed = matches!(count.status, 502..=504);
        count.second = if is_failed { count.second / 60 * 60 } else { 0 };
    }
    counts.dedup_by(|next, sum| {
        let is_same = (next.site, next.status, next.second) == (sum.site, sum.status, sum.second);
        if is_same {
            sum.n = sum.n.saturating_add(next.n);
        }
        is_same
    });
    counts.shrink_to_fit();
    counts
}

/// What was folded until now, with the hours it was folded for.
#[derive(Default)]
pub(super) struct Recents {
    of: BTreeMap<ServerId, (Range<i64>, Rc<Recent>)>,
    n_bytes: usize,
}

impl Recents {
    fn get(&self, server: ServerId, hours: &Range<i64>) -> Option<Rc<Recent>> {
        let (known, recent) = self.of.get(&server)?;
        let has_all = known.start <= hours.start && hours.end <= known.end;
        has_all.then(|| Rc::clone(recent))
    }

    /// Keeps it; all others are forgotten when they take more than so many bytes together.
    fn keep(&mut self, server: ServerId, hours: &Range<i64>, recent: &Rc<Recent>, n_max: usize) {
        let n_bytes = recent.n_bytes + size_of::<Recent>();
        if self.n_bytes + n_bytes > n_max {
            *self = Self::default();
        }
        self.n_bytes += n_bytes;
        if let Some((_, old)) = self.of.insert(server, (hours.clone(), Rc::clone(recent))) {
            self.n_bytes = self.n_bytes.saturating_sub(old.n_bytes + size_of::<Recent>());
        }
    }
}

impl History<'_> {
    /// What is in `hot` of the hours of a server that begin in `hours`.
    pub(super) fn recent(
        &self,
        server: ServerId,
        hours: &Range<i64>,
    ) -> rusqlite::Result<Rc<Recent>> {
        if let Some(known) = self.state.borrow().recents.get(server, hours) {
            return Ok(known);
        }
        let recent = Rc::new(self.fold_recent(server, hours)?);
        if self.goes_on() {
            let recents = &mut self.state.borrow_mut().recents;
            recents.keep(server, hours, &recent, self.limits.n_bytes);
        }
        Ok(recent)
    }

    fn fold_recent(&self, server: ServerId, hours: &Range<i64>) -> rusqlite::Result<Recent> {
        let mut recent = Recent::default();
        let at = |second: i64| UnixMillis(second.saturating_mul(1000));
        let span = (at(hours.start), at(hours.end.saturating_add(HOUR_S)));
        if hours.is_empty() {
            return Ok(recent);
        }
        let sealed = self.hours(span.0, span.1)?;
        let mut sites: Option<HashMap<String, SiteId>> = None;
        let (mut batches, mut n_bytes, mut is_full) = (Vec::new(), 0_usize, false);
        self.hot_of(server, span, &mut |batch| {
            if wanted(&batch, hours, &sealed).next().is_none() || is_full {
                return;
            }
            n_bytes += bytes_of(&batch.body);
            is_full = n_bytes > self.limits.n_bytes;
            batches.push(batch);
        })?;
        if is_full {
            self.cut("a server sent more than fits into memory of what is not packed yet");
        }
        if !batches.is_empty() {
            let rows = read::sites(self.conn, server)?;
            sites = Some(rows.into_iter().map(|row| (row.name, row.site)).collect());
        }
        let sites = sites.unwrap_or_default();
        let mut folds: BTreeMap<i64, Fold<'_>> = BTreeMap::new();
        for batch in &batches {
            for t0 in wanted(batch, hours, &sealed) {
                let fold = folds.entry(t0).or_insert_with(|| Fold::new(t0, &sites));
                fold.add(&batch.head, &batch.body);
            }
        }
        for (t0, fold) in folds {
            recent.add(t0, sealed.0.contains_key(&t0), fold.finish());
        }
        Ok(recent)
    }
}

/// The hours in which a batch has something that is not sealed.
fn wanted<'a>(
    batch: &'a HotBatch,
    hours: &'a Range<i64>,
    sealed: &'a Hours,
) -> impl Iterator<Item = i64> + 'a {
    let has = batch.head.is_wide().then(|| fold::hours_of(&batch.head, &batch.body));
    let is_wanted = move |t0: &i64| hours.contains(t0) && sealed.is_hot(batch.id, *t0);
    batch
        .head
        .hours()
        .filter(is_wanted)
        .filter(move |t0| has.as_ref().is_none_or(|has| has.has(*t0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_requests_takes_a_count_a_status_and_the_minutes_that_failed() {
        let count = |status, second, n| SiteCount { site: SiteId(7), status, second, n };
        let mut counts: Vec<SiteCount> = (0..360).map(|tick| count(200, tick * 10, 2)).collect();
        counts.extend([count(502, 59, 1), count(502, 60, 1), count(502, 61, u64::MAX)]);
        counts.push(count(1003, 3599, 4));
        counts.push(SiteCount { site: SiteId(8), ..count(200, 0, 1) });
        let told = coarse(counts);
        let site_8 = SiteCount { site: SiteId(8), ..count(200, 0, 1) };
        let failed = [count(502, 0, 1), count(502, 60, u64::MAX)];
        assert_eq!(told, [count(200, 0, 720), failed[0], failed[1], count(1003, 0, 4), site_8]);
        assert!(coarse(Vec::new()).is_empty());
    }
}
