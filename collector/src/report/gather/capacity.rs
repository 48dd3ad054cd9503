//! Reads what a capacity report is made of: metric by metric, so that memory is bounded by servers and
//! series, never by samples.

mod errors;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use wire::catalog;

use super::Members;
use crate::model::ServerId;
use crate::report::ask::{Ask, Progress};
use crate::report::capacity::input::{HOUR_S, Input, Seen, Series, Server};
use crate::store::ReadResult;
use crate::store::history::{History, HourOf, Spread};
use errors::HeldHours;

/// Days of which the largest sample is kept by itself: a month and some, so that one of each is in it.
const RECENT_S: i64 = 35 * 86_400;

/// Seconds of a day.
const DAY_S: i64 = 86_400;
/// Days of a series that are put together at once: hours come in order of time, but for those that are
/// not summed up yet.
const DAYS_OPEN_MAX: usize = 4;

/// A metric that is read, and what is kept of it.
struct Wanted {
    metric: &'static str,
    /// The metric that says how much there is of what it measures.
    size: Option<&'static str>,
    /// Whether the means of its hours are kept, and what its days were.
    kept: (bool, bool),
}

const fn plain(metric: &'static str) -> Wanted {
    Wanted { metric, size: None, kept: (false, false) }
}

const fn sized(metric: &'static str, size: &'static str) -> Wanted {
    Wanted { metric, size: Some(size), kept: (false, false) }
}

/// All that is read, sizes before what is measured by them.
const WANTED: [Wanted; 45] = [
    plain("system.cpu.logical.count"),
    plain("container.cpu.limit"),
    plain("system.memory.limit"),
    plain("phpfpm.max_children"),
    plain("db.client.connections.limit"),
    plain("haproxy.connections.limit"),
    plain("haproxy.sessions.limit"),
    Wanted {
        metric: "system.cpu.utilization",
        size: Some("system.cpu.logical.count"),
        kept: (true, true),
    },
    Wanted {
        metric: "system.memory.utilization",
        size: Some("system.memory.limit"),
        kept: (true, true),
    },
    plain("system.memory.available"),
    plain("system.swap.utilization"),
    Wanted { metric: "system.filesystem.utilization", size: None, kept: (false, true) },
    plain("system.filesystem.free"),
    Wanted { metric: "system.filesystem.inodes.utilization", size: None, kept: (false, true) },
    plain("system.disk.io_time"),
    plain("system.disk.io.read"),
    plain("system.disk.io.write"),
    plain("system.network.io.receive"),
    plain("system.network.io.transmit"),
    plain("system.cpu.steal"),
    plain("system.cpu.iowait"),
    plain("system.pressure.cpu"),
    plain("system.pressure.memory"),
    plain("system.pressure.memory.some"),
    plain("system.pressure.io"),
    sized("system.processes.running", "system.cpu.logical.count"),
    plain("system.processes.blocked"),
    plain("system.tcp.listen_overflows"),
    plain("system.tcp.listen_drops"),
    plain("system.tcp.established"),
    plain("system.conntrack.utilization"),
    plain("system.oom_kills"),
    plain("container.memory.oom_kills"),
    plain("container.cpu.throttled"),
    sized("phpfpm.active_processes", "phpfpm.max_children"),
    plain("phpfpm.listen_queue"),
    plain("phpfpm.max_children_reached"),
    plain("phpfpm.total_processes"),
    plain("phpfpm.memory_per_process"),
    sized("db.client.connections.usage", "db.client.connections.limit"),
    sized("haproxy.connections.count", "haproxy.connections.limit"),
    sized("haproxy.sessions.count", "haproxy.sessions.limit"),
    plain("haproxy.requests.queued"),
    plain("nginx.connections_current"),
    plain("apache.workers"),
];

/// Steps beside the metrics: sites and minutes with errors.
const STEPS_BESIDE: u64 = 2;

/// Whole hours of a report: rounded outward.
#[must_use]
pub fn hours(ask: &Ask) -> Range<i64> {
    let (from, to) = (ask.from.second(), ask.to.0.saturating_add(999).div_euclid(1000));
    let end = to.saturating_add(HOUR_S - 1).div_euclid(HOUR_S).saturating_mul(HOUR_S);
    let start = from.div_euclid(HOUR_S).saturating_mul(HOUR_S);
    start..end.max(start)
}

