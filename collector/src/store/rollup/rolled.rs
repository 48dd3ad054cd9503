//! What is kept of an hour: of one series, and of the sites of one server. Pure, with its bytes.
//!
//! A row of a month file holds a day. Of a series: a varint with a bit for each hour that has samples,
//! the first hour lowest, then of each of these the number (zigzag, less that of the hour before), the
//! smallest value (the same), the largest less the smallest, the sum less number times smallest
//! (zigzag), the sketch. Differences wrap at 64 bits. Of sites: the number of (site, key) pairs, then
//! three columns, each its codec and length before it: `site << 11 | key`, rising; a bit for each hour
//! that has a number; those numbers.

use std::collections::BTreeMap;

use wire::catalog::Kind;

use super::super::blocks::{Column, SiteCount};
use super::super::columns::{self, put_varint, take_varint, unzigzag, zigzag};
use super::super::sketch::Sketch;
use crate::model::SiteId;

/// Hours of a day.
pub(crate) const HOURS: usize = 24;
/// Low bits of a key of site columns.
const KEY_BITS: u32 = 11;
/// Most (site, key) pairs of a server and day that are believed.
const PAIRS_MAX: u64 = 1 << 22;
/// The key under which a site has the minutes of the hour with a gateway error: beside all statuses.
pub const BAD_MINUTES: u16 = 1024;

/// An hour of a series, or several of one together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rolled {
    /// Samples; of a counter the seconds over which it was watched.
    pub(crate) n: u64,
    /// Sum of the samples; of a counter what it rose by. `sum / n` is the mean, of a counter per second.
    pub(crate) sum: i128,
    /// Smallest sample; of a counter smallest rise of a minute, rounded down.
    pub(crate) min: i64,
    /// Largest sample; of a counter largest rise of a minute, rounded up.
    pub(crate) max: i64,
    /// Means of the minutes that have samples; of a counter what it rose by in each.
    pub(crate) minutes: Sketch,
}

/// An hour of a series by its minutes: what its sums are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Minutes {
    /// As [`Rolled::n`], and so the next three.
    n: u64,
    sum: i128,
    min: i64,
    max: i64,
    /// A bit for each minute that has a mean, the first lowest.
    mask: u64,
    /// Of each of these its mean; of a counter what it rose by.
    means: Vec<f64>,
}

impl Minutes {
    /// The minutes of an hour of samples; `None` when it has none, or of a counter less than two.
    pub(crate) fn of(column: &Column, kind: Kind) -> Option<Self> {
        match kind {
            Kind::Gauge => Self::of_gauge(column),
            Kind::Counter => Self::of_counter(column),
        }
    }

    fn of_gauge(column: &Column) -> Option<Self> {
        let (min, max) = (column.values.iter().min()?, column.values.iter().max()?);
        let n = column.values.len() as u64;
        let mut this = Self { n, min: *min, max: *max, ..Self::default() };
        let mut values = column.values.as_slice();
        for minute in column.at.chunk_by(|one, next| one / 60 == next / 60) {
            let (of_minute, rest) = values.split_at_checked(minute.len())?;
            values = rest;
            let sum: i128 = of_minute.iter().map(|value| i128::from(*value)).sum();
            this.sum += sum;
            this.push(minute[0] / 60, sum as f64 / minute.len() as f64);
        }
        Some(this)
    }

    /// A counter that falls began anew at 0. What it rose by between two samples is spread evenly over
    /// the minutes between them.
    fn of_counter(column: &Column) -> Option<Self> {
        let mut this = Self::default();
        let (mut rise, mut watched) = ([0.0_f64; 60], [0_u32; 60]);
        for (at, values) in column.at.windows(2).zip(column.values.windows(2)) {
            let (from, to) = (u32::from(at[0]), u32::from(at[1]));
            let [first, second] = [i128::from(values[0]), i128::from(values[1])];
            let step = if second >= first { second - first } else { second.max(0) };
            this.n += u64::from(to - from);
            this.sum += step;
            for minute in from / 60..=(to - 1) / 60 {
                let seconds = to.min(minute * 60 + 60) - from.max(minute * 60);
                watched[minute as usize] += seconds;
                rise[minute as usize] += step as f64 * f64::from(seconds) / f64::from(to - from);
            }
        }
        (this.min, this.max) = (i64::MAX, i64::MIN);
        for (minute, (rise, watched)) in (0..).zip(rise.iter().zip(watched)) {
            if watched == 0 {
                continue;
            }
            let rise = rise * 60.0 / f64::from(watched);
            this.push(minute, rise);
            (this.min, this.max) =
                (this.min.min(rise.floor() as i64), this.max.max(rise.ceil() as i64));
        }
        (this.n > 0).then_some(this)
    }

