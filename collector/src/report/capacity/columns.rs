//! Columns, values and sections, written short. Pure.

use super::parts::View;
use crate::report::document::{Block, Column, Section, Table, Unit, Value};

/// Why a cell has no number.
pub(super) const NOT_SAMPLED: &str = "not sampled";

/// A column that says what a row is about.
pub(super) fn key(key: &'static str, title: &'static str, definition: &'static str) -> Column {
    Column { key, title, unit: Unit::Text, is_key: true, definition }
}

/// A column of figures.
pub(super) fn figure(
    key: &'static str,
    title: &'static str,
    unit: Unit,
    definition: &'static str,
) -> Column {
    Column { key, title, unit, is_key: false, definition }
}

/// A table with these columns and rows.
pub(super) fn table(
    (key, title): (&'static str, &str),
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
    empty: &'static str,
) -> Block {
    debug_assert!(rows.iter().all(|row| row.len() == columns.len()), "rows of {key} fit");
    Block::Table(Table { key, title: title.to_owned(), columns, rows, empty })
}

/// A section with these paragraphs and blocks.
pub(super) fn section(
    (key, title): (&'static str, &str),
    text: &[&str],
    blocks: Vec<Block>,
) -> Section {
    let text = text.iter().map(|text| (*text).to_owned()).collect();
    Section { key, title: title.to_owned(), text, blocks }
}

/// Words.
pub(super) fn text(words: impl Into<String>) -> Value {
    Value::Text(words.into())
}

/// A number that may not have been sampled.
pub(super) fn number(number: Option<f64>) -> Value {
    Value::or(number.filter(|number| number.is_finite()), NOT_SAMPLED)
}

/// How many, where it is known.
pub(super) fn count(n: Option<u64>) -> Value {
    n.map_or(Value::Unknown(NOT_SAMPLED), Value::Count)
}

/// Half of the minutes are below, 95, 99 of 100 are below, and the largest sample.
pub(super) fn percentiles(view: &View<'_>) -> [Value; 4] {
    let at = |q| number(view.quantile(q));
    [at(0.5), at(0.95), at(0.99), number(view.max())]
}
