//! Charts of a report as HTML: a picture with its scales, names and words around it. Pure.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use wire::UnixMillis;

use super::figure::{level_word, number, short, time};
use super::html::escaped;
use super::picture::{self, Around, CURVES, Curve, Frame, stroke_name};
use crate::report::document::{Chart, Level, Line, Plot, Stretch, Unit};

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 86_400;
/// The first Monday of the epoch.
const MONDAY_S: i64 = 4 * DAY_S;
/// Steps between times at the bottom, seconds.
const STEPS_S: [i64; 15] = [
    300,
    900,
    HOUR_S,
    2 * HOUR_S,
    3 * HOUR_S,
    6 * HOUR_S,
    12 * HOUR_S,
    DAY_S,
    2 * DAY_S,
    7 * DAY_S,
    14 * DAY_S,
    28 * DAY_S,
    91 * DAY_S,
    182 * DAY_S,
    364 * DAY_S,
];
/// Times at the bottom, at most.
const TIMES_MAX: i64 = 9;
/// Letters of curves where there are several.
const LETTERS: [char; 26] = [
    'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S',
    'T', 'U', 'V', 'W', 'X', 'Y', 'Z',
];
/// Least distance of two letters at the right, as a share of the height.
const LETTER_HEIGHT: f64 = 0.085;

/// The chart as a figure.
pub(super) fn figure(chart: &Chart) -> String {
    let inside = match &chart.plot {
        Plot::Lines { from, to, lines, band, limit } => {
            over_time(chart, (*from, *to), lines, band, limit.as_ref())
        }
        Plot::Bars(bars) => self::bars(bars, &chart.unit),
        Plot::Spans { from, to, rows } => spans((*from, *to), rows),
    };
    format!(
        "<figure class=\"chart\">\n<figcaption><h3>{}</h3><p>{}</p></figcaption>\n{inside}</figure>\n",
        escaped(&chart.title),
        escaped(&chart.words)
    )
}

fn over_time(
    chart: &Chart,
    (from, to): (UnixMillis, UnixMillis),
    lines: &[Line],
    band: &[(UnixMillis, f64, f64)],
    limit: Option<&(f64, String)>,
) -> String {
    let ys = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y));
    let ys = ys.chain(band.iter().map(|(_, _, high)| *high)).chain(limit.map(|(at, _)| *at));
    let ys: Vec<f64> = ys.filter(|y| y.is_finite()).collect();
    let most = ys.iter().copied().fold(0.0, f64::max);
    let least = ys.iter().copied().fold(0.0, f64::min);
    let ticks = ticks(least, most, &chart.unit);
    let (low, high) = (ticks.first().copied().unwrap_or(0.0), ticks.last().copied().unwrap_or(1.0));
    let frame = Frame { from, to, low, high };
    let around = Around { ticks: &ticks, band, limit: limit.map(|(at, _)| *at) };
    let curves: Vec<_> =
        lines.iter().map(|line| Curve { stroke: line.stroke, points: &line.points }).collect();
    let (title, words) = (escaped(&chart.title), escaped(&chart.words));
    let svg = picture::curves(&frame, &curves, &around, &title, &words);
    let mut out = String::from("<div class=\"plot\">\n<div class=\"ys\" aria-hidden=\"true\">");
    for tick in &ticks {
        let label = tick_words(*tick, &chart.unit);
        write!(out, "<span style=\"bottom:{:.2}%\">{label}</span>", frame.up(*tick) * 100.0).ok();
    }
    write!(out, "</div>\n<div class=\"area\">{svg}").ok();
    out.push_str("</div>\n");
    if lines.len() > 1 {
        out.push_str(&letters(&frame, lines));
    }
    write!(
        out,
        "{}</div>\n{}",
        times(&frame),
        legend(lines, !band.is_empty(), limit.map(|(_, name)| name.as_str()))
    )
    .ok();
    out
}

