//! What comes: next week's use, and the day a disk is full. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::columns::{figure, key, number, section, table, text};
use super::input::{HOUR_S, Input, Series, Server};
use crate::model::ServerId;
use crate::report::document::{Block, Chart, Column, Line, Plot, Section, Stroke, Unit, Value};
use crate::report::forecast::{
    self, Expected, Filling, Next, Ratios, Refusal, Rises, Week, days_to_full, next_p95,
};
use crate::report::settings::Settings;

/// How full a file system may be: what is beyond it is kept for the system, and slow.
const FULL: f64 = 0.95;
/// Hours of the past that a forecast looks at.
const PAST_H: usize = 8 * forecast::WEEK_H;
/// Hours of the past in a chart: three weeks.
const SHOWN_H: usize = 3 * forecast::WEEK_H;
/// Servers with charts of their own.
const CHARTS_MAX: usize = 3;
/// Bars in a chart.
const BARS_MAX: usize = 12;

/// Metrics of which the next week is told, with what a report calls them.
const TOLD: [(&str, &str); 2] =
    [("cpu", "system.cpu.utilization"), ("memory", "system.memory.utilization")];
/// Metrics of which the day is told when there is no more.
const FILLING: [(&str, &str); 2] =
    [("disk", "system.filesystem.utilization"), ("inodes", "system.filesystem.inodes.utilization")];

/// What comes, of all servers.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// By server and `cpu` or `memory`.
    pub(super) weeks: BTreeMap<(ServerId, &'static str), Outlook>,
    /// By server, `disk` or `inodes`, and mount point.
    pub(super) fills: BTreeMap<(ServerId, &'static str, String), Result<Filling, Refusal>>,
}

/// What the next week will be like.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Hour by hour.
    pub(super) week: Result<Week, Refusal>,
    /// Its p95.
    pub(super) next: Result<Next, Refusal>,
}

impl Ahead {
    /// Foretold from what was read.
    pub(super) fn of(input: &Input) -> Self {
        let mut this = Self::default();
        for (name, metric) in TOLD {
            let found: Vec<(ServerId, &Series)> = input
                .servers
                .iter()
                .filter_map(|(id, server)| Some((*id, server.plain(metric)?)))
                .collect();
            let pasts: Vec<Vec<Option<f64>>> =
                found.iter().map(|(_, series)| past(&series.mean, PAST_H)).collect();
            let weeks = forecast::fleet(&pasts, Some(1.0));
            let days: Vec<_> = found.iter().map(|(_, series)| series.days.clone()).collect();
            let rises = Rises::of(&days);
            drop(days);
            for ((id, series), week) in found.into_iter().zip(weeks) {
                let next = next_p95(&series.days, Some(1.0), &rises);
                this.weeks.insert((id, name), Outlook { week, next });
            }
        }
        for (name, metric) in FILLING {
            this.fill(input, name, metric);
        }
        this
    }

    fn fill(&mut self, input: &Input, name: &'static str, metric: &'static str) {
        let mut found = Vec::new();
        for (id, server) in &input.servers {
            for (mount, series) in server.all(metric) {
                let days = past(&series.day_p95, series.day_p95.len());
                found.push(((*id, name, mount.to_owned()), days));
            }
        }
        let days: Vec<Vec<Option<f64>>> = found.iter().map(|(_, days)| days.clone()).collect();
        let ratios = Ratios::of(&days);
        let told = found.into_iter().map(|(of, days)| (of, days_to_full(&days, FULL, &ratios)));
        self.fills.extend(told);
    }

    /// The file system of a server that is full first: days until it is.
    pub(super) fn first_full(&self, server: ServerId) -> Option<Expected> {
        let of = |(key, filling): (&(ServerId, &str, String), &Result<Filling, Refusal>)| {
            (key.0 == server && key.1 == "disk").then(|| filling.ok()?.days).flatten()
        };
        self.fills.iter().filter_map(of).min_by(|a, b| a.mid.total_cmp(&b.mid))
    }
}

/// The last `n` values; what is not a number is not known.
fn past(values: &[f32], n: usize) -> Vec<Option<f64>> {
    let tail = &values[values.len().saturating_sub(n)..];
    tail.iter().map(|value| (!value.is_nan()).then_some(f64::from(*value))).collect()
}

/// What comes, in tables and charts.
pub(super) fn section_of(input: &Input, ahead: &Ahead, settings: &Settings) -> Section {
    let mut blocks = vec![filling(input, ahead)];
    blocks.extend(bars(input, ahead));
    blocks.push(outlook(input, ahead));
    blocks.extend(charts(input, ahead, settings));
    section(
        ("forecast", "What comes"),
        &[
            "Every forecast was tried on the server's own past first; its error is beside it. An interval \
           holds what comes in about eight of ten cases.",
        ],
        blocks,
    )
}

fn name_of(input: &Input, id: ServerId) -> &str {
    input.servers.get(&id).map_or("", |server| server.name.as_str())
}

