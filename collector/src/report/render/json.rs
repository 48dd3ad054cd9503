//! A report as JSON, for programs. Pure.
//!
//! A value is a number or text in the unit of its column; one that is not known is null, an interval
//! `{"mid", "low", "high"}`, a word with a level `{"level", "text"}`, an instant RFC 3339 in UTC, a
//! small line a list of numbers and nulls.

use serde_json::{Map, Value as Json, json};
use wire::UnixMillis;

use super::figure::{finite, unit_name};
use crate::report::document::{Chart, Level, Plot, Report, Stroke, Table, Value};

/// The report as one object.
#[must_use]
pub fn json(report: &Report) -> Json {
    let tables = report.tables().map(|table| (table.key.to_owned(), rows(table)));
    let definitions = report.tables().map(|table| (table.key.to_owned(), definitions(table)));
    json!({
        "kind": report.kind.name(),
        "title": report.title,
        "scope": report.scope,
        "from": report.from.to_rfc3339(),
        "to": report.to.to_rfc3339(),
        "made_at": report.made_at.to_rfc3339(),
        "caveats": report.caveats,
        "findings": report.findings.iter().map(|finding| word(finding.level, &finding.text))
            .collect::<Vec<_>>(),
        "tables": tables.collect::<Map<_, _>>(),
        "definitions": definitions.collect::<Map<_, _>>(),
        "charts": report.charts().map(chart).collect::<Vec<_>>(),
    })
}

fn rows(table: &Table) -> Json {
    let row = |row: &Vec<Value>| {
        let cells = table.columns.iter().zip(row);
        cells.map(|(column, cell)| (column.key.to_owned(), value(cell))).collect::<Map<_, _>>()
    };
    table.rows.iter().map(row).collect()
}

fn definitions(table: &Table) -> Json {
    let one = |column: &crate::report::document::Column| {
        let said = json!({
            "title": column.title,
            "unit": unit_name(&column.unit),
            "definition": column.definition,
        });
        (column.key.to_owned(), said)
    };
    Json::Object(table.columns.iter().map(one).collect())
}

/// One value; what is no number is null.
pub(super) fn value(value: &Value) -> Json {
    match value {
        Value::Unknown(_) => Json::Null,
        Value::Text(text) => json!(text),
        Value::Number(number) => json!(finite(*number)),
        Value::Count(n) => json!(n),
        Value::Interval { mid, low, high } => {
            json!({"mid": finite(*mid), "low": finite(*low), "high": finite(*high)})
        }
        Value::Time(at) => json!(at.to_rfc3339()),
        Value::Level(level, text) => word(*level, text),
        Value::Spark(points) => points.iter().map(|point| json!(point.and_then(finite))).collect(),
    }
}

fn word(level: Level, text: &str) -> Json {
    json!({"level": level, "text": text})
}

fn chart(chart: &Chart) -> Json {
    json!({
        "key": chart.key,
        "title": chart.title,
        "words": chart.words,
        "unit": unit_name(&chart.unit),
        "plot": plot(&chart.plot),
    })
}

fn plot(plot: &Plot) -> Json {
    let time = |at: &UnixMillis| at.to_rfc3339();
    match plot {
        Plot::Lines { from, to, lines, band, limit } => {
            let line = |line: &crate::report::document::Line| {
                let stroke = match line.stroke {
                    Stroke::Solid => "solid",
                    Stroke::Dashed => "dashed",
                    Stroke::Dotted => "dotted",
                };
                let point =
                    |(at, y): &(UnixMillis, Option<f64>)| json!([time(at), y.and_then(finite)]);
                let points: Vec<_> = line.points.iter().map(point).collect();
                json!({"name": line.name, "stroke": stroke, "points": points})
            };
            let between = |(at, low, high): &(UnixMillis, f64, f64)| {
                json!([time(at), finite(*low), finite(*high)])
            };
            json!({
                "kind": "lines", "from": time(from), "to": time(to),
                "lines": lines.iter().map(line).collect::<Vec<_>>(),
                "band": band.iter().map(between).collect::<Vec<_>>(),
                "limit": limit.as_ref().map(|(at, name)| json!({"value": finite(*at), "name": name})),
            })
        }
        Plot::Bars(bars) => {
            let bar =
                |(name, value): &(String, f64)| json!({"name": name, "value": finite(*value)});
            json!({"kind": "bars", "bars": bars.iter().map(bar).collect::<Vec<_>>()})
        }
        Plot::Spans { from, to, rows } => {
            let row = |(name, spans): &(String, Vec<crate::report::document::Stretch>)| {
                let span = |span: &crate::report::document::Stretch| json!({"from": time(&span.from), "to": time(&span.to), "level": span.level});
                json!({"name": name, "spans": spans.iter().map(span).collect::<Vec<_>>()})
            };
            json!({
                "kind": "spans", "from": time(from), "to": time(to),
                "rows": rows.iter().map(row).collect::<Vec<_>>(),
            })
        }
    }
}