/// The letter of each curve at its right end, none over another.
fn letters(frame: &Frame, lines: &[Line]) -> String {
    let end = |line: &Line| line.points.iter().rev().find_map(|(_, y)| *y).map(|y| frame.up(y));
    let mut ends: Vec<(usize, f64)> =
        lines.iter().enumerate().filter_map(|(n, line)| Some((n, end(line)?))).collect();
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut floor = 0.0;
    for (_, up) in &mut ends {
        *up = up.max(floor);
        floor = *up + LETTER_HEIGHT;
    }
    let mut ceiling: f64 = 1.0;
    for (_, up) in ends.iter_mut().rev() {
        *up = up.min(ceiling);
        ceiling = *up - LETTER_HEIGHT;
    }
    let mut out = String::from("<div class=\"ends\" aria-hidden=\"true\">");
    for (n, up) in ends {
        let letter = LETTERS[n % LETTERS.len()];
        write!(
            out,
            "<b class=\"k{}\" style=\"bottom:{:.2}%\">{letter}</b>",
            n % CURVES,
            up * 100.0
        )
        .ok();
    }
    out.push_str("</div>\n");
    out
}

fn legend(lines: &[Line], has_band: bool, limit: Option<&str>) -> String {
    let mut out = String::from("<ul class=\"legend\">");
    for (n, line) in lines.iter().enumerate() {
        let stroke = stroke_name(line.stroke);
        let sample = format!(
            "<svg aria-hidden=\"true\" viewBox=\"0 0 28 8\"><path class=\"curve c{} {stroke}\" d=\"M1 4H27\"/></svg>",
            n % CURVES
        );
        let letter = if lines.len() > 1 {
            format!("<b class=\"k{}\">{}</b> ", n % CURVES, LETTERS[n % LETTERS.len()])
        } else {
            String::new()
        };
        write!(out, "<li>{sample}{letter}{}</li>", escaped(&line.name)).ok();
    }
    if has_band {
        out.push_str(
            "<li><svg aria-hidden=\"true\" viewBox=\"0 0 28 8\"><path class=\"band\" d=\"M1 0H27V8H1Z\"/></svg>expected, in eight of ten cases</li>",
        );
    }
    if let Some(name) = limit {
        let name = escaped(name);
        write!(
            out,
            "<li><svg aria-hidden=\"true\" viewBox=\"0 0 28 8\"><path class=\"limit\" d=\"M1 4H27\"/></svg>{name}</li>"
        )
        .ok();
    }
    out.push_str("</ul>\n");
    out
}

/// Times at the bottom.
fn times(frame: &Frame) -> String {
    let mut out = String::from("<div class=\"xs\" aria-hidden=\"true\">");
    for (at, label) in time_ticks(frame.from, frame.to) {
        let across = frame.across(at);
        // At the edges a label is beside its tick, so that it stays within.
        let edge = match across {
            x if x < 0.04 => " class=\"first\"",
            x if x > 0.95 => " class=\"last\"",
            _ => "",
        };
        write!(out, "<span{edge} style=\"left:{:.2}%\">{label}</span>", across * 100.0).ok();
    }
    out.push_str("</div>\n");
    out
}

/// Whole hours, days or weeks inside of a time, with their words.
fn time_ticks(from: UnixMillis, to: UnixMillis) -> Vec<(UnixMillis, String)> {
    let (from, to) = (from.second(), to.second());
    let whole = to.saturating_sub(from);
    let step = STEPS_S.into_iter().find(|step| whole / step < TIMES_MAX).unwrap_or(i64::MAX);
    if whole <= 0 || step == i64::MAX {
        return Vec::new();
    }
    let origin = if step >= 7 * DAY_S { MONDAY_S } else { 0 };
    let first = (from - origin).div_euclid(step).saturating_add(1) * step + origin;
    let first = if (from - origin).rem_euclid(step) == 0 { from } else { first };
    let form = if step < DAY_S && whole <= 2 * DAY_S { "%H:%M" } else { "%-d %b" };
    let form = if step > 91 * DAY_S { "%b %Y" } else { form };
    let words = |second: i64| {
        let at = jiff::Timestamp::from_second(second).ok()?.to_zoned(TimeZone::UTC);
        let is_midnight = second.rem_euclid(DAY_S) == 0;
        let form = if step < DAY_S && is_midnight { "%-d %b" } else { form };
        let form = if step < DAY_S && !is_midnight { "%H:%M" } else { form };
        Some((UnixMillis::from_second(second), at.strftime(form).to_string()))
    };
    let ticks = (0..).map(|n| first + n * step).take_while(|second| *second <= to);
    ticks.filter_map(words).collect()
}

