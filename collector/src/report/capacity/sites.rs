//! Sites: how much they are asked for, and their share of a server. Pure.

use std::cmp::Reverse;

use super::columns::{figure, key, number, section, table, text};
use super::input::{Input, Server, Site};
use crate::report::document::{Column, Section, Unit, Value};

/// Sites that are listed.
pub(super) const LISTED_MAX: usize = 2_000;

/// The table of sites, those that failed most first.
pub(super) fn section_of(input: &Input) -> Section {
    let mut found: Vec<(&Server, &Site)> = Vec::new();
    for server in input.servers.values() {
        found.extend(server.sites.iter().map(|site| (server, site)));
    }
    let n = found.len();
    found.sort_by_key(|(server, site)| {
        (Reverse((site.n_bad_minutes, site.n)), &server.name, &site.name)
    });
    found.truncate(LISTED_MAX);
    let rows = found.into_iter().map(|(server, site)| row(server, site)).collect();
    let cut =
        format!("The {LISTED_MAX} of {n} sites with most bad minutes and requests are listed.");
    let said: &[&str] = if n > LISTED_MAX { &[&cut] } else { &[] };
    let title = ("sites", "Sites");
    section(title, said, vec![table(title, columns(), rows, "No site was asked for anything.")])
}

fn row(server: &Server, site: &Site) -> Vec<Value> {
    let all: u64 = server.sites.iter().map(|site| site.n).sum();
    let share = |n: u64, of: u64| number((of > 0).then(|| n as f64 / of as f64));
    let rate = site.rate;
    vec![
        text(&server.name),
        text(&site.name),
        text(site.owner.as_deref().unwrap_or_default()),
        text(site.pool.as_deref().unwrap_or_default()),
        Value::Count(site.n),
        share(site.n, all),
        number(rate.map(|rate| rate.0)),
        number(rate.map(|rate| rate.1)),
        number(rate.map(|rate| rate.2)),
        Value::Count(site.n_gateway),
        share(site.n_gateway, site.n),
        Value::Count(site.n_bad_minutes),
    ]
}

fn columns() -> Vec<Column> {
    let rate = |key, title, definition| figure(key, title, Unit::PerSecond, definition);
    vec![
        key("server", "server", "Name of the server."),
        key("site", "site", "Name of the site."),
        figure("owner", "owner", Unit::Text, "Whose it is, as discovery found it."),
        figure("pool", "pool", Unit::Text, "PHP-FPM pool that answers for it."),
        figure("requests", "requests", Unit::Count, "Requests that its access logs count."),
        figure(
            "requests_share",
            "share of server",
            Unit::Share,
            "Its share of the requests of all sites of the server.",
        ),
        rate(
            "p50_per_second",
            "p50 /s",
            "Requests a second by the hour: half of the hours from its first to its last request are below.",
        ),
        rate("p95_per_second", "p95 /s", "95 of 100 of these hours are below."),
        rate("max_per_second", "max /s", "The busiest hour."),
        figure(
            "gateway_errors",
            "gateway errors",
            Unit::Count,
            "Answers 502 and 504, and 503 where the gateway gave them for a backend.",
        ),
        figure("gateway_share", "failed", Unit::Share, "Gateway errors by requests."),
        figure(
            "bad_minutes",
            "bad minutes",
            Unit::Minutes,
            "Minutes in which at least one answer was 502, 503 or 504.",
        ),
    ]
}
