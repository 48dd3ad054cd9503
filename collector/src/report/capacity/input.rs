//! What a capacity report is made of: each server's series, pools and sites over whole hours. Pure data.

use std::collections::BTreeMap;
use std::ops::Range;

use super::parts::Parts;
use crate::model::ServerId;
use crate::report::forecast::Day;
use crate::report::need::ErrorMinutes;
use crate::store::history::Spread;

/// Seconds of an hour.
pub const HOUR_S: i64 = 3600;

/// Everything that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// First second of the first hour, and of the one after the last.
    pub hours: Range<i64>,
    /// First second from which samples are kept, not only sums of hours; `None`: there are none.
    pub raw_from: Option<i64>,
    /// The servers that were asked for, also those without a sample.
    pub servers: BTreeMap<ServerId, Server>,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// Its name today.
    pub name: String,
    /// Its labels today.
    pub labels: BTreeMap<String, String>,
    /// Hours with a sample, as numbers from the first of the report.
    pub seen: Seen,
    /// Its series by metric and attribute; an attribute is `key=value` or empty.
    pub series: BTreeMap<(&'static str, Box<str>), Series>,
    /// Its sites that were asked for something or known.
    pub sites: Vec<Site>,
    /// What its minutes with gateway errors came with.
    pub errors: ErrorMinutes,
    /// Of these minutes, those known by their hour only.
    pub n_errors_by_hour: u64,
    /// Minutes with gateway errors by the pool whose children were all busy.
    pub exhausted: BTreeMap<String, u64>,
}

/// One series over the time of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its minutes, by the size of what is used of: processors, bytes of memory, children.
    pub parts: Parts,
    /// The newest hour with samples: its first second and its mean.
    pub last: (i64, f64),
    /// The largest mean of an hour of the last 35 days, and the size of what was used of then.
    pub max_35d: Option<(f64, f64)>,
    /// What it rose by in all; of counters.
    pub rise: f64,
    /// Means of hours; NaN: no samples. Empty where nothing is made of them.
    pub mean: Vec<f32>,
    /// The 95th percentile of the minutes of each UTC day, likewise.
    pub day_p95: Vec<f32>,
    /// The minutes of each UTC day, where hours are kept.
    pub days: Vec<Option<Day>>,
}

/// One site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: Option<String>,
    /// PHP-FPM pool that answers for it.
    pub pool: Option<String>,
    /// Requests.
    pub n: u64,
    /// Of these answered 502, 504, or a 503 that the agent judged a gateway error.
    pub n_gateway: u64,
    /// Minutes in which one was answered 502, 503 or 504.
    pub n_bad_minutes: u64,
    /// Requests a second of hours: half are below, 95 of 100 are below, largest.
    pub rate: Option<(f64, f64, f64)>,
}

/// A set of hours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<u64>);

impl Seen {
    /// Adds an hour.
    pub fn add(&mut self, hour: usize) {
        if self.0.len() <= hour / 64 {
            self.0.resize(hour / 64 + 1, 0);
        }
        self.0[hour / 64] |= 1 << (hour % 64);
    }