/// Round values from at most `least` to at least `most`, zero among them.
fn ticks(least: f64, most: f64, unit: &Unit) -> Vec<f64> {
    let span = most - least;
    if !span.is_finite() || span <= 0.0 {
        return vec![0.0, 1.0];
    }
    if *unit == Unit::Share && least >= 0.0 && most > 0.5 && most <= 1.0 {
        return vec![0.0, 0.25, 0.5, 0.75, 1.0];
    }
    let scale = match unit {
        Unit::Bytes | Unit::BytesPerSecond => 1024_f64.powi((span.log2() / 10.0).floor() as i32),
        _ => 1.0,
    };
    let rough = span / scale / 4.0;
    let ten = 10_f64.powi(rough.log10().floor() as i32);
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|n| n * ten >= rough).unwrap_or(10.0);
    let step = step * ten * scale;
    let (first, last) = ((least / step).floor() as i64, (most / step).ceil() as i64);
    if !(1..=12).contains(&last.saturating_sub(first)) {
        return vec![least.min(0.0), most];
    }
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A tick's words: percent without decimals.
fn tick_words(tick: f64, unit: &Unit) -> String {
    match unit {
        Unit::Share => format!("{} %", short((tick * 1e4).round() / 100.0)),
        unit => escaped(&number(tick, unit)),
    }
}

fn bars(bars: &[(String, f64)], unit: &Unit) -> String {
    let most = bars.iter().map(|(_, value)| *value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let mut out = String::from("<ul class=\"bars\">\n");
    for (name, value) in bars {
        let exact = super::figure::exact(*value).unwrap_or_default();
        let words = escaped(&number(*value, unit));
        writeln!(
            out,
            "<li><span class=\"name\">{}</span><span class=\"track\">{}</span><data value=\"{exact}\">{words}</data></li>",
            escaped(name),
            picture::bar(value / most)
        )
        .ok();
    }
    out.push_str("</ul>\n");
    out
}

fn spans((from, to): (UnixMillis, UnixMillis), rows: &[(String, Vec<Stretch>)]) -> String {
    let frame = Frame { from, to, low: 0.0, high: 1.0 };
    let mut out = String::from("<div class=\"spans\">\n<ul>\n");
    for (name, stretches) in rows {
        let name = escaped(name);
        let svg = picture::stretches(&frame, stretches, &name, &stretch_words(stretches));
        writeln!(
            out,
            "<li><span class=\"name\">{name}</span><span class=\"track\">{svg}</span></li>"
        )
        .ok();
    }
    writeln!(out, "</ul>\n<div class=\"foot\">{}</div>", times(&frame)).ok();
    out.push_str("<ul class=\"legend\">");
    for level in [Level::Critical, Level::Warning, Level::Note, Level::Good] {
        let is_used = |stretch: &Stretch| stretch.level == level;
        if !rows.iter().any(|(_, stretches)| stretches.iter().any(is_used)) {
            continue;
        }
        let one = [Stretch { from, to, level }];
        let sample = picture::stretches(&frame, &one, "", "");
        write!(out, "<li><i>{sample}</i>{}</li>", level_word(level)).ok();
    }
    out.push_str("</ul>\n</div>\n");
    out
}

/// The stretches of a row for those who do not see them, the first of many.
fn stretch_words(stretches: &[Stretch]) -> String {
    const WORDS_MAX: usize = 20;
    let words = |stretch: &Stretch| {
        format!("{} from {} to {}", level_word(stretch.level), time(stretch.from), time(stretch.to))
    };
    let mut all: Vec<String> = stretches.iter().take(WORDS_MAX).map(words).collect();
    if stretches.len() > WORDS_MAX {
        all.push(format!("and {} more", stretches.len() - WORDS_MAX));
    }
    all.join("; ")
}
