//! Tests of what comes, on series whose future is known.

use super::*;

/// A day that repeats, with more on weekends.
fn rhythm(n: usize) -> Vec<Option<f64>> {
    let at = |hour: usize| {
        let of_day = (hour % DAY_H) as f64;
        let weekend = if hour / DAY_H % 7 >= 5 { 0.1 } else { 0.0 };
        0.3 + weekend + 0.1 * (of_day / 24.0 * std::f64::consts::TAU).sin()
    };
    (0..n).map(|hour| Some(at(hour))).collect()
}

#[test]
fn a_rhythm_that_repeats_is_foretold() {
    let all = rhythm(9 * WEEK_H);
    let told = week(&all[..8 * WEEK_H], Some(1.0), &Pool::default()).expect("eight weeks");
    for (hour, truth) in told.hours.iter().zip(&all[8 * WEEK_H..]) {
        let truth = truth.expect("no gaps");
        assert!((hour.mid - truth).abs() < 0.11, "{hour:?} {truth}");
    }
}
