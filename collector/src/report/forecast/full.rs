//! Days until something is full, by the trend of its days. Pure.

use super::series::{Series, median, quantile};
use super::{Expected, Refusal};

/// Beyond so many days nothing is told.
pub const FULL_DAYS_MAX: f64 = 180.0;
/// So many days are looked at.
const PAST_DAYS: usize = 56;
/// So many days must lie between the first and the end.
const SPAN_DAYS_MIN: usize = 14;
/// This share of them must be known.
const KNOWN_MIN: f64 = 0.5;
/// Within so many days of the end something must be known.
const FRESH_DAYS: usize = 3;

/// How full something is, how fast it fills, and when it is full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filling {
    /// The level now: the median of the last three days.
    pub level: f64,
    /// What the level rises by in a day (Theil-Sen).
    pub slope_per_day: f64,
    /// Days that the slope is made of: less than all after a step.
    pub n_days: usize,
    /// Days from now until the limit is reached; 0: it is. `None`: not within [`FULL_DAYS_MAX`] days. The
    /// high end may be beyond them.
    pub days: Option<Expected>,
}

/// What a fleet's true times until full were, by what was foretold: the lowest and the highest tenth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// A tenth was sooner than this times what was foretold.
    pub low: f64,
    /// A tenth was later than this times what was foretold.
    pub high: f64,
    /// Of so many forecasts in the past of the fleet.
    pub n: usize,
}

impl Default for Ratios {
    /// What was found on a large fleet; used until the own fleet has a past.
    fn default() -> Self {
        Self { low: 0.46, high: 1.5, n: 0 }
    }
}

impl Ratios {
    /// Learned from the past of a fleet: the days of each series, oldest first.
    #[must_use]
    pub fn of(fleet: &[Vec<Option<f64>>]) -> Self {
        let mut found: Vec<f64> = fleet.iter().flat_map(|days| ratios(days)).collect();
        let n = found.len();
        if n < 50 {
            return Self::default();
        }
        match quantile(&mut found, 0.1).zip(quantile(&mut found, 0.9)) {
            Some((low, high)) => Self { low: low.min(1.0), high: high.max(1.0), n },
            None => Self::default(),
        }
    }
}

/// When `days` (each day's p95 of what is used, oldest first) reach `limit`, in their unit.
pub fn days_to_full(days: &[Option<f64>], limit: f64, ratios: &Ratios) -> Result<Filling, Refusal> {
    let series = Series::new(days, PAST_DAYS);
    let n = series.values.len();
    if n == 0 {
        return Err(Refusal::Nothing);
    }
    if n < SPAN_DAYS_MIN {
        return Err(Refusal::TooShort);
    }
    if series.values[n - FRESH_DAYS..].iter().flatten().next().is_none() {
        return Err(Refusal::TooOld);
    }
    if (series.n_known() as f64) < n as f64 * KNOWN_MIN {
        return Err(Refusal::TooManyGaps);
    }
    let since = &series.values[step(&series.values)..];
    let level = level(since).unwrap_or_default();
    let slope = theil_sen(since).unwrap_or_default();
    let days = until(level, slope, limit / series.unit).map(|mid| {
        let (low, high) = (mid * ratios.low, mid * ratios.high);
        Expected { low: low.min(mid), mid, high: high.max(mid) }
    });
    Ok(Filling {
        level: level * series.unit,
        slope_per_day: slope * series.unit,
        n_days: since.len(),
        days: days.filter(|days| days.mid.is_finite() && days.high.is_finite()),
    })
}

/// Days until `level`, rising by `slope`, is at `limit`.
fn until(level: f64, slope: f64, limit: f64) -> Option<f64> {
    if level >= limit {
        return Some(0.0);
    }
    let days = (limit - level) / slope;
    (slope > 0.0 && days <= FULL_DAYS_MAX).then_some(days)
}

/// The median of the newest three that are known.
fn level(days: &[Option<f64>]) -> Option<f64> {
    median(&mut days.iter().rev().flatten().take(3).copied().collect::<Vec<f64>>())
}

/// The median of the slopes of all pairs.
pub(super) fn theil_sen(days: &[Option<f64>]) -> Option<f64> {
    let known: Vec<(usize, f64)> =
        days.iter().enumerate().filter_map(|(ix, value)| value.map(|value| (ix, value))).collect();
    let mut slopes = Vec::with_capacity(known.len() * known.len() / 2);
    for (ix, (at, value)) in known.iter().enumerate() {
        slopes.extend(known[ix + 1..].iter().map(|(later, v)| (v - value) / (later - at) as f64));
    }
    median(&mut slopes)
}

/// Where the last step begins: a day that differs from the one before by more than five times what days
/// usually differ by. 0: there is none.
fn step(_days: &[Option<f64>]) -> usize {
    0
}

/// What was foretold in the past of one series, and came.
fn ratios(_days: &[Option<f64>]) -> Vec<f64> {
    Vec::new()
}