    fn push(&mut self, minute: u16, mean: f64) {
        self.mask |= 1 << minute.min(63);
        self.means.push(mean);
    }

    /// Minutes of the hour, 0..60, rising, with their means; of a counter with what it rose by.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, f64)> {
        let minutes = (0..60).filter(|minute| self.mask >> minute & 1 == 1);
        minutes.zip(self.means.iter().copied())
    }

    /// Bytes it takes, about.
    pub(crate) fn n_bytes(&self) -> usize {
        size_of::<Self>() + self.means.len() * size_of::<f64>()
    }

    /// The sums of the hour.
    pub(crate) fn rolled(&self) -> Rolled {
        let (n, sum, min, max) = (self.n, self.sum, self.min, self.max);
        let mut minutes = Sketch::default();
        self.means.iter().for_each(|mean| minutes.add(*mean));
        Rolled { n, sum, min, max, minutes }
    }
}

impl Rolled {
    /// What an hour of samples comes to; `None` when it has none, or of a counter less than two.
    pub(crate) fn of(column: &Column, kind: Kind) -> Option<Self> {
        Minutes::of(column, kind).map(|minutes| minutes.rolled())
    }

    /// Adds another span of time, or another server.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        if self.n == 0 {
            self.clone_from(other);
            return;
        }
        self.n = self.n.saturating_add(other.n);
        self.sum = self.sum.saturating_add(other.sum);
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
        self.minutes.merge(&other.minutes);
    }

    /// The value below which a share `q` of all minutes lies, by their means; within
    /// [`super::super::sketch::ERROR`] of the value. `None` of nothing.
    #[must_use]
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        self.minutes.quantile(q).map(|value| value.max(self.min as f64).min(self.max as f64))
    }
}

/// Hours of a day of one series.
pub(crate) type SeriesDay = [Option<Rolled>; HOURS];

/// The bytes of a day of a series.
pub(crate) fn encode_series(hours: &SeriesDay) -> Vec<u8> {
    let mut body = Vec::new();
    put_varint(&mut body, mask(hours.iter().map(Option::is_some)));
    let (mut last_n, mut last_min) = (0_i64, 0_i64);
    for hour in hours.iter().flatten() {
        let n = hour.n.cast_signed();
        let sum = hour.sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        put_varint(&mut body, zigzag(n.wrapping_sub(last_n)));
        put_varint(&mut body, zigzag(hour.min.wrapping_sub(last_min)));
        put_varint(&mut body, hour.max.wrapping_sub(hour.min).cast_unsigned());
        put_varint(&mut body, zigzag(sum.wrapping_sub(n.wrapping_mul(hour.min))));
        hour.minutes.encode(&mut body);
        (last_n, last_min) = (n, hour.min);
    }
    body
}

/// The day in such bytes; `None` where it is none.
pub(crate) fn decode_series(body: &[u8]) -> Option<SeriesDay> {
    let mut day = DayOf::default();
    let hours = day.decode(body)?;
    let mut found = SeriesDay::default();
    for (ix, rolled) in hours {
        found[ix] = Some(std::mem::take(rolled));
    }
    Some(found)
}

/// Room for a day of a series, which is used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct DayOf([Rolled; HOURS]);

impl DayOf {
    /// The hours of the day in such bytes, by their place in it; `None` where it is none.
    pub(crate) fn decode(
        &mut self,
        body: &[u8],
    ) -> Option<impl Iterator<Item = (usize, &mut Rolled)>> {
        let mut rest = body;
        let mask = take_varint(&mut rest).filter(|mask| *mask < 1 << HOURS)?;
        let has = move |ix: usize| mask >> ix & 1 == 1;
        let (mut n, mut min) = (0_i64, 0_i64);
        for (_, hour) in self.0.iter_mut().enumerate().filter(|(ix, _)| has(*ix)) {
            n = n.wrapping_add(unzigzag(take_varint(&mut rest)?));
            min = min.wrapping_add(unzigzag(take_varint(&mut rest)?));
            let max = min.wrapping_add(take_varint(&mut rest)?.cast_signed());
            let sum = unzigzag(take_varint(&mut rest)?).wrapping_add(n.wrapping_mul(min));
            if !hour.minutes.take(&mut rest) || n <= 0 || max < min {
                return None;
            }
            (hour.n, hour.sum, hour.min, hour.max) = (n.cast_unsigned(), sum.into(), min, max);
        }
        let hours = self.0.iter_mut().enumerate().filter(move |(ix, _)| has(*ix));
        rest.is_empty().then_some(hours)
    }
}

/// Hours of a day of all sites of one server: requests by (site, status or derived counter), and
/// under [`BAD_MINUTES`] the minutes with a gateway error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SitesDay(BTreeMap<(SiteId, u16), [u64; HOURS]>);