/// Reads everything. What is missing or damaged is noted beside the answer; what is cut is there until then.
pub fn capacity(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    progress: &mut dyn FnMut(Progress),
) -> ReadResult<Input> {
    let hours = hours(ask);
    let mut servers = BTreeMap::new();
    for (id, member) in members {
        let (name, labels) = (member.name.clone(), member.labels.clone());
        servers.insert(*id, Server { name, labels, ..Server::default() });
    }
    let mut input = Input { hours, raw_from: None, servers };
    let span = Span::new(&input.hours);
    let n = WANTED.len() as u64 + STEPS_BESIDE;
    progress(Progress { what: "reads sites", n_done: 0, n });
    let bad = sites::read(history, &mut input)?;
    let raw_from = history.samples_from()?;
    input.raw_from = (raw_from > span.start).then_some(raw_from);
    let mut pass = Pass { span, sizes: BTreeMap::new(), held: HeldHours::new(&bad) };
    for (step, wanted) in (1..).zip(&WANTED) {
        if !history.goes_on() {
            return Ok(input);
        }
        progress(Progress { what: wanted.metric, n_done: step, n });
        pass.read(history, wanted, &mut input)?;
    }
    progress(Progress { what: "reads minutes with errors", n_done: n - 1, n });
    let children = pass.sizes.get("phpfpm.max_children");
    errors::read(history, raw_from, &pass.held, children, &mut input)?;
    progress(Progress { what: "done", n_done: n, n });
    Ok(input)
}

/// What was found of one metric by server. Hours of one server come together: who came last is known.
#[derive(Default)]
struct Found {
    last: Option<(ServerId, usize)>,
    index: BTreeMap<ServerId, usize>,
    all: Vec<(ServerId, OfServer)>,
}

impl Found {
    fn of(&mut self, server: ServerId) -> &mut OfServer {
        let at = match self.last {
            Some((last, at)) if last == server => at,
            _ => *self.index.entry(server).or_insert_with(|| {
                self.all.push((server, OfServer::default()));
                self.all.len() - 1
            }),
        };
        self.last = Some((server, at));
        &mut self.all[at].1
    }
}

/// A series while its hours come.
struct Building {
    series: Series,
    /// Days of which hours may come still, by size: they come about in order.
    open: BTreeMap<usize, Vec<(f64, Spread)>>,
}

/// What was found of one metric on one server.
#[derive(Default)]
struct OfServer {
    seen: Seen,
    series: BTreeMap<Box<str>, Building>,
}

/// What goes from one metric to the next.
struct Pass {
    span: Span,
    /// How much there was, by the metric that says so.
    sizes: BTreeMap<&'static str, Sizes>,
    held: HeldHours,
}

impl Pass {
    fn read(
        &mut self,
        history: &History<'_>,
        wanted: &Wanted,
        input: &mut Input,
    ) -> ReadResult<()> {
        let Some(metric) = catalog::find(wanted.metric) else { return Ok(()) };
        let Self { span, sizes, held } = self;
        let is_size = WANTED.iter().any(|other| other.size == Some(wanted.metric));
        let mut as_size = Sizes::default();
        let mut found = Found::default();
        let of_size = wanted.size.and_then(|size| sizes.get(size));
        let servers = input.servers.keys().copied().collect();
        history.hourly(metric, &servers, &input.hours, &mut |hour: HourOf<'_>| {
            let Ok(ix) = usize::try_from((hour.t0 - span.start) / HOUR_S) else { return };
            if is_size {
                as_size.add(&hour);
            }
            let size = match (wanted.size, of_size) {
                (None, _) => 1.0,
                (Some(_), sizes) => sizes
                    .and_then(|sizes| sizes.of(hour.server, hour.attribute, hour.t0))
                    .unwrap_or(0.0),
            };
            held.see(wanted.metric, &hour, size);
            let of_server = found.of(hour.server);
            of_server.seen.add(ix);
            let series = &mut of_server.series;
            if let Some(known) = series.get_mut(hour.attribute) {
                known.add(span, ix, size, &hour);
            } else {
                let mut building = Building::new(wanted, span);
                building.add(span, ix, size, &hour);
                series.insert(hour.attribute.into(), building);
            }
        })?;
        if is_size {
            sizes.insert(wanted.metric, as_size);
        }
        for (server, of_server) in found.all {
            let Some(server) = input.servers.get_mut(&server) else { continue };
            server.seen.merge(&of_server.seen);
            for (attribute, building) in of_server.series {
                server.series.insert((wanted.metric, attribute), building.done());
            }
        }
        Ok(())
    }
}

