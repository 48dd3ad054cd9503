//! Whether failures last: a stall of a moment is no outage, and an old score is no news.

use std::collections::BTreeSet;

use super::Fleet;
use super::site::Episode;

/// A scope opens only within this of the arrival of a failure, ms.
pub(super) const FRESH_MS: i64 = 10_000;
/// Share of failures from which a failure is hard.
const HARD: f64 = 0.8;

pub(super) fn first_failure(fleet: &Fleet, sites: &[u32]) -> i64 {
    episodes(fleet, sites).map(|episode| episode.first_at).min().unwrap_or(0)
}

fn episodes<'a>(fleet: &'a Fleet, sites: &'a [u32]) -> impl Iterator<Item = &'a Episode> {
    sites.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref())
}

pub(super) fn verdict(fleet: &Fleet, sites: &[u32], now: i64) -> i64 {
    episodes(fleet, sites).filter_map(|episode| episode.verdict_at).min().unwrap_or(now)
}

/// Evidence keeps coming in, so that what opens is news and not the rest of an old score.
pub(super) fn is_fresh(fleet: &Fleet, sites: &[u32], now: i64) -> bool {
    episodes(fleet, sites).any(|episode| now - episode.last_arrival <= FRESH_MS)
}

/// Whether the failures last long enough to be no stall: a second when hard, else four.
///
/// Most logs have whole seconds, so neighbouring seconds alone may lie a millisecond apart: then
/// the arrival of the failures decides.
pub(super) fn persists(fleet: &Fleet, sites: &[u32], corroborated: bool) -> bool {
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    let (mut first_arrival, mut last_arrival) = (i64::MAX, i64::MIN);
    for episode in episodes(fleet, sites) {
        first = first.min(episode.first_at.div_euclid(1000));
        last = last.max(episode.last_at.div_euclid(1000));
        first_arrival = first_arrival.min(episode.first_arrival);
        last_arrival = last_arrival.max(episode.last_arrival);
    }
    if first > last {
        return false;
    }
    let spans = |s: i64| {
        last - first > s || (last - first >= s && last_arrival - first_arrival >= s * 1000)
    };
    // The cheap tests come first: each tick asks this of every failing site of an outage.
    spans(1)
        && (corroborated
            || (spans(4) && has_failing_seconds(fleet, sites, first, 4))
            || are_hard(fleet, sites, first, last))
}

/// Whether nearly everything fails, in the last ten seconds.
fn are_hard(fleet: &Fleet, sites: &[u32], first: i64, last: i64) -> bool {
    let (mut failed, mut answered) = (0.0, 0.0);
    for site in sites.iter().map(|ix| fleet.site(*ix)) {
        let began = site.episode.as_ref().map_or(first, |e| e.first_at.div_euclid(1000));
        let from = began.max(last - 10);
        for bucket in site.buckets().rev().take_while(|bucket| bucket.second >= from) {
            failed += f64::from(bucket.failed());
            // What a site answered in its first failing second may well have come before the fault.
            answered += if bucket.second > began { f64::from(bucket.ok) } else { 0.0 };
        }
    }
    failed >= HARD * (failed + answered)
}

/// Whether there are failures in at least `n` different seconds since `first`.
fn has_failing_seconds(fleet: &Fleet, sites: &[u32], first: i64, n: usize) -> bool {
    let mut seconds = BTreeSet::new();
    for site in sites.iter().map(|ix| fleet.site(*ix)) {
        for bucket in site.buckets().rev().take_while(|bucket| bucket.second >= first) {
            if bucket.failed() > 0 && seconds.insert(bucket.second) && seconds.len() >= n {
                return true;
            }
        }
    }
    false
}
