//! A report as CSV: all figures one below the other, or one table as it is. Pure.
//!
//! Numbers are whole, in the unit of their column, with a point; an interval takes three figures, `KEY`,
//! `KEY_low` and `KEY_high`; what is not known is empty. A text that a spreadsheet would take for a
//! formula gets a `'` before it. Lines end in a line feed.

use super::figure::{exact, level_word, unit_name};
use super::json;
use crate::notify::escape::one_line;
use crate::report::document::{Column, Report, Table, Value};

/// What is between the key columns of a row where they are one text.
const AND: &str = " / ";

/// All figures of all tables, one a line: `table,subject,figure,value,unit,definition`. The first lines
/// say what the report is about, what it found and what it lacks.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut out = String::new();
    line(
        &mut out,
        ["table", "subject", "figure", "value", "unit", "definition"].map(str::to_owned),
    );
    let mut said = |subject: &str, figure: &str, value: &str, unit: &str| {
        let cells = [text("report"), text(subject), text(figure), text(value), text(unit)];
        line(&mut out, cells.into_iter().chain([String::new()]));
    };
    said("", "kind", report.kind.name(), "text");
    said("", "title", &report.title, "text");
    said("", "scope", &report.scope, "text");
    said("", "from", &report.from.to_rfc3339(), "RFC 3339");
    said("", "to", &report.to.to_rfc3339(), "RFC 3339");
    said("", "made_at", &report.made_at.to_rfc3339(), "RFC 3339");
    for (n, finding) in (1..).zip(&report.findings) {
        said(&format!("finding {n}"), level_word(finding.level), &finding.text, "text");
    }
    for (n, caveat) in (1..).zip(&report.caveats) {
        said(&format!("caveat {n}"), "caveat", caveat, "text");
    }
    for table in report.tables() {
        long(&mut out, table);
    }
    out
}

/// One table: its columns, and a line a row. `None`: there is no such table.
#[must_use]
pub fn csv_table(report: &Report, key: &str) -> Option<String> {
    let table = report.tables().find(|table| table.key == key)?;
    let mut out = String::new();
    let is_wide: Vec<bool> = (0..table.columns.len()).map(|ix| has_intervals(table, ix)).collect();
    let names = table.columns.iter().zip(&is_wide).flat_map(|(column, wide)| names(column, *wide));
    line(&mut out, names);
    for row in &table.rows {
        let cells = row.iter().zip(&is_wide).flat_map(|(value, wide)| cells(value, *wide));
        line(&mut out, cells);
    }
    Some(out)
}

/// Whether any value of a column is an interval: then it takes three.
fn has_intervals(table: &Table, ix: usize) -> bool {
    table.rows.iter().any(|row| matches!(row.get(ix), Some(Value::Interval { .. })))
}

fn names(column: &Column, is_wide: bool) -> Vec<String> {
    let suffixes: &[&str] = if is_wide { &["", "_low", "_high"] } else { &[""] };
    suffixes.iter().map(|suffix| format!("{}{suffix}", column.key)).collect()
}

fn cells(value: &Value, is_wide: bool) -> Vec<String> {
    let mut cells = match value {
        Value::Unknown(_) => vec![String::new()],
        Value::Text(said) | Value::Level(_, said) => vec![text(said)],
        Value::Number(number) => vec![exact(*number).unwrap_or_default()],
        Value::Count(n) => vec![n.to_string()],
        Value::Interval { mid, low, high } => {
            [mid, low, high].map(|number| exact(*number).unwrap_or_default()).to_vec()
        }
        Value::Time(at) => vec![at.to_rfc3339()],
        Value::Spark(_) => vec![text(&json::value(value).to_string())],
    };
    if is_wide {
        cells.resize(3, String::new());
    }
    cells
}

/// The figures of a table: each value that is no key, below the keys of its row as its subject.
fn long(out: &mut String, table: &Table) {
    let is_wide: Vec<bool> = (0..table.columns.len()).map(|ix| has_intervals(table, ix)).collect();
    for (n, row) in (1..).zip(&table.rows) {
        let keys = table.columns.iter().zip(row).filter(|(column, _)| column.is_key);
        let keys: Vec<String> = keys.filter_map(|(_, value)| plain(value)).collect();
        let subject = if keys.is_empty() { format!("row {n}") } else { keys.join(AND) };
        for ((column, value), wide) in table.columns.iter().zip(row).zip(&is_wide) {
            if column.is_key {
                continue;
            }
            for (name, cell) in names(column, *wide).into_iter().zip(cells(value, *wide)) {
                let said = [text(table.key), text(&subject), text(&name), cell];
                let unit = text(&unit_name(&column.unit));
                line(out, said.into_iter().chain([unit, text(column.definition)]));
            }
        }
    }
}

/// A key as part of a subject.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Unknown(_) => None,
        Value::Text(said) | Value::Level(_, said) => Some(one_line(said)),
        _ => cells(value, false).into_iter().next(),
    }
}

fn line(out: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    out.push_str(&cells.join(","));
    out.push('\n');
}

/// Text as a cell: on one line, quoted where it must be, and never a formula.
fn text(said: &str) -> String {
    let said = one_line(said);
    let is_formula =
        said.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '\u{2212}', '|', '%']);
    let said = if is_formula { format!("'{said}") } else { said };
    if said.contains(['"', ',', ';', '\'']) {
        format!("\"{}\"", said.replace('"', "\"\""))
    } else {
        said
    }
}
