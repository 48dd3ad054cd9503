//! Tables of sites, owners and servers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::figures::{Figures, OfSite, Time};
use super::minutes::Minutes;
use crate::model::ServerId;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Chart, Column, Level, Plot, Section, Table, Unit, Value};
use crate::report::words;

/// Sites that are listed: those that lost most.
const SITES_MAX: usize = 1000;
/// Bars of a chart.
const BARS_MAX: usize = 12;
const NO_BUDGET: &str = "the objective allows no lost minute";
const NO_OWNER: &str = "discovery found none";

const EXISTED: &str = "minutes of the report's time in which the site existed, as far as is known: from when it was first named by its agent, or from its first request or failure when that was earlier, until now, or until its server was last heard. Of several sites the sum";
const LOST: &str = "clock minutes (UTC) in which the site was inside of an incident at any instant, from its first failure in it to its last; a minute in several incidents counts once. Of several sites the sum. An agent's silence says nothing of sites and costs none";
const SLOW: &str = "of the lost minutes, those that were in slow burns alone: incidents in which a small share of the requests failed, for long";
const AVAILABILITY: &str =
    "1 - lost minutes / minutes in which the site existed; of several sites over all their minutes";
const BUDGET_USED: &str = "lost minutes / ((1 - objective) x minutes in which the site existed); above 100 %: more than may be";

/// What all sites were together.
pub(super) fn totals(figures: &Figures<'_>) -> Section {
    const COLUMNS: [Column; 10] = [
        about("scope", "of", "whom the figures are about"),
        figure("sites", "sites", Unit::Count, "sites that existed in the report's time"),
        figure(
            "incidents",
            "incidents",
            Unit::Count,
            "incidents that a site or server of the report was inside of, in its time; those that were merged into another one are part of it",
        ),
        figure("availability_ratio", "availability", Unit::Share, AVAILABILITY),
        figure(
            "objective_ratio",
            "objective",
            Unit::Share,
            "what the availability is to be at least (`slo`)",
        ),
        figure("budget_used_ratio", "budget used", Unit::Share, BUDGET_USED),
        figure("lost_minutes", "lost", Unit::Minutes, LOST),
        figure("slow_minutes", "slow burn", Unit::Minutes, SLOW),
        figure(
            "budget_minutes",
            "may be lost",
            Unit::Minutes,
            "(1 - objective) x minutes in which the sites existed",
        ),
        figure("site_minutes", "site-minutes", Unit::Minutes, EXISTED),
    ];
    let total = figures.total();
    let row = vec![
        Value::Text("all sites".to_owned()),
        Value::Count(figures.sites.len() as u64),
        Value::Count(figures.incidents.len() as u64),
        availability(&total),
        Value::Number(figures.slo),
        budget_used(&total, figures.slo),
        Value::Count(total.n_lost),
        Value::Count(total.n_slow),
        Value::Number(total.budget(figures.slo)),
        Value::Count(total.n),
    ];
    let table = Table {
        key: "totals",
        title: "All sites together".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: if figures.sites.is_empty() { Vec::new() } else { vec![row] },
        empty: "No site was known in this time.",
    };
    Section {
        key: "totals",
        title: "Availability".to_owned(),
        text: Vec::new(),
        blocks: vec![Block::Table(table)],
    }
}

const OF_OWNERS: [Column; 10] = [
    about(
        "owner",
        "customer",
        "whose the sites are: the Unix user that the agent found to own them, or else the label `customer` of their server; the same name on several servers is one customer",
    ),
    figure("servers", "servers", Unit::Count, "servers with sites of the customer"),
    figure(
        "sites",
        "sites",
        Unit::Count,
        "sites of the customer that existed in the report's time",
    ),
    figure("availability_ratio", "availability", Unit::Share, AVAILABILITY),
    figure("budget_used_ratio", "budget used", Unit::Share, BUDGET_USED),
    figure("lost_minutes", "lost site-minutes", Unit::Minutes, LOST),
    figure(
        "any_minutes",
        "any site down",
        Unit::Minutes,
        "clock minutes in which at least one site of the customer lost its minute",
    ),
    figure("crawler_errors", "seen by crawlers", Unit::Count, CRAWLER),
    figure("worst_site", "worst site", Unit::Text, "the site that lost most minutes"),
    figure("site_minutes", "site-minutes", Unit::Minutes, EXISTED),
];

