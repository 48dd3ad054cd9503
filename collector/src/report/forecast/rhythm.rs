//! The rhythm of a week at the level of the last days: one of the forecasters. Pure.

use super::five::profile;
use super::series::median;
use super::{DAY_H, WEEK_H};

/// Of how many weeks the rhythm is made.
const WEEKS: usize = 6;
/// Of how many days it falls back to where an hour of the week was never seen.
const DAYS: usize = 28;
/// Of how many hours the level is made.
const LEVEL_H: usize = 72;

/// The median of each hour of the week, moved by what the last three days were off it.
pub(super) fn rhythm(past: &[Option<f64>], n: usize) -> Vec<f64> {
    let recent = newest(past, DAYS * DAY_H);
    let level = median(&mut recent.iter().flatten().copied().collect::<Vec<f64>>());
    let day = profile(recent, DAY_H, |_| level.unwrap_or_default());
    let week = profile(newest(past, WEEKS * WEEK_H), WEEK_H, |hour| day[hour % DAY_H]);
    let last = newest(past, LEVEL_H);
    let first = WEEK_H - last.len();
    let off = last.iter().enumerate().filter_map(|(ix, value)| Some((*value)? - week[first + ix]));
    let off = median(&mut off.collect::<Vec<f64>>()).unwrap_or_default();
    (0..n).map(|ahead| week[ahead % WEEK_H] + off).collect()
}

/// The newest `n` of `past`, or all.
pub(super) fn newest(past: &[Option<f64>], n: usize) -> &[Option<f64>] {
    &past[past.len().saturating_sub(n)..]
}
