//! What next week's p95 is, by a histogram that forgets. Pure.

use super::series::quantile;
use super::{Expected, Refusal};

/// So many days are looked at.
const PAST_DAYS: usize = 56;
/// So many days must be known.
const KNOWN_DAYS_MIN: usize = 5;
/// Within so many days of the end something must be known.
const FRESH_DAYS: usize = 3;
/// After so many days a minute counts half.
const HALF_LIFE_DAYS: f64 = 7.0;
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
        let parts = (0..PARTS).filter_map(at).filter(|value| value.is_finite());
        Self { parts: parts.map(|value| value as f32).collect(), n_minutes }
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

/// How next week's p95 of a fleet's series was, by what the histogram said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rises {
    low: f64,
    mid: f64,
    high: f64,
    enough: f64,
}

impl Default for Rises {
    /// What was found on many series; used until the fleet has a past of its own.
    fn default() -> Self {
        Self { low: 0.8, mid: 1.0, high: 1.25, enough: 1.15 }
    }
}

impl Rises {
    /// Learned from the past of a fleet: the days of each series.
    #[must_use]
    pub fn of(_fleet: &[Vec<Option<Day>>]) -> Self {
        Self::default()
    }
}

/// The p95 of the week after `days`, oldest first.
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
    let p95 = forgetful(days, 0.95).ok_or(Refusal::Nothing)?;
    let ceiling = ceiling.filter(|ceiling| ceiling.is_finite()).unwrap_or(f64::MAX).max(0.0);
    let kept = |value: f64| value.clamp(0.0, ceiling);
    let told = Expected { low: p95 * rises.low, mid: p95 * rises.mid, high: p95 * rises.high };
    Ok(Next { p95: told.map(kept), enough: kept(p95 * rises.enough) })
}

/// The value below which a share `q` of the minutes lies, each minute weighing less with its age.
fn forgetful(days: &[Option<Day>], q: f64) -> Option<f64> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (age, day) in days.iter().rev().enumerate() {
        let Some(day) = day else { continue };
        let weight = (-(age as f64) / HALF_LIFE_DAYS).exp2() * day.n_minutes as f64;
        let weight = weight / day.parts.len().max(1) as f64;
        all.extend(day.parts.iter().map(|value| (f64::from(*value), weight)));
    }
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let whole: f64 = all.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    for (value, weight) in &all {
        below += weight;
        if below >= q * whole {
            return Some(*value);
        }
    }
    quantile(&mut all.iter().map(|(value, _)| *value).collect::<Vec<f64>>(), q)
}