fn interval(told: Expected) -> Value {
    Value::Interval { mid: told.mid, low: told.low, high: told.high }
}

/// When a file system of which so many days are left is full.
fn until_full(days: f64) -> String {
    match days {
        ..=0.0 => "full".to_owned(),
        ..1.0 => "within a day".to_owned(),
        ..1.5 => "in about a day".to_owned(),
        _ => format!("in about {days:.0} days"),
    }
}

fn filling(input: &Input, ahead: &Ahead) -> Block {
    let mut found = Vec::new();
    for ((id, name, mount), told) in &ahead.fills {
        let Some(server) = input.servers.get(id) else { continue };
        let space = if *name == "disk" { server.space(mount) } else { None };
        let days = told.ok().and_then(|filling| filling.days);
        let (cell, says) = match told {
            Ok(Filling { days: Some(days), .. }) => (interval(*days), until_full(days.mid)),
            Ok(_) => (Value::Unknown("not in 180 days"), "not in 180 days".to_owned()),
            Err(refusal) => (Value::Unknown(refusal.words()), refusal.words().to_owned()),
        };
        let filling = told.ok();
        let row = vec![
            text(&server.name),
            text(*name),
            text(mount),
            Value::or(filling.map(|filling| filling.level), "too little history"),
            number(space),
            Value::or(filling.map(|filling| filling.slope_per_day), "too little history"),
            text(says),
            cell,
            Value::or(filling.map(|filling| filling.n_days as f64), "too little history"),
        ];
        found.push((days.map_or(f64::INFINITY, |days| days.mid), row));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows = found.into_iter().map(|(_, row)| row).collect();
    let title = ("days_to_full", "Days until disks are full");
    table(title, filling_columns(), rows, "No file system was sampled.")
}

fn filling_columns() -> Vec<Column> {
    vec![
        key("server", "server", "Name of the server."),
        key("resource", "resource", "disk: space; inodes: numbers of files."),
        key("of", "of", "Mount point of the file system."),
        figure(
            "level_share",
            "used",
            Unit::Share,
            "Used of what everybody may use: the median of the last three days' p95 of one-minute means.",
        ),
        figure(
            "space_bytes",
            "space",
            Unit::Bytes,
            "All of what everybody may use, in its newest hour.",
        ),
        figure(
            "per_day_share",
            "a day",
            Unit::Share,
            "What is used more every day: the median of the slopes between all pairs of days (Theil-Sen) of \
             the last 56 days, or since the last step.",
        ),
        figure(
            "full",
            "full",
            Unit::Text,
            "When 95 % will be used, in words; or why that is not known.",
        ),
        figure(
            "days_to_full",
            "days to full",
            Unit::Days,
            "Days from the end of the report until 95 % are used, at that pace: between low and high in eight \
             of ten cases, by how such forecasts fared in the past. Nothing: not within 180 days, or it \
             says why it is not known.",
        ),
        figure("days_used", "from days", Unit::Days, "Days that the pace is made of."),
    ]
}

fn outlook(input: &Input, ahead: &Ahead) -> Block {
    let mut rows = Vec::new();
    for ((id, name), told) in &ahead.weeks {
        let week = told.week.as_ref().ok();
        let errors = week.and_then(|week| week.errors);
        let why = told.week.as_ref().err().map_or("never tried", |refusal| refusal.words());
        let known = |value: Option<f64>| Value::or(value.filter(|v| v.is_finite()), why);
        let next = match told.next {
            Ok(next) => (interval(next.p95), Value::Number(next.enough)),
            Err(refusal) => (Value::Unknown(refusal.words()), Value::Unknown(refusal.words())),
        };
        rows.push(vec![
            text(name_of(input, *id)),
            text(*name),
            next.0,
            next.1,
            week.and_then(peak).map_or(Value::Unknown(why), |(_, peak)| interval(peak)),
            week.and_then(peak)
                .map_or(Value::Unknown(why), |(ahead, _)| Value::Time(at(input, ahead))),
            known(week.map(|week| week.slope_per_day)),
            week.map_or(Value::Unknown(why), |week| text(week.method.words())),
            known(errors.map(|errors| errors.used)),
            known(errors.map(|errors| errors.five)),
            known(errors.map(|errors| errors.naive)),
            Value::or(errors.map(|errors| errors.n_origins as f64), why),
        ]);
    }
    let title = ("outlook", "The next week of processors and memory");
    table(title, outlook_columns(), rows, "Neither processors nor memory were sampled.")
}

fn outlook_columns() -> Vec<Column> {
    let n = |key, title, definition| figure(key, title, Unit::Number, definition);
    vec![
        key("server", "server", "Name of the server."),
        key("resource", "resource", "cpu: busy processors; memory: not available to programs."),
        figure(
            "next_p95_share",
            "next p95",
            Unit::Share,
            "The p95 of one-minute means in the seven days after the report: likeliest, and between low and \
             high in eight of ten cases.",
        ),
        figure(
            "enough_share",
            "enough",
            Unit::Share,
            "What would be enough for that p95 in about seven of eight weeks.",
        ),
        figure(
            "peak_share",
            "peak hour",
            Unit::Share,
            "The mean of the busiest hour of the next seven days, by the forecast of hours.",
        ),
        figure("peak_at", "peak at", Unit::Time, "When that hour begins."),
        figure(
            "per_day_share",
            "a day",
            Unit::Share,
            "What the level rises by in a day: Theil-Sen slope of the medians of days, last eight weeks.",
        ),
        figure(
            "method",
            "method",
            Unit::Text,
            "How it is foretold: as did best on the server's own past.",
        ),
        n(
            "mase",
            "error",
            "Mean absolute error of forecasts of a week ahead by the hour, from several days in the server's \
             own past, by the mean absolute difference of hours one day apart. Less is better.",
        ),
        n("mase_five", "error of five", "The same of the median of five simple forecasts."),
        n("mase_naive", "error of naive", "The same of the last day, repeated."),
        n("tries", "tries", "Forecasts in the past that the errors are made of."),
    ]
}

/// The busiest hour of a week: which, and what it will be.
fn peak(week: &Week) -> Option<(usize, Expected)> {
    week.hours.iter().copied().enumerate().max_by(|a, b| a.1.mid.total_cmp(&b.1.mid))
}

fn at(input: &Input, ahead: usize) -> UnixMillis {
    UnixMillis::from_second(input.hours.end + ahead as i64 * HOUR_S)
}

fn bars(input: &Input, ahead: &Ahead) -> Option<Block> {
    let mut bars: Vec<(String, f64)> = Vec::new();
    for ((id, name, mount), told) in &ahead.fills {
        if let Some(days) = told.ok().and_then(|filling| filling.days) {
            bars.push((format!("{} {name} {mount}", name_of(input, *id)), days.mid));
        }
    }
    bars.sort_by(|a, b| a.1.total_cmp(&b.1));
    bars.truncate(BARS_MAX);
    (!bars.is_empty()).then(|| {
        let soonest = &bars[0];
        Block::Chart(Chart {
            key: "days_to_full".to_owned(),
            title: "Days until disks are full".to_owned(),
            words: format!("The first is {}: {}.", soonest.0, until_full(soonest.1)),
            unit: Unit::Days,
            plot: Plot::Bars(bars.into_iter().rev().collect()),
        })
    })
}

/// The fullest servers by what is expected of next week.
fn charts(input: &Input, ahead: &Ahead, settings: &Settings) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (name, metric) in TOLD {
        let mut found: Vec<(f64, ServerId, &Week)> = Vec::new();
        for ((id, of), told) in &ahead.weeks {
            if let (true, Ok(week)) = (*of == name, &told.week) {
                let fullest = told.next.map(|next| next.p95.mid).unwrap_or_default();
                found.push((fullest, *id, week));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let limit = if name == "cpu" { settings.limits.cpu } else { settings.limits.memory };
        for (_, id, week) in found.into_iter().take(CHARTS_MAX) {
            let Some(server) = input.servers.get(&id) else { continue };
            if let Some(series) = server.plain(metric) {
                blocks.push(chart(input, (server, name), (series, week), limit));
            }
        }
    }
    blocks
}

fn chart(
    input: &Input,
    (server, name): (&Server, &str),
    (series, week): (&Series, &Week),
    limit: f64,
) -> Block {
    let shown = past(&series.mean, SHOWN_H);
    let first = input.hours.end - shown.len() as i64 * HOUR_S;
    let time = |second: i64| UnixMillis::from_second(second);
    let points = |from: i64, values: &mut dyn Iterator<Item = Option<f64>>| {
        (0..).zip(values).map(|(ix, value)| (time(from + ix * HOUR_S), value)).collect()
    };
    let was = points(first, &mut shown.iter().copied());
    let comes = points(input.hours.end, &mut week.hours.iter().map(|hour| Some(hour.mid)));
    let band =
        (0..).zip(&week.hours).map(|(ix, hour): (usize, _)| (at(input, ix), hour.low, hour.high));
    let peak = peak(week).map_or(0.0, |(_, peak)| peak.mid);
    let what = if name == "cpu" { "Processors" } else { "Memory" };
    Block::Chart(Chart {
        key: format!("{name}_{}", server.name),
        title: format!("{what} of {}", server.name),
        words: format!(
            "The last three weeks by the hour, and the next one as expected: the busiest hour at about \
             {:.0} %.",
            peak * 100.0
        ),
        unit: Unit::Share,
        plot: Plot::Lines {
            from: time(first),
            to: at(input, week.hours.len()),
            lines: vec![
                Line { name: "measured".to_owned(), stroke: Stroke::Solid, points: was },
                Line { name: "expected".to_owned(), stroke: Stroke::Dashed, points: comes },
            ],
            band: band.collect(),
            limit: Some((limit, "limit".to_owned())),
        },
    })
}