/// Minutes lost by whose sites they are.
pub(super) fn owners(figures: &Figures<'_>) -> Section {
    let mut by_owner: BTreeMap<Option<&str>, Vec<&OfSite<'_>>> = BTreeMap::new();
    for of in figures.worst() {
        by_owner.entry(of.owner).or_default().push(of);
    }
    let mut rows: Vec<(Time, String, Vec<Value>)> = Vec::new();
    for (owner, sites) in by_owner {
        let time = sum(&sites);
        let servers: BTreeSet<&str> = sites.iter().map(|of| of.server.name.as_str()).collect();
        let worst = sites.first().filter(|of| of.time.n_lost > 0);
        let name = owner.unwrap_or("not known").to_owned();
        let row = vec![
            Value::Text(name.clone()),
            Value::Count(servers.len() as u64),
            Value::Count(sites.len() as u64),
            availability(&time),
            budget_used(&time, figures.slo),
            Value::Count(time.n_lost),
            Value::Count(Minutes::union(sites.iter().map(|of| &of.lost)).n()),
            Value::Count(sites.iter().map(|of| of.site.n_crawler).sum()),
            worst.map_or(Value::Unknown("none lost a minute"), |of| {
                Value::Text(of.site.name.clone())
            }),
            Value::Count(time.n),
        ];
        rows.push((time, name, row));
    }
    rows.sort_by(|a, b| (b.0.n_lost, &a.1).cmp(&(a.0.n_lost, &b.1)));
    let bars = rows.iter().filter(|(time, ..)| time.n_lost > 0).take(BARS_MAX);
    let bars: Vec<(String, f64)> =
        bars.map(|(time, name, _)| (name.clone(), time.n_lost as f64)).collect();
    let table = Table {
        key: "owners",
        title: "By customer".to_owned(),
        columns: OF_OWNERS.to_vec(),
        rows: rows.into_iter().map(|(.., row)| row).collect(),
        empty: "No site was known in this time.",
    };
    let mut blocks = vec![Block::Table(table)];
    if bars.len() > 1 {
        blocks.insert(0, Block::Chart(lost_bars(bars)));
    }
    let text = vec!["A minute is lost when the site was inside of an incident in it; a customer loses the minutes of each of its sites.".to_owned()];
    Section { key: "owners", title: "Customers".to_owned(), text, blocks }
}

fn lost_bars(bars: Vec<(String, f64)>) -> Chart {
    let worst = bars.first().map_or(String::new(), |(name, n)| {
        format!("{name} lost most: {}", words::minutes(*n as u64))
    });
    Chart {
        key: "lost_by_owner".to_owned(),
        title: "Site-minutes lost, by customer".to_owned(),
        words: format!("Bars, one for each customer that lost minutes. {worst}."),
        unit: Unit::Minutes,
        plot: Plot::Bars(bars),
    }
}

const CRAWLER: &str = "gateway errors answered to crawlers of search engines, by the `User-Agent` they gave, which nobody verified; in whole hours";

