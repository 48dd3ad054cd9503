//! What comes, worked out anew from single samples: next week's p95, its error on the past, the day a disk is
//! full.

use serde_json::Value;

use super::capacity::Look;
use super::table::Table;
use super::truth::HOUR;

/// After so many days a minute counts half.
const HALF_LIFE: f64 = 5.0;
const DAY_H: usize = 24;
const WEEK_H: usize = 168;
/// What a fleet without a past misses, by the usual error of a series: low, likeliest, high, enough.
const USUAL: [f64; 4] = [-1.3, 0.0, 1.5, 1.2];
const QUANTILES: [f64; 4] = [0.1, 0.5, 0.9, 0.87];
/// Forecasts that those count for.
const PRIOR: f64 = 60.0;
const FULL: f64 = 0.95;
/// Of a fleet without a past: a tenth and a fifth are full sooner, a tenth later than this times foretold.
const SOONER: [f64; 2] = [0.46, 0.65];
const LATER: f64 = 1.5;

/// Minutes of each UTC day, least first; empty where nothing was sampled.
type Days = Vec<Vec<f64>>;

/// Between neighbours by their distance.
fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

fn median(values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| quantile(values, 0.5))
}

/// The p95 of all minutes, where a minute counts half after `half_life` days.
fn p95(days: &[Vec<f64>], half_life: f64) -> Option<f64> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (age, day) in days.iter().rev().enumerate() {
        let weight = (-(age as f64) / half_life).exp2();
        all.extend(day.iter().map(|value| (*value, weight)));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let whole: f64 = all.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    all.iter().find_map(|(value, weight)| {
        sum += weight;
        (sum >= 0.95 * whole).then_some(*value)
    })
}

fn n_known(days: &[Vec<f64>]) -> usize {
    days.iter().filter(|day| !day.is_empty()).count()
}

/// What was foretold for weeks of the past, and came; newest first.
fn trials(days: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let origins = (1..=6).map_while(|week| days.len().checked_sub(week * 7)).filter(|at| *at >= 7);
    let both = origins.filter_map(|at| {
        let (past, week) = (&days[..at], &days[at..at + 7]);
        let is_known = n_known(past) >= 5 && n_known(week) >= 5;
        is_known.then(|| p95(past, HALF_LIFE).zip(p95(week, f64::INFINITY))).flatten()
    });
    both.collect()
}

/// The usual error: half 15 % of what is told, half the median of those there were.
fn scale(told: f64, trials: &[(f64, f64)]) -> f64 {
    let off = trials.iter().map(|(told, came)| (came - told).abs()).collect();
    f64::midpoint(0.15 * told, median(off).unwrap_or(0.15 * told))
}

/// What a fleet missed, as far as it has a past.
fn missed(fleet: &[Days]) -> [f64; 4] {
    let mut found = Vec::new();
    for days in fleet {
        let trials = trials(days);
        for (ix, (told, came)) in trials.iter().enumerate().take(3) {
            found.push((came - told) / scale(*told, &trials[ix + 1..]));
        }
    }
    let share = found.len() as f64 / (found.len() as f64 + PRIOR);
    let learned = |ix: usize| {
        let own = if found.is_empty() { USUAL[ix] } else { quantile(found.clone(), QUANTILES[ix]) };
        USUAL[ix] + (own - USUAL[ix]) * share
    };
    [0, 1, 2, 3].map(learned)
}

/// Low, likeliest, high and enough of next week's p95; `None`: too little is known.
pub(super) fn next_weeks(look: &Look<'_>, metric: &str) -> Vec<(String, Option<[f64; 4]>)> {
    let servers = look.truth.servers();
    let sampled = servers.iter().filter(|of| !look.truth.of(of, metric, &look.hours).is_empty());
    let fleet: Vec<(String, Days)> =
        sampled.map(|of| ((*of).to_owned(), look.days(of, metric, ""))).collect();
    let all: Vec<Days> = fleet.iter().map(|(_, days)| days.clone()).collect();
    let missed = missed(&all);
    let next = |days: &Days| {
        let is_fresh = n_known(&days[days.len().saturating_sub(3)..]) > 0;
        if n_known(days) < 5 || !is_fresh {
            return None;
        }
        let told = p95(days, HALF_LIFE)?;
        let scale = scale(told, &trials(days));
        Some(missed.map(|missed| (told + missed * scale).clamp(0.0, 1.0)))
    };
    fleet.into_iter().map(|(server, days)| (server, next(&days))).collect()
}

