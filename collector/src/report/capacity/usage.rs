//! How much of each resource was used: by server, by label, and what has no end. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::columns::{count, figure, key, number, percentiles, section, table, text};
use super::input::{Input, Series, Server};
use super::parts::View;
use crate::report::document::{Block, Column, Section, Unit, Value};
use crate::report::settings::{Limits, Settings};

/// How samples of a metric become shares.
#[derive(Clone, Copy)]
enum Scale {
    /// They are shares.
    Plain,
    /// Milliseconds of a second.
    Milli,
    /// By how much there is.
    OfSize,
}

/// Something there is only so much of.
pub(super) struct Resource {
    /// What a report calls it.
    pub(super) name: &'static str,
    /// The metric that says how much of it is used.
    pub(super) metric: &'static str,
    scale: Scale,
    /// Above what it counts as too full.
    pub(super) limit: fn(&Limits) -> f64,
}

/// All of them, in order of the report.
pub(super) const RESOURCES: [Resource; 11] = [
    Resource {
        name: "cpu",
        metric: "system.cpu.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.cpu,
    },
    Resource {
        name: "memory",
        metric: "system.memory.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.memory,
    },
    Resource {
        name: "swap",
        metric: "system.swap.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.swap,
    },
    Resource {
        name: "disk",
        metric: "system.filesystem.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.disk,
    },
    Resource {
        name: "inodes",
        metric: "system.filesystem.inodes.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.disk,
    },
    Resource {
        name: "io",
        metric: "system.disk.io_time",
        scale: Scale::Milli,
        limit: |limits| limits.io,
    },
    Resource {
        name: "children",
        metric: "phpfpm.active_processes",
        scale: Scale::OfSize,
        limit: |limits| limits.children,
    },
    Resource {
        name: "connections",
        metric: "db.client.connections.usage",
        scale: Scale::OfSize,
        limit: |limits| limits.connections,
    },
    Resource {
        name: "haproxy connections",
        metric: "haproxy.connections.count",
        scale: Scale::OfSize,
        limit: |limits| limits.connections,
    },
    Resource {
        name: "haproxy sessions",
        metric: "haproxy.sessions.count",
        scale: Scale::OfSize,
        limit: |limits| limits.connections,
    },
    Resource {
        name: "conntrack",
        metric: "system.conntrack.utilization",
        scale: Scale::Plain,
        limit: |limits| limits.connections,
    },
];

impl Resource {
    /// The one with this name.
    pub(super) fn named(name: &str) -> &'static Self {
        RESOURCES.iter().find(|resource| resource.name == name).unwrap_or(&RESOURCES[0])
    }

    /// The minutes of a series of it, as shares.
    pub(super) fn view<'a>(&self, series: &'a Series) -> View<'a> {
        match self.scale {
            Scale::Plain => series.parts.plain(),
            Scale::Milli => series.parts.times(0.001),
            Scale::OfSize => series.parts.shares(),
        }
    }

    /// All of it on a server with the name of each: `/srv`.
    pub(super) fn all<'a>(
        &'a self,
        server: &'a Server,
    ) -> impl Iterator<Item = (&'a str, View<'a>)> {
        server.all(self.metric).map(|(name, series)| (name, self.view(series)))
    }
}

/// The figures of a share in a table: their columns.
fn share_columns() -> Vec<Column> {
    let share = |key, title, definition| figure(key, title, Unit::Share, definition);
    vec![
        share(
            "p50_share",
            "p50",
            "Half of the one-minute means are below; within 1 % of the value.",
        ),
        share("p95_share", "p95", "95 of 100 one-minute means are below; within 1 % of the value."),
        share("p99_share", "p99", "99 of 100 one-minute means are below; within 1 % of the value."),
        share("max_share", "max", "The largest single sample; of io the busiest minute."),
        share(
            "above_share",
            "time above limit",
            "Share of the minutes with samples whose mean is above the limit; minutes less than \
             2.1 % above it may be left out.",
        ),
        share(
            "limit_share",
            "limit",
            "Above what a minute counts as too full: `limit_...` of `[report]`.",
        ),
    ]
}

