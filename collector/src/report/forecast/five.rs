//! Five simple forecasters of an hourly series, and their median. Pure; microseconds.
//!
//! The last day repeated, a smoothed level with the profile of a day, the profile of a day, the profile of
//! a week, and the last value. Each is wrong in its own way; the median of what they say at an hour is
//! wrong less than any of them.

use super::series::median;
use super::{DAY_H, WEEK_H};

/// Of how many days the profile of a day is made.
const PROFILE_DAYS: usize = 28;
/// Weight of the newest value in the smoothed level.
const ALPHA: f64 = 0.1;

/// What the five say about the `n` hours after `past`, in this order: last day, smoothed level with
/// profile, profile of a day, profile of a week, last value. Empty of a past without values.
pub(super) fn five(past: &[Option<f64>], n: usize) -> Vec<[f64; 5]> {
    let Some((last, level)) = past.iter().rev().flatten().next().copied().zip(typical(past)) else {
        return Vec::new();
    };
    let recent = &past[past.len().saturating_sub(PROFILE_DAYS * DAY_H)..];
    // Profiles count hours back from the end, so that they need no clock.
    let day = profile(recent, DAY_H, |_| level);
    let week = profile(past, WEEK_H, |hour| day[hour % DAY_H]);
    let last_day = last_of(past, DAY_H, |hour| day[hour]);
    let smooth = smoothed(past, &day);
    let at = |ahead: usize| {
        let (hour, of_week) = (ahead % DAY_H, ahead % WEEK_H);
        [last_day[hour], smooth + day[hour], day[hour], week[of_week], last]
    };
    (0..n).map(at).collect()
}

/// The median of the five, hour by hour.
#[must_use]
pub fn median_of_five(past: &[Option<f64>], n: usize) -> Vec<f64> {
    five(past, n).into_iter().map(middle).collect()
}

/// The median of what the five said of one hour.
pub(super) fn middle(mut said: [f64; 5]) -> f64 {
    median(&mut said).unwrap_or_default()
}

/// The median of all.
fn typical(past: &[Option<f64>]) -> Option<f64> {
    median(&mut past.iter().flatten().copied().collect::<Vec<f64>>())
}

/// The median of the values at each hour of a period that starts right after `past`; where there is none,
/// what `or` says.
pub(super) fn profile(past: &[Option<f64>], period: usize, or: impl Fn(usize) -> f64) -> Vec<f64> {
    let phase = past.len() % period;
    let mut at: Vec<Vec<f64>> = vec![Vec::new(); period];
    for (ix, value) in past.iter().enumerate() {
        if let Some(value) = value {
            at[(ix + period - phase) % period].push(*value);
        }
    }
    let told = at.iter_mut().enumerate();
    told.map(|(hour, values)| median(values).unwrap_or_else(|| or(hour))).collect()
}

/// The newest value at each hour of a period that starts right after `past`.
fn last_of(past: &[Option<f64>], period: usize, or: impl Fn(usize) -> f64) -> Vec<f64> {
    let phase = past.len() % period;
    let mut at = vec![None; period];
    for (ix, value) in past.iter().enumerate() {
        let hour = (ix + period - phase) % period;
        at[hour] = value.or(at[hour]);
    }
    at.into_iter().enumerate().map(|(hour, value)| value.unwrap_or_else(|| or(hour))).collect()
}

/// How far the newest values are from the profile of their hour, smoothed exponentially.
fn smoothed(past: &[Option<f64>], day: &[f64]) -> f64 {
    let phase = past.len() % DAY_H;
    let mut level = None;
    for (ix, value) in past.iter().enumerate() {
        if let Some(value) = value {
            let off = value - day[(ix + DAY_H - phase) % DAY_H];
            level = Some(level.map_or(off, |level: f64| level + ALPHA * (off - level)));
        }
    }
    level.unwrap_or_default()
}
