//! Row R3: days until disks are full, after ninety days, against the day on which they were.

use gatewatch_collector::report::forecast::{FULL_DAYS_MAX, Ratios, days_to_full};
use serde_json::{Value, json};

use crate::{Half, Line, generate, told};

const PAST_DAYS: usize = 90;
const LIMIT: f64 = 0.95;
/// Disks of a fleet, and fleets.
const N: u64 = 500;
const FLEETS: u64 = 6;

/// How often the interval held the truth.
pub(crate) fn sets(half: Half) -> Vec<Value> {
    let n_days = PAST_DAYS + FULL_DAYS_MAX as usize + 1;
    let (mut n, mut n_inside, mut n_below, mut n_above, mut n_unwarned) =
        (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
    let (mut width, mut learned) = (0.0, Vec::new());
    for fleet in 0..FLEETS {
        let first = half.seed() + fleet * N;
        let disks: Vec<Line> =
            (first..first + N).map(|seed| generate::disk(seed, n_days)).collect();
        let pasts: Vec<Line> = disks.iter().map(|disk| disk[..PAST_DAYS].to_vec()).collect();
        let ratios = Ratios::of(&pasts);
        learned.push(json!([told(ratios.low), told(ratios.high), ratios.n]));
        for (disk, past) in disks.iter().zip(&pasts) {
            let Ok(filling) = days_to_full(past, LIMIT, &ratios) else { continue };
            if filling.level >= LIMIT {
                continue;
            }
            let came = disk[PAST_DAYS..].iter().position(|day| day.is_some_and(|day| day >= LIMIT));
            // Beyond what is told, all days are alike.
            let came = came.map_or(FULL_DAYS_MAX, |at| at as f64 + 1.0).min(FULL_DAYS_MAX);
            let Some(days) = filling.days else {
                n_unwarned += u32::from(came < 30.0);
                continue;
            };
            let days = days.map(|days| days.min(FULL_DAYS_MAX));
            n += 1;
            n_below += u32::from(came < days.low);
            n_above += u32::from(came > days.high);
            n_inside += u32::from((days.low..=days.high).contains(&came));
            width += days.high - days.low;
        }
    }
    let share = |part: u32| told(f64::from(part) / f64::from(n.max(1)));
    vec![json!({
        "set": "disks", "n": n, "covered": share(n_inside), "sooner": share(n_below),
        "later": share(n_above), "days_wide": told(width / f64::from(n.max(1))),
        "n_full_in_30_days_untold": n_unwarned, "ratios": learned,
    })]
}
