//! Charts of a report as blocks of text. Pure.

use super::super::figure::{number, time};
use crate::notify::escape::{cut, one_line};
use crate::report::document::{Chart, Level, Line, Plot, Stretch, Unit};
use wire::UnixMillis;

/// From the lowest to the highest.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Parts of a block, for bars.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Width of the names at the left.
const NAME_MAX: usize = 24;
/// Width of what is drawn.
const DRAWN_MAX: usize = 72;

/// A chart as lines of at most about `width` characters.
pub(super) fn lines(chart: &Chart, width: usize) -> Vec<String> {
    match &chart.plot {
        Plot::Lines { from, to, lines, band, limit } => {
            let mut out = over_time(&chart.unit, (*from, *to), lines, limit.as_ref(), width);
            if let Some((at, low, high)) = band.last() {
                let between = [low, high].map(|edge| number(*edge, &chart.unit));
                let [low, high] = between;
                out.push(format!("Expected on {}:", time(*at)));
                out.push(format!("{low} to {high} in eight of ten cases"));
            }
            out
        }
        Plot::Bars(bars) => self::bars(bars, &chart.unit, width),
        Plot::Spans { from, to, rows } => spans((*from, *to), rows, width),
    }
}

/// One block a point, between the least and the most; the largest of those that share a block.
pub(super) fn spark(points: &[Option<f64>], n_cells: usize) -> String {
    let cells = cells(points, n_cells);
    let known = || cells.iter().flatten().copied();
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    blocks(&cells, low, high)
}

fn cells(points: &[Option<f64>], n_cells: usize) -> Vec<Option<f64>> {
    let n = points.len().min(n_cells);
    let part = |ix: usize| &points[ix * points.len() / n..(ix + 1) * points.len() / n];
    let most = |part: &[Option<f64>]| {
        part.iter().flatten().copied().filter(|point| point.is_finite()).reduce(f64::max)
    };
    (0..n).map(|ix| most(part(ix))).collect()
}

fn blocks(cells: &[Option<f64>], low: f64, high: f64) -> String {
    let block = |value: f64| {
        let share = (value - low) / (high - low);
        let ix = if share.is_finite() { (share.clamp(0.0, 1.0) * 7.0).round() as usize } else { 0 };
        BLOCKS[ix.min(7)]
    };
    cells.iter().map(|cell| cell.map_or(' ', block)).collect()
}

fn over_time(
    unit: &Unit,
    (from, to): (UnixMillis, UnixMillis),
    lines: &[Line],
    limit: Option<&(f64, String)>,
    width: usize,
) -> Vec<String> {
    let names = name_width(lines.iter().map(|line| line.name.as_str()));
    let n_cells = width.saturating_sub(names + 2).clamp(10, DRAWN_MAX);
    let most = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, y)| *y));
    let most = most.chain(limit.map(|(at, _)| *at)).filter(|y| y.is_finite()).fold(0.0, f64::max);
    let mut out: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells = in_time(&line.points, (from, to), n_cells);
            format!("{}  {}", padded(&line.name, names), blocks(&cells, 0.0, most))
        })
        .collect();
    let indent = " ".repeat(names);
    out.push(format!("{indent}  {} to {}", time(from), time(to)));
    out.push(format!("{indent}  0 to {}", number(most, unit)));
    if let Some((at, name)) = limit {
        let words = one_line(name);
        let has_number = words.contains(|c: char| c.is_ascii_digit());
        let number = if has_number { String::new() } else { format!(" ({})", number(*at, unit)) };
        out.push(format!("{indent}  {words}{number}"));
    }
    out
}

/// The largest value of each part of a time.
fn in_time(
    points: &[(UnixMillis, Option<f64>)],
    (from, to): (UnixMillis, UnixMillis),
    n_cells: usize,
) -> Vec<Option<f64>> {
    let mut cells: Vec<Option<f64>> = vec![None; n_cells];
    for (at, y) in points {
        let Some(y) = y.filter(|y| y.is_finite()) else { continue };
        if let Some(cell) = cells.get_mut(place(*at, (from, to), n_cells)) {
            *cell = Some(cell.map_or(y, |most| most.max(y)));
        }
    }
    cells
}

/// In which of the parts of a time an instant lies.
fn place(at: UnixMillis, (from, to): (UnixMillis, UnixMillis), n_cells: usize) -> usize {
    let (at, whole) =
        (i128::from(at.0) - i128::from(from.0), i128::from(to.0) - i128::from(from.0));
    let cell = at.clamp(0, whole.max(1)) * n_cells as i128 / whole.max(1);
    (cell as usize).min(n_cells.saturating_sub(1))
}

fn bars(bars: &[(String, f64)], unit: &Unit, width: usize) -> Vec<String> {
    let names = name_width(bars.iter().map(|(name, _)| name.as_str()));
    let n_cells = width.saturating_sub(names + 18).clamp(10, DRAWN_MAX);
    let most = bars.iter().map(|(_, value)| *value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let bar = |value: f64| {
        let share = value / most;
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let n = (share * n_cells as f64 * 8.0).round() as usize;
        let part = if n.is_multiple_of(8) { None } else { Some(EIGHTHS[n % 8]) };
        "█".repeat(n / 8).chars().chain(part).collect::<String>()
    };
    let line = |(name, value): &(String, f64)| {
        format!("{}  {} {}", padded(name, names), bar(*value), number(*value, unit))
    };
    bars.iter().map(line).collect()
}

fn spans(
    (from, to): (UnixMillis, UnixMillis),
    rows: &[(String, Vec<Stretch>)],
    width: usize,
) -> Vec<String> {
    let names = name_width(rows.iter().map(|(name, _)| name.as_str()));
    let n_cells = width.saturating_sub(names + 2).clamp(10, DRAWN_MAX);
    let mut out: Vec<String> = rows
        .iter()
        .map(|(name, spans)| {
            let mut cells: Vec<Option<Level>> = vec![None; n_cells];
            for span in spans {
                let first = place(span.from, (from, to), n_cells);
                let last = place(UnixMillis(span.to.0.saturating_sub(1)), (from, to), n_cells);
                let last = last.max(first);
                for cell in &mut cells[first..=last] {
                    *cell = (*cell).max(Some(span.level));
                }
            }
            let drawn: String = cells.into_iter().map(|cell| cell.map_or('·', shade)).collect();
            format!("{}  {drawn}", padded(name, names))
        })
        .collect();
    out.push(format!("{}  {} to {}", " ".repeat(names), time(from), time(to)));
    let indent = " ".repeat(names + 2);
    let (first, second) = ("█ critical, ▓ warning,", "▒ note, ░ good, · nothing");
    if indent.len() + first.chars().count() + 1 + second.chars().count() <= width {
        out.push(format!("{indent}{first} {second}"));
    } else {
        out.extend([first, second].map(|part| format!("{indent}{part}")));
    }
    out
}

fn shade(level: Level) -> char {
    match level {
        Level::Good => '░',
        Level::Note => '▒',
        Level::Warning => '▓',
        Level::Critical => '█',
    }
}

fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| one_line(name).chars().count()).max().unwrap_or(0).min(NAME_MAX)
}

fn padded(name: &str, width: usize) -> String {
    format!("{:<width$}", cut(&one_line(name), width))
}
