//! What tables have in common, in whatever format. Pure.

use std::collections::BTreeMap;

use super::figure::{NOT_KNOWN, shown};
use crate::report::document::{Table, Value};

/// About how wide a small line is, in characters.
const SPARK_LENGTH: usize = 14;

/// Why values of a table are not known, the commonest first: `–: not known; no swap (12), ...`.
pub(super) fn reasons(table: &Table) -> Option<String> {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for value in table.rows.iter().flatten() {
        if let Value::Unknown(why) = value {
            *reasons.entry(why).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().filter(|(why, _)| !why.is_empty()).collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let words: Vec<String> = reasons.iter().map(|(why, n)| format!("{why} ({n}×)")).collect();
    (!words.is_empty()).then(|| format!("{NOT_KNOWN} means not known: {}.", words.join("; ")))
}

/// Characters of the longest value of a column, its title's longest word included.
pub(super) fn length(table: &Table, ix: usize) -> usize {
    let Some(column) = table.columns.get(ix) else { return 0 };
    let title = column.title.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
    let value = |row: &Vec<Value>| match row.get(ix) {
        None => 0,
        Some(Value::Spark(_)) => SPARK_LENGTH,
        Some(value) => shown(value, &column.unit).chars().count(),
    };
    table.rows.iter().map(value).max().unwrap_or(0).max(title)
}
