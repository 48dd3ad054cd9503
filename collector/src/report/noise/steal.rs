//! Hypervisors by the time of processors that they take away. Pure.

use std::collections::BTreeMap;

use super::Input;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Chart, Column, Plot, Section, Table, Unit, Value};
use crate::report::settings::Settings;
use crate::report::words;
use crate::store::history::Spread;

const LABEL: &str = "hypervisor";
const BARS_MAX: usize = 12;
const ROWS_MAX: usize = 200;

/// A hypervisor, or the servers of which it is not known.
pub(super) struct Taken<'i> {
    pub(super) name: Option<&'i str>,
    pub(super) n_servers: u64,
    /// All minutes of all its servers.
    pub(super) spread: Spread,
    /// Share of them with more steal than the limit.
    pub(super) above: f64,
    /// The server that loses most, and its share above the limit.
    pub(super) worst: (&'i str, f64),
}

/// Those with samples, the most stolen first.
pub(super) fn ranked<'i>(input: &'i Input, settings: &Settings) -> Vec<Taken<'i>> {
    let limit = settings.limits.steal;
    let above = |spread: &Spread| spread.share_above(limit).unwrap_or(0.0);
    let mut by_name: BTreeMap<Option<&str>, Taken<'i>> = BTreeMap::new();
    for (id, spread) in &input.steal {
        let Some(server) = input.servers.get(id) else { continue };
        let name = server.labels.get(LABEL).map(String::as_str);
        let own = (server.name.as_str(), above(spread));
        by_name
            .entry(name)
            .and_modify(|taken| {
                taken.n_servers += 1;
                taken.spread.merge(spread);
                if own.1 > taken.worst.1 {
                    taken.worst = own;
                }
            })
            .or_insert_with(|| Taken {
                name,
                n_servers: 1,
                spread: spread.clone(),
                above: 0.0,
                worst: own,
            });
    }
    let mut all: Vec<Taken<'i>> = by_name.into_values().collect();
    for taken in &mut all {
        taken.above = above(&taken.spread);
    }
    all.sort_by(|a, b| {
        let means = b.spread.mean().total_cmp(&a.spread.mean());
        b.above.total_cmp(&a.above).then(means).then(a.name.cmp(&b.name))
    });
    all
}

const COLUMNS: [Column; 9] = [
    about("hypervisor", "hypervisor", "value of the label `hypervisor` of its servers"),
    figure("servers", "servers", Unit::Count, "servers of the report on it with samples"),
    figure(
        "above_ratio",
        "time above the limit",
        Unit::Share,
        "share of the minutes of all these servers in which the mean stolen share of processor time was above the limit; minutes less than 2.1 % above it may be left out",
    ),
    figure(
        "mean_ratio",
        "mean",
        Unit::Share,
        "mean of the stolen share of processor time over all samples of these servers",
    ),
    figure(
        "p95_ratio",
        "p95",
        Unit::Share,
        "95 of 100 one-minute means of all these servers are below, within 1 %",
    ),
    figure("max_ratio", "largest", Unit::Share, "the largest sample of any of them"),
    figure(
        "worst_server",
        "hit most",
        Unit::Text,
        "the server with the largest share of minutes above the limit",
    ),
    figure(
        "worst_above_ratio",
        "its time above",
        Unit::Share,
        "share of that server's minutes above the limit; minutes less than 2.1 % above it may be left out",
    ),
    figure(
        "minutes",
        "server-minutes",
        Unit::Minutes,
        "minutes with samples, of all these servers",
    ),
];

/// The ranking.
pub(super) fn section(input: &Input, settings: &Settings) -> Section {
    let all = ranked(input, settings);
    let row = |taken: &Taken<'_>| {
        let spread = &taken.spread;
        vec![
            Value::Text(taken.name.unwrap_or("not known").to_owned()),
            Value::Count(taken.n_servers),
            Value::Number(taken.above),
            Value::Number(spread.mean()),
            Value::or(spread.quantile(0.95), "there are no samples"),
            Value::Number(spread.max()),
            Value::Text(taken.worst.0.to_owned()),
            Value::Number(taken.worst.1),
            Value::Count(spread.n_minutes()),
        ]
    };
    let table = Table {
        key: "hypervisors",
        title: "Stolen time by hypervisor".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: all.iter().take(ROWS_MAX).map(row).collect(),
        empty: "No server sampled stolen time.",
    };
    let mut blocks = vec![Block::Table(table)];
    let named = all.iter().filter(|taken| taken.above > 0.0).take(BARS_MAX);
    let bars: Vec<(String, f64)> =
        named.map(|taken| (taken.name.unwrap_or("not known").to_owned(), taken.above)).collect();
    if all.len() > 1 && !bars.is_empty() {
        let chart = Chart {
            key: "steal_by_hypervisor".to_owned(),
            title: "Share of server-minutes above the limit, by hypervisor".to_owned(),
            words: format!("Bars, one for each hypervisor that steals. Most: {}.", bars[0].0),
            unit: Unit::Share,
            plot: Plot::Bars(bars),
        };
        blocks.insert(0, Block::Chart(chart));
    }
    let limit = words::percent(settings.limits.steal);
    let text = vec![format!(
        "A server is stolen from while its hypervisor lets others run. The limit is {limit} of the processors' \
         time; what is above it is the provider's debt, and no larger plan on the same hypervisor helps."
    )];
    Section { key: "hypervisors", title: "Hypervisors".to_owned(), text, blocks }
}
