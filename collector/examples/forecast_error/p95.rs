//! Row R2: next week's p95 of one-minute means, after eight weeks.

use std::io;

use gatewatch_collector::report::forecast::{Day, Rises, next_p95};
use serde_json::{Value, json};

use crate::{Half, Line, generate, mean, read, told};

const PAST_WEEKS: usize = 8;
const DAY_MIN: usize = 1440;
const WEEK_MIN: usize = 7 * DAY_MIN;
/// Generated servers.
const N: u64 = 200;

/// How often what was foretold to be enough was not, and how much it was too much.
pub(crate) fn sets(half: Half, files: &[String]) -> io::Result<Vec<Value>> {
    let n_hours = (PAST_WEEKS + 1) * 168;
    let seeds = half.seed()..half.seed() + N;
    let of = |seed| generate::minutes(seed, &generate::cpu(seed, n_hours));
    let mut sets = vec![errors("cpu", &seeds.map(of).collect::<Vec<Line>>())];
    for file in files {
        let (name, lines) = read(file)?;
        // One series: its halves in time. Windows overlap in their past, never in their week.
        let all = lines.first().map(Vec::as_slice).unwrap_or_default();
        let largest = all.iter().flatten().fold(0.0_f64, |most, value| most.max(*value));
        let line: Line = all.iter().map(|value| value.map(|value| value / largest)).collect();
        let weeks: Vec<usize> = (0..(line.len() / WEEK_MIN).saturating_sub(PAST_WEEKS)).collect();
        let (first, second) = weeks.split_at(weeks.len() / 2);
        let taken = if half == Half::Tune { first } else { second };
        let window = |week: &usize| line[week * WEEK_MIN..][..(PAST_WEEKS + 1) * WEEK_MIN].to_vec();
        let known = |line: &Line| line.iter().flatten().count() * 10 > line.len() * 9;
        sets.push(errors(&name, &taken.iter().map(window).filter(known).collect::<Vec<Line>>()));
    }
    Ok(sets)
}

/// The value below which a share of the known lies.
fn quantile(minutes: &[Option<f64>], q: f64) -> Option<f64> {
    let mut known: Vec<f64> = minutes.iter().flatten().copied().collect();
    known.sort_unstable_by(f64::total_cmp);
    known.get((q * known.len() as f64) as usize).copied()
}

/// The days of a past.
pub(crate) fn days(minutes: &[Option<f64>]) -> Vec<Option<Day>> {
    let day = |minutes: &[Option<f64>]| {
        let mut known: Vec<f64> = minutes.iter().flatten().copied().collect();
        known.sort_unstable_by(f64::total_cmp);
        let at = |q: f64| known.get((q * known.len() as f64) as usize).copied();
        (!known.is_empty()).then(|| Day::new(known.len() as u64, at))
    };
    minutes.chunks_exact(DAY_MIN).map(day).collect()
}

fn errors(name: &str, windows: &[Line]) -> Value {
    let pasts: Vec<Vec<Option<Day>>> =
        windows.iter().map(|line| days(&line[..PAST_WEEKS * WEEK_MIN])).collect();
    let rises = Rises::of(&pasts);
    let (mut waste, mut plain_waste) = (Vec::new(), Vec::new());
    let (mut n, mut n_under, mut n_inside, mut n_plain_under) = (0_u32, 0_u32, 0_u32, 0_u32);
    for (window, past) in windows.iter().zip(&pasts) {
        let Some(came) = quantile(&window[PAST_WEEKS * WEEK_MIN..], 0.95) else { continue };
        let Ok(next) = next_p95(past, Some(1.0), &rises) else { continue };
        n += 1;
        n_under += u32::from(came > next.enough);
        n_inside += u32::from((next.p95.low..=next.p95.high).contains(&came));
        waste.push((next.enough - came).max(0.0));
        // The week before and a margin of 15 %.
        let before = quantile(&window[(PAST_WEEKS - 1) * WEEK_MIN..PAST_WEEKS * WEEK_MIN], 0.95);
        let plain = (before.unwrap_or_default() * 1.15).min(1.0);
        n_plain_under += u32::from(came > plain);
        plain_waste.push((plain - came).max(0.0));
    }
    let share = |part: u32| told(f64::from(part) / f64::from(n.max(1)));
    json!({
        "set": name, "n": n, "under": share(n_under), "waste_points": told(mean(&waste) * 100.0),
        "covered": share(n_inside), "week_before_under": share(n_plain_under),
        "week_before_waste_points": told(mean(&plain_waste) * 100.0),
    })
}
