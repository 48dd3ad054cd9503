//! How wrong forecasts of a series were on its own past: rolling origins. Pure.

use super::series::{Series, naive_error};
use super::{DAY_H, WEEK_H};

/// At most so many origins are tried, the newest: what a forecast costs grows with them.
const ORIGINS_MAX: usize = 6;
/// Hours from one origin to the next. Not a multiple of a week, so that each hour of the week is met at
/// several distances.
const ORIGIN_STEP_H: usize = 5 * DAY_H;

/// How a week was forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The median of five simple forecasters.
    Five,
}

impl Method {
    /// What a report calls it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Five => "median of five simple forecasts",
        }
    }
}

/// Mean absolute scaled errors: absolute errors of the forecasts of a week, hour by hour, from several
/// origins in the series' own past, by the mean absolute difference of values one day apart before the
/// origin. 1: as wrong as to say, an hour at a time, what was a day before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// From so many origins.
    pub n_origins: usize,
    /// Of the method that is used.
    pub used: f64,
    /// Of the median of five simple forecasters.
    pub five: f64,
    /// Of the last day, repeated.
    pub naive: f64,
}

/// What a backtest found.
#[derive(Clone, Debug)]
pub(super) struct Backtest {
    /// The best.
    pub(super) method: Method,
    /// `None`: too short a past, or one that never changes.
    pub(super) errors: Option<Errors>,
    /// Truth less forecast, of the best, scaled, by the days ahead.
    pub(super) off: [Vec<f64>; 7],
}

/// Tries the methods on the past of `series`.
pub(super) fn backtest(series: &Series) -> Backtest {
    let values = &series.values;
    let mut off: [Vec<f64>; 7] = Default::default();
    let (mut sums, mut n, mut n_origins) = ([0.0; 2], 0_u32, 0);
    for back in (0..ORIGINS_MAX).map(|k| WEEK_H + k * ORIGIN_STEP_H) {
        let Some(origin) = values.len().checked_sub(back).filter(|at| *at >= WEEK_H) else { break };
        let (past, truth) = values.split_at(origin);
        let truth = &truth[..WEEK_H];
        let Some(scale) = naive_error(past, DAY_H).filter(|scale| *scale > 1e-6) else { continue };
        let told = super::five::five(past, WEEK_H);
        let five = super::five::median_of_five(past, WEEK_H);
        if told.is_empty() {
            continue;
        }
        n_origins += 1;
        for (ahead, value) in truth.iter().enumerate() {
            if let Some(value) = value {
                let error = (value - five[ahead]) / scale;
                off[ahead / DAY_H].push(error);
                sums[0] += error.abs();
                sums[1] += ((value - told[ahead][0]) / scale).abs();
                n += 1;
            }
        }
    }
    let [five, naive] = sums.map(|sum| sum / f64::from(n.max(1)));
    let errors = (n > 0).then_some(Errors { n_origins, used: five, five, naive });
    Backtest { method: Method::Five, errors, off }
}
