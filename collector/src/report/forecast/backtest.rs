//! How wrong forecasts of a series were on its own past: rolling origins. Pure.
//!
//! Three forecasters are tried: the median of five, the rhythm of a week, MSTL. Their mix weighs each by
//! the fourth power of the inverse of its errors; how wrong the mix was at an origin is told with the
//! weights of the other origins, so that it gets no credit for what it could not have known.

use super::five::{five, middle};
use super::mstl::mstl;
use super::rhythm::rhythm;
use super::series::{Series, naive_error};
use super::{DAY_H, WEEK_H};

/// At most so many origins are tried, the newest: what a forecast costs grows with them.
const ORIGINS_MAX: usize = 3;
/// Hours from one origin to the next. No whole weeks, so that each hour of the week is met at several
/// distances.
const ORIGIN_STEP_H: usize = 5 * DAY_H;
/// A forecaster that was wrong half as much counts two to the power of this as much in the mix.
const POWER: i32 = 4;
/// A single forecaster is only preferred to the mix if its errors are less than this share of the mix's:
/// the best of few trials is partly luck.
const BETTER: f64 = 0.95;
/// Below this, relative to the largest value, a series does not change from day to day.
const STILL: f64 = 1e-6;

/// How a week was forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The median of five simple forecasters.
    Five,
    /// The median of each hour of the week, at the level of the last days.
    Rhythm,
    /// Seasons taken apart by MSTL, the rest carried on.
    Mstl,
    /// All three, those that were wrong less weighing more.
    Mix,
}

impl Method {
    /// What a report calls it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Five => "median of five simple forecasts",
            Self::Rhythm => "rhythm of the week at the latest level",
            Self::Mstl => "seasons taken apart (MSTL)",
            Self::Mix => "mix of simple forecasts, weekly rhythm and MSTL",
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
    /// Of MSTL; `None`: the past is too short for it.
    pub mstl: Option<f64>,
    /// Of the last day, repeated.
    pub naive: f64,
}

/// What a backtest found.
#[derive(Clone, Debug)]
pub(super) struct Backtest {
    /// The best.
    pub(super) method: Method,
    /// Of the median of five, the rhythm and MSTL in the mix.
    weights: [f64; 3],
    /// `None`: too short a past, or one that never changes.
    pub(super) errors: Option<Errors>,
    /// Truth less forecast, of the best, scaled, by the days ahead.
    pub(super) off: [Vec<f64>; 7],
}

/// What was foretold from one origin.
struct Trial<'a> {
    truth: &'a [Option<f64>],
    scale: f64,
    told: [Option<Vec<f64>>; 3],
    naive: Vec<f64>,
}

/// What each forecaster says about the `n` hours after `past`, and what the last day says.
fn all(past: &[Option<f64>], n: usize) -> ([Option<Vec<f64>>; 3], Vec<f64>) {
    let simple = five(past, n);
    let naive = simple.iter().map(|told| told[0]).collect();
    let five: Vec<f64> = simple.into_iter().map(middle).collect();
    let five = (!five.is_empty()).then_some(five);
    ([five, Some(rhythm(past, n)), mstl(past, n)], naive)
}

impl Trial<'_> {
    /// Mean absolute error of a forecast, scaled.
    fn error(&self, told: &[f64]) -> Option<f64> {
        let off = self.truth.iter().zip(told).filter_map(|(truth, told)| Some((*truth)? - told));
        let (sum, n) = off.fold((0.0, 0_u32), |(sum, n), off| (sum + off.abs(), n + 1));
        (n > 0).then(|| sum / f64::from(n) / self.scale)
    }

    fn errors(&self) -> [Option<f64>; 3] {
        [0, 1, 2].map(|ix| self.told[ix].as_ref().and_then(|told| self.error(told)))
    }
}