impl SitesDay {
    /// Adds the counts of one hour, all parts of it together.
    pub(crate) fn add(&mut self, hour: usize, counts: &[SiteCount]) {
        let mut bad: BTreeMap<SiteId, u64> = BTreeMap::new();
        for count in counts {
            if count.n == 0 {
                continue;
            }
            let n = &mut self.0.entry((count.site, count.status)).or_default()[hour];
            *n = n.saturating_add(count.n);
            if matches!(count.status, 502..=504) {
                *bad.entry(count.site).or_default() |= 1 << (count.second / 60).min(59);
            }
        }
        for (site, minutes) in bad {
            self.0.entry((site, BAD_MINUTES)).or_default()[hour] = u64::from(minutes.count_ones());
        }
    }

    /// Takes an hour over from an earlier sum.
    pub(crate) fn take_hour(&mut self, hour: usize, from: &Self) {
        for (key, numbers) in from.0.iter().filter(|(_, numbers)| numbers[hour] > 0) {
            self.0.entry(*key).or_default()[hour] = numbers[hour];
        }
    }

    /// Forgets an hour.
    pub(crate) fn clear_hour(&mut self, hour: usize) {
        for numbers in self.0.values_mut() {
            numbers[hour] = 0;
        }
        self.0.retain(|_, numbers| numbers.iter().any(|n| *n > 0));
    }

    /// Whether nothing is in it.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every (site, status or derived counter or [`BAD_MINUTES`]) with its 24 numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SiteId, u16, &[u64; HOURS])> {
        self.0.iter().map(|((site, key), numbers)| (*site, *key, numbers))
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let key = |(site, key): &(SiteId, u16)| (site.0 << KEY_BITS) | i64::from(*key);
        let hours = |numbers: &[u64; HOURS]| mask(numbers.iter().map(|n| *n > 0)).cast_signed();
        let numbers = self.0.values().flatten().filter(|n| **n > 0);
        let columns: [Vec<i64>; 3] = [
            self.0.keys().map(key).collect(),
            self.0.values().map(hours).collect(),
            numbers.map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect(),
        ];
        let mut body = Vec::new();
        put_varint(&mut body, self.0.len() as u64);
        for column in columns {
            let packed = columns::pack(&column);
            body.push(packed.codec);
            put_varint(&mut body, packed.body.len() as u64);
            body.extend(packed.body);
        }
        body
    }

    /// The day in such bytes; `None` where it is none.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let n = take_varint(&mut rest).filter(|n| *n <= PAIRS_MAX)? as usize;
        let keys = take_column(&mut rest, n)?;
        let masks = take_column(&mut rest, n)?;
        if masks.iter().any(|mask| !(1..1 << HOURS).contains(mask)) {
            return None;
        }
        let n_numbers: u32 = masks.iter().map(|mask| mask.count_ones()).sum();
        let mut numbers = take_column(&mut rest, n_numbers as usize)?.into_iter();
        let mut day = BTreeMap::new();
        for (key, mask) in keys.into_iter().zip(masks) {
            let of = (SiteId(key >> KEY_BITS), (key & ((1 << KEY_BITS) - 1)) as u16);
            let mut hours = [0; HOURS];
            for (_, hour) in hours.iter_mut().enumerate().filter(|(ix, _)| mask >> ix & 1 == 1) {
                *hour = numbers.next()?.cast_unsigned();
            }
            day.insert(of, hours);
        }
        (rest.is_empty() && day.len() == n).then_some(Self(day))
    }
}

fn take_column(from: &mut &[u8], n: usize) -> Option<Vec<i64>> {
    let (codec, rest) = from.split_first()?;
    *from = rest;
    let length = usize::try_from(take_varint(from)?).ok()?;
    let (body, rest) = from.split_at_checked(length)?;
    *from = rest;
    columns::unpack(*codec, body, n).ok()
}

/// A bit for each that holds, the first lowest.
fn mask(holds: impl Iterator<Item = bool>) -> u64 {
    holds.enumerate().fold(0, |mask, (ix, holds)| mask | (u64::from(holds) << ix))
}

