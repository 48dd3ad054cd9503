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
/// Days from one origin in the past to the next.
const ORIGIN_STEP_DAYS: usize = 5;
/// For so many days later levels are foretold in the past.
const AHEAD_DAYS: [usize; 2] = [10, 20];
/// So many days must follow a step, or it is let be: fewer tell no slope.
const AFTER_STEP_DAYS: usize = 10;
/// A fifth of a step's least size, as a share of the largest value.
const STEP_MIN: f64 = 0.004;
/// As many forecasts the default ratios count for.
const PRIOR: f64 = 60.0;
/// Least ratio that is told.
const RATIO_MIN: f64 = 0.01;
/// A level that did not come in so many times what was foretold is taken for one that never comes:
/// for a ratio of [`FULL_DAYS_MAX`].
const PATIENCE: usize = 3;
/// What rises by less than this share of its level in [`FULL_DAYS_MAX`] teaches nothing about filling.
const GROWTH_MIN: f64 = 0.2;

/// How full something is, how fast it fills, and when it is full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filling {
    /// The level now: the median of the last three days.
    pub level: f64,
    /// What the level rises by in a day (Theil-Sen).
    pub slope_per_day: f64,
    /// Days that the slope is made of: less than all after a step.
    pub n_days: usize,
    /// Days from now until the limit is reached; 0: it is. `None`: not within [`FULL_DAYS_MAX`] days. A high
    /// end beyond those is open: in eight of ten cases it is full no sooner than the low end.
    pub days: Option<Expected>,
}

/// What a fleet's true times until full were, by what was foretold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// A tenth was sooner than this times what was foretold.
    pub low: f64,
    /// A fifth was sooner than this times what was foretold: the low end where the high one is open.
    pub early: f64,
    /// A tenth was later than this times what was foretold, or never.
    pub high: f64,
    /// Of so many forecasts in the past of the fleet.
    pub n: usize,
}

impl Default for Ratios {
    /// What was found on a large fleet; used until the own fleet has a past.
    fn default() -> Self {
        Self { low: 0.46, early: 0.65, high: 1.5, n: 0 }
    }
}

impl Ratios {
    /// Learned from the past of a fleet (split conformal): the days of each series, oldest first. The
    /// [`Default`] counts like [`PRIOR`] forecasts of that past.
    #[must_use]
    pub fn of(fleet: &[Vec<Option<f64>>]) -> Self {
        let mut found: Vec<f64> = fleet.iter().flat_map(|days| ratios(days)).collect();
        let usual = Self::default();
        let n = found.len();
        let share = n as f64 / (n as f64 + PRIOR);
        let mut learned = |q: f64, usual: f64| {
            // Ratios are mixed by their logarithms: twice as late is as far off as half as late.
            let own = quantile(&mut found, q).unwrap_or(usual).clamp(RATIO_MIN, FULL_DAYS_MAX);
            (usual.ln() + (own.ln() - usual.ln()) * share).exp()
        };
        let (low, early) = (learned(0.1, usual.low).min(1.0), learned(0.2, usual.early).min(1.0));
        Self { low, early, high: learned(0.9, usual.high).max(1.0), n }
    }

    /// Between which days it is full if `mid` is the likeliest.
    fn around(&self, mid: f64) -> Expected {
        let high = mid * self.high;
        let low = mid * if high > FULL_DAYS_MAX { self.early } else { self.low };
        Expected { low: low.min(mid), mid, high: high.max(mid) }
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
    let days = until(level, slope, limit / series.unit).map(|mid| ratios.around(mid));
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
    let known = known(days);
    let mut slopes = Vec::with_capacity(known.len() * known.len() / 2);
    for (ix, (at, value)) in known.iter().enumerate() {
        slopes.extend(known[ix + 1..].iter().map(|(later, v)| (v - value) / (later - at) as f64));
    }
    median(&mut slopes)
}

/// Where the last step begins that leaves days enough to tell a slope, or 0: a day that differs from the one
/// before by more than five times what days differ by (their median absolute deviation, as a standard
/// deviation), and stays.
fn step(days: &[Option<f64>]) -> usize {
    let known: Vec<(usize, f64)> = known(days);
    let rises: Vec<f64> = known.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    let Some(usual) = median(&mut rises.clone()) else { return 0 };
    let off: Vec<f64> = rises.iter().map(|rise| (rise - usual).abs()).collect();
    let spread = 1.4826 * median(&mut off.clone()).unwrap_or_default();
    let least = 5.0 * spread.max(STEP_MIN);
    for (ix, off) in off.iter().enumerate().rev() {
        let (before, after) = known.split_at(ix + 1);
        let near =
            |some: &[(usize, f64)]| median(&mut some.iter().map(|day| day.1).collect::<Vec<_>>());
        let before = near(&before[before.len().saturating_sub(3)..]);
        let stays = near(&after[..after.len().min(3)]).zip(before);
        let stays = stays.is_some_and(|(after, before)| (after - before).abs() > 0.6 * least);
        if *off > least && stays && known.len() - (ix + 1) >= AFTER_STEP_DAYS {
            return known[ix + 1].0;
        }
    }
    0
}

/// The days that are known, with their places.
fn known(days: &[Option<f64>]) -> Vec<(usize, f64)> {
    days.iter().enumerate().filter_map(|(ix, value)| value.map(|value| (ix, value))).collect()
}

/// What was foretold in the past of one series, and came: times until a level was reached that was foretold
/// for some days later, by those days. A level that was not reached in [`PATIENCE`] times as many never is.
fn ratios(days: &[Option<f64>]) -> Vec<f64> {
    let series = Series::new(days, days.len());
    let values = &series.values;
    let mut found = Vec::new();
    for origin in (SPAN_DAYS_MIN..values.len()).step_by(ORIGIN_STEP_DAYS) {
        let (past, future) = values.split_at(origin);
        let past = &past[origin.saturating_sub(PAST_DAYS)..];
        let past = &past[step(past)..];
        let (Some(level), Some(slope)) = (level(past), theil_sen(past)) else { continue };
        if slope * FULL_DAYS_MAX < GROWTH_MIN * level {
            continue;
        }
        for ahead in AHEAD_DAYS {
            if future.len() < PATIENCE * ahead {
                continue;
            }
            let reached = level + slope * ahead as f64;
            let came = future.iter().position(|day| day.is_some_and(|day| day >= reached));
            let came = came.filter(|came| *came < PATIENCE * ahead);
            found.push(came.map_or(FULL_DAYS_MAX, |came| (came + 1) as f64 / ahead as f64));
        }
    }
    found
}
