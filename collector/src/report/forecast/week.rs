//! The next week of a series, hour by hour. Pure.

use super::backtest::{Backtest, Errors, Method, backtest};
use super::series::{Series, naive_error, quantile};
use super::{DAY_H, Expected, Refusal, WEEK_H};

/// So many hours of the past are looked at.
const PAST_H: usize = 8 * WEEK_H;
/// So many hours must lie between the first and the end.
const SPAN_H_MIN: usize = WEEK_H;
/// This share of them must be known.
const KNOWN_MIN: f64 = 0.5;
/// Within so many hours of the end something must be known.
const FRESH_H: usize = 2 * DAY_H;
/// Errors of other series count like this many origins of an own backtest.
const POOL_ORIGINS: f64 = 4.0;

/// A forecast of the next week.
#[derive(Clone, Debug, PartialEq)]
pub struct Week {
    /// The [`WEEK_H`] hours after the last of the past.
    pub hours: Vec<Expected>,
    /// How it was made.
    pub method: Method,
    /// How wrong it was on the past; `None`: too short a past to try, or one that never changes.
    pub errors: Option<Errors>,
    /// What the level rises by in a day, over the last weeks.
    pub slope_per_day: f64,
}

/// How wrong forecasts of a fleet's series were: the lowest and highest tenth of truth less forecast, by
/// days ahead, scaled as in [`Errors`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pool {
    tenths: [(f64, f64); 7],
}

impl Default for Pool {
    /// What was found on many series; used until the fleet has a past of its own.
    fn default() -> Self {
        Self { tenths: [(-1.5, 1.8); 7] }
    }
}

impl Pool {
    /// Of backtests of several series.
    fn of(tests: &[Backtest]) -> Self {
        let mut pool = Self::default();
        for (day, tenths) in pool.tenths.iter_mut().enumerate() {
            let mut off: Vec<f64> = tests.iter().flat_map(|test| &test.off[day]).copied().collect();
            if off.len() < 30 * DAY_H {
                continue;
            }
            if let Some(both) = quantile(&mut off, 0.1).zip(quantile(&mut off, 0.9)) {
                *tenths = both;
            }
        }
        pool
    }
}

/// The week after `hours`, oldest first, with no value where nothing is known. What is told lies between 0
/// and the `ceiling`, in the unit of the values. Intervals are those of `pool` as far as the past is short.
pub fn week(hours: &[Option<f64>], ceiling: Option<f64>, pool: &Pool) -> Result<Week, Refusal> {
    let series = checked(hours)?;
    Ok(told(&series, &backtest(&series), ceiling, pool))
}

/// The next week of each series of a fleet, all of one metric: intervals of those with a short past are
/// learned from the others.
#[must_use]
pub fn fleet(fleet: &[Vec<Option<f64>>], ceiling: Option<f64>) -> Vec<Result<Week, Refusal>> {
    let fleet: Vec<Result<Series, Refusal>> = fleet.iter().map(|hours| checked(hours)).collect();
    let tests: Vec<Backtest> = fleet.iter().flatten().map(backtest).collect();
    let pool = Pool::of(&tests);
    let mut tests = tests.iter();
    let told = |series: Result<Series, Refusal>| {
        let series = series?;
        let test = tests.next().expect("one for each series that was not refused");
        Ok(told(&series, test, ceiling, &pool))
    };
    fleet.into_iter().map(told).collect()
}

/// The past as far as it is looked at, or why it does not do.
fn checked(hours: &[Option<f64>]) -> Result<Series, Refusal> {
    let series = Series::new(hours, PAST_H);
    let (n, n_known) = (series.values.len(), series.n_known());
    if n == 0 {
        return Err(Refusal::Nothing);
    }
    if n < SPAN_H_MIN {
        return Err(Refusal::TooShort);
    }
    if series.values[n - FRESH_H..].iter().flatten().next().is_none() {
        return Err(Refusal::TooOld);
    }
    if (n_known as f64) < n as f64 * KNOWN_MIN {
        return Err(Refusal::TooManyGaps);
    }
    Ok(series)
}

fn told(series: &Series, test: &Backtest, ceiling: Option<f64>, pool: &Pool) -> Week {
    let past = &series.values;
    let mid = test.tell(past, WEEK_H);
    let scale = naive_error(past, DAY_H).unwrap_or_default();
    let n_own = test.errors.map_or(0, |errors| errors.n_origins) as f64;
    let share = n_own / (n_own + POOL_ORIGINS);
    let mut tenths = pool.tenths;
    for (day, (low, high)) in tenths.iter_mut().enumerate() {
        let mut off = test.off[day].clone();
        if let Some(own) = quantile(&mut off, 0.1).zip(quantile(&mut off, 0.9)) {
            *low += (own.0 - *low) * share;
            *high += (own.1 - *high) * share;
        }
    }
    let ceiling = ceiling.filter(|ceiling| ceiling.is_finite()).unwrap_or(f64::MAX).max(0.0);
    let kept = |value: f64| (value * series.unit).clamp(0.0, ceiling);
    let hour = |(ahead, mid): (usize, f64)| {
        let (low, high) = tenths[ahead / DAY_H];
        let low = (mid + low * scale).min(mid);
        let high = (mid + high * scale).max(mid);
        Expected { low, mid, high }.map(kept)
    };
    let hours = mid.into_iter().enumerate().map(hour).collect();
    Week { hours, method: test.method, errors: test.errors, slope_per_day: slope(series) }
}

/// Theil-Sen slope of the days' medians, in the unit of the series.
fn slope(series: &Series) -> f64 {
    let mut days: Vec<Option<f64>> = Vec::new();
    for day in series.values.rchunks(DAY_H) {
        days.push(super::series::median(&mut day.iter().flatten().copied().collect::<Vec<f64>>()));
    }
    days.reverse();
    super::full::theil_sen(&days).unwrap_or_default() * series.unit
}