const OF_SITES: [Column; 14] = [
    about("site", "site", "primary name of the virtual host; `other` is what no known site took"),
    about("server", "server", "the server it is on"),
    figure("owner", "customer", Unit::Text, "whose it is: see the table of customers"),
    figure("availability_ratio", "availability", Unit::Share, AVAILABILITY),
    figure("budget_used_ratio", "budget used", Unit::Share, BUDGET_USED),
    figure("lost_minutes", "lost", Unit::Minutes, LOST),
    figure("slow_minutes", "slow burn", Unit::Minutes, SLOW),
    figure(
        "longest_minutes",
        "longest",
        Unit::Minutes,
        "the longest run of lost minutes that follow each other",
    ),
    figure("incidents", "incidents", Unit::Count, "incidents that the site was inside of"),
    figure("requests", "requests", Unit::Count, "requests logged, in whole hours"),
    figure(
        "gateway_errors",
        "gateway errors",
        Unit::Count,
        "answers with 502 or 504, or with a 503 that a gateway made, inside and outside of incidents; in whole hours",
    ),
    figure(
        "bad_minutes",
        "minutes with errors",
        Unit::Minutes,
        "clock minutes with at least one answer of 502, 503 or 504, inside and outside of incidents; in whole hours",
    ),
    figure("crawler_errors", "seen by crawlers", Unit::Count, CRAWLER),
    figure("site_minutes", "existed", Unit::Minutes, EXISTED),
];

/// Each site's availability.
pub(super) fn sites(figures: &Figures<'_>) -> Section {
    let worst = figures.worst();
    let row = |of: &&OfSite<'_>| {
        vec![
            Value::Text(of.site.name.clone()),
            Value::Text(of.server.name.clone()),
            of.owner.map_or(Value::Unknown(NO_OWNER), |owner| Value::Text(owner.to_owned())),
            availability(&of.time),
            budget_used(&of.time, figures.slo),
            Value::Count(of.time.n_lost),
            Value::Count(of.time.n_slow),
            Value::Count(of.lost.longest()),
            Value::Count(of.n_incidents),
            Value::Count(of.site.n_requests),
            Value::Count(of.site.n_errors),
            Value::Count(of.site.n_bad_minutes),
            Value::Count(of.site.n_crawler),
            Value::Count(of.time.n),
        ]
    };
    let rows: Vec<Vec<Value>> = worst.iter().take(SITES_MAX).map(row).collect();
    let mut text = Vec::new();
    if let Some(rest) = worst.get(SITES_MAX..).filter(|rest| !rest.is_empty()) {
        let more = sum(rest);
        text.push(format!(
            "The {} that lost most are listed; {} lost {} together.",
            words::many(rows.len() as u64, "site", "sites"),
            words::many(rest.len() as u64, "other", "others"),
            words::minutes(more.n_lost),
        ));
    }
    let table = Table {
        key: "sites",
        title: "By site".to_owned(),
        columns: OF_SITES.to_vec(),
        rows,
        empty: "No site was known in this time.",
    };
    Section { key: "sites", title: "Sites".to_owned(), text, blocks: vec![Block::Table(table)] }
}