/// The time of a report in hours and UTC days.
struct Span {
    start: i64,
    recent_from: i64,
    n_hours: usize,
    n_days: usize,
}

impl Span {
    fn new(hours: &Range<i64>) -> Self {
        let n = |seconds: i64| usize::try_from(seconds).unwrap_or(0);
        let n_hours = n((hours.end - hours.start) / HOUR_S);
        let last_day = (hours.end - 1).div_euclid(DAY_S);
        let n_days = n(last_day - hours.start.div_euclid(DAY_S) + 1);
        Self { start: hours.start, recent_from: hours.end - RECENT_S, n_hours, n_days }
    }

    fn day(&self, t0: i64) -> usize {
        let days = t0.div_euclid(DAY_S) - self.start.div_euclid(DAY_S);
        usize::try_from(days).unwrap_or(0)
    }
}

impl Building {
    fn new(wanted: &Wanted, span: &Span) -> Self {
        let n_hours = if wanted.kept.0 { span.n_hours } else { 0 };
        let n_days = if wanted.kept.1 { span.n_days } else { 0 };
        Self { series: Series::new(n_hours, n_days), open: BTreeMap::new() }
    }

    fn add(&mut self, span: &Span, ix: usize, size: f64, hour: &HourOf<'_>) {
        self.series.add((hour.t0, ix), size, hour.spread, hour.t0 >= span.recent_from);
        if self.series.day_p95.is_empty() {
            self.series.parts.add(size, hour.spread);
            return;
        }
        let of_day = self.open.entry(span.day(hour.t0)).or_default();
        match of_day.iter_mut().find(|(of, _)| of.to_bits() == size.to_bits()) {
            Some((_, known)) => known.merge(hour.spread),
            None => of_day.push((size, hour.spread.clone())),
        }
        while self.open.len() > DAYS_OPEN_MAX {
            let Some((day, of_day)) = self.open.pop_first() else { break };
            self.series.add_day(day, of_day);
        }
    }

    fn done(mut self) -> Series {
        for (day, of_day) in std::mem::take(&mut self.open) {
            self.series.add_day(day, of_day);
        }
        self.series
    }
}

/// How much there was of something, hour by hour, in runs of the same size.
#[derive(Default)]
struct Sizes(BTreeMap<ServerId, BTreeMap<Box<str>, Vec<Run>>>);

#[derive(Clone, Copy, Debug)]
struct Run {
    /// First second of its first hour, and of the hour after its last.
    hours: (i64, i64),
    size: f64,
}

impl Sizes {
    fn add(&mut self, hour: &HourOf<'_>) {
        let of_server = self.0.entry(hour.server).or_default();
        if !of_server.contains_key(hour.attribute) {
            of_server.insert(hour.attribute.into(), Vec::new());
        }
        let Some(runs) = of_server.get_mut(hour.attribute) else { return };
        let size = hour.spread.max();
        match runs.last_mut().filter(|run| run.size == size && run.hours.1 == hour.t0) {
            Some(run) => run.hours.1 += HOUR_S,
            None => runs.push(Run { hours: (hour.t0, hour.t0 + HOUR_S), size }),
        }
    }

    /// The size at a time: as it was said last before, else as it was said first. Where it changed within
    /// an hour, the larger one holds for all of it.
    fn of(&self, server: ServerId, attribute: &str, at: i64) -> Option<f64> {
        let runs = self.0.get(&server)?.get(attribute)?;
        let before = runs.iter().filter(|run| run.hours.0 <= at);
        let run = before.max_by_key(|run| run.hours.0);
        run.or_else(|| runs.iter().min_by_key(|run| run.hours.0)).map(|run| run.size)
    }
}
