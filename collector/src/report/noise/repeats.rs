//! Incidents that come again. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::Input;
use crate::report::ask::Ask;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Column, Section, Table, Unit, Value};
use crate::report::outage::{Happened, Minutes, minute_after, minute_of};

const ROWS_MAX: usize = 50;

/// Incidents about the same.
pub(super) struct Again<'i> {
    pub(super) n: u64,
    pub(super) minutes: u64,
    pub(super) first: UnixMillis,
    pub(super) newest: &'i Happened,
    /// The cause of most of them.
    pub(super) cause: &'i str,
}

/// What came at least twice, the most often first. What was merged into another incident is none.
pub(super) fn ranked<'i>(input: &'i Input, ask: &Ask) -> Vec<Again<'i>> {
    let mut by_key: BTreeMap<&str, Vec<&Happened>> = BTreeMap::new();
    for happened in input.incidents.values().filter(|happened| happened.parent.is_none()) {
        by_key.entry(&happened.key).or_default().push(happened);
    }
    let within = minute_of(ask.from)..minute_after(ask.to.min(ask.now));
    let mut all: Vec<Again<'i>> = Vec::new();
    for mut incidents in by_key.into_values().filter(|incidents| incidents.len() > 1) {
        incidents.sort_by_key(|happened| happened.started);
        let spans = incidents
            .iter()
            .map(|happened| (happened.started, happened.ended.unwrap_or(UnixMillis(i64::MAX))));
        let minutes = Minutes::of(spans, &within).n();
        let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
        for one in &incidents {
            *causes.entry(&one.cause).or_default() += 1;
        }
        let cause = causes.iter().max_by_key(|(_, n)| **n).map_or("unknown", |(cause, _)| cause);
        let (Some(first), Some(newest)) = (incidents.first(), incidents.last()) else { continue };
        let (n, first) = (incidents.len() as u64, first.started);
        all.push(Again { n, minutes, first, newest, cause });
    }
    all.sort_by(|a, b| (b.n, b.minutes, &a.newest.key).cmp(&(a.n, a.minutes, &b.newest.key)));
    all
}

/// The place of a key, as people read it: `site web-07/a.example`.
pub(super) fn place(key: &str) -> String {
    let mut parts = key.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (_, Some(scope), Some(place)) => format!("{scope} {place}"),
        _ => key.to_owned(),
    }
}

/// The table.
pub(super) fn section(input: &Input, ask: &Ask) -> Section {
    const COLUMNS: [Column; 8] = [
        about("place", "where", "what the incidents were about"),
        about("kind", "kind", "kind of the incidents"),
        figure(
            "incidents",
            "times",
            Unit::Count,
            "incidents of this kind about the same that reach into the report's time",
        ),
        figure(
            "minutes",
            "minutes",
            Unit::Minutes,
            "clock minutes in which any of them was open, in the report's time",
        ),
        figure("cause", "cause", Unit::Text, "class of the likeliest cause of most of them"),
        figure("first", "first", Unit::Time, "beginning of the first of them, UTC"),
        figure("newest", "last", Unit::Time, "beginning of the last of them, UTC"),
        figure("title", "the last one", Unit::Text, "the last one in a sentence"),
    ];
    let row = |again: &Again<'_>| {
        vec![
            Value::Text(place(&again.newest.key)),
            Value::Text(again.newest.kind.replace('_', " ")),
            Value::Count(again.n),
            Value::Count(again.minutes),
            Value::Text(again.cause.replace('_', " ")),
            Value::Time(again.first),
            Value::Time(again.newest.started),
            Value::Text(again.newest.title.clone()),
        ]
    };
    let table = Table {
        key: "repeated",
        title: "Incidents that came again".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: ranked(input, ask).iter().take(ROWS_MAX).map(row).collect(),
        empty: "No incident came twice.",
    };
    Section {
        key: "repeated",
        title: "Incidents that came again".to_owned(),
        text: Vec::new(),
        blocks: vec![Block::Table(table)],
    }
}