/// Tries the methods on the past of `series`.
pub(super) fn backtest(series: &Series) -> Backtest {
    let trials = trials(&series.values);
    let errors: Vec<[Option<f64>; 3]> = trials.iter().map(Trial::errors).collect();
    let mixed = |left_out: usize| {
        let others =
            errors.iter().enumerate().filter(|(ix, _)| *ix != left_out || errors.len() == 1);
        let weights = weights(&others.map(|(_, errors)| *errors).collect::<Vec<_>>());
        mix(&trials[left_out].told, weights)
    };
    let mixes: Vec<Vec<f64>> = (0..trials.len()).map(mixed).collect();
    let of = |ix: usize| mean(errors.iter().map(|errors| errors[ix]));
    let mix_error = mean(trials.iter().zip(&mixes).map(|(trial, told)| trial.error(told)));
    let (Some(five), Some(mix_error)) = (of(0), mix_error) else {
        return Backtest::untried();
    };
    let single = [(of(0), Method::Five), (of(1), Method::Rhythm), (of(2), Method::Mstl)];
    let single = single.into_iter().filter_map(|(error, method)| Some((error?, method)));
    let best = single.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|best| best.0 < BETTER * mix_error);
    let (used, method) = best.unwrap_or((mix_error, Method::Mix));
    let mut off: [Vec<f64>; 7] = Default::default();
    for (trial, mix) in trials.iter().zip(&mixes) {
        let Some(told) = method.pick(&trial.told).or(Some(mix)) else { continue };
        for (ahead, (truth, told)) in trial.truth.iter().zip(told).enumerate() {
            off[ahead / DAY_H].extend(truth.map(|truth| (truth - told) / trial.scale));
        }
    }
    let naive = mean(trials.iter().map(|trial| trial.error(&trial.naive))).unwrap_or_default();
    let errors_told = Errors { n_origins: trials.len(), used, five, mstl: of(2), naive };
    Backtest { method, weights: weights(&errors), errors: Some(errors_told), off }
}

impl Method {
    /// What this forecaster said; `None` of a mix.
    fn pick(self, told: &[Option<Vec<f64>>; 3]) -> Option<&Vec<f64>> {
        match self {
            Self::Five => told[0].as_ref(),
            Self::Rhythm => told[1].as_ref(),
            Self::Mstl => told[2].as_ref(),
            Self::Mix => None,
        }
    }
}

impl Backtest {
    /// Of a past that is too short, or that never changes.
    fn untried() -> Self {
        Self {
            method: Method::Five,
            weights: [1.0, 0.0, 0.0],
            errors: None,
            off: Default::default(),
        }
    }

    /// What the best says about the `n` hours after `past`; empty of a past without values.
    pub(super) fn tell(&self, past: &[Option<f64>], n: usize) -> Vec<f64> {
        let (told, _) = all(past, n);
        match self.method.pick(&told) {
            Some(picked) => picked.clone(),
            None => mix(&told, self.weights),
        }
    }
}

fn trials(values: &[Option<f64>]) -> Vec<Trial<'_>> {
    let origin = |back: usize| values.len().checked_sub(back).filter(|at| *at >= WEEK_H);
    let backs = (0..ORIGINS_MAX).map(|k| WEEK_H + k * ORIGIN_STEP_H);
    let mut trials = Vec::new();
    for at in backs.map_while(origin) {
        let (past, truth) = values.split_at(at);
        let truth = &truth[..WEEK_H];
        let n_known = truth.iter().flatten().count();
        let scale = naive_error(past, DAY_H).filter(|scale| *scale > STILL);
        let Some(scale) = scale.filter(|_| n_known >= DAY_H) else { continue };
        let (told, naive) = all(past, WEEK_H);
        if told[0].is_some() {
            trials.push(Trial { truth, scale, told, naive });
        }
    }
    trials
}

/// By their mean errors; what was never tried weighs nothing.
fn weights(errors: &[[Option<f64>; 3]]) -> [f64; 3] {
    let means = [0, 1, 2].map(|ix| mean(errors.iter().map(|errors| errors[ix])));
    let least = means.iter().flatten().fold(f64::MAX, |least, error| least.min(*error));
    // Relative to the least, so that no power leaves the range of numbers.
    let weigh = |error: f64| ((least + STILL) / (error + STILL)).powi(POWER);
    means.map(|error| error.map_or(0.0, weigh))
}

/// The mean of what the forecasters said, weighed.
fn mix(told: &[Option<Vec<f64>>; 3], weights: [f64; 3]) -> Vec<f64> {
    let told = told.iter().zip(weights).filter_map(|(told, weight)| Some((told.as_ref()?, weight)));
    let told: Vec<(&Vec<f64>, f64)> = told.collect();
    let whole: f64 = told.iter().map(|(_, weight)| weight).sum();
    let n = told.iter().map(|(told, _)| told.len()).min().unwrap_or_default();
    let at = |ahead: usize| told.iter().map(|(told, weight)| told[ahead] * weight).sum::<f64>();
    if whole > 0.0 { (0..n).map(|ahead| at(ahead) / whole).collect() } else { Vec::new() }
}

/// The mean of those that are there.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, n) = values.flatten().fold((0.0, 0_u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}
