//! What makes a capacity report less than whole, in sentences. Pure.

use super::input::{Input, Server};
use crate::report::ask::Ask;
use wire::UnixMillis;

/// Hours without a sample that are told one by one.
const GAP_H: usize = 24;
/// Below so many days of samples a server's figures are of its first days.
const DAYS_MIN: f64 = 14.0;
/// Names in one sentence.
const NAMES_MAX: usize = 8;

/// All of them, the weightiest first.
pub(super) fn of(input: &Input, ask: &Ask) -> Vec<String> {
    let mut said = Vec::new();
    said.extend(without(input));
    said.extend(short(input));
    said.extend(gaps(input));
    said.extend(by_hour(input));
    said.extend(rounded(input, ask));
    said
}

fn rounded(input: &Input, ask: &Ask) -> Option<String> {
    let is_whole = ask.from.0 == input.hours.start * 1000 && ask.to.0 == input.hours.end * 1000;
    (!is_whole).then(|| {
        "Reports are over whole hours (UTC): the time asked for was rounded outward to them."
            .to_owned()
    })
}

fn without(input: &Input) -> Option<String> {
    let silent = input.servers.values().filter(|server| server.seen.n() == 0);
    let names: Vec<&str> = silent.map(|server| server.name.as_str()).collect();
    match names.len() {
        0 => None,
        n if n == input.servers.len() => Some("There are no samples of this time.".to_owned()),
        _ => Some(format!("No samples of this time: {}.", listed(&names))),
    }
}

fn short(input: &Input) -> Option<String> {
    let is_short = |server: &&Server| server.seen.n() > 0 && server.n_days() < DAYS_MIN;
    let names: Vec<String> = input
        .servers
        .values()
        .filter(is_short)
        .map(|server| format!("{} ({:.1} days)", server.name, server.n_days()))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| {
        format!(
            "Less than {DAYS_MIN} days between the first and the last sample, so no smaller plan is advised \
             and forecasts are rough: {}.",
            listed(&names)
        )
    })
}

fn gaps(input: &Input) -> Option<String> {
    let has_gap = |server: &&Server| server.seen.longest_gap() >= GAP_H;
    let names: Vec<String> = input
        .servers
        .values()
        .filter(has_gap)
        .map(|server| {
            let days = server.seen.longest_gap() as f64 / 24.0;
            let covered = server.coverage().unwrap_or(0.0) * 100.0;
            format!("{} (longest {days:.1} days, {covered:.0} % covered)", server.name)
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| {
        format!(
            "A day or more without a sample: {}. Figures are of the minutes that were sampled.",
            listed(&names)
        )
    })
}

/// Minutes with errors that are known by their hour only.
fn by_hour(input: &Input) -> Option<String> {
    let n: u64 = input.servers.values().map(|server| server.n_errors_by_hour).sum();
    if n == 0 {
        return None;
    }
    let until = match input.raw_from {
        Some(second) => {
            let at = UnixMillis::from_second(second).to_rfc3339().replace('T', " ");
            format!("Before {} UTC, and where", at.get(..16).unwrap_or(&at))
        }
        None => "Where".to_owned(),
    };
    Some(format!(
        "{until} samples cannot be read, there are only sums of hours: {n} minutes with gateway errors are told \
         by what held in their hour, not in the minute."
    ))
}

/// Some names, and how many more.
fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