    /// Adds all hours of another set.
    pub fn merge(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// How many there are.
    #[must_use]
    pub fn n(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The first and the last.
    #[must_use]
    pub fn ends(&self) -> Option<(usize, usize)> {
        let first = self.0.iter().position(|word| *word != 0)?;
        let last = self.0.iter().rposition(|word| *word != 0)?;
        let first = first * 64 + self.0[first].trailing_zeros() as usize;
        Some((first, last * 64 + 63 - self.0[last].leading_zeros() as usize))
    }

    /// The longest run of hours without a sample between the first and the last.
    #[must_use]
    pub fn longest_gap(&self) -> usize {
        let Some((first, last)) = self.ends() else { return 0 };
        let has = |hour: &usize| self.0[hour / 64] >> (hour % 64) & 1 == 1;
        let (mut longest, mut before) = (0, first);
        for hour in (first..=last).filter(has) {
            longest = longest.max((hour - before).saturating_sub(1));
            before = hour;
        }
        longest
    }
}

impl Server {
    /// A series without an attribute.
    #[must_use]
    pub fn plain(&self, metric: &'static str) -> Option<&Series> {
        self.series.get(&(metric, Box::from("")))
    }

    /// All series of a metric with what their attributes name: `/srv` of
    /// `system.filesystem.mountpoint=/srv`.
    pub fn all(&self, metric: &'static str) -> impl Iterator<Item = (&str, &Series)> {
        self.series
            .range((metric, Box::from(""))..)
            .take_while(move |((of, _), _)| *of == metric)
            .map(|((_, attribute), series)| (named(attribute), series))
    }

    /// The series of a metric whose attribute names this.
    #[must_use]
    pub fn one(&self, metric: &'static str, name: &str) -> Option<&Series> {
        // Attributes of one metric have one key.
        let (_, first) = self.series.range((metric, Box::from(""))..).next()?.0;
        let attribute = match first.split_once('=') {
            Some((key, _)) => format!("{key}={name}"),
            None => name.to_owned(),
        };
        let known = self.series.get(&(metric, attribute.into()));
        known.or_else(|| self.all(metric).find(|(of, _)| *of == name).map(|(_, series)| series))
    }

    /// Days from its first to its last hour with samples.
    #[must_use]
    pub fn n_days(&self) -> f64 {
        self.seen.ends().map_or(0.0, |(first, last)| (last + 1 - first) as f64 / 24.0)
    }

    /// Share of the hours of those days that have samples.
    #[must_use]
    pub fn coverage(&self) -> Option<f64> {
        let (first, last) = self.seen.ends()?;
        Some(self.seen.n() as f64 / (last + 1 - first) as f64)
    }

    /// Processors it has: the limit of its container, where there is one.
    #[must_use]
    pub fn vcpu(&self) -> Option<f64> {
        let limit = self.plain("container.cpu.limit").map(|series| series.last.1);
        let all = self.plain("system.cpu.logical.count").map(|series| series.last.1);
        limit.filter(|limit| all.is_none_or(|all| *limit < all)).or(all).filter(|n| *n > 0.0)
    }

    /// Memory it has, bytes.
    #[must_use]
    pub fn memory(&self) -> Option<f64> {
        self.plain("system.memory.limit").map(|series| series.last.1).filter(|bytes| *bytes > 0.0)
    }

    /// Space of one file system, bytes, as `df` reckons it: used and available to everybody.
    #[must_use]
    pub fn space(&self, mount: &str) -> Option<f64> {
        let used = self.one("system.filesystem.utilization", mount)?.last;
        let free = self.one("system.filesystem.free", mount)?.last;
        // Of a full one nothing tells how large it is.
        (used.0 == free.0 && used.1 < 0.999).then(|| free.1 / (1.0 - used.1))
    }

    /// Space of all its file systems, bytes; `None` where one is not known.
    #[must_use]
    pub fn disk(&self) -> Option<f64> {
        let mut sum = None;
        for (mount, _) in self.all("system.filesystem.utilization") {
            *sum.get_or_insert(0.0) += self.space(mount)?;
        }
        sum
    }
}

impl Series {
    /// One with nothing in it, for so many hours and days where those are wanted.
    #[must_use]
    pub fn new(n_hours: usize, n_days: usize) -> Self {
        Self {
            parts: Parts::default(),
            last: (i64::MIN, 0.0),
            max_35d: None,
            rise: 0.0,
            mean: vec![f32::NAN; n_hours],
            day_p95: vec![f32::NAN; n_days],
            days: if n_hours > 0 { vec![None; n_days] } else { Vec::new() },
        }
    }

    /// Notes the hour that begins at `t0` and is the `ix`th of the report, of a time in which what is used
    /// of had this size. Its minutes go into `parts`, or come with their day.
    pub fn add(&mut self, (t0, ix): (i64, usize), size: f64, spread: &Spread, is_of_35d: bool) {
        self.rise += spread.rise();
        if t0 >= self.last.0 {
            self.last = (t0, spread.mean());
        }
        let max = (spread.mean(), size.max(f64::MIN_POSITIVE));
        if is_of_35d && self.max_35d.is_none_or(|known| known.0 * known.1 < max.0 * max.1) {
            self.max_35d = Some(max);
        }
        if let Some(hour) = self.mean.get_mut(ix) {
            *hour = spread.mean() as f32;
        }
    }

    /// Adds the minutes of a whole day, by the size of what is used of.
    pub fn add_day(&mut self, ix: usize, of_day: Vec<(f64, Spread)>) {
        let mut whole: Option<Spread> = None;
        for (size, spread) in of_day {
            self.parts.add(size, &spread);
            match &mut whole {
                Some(whole) => whole.merge(&spread),
                None => whole = Some(spread),
            }
        }
        let Some(whole) = whole else { return };
        if let (Some(day), Some(p95)) = (self.day_p95.get_mut(ix), whole.quantile(0.95)) {
            *day = p95 as f32;
        }
        if let Some(day) = self.days.get_mut(ix) {
            *day = Some(Day::new(whole.n_minutes(), |q| whole.quantile(q)));
        }
    }
}

/// What an attribute names.
#[must_use]
pub fn named(attribute: &str) -> &str {
    attribute.split_once('=').map_or(attribute, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_hours_knows_its_ends_its_number_and_its_longest_gap() {
        let check = |hours: &[usize], n, ends, gap| {
            let mut seen = Seen::default();
            for hour in hours {
                seen.add(*hour);
            }
            assert_eq!((seen.n(), seen.ends(), seen.longest_gap()), (n, ends, gap), "{hours:?}");
        };
        check(&[], 0, None, 0);
        check(&[0], 1, Some((0, 0)), 0);
        check(&[63, 64], 2, Some((63, 64)), 0);
        check(&[3, 3, 171, 5], 3, Some((3, 171)), 165);
    }

    #[test]
    fn an_attribute_names_what_stands_behind_its_key() {
        assert_eq!(named("system.filesystem.mountpoint=/srv/a=b"), "/srv/a=b");
        assert_eq!(named(""), "");
    }
}
