//! PHP-FPM pools: how busy their children were, and how many fit. Pure.

use super::columns::{count, figure, key, number, section, table, text};
use super::input::{Input, Server};
use crate::report::document::{Column, Section, Unit, Value};
use crate::report::settings::Settings;

/// Share of a server's memory that is left free when children are added.
const RESERVE: f64 = 0.1;
/// What is added to what was wanted at the worst.
const SPARE: f64 = 1.2;

/// One pool in figures.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pool<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// `pm.max_children` today.
    pub(super) max_children: Option<f64>,
    /// Busy children: half of the minutes are below, 95, 99 of 100 are, and most.
    pub(super) busy: [Option<f64>; 4],
    /// Share of the minutes in which more of them were busy than the limit.
    pub(super) above: Option<f64>,
    /// Minutes in which somebody waited for a child.
    pub(super) n_waiting: Option<u64>,
    /// Who waited: 99 of 100 minutes had fewer.
    pub(super) queue_p99: Option<f64>,
    /// How often all children were busy while somebody waited.
    pub(super) n_exhausted: Option<u64>,
    /// Memory of a child, bytes: 95 of 100 minutes had less.
    pub(super) child_bytes: Option<f64>,
    /// Children that ran: 95 of 100 minutes had fewer.
    pub(super) n_running: Option<f64>,
    /// Children for which there would be memory.
    pub(super) n_fit: Option<f64>,
    /// What `pm.max_children` should be; `None`: as it is.
    pub(super) raise_to: Option<f64>,
}

/// The pools of a server, the ones with most waiting first when they ask for memory.
pub(super) fn of(server: &Server, limit: f64) -> Vec<Pool<'_>> {
    let mut free = free(server);
    let mut pools: Vec<Pool<'_>> = server
        .all("phpfpm.max_children")
        .map(|(name, _)| name)
        .chain(server.all("phpfpm.active_processes").map(|(name, _)| name))
        .collect::<std::collections::BTreeSet<&str>>()
        .into_iter()
        .map(|name| pool(server, name, (limit, free)))
        .collect();
    let mut order: Vec<usize> = (0..pools.len()).collect();
    order.sort_by_key(|ix| std::cmp::Reverse(pools[*ix].n_waiting));
    for ix in order {
        let pool = &mut pools[ix];
        pool.raise_to = raised(pool, free);
        // What one pool gets the next one cannot have.
        let more = pool.raise_to.zip(pool.max_children).map(|(to, from)| to - from);
        if let (Some(more), Some(each), Some(left)) = (more, pool.child_bytes, free) {
            free = Some((left - more * each).max(0.0));
        }
    }
    pools
}

/// Memory that children could have at the time when least was free, bytes.
fn free(server: &Server) -> Option<f64> {
    let available = server.plain("system.memory.available")?.parts.plain().quantile(0.05)?;
    Some((available - RESERVE * server.memory()?).max(0.0))
}

fn pool<'a>(server: &'a Server, name: &'a str, (limit, free): (f64, Option<f64>)) -> Pool<'a> {
    let view = |metric| server.one(metric, name).map(|series| series.parts.plain());
    let at = |metric, q| view(metric).and_then(|view| view.quantile(q));
    let busy = "phpfpm.active_processes";
    let shares = server.one(busy, name).map(|series| series.parts.shares());
    let child_bytes = at("phpfpm.memory_per_process", 0.95).filter(|bytes| *bytes > 0.0);
    let n_running = at("phpfpm.total_processes", 0.95);
    let more = free.zip(child_bytes).map(|(free, each)| (free / each).floor());
    Pool {
        name,
        max_children: server.one("phpfpm.max_children", name).map(|series| series.last.1.round()),
        busy: [
            at(busy, 0.5),
            at(busy, 0.95),
            at(busy, 0.99),
            view(busy).and_then(|view| view.max()),
        ],
        above: shares.and_then(|shares| shares.share_above(limit)),
        n_waiting: view("phpfpm.listen_queue").and_then(|view| view.n_above(0.0)),
        queue_p99: at("phpfpm.listen_queue", 0.99),
        n_exhausted: server
            .one("phpfpm.max_children_reached", name)
            .map(|series| series.rise.max(0.0).round() as u64),
        child_bytes,
        n_running,
        n_fit: n_running.zip(more).map(|(running, more)| running.floor() + more),
        raise_to: None,
    }
}

