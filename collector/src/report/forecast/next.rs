//! What next week's p95 is, by a histogram that forgets. Pure.

use super::series::{median, quantile};
use super::{Expected, Refusal};

/// So many days are looked at.
const PAST_DAYS: usize = 56;
/// So many days must be known.
const KNOWN_DAYS_MIN: usize = 5;
/// Within so many days of the end something must be known.
const FRESH_DAYS: usize = 3;
/// At most so many weeks of the past are foretold, the newest.
const TRIALS_MAX: usize = 6;
const WEEK_DAYS: usize = 7;
/// Only so many of them teach the fleet's errors: older ones had too little past of their own to scale them.
const TAUGHT_MAX: usize = 3;
/// Share of weeks for which [`Next::enough`] is to be enough.
const ENOUGH: f64 = 0.87;
/// As many forecasts the default counts for.
const PRIOR: f64 = 60.0;
/// The usual error of a series without a past, as a share of what is told.
const SHARE: f64 = 0.15;
/// How often the range in which a quantile lies is halved.
const HALVINGS: u32 = 24;
/// After so many days a minute counts half.
const HALF_LIFE_DAYS: f64 = 5.0;
/// Into so many parts of equal weight a day is cut: the last is 1 % of its minutes.
const PARTS: u16 = 100;

/// The minutes of a day, sorted into parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Day {
    parts: Vec<f32>,
    n_minutes: u64,
}

impl Day {
    /// Of `n_minutes` minutes, a share `q` of which lies below `quantile(q)`.
    #[must_use]
    pub fn new(n_minutes: u64, quantile: impl Fn(f64) -> Option<f64>) -> Self {
        let at = |part| quantile((f64::from(part) + 0.5) / f64::from(PARTS));
        let parts = (0..PARTS).filter_map(at).map(|value| value as f32);
        let mut parts: Vec<f32> = parts.filter(|value| value.is_finite()).collect();
        parts.sort_unstable_by(f32::total_cmp);
        Self { parts, n_minutes }
    }
}

/// Next week's p95 of one-minute means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Next {
    /// What it will be.
    pub p95: Expected,
    /// What is to be had so that it is enough in about seven of eight weeks.
    pub enough: f64,
}

/// How next week's p95 of a fleet's series was, by what was foretold: truth less forecast, by the usual
/// error of the series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rises {
    low: f64,
    mid: f64,
    high: f64,
    enough: f64,
    /// Of so many forecasts in the past of the fleet.
    pub n: usize,
}

impl Default for Rises {
    /// What was found on many series; used until the own fleet has a past.
    fn default() -> Self {
        Self { low: -1.3, mid: 0.0, high: 1.5, enough: 1.2, n: 0 }
    }
}

impl Rises {
    /// Learned from the past of a fleet (split conformal): the days of each series, oldest first. The
    /// [`Default`] counts like [`PRIOR`] forecasts of that past.
    #[must_use]
    pub fn of(fleet: &[Vec<Option<Day>>]) -> Self {
        let mut found = Vec::new();
        for days in fleet {
            let trials = trials(days);
            for (ix, (told, came)) in trials.iter().enumerate().take(TAUGHT_MAX) {
                // The usual error of what was known then; trials go back in time.
                let scale = scale(*told, &trials[ix + 1..]);
                if scale > 0.0 {
                    found.push((came - told) / scale);
                }
            }
        }
        let usual = Self::default();
        let n = found.len();
        let share = n as f64 / (n as f64 + PRIOR);
        let mut learned = |q: f64, usual: f64| {
            let own = quantile(&mut found, q).unwrap_or(usual);
            usual + (own - usual) * share
        };
        let (low, mid, high) =
            (learned(0.1, usual.low), learned(0.5, usual.mid), learned(0.9, usual.high));
        Self { low, mid, high, enough: learned(ENOUGH, usual.enough), n }
    }
}