/// Each server's.
pub(super) fn servers(figures: &Figures<'_>) -> Section {
    const COLUMNS: [Column; 9] = [
        about("server", "server", "its name"),
        figure("sites", "sites", Unit::Count, "its sites that existed in the report's time"),
        figure("availability_ratio", "availability", Unit::Share, AVAILABILITY),
        figure("budget_used_ratio", "budget used", Unit::Share, BUDGET_USED),
        figure("lost_minutes", "lost site-minutes", Unit::Minutes, LOST),
        figure(
            "any_minutes",
            "any site down",
            Unit::Minutes,
            "clock minutes in which at least one of its sites lost its minute",
        ),
        figure(
            "incidents",
            "incidents",
            Unit::Count,
            "incidents that it, or a site of it, was inside of",
        ),
        figure(
            "silent_minutes",
            "silent",
            Unit::Minutes,
            "clock minutes in which its agent was inside of an incident of silence: what its sites did then was not seen until it came back, and they lost none by it",
        ),
        figure("site_minutes", "site-minutes", Unit::Minutes, EXISTED),
    ];
    let mut of_servers: BTreeMap<ServerId, Vec<&OfSite<'_>>> = BTreeMap::new();
    for of in figures.sites.values() {
        of_servers.entry(of.site.server).or_default().push(of);
    }
    let mut n_incidents: BTreeMap<ServerId, u64> = BTreeMap::new();
    for id in figures.incidents.values().flat_map(|of| &of.servers) {
        *n_incidents.entry(*id).or_default() += 1;
    }
    let mut rows: Vec<(u64, &str, Vec<Value>)> = Vec::new();
    for (id, server) in &figures.input.servers {
        let sites = of_servers.remove(id).unwrap_or_default();
        let time = sum(&sites);
        let row = vec![
            Value::Text(server.name.clone()),
            Value::Count(sites.len() as u64),
            availability(&time),
            budget_used(&time, figures.slo),
            Value::Count(time.n_lost),
            Value::Count(Minutes::union(sites.iter().map(|of| &of.lost)).n()),
            Value::Count(n_incidents.get(id).copied().unwrap_or(0)),
            Value::Count(figures.silent.get(id).map_or(0, Minutes::n)),
            Value::Count(time.n),
        ];
        rows.push((time.n_lost, &server.name, row));
    }
    rows.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    let table = Table {
        key: "servers",
        title: "By server".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: rows.into_iter().map(|(.., row)| row).collect(),
        empty: "No server was asked for.",
    };
    Section {
        key: "servers",
        title: "Servers".to_owned(),
        text: Vec::new(),
        blocks: vec![Block::Table(table)],
    }
}

/// Whom crawlers saw failing.
pub(super) fn crawlers(figures: &Figures<'_>) -> Section {
    const COLUMNS: [Column; 5] = [
        about("site", "site", "primary name of the virtual host"),
        about("server", "server", "the server it is on"),
        figure("owner", "customer", Unit::Text, "whose it is: see the table of customers"),
        figure("crawler_errors", "seen by crawlers", Unit::Count, CRAWLER),
        figure(
            "crawler_ratio",
            "of its errors",
            Unit::Share,
            "share of the site's gateway errors that crawlers saw",
        ),
    ];
    let mut sites: Vec<&OfSite<'_>> =
        figures.sites.values().filter(|of| of.site.n_crawler > 0).collect();
    sites.sort_by(|a, b| (b.site.n_crawler, &a.site.name).cmp(&(a.site.n_crawler, &b.site.name)));
    let row = |of: &&OfSite<'_>| {
        let n_errors = of.site.n_errors.max(of.site.n_crawler);
        vec![
            Value::Text(of.site.name.clone()),
            Value::Text(of.server.name.clone()),
            of.owner.map_or(Value::Unknown(NO_OWNER), |owner| Value::Text(owner.to_owned())),
            Value::Count(of.site.n_crawler),
            Value::Number(of.site.n_crawler as f64 / n_errors as f64),
        ]
    };
    let table = Table {
        key: "crawlers",
        title: "Gateway errors that search engines saw".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: sites.iter().take(100).map(row).collect(),
        empty: "No crawler of a search engine saw a gateway error.",
    };
    let text = vec!["A search engine that meets 502s visits less often, and drops pages that stay away for long.".to_owned()];
    Section {
        key: "crawlers",
        title: "What search engines saw".to_owned(),
        text,
        blocks: vec![Block::Table(table)],
    }
}

/// How much it matters that so much of a budget is used.
pub(super) fn level(time: &Time, slo: f64) -> Level {
    if time.n_lost == 0 {
        Level::Good
    } else if time.is_over(slo) {
        Level::Warning
    } else {
        Level::Note
    }
}

fn sum(sites: &[&OfSite<'_>]) -> Time {
    let mut time = Time::default();
    for of in sites {
        time.add(of.time);
    }
    time
}

fn availability(time: &Time) -> Value {
    Value::or(time.availability(), "no site existed in this time")
}

fn budget_used(time: &Time, slo: f64) -> Value {
    let why = if time.n == 0 { "no site existed in this time" } else { NO_BUDGET };
    Value::or(time.budget_used(slo), why)
}
