//! Clock minutes: what an outage is measured in. Pure.

use std::ops::Range;

use wire::UnixMillis;

const MINUTE_MS: i64 = 60_000;

/// Minutes since the Unix epoch, each once: ranges in order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::report) struct Minutes(Vec<Range<i64>>);

impl Minutes {
    /// The minutes that lie in `within` and have an instant of one of these spans. A span that ends when
    /// it begins, or before, is its first instant.
    pub(in crate::report) fn of(
        spans: impl IntoIterator<Item = (UnixMillis, UnixMillis)>,
        within: &Range<i64>,
    ) -> Self {
        let cut = |(from, to): (UnixMillis, UnixMillis)| {
            let first = minute_of(from);
            first.max(within.start)..minute_after(to).max(first + 1).min(within.end)
        };
        let mut ranges: Vec<Range<i64>> =
            spans.into_iter().map(cut).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<i64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Those of any of these.
    pub(in crate::report) fn union<'m>(all: impl IntoIterator<Item = &'m Self>) -> Self {
        let spans = all.into_iter().flat_map(|minutes| &minutes.0);
        let instants = spans.map(|range| (instant(range.start), instant(range.end)));
        Self::of(instants, &(i64::MIN / MINUTE_MS..i64::MAX / MINUTE_MS))
    }

    /// How many.
    pub(in crate::report) fn n(&self) -> u64 {
        self.0.iter().map(length).sum()
    }

    /// How many the longest run of them has.
    pub(in crate::report) fn longest(&self) -> u64 {
        self.0.iter().map(length).max().unwrap_or(0)
    }

    /// The runs, from their first instant to their end.
    pub(in crate::report) fn runs(&self) -> impl Iterator<Item = (UnixMillis, UnixMillis)> {
        self.0.iter().map(|range| (instant(range.start), instant(range.end)))
    }
}

fn length(range: &Range<i64>) -> u64 {
    (range.end - range.start).unsigned_abs()
}

/// The minute that an instant lies in.
pub(in crate::report) fn minute_of(at: UnixMillis) -> i64 {
    at.0.div_euclid(MINUTE_MS)
}

/// The first minute that begins at an instant or after it.
pub(in crate::report) fn minute_after(at: UnixMillis) -> i64 {
    at.0.div_euclid(MINUTE_MS) + i64::from(at.0.rem_euclid(MINUTE_MS) > 0)
}

/// The first instant of a minute.
pub(in crate::report) fn instant(minute: i64) -> UnixMillis {
    UnixMillis(minute.saturating_mul(MINUTE_MS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(spans: &[(i64, i64)], within: Range<i64>, want: &[(i64, i64)]) {
        let instants = spans.iter().map(|(from, to)| (UnixMillis(*from), UnixMillis(*to)));
        let found = Minutes::of(instants, &within);
        let found: Vec<(i64, i64)> = found.0.iter().map(|run| (run.start, run.end)).collect();
        assert_eq!(found, want, "{spans:?} in {within:?}");
    }

    #[test]
    fn a_minute_counts_once_however_often_it_is_touched() {
        check(&[], 0..10, &[]);
        check(&[(0, 60_000)], 0..10, &[(0, 1)]);
        check(&[(59_999, 60_001)], 0..10, &[(0, 2)]);
        check(&[(60_000, 120_000), (120_000, 180_000)], 0..10, &[(1, 3)]);
        check(&[(60_000, 200_000), (70_000, 80_000), (300_000, 300_001)], 0..10, &[(1, 4), (5, 6)]);
        // Nothing but an instant, and one that ends before it begins.
        check(&[(90_000, 90_000), (400_000, 100_000)], 0..10, &[(1, 2), (6, 7)]);
        // Cut at both edges; outside of them nothing.
        check(&[(0, 900_000)], 3..5, &[(3, 5)]);
        check(&[(0, 60_000), (600_000, 660_000)], 3..5, &[]);
        check(&[(-30_000, -1)], -5..5, &[(-1, 0)]);
        check(&[(i64::MIN, i64::MAX)], 3..5, &[(3, 5)]);
        let empty = Range { start: 5, end: 3 };
        check(&[(0, 900_000)], empty, &[]);
    }

    #[test]
    fn runs_are_counted_and_the_longest_is_found() {
        let spans = [(0, 60_000), (120_000, 300_000)].map(|(a, b)| (UnixMillis(a), UnixMillis(b)));
        let minutes = Minutes::of(spans, &(0..10));
        assert_eq!((minutes.n(), minutes.longest(), minutes.runs().count()), (4, 3, 2));
        let other = Minutes::of([(UnixMillis(60_000), UnixMillis(120_000))], &(0..10));
        let union = Minutes::union([&minutes, &other]);
        assert_eq!((union.n(), union.longest()), (5, 5));
    }

    proptest! {
        #[test]
        fn any_spans_are_the_minutes_one_finds_by_looking_at_each(
            spans in prop::collection::vec((0_i64..600_000, 0_i64..600_000), 0..12),
            within in (0_i64..12, 0_i64..12),
        ) {
            let within = within.0..within.1;
            let mut want = BTreeSet::new();
            for (from, to) in &spans {
                let to = (*to).max(from + 1);
                for minute in 0..20 {
                    let of = (minute * 60_000)..((minute + 1) * 60_000);
                    if of.start < to && of.end > *from && within.contains(&minute) {
                        want.insert(minute);
                    }
                }
            }
            let instants = spans.iter().map(|(from, to)| (UnixMillis(*from), UnixMillis(*to)));
            let minutes = Minutes::of(instants, &within);
            prop_assert_eq!(minutes.n(), want.len() as u64);
            let found: BTreeSet<i64> = minutes.0.iter().cloned().flatten().collect();
            prop_assert_eq!(found, want);
        }
    }
}
