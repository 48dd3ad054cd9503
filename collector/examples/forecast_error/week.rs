//! Row R1: a week foretold after eight weeks, by hours.

use std::io;

use gatewatch_collector::report::forecast::{DAY_H, WEEK_H, fleet, median_of_five};
use serde_json::{Value, json};

use crate::{Half, Line, generate, mean, ran, read, told};

/// Weeks that are known.
const PAST_WEEKS: usize = 8;
/// From one window of a public series to the next: none is foretold twice.
const EVERY_WEEKS: usize = 9;
/// Servers of each generated set.
const N: u64 = 300;

/// Errors on generated processors and memory, and on each file.
pub(crate) fn sets(half: Half, files: &[String]) -> io::Result<Vec<Value>> {
    let n_hours = (PAST_WEEKS + 1) * WEEK_H;
    let seeds = || half.seed()..half.seed() + N;
    let cpu: Vec<Line> = seeds().map(|seed| generate::cpu(seed, n_hours)).collect();
    let memory: Vec<Line> = seeds().map(|seed| generate::memory(seed, n_hours)).collect();
    let mut sets = vec![errors("cpu", &cpu, Some(1.0)), errors("memory", &memory, Some(1.0))];
    for file in files {
        let (name, lines) = read(file)?;
        sets.push(errors(&name, &windows(half, &lines), None));
    }
    Ok(sets)
}

/// Nine weeks each, of the series of this half.
fn windows(half: Half, lines: &[Line]) -> Vec<Line> {
    let mut found = Vec::new();
    for (_, line) in lines.iter().enumerate().filter(|(ix, _)| half.takes(*ix)) {
        for window in line.chunks_exact((PAST_WEEKS + 1) * WEEK_H).step_by(EVERY_WEEKS / 9) {
            let (past, truth) = window.split_at(PAST_WEEKS * WEEK_H);
            let known = |hours: &[Option<f64>]| hours.iter().flatten().count() * 2 > hours.len();
            if known(past) && known(truth) {
                found.push(window.to_vec());
            }
        }
    }
    found
}

/// Mean absolute error of a forecast of the last week of `window`, by the mean absolute difference of
/// values a day apart in the weeks before. `None`: these never differ.
fn mase(window: &Line, foretold: &[f64]) -> Option<f64> {
    let (past, truth) = window.split_at(PAST_WEEKS * WEEK_H);
    let off = |pairs: Vec<(f64, f64)>| {
        mean(&pairs.iter().map(|(a, b)| (a - b).abs()).collect::<Vec<_>>())
    };
    let scale = off(past.iter().zip(&past[DAY_H..]).filter_map(|(a, b)| a.zip(*b)).collect());
    let error = off(truth.iter().zip(foretold).filter_map(|(a, b)| Some(((*a)?, *b))).collect());
    (scale > 1e-9).then(|| error / scale)
}

fn errors(name: &str, windows: &[Line], ceiling: Option<f64>) -> Value {
    let pasts: Vec<Line> =
        windows.iter().map(|line| line[..PAST_WEEKS * WEEK_H].to_vec()).collect();
    let began = ran();
    let weeks = fleet(&pasts, ceiling);
    let took = ran().saturating_sub(began);
    let (mut ours, mut five, mut naive) = (Vec::new(), Vec::new(), Vec::new());
    let (mut n_hours, mut n_inside, mut promised) = (0_u32, 0_u32, Vec::new());
    for (window, week) in windows.iter().zip(&weeks) {
        let Ok(week) = week else { continue };
        let past = &window[..PAST_WEEKS * WEEK_H];
        let mid: Vec<f64> = week.hours.iter().map(|hour| hour.mid).collect();
        // The past is whole days.
        let last_day = |ahead: usize| {
            let days = past.rchunks_exact(DAY_H).find_map(|day| day[ahead % DAY_H]);
            days.unwrap_or_default()
        };
        let last_day: Vec<f64> = (0..WEEK_H).map(last_day).collect();
        let Some(error) = mase(window, &mid) else { continue };
        ours.push(error);
        five.extend(mase(window, &median_of_five(past, WEEK_H)));
        naive.extend(mase(window, &last_day));
        promised.extend(week.errors.map(|errors| errors.used));
        for (truth, hour) in window[PAST_WEEKS * WEEK_H..].iter().zip(&week.hours) {
            if let Some(truth) = truth {
                n_hours += 1;
                n_inside += u32::from((hour.low..=hour.high).contains(truth));
            }
        }
    }
    json!({
        "set": name, "n": ours.len(), "n_refused": weeks.iter().filter(|week| week.is_err()).count(),
        "ours": told(mean(&ours)), "five": told(mean(&five)), "naive": told(mean(&naive)),
        "promised": told(mean(&promised)),
        "covered": told(f64::from(n_inside) / f64::from(n_hours.max(1))),
        "ms_each": told(took.as_secs_f64() * 1e3 / windows.len().max(1) as f64),
    })
}