/// Hour by hour what the five simple forecasters say, the last day first; and the rhythm of the week.
struct Simple {
    five: Vec<f64>,
    naive: Vec<f64>,
    rhythm: Vec<f64>,
}

/// The medians of the places of a period that begins right after the past.
fn profile(past: &[Option<f64>], period: usize, or: &dyn Fn(usize) -> f64) -> Vec<f64> {
    let at = |place: usize| {
        let first = (past.len() + place) % period;
        let own = past.iter().skip(first).step_by(period).flatten().copied().collect();
        median(own).unwrap_or_else(|| or(place))
    };
    (0..period).map(at).collect()
}

fn newest(past: &[Option<f64>], n: usize) -> &[Option<f64>] {
    &past[past.len().saturating_sub(n)..]
}

fn known(past: &[Option<f64>]) -> Vec<f64> {
    past.iter().flatten().copied().collect()
}

impl Simple {
    fn after(past: &[Option<f64>]) -> Self {
        let recent = newest(past, 28 * DAY_H);
        let typical = median(known(past)).unwrap_or(0.0);
        let day = profile(recent, DAY_H, &|_| typical);
        let week = profile(past, WEEK_H, &|hour| day[hour % DAY_H]);
        let last = *known(past).last().expect("something is known");
        let place = |ix: usize, period: usize| (ix + period - past.len() % period) % period;
        let (mut last_day, mut level) = (day.clone(), None);
        for (ix, value) in past.iter().enumerate().filter_map(|(ix, v)| Some((ix, (*v)?))) {
            let hour = place(ix, DAY_H);
            last_day[hour] = value;
            let off = value - day[hour];
            level = Some(level.map_or(off, |level: f64| level + 0.1 * (off - level)));
        }
        let level = level.unwrap_or(0.0);
        let of_five = |ahead: usize| {
            let hour = ahead % DAY_H;
            let said = [last_day[hour], level + day[hour], day[hour], week[ahead], last];
            quantile(said.to_vec(), 0.5)
        };
        let usual = median(known(recent)).unwrap_or(0.0);
        let usual = profile(recent, DAY_H, &|_| usual);
        let weeks = profile(newest(past, 6 * WEEK_H), WEEK_H, &|hour| usual[hour % DAY_H]);
        let lately = newest(past, 72);
        let off = lately
            .iter()
            .enumerate()
            .filter_map(|(ix, value)| Some((*value)? - weeks[WEEK_H - lately.len() + ix]));
        let off = median(off.collect()).unwrap_or(0.0);
        Self {
            five: (0..WEEK_H).map(of_five).collect(),
            naive: (0..WEEK_H).map(|ahead| last_day[ahead % DAY_H]).collect(),
            rhythm: weeks.iter().map(|value| value + off).collect(),
        }
    }
}

/// Errors on the own past: tries, of the five, of the last day repeated, of the rhythm.
fn tried(hours: &[Option<f64>]) -> (usize, [f64; 3]) {
    let mut found: Vec<[f64; 3]> = Vec::new();
    let largest = known(hours).into_iter().fold(0.0, f64::max);
    for at in (0..3).map_while(|k| hours.len().checked_sub(WEEK_H + k * 120)) {
        if at < WEEK_H {
            break;
        }
        let (past, truth) = (&hours[..at], &hours[at..at + WEEK_H]);
        let pairs =
            past.iter().zip(&past[DAY_H..]).filter_map(|(a, b)| Some(((*b)? - (*a)?).abs()));
        let pairs: Vec<f64> = pairs.collect();
        let scale = pairs.iter().sum::<f64>() / pairs.len().max(1) as f64;
        if known(truth).len() < DAY_H || scale <= 1e-6 * largest {
            continue;
        }
        let simple = Simple::after(past);
        let error = |told: &[f64]| {
            let off =
                truth.iter().zip(told).filter_map(|(came, told)| Some(((*came)? - told).abs()));
            let off: Vec<f64> = off.collect();
            off.iter().sum::<f64>() / off.len() as f64 / scale
        };
        found.push([&simple.five, &simple.naive, &simple.rhythm].map(|told| error(told)));
    }
    let mean = |ix: usize| found.iter().map(|all| all[ix]).sum::<f64>() / found.len() as f64;
    (found.len(), [0, 1, 2].map(mean))
}

