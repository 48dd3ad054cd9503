//! The capacity report: what is used of what there is, how long it lasts, which plan fits. Pure.
//!
//! ```text
//! Input -> Ahead (forecasts) -> Need of each server -> Advice -> sections, findings, caveats
//! ```

mod ahead;
mod caveats;
mod columns;
pub mod errors;
mod findings;
pub mod input;
mod needs;
pub mod parts;
mod plans;
mod pools;
mod saturation;
mod servers;
mod sites;
#[cfg(test)]
mod tests;
mod usage;

pub use input::Input;

use wire::UnixMillis;

use super::ask::Ask;
use super::document::{Kind, Report};
use super::need::Need;
use super::settings::Settings;
use ahead::Ahead;

/// The report about what was read. Of servers without samples it says so and tells no number.
#[must_use]
pub fn report(input: &Input, settings: &Settings, ask: &Ask) -> Report {
    let ahead = Ahead::of(input);
    let needs: Vec<Need> =
        input.servers.iter().map(|(id, server)| needs::need(&ahead, *id, server)).collect();
    let advice = plans::advised(&needs, settings);
    let sections = vec![
        servers::section_of(input, settings),
        plans::section_of(&needs, &advice, settings),
        ahead::section_of(input, &ahead, settings),
        saturation::saturation(input, settings),
        usage::utilization(input, settings),
        pools::section_of(input, settings),
        sites::section_of(input),
        errors::section_of(input),
        usage::labels(input, settings),
    ];
    Report {
        kind: Kind::Capacity,
        title: "Capacity".to_owned(),
        scope: scope(input, ask),
        from: UnixMillis::from_second(input.hours.start),
        to: UnixMillis::from_second(input.hours.end),
        made_at: ask.now,
        caveats: caveats::of(input, ask),
        findings: findings::of(input, &ahead, (&needs, &advice), settings),
        sections,
    }
}

/// Whom it is about: `all 12 servers`, `3 servers with customer=acme`.
fn scope(input: &Input, ask: &Ask) -> String {
    let labels: Vec<String> =
        ask.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let with =
        if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(", ")) };
    if let Some(server) = &ask.server {
        return format!("server {server}{with}");
    }
    let of = match (input.servers.len(), labels.is_empty()) {
        (1, true) => "the only server".to_owned(),
        (1, false) => "1 server".to_owned(),
        (n, true) => format!("all {n} servers"),
        (n, false) => format!("{n} servers"),
    };
    of + &with
}