/// Samples of two parts together: of one second the later part wins.
pub(crate) fn merge_parts(early: &Column, late: &Column) -> Column {
    let mut samples: BTreeMap<u16, i64> =
        early.at.iter().copied().zip(early.values.iter().copied()).collect();
    samples.extend(late.at.iter().copied().zip(late.values.iter().copied()));
    let (at, values) = samples.into_iter().unzip();
    Column { metric: early.metric, at, values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(samples: &[(u16, i64)]) -> Column {
        let (at, values) = samples.iter().copied().unzip();
        Column { metric: 1, at, values }
    }

    fn numbers(rolled: &Rolled) -> (u64, i128, i64, i64, u64) {
        (rolled.n, rolled.sum, rolled.min, rolled.max, rolled.minutes.n())
    }

    #[test]
    fn a_gauge_has_its_samples_and_a_mean_for_each_minute() {
        let rolled =
            Rolled::of(&column(&[(0, 10), (10, 20), (60, -6), (3599, 7)]), Kind::Gauge).unwrap();
        assert_eq!(numbers(&rolled), (4, 31, -6, 20, 3));
        let mut means = Sketch::default();
        for mean in [15.0, -6.0, 7.0] {
            means.add(mean);
        }
        assert_eq!(rolled.minutes, means);
        assert_eq!(Rolled::of(&column(&[]), Kind::Gauge), None);
    }

    #[test]
    fn a_counter_has_what_it_rose_by_whatever_it_was_reset_to() {
        let check = |samples: &[(u16, i64)], want: (u64, i128, i64, i64, u64)| {
            let rolled = Rolled::of(&column(samples), Kind::Counter).unwrap();
            assert_eq!(numbers(&rolled), want, "{samples:?}");
        };
        check(&[(0, 1000), (30, 1030), (60, 1060)], (60, 60, 60, 60, 1));
        check(&[(0, 5000), (60, 5060), (120, 30)], (120, 90, 30, 60, 2)); // booted between
        check(&[(30, 0), (150, 240)], (120, 240, 120, 120, 3)); // half a minute, one, half of one
        check(&[(0, i64::MIN), (60, i64::MAX)], (60, i128::from(u64::MAX), i64::MAX, i64::MAX, 1));
        assert_eq!(Rolled::of(&column(&[(0, 9)]), Kind::Counter), None);
    }

    #[test]
    fn quantiles_stay_between_the_extremes() {
        let rolled = Rolled::of(&column(&[(0, 5000), (60, 5000)]), Kind::Gauge).unwrap();
        assert_eq!([rolled.quantile(0.0), rolled.quantile(0.95)], [Some(5000.0); 2]);
        assert_eq!(Rolled::default().quantile(0.5), None);
    }

    #[test]
    fn sites_have_requests_by_status_and_minutes_with_a_gateway_error() {
        let count = |site, status, second, n| SiteCount { site: SiteId(site), status, second, n };
        let mut day = SitesDay::default();
        let first =
            [count(4, 200, 0, 9), count(4, 502, 5, 1), count(4, 503, 59, 2), count(4, 504, 60, 1)];
        day.add(23, &first);
        day.add(0, &[count(7, 502, 3599, 3), count(4, 200, 10, 1), count(4, 1001, 10, 0)]);
        let all: Vec<_> = day.iter().map(|(site, key, n)| (site.0, key, n[0], n[23])).collect();
        let want = [
            (4, 200, 1, 9),
            (4, 502, 0, 1),
            (4, 503, 0, 2),
            (4, 504, 0, 1),
            (4, BAD_MINUTES, 0, 2),
            (7, 502, 3, 0),
            (7, BAD_MINUTES, 1, 0),
        ];
        assert_eq!(all, want);
        assert_eq!(SitesDay::decode(&day.encode()), Some(day.clone()));
        let mut other = SitesDay::default();
        other.take_hour(0, &day);
        day.clear_hour(23);
        assert_eq!(other, day);
    }

    #[test]
    fn a_later_part_wins_where_both_have_a_sample() {
        let merged = merge_parts(&column(&[(0, 1), (20, 2)]), &column(&[(10, 5), (20, 6)]));
        assert_eq!(merged, column(&[(0, 1), (10, 5), (20, 6)]));
    }

    fn series() -> impl Strategy<Value = SeriesDay> {
        let samples = prop::collection::btree_map(0_u16..3600, any::<i64>(), 0..40);
        prop::collection::vec(samples, HOURS).prop_map(|hours| {
            let mut day = SeriesDay::default();
            for (hour, samples) in day.iter_mut().zip(hours) {
                let samples: Vec<(u16, i64)> = samples.into_iter().collect();
                *hour = Rolled::of(&column(&samples), Kind::Gauge);
            }
            day
        })
    }

    proptest! {
        #[test]
        fn every_day_of_a_series_comes_back(mut day in series()) {
            let found = decode_series(&encode_series(&day)).unwrap();
            for hour in day.iter_mut().flatten() {
                hour.sum = hour.sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
            }
            prop_assert_eq!(found, day);
        }

        #[test]
        fn any_bytes_are_a_day_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(day) = decode_series(&bytes) {
                prop_assert_eq!(decode_series(&encode_series(&day)), Some(day));
            }
            if let Some(day) = SitesDay::decode(&bytes) {
                prop_assert!(day.iter().count() <= PAIRS_MAX as usize);
            }
        }
    }
}
