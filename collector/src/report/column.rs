//! Columns of tables, in short. Pure.

use super::document::{Column, Unit};

/// A column that says what the row is about.
pub(super) const fn about(
    key: &'static str,
    title: &'static str,
    definition: &'static str,
) -> Column {
    Column { key, title, unit: Unit::Text, is_key: true, definition }
}

/// A column with a figure of it.
pub(super) const fn figure(
    key: &'static str,
    title: &'static str,
    unit: Unit,
    definition: &'static str,
) -> Column {
    Column { key, title, unit, is_key: false, definition }
}