/// Numbers of an interval, or nothing.
fn interval(value: &Value) -> Option<[f64; 3]> {
    Some([value["low"].as_f64()?, value["mid"].as_f64()?, value["high"].as_f64()?])
}

fn near(told: f64, want: f64, off: f64, what: &str, row: &Value) {
    assert!((told - want).abs() <= off, "{what} is {told}, not {want} +- {off}: {row}");
}

/// Compares the outlook; returns how many figures were compared.
pub(super) fn outlook(look: &Look<'_>, table: &Table) -> usize {
    let mut n = 0;
    for (name, metric) in
        [("cpu", "system.cpu.utilization"), ("memory", "system.memory.utilization")]
    {
        let rows: Vec<&Value> = table.rows.iter().filter(|row| row["resource"] == name).collect();
        let next = next_weeks(look, metric);
        assert_eq!(rows.len(), next.len(), "rows of {name}");
        for row in rows {
            let server = row["server"].as_str().expect("a name");
            let (_, next) = next.iter().find(|(of, _)| of == server).expect("it was sampled");
            let (told, enough) = (interval(&row["next_p95_share"]), row["enough_share"].as_f64());
            assert_eq!(
                (told.is_some(), enough.is_some()),
                (next.is_some(), next.is_some()),
                "{row}"
            );
            if let (Some([low, mid, high]), Some(enough), Some(next)) = (told, enough, next) {
                // Quantiles are within 1 %, and what was missed is made of differences of them.
                let off = 0.05 * next[1] + 0.002;
                near(low, next[0].min(next[1]), off, "low", row);
                near(mid, next[1], off, "likeliest", row);
                near(high, next[2].max(next[1]), off, "high", row);
                near(enough, next[3], off, "enough", row);
                n += 4;
            }
            n += week(look, (server, metric), row);
        }
    }
    n
}

/// The forecast by the hour.
fn week(look: &Look<'_>, (server, metric): (&str, &str), row: &Value) -> usize {
    let hours = look.hours_of(server, metric);
    let first = hours.iter().position(Option::is_some).unwrap_or(hours.len());
    let hours = &hours[first..];
    let is_told = hours.len() >= WEEK_H
        && !known(newest(hours, 48)).is_empty()
        && known(hours).len() * 2 >= hours.len();
    assert_eq!(row["method"].is_string(), is_told, "{row}");
    if !is_told {
        assert!(row["peak_share"].is_null() && row["mase"].is_null(), "{row}");
        return 3;
    }
    let days = hours.rchunks(DAY_H).rev().map(|day| median(known(day)));
    let days: Vec<(i64, f64)> = (0..).zip(days).filter_map(|(ix, day)| Some((ix, day?))).collect();
    let slope = super::capacity::slope(&days);
    near(row["per_day_share"].as_f64().expect("told"), slope, 1e-4, "a day", row);
    let (n_tries, errors) = tried(hours);
    let told = |key: &str| row[key].as_f64();
    assert_eq!(told("tries").unwrap_or(0.0), n_tries as f64, "{row}");
    let peak = interval(&row["peak_share"]).expect("told");
    assert!(0.0 <= peak[0] && peak[0] <= peak[1] && peak[1] <= peak[2] && peak[2] <= 1.0, "{row}");
    if n_tries == 0 {
        return 4;
    }
    let [five, naive, rhythm] = errors;
    near(told("mase_five").expect("told"), five, 2e-3 * five, "mase_five", row);
    near(told("mase_naive").expect("told"), naive, 2e-3 * naive, "mase_naive", row);
    let used = told("mase").expect("told");
    let simple = Simple::after(hours);
    let said = match row["method"].as_str().expect("words") {
        words if words.starts_with("median of five") => Some((five, simple.five)),
        words if words.starts_with("rhythm") => Some((rhythm, simple.rhythm)),
        _ => None,
    };
    // The best of them, unless the mix is about as good.
    assert!(used <= five.min(rhythm) / 0.95 * 1.002, "{used} is worse than {errors:?}: {row}");
    if let Some((error, said)) = said {
        near(used, error, 2e-3 * error, "mase", row);
        let highest = said.into_iter().fold(f64::MIN, f64::max).clamp(0.0, 1.0);
        near(peak[1], highest, 1e-3, "peak", row);
    }
    let at: jiff::Timestamp = row["peak_at"].as_str().expect("a time").parse().expect("RFC 3339");
    let week = look.hours.end..look.hours.end + WEEK_H as i64 * HOUR;
    assert!(week.contains(&at.as_second()) && at.as_second() % HOUR == 0, "{row}");
    8
}