fn share_cells(view: &View<'_>, limit: f64) -> Vec<Value> {
    let mut cells = Vec::from(percentiles(view));
    cells.extend([number(view.share_above(limit)), Value::Number(limit)]);
    cells
}

/// Every resource of every server.
pub(super) fn utilization(input: &Input, settings: &Settings) -> Section {
    let mut rows = Vec::new();
    for server in input.servers.values() {
        for resource in &RESOURCES {
            let limit = (resource.limit)(&settings.limits);
            for (name, view) in resource.all(server).filter(|(_, view)| view.n_minutes() > 0) {
                let mut row = vec![text(&server.name), text(resource.name), text(name)];
                row.extend(share_cells(&view, limit));
                row.extend([count(view.n_above(limit)), Value::Count(view.n_minutes())]);
                rows.push(row);
            }
        }
    }
    let mut columns = vec![
        key("server", "server", "Name of the server."),
        key(
            "resource",
            "resource",
            "cpu: busy processors; memory: not available to programs; swap; disk and inodes: used of what \
             everybody may use; io: time in which the disk was busy; children: busy ones of \
             pm.max_children; connections: of those a database or proxy takes; conntrack: entries.",
        ),
        key("of", "of", "File system, disk, pool or service; empty: the server's own."),
    ];
    columns.extend(share_columns());
    columns.extend([
        figure(
            "above_minutes",
            "minutes above limit",
            Unit::Minutes,
            "Minutes whose mean is above the limit; those less than 2.1 % above it may be left out.",
        ),
        figure(
            "minutes",
            "minutes",
            Unit::Minutes,
            "Minutes with samples: what all of it is made of.",
        ),
    ]);
    let title = ("utilization", "Utilization of every resource");
    let blocks = vec![
        table(title, columns, rows, "Nothing was sampled."),
        throughput(input),
        clients(input),
    ];
    section(
        ("utilization", "Utilization"),
        &["What was used of what there is, by the means of single minutes."],
        blocks,
    )
}

/// What has no limit of its own.
const FLOWS: [(&str, &str); 4] = [
    ("network in", "system.network.io.receive"),
    ("network out", "system.network.io.transmit"),
    ("disk read", "system.disk.io.read"),
    ("disk write", "system.disk.io.write"),
];

fn throughput(input: &Input) -> Block {
    let mut rows = Vec::new();
    for server in input.servers.values() {
        for (what, metric) in FLOWS {
            for (name, series) in server.all(metric) {
                let mut row = vec![text(&server.name), text(what), text(name)];
                row.extend(percentiles(&series.parts.plain()));
                row.push(Value::Number(series.rise));
                rows.push(row);
            }
        }
    }
    let rate = |key, title, definition| figure(key, title, Unit::BytesPerSecond, definition);
    let columns = vec![
        key("server", "server", "Name of the server."),
        key("flow", "flow", "What moved, and which way."),
        key("of", "of", "Network interface or disk."),
        rate("p50_bytes_per_second", "p50", "Half of the minutes moved less; within 1 %."),
        rate("p95_bytes_per_second", "p95", "95 of 100 minutes moved less; within 1 %."),
        rate("p99_bytes_per_second", "p99", "99 of 100 minutes moved less; within 1 %."),
        rate("max_bytes_per_second", "max", "The busiest minute."),
        figure("total_bytes", "total", Unit::Bytes, "What was moved while samples came."),
    ];
    table(("throughput", "Network and disk throughput"), columns, rows, "No traffic was sampled.")
}

/// Connections, also where nobody says how many there may be.
const CLIENTS: [(&str, &str); 6] = [
    ("database", "db.client.connections.usage"),
    ("haproxy", "haproxy.connections.count"),
    ("haproxy sessions", "haproxy.sessions.count"),
    ("nginx", "nginx.connections_current"),
    ("apache workers", "apache.workers"),
    ("tcp established", "system.tcp.established"),
];

