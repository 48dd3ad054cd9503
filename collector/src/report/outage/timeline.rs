//! What happened, in order of time: the incidents and their picture. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::figures::{Figures, OfIncident};
use super::minutes::{Minutes, instant};
use crate::model::ServerId;
use crate::report::column::{about, figure};
use crate::report::document::{
    Block, Chart, Column, Level, Plot, Section, Stretch, Table, Unit, Value,
};
use crate::report::words;

/// Incidents that are listed: the newest.
const INCIDENTS_MAX: usize = 1000;
/// Servers that are drawn: those that lost most.
const ROWS_MAX: usize = 24;
const NAMES_MAX: usize = 3;
/// Of a piece of evidence: `incident show` has all of it.
const WHY_CHARS_MAX: usize = 120;

const COLUMNS: [Column; 14] = [
    Column {
        key: "started",
        title: "began",
        unit: Unit::Time,
        is_key: true,
        definition: "its first failure or sign, UTC; may be before the report's time",
    },
    about("incident", "incident", "its id: `incident show ID` tells everything of it"),
    figure(
        "lasted_seconds",
        "lasted",
        Unit::Seconds,
        "from its beginning to its end, or to now while it is open, also outside of the report's time",
    ),
    figure("title", "what happened", Unit::Text, "the incident in a sentence"),
    figure(
        "severity",
        "severity",
        Unit::Text,
        "`critical` wakes people, `warning` waits for the day, `info` is only told",
    ),
    figure(
        "lost_minutes",
        "lost site-minutes",
        Unit::Minutes,
        "minutes of these sites inside of it, in the report's time",
    ),
    figure("customers", "customers", Unit::Text, "whose sites it hit, as far as is known"),
    figure("cause", "cause", Unit::Text, "class of the likeliest cause; `unknown` is an answer"),
    figure(
        "confidence_ratio",
        "how sure",
        Unit::Share,
        "probability of that cause by the evidence seen",
    ),
    figure(
        "sites",
        "sites",
        Unit::Count,
        "sites of the report that were inside of it in the report's time",
    ),
    figure(
        "gateway_errors",
        "gateway errors",
        Unit::Count,
        "502, 504, and 503 of a gateway, of all its sites from its beginning to its end",
    ),
    figure(
        "why",
        "why",
        Unit::Text,
        "the piece of evidence that speaks for it most, its beginning where it is long",
    ),
    figure("ended", "ended", Unit::Time, "when it was over, UTC; none while it is open"),
    figure(
        "kind",
        "kind",
        Unit::Text,
        "gateway errors: requests failed at the gateway; slow burn: a small share of them, for long; silence: an agent sent nothing; pressure: servers lacked a resource together; services: services stopped together",
    ),
];

/// The incidents.
pub(super) fn section(figures: &Figures<'_>) -> Section {
    let mut all: Vec<(&str, &OfIncident<'_>)> =
        figures.incidents.iter().map(|(id, of)| (*id, of)).collect();
    all.sort_by_key(|(id, of)| (of.happened.started, *id));
    let mut text = vec![
        "Times are UTC. What was merged into another incident is told as part of it.".to_owned(),
    ];
    let n_left = all.len().saturating_sub(INCIDENTS_MAX);
    if n_left > 0 {
        let left = words::many(n_left as u64, "older one is", "older ones are");
        text.push(format!(
            "The newest {} are listed; {left} counted only.",
            words::count(INCIDENTS_MAX as u64)
        ));
    }
    let table = Table {
        key: "incidents",
        title: "Incidents".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: all.iter().skip(n_left).map(|(id, of)| row(figures, id, of)).collect(),
        empty: "No incident in this time.",
    };
    let mut blocks = vec![Block::Table(table)];
    if let Some(chart) = chart(figures) {
        blocks.insert(0, Block::Chart(chart));
    }
    Section { key: "incidents", title: "What happened".to_owned(), text, blocks }
}

fn row(figures: &Figures<'_>, id: &str, of: &OfIncident<'_>) -> Vec<Value> {
    let happened = of.happened;
    let end = happened.ended.unwrap_or(instant(figures.within.end));
    let owners: Vec<&str> = of.owners.iter().copied().collect();
    let late = if happened.is_retroactive { " (found in data that came late)" } else { "" };
    vec![
        Value::Time(happened.started),
        Value::Text(id.to_owned()),
        Value::Number((end.0.saturating_sub(happened.started.0)).max(0) as f64 / 1000.0),
        Value::Text(format!("{}{late}", happened.title)),
        Value::Level(level(&happened.severity), happened.severity.clone()),
        Value::Count(of.n_lost),
        if owners.is_empty() {
            Value::Unknown("no owner of its sites is known")
        } else {
            Value::Text(words::list(&owners, NAMES_MAX))
        },
        Value::Text(happened.cause.replace('_', " ")),
        Value::Number(happened.confidence),
        Value::Count(of.sites.len() as u64),
        Value::Count(happened.n_errors),
        match &happened.why {
            Some(why) => Value::Text(words::short(why, WHY_CHARS_MAX)),
            None => Value::Unknown("no evidence was found"),
        },
        happened.ended.map_or(Value::Unknown("it is open"), Value::Time),
        Value::Text(happened.kind.replace('_', " ")),
    ]
}

/// How much an incident of a severity matters.
fn level(severity: &str) -> Level {
    match severity {
        "critical" => Level::Critical,
        "warning" => Level::Warning,
        _ => Level::Note,
    }
}

/// A row for each server that lost most, or was silent.
fn chart(figures: &Figures<'_>) -> Option<Chart> {
    let mut of_servers: BTreeMap<ServerId, Vec<&Minutes>> = BTreeMap::new();
    for of in figures.sites.values().filter(|of| of.time.n_lost > 0) {
        of_servers.entry(of.site.server).or_default().push(&of.lost);
    }
    let mut rows: Vec<(u64, &str, Vec<Stretch>)> = Vec::new();
    for (id, server) in &figures.input.servers {
        let lost = of_servers.get(id).map(|all| Minutes::union(all.iter().copied()));
        let lost = lost.unwrap_or_default();
        let silent = figures.silent.get(id).cloned().unwrap_or_default();
        let stretch = |level| move |(from, to)| Stretch { from, to, level };
        let spans: Vec<Stretch> = silent
            .runs()
            .map(stretch(Level::Note))
            .chain(lost.runs().map(stretch(Level::Critical)))
            .collect();
        if !spans.is_empty() {
            rows.push((lost.n() * 2 + silent.n(), &server.name, spans));
        }
    }
    rows.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    let n_all = rows.len();
    rows.truncate(ROWS_MAX);
    let worst = rows.first()?.1;
    let (from, to) = (instant(figures.within.start), instant(figures.within.end));
    let shown = if n_all > rows.len() {
        format!("the {} of {n_all} servers with most of it", rows.len())
    } else {
        words::many(n_all as u64, "server", "servers")
    };
    Some(Chart {
        key: "timeline".to_owned(),
        title: "When sites were down, by server".to_owned(),
        words: format!(
            "A row for each of {shown}, with the times in which a site of it was inside of an incident \
             (critical) or its agent was silent (note). Most of it: {worst}."
        ),
        unit: Unit::Time,
        plot: Plot::Spans {
            from,
            to: to.max(UnixMillis(from.0 + 1)),
            rows: rows.into_iter().map(|(_, name, spans)| (name.to_owned(), spans)).collect(),
        },
    })
}
