//! Every server on one line: what it has, how full it was, how it fared. Pure.

use super::columns::{figure, key, number, section, table, text};
use super::input::{Input, Server};
use super::parts::View;
use super::usage::Resource;
use crate::report::document::{Column, Section, Unit, Value};
use crate::report::settings::Settings;

/// The table of servers.
pub(super) fn section_of(input: &Input, settings: &Settings) -> Section {
    let rows = input.servers.values().map(|server| row(server, settings)).collect();
    let title = ("servers", "Servers at a glance");
    section(
        ("servers", "Servers"),
        &[],
        vec![table(title, columns(), rows, "There is no such server.")],
    )
}

/// The fullest of its kind on a server by its p95: its name and minutes.
pub(super) fn fullest<'a>(server: &'a Server, name: &str) -> Option<(&'a str, View<'a>)> {
    let resource = Resource::named(name);
    let p95 = |view: &View<'_>| view.quantile(0.95).unwrap_or(-1.0);
    let all = server.all(resource.metric).map(|(of, series)| (of, resource.view(series)));
    all.max_by(|a, b| p95(&a.1).total_cmp(&p95(&b.1)))
}

fn row(server: &Server, settings: &Settings) -> Vec<Value> {
    let figure =
        |name: &str, q| number(fullest(server, name).and_then(|(_, view)| view.quantile(q)));
    let above = |name: &str| {
        let limit = (Resource::named(name).limit)(&settings.limits);
        number(fullest(server, name).and_then(|(_, view)| view.share_above(limit)))
    };
    let steal = server.plain("system.cpu.steal").map(|series| series.parts.plain());
    let spark = server.plain("system.cpu.utilization").map(|series| {
        let known = |p95: &f32| (!p95.is_nan()).then(|| f64::from(*p95));
        Value::Spark(series.day_p95.iter().map(known).collect())
    });
    vec![
        text(&server.name),
        number(server.vcpu()),
        number(server.memory()),
        number(server.disk()),
        Value::Number(server.n_days()),
        number(server.coverage()),
        spark.unwrap_or(Value::Unknown("not sampled")),
        figure("cpu", 0.5),
        figure("cpu", 0.95),
        figure("cpu", 0.99),
        above("cpu"),
        figure("memory", 0.95),
        above("memory"),
        figure("swap", 0.95),
        figure("disk", 0.95),
        figure("io", 0.95),
        number(steal.and_then(|steal| steal.quantile(0.95))),
        Value::Count(server.errors.n),
    ]
}

fn columns() -> Vec<Column> {
    let share = |key, title, definition| figure(key, title, Unit::Share, definition);
    let p95 = "95 of 100 one-minute means are below; within 1 % of the value.";
    let above = "Share of the minutes whose mean is above the limit; minutes less than 2.1 % above it may \
                 be left out.";
    let of_fullest =
        "Of the fullest: 95 of 100 one-minute means are below; within 1 % of the value.";
    vec![
        key("server", "server", "Name of the server."),
        figure(
            "vcpu",
            "vCPU",
            Unit::Number,
            "Processors, or the limit of its container, in the newest hour.",
        ),
        figure("memory_bytes", "memory", Unit::Bytes, "Memory, or the limit of its container."),
        figure(
            "disk_bytes",
            "disk",
            Unit::Bytes,
            "Space of all its file systems that everybody may use: free by the share that is free.",
        ),
        figure("days", "days", Unit::Days, "From its first to its last hour with samples."),
        share("coverage_share", "covered", "Share of the hours of those days that have samples."),
        figure("cpu_spark", "CPU by day", Unit::Spark, "p95 of busy processors of each UTC day."),
        share("cpu_p50_share", "CPU p50", "Half of the one-minute means are below; within 1 %."),
        share("cpu_p95_share", "CPU p95", p95),
        share("cpu_p99_share", "CPU p99", "99 of 100 one-minute means are below; within 1 %."),
        share("cpu_above_share", "CPU above", above),
        share("memory_p95_share", "memory p95", p95),
        share("memory_above_share", "memory above", above),
        share("swap_p95_share", "swap p95", p95),
        share("disk_p95_share", "disk p95", of_fullest),
        share("io_p95_share", "IO p95", of_fullest),
        share("steal_p95_share", "steal p95", p95),
        figure(
            "error_minutes",
            "error minutes",
            Unit::Minutes,
            "Minutes in which a site of it answered 502, 503 or 504.",
        ),
    ]
}