fn clients(input: &Input) -> Block {
    let mut rows = Vec::new();
    for server in input.servers.values() {
        for (what, metric) in CLIENTS {
            for (name, series) in server.all(metric) {
                let mut row = vec![text(&server.name), text(what), text(name)];
                row.extend(percentiles(&series.parts.plain()));
                rows.push(row);
            }
        }
    }
    let n = |key, title, definition| figure(key, title, Unit::Number, definition);
    let columns = vec![
        key("server", "server", "Name of the server."),
        key("kind", "kind", "Who holds the connections."),
        key("of", "of", "Service, backend or state."),
        n("p50", "p50", "Half of the one-minute means are below; within 1 %."),
        n("p95", "p95", "95 of 100 one-minute means are below; within 1 %."),
        n("p99", "p99", "99 of 100 one-minute means are below; within 1 %."),
        n("max", "max", "The largest single sample."),
    ];
    table(("connections", "Connections"), columns, rows, "No connections were sampled.")
}

/// Resources that are told of labels, steal among them.
const OF_LABELS: [&str; 6] = ["cpu", "memory", "swap", "disk", "inodes", "io"];

/// The same by label: servers with one value of a label taken together.
pub(super) fn labels(input: &Input, settings: &Settings) -> Section {
    let mut rows = Vec::new();
    for ((label, value), servers) in groups(input, settings) {
        for name in OF_LABELS {
            let resource = Resource::named(name);
            let limit = (resource.limit)(&settings.limits);
            let mut all = View::default();
            let mut n_servers = 0;
            for server in &servers {
                let before = all.n_minutes();
                resource.all(server).for_each(|(_, view)| all.merge(view));
                n_servers += u64::from(all.n_minutes() > before);
            }
            if n_servers > 0 {
                rows.push(label_row([label, value, name], n_servers, &all, limit));
            }
        }
        let mut stolen = View::default();
        let steal = servers.iter().filter_map(|server| server.plain("system.cpu.steal"));
        let n_servers = steal.map(|series| stolen.merge(series.parts.plain())).count() as u64;
        if n_servers > 0 {
            let limit = settings.limits.steal;
            rows.push(label_row([label, value, "steal"], n_servers, &stolen, limit));
        }
    }
    let mut columns = vec![
        key("label", "label", "Key of the label."),
        key(
            "value",
            "value",
            "Its value: the servers that have it count together, minute by minute.",
        ),
        key(
            "resource",
            "resource",
            "As in the table of utilization; steal: stolen processor time.",
        ),
        figure("servers", "servers", Unit::Count, "Servers with samples of it."),
    ];
    columns.extend(share_columns());
    let title = ("labels", "Utilization by label");
    let empty = "No label is shared by two of these servers; choose some with `by`.";
    section(("labels", "By label"), &[], vec![table(title, columns, rows, empty)])
}

fn label_row(keys: [&str; 3], n_servers: u64, view: &View<'_>, limit: f64) -> Vec<Value> {
    let mut row: Vec<Value> = keys.into_iter().map(text).collect();
    row.push(Value::Count(n_servers));
    row.extend(share_cells(view, limit));
    row
}

/// Servers by label and value: of the labels that were chosen, else of those of which two servers share a
/// value and not all of one.
fn groups<'a>(
    input: &'a Input,
    settings: &Settings,
) -> BTreeMap<(&'a str, &'a str), Vec<&'a Server>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Server>> = BTreeMap::new();
    for server in input.servers.values() {
        for (key, value) in &server.labels {
            if settings.by.is_empty() || settings.by.contains(key) {
                groups.entry((key, value)).or_default().push(server);
            }
        }
    }
    if settings.by.is_empty() {
        let shared = groups.iter().filter(|(_, servers)| servers.len() > 1);
        let shared: BTreeSet<&str> = shared.map(|((key, _), _)| *key).collect();
        groups.retain(|(key, _), _| shared.contains(key));
    }
    groups
}
