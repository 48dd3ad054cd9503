//! What the outages came from. Pure.

use std::collections::BTreeMap;

use super::figures::Figures;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Column, Section, Table, Unit, Value};

const COLUMNS: [Column; 5] = [
    about("cause", "cause", "class of the likeliest cause of the incidents"),
    figure("incidents", "incidents", Unit::Count, "incidents with this cause"),
    figure(
        "lost_minutes",
        "lost site-minutes",
        Unit::Minutes,
        "minutes of sites inside of these incidents; a minute in two incidents counts in both",
    ),
    figure("lost_ratio", "share", Unit::Share, "of the lost site-minutes of all causes"),
    figure(
        "gateway_errors",
        "gateway errors",
        Unit::Count,
        "502, 504, and 503 of a gateway, from the beginning to the end of these incidents",
    ),
];

/// Incidents, lost minutes and errors of a cause.
type Cost = (u64, u64, u64);

/// Minutes lost by cause, the costliest first.
pub(super) fn by_cause<'f>(figures: &'f Figures<'_>) -> Vec<(&'f str, Cost)> {
    let mut causes: BTreeMap<&str, Cost> = BTreeMap::new();
    for of in figures.incidents.values() {
        let cost = causes.entry(&of.happened.cause).or_default();
        cost.0 += 1;
        cost.1 += of.n_lost;
        cost.2 = cost.2.saturating_add(of.happened.n_errors);
    }
    let mut causes: Vec<(&str, Cost)> = causes.into_iter().collect();
    causes.sort_by(|a, b| (b.1.1, b.1.0, a.0).cmp(&(a.1.1, a.1.0, b.0)));
    causes
}

/// The table of causes.
pub(super) fn section(figures: &Figures<'_>) -> Section {
    let causes = by_cause(figures);
    let n_all: u64 = causes.iter().map(|(_, cost)| cost.1).sum();
    let row = |(cause, (n, n_lost, n_errors)): &(&str, Cost)| {
        let share = (n_all > 0).then(|| *n_lost as f64 / n_all as f64);
        vec![
            Value::Text(cause.replace('_', " ")),
            Value::Count(*n),
            Value::Count(*n_lost),
            Value::or(share, "no minute was lost"),
            Value::Count(*n_errors),
        ]
    };
    let table = Table {
        key: "causes",
        title: "By cause".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: causes.iter().map(row).collect(),
        empty: "No incident in this time.",
    };
    Section {
        key: "causes",
        title: "Causes".to_owned(),
        text: Vec::new(),
        blocks: vec![Block::Table(table)],
    }
}