/// What `pm.max_children` should be: room for who waited, as far as there is memory.
fn raised(pool: &Pool<'_>, free: Option<f64>) -> Option<f64> {
    if pool.n_waiting.unwrap_or(0) == 0 || pool.n_exhausted.unwrap_or(0) == 0 {
        return None;
    }
    let (max_children, each) = (pool.max_children?, pool.child_bytes?);
    let wanted = ((max_children + pool.queue_p99.unwrap_or(0.0)) * SPARE).ceil();
    // Children that may run already but did not when memory was least free are paid for, too.
    let running = pool.n_running.unwrap_or(0.0).min(max_children);
    let fit = running + free? / each;
    let to = wanted.max(max_children + 1.0).min(fit.floor());
    (to > max_children).then_some(to)
}

/// The table of all pools.
pub(super) fn section_of(input: &Input, settings: &Settings) -> Section {
    let mut rows = Vec::new();
    for server in input.servers.values() {
        for pool in of(server, settings.limits.children) {
            let raise = pool.raise_to.map_or(Value::Unknown("no need, or no room"), Value::Number);
            let mut row = vec![text(&server.name), text(pool.name), number(pool.max_children)];
            row.extend(pool.busy.map(number));
            row.extend([
                number(pool.above),
                count(pool.n_waiting),
                count(pool.n_exhausted),
                number(pool.n_running),
                number(pool.child_bytes),
                number(pool.n_fit),
                raise,
                Value::Count(server.exhausted.get(pool.name).copied().unwrap_or(0)),
            ]);
            rows.push(row);
        }
    }
    let title = ("pools", "PHP-FPM pools");
    section(title, &[], vec![table(title, columns(), rows, "No PHP-FPM pool was sampled.")])
}

fn columns() -> Vec<Column> {
    let n = |key, title, definition| figure(key, title, Unit::Number, definition);
    vec![
        key("server", "server", "Name of the server."),
        key("pool", "pool", "Name of the pool."),
        n("max_children", "max_children", "`pm.max_children` in the newest hour it was told."),
        n(
            "busy_p50",
            "busy p50",
            "Busy children: half of the one-minute means are below; within 1 %.",
        ),
        n("busy_p95", "busy p95", "95 of 100 one-minute means are below; within 1 %."),
        n("busy_p99", "busy p99", "99 of 100 one-minute means are below; within 1 %."),
        n("busy_max", "busy max", "The largest single sample."),
        figure(
            "above_share",
            "time above limit",
            Unit::Share,
            "Share of the sampled minutes in which more children of the pm.max_children of then were busy \
             than the limit of children. A pool at rest is sampled rarely: the share is of its \
             busier time. Minutes less than 2.1 % above it may be left out.",
        ),
        figure(
            "waiting_minutes",
            "minutes waiting",
            Unit::Minutes,
            "Minutes in which requests waited for a child: the mean of the listen queue was above 0.",
        ),
        figure(
            "exhausted_times",
            "times exhausted",
            Unit::Count,
            "How often all children became busy while a request waited.",
        ),
        n(
            "running_p95",
            "running p95",
            "Children that ran: 95 of 100 minutes had fewer; within 1 %.",
        ),
        figure(
            "child_bytes",
            "memory a child",
            Unit::Bytes,
            "Own memory of a child on average: 95 of 100 minutes had less; within 1 %.",
        ),
        n(
            "children_fit",
            "children that fit",
            "Children that ran (p95), and those that fit into the memory that was available in all but \
             the fullest 5 of 100 minutes, less a tenth of all memory.",
        ),
        n(
            "raise_to",
            "raise to",
            "What pm.max_children could be: 1.2 times pm.max_children and the queue (p99), as far as the \
             memory reaches; memory is given to the pool with most waiting first. Only where a pool was \
             exhausted.",
        ),
        figure(
            "error_minutes",
            "error minutes exhausted",
            Unit::Minutes,
            "Minutes with a gateway error in which all children of this pool were busy, memory was free \
             and nothing was stolen.",
        ),
    ]
}
