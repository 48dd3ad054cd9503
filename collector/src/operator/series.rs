//! `series` and `top`: stored history on a page.

use std::time::Duration;

use wire::UnixMillis;

use super::client::{Client, Failure};
use super::render::{table, trimmed};
use super::text::{clean, instant, size, span, time_near};
use super::{Answer, answer, say};
use crate::cli::{SeriesArgs, TopArgs, exit};
use crate::clock;
use crate::store::history::{Notes, Point};
use crate::web::series::{SeriesQuery, SeriesView};
use crate::web::top::{TopQuery, TopView};

/// Steps for people, s, and how many of them fit on a page.
const STEPS_S: [u64; 10] = [10, 30, 60, 300, 900, 3600, 21_600, 86_400, 604_800, 2_592_000];
const LINES: u64 = 60;
/// Time that is told when none is given.
const SPAN: Duration = Duration::from_secs(3600);
/// Source of a ranking that was made of what was measured.
const SAMPLES: &str = "samples";
/// Holes told one by one.
const HOLES_SHOWN: usize = 5;

/// `series`
pub(super) async fn series(args: SeriesArgs, client: &Client) -> Result<Answer, Failure> {
    let now = clock::now();
    let to = args.to.map_or(now, |to| to.at(now));
    let from = args.from.map_or_else(|| to.minus(SPAN), |from| from.at(now));
    let usual = || if args.json { None } else { Some(step_for(to.since(from))) };
    let step_ms = args.step.map(|step| step.0.as_millis()).or_else(usual);
    let query = SeriesQuery {
        server: args.server,
        metric: args.metric,
        attribute: args.attribute,
        from: Some(from.to_rfc3339()),
        to: Some(to.to_rfc3339()),
        step: step_ms.map(|ms| format!("{ms}ms")),
    };
    let view: SeriesView = client.get(&["series"], &query).await?;
    tell_notes(&view.notes);
    let mut told = answer(args.json, &[&view], |_| page(&view));
    if view.points.is_empty() {
        told.talk = format!(
            "nothing is kept of {} of {} from {} to {}",
            clean(&view.metric),
            clean(&view.server),
            instant(view.from),
            instant(view.to)
        );
        told.code = exit::NO;
    }
    Ok(told)
}

/// `top`
pub(super) async fn top(args: TopArgs, client: &Client) -> Result<Answer, Failure> {
    let now = clock::now();
    let labels: Vec<String> = args.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let query = TopQuery {
        metric: args.metric,
        stat: Some(args.by),
        from: args.from.map(|from| from.at(now).to_rfc3339()),
        to: args.to.map(|to| to.at(now).to_rfc3339()),
        k: Some(args.k.into()),
        label: (!labels.is_empty()).then(|| labels.join(",")),
    };
    let view: TopView = client.get(&["top"], &query).await?;
    tell_notes(&view.notes);
    let mut told = answer(args.json, &[&view], |_| ranking(&view));
    if view.ranking.top.is_empty() {
        let (from, to) = (instant(view.ranking.from), instant(view.ranking.to));
        told.talk = format!("nothing is kept of {} from {from} to {to}", clean(&view.metric));
        told.code = exit::NO;
    }
    Ok(told)
}

/// Says on stderr what is missing in an answer.
pub(super) fn tell_notes(notes: &Notes) {
    for line in notes_in_words(notes) {
        say(&line);
    }
}

fn notes_in_words(notes: &Notes) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = &notes.cut {
        lines.push(format!("not all of it: {}; ask for a shorter time", clean(why)));
    }
    for hole in notes.holes.iter().take(HOLES_SHOWN) {
        let of = hole.server.as_deref().map_or(String::new(), |of| format!(" of {}", clean(of)));
        let (from, to) = (instant(hole.from), time_near(hole.to, hole.from));
        lines.push(format!("history{of} from {from} to {to} is {}", clean(&hole.why)));
    }
    if let Some(more @ 1..) = notes.holes.len().checked_sub(HOLES_SHOWN) {
        lines.push(format!("and {more} more such times"));
    }
    if notes.n_batches_unreadable > 0 {
        let n = notes.n_batches_unreadable;
        lines.push(format!("{n} batches cannot be read and are missing here"));
    }
    lines
}

/// Milliseconds of the least step that fits a page.
fn step_for(time: Duration) -> u128 {
    let fits = |step: &&u64| time.as_secs().div_ceil(**step) <= LINES;
    let step = STEPS_S.iter().find(fits).or(STEPS_S.last()).copied().unwrap_or(1);
    u128::from(step) * 1000
}

