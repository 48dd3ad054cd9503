//! What waited, what was refused and what was stolen: that justifies an upgrade, not utilization. Pure.

use super::columns::{count, figure, key, number, percentiles, section, table, text};
use super::input::{Input, Server};
use crate::report::document::{Block, Section, Unit, Value};
use crate::report::settings::Settings;

/// Signs of saturation of every server, and stolen time.
pub(super) fn saturation(input: &Input, settings: &Settings) -> Section {
    section(
        ("saturation", "Saturation"),
        &[
            "Waiting, not use, is what visitors feel. A server whose processors are busy and where nothing \
           waits has what it needs.",
        ],
        vec![waiting(input, settings), steal(input, settings)],
    )
}

fn waiting(input: &Input, settings: &Settings) -> Block {
    let limit = settings.limits.pressure;
    let mut rows = Vec::new();
    for server in input.servers.values().filter(|server| server.seen.n() > 0) {
        let view = |metric| server.plain(metric).map(|series| series.parts.plain());
        let above = |metric| number(view(metric).and_then(|view| view.share_above(limit)));
        let p95 = |metric| number(view(metric).and_then(|view| view.quantile(0.95)));
        let queue = server.plain("system.processes.running");
        let memory = memory_pressure(server);
        rows.push(vec![
            text(&server.name),
            above("system.pressure.cpu"),
            above(memory),
            above("system.pressure.io"),
            p95("system.pressure.cpu"),
            p95(memory),
            p95("system.pressure.io"),
            number(queue.and_then(|series| series.parts.shares().quantile(0.95))),
            p95("system.processes.blocked"),
            rise(server, "system.tcp.listen_overflows"),
            rise(server, "system.tcp.listen_drops"),
            count(oom_kills(server)),
            p95("container.cpu.throttled"),
        ]);
    }
    let share = |key, title, definition| figure(key, title, Unit::Share, definition);
    let waited = "Share of the minutes in which something waited for it for more than the limit of \
                  pressure of the time (PSI `some`); minutes less than 2.1 % above it may be left out.";
    let p95 =
        "95 of 100 minutes had a smaller share of time in which something waited (PSI `some`).";
    let columns = vec![
        key("server", "server", "Name of the server."),
        share("cpu_waited_share", "CPU waited", waited),
        share("memory_waited_share", "memory waited", waited),
        share("io_waited_share", "disk waited", waited),
        share("cpu_pressure_p95_share", "CPU pressure p95", p95),
        share("memory_pressure_p95_share", "memory pressure p95", p95),
        share("io_pressure_p95_share", "disk pressure p95", p95),
        figure(
            "run_queue_p95",
            "run queue p95",
            Unit::Number,
            "Threads that run or wait to, by processor: 95 of 100 minutes had less. Above 1 they wait.",
        ),
        figure(
            "blocked_p95",
            "blocked p95",
            Unit::Number,
            "Threads that wait for a disk: 95 of 100 minutes had less.",
        ),
        figure(
            "listen_overflows",
            "listen overflows",
            Unit::Count,
            "Connections refused because the queue of a listening socket was full.",
        ),
        figure("listen_drops", "listen drops", Unit::Count, "Connections that a listener dropped."),
        figure(
            "oom_kills",
            "OOM kills",
            Unit::Count,
            "How often the kernel killed for want of memory.",
        ),
        share(
            "throttled_p95_share",
            "throttled p95",
            "In a container: share of the scheduler's periods in which it was stopped; 95 of 100 minutes \
             had less.",
        ),
    ];
    table(("saturation", "Signs of saturation"), columns, rows, "Nothing was sampled.")
}

fn steal(input: &Input, settings: &Settings) -> Block {
    let limit = settings.limits.steal;
    let mut found = Vec::new();
    for server in input.servers.values() {
        let Some(series) = server.plain("system.cpu.steal") else { continue };
        let view = series.parts.plain();
        let label = |key: &str| text(server.labels.get(key).map_or("", String::as_str));
        let mut row = vec![text(&server.name), label("provider"), label("hypervisor")];
        row.extend(percentiles(&view));
        row.extend([number(view.share_above(limit)), count(view.n_above(limit))]);
        found.push((view.n_above(limit), row));
    }
    found.sort_by_key(|(above, _)| std::cmp::Reverse(*above));
    let share = |key, title, definition| figure(key, title, Unit::Share, definition);
    let columns = vec![
        key("server", "server", "Name of the server."),
        figure("provider", "provider", Unit::Text, "Its label `provider`."),
        figure("hypervisor", "hypervisor", Unit::Text, "Its label `hypervisor`."),
        share(
            "p50_share",
            "p50",
            "Half of the minutes had less stolen processor time; within 1 %.",
        ),
        share("p95_share", "p95", "95 of 100 minutes had less; within 1 %."),
        share("p99_share", "p99", "99 of 100 minutes had less; within 1 %."),
        share("max_share", "max", "The largest single sample."),
        share(
            "above_share",
            "time above limit",
            "Share of the minutes in which more was stolen than the limit of steal; minutes less than \
             2.1 % above it may be left out.",
        ),
        figure("above_minutes", "minutes above limit", Unit::Minutes, "These minutes."),
    ];
    let rows = found.into_iter().map(|(_, row)| row).collect();
    let title = "Stolen time: what the host gave to others";
    table(("steal", title), columns, rows, "No stolen time was sampled.")
}

/// The metric of memory pressure that a server has: of any task, else of all at once.
pub(super) fn memory_pressure(server: &Server) -> &'static str {
    let some = "system.pressure.memory.some";
    if server.plain(some).is_some() { some } else { "system.pressure.memory" }
}

/// How often the kernel killed for want of memory, as the machine or its container counts.
pub(super) fn oom_kills(server: &Server) -> Option<u64> {
    let metrics = ["system.oom_kills", "container.memory.oom_kills"];
    let kills = metrics.iter().filter_map(|metric| server.plain(metric));
    kills.map(|series| series.rise.max(0.0).round() as u64).max()
}

fn rise(server: &Server, metric: &'static str) -> Value {
    count(server.plain(metric).map(|series| series.rise.max(0.0).round() as u64))
}
