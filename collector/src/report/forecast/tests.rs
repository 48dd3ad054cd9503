//! Tests of what comes, on series whose future is known, and on any numbers.

use proptest::prelude::*;

use super::*;

const WEEKS: usize = 8;

/// A rhythm of the day with less on weekends, moved by `noise` of the hour.
fn rhythm(n: usize, noise: impl Fn(usize) -> f64) -> Vec<Option<f64>> {
    let at = |hour: usize| {
        let of_day = (hour % DAY_H) as f64;
        let weekend = if hour / DAY_H % 7 >= 5 { 0.15 } else { 0.0 };
        0.4 - weekend + 0.1 * (of_day / 24.0 * std::f64::consts::TAU).sin() + noise(hour)
    };
    (0..n).map(|hour| Some(at(hour))).collect()
}

/// Some number within -1..=1 that looks like chance.
fn some(ix: usize) -> f64 {
    let mixed = (ix as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Mean absolute difference of a forecast and what came.
fn off(told: &Week, came: &[Option<f64>]) -> f64 {
    let off =
        told.hours.iter().zip(came).map(|(hour, came)| (hour.mid - came.expect("known")).abs());
    off.sum::<f64>() / WEEK_H as f64
}

#[test]
fn a_rhythm_that_repeats_is_foretold() {
    let all = rhythm((WEEKS + 1) * WEEK_H, |hour| 0.02 * some(hour));
    let (past, came) = all.split_at(WEEKS * WEEK_H);
    let told = week(past, Some(1.0), &Pool::default()).expect("eight weeks");
    assert!(off(&told, came) < 0.02, "{}", off(&told, came));
    let errors = told.errors.expect("eight weeks are enough to try");
    assert!(errors.used < errors.five && errors.used < errors.naive, "{errors:?}");
    assert!(errors.mstl.is_some() && errors.n_origins == 3, "{errors:?}");
    let inside = told.hours.iter().zip(came);
    let inside =
        inside.filter(|(hour, came)| (hour.low..=hour.high).contains(&came.expect("known")));
    assert!((100..=WEEK_H).contains(&inside.count()));
}

#[test]
fn gaps_change_a_forecast_little() {
    let mut all = rhythm((WEEKS + 1) * WEEK_H, |hour| 0.02 * some(hour));
    let came = all.split_off(WEEKS * WEEK_H);
    for hour in (0..WEEKS * WEEK_H).filter(|hour| hour % 7 == 3 || (400..560).contains(hour)) {
        all[hour] = None;
    }
    let told = week(&all, Some(1.0), &Pool::default()).expect("most hours are there");
    assert!(off(&told, &came) < 0.03, "{}", off(&told, &came));
}

#[test]
fn a_level_that_rose_a_week_ago_is_where_the_forecast_starts() {
    let past = rhythm(WEEKS * WEEK_H, |hour| if hour >= 7 * WEEK_H { 0.3 } else { 0.0 });
    let told = week(&past, Some(1.0), &Pool::default()).expect("eight weeks");
    let mean = told.hours.iter().map(|hour| hour.mid).sum::<f64>() / WEEK_H as f64;
    // 0.657 if the level stays, 0.357 if it were forgotten.
    assert!(mean > 0.55, "{mean}");
}

#[test]
fn a_series_that_never_changes_is_foretold_as_it_is() {
    for value in [0.0, 0.25, 1.0] {
        let told =
            week(&[Some(value); 4 * WEEK_H], Some(1.0), &Pool::default()).expect("four weeks");
        assert!(told.errors.is_none(), "{:?}", told.errors);
        assert!(
            told.hours.iter().all(|hour| *hour == Expected { low: value, mid: value, high: value })
        );
        assert_eq!(told.slope_per_day, 0.0);
    }
}

#[test]
fn what_cannot_be_foretold_is_refused_with_the_reason() {
    let known = |n: usize| rhythm(n, |_| 0.0);
    let every = |n: usize, step: usize| {
        let known = known(n).into_iter().enumerate();
        known.map(|(hour, value)| value.filter(|_| hour % step == 0)).collect::<Vec<_>>()
    };
    let old = [known(4 * WEEK_H), vec![None; 3 * DAY_H]].concat();
    for (hours, want) in [
        (Vec::new(), Refusal::Nothing),
        (vec![None; 2000], Refusal::Nothing),
        (vec![Some(f64::NAN); 2000], Refusal::Nothing),
        (vec![Some(0.5)], Refusal::TooShort),
        (known(WEEK_H - 1), Refusal::TooShort),
        ([vec![None; 3 * WEEK_H], known(5 * DAY_H)].concat(), Refusal::TooShort),
        (every(4 * WEEK_H, 3), Refusal::TooManyGaps),
        (old, Refusal::TooOld),
    ] {
        let told = week(&hours, None, &Pool::default());
        assert_eq!(told.expect_err("not enough"), want, "{} hours", hours.len());
    }
}

#[test]
fn a_week_of_past_gets_a_forecast_without_a_backtest() {
    let told = week(&rhythm(WEEK_H, |_| 0.0), Some(1.0), &Pool::default()).expect("a week");
    assert_eq!((told.method, told.errors), (Method::Five, None));
    assert!(told.hours.iter().any(|hour| hour.low < hour.high), "not sure without a past");
}

#[test]
fn a_fleet_is_answered_in_its_order_and_the_same_each_time() {
    let sure = rhythm(WEEKS * WEEK_H, |hour| 0.02 * some(hour));
    let asked = vec![sure.clone(), Vec::new(), sure[7 * WEEK_H..].to_vec(), vec![Some(0.5)]];
    let told = fleet(&asked, Some(1.0));
    let kinds: Vec<Option<Refusal>> =
        told.iter().map(|told| told.as_ref().err().copied()).collect();
    assert_eq!(kinds, [None, Some(Refusal::Nothing), None, Some(Refusal::TooShort)]);
    assert_eq!(told, fleet(&asked, Some(1.0)));
}

/// Days that rise by `slope` from `first`, with some noise.
fn rising(n: usize, first: f64, slope: f64) -> Vec<Option<f64>> {
    (0..n).map(|day| Some(first + slope * day as f64 + 0.001 * some(day))).collect()
}

#[test]
fn a_disk_that_fills_evenly_is_full_when_it_is() {
    let usual = Ratios::default();
    for (first, slope, want) in
        [(0.3, 0.005, Some(66.0)), (0.3, 0.001, None), (0.3, 0.0, None), (0.9, -0.005, None)]
    {
        let filling = days_to_full(&rising(56, first, slope), 0.95, &usual).expect("eight weeks");
        assert!((filling.slope_per_day - slope).abs() < 1e-4, "{filling:?}");
        match (filling.days, want) {
            (Some(days), Some(want)) => {
                assert!((days.mid - want * 1.15).abs() < want * 0.2, "{days:?} {want}");
                assert!(days.low < days.mid && days.mid < days.high, "{days:?}");
            }
            (found, want) => assert_eq!(found.map(|days| days.mid), want, "{first} {slope}"),
        }
    }
    let full = days_to_full(&rising(56, 0.96, 0.0), 0.95, &usual).expect("eight weeks");
    assert_eq!(full.days, Some(Expected::default()));
}

#[test]
fn after_a_step_the_trend_begins_anew() {
    let mut days = rising(40, 0.2, 0.002);
    days.extend(rising(16, 0.6, 0.002));
    let filling = days_to_full(&days, 0.95, &Ratios::default()).expect("eight weeks");
    assert_eq!(filling.n_days, 16);
    assert!((filling.slope_per_day - 0.002).abs() < 3e-4, "{filling:?}");
}

#[test]
fn days_to_full_are_refused_without_two_weeks_of_days() {
    let usual = Ratios::default();
    let mut gaps = rising(30, 0.2, 0.002);
    for day in (1..29).filter(|day| day % 3 != 0) {
        gaps[day] = None;
    }
    let old = [rising(30, 0.2, 0.002), vec![None; 4]].concat();
    for (days, want) in [
        (Vec::new(), Refusal::Nothing),
        (rising(13, 0.2, 0.01), Refusal::TooShort),
        (gaps, Refusal::TooManyGaps),
        (old, Refusal::TooOld),
    ] {
        assert_eq!(days_to_full(&days, 0.95, &usual).expect_err("not enough"), want);
    }
}

#[test]
fn a_fleet_teaches_how_late_its_disks_fill() {
    assert_eq!(Ratios::of(&[]), Ratios::default());
    // They fill half as fast from the middle of their time on.
    let slower = |no: usize| {
        let mut days = rising(45, 0.2, 0.004 + no as f64 * 1e-5);
        days.extend(rising(45, 0.38, 0.002));
        days
    };
    let ratios = Ratios::of(&(0..40).map(slower).collect::<Vec<_>>());
    assert!(ratios.n > 100, "{ratios:?}");
    assert!(ratios.high > Ratios::default().high, "{ratios:?}");
    assert!(ratios.low > Ratios::default().low, "{ratios:?}");
}

/// Days whose minutes lie evenly between two values.
fn even(n: usize, low: f64, high: f64) -> Vec<Option<Day>> {
    vec![Some(Day::new(1440, |q| Some(low + (high - low) * q))); n]
}

#[test]
fn next_weeks_p95_is_that_of_the_days_before() {
    let days = even(28, 0.0, 1.0);
    let next = next_p95(&days, Some(1.0), &Rises::default()).expect("four weeks");
    assert!((next.p95.mid - 0.95).abs() < 0.01, "{next:?}");
    assert!(next.p95.low <= next.p95.mid && next.p95.mid <= next.enough, "{next:?}");
    assert!(next.enough <= 1.0 && next.p95.high <= 1.0, "{next:?}");
    // Newer days weigh more.
    let rose: Vec<Option<Day>> = [even(28, 0.0, 0.2), even(7, 0.5, 0.7)].concat();
    let next = next_p95(&rose, Some(1.0), &Rises::default()).expect("five weeks");
    assert!((0.65..0.7).contains(&next.p95.mid), "{next:?}");
    for (days, want) in [
        (Vec::new(), Refusal::Nothing),
        (vec![None; 60], Refusal::Nothing),
        (even(4, 0.0, 1.0), Refusal::TooShort),
        ([even(9, 0.0, 1.0), vec![None; 3]].concat(), Refusal::TooOld),
    ] {
        assert_eq!(next_p95(&days, None, &Rises::default()).expect_err("not enough"), want);
    }
}

/// Any number at all, and none.
fn any_value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        4 => Just(None),
        8 => (0.0..1.0_f64).prop_map(Some),
        1 => any::<f64>().prop_map(Some),
        1 => prop_oneof![
            Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(f64::MAX), Just(f64::MIN),
            Just(f64::MIN_POSITIVE), Just(5e-324), Just(-0.0), Just(1e300), Just(-1e-300),
        ].prop_map(Some),
    ]
}