fn page(view: &SeriesView) -> String {
    if view.points.is_empty() {
        return String::new();
    }
    let attribute = match view.attribute.as_str() {
        "" => String::new(),
        attribute => format!(" {}", clean(attribute)),
    };
    let step = view.step_s.and_then(|step| u64::try_from(step).ok());
    let step = step.map_or(String::new(), |s| format!(", by {}", span(Duration::from_secs(s))));
    let mut out = format!(
        "{} {}{attribute}, {} to {}{step}\n{}\n\n",
        clean(&view.server),
        clean(&view.metric),
        instant(view.from),
        instant(view.to),
        sparkline(view)
    );
    let mut table = table(&["TIME", "MIN", "MEAN", "MAX", "SAMPLES"]);
    let mut near = UnixMillis(i64::MIN);
    for point in &view.points {
        let shown = |value| value_in_words(value, &view.unit);
        table.add_row(vec![
            time_near(point.at, near),
            shown(point.min),
            shown(mean(point)),
            shown(point.max),
            point.n.to_string(),
        ]);
        near = point.at;
    }
    out.push_str(&trimmed(&table));
    out.push('\n');
    out
}

fn mean(point: &Point) -> f64 {
    point.sum / point.n.max(1) as f64
}

/// One character for each step, from the lowest to the highest mean; a dot where nothing was sampled.
fn sparkline(view: &SeriesView) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const CHARS_MAX: usize = 100;
    let means = || view.points.iter().map(mean);
    let (low, high) = (means().fold(f64::MAX, f64::min), means().fold(f64::MIN, f64::max));
    let step_ms = view.step_s.unwrap_or(0).saturating_mul(1000);
    let (mut line, mut n, mut last) = (String::new(), 0, None::<i64>);
    for point in &view.points {
        let gap = last.zip((step_ms > 0).then_some(step_ms));
        let missing = gap.map_or(0, |(last, step)| (point.at.0 - last) / step - 1);
        for _ in 0..missing.clamp(0, CHARS_MAX as i64) {
            line.push('·');
            n += 1;
        }
        let share = if high > low { (mean(point) - low) / (high - low) } else { 0.0 };
        line.push(BARS[((share * 8.0) as usize).min(BARS.len() - 1)]);
        n += 1;
        last = Some(point.at.0);
        if n >= CHARS_MAX {
            line.push('…');
            break;
        }
    }
    line
}

fn ranking(view: &TopView) -> String {
    let ranking = &view.ranking;
    if ranking.top.is_empty() {
        return String::new();
    }
    let source = if ranking.source == SAMPLES { "every sample" } else { "hourly sums" };
    let within = match ranking.error {
        0.0 => String::new(),
        error => format!(", within {:.0} %", error * 100.0),
    };
    let mut out = format!(
        "{} of {}, {} to {}, from {source}{within}\n\n",
        clean(&view.stat),
        clean(&view.metric),
        instant(ranking.from),
        instant(ranking.to)
    );
    let has_attributes = ranking.top.iter().any(|one| !one.attribute.is_empty());
    let stat = view.stat.to_uppercase();
    let mut header = vec!["SERVER", stat.as_str(), "SAMPLES"];
    if has_attributes {
        header.push("ATTRIBUTE");
    }
    let mut table = table(&header);
    for one in &ranking.top {
        let value = value_in_words(one.value, &ranking.unit);
        let mut row = vec![clean(&one.server), value, one.n.to_string()];
        if has_attributes {
            row.push(clean(&one.attribute));
        }
        table.add_row(row);
    }
    out.push_str(&trimmed(&table));
    out.push('\n');
    out
}

/// A value with its unit, four digits of it.
fn value_in_words(value: f64, unit: &str) -> String {
    match unit {
        "By" if value >= 0.0 => size(value as u64),
        "By/s" if value >= 0.0 => format!("{}/s", size(value as u64)),
        "1" => digits(value),
        "1/s" => format!("{}/s", digits(value)),
        "s" if value.abs() < 1.0 => format!("{} ms", digits(value * 1000.0)),
        unit => format!("{} {}", digits(value), clean(unit)),
    }
}