/// Level and pace anew; all else exactly out of them. Returns how many figures were compared.
pub(super) fn days_to_full(look: &Look<'_>, table: &Table) -> usize {
    let mut n = 0;
    for row in &table.rows {
        let text = |key: &str| row[key].as_str().expect("words");
        let (server, mount) = (text("server"), text("of"));
        let (metric, is_space) = match text("resource") {
            "disk" => ("system.filesystem.utilization", true),
            "inodes" => ("system.filesystem.inodes.utilization", false),
            other => panic!("{other} is no resource that fills"),
        };
        let space = if is_space { look.space(server, mount) } else { None };
        assert!(super::truth::Want::maybe(space).holds(&row["space_bytes"]), "{row}: {space:?}");
        let days = look.days(server, metric, mount);
        let first = days.iter().position(|day| !day.is_empty()).unwrap_or(days.len());
        let p95s: Vec<(i64, f64)> = (0..)
            .zip(&days[first..])
            .filter(|(_, day)| !day.is_empty())
            .map(|(ix, day)| (ix, day[((day.len() - 1) as f64 * 0.95).round() as usize]))
            .collect();
        let span = days.len() - first;
        let is_fresh = n_known(&days[days.len().saturating_sub(3)..]) > 0;
        let is_told = span >= 14 && is_fresh && p95s.len() * 2 >= span;
        let numbers = ["level_share", "per_day_share", "days_used"].map(|key| row[key].as_f64());
        let [Some(level), Some(pace), Some(n_used)] = numbers else {
            assert!(!is_told && row["days_to_full"].is_null(), "{row}");
            n += 4;
            continue;
        };
        assert!(is_told && n_used <= span as f64 && n_used >= 10.0, "{row}: {span} days");
        let used: Vec<(i64, f64)> =
            p95s.iter().filter(|day| day.0 >= span as i64 - n_used as i64).copied().collect();
        let last = used.iter().rev().take(3).map(|(_, p95)| *p95).collect();
        near(level, median(last).expect("known"), 0.04 * level, "level", row);
        let slope = super::capacity::slope(&used);
        near(pace, slope, 0.021 * level * 3.0 / n_used + 0.05 * slope.abs(), "pace", row);
        let mid = if level >= FULL { 0.0 } else { (FULL - level) / pace };
        let is_soon = level >= FULL || pace > 0.0 && mid <= 180.0;
        let told = interval(&row["days_to_full"]);
        assert_eq!(told.is_some(), is_soon, "{row}: in {mid} days");
        let words = match told {
            None => "not in 180 days".to_owned(),
            Some([_, mid, _]) if mid <= 0.0 => "full".to_owned(),
            Some([_, mid, _]) => format!("in about {mid:.0} days"),
        };
        assert_eq!(text("full"), words, "{row}");
        if let Some([low, told, high]) = told {
            near(told, mid, 1e-6 * mid, "days to full", row);
            let is_open = mid * LATER > 180.0;
            near(low, mid * SOONER[usize::from(is_open)], 1e-6 * mid, "low", row);
            near(high, mid * LATER, 1e-6 * mid, "high", row);
            n += 3;
        }
        n += 5;
    }
    n
}