/// The p95 of the week after `days`, oldest first; between 0 and the `ceiling`.
pub fn next_p95(
    days: &[Option<Day>],
    ceiling: Option<f64>,
    rises: &Rises,
) -> Result<Next, Refusal> {
    let days = &days[days.len().saturating_sub(PAST_DAYS)..];
    let n_known = days.iter().flatten().count();
    if n_known == 0 {
        return Err(Refusal::Nothing);
    }
    if days[days.len().saturating_sub(FRESH_DAYS)..].iter().flatten().next().is_none() {
        return Err(Refusal::TooOld);
    }
    if n_known < KNOWN_DAYS_MIN {
        return Err(Refusal::TooShort);
    }
    let p95 = foretold(days).ok_or(Refusal::Nothing)?;
    let scale = scale(p95, &trials(days));
    let ceiling = ceiling.filter(|ceiling| ceiling.is_finite()).unwrap_or(f64::MAX).max(0.0);
    let kept = |rise: f64| (p95 + rise * scale).clamp(0.0, ceiling);
    let mid = kept(rises.mid);
    let told = Expected { low: kept(rises.low).min(mid), mid, high: kept(rises.high).max(mid) };
    Ok(Next { p95: told, enough: kept(rises.enough) })
}

/// What is foretold, before it is corrected by what such forecasts missed.
fn foretold(days: &[Option<Day>]) -> Option<f64> {
    forgetful(days, 0.95, HALF_LIFE_DAYS)
}

/// The usual error of forecasts of a series: half a share of what is told, half the median of those it had.
fn scale(told: f64, trials: &[(f64, f64)]) -> f64 {
    let mut off: Vec<f64> = trials.iter().map(|(told, came)| (came - told).abs()).collect();
    let usual = SHARE * told;
    f64::midpoint(usual, median(&mut off).unwrap_or(usual))
}

/// What was foretold for weeks of the past, and what came; newest first.
fn trials(days: &[Option<Day>]) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    for back in (1..=TRIALS_MAX).map(|weeks| weeks * WEEK_DAYS) {
        let Some(origin) = days.len().checked_sub(back).filter(|at| *at >= WEEK_DAYS) else {
            break;
        };
        let week = &days[origin..origin + WEEK_DAYS];
        let past = &days[origin.saturating_sub(PAST_DAYS)..origin];
        let known = |days: &[Option<Day>]| days.iter().flatten().count() >= KNOWN_DAYS_MIN;
        if known(week) && known(past) {
            found.extend(foretold(past).zip(forgetful(week, 0.95, f64::INFINITY)));
        }
    }
    found
}

/// The value below which a share `q` of the minutes lies, each minute weighing half after `half_life` days.
fn forgetful(days: &[Option<Day>], q: f64, half_life: f64) -> Option<f64> {
    let mut weighed: Vec<(&[f32], f64)> = Vec::with_capacity(days.len());
    for (age, day) in days.iter().rev().enumerate() {
        if let Some(day) = day.as_ref().filter(|day| !day.parts.is_empty()) {
            let weight = (-(age as f64) / half_life).exp2() * day.n_minutes.max(1) as f64;
            weighed.push((&day.parts, weight / day.parts.len() as f64));
        }
    }
    let days = weighed;
    let mut low = days.iter().filter_map(|(parts, _)| parts.first()).copied().reduce(f32::min)?;
    let mut high = days.iter().filter_map(|(parts, _)| parts.last()).copied().reduce(f32::max)?;
    let whole: f64 = days.iter().map(|(parts, weight)| weight * parts.len() as f64).sum();
    let below = |value: f32| -> f64 {
        days.iter().map(|(p, weight)| weight * p.partition_point(|v| *v <= value) as f64).sum()
    };
    // Halving finds it to the last digit that matters.
    for _ in 0..HALVINGS {
        let middle = f32::midpoint(low, high);
        if below(middle) >= q * whole { high = middle } else { low = middle }
    }
    Some(f64::from(high))
}