/// At least four significant digits, without zeros at the end.
fn digits(value: f64) -> String {
    let whole = value.abs().max(1e-9).log10().floor() as i32 + 1;
    let n = usize::try_from((4 - whole).clamp(0, 6)).unwrap_or(0);
    let text = format!("{value:.n$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::history::{Hole, Ranked, Ranking};

    const NOON: i64 = 1_795_176_000_000;

    fn point(second: i64, value: f64) -> Point {
        let at = UnixMillis(NOON + second * 1000);
        Point { at, n: 2, min: value, max: value, sum: 2.0 * value, last: Some(value) }
    }

    #[test]
    fn a_series_is_a_line_of_bars_and_a_table() {
        let view = SeriesView {
            server: "web-07".into(),
            metric: "system.cpu.steal".into(),
            attribute: String::new(),
            unit: "1".into(),
            kind: "gauge".into(),
            from: UnixMillis(NOON),
            to: UnixMillis(NOON + 300_000),
            source: "samples".into(),
            step_s: Some(60),
            points: vec![point(0, 0.0), point(60, 0.4213), point(240, 0.2)],
            notes: Notes::default(),
        };
        let want = "web-07 system.cpu.steal, 2026-11-20 12:00:00 UTC to 2026-11-20 12:05:00 UTC, by 1 min\n\
                    ▁█··▄\n\n\
                    TIME                 MIN     MEAN    MAX     SAMPLES\n\
                    2026-11-20 12:00:00  0       0       0       2\n\
                    12:01:00             0.4213  0.4213  0.4213  2\n\
                    12:04:00             0.2     0.2     0.2     2\n";
        assert_eq!(page(&view), want);
    }

    fn top_view() -> TopView {
        let one = Ranked {
            server: "web-07".into(),
            attribute: "device=eth0".into(),
            value: 1_536_000.0,
            n: 60_480,
        };
        TopView {
            metric: "system.network.io.receive".into(),
            stat: "p95".into(),
            ranking: Ranking {
                unit: "By/s".into(),
                from: UnixMillis(NOON),
                to: UnixMillis(NOON + 3_600_000),
                source: SAMPLES.into(),
                error: 0.0,
                n_series: 1,
                top: vec![one],
            },
            notes: Notes::default(),
        }
    }

    #[test]
    fn a_ranking_says_from_what_it_was_made() {
        let mut view = top_view();
        let want = "p95 of system.network.io.receive, 2026-11-20 12:00:00 UTC to \
                    2026-11-20 13:00:00 UTC, from every sample\n\n\
                    SERVER  P95        SAMPLES  ATTRIBUTE\n\
                    web-07  1.5 MiB/s  60480    device=eth0\n";
        assert_eq!(ranking(&view), want);
        (view.ranking.source, view.ranking.error) = ("hours".into(), 0.01);
        assert!(ranking(&view).contains(", from hourly sums, within 1 %\n"));
    }

    #[test]
    fn the_highest_value_out_of_hourly_sums_is_not_said_to_be_from_every_sample() {
        let mut view = top_view();
        (view.stat, view.ranking.source) = ("max".into(), "hours".into());
        assert!(ranking(&view).contains(", from hourly sums\n"), "{}", ranking(&view));
    }

    #[test]
    fn what_is_missing_is_said() {
        let hole = |server: Option<&str>| Hole {
            from: UnixMillis(NOON),
            to: UnixMillis(NOON + 7_200_000),
            server: server.map(str::to_owned),
            why: "damaged".into(),
        };
        let notes = Notes {
            cut: Some("it took longer than 30 s".into()),
            holes: [vec![hole(Some("web-07"))], vec![hole(None); 6]].concat(),
            n_batches_unreadable: 2,
        };
        let lines = notes_in_words(&notes);
        assert_eq!(lines[0], "not all of it: it took longer than 30 s; ask for a shorter time");
        let damaged = "from 2026-11-20 12:00:00 UTC to 14:00:00 is damaged";
        assert_eq!(lines[1], format!("history of web-07 {damaged}"));
        assert_eq!(lines[2], format!("history {damaged}"));
        let rest = &lines[1 + HOLES_SHOWN..];
        assert_eq!(
            rest,
            ["and 2 more such times", "2 batches cannot be read and are missing here"]
        );
        assert_eq!(notes_in_words(&Notes::default()), [""; 0]);
    }

    #[test]
    fn steps_fit_a_page_and_values_have_four_digits() {
        let step = |s| step_for(Duration::from_secs(s)) / 1000;
        assert_eq!((step(600), step(3600), step(86_400), step(7 * 86_400)), (10, 60, 3600, 21_600));
        assert_eq!(step(100 * 366 * 86_400), 2_592_000);
        for (value, unit, want) in [
            (0.123_456, "1", "0.1235"),
            (12.0, "1", "12"),
            (123_456.0, "1/s", "123456/s"),
            (2048.0, "By", "2.0 KiB"),
            (0.0123, "s", "12.3 ms"),
            (-5.0, "s", "-5 s"),
        ] {
            assert_eq!(value_in_words(value, unit), want, "{value}");
        }
    }
}