fn is_in_order(told: Expected) -> bool {
    [told.low, told.mid, told.high].iter().all(|value| value.is_finite())
        && told.low <= told.mid
        && told.mid <= told.high
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_numbers_panic_or_lead_to_an_endless_week(
        values in prop::collection::vec(any_value(), 1..300), times in 1..8_usize,
        ceiling in prop::option::of(any::<f64>()),
    ) {
        let hours = values.repeat(times);
        for told in fleet(&[hours.clone(), values], ceiling).into_iter().flatten() {
            prop_assert_eq!(told.hours.len(), WEEK_H);
            prop_assert!(told.hours.iter().all(|hour| is_in_order(*hour) && hour.low >= 0.0));
            prop_assert!(told.slope_per_day.is_finite());
            let errors = told.errors.map(|errors| [errors.used, errors.five, errors.naive]);
            prop_assert!(errors.iter().flatten().all(|error| error.is_finite()), "{errors:?}");
        }
    }

    #[test]
    fn no_numbers_panic_or_lead_to_endless_days(
        days in prop::collection::vec(any_value(), 0..120), limit in any::<f64>(),
    ) {
        let ratios = Ratios::of(&[days.clone(), days.clone()]);
        prop_assert!(ratios.low <= 1.0 && ratios.high >= 1.0 && ratios.high.is_finite());
        if let Ok(filling) = days_to_full(&days, limit, &ratios) {
            prop_assert!(filling.level.is_finite() && filling.slope_per_day.is_finite());
            prop_assert!(filling.days.is_none_or(|days| is_in_order(days) && days.low >= 0.0));
        }
    }

    #[test]
    fn no_numbers_panic_or_lead_to_an_endless_p95(
        values in prop::collection::vec(any_value(), 0..80), n_minutes in any::<u64>(),
        ceiling in prop::option::of(any::<f64>()),
    ) {
        let day = |value: &Option<f64>| value.map(|value| Day::new(n_minutes, |q| Some(q * value)));
        let days: Vec<Option<Day>> = values.iter().map(day).collect();
        let rises = Rises::of(&[days.clone(), days.clone()]);
        if let Ok(next) = next_p95(&days, ceiling, &rises) {
            prop_assert!(is_in_order(next.p95) && next.enough.is_finite(), "{next:?}");
        }
    }
}
